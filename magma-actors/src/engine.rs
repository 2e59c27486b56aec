//! The engine's thread: it owns the store, takes events in batches, and never blocks an
//! arbiter.
//!
//! Whatever is ready forms a batch and one transaction (group commit); nothing waits to form
//! a larger one. A panic of the engine, or a failure of its store, costs its memory: it is
//! built anew from the store, and who was waiting for it is told to try again.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use magma_core::engine::{Action, Engine, Event, PeerStorage};
use magma_core::ids::VolcanoId;
use magma_core::lava::Lava;
use magma_core::limits::{ENGINE_BATCH, ENGINE_QUEUE, SHIP_EARLY_BYTES};
use magma_core::store::content::ContentFiles;
use magma_core::store::sqlite::SqliteStore;
use magma_core::store::{StoreError, StoreResult};
use magma_core::time::{Moment, Now};

use crate::supervision::fault_point::{self, When};
use crate::supervision::{DropSentinel, Failure, RestartBudget, Watch};

/// Housekeeping is due this often while something waits in the engine.
const TICK: Duration = Duration::from_millis(100);
/// The same while nothing does.
const IDLE_TICK: Duration = Duration::from_millis(500);

/// The engine over the store of this volcano.
pub type DiskEngine = Engine<SqliteStore>;

type Question = Box<dyn FnOnce(&DiskEngine) + Send>;

enum Input {
    Event(Event),
    Ask(Question),
    /// Panics, for the tests of supervision.
    Fault,
    Stop,
}

/// What the engine tells the arbiter.
#[derive(Debug)]
pub enum Output {
    /// Actions to carry out, of one batch.
    Actions(Vec<Action>),
    /// The engine was built anew: nothing that was asked before is answered any more.
    Restarted,
    /// It has ended in order, everything is on the disk.
    Stopped,
}

/// A handle to the engine's thread.
#[derive(Clone)]
pub struct EngineHandle {
    queue: SyncSender<Input>,
    /// See [`EngineHandle::turns`].
    turns: Arc<AtomicU64>,
}

/// As much waits for the engine as may: the sender tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the engine has too much to do")]
pub struct Overloaded;

impl EngineHandle {
    /// Posts an event, or gives it back with [`Overloaded`].
    pub fn post(&self, event: Event) -> Result<(), Overloaded> {
        match self.queue.try_send(Input::Event(event)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(Overloaded),
        }
    }

    /// Posts an event from a thread that may wait (the I/O pool).
    pub fn post_blocking(&self, event: Event) {
        // The engine is gone only when the process ends.
        let _ = self.queue.send(Input::Event(event));
    }

    /// Posts something that must not get lost, waiting off the arbiter if the queue is full.
    pub fn post_surely(&self, event: Event) {
        if let Err(TrySendError::Full(input)) = self.queue.try_send(Input::Event(event)) {
            let queue = self.queue.clone();
            tokio::task::spawn_blocking(move || {
                let _ = queue.send(input);
            });
        }
    }

    /// Asks the engine something between two batches.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&DiskEngine) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let ask: Question = Box::new(move |engine| {
            let _ = answer.send(question(engine));
        });
        self.queue.try_send(Input::Ask(ask)).ok()?;
        answered.await.ok()
    }

    /// How often the engine has looked at its queue: at least every [`IDLE_TICK`] while it lives,
    /// however much waits there. (A question would tell the same, but finds no room in a full queue.)
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Makes the engine panic (tests of supervision).
    pub fn fault(&self) {
        let _ = self.queue.try_send(Input::Fault);
    }

    /// Ends the thread after what is queued; [`Output::Stopped`] follows.
    pub fn stop(&self) {
        let queue = self.queue.clone();
        std::thread::spawn(move || {
            let _ = queue.send(Input::Stop);
        });
    }
}

/// What is needed to build an engine, again and again.
pub struct EngineSeed {
    /// The volcano's directory.
    pub dir: PathBuf,
    /// Its number.
    pub me: VolcanoId,
    /// The lava at the start, followed by those of [`Event::Lava`].
    pub lava: Lava,
}

/// Opens the store, builds the engine and starts its thread. The content files are for the
/// I/O pool.
pub fn start(
    seed: EngineSeed,
    watch: Watch,
    output: tokio::sync::mpsc::UnboundedSender<Output>,
) -> Result<(EngineHandle, ContentFiles), StoreError> {
    let (queue, inbox) = sync_channel(ENGINE_QUEUE);
    let engine = build(&seed, None)?;
    let content = engine.store().content_files().clone();
    let sentinel = DropSentinel::new(watch.clone(), "Engine");
    let turns = Arc::new(AtomicU64::new(0));
    let runner = Runner {
        seed,
        inbox,
        turns: turns.clone(),
        output,
        watch,
        budget: RestartBudget::default(),
        serving: false,
        up: Vec::new(),
        storage: BTreeMap::new(),
        epoch: Instant::now(),
    };
    std::thread::Builder::new()
        .name("engine".into())
        .spawn(move || runner.run(engine, sentinel))
        .map_err(|source| StoreError::Io {
            action: "start the thread of",
            path: PathBuf::from("engine"),
            source,
        })?;
    Ok((EngineHandle { queue, turns }, content))
}

/// The I/O pool keeps the content files of the first engine, so those after it take them over:
/// a second handle would neither learn which files are new nor let go of those that are removed.
fn build(seed: &EngineSeed, content: Option<ContentFiles>) -> StoreResult<DiskEngine> {
    let store = match content {
        None => SqliteStore::open(&seed.dir)?,
        Some(content) => SqliteStore::open_again(&seed.dir, content)?,
    };
    Engine::new(seed.me, seed.lava.clone(), store, now())
}

struct Runner {
    seed: EngineSeed,
    inbox: Receiver<Input>,
    turns: Arc<AtomicU64>,
    output: tokio::sync::mpsc::UnboundedSender<Output>,
    watch: Watch,
    budget: RestartBudget,
    /// What a new engine must be told.
    serving: bool,
    up: Vec<VolcanoId>,
    storage: BTreeMap<VolcanoId, PeerStorage>,
    epoch: Instant,
}

impl Runner {
    /// What is large goes to the copies while this thread writes it.
    fn ship_early(&self, engine: &mut DiskEngine) {
        let output = self.output.clone();
        let send = move |action| drop(output.send(Output::Actions(vec![action])));
        engine.ship_early(SHIP_EARLY_BYTES, Box::new(send));
    }

    fn run(mut self, mut engine: DiskEngine, mut sentinel: DropSentinel) {
        self.ship_early(&mut engine);
        let mut ticked = Instant::now();
        loop {
            self.turns.fetch_add(1, Ordering::Relaxed);
            let mut events = Vec::new();
            let mut fault = false;
            let mut stop = false;
            let pause = if engine.is_idle() { IDLE_TICK } else { TICK };
            match self
                .inbox
                .recv_timeout(pause.saturating_sub(ticked.elapsed()))
            {
                Ok(input) => self.take(input, &mut events, &engine, &mut fault, &mut stop),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => stop = true,
            }
            while events.len() < ENGINE_BATCH
                && let Ok(input) = self.inbox.try_recv()
            {
                self.take(input, &mut events, &engine, &mut fault, &mut stop);
            }
            if ticked.elapsed() >= pause {
                ticked = Instant::now();
                events.push(Event::Tick);
            }
            if !events.is_empty() || fault {
                let batch = AssertUnwindSafe(|| {
                    assert!(!fault, "a test asked for this panic");
                    let point = fault_point::due(&events);
                    point.iter().for_each(|point| point.reached(When::Before));
                    let actions = engine.handle(now(), events);
                    point.iter().for_each(|point| point.reached(When::After));
                    actions
                });
                let trouble = match catch_unwind(batch) {
                    Ok(Ok(actions)) => {
                        if !actions.is_empty() {
                            let _ = self.output.send(Output::Actions(actions));
                        }
                        None
                    }
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => Some("panic".to_owned()),
                };
                if let Some(trouble) = trouble {
                    match self.rebuild(engine, trouble) {
                        Some(anew) => engine = anew,
                        None => return,
                    }
                }
            }
            if stop {
                sentinel.disarm();
                if let Err(error) = engine.finish() {
                    tracing::error!("the last operations were not kept: {error}");
                }
                drop(engine);
                let _ = self.output.send(Output::Stopped);
                return;
            }
        }
    }

    fn take(
        &mut self,
        input: Input,
        events: &mut Vec<Event>,
        engine: &DiskEngine,
        fault: &mut bool,
        stop: &mut bool,
    ) {
        match input {
            Input::Event(event) => {
                self.remember(&event);
                events.push(event);
            }
            Input::Ask(question) => question(engine),
            Input::Fault => *fault = true,
            Input::Stop => *stop = true,
        }
    }

    /// Keeps what a new engine must be told.
    fn remember(&mut self, event: &Event) {
        match event {
            Event::Serve => self.serving = true,
            Event::PeerUp(id) if !self.up.contains(id) => self.up.push(*id),
            Event::PeerDown(id) => self.up.retain(|up| up != id),
            Event::Lava(lava) if lava.epoch > self.seed.lava.epoch => {
                self.seed.lava = (**lava).clone();
            }
            Event::PeerStorage { volcano, storage } => {
                self.storage.insert(*volcano, *storage);
            }
            _ => {}
        }
    }

    fn rebuild(&mut self, broken: DiskEngine, trouble: String) -> Option<DiskEngine> {
        let content = broken.store().content_files().clone();
        // Its open transaction is rolled back with it.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(broken)));
        let spent = self
            .budget
            .spend(Moment(self.epoch.elapsed().as_millis() as u64));
        if let Err(exhausted) = spent {
            self.watch.fail(Failure::TooManyRestarts {
                actor: "Engine",
                reason: exhausted.to_string(),
                panic: trouble,
            });
            return None;
        }
        tracing::error!("the engine is built anew from its store: {trouble}");
        let built = catch_unwind(AssertUnwindSafe(|| build(&self.seed, Some(content))));
        let mut engine = match built {
            Ok(Ok(engine)) => engine,
            Ok(Err(error)) => {
                let panic = error.to_string();
                self.watch.fail(Failure::TooManyRestarts {
                    actor: "Engine",
                    reason: "its store does not open".into(),
                    panic,
                });
                return None;
            }
            Err(_) => {
                self.watch.fail(Failure::Lost {
                    actor: "Engine",
                    panicked: true,
                });
                return None;
            }
        };
        self.ship_early(&mut engine);
        self.watch.restarted("Engine");
        let _ = self.output.send(Output::Restarted);
        let mut events: Vec<Event> = self.up.iter().map(|id| Event::PeerUp(*id)).collect();
        let storage = self.storage.iter();
        events.extend(storage.map(|(id, storage)| Event::PeerStorage {
            volcano: *id,
            storage: *storage,
        }));
        if self.serving {
            events.push(Event::Serve);
        }
        match engine.handle(now(), events) {
            Ok(actions) => {
                let _ = self.output.send(Output::Actions(actions));
                Some(engine)
            }
            Err(error) => self.rebuild(engine, error.to_string()),
        }
    }
}

/// What a test has set the clock of day by, in seconds.
static CLOCK_SET: AtomicI64 = AtomicI64::new(0);

/// The clock of day jumps (tests of what happens when somebody sets it).
pub fn set_clock(by_seconds: i64) {
    CLOCK_SET.fetch_add(by_seconds, Ordering::Relaxed);
}

/// The time as the machines take it: CLOCK_BOOTTIME runs on while the host sleeps, so that a
/// lease does not outlive a suspended laptop.
pub fn now() -> Now {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the answer; the clock exists since Linux 2.6.39.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    let boot_ms = time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000;
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Now {
        moment: Moment(boot_ms),
        wall_nanos: (wall.as_nanos() as u64).saturating_add_signed(
            CLOCK_SET
                .load(Ordering::Relaxed)
                .saturating_mul(1_000_000_000),
        ),
    }
}
