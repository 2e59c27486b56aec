//! What a person decides on the console about who belongs to the network, and what the network
//! decides by itself about those who stay away.

// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration::Cluster;
use integration::cluster::KEY;
use integration::mounted::{Mount, can_mount};
use integration::volcano_process::programs;
use magma_cli::launch::READY_LIMIT;
use magma_cli::program::Program;

fn status(cluster: &Cluster, at: usize) -> String {
    let mut status = programs().command(Program::Tools);
    let status = status.args(["status", &cluster.addr(at).to_string()]);
    let said = status.env("MAGMA_KEY", KEY).output().unwrap();
    String::from_utf8_lossy(&said.stdout).into_owned()
}

/// Waits until a line about every slice says that it has all its copies, whoever is dead.
fn is_redundant(cluster: &mut Cluster, at: usize) {
    Cluster::eventually("every slice has a copy in sync", || {
        let said = cluster.ask(at, "status");
        let slices: Vec<&str> = said.lines().filter(|l| l.starts_with("slice ")).collect();
        let well = |line: &&str| line.contains("in sync") && !line.contains("being filled");
        (!slices.is_empty() && slices.iter().all(well)).then_some(())
    });
}

fn becomes_whole(cluster: &Cluster, at: usize) {
    Cluster::eventually("all is well", || {
        status(cluster, at).contains("All is well").then_some(())
    });
}

/// What `status` says on a console that may not be there yet.
fn tell(cluster: &mut Cluster, at: usize) -> Option<String> {
    let mut console = cluster.volcano(at).console().ok()?;
    console.command("status").ok()
}

fn write_files(mount: &Mount) {
    for n in 0..50 {
        fs::write(mount.join(format!("file-{n}")), n.to_string()).unwrap();
    }
}

fn has_files(mount: &Mount) -> bool {
    let read = |n: i32| fs::read_to_string(mount.join(format!("file-{n}"))).ok();
    (0..50).all(|n| read(n) == Some(n.to_string()))
}

/// Types a command and an answer to what it asks back.
fn intervene(cluster: &mut Cluster, at: usize, command: &str, answer: &str) -> String {
    let mut console = cluster.console(at);
    let said = console.ask_back(command, answer);
    said.unwrap()
}

#[test]
fn a_volcano_that_stays_away_is_evicted_and_gets_its_slices_back() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(3);
    let mount = cluster.mount(0);
    write_files(&mount);
    // Nobody is evicted who is there, or who is not known.
    let said = intervene(&mut cluster, 0, "evict penguin", "yes");
    assert!(said.contains("is alive"), "{said}");
    let said = intervene(&mut cluster, 0, "evict nobody", "yes");
    assert!(said.contains("no volcano nobody"), "{said}");

    cluster.kill(2);
    Cluster::eventually("penguin is known to be down", || {
        cluster.ask(0, "status").contains("down").then_some(())
    });
    let said = intervene(&mut cluster, 0, "evict penguin", "no");
    assert!(said.contains("nothing was done"), "{said}");
    assert!(!cluster.ask(0, "lava").contains("evicted"));
    let said = intervene(&mut cluster, 0, "evict penguin", "yes");
    assert!(said.contains("Done"), "{said}");
    Cluster::eventually("penguin is shown as evicted", || {
        cluster
            .ask(1, "lava")
            .contains("alive: no (evicted)")
            .then_some(())
    });
    is_redundant(&mut cluster, 0);
    // Everything is on two volcanos again: another one may die.
    cluster.kill(1);
    Cluster::eventually("the survivor has everything", || {
        has_files(&mount).then_some(())
    });
    cluster.start_again(1);
    cluster.start_again(2);
    becomes_whole(&cluster, 0);
    assert!(has_files(&mount));
    cluster.fsck().unwrap();
    mount.end();
}

#[test]
fn the_network_evicts_by_itself_and_forgets_when_told() {
    let mut cluster = Cluster::with_arguments(3, &["--evict-after", "2"]);
    cluster.kill(2);
    Cluster::eventually("penguin is evicted", || {
        cluster
            .ask(0, "lava")
            .contains("alive: no (evicted)")
            .then_some(())
    });
    is_redundant(&mut cluster, 0);
    let said = intervene(&mut cluster, 0, "forget gromit", "yes");
    assert!(said.contains("not evicted"), "{said}");
    let said = intervene(&mut cluster, 0, "forget penguin", "yes");
    assert!(said.contains("Done"), "{said}");
    Cluster::eventually("penguin is no member", || {
        (!cluster.ask(0, "lava").contains("penguin")).then_some(())
    });
    becomes_whole(&cluster, 0);
    cluster.fsck().unwrap();
    // With what it has it is not let in, and says why.
    cluster.start_without_waiting(2);
    let process = cluster.volcano(2).process();
    let said = process.wait_for_line("is not a member of this lava network", READY_LIMIT);
    said.unwrap();
}

#[test]
fn a_volcano_that_has_lost_its_directory_joins_anew_when_it_is_evicted() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(3);
    let mount = cluster.mount(0);
    write_files(&mount);
    cluster.kill(1);
    Cluster::eventually("gromit is known to be down", || {
        cluster.ask(0, "status").contains("down").then_some(())
    });
    // It may come back with its directory yet: nobody else is taken for it.
    cluster.join_anew(1, 0);
    let process = cluster.volcano(1).process();
    process
        .wait_for_line("a volcano called gromit is a member already", READY_LIMIT)
        .unwrap();
    process.wait(READY_LIMIT).unwrap();
    let said = intervene(&mut cluster, 0, "evict gromit", "yes");
    assert!(said.contains("Done"), "{said}");
    cluster.join_anew(1, 0);
    cluster.volcano(1).wait_ready().unwrap();
    becomes_whole(&cluster, 0);
    let lava = cluster.ask(0, "lava");
    assert_eq!(lava.matches("node: gromit").count(), 1, "{lava}");
    assert!(!lava.contains("evicted"), "{lava}");
    assert!(has_files(&mount));
    cluster.fsck().unwrap();
    mount.end();
}

#[test]
fn a_network_proceeds_without_one_that_does_not_come() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(3);
    let mount = cluster.mount(0);
    fs::write(mount.join("file"), "content").unwrap();
    mount.end();
    let said = intervene(&mut cluster, 0, "proceed", "yes");
    assert!(said.contains("the network serves"), "{said}");
    cluster.shutdown();
    for at in 0..3 {
        cluster.volcano(at).wait_end().unwrap();
    }
    cluster.start_without_waiting(0);
    // One of three is no majority, and has not everything.
    Cluster::eventually("wallace waits", || {
        tell(&mut cluster, 0)?.contains("waits for").then_some(())
    });
    let said = intervene(&mut cluster, 0, "proceed", "yes");
    assert!(said.contains("bring back gromit or penguin"), "{said}");
    Cluster::eventually("nobody leads", || {
        tell(&mut cluster, 0)?
            .contains("leader: nobody")
            .then_some(())
    });
    cluster.start_without_waiting(1);
    Cluster::eventually("wallace waits for penguin alone", || {
        let said = tell(&mut cluster, 0)?;
        let phase = "phase: loading, waits for penguin";
        said.lines().any(|line| line.trim() == phase).then_some(())
    });
    Cluster::eventually("somebody leads", || {
        (!cluster.ask(0, "status").contains("leader: nobody")).then_some(())
    });
    let said = intervene(&mut cluster, 0, "proceed", "yes");
    assert!(said.contains("without penguin"), "{said}");
    assert!(said.contains("Done"), "{said}");
    cluster.volcano(0).wait_ready().unwrap();
    cluster.volcano(1).wait_ready().unwrap();
    let mount = cluster.mount(1);
    assert_eq!(fs::read_to_string(mount.join("file")).unwrap(), "content");
    fs::write(mount.join("other"), "more").unwrap();
    cluster.start_again(2);
    becomes_whole(&cluster, 2);
    cluster.fsck().unwrap();
    mount.end();
}

fn copy_of(dir: &Path, name: &str) -> PathBuf {
    let copy = dir.with_file_name(name);
    let said = Command::new("cp").arg("-a").args([dir, &copy]).status();
    assert!(said.unwrap().success());
    copy
}

#[test]
fn an_older_copy_of_a_directory_is_not_let_in() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(3);
    let mount = cluster.mount(0);
    // As a backup has it: from between two starts, the second of which the others have seen.
    cluster.volcano(1).terminate().unwrap();
    let dir = cluster.volcano(1).dir().to_path_buf();
    let old = copy_of(&dir, "backup");
    cluster.start_again(1);
    write_files(&mount);
    cluster.volcano(1).terminate().unwrap();
    let newer = dir.with_file_name("newer");
    fs::rename(&dir, &newer).unwrap();
    fs::rename(&old, &dir).unwrap();

    // Nor when it is started again and again.
    for _ in 0..3 {
        cluster.start_without_waiting(1);
        let process = cluster.volcano(1).process();
        process
            .wait_for_line("older copy of its directory", READY_LIMIT)
            .unwrap();
        cluster.volcano(1).terminate().unwrap();
    }
    // The others go on without it, whatever it has forgotten.
    assert!(has_files(&mount));
    fs::write(mount.join("more"), "more").unwrap();

    // It was not let in, so it has done nothing that the newer one would not know of.
    fs::rename(&dir, &old).unwrap();
    fs::rename(&newer, &dir).unwrap();
    cluster.start_again(1);
    becomes_whole(&cluster, 0);
    assert!(has_files(&mount));
    mount.end();
    cluster.fsck().unwrap();
}
