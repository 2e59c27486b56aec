//! A new lava: slices come, go, are cut and change owner.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Engine;
use super::event::Release;
use super::parking::Wait;
use super::slices::{Copy, Held, Owned, Stream};
use crate::effect::Effect;
use crate::error::OpError;
use crate::ids::{Seq, SessionId, SliceId, TxId, VolcanoId};
use crate::key::ROOT;
use crate::lava::{Lava, Slice};
use crate::store::{Store, StoreResult};
use crate::wire::flare_protocol::ToClient;
use crate::wire::peer::PeerMessage;

/// A cut that has not come to a copy for this long is not waited for, in milliseconds.
const CUT_LIMIT_MS: u64 = 5_000;

impl<S: Store> Engine<S> {
    /// Follows a lava. Older ones, and the one that is known, change nothing.
    pub(super) fn load_lava(&mut self, lava: Lava) -> StoreResult<()> {
        if lava.epoch <= self.lava.epoch && self.lava.epoch.0 > 0 {
            return Ok(());
        }
        let first = self.lava.epoch.0 == 0;
        self.fence.learn(lava.epoch);
        let before = std::mem::replace(&mut self.lava, lava);
        // In the order in which they were cut, so that each finds the one that it was cut off.
        let mut slices = self.lava.slices.clone();
        slices.sort_by_key(|slice| slice.id);
        for slice in &slices {
            if slice.owner == self.me {
                self.own_slice(slice, &before)?;
            } else if slice.copy_on(self.me).is_some() {
                self.copy_slice(slice, &before)?;
            }
        }
        self.leave_slices(&slices)?;
        self.leave_transactions();
        if first {
            self.clear_strangers()?;
        }
        self.opens_follow(&before);
        self.end_sessions(&before)?;
        self.locks_follow(&before);
        self.forget_sync_copies();
        self.forget_doubts();
        self.try_to_serve()?;
        if let Some(change) = &self.proposing {
            tracing::debug!(target: "magma::r", ?change, epoch = %self.lava.epoch, "a proposal is under way");
        }
        let epoch = self.lava.epoch;
        let woken = self.parking.wake_epochs(epoch);
        self.local.extend(woken);
        if !first {
            for session in self
                .lava
                .sessions
                .iter()
                .map(|session| session.id)
                .collect::<Vec<_>>()
            {
                self.act(super::Action::Tell {
                    session,
                    message: ToClient::LavaChanged(epoch),
                });
            }
        }
        Ok(())
    }

    fn own_slice(&mut self, slice: &Slice, before: &Lava) -> StoreResult<()> {
        if !self.owned.contains_key(&slice.id) {
            let promoted = self.held.remove(&slice.id).map(|held| held.position);
            let stored = self.store.position(slice.id)?;
            // A slice of ours that has no history was cut off one of ours, and lies above it:
            // just now, or while this volcano was down.
            let cut_from = self
                .lava
                .slices
                .iter()
                .rev()
                .filter(|below| below.start < slice.start)
                .map(|below| below.id)
                .find(|below| self.owned.contains_key(below))
                .filter(|_| promoted.is_none() && stored.is_none());
            if let Some(from) = cut_from {
                self.cut_owned(from, slice)?;
                if slice.seized && before.owner_of(slice.start) != Some(self.me) {
                    // Its owner cut it off and died before we knew of either.
                    self.take_over(slice, true)?;
                }
            } else {
                let at = promoted.or(stored).unwrap_or_default();
                let mut owned = Owned::new(slice.id, slice.start, slice.end, at);
                if promoted.is_none() && slice.in_sync().next().is_some() {
                    owned.doubt();
                    if !self.serving {
                        owned.doubts = slice.in_sync().map(|volcano| (volcano, None)).collect();
                    }
                }
                self.owned.insert(slice.id, owned);
                // What an earlier owner, or life, has left unfinished.
                let unsettled = self.store.unsettled(slice.start, slice.end, usize::MAX)?;
                self.maybe_unsettled.extend(unsettled);
                if promoted.is_some() {
                    tracing::info!(target: "magma::r", slice = %slice.id, home = %self.lava.nick(slice.home), "this volcano is the owner now");
                }
                if slice.seized {
                    self.take_over(slice, promoted.is_some())?;
                }
            }
        }
        let Some(owned) = self.owned.get_mut(&slice.id) else {
            return Ok(());
        };
        (owned.start, owned.end) = (slice.start, slice.end);
        // What a copy has is not known before it says so; one that counted is said to have what
        // was acknowledged.
        let acked = owned.acked;
        owned
            .copies
            .retain(|volcano, _| slice.copy_on(*volcano).is_some());
        let counted = |volcano: VolcanoId| {
            let copy = before.slice(slice.id).and_then(|s| s.copy_on(volcano));
            copy.is_some_and(|copy| copy.in_sync)
        };
        for copy in &slice.copies {
            let known = owned.copies.entry(copy.volcano).or_insert(Copy {
                acked,
                counts: copy.in_sync,
                lacks: Seq(0),
                stream: Stream::Down,
            });
            known.counts |= copy.in_sync;
            let dead = self.lava.is_down(copy.volcano);
            if !copy.in_sync && (dead || counted(copy.volcano)) {
                // It was found dead: nothing waits for it, and what it has is to be heard anew.
                known.counts = false;
                known.stream = Stream::Down;
            }
        }
        if slice.contains(ROOT)
            && owned.last == Seq(0)
            && self.cache.flare(&self.store, ROOT)?.is_none()
        {
            self.create_root(slice.id)?;
        }
        Ok(())
    }

    /// The owner was found dead, and we go on from what we have, which is all that it ever
    /// acknowledged. An operation that changes nothing comes first: it tells our history from the
    /// dead one's, and what is answered waits until every copy that counts has it, and so all
    /// that we may show. After a start of ours only the dead one's leases are to be thought of.
    fn take_over(&mut self, slice: &Slice, just_now: bool) -> StoreResult<()> {
        if just_now {
            let first = self.commit(slice.id, Vec::new())?;
            if let Some(owned) = self.owned.get_mut(&slice.id) {
                owned.took_over = first;
            }
        }
        let sessions = self.lava.sessions.iter().map(|session| session.id);
        self.leases.taken_over(
            (slice.start, slice.end),
            slice.since,
            sessions.collect(),
            self.now.moment,
        );
        Ok(())
    }

    /// The upper part of an owned slice becomes a slice of its own. The cut is an operation
    /// of the old slice, so that its copies cut at the same point of its history.
    fn cut_owned(&mut self, from: SliceId, slice: &Slice) -> StoreResult<()> {
        let epoch = self.lava.epoch;
        let effect = Effect::Cut {
            to: slice.id,
            start: slice.start,
            end: slice.end,
            epoch,
        };
        let cut = self.commit(from, vec![effect])?;
        let mut copies = BTreeMap::new();
        if let Some(old) = self.owned.get_mut(&from) {
            old.cut = cut;
            for (volcano, copy) in &old.copies {
                let live = copy.counts && matches!(copy.stream, Stream::Live);
                let stream = if live { Stream::Live } else { Stream::Down };
                copies.insert(
                    *volcano,
                    Copy {
                        acked: Seq(0),
                        counts: copy.counts,
                        lacks: copy.lacks.min(Seq(1)),
                        stream,
                    },
                );
            }
        }
        let dirty = self
            .owned
            .get(&from)
            .map(|old| old.dirty_in(slice.start, slice.end));
        let at = (epoch, Seq(0));
        let mut owned = Owned::new(slice.id, slice.start, slice.end, at);
        owned.copies = copies;
        self.owned.insert(slice.id, owned);
        // Its history begins with an operation that changes nothing. A copy that has it has
        // the cut too, and everything before: so answers wait for it, and so does a new owner.
        let first = self.commit(slice.id, Vec::new())?;
        if let (Some(owned), Some(dirty)) = (self.owned.get_mut(&slice.id), dirty) {
            owned.cut = first;
            owned.gate_by_last(dirty);
        }
        for pending in self.pending.values_mut() {
            if pending.slice == from && slice.contains(pending.key()) {
                pending.slice = slice.id;
                pending.gate = pending.gate.min(first);
                if let Some(state) = &mut pending.state {
                    state.follow_cut(slice.id);
                }
            }
        }
        Ok(())
    }

    fn copy_slice(&mut self, slice: &Slice, before: &Lava) -> StoreResult<()> {
        let whole_in_lava = slice.copy_on(self.me).is_some_and(|copy| copy.in_sync);
        if let Some(mut owned) = self.owned.remove(&slice.id) {
            // It was ours and has moved. Unless it was handed over we may hold operations that the
            // new owner never had: it finds out when we say how far our history goes.
            let (position, whole) = ((owned.last_epoch, owned.last), true);
            self.firm = true;
            self.abandon(&mut owned);
            let held = Held {
                owner: slice.owner,
                position,
                whole,
                filling: 0,
                cursor: None,
                attached: false,
            };
            self.held.insert(slice.id, held);
            self.local.extend(self.parking.wake(Wait::Slice(slice.id)));
        }
        match self.held.get_mut(&slice.id) {
            Some(held) if held.owner == slice.owner => return Ok(()),
            Some(held) => {
                held.owner = slice.owner;
                held.attached = false;
            }
            None => {
                let stored = self.store.position(slice.id)?;
                let cut = before.slice_of(slice.start).map(|old| old.id);
                let cut_from_held = cut
                    .filter(|old| *old != slice.id)
                    .and_then(|old| self.held.get(&old))
                    .is_some_and(|held| held.whole);
                if stored.is_none() && (cut_from_held || whole_in_lava) {
                    // The cut itself is still on its way in the stream of the old slice.
                    return Ok(());
                }
                let held = Held {
                    owner: slice.owner,
                    position: stored.unwrap_or_default(),
                    whole: stored.is_some(),
                    filling: 0,
                    cursor: None,
                    attached: false,
                };
                self.held.insert(slice.id, held);
            }
        }
        self.attach(slice.id);
        Ok(())
    }

    /// As a copy: tells the owner what we hold.
    pub(super) fn attach(&mut self, slice: SliceId) {
        let Some(held) = self.held.get(&slice) else {
            return;
        };
        if self.up.contains(&held.owner) {
            let (owner, have) = (held.owner, held.whole.then_some(held.position));
            self.send(owner, PeerMessage::ShipFrom { slice, have });
        }
    }

    /// A copy whose cut should come in the stream of another slice may have stopped being a
    /// copy of that one before: then the cut never comes, and it must be filled.
    pub(super) fn hold_uncut(&mut self) {
        let now = self.now.moment;
        let uncut: Vec<(SliceId, VolcanoId)> = self
            .lava
            .copied_on(self.me)
            .filter(|slice| !self.held.contains_key(&slice.id))
            .map(|slice| (slice.id, slice.owner))
            .collect();
        self.uncut
            .retain(|id, _| uncut.iter().any(|(slice, _)| slice == id));
        for (id, owner) in uncut {
            let since = *self.uncut.entry(id).or_insert(now);
            if since.plus_ms(CUT_LIMIT_MS) <= now {
                let held = Held {
                    owner,
                    position: Default::default(),
                    whole: false,
                    filling: 0,
                    cursor: None,
                    attached: false,
                };
                self.held.insert(id, held);
                self.attach(id);
            }
        }
    }

    /// Slices that are neither ours nor copied here any more. Their rows go in the
    /// background, and only now that the lava says that others hold them.
    fn leave_slices(&mut self, slices: &[Slice]) -> StoreResult<()> {
        let me = self.me;
        let mine = |id: &SliceId| {
            slices
                .iter()
                .any(|s| s.id == *id && (s.owner == me || s.copy_on(me).is_some()))
        };
        let gone: Vec<SliceId> = self
            .owned
            .keys()
            .chain(self.held.keys())
            .filter(|id| !mine(id))
            .copied()
            .collect();
        for id in gone {
            if let Some(mut owned) = self.owned.remove(&id) {
                self.abandon(&mut owned);
                self.local.extend(self.parking.wake(Wait::Slice(id)));
            }
            self.held.remove(&id);
            if let Some(slice) = slices.iter().find(|slice| slice.id == id) {
                tracing::info!(target: "magma::r", slice = %id, "its rows here are no longer needed");
                self.clearing.push((id, slice.start, slice.end));
            }
        }
        Ok(())
    }

    /// A slice has left. What waits for its operations is not so, as far as the new owner
    /// knows: clients ask there again, and steps are asked for again.
    fn abandon(&mut self, owned: &mut Owned) {
        for release in owned.abandon() {
            if let Release::Reply {
                token, mut reply, ..
            } = release
            {
                reply.results = vec![Err(OpError::TryAgain)];
                let payload = Bytes::new();
                self.release(Release::Reply {
                    token,
                    reply,
                    payload,
                });
            }
        }
    }

    /// Transactions of slices that have left are driven by the new owner, who finds what is
    /// unfinished in the rows.
    fn leave_transactions(&mut self) {
        let gone: Vec<TxId> = self
            .pending
            .iter()
            .filter(|(_, pending)| !self.owned.contains_key(&pending.slice))
            .map(|(tx, _)| *tx)
            .collect();
        for tx in gone {
            self.unhold(tx);
            let state = self.pending.remove(&tx).and_then(|pending| pending.state);
            if let Some(state) = state {
                self.refuse(*state, OpError::TryAgain);
            }
        }
    }

    /// At a start: rows of slices that went elsewhere while we were clearing them.
    fn clear_strangers(&mut self) -> StoreResult<()> {
        for slice in self.lava.slices.clone() {
            let ours = slice.owner == self.me || slice.copy_on(self.me).is_some();
            if !ours && self.store.last_key(slice.start, slice.end)?.is_some() {
                self.clearing.push((slice.id, slice.start, slice.end));
            }
        }
        Ok(())
    }

    /// Deletes a bounded number of rows that are no longer ours.
    pub(super) fn clear_some(&mut self) -> StoreResult<()> {
        let Some((id, start, end)) = self.clearing.last().copied() else {
            return Ok(());
        };
        let ours_again = self.lava.slices.iter().any(|slice| {
            slice.start <= end
                && start <= slice.end
                && (slice.owner == self.me || slice.copy_on(self.me).is_some())
        });
        if ours_again {
            self.clearing.pop();
            return Ok(());
        }
        self.cache.clear();
        // First of all: should the slice come back before all rows have gone, it must be filled and
        // not go on from where it was.
        self.rows().forget_slice(id)?;
        if !self.rows().clear_range(start, end, 256)? {
            self.clearing.pop();
        }
        Ok(())
    }

    /// What sessions that have ended held is free.
    fn end_sessions(&mut self, before: &Lava) -> StoreResult<()> {
        let ended: Vec<SessionId> = before
            .sessions
            .iter()
            .map(|session| session.id)
            .filter(|id| !self.lava.has_session(*id))
            .collect();
        if ended.is_empty() {
            return Ok(());
        }
        self.end_leases(&ended);
        self.end_locks(&ended);
        self.end_opens(&ended)
    }

    /// Stops ordering operations of a slice; when nothing is under way, its shell is told.
    pub(super) fn hand_over(&mut self, slice: SliceId, to: VolcanoId) {
        if let Some(owned) = self.owned.get_mut(&slice) {
            owned.handing = Some(to);
            owned.drained = false;
            let (start, end) = (owned.start, owned.end);
            self.leases.recall_range(start, end, self.now.moment);
        }
    }

    /// The slice stays: what waited goes on.
    pub(super) fn resume(&mut self, slice: SliceId) {
        if let Some(owned) = self.owned.get_mut(&slice) {
            owned.handing = None;
            owned.drained = false;
        }
        self.local.extend(self.parking.wake(Wait::Slice(slice)));
    }
}
