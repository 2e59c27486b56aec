//! Which replies live with a key.
//!
//! Replies are read by slot and change their key with almost every operation; an index on
//! the key would cost every operation two updates of a tree, only to serve the filling of a
//! copy. So the index is made in memory when a filling begins, kept up while it lasts, and
//! dropped when it has come to its end.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{SessionId, SliceId, Slot};
use crate::key::Key;

/// Where a reply is kept.
pub(super) type Place = (SliceId, SessionId, Slot);

#[derive(Debug, Default)]
pub(super) struct ReplyKeys {
    keys: BTreeMap<Place, Key>,
    places: BTreeSet<(Key, Place)>,
}

impl ReplyKeys {
    pub(super) fn put(&mut self, place: Place, key: Key) {
        if let Some(old) = self.keys.insert(place, key) {
            self.places.remove(&(old, place));
        }
        self.places.insert((key, place));
    }

    pub(super) fn remove(&mut self, place: Place) {
        if let Some(old) = self.keys.remove(&place) {
            self.places.remove(&(old, place));
        }
    }

    /// The lowest key from `start` on that has a reply.
    pub(super) fn next_key(&self, start: Key) -> Option<Key> {
        self.places
            .range((start, Place::default())..)
            .next()
            .map(|(key, _)| *key)
    }

    /// Where the replies of a key are kept, in order.
    pub(super) fn places(&self, key: Key) -> impl Iterator<Item = Place> + '_ {
        self.places
            .range((key, Place::default())..)
            .take_while(move |(of, _)| *of == key)
            .map(|(_, place)| *place)
    }
}
