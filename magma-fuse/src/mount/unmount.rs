//! The end of a mount: of our own only, never of a stranger's at the same path.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

use super::{fusermount, table};

/// Why something was not unmounted.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// The path leads nowhere.
    #[error("{}: {source}", path.display())]
    Path {
        /// As given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing is mounted there.
    #[error("nothing is mounted at {}", .0.display())]
    NotMounted(PathBuf),
    /// What is mounted there is not ours.
    #[error("{} is not a Magma mount but one of type {fs_type}", path.display())]
    Foreign {
        /// The mount point.
        path: PathBuf,
        /// Its type.
        fs_type: String,
    },
    /// The system said no.
    #[error("cannot unmount {}: {source}", path.display())]
    Refused {
        /// The mount point.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Unmounts the Magma file system at a path, lazily: what programs have open stays usable
/// until they close it.
pub fn unmount(path: &Path) -> Result<(), UnmountError> {
    let target = table::canonical_target(path).map_err(|source| UnmountError::Path {
        path: path.to_owned(),
        source,
    })?;
    let Some(mount) = table::at(&target) else {
        return Err(UnmountError::NotMounted(target));
    };
    if !mount.is_magma() {
        return Err(UnmountError::Foreign {
            path: target,
            fs_type: mount.fs_type,
        });
    }
    detach(&target).map_err(|source| UnmountError::Refused {
        path: target,
        source,
    })
}

/// Detaches what is at a path; whose it is was looked at before.
pub(super) fn detach(target: &Path) -> io::Result<()> {
    match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(nix::errno::Errno::EPERM) => fusermount::unmount(target),
        Err(errno) => Err(errno.into()),
    }
}
