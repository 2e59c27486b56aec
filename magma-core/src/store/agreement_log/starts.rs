//! Which start of a volcano this is, and which starts of the others were seen: so that a directory
//! that was restored from a backup is known for what it is.
//!
//! An older copy of a directory has forgotten what its volcano has promised to the agreement since,
//! and which operations it has acknowledged. The others remember the highest start of each that they
//! have seen; a lower one, or the same by another life of the process, is such a copy.

use serde::{Deserialize, Serialize};

use super::{AgreementLog, put_meta, sqlite};
use crate::ids::VolcanoId;
use crate::store::StoreResult;
use crate::wire::codec;

/// Names of [`SeenStart`]s in `meta` begin with this; the number of the volcano follows.
const START_OF: &str = "start of ";

/// A start of a volcano.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenStart {
    /// Counts the starts over its directory.
    pub number: u64,
    /// Drawn at each start; 0 where it was not told.
    pub life: u64,
}

impl SeenStart {
    /// Whether this can come after another, which was seen before, or be the same.
    pub fn may_follow(&self, seen: &SeenStart) -> bool {
        let same = self.life == seen.life || self.life == 0 || seen.life == 0;
        self.number > seen.number || (self.number == seen.number && same)
    }
}

impl AgreementLog {
    /// Counts this start of the volcano, for ever. The others remember the highest that they have
    /// seen: a lower one is a directory that was restored from a backup.
    pub fn next_start_number(&mut self) -> StoreResult<u64> {
        let number: i64 = self.write(|tx| {
            tx.query_row(
                "INSERT INTO meta (name, value) VALUES ('start_number', 1)
                 ON CONFLICT (name) DO UPDATE SET value = value + 1
                 RETURNING value",
                [],
                |row| row.get(0),
            )
        })?;
        u64::try_from(number).map_err(|_| self.damaged("meta", "the start number is negative"))
    }

    /// Keeps the highest start of another volcano that was seen.
    pub fn save_start(&mut self, of: VolcanoId, start: SeenStart) -> StoreResult<()> {
        let row = codec::encode(&start).map_err(|error| self.damaged("meta", error.to_string()))?;
        self.write(|tx| put_meta(tx, &format!("{START_OF}{of}"), &row))
    }

    /// The highest start of each other volcano that was ever seen.
    pub fn load_starts(&self) -> StoreResult<Vec<(VolcanoId, SeenStart)>> {
        let failed = |source| sqlite(&self.path, source);
        let mut query = self
            .connection
            .prepare("SELECT name, value FROM meta WHERE name LIKE ?1 || '%'")
            .map_err(failed)?;
        let rows = query
            .query_map([START_OF], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?))
            })
            .map_err(failed)?;
        let mut starts = Vec::new();
        for row in rows {
            let (name, value) = row.map_err(failed)?;
            let id = name.strip_prefix(START_OF).and_then(|id| id.parse().ok());
            let id = id.ok_or_else(|| self.damaged("meta", format!("{name} names no volcano")))?;
            starts.push((VolcanoId(id), self.decode("meta", &value)?));
        }
        Ok(starts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_copy_is_told_from_the_one_that_went_on() {
        let seen = SeenStart {
            number: 5,
            life: 77,
        };
        let follows = |number, life| SeenStart { number, life }.may_follow(&seen);
        assert!(follows(5, 77) && follows(6, 1) && follows(6, 0));
        assert!(!follows(4, 77) && !follows(5, 78));
        // Neighbours that do not tell are taken by their numbers.
        assert!(follows(5, 0));
    }

    #[test]
    fn what_was_seen_is_there_after_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = AgreementLog::open(dir.path()).expect("opens");
        assert_eq!(log.load_starts().expect("reads"), []);
        let start = |number| SeenStart {
            number,
            life: number + 9,
        };
        for number in [3, 4] {
            log.save_start(VolcanoId(2), start(number)).expect("keeps");
        }
        log.save_start(VolcanoId(12), start(1)).expect("keeps");
        drop(log);
        let log = AgreementLog::open(dir.path()).expect("opens again");
        let mut starts = log.load_starts().expect("reads");
        starts.sort_by_key(|(id, _)| *id);
        assert_eq!(
            starts,
            [(VolcanoId(2), start(4)), (VolcanoId(12), start(1))]
        );
    }
}
