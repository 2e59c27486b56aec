//! The memory twin of the store, for simulation and unit tests.
//!
//! | file | what |
//! |---|---|
//! | [`memory`](self) | transactions, crashes and loss of power |
//! | `table` | a sorted table that can take changes back |
//! | `sparse` | content with holes |
//! | `read`, `write` | [`super::View`] and [`super::Store`] |
//!
//! It answers as [`super::sqlite::SqliteStore`] does; a property test holds the two against
//! each other. Beside the live image it knows what a crash of the process leaves
//! ([`MemoryStore::crash`]) and what a loss of power leaves ([`MemoryStore::power_loss`]).

mod read;
mod sparse;
mod table;
mod write;

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::effect::Record;
use crate::flare::{Decision, EntryRow, FlareRow, Layout, LinkRow, OutboxRow, ReplyRow};
use crate::ids::{Epoch, FlareRef, Seq, SessionId, SliceId, Slot, TxId};
use crate::key::Key;
use sparse::SparseFile;
use table::Table;

/// A store in memory. Its disk has no end.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    flares: Table<Key, FlareRow>,
    // Names are bytes here: the empty one, which no name is, comes before all.
    entries: Table<(Key, Vec<u8>), EntryRow>,
    links: Table<(Key, FlareRef, Vec<u8>), LinkRow>,
    xattrs: Table<(Key, Vec<u8>), Vec<u8>>,
    inline: Table<Key, Vec<u8>>,
    journal: Table<(SliceId, Seq), Record>,
    positions: Table<SliceId, (Epoch, Seq)>,
    /// The operations up to which copies were filled: not in the journal, but known.
    bases: Table<SliceId, (Epoch, Seq)>,
    replies: Table<(SliceId, SessionId, Slot), ReplyRow>,
    outbox: Table<(Key, TxId, Key), OutboxRow>,
    decisions: Table<(Key, TxId), Decision>,
    holders: Table<(Key, SessionId), ()>,
    meta: Table<String, Vec<u8>>,
    /// Changed outside the transaction, as files are, and synced through a shared reference.
    content: RefCell<Table<(FlareRef, u32), SparseFile>>,
    doomed: BTreeSet<FlareRef>,
    touched: BTreeSet<FlareRef>,
    /// A write of the batch was refused: the batch cannot be committed.
    failed: bool,
}

/// Runs the same call on every table whose rows are part of the transaction.
macro_rules! each_row_table {
    ($store:ident, $call:ident) => {
        $store.flares.$call();
        $store.entries.$call();
        $store.links.$call();
        $store.xattrs.$call();
        $store.inline.$call();
        $store.journal.$call();
        $store.positions.$call();
        $store.bases.$call();
        $store.replies.$call();
        $store.outbox.$call();
        $store.decisions.$call();
        $store.holders.$call();
        $store.meta.$call();
    };
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// The process is killed and the store opened again: what was committed is there, and
    /// content as it was written.
    pub fn crash(&mut self) {
        self.undo();
        self.failed = false;
    }

    /// The power is lost and the store opened again: rows as of the last commit with
    /// [`super::Durability::Disk`], content of each flare as of its last sync. This disk keeps
    /// nothing that it was not asked to keep, which is the worst that a real one may do.
    pub fn power_loss(&mut self) {
        self.crash();
        each_row_table!(self, forget_unsynced);
        let content = self.content.get_mut();
        content.forget_unsynced();
        let files: BTreeSet<FlareRef> = content.keys().map(|(flare, _)| *flare).collect();
        for flare in files {
            self.fit_content(flare);
        }
    }

    /// A value of the volcano's own, by name.
    pub fn meta(&self, name: &str) -> Option<Vec<u8>> {
        self.meta.get(&name.to_owned()).cloned()
    }

    /// Sets a value of the volcano's own.
    pub fn set_meta(&mut self, name: &str, value: &[u8]) {
        self.meta.put(name.to_owned(), value.to_vec());
    }

    fn keep_rows(&mut self) {
        each_row_table!(self, commit);
        self.touched.clear();
        for flare in std::mem::take(&mut self.doomed) {
            self.remove_content(flare);
        }
    }

    fn sync_rows(&mut self) {
        each_row_table!(self, sync);
    }

    fn undo(&mut self) {
        each_row_table!(self, rollback);
        self.doomed.clear();
        for flare in std::mem::take(&mut self.touched) {
            self.fit_content(flare);
        }
    }

    fn remove_content(&mut self, flare: FlareRef) {
        self.content
            .get_mut()
            .remove_where((flare, 0)..=(flare, u32::MAX), |_, _| true);
    }

    fn cut_content(&mut self, flare: FlareRef, size: u64) {
        let content = self.content.get_mut();
        if let Some(file) = content.get(&(flare, 0))
            && file.len() > size
        {
            let mut file = file.clone();
            file.truncate(size);
            content.put((flare, 0), file);
        }
    }

    /// As the store on disk does after a rollback or a crash: bytes that no row knows of go.
    fn fit_content(&mut self, flare: FlareRef) {
        match self.flares.get(&flare.key()) {
            Some(row) if row.inc == flare.inc() && row.layout == Layout::Segments => {
                self.cut_content(flare, row.size);
            }
            Some(_) | None => self.remove_content(flare),
        }
    }
}
