//! The fence: an owner that others may have replaced answers nobody.
//!
//! Who decides over the lava promises every volcano, again and again, that nobody will take its
//! slices over for a while: a lease. A volcano that was stopped or cut off comes back to find its
//! lease run out, and refuses everything until it has a new one, which it gets only together
//! with the lava in which its slices are somebody else's. Changes need no fence, as they wait for
//! copies that follow the new owner; what is only read does.
//!
//! The promise is counted here from *sending* the heartbeat that asked for it, there from
//! *receiving* it, so ours always ends first.

use super::Engine;
use crate::ids::Epoch;
use crate::store::Store;
use crate::time::Moment;

/// Until when nobody has replaced us.
#[derive(Debug, Default)]
pub(super) struct Fence {
    /// None where nobody is there who could: a machine that was told of no lease.
    until: Option<Moment>,
    /// A promise that counts when its lava is known here.
    next: Option<(Epoch, Moment)>,
}

impl Fence {
    /// A promise has come.
    pub(super) fn lease(&mut self, epoch: Epoch, until: Moment) {
        self.until.get_or_insert_default();
        if self.next.is_none_or(|next| (epoch, until) > next) {
            self.next = Some((epoch, until));
        }
    }

    /// The lava has this epoch.
    pub(super) fn learn(&mut self, known: Epoch) {
        if let Some((epoch, until)) = self.next
            && epoch <= known
        {
            self.until = self.until.max(Some(until));
            self.next = None;
        }
    }
}

impl<S: Store> Engine<S> {
    /// Whether others may own what we take to be ours.
    pub(super) fn is_fenced(&self) -> bool {
        self.fence
            .until
            .is_some_and(|until| until <= self.now.moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_counts_with_its_lava() {
        let mut fence = Fence::default();
        assert_eq!(fence.until, None);
        fence.lease(Epoch(4), Moment(100));
        fence.learn(Epoch(4));
        assert_eq!(fence.until, Some(Moment(100)));
        // Of a lava in which our slices may be gone.
        fence.lease(Epoch(5), Moment(200));
        fence.learn(Epoch(4));
        assert_eq!(fence.until, Some(Moment(100)));
        fence.learn(Epoch(6));
        assert_eq!(fence.until, Some(Moment(200)));
        fence.lease(Epoch(3), Moment(150));
        fence.learn(Epoch(6));
        assert_eq!(fence.until, Some(Moment(200)), "never back");
    }
}
