//! Extended attributes: names, and who may see and set them. xattr(7), getxattr(2),
//! setxattr(2), listxattr(2).

use crate::error::{OpError, OpResult};
use crate::flare::Kind;
use crate::limits::{XATTR_LIST_MAX, XATTR_NAME_MAX, XATTR_VALUE_MAX};

use super::permission::{Access, Guarded, may, owns};
use super::{Credentials, XattrMode};

/// The namespaces that Magma keeps, by the first part of the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrSpace {
    /// `user.`: anyone's, under the permission bits of the file.
    User,
    /// `trusted.`: seen and set by root only.
    Trusted,
    /// `security.`: kept for the kernel's security modules; set by root, seen by anyone.
    Security,
}

/// Checks a name and tells its namespace.
///
/// ERANGE for an empty or overlong name and EINVAL for a bare prefix, as Linux has it.
/// EOPNOTSUPP for any other namespace. Access control lists are kept elsewhere
/// ([`crate::flare::acl`]).
pub fn check_xattr_name(name: &[u8]) -> OpResult<XattrSpace> {
    if name.is_empty() || name.len() > XATTR_NAME_MAX {
        return Err(OpError::Range);
    }
    if name.contains(&0) {
        return Err(OpError::Invalid);
    }
    let spaces: [(&[u8], XattrSpace); 3] = [
        (b"user.", XattrSpace::User),
        (b"trusted.", XattrSpace::Trusted),
        (b"security.", XattrSpace::Security),
    ];
    for (prefix, space) in spaces {
        match name.strip_prefix(prefix) {
            Some([]) => return Err(OpError::Invalid),
            Some(_) => return Ok(space),
            None => {}
        }
    }
    Err(OpError::Unsupported)
}

/// Whether the caller may read an attribute. What it may not even know of is ENODATA.
pub fn may_get_xattr(flare: &impl Guarded, name: &[u8], cred: &Credentials) -> OpResult<()> {
    match check_xattr_name(name)? {
        XattrSpace::Security => Ok(()),
        XattrSpace::Trusted if cred.is_root() => Ok(()),
        XattrSpace::Trusted => Err(OpError::NoAttribute),
        XattrSpace::User if has_user_attributes(flare) => may(flare, cred, Access::READ),
        XattrSpace::User => Err(OpError::NoAttribute),
    }
}

/// Whether the caller may set or remove an attribute: EPERM, or EACCES where it is the
/// permission bits that forbid it.
pub fn may_set_xattr(flare: &impl Guarded, name: &[u8], cred: &Credentials) -> OpResult<()> {
    match check_xattr_name(name)? {
        XattrSpace::Trusted | XattrSpace::Security if cred.is_root() => Ok(()),
        XattrSpace::Trusted | XattrSpace::Security => Err(OpError::NotPermitted),
        XattrSpace::User if !has_user_attributes(flare) => Err(OpError::NotPermitted),
        XattrSpace::User if is_shared_dir(flare) && !owns(flare, cred) => {
            Err(OpError::NotPermitted)
        }
        XattrSpace::User => may(flare, cred, Access::WRITE),
    }
}

/// Whether a value may be put under a name, given the names that the flare has: EEXIST and
/// ENODATA by the mode, E2BIG for the value, ENOSPC when the list of names would be longer than
/// listxattr(2) can tell.
pub fn check_xattr_set<'a>(
    name: &[u8],
    value: &[u8],
    mode: XattrMode,
    names: impl IntoIterator<Item = &'a [u8]>,
) -> OpResult<()> {
    if value.len() > XATTR_VALUE_MAX {
        return Err(OpError::ArgumentTooBig);
    }
    let mut exists = false;
    let mut listed = 0;
    for other in names {
        exists |= other == name;
        listed += other.len() + 1;
    }
    match (mode, exists) {
        (XattrMode::Create, true) => return Err(OpError::Exists),
        (XattrMode::Replace, false) => return Err(OpError::NoAttribute),
        _ => {}
    }
    if !exists && listed + name.len() + 1 > XATTR_LIST_MAX {
        return Err(OpError::NoSpace);
    }
    Ok(())
}

/// The names as listxattr(2) gives them, each ended by NUL; `trusted.` for root only.
pub fn list_xattrs<'a>(
    names: impl IntoIterator<Item = &'a [u8]>,
    cred: &Credentials,
) -> OpResult<Vec<u8>> {
    let mut list = Vec::new();
    for name in names {
        if name.starts_with(b"trusted.") && !cred.is_root() {
            continue;
        }
        list.extend_from_slice(name);
        list.push(0);
    }
    if list.len() > XATTR_LIST_MAX {
        return Err(OpError::ArgumentTooBig);
    }
    Ok(list)
}

/// xattr(7): the permission bits of a device or a symbolic link are not about its storage, so
/// only files and directories have attributes of users.
fn has_user_attributes(flare: &impl Guarded) -> bool {
    matches!(flare.kind(), Kind::File | Kind::Directory)
}

/// A directory like `/tmp`, that anyone may write to and nobody may fill with attributes.
fn is_shared_dir(flare: &impl Guarded) -> bool {
    flare.kind() == Kind::Directory && flare.mode() & libc::S_ISVTX != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::samples::{cred, file, root, row};

    #[test]
    fn names() {
        let longest = [b"user.".as_slice(), &[b'n'; 250]].concat();
        let too_long = [longest.as_slice(), b"n"].concat();
        for (name, expected) in [
            (b"user.a".as_slice(), Ok(XattrSpace::User)),
            (&longest, Ok(XattrSpace::User)),
            (&too_long, Err(OpError::Range)),
            (b"", Err(OpError::Range)),
            (b"user.", Err(OpError::Invalid)),
            (b"user.a\0b", Err(OpError::Invalid)),
            (b"user.\xff", Ok(XattrSpace::User)),
            (b"trusted.x", Ok(XattrSpace::Trusted)),
            (b"security.selinux", Ok(XattrSpace::Security)),
            (b"system.posix_acl_access", Err(OpError::Unsupported)),
            (b"system.posix_acl_default", Err(OpError::Unsupported)),
            (b"user", Err(OpError::Unsupported)),
            (b"User.a", Err(OpError::Unsupported)),
            (b"nonsense", Err(OpError::Unsupported)),
        ] {
            assert_eq!(check_xattr_name(name), expected, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn who_may() {
        let owner = cred(1000, 1000, &[]);
        let stranger = cred(1001, 1001, &[]);
        let shared = file(0o646, 1000, 1000);
        let private = file(0o600, 1000, 1000);
        let read_only = file(0o444, 1000, 1000);
        let tmp = row(Kind::Directory, 0o1777, 0, 0);
        let link = row(Kind::Symlink, 0o777, 1000, 1000);
        let fifo = row(Kind::Fifo, 0o666, 1000, 1000);
        let (denied, refused, hidden) = (
            Err(OpError::Access),
            Err(OpError::NotPermitted),
            Err(OpError::NoAttribute),
        );
        let (user, trusted, security): (&[u8], &[u8], &[u8]) =
            (b"user.a", b"trusted.a", b"security.a");
        // Flare, name, caller, outcome of reading, outcome of setting.
        for (flare, name, who, get, set) in [
            (&shared, user, &owner, Ok(()), Ok(())),
            (&shared, user, &stranger, Ok(()), Ok(())),
            (&private, user, &stranger, denied.clone(), denied.clone()),
            (&read_only, user, &owner, Ok(()), denied.clone()),
            (&read_only, user, &root(), Ok(()), Ok(())),
            (&tmp, user, &stranger, Ok(()), refused.clone()),
            (&tmp, user, &root(), Ok(()), Ok(())),
            (&link, user, &root(), hidden.clone(), refused.clone()),
            (&fifo, user, &owner, hidden.clone(), refused.clone()),
            (&shared, trusted, &owner, hidden.clone(), refused.clone()),
            (&link, trusted, &root(), Ok(()), Ok(())),
            (&private, security, &stranger, Ok(()), refused.clone()),
            (&private, security, &root(), Ok(()), Ok(())),
        ] {
            let shown = name.escape_ascii();
            assert_eq!(may_get_xattr(flare, name, who), get, "get {shown} {who:?}");
            assert_eq!(may_set_xattr(flare, name, who), set, "set {shown} {who:?}");
        }
    }

    #[test]
    fn setting_by_mode_and_bounds() {
        let names: [&[u8]; 1] = [b"user.there"];
        let set = |name: &[u8], mode, len| check_xattr_set(name, &vec![0; len], mode, names);
        let (there, absent): (&[u8], &[u8]) = (b"user.there", b"user.absent");
        assert_eq!(set(there, XattrMode::Create, 1), Err(OpError::Exists));
        assert_eq!(set(absent, XattrMode::Create, 1), Ok(()));
        assert_eq!(set(there, XattrMode::Replace, 1), Ok(()));
        assert_eq!(
            set(absent, XattrMode::Replace, 1),
            Err(OpError::NoAttribute)
        );
        assert_eq!(set(absent, XattrMode::Either, XATTR_VALUE_MAX), Ok(()));
        assert_eq!(
            set(absent, XattrMode::Either, XATTR_VALUE_MAX + 1),
            Err(OpError::ArgumentTooBig)
        );
        let long = [b'n'; XATTR_NAME_MAX];
        let many = || std::iter::repeat_n(long.as_slice(), XATTR_LIST_MAX / 256);
        let set = |name| check_xattr_set(name, b"", XattrMode::Either, many());
        assert_eq!(set(absent), Err(OpError::NoSpace));
        assert_eq!(set(&long), Ok(()), "replacing adds no name");
        assert_eq!(
            list_xattrs(many(), &root()).map(|list| list.len()),
            Ok(XATTR_LIST_MAX)
        );
    }

    #[test]
    fn lists() {
        let names: [&[u8]; 3] = [b"security.a", b"trusted.b", b"user.c"];
        let listed = |who: &Credentials| list_xattrs(names, who).expect("short");
        assert_eq!(listed(&root()), b"security.a\0trusted.b\0user.c\0");
        assert_eq!(listed(&cred(1, 1, &[])), b"security.a\0user.c\0");
    }
}
