//! The store on disk: rows in `store.sql` (SQLite, WAL), content in `content/`.
//!
//! | file | what |
//! |---|---|
//! | [`sqlite`](self) | opening, transactions and durability |
//! | `read` | [`super::View`] |
//! | `write` | [`super::Store`]: effects, journal, slices |
//! | `rows` | rows and identifiers as columns |
//! | `reply_keys` | which replies live with a key, for copying |
//! | `sweep` | content files after a crash or a rollback |
//!
//! There is one connection, used by one thread. [`super::Store::begin`] touches nothing: the
//! first read of a batch opens a read transaction, which makes the reads after it cheap, and
//! the first write makes it a write transaction.
//!
//! **Cost** (`cargo run --release -p magma-core --example store_cost`) of applying a create (row, link, reply, journal, position; the commit included),
//! dev profile, 65,000 creates on a machine of 2 cores that was also busy with other work: 110
//! to 150 µs alone and 85 to 105 µs in groups of 32 on ext4, 75 to 90 µs and 42 to 60 µs on
//! tmpfs. Most of it is copying pages: every key is a page of its own, once into the log and
//! once, at the checkpoint, into the database. Links in a table of their own made it 140 µs in
//! groups of 32 on ext4. A read of a row in a batch takes 6 to 8 µs.

mod read;
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
use super::{Durability, StoreError, StoreResult, schema};
use crate::ids::{Epoch, FlareRef, Seq, SliceId};
use crate::limits::{PAGE_CACHE_KIB, WAL_CHECKPOINT_PAGES, WAL_KEPT_BYTES};
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
}

/// The store of a volcano.
#[derive(Debug)]
pub struct SqliteStore {
    connection: Connection,
    path: PathBuf,
    content: ContentFiles,
    /// The write-ahead log, once it had to be synced. SQLite keeps the file as long as a
    /// connection is open, and takes no locks on it that closing ours could drop.
    wal: Option<File>,
    /// Whether something was committed since the log was last synced. True at first: what an
    /// earlier life has left in the log may not be on the disk.
    unsynced: bool,
    /// Opened by [`SqliteStore::peek`]: nothing is written, not even the mark at the end.
    read_only: bool,
    in_batch: Cell<bool>,
    transaction: Cell<Transaction>,
    failure: Option<Failure>,
    /// Positions change with every operation; they become rows once, at the commit.
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
        sync_directory(directory)?;
        let store = SqliteStore::over(connection, path, content, false);
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
        let connection = connect_to_read(&path).map_err(|source| sqlite_error(&path, source))?;
        schema::check(&connection, &path)?;
        let content = ContentFiles::peek(&directory.join(CONTENT_DIRECTORY));
        Ok(SqliteStore::over(connection, path, content, true))
    }

    fn over(
        connection: Connection,
        path: PathBuf,
        content: ContentFiles,
        read_only: bool,
    ) -> SqliteStore {
        SqliteStore {
            connection,
            path,
            content,
            wal: None,
            unsynced: true,
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
            store.execute(
                "INSERT INTO meta (name, value) VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (name, value),
            )
        })
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
        if self.in_batch.get() && self.transaction.get() == Transaction::None {
            self.control("BEGIN")?;
            self.transaction.set(Transaction::Read);
        }
        self.connection
            .prepare_cached(sql)
            .map_err(|source| self.failed(source))
    }

    /// Runs a change inside the batch's write transaction. A failure undoes the transaction
    /// at once, and what would follow in the batch is refused: half of it is never kept.
    fn writing<T>(
        &mut self,
        change: impl FnOnce(&mut SqliteStore) -> StoreResult<T>,
    ) -> StoreResult<T> {
        self.refuse_after_failure()?;
        let result = self.open_write().and_then(|()| change(self));
        if let Err(error) = &result {
            self.failure = Some(match error {
                StoreError::Full { .. } => Failure::DiskFull,
                StoreError::Sqlite { .. }
                | StoreError::Io { .. }
                | StoreError::BadBlock { .. }
                | StoreError::Damaged { .. }
                | StoreError::TooNew { .. }
                | StoreError::Locked { .. } => Failure::Other,
            });
            self.undo();
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
        }
    }

    fn open_write(&self) -> StoreResult<()> {
        match self.transaction.get() {
            Transaction::Write => return Ok(()),
            // The first write statement turns a read transaction into a write transaction.
            // That fails when another connection wrote in between, and there is no other.
            Transaction::Read => {}
            Transaction::None => self.control("BEGIN IMMEDIATE")?,
        }
        self.in_batch.set(true);
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
        match self.transaction.get() {
            Transaction::None => {}
            Transaction::Read => {
                self.control("COMMIT")?;
                self.transaction.set(Transaction::None);
            }
            Transaction::Write => {
                let kept = self.write_positions().and_then(|()| self.control("COMMIT"));
                if let Err(error) = kept {
                    self.give_up();
                    return Err(error);
                }
                self.transaction.set(Transaction::None);
                self.unsynced = true;
                self.touched.clear();
                self.bury();
            }
        }
        self.in_batch.set(false);
        match durability {
            Durability::Process => Ok(()),
            Durability::Disk => self.flush(),
        }
    }

    /// Puts everything committed so far on the disk.
    ///
    /// In WAL mode a commit is durable when the log is synced; `synchronous=FULL` is nothing
    /// but that sync after the commit. It cannot be set inside a transaction, and a batch
    /// learns only at its end whether somebody waits for the disk (perhaps for the rows of an
    /// earlier batch, with none in this one), so the log is synced here. A checkpoint in
    /// between changes nothing: it syncs the log before it copies, and the database after.
    fn flush(&mut self) -> StoreResult<()> {
        if !self.unsynced {
            return Ok(());
        }
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
        if let Some(wal) = &self.wal {
            wal.sync_data()
                .map_err(|source| io_error("sync", &path, source))?;
        }
        self.unsynced = false;
        Ok(())
    }

    /// Ends the batch and forgets it.
    fn give_up(&mut self) {
        self.undo();
        self.failure = None;
        self.in_batch.set(false);
    }

    /// Takes back what the transaction has done, in rows and in content files.
    fn undo(&mut self) {
        // SQLite has already rolled back by itself after some errors (a full disk is one).
        if !self.connection.is_autocommit()
            && let Err(error) = self.control("ROLLBACK")
        {
            tracing::error!(%error, "a transaction of the store could not be rolled back");
        }
        self.transaction.set(Transaction::None);
        self.positions.clear();
        self.doomed.clear();
        self.reply_keys.replace(None);
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
        self.give_up();
        if self.read_only || self.unswept {
            return;
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
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(connection)
}

/// Without the exclusive lock, which a connection that only reads cannot take.
fn connect_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
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
