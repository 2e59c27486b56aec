//! `agreement.sql`: the agreement's log with the lava, and what a volcano must remember of
//! itself to start again.
//!
//! A file of its own beside `store.sql`, because every commit here is on the disk before it
//! returns (`synchronous=FULL`): what the lava says decides who may acknowledge writes, and
//! must not be taken back by a loss of power.

mod generation;
pub mod starts;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::agreement::{Change, ChangeRefused, Term};
use crate::ids::{Epoch, NetworkId, VolcanoId};
use crate::lava::{Lava, VolcanoInfo};
use crate::limits::{AGREEMENT_ENTRIES, AGREEMENT_LAVAS};
use crate::wire::codec::{self, CodecError};

use super::{StoreError, StoreResult};

/// Name of the file in the volcano's directory.
pub const FILE_NAME: &str = "agreement.sql";

/// Version of the tables below.
const SCHEMA_VERSION: i64 = 2;

const SCHEMA: &str = "
    CREATE TABLE meta (
        name  TEXT PRIMARY KEY,
        value ANY NOT NULL
    ) STRICT, WITHOUT ROWID;
    -- change is NULL for a lava that was learned from its leader without the entries before.
    -- lava is NULL for entries that are too old to matter.
    CREATE TABLE log (
        epoch  INTEGER PRIMARY KEY,
        term   INTEGER NOT NULL,
        change BLOB,
        lava   BLOB
    ) STRICT;
";

/// Version 2: the log of the elected agreement ([`super::raft_log`]).
const SCHEMA_2: &str = "
    CREATE TABLE raft_log (
        number INTEGER PRIMARY KEY,
        entry  BLOB NOT NULL
    ) STRICT;
    CREATE TABLE raft_values (
        name  TEXT PRIMARY KEY,
        value BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
";

/// Another process may look into the file (a backup, a person); nobody else writes it.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// Why an entry was not kept: nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The entry makes no sense here, or is too large to be told to anyone.
    #[error(transparent)]
    Refused(#[from] ChangeRefused),
}

/// An entry as it was kept, for a person and for repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// The epoch that it led to.
    pub epoch: Epoch,
    /// Under which leader.
    pub term: Term,
    /// The change, if this volcano decided it itself.
    pub change: Option<Change>,
}

/// The open file.
#[derive(Debug)]
pub struct AgreementLog {
    connection: Connection,
    path: PathBuf,
    entries_kept: u64,
    lavas_kept: u64,
}

/// What a volcano says of itself, to be found again without `-b` or `-r`.
#[derive(Serialize, Deserialize)]
struct SelfRow {
    volcano: VolcanoId,
    info: VolcanoInfo,
}

impl AgreementLog {
    /// Opens the log in a volcano's directory, making it if it is not there. The caller holds
    /// the directory's lock.
    pub fn open(dir: &Path) -> StoreResult<AgreementLog> {
        let path = dir.join(FILE_NAME);
        let connection = connect(&path)?;
        let mut log = AgreementLog {
            connection,
            path,
            entries_kept: AGREEMENT_ENTRIES,
            lavas_kept: AGREEMENT_LAVAS,
        };
        log.set_up()?;
        // The file's own name must survive a loss of power too.
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|source| StoreError::Io {
                action: "sync",
                path: dir.to_path_buf(),
                source,
            })?;
        Ok(log)
    }

    /// Opens the log of a volcano that does not run, to look at it: nothing is made and every
    /// write fails. The caller holds the directory's lock.
    pub fn peek(dir: &Path) -> StoreResult<AgreementLog> {
        let path = dir.join(FILE_NAME);
        let failed = |e| sqlite(&path, e);
        let connection =
            Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
        connection.busy_timeout(BUSY_LIMIT).map_err(failed)?;
        let found: i64 = connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(failed)?;
        let log = AgreementLog {
            connection,
            path,
            entries_kept: AGREEMENT_ENTRIES,
            lavas_kept: AGREEMENT_LAVAS,
        };
        match found {
            SCHEMA_VERSION => Ok(log),
            // A crash between the making of the file and that of its tables.
            0 => Err(log.damaged("user_version", "it has no tables")),
            found => Err(StoreError::TooNew {
                path: log.path,
                found,
                known: SCHEMA_VERSION,
            }),
        }
    }

    /// Begins a network of this volcano alone. Refused if there is one already.
    pub fn bootstrap(
        &mut self,
        network: NetworkId,
        info: &VolcanoInfo,
        redundancy: u8,
    ) -> Result<Lava, LogError> {
        let change = Change::Bootstrap {
            network,
            volcano: Box::new(info.clone()),
            redundancy,
        };
        let lava = self.load()?.unwrap_or_default().apply(&change)?;
        let itself = lava.volcanos.first().map(|v| (v.id, v.info.clone()));
        self.append(Term(1), Some(&change), &lava, itself.as_ref())?;
        Ok(lava)
    }

    /// The lava as last committed here; none in a new directory.
    pub fn load(&self) -> StoreResult<Option<Lava>> {
        let newest: Option<(i64, Option<Vec<u8>>)> = self
            .connection
            .query_row(
                "SELECT epoch, lava FROM log ORDER BY epoch DESC LIMIT 1",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()
            .map_err(|e| sqlite(&self.path, e))?;
        let Some((epoch, bytes)) = newest else {
            return Ok(None);
        };
        let bytes = bytes.ok_or_else(|| self.damaged("log", "the newest entry has no lava"))?;
        let lava: Lava = self.decode("log", &bytes)?;
        if i64::try_from(lava.epoch.0) != Ok(epoch) {
            let reason = format!("entry {epoch} holds the lava of epoch {}", lava.epoch);
            return Err(self.damaged("log", reason));
        }
        lava.check()
            .map_err(|refused| self.damaged("log", refused.to_string()))?;
        Ok(Some(lava))
    }

    /// Keeps an entry: on the disk when this returns. The change is not there when a lava was
    /// learned as a whole; `itself` when what this volcano says of itself comes with it.
    pub fn append(
        &mut self,
        term: Term,
        change: Option<&Change>,
        lava: &Lava,
        itself: Option<&(VolcanoId, VolcanoInfo)>,
    ) -> Result<(), LogError> {
        let change = change.map(encode).transpose()?;
        let lava_bytes = encode(lava)?;
        let itself = itself
            .map(|(id, info)| encode_self(*id, info))
            .transpose()?;
        let epoch = signed(lava.epoch.0)?;
        let term = signed(term.0)?;
        let (entries_kept, lavas_kept) = (self.entries_kept, self.lavas_kept);
        let newest = self.write(|tx| {
            let newest: Option<i64> =
                tx.query_row("SELECT max(epoch) FROM log", [], |row| row.get(0))?;
            if newest.is_some_and(|newest| newest >= epoch) {
                return Ok(newest);
            }
            tx.execute(
                "INSERT INTO log (epoch, term, change, lava) VALUES (?1, ?2, ?3, ?4)",
                params![epoch, term, change, lava_bytes],
            )?;
            // By place in the log and not by epoch: learned lavas may leave gaps.
            tx.execute(
                "UPDATE log SET lava = NULL WHERE lava IS NOT NULL AND epoch <=
                 (SELECT epoch FROM log ORDER BY epoch DESC LIMIT 1 OFFSET ?1)",
                params![lavas_kept as i64],
            )?;
            tx.execute(
                "DELETE FROM log WHERE epoch <=
                 (SELECT epoch FROM log ORDER BY epoch DESC LIMIT 1 OFFSET ?1)",
                params![entries_kept as i64],
            )?;
            if let Some(row) = &itself {
                put_meta(tx, "self", row)?;
            }
            Ok(None)
        })?;
        match newest {
            None => Ok(()),
            Some(newest) => Err(LogError::Refused(ChangeRefused::EpochMoved {
                proposed: lava.epoch,
                current: Epoch(newest as u64),
            })),
        }
    }

    /// The last entries, newest first, at most `limit`.
    pub fn entries(&self, limit: usize) -> StoreResult<Vec<LogEntry>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let failed = |e| sqlite(&self.path, e);
        let mut query = self
            .connection
            .prepare_cached("SELECT epoch, term, change FROM log ORDER BY epoch DESC LIMIT ?1")
            .map_err(failed)?;
        let rows = query
            .query_map([limit], |row| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, i64>(1)?,
                    row.get::<_, Option<Vec<u8>>>(2)?,
                ))
            })
            .map_err(failed)?;
        let mut entries = Vec::new();
        for row in rows {
            let (epoch, term, change) = row.map_err(failed)?;
            entries.push(LogEntry {
                epoch: Epoch(epoch as u64),
                term: Term(term as u64),
                change: change.map(|bytes| self.decode("log", &bytes)).transpose()?,
            });
        }
        Ok(entries)
    }

    /// Keeps who this volcano is.
    pub fn save_self(&mut self, id: &VolcanoId, info: &VolcanoInfo) -> Result<(), LogError> {
        let row = encode_self(*id, info)?;
        Ok(self.write(|tx| put_meta(tx, "self", &row))?)
    }

    /// Who this volcano is; none before it has begun a network or joined one.
    pub fn load_self(&self) -> StoreResult<Option<(VolcanoId, VolcanoInfo)>> {
        let bytes: Option<Vec<u8>> = self
            .connection
            .query_row("SELECT value FROM meta WHERE name = 'self'", [], |row| {
                row.get(0)
            })
            .optional()
            .map_err(|e| sqlite(&self.path, e))?;
        let Some(bytes) = bytes else {
            return Ok(None);
        };
        let SelfRow { volcano, info } = self.decode("meta", &bytes)?;
        Ok(Some((volcano, info)))
    }

    fn set_up(&mut self) -> StoreResult<()> {
        let failed = |e| sqlite(&self.path, e);
        let found: i64 = self
            .connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(failed)?;
        match found {
            SCHEMA_VERSION => Ok(()),
            0 => self.write(|tx| {
                tx.execute_batch(SCHEMA)?;
                tx.execute_batch(SCHEMA_2)?;
                tx.pragma_update(None, "user_version", SCHEMA_VERSION)
            }),
            1 => self.write(|tx| {
                tx.execute_batch(SCHEMA_2)?;
                tx.pragma_update(None, "user_version", SCHEMA_VERSION)
            }),
            found => Err(StoreError::TooNew {
                path: self.path.clone(),
                found,
                known: SCHEMA_VERSION,
            }),
        }
    }

    /// Runs one transaction: all of it on the disk, or nothing.
    fn write<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> StoreResult<T> {
        let path = &self.path;
        let tx = begin(&mut self.connection).map_err(|e| sqlite(path, e))?;
        let result = work(&tx).map_err(|e| sqlite(path, e))?;
        tx.commit().map_err(|e| sqlite(path, e))?;
        Ok(result)
    }

    fn decode<T: DeserializeOwned>(&self, table: &'static str, bytes: &[u8]) -> StoreResult<T> {
        codec::decode(bytes).map_err(|e| self.damaged(table, e.to_string()))
    }

    fn damaged(&self, table: &'static str, reason: impl Into<String>) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            table,
            reason: reason.into(),
        }
    }
}

fn put_meta(tx: &Transaction<'_>, name: &str, value: &[u8]) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)",
        params![name, value],
    )?;
    Ok(())
}

fn encode_self(volcano: VolcanoId, info: &VolcanoInfo) -> Result<Vec<u8>, ChangeRefused> {
    let info = info.clone();
    encode(&SelfRow { volcano, info })
}

/// Encodes with the bound of a message: a lava that cannot be sent must not come to be.
fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, ChangeRefused> {
    codec::encode(value).map_err(|e| match e {
        CodecError::TooLarge(_) => ChangeRefused::Full("bytes in one message".into()),
        CodecError::Encode(_) | CodecError::Decode(_) => ChangeRefused::Impossible(e.to_string()),
    })
}

/// SQLite's integers are signed.
fn signed(number: u64) -> Result<i64, ChangeRefused> {
    i64::try_from(number).map_err(|_| ChangeRefused::Full("epochs".into()))
}

/// Begins a transaction that writes. It waits for the other connection to the file at once: one
/// that has read something first would fail instead, as what it has read may be old by then.
pub(super) fn begin(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

/// A connection whose commits are on the disk when they return.
pub(super) fn connect(path: &Path) -> StoreResult<Connection> {
    let failed = |e| sqlite(path, e);
    let connection = Connection::open(path).map_err(failed)?;
    connection.busy_timeout(BUSY_LIMIT).map_err(failed)?;
    let mode: String = connection
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(failed)?;
    if mode != "wal" {
        // Still durable with a rollback journal, only slower (some network file systems).
        tracing::warn!(path = %path.display(), mode, "no write-ahead log here");
    }
    connection
        .execute_batch("PRAGMA synchronous = FULL")
        .map_err(failed)?;
    Ok(connection)
}

pub(super) fn sqlite(path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_path_buf();
    if source.sqlite_error_code() == Some(ErrorCode::DiskFull) {
        StoreError::Full { path }
    } else {
        StoreError::Sqlite { path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lava::samples::{apply, info};

    fn opened() -> (tempfile::TempDir, AgreementLog) {
        let dir = tempfile::tempdir().expect("a directory");
        let log = AgreementLog::open(dir.path()).expect("a new log");
        (dir, log)
    }

    fn open_session() -> Change {
        Change::OpenSession { label: "m".into() }
    }

    #[test]
    fn a_new_directory_is_empty_and_full_sync() {
        let (_dir, log) = opened();
        assert_eq!(log.load().expect("loads"), None);
        assert_eq!(log.load_self().expect("loads"), None);
        let pragma = |name: &str| {
            log.connection
                .query_row(&format!("PRAGMA {name}"), [], |row| {
                    row.get::<_, rusqlite::types::Value>(0)
                })
                .expect("a value")
        };
        assert_eq!(pragma("synchronous"), 2.into());
        assert_eq!(pragma("journal_mode"), "wal".to_owned().into());
    }

    #[test]
    fn what_was_appended_is_there_after_a_restart() {
        let (dir, mut log) = opened();
        let wallace = info("wallace", 1);
        let first = log.bootstrap(NetworkId(7), &wallace, 1).expect("begins");
        let second = apply(&first, &[open_session()]);
        log.append(Term(1), Some(&open_session()), &second, None)
            .expect("kept");
        drop(log);

        let mut log = AgreementLog::open(dir.path()).expect("opens again");
        assert_eq!(log.load().expect("loads"), Some(second.clone()));
        assert_eq!(
            log.load_self().expect("loads"),
            Some((VolcanoId(1), wallace.clone()))
        );
        let entries = log.entries(10).expect("lists");
        let kinds: Vec<_> = entries.iter().map(|e| (e.epoch.0, &e.change)).collect();
        assert_eq!(kinds[0], (2, &Some(open_session())));
        assert_eq!((entries.len(), kinds[1].0), (2, 1));

        let again = log.bootstrap(NetworkId(8), &wallace, 1);
        assert!(matches!(
            again,
            Err(LogError::Refused(ChangeRefused::Impossible(_)))
        ));
        let back = log.append(Term(1), None, &first, None);
        assert!(matches!(
            back,
            Err(LogError::Refused(ChangeRefused::EpochMoved { .. }))
        ));
        assert_eq!(log.load().expect("loads"), Some(second));
    }

    #[test]
    fn itself_is_replaced() {
        let (_dir, mut log) = opened();
        for host in [1, 2] {
            let gromit = info("gromit", host);
            log.save_self(&VolcanoId(2), &gromit).expect("kept");
            assert_eq!(
                log.load_self().expect("loads"),
                Some((VolcanoId(2), gromit))
            );
        }
    }

    #[test]
    fn old_entries_go() {
        let (_dir, mut log) = opened();
        (log.entries_kept, log.lavas_kept) = (5, 2);
        let mut lava = log
            .bootstrap(NetworkId(7), &info("wallace", 1), 1)
            .expect("begins");
        for _ in 0..8 {
            lava = apply(&lava, &[open_session(), open_session()]);
            log.append(Term(1), None, &lava, None).expect("kept");
        }
        let entries = log.entries(100).expect("lists");
        let epochs: Vec<_> = entries.iter().map(|e| e.epoch.0).collect();
        assert_eq!(epochs, [17, 15, 13, 11, 9]);
        let lavas: i64 = log
            .connection
            .query_row("SELECT count(lava) FROM log", [], |row| row.get(0))
            .expect("counts");
        assert_eq!(lavas, 2);
        assert_eq!(log.load().expect("loads"), Some(lava));
    }

    #[test]
    fn a_newer_schema_and_damage_are_told() {
        let (dir, mut log) = opened();
        log.bootstrap(NetworkId(7), &info("wallace", 1), 1)
            .expect("begins");
        log.connection
            .execute("UPDATE log SET lava = x'c1'", [])
            .expect("damages");
        assert!(matches!(
            log.load(),
            Err(StoreError::Damaged { table: "log", .. })
        ));
        log.connection
            .pragma_update(None, "user_version", SCHEMA_VERSION + 1)
            .expect("sets");
        drop(log);
        let newer = AgreementLog::open(dir.path());
        assert!(matches!(
            newer,
            Err(StoreError::TooNew {
                found: 3,
                known: SCHEMA_VERSION,
                ..
            })
        ));
    }
}
