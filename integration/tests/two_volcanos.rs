//! The smallest networks: two volcanos, with an arbiter and without.

#![allow(clippy::print_stdout, reason = "a test prints what it has measured")]
// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use integration::Cluster;
use integration::mounted::can_mount;
use integration::worker::Worker;

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
        let text = std::fs::read_to_string(&cluster.volcano(0).site().log).ok()?;
        text.contains("votes={1, 2, 3}").then_some(())
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
