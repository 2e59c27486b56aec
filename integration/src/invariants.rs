//! What must hold whenever a simulated network has come to rest, one invariant a file.
//!
//! | file | what |
//! |---|---|
//! | [`copies`] | a copy holds what its owner holds, row by row and byte by byte |
//! | [`names`] | entries, links and counts agree, over all volcanos |
//! | [`leases`] | what clients may show under leases is so (checked at every reply) |
//! | [`leftovers`] | nothing is left of transactions that have ended |
//! | [`tree`] | every flare is reachable from the root, once for each of its names |

pub mod copies;
pub mod leases;
pub mod leftovers;
pub mod names;
pub mod tree;

use magma_core::effect::Effect;
use magma_core::engine::Engine;
use magma_core::key::Key;
use magma_core::lava::Slice;
use magma_core::store::View;
use magma_core::store::memory::MemoryStore;

use crate::sim::World;

/// The first thing that is wrong.
pub fn check(world: &World) -> Result<(), String> {
    copies::check(world)?;
    leftovers::check(world)?;
    names::check(world)?;
    tree::check(world)
}

/// All rows of a slice, in order of keys, with the engine that owns them.
fn owned_rows(world: &World, slice: &Slice) -> Result<Vec<(Key, Vec<Effect>)>, String> {
    let owner = world.volcanos().get(&slice.owner).and_then(|v| v.engine());
    let engine = owner.ok_or_else(|| format!("slice {} has no owner", slice.id))?;
    rows(engine, slice)
}

fn rows(engine: &Engine<MemoryStore>, slice: &Slice) -> Result<Vec<(Key, Vec<Effect>)>, String> {
    let mut rows = Vec::new();
    let mut after = slice.start.prev();
    loop {
        let next = engine.store().rows_of_next_key(after, slice.end);
        match next.map_err(|error| error.to_string())? {
            Some((key, effects)) => {
                after = Some(key);
                rows.push((key, effects));
            }
            None => return Ok(rows),
        }
    }
}

/// All rows of the network.
fn all_rows(world: &World) -> Result<Vec<(Key, Vec<Effect>)>, String> {
    let mut all = Vec::new();
    for slice in &world.lava().slices {
        all.extend(owned_rows(world, slice)?);
    }
    Ok(all)
}
