//! Access control lists, which come and go as extended attributes: setxattr(2), acl(5).

use super::Engine;
use super::event::Outcome;
use super::request::RequestState;
use crate::effect::Effect;
use crate::error::{OpError, OpResult};
use crate::flare::acl::{ACCESS_NAME, Acl, Acls, DEFAULT_NAME};
use crate::flare::{FlareRow, Kind};
use crate::ids::FlareRef;
use crate::op::permission::owns;
use crate::op::{Answer, Credentials};
use crate::store::{Store, StoreResult};

/// Which of the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Access,
    Default,
}

impl Which {
    /// The list that an extended attribute stands for.
    pub(super) fn of(name: &[u8]) -> Option<Which> {
        match name {
            ACCESS_NAME => Some(Which::Access),
            DEFAULT_NAME => Some(Which::Default),
            _ => None,
        }
    }

    /// The list, for whoever may know of the flare.
    pub(super) fn get(self, acls: Option<&Acls>) -> Option<&Acl> {
        match self {
            Which::Access => acls?.access.as_ref(),
            Which::Default => acls?.default.as_ref(),
        }
    }
}

/// The names under which a flare's lists are listed.
pub(super) fn names<'a>(acls: Option<&Acls>) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let has = |which: Which, name| which.get(acls).is_some().then_some(name);
    [
        has(Which::Access, ACCESS_NAME),
        has(Which::Default, DEFAULT_NAME),
    ]
    .into_iter()
    .flatten()
}

/// The row with another list, or without: `set_posix_acl` of Linux.
fn with_list(
    row: &FlareRow,
    which: Which,
    list: Option<Acl>,
    cred: &Credentials,
) -> OpResult<FlareRow> {
    if !owns(row, cred) {
        return Err(OpError::NotPermitted);
    }
    // The mode of a symbolic link means nothing.
    if row.kind == Kind::Symlink {
        return Err(OpError::Unsupported);
    }
    let mut row = row.clone();
    let mut acls = row.acls.take().map(|acls| *acls).unwrap_or_default();
    match which {
        Which::Access => {
            if let Some(list) = &list {
                row.mode = row.mode & !0o777 | list.mode();
                // As chmod(2): nobody becomes a member of a group by a program of his own.
                if !cred.is_root() && !cred.in_group(row.gid) {
                    row.mode &= !libc::S_ISGID;
                }
            }
            acls.access = list.and_then(Acl::beyond_mode);
        }
        Which::Default if row.is_dir() => acls.default = list,
        Which::Default if list.is_some() => return Err(OpError::Access),
        Which::Default => {}
    }
    row.acls = acls.boxed();
    Ok(row)
}

impl<S: Store> Engine<S> {
    pub(super) fn get_list(
        &mut self,
        flare: FlareRef,
        which: Which,
    ) -> StoreResult<OpResult<Outcome>> {
        Ok(self.live(flare)?.and_then(|row| {
            let list = which.get(row.acls.as_deref());
            let value = list.map(Acl::encode).ok_or(OpError::NoAttribute)?;
            Ok(Outcome::done(Answer::Value(value)))
        }))
    }

    /// Sets a list, or takes it away. As on Linux it matters not whether there was one: the flags of
    /// setxattr(2) are for other attributes (`vfs_set_acl`).
    pub(super) fn set_list(
        &mut self,
        state: &mut RequestState,
        flare: FlareRef,
        which: Which,
        value: &[u8],
    ) -> StoreResult<OpResult<Outcome>> {
        let row = match self.live(flare)? {
            Ok(row) => row,
            Err(error) => return Ok(Err(error)),
        };
        let changed =
            Acl::parse(value).and_then(|list| with_list(&row, which, list, &state.request.cred));
        let mut row = match changed {
            Ok(row) => row,
            Err(error) => return Ok(Err(error)),
        };
        if self.full {
            return Ok(Err(OpError::NoSpace));
        }
        row.ctime = self.tick();
        row.version = self.stamp(state.slice);
        let effects = vec![Effect::PutFlare(Box::new(row))];
        self.commit_answer(state, effects, &Answer::Done)?;
        Ok(Ok(Outcome::done(Answer::Done)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::permission::{Access, may};
    use crate::op::samples::{cred, file, root, row};

    /// Owner rw, user 1000 rw, group r, mask rw, others nothing.
    fn value() -> Vec<u8> {
        let mut value = vec![2, 0, 0, 0];
        for (tag, rights, id) in [
            (0x01_u8, 6_u8, u32::MAX),
            (0x02, 6, 1000),
            (0x04, 4, u32::MAX),
            (0x10, 6, u32::MAX),
            (0x20, 0, u32::MAX),
        ] {
            value.extend([tag, 0, rights, 0]);
            value.extend(id.to_le_bytes());
        }
        value
    }

    fn list() -> Option<Acl> {
        Acl::parse(&value()).expect("valid")
    }

    #[test]
    fn a_list_and_the_mode_change_together() {
        let plain = file(0o2644, 7, 50);
        let listed = with_list(&plain, Which::Access, list(), &root()).expect("set");
        assert_eq!(listed.mode, 0o2660);
        let alice = cred(1000, 1000, &[]);
        assert_eq!(may(&listed, &alice, Access::WRITE), Ok(()));
        assert_eq!(may(&plain, &alice, Access::WRITE), Err(OpError::Access));
        let gone = with_list(&listed, Which::Access, None, &root()).expect("taken away");
        assert_eq!((gone.mode, gone.acls), (0o2660, None));
        // Its owner, who is not in its group.
        let owner = cred(7, 7, &[]);
        let listed = with_list(&plain, Which::Access, list(), &owner).expect("set");
        assert_eq!(listed.mode, 0o660);
        let stranger = with_list(&plain, Which::Access, list(), &alice);
        assert_eq!(stranger, Err(OpError::NotPermitted));
    }

    #[test]
    fn only_directories_have_default_lists() {
        let plain = file(0o644, 7, 50);
        let refused = with_list(&plain, Which::Default, list(), &root());
        assert_eq!(refused, Err(OpError::Access));
        assert!(with_list(&plain, Which::Default, None, &root()).is_ok());
        let dir = row(Kind::Directory, 0o755, 7, 50);
        let listed = with_list(&dir, Which::Default, list(), &root()).expect("set");
        assert_eq!(listed.mode, dir.mode);
        assert_eq!(
            names(listed.acls.as_deref()).collect::<Vec<_>>(),
            [DEFAULT_NAME]
        );
        let link = row(Kind::Symlink, 0o777, 7, 50);
        let refused = with_list(&link, Which::Access, list(), &root());
        assert_eq!(refused, Err(OpError::Unsupported));
    }
}
