//! How fast a mount of three volcanos on this machine is, against a plain directory of the same
//! disk in the same run. Absolute figures mean little on a shared machine; the ratios do.

#![allow(clippy::print_stdout, reason = "a program for a person at a terminal")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Parser;
use integration::Cluster;

/// Creates, stats, sequential transfers and small reads on a mount and on a plain directory.
#[derive(Parser)]
struct Args {
    /// Files of 4 KiB
    #[arg(long, default_value_t = 2_000)]
    files: u32,
    /// Size of the big file in MiB
    #[arg(long, default_value_t = 1_024)]
    mib: u32,
    /// Reads of 4 KiB
    #[arg(long, default_value_t = 2_000)]
    reads: u32,
    /// The mount and the plain directory take turns so often
    #[arg(long, default_value_t = 4)]
    rounds: u32,
}

/// How much was done, how long it took, and the CPU time of all of Magma's processes meanwhile.
#[derive(Default)]
struct Measured {
    amount: f64,
    wall: Duration,
    cpu: Duration,
}

impl Measured {
    fn rate(&self) -> f64 {
        self.amount / self.wall.as_secs_f64()
    }
}

const MIB: usize = 1 << 20;

fn main() -> io::Result<()> {
    let args = Args::parse();
    let local = tempfile::tempdir()?;
    let mut bench = Bench {
        cluster: Cluster::start(3),
        rounds: args.rounds.max(1),
    };
    println!(
        "{:<24}{:>12}{:>12}{:>8}{:>16}",
        "", "mount", "local", "ratio", "CPU/operation"
    );
    let (local, files, mib) = (local.path(), args.files, args.mib);
    bench.warm("creates of 4 KiB /s", local, files, |place| {
        fs::create_dir(place.dir.join(place.name("small")))?;
        create_files(place, files / place.rounds)
    })?;
    bench.warm("sequential write MiB/s", local, mib, |place| {
        write_big(place, mib / place.rounds)
    })?;
    let stat = |place: &Place<'_>| stat_files(place, files / place.rounds);
    let read = |place: &Place<'_>| read_files(place, files / place.rounds);
    bench.cold("stats /s", local, files, stat)?;
    // Warm: the same once more, and opened and read for the second time.
    bench.again("warm stats /s", local, files, stat)?;
    bench.again("warm opens and reads /s", local, files, read)?;
    bench.cold("sequential read MiB/s", local, mib, read_big)?;
    let reads = args.reads;
    bench.cold("reads of 4 KiB /s", local, reads, |place| {
        read_small(place, mib / place.rounds, reads / place.rounds)
    })
}

/// Where a round works: the files of each round are its own.
struct Place<'a> {
    dir: &'a Path,
    round: u32,
    rounds: u32,
}

impl Place<'_> {
    fn name(&self, what: &str) -> String {
        format!("{what}-{}", self.round)
    }
}

/// The mount and the plain directory take turns, so that whatever else the machine does meets both.
struct Bench {
    cluster: Cluster,
    rounds: u32,
}

impl Bench {
    /// One mount for all rounds.
    fn warm(
        &mut self,
        what: &str,
        local: &Path,
        amount: u32,
        work: impl Fn(&Place<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mount = self.cluster.mount(0);
        let mut both = (Measured::default(), Measured::default());
        for round in 0..self.rounds {
            for (dir, measured) in [(mount.path(), &mut both.0), (local, &mut both.1)] {
                sync();
                self.measure(measured, dir, round, amount, &work)?;
            }
        }
        mount.end();
        report(what, &both);
        Ok(())
    }

    /// Cold: nothing in any page cache, and a mount that knows nothing.
    fn cold(
        &mut self,
        what: &str,
        local: &Path,
        amount: u32,
        work: impl Fn(&Place<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut both = (Measured::default(), Measured::default());
        for round in 0..self.rounds {
            drop_caches()?;
            let mount = self.cluster.mount(1);
            self.measure(&mut both.0, mount.path(), round, amount, &work)?;
            self.measure(&mut both.1, local, round, amount, &work)?;
            mount.end();
        }
        report(what, &both);
        Ok(())
    }

    /// What was done just before is done again, and only that is measured.
    fn again(
        &mut self,
        what: &str,
        local: &Path,
        amount: u32,
        work: impl Fn(&Place<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mount = self.cluster.mount(1);
        let mut both = (Measured::default(), Measured::default());
        for round in 0..self.rounds {
            for (dir, measured) in [(mount.path(), &mut both.0), (local, &mut both.1)] {
                let rounds = self.rounds;
                work(&Place { dir, round, rounds })?;
                self.measure(measured, dir, round, amount, &work)?;
            }
        }
        mount.end();
        report(what, &both);
        Ok(())
    }

    fn measure(
        &self,
        measured: &mut Measured,
        dir: &Path,
        round: u32,
        amount: u32,
        work: impl Fn(&Place<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let rounds = self.rounds;
        let (cpu, begin) = (cpu_of_magma(), Instant::now());
        work(&Place { dir, round, rounds })?;
        measured.wall += begin.elapsed();
        measured.cpu += cpu_of_magma().saturating_sub(cpu);
        measured.amount += f64::from(amount / rounds);
        Ok(())
    }
}

fn report(what: &str, (mount, local): &(Measured, Measured)) {
    let each = mount.cpu.as_secs_f64() / mount.amount * 1e6;
    println!(
        "{what:<24}{:>12.0}{:>12.0}{:>8.3}{each:>13.0} µs",
        mount.rate(),
        local.rate(),
        mount.rate() / local.rate()
    );
}

fn create_files(place: &Place<'_>, files: u32) -> io::Result<()> {
    let dir = place.dir.join(place.name("small"));
    let content = [7; 4096];
    for file in 0..files {
        File::create_new(dir.join(file.to_string()))?.write_all(&content)?;
    }
    Ok(())
}

fn stat_files(place: &Place<'_>, files: u32) -> io::Result<()> {
    let dir = place.dir.join(place.name("small"));
    for file in 0..files {
        let length = fs::symlink_metadata(dir.join(file.to_string()))?.len();
        assert_eq!(length, 4096);
    }
    Ok(())
}

fn read_files(place: &Place<'_>, files: u32) -> io::Result<()> {
    let dir = place.dir.join(place.name("small"));
    let mut content = [0; 4096];
    for file in 0..files {
        File::open(dir.join(file.to_string()))?.read_exact(&mut content)?;
    }
    Ok(())
}

fn write_big(place: &Place<'_>, mib: u32) -> io::Result<()> {
    let mut file = File::create_new(place.dir.join(place.name("big")))?;
    let content = vec![9; MIB];
    for _ in 0..mib {
        file.write_all(&content)?;
    }
    file.sync_all()
}

fn read_big(place: &Place<'_>) -> io::Result<()> {
    let mut file = File::open(place.dir.join(place.name("big")))?;
    let mut buffer = vec![0; MIB];
    while file.read(&mut buffer)? > 0 {}
    Ok(())
}

/// Reads here and there: a stride that is prime to the number of blocks meets them all.
fn read_small(place: &Place<'_>, mib: u32, reads: u32) -> io::Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(place.dir.join(place.name("big")))?;
    let blocks = u64::from(mib.max(1)) * 256;
    let mut buffer = [0; 4096];
    for read in 0..u64::from(reads) {
        file.read_exact_at(&mut buffer, read * 7_919 % blocks * 4096)?;
    }
    Ok(())
}

fn sync() {
    // SAFETY: sync(2) takes nothing and cannot fail.
    unsafe { libc::sync() };
}

fn drop_caches() -> io::Result<()> {
    sync();
    fs::write("/proc/sys/vm/drop_caches", "3")
}

/// CPU time of every volcano and mount of this machine, in steps of the kernel's clock.
fn cpu_of_magma() -> Duration {
    // SAFETY: sysconf(3) only answers.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    let mut ticks = 0;
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(stat) = fs::read_to_string(process.path().join("stat")) else {
            continue;
        };
        // The name is in parentheses and may hold anything; what follows it may not.
        let Some((name, rest)) = stat.rsplit_once(')') else {
            continue;
        };
        if name.contains("(mag") || name.contains("(mount-mag") {
            let fields = rest.split_ascii_whitespace();
            ticks += fields
                .skip(11)
                .take(2)
                .filter_map(|t| t.parse::<u64>().ok())
                .sum::<u64>();
        }
    }
    Duration::from_millis(ticks * 1000 / per_second)
}
