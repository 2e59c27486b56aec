//! A copy holds what its owner holds, row by row and byte by byte.

use magma_core::effect::Effect;
use magma_core::store::View;

use crate::sim::World;

/// Compares every slice with its copies.
pub fn check(world: &World) -> Result<(), String> {
    for slice in &world.lava().slices {
        let owned = super::owned_rows(world, slice)?;
        let owner = world.volcanos().get(&slice.owner).and_then(|v| v.engine());
        for copy in &slice.copies {
            let engine = world.volcanos().get(&copy.volcano).and_then(|v| v.engine());
            let (Some(owner), Some(engine)) = (owner, engine) else {
                return Err(format!("a volcano of slice {} does not run", slice.id));
            };
            let copied = super::rows(engine, slice)?;
            let place = format!("slice {} of {} on {}", slice.id, slice.owner, copy.volcano);
            if let Some((one, other)) = owned.iter().zip(&copied).find(|(one, other)| one != other)
            {
                let only = |rows: &[Effect], than: &[Effect]| -> Vec<Effect> {
                    rows.iter()
                        .filter(|row| !than.contains(row))
                        .cloned()
                        .collect()
                };
                return Err(format!(
                    "{place} differs: {} has {:?}, the copy of {} has {:?}",
                    one.0,
                    only(&one.1, &other.1),
                    other.0,
                    only(&other.1, &one.1)
                ));
            }
            if owned.len() != copied.len() {
                return Err(format!(
                    "{place}: {} keys, {} copied",
                    owned.len(),
                    copied.len()
                ));
            }
            for row in owned.iter().flat_map(|(_, effects)| effects) {
                let Effect::PutFlare(row) = row else { continue };
                let size = row.size as usize;
                let read = (
                    owner.store().read(row, 0, size),
                    engine.store().read(row, 0, size),
                );
                let (Ok(one), Ok(other)) = read else {
                    return Err(format!("{place}: content of {} cannot be read", row.key));
                };
                let padded = |bytes: bytes::Bytes| {
                    let mut bytes = bytes.to_vec();
                    bytes.resize(size, 0);
                    bytes
                };
                let (one, other) = (padded(one), padded(other));
                if one != other {
                    let texts = [one, other].map(|bytes| bytes.escape_ascii().to_string());
                    return Err(format!("{place}: content of {row:?} differs: {texts:?}"));
                }
            }
        }
    }
    Ok(())
}
