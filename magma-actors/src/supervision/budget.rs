//! How many restarts are too many.

use std::collections::VecDeque;

use magma_core::limits::{RESTART_WINDOW_MS, RESTARTS_MAX};
use magma_core::time::Moment;

/// Counts the restarts of one actor: [`RESTARTS_MAX`] of them inside [`RESTART_WINDOW_MS`]
/// mean that building it anew does not help.
#[derive(Clone, Debug, Default)]
pub struct RestartBudget {
    recent: VecDeque<Moment>,
}

/// The budget is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{RESTARTS_MAX} restarts within {} s", RESTART_WINDOW_MS / 1000)]
pub struct Exhausted;

impl RestartBudget {
    /// Takes note of a restart; returns how many there were inside the window with this one.
    pub fn spend(&mut self, now: Moment) -> Result<usize, Exhausted> {
        while let Some(oldest) = self.recent.front()
            && now.since_ms(*oldest) >= RESTART_WINDOW_MS
        {
            self.recent.pop_front();
        }
        if self.recent.len() + 1 >= RESTARTS_MAX {
            return Err(Exhausted);
        }
        self.recent.push_back(now);
        Ok(self.recent.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_in_the_window() {
        let mut budget = RestartBudget::default();
        for count in 1..RESTARTS_MAX {
            assert_eq!(budget.spend(Moment(count as u64)), Ok(count));
        }
        assert_eq!(budget.spend(Moment(100)), Err(Exhausted));
        assert_eq!(budget.spend(Moment(RESTART_WINDOW_MS)), Err(Exhausted));
    }

    #[test]
    fn old_restarts_are_forgotten() {
        let mut budget = RestartBudget::default();
        for count in 0..10 * RESTARTS_MAX as u64 {
            assert_eq!(budget.spend(Moment(count * RESTART_WINDOW_MS)), Ok(1));
        }
        // A moment that steps back is no time at all, and costs like any other.
        for count in 2..RESTARTS_MAX {
            assert_eq!(budget.spend(Moment(0)), Ok(count));
        }
        assert_eq!(budget.spend(Moment(0)), Err(Exhausted));
    }
}
