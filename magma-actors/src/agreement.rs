//! The agreement as the volcanos carry it together: a group elected by Raft.
//!
//! openraft decides who leads and which entry is next; its entries are [`Proposal`]s, its state
//! is the lava. It runs on a thread of its own, so that elections and heartbeats wait neither
//! for a disk nor for an actor. What is here beside it:
//!
//! | file | what |
//! |---|---|
//! | [`log_store`] | its log and its vote, in `agreement.sql` |
//! | [`machine`] | its state: entries become lavas |
//! | [`network`] | its questions to others, by the node protocol |
//! | [`upkeep`] | who votes, who is sure to lead, elections that end |

// The library's own error is as large as it is.
#[allow(clippy::result_large_err)]
pub mod log_store;
pub mod machine;
pub mod network;
pub mod upkeep;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use magma_core::agreement::{ChangeRefused, Proposal};
use magma_core::ids::{Epoch, VolcanoId};
use magma_core::lava::Lava;
use magma_core::limits::ELECTION_MS;
use magma_core::store::StoreError;
use magma_core::store::raft_log::{FOUNDER, RaftLog};
use openraft::error::{ClientWriteError, RaftError};
use openraft::{Config, EmptyNode, Raft, SnapshotPolicy};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::node::Node;
use crate::runtime_thread::RuntimeThread;
use log_store::LogStore;
use machine::Machine;
use network::Network;

openraft::declare_raft_types!(
    /// What the group agrees on.
    pub Agreed:
        D = Proposal,
        R = Applied,
        NodeId = u64,
        Node = EmptyNode,
        SnapshotData = Lava,
);

/// What an entry has led to: nothing for those of the library itself.
pub type Applied = Option<Result<Box<Lava>, ChangeRefused>>;

/// How long a proposal may take.
const PROPOSAL_LIMIT: Duration = Duration::from_secs(5);
/// How long the library may take to end.
const END_LIMIT: Duration = Duration::from_secs(2);
/// Entries between two snapshots of the lava, and entries kept after one.
const SNAPSHOT_EVERY: u64 = 500;
/// An entry on its way, with its answer, may take this long.
const SEND_LIMIT_MS: u64 = 2_000;

/// Why a proposal has come to nothing, as far as is known.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Undecided {
    /// Nobody leads at the moment, or somebody else does.
    #[error("{0}")]
    NotNow(String),
    /// The lava forbids it.
    #[error(transparent)]
    Refused(#[from] ChangeRefused),
    /// It may have been decided: nothing was heard.
    #[error("{0}")]
    Unknown(String),
}

/// This volcano's part of the group.
pub struct Group {
    me: u64,
    raft: Raft<Agreed>,
    runtime: Handle,
    lavas: watch::Receiver<Arc<Lava>>,
    /// Until when, in milliseconds of our clock, nobody else leads for sure.
    sure_until: AtomicU64,
    /// The log has begun with a lava.
    founded: Arc<AtomicBool>,
    closing: AtomicBool,
    /// Ends when it is taken out.
    thread: Mutex<Option<RuntimeThread>>,
    started: std::time::Instant,
}

/// Where the group finds the other volcanos: set when the node is there.
pub type NodeLink = Arc<OnceLock<Weak<Node>>>;

/// Why the group could not be joined.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// Its tables.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The library refuses its state.
    #[error("the agreement cannot start: {0}")]
    Library(String),
    /// The thread.
    #[error("the agreement's thread cannot start: {0}")]
    Thread(#[from] std::io::Error),
}

impl Group {
    /// Starts the part of this volcano over what is in its directory. Whoever has founded the
    /// network, or its generation, founds the group; all others are taken in by who leads.
    pub fn start(
        dir: &Path,
        me: VolcanoId,
        lava: &Lava,
        link: NodeLink,
    ) -> Result<Arc<Group>, GroupError> {
        let log = RaftLog::open(dir)?;
        let founder = matches!(lava.volcanos.as_slice(), [one] if one.id == me)
            || log.value(FOUNDER)?.is_some();
        let log = Arc::new(Mutex::new(log));
        let thread = RuntimeThread::start("magma-raft")?;
        let handle = thread.handle().clone();
        let (lava_told, lavas) = watch::channel(Arc::new(lava.clone()));
        let founded = Arc::new(AtomicBool::new(false));
        let (done, made) = std::sync::mpsc::channel();
        let begun = founded.clone();
        let network = Network::new(link.clone());
        handle.spawn(async move {
            let told = (lava_told, begun);
            let made = join_group(log, me.0, told, network, founder).await;
            let _ = done.send(made);
        });
        let raft = made
            .recv()
            .map_err(|_| GroupError::Library("its thread has ended".into()))??;
        let group = Arc::new(Group {
            me: me.0,
            raft,
            runtime: handle,
            lavas,
            sure_until: AtomicU64::new(0),
            founded,
            closing: AtomicBool::new(false),
            thread: Mutex::new(Some(thread)),
            started: std::time::Instant::now(),
        });
        group
            .runtime
            .spawn(upkeep::run(Arc::downgrade(&group), link, lava.clone()));
        Ok(group)
    }

    /// Returns when the agreement's thread has had its turn; false if it is gone.
    pub async fn turns(&self) -> bool {
        self.runtime.spawn(async {}).await.is_ok()
    }

    /// Who leads, as far as this volcano knows.
    pub fn leader(&self) -> Option<VolcanoId> {
        let leader = self.raft.metrics().borrow().current_leader;
        leader.map(VolcanoId)
    }

    /// Whether this volcano leads, and a majority has said so a moment ago.
    pub fn leads_for_sure(&self) -> bool {
        let now = crate::engine::now().moment.0;
        self.leader() == Some(VolcanoId(self.me))
            && now < self.sure_until.load(Ordering::Acquire)
            && self.founded.load(Ordering::Acquire)
    }

    /// The epoch of the newest lava that is decided, as far as is known here. The node may still be
    /// about to keep that one.
    pub fn epoch(&self) -> Epoch {
        self.lavas.borrow().epoch
    }

    /// Whether somebody leads who can decide.
    pub fn is_led(&self) -> bool {
        let ours = self.leader() == Some(VolcanoId(self.me));
        self.leader().is_some() && (!ours || self.leads_for_sure())
    }

    /// The lavas that are decided, each as soon as it is known here.
    pub fn lavas(&self) -> watch::Receiver<Arc<Lava>> {
        self.lavas.clone()
    }

    /// Proposes an entry, if this volcano leads. Returns the lava that it has led to.
    pub async fn propose(&self, proposal: Proposal) -> Result<Box<Lava>, Undecided> {
        let write = self.raft.client_write(proposal);
        let limited = tokio::time::timeout(PROPOSAL_LIMIT, write).await;
        let Ok(written) = limited else {
            let why = "no majority of the volcanos that vote has answered";
            return Err(Undecided::Unknown(why.into()));
        };
        match written {
            Ok(written) => match written.data {
                Some(Ok(lava)) => Ok(lava),
                Some(Err(refused)) => Err(Undecided::Refused(refused)),
                None => Err(Undecided::Unknown("an entry without an outcome".into())),
            },
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                let why = "this volcano does not lead (any more)";
                Err(Undecided::NotNow(why.into()))
            }
            Err(error) => Err(Undecided::Unknown(error.to_string())),
        }
    }

    /// Answers a question of another volcano's part, on the group's own thread.
    pub fn answer(
        self: &Arc<Self>,
        question: &[u8],
        answer: impl FnOnce(Vec<u8>) + Send + 'static,
    ) {
        let group = self.clone();
        let question = question.to_vec();
        self.runtime.spawn(async move {
            // Who was just started does not remember whom it has promised its vote: it waits as
            // long as such a promise may bind.
            let young = group.started.elapsed() < Duration::from_millis(2 * ELECTION_MS);
            if let Some(told) = network::answer(&group.raft, &question, young).await {
                answer(told);
            }
        });
    }

    /// Ends this volcano's part.
    pub async fn stop(&self) {
        self.closing.store(true, Ordering::Release);
        let raft = self.raft.clone();
        let ended = self.runtime.spawn(async move {
            let _ = raft.shutdown().await;
        });
        let _ = tokio::time::timeout(END_LIMIT, ended).await;
        drop(crate::node::lock(&self.thread).take());
    }
}

async fn join_group(
    log: Arc<Mutex<RaftLog>>,
    me: u64,
    (told, founded): (watch::Sender<Arc<Lava>>, Arc<AtomicBool>),
    network: Network,
    founder: bool,
) -> Result<Raft<Agreed>, GroupError> {
    let library = |error: String| GroupError::Library(error);
    let config = Config {
        cluster_name: "magma".into(),
        heartbeat_interval: ELECTION_MS / 3,
        election_timeout_min: ELECTION_MS,
        election_timeout_max: 2 * ELECTION_MS,
        install_snapshot_timeout: SEND_LIMIT_MS,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: SNAPSHOT_EVERY,
        replication_lag_threshold: 4 * SNAPSHOT_EVERY,
        ..Config::default()
    };
    let config = config.validate().map_err(|e| library(e.to_string()))?;
    let machine = Machine::open(log.clone(), told, founded).await?;
    let raft = Raft::new(me, Arc::new(config), network, LogStore::new(log), machine)
        .await
        .map_err(|error| library(error.to_string()))?;
    let initialized = raft.is_initialized().await;
    if founder && !initialized.map_err(|e| library(e.to_string()))? {
        let members = std::collections::BTreeMap::from([(me, EmptyNode {})]);
        raft.initialize(members)
            .await
            .map_err(|error| library(error.to_string()))?;
    }
    Ok(raft)
}
