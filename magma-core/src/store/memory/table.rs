//! A sorted table that can take changes back: to the last commit, and to the last sync.

use std::collections::BTreeMap;
use std::ops::RangeBounds;

/// For each changed row what it was before, `None` if it was not there: the first change
/// counts, so this is never larger than the table has been.
type Before<K, V> = BTreeMap<K, Option<V>>;

#[derive(Clone, Debug)]
pub(super) struct Table<K, V> {
    live: BTreeMap<K, V>,
    uncommitted: Before<K, V>,
    unsynced: Before<K, V>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Table<K, V> {
        Table {
            live: BTreeMap::new(),
            uncommitted: BTreeMap::new(),
            unsynced: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone, V: Clone> Table<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.live.get(key)
    }

    pub(super) fn range(
        &self,
        range: impl RangeBounds<K>,
    ) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.live.range(range)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.live.keys()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.live.iter()
    }

    pub(super) fn put(&mut self, key: K, value: V) {
        let old = self.live.insert(key.clone(), value);
        self.uncommitted.entry(key).or_insert(old);
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some(old) = self.live.remove(key) {
            self.uncommitted.entry(key.clone()).or_insert(Some(old));
        }
    }

    /// Removes the rows of a range that a condition holds for.
    pub(super) fn remove_where(
        &mut self,
        range: impl RangeBounds<K>,
        condition: impl Fn(&K, &V) -> bool,
    ) {
        let doomed: Vec<K> = self
            .live
            .range(range)
            .filter(|(key, value)| condition(key, value))
            .map(|(key, _)| key.clone())
            .collect();
        for key in doomed {
            self.remove(&key);
        }
    }

    pub(super) fn commit(&mut self) {
        for (key, old) in std::mem::take(&mut self.uncommitted) {
            self.unsynced.entry(key).or_insert(old);
        }
    }

    /// After a commit: what is there now survives a loss of power.
    pub(super) fn sync(&mut self) {
        self.unsynced.clear();
    }

    /// As [`Self::sync`], for the rows of a range.
    pub(super) fn sync_range(&mut self, range: impl RangeBounds<K>) {
        self.commit();
        self.unsynced.retain(|key, _| !range.contains(key));
    }

    pub(super) fn rollback(&mut self) {
        restore(&mut self.live, std::mem::take(&mut self.uncommitted));
    }

    pub(super) fn forget_unsynced(&mut self) {
        self.commit();
        restore(&mut self.live, std::mem::take(&mut self.unsynced));
    }
}

fn restore<K: Ord, V>(live: &mut BTreeMap<K, V>, before: Before<K, V>) {
    for (key, old) in before {
        match old {
            Some(value) => live.insert(key, value),
            None => live.remove(&key),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(table: &Table<u8, u8>) -> Vec<(u8, u8)> {
        table.iter().map(|(key, value)| (*key, *value)).collect()
    }

    #[test]
    fn back_to_the_commit_and_back_to_the_sync() {
        let mut table = Table::default();
        table.put(1, 1);
        table.put(2, 1);
        table.commit();
        table.sync();
        table.put(1, 2);
        table.remove(&2);
        table.put(3, 2);
        table.commit();
        table.put(1, 3);
        table.put(2, 3);
        table.remove(&3);
        table.rollback();
        assert_eq!(rows(&table), [(1, 2), (3, 2)]);
        table.put(4, 4);
        table.forget_unsynced();
        assert_eq!(rows(&table), [(1, 1), (2, 1)]);
    }
}
