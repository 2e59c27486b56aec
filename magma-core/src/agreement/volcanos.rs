//! Which volcanos have fallen silent: the watch of whoever leads the agreement.
//!
//! Every volcano sends a heartbeat each [`HEARTBEAT_MS`](crate::limits::HEARTBEAT_MS), and who
//! leads answers with a lease: for [`VOLCANO_LEASE_MS`] from *sending* that heartbeat nobody takes
//! over what the volcano owns. Of whom nothing was heard for the lease and a tenth more, counted
//! from *receiving*, the leader proposes that it is dead ([`Change::Down`]); one that is dead and
//! heard of again is back ([`Change::Up`]). Once its death is proposed a volcano gets no lease
//! before the outcome is known. Of one that stays away nobody counts on the return after a while
//! ([`Change::Evict`]), unless that would give slices up that nobody else has.
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
    /// Since when each is known to be dead here.
    dead: BTreeMap<VolcanoId, Moment>,
    /// How long one may be dead before it is evicted; none for ever.
    evict_after_ms: Option<u64>,
}

impl VolcanoWatch {
    /// A watch that evicts whoever has been dead for so long, in milliseconds.
    pub fn evicting(after_ms: Option<u64>) -> VolcanoWatch {
        VolcanoWatch {
            evict_after_ms: after_ms,
            ..VolcanoWatch::default()
        }
    }

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
            ..VolcanoWatch::evicting(self.evict_after_ms)
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
            self.dead.clear();
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
        changes.extend(self.overdue(lava, now).into_iter().map(Change::Evict));
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

    /// Who has been dead for too long, and can be done without.
    fn overdue(&mut self, lava: &Lava, now: Moment) -> Vec<VolcanoId> {
        self.dead
            .retain(|id, _| lava.is_down(*id) && !lava.is_evicted(*id));
        let returned = &self.returned;
        let mut overdue = Vec::new();
        for volcano in lava.volcanos.iter().filter(|v| v.down && !v.evicted) {
            let since = *self.dead.entry(volcano.id).or_insert(now);
            let away = self
                .evict_after_ms
                .is_some_and(|limit| now.since_ms(since) >= limit);
            let needed = lava.owned_by(volcano.id).next().is_some();
            if away && !needed && !returned.contains(&volcano.id) {
                overdue.push(volcano.id);
            }
        }
        overdue
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
    fn who_stays_away_is_evicted_once() {
        let away = apply(&two(), &[Change::Down(OTHER)]);
        let mut watch = VolcanoWatch::evicting(Some(60_000));
        assert_eq!(run(&mut watch, &away, (0, 59_800), false), []);
        let verdict = run(&mut watch, &away, (60_000, 60_000), false);
        assert_eq!(verdict, [Change::Evict(OTHER)]);
        let evicted = apply(&away, &verdict);
        assert_eq!(run(&mut watch, &evicted, (60_200, 200_000), false), []);
        // It is back all the same when it is heard of.
        watch.heard(&evicted, OTHER, Moment(200_100));
        let back = run(&mut watch, &evicted, (200_200, 200_200), false);
        assert_eq!(back, [Change::Up(OTHER)]);
        assert!(!apply(&evicted, &back).is_evicted(OTHER));
        // Without whom nobody has the keys is waited for.
        let mut needed = away;
        needed.slices[0].owner = OTHER;
        let mut watch = VolcanoWatch::evicting(Some(60_000));
        assert_eq!(run(&mut watch, &needed, (0, 200_000), false), []);
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
