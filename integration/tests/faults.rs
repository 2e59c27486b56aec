//! A short form of the fault bench (`cargo run -p integration --bin faults`).

#![allow(clippy::print_stdout, reason = "a test prints what it has measured")]
// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use integration::faults::field::Field;
use integration::faults::figures::{Role, elections, stalls};
use integration::faults::space::Space;
use integration::faults::{Plan, run};
use integration::mounted::can_mount;

/// The longest that a mount may wait when a volcano has died.
const STALL_MAX: Duration = Duration::from_secs(5);
/// The longest that an election may take, with the time in which a dead leader is found out.
const ELECTION_MAX: Duration = Duration::from_secs(5);

/// Whether this machine has network namespaces and tun devices, and we may use them.
fn can_separate() -> bool {
    match Space::new([10, 99, 0, 1].into()) {
        Ok(_) => true,
        Err(why) => {
            println!("left out: {why}");
            false
        }
    }
}

fn say(line: &str) {
    println!("{line}");
}

#[test]
fn nothing_is_lost_by_a_few_faults_and_nobody_stalls_for_long() {
    if !can_mount() || !can_separate() {
        return;
    }
    let plan = Plan {
        seed: 5,
        volcanos: 3,
        clients: 4,
        rounds: 6,
    };
    let shown = run(plan, &say).unwrap_or_else(|why| panic!("{why}"));
    println!("{shown:?}");
    assert!(shown.known > 500, "{shown:?}");

    let mut field = Field::start(3, 1, 1).unwrap();
    for role in [Role::Owner, Role::Redundancy, Role::Coordinator] {
        let times = stalls(&mut field, role, 1, &say).unwrap();
        assert!(times.worst() < STALL_MAX, "{role:?}: {times:?}");
    }
    let times = elections(&mut field, 2, &say).unwrap();
    assert!(times.worst() < ELECTION_MAX, "{times:?}");
    field.end().unwrap();
}
