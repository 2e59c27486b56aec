//! Volcanos: they join, start, crash and lose their connections.

use magma_core::engine::{Action, Event};
use magma_core::ids::{Epoch, VolcanoId};
use magma_core::time::Moment;
use rand::Rng;

use super::super::handover::Stage;
use super::super::network::Dialled;
use super::super::volcano::Volcano;
use super::{Due, World};

impl World {
    pub(super) fn add_volcano(&mut self, id: VolcanoId) {
        let ships_early = self.rng.random_bool(0.4);
        let volcano = Volcano::new(id, self.agreement.lava().clone(), ships_early);
        self.volcanos.insert(id, volcano);
        self.stages.insert(id, Stage::Idle);
        self.at(0, Due::Restart(id));
    }

    pub(super) fn start(&mut self, id: VolcanoId) -> Result<(), String> {
        let lava = self.agreement.lava().clone();
        let fresh = self.rng.random_bool(0.5);
        let others: Vec<VolcanoId> = self.volcanos.keys().copied().filter(|v| *v != id).collect();
        let Some(volcano) = self.volcanos.get_mut(&id) else {
            return Ok(());
        };
        if fresh {
            volcano.lava = lava.clone();
        }
        volcano.start(self.time)?;
        let life = volcano.life;
        // It serves when it has a lease.
        let (epoch, until) = (Epoch(0), Moment(0));
        self.post(id, Event::VolcanoLease { epoch, until });
        self.post(id, Event::Serve);
        self.at(0, Due::Beat(id, life));
        // Clients notice that their connection has ended, and make a new one.
        for client in 0..self.clients.len() {
            let delay = self.delay();
            let to = (id, life);
            self.at(delay, Due::Hello { to, client });
        }
        self.at(0, Due::Tick(id, life));
        let delay = self.delay();
        self.at(delay, Due::Lava(id, Box::new(lava)));
        for other in others {
            for dialled in [(id, other), (other, id)] {
                let delay = 1 + self.delay();
                self.at(delay, Due::Connect(dialled));
            }
        }
        Ok(())
    }

    pub(super) fn crash(&mut self, id: VolcanoId) -> Result<(), String> {
        let moment = self.rng.random_range(0..4);
        let Some(volcano) = self.volcanos.get_mut(&id).filter(|v| v.is_running()) else {
            return Ok(());
        };
        let mut early = Vec::new();
        match moment {
            // A batch was committed, and nobody heard of it.
            0 => drop(volcano.handle(self.time)?),
            // It was not committed, and its copies have heard of it.
            1 => early = volcano.crash_before_commit(self.time)?,
            _ => {}
        }
        volcano.crash();
        for action in early {
            if let Action::Send {
                to,
                message,
                payload,
            } = action
            {
                let payload = payload.concat().into();
                let from = id;
                self.post(
                    to,
                    Event::Peer {
                        from,
                        message,
                        payload,
                    },
                );
            }
        }
        self.stages.insert(id, Stage::Idle);
        let others: Vec<VolcanoId> = self.volcanos.keys().copied().filter(|v| *v != id).collect();
        for other in others {
            self.network.disconnect((id, other));
            self.disconnect((other, id));
        }
        let delay = self.rng.random_range(1..3_000);
        self.at(delay, Due::Restart(id));
        Ok(())
    }

    pub(super) fn is_running(&self, id: VolcanoId) -> bool {
        self.volcanos.get(&id).is_some_and(Volcano::is_running)
    }

    pub(super) fn connect(&mut self, dialled: Dialled) {
        let both = self.is_running(dialled.0) && self.is_running(dialled.1);
        if both && !self.network.is_up(dialled) {
            self.network.connect(dialled);
            self.post(dialled.0, Event::PeerUp(dialled.1));
        }
    }

    pub(super) fn disconnect(&mut self, dialled: Dialled) {
        if self.network.disconnect(dialled) {
            self.post(dialled.0, Event::PeerDown(dialled.1));
        }
    }

    pub(super) fn fault(&mut self) -> Result<(), String> {
        if !self.faults {
            return Ok(());
        }
        let ids: Vec<VolcanoId> = self.volcanos.keys().copied().collect();
        let one = ids[self.rng.random_range(0..ids.len())];
        let other = ids[self.rng.random_range(0..ids.len())];
        if self.rng.random_bool(0.4) {
            self.crash(one)?;
        } else if self.rng.random_bool(0.1) {
            self.stop(one);
        } else if one != other {
            self.disconnect((one, other));
            let delay = self.rng.random_range(1..1_500);
            self.at(delay, Due::Connect((one, other)));
        }
        let longest = if self.plan.churn { 800 } else { 4_000 };
        let pause = self.rng.random_range(50..longest);
        self.at(pause, Due::Fault);
        Ok(())
    }

    pub(super) fn join(&mut self) -> Result<(), String> {
        let known = self.volcanos.len() as u32;
        let settled = self
            .agreement
            .lava()
            .volcanos
            .iter()
            .all(|v| self.agreement.lava().owned_by(v.id).next().is_some());
        if known < 2 || (self.joins_left > 0 && settled) {
            self.joins_left -= u32::from(known >= 2);
            let last = VolcanoId(self.rng.random_range(1..=u64::from(known)));
            let id = self.agreement.join(last)?;
            self.add_volcano(id);
            self.spread();
        }
        if self.joins_left > 0 {
            let delay = self.rng.random_range(100..6_000);
            self.at(delay, Due::Join);
        }
        Ok(())
    }
}
