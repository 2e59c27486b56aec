//! Create, mkdir, symlink, mknod: driven at the new flare's owner.
//!
//! 1. The flare is written as *nascent*, with its link, and is on every copy before
//! 2. the entry is inserted at the parent's owner: the commit point, replicated there
//!    before it is answered; then
//! 3. the flare is confirmed, together with the slot's reply. The answer does not wait for
//!    the copies to have the confirmation: a nascent flare that a crash leaves behind asks
//!    again by repeating step 2, which the parent answers from the entry.
//!
//! When one slice holds both, all of it is one operation.

use bytes::Bytes;

use super::Engine;
use super::event::Outcome;
use super::request::{RequestState, Step};
use super::transactions::Kind as TxKind;
use crate::effect::{ContentWrite, Effect};
use crate::error::{OpError, OpResult};
use crate::flare::{Attr, FlareRow, Kind, Layout, LinkRow, LinkState, Name};
use crate::ids::{FlareRef, SliceId, TxId};
use crate::key::Key;
use crate::limits::SYMLINK_MAX;
use crate::op::{Answer, NewFlare};
use crate::store::{Store, StoreResult};
use crate::wire::peer::{StepAnswer, StepBody};

/// Readdir cookies below this are the mount's own (`.` and `..`).
pub(super) const FIRST_COOKIE: u64 = 16;

impl<S: Store> Engine<S> {
    pub(super) fn create(
        &mut self,
        state: &mut RequestState,
        parent: FlareRef,
        name: Name,
        new: NewFlare,
    ) -> StoreResult<Step<S>> {
        let key = state.request.key;
        let slice = state.slice;
        let tx = state.tx();
        if let Err(error) = check_new(&new) {
            return Step::err(error);
        }
        if self.full {
            return Step::err(OpError::NoSpace);
        }
        if let Some(row) = self.cache.flare(&self.store, key)? {
            let links = self.cache.links(&self.store, key)?;
            let same = links
                .iter()
                .find(|link| link.parent == parent && link.name == name);
            return match same.map(|link| &link.state) {
                // Born by this very request in an earlier life of this volcano.
                Some(LinkState::Nascent(by)) if *by == tx => self.create_again(tx, &row, new.open),
                Some(LinkState::Settled) => Step::err(OpError::Exists),
                Some(_) => Step::parks(key),
                None => Step::err(OpError::KeyTaken),
            };
        }
        if self.is_prefix_taken(slice, key)? {
            return Step::err(OpError::KeyTaken);
        }
        let stamp = self.stamp(slice);
        let now = self.tick();
        let cred = &state.request.cred;
        let size = new.target.len() as u64;
        let row = FlareRow {
            key,
            inc: stamp,
            version: stamp,
            kind: new.kind,
            mode: new.mode & 0o7777 & !(new.umask & 0o777),
            uid: cred.uid,
            gid: cred.gid,
            size,
            nlink: if new.kind == Kind::Directory { 2 } else { 1 },
            rdev: new.rdev,
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            layout: Layout::Inline,
            entries: 0,
            next_cookie: FIRST_COOKIE,
            nascent: Some(tx),
            asked: new.mode & 0o7777,
            acls: None,
        };
        let target = (!new.target.is_empty()).then(|| {
            Effect::Write(ContentWrite {
                flare: row.flare_ref(),
                segment: 0,
                offset: 0,
                len: size as u32,
                data: Bytes::from(new.target.clone()),
            })
        });
        if self
            .lava
            .slice_of(parent.key())
            .is_some_and(|s| s.id == slice)
        {
            return self.create_at_once(state, parent, name, row, target, new.open);
        }
        let link = LinkRow {
            parent,
            name: name.clone(),
            state: LinkState::Nascent(tx),
        };
        let attr = Attr::of(&row, 0);
        let flare = row.flare_ref();
        let mut effects = vec![
            Effect::PutFlare(Box::new(row)),
            Effect::PutLink(key, Box::new(link)),
        ];
        effects.extend(target);
        let gate = self.commit(slice, effects)?;
        let body = StepBody::Insert {
            dir: parent,
            name: name.clone(),
            attr: Box::new(attr),
            cred: Some(cred.clone()),
            inherit: Some(new.mode & 0o7777),
        };
        let kind = TxKind::Create {
            flare,
            parent,
            name,
            open: new.open,
        };
        Step::waits(move |engine, state| {
            engine.begin_tx(tx, Some(state), slice, gate, kind);
            engine.tx_step(tx, key, parent.key(), body);
            Ok(())
        })
    }

    /// The parent is in the same slice: flare and entry are one operation.
    fn create_at_once(
        &mut self,
        state: &mut RequestState,
        parent: FlareRef,
        name: Name,
        mut row: FlareRow,
        target: Option<Effect>,
        open: Option<u64>,
    ) -> StoreResult<Step<S>> {
        row.nascent = None;
        let cred = state.request.cred.clone();
        let attr = Attr::of(&row, 0);
        let inserted =
            match self.insert_entry(parent, &name, &attr, Some(&cred), Some(row.asked))? {
                super::steps::Inserting::Refused(error) => return Step::err(error),
                super::steps::Inserting::Parks => return Step::parks(parent.key()),
                super::steps::Inserting::There => return Step::err(OpError::Exists),
                super::steps::Inserting::Effects(effects, attr) => (effects, attr),
            };
        let (entry_effects, attr) = inserted;
        took_from_parent(&mut row, &attr);
        let flare = row.flare_ref();
        let link = LinkRow {
            parent,
            name,
            state: LinkState::Settled,
        };
        let mut effects = vec![
            Effect::PutFlare(Box::new(row)),
            Effect::PutLink(flare.key(), Box::new(link)),
        ];
        effects.extend(target);
        effects.extend(entry_effects);
        let dir = effects.iter().find_map(|effect| match effect {
            Effect::PutFlare(row) if row.key == parent.key() => Some(Box::new(Attr::of(row, 0))),
            _ => None,
        });
        let answer = Answer::Linked { attr, dir };
        self.commit_answer(state, effects, &answer)?;
        state.shown.push(flare.key());
        if let Some(number) = open {
            self.add_open(flare.key(), state.request.session, number);
        }
        Step::ok(answer)
    }

    /// Goes on with a creation that a restart of this volcano has cut off.
    fn create_again(
        &mut self,
        tx: TxId,
        row: &FlareRow,
        open: Option<u64>,
    ) -> StoreResult<Step<S>> {
        let key = row.key;
        Step::waits(move |engine, state| {
            if let Some(pending) = engine.pending.get_mut(&tx) {
                pending.state = Some(state);
                return Ok(());
            }
            engine.drive_nascent(key, tx, Some(state), open)
        })
    }

    /// Repeats the insert of a nascent flare or link: the parent answers from its entry.
    pub(super) fn drive_nascent(
        &mut self,
        key: Key,
        tx: TxId,
        state: Option<Box<RequestState>>,
        open: Option<u64>,
    ) -> StoreResult<()> {
        let Some(row) = self.cache.flare(&self.store, key)? else {
            return Ok(());
        };
        let links = self.cache.links(&self.store, key)?;
        let nascent = |link: &&LinkRow| link.state == LinkState::Nascent(tx);
        let Some(link) = links.iter().find(nascent) else {
            return Ok(());
        };
        let Some(slice) = self.lava.slice_of(key).map(|s| s.id) else {
            return Ok(());
        };
        let (parent, name, flare) = (link.parent, link.name.clone(), row.flare_ref());
        let born = row.nascent == Some(tx);
        let kind = if born {
            TxKind::Create {
                flare,
                parent,
                name: name.clone(),
                open,
            }
        } else {
            TxKind::Link {
                flare,
                parent,
                name: name.clone(),
            }
        };
        // Who asked is not kept, and permission is checked at the parent: without the request
        // it can only be asked whether the entry is in already.
        let cred = state.as_ref().map(|state| state.request.cred.clone());
        let orphan = cred.is_none();
        let body = StepBody::Insert {
            dir: parent,
            name,
            attr: Box::new(Attr::of(&row, 0)),
            cred,
            inherit: born.then_some(row.asked),
        };
        let gate = self.gate(slice, key);
        self.begin_tx(tx, state, slice, gate, kind);
        if let Some(pending) = self.pending.get_mut(&tx) {
            pending.repeated = true;
            pending.orphan = orphan;
        }
        self.tx_step(tx, key, parent.key(), body);
        Ok(())
    }

    /// The parent has answered: the flare is confirmed, or dropped.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn create_done(
        &mut self,
        tx: TxId,
        slice: SliceId,
        state: Option<Box<RequestState>>,
        flare: FlareRef,
        parent: FlareRef,
        name: Name,
        open: Option<u64>,
        result: OpResult<StepAnswer>,
    ) -> StoreResult<()> {
        let Some(mut row) = self.cache.flare(&self.store, flare.key())? else {
            return Ok(());
        };
        let answer = match result {
            Ok(StepAnswer::Inserted { attr, dir }) => {
                // The version stays that of the birth: a confirmation changes nothing that
                // anyone was told, so the answer need not wait for the copies to have it.
                row.nascent = None;
                let inherited = (row.gid, row.mode, &row.acls) != (attr.gid, attr.mode, &attr.acls);
                took_from_parent(&mut row, &attr);
                let attr = Box::new(Attr::of(&row, 0));
                let answer = Answer::Linked { attr, dir };
                let link = LinkRow {
                    parent,
                    name,
                    state: LinkState::Settled,
                };
                let mut effects = vec![
                    Effect::PutFlare(Box::new(row)),
                    Effect::PutLink(flare.key(), Box::new(link)),
                ];
                effects.extend(match &state {
                    Some(state) => state.reply_row(&Ok(answer.clone())),
                    None => self.reply_row_after(slice, flare.key(), tx, &Ok(answer.clone()))?,
                });
                let seq = self.commit_lazily(slice, effects)?;
                if let (Some(number), Some(state)) = (open, &state) {
                    self.add_open(flare.key(), state.request.session, number);
                }
                self.wake_key(flare.key());
                let Some(mut state) = state else {
                    return Ok(());
                };
                if inherited {
                    state.gate = state.gate.max(seq);
                }
                state.shown.push(flare.key());
                return self.finish_op(state, Ok(answer));
            }
            Ok(_) => Err(OpError::Io),
            Err(error) => Err(error),
        };
        let mut effects = vec![Effect::DropFlare(flare)];
        effects.extend(match &state {
            Some(state) => state.reply_row(&answer),
            None => self.reply_row_after(slice, flare.key(), tx, &answer)?,
        });
        self.commit(slice, effects)?;
        self.wake_key(flare.key());
        match state {
            Some(state) => self.finish_op(state, answer),
            None => Ok(()),
        }
    }

    /// Whether a key's first 64 bits, its inode number, are in use.
    fn is_prefix_taken(&mut self, slice: SliceId, key: Key) -> StoreResult<bool> {
        let prefix = key.ino();
        if prefix <= 1 {
            return Ok(true);
        }
        // The cut of a join may lie inside a prefix; that prefix is its lower neighbour's.
        let cut = self.owned.get(&slice).is_some_and(|owned| {
            owned.start != Key::from_prefix(owned.start.ino()) && owned.start.ino() == prefix
        });
        Ok(cut || self.store.prefix_taken(prefix)?)
    }

    /// Makes the root of a new network.
    pub(super) fn create_root(&mut self, slice: SliceId) -> StoreResult<()> {
        let key = crate::key::ROOT;
        let stamp = self.stamp(slice);
        let now = self.tick();
        let row = FlareRow {
            key,
            inc: stamp,
            version: stamp,
            kind: Kind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            size: 0,
            nlink: 2,
            rdev: 0,
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            layout: Layout::Inline,
            entries: 0,
            next_cookie: FIRST_COOKIE,
            nascent: None,
            asked: 0,
            acls: None,
        };
        self.commit(slice, vec![Effect::PutFlare(Box::new(row))])?;
        Ok(())
    }

    /// The outcome of an operation on a flare that must be there in this incarnation.
    pub(super) fn live(&mut self, flare: FlareRef) -> StoreResult<OpResult<FlareRow>> {
        Ok(match self.cache.flare(&self.store, flare.key())? {
            Some(row) if row.inc == flare.inc() => Ok(row),
            _ => Err(OpError::Stale),
        })
    }

    pub(super) fn get_root(&mut self, state: &mut RequestState) -> StoreResult<OpResult<Outcome>> {
        let Some(row) = self.cache.flare(&self.store, crate::key::ROOT)? else {
            return Ok(Err(OpError::TryAgain));
        };
        state.gate = state.gate.max(self.gate(state.slice, row.key));
        state.shown.push(row.key);
        Ok(Ok(Outcome::done(Answer::Attr(Box::new(Attr::of(&row, 0))))))
    }
}

fn check_new(new: &NewFlare) -> OpResult<()> {
    let is_link = new.kind == Kind::Symlink;
    if is_link == new.target.is_empty() {
        return Err(OpError::Invalid);
    }
    if new.target.len() > SYMLINK_MAX {
        return Err(OpError::NameTooLong);
    }
    Ok(())
}

/// What the directory has given to a new flare.
fn took_from_parent(row: &mut FlareRow, attr: &Attr) {
    row.asked = 0;
    (row.gid, row.mode) = (attr.gid, attr.mode);
    row.acls.clone_from(&attr.acls);
}
