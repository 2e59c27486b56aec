//! Pages of files that are only read: when the kernel may keep them, and how it is made to drop
//! those from before a change.
//!
//! Before each read(2) the kernel makes sure of the attributes, which it may keep only while their
//! lease is valid, and drops the pages if time or size differ from what it took last
//! (`AUTO_INVAL_DATA`). That is not enough: a change may leave both as they were, and attributes
//! may come with a reply (to setattr) for which it does not compare. So the inode table knows the
//! version that the pages are of. Where the file has changed since:
//!
//! * whoever opens it to read is told not to keep the pages ([`open_flags`]): the kernel drops them
//!   in that thread, which is no thread of ours;
//! * attributes have no validity, so that the kernel asks before each read on a file that was
//!   opened earlier; and as it asks with the handle, which only reads do, it is told a time of
//!   change that is a few nanoseconds off ([`nudged`]) and differs from what it has. stat(2)
//!   asks without a handle, always in that state, and is told the truth.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fuser::{FileAttr, FopenFlags};

use crate::convert::OpenHow;

/// How files are opened for writing: past the page cache. Writes of several processes to one
/// file need no lock in the kernel: the owner orders them.
const TO_WRITE: FopenFlags =
    FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);

/// How a file is opened; `keep` says whether the pages in the kernel are those of the file.
pub(crate) fn open_flags(how: OpenHow, keep: bool) -> FopenFlags {
    match (how.writes(), keep) {
        (true, _) => TO_WRITE,
        (false, true) => FopenFlags::FOPEN_KEEP_CACHE,
        (false, false) => FopenFlags::empty(),
    }
}

/// Attributes for a read that must not be served from the pages: each time with another time of
/// change, so that none is what the kernel took last.
pub(crate) fn nudged(attr: FileAttr) -> FileAttr {
    static TURN: AtomicU32 = AtomicU32::new(0);
    let turn = TURN.fetch_add(1, Ordering::Relaxed) % 997;
    let off = Duration::from_nanos(u64::from(turn) + 1);
    FileAttr {
        mtime: attr.mtime + off,
        ..attr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_readers_keep_pages() {
        let (read, write) = (OpenHow(libc::O_RDONLY), OpenHow(libc::O_RDWR));
        assert_eq!(open_flags(read, true), FopenFlags::FOPEN_KEEP_CACHE);
        assert!(open_flags(read, false).is_empty());
        assert!(open_flags(write, true).contains(FopenFlags::FOPEN_DIRECT_IO));
        assert!(!open_flags(write, true).contains(FopenFlags::FOPEN_KEEP_CACHE));
    }
}
