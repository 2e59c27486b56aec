//! One session: reads lines, runs commands one after the other, writes what they say.
//!
//! While a command runs the session goes on reading, up to [`CONSOLE_TYPE_AHEAD`] lines, so
//! that Ctrl-C is seen. A peer that does not read makes its own session wait and nobody else.

use std::any::Any;
use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use magma_core::flare::path::FlarePath;
use magma_core::limits::{CONSOLE_IDLE_MS, CONSOLE_LINE_MAX, CONSOLE_TYPE_AHEAD};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::codec::FramedRead;

use super::backend::{Backend, Intervention};
use super::commands::{CommandError, Flow, Shell};
use super::output::{Output, OutputError};
use super::parser::{self, Command};
use super::render;
use super::telnet::{Input, TIMING_MARK_ANSWER, TelnetDecoder, TelnetError};
use crate::supervision::fault::panic_text;

/// How long, and for how many bytes, a closed session listens to what is still on its way.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: u64 = 64 * 1024;
/// Answers about options that may wait while a command runs; a peer that asks for more gets
/// none, and is refused nothing by that.
const NEGOTIATIONS: usize = 64;

/// Why a session has ended.
#[derive(Debug)]
pub enum SessionEnd {
    /// The peer said so, or closed its side.
    Quit,
    /// The volcano ends.
    Shutdown,
    /// No line for [`CONSOLE_IDLE_MS`].
    Idle,
    /// A command panicked.
    Panicked,
    /// What the peer sends is no console session, or its connection failed.
    Input(TelnetError),
    /// The peer cannot be told anything.
    Output(OutputError),
}

impl From<OutputError> for SessionEnd {
    fn from(error: OutputError) -> SessionEnd {
        SessionEnd::Output(error)
    }
}

/// When a session has last read a line, for whoever must choose one to close.
pub type LastLine = Rc<Cell<Instant>>;

/// Serves one connection to its end.
pub async fn serve(
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin + 'static,
    peer: String,
    backend: Rc<dyn Backend>,
    last_line: LastLine,
) -> SessionEnd {
    let mut session = Session {
        inputs: FramedRead::new(reader, TelnetDecoder::default()),
        ahead: VecDeque::new(),
        negotiations: Vec::new(),
        ended: false,
        asked: None,
        last_line,
    };
    let mut shell = Shell {
        backend,
        output: Output::new(writer),
        here: FlarePath::root(),
        peer,
    };
    let end = session.run(&mut shell).await;
    session.close(&mut shell, &end).await;
    end
}

/// What a peer has sent that waits for its turn.
enum Ahead {
    Line(Vec<u8>),
    TooLong,
    EndOfFile,
    AreYouThere,
}

struct Session<R> {
    inputs: FramedRead<R, TelnetDecoder>,
    ahead: VecDeque<Ahead>,
    negotiations: Vec<u8>,
    /// The peer has closed its side; what it sent before is still done.
    ended: bool,
    /// What the next line is to confirm, and what the peer was told about it.
    asked: Option<(Intervention, Vec<String>)>,
    last_line: LastLine,
}

/// How a command ended.
enum Ran {
    Done(Result<Flow, CommandError>),
    Panicked(String),
    Interrupted,
    Failed(TelnetError),
}

impl<R: AsyncRead + Unpin> Session<R> {
    async fn run(&mut self, shell: &mut Shell) -> SessionEnd {
        match self.talk(shell).await {
            Ok(end) | Err(end) => end,
        }
    }

    async fn talk(&mut self, shell: &mut Shell) -> Result<SessionEnd, SessionEnd> {
        greet(shell).await?;
        loop {
            match self.asked {
                None => prompt(shell).await?,
                Some(_) => ask_back(shell).await?,
            }
            let line = match self.next(shell).await? {
                Ahead::Line(line) => line,
                Ahead::TooLong => {
                    let refusal = format!(
                        "the line was longer than {CONSOLE_LINE_MAX} bytes: nothing was done"
                    );
                    shell.output.line(refusal).await?;
                    continue;
                }
                Ahead::AreYouThere => {
                    shell.output.line("[yes]").await?;
                    continue;
                }
                Ahead::EndOfFile => {
                    shell.output.line("").await?;
                    return Ok(SessionEnd::Quit);
                }
            };
            self.last_line.set(Instant::now());
            if let Some((what, told)) = self.asked.take() {
                if line.trim_ascii() != b"yes" {
                    shell.output.sentence("nothing was done").await?;
                    continue;
                }
                let told = Some(told);
                let command = Command::Intervene { what, told };
                if let Some(end) = self.do_command(shell, &line, command).await? {
                    return Ok(end);
                }
                continue;
            }
            let command = match parser::parse(&line) {
                Ok(None) => continue,
                Ok(Some(command)) => command,
                Err(error) => {
                    shell.output.sentence(error.to_string()).await?;
                    continue;
                }
            };
            if let Some(end) = self.do_command(shell, &line, command).await? {
                return Ok(end);
            }
            // A long listing is no idleness.
            self.last_line.set(Instant::now());
        }
    }

    /// Runs a command; returns how the session ends, if it does.
    async fn do_command(
        &mut self,
        shell: &mut Shell,
        line: &[u8],
        command: Command,
    ) -> Result<Option<SessionEnd>, SessionEnd> {
        let line = render::escaped(line);
        tracing::debug!(target: "magma::c", peer = shell.peer, line, "command");
        let ran = self.run_command(shell, command).await;
        if let Ran::Interrupted = ran {
            shell.output.discard();
            self.ahead.clear();
            self.take_what_is_there();
        }
        // What was asked for meanwhile waits no longer.
        let answers = std::mem::take(&mut self.negotiations);
        shell.output.raw(answers).await?;
        match ran {
            Ran::Done(Ok(Flow::GoOn)) => Ok(None),
            Ran::Done(Ok(Flow::Confirm(what, told))) => {
                self.asked = Some((what, told));
                Ok(None)
            }
            Ran::Done(Ok(Flow::Quit)) => Ok(Some(SessionEnd::Quit)),
            Ran::Done(Ok(Flow::Shutdown)) => Ok(Some(SessionEnd::Shutdown)),
            Ran::Done(Err(CommandError::Output(error))) => Err(error.into()),
            Ran::Done(Err(error)) => {
                let name = line.split_whitespace().next().unwrap_or_default();
                shell.output.sentence(format!("{name}: {error}")).await?;
                Ok(None)
            }
            Ran::Interrupted => {
                shell.output.line("^C").await?;
                Ok(None)
            }
            Ran::Failed(error) => Err(SessionEnd::Input(error)),
            Ran::Panicked(text) => {
                tracing::error!(
                    target: "magma::v", peer = shell.peer, line, "a console command panicked: {text}"
                );
                let apology = "internal error: this session ends, the volcano goes on; \
                               its log says more";
                shell.output.line(apology).await?;
                Ok(Some(SessionEnd::Panicked))
            }
        }
    }

    async fn run_command(&mut self, shell: &mut Shell, command: Command) -> Ran {
        // Unwind safe: after a panic the shell only says goodbye.
        let command = AssertUnwindSafe(shell.run(command)).catch_unwind();
        tokio::pin!(command);
        loop {
            let listens = !self.ended && self.ahead.len() < CONSOLE_TYPE_AHEAD;
            tokio::select! {
                biased;
                done = &mut command => {
                    return match done {
                        Ok(result) => Ran::Done(result),
                        Err(panic) => Ran::Panicked(text_of(panic)),
                    };
                }
                input = self.inputs.next(), if listens => match input {
                    Some(Ok(Input::Interrupt)) => return Ran::Interrupted,
                    Some(Ok(input)) => self.take(input),
                    Some(Err(error)) => return Ran::Failed(error),
                    None => self.ended = true,
                }
            }
        }
    }

    /// Waits for the next line, answering about options meanwhile.
    async fn next(&mut self, shell: &mut Shell) -> Result<Ahead, SessionEnd> {
        let deadline = self.last_line.get() + Duration::from_millis(CONSOLE_IDLE_MS);
        loop {
            if let Some(first) = self.ahead.pop_front() {
                return Ok(first);
            }
            if self.ended {
                return Err(SessionEnd::Quit);
            }
            match timeout_at(deadline, self.inputs.next()).await {
                Err(_) => return Err(SessionEnd::Idle),
                Ok(None) => self.ended = true,
                Ok(Some(Err(error))) => return Err(SessionEnd::Input(error)),
                Ok(Some(Ok(Input::Interrupt))) => {
                    self.asked = None;
                    self.take_what_is_there();
                    let answers = std::mem::take(&mut self.negotiations);
                    shell.output.raw(answers).await?;
                    shell.output.line("^C").await?;
                    prompt(shell).await?;
                }
                Ok(Some(Ok(input))) => self.take(input),
            }
            if !self.negotiations.is_empty() {
                let answers = std::mem::take(&mut self.negotiations);
                shell.output.raw(&answers).await?;
                if answers.ends_with(&TIMING_MARK_ANSWER) {
                    // The prompt before it was dropped.
                    prompt(shell).await?;
                }
                shell.output.flush().await?;
            }
        }
    }

    /// Takes what has arrived already, without waiting: the timing mark that clients send
    /// right after an interrupt must be answered before anything that they should show.
    fn take_what_is_there(&mut self) {
        while self.ahead.len() < CONSOLE_TYPE_AHEAD {
            match self.inputs.next().now_or_never() {
                Some(Some(Ok(input))) => self.take(input),
                // An error ends the stream, and with it the session at its next turn.
                Some(Some(Err(_)) | None) => self.ended = true,
                None => return,
            }
            if self.ended {
                return;
            }
        }
    }

    fn take(&mut self, input: Input) {
        let ahead = match input {
            Input::Line(line) => Ahead::Line(line),
            Input::TooLong => Ahead::TooLong,
            Input::EndOfFile => Ahead::EndOfFile,
            Input::AreYouThere => Ahead::AreYouThere,
            Input::Negotiation(answer) => {
                if self.negotiations.len() < NEGOTIATIONS * answer.len() {
                    self.negotiations.extend(answer);
                }
                return;
            }
            // Met where it is read; here it would come too late to interrupt anything.
            Input::Interrupt => return,
        };
        self.ahead.push_back(ahead);
    }

    /// Says why, as far as anybody listens, and closes. Bytes that nobody has read would make
    /// the kernel reset the connection, and the peer lose our last words.
    async fn close(&mut self, shell: &mut Shell, end: &SessionEnd) {
        tracing::debug!(target: "magma::c", peer = shell.peer, ?end, "session ended");
        let last_words = match end {
            SessionEnd::Idle => "\r\nnothing was asked for 30 minutes: closed\r\n".to_owned(),
            SessionEnd::Input(error) => format!("\r\n{error}: closed\r\n"),
            SessionEnd::Output(_) => return,
            SessionEnd::Quit | SessionEnd::Shutdown | SessionEnd::Panicked => String::new(),
        };
        let said = async {
            shell.output.raw(last_words).await?;
            shell.output.close().await
        };
        if said.await.is_err() || self.ended {
            return;
        }
        let mut rest = self.inputs.get_mut().take(LINGER_BYTES);
        let mut nowhere = tokio::io::sink();
        let drained = tokio::io::copy(&mut rest, &mut nowhere);
        // Whether it has closed by then or not, we have.
        let _ = timeout(LINGER, drained).await;
    }
}

fn text_of(panic: Box<dyn Any + Send>) -> String {
    panic_text(panic.as_ref()).to_owned()
}

async fn greet(shell: &mut Shell) -> Result<(), OutputError> {
    let me = shell.backend.me();
    let greeting = format!(
        "\r\nWelcome to MAGMA version {version}\r\n\
         This is server {nick} ({addr})\r\n\
         Type help [ENTER] for available commands.\r\n\r\n",
        version = env!("CARGO_PKG_VERSION"),
        nick = render::text(&me.nick),
        addr = me.addr,
    );
    shell.output.raw(greeting).await
}

async fn ask_back(shell: &mut Shell) -> Result<(), OutputError> {
    shell.output.raw("Type yes to go on: ").await?;
    shell.output.flush().await
}

async fn prompt(shell: &mut Shell) -> Result<(), OutputError> {
    let nick = render::text(&shell.backend.me().nick);
    let here = render::escaped(shell.here.as_bytes());
    shell.output.raw(format!("MAGMA [{nick}]:{here}> ")).await?;
    shell.output.flush().await
}
