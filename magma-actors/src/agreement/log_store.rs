//! The library's log and vote, in `agreement.sql`.

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex};

use magma_core::store::StoreResult;
use magma_core::store::raft_log::RaftLog;
use magma_core::wire::codec;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    AnyError, Entry, ErrorSubject, ErrorVerb, LogId, LogState, RaftLogId, RaftLogReader,
    StorageError, StorageIOError, Vote,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Agreed;
use crate::node::lock;

const VOTE: &str = "vote";
const PURGED: &str = "purged";

/// What the library's storage may fail with.
pub(super) type Failed = StorageError<u64>;

/// The log. Its copies share one connection.
#[derive(Clone)]
pub struct LogStore(Arc<Mutex<RaftLog>>);

impl LogStore {
    /// Over the open tables.
    pub fn new(log: Arc<Mutex<RaftLog>>) -> LogStore {
        LogStore(log)
    }

    async fn run<T: Send + 'static>(
        &self,
        verb: ErrorVerb,
        work: impl FnOnce(&mut RaftLog) -> StoreResult<T> + Send + 'static,
    ) -> Result<T, Failed> {
        run(&self.0, verb, work).await
    }

    async fn value<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, Failed> {
        let bytes = self
            .run(ErrorVerb::Read, move |log| log.value(name))
            .await?;
        bytes.map(|bytes| decoded(&bytes)).transpose()
    }
}

/// Works with the tables off the library's thread: a commit waits for the disk.
pub(super) async fn run<T: Send + 'static>(
    log: &Arc<Mutex<RaftLog>>,
    verb: ErrorVerb,
    work: impl FnOnce(&mut RaftLog) -> StoreResult<T> + Send + 'static,
) -> Result<T, Failed> {
    let log = log.clone();
    let done = tokio::task::spawn_blocking(move || work(&mut lock(&log))).await;
    match done {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(failed(verb, &error)),
        Err(error) => Err(failed(verb, &error)),
    }
}

pub(super) fn failed(verb: ErrorVerb, error: &(impl std::error::Error + 'static)) -> Failed {
    StorageIOError::new(ErrorSubject::Store, verb, AnyError::new(error)).into()
}

pub(super) fn encoded(value: &impl Serialize) -> Result<Vec<u8>, Failed> {
    codec::encode(value).map_err(|error| failed(ErrorVerb::Write, &error))
}

pub(super) fn decoded<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failed> {
    codec::decode(bytes).map_err(|error| failed(ErrorVerb::Read, &error))
}

impl RaftLogReader<Agreed> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<Agreed>>, Failed> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let before = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(before) => *before,
            Bound::Unbounded => u64::MAX,
        };
        let read = move |log: &mut RaftLog| log.entries(from, before);
        let entries = self.run(ErrorVerb::Read, read).await?;
        entries.iter().map(|entry| decoded(entry)).collect()
    }
}

impl RaftLogStorage<Agreed> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<Agreed>, Failed> {
        let last = self.run(ErrorVerb::Read, |log| log.last()).await?;
        let last: Option<Entry<Agreed>> = last.map(|entry| decoded(&entry)).transpose()?;
        let last_purged_log_id: Option<LogId<u64>> = self.value(PURGED).await?;
        Ok(LogState {
            last_purged_log_id,
            last_log_id: last.map(|entry| *entry.get_log_id()).or(last_purged_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), Failed> {
        let bytes = encoded(vote)?;
        let save = move |log: &mut RaftLog| log.put_value(VOTE, &bytes);
        self.run(ErrorVerb::Write, save).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, Failed> {
        self.value(VOTE).await
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Agreed>) -> Result<(), Failed>
    where
        I: IntoIterator<Item = Entry<Agreed>> + Send,
        I::IntoIter: Send,
    {
        let mut rows = Vec::new();
        for entry in entries {
            rows.push((entry.get_log_id().index, encoded(&entry)?));
        }
        // The entries are on the disk when this returns, and readable.
        let append = move |log: &mut RaftLog| log.append(&rows);
        let done = self.run(ErrorVerb::Write, append).await;
        callback.log_io_completed(match &done {
            Ok(()) => Ok(()),
            Err(error) => Err(std::io::Error::other(error.to_string())),
        });
        done
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> Result<(), Failed> {
        let cut = move |log: &mut RaftLog| log.cut(log_id.index);
        self.run(ErrorVerb::Write, cut).await
    }

    async fn purge(&mut self, log_id: LogId<u64>) -> Result<(), Failed> {
        let purged = encoded(&log_id)?;
        let drop_them = move |log: &mut RaftLog| log.drop_upto(log_id.index, PURGED, &purged);
        self.run(ErrorVerb::Write, drop_them).await
    }
}
