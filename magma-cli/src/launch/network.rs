//! A whole lava network on this host: volcanos on loopback addresses, and mounts.

use std::path::{Path, PathBuf};

use super::LaunchError;
use super::block::LoopbackBlock;
use super::mounted::{MountProcess, MountSite};
use super::process::{Programs, make_dir};
use super::volcano::{How, Site, VolcanoProcess};

/// Nicknames, in ring order; later volcanos are numbered.
const NICKS: [&str; 3] = ["wallace", "gromit", "penguin"];

/// What a network is made of.
#[derive(Debug)]
pub struct Plan {
    /// Where the programs are.
    pub programs: Programs,
    /// Everything lies below this directory.
    pub dir: PathBuf,
    /// Addresses.
    pub block: LoopbackBlock,
    /// The secret key.
    pub key: String,
    /// Copies of each slice beside its owner.
    pub redundancy: u8,
    /// Debug channels of volcanos and mounts.
    pub debug: String,
    /// Variables of the volcanos' environment beside ours.
    pub environment: Vec<(String, String)>,
    /// More options of the volcanos.
    pub arguments: Vec<String>,
}

/// A network that runs, or has run. Dropped, everything is unmounted and ended; the directory
/// stays.
#[derive(Debug)]
pub struct Network {
    // Declared first: mounts go before the volcanos that serve them.
    mounts: Vec<MountProcess>,
    volcanos: Vec<VolcanoProcess>,
    plan: Plan,
}

impl Network {
    /// A network without volcanos.
    pub fn new(plan: Plan) -> Network {
        Network {
            mounts: Vec::new(),
            volcanos: Vec::new(),
            plan,
        }
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Adds a volcano at the end of the ring and waits until it serves: the first begins the
    /// network, each other one joins after the last.
    pub fn add_volcano(&mut self) -> Result<&mut VolcanoProcess, LaunchError> {
        let how = match self.volcanos.last() {
            None => How::Bootstrap {
                redundancy: self.plan.redundancy,
            },
            Some(last) => How::Join(last.site().addr),
        };
        self.add(&how)
    }

    /// Adds a volcano that joins after the one at `contact`, and waits until it serves. Its
    /// number is the next one, wherever in the ring it is.
    pub fn add_volcano_after(
        &mut self,
        contact: usize,
    ) -> Result<&mut VolcanoProcess, LaunchError> {
        let how = How::Join(self.volcanos[contact].site().addr);
        self.add(&how)
    }

    /// Adds a volcano that votes and holds no keys.
    pub fn add_arbiter(&mut self, contact: usize) -> Result<&mut VolcanoProcess, LaunchError> {
        let how = How::JoinAsArbiter(self.volcanos[contact].site().addr);
        self.add(&how)
    }

    fn add(&mut self, how: &How) -> Result<&mut VolcanoProcess, LaunchError> {
        let site = self.site(self.volcanos.len());
        let volcano = VolcanoProcess::start(&self.plan.programs, &site, how)?;
        self.volcanos.push(volcano);
        let at = self.volcanos.len() - 1;
        self.volcanos[at].wait_ready()?;
        Ok(&mut self.volcanos[at])
    }

    /// Mounts through a volcano, with the others as reserve, and waits until it answers.
    pub fn mount(&mut self, volcano: usize, target: &Path) -> Result<&Path, LaunchError> {
        let mount = self.mount_apart(volcano, target, &[])?;
        self.mounts.push(mount);
        Ok(self.mounts[self.mounts.len() - 1].path())
    }

    /// The same, but the caller keeps the mount.
    pub fn mount_apart(
        &self,
        volcano: usize,
        target: &Path,
        arguments: &[String],
    ) -> Result<MountProcess, LaunchError> {
        let count = self.volcanos.len();
        let hosts = (0..count).map(|step| self.volcanos[(volcano + step) % count].site().addr);
        make_dir(&self.plan.dir)?;
        let site = MountSite {
            hosts: hosts.collect(),
            target: target.to_owned(),
            log: self
                .plan
                .dir
                .join(format!("mount-{}.log", log_name(target))),
            key: self.plan.key.clone(),
            debug: self.plan.debug.clone(),
            arguments: arguments.to_vec(),
        };
        MountProcess::start(&self.plan.programs, &site)
    }

    /// A volcano, by its place in the ring.
    pub fn volcano(&mut self, at: usize) -> &mut VolcanoProcess {
        &mut self.volcanos[at]
    }

    /// All volcanos in ring order.
    pub fn volcanos(&self) -> &[VolcanoProcess] {
        &self.volcanos
    }

    /// Whether any volcano runs.
    pub fn is_running(&mut self) -> bool {
        self.volcanos.iter_mut().any(VolcanoProcess::is_running)
    }

    /// The mounts that belong to the network.
    pub fn mounts(&mut self) -> &mut [MountProcess] {
        &mut self.mounts
    }

    /// Unmounts everything that belongs to the network.
    pub fn unmount_all(&mut self) -> Result<(), LaunchError> {
        for mount in &mut self.mounts {
            mount.end()?;
        }
        self.mounts.clear();
        Ok(())
    }

    /// Shuts the whole network down in order: `shutdown` on the console of one volcano. Mounts
    /// stay.
    pub fn shutdown(&mut self, at: usize) -> Result<String, LaunchError> {
        let said = self.volcanos[at].console()?.last_command("shutdown")?;
        for volcano in &mut self.volcanos {
            volcano.wait_end()?;
        }
        Ok(said)
    }

    /// Starts all volcanos again and waits until all serve. They wait for each other, so all
    /// are started first.
    pub fn restart(&mut self) -> Result<(), LaunchError> {
        for at in 0..self.volcanos.len() {
            self.start_again(at)?;
        }
        for volcano in &mut self.volcanos {
            volcano.wait_ready()?;
        }
        Ok(())
    }

    /// Starts one volcano again; the caller waits until it serves.
    pub fn start_again(&mut self, at: usize) -> Result<(), LaunchError> {
        let site = self.volcanos[at].site().clone();
        let how = How::Restart;
        // The old one has ended or is killed: its ports and its lock file must be free.
        self.volcanos[at].kill();
        self.volcanos[at] = VolcanoProcess::start(&self.plan.programs, &site, &how)?;
        Ok(())
    }

    /// Starts a volcano that has ended, to join the network that has gone on without it. The caller
    /// waits until it serves, or has ended.
    pub fn rejoin(&mut self, at: usize) -> Result<(), LaunchError> {
        let site = self.volcanos[at].site().clone();
        self.volcanos[at].kill();
        self.volcanos[at] = VolcanoProcess::start(&self.plan.programs, &site, &How::Rejoin)?;
        Ok(())
    }

    /// Starts a volcano that has ended as if its host were new: its directory is gone, and it joins after
    /// another. The caller waits until it serves, or has ended.
    pub fn join_anew(&mut self, at: usize, contact: usize) -> Result<(), LaunchError> {
        let site = self.volcanos[at].site().clone();
        let how = How::Join(self.volcanos[contact].site().addr);
        self.volcanos[at].kill();
        // Whatever is left of it is found by the volcano itself, which refuses it.
        let _ = std::fs::remove_dir_all(&site.dir);
        self.volcanos[at] = VolcanoProcess::start(&self.plan.programs, &site, &how)?;
        Ok(())
    }

    /// Asks every volcano to end, all at once, and waits until they have.
    pub fn terminate(&mut self) -> Result<(), LaunchError> {
        for volcano in &mut self.volcanos {
            volcano.process().signal(nix::sys::signal::Signal::SIGTERM);
        }
        for volcano in &mut self.volcanos {
            volcano.wait_end()?;
        }
        Ok(())
    }

    fn site(&self, at: usize) -> Site {
        let nick = match NICKS.get(at) {
            Some(nick) => (*nick).to_owned(),
            None => format!("volcano{}", at + 1),
        };
        Site {
            addr: self.plan.block.addr(at as u8),
            dir: self.plan.dir.join(&nick),
            log: self.plan.dir.join(format!("{nick}.log")),
            key: self.plan.key.clone(),
            debug: self.plan.debug.clone(),
            environment: self.plan.environment.clone(),
            arguments: self.plan.arguments.clone(),
            nick,
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.mounts.clear();
        // All at once: one that waits for another would wait in vain.
        for volcano in &mut self.volcanos {
            volcano.process().signal(nix::sys::signal::Signal::SIGTERM);
        }
    }
}

fn log_name(target: &Path) -> String {
    let name = target.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
