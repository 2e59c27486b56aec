//! The client: everything that a mount or a tool needs to work on the tree, without a mount.
//!
//! | file | what |
//! |---|---|
//! | [`names`] | operations on names: lookup, create, unlink, rename, link |
//! | [`objects`] | operations on one flare: attributes, opening, extended attributes |
//! | [`content`] | reading and writing |
//! | [`listing`] | directories, and attributes by the batch |
//! | [`locks`] | byte-range locks |
//! | `opens` | what is open, and what the owners know of it |
//! | [`space`] | statfs |
//! | [`fsck`] | what `magma fsck` asks, and repairs |
//! | [`volcanos`] | what each volcano says of itself |
//! | [`tree`] | operations by path, for tools |
//! | [`path`] | nodes, and the birth paths from which keys are made |
//! | `request` | one request from its slot to its answer |
//! | `session`, `retry`, `routing`, `peers`, `node_port`, `service` | beneath that |
//! | `cache`, `upkeep`, [`lease`] | what is remembered under leases, kept valid, and taken back |
//! | `prefetch` | directories listed, and attributes fetched, before they are asked for |
//! | `hints` | names that were looked up a moment ago |
//!
//! A client has a thread of its own with a current-thread runtime, on which its endpoints
//! live. Operations are futures that run on any tokio runtime, best on that one
//! ([`Client::spawn`]); a caller without a runtime uses [`Client::block_on`].

mod cache;
pub mod content;
pub mod fsck;
mod hints;
pub mod lease;
pub mod listing;
pub mod locks;
pub mod names;
mod node_port;
pub mod objects;
mod opens;
pub mod path;
mod peers;
mod prefetch;
mod request;
mod retry;
mod routing;
mod service;
mod session;
pub mod space;
pub mod tree;
mod upkeep;
pub mod volcanos;

use bytes::Bytes;
use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

use magma_actors::runtime_thread::RuntimeThread;
use magma_actors::transport::{Connection, NetworkSecret, Protocol, SharedService, TransportError};
use magma_core::error::{OpError, OpResult};
use magma_core::flare::path::FlarePath;
use magma_core::ids::{Epoch, SessionId, VolcanoId};
use magma_core::key::Key;
use magma_core::lava::Lava;
use magma_core::limits::{CLIENT_BYTES_IN_FLIGHT, CLIENT_PATIENCE_MS};
use magma_core::time::HybridClock;
use magma_core::wire::PROTOCOL_VERSION;
use magma_core::wire::codec::{self, CodecError};
use magma_core::wire::flare_protocol::{FlareHello, FlareWelcome, FromClient};

use cache::Cache;
pub use cache::Forgotten;
use hints::NameHints;
pub use lease::{CacheSink, Done, NobodyElse};
use locks::LockBook;
use node_port::NodePort;
use opens::OpenBook;
pub use path::Node;
use peers::Peers;
use retry::Patience;
use routing::Routing;
use service::{ClientLink, FlareService, NodeService};
use session::Session;

/// A lava is not asked for again within this time.
const REFRESH_PAUSE: Duration = Duration::from_millis(50);
/// How long the end of a client may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);

/// What a client must be told.
#[derive(Clone)]
pub struct ClientConfig {
    /// Flare addresses (base ports) of volcanos to begin with; any one will do.
    pub hosts: Vec<SocketAddr>,
    /// The network's secret.
    pub secret: NetworkSecret,
    /// What it calls itself, for the console: host name and mount point.
    pub label: String,
    /// How long an operation is repeated before it fails.
    pub patience: Duration,
}

impl ClientConfig {
    /// The default of [`ClientConfig::patience`].
    pub const PATIENCE: Duration = Duration::from_millis(CLIENT_PATIENCE_MS);
}

/// Why there is no client, or why an operation by path failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No address was given.
    #[error("no host was given")]
    NoHostGiven,
    /// Nobody answered.
    #[error("no volcano answered: {}", .tried.join("; "))]
    NoHost {
        /// Each address with what went wrong there.
        tried: Vec<String>,
    },
    /// The secret key is another one.
    #[error("{host} has another secret key")]
    WrongKey {
        /// The volcano's node port.
        host: SocketAddr,
    },
    /// A volcano will not have us.
    #[error("{host} refused: {reason}")]
    Refused {
        /// The volcano's node port.
        host: SocketAddr,
        /// What it said.
        reason: String,
    },
    /// The network did not get ready in time.
    #[error("{host} is not ready: {reason}")]
    NotReady {
        /// The volcano's node port.
        host: SocketAddr,
        /// What it said.
        reason: String,
    },
    /// A message could not be encoded.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The client's thread could not be started.
    #[error("cannot start the client's thread: {0}")]
    Thread(#[from] io::Error),
    /// An operation by path failed.
    #[error("{path}: {error}")]
    At {
        /// The path.
        path: FlarePath,
        /// Why.
        error: OpError,
    },
    /// An operation that concerns no path failed.
    #[error(transparent)]
    Op(#[from] OpError),
}

impl ClientError {
    fn no_host(tried: Vec<(SocketAddr, String)>) -> ClientError {
        let tried = tried
            .into_iter()
            .map(|(host, why)| format!("{host}: {why}"))
            .collect();
        ClientError::NoHost { tried }
    }
}

/// A session with a lava network. Clones share it; the last one ends the client's thread.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    _thread: Arc<RuntimeThread>,
}

/// What all clones, and the requests under way, share.
pub(crate) struct Shared {
    runtime: Handle,
    patience: Duration,
    flare: Peers,
    flare_service: SharedService,
    node: NodePort,
    routing: Routing,
    session: Mutex<Arc<Session>>,
    renewing: tokio::sync::Mutex<()>,
    clock: Mutex<HybridClock>,
    bytes: Arc<Semaphore>,
    hints: NameHints,
    cache: Arc<Cache>,
    locks: LockBook,
    opens: OpenBook,
    sink: Mutex<Arc<dyn CacheSink>>,
    /// When a program last asked for something.
    used: Mutex<Instant>,
    /// When the lava was last asked for. Held while asking, so that one asks for all.
    refreshed: tokio::sync::Mutex<Option<Instant>>,
    /// A background refresh is under way.
    refreshing: AtomicBool,
    /// Lavas that are worked by, as far as what may be shown goes.
    followed: Mutex<Followed>,
    closing: AtomicBool,
    /// Held by whoever makes a flare connection. As many as there are volcanos.
    dialling: Mutex<HashMap<SocketAddr, Arc<tokio::sync::Mutex<()>>>>,
    /// Addresses that are being dialled again after a connection was lost.
    redialling: Mutex<BTreeSet<SocketAddr>>,
}

/// A session that is being opened on the client's thread.
type Opening = tokio::task::JoinHandle<Result<Arc<Shared>, ClientError>>;

impl Client {
    /// Opens a session.
    pub async fn connect(config: ClientConfig) -> Result<Client, ClientError> {
        let (thread, opening) = Client::begin(config)?;
        Client::of(thread, opening.await)
    }

    /// [`Client::connect`] for a caller that has no runtime.
    pub fn connect_blocking(config: ClientConfig) -> Result<Client, ClientError> {
        let (thread, opening) = Client::begin(config)?;
        let opened = thread.handle().block_on(opening);
        Client::of(thread, opened)
    }

    fn begin(config: ClientConfig) -> Result<(RuntimeThread, Opening), ClientError> {
        if config.hosts.is_empty() {
            return Err(ClientError::NoHostGiven);
        }
        let thread = RuntimeThread::start(THREAD)?;
        let runtime = thread.handle().clone();
        let opening = runtime.spawn(Shared::open(config, runtime.clone()));
        Ok((thread, opening))
    }

    fn of(
        thread: RuntimeThread,
        opened: Result<Result<Arc<Shared>, ClientError>, tokio::task::JoinError>,
    ) -> Result<Client, ClientError> {
        let shared = opened.map_err(|error| ClientError::Thread(io::Error::other(error)))??;
        Ok(Client {
            shared,
            _thread: Arc::new(thread),
        })
    }

    /// Runs a future on the client's own thread.
    pub fn spawn<F>(&self, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.shared.runtime.spawn(future)
    }

    /// Waits for a future, from a thread that is no runtime's.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.shared.runtime.block_on(future)
    }

    /// The newest topology that this client knows.
    pub fn lava(&self) -> Arc<Lava> {
        self.shared.routing.lava()
    }

    /// The session.
    pub fn session(&self) -> SessionId {
        self.shared.session().id()
    }

    /// How long an operation is repeated before it fails.
    pub fn patience(&self) -> Duration {
        self.shared.patience
    }

    /// Who else must forget what leases covered, before they are given back.
    pub fn set_cache_sink(&self, sink: Arc<dyn CacheSink>) {
        *locked(&self.shared.sink) = sink;
    }

    /// Ends the session and closes the connections, within seconds.
    pub async fn close(&self) {
        if self.shared.closing.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = self.shared.clone();
        let ended = self.spawn(async move {
            let session = shared.session().id();
            let lava = shared.routing.lava();
            let end = shared.node.end_session(&lava, session);
            let _ = tokio::time::timeout(CLOSE_LIMIT, end).await;
            shared.flare.close("the client ends").await;
            shared.node.close("the client ends").await;
        });
        // The thread may be gone already; then there is nothing left to end.
        let _ = ended.await;
    }
}

impl Shared {
    /// Opens the session; runs on the client's thread.
    async fn open(config: ClientConfig, runtime: Handle) -> Result<Arc<Shared>, ClientError> {
        let link = ClientLink::default();
        let peers = |protocol| Peers::new(protocol, config.secret.clone(), runtime.clone());
        let node_service: SharedService = Arc::new(NodeService(link.clone()));
        let node = NodePort::new(
            peers(Protocol::Node),
            node_service,
            &config.label,
            &config.hosts,
        )?;
        let (session, lava) = node.open_session(&[], config.patience).await?;
        tracing::info!(%session, network = %lava.network, "session is open");
        let followed = Followed {
            newest: lava.epoch,
            ..Followed::default()
        };
        let shared = Arc::new(Shared {
            flare: peers(Protocol::Flare),
            flare_service: Arc::new(FlareService(link.clone())),
            node,
            patience: config.patience,
            routing: Routing::new(lava),
            session: Mutex::new(Session::new(session)),
            renewing: tokio::sync::Mutex::new(()),
            clock: Mutex::new(HybridClock::default()),
            bytes: Arc::new(Semaphore::new(CLIENT_BYTES_IN_FLIGHT)),
            hints: NameHints::default(),
            cache: Arc::default(),
            locks: LockBook::default(),
            opens: OpenBook::default(),
            sink: Mutex::new(Arc::new(NobodyElse)),
            used: Mutex::new(Instant::now()),
            refreshed: tokio::sync::Mutex::new(None),
            refreshing: AtomicBool::new(false),
            followed: Mutex::new(followed),
            closing: AtomicBool::new(false),
            dialling: Mutex::default(),
            redialling: Mutex::default(),
            runtime,
        });
        // Set once, right here: `link` was made above and nobody else sets it.
        let _ = link.set(Arc::downgrade(&shared));
        shared.runtime.spawn(upkeep::run(Arc::downgrade(&shared)));
        let session = upkeep::keep_session(Arc::downgrade(&shared));
        shared.runtime.spawn(session);
        Ok(shared)
    }

    fn session(&self) -> Arc<Session> {
        locked(&self.session).clone()
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    fn cache_sink(&self) -> Arc<dyn CacheSink> {
        locked(&self.sink).clone()
    }

    /// Has everybody else forget these, and waits for that.
    async fn forget(&self, what: Vec<Forgotten>) {
        if what.is_empty() {
            return;
        }
        let (done, forgotten) = oneshot::channel();
        let done = Box::new(move || {
            let _ = done.send(());
        });
        self.cache_sink().forget(what, done);
        // A sink that is gone shows nothing any more.
        let _ = forgotten.await;
    }

    fn clock_tick(&self) -> u64 {
        locked(&self.clock).tick(wall_nanos())
    }

    fn clock_receive(&self, peer: u64) {
        locked(&self.clock).receive(peer, wall_nanos());
    }

    /// Opens another session in place of one that the network has ended.
    async fn renew_session(
        self: &Arc<Self>,
        ended: SessionId,
        patience: &Patience,
    ) -> OpResult<()> {
        let _renewing = self.renewing.lock().await;
        if self.session().id() != ended {
            return Ok(());
        }
        tracing::warn!(session = %ended, "the session has ended: opening another");
        let known = routing::node_addrs(&self.routing.lava());
        let opened = self.node.open_session(&known, patience.left()).await;
        let (id, lava) = opened.map_err(|error| {
            tracing::warn!(%error, "no new session");
            OpError::Unreachable
        })?;
        let locks = self.locks.clear();
        if locks > 0 {
            tracing::error!(
                locks,
                "locks were lost with the session: the files that they were on give errors until they are closed"
            );
        }
        *locked(&self.session) = Session::new(id);
        self.opens_of_new_session();
        self.forget(self.cache.clear()).await;
        // Flare connections belong to the session that they were opened with.
        self.flare.hang_up("the session has ended");
        // What replies of the old connections have put in since.
        self.forget(self.cache.clear()).await;
        self.take_lava(lava);
        Ok(())
    }

    /// A flare connection to an address of this network.
    async fn flare_connection(&self, addr: SocketAddr) -> Result<Connection, TransportError> {
        if let Some(connection) = self.flare.open(addr) {
            return Ok(connection);
        }
        let session = self.session().id();
        let hello = FlareHello::Client {
            version: PROTOCOL_VERSION,
            session,
        };
        let refused = |reason: String| TransportError::Refused { addr, reason };
        let hello = codec::encode(&hello).map_err(|error| refused(error.to_string()))?;
        // The hello says that we hold no lease of that volcano: so it must be.
        // Whoever comes second waits until the first one's leases are forgotten everywhere.
        let dialling = locked(&self.dialling).entry(addr).or_default().clone();
        let _dialling = dialling.lock().await;
        if let Some(connection) = self.flare.open(addr) {
            return Ok(connection);
        }
        if let Some(volcano) = self.routing.volcano_at(addr) {
            self.forget(self.cache.connecting(volcano)).await;
        }
        let service = self.flare_service.clone();
        let dialled = self.flare.get(addr, hello.into(), service).await?;
        if let Some(welcome) = dialled.welcome
            && let Err(reason) = self.check_welcome(&welcome)
        {
            let error = refused(reason);
            self.flare.refuse(&dialled.connection, &error);
            return Err(error);
        }
        // The connections of an ended session are hung up right after another took its place.
        if self.session().id() != session {
            dialled.connection.close("the session has ended");
            return Err(refused("the session has ended".to_owned()));
        }
        self.claim_locks(&dialled.connection);
        self.claim_opens(&dialled.connection);
        self.tell_lava_seen(&dialled.connection);
        Ok(dialled.connection)
    }

    /// Whether who answered belongs to the network of the session.
    fn check_welcome(&self, welcome: &Bytes) -> Result<(), String> {
        let welcome: FlareWelcome = codec::decode(welcome).map_err(|error| error.to_string())?;
        let (theirs, ours) = (welcome.identity.network, self.routing.lava().network);
        if theirs != ours {
            return Err(format!("it belongs to network {theirs}, not {ours}"));
        }
        self.clock_receive(welcome.clock);
        Ok(())
    }

    /// Takes a lava if it is newer.
    fn take_lava(self: &Arc<Self>, lava: Lava) {
        let before = self.routing.lava();
        if self.routing.offer(lava) {
            let lava = self.routing.lava();
            self.opens_follow(&before, &lava);
            tracing::debug!(epoch = %lava.epoch, "new topology");
            let members = routing::others(&lava, None);
            self.flare.keep(|addr| members.contains(&addr));
            self.node.keep_members(&lava);
            self.leave_the_dead(&lava);
            self.follow_owners(&before, &lava);
        }
    }

    /// Whatever waits for a dead volcano is asked elsewhere at once.
    fn leave_the_dead(&self, lava: &Lava) {
        for volcano in lava.volcanos.iter().filter(|volcano| volcano.down) {
            self.flare
                .hang_up_on(volcano.info.flare_addr(), "it is down");
            self.node.hang_up_on(volcano.info.node_addr(), "it is down");
        }
    }

    /// Nothing is shown any more under leases of who owned a slice before, and who owns it now is
    /// told so: until then it lets nobody change what may be shown.
    fn follow_owners(self: &Arc<Self>, before: &Lava, lava: &Arc<Lava>) {
        let owners = |lava: &Lava| -> Vec<(Key, VolcanoId)> {
            lava.slices.iter().map(|s| (s.start, s.owner)).collect()
        };
        let epoch = lava.epoch;
        locked(&self.followed).begin(epoch);
        if owners(before) == owners(lava) {
            // What was shown before may still be shown.
            return self.lava_followed(epoch);
        }
        let forgotten = self.cache.follow(lava.clone());
        let client = self.clone();
        let done = move || client.lava_followed(epoch);
        self.cache_sink().forget(forgotten, Box::new(done));
        let client = self.clone();
        let lava = lava.clone();
        self.runtime.spawn(async move {
            for volcano in lava.volcanos.iter().filter(|volcano| !volcano.down) {
                // One that cannot be reached now waits until our leases have run out.
                let _ = client.flare_connection(volcano.info.flare_addr()).await;
            }
        });
    }

    fn lava_followed(&self, epoch: Epoch) {
        locked(&self.followed).end(epoch);
        for volcano in &self.routing.lava().volcanos {
            if let Some(connection) = self.flare.open(volcano.info.flare_addr()) {
                self.tell_lava_seen(&connection);
            }
        }
    }

    fn tell_lava_seen(&self, connection: &Connection) {
        let epoch = locked(&self.followed).upto();
        lease::tell(connection, &FromClient::LavaSeen(epoch));
    }

    /// Asks for the lava, unless somebody has just done so.
    async fn refresh_lava(self: &Arc<Self>) {
        let mut last = self.refreshed.lock().await;
        if last.is_some_and(|at| at.elapsed() < REFRESH_PAUSE) {
            return;
        }
        if let Some(lava) = self.node.lava(&self.routing.lava()).await {
            self.take_lava(lava);
        }
        *last = Some(Instant::now());
    }

    /// A volcano knows a lava of this epoch, or has passed a request on: asks for the lava
    /// in the background.
    fn lava_is_at(self: &Arc<Self>, epoch: Epoch) {
        if epoch < self.routing.epoch() || self.refreshing.swap(true, Ordering::AcqRel) {
            return;
        }
        let client = self.clone();
        self.runtime.spawn(async move {
            client.refresh_lava().await;
            client.refreshing.store(false, Ordering::Release);
        });
    }
}

/// Which lavas are worked by: what was shown under leases of owners that they replace is forgotten,
/// here and in the kernel. That takes a while, and need not end in the order in which it began.
#[derive(Debug, Default)]
struct Followed {
    newest: Epoch,
    under_way: BTreeSet<Epoch>,
}

impl Followed {
    fn begin(&mut self, epoch: Epoch) {
        self.newest = self.newest.max(epoch);
        self.under_way.insert(epoch);
    }

    fn end(&mut self, epoch: Epoch) {
        self.under_way.remove(&epoch);
    }

    /// Everything up to this one.
    fn upto(&self) -> Epoch {
        match self.under_way.first() {
            Some(first) => Epoch(first.0.saturating_sub(1)),
            None => self.newest,
        }
    }
}

/// The name of the thread that runs a client's connections.
const THREAD: &str = "magma-client";

#[cfg(test)]
pub(crate) use routing::tests as testing;

/// Locks a mutex whose content no panic can leave half changed.
pub(crate) fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The wall clock in nanoseconds since 1970.
fn wall_nanos() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        })
}
