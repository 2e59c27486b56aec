//! Mounting: the kernel's side of a FUSE file system, from `/dev/fuse` to the last request.
//!
//! We open the device and call mount(2) ourselves, because fuser's own way drops the subtype
//! and, at the end, unmounts whatever lies at the path by then.
//!
//! | file | what |
//! |---|---|
//! | [`options`] | where, under which name and with which flags |
//! | [`kernel`] | mount(2), for root |
//! | [`fusermount`] | the same through fusermount3, for everybody else |
//! | [`table`] | `/proc/self/mountinfo`: whose mount is it |
//! | [`unmount`] | the end, of our own mounts only |

pub mod fusermount;
pub mod kernel;
pub mod options;
pub mod remount;
pub mod table;
pub mod unmount;

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use fuser::{Filesystem, Notifier, Session, SessionACL};
use nix::poll::{PollFd, PollFlags, PollTimeout};

pub use options::MountOptions;
pub use remount::{RemountError, remount};
pub use table::{Device, Mount};
pub use unmount::{UnmountError, unmount};

/// The type that `/proc/mounts` shows.
pub const FS_TYPE: &str = "fuse.magma";

/// Why a mount did not come about.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The kernel has no FUSE, or we may not use it.
    #[error("cannot open /dev/fuse: {0} (is the fuse module loaded?)")]
    Device(#[source] io::Error),
    /// The mount point cannot be used.
    #[error("the mount point {}: {source}", path.display())]
    Point {
        /// The mount point.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The mount point is a file.
    #[error("the mount point {} is not a directory", .0.display())]
    NotDirectory(PathBuf),
    /// A name that mount(2) cannot take.
    #[error("{0:?} cannot be passed to mount(2)")]
    Text(String),
    /// mount(2) said no.
    #[error("mount(2) on {}: {source}", path.display())]
    Refused {
        /// The mount point.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// fusermount3 is not there or said no.
    #[error("fusermount3: {0}")]
    Fusermount(String),
    /// The kernel and the file system did not agree on how to talk.
    #[error("the FUSE handshake: {0}")]
    Handshake(#[source] io::Error),
    /// No thread could be made.
    #[error("cannot start the threads of the mount: {0}")]
    Thread(#[source] io::Error),
}

/// A file system that is mounted and has shaken hands, but serves nothing yet: the moment to
/// take its [`Notifier`] and its device.
///
/// Dropped, it unmounts.
pub struct Attached<F: Filesystem + 'static> {
    session: Session<F>,
    place: Place,
}

/// A file system that serves.
///
/// Dropped, it unmounts, and the session ends on its own threads.
pub struct Mounted {
    place: Place,
    thread: Option<JoinHandle<io::Result<()>>>,
    // Hangs up when the session ends: its thread holds the other side.
    ended: io::PipeReader,
}

/// Where a mount is; unmounts it when dropped.
struct Place {
    target: PathBuf,
    device: Option<Device>,
}

impl<F: Filesystem + 'static> Attached<F> {
    /// Mounts a file system.
    pub fn new(options: &MountOptions, filesystem: F) -> Result<Attached<F>, MountError> {
        let mount = if nix::unistd::geteuid().is_root() {
            kernel::mount
        } else {
            fusermount::mount
        };
        Attached::through(mount, options, filesystem)
    }

    fn through(
        mount: fn(&MountOptions) -> Result<OwnedFd, MountError>,
        options: &MountOptions,
        filesystem: F,
    ) -> Result<Attached<F>, MountError> {
        clear_corpse(&options.target);
        check_point(&options.target)?;
        let fd = mount(options)?;
        // From here on an error must unmount. The mount is found in the table, not by stat:
        // stat would ask the file system, which answers nothing yet.
        let device = table::at(&options.target)
            .filter(Mount::is_magma)
            .map(|mount| mount.device);
        let place = Place {
            target: options.target.clone(),
            device,
        };
        let acl = if options.allow_other {
            SessionACL::All
        } else {
            SessionACL::Owner
        };
        let mut config = fuser::Config::default();
        config.acl = acl;
        config.n_threads = Some(options.threads.max(1));
        let session =
            Session::from_fd(filesystem, fd, acl, config).map_err(MountError::Handshake)?;
        if let Some(device) = device {
            raise_readahead(device, options.readahead_kb);
        }
        Ok(Attached { session, place })
    }

    /// Sends notifications to the kernel. Never inside a handler: use a thread of its own.
    pub fn notifier(&self) -> Notifier {
        self.session.notifier()
    }

    /// Another descriptor of the device, for messages that fuser does not know.
    pub fn device_fd(&self) -> io::Result<OwnedFd> {
        self.session.as_fd().try_clone_to_owned()
    }

    /// Begins to serve, on threads of its own.
    pub fn serve(self) -> Result<Mounted, MountError> {
        let Attached { session, place } = self;
        let (ended, alive) = io::pipe().map_err(MountError::Thread)?;
        let thread = std::thread::Builder::new()
            .name("fuse-session".to_owned())
            .spawn(move || {
                let result = session.run();
                drop(alive);
                result
            })
            .map_err(MountError::Thread)?;
        Ok(Mounted {
            place,
            thread: Some(thread),
            ended,
        })
    }
}

impl Mounted {
    /// The mount point.
    pub fn target(&self) -> &Path {
        &self.place.target
    }

    /// Whether the file system is still attached at its mount point. It may serve open files
    /// for a while after a lazy unmount.
    pub fn is_attached(&self) -> bool {
        self.place.is_attached()
    }

    /// Waits until the file system has ended: unmounted, and the last open file closed.
    /// Returns whether it has.
    pub fn wait(&self, limit: Duration) -> bool {
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.end_fd(), PollFlags::POLLIN)];
        loop {
            match nix::poll::poll(&mut fds, limit) {
                Err(nix::errno::Errno::EINTR) => {}
                Ok(0) => return false,
                // It can only be readable because it hung up. An error of poll itself means
                // that waiting is impossible: rather say that it ended than spin.
                Ok(_) | Err(_) => return true,
            }
        }
    }

    /// Becomes readable when the file system has ended, to wait for other things as well.
    pub fn end_fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    /// Whether the mount answers: asks for the attributes of its root, from a thread of its
    /// own, as nobody knows how long that takes.
    pub fn answers(&self, limit: Duration) -> io::Result<()> {
        let target = self.place.target.clone();
        let (tell, told) = mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name("mount-probe".to_owned())
            .spawn(move || {
                let is_dir = fs::symlink_metadata(target).map(|meta| meta.is_dir());
                // Nobody listens any more after the limit.
                let _ = tell.send(is_dir);
            })?;
        match told.recv_timeout(limit) {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(io::Error::from(io::ErrorKind::NotADirectory)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
        }
    }

    /// Unmounts, and waits for the end at most this long: programs that keep files open delay
    /// it. Returns what the session ended with, or `None` when it goes on.
    pub fn end(mut self, limit: Duration) -> Option<io::Result<()>> {
        if self.wait(Duration::ZERO) {
            // Somebody has unmounted it. What is at that place by now may be a mount of
            // another process, with the device number that was ours.
            self.place.device = None;
            clear_corpse(&self.place.target);
        }
        self.place.unmount();
        if !self.wait(limit) {
            return None;
        }
        let thread = self.thread.take()?;
        Some(
            thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a thread of the mount has panicked"))),
        )
    }
}

impl Place {
    fn is_attached(&self) -> bool {
        match (table::at(&self.target), self.device) {
            // The same path, and no other mount that came since: device numbers of mounts
            // that exist at the same time differ.
            (Some(mount), Some(device)) => mount.device == device,
            _ => false,
        }
    }

    fn unmount(&self) {
        if !self.is_attached() {
            return;
        }
        if let Err(error) = unmount::detach(&self.target) {
            tracing::warn!("cannot unmount {}: {error}", self.target.display());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.unmount();
    }
}

fn check_point(path: &Path) -> Result<(), MountError> {
    let meta = fs::metadata(path).map_err(|source| MountError::Point {
        path: path.to_owned(),
        source,
    })?;
    if !meta.is_dir() {
        return Err(MountError::NotDirectory(path.to_owned()));
    }
    Ok(())
}

/// Removes a mount of ours whose process has died, so that its directory can be used again.
fn clear_corpse(target: &Path) {
    let dead = |path: &Path| {
        fs::symlink_metadata(path).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
    };
    // Bounded: at most as many as a person may have piled up there by trying again.
    for _ in 0..8 {
        if !dead(target) || !table::at(target).is_some_and(|mount| mount.is_magma()) {
            return;
        }
        tracing::info!("unmounting what a dead mount left at {}", target.display());
        if unmount::detach(target).is_err() {
            return;
        }
    }
}

/// The kernel reads ahead 128 KiB by default: too little for a network.
fn raise_readahead(device: Device, kilobytes: u32) {
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = fs::write(&path, kilobytes.to_string()) {
        tracing::debug!("{path} stays as it is: {error}");
    }
}

#[cfg(test)]
mod tests;
