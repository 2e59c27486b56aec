//! Times: of flares (wall clock, through the hybrid logical clock) and of machines (monotonic).

use serde::{Deserialize, Serialize};

/// A time of a flare: seconds and nanoseconds since 1970, as POSIX has it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp(pub i64, pub u32);

impl Timestamp {
    /// From nanoseconds since 1970.
    pub fn from_nanos(nanos: u64) -> Timestamp {
        Timestamp(
            (nanos / 1_000_000_000) as i64,
            (nanos % 1_000_000_000) as u32,
        )
    }
    /// Seconds since 1970.
    pub fn secs(self) -> i64 {
        self.0
    }
    /// Nanoseconds into the second.
    pub fn nanos(self) -> u32 {
        self.1
    }
}

/// Monotonic time of a machine, in milliseconds from an arbitrary start.
///
/// The shells read CLOCK_BOOTTIME; a simulation counts by itself. Only differences mean
/// anything, and only inside one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// This moment and `ms` milliseconds.
    pub fn plus_ms(self, ms: u64) -> Moment {
        Moment(self.0.saturating_add(ms))
    }
    /// Milliseconds since `earlier` (zero if that is later).
    pub fn since_ms(self, earlier: Moment) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The time as a shell hands it to a machine with each batch of events.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Monotonic time: leases, limits, retries.
    pub moment: Moment,
    /// Wall clock in nanoseconds since 1970: only ever a hint for the [`HybridClock`].
    pub wall_nanos: u64,
}

/// A hybrid logical clock (Kulkarni et al. 2014): follows the wall clock, never steps back,
/// and moves past every clock that it has received, so that an operation which follows
/// another is never stamped earlier. The logical part is the low nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct HybridClock {
    last: u64,
    /// Received clocks that were too far ahead and were clipped.
    pub clipped: u64,
}

impl HybridClock {
    /// A clock that never goes below `floor` (the persisted ceiling of an earlier life).
    pub fn starting_at(floor: u64) -> HybridClock {
        HybridClock {
            last: floor,
            clipped: 0,
        }
    }

    /// The next time: after every one given out or received before.
    pub fn tick(&mut self, wall_nanos: u64) -> u64 {
        self.last = wall_nanos.max(self.last + 1);
        self.last
    }

    /// The last time given out or received.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Takes note of a peer's clock; one more than a second past our wall clock is clipped.
    pub fn receive(&mut self, peer_nanos: u64, wall_nanos: u64) {
        let most = wall_nanos.saturating_add(crate::limits::CLOCK_SKEW_MAX_MS * 1_000_000);
        if peer_nanos > most {
            self.clipped += 1;
        }
        self.last = self.last.max(peer_nanos.min(most));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_back_and_clipped() {
        let mut clock = HybridClock::default();
        let first = clock.tick(100);
        assert!(clock.tick(50) > first);
        clock.receive(5_000, 100);
        assert!(clock.tick(100) > 5_000);
        clock.receive(u64::MAX, 100);
        assert_eq!(clock.clipped, 1);
        assert!(clock.tick(100) <= 100 + 1_000_000_001);
    }
}
