//! Between Magma's types and the kernel's.

use fuser::{Errno, FileAttr, FileType, Generation, INodeNo, RenameFlags, TimeOrNow};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use magma_core::error::{OpError, OpResult};
use magma_core::flare::name::BadName;
use magma_core::flare::{Attr, Kind, Name};
use magma_core::op::{RenameMode, SetTime, XattrMode};
use magma_core::time::Timestamp;

/// What stat(2) recommends as the size of a read: one operation's worth.
pub const BLOCK_SIZE: u32 = 128 * 1024;

/// The flag with which the kernel opens a file to execute it (`FMODE_EXEC`; the C library
/// does not name it).
const FMODE_EXEC: i32 = 0x20;

/// The errno of a failed operation.
pub fn errno(error: &OpError) -> Errno {
    Errno::from_i32(error.errno())
}

/// A name as the kernel passes it.
pub fn name(name: &OsStr) -> OpResult<Name> {
    Name::new(name.as_bytes()).map_err(|bad| match bad {
        BadName::TooLong => OpError::NameTooLong,
        BadName::Invalid => OpError::Invalid,
    })
}

/// The kernel's name for a type.
pub fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// Attributes as the kernel takes them. Device numbers are in its own encoding already.
pub fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino()),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.crtime),
        kind: file_type(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// The kernel tells two lives of one inode number apart by this.
pub fn generation(attr: &Attr) -> Generation {
    Generation(attr.flare.inc().generation())
}

/// A time of a flare as fuser takes it.
fn system_time(time: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos()));
    let whole = Duration::from_secs(time.secs().unsigned_abs());
    let second = if time.secs() >= 0 {
        UNIX_EPOCH.checked_add(whole)
    } else {
        UNIX_EPOCH.checked_sub(whole)
    };
    // Beyond what the kernel could show in any case.
    second
        .and_then(|second| second.checked_add(nanos))
        .unwrap_or(UNIX_EPOCH)
}

/// A time to set, as fuser passes it on.
///
/// For times before 1970 fuser 0.18 makes (seconds, nanoseconds) into
/// `EPOCH - (|seconds| + nanoseconds)`, which is wrong unless the nanoseconds are zero; this
/// undoes it, so that the right time arrives.
pub fn set_time(time: TimeOrNow) -> SetTime {
    let TimeOrNow::SpecificTime(time) = time else {
        return SetTime::Now;
    };
    let secs = |since: Duration| i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    SetTime::At(match time.duration_since(UNIX_EPOCH) {
        Ok(since) => Timestamp(secs(since), since.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            Timestamp(-secs(before), before.subsec_nanos())
        }
    })
}

/// How a rename treats what is at the destination.
pub fn rename_mode(flags: RenameFlags) -> OpResult<RenameMode> {
    if flags.is_empty() {
        Ok(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Ok(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Ok(RenameMode::Exchange)
    } else {
        // RENAME_WHITEOUT belongs to overlay file systems; other sets make no sense.
        Err(OpError::Invalid)
    }
}

/// How an extended attribute is set.
pub fn xattr_mode(flags: i32) -> OpResult<XattrMode> {
    match flags {
        0 => Ok(XattrMode::Either),
        libc::XATTR_CREATE => Ok(XattrMode::Create),
        libc::XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(OpError::Invalid),
    }
}

/// The flags of open(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenHow(pub i32);

impl OpenHow {
    /// What the owner must permit. An execution needs no permission to read, and the kernel has
    /// checked the one to execute.
    pub fn open_for(self) -> crate::client::objects::OpenFor {
        let mode = self.0 & libc::O_ACCMODE;
        let executes = self.0 & FMODE_EXEC != 0;
        crate::client::objects::OpenFor {
            // The fourth value stands for "both checked, neither used" (ioctl only).
            read: mode != libc::O_WRONLY && !executes,
            write: mode != libc::O_RDONLY,
            truncate: self.0 & libc::O_TRUNC != 0,
        }
    }

    /// Whether it fails where the file is there.
    pub fn is_exclusive(self) -> bool {
        self.0 & libc::O_EXCL != 0
    }

    /// Whether it changes anything.
    pub fn writes(self) -> bool {
        self.0 & libc::O_ACCMODE != libc::O_RDONLY || self.0 & libc::O_TRUNC != 0
    }

    /// How a write under these flags is done.
    pub fn write_how(self) -> crate::client::content::WriteHow {
        crate::client::content::WriteHow {
            append: self.0 & libc::O_APPEND != 0,
            // O_SYNC includes the bit of O_DSYNC.
            sync: self.0 & libc::O_DSYNC != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(name(OsStr::new("x")).is_ok());
        let long = "x".repeat(256);
        assert_eq!(name(OsStr::new(&long)), Err(OpError::NameTooLong));
        assert_eq!(name(OsStr::new("..")), Err(OpError::Invalid));
    }

    #[test]
    fn times_go_there_and_back() {
        for (secs, nanos) in [(0, 0), (7, 5), (-2, 0), (1 << 40, 999_999_999)] {
            let time = Timestamp(secs, nanos);
            let there = TimeOrNow::SpecificTime(system_time(time));
            assert_eq!(set_time(there), SetTime::At(time));
        }
        // What fuser makes of (-2 s, 800 ms), as its `system_time_from_time` has it.
        let odd = UNIX_EPOCH - Duration::new(2, 800_000_000);
        assert_eq!(
            set_time(TimeOrNow::SpecificTime(odd)),
            SetTime::At(Timestamp(-2, 800_000_000))
        );
        // And the true time, as it is handed back.
        assert_eq!(
            system_time(Timestamp(-2, 800_000_000)),
            UNIX_EPOCH - Duration::new(1, 200_000_000)
        );
        assert_eq!(set_time(TimeOrNow::Now), SetTime::Now);
    }

    #[test]
    fn open_flags() {
        let open = |flags| OpenHow(flags).open_for();
        assert!(open(libc::O_RDONLY).read && !open(libc::O_RDONLY).write);
        assert!(!open(libc::O_WRONLY).read && open(libc::O_WRONLY).write);
        assert!(open(libc::O_RDWR).read && open(libc::O_RDWR).write);
        assert!(!open(libc::O_RDONLY | FMODE_EXEC).read);
        assert!(open(libc::O_WRONLY | libc::O_TRUNC).truncate);
        assert!(OpenHow(libc::O_SYNC).write_how().sync);
        assert!(OpenHow(libc::O_DSYNC).write_how().sync);
        assert!(!OpenHow(libc::O_APPEND).write_how().sync);
        assert!(OpenHow(libc::O_APPEND).write_how().append);
    }

    #[test]
    fn flags_of_rename_and_setxattr() {
        assert_eq!(rename_mode(RenameFlags::empty()), Ok(RenameMode::Replace));
        let both = RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE;
        assert_eq!(rename_mode(both), Err(OpError::Invalid));
        assert_eq!(xattr_mode(libc::XATTR_CREATE), Ok(XattrMode::Create));
        assert_eq!(xattr_mode(3), Err(OpError::Invalid));
    }
}
