//! What a client may show under a lease is what the owner would answer.

use magma_core::store::View;

use crate::sim::World;

/// Compares everything that is leased with the rows of the owners that run.
pub fn check(world: &World) -> Result<(), String> {
    for (session, key, version, by) in world.leased() {
        let owner = world.owner_of(key);
        let Some(engine) = owner.and_then(|volcano| volcano.engine()) else {
            continue;
        };
        let row = engine
            .store()
            .flare(key)
            .map_err(|error| error.to_string())?;
        let now = row.map(|row| row.version);
        if now != Some(version) {
            return Err(format!(
                "{session} may show {key} as of {version} under a lease of {by}, where it is {now:?}"
            ));
        }
    }
    Ok(())
}
