//! Every change, legal and refused, and any sequence of them.

use proptest::prelude::*;

use super::*;
use crate::lava::samples::{after, apply, founded, info};

const W: VolcanoId = VolcanoId(1);
const G: VolcanoId = VolcanoId(2);
const S: SliceId = SliceId(1);

fn pair() -> Lava {
    let lava = founded("wallace", 1);
    apply(&lava, &[after(&lava, "gromit", 1)])
}

fn join(info: VolcanoInfo, after: VolcanoId) -> Change {
    Change::Join {
        volcano: Box::new(info),
        after,
    }
}

fn add(volcano: VolcanoId) -> Change {
    Change::AddCopy { slice: S, volcano }
}
fn in_sync(volcano: VolcanoId) -> Change {
    Change::CopyInSync { slice: S, volcano }
}
fn remove(volcano: VolcanoId) -> Change {
    Change::RemoveCopy { slice: S, volcano }
}
fn move_to(to: VolcanoId) -> Change {
    Change::MoveOwner { slice: S, to }
}
fn cut(at: Key) -> Change {
    Change::Cut { slice: S, at }
}

fn refusal(lava: &Lava, change: Change) -> ChangeRefused {
    lava.apply(&change).expect_err("an illegal change")
}

fn is_impossible(lava: &Lava, change: Change) -> bool {
    matches!(refusal(lava, change), ChangeRefused::Impossible(_))
}

fn is_unknown(lava: &Lava, change: Change) -> bool {
    matches!(refusal(lava, change), ChangeRefused::Unknown(_))
}

#[test]
fn bootstrap_once() {
    let lava = founded("wallace", 1);
    assert_eq!((lava.epoch, lava.generation), (Epoch(1), Generation(1)));
    assert!(lava.covers());
    assert_eq!(lava.coordinator(), Some(W));
    let again = Change::Bootstrap {
        network: NetworkId(8),
        volcano: Box::new(info("other", 9)),
        redundancy: 1,
    };
    assert!(is_impossible(&lava, again));
    let empty = Lava::default();
    assert!(is_impossible(&empty, join(info("gromit", 2), W)));
    let greedy = Change::Bootstrap {
        network: NetworkId(8),
        volcano: Box::new(info("wallace", 1)),
        redundancy: REDUNDANCY_MAX + 1,
    };
    assert!(matches!(
        refusal(&empty, greedy),
        ChangeRefused::Malformed(..)
    ));
}

#[test]
fn join_sits_right_after() {
    let lava = pair();
    let lava = apply(&lava, &[after(&lava, "penguin", 1)]);
    let ring: Vec<_> = lava.volcanos.iter().map(|v| v.id.0).collect();
    assert_eq!(ring, [1, 3, 2]);
    let of = |home| {
        let slice = Slice {
            owner: home,
            home,
            ..lava.slices[0].clone()
        };
        lava.wanted_copies(&slice)
    };
    assert_eq!(of(W), [VolcanoId(3)]);
    assert_eq!(of(G), [W]);
    assert!(is_unknown(&lava, join(info("shaun", 9), VolcanoId(9))));
}

#[test]
fn names_and_addresses_are_unique() {
    let lava = pair();
    assert_eq!(
        refusal(&lava, join(info("gromit", 9), W)),
        ChangeRefused::NickTaken("gromit".into())
    );
    for (addr, port, free) in [
        ("10.0.0.2", 12000, false),
        ("10.0.0.2", 12001, false),
        ("10.0.0.2", 12002, false),
        ("10.0.0.2", 12003, true),
        ("10.0.0.2", 11998, false),
        ("10.0.0.2", 11997, true),
        ("::ffff:10.0.0.2", 12002, false),
        ("10.0.0.9", 12000, true),
    ] {
        let newcomer = VolcanoInfo {
            addr: addr.parse().expect("an address"),
            port,
            ..info("penguin", 9)
        };
        let result = lava.apply(&join(newcomer, W));
        assert_eq!(result.is_ok(), free, "{addr}:{port}: {result:?}");
        if let Err(reason) = result {
            assert!(reason.to_string().contains("gromit"), "{reason}");
        }
    }
    // A member does not collide with itself.
    let moved = VolcanoInfo {
        port: 12001,
        ..info("gromit", 2)
    };
    let lava = apply(&lava, &[Change::Update(G, Box::new(moved.clone()))]);
    assert_eq!(lava.volcano(G).map(|v| &v.info), Some(&moved));
    let clash = Change::Update(G, Box::new(info("wallace", 2)));
    assert_eq!(
        refusal(&lava, clash),
        ChangeRefused::NickTaken("wallace".into())
    );
    assert!(is_unknown(
        &lava,
        Change::Update(VolcanoId(9), Box::new(info("shaun", 9)))
    ));
}

#[test]
fn descriptions_are_checked() {
    let lava = pair();
    let good = info("penguin", 9);
    let with_nick = |nick: &str| VolcanoInfo {
        nick: nick.into(),
        ..good.clone()
    };
    assert!(lava.apply(&join(with_nick(&"n".repeat(63)), W)).is_ok());
    assert!(lava.apply(&join(with_nick("pingüino"), W)).is_ok());
    let mut bad: Vec<VolcanoInfo> = ["", ".", "..", "a b", "a\u{a0}b", "a\nb", "a/b", "\0"]
        .into_iter()
        .map(with_nick)
        .collect();
    bad.push(with_nick(&"n".repeat(64)));
    bad.push(VolcanoInfo {
        fqdn: "h".repeat(254),
        ..good.clone()
    });
    for port in [0, 65534, 65535] {
        bad.push(VolcanoInfo {
            port,
            ..good.clone()
        });
    }
    for addr in ["0.0.0.0", "::", "224.0.0.1", "ff02::1"] {
        bad.push(VolcanoInfo {
            addr: addr.parse().expect("an address"),
            ..good.clone()
        });
    }
    for info in bad {
        let refused = refusal(&lava, join(info.clone(), W));
        assert!(
            matches!(refused, ChangeRefused::Malformed(..)),
            "{info:?}: {refused}"
        );
    }
}

#[test]
fn cuts_stay_inside() {
    let lava = apply(&pair(), &[add(G), in_sync(G)]);
    let middle = Key::from_prefix(1 << 63);
    let lava = apply(&lava, &[cut(middle)]);
    let (lower, upper) = (&lava.slices[0], &lava.slices[1]);
    assert_eq!((lower.start, Some(lower.end)), (Key::MIN, middle.prev()));
    assert_eq!(
        (upper.id, upper.start, upper.end),
        (SliceId(2), middle, Key::MAX)
    );
    assert_eq!((upper.owner, &upper.copies), (lower.owner, &lower.copies));
    for at in [Key::MIN, middle, Key::MAX] {
        assert!(is_impossible(&lava, cut(at)), "{at}");
    }
    // The ends that still leave a key on either side.
    assert!(lava.apply(&cut(Key::MIN.next().expect("one"))).is_ok());
    assert!(lava.apply(&cut(middle.prev().expect("one"))).is_ok());
    let unknown = Change::Cut {
        slice: SliceId(9),
        at: middle,
    };
    assert!(is_unknown(&lava, unknown));
}

#[test]
fn copies_and_owners() {
    let lava = pair();
    assert!(is_impossible(&lava, add(W)), "its own copy");
    assert!(is_unknown(&lava, add(VolcanoId(9))));
    assert!(is_unknown(&lava, in_sync(G)));
    assert!(is_unknown(&lava, remove(G)));
    assert!(is_unknown(&lava, move_to(G)));
    assert!(is_impossible(&lava, move_to(W)));

    let lava = apply(&lava, &[add(G)]);
    assert!(is_impossible(&lava, add(G)), "twice");
    assert!(is_impossible(&lava, move_to(G)), "not in sync");
    let lava = apply(&lava, &[in_sync(G)]);
    assert!(is_impossible(&lava, in_sync(G)), "again");

    let lava = apply(&lava, &[move_to(G)]);
    assert_eq!(lava.slices[0].owner, G);
    assert_eq!(lava.slices[0].in_sync().collect::<Vec<_>>(), [W]);
    let lava = apply(&lava, &[remove(W)]);
    assert!(lava.slices[0].copies.is_empty());
}

#[test]
fn sessions_are_numbered_and_end_once() {
    let open = |label: &str| Change::OpenSession {
        label: label.into(),
    };
    let lava = apply(&founded("wallace", 1), &[open("one"), open("two\n")]);
    let ids: Vec<_> = lava.sessions.iter().map(|s| s.id.0).collect();
    assert_eq!(ids, [1, 2]);
    assert_eq!(lava.sessions[1].label, "two?");
    let lava = apply(&lava, &[Change::EndSession(SessionId(1))]);
    assert!(!lava.has_session(SessionId(1)) && lava.has_session(SessionId(2)));
    assert!(is_unknown(&lava, Change::EndSession(SessionId(1))));
    let lava = apply(&lava, &[open(&"ü".repeat(SESSION_LABEL_MAX))]);
    let last = lava.sessions.last().expect("opened");
    assert_eq!((last.id, last.label.len()), (SessionId(3), 254));
}

#[test]
fn bounds_are_refusals() {
    let mut lava = pair();
    lava.epoch = Epoch(i64::MAX as u64);
    let open = Change::OpenSession { label: "x".into() };
    assert!(matches!(refusal(&lava, open), ChangeRefused::Full(_)));

    let mut lava = pair();
    while lava.sessions.len() < SESSIONS_MAX {
        let id = SessionId(lava.next_session);
        lava.next_session += 1;
        lava.sessions.push(Session {
            id,
            label: String::new(),
        });
    }
    let open = Change::OpenSession { label: "x".into() };
    assert!(matches!(refusal(&lava, open), ChangeRefused::Full(_)));
}

#[test]
fn a_damaged_lava_is_found() {
    let lava = apply(&pair(), &[add(G), cut(Key::from_prefix(1 << 63))]);
    let open = Change::OpenSession { label: "x".into() };
    let good = apply(&lava, &[open.clone(), open]);
    type Damage = fn(&mut Lava);
    let damages: &[(&str, Damage)] = &[
        ("gap", |l| l.slices[0].end = Key::from_prefix(1)),
        ("no slices", |l| l.slices.clear()),
        ("slice twice", |l| l.slices[1].id = l.slices[0].id),
        ("slice number", |l| l.slices[1].id = SliceId(99)),
        ("owner", |l| l.slices[0].owner = VolcanoId(99)),
        ("copy", |l| l.slices[0].copies[0].volcano = VolcanoId(99)),
        ("own copy", |l| l.slices[0].copies[0].volcano = W),
        ("copy twice", |l| {
            let copy = l.slices[0].copies[0];
            l.slices[0].copies.push(copy);
        }),
        ("volcano twice", |l| l.volcanos[1].id = W),
        ("volcano number", |l| l.next_volcano = 2),
        ("nick", |l| l.volcanos[1].info.nick = "wallace".into()),
        ("address", |l| {
            l.volcanos[1].info.addr = l.volcanos[0].info.addr;
            l.volcanos[1].info.port = 12002;
        }),
        ("port", |l| l.volcanos[1].info.port = u16::MAX),
        ("session order", |l| l.sessions.swap(0, 1)),
        ("session twice", |l| l.sessions[1].id = l.sessions[0].id),
        ("session number", |l| l.next_session = 2),
        ("label", |l| l.sessions[0].label = "\u{1b}[2J".into()),
        ("epoch", |l| l.epoch = Epoch(u64::MAX)),
        ("redundancy", |l| l.redundancy = 255),
    ];
    for (name, damage) in damages {
        let mut lava = good.clone();
        damage(&mut lava);
        assert!(lava.check().is_err(), "{name}");
    }
    assert!(Lava::default().check().is_err());
}

/// A change that may or may not be legal.
fn any_change() -> impl Strategy<Value = Change> {
    let slice = || (0u64..6).prop_map(SliceId);
    let volcano = || (0u64..6).prop_map(VolcanoId);
    let described =
        || (0u8..6, 0u8..6).prop_map(|(n, host)| Box::new(info(&format!("v{n}"), host)));
    prop_oneof![
        (described(), volcano()).prop_map(|(volcano, after)| Change::Join { volcano, after }),
        (volcano(), described()).prop_map(|(id, info)| Change::Update(id, info)),
        volcano().prop_map(Change::Down),
        volcano().prop_map(Change::Up),
        volcano().prop_map(Change::Evict),
        volcano().prop_map(Change::Forget),
        (slice(), any::<u64>()).prop_map(|(slice, prefix)| Change::Cut {
            slice,
            at: Key::from_prefix(prefix)
        }),
        (slice(), volcano()).prop_map(|(slice, volcano)| Change::AddCopy { slice, volcano }),
        (slice(), volcano()).prop_map(|(slice, volcano)| Change::CopyInSync { slice, volcano }),
        (slice(), volcano()).prop_map(|(slice, volcano)| Change::RemoveCopy { slice, volcano }),
        (slice(), volcano()).prop_map(|(slice, to)| Change::MoveOwner { slice, to }),
        ".{0,4}".prop_map(|label| Change::OpenSession { label }),
        (0u64..6).prop_map(|id| Change::EndSession(SessionId(id))),
    ]
}

proptest! {
    #[test]
    fn any_changes_keep_the_lava_valid(changes in prop::collection::vec(any_change(), 1..80)) {
        let mut lava = founded("v1", 1);
        for change in changes {
            let Ok(next) = lava.apply(&change) else { continue };
            prop_assert_eq!(next.check(), Ok(()));
            prop_assert_eq!(next.epoch, lava.epoch.next());
            // Never the last in-sync copy of what was acknowledged, unless it is named.
            for slice in &lava.slices {
                let now = next.slice(slice.id).expect("slices only grow in number");
                let holders = |s: &Slice| s.in_sync().count();
                // Who is dead holds nothing that counts.
                if !matches!(change, Change::RemoveCopy { .. } | Change::Down(_)) {
                    prop_assert!(holders(now) >= holders(slice));
                }
            }
            lava = next;
        }
    }
}
