//! Random operations on both stores: they must answer alike, all the time.

use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};
use proptest::test_runner::TestCaseError;
use proptest::{prop_assert_eq, proptest};

use super::samples::{
    SLICE, entry, flare, image, key, killed, link, name, outbox, put, record, reply, row, tx, write,
};
use crate::effect::Effect;
use crate::flare::{Decision, Layout, LinkState};
use crate::ids::{Epoch, FlareRef, Seq, SessionId, SliceId, Slot};
use crate::key::Key;
use crate::limits::INLINE_MAX;
use crate::store::memory::MemoryStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{Durability, Store, View};

/// Keys are few, so that operations meet.
const KEYS: u8 = 5;

/// A change, before it is known what it meets.
#[derive(Clone, Debug)]
enum Change {
    Create(u8, bool),
    Drop(u8, bool),
    Write(u8, u16, Vec<u8>),
    Truncate(u8, u16),
    Punch(u8, u16, u16),
    Entry(u8, u8, u64),
    DropEntry(u8, u8),
    Link(u8, u8, bool),
    DropLink(u8, u8),
    Xattr(u8, u8, Vec<u8>),
    DropXattr(u8, u8),
    Reply(u8, u16),
    DropReply(u16),
    Outbox(u8, u8),
    DropOutbox(u8, u8),
    Decide(u8, u8),
    Holder(u8, u8, bool),
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<Change>),
    Commit(bool),
    Rollback,
    /// Both are killed and opened again.
    Crash,
    Clear(u8, u8, usize),
    Cut(u8, u8),
    Trim(u64),
    Position(u64),
}

fn change() -> impl Strategy<Value = Change> {
    let at = 0..KEYS;
    let small = 0..3_u8;
    let bytes = || prop::collection::vec(1..=255_u8, 0..40);
    prop_oneof![
        3 => (at.clone(), any::<bool>()).prop_map(|(k, big)| Change::Create(k, big)),
        1 => (at.clone(), any::<bool>()).prop_map(|(k, right)| Change::Drop(k, right)),
        4 => (at.clone(), 0..10_000_u16, bytes()).prop_map(|(k, o, d)| Change::Write(k, o, d)),
        2 => (at.clone(), 0..10_000_u16).prop_map(|(k, size)| Change::Truncate(k, size)),
        2 => (at.clone(), 0..10_000_u16, 1..9_000_u16)
            .prop_map(|(k, offset, len)| Change::Punch(k, offset, len)),
        2 => (at.clone(), small.clone(), 1..9_u64).prop_map(|(k, n, c)| Change::Entry(k, n, c)),
        1 => (at.clone(), small.clone()).prop_map(|(k, n)| Change::DropEntry(k, n)),
        2 => (at.clone(), small.clone(), any::<bool>()).prop_map(|(k, n, s)| Change::Link(k, n, s)),
        1 => (at.clone(), small.clone()).prop_map(|(k, n)| Change::DropLink(k, n)),
        2 => (at.clone(), small.clone(), bytes()).prop_map(|(k, n, v)| Change::Xattr(k, n, v)),
        1 => (at.clone(), small.clone()).prop_map(|(k, n)| Change::DropXattr(k, n)),
        2 => (at.clone(), 0..4_u16).prop_map(|(k, slot)| Change::Reply(k, slot)),
        1 => (0..4_u16).prop_map(Change::DropReply),
        1 => (at.clone(), small.clone()).prop_map(|(k, n)| Change::Outbox(k, n)),
        1 => (at.clone(), small.clone()).prop_map(|(k, n)| Change::DropOutbox(k, n)),
        1 => (at.clone(), small.clone()).prop_map(|(k, n)| Change::Decide(k, n)),
        1 => (at, small, any::<bool>()).prop_map(|(k, n, put)| Change::Holder(k, n, put)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => prop::collection::vec(change(), 1..5).prop_map(Step::Apply),
        4 => any::<bool>().prop_map(Step::Commit),
        1 => Just(Step::Rollback),
        1 => Just(Step::Crash),
        1 => (0..KEYS, 0..KEYS, 0..3_usize).prop_map(|(a, b, n)| Step::Clear(a, b, n)),
        1 => (0..KEYS, 0..KEYS).prop_map(|(a, b)| Step::Cut(a, b)),
        1 => (0..20_u64).prop_map(Step::Trim),
        1 => (0..20_u64).prop_map(Step::Position),
    ]
}

/// What an owner would decide: as the rows are now, so that layouts and sizes hold together.
fn effects(view: &impl View, change: Change, seq: u64) -> Vec<Effect> {
    let parent = flare(0x77, 1);
    let text = |n: u8| format!("n{n}");
    let now = |k: u8| view.flare(key(k)).expect("reads");
    match change {
        Change::Create(k, big) => match now(k) {
            Some(mut row) => {
                row.mode ^= 1;
                row.nlink ^= 1;
                vec![put(row)]
            }
            None if big => vec![put(row(flare(k, seq), Layout::Segments, 0))],
            None => vec![put(row(flare(k, seq), Layout::Inline, 0))],
        },
        Change::Drop(k, right) => {
            let old = now(k).map_or(flare(k, 0), |row| row.flare_ref());
            let wrong = FlareRef(old.key(), flare(k, 1_000_000).inc());
            vec![Effect::DropFlare(if right { old } else { wrong })]
        }
        Change::Write(k, offset, data) => {
            let Some(mut row) = now(k) else {
                return vec![write(flare(k, 0), 0, &data)];
            };
            let end = u64::from(offset) + data.len() as u64;
            row.size = row.size.max(end);
            let spills = row.layout == Layout::Inline && end > INLINE_MAX;
            if spills {
                row.layout = Layout::Segments;
            }
            let file = row.flare_ref();
            let mut effects = vec![put(row)];
            effects.extend(spills.then_some(Effect::Spill(file)));
            effects.push(write(file, u64::from(offset), &data));
            effects
        }
        Change::Truncate(k, size) => {
            let Some(mut row) = now(k) else {
                return vec![Effect::Truncate(flare(k, 0), u64::from(size))];
            };
            row.size = u64::from(size);
            let file = row.flare_ref();
            vec![put(row), Effect::Truncate(file, u64::from(size))]
        }
        Change::Punch(k, offset, len) => {
            let file = now(k).map_or(flare(k, 0), |row| row.flare_ref());
            vec![Effect::Punch(file, u64::from(offset), u64::from(len))]
        }
        // A cookie belongs to one entry.
        Change::Entry(k, n, cookie) => {
            let mut row = entry(&text(n), flare(9, seq), cookie * 3 + u64::from(n));
            row.prepared = (cookie == 1).then(super::samples::prepared);
            vec![Effect::PutEntry(key(k), Box::new(row))]
        }
        Change::DropEntry(k, n) => vec![Effect::DropEntry(key(k), name(&text(n)))],
        Change::Link(k, n, settled) => {
            let state = match settled {
                true => LinkState::Settled,
                false => LinkState::Nascent(tx(seq)),
            };
            vec![Effect::PutLink(
                key(k),
                Box::new(link(parent, &text(n), state)),
            )]
        }
        Change::DropLink(k, n) => vec![Effect::DropLink(key(k), parent, name(&text(n)))],
        Change::Xattr(k, n, value) => vec![Effect::PutXattr(key(k), vec![n], value)],
        Change::DropXattr(k, n) => vec![Effect::DropXattr(key(k), vec![n])],
        Change::Reply(k, slot) => vec![Effect::PutReply(Box::new(reply(key(k), 1, slot, seq)))],
        Change::DropReply(slot) => vec![Effect::DropReply(key(0), SessionId(1), Slot(slot))],
        Change::Outbox(k, n) => vec![Effect::PutOutbox(Box::new(outbox(
            key(k),
            u64::from(n),
            key(9),
        )))],
        Change::DropOutbox(k, n) => vec![Effect::DropOutbox(key(k), tx(u64::from(n)), key(9))],
        Change::Decide(k, 0) => vec![Effect::DropDecision(key(k), tx(1))],
        Change::Decide(k, _) => vec![Effect::PutDecision(key(k), tx(1), Decision::Aborted)],
        Change::Holder(k, n, true) => vec![Effect::PutHolder(key(k), SessionId(n.into()))],
        Change::Holder(k, n, false) => vec![Effect::DropHolder(key(k), SessionId(n.into()))],
    }
}

/// The same step on any store.
fn take(store: &mut impl Store, step: &Step) -> Option<bool> {
    let at = |store: &dyn Store| {
        let position = store.position(SLICE).expect("reads");
        position.map_or(0, |(_, seq)| seq.0)
    };
    match step {
        Step::Apply(changes) => {
            let seq = at(store) + 1;
            store.begin().expect("begins");
            // Decided one by one and applied as rows, so that each sees the one before; the
            // record that follows has the last one once more.
            let mut last = Vec::new();
            for change in changes {
                last = effects(store, change.clone(), seq);
                store.apply_rows(SLICE, &last).expect("applies");
            }
            store.apply(&record(SLICE, seq, last)).expect("applies");
            None
        }
        Step::Commit(disk) => {
            let durability = match disk {
                true => Durability::Disk,
                false => Durability::Process,
            };
            store.commit(durability).expect("commits");
            None
        }
        Step::Rollback => {
            store.rollback().expect("rolls back");
            None
        }
        Step::Crash => None,
        Step::Clear(a, b, limit) => {
            let (start, end) = (key(*a.min(b)), key(*a.max(b)));
            Some(store.clear_range(start, end, *limit).expect("clears"))
        }
        Step::Cut(a, b) => {
            let (start, end) = (key(*a.min(b)), key(*a.max(b)));
            let position = (Epoch(3), Seq(7));
            store
                .cut_slice(SLICE, SliceId(2), start, end, position)
                .expect("cuts");
            None
        }
        Step::Trim(upto) => {
            store.trim_journal(SLICE, Seq(*upto)).expect("trims");
            None
        }
        Step::Position(seq) => {
            let position = (Epoch(1), Seq(at(store).max(*seq)));
            store.set_position(SLICE, position).expect("sets");
            None
        }
    }
}

fn agree(disk: &SqliteStore, memory: &MemoryStore) -> Result<(), TestCaseError> {
    prop_assert_eq!(image(disk), image(memory));
    for slice in [SLICE, SliceId(2)] {
        prop_assert_eq!(
            disk.position(slice).expect("reads"),
            memory.position(slice).expect("reads")
        );
        for after in [0, 3, 9] {
            prop_assert_eq!(
                disk.journal_after(slice, Seq(after), 9).expect("reads"),
                memory.journal_after(slice, Seq(after), 9).expect("reads")
            );
        }
    }
    let (start, end) = (key(1), key(3));
    for (start, end) in [(Key::MIN, Key::MAX), (start, end)] {
        prop_assert_eq!(
            disk.unsettled(start, end, 3).expect("reads"),
            memory.unsettled(start, end, 3).expect("reads")
        );
        prop_assert_eq!(
            disk.median_key(start, end).expect("reads"),
            memory.median_key(start, end).expect("reads")
        );
    }
    for k in 0..KEYS {
        prop_assert_eq!(
            disk.entries(key(k), 4, 2).expect("reads"),
            memory.entries(key(k), 4, 2).expect("reads")
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        cases: 48,
        ..proptest::prelude::ProptestConfig::default()
    })]

    #[test]
    fn both_stores_agree(
        steps in prop::collection::vec(step(), 1..40),
        // From a commit of SQLite each time to none at all.
        settle in prop_oneof![Just((1, 0)), Just((3, 4_000)), Just((1_000, u64::MAX))],
    ) {
        let mut dir = tempfile::tempdir().expect("a directory");
        let open = |dir: &tempfile::TempDir| {
            let mut store = SqliteStore::open(dir.path()).expect("opens");
            store.settle_often(settle.0, settle.1);
            store
        };
        let mut disk = open(&dir);
        let mut memory = MemoryStore::new();
        for step in &steps {
            prop_assert_eq!(take(&mut disk, step), take(&mut memory, step));
            if matches!(step, Step::Crash) {
                dir = killed(dir.path());
                // Whoever only looks sees the same.
                memory.crash();
                agree(&SqliteStore::peek(dir.path()).expect("looks"), &memory)?;
                disk = open(&dir);
            }
            agree(&disk, &memory)?;
        }
        drop(disk);
        memory.crash();
        agree(&SqliteStore::open(dir.path()).expect("opens again"), &memory)?;
    }
}

#[test]
fn a_loss_of_power_forgets_what_was_not_synced() {
    let mut store = MemoryStore::new();
    let file = flare(1, 1);
    let commit = |store: &mut MemoryStore, seq, effects, durability| {
        store.begin().expect("begins");
        store.apply(&record(SLICE, seq, effects)).expect("applies");
        store.commit(durability).expect("commits");
    };
    let grown = |size| row(file, Layout::Segments, size);
    let effects = vec![put(grown(3)), write(file, 0, b"abc")];
    commit(&mut store, 1, effects, Durability::Process);
    store.sync_content(file).expect("syncs");
    commit(&mut store, 2, vec![], Durability::Disk);
    let synced = image(&store);
    let effects = vec![put(grown(6)), write(file, 2, b"CDEF")];
    commit(&mut store, 3, effects, Durability::Process);
    let killed = image(&store);
    store
        .apply(&record(SLICE, 4, vec![Effect::DropFlare(file)]))
        .expect("applies");
    store.crash();
    assert_eq!(image(&store), killed);
    store.power_loss();
    assert_eq!(image(&store), synced);
    assert_eq!(
        store.position(SLICE).expect("reads"),
        Some((Epoch(1), Seq(2)))
    );
}
