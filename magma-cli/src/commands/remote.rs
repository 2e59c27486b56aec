//! Tools that ask a running network: `lava`, `status`, `ls`, `cat`, `stat`, `inspect`.
//!
//! Those about paths open a session as a mount does, work as root with what the secret key
//! allows, and end the session before they exit. Exit codes: 0 it worked; 1 the network said no, or
//! (`status`) not all is well; 2 wrong usage; 3 no volcano could be asked.

mod files;
mod fsck;
mod json;
mod network;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use magma_actors::config::secret::SecretText;
use magma_actors::config::{DEFAULT_PORT, HostPort};
use magma_core::flare::path::FlarePath;
use magma_fuse::client::volcanos::Survey;
use magma_fuse::client::{Client, ClientError};
use magma_fuse::helper::spec::{Spec, parse_hosts};

use crate::flags::{Refused, key_variable};
use crate::wiring::{self, ConnectError};
use crate::{output, process_title};

/// Exit code when no volcano could be asked.
const UNREACHED: u8 = 3;

/// What the exit codes mean, for `--help`.
pub const EXIT_CODES: &str = "\
Exit codes of lava, status, ls, cat, stat and inspect: 0 it worked; 1 the network said no, or
(status) not all is well; 2 wrong usage; 3 no volcano could be asked. Those of fsck: see its help.";

/// The tools.
#[derive(Subcommand, Debug)]
pub enum RemoteTool {
    /// Show the volcanos of a network: slices, keys, bandwidth, storage
    Lava(NetworkFlags),
    /// Say whether a network is well: every volcano asked, every copy in sync
    Status(NetworkFlags),
    /// Prove the tree and the copies of a running network, and repair them if asked to
    Fsck(fsck::FsckFlags),
    /// List a directory, or one file
    Ls(PathFlags),
    /// Write a file to the standard output
    Cat(PathFlags),
    /// Show the attributes of a file or directory
    Stat(PathFlags),
    /// Show all that is known of a flare: key, owner, copies, attributes, links, content
    Inspect(PathFlags),
}

/// Options of the tools that ask about the network.
#[derive(Args, Debug)]
pub struct NetworkFlags {
    /// Volcanos to contact, separated by commas (flare port, default 12000)
    #[arg(value_name = "HOST[:PORT]")]
    hosts: String,
    #[command(flatten)]
    common: CommonFlags,
}

/// Options of the tools that ask about a path.
#[derive(Args, Debug)]
pub struct PathFlags {
    /// Volcanos to contact, and the path in the network
    #[arg(value_name = "HOST[:PORT]:/PATH")]
    place: std::ffi::OsString,
    #[command(flatten)]
    common: CommonFlags,
}

/// Options of all of them.
#[derive(Args, Debug)]
struct CommonFlags {
    /// Secret key of the network
    #[arg(short = 'k', long = "key", value_name = "KEY")]
    key: Option<String>,
    /// File whose first line is the secret key [or in the environment: MAGMA_KEY]
    #[arg(long = "key-file", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// One JSON document instead of text (with cat: text, or hexadecimal digits)
    #[arg(long)]
    json: bool,
    /// How long to ask before giving up
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    patience: u64,
}

impl CommonFlags {
    fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }
}

/// Why a tool failed.
#[derive(Debug, thiserror::Error)]
enum RemoteError {
    /// The command line.
    #[error("{0}")]
    Usage(String),
    /// Nobody could be asked.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The network said no.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Not what the tool is for.
    #[error("{path}: {reason}")]
    Unfit {
        /// The path.
        path: FlarePath,
        /// Why.
        reason: &'static str,
    },
    /// Our own output.
    #[error("cannot write the result: {0}")]
    Output(#[from] io::Error),
    /// A result that JSON cannot hold.
    #[error("the result as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl RemoteError {
    fn code(&self) -> u8 {
        match self {
            RemoteError::Usage(_) => output::USAGE,
            RemoteError::Connect(_) => UNREACHED,
            RemoteError::Client(_)
            | RemoteError::Unfit { .. }
            | RemoteError::Output(_)
            | RemoteError::Json(_) => output::FAILED,
        }
    }
}

/// Whether what was asked about is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Well,
    Unwell,
    /// This exit code says how it is.
    Code(u8),
}

/// Runs a tool; returns the exit code.
pub fn run(tool: RemoteTool) -> u8 {
    let variable = key_variable();
    process_title::scrub();
    let name = tool.name();
    match work(tool, variable) {
        Ok(Health::Well) => 0,
        Ok(Health::Unwell) => output::FAILED,
        Ok(Health::Code(code)) => code,
        // Whoever read our output (`| head`) has seen enough.
        Err(RemoteError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            output::error(&format!("magma {name}"), &error);
            match error.code() {
                output::USAGE => output::USAGE,
                _ if name == "fsck" => fsck::UNCHECKED,
                code => code,
            }
        }
    }
}

impl RemoteTool {
    fn name(&self) -> &'static str {
        match self {
            RemoteTool::Lava(_) => "lava",
            RemoteTool::Status(_) => "status",
            RemoteTool::Fsck(_) => "fsck",
            RemoteTool::Ls(_) => "ls",
            RemoteTool::Cat(_) => "cat",
            RemoteTool::Stat(_) => "stat",
            RemoteTool::Inspect(_) => "inspect",
        }
    }
}

fn work(
    tool: RemoteTool,
    variable: Result<Option<String>, Refused>,
) -> Result<Health, RemoteError> {
    let variable = match variable {
        Ok(variable) => variable,
        Err(Refused::Usage(line) | Refused::Show(line)) => return Err(RemoteError::Usage(line)),
    };
    let name = tool.name();
    let secret = |common: &CommonFlags| {
        let key_file = common.key_file.as_deref();
        SecretText::choose(common.key.clone(), key_file, variable.clone())
            .map_err(|error| RemoteError::Usage(error.to_string()))
    };
    let survey = |flags: &NetworkFlags| {
        let common = &flags.common;
        let (hosts, patience) = (network_hosts(flags)?, common.patience());
        Ok::<Survey, RemoteError>(wiring::survey(&hosts, &secret(common)?, name, patience)?)
    };
    let open = |hosts: &[HostPort], common: &CommonFlags| {
        let patience = common.patience();
        Ok::<Client, RemoteError>(wiring::connect(hosts, &secret(common)?, name, patience)?)
    };
    match tool {
        RemoteTool::Lava(flags) => network::lava(&survey(&flags)?, flags.common.json),
        RemoteTool::Status(flags) => network::status(&survey(&flags)?, flags.common.json),
        RemoteTool::Fsck(flags) => {
            let hosts = network_hosts(&flags.network)?;
            let client = open(&hosts, &flags.network.common)?;
            with(&client, fsck::fsck(&client, &flags))
        }
        RemoteTool::Ls(flags) => {
            let spec = spec_of(&flags)?;
            let client = open(&spec.hosts, &flags.common)?;
            with(&client, files::ls(&client, &spec.dir, flags.common.json))
        }
        RemoteTool::Cat(flags) => {
            let spec = spec_of(&flags)?;
            let client = open(&spec.hosts, &flags.common)?;
            with(&client, files::cat(&client, &spec.dir, flags.common.json))
        }
        RemoteTool::Stat(flags) => {
            let spec = spec_of(&flags)?;
            let client = open(&spec.hosts, &flags.common)?;
            with(&client, files::stat(&client, &spec.dir, flags.common.json))
        }
        RemoteTool::Inspect(flags) => {
            let spec = spec_of(&flags)?;
            let client = open(&spec.hosts, &flags.common)?;
            with(
                &client,
                files::inspect(&client, &spec.dir, flags.common.json),
            )
        }
    }
}

/// Runs the work of a tool, and ends the session whatever came of it.
fn with(
    client: &Client,
    work: impl Future<Output = Result<Health, RemoteError>>,
) -> Result<Health, RemoteError> {
    client.block_on(async {
        let result = work.await;
        client.close().await;
        result
    })
}

fn network_hosts(flags: &NetworkFlags) -> Result<Vec<HostPort>, RemoteError> {
    parse_hosts(&flags.hosts, DEFAULT_PORT).map_err(|error| RemoteError::Usage(error.to_string()))
}

fn spec_of(flags: &PathFlags) -> Result<Spec, RemoteError> {
    let place = flags.place.to_str().ok_or_else(|| {
        // A host is text, and the path would reach us changed.
        RemoteError::Usage("the path must be UTF-8: use a mount for other names".to_owned())
    })?;
    Spec::parse(place, DEFAULT_PORT).map_err(|error| RemoteError::Usage(error.to_string()))
}
