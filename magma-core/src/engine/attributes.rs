//! Attributes and extended attributes of a flare, and what a volcano says of itself.

use serde_bytes::ByteBuf;

use super::Engine;
use super::acls::{self, Which};
use super::event::Outcome;
use super::request::{RequestState, Step};
use crate::effect::Effect;
use crate::error::{OpError, OpResult};
use crate::flare::{Attr, Kind, Layout};
use crate::ids::FlareRef;
use crate::key::Key;
use crate::limits::INLINE_MAX;
use crate::op::setattr::set_attr;
use crate::op::xattr::{
    check_xattr_name, check_xattr_set, list_xattrs, may_get_xattr, may_set_xattr,
};
use crate::op::{Answer, Inspection, SetAttr, XattrMode};
use crate::store::{Store, StoreResult};

impl<S: Store> Engine<S> {
    pub(super) fn get_attr(
        &mut self,
        state: &mut RequestState,
        flare: FlareRef,
    ) -> StoreResult<Step<S>> {
        let row = match self.live(flare)? {
            Ok(row) => row,
            Err(error) => return Step::err(error),
        };
        if row.nascent.is_some() {
            return Step::parks(row.key);
        }
        state.gate = state.gate.max(self.gate(state.slice, row.key));
        state.shown.push(row.key);
        let attr = Attr::of(&row, self.store.blocks(&row)?);
        Step::ok(Answer::Attr(Box::new(attr)))
    }

    /// Attributes of several flares of this volcano, whichever slices they are in.
    pub(super) fn get_attrs(
        &mut self,
        state: &mut RequestState,
        flares: &[FlareRef],
    ) -> StoreResult<OpResult<Outcome>> {
        let mut list = Vec::with_capacity(flares.len());
        for flare in flares {
            let slice = self.lava.slice_of(flare.key()).map(|slice| slice.id);
            let dirty = slice
                .and_then(|slice| self.owned.get(&slice))
                .map(|owned| (owned.id, owned.gate(flare.key())));
            list.push(match dirty {
                // Of another slice with a change on its way: this reply cannot wait for it.
                None => Err(OpError::TryAgain),
                Some((slice, Some(_))) if slice != state.slice => Err(OpError::TryAgain),
                Some((_, seq)) => {
                    state.gate = state.gate.max(seq.unwrap_or_default());
                    match self.live(*flare)? {
                        Ok(row) if row.nascent.is_none() => {
                            state.shown.push(row.key);
                            Ok(Attr::of(&row, self.store.blocks(&row)?))
                        }
                        Ok(_) => Err(OpError::TryAgain),
                        Err(error) => Err(error),
                    }
                }
            });
        }
        Ok(Ok(Outcome::done(Answer::Attrs(list))))
    }

    pub(super) fn set_attr(
        &mut self,
        state: &mut RequestState,
        flare: FlareRef,
        set: &SetAttr,
    ) -> StoreResult<OpResult<Outcome>> {
        let row = match self.live(flare)? {
            Ok(row) => row,
            Err(error) => return Ok(Err(error)),
        };
        let now = self.tick();
        let mut new = match set_attr(&row, &state.request.cred, set, now) {
            Ok(new) => new,
            Err(error) => return Ok(Err(error)),
        };
        // A shorter one is held already.
        if new.size > row.size
            && let Err(error) = self.check_length(state, new.size)
        {
            return Ok(Err(error));
        }
        new.version = self.stamp(state.slice);
        let mut effects = Vec::new();
        if row.kind == Kind::File && set.size.is_some() && new.size != row.size {
            if row.layout == Layout::Inline && new.size > INLINE_MAX {
                new.layout = Layout::Segments;
                effects.push(Effect::Spill(flare));
            }
            effects.push(Effect::Truncate(flare, new.size));
        }
        effects.insert(0, Effect::PutFlare(Box::new(new.clone())));
        // The blocks are counted after the change: the answer is made twice, as the slot's
        // reply must be in the same operation.
        let blocks = self.store.blocks(&row)?;
        let answer = Answer::Attr(Box::new(Attr::of(&new, blocks)));
        self.commit_answer(state, effects, &answer)?;
        let answer = Answer::Attr(Box::new(Attr::of(&new, self.store.blocks(&new)?)));
        state.shown.push(new.key);
        Ok(Ok(Outcome::done(answer)))
    }

    pub(super) fn get_xattr(
        &mut self,
        state: &RequestState,
        flare: FlareRef,
        name: &[u8],
    ) -> StoreResult<OpResult<Outcome>> {
        if let Some(which) = Which::of(name) {
            return self.get_list(flare, which);
        }
        let row = match self.live(flare)? {
            Ok(row) => row,
            Err(error) => return Ok(Err(error)),
        };
        let allowed =
            check_xattr_name(name).and_then(|_| may_get_xattr(&row, name, &state.request.cred));
        if let Err(error) = allowed {
            return Ok(Err(error));
        }
        Ok(match self.store.xattr(row.key, name)? {
            Some(value) => Ok(Outcome::done(Answer::Value(value))),
            None => Err(OpError::NoAttribute),
        })
    }

    pub(super) fn set_xattr(
        &mut self,
        state: &mut RequestState,
        flare: FlareRef,
        name: Vec<u8>,
        value: Vec<u8>,
        mode: XattrMode,
    ) -> StoreResult<OpResult<Outcome>> {
        if let Some(which) = Which::of(&name) {
            return self.set_list(state, flare, which, &value);
        }
        let mut row = match self.live(flare)? {
            Ok(row) => row,
            Err(error) => return Ok(Err(error)),
        };
        let allowed =
            check_xattr_name(&name).and_then(|_| may_set_xattr(&row, &name, &state.request.cred));
        if let Err(error) = allowed {
            return Ok(Err(error));
        }
        if self.full {
            return Ok(Err(OpError::NoSpace));
        }
        let names = self.store.xattr_names(row.key)?;
        if let Err(error) = check_xattr_set(&name, &value, mode, visible(&names)) {
            return Ok(Err(error));
        }
        row.ctime = self.tick();
        row.version = self.stamp(state.slice);
        let effects = vec![
            Effect::PutFlare(Box::new(row)),
            Effect::PutXattr(flare.key(), name, value),
        ];
        self.commit_answer(state, effects, &Answer::Done)?;
        Ok(Ok(Outcome::done(Answer::Done)))
    }

    pub(super) fn list_xattr(
        &mut self,
        state: &RequestState,
        flare: FlareRef,
    ) -> StoreResult<OpResult<Outcome>> {
        let row = match self.live(flare)? {
            Ok(row) => row,
            Err(error) => return Ok(Err(error)),
        };
        let names = self.store.xattr_names(row.key)?;
        let lists = acls::names(row.acls.as_deref());
        let list = list_xattrs(visible(&names).chain(lists), &state.request.cred);
        Ok(list.map(|list| Outcome::done(Answer::Value(list))))
    }

    pub(super) fn remove_xattr(
        &mut self,
        state: &mut RequestState,
        flare: FlareRef,
        name: Vec<u8>,
    ) -> StoreResult<OpResult<Outcome>> {
        if let Some(which) = Which::of(&name) {
            return self.set_list(state, flare, which, &[]);
        }
        let mut row = match self.live(flare)? {
            Ok(row) => row,
            Err(error) => return Ok(Err(error)),
        };
        let allowed =
            check_xattr_name(&name).and_then(|_| may_set_xattr(&row, &name, &state.request.cred));
        if let Err(error) = allowed {
            return Ok(Err(error));
        }
        if self.store.xattr(row.key, &name)?.is_none() {
            return Ok(Err(OpError::NoAttribute));
        }
        row.ctime = self.tick();
        row.version = self.stamp(state.slice);
        let effects = vec![
            Effect::PutFlare(Box::new(row)),
            Effect::DropXattr(flare.key(), name),
        ];
        self.commit_answer(state, effects, &Answer::Done)?;
        Ok(Ok(Outcome::done(Answer::Done)))
    }

    pub(super) fn statfs(&mut self) -> StoreResult<OpResult<Outcome>> {
        let mut space = self.store.space()?;
        space.flares = self.count_owned()?;
        Ok(Ok(Outcome::done(Answer::Space(space))))
    }

    /// How many flares this volcano owns.
    pub fn count_owned(&self) -> StoreResult<u64> {
        let mut count = 0;
        for owned in self.owned.values() {
            count += self.store.count_flares(owned.start, owned.end)?;
        }
        Ok(count)
    }

    /// How many flares this volcano holds copies of.
    pub fn count_copies(&self) -> StoreResult<u64> {
        let mut count = 0;
        for slice in self.held.keys().filter_map(|id| self.lava.slice(*id)) {
            count += self.store.count_flares(slice.start, slice.end)?;
        }
        Ok(count)
    }

    pub(super) fn inspect(&mut self, key: Key) -> StoreResult<OpResult<Outcome>> {
        let Some(row) = self.cache.flare(&self.store, key)? else {
            return Ok(Err(OpError::NotFound));
        };
        let names = self.store.xattr_names(key)?;
        let inspection = Inspection {
            links: self.cache.links(&self.store, key)?,
            xattrs: visible(&names).map(ByteBuf::from).collect(),
            content: self.store.content_place(&row),
            volcano: self.lava.nick(self.me),
            row,
        };
        Ok(Ok(Outcome::done(Answer::Inspection(Box::new(inspection)))))
    }
}

/// The names that clients know of: those that begin with NUL are Magma's own.
fn visible(names: &[Vec<u8>]) -> impl Iterator<Item = &[u8]> {
    names
        .iter()
        .map(Vec::as_slice)
        .filter(|name| name.first() != Some(&0))
}
