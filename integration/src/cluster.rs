//! A lava network of real processes for one test.

use std::fmt::Write;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use magma_cli::launch::block::LoopbackBlock;
use magma_cli::launch::network::{Network, Plan};
use magma_cli::launch::{LaunchError, wait_for};
use magma_cli::program::Program;
use magma_fuse::mount::{table, unmount};
use tempfile::TempDir;

use crate::console_client::ConsoleClient;
use crate::mounted::{Mount, can_mount};
use crate::volcano_process::{VolcanoProcess, programs};

pub use magma_cli::launch::{END_LIMIT, READY_LIMIT};

/// Debug channels of volcanos and mounts, as letters.
const DEBUG_VARIABLE: &str = "MAGMA_DEBUG";
/// The secret key of every cluster: what keeps clusters apart is their addresses.
pub const KEY: &str = "the-key-of-the-tests-8f2b61d04c";

/// A lava network with addresses and directories of its own. Its methods panic with the
/// reason, as a test wants it.
#[derive(Debug)]
pub struct Cluster {
    network: Network,
    mounts: u32,
    // Dropped last: the processes have it open.
    dir: Option<TempDir>,
}

impl Cluster {
    /// Starts a network of `n` volcanos, each joined after the one before.
    #[track_caller]
    pub fn start(n: u8) -> Cluster {
        Cluster::with_redundancy(n, 1)
    }

    /// Three volcanos with a mount through the first and one through another; none where this
    /// machine is not to mount.
    #[track_caller]
    pub fn with_two_mounts() -> Option<(Cluster, Mount, Mount)> {
        if !can_mount() {
            return None;
        }
        let mut cluster = Cluster::start(3);
        let (one, two) = (cluster.mount(0), cluster.mount(1));
        Some((cluster, one, two))
    }

    /// As [`Cluster::start`], with a number of copies beside the owner.
    #[track_caller]
    pub fn with_redundancy(n: u8, redundancy: u8) -> Cluster {
        Cluster::with_environment(n, redundancy, &[])
    }

    /// As [`Cluster::start`], with more options of each volcano.
    #[track_caller]
    pub fn with_arguments(n: u8, arguments: &[&str]) -> Cluster {
        Cluster::with_plan(n, |plan| {
            plan.arguments = arguments.iter().map(|&a| a.to_owned()).collect();
        })
    }

    /// The same, with variables for the environment of each volcano.
    #[track_caller]
    pub fn with_environment(n: u8, redundancy: u8, environment: &[(&str, &str)]) -> Cluster {
        Cluster::with_plan(n, |plan| {
            plan.redundancy = redundancy;
            plan.environment = environment
                .iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
        })
    }

    #[track_caller]
    fn with_plan(n: u8, change: impl FnOnce(&mut Plan)) -> Cluster {
        let dir = tempfile::Builder::new()
            .prefix("magma-test-")
            .tempdir()
            .unwrap_or_else(|error| panic!("cannot make a temporary directory: {error}"));
        let mut plan = Plan {
            programs: programs(),
            dir: dir.path().to_owned(),
            block: check(LoopbackBlock::allocate(n.max(8))),
            key: KEY.to_owned(),
            redundancy: 1,
            debug: std::env::var(DEBUG_VARIABLE).unwrap_or_default(),
            environment: Vec::new(),
            arguments: Vec::new(),
        };
        change(&mut plan);
        let mut cluster = Cluster {
            network: Network::new(plan),
            mounts: 0,
            dir: Some(dir),
        };
        for _ in 0..n {
            cluster.join();
        }
        cluster
    }

    /// One more volcano, at the end of the ring.
    #[track_caller]
    pub fn join(&mut self) -> &mut VolcanoProcess {
        check(self.network.add_volcano())
    }

    /// One more volcano, after any other in the ring. Its number is the next one.
    #[track_caller]
    pub fn join_after(&mut self, contact: usize) -> &mut VolcanoProcess {
        check(self.network.add_volcano_after(contact))
    }

    /// One more volcano, which votes only.
    #[track_caller]
    pub fn join_as_arbiter(&mut self) -> &mut VolcanoProcess {
        check(self.network.add_arbiter(0))
    }

    /// An address of this cluster's: that of the volcano of this number, or a free one past
    /// the last (a block has eight).
    pub fn addr(&self, at: usize) -> Ipv4Addr {
        self.network.plan().block.addr(at as u8)
    }

    /// How many volcanos there are, running or not.
    pub fn len(&self) -> usize {
        self.network.volcanos().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A volcano, by its place in the ring.
    pub fn volcano(&mut self, at: usize) -> &mut VolcanoProcess {
        self.network.volcano(at)
    }

    /// Everything of the cluster lies below this directory.
    pub fn dir(&self) -> &Path {
        &self.network.plan().dir
    }

    /// The stores, in ring order.
    pub fn stores(&self) -> Vec<PathBuf> {
        let volcanos = self.network.volcanos().iter();
        volcanos.map(|volcano| volcano.dir().to_owned()).collect()
    }

    /// Mounts through a volcano, at a directory of its own.
    #[track_caller]
    pub fn mount(&mut self, volcano: usize) -> Mount {
        self.mount_with(volcano, &[])
    }

    /// The same, with more arguments of `mount.magma`.
    #[track_caller]
    pub fn mount_with(&mut self, volcano: usize, arguments: &[&str]) -> Mount {
        self.mounts += 1;
        let target = self.dir().join(format!("mnt{}", self.mounts));
        let arguments: Vec<String> = arguments.iter().map(|&a| a.to_owned()).collect();
        let mount = self.network.mount_apart(volcano, &target, &arguments);
        Mount::new(check(mount))
    }

    /// Connects to the console of a volcano.
    #[track_caller]
    pub fn console(&mut self, at: usize) -> ConsoleClient {
        check(self.volcano(at).console())
    }

    /// Runs one command on the console of a volcano.
    #[track_caller]
    pub fn ask(&mut self, at: usize, command: &str) -> String {
        check(self.console(at).command(command))
    }

    /// Whether `magma fsck` finds the tree sound; what it says if not.
    pub fn fsck(&self) -> Result<(), String> {
        let mut fsck = programs().command(Program::Tools);
        let fsck = fsck.args(["fsck", &self.addr(0).to_string()]);
        let checked = fsck.env("MAGMA_KEY", KEY).output();
        let checked = checked.map_err(|error| error.to_string())?;
        match checked.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&checked.stdout).into_owned()),
        }
    }

    /// Shuts the whole network down: `shutdown` on the first volcano's console. Returns what
    /// the console said.
    #[track_caller]
    pub fn shutdown(&mut self) -> String {
        check(self.network.shutdown(0))
    }

    /// Starts all volcanos again and waits until all serve.
    #[track_caller]
    pub fn restart(&mut self) {
        check(self.network.restart());
    }

    /// Kills a volcano, as a crash would.
    pub fn kill(&mut self, at: usize) {
        self.volcano(at).kill();
    }

    /// Starts a volcano again that was killed or has ended, and waits until it serves.
    #[track_caller]
    pub fn start_again(&mut self, at: usize) {
        check(self.network.start_again(at));
        check(self.volcano(at).wait_ready());
    }

    /// Starts a volcano again that has ended. It serves when those that it waits for are there.
    #[track_caller]
    pub fn start_without_waiting(&mut self, at: usize) {
        check(self.network.start_again(at));
    }

    /// Starts a volcano that has ended without its directory: it joins after another as a new one.
    #[track_caller]
    pub fn join_anew(&mut self, at: usize, contact: usize) {
        check(self.network.join_anew(at, contact));
    }

    /// Starts one that has ended as an empty one, in the network that has gone on without it.
    #[track_caller]
    pub fn rejoin(&mut self, at: usize) {
        check(self.network.rejoin(at));
    }

    /// Calls `done` until it gives a value; panics with what was waited for after the limit.
    #[track_caller]
    pub fn eventually<T>(what: &str, done: impl FnMut() -> Option<T>) -> T {
        wait_for(READY_LIMIT, done).unwrap_or_else(|| panic!("not within {READY_LIMIT:?}: {what}"))
    }

    fn logs(&mut self) -> String {
        let mut text = String::new();
        for at in 0..self.len() {
            let process = self.network.volcano(at).process();
            let how = match process.ended() {
                None => "runs".to_owned(),
                Some(status) => format!("has ended: {status}"),
            };
            let _ = write!(text, "\n--- {} {how}", process.name());
            let _ = writeln!(text, "{}", process.log_tail());
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A mount that a test has leaked: removing the directory must not reach into it.
        for mount in table::read() {
            if mount.is_magma() && mount.target.starts_with(self.dir()) {
                let _ = unmount(&mount.target);
            }
        }
        if !std::thread::panicking() {
            return;
        }
        // The whole logs are worth keeping; stores and mounts end as always.
        let logs = self.logs();
        if let Some(dir) = self.dir.take() {
            let dir = dir.keep();
            let _ = writeln!(
                std::io::stderr().lock(),
                "{logs}\nthe cluster is kept in {}",
                dir.display()
            );
        }
    }
}

#[track_caller]
fn check<T>(result: Result<T, LaunchError>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}
