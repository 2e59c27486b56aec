//! A volcano dies and does not come back at once: the next one of the ring takes its place, and a
//! mount waits a moment. Nothing that was acknowledged is lost. When it is back it gets what it
//! missed, and then what it owned.

#![allow(clippy::print_stdout, reason = "a test prints what it has measured")]
// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use integration::Cluster;
use integration::cluster::KEY;
use integration::mounted::can_mount;
use integration::volcano_process::programs;
use integration::worker::Worker;
use magma_cli::program::Program;
use nix::sys::signal::Signal;

/// How often a volcano is lost in each test; one after the other of three.
const ROUNDS_VARIABLE: &str = "MAGMA_FAILOVER_ROUNDS";
/// The longest that a mount may wait when a volcano has died.
const STALL_MAX: Duration = Duration::from_secs(5);

/// What `magma status` says, and whether all is well.
fn status(cluster: &Cluster, at: usize) -> (bool, String) {
    let mut status = programs().command(Program::Tools);
    let status = status.args(["status", &cluster.addr(at).to_string()]);
    let said = status.env("MAGMA_KEY", KEY).output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    (said.status.success(), text)
}

/// A remark if that volcano coordinates.
fn leader(cluster: &Cluster, at: usize) -> &'static str {
    let (_, text) = status(cluster, at);
    let names = ["wallace", "gromit", "penguin"];
    match text.contains(&format!("coordinator {}", names[at])) {
        true => " (it coordinates)",
        false => "",
    }
}

/// Waits until every slice is where it belongs, with all its copies.
fn becomes_whole(cluster: &Cluster) -> String {
    Cluster::eventually("the network is whole", || {
        let (well, text) = status(cluster, 0);
        well.then_some(text)
    })
}

/// Two mounts work while one volcano after the other ends in some way for a while.
fn survives(lose: impl Fn(&mut Cluster, usize), bring_back: impl Fn(&mut Cluster, usize)) {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(3);
    let mounts = [cluster.mount(0), cluster.mount(1)];
    let rounds = std::env::var(ROUNDS_VARIABLE).map_or(3, |rounds| rounds.parse().unwrap());
    let mut stalls = Vec::new();
    for round in 0..rounds {
        let at = round % 3;
        let led = leader(&cluster, at);
        let workers = [0, 1].map(|mount: usize| {
            let name = format!("dir-{round}-{mount}");
            Worker::start(mounts[mount].join(name))
        });
        workers.iter().for_each(|worker| worker.goes_on(20));
        lose(&mut cluster, at);
        workers.iter().for_each(|worker| worker.goes_on(40));
        bring_back(&mut cluster, at);
        workers.iter().for_each(|worker| worker.goes_on(20));
        let whole = becomes_whole(&cluster);
        assert!(whole.contains("All is well"), "{whole}");
        for (mount, worker) in workers.into_iter().enumerate() {
            let longest = worker.end(mounts[1 - mount].path());
            println!("volcano {at} away{led}, mount {mount}: the longest file took {longest:?}");
            assert!(longest < STALL_MAX, "a file took {longest:?}");
            stalls.push(longest);
        }
        cluster.fsck().unwrap();
    }
    stalls.sort_unstable();
    let (median, worst) = (stalls[stalls.len() / 2], stalls[stalls.len() - 1]);
    println!("{rounds} times: median {median:?}, worst {worst:?}");
    mounts.into_iter().for_each(|mount| mount.end());
}

#[test]
fn the_next_volcano_takes_over_from_one_that_was_killed() {
    survives(Cluster::kill, Cluster::start_again);
}

#[test]
fn the_next_volcano_takes_over_from_one_that_is_stopped() {
    survives(
        |cluster, at| cluster.volcano(at).process().signal(Signal::SIGSTOP),
        |cluster, at| cluster.volcano(at).process().signal(Signal::SIGCONT),
    );
}

#[test]
fn a_volcano_that_starts_does_not_wait_for_one_that_dies_meanwhile() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(3);
    let mount = cluster.mount(2);
    let worker = Worker::start(mount.join("dir"));
    worker.goes_on(20);
    cluster.kill(0);
    cluster.start_without_waiting(0);
    cluster.kill(1);
    cluster.volcano(0).wait_ready().unwrap();
    worker.goes_on(20);
    cluster.start_again(1);
    let whole = becomes_whole(&cluster);
    assert!(whole.contains("All is well"), "{whole}");
    let longest = worker.end(mount.path());
    println!("two volcanos ended, one after the other: the longest file took {longest:?}");
    cluster.fsck().unwrap();
    mount.end();
}
