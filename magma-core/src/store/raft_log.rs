//! The log of the elected agreement, in tables of `agreement.sql`: numbered entries, and a few
//! named values. What is in them is the business of the consensus library; here it is bytes.
//!
//! Every change is on the disk when it returns.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::agreement_log::{self, FILE_NAME};
use super::{StoreError, StoreResult};

/// Name of the value that says: this volcano begins the agreement of its generation.
pub const FOUNDER: &str = "founder";

/// The open tables: a connection of its own, so that an election does not wait for the lava's.
#[derive(Debug)]
pub struct RaftLog {
    connection: Connection,
    path: PathBuf,
}

impl RaftLog {
    /// Opens the log in the directory of a volcano, which [`super::agreement_log::AgreementLog`]
    /// has made.
    pub fn open(dir: &Path) -> StoreResult<RaftLog> {
        let path = dir.join(FILE_NAME);
        let connection = agreement_log::connect(&path)?;
        Ok(RaftLog { connection, path })
    }

    /// Writes entries, replacing those of the same numbers.
    pub fn append(&mut self, entries: &[(u64, Vec<u8>)]) -> StoreResult<()> {
        self.write(|tx| {
            for (number, entry) in entries {
                tx.execute(
                    "INSERT OR REPLACE INTO raft_log (number, entry) VALUES (?1, ?2)",
                    params![signed(*number), entry],
                )?;
            }
            Ok(())
        })
    }

    /// The entries from one number up to before another, in order.
    pub fn entries(&self, from: u64, before: u64) -> StoreResult<Vec<Vec<u8>>> {
        let sql = "SELECT entry FROM raft_log WHERE number >= ?1 AND number < ?2 ORDER BY number";
        let mut statement = self
            .connection
            .prepare_cached(sql)
            .map_err(|e| self.failed(e))?;
        let rows = statement
            .query_map(params![signed(from), signed(before)], |row| row.get(0))
            .map_err(|e| self.failed(e))?;
        rows.collect::<rusqlite::Result<_>>()
            .map_err(|e| self.failed(e))
    }

    /// The last entry.
    pub fn last(&self) -> StoreResult<Option<Vec<u8>>> {
        let sql = "SELECT entry FROM raft_log ORDER BY number DESC LIMIT 1";
        self.connection
            .query_row(sql, [], |row| row.get(0))
            .optional()
            .map_err(|e| self.failed(e))
    }

    /// Forgets the entries from a number on.
    pub fn cut(&mut self, from: u64) -> StoreResult<()> {
        self.write(|tx| {
            tx.execute(
                "DELETE FROM raft_log WHERE number >= ?1",
                params![signed(from)],
            )?;
            Ok(())
        })
    }

    /// Forgets the entries up to a number, and keeps a value in the same transaction.
    pub fn drop_upto(&mut self, upto: u64, name: &str, value: &[u8]) -> StoreResult<()> {
        self.write(|tx| {
            tx.execute(
                "DELETE FROM raft_log WHERE number <= ?1",
                params![signed(upto)],
            )?;
            put(tx, name, value)
        })
    }

    /// A named value.
    pub fn value(&self, name: &str) -> StoreResult<Option<Vec<u8>>> {
        let sql = "SELECT value FROM raft_values WHERE name = ?1";
        self.connection
            .query_row(sql, [name], |row| row.get(0))
            .optional()
            .map_err(|e| self.failed(e))
    }

    /// Keeps a named value.
    pub fn put_value(&mut self, name: &str, value: &[u8]) -> StoreResult<()> {
        self.write(|tx| put(tx, name, value))
    }

    fn write(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
    ) -> StoreResult<()> {
        let path = &self.path;
        let failed = |e| agreement_log::sqlite(path, e);
        let tx = agreement_log::begin(&mut self.connection).map_err(failed)?;
        work(&tx).map_err(failed)?;
        tx.commit().map_err(failed)
    }

    fn failed(&self, source: rusqlite::Error) -> StoreError {
        agreement_log::sqlite(&self.path, source)
    }
}

pub(super) fn put(tx: &Transaction<'_>, name: &str, value: &[u8]) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT OR REPLACE INTO raft_values (name, value) VALUES (?1, ?2)",
        params![name, value],
    )?;
    Ok(())
}

/// SQLite's integers are signed; no log comes near.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::agreement_log::AgreementLog;

    /// The lava and the agreement's log are written by two threads, each with its own connection.
    #[test]
    fn two_who_write_the_file_wait_for_each_other() {
        use crate::agreement::{Change, Term};
        use crate::ids::NetworkId;
        use crate::lava::samples::{apply, info};

        const ROUNDS: u64 = 100;
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = AgreementLog::open(dir.path()).expect("made");
        let lava = log
            .bootstrap(NetworkId(7), &info("wallace", 1), 1)
            .expect("begins");
        let mut raft = RaftLog::open(dir.path()).expect("opens");
        let writer = std::thread::spawn(move || {
            for number in 0..ROUNDS {
                raft.append(&[(number, vec![1])]).expect("appends");
            }
        });
        let mut lava = lava;
        // So few that even one who always finds the other there gets its turn in time.
        for _ in 0..ROUNDS {
            let label = "m".into();
            lava = apply(&lava, &[Change::OpenSession { label }]);
            lava.sessions.clear();
            log.append(Term(1), None, &lava, None).expect("appends");
        }
        writer.join().expect("no panic");
    }

    #[test]
    fn entries_and_values_are_there_after_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        drop(AgreementLog::open(dir.path()).expect("made"));
        let entry = |number: u64| (number, vec![number as u8]);
        {
            let mut log = RaftLog::open(dir.path()).expect("opens");
            assert_eq!(log.last().expect("reads"), None);
            log.append(&[entry(0), entry(1), entry(2), entry(3)])
                .expect("appends");
            log.cut(3).expect("cuts");
            log.drop_upto(0, "purged", b"0").expect("drops");
            log.put_value("vote", b"me").expect("keeps");
            log.put_value("vote", b"you").expect("keeps");
        }
        let log = RaftLog::open(dir.path()).expect("opens");
        assert_eq!(log.entries(0, 9).expect("reads"), [vec![1], vec![2]]);
        assert_eq!(log.entries(2, 3).expect("reads"), [vec![2]]);
        assert_eq!(log.last().expect("reads"), Some(vec![2]));
        assert_eq!(log.value("purged").expect("reads"), Some(b"0".to_vec()));
        assert_eq!(log.value("vote").expect("reads"), Some(b"you".to_vec()));
        assert_eq!(log.value("other").expect("reads"), None);
    }
}
