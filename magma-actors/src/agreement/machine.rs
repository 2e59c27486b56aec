//! The library's state machine: entries become lavas, one after another.
//!
//! The state is small, so a snapshot is the lava itself. It is in memory, and as of the last
//! snapshot on the disk: what came after that is applied again from the log.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use magma_core::lava::Lava;
use magma_core::store::raft_log::RaftLog;
use openraft::storage::RaftStateMachine;
use openraft::{
    EmptyNode, Entry, EntryPayload, ErrorVerb, LogId, RaftSnapshotBuilder, Snapshot, SnapshotMeta,
    StoredMembership,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::log_store::{Failed, decoded, encoded, run};
use super::{Agreed, Applied, GroupError};
use crate::node::lock;

const SNAPSHOT: &str = "snapshot";

/// The lava as of an entry.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct State {
    applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, EmptyNode>,
    lava: Lava,
}

impl State {
    fn snapshot(&self) -> Snapshot<Agreed> {
        let number = self.applied.map_or(0, |applied| applied.index);
        Snapshot {
            meta: SnapshotMeta {
                last_log_id: self.applied,
                last_membership: self.membership.clone(),
                snapshot_id: format!("lava-{number}"),
            },
            snapshot: Box::new(self.lava.clone()),
        }
    }
}

/// The state, and who hears of it.
pub struct Machine {
    state: State,
    kept: Arc<Mutex<Option<State>>>,
    log: Arc<Mutex<RaftLog>>,
    told: watch::Sender<Arc<Lava>>,
    founded: Arc<AtomicBool>,
}

impl Machine {
    /// The state as of the last snapshot.
    pub async fn open(
        log: Arc<Mutex<RaftLog>>,
        told: watch::Sender<Arc<Lava>>,
        founded: Arc<AtomicBool>,
    ) -> Result<Machine, GroupError> {
        let library = |error: Failed| GroupError::Library(error.to_string());
        let read = run(&log, ErrorVerb::Read, |log| log.value(SNAPSHOT)).await;
        let kept: Option<State> = match read.map_err(library)? {
            Some(bytes) => Some(decoded(&bytes).map_err(library)?),
            None => None,
        };
        let state = kept.clone().unwrap_or_default();
        founded.store(state.lava.is_founded(), Ordering::Release);
        Ok(Machine {
            state,
            kept: Arc::new(Mutex::new(kept)),
            log,
            told,
            founded,
        })
    }

    fn tell(&self) {
        let lava = &self.state.lava;
        self.founded.store(lava.is_founded(), Ordering::Release);
        self.told.send_if_modified(|told| {
            let newer = lava.is_founded() && lava.epoch > told.epoch;
            if newer {
                *told = Arc::new(lava.clone());
            }
            newer
        });
    }
}

/// Makes a snapshot of a state and keeps it.
pub struct Builder {
    state: State,
    kept: Arc<Mutex<Option<State>>>,
    log: Arc<Mutex<RaftLog>>,
}

impl Builder {
    async fn keep(&self) -> Result<(), Failed> {
        let bytes = encoded(&self.state)?;
        let keep = move |log: &mut RaftLog| log.put_value(SNAPSHOT, &bytes);
        run(&self.log, ErrorVerb::Write, keep).await?;
        *lock(&self.kept) = Some(self.state.clone());
        Ok(())
    }
}

impl RaftSnapshotBuilder<Agreed> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Agreed>, Failed> {
        self.keep().await?;
        Ok(self.state.snapshot())
    }
}

impl RaftStateMachine<Agreed> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<u64>>, StoredMembership<u64, EmptyNode>), Failed> {
        Ok((self.state.applied, self.state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, Failed>
    where
        I: IntoIterator<Item = Entry<Agreed>> + Send,
        I::IntoIter: Send,
    {
        let mut outcomes = Vec::new();
        for entry in entries {
            self.state.applied = Some(entry.log_id);
            outcomes.push(match entry.payload {
                EntryPayload::Blank => None,
                EntryPayload::Normal(proposal) => {
                    Some(proposal.apply(&self.state.lava).map(|lava| {
                        self.state.lava = lava.clone();
                        Box::new(lava)
                    }))
                }
                EntryPayload::Membership(membership) => {
                    self.state.membership = StoredMembership::new(Some(entry.log_id), membership);
                    None
                }
            });
            self.tell();
        }
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            state: self.state.clone(),
            kept: self.kept.clone(),
            log: self.log.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Lava>, Failed> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, EmptyNode>,
        snapshot: Box<Lava>,
    ) -> Result<(), Failed> {
        self.state = State {
            applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
            lava: *snapshot,
        };
        self.get_snapshot_builder().await.keep().await?;
        self.tell();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Agreed>>, Failed> {
        Ok(lock(&self.kept).as_ref().map(State::snapshot))
    }
}
