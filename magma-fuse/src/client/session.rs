//! The session of a mount or tool, and its slots.
//!
//! A slot is a place for one outstanding request (RFC 8881, 2.10.6): an owner remembers the
//! reply to the last request of each slot, so a request that is repeated with the same
//! (session, slot, sequence) happens once. That only holds while the client does not use a
//! slot for something new before it knows the outcome of the old: a [`SlotLease`] is
//! therefore given back only when its request is settled, however long that takes.

use std::sync::{Arc, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use magma_core::ids::{SessionId, Slot, SlotSeq};
use magma_core::limits::SLOTS_PER_SESSION;

use super::locked;

/// A session and its slots.
#[derive(Debug)]
pub(crate) struct Session {
    id: SessionId,
    permits: Arc<Semaphore>,
    /// Free slots with the last sequence that each has used. The one given back last is
    /// taken first: few slots in use mean few reply rows at the owners.
    free: Mutex<Vec<(Slot, SlotSeq)>>,
}

/// A slot in use, with the sequence of its request. Dropping it says: settled.
#[derive(Debug)]
pub(crate) struct SlotLease {
    session: Arc<Session>,
    slot: Slot,
    seq: SlotSeq,
    /// Released after the slot is back in the list (fields are dropped after `drop`).
    _permit: OwnedSemaphorePermit,
}

impl Session {
    /// A session of which no slot has been used.
    pub(crate) fn new(id: SessionId) -> Arc<Session> {
        Arc::new(Session {
            id,
            permits: Arc::new(Semaphore::new(usize::from(SLOTS_PER_SESSION))),
            free: Mutex::new(
                (0..SLOTS_PER_SESSION)
                    .rev()
                    .map(|slot| (Slot(slot), SlotSeq(0)))
                    .collect(),
            ),
        })
    }

    /// Its number.
    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    /// Waits for a free slot and takes it with its next sequence.
    pub(crate) async fn acquire(self: &Arc<Session>) -> Option<SlotLease> {
        let permit = self.permits.clone().acquire_owned().await.ok()?;
        let (slot, last) = locked(&self.free).pop()?;
        Some(SlotLease {
            session: self.clone(),
            slot,
            seq: SlotSeq(last.0 + 1),
            _permit: permit,
        })
    }
}

impl SlotLease {
    /// Which session.
    pub(crate) fn session(&self) -> SessionId {
        self.session.id
    }

    /// Which slot.
    pub(crate) fn slot(&self) -> Slot {
        self.slot
    }

    /// The sequence of the request that occupies it.
    pub(crate) fn seq(&self) -> SlotSeq {
        self.seq
    }
}

impl Drop for SlotLease {
    fn drop(&mut self) {
        locked(&self.session.free).push((self.slot, self.seq));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn take(session: &Arc<Session>) -> Option<SlotLease> {
        session.acquire().now_or_never().flatten()
    }

    #[test]
    fn a_slot_counts_its_requests() {
        let session = Session::new(SessionId(7));
        let first = take(&session).expect("a free slot");
        assert_eq!((first.slot(), first.seq()), (Slot(0), SlotSeq(1)));
        let second = take(&session).expect("a free slot");
        assert_eq!((second.slot(), second.seq()), (Slot(1), SlotSeq(1)));
        drop(first);
        let third = take(&session).expect("a free slot");
        assert_eq!((third.slot(), third.seq()), (Slot(0), SlotSeq(2)));
        assert_eq!(third.session(), SessionId(7));
    }

    #[test]
    fn no_more_slots_than_there_are() {
        let session = Session::new(SessionId(1));
        let mut held: Vec<_> = (0..SLOTS_PER_SESSION)
            .map(|_| take(&session).expect("a free slot"))
            .collect();
        let mut slots: Vec<_> = held.iter().map(SlotLease::slot).collect();
        slots.sort();
        slots.dedup();
        assert_eq!(slots.len(), usize::from(SLOTS_PER_SESSION));
        assert!(take(&session).is_none());
        held.pop();
        assert!(take(&session).is_some());
    }
}
