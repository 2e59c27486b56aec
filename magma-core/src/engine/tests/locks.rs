//! Locks at one owner: two sessions, a restart, and what is lost on the way.

use bytes::Bytes;

use super::{Alone, replied};
use crate::agreement::Change;
use crate::engine::{Action, Event, Origin};
use crate::error::OpError;
use crate::flare::Kind;
use crate::ids::{Epoch, FlareRef, SessionId, Slot, SlotSeq};
use crate::limits::{LOCK_CLAIM_MS, LOCK_WAIT_SILENT_MS};
use crate::locks::table::LockOutcome;
use crate::locks::{LockKind, LockOwner, Range};
use crate::op::{Answer, Credentials, LockSpec, Op};
use crate::wire::flare_protocol::{ClaimedLock, Probe, Request, ToClient};

const GRANTED: Result<Answer, OpError> = Ok(Answer::LockSet(LockOutcome::Granted));
const WAITS: Result<Answer, OpError> = Ok(Answer::LockSet(LockOutcome::Waits));

/// Two sessions, one file.
struct Two {
    alone: Alone,
    file: FlareRef,
    one: SessionId,
    two: SessionId,
    number: u64,
}

fn spec(owner: u64) -> LockSpec {
    LockSpec {
        owner,
        pid: owner as u32,
        range: Range { start: 0, end: 9 },
    }
}

fn write(flare: FlareRef, owner: u64, number: u64, wait: Option<u64>) -> Op {
    Op::SetLock {
        flare,
        lock: spec(owner),
        kind: Some(LockKind::Write),
        number,
        wait,
    }
}

fn told(actions: &[Action]) -> Vec<(SessionId, ToClient)> {
    let told = actions.iter().filter_map(|action| match action {
        Action::Tell { session, message } => Some((*session, message.clone())),
        _ => None,
    });
    told.collect()
}

impl Two {
    fn new() -> Two {
        let mut alone = Alone::new();
        alone.change(Change::OpenSession {
            label: "second".into(),
        });
        let one = alone.session;
        let two = alone.engine.lava().sessions[1].id;
        alone.handle(Event::SessionHello(two));
        let root = alone.root();
        let file = alone.create(root, "/file", Kind::File);
        Two {
            alone,
            file,
            one,
            two,
            number: 100,
        }
    }

    fn send(&mut self, session: SessionId, op: Op) -> Vec<Action> {
        self.alone.seq += 1;
        let request = Request {
            session,
            slot: Slot(1),
            seq: SlotSeq(self.alone.seq),
            clock: 0,
            epoch: Epoch(0),
            key: self.file.key(),
            hops: 0,
            cred: Credentials::root(),
            ops: vec![op],
        };
        let origin = Origin {
            token: self.alone.seq,
            proxied: false,
        };
        self.alone.handle(Event::Request {
            origin,
            request: Box::new(request),
            payload: Bytes::new(),
        })
    }

    fn lock(&mut self, session: SessionId, wait: Option<u64>) -> Option<Result<Answer, OpError>> {
        self.number += 1;
        let op = write(self.file, 7, self.number, wait);
        replied(self.send(session, op))
    }

    fn unlock(&mut self, session: SessionId) -> Vec<Action> {
        self.number += 1;
        let op = Op::SetLock {
            flare: self.file,
            lock: LockSpec {
                range: Range::ALL,
                ..spec(7)
            },
            kind: None,
            number: self.number,
            wait: None,
        };
        self.send(session, op)
    }

    fn pass(&mut self, ms: u64) -> Vec<Action> {
        self.alone.time += ms;
        self.alone.handle(Event::Tick)
    }

    fn restart(&mut self) {
        self.alone.restart();
    }
}

#[test]
fn a_lock_of_one_session_binds_the_other() {
    let mut two = Two::new();
    let (one, other) = (two.one, two.two);
    assert_eq!(two.lock(one, None), Some(GRANTED));
    assert_eq!(two.lock(other, None), Some(Err(OpError::WouldBlock)));
    let test = Op::GetLock {
        flare: two.file,
        lock: spec(7),
        kind: LockKind::Read,
    };
    match replied(two.send(other, test)) {
        Some(Ok(Answer::Lock(Some(lock)))) => assert_eq!(lock.owner, LockOwner(one, 7)),
        answer => panic!("{answer:?}"),
    }
    assert_eq!(two.lock(other, Some(5)), Some(WAITS));
    let granted = ToClient::LockGranted {
        flare: two.file,
        wait: 5,
    };
    let actions = two.unlock(one);
    assert_eq!(told(&actions), [(other, granted)]);
    // That message was lost: asked again, it is said again.
    assert_eq!(two.lock(other, Some(5)), Some(GRANTED));
    assert_eq!(two.lock(one, None), Some(Err(OpError::WouldBlock)));
}

#[test]
fn the_end_of_a_session_wakes_who_waits() {
    let mut two = Two::new();
    let (one, other) = (two.one, two.two);
    assert_eq!(two.lock(other, None), Some(GRANTED));
    assert_eq!(two.lock(one, Some(1)), Some(WAITS));
    let lava = two.alone.engine.lava().apply(&Change::EndSession(other));
    let lava = Box::new(lava.unwrap());
    let actions = two.alone.handle(Event::Lava(lava));
    let granted = ToClient::LockGranted {
        flare: two.file,
        wait: 1,
    };
    assert!(told(&actions).contains(&(one, granted)));
}

#[test]
fn what_comes_late_locks_nothing() {
    let mut two = Two::new();
    let one = two.one;
    let first = write(two.file, 7, 50, None);
    assert_eq!(replied(two.send(one, first.clone())), Some(GRANTED));
    assert_eq!(replied(two.send(one, first.clone())), Some(GRANTED));
    two.unlock(one);
    assert_eq!(replied(two.send(one, first)), Some(Err(OpError::Overtaken)));
    let other = two.two;
    assert_eq!(two.lock(other, None), Some(GRANTED));
}

#[test]
fn a_wait_can_be_ended() {
    let mut two = Two::new();
    let (one, other) = (two.one, two.two);
    let cancel = |two: &mut Two, number| {
        let op = Op::CancelLock {
            flare: two.file,
            lock: spec(7),
            kind: LockKind::Write,
            number,
            wait: 5,
        };
        replied(two.send(other, op))
    };
    two.lock(one, None);
    two.lock(other, Some(5));
    assert_eq!(cancel(&mut two, 200), Some(Ok(Answer::Done)));
    assert_eq!(told(&two.unlock(one)), []);
    two.number = 300;
    two.lock(one, None);
    two.lock(other, Some(5));
    two.unlock(one);
    // Too late.
    assert_eq!(cancel(&mut two, 400), Some(GRANTED));
    // Nobody asks for it any more.
    two.number = 500;
    assert_eq!(two.lock(one, Some(6)), Some(WAITS));
    two.pass(LOCK_WAIT_SILENT_MS + 1);
    assert_eq!(told(&two.unlock(other)), []);
}

#[test]
fn after_a_restart_locks_wait_until_all_have_said_what_they_hold() {
    let mut two = Two::new();
    let (one, other, file) = (two.one, two.two, two.file);
    two.lock(one, None);
    two.restart();
    let asked = two.alone.handle(Event::Serve);
    assert!(told(&asked).contains(&(one, ToClient::Claim)));
    assert_eq!(two.lock(other, None), None);
    two.alone.claims(other, 1, Vec::new());
    let held = ClaimedLock {
        flare: file,
        lock: spec(7),
        kind: LockKind::Write,
    };
    let actions = two.alone.claims(one, 900, vec![held]);
    assert_eq!(replied(actions), Some(Err(OpError::WouldBlock)));
    // A claim from before an unlock must be made again.
    two.number = 1000;
    two.unlock(one);
    let actions = two.alone.claims(one, 950, vec![held]);
    assert_eq!(told(&actions), [(one, ToClient::Claim)]);
    two.number = 2000;
    assert_eq!(two.lock(other, None), Some(GRANTED));
    // Nor does it take anything from others.
    let lost = ToClient::LockLost {
        flare: file,
        owner: 7,
        range: held.lock.range,
    };
    let actions = two.alone.claims(one, 3000, vec![held]);
    assert_eq!(told(&actions), [(one, lost)]);
}

#[test]
fn a_session_that_says_nothing_is_not_waited_for_for_ever() {
    let mut two = Two::new();
    let other = two.two;
    two.restart();
    two.alone.handle(Event::Serve);
    assert_eq!(two.lock(other, None), None);
    let actions = two.pass(LOCK_CLAIM_MS);
    assert_eq!(replied(actions), Some(GRANTED));
}

/// The other half of the ring is at another owner: only the greatest of it finds it.
#[test]
fn a_ring_through_another_owner_is_found() {
    let mut two = Two::new();
    let (one, other, file) = (two.one, two.two, two.file);
    two.lock(one, None);
    two.lock(other, Some(5));
    two.number = 200;
    let asked = {
        two.number += 1;
        let op = write(file, 7, two.number, Some(5));
        two.send(other, op)
    };
    let probe = Probe {
        by: LockOwner(other, 7),
        wait: 5,
        hops: 1,
    };
    let owner = 7;
    assert_eq!(told(&asked), [(one, ToClient::LockProbe { probe, owner })]);
    let from_elsewhere = |by, wait| crate::wire::flare_protocol::FromClient::LockProbe {
        probe: Probe {
            by,
            wait: 9,
            hops: 1,
        },
        flare: file,
        wait,
    };
    // One that began with the session that holds the lock here.
    let message = from_elsewhere(LockOwner(one, 7), 5);
    let session = other;
    let found = two.alone.handle(Event::FromClient { session, message });
    assert_eq!(told(&found), [], "the greatest finds it");
    let message = from_elsewhere(LockOwner(SessionId(99), 0), 5);
    let on = two.alone.handle(Event::FromClient { session, message });
    assert!(matches!(told(&on)[..], [(to, ToClient::LockProbe { .. })] if to == one));
    // As if the first had come back.
    two.unlock(one);
    two.number = 300;
    two.lock(one, Some(8));
    let message = crate::wire::flare_protocol::FromClient::LockProbe {
        probe,
        flare: file,
        wait: 8,
    };
    let found = two.alone.handle(Event::FromClient {
        session: one,
        message,
    });
    assert_eq!(told(&found), [(other, ToClient::LockDeadlock { wait: 5 })]);
}
