//! Directories, and attributes by the batch.

use futures::future::join_all;
use std::collections::BTreeMap;

use magma_core::error::{OpError, OpResult};
use magma_core::flare::Attr;
use magma_core::ids::{FlareRef, VolcanoId};
use magma_core::limits::{ATTR_BATCH_MAX, READDIR_BYTES_MAX};
use magma_core::op::{Answer, Credentials, ListedEntry, Op};

use super::Client;
use super::request::{Ask, unexpected};

/// A part of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Entries in order of cookie.
    pub entries: Vec<ListedEntry>,
    /// Nothing comes after these.
    pub end: bool,
}

impl Client {
    /// The entries after a cookie (0: from the start), about `max_bytes` of them.
    pub async fn readdir(
        &self,
        dir: FlareRef,
        after: u64,
        max_bytes: u32,
        cred: &Credentials,
    ) -> OpResult<Listing> {
        let op = Op::ReadDir {
            dir,
            after,
            max_bytes: max_bytes.min(READDIR_BYTES_MAX as u32),
        };
        let told = self.shared.ask(Ask::new(dir.key(), cred, op)).await?;
        let (list, end) = match told.answer {
            Answer::Entries { list, end } => (list, end),
            other => return Err(unexpected(&other)),
        };
        // A cookie that does not move on would make the reader go round for ever.
        let mut last = after;
        for entry in &list {
            if entry.cookie <= last {
                tracing::warn!(%dir, cookie = entry.cookie, last, "cookies out of order");
                return Err(OpError::Io);
            }
            last = entry.cookie;
        }
        Ok(Listing {
            end: end || list.is_empty(),
            entries: list,
        })
    }

    /// Attributes of many flares, in the order asked: one request to each owner.
    pub async fn getattrs(&self, flares: &[FlareRef], cred: &Credentials) -> Vec<OpResult<Attr>> {
        let lava = self.lava();
        let mut by_owner: BTreeMap<Option<VolcanoId>, Vec<usize>> = BTreeMap::new();
        for (at, flare) in flares.iter().enumerate() {
            by_owner
                .entry(lava.owner_of(flare.key()))
                .or_default()
                .push(at);
        }
        let batches = by_owner
            .values()
            .flat_map(|places| places.chunks(ATTR_BATCH_MAX))
            .map(|places| async move {
                let asked = places.iter().map(|&at| flares[at]).collect();
                (places, self.getattr_batch(asked, cred).await)
            });
        let mut all: Vec<OpResult<Attr>> = vec![Err(OpError::Io); flares.len()];
        for (places, answers) in join_all(batches).await {
            for (&at, answer) in places.iter().zip(answers) {
                all[at] = answer;
            }
        }
        all
    }

    async fn getattr_batch(
        &self,
        flares: Vec<FlareRef>,
        cred: &Credentials,
    ) -> Vec<OpResult<Attr>> {
        let Some(first) = flares.first() else {
            return Vec::new();
        };
        let op = Op::GetAttrs(flares.clone());
        let told = self.shared.ask(Ask::new(first.key(), cred, op)).await;
        let answers = match told.map(|told| told.answer) {
            Ok(Answer::Attrs(answers)) if answers.len() == flares.len() => answers,
            Ok(other) => vec![Err(unexpected(&other)); flares.len()],
            Err(error) => vec![Err(error); flares.len()],
        };
        let mut all = Vec::with_capacity(flares.len());
        for (flare, answer) in flares.into_iter().zip(answers) {
            // One that moved to another owner meanwhile is asked for by itself.
            all.push(match answer {
                Err(error) if error.is_transient() => {
                    self.getattr(flare, cred).await.map(|found| found.attr)
                }
                other => other,
            });
        }
        all
    }
}
