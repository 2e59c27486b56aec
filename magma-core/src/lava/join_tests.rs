//! Joins: the cuts of the original program's page, and any sequence of them.

use proptest::prelude::*;

use super::*;
use crate::agreement::Change;
use crate::ids::VolcanoId;
use crate::lava::samples::{after, apply, founded};
use crate::lava::{Lava, copies::CopyPlan, copies::copy_plan};

fn key(hex: &str) -> Key {
    hex.parse().expect("40 digits")
}

fn slice(start: Key, end: Key) -> Slice {
    Slice {
        id: SliceId(1),
        start,
        end,
        owner: VolcanoId(1),
        home: VolcanoId(1),
        since: crate::ids::Epoch(1),
        seized: false,
        copies: Vec::new(),
    }
}

fn whole() -> Slice {
    slice(Key::MIN, Key::MAX)
}

/// What a join does, in the order in which the joined volcano proposes it.
fn join(lava: &Lava, nick: &str, joined: u64, last_used: &dyn Fn(&Slice) -> Option<Key>) -> Lava {
    let newcomer = VolcanoId(lava.next_volcano);
    let lava = apply(lava, &[after(lava, nick, joined)]);
    let cut = choose_cut(
        lava.owned_by(VolcanoId(joined))
            .map(|slice| (slice, last_used(slice))),
    )
    .expect("something to cut");
    let upper = SliceId(lava.next_slice);
    let mut changes = vec![Change::Cut {
        slice: cut.slice,
        at: cut.at,
    }];
    let copied = lava.slice(cut.slice).expect("cut").copy_on(newcomer);
    assert_eq!(copied, None, "a newcomer holds nothing");
    changes.push(Change::AddCopy {
        slice: upper,
        volcano: newcomer,
    });
    changes.push(Change::CopyInSync {
        slice: upper,
        volcano: newcomer,
    });
    changes.push(Change::MoveOwner {
        slice: upper,
        to: newcomer,
    });
    apply(&lava, &changes)
}

/// Lets every owner carry out its plans until none is left.
fn settle(mut lava: Lava) -> Lava {
    for _ in 0..100 {
        let plans: Vec<_> = lava
            .volcanos
            .iter()
            .flat_map(|v| copy_plan(&lava, v.id))
            .collect();
        let Some(&plan) = plans.first() else {
            return lava;
        };
        let change = match plan {
            CopyPlan::Add { slice, volcano } => Change::AddCopy { slice, volcano },
            CopyPlan::Fill { slice, volcano } => Change::CopyInSync { slice, volcano },
            CopyPlan::Remove { slice, volcano } => Change::RemoveCopy { slice, volcano },
        };
        lava = apply(&lava, &[change]);
    }
    panic!("the plans come to no end: {lava:?}");
}

fn ring(lava: &Lava) -> Vec<&str> {
    lava.volcanos.iter().map(|v| v.info.nick.as_str()).collect()
}

fn slices(lava: &Lava) -> Vec<(String, String, String)> {
    lava.slices
        .iter()
        .map(|s| (s.start.to_string(), s.end.to_string(), lava.nick(s.owner)))
        .collect()
}

fn copies(lava: &Lava) -> Vec<(String, Vec<String>)> {
    lava.slices
        .iter()
        .map(|s| {
            (
                lava.nick(s.owner),
                s.in_sync().map(|v| lava.nick(v)).collect(),
            )
        })
        .collect()
}

fn row(start: &str, end: &str, owner: &str) -> (String, String, String) {
    (start.into(), end.into(), owner.into())
}

#[test]
fn example_of_the_original_page() {
    let last = key("8363a82ab9833cd88d90382b3984e834a83a23ab");
    let cut = cut_for_join(&whole(), Some(last));
    assert_eq!(
        cut,
        Some(Cut {
            slice: SliceId(1),
            at: key("8363a82ab9833cd88d90382b3984e834a83a23ac"),
            rule: CutRule::Tail,
        })
    );
}

#[test]
fn first_joins_of_an_empty_network() {
    let only_root = |slice: &Slice| slice.contains(key::ROOT).then_some(key::ROOT);
    let wallace = founded("wallace", 1);
    let two = settle(join(&wallace, "gromit", 1, &only_root));
    assert_eq!(ring(&two), ["wallace", "gromit"]);
    assert_eq!(
        slices(&two),
        [
            row(
                "0000000000000000000000000000000000000000",
                "42099b4af021e53fd8fd4e056c2568d7c2e3ffa8",
                "wallace"
            ),
            row(
                "42099b4af021e53fd8fd4e056c2568d7c2e3ffa9",
                "ffffffffffffffffffffffffffffffffffffffff",
                "gromit"
            ),
        ]
    );
    assert_eq!(
        two.slices[1].split_prefix(),
        Some(key::ROOT.ino()),
        "the root's inode number stays with wallace"
    );
    assert_eq!(two.nick(two.coordinator().expect("one")), "gromit");

    // Penguin joins gromit: the table of the original page.
    let table = settle(join(&two, "penguin", 2, &only_root));
    assert_eq!(ring(&table), ["wallace", "gromit", "penguin"]);
    assert_eq!(
        copies(&table),
        [
            ("wallace".into(), vec!["gromit".into()]),
            ("gromit".into(), vec!["penguin".into()]),
            ("penguin".into(), vec!["wallace".into()]),
        ]
    );

    // Penguin joins wallace: the root is its last key, so there is no tail to give.
    let three = settle(join(&two, "penguin", 1, &only_root));
    assert_eq!(ring(&three), ["wallace", "penguin", "gromit"]);
    assert_eq!(
        slices(&three),
        [
            row(
                "0000000000000000000000000000000000000000",
                "2104cda57810f29fffffffffffffffffffffffff",
                "wallace"
            ),
            row(
                "2104cda57810f2a0000000000000000000000000",
                "42099b4af021e53fd8fd4e056c2568d7c2e3ffa8",
                "penguin"
            ),
            row(
                "42099b4af021e53fd8fd4e056c2568d7c2e3ffa9",
                "ffffffffffffffffffffffffffffffffffffffff",
                "gromit"
            ),
        ]
    );
    assert_eq!(
        copies(&three),
        [
            ("wallace".into(), vec!["penguin".into()]),
            ("penguin".into(), vec!["gromit".into()]),
            ("gromit".into(), vec!["wallace".into()]),
        ]
    );
    assert_eq!(three.slices[1].split_prefix(), None);
}

#[test]
fn the_threshold_is_exact() {
    // A slice of 256 keys, above the root so that that does not count.
    let base = "f0000000000000000000000000000000000000";
    let start = key(&format!("{base}00"));
    let end = key(&format!("{base}ff"));
    let slice = slice(start, end);
    let last = |byte: &str| Some(key(&format!("{base}{byte}")));
    // A tail of 16 is large enough, one of 15 is not, and there is no middle in here.
    assert_eq!(
        cut_for_join(&slice, last("ef")).map(|cut| cut.at),
        last("f0")
    );
    assert_eq!(cut_for_join(&slice, last("f0")), None);
    assert_eq!(cut_for_join(&slice, None), None);

    // The whole key space, whose size does not fit into 160 bits.
    let just = key("efffffffffffffffffffffffffffffffffffffff");
    let over = just.next();
    let rule = |last| cut_for_join(&whole(), last).map(|cut| cut.rule);
    assert_eq!(rule(Some(just)), Some(CutRule::Tail));
    assert_eq!(rule(over), Some(CutRule::Middle));
    assert_eq!(rule(Some(Key::MAX)), Some(CutRule::Middle));
    let middle = cut_for_join(&whole(), Some(Key::MAX)).map(|cut| cut.at);
    assert_eq!(middle, Some(Key::from_prefix(1 << 63)));
}

#[test]
fn an_empty_slice_is_cut_in_the_middle() {
    let upper = slice(Key::from_prefix(1 << 63), Key::MAX);
    let cut = cut_for_join(&upper, None).expect("large");
    assert_eq!(
        (cut.at, cut.rule),
        (Key::from_prefix(3 << 62), CutRule::Middle)
    );
    // A key of another slice is not one of this.
    assert_eq!(cut_for_join(&upper, Some(Key::MIN)), Some(cut));
}

#[test]
fn the_slice_with_the_largest_tail_is_chosen() {
    let quarter = |n: u64| Slice {
        id: SliceId(n),
        ..slice(
            Key::from_prefix(n << 61),
            Key::prefix_end((n << 61) | ((1 << 61) - 1)),
        )
    };
    let (five, six, seven) = (quarter(5), quarter(6), quarter(7));
    let half_full = Some(Key::from_prefix((6 << 61) + (1 << 60)));
    let nearly_full = Some(Key::from_prefix((7 << 61) + (1 << 59)));
    let chosen = |list: &[(&Slice, Option<Key>)]| {
        choose_cut(list.iter().copied()).map(|cut| (cut.slice, cut.rule))
    };
    assert_eq!(
        chosen(&[
            (&five, Some(five.end)),
            (&six, half_full),
            (&seven, nearly_full)
        ]),
        Some((SliceId(7), CutRule::Tail))
    );
    assert_eq!(
        chosen(&[(&five, None), (&six, half_full), (&seven, nearly_full)]),
        Some((SliceId(5), CutRule::Middle)),
        "an empty slice is all tail"
    );
    let large = slice(Key::MIN, five.end);
    assert_eq!(
        chosen(&[(&six, Some(six.end)), (&large, Some(large.end))]),
        Some((SliceId(1), CutRule::Middle)),
        "no tails: the largest slice"
    );
    assert_eq!(chosen(&[]), None);
}

fn any_key() -> impl Strategy<Value = Key> {
    prop_oneof![
        any::<[u8; 20]>().prop_map(Key),
        any::<u64>().prop_map(Key::from_prefix),
        any::<u64>().prop_map(Key::prefix_end),
    ]
}

proptest! {
    #[test]
    fn a_cut_is_always_legal(one in any_key(), other in any_key(), used in any_key()) {
        let slice = slice(one.min(other), one.max(other));
        if let Some(cut) = cut_for_join(&slice, Some(used)) {
            prop_assert!(slice.start < cut.at && cut.at <= slice.end);
            let last = used_up_to(&slice, Some(used));
            match cut.rule {
                CutRule::Tail => prop_assert!(last.is_some_and(|last| last < cut.at)),
                CutRule::Middle => prop_assert_eq!(cut.at, Key::from_prefix(cut.at.ino())),
            }
        }
    }

    #[test]
    fn width_agrees_with_small_numbers(low: u64, add: u32) {
        let high = low.saturating_add(u64::from(add));
        let as_key = |n: u64| {
            let mut bytes = [0; 20];
            bytes[12..].copy_from_slice(&n.to_be_bytes());
            Key(bytes)
        };
        let width = Width::above(as_key(low), as_key(high));
        prop_assert_eq!(width, Width([0, 0, high - low]));
        let times = u128::from(high - low) * 16;
        prop_assert_eq!(
            width.times_tail_part(),
            Width([0, (times >> 64) as u64, times as u64])
        );
    }

    #[test]
    fn any_joins_keep_the_lava_whole(
        redundancy in 0u8..3,
        joins in prop::collection::vec((any::<prop::sample::Index>(), any::<[u8; 20]>()), 1..9),
    ) {
        let mut lava = founded("v1", redundancy);
        for (whom, used) in joins {
            let joined = lava.volcanos[whom.index(lava.volcanos.len())].id.0;
            let nick = format!("v{}", lava.next_volcano);
            let last_used = |slice: &Slice| Some(Key(used)).filter(|&key| slice.contains(key));
            // Every change on the way is checked by the samples' `apply`.
            lava = settle(join(&lava, &nick, joined, &last_used));
            let wanted = usize::from(redundancy).min(lava.volcanos.len() - 1);
            for slice in &lava.slices {
                prop_assert_eq!(slice.in_sync().count(), wanted);
                prop_assert_eq!(slice.copies.len(), wanted);
            }
        }
        prop_assert_eq!(lava.slices.len(), lava.volcanos.len());
    }
}
