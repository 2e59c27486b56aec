//! The scheduler: what is due next, and what it does.
//!
//! | file | what |
//! |---|---|
//! | `faults` | volcanos join, start, crash and lose their connections |
//! | `agreement` | proposals, decisions, and lavas that spread |
//! | `failover` | heartbeats, leases of volcanos, who is dead and who is back |
//! | `clients` | requests, replies, hellos and recalls |

mod agreement;
mod clients;
mod failover;
mod faults;

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use magma_core::agreement::Change;
use magma_core::engine::{Action, Event, IoDone, IoJob};
use magma_core::ids::{Epoch, SessionId, Slot, SlotSeq, VolcanoId};
use magma_core::lava::{Lava, may_follow};
use magma_core::store::{Store, View};
use magma_core::time::Moment;
use magma_core::wire::flare_protocol::{FromClient, Reply, Request, ToClient};
use magma_core::wire::peer::PeerMessage;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::agreement::Agreement;
use super::client::Client;
use super::handover::{self, Stage};
use super::network::{Dialled, Network, lane};
use super::volcano::Volcano;
use super::{Plan, tasks};

/// The engine is told that time has passed this often, in milliseconds.
const TICK_MS: u64 = 100;
/// A client asks again when an answer takes longer, in milliseconds.
const ATTEMPT_MS: u64 = 4_000;
/// No run takes longer than this, in milliseconds of its own time.
const RUN_MS: u64 = 3_600_000;
/// After the faults, everything must be quiet within this, in milliseconds.
const QUIET_MS: u64 = 60_000;

/// Something that happens at a time.
#[derive(Debug)]
enum Due {
    Batch(VolcanoId, u64),
    Tick(VolcanoId, u64),
    Message {
        dialled: Dialled,
        number: u64,
        message: Box<PeerMessage>,
        payload: Bytes,
    },
    Lava(VolcanoId, Box<Lava>),
    Propose {
        by: VolcanoId,
        life: u64,
        epoch: Epoch,
        change: Box<Change>,
        handover: bool,
    },
    Decided {
        to: VolcanoId,
        life: u64,
        change: Box<Change>,
        lava: Option<Box<Lava>>,
        handover: bool,
    },
    Request {
        to: VolcanoId,
        client: usize,
        proxied: bool,
        request: Box<Request>,
        payload: Bytes,
    },
    Hello {
        to: (VolcanoId, u64),
        client: usize,
    },
    Tell {
        from: (VolcanoId, u64),
        session: SessionId,
        message: ToClient,
    },
    FromClient {
        to: (VolcanoId, u64),
        session: SessionId,
        message: FromClient,
    },
    Reply {
        from: (VolcanoId, u64),
        client: usize,
        slot: Slot,
        seq: SlotSeq,
        reply: Box<Reply>,
        payload: Bytes,
    },
    /// To a client, unless another alarm was set since.
    SendAgain(usize, u64),
    Wake(usize, u64),
    Fault,
    Connect(Dialled),
    Restart(VolcanoId),
    Beat(VolcanoId, u64),
    Heard {
        from: (VolcanoId, u64),
        sent: u64,
    },
    Leased {
        to: (VolcanoId, u64),
        epoch: Epoch,
        until: u64,
    },
    Watch,
    GoOn(VolcanoId, u64),
    Join,
}

/// Who waits for the reply to a token.
#[derive(Clone, Copy, Debug)]
struct Waiter {
    client: usize,
    slot: Slot,
    seq: SlotSeq,
}

/// The whole network, its clients, and what is due.
pub struct World {
    plan: Plan,
    rng: StdRng,
    time: u64,
    counter: u64,
    due: BTreeMap<(u64, u64), Due>,
    network: Network,
    agreement: Agreement,
    volcanos: BTreeMap<VolcanoId, Volcano>,
    stages: BTreeMap<VolcanoId, Stage>,
    clients: Vec<Client>,
    working: usize,
    tokens: BTreeMap<u64, Waiter>,
    joins_left: u32,
    faults: bool,
    /// Everything that happens is told on standard error.
    pub trace: bool,
}

impl World {
    /// A network at its beginning.
    pub fn new(plan: Plan) -> World {
        let agreement = Agreement::found(plan.redundancy, plan.evict_after_ms)
            .unwrap_or_else(|why| unreachable!("{why}"));
        let mut world = World {
            plan,
            rng: StdRng::seed_from_u64(plan.seed),
            time: 1_000,
            counter: 0,
            due: BTreeMap::new(),
            network: Network::default(),
            agreement,
            volcanos: BTreeMap::new(),
            stages: BTreeMap::new(),
            clients: Vec::new(),
            working: 0,
            tokens: BTreeMap::new(),
            joins_left: plan.joins,
            faults: plan.faults,
            trace: std::env::var_os("SIM_TRACE").is_some(),
        };
        world.add_volcano(VolcanoId(1));
        world
    }

    /// The lava as of the last change.
    pub fn lava(&self) -> &Lava {
        self.agreement.lava()
    }

    /// The volcanos by their numbers.
    pub fn volcanos(&self) -> &BTreeMap<VolcanoId, Volcano> {
        &self.volcanos
    }

    /// Runs to the end of all work, heals, and waits until everything is quiet.
    pub fn run(&mut self) -> Result<(), String> {
        self.start_clients()?;
        self.at(1 + self.plan.seed % 200, Due::Join);
        self.at(0, Due::Watch);
        if self.faults {
            self.at(200, Due::Fault);
        }
        while self.working > 0 || self.joins_left > 0 {
            if self.time > RUN_MS {
                let waiting: Vec<String> = self.clients.iter().map(Client::describe).collect();
                return Err(format!("the work does not end: {waiting:#?}"));
            }
            self.next()?;
        }
        self.faults = false;
        let healed = self.time;
        while !self.is_quiet() {
            if self.time > healed + QUIET_MS {
                return Err(format!("no quiet after {QUIET_MS} ms: {}", self.unquiet()));
            }
            self.next()?;
        }
        // Housekeeping looks twice before it acts: what it would still do is waited for.
        let quiet = self.time;
        while self.time < quiet + 15_000 {
            self.next()?;
        }
        Ok(())
    }

    fn start_clients(&mut self) -> Result<(), String> {
        for number in 0..self.plan.clients {
            let label = format!("client {number}");
            let epoch = self.agreement.lava().epoch;
            self.agreement
                .propose(epoch, &Change::OpenSession { label });
        }
        self.spread();
        let lava = self.agreement.lava().clone();
        let (alone, steps) = (self.plan.clients == 1, self.plan.steps);
        let churn = self.plan.churn;
        for number in 0..self.plan.clients {
            let session = lava
                .sessions
                .get(number as usize)
                .map_or(SessionId(0), |s| s.id);
            let seed = self.rng.random();
            let client = Client::new(session, seed, lava.clone(), |port| {
                if alone {
                    Box::pin(tasks::alone(port, steps))
                } else {
                    Box::pin(tasks::among_others(port, number, steps, churn))
                }
            });
            self.clients.push(client);
            self.working += 1;
            self.at(u64::from(number), Due::Wake(number as usize, 0));
        }
        Ok(())
    }

    fn at(&mut self, delay: u64, due: Due) {
        self.counter += 1;
        self.due.insert((self.time + delay, self.counter), due);
    }

    /// Mostly short, now and then long.
    fn delay(&mut self) -> u64 {
        match self.rng.random_range(0..20) {
            0 => self.rng.random_range(0..400),
            1..4 => self.rng.random_range(0..40),
            _ => self.rng.random_range(0..4),
        }
    }

    fn next(&mut self) -> Result<(), String> {
        let Some(((time, _), due)) = self.due.pop_first() else {
            return Err("nothing is due any more".into());
        };
        self.time = time;
        if self.trace && !matches!(due, Due::Tick(..) | Due::Batch(..)) {
            self.note(&format!("{due:?}"));
        }
        match due {
            Due::Batch(id, life) => self.batch(id, life),
            Due::Tick(id, life) => self.tick(id, life),
            Due::Message {
                dialled,
                number,
                message,
                payload,
            } => {
                if self.network.carries(dialled, number) {
                    let from = dialled.0;
                    let event = Event::Peer {
                        from,
                        message,
                        payload,
                    };
                    self.post(dialled.1, event);
                }
                Ok(())
            }
            Due::Lava(id, lava) => self.learn(id, *lava),
            Due::Propose {
                by,
                life,
                epoch,
                change,
                handover,
            } => self.propose(by, life, epoch, change, handover),
            Due::Decided {
                to,
                life,
                change,
                lava,
                handover,
            } => self.decided(to, life, change, lava, handover),
            Due::Request {
                to,
                client,
                proxied,
                request,
                payload,
            } => {
                self.request(to, client, proxied, request, payload);
                Ok(())
            }
            Due::Hello { to, client } => {
                if self.life(to.0) == to.1 {
                    self.hello(to.0, client);
                }
                Ok(())
            }
            Due::Tell {
                from,
                session,
                message,
            } => {
                self.told(from, session, message);
                Ok(())
            }
            Due::FromClient {
                to,
                session,
                message,
            } => {
                if self.volcanos.get(&to.0).is_some_and(|v| v.life == to.1) {
                    self.post(to.0, Event::FromClient { session, message });
                }
                Ok(())
            }
            Due::Reply {
                from,
                client,
                slot,
                seq,
                reply,
                payload,
            } => self.reply(from, client, slot, seq, *reply, payload),
            Due::SendAgain(client, alarm) => {
                if self.clients[client].alarm == alarm {
                    self.clients[client].learn(self.agreement.lava());
                    self.send_request(client);
                }
                Ok(())
            }
            Due::Wake(client, waits) => {
                if self.clients[client].waits == waits {
                    self.poll(client)?;
                }
                Ok(())
            }
            Due::Fault => self.fault(),
            Due::Connect(dialled) => {
                self.connect(dialled);
                Ok(())
            }
            Due::Restart(id) => self.start(id),
            Due::Beat(id, life) => {
                self.beat(id, life);
                Ok(())
            }
            Due::Heard { from, sent } => {
                self.heard(from, sent);
                Ok(())
            }
            Due::Leased { to, epoch, until } => {
                if self.life(to.0) == to.1 {
                    let until = Moment(until);
                    self.post(to.0, Event::VolcanoLease { epoch, until });
                }
                Ok(())
            }
            Due::Watch => {
                self.watch();
                Ok(())
            }
            Due::GoOn(id, life) => {
                self.go_on(id, life);
                Ok(())
            }
            Due::Join => self.join(),
        }
    }

    /// Tells what happens to whoever set `SIM_TRACE`; a closed pipe is their wish.
    fn note(&self, what: &str) {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "{} {what}", self.time);
    }

    fn post(&mut self, id: VolcanoId, event: Event) {
        let Some(volcano) = self.volcanos.get_mut(&id).filter(|v| v.is_running()) else {
            return;
        };
        volcano.inbox.push(event);
        if !volcano.scheduled && !volcano.stopped {
            volcano.scheduled = true;
            let life = volcano.life;
            let delay = self.rng.random_range(0..2);
            self.at(delay, Due::Batch(id, life));
        }
    }

    fn batch(&mut self, id: VolcanoId, _life: u64) -> Result<(), String> {
        let Some(volcano) = self.volcanos.get_mut(&id) else {
            return Ok(());
        };
        volcano.scheduled = false;
        if volcano.stopped {
            return Ok(());
        }
        let actions = volcano.handle(self.time)?;
        for action in actions {
            self.act(id, action)?;
        }
        Ok(())
    }

    fn tick(&mut self, id: VolcanoId, life: u64) -> Result<(), String> {
        let Some(volcano) = self
            .volcanos
            .get(&id)
            .filter(|v| v.life == life && v.is_running())
        else {
            return Ok(());
        };
        let epoch = volcano.lava.epoch;
        let stage = self.stages.entry(id).or_default();
        let next = handover::step(stage, volcano);
        self.follow(id, epoch, next);
        self.post(id, Event::Tick);
        self.at(TICK_MS, Due::Tick(id, life));
        Ok(())
    }

    fn act(&mut self, id: VolcanoId, action: Action) -> Result<(), String> {
        if self.trace {
            self.note(&format!("v{id}: {action:?}"));
        }
        match action {
            Action::Reply {
                token,
                reply,
                payload,
            } => {
                if let Some(waiter) = self.tokens.remove(&token) {
                    let delay = self.delay();
                    let due = Due::Reply {
                        from: (id, self.life(id)),
                        client: waiter.client,
                        slot: waiter.slot,
                        seq: waiter.seq,
                        reply,
                        payload,
                    };
                    self.at(delay, due);
                }
            }
            Action::Forward {
                token,
                to,
                request,
                payload,
            } => {
                if let Some(waiter) = self.tokens.remove(&token) {
                    let delay = self.delay();
                    let due = Due::Request {
                        to,
                        client: waiter.client,
                        proxied: true,
                        request,
                        payload,
                    };
                    self.at(delay, due);
                }
            }
            Action::Send {
                to,
                message,
                payload,
            } => {
                let delay = self.delay();
                let dialled = (id, to);
                let sent = self.network.send(dialled, lane(&message), self.time, delay);
                if let Some((when, number)) = sent {
                    let mut all = BytesMut::new();
                    payload
                        .iter()
                        .for_each(|piece| all.extend_from_slice(piece));
                    let payload = all.freeze();
                    let due = Due::Message {
                        dialled,
                        number,
                        message,
                        payload,
                    };
                    self.at(when - self.time, due);
                }
            }
            Action::Tell { session, message } => {
                // Lost now and then, as with a connection that is gone.
                if !(self.faults && self.rng.random_bool(0.1)) {
                    let delay = self.delay();
                    let from = (id, self.life(id));
                    let due = Due::Tell {
                        from,
                        session,
                        message,
                    };
                    self.at(delay, due);
                }
            }
            Action::Io { job, io } => {
                let done = self.io(id, &io)?;
                self.post(id, Event::IoDone { job, done });
            }
            // No simulated client copies ranges.
            Action::Fetch { job, .. } => {
                let done = IoDone::Failed(magma_core::error::OpError::TryAgain);
                self.post(id, Event::IoDone { job, done });
            }
            Action::Propose { epoch, change } => {
                self.send_proposal(id, epoch, *change, false);
            }
            Action::Drained { slice, to } => {
                let stage = self.stages.get(&id).copied().unwrap_or_default();
                let lava = self.volcanos.get(&id).map(|v| &v.lava);
                let may = lava.is_some_and(|lava| may_follow(lava, id, slice, to));
                if stage == Stage::Draining(slice, to) && may {
                    let epoch = lava.map_or(Epoch(0), |lava| lava.epoch);
                    self.send_proposal(id, epoch, Change::MoveOwner { slice, to }, true);
                } else {
                    self.post(id, Event::Resume { slice });
                }
            }
        }
        Ok(())
    }

    fn io(&self, id: VolcanoId, job: &IoJob) -> Result<IoDone, String> {
        let Some(engine) = self.volcanos.get(&id).and_then(Volcano::engine) else {
            return Ok(IoDone::Started);
        };
        let store = engine.store();
        let done = match job {
            IoJob::Read { flare, offset, len } => match store.flare(flare.key()) {
                Ok(Some(row)) => store.read(&row, *offset, *len).map(IoDone::Read),
                Ok(None) => Ok(IoDone::Read(Bytes::new())),
                Err(error) => Err(error),
            },
            IoJob::Sync { flare } => store.sync_content(*flare).map(|()| IoDone::Synced),
            IoJob::WriteBack { .. } => Ok(IoDone::Started),
        };
        done.map_err(|error| error.to_string())
    }

    // Quiet.

    fn is_quiet(&self) -> bool {
        let lava = self.agreement.lava();
        let whole = lava.slices.iter().all(|slice| {
            let wanted = lava.wanted_copies(slice);
            wanted
                .iter()
                .all(|v| slice.copy_on(*v).is_some_and(|copy| copy.in_sync))
        });
        let settled = lava
            .volcanos
            .iter()
            .all(|v| lava.owned_by(v.id).next().is_some());
        let home = lava.slices.iter().all(|slice| slice.owner == slice.home);
        let alive = lava.volcanos.iter().all(|volcano| !volcano.down);
        whole
            && settled
            && home
            && alive
            && self.volcanos.values().all(|volcano| {
                volcano.engine().is_some_and(|engine| {
                    let statistics = engine.statistics();
                    engine.lava().epoch == lava.epoch
                        && engine.is_quiet()
                        && statistics.transactions == 0
                        && statistics.parked == 0
                })
            })
    }

    fn unquiet(&self) -> String {
        let of = |volcano: &Volcano| match volcano.engine() {
            None => format!("v{} is down", volcano.id),
            Some(engine) => format!(
                "v{} epoch {} quiet {} {:?}",
                volcano.id,
                engine.lava().epoch,
                engine.is_quiet(),
                engine.statistics()
            ),
        };
        let volcanos: Vec<String> = self.volcanos.values().map(of).collect();
        let lava = self.agreement.lava();
        format!(
            "{volcanos:#?}, slices {:#?}, hand-overs {:?}",
            lava.slices, self.stages
        )
    }

    /// Reads everything that a run's end is checked by.
    pub fn owner_of(&self, key: magma_core::key::Key) -> Option<&Volcano> {
        self.volcanos.get(&self.lava().owner_of(key)?)
    }
}
