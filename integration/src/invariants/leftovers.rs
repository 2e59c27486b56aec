//! Nothing is left of transactions that have ended.

use magma_core::effect::Effect;
use magma_core::flare::LinkState;

use crate::sim::World;

/// Looks for rows that only a transaction under way may have.
pub fn check(world: &World) -> Result<(), String> {
    for (key, effects) in super::all_rows(world)? {
        for effect in effects {
            let left = match &effect {
                Effect::PutFlare(row) => row.nascent.is_some() || row.nlink == 0,
                Effect::PutEntry(_, entry) => entry.prepared.is_some(),
                Effect::PutLink(_, link) => link.state != LinkState::Settled,
                Effect::PutXattr(_, name, _) => name.first() == Some(&0),
                Effect::PutOutbox(_) | Effect::PutDecision(..) => true,
                _ => false,
            };
            if left {
                return Err(format!("left over at {key}: {effect:?}"));
            }
        }
    }
    Ok(())
}
