//! Effects become an operation of the slice: applied, journalled, shipped, acknowledged.
//!
//! Where an acknowledgement stands. [`Engine::commit`] applies the effects inside the open
//! transaction of the store and queues the record for the copies; nothing has left the
//! process yet. When the batch ends, the store commits (kill -9 of this process keeps it from
//! here on), then the records go out to the copies, each of which answers after a commit of
//! its own. A reply leaves when the operation is committed here **and** acknowledged by every
//! copy that counts: then it is in two processes' files, and in no process's memory only.
//!
//! The exception is what nobody waits for ([`Engine::commit_lazily`]): a batch that holds
//! nothing else leaves its transaction open for the next one. A crash takes such an operation
//! back here, and no copy has heard of it, because what is shipped is committed first. Large
//! content is not ([`Engine::shipped_early`] says why that is right): owner and copies write it at
//! the same time.

use super::event::Release;
use super::{Action, Engine};
use crate::effect::{Effect, Record};
use crate::ids::{Seq, SliceId, Stamp, VolcanoId};
use crate::key::Key;
use crate::store::{Store, StoreResult};
use crate::wire::peer::{PeerMessage, Step, StepDone};

impl<S: Store> Engine<S> {
    /// The stamp of the operation that the next [`Engine::commit`] of a slice makes.
    pub(super) fn stamp(&self, slice: SliceId) -> Stamp {
        let last = self.owned.get(&slice).map_or(Seq(0), |owned| owned.last);
        Stamp(slice, self.lava.epoch, last.next())
    }

    /// The store, for a change that the end of this batch commits.
    pub(super) fn rows(&mut self) -> &mut S {
        self.firm = true;
        &mut self.store
    }

    /// Makes effects the next operation of an owned slice.
    pub(super) fn commit(&mut self, slice: SliceId, effects: Vec<Effect>) -> StoreResult<Seq> {
        self.firm = true;
        self.decide(slice, effects)
    }

    /// As [`Engine::commit`], for what nobody waits for and what a crash may forget, because it
    /// is found out again: it is committed and shipped together with the next operation of this
    /// volcano, or when somebody asks for what it changed, or at the next tick.
    pub(super) fn commit_lazily(
        &mut self,
        slice: SliceId,
        effects: Vec<Effect>,
    ) -> StoreResult<Seq> {
        self.lazy = true;
        self.decide(slice, effects)
    }

    fn decide(&mut self, slice: SliceId, effects: Vec<Effect>) -> StoreResult<Seq> {
        let Stamp(_, epoch, seq) = self.stamp(slice);
        let clock = self.clock.last();
        let record = Record {
            slice,
            epoch,
            seq,
            clock,
            effects,
        };
        let sent = self.shipped_early(&record);
        self.store.apply(&record)?;
        let mut keys: Vec<Key> = Vec::with_capacity(2);
        let mut bytes = 0;
        for effect in &record.effects {
            self.cache.applied(effect);
            if effect.unsettles() {
                self.maybe_unsettled.insert(effect.key());
            }
            if let Effect::DropFlare(flare) = effect {
                self.locks.drop_flare(*flare);
            }
            if let Effect::Write(write) = effect {
                bytes += write.data.len();
            }
            if !keys.contains(&effect.key()) {
                keys.push(effect.key());
            }
        }
        self.statistics.committed += 1;
        if let Some(owned) = self.owned.get_mut(&slice) {
            owned.decided((epoch, seq), keys, bytes);
            if !sent && !owned.copies.is_empty() {
                owned.outgoing.push(record);
            }
        }
        Ok(seq)
    }

    /// What an answer about a key must wait for.
    pub(super) fn gate(&self, slice: SliceId, key: Key) -> Seq {
        self.owned
            .get(&slice)
            .and_then(|owned| owned.gate(key))
            .unwrap_or(Seq(0))
    }

    /// Lets something leave when an operation of a slice is acknowledged.
    pub(super) fn release_at(&mut self, slice: SliceId, seq: Seq, release: Release) {
        match self.owned.get_mut(&slice) {
            Some(owned) if seq > owned.acked => {
                owned.wait(seq, release);
                self.firm = true;
            }
            _ => self.release(release),
        }
    }

    /// After a commit: what was decided is outside our memory, and what it held back leaves.
    pub(super) fn release_after_commit(&mut self) {
        let mut released = Vec::new();
        let mut drained = Vec::new();
        let committed = !self.lazy;
        for owned in self.owned.values_mut() {
            if committed {
                owned.committed = owned.last;
            }
            released.extend(owned.advance());
            if let (Some(to), false) = (owned.handing, owned.drained)
                && owned.is_quiet()
                && owned.holds_all(to)
                && !self.pending.values().any(|tx| tx.slice == owned.id)
                // The new owner knows of no lease.
                && self.leases.recall_range(owned.start, owned.end, self.now.moment)
            {
                owned.drained = true;
                drained.push(Action::Drained {
                    slice: owned.id,
                    to,
                });
            }
        }
        for release in released {
            self.release(release);
        }
        self.actions.extend(drained);
        self.wake_roomy_slices();
    }

    pub(super) fn release(&mut self, release: Release) {
        match release {
            Release::Reply {
                token,
                mut reply,
                payload,
            } => {
                reply.clock = self.clock.last();
                self.act(Action::Reply {
                    token,
                    reply,
                    payload,
                });
            }
            Release::Step(step) => self.send_step(*step),
            Release::StepDone { to, done } => self.send_step_done(to, *done),
        }
    }

    /// Sends a step to the owner of its key, which may be this volcano.
    pub(super) fn send_step(&mut self, mut step: Step) {
        if self.is_fenced() {
            // Sent again when it is known whether the transaction is still ours to drive.
            return;
        }
        step.clock = self.clock.last();
        step.epoch = self.lava.epoch;
        let Some(owner) = self.lava.owner_of(step.key) else {
            return;
        };
        if owner == self.me {
            let from = self.me;
            self.local.push_back(super::event::Work::Step {
                from,
                step: Box::new(step),
            });
        } else {
            self.send(owner, PeerMessage::Step(step));
        }
    }

    pub(super) fn send_step_done(&mut self, to: VolcanoId, mut done: StepDone) {
        done.clock = self.clock.last();
        if to == self.me {
            self.local
                .push_back(super::event::Work::StepDone(Box::new(done)));
        } else {
            self.send(to, PeerMessage::StepDone(done));
        }
    }

    pub(super) fn send(&mut self, to: VolcanoId, message: PeerMessage) {
        self.act(Action::Send {
            to,
            message: Box::new(message),
            payload: Vec::new(),
        });
    }
}
