//! Looking ahead: who asks for one name of a directory after another is spared most questions.
//!
//! After a few lookups that had to ask, a directory is listed in the background; then every
//! name in it is known, and so is that others are not there. Who goes through the names in the
//! order of the listing (`ls -l`, `find`, `rsync`, a build) gets attributes by the batch, one
//! request to each owner, more at a time the longer it goes on.

use std::collections::BTreeMap;
use std::sync::Arc;

use magma_core::error::{OpError, OpResult};
use magma_core::flare::Attr;
use magma_core::ids::{FlareRef, VolcanoId};
use magma_core::limits::READDIR_BATCH;
use magma_core::op::{Answer, Credentials, Op};

use super::Shared;
use super::request::{Ask, unexpected};

impl Shared {
    /// A lookup in a directory had to ask: lists the next part of it if that is worth while.
    pub(crate) fn missed_name(self: &Arc<Self>, dir: FlareRef, cred: &Credentials) {
        let Some(after) = self.cache.worth_listing(dir) else {
            return;
        };
        let op = Op::ReadDir {
            dir,
            after,
            max_bytes: READDIR_BATCH,
        };
        let (client, ask) = (self.clone(), Ask::new(dir.key(), cred, op));
        self.runtime.spawn(async move {
            // The cache takes what was answered; who may not list goes on asking name by name.
            let listed = client.ask(ask).await;
            client.cache.listed(dir, listed.is_ok());
        });
    }

    /// The attributes of a flare that a directory is known to name, and in passing those of
    /// the ones that are likely to be asked for next.
    pub(crate) async fn attr_of_child(
        self: &Arc<Self>,
        dir: FlareRef,
        child: FlareRef,
        cred: &Credentials,
    ) -> OpResult<Attr> {
        let ahead = self.cache.next_children(dir, child);
        if ahead.is_empty() {
            let ask = Ask::new(child.key(), cred, Op::GetAttr(child));
            return match self.ask(ask).await?.answer {
                Answer::Attr(attr) => Ok(*attr),
                other => Err(unexpected(&other)),
            };
        }
        let lava = self.routing.lava();
        let owner = lava.owner_of(child.key());
        let mut by_owner: BTreeMap<Option<VolcanoId>, Vec<FlareRef>> = BTreeMap::new();
        by_owner.insert(owner, vec![child]);
        for flare in ahead {
            let theirs = by_owner.entry(lava.owner_of(flare.key())).or_default();
            theirs.push(flare);
        }
        let mut first = None;
        for (whose, flares) in by_owner {
            let Some(routed) = flares.first() else {
                continue;
            };
            let ask = Ask::new(routed.key(), cred, Op::GetAttrs(flares));
            let client = self.clone();
            let task = self.runtime.spawn(async move { client.ask(ask).await });
            if whose == owner {
                first = Some(task);
            }
        }
        let told = match first {
            Some(task) => task.await.unwrap_or(Err(OpError::Unreachable))?,
            None => return Err(OpError::Unreachable),
        };
        match told.answer {
            Answer::Attrs(attrs) => attrs.into_iter().next().unwrap_or(Err(OpError::Io)),
            other => Err(unexpected(&other)),
        }
    }
}
