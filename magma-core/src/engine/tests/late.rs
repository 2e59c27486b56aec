//! What comes late: after a repetition of it was answered, or after something newer.

use bytes::Bytes;

use super::{Alone, last_name, new_file, replied};
use crate::engine::{Action, Event, Origin};
use crate::error::{OpError, OpResult};
use crate::flare::{Attr, Decision, Kind};
use crate::ids::{Epoch, FlareRef, SessionId, Slot, SlotSeq, TxId, VolcanoId};
use crate::key::{Key, ROOT};
use crate::limits::SESSION_MS;
use crate::op::{Answer, Credentials, Op, SetAttr};
use crate::store::View;
use crate::wire::flare_protocol::Request;
use crate::wire::peer::{PeerMessage, Step, StepAnswer, StepBody, StepDone, StepName};

/// Longer than a step waits for its answer before it is sent again.
const LONG_MS: u64 = 10_000;

fn steps(actions: &[Action]) -> Vec<StepName> {
    let step = |action: &Action| match action {
        Action::Send { message, .. } => match &**message {
            PeerMessage::Step(step) => Some(step.body.name()),
            _ => None,
        },
        _ => None,
    };
    actions.iter().filter_map(step).collect()
}

/// The second volcano answers a step of a transaction that is driven here.
fn answered(
    alone: &mut Alone,
    tx: TxId,
    (driver, key): (Key, Key),
    step: StepName,
    result: OpResult<StepAnswer>,
) -> Vec<Action> {
    let done = StepDone {
        tx,
        driver,
        key,
        step,
        clock: 0,
        result,
    };
    alone.handle(Event::Peer {
        from: VolcanoId(2),
        message: Box::new(PeerMessage::StepDone(done)),
        payload: Bytes::new(),
    })
}

/// The first one is refused; the second is on its way still, and may find the name free when the flare is
/// gone.
#[test]
fn an_insert_that_was_sent_twice_and_refused_is_taken_back() {
    let mut alone = Alone::new();
    let root = alone.root();
    alone.lose_upper_half();
    alone.handle(Event::PeerUp(VolcanoId(2)));
    let (parent, key) = (FlareRef(Key([0xf0; 20]), root.inc()), Key([0x10; 20]));
    let mut twice = |twice: bool| {
        let first = alone.send(key, new_file(parent, "/dir/file"));
        assert_eq!(steps(&first), [StepName::Insert]);
        assert!(replied(first).is_none());
        if twice {
            alone.time += LONG_MS;
            assert_eq!(steps(&alone.handle(Event::Tick)), [StepName::Insert]);
        }
        let tx = TxId(alone.session, Slot(0), SlotSeq(alone.seq), 0);
        let mut answer = |step, result| answered(&mut alone, tx, (key, parent.key()), step, result);
        let told = answer(StepName::Insert, Err(OpError::Exists));
        if !twice {
            return replied(told);
        }
        // Behind both: nobody hears of it before.
        assert_eq!(steps(&told), [StepName::Remove]);
        assert!(replied(told).is_none());
        replied(answer(StepName::Remove, Ok(StepAnswer::Removed(None))))
    };
    assert_eq!(twice(false), Some(Err(OpError::Exists)));
    assert_eq!(twice(true), Some(Err(OpError::Exists)));
    assert_eq!(alone.engine.store.flare(key).unwrap(), None);
}

/// A removal is of one flare, and not of whoever has its path.
#[test]
fn a_removal_that_comes_after_the_path_was_born_again_does_nothing() {
    let mut alone = Alone::new();
    let root = alone.root();
    // Nobody has anything open from before.
    alone.time += SESSION_MS;
    let old = alone.create(root, "/file", Kind::File);
    let key = old.key();
    let unlink = Op::Unlink {
        flare: old,
        parent: root,
        name: last_name("/file"),
    };
    alone.ask(key, unlink).unwrap();
    let new = alone.create(root, "/file", Kind::File);
    assert_eq!(new.key(), key);
    assert_ne!(new, old);
    let tx = TxId(alone.session, Slot(3), SlotSeq(1), 0);
    let epoch = alone.engine.lava().epoch;
    let mut remove = |child: FlareRef| {
        let step = Step {
            tx,
            driver: key,
            key: ROOT,
            epoch,
            clock: 0,
            body: StepBody::Remove {
                dir: root,
                name: last_name("/file"),
                child,
                kind: Kind::File,
                child_uid: 0,
                cred: Credentials::root(),
            },
        };
        alone.hears(PeerMessage::Step(step));
        alone
            .engine
            .store
            .entry(ROOT, &last_name("/file"))
            .unwrap()
            .map(|entry| entry.child)
    };
    assert_eq!(remove(old), Some(new));
    assert_eq!(remove(new), None, "the step as such works");
}

/// A client has given a request up, perhaps, and used its slot for another one.
#[test]
fn a_change_that_comes_after_a_newer_one_of_its_slot_is_not_made() {
    let mut alone = Alone::new();
    let root = alone.root();
    let file = alone.create(root, "/file", Kind::File);
    let mode = |mode| {
        let change = SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        };
        Op::SetAttr(file, change)
    };
    let session = alone.session;
    let send = |alone: &mut Alone, seq: u64, op: Op| {
        let request = Request {
            session,
            slot: Slot(5),
            seq: SlotSeq(seq),
            clock: 0,
            epoch: Epoch(0),
            key: file.key(),
            hops: 0,
            cred: Credentials::root(),
            ops: vec![op],
        };
        let origin = Origin {
            token: 1_000 + seq,
            proxied: false,
        };
        let request = Box::new(request);
        let payload = Bytes::new();
        replied(alone.handle(Event::Request {
            origin,
            request,
            payload,
        }))
    };
    let now = |alone: &Alone| alone.engine.store.flare(file.key()).unwrap().unwrap().mode;
    assert!(matches!(
        send(&mut alone, 8, mode(0o600)),
        Some(Ok(Answer::Attr(_)))
    ));
    assert_eq!(
        send(&mut alone, 7, mode(0o777)),
        Some(Err(OpError::Overtaken))
    );
    assert_eq!(now(&alone), 0o600);
    // The same once more is not done once more: its answer was kept.
    alone.ask(file.key(), mode(0o640)).unwrap();
    assert!(matches!(
        send(&mut alone, 8, mode(0o600)),
        Some(Ok(Answer::Attr(attr))) if Attr::clone(&attr).mode == 0o600
    ));
    assert_eq!(now(&alone), 0o640);
}

/// Who asked is not known after a crash, and neither are their groups: a change is neither made
/// nor refused for good in their place.
#[test]
fn a_creation_that_a_crash_cut_off_is_decided_with_its_caller_only() {
    for asked_again in [false, true] {
        let mut alone = Alone::new();
        let root = alone.root();
        alone.lose_upper_half();
        alone.handle(Event::PeerUp(VolcanoId(2)));
        let (parent, key) = (FlareRef(Key([0xf0; 20]), root.inc()), Key([0x10; 20]));
        let op = new_file(parent, "/dir/file");
        assert_eq!(
            steps(&alone.send(key, op.clone())),
            [StepName::Insert],
            "cut off before it comes to an answer"
        );
        let tx = TxId(alone.session, Slot(0), SlotSeq(alone.seq), 0);
        alone.restart();
        alone.handle(Event::Serve);
        alone.handle(Event::PeerUp(VolcanoId(2)));
        let inserts = |actions: &[Action]| -> Vec<Option<Credentials>> {
            let insert = |action: &Action| match action {
                Action::Send { message, .. } => match &**message {
                    PeerMessage::Step(step) => match &step.body {
                        StepBody::Insert { cred, .. } => Some(cred.clone()),
                        _ => None,
                    },
                    _ => None,
                },
                _ => None,
            };
            actions.iter().filter_map(insert).collect()
        };
        let asks = (0..20).find_map(|_| {
            alone.time += LONG_MS;
            let asks = inserts(&alone.handle(Event::Tick));
            (!asks.is_empty()).then_some(asks)
        });
        assert_eq!(asks, Some(vec![None]), "only whether it is there");
        let repeat = |alone: &mut Alone| {
            alone.seq -= 1;
            alone.send(key, op.clone())
        };
        if asked_again {
            assert!(replied(repeat(&mut alone)).is_none());
        }
        let answer = |alone: &mut Alone, step, result| {
            answered(alone, tx, (key, parent.key()), step, result)
        };
        let told = answer(&mut alone, StepName::Insert, Err(OpError::NotFound));
        assert_eq!(steps(&told), [StepName::Remove]);
        let removed = Ok(StepAnswer::Removed(None));
        let mut told = answer(&mut alone, StepName::Remove, removed);
        if !asked_again {
            assert_eq!(alone.engine.store.flare(key).unwrap(), None);
            told = repeat(&mut alone);
        }
        assert_eq!(inserts(&told), [Some(Credentials::root())]);
        assert!(replied(told).is_none());
    }
}

/// An owner that was stopped and replaced, and does not know it yet, drives on what its heir may have
/// brought to another end.
#[test]
fn a_step_of_an_owner_that_was_replaced_is_not_done() {
    let mut alone = Alone::new();
    let root = alone.root();
    let file = alone.create(root, "/file", Kind::File);
    let row = alone.engine.store.flare(file.key()).unwrap().unwrap();
    let before = alone.engine.lava().epoch;
    alone.lose_upper_half();
    alone.handle(Event::PeerUp(VolcanoId(2)));
    // Nobody has anything open or cached from before.
    alone.time += SESSION_MS;
    let insert = |epoch: Epoch, name: &str, seq: u64| {
        let mut attr = Attr::of(&row, 0);
        attr.flare = FlareRef(Key([0xf0; 20]), root.inc());
        PeerMessage::Step(Step {
            tx: TxId(SessionId(1), Slot(3), SlotSeq(seq), 0),
            driver: Key([0xf0; 20]),
            key: ROOT,
            epoch,
            clock: 0,
            body: StepBody::Insert {
                dir: root,
                name: last_name(name),
                attr: Box::new(attr),
                cred: Some(Credentials::root()),
                inherit: None,
            },
        })
    };
    let now = alone.engine.lava().epoch;
    let late = alone.hears(insert(before, "late", 1));
    assert!(late.0.is_empty(), "{late:?}");
    let fresh = alone.hears(insert(now, "fresh", 2));
    assert!(
        fresh
            .0
            .iter()
            .any(|m| matches!(m, PeerMessage::StepDone(done) if done.result.is_ok())),
        "{fresh:?}"
    );
    let entry = |name| alone.engine.store.entry(ROOT, &last_name(name)).unwrap();
    assert!(entry("late").is_none());
    assert!(entry("fresh").is_some());
}

/// A rename that was given up and is tried again may exchange with another flare than the first time.
#[test]
fn what_an_entry_becomes_is_that_of_the_last_try() {
    let mut alone = Alone::new();
    let root = alone.root();
    let child = alone.create(root, "/file", Kind::File);
    alone.lose_upper_half();
    alone.handle(Event::PeerUp(VolcanoId(2)));
    alone.time += SESSION_MS;
    let epoch = alone.engine.lava().epoch;
    let name = last_name("/file");
    let mut step = |body| {
        let step = Step {
            tx: TxId(SessionId(1), Slot(3), SlotSeq(1), 0),
            driver: Key([0xf0; 20]),
            key: ROOT,
            epoch,
            clock: 0,
            body,
        };
        let (sent, _) = alone.hears(PeerMessage::Step(step));
        let done =
            |m: &PeerMessage| matches!(m, PeerMessage::StepDone(done) if done.result.is_ok());
        assert!(sent.iter().any(done), "{sent:?}");
        alone.engine.store.entry(ROOT, &name).unwrap()
    };
    let prepare = |other: Key| StepBody::PrepareEntry {
        dir: root,
        name: last_name("/file"),
        child,
        becomes: Some((FlareRef(other, root.inc()), Kind::File)),
        cred: Credentials::root(),
    };
    let (first, second) = (Key([0xf1; 20]), Key([0xf2; 20]));
    step(prepare(first));
    step(prepare(second));
    let entry = step(StepBody::Finish(Decision::Committed));
    assert_eq!(entry.unwrap().child.key(), second);
}

/// A rename is finished at the flare first, which gets a link of the old name again, before the
/// directory hears that the old entry goes.
#[test]
fn an_entry_that_goes_is_not_there_for_a_link_that_comes() {
    let mut alone = Alone::new();
    let root = alone.root();
    let file = alone.create(root, "/file", Kind::File);
    let row = alone.engine.store.flare(file.key()).unwrap().unwrap();
    alone.lose_upper_half();
    alone.handle(Event::PeerUp(VolcanoId(2)));
    alone.time += SESSION_MS;
    let epoch = alone.engine.lava().epoch;
    let name = last_name("/file");
    let mut step = |number, body| {
        let step = Step {
            tx: TxId(SessionId(1), Slot(3), SlotSeq(number), 0),
            driver: Key([0xf0; 20]),
            key: ROOT,
            epoch,
            clock: 0,
            body,
        };
        let (sent, _) = alone.hears(PeerMessage::Step(step));
        let done = sent.into_iter().filter_map(|message| match message {
            PeerMessage::StepDone(done) => Some((done.step, done.result.is_ok())),
            _ => None,
        });
        let entry = alone.engine.store.entry(ROOT, &name).unwrap();
        (done.collect::<Vec<_>>(), entry.map(|entry| entry.child))
    };
    let prepare = StepBody::PrepareEntry {
        dir: root,
        name: last_name("/file"),
        child: file,
        becomes: None,
        cred: Credentials::root(),
    };
    assert_eq!(step(1, prepare).0, [(StepName::PrepareEntry, true)]);
    let insert = StepBody::Insert {
        dir: root,
        name: last_name("/file"),
        attr: Box::new(Attr::of(&row, 0)),
        cred: Some(Credentials::root()),
        inherit: None,
    };
    assert_eq!(step(2, insert), (Vec::new(), Some(file)), "it waits");
    let (told, entry) = step(1, StepBody::Finish(Decision::Committed));
    assert!(told.contains(&(StepName::Insert, true)), "{told:?}");
    assert_eq!(entry, Some(file));
}
