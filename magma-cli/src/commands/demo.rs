//! `magma demo`: a whole lava network on this host, mounted, until Ctrl-C. It leaves nothing
//! behind: no process, no mount, and no directory but the one that was asked for.

mod check;
mod leftovers;
mod tree;

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use magma_actors::config::{DEFAULT_PORT, DebugMask};
use nix::sys::signal::{SigSet, Signal};
use tempfile::TempDir;

use super::keygen;
use crate::launch::block::LoopbackBlock;
use crate::launch::network::{Network, Plan};
use crate::launch::process::Programs;
use crate::launch::{self, LaunchError};
use crate::output;

const PROGRAM: &str = "magma demo";
/// How often the demo looks whether its network was shut down on a console.
const LOOK: Duration = Duration::from_millis(250);

/// Options of the demo.
#[derive(Args, Debug)]
pub struct DemoFlags {
    /// How many volcanos
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=32))]
    volcanos: u8,
    /// Keep stores and logs in this directory [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Mount here [default: mnt in that directory]
    #[arg(long, value_name = "DIR")]
    mount: Option<PathBuf>,
    /// Copies of each slice beside its owner
    #[arg(long, value_name = "N", default_value_t = 1)]
    redundancy: u8,
    /// Debug channels of everything, in the logs
    #[arg(short = 'D', value_name = "MASK", default_value = "")]
    debug: String,
    /// Check itself with real files, over a shutdown and a restart, and end
    #[arg(long)]
    check: bool,
}

/// Why the demo did not work.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error("{action} {}: {source}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{0}")]
    System(String),
    #[error("{} holds files already: a network begins in an empty directory", .0.display())]
    NotEmpty(PathBuf),
    #[error("what the mounts show is not what was written: {0}")]
    Differs(String),
    #[error("the stores are not copies of each other: {0}")]
    Copies(String),
}

/// Runs the demo.
pub fn run(flags: DemoFlags) -> u8 {
    let signals = match catch_signals() {
        Ok(signals) => signals,
        Err(error) => {
            output::error(PROGRAM, error);
            return output::FAILED;
        }
    };
    match demonstrate(&flags, &signals) {
        Ok(()) => 0,
        Err(DemoError::Launch(LaunchError::Cancelled)) => {
            output::result("Interrupted; nothing is left behind.");
            output::FAILED
        }
        Err(error) => {
            // The last lines of a log may go with it: they stay lines.
            output::result(format_args!("{PROGRAM} has failed: {error}"));
            output::FAILED
        }
    }
}

fn demonstrate(flags: &DemoFlags, signals: &Signals) -> Result<(), DemoError> {
    DebugMask::parse(&flags.debug).map_err(|error| DemoError::System(error.to_string()))?;
    let place = Place::new(flags)?;
    let key = keygen::generate().map_err(|error| DemoError::System(error.to_string()))?;
    let key_file = place.dir().join("key");
    write_secretly(&key_file, &key)?;
    let programs = Programs::myself()
        .map_err(|error| DemoError::System(format!("cannot find this program: {error}")))?;
    let mut network = Network::new(Plan {
        programs,
        dir: place.dir().to_owned(),
        block: LoopbackBlock::preferring_localhost(flags.volcanos)?,
        key,
        redundancy: flags.redundancy,
        debug: flags.debug.clone(),
        environment: Vec::new(),
        arguments: Vec::new(),
    });
    let result = if flags.check {
        check::run(&mut network, flags.volcanos, &place.mount)
    } else {
        show(&mut network, flags.volcanos, &place, &key_file, signals)
    };
    // Mounts and processes end before the directory goes, whatever has happened.
    let ended = end(&mut network);
    drop(network);
    place.remove();
    result.and(ended)
}

fn show(
    network: &mut Network,
    volcanos: u8,
    place: &Place,
    key_file: &Path,
    signals: &Signals,
) -> Result<(), DemoError> {
    output::result(format_args!(
        "A lava network of {volcanos} volcanos on this host:\n"
    ));
    let mut before: Option<String> = None;
    for _ in 0..volcanos {
        let volcano = network.add_volcano()?;
        let site = volcano.site();
        let what = match &before {
            None => "began the network".to_owned(),
            Some(before) => format!("joined after {before}"),
        };
        output::result(format_args!("  {:<10} {:<12} {what}", site.nick, site.addr));
        before = Some(site.nick.clone());
    }
    network.mount(0, &place.mount)?;
    let first = network.plan().block.addr(0);
    output::result(format_args!(
        "\nIt is mounted at {mount}\n\n\
         Look around:\n  \
         ls -la {mount}\n  \
         telnet {first} {console}     the console of the first volcano; try help\n  \
         ls {dir}     the stores and the logs; the secret key is in {key}\n\n\
         Ctrl-C ends it and leaves nothing behind{but}.",
        mount = place.mount.display(),
        console = DEFAULT_PORT + 2,
        dir = place.dir().display(),
        key = key_file.display(),
        but = if place.is_temporary() {
            ""
        } else {
            " but that directory"
        },
    ));
    while !signals.come_within(LOOK) {
        if !network.is_running() {
            output::result("\nThe network has ended. Ending.");
            return Ok(());
        }
    }
    output::result("\nEnding.");
    Ok(())
}

fn end(network: &mut Network) -> Result<(), DemoError> {
    network.unmount_all()?;
    network.terminate()?;
    Ok(())
}

/// Where everything lies.
struct Place {
    mount: PathBuf,
    /// Made by us, to be removed.
    made_mount: bool,
    directory: Directory,
}

enum Directory {
    /// With the lock that says that this demo lives.
    Temporary(TempDir, File),
    Given(PathBuf),
}

impl Place {
    fn new(flags: &DemoFlags) -> Result<Place, DemoError> {
        let directory = match &flags.dir {
            None => {
                let failed = |error| {
                    DemoError::System(format!("cannot make a temporary directory: {error}"))
                };
                leftovers::sweep(&std::env::temp_dir());
                let mut builder = tempfile::Builder::new();
                let made = builder.prefix(leftovers::PREFIX).tempdir();
                let made = made.map_err(failed)?;
                let held = leftovers::hold(made.path()).map_err(failed)?;
                Directory::Temporary(made, held)
            }
            Some(dir) => Directory::Given(make_empty(dir)?),
        };
        let (mount, made_mount) = match &flags.mount {
            Some(mount) => (absolute(mount)?, !mount.exists()),
            None => (directory.path().join("mnt"), true),
        };
        Ok(Place {
            mount,
            made_mount,
            directory,
        })
    }

    fn dir(&self) -> &Path {
        self.directory.path()
    }

    fn is_temporary(&self) -> bool {
        matches!(self.directory, Directory::Temporary(..))
    }

    fn remove(self) {
        // Empty directories only: never what somebody else put there. And never recursively
        // through a mount that would not go.
        let mounted = magma_fuse::mount::table::at(&self.mount).is_some();
        if self.made_mount && !mounted {
            let _ = std::fs::remove_dir(&self.mount);
        }
        if let Directory::Temporary(dir, _held) = self.directory {
            if mounted {
                output::error(
                    PROGRAM,
                    format_args!("{} stays: something is still mounted", dir.keep().display()),
                );
            } else if let Err(error) = dir.close() {
                output::error(PROGRAM, error);
            }
        }
    }
}

impl Directory {
    fn path(&self) -> &Path {
        match self {
            Directory::Temporary(dir, _) => dir.path(),
            Directory::Given(dir) => dir,
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf, DemoError> {
    std::path::absolute(path).map_err(|source| DemoError::File {
        action: "find",
        path: path.to_owned(),
        source,
    })
}

fn make_empty(path: &Path) -> Result<PathBuf, DemoError> {
    let path = absolute(path)?;
    let failed = |source| DemoError::File {
        action: "make",
        path: path.clone(),
        source,
    };
    std::fs::create_dir_all(&path).map_err(failed)?;
    if std::fs::read_dir(&path).map_err(failed)?.next().is_some() {
        return Err(DemoError::NotEmpty(path));
    }
    Ok(path)
}

fn write_secretly(path: &Path, key: &str) -> Result<(), DemoError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, format!("{key}\n").as_bytes()))
        .map_err(|source| DemoError::File {
            action: "write",
            path: path.to_owned(),
            source,
        })
}

/// The end as a person asks for it, at any moment: what is being waited for is given up, and
/// everything is cleaned up as after an error.
struct Signals(std::sync::mpsc::Receiver<()>);

impl Signals {
    /// Whether somebody asks for the end within this time.
    fn come_within(&self, limit: Duration) -> bool {
        // A thread that is gone counts too: nobody could ask any more.
        !matches!(
            self.0.recv_timeout(limit),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout)
        )
    }
}

fn catch_signals() -> io::Result<Signals> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        set.add(signal);
    }
    // Before any other thread is made, so that all of them have it.
    set.thread_block()?;
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            if set.wait().is_ok() {
                launch::cancel();
            }
            let _ = tell.send(());
        })?;
    Ok(Signals(told))
}
