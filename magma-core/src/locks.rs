//! Byte-range locks, as fcntl(2) has them: who holds which bytes of one flare.
//!
//! [`Ranges`] is the table of one flare: setting a range splits, merges, upgrades and downgrades
//! what the same owner holds there. [`table::LockTable`] adds who waits, in what order, and who
//! waits for whom. A lock of flock(2) is one on all bytes, by another owner.

pub mod table;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::ids::SessionId;

/// Who holds a lock: a mount, and the number that its kernel gives a process or an open file.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct LockOwner(pub SessionId, pub u64);

/// Bytes from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Range {
    /// The first byte.
    pub start: u64,
    /// The last byte.
    pub end: u64,
}

impl Range {
    /// Every byte that a file can have.
    pub const ALL: Range = Range {
        start: 0,
        end: u64::MAX,
    };

    /// From the first byte to the last; none when that is empty.
    pub fn new(start: u64, end: u64) -> Option<Range> {
        (start <= end).then_some(Range { start, end })
    }

    /// Whether the two have a byte in common.
    pub fn overlaps(self, other: Range) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

/// What a lock keeps others from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LockKind {
    /// Writing: shared (`F_RDLCK`, `LOCK_SH`).
    Read,
    /// Both: exclusive (`F_WRLCK`, `LOCK_EX`).
    Write,
}

/// A lock, held or wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Whose.
    pub owner: LockOwner,
    /// The process, for `F_GETLK`: a number of the owner's host.
    pub pid: u32,
    /// What it keeps others from.
    pub kind: LockKind,
    /// Where.
    pub range: Range,
}

impl Lock {
    /// Whether the two cannot be held at the same time.
    pub fn conflicts(&self, other: &Lock) -> bool {
        self.owner != other.owner
            && (self.kind == LockKind::Write || other.kind == LockKind::Write)
            && self.range.overlaps(other.range)
    }
}

/// The locks that are held on one flare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// By owner and start. Those of one owner are disjoint, and neighbours differ in kind.
    held: Vec<Lock>,
}

impl Ranges {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing is locked.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Lock> {
        self.held.iter()
    }

    /// Those of one owner, by start.
    pub fn of(&self, owner: LockOwner) -> &[Lock] {
        let first = self.held.partition_point(|lock| lock.owner < owner);
        let after = self.held.partition_point(|lock| lock.owner <= owner);
        &self.held[first..after]
    }

    /// Those that keep a lock from being set.
    pub fn conflicts<'a>(&'a self, wanted: &'a Lock) -> impl Iterator<Item = &'a Lock> {
        self.held.iter().filter(|held| held.conflicts(wanted))
    }

    /// Whether the owner holds all of that range, by that kind or a stronger one.
    pub fn covers(&self, wanted: &Lock) -> bool {
        let mut next = wanted.range.start;
        for held in self.of(wanted.owner) {
            if held.range.end < next || held.kind < wanted.kind {
                continue;
            }
            if held.range.start > next {
                return false;
            }
            if held.range.end >= wanted.range.end {
                return true;
            }
            next = held.range.end + 1;
        }
        false
    }

    /// What the owner holds of a range: pieces in order that cover all of it, none where it
    /// holds nothing.
    pub fn pieces(&self, owner: LockOwner, range: Range) -> Vec<(Range, Option<LockKind>)> {
        let mut pieces = Vec::new();
        let mut next = Some(range.start);
        for held in self.of(owner) {
            let Some(from) = next else { break };
            if held.range.end < from || held.range.start > range.end {
                continue;
            }
            let start = held.range.start.max(from);
            if let Some(gap) = start.checked_sub(1).and_then(|end| Range::new(from, end)) {
                pieces.push((gap, None));
            }
            let end = held.range.end.min(range.end);
            pieces.push((Range { start, end }, Some(held.kind)));
            next = end.checked_add(1);
        }
        if let Some(rest) = next.and_then(|from| Range::new(from, range.end)) {
            pieces.push((rest, None));
        }
        pieces
    }

    /// By how many locks the table may grow when a range is set or released.
    pub fn growth(&self, owner: LockOwner, range: Range, kind: Option<LockKind>) -> usize {
        let splits = self
            .of(owner)
            .iter()
            .any(|held| held.range.start < range.start && range.end < held.range.end);
        usize::from(splits) + usize::from(kind.is_some())
    }

    /// The owner holds the range by that kind from now on, or not at all, whatever it held of it.
    /// Locks of others are not looked at.
    pub fn set(&mut self, owner: LockOwner, pid: u32, range: Range, kind: Option<LockKind>) {
        // What overlaps or touches.
        let first = self.held.partition_point(|lock| {
            (lock.owner, lock.range.end) < (owner, range.start.saturating_sub(1))
        });
        let after = self.held.partition_point(|lock| {
            (lock.owner, lock.range.start) <= (owner, range.end.saturating_add(1))
        });
        let mut new = kind.map(|kind| Lock {
            owner,
            pid,
            kind,
            range,
        });
        let mut pieces: Vec<Lock> = Vec::new();
        for old in &self.held[first..after] {
            if let Some(new) = &mut new
                && new.kind == old.kind
            {
                new.range.start = new.range.start.min(old.range.start);
                new.range.end = new.range.end.max(old.range.end);
                continue;
            }
            let below = range.start.checked_sub(1);
            if let Some(end) = below.filter(|below| old.range.start <= *below) {
                let mut left = *old;
                left.range.end = end.min(old.range.end);
                pieces.push(left);
            }
            let above = range.end.checked_add(1);
            if let Some(start) = above.filter(|above| *above <= old.range.end) {
                let mut right = *old;
                right.range.start = start.max(old.range.start);
                pieces.push(right);
            }
        }
        pieces.extend(new);
        pieces.sort_unstable_by_key(|lock| lock.range.start);
        self.held.splice(first..after, pieces);
    }

    /// Keeps the locks of some owners only.
    pub fn retain(&mut self, keep: impl Fn(LockOwner) -> bool) {
        self.held.retain(|lock| keep(lock.owner));
    }
}
