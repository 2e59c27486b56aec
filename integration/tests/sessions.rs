//! A mount that dies, or is cut off for too long, loses its session: what it had locked and open is
//! free for others, and it hears of it.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use integration::Cluster;
use integration::locker::Locker;
use magma_core::limits::{SESSION_MS, SESSION_RENEW_MS};
use nix::sys::signal::Signal;

/// A session ends this long after its mount fell silent at the latest, on a busy machine too.
const ENDS: Duration = Duration::from_millis(SESSION_MS + SESSION_RENEW_MS + 8_000);

const IO_ERROR: &str = "Input/output error";

/// Keys that all volcanos own together.
fn keys(cluster: &mut Cluster) -> u64 {
    let said = cluster.ask(0, "lava");
    let count = |line: &str| line.strip_prefix("keys: ")?.trim().parse::<u64>().ok();
    said.lines().filter_map(|line| count(line.trim())).sum()
}

#[test]
fn what_a_killed_mount_held_is_free_soon() {
    let Some((mut cluster, one, two)) = Cluster::with_two_mounts() else {
        return;
    };
    let mut dies = Locker::new(&one.join("file"));
    dies.ok("write f text");
    dies.ok("lock f w 0 0");
    // Open there, and removed here: it lives until that mount is known to be dead.
    fs::write(two.join("unlinked"), "x").unwrap();
    let unlinked = File::open(one.join("unlinked")).unwrap();
    fs::remove_file(two.join("unlinked")).unwrap();
    // The root, the file, and this one.
    Cluster::eventually("the volcanos have counted", || {
        (keys(&mut cluster) == 3).then_some(())
    });

    let mut waits = Locker::new(&two.join("file"));
    waits.waits("lock f w 0 0");
    let begin = Instant::now();
    one.kill();
    assert_eq!(waits.hear(ENDS).as_deref(), Some("ok"));
    assert!(begin.elapsed() > Duration::from_millis(SESSION_MS - SESSION_RENEW_MS - 500));
    assert_eq!(waits.ask("read f"), "text");
    drop(unlinked);
    Cluster::eventually("the unlinked file is gone", || {
        (keys(&mut cluster) == 2).then_some(())
    });
}

#[test]
fn a_mount_that_was_stopped_goes_on_and_hears_of_lost_locks() {
    let Some((_cluster, mut one, two)) = Cluster::with_two_mounts() else {
        return;
    };
    let mut locked = Locker::new(&one.join("locked"));
    locked.ok("write f first");
    locked.ok("lock f w 0 0");
    fs::write(one.join("open"), "before").unwrap();
    let mut open = File::options()
        .read(true)
        .write(true)
        .open(one.join("open"))
        .unwrap();
    let inode = fs::metadata(one.join("open")).unwrap().ino();

    let mut waits = Locker::new(&two.join("locked"));
    waits.waits("lock f w 0 0");
    one.process().process().signal(Signal::SIGSTOP);
    assert_eq!(waits.hear(ENDS).as_deref(), Some("ok"));
    waits.ok("write f other");
    fs::write(two.join("open"), "after").unwrap();
    one.process().process().signal(Signal::SIGCONT);

    // Nothing of the past is shown, and what needed no lock goes on.
    assert_eq!(fs::read_to_string(one.join("locked")).unwrap(), "other");
    let mut text = String::new();
    open.seek(SeekFrom::Start(0)).unwrap();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "after");
    assert_eq!(open.metadata().unwrap().ino(), inode);
    // Open for the new session: removed, it stays while it is.
    fs::remove_file(two.join("open")).unwrap();
    open.seek(SeekFrom::Start(0)).unwrap();
    text.clear();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "after");
    // Who held the lock is told so, until it has closed the file.
    assert_eq!(locked.ask("write f mine"), IO_ERROR);
    assert_eq!(locked.ask("lock f w 0 0"), IO_ERROR);
    locked.ok("close f");
    locked.ok(&format!("open f {}", one.join("locked").display()));
    assert_eq!(locked.ask("read f"), "other");
    waits.ok("lock f u 0 0");
    locked.ok("lock f w 0 0");
    locked.ok("write f mine!");
    assert_eq!(waits.ask("read f"), "mine!");
}

#[test]
fn sessions_outlive_the_restart_of_the_network_and_of_the_coordinator() {
    let Some((mut cluster, one, two)) = Cluster::with_two_mounts() else {
        return;
    };
    let mut holds = Locker::new(&one.join("file"));
    holds.ok("lock f w 0 0");
    for at in 0..cluster.len() {
        cluster.kill(at);
        cluster.start_again(at);
    }
    // Longer than a session that nobody renews.
    let over = Instant::now() + Duration::from_millis(SESSION_MS + 2 * SESSION_RENEW_MS);
    let mut other = Locker::new(&two.join("file"));
    while Instant::now() < over {
        assert_eq!(other.ask("try f w 0 0"), "Resource temporarily unavailable");
        std::thread::sleep(Duration::from_millis(500));
    }
    holds.ok("write f mine");
    holds.ok("lock f u 0 0");
    other.ok("lock f w 0 0");
}
