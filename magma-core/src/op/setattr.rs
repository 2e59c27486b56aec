//! Changes of attributes: chmod(2), chown(2), truncate(2), utimensat(2), and what reading and
//! writing do to them. The rules are those of Linux (`setattr_prepare` and `notify_change`).

use crate::error::{OpError, OpResult};
use crate::flare::{FlareRow, Kind};
use crate::limits::FILE_SIZE_MAX;
use crate::time::Timestamp;

use super::mode::{after_chmod, after_chown, after_content};
use super::permission::{Access, may, owns};
use super::{Credentials, SetAttr, SetTime};

/// `(uid_t)-1` and `(gid_t)-1` mean "leave it" to chown(2) and are nobody's number.
const NOBODYS_ID: u32 = u32::MAX;

/// How old a time of last read may become under reads alone, in seconds (relatime).
const ATIME_STALE_SECS: i64 = 24 * 60 * 60;

/// The row after a change of attributes, or why the caller may not make it. All or nothing.
///
/// The caller of this function moves content (a change of size, and of layout with it).
/// A change of nothing is chown(2) with -1 and -1: POSIX does not ask for new times then, and there
/// are none, but Linux takes set-id bits away all the same.
pub fn set_attr(
    row: &FlareRow,
    cred: &Credentials,
    change: &SetAttr,
    now: Timestamp,
) -> OpResult<FlareRow> {
    let change_of_nothing = SetAttr {
        by_handle: change.by_handle,
        ..SetAttr::default()
    };
    if *change == change_of_nothing {
        let mode = after_chown(row, cred);
        let mut next = row.clone();
        if mode != row.mode && owns(row, cred) {
            (next.mode, next.ctime) = (mode, now);
        }
        return Ok(next);
    }
    check_size(row, cred, change)?;
    check_owner(row, cred, change)?;
    check_mode(row, cred, change)?;
    check_times(row, cred, change)?;

    let mut next = row.clone();
    next.ctime = now;
    if change.uid.is_some() || change.gid.is_some() {
        next.mode = after_chown(row, cred);
        next.uid = change.uid.unwrap_or(row.uid);
        next.gid = change.gid.unwrap_or(row.gid);
    }
    if let Some(size) = change.size {
        // POSIX marks the times even when the size stays the same.
        next.mode = after_content(&next, cred);
        next.size = size;
        next.mtime = now;
    }
    if let Some(mode) = change.mode {
        // In one step with a chown this is the mode for the new owner and group.
        next.mode = after_chmod(mode, next.gid, cred);
        if let Some(access) = next.acls.as_mut().and_then(|acls| acls.access.as_mut()) {
            access.chmod(next.mode);
        }
    }
    if let Some(time) = change.atime {
        next.atime = resolve(time, now);
    }
    if let Some(time) = change.mtime {
        next.mtime = resolve(time, now);
    }
    Ok(next)
}

/// truncate(2): EISDIR for a directory, EINVAL for what else has no length, EFBIG beyond what a
/// file can be, EACCES without write permission. ftruncate(2) and O_TRUNC come through an
/// open file, where permission was checked.
fn check_size(row: &FlareRow, cred: &Credentials, change: &SetAttr) -> OpResult<()> {
    let Some(size) = change.size else {
        return Ok(());
    };
    match row.kind {
        Kind::File => {}
        Kind::Directory => return Err(OpError::IsDirectory),
        Kind::Symlink | Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
            return Err(OpError::Invalid);
        }
    }
    if !change.by_handle {
        may(row, cred, Access::WRITE)?;
    }
    if size > FILE_SIZE_MAX {
        return Err(OpError::TooBig);
    }
    Ok(())
}

/// chown(2): only root gives a flare away (`CAP_CHOWN`); its owner may name himself, and a group
/// that he is in or that it has. EPERM.
fn check_owner(row: &FlareRow, cred: &Credentials, change: &SetAttr) -> OpResult<()> {
    if change.uid == Some(NOBODYS_ID) || change.gid == Some(NOBODYS_ID) {
        return Err(OpError::Invalid);
    }
    if cred.is_root() {
        return Ok(());
    }
    let owner = cred.uid == row.uid;
    let uid_ok = change.uid.is_none_or(|uid| owner && uid == row.uid);
    let gid_ok = change
        .gid
        .is_none_or(|gid| owner && (gid == row.gid || cred.in_group(gid)));
    if uid_ok && gid_ok {
        Ok(())
    } else {
        Err(OpError::NotPermitted)
    }
}

/// chmod(2): the owner or root (`CAP_FOWNER`), else EPERM. A symbolic link has no mode of its
/// own: EOPNOTSUPP.
fn check_mode(row: &FlareRow, cred: &Credentials, change: &SetAttr) -> OpResult<()> {
    if change.mode.is_none() {
        return Ok(());
    }
    if row.kind == Kind::Symlink {
        return Err(OpError::Unsupported);
    }
    if owns(row, cred) {
        Ok(())
    } else {
        Err(OpError::NotPermitted)
    }
}

/// utimensat(2): given times, and one of the two set to the present, are for the owner or root
/// (EPERM). Both set to the present is a touch, for which write permission is enough (EACCES).
fn check_times(row: &FlareRow, cred: &Credentials, change: &SetAttr) -> OpResult<()> {
    let given = |time: Option<SetTime>| match time {
        Some(SetTime::At(at)) => Some(at),
        Some(SetTime::Now) | None => None,
    };
    let times = [given(change.atime), given(change.mtime)];
    if times.iter().flatten().any(|at| at.nanos() >= 1_000_000_000) {
        return Err(OpError::Invalid);
    }
    if owns(row, cred) {
        return Ok(());
    }
    match (change.atime, change.mtime) {
        (None, None) => Ok(()),
        (Some(SetTime::Now), Some(SetTime::Now)) => may(row, cred, Access::WRITE),
        // A change of size sets this time anyway, and was permitted.
        (None, Some(SetTime::Now)) if change.size.is_some() => Ok(()),
        _ => Err(OpError::NotPermitted),
    }
}

fn resolve(time: SetTime, now: Timestamp) -> Timestamp {
    match time {
        SetTime::At(at) => at,
        SetTime::Now => now,
    }
}

/// Where a write ends; EFBIG if that is beyond what a file can be.
pub fn write_end(offset: u64, len: u64) -> OpResult<u64> {
    offset
        .checked_add(len)
        .filter(|&end| end <= FILE_SIZE_MAX)
        .ok_or(OpError::TooBig)
}

/// The row after a write that ends at `end`: size, times, and the set-id bits that it takes.
/// Not for a write of nothing, which changes nothing: write(2).
pub fn after_write(row: &FlareRow, cred: &Credentials, end: u64, now: Timestamp) -> FlareRow {
    FlareRow {
        size: row.size.max(end),
        mode: after_content(row, cred),
        mtime: now,
        ctime: now,
        ..row.clone()
    }
}

/// Whether a read moves the time of last read, by the rule of relatime (mount(8)): when it is
/// not after the last change, or a day old. So a program still sees that a file was read since
/// it was written, and reading alone writes next to nothing.
pub fn atime_due(atime: Timestamp, mtime: Timestamp, ctime: Timestamp, now: Timestamp) -> bool {
    atime <= mtime || atime <= ctime || now.secs().saturating_sub(atime.secs()) >= ATIME_STALE_SECS
}

#[cfg(test)]
#[path = "setattr_tests.rs"]
mod tests;
