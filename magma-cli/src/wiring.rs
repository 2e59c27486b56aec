//! Where the programs meet the volcano and the client: the only file that calls into both.

use magma_actors::config::{ConfigError, VolcanoConfig};
use magma_actors::transport::{NetworkSecret, TransportError};
use magma_core::op::Credentials;
use magma_fuse::client::{Client, ClientConfig, ClientError};
use magma_fuse::filesystem::{FsOptions, MagmaFs};
use std::path::Path;
use std::process::ExitCode;

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
    let mut hosts = Vec::new();
    let mut unresolved = None;
    for host in &request.hosts {
        match host.resolve() {
            Ok(addresses) => hosts.extend(addresses),
            Err(error) => unresolved = Some(error),
        }
    }
    if let (true, Some(error)) = (hosts.is_empty(), unresolved) {
        return Err(error.into());
    }
    let label = format!("{}:{}", host_name(), request.mount.target.display());
    let secret = NetworkSecret::derive(request.secret.reveal())?;
    let config = ClientConfig {
        hosts,
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
    Ok(Built {
        filesystem,
        attached: Box::new(|_, _| ()),
    })
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "somewhere".into())
}

/// Why a store cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not there yet.
    #[error("this build cannot open stores")]
    NoStore,
}

/// Opens the store of a volcano that does not run, to look at it.
pub fn open_store(_dir: &Path) -> Result<OpenStore, OpenError> {
    Err(OpenError::NoStore)
}
