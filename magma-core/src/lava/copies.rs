//! Where copies belong, and the next steps towards that.

use crate::ids::{SliceId, VolcanoId};

use super::{Lava, Slice};

/// What the owner of a slice should do or propose next for one of its copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CopyPlan {
    /// The copy belongs there and is in the lava, but does not count yet: fill it, then
    /// propose that it is in sync.
    Fill {
        /// The slice.
        slice: SliceId,
        /// On whom.
        volcano: VolcanoId,
    },
    /// A copy is missing there: propose to add it.
    Add {
        /// The slice.
        slice: SliceId,
        /// On whom.
        volcano: VolcanoId,
    },
    /// The copy does not belong there and is no longer needed: propose to remove it.
    Remove {
        /// The slice.
        slice: SliceId,
        /// On whom.
        volcano: VolcanoId,
    },
}

/// What an owner has to do for its copies, slice by slice in key order: first what is to be
/// filled or added, nearest volcano of the ring first, then what is to be removed.
///
/// A copy that is in the wrong place counts as long as it is needed: it is removed only when
/// as many in-sync copies as the slice should have are left without it. One that was never
/// filled protects nothing and goes at once.
pub fn copy_plan(lava: &Lava, owner: VolcanoId) -> Vec<CopyPlan> {
    lava.owned_by(owner)
        .flat_map(|slice| plan_slice(lava, slice, &lava.wanted_copies(slice)))
        .collect()
}

/// A slice that its owner holds for another, who is back and has all of it: it is to be handed over.
pub fn home_coming(lava: &Lava, owner: VolcanoId) -> Option<(SliceId, VolcanoId)> {
    let mut owned = lava.owned_by(owner);
    let slice = owned.find(|slice| {
        slice.home != owner && slice.in_sync().any(|volcano| volcano == slice.home)
    })?;
    Some((slice.id, slice.home))
}

/// Whether a slice that is being handed over can still go there.
pub fn may_follow(lava: &Lava, owner: VolcanoId, slice: SliceId, to: VolcanoId) -> bool {
    let ours = lava.slice(slice).filter(|slice| slice.owner == owner);
    ours.is_some_and(|slice| slice.in_sync().any(|volcano| volcano == to))
}

fn plan_slice(lava: &Lava, slice: &Slice, wanted: &[VolcanoId]) -> Vec<CopyPlan> {
    let mut plan = Vec::new();
    for &volcano in wanted {
        match slice.copy_on(volcano) {
            // It gets what it needs when it is back.
            _ if lava.is_down(volcano) => {}
            None => plan.push(CopyPlan::Add {
                slice: slice.id,
                volcano,
            }),
            Some(copy) if !copy.in_sync => plan.push(CopyPlan::Fill {
                slice: slice.id,
                volcano,
            }),
            Some(_) => {}
        }
    }
    let mut spare = slice.in_sync().count().saturating_sub(wanted.len());
    for copy in &slice.copies {
        if wanted.contains(&copy.volcano) {
            continue;
        }
        if copy.in_sync {
            if spare == 0 {
                continue;
            }
            spare -= 1;
        }
        plan.push(CopyPlan::Remove {
            slice: slice.id,
            volcano: copy.volcano,
        });
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agreement::Change;
    use crate::lava::samples::{after, apply, founded};

    const SLICE: SliceId = SliceId(1);
    const ONE: VolcanoId = VolcanoId(1);

    fn add(volcano: u64) -> Change {
        Change::AddCopy {
            slice: SLICE,
            volcano: VolcanoId(volcano),
        }
    }
    fn in_sync(volcano: u64) -> Change {
        Change::CopyInSync {
            slice: SLICE,
            volcano: VolcanoId(volcano),
        }
    }
    fn plan_add(volcano: u64) -> CopyPlan {
        CopyPlan::Add {
            slice: SLICE,
            volcano: VolcanoId(volcano),
        }
    }
    fn plan_fill(volcano: u64) -> CopyPlan {
        CopyPlan::Fill {
            slice: SLICE,
            volcano: VolcanoId(volcano),
        }
    }
    fn plan_remove(volcano: u64) -> CopyPlan {
        CopyPlan::Remove {
            slice: SLICE,
            volcano: VolcanoId(volcano),
        }
    }

    #[test]
    fn one_copy_moves_to_the_newcomer_without_a_gap() {
        let mut lava = founded("wallace", 1);
        assert_eq!(copy_plan(&lava, ONE), []);
        lava = apply(&lava, &[after(&lava, "gromit", 1)]);
        assert_eq!(copy_plan(&lava, ONE), [plan_add(2)]);
        lava = apply(&lava, &[add(2)]);
        assert_eq!(copy_plan(&lava, ONE), [plan_fill(2)]);
        lava = apply(&lava, &[in_sync(2)]);
        assert_eq!(copy_plan(&lava, ONE), []);
        assert_eq!(
            copy_plan(&lava, VolcanoId(2)),
            [],
            "gromit owns nothing yet"
        );

        // Penguin comes between the two: gromit's copy stays until penguin's counts.
        lava = apply(&lava, &[after(&lava, "penguin", 1)]);
        assert_eq!(copy_plan(&lava, ONE), [plan_add(3)]);
        lava = apply(&lava, &[add(3)]);
        assert_eq!(copy_plan(&lava, ONE), [plan_fill(3)]);
        lava = apply(&lava, &[in_sync(3)]);
        assert_eq!(copy_plan(&lava, ONE), [plan_remove(2)]);
    }

    #[test]
    fn an_unfilled_copy_in_the_wrong_place_goes_at_once() {
        let mut lava = founded("wallace", 1);
        lava = apply(&lava, &[after(&lava, "gromit", 1), add(2)]);
        lava = apply(&lava, &[after(&lava, "penguin", 1)]);
        assert_eq!(copy_plan(&lava, ONE), [plan_add(3), plan_remove(2)]);
    }

    #[test]
    fn never_fewer_in_sync_copies_than_wanted() {
        let mut lava = founded("a", 2);
        lava = apply(&lava, &[after(&lava, "b", 1), add(2), in_sync(2)]);
        lava = apply(&lava, &[after(&lava, "c", 2), add(3), in_sync(3)]);
        lava = apply(&lava, &[after(&lava, "d", 1)]);
        lava = apply(&lava, &[after(&lava, "e", 1)]);
        // The ring is a e d b c; wanted are e and d, there are b and c.
        assert_eq!(copy_plan(&lava, ONE), [plan_add(5), plan_add(4)]);
        lava = apply(&lava, &[add(5), in_sync(5)]);
        assert_eq!(copy_plan(&lava, ONE), [plan_add(4), plan_remove(2)]);
        lava = apply(&lava, &[add(4), in_sync(4)]);
        assert_eq!(copy_plan(&lava, ONE), [plan_remove(2), plan_remove(3)]);
    }
}
