//! A coordinator and a follower over real files.

use tempfile::TempDir;

use super::*;
use crate::ids::{Generation, NetworkId, SliceId};
use crate::key::{self, Key};
use crate::lava::samples::{after, apply, info};

const W: VolcanoId = VolcanoId(1);
const G: VolcanoId = VolcanoId(2);

fn log() -> (TempDir, AgreementLog) {
    let dir = tempfile::tempdir().expect("a directory");
    let log = AgreementLog::open(dir.path()).expect("a new log");
    (dir, log)
}

fn coordinator() -> (TempDir, CoordinatorLog) {
    let (dir, mut log) = log();
    log.bootstrap(NetworkId(7), &info("wallace", 1), 1)
        .expect("begins");
    let coordinator = CoordinatorLog::new(log, Some(W)).expect("loads");
    (dir, coordinator)
}

fn reopened(dir: &TempDir, me: Option<VolcanoId>) -> CoordinatorLog {
    let log = AgreementLog::open(dir.path()).expect("opens again");
    CoordinatorLog::new(log, me).expect("loads")
}

fn open_session() -> Change {
    Change::OpenSession { label: "m".into() }
}

#[test]
fn the_coordinator_decides_and_remembers() {
    let (dir, mut wallace) = coordinator();
    assert!(wallace.leads());
    let epoch = wallace.lava().epoch;
    let lava = wallace.propose(epoch, &open_session()).expect("decided");
    assert_eq!((lava.epoch, wallace.lava()), (epoch.next(), &lava));
    let refused = wallace.propose(lava.epoch, &after(&lava, "wallace", 1));
    assert!(matches!(
        refused,
        Err(ProposeError::Refused(ChangeRefused::NickTaken(_)))
    ));
    assert_eq!(wallace.lava(), &lava, "a refusal changes nothing");
    drop(wallace);
    assert_eq!(reopened(&dir, Some(W)).lava(), &lava);
}

#[test]
fn others_do_not_decide() {
    let (_dir, log) = log();
    let mut nobody = CoordinatorLog::new(log, None).expect("loads");
    assert!(!nobody.leads());
    let refused = nobody.propose(Epoch(0), &open_session());
    assert!(matches!(refused, Err(ProposeError::NotLeader)));

    let (_dir, wallace) = coordinator();
    nobody.learn(wallace.lava()).expect("learns");
    let refused = nobody.propose(Epoch(1), &open_session());
    assert!(matches!(refused, Err(ProposeError::NotLeader)));
}

#[test]
fn only_changes_of_slices_are_bound_to_their_epoch() {
    let (_dir, mut wallace) = coordinator();
    let old = wallace.lava().epoch;
    wallace.propose(old, &open_session()).expect("decided");
    wallace.propose(old, &open_session()).expect("not bound");
    let join = after(wallace.lava(), "gromit", 1);
    wallace.propose(old, &join).expect("not bound");
    let add = Change::AddCopy {
        slice: SliceId(1),
        volcano: G,
    };
    let refused = wallace.propose(old, &add);
    assert!(matches!(
        refused,
        Err(ProposeError::Refused(ChangeRefused::EpochMoved {
            proposed: Epoch(1),
            current: Epoch(4),
        }))
    ));
    wallace.propose(Epoch(4), &add).expect("of this epoch");
}

#[test]
fn a_follower_learns_forward_only() {
    let (_dir, mut wallace) = coordinator();
    let first = wallace.lava().clone();
    let second = wallace.propose(Epoch(1), &open_session()).expect("decided");
    let (dir, log) = log();
    let mut gromit = CoordinatorLog::new(log, None).expect("loads");
    assert!(gromit.learn(&second).expect("learns"));
    assert!(!gromit.learn(&second).expect("known"));
    assert!(!gromit.learn(&first).expect("older"));
    assert_eq!(gromit.lava(), &second);
    drop(gromit);
    assert_eq!(reopened(&dir, None).lava(), &second);
}

#[test]
fn foreign_and_damaged_lavas_are_refused() {
    let (_dir, mut wallace) = coordinator();
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
        assert!(matches!(refused, ProposeError::Foreign(_)), "{refused}");
        assert!(refused.to_string().contains(&shown), "{refused}");
    }
    let mut damaged = next;
    damaged.slices.clear();
    assert!(matches!(
        wallace.learn(&damaged),
        Err(ProposeError::Refused(_))
    ));
    assert!(matches!(
        wallace.learn(&Lava::default()),
        Err(ProposeError::Refused(_))
    ));
    assert_eq!(wallace.lava(), &mine);
}

#[test]
fn leadership_moves_with_the_slice() {
    let (_dir, mut wallace) = coordinator();
    let slice = wallace
        .lava()
        .slice_of(key::DHT)
        .map(|slice| slice.id)
        .expect("whole");
    let join = after(wallace.lava(), "gromit", 1);
    let lava = wallace.propose(Epoch(1), &join).expect("joins");
    let (dir, log) = log();
    let mut gromit = CoordinatorLog::new(log, None).expect("loads");
    gromit.joined(G, &lava).expect("a member");
    for change in [
        Change::AddCopy { slice, volcano: G },
        Change::CopyInSync { slice, volcano: G },
        Change::MoveOwner { slice, to: G },
    ] {
        let epoch = wallace.lava().epoch;
        wallace.propose(epoch, &change).expect("decided");
    }
    assert!(!wallace.leads());
    let epoch = wallace.lava().epoch;
    let refused = wallace.propose(epoch, &open_session());
    assert!(matches!(refused, Err(ProposeError::NotLeader)));

    assert!(!gromit.leads(), "not before it has learned of it");
    gromit.learn(wallace.lava()).expect("learns");
    assert!(gromit.leads());
    let cut = Change::Cut {
        slice,
        at: Key::from_prefix(1 << 63),
    };
    let lava = gromit.propose(epoch, &cut).expect("decided");
    assert!(wallace.learn(&lava).expect("learns"));
    assert_eq!(wallace.lava(), gromit.lava());

    drop(gromit);
    let mut gromit = reopened(&dir, Some(G));
    assert!(gromit.leads());
    assert_eq!(gromit.next_start_number().expect("counts"), 1);
    assert_eq!(
        gromit.log().load_self().expect("loads"),
        Some((G, info("gromit", 2)))
    );
}

#[test]
fn a_join_keeps_both_or_nothing() {
    let (_dir, wallace) = coordinator();
    let alone = wallace.lava().clone();
    let lava = apply(&alone, &[after(&alone, "gromit", 1)]);
    let (_dir, log) = log();
    let mut gromit = CoordinatorLog::new(log, None).expect("loads");
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
    let mut other = CoordinatorLog::new(other, None).expect("loads");
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
