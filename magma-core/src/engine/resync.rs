//! What an owner sends to copies that do not count (yet): how much, how fast, and how long it will
//! take.
//!
//! A copy that was away gets the operations that it missed, from the journal; one that is new, or was
//! away for too long, all rows of its slice. The latter is held to [`FILL_RATE`], so that it leaves the
//! network and the disks to those who work.

use std::collections::BTreeMap;

use super::Engine;
use super::slices::Stream;
use crate::ids::{SliceId, VolcanoId};
use crate::key::Key;
use crate::limits::{COPY_BATCH_BYTES, FILL_RATE};
use crate::store::{Store, StoreResult};
use crate::time::Moment;
use crate::wire::codec;
use crate::wire::node_protocol::ResyncProgress;
use crate::wire::peer::PeerMessage;

/// Copies of one owner that are being brought up to date.
pub(super) type Resyncs = BTreeMap<(SliceId, VolcanoId), Resync>;

/// One copy that is being brought up to date.
#[derive(Debug)]
pub(super) struct Resync {
    began: Moment,
    operations: u64,
    bytes: u64,
    /// Its rows have to wait for their turn.
    waits: bool,
    /// The filling that this is about, if it is one.
    fills: bool,
}

impl<S: Store> Engine<S> {
    /// A copy begins to get what it lacks.
    pub(super) fn resync_begins(&mut self, slice: SliceId, to: VolcanoId, fills: bool) {
        let resync = Resync {
            began: self.now.moment,
            operations: 0,
            bytes: 0,
            waits: false,
            fills,
        };
        self.resyncs.insert((slice, to), resync);
    }

    /// Something was sent to a copy; counted if it is being brought up to date.
    pub(super) fn resync_sent(
        &mut self,
        (slice, to): (SliceId, VolcanoId),
        operations: usize,
        message: &PeerMessage,
        payload: usize,
    ) {
        if let Some(resync) = self.resyncs.get_mut(&(slice, to)) {
            let bytes = codec::encoded_len(message).saturating_add(payload);
            resync.operations += operations as u64;
            resync.bytes += bytes as u64;
        }
    }

    /// Whether a copy that is being filled may get more now; if not, it gets it when its time has come.
    pub(super) fn may_fill(&mut self, slice: SliceId, to: VolcanoId) -> bool {
        let now = self.now.moment;
        let Some(resync) = self.resyncs.get_mut(&(slice, to)) else {
            return true;
        };
        let allowed = now.since_ms(resync.began).saturating_mul(FILL_RATE) / 1000;
        resync.waits = resync.bytes > allowed.saturating_add(COPY_BATCH_BYTES as u64);
        !resync.waits
    }

    /// Goes on with those whose time has come, and says what has become of those that are done.
    pub(super) fn watch_resyncs(&mut self) -> StoreResult<()> {
        let all: Vec<(SliceId, VolcanoId)> = self.resyncs.keys().copied().collect();
        for (slice, to) in all {
            let copy = self
                .owned
                .get(&slice)
                .and_then(|owned| owned.copies.get(&to));
            let known = self.lava.slice(slice).and_then(|slice| slice.copy_on(to));
            match (copy, known) {
                (Some(_), Some(known)) if known.in_sync => self.resync_done(slice, to),
                (Some(copy), Some(_)) => {
                    let filling = matches!(copy.stream, Stream::Filling(_));
                    let waits = self.resyncs.get(&(slice, to)).is_some_and(|r| r.waits);
                    if filling && waits && self.may_fill(slice, to) {
                        self.fill_more(to, slice)?;
                    }
                }
                _ => drop(self.resyncs.remove(&(slice, to))),
            }
        }
        Ok(())
    }

    fn resync_done(&mut self, slice: SliceId, to: VolcanoId) {
        let Some(done) = self.resyncs.remove(&(slice, to)) else {
            return;
        };
        let took_ms = self.now.moment.since_ms(done.began);
        let volcano = self.lava.nick(to);
        match done.fills {
            true => {
                tracing::info!(target: "magma::r", %slice, volcano, bytes = done.bytes, took_ms,
                "the copy is in sync: it has got everything")
            }
            false => {
                tracing::info!(target: "magma::r", %slice, volcano, operations = done.operations,
                bytes = done.bytes, took_ms, "the copy is in sync: it has got what it missed")
            }
        }
    }

    /// Copies that are being brought up to date from here.
    pub fn resyncs(&self) -> Vec<ResyncProgress> {
        let progress = |(&(slice, to), resync): (&(SliceId, VolcanoId), &Resync)| {
            let owned = self.owned.get(&slice)?;
            let copy = owned.copies.get(&to)?;
            let permille = match &copy.stream {
                // Keys are hashes, so the range says how much of the rows it is.
                Stream::Filling(fill) if fill.sent_all => 1000,
                Stream::Filling(fill) => {
                    let place = |key: Key| u128::from(key.ino());
                    let at = place(fill.cursor.unwrap_or(owned.start));
                    let (start, end) = (place(owned.start), place(owned.end));
                    let (done, all) = (at.saturating_sub(start), end.saturating_sub(start));
                    u64::try_from(done * 1000 / all.max(1)).unwrap_or(1000)
                }
                Stream::CatchingUp(sent) => {
                    let left = owned.last.0.saturating_sub(sent.0);
                    resync.operations.saturating_mul(1000) / (resync.operations + left).max(1)
                }
                Stream::Live => 1000,
                Stream::Down => 0,
            };
            Some(ResyncProgress {
                slice,
                to,
                fills: resync.fills,
                permille: permille.min(1000),
                operations: resync.operations,
                bytes: resync.bytes,
                since_ms: self.now.moment.since_ms(resync.began),
            })
        };
        self.resyncs.iter().filter_map(progress).collect()
    }
}
