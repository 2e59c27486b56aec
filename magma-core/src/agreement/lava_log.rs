//! The lavas that a volcano has learned, on its disk: what it starts from, and works by before the
//! agreement has told it anything.
//!
//! A lava counts here when it is of our network and generation, legal, and newer than ours. What a
//! volcano is told is decided already, by the agreement; nobody works by a lava before it is kept.

use crate::ids::VolcanoId;
use crate::lava::{Lava, VolcanoInfo};
use crate::store::StoreError;
use crate::store::agreement_log::starts::SeenStart;
use crate::store::agreement_log::{AgreementLog, LogError};

use super::{ChangeRefused, LearnError, Term};

/// Who led when a lava was decided is not told with it.
const TERM: Term = Term(0);

/// What this volcano has learned.
#[derive(Debug)]
pub struct LavaLog {
    log: AgreementLog,
    me: Option<VolcanoId>,
    lava: Lava,
    /// This volcano as the log remembers it.
    saved: Option<(VolcanoId, VolcanoInfo)>,
}

impl LavaLog {
    /// Takes over a log with the lava in it; `me` is not known before this volcano has joined.
    pub fn new(log: AgreementLog, me: Option<VolcanoId>) -> Result<LavaLog, StoreError> {
        let lava = log.load()?.unwrap_or_default();
        let saved = log.load_self()?;
        Ok(LavaLog {
            log,
            me,
            lava,
            saved,
        })
    }

    /// The newest lava.
    pub fn lava(&self) -> &Lava {
        &self.lava
    }

    /// Takes over a lava that was decided: on the disk when this returns. False when it is known, or
    /// older than ours.
    pub fn learn(&mut self, lava: &Lava) -> Result<bool, LearnError> {
        self.take_over(lava)
    }

    /// Who this volcano is, once it is a member.
    pub fn me(&self) -> Option<VolcanoId> {
        self.me
    }

    /// Becomes a member: keeps the lava of the answer to a join, and in the same transaction who
    /// this volcano is in it, so that a crash never leaves one without the other.
    pub fn joined(&mut self, me: VolcanoId, lava: &Lava) -> Result<(), LearnError> {
        if let Some(already) = self.me.filter(|&already| already != me) {
            return Err(LearnError::Foreign(format!(
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

    /// Counts this start: see [`AgreementLog::next_start`].
    pub fn next_start(&mut self, life: u64) -> Result<Vec<SeenStart>, StoreError> {
        self.log.next_start(life)
    }

    fn take_over(&mut self, lava: &Lava) -> Result<bool, LearnError> {
        lava.check()?;
        if self.lava.is_founded() {
            self.check_kin(lava)?;
            if lava.epoch <= self.lava.epoch {
                return Ok(false);
            }
        }
        self.keep(lava.clone())?;
        Ok(true)
    }

    /// Refuses a lava that cannot be of the same chain as ours.
    fn check_kin(&self, other: &Lava) -> Result<(), LearnError> {
        let ours = &self.lava;
        if (other.network, other.generation) != (ours.network, ours.generation) {
            return Err(LearnError::Foreign(format!(
                "this volcano belongs to lava network {} generation {}, the other to {} \
                 generation {}: check the address, or join empty with another directory (-d)",
                ours.network, ours.generation, other.network, other.generation
            )));
        }
        if other.epoch == ours.epoch && other != ours {
            return Err(LearnError::Foreign(format!(
                "there are two different lavas of epoch {} of network {}: one of the two \
                 directories was restored from a backup",
                ours.epoch, ours.network
            )));
        }
        Ok(())
    }

    /// Commits: on the disk first, then in memory.
    fn keep(&mut self, next: Lava) -> Result<(), LearnError> {
        let itself = self.unsaved_self(&next);
        self.log
            .append(TERM, None, &next, itself.as_ref())
            .map_err(learn_error)?;
        tracing::debug!(epoch = %next.epoch, "a lava is kept");
        self.saved = itself.or(self.saved.take());
        self.lava = next;
        Ok(())
    }

    fn save_self(&mut self) -> Result<(), LearnError> {
        if let Some(itself) = self.unsaved_self(&self.lava) {
            self.log
                .save_self(&itself.0, &itself.1)
                .map_err(learn_error)?;
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

fn learn_error(error: LogError) -> LearnError {
    match error {
        LogError::Refused(refused) => LearnError::Refused(refused),
        LogError::Store(store) => LearnError::Log(store.to_string()),
    }
}

#[cfg(test)]
#[path = "lava_log_tests.rs"]
mod tests;
