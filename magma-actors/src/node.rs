//! What the actors of one volcano share: who it is, its addresses, its lava, its connections.
//!
//! Everything here survives the panic of an actor; an actor's own state is what it can build
//! anew from here.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Message};
use magma_core::ids::{SessionId, VolcanoId};
use magma_core::lava::{Lava, VolcanoInfo};
use magma_core::limits::VOLCANO_SILENT_MS;
use magma_core::store::agreement_log::starts::SeenStart;
use magma_core::wire::PROTOCOL_VERSION;
use magma_core::wire::node_protocol::{Identity, VolcanoStatus};
use tokio::sync::Notify;

use crate::agreement::Group;
use crate::balancer::Balancer;
use crate::engine::EngineHandle;
use crate::flare::Flare;
use crate::generation::Afterwards;
use crate::keyspace::Keyspace;
use crate::node_proto::NodeProto;
use crate::replica::Replica;
use crate::scrub::Scrub;
use crate::starts::Starts;
use crate::supervision::{Guarded, Watch};
use crate::transport::{Connection, NetworkSecret};

/// What the actors share.
pub struct Node {
    /// This volcano's number.
    pub id: VolcanoId,
    /// What it says of itself.
    pub info: VolcanoInfo,
    /// Which start of it this is.
    pub start_number: u64,
    /// The latest starts over the directory, this one last.
    pub own_starts: Vec<SeenStart>,
    /// Which starts of the others were seen.
    pub starts: Starts,
    /// Its directory.
    pub dir: PathBuf,
    /// How long a volcano may be dead before it is evicted, where this one leads; none for ever.
    pub evict_after: Option<Duration>,
    /// The network's secret.
    pub secret: NetworkSecret,
    /// Who hears of actors that are lost.
    pub watch: Watch,
    /// The engine.
    pub engine: EngineHandle,
    /// The agreement.
    pub group: Arc<Group>,
    /// The comparison of content with its checksums.
    pub scrub: Scrub,
    /// The actors.
    pub actors: Actors,
    /// Connections that this volcano dialled, by protocol.
    pub flare_links: Links,
    /// Flare connections that other members dialled.
    pub flare_guests: Links,
    /// The same for the node protocol.
    pub node_links: Links,
    /// Connections of sessions, for what is told unasked.
    pub sessions: Mutex<HashMap<SessionId, Connection>>,
    /// Requests of the volcano itself, counted.
    pub internal_seq: AtomicU64,
    /// Requests of clients that were malformed, and handshakes refused after the transport.
    pub refusals: AtomicU64,
    lava: Mutex<Arc<Lava>>,
    own_status: Mutex<VolcanoStatus>,
    heard: Mutex<BTreeMap<VolcanoId, (VolcanoStatus, Instant)>>,
    ready: AtomicBool,
    stopping: AtomicBool,
    started: Instant,
    ending: Notify,
    afterwards: Mutex<Afterwards>,
}

/// The addresses of the actors, set once while the tree is started.
#[derive(Default)]
pub struct Actors {
    /// KeyspaceActor.
    pub keyspace: OnceLock<Addr<Guarded<Keyspace>>>,
    /// FlareActor.
    pub flare: OnceLock<Addr<Guarded<Flare>>>,
    /// NodeProtoActor.
    pub node_proto: OnceLock<Addr<Guarded<NodeProto>>>,
    /// ReplicaActor.
    pub replica: OnceLock<Addr<Guarded<Replica>>>,
    /// BalancerActor.
    pub balancer: OnceLock<Addr<Guarded<Balancer>>>,
}

/// Connections to the other members.
#[derive(Default)]
pub struct Links(Mutex<HashMap<VolcanoId, Connection>>);

impl Links {
    /// The connection to a member, if it is up.
    pub fn get(&self, id: VolcanoId) -> Option<Connection> {
        lock(&self.0)
            .get(&id)
            .filter(|connection| connection.is_open())
            .cloned()
    }
    /// Takes note of a connection that is up.
    pub fn up(&self, id: VolcanoId, connection: Connection) {
        lock(&self.0).insert(id, connection);
    }
    /// Forgets a connection, unless a newer one took its place.
    pub fn down(&self, id: VolcanoId, connection: &Connection) {
        let mut links = lock(&self.0);
        if links
            .get(&id)
            .is_some_and(|known| known.id() == connection.id())
        {
            links.remove(&id);
        }
    }
    /// All connections that are up.
    pub fn all(&self) -> Vec<(VolcanoId, Connection)> {
        let mut all: Vec<_> = lock(&self.0)
            .iter()
            .filter(|(_, connection)| connection.is_open())
            .map(|(id, connection)| (*id, connection.clone()))
            .collect();
        all.sort_by_key(|(id, _)| *id);
        all
    }
}

/// Who a [`Node`] is and what it starts from.
pub struct NodeSeed {
    /// This volcano's number.
    pub id: VolcanoId,
    /// What it says of itself.
    pub info: VolcanoInfo,
    /// The latest starts over the directory, this one last.
    pub own_starts: Vec<SeenStart>,
    /// Which starts of the others were seen.
    pub starts: Vec<(VolcanoId, SeenStart)>,
    /// Its directory.
    pub dir: PathBuf,
    /// The network's secret.
    pub secret: NetworkSecret,
    /// Who hears of actors that are lost.
    pub watch: Watch,
    /// The engine.
    pub engine: EngineHandle,
    /// The agreement.
    pub group: Arc<Group>,
    /// The comparison of content with its checksums.
    pub scrub: Scrub,
    /// How long a volcano may be dead before it is evicted.
    pub evict_after: Option<Duration>,
    /// The lava to begin with.
    pub lava: Lava,
}

impl Node {
    /// The shared part of a volcano that starts.
    pub fn new(seed: NodeSeed) -> Node {
        let clock = crate::engine::now().wall_nanos;
        Node {
            id: seed.id,
            info: seed.info,
            start_number: seed.own_starts.last().map_or(0, |start| start.number),
            own_starts: seed.own_starts,
            starts: Starts::new(seed.dir.clone(), seed.starts),
            dir: seed.dir,
            evict_after: seed.evict_after,
            secret: seed.secret,
            watch: seed.watch,
            engine: seed.engine,
            group: seed.group,
            scrub: seed.scrub,
            actors: Actors::default(),
            flare_links: Links::default(),
            flare_guests: Links::default(),
            node_links: Links::default(),
            sessions: Mutex::default(),
            // A number that no earlier life of this volcano has used.
            internal_seq: AtomicU64::new(clock),
            refusals: AtomicU64::new(0),
            lava: Mutex::new(Arc::new(seed.lava)),
            own_status: Mutex::default(),
            heard: Mutex::default(),
            ready: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            started: Instant::now(),
            ending: Notify::new(),
            afterwards: Mutex::new(Afterwards::Nothing),
        }
    }

    /// The lava as last published here.
    pub fn lava(&self) -> Arc<Lava> {
        lock(&self.lava).clone()
    }

    /// Publishes a lava; false when it is not newer.
    pub fn publish(&self, lava: Arc<Lava>) -> bool {
        let mut known = lock(&self.lava);
        if lava.epoch <= known.epoch {
            return false;
        }
        *known = lava;
        true
    }

    /// Who this volcano is, for hellos.
    pub fn identity(&self) -> Identity {
        let lava = self.lava();
        Identity {
            version: PROTOCOL_VERSION,
            network: lava.network,
            generation: lava.generation,
            volcano: Some(self.id),
            nick: self.info.nick.clone(),
            start_number: self.start_number,
            starts: self.own_starts.clone(),
            epoch: lava.epoch,
        }
    }

    /// Whether clients are served.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Clients are served from now on.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
        lock(&self.own_status).ready = true;
    }

    /// Whether this volcano is ending.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// This volcano is ending: nothing new is begun.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        lock(&self.own_status).ready = false;
    }

    /// Ends this life of the volcano in order, once it is under way: what was said first counts.
    pub fn end(&self, afterwards: Afterwards) {
        let mut said = lock(&self.afterwards);
        if *said == Afterwards::Nothing {
            *said = afterwards;
        }
        drop(said);
        self.ending.notify_one();
    }

    /// Waits until this life is to end.
    pub async fn to_end(&self) {
        self.ending.notified().await;
    }

    /// What follows it.
    pub fn afterwards(&self) -> Afterwards {
        lock(&self.afterwards).clone()
    }

    /// Who leads the agreement, if it is heard of: who led before it died does not.
    pub fn leader(&self) -> Option<VolcanoId> {
        let leader = self.group.leader()?;
        let leads = match leader == self.id {
            true => self.group.leads_for_sure(),
            false => self.alive(leader).is_some(),
        };
        leads.then_some(leader)
    }

    /// How long ago a member was last heard of; none when it was not since this volcano was started.
    pub fn last_heard(&self, id: VolcanoId) -> Option<Duration> {
        lock(&self.heard).get(&id).map(|(_, at)| at.elapsed())
    }

    /// For how long this volcano has been running.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// What this volcano says of itself.
    pub fn status(&self) -> VolcanoStatus {
        let mut status = lock(&self.own_status).clone();
        status.volcano = self.id;
        status.start_number = self.start_number;
        status.epoch = self.lava().epoch;
        status.ready = self.is_ready() && !self.is_stopping();
        let now = crate::engine::now();
        status.clock = now.wall_nanos;
        status.sent_ms = now.moment.0;
        status
    }

    /// Takes over what was measured.
    pub fn measured(&self, measure: impl FnOnce(&mut VolcanoStatus)) {
        measure(&mut lock(&self.own_status));
    }

    /// Takes note of a heartbeat.
    pub fn heard(&self, status: VolcanoStatus) {
        lock(&self.heard).insert(status.volcano, (status, Instant::now()));
    }

    /// The last heartbeat of a member, if it is recent enough to call it alive.
    pub fn alive(&self, id: VolcanoId) -> Option<VolcanoStatus> {
        if id == self.id {
            return Some(self.status());
        }
        let silent = Duration::from_millis(VOLCANO_SILENT_MS);
        lock(&self.heard)
            .get(&id)
            .filter(|(_, at)| at.elapsed() < silent)
            .map(|(status, _)| status.clone())
    }

    /// The last heartbeat of every member, and whether it is alive.
    pub fn statuses(&self) -> Vec<(VolcanoStatus, bool)> {
        let heard = lock(&self.heard);
        let silent = Duration::from_millis(VOLCANO_SILENT_MS);
        self.lava()
            .volcanos
            .iter()
            .map(|volcano| match heard.get(&volcano.id) {
                _ if volcano.id == self.id => (self.status(), true),
                Some((status, at)) => (status.clone(), at.elapsed() < silent),
                None => (
                    VolcanoStatus {
                        volcano: volcano.id,
                        ..VolcanoStatus::default()
                    },
                    false,
                ),
            })
            .collect()
    }

    /// Whether the network serves: this volcano, or another that is alive.
    pub fn network_serves(&self) -> bool {
        let others = || self.statuses().into_iter();
        self.is_ready() || others().any(|(status, alive)| alive && status.ready)
    }

    /// Counts and logs a peer that was turned away after it had proved the secret.
    pub fn refused(&self, from: SocketAddr, reason: &str) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(target: "magma::n", %from, "refused: {reason}");
    }
}

/// Sends a message to an actor of the tree without waiting. False when the actor is not
/// there (the tree starts or ends) or has too much to do; the sender decides what that means.
pub fn post<A, M>(addr: &OnceLock<Addr<A>>, message: M) -> bool
where
    A: Actor + Handler<M>,
    A::Context: ToEnvelope<A, M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    match addr.get() {
        Some(addr) => addr.try_send(message).is_ok(),
        None => false,
    }
}

/// A panic while a lock was held leaves at worst one row out of a table of connections.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
