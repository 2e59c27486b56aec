//! A mount with other flags: `mount -o remount,ro DIR`.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use super::table;

/// Why a mount was not changed.
#[derive(Debug, thiserror::Error)]
pub enum RemountError {
    /// The path leads nowhere.
    #[error("{}: {source}", path.display())]
    Path {
        /// As given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No Magma file system is mounted there.
    #[error("no Magma file system is mounted at {}", .0.display())]
    NotMounted(PathBuf),
    /// Files are open for writing, and the mount was to become read-only.
    #[error("{} cannot become read-only: files are open for writing (fuser -vm shows by whom)", .0.display())]
    Busy(PathBuf),
    /// The system said no.
    #[error("cannot change the mount at {}: {source}", path.display())]
    Refused {
        /// The mount point.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Gives the Magma mount at a path these flags, and only these. Programs that have files open
/// notice nothing; everything else about the mount (hosts, key) stays as it is.
pub fn remount(path: &Path, flags: MsFlags) -> Result<(), RemountError> {
    let target = table::canonical_target(path).map_err(|source| RemountError::Path {
        path: path.to_owned(),
        source,
    })?;
    if !table::at(&target).is_some_and(|mount| mount.is_magma()) {
        return Err(RemountError::NotMounted(target));
    }
    // The kernel ignores the options of FUSE here: none can be changed.
    let none: Option<&str> = None;
    let flags = flags | MsFlags::MS_REMOUNT;
    match nix::mount::mount(none, &target, none, flags, none) {
        Ok(()) => Ok(()),
        Err(nix::errno::Errno::EBUSY) => Err(RemountError::Busy(target)),
        Err(errno) => Err(RemountError::Refused {
            path: target,
            source: errno.into(),
        }),
    }
}
