//! A new generation of a network: what is left of it goes on without those who are gone, by the
//! word of a person.
//!
//! The agreement needs a majority; when that is gone for good nobody can decide anything, not even
//! who is gone. A takeover begins the agreement anew with those who are there. Nobody can prove that
//! the others do not go on somewhere as the generation before, so the two never mix: whoever is of
//! another generation is refused, and comes back only as empty (decision 17).

use crate::agreement::ChangeRefused;
use crate::ids::{Epoch, Generation, VolcanoId};
use crate::limits::TAKEOVER_EPOCHS;

use super::Lava;

impl Lava {
    /// The lava of the next generation, with these members only. Refused where none of them has all
    /// of a slice.
    pub fn taken_over(&self, present: &[VolcanoId]) -> Result<Lava, ChangeRefused> {
        let absent = self.volcanos.iter().map(|volcano| volcano.id);
        let absent: Vec<VolcanoId> = absent.filter(|id| !present.contains(id)).collect();
        let mut next = self.clone();
        next.generation = Generation(self.generation.0.saturating_add(1));
        // Whatever the others have decided meanwhile is older than this.
        next.epoch = Epoch(self.epoch.0.saturating_add(TAKEOVER_EPOCHS));
        let dead: Vec<VolcanoId> = absent
            .iter()
            .copied()
            .filter(|id| !self.is_down(*id))
            .collect();
        next = next.without(&dead)?;
        for id in absent {
            if !next.is_evicted(id) {
                next.evict(id)?;
            }
            next.forget(id)?;
        }
        next.check()?;
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agreement::Change;
    use crate::lava::samples::{apply, three};

    const W: VolcanoId = VolcanoId(1);
    const G: VolcanoId = VolcanoId(2);
    const P: VolcanoId = VolcanoId(3);

    #[test]
    fn who_has_everything_goes_on_without_the_others() {
        let lava = three();
        let next = lava.taken_over(&[G]).expect("it has everything");
        assert_eq!(next.generation, Generation(lava.generation.0 + 1));
        assert!(next.epoch.0 > lava.epoch.0 + 1_000_000);
        assert_eq!(next.volcanos.len(), 1);
        let slice = &next.slices[0];
        assert_eq!((slice.owner, slice.home, slice.since), (G, G, next.epoch));
        assert!(slice.seized && slice.copies.is_empty());
        assert_eq!(next.voters(), [G].into());
        // The owner keeps what it owns, and whoever is there stays.
        let next = lava.taken_over(&[W, P]).expect("it has everything");
        assert_eq!((next.slices[0].owner, next.volcanos.len()), (W, 2));
        assert!(!next.slices[0].seized);
    }

    #[test]
    fn nobody_goes_on_without_a_part_of_the_keys() {
        let lava = three();
        let refused = lava.taken_over(&[P]).expect_err("nobody has the slice");
        assert!(
            refused.to_string().contains("bring back wallace or gromit"),
            "{refused}"
        );
        // One that fell behind before has not all of it.
        let lava = apply(&lava, &[Change::Down(G)]);
        assert!(lava.taken_over(&[G, P]).is_err());
        let next = lava.taken_over(&[W]).expect("it has everything");
        assert_eq!(next.volcanos.len(), 1);
    }
}
