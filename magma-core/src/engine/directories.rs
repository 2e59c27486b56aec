//! Names: the guess, the parent's word, and listings.

use bytes::Bytes;

use super::Engine;
use super::event::Outcome;
use super::request::{RequestState, Step};
use crate::error::{OpError, OpResult};
use crate::flare::{Attr, EntryRow, LinkState, Name};
use crate::ids::FlareRef;
use crate::limits::READDIR_BYTES_MAX;
use crate::op::permission::{Access, may};
use crate::op::{Answer, ListedEntry};
use crate::store::{Store, StoreResult};

/// What an entry costs in a listing besides its name, in bytes.
const ENTRY_BYTES: usize = 96;
/// Entries read from the store at a time.
const ENTRIES_AT_A_TIME: usize = 256;

impl<S: Store> Engine<S> {
    /// Is the flare under this key linked as (parent, name)? Only a settled link is trusted:
    /// whatever else is under way, the parent's entry decides.
    pub(super) fn guess(
        &mut self,
        state: &mut RequestState,
        parent: FlareRef,
        name: &Name,
    ) -> StoreResult<OpResult<Outcome>> {
        let key = state.request.key;
        let ask = Ok(Ok(Outcome::done(Answer::AskParent)));
        let Some(row) = self.cache.flare(&self.store, key)? else {
            return ask;
        };
        let links = self.cache.links(&self.store, key)?;
        let linked = links.iter().any(|link| {
            link.state == LinkState::Settled && link.parent == parent && link.name == *name
        });
        if !linked || row.nascent.is_some() {
            return ask;
        }
        let attr = Attr::of(&row, self.store.blocks(&row)?);
        state.shown.push(key);
        Ok(Ok(Outcome::done(Answer::Attr(Box::new(attr)))))
    }

    /// What a name stands for: the truth.
    pub(super) fn lookup_entry(
        &mut self,
        state: &mut RequestState,
        dir: FlareRef,
        name: Name,
    ) -> StoreResult<Step<S>> {
        let row = match self.live(dir)? {
            Ok(row) => row,
            Err(error) => return Step::err(error),
        };
        if !row.is_dir() {
            return Step::err(OpError::NotDirectory);
        }
        state.shown.push(dir.key());
        let Some(entry) = self.store.entry(dir.key(), &name)? else {
            return Step::err(OpError::NotFound);
        };
        if entry.prepared.is_some() {
            // A rename is being decided elsewhere: what the name stands for is not known
            // until then.
            return Step::parks(dir.key());
        }
        let attr = self.attr_beside(&entry)?;
        if attr.is_some() {
            state.shown.push(entry.child.key());
        }
        Step::ok(Answer::Entry {
            child: entry.child,
            kind: entry.kind,
            attr,
        })
    }

    /// The attributes of an entry's flare, where this volcano owns it in the same slice, so
    /// that the directory's gate covers it.
    fn attr_beside(&mut self, entry: &EntryRow) -> StoreResult<Option<Box<Attr>>> {
        let key = entry.child.key();
        let ours = self
            .lava
            .slice_of(key)
            .is_some_and(|slice| slice.owner == self.me);
        // A change of the child that is not acknowledged must not show through the parent.
        let dirty = self
            .lava
            .slice_of(key)
            .and_then(|slice| self.owned.get(&slice.id))
            .is_none_or(|owned| owned.gate(key).is_some());
        if !ours || dirty {
            return Ok(None);
        }
        match self.live(entry.child)? {
            Ok(row) if row.nascent.is_none() => {
                let blocks = self.store.blocks(&row)?;
                Ok(Some(Box::new(Attr::of(&row, blocks))))
            }
            _ => Ok(None),
        }
    }

    pub(super) fn read_dir(
        &mut self,
        state: &mut RequestState,
        dir: FlareRef,
        after: u64,
        max_bytes: u32,
    ) -> StoreResult<Step<S>> {
        let row = match self.live(dir)? {
            Ok(row) => row,
            Err(error) => return Step::err(error),
        };
        if !row.is_dir() {
            return Step::err(OpError::NotDirectory);
        }
        let want = Access {
            read: true,
            write: false,
            exec: false,
        };
        if let Err(error) = may(&row, &state.request.cred, want) {
            return Step::err(error);
        }
        let most = (max_bytes as usize).min(READDIR_BYTES_MAX);
        state.shown.push(dir.key());
        let mut list = Vec::new();
        let mut bytes = 0;
        let mut cursor = after;
        loop {
            let entries = self.store.entries(dir.key(), cursor, ENTRIES_AT_A_TIME)?;
            let last_page = entries.len() < ENTRIES_AT_A_TIME;
            for entry in entries {
                if entry.prepared.is_some() {
                    return Step::parks(dir.key());
                }
                bytes += ENTRY_BYTES + entry.name.as_bytes().len();
                if bytes > most && !list.is_empty() {
                    return Step::ok(Answer::Entries { list, end: false });
                }
                cursor = entry.cookie;
                list.push(ListedEntry {
                    name: entry.name,
                    child: entry.child,
                    kind: entry.kind,
                    cookie: entry.cookie,
                });
            }
            if last_page {
                return Step::ok(Answer::Entries { list, end: true });
            }
        }
    }

    pub(super) fn read_link(
        &mut self,
        state: &mut RequestState,
        flare: FlareRef,
    ) -> StoreResult<OpResult<Outcome>> {
        let row = match self.live(flare)? {
            Ok(row) => row,
            Err(error) => return Ok(Err(error)),
        };
        if row.kind != crate::flare::Kind::Symlink {
            return Ok(Err(OpError::Invalid));
        }
        state.shown.push(row.key);
        let target: Bytes = self.store.read(&row, 0, row.size as usize)?;
        Ok(Ok(Outcome::done(Answer::Target(target.to_vec()))))
    }
}
