//! `tracing` to stderr, a file or syslog. INFO and above always; DEBUG and TRACE by the debug
//! channels, which the console switches while the program runs.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use magma_actors::debug::{self, DebugFilter, Mask};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Where the log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To the terminal, or whoever started the program.
    Stderr,
    /// To a file, at its end.
    File(PathBuf),
    /// To syslog, under this name; nowhere when there is no syslog.
    Syslog(String),
}

/// Begins logging. Call once; a second call changes nothing but the channels.
pub fn init(target: Target, channels: Mask) -> io::Result<()> {
    match target {
        Target::Stderr => {
            // An error says that there is a log already.
            let _ = debug::install(channels);
        }
        Target::File(path) => {
            let layer = fmt::layer().with_ansi(false);
            let layer = layer.with_writer(Mutex::new(open(&path)?));
            let filter = DebugFilter::new(debug::switch());
            let _ = tracing_subscriber::registry()
                .with(filter)
                .with(layer)
                .try_init();
        }
        Target::Syslog(name) => {
            let syslog = Syslog::connect(name).ok().map(Arc::new);
            // Syslog has its own dates.
            let layer = fmt::layer().with_ansi(false).without_time();
            let layer = layer.with_writer(move || SyslogLine::new(syslog.clone()));
            let filter = DebugFilter::new(debug::switch());
            let _ = tracing_subscriber::registry()
                .with(filter)
                .with(layer)
                .try_init();
        }
    }
    debug::switch().open(channels);
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// A connection to the local syslog daemon (RFC 3164 over `/dev/log`).
struct Syslog {
    socket: UnixDatagram,
    tag: String,
}

impl Syslog {
    fn connect(name: String) -> io::Result<Syslog> {
        let socket = UnixDatagram::unbound()?;
        socket.connect("/dev/log")?;
        // A syslog daemon that hangs must not hang a file system.
        socket.set_nonblocking(true)?;
        // Facility daemon (3), severity info (6).
        let tag = format!("<{}>{name}[{}]: ", 3 * 8 + 6, std::process::id());
        Ok(Syslog { socket, tag })
    }
}

/// One event on its way to syslog: sent as one datagram when it is complete.
struct SyslogLine {
    syslog: Option<Arc<Syslog>>,
    line: Vec<u8>,
}

impl SyslogLine {
    fn new(syslog: Option<Arc<Syslog>>) -> SyslogLine {
        let line = syslog
            .as_ref()
            .map_or_else(Vec::new, |syslog| syslog.tag.clone().into_bytes());
        SyslogLine { syslog, line }
    }
}

impl Write for SyslogLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for SyslogLine {
    fn drop(&mut self) {
        if let Some(syslog) = &self.syslog {
            let _ = syslog.socket.send(self.line.trim_ascii_end());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syslog_line_has_its_name_in_front() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let syslog = Arc::new(Syslog {
            socket: ours,
            tag: "<30>mount.magma[1]: ".to_owned(),
        });
        let mut line = SyslogLine::new(Some(syslog));
        line.write_all(b"hello ").unwrap();
        line.write_all(b"world\n").unwrap();
        drop(line);
        let mut text = [0; 64];
        let len = theirs.recv(&mut text).unwrap();
        assert_eq!(&text[..len], b"<30>mount.magma[1]: hello world");
    }
}
