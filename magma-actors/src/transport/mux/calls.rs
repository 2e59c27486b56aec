//! The questions of one connection that wait for an answer.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

use super::super::{Frame, TransportError};
use magma_core::limits::CALLS_PER_CONNECTION;

/// A limit is kept to within this. Looking at all calls every so often costs less than a timer
/// for each.
const TICK: Duration = Duration::from_millis(50);
const SHORTEST_TICK: Duration = Duration::from_millis(2);

/// What [`super::Connection::call_with`] calls in the end.
pub(super) type Done = Box<dyn FnOnce(Result<Frame, TransportError>) + Send>;

/// Who waits.
pub(super) enum Waiter {
    Future(oneshot::Sender<Result<Frame, TransportError>>),
    Callback(Done),
}

impl Waiter {
    /// Hands over the result. Call it without holding a lock.
    pub(super) fn finish(self, result: Result<Frame, TransportError>) {
        match self {
            // Nobody waits any more: then nobody needs it.
            Waiter::Future(sender) => drop(sender.send(result)),
            Waiter::Callback(done) => done(result),
        }
    }
}

struct Waiting {
    waiter: Waiter,
    deadline: Instant,
}

/// Why a question was not taken on; gives back who waits.
pub(super) enum Rejected {
    Full(Waiter),
    Closed(Waiter, String),
}

/// The table of calls.
#[derive(Default)]
pub(super) struct Calls {
    table: Mutex<Table>,
    /// Tells [`Calls::expired`] that the first call after a quiet time has come.
    first: Notify,
}

#[derive(Default)]
struct Table {
    next: u64,
    waiting: HashMap<u64, Waiting>,
    closed: Option<String>,
    /// Nobody looks at the deadlines.
    quiet: bool,
}

/// How an id stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Waiting,
    /// Answered, given up or forgotten.
    Past,
    NeverAsked,
}

impl Calls {
    /// Takes on a question and gives it an id.
    pub(super) fn add(&self, waiter: Waiter, limit: Duration) -> Result<u64, Rejected> {
        let now = Instant::now();
        let mut table = self.lock();
        if let Some(reason) = &table.closed {
            return Err(Rejected::Closed(waiter, reason.clone()));
        }
        if table.waiting.len() >= CALLS_PER_CONNECTION {
            return Err(Rejected::Full(waiter));
        }
        let id = table.next;
        table.next += 1;
        // A limit that the clock cannot hold is no limit: a year is as good.
        let deadline = now
            .checked_add(limit)
            .unwrap_or(now + Duration::from_secs(31_536_000));
        table.waiting.insert(id, Waiting { waiter, deadline });
        let wake = std::mem::take(&mut table.quiet);
        drop(table);
        if wake {
            self.first.notify_one();
        }
        Ok(id)
    }

    /// Takes out who waits for `id`.
    pub(super) fn take(&self, id: u64) -> Option<Waiter> {
        self.lock()
            .waiting
            .remove(&id)
            .map(|waiting| waiting.waiter)
    }

    /// How `id` stands.
    pub(super) fn standing(&self, id: u64) -> Standing {
        let table = self.lock();
        if table.waiting.contains_key(&id) {
            Standing::Waiting
        } else if id < table.next {
            Standing::Past
        } else {
            Standing::NeverAsked
        }
    }

    /// Takes on no more, and gives back all who wait.
    pub(super) fn close(&self, reason: &str) -> Vec<Waiter> {
        let mut table = self.lock();
        table.closed.get_or_insert_with(|| reason.to_owned());
        let waiting = std::mem::take(&mut table.waiting);
        drop(table);
        self.first.notify_one();
        waiting
            .into_values()
            .map(|waiting| waiting.waiter)
            .collect()
    }

    /// Waits until questions are past their limit and takes them out; `None` at the end.
    pub(super) async fn expired(&self) -> Option<Vec<Waiter>> {
        let mut idle = false;
        loop {
            let pause = {
                let now = Instant::now();
                let mut table = self.lock();
                if table.closed.is_some() {
                    return None;
                }
                let late: Vec<u64> = table
                    .waiting
                    .iter()
                    .filter_map(|(id, waiting)| (waiting.deadline <= now).then_some(*id))
                    .collect();
                if !late.is_empty() {
                    let waiters = late
                        .iter()
                        .filter_map(|id| table.waiting.remove(id))
                        .map(|waiting| waiting.waiter);
                    return Some(waiters.collect());
                }
                match table.waiting.values().map(|waiting| waiting.deadline).min() {
                    Some(next) => {
                        idle = false;
                        Some(next.duration_since(now).clamp(SHORTEST_TICK, TICK))
                    }
                    // One tick more before going quiet: calls one after the other would else
                    // pay for a wake-up each.
                    None if !idle => {
                        idle = true;
                        Some(TICK)
                    }
                    None => {
                        table.quiet = true;
                        None
                    }
                }
            };
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => {
                    self.first.notified().await;
                    idle = false;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
