//! Unlink and rmdir: driven at the owner of the flare that loses a name.
//!
//! 1. The link is marked *going* (for a directory, that and the check that it is empty are
//!    one step; inserts wait from then on) and is so on every copy before
//! 2. the entry is removed at the parent's owner: the commit point; then
//! 3. the link is dropped, and with the last one the flare, unless it is open.
//!
//! A mark that a crash leaves behind drives step 2 again.

use super::Engine;
use super::request::{RequestState, Step};
use super::steps::Removing;
use super::transactions::Kind as TxKind;
use crate::effect::Effect;
use crate::error::{OpError, OpResult};
use crate::flare::{Attr, FlareRow, LinkRow, LinkState, Name};
use crate::ids::{FlareRef, SliceId, TxId};
use crate::key::Key;
use crate::op::{Answer, Credentials};
use crate::store::{Store, StoreResult};
use crate::wire::peer::{StepAnswer, StepBody};

impl<S: Store> Engine<S> {
    pub(super) fn unlink(
        &mut self,
        state: &mut RequestState,
        flare: FlareRef,
        parent: FlareRef,
        name: Name,
        directory: bool,
    ) -> StoreResult<Step<S>> {
        let key = flare.key();
        let slice = state.slice;
        if key != state.request.key {
            return Step::err(OpError::Invalid);
        }
        let row = match self.live(flare)? {
            Ok(row) => row,
            Err(error) => return Step::err(error),
        };
        let links = self.cache.links(&self.store, key)?;
        let Some(link) = links.iter().find(|l| l.parent == parent && l.name == name) else {
            return Step::err(OpError::Stale);
        };
        let tx = state.tx();
        match &link.state {
            LinkState::Settled => {}
            LinkState::Going(by) if *by == tx => {
                // This very request, before a restart of this volcano.
                let cred = state.request.cred.clone();
                return Step::waits(move |engine, state| {
                    if let Some(pending) = engine.pending.get_mut(&tx) {
                        pending.state = Some(state);
                        return Ok(());
                    }
                    engine.drive_going(key, tx, Some(state), &cred)
                });
            }
            _ => return Step::parks(key),
        }
        match (directory, row.is_dir()) {
            (true, false) => return Step::err(OpError::NotDirectory),
            (false, true) => return Step::err(OpError::IsDirectory),
            (true, true) if row.entries > 0 => return Step::err(OpError::NotEmpty),
            _ => {}
        }
        if directory && self.holds.keys().any(|(dir, _)| *dir == key) {
            // A rename into this directory is being decided here.
            return Step::parks(key);
        }
        let cred = state.request.cred.clone();
        if self
            .lava
            .slice_of(parent.key())
            .is_some_and(|s| s.id == slice)
        {
            let removing = self.remove_entry(parent, &name, flare, row.kind, row.uid, &cred)?;
            let mut effects = match removing {
                Removing::Refused(error) => return Step::err(error),
                Removing::Parks => return Step::parks(parent.key()),
                Removing::Gone => return Step::err(OpError::Stale),
                Removing::Effects(effects) => effects,
            };
            effects.extend(self.without_link(row, parent, &name));
            let dir = effects.iter().find_map(|effect| match effect {
                Effect::PutFlare(row) if row.key == parent.key() => {
                    Some(Box::new(Attr::of(row, 0)))
                }
                _ => None,
            });
            let answer = Answer::Unlinked { dir };
            self.commit_answer(state, effects, &answer)?;
            self.wake_key(key);
            self.wake_key(parent.key());
            return Step::ok(answer);
        }
        let going = LinkRow {
            parent,
            name: name.clone(),
            state: LinkState::Going(tx),
        };
        let gate = self.commit(slice, vec![Effect::PutLink(key, Box::new(going))])?;
        let body = remove_body(&row, parent, name.clone(), &cred);
        Step::waits(move |engine, state| {
            let kind = TxKind::Unlink {
                flare,
                parent,
                name,
            };
            engine.begin_tx(tx, Some(state), slice, gate, kind);
            engine.tx_step(tx, key, parent.key(), body);
            Ok(())
        })
    }

    /// Goes on with a removal that a restart of this volcano has cut off.
    pub(super) fn drive_going(
        &mut self,
        key: Key,
        tx: TxId,
        state: Option<Box<RequestState>>,
        cred: &Credentials,
    ) -> StoreResult<()> {
        let Some(row) = self.cache.flare(&self.store, key)? else {
            return Ok(());
        };
        let links = self.cache.links(&self.store, key)?;
        let going = |link: &&LinkRow| link.state == LinkState::Going(tx);
        let Some(link) = links.iter().find(going) else {
            return Ok(());
        };
        let Some(slice) = self.lava.slice_of(key).map(|s| s.id) else {
            return Ok(());
        };
        let (parent, name, flare) = (link.parent, link.name.clone(), row.flare_ref());
        let body = remove_body(&row, parent, name.clone(), cred);
        let gate = self.gate(slice, key);
        self.begin_tx(
            tx,
            state,
            slice,
            gate,
            TxKind::Unlink {
                flare,
                parent,
                name,
            },
        );
        self.tx_step(tx, key, parent.key(), body);
        Ok(())
    }

    /// The parent has answered: the link is dropped, or stays.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn unlink_done(
        &mut self,
        tx: TxId,
        slice: SliceId,
        state: Option<Box<RequestState>>,
        flare: FlareRef,
        parent: FlareRef,
        name: Name,
        result: OpResult<StepAnswer>,
    ) -> StoreResult<()> {
        let row = match self.live(flare)? {
            Ok(row) => row,
            Err(_) => return Ok(()),
        };
        let answer = result.map(|step| Answer::Unlinked {
            dir: match step {
                StepAnswer::Removed(dir) => dir,
                _ => None,
            },
        });
        // With other names left somebody may look at the count: the answer waits for it.
        let counted = answer.is_ok() && row.nlink > 1 && !row.is_dir();
        let mut effects = match &answer {
            Ok(_) => self.without_link(row, parent, &name),
            Err(_) => {
                let link = LinkRow {
                    parent,
                    name,
                    state: LinkState::Settled,
                };
                vec![Effect::PutLink(flare.key(), Box::new(link))]
            }
        };
        effects.extend(match &state {
            Some(state) => state.reply_row(&answer),
            None => self.reply_row_after(slice, flare.key(), tx, &answer)?,
        });
        let seq = self.commit_lazily(slice, effects)?;
        self.wake_key(flare.key());
        let Some(mut state) = state else {
            return Ok(());
        };
        if counted {
            state.gate = state.gate.max(seq);
        }
        self.finish_op(state, answer)
    }

    /// The effects of a flare losing a link; the last one ends it, unless somebody has it open.
    pub(super) fn without_link(
        &mut self,
        mut row: FlareRow,
        parent: FlareRef,
        name: &Name,
    ) -> Vec<Effect> {
        let key = row.key;
        let flare = row.flare_ref();
        let last = row.is_dir() || row.nlink <= 1;
        if last && !self.may_be_open(key) {
            return vec![Effect::DropFlare(flare)];
        }
        row.nlink = if last { 0 } else { row.nlink - 1 };
        row.ctime = self.tick();
        if let Some(slice) = self.lava.slice_of(key).map(|slice| slice.id) {
            row.version = self.stamp(slice);
        }
        vec![
            Effect::PutFlare(Box::new(row)),
            Effect::DropLink(key, parent, name.clone()),
        ]
    }
}

fn remove_body(row: &FlareRow, dir: FlareRef, name: Name, cred: &Credentials) -> StepBody {
    StepBody::Remove {
        dir,
        name,
        child: row.flare_ref(),
        kind: row.kind,
        child_uid: row.uid,
        cred: cred.clone(),
    }
}
