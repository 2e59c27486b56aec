//! Owners and copies that come back, and the fence.

use super::*;
use crate::limits::{LEASE_GRACE_MS, LEASE_MS};
use crate::op::{SetAttr, XattrMode};
use crate::wire::codec;

/// The second volcano joins and is to get a copy.
fn begin_copy(alone: &mut Alone) {
    let (slice, volcano) = (SliceId(1), VolcanoId(2));
    alone.change(Change::Join {
        volcano: info(2),
        after: VolcanoId(1),
    });
    alone.change(Change::AddCopy { slice, volcano });
}

/// A copy that was away goes on from where it was, if that is the owner's own past. One whose last
/// operation is another than the owner's, or beyond it, has what was never acknowledged.
#[test]
fn an_old_copy_goes_on_only_from_the_owners_past() {
    let mut alone = Alone::new();
    let (slice, volcano) = (SliceId(1), VolcanoId(2));
    let root = alone.root();
    alone.create(root, "/a", Kind::File);
    let (epoch, last) = alone.engine.store().position(slice).unwrap().unwrap();
    begin_copy(&mut alone);
    alone.handle(Event::PeerUp(volcano));
    let mut filled = |have| {
        let have = Some(have);
        let (sent, _) = alone.hears(PeerMessage::ShipFrom { slice, have });
        sent.iter()
            .any(|message| matches!(message, PeerMessage::CopyBegin { .. }))
    };
    assert!(!filled((epoch, last)));
    assert!(!filled((epoch, Seq(last.0 - 1))));
    assert!(filled((epoch.next(), last)), "decided by another owner");
    assert!(filled((epoch, last.next())), "never decided here");
}

/// Who has no lease any more, or one of a lava that it does not know, may have been replaced.
#[test]
fn an_owner_without_a_lease_answers_nobody() {
    let mut alone = Alone::new();
    let epoch = alone.engine.lava().epoch;
    let lease = |epoch, until| Event::VolcanoLease {
        epoch,
        until: Moment(until),
    };
    assert!(alone.ask(ROOT, Op::GetRoot).is_ok());
    alone.handle(lease(epoch, 0));
    assert_eq!(alone.ask(ROOT, Op::GetRoot), Err(OpError::TryAgain));
    alone.handle(lease(epoch.next(), u64::MAX));
    assert_eq!(alone.ask(ROOT, Op::GetRoot), Err(OpError::TryAgain));
    alone.change(Change::OpenSession { label: "m".into() });
    assert!(alone.ask(ROOT, Op::GetRoot).is_ok());
}

/// A copy that counts may lack what was acknowledged before it did: it is proposed to be in sync
/// only when it has that too.
#[test]
fn a_copy_is_proposed_with_all_that_was_acknowledged_without_it() {
    let mut alone = Alone::new();
    let (slice, volcano) = (SliceId(1), VolcanoId(2));
    let root = alone.root();
    begin_copy(&mut alone);
    alone.handle(Event::PeerUp(volcano));
    let (sent, _) = alone.hears(PeerMessage::ShipFrom { slice, have: None });
    let filled = sent.iter().find_map(|message| match message {
        PeerMessage::CopyRows { fill, rows, .. } => Some((*fill, rows.seq)),
        _ => None,
    });
    let (fill, seq) = filled.expect("rows");
    // Answered while the copy is on its way: nobody waits for it.
    alone.create(root, "/a", Kind::File);
    let (epoch, last) = alone.engine.store().position(slice).unwrap().unwrap();
    assert!(seq < last);
    let (_, proposed) = alone.hears(PeerMessage::CopyAck {
        slice,
        fill,
        cursor: Key::MAX,
        done: Some(seq),
    });
    assert_eq!(proposed, []);
    let seq = last;
    let (_, proposed) = alone.hears(PeerMessage::ShipAck { slice, epoch, seq });
    assert_eq!(proposed, [Change::CopyInSync { slice, volcano }]);
}

/// A copy of everything on the second volcano, in sync and silent from now on.
fn with_silent_copy() -> Alone {
    let mut alone = Alone::new();
    let (slice, volcano) = (SliceId(1), VolcanoId(2));
    begin_copy(&mut alone);
    alone.change(Change::CopyInSync { slice, volcano });
    alone
}

fn acknowledge(alone: &mut Alone) -> Vec<Action> {
    let slice = SliceId(1);
    let (epoch, seq) = alone.engine.store().position(slice).unwrap().unwrap();
    alone.handle(Event::Peer {
        from: VolcanoId(2),
        message: Box::new(PeerMessage::ShipAck { slice, epoch, seq }),
        payload: Bytes::new(),
    })
}

fn is_answered(actions: &[Action]) -> bool {
    let reply = |action: &Action| matches!(action, Action::Reply { .. });
    actions.iter().any(reply)
}

/// Who asks again what was done here, and not yet by the copy, waits for the copy too: the owner may
/// die, and the copy in its place would know nothing of it.
#[test]
fn a_repeated_request_waits_for_the_copies_as_the_first_did() {
    let mut alone = with_silent_copy();
    let flare = match alone.engine.store().flare(ROOT).unwrap() {
        Some(row) => row.flare_ref(),
        None => panic!("there is a root"),
    };
    acknowledge(&mut alone);
    let change = || {
        let (name, value) = (b"user.a".to_vec(), b"1".to_vec());
        Op::SetXattr(flare, name, value, XattrMode::Either)
    };
    let first = alone.send(ROOT, change());
    assert!(!is_answered(&first));
    alone.seq -= 1;
    let again = alone.send(ROOT, change());
    assert!(!is_answered(&again), "{again:?}");
    assert!(is_answered(&acknowledge(&mut alone)));
}

/// Nor is anything told after a start before the copies have said that they have it.
#[test]
fn after_a_start_answers_wait_for_the_copies() {
    let mut alone = with_silent_copy();
    let slice = SliceId(1);
    let have = alone.engine.store().position(slice).unwrap();
    alone.restart();
    alone.handle(Event::PeerUp(VolcanoId(2)));
    alone.handle(Event::Serve);
    assert_eq!(alone.ask(ROOT, Op::GetRoot), Err(OpError::TryAgain));
    alone.hears(PeerMessage::ShipFrom { slice, have });
    assert!(is_answered(&alone.send(ROOT, Op::GetRoot)));
}

/// A host without power forgets what it did not sync, and its copies do not: whoever has the longest
/// history becomes the owner, and nothing is ordered before that is known.
#[test]
fn an_owner_that_has_lost_its_last_operations_gives_way_to_a_copy_that_has_them() {
    let mut alone = with_silent_copy();
    let (slice, to) = (SliceId(1), VolcanoId(2));
    let (epoch, last) = alone.engine.store().position(slice).unwrap().unwrap();
    alone.restart();
    alone.handle(Event::PeerUp(to));
    alone.handle(Event::Serve);
    let have = Some((epoch, Seq(last.0 + 5)));
    let (sent, proposed) = alone.hears(PeerMessage::ShipFrom { slice, have });
    assert_eq!(proposed, [Change::Yield { slice, to }]);
    assert_eq!(sent, [], "the copy is not emptied");
    assert_eq!(alone.ask(ROOT, Op::GetRoot), Err(OpError::TryAgain));
    alone.change(Change::Yield { slice, to });
    let now = alone.engine.lava().slice(slice).unwrap().clone();
    assert_eq!((now.owner, now.home, now.seized), (to, VolcanoId(1), true));
    assert_eq!(
        now.copy_on(VolcanoId(1)).map(|copy| copy.in_sync),
        Some(false)
    );
    assert_eq!(now.copy_on(to), None);
}

/// Rows of one key may be more than a message holds: they come in parts, and nothing is left out.
#[test]
fn a_copy_gets_rows_that_do_not_fit_into_one_message() {
    const COUNT: usize = 100;
    let mut alone = Alone::new();
    let (slice, volcano) = (SliceId(1), VolcanoId(2));
    let root = alone.root();
    for number in 0..COUNT {
        let (name, value) = (format!("user.{number}").into_bytes(), vec![7; 60_000]);
        let set = Op::SetXattr(root, name, value, XattrMode::Either);
        assert_eq!(alone.ask(ROOT, set), Ok(Answer::Done));
    }
    let (_, last) = alone.engine.store().position(slice).unwrap().unwrap();
    begin_copy(&mut alone);
    alone.handle(Event::PeerUp(volcano));
    let (sent, _) = alone.hears(PeerMessage::ShipFrom { slice, have: None });
    assert!(sent.iter().all(|message| codec::encode(message).is_ok()));
    let (mut xattrs, mut ends) = (0, Vec::new());
    for message in &sent {
        if let PeerMessage::CopyRows {
            rows, done, more, ..
        } = message
        {
            let is_xattr = |effect: &&Effect| matches!(effect, Effect::PutXattr(..));
            xattrs += rows.effects.iter().filter(is_xattr).count();
            ends.push((*done, *more));
        }
    }
    assert_eq!(xattrs, COUNT);
    assert!(ends.len() > 3);
    assert_eq!(
        ends.pop(),
        Some((false, false)),
        "acknowledged, then the next"
    );
    assert!(ends.iter().all(|end| *end == (false, true)));

    // One that was away gets operations that do not fit into one message either.
    let have = Some((Epoch(2), Seq(last.0 - COUNT as u64)));
    let mut heard = PeerMessage::ShipFrom { slice, have };
    let mut records = 0;
    loop {
        let (sent, _) = alone.hears(heard);
        assert!(sent.iter().all(|message| codec::encode(message).is_ok()));
        let shipped = sent.iter().find_map(|message| match message {
            PeerMessage::Ship { records, .. } => records.last().map(|last| (records.len(), last)),
            _ => None,
        });
        let Some((count, at)) = shipped else { break };
        records += count;
        let (epoch, seq) = (at.epoch, at.seq);
        heard = PeerMessage::ShipAck { slice, epoch, seq };
    }
    assert_eq!(records, COUNT);
}

/// What was under way when a slice was cut may have changed keys of both parts, and is acknowledged
/// as an operation of one: a copy that has not got that far counts for both parts, or for none.
#[test]
fn a_copy_without_the_last_cut_is_not_removed() {
    let mut alone = Alone::new();
    let root = alone.root();
    let (slice, second, third) = (SliceId(1), VolcanoId(2), VolcanoId(3));
    begin_copy(&mut alone);
    // The third comes between: the copy of the second is spare as soon as that of the third counts.
    for change in [
        Change::CopyInSync {
            slice,
            volcano: second,
        },
        Change::Join {
            volcano: info(3),
            after: VolcanoId(1),
        },
        Change::AddCopy {
            slice,
            volcano: third,
        },
        Change::CopyInSync {
            slice,
            volcano: third,
        },
    ] {
        alone.change(change);
    }
    let mut at = Key::MIN;
    at.0[0] = 0x80;
    alone.time += 1_000;
    let create = new_file(root, "/file");
    assert!(replied(alone.send(Key::of_path(b"/file"), create)).is_none());
    alone.change(Change::Cut { slice, at });
    let removes = |alone: &mut Alone| -> Vec<Change> {
        let mut proposed = Vec::new();
        for _ in 0..5 {
            alone.time += 1_000;
            for action in alone.handle(Event::Tick) {
                if let Action::Propose { change, .. } = action {
                    alone.handle(Event::Proposed {
                        change: change.clone(),
                        accepted: false,
                    });
                    proposed.push(*change);
                }
            }
        }
        proposed.retain(|change| matches!(change, Change::RemoveCopy { .. }));
        proposed
    };
    assert_eq!(removes(&mut alone), []);
    for from in [third, second] {
        for part in [slice, SliceId(2)] {
            let (epoch, seq) = alone.engine.store().position(part).unwrap().unwrap();
            let message = PeerMessage::ShipAck {
                slice: part,
                epoch,
                seq,
            };
            alone.handle(Event::Peer {
                from,
                message: Box::new(message),
                payload: Bytes::new(),
            });
        }
    }
    let remove = Change::RemoveCopy {
        slice,
        volcano: second,
    };
    assert!(removes(&mut alone).contains(&remove));
}

/// A copy that was away gets the history of a slice from before a cut while it has the part that was
/// cut off from elsewhere already: what is older than that changes nothing in it. Nor does the cut make
/// it a whole copy of the part when that is not ours, and its rows are gone.
#[test]
fn a_history_from_before_a_cut_leaves_the_other_part_alone() {
    for ours in [true, false] {
        before_a_cut(ours);
    }
}

fn before_a_cut(ours: bool) {
    let mut alone = Alone::new();
    let root = alone.root();
    let upper = (0..)
        .map(|n| format!("/{n}"))
        .find(|path| Key::of_path(path.as_bytes()).0[0] >= 0x80);
    let file = alone.create(root, &upper.unwrap(), Kind::File);
    let row = alone.engine.store().flare(file.key()).unwrap().unwrap();
    alone.lose_upper_half();
    let (lower, part, owner) = (SliceId(1), SliceId(2), VolcanoId(2));
    for change in [
        Change::AddCopy {
            slice: lower,
            volcano: owner,
        },
        Change::CopyInSync {
            slice: lower,
            volcano: owner,
        },
        Change::MoveOwner {
            slice: lower,
            to: owner,
        },
    ] {
        alone.change(change);
    }
    if !ours {
        let volcano = VolcanoId(1);
        let slice = part;
        alone.change(Change::RemoveCopy { slice, volcano });
        for _ in 0..5 {
            alone.time += 1_000;
            alone.handle(Event::Tick);
        }
    }
    let mut old = row.clone();
    old.mode = 0o600;
    let row = Some(row).filter(|_| ours);
    let (_, seq) = alone.engine.store().position(lower).unwrap().unwrap();
    let before = alone.engine.store().position(part).unwrap();
    assert_eq!(before.is_some(), ours);
    let epoch = alone.engine.lava().epoch;
    let (start, end) = (Key::MIN, Key::MAX);
    let record = crate::effect::Record {
        slice: lower,
        epoch,
        seq: seq.next(),
        clock: 0,
        effects: vec![
            Effect::PutFlare(Box::new(old)),
            Effect::Cut {
                to: part,
                start,
                end,
                epoch,
            },
        ],
    };
    let (sent, _) = alone.hears(PeerMessage::Ship {
        slice: lower,
        epoch,
        records: vec![record],
    });
    let acked = |message: &PeerMessage| matches!(message, PeerMessage::ShipAck { seq: at, .. } if *at == seq.next());
    assert!(sent.iter().any(acked), "{sent:?}");
    let now = alone.engine.store().flare(file.key()).unwrap();
    assert_eq!(now, row);
    assert_eq!(alone.engine.store().position(part).unwrap(), before);
}

/// The owner has cut a slice and died, and we hear of both at once: what mounts may show of the part
/// that was cut off, by leases of the dead one, holds changes up there too.
#[test]
fn leases_of_a_dead_owner_hold_up_changes_in_what_it_had_cut_off() {
    let mut alone = Alone::new();
    let root = alone.root();
    let mut upper = (0..).map(|n| format!("/{n}"));
    let upper = upper.find(|path| Key::of_path(path.as_bytes()).0[0] >= 0x80);
    let file = alone.create(root, &upper.unwrap(), Kind::File);
    let (slice, owner) = (SliceId(1), VolcanoId(2));
    begin_copy(&mut alone);
    for change in [
        Change::CopyInSync {
            slice,
            volcano: owner,
        },
        Change::MoveOwner { slice, to: owner },
        Change::OpenSession { label: "b".into() },
    ] {
        alone.change(change);
    }
    let mut at = Key::MIN;
    at.0[0] = 0x80;
    let lava = alone
        .engine
        .lava()
        .apply(&Change::Cut { slice, at })
        .unwrap();
    let lava = lava.apply(&Change::Down(owner)).unwrap();
    assert!(lava.slices.iter().all(|part| part.owner == VolcanoId(1)));
    alone.handle(Event::Lava(Box::new(lava)));
    let change = SetAttr {
        mode: Some(0o600),
        ..SetAttr::default()
    };
    let set = Op::SetAttr(file, change);
    assert!(replied(alone.send(file.key(), set)).is_none());
    alone.time += LEASE_MS + LEASE_GRACE_MS + 1_000;
    let told = (0..5).find_map(|_| {
        alone.time += 1_000;
        replied(alone.handle(Event::Tick))
    });
    assert!(matches!(told, Some(Ok(_))), "{told:?}");
}
