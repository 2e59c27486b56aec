//! Heartbeats, leases of volcanos, who is dead and who is back.

use magma_core::ids::VolcanoId;
use magma_core::limits::HEARTBEAT_MS;
use rand::Rng;

use super::{Due, World};

impl World {
    /// A volcano says that it is there.
    pub(super) fn beat(&mut self, id: VolcanoId, life: u64) {
        if self.life(id) != life || !self.is_running(id) {
            return;
        }
        self.at(HEARTBEAT_MS, Due::Beat(id, life));
        let stopped = self.volcanos.get(&id).is_some_and(|v| v.stopped);
        let lost = self.faults && self.rng.random_bool(0.05);
        if !stopped && !lost {
            let delay = self.delay();
            let due = Due::Heard {
                from: (id, life),
                sent: self.time,
            };
            self.at(delay, due);
        }
    }

    /// It is heard of where the log is, and gets a lease.
    pub(super) fn heard(&mut self, from: (VolcanoId, u64), sent: u64) {
        if let Some((epoch, lease)) = self.agreement.heard(from.0, self.time) {
            let delay = self.delay();
            let due = Due::Leased {
                to: from,
                epoch,
                until: sent + lease,
            };
            self.at(delay, due);
        }
    }

    /// Who holds the log looks at everybody.
    pub(super) fn watch(&mut self) {
        if self.agreement.look(self.time) {
            if self.trace {
                let what = format!("the watch has decided: {:?}", self.agreement.lava());
                self.note(&what);
            }
            self.spread();
        }
        self.at(100, Due::Watch);
    }

    /// A process is stopped for a while, and goes on as if nothing had happened.
    pub(super) fn stop(&mut self, id: VolcanoId) {
        let Some(volcano) = self.volcanos.get_mut(&id).filter(|v| v.is_running()) else {
            return;
        };
        volcano.stopped = true;
        let life = volcano.life;
        let delay = self.rng.random_range(100..4_000);
        self.at(delay, Due::GoOn(id, life));
    }

    pub(super) fn go_on(&mut self, id: VolcanoId, life: u64) {
        let Some(volcano) = self.volcanos.get_mut(&id).filter(|v| v.life == life) else {
            return;
        };
        volcano.stopped = false;
        if !volcano.inbox.is_empty() && !volcano.scheduled {
            volcano.scheduled = true;
            self.at(0, Due::Batch(id, life));
        }
    }
}
