//! A few dozen simulated networks; each failure prints the command that replays it.

use integration::sim::{Plan, run};

#[test]
fn networks_come_to_rest_with_every_invariant() {
    let failed: Vec<String> = (0..48)
        .filter_map(|seed| run(Plan::of(seed, 100)).err())
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[test]
fn networks_where_everything_moves_come_to_rest() {
    let failed: Vec<String> = (0..32)
        .filter_map(|seed| run(Plan::churning(seed, 100)).err())
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

/// Seeds, with the steps, whose networks once came to rest in a bad state. What they showed
/// has tests of its own where that is possible; a history changes with everything that is sent.
const ONCE_BAD: [(u64, u32); 13] = [
    // A cycle of directories, aside from the root.
    (406, 150),
    // A copy with replies that its owner had not.
    (101, 150),
    (246, 150),
    (261, 150),
    (301, 150),
    (343, 150),
    (466, 150),
    // A copy that was emptied when it became the owner.
    (589, 150),
    (1142, 150),
    (3621, 150),
    (3935, 150),
    // An outbox that was never emptied.
    (16, 150),
    // A directory's count, too old.
    (2229, 150),
];

#[test]
fn seeds_that_were_once_bad_are_good() {
    let failed: Vec<String> = ONCE_BAD
        .iter()
        .filter_map(|(seed, steps)| run(Plan::of(*seed, *steps)).err())
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}
