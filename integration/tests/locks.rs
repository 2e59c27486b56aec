//! Locks of fcntl(2) and flock(2) bind the processes of all mounts.

// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use integration::Cluster;
use integration::Mount;
use integration::locker::{A_WHILE, LIMIT, Locker, SOON};

/// Two processes that write to one database as fast as they can.
const WRITER: &str = r#"
import sqlite3, sys
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
db = sqlite3.connect(path, timeout=120, isolation_level=None)
for number in range(count):
    db.execute("BEGIN IMMEDIATE")
    total, = db.execute("SELECT count(*) FROM t").fetchone()
    db.execute("INSERT INTO t VALUES (?, ?, ?)", (total, name, number))
    db.execute("COMMIT")
"#;

const BUSY: &str = "Resource temporarily unavailable";
const DEADLOCK: &str = "Resource deadlock avoided";

/// The numbers of the volcanos that own files of the root.
fn owners(cluster: &mut Cluster, names: &[String]) -> Vec<usize> {
    let (stores, mut console) = (cluster.stores(), cluster.console(0));
    let owner = |name: &String| {
        let inspected = console.command(&format!("inspect /{name}")).unwrap();
        let line = inspected.lines().find(|line| line.contains("owner: "));
        let line = line.unwrap_or_else(|| panic!("{inspected}"));
        let nick = line.split_whitespace().nth(1).unwrap();
        let nick = nick.trim_end_matches(',');
        let at = stores.iter().position(|store| store.ends_with(nick));
        at.unwrap_or_else(|| panic!("{line}"))
    };
    names.iter().map(owner).collect()
}

fn owner(cluster: &mut Cluster, name: &str) -> usize {
    owners(cluster, &[name.to_owned()])[0]
}

/// Files of which the first two have one owner, and the third another one.
fn files(cluster: &mut Cluster, mount: &Mount) -> [String; 3] {
    let mut seen: Vec<(String, usize)> = Vec::new();
    for number in 0..64 {
        let name = format!("file-{number}");
        fs::write(mount.join(&name), "x").unwrap();
        let at = owner(cluster, &name);
        seen.push((name, at));
        let of = |at: usize| seen.iter().filter(move |(_, owner)| *owner == at);
        let other = seen.iter().find(|(_, owner)| *owner != at);
        if let (Some(first), Some(other)) = (of(at).nth(1), other) {
            let (twin, _) = of(at).next().unwrap();
            return [twin.clone(), first.0.clone(), other.0.clone()];
        }
    }
    panic!("all files have one owner");
}

#[test]
fn a_lock_binds_the_processes_of_all_mounts() {
    let Some((_cluster, one, two)) = Cluster::with_two_mounts() else {
        return;
    };
    let mut here = Locker::new(&one.join("file"));
    let mut near = Locker::new(&one.join("file"));
    let mut there = Locker::new(&two.join("file"));
    // Ranges, and what others see of them.
    here.ok("try f w 10 10");
    for other in [&mut near, &mut there] {
        assert_eq!(other.ask("get f r 0 0"), "w 10 10");
        assert_eq!(other.ask("try f r 19 1"), BUSY);
        other.ok("try f r 0 10");
        assert_eq!(other.ask("get f r 0 10"), "u");
    }
    here.ok("try f w 100 0");
    assert_eq!(there.ask("get f w 200 1"), "w 100 0");
    // A hole in the middle; what is left is held.
    here.ok("try f u 13 2");
    there.ok("try f w 13 2");
    assert_eq!(there.ask("try f w 12 1"), BUSY);
    assert_eq!(there.ask("try f w 15 1"), BUSY);
    // Readers share, and one of them becomes a writer when it is alone.
    for command in ["try f u 0 0", "try f r 0 0"] {
        for locker in [&mut here, &mut near, &mut there] {
            locker.ok(command);
        }
    }
    near.ok("try f u 0 0");
    assert_eq!(here.ask("try f w 0 5"), BUSY);
    here.waits("lock f w 0 5");
    there.ok("lock f u 0 5");
    here.gets();
    assert_eq!(there.ask("try f r 4 1"), BUSY);
    here.ok("try f r 0 5");
    there.ok("try f r 4 1");
    there.ok("try f u 0 0");
    // close(2) of any descriptor of the file ends the locks of the process.
    here.ok("try f w 0 0");
    here.ok(&format!("open g {}", one.join("file").display()));
    here.ok("close g");
    there.ok("try f w 0 0");
    // So does the end of the process, whatever kind of end it is.
    here.waits("lock f w 0 0");
    there.kill();
    here.gets();
    let mut there = Locker::new(&two.join("file"));
    here.ok("lock f u 0 0");
    // flock(2) is one lock of an open file.
    here.ok("tryflock f r");
    there.ok("tryflock f r");
    assert_eq!(there.ask("tryflock f w"), BUSY);
    here.ok("flock f u");
    there.ok("tryflock f w");
    here.waits("flock f w");
    there.ok("close f");
    here.gets();
    assert_eq!(near.ask("tryflock f r"), BUSY);
}

#[test]
fn waiting_is_in_order_and_can_be_ended() {
    let Some((_cluster, one, two)) = Cluster::with_two_mounts() else {
        return;
    };
    let new = |mount: &Mount| Locker::new(&mount.join("file"));
    let (mut first, mut second) = (new(&one), new(&two));
    let (mut third, mut fourth) = (new(&one), new(&two));
    // A reader does not overtake the writer that waits.
    first.ok("lock f r 0 0");
    second.waits("lock f w 0 0");
    third.waits("lock f r 0 0");
    first.ok("lock f u 0 0");
    second.gets();
    assert_eq!(third.hear(A_WHILE), None);
    second.ok("lock f u 0 0");
    third.gets();
    // A signal ends a wait, and the place in the queue with it.
    fourth.ok("alarm 0.3");
    assert_eq!(fourth.ask("lock f w 0 0"), "Interrupted system call");
    first.ok("lock f r 0 0");
    first.ok("lock f u 0 0");
    // So does SIGKILL, at once, on either mount.
    for mount in [&one, &two] {
        let mut victim = new(mount);
        victim.waits("lock f w 0 0");
        second.waits("lock f r 0 0");
        let took = victim.kill();
        assert!(took < SOON, "{took:?}");
        second.gets();
        second.ok("lock f u 0 0");
    }
    third.ok("lock f u 0 0");
    second.ok("try f w 0 0");
}

#[test]
fn a_mount_that_ends_lets_go_of_its_locks() {
    let Some((_cluster, one, two)) = Cluster::with_two_mounts() else {
        return;
    };
    let mut here = Locker::new(&one.join("file"));
    let mut there = Locker::new(&two.join("file"));
    here.ok("lock f w 0 0");
    there.waits("lock f w 0 0");
    one.end();
    assert_eq!(there.hear(LIMIT).as_deref(), Some("ok"));
}

#[test]
fn who_would_wait_for_ever_is_told_so() {
    let Some((mut cluster, one, two)) = Cluster::with_two_mounts() else {
        return;
    };
    let [first, second, elsewhere] = files(&mut cluster, &one);
    for other in [&second, &elsewhere] {
        for (mine, theirs) in [(&one, &two), (&two, &one), (&one, &one)] {
            let mut here = Locker::new(&mine.join(&first));
            here.ok(&format!("open g {}", mine.join(other).display()));
            let mut there = Locker::new(&theirs.join(&first));
            there.ok(&format!("open g {}", theirs.join(other).display()));
            here.ok("lock f w 0 0");
            there.ok("lock g w 0 0");
            here.waits("lock g w 0 0");
            there.say("lock f w 0 0");
            // Either of them is told; the other one goes on.
            let begin = Instant::now();
            let (told, other) = loop {
                if let Some(told) = there.hear(Duration::from_millis(20)) {
                    break (told, &mut here);
                }
                if let Some(told) = here.hear(Duration::from_millis(20)) {
                    break (told, &mut there);
                }
                assert!(begin.elapsed() < LIMIT, "nobody was told");
            };
            assert_eq!(told, DEADLOCK);
            assert_eq!(other.hear(A_WHILE), None, "one is enough");
        }
    }
}

#[test]
fn locks_outlive_their_owner() {
    let Some((mut cluster, one, two)) = Cluster::with_two_mounts() else {
        return;
    };
    fs::write(one.join("file"), "x").unwrap();
    let at = owner(&mut cluster, "file");
    let mut here = Locker::new(&one.join("file"));
    let mut there = Locker::new(&two.join("file"));
    let mut queued = Locker::new(&one.join("file"));
    here.ok("lock f w 0 10");
    there.ok("lock f w 20 10");
    queued.waits("lock f w 0 30");
    cluster.kill(at);
    cluster.start_again(at);
    assert_eq!(there.ask("try f r 0 10"), BUSY);
    assert_eq!(here.ask("try f r 20 10"), BUSY);
    assert_eq!(there.ask("get f r 0 15"), "w 0 10");
    here.ok("try f u 0 0");
    assert_eq!(queued.hear(A_WHILE), None);
    there.ok("try f u 0 0");
    // It asks again every second.
    assert_eq!(queued.hear(LIMIT).as_deref(), Some("ok"));
    assert_eq!(there.ask("try f r 0 0"), BUSY);
}

/// Part of the files get another owner, which has never heard of the locks.
#[test]
fn locks_outlive_a_join() {
    let Some((mut cluster, one, two)) = Cluster::with_two_mounts() else {
        return;
    };
    // So many that no slice has an unused tail, which a newcomer would get.
    let names: Vec<String> = (0..300).map(|number| format!("file-{number}")).collect();
    let mut here = Locker::new(&one.join("file"));
    for name in &names {
        here.ok(&format!("open {name} {}", one.join(name).display()));
        here.ok(&format!("try {name} w 0 0"));
    }
    cluster.join();
    let newcomer = cluster.len() - 1;
    Cluster::eventually("some have moved", || {
        let now = owners(&mut cluster, &names);
        now.contains(&newcomer).then_some(())
    });
    let mut there = Locker::new(&two.join("file"));
    for name in &names {
        there.ok(&format!("open {name} {}", two.join(name).display()));
        assert_eq!(there.ask(&format!("try {name} w 0 0")), BUSY, "{name}");
        here.ok(&format!("try {name} u 0 0"));
        there.ok(&format!("try {name} w 0 0"));
    }
}

#[test]
fn sqlite_works_from_two_mounts_at_once() {
    let Some((_cluster, one, two)) = Cluster::with_two_mounts() else {
        return;
    };
    let python = |code: &str, mount: &Mount, arguments: &[&str]| {
        let mut command = Command::new("python3");
        command.arg("-c").arg(code).arg(mount.join("db"));
        command.args(arguments).stdout(Stdio::piped());
        command.spawn().unwrap()
    };
    let make = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute(\
                'CREATE TABLE t (total INTEGER PRIMARY KEY, name TEXT, number INTEGER)')";
    assert!(python(make, &one, &[]).wait().unwrap().success());
    let mut writers = [
        python(WRITER, &one, &["one", "200"]),
        python(WRITER, &two, &["two", "200"]),
    ];
    for writer in &mut writers {
        assert!(writer.wait().unwrap().success());
    }
    let check = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); \
                 print(*db.execute('PRAGMA integrity_check').fetchone(), \
                 *db.execute('SELECT count(*), max(total) FROM t').fetchone())";
    for mount in [&one, &two] {
        let checked = python(check, mount, &[]).wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&checked.stdout), "ok 400 399\n");
    }
}
