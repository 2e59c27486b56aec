//! Link: another name for a flare, driven at the flare's owner as a create is.

use super::Engine;
use super::request::{RequestState, Step};
use super::steps::Inserting;
use super::transactions::Kind as TxKind;
use crate::effect::Effect;
use crate::error::{OpError, OpResult};
use crate::flare::{Attr, FlareRow, LinkRow, LinkState, Name};
use crate::ids::{FlareRef, SliceId, TxId};
use crate::limits::LINK_MAX;
use crate::op::Answer;
use crate::store::{Store, StoreResult};
use crate::wire::peer::{StepAnswer, StepBody};

impl<S: Store> Engine<S> {
    pub(super) fn link(
        &mut self,
        state: &mut RequestState,
        flare: FlareRef,
        parent: FlareRef,
        name: Name,
    ) -> StoreResult<Step<S>> {
        let key = flare.key();
        let slice = state.slice;
        let tx = state.tx();
        if key != state.request.key {
            return Step::err(OpError::Invalid);
        }
        let row = match self.live(flare)? {
            Ok(row) => row,
            Err(error) => return Step::err(error),
        };
        if row.is_dir() {
            return Step::err(OpError::NotPermitted);
        }
        if row.nlink == 0 {
            return Step::err(OpError::NotFound);
        }
        if row.nascent.is_some() {
            return Step::parks(key);
        }
        let links = self.cache.links(&self.store, key)?;
        match links
            .iter()
            .find(|l| l.parent == parent && l.name == name)
            .map(|l| &l.state)
        {
            None => {}
            Some(LinkState::Settled) => return Step::err(OpError::Exists),
            Some(LinkState::Nascent(by)) if *by == tx => {
                return Step::waits(move |engine, state| {
                    if let Some(pending) = engine.pending.get_mut(&tx) {
                        pending.state = Some(state);
                        return Ok(());
                    }
                    engine.drive_nascent(key, tx, Some(state), None)
                });
            }
            Some(_) => return Step::parks(key),
        }
        if row.nlink >= LINK_MAX {
            return Step::err(OpError::TooManyLinks);
        }
        let cred = state.request.cred.clone();
        let attr = Attr::of(&row, 0);
        let row = self.with_count(slice, row, 1);
        if self
            .lava
            .slice_of(parent.key())
            .is_some_and(|s| s.id == slice)
        {
            let mut effects = match self.insert_entry(parent, &name, &attr, Some(&cred), None)? {
                Inserting::Refused(error) => return Step::err(error),
                Inserting::Parks => return Step::parks(parent.key()),
                Inserting::There => return Step::err(OpError::Exists),
                Inserting::Effects(effects, _) => effects,
            };
            let dir = effects.iter().find_map(|effect| match effect {
                Effect::PutFlare(row) => Some(Box::new(Attr::of(row, 0))),
                _ => None,
            });
            let attr = Box::new(Attr::of(&row, self.store.blocks(&row)?));
            let answer = Answer::Linked { attr, dir };
            let link = LinkRow {
                parent,
                name,
                state: LinkState::Settled,
            };
            effects.push(Effect::PutFlare(Box::new(row)));
            effects.push(Effect::PutLink(key, Box::new(link)));
            self.commit_answer(state, effects, &answer)?;
            state.shown.push(key);
            return Step::ok(answer);
        }
        let link = LinkRow {
            parent,
            name: name.clone(),
            state: LinkState::Nascent(tx),
        };
        let effects = vec![
            Effect::PutFlare(Box::new(row)),
            Effect::PutLink(key, Box::new(link)),
        ];
        let gate = self.commit(slice, effects)?;
        let body = StepBody::Insert {
            dir: parent,
            name: name.clone(),
            attr: Box::new(attr),
            cred: Some(cred),
            inherit: None,
        };
        Step::waits(move |engine, state| {
            let kind = TxKind::Link {
                flare,
                parent,
                name,
            };
            engine.begin_tx(tx, Some(state), slice, gate, kind);
            engine.tx_step(tx, key, parent.key(), body);
            Ok(())
        })
    }

    /// The parent has answered: the link is settled, or taken back with its count.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn link_done(
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
        let (answer, mut effects) = match result {
            Ok(step) => {
                let attr = Box::new(Attr::of(&row, self.store.blocks(&row)?));
                let dir = match step {
                    StepAnswer::Inserted { dir, .. } => dir,
                    _ => None,
                };
                let answer = Answer::Linked { attr, dir };
                let link = LinkRow {
                    parent,
                    name,
                    state: LinkState::Settled,
                };
                (
                    Ok(answer),
                    vec![Effect::PutLink(flare.key(), Box::new(link))],
                )
            }
            Err(error) => {
                let effects = self.without_nascent(slice, row, parent, name);
                (Err(error), effects)
            }
        };
        effects.extend(match &state {
            Some(state) => state.reply_row(&answer),
            None => self.reply_row_after(slice, flare.key(), tx, &answer)?,
        });
        let seq = self.commit(slice, effects)?;
        self.wake_key(flare.key());
        let Some(mut state) = state else {
            return Ok(());
        };
        state.gate = state.gate.max(seq);
        state.shown.push(flare.key());
        self.finish_op(state, answer)
    }

    /// The effects that take a link back which never got its entry.
    pub(super) fn without_nascent(
        &mut self,
        slice: SliceId,
        row: FlareRow,
        parent: FlareRef,
        name: Name,
    ) -> Vec<Effect> {
        let row = self.with_count(slice, row, -1);
        let drop = Effect::DropLink(row.key, parent, name);
        vec![Effect::PutFlare(Box::new(row)), drop]
    }

    fn with_count(&mut self, slice: SliceId, mut row: FlareRow, by: i32) -> FlareRow {
        row.nlink = row.nlink.saturating_add_signed(by);
        row.ctime = self.tick();
        row.version = self.stamp(slice);
        row
    }
}
