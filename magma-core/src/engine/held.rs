//! What a rename decided elsewhere asks of the rows here: hold, finish, decide.
//!
//! A hold is a row (it survives a crash and is on every copy before it is answered), and it
//! never waits: what is held already, or going, is a conflict. Held rows are finished by the
//! decision; when that does not come, the decider is asked, which decides "no" unless it has
//! a record, so that nothing stays held for ever.

use super::Engine;
use super::event::Work;
use super::parking::Wait;
use super::transactions::Kind as TxKind;
use crate::effect::Effect;
use crate::error::{OpError, OpResult};
use crate::flare::{Decision, EntryRow, FlareRow, Kind, LinkRow, LinkState, Name, Prepared};
use crate::ids::{FlareRef, SliceId, TxId, VolcanoId};
use crate::key::{Key, ROOT};
use crate::limits::ENGINE_PARKED_MAX;
use crate::op::Credentials;
use crate::op::permission::{Access, may};
use crate::store::{Store, StoreResult};
use crate::wire::codec;
use crate::wire::peer::{Step, StepAnswer, StepBody};

/// The network-wide rename lock is a row of the root flare, kept among its extended
/// attributes under a name that no client can use.
pub(super) const RENAME_LOCK: &[u8] = b"\0rename-lock";

/// A name for a place where only the type matters.
pub(super) fn local_name() -> Name {
    // A single byte other than '.', '/' and NUL is always a name.
    Name::new(b"-").unwrap_or_else(|_| unreachable!("a dash is a name"))
}

/// What a step changes, and what it is answered.
type Held = (Vec<Effect>, StepAnswer);

impl<S: Store> Engine<S> {
    pub(super) fn rename_step(
        &mut self,
        from: VolcanoId,
        slice: SliceId,
        step: Step,
    ) -> StoreResult<()> {
        let prepares = matches!(
            step.body,
            StepBody::PrepareEntry { .. }
                | StepBody::PrepareMove { .. }
                | StepBody::PrepareVictim { .. }
                | StepBody::LockRename
        );
        if prepares
            && let Some(pending) = self.pending.get(&step.tx)
            && matches!(pending.kind, TxKind::Resolve(_))
        {
            // The rename is being tried again: an answer that is still on its way was about
            // what had been held before.
            self.pending.remove(&step.tx);
        }
        let held = match step.body.clone() {
            StepBody::PrepareEntry {
                dir,
                name,
                child,
                becomes,
                cred,
            } => self.hold_entry(&step, dir, &name, child, becomes, &cred)?,
            StepBody::PrepareMove {
                flare,
                from,
                to,
                cred,
                unnamed: _,
            } => self.hold_moved(&step, flare, &from, &to, &cred)?,
            StepBody::PrepareVictim {
                flare,
                link,
                by_dir,
            } => self.hold_victim(&step, flare, &link, by_dir)?,
            StepBody::Finish(decision) => {
                let mut effects = self.finish_held(step.key, step.tx, decision)?;
                if step.key == ROOT {
                    effects.extend(self.unlock_rename(step.tx)?);
                }
                Ok((effects, StepAnswer::Done))
            }
            StepBody::Ask => self.decide_asked(&step)?,
            StepBody::LockRename => match self.lock_rename(&step)? {
                Some(effects) => Ok((effects, StepAnswer::Done)),
                None => {
                    let wait = Wait::Key(ROOT);
                    self.park(
                        wait,
                        Work::Step {
                            from,
                            step: Box::new(step),
                        },
                    );
                    return Ok(());
                }
            },
            StepBody::UnlockRename => Ok((self.unlock_rename(step.tx)?, StepAnswer::Done)),
            StepBody::GetParent(dir) => {
                let parent = self.parent_of(dir)?;
                parent.map(|parent| (Vec::new(), parent))
            }
            StepBody::Insert { .. } | StepBody::Remove { .. } => Err(OpError::Invalid),
        };
        match held {
            Err(error) => self.step_failed(from, &step, error),
            Ok((effects, answer)) => {
                let wakes = !effects.is_empty();
                let seq = if wakes {
                    self.commit(slice, effects)?
                } else {
                    self.gate(slice, step.key)
                };
                let finished = matches!(step.body, StepBody::Finish(_) | StepBody::UnlockRename);
                self.answer_step(from, &step, slice, seq, Ok(answer));
                if finished {
                    self.wake_key(step.key);
                }
            }
        }
        Ok(())
    }

    /// At the source directory: the entry must stand for the flare, and is held.
    fn hold_entry(
        &mut self,
        step: &Step,
        dir: FlareRef,
        name: &Name,
        child: FlareRef,
        becomes: Option<(FlareRef, Kind)>,
        cred: &Credentials,
    ) -> StoreResult<OpResult<Held>> {
        let row = match self.live(dir)? {
            Ok(row) => row,
            Err(_) => return Ok(Err(OpError::NotFound)),
        };
        let Some(entry) = self.store.entry(dir.key(), name)? else {
            return Ok(Err(OpError::NotFound));
        };
        if entry.child != child {
            return Ok(Err(OpError::Stale));
        }
        let sticky = row.mode & 0o1000 != 0;
        let only_owner = sticky && !cred.is_root() && cred.uid != row.uid;
        let answer = StepAnswer::HeldEntry { only_owner };
        match &entry.prepared {
            Some(prepared) if prepared.tx == step.tx && prepared.becomes == becomes => {
                return Ok(Ok((Vec::new(), answer)));
            }
            // Tried before, and given up: the other end of an exchange is another flare by now.
            Some(prepared) if prepared.tx == step.tx => {}
            Some(_) => return Ok(Err(OpError::Conflict)),
            None if self.holds.contains_key(&(dir.key(), name.clone())) => {
                return Ok(Err(OpError::Conflict));
            }
            None => {}
        }
        if let Err(error) = may(&row, cred, Access::CHANGE_ENTRIES) {
            return Ok(Err(error));
        }
        let prepared = Prepared {
            tx: step.tx,
            decider: step.driver,
            becomes,
        };
        let entry = EntryRow {
            prepared: Some(prepared),
            ..entry
        };
        Ok(Ok((
            vec![Effect::PutEntry(dir.key(), Box::new(entry))],
            answer,
        )))
    }

    /// At a flare that moves: its old link is held, and the new one is written beside it.
    fn hold_moved(
        &mut self,
        step: &Step,
        flare: FlareRef,
        from: &(FlareRef, Name),
        to: &(FlareRef, Name),
        cred: &Credentials,
    ) -> StoreResult<OpResult<Held>> {
        let row = match self.live(flare)? {
            Ok(row) => row,
            Err(error) => return Ok(Err(error)),
        };
        // A directory's `..` changes with its parent, for which it must be writable.
        if row.is_dir()
            && from.0 != to.0
            && let Err(error) = may(&row, cred, Access::WRITE)
        {
            return Ok(Err(error));
        }
        let answer = StepAnswer::Held {
            kind: row.kind,
            uid: row.uid,
        };
        let links = self.cache.links(&self.store, flare.key())?;
        let held = LinkState::HeldOld(step.tx, step.driver);
        match links
            .iter()
            .find(|l| l.parent == from.0 && l.name == from.1)
            .map(|l| &l.state)
        {
            Some(LinkState::Settled) => {}
            Some(state) if *state == held => return Ok(Ok((Vec::new(), answer))),
            Some(_) => return Ok(Err(OpError::Conflict)),
            None => return Ok(Err(OpError::Stale)),
        }
        if links.iter().any(|l| l.parent == to.0 && l.name == to.1) {
            return Ok(Err(OpError::Conflict));
        }
        let link = |place: &(FlareRef, Name), state| {
            let row = LinkRow {
                parent: place.0,
                name: place.1.clone(),
                state,
            };
            Effect::PutLink(flare.key(), Box::new(row))
        };
        let coming = LinkState::HeldNew(step.tx, step.driver);
        Ok(Ok((vec![link(from, held), link(to, coming)], answer)))
    }

    /// At the flare that is replaced: its link is held; a directory must be empty, and
    /// inserts into it wait from here on.
    fn hold_victim(
        &mut self,
        step: &Step,
        flare: FlareRef,
        place: &(FlareRef, Name),
        by_dir: bool,
    ) -> StoreResult<OpResult<Held>> {
        let row = match self.live(flare)? {
            Ok(row) => row,
            Err(error) => return Ok(Err(error)),
        };
        match (by_dir, row.is_dir()) {
            (true, false) => return Ok(Err(OpError::NotDirectory)),
            (false, true) => return Ok(Err(OpError::IsDirectory)),
            (true, true) if row.entries > 0 => return Ok(Err(OpError::NotEmpty)),
            _ => {}
        }
        if self.holds.keys().any(|(dir, _)| *dir == flare.key()) {
            return Ok(Err(OpError::Conflict));
        }
        let answer = StepAnswer::Held {
            kind: row.kind,
            uid: row.uid,
        };
        let links = self.cache.links(&self.store, flare.key())?;
        let held = LinkState::HeldOld(step.tx, step.driver);
        match links
            .iter()
            .find(|l| l.parent == place.0 && l.name == place.1)
            .map(|l| &l.state)
        {
            Some(LinkState::Settled) => {}
            Some(state) if *state == held => return Ok(Ok((Vec::new(), answer))),
            Some(_) => return Ok(Err(OpError::Conflict)),
            None => return Ok(Err(OpError::Stale)),
        }
        let link = LinkRow {
            parent: place.0,
            name: place.1.clone(),
            state: held,
        };
        Ok(Ok((
            vec![Effect::PutLink(flare.key(), Box::new(link))],
            answer,
        )))
    }

    /// The effects of a decision on everything that its transaction holds under a key.
    fn finish_held(&mut self, key: Key, tx: TxId, decision: Decision) -> StoreResult<Vec<Effect>> {
        let Some(row) = self.cache.flare(&self.store, key)? else {
            return Ok(Vec::new());
        };
        let committed = decision == Decision::Committed;
        let mut effects = self.finish_links(&row, tx, committed)?;
        if row.is_dir() {
            effects.extend(self.finish_entries(row, tx, committed)?);
        }
        Ok(effects)
    }

    fn finish_links(
        &mut self,
        row: &FlareRow,
        tx: TxId,
        committed: bool,
    ) -> StoreResult<Vec<Effect>> {
        let key = row.key;
        let links = self.cache.links(&self.store, key)?;
        let mut effects = Vec::new();
        let mut moves = false;
        let mut goes = None;
        for link in links {
            let settled = |link: LinkRow| {
                Effect::PutLink(
                    key,
                    Box::new(LinkRow {
                        state: LinkState::Settled,
                        ..link
                    }),
                )
            };
            match link.state {
                LinkState::HeldNew(by, _) if by == tx => {
                    if committed {
                        moves = true;
                        effects.push(settled(link));
                    } else {
                        effects.push(Effect::DropLink(key, link.parent, link.name));
                    }
                }
                LinkState::HeldOld(by, _) if by == tx => {
                    if committed {
                        goes = Some(link);
                    } else {
                        effects.push(settled(link));
                    }
                }
                _ => {}
            }
        }
        let Some(goes) = goes else { return Ok(effects) };
        if !moves {
            // It was replaced.
            return Ok(self.without_link(row.clone(), goes.parent, &goes.name));
        }
        effects.push(Effect::DropLink(key, goes.parent, goes.name));
        let mut row = row.clone();
        row.ctime = self.tick();
        if let Some(slice) = self.lava.slice_of(key).map(|slice| slice.id) {
            row.version = self.stamp(slice);
        }
        effects.insert(0, Effect::PutFlare(Box::new(row)));
        Ok(effects)
    }

    fn finish_entries(
        &mut self,
        row: FlareRow,
        tx: TxId,
        committed: bool,
    ) -> StoreResult<Vec<Effect>> {
        let Some(entry) = self.store.prepared_entry(row.key, tx)? else {
            return Ok(Vec::new());
        };
        let dir = row.key;
        let becomes = entry
            .prepared
            .as_ref()
            .and_then(|prepared| prepared.becomes);
        if !committed {
            let entry = EntryRow {
                prepared: None,
                ..entry
            };
            return Ok(vec![Effect::PutEntry(dir, Box::new(entry))]);
        }
        let Some((child, kind)) = becomes else {
            return Ok(self.without_entry(row, &entry.name, entry.kind));
        };
        let mut row = self.changed_dir(row);
        let subdirectories = |kind| i32::from(kind == Kind::Directory);
        let change = subdirectories(kind) - subdirectories(entry.kind);
        row.nlink = row.nlink.saturating_add_signed(change).max(2);
        let version = row.version;
        let entry = EntryRow {
            child,
            kind,
            version,
            prepared: None,
            ..entry
        };
        Ok(vec![
            Effect::PutFlare(Box::new(row)),
            Effect::PutEntry(dir, Box::new(entry)),
        ])
    }

    /// At the decider: what was decided? Nothing was: then it is "no". That needs no record:
    /// should the client send the same rename again, it asks every holder anew, behind this
    /// answer on the same lane.
    fn decide_asked(&mut self, step: &Step) -> StoreResult<OpResult<Held>> {
        if let Some(pending) = self.pending.get(&step.tx)
            && let TxKind::Rename(rename) = &pending.kind
            // The lock is kept until the links that the rename has changed are told.
            && (!rename.decided || (step.driver == ROOT && rename.locked && !rename.unlocked))
        {
            return Ok(Err(OpError::TryAgain));
        }
        let known = self.store.decision(step.key, step.tx)?;
        // Who is not to be told was held by an earlier try of the same rename, for which the names
        // stood for other flares: that one came to nothing.
        let decision = match known {
            Some(Decision::Committed) => {
                let told = self
                    .store
                    .outbox(step.key, step.key, ENGINE_PARKED_MAX)?
                    .iter()
                    .any(|row| row.tx == step.tx && row.to == step.driver);
                match told {
                    true => Decision::Committed,
                    false => Decision::Aborted,
                }
            }
            Some(Decision::Aborted) | None => Decision::Aborted,
        };
        Ok(Ok((Vec::new(), StepAnswer::Decided(decision))))
    }

    /// Asks for the decision about rows that are held here.
    pub(super) fn resolve(&mut self, key: Key, tx: TxId, decider: Key) {
        if self.pending.contains_key(&tx) {
            return;
        }
        let Some(slice) = self.lava.slice_of(key).map(|slice| slice.id) else {
            return;
        };
        let gate = self.gate(slice, key);
        self.begin_tx(tx, None, slice, gate, TxKind::Resolve(key));
        self.tx_step(tx, key, decider, StepBody::Ask);
    }

    /// The transaction is driven again: what was asked about its last try says nothing about this
    /// one.
    pub(super) fn forget_resolve(&mut self, key: Key, tx: TxId) {
        let pending = self.pending.get(&tx);
        if pending.is_some_and(|pending| matches!(pending.kind, TxKind::Resolve(at) if at == key)) {
            self.pending.remove(&tx);
        }
    }

    /// The decider has told.
    pub(super) fn resolved(
        &mut self,
        slice: SliceId,
        key: Key,
        tx: TxId,
        result: OpResult<StepAnswer>,
    ) -> StoreResult<()> {
        let Ok(StepAnswer::Decided(decision)) = result else {
            return Ok(());
        };
        let mut effects = self.finish_held(key, tx, decision)?;
        if key == ROOT {
            effects.extend(self.unlock_rename(tx)?);
        }
        if !effects.is_empty() {
            self.commit(slice, effects)?;
        }
        self.wake_key(key);
        Ok(())
    }

    /// Takes the network-wide rename lock; none while another transaction has it.
    fn lock_rename(&mut self, step: &Step) -> StoreResult<Option<Vec<Effect>>> {
        if let Some((holder, _)) = self.rename_lock()? {
            return Ok((holder == step.tx).then(Vec::new));
        }
        let value = codec::encode(&(step.tx, step.driver)).unwrap_or_default();
        Ok(Some(vec![Effect::PutXattr(
            ROOT,
            RENAME_LOCK.to_vec(),
            value,
        )]))
    }

    /// Who has the network-wide rename lock, and where that is decided.
    pub(super) fn rename_lock(&self) -> StoreResult<Option<(TxId, Key)>> {
        let value = self.store.xattr(ROOT, RENAME_LOCK)?;
        Ok(value.and_then(|value| codec::decode(&value).ok()))
    }

    fn unlock_rename(&mut self, tx: TxId) -> StoreResult<Vec<Effect>> {
        Ok(match self.rename_lock()? {
            Some((holder, _)) if holder == tx => {
                vec![Effect::DropXattr(ROOT, RENAME_LOCK.to_vec())]
            }
            _ => Vec::new(),
        })
    }
}
