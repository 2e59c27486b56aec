//! Rename: a two-phase transaction, driven and decided at the destination directory's owner.
//!
//! 1. Hold: the destination name here (in memory: without a record the decision is "no"),
//!    the source entry at its directory, the moved flare's link at its owner, the link of
//!    what is replaced at its owner. All at once; each is on every copy of its slice before
//!    it is answered. A hold never waits for another hold: on conflict the rename gives up
//!    and the client tries again a little later.
//! 2. Decide: one operation of the destination's slice writes the entry, the decision, who
//!    must still be told, and the slot's reply. It is the commit point.
//! 3. Tell: every holder finishes by the decision, however often either side restarts.
//!
//! A directory that moves between parents first takes the network-wide rename lock at the
//! root's owner, and the way up from where it comes is walked ([`super::ancestors`]), so that
//! no cycle can form.

use std::collections::BTreeSet;

use super::Engine;
use super::ancestors::Walk;
use super::held::local_name;
use super::request::{RequestState, Step};
use super::transactions::Kind as TxKind;
use crate::effect::Effect;
use crate::error::OpError;
use crate::flare::{Decision, EntryRow, FlareRow, Kind, Name, OutboxRow};
use crate::ids::{FlareRef, TxId};
use crate::key::{Key, ROOT};
use crate::op::permission::{Access, may, may_delete};
use crate::op::{Answer, Credentials, Op, RenameMode};
use crate::store::{Store, StoreResult};
use crate::wire::codec;
use crate::wire::peer::{StepAnswer, StepBody, StepDone, StepName};

/// A rename under way.
#[derive(Debug)]
pub(super) struct RenameTx {
    pub(super) from_dir: FlareRef,
    pub(super) from_name: Name,
    pub(super) moved: FlareRef,
    pub(super) moved_kind: Kind,
    pub(super) to_dir: FlareRef,
    pub(super) to_name: Name,
    pub(super) exchange: bool,
    /// Both are names of one file, if the source is what it is said to be: then nothing is to do.
    pub(super) nothing: bool,
    /// What the destination name stands for now.
    pub(super) victim: Option<(FlareRef, Kind)>,
    pub(super) cred: Credentials,
    /// Holders that were asked, or told to finish: by key.
    pub(super) holders: Vec<Key>,
    /// The first refusal; the rename is undone when all holders have answered.
    pub(super) failed: Option<OpError>,
    /// It has the network-wide lock.
    pub(super) locked: bool,
    /// That is being given back.
    pub(super) unlocked: bool,
    /// It is decided; only finishing is left.
    pub(super) decided: bool,
    /// Holders whose counts and times show what was decided only when they have finished: the
    /// client is answered then.
    pub(super) unseen: Vec<Key>,
    /// Walks up to the root that are still to be made; the last one is under way.
    pub(super) walks: Vec<Walk>,
    /// The owner of the moved flare, once its volcano has told.
    pub(super) moved_uid: Option<u32>,
    /// The source directory is sticky: only the owner of the moved flare may move it.
    pub(super) only_owner: bool,
}

impl<S: Store> Engine<S> {
    pub(super) fn rename(&mut self, state: &mut RequestState, op: Op) -> StoreResult<Step<S>> {
        let Op::Rename {
            from_dir,
            from_name,
            moved,
            moved_kind,
            to_dir,
            to_name,
            mode,
        } = op
        else {
            return Step::err(OpError::Invalid);
        };
        if to_dir.key() != state.request.key {
            return Step::err(OpError::Invalid);
        }
        let cred = state.request.cred.clone();
        let row = match self.usable_dir(to_dir)? {
            Ok(row) => row,
            Err(super::steps::DirBusy::Refused(error)) => return Step::err(error),
            Err(super::steps::DirBusy::Parks) => return Step::parks(to_dir.key()),
        };
        if moved == to_dir || moved == from_dir {
            return Step::err(OpError::IntoItself);
        }
        let place = (to_dir.key(), to_name.clone());
        let entry = self.store.entry(to_dir.key(), &to_name)?;
        if self.holds.contains_key(&place) || entry.as_ref().is_some_and(|e| e.prepared.is_some()) {
            return Step::err(OpError::Conflict);
        }
        let same_dir = from_dir == to_dir;
        let source = if same_dir {
            self.store.entry(to_dir.key(), &from_name)?
        } else {
            None
        };
        if same_dir {
            match &source {
                None => return Step::err(OpError::NotFound),
                Some(entry) if entry.child != moved => return Step::err(OpError::Stale),
                Some(entry) if entry.prepared.is_some() => return Step::err(OpError::Conflict),
                Some(_) if self.holds.contains_key(&(to_dir.key(), from_name.clone())) => {
                    return Step::err(OpError::Conflict);
                }
                Some(_) => {}
            }
        }
        if let Err(error) = may(&row, &cred, Access::CHANGE_ENTRIES) {
            return Step::err(error);
        }
        let victim = match (&entry, mode) {
            (Some(_), RenameMode::NoReplace) => return Step::err(OpError::Exists),
            (None, RenameMode::Exchange) => return Step::err(OpError::NotFound),
            // Two names of one file, or the same name: rename(2) does nothing.
            (Some(entry), _) if entry.child == moved && same_dir => {
                return Step::ok(Answer::Done);
            }
            // If the source is a name of it, too: whoever asks may be wrong about that.
            (Some(entry), _) if entry.child == moved => match entry.kind {
                // One that is here is nowhere else.
                Kind::Directory => return Step::err(OpError::Stale),
                _ => None,
            },
            (Some(entry), RenameMode::Exchange) => Some((entry.child, entry.kind)),
            (Some(entry), RenameMode::Replace) => {
                match (moved_kind == Kind::Directory, entry.kind == Kind::Directory) {
                    (true, false) => return Step::err(OpError::NotDirectory),
                    (false, true) => return Step::err(OpError::IsDirectory),
                    _ => Some((entry.child, entry.kind)),
                }
            }
            (None, _) => None,
        };
        // What is exchanged comes into the source directory.
        if mode == RenameMode::Exchange && victim.is_some_and(|(victim, _)| victim == from_dir) {
            return Step::err(OpError::IntoItself);
        }
        if self.full {
            return Step::err(OpError::NoSpace);
        }
        let tx = state.tx();
        let slice = state.slice;
        let nothing = entry.is_some_and(|entry| entry.child == moved);
        let rename = RenameTx {
            from_dir,
            from_name,
            moved,
            moved_kind,
            to_dir,
            to_name,
            exchange: mode == RenameMode::Exchange,
            nothing,
            victim,
            cred,
            holders: Vec::new(),
            failed: None,
            locked: false,
            unlocked: false,
            decided: false,
            unseen: Vec::new(),
            walks: Vec::new(),
            moved_uid: None,
            only_owner: false,
        };
        let gate = self.gate(slice, to_dir.key());
        Step::waits(move |engine, state| {
            engine.holds.insert(place, tx);
            if same_dir {
                engine
                    .holds
                    .insert((to_dir.key(), rename.from_name.clone()), tx);
            }
            let moves_dir = moved_kind == Kind::Directory
                || rename
                    .victim
                    .is_some_and(|(_, kind)| rename.exchange && kind == Kind::Directory);
            let kind = TxKind::Rename(Box::new(rename));
            engine.begin_tx(tx, Some(state), slice, gate, kind);
            if moves_dir && !same_dir {
                engine.tx_step(tx, to_dir.key(), ROOT, StepBody::LockRename);
            } else {
                engine.prepare(tx);
            }
            Ok(())
        })
    }

    pub(super) fn rename_mut(&mut self, tx: TxId) -> Option<&mut RenameTx> {
        match self.pending.get_mut(&tx).map(|pending| &mut pending.kind) {
            Some(TxKind::Rename(rename)) => Some(rename),
            _ => None,
        }
    }

    /// Phase 1: asks every holder.
    pub(super) fn prepare(&mut self, tx: TxId) {
        let Some(rename) = self.rename_mut(tx) else {
            return;
        };
        let (from, to) = (
            (rename.from_dir, rename.from_name.clone()),
            (rename.to_dir, rename.to_name.clone()),
        );
        let cred = rename.cred.clone();
        let driver = to.0.key();
        if rename.nothing {
            let body = StepBody::PrepareEntry {
                dir: from.0,
                name: from.1,
                child: rename.moved,
                becomes: None,
                // What changes nothing needs no permission.
                cred: Credentials::root(),
            };
            rename.holders = vec![from.0.key()];
            return self.tx_step(tx, driver, from.0.key(), body);
        }
        let mut steps = vec![(
            rename.moved.key(),
            StepBody::PrepareMove {
                flare: rename.moved,
                from: from.clone(),
                to: to.clone(),
                unnamed: false,
                cred: cred.clone(),
            },
        )];
        if let Some((victim, _)) = rename.victim {
            let body = if rename.exchange {
                StepBody::PrepareMove {
                    flare: victim,
                    from: to.clone(),
                    to: from.clone(),
                    unnamed: true,
                    cred: cred.clone(),
                }
            } else {
                let by_dir = rename.moved_kind == Kind::Directory;
                StepBody::PrepareVictim {
                    flare: victim,
                    link: to.clone(),
                    by_dir,
                }
            };
            steps.push((victim.key(), body));
        }
        if from.0 != to.0 {
            steps.push((
                from.0.key(),
                StepBody::PrepareEntry {
                    dir: from.0,
                    name: from.1,
                    child: rename.moved,
                    becomes: rename.victim.filter(|_| rename.exchange),
                    cred,
                },
            ));
        }
        rename.holders = steps.iter().map(|(key, _)| *key).collect();
        for (key, body) in steps {
            self.tx_step(tx, driver, key, body);
        }
    }

    pub(super) fn rename_step_done(&mut self, done: StepDone) -> StoreResult<()> {
        let tx = done.tx;
        let Some(rename) = self.rename_mut(tx) else {
            return Ok(());
        };
        match (done.step, done.result) {
            (StepName::LockRename, Ok(_)) => {
                rename.locked = true;
                rename.walks = Walk::all_of(rename);
                self.walk_on(tx);
                return Ok(());
            }
            (StepName::GetParent, Ok(StepAnswer::Parent(parent))) => {
                return self.walked(tx, parent);
            }
            (StepName::LockRename | StepName::GetParent, Err(error)) => {
                rename.failed = Some(error);
                return self.abort_rename(tx);
            }
            (StepName::Finish, _) => {
                self.answer_when_seen(tx, Some(done.key))?;
                return self.finished(tx);
            }
            (StepName::UnlockRename, _) => return self.finished(tx),
            (_, Ok(StepAnswer::HeldEntry { only_owner })) => rename.only_owner = only_owner,
            (_, Ok(StepAnswer::Held { uid, .. })) => {
                // Sticky directories: who may take the name away depends on the flare's owner,
                // which only its own volcano knows for sure.
                if rename.moved.key() == done.key {
                    rename.moved_uid = Some(uid);
                }
                let here = rename.moved.key() != done.key || rename.from_dir == rename.to_dir;
                let (cred, dir) = (rename.cred.clone(), rename.to_dir);
                if here
                    && let Ok(row) = self.live(dir)?
                    && let Err(error) = may_delete(&row, uid, &cred)
                    && let Some(rename) = self.rename_mut(tx)
                {
                    rename.failed.get_or_insert(error);
                }
            }
            (_, Ok(_)) => {}
            (_, Err(error)) => {
                rename.failed.get_or_insert(error);
            }
        }
        // Another hold was answered: decide when all are in.
        let all_in = self
            .pending
            .get(&tx)
            .is_some_and(|pending| pending.outstanding.is_empty());
        if !all_in {
            return Ok(());
        }
        let Some(rename) = self.rename_mut(tx) else {
            return Ok(());
        };
        if rename.nothing {
            return self.abort_rename(tx);
        }
        if rename.only_owner && rename.moved_uid != Some(rename.cred.uid) {
            rename.failed.get_or_insert(OpError::NotPermitted);
        }
        match rename.failed {
            None => self.decide_rename(tx),
            Some(_) => self.abort_rename(tx),
        }
    }

    /// Phase 2: the decision, with everything that depends on it at this key.
    fn decide_rename(&mut self, tx: TxId) -> StoreResult<()> {
        let Some(pending) = self.pending.get(&tx) else {
            return Ok(());
        };
        let (slice, TxKind::Rename(rename)) = (pending.slice, &pending.kind) else {
            return Ok(());
        };
        let reply = pending
            .state
            .as_ref()
            .and_then(|s| s.reply_row(&Ok(Answer::Done)));
        let (dir, from_dir) = (rename.to_dir, rename.from_dir);
        let (from_name, to_name) = (rename.from_name.clone(), rename.to_name.clone());
        let (moved, victim) = ((rename.moved, rename.moved_kind), rename.victim);
        let (exchange, holders, locked) = (rename.exchange, rename.holders.clone(), rename.locked);
        let row = match self.live(dir)? {
            Ok(row) => row,
            Err(_) => {
                if let Some(rename) = self.rename_mut(tx) {
                    rename.failed = Some(OpError::NotFound);
                }
                return self.abort_rename(tx);
            }
        };
        let old = self.store.entry(dir.key(), &to_name)?;
        let mut row = self.changed_dir(row);
        let mut effects = Vec::new();
        let cookie = old.as_ref().map_or(row.next_cookie, |entry| entry.cookie);
        if old.is_none() {
            row.next_cookie += 1;
            row.entries += 1;
        }
        let version = row.version;
        effects.push(put_entry(dir, to_name, moved, cookie, version));
        let same_dir = dir == from_dir;
        if same_dir {
            match victim.filter(|_| exchange) {
                Some(other) => {
                    let cookie = self
                        .store
                        .entry(dir.key(), &from_name)?
                        .map_or(row.next_cookie, |entry| entry.cookie);
                    effects.push(put_entry(dir, from_name, other, cookie, version));
                }
                None => {
                    row.entries = row.entries.saturating_sub(1);
                    effects.push(Effect::DropEntry(dir.key(), from_name));
                }
            }
        }
        count_subdirectories(&mut row, same_dir, moved.1, victim.map(|v| v.1), exchange);
        effects.insert(0, Effect::PutFlare(Box::new(row)));
        effects.push(Effect::PutDecision(dir.key(), tx, Decision::Committed));
        for to in holders.iter().chain(locked.then_some(&ROOT)) {
            // To the root as a holder, finishing gives the lock back too.
            let body = if *to == ROOT && !holders.contains(to) {
                StepBody::UnlockRename
            } else {
                StepBody::Finish(Decision::Committed)
            };
            let step = codec::encode(&body).unwrap_or_default();
            effects.push(Effect::PutOutbox(Box::new(OutboxRow {
                key: dir.key(),
                tx,
                to: *to,
                step,
            })));
        }
        effects.extend(reply);
        let seq = self.commit(slice, effects)?;
        self.unhold(tx);
        if let Some(pending) = self.pending.get_mut(&tx) {
            pending.gate = seq;
            if let Some(state) = &mut pending.state {
                state.gate = state.gate.max(seq);
            }
        }
        // Whoever meets a held name asks for the decision. The counts and times of the source
        // directory and of what was replaced are shown to anyone who asks, and wait for nobody.
        let replaced = victim.filter(|_| !exchange).map(|(victim, _)| victim);
        if let Some(rename) = self.rename_mut(tx) {
            rename.decided = true;
            rename.unseen = (!same_dir)
                .then_some(from_dir)
                .into_iter()
                .chain(replaced)
                .map(|flare| flare.key())
                .collect();
        }
        self.tell_holders(tx, Decision::Committed);
        self.wake_key(dir.key());
        self.answer_when_seen(tx, None)
    }

    /// Answers the client when every mount sees what was decided.
    fn answer_when_seen(&mut self, tx: TxId, finished: Option<Key>) -> StoreResult<()> {
        let Some(rename) = self.rename_mut(tx) else {
            return Ok(());
        };
        rename.unseen.retain(|key| Some(*key) != finished);
        if !rename.decided || !rename.unseen.is_empty() {
            return Ok(());
        }
        let pending = self.pending.get_mut(&tx);
        match pending.and_then(|pending| pending.state.take()) {
            Some(state) => self.finish_op(state, Ok(Answer::Done)),
            None => Ok(()),
        }
    }

    /// Gives up: without a record of a decision, whoever asks is told "no".
    pub(super) fn abort_rename(&mut self, tx: TxId) -> StoreResult<()> {
        self.unhold(tx);
        let Some(rename) = self.rename_mut(tx) else {
            return Ok(());
        };
        let answer = match rename.failed.clone() {
            None if rename.nothing => Ok(Answer::Done),
            failed => Err(failed.unwrap_or(OpError::Conflict)),
        };
        rename.decided = true;
        let key = rename.to_dir.key();
        self.tell_holders(tx, Decision::Aborted);
        self.wake_key(key);
        match self
            .pending
            .get_mut(&tx)
            .and_then(|pending| pending.state.take())
        {
            // An error is not kept as the slot's reply: nothing has happened, and the client
            // may ask again.
            Some(state) => self.finish_op(state, answer),
            None => Ok(()),
        }
    }

    /// Phase 3: tells every holder, and gives the network-wide lock back.
    fn tell_holders(&mut self, tx: TxId, decision: Decision) {
        let Some(rename) = self.rename_mut(tx) else {
            return;
        };
        let (holders, locked, driver) =
            (rename.holders.clone(), rename.locked, rename.to_dir.key());
        for key in holders.iter().filter(|key| !locked || **key != ROOT) {
            self.tx_step(tx, driver, *key, StepBody::Finish(decision));
        }
        if holders.is_empty() && !locked {
            self.pending.remove(&tx);
        } else if !self.is_waiting(tx) {
            self.give_lock_back(tx);
        }
    }

    fn is_waiting(&self, tx: TxId) -> bool {
        let pending = self.pending.get(&tx);
        pending.is_some_and(|pending| !pending.outstanding.is_empty())
    }

    /// The lock goes last: the next to have it walks up by the links that this rename has
    /// changed. Where the root is a holder too, finishing there gives the lock back.
    pub(super) fn give_lock_back(&mut self, tx: TxId) -> bool {
        if self.is_waiting(tx) {
            return false;
        }
        let Some(rename) = self.rename_mut(tx) else {
            return false;
        };
        if !rename.locked || std::mem::replace(&mut rename.unlocked, true) {
            return false;
        }
        let driver = rename.to_dir.key();
        let body = match (rename.holders.contains(&ROOT), &rename.failed) {
            (false, _) => StepBody::UnlockRename,
            (true, None) => StepBody::Finish(Decision::Committed),
            (true, Some(_)) => StepBody::Finish(Decision::Aborted),
        };
        self.tx_step(tx, driver, ROOT, body);
        true
    }

    /// A holder has finished: when all have, the decision may be forgotten.
    fn finished(&mut self, tx: TxId) -> StoreResult<()> {
        let Some(pending) = self.pending.get(&tx) else {
            return Ok(());
        };
        if !pending.outstanding.is_empty() || self.give_lock_back(tx) {
            return Ok(());
        }
        let Some(pending) = self.pending.get(&tx) else {
            return Ok(());
        };
        let slice = pending.slice;
        let TxKind::Rename(rename) = &pending.kind else {
            return Ok(());
        };
        let dir = rename.to_dir.key();
        let committed = rename.failed.is_none();
        let mut told: Vec<Key> = rename.holders.clone();
        if rename.locked && !told.contains(&ROOT) {
            told.push(ROOT);
        }
        self.pending.remove(&tx);
        if committed {
            let mut effects: Vec<Effect> = told
                .into_iter()
                .map(|to| Effect::DropOutbox(dir, tx, to))
                .collect();
            effects.push(Effect::DropDecision(dir, tx));
            self.commit(slice, effects)?;
        }
        Ok(())
    }

    pub(super) fn unhold(&mut self, tx: TxId) {
        self.holds.retain(|_, by| *by != tx);
    }

    /// Sends what a crash has left in the outbox of a range.
    pub(super) fn drive_outboxes(&mut self, start: Key, end: Key) -> StoreResult<()> {
        // All of them: a decision is forgotten when everybody in the outbox has been told.
        // There are no more than renames were under way.
        let mut rows = self.store.outbox(start, end, usize::MAX)?;
        rows.retain(|row| match self.pending.get(&row.tx).map(|tx| &tx.kind) {
            Some(TxKind::Rename(_)) => false,
            // What it asks for is known here.
            Some(_) | None => true,
        });
        let driven: BTreeSet<TxId> = rows.iter().map(|row| row.tx).collect();
        for tx in &driven {
            self.pending.remove(tx);
        }
        for row in &rows {
            self.drive_outbox(row)?;
        }
        for tx in driven {
            self.give_lock_back(tx);
        }
        Ok(())
    }

    fn drive_outbox(&mut self, row: &OutboxRow) -> StoreResult<()> {
        let Ok(body) = codec::decode::<StepBody>(&row.step) else {
            tracing::error!(target: "magma::g", key = %row.key, tx = %row.tx, "a row of the outbox cannot be read");
            return Ok(());
        };
        let Some(slice) = self.lava.slice_of(row.key).map(|s| s.id) else {
            return Ok(());
        };
        if !self.pending.contains_key(&row.tx) {
            // The directory itself may be gone by now; what is to be told is not.
            let nothing = FlareRef::default();
            let rename = RenameTx {
                from_dir: nothing,
                from_name: local_name(),
                moved: nothing,
                moved_kind: Kind::File,
                to_dir: FlareRef(row.key, Default::default()),
                to_name: local_name(),
                exchange: false,
                nothing: false,
                victim: None,
                cred: Credentials::root(),
                holders: Vec::new(),
                failed: None,
                locked: false,
                unlocked: false,
                decided: true,
                unseen: Vec::new(),
                walks: Vec::new(),
                moved_uid: None,
                only_owner: false,
            };
            let gate = self.gate(slice, row.key);
            self.begin_tx(row.tx, None, slice, gate, TxKind::Rename(Box::new(rename)));
        }
        if let Some(rename) = self.rename_mut(row.tx) {
            let unlocks = body == StepBody::UnlockRename;
            if !unlocks {
                rename.holders.push(row.to);
                rename.unseen.push(row.to);
            }
            if row.to == ROOT {
                // When the others are told.
                rename.locked = true;
                return Ok(());
            }
        }
        self.tx_step(row.tx, row.key, row.to, body);
        Ok(())
    }
}

fn put_entry(
    dir: FlareRef,
    name: Name,
    (child, kind): (FlareRef, Kind),
    cookie: u64,
    version: crate::ids::Stamp,
) -> Effect {
    let entry = EntryRow {
        name,
        child,
        kind,
        cookie,
        version,
        prepared: None,
    };
    Effect::PutEntry(dir.key(), Box::new(entry))
}

/// A directory's count of links counts its subdirectories.
fn count_subdirectories(
    row: &mut FlareRow,
    same_dir: bool,
    moved: Kind,
    victim: Option<Kind>,
    exchange: bool,
) {
    let is_dir = |kind: Kind| i32::from(kind == Kind::Directory);
    let victim = victim.map_or(0, is_dir);
    let change = match (same_dir, exchange) {
        (true, true) => 0,
        // The moved one was counted already; what it replaces is gone.
        (true, false) => -victim,
        (false, _) => is_dir(moved) - victim,
    };
    row.nlink = row.nlink.saturating_add_signed(change).max(2);
}
