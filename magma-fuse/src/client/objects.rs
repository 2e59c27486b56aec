//! Operations on one flare: attributes, opening, links' targets, extended attributes.

use std::sync::Arc;
use std::time::Duration;

use magma_core::error::{OpError, OpResult};
use magma_core::flare::Attr;
use magma_core::flare::acl::{ACCESS_NAME, DEFAULT_NAME};
use magma_core::ids::FlareRef;
use magma_core::key::{self, Key};
use magma_core::limits::{XATTR_NAME_MAX, XATTR_VALUE_MAX};
use magma_core::op::{Answer, Credentials, Inspection, Op, SetAttr, XattrMode};

use super::Client;
use super::names::Found;
use super::path::Node;
use super::request::{Ask, Told, unexpected};

/// What a file is opened for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenFor {
    /// Reading.
    pub read: bool,
    /// Writing.
    pub write: bool,
    /// Cut it to nothing first.
    pub truncate: bool,
}

impl Client {
    /// The root of the tree.
    pub async fn root(&self) -> OpResult<Arc<Node>> {
        let cred = Credentials::root();
        let told = self.ask_flare(key::ROOT, &cred, Op::GetRoot).await?;
        let found = Found::from_told(told)?;
        Ok(Node::root(found.attr.flare))
    }

    /// Attributes.
    pub async fn getattr(&self, flare: FlareRef, cred: &Credentials) -> OpResult<Found> {
        if let Some(attr) = self.attr_known(flare) {
            return Ok(Found { attr });
        }
        let told = self.ask_flare(flare.key(), cred, Op::GetAttr(flare));
        Found::from_told(told.await?)
    }

    /// Attributes, if nobody need be asked.
    pub fn attr_known(&self, flare: FlareRef) -> Option<Attr> {
        self.shared.touch();
        self.shared.cache.attr(flare).map(|(attr, _)| attr)
    }

    /// How long these attributes may be shown without asking; nothing when there are newer ones.
    pub fn attr_left(&self, shown: &Attr) -> Duration {
        let known = self.shared.cache.attr(shown.flare);
        known.map_or(Duration::ZERO, |(attr, left)| match attr.is_as(shown) {
            true => left,
            false => Duration::ZERO,
        })
    }

    /// Changes attributes, all or none.
    pub async fn setattr(
        &self,
        flare: FlareRef,
        set: SetAttr,
        cred: &Credentials,
    ) -> OpResult<Found> {
        let told = self.ask_flare(flare.key(), cred, Op::SetAttr(flare, set));
        Found::from_told(told.await?)
    }

    /// Opens a regular file. Each success wants a [`Client::close_file`].
    pub async fn open(&self, flare: FlareRef, how: OpenFor, cred: &Credentials) -> OpResult<Found> {
        if let Some(attr) = self.open_known(flare, how, cred) {
            return Ok(Found { attr });
        }
        let opening = self.shared.opens.opening();
        let op = Op::Open {
            flare,
            read: how.read,
            write: how.write,
            truncate: how.truncate,
            number: opening.number(),
        };
        let told = self.ask_flare(flare.key(), cred, op).await?;
        opening.done(flare, !told.again);
        Found::from_told(told)
    }

    /// Puts everything about a file or directory on the disks of all copies.
    pub async fn fsync(
        &self,
        flare: FlareRef,
        data_only: bool,
        cred: &Credentials,
    ) -> OpResult<()> {
        let op = Op::Fsync { flare, data_only };
        done(self.ask_flare(flare.key(), cred, op).await?)
    }

    /// The target of a symbolic link.
    pub async fn readlink(&self, flare: FlareRef, cred: &Credentials) -> OpResult<Vec<u8>> {
        if let Some(target) = self.shared.cache.target(flare) {
            return Ok(target);
        }
        let told = self.ask_flare(flare.key(), cred, Op::ReadLink(flare));
        match told.await?.answer {
            Answer::Target(target) => Ok(target),
            other => Err(unexpected(&other)),
        }
    }

    /// The value of an extended attribute.
    pub async fn getxattr(
        &self,
        flare: FlareRef,
        name: &[u8],
        cred: &Credentials,
    ) -> OpResult<Vec<u8>> {
        check_xattr_name(name)?;
        if let Some(list) = self.list_known(flare, name) {
            return list;
        }
        let op = Op::GetXattr(flare, name.to_vec());
        value(self.ask_flare(flare.key(), cred, op).await?)
    }

    /// An access control list, if the name is that of one and nobody need be asked.
    pub fn list_known(&self, flare: FlareRef, name: &[u8]) -> Option<OpResult<Vec<u8>>> {
        let acls = self.attr_known(flare)?.acls;
        let list = match name {
            ACCESS_NAME => acls.and_then(|acls| acls.access),
            DEFAULT_NAME => acls.and_then(|acls| acls.default),
            _ => return None,
        };
        Some(list.map(|list| list.encode()).ok_or(OpError::NoAttribute))
    }

    /// Sets an extended attribute.
    pub async fn setxattr(
        &self,
        flare: FlareRef,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
        cred: &Credentials,
    ) -> OpResult<()> {
        check_xattr_name(name)?;
        if value.len() > XATTR_VALUE_MAX {
            return Err(OpError::ArgumentTooBig);
        }
        let op = Op::SetXattr(flare, name.to_vec(), value.to_vec(), mode);
        done(self.ask_flare(flare.key(), cred, op).await?)
    }

    /// The names of all extended attributes, each ended by NUL.
    pub async fn listxattr(&self, flare: FlareRef, cred: &Credentials) -> OpResult<Vec<u8>> {
        value(
            self.ask_flare(flare.key(), cred, Op::ListXattr(flare))
                .await?,
        )
    }

    /// Removes an extended attribute.
    pub async fn removexattr(
        &self,
        flare: FlareRef,
        name: &[u8],
        cred: &Credentials,
    ) -> OpResult<()> {
        check_xattr_name(name)?;
        let op = Op::RemoveXattr(flare, name.to_vec());
        done(self.ask_flare(flare.key(), cred, op).await?)
    }

    /// Everything that the owner of a key knows of the flare under it.
    pub async fn inspect(&self, key: Key, cred: &Credentials) -> OpResult<Inspection> {
        match self.ask_flare(key, cred, Op::Inspect(key)).await?.answer {
            Answer::Inspection(inspection) => Ok(*inspection),
            other => Err(unexpected(&other)),
        }
    }

    async fn ask_flare(&self, key: Key, cred: &Credentials, op: Op) -> OpResult<Told> {
        self.shared.ask(Ask::new(key, cred, op)).await
    }
}

pub(super) fn done(told: Told) -> OpResult<()> {
    match told.answer {
        Answer::Done | Answer::Attr(_) | Answer::Unlinked { .. } => Ok(()),
        other => Err(unexpected(&other)),
    }
}

fn value(told: Told) -> OpResult<Vec<u8>> {
    match told.answer {
        Answer::Value(value) => Ok(value),
        other => Err(unexpected(&other)),
    }
}

fn check_xattr_name(name: &[u8]) -> OpResult<()> {
    if name.is_empty() || name.len() > XATTR_NAME_MAX {
        return Err(OpError::Range);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_extended_attributes() {
        assert_eq!(check_xattr_name(b"user.x"), Ok(()));
        assert_eq!(check_xattr_name(b""), Err(OpError::Range));
        assert_eq!(check_xattr_name(&[b'a'; 256]), Err(OpError::Range));
    }
}
