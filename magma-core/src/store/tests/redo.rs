//! What stands only in the redo log.

use std::fs;
use std::path::Path;

use super::samples::{SLICE, content, flare, image, key, killed, put, record, row, write};
use crate::effect::Effect;
use crate::flare::Layout;
use crate::ids::Seq;
use crate::store::redo::REDO_FILE;
use crate::store::sqlite::SqliteStore;
use crate::store::{Durability, Store, View};

fn apply(store: &mut SqliteStore, seq: u64, effects: Vec<Effect>) {
    store.begin().expect("begins");
    store.apply(&record(SLICE, seq, effects)).expect("applies");
    store.commit(Durability::Process).expect("commits");
}

/// One small file for each number, some with content in a file.
fn create(store: &mut SqliteStore, n: u8) {
    let (layout, size) = match n.is_multiple_of(3) {
        true => (Layout::Segments, 9_000),
        false => (Layout::Inline, 90),
    };
    let file = flare(n, u64::from(n));
    let data = vec![n; size as usize];
    let effects = vec![put(row(file, layout, size)), write(file, 0, &data)];
    apply(store, n.into(), effects);
}

fn assert_created(store: &SqliteStore, upto: u8) {
    for n in 1..=upto {
        let row = store.flare(key(n)).expect("reads").expect("is there");
        assert_eq!(content(store, &row), vec![n; row.size as usize]);
    }
    let position = store.position(SLICE).expect("reads");
    assert_eq!(position.map(|(_, seq)| seq), Some(Seq(upto.into())));
    let journal = store.journal_after(SLICE, Seq(0), 1000).expect("reads");
    assert_eq!(journal.map(|records| records.len()), Some(upto.into()));
}

#[test]
fn a_kill_at_any_operation_loses_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = SqliteStore::open(dir.path()).expect("opens");
    // Commits of SQLite and new beginnings of the log lie in between.
    store.settle_often(7, 3_000);
    for n in 1..=40 {
        create(&mut store, n);
        let dir = killed(dir.path());
        assert_created(&SqliteStore::peek(dir.path()).expect("looks"), n);
        assert_created(&SqliteStore::open(dir.path()).expect("opens"), n);
    }
}

#[test]
fn a_batch_that_fails_takes_no_other_with_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = SqliteStore::open(dir.path()).expect("opens");
    for n in 1..=5 {
        create(&mut store, n);
    }
    assert_eq!(store.unsettled_operations(), 5);
    let before = image(&store);
    store.begin().expect("begins");
    let file = flare(9, 9);
    // Longer than inline content may be: the store refuses, and undoes the batch.
    let effects = vec![
        put(row(file, Layout::Inline, 9)),
        write(file, 0, &[1; 9_000]),
    ];
    assert!(store.apply(&record(SLICE, 6, effects)).is_err());
    assert!(store.commit(Durability::Process).is_err());
    assert_eq!(image(&store), before);
    create(&mut store, 6);
    assert_created(&store, 6);
    drop(store);
    assert_created(&SqliteStore::open(dir.path()).expect("opens"), 6);
}

#[test]
fn an_orderly_close_leaves_nothing_to_redo() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = SqliteStore::open(dir.path()).expect("opens");
    create(&mut store, 1);
    drop(store);
    fs::remove_file(dir.path().join(REDO_FILE)).expect("is there");
    assert_created(&SqliteStore::peek(dir.path()).expect("looks"), 1);
    // Frames that SQLite has may be lost; what comes after them is found nevertheless.
    let mut store = SqliteStore::open(dir.path()).expect("opens");
    create(&mut store, 2);
    let dir = killed(dir.path());
    assert_created(&SqliteStore::open(dir.path()).expect("opens"), 2);
}

/// The names and contents of what is in a directory, without its directories.
fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(directory).expect("is there").flatten();
    let mut files: Vec<_> = files
        .filter(|file| file.path().is_file())
        .map(|file| {
            let name = file.file_name().to_string_lossy().into_owned();
            (name, fs::read(file.path()).expect("is read"))
        })
        // SQLite's index of its log is made anew by whoever opens it.
        .filter(|(name, _)| !name.ends_with("-shm"))
        .collect();
    files.sort();
    files
}

#[test]
fn looking_writes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = SqliteStore::open(dir.path()).expect("opens");
    store.settle_often(2, u64::MAX);
    for n in 1..=5 {
        create(&mut store, n);
    }
    let dir = killed(dir.path());
    let before = files(dir.path());
    let mut looking = SqliteStore::peek(dir.path()).expect("looks");
    assert_created(&looking, 5);
    assert!(looking.set_meta("name", b"value").is_err());
    drop(looking);
    assert!(files(dir.path()) == before, "something was written");
}
