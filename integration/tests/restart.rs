//! Volcanos end and come back, in any order, in order and by kill -9, below a mount that goes
//! on; and what a volcano costs while nothing happens.

#![allow(clippy::print_stdout, reason = "a test prints what it has measured")]
// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use integration::Cluster;
use integration::mounted::can_mount;
use integration::worker::Worker;
use nix::sys::signal::Signal;

/// Resident memory of a volcano at rest.
const RSS_MAX_KIB: u64 = 50 * 1024;
/// How long the cost of rest is measured.
const REST: Duration = Duration::from_secs(10);

#[test]
fn a_network_restarts_in_every_order() {
    let mut cluster = Cluster::start(3);
    let orders = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    for order in orders {
        // Whoever is first asked to end must not wait for the others.
        for at in order {
            let signal = if at == 1 {
                Signal::SIGINT
            } else {
                Signal::SIGTERM
            };
            cluster.volcano(at).process().signal(signal);
            // Fails unless the exit code is 0.
            cluster.volcano(at).wait_end().unwrap();
        }
        for at in order {
            cluster.start_without_waiting(at);
        }
        for at in order {
            cluster.volcano(at).wait_ready().unwrap();
        }
        let lava = cluster.ask(0, "lava");
        assert_eq!(lava.matches("alive: yes").count(), 3, "{lava}");
    }
}

/// Ends a volcano under a working mount, in its way, and starts it again: the mount stalls,
/// goes on, and loses nothing.
fn comes_back(end: impl Fn(&mut Cluster, usize)) {
    // Who waits for a volcano that is back hears of that before its connection runs out.
    let noticed = Duration::from_secs(4);
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(3);
    let mount = cluster.mount(0);
    for at in 0..3 {
        let worker = Worker::start(mount.join(format!("dir-{at}")));
        worker.goes_on(20);
        end(&mut cluster, at);
        cluster.start_again(at);
        worker.goes_on(20);
        let longest = worker.end(mount.path());
        println!("volcano {at}: the longest file took {longest:?}");
        assert!(longest < noticed, "a file took {longest:?}");
    }
    mount.end();
}

#[test]
fn a_mount_goes_on_when_a_volcano_was_ended_and_is_back() {
    comes_back(|cluster, at| cluster.volcano(at).terminate().unwrap());
}

#[test]
fn a_mount_goes_on_when_a_volcano_was_killed_and_is_back() {
    comes_back(Cluster::kill);
}

/// Resident memory in KiB, and CPU time in clock ticks.
fn cost(pid: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let rss = line.unwrap().split_whitespace().nth(1).unwrap();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name, which may hold anything but ends with the last bracket.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    (rss.parse().unwrap(), ticks)
}

#[test]
fn a_volcano_at_rest_costs_next_to_nothing() {
    let mut cluster = Cluster::start(3);
    let pids: Vec<u32> = (0..3)
        .map(|at| cluster.volcano(at).process().pid())
        .collect();
    let before: Vec<u64> = pids.iter().map(|pid| cost(*pid).1).collect();
    // Not a guess at when something is done: the cost of this time is what is measured.
    std::thread::sleep(REST);
    for (pid, before) in pids.into_iter().zip(before) {
        let (rss, ticks) = cost(pid);
        // A tick is 10 ms on every Linux that has procfs in this shape.
        let millis = (ticks - before) * 10;
        println!("at rest: {rss} KiB resident, {millis} ms of CPU in {REST:?}");
        if !cfg!(debug_assertions) {
            assert!(rss < RSS_MAX_KIB, "{rss} KiB resident");
        }
    }
}
