//! Operations on their way to the copies, and their arrival there.
//!
//! An owner sends each operation once, in order, to every copy that is live. A copy that was
//! away says how far it came ([`PeerMessage::ShipFrom`]); the owner goes on from its journal
//! and then live. A copy applies in order, refuses an older epoch, and answers a gap by
//! saying where it is.

use bytes::Bytes;

use super::slices::{Copy, Owned, Stream};
use super::{Action, Engine};
use crate::agreement::Change;
use crate::effect::{Effect, Record, in_parts};
use crate::ids::{Epoch, Seq, SliceId, VolcanoId};
use crate::lava::Slice;
use crate::store::{Store, StoreResult};
use crate::wire::peer::PeerMessage;

/// See [`Engine::ship_early`].
pub(super) struct Early {
    pub(super) from_bytes: usize,
    pub(super) send: Box<dyn FnMut(Action) + Send>,
}

/// Messages with all operations of a slice that were decided and not sent.
fn ships(owned: &mut Owned, epoch: Epoch, mut send: impl FnMut(Action)) {
    let records = std::mem::take(&mut owned.outgoing);
    let slice = owned.id;
    let mut targets: Vec<VolcanoId> = owned
        .copies
        .iter()
        .filter(|(_, copy)| matches!(copy.stream, Stream::Live | Stream::Filling(_)))
        .map(|(volcano, _)| *volcano)
        .collect();
    let last = targets.pop();
    for records in in_parts(records, Record::weight) {
        let payload: Vec<Bytes> = records.iter().flat_map(Record::payload).cloned().collect();
        let ship = |to, records, payload| Action::Send {
            to,
            message: Box::new(PeerMessage::Ship {
                slice,
                epoch,
                records,
            }),
            payload,
        };
        for to in &targets {
            send(ship(*to, records.clone(), payload.clone()));
        }
        if let Some(to) = last {
            send(ship(to, records, payload));
        }
    }
}

/// Operations sent in one message while a copy catches up.
const CATCH_UP_BATCH: usize = 64;

impl<S: Store> Engine<S> {
    /// At the end of a batch: the operations decided up to it, one message a slice and copy.
    pub(super) fn flush_ships(&mut self) {
        let epoch = self.lava.epoch;
        for owned in self.owned.values_mut() {
            if !owned.outgoing.is_empty() {
                // What a copy hears of is committed here first, large content apart.
                self.firm = true;
                ships(owned, epoch, |action| self.actions.push(action));
            }
        }
    }

    /// A large operation, about to be applied here, goes to the copies at once, with what was
    /// decided before it. True when it has gone.
    ///
    /// A crash before the commit leaves the copies with an operation that their owner does not
    /// have. It was acknowledged to nobody, and it is as if the owner had lost power: when it
    /// starts it asks the copies how far they are ([`super::doubts`]), before it orders anything.
    pub(super) fn shipped_early(&mut self, record: &Record) -> bool {
        let Some(early) = &mut self.early else {
            return false;
        };
        let bytes: usize = record.payload().map(Bytes::len).sum();
        if bytes < early.from_bytes || self.scarce {
            return false;
        }
        let (Some(owned), Some(slice)) = (
            self.owned.get_mut(&record.slice),
            self.lava.slice(record.slice),
        ) else {
            return false;
        };
        // Only to copies that are in sync: an owner that starts asks those. And nothing of the history
        // of a slice may be overtaken that this batch has to say already.
        let ready = |(volcano, copy): (&VolcanoId, &Copy)| {
            matches!(copy.stream, Stream::Live) && slice.in_sync().any(|copy| copy == *volcano)
        };
        let said = |action: &Action| matches!(action, Action::Send { message, .. } if message.is_history());
        if owned.copies.is_empty()
            || !owned.copies.iter().all(ready)
            || self.actions.iter().any(said)
        {
            return false;
        }
        self.firm = true;
        owned.outgoing.push(record.clone());
        ships(owned, self.lava.epoch, &mut early.send);
        true
    }

    /// Owner: a copy has applied operations.
    pub(super) fn ship_ack(
        &mut self,
        from: VolcanoId,
        slice: SliceId,
        seq: Seq,
    ) -> StoreResult<()> {
        let Some(owned) = self.owned.get_mut(&slice) else {
            return Ok(());
        };
        let last = owned.last;
        let Some(copy) = owned.copies.get_mut(&from) else {
            return Ok(());
        };
        if matches!(copy.stream, Stream::Filling(_)) {
            // Sent before it was told to throw away what it holds.
            return Ok(());
        }
        if seq > last {
            tracing::warn!(target: "magma::r", %slice, %seq, %last, "a copy acknowledges what was never decided");
            return Ok(());
        }
        if seq < copy.acked {
            // Acknowledgements come in order: what we took it to hold since our start, it
            // does not.
            copy.acked = seq;
            copy.stream = Stream::CatchingUp(seq);
            return self.catch_up(from, slice);
        }
        copy.acked = seq;
        if let Stream::CatchingUp(sent) = copy.stream
            && seq >= sent
        {
            self.catch_up(from, slice)?;
        }
        self.count_copy(slice, from);
        self.propose_in_sync(slice, from);
        Ok(())
    }

    /// Owner: a copy that does not count yet is asked what it holds, or proposed to be in sync.
    pub(super) fn pursue_copy(&mut self, slice: SliceId, volcano: VolcanoId) {
        let owned = self.owned.get(&slice);
        let stream = owned.and_then(|owned| Some(&owned.copies.get(&volcano)?.stream));
        if matches!(stream, Some(Stream::Down)) && self.up.contains(&volcano) {
            self.send(volcano, PeerMessage::Attach { slice });
        }
        self.count_copy(slice, volcano);
        self.propose_in_sync(slice, volcano);
    }

    /// Owner: an old copy that has been sent everything, and has taken all but what is under way,
    /// counts from here on: before it is proposed, so that no operation is acknowledged without it
    /// once the lava counts it.
    pub(super) fn count_copy(&mut self, slice: SliceId, volcano: VolcanoId) {
        let Some(owned) = self.owned.get_mut(&slice) else {
            return;
        };
        let last = owned.last;
        let Some(copy) = owned.copies.get_mut(&volcano) else {
            return;
        };
        let live = matches!(copy.stream, Stream::Live);
        if live && !copy.counts && !self.lava.is_down(volcano) {
            copy.counts = true;
            copy.lacks = last;
        }
    }

    /// Whether what a copy holds is the beginning of our history.
    fn is_our_past(&self, slice: SliceId, (epoch, seq): (Epoch, Seq)) -> StoreResult<bool> {
        let Some(owned) = self.owned.get(&slice) else {
            return Ok(false);
        };
        if seq == owned.last {
            return Ok(epoch == owned.last_epoch);
        }
        if seq > owned.last || seq == Seq(0) {
            // At its birth a slice is what was cut off another, which may have had two histories.
            return Ok(seq == Seq(0) && !self.lava.slice(slice).is_some_and(|s| s.seized));
        }
        Ok(self.store.journal_epoch(slice, seq)? == Some(epoch))
    }

    /// Owner: a copy says what it holds.
    pub(super) fn ship_from(
        &mut self,
        from: VolcanoId,
        slice: SliceId,
        have: Option<(Epoch, Seq)>,
    ) -> StoreResult<()> {
        if self.hear_doubted(from, slice, have)? {
            return Ok(());
        }
        let in_sync = self
            .lava
            .slice(slice)
            .and_then(|s| s.copy_on(from))
            .map(|c| c.in_sync);
        let Some(owned) = self.owned.get_mut(&slice) else {
            return Ok(());
        };
        let Some(copy) = owned.copies.get_mut(&from) else {
            return Ok(());
        };
        // One that was filled and is only proposed to be in sync goes on as one that is: were
        // it emptied now, the lava might call it in sync the next moment.
        let in_sync = in_sync.map(|in_sync| in_sync || (copy.counts && have.is_some()));
        let ours = match have {
            Some(have) if self.is_our_past(slice, have)? => Some(have.1),
            Some(_) | None => None,
        };
        match (in_sync, ours) {
            (Some(in_sync), Some(seq)) => {
                if !in_sync {
                    tracing::info!(target: "magma::r", %slice, %seq, volcano = %self.lava.nick(from),
                        "a copy is back and gets what it missed");
                    self.resync_begins(slice, from, false);
                }
                if let Some(copy) = self
                    .owned
                    .get_mut(&slice)
                    .and_then(|o| o.copies.get_mut(&from))
                {
                    copy.acked = seq;
                    copy.stream = Stream::CatchingUp(seq);
                }
                self.catch_up(from, slice)
            }
            (Some(true), None) => {
                // It holds less than it said once, or what we never decided: it must be filled
                // anew, which only a change of the lava may begin.
                tracing::warn!(target: "magma::r", %slice, ?have, volcano = %self.lava.nick(from),
                    "a copy does not fit its owner's history and is filled anew");
                self.propose(Change::RemoveCopy {
                    slice,
                    volcano: from,
                });
                Ok(())
            }
            (Some(false), None) => self.begin_fill(from, slice),
            (None, _) => Ok(()),
        }
    }

    /// Owner: sends the next operations from the journal, or goes live. A message goes out in
    /// any case: it tells the copy that its word was heard.
    fn catch_up(&mut self, to: VolcanoId, slice: SliceId) -> StoreResult<()> {
        // What this batch has decided so far goes to the copies that are live already; this
        // one finds it in the journal.
        self.flush_ships();
        let Some(owned) = self.owned.get(&slice) else {
            return Ok(());
        };
        let last = owned.last;
        let Some(copy) = owned.copies.get(&to) else {
            return Ok(());
        };
        let Stream::CatchingUp(sent) = copy.stream else {
            return Ok(());
        };
        let Some(records) = self.store.journal_after(slice, sent, CATCH_UP_BATCH)? else {
            tracing::warn!(target: "magma::r", %slice, %sent, volcano = %self.lava.nick(to),
                "the journal does not reach back far enough: the copy is filled anew");
            let known = self.lava.slice(slice).and_then(|s| s.copy_on(to));
            if known.is_some_and(|copy| !copy.in_sync) {
                return self.begin_fill(to, slice);
            }
            self.propose(Change::RemoveCopy { slice, volcano: to });
            return Ok(());
        };
        let records = in_parts(records, Record::weight).into_iter().next();
        let records = records.unwrap_or_default();
        let reached = records.last().map_or(sent, |record| record.seq);
        if let Some(copy) = self
            .owned
            .get_mut(&slice)
            .and_then(|o| o.copies.get_mut(&to))
        {
            copy.stream = if reached >= last {
                Stream::Live
            } else {
                Stream::CatchingUp(reached)
            };
        }
        let payload: Vec<Bytes> = records.iter().flat_map(Record::payload).cloned().collect();
        let operations = records.len();
        let message = PeerMessage::Ship {
            slice,
            epoch: self.lava.epoch,
            records,
        };
        let bytes = payload.iter().map(Bytes::len).sum();
        self.resync_sent((slice, to), operations, &message, bytes);
        self.act(Action::Send {
            to,
            message: Box::new(message),
            payload,
        });
        Ok(())
    }

    /// Copy: operations have arrived.
    pub(super) fn shipped(
        &mut self,
        from: VolcanoId,
        slice: SliceId,
        epoch: Epoch,
        records: Vec<Record>,
        mut payload: Bytes,
    ) -> StoreResult<()> {
        let Some(held) = self.held.get_mut(&slice) else {
            // Not ours (any more), or the lava that makes it ours is still on its way: the
            // owner asks again when we say what we hold.
            return Ok(());
        };
        if held.owner != from {
            // Of an owner that was: were it heard, the one that is would not be asked again, should
            // it have missed our word. Or of one that is to come, as soon as we know.
            tracing::debug!(target: "magma::r", %slice, from = %self.lava.nick(from), "not from the owner");
            return Ok(());
        }
        held.attached = true;
        if self.lava.is_outdated(slice, epoch) {
            tracing::warn!(target: "magma::r", %slice, %epoch, from = %self.lava.nick(from),
                "operations of an older epoch are refused");
            return Ok(());
        }
        for mut record in records {
            if record.take_payload(&mut payload).is_err() {
                tracing::warn!(target: "magma::r", %slice, from = %self.lava.nick(from), "an operation came without its content");
                return Ok(());
            }
            self.clock.receive(record.clock, self.now.wall_nanos);
            if !self.apply_shipped(from, slice, record)? {
                return Ok(());
            }
        }
        let Some(held) = self.held.get(&slice) else {
            return Ok(());
        };
        if held.whole {
            let (epoch, seq) = held.position;
            self.send(from, PeerMessage::ShipAck { slice, epoch, seq });
        }
        Ok(())
    }

    /// False when it does not follow what we have: then the owner is told where we are.
    fn apply_shipped(
        &mut self,
        from: VolcanoId,
        slice: SliceId,
        mut record: Record,
    ) -> StoreResult<bool> {
        // What was done before a cut, and the cut: a part that is here with a history of its own has
        // it, and perhaps more; and of one that is not ours the rows may be gone already, so that the
        // cut would pass off what is left for the whole.
        let (lava, held, owned) = (&self.lava, &self.held, &self.owned);
        let (store, me) = (&self.store, self.me);
        let passes_by = |part: SliceId| {
            let here = held.contains_key(&part) || owned.contains_key(&part);
            let ours = |slice: &Slice| slice.owner == me || slice.copy_on(me).is_some();
            here || !lava.slice(part).is_none_or(ours) || !matches!(store.position(part), Ok(None))
        };
        record.effects.retain(|effect| match effect {
            Effect::Cut { to, .. } => !passes_by(*to),
            _ => lava
                .slice_of(effect.key())
                // What was cut off has the higher number; our lava may not know of the cut yet.
                .is_none_or(|part| part.id <= slice || !passes_by(part.id)),
        });
        let Some(held) = self.held.get_mut(&slice) else {
            return Ok(false);
        };
        if held.whole {
            let (epoch, seq) = held.position;
            // What we have was decided by an owner who was found dead, and not by this one.
            let another = record.seq <= seq && record.epoch > epoch;
            if another || record.seq > seq.next() {
                let have = Some(held.position);
                self.send(from, PeerMessage::ShipFrom { slice, have });
                return Ok(false);
            }
            if record.seq <= seq {
                return Ok(true);
            }
            held.position = (record.epoch, record.seq);
            self.rows().apply(&record)?;
            self.statistics.applied += 1;
            for effect in &record.effects {
                self.cache.applied(effect);
                if let Effect::Cut { to, epoch, .. } = effect {
                    self.copy_cut(from, *to, *epoch);
                }
            }
            return Ok(true);
        }
        // Being filled: only what lies at or before the cursor has come yet.
        let cursor = held.cursor;
        let behind = |effect: &Effect| {
            matches!(effect, Effect::Cut { .. }) || cursor.is_some_and(|at| effect.key() <= at)
        };
        let effects: Vec<Effect> = record.effects.into_iter().filter(behind).collect();
        self.rows().apply_rows(slice, &effects)?;
        for effect in &effects {
            self.cache.applied(effect);
        }
        Ok(true)
    }

    pub(super) fn peer_up(&mut self, volcano: VolcanoId) -> StoreResult<()> {
        self.up.insert(volcano);
        // As a copy: say what we hold of its slices.
        let ours: Vec<SliceId> = self
            .held
            .iter()
            .filter(|(_, held)| held.owner == volcano)
            .map(|(slice, _)| *slice)
            .collect();
        for slice in ours {
            if let Some(held) = self.held.get_mut(&slice) {
                held.attached = false;
            }
            self.attach(slice);
        }
        // As an owner: what was on the way when the connection broke may be lost.
        let slices: Vec<SliceId> = self.owned.keys().copied().collect();
        for slice in slices {
            let Some(copy) = self
                .owned
                .get_mut(&slice)
                .and_then(|owned| owned.copies.get_mut(&volcano))
            else {
                continue;
            };
            match copy.stream {
                // Only our connection may have broken, not the one that the copy dialled: then
                // it does not know that anything was lost, and says nothing by itself.
                Stream::Down => self.send(volcano, PeerMessage::Attach { slice }),
                Stream::Live | Stream::CatchingUp(_) => {
                    copy.stream = Stream::CatchingUp(copy.acked);
                    self.catch_up(volcano, slice)?;
                }
                Stream::Filling(_) => self.begin_fill(volcano, slice)?,
            }
        }
        self.resend_steps(Some(volcano));
        self.resend_syncs(volcano);
        Ok(())
    }

    pub(super) fn peer_down(&mut self, volcano: VolcanoId) {
        self.up.remove(&volcano);
        for owned in self.owned.values_mut() {
            if let Some(copy) = owned.copies.get_mut(&volcano) {
                copy.stream = Stream::Down;
            }
        }
    }
}
