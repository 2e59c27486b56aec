//! Entries, links and counts agree, over all volcanos.

use std::collections::{BTreeMap, BTreeSet};

use magma_core::effect::Effect;
use magma_core::flare::{FlareRow, Kind};
use magma_core::ids::FlareRef;
use magma_core::key::ROOT;

use crate::sim::World;

/// A name: child, directory, name.
type Named = (FlareRef, FlareRef, Vec<u8>);

/// Every entry has its flare with its link, every link its entry, and counts are right.
pub fn check(world: &World) -> Result<(), String> {
    let mut flares: BTreeMap<FlareRef, FlareRow> = BTreeMap::new();
    let mut entries: BTreeSet<Named> = BTreeSet::new();
    let mut links: BTreeSet<Named> = BTreeSet::new();
    let mut subdirectories: BTreeMap<FlareRef, u32> = BTreeMap::new();
    let mut entry_counts: BTreeMap<FlareRef, u64> = BTreeMap::new();
    for (key, effects) in super::all_rows(world)? {
        let here = effects.iter().find_map(|effect| match effect {
            Effect::PutFlare(row) => Some(row.flare_ref()),
            _ => None,
        });
        for effect in effects {
            match (effect, here) {
                (Effect::PutFlare(row), _) => drop(flares.insert(row.flare_ref(), *row)),
                (Effect::PutEntry(_, entry), Some(dir)) => {
                    let name = entry.name.as_bytes().to_vec();
                    *entry_counts.entry(dir).or_default() += 1;
                    if entry.kind == Kind::Directory {
                        *subdirectories.entry(dir).or_default() += 1;
                    }
                    entries.insert((entry.child, dir, name));
                }
                (Effect::PutLink(_, link), Some(flare)) => {
                    let name = link.name.as_bytes().to_vec();
                    links.insert((flare, link.parent, name));
                }
                (row @ (Effect::PutEntry(..) | Effect::PutLink(..)), None) => {
                    return Err(format!("{key} has no flare, but {row:?}"));
                }
                _ => {}
            }
        }
    }
    if let Some(lost) = entries.difference(&links).next() {
        return Err(format!("an entry without link: {}", shown(lost)));
    }
    if let Some(lost) = links.difference(&entries).next() {
        return Err(format!("a link without entry: {}", shown(lost)));
    }
    for (flare, row) in &flares {
        let names = links.iter().filter(|(child, _, _)| child == flare).count() as u32;
        let below = subdirectories.get(flare).copied().unwrap_or_default();
        let count = entry_counts.get(flare).copied().unwrap_or_default();
        let wanted = if row.is_dir() { 2 + below } else { names };
        if row.nlink != wanted {
            return Err(format!(
                "{flare} counts {} links, not {wanted}: {row:?}",
                row.nlink
            ));
        }
        if row.entries != count {
            return Err(format!(
                "{flare} counts {} entries, not {count}",
                row.entries
            ));
        }
        if names == 0 && flare.key() != ROOT {
            return Err(format!("an orphan: {row:?}"));
        }
        if names > 1 && row.is_dir() {
            return Err(format!("a directory with {names} names: {row:?}"));
        }
    }
    Ok(())
}

fn shown((child, dir, name): &Named) -> String {
    format!("{child} as {} in {dir}", String::from_utf8_lossy(name))
}
