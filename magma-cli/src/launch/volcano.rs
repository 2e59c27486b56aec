//! One `magmad`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use magma_actors::config::{DEFAULT_PORT, READY_LINE};
use magma_actors::service_manager::SOCKET_VARIABLE;
use nix::sys::signal::Signal;

use super::console::ConsoleClient;
use super::process::{Process, Programs, make_dir, set_key};
use super::{END_LIMIT, LaunchError, READY_LIMIT};
use crate::program::Program;

/// What does not change from one start of a volcano to the next.
#[derive(Clone, Debug)]
pub struct Site {
    /// Nickname.
    pub nick: String,
    /// Address of all its ports.
    pub addr: Ipv4Addr,
    /// Its store.
    pub dir: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// The secret key.
    pub key: String,
    /// Debug channels.
    pub debug: String,
    /// Variables of its environment beside ours.
    pub environment: Vec<(String, String)>,
    /// More options.
    pub arguments: Vec<String>,
}

/// How it is to start.
#[derive(Clone, Debug)]
pub enum How {
    /// Begin a network.
    Bootstrap {
        /// Copies beside the owner.
        redundancy: u8,
    },
    /// Join after the volcano at this address.
    Join(Ipv4Addr),
    /// The same, to vote only.
    JoinAsArbiter(Ipv4Addr),
    /// Come back.
    Restart,
    /// Come back as empty, to the network that has gone on.
    Rejoin,
}

/// A volcano that runs, or has run.
#[derive(Debug)]
pub struct VolcanoProcess {
    site: Site,
    process: Process,
}

impl VolcanoProcess {
    /// Starts a volcano. It serves only after [`VolcanoProcess::wait_ready`].
    pub fn start(
        programs: &Programs,
        site: &Site,
        how: &How,
    ) -> Result<VolcanoProcess, LaunchError> {
        make_dir(&site.dir)?;
        let mut command = programs.command(Program::Magmad);
        command.arg("-d").arg(&site.dir);
        // What this host has for a volcano of its own is not meant for this one: neither the options,
        // nor whoever watches over the process that starts it.
        command.arg("--config=/dev/null");
        command.env_remove(SOCKET_VARIABLE);
        set_key(&mut command, &site.key);
        let environment = site.environment.iter();
        command.envs(environment.map(|(name, value)| (name, value)));
        command.args(&site.arguments);
        if !site.debug.is_empty() {
            command.args(["-D", &site.debug]);
        }
        let addr = site.addr.to_string();
        let identity = ["-n", &site.nick, "-i", &addr];
        match how {
            How::Bootstrap { redundancy } => {
                command.args(identity).arg("-b");
                command.args(["--redundancy", &redundancy.to_string()]);
            }
            How::Join(contact) => {
                command.args(identity).args(["-r", &contact.to_string()]);
            }
            How::JoinAsArbiter(contact) => {
                command.args(identity).arg("--arbiter");
                command.args(["-r", &contact.to_string()]);
            }
            How::Restart => {}
            How::Rejoin => {
                command.arg("--rejoin");
            }
        }
        let process = Process::start(site.nick.clone(), command, &site.log)?;
        Ok(VolcanoProcess {
            site: site.clone(),
            process,
        })
    }

    /// Waits until it serves.
    pub fn wait_ready(&mut self) -> Result<(), LaunchError> {
        self.process.wait_for_line(READY_LINE, READY_LIMIT)
    }

    /// Nickname, address, directories.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.process.ended().is_none()
    }

    /// Where its console is.
    pub fn console_addr(&self) -> SocketAddr {
        (self.site.addr, DEFAULT_PORT + 2).into()
    }

    /// Connects to its console.
    pub fn console(&self) -> Result<ConsoleClient, LaunchError> {
        Ok(ConsoleClient::connect(self.console_addr())?.0)
    }

    /// Where its store is.
    pub fn dir(&self) -> &Path {
        &self.site.dir
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub fn terminate(&mut self) -> Result<(), LaunchError> {
        self.process.signal(Signal::SIGTERM);
        self.wait_end()
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Waits until it has ended by itself, with success.
    pub fn wait_end(&mut self) -> Result<(), LaunchError> {
        let status = self.process.wait(END_LIMIT)?;
        if status.success() {
            return Ok(());
        }
        Err(LaunchError::Ended {
            name: self.site.nick.clone(),
            status: status.to_string(),
            log: self.process.log_tail(),
        })
    }
}
