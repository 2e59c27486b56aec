//! Opens at one owner: flares without names live while somebody has them open.

use super::{Alone, last_name, replied};
use crate::agreement::Change;
use crate::engine::{Action, Event};
use crate::error::OpError;
use crate::flare::Kind;
use crate::ids::{FlareRef, SessionId};
use crate::limits::SESSION_MS;
use crate::op::{Answer, Op};
use crate::wire::flare_protocol::{FromClient, ToClient};

/// A file, and whoever may have it open.
struct Opened {
    alone: Alone,
    root: FlareRef,
    file: FlareRef,
}

impl Opened {
    /// All that is open is known: nothing.
    fn new() -> Opened {
        let mut alone = Alone::new();
        let root = alone.root();
        let file = alone.create(root, "/file", Kind::File);
        let mut opened = Opened { alone, root, file };
        opened.holds(1, Vec::new());
        opened
    }

    fn says(&mut self, message: FromClient) -> Vec<Action> {
        let session = self.alone.session;
        self.alone.handle(Event::FromClient { session, message })
    }

    fn holds(&mut self, number: u64, opens: Vec<(FlareRef, u64)>) {
        self.says(FromClient::OpensHeld {
            number,
            opens,
            done: true,
        });
    }

    fn open(&mut self, number: u64) -> Result<Answer, OpError> {
        let op = Op::Open {
            flare: self.file,
            read: true,
            write: false,
            truncate: false,
            number,
        };
        self.alone.ask(self.file.key(), op)
    }

    fn close(&mut self, upto: u64) {
        self.says(FromClient::Closed(vec![(self.file, upto)]));
    }

    fn unlink(&mut self) {
        let op = Op::Unlink {
            flare: self.file,
            parent: self.root,
            name: last_name("/file"),
        };
        let done = self.alone.ask(self.file.key(), op);
        assert!(matches!(done, Ok(Answer::Unlinked { .. })), "{done:?}");
    }

    /// After some rounds of housekeeping.
    fn is_there(&mut self) -> bool {
        for _ in 0..30 {
            self.alone.time += 100;
            self.alone.handle(Event::Tick);
        }
        let op = Op::GetAttr(self.file);
        self.alone.ask(self.file.key(), op).is_ok()
    }
}

#[test]
fn an_open_file_outlives_its_name_until_it_is_closed() {
    let mut opened = Opened::new();
    opened.open(2).unwrap();
    opened.unlink();
    assert!(opened.is_there());
    // A close from before it was opened (again) comes late.
    opened.close(1);
    assert!(opened.is_there());
    opened.close(3);
    assert!(!opened.is_there());
    assert_eq!(opened.open(4).err(), Some(OpError::Stale));
}

#[test]
fn what_nobody_has_open_ends_with_its_name() {
    let mut opened = Opened::new();
    opened.open(2).unwrap();
    opened.close(3);
    opened.unlink();
    assert_eq!(opened.open(4).err(), Some(OpError::Stale));
}

#[test]
fn what_was_opened_under_a_lease_is_told_of() {
    let mut opened = Opened::new();
    let op = Op::Hold(opened.file, 2);
    assert_eq!(opened.alone.ask(opened.file.key(), op), Ok(Answer::Done));
    opened.unlink();
    assert!(opened.is_there());
    let mut pushed = Opened::new();
    let opens = vec![(pushed.file, 2)];
    pushed.says(FromClient::Opened(opens));
    pushed.unlink();
    assert!(pushed.is_there());
}

#[test]
fn the_answer_to_a_recall_counts_before_what_waits_for_it() {
    let mut opened = Opened::new();
    let (holder, file) = (opened.alone.session, opened.file);
    let shown = opened.alone.send(file.key(), Op::GetAttr(file));
    assert!(shown.iter().any(|action| matches!(action, Action::Reply { reply, .. } if reply.lease.is_some_and(|grant| grant.shown))));
    opened
        .alone
        .change(Change::OpenSession { label: "b".into() });
    let other: SessionId = opened.alone.engine.lava().sessions[1].id;
    opened.alone.session = other;
    let unlink = Op::Unlink {
        flare: file,
        parent: opened.root,
        name: last_name("/file"),
    };
    let mut actions = opened.alone.send(file.key(), unlink);
    opened.alone.session = holder;
    while let Some((keys, upto)) = actions.iter().find_map(|action| match action {
        Action::Tell {
            message: ToClient::Recall { keys, upto },
            ..
        } => Some((keys.clone(), *upto)),
        _ => None,
    }) {
        let opens = match keys.contains(&file.key()) {
            true => vec![(file, 2)],
            false => Vec::new(),
        };
        actions = opened.says(FromClient::Recalled { keys, upto, opens });
    }
    assert!(matches!(
        replied(actions),
        Some(Ok(Answer::Unlinked { .. }))
    ));
    assert!(opened.is_there());
    opened.close(3);
    assert!(!opened.is_there());
}

#[test]
fn after_a_restart_nothing_ends_before_all_have_said_what_they_have_open() {
    for held in [true, false] {
        let mut opened = Opened::new();
        opened.open(2).unwrap();
        opened.alone.restart();
        opened.alone.handle(Event::Serve);
        opened.unlink();
        assert!(opened.is_there());
        let opens = match held {
            true => vec![(opened.file, 2)],
            false => Vec::new(),
        };
        opened.holds(3, opens);
        assert_eq!(opened.is_there(), held);
    }
}

#[test]
fn a_session_that_says_nothing_keeps_a_file_only_for_its_time() {
    let mut opened = Opened::new();
    opened.alone.restart();
    opened.alone.handle(Event::Serve);
    opened.unlink();
    assert!(opened.is_there());
    opened.alone.time += SESSION_MS;
    assert!(!opened.is_there());
}

#[test]
fn what_a_session_does_not_name_is_closed() {
    let mut opened = Opened::new();
    opened.open(2).unwrap();
    opened.unlink();
    // Opened while that was said.
    opened.holds(1, Vec::new());
    assert!(opened.is_there());
    // Said in parts.
    let other = FlareRef::default();
    opened.says(FromClient::OpensHeld {
        number: 5,
        opens: vec![(opened.file, 2)],
        done: false,
    });
    opened.holds(5, vec![(other, 4)]);
    assert!(opened.is_there());
    opened.holds(6, vec![(other, 4)]);
    assert!(!opened.is_there());
}

#[test]
fn the_end_of_a_session_closes_what_it_had_open() {
    let mut opened = Opened::new();
    opened.open(2).unwrap();
    opened.unlink();
    assert!(opened.is_there());
    opened
        .alone
        .change(Change::OpenSession { label: "b".into() });
    let ended = opened.alone.session;
    opened.alone.session = opened.alone.engine.lava().sessions[1].id;
    opened.alone.change(Change::EndSession(ended));
    assert!(!opened.is_there());
}
