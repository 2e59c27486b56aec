//! Starts real volcanos and real mounts as processes, for the demo and for the tests.
//!
//! | file | what |
//! |---|---|
//! | [`block`] | loopback addresses that nobody else uses |
//! | [`process`] | a child whose log is a file, and who ends when we do |
//! | [`volcano`] | one `magmad` |
//! | [`mounted`] | one `mount.magma` in the foreground |
//! | [`console`] | the console of a volcano, as telnet sees it |
//! | [`network`] | all of them together |

pub mod block;
pub mod console;
pub mod mounted;
pub mod network;
pub mod process;
pub mod volcano;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a process may take to be ready before it counts as failed. Unoptimised builds on
/// a busy machine derive their keys slowly.
pub const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long a process may take to end in order.
pub const END_LIMIT: Duration = Duration::from_secs(20);

/// Why something could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A file or directory of ours.
    #[error("{action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No loopback addresses are left.
    #[error("no free block of loopback addresses was found: {0}")]
    NoAddress(String),
    /// The program could not be started.
    #[error("cannot start {name}: {source}")]
    Spawn {
        /// Which.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// It ended before it was ready.
    #[error("{name} ended with {status}{log}")]
    Ended {
        /// Which.
        name: String,
        /// How.
        status: String,
        /// The end of its log.
        log: LogTail,
    },
    /// It did not become ready, or did not end, in time.
    #[error("{name} is not {state} after {limit:?}{log}")]
    Late {
        /// Which.
        name: String,
        /// What it should be.
        state: &'static str,
        /// How long it had.
        limit: Duration,
        /// The end of its log.
        log: LogTail,
    },
    /// Somebody asked for the end while we waited.
    #[error("interrupted")]
    Cancelled,
    /// The console could not be used.
    #[error("the console at {addr}: {source}")]
    Console {
        /// Where.
        addr: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Something is still mounted.
    #[error(transparent)]
    Unmount(#[from] magma_fuse::mount::UnmountError),
}

/// The last lines of a log, to go with an error.
#[derive(Clone, Debug, Default)]
pub struct LogTail(pub Vec<String>);

impl std::fmt::Display for LogTail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.0.is_empty() {
            f.write_str("; its log ends:")?;
        }
        for line in &self.0 {
            write!(f, "\n    {line}")?;
        }
        Ok(())
    }
}

static CANCELLED: AtomicBool = AtomicBool::new(false);

/// Ends every wait for a process to become ready: a person has asked for the end.
pub fn cancel() {
    CANCELLED.store(true, Ordering::Relaxed);
}

/// Whether somebody has asked for the end.
pub fn is_cancelled() -> bool {
    CANCELLED.load(Ordering::Relaxed)
}

/// Calls `done` until it gives a value, or the limit is over.
pub fn wait_for<T>(limit: Duration, mut done: impl FnMut() -> Option<T>) -> Option<T> {
    let begin = std::time::Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(value) = done() {
            return Some(value);
        }
        if begin.elapsed() >= limit {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
