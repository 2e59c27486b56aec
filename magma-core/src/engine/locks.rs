//! Byte-range locks of all sessions on the flares of this owner.
//!
//! They are kept in memory only; the sessions remember what they hold.
//!
//! * **After a start**, or when a slice has come from another owner, nothing is known. Every
//!   session is asked, and says after each hello anyway, what it holds here. Until all have, or for
//!   [`LOCK_CLAIM_MS`], nobody gets a lock. Releasing goes on.
//! * **Waiting** occupies no slot: the answer to a request that has to wait says so at once, and
//!   the session is told when the lock is granted. It asks again every second, so a message that
//!   is lost costs a second; a wait that is not asked for any more ends.
//! * **Order**: what a session asks about locks is numbered. A request that was sent twice and
//!   comes after a later one is refused, so that it does not lock what has been released since.
//! * **Deadlocks** that involve other owners are found by probes: see [`Probe`].

use std::collections::{BTreeMap, BTreeSet};

use super::event::Work;
use super::parking::Wait;
use super::request::{INTERNAL, RequestState, Step};
use super::{Action, Engine};
use crate::error::{OpError, OpResult};
use crate::ids::{FlareRef, SessionId};
use crate::lava::Lava;
use crate::limits::{
    LOCK_CLAIM_BATCH, LOCK_CLAIM_MS, LOCK_PROBE_FAN, LOCK_PROBE_HOPS, LOCK_PROBES_PER_TICK,
    LOCK_WAIT_SILENT_MS,
};
use crate::locks::LockOwner;
use crate::locks::table::{LockOutcome, LockTable};
use crate::op::{Answer, LockSpec, Op};
use crate::store::{Store, StoreResult};
use crate::time::Moment;
use crate::wire::flare_protocol::{ClaimedLock, Probe, ToClient};

/// The locks, and what is known of the sessions about them.
#[derive(Default)]
pub(super) struct Locks {
    table: LockTable,
    /// The highest number of each session, and its answer if it was a question.
    last: BTreeMap<SessionId, (u64, Option<OpResult<Answer>>)>,
    /// Sessions that may hold locks which this engine does not know, and until when.
    unclaimed: BTreeSet<SessionId>,
    unclaimed_until: Moment,
    /// Steps of probes since the last tick.
    probes: usize,
}

impl Locks {
    /// Locks of an earlier life of this volcano may be out there.
    pub(super) fn after_start(sessions: impl Iterator<Item = SessionId>, now: Moment) -> Locks {
        Locks {
            unclaimed: sessions.collect(),
            unclaimed_until: now.plus_ms(LOCK_CLAIM_MS),
            ..Locks::default()
        }
    }

    /// What was answered to a numbered question, if it is not new.
    fn answered(&self, session: SessionId, number: u64) -> Option<OpResult<Answer>> {
        match self.last.get(&session) {
            Some((last, Some(answer))) if *last == number => Some(answer.clone()),
            Some((last, _)) if *last >= number => Some(Err(OpError::Overtaken)),
            _ => None,
        }
    }

    /// A flare has ended.
    pub(super) fn drop_flare(&mut self, flare: FlareRef) {
        self.table.drop_flare(flare);
    }
}

impl<S: Store> Engine<S> {
    pub(super) fn lock_op(&mut self, state: &mut RequestState, op: Op) -> StoreResult<Step<S>> {
        let session = state.request.session;
        let (flare, spec, takes) = match &op {
            Op::GetLock { flare, lock, .. } => (*flare, *lock, true),
            Op::SetLock {
                flare, lock, kind, ..
            } => (*flare, *lock, kind.is_some()),
            Op::CancelLock { flare, lock, .. } => (*flare, *lock, false),
            _ => return Step::err(OpError::Invalid),
        };
        let makes_sense = spec.range.start <= spec.range.end
            && flare.key() == state.request.key
            && session != INTERNAL;
        if !makes_sense {
            return Step::err(OpError::Invalid);
        }
        if takes && !self.locks.unclaimed.is_empty() {
            return Step::waits(|engine, state| {
                engine.park(Wait::Locks, Work::Request(state));
                Ok(())
            });
        }
        // What has ended may still be let go of.
        if takes && let Err(error) = self.live_file(flare)? {
            return Step::err(error);
        }
        let (number, again) = match &op {
            Op::SetLock { number, .. } | Op::CancelLock { number, .. } => {
                (Some(*number), self.locks.answered(session, *number))
            }
            _ => (None, None),
        };
        if let Some(answer) = again {
            return Ok(Step::Answered(answer));
        }
        let answer = self.decide_lock(session, flare, spec, op);
        if let Some(number) = number {
            let last = (number, Some(answer.clone()));
            self.locks.last.insert(session, last);
        }
        self.tell_granted();
        Ok(Step::Answered(answer))
    }

    fn decide_lock(
        &mut self,
        session: SessionId,
        flare: FlareRef,
        spec: LockSpec,
        op: Op,
    ) -> OpResult<Answer> {
        let table = &mut self.locks.table;
        match op {
            Op::GetLock { kind, .. } => {
                Ok(Answer::Lock(table.test(flare, &spec.of(session, kind))))
            }
            Op::SetLock { kind: None, .. } => {
                let owner = LockOwner(session, spec.owner);
                table.unlock(flare, owner, spec.range)?;
                Ok(Answer::LockSet(LockOutcome::Granted))
            }
            Op::SetLock {
                kind: Some(kind),
                wait,
                ..
            } => {
                let waits = wait.filter(|wait| table.blockers(flare, session, *wait).is_some());
                let wanted = spec.of(session, kind);
                let outcome = table.set(flare, wanted, wait, self.now.moment)?;
                if let Some(wait) = waits {
                    // It has waited for a while.
                    self.begin_probe(flare, session, wait);
                }
                Ok(Answer::LockSet(outcome))
            }
            Op::CancelLock { kind, wait, .. } => {
                let cancelled = table.cancel(flare, session, wait);
                match !cancelled && table.holds(flare, &spec.of(session, kind)) {
                    true => Ok(Answer::LockSet(LockOutcome::Granted)),
                    false => Ok(Answer::Done),
                }
            }
            _ => Err(OpError::Invalid),
        }
    }

    fn tell_granted(&mut self) {
        for granted in self.locks.table.take_granted() {
            let message = ToClient::LockGranted {
                flare: granted.flare,
                wait: granted.wait,
            };
            let session = granted.session;
            self.act(Action::Tell { session, message });
        }
    }

    /// A session says what it holds here.
    pub(super) fn locks_held(
        &mut self,
        session: SessionId,
        number: u64,
        claims: Vec<ClaimedLock>,
        done: bool,
    ) {
        if !self.lava.has_session(session) {
            return;
        }
        match self.locks.last.get(&session) {
            // It has let go of some since, perhaps: it must say it again.
            Some((last, answer)) if *last > number || (*last == number && answer.is_some()) => {
                let message = ToClient::Claim;
                self.act(Action::Tell { session, message });
                return;
            }
            _ => self.locks.last.insert(session, (number, None)),
        };
        for claim in claims.into_iter().take(LOCK_CLAIM_BATCH) {
            let ClaimedLock { flare, lock, kind } = claim;
            let ours = self.lava.owner_of(flare.key()) == Some(self.me);
            if !ours || lock.range.start > lock.range.end {
                continue;
            }
            if !self.locks.table.claim(flare, lock.of(session, kind)) {
                tracing::warn!(target: "magma::s", %session, %flare, "a lock was claimed too late");
                let message = ToClient::LockLost {
                    flare,
                    owner: lock.owner,
                    range: lock.range,
                };
                self.act(Action::Tell { session, message });
            }
        }
        self.tell_granted();
        if done && self.locks.unclaimed.remove(&session) {
            self.wake_lockers();
        }
    }

    /// Asks all sessions what they hold here.
    pub(super) fn ask_for_locks(&mut self) {
        let sessions: Vec<SessionId> = self.locks.unclaimed.iter().copied().collect();
        for session in sessions {
            let message = ToClient::Claim;
            self.act(Action::Tell { session, message });
        }
    }

    fn wake_lockers(&mut self) {
        if self.locks.unclaimed.is_empty() {
            let woken: Vec<Work> = self.parking.wake(Wait::Locks).collect();
            self.local.extend(woken);
        }
    }

    /// Slices have come or gone: their locks are known, if at all, where they were before.
    pub(super) fn locks_follow(&mut self, before: &Lava) {
        let (me, lava) = (Some(self.me), &self.lava);
        let ours = |flare: FlareRef| lava.owner_of(flare.key()) == me;
        self.locks.table.retain(ours);
        let is_new = |slice: &crate::lava::Slice| {
            before.owner_of(slice.start) != me || before.owner_of(slice.end) != me
        };
        let mut owned = lava.slices.iter().filter(|slice| Some(slice.owner) == me);
        if before.epoch.0 > 0 && owned.any(is_new) {
            let sessions = lava.sessions.iter().map(|session| session.id);
            self.locks.unclaimed = sessions.collect();
            self.locks.unclaimed_until = self.now.moment.plus_ms(LOCK_CLAIM_MS);
            self.ask_for_locks();
        }
    }

    /// Sessions that have ended hold nothing.
    pub(super) fn end_locks(&mut self, ended: &[SessionId]) {
        self.locks.table.end_sessions(ended);
        for session in ended {
            self.locks.last.remove(session);
            self.locks.unclaimed.remove(session);
        }
        self.tell_granted();
        self.wake_lockers();
    }

    /// Sessions that do not say what they hold are not waited for for ever, and neither does
    /// anybody wait who does not ask any more.
    pub(super) fn watch_locks(&mut self) {
        let now = self.now.moment;
        self.locks.probes = 0;
        if !self.locks.unclaimed.is_empty() && self.locks.unclaimed_until <= now {
            tracing::info!(
                target: "magma::s",
                sessions = self.locks.unclaimed.len(),
                "sessions have not said which locks they hold: they hold none"
            );
            self.locks.unclaimed.clear();
            self.wake_lockers();
        }
        if now.0 > LOCK_WAIT_SILENT_MS {
            self.locks.table.sweep(Moment(now.0 - LOCK_WAIT_SILENT_MS));
            self.tell_granted();
        }
    }

    /// Looks for a ring of waits that leads through other owners.
    fn begin_probe(&mut self, flare: FlareRef, session: SessionId, wait: u64) {
        if let Some((by, blockers)) = self.locks.table.blockers(flare, session, wait) {
            let hops = 0;
            self.send_probes(Probe { by, wait, hops }, blockers);
        }
    }

    /// The session of a lock owner that was asked about says where that one waits.
    pub(super) fn lock_probe(
        &mut self,
        session: SessionId,
        probe: Probe,
        flare: FlareRef,
        wait: u64,
    ) {
        match self.locks.table.blockers(flare, session, wait) {
            Some((owner, blockers)) if owner < probe.by => self.send_probes(probe, blockers),
            // Another one of the ring is to find it, or it does not wait any more.
            Some(_) | None => {}
        }
    }

    fn send_probes(&mut self, mut probe: Probe, blockers: BTreeSet<LockOwner>) {
        probe.hops = probe.hops.saturating_add(1);
        let mut asked = blockers.range(..=probe.by).rev().take(LOCK_PROBE_FAN);
        let room = LOCK_PROBES_PER_TICK.saturating_sub(self.locks.probes);
        let told: Vec<LockOwner> = asked.by_ref().take(room).copied().collect();
        self.locks.probes += told.len();
        for LockOwner(session, owner) in told {
            let message = if LockOwner(session, owner) == probe.by {
                ToClient::LockDeadlock { wait: probe.wait }
            } else if probe.hops <= LOCK_PROBE_HOPS {
                ToClient::LockProbe { probe, owner }
            } else {
                continue;
            };
            self.act(Action::Tell { session, message });
        }
    }
}
