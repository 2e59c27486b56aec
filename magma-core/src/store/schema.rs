//! The tables of `store.sql`, their version and the steps from one version to the next.
//!
//! A row that is only ever read as a whole is one MessagePack blob (named fields, so that a
//! newer magmad can add a field without a migration); what is searched, sorted or counted is
//! a column. All tables but the one of contents are `WITHOUT ROWID`: each is read by its primary
//! key alone, and a second tree for a row number would double the pages that an operation dirties.

use std::path::Path;

use rusqlite::{Connection, Transaction};

use super::sqlite::content_id;
use super::{StoreError, StoreResult};
use crate::key::Key;

/// Version 1: everything that the first release writes, and the tables (`undo`, `intents`)
/// whose rows come with power-loss recovery.
///
/// What belongs to one flare lies side by side in one table: its row (part 0), its links (1),
/// and extended attributes (2); in version 1 also inline content (3). Keys are hashes, so that
/// each table which a create touches costs a page of its own, twice: in the log and in the
/// database.
///
/// Unfinished rows are found through partial indexes, which cost nothing for settled rows.
/// Replies have no index on their key: they change with every operation and are looked up by
/// key only while a copy is filled (see [`super::sqlite`]).
const VERSION_1: &str = "
CREATE TABLE flares (
    key BLOB NOT NULL, part INTEGER NOT NULL, name BLOB NOT NULL,
    unsettled INTEGER NOT NULL, row BLOB NOT NULL,
    PRIMARY KEY (key, part, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX flares_unsettled ON flares (key) WHERE unsettled = 1;

CREATE TABLE entries (
    key BLOB NOT NULL, name BLOB NOT NULL, cookie INTEGER NOT NULL,
    unsettled INTEGER NOT NULL, row BLOB NOT NULL,
    PRIMARY KEY (key, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX entries_by_cookie ON entries (key, cookie);
CREATE INDEX entries_unsettled ON entries (key) WHERE unsettled = 1;

CREATE TABLE journal (
    slice INTEGER NOT NULL, seq INTEGER NOT NULL, epoch INTEGER NOT NULL, record BLOB NOT NULL,
    PRIMARY KEY (slice, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE positions (
    slice INTEGER NOT NULL PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE replies (
    slice INTEGER NOT NULL, session INTEGER NOT NULL, slot INTEGER NOT NULL,
    key BLOB NOT NULL, row BLOB NOT NULL,
    PRIMARY KEY (slice, session, slot)
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox (
    key BLOB NOT NULL, tx BLOB NOT NULL, dest BLOB NOT NULL, row BLOB NOT NULL,
    PRIMARY KEY (key, tx, dest)
) STRICT, WITHOUT ROWID;

CREATE TABLE decisions (
    key BLOB NOT NULL, tx BLOB NOT NULL, decision BLOB NOT NULL,
    PRIMARY KEY (key, tx)
) STRICT, WITHOUT ROWID;

CREATE TABLE holders (
    key BLOB NOT NULL, session INTEGER NOT NULL,
    PRIMARY KEY (key, session)
) STRICT, WITHOUT ROWID;

CREATE TABLE undo (
    key BLOB NOT NULL, tx BLOB NOT NULL, row BLOB NOT NULL,
    PRIMARY KEY (key, tx)
) STRICT, WITHOUT ROWID;

CREATE TABLE intents (
    key BLOB NOT NULL, region INTEGER NOT NULL,
    PRIMARY KEY (key, region)
) STRICT, WITHOUT ROWID;

CREATE TABLE meta (
    name TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Version 2: inline content has a table of its own, and one with a row number. A search in a
/// `WITHOUT ROWID` table reads every row that it compares with as a whole, and rows of more than
/// about 1000 bytes lie on pages of their own, which were read again for each search: with many
/// small files that was most of the store's time. The row number is the first 64 bits of the
/// key, in its order, which no two flares share ([`super::View::prefix_taken`]); the key stands
/// in the row, so that a mistake would be noticed.
const VERSION_2: &str = "
CREATE TABLE contents (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL, data BLOB NOT NULL
) STRICT;
";

/// Version 3: content files have checksums beside them ([`super::content`]). The tables are as they
/// were; a store from before sums its content when it is opened, and then takes this step.
const SUMMED: i64 = 3;

// Version 4: what SQLite has not committed yet may stand in the redo log ([`super::redo`]), which
// an older magmad would not look at. The tables are as they were.

type Step = fn(&Transaction<'_>) -> rusqlite::Result<()>;

/// Step `n` takes a store from version `n` to `n + 1`. A released step never changes.
const MIGRATIONS: &[Step] = &[
    |transaction| transaction.execute_batch(VERSION_1),
    |transaction| {
        transaction.execute_batch(VERSION_2)?;
        move_contents(transaction)
    },
    |_| Ok(()),
    |_| Ok(()),
];

fn move_contents(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let mut found =
        transaction.prepare("SELECT key, row FROM flares WHERE part = 3 ORDER BY key")?;
    let mut put =
        transaction.prepare("INSERT INTO contents (id, key, data) VALUES (?1, ?2, ?3)")?;
    let mut rows = found.query([])?;
    while let Some(row) = rows.next()? {
        let key: [u8; 20] = row.get(0)?;
        put.execute((content_id(Key(key)), key, row.get_ref(1)?.as_blob()?))?;
    }
    transaction.execute("DELETE FROM flares WHERE part = 3", [])?;
    Ok(())
}

/// The version that this magmad writes.
pub const VERSION: i64 = MIGRATIONS.len() as i64;

/// Refuses a database of any other version than [`VERSION`], without touching it.
pub fn check(connection: &Connection, path: &Path) -> StoreResult<()> {
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|source| StoreError::Sqlite {
            path: path.to_path_buf(),
            source,
        })?;
    match found.cmp(&VERSION) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(StoreError::TooNew {
            path: path.to_path_buf(),
            found,
            known: VERSION,
        }),
        std::cmp::Ordering::Less => Err(StoreError::Damaged {
            path: path.to_path_buf(),
            table: "user_version",
            reason: format!(
                "it is {found}, and only {VERSION} can be read without writing: start the volcano once"
            ),
        }),
    }
}

/// Whether the store is from before content had checksums.
pub fn is_unsummed(connection: &Connection) -> rusqlite::Result<bool> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok((1..SUMMED).contains(&found))
}

/// Brings a database to [`VERSION`], or refuses one that is newer.
pub fn migrate(connection: &mut Connection, path: &Path) -> StoreResult<()> {
    let failed = |source| StoreError::Sqlite {
        path: path.to_path_buf(),
        source,
    };
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(failed)?;
    let pending = usize::try_from(found)
        .ok()
        .and_then(|found| MIGRATIONS.get(found..))
        .ok_or_else(|| StoreError::TooNew {
            path: path.to_path_buf(),
            found,
            known: VERSION,
        })?;
    if pending.is_empty() {
        return Ok(());
    }
    // One transaction: a crash between two steps leaves the store at its old version.
    let transaction = connection.transaction().map_err(failed)?;
    for step in pending {
        step(&transaction).map_err(failed)?;
    }
    transaction
        .pragma_update(None, "user_version", VERSION)
        .map_err(failed)?;
    transaction.commit().map_err(failed)
}
