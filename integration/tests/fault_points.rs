//! kill -9 of a volcano, or of the mount, at every step of operations that need several volcanos: done
//! once and as a whole, or not at all, and nothing is left behind.
//!
//! All volcanos are told to die, or to stop, at the same point; whoever reaches it first does. A stopped
//! one goes on when the mount is dead.

#![allow(clippy::print_stdout, reason = "a test prints what it has reached")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use integration::mounted::can_mount;
use integration::{Cluster, Mount};
use magma_cli::launch::console::ConsoleClient;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::signal::Signal;

/// `all` takes every point; otherwise every so many, and another one each.
const VARIABLE: &str = "MAGMA_FAULT_POINTS";
const EVERY: usize = 19;
/// An operation is done this long after the restart of whoever died.
const LIMIT: Duration = Duration::from_secs(60);
/// Where the owners of the paths lie decides whether a step is one between volcanos.
const TRIES: usize = 4;
/// Some steps come after the answer.
const AFTERWARDS: Duration = Duration::from_millis(100);

/// Something that several volcanos do together, in a directory made by [`prepare`].
struct Case {
    name: &'static str,
    act: fn(&Path) -> io::Result<()>,
    events: &'static [&'static [&'static str]],
}

const CREATE: &[&str] = &["Create", "StepInsert", "DoneInsert"];
const UNLINK: &[&str] = &["Unlink", "StepRemove", "DoneRemove"];
const COPIES: &[&str] = &["Ship", "ShipAck"];
const RENAME: &[&str] = &[
    "Rename",
    "StepPrepareEntry",
    "DonePrepareEntry",
    "StepPrepareMove",
    "DonePrepareMove",
    "StepFinish",
    "DoneFinish",
];
const REPLACE: &[&str] = &["StepPrepareVictim", "DonePrepareVictim"];
const MOVE_DIR: &[&str] = &[
    "StepLockRename",
    "DoneLockRename",
    "StepGetParent",
    "DoneGetParent",
    "StepUnlockRename",
    "DoneUnlockRename",
];

const CASES: &[Case] = &[
    Case {
        name: "create",
        act: |dir| File::create_new(dir.join("a/new")).map(drop),
        events: &[CREATE, COPIES],
    },
    Case {
        name: "mkdir",
        act: |dir| fs::create_dir(dir.join("b/new")),
        events: &[CREATE, COPIES],
    },
    Case {
        name: "symlink",
        act: |dir| std::os::unix::fs::symlink("target", dir.join("a/link")),
        events: &[CREATE, COPIES],
    },
    Case {
        name: "link",
        act: |dir| fs::hard_link(dir.join("a/file"), dir.join("b/second")),
        events: &[&["Link", "StepInsert", "DoneInsert"], COPIES],
    },
    Case {
        name: "unlink",
        act: |dir| fs::remove_file(dir.join("a/file")),
        events: &[UNLINK, COPIES],
    },
    Case {
        name: "unlink of one of two names",
        act: |dir| fs::remove_file(dir.join("a/two")),
        events: &[UNLINK, COPIES],
    },
    Case {
        name: "rmdir",
        act: |dir| fs::remove_dir(dir.join("b/empty")),
        events: &[&["Rmdir", "StepRemove", "DoneRemove"], COPIES],
    },
    Case {
        name: "rename",
        act: |dir| fs::rename(dir.join("a/file"), dir.join("b/moved")),
        events: &[RENAME, COPIES],
    },
    Case {
        name: "rename that replaces",
        act: |dir| fs::rename(dir.join("a/file"), dir.join("b/victim")),
        events: &[RENAME, REPLACE, COPIES],
    },
    Case {
        name: "exchange",
        act: |dir| {
            let (one, other) = (dir.join("a/file"), dir.join("b/victim"));
            let flags = RenameFlags::RENAME_EXCHANGE;
            Ok(renameat2(AT_FDCWD, &one, AT_FDCWD, &other, flags)?)
        },
        events: &[RENAME, COPIES],
    },
    Case {
        name: "rename of a directory that replaces one",
        act: |dir| fs::rename(dir.join("a/full"), dir.join("b/empty")),
        events: &[RENAME, REPLACE, MOVE_DIR, COPIES],
    },
];

fn prepare(dir: &Path) -> io::Result<()> {
    for below in ["", "a", "b", "b/empty", "a/full"] {
        fs::create_dir(dir.join(below))?;
    }
    for (file, text) in [
        ("a/file", "file"),
        ("a/two", "two"),
        ("b/victim", "victim"),
        ("a/full/inside", "inside"),
    ] {
        fs::write(dir.join(file), text)?;
    }
    fs::hard_link(dir.join("a/two"), dir.join("b/two"))
}

/// Names, types, link counts of files, and contents.
type Tree = BTreeMap<PathBuf, (u32, u64, Vec<u8>)>;

fn tree(dir: &Path) -> io::Result<Tree> {
    let mut tree = Tree::new();
    for entry in walkdir::WalkDir::new(dir).min_depth(1) {
        let entry = entry?;
        let metadata = entry.path().symlink_metadata()?;
        let (links, content) = match entry.file_type() {
            kind if kind.is_dir() => (0, Vec::new()),
            kind if kind.is_symlink() => {
                let target = fs::read_link(entry.path())?;
                (1, target.as_os_str().as_bytes().to_vec())
            }
            _ => (metadata.nlink(), fs::read(entry.path())?),
        };
        let below = entry.path().strip_prefix(dir).map_err(io::Error::other)?;
        let kind = metadata.mode() & libc::S_IFMT;
        tree.insert(below.to_owned(), (kind, links, content));
    }
    Ok(tree)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Dies {
    Volcano,
    Mount,
}

type Outcome = io::Result<()>;
type Heard = Receiver<Outcome>;

struct Bench {
    cluster: Cluster,
    acts: Option<Mount>,
    looks: Mount,
    /// Directories so far.
    number: usize,
}

impl Bench {
    /// Runs a case with a fault. Whether its point was reached.
    fn run(&mut self, case: &Case, when: &str, event: &str, dies: Dies) -> bool {
        let what = format!("{} with {dies:?} {when} {event}", case.name);
        self.number += 1;
        let name = format!("d{}", self.number);
        let acts = self.acts.take().expect("a mount");
        let dir = acts.join(&name);
        prepare(&dir).unwrap_or_else(|error| panic!("{what}: {error}"));
        let old = tree(&dir).expect("a tree");
        let local = self.cluster.dir().join(&name);
        prepare(&local).expect("a local tree");
        assert_eq!(tree(&local).expect("a tree"), old, "{what}");
        (case.act)(&local).unwrap_or_else(|error| panic!("{what}, locally: {error}"));
        let new = tree(&local).expect("a tree");
        assert_ne!(old, new, "{what}");

        let verb = if dies == Dies::Volcano {
            "kill"
        } else {
            "stop"
        };
        self.arm(&format!("{verb}:{when}:{event}"));
        let (send, heard) = channel();
        let (act, there) = (case.act, dir.clone());
        let worker = std::thread::spawn(move || drop(send.send(act(&there))));
        let (at, early) = self.first_struck(&heard, dies);
        let cut_off = dies == Dies::Mount && at.is_some();
        match cut_off {
            true => acts.kill(),
            false => self.acts = Some(acts),
        }
        self.disarm();
        let outcome = self.wait_for(&heard, early, &what);
        if cut_off {
            self.acts = Some(self.cluster.mount(0));
        }
        worker.join().expect("it has ended");
        self.fsck(&what);
        let looked = tree(&self.looks.join(&name)).expect("a tree");
        match &outcome {
            Ok(()) => assert_eq!(looked, new, "{what}: it was said to be done"),
            Err(error) => {
                assert_eq!(dies, Dies::Mount, "{what}: {error}");
                assert!(looked == old || looked == new, "{what}: {looked:?}");
            }
        }
        let acts = self.acts.as_ref().expect("a mount");
        assert_eq!(tree(&acts.join(&name)).expect("a tree"), looked, "{what}");
        fs::remove_dir_all(self.looks.join(&name)).expect("it is removed");
        at.is_some()
    }

    fn arm(&mut self, point: &str) {
        for at in 0..self.cluster.len() {
            self.cluster.ask(at, &format!("fault {point}"));
        }
    }

    /// Whoever is stopped goes on, also if that happens only now. The dead are disarmed.
    fn disarm(&mut self) {
        let consoles = (0..self.cluster.len()).map(|at| self.cluster.volcano(at).console_addr());
        let consoles: Vec<_> = consoles.collect();
        let worker = std::thread::spawn(move || {
            for console in consoles {
                let _ = ConsoleClient::connect(console)
                    .and_then(|(mut console, _)| console.command("fault off"));
            }
        });
        while !worker.is_finished() {
            self.let_all_go_on();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether some were stopped.
    fn let_all_go_on(&mut self) -> bool {
        let mut some = false;
        for at in 0..self.cluster.len() {
            if self.is_stopped(at) {
                self.cluster.volcano(at).process().signal(Signal::SIGCONT);
                some = true;
            }
        }
        some
    }

    fn is_stopped(&mut self, at: usize) -> bool {
        let pid = self.cluster.volcano(at).process().pid();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    /// Who reached the point first, if anybody, and how the operation ended, if it did before that.
    fn first_struck(&mut self, heard: &Heard, dies: Dies) -> (Option<usize>, Option<Outcome>) {
        let begin = Instant::now();
        let mut outcome: Option<(Outcome, Instant)> = None;
        loop {
            for at in 0..self.cluster.len() {
                let struck = match dies {
                    Dies::Volcano => !self.cluster.volcano(at).is_running(),
                    Dies::Mount => self.is_stopped(at),
                };
                if struck {
                    return (Some(at), outcome.map(|(outcome, _)| outcome));
                }
            }
            match outcome.take() {
                Some((outcome, when)) if when.elapsed() > AFTERWARDS => {
                    return (None, Some(outcome));
                }
                Some(still) => {
                    outcome = Some(still);
                    std::thread::yield_now();
                }
                None => match heard.recv_timeout(Duration::from_millis(2)) {
                    Ok(got) => outcome = Some((got, Instant::now())),
                    Err(RecvTimeoutError::Disconnected) => panic!("the operation has panicked"),
                    Err(RecvTimeoutError::Timeout) => {}
                },
            }
            assert!(begin.elapsed() < LIMIT, "neither done nor struck");
        }
    }

    /// Starts again whoever died: another one may have come to its point before it was disarmed.
    fn wait_for(&mut self, heard: &Heard, early: Option<Outcome>, what: &str) -> Outcome {
        let begin = Instant::now();
        let mut outcome = early;
        loop {
            let mut all = !self.let_all_go_on();
            // All at once: they wait for each other.
            let dead = (0..self.cluster.len()).filter(|at| !self.cluster.volcano(*at).is_running());
            let dead: Vec<usize> = dead.collect();
            for at in &dead {
                self.cluster.start_without_waiting(*at);
                all = false;
            }
            for at in dead {
                let ready = self.cluster.volcano(at).wait_ready();
                ready.unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            if outcome.is_none() {
                outcome = heard.recv_timeout(Duration::from_millis(5)).ok();
            }
            match outcome.take() {
                Some(outcome) if all => return outcome,
                other => outcome = other,
            }
            assert!(begin.elapsed() < LIMIT, "{what}: it hangs");
        }
    }

    /// The tree is sound, once all that was under way has come to its end.
    fn fsck(&mut self, what: &str) {
        let mut said = String::new();
        let begin = Instant::now();
        while begin.elapsed() < LIMIT {
            match self.cluster.fsck() {
                Ok(()) => return,
                Err(what) => said = what,
            }
        }
        panic!("{what}: {said}");
    }
}

#[test]
fn operations_are_whole_whoever_dies_at_whichever_step() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::with_environment(3, 1, &[("MAGMA_FAULTS", "1")]);
    let (acts, looks) = (Some(cluster.mount(0)), cluster.mount(1));
    let mut bench = Bench {
        cluster,
        acts,
        looks,
        number: 0,
    };
    let every = match std::env::var(VARIABLE).as_deref() {
        Ok("all") => 1,
        _ => EVERY,
    };
    let begin = Instant::now();
    let (mut points, mut reached) = (0_usize, 0_usize);
    let mut missed = Vec::new();
    for dies in [Dies::Volcano, Dies::Mount] {
        for case in CASES {
            for event in case.events.concat() {
                for when in ["before", "after"] {
                    points += 1;
                    if !points.is_multiple_of(every) {
                        continue;
                    }
                    if (0..TRIES).any(|_| bench.run(case, when, event, dies)) {
                        reached += 1;
                    } else {
                        missed.push(format!("{} {when} {event} ({dies:?})", case.name));
                    }
                }
            }
        }
    }
    println!(
        "{reached} of {} points were reached, in {} s; not {missed:?}",
        reached + missed.len(),
        begin.elapsed().as_secs()
    );
    assert!(reached > missed.len() * 4, "{missed:?}");
}
