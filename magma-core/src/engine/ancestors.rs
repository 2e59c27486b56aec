//! The walk up from where a directory is to come: no directory may come below itself.
//!
//! It is made under the network-wide rename lock, so that no directory changes its parent
//! meanwhile, by the links of the directories and not by what the client believes: another
//! mount may have moved any of them since.

use super::Engine;
use super::rename::RenameTx;
use crate::error::{OpError, OpResult};
use crate::flare::{Kind, LinkRow, LinkState};
use crate::ids::{FlareRef, TxId};
use crate::key::ROOT;
use crate::store::{Store, StoreResult};
use crate::wire::peer::{StepAnswer, StepBody};

/// Directories deeper than this cannot be the destination of a moved directory.
const DEPTH_MAX: u32 = 4096;

/// A walk up to the root.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    /// The directory into which something comes.
    from: FlareRef,
    /// That something: it must not be met.
    coming: FlareRef,
    /// Parents walked up so far.
    depth: u32,
}

impl Walk {
    /// What must be walked for a rename. An exchange moves two: what lay at the destination
    /// comes into the source directory, which may lie below it.
    pub(super) fn all_of(rename: &RenameTx) -> Vec<Walk> {
        let walk = |from, coming| Walk {
            from,
            coming,
            depth: 0,
        };
        let moved = (rename.moved_kind == Kind::Directory).then_some(rename.moved);
        let victim = rename
            .victim
            .filter(|(_, kind)| rename.exchange && *kind == Kind::Directory);
        let moved = moved.map(|moved| walk(rename.to_dir, moved));
        let victim = victim.map(|(victim, _)| walk(rename.from_dir, victim));
        moved.into_iter().chain(victim).collect()
    }
}

impl<S: Store> Engine<S> {
    /// Begins the next walk of a rename, or asks the holders when all are done.
    pub(super) fn walk_on(&mut self, tx: TxId) {
        let Some(rename) = self.rename_mut(tx) else {
            return;
        };
        let driver = rename.to_dir.key();
        match rename.walks.last().map(|walk| walk.from) {
            Some(dir) => self.tx_step(tx, driver, dir.key(), StepBody::GetParent(dir)),
            None => self.prepare(tx),
        }
    }

    /// A directory on the way up has told its parent.
    pub(super) fn walked(&mut self, tx: TxId, parent: Option<FlareRef>) -> StoreResult<()> {
        let Some(rename) = self.rename_mut(tx) else {
            return Ok(());
        };
        let driver = rename.to_dir.key();
        let Some(walk) = rename.walks.last_mut() else {
            return Ok(());
        };
        let Some(above) = parent else {
            rename.walks.pop();
            self.walk_on(tx);
            return Ok(());
        };
        walk.depth += 1;
        if above == walk.coming || walk.depth > DEPTH_MAX {
            rename.failed = Some(OpError::IntoItself);
            return self.abort_rename(tx);
        }
        self.tx_step(tx, driver, above.key(), StepBody::GetParent(above));
        Ok(())
    }

    /// At a directory on the way: its parent, none for the root.
    pub(super) fn parent_of(&mut self, dir: FlareRef) -> StoreResult<OpResult<StepAnswer>> {
        if dir.key() == ROOT {
            return Ok(Ok(StepAnswer::Parent(None)));
        }
        if let Err(error) = self.live(dir)? {
            return Ok(Err(error));
        }
        let links = self.cache.links(&self.store, dir.key())?;
        // A directory that is being moved by somebody else cannot be here: that rename has
        // the lock. What is held is this transaction's own doing, or a move inside one parent.
        let stays = |link: &&LinkRow| !matches!(link.state, LinkState::HeldNew(..));
        let parent = links.iter().find(stays).map(|link| link.parent);
        Ok(match parent {
            Some(parent) => Ok(StepAnswer::Parent(Some(parent))),
            None => Err(OpError::NotFound),
        })
    }
}
