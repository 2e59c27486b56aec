//! Which starts of the other volcanos were seen: an older copy of a directory is not let in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use magma_core::ids::VolcanoId;
use magma_core::store::agreement_log::AgreementLog;
use magma_core::store::agreement_log::starts::SeenStart;
use magma_core::wire::node_protocol::Identity;

use crate::node::lock;

/// What this volcano has seen, which outlives it.
pub struct Starts {
    dir: PathBuf,
    seen: Mutex<BTreeMap<VolcanoId, SeenStart>>,
}

impl Starts {
    /// What an earlier life of this volcano has kept in its directory.
    pub fn new(dir: PathBuf, seen: Vec<(VolcanoId, SeenStart)>) -> Starts {
        Starts {
            dir,
            seen: Mutex::new(seen.into_iter().collect()),
        }
    }

    /// Whether a member comes with the directory that it had when it was last seen, or a later
    /// state of it.
    pub fn check(&self, identity: &Identity) -> Result<(), String> {
        let (Some(id), Some(start)) = (identity.volcano, identity.starts.last().copied()) else {
            return Ok(());
        };
        let mut seen = lock(&self.seen);
        match seen.get(&id) {
            Some(known) if *known == start => return Ok(()),
            Some(known) if !known.is_known_to(&identity.starts) => {
                return Err(format!(
                    "{} comes with an older copy of its directory: it is start number {} of it, and does not \
                     know of number {}, which was seen before. Give it the newer directory back; if that is \
                     lost, `evict` it and let it join anew, with an empty one (-r)",
                    identity.nick, start.number, known.number
                ));
            }
            Some(_) | None => seen.insert(id, start),
        };
        drop(seen);
        self.keep(id, start);
        Ok(())
    }

    /// Whether a volcano was ever seen: then one that comes without a directory is another.
    pub fn has_seen(&self, id: VolcanoId) -> bool {
        lock(&self.seen).contains_key(&id)
    }

    /// In the background: a disk must not hold up whoever says hello. Should this volcano end before it
    /// is kept, the others remember.
    fn keep(&self, id: VolcanoId, start: SeenStart) {
        let dir = self.dir.clone();
        tokio::task::spawn_blocking(move || {
            let kept = AgreementLog::open(&dir).and_then(|mut log| log.save_start(id, start));
            if let Err(error) = kept {
                tracing::warn!("the start of another volcano could not be noted: {error}");
            }
        });
    }
}
