//! What the client has found, as the kernel's calls are answered.

use fuser::{
    Errno, FileAttr, FileType, Generation, INodeNo, ReplyAttr, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyStatfs, ReplyXattr,
};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, UNIX_EPOCH};

use magma_core::error::{OpError, OpResult};
use magma_core::flare::Name;
use magma_core::limits::NAME_MAX;
use magma_core::op::Space;

use crate::convert::{errno, file_attr, generation};
use crate::volume::{Entry, PlusItem, Volume};

/// The unit in which statfs(2) counts space.
const STATFS_BLOCK: u64 = 4096;

pub(super) fn entry(reply: ReplyEntry, result: OpResult<Entry>) {
    match result {
        Ok(entry) => reply.entry(&entry.ttl, &entry.attr, entry.generation),
        Err(error) => reply.error(errno(&error)),
    }
}

/// The answer to a lookup. That a name is not there may be kept like one that is.
pub(super) fn found(
    reply: ReplyEntry,
    volume: &Volume,
    place: (INodeNo, &Name),
    result: OpResult<Entry>,
) {
    if let Err(OpError::NotFound) = result {
        let ttl = volume.absent_left(place.0, place.1);
        if !ttl.is_zero() {
            let nothing = bare_attr(0, FileType::RegularFile);
            return reply.entry(&ttl, &nothing, Generation(0));
        }
    }
    entry(reply, result);
}

pub(super) fn attributes(reply: ReplyAttr, result: OpResult<(Duration, FileAttr)>) {
    match result {
        Ok((ttl, attr)) => reply.attr(&ttl, &attr),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn empty(reply: ReplyEmpty, result: OpResult<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

/// Both ways in which the kernel asks for a value: its length, or it.
pub(super) fn sized(reply: ReplyXattr, size: u32, most: usize, result: OpResult<Vec<u8>>) {
    match result {
        Ok(value) if value.len() > most => reply.error(Errno::E2BIG),
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn statfs(reply: ReplyStatfs, space: Space) {
    let free = space.free / STATFS_BLOCK;
    reply.statfs(
        space.total / STATFS_BLOCK,
        free,
        free,
        space.inodes,
        space.inodes_free,
        STATFS_BLOCK as u32,
        NAME_MAX as u32,
        STATFS_BLOCK as u32,
    );
}

/// Attributes for a line of READDIRPLUS that has none: the kernel takes only number and
/// type of `.` and `..`, and asks for the rest.
pub(super) fn bare_attr(ino: u64, kind: FileType) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: STATFS_BLOCK as u32,
        flags: 0,
    }
}

/// Adds a line; whether it was too much. Entries have a timeout of 0 even under a lease: a
/// recall must not have to take the kernel's directory lock for them.
pub(super) fn add_plus(reply: &mut ReplyDirectoryPlus, plus: &PlusItem) -> bool {
    let (attr, generation) = match &plus.attr {
        Some(attr) => (file_attr(attr), generation(attr)),
        None => (bare_attr(plus.item.ino, plus.item.kind), Generation(0)),
    };
    let name = OsStr::from_bytes(&plus.item.name);
    let ttl = Duration::ZERO;
    reply.add(attr.ino, plus.item.cookie, name, &ttl, &attr, generation)
}
