//! One `mount.magma`, in the foreground, so that it is ours to signal and to wait for.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use magma_fuse::helper::MOUNTED_LINE;
use magma_fuse::mount::{UnmountError, unmount};
use nix::sys::signal::Signal;

use super::process::{Process, Programs, make_dir, set_key};
use super::{END_LIMIT, LaunchError, READY_LIMIT};
use crate::program::Program;

/// What a mount is to be.
#[derive(Clone, Debug)]
pub struct MountSite {
    /// Volcanos to contact.
    pub hosts: Vec<Ipv4Addr>,
    /// The mount point; made if it is not there.
    pub target: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// The secret key.
    pub key: String,
    /// Debug channels.
    pub debug: String,
    /// More arguments.
    pub arguments: Vec<String>,
}

/// A mount that runs, or has run. Dropped, it unmounts.
#[derive(Debug)]
pub struct MountProcess {
    target: PathBuf,
    process: Process,
}

impl MountProcess {
    /// Mounts, and waits until the mount answers.
    pub fn start(programs: &Programs, site: &MountSite) -> Result<MountProcess, LaunchError> {
        make_dir(&site.target)?;
        let hosts: Vec<String> = site.hosts.iter().map(Ipv4Addr::to_string).collect();
        let mut command = programs.command(Program::Mount);
        command.arg(format!("--host={}", hosts.join(",")));
        command.args(["-f", "--log=stderr"]);
        if !site.debug.is_empty() {
            command.arg(format!("--debug={}", site.debug));
        }
        command.args(&site.arguments).arg(&site.target);
        set_key(&mut command, &site.key);
        let name = format!("the mount at {}", site.target.display());
        let mut process = Process::start(name, command, &site.log)?;
        process.wait_for_line(MOUNTED_LINE, READY_LIMIT)?;
        Ok(MountProcess {
            target: site.target.clone(),
            process,
        })
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.target
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Asks it to unmount and waits until it has ended.
    pub fn end(&mut self) -> Result<(), LaunchError> {
        self.process.signal(Signal::SIGTERM);
        let status = self.process.wait(END_LIMIT)?;
        if status.success() {
            return Ok(());
        }
        Err(LaunchError::Ended {
            name: self.process.name().to_owned(),
            status: status.to_string(),
            log: self.process.log_tail(),
        })
    }

    /// Kills it, as a crash would, and removes the dead mount that it leaves.
    pub fn kill(&mut self) {
        self.process.kill();
        self.clear();
    }

    fn clear(&self) {
        // Nothing there is what is wanted; anything else was not ours.
        match unmount(&self.target) {
            Ok(()) | Err(UnmountError::NotMounted(_) | UnmountError::Path { .. }) => {}
            Err(error) => tracing::warn!("{error}"),
        }
    }
}

impl Drop for MountProcess {
    fn drop(&mut self) {
        if self.process.ended().is_none() && self.end().is_err() {
            self.process.kill();
        }
        self.clear();
    }
}
