//! The state of the slices owned and copied, and the rule which replies may leave.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::doubts::Doubts;
use super::event::Release;
use crate::effect::Record;
use crate::flare::FlareRow;
use crate::ids::{Epoch, Seq, SliceId, VolcanoId};
use crate::key::Key;

/// A slice that this volcano owns: it orders the operations.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) id: SliceId,
    pub(super) start: Key,
    pub(super) end: Key,
    /// The last operation decided.
    pub(super) last: Seq,
    /// Its epoch.
    pub(super) last_epoch: Epoch,
    /// The first operation of this owner, where it took over from a dead one, or the last of its life
    /// before. Until all copies that count have it, they may lack what came before it: every answer
    /// waits for it.
    pub(super) took_over: Seq,
    /// Copies that have to say how far they are before anything is ordered.
    pub(super) doubts: Doubts,
    /// The last cut: as an operation of the slice that became smaller, or the first one of the part
    /// that was cut off.
    pub(super) cut: Seq,
    /// The last operation that has left our memory.
    pub(super) committed: Seq,
    /// The last operation that every copy that counts has acknowledged, and we committed.
    pub(super) acked: Seq,
    pub(super) copies: BTreeMap<VolcanoId, Copy>,
    /// What waits for an operation to be acknowledged.
    waiting: BTreeMap<Seq, Vec<Release>>,
    /// Operations not acknowledged yet, with the keys that they changed and their content bytes.
    unacked: VecDeque<(Seq, Vec<Key>, usize)>,
    /// For each key changed by an operation not acknowledged yet: the last such operation.
    dirty: HashMap<Key, Seq>,
    /// Content bytes of the operations not acknowledged yet.
    pub(super) in_flight: usize,
    /// Operations to be shipped when this batch ends, or a later one.
    pub(super) outgoing: Vec<Record>,
    /// The slice is being handed over to this volcano.
    pub(super) handing: Option<VolcanoId>,
    /// It was told that nothing is under way any more.
    pub(super) drained: bool,
}

/// A copy of an owned slice, as its owner sees it.
#[derive(Debug)]
pub(super) struct Copy {
    /// The last operation that it acknowledged.
    pub(super) acked: Seq,
    /// Every operation waits for it: it is in sync, or proposed to be.
    pub(super) counts: bool,
    /// The last operation that may have been acknowledged without it: what it must have before it
    /// is proposed to be in sync.
    pub(super) lacks: Seq,
    pub(super) stream: Stream,
}

/// What is being sent to a copy.
#[derive(Debug)]
pub(super) enum Stream {
    /// Nothing: no connection, or it has not said what it holds.
    Down,
    /// Operations from the journal, up to this one so far.
    CatchingUp(Seq),
    /// Every operation as it is decided.
    Live,
    /// Rows of all keys in order, and every operation as it is decided.
    Filling(Box<Fill>),
}

/// How far the filling of a copy has come.
#[derive(Debug, Default)]
pub(super) struct Fill {
    /// Which filling this is: what answers an earlier one says nothing about this one.
    pub(super) number: u64,
    /// The last key whose rows were sent.
    pub(super) cursor: Option<Key>,
    /// A big content that is being sent: the flare and the next offset.
    pub(super) content: Option<(FlareRow, u64)>,
    /// All rows were sent.
    pub(super) sent_all: bool,
}

/// A slice that this volcano holds a copy of.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) owner: VolcanoId,
    /// The last operation applied, with the epoch in which it was decided.
    pub(super) position: (Epoch, Seq),
    /// It holds everything. Otherwise live operations count only up to the cursor.
    pub(super) whole: bool,
    /// The filling that is under way, by the owner's number.
    pub(super) filling: u64,
    pub(super) cursor: Option<Key>,
    /// The owner has answered since the connection came up.
    pub(super) attached: bool,
}

impl Owned {
    pub(super) fn new(id: SliceId, start: Key, end: Key, at: (Epoch, Seq)) -> Owned {
        let (last_epoch, last) = at;
        Owned {
            id,
            start,
            end,
            last,
            last_epoch,
            took_over: Seq(0),
            doubts: Doubts::new(),
            cut: Seq(0),
            committed: last,
            acked: last,
            copies: BTreeMap::new(),
            waiting: BTreeMap::new(),
            unacked: VecDeque::new(),
            dirty: HashMap::new(),
            in_flight: 0,
            outgoing: Vec::new(),
            handing: None,
            drained: false,
        }
    }

    /// Whether the in-sync set may change as far as cuts are concerned: everybody who counts has the
    /// last cut. The parts of a slice that was cut have the same copies at first, and what was under
    /// way is an operation of one of them, though it may have changed keys of both. If the sets
    /// differ before all have it, it is acknowledged without a copy that counts for the other part,
    /// or two heirs, of which one has it and one has not, take over one part each.
    pub(super) fn is_past_cut(&self) -> bool {
        self.acked >= self.cut.max(self.took_over)
    }

    /// After a start it is not known whether the copies have all that is here: every answer waits
    /// until they have said so.
    pub(super) fn doubt(&mut self) {
        if let Some(before) = self.last.0.checked_sub(1) {
            self.took_over = self.last;
            self.acked = Seq(before);
        }
    }

    /// The operation that an answer about this key must wait for: nobody may see what a
    /// failover could take back.
    pub(super) fn gate(&self, key: Key) -> Option<Seq> {
        let took_over = Some(self.took_over).filter(|seq| *seq > self.acked);
        self.dirty.get(&key).copied().max(took_over)
    }

    /// Takes note of an operation that was decided.
    pub(super) fn decided(&mut self, (epoch, seq): (Epoch, Seq), keys: Vec<Key>, bytes: usize) {
        for key in &keys {
            self.dirty.insert(*key, seq);
        }
        self.in_flight += bytes;
        self.unacked.push_back((seq, keys, bytes));
        (self.last_epoch, self.last) = (epoch, seq);
    }

    /// Lets something wait until an operation is acknowledged.
    pub(super) fn wait(&mut self, seq: Seq, release: Release) {
        self.waiting.entry(seq).or_default().push(release);
    }

    /// Computes what is acknowledged now, and takes out what waited for it. An operation
    /// counts when it is committed here and every copy that counts has applied it.
    pub(super) fn advance(&mut self) -> Vec<Release> {
        let slowest = self
            .copies
            .values()
            .filter(|copy| copy.counts)
            .map(|copy| copy.acked)
            .min();
        self.acked = self
            .committed
            .min(slowest.unwrap_or(self.committed))
            .max(self.acked);
        while let Some((seq, _, _)) = self.unacked.front() {
            if *seq > self.acked {
                break;
            }
            if let Some((seq, keys, bytes)) = self.unacked.pop_front() {
                self.in_flight -= bytes;
                for key in keys {
                    if self.dirty.get(&key) == Some(&seq) {
                        self.dirty.remove(&key);
                    }
                }
            }
        }
        let later = self.waiting.split_off(&self.acked.next());
        std::mem::replace(&mut self.waiting, later)
            .into_values()
            .flatten()
            .collect()
    }

    /// Whether nothing waits for an acknowledgement.
    pub(super) fn is_quiet(&self) -> bool {
        self.acked == self.last && self.waiting.is_empty()
    }

    /// Whether a copy has everything, for sure: it may become the owner.
    pub(super) fn holds_all(&self, volcano: VolcanoId) -> bool {
        self.copies.get(&volcano).is_some_and(|copy| {
            copy.counts && matches!(copy.stream, Stream::Live) && copy.acked == self.last
        })
    }

    /// The keys of a range with a change that is not acknowledged.
    pub(super) fn dirty_in(&self, start: Key, end: Key) -> Vec<Key> {
        let mut keys: Vec<Key> = self.dirty.keys().copied().collect();
        keys.retain(|key| start <= *key && *key <= end);
        keys.sort_unstable();
        keys
    }

    /// Lets answers about keys wait for the last operation, which does not change them.
    pub(super) fn gate_by_last(&mut self, keys: Vec<Key>) {
        if let Some((seq, changed, _)) = self.unacked.back_mut() {
            for key in &keys {
                self.dirty.insert(*key, *seq);
            }
            changed.extend(keys);
        }
    }

    /// Takes out everything that waits: the slice has another owner, who may never have heard
    /// of what it waits for.
    pub(super) fn abandon(&mut self) -> Vec<Release> {
        std::mem::take(&mut self.waiting)
            .into_values()
            .flatten()
            .collect()
    }
}
