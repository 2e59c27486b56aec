//! What other owners' transactions ask of a directory here: insert and remove entries.
//!
//! A step is idempotent, because whoever drives the transaction sends it again when an
//! answer is lost: an insert finds its own entry, a removal finds it gone. An insert that was
//! sent more than once and refused is followed by a removal, so that a late repetition never
//! leaves an entry for a flare that was dropped.

use super::Engine;
use super::event::{Release, Work};
use super::parking::Wait;
use super::request::INTERNAL;
use crate::effect::Effect;
use crate::error::{OpError, OpResult};
use crate::flare::{Attr, EntryRow, FlareRow, Kind, LinkState, Name};
use crate::ids::{Epoch, FlareRef, Seq, SessionId, SliceId, VolcanoId};
use crate::limits::LINK_MAX;
use crate::op::Credentials;
use crate::op::mode::inherit;
use crate::op::permission::{Access, may, may_delete};
use crate::store::{Store, StoreResult};
use crate::wire::peer::{Step, StepAnswer, StepBody, StepDone};

/// How an entry may be inserted.
pub(super) enum Inserting {
    Refused(OpError),
    /// Something else is under way with this directory or name.
    Parks,
    /// This very child is there under this name.
    There,
    /// The changes, and the child's attributes as they count now.
    Effects(Vec<Effect>, Box<Attr>),
}

/// How an entry may be removed.
pub(super) enum Removing {
    Refused(OpError),
    Parks,
    Gone,
    Effects(Vec<Effect>),
}

impl<S: Store> Engine<S> {
    pub(super) fn step(&mut self, from: VolcanoId, step: Step) -> StoreResult<()> {
        self.clock.receive(step.clock, self.now.wall_nanos);
        let driver = self.lava.slice_of(step.driver);
        let told = step.epoch != Epoch(0);
        if told && driver.is_some_and(|slice| step.epoch < slice.since) {
            // The transaction is driven by another owner now, and may be at its end.
            return Ok(());
        }
        let slice = match self.lava.slice_of(step.key) {
            Some(slice) if slice.owner == self.me => slice.id,
            _ => {
                // The sender's lava, or ours, is old: it sends again.
                self.step_failed(from, &step, OpError::TryAgain);
                return Ok(());
            }
        };
        let may = self.serving && !self.is_fenced();
        if !may || self.owned.get(&slice).is_none_or(|owned| owned.drained) {
            self.step_failed(from, &step, OpError::TryAgain);
            return Ok(());
        }
        // What the same transaction has asked before, and waits, is out of date.
        self.parking.forget_steps(step.key, step.tx);
        if step.body.begins_change() {
            self.forget_resolve(step.key, step.tx);
        }
        // Held rows are granted to nobody, so finishing them meets no lease.
        if step.body.begins_change()
            && self
                .leases
                .conflict(step.key, self.changed_by(&step), self.now.moment)
        {
            let wait = Wait::Lease(step.key);
            let step = Box::new(step);
            self.park(wait, Work::Step { from, step });
            return Ok(());
        }
        match step.body.clone() {
            StepBody::Insert {
                dir,
                name,
                attr,
                cred,
                inherit,
            } => self.insert_step(from, slice, step, dir, &name, &attr, cred.as_ref(), inherit),
            StepBody::Remove {
                dir,
                name,
                child,
                kind,
                child_uid,
                cred,
            } => match self.remove_entry(dir, &name, child, kind, child_uid, &cred)? {
                Removing::Refused(error) => {
                    self.step_failed(from, &step, error);
                    Ok(())
                }
                Removing::Parks => {
                    self.park_step(from, step);
                    Ok(())
                }
                Removing::Gone => {
                    let seq = self.gate(slice, dir.key());
                    let answer = StepAnswer::Removed(self.dir_attr(dir)?);
                    self.answer_step(from, &step, slice, seq, Ok(answer));
                    Ok(())
                }
                Removing::Effects(effects) => {
                    let seq = self.commit(slice, effects)?;
                    self.wake_key(dir.key());
                    let answer = StepAnswer::Removed(self.dir_attr(dir)?);
                    self.answer_step(from, &step, slice, seq, Ok(answer));
                    Ok(())
                }
            },
            StepBody::PrepareEntry { .. }
            | StepBody::PrepareMove { .. }
            | StepBody::PrepareVictim { .. }
            | StepBody::Finish(_)
            | StepBody::Ask
            | StepBody::LockRename
            | StepBody::UnlockRename
            | StepBody::GetParent(_) => self.rename_step(from, slice, step),
        }
    }

    /// Whose own leases a step leaves alone: the session that asked knows what it changes.
    /// Only what a rename replaces it may know under another name, and not think of.
    fn changed_by(&self, step: &Step) -> SessionId {
        match step.body {
            StepBody::PrepareVictim { .. } | StepBody::PrepareMove { unnamed: true, .. } => {
                INTERNAL
            }
            _ => step.tx.0,
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn insert_step(
        &mut self,
        from: VolcanoId,
        slice: SliceId,
        step: Step,
        dir: FlareRef,
        name: &Name,
        attr: &Attr,
        cred: Option<&Credentials>,
        inherits: Option<u32>,
    ) -> StoreResult<()> {
        match self.insert_entry(dir, name, attr, cred, inherits)? {
            Inserting::Refused(error) => {
                self.step_failed(from, &step, error);
                Ok(())
            }
            Inserting::Parks => {
                self.park_step(from, step);
                Ok(())
            }
            Inserting::There => {
                // Sent again: the entry is this transaction's own.
                let mut attr = Box::new(attr.clone());
                if let (Some(asked), Ok(row)) = (inherits, self.live(dir)?) {
                    let creator = Credentials {
                        uid: attr.uid,
                        gid: attr.gid,
                        groups: Vec::new(),
                    };
                    take_from(&row, cred.unwrap_or(&creator), asked, &mut attr);
                }
                let seq = self.gate(slice, dir.key());
                let dir = self.dir_attr(dir)?;
                let answer = StepAnswer::Inserted { attr, dir };
                self.answer_step(from, &step, slice, seq, Ok(answer));
                Ok(())
            }
            Inserting::Effects(effects, attr) => {
                let seq = self.commit(slice, effects)?;
                let dir = self.dir_attr(dir)?;
                let answer = StepAnswer::Inserted { attr, dir };
                self.answer_step(from, &step, slice, seq, Ok(answer));
                Ok(())
            }
        }
    }

    /// The rule of an insert, with the effects on the directory.
    pub(super) fn insert_entry(
        &mut self,
        dir: FlareRef,
        name: &Name,
        attr: &Attr,
        cred: Option<&Credentials>,
        inherits: Option<u32>,
    ) -> StoreResult<Inserting> {
        let row = match self.usable_dir(dir)? {
            Ok(row) => row,
            Err(DirBusy::Refused(error)) => return Ok(Inserting::Refused(error)),
            Err(DirBusy::Parks) => return Ok(Inserting::Parks),
        };
        if let Some(entry) = self.store.entry(dir.key(), name)? {
            // Before it counts as there: an entry of this very flare may be on its way out, by a
            // rename that the flare has heard of already, and then been given this name again.
            if entry.prepared.is_some() || self.holds.contains_key(&(dir.key(), name.clone())) {
                return Ok(Inserting::Parks);
            }
            if entry.child == attr.flare {
                return Ok(Inserting::There);
            }
            return Ok(Inserting::Refused(OpError::Exists));
        }
        if self.holds.contains_key(&(dir.key(), name.clone())) {
            return Ok(Inserting::Parks);
        }
        let Some(cred) = cred else {
            return Ok(Inserting::Refused(OpError::NotFound));
        };
        if let Err(error) = may(&row, cred, Access::CHANGE_ENTRIES) {
            return Ok(Inserting::Refused(error));
        }
        if self.full {
            return Ok(Inserting::Refused(OpError::NoSpace));
        }
        let is_dir = attr.kind == Kind::Directory;
        if is_dir && row.nlink >= LINK_MAX {
            return Ok(Inserting::Refused(OpError::TooManyLinks));
        }
        let mut attr = Box::new(attr.clone());
        if let Some(asked) = inherits {
            take_from(&row, cred, asked, &mut attr);
        }
        let mut row = self.changed_dir(row);
        let entry = EntryRow {
            name: name.clone(),
            child: attr.flare,
            kind: attr.kind,
            cookie: row.next_cookie,
            version: row.version,
            prepared: None,
        };
        row.next_cookie += 1;
        row.entries += 1;
        row.nlink += u32::from(is_dir);
        let effects = vec![
            Effect::PutFlare(Box::new(row)),
            Effect::PutEntry(dir.key(), Box::new(entry)),
        ];
        Ok(Inserting::Effects(effects, attr))
    }

    /// The rule of a removal, with the effects on the directory.
    pub(super) fn remove_entry(
        &mut self,
        dir: FlareRef,
        name: &Name,
        child: FlareRef,
        kind: Kind,
        child_uid: u32,
        cred: &Credentials,
    ) -> StoreResult<Removing> {
        let row = match self.live(dir)? {
            Ok(row) => row,
            Err(_) => return Ok(Removing::Gone),
        };
        let entry = match self.store.entry(dir.key(), name)? {
            Some(entry) if entry.child == child => entry,
            _ => return Ok(Removing::Gone),
        };
        if entry.prepared.is_some() || self.holds.contains_key(&(dir.key(), name.clone())) {
            return Ok(Removing::Parks);
        }
        if let Err(error) = may_delete(&row, child_uid, cred) {
            return Ok(Removing::Refused(error));
        }
        Ok(Removing::Effects(self.without_entry(row, name, kind)))
    }

    /// The effects of a directory losing an entry.
    pub(super) fn without_entry(&mut self, row: FlareRow, name: &Name, kind: Kind) -> Vec<Effect> {
        let dir = row.key;
        let mut row = self.changed_dir(row);
        row.entries = row.entries.saturating_sub(1);
        if kind == Kind::Directory {
            row.nlink = row.nlink.saturating_sub(1).max(2);
        }
        vec![
            Effect::PutFlare(Box::new(row)),
            Effect::DropEntry(dir, name.clone()),
        ]
    }

    /// A directory's attributes as they are now, if it is still there.
    pub(super) fn dir_attr(&mut self, dir: FlareRef) -> StoreResult<Option<Box<Attr>>> {
        let row = self.live(dir)?.ok();
        Ok(row.map(|row| Box::new(Attr::of(&row, 0))))
    }

    /// A directory's row after a change of its entries.
    pub(super) fn changed_dir(&mut self, mut row: FlareRow) -> FlareRow {
        let now = self.tick();
        if let Some(slice) = self.lava.slice_of(row.key).map(|slice| slice.id) {
            row.version = self.stamp(slice);
        }
        row.mtime = now;
        row.ctime = now;
        row
    }

    /// A directory into which names may come: not one that is being removed.
    pub(super) fn usable_dir(&mut self, dir: FlareRef) -> StoreResult<Result<FlareRow, DirBusy>> {
        let row = match self.live(dir)? {
            Ok(row) => row,
            // The directory was removed, and its key perhaps used again.
            Err(_) => return Ok(Err(DirBusy::Refused(OpError::NotFound))),
        };
        if !row.is_dir() {
            return Ok(Err(DirBusy::Refused(OpError::NotDirectory)));
        }
        if row.nlink == 0 {
            return Ok(Err(DirBusy::Refused(OpError::NotFound)));
        }
        let links = self.cache.links(&self.store, dir.key())?;
        let leaving = links.iter().any(|link| {
            matches!(link.state, LinkState::Going(_))
                || matches!(link.state, LinkState::HeldOld(..)) && !self.moves_only(&links)
        });
        if leaving {
            return Ok(Err(DirBusy::Parks));
        }
        Ok(Ok(row))
    }

    /// Whether a held directory is only moved (it has a link to come): inserts go on then.
    fn moves_only(&self, links: &[crate::flare::LinkRow]) -> bool {
        links
            .iter()
            .any(|link| matches!(link.state, LinkState::HeldNew(..)))
    }

    fn park_step(&mut self, from: VolcanoId, step: Step) {
        let wait = Wait::Key(step.key);
        self.park(
            wait,
            Work::Step {
                from,
                step: Box::new(step),
            },
        );
    }

    /// Answers a step with an error, which waits for nothing: nothing was changed.
    pub(super) fn step_failed(&mut self, from: VolcanoId, step: &Step, error: OpError) {
        // An error tells what a row looked like: it waits until that is acknowledged.
        let slice = self.lava.slice_of(step.key).map(|slice| slice.id);
        let seq = slice.map_or(Seq(0), |slice| self.gate(slice, step.key));
        self.answer_step(from, step, slice.unwrap_or(SliceId(0)), seq, Err(error));
    }

    /// Answers a step when what it changed, or saw, is acknowledged.
    pub(super) fn answer_step(
        &mut self,
        from: VolcanoId,
        step: &Step,
        slice: SliceId,
        seq: Seq,
        result: OpResult<StepAnswer>,
    ) {
        let done = StepDone {
            tx: step.tx,
            driver: step.driver,
            key: step.key,
            step: step.body.name(),
            clock: 0,
            result,
        };
        self.release_at(
            slice,
            seq,
            Release::StepDone {
                to: from,
                done: Box::new(done),
            },
        );
    }
}

/// Why a directory cannot take a name now.
pub(super) enum DirBusy {
    Refused(OpError),
    Parks,
}

/// What a new flare gets of its directory.
fn take_from(dir: &FlareRow, cred: &Credentials, asked: u32, attr: &mut Attr) {
    let inherited = inherit(dir, cred, attr.kind, attr.mode, asked);
    (attr.gid, attr.mode, attr.acls) = (inherited.gid, inherited.mode, inherited.acls);
}
