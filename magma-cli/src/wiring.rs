//! Where the programs meet the volcano and the client: the only file that calls into both.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use magma_actors::config::secret::SecretText;
use magma_actors::config::{ConfigError, HostPort, VolcanoConfig};
use magma_actors::transport::{NetworkSecret, TransportError};
use magma_core::op::Credentials;
use magma_core::store::StoreError;
use magma_core::store::agreement_log::{self, AgreementLog};
use magma_core::store::lock::DirLock;
use magma_core::store::sqlite::SqliteStore;
use magma_fuse::client::volcanos::Survey;
use magma_fuse::client::{Client, ClientConfig, ClientError};
use magma_fuse::filesystem::{FsOptions, MagmaFs};
use magma_fuse::helper::{Built, MountRequest};

use crate::commands::verify::OpenStore;

/// Runs a volcano until it is told to end. It sets up the log itself.
pub fn run_volcano(config: VolcanoConfig) -> ExitCode {
    magma_actors::run(config)
}

/// Why a mount has no file system to show.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A host of the request.
    #[error(transparent)]
    Host(#[from] ConfigError),
    /// The secret key cannot be used.
    #[error(transparent)]
    Secret(#[from] TransportError),
    /// No volcano took us in, or the directory is not there.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Connects to a volcano of the request's and builds the file system over that connection.
pub fn connect_and_build(request: &MountRequest) -> Result<Built<MagmaFs>, ConnectError> {
    let label = format!("{}:{}", host_name(), request.mount.target.display());
    let secret = NetworkSecret::derive(request.secret.reveal())?;
    let config = ClientConfig {
        hosts: resolve(&request.hosts)?,
        secret,
        label,
        patience: request.patience,
    };
    let client = Client::connect_blocking(config)?;
    let walk = {
        let (client, dir) = (client.clone(), request.dir.clone());
        async move { client.walk(&dir, &Credentials::root()).await }
    };
    let root = client.block_on(walk)?.node;
    let filesystem = MagmaFs::new(client, FsOptions::new(root));
    let volume = filesystem.volume();
    let abandoned = volume.clone();
    Ok(Built {
        filesystem,
        attached: Box::new(move |notifier, device| {
            if let Err(error) = volume.attached(notifier, device) {
                tracing::warn!("nothing is cached in the kernel: {error}");
            }
        }),
        abandoned: Box::new(move || abandoned.client().block_on(abandoned.client().close())),
    })
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "somewhere".into())
}

/// Connects to a network as a tool: with a session, but without a mount.
pub fn connect(
    hosts: &[HostPort],
    secret: &SecretText,
    tool: &str,
    patience: Duration,
) -> Result<Client, ConnectError> {
    let config = tool_config(hosts, secret, tool, patience)?;
    Ok(Client::connect_blocking(config)?)
}

/// Asks the volcanos of a network how they are, without a session.
pub fn survey(
    hosts: &[HostPort],
    secret: &SecretText,
    tool: &str,
    patience: Duration,
) -> Result<Survey, ConnectError> {
    let config = tool_config(hosts, secret, tool, patience)?;
    Ok(Survey::take_blocking(config)?)
}

fn tool_config(
    hosts: &[HostPort],
    secret: &SecretText,
    tool: &str,
    patience: Duration,
) -> Result<ClientConfig, ConnectError> {
    Ok(ClientConfig {
        hosts: resolve(hosts)?,
        secret: NetworkSecret::derive(secret.reveal())?,
        label: format!("{}:{tool}", host_name()),
        patience,
    })
}

/// All addresses of all hosts; it is enough when one of them has any.
fn resolve(hosts: &[HostPort]) -> Result<Vec<SocketAddr>, ConfigError> {
    let mut found = Vec::new();
    let mut unresolved = None;
    for host in hosts {
        match host.resolve() {
            Ok(addresses) => found.extend(addresses),
            Err(error) => unresolved = Some(error),
        }
    }
    match unresolved {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

/// Why a store cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such directory, or it is no volcano's.
    #[error("{} holds no volcano", dir.display())]
    NoVolcano {
        /// The directory.
        dir: PathBuf,
    },
    /// The store cannot be read, or its volcano runs.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whether there is a volcano in a directory, running or not. Nothing in it is changed. One that
/// cannot be read counts as there: its start will say why.
pub fn holds_volcano(dir: &Path) -> bool {
    if !dir.join(agreement_log::FILE_NAME).is_file() {
        return false;
    }
    let known = AgreementLog::peek(dir).and_then(|log| log.load_self());
    !matches!(known, Ok(None))
}

/// Opens the store of a volcano that does not run, to look at it. Nothing in it is changed.
pub fn open_store(dir: &Path) -> Result<OpenStore, OpenError> {
    let nobody = || OpenError::NoVolcano {
        dir: dir.to_owned(),
    };
    // Before the lock, which would leave its file in a directory that is nobody's.
    if !dir.join(agreement_log::FILE_NAME).is_file() {
        return Err(nobody());
    }
    let lock = DirLock::take(dir)?;
    let log = AgreementLog::peek(dir)?;
    let (volcano, _) = log.load_self()?.ok_or_else(nobody)?;
    let lava = log.load()?.ok_or_else(nobody)?;
    Ok(OpenStore {
        volcano,
        lava,
        copy: Box::new(SqliteStore::peek(dir)?),
        lock,
    })
}
