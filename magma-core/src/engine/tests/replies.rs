//! Answers are kept for as long as their session can ask for them again.

use super::Alone;
use crate::agreement::Change;
use crate::engine::Event;
use crate::flare::Kind;
use crate::ids::{SessionId, SliceId, Slot};
use crate::key::Key;
use crate::limits::{LEASE_GRACE_MS, LEASE_MS, REPLIES_LOOK_MS};
use crate::store::View;

fn slots(alone: &Alone, session: SessionId) -> Vec<(Key, Slot)> {
    let store = &alone.engine.store;
    store.reply_slots(SliceId(1), session, 10).unwrap()
}

#[test]
fn replies_of_ended_sessions_are_forgotten() {
    let mut alone = Alone::new();
    let root = alone.root();
    alone.create(root, "/file", Kind::File);
    let ended = alone.session;
    alone.change(Change::OpenSession { label: "b".into() });
    alone.session = alone.engine.lava().sessions[1].id;
    // What the first one remembers of the root has run out.
    alone.time += LEASE_MS + LEASE_GRACE_MS;
    alone.create(root, "/other", Kind::File);
    let open = alone.session;
    let kept = (Key::of_path(b"/file"), Slot(0));
    assert_eq!(slots(&alone, ended), [kept]);

    alone.time += REPLIES_LOOK_MS;
    alone.handle(Event::Tick);
    assert_eq!(slots(&alone, ended), [kept], "it may ask again");
    alone.change(Change::EndSession(ended));
    alone.time += REPLIES_LOOK_MS;
    alone.handle(Event::Tick);
    assert_eq!(slots(&alone, ended), []);
    assert_eq!(slots(&alone, open).len(), 1);

    // Nor does a start bring anything back, or forget to look.
    alone.restart();
    assert_eq!(slots(&alone, open).len(), 1);
    alone.change(Change::EndSession(open));
    alone.handle(Event::Serve);
    alone.time += REPLIES_LOOK_MS;
    alone.handle(Event::Tick);
    assert_eq!(slots(&alone, open), []);
}
