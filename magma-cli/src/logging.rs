//! `tracing` to stderr, a file or syslog. INFO and above always; DEBUG and TRACE by the debug
//! channels, which the console switches while the program runs.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use magma_actors::config::DebugMask;
use tracing::Level;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

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
pub fn init(target: Target, debug: DebugMask) -> io::Result<()> {
    debug.switch_on();
    match target {
        Target::Stderr => install(io::stderr, true),
        Target::File(path) => install(Mutex::new(open(&path)?), true),
        Target::Syslog(name) => {
            let syslog = Syslog::connect(name).ok().map(Arc::new);
            install(move || SyslogLine::new(syslog.clone()), false);
        }
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn install<W>(writer: W, dated: bool)
where
    W: for<'a> fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_writer(writer).with_ansi(false);
    let filter = dynamic_filter_fn(|meta, _| shows(meta.target(), meta.level()));
    let registry = tracing_subscriber::registry();
    // Syslog has its own dates.
    let _ = if dated {
        registry.with(layer.with_filter(filter)).try_init()
    } else {
        registry
            .with(layer.without_time().with_filter(filter))
            .try_init()
    };
}

fn shows(target: &str, level: &Level) -> bool {
    // The libraries below tell their own INFO to nobody but those who debug.
    let ours = target.starts_with("magma");
    *level <= if ours { Level::INFO } else { Level::WARN } || DebugMask::current().shows(target)
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
    fn levels_and_channels() {
        DebugMask::parse("f").unwrap().switch_on();
        assert!(shows("magma_actors::console", &Level::INFO));
        assert!(!shows("magma_actors::console", &Level::DEBUG));
        assert!(shows("magma_core::engine", &Level::TRACE));
        assert!(!shows("quinn::endpoint", &Level::INFO));
        assert!(shows("quinn::endpoint", &Level::ERROR));
    }
}
