//! Where a file system is mounted, under which name, and with which flags.

use std::path::PathBuf;

use nix::mount::MsFlags;

use magma_core::limits::IO_MAX;

/// What the kernel is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// FSName: exactly what stands in `/etc/fstab`, or `mount -a` would mount twice.
    pub source: String,
    /// The mount point, absolute and without symbolic links.
    pub target: PathBuf,
    /// `ro`, `nosuid`, `noatime` and so on.
    pub flags: MsFlags,
    /// Others than the one who mounts may use it.
    pub allow_other: bool,
    /// The kernel checks permission bits, too.
    pub default_permissions: bool,
    /// Largest read, in bytes.
    pub max_read: usize,
    /// Threads that take requests from the kernel.
    pub threads: usize,
    /// Read-ahead in KiB.
    pub readahead_kb: u32,
}

/// Threads that take requests: one copies content while the other goes on. Answers come from
/// the client's thread.
const THREADS: usize = 2;
/// Read-ahead in KiB.
const READAHEAD_KB: u32 = 4096;

impl MountOptions {
    /// The usual ones: what root's mounts share with everybody, others' they keep.
    pub fn new(source: String, target: PathBuf) -> MountOptions {
        MountOptions {
            source,
            target,
            flags: MsFlags::empty(),
            allow_other: nix::unistd::geteuid().is_root(),
            default_permissions: true,
            max_read: IO_MAX,
            threads: THREADS,
            readahead_kb: READAHEAD_KB,
        }
    }
}

/// A mount option that stands for one flag of mount(2).
struct FlagOption {
    set: &'static str,
    clear: &'static str,
    flag: MsFlags,
}

const FLAG_OPTIONS: [FlagOption; 11] = [
    flag("ro", "rw", MsFlags::MS_RDONLY),
    flag("nosuid", "suid", MsFlags::MS_NOSUID),
    flag("nodev", "dev", MsFlags::MS_NODEV),
    flag("noexec", "exec", MsFlags::MS_NOEXEC),
    flag("noatime", "atime", MsFlags::MS_NOATIME),
    flag("nodiratime", "diratime", MsFlags::MS_NODIRATIME),
    flag("relatime", "norelatime", MsFlags::MS_RELATIME),
    flag("strictatime", "nostrictatime", MsFlags::MS_STRICTATIME),
    flag("lazytime", "nolazytime", MsFlags::MS_LAZYTIME),
    flag("sync", "async", MsFlags::MS_SYNCHRONOUS),
    flag("dirsync", "nodirsync", MsFlags::MS_DIRSYNC),
];

const fn flag(set: &'static str, clear: &'static str, flag: MsFlags) -> FlagOption {
    FlagOption { set, clear, flag }
}

/// Applies a mount option that stands for a flag; later ones win. Returns whether it is one.
pub fn apply_flag(flags: &mut MsFlags, option: &str) -> bool {
    for known in &FLAG_OPTIONS {
        if option == known.set {
            flags.insert(known.flag);
            return true;
        }
        if option == known.clear {
            flags.remove(known.flag);
            return true;
        }
    }
    false
}

/// The flags as options, for fusermount3.
pub fn flag_names(flags: MsFlags) -> impl Iterator<Item = &'static str> {
    FLAG_OPTIONS
        .iter()
        .filter(move |known| flags.contains(known.flag))
        .map(|known| known.set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_options_win() {
        let mut flags = MsFlags::empty();
        for option in ["ro", "nosuid", "noatime", "rw", "nodev"] {
            assert!(apply_flag(&mut flags, option));
        }
        assert!(!apply_flag(&mut flags, "key"));
        let names: Vec<_> = flag_names(flags).collect();
        assert_eq!(names, ["nosuid", "nodev", "noatime"]);
    }
}
