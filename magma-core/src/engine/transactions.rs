//! Transactions that this volcano drives: what they wait for, and what comes next.

use std::collections::BTreeMap;

use super::Engine;
use super::event::{Release, Work};
use super::rename::RenameTx;
use super::request::RequestState;
use crate::effect::Effect;
use crate::error::OpError;
use crate::flare::Name;
use crate::ids::{FlareRef, Seq, SliceId, TxId, VolcanoId};
use crate::key::Key;
use crate::limits::HEARTBEAT_MS;
use crate::op::{Credentials, Op};
use crate::store::{Store, StoreResult};
use crate::time::Moment;
use crate::wire::peer::{Step, StepBody, StepDone, StepName};

/// A step without answer is sent again after this long, in milliseconds.
const RESEND_MS: u64 = 1_000;

/// A transaction under way.
#[derive(Debug)]
pub(super) struct Pending {
    /// The slice of the driving flare.
    pub(super) slice: SliceId,
    /// The client's request; none for what is resolved after a crash.
    pub(super) state: Option<Box<RequestState>>,
    pub(super) kind: Kind,
    /// Steps sent and not answered.
    pub(super) outstanding: BTreeMap<(Key, StepName), Step>,
    /// Steps are not sent before this operation of the slice is acknowledged.
    pub(super) gate: Seq,
    pub(super) send_again: Moment,
    /// A step may have been sent more than once, by this life of the volcano or an earlier.
    pub(super) repeated: bool,
    /// Driven after a crash without the request, so without who asked: a refusal means only
    /// that the change has not come to pass.
    pub(super) orphan: bool,
    /// The insert was refused; the entry is removed again should a repetition have come
    /// after the refusal and succeeded.
    undoing: Option<OpError>,
}

impl Pending {
    /// The key at which the transaction is driven.
    pub(super) fn key(&self) -> Key {
        match &self.kind {
            Kind::Create { flare, .. } | Kind::Link { flare, .. } | Kind::Unlink { flare, .. } => {
                flare.key()
            }
            Kind::Rename(rename) => rename.to_dir.key(),
            Kind::Resolve(key) => *key,
        }
    }

    /// Whether this is a rename that was decided, and is not seen by everybody yet.
    pub(super) fn is_unseen(&self) -> bool {
        matches!(&self.kind, Kind::Rename(rename) if rename.decided && !rename.unseen.is_empty())
    }

    /// Whether a request that comes again may wait for this transaction's end.
    pub(super) fn adopts(&mut self, op: Option<&Op>) -> bool {
        match (&mut self.kind, op) {
            (Kind::Create { open, .. }, Some(Op::Create { new, .. })) => {
                *open = new.open;
                true
            }
            (Kind::Link { .. } | Kind::Unlink { .. }, Some(_)) => true,
            _ => false,
        }
    }
}

/// What a transaction does.
#[derive(Debug)]
pub(super) enum Kind {
    /// The entry of a new flare is being inserted.
    Create {
        flare: FlareRef,
        parent: FlareRef,
        name: Name,
        open: Option<u64>,
    },
    /// The entry of another link is being inserted.
    Link {
        flare: FlareRef,
        parent: FlareRef,
        name: Name,
    },
    /// The entry of a link is being removed.
    Unlink {
        flare: FlareRef,
        parent: FlareRef,
        name: Name,
    },
    /// A rename, decided here.
    Rename(Box<RenameTx>),
    /// Rows of this key are held by a rename decided elsewhere: what was decided?
    Resolve(Key),
}

impl<S: Store> Engine<S> {
    /// Begins a transaction whose first step leaves when `gate` is acknowledged.
    pub(super) fn begin_tx(
        &mut self,
        tx: TxId,
        state: Option<Box<RequestState>>,
        slice: SliceId,
        gate: Seq,
        kind: Kind,
    ) {
        let send_again = self.now.moment.plus_ms(RESEND_MS);
        let outstanding = BTreeMap::new();
        self.pending.insert(
            tx,
            Pending {
                slice,
                state,
                kind,
                outstanding,
                gate,
                send_again,
                repeated: false,
                orphan: false,
                undoing: None,
            },
        );
    }

    /// Sends a step of a pending transaction when its gate is acknowledged.
    pub(super) fn tx_step(&mut self, tx: TxId, driver: Key, key: Key, body: StepBody) {
        let step = Step {
            tx,
            driver,
            key,
            epoch: self.lava.epoch,
            clock: 0,
            body,
        };
        let Some(pending) = self.pending.get_mut(&tx) else {
            return;
        };
        pending
            .outstanding
            .insert((key, step.body.name()), step.clone());
        let (slice, gate) = (pending.slice, pending.gate);
        self.release_at(slice, gate, Release::Step(Box::new(step)));
    }

    /// The answer to a step that was asked here.
    pub(super) fn step_done(&mut self, done: StepDone) -> StoreResult<()> {
        self.clock.receive(done.clock, self.now.wall_nanos);
        if self.is_fenced() {
            // Somebody else may have driven it to another end: the step is sent again, and answered
            // again, once we have a lease.
            return Ok(());
        }
        let Some(pending) = self.pending.get_mut(&done.tx) else {
            return Ok(());
        };
        let place = (done.key, done.step);
        if !pending.outstanding.contains_key(&place) {
            return Ok(());
        }
        if matches!(done.result, Err(OpError::TryAgain | OpError::Busy)) {
            pending.send_again = self.now.moment.plus_ms(HEARTBEAT_MS / 2);
            return Ok(());
        }
        pending.outstanding.remove(&place);
        if matches!(pending.kind, Kind::Rename(_)) {
            return self.rename_step_done(done);
        }
        if let (Err(error), StepName::Insert, true) = (&done.result, done.step, pending.repeated) {
            pending.undoing = Some(error.clone());
            self.undo_insert(done.tx);
            return Ok(());
        }
        let Some(pending) = self.pending.remove(&done.tx) else {
            return Ok(());
        };
        let (tx, slice, state) = (done.tx, pending.slice, pending.state);
        let done = match pending.undoing {
            Some(refused) => StepDone {
                result: Err(refused),
                ..done
            },
            None => done,
        };
        if pending.orphan && done.result.is_err() {
            return self.take_back_orphan(slice, state, pending.kind);
        }
        match pending.kind {
            Kind::Create {
                flare,
                parent,
                name,
                open,
            } => self.create_done(tx, slice, state, flare, parent, name, open, done.result),
            Kind::Link {
                flare,
                parent,
                name,
            } => self.link_done(tx, slice, state, flare, parent, name, done.result),
            Kind::Unlink {
                flare,
                parent,
                name,
            } => self.unlink_done(tx, slice, state, flare, parent, name, done.result),
            Kind::Resolve(key) => self.resolved(slice, key, tx, done.result),
            Kind::Rename(_) => Ok(()),
        }
    }

    /// What a crash had left behind never got its entry: it is taken back as if it had not
    /// been asked for, and no answer is kept. A client that asks again is answered anew.
    fn take_back_orphan(
        &mut self,
        slice: SliceId,
        state: Option<Box<RequestState>>,
        kind: Kind,
    ) -> StoreResult<()> {
        let (key, effects) = match kind {
            Kind::Create { flare, .. } => (flare.key(), vec![Effect::DropFlare(flare)]),
            Kind::Link {
                flare,
                parent,
                name,
            } => match self.live(flare)? {
                Ok(row) => (flare.key(), self.without_nascent(slice, row, parent, name)),
                Err(_) => (flare.key(), Vec::new()),
            },
            Kind::Unlink { .. } | Kind::Rename(_) | Kind::Resolve(_) => return Ok(()),
        };
        if !effects.is_empty() {
            self.commit(slice, effects)?;
        }
        self.wake_key(key);
        self.local.extend(state.map(Work::Request));
        Ok(())
    }

    /// An insert was refused that was sent more than once: the name may have become free
    /// before the last of them came, and that one have inserted an entry for a flare which
    /// is dropped now. A removal goes the same way behind all of them.
    fn undo_insert(&mut self, tx: TxId) {
        let Some(pending) = self.pending.get(&tx) else {
            return;
        };
        let (flare, dir, name) = match &pending.kind {
            Kind::Create {
                flare,
                parent,
                name,
                ..
            }
            | Kind::Link {
                flare,
                parent,
                name,
            } => (*flare, *parent, name.clone()),
            Kind::Unlink { .. } | Kind::Rename(_) | Kind::Resolve(_) => return,
        };
        let Ok(Some(row)) = self.cache.flare(&self.store, flare.key()) else {
            return;
        };
        let body = StepBody::Remove {
            dir,
            name,
            child: flare,
            kind: row.kind,
            child_uid: row.uid,
            cred: Credentials::root(),
        };
        self.tx_step(tx, flare.key(), dir.key(), body);
    }

    /// Sends again what has no answer: to one volcano that came back, or what is overdue.
    pub(super) fn resend_steps(&mut self, to: Option<VolcanoId>) {
        let now = self.now.moment;
        let mut again = Vec::new();
        for pending in self.pending.values_mut() {
            let acked = self
                .owned
                .get(&pending.slice)
                .is_some_and(|o| o.acked >= pending.gate);
            let due = match to {
                Some(_) => true,
                None => pending.send_again <= now,
            };
            if !acked || !due {
                continue;
            }
            pending.send_again = now.plus_ms(RESEND_MS);
            pending.repeated = true;
            again.extend(
                pending
                    .outstanding
                    .values()
                    .filter(|step| to.is_none() || self.lava.owner_of(step.key) == to)
                    .cloned(),
            );
        }
        for step in again {
            self.send_step(step);
        }
    }
}
