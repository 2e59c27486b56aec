//! The volcanos and mounts of a run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use magma_cli::launch::console::ConsoleClient;
use magma_cli::launch::mounted::{MountProcess, MountSite};
use magma_cli::program::Program;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;

use super::space::Space;
use super::wire::{Weather, Wire};
use crate::volcano_process::{How, Site, VolcanoProcess, programs};

const KEY: &str = "m4gm4s3cr3t-of-the-fault-bench";
/// Size of each volcano's disk. Most of it is a hole.
const DISK: u64 = 1 << 30;
/// What a full disk has left.
const LEFT: u64 = 4 << 20;

/// A network at work. Dropped, everything ends; the directory with the logs stays where something went
/// wrong.
pub struct Field {
    // In the order in which they must go: mounts before volcanos, those before their disks and spaces.
    mounts: Vec<MountProcess>,
    volcanos: Vec<VolcanoProcess>,
    disks: Vec<Disk>,
    /// The volcanos', then the clients'.
    spaces: Vec<Space>,
    wire: Wire,
    dir: tempfile::TempDir,
}

/// A small disk of one volcano.
struct Disk(PathBuf);

impl Disk {
    fn make(image: &Path, at: PathBuf) -> Result<Disk, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", image.display());
        let file = fs::File::create(image).map_err(failed)?;
        file.set_len(DISK).map_err(failed)?;
        fs::create_dir_all(&at).map_err(failed)?;
        let image = image.to_string_lossy().into_owned();
        command("mkfs.ext4", &["-q", "-F", "-m", "0", &image])?;
        let target = at.to_string_lossy().into_owned();
        command("mount", &["-o", "loop", &image, &target])?;
        Ok(Disk(at))
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    fn fill(&self) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", self.ballast().display());
        let free = nix::sys::statvfs::statvfs(&self.0).map_err(|e| failed(e.into()))?;
        let free = free.blocks_available() * free.fragment_size();
        let file = fs::File::create(self.ballast()).map_err(failed)?;
        let len = free.saturating_sub(LEFT) as libc::off_t;
        let mode = nix::fcntl::FallocateFlags::empty();
        // Somebody may be faster: then it is as full.
        let _ = nix::fcntl::fallocate(&file, mode, 0, len);
        Ok(())
    }

    fn empty(&self) {
        let _ = fs::remove_file(self.ballast());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

fn command(name: &str, arguments: &[&str]) -> Result<String, String> {
    let ran = Command::new(name).args(arguments).output();
    let ran = ran.map_err(|error| format!("{name}: {error}"))?;
    match ran.status.success() {
        true => Ok(String::from_utf8_lossy(&ran.stdout).into_owned()),
        false => Err(format!(
            "{name} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&ran.stderr)
        )),
    }
}

impl Field {
    /// Starts volcanos, and a mount for each client.
    pub fn start(volcanos: usize, clients: usize, seed: u64) -> Result<Field, String> {
        let (wire, spaces) = Wire::between(volcanos + clients, seed)?;
        let dir = tempfile::Builder::new()
            .prefix("magma-faults-")
            .tempdir()
            .map_err(|error| format!("a directory: {error}"))?;
        let mut field = Field {
            mounts: Vec::new(),
            volcanos: Vec::new(),
            disks: Vec::new(),
            spaces,
            wire,
            dir,
        };
        for at in 0..volcanos {
            field.add_volcano(at)?;
        }
        field.becomes_whole(Duration::from_secs(60))?;
        for client in 0..clients {
            field.add_mount(client)?;
        }
        Ok(field)
    }

    fn add_volcano(&mut self, at: usize) -> Result<(), String> {
        let nick = format!("v{at}");
        let store = self.dir.path().join(&nick);
        let image = self.dir.path().join(format!("{nick}.img"));
        self.disks.push(Disk::make(&image, store.clone())?);
        let site = Site {
            nick,
            addr: self.spaces[at].addr,
            dir: store.join("magma"),
            log: self.dir.path().join(format!("v{at}.log")),
            key: KEY.into(),
            debug: std::env::var("MAGMA_VDEBUG").unwrap_or_default(),
            environment: vec![("MAGMA_FAULTS".into(), "1".into())],
            arguments: vec!["--evict-after".into(), "0".into()],
        };
        let how = match at {
            0 => How::Bootstrap { redundancy: 1 },
            _ => How::Join(self.spaces[at - 1].addr),
        };
        let mut volcano = self.start_volcano(at, site, how)?;
        volcano.wait_ready().map_err(|error| error.to_string())?;
        self.volcanos.push(volcano);
        Ok(())
    }

    fn start_volcano(&self, at: usize, site: Site, how: How) -> Result<VolcanoProcess, String> {
        let programs = programs();
        let started = self.spaces[at].run(move || VolcanoProcess::start(&programs, &site, &how))?;
        started.map_err(|error| error.to_string())
    }

    fn add_mount(&mut self, client: usize) -> Result<(), String> {
        let count = self.volcanos.len();
        let hosts = (0..count).map(|step| self.spaces[(client + step) % count].addr);
        let site = MountSite {
            hosts: hosts.collect(),
            target: self.dir.path().join(format!("mnt{client}")),
            log: self.dir.path().join(format!("mnt{client}.log")),
            key: KEY.into(),
            debug: std::env::var("MAGMA_DEBUG").unwrap_or_default(),
            arguments: Vec::new(),
        };
        let programs = programs();
        let started =
            self.spaces[count + client].run(move || MountProcess::start(&programs, &site));
        self.mounts
            .push(started?.map_err(|error| error.to_string())?);
        Ok(())
    }

    /// How many volcanos there are.
    pub fn volcanos(&self) -> usize {
        self.volcanos.len()
    }

    /// How many clients there are.
    pub fn clients(&self) -> usize {
        self.spaces.len() - self.volcanos.len()
    }

    /// The mount point of a client.
    pub fn mount(&self, client: usize) -> &Path {
        self.mounts[client].path()
    }

    /// Kills a volcano.
    pub fn kill(&mut self, at: usize) {
        self.volcanos[at].kill();
    }

    /// Starts one that was killed.
    pub fn start_again(&mut self, at: usize) -> Result<(), String> {
        let site = self.volcanos[at].site().clone();
        self.volcanos[at] = self.start_volcano(at, site, How::Restart)?;
        Ok(())
    }

    /// Sends a signal to a volcano.
    pub fn signal(&mut self, at: usize, signal: Signal) {
        self.volcanos[at].process().signal(signal);
    }

    /// Fills the disk of a volcano.
    pub fn fill_disk(&self, at: usize) -> Result<(), String> {
        self.disks[at].fill()
    }

    /// Makes room on it again.
    pub fn empty_disk(&self, at: usize) {
        self.disks[at].empty();
    }

    /// Changes what the wire does.
    pub fn weather(&self, change: impl FnOnce(&mut Weather)) {
        let mut weather = self.wire.weather();
        change(&mut weather);
        self.wire.set(weather);
    }

    /// What a volcano's console says to a command.
    pub fn ask(&self, at: usize, line: &str) -> Result<String, String> {
        let (addr, line) = (self.volcanos[at].console_addr(), line.to_owned());
        let said = self.spaces[at].run(move || {
            let (mut console, _) = ConsoleClient::connect(addr)?;
            console.command(&line)
        })?;
        said.map_err(|error| error.to_string())
    }

    /// Waits until everybody is there, every slice is at home, and all copies are in sync.
    pub fn becomes_whole(&mut self, limit: Duration) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let (whole, said) = self.is_whole()?;
            if whole {
                return Ok(());
            }
            if began.elapsed() > limit {
                return Err(said);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn is_whole(&mut self) -> Result<(bool, String), String> {
        let mut all = String::new();
        let mut whole = true;
        for at in 0..self.volcanos.len() {
            if let Some(ended) = self.volcanos[at].process().ended() {
                let tail = self.volcanos[at].process().log_tail();
                return Err(format!("v{at} has ended: {ended}{tail}"));
            }
            let said = self.ask(at, "status").unwrap_or_else(|why| why);
            let slices: Vec<&str> = said.lines().filter(|l| l.starts_with("slice ")).collect();
            let well = |line: &&str| line.contains("in sync") && !line.contains("being filled");
            let home = |line: &&str| !line.contains("stands in") && !line.contains("down");
            whole &= said.contains("phase: ready")
                && said.contains("awaited: nobody")
                && (slices.len() >= self.volcanos.len() || self.volcanos.len() > slices.len() + 9)
                && slices.iter().all(|line| well(line) && home(line));
            all += &format!("v{at}:\n{said}");
        }
        Ok((whole, all))
    }

    /// Proves the network.
    pub fn fsck(&self) -> Result<(), String> {
        let (addr, programs) = (self.spaces[0].addr, programs());
        let ran = self.spaces[0].run(move || {
            let mut fsck = programs.command(Program::Tools);
            let fsck = fsck.args(["fsck", &addr.to_string()]);
            fsck.env("MAGMA_KEY", KEY).output()
        })?;
        let ran = ran.map_err(|error| format!("magma fsck: {error}"))?;
        match ran.status.success() {
            true => Ok(()),
            false => Err(format!(
                "magma fsck: {}{}",
                String::from_utf8_lossy(&ran.stdout),
                String::from_utf8_lossy(&ran.stderr)
            )),
        }
    }

    /// Where the logs are, kept after this.
    pub fn keep(&mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir.path().to_owned()
    }

    /// Ends in order. Where somebody wants to read along (`MAGMA_DEBUG`), the logs are kept.
    pub fn end(mut self) -> Result<(), String> {
        if std::env::var_os("MAGMA_DEBUG").is_some() {
            self.keep();
        }
        for mount in &mut self.mounts {
            mount.end().map_err(|error| error.to_string())?;
        }
        for volcano in &mut self.volcanos {
            volcano.terminate().map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}
