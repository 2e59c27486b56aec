//! The beginning of a volcano: found a network, join one, or come back.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use magma_core::agreement::LearnError;
use magma_core::agreement::lava_log::LavaLog;
use magma_core::ids::{Generation, NetworkId, VolcanoId};
use magma_core::lava::{Lava, VolcanoInfo};
use magma_core::store::StoreError;
use magma_core::store::agreement_log::starts::SeenStart;
use magma_core::store::agreement_log::{AgreementLog, LogError};
use magma_core::store::lock::DirLock;
use magma_core::wire::node_protocol::{NodeAnswer, NodeCall, NodeHello, NodeWelcome};
use magma_core::wire::{PROTOCOL_VERSION, codec};

use crate::config::{ConfigError, HostPort, Start, VolcanoConfig};
use crate::transport::{
    Connection, Endpoint, Frame, Lane, NetworkSecret, Protocol, Replier, Service, TransportError,
};

/// Patience with the contacted volcano while its network is not whole.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);
/// Patience for one answer.
const ANSWER: Duration = Duration::from_secs(10);

/// What a volcano starts from.
pub struct Founded {
    /// Its directory.
    pub dir: PathBuf,
    /// Keeps a second magmad out.
    pub _lock: DirLock,
    /// Its number.
    pub id: VolcanoId,
    /// What it says of itself.
    pub info: VolcanoInfo,
    /// Which start of it this is.
    pub own_starts: Vec<SeenStart>,
    /// Which starts of the others were seen.
    pub starts: Vec<(VolcanoId, SeenStart)>,
    /// The lava that it knows.
    pub lava: Lava,
    /// The agreement's log.
    pub log: LavaLog,
    /// The console's listener, bound before anything is written.
    pub console: TcpListener,
}

/// Why a volcano could not start. One line for a person.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory or its stores.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The agreement's log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The agreement's log.
    #[error(transparent)]
    Propose(#[from] LearnError),
    /// An endpoint.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The agreement.
    #[error(transparent)]
    Group(#[from] crate::agreement::GroupError),
    /// A thread.
    #[error("a thread cannot start: {0}")]
    Thread(std::io::Error),
    /// The contact does not resolve.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The console's port.
    #[error("cannot bind the console at TCP {addr}: {source}")]
    Console {
        /// Where.
        addr: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A new volcano in a directory that has one.
    #[error(
        "{dir} holds volcano {nick} of lava network {network} already: start it without -b and -r, or give another directory with -d"
    )]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
        /// Who is there.
        nick: String,
        /// Of which network.
        network: NetworkId,
    },
    /// A restart of nothing.
    #[error("{dir} holds no volcano: begin a lava network with -b or join one with -r HOST")]
    Empty {
        /// The directory.
        dir: PathBuf,
    },
    /// A directory that is not outlived.
    #[error(
        "{dir} holds {nick} of generation {generation}, and so does the network: start it without --rejoin"
    )]
    NotOutlived {
        /// The directory.
        dir: PathBuf,
        /// Who is there.
        nick: String,
        /// Of which generation.
        generation: Generation,
    },
    /// What was in the directory cannot be kept aside.
    #[error("cannot keep {path} aside: {source}")]
    Aside {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The contacted volcano said no.
    #[error("{contact} refused the join: {reason}")]
    JoinRefused {
        /// Whom we asked.
        contact: String,
        /// What it said.
        reason: String,
    },
}

/// Does what the configuration says, up to the point where the actors can start.
pub async fn found(config: &VolcanoConfig, secret: &NetworkSecret) -> Result<Founded, StartError> {
    let dir = config.dir.clone();
    make_dir(&dir)?;
    let lock = DirLock::take(&dir)?;
    let mut log = AgreementLog::open(&dir)?;
    if let Some(lava) = log.begin_generation()? {
        tracing::warn!(generation = %lava.generation, epoch = %lava.epoch, volcanos = lava.volcanos.len(),
            "a new generation of the network begins");
    }
    let known = log.load_self()?.zip(log.load()?);
    match (&config.start, known) {
        (Start::Restart { changes }, Some(((id, before), lava))) => {
            let info = changes.over(&before);
            let console = bind_console(&info)?;
            let log = LavaLog::new(log, Some(id))?;
            finish(dir, lock, id, info, lava, log, console)
        }
        (Start::Rejoin { changes, contact }, Some(((_, before), lava))) => {
            let info = changes.over(&before);
            let console = bind_console(&info)?;
            let old = lava.generation;
            let (id, lava) = rejoin(&dir, &info, (&lava, contact.as_ref()), secret).await?;
            drop(log);
            keep_aside(&dir, old)?;
            let mut log = LavaLog::new(AgreementLog::open(&dir)?, None)?;
            log.joined(id, &lava)?;
            finish(dir, lock, id, info, lava, log, console)
        }
        (Start::Rejoin { .. }, None) => Err(StartError::Empty { dir }),
        (Start::Restart { .. }, None) => Err(StartError::Empty { dir }),
        (_, Some(((_, info), lava))) => Err(StartError::NotEmpty {
            dir,
            nick: info.nick,
            network: lava.network,
        }),
        (Start::Bootstrap { me, redundancy }, None) => {
            let console = bind_console(me)?;
            let network = NetworkId(rand::random());
            let lava = log.bootstrap(network, me, *redundancy)?;
            let id = lava
                .volcanos
                .first()
                .map(|volcano| volcano.id)
                .unwrap_or_default();
            let log = LavaLog::new(log, Some(id))?;
            tracing::info!(%network, "a new lava network");
            finish(dir, lock, id, me.clone(), lava, log, console)
        }
        (Start::Join { me, contact }, None) => {
            let console = bind_console(me)?;
            let (id, lava) = join(me, contact, secret, None).await?;
            let mut log = LavaLog::new(log, None)?;
            log.joined(id, &lava)?;
            finish(dir, lock, id, me.clone(), lava, log, console)
        }
    }
}

fn finish(
    dir: PathBuf,
    lock: DirLock,
    id: VolcanoId,
    info: VolcanoInfo,
    lava: Lava,
    mut log: LavaLog,
    console: TcpListener,
) -> Result<Founded, StartError> {
    let own_starts = log.next_start(rand::random())?;
    let start_number = own_starts.last().map_or(0, |start| start.number);
    let starts = log.log().load_starts()?;
    let lava = if log.lava().epoch > lava.epoch {
        log.lava().clone()
    } else {
        lava
    };
    tracing::info!(nick = info.nick, addr = %info.addr, port = info.port, network = %lava.network,
        epoch = %lava.epoch, start_number, dir = %dir.display(), "starting");
    Ok(Founded {
        dir,
        _lock: lock,
        id,
        info,
        own_starts,
        starts,
        lava,
        log,
        console,
    })
}

fn make_dir(dir: &Path) -> Result<(), StoreError> {
    std::fs::create_dir_all(dir).map_err(|source| StoreError::Io {
        action: "create the directory",
        path: dir.to_owned(),
        source,
    })
}

fn bind_console(info: &VolcanoInfo) -> Result<TcpListener, StartError> {
    let addr = info.console_addr();
    TcpListener::bind(addr).map_err(|source| StartError::Console { addr, source })
}

/// Asks a volcano to be taken in after it.
async fn join(
    me: &VolcanoInfo,
    contact: &HostPort,
    secret: &NetworkSecret,
    outlived: Option<(&Path, &Lava)>,
) -> Result<(VolcanoId, Lava), StartError> {
    let addresses = {
        let contact = contact.clone();
        let resolved = tokio::task::spawn_blocking(move || contact.resolve()).await;
        resolved.unwrap_or_else(|error| {
            Err(ConfigError::Unresolved {
                host: String::new(),
                reason: error.to_string(),
            })
        })?
    };
    let refused = |reason: String| StartError::JoinRefused {
        contact: contact.to_string(),
        reason,
    };
    let mut last = refused("it has no address".into());
    for flare in addresses {
        let addr = std::net::SocketAddr::new(flare.ip(), flare.port() + 1);
        let endpoint = Endpoint::client(addr, Protocol::Node, secret)?;
        let hello = NodeHello::Joiner {
            version: PROTOCOL_VERSION,
            nick: me.nick.clone(),
        };
        let hello = codec::encode(&hello).map_err(|error| refused(error.to_string()))?;
        let connection = match endpoint
            .connect(addr, hello.into(), Arc::new(NoService))
            .await
        {
            Ok((connection, welcome)) => {
                if let Some((dir, old)) = outlived {
                    check_outlived(dir, me, old, &welcome).map_err(|why| match why {
                        Some(error) => error,
                        None => refused("it belongs to another lava network".into()),
                    })?;
                }
                connection
            }
            Err(error) => {
                last = error.into();
                continue;
            }
        };
        let answer = ask_to_join(&connection, me, &refused).await;
        endpoint.close("joined").await;
        return answer;
    }
    Err(last)
}

/// Whether the network has gone on without what is in a directory; none as the reason where it is
/// another network.
fn check_outlived(
    dir: &Path,
    me: &VolcanoInfo,
    old: &Lava,
    welcome: &[u8],
) -> Result<(), Option<StartError>> {
    let welcome: NodeWelcome = codec::decode(welcome).map_err(|_| None)?;
    let theirs = welcome.identity;
    if theirs.network != old.network {
        return Err(None);
    }
    if theirs.generation <= old.generation {
        return Err(Some(StartError::NotOutlived {
            dir: dir.to_owned(),
            nick: me.nick.clone(),
            generation: theirs.generation,
        }));
    }
    Ok(())
}

/// Joins the network that has gone on, by way of the contact, or of anybody who was a member.
async fn rejoin(
    dir: &Path,
    me: &VolcanoInfo,
    (old, contact): (&Lava, Option<&HostPort>),
    secret: &NetworkSecret,
) -> Result<(VolcanoId, Lava), StartError> {
    let others = old.volcanos.iter().filter(|v| v.info.nick != me.nick);
    let contacts: Vec<HostPort> = match contact {
        Some(contact) => vec![contact.clone()],
        None => others
            .map(|volcano| HostPort {
                host: volcano.info.addr.to_string(),
                port: volcano.info.port,
            })
            .collect(),
    };
    let mut last = StartError::JoinRefused {
        contact: "nobody".into(),
        reason: "the directory knows no other volcano: name one with -r".into(),
    };
    for contact in contacts {
        match join(me, &contact, secret, Some((dir, old))).await {
            Err(error @ StartError::NotOutlived { .. }) => return Err(error),
            Err(error) => last = error,
            joined => return joined,
        }
    }
    Err(last)
}

/// Moves what a volcano of an earlier generation has left into a directory of its own.
fn keep_aside(dir: &Path, old: Generation) -> Result<(), StartError> {
    let name = |n: u32| match n {
        0 => dir.join(format!("generation-{old}")),
        n => dir.join(format!("generation-{old}-{n}")),
    };
    let aside = (0..).map(name).find(|aside| !aside.exists());
    let aside = aside.unwrap_or_else(|| name(0));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| StartError::Aside { path, source }
    };
    std::fs::create_dir(&aside).map_err(failed(&aside))?;
    for entry in std::fs::read_dir(dir).map_err(failed(dir))? {
        let entry = entry.map_err(failed(dir))?;
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| {
            matches!(name, "content" | "scrub" | "redo.log" | "clean")
                || name.starts_with("store.sql")
                || name.starts_with("agreement.sql")
        });
        if ours {
            let path = entry.path();
            std::fs::rename(&path, aside.join(&name)).map_err(failed(&path))?;
        }
    }
    tracing::warn!(aside = %aside.display(), "what this volcano had is kept aside: delete it when nobody misses anything");
    Ok(())
}

async fn ask_to_join(
    connection: &Connection,
    me: &VolcanoInfo,
    refused: &impl Fn(String) -> StartError,
) -> Result<(VolcanoId, Lava), StartError> {
    let call = codec::encode(&NodeCall::Join(Box::new(me.clone())))
        .map_err(|error| refused(error.to_string()))?;
    let deadline = tokio::time::Instant::now() + JOIN_PATIENCE;
    loop {
        let frame = Frame {
            header: Bytes::from(call.clone()),
            payload: Bytes::new(),
        };
        let answer = connection.call(frame, ANSWER).await?;
        let answer: NodeAnswer =
            codec::decode(&answer.header).map_err(|error| refused(error.to_string()))?;
        match answer {
            NodeAnswer::Joined(id, lava) => return Ok((id, *lava)),
            NodeAnswer::NotNow(why) if tokio::time::Instant::now() < deadline => {
                tracing::info!("the join waits: {why}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            NodeAnswer::NotNow(why) | NodeAnswer::Failed(why) => return Err(refused(why)),
            NodeAnswer::Refused(why) => return Err(refused(why.to_string())),
            other => return Err(refused(format!("an unexpected answer: {other:?}"))),
        }
    }
}

/// A dialler that offers nothing.
struct NoService;

impl Service for NoService {
    fn hello(&self, _: std::net::SocketAddr, _: Bytes) -> Result<Bytes, String> {
        Err("nothing is served here".into())
    }
    fn connected(&self, _: &Connection, _: Bytes) {}
    fn call(&self, _: &Connection, _: Frame, _: Replier) {}
    fn push(&self, _: &Connection, _: Lane, _: Frame) {}
    fn closed(&self, _: &Connection, _: &str) {}
}
