//! `mount.magma`: from a command line to a mount that serves.
//!
//! | file | what |
//! |---|---|
//! | [`arguments`] | options and operands of a command line |
//! | [`spec`] | `h1,h2:/dir` as fstab has it |
//! | [`help`] | what is said of the options |
//! | [`request`] | both forms of the command become one [`MountRequest`] |
//! | [`daemon`] | the process that goes into the background, and the one that waits for it |

pub mod arguments;
pub mod daemon;
pub mod help;
pub mod request;
pub mod spec;

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use fuser::{Filesystem, Notifier};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;

use crate::mount::{Attached, Mounted};
pub use daemon::{Herald, Side};
pub use request::{Invocation, LogTarget, MountRequest, Parsed, UsageError};

/// Exit code of a mount that failed, as mount(8) knows it.
pub const MOUNT_FAILURE: u8 = 32;
/// Logged with the mount point when the mount answers: whoever runs a mount in the foreground
/// waits for it.
pub const MOUNTED_LINE: &str = "is mounted at";
/// After a signal, programs that keep files open may go on using them this long.
const END_LIMIT: Duration = Duration::from_secs(5);

/// A file system, and what to do when the kernel knows it but asks nothing yet.
pub struct Built<F> {
    /// The file system.
    pub filesystem: F,
    /// Gets the way to send notifications, and a descriptor of the device for those that fuser
    /// does not know.
    pub attached: Box<dyn FnOnce(Notifier, OwnedFd)>,
    /// Ends what the file system would end by itself, when the mount ends although programs keep
    /// files open: their locks, for one, must not outlive it.
    pub abandoned: Abandoned,
}

/// What is to be done for a mount that ends without its file system.
pub type Abandoned = Box<dyn FnOnce()>;

/// Builds the file system, mounts it, tells the waiting parent, and serves until somebody
/// unmounts it or a signal asks for the end. Returns the exit code.
///
/// Call it while the process has one thread: it blocks signals for all that follow.
pub fn serve<F, E, B>(request: &MountRequest, herald: Herald, build: B) -> u8
where
    F: Filesystem + 'static,
    E: Display,
    B: FnOnce(&MountRequest) -> Result<Built<F>, E>,
{
    let signals = match end_signals() {
        Ok(signals) => signals,
        Err(error) => return herald.failed(&format!("cannot wait for signals: {error}")),
    };
    let (mounted, abandoned) = match begin(request, build) {
        Ok(begun) => begun,
        Err(reason) => return herald.failed(&reason),
    };
    tracing::info!(
        "{} {MOUNTED_LINE} {}",
        request.mount.source,
        mounted.target().display()
    );
    if let Err(error) = herald.ready() {
        // Who asked for the mount is gone: nobody would ever unmount it.
        tracing::warn!("who asked for the mount has gone: {error}");
        mounted.end(END_LIMIT);
        return MOUNT_FAILURE;
    }
    wait_for_end(&mounted, &signals);
    match mounted.end(END_LIMIT) {
        Some(Ok(())) => tracing::info!("the mount has ended"),
        Some(Err(error)) => {
            tracing::error!("the mount has ended: {error}");
            return MOUNT_FAILURE;
        }
        None => {
            tracing::warn!("the mount ends although files are open on it");
            abandoned();
        }
    }
    0
}

fn begin<F, E, B>(request: &MountRequest, build: B) -> Result<(Mounted, Abandoned), String>
where
    F: Filesystem + 'static,
    E: Display,
    B: FnOnce(&MountRequest) -> Result<Built<F>, E>,
{
    let built = build(request).map_err(|error| error.to_string())?;
    let attached =
        Attached::new(&request.mount, built.filesystem).map_err(|error| error.to_string())?;
    let device = attached.device_fd().map_err(|error| error.to_string())?;
    (built.attached)(attached.notifier(), device);
    let mounted = attached.serve().map_err(|error| error.to_string())?;
    match mounted.answers(request.patience) {
        Ok(()) => Ok((mounted, built.abandoned)),
        Err(error) => {
            mounted.end(END_LIMIT);
            Err(format!("the mount does not answer: {error}"))
        }
    }
}

/// Blocks the signals that mean the end, in this thread and all that it starts, and returns
/// where they can be read.
fn end_signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()?;
    Ok(SignalFd::new(&set)?)
}

fn wait_for_end(mounted: &Mounted, signals: &SignalFd) {
    let mut fds = [
        PollFd::new(mounted.end_fd(), PollFlags::POLLIN),
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
    ];
    loop {
        match nix::poll::poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return,
            Err(errno) => {
                tracing::error!("cannot wait for the end of the mount: {errno}");
                return;
            }
        }
    }
}
