//! Two mounts at the same names without end: every change takes leases away from the other mount, whose
//! own changes hold the kernel's locks meanwhile.

#![allow(clippy::print_stdout, reason = "a test prints what it has measured")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use integration::{Cluster, Mount};
use magma_core::limits::{LEASE_GRACE_MS, LEASE_MS};
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Seconds of work, 5 without it.
const VARIABLE: &str = "MAGMA_RECALL_SECONDS";
/// At each mount.
const WORKERS: u64 = 8;
/// No call may take longer, on a machine that does nothing else: where the time of work is given.
const STALL: Duration = Duration::from_secs(1);
/// And on one that does.
const STALL_BUSY: Duration = Duration::from_secs(3);
/// Names of a worker at a time.
const NAMES: usize = 12;
const DIRS: [&str; 2] = ["a", "b"];

/// Where the names of a worker must be, and how long its slowest call took.
struct Worked {
    names: BTreeMap<String, usize>,
    calls: u64,
    slowest: (Duration, String),
}

struct Worker {
    root: PathBuf,
    /// The first of its directories: the other mount has them the other way round.
    first: usize,
    me: String,
    rng: StdRng,
    worked: Worked,
}

impl Worker {
    fn path(&self, dir: usize, name: &str) -> PathBuf {
        self.root.join(DIRS[dir]).join(name)
    }

    fn work(mut self, how_long: Duration) -> Worked {
        let begin = Instant::now();
        let mut number = 0;
        while begin.elapsed() < how_long {
            let call = Instant::now();
            let what = self.step(&mut number);
            self.worked.calls += 1;
            if call.elapsed() > self.worked.slowest.0 {
                self.worked.slowest = (call.elapsed(), what);
            }
        }
        self.worked
    }

    fn some_name(&mut self) -> Option<(String, usize)> {
        let count = self.worked.names.len().checked_sub(1)?;
        let at = self.rng.random_range(0..=count);
        let (name, dir) = self.worked.names.iter().nth(at)?;
        Some((name.clone(), *dir))
    }

    /// One call, and what it was.
    fn step(&mut self, number: &mut u64) -> String {
        *number += 1;
        let new = format!("{}-{number}", self.me);
        let into = if self.rng.random_bool(0.7) {
            self.first
        } else {
            1 - self.first
        };
        let (what, done) = match (self.rng.random_range(0..10), self.some_name()) {
            (3..6, Some((name, dir))) => {
                let done = fs::rename(self.path(dir, &name), self.path(into, &new));
                self.worked.names.remove(&name);
                self.worked.names.insert(new.clone(), into);
                (format!("rename {name} {new}"), done)
            }
            (6, Some((name, dir))) => {
                let done = fs::hard_link(self.path(dir, &name), self.path(into, &new));
                self.worked.names.insert(new.clone(), into);
                (format!("link {name} {new}"), done)
            }
            (7..9, Some((name, dir))) => {
                let done = fs::remove_file(self.path(dir, &name));
                self.worked.names.remove(&name);
                (format!("unlink {name}"), done)
            }
            (9, Some((name, dir))) => {
                // All fight for this one: whoever loses is told so, and nothing else.
                let done = fs::rename(self.path(dir, &name), self.path(into, "all"));
                self.worked.names.remove(&name);
                let done = done.and_then(|()| match fs::remove_file(self.path(into, "all")) {
                    Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                    _ => Ok(()),
                });
                (format!("rename {name} all"), done)
            }
            (_, Some((name, dir))) if self.worked.names.len() >= NAMES => (
                format!("stat {name}"),
                fs::metadata(self.path(dir, &name)).map(drop),
            ),
            _ => {
                let done = File::create_new(self.path(into, &new)).map(drop);
                self.worked.names.insert(new.clone(), into);
                (format!("create {new}"), done)
            }
        };
        done.unwrap_or_else(|error| panic!("{what} in {:?}: {error}", DIRS[into]));
        what
    }
}

fn names(mount: &Mount, dir: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(mount.join(dir)).expect("a directory");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    entries
        .map(|entry| name(entry).to_string_lossy().into_owned())
        .collect()
}

#[test]
fn two_mounts_that_fight_for_names_lose_none_and_never_stall() {
    let Some((cluster, one, two)) = Cluster::with_two_mounts() else {
        return;
    };
    for dir in DIRS {
        fs::create_dir(one.join(dir)).unwrap();
    }
    let given = std::env::var(VARIABLE).ok();
    let stall = given.as_ref().map_or(STALL_BUSY, |_| STALL);
    let seconds = given.map_or(5, |text| text.parse().unwrap());
    let how_long = Duration::from_secs(seconds);
    let start = |mount: &Mount, first: usize, at: u64| {
        let worker = Worker {
            root: mount.path().to_owned(),
            first,
            me: format!("m{first}w{at}"),
            rng: StdRng::seed_from_u64(at * 2 + first as u64),
            worked: Worked {
                names: BTreeMap::new(),
                calls: 0,
                slowest: Default::default(),
            },
        };
        std::thread::spawn(move || worker.work(how_long))
    };
    let workers: Vec<_> = (0..WORKERS)
        .flat_map(|at| [start(&one, 0, at), start(&two, 1, at)])
        .collect();
    let mut wanted = [BTreeSet::new(), BTreeSet::new()];
    let (mut calls, mut slowest) = (0, (Duration::ZERO, String::new()));
    for worker in workers {
        let worked = worker.join().unwrap();
        calls += worked.calls;
        slowest = slowest.max(worked.slowest);
        for (name, dir) in worked.names {
            wanted[dir].insert(name);
        }
    }
    println!(
        "{calls} calls in {seconds} s, the slowest took {:?}: {}",
        slowest.0, slowest.1
    );
    for mount in [&one, &two] {
        for (dir, wanted) in DIRS.iter().zip(&wanted) {
            assert_eq!(
                names(mount, dir),
                *wanted,
                "{dir} in {}",
                mount.path().display()
            );
        }
    }
    assert_eq!(cluster.fsck(), Ok(()));
    assert!(slowest.0 < stall, "{slowest:?}");
}

/// What it remembers is worth nothing when it goes on.
#[test]
fn a_mount_that_was_stopped_shows_nothing_old() {
    let Some((_cluster, mut one, two)) = Cluster::with_two_mounts() else {
        return;
    };
    let look = |mount: &Mount| {
        let text = fs::read_to_string(mount.join("d/file")).ok();
        let size = fs::metadata(mount.join("d/file"))
            .ok()
            .map(|file| file.len());
        (
            text,
            size,
            names(mount, "d"),
            mount.join("d/other").exists(),
        )
    };
    fs::create_dir(two.join("d")).unwrap();
    fs::write(two.join("d/file"), "old").unwrap();
    look(&one);
    one.process().process().signal(Signal::SIGSTOP);
    let begin = Instant::now();
    fs::write(two.join("d/file"), "newer").unwrap();
    let waited = begin.elapsed();
    fs::rename(two.join("d/file"), two.join("d/other")).unwrap();
    fs::write(two.join("d/file"), "another").unwrap();
    let now = look(&two);
    assert_eq!(now.0.as_deref(), Some("another"));
    one.process().process().signal(Signal::SIGCONT);
    assert_eq!(look(&one), now);
    // Nobody waits for it for longer than for a dead one.
    let most = Duration::from_millis(LEASE_MS + LEASE_GRACE_MS) + STALL_BUSY;
    assert!(waited < most, "{waited:?}");
    assert!(Path::new(&one.join("d/other")).exists());
}
