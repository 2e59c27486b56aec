//! Owners and copies that come back, and the fence.

use super::*;

/// A copy that was away goes on from where it was, if that is the owner's own past. One whose last
/// operation is another than the owner's, or beyond it, has what was never acknowledged.
#[test]
fn an_old_copy_goes_on_only_from_the_owners_past() {
    let mut alone = Alone::new();
    let (slice, volcano) = (SliceId(1), VolcanoId(2));
    let root = alone.root();
    alone.create(root, "/a", Kind::File);
    let (epoch, last) = alone.engine.store().position(slice).unwrap().unwrap();
    alone.change(Change::Join {
        volcano: info(2),
        after: VolcanoId(1),
    });
    alone.change(Change::AddCopy { slice, volcano });
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
    alone.change(Change::Join {
        volcano: info(2),
        after: VolcanoId(1),
    });
    alone.change(Change::AddCopy { slice, volcano });
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
