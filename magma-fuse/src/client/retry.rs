//! How long, how often and with what pauses a request is repeated.

use rand::Rng;
use std::time::{Duration, Instant};

use magma_core::limits::{BACKOFF_MAX_MS, BACKOFF_MIN_MS};

/// The time that one operation may take: "hard until patience".
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    until: Instant,
}

impl Patience {
    /// From now on.
    pub(crate) fn of(limit: Duration) -> Patience {
        Patience::from(Instant::now(), limit)
    }

    fn from(now: Instant, limit: Duration) -> Patience {
        // A limit that overflows the clock is as good as a day.
        let day = Duration::from_secs(24 * 3600);
        Patience {
            until: now.checked_add(limit).unwrap_or(now + day),
        }
    }

    /// What is left of it.
    pub(crate) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Whether it is used up.
    pub(crate) fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    /// The shorter of what is left and `most`.
    pub(crate) fn at_most(&self, most: Duration) -> Duration {
        self.left().min(most)
    }
}

/// Pauses that grow from 5 ms to 200 ms. Each is drawn from the upper half of its range, so
/// that clients which failed together do not come back together.
#[derive(Debug)]
pub(crate) struct Backoff {
    next_ms: u64,
}

impl Backoff {
    /// Begins with the shortest pause.
    pub(crate) fn new() -> Backoff {
        Backoff {
            next_ms: BACKOFF_MIN_MS,
        }
    }

    /// The next pause.
    pub(crate) fn pause(&mut self) -> Duration {
        let most = self.next_ms;
        self.next_ms = (most * 2).min(BACKOFF_MAX_MS);
        Duration::from_micros(rand::rng().random_range(most * 500..=most * 1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_bounded() {
        let mut backoff = Backoff::new();
        let mut most = BACKOFF_MIN_MS;
        for _ in 0..20 {
            let pause = backoff.pause();
            assert!(pause >= Duration::from_micros(most * 500));
            assert!(pause <= Duration::from_millis(most));
            most = (most * 2).min(BACKOFF_MAX_MS);
        }
        assert_eq!(most, BACKOFF_MAX_MS);
    }

    #[test]
    fn patience_ends() {
        let over = Patience::of(Duration::ZERO);
        assert!(over.is_over());
        assert_eq!(over.at_most(Duration::from_secs(1)), Duration::ZERO);
        let long = Patience::of(Duration::MAX);
        assert!(!long.is_over());
        assert_eq!(long.at_most(Duration::from_secs(1)), Duration::from_secs(1));
    }
}
