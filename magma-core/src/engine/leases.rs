//! Leases: what a session may cache, and how it is taken back.
//!
//! A lease covers everything that is known of one flare: attributes, extended attributes, the
//! target of a link, content, the entries of a directory and the names that it does not have,
//! and that a settled link leads to the flare. It is shared: any number of sessions hold one.
//! Before an operation of one session changes a flare, the leases of all others on it are
//! recalled, and the operation waits until each is given back or has run out.
//!
//! * **Validity** is the session's, not the lease's: each direct request extends it, here from
//!   *receiving* the request by [`LEASE_MS`] and a grace, at the client from *sending* it by
//!   [`LEASE_MS`] once the reply is there. So the client's always ends first. While the session
//!   owes an answer to a recall nothing is extended, on either side. What has once run out
//!   does not come back: the next reply tells which grants are void.
//! * **Order**: grants to a session are numbered. A recall names the highest; a grant up to it
//!   whose reply comes later is void.
//! * **Unsettled** flares (a transaction holds a link or an entry of theirs) are granted to
//!   nobody: their transaction changes them later without asking again.
//! * **After a restart** nothing is known of what was granted. Until every session has said
//!   hello, which says that it holds nothing from here, or any lease has run out, changes wait.

use std::collections::{BTreeMap, BTreeSet};

use super::event::Work;
use super::parking::Wait;
use super::request::{INTERNAL, RequestState};
use super::{Action, Engine};
use crate::ids::{Epoch, SessionId};
use crate::key::Key;
use crate::limits::{LEASE_GRACE_MS, LEASE_MS, LEASES_MAX, LEASES_PER_SESSION, RECALL_AGAIN_MS};
use crate::op::Op;
use crate::store::{Store, StoreResult};
use crate::time::Moment;
use crate::wire::flare_protocol::{FromClient, Grant, ToClient};

/// The leases that an owner has granted.
#[derive(Default)]
pub(super) struct Leases {
    /// Who holds a lease on a flare, each with the number of its last grant.
    held: BTreeMap<Key, Vec<(SessionId, u64)>>,
    count: usize,
    sessions: BTreeMap<SessionId, Holder>,
    /// Flares whose leases are being taken back.
    recalled: BTreeMap<Key, Recall>,
    /// Recalls to be told when the batch ends.
    to_tell: BTreeMap<SessionId, Vec<Key>>,
    /// Sessions that may hold leases from before this engine was built, and until when.
    strangers: BTreeSet<SessionId>,
    strangers_until: Moment,
    /// Ranges whose owner was found dead: what it granted is out there, too.
    inherited: Vec<Inherited>,
    /// Flares where a lease was found to have run out: whoever waits there may go on.
    freed: Vec<Key>,
}

/// A session that holds, or held, leases.
#[derive(Default)]
struct Holder {
    valid_until: Moment,
    /// The number of its last grant. Never begins again, whatever it gives back.
    granted: u64,
    count: usize,
    /// Recalls that it has not answered.
    owes: usize,
    /// Grants up to this one have run out.
    void: u64,
}

/// Leases of a dead owner on what is ours now.
struct Inherited {
    range: (Key, Key),
    /// The epoch in which it became ours: who works by that lava shows nothing of the dead one's.
    since: Epoch,
    sessions: BTreeSet<SessionId>,
    until: Moment,
}

/// What a direct request did to the leases of its session.
enum Heard {
    /// They are valid for longer. What had run out is gone; work may go on at these flares.
    Extended(Vec<Key>),
    /// Not before it has answered a recall.
    Owes,
}

/// A recall under way.
struct Recall {
    waits_for: BTreeSet<SessionId>,
    told: Moment,
}

impl Leases {
    /// Leases of an earlier life of this volcano may be out there.
    pub(super) fn after_start(sessions: impl Iterator<Item = SessionId>, now: Moment) -> Leases {
        Leases {
            strangers: sessions.collect(),
            strangers_until: now.plus_ms(LEASE_MS + LEASE_GRACE_MS),
            ..Leases::default()
        }
    }

    /// A range is ours because its owner was found dead, whose leases nobody knows.
    pub(super) fn taken_over(
        &mut self,
        range: (Key, Key),
        since: Epoch,
        sessions: BTreeSet<SessionId>,
        now: Moment,
    ) {
        let until = now.plus_ms(LEASE_MS + LEASE_GRACE_MS);
        self.inherited.push(Inherited {
            range,
            since,
            sessions,
            until,
        });
    }

    /// Whether anyone but this session may hold a lease that a dead owner has granted.
    fn is_inherited(&self, key: Key, by: SessionId, now: Moment) -> bool {
        self.inherited.iter().any(|inherited| {
            let (start, end) = inherited.range;
            let mut others = inherited.sessions.iter().filter(|other| **other != by);
            start <= key && key <= end && inherited.until > now && others.next().is_some()
        })
    }

    /// A direct request of a session: what it holds stays valid, unless it owes an answer.
    fn heard(&mut self, session: SessionId, now: Moment) -> Heard {
        let holder = self.sessions.entry(session).or_default();
        let lapsed = holder.valid_until <= now;
        if lapsed {
            holder.void = holder.granted;
        } else if holder.owes > 0 {
            return Heard::Owes;
        }
        holder.valid_until = now.plus_ms(LEASE_MS + LEASE_GRACE_MS);
        Heard::Extended(if lapsed {
            self.forget(session)
        } else {
            Vec::new()
        })
    }

    /// Whether anyone but this session holds a lease on the flare. What is held is recalled.
    pub(super) fn conflict(&mut self, key: Key, by: SessionId, now: Moment) -> bool {
        if !self.strangers.is_empty() {
            if self.strangers_until <= now {
                self.strangers.clear();
            } else if self.strangers.iter().any(|session| *session != by) {
                return true;
            }
        }
        if self.is_inherited(key, by, now) {
            return true;
        }
        let Some(holders) = self.held.get(&key) else {
            return false;
        };
        let others: Vec<SessionId> = holders
            .iter()
            .map(|(session, _)| *session)
            .filter(|session| *session != by)
            .collect();
        let mut waits_for = BTreeSet::new();
        for session in others {
            let valid = self.sessions.get(&session).map(|holder| holder.valid_until);
            if valid.is_some_and(|until| until > now) {
                waits_for.insert(session);
            } else if self.release(key, session, u64::MAX) {
                self.freed.push(key);
            }
        }
        if waits_for.is_empty() {
            return false;
        }
        let recall = self.recalled.entry(key).or_insert(Recall {
            waits_for: BTreeSet::new(),
            told: now,
        });
        for session in waits_for {
            if recall.waits_for.insert(session) {
                if let Some(holder) = self.sessions.get_mut(&session) {
                    holder.owes += 1;
                }
                self.to_tell.entry(session).or_default().push(key);
            }
        }
        true
    }

    /// Whether anyone but this session may hold a lease on the flare. Recalls nothing.
    pub(super) fn is_held_by_others(&self, key: Key, by: SessionId, now: Moment) -> bool {
        let holders = self.held.get(&key).map_or(&[][..], Vec::as_slice);
        let valid = |session: &SessionId| {
            let holder = self.sessions.get(session);
            holder.is_some_and(|holder| holder.valid_until > now)
        };
        let mut others = holders.iter().filter(|(session, _)| *session != by);
        !self.strangers.is_empty()
            || self.is_inherited(key, by, now)
            || others.any(|(session, _)| valid(session))
    }

    /// Grants leases on flares that a reply shows; none when one of them may not be had.
    fn grant(&mut self, session: SessionId, keys: &[Key], now: Moment) -> Option<u64> {
        let most = self.count + keys.len() > LEASES_MAX;
        let busy = |key: &Key| self.recalled.contains_key(key);
        if keys.is_empty() || most || keys.iter().any(busy) {
            return None;
        }
        let holder = self.sessions.entry(session).or_default();
        if holder.count + keys.len() > LEASES_PER_SESSION {
            self.shed(session, now);
            return None;
        }
        holder.granted += 1;
        let number = holder.granted;
        for key in keys {
            let holders = self.held.entry(*key).or_default();
            match holders.iter_mut().find(|(held_by, _)| *held_by == session) {
                Some((_, last)) => *last = number,
                None => {
                    holders.push((session, number));
                    holder.count += 1;
                    self.count += 1;
                }
            }
        }
        Some(number)
    }

    /// A session holds as many leases as it may, some of which it may have forgotten: the oldest
    /// are recalled.
    fn shed(&mut self, session: SessionId, now: Moment) {
        let held = self.held.iter().filter_map(|(key, holders)| {
            let (_, number) = holders.iter().find(|(by, _)| *by == session)?;
            Some((*number, *key))
        });
        let mut oldest: Vec<(u64, Key)> = held.collect();
        oldest.sort_unstable();
        oldest.truncate(LEASES_PER_SESSION / 8);
        for (_, key) in oldest {
            let recall = self.recalled.entry(key).or_insert(Recall {
                waits_for: BTreeSet::new(),
                told: now,
            });
            if recall.waits_for.insert(session) {
                if let Some(holder) = self.sessions.get_mut(&session) {
                    holder.owes += 1;
                }
                self.to_tell.entry(session).or_default().push(key);
            }
        }
    }

    /// Takes out what has run out: it holds nobody up, and makes room. Returns the flares at
    /// which something may go on.
    fn sweep(&mut self, now: Moment) -> Vec<Key> {
        let lapsed: Vec<SessionId> = self
            .sessions
            .iter_mut()
            .filter(|(_, holder)| holder.valid_until <= now && holder.count > 0)
            .map(|(session, holder)| {
                holder.void = holder.granted;
                *session
            })
            .collect();
        lapsed
            .into_iter()
            .flat_map(|session| self.forget(session))
            .collect()
    }

    /// A lease is given back, or void. True when nobody is waited for at that flare any more.
    fn release(&mut self, key: Key, session: SessionId, upto: u64) -> bool {
        if let Some(holders) = self.held.get_mut(&key) {
            let before = holders.len();
            holders.retain(|(held_by, number)| *held_by != session || *number > upto);
            let gone = before - holders.len();
            if holders.is_empty() {
                self.held.remove(&key);
            }
            self.count -= gone;
            if let Some(holder) = self.sessions.get_mut(&session) {
                holder.count -= gone;
            }
        }
        let Some(recall) = self.recalled.get_mut(&key) else {
            return false;
        };
        if recall.waits_for.remove(&session)
            && let Some(holder) = self.sessions.get_mut(&session)
        {
            holder.owes -= 1;
        }
        if recall.waits_for.is_empty() {
            self.recalled.remove(&key);
            return true;
        }
        false
    }

    /// A session holds nothing any more. Returns the flares at which something may go on.
    fn forget(&mut self, session: SessionId) -> Vec<Key> {
        let Some(holder) = self.sessions.get(&session) else {
            return Vec::new();
        };
        if holder.count == 0 && holder.owes == 0 {
            return Vec::new();
        }
        let holds = |holders: &[(SessionId, u64)]| holders.iter().any(|(by, _)| *by == session);
        let keys: Vec<Key> = self
            .held
            .iter()
            .filter(|(_, holders)| holds(holders))
            .map(|(key, _)| *key)
            .collect();
        keys.into_iter()
            .filter(|key| self.release(*key, session, u64::MAX))
            .collect()
    }

    /// Takes back everything in a range. True when there is nothing (left).
    pub(super) fn recall_range(&mut self, start: Key, end: Key, now: Moment) -> bool {
        // Nothing is known of what was granted in an earlier life.
        if !self.strangers.is_empty() && self.strangers_until > now {
            return false;
        }
        let overlaps = |(first, last): (Key, Key)| first <= end && start <= last;
        let mut inherited = self.inherited.iter();
        if inherited.any(|i| overlaps(i.range) && i.until > now && !i.sessions.is_empty()) {
            return false;
        }
        let keys: Vec<Key> = self.held.range(start..=end).map(|(key, _)| *key).collect();
        let mut free = true;
        for key in keys {
            free &= !self.conflict(key, INTERNAL, now);
        }
        free
    }

    /// How many leases are out.
    pub(super) fn len(&self) -> usize {
        self.count
    }
}

impl<S: Store> Engine<S> {
    /// A session has a connection (again), and holds no lease from before.
    pub(super) fn session_hello(&mut self, session: SessionId) {
        let mut free = self.leases.forget(session);
        if self.leases.strangers.remove(&session) {
            // It may have been the last but the one that waits, whichever that is.
            free = self.parking.keys_waiting_for_leases();
        }
        self.wake_leases(free);
    }

    /// A session works by a lava, and shows nothing under leases of who owned a slice before.
    pub(super) fn lava_seen(&mut self, session: SessionId, epoch: Epoch) {
        for inherited in &mut self.leases.inherited {
            if inherited.since <= epoch {
                inherited.sessions.remove(&session);
            }
        }
        self.forget_inherited();
    }

    /// Ranges where no lease of a dead owner is left, and work that waited for them.
    fn forget_inherited(&mut self) {
        if self.leases.inherited.is_empty() {
            return;
        }
        let now = self.now.moment;
        let waits = |i: &Inherited| i.until > now && !i.sessions.is_empty();
        self.leases.inherited.retain(waits);
        // Whoever is the last that could hold one may go on, too.
        let keys = self.parking.keys_waiting_for_leases();
        self.wake_leases(keys);
    }

    /// A request came from the session itself. True when that keeps its leases valid.
    pub(super) fn session_heard(&mut self, session: SessionId) -> bool {
        match self.leases.heard(session, self.now.moment) {
            Heard::Extended(free) => {
                self.wake_leases(free);
                true
            }
            Heard::Owes => false,
        }
    }

    /// What a client says unasked.
    pub(super) fn client_says(
        &mut self,
        session: SessionId,
        message: FromClient,
    ) -> StoreResult<()> {
        match message {
            FromClient::Recalled { keys, upto, opens } => {
                // Before anything goes on that waited for the leases.
                self.opened(session, opens)?;
                let free = keys
                    .into_iter()
                    .filter(|key| self.leases.release(*key, session, upto))
                    .collect();
                self.wake_leases(free);
            }
            FromClient::LavaSeen(epoch) => self.lava_seen(session, epoch),
            FromClient::LocksHeld {
                number,
                locks,
                done,
            } => self.locks_held(session, number, locks, done),
            FromClient::LockProbe { probe, flare, wait } => {
                self.lock_probe(session, probe, flare, wait);
            }
            FromClient::Opened(opens) => self.opened(session, opens)?,
            FromClient::Closed(closed) => self.closed(session, closed)?,
            FromClient::OpensHeld {
                number,
                opens,
                done,
            } => self.opens_held(session, number, opens, done)?,
        }
        Ok(())
    }

    /// Sessions that have ended hold nothing.
    pub(super) fn end_leases(&mut self, ended: &[SessionId]) {
        for session in ended {
            self.session_hello(*session);
            self.leases.sessions.remove(session);
            for inherited in &mut self.leases.inherited {
                inherited.sessions.remove(session);
            }
        }
        self.forget_inherited();
    }

    /// Leases that have run out hold nobody up, and recalls without answer are told again.
    pub(super) fn watch_leases(&mut self) {
        let now = self.now.moment;
        if !self.leases.strangers.is_empty() && self.leases.strangers_until <= now {
            self.leases.strangers.clear();
            let keys = self.parking.keys_waiting_for_leases();
            self.wake_leases(keys);
        }
        self.forget_inherited();
        let mut free = self.leases.sweep(now);
        let due: Vec<(Key, Vec<SessionId>)> = self
            .leases
            .recalled
            .iter_mut()
            .filter(|(_, recall)| recall.told.plus_ms(RECALL_AGAIN_MS) <= now)
            .map(|(key, recall)| {
                recall.told = now;
                (*key, recall.waits_for.iter().copied().collect())
            })
            .collect();
        for (key, sessions) in due {
            for session in sessions {
                let holder = self.leases.sessions.get(&session);
                if holder.is_some_and(|holder| holder.valid_until > now) {
                    self.leases.to_tell.entry(session).or_default().push(key);
                } else {
                    tracing::info!(target: "magma::s", %session, %key, "a lease has run out unanswered");
                    if self.leases.release(key, session, u64::MAX) {
                        free.push(key);
                    }
                }
            }
        }
        self.wake_leases(free);
    }

    /// Tells the recalls of this batch.
    pub(super) fn flush_recalls(&mut self) {
        let freed = std::mem::take(&mut self.leases.freed);
        self.wake_leases(freed);
        for (session, keys) in std::mem::take(&mut self.leases.to_tell) {
            let upto = self
                .leases
                .sessions
                .get(&session)
                .map_or(0, |holder| holder.granted);
            let message = ToClient::Recall { keys, upto };
            self.act(Action::Tell { session, message });
        }
    }

    /// The flare at which an operation must wait for a recall, if there is one.
    pub(super) fn lease_conflict(&mut self, op: &Op, session: SessionId) -> Option<Key> {
        let now = self.now.moment;
        op.changes()
            .into_iter()
            .flatten()
            .filter(|key| self.leases.conflict(*key, session, now))
            .last()
    }

    /// The lease that goes with a reply, as its last act: what it shows is as it is now.
    pub(super) fn lease_for(&mut self, state: &RequestState) -> StoreResult<Option<Grant>> {
        let session = state.request.session;
        if !state.heard {
            return Ok(None);
        }
        let mut number = None;
        if !state.shown.is_empty() && self.may_lease(&state.shown)? {
            number = self.leases.grant(session, &state.shown, self.now.moment);
        }
        Ok(Some(Grant {
            number: number.unwrap_or_default(),
            valid_ms: LEASE_MS as u32,
            void: self.leases.sessions.get(&session).map_or(0, |h| h.void),
            shown: number.is_some(),
        }))
    }

    /// Whether nothing is under way about these flares, and they are here to stay.
    fn may_lease(&mut self, keys: &[Key]) -> StoreResult<bool> {
        for key in keys {
            let owned = self
                .lava
                .slice_of(*key)
                .and_then(|slice| self.owned.get(&slice.id));
            if owned.is_none_or(|owned| owned.handing.is_some())
                || self.is_decided_here(*key)
                || self.is_unsettled(*key)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a transaction is under way about a flare of ours. Nearly always answered from
    /// memory: whatever makes a key unsettled is noted, and only what was noted is looked up.
    fn is_unsettled(&mut self, key: Key) -> StoreResult<bool> {
        if !self.maybe_unsettled.contains(&key) {
            return Ok(false);
        }
        let unsettled = !self.store.unsettled(key, key, 1)?.is_empty();
        if !unsettled {
            self.maybe_unsettled.remove(&key);
        }
        Ok(unsettled)
    }

    /// Whether a rename that is driven here holds an entry of this directory.
    fn is_decided_here(&self, key: Key) -> bool {
        !self.holds.is_empty() && self.holds.keys().any(|(dir, _)| *dir == key)
    }

    fn wake_leases(&mut self, keys: Vec<Key>) {
        for key in keys {
            let woken: Vec<Work> = self.parking.wake(Wait::Lease(key)).collect();
            self.local.extend(woken);
        }
    }
}
