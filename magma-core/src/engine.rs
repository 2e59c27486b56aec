//! The engine of a volcano: a deterministic machine that orders the operations of the slices
//! it owns, replicates them, applies those of the slices it copies, and answers.
//!
//! It takes a batch of events, decides each inside one store transaction, commits, and
//! returns actions. Nothing in it waits: what must wait is parked, and comes back as work
//! when its reason is gone. In the order of a write:
//!
//! | file | what |
//! |---|---|
//! | [`request`] | a client's request: routing, exactly-once, the list of operations |
//! | [`files`], [`directories`], [`attributes`] | operations on a single flare |
//! | [`create`], [`unlink`], [`link`], [`rename`] | transactions, driven at one flare's owner |
//! | [`ancestors`] | no directory comes below itself |
//! | [`steps`], [`held`] | what a transaction asks of other owners |
//! | [`commit`] | effects become an operation of the slice: applied, journalled, shipped |
//! | [`slices`] | the state of the slices owned and copied; which replies may leave |
//! | [`shipping`] | operations on their way to the copies, and their arrival there |
//! | [`filling`] | a new copy gets everything while work goes on |
//! | [`leases`] | what sessions may cache, and how it is taken back |
//! | [`fsck`] | what `magma fsck` asks, and repairs |
//! | [`locks`] | byte-range locks of all sessions |
//! | [`repair`] | content that does not have its checksum comes from another volcano |
//! | [`ranges`] | fallocate, holes, copies between files |
//! | [`fence`] | who may have been replaced answers nobody |
//! | [`syncing`] | fsync on every in-sync copy |
//! | [`topology`] | a new lava: slices come, go, are cut and change owner |
//! | [`housekeeping`] | ticks: retries, limits, copies that are missing, what a crash left |

mod acls;
mod ancestors;
mod attributes;
mod cache;
mod commit;
mod create;
mod directories;
mod doubts;
mod event;
mod fence;
mod files;
mod filling;
mod fsck;
mod held;
mod housekeeping;
mod leases;
mod link;
mod locks;
mod opens;
mod parking;
mod ranges;
mod rename;
mod repair;
mod request;
mod resync;
mod shipping;
mod slices;
mod steps;
mod syncing;
#[cfg(test)]
mod tests;
mod topology;
mod transactions;
mod unlink;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::ids::{SliceId, TxId, VolcanoId};
use crate::key::Key;
use crate::lava::Lava;
use crate::limits::REPLIES_LOOK_MS;
use crate::store::{Durability, Store, StoreResult};
use crate::time::{HybridClock, Moment, Now, Timestamp};

pub use event::{Action, CachedFlare, Event, IoDone, IoJob, Origin, PeerStorage, Statistics};
pub use repair::Damage;

use cache::RowCache;
use event::Io;
use parking::Parking;
use slices::{Held, Owned};
use syncing::Syncs;
use transactions::Pending;

/// The machine. One for each volcano, on one thread.
pub struct Engine<S: Store> {
    me: VolcanoId,
    lava: Lava,
    store: S,
    clock: HybridClock,
    /// The ceiling of the clock that is on the disk.
    ceiling: u64,
    now: Now,
    /// Clients are served. Replication works before.
    serving: bool,
    /// It is to serve as soon as nothing is in doubt.
    asked_to_serve: bool,
    fence: fence::Fence,
    /// The storage is so full that only deletes and small changes go on.
    full: bool,
    /// Nor is there much more: an operation may be refused by the disk.
    scarce: bool,
    /// Content bytes written since the space of the storage was looked at.
    unwatched: u64,
    /// Bytes of the storage that are kept back for deletes.
    reserve: u64,
    /// Members whose storage is full: their copies could not follow.
    peer_storage: BTreeMap<VolcanoId, PeerStorage>,
    cache: RowCache,
    owned: BTreeMap<SliceId, Owned>,
    held: BTreeMap<SliceId, Held>,
    /// Copies that the lava gives us, whose cut has not come, and since when.
    uncut: BTreeMap<SliceId, crate::time::Moment>,
    /// Members with a working connection.
    up: BTreeSet<VolcanoId>,
    parking: Parking,
    pending: BTreeMap<TxId, Pending>,
    /// Entries that a rename driven here holds until it is decided.
    holds: BTreeMap<(Key, crate::flare::Name), TxId>,
    opens: opens::Opens,
    leases: leases::Leases,
    locks: locks::Locks,
    syncs: Syncs,
    repairs: repair::Repairs,
    resyncs: resync::Resyncs,
    io: BTreeMap<u64, Io>,
    next_token: u64,
    /// Steps and work to do before the batch ends.
    local: VecDeque<event::Work>,
    actions: Vec<Action>,
    /// Where large operations go that the copies get while this volcano writes them itself.
    early: Option<shipping::Early>,
    durability: Durability,
    /// Something of this batch must be committed at its end.
    firm: bool,
    /// Something decided may wait for a later batch to be committed and shipped.
    lazy: bool,
    /// A proposal that is under way, so that it is not made twice.
    proposing: Option<crate::agreement::Change>,
    /// Ranges whose rows are no longer ours, to be deleted bit by bit.
    clearing: Vec<(SliceId, Key, Key)>,
    /// Keys of ours with something unfinished, and some where it has been finished since.
    maybe_unsettled: BTreeSet<Key>,
    /// Keys with something unfinished, and the round of housekeeping that saw it last.
    seen_unsettled: BTreeMap<Key, u64>,
    rounds: u64,
    last_housekeeping: u64,
    look_for_replies: Moment,
    statistics: Statistics,
}

impl<S: Store> Engine<S> {
    /// A machine over what the store holds, as member `me` of `lava`.
    pub fn new(me: VolcanoId, lava: Lava, store: S, now: Now) -> StoreResult<Engine<S>> {
        let ceiling = store.clock_ceiling()?;
        let mut engine = Engine {
            me,
            lava: Lava::default(),
            store,
            clock: HybridClock::starting_at(ceiling),
            ceiling,
            now,
            serving: false,
            asked_to_serve: false,
            fence: fence::Fence::default(),
            full: false,
            scarce: false,
            unwatched: 0,
            reserve: 0,
            peer_storage: BTreeMap::new(),
            cache: RowCache::default(),
            owned: BTreeMap::new(),
            held: BTreeMap::new(),
            uncut: BTreeMap::new(),
            up: BTreeSet::new(),
            parking: Parking::default(),
            pending: BTreeMap::new(),
            holds: BTreeMap::new(),
            opens: opens::Opens::default(),
            leases: leases::Leases::after_start(
                lava.sessions.iter().map(|session| session.id),
                now.moment,
            ),
            locks: locks::Locks::after_start(
                lava.sessions.iter().map(|session| session.id),
                now.moment,
            ),
            syncs: Syncs::default(),
            repairs: repair::Repairs::default(),
            resyncs: resync::Resyncs::default(),
            io: BTreeMap::new(),
            next_token: 1,
            local: VecDeque::new(),
            actions: Vec::new(),
            early: None,
            durability: Durability::Process,
            firm: false,
            lazy: false,
            proposing: None,
            clearing: Vec::new(),
            maybe_unsettled: BTreeSet::new(),
            seen_unsettled: BTreeMap::new(),
            rounds: 0,
            last_housekeeping: 0,
            look_for_replies: now.moment.plus_ms(REPLIES_LOOK_MS),
            statistics: Statistics::default(),
        };
        engine.store.begin()?;
        engine.load_lava(lava)?;
        engine.store.commit(Durability::Disk)?;
        Ok(engine)
    }

    /// Decides a batch of events in one transaction of the store. The actions are to be
    /// carried out only after this has returned: everything that they tell has then left the
    /// process. An error means that nothing of the batch happened and that the machine must
    /// be built anew from its store.
    pub fn handle(&mut self, now: Now, events: Vec<Event>) -> StoreResult<Vec<Action>> {
        self.now = now;
        self.durability = Durability::Process;
        self.store.begin()?;
        for event in events {
            self.event(event)?;
            while let Some(work) = self.local.pop_front() {
                self.work(work)?;
            }
        }
        self.flush_recalls();
        self.reserve_clock()?;
        self.end_batch(self.durability)?;
        if self.durability == Durability::Disk {
            self.disk_committed();
        }
        // Only now is every operation of the batch outside our memory: what waited for
        // nothing but this (a slice without copies) may leave.
        self.release_after_commit();
        while let Some(work) = self.local.pop_front() {
            // Releases may start further steps; they form a transaction of their own.
            self.store.begin()?;
            self.work(work)?;
            while let Some(work) = self.local.pop_front() {
                self.work(work)?;
            }
            self.flush_recalls();
            self.end_batch(Durability::Process)?;
            self.release_after_commit();
        }
        Ok(std::mem::take(&mut self.actions))
    }

    /// Commits the batch, unless all that it has decided may wait for the next one.
    fn end_batch(&mut self, durability: Durability) -> StoreResult<()> {
        if self.lazy && !self.firm && durability == Durability::Process {
            return Ok(());
        }
        self.flush_ships();
        (self.lazy, self.firm) = (false, false);
        self.store.commit(durability)
    }

    /// Lets operations with at least so many bytes of content go to the copies before this volcano
    /// has written them: what `send` is called with is on its way although the batch may yet fail.
    /// Both then write at the same time.
    pub fn ship_early(&mut self, from_bytes: usize, send: Box<dyn FnMut(Action) + Send>) {
        self.early = Some(shipping::Early { from_bytes, send });
    }

    /// Commits what was left for a later batch: the volcano ends.
    pub fn finish(&mut self) -> StoreResult<()> {
        self.lazy = false;
        self.store.commit(Durability::Process)
    }

    /// The store, for questions that change nothing.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// The lava that the machine works by.
    pub fn lava(&self) -> &Lava {
        &self.lava
    }

    fn event(&mut self, event: Event) -> StoreResult<()> {
        match event {
            Event::Request {
                origin,
                request,
                payload,
            } => self.client_request(origin, *request, payload),
            Event::Peer {
                from,
                message,
                payload,
            } => self.peer_message(from, message, payload),
            Event::SessionHello(session) => {
                self.session_hello(session);
                Ok(())
            }
            Event::FromClient { session, message } => {
                self.client_says(session, message)?;
                Ok(())
            }
            Event::PeerUp(volcano) => self.peer_up(volcano),
            Event::PeerDown(volcano) => {
                self.peer_down(volcano);
                Ok(())
            }
            Event::Lava(lava) => self.load_lava(*lava),
            Event::VolcanoLease { epoch, until } => {
                self.fence.lease(epoch, until);
                self.fence.learn(self.lava.epoch);
                Ok(())
            }
            Event::Serve => self.serve(),
            Event::IoDone { job, done } => self.io_done(job, done),
            Event::Proposed { change, accepted } => {
                self.proposed(&change, accepted);
                Ok(())
            }
            Event::HandOver { slice, to } => {
                self.hand_over(slice, to);
                Ok(())
            }
            Event::Resume { slice } => {
                self.resume(slice);
                Ok(())
            }
            Event::PeerStorage { volcano, storage } => {
                self.peer_storage.insert(volcano, storage);
                Ok(())
            }
            Event::Tick => {
                self.firm = true;
                self.housekeeping()
            }
        }
    }

    fn work(&mut self, work: event::Work) -> StoreResult<()> {
        match work {
            event::Work::Request(state) => self.run_request(*state),
            event::Work::Step { from, step } => self.step(from, *step),
            event::Work::StepDone(done) => self.step_done(*done),
        }
    }

    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// The time of an operation: follows everything that this volcano has seen.
    fn tick(&mut self) -> Timestamp {
        Timestamp::from_nanos(self.clock.tick(self.now.wall_nanos))
    }

    /// Keeps the ceiling on the disk ahead of the clock, so that a restart on a host whose
    /// wall clock went back never stamps earlier than before.
    fn reserve_clock(&mut self) -> StoreResult<()> {
        const AHEAD: u64 = 10_000_000_000;
        if self.clock.last() + AHEAD / 2 > self.ceiling && self.clock.last() > 0 {
            self.ceiling = self.clock.last() + AHEAD;
            let ceiling = self.ceiling;
            self.rows().set_clock_ceiling(ceiling)?;
        }
        Ok(())
    }
}
