//! Every flare is reachable from the root: no cycle of directories has formed aside.

use std::collections::{BTreeMap, BTreeSet};

use magma_core::effect::Effect;
use magma_core::key::{Key, ROOT};

use crate::sim::World;

/// Walks the tree.
pub fn check(world: &World) -> Result<(), String> {
    let mut below: BTreeMap<Key, Vec<Key>> = BTreeMap::new();
    let mut all = BTreeSet::new();
    for (key, effects) in super::all_rows(world)? {
        for effect in effects {
            match effect {
                Effect::PutFlare(_) => drop(all.insert(key)),
                Effect::PutEntry(_, entry) => below.entry(key).or_default().push(entry.child.key()),
                _ => {}
            }
        }
    }
    let mut reached = BTreeSet::from([ROOT]);
    let mut ahead = vec![ROOT];
    while let Some(key) = ahead.pop() {
        for child in below.get(&key).into_iter().flatten() {
            if reached.insert(*child) {
                ahead.push(*child);
            }
        }
    }
    match all.difference(&reached).next() {
        Some(lost) => Err(format!("{lost} cannot be reached from the root")),
        None => Ok(()),
    }
}
