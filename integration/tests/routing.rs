//! Who holds what changes while mounts work: a client that does not know yet is proxied, and
//! joins disturb nobody.

// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use integration::Cluster;
use integration::mounted::can_mount;
use integration::stores::verify;

/// Files that a worker writes in turn.
const FILES: u64 = 40;

/// Writes, reads, renames and removes until it is told to end, and ends at the first error.
struct Worker {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<Result<(), String>>,
}

impl Worker {
    fn start(dir: PathBuf) -> Worker {
        let stop = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new(AtomicU64::new(0));
        let thread = {
            let (stop, rounds) = (stop.clone(), rounds.clone());
            std::thread::spawn(move || {
                fs::create_dir(&dir).map_err(|error| error.to_string())?;
                while !stop.load(Ordering::Relaxed) {
                    let round = rounds.load(Ordering::Relaxed);
                    one_round(&dir, round).map_err(|error| format!("round {round}: {error}"))?;
                    rounds.store(round + 1, Ordering::Relaxed);
                }
                Ok(())
            })
        };
        Worker {
            stop,
            rounds,
            thread,
        }
    }

    /// Waits until it has done some more.
    #[track_caller]
    fn go_on(&self, more: u64) {
        let goal = self.rounds.load(Ordering::Relaxed) + more;
        Cluster::eventually("the workload goes on", || {
            let done = self.thread.is_finished() || self.rounds.load(Ordering::Relaxed) >= goal;
            done.then_some(())
        });
    }

    /// Ends it. Returns how many rounds it has done.
    #[track_caller]
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let result = self.thread.join().unwrap();
        result.unwrap_or_else(|error| panic!("the workload: {error}"));
        self.rounds.load(Ordering::Relaxed)
    }
}

fn content(round: u64) -> Vec<u8> {
    let size = if round.is_multiple_of(8) {
        300_000
    } else {
        2_000
    };
    format!("round {round};")
        .into_bytes()
        .into_iter()
        .cycle()
        .take(size)
        .collect()
}

fn one_round(dir: &std::path::Path, round: u64) -> Result<(), String> {
    let path = dir.join(format!("file{}", round % FILES));
    let named = |error: std::io::Error| format!("{}: {error}", path.display());
    if round >= FILES {
        let found = fs::read(&path).map_err(named)?;
        if found != content(round - FILES) {
            return Err(format!("{} holds something else", path.display()));
        }
    }
    match round % 3 {
        // In place, through a new name, and a new file under the old name.
        0 => fs::write(&path, content(round)).map_err(named)?,
        1 => {
            let new = dir.join("new");
            fs::write(&new, content(round)).map_err(named)?;
            fs::rename(&new, &path).map_err(named)?;
        }
        _ => {
            if round >= FILES {
                fs::remove_file(&path).map_err(named)?;
            }
            fs::write(&path, content(round)).map_err(named)?;
        }
    }
    Ok(())
}

#[test]
fn joins_disturb_no_workload() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(1);
    let mount = cluster.mount(0);
    let workers = [0, 1].map(|n| Worker::start(mount.join(format!("work{n}"))));
    let go_on = |more| {
        workers
            .iter()
            .for_each(|worker: &Worker| worker.go_on(more))
    };
    go_on(FILES * 2);
    cluster.join();
    go_on(FILES);
    cluster.join();
    go_on(FILES);
    // Between the first and the second of the ring.
    cluster.join_after(0);
    go_on(FILES * 2);
    let other = cluster.mount(3);
    let rounds = workers.map(Worker::end);
    for (n, rounds) in rounds.into_iter().enumerate() {
        for round in rounds.saturating_sub(FILES)..rounds {
            let file = other.join(format!("work{n}/file{}", round % FILES));
            assert!(
                fs::read(&file).unwrap() == content(round),
                "{}",
                file.display()
            );
        }
    }
    mount.end();
    other.end();
    wait_in_sync(&mut cluster);
    let lava = cluster.ask(0, "lava");
    let places = ["wallace", "volcano4", "gromit", "penguin"].map(|nick| lava.find(nick));
    assert!(places.is_sorted() && places[0].is_some(), "{lava}");
    cluster.shutdown();
    verify(&cluster.stores());
}

/// Waits until every slice has its copy.
#[track_caller]
fn wait_in_sync(cluster: &mut Cluster) {
    Cluster::eventually("all copies are in sync", || {
        let status = cluster.ask(0, "status");
        let mut slices = status.lines().filter(|line| line.starts_with("slice "));
        slices.all(|line| line.ends_with("in sync")).then_some(())
    });
}

/// The mount has learned the lava of one volcano when a second joins and takes keys over:
/// what it asks the first for then is proxied, and it hears that the topology has changed.
#[test]
fn an_outdated_client_is_proxied() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(1);
    let mount = cluster.mount(0);
    fs::create_dir(mount.join("dir")).unwrap();
    for n in 0..200 {
        fs::write(mount.join(format!("dir/before{n}")), format!("{n}")).unwrap();
    }
    cluster.join();
    cluster.join();
    for n in 0..200 {
        fs::write(mount.join(format!("dir/after{n}")), format!("{n}")).unwrap();
        for when in ["before", "after"] {
            let path = mount.join(format!("dir/{when}{n}"));
            assert_eq!(fs::read_to_string(path).unwrap(), format!("{n}"));
        }
    }
    mount.end();
    wait_in_sync(&mut cluster);
    cluster.shutdown();
    verify(&cluster.stores());
}
