//! What only the store on disk can do wrong.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::samples::{
    SLICE, content, create, flare, image, key, killed, put, record, row, stamp, write,
};
use crate::effect::{Effect, Record};
use crate::flare::{FlareRow, Layout};
use crate::ids::{Epoch, FlareRef, Seq};
use crate::key::Key;
use crate::store::sqlite::{CONTENT_DIRECTORY, DATABASE_FILE, SqliteStore};
use crate::store::{Durability, Store, StoreError, StoreResult, View, schema};

fn apply(store: &mut SqliteStore, seq: u64, effects: Vec<Effect>) -> StoreResult<()> {
    store.begin()?;
    store.apply(&record(SLICE, seq, effects))?;
    store.commit(Durability::Process)
}

fn content_files(directory: &Path) -> usize {
    let parts = fs::read_dir(directory.join(CONTENT_DIRECTORY)).expect("is there");
    // The record of writes lies beside the parts.
    let parts = parts.map(|part| part.expect("is read").path());
    let files = parts
        .filter(|part| part.is_dir())
        .flat_map(|part| fs::read_dir(part).expect("is there"));
    files
        .map(|file| file.expect("is read").path())
        .filter(|file| file.extension().is_none_or(|end| end != "crc"))
        .count()
}

#[test]
fn everything_is_there_after_reopening() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = SqliteStore::open(dir.path()).expect("opens");
    let file = flare(1, 1);
    let effects = vec![put(row(file, Layout::Segments, 3)), write(file, 0, b"abc")];
    apply(&mut store, 1, effects).expect("applies");
    store.begin().expect("begins");
    store.set_meta("name", b"value").expect("sets");
    store.set_clock_ceiling(77).expect("sets");
    store.commit(Durability::Disk).expect("commits");
    let before = image(&store);
    // A transaction that is open when the store is dropped is not kept.
    store.begin().expect("begins");
    store.set_meta("name", b"other").expect("sets");
    drop(store);

    let store = SqliteStore::open(dir.path()).expect("opens again");
    assert_eq!(image(&store), before);
    assert_eq!(store.meta("name").expect("reads"), Some(b"value".to_vec()));
    assert_eq!(store.meta("absent").expect("reads"), None);
    assert_eq!(store.clock_ceiling().expect("reads"), 77);
    assert_eq!(
        store.position(SLICE).expect("reads"),
        Some((Epoch(1), Seq(1)))
    );
    let place = store.content_place(&row(file, Layout::Segments, 3));
    assert_eq!(fs::read(place).expect("is a file"), b"abc");
}

#[test]
fn a_newer_schema_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(SqliteStore::open(dir.path()).expect("opens"));
    let raw = rusqlite::Connection::open(dir.path().join(DATABASE_FILE)).expect("opens");
    raw.pragma_update(None, "user_version", schema::VERSION + 1)
        .expect("sets");
    drop(raw);
    match SqliteStore::open(dir.path()) {
        Err(StoreError::TooNew { found, known, .. }) => {
            assert_eq!((found, known), (schema::VERSION + 1, schema::VERSION));
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn inline_content_of_the_first_version_is_moved() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = SqliteStore::open(dir.path()).expect("opens");
    let file = flare(1, 1);
    let effects = vec![put(row(file, Layout::Inline, 3)), write(file, 0, b"abc")];
    apply(&mut store, 1, effects).expect("applies");
    let before = image(&store);
    drop(store);
    // As the first version had it.
    let raw = rusqlite::Connection::open(dir.path().join(DATABASE_FILE)).expect("opens");
    raw.execute_batch(
        "INSERT INTO flares (key, part, name, unsettled, row)
             SELECT key, 3, x'', 0, data FROM contents;
         DROP TABLE contents;
         PRAGMA user_version = 1;",
    )
    .expect("goes back");
    drop(raw);

    let store = SqliteStore::open(dir.path()).expect("migrates");
    assert_eq!(image(&store), before);
    let row = store.flare(file.key()).expect("reads").expect("is there");
    assert_eq!(store.read(&row, 0, 3).expect("reads"), &b"abc"[..]);
}

#[test]
fn a_damaged_row_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = SqliteStore::open(dir.path()).expect("opens");
    apply(&mut store, 1, create(1)).expect("applies");
    drop(store);
    let raw = rusqlite::Connection::open(dir.path().join(DATABASE_FILE)).expect("opens");
    raw.execute("UPDATE flares SET row = x'c1'", [])
        .expect("sets");
    drop(raw);
    let store = SqliteStore::open(dir.path()).expect("opens");
    let error = store.rows_of_next_key(None, Key::MAX).expect_err("damaged");
    assert!(
        matches!(
            error,
            StoreError::Damaged {
                table: "flares",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_kill_leaves_what_was_committed() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = SqliteStore::open(dir.path()).expect("opens");
    let (file, orphan) = (flare(1, 1), flare(2, 1));
    let effects = vec![put(row(file, Layout::Segments, 3)), write(file, 0, b"abc")];
    apply(&mut store, 1, effects).expect("applies");
    let before = image(&store);
    store.begin().expect("begins");
    let longer = row(file, Layout::Segments, 9);
    let effects = vec![
        put(longer.clone()),
        write(file, 3, b"defghi"),
        put(row(orphan, Layout::Segments, 1)),
        write(orphan, 0, b"x"),
    ];
    store.apply(&record(SLICE, 2, effects)).expect("applies");
    let stranger = dir.path().join(CONTENT_DIRECTORY).join("01/notes.txt");
    fs::write(&stranger, "not ours").expect("writes");

    let dir = killed(dir.path());
    assert_eq!(content_files(dir.path()), 3);
    let mut store = SqliteStore::open(dir.path()).expect("opens after a kill");
    assert_eq!(image(&store), before);
    // The orphan is swept, the stranger is not, and the file is as long as its row says.
    assert_eq!(content_files(dir.path()), 2);
    apply(&mut store, 2, vec![put(longer.clone())]).expect("applies");
    assert_eq!(content(&store, &longer), &b"abc\0\0\0\0\0\0"[..]);
}

#[test]
fn a_batch_without_writes_leaves_no_transaction() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = SqliteStore::open(dir.path()).expect("opens");
    for durability in [Durability::Process, Durability::Disk] {
        store.begin().expect("begins");
        store.commit(durability).expect("commits");
        store.begin().expect("begins");
        assert_eq!(store.flare(key(1)).expect("reads"), None);
        store.commit(durability).expect("commits");
    }
    // Reading first, then writing, then reading what was written.
    store.begin().expect("begins");
    assert_eq!(store.flare(key(1)).expect("reads"), None);
    let effects = vec![put(row(flare(1, 1), Layout::Inline, 0))];
    store.apply(&record(SLICE, 1, effects)).expect("applies");
    assert!(store.flare(key(1)).expect("reads").is_some());
    store.commit(Durability::Disk).expect("commits");
    assert!(store.flare(key(1)).expect("reads").is_some());
}

/// Unfinished rows must be found without a walk through the finished ones.
#[test]
fn lookups_use_their_indexes() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(SqliteStore::open(dir.path()).expect("opens"));
    let raw = rusqlite::Connection::open(dir.path().join(DATABASE_FILE)).expect("opens");
    for sql in crate::store::sqlite::SEARCHES {
        let mut plan = raw
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .expect("prepares");
        let columns = plan.parameter_count();
        let steps: Vec<String> = plan
            .query_map(rusqlite::params_from_iter(vec![0; columns]), |row| {
                row.get(3)
            })
            .expect("explains")
            .collect::<Result<_, _>>()
            .expect("reads");
        for step in steps {
            let walks_a_table = step.starts_with("SCAN") && !step.contains("subquery");
            assert!(!walks_a_table, "{sql}: {step}");
        }
    }
}

/// A small file system of its own, gone with the thread that made it: the mount lives in a
/// mount namespace of this thread. `None` where we may not do that.
fn on_a_small_disk<T: Send>(bytes: u64, test: impl FnOnce(&Path) -> T + Send) -> Option<T> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path();
    let run = move || {
        let target = CString::new(path.as_os_str().as_bytes()).expect("has no NUL");
        let options = CString::new(format!("size={bytes}")).expect("has no NUL");
        let none = std::ptr::null();
        // SAFETY: all pointers are to strings that end with NUL and outlive the calls, or null
        // where mount(2) allows it. The namespace is unshared for this thread alone.
        let mounted = unsafe {
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(
                    none,
                    c"/".as_ptr(),
                    none,
                    libc::MS_REC | libc::MS_PRIVATE,
                    none.cast(),
                ) == 0
                && libc::mount(
                    c"tmpfs".as_ptr(),
                    target.as_ptr(),
                    c"tmpfs".as_ptr(),
                    0,
                    options.as_ptr().cast(),
                ) == 0
        };
        mounted.then(|| test(path))
    };
    std::thread::scope(|scope| scope.spawn(run).join()).expect("the test passes")
}

/// A file that fills the disk, with its content in its row or in a file.
fn filler(n: u64, layout: Layout) -> (FlareRow, Vec<u8>) {
    let key = Key::of_path(&n.to_be_bytes());
    let size = match layout {
        Layout::Inline => 4_000,
        Layout::Segments => 40_000,
    };
    let row = row(FlareRef(key, stamp(n)), layout, size);
    (row, vec![n as u8; size as usize])
}

fn filling(n: u64, layout: Layout) -> Record {
    let (row, data) = filler(n, layout);
    let data = write(row.flare_ref(), 0, &data);
    record(SLICE, n, vec![put(row), data])
}

fn assert_filled(store: &SqliteStore, upto: u64, layout: Layout) {
    let position = store.position(SLICE).expect("reads");
    assert_eq!(position.map(|(_, seq)| seq.0), Some(upto));
    let count = store.count_flares(Key::MIN, Key::MAX).expect("counts");
    assert_eq!(count, upto);
    for n in 1..=upto {
        let (row, data) = filler(n, layout);
        assert_eq!(store.flare(row.key).expect("reads").as_ref(), Some(&row));
        assert_eq!(content(store, &row), data);
    }
}

/// Applies until the disk is full, and checks that nothing of the refused batch was kept.
fn fill(mut store: SqliteStore, layout: Layout) -> u64 {
    const GROUP: u64 = 8;
    for done in (0..10_000).step_by(GROUP as usize) {
        store.begin().expect("begins");
        let applied = (1..=GROUP).try_for_each(|n| store.apply(&filling(done + n, layout)));
        let kept = store.commit(Durability::Process);
        assert!(applied.is_ok() || kept.is_err(), "a refused batch was kept");
        if let Err(error) = applied.and(kept) {
            assert!(matches!(error, StoreError::Full { .. }), "{error}");
            assert_eq!(error.op_error(), crate::error::OpError::NoSpace);
            assert_filled(&store, done, layout);
            return done;
        }
    }
    panic!("the disk never filled up");
}

#[test]
fn a_full_disk_keeps_nothing_half() {
    for layout in [Layout::Inline, Layout::Segments] {
        let mounted = on_a_small_disk(4 << 20, |directory| {
            let upto = fill(SqliteStore::open(directory).expect("opens"), layout);
            let store = SqliteStore::open(directory).expect("opens a full disk");
            assert_filled(&store, upto, layout);
        });
        if mounted.is_some() {
            continue;
        }
        // Not allowed to mount. SQLite's own limit stands in for that of the disk; content
        // files have no such stand-in.
        let dir = tempfile::tempdir().expect("a directory");
        let store = SqliteStore::open(dir.path()).expect("opens");
        store.limit_pages(200).expect("limits");
        fill(store, layout);
    }
}
