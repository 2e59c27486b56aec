//! The locks of all flares of an owner: who holds, who waits, and who waits for whom.
//!
//! * **Order**: who waits is served in the order of arrival, and whoever comes to wait queues
//!   behind those that conflict with it, so readers do not starve a writer. One exception: nobody
//!   queues behind somebody who waits for him (an upgrade would wait for itself).
//!   A request that does not wait looks at what is held only, as POSIX has it.
//! * **Deadlock**: whoever comes to wait is refused when a chain of waits leads from those who
//!   are in its way back to it, over all flares of the table. Rings through other tables are
//!   found by those who hold a table and ask around: see [`LockTable::blockers`].
//! * **Bounds**: locks and waits, of one flare and in all; what exceeds them is ENOLCK.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::{Lock, LockKind, LockOwner, Range, Ranges};
use crate::error::{OpError, OpResult};
use crate::ids::{FlareRef, SessionId};
use crate::limits::{
    LOCK_GRAPH_STEPS, LOCK_WAITS_MAX, LOCK_WAITS_PER_FLARE, LOCKS_MAX, LOCKS_PER_FLARE,
};
use crate::time::Moment;

/// What became of a request for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockOutcome {
    /// It is held.
    Granted,
    /// It is in the queue.
    Waits,
}

/// A wait that has ended with the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantedWait {
    /// The flare.
    pub flare: FlareRef,
    /// Whose.
    pub session: SessionId,
    /// The session's number for the wait.
    pub wait: u64,
}

#[derive(Clone, Debug)]
struct Waiter {
    lock: Lock,
    wait: u64,
    /// When its session last asked.
    asked: Moment,
}

#[derive(Clone, Debug, Default)]
struct FlareLocks {
    held: Ranges,
    queue: VecDeque<Waiter>,
}

impl FlareLocks {
    /// Whether a request that stands at this place of the queue must wait.
    fn is_blocked(&self, wanted: &Lock, place: usize) -> bool {
        self.held.conflicts(wanted).next().is_some() || self.ahead(wanted, place).next().is_some()
    }

    /// Those ahead in the queue behind whom a request must stay.
    fn ahead<'a>(&'a self, wanted: &'a Lock, place: usize) -> impl Iterator<Item = &'a Waiter> {
        let mine = self.held.of(wanted.owner);
        self.queue
            .iter()
            .take(place)
            .filter(|waiter| waiter.lock.conflicts(wanted))
            .filter(move |waiter| !mine.iter().any(|held| held.conflicts(&waiter.lock)))
    }

    /// Whom a request at this place of the queue waits for.
    fn blockers(&self, wanted: &Lock, place: usize) -> BTreeSet<LockOwner> {
        let held = self.held.conflicts(wanted).map(|lock| lock.owner);
        let ahead = self.ahead(wanted, place).map(|waiter| waiter.lock.owner);
        held.chain(ahead).collect()
    }
}

/// The locks of all flares of an owner.
#[derive(Clone, Debug, Default)]
pub struct LockTable {
    flares: BTreeMap<FlareRef, FlareLocks>,
    locks: usize,
    waits: usize,
    /// Where each owner waits, and how often.
    waiting: BTreeMap<LockOwner, BTreeMap<FlareRef, usize>>,
    granted: Vec<GrantedWait>,
}

impl LockTable {
    /// A lock that keeps this one from being set, if there is one.
    pub fn test(&self, flare: FlareRef, wanted: &Lock) -> Option<Lock> {
        let locks = self.flares.get(&flare)?;
        let first = locks.held.conflicts(wanted).min_by_key(|lock| lock.range);
        first.copied()
    }

    /// Sets a lock, or queues for it under the session's number for this wait. The same wait
    /// again keeps its place; when it has ended with the lock, that is said again.
    pub fn set(
        &mut self,
        flare: FlareRef,
        wanted: Lock,
        wait: Option<u64>,
        now: Moment,
    ) -> OpResult<LockOutcome> {
        let locks = self.flares.entry(flare).or_default();
        let session = wanted.owner.0;
        let known = locks
            .queue
            .iter_mut()
            .find(|waiter| Some(waiter.wait) == wait && waiter.lock.owner.0 == session);
        if let Some(waiter) = known {
            waiter.asked = now;
            return Ok(LockOutcome::Waits);
        }
        if wait.is_some() && locks.held.covers(&wanted) {
            return Ok(LockOutcome::Granted);
        }
        let outcome = match wait {
            None if locks.held.conflicts(&wanted).next().is_some() => Err(OpError::WouldBlock),
            Some(wait) if locks.is_blocked(&wanted, usize::MAX) => {
                self.enqueue(flare, wanted, wait, now)
            }
            _ => self.put(flare, &wanted, Some(wanted.kind)),
        };
        self.settle(flare);
        outcome
    }

    /// Releases what an owner holds of a range.
    pub fn unlock(&mut self, flare: FlareRef, owner: LockOwner, range: Range) -> OpResult<()> {
        if !self.flares.contains_key(&flare) {
            return Ok(());
        }
        let lock = Lock {
            owner,
            pid: 0,
            kind: LockKind::Read,
            range,
        };
        let outcome = self.put(flare, &lock, None);
        self.settle(flare);
        outcome.map(|_| ())
    }

    /// Ends a wait. Whether it was there.
    pub fn cancel(&mut self, flare: FlareRef, session: SessionId, wait: u64) -> bool {
        let at = self.place(flare, session, wait);
        if let Some(at) = at {
            self.dequeue(flare, at);
            self.settle(flare);
        }
        at.is_some()
    }

    /// Whether the owner holds all of this.
    pub fn holds(&self, flare: FlareRef, lock: &Lock) -> bool {
        let locks = self.flares.get(&flare);
        locks.is_some_and(|locks| locks.held.covers(lock))
    }

    /// A session says that it holds this lock since before this table was made: where the owner
    /// holds nothing yet it is set. False when somebody else has a lock there now: then the owner
    /// holds nothing there.
    pub fn claim(&mut self, flare: FlareRef, claimed: Lock) -> bool {
        let locks = self.flares.entry(flare).or_default();
        let pieces = locks.held.pieces(claimed.owner, claimed.range);
        let mut whole = true;
        for (range, kind) in pieces {
            let piece = Lock { range, ..claimed };
            if kind.is_some() {
                continue;
            }
            let locks = self.flares.entry(flare).or_default();
            let free = locks.held.conflicts(&piece).next().is_none();
            whole &= free && self.put(flare, &piece, Some(piece.kind)).is_ok();
        }
        if !whole {
            // Where that would take more room than there is, it goes with the session.
            let _ = self.put(flare, &claimed, None);
        }
        self.settle(flare);
        whole
    }

    /// Everything of these sessions goes.
    pub fn end_sessions(&mut self, ended: &[SessionId]) {
        self.forget(|_| false, |session| ended.contains(&session));
    }

    /// Keeps only the flares that are named; whoever waits at another one asks elsewhere.
    pub fn retain(&mut self, keep: impl Fn(FlareRef) -> bool) {
        self.forget(|flare| !keep(flare), |_| false);
    }

    /// A flare has ended.
    pub fn drop_flare(&mut self, flare: FlareRef) {
        if self.flares.contains_key(&flare) {
            self.forget(|other| other == flare, |_| false);
        }
    }

    /// Ends waits whose session has not asked since then.
    pub fn sweep(&mut self, since: Moment) {
        let old = |locks: &FlareLocks| locks.queue.iter().position(|waiter| waiter.asked < since);
        let flares: Vec<FlareRef> = self
            .flares
            .iter()
            .filter(|(_, locks)| old(locks).is_some())
            .map(|(flare, _)| *flare)
            .collect();
        for flare in flares {
            while let Some(at) = self.flares.get(&flare).and_then(old) {
                self.dequeue(flare, at);
            }
            self.settle(flare);
        }
    }

    /// Who waits under that number, and whom for.
    pub fn blockers(
        &self,
        flare: FlareRef,
        session: SessionId,
        wait: u64,
    ) -> Option<(LockOwner, BTreeSet<LockOwner>)> {
        let at = self.place(flare, session, wait)?;
        let locks = self.flares.get(&flare)?;
        let lock = &locks.queue.get(at)?.lock;
        Some((lock.owner, locks.blockers(lock, at)))
    }

    /// Waits that have ended with the lock since this was last asked.
    pub fn take_granted(&mut self) -> Vec<GrantedWait> {
        std::mem::take(&mut self.granted)
    }

    /// How many locks are held, and how many waits there are.
    pub fn len(&self) -> (usize, usize) {
        (self.locks, self.waits)
    }

    /// Whether nothing is held and nobody waits.
    pub fn is_empty(&self) -> bool {
        self.flares.is_empty()
    }

    fn place(&self, flare: FlareRef, session: SessionId, wait: u64) -> Option<usize> {
        let is = |waiter: &Waiter| waiter.wait == wait && waiter.lock.owner.0 == session;
        self.flares.get(&flare)?.queue.iter().position(is)
    }

    fn put(
        &mut self,
        flare: FlareRef,
        lock: &Lock,
        kind: Option<LockKind>,
    ) -> OpResult<LockOutcome> {
        let locks = self.flares.entry(flare).or_default();
        let before = locks.held.len();
        let growth = locks.held.growth(lock.owner, lock.range, kind);
        if growth > 0 && (before + growth > LOCKS_PER_FLARE || self.locks + growth > LOCKS_MAX) {
            return Err(OpError::NoLocks);
        }
        locks.held.set(lock.owner, lock.pid, lock.range, kind);
        self.locks = self.locks - before + locks.held.len();
        Ok(LockOutcome::Granted)
    }

    fn enqueue(
        &mut self,
        flare: FlareRef,
        lock: Lock,
        wait: u64,
        now: Moment,
    ) -> OpResult<LockOutcome> {
        if self.closes_a_ring(flare, &lock) {
            return Err(OpError::Deadlock);
        }
        let locks = self.flares.entry(flare).or_default();
        if locks.queue.len() >= LOCK_WAITS_PER_FLARE || self.waits >= LOCK_WAITS_MAX {
            return Err(OpError::NoLocks);
        }
        locks.queue.push_back(Waiter {
            lock,
            wait,
            asked: now,
        });
        self.waits += 1;
        let places = self.waiting.entry(lock.owner).or_default();
        *places.entry(flare).or_default() += 1;
        Ok(LockOutcome::Waits)
    }

    fn dequeue(&mut self, flare: FlareRef, at: usize) -> Option<Waiter> {
        let waiter = self.flares.get_mut(&flare)?.queue.remove(at)?;
        self.waits -= 1;
        let owner = waiter.lock.owner;
        if let Some(places) = self.waiting.get_mut(&owner) {
            if let Some(count) = places.get_mut(&flare) {
                *count -= 1;
                if *count == 0 {
                    places.remove(&flare);
                }
            }
            if places.is_empty() {
                self.waiting.remove(&owner);
            }
        }
        Some(waiter)
    }

    /// Whether a chain of waits leads from those who are in the way of this lock back to its
    /// owner. Gives up, and says no, where that takes too long.
    fn closes_a_ring(&self, flare: FlareRef, wanted: &Lock) -> bool {
        let Some(locks) = self.flares.get(&flare) else {
            return false;
        };
        let mut todo: Vec<LockOwner> = Vec::new();
        todo.extend(locks.blockers(wanted, usize::MAX));
        let mut seen = BTreeSet::new();
        let mut steps = 0;
        while let Some(owner) = todo.pop() {
            if owner == wanted.owner {
                return true;
            }
            if !seen.insert(owner) {
                continue;
            }
            let places = self.waiting.get(&owner).into_iter().flatten();
            for locks in places.filter_map(|(flare, _)| self.flares.get(flare)) {
                for (at, waiter) in locks.queue.iter().enumerate() {
                    if waiter.lock.owner == owner {
                        todo.extend(locks.blockers(&waiter.lock, at));
                    }
                    steps += 1;
                }
            }
            if steps + todo.len() > LOCK_GRAPH_STEPS {
                return false;
            }
        }
        false
    }

    /// Grants what nothing is in the way of any more, in order.
    fn settle(&mut self, flare: FlareRef) {
        while let Some(locks) = self.flares.get(&flare) {
            let free = |(at, waiter): (usize, &Waiter)| {
                (!locks.is_blocked(&waiter.lock, at)).then_some(at)
            };
            let Some(at) = locks.queue.iter().enumerate().find_map(free) else {
                break;
            };
            let Some(waiter) = self.dequeue(flare, at) else {
                break;
            };
            // Where there is no room for it, its session learns that when it asks again.
            if self
                .put(flare, &waiter.lock, Some(waiter.lock.kind))
                .is_ok()
            {
                self.granted.push(GrantedWait {
                    flare,
                    session: waiter.lock.owner.0,
                    wait: waiter.wait,
                });
            }
        }
        let locks = self.flares.get(&flare);
        if locks.is_some_and(|locks| locks.held.is_empty() && locks.queue.is_empty()) {
            self.flares.remove(&flare);
        }
    }

    fn forget(&mut self, gone: impl Fn(FlareRef) -> bool, ended: impl Fn(SessionId) -> bool) {
        let flares: Vec<FlareRef> = self.flares.keys().copied().collect();
        for flare in flares {
            let all = gone(flare);
            let goes = |owner: LockOwner| all || ended(owner.0);
            let Some(locks) = self.flares.get_mut(&flare) else {
                continue;
            };
            let before = locks.held.len();
            locks.held.retain(|owner| !goes(owner));
            self.locks = self.locks - before + locks.held.len();
            let waits = |locks: &FlareLocks| {
                let mut queue = locks.queue.iter();
                queue.position(|waiter| goes(waiter.lock.owner))
            };
            while let Some(at) = self.flares.get(&flare).and_then(waits) {
                self.dequeue(flare, at);
            }
            self.settle(flare);
        }
    }
}
