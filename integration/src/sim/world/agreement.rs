//! The agreement: proposals, decisions, and lavas that spread.

use magma_core::agreement::Change;
use magma_core::engine::Event;
use magma_core::ids::{Epoch, VolcanoId};
use magma_core::lava::Lava;

use super::super::handover::{self, Next};
use super::{Due, World};

impl World {
    pub(super) fn spread(&mut self) {
        let lava = self.agreement.lava().clone();
        let ids: Vec<VolcanoId> = self.volcanos.keys().copied().collect();
        for id in ids {
            let delay = self.delay();
            self.at(delay, Due::Lava(id, Box::new(lava.clone())));
        }
    }

    pub(super) fn learn(&mut self, id: VolcanoId, lava: Lava) -> Result<(), String> {
        if let Some(volcano) = self.volcanos.get_mut(&id)
            && lava.epoch > volcano.lava.epoch
        {
            volcano.lava = lava.clone();
        }
        self.post(id, Event::Lava(Box::new(lava)));
        Ok(())
    }

    pub(super) fn send_proposal(
        &mut self,
        by: VolcanoId,
        epoch: Epoch,
        change: Change,
        handover: bool,
    ) {
        let life = self.volcanos.get(&by).map_or(0, |v| v.life);
        let delay = self.delay();
        let due = Due::Propose {
            by,
            life,
            epoch,
            change: Box::new(change),
            handover,
        };
        self.at(delay, due);
    }

    pub(super) fn propose(
        &mut self,
        by: VolcanoId,
        life: u64,
        epoch: Epoch,
        change: Box<Change>,
        handover: bool,
    ) -> Result<(), String> {
        let accepted = self.agreement.propose(epoch, &change);
        if self.trace {
            self.note(&format!("agreement: {change:?} of {by}: {accepted}"));
        }
        let lava = accepted.then(|| Box::new(self.agreement.lava().clone()));
        if accepted {
            self.spread();
        }
        let delay = self.delay();
        let due = Due::Decided {
            to: by,
            life,
            change,
            lava,
            handover,
        };
        self.at(delay, due);
        Ok(())
    }

    pub(super) fn decided(
        &mut self,
        to: VolcanoId,
        life: u64,
        change: Box<Change>,
        lava: Option<Box<Lava>>,
        handover: bool,
    ) -> Result<(), String> {
        if self.volcanos.get(&to).is_none_or(|v| v.life != life) {
            return Ok(());
        }
        let accepted = lava.is_some();
        if let Some(lava) = &lava {
            self.learn(to, (**lava).clone())?;
        }
        if !handover {
            self.post(to, Event::Proposed { change, accepted });
            return Ok(());
        }
        if let Some(volcano) = self.volcanos.get(&to) {
            let epoch = volcano.lava.epoch;
            let stage = self.stages.entry(to).or_default();
            let next = handover::decided(stage, volcano, &change, lava.as_deref());
            self.follow(to, epoch, next);
        }
        Ok(())
    }

    pub(super) fn follow(&mut self, id: VolcanoId, epoch: Epoch, next: Next) {
        match next {
            Next::Wait => {}
            Next::Propose(change) => self.send_proposal(id, epoch, change, true),
            Next::Post(event) => self.post(id, event),
        }
    }
}
