//! Volcanos that are not there: dead, back, evicted, forgotten.
//!
//! | state | what the others do |
//! |---|---|
//! | down | others own its slices for it; its copies do not count, and are not replaced: it may be back in a moment |
//! | evicted | its copies are made anew on the next volcanos of the ring; it votes no longer |
//! | forgotten | it is no member any more: what it owned belongs to those who own it now |
//!
//! One that is evicted and comes back is filled, and gets its slices back, as one that was down; one
//! that is forgotten can only join anew, with an empty directory.

use crate::agreement::ChangeRefused;
use crate::ids::VolcanoId;

use super::{CopyState, Lava};

impl Lava {
    /// Whether a volcano was found dead.
    pub fn is_down(&self, id: VolcanoId) -> bool {
        self.volcano(id).is_some_and(|volcano| volcano.down)
    }

    /// Whether a volcano is dead and nobody counts on its return.
    pub fn is_evicted(&self, id: VolcanoId) -> bool {
        self.volcano(id).is_some_and(|volcano| volcano.evicted)
    }

    /// The lava without volcanos that are not there: each is down. Refused where nobody else has all of
    /// a slice.
    pub fn without(&self, missing: &[VolcanoId]) -> Result<Lava, ChangeRefused> {
        let mut next = self.clone();
        for id in missing {
            next.down(*id)?;
        }
        let lost = next.slices.iter().find(|slice| next.is_down(slice.owner));
        if let Some(slice) = lost.and_then(|slice| self.slice(slice.id)) {
            let holders: Vec<String> = std::iter::once(slice.owner)
                .chain(slice.in_sync())
                .map(|id| self.nick(id))
                .collect();
            return Err(ChangeRefused::Impossible(format!(
                "nobody who is there has all of slice {} (keys {} to {}): bring back {}",
                slice.id,
                slice.start,
                slice.end,
                holders.join(" or ")
            )));
        }
        Ok(next)
    }

    /// A volcano is dead. Whatever it owned goes to the next volcano of the ring that holds all
    /// of it; where none does, it stays, and waits for it. What it has becomes an old copy.
    pub(super) fn down(&mut self, id: VolcanoId) -> Result<(), ChangeRefused> {
        let place = self.position_of(id)?;
        if self.volcanos[place].down {
            return Err(ChangeRefused::Impossible(format!(
                "{} is known to be down already",
                self.nick(id)
            )));
        }
        self.volcanos[place].down = true;
        let epoch = self.epoch;
        let heirs: Vec<VolcanoId> = self.followers(id).collect();
        for slice in &mut self.slices {
            if slice.owner == id {
                let holds = |heir: &&VolcanoId| slice.in_sync().any(|copy| copy == **heir);
                let Some(&heir) = heirs.iter().find(holds) else {
                    continue;
                };
                (slice.owner, slice.since, slice.seized) = (heir, epoch, true);
                slice.copies.retain(|copy| copy.volcano != heir);
                slice.copies.push(CopyState {
                    volcano: id,
                    in_sync: false,
                });
            }
            for copy in &mut slice.copies {
                copy.in_sync &= copy.volcano != id;
            }
        }
        Ok(())
    }

    /// A volcano that was dead is back. It gets what it missed, and then what it owned.
    pub(super) fn up(&mut self, id: VolcanoId) -> Result<(), ChangeRefused> {
        let place = self.position_of(id)?;
        let nick = self.nick(id);
        let volcano = &mut self.volcanos[place];
        if !volcano.down {
            return Err(ChangeRefused::Impossible(format!(
                "{nick} is not known to be down"
            )));
        }
        (volcano.down, volcano.evicted) = (false, false);
        Ok(())
    }

    /// Nobody counts on a dead volcano any more. What it owned is still held for it.
    pub(super) fn evict(&mut self, id: VolcanoId) -> Result<(), ChangeRefused> {
        let place = self.position_of(id)?;
        let nick = self.nick(id);
        if !self.volcanos[place].down {
            return Err(ChangeRefused::Impossible(format!(
                "{nick} is alive: end it first (`shutdown node` on its console)"
            )));
        }
        if self.volcanos[place].evicted {
            return Err(ChangeRefused::Impossible(format!(
                "{nick} is evicted already"
            )));
        }
        if let Some(slice) = self.owned_by(id).next() {
            return Err(ChangeRefused::Impossible(format!(
                "nobody else has all of slice {} of {nick}: only {nick} can bring it back",
                slice.id
            )));
        }
        self.volcanos[place].evicted = true;
        for slice in &mut self.slices {
            slice.copies.retain(|copy| copy.volcano != id);
        }
        Ok(())
    }

    /// An evicted volcano is no member any more.
    pub(super) fn forget(&mut self, id: VolcanoId) -> Result<(), ChangeRefused> {
        let place = self.position_of(id)?;
        if !self.volcanos[place].evicted {
            return Err(ChangeRefused::Impossible(format!(
                "{} is not evicted: only who is evicted can be forgotten",
                self.nick(id)
            )));
        }
        for slice in &mut self.slices {
            if slice.home == id {
                slice.home = slice.owner;
            }
        }
        self.volcanos.remove(place);
        Ok(())
    }

    pub(super) fn refuse_down(&self, id: VolcanoId) -> Result<(), ChangeRefused> {
        match self.is_down(id) {
            true => Err(ChangeRefused::Impossible(format!(
                "{} is down",
                self.nick(id)
            ))),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agreement::Change;
    use crate::ids::SliceId;
    use crate::lava::copies::{CopyPlan, copy_plan};
    use crate::lava::join::newcomer_after;
    use crate::lava::samples::{after, apply, founded, info, three};

    const W: VolcanoId = VolcanoId(1);
    const G: VolcanoId = VolcanoId(2);
    const P: VolcanoId = VolcanoId(3);
    const SLICE: SliceId = SliceId(1);

    #[test]
    fn an_evicted_volcano_is_replaced_and_gets_its_slices_back() {
        let lava = apply(&three(), &[Change::Down(W)]);
        assert_eq!(lava.slices[0].owner, G);
        assert_eq!(copy_plan(&lava, G), [], "it keeps its place");
        let lava = apply(&lava, &[Change::Evict(W)]);
        let (slice, volcano) = (SLICE, P);
        assert_eq!(copy_plan(&lava, G), [CopyPlan::Add { slice, volcano }]);
        assert!(!lava.voters().contains(&W));
        let lava = apply(&lava, &[Change::Up(W)]);
        assert_eq!(lava.slices[0].home, W);
        assert_eq!(lava.wanted_copies(&lava.slices[0]), [W]);
    }

    #[test]
    fn only_the_dead_who_are_not_needed_are_evicted_and_only_the_evicted_forgotten() {
        let lava = three();
        assert!(lava.apply(&Change::Evict(W)).is_err(), "alive");
        assert!(lava.apply(&Change::Forget(W)).is_err());
        let alone = apply(&lava, &[Change::Down(G), Change::Down(W)]);
        assert_eq!(alone.slices[0].owner, W);
        for missing in [[G, W], [W, G]] {
            let refused = lava.without(&missing).expect_err("nobody has it");
            assert!(
                refused.to_string().contains("wallace or gromit"),
                "{refused}"
            );
        }
        assert_eq!(
            lava.without(&[P, W]).expect("gromit has all").slices[0].owner,
            G
        );
        assert!(alone.apply(&Change::Evict(W)).is_err(), "all is on it");
        let gone = apply(
            &lava,
            &[Change::Down(W), Change::Evict(W), Change::Forget(W)],
        );
        assert_eq!((gone.slices[0].owner, gone.slices[0].home), (G, G));
        assert_eq!(gone.volcanos.len(), 2);
        assert_eq!(gone.check(), Ok(()));
    }

    #[test]
    fn an_arbiter_votes_and_holds_nothing() {
        let lava = founded("wallace", 1);
        let lava = apply(&lava, &[after(&lava, "gromit", 1)]);
        let mut arbiter = info("feathers", 9);
        arbiter.arbiter = true;
        let volcano = Box::new(arbiter);
        let lava = apply(&lava, &[Change::Join { volcano, after: W }]);
        let feathers = P;
        assert!(lava.is_arbiter(feathers));
        assert_eq!(lava.voters(), [W, G, feathers].into());
        // It stands between the two, and nothing is put on it.
        assert_eq!(lava.wanted_copies(&lava.slices[0]), [G]);
        assert_eq!(newcomer_after(&lava, W), Some(G));
        let (slice, volcano) = (SLICE, feathers);
        let refused = lava.apply(&Change::AddCopy { slice, volcano });
        assert!(refused.is_err_and(|why| why.to_string().contains("arbiter")));
        let mut wrong = lava.clone();
        wrong.slices[0].owner = feathers;
        assert!(wrong.check().is_err());
        let mut plain = lava.volcano(feathers).expect("a member").info.clone();
        plain.arbiter = false;
        assert!(
            lava.apply(&Change::Update(feathers, Box::new(plain)))
                .is_err()
        );
        // Of four, three hold keys, and those vote.
        let lava = apply(&lava, &[after(&lava, "penguin", 2)]);
        assert_eq!(lava.voters(), [W, G, VolcanoId(4)].into());
    }

    #[test]
    fn who_is_evicted_may_join_anew_by_its_name() {
        let lava = apply(&three(), &[Change::Down(P)]);
        let join = Change::Join {
            volcano: Box::new(info("penguin", 9)),
            after: G,
        };
        assert!(lava.apply(&join).is_err());
        let lava = apply(&lava, &[Change::Evict(P), join]);
        let penguin = lava.volcano_called("penguin").expect("a member");
        assert_eq!((penguin.id, penguin.down), (VolcanoId(4), false));
        assert_eq!(lava.volcanos.len(), 3);
    }
}
