//! Which start of a volcano this is, and which starts of the others were seen: so that a directory
//! that was restored from a backup is known for what it is.
//!
//! An older copy of a directory has forgotten what its volcano has promised to the agreement since,
//! and which operations it has acknowledged. A directory keeps its latest starts, each with a number
//! drawn for it, and its volcano shows them; the others remember the last that they have seen of it.
//! Who does not know of that start comes with an older copy, however often it is started.

use rusqlite::OptionalExtension;
use serde::{Deserialize, Serialize};

use super::{AgreementLog, put_meta, sqlite};
use crate::ids::VolcanoId;
use crate::limits::STARTS_KEPT;
use crate::store::StoreResult;
use crate::wire::codec;

/// Names of what was seen in `meta` begin with this; the number of the volcano follows.
const START_OF: &str = "start of ";
/// Name of this volcano's own starts in `meta`.
const OWN_STARTS: &str = "starts";

/// A start of a volcano.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenStart {
    /// Counts the starts over its directory.
    pub number: u64,
    /// Drawn at each start.
    pub life: u64,
}

impl SeenStart {
    /// Whether a directory that knows of these starts, the last one now, is one that this start was
    /// made over, or has come from it. Of what lies further back than they reach nobody can tell.
    pub fn is_known_to(&self, starts: &[SeenStart]) -> bool {
        starts.contains(self)
            || starts
                .first()
                .is_none_or(|oldest| oldest.number > self.number)
    }
}

impl AgreementLog {
    /// Counts this start of the volcano, for ever. Returns the latest, this one last.
    pub fn next_start(&mut self, life: u64) -> StoreResult<Vec<SeenStart>> {
        let mut starts: Vec<SeenStart> = match self.meta_row(OWN_STARTS)? {
            Some(row) => self.decode("meta", &row)?,
            None => Vec::new(),
        };
        let number = starts.last().map_or(0, |last| last.number) + 1;
        starts.push(SeenStart { number, life });
        starts.drain(..starts.len().saturating_sub(STARTS_KEPT));
        let row =
            codec::encode(&starts).map_err(|error| self.damaged("meta", error.to_string()))?;
        self.write(|tx| put_meta(tx, OWN_STARTS, &row))?;
        Ok(starts)
    }

    /// Keeps the last start of another volcano that was seen, unless a later one is kept.
    pub fn save_start(&mut self, of: VolcanoId, start: SeenStart) -> StoreResult<()> {
        let name = format!("{START_OF}{}", of.0);
        let kept: Option<SeenStart> = match self.meta_row(&name)? {
            Some(row) => Some(self.decode("meta", &row)?),
            None => None,
        };
        if kept.is_some_and(|kept| kept.number > start.number) {
            return Ok(());
        }
        let row = codec::encode(&start).map_err(|error| self.damaged("meta", error.to_string()))?;
        self.write(|tx| put_meta(tx, &name, &row))
    }

    /// The last start of each other volcano that was ever seen.
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

    fn meta_row(&self, name: &str) -> StoreResult<Option<Vec<u8>>> {
        self.connection
            .query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| {
                row.get(0)
            })
            .optional()
            .map_err(|source| sqlite(&self.path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(number: u64) -> SeenStart {
        let life = number + 70;
        SeenStart { number, life }
    }

    #[test]
    fn an_older_copy_is_told_however_often_it_is_started() {
        let seen = start(5);
        let went_on = [3, 4, 5, 6].map(start);
        assert!(seen.is_known_to(&went_on) && seen.is_known_to(&went_on[..3]));
        // Restored from before the fifth start, and started three times.
        let mut restored = [3, 4, 5, 6, 7].map(start);
        restored[2..].iter_mut().for_each(|start| start.life += 100);
        for upto in 2..=5 {
            assert!(!seen.is_known_to(&restored[..upto]));
        }
        // Too long ago to tell.
        assert!(seen.is_known_to(&[6, 7].map(start)));
    }

    #[test]
    fn starts_are_counted_and_the_latest_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let kept = STARTS_KEPT as u64;
        for number in 1..=kept + 3 {
            let mut log = AgreementLog::open(dir.path()).expect("opens");
            let starts = log.next_start(number + 70).expect("counts");
            assert_eq!(starts.last(), Some(&start(number)));
            let oldest = number.saturating_sub(kept) + 1;
            assert_eq!(starts.first(), Some(&start(oldest)));
        }
    }

    #[test]
    fn what_was_seen_is_there_after_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = AgreementLog::open(dir.path()).expect("opens");
        assert_eq!(log.load_starts().expect("reads"), []);
        for number in [3, 4, 2] {
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
