//! The only part of the core that touches a disk.
//!
//! | file | what |
//! |---|---|
//! | [`schema`] | the tables of `store.sql`, their version and migrations |
//! | [`sqlite`] | [`View`] and [`Store`] over SQLite and content files |
//! | `redo` | the redo log: what SQLite has not committed yet |
//! | [`content`] | content files `content/ab/KEY.INCARNATION.SEGMENT` |
//! | [`memory`] | the memory twin for simulation and unit tests |
//! | `rules` | what both stores must agree on |
//! | [`lock`] | the lock file that keeps a second volcano out |
//! | [`agreement_log`] | `agreement.sql`: the lava, with full sync |

pub mod agreement_log;
pub mod content;
pub mod lock;
pub mod memory;
pub mod raft_log;
mod redo;
mod rules;
pub mod schema;
pub mod sqlite;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use bytes::Bytes;

use crate::effect::{Effect, Record};
use crate::flare::{Decision, EntryRow, FlareRow, LinkRow, Name, OutboxRow, ReplyRow};
use crate::ids::{Epoch, FlareRef, Seq, SessionId, SliceId, Slot, TxId};
use crate::key::Key;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite failed.
    #[error("the store {path}: {source}")]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A file or directory operation failed.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The disk is full: nothing of the operation was kept.
    #[error("the disk of {path} is full")]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// A row does not decode: the store is damaged or from another version.
    #[error("a row of table {table} in {path} cannot be read: {reason}")]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// The table.
        table: &'static str,
        /// Why.
        reason: String,
    },
    /// A block of content does not have its checksum: what the disk gives is not what was
    /// written.
    #[error("the block at byte {offset} of {path} does not have its checksum (flare {flare})")]
    BadBlock {
        /// The content file.
        path: PathBuf,
        /// The flare.
        flare: FlareRef,
        /// The first byte of the block.
        offset: u64,
    },
    /// The store was written by a newer magmad.
    #[error("{path} has schema version {found}, this magmad knows up to {known}: use a newer one")]
    TooNew {
        /// The database file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// Another magmad has the directory.
    #[error("{path} is in use by another magmad (process {pid})")]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The other process, as its lock file says; 0 if unknown.
        pid: u32,
    },
}

impl StoreError {
    /// What a client is told.
    pub fn op_error(&self) -> crate::error::OpError {
        match self {
            StoreError::Full { .. } => crate::error::OpError::NoSpace,
            StoreError::Sqlite { .. }
            | StoreError::Io { .. }
            | StoreError::BadBlock { .. }
            | StoreError::Damaged { .. }
            | StoreError::TooNew { .. }
            | StoreError::Locked { .. } => crate::error::OpError::Io,
        }
    }
}

/// What a store returns.
pub type StoreResult<T> = Result<T, StoreError>;

/// Reading. Inside a transaction it sees what was applied before.
pub trait View {
    /// A flare's row.
    fn flare(&self, key: Key) -> StoreResult<Option<FlareRow>>;
    /// The lowest key above `after` (from the start when none) and up to `upto` that has rows
    /// of any kind, with them all as effects (flare, content excluded; entries, links, xattrs,
    /// replies, outbox, decisions, holders). Fills copies.
    fn rows_of_next_key(
        &self,
        after: Option<Key>,
        upto: Key,
    ) -> StoreResult<Option<(Key, Vec<Effect>)>>;
    /// The same, without the entries of directories, which may be many.
    fn rows_but_entries(
        &self,
        after: Option<Key>,
        upto: Key,
    ) -> StoreResult<Option<(Key, Vec<Effect>)>> {
        let found = self.rows_of_next_key(after, upto)?;
        Ok(found.map(|(key, mut rows)| {
            rows.retain(|row| !matches!(row, Effect::PutEntry(..)));
            (key, rows)
        }))
    }
    /// An entry of a directory.
    fn entry(&self, dir: Key, name: &Name) -> StoreResult<Option<EntryRow>>;
    /// Entries of a directory with a cookie above `after`, in order, at most `limit`.
    fn entries(&self, dir: Key, after: u64, limit: usize) -> StoreResult<Vec<EntryRow>>;
    /// The entry of a directory that a transaction has prepared (at most one).
    fn prepared_entry(&self, dir: Key, tx: TxId) -> StoreResult<Option<EntryRow>> {
        let prepared = self.prepared_entries(dir, usize::MAX)?;
        Ok(prepared
            .into_iter()
            .find(|e| e.prepared.as_ref().is_some_and(|p| p.tx == tx)))
    }
    /// Entries of a directory that any transaction has prepared, at most `limit`.
    fn prepared_entries(&self, dir: Key, limit: usize) -> StoreResult<Vec<EntryRow>>;
    /// All links of a flare.
    fn links(&self, key: Key) -> StoreResult<Vec<LinkRow>>;
    /// An extended attribute.
    fn xattr(&self, key: Key, name: &[u8]) -> StoreResult<Option<Vec<u8>>>;
    /// Names of all extended attributes of a flare, in order.
    fn xattr_names(&self, key: Key) -> StoreResult<Vec<Vec<u8>>>;
    /// The last reply of a slot in a slice.
    fn reply(
        &self,
        slice: SliceId,
        session: SessionId,
        slot: Slot,
    ) -> StoreResult<Option<ReplyRow>>;
    /// Another session that has replies in a slice, the one `after` this; from none on it comes to all, in
    /// an order of the store's.
    fn next_reply_session(
        &self,
        slice: SliceId,
        after: Option<SessionId>,
    ) -> StoreResult<Option<SessionId>>;
    /// Slots of a session that have a reply in a slice, with the keys that these live with, at most
    /// `limit`.
    fn reply_slots(
        &self,
        slice: SliceId,
        session: SessionId,
        limit: usize,
    ) -> StoreResult<Vec<(Key, Slot)>>;
    /// Rows still to be told to others, of keys in a range, at most `limit`.
    fn outbox(&self, start: Key, end: Key, limit: usize) -> StoreResult<Vec<OutboxRow>>;
    /// The decision of a transaction at a key.
    fn decision(&self, key: Key, tx: TxId) -> StoreResult<Option<Decision>>;
    /// Sessions that hold something in a range of keys.
    fn holders(&self, start: Key, end: Key) -> StoreResult<Vec<SessionId>>;
    /// Flares of a range that are unfinished: nascent, with a link that is not settled, without
    /// any link (unlinked but kept open), or with a prepared entry. At most `limit`.
    fn unsettled(&self, start: Key, end: Key, limit: usize) -> StoreResult<Vec<Key>>;
    /// Content, at most `len` bytes from `offset`; shorter at the end of what is stored (the
    /// caller knows the size and fills holes at the end with zeros).
    fn read(&self, row: &FlareRow, offset: u64, len: usize) -> StoreResult<Bytes>;
    /// Reads as [`View::read`] for another volcano: what does not have its checksum comes too,
    /// and is named.
    fn read_to_copy(
        &self,
        row: &FlareRow,
        offset: u64,
        len: usize,
    ) -> StoreResult<(Bytes, Vec<Effect>)> {
        Ok((self.read(row, offset, len)?, Vec::new()))
    }
    /// The next byte of data (or of a hole) from an offset within the size on; none when there
    /// is no more data. The end of the content is a hole.
    fn seek(&self, row: &FlareRow, offset: u64, data: bool) -> StoreResult<Option<u64>>;
    /// Space that the content occupies, in units of 512 bytes.
    fn blocks(&self, row: &FlareRow) -> StoreResult<u64>;
    /// Where the content lies, for a person.
    fn content_place(&self, row: &FlareRow) -> String;
    /// The last operation of a slice that this store has applied.
    fn position(&self, slice: SliceId) -> StoreResult<Option<(Epoch, Seq)>>;
    /// Journalled operations of a slice after `seq`, in order, at most `limit`, content re-read.
    /// `None` when the journal does not reach back that far.
    fn journal_after(
        &self,
        slice: SliceId,
        seq: Seq,
        limit: usize,
    ) -> StoreResult<Option<Vec<Record>>>;
    /// The epoch of a journalled operation. An operation has the same epoch on two volcanos if, and
    /// only if, it is the same one and all before it are too: a slice has one owner an epoch. Known
    /// too of the operation up to which a copy was filled ([`Store::set_position`]).
    fn journal_epoch(&self, slice: SliceId, seq: Seq) -> StoreResult<Option<Epoch>>;
    /// How many flares there are in a range of keys.
    fn count_flares(&self, start: Key, end: Key) -> StoreResult<u64>;
    /// The highest key of a range that has a flare.
    fn last_key(&self, start: Key, end: Key) -> StoreResult<Option<Key>>;
    /// The key in the middle of the flares of a range, by count: half lie below it.
    fn median_key(&self, start: Key, end: Key) -> StoreResult<Option<Key>>;
    /// Whether any flare of this store has these first 64 bits of key.
    fn prefix_taken(&self, prefix: u64) -> StoreResult<bool>;
    /// The highest hybrid clock ceiling that was persisted.
    fn clock_ceiling(&self) -> StoreResult<u64>;
}

/// How firmly a commit must stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Survives kill -9 of the process (it has left our memory).
    Process,
    /// Survives loss of power (it is on the disk).
    Disk,
}

/// Writing, by one thread, in transactions that group many operations.
pub trait Store: View {
    /// Opens a transaction; everything until [`Store::commit`] happens together.
    fn begin(&mut self) -> StoreResult<()>;
    /// Applies an operation: its effects in order, its journal row, and the slice's position.
    /// Content is written at once, outside the transaction: content of an operation that does
    /// not commit is content that nobody was told of.
    fn apply(&mut self, record: &Record) -> StoreResult<()>;
    /// Applies rows of a copy that is being filled: no journal row, no position.
    fn apply_rows(&mut self, slice: SliceId, effects: &[Effect]) -> StoreResult<()>;
    /// Sets the position of a slice (the end of a copy's filling).
    fn set_position(&mut self, slice: SliceId, at: (Epoch, Seq)) -> StoreResult<()>;
    /// Gives the keys of a range with their replies to a slice that was cut off another.
    /// The new slice's journal is empty and its position as given.
    fn cut_slice(
        &mut self,
        from: SliceId,
        to: SliceId,
        start: Key,
        end: Key,
        at: (Epoch, Seq),
    ) -> StoreResult<()>;
    /// Forgets at most `limit` flares of a range with all that belongs to them (not the journal
    /// and not the position); returns whether anything is left. Replies go by their key, under
    /// whatever slice they are kept: a copy that never heard of a cut has them under the old one.
    fn clear_range(&mut self, start: Key, end: Key, limit: usize) -> StoreResult<bool>;
    /// Forgets the journal and the position of a slice.
    fn forget_slice(&mut self, slice: SliceId) -> StoreResult<()>;
    /// Drops journal rows of a slice up to `seq`.
    fn trim_journal(&mut self, slice: SliceId, upto: Seq) -> StoreResult<()>;
    /// Persists a ceiling of the hybrid clock.
    fn set_clock_ceiling(&mut self, nanos: u64) -> StoreResult<()>;
    /// Ends the transaction. With [`Durability::Disk`] it returns when the rows are on disk;
    /// content has its own sync ([`content::ContentFiles::sync`]).
    fn commit(&mut self, durability: Durability) -> StoreResult<()>;
    /// Ends the transaction without keeping its rows.
    fn rollback(&mut self) -> StoreResult<()>;
    /// A handle to the content files, usable from other threads; none in memory.
    fn content(&self) -> Option<content::ContentFiles>;
    /// Space of the storage.
    fn space(&self) -> StoreResult<crate::op::Space>;
    /// The most bytes that the content of a flare can have here.
    fn largest_file(&self) -> u64;
    /// Puts the content of a flare on the disk, now, on this thread (tests and memory).
    fn sync_content(&self, flare: FlareRef) -> StoreResult<()>;
}
