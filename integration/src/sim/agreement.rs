//! A stand-in for the agreement: applies changes one after another, and spreads the lavas.

use magma_core::agreement::Change;
use magma_core::agreement::volcanos::VolcanoWatch;
use magma_core::ids::{Epoch, NetworkId, VolcanoId};
use magma_core::lava::{Lava, VolcanoInfo};
use magma_core::time::Moment;

/// Who holds the log, and watches the volcanos.
pub struct Agreement {
    lava: Lava,
    watch: VolcanoWatch,
}

impl Agreement {
    /// A network of one volcano, with so many copies beside the owner, which evicts whoever is
    /// dead for so long.
    pub fn found(redundancy: u8, evict_after_ms: Option<u64>) -> Result<Agreement, String> {
        let change = Change::Bootstrap {
            network: NetworkId(7),
            volcano: Box::new(info(1)),
            redundancy,
        };
        let lava = Lava::default().apply(&change);
        let lava = lava.map_err(|refused| refused.to_string())?;
        let watch = VolcanoWatch::evicting(evict_after_ms);
        Ok(Agreement { lava, watch })
    }

    /// The lava as of the last change.
    pub fn lava(&self) -> &Lava {
        &self.lava
    }

    /// Decides a change that was made in an epoch; tells whether it is in the lava now.
    pub fn propose(&mut self, epoch: Epoch, change: &Change) -> bool {
        if change.binds_epoch() && epoch != self.lava.epoch {
            return false;
        }
        match self.lava.apply(change) {
            Ok(lava) => {
                self.lava = lava;
                true
            }
            Err(_) => false,
        }
    }

    /// A heartbeat was received. The lease that is answered: the epoch, and for how long.
    pub fn heard(&mut self, id: VolcanoId, time: u64) -> Option<(Epoch, u64)> {
        let lease = self.watch.heard(&self.lava, id, Moment(time))?;
        Some((self.lava.epoch, lease))
    }

    /// Looks who is dead, and who is back. True when the lava has changed.
    pub fn look(&mut self, time: u64) -> bool {
        let verdicts = self
            .watch
            .verdicts(&self.lava, VolcanoId(0), None, Moment(time));
        let mut changed = false;
        for change in verdicts {
            changed |= self.propose(self.lava.epoch, &change);
        }
        changed
    }

    /// A volcano joins after another; its number.
    pub fn join(&mut self, after: VolcanoId) -> Result<VolcanoId, String> {
        let id = VolcanoId(self.lava.next_volcano);
        let change = Change::Join {
            volcano: Box::new(info(id.0)),
            after,
        };
        let lava = self.lava.apply(&change);
        self.lava = lava.map_err(|refused| refused.to_string())?;
        Ok(id)
    }
}

fn info(number: u64) -> VolcanoInfo {
    VolcanoInfo {
        nick: format!("v{number}"),
        fqdn: format!("v{number}.intranet"),
        addr: [10, 0, 0, number as u8].into(),
        port: 12000,
        bandwidth_kbit: 0,
        storage_bytes: 0,
        arbiter: false,
    }
}
