//! A founder and a follower over real files, and the rules of an entry.

use tempfile::TempDir;

use super::*;
use crate::agreement::{Change, Proposal};
use crate::ids::{Epoch, Generation, NetworkId, SliceId};
use crate::lava::samples::{after, apply, founded, info};

const W: VolcanoId = VolcanoId(1);
const G: VolcanoId = VolcanoId(2);

fn log() -> (TempDir, AgreementLog) {
    let dir = tempfile::tempdir().expect("a directory");
    let log = AgreementLog::open(dir.path()).expect("a new log");
    (dir, log)
}

fn founder() -> (TempDir, LavaLog) {
    let (dir, mut log) = log();
    log.bootstrap(NetworkId(7), &info("wallace", 1), 1)
        .expect("begins");
    let founder = LavaLog::new(log, Some(W)).expect("loads");
    (dir, founder)
}

fn reopened(dir: &TempDir, me: Option<VolcanoId>) -> LavaLog {
    let log = AgreementLog::open(dir.path()).expect("opens again");
    LavaLog::new(log, me).expect("loads")
}

fn open_session() -> Change {
    Change::OpenSession { label: "m".into() }
}

#[test]
fn what_was_learned_is_there_after_a_restart() {
    let (dir, mut wallace) = founder();
    let lava = apply(wallace.lava(), &[open_session()]);
    assert!(wallace.learn(&lava).expect("learns"));
    assert_eq!(wallace.lava(), &lava);
    drop(wallace);
    let mut wallace = reopened(&dir, Some(W));
    assert_eq!(wallace.lava(), &lava);
    assert_eq!(wallace.next_start(7).expect("counts").len(), 1);
}

#[test]
fn only_changes_of_slices_are_bound_to_their_epoch() {
    let lava = founded("wallace", 1);
    let entry = |epoch, change| Proposal::Change {
        epoch: Epoch(epoch),
        change: Box::new(change),
    };
    let lava = entry(1, open_session()).apply(&lava).expect("decided");
    let lava = entry(1, open_session()).apply(&lava).expect("not bound");
    let join = entry(1, after(&lava, "gromit", 1));
    let lava = join.apply(&lava).expect("not bound");
    let add = |epoch| {
        let (slice, volcano) = (SliceId(1), G);
        entry(epoch, Change::AddCopy { slice, volcano })
    };
    let moved = ChangeRefused::EpochMoved {
        proposed: Epoch(1),
        current: Epoch(4),
    };
    assert_eq!(add(1).apply(&lava), Err(moved));
    add(4).apply(&lava).expect("of this epoch");
    let again = Proposal::Found(Box::new(founded("gromit", 1)));
    assert!(again.apply(&lava).is_err(), "a log begins once");
    let first = Proposal::Found(Box::new(lava.clone()));
    assert_eq!(first.apply(&Lava::default()), Ok(lava));
}

#[test]
fn a_follower_learns_forward_only() {
    let (_dir, mut wallace) = founder();
    let first = wallace.lava().clone();
    let second = apply(&first, &[open_session()]);
    wallace.learn(&second).expect("learns");
    let (dir, log) = log();
    let mut gromit = LavaLog::new(log, None).expect("loads");
    assert!(gromit.learn(&second).expect("learns"));
    assert!(!gromit.learn(&second).expect("known"));
    assert!(!gromit.learn(&first).expect("older"));
    assert_eq!(gromit.lava(), &second);
    drop(gromit);
    assert_eq!(reopened(&dir, None).lava(), &second);
}

#[test]
fn foreign_and_damaged_lavas_are_refused() {
    let (_dir, mut wallace) = founder();
    let mine = wallace.lava().clone();
    let next = apply(&mine, &[open_session()]);

    let mut network = next.clone();
    network.network = NetworkId(0xabc);
    let mut generation = next.clone();
    generation.generation = Generation(2);
    let mut twin = mine.clone();
    twin.redundancy = 0;
    for (foreign, shown) in [
        (network, NetworkId(0xabc).to_string()),
        (generation, "generation 2".into()),
        (twin, "epoch 1".into()),
    ] {
        let refused = wallace.learn(&foreign).expect_err("foreign");
        assert!(matches!(refused, LearnError::Foreign(_)), "{refused}");
        assert!(refused.to_string().contains(&shown), "{refused}");
    }
    let mut damaged = next;
    damaged.slices.clear();
    assert!(matches!(
        wallace.learn(&damaged),
        Err(LearnError::Refused(_))
    ));
    assert!(matches!(
        wallace.learn(&Lava::default()),
        Err(LearnError::Refused(_))
    ));
    assert_eq!(wallace.lava(), &mine);
}

#[test]
fn a_join_keeps_both_or_nothing() {
    let (_dir, wallace) = founder();
    let alone = wallace.lava().clone();
    let lava = apply(&alone, &[after(&alone, "gromit", 1)]);
    let (_dir, log) = log();
    let mut gromit = LavaLog::new(log, None).expect("loads");
    gromit.joined(G, &alone).expect_err("not in that lava");
    assert_eq!((gromit.me(), gromit.lava().is_founded()), (None, false));

    // The lava was pushed before the answer to the join came.
    assert!(gromit.learn(&lava).expect("learns"));
    gromit.joined(G, &lava).expect("a member");
    assert_eq!(gromit.me(), Some(G));
    let saved = gromit.log().load_self().expect("loads");
    assert_eq!(saved, Some((G, info("gromit", 2))));
    gromit.joined(W, &lava).expect_err("it is gromit already");

    // So was an older one, which named this volcano before it knew that it was meant.
    let (_dir, other) = self::log();
    let mut other = LavaLog::new(other, None).expect("loads");
    assert!(other.learn(&lava).expect("learns"));
    let later = apply(&lava, &[open_session()]);
    other.joined(G, &later).expect("a member");
    let saved = other.log().load_self().expect("loads");
    assert_eq!(saved, Some((G, info("gromit", 2))));

    // An address that the lava says anew is kept too.
    let moved = info("gromit", 9);
    let lava = apply(&lava, &[Change::Update(G, Box::new(moved.clone()))]);
    assert!(gromit.learn(&lava).expect("learns"));
    assert_eq!(gromit.log().load_self().expect("loads"), Some((G, moved)));
}
