//! Which volcanos have fallen silent: the watch of whoever leads the agreement.
//!
//! Every volcano sends a heartbeat each [`HEARTBEAT_MS`](crate::limits::HEARTBEAT_MS), and who
//! leads answers with a lease: for [`VOLCANO_LEASE_MS`] from *sending* that heartbeat nobody takes
//! over what the volcano owns. Of whom nothing was heard for the lease and a tenth more, counted
//! from *receiving*, the leader proposes that it is dead ([`Change::Down`]); one that is dead and
//! heard of again is back ([`Change::Up`]). Once its death is proposed a volcano gets no lease
//! before the outcome is known.
//!
//! Nothing of this is on a disk. Whoever begins to lead counts all from a moment before
//! ([`LEADER_HEAD_START_MS`]), because another may have given leases until then; and one that was
//! stopped for a while, whose own ears were closed, counts anew.

use std::collections::{BTreeMap, BTreeSet};

use super::Change;
use crate::ids::VolcanoId;
use crate::lava::Lava;
use crate::limits::{LEADER_HEAD_START_MS, VOLCANO_LEASE_MS, VOLCANO_SILENT_MS, WATCH_AWAKE_MS};
use crate::time::Moment;

/// When each volcano was last heard of.
#[derive(Debug, Default)]
pub struct VolcanoWatch {
    /// The last look, unless nothing is watched.
    looked: Option<Moment>,
    heard: BTreeMap<VolcanoId, Moment>,
    /// Whose death is proposed.
    condemned: BTreeSet<VolcanoId>,
    /// Dead ones that were heard of since.
    returned: BTreeSet<VolcanoId>,
    /// When each was heard while nothing was watched.
    before: BTreeMap<VolcanoId, Moment>,
}

impl VolcanoWatch {
    /// A heartbeat was received. Returns for how long the volcano has a lease, in milliseconds from
    /// when it sent it; none when it gets none (now).
    pub fn heard(&mut self, lava: &Lava, id: VolcanoId, now: Moment) -> Option<u64> {
        let known = lava.volcano(id)?;
        if self.looked.is_none() {
            self.before.insert(id, now);
            return None;
        }
        if known.down {
            self.returned.insert(id);
            return None;
        }
        if self.condemned.contains(&id) {
            return None;
        }
        self.heard.insert(id, now);
        Some(VOLCANO_LEASE_MS)
    }

    /// A death that was proposed is not in the lava, and never will be by that proposal.
    pub fn spared(&mut self, id: VolcanoId) {
        if self.condemned.remove(&id) {
            self.heard.remove(&id);
        }
    }

    /// Nothing is watched here (any more): another volcano leads, or nobody is served yet.
    pub fn rest(&mut self) {
        let before = std::mem::take(&mut self.before);
        *self = VolcanoWatch {
            before,
            ..VolcanoWatch::default()
        };
    }

    /// What is to be proposed now. To be called several times a second by who leads, with who led
    /// before: that one had leases from nobody but itself, for as long as it led for sure, which is
    /// over. What we have heard of it ourselves is all there is to know.
    pub fn verdicts(
        &mut self,
        lava: &Lava,
        me: VolcanoId,
        led: Option<VolcanoId>,
        now: Moment,
    ) -> Vec<Change> {
        let awake = self
            .looked
            .is_some_and(|looked| now.since_ms(looked) < WATCH_AWAKE_MS);
        let begins = self.looked.is_none();
        self.looked = Some(now);
        if !awake {
            self.heard.clear();
        }
        let heard = match begins {
            true => Moment(now.0.saturating_sub(LEADER_HEAD_START_MS)),
            false => now,
        };
        if let Some(led) = led.filter(|_| begins)
            && let Some(at) = self.before.get(&led)
        {
            self.heard.insert(led, *at);
        }
        if begins {
            self.before.clear();
        }
        let alive = |id: &VolcanoId| lava.volcano(*id).is_some_and(|volcano| !volcano.down);
        self.heard.retain(|id, _| alive(id));
        self.condemned.retain(alive);
        self.returned.retain(|id| lava.is_down(*id));
        let mut changes: Vec<Change> = self.returned.iter().copied().map(Change::Up).collect();
        for volcano in &lava.volcanos {
            let id = volcano.id;
            if volcano.down || id == me {
                continue;
            }
            let last = *self.heard.entry(id).or_insert(heard);
            if now.since_ms(last) >= VOLCANO_SILENT_MS {
                self.condemned.insert(id);
                changes.push(Change::Down(id));
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lava::samples::{after, apply, founded};

    const ME: VolcanoId = VolcanoId(1);
    const OTHER: VolcanoId = VolcanoId(2);
    const TICK: u64 = 200;

    fn two() -> Lava {
        let lava = founded("wallace", 1);
        apply(&lava, &[after(&lava, "gromit", 1)])
    }

    /// Looks until `until`, with or without heartbeats. Returns what is proposed at the end.
    fn run(
        watch: &mut VolcanoWatch,
        lava: &Lava,
        (from, until): (u64, u64),
        beats: bool,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for at in (from..=until).step_by(TICK as usize) {
            changes = watch.verdicts(lava, ME, None, Moment(at));
            if beats {
                watch.heard(lava, OTHER, Moment(at));
            }
        }
        changes
    }

    #[test]
    fn the_silent_are_dead_and_get_no_lease_until_it_is_decided() {
        let lava = two();
        let mut watch = VolcanoWatch::default();
        assert_eq!(watch.heard(&lava, OTHER, Moment(0)), None, "nobody watches");
        assert_eq!(run(&mut watch, &lava, (0, 4_000), true), []);
        assert_eq!(run(&mut watch, &lava, (4_200, 5_000), false), []);
        let verdict = run(&mut watch, &lava, (5_200, 5_200), false);
        assert_eq!(verdict, [Change::Down(OTHER)]);
        assert_eq!(watch.heard(&lava, OTHER, Moment(5_201)), None);
        watch.spared(OTHER);
        assert!(watch.heard(&lava, OTHER, Moment(5_202)).is_some());
    }

    #[test]
    fn the_dead_are_back_when_they_are_heard() {
        let lava = apply(&two(), &[Change::Down(OTHER)]);
        let mut watch = VolcanoWatch::default();
        assert_eq!(run(&mut watch, &lava, (0, 4_000), false), []);
        assert_eq!(watch.heard(&lava, OTHER, Moment(4_000)), None);
        let back = run(&mut watch, &lava, (4_200, 4_200), false);
        assert_eq!(back, [Change::Up(OTHER)]);
        let lava = apply(&lava, &back);
        assert_eq!(run(&mut watch, &lava, (4_400, 5_200), false), []);
        assert!(watch.heard(&lava, OTHER, Moment(5_200)).is_some());
    }

    #[test]
    fn who_led_before_and_is_silent_is_dead_at_once() {
        let lava = two();
        for (heard, dead) in [(4_000, false), (2_800, true)] {
            let mut watch = VolcanoWatch::default();
            assert_eq!(watch.heard(&lava, OTHER, Moment(heard)), None);
            watch.rest();
            let verdict = watch.verdicts(&lava, ME, Some(OTHER), Moment(4_000));
            assert_eq!(verdict == [Change::Down(OTHER)], dead);
        }
    }

    #[test]
    fn who_was_stopped_or_begins_counts_anew() {
        let lava = two();
        let mut watch = VolcanoWatch::default();
        assert_eq!(run(&mut watch, &lava, (400, 1_000), false), []);
        assert_eq!(run(&mut watch, &lava, (9_000, 10_000), false), []);
        watch.rest();
        assert_eq!(run(&mut watch, &lava, (10_200, 11_000), false), []);
        let verdict = run(&mut watch, &lava, (11_200, 11_200), false);
        assert_eq!(verdict, [Change::Down(OTHER)]);
    }
}
