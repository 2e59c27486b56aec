//! fsync: everything about a flare on the disks of all in-sync copies.
//!
//! Locally: the content is put on the disk by the I/O pool, then the batch in which that is
//! known commits with full sync, so that the rows (this flare's, and all others before) are
//! on the disk too. On each copy the same, behind the operations already sent to it: the
//! request travels on the same ordered lane. Fsyncs that come together share one flush.

use std::collections::{BTreeMap, BTreeSet};

use super::Engine;
use super::event::{Action, Io, IoJob};
use super::request::{RequestState, Step};
use crate::error::OpError;
use crate::flare::Layout;
use crate::ids::{FlareRef, Seq, SliceId, VolcanoId};
use crate::op::Answer;
use crate::store::{Durability, Store, StoreResult};
use crate::wire::peer::PeerMessage;

/// Fsyncs under way, as owner and as copy.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    owner: BTreeMap<u64, OwnerSync>,
    copy: BTreeMap<u64, CopySync>,
    /// What the next commit with full sync completes.
    at_commit: Vec<u64>,
}

#[derive(Debug)]
struct OwnerSync {
    state: Box<RequestState>,
    answer: Answer,
    flare: FlareRef,
    slice: SliceId,
    seq: Seq,
    /// Our own disk has it.
    local: bool,
    /// Copies that have not answered.
    copies: BTreeSet<VolcanoId>,
    failed: bool,
}

#[derive(Debug)]
struct CopySync {
    owner: VolcanoId,
    slice: SliceId,
    token: u64,
}

impl<S: Store> Engine<S> {
    pub(super) fn fsync(
        &mut self,
        state: &mut RequestState,
        flare: FlareRef,
        _data_only: bool,
    ) -> StoreResult<Step<S>> {
        self.fsync_with(state, flare, None)
    }

    /// Syncs, then answers: with `answer` where the sync belongs to a write.
    pub(super) fn fsync_with(
        &mut self,
        state: &mut RequestState,
        flare: FlareRef,
        answer: Option<Answer>,
    ) -> StoreResult<Step<S>> {
        if let Err(error) = self.live(flare)? {
            return Step::err(error);
        }
        let slice = state.slice;
        let answer = answer.unwrap_or(Answer::Done);
        Step::waits(move |engine, state| {
            let Some(owned) = engine.owned.get(&slice) else {
                engine.refuse(*state, OpError::TryAgain);
                return Ok(());
            };
            let seq = owned.last;
            let copies: BTreeSet<VolcanoId> = owned
                .copies
                .iter()
                .filter(|(_, c)| c.counts)
                .map(|(id, _)| *id)
                .collect();
            let token = engine.token();
            // The operations of this batch go first, on the same lane.
            engine.flush_ships();
            for copy in &copies {
                engine.send(
                    *copy,
                    PeerMessage::SyncTo {
                        slice,
                        flare,
                        seq,
                        token,
                    },
                );
            }
            let sync = OwnerSync {
                state,
                answer,
                flare,
                slice,
                seq,
                local: false,
                copies,
                failed: false,
            };
            engine.syncs.owner.insert(token, sync);
            engine.sync_here(token, flare)
        })
    }

    /// Begins the local half: content first, rows with the commit after it.
    fn sync_here(&mut self, token: u64, flare: FlareRef) -> StoreResult<()> {
        let row = self.cache.flare(&self.store, flare.key())?;
        let in_file = row.is_some_and(|row| row.layout == Layout::Segments);
        if in_file && self.store.content().is_some() {
            let job = self.token();
            self.io.insert(job, Io::Sync(token));
            self.act(Action::Io {
                job,
                io: IoJob::Sync { flare },
            });
        } else {
            if in_file {
                self.store.sync_content(flare)?;
            }
            self.content_synced(token, true);
        }
        Ok(())
    }

    /// The content is on the disk (or the disk failed): the rows go with this commit.
    pub(super) fn content_synced(&mut self, token: u64, ok: bool) {
        if let Some(sync) = self.syncs.owner.get_mut(&token) {
            sync.failed |= !ok;
        } else if !ok {
            // As a copy: say so instead of answering.
            if let Some(sync) = self.syncs.copy.remove(&token) {
                let (slice, token) = (sync.slice, sync.token);
                self.send(
                    sync.owner,
                    PeerMessage::Synced {
                        slice,
                        token,
                        ok: false,
                    },
                );
            }
            return;
        }
        self.durability = Durability::Disk;
        self.syncs.at_commit.push(token);
    }

    /// A commit with full sync is done.
    pub(super) fn disk_committed(&mut self) {
        for token in std::mem::take(&mut self.syncs.at_commit) {
            if let Some(sync) = self.syncs.owner.get_mut(&token) {
                sync.local = true;
                self.finish_sync(token);
            } else if let Some(sync) = self.syncs.copy.remove(&token) {
                let (slice, token) = (sync.slice, sync.token);
                self.send(
                    sync.owner,
                    PeerMessage::Synced {
                        slice,
                        token,
                        ok: true,
                    },
                );
            }
        }
    }

    /// Copy: the owner wants a flare on the disk. The operations up to `_seq` came before,
    /// on the same lane.
    pub(super) fn sync_to(
        &mut self,
        owner: VolcanoId,
        slice: SliceId,
        flare: FlareRef,
        seq: Seq,
        token: u64,
    ) -> StoreResult<()> {
        let there = self
            .held
            .get(&slice)
            .is_some_and(|h| h.whole && h.position.1 >= seq);
        if !there {
            // Operations were lost with a connection: the owner asks again after it has sent
            // them again.
            return Ok(());
        }
        let ours = self.token();
        self.syncs.copy.insert(
            ours,
            CopySync {
                owner,
                slice,
                token,
            },
        );
        self.sync_here(ours, flare)
    }

    /// Owner: a copy has it on its disk.
    pub(super) fn synced(&mut self, from: VolcanoId, token: u64, ok: bool) {
        if let Some(sync) = self.syncs.owner.get_mut(&token) {
            sync.copies.remove(&from);
            sync.failed |= !ok;
            self.finish_sync(token);
        }
    }

    fn finish_sync(&mut self, token: u64) {
        let done = self
            .syncs
            .owner
            .get(&token)
            .is_some_and(|sync| sync.failed || (sync.local && sync.copies.is_empty()));
        if !done {
            return;
        }
        let Some(mut sync) = self.syncs.owner.remove(&token) else {
            return;
        };
        if sync.failed {
            self.refuse(*sync.state, OpError::Io);
            return;
        }
        sync.state.gate = sync.state.gate.max(sync.seq);
        sync.state.results.push(Ok(sync.answer));
        self.local
            .push_back(super::event::Work::Request(sync.state));
    }

    /// What a broken connection may have swallowed is asked again.
    pub(super) fn resend_syncs(&mut self, to: VolcanoId) {
        let again: Vec<PeerMessage> = self
            .syncs
            .owner
            .iter()
            .filter(|(_, sync)| sync.copies.contains(&to))
            .map(|(token, sync)| PeerMessage::SyncTo {
                slice: sync.slice,
                flare: sync.flare,
                seq: sync.seq,
                token: *token,
            })
            .collect();
        for message in again {
            self.send(to, message);
        }
    }

    /// Copies that count no longer are not waited for.
    pub(super) fn forget_sync_copies(&mut self) {
        let owned = &self.owned;
        let mut done = Vec::new();
        for (token, sync) in &mut self.syncs.owner {
            let counting = owned.get(&sync.slice);
            sync.copies.retain(|id| {
                counting
                    .and_then(|o| o.copies.get(id))
                    .is_some_and(|copy| copy.counts)
            });
            done.push(*token);
        }
        for token in done {
            self.finish_sync(token);
        }
    }

    /// Fsyncs whose copies have not answered for a while are asked again.
    pub(super) fn remind_syncs(&mut self) {
        let waiting: BTreeSet<VolcanoId> = self
            .syncs
            .owner
            .values()
            .flat_map(|sync| sync.copies.iter().copied())
            .collect();
        for volcano in waiting {
            if self.up.contains(&volcano) {
                self.resend_syncs(volcano);
            }
        }
    }
}
