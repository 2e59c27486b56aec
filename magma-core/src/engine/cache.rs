//! Rows of flares and their links in memory: what nearly every operation looks at.

use std::collections::{HashMap, VecDeque};

use crate::effect::Effect;
use crate::flare::{FlareRow, LinkRow};
use crate::key::Key;
use crate::limits::FLARE_CACHE;
use crate::store::{StoreResult, View};

/// A bounded cache that is written through. Its map is never iterated for a decision.
#[derive(Default)]
pub(super) struct RowCache {
    rows: HashMap<Key, Cached>,
    /// Keys in the order in which they came: the oldest goes first. A key that is used again
    /// comes back in with one read of the store, which costs less than exact bookkeeping.
    order: VecDeque<Key>,
}

struct Cached {
    row: Option<FlareRow>,
    links: Option<Vec<LinkRow>>,
}

impl RowCache {
    pub(super) fn flare(&mut self, store: &impl View, key: Key) -> StoreResult<Option<FlareRow>> {
        if let Some(cached) = self.rows.get(&key) {
            return Ok(cached.row.clone());
        }
        let row = store.flare(key)?;
        self.insert(
            key,
            Cached {
                row: row.clone(),
                links: None,
            },
        );
        Ok(row)
    }

    pub(super) fn links(&mut self, store: &impl View, key: Key) -> StoreResult<Vec<LinkRow>> {
        if let Some(links) = self.rows.get(&key).and_then(|cached| cached.links.as_ref()) {
            return Ok(links.clone());
        }
        let links = store.links(key)?;
        self.flare(store, key)?;
        if let Some(cached) = self.rows.get_mut(&key) {
            cached.links = Some(links.clone());
        }
        Ok(links)
    }

    /// Follows an effect that the store has applied.
    pub(super) fn applied(&mut self, effect: &Effect) {
        match effect {
            Effect::PutFlare(row) => match self.rows.get_mut(&row.key) {
                Some(cached) => cached.row = Some((**row).clone()),
                None => {
                    // A birth: there are no links but those that this record puts.
                    let row = (**row).clone();
                    self.insert(
                        row.key,
                        Cached {
                            row: Some(row),
                            links: None,
                        },
                    );
                }
            },
            Effect::DropFlare(flare) => {
                if let Some(cached) = self.rows.get_mut(&flare.key()) {
                    *cached = Cached {
                        row: None,
                        links: Some(Vec::new()),
                    };
                }
            }
            Effect::PutLink(key, link) => {
                if let Some(links) = self.links_mut(*key) {
                    match links
                        .iter_mut()
                        .find(|l| l.parent == link.parent && l.name == link.name)
                    {
                        Some(old) => *old = (**link).clone(),
                        None => links.push((**link).clone()),
                    }
                }
            }
            Effect::DropLink(key, parent, name) => {
                if let Some(links) = self.links_mut(*key) {
                    links.retain(|l| !(l.parent == *parent && l.name == *name));
                }
            }
            _ => {}
        }
    }

    /// Forgets everything: the store has changed underneath.
    pub(super) fn clear(&mut self) {
        self.rows.clear();
        self.order.clear();
    }

    /// The rows in memory, in order of keys, with the links where they are in memory too.
    pub(super) fn list(&self) -> Vec<(FlareRow, Option<Vec<LinkRow>>)> {
        let mut list: Vec<_> = self
            .rows
            .values()
            .filter_map(|cached| Some((cached.row.clone()?, cached.links.clone())))
            .collect();
        list.sort_by_key(|(row, _)| row.key);
        list
    }

    fn links_mut(&mut self, key: Key) -> Option<&mut Vec<LinkRow>> {
        self.rows.get_mut(&key)?.links.as_mut()
    }

    fn insert(&mut self, key: Key, cached: Cached) {
        if self.rows.insert(key, cached).is_none() {
            self.order.push_back(key);
        }
        while self.rows.len() > FLARE_CACHE {
            match self.order.pop_front() {
                Some(oldest) => drop(self.rows.remove(&oldest)),
                None => break,
            }
        }
    }
}
