//! The agreement as the coordinator carries it alone.
//!
//! One volcano, the holder of the key of `/.dht`, decides; the others learn whole lavas from
//! it. There is one chain of lavas because each one names who may make the next: the
//! coordinator of the lava that it knows. When the slice of `/.dht` moves, the old coordinator
//! stops with the entry that says so, and the new one begins when it has learned that entry.

use crate::ids::{Epoch, VolcanoId};
use crate::lava::{Lava, VolcanoInfo};
use crate::store::StoreError;
use crate::store::agreement_log::{AgreementLog, LogError};

use super::{Agreement, Change, ChangeRefused, ProposeError, Term};

/// The only term there is without elections.
const TERM: Term = Term(1);

/// [`Agreement`] over the log of this volcano.
#[derive(Debug)]
pub struct CoordinatorLog {
    log: AgreementLog,
    me: Option<VolcanoId>,
    lava: Lava,
    /// This volcano as the log remembers it.
    saved: Option<(VolcanoId, VolcanoInfo)>,
}

impl CoordinatorLog {
    /// Takes over a log with the lava in it; `me` is not known before this volcano has joined.
    pub fn new(log: AgreementLog, me: Option<VolcanoId>) -> Result<CoordinatorLog, StoreError> {
        let lava = log.load()?.unwrap_or_default();
        let saved = log.load_self()?;
        Ok(CoordinatorLog {
            log,
            me,
            lava,
            saved,
        })
    }

    /// Who this volcano is, once it is a member.
    pub fn me(&self) -> Option<VolcanoId> {
        self.me
    }

    /// Becomes a member: keeps the lava of the answer to a join, and in the same transaction who
    /// this volcano is in it, so that a crash never leaves one without the other.
    pub fn joined(&mut self, me: VolcanoId, lava: &Lava) -> Result<(), ProposeError> {
        if let Some(already) = self.me.filter(|&already| already != me) {
            return Err(ProposeError::Foreign(format!(
                "this volcano is volcano {already} already, it cannot join as volcano {me}"
            )));
        }
        if lava.volcano(me).is_none() {
            return Err(ChangeRefused::Unknown(format!("volcano {me} in the lava")).into());
        }
        let before = self.me.replace(me);
        let kept = match self.take_over(lava) {
            Ok(true) => Ok(()),
            // The lava was pushed before the answer came: only the identity is new.
            Ok(false) => self.save_self(),
            Err(error) => Err(error),
        };
        if kept.is_err() {
            self.me = before;
        }
        kept
    }

    /// The log, to look into.
    pub fn log(&self) -> &AgreementLog {
        &self.log
    }

    /// Counts this start: see [`AgreementLog::next_start_number`].
    pub fn next_start_number(&mut self) -> Result<u64, StoreError> {
        self.log.next_start_number()
    }

    fn take_over(&mut self, lava: &Lava) -> Result<bool, ProposeError> {
        lava.check()?;
        if self.lava.is_founded() {
            self.check_kin(lava)?;
            if lava.epoch <= self.lava.epoch {
                return Ok(false);
            }
        }
        self.keep(None, lava.clone())?;
        Ok(true)
    }

    /// Refuses a lava that cannot be of the same chain as ours.
    fn check_kin(&self, other: &Lava) -> Result<(), ProposeError> {
        let ours = &self.lava;
        if (other.network, other.generation) != (ours.network, ours.generation) {
            return Err(ProposeError::Foreign(format!(
                "this volcano belongs to lava network {} generation {}, the other to {} \
                 generation {}: check the address, or join empty with another directory (-d)",
                ours.network, ours.generation, other.network, other.generation
            )));
        }
        if other.epoch == ours.epoch && other != ours {
            return Err(ProposeError::Foreign(format!(
                "there are two different lavas of epoch {} of network {}: one of the two \
                 directories was restored from a backup",
                ours.epoch, ours.network
            )));
        }
        Ok(())
    }

    /// Commits: on the disk first, then in memory.
    fn keep(&mut self, change: Option<&Change>, next: Lava) -> Result<(), ProposeError> {
        let itself = self.unsaved_self(&next);
        self.log
            .append(TERM, change, &next, itself.as_ref())
            .map_err(propose_error)?;
        tracing::debug!(epoch = %next.epoch, ?change, "the lava has changed");
        self.saved = itself.or(self.saved.take());
        self.lava = next;
        Ok(())
    }

    fn save_self(&mut self) -> Result<(), ProposeError> {
        if let Some(itself) = self.unsaved_self(&self.lava) {
            self.log
                .save_self(&itself.0, &itself.1)
                .map_err(propose_error)?;
            self.saved = Some(itself);
        }
        Ok(())
    }

    /// This volcano as a lava describes it, if that is not what a restart would find: an address
    /// given at this start is the one of the next start without flags.
    fn unsaved_self(&self, lava: &Lava) -> Option<(VolcanoId, VolcanoInfo)> {
        let itself = lava.volcano(self.me?)?;
        let itself = (itself.id, itself.info.clone());
        (self.saved.as_ref() != Some(&itself)).then_some(itself)
    }
}

impl Agreement for CoordinatorLog {
    fn lava(&self) -> &Lava {
        &self.lava
    }

    fn leads(&self) -> bool {
        self.me.is_some() && self.lava.coordinator() == self.me
    }

    fn propose(&mut self, epoch: Epoch, change: &Change) -> Result<Lava, ProposeError> {
        if !self.leads() {
            return Err(ProposeError::NotLeader);
        }
        if change.binds_epoch() && epoch != self.lava.epoch {
            return Err(ProposeError::Refused(ChangeRefused::EpochMoved {
                proposed: epoch,
                current: self.lava.epoch,
            }));
        }
        let next = self.lava.apply(change)?;
        self.keep(Some(change), next)?;
        Ok(self.lava.clone())
    }

    fn learn(&mut self, lava: &Lava) -> Result<bool, ProposeError> {
        self.take_over(lava)
    }
}

fn propose_error(error: LogError) -> ProposeError {
    match error {
        LogError::Refused(refused) => ProposeError::Refused(refused),
        LogError::Store(store) => ProposeError::Log(store.to_string()),
    }
}

#[cfg(test)]
#[path = "coordinator_tests.rs"]
mod tests;
