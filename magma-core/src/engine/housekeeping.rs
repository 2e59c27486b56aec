//! What time brings: retries, limits, copies that are missing, and what a crash left.

use bytes::Bytes;

use super::event::Work;
use super::parking::Wait;
use super::slices::Owned;
use super::{Action, CachedFlare, Engine, Statistics};
use crate::agreement::Change;
use crate::effect::Effect;
use crate::error::OpError;
use crate::flare::{FlareRow, LinkRow, LinkState};
use crate::ids::{SliceId, VolcanoId};
use crate::key::{Key, ROOT};
use crate::lava::copies::{CopyPlan, copy_plan};
use crate::limits::{
    CACHED_NAMES_READ, JOURNAL_RECORDS, REPLIES_AT_A_TIME, REPLIES_LOOK_MS, SHIP_WINDOW_BYTES,
};
use crate::op::Credentials;
use crate::store::{Store, StoreResult};
use crate::wire::peer::PeerMessage;

/// The slower part of the housekeeping is done this often, in milliseconds.
const SLOWLY_MS: u64 = 500;
/// Unfinished flares looked at in one round.
const UNSETTLED_AT_A_TIME: usize = 256;
/// Storage is called full below this many free bytes, or a twentieth of it if that is less.
const RESERVE_BYTES: u64 = 64 * 1024 * 1024;

impl<S: Store> Engine<S> {
    pub(super) fn peer_message(
        &mut self,
        from: VolcanoId,
        message: Box<PeerMessage>,
        payload: Bytes,
    ) -> StoreResult<()> {
        match *message {
            PeerMessage::Ship {
                slice,
                epoch,
                records,
            } => self.shipped(from, slice, epoch, records, payload),
            PeerMessage::ShipAck { slice, seq, .. } => self.ship_ack(from, slice, seq),
            PeerMessage::ShipFrom { slice, have } => self.ship_from(from, slice, have),
            PeerMessage::Attach { slice } => {
                self.attach(slice);
                Ok(())
            }
            PeerMessage::CopyBegin { slice, epoch, fill } => {
                self.copy_begin(from, slice, epoch, fill)
            }
            PeerMessage::CopyRows {
                slice,
                epoch,
                fill,
                rows,
                cursor,
                done,
                more,
            } => self.copy_rows(
                from,
                slice,
                epoch,
                fill,
                rows,
                (cursor, done, more),
                payload,
            ),
            PeerMessage::CopyAck {
                slice, fill, done, ..
            } => self.copy_ack(from, slice, fill, done),
            PeerMessage::SyncTo {
                slice,
                flare,
                seq,
                token,
            } => self.sync_to(from, slice, flare, seq, token),
            PeerMessage::Synced { token, ok, .. } => {
                self.synced(from, token, ok);
                Ok(())
            }
            PeerMessage::ContentAsk {
                token,
                flare,
                offset,
                len,
            } => self.content_asked(from, token, flare, (offset, len)),
            PeerMessage::ContentTold { token, version } => {
                self.content_told(from, token, version, &payload)
            }
            PeerMessage::Step(step) => self.step(from, step),
            PeerMessage::StepDone(done) => self.step_done(done),
        }
    }

    /// Clients are served from now on. What a crash left unfinished is driven to its end.
    pub(super) fn serve(&mut self) -> StoreResult<()> {
        self.asked_to_serve = true;
        self.try_to_serve()
    }

    pub(super) fn serve_now(&mut self) -> StoreResult<()> {
        self.serving = true;
        self.ask_for_locks();
        self.settle_all()
    }

    pub(super) fn housekeeping(&mut self) -> StoreResult<()> {
        let now = self.now.moment;
        for work in self.parking.overdue(now) {
            self.turn_away(work, OpError::TryAgain);
        }
        self.watch_leases();
        self.watch_locks();
        self.resend_steps(None);
        self.clear_some()?;
        self.watch_repairs()?;
        self.watch_resyncs()?;
        if now.0 < self.last_housekeeping + SLOWLY_MS {
            return Ok(());
        }
        self.last_housekeeping = now.0;
        self.watch_space()?;
        self.remind_syncs();
        self.hold_uncut();
        let unattached: Vec<SliceId> = self
            .held
            .iter()
            .filter(|(_, held)| !held.attached)
            .map(|(id, _)| *id)
            .collect();
        for slice in unattached {
            self.attach(slice);
        }
        let long: Vec<(SliceId, crate::ids::Seq)> = self
            .owned
            .iter()
            .map(|(id, owned)| (*id, owned.acked))
            .chain(self.held.iter().map(|(id, held)| (*id, held.position.1)))
            .filter(|(_, seq)| seq.0 > JOURNAL_RECORDS)
            .collect();
        for (slice, seq) in long {
            self.rows()
                .trim_journal(slice, crate::ids::Seq(seq.0 - JOURNAL_RECORDS))?;
        }
        self.try_to_serve()?;
        if self.serving {
            self.plan_copies();
            self.settle_all()?;
            self.forget_replies()?;
        }
        Ok(())
    }

    /// Answers that nobody can ask for again go, a part of them each time: who sends a request of a
    /// session that has ended is refused. One that was under way at the end is found the next time.
    fn forget_replies(&mut self) -> StoreResult<()> {
        if self.now.moment < self.look_for_replies {
            return Ok(());
        }
        let mut left = REPLIES_AT_A_TIME;
        let slices: Vec<SliceId> = self
            .owned
            .iter()
            .filter(|(_, owned)| owned.handing.is_none())
            .map(|(id, _)| *id)
            .collect();
        for slice in slices {
            let mut last = None;
            while let Some(session) = self.store.next_reply_session(slice, last)? {
                last = Some(session);
                if self.lava.has_session(session) {
                    continue;
                }
                let places = self.store.reply_slots(slice, session, left)?;
                left -= places.len();
                let effects = places
                    .into_iter()
                    .map(|(key, slot)| Effect::DropReply(key, session, slot));
                self.commit_lazily(slice, effects.collect())?;
                if left == 0 {
                    return Ok(());
                }
            }
        }
        self.look_for_replies = self.now.moment.plus_ms(REPLIES_LOOK_MS);
        Ok(())
    }

    /// Looks at the space of the storage again after much was written: between two rounds of
    /// housekeeping a fast writer could go through the whole reserve.
    pub(super) fn watch_space_after(&mut self, bytes: u64) -> StoreResult<()> {
        self.unwatched += bytes;
        if self.unwatched >= self.reserve / 8 {
            self.unwatched = 0;
            self.watch_space()?;
        }
        Ok(())
    }

    /// Follows the space of the storage: below the reserve only what frees space goes on.
    fn watch_space(&mut self) -> StoreResult<()> {
        let space = self.store.space()?;
        if space.total == 0 {
            return Ok(());
        }
        self.reserve = RESERVE_BYTES.min(space.total / 20);
        let full = space.free < self.reserve;
        self.scarce = space.total > 0 && space.free < 2 * self.reserve;
        if full != self.full {
            self.full = full;
            if full {
                tracing::error!(
                    free = space.free,
                    total = space.total,
                    "the storage is full: only deletes go on until there is space (reserve kept)"
                );
            } else {
                tracing::info!(free = space.free, "the storage has space again");
            }
        }
        Ok(())
    }

    /// Whether the storage of this volcano is full.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Proposes what the copies of our slices need next.
    fn plan_copies(&mut self) {
        for plan in copy_plan(&self.lava, self.me) {
            let handing = |slice: SliceId| {
                self.owned
                    .get(&slice)
                    .is_none_or(|owned| owned.handing.is_some())
            };
            let past_cut = |slice| self.owned.get(&slice).is_some_and(Owned::is_past_cut);
            match plan {
                CopyPlan::Add { slice, volcano } if !handing(slice) => {
                    self.propose(Change::AddCopy { slice, volcano });
                }
                CopyPlan::Remove { slice, volcano } if !handing(slice) && past_cut(slice) => {
                    self.propose(Change::RemoveCopy { slice, volcano });
                }
                CopyPlan::Fill { slice, volcano } => self.pursue_copy(slice, volcano),
                CopyPlan::Add { .. } | CopyPlan::Remove { .. } => {}
            }
        }
    }

    /// Proposes a change, one at a time: the next round proposes what is still needed.
    pub(super) fn propose(&mut self, change: Change) {
        if self.proposing.is_some() {
            return;
        }
        self.proposing = Some(change.clone());
        let epoch = self.lava.epoch;
        let change = Box::new(change);
        self.act(Action::Propose { epoch, change });
    }

    pub(super) fn proposed(&mut self, change: &Change, accepted: bool) {
        if self.proposing.as_ref() == Some(change) {
            self.proposing = None;
        }
        tracing::debug!(target: "magma::r", ?change, accepted, "a proposal was decided");
    }

    /// Drives what is unfinished in our slices, and what no transaction here is about: what a
    /// crash has left, ours or that of an owner before us.
    fn settle_all(&mut self) -> StoreResult<()> {
        let ranges: Vec<(SliceId, Key, Key)> = self
            .owned
            .values()
            .map(|owned| (owned.id, owned.start, owned.end))
            .collect();
        // Before what is held is asked for, in whichever slice: holders of the same transaction
        // are told all together.
        for (_, start_key, end) in &ranges {
            self.drive_outboxes(*start_key, *end)?;
        }
        for (slice, start_key, end) in ranges {
            for key in self.store.unsettled(start_key, end, UNSETTLED_AT_A_TIME)? {
                self.settle(key)?;
            }
            if self
                .owned
                .get(&slice)
                .is_some_and(|o| o.start <= ROOT && ROOT <= o.end)
                && let Some((tx, decider)) = self.rename_lock()?
                && self.is_overdue(ROOT)
            {
                self.resolve(ROOT, tx, decider);
            }
        }
        self.seen_unsettled
            .retain(|_, seen| *seen == self.rounds || *seen + 1 == self.rounds);
        self.rounds += 1;
        Ok(())
    }

    /// Whether something about a key was unfinished in the round before too: what is just
    /// under way is left alone.
    fn is_overdue(&mut self, key: Key) -> bool {
        let round = self.rounds;
        let seen = self.seen_unsettled.insert(key, round);
        round == 0 || seen.is_some_and(|seen| seen + 1 == round)
    }

    fn settle(&mut self, key: Key) -> StoreResult<()> {
        if !self.is_overdue(key) {
            return Ok(());
        }
        let Some(row) = self.cache.flare(&self.store, key)? else {
            return Ok(());
        };
        for link in self.cache.links(&self.store, key)? {
            match link.state {
                LinkState::Settled => {}
                LinkState::Nascent(tx) => {
                    if !self.pending.contains_key(&tx) {
                        self.drive_nascent(key, tx, None, None)?;
                    }
                }
                LinkState::Going(tx) => {
                    if !self.pending.contains_key(&tx) {
                        // Permission was checked when the request came; the removal is
                        // repeated as the volcano itself.
                        self.drive_going(key, tx, None, &Credentials::root())?;
                    }
                }
                LinkState::HeldOld(tx, decider) | LinkState::HeldNew(tx, decider) => {
                    self.resolve(key, tx, decider);
                }
            }
        }
        if row.is_dir() {
            for prepared in self.store.prepared_entries(key, 16)? {
                if let Some(prepared) = prepared.prepared {
                    self.resolve(key, prepared.tx, prepared.decider);
                }
            }
        }
        if row.nlink == 0 {
            self.reap(key)?;
        }
        Ok(())
    }

    /// Slices with room on the way to their copies again let writes go on.
    pub(super) fn wake_roomy_slices(&mut self) {
        let roomy: Vec<SliceId> = self
            .owned
            .values()
            .filter(|owned| owned.handing.is_none() && owned.in_flight <= SHIP_WINDOW_BYTES / 2)
            .map(|owned| owned.id)
            .collect();
        for slice in roomy {
            let woken: Vec<Work> = self.parking.wake(Wait::Slice(slice)).collect();
            self.local.extend(woken);
        }
    }

    /// Whether everything decided here is acknowledged.
    pub fn is_quiet(&self) -> bool {
        self.owned.values().all(super::slices::Owned::is_quiet)
    }

    /// Whether nothing waits here for time to pass.
    pub fn is_idle(&self) -> bool {
        self.is_quiet()
            && self.parking.len() == 0
            && self.pending.is_empty()
            && self.io.is_empty()
            && self.proposing.is_none()
            && self.clearing.is_empty()
            && self.resyncs.is_empty()
            && self.uncut.is_empty()
            && self.owned.values().all(|owned| owned.handing.is_none())
            && self.held.values().all(|held| held.attached && held.whole)
    }

    /// Counters since the start.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            parked: self.parking.len() as u64,
            transactions: self.pending.len() as u64,
            leases: self.leases.len() as u64,
            ..self.statistics
        }
    }

    /// The flares in memory, for the console. Names that are not are read, up to a number that
    /// keeps nobody waiting.
    pub fn cached(&self) -> Vec<CachedFlare> {
        let mut reads = CACHED_NAMES_READ;
        let of = |(row, links): (FlareRow, Option<Vec<LinkRow>>)| {
            let links = links.unwrap_or_else(|| {
                let may = reads > 0;
                reads = reads.saturating_sub(1);
                match may {
                    true => self.store.links(row.key).unwrap_or_default(),
                    false => Vec::new(),
                }
            });
            CachedFlare { row, links }
        };
        self.cache.list().into_iter().map(of).collect()
    }

    /// For each slice owned or copied here: the last operation.
    pub fn positions(&self) -> Vec<(SliceId, crate::ids::Stamp)> {
        let owned = self
            .owned
            .values()
            .map(|owned| (owned.id, owned.last_epoch, owned.last));
        let held = self
            .held
            .iter()
            .map(|(id, held)| (*id, held.position.0, held.position.1));
        owned
            .chain(held)
            .map(|(id, epoch, seq)| (id, crate::ids::Stamp(id, epoch, seq)))
            .collect()
    }
}
