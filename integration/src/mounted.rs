//! One `mount.magma`, and whether this machine can mount at all.

use std::path::{Path, PathBuf};

use magma_cli::launch::mounted::MountProcess;

/// Set to 1 where there is no FUSE: tests that mount pass without doing anything.
pub const SKIP_VARIABLE: &str = "MAGMA_SKIP_FUSE";

/// A mount of a cluster. Dropped, it unmounts.
#[derive(Debug)]
pub struct Mount {
    process: MountProcess,
}

impl Mount {
    pub(crate) fn new(process: MountProcess) -> Mount {
        Mount { process }
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        self.process.path()
    }

    /// A path below the mount point.
    pub fn join(&self, below: impl AsRef<Path>) -> PathBuf {
        self.path().join(below)
    }

    /// The process that serves it.
    pub fn process(&mut self) -> &mut MountProcess {
        &mut self.process
    }

    /// Unmounts in order.
    ///
    /// # Panics
    ///
    /// When the process does not end well.
    pub fn end(mut self) {
        self.process.end().unwrap_or_else(|error| panic!("{error}"));
    }

    /// Kills the process, as a crash would.
    pub fn kill(mut self) {
        self.process.kill();
    }
}

/// Whether tests that mount are to do their work: `if !can_mount() { return; }`.
///
/// # Panics
///
/// When this machine has no FUSE and nobody has said that this is known.
pub fn can_mount() -> bool {
    if std::env::var_os(SKIP_VARIABLE).is_some_and(|value| value == "1") {
        return false;
    }
    std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map(|_| true)
        .unwrap_or_else(|error| {
            panic!("cannot open /dev/fuse: {error}; {SKIP_VARIABLE}=1 leaves such tests out")
        })
}
