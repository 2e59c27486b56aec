//! The table against a model that knows each byte, and the queue against its rules.

use std::collections::BTreeMap;

use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::{collection, prop_assert, prop_assert_eq, proptest};

use super::table::{LockOutcome, LockTable};
use super::{Lock, LockKind, LockOwner, Range, Ranges};
use crate::error::OpError;
use crate::ids::{FlareRef, SessionId, Stamp};
use crate::key::Key;
use crate::time::Moment;

const BYTES: u64 = 12;
/// Stands for the last byte that there is, so that the ends of the range of numbers are tried.
const LAST: u64 = BYTES - 1;

fn owner(number: u64) -> LockOwner {
    LockOwner(SessionId(number % 2), number)
}

fn flare(number: u8) -> FlareRef {
    FlareRef(Key([number; 20]), Stamp::default())
}

fn lock(who: u64, kind: LockKind, start: u64, end: u64) -> Lock {
    Lock {
        owner: owner(who),
        pid: who as u32,
        kind,
        range: Range { start, end },
    }
}

/// Byte 11 of the model is all from there to the last one.
fn real(byte: u64, is_end: bool) -> u64 {
    match byte == LAST && is_end {
        true => u64::MAX,
        false => byte,
    }
}

fn kinds() -> impl Strategy<Value = Option<LockKind>> {
    prop_oneof![
        Just(None),
        Just(Some(LockKind::Read)),
        Just(Some(LockKind::Write))
    ]
}

fn spans() -> impl Strategy<Value = (u64, u64)> {
    (0..BYTES, 0..BYTES).prop_map(|(a, b)| (a.min(b), a.max(b)))
}

type Bytes = BTreeMap<(LockOwner, u64), LockKind>;

fn bytes_of(ranges: &Ranges) -> Bytes {
    let mut bytes = Bytes::new();
    for lock in ranges.iter() {
        for byte in (0..BYTES).filter(|byte| lock.range.overlaps(one(*byte))) {
            let twice = bytes.insert((lock.owner, byte), lock.kind);
            assert_eq!(twice, None, "{lock:?}");
        }
    }
    bytes
}

fn one(byte: u64) -> Range {
    Range {
        start: byte,
        end: real(byte, true),
    }
}

proptest! {
    #[test]
    fn ranges_are_their_bytes(
        steps in collection::vec((0..3u64, spans(), kinds()), 1..40),
        probe in (0..3u64, spans(), any::<bool>()),
    ) {
        let (mut ranges, mut model) = (Ranges::default(), Bytes::new());
        for (who, (start, end), kind) in steps {
            let range = Range { start, end: real(end, true) };
            let most = ranges.len() + ranges.growth(owner(who), range, kind);
            ranges.set(owner(who), 1, range, kind);
            prop_assert!(ranges.len() <= most);
            for byte in start..=end {
                match kind {
                    Some(kind) => model.insert((owner(who), byte), kind),
                    None => model.remove(&(owner(who), byte)),
                };
            }
            prop_assert_eq!(bytes_of(&ranges), model.clone());
            // Sorted, and as few as can be.
            for pair in ranges.iter().collect::<Vec<_>>().windows(2) {
                let (a, b) = (pair[0], pair[1]);
                prop_assert!((a.owner, a.range) < (b.owner, b.range));
                let touch = a.range.end.checked_add(1) == Some(b.range.start);
                prop_assert!(a.owner != b.owner || a.kind != b.kind || !touch);
            }
        }
        let (who, (start, end), write) = probe;
        let kind = if write { LockKind::Write } else { LockKind::Read };
        let wanted = Lock { range: Range { start, end: real(end, true) }, ..lock(who, kind, 0, 0) };
        let mine = |byte| model.get(&(owner(who), byte));
        let covered = (start..=end).all(|byte| mine(byte).is_some_and(|held| *held >= kind));
        prop_assert_eq!(ranges.covers(&wanted), covered);
        let others = (start..=end).any(|byte| model.iter().any(|((by, at), held)| {
            *at == byte && *by != owner(who) && (write || *held == LockKind::Write)
        }));
        prop_assert_eq!(ranges.conflicts(&wanted).next().is_some(), others);
        let mut next = Some(start);
        for (range, kind) in ranges.pieces(owner(who), wanted.range) {
            prop_assert_eq!(Some(range.start), next);
            for byte in (0..BYTES).filter(|byte| range.overlaps(one(*byte))) {
                prop_assert_eq!(mine(byte).copied(), kind);
            }
            next = range.end.checked_add(1);
        }
        prop_assert_eq!(next, real(end, true).checked_add(1));
    }

    /// Whatever is asked in whatever order: no two hold what they cannot both hold, whoever waits
    /// has a reason, and when everybody has let go nothing is left.
    #[test]
    fn nobody_waits_without_a_reason(
        steps in collection::vec((0..4u64, 0..2u8, spans(), kinds(), 0..4u8), 1..60),
    ) {
        let mut table = LockTable::default();
        let mut waits: BTreeMap<u64, (FlareRef, Lock)> = BTreeMap::new();
        for (at, (who, file, (start, end), kind, how)) in steps.into_iter().enumerate() {
            let (number, now) = (at as u64, Moment(at as u64));
            let file = flare(file);
            let range = Range { start, end };
            match kind {
                None if how == 0 => {
                    let mine = waits.iter().find(|(_, (_, lock))| lock.owner == owner(who));
                    if let Some((number, (file, lock))) = mine.map(|(n, w)| (*n, *w)) {
                        prop_assert!(table.cancel(file, lock.owner.0, number));
                        waits.remove(&number);
                    }
                }
                None => table.unlock(file, owner(who), range).unwrap(),
                Some(kind) => {
                    let wanted = lock(who, kind, start, end);
                    let conflict = table.test(file, &wanted);
                    let wait = (how > 1).then_some(number);
                    match table.set(file, wanted, wait, now) {
                        Ok(LockOutcome::Granted) => {
                            prop_assert_eq!(conflict, None);
                            // An older wait of the same owner may have ended with it.
                            let any = Lock { kind: LockKind::Read, ..wanted };
                            prop_assert!(table.holds(file, &any));
                        }
                        Ok(LockOutcome::Waits) => {
                            waits.insert(number, (file, wanted));
                        }
                        Err(OpError::WouldBlock) => {
                            prop_assert!(wait.is_none() && conflict.is_some());
                        }
                        Err(OpError::Deadlock) => prop_assert!(wait.is_some()),
                        Err(other) => panic!("{other:?}"),
                    }
                }
            }
            for granted in table.take_granted() {
                let (file, lock) = waits.remove(&granted.wait).unwrap();
                prop_assert_eq!((granted.flare, granted.session), (file, lock.owner.0));
                // Another wait of the same owner may have ended too, with a weaker lock.
                let any = Lock { kind: LockKind::Read, ..lock };
                prop_assert!(table.holds(file, &any));
            }
            prop_assert_eq!(table.len().1, waits.len());
            for (number, (file, lock)) in &waits {
                let (by, blockers) = table.blockers(*file, lock.owner.0, *number).unwrap();
                prop_assert_eq!(by, lock.owner);
                prop_assert!(!blockers.is_empty() && !blockers.contains(&by));
            }
        }
        table.end_sessions(&[SessionId(0), SessionId(1)]);
        prop_assert!(table.is_empty());
        prop_assert_eq!(table.len(), (0, 0));
    }
}

fn granted(table: &mut LockTable) -> Vec<u64> {
    let granted = table.take_granted();
    granted.iter().map(|granted| granted.wait).collect()
}

#[test]
fn a_reader_stays_behind_a_writer_that_waits() {
    let (mut table, file, now) = (LockTable::default(), flare(1), Moment(0));
    let read = |who| lock(who, LockKind::Read, 0, 9);
    let write = |who| lock(who, LockKind::Write, 5, 9);
    assert_eq!(
        table.set(file, read(1), None, now),
        Ok(LockOutcome::Granted)
    );
    assert_eq!(
        table.set(file, write(2), Some(1), now),
        Ok(LockOutcome::Waits)
    );
    assert_eq!(
        table.set(file, read(3), Some(2), now),
        Ok(LockOutcome::Waits)
    );
    // One that has nothing to do with the writer goes on.
    let apart = lock(4, LockKind::Read, 0, 4);
    assert_eq!(
        table.set(file, apart, Some(3), now),
        Ok(LockOutcome::Granted)
    );
    table.unlock(file, owner(1), Range::ALL).unwrap();
    assert_eq!(granted(&mut table), [1]);
    // The same wait asked again says the same.
    assert_eq!(
        table.set(file, write(2), Some(1), now),
        Ok(LockOutcome::Granted)
    );
    table.unlock(file, owner(2), Range::ALL).unwrap();
    assert_eq!(granted(&mut table), [2]);
}

#[test]
fn an_upgrade_does_not_queue_behind_those_who_wait_for_it() {
    let (mut table, file, now) = (LockTable::default(), flare(1), Moment(0));
    let read = |who| lock(who, LockKind::Read, 0, 9);
    let write = |who| lock(who, LockKind::Write, 0, 9);
    table.set(file, read(1), None, now).unwrap();
    assert_eq!(
        table.set(file, write(2), Some(1), now),
        Ok(LockOutcome::Waits)
    );
    assert_eq!(
        table.set(file, write(1), Some(2), now),
        Ok(LockOutcome::Granted)
    );
    // Two that want to upgrade wait for each other.
    table.unlock(file, owner(1), Range::ALL).unwrap();
    assert_eq!(granted(&mut table), [1]);
    table.unlock(file, owner(2), Range::ALL).unwrap();
    table.set(file, read(1), None, now).unwrap();
    table.set(file, read(2), None, now).unwrap();
    assert_eq!(
        table.set(file, write(1), Some(3), now),
        Ok(LockOutcome::Waits)
    );
    assert_eq!(
        table.set(file, write(2), Some(4), now),
        Err(OpError::Deadlock)
    );
    table.unlock(file, owner(2), Range::ALL).unwrap();
    assert_eq!(granted(&mut table), [3]);
}

#[test]
fn a_ring_over_three_files_is_refused() {
    let (mut table, now) = (LockTable::default(), Moment(0));
    let write = |who| lock(who, LockKind::Write, 0, 0);
    for who in 1..=3 {
        table.set(flare(who as u8), write(who), None, now).unwrap();
    }
    assert_eq!(
        table.set(flare(2), write(1), Some(1), now),
        Ok(LockOutcome::Waits)
    );
    assert_eq!(
        table.set(flare(3), write(2), Some(2), now),
        Ok(LockOutcome::Waits)
    );
    assert_eq!(
        table.set(flare(1), write(3), Some(3), now),
        Err(OpError::Deadlock)
    );
}

#[test]
fn a_claim_takes_nothing_from_others() {
    let (mut table, file) = (LockTable::default(), flare(1));
    assert!(table.claim(file, lock(1, LockKind::Write, 0, 9)));
    assert!(table.claim(file, lock(1, LockKind::Write, 0, 9)));
    assert!(!table.claim(file, lock(2, LockKind::Read, 5, 14)));
    assert!(!table.holds(file, &lock(2, LockKind::Read, 5, 14)));
    assert!(!table.holds(file, &lock(2, LockKind::Read, 10, 14)));
    assert!(table.holds(file, &lock(1, LockKind::Write, 0, 9)));
    // What has become weaker since stays so.
    table
        .set(file, lock(1, LockKind::Read, 0, 9), None, Moment(0))
        .unwrap();
    assert!(table.claim(file, lock(1, LockKind::Write, 0, 9)));
    assert!(!table.holds(file, &lock(1, LockKind::Write, 0, 9)));
}

#[test]
fn who_does_not_ask_any_more_does_not_wait() {
    let (mut table, file) = (LockTable::default(), flare(1));
    let write = |who| lock(who, LockKind::Write, 0, 9);
    table.set(file, write(1), None, Moment(0)).unwrap();
    for (who, at) in [(2, 0), (3, 5)] {
        let waits = table.set(file, write(who), Some(who), Moment(at));
        assert_eq!(waits, Ok(LockOutcome::Waits));
    }
    table.sweep(Moment(5));
    table.unlock(file, owner(1), Range::ALL).unwrap();
    assert_eq!(granted(&mut table), [3]);
}
