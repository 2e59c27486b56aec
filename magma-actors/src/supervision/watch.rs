//! Who tells whom that an actor is lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Why the process should end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// An actor panics again and again.
    #[error("actor {actor} was restarted too often: {reason}; the last panic: {panic}")]
    TooManyRestarts {
        /// Its name.
        actor: &'static str,
        /// How often is too often.
        reason: String,
        /// The message of the last panic.
        panic: String,
    },
    /// An actor or thread is gone without having been told to stop.
    #[error("actor {actor} is gone{}", if *.panicked { ": it panicked outside its guard" } else { "" })]
    Lost {
        /// Its name.
        actor: &'static str,
        /// It went by a panic.
        panicked: bool,
    },
}

/// Hears of restarts and losses. Clones are the same watch; usable from any thread.
///
/// It holds a state, not a queue: one count an actor and the first failure. So it needs no
/// bound, and no report can be lost because a mailbox is full.
#[derive(Clone, Debug, Default)]
pub struct Watch(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    failed: Notify,
}

#[derive(Debug, Default)]
struct State {
    restarts: BTreeMap<&'static str, u64>,
    failure: Option<Failure>,
    closed: bool,
}

impl Watch {
    /// A watch that has heard nothing yet.
    pub fn new() -> Watch {
        Watch::default()
    }

    /// An actor was built anew after a panic.
    pub fn restarted(&self, actor: &'static str) {
        *self.state().restarts.entry(actor).or_default() += 1;
    }

    /// The process should end. Only the first failure counts: the others follow from it.
    pub fn fail(&self, failure: Failure) {
        let mut state = self.state();
        if state.closed {
            return;
        }
        tracing::error!(%failure, "the volcano cannot go on");
        state.failure.get_or_insert(failure);
        drop(state);
        self.0.failed.notify_waiters();
    }

    /// From now on actors are expected to go: an ordered shutdown has begun.
    pub fn close(&self) {
        self.state().closed = true;
    }

    /// How often each actor was restarted since the start, for the console and metrics.
    pub fn restarts(&self) -> Vec<(&'static str, u64)> {
        let state = self.state();
        state.restarts.iter().map(|(k, v)| (*k, *v)).collect()
    }

    /// Returns the first failure, as soon as there is one.
    pub async fn failure(&self) -> Failure {
        loop {
            // Registered before the look, so that a failure in between wakes it.
            let failed = self.0.failed.notified();
            tokio::pin!(failed);
            failed.as_mut().enable();
            if let Some(failure) = self.state().failure.clone() {
                return failure;
            }
            failed.await;
        }
    }

    /// A panic while the lock was held left at worst one count or failure out.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports its owner, an actor or a thread, as lost when it is dropped armed.
#[derive(Debug)]
pub struct DropSentinel {
    watch: Watch,
    actor: &'static str,
    armed: bool,
}

impl DropSentinel {
    /// An armed sentinel.
    pub fn new(watch: Watch, actor: &'static str) -> DropSentinel {
        DropSentinel {
            watch,
            actor,
            armed: true,
        }
    }

    /// The owner ends in order: its drop is no loss.
    pub fn disarm(&mut self) {
        self.armed = false;
    }
}

impl Drop for DropSentinel {
    fn drop(&mut self) {
        if self.armed {
            self.watch.fail(Failure::Lost {
                actor: self.actor,
                panicked: std::thread::panicking(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(actor: &'static str, panicked: bool) -> Failure {
        Failure::Lost { actor, panicked }
    }

    #[tokio::test]
    async fn a_thread_that_panics_is_reported() {
        let watch = Watch::new();
        let sentinel = DropSentinel::new(watch.clone(), "engine");
        let thread = std::thread::spawn(move || {
            let _sentinel = sentinel;
            std::panic::resume_unwind(Box::new("quietly"));
        });
        assert_eq!(watch.failure().await, lost("engine", true));
        assert!(thread.join().is_err());
        // The first failure stays.
        drop(DropSentinel::new(watch.clone(), "console"));
        assert_eq!(watch.failure().await, lost("engine", true));
    }

    #[tokio::test]
    async fn an_end_in_order_is_not() {
        let watch = Watch::new();
        DropSentinel::new(watch.clone(), "disarmed").disarm();
        drop(DropSentinel::new(watch.clone(), "lost"));
        assert_eq!(watch.failure().await, lost("lost", false));

        let watch = Watch::new();
        watch.close();
        drop(DropSentinel::new(watch.clone(), "late"));
        assert_eq!(watch.state().failure, None);
    }
}
