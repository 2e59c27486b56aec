//! The store on disk: rows in `store.sql` (SQLite, WAL), content in `content/`.
//!
//! | file | what |
//! |---|---|
//! | [`sqlite`](self) | opening, transactions and durability |
//! | `read` | [`super::View`] |
//! | `write` | [`super::Store`]: effects, journal, slices |
//! | `rows` | rows and identifiers as columns |
//! | `redoing` | what the redo log holds is applied again |
//! | `reply_keys` | which replies live with a key, for copying |
//! | `sweep` | content files after a crash or a rollback |
//!
//! There is one connection, used by one thread. [`super::Store::begin`] touches nothing: the
//! first read of a batch opens a read transaction, which makes the reads after it cheap, and
//! the first write makes it a write transaction. That one stays open over many batches: what
//! makes a batch outlive the process is its frame in the redo log ([`super::redo`]), and SQLite
//! commits when some have gathered ([`SqliteStore::settle`]). A batch that fails takes SQLite
//! back to its last commit, and the frames since then are applied again.
//!
//! **Cost** (`cargo run --release -p magma-core --example store_cost`) of applying a create (row, link, reply, journal, position; the commit included),
//! dev profile, 65,000 creates on a machine of 2 cores that was also busy with other work: 110
//! to 150 µs alone and 85 to 105 µs in groups of 32 on ext4, 75 to 90 µs and 42 to 60 µs on
//! tmpfs. Most of it is copying pages: every key is a page of its own, once into the log and
//! once, at the checkpoint, into the database. Links in a table of their own made it 140 µs in
//! groups of 32 on ext4. A read of a row in a batch takes 6 to 8 µs.

mod read;
mod redoing;
mod reply_keys;
mod rows;
mod sweep;
mod write;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{CachedStatement, Connection, ErrorCode, OpenFlags, OptionalExtension};

use super::content::{ContentFiles, io_error, sync_directory};
use super::redo::{Change, Mark, RedoLog};
use super::{Durability, StoreError, StoreResult, schema};
use crate::ids::{Epoch, FlareRef, Seq, SliceId};
use crate::limits::{
    PAGE_CACHE_KIB, REDO_ANEW_BYTES, REDO_BYTES, REDO_BYTES_MAX, REDO_OPERATIONS,
    WAL_CHECKPOINT_PAGES, WAL_KEPT_BYTES,
};
#[cfg(test)]
pub(super) use read::SEARCHES;
use reply_keys::ReplyKeys;
pub(super) use rows::content_id;

/// Name of the database inside the store's directory.
pub const DATABASE_FILE: &str = "store.sql";
/// Name of the directory of content files.
pub const CONTENT_DIRECTORY: &str = "content";

/// Statements kept prepared: more than there are in `read` and `write`.
const STATEMENTS: usize = 128;
/// There from an orderly close to the next open: content needs no sweep.
const CLEAN_FILE: &str = "clean";
const META_CLOCK: &str = "clock";
/// Up to where SQLite has what the redo log holds.
const META_REDO: &str = "redo";

/// What the connection has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transaction {
    None,
    Read,
    Write,
}

/// Why nothing more can be written before the batch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    DiskFull,
    Other,
    /// The rows are not what was committed: nothing may be read or written any more.
    Broken,
}

/// What the redo log holds and SQLite has not committed.
#[derive(Clone, Copy, Debug, Default)]
struct Unsettled {
    operations: u64,
    bytes: u64,
    /// SQLite is not asked to commit before there are so many bytes: its disk was full.
    not_before: u64,
}

/// When SQLite commits, and when the redo log begins anew; smaller in tests.
#[derive(Clone, Copy, Debug)]
struct Pace {
    operations: u64,
    bytes: u64,
    anew: u64,
}

const PACE: Pace = Pace {
    operations: REDO_OPERATIONS,
    bytes: REDO_BYTES,
    anew: REDO_ANEW_BYTES,
};

/// The store of a volcano.
#[derive(Debug)]
pub struct SqliteStore {
    connection: Connection,
    path: PathBuf,
    content: ContentFiles,
    /// What SQLite has not committed yet. None for a store that is only looked at.
    redo: Option<RedoLog>,
    /// How much that is.
    unsettled: Unsettled,
    pace: Pace,
    /// The batch has changed rows in SQLite.
    changed: bool,
    /// Changes come from the redo log: the content files have theirs.
    redoing: bool,
    /// Which writes of the effects being applied have gone into rows.
    in_rows: Vec<bool>,
    /// SQLite's write-ahead log, once it had to be synced. SQLite keeps the file as long as a
    /// connection is open, and takes no locks on it that closing ours could drop.
    wal: Option<File>,
    /// Opened by [`SqliteStore::peek`]: nothing is written, not even the mark at the end.
    read_only: bool,
    in_batch: Cell<bool>,
    transaction: Cell<Transaction>,
    failure: Option<Failure>,
    /// Positions change with every operation; they become rows once, when SQLite commits.
    positions: BTreeMap<SliceId, (Epoch, Seq)>,
    /// Flares dropped in this transaction: their files go after the commit, never before.
    doomed: BTreeSet<FlareRef>,
    /// Flares whose content files this transaction has written or cut.
    touched: BTreeSet<FlareRef>,
    /// A file could not be put right after a rollback: the next open sweeps.
    unswept: bool,
    reply_keys: RefCell<Option<ReplyKeys>>,
}

impl SqliteStore {
    /// Opens the store in a directory, which is made with its layout when it is new. The
    /// caller holds the directory's [`super::lock::DirLock`].
    pub fn open(directory: &Path) -> StoreResult<SqliteStore> {
        fs::create_dir_all(directory).map_err(|source| io_error("create", directory, source))?;
        let content = ContentFiles::open(&directory.join(CONTENT_DIRECTORY))?;
        SqliteStore::open_again(directory, content)
    }

    /// Opens a store again whose content files others have in use.
    pub fn open_again(directory: &Path, content: ContentFiles) -> StoreResult<SqliteStore> {
        let path = directory.join(DATABASE_FILE);
        let mut connection = connect(&path).map_err(|source| sqlite_error(&path, source))?;
        // First the sums, then the version that says so: a crash in between begins anew.
        if schema::is_unsummed(&connection).map_err(|source| sqlite_error(&path, source))? {
            content.sum_all()?;
        }
        schema::migrate(&mut connection, &path)?;
        // The mark goes before anything else happens. It is a file, because a full disk must
        // not keep a store from being opened, and removing a file needs no space.
        let clean = directory.join(CLEAN_FILE);
        let was_clean = match fs::remove_file(&clean) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(source) => return Err(io_error("remove", &clean, source)),
        };
        let redo = RedoLog::open(directory)?;
        sync_directory(directory)?;
        let mut store = SqliteStore::over(connection, path, content, Some(redo));
        store.redo_at_start()?;
        if !was_clean {
            store.content.recover()?;
            store.sweep()?;
        }
        Ok(store)
    }

    /// Opens the store in a directory to look at it: nothing is made, swept or marked, and
    /// every write fails. The caller holds the directory's [`super::lock::DirLock`].
    pub fn peek(directory: &Path) -> StoreResult<SqliteStore> {
        let path = directory.join(DATABASE_FILE);
        let failed = |source| sqlite_error(&path, source);
        let connection =
            connect_to_look(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
        schema::check(&connection, &path)?;
        let content = ContentFiles::peek(&directory.join(CONTENT_DIRECTORY));
        let store = SqliteStore::over(connection, path.clone(), content.clone(), None);
        let frames = store.unredone(directory)?;
        if frames.is_empty() {
            return Ok(store);
        }
        drop(store);
        // It was not closed in order. What the redo log holds is applied in a transaction that
        // is never committed.
        let connection =
            connect_to_look(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
        let mut store = SqliteStore::over(connection, path.clone(), content, None);
        store.redo_all(&frames)?;
        Ok(store)
    }

    fn over(
        connection: Connection,
        path: PathBuf,
        content: ContentFiles,
        redo: Option<RedoLog>,
    ) -> SqliteStore {
        let read_only = redo.is_none();
        SqliteStore {
            connection,
            path,
            content,
            redo,
            unsettled: Unsettled::default(),
            pace: PACE,
            changed: false,
            redoing: false,
            in_rows: Vec::new(),
            wal: None,
            read_only,
            in_batch: Cell::new(false),
            transaction: Cell::new(Transaction::None),
            failure: None,
            positions: BTreeMap::new(),
            doomed: BTreeSet::new(),
            touched: BTreeSet::new(),
            unswept: false,
            reply_keys: RefCell::new(None),
        }
    }

    /// The content files.
    pub fn content_files(&self) -> &ContentFiles {
        &self.content
    }

    /// A value of the volcano's own, by name.
    pub fn meta(&self, name: &str) -> StoreResult<Option<Vec<u8>>> {
        self.reading("SELECT value FROM meta WHERE name = ?1")?
            .query_row([name], |row| row.get(0))
            .optional()
            .map_err(|source| self.failed(source))
    }

    /// Sets a value of the volcano's own.
    pub fn set_meta(&mut self, name: &str, value: &[u8]) -> StoreResult<()> {
        self.writing(|store| {
            store.put_meta(name, value)?;
            store.note(&Change::Meta(name, serde_bytes::Bytes::new(value)))
        })
    }

    fn put_meta(&self, name: &str, value: &[u8]) -> StoreResult<()> {
        self.execute(
            "INSERT INTO meta (name, value) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, value),
        )
    }

    /// Lets SQLite commit after so many operations, and the redo log begin anew after so many
    /// bytes, where a test cannot have thousands.
    #[cfg(test)]
    pub(super) fn settle_often(&mut self, operations: u64, anew: u64) {
        self.pace = Pace {
            operations,
            anew,
            ..PACE
        };
    }

    /// What SQLite has not committed, in operations.
    #[cfg(test)]
    pub(super) fn unsettled_operations(&self) -> u64 {
        self.unsettled.operations
    }

    /// A disk of this many pages, where a test cannot have a small file system.
    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: u32) -> StoreResult<()> {
        self.connection
            .pragma_update(None, "max_page_count", pages)
            .map_err(|source| self.failed(source))
    }

    /// A prepared statement for reading; in a batch, inside its transaction.
    fn reading(&self, sql: &str) -> StoreResult<CachedStatement<'_>> {
        if self.failure == Some(Failure::Broken) {
            return Err(self.broken());
        }
        if self.is_lost() {
            return Err(self.lost());
        }
        if self.in_batch.get() && self.transaction.get() == Transaction::None {
            self.control("BEGIN")?;
            self.transaction.set(Transaction::Read);
        }
        self.connection
            .prepare_cached(sql)
            .map_err(|source| self.failed(source))
    }

    /// Runs a change inside the write transaction. A failure undoes the batch at once, and
    /// what would follow in it is refused: half of it is never kept.
    fn writing<T>(
        &mut self,
        change: impl FnOnce(&mut SqliteStore) -> StoreResult<T>,
    ) -> StoreResult<T> {
        self.refuse_after_failure()?;
        let result = self.open_write().and_then(|()| change(self));
        if let Err(error) = &result {
            let failure = Some(match error {
                StoreError::Full { .. } => Failure::DiskFull,
                StoreError::Sqlite { .. }
                | StoreError::Io { .. }
                | StoreError::BadBlock { .. }
                | StoreError::Damaged { .. }
                | StoreError::TooNew { .. }
                | StoreError::Locked { .. } => Failure::Other,
            });
            self.undo();
            self.failure = self.failure.or(failure);
        }
        result
    }

    fn refuse_after_failure(&self) -> StoreResult<()> {
        match self.failure {
            None => Ok(()),
            Some(Failure::DiskFull) => Err(StoreError::Full {
                path: self.path.clone(),
            }),
            Some(Failure::Other) => Err(StoreError::Io {
                action: "commit to",
                path: self.path.clone(),
                source: std::io::Error::other("an earlier write of this transaction failed"),
            }),
            Some(Failure::Broken) => Err(self.broken()),
        }
    }

    /// SQLite has rolled back by itself, as it does after some errors, even of a read: what was
    /// kept since its last commit is in the redo log only.
    fn is_lost(&self) -> bool {
        self.transaction.get() == Transaction::Write && self.connection.is_autocommit()
    }

    fn lost(&self) -> StoreError {
        StoreError::Io {
            action: "go on with",
            path: self.path.clone(),
            source: std::io::Error::other("SQLite has rolled its transaction back"),
        }
    }

    fn broken(&self) -> StoreError {
        StoreError::Io {
            action: "use",
            path: self.path.clone(),
            source: std::io::Error::other(
                "its redo log could not be applied; it must be opened anew",
            ),
        }
    }

    fn open_write(&mut self) -> StoreResult<()> {
        if self.read_only && !self.redoing {
            return Err(StoreError::Io {
                action: "write to",
                path: self.path.clone(),
                source: std::io::Error::from(ErrorKind::ReadOnlyFilesystem),
            });
        }
        if self.is_lost() {
            return Err(self.lost());
        }
        // Between two batches only: what is committed is what the log holds.
        if self.unsettled.bytes >= REDO_BYTES_MAX && !self.changed {
            self.settle()?;
        }
        self.in_batch.set(true);
        self.changed = true;
        match self.transaction.get() {
            Transaction::Write => return Ok(()),
            // The first write statement turns a read transaction into a write transaction.
            // That fails when another connection wrote in between, and there is no other.
            Transaction::Read => {}
            Transaction::None => self.control("BEGIN IMMEDIATE")?,
        }
        self.transaction.set(Transaction::Write);
        Ok(())
    }

    /// Runs a prepared statement that changes rows.
    fn execute(&self, sql: &str, parameters: impl rusqlite::Params) -> StoreResult<()> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(parameters))
            .map(|_| ())
            .map_err(|source| self.failed(source))
    }

    fn control(&self, sql: &str) -> StoreResult<()> {
        self.execute(sql, [])
    }

    /// Ends the batch and keeps it.
    fn keep(&mut self, durability: Durability) -> StoreResult<()> {
        if let Err(error) = self.refuse_after_failure() {
            self.give_up();
            return Err(error);
        }
        if self.transaction.get() == Transaction::Read {
            self.control("COMMIT")?;
            self.transaction.set(Transaction::None);
        }
        // From the frame on the batch outlives the process; all before it may still fail.
        if let Err(error) = self.append() {
            self.give_up();
            return Err(error);
        }
        self.changed = false;
        self.touched.clear();
        self.bury();
        self.in_batch.set(false);
        match (durability, &mut self.redo) {
            (Durability::Disk, Some(redo)) => redo.sync()?,
            (Durability::Disk, None) | (Durability::Process, _) => {}
        }
        if (self.unsettled.operations >= self.pace.operations
            || self.unsettled.bytes >= self.pace.bytes)
            && self.unsettled.bytes >= self.unsettled.not_before
        {
            return match self.settle() {
                // The log holds what SQLite cannot take; it is tried again when there is more.
                Err(StoreError::Full { .. }) => Ok(()),
                settled => settled,
            };
        }
        Ok(())
    }

    fn append(&mut self) -> StoreResult<()> {
        if self.is_lost() {
            return Err(self.lost());
        }
        match &mut self.redo {
            Some(redo) if redo.is_noted() => {
                self.unsettled.bytes += redo.append()?;
                Ok(())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// SQLite commits what the redo log holds. Nothing that was kept is lost when it cannot.
    fn settle(&mut self) -> StoreResult<()> {
        let long = |redo: &RedoLog| redo.len() >= self.pace.anew;
        self.settle_and(self.redo.as_ref().is_some_and(long))
    }

    /// As [`SqliteStore::settle`]; `anew`: the log begins anew.
    fn settle_and(&mut self, anew: bool) -> StoreResult<()> {
        let Some(redo) = &self.redo else {
            return Ok(());
        };
        let mark = match anew {
            true => redo.next_generation(),
            false => redo.mark(),
        };
        self.settle_under(mark)
    }

    /// SQLite commits, and says up to where it has the redo log; a mark of another generation than
    /// that of the log begins it anew.
    fn settle_under(&mut self, mark: Mark) -> StoreResult<()> {
        let ours = self.redo.as_ref().map(RedoLog::mark);
        let anew = ours.is_none_or(|ours| ours.generation != mark.generation);
        if let Err(error) = self.commit_rows(mark) {
            self.go_back();
            self.unsettled.not_before = self.unsettled.bytes + REDO_BYTES;
            tracing::warn!(
                "{} keeps its latest changes in the redo log: {error}",
                self.path.display()
            );
            return Err(error);
        }
        self.unsettled = Unsettled::default();
        if !anew {
            return Ok(());
        }
        // What SQLite has committed must be on the disk before its frames are written over. It
        // says already that they count no longer: when that fails, nothing may be added to them.
        if let Err(error) = self.sync_wal() {
            self.failure = Some(Failure::Broken);
            tracing::error!("{}: {error}", self.path.display());
            return Err(self.broken());
        }
        if let Some(redo) = &mut self.redo {
            redo.begin_anew(mark);
        }
        Ok(())
    }

    fn commit_rows(&mut self, mark: Mark) -> StoreResult<()> {
        if self.transaction.get() == Transaction::None {
            self.control("BEGIN IMMEDIATE")?;
        }
        self.transaction.set(Transaction::Write);
        self.write_positions()?;
        self.put_meta(META_REDO, &mark.to_bytes())?;
        self.control("COMMIT")?;
        self.transaction.set(Transaction::None);
        Ok(())
    }

    /// Puts what SQLite has committed on the disk: in WAL mode that is its log.
    fn sync_wal(&mut self) -> StoreResult<()> {
        let mut path = self.path.clone().into_os_string();
        path.push("-wal");
        let path = PathBuf::from(path);
        if self.wal.is_none() {
            match File::open(&path) {
                Ok(wal) => self.wal = Some(wal),
                // Nothing was ever written through this connection.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(source) => return Err(io_error("open", &path, source)),
            }
            // SQLite does not sync the directory in which it makes the log.
            if let Some(directory) = self.path.parent() {
                sync_directory(directory)?;
            }
        }
        match &self.wal {
            Some(wal) => wal
                .sync_data()
                .map_err(|source| io_error("sync", &path, source)),
            None => Ok(()),
        }
    }

    /// Notes a change for the redo log.
    fn note(&mut self, change: &Change<'_>) -> StoreResult<()> {
        match &mut self.redo {
            Some(redo) if !self.redoing => redo.note(change),
            Some(_) | None => Ok(()),
        }
    }

    /// Ends the batch and forgets it.
    fn give_up(&mut self) {
        self.undo();
        if self.failure != Some(Failure::Broken) {
            self.failure = None;
        }
        self.in_batch.set(false);
    }

    /// Takes back what the batch has done, in rows and in content files.
    fn undo(&mut self) {
        if let Some(redo) = &mut self.redo {
            redo.forget();
        }
        self.doomed.clear();
        // SQLite has already rolled back by itself after some errors (a full disk is one).
        if self.changed || self.is_lost() || self.transaction.get() == Transaction::Read {
            self.go_back();
        }
        self.changed = false;
        // Outside the batch: these reads must not leave a transaction open behind them.
        let in_batch = self.in_batch.replace(false);
        for flare in std::mem::take(&mut self.touched) {
            if let Err(error) = self.fit_content(flare) {
                self.unswept = true;
                tracing::warn!(%flare, %error, "content of an undone operation stays for now");
            }
        }
        self.in_batch.set(in_batch);
    }

    /// Takes SQLite back to its last commit, and applies what the redo log holds since then.
    fn go_back(&mut self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.control("ROLLBACK")
        {
            tracing::error!(%error, "a transaction of the store could not be rolled back");
        }
        self.transaction.set(Transaction::None);
        self.positions.clear();
        self.reply_keys.replace(None);
        let in_batch = self.in_batch.replace(false);
        let redone = self.redo_again();
        self.in_batch.set(in_batch);
        if let Err(error) = redone {
            tracing::error!(%error, "what the redo log holds could not be applied again");
            self.failure = Some(Failure::Broken);
        }
    }

    /// Removes the content files of flares that a committed transaction has dropped.
    fn bury(&mut self) {
        for flare in std::mem::take(&mut self.doomed) {
            if let Err(error) = self.content.remove(flare) {
                self.unswept = true;
                tracing::warn!(%flare, %error, "content of a dropped flare stays for now");
            }
        }
    }

    fn failed(&self, source: rusqlite::Error) -> StoreError {
        sqlite_error(&self.path, source)
    }

    fn damaged(&self, table: &'static str, reason: impl ToString) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            table,
            reason: reason.to_string(),
        }
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        if self.read_only {
            return;
        }
        self.give_up();
        if self.failure.is_some() || self.unswept {
            return;
        }
        // What does not go into SQLite now does so at the next open.
        if self.unsettled.operations > 0 || self.transaction.get() == Transaction::Write {
            let _ = self.settle();
        }
        let clean = self.path.with_file_name(CLEAN_FILE);
        if let Err(error) = File::create(&clean) {
            tracing::warn!(%error, "the store could not be marked as closed in order");
        }
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Otherwise a statement is planned anew whenever other values are bound to it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // Before the log is first touched: without other processes its index stays in our memory
    // and reads take no file locks.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "wal_autocheckpoint", WAL_CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", WAL_KEPT_BYTES as i64)?;
    connection.pragma_update(None, "cache_size", -(PAGE_CACHE_KIB as i64))?;
    // A transaction stays open long: it needs no room on the disk before it is committed.
    connection.pragma_update(None, "cache_spill", false)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(connection)
}

/// Without the exclusive lock, which a connection that only reads cannot take. Nothing is moved
/// from the log to the database, not even at the end.
fn connect_to_look(path: &Path, how: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, how | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.pragma_update(None, "cache_spill", false)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Otherwise a statement is planned anew whenever other values are bound to it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "cache_size", -(PAGE_CACHE_KIB as i64))?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(connection)
}

/// Names the database, and tells a full disk from other failures.
fn sqlite_error(path: &Path, source: rusqlite::Error) -> StoreError {
    match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full {
            path: path.to_path_buf(),
        },
        _ => StoreError::Sqlite {
            path: path.to_path_buf(),
            source,
        },
    }
}
