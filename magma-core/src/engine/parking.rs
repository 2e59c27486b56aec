//! What waits inside the engine: for a key, for a slice, or for a newer lava.

use std::collections::{BTreeMap, VecDeque};

use super::event::Work;
use crate::ids::{Epoch, SliceId, TxId};
use crate::key::Key;
use crate::limits::{ENGINE_PARKED_MAX, PARK_LIMIT_MS};
use crate::time::Moment;

/// Why something waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wait {
    /// Another transaction holds something of this key.
    Key(Key),
    /// Leases on this flare are being recalled.
    Lease(Key),
    /// The slice is being handed over, or too much is on the way to its copies.
    Slice(SliceId),
    /// The lava is older than what the sender knows.
    Epoch(Epoch),
    /// Sessions have not said yet which locks they hold.
    Locks,
}

/// Parked work, by reason, in the order of arrival.
#[derive(Default)]
pub(super) struct Parking {
    waiting: BTreeMap<Wait, VecDeque<(Moment, Work)>>,
    count: usize,
}

impl Parking {
    /// Parks work; gives it back when as much waits as may.
    pub(super) fn park(&mut self, now: Moment, wait: Wait, work: Work) -> Result<(), Work> {
        if self.count >= ENGINE_PARKED_MAX {
            return Err(work);
        }
        self.count += 1;
        let limit = now.plus_ms(PARK_LIMIT_MS);
        self.waiting
            .entry(wait)
            .or_default()
            .push_back((limit, work));
        Ok(())
    }

    /// Takes out everything that waits for a reason.
    pub(super) fn wake(&mut self, wait: Wait) -> impl Iterator<Item = Work> + use<> {
        let woken = self.waiting.remove(&wait).unwrap_or_default();
        self.count -= woken.len();
        woken.into_iter().map(|(_, work)| work)
    }

    /// Takes out everything that waits for an epoch up to this one.
    pub(super) fn wake_epochs(&mut self, epoch: Epoch) -> Vec<Work> {
        let due: Vec<Wait> = self
            .waiting
            .range(Wait::Epoch(Epoch(0))..=Wait::Epoch(epoch))
            .map(|(wait, _)| *wait)
            .collect();
        due.into_iter()
            .flat_map(|wait| self.wake(wait).collect::<Vec<_>>())
            .collect()
    }

    /// Takes out everything that has waited too long.
    pub(super) fn overdue(&mut self, now: Moment) -> Vec<Work> {
        let mut late = Vec::new();
        self.waiting.retain(|_, queue| {
            while queue.front().is_some_and(|(limit, _)| *limit <= now) {
                late.extend(queue.pop_front().map(|(_, work)| work));
            }
            !queue.is_empty()
        });
        self.count -= late.len();
        late
    }

    /// Forgets the steps of a transaction that wait for a key.
    pub(super) fn forget_steps(&mut self, key: Key, tx: TxId) {
        for wait in [Wait::Key(key), Wait::Lease(key)] {
            let Some(queue) = self.waiting.get_mut(&wait) else {
                continue;
            };
            let before = queue.len();
            queue.retain(|(_, work)| !matches!(work, Work::Step { step, .. } if step.tx == tx));
            self.count -= before - queue.len();
        }
    }

    /// The flares at which something waits for leases to come back.
    pub(super) fn keys_waiting_for_leases(&self) -> Vec<Key> {
        let leases = Wait::Lease(Key::MIN)..=Wait::Lease(Key::MAX);
        self.waiting
            .range(leases)
            .filter_map(|(wait, _)| match wait {
                Wait::Lease(key) => Some(*key),
                _ => None,
            })
            .collect()
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }
}
