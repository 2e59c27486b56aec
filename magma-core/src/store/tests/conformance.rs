//! What every store must do. Each rule is one function, run on both stores.

use std::collections::BTreeSet;

use super::samples::{
    SLICE, content, entry, flare, image, key, link, name, outbox, prepared, put, record, reply,
    row, stamp, tx, write,
};
use crate::effect::Effect;
use crate::flare::{Decision, Layout, LinkState};
use crate::ids::{Epoch, Seq, SessionId, SliceId, Slot};
use crate::key::Key;
use crate::limits::INLINE_MAX;
use crate::store::memory::MemoryStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{Durability, Store};

/// Runs a rule on a fresh store of each kind.
macro_rules! on_both {
    ($($rule:ident),* $(,)?) => {
        mod on_disk {
            $(#[test]
            fn $rule() {
                let dir = tempfile::tempdir().expect("a directory");
                super::$rule(super::SqliteStore::open(dir.path()).expect("opens"));
            })*
        }
        mod in_memory {
            $(#[test]
            fn $rule() {
                super::$rule(super::MemoryStore::new());
            })*
        }
    };
}

on_both!(
    attributes_and_content,
    inline_content_spills,
    a_dropped_flare_leaves_nothing,
    an_old_incarnation_changes_nothing,
    directories,
    links_and_xattrs,
    unfinished_rows_are_found,
    replies_outbox_decisions_holders,
    ranges_of_keys,
    the_journal_reads_content_anew,
    a_trimmed_journal_says_so,
    a_copy_has_the_same_rows,
    a_copy_filled_twice_in_one_transaction,
    a_cut_slice_takes_its_replies,
    a_copy_that_missed_a_cut_keeps_no_old_replies,
    a_range_is_cleared_in_steps,
    a_rollback_leaves_nothing,
    a_refused_effect_undoes_its_transaction,
    the_clock_never_falls,
);

fn apply(store: &mut impl Store, seq: u64, effects: Vec<Effect>) {
    store.begin().expect("begins");
    store
        .apply(&record(SLICE, seq, effects))
        .expect("is applied");
    store.commit(Durability::Process).expect("commits");
}

fn attributes_and_content(mut store: impl Store) {
    let file = flare(1, 1);
    assert_eq!(store.flare(key(1)).expect("reads"), None);
    let first = row(file, Layout::Inline, 5);
    apply(
        &mut store,
        1,
        vec![put(first.clone()), write(file, 2, b"abc")],
    );
    assert_eq!(store.flare(key(1)).expect("reads"), Some(first.clone()));
    assert_eq!(content(&store, &first), &b"\0\0abc"[..]);
    assert_eq!(store.read(&first, 3, 1).expect("reads"), &b"b"[..]);
    assert_eq!(store.read(&first, 9, 9).expect("reads"), &b""[..]);
    assert_eq!(store.blocks(&first).expect("counts"), 1);

    let shorter = row(file, Layout::Inline, 3);
    apply(&mut store, 2, vec![put(shorter), Effect::Truncate(file, 3)]);
    let longer = row(file, Layout::Inline, 6);
    apply(
        &mut store,
        3,
        vec![put(longer.clone()), Effect::Truncate(file, 6)],
    );
    assert_eq!(content(&store, &longer), &b"\0\0a\0\0\0"[..]);
    assert_eq!(
        store.position(SLICE).expect("reads"),
        Some((Epoch(1), Seq(3)))
    );
    assert_eq!(store.position(SliceId(2)).expect("reads"), None);
    store.sync_content(file).expect("syncs");
}

fn inline_content_spills(mut store: impl Store) {
    let file = flare(1, 1);
    apply(
        &mut store,
        1,
        vec![put(row(file, Layout::Inline, 3)), write(file, 0, b"abc")],
    );
    let far = 1 << 20;
    let big = row(file, Layout::Segments, far + 3);
    let grow = vec![
        put(big.clone()),
        Effect::Spill(file),
        write(file, far, b"xyz"),
    ];
    apply(&mut store, 2, grow.clone());
    assert_eq!(store.read(&big, 0, 4).expect("reads"), &b"abc\0"[..]);
    assert_eq!(store.read(&big, far - 1, 9).expect("reads"), &b"\0xyz"[..]);
    let blocks = store.blocks(&big).expect("counts");
    assert!((1..1024).contains(&blocks), "{blocks} blocks");
    store.sync_content(file).expect("syncs");
    // Once more is as once.
    apply(&mut store, 2, grow);
    assert_eq!(store.read(&big, 0, 4).expect("reads"), &b"abc\0"[..]);

    let cut = row(file, Layout::Segments, 2);
    apply(&mut store, 3, vec![put(cut), Effect::Truncate(file, 2)]);
    let longer = row(file, Layout::Segments, 4);
    apply(
        &mut store,
        4,
        vec![put(longer.clone()), Effect::Truncate(file, 4)],
    );
    assert_eq!(content(&store, &longer), &b"ab\0\0"[..]);
}

fn a_dropped_flare_leaves_nothing(mut store: impl Store) {
    for (n, layout) in [(1, Layout::Inline), (2, Layout::Segments)] {
        let file = flare(n, 1);
        let old = row(file, layout, 3);
        let all = vec![
            put(old.clone()),
            write(file, 0, b"old"),
            Effect::PutLink(key(n), Box::new(link(flare(9, 1), "a", LinkState::Settled))),
            Effect::PutXattr(key(n), b"user.a".to_vec(), b"1".to_vec()),
        ];
        apply(&mut store, u64::from(n) * 3, all);
        // Until the commit the content is there for those who have it open.
        store.begin().expect("begins");
        let drop = record(SLICE, u64::from(n) * 3 + 1, vec![Effect::DropFlare(file)]);
        store.apply(&drop).expect("is applied");
        assert_eq!(store.flare(key(n)).expect("reads"), None);
        store.commit(Durability::Process).expect("commits");
        assert!(store.links(key(n)).expect("reads").is_empty());
        assert!(store.xattr_names(key(n)).expect("reads").is_empty());
        assert_eq!(store.read(&old, 0, 3).expect("reads"), &b""[..]);
        // The key is used again: nothing shines through.
        let again = row(flare(n, 2), layout, 3);
        apply(&mut store, u64::from(n) * 3 + 2, vec![put(again.clone())]);
        assert_eq!(content(&store, &again), &b"\0\0\0"[..]);
    }
}

fn an_old_incarnation_changes_nothing(mut store: impl Store) {
    let (old, new) = (flare(1, 1), flare(1, 2));
    let now = row(new, Layout::Inline, 3);
    apply(&mut store, 1, vec![put(now.clone()), write(new, 0, b"new")]);
    let late = vec![
        write(old, 0, b"old"),
        Effect::Truncate(old, 0),
        Effect::Spill(old),
        Effect::DropFlare(old),
    ];
    apply(&mut store, 2, late);
    assert_eq!(store.flare(key(1)).expect("reads"), Some(now.clone()));
    assert_eq!(content(&store, &now), &b"new"[..]);
}

fn directories(mut store: impl Store) {
    let (dir, other) = (key(1), key(2));
    // Cookies are not in the order of names.
    let rows = [
        entry("c", flare(3, 1), 3),
        entry("a", flare(4, 1), 5),
        entry("b", flare(5, 1), 4),
    ];
    let mut effects: Vec<Effect> = rows
        .iter()
        .map(|row| Effect::PutEntry(dir, Box::new(row.clone())))
        .collect();
    effects.push(Effect::PutEntry(
        other,
        Box::new(entry("a", flare(6, 1), 1)),
    ));
    apply(&mut store, 1, effects);
    let names = |store: &dyn Store, after, limit| -> Vec<String> {
        let rows = store.entries(dir, after, limit).expect("reads");
        rows.iter().map(|row| row.name.to_string()).collect()
    };
    assert_eq!(names(&store, 0, 9), ["c", "b", "a"]);
    assert_eq!(names(&store, 3, 1), ["b"]);
    assert!(names(&store, 5, 9).is_empty());
    assert!(names(&store, u64::MAX, 9).is_empty());
    assert_eq!(
        store.entry(dir, &name("a")).expect("reads").as_ref(),
        Some(&rows[1])
    );

    // An entry that is replaced moves to its new cookie.
    let moved = entry("c", flare(7, 1), 6);
    apply(
        &mut store,
        2,
        vec![
            Effect::PutEntry(dir, Box::new(moved)),
            Effect::DropEntry(dir, name("b")),
            Effect::DropEntry(dir, name("absent")),
        ],
    );
    assert_eq!(names(&store, 0, 9), ["a", "c"]);
    assert_eq!(store.entry(dir, &name("b")).expect("reads"), None);
    assert_eq!(store.entries(other, 0, 9).expect("reads").len(), 1);
}

fn links_and_xattrs(mut store: impl Store) {
    let put = |parent, text, state| Effect::PutLink(key(1), Box::new(link(parent, text, state)));
    let (first, second) = (flare(2, 1), flare(2, 2));
    apply(
        &mut store,
        1,
        vec![
            put(first, "b", LinkState::Settled),
            put(first, "a", LinkState::Nascent(tx(1))),
            put(second, "a", LinkState::Going(tx(1))),
            Effect::PutXattr(key(1), b"user.b".to_vec(), b"1".to_vec()),
            Effect::PutXattr(key(1), b"user.a".to_vec(), vec![]),
        ],
    );
    let links = store.links(key(1)).expect("reads");
    let names: Vec<_> = links
        .iter()
        .map(|l| (l.parent, l.name.to_string()))
        .collect();
    assert_eq!(
        names,
        [
            (first, "a".into()),
            (first, "b".into()),
            (second, "a".into())
        ]
    );
    assert_eq!(links[0].state, LinkState::Nascent(tx(1)));
    assert_eq!(
        store.xattr_names(key(1)).expect("reads"),
        [b"user.a", b"user.b"]
    );
    assert_eq!(store.xattr(key(1), b"user.a").expect("reads"), Some(vec![]));

    apply(
        &mut store,
        2,
        vec![
            put(first, "a", LinkState::Settled),
            Effect::DropLink(key(1), second, name("a")),
            Effect::PutXattr(key(1), b"user.b".to_vec(), b"2".to_vec()),
            Effect::DropXattr(key(1), b"user.a".to_vec()),
        ],
    );
    let links = store.links(key(1)).expect("reads");
    assert!(links.iter().all(|link| link.state == LinkState::Settled));
    assert_eq!(links.len(), 2);
    assert_eq!(
        store.xattr(key(1), b"user.b").expect("reads"),
        Some(b"2".to_vec())
    );
    assert_eq!(store.xattr(key(1), b"user.a").expect("reads"), None);
}

fn unfinished_rows_are_found(mut store: impl Store) {
    let child = flare(0xf0, 1);
    let mut nascent = row(flare(1, 1), Layout::Inline, 0);
    nascent.nascent = Some(tx(1));
    let mut unlinked = row(flare(2, 1), Layout::Inline, 0);
    unlinked.nlink = 0;
    let going = link(child, "a", LinkState::Going(tx(1)));
    let mut held = entry("b", child, 1);
    held.prepared = Some(prepared());
    let mut waiting = entry("c", child, 2);
    waiting.prepared = Some(prepared());
    let quiet = vec![
        put(row(flare(6, 1), Layout::Inline, 0)),
        Effect::PutEntry(key(6), Box::new(entry("a", child, 1))),
        Effect::PutLink(key(6), Box::new(link(child, "a", LinkState::Settled))),
    ];
    let loud = vec![
        put(nascent),
        put(unlinked),
        put(row(flare(3, 1), Layout::Inline, 0)),
        Effect::PutLink(key(3), Box::new(going)),
        Effect::PutEntry(key(4), Box::new(held)),
        Effect::PutEntry(key(4), Box::new(waiting.clone())),
        Effect::PutEntry(key(5), Box::new(waiting)),
    ];
    apply(&mut store, 1, quiet);
    apply(&mut store, 2, loud);
    let unsettled =
        |store: &dyn Store, start, end, limit| store.unsettled(start, end, limit).expect("reads");
    let all: Vec<Key> = (1..=5).map(key).collect();
    assert_eq!(unsettled(&store, Key::MIN, Key::MAX, 99), all);
    assert_eq!(unsettled(&store, Key::MIN, Key::MAX, 3), all[..3]);
    assert_eq!(unsettled(&store, key(2), key(4), 99), all[1..4]);

    let settled = |text| entry(text, child, 1);
    apply(
        &mut store,
        3,
        vec![
            put(row(flare(1, 1), Layout::Inline, 0)),
            Effect::DropFlare(flare(2, 1)),
            Effect::PutLink(key(3), Box::new(link(child, "a", LinkState::Settled))),
            Effect::PutEntry(key(4), Box::new(settled("b"))),
            Effect::DropEntry(key(5), name("c")),
        ],
    );
    assert_eq!(unsettled(&store, Key::MIN, Key::MAX, 99), [key(4)]);
}

fn replies_outbox_decisions_holders(mut store: impl Store) {
    let high = u64::MAX - 1;
    apply(
        &mut store,
        1,
        vec![
            Effect::PutReply(Box::new(reply(key(1), high, 7, 1))),
            Effect::PutOutbox(Box::new(outbox(key(2), 1, key(9)))),
            Effect::PutOutbox(Box::new(outbox(key(1), 2, key(9)))),
            Effect::PutOutbox(Box::new(outbox(key(1), 2, key(8)))),
            Effect::PutDecision(key(1), tx(1), Decision::Aborted),
            Effect::PutHolder(key(1), SessionId(high)),
            Effect::PutHolder(key(2), SessionId(high)),
            Effect::PutHolder(key(2), SessionId(3)),
        ],
    );
    let slot = |slice| (slice, SessionId(high), Slot(7));
    let at = |store: &dyn Store, (slice, session, slot)| {
        store.reply(slice, session, slot).expect("reads")
    };
    assert_eq!(at(&store, slot(SLICE)), Some(reply(key(1), high, 7, 1)));
    assert_eq!(at(&store, slot(SliceId(2))), None);
    let other = Effect::PutReply(Box::new(reply(key(3), 5, 2, 1)));
    apply(&mut store, 2, vec![other]);
    let mut sessions = Vec::new();
    while let Some(next) = store
        .next_reply_session(SLICE, sessions.last().copied())
        .expect("reads")
    {
        sessions.push(next);
    }
    sessions.sort();
    assert_eq!(sessions, [SessionId(5), SessionId(high)]);
    let none = store.next_reply_session(SliceId(2), None);
    assert_eq!(none.expect("reads"), None);
    let slots = |session, most| store.reply_slots(SLICE, session, most).expect("reads");
    assert_eq!(slots(SessionId(5), 9), [(key(3), Slot(2))]);
    assert_eq!(slots(SessionId(high), 9), [(key(1), Slot(7))]);
    assert_eq!(slots(SessionId(high), 0), []);
    let rows = store.outbox(Key::MIN, Key::MAX, 9).expect("reads");
    let order: Vec<_> = rows.iter().map(|row| (row.key, row.to)).collect();
    assert_eq!(
        order,
        [(key(1), key(8)), (key(1), key(9)), (key(2), key(9))]
    );
    assert_eq!(store.outbox(key(2), Key::MAX, 9).expect("reads").len(), 1);
    assert_eq!(store.outbox(Key::MIN, Key::MAX, 2).expect("reads").len(), 2);
    assert_eq!(
        store.decision(key(1), tx(1)).expect("reads"),
        Some(Decision::Aborted)
    );
    assert_eq!(store.decision(key(2), tx(1)).expect("reads"), None);
    assert_eq!(
        store.holders(Key::MIN, Key::MAX).expect("reads"),
        [SessionId(3), SessionId(high)]
    );

    apply(
        &mut store,
        3,
        vec![
            Effect::PutReply(Box::new(reply(key(2), high, 7, 2))),
            Effect::DropOutbox(key(1), tx(2), key(9)),
            Effect::PutDecision(key(1), tx(1), Decision::Committed),
            Effect::DropHolder(key(2), SessionId(high)),
            Effect::PutHolder(key(2), SessionId(3)),
        ],
    );
    assert_eq!(at(&store, slot(SLICE)), Some(reply(key(2), high, 7, 2)));
    assert_eq!(store.outbox(Key::MIN, Key::MAX, 9).expect("reads").len(), 2);
    assert_eq!(
        store.decision(key(1), tx(1)).expect("reads"),
        Some(Decision::Committed)
    );
    assert_eq!(
        store.holders(key(2), key(2)).expect("reads"),
        [SessionId(3)]
    );

    apply(
        &mut store,
        4,
        vec![
            Effect::DropReply(key(2), SessionId(high), Slot(7)),
            Effect::DropDecision(key(1), tx(1)),
        ],
    );
    assert_eq!(at(&store, slot(SLICE)), None);
    assert_eq!(store.decision(key(1), tx(1)).expect("reads"), None);
}

fn ranges_of_keys(mut store: impl Store) {
    assert_eq!(store.median_key(Key::MIN, Key::MAX).expect("reads"), None);
    let effects = (1..=5)
        .map(|n| put(row(flare(n, 1), Layout::Inline, 0)))
        .collect();
    apply(&mut store, 1, effects);
    let all = (Key::MIN, Key::MAX);
    assert_eq!(store.count_flares(all.0, all.1).expect("reads"), 5);
    assert_eq!(store.count_flares(key(2), key(3)).expect("reads"), 2);
    assert_eq!(store.last_key(all.0, all.1).expect("reads"), Some(key(5)));
    assert_eq!(store.last_key(key(6), all.1).expect("reads"), None);
    assert_eq!(store.median_key(all.0, all.1).expect("reads"), Some(key(3)));
    assert_eq!(
        store.median_key(key(2), all.1).expect("reads"),
        Some(key(4))
    );
    assert!(store.prefix_taken(key(1).ino()).expect("reads"));
    assert!(!store.prefix_taken(key(1).ino() + 1).expect("reads"));
}

fn the_journal_reads_content_anew(mut store: impl Store) {
    let (kept, cut, gone) = (flare(1, 1), flare(2, 1), flare(3, 1));
    for (seq, file) in [(1, kept), (2, cut), (3, gone)] {
        apply(
            &mut store,
            seq,
            vec![put(row(file, Layout::Segments, 4)), write(file, 0, b"abcd")],
        );
    }
    apply(&mut store, 4, vec![write(kept, 1, b"X")]);
    apply(
        &mut store,
        5,
        vec![
            put(row(cut, Layout::Segments, 2)),
            Effect::Truncate(cut, 2),
            Effect::DropFlare(gone),
        ],
    );
    let records = store
        .journal_after(SLICE, Seq(0), 9)
        .expect("reads")
        .expect("is complete");
    assert_eq!(records.len(), 5);
    let data: Vec<_> = records[..4]
        .iter()
        .flat_map(|record| record.payload().cloned())
        .collect();
    assert_eq!(data, [&b"aXcd"[..], b"ab\0\0", b"\0\0\0\0", b"X"]);
    assert_eq!(records[0].effects[0], put(row(kept, Layout::Segments, 4)));
    let two = store.journal_after(SLICE, Seq(3), 1).expect("reads");
    assert_eq!(two.expect("is complete")[0].seq, Seq(4));
    assert_eq!(
        store.journal_after(SLICE, Seq(5), 9).expect("reads"),
        Some(vec![])
    );
    assert_eq!(
        store.journal_after(SliceId(7), Seq(0), 9).expect("reads"),
        Some(vec![])
    );
}

fn a_trimmed_journal_says_so(mut store: impl Store) {
    for seq in 1..=4 {
        apply(&mut store, seq, vec![]);
    }
    let seqs = |store: &dyn Store, after| {
        let records = store.journal_after(SLICE, Seq(after), 9).expect("reads");
        records.map(|records| records.iter().map(|r| r.seq.0).collect::<Vec<_>>())
    };
    store.trim_journal(SLICE, Seq(2)).expect("trims");
    assert_eq!(seqs(&store, 1), None);
    assert_eq!(seqs(&store, 2), Some(vec![3, 4]));
    store.trim_journal(SLICE, Seq(9)).expect("trims");
    assert_eq!(seqs(&store, 2), None);
    assert_eq!(seqs(&store, 4), Some(vec![]));

    // A copy that was filled has no history; the same position again costs none.
    apply(&mut store, 5, vec![]);
    store.set_position(SLICE, (Epoch(2), Seq(5))).expect("sets");
    assert_eq!(seqs(&store, 4), Some(vec![5]));
    store.set_position(SLICE, (Epoch(2), Seq(8))).expect("sets");
    apply(&mut store, 9, vec![]);
    assert_eq!(seqs(&store, 4), None);
    assert_eq!(seqs(&store, 8), Some(vec![9]));
    // What it was filled up to is known by its epoch, and not what that did.
    assert_eq!(seqs(&store, 7), None);
    let epoch = |store: &dyn Store, seq| store.journal_epoch(SLICE, Seq(seq)).expect("reads");
    assert_eq!(epoch(&store, 7), None);
    assert_eq!(epoch(&store, 8), Some(Epoch(2)));
    assert_eq!(epoch(&store, 9), Some(Epoch(1)));
    store.forget_slice(SLICE).expect("forgets");
    assert_eq!(store.position(SLICE).expect("reads"), None);
    assert_eq!(seqs(&store, 0), Some(vec![]));
    assert_eq!(epoch(&store, 8), None);
    store.commit(Durability::Disk).expect("commits");
}

/// Rows of every kind, some of keys without a flare.
fn everything() -> Vec<Effect> {
    let child = flare(0xf0, 1);
    let mut dir = row(flare(1, 1), Layout::Inline, 4096);
    dir.kind = crate::flare::Kind::Directory;
    let mut effects = vec![
        put(dir),
        put(row(flare(2, 1), Layout::Segments, 3)),
        put(row(flare(3, 1), Layout::Inline, 3)),
        Effect::PutEntry(key(1), Box::new(entry("b", child, 1))),
        Effect::PutEntry(key(1), Box::new(entry("a", child, 2))),
        Effect::PutLink(key(2), Box::new(link(child, "a", LinkState::Settled))),
        Effect::PutXattr(key(2), b"user.a".to_vec(), b"1".to_vec()),
        Effect::PutDecision(key(6), tx(1), Decision::Committed),
        Effect::PutHolder(key(7), SessionId(3)),
        Effect::PutXattr(key(9), b"user.a".to_vec(), b"1".to_vec()),
        Effect::PutOutbox(Box::new(outbox(key(8), 1, key(9)))),
    ];
    for (first, slot) in [(2, 1), (4, 2), (4, 3)] {
        effects.push(Effect::PutReply(Box::new(reply(key(first), 1, slot, 1))));
    }
    effects
}

fn a_copy_has_the_same_rows(mut store: impl Store) {
    store.apply_rows(SLICE, &everything()).expect("applies");
    store.commit(Durability::Process).expect("commits");
    let whole = image(&store);
    let keys: BTreeSet<Key> = whole.iter().map(|(key, ..)| *key).collect();
    assert_eq!(keys, everything().iter().map(Effect::key).collect());
    let all: Vec<Effect> = whole.iter().flat_map(|(_, rows, _)| rows.clone()).collect();
    assert_eq!(all.len(), everything().len());

    let mut copy = MemoryStore::new();
    copy.apply_rows(SLICE, &all).expect("applies");
    assert_eq!(image(&copy), whole);
    let dir = tempfile::tempdir().expect("a directory");
    let mut copy = SqliteStore::open(dir.path()).expect("opens");
    copy.apply_rows(SLICE, &all).expect("applies");
    assert_eq!(image(&copy), whole);

    let next = |store: &dyn Store, after, upto| {
        let next = store.rows_of_next_key(after, upto).expect("reads");
        next.map(|(key, _)| key)
    };
    assert_eq!(next(&store, Some(key(3)), Key::MAX), Some(key(4)));
    assert_eq!(next(&store, Some(key(3)), key(3)), None);
    // While the filling goes on, a reply moves to another key.
    let moved = reply(key(5), 1, 2, 2);
    let effects = vec![
        Effect::PutReply(Box::new(moved)),
        Effect::DropReply(key(4), SessionId(1), Slot(3)),
    ];
    store.apply_rows(SLICE, &effects).expect("applies");
    assert_eq!(next(&store, Some(key(3)), Key::MAX), Some(key(5)));
    store.rollback().expect("rolls back");
    assert_eq!(next(&store, Some(key(3)), Key::MAX), Some(key(4)));
    assert_eq!(next(&store, Some(key(9)), Key::MAX), None);
    assert_eq!(next(&store, Some(Key::MAX), Key::MAX), None);
}

fn a_copy_filled_twice_in_one_transaction(mut store: impl Store) {
    let file = flare(1, 1);
    let before = row(file, Layout::Segments, 6);
    apply(&mut store, 1, vec![put(before), write(file, 0, b"before")]);
    store.begin().expect("begins");
    let left = store.clear_range(Key::MIN, Key::MAX, 9);
    assert!(!left.expect("clears"));
    let after = row(file, Layout::Segments, 8);
    let rows = [put(after.clone()), write(file, 4, b"anew")];
    store.apply_rows(SLICE, &rows).expect("applies");
    store.commit(Durability::Process).expect("commits");
    assert_eq!(content(&store, &after), &b"\0\0\0\0anew"[..]);
}

fn a_cut_slice_takes_its_replies(mut store: impl Store) {
    let effects = (1..=4)
        .map(|n| Effect::PutReply(Box::new(reply(key(n), 1, u16::from(n), 1))))
        .collect();
    apply(&mut store, 1, effects);
    let new = SliceId(2);
    store.begin().expect("begins");
    store
        .cut_slice(SLICE, new, key(2), key(3), (Epoch(2), Seq(0)))
        .expect("cuts");
    store.commit(Durability::Process).expect("commits");
    for n in 1..=4 {
        let moved = n == 2 || n == 3;
        let at = |slice| {
            let reply = store.reply(slice, SessionId(1), Slot(n));
            reply.expect("reads").is_some()
        };
        assert_eq!((at(SLICE), at(new)), (!moved, moved), "slot {n}");
    }
    assert_eq!(
        store.position(new).expect("reads"),
        Some((Epoch(2), Seq(0)))
    );
    assert_eq!(
        store.journal_after(new, Seq(0), 9).expect("reads"),
        Some(vec![])
    );
    assert_eq!(
        store.position(SLICE).expect("reads"),
        Some((Epoch(1), Seq(1)))
    );
}

fn a_copy_that_missed_a_cut_keeps_no_old_replies(mut store: impl Store) {
    let effects = (1..=4)
        .map(|n| Effect::PutReply(Box::new(reply(key(n), 1, u16::from(n), 1))))
        .collect();
    apply(&mut store, 1, effects);
    // The upper half is a slice of its own by now, and the copy is filled anew.
    let (new, answered) = (SliceId(2), reply(key(4), 1, 4, 2));
    store.begin().expect("begins");
    let left = store.clear_range(key(3), key(4), 9).expect("clears");
    assert!(!left);
    let rows = [Effect::PutReply(Box::new(answered.clone()))];
    store.apply_rows(new, &rows).expect("applies");
    store.commit(Durability::Process).expect("commits");
    let kept: Vec<(Key, Vec<Effect>)> = image(&store)
        .into_iter()
        .map(|(key, rows, _)| (key, rows))
        .filter(|(at, _)| *at >= key(3))
        .collect();
    assert_eq!(kept, [(key(4), vec![Effect::PutReply(Box::new(answered))])]);
    let other = store.reply(SLICE, SessionId(1), Slot(2)).expect("reads");
    assert!(other.is_some(), "the lower half is not touched");
}

fn a_range_is_cleared_in_steps(mut store: impl Store) {
    store.apply_rows(SLICE, &everything()).expect("applies");
    let big = row(flare(2, 1), Layout::Segments, 3);
    let data = [put(big.clone()), write(flare(2, 1), 0, b"abc")];
    store.apply_rows(SLICE, &data).expect("applies");
    let other = [Effect::PutReply(Box::new(reply(key(4), 1, 2, 1)))];
    store.apply_rows(SliceId(2), &other).expect("applies");
    apply(&mut store, 1, vec![]);
    let mut steps = 0;
    while store.clear_range(key(2), key(8), 1).expect("clears") {
        store.commit(Durability::Process).expect("commits");
        steps += 1;
        assert!(steps < 9, "it never ends");
    }
    store.commit(Durability::Process).expect("commits");
    assert_eq!(steps, 1);
    let left: Vec<Key> = image(&store).iter().map(|(key, ..)| *key).collect();
    assert_eq!(left, [key(1), key(9)]);
    assert_eq!(store.read(&big, 0, 3).expect("reads"), &b""[..]);
    assert!(store.clear_range(Key::MIN, Key::MAX, 0).expect("clears"));
    assert_eq!(
        store.position(SLICE).expect("reads"),
        Some((Epoch(1), Seq(1)))
    );
}

fn a_rollback_leaves_nothing(mut store: impl Store) {
    let (file, small) = (flare(1, 1), flare(2, 1));
    apply(
        &mut store,
        1,
        vec![
            put(row(file, Layout::Segments, 3)),
            write(file, 0, b"abc"),
            put(row(small, Layout::Inline, 3)),
            write(small, 0, b"xyz"),
        ],
    );
    let before = image(&store);
    store.begin().expect("begins");
    let grown = row(small, Layout::Segments, 20);
    let longer = row(file, Layout::Segments, 9);
    let effects = vec![
        put(grown),
        Effect::Spill(small),
        write(small, 10, b"0123456789"),
        put(longer.clone()),
        write(file, 3, b"defghi"),
        Effect::DropFlare(file),
        put(row(flare(3, 1), Layout::Segments, 1)),
        write(flare(3, 1), 0, b"x"),
    ];
    store.apply(&record(SLICE, 2, effects)).expect("applies");
    assert_eq!(
        store.position(SLICE).expect("reads"),
        Some((Epoch(1), Seq(2)))
    );
    store.rollback().expect("rolls back");
    assert_eq!(image(&store), before);
    assert_eq!(
        store.position(SLICE).expect("reads"),
        Some((Epoch(1), Seq(1)))
    );
    // Nothing of what was written past the end shows when the file grows.
    apply(&mut store, 2, vec![put(longer.clone())]);
    assert_eq!(content(&store, &longer), &b"abc\0\0\0\0\0\0"[..]);
    assert!(store.flare(key(3)).expect("reads").is_none());
    assert_eq!(store.unsettled(Key::MIN, Key::MAX, 9).expect("reads"), []);
}

fn a_refused_effect_undoes_its_transaction(mut store: impl Store) {
    let file = flare(1, 1);
    apply(&mut store, 1, vec![put(row(file, Layout::Inline, 0))]);
    store.begin().expect("begins");
    let good = record(SLICE, 2, vec![put(row(flare(2, 1), Layout::Inline, 0))]);
    store.apply(&good).expect("applies");
    let bad = record(SLICE, 3, vec![write(file, INLINE_MAX, b"x")]);
    store.apply(&bad).expect_err("does not fit");
    let more = record(SLICE, 4, vec![put(row(flare(3, 1), Layout::Inline, 0))]);
    store.apply(&more).expect_err("nothing more is taken");
    assert_eq!(
        store.flare(key(1)).expect("reads").map(|row| row.inc),
        Some(stamp(1))
    );
    store.commit(Durability::Process).expect_err("is refused");
    assert_eq!(store.count_flares(Key::MIN, Key::MAX).expect("reads"), 1);
    assert_eq!(
        store.position(SLICE).expect("reads"),
        Some((Epoch(1), Seq(1)))
    );
    apply(
        &mut store,
        2,
        vec![put(row(flare(2, 1), Layout::Inline, 0))],
    );
    assert_eq!(store.count_flares(Key::MIN, Key::MAX).expect("reads"), 2);
}

fn the_clock_never_falls(mut store: impl Store) {
    assert_eq!(store.clock_ceiling().expect("reads"), 0);
    for nanos in [u64::MAX - 5, 7] {
        store.begin().expect("begins");
        store.set_clock_ceiling(nanos).expect("sets");
        store.commit(Durability::Disk).expect("commits");
        assert_eq!(store.clock_ceiling().expect("reads"), u64::MAX - 5);
    }
    let space = store.space().expect("is known");
    assert!(space.free <= space.total && space.total > 0);
}
