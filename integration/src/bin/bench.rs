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
}

/// One measurement: how much, how long, and the CPU time of all of Magma's processes.
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
    let local_dir = tempfile::tempdir()?;
    let mut cluster = Cluster::start(3);

    println!(
        "{:<24}{:>12}{:>12}{:>8}{:>16}",
        "", "mount", "local", "ratio", "CPU/operation"
    );
    let mount = cluster.mount(0);
    let create = |dir: &Path| measure(args.files, || create_files(dir, args.files));
    report(
        "creates of 4 KiB /s",
        &create(mount.path())?,
        &create(local_dir.path())?,
    );
    let write = |dir: &Path| measure(args.mib, || write_big(dir, args.mib));
    report(
        "sequential write MiB/s",
        &write(mount.path())?,
        &write(local_dir.path())?,
    );
    mount.end();

    // Cold: nothing in any page cache, and a mount that knows nothing.
    let cold = |cluster: &mut Cluster| drop_caches().map(|()| cluster.mount(1));
    let mount = cold(&mut cluster)?;
    let stat = |dir: &Path| measure(args.files, || stat_files(dir, args.files));
    report("stats /s", &stat(mount.path())?, &stat(local_dir.path())?);
    // Warm: the same once more, and opened and read for the second time.
    report(
        "warm stats /s",
        &stat(mount.path())?,
        &stat(local_dir.path())?,
    );
    let open = |dir: &Path| measure(args.files, || read_files(dir, args.files));
    for dir in [mount.path(), local_dir.path()] {
        open(dir)?;
    }
    report(
        "warm opens and reads /s",
        &open(mount.path())?,
        &open(local_dir.path())?,
    );
    mount.end();
    let mount = cold(&mut cluster)?;
    let read = |dir: &Path| measure(args.mib, || read_big(dir));
    report(
        "sequential read MiB/s",
        &read(mount.path())?,
        &read(local_dir.path())?,
    );
    mount.end();
    let mount = cold(&mut cluster)?;
    let small = |dir: &Path| measure(args.reads, || read_small(dir, args.mib, args.reads));
    report(
        "reads of 4 KiB /s",
        &small(mount.path())?,
        &small(local_dir.path())?,
    );
    mount.end();
    Ok(())
}

fn report(what: &str, mount: &Measured, local: &Measured) {
    let each = mount.cpu.as_secs_f64() / mount.amount * 1e6;
    println!(
        "{what:<24}{:>12.0}{:>12.0}{:>8.3}{each:>13.0} µs",
        mount.rate(),
        local.rate(),
        mount.rate() / local.rate()
    );
}

fn measure(amount: u32, work: impl FnOnce() -> io::Result<()>) -> io::Result<Measured> {
    let (cpu, begin) = (cpu_of_magma(), Instant::now());
    work()?;
    let wall = begin.elapsed();
    let cpu = cpu_of_magma().saturating_sub(cpu);
    Ok(Measured {
        amount: f64::from(amount),
        wall,
        cpu,
    })
}

fn create_files(dir: &Path, files: u32) -> io::Result<()> {
    fs::create_dir(dir.join("small"))?;
    let content = [7; 4096];
    for file in 0..files {
        let path = dir.join(format!("small/{file}"));
        File::create_new(path)?.write_all(&content)?;
    }
    Ok(())
}

fn stat_files(dir: &Path, files: u32) -> io::Result<()> {
    for file in 0..files {
        let length = fs::symlink_metadata(dir.join(format!("small/{file}")))?.len();
        assert_eq!(length, 4096);
    }
    Ok(())
}

fn read_files(dir: &Path, files: u32) -> io::Result<()> {
    let mut content = [0; 4096];
    for file in 0..files {
        let mut file = File::open(dir.join(format!("small/{file}")))?;
        file.read_exact(&mut content)?;
    }
    Ok(())
}

fn write_big(dir: &Path, mib: u32) -> io::Result<()> {
    let mut file = File::create_new(dir.join("big"))?;
    let content = vec![9; MIB];
    for _ in 0..mib {
        file.write_all(&content)?;
    }
    file.sync_all()
}

fn read_big(dir: &Path) -> io::Result<()> {
    let mut file = File::open(dir.join("big"))?;
    let mut buffer = vec![0; MIB];
    while file.read(&mut buffer)? > 0 {}
    Ok(())
}

/// Reads here and there: a stride that is prime to the number of blocks meets them all.
fn read_small(dir: &Path, mib: u32, reads: u32) -> io::Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(dir.join("big"))?;
    let blocks = u64::from(mib) * 256;
    let mut buffer = [0; 4096];
    for read in 0..u64::from(reads) {
        file.read_exact_at(&mut buffer, read * 7_919 % blocks * 4096)?;
    }
    Ok(())
}

fn drop_caches() -> io::Result<()> {
    // SAFETY: sync(2) takes nothing and cannot fail.
    unsafe { libc::sync() };
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
