//! A few dozen simulated networks; each failure prints the command that replays it.

use integration::sim::{Plan, run};

#[test]
fn networks_come_to_rest_with_every_invariant() {
    let failed: Vec<String> = (0..48)
        .filter_map(|seed| run(Plan::of(seed, 100)).err())
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}
