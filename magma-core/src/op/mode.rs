//! Permission bits that change by themselves: what a new flare takes from its directory, and
//! the set-id bits that a change of content or owner takes away.

use crate::flare::Kind;
use crate::flare::acl::Acls;

use super::Credentials;
use super::permission::Guarded;

/// The bits that chmod(2) sets: permissions, set-user-ID, set-group-ID and sticky.
pub const MODE_MASK: u32 = 0o7777;

/// What a new flare takes from its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// Its group.
    pub gid: u32,
    /// Its mode.
    pub mode: u32,
    /// Its access control lists.
    pub acls: Option<Box<Acls>>,
}

/// Group, permission bits and lists of a new flare in a directory, from the mode that the caller asks
/// for after its umask, and before.
///
/// inode(7): in a directory with the set-group-ID bit a new flare gets the directory's group,
/// and a new directory the bit too; elsewhere it gets the caller's group. A file that would be
/// set-group-ID and group-executable for a group that the caller is not in loses the bit
/// (open(2)), or anyone could make himself a member.
///
/// acl(5): where the directory has a default list, that takes the place of the umask.
pub fn inherit(
    dir: &impl Guarded,
    cred: &Credentials,
    kind: Kind,
    mode: u32,
    asked: u32,
) -> Inherited {
    // The mode of a symbolic link is never looked at, and is the same everywhere: symlink(7).
    let (mode, acls) = match dir.acls().and_then(|acls| acls.default.as_ref()) {
        _ if kind == Kind::Symlink => (0o777, None),
        None => (mode & MODE_MASK, None),
        Some(default) => {
            let access = default.inherited(asked);
            let acls = Acls {
                default: (kind == Kind::Directory).then(|| default.clone()),
                access: access.clone().beyond_mode(),
            };
            (mode & 0o7000 | access.mode(), acls.boxed())
        }
    };
    if dir.mode() & libc::S_ISGID == 0 {
        let gid = cred.gid;
        return Inherited { gid, mode, acls };
    }
    let gid = dir.gid();
    let group_runs = libc::S_ISGID | libc::S_IXGRP;
    let mode = if kind == Kind::Directory {
        mode | libc::S_ISGID
    } else if mode & group_runs == group_runs && !may_grant_group(gid, cred) {
        mode & !libc::S_ISGID
    } else {
        mode
    };
    Inherited { gid, mode, acls }
}

/// The bits that chmod(2) leaves of the mode it was given: without `CAP_FSETID`, set-group-ID
/// is dropped in silence if the caller is not in the flare's group.
pub(super) fn after_chmod(mode: u32, gid: u32, cred: &Credentials) -> u32 {
    let mode = mode & MODE_MASK;
    if may_grant_group(gid, cred) {
        mode
    } else {
        mode & !libc::S_ISGID
    }
}

/// The bits that chown(2) leaves: a flare that is no directory loses set-user-ID, and
/// set-group-ID if its group may execute it. Root's chown too: the program would run as
/// somebody for whom nobody meant it.
pub(super) fn after_chown(flare: &impl Guarded, cred: &Credentials) -> u32 {
    if flare.kind() == Kind::Directory {
        flare.mode()
    } else {
        without_set_id(flare, cred)
    }
}

/// The bits that a change of content leaves, write(2) and truncate(2): a file loses the set-id
/// bits as in [`after_chown`], unless root changes it (`CAP_FSETID`). Its owner is no
/// exception: whoever tricked him into writing would own a set-id program.
pub(super) fn after_content(flare: &impl Guarded, cred: &Credentials) -> u32 {
    if cred.is_root() || flare.kind() != Kind::File {
        flare.mode()
    } else {
        without_set_id(flare, cred)
    }
}

/// Set-group-ID without group execute marks mandatory locking, not a privilege: who may grant
/// the group keeps it.
fn without_set_id(flare: &impl Guarded, cred: &Credentials) -> u32 {
    let mode = flare.mode() & !libc::S_ISUID;
    let group_runs = mode & libc::S_IXGRP != 0;
    if group_runs || !may_grant_group(flare.gid(), cred) {
        mode & !libc::S_ISGID
    } else {
        mode
    }
}

fn may_grant_group(gid: u32, cred: &Credentials) -> bool {
    cred.is_root() || cred.in_group(gid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::samples::{cred, file, root, row};

    #[test]
    fn inheritance() {
        let plain = row(Kind::Directory, 0o755, 0, 50);
        let setgid = row(Kind::Directory, 0o2775, 0, 50);
        let stranger = cred(1000, 1000, &[]);
        let member = cred(1000, 1000, &[50]);
        for (dir, who, kind, mode, expected) in [
            (&plain, &stranger, Kind::File, 0o644, (1000, 0o644)),
            (&plain, &stranger, Kind::File, 0o2755, (1000, 0o2755)),
            (&plain, &member, Kind::Directory, 0o755, (1000, 0o755)),
            (&setgid, &stranger, Kind::File, 0o644, (50, 0o644)),
            (&setgid, &stranger, Kind::File, 0o2755, (50, 0o755)),
            (&setgid, &stranger, Kind::File, 0o2745, (50, 0o2745)),
            (&setgid, &member, Kind::File, 0o2755, (50, 0o2755)),
            (&setgid, &root(), Kind::File, 0o6755, (50, 0o6755)),
            (&setgid, &stranger, Kind::Directory, 0o755, (50, 0o2755)),
            (&setgid, &stranger, Kind::Fifo, 0o600, (50, 0o600)),
            (&setgid, &stranger, Kind::Symlink, 0, (50, 0o777)),
            (&plain, &stranger, Kind::File, 0o100_644, (1000, 0o644)),
        ] {
            let Inherited { gid, mode: got, .. } = inherit(dir, who, kind, mode, mode);
            assert_eq!((gid, got), expected, "{kind:?} {mode:o} in {:o}", dir.mode);
        }
    }

    #[test]
    fn set_id_bits_go() {
        let owner = cred(1000, 1000, &[50]);
        let stranger = cred(1001, 1001, &[]);
        // Mode of a file of group 50, then what is left after content was changed by its owner
        // (in the group), by a stranger and by root, and after a chown by root.
        for (mode, by_owner, by_stranger, by_root, root_chown) in [
            (0o4755, 0o755, 0o755, 0o4755, 0o755),
            (0o2755, 0o755, 0o755, 0o2755, 0o755),
            (0o6755, 0o755, 0o755, 0o6755, 0o755),
            (0o2745, 0o2745, 0o745, 0o2745, 0o2745),
            (0o1755, 0o1755, 0o1755, 0o1755, 0o1755),
        ] {
            let flare = file(mode, 1000, 50);
            assert_eq!(after_content(&flare, &owner), by_owner, "{mode:o}");
            assert_eq!(after_content(&flare, &stranger), by_stranger, "{mode:o}");
            assert_eq!(after_content(&flare, &root()), by_root, "{mode:o}");
            assert_eq!(after_chown(&flare, &root()), root_chown, "{mode:o}");
        }
        let dir = row(Kind::Directory, 0o6755, 1000, 50);
        assert_eq!(after_chown(&dir, &root()), 0o6755);
    }
}
