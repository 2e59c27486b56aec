//! Who has what open. A flare without names lives on while anybody has it open.
//!
//! An owner knows of a session only *that* it has a flare open; how often, and for what, is known to
//! the client. Every open and close of a client has a number of its own that grows, and a close says
//! up to which number it is meant, so that the order of arrival does not matter.
//!
//! Clients open under a lease without asking: they tell an owner of it within a second, before
//! they change something that it matters for ([`Op::Hold`](crate::op::Op::Hold)), and with the answer to a recall. What is open is kept in
//! memory: after a start, or when a slice has come, all sessions are asked to say it again
//! ([`FromClient::OpensHeld`](crate::wire::flare_protocol::FromClient::OpensHeld), with each hello too), and until they have, or the
//! time of a session is over, nothing is taken for closed.

use std::collections::{BTreeMap, BTreeSet};

use super::Engine;
use super::event::Outcome;
use super::request::RequestState;
use crate::effect::Effect;
use crate::error::OpResult;
use crate::ids::{FlareRef, SessionId};
use crate::key::Key;
use crate::lava::Lava;
use crate::limits::{OPENS_CLAIM_BATCH, OPENS_MAX, SESSION_MS};
use crate::op::Answer;
use crate::store::{Store, StoreResult};
use crate::time::Moment;

/// What sessions have open here.
#[derive(Debug, Default)]
pub(super) struct Opens {
    by_key: BTreeMap<Key, BTreeMap<SessionId, u64>>,
    /// Sessions that may have something open that is not known.
    unclaimed: BTreeSet<SessionId>,
    unclaimed_until: Moment,
    /// Claims that have not come to their end: their number, and what they have named.
    claims: BTreeMap<SessionId, (u64, BTreeSet<Key>)>,
}

impl Opens {
    /// Whether anybody has it open, as far as is known.
    pub(super) fn is_open(&self, key: Key) -> bool {
        self.by_key.contains_key(&key)
    }

    /// Whether this session has it open.
    pub(super) fn is_open_for(&self, key: Key, session: SessionId) -> bool {
        let sessions = self.by_key.get(&key);
        sessions.is_some_and(|sessions| sessions.contains_key(&session))
    }

    /// Whether all that is open is known.
    pub(super) fn all_known(&self, now: Moment) -> bool {
        self.unclaimed.is_empty() || self.unclaimed_until <= now
    }

    fn expect(&mut self, sessions: impl Iterator<Item = SessionId>, now: Moment) {
        self.unclaimed = sessions.collect();
        self.unclaimed_until = now.plus_ms(SESSION_MS);
    }

    fn add(&mut self, key: Key, session: SessionId, number: u64) {
        // A bound for what clients can make a volcano remember; what is beyond it is not kept
        // past an unlink.
        if self.by_key.len() >= OPENS_MAX && !self.by_key.contains_key(&key) {
            return;
        }
        let opened = self.by_key.entry(key).or_default();
        let last = opened.entry(session).or_default();
        *last = number.max(*last);
    }

    /// True when nobody has it open any more.
    fn close(&mut self, key: Key, session: SessionId, upto: u64) -> bool {
        let Some(sessions) = self.by_key.get_mut(&key) else {
            return false;
        };
        if sessions.get(&session).is_some_and(|last| *last <= upto) {
            sessions.remove(&session);
        }
        if !sessions.is_empty() {
            return false;
        }
        self.by_key.remove(&key);
        true
    }

    /// What of a session's opens was not named, up to that number. They are closed.
    fn unnamed(&mut self, session: SessionId, upto: u64, named: &BTreeSet<Key>) -> Vec<Key> {
        let of_session = |(key, sessions): (&Key, &BTreeMap<SessionId, u64>)| {
            (sessions.contains_key(&session) && !named.contains(key)).then_some(*key)
        };
        let keys: Vec<Key> = self.by_key.iter().filter_map(of_session).collect();
        let closed = |key: &Key| self.close(*key, session, upto);
        keys.into_iter().filter(closed).collect()
    }
}

impl<S: Store> Engine<S> {
    /// A session has a flare open, by its number.
    pub(super) fn add_open(&mut self, key: Key, session: SessionId, number: u64) {
        self.opens.add(key, session, number);
    }

    /// [`Op::Hold`](crate::op::Op::Hold): something was opened under a lease.
    pub(super) fn hold(
        &mut self,
        state: &RequestState,
        flare: FlareRef,
        number: u64,
    ) -> StoreResult<OpResult<Outcome>> {
        if let Err(error) = self.live_file(flare)? {
            return Ok(Err(error));
        }
        self.add_open(flare.key(), state.request.session, number);
        Ok(Ok(Outcome::done(Answer::Done)))
    }

    /// A client says what it has opened under leases.
    pub(super) fn opened(
        &mut self,
        session: SessionId,
        opens: Vec<(FlareRef, u64)>,
    ) -> StoreResult<()> {
        if !self.lava.has_session(session) {
            return Ok(());
        }
        for (flare, number) in opens {
            let ours = self.lava.owner_of(flare.key()) == Some(self.me);
            if ours && self.live(flare)?.is_ok() {
                self.add_open(flare.key(), session, number);
            }
        }
        Ok(())
    }

    /// A client says what it has closed, each up to a number. The last close of a flare without
    /// names ends the flare.
    pub(super) fn closed(
        &mut self,
        session: SessionId,
        closed: Vec<(FlareRef, u64)>,
    ) -> StoreResult<()> {
        for (flare, upto) in closed {
            if self.opens.close(flare.key(), session, upto) {
                self.reap(flare.key())?;
            }
        }
        Ok(())
    }

    /// A part of all that a session has open, at any owner: what it does not name, and was opened
    /// before, is closed.
    pub(super) fn opens_held(
        &mut self,
        session: SessionId,
        number: u64,
        mut opens: Vec<(FlareRef, u64)>,
        done: bool,
    ) -> StoreResult<()> {
        if !self.lava.has_session(session) {
            return Ok(());
        }
        opens.truncate(OPENS_CLAIM_BATCH);
        let known = self.opens.claims.get(&session).map(|(number, _)| *number);
        if known != Some(number) {
            self.opens.claims.insert(session, (number, BTreeSet::new()));
        }
        let lava = &self.lava;
        let (me, ours) = (Some(self.me), |key: Key| lava.owner_of(key));
        let keys: Vec<Key> = opens.iter().map(|(flare, _)| flare.key()).collect();
        if let Some((_, named)) = self.opens.claims.get_mut(&session) {
            named.extend(keys.into_iter().filter(|key| ours(*key) == me));
        }
        self.opened(session, opens)?;
        if !done {
            return Ok(());
        }
        if let Some((number, named)) = self.opens.claims.remove(&session) {
            for key in self.opens.unnamed(session, number, &named) {
                self.reap(key)?;
            }
        }
        self.opens.unclaimed.remove(&session);
        Ok(())
    }

    /// Slices have come or gone: what is open in them is known, if at all, where they were before.
    /// All sessions are asked together with their locks.
    pub(super) fn opens_follow(&mut self, before: &Lava) {
        let (me, lava) = (Some(self.me), &self.lava);
        self.opens.by_key.retain(|key, _| lava.owner_of(*key) == me);
        let is_new = |slice: &crate::lava::Slice| {
            before.owner_of(slice.start) != me || before.owner_of(slice.end) != me
        };
        let mut owned = lava.slices.iter().filter(|slice| Some(slice.owner) == me);
        if owned.any(is_new) {
            let sessions = lava.sessions.iter().map(|session| session.id);
            self.opens.expect(sessions, self.now.moment);
        }
    }

    /// Sessions that have ended have nothing open.
    pub(super) fn end_opens(&mut self, ended: &[SessionId]) -> StoreResult<()> {
        for session in ended {
            self.opens.unclaimed.remove(session);
            self.opens.claims.remove(session);
            for key in self.opens.unnamed(*session, u64::MAX, &BTreeSet::new()) {
                self.reap(key)?;
            }
        }
        Ok(())
    }

    /// Drops a flare that has neither a name nor an open.
    pub(super) fn reap(&mut self, key: Key) -> StoreResult<()> {
        let Some(row) = self.cache.flare(&self.store, key)? else {
            return Ok(());
        };
        if row.nlink > 0 || row.nascent.is_some() || self.may_be_open(key) {
            return Ok(());
        }
        let Some(slice) = self.lava.slice_of(key).map(|slice| slice.id) else {
            return Ok(());
        };
        if self.owned.contains_key(&slice) {
            self.commit(slice, vec![Effect::DropFlare(row.flare_ref())])?;
        }
        Ok(())
    }

    /// Whether anybody has it open, or may have.
    pub(super) fn may_be_open(&self, key: Key) -> bool {
        self.opens.is_open(key) || !self.opens.all_known(self.now.moment)
    }
}
