//! Where the programs meet the volcano and the client: the only file that calls into both.

use magma_actors::config::VolcanoConfig;
use std::path::Path;
use std::process::ExitCode;

use magma_fuse::helper::{Built, MountRequest};

use crate::commands::verify::OpenStore;
use crate::output;

/// Runs a volcano until it is told to end. It sets up the log itself.
pub fn run_volcano(config: VolcanoConfig) -> ExitCode {
    let _ = config;
    output::error("magmad", "this build has no volcano");
    ExitCode::from(output::FAILED)
}

/// Why a mount has no file system to show.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not there yet.
    #[error("this build has no client")]
    NoClient,
}

/// Connects to a volcano of the request's and builds the file system over that connection.
pub fn connect_and_build(
    request: &MountRequest,
) -> Result<Built<impl fuser::Filesystem + use<>>, ConnectError> {
    let _ = request;
    Err::<Built<Nothing>, ConnectError>(ConnectError::NoClient)
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

struct Nothing;
impl fuser::Filesystem for Nothing {}
