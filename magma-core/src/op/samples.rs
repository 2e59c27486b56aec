//! Flares and callers for the tests of the operations' rules.

use super::Credentials;
use crate::flare::{FlareRow, Kind, Layout};
use crate::ids::Stamp;
use crate::key::Key;
use crate::time::Timestamp;

/// A caller.
pub(crate) fn cred(uid: u32, gid: u32, groups: &[u32]) -> Credentials {
    Credentials {
        uid,
        gid,
        groups: groups.to_vec(),
    }
}

/// The caller that overrides permission bits.
pub(crate) fn root() -> Credentials {
    Credentials::root()
}

/// A flare of size 100 whose times are all 1000 s.
pub(crate) fn row(kind: Kind, mode: u32, uid: u32, gid: u32) -> FlareRow {
    let born = Timestamp(1000, 0);
    FlareRow {
        key: Key::of_path(b"/sample"),
        inc: Stamp::default(),
        version: Stamp::default(),
        kind,
        mode,
        uid,
        gid,
        size: 100,
        nlink: 1,
        rdev: 0,
        atime: born,
        mtime: born,
        ctime: born,
        crtime: born,
        layout: Layout::Inline,
        entries: 0,
        next_cookie: 0,
        nascent: None,
        asked: 0,
        acls: None,
    }
}

/// A regular file.
pub(crate) fn file(mode: u32, uid: u32, gid: u32) -> FlareRow {
    row(Kind::File, mode, uid, gid)
}
