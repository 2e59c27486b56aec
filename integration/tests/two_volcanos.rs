//! The smallest networks: two volcanos, with an arbiter and without.

#![allow(clippy::print_stdout, reason = "a test prints what it has measured")]
// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use integration::Cluster;
use integration::cluster::KEY;
use integration::mounted::can_mount;
use integration::volcano_process::programs;
use integration::worker::Worker;
use magma_cli::launch::READY_LIMIT;
use magma_cli::program::Program;
use nix::sys::signal::Signal;

/// The longest that a mount may wait when a volcano has died.
const STALL_MAX: Duration = Duration::from_secs(5);

/// Waits until nobody is down, and every slice is at home and has its copy.
fn becomes_whole(cluster: &mut Cluster) {
    Cluster::eventually("all is well", || {
        let said = cluster.ask(0, "status");
        let slices: Vec<&str> = said.lines().filter(|l| l.starts_with("slice ")).collect();
        let well = |line: &&str| line.contains("in sync") && !line.contains("stands in");
        let all = slices.len() == 2 && slices.iter().all(well) && said.contains("awaited: nobody");
        all.then_some(())
    });
}

#[test]
fn with_an_arbiter_either_may_die() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(2);
    cluster.join_as_arbiter();
    Cluster::eventually("the arbiter votes", || {
        // Whoever leads says so, and that may be either.
        let said = |at| {
            let text = std::fs::read_to_string(&cluster.volcano(at).site().log);
            text.is_ok_and(|text| text.contains("votes={1, 2, 3}"))
        };
        [0, 1].into_iter().any(said).then_some(())
    });
    let lava = cluster.ask(2, "lava");
    assert!(lava.contains("alive: yes\narbiter: yes\nkeys: 0"), "{lava}");
    let mount = cluster.mount(1);
    for (round, at) in [0, 1, 2, 0].into_iter().enumerate() {
        let worker = Worker::start(mount.join(format!("dir-{round}")));
        worker.goes_on(20);
        cluster.kill(at);
        worker.goes_on(40);
        cluster.start_again(at);
        becomes_whole(&mut cluster);
        worker.goes_on(20);
        let longest = worker.end(mount.path());
        println!("volcano {at} away: the longest file took {longest:?}");
        assert!(longest < STALL_MAX, "a file took {longest:?}");
        cluster.fsck().unwrap();
    }
    mount.end();
    // Nothing is on the arbiter.
    let status = cluster.ask(0, "status");
    assert!(!status.contains("on penguin"), "{status}");
    cluster.restart();
    becomes_whole(&mut cluster);
}

/// Types a command and an answer to what it asks back.
fn intervene(cluster: &mut Cluster, at: usize, command: &str, answer: &str) -> String {
    let mut console = cluster.console(at);
    // The volcano starts anew meanwhile, and may be faster than its last words.
    console.ask_back(command, answer).unwrap_or_default()
}

fn files(dir: &Path, from: u32, upto: u32) -> bool {
    let read = |n: u32| fs::read_to_string(dir.join(format!("file-{n}"))).ok();
    (from..upto).all(|n| read(n) == Some(n.to_string()))
}

fn write_files(dir: &Path, from: u32, upto: u32) {
    for n in from..upto {
        fs::write(dir.join(format!("file-{n}")), n.to_string()).unwrap();
    }
}

#[test]
fn without_an_arbiter_the_coordinator_is_replaced_by_a_takeover() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(2);
    // Whoever got the key of `/.dht`.
    let names = ["wallace", "gromit"];
    let coordinates = |said: &str, name: &str| said.contains(&format!("coordinator: {name}"));
    let said = cluster.ask(0, "status");
    let lead = names
        .iter()
        .position(|name| coordinates(&said, name))
        .unwrap();
    let left = 1 - lead;
    let mount = cluster.mount(left);
    write_files(mount.path(), 0, 50);
    // The other one may be lost at any time.
    cluster.kill(left);
    write_files(mount.path(), 50, 100);
    cluster.start_again(left);
    becomes_whole(&mut cluster);
    let refused = cluster.ask(left, "takeover");
    let leads = format!("{} leads the agreement", names[lead]);
    assert!(refused.contains(&leads), "{refused}");

    cluster.kill(lead);
    Cluster::eventually("the other one says whom it waits for", || {
        let said = cluster.ask(left, "status");
        let waits = format!("phase: stands still, waits for {}, who voted", names[lead]);
        (said.contains(&waits) && said.contains("leader: nobody")).then_some(())
    });
    let dir = mount.path().to_owned();
    let waiting = std::thread::spawn(move || write_files(&dir, 100, 101));
    let said = intervene(&mut cluster, left, "takeover", "no");
    for part in [
        &format!("{} will go on as generation 2", names[left]),
        &format!("{}, which coordinated, was last heard of", names[lead]),
        "may be lost",
        "nothing was done",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(
        !waiting.is_finished(),
        "nothing is acknowledged without a leader"
    );
    intervene(&mut cluster, left, "takeover", "yes");
    waiting.join().unwrap();
    assert!(files(mount.path(), 0, 101));
    let said = cluster.ask(left, "status");
    assert!(said.contains("generation: 2"), "{said}");
    assert!(said.contains(&format!("leader: {}", names[left])), "{said}");

    // Who was left behind ends, and says what to do.
    cluster.start_without_waiting(lead);
    let process = cluster.volcano(lead).process();
    process
        .wait_for_line("have gone on without this volcano", READY_LIMIT)
        .unwrap();
    let ended = Cluster::eventually("it has ended", || cluster.volcano(lead).process().ended());
    assert!(!ended.success());
    cluster.rejoin(lead);
    cluster.volcano(lead).wait_ready().unwrap();
    becomes_whole(&mut cluster);
    assert!(files(mount.path(), 0, 101));
    let aside = cluster.stores()[lead].join("generation-1");
    assert!(aside.join("agreement.sql").exists());
    cluster.fsck().unwrap();
    // There is nothing to come back from now.
    cluster.kill(lead);
    cluster.rejoin(lead);
    let process = cluster.volcano(lead).process();
    process
        .wait_for_line("start it without --rejoin", READY_LIMIT)
        .unwrap();
    cluster.start_again(lead);
    becomes_whole(&mut cluster);
    cluster.restart();
    becomes_whole(&mut cluster);
    let mount = cluster.mount(0);
    assert!(files(mount.path(), 0, 101));
    mount.end();
}

#[test]
fn those_who_are_left_of_five_take_over_together() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::with_redundancy(5, 2);
    let mount = cluster.mount(2);
    write_files(mount.path(), 0, 50);
    mount.end();
    Cluster::eventually("every slice has both copies", || {
        let said = cluster.ask(0, "status");
        let slices: Vec<&str> = said.lines().filter(|l| l.starts_with("slice ")).collect();
        let well = |line: &&str| !line.contains("being filled") && !line.contains("no copy");
        (slices.len() == 5 && slices.iter().all(well)).then_some(())
    });
    // Three at once, each slice is on one of the others: without a majority nobody can tell.
    for at in [0, 1, 3] {
        cluster.volcano(at).process().signal(Signal::SIGSTOP);
    }
    for at in [0, 1, 3] {
        cluster.kill(at);
    }
    Cluster::eventually("nobody leads", || {
        let said = cluster.ask(4, "status");
        said.contains("leader: nobody").then_some(())
    });
    let said = Cluster::eventually("penguin can take over", || {
        let said = intervene(&mut cluster, 2, "takeover", "no");
        said.contains("wallace, gromit and volcano4 does not run")
            .then_some(said)
    });
    assert!(said.contains("generation 2"), "{said}");
    intervene(&mut cluster, 2, "takeover", "yes");
    let mount = cluster.mount(2);
    assert!(files(mount.path(), 0, 50));
    write_files(mount.path(), 50, 60);
    // The other one has followed by itself.
    Cluster::eventually("both are there", || {
        let said = cluster.ask(4, "status");
        let well = said.contains("generation: 2") && said.contains("phase: ready");
        (well && said.contains("awaited: nobody")).then_some(())
    });
    assert!(files(mount.path(), 0, 60));
    cluster.rejoin(1);
    cluster.volcano(1).wait_ready().unwrap();
    assert!(files(mount.path(), 0, 60));
    mount.end();
    // Those who are not there any more are no volcanos of this network.
    let mut fsck = programs().command(Program::Tools);
    let fsck = fsck.args(["fsck", &cluster.addr(2).to_string()]);
    let said = fsck.env("MAGMA_KEY", KEY).output().unwrap();
    assert!(
        said.status.success(),
        "{}",
        String::from_utf8_lossy(&said.stdout)
    );
}

#[test]
fn whoever_has_the_longest_history_wins_after_a_loss_of_power() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(2);
    let mount = cluster.mount(0);
    write_files(mount.path(), 0, 20);
    mount.end();
    cluster.shutdown();
    // What a disk has that was never asked to keep what comes now.
    let stores = cluster.stores();
    let keep = |store: &Path| {
        let kept = store.with_extension("before");
        fs::create_dir(&kept).unwrap();
        for entry in fs::read_dir(store).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_string_lossy().starts_with("store.sql") {
                fs::copy(entry.path(), kept.join(entry.file_name())).unwrap();
            }
        }
        kept
    };
    let lose = |store: &Path, kept: &Path| {
        for entry in fs::read_dir(store).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_string_lossy().starts_with("store.sql") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        for entry in fs::read_dir(kept).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), store.join(entry.file_name())).unwrap();
        }
        fs::remove_dir_all(kept).unwrap();
    };
    for (round, at) in [0, 1].into_iter().enumerate() {
        let from = 20 + 30 * round as u32;
        let kept = keep(&stores[at]);
        cluster.restart();
        let mount = cluster.mount(1);
        write_files(mount.path(), from, from + 30);
        // All at once, as the power goes.
        (0..2).for_each(|at| cluster.volcano(at).process().signal(Signal::SIGSTOP));
        (0..2).for_each(|at| cluster.kill(at));
        lose(&stores[at], &kept);
        cluster.restart();
        becomes_whole(&mut cluster);
        assert!(files(mount.path(), 0, from + 30));
        mount.end();
        cluster.fsck().unwrap();
        cluster.shutdown();
    }
}
