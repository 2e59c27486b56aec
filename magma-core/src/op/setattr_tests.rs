//! Tables of who may change which attribute, and what is left afterwards.

use super::*;
use crate::op::samples::{cred, file, root, row};

const NOW: Timestamp = Timestamp(2000, 5);
const OWNER: u32 = 1000;
const GROUP: u32 = 50;
const OTHER_GROUP: u32 = 60;

fn owner() -> Credentials {
    cred(OWNER, OWNER, &[GROUP, OTHER_GROUP])
}
/// Owns the file but is not in its group.
fn loner() -> Credentials {
    cred(OWNER, OWNER, &[])
}
fn stranger() -> Credentials {
    cred(1001, 1001, &[GROUP])
}

fn mode(mode: u32) -> SetAttr {
    SetAttr {
        mode: Some(mode),
        ..SetAttr::default()
    }
}
fn owners(uid: Option<u32>, gid: Option<u32>) -> SetAttr {
    SetAttr {
        uid,
        gid,
        ..SetAttr::default()
    }
}
fn size(size: u64) -> SetAttr {
    SetAttr {
        size: Some(size),
        ..SetAttr::default()
    }
}
fn times(atime: Option<SetTime>, mtime: Option<SetTime>) -> SetAttr {
    SetAttr {
        atime,
        mtime,
        ..SetAttr::default()
    }
}

/// Mode, uid and gid afterwards.
fn outcome(flare: &FlareRow, who: &Credentials, change: &SetAttr) -> OpResult<(u32, u32, u32)> {
    let next = set_attr(flare, who, change, NOW)?;
    assert_eq!(next.ctime, NOW, "every change moves ctime");
    Ok((next.mode, next.uid, next.gid))
}

#[test]
fn chmod() {
    let flare = file(0o644, OWNER, GROUP);
    let refused = Err(OpError::NotPermitted);
    for (who, wanted, expected) in [
        (owner(), 0o600, Ok(0o600)),
        (owner(), 0o2755, Ok(0o2755)),
        (loner(), 0o2755, Ok(0o755)),
        (loner(), 0o4755, Ok(0o4755)),
        (loner(), 0o1644, Ok(0o1644)),
        (stranger(), 0o644, refused.clone()),
        (stranger(), 0o777, refused),
        (root(), 0o6755, Ok(0o6755)),
        (owner(), 0o100_600, Ok(0o600)),
    ] {
        let got = outcome(&flare, &who, &mode(wanted)).map(|(mode, ..)| mode);
        assert_eq!(got, expected, "{wanted:o} by {who:?}");
    }
    let dir = row(Kind::Directory, 0o755, OWNER, GROUP);
    let got = outcome(&dir, &loner(), &mode(0o2755));
    assert_eq!(got, Ok((0o755, OWNER, GROUP)), "directories too");
    let link = row(Kind::Symlink, 0o777, OWNER, GROUP);
    assert_eq!(
        outcome(&link, &root(), &mode(0o600)),
        Err(OpError::Unsupported)
    );
}

#[test]
fn chown() {
    let plain = file(0o644, OWNER, GROUP);
    let refused = Err(OpError::NotPermitted);
    for (who, uid, gid, expected) in [
        (root(), Some(7), Some(8), Ok((7, 8))),
        (owner(), Some(OWNER), None, Ok((OWNER, GROUP))),
        (owner(), Some(7), None, refused.clone()),
        (owner(), None, Some(OTHER_GROUP), Ok((OWNER, OTHER_GROUP))),
        (owner(), None, Some(OWNER), Ok((OWNER, OWNER))),
        (owner(), None, Some(7), refused.clone()),
        (loner(), None, Some(GROUP), Ok((OWNER, GROUP))),
        (loner(), None, Some(OTHER_GROUP), refused.clone()),
        (owner(), Some(7), Some(OTHER_GROUP), refused.clone()),
        (stranger(), Some(OWNER), None, refused.clone()),
        (stranger(), None, Some(GROUP), refused.clone()),
        (stranger(), Some(1001), None, refused),
        (root(), Some(u32::MAX), None, Err(OpError::Invalid)),
    ] {
        let got = outcome(&plain, &who, &owners(uid, gid)).map(|(_, uid, gid)| (uid, gid));
        assert_eq!(got, expected, "{uid:?} {gid:?} by {who:?}");
    }
}

#[test]
fn chown_takes_set_id_bits() {
    let change = owners(None, Some(OTHER_GROUP));
    for (flare, who, expected) in [
        (file(0o6755, OWNER, GROUP), owner(), 0o755),
        (file(0o6755, OWNER, GROUP), root(), 0o755),
        (file(0o2745, OWNER, GROUP), owner(), 0o2745),
        (file(0o1644, OWNER, GROUP), owner(), 0o1644),
        (row(Kind::Directory, 0o2775, OWNER, GROUP), owner(), 0o2775),
    ] {
        let got = outcome(&flare, &who, &change).map(|(mode, ..)| mode);
        assert_eq!(got, Ok(expected), "{:o} by {who:?}", flare.mode);
    }
    // A mode in the same step is meant for the new owner, judged by the new group.
    let both = SetAttr {
        mode: Some(0o2755),
        ..owners(None, Some(OWNER))
    };
    let flare = file(0o644, OWNER, GROUP);
    assert_eq!(outcome(&flare, &loner(), &both), Ok((0o2755, OWNER, OWNER)));
}

#[test]
fn truncate() {
    let denied = Err(OpError::Access);
    let by_handle = |n| SetAttr {
        by_handle: true,
        ..size(n)
    };
    for (flare, who, change, expected) in [
        (file(0o644, OWNER, GROUP), owner(), size(5), Ok(5)),
        (
            file(0o644, OWNER, GROUP),
            stranger(),
            size(5),
            denied.clone(),
        ),
        (file(0o664, OWNER, GROUP), stranger(), size(5), Ok(5)),
        (file(0o444, OWNER, GROUP), owner(), size(5), denied),
        (file(0o444, OWNER, GROUP), owner(), by_handle(5), Ok(5)),
        (file(0, OWNER, GROUP), root(), size(1 << 40), Ok(1 << 40)),
        (
            file(0o644, OWNER, GROUP),
            owner(),
            size(FILE_SIZE_MAX + 1),
            Err(OpError::TooBig),
        ),
        (
            row(Kind::Directory, 0o755, OWNER, GROUP),
            owner(),
            size(0),
            Err(OpError::IsDirectory),
        ),
        (
            row(Kind::Fifo, 0o644, OWNER, GROUP),
            owner(),
            size(0),
            Err(OpError::Invalid),
        ),
    ] {
        let next = set_attr(&flare, &who, &change, NOW);
        if let Ok(next) = &next {
            assert_eq!((next.mtime, next.ctime), (NOW, NOW));
            assert_eq!(next.atime, flare.atime);
        }
        assert_eq!(
            next.map(|next| next.size),
            expected,
            "{change:?} by {who:?}"
        );
    }
    let program = file(0o6775, OWNER, GROUP);
    let mode_after = |who| set_attr(&program, &who, &size(0), NOW).map(|next| next.mode);
    assert_eq!(mode_after(owner()), Ok(0o775));
    assert_eq!(mode_after(stranger()), Ok(0o775));
    assert_eq!(mode_after(root()), Ok(0o6775));
}

#[test]
fn utimens() {
    let at = Some(SetTime::At(Timestamp(1, 2)));
    let now = Some(SetTime::Now);
    let (denied, refused) = (Err(OpError::Access), Err(OpError::NotPermitted));
    let born = Timestamp(1000, 0);
    let one = Timestamp(1, 2);
    for (bits, who, atime, mtime, expected) in [
        (0o444, owner(), at, at, Ok((one, one))),
        (0o444, owner(), at, None, Ok((one, born))),
        (0o444, owner(), now, at, Ok((NOW, one))),
        (0o666, stranger(), now, now, Ok((NOW, NOW))),
        (0o644, stranger(), now, now, denied),
        (0o666, stranger(), at, at, refused.clone()),
        (0o666, stranger(), now, at, refused.clone()),
        (0o666, stranger(), now, None, refused.clone()),
        (0o666, stranger(), None, now, refused),
        (0, root(), at, now, Ok((one, NOW))),
    ] {
        let flare = file(bits, OWNER, GROUP);
        let got = set_attr(&flare, &who, &times(atime, mtime), NOW);
        assert_eq!(
            got.map(|next| (next.atime, next.mtime)),
            expected,
            "{atime:?} {mtime:?} of {bits:o} by {who:?}"
        );
    }
    let nonsense = times(None, Some(SetTime::At(Timestamp(1, 1_000_000_000))));
    let flare = file(0o644, OWNER, GROUP);
    assert_eq!(
        set_attr(&flare, &owner(), &nonsense, NOW),
        Err(OpError::Invalid)
    );
    let with_size = SetAttr {
        mtime: now,
        ..size(1)
    };
    let shared = file(0o666, OWNER, GROUP);
    assert!(set_attr(&shared, &stranger(), &with_size, NOW).is_ok());
}

#[test]
fn nothing_changes_nothing() {
    let flare = file(0o4755, OWNER, GROUP);
    for by_handle in [false, true] {
        let nothing = SetAttr {
            by_handle,
            ..SetAttr::default()
        };
        assert_eq!(
            set_attr(&flare, &stranger(), &nothing, NOW),
            Ok(flare.clone())
        );
        // chown(2) with -1 and -1, by who may.
        for (flare, left) in [(&flare, 0o755), (&file(0o644, OWNER, GROUP), 0o644)] {
            let changed = set_attr(flare, &Credentials::root(), &nothing, NOW);
            assert_eq!(changed.map(|row| row.mode), Ok(left));
        }
        let dir = FlareRow {
            kind: Kind::Directory,
            ..flare.clone()
        };
        let changed = set_attr(&dir, &Credentials::root(), &nothing, NOW);
        assert_eq!(changed, Ok(dir));
    }
}

#[test]
fn all_or_nothing() {
    // The size may be set by the group, the mode may not.
    let flare = file(0o664, OWNER, GROUP);
    let both = SetAttr {
        mode: Some(0o600),
        ..size(0)
    };
    assert_eq!(
        set_attr(&flare, &stranger(), &both, NOW),
        Err(OpError::NotPermitted)
    );
}

#[test]
fn writes() {
    let flare = file(0o4755, OWNER, GROUP);
    let next = after_write(&flare, &owner(), 40, NOW);
    assert_eq!((next.size, next.mode), (100, 0o755));
    assert_eq!((next.mtime, next.ctime), (NOW, NOW));
    assert_eq!(next.atime, flare.atime);
    let next = after_write(&flare, &root(), 140, NOW);
    assert_eq!((next.size, next.mode), (140, 0o4755));

    assert_eq!(write_end(5, 6), Ok(11));
    assert_eq!(write_end(FILE_SIZE_MAX, 0), Ok(FILE_SIZE_MAX));
    assert_eq!(write_end(FILE_SIZE_MAX, 1), Err(OpError::TooBig));
    assert_eq!(write_end(u64::MAX, 2), Err(OpError::TooBig));
}

#[test]
fn relatime() {
    let day = 24 * 60 * 60;
    for (atime, mtime, ctime, now, due) in [
        (100, 50, 50, 200, false),
        (100, 100, 50, 200, true),
        (100, 50, 150, 200, true),
        (100, 50, 50, 100 + day - 1, false),
        (100, 50, 50, 100 + day, true),
        (500, 50, 50, 200, false),
    ] {
        let flare = FlareRow {
            atime: Timestamp(atime, 0),
            mtime: Timestamp(mtime, 0),
            ctime: Timestamp(ctime, 0),
            ..file(0o644, OWNER, GROUP)
        };
        assert_eq!(
            atime_due(flare.atime, flare.mtime, flare.ctime, Timestamp(now, 0)),
            due,
            "{atime} {mtime} {ctime} {now}"
        );
    }
}
