//! A start of an owner: who has the longest history?
//!
//! A process that is killed loses nothing that it has committed, but a host without power comes back
//! with rows as of an earlier moment, and so does a directory from a backup. Its copies have what
//! it has forgotten, and it was acknowledged. So an owner that starts orders nothing before all
//! copies that count have said how far they are; and where one of them has more, that one becomes
//! the owner ([`Change::Yield`]), as if this one had been found dead. It gets the rest from there,
//! and then its slice.

use std::collections::BTreeMap;

use super::Engine;
use crate::agreement::Change;
use crate::ids::{Epoch, Seq, SliceId, VolcanoId};
use crate::store::{Store, StoreResult};

/// Copies that count, and how far they have said to be.
pub(super) type Doubts = BTreeMap<VolcanoId, Option<(Epoch, Seq)>>;

impl<S: Store> Engine<S> {
    /// A copy has said what it holds. True when it has more than we: then it is not to be taken for
    /// one that must be filled anew.
    pub(super) fn hear_doubted(
        &mut self,
        from: VolcanoId,
        slice: SliceId,
        have: Option<(Epoch, Seq)>,
    ) -> StoreResult<bool> {
        let Some(owned) = self.owned.get_mut(&slice) else {
            return Ok(false);
        };
        let Some(said) = owned.doubts.get_mut(&from) else {
            return Ok(false);
        };
        let have = have.unwrap_or_default();
        *said = Some(have);
        let more = has_more(have, (owned.last_epoch, owned.last));
        self.try_to_serve()?;
        Ok(more)
    }

    /// The lava has changed: who does not count any more is not asked.
    pub(super) fn forget_doubts(&mut self) {
        for owned in self.owned.values_mut() {
            let slice = self.lava.slice(owned.id);
            let counts = |volcano: &VolcanoId| {
                slice.is_some_and(|slice| slice.in_sync().any(|copy| copy == *volcano))
            };
            owned.doubts.retain(|volcano, _| counts(volcano));
        }
    }

    /// Serves, if that was asked for and all copies have said how far they are. Slices of which a copy
    /// has more than we are given to it first.
    pub(super) fn try_to_serve(&mut self) -> StoreResult<()> {
        if self.serving || !self.asked_to_serve {
            return Ok(());
        }
        let mut wait = false;
        let mut yields = Vec::new();
        for owned in self.owned.values() {
            let mut said = Some((owned.last_epoch, owned.last));
            let mut most = None;
            for (volcano, have) in &owned.doubts {
                wait |= have.is_none();
                if let (Some(have), Some(best)) = (*have, said)
                    && has_more(have, best)
                {
                    (most, said) = (Some(*volcano), Some(have));
                }
            }
            yields.extend(most.map(|to| (owned.id, to)));
        }
        if wait {
            return Ok(());
        }
        if let Some(&(slice, to)) = yields.first() {
            if self.proposing.is_none() {
                tracing::warn!(target: "magma::r", %slice, to = %self.lava.nick(to),
                    "a copy has operations that this volcano has lost (its power, or its directory): it takes the slice over");
                self.propose(Change::Yield { slice, to });
            }
            return Ok(());
        }
        for owned in self.owned.values_mut() {
            owned.doubts.clear();
        }
        self.serve_now()
    }
}

/// Whether a history goes further than another: by the number of its operations, which an owner
/// before may have counted, too.
fn has_more((epoch, seq): (Epoch, Seq), (than_epoch, than): (Epoch, Seq)) -> bool {
    seq > than && epoch >= than_epoch
}
