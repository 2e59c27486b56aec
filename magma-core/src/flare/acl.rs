//! POSIX access control lists: acl(5), and POSIX.1e draft 17, which Linux follows.
//!
//! A flare's list lives in its row, next to the mode whose group bits are its mask, so that both change
//! in one step. A list that says no more than the mode is not kept. On the wire between kernel and
//! mount a list is the extended attribute `system.posix_acl_access` or `system.posix_acl_default`, in the
//! format of `linux/posix_acl_xattr.h`, version 2.

use serde::{Deserialize, Serialize};

use crate::error::{OpError, OpResult};
use crate::limits::ACL_ENTRIES_MAX;

/// The extended attribute of the list that decides access.
pub const ACCESS_NAME: &[u8] = b"system.posix_acl_access";
/// The extended attribute of the list that a directory gives to what is made in it.
pub const DEFAULT_NAME: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const HEADER: usize = 4;
const ENTRY: usize = 8;
/// The number in entries that name nobody.
const NOBODY: u32 = u32::MAX;

/// Whom an entry is about. The order is that in which a list has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Who {
    /// The owner of the flare.
    Owner,
    /// A user.
    User(u32),
    /// The group of the flare.
    Group,
    /// Another group.
    NamedGroup(u32),
    /// The most that named users and any group get.
    Mask,
    /// Everybody else.
    Other,
}

impl Who {
    fn tag(self) -> (u16, u32) {
        match self {
            Who::Owner => (0x01, NOBODY),
            Who::User(id) => (0x02, id),
            Who::Group => (0x04, NOBODY),
            Who::NamedGroup(id) => (0x08, id),
            Who::Mask => (0x10, NOBODY),
            Who::Other => (0x20, NOBODY),
        }
    }

    fn of(tag: u16, id: u32) -> Option<Who> {
        Some(match tag {
            0x01 => Who::Owner,
            0x02 => Who::User(id),
            0x04 => Who::Group,
            0x08 => Who::NamedGroup(id),
            0x10 => Who::Mask,
            0x20 => Who::Other,
            _ => return None,
        })
    }
}

/// A valid list: sorted, with an owner, a group and others once each, and with a mask if it names
/// anybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acl(Vec<(Who, u8)>);

/// The lists of a flare.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Acls {
    /// Who may do what; none when the mode says it all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<Acl>,
    /// What a directory gives to what is made in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Acl>,
}

impl Acls {
    /// Bytes that it takes in a message, at most: its numbers are encoded one by one.
    pub fn weight(&self) -> usize {
        let lists = [&self.access, &self.default];
        let entries: usize = lists.into_iter().flatten().map(|list| list.0.len()).sum();
        64 * entries
    }

    /// As a row keeps them: nothing for none.
    pub fn boxed(self) -> Option<Box<Acls>> {
        let some = self.access.is_some() || self.default.is_some();
        some.then(|| Box::new(self))
    }
}

impl Acl {
    /// From the value of the extended attribute. None for a list without entries, which takes the
    /// list away.
    ///
    /// # Errors
    ///
    /// `Invalid` for what is no valid list, `Unsupported` for another version.
    pub fn parse(value: &[u8]) -> OpResult<Option<Acl>> {
        let Some((version, entries)) = value.split_first_chunk::<HEADER>() else {
            return if value.is_empty() {
                Ok(None)
            } else {
                Err(OpError::Invalid)
            };
        };
        if u32::from_le_bytes(*version) != VERSION {
            return Err(OpError::Unsupported);
        }
        if entries.len() % ENTRY != 0 || entries.len() / ENTRY > ACL_ENTRIES_MAX {
            return Err(OpError::Invalid);
        }
        let mut list = Vec::with_capacity(entries.len() / ENTRY);
        for entry in entries.chunks_exact(ENTRY) {
            let [t0, t1, p0, p1, i0, i1, i2, i3] = *entry else {
                return Err(OpError::Invalid);
            };
            let (tag, rights) = (u16::from_le_bytes([t0, t1]), u16::from_le_bytes([p0, p1]));
            let who = Who::of(tag, u32::from_le_bytes([i0, i1, i2, i3]));
            match (who, u8::try_from(rights)) {
                (Some(who), Ok(rights)) if rights <= 7 => list.push((who, rights)),
                _ => return Err(OpError::Invalid),
            }
        }
        if list.is_empty() {
            return Ok(None);
        }
        list.sort_unstable();
        let acl = Acl(list);
        if acl.is_valid() {
            Ok(Some(acl))
        } else {
            Err(OpError::Invalid)
        }
    }

    fn is_valid(&self) -> bool {
        let twice = self.0.windows(2).any(|pair| pair[0].0 == pair[1].0);
        let names = self.0.iter().any(|(who, _)| is_named(*who));
        let nobody = |(who, _): &(Who, u8)| is_named(*who) && who.tag().1 == NOBODY;
        let all = [Who::Owner, Who::Group, Who::Other];
        !twice
            && !self.0.iter().any(nobody)
            && all.into_iter().all(|who| self.rights(who).is_some())
            && (!names || self.rights(Who::Mask).is_some())
    }

    /// The value of the extended attribute.
    pub fn encode(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for (who, rights) in &self.0 {
            let (tag, id) = who.tag();
            value.extend(tag.to_le_bytes());
            value.extend(u16::from(*rights).to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    }

    fn rights(&self, who: Who) -> Option<u8> {
        let found = self.0.iter().find(|(other, _)| *other == who);
        found.map(|(_, rights)| *rights)
    }

    fn set(&mut self, who: Who, rights: u32) {
        for entry in self.0.iter_mut().filter(|(other, _)| *other == who) {
            // Three bits.
            entry.1 = (rights & 7) as u8;
        }
    }

    /// Who the group bits of the mode are about: the mask if there is one.
    fn group_class(&self) -> Who {
        match self.rights(Who::Mask) {
            Some(_) => Who::Mask,
            None => Who::Group,
        }
    }

    /// The nine permission bits that it stands for.
    pub fn mode(&self) -> u32 {
        let bits = |who| u32::from(self.rights(who).unwrap_or_default());
        bits(Who::Owner) << 6 | bits(self.group_class()) << 3 | bits(Who::Other)
    }

    /// After chmod(2): the group bits become the mask.
    pub fn chmod(&mut self, mode: u32) {
        self.set(Who::Owner, mode >> 6);
        self.set(self.group_class(), mode >> 3);
        self.set(Who::Other, mode);
    }

    /// As a row keeps it: nothing when the mode says it all.
    pub fn beyond_mode(self) -> Option<Acl> {
        (self.0.len() > 3).then_some(self)
    }

    /// What a new flare gets of a directory's default list: no more than who makes it asked for. The
    /// umask has no say then.
    pub fn inherited(&self, mode: u32) -> Acl {
        let mut acl = self.clone();
        let rights = acl.mode() & mode;
        acl.chmod(rights);
        acl
    }

    /// Whether somebody gets all that is wanted (`rwx`).
    pub fn grants(
        &self,
        want: u32,
        is_owner: bool,
        uid: u32,
        has_group: bool,
        in_group: impl Fn(u32) -> bool,
    ) -> bool {
        let all = |rights: u8| want & !u32::from(rights) == 0;
        let masked = |rights: u8| all(rights & self.rights(Who::Mask).unwrap_or(7));
        if is_owner {
            return self.rights(Who::Owner).is_some_and(all);
        }
        if let Some(rights) = self.rights(Who::User(uid)) {
            return masked(rights);
        }
        let mut member = false;
        for (who, rights) in &self.0 {
            let applies = match who {
                Who::Group => has_group,
                Who::NamedGroup(id) => in_group(*id),
                _ => false,
            };
            if applies && masked(*rights) {
                return true;
            }
            member |= applies;
        }
        !member && self.rights(Who::Other).is_some_and(all)
    }
}

fn is_named(who: Who) -> bool {
    matches!(who, Who::User(_) | Who::NamedGroup(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};

    fn acl(entries: &[(Who, u8)]) -> Acl {
        let mut value = VERSION.to_le_bytes().to_vec();
        for (who, rights) in entries {
            let (tag, id) = who.tag();
            value.extend(tag.to_le_bytes());
            value.extend(u16::from(*rights).to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        Acl::parse(&value).expect("valid").expect("entries")
    }

    fn sample() -> Acl {
        acl(&[
            (Who::Owner, 7),
            (Who::User(1000), 7),
            (Who::Group, 4),
            (Who::NamedGroup(50), 6),
            (Who::Mask, 5),
            (Who::Other, 0),
        ])
    }

    #[test]
    fn what_is_valid() {
        let minimal = [(Who::Owner, 6), (Who::Group, 4), (Who::Other, 0)];
        assert_eq!(acl(&minimal).mode(), 0o640);
        assert_eq!(acl(&minimal).beyond_mode(), None);
        let refused = |entries: &[(Who, u8)]| {
            let value = Acl(entries.to_vec()).encode();
            assert_eq!(Acl::parse(&value), Err(OpError::Invalid), "{entries:?}");
        };
        refused(&minimal[..2]);
        refused(&[minimal.as_slice(), &[(Who::User(1), 4)]].concat());
        refused(&[minimal.as_slice(), &[(Who::Group, 4)]].concat());
        refused(
            &[
                minimal.as_slice(),
                &[(Who::User(NOBODY), 4), (Who::Mask, 7)],
            ]
            .concat(),
        );
        refused(&[(Who::Owner, 8), minimal[1], minimal[2]]);
        assert_eq!(Acl::parse(b""), Ok(None));
        assert_eq!(Acl::parse(&VERSION.to_le_bytes()), Ok(None));
        assert_eq!(Acl::parse(b"\x02\0\0"), Err(OpError::Invalid));
        assert_eq!(Acl::parse(&[3, 0, 0, 0]), Err(OpError::Unsupported));
        let many: Vec<_> = (0..600).map(|id| (Who::User(id), 4)).collect();
        refused(&[minimal.as_slice(), &many, &[(Who::Mask, 7)]].concat());
    }

    #[test]
    fn it_is_told_as_it_was_set() {
        let value = sample().encode();
        assert_eq!(Acl::parse(&value), Ok(Some(sample())));
        assert_eq!(value.len(), HEADER + 6 * ENTRY);
    }

    #[test]
    fn the_mask_is_the_group_bits_of_the_mode() {
        let mut list = sample();
        assert_eq!(list.mode(), 0o750);
        list.chmod(0o4612);
        assert_eq!(list.mode(), 0o612);
        assert_eq!(list.rights(Who::Group), Some(4), "it is left alone");
        assert_eq!(list.rights(Who::Mask), Some(1));
    }

    #[test]
    fn who_gets_what() {
        let list = sample();
        let gets = |want, owner, uid, has_group, groups: &[u32]| {
            list.grants(want, owner, uid, has_group, |id| groups.contains(&id))
        };
        assert!(gets(7, true, 1, false, &[]));
        // A named user, within the mask, whichever groups he is in.
        assert!(gets(5, false, 1000, false, &[]));
        assert!(!gets(2, false, 1000, true, &[50]));
        // One group must grant it all.
        assert!(gets(4, false, 2, true, &[]));
        assert!(!gets(1, false, 2, true, &[50]));
        assert!(gets(4, false, 2, false, &[50]));
        // Members get nothing as others.
        let mut open = sample();
        open.set(Who::Other, 7);
        assert!(!open.grants(1, false, 2, true, |_| false));
        assert!(open.grants(1, false, 2, false, |_| false));
        assert!(!gets(4, false, 2, false, &[]));
    }

    #[test]
    fn a_new_flare_gets_no_more_than_was_asked_for() {
        let made = sample().inherited(0o666);
        assert_eq!(made.mode(), 0o640);
        assert_eq!(made.rights(Who::User(1000)), Some(7));
        let plain = acl(&[(Who::Owner, 7), (Who::Group, 5), (Who::Other, 5)]);
        let made = plain.inherited(0o640);
        assert_eq!((made.mode(), made.beyond_mode()), (0o640, None));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(value in any::<Vec<u8>>()) {
            if let Ok(Some(list)) = Acl::parse(&value) {
                assert_eq!(Acl::parse(&list.encode()), Ok(Some(list)));
            }
        }
    }
}
