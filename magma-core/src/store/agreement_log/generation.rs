//! The change of one generation of a network for the next, in the directory of one volcano
//! (decision 17). It is planned while the volcano runs, and done at its next start, in one
//! transaction, before anything reads the lava: so there is no moment at which a crash would leave
//! the lava of one generation with the votes of another.

use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::{AgreementLog, LogError, encode, put_meta, signed, sqlite};
use crate::lava::Lava;
use crate::store::raft_log::{self, FOUNDER};

/// Name of a [`Planned`] in `meta`.
const PLANNED: &str = "generation";

/// A generation that begins with the next start.
#[derive(Serialize, Deserialize)]
struct Planned {
    lava: Lava,
    founder: bool,
}

impl AgreementLog {
    /// Keeps the lava of a new generation for the next start ([`Self::begin_generation`]); a
    /// `founder` begins its agreement, others are taken in by it.
    pub fn plan_generation(&mut self, lava: &Lava, founder: bool) -> Result<(), LogError> {
        let planned = encode(&Planned {
            lava: lava.clone(),
            founder,
        })?;
        Ok(self.write(|tx| put_meta(tx, PLANNED, &planned))?)
    }

    /// Begins the generation that was planned, if one was: its lava is the newest, and what this
    /// volcano has promised to the agreement of the generation before counts no longer. To be
    /// called before that agreement's part here is started. Returns the new lava.
    pub fn begin_generation(&mut self) -> Result<Option<Lava>, LogError> {
        let bytes: Option<Vec<u8>> = self
            .connection
            .query_row("SELECT value FROM meta WHERE name = ?1", [PLANNED], |row| {
                row.get(0)
            })
            .optional()
            .map_err(|e| sqlite(&self.path, e))?;
        let Some(bytes) = bytes else {
            return Ok(None);
        };
        let Planned { lava, founder } = self.decode("meta", &bytes)?;
        lava.check()?;
        let epoch = signed(lava.epoch.0)?;
        let lava_bytes = encode(&lava)?;
        // All or nothing: two generations never mix in one directory.
        self.write(|tx| {
            // Nor do numbers of volcanos mean the same any more.
            tx.execute_batch(
                "DELETE FROM raft_log; DELETE FROM raft_values;
                 DELETE FROM meta WHERE name LIKE 'start of %';",
            )?;
            if founder {
                raft_log::put(tx, FOUNDER, &[])?;
            }
            tx.execute(
                "INSERT OR REPLACE INTO log (epoch, term, change, lava) VALUES (?1, 0, NULL, ?2)",
                params![epoch, lava_bytes],
            )?;
            tx.execute("DELETE FROM meta WHERE name = ?1", [PLANNED])?;
            Ok(())
        })?;
        Ok(Some(lava))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NetworkId, VolcanoId};
    use crate::lava::samples::info;
    use crate::store::raft_log::RaftLog;

    #[test]
    fn a_generation_begins_with_the_next_start_and_without_the_votes_of_the_last() {
        for founder in [true, false] {
            let dir = tempfile::tempdir().expect("a directory");
            let mut log = AgreementLog::open(dir.path()).expect("opens");
            let wallace = info("wallace", 1);
            let lava = log.bootstrap(NetworkId(7), &wallace, 1).expect("begins");
            let mut raft = RaftLog::open(dir.path()).expect("opens");
            raft.append(&[(1, vec![1])]).expect("appends");
            raft.put_value("vote", b"me").expect("keeps");
            assert_eq!(log.begin_generation().expect("reads"), None);
            let next = lava.taken_over(&[VolcanoId(1)]).expect("alone");
            log.plan_generation(&next, founder).expect("keeps");
            // Nothing has changed before the start.
            assert_eq!(log.load().expect("loads"), Some(lava));
            assert_eq!(raft.value("vote").expect("reads"), Some(b"me".to_vec()));
            assert_eq!(log.begin_generation().expect("begins"), Some(next.clone()));
            assert_eq!(log.begin_generation().expect("reads"), None);
            assert_eq!(log.load().expect("loads"), Some(next));
            assert_eq!(
                log.load_self().expect("loads").map(|me| me.1),
                Some(wallace)
            );
            assert_eq!(raft.last().expect("reads"), None);
            assert_eq!(raft.value("vote").expect("reads"), None);
            let founds = raft.value(FOUNDER).expect("reads").is_some();
            assert_eq!(founds, founder);
        }
    }
}
