//! What is turned away is counted, and logged without letting a flood fill the log.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of one endpoint in one [`WINDOW`].
const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);

/// Counts refused handshakes, bad hellos and frames, and garbage.
#[derive(Debug, Default)]
pub(in super::super) struct Refusals {
    count: AtomicU64,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    since: Option<Instant>,
    lines: u32,
    silent: u64,
}

impl Refusals {
    pub(in super::super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Counts one refusal, and logs it if the log has room.
    pub(in super::super) fn add(&self, peer: SocketAddr, what: &str) {
        self.count.fetch_add(1, Ordering::Relaxed);
        if let Some(silent) = self.admit() {
            tracing::warn!(
                target: "magma::n",
                peer = %peer,
                not_logged = silent,
                "refused: {what}"
            );
        }
    }

    /// Whether another line may be written, and how many were not since the last one.
    fn admit(&self) -> Option<u64> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if log
            .since
            .is_none_or(|since| now.duration_since(since) >= WINDOW)
        {
            log.since = Some(now);
            log.lines = 0;
        }
        if log.lines >= LINES {
            log.silent += 1;
            return None;
        }
        log.lines += 1;
        Some(std::mem::take(&mut log.silent))
    }
}

#[cfg(test)]
mod tests {
    use super::{LINES, Refusals};

    #[test]
    fn a_flood_is_counted_but_not_logged() {
        let refusals = Refusals::default();
        for _ in 0..LINES {
            assert_eq!(refusals.admit(), Some(0));
        }
        assert_eq!(refusals.admit(), None);
        for _ in 0..100 {
            refusals.add(([127, 0, 0, 1], 1).into(), "test");
        }
        assert_eq!(refusals.count(), 100);
    }
}
