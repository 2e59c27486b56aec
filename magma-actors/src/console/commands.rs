//! What the commands do. Each family has a file below this one.

pub mod acl;
pub mod cache;
pub mod debug;
pub mod directory;
pub mod file;
pub mod help;
pub mod inspect;
pub mod intervene;
pub mod network;
pub mod scrub;
pub mod shutdown;

use std::rc::Rc;

use magma_core::flare::path::FlarePath;

use super::ask::AskError;
use super::backend::{Backend, Intervention};
use super::output::{Output, OutputError};
use super::parser::Command;
use super::walk::{LastLink, Place, WalkError, walk};

/// What a command works with: the state of one session.
pub struct Shell {
    /// The volcano.
    pub backend: Rc<dyn Backend>,
    /// The way to the peer.
    pub output: Output,
    /// The current directory.
    pub here: FlarePath,
    /// Who the peer is, for the log.
    pub peer: String,
}

/// Whether the session goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The next command may come.
    GoOn,
    /// The peer was told what this would do, and is to confirm it.
    Confirm(Intervention, Vec<String>),
    /// The peer wants to go.
    Quit,
    /// The volcano ends.
    Shutdown,
}

/// Why a command failed. All but the first are told to the peer, and the session goes on.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The peer cannot be told anything any longer.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A path leads nowhere.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// The owner of an object.
    #[error("{object}: {error}")]
    Ask {
        /// The object.
        object: String,
        /// What the owner says.
        error: AskError,
    },
    /// The command is not meant for such an object.
    #[error("{object}: {reason}")]
    Unfit {
        /// The object.
        object: String,
        /// Why not, and what to do instead.
        reason: String,
    },
}

impl CommandError {
    /// The command is not meant for this object.
    pub fn unfit(place: &Place, reason: impl Into<String>) -> CommandError {
        CommandError::Unfit {
            object: place.path.to_string(),
            reason: reason.into(),
        }
    }

    /// What the owner of this object says.
    pub fn ask(place: &Place) -> impl FnOnce(AskError) -> CommandError {
        let object = place.path.to_string();
        move |error| CommandError::Ask { object, error }
    }
}

impl Shell {
    /// Walks a path as it was typed.
    pub async fn walk(&self, path: &[u8], last: LastLink) -> Result<Place, WalkError> {
        walk(self.backend.as_ref(), &self.here, path, last).await
    }

    /// Does what was asked. What it has to say is in the output, not yet flushed.
    pub async fn run(&mut self, command: Command) -> Result<Flow, CommandError> {
        match command {
            Command::Help(topic) => help::help(self, &topic).await?,
            Command::Lava => network::lava(self).await?,
            Command::Status => network::status(self).await?,
            Command::Ls(path) => directory::ls(self, path.as_deref().unwrap_or(b".")).await?,
            Command::Cd(path) => directory::cd(self, path.as_deref().unwrap_or(b"/")).await?,
            Command::Pwd => directory::pwd(self).await?,
            Command::Cat(path) => file::cat(self, &path).await?,
            Command::Erase(path) => file::erase(self, &path).await?,
            Command::Inspect(path) => inspect::inspect(self, &path).await?,
            Command::CacheLoad => cache::load(self).await?,
            Command::PrintCache => cache::print(self).await?,
            Command::PrintDebug => debug::print(self).await?,
            Command::Debug { open, channels } => debug::turn(self, open, channels).await?,
            Command::PrintAcl => acl::print(self).await?,
            Command::Fault(actor) => debug::fault(self, &actor).await?,
            Command::Scrub(order) => scrub::scrub(self, order).await?,
            Command::Shutdown { whole_network } => {
                return shutdown::shutdown(self, whole_network).await;
            }
            Command::Intervene { what, told } => {
                return intervene::intervene(self, what, told).await;
            }
            Command::Quit => return Ok(Flow::Quit),
        }
        Ok(Flow::GoOn)
    }
}
