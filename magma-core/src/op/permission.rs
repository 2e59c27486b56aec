//! Who may do what: the permission bits, as path_resolution(7) and credentials(7) of Linux
//! have them, and POSIX.1 "File Access Permissions".

use crate::error::{OpError, OpResult};
use crate::flare::acl::Acls;
use crate::flare::{Attr, FlareRow, Kind};

use super::Credentials;

/// Search permission of anyone: what makes a file executable for root too.
const ANY_EXEC: u32 = libc::S_IXUSR | libc::S_IXGRP | libc::S_IXOTH;

/// What permission depends on.
pub trait Guarded {
    /// The type.
    fn kind(&self) -> Kind;
    /// Permission bits (12).
    fn mode(&self) -> u32;
    /// Owning user.
    fn uid(&self) -> u32;
    /// Owning group.
    fn gid(&self) -> u32;
    /// Access control lists, if they say more than the mode.
    fn acls(&self) -> Option<&Acls>;
}

impl Guarded for FlareRow {
    fn kind(&self) -> Kind {
        self.kind
    }
    fn mode(&self) -> u32 {
        self.mode
    }
    fn uid(&self) -> u32 {
        self.uid
    }
    fn gid(&self) -> u32 {
        self.gid
    }
    fn acls(&self) -> Option<&Acls> {
        self.acls.as_deref()
    }
}

impl Guarded for Attr {
    fn kind(&self) -> Kind {
        self.kind
    }
    fn mode(&self) -> u32 {
        self.mode
    }
    fn uid(&self) -> u32 {
        self.uid
    }
    fn gid(&self) -> u32 {
        self.gid
    }
    fn acls(&self) -> Option<&Acls> {
        self.acls.as_deref()
    }
}

/// The ways of access that a caller wants, all at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Read the content, or list the directory.
    pub read: bool,
    /// Write the content, or change entries of the directory.
    pub write: bool,
    /// Execute the file, or search the directory.
    pub exec: bool,
}

impl Access {
    /// Reading.
    pub const READ: Access = Access {
        read: true,
        write: false,
        exec: false,
    };
    /// Writing.
    pub const WRITE: Access = Access {
        read: false,
        write: true,
        exec: false,
    };
    /// Execution, or search of a directory.
    pub const EXEC: Access = Access {
        read: false,
        write: false,
        exec: true,
    };
    /// What a change of a directory's entries needs.
    pub const CHANGE_ENTRIES: Access = Access {
        read: false,
        write: true,
        exec: true,
    };

    /// As one class of permission bits (`rwx`).
    fn bits(self) -> u32 {
        u32::from(self.read) << 2 | u32::from(self.write) << 1 | u32::from(self.exec)
    }
}

/// Whether the permission bits, or the access control list, grant an access (EACCES if not).
///
/// One class decides: the owner's, else the group's, else that of the others; the owner of a
/// file with mode 0077 may do nothing with it. Root may do everything but execute a file
/// that nobody may execute (`CAP_DAC_OVERRIDE`, capabilities(7)).
pub fn may(flare: &impl Guarded, cred: &Credentials, want: Access) -> OpResult<()> {
    let mode = flare.mode();
    let granted = if cred.is_root() {
        let executable = flare.kind() == Kind::Directory || mode & ANY_EXEC != 0;
        !want.exec || executable
    } else if let Some(acl) = flare.acls().and_then(|acls| acls.access.as_ref()) {
        let (is_owner, has_group) = (cred.uid == flare.uid(), cred.in_group(flare.gid()));
        let in_group = |group| cred.in_group(group);
        acl.grants(want.bits(), is_owner, cred.uid, has_group, in_group)
    } else {
        let class = if cred.uid == flare.uid() {
            mode >> 6
        } else if cred.in_group(flare.gid()) {
            mode >> 3
        } else {
            mode
        };
        want.bits() & !class == 0
    };
    if granted {
        Ok(())
    } else {
        Err(OpError::Access)
    }
}

/// Whether the caller owns a flare, or overrides that as root (`CAP_FOWNER`).
pub fn owns(flare: &impl Guarded, cred: &Credentials) -> bool {
    cred.is_root() || cred.uid == flare.uid()
}

/// Whether an entry may be added to a directory: open(2), mkdir(2), link(2), rename(2).
pub fn may_create(dir: &impl Guarded, cred: &Credentials) -> OpResult<()> {
    may(dir, cred, Access::CHANGE_ENTRIES)
}

/// Whether an entry may be removed from a directory: unlink(2), rmdir(2), rename(2).
///
/// EACCES without write and search permission on the directory. EPERM if the directory is
/// sticky and the caller owns neither it nor the child. In that order, as Linux has it.
pub fn may_delete(dir: &impl Guarded, child_uid: u32, cred: &Credentials) -> OpResult<()> {
    may(dir, cred, Access::CHANGE_ENTRIES)?;
    let sticky = dir.mode() & libc::S_ISVTX != 0;
    if sticky && !owns(dir, cred) && cred.uid != child_uid {
        return Err(OpError::NotPermitted);
    }
    Ok(())
}

/// Whether a flare may get another parent: a directory's `..` changes with it, so that takes
/// write permission on the directory itself (rename(2), EACCES).
pub fn may_reparent(flare: &impl Guarded, cred: &Credentials) -> OpResult<()> {
    if flare.kind() == Kind::Directory {
        may(flare, cred, Access::WRITE)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::samples::{cred, file, root, row};

    const ALICE: u32 = 1000;
    const BOB: u32 = 1001;
    const STAFF: u32 = 50;

    #[test]
    fn one_class_decides() {
        let (r, w, x) = (Access::READ, Access::WRITE, Access::EXEC);
        let alice = cred(ALICE, ALICE, &[]);
        let bob = cred(BOB, BOB, &[STAFF]);
        let eve = cred(1002, 1002, &[]);
        // Mode, then what alice (owner), bob (group) and eve (other) get, as r w x.
        for (mode, expected) in [
            (0o700, [[true; 3], [false; 3], [false; 3]]),
            (0o077, [[false; 3], [true; 3], [true; 3]]),
            (
                0o604,
                [[true, true, false], [false; 3], [true, false, false]],
            ),
            (
                0o153,
                [
                    [false, false, true],
                    [true, false, true],
                    [false, true, true],
                ],
            ),
            (0o7000, [[false; 3]; 3]),
        ] {
            let flare = file(mode, ALICE, STAFF);
            for (who, expected) in [&alice, &bob, &eve].into_iter().zip(expected) {
                let got = [r, w, x].map(|want| may(&flare, who, want).is_ok());
                assert_eq!(got, expected, "{mode:o} for {}", who.uid);
            }
        }
    }

    #[test]
    fn all_that_is_wanted_must_be_granted() {
        let flare = file(0o400, ALICE, STAFF);
        let alice = cred(ALICE, ALICE, &[]);
        let both = Access {
            read: true,
            write: true,
            exec: false,
        };
        assert_eq!(may(&flare, &alice, both), Err(OpError::Access));
        assert_eq!(may(&flare, &alice, Access::default()), Ok(()));
    }

    #[test]
    fn root_executes_only_what_someone_may() {
        let executes = |kind, mode| may(&row(kind, mode, ALICE, ALICE), &root(), Access::EXEC);
        assert_eq!(executes(Kind::File, 0o666), Err(OpError::Access));
        assert_eq!(executes(Kind::File, 0o001), Ok(()));
        assert_eq!(executes(Kind::Directory, 0), Ok(()));
        assert_eq!(may(&file(0, ALICE, ALICE), &root(), Access::WRITE), Ok(()));
    }

    #[test]
    fn attributes_decide_as_the_row_does() {
        let flare = file(0o640, ALICE, STAFF);
        let attr = Attr::of(&flare, 0);
        let bob = cred(BOB, BOB, &[STAFF]);
        assert_eq!(may(&attr, &bob, Access::READ), Ok(()));
        assert_eq!(may(&attr, &bob, Access::WRITE), Err(OpError::Access));
    }

    #[test]
    fn sticky_directories() {
        let (denied, forbidden) = (Err(OpError::Access), Err(OpError::NotPermitted));
        let alice = cred(ALICE, ALICE, &[]);
        // Directory mode and owner, owner of the child, outcome for alice.
        for (mode, dir_uid, child_uid, expected) in [
            (0o777, 0, BOB, Ok(())),
            (0o1777, 0, BOB, forbidden.clone()),
            (0o1777, 0, ALICE, Ok(())),
            (0o1777, ALICE, BOB, Ok(())),
            (0o1775, 0, ALICE, denied.clone()),
            (0o1776, 0, BOB, denied.clone()),
            (0o1772, 0, ALICE, denied),
        ] {
            let dir = row(Kind::Directory, mode, dir_uid, 0);
            let got = may_delete(&dir, child_uid, &alice);
            assert_eq!(got, expected, "{mode:o} {dir_uid} {child_uid}");
            assert_eq!(may_delete(&dir, child_uid, &root()), Ok(()));
        }
    }

    #[test]
    fn moving_a_directory_writes_to_it() {
        let alice = cred(ALICE, ALICE, &[]);
        let moves = |kind| may_reparent(&row(kind, 0o555, ALICE, ALICE), &alice);
        assert_eq!(moves(Kind::Directory), Err(OpError::Access));
        assert_eq!(moves(Kind::File), Ok(()));
    }
}
