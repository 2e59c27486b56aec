//! One volcano: its engine, the store that outlives it, and what waits to be handled.

use std::sync::{Arc, Mutex, PoisonError};

use magma_core::engine::{Action, Engine, Event};
use magma_core::ids::VolcanoId;
use magma_core::lava::Lava;
use magma_core::store::memory::MemoryStore;
use magma_core::time::{Moment, Now};

/// A volcano of the simulation.
pub struct Volcano {
    /// Its number.
    pub id: VolcanoId,
    /// The lava that its agreement has learned, which a crash does not lose.
    pub lava: Lava,
    /// Events for the next batch.
    pub inbox: Vec<Event>,
    /// A batch is scheduled already.
    pub scheduled: bool,
    /// Its process is stopped: what comes waits.
    pub stopped: bool,
    /// Counts its lives.
    pub life: u64,
    /// Its wall clock is off by so much, in nanoseconds.
    skew: u64,
    engine: Option<Engine<MemoryStore>>,
    store: MemoryStore,
    /// Operations go to the copies before they are committed, as large ones do.
    ships_early: bool,
    early: Arc<Mutex<Vec<Action>>>,
}

impl Volcano {
    /// A volcano with an empty store.
    pub fn new(id: VolcanoId, lava: Lava, ships_early: bool) -> Volcano {
        Volcano {
            id,
            lava,
            inbox: Vec::new(),
            scheduled: false,
            stopped: false,
            life: 0,
            skew: id.0 * 300_000_000,
            engine: None,
            store: MemoryStore::new(),
            ships_early,
            early: Arc::default(),
        }
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.engine.is_some()
    }

    /// Its engine, while it runs.
    pub fn engine(&self) -> Option<&Engine<MemoryStore>> {
        self.engine.as_ref()
    }

    /// Starts an engine over the store.
    pub fn start(&mut self, time: u64) -> Result<(), String> {
        let store = std::mem::take(&mut self.store);
        let engine = Engine::new(self.id, self.lava.clone(), store, self.now(time));
        let mut engine = engine.map_err(|error| format!("volcano {}: {error}", self.id))?;
        if self.ships_early {
            let early = self.early.clone();
            let send = move |action| {
                early
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(action)
            };
            engine.ship_early(0, Box::new(send));
        }
        self.engine = Some(engine);
        self.life += 1;
        self.stopped = false;
        Ok(())
    }

    /// Kills the process: memory and what waits are gone, the store stays as it was committed.
    pub fn crash(&mut self) {
        self.inbox.clear();
        self.stopped = false;
        if let Some(engine) = self.engine.take() {
            self.store = engine.store().clone();
            self.store.crash();
        }
    }

    /// Handles what waits as one batch.
    pub fn handle(&mut self, time: u64) -> Result<Vec<Action>, String> {
        let now = self.now(time);
        let events = std::mem::take(&mut self.inbox);
        let Some(engine) = &mut self.engine else {
            return Ok(Vec::new());
        };
        let handled = engine.handle(now, events);
        let later = handled.map_err(|error| format!("volcano {}: {error}", self.id))?;
        let mut actions = self.take_early();
        actions.extend(later);
        Ok(actions)
    }

    /// Kills the process while it handles what waits: what it has sent early is on its way, and
    /// nothing is committed.
    pub fn crash_before_commit(&mut self, time: u64) -> Result<Vec<Action>, String> {
        let before = self.engine.as_ref().map(|engine| engine.store().clone());
        let now = self.now(time);
        let events = std::mem::take(&mut self.inbox);
        if let Some(engine) = &mut self.engine {
            let handled = engine.handle(now, events);
            handled.map_err(|error| format!("volcano {}: {error}", self.id))?;
        }
        self.crash();
        if let Some(before) = before {
            self.store = before;
            self.store.crash();
        }
        Ok(self.take_early())
    }

    fn take_early(&self) -> Vec<Action> {
        std::mem::take(&mut *self.early.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn now(&self, time: u64) -> Now {
        Now {
            moment: Moment(time),
            wall_nanos: 1_700_000_000_000_000_000 + time * 1_000_000 + self.skew,
        }
    }
}
