//! Which sessions have fallen silent: the watch of whoever leads.
//!
//! A mount says every [`SESSION_RENEW_MS`] that it is there, to whichever volcano it reaches, and
//! that one tells who leads the agreement. Of whom nothing is heard for [`SESSION_MS`] that one
//! proposes the end ([`super::Change::EndSession`]). Nothing of this is on a disk: whoever begins to watch
//! counts all sessions anew, and so does one that has been stopped for a while, whose own ears
//! were closed.

use std::collections::BTreeMap;

use crate::ids::SessionId;
use crate::lava::Lava;
use crate::limits::{SESSION_ENDS_AT_ONCE, SESSION_MS, SESSION_RENEW_MS};
use crate::time::Moment;

/// When each session was last heard of.
#[derive(Debug, Default)]
pub struct SessionWatch {
    /// The last look, unless nothing is watched.
    looked: Option<Moment>,
    heard: BTreeMap<SessionId, Moment>,
}

impl SessionWatch {
    /// A session has said that it is there. Only those that were seen in the lava are kept, which
    /// bounds them; one that is younger than the last look counts from the next.
    pub fn heard(&mut self, session: SessionId, now: Moment) {
        if let Some(last) = self.heard.get_mut(&session) {
            *last = now;
        }
    }

    /// Nothing is watched here (any more): another volcano coordinates, or nobody is served yet.
    pub fn rest(&mut self) {
        self.looked = None;
        self.heard.clear();
    }

    /// The sessions that are to end now, the longest silent first, and not too many at a time. To be
    /// called several times a second by who coordinates.
    pub fn overdue(&mut self, lava: &Lava, now: Moment) -> Vec<SessionId> {
        let awake = self
            .looked
            .is_some_and(|looked| now.since_ms(looked) < SESSION_RENEW_MS);
        self.looked = Some(now);
        if !awake {
            self.heard.clear();
        }
        self.heard.retain(|session, _| lava.has_session(*session));
        for session in &lava.sessions {
            self.heard.entry(session.id).or_insert(now);
        }
        let mut silent: Vec<(Moment, SessionId)> = self
            .heard
            .iter()
            .filter(|(_, last)| now.since_ms(**last) >= SESSION_MS)
            .map(|(session, last)| (*last, *session))
            .collect();
        silent.sort_unstable();
        silent.truncate(SESSION_ENDS_AT_ONCE);
        silent.into_iter().map(|(_, session)| session).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agreement::Change;
    use crate::lava::samples::{apply, founded};

    const TICK: u64 = 200;

    fn with_sessions(count: usize) -> Lava {
        let open = Change::OpenSession { label: "m".into() };
        apply(&founded("wallace", 1), &vec![open; count])
    }

    /// Looks until `until`; the sessions of `alive` renew. Returns who is overdue at the end.
    fn run(
        watch: &mut SessionWatch,
        lava: &Lava,
        (from, until): (u64, u64),
        alive: &[SessionId],
    ) -> Vec<SessionId> {
        let mut overdue = Vec::new();
        for at in (from..=until).step_by(TICK as usize) {
            if at % SESSION_RENEW_MS == 0 {
                alive.iter().for_each(|id| watch.heard(*id, Moment(at)));
            }
            overdue = watch.overdue(lava, Moment(at));
        }
        overdue
    }

    #[test]
    fn the_silent_end_and_the_others_do_not() {
        let lava = with_sessions(3);
        let ids: Vec<SessionId> = lava.sessions.iter().map(|s| s.id).collect();
        let mut watch = SessionWatch::default();
        let alive = [ids[0], ids[2]];
        assert!(run(&mut watch, &lava, (0, SESSION_MS - TICK), &alive).is_empty());
        let overdue = run(&mut watch, &lava, (SESSION_MS, 2 * SESSION_MS), &alive);
        assert_eq!(overdue, [ids[1]]);
    }

    #[test]
    fn who_begins_to_watch_counts_anew() {
        let lava = with_sessions(1);
        let mut watch = SessionWatch::default();
        assert!(run(&mut watch, &lava, (0, SESSION_MS - TICK), &[]).is_empty());
        watch.rest();
        let begins = SESSION_MS;
        let before = begins + SESSION_MS - TICK;
        assert!(run(&mut watch, &lava, (begins, before), &[]).is_empty());
        assert_eq!(watch.overdue(&lava, Moment(before + TICK)).len(), 1);
    }

    #[test]
    fn who_was_stopped_counts_anew() {
        let lava = with_sessions(1);
        let mut watch = SessionWatch::default();
        run(&mut watch, &lava, (0, TICK), &[]);
        // The messages of that time are still in the socket.
        assert!(watch.overdue(&lava, Moment(60_000)).is_empty());
        let after = 60_000 + SESSION_MS;
        assert!(run(&mut watch, &lava, (60_200, after - TICK), &[]).is_empty());
        assert_eq!(watch.overdue(&lava, Moment(after)).len(), 1);
    }

    #[test]
    fn a_session_is_watched_from_when_it_is_seen() {
        let empty = with_sessions(0);
        let mut watch = SessionWatch::default();
        watch.heard(SessionId(77), Moment(0));
        run(&mut watch, &empty, (0, 30_000), &[]);
        assert!(
            watch.heard.is_empty(),
            "what the lava does not hold is not kept"
        );
        let lava = with_sessions(1);
        assert!(watch.overdue(&lava, Moment(30_200)).is_empty());
        let due = 30_200 + SESSION_MS;
        assert!(run(&mut watch, &lava, (30_400, due - TICK), &[]).is_empty());
        assert_eq!(watch.overdue(&lava, Moment(due)).len(), 1);
    }

    #[test]
    fn they_end_a_few_at_a_time() {
        let lava = with_sessions(SESSION_ENDS_AT_ONCE + 5);
        let mut watch = SessionWatch::default();
        let overdue = run(&mut watch, &lava, (0, SESSION_MS), &[]);
        assert_eq!(overdue.len(), SESSION_ENDS_AT_ONCE);
    }
}
