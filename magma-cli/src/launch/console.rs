//! The console of a volcano, as telnet sees it: lines in, text out, a prompt in between.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::LaunchError;

/// How long the console may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Most bytes of one answer.
const ANSWER_MAX: usize = 16 * 1024 * 1024;

/// A connection to a console.
#[derive(Debug)]
pub struct ConsoleClient {
    addr: SocketAddr,
    stream: TcpStream,
}

/// What the console writes when it wants a confirmation.
const ASKED_BACK: &str = "Type yes to go on: ";

/// Whether a text ends with a prompt, as in `MAGMA [wallace]:/> `.
fn ends_with_prompt(text: &[u8]) -> bool {
    let from = text
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |at| at + 1);
    let line = &text[from..];
    (line.starts_with(b"MAGMA [") && line.ends_with(b"> ")) || line == ASKED_BACK.as_bytes()
}

impl ConsoleClient {
    /// Connects and reads the greeting up to the first prompt.
    pub fn connect(addr: SocketAddr) -> Result<(ConsoleClient, String), LaunchError> {
        let failed = |source| LaunchError::Console { addr, source };
        let stream = TcpStream::connect_timeout(&addr, ANSWER_LIMIT).map_err(failed)?;
        stream
            .set_write_timeout(Some(ANSWER_LIMIT))
            .map_err(failed)?;
        let mut client = ConsoleClient { addr, stream };
        let (greeting, _) = client.read().map_err(failed)?;
        Ok((client, greeting))
    }

    /// Sends a line and returns what is shown up to the next prompt, without that prompt.
    pub fn command(&mut self, line: &str) -> Result<String, LaunchError> {
        let (text, closed) = self.exchange(line)?;
        if closed {
            return Err(LaunchError::Console {
                addr: self.addr,
                source: io::Error::from(io::ErrorKind::UnexpectedEof),
            });
        }
        let end = text.rfind('\n').map_or(0, |at| at + 1);
        Ok(text[..end].to_owned())
    }

    /// Sends a line that the console asks back about, and what to answer. Returns all that is shown;
    /// where nothing is asked the answer is not sent.
    pub fn ask_back(&mut self, line: &str, answer: &str) -> Result<String, LaunchError> {
        let (mut text, _) = self.exchange(line)?;
        if text.ends_with(ASKED_BACK) {
            text += &self.exchange(answer)?.0;
        }
        Ok(text)
    }

    /// Sends a line that ends the connection (`shutdown`, `quit`) and returns what is shown
    /// until then.
    pub fn last_command(mut self, line: &str) -> Result<String, LaunchError> {
        let (text, closed) = self.exchange(line)?;
        if closed {
            return Ok(text);
        }
        // A prompt came first: the end may still be on its way.
        let (rest, _) = self.read().map_err(|source| LaunchError::Console {
            addr: self.addr,
            source,
        })?;
        Ok(text + &rest)
    }

    fn exchange(&mut self, line: &str) -> Result<(String, bool), LaunchError> {
        let addr = self.addr;
        let failed = |source| LaunchError::Console { addr, source };
        // As telnet does it.
        let line = format!("{line}\r\n");
        self.stream.write_all(line.as_bytes()).map_err(failed)?;
        self.read().map_err(failed)
    }

    /// Reads up to a prompt or the end of the connection; says whether it was the end.
    fn read(&mut self) -> io::Result<(String, bool)> {
        let begin = Instant::now();
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        let mut closed = false;
        while !ends_with_prompt(&text) {
            let left = ANSWER_LIMIT.saturating_sub(begin.elapsed());
            if left.is_zero() || text.len() > ANSWER_MAX {
                let shown = String::from_utf8_lossy(&text).into_owned();
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no prompt, only {shown:?}"),
                ));
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut buffer) {
                Ok(0) => closed = true,
                Ok(len) => text.extend_from_slice(&buffer[..len]),
                // A process that exits with unread input resets the connection.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => closed = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if closed {
                break;
            }
        }
        let text = String::from_utf8_lossy(&text).replace('\r', "");
        Ok((text, closed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn talks_like_telnet() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"Welcome\r\n\r\nMAGMA [w]:/> ").unwrap();
            let mut line = [0; 6];
            stream.read_exact(&mut line).unwrap();
            assert_eq!(&line, b"help\r\n");
            stream.write_all(b"a > b\r\nMAGMA [w]").unwrap();
            stream.write_all(b":/a b> ").unwrap();
            let mut line = [0; 10];
            stream.read_exact(&mut line).unwrap();
            assert_eq!(&line, b"shutdown\r\n");
            stream.write_all(b"Shutting down magma... ").unwrap();
        });
        let (mut client, greeting) = ConsoleClient::connect(addr).unwrap();
        assert_eq!(greeting, "Welcome\n\nMAGMA [w]:/> ");
        assert_eq!(client.command("help").unwrap(), "a > b\n");
        let end = client.last_command("shutdown").unwrap();
        assert_eq!(end, "Shutting down magma... ");
        server.join().unwrap();
    }
}
