//! Content whose disk errs, and processes that end between content and sum.

use std::fs;
use std::os::unix::fs::FileExt;

use proptest::prelude::{Just, Strategy, prop_oneof};
use proptest::{collection, proptest};

use super::in_flight::Span;
use super::name::FileId;
use super::scrub::Scrubbed;
use super::sums::BLOCK_LEN;
use super::tests::{files, flare};
use super::{BLOCK, ContentFiles, OpenOptions};
use crate::ids::FlareRef;
use crate::limits::SCRUB_PIECE;
use crate::store::StoreError;

/// Changes a byte behind the store's back.
fn flip(files: &ContentFiles, file: FlareRef, offset: u64) {
    let disk = OpenOptions::new()
        .read(true)
        .write(true)
        .open(files.path(file, 0))
        .expect("opens");
    let mut byte = [0];
    disk.read_exact_at(&mut byte, offset).expect("reads");
    disk.write_all_at(&[byte[0] ^ 1], offset).expect("writes");
}

fn bad(files: &ContentFiles, file: FlareRef) -> Vec<u64> {
    files.read_checked(file, 0, 0, 1 << 24).expect("reads").bad
}

#[test]
fn a_flipped_bit_is_an_error_and_only_where_it_is() {
    let (_dir, files) = files();
    let file = flare("/a");
    let data = vec![7; 3 * BLOCK_LEN + 100];
    files.write_at(file, 0, 0, &data).expect("writes");
    flip(&files, file, BLOCK + 5);
    assert!(matches!(
        files.read_at(file, 0, 0, data.len()),
        Err(StoreError::BadBlock { offset: BLOCK, .. })
    ));
    assert!(files.read_at(file, 0, BLOCK + 4000, 10).is_err());
    assert_eq!(
        files.read_at(file, 0, 2 * BLOCK, 9999).expect("reads"),
        &data[2 * BLOCK_LEN..]
    );
    assert_eq!(
        files.try_read_cached(file, 0, BLOCK, 10).expect("reads"),
        None
    );
    // Written over as a whole it is good again.
    files
        .write_at(file, 0, BLOCK, &data[..BLOCK_LEN])
        .expect("writes");
    assert_eq!(bad(&files, file), []);
}

#[test]
fn writing_beside_what_is_lost_does_not_make_it_good() {
    let (_dir, files) = files();
    let file = flare("/a");
    files.write_at(file, 0, 0, &[7; 5000]).expect("writes");
    flip(&files, file, 100);
    files.write_at(file, 0, 200, b"more").expect("writes");
    assert_eq!(bad(&files, file), [0]);
    files.punch(file, 0, 10, 20).expect("punches");
    assert_eq!(bad(&files, file), [0]);
    files.truncate(file, 0, 3000).expect("cuts");
    assert_eq!(bad(&files, file), [0]);
    assert_eq!(
        files.take_bad(99).into_iter().collect::<Vec<_>>(),
        [(file, 0)]
    );
    files.truncate(file, 0, 0).expect("cuts");
    assert_eq!(bad(&files, file), []);
}

#[test]
fn lost_ends_and_lost_files_are_noticed() {
    let (dir, files) = files();
    let file = flare("/a");
    let again = || ContentFiles::open(&dir.path().join("content")).expect("opens");
    files.write_at(file, 0, 0, &[7; 9000]).expect("writes");
    let disk = OpenOptions::new()
        .write(true)
        .open(files.path(file, 0))
        .expect("opens");
    disk.set_len(BLOCK).expect("loses its end");
    assert_eq!(bad(&files, file), [1, 2]);
    assert_eq!(
        files.try_read_cached(file, 0, 0, 9000).expect("reads"),
        None
    );
    fs::remove_file(files.path(file, 0)).expect("is lost");
    assert_eq!(bad(&again(), file), [0, 1, 2]);
    let (_dir, files) = self::files();
    files.write_at(file, 0, 0, &[7; 9000]).expect("writes");
    let directory = files.directory().to_path_buf();
    fs::remove_file(FileId(file, 0).sums_path(&directory)).expect("is lost");
    let again = ContentFiles::open(&directory).expect("opens");
    assert_eq!(bad(&again, file), [0, 1, 2]);
}

#[test]
fn mended_by_the_sum_or_surely() {
    let (_dir, files) = files();
    let file = flare("/a");
    let data: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();
    files.write_at(file, 0, 0, &data).expect("writes");
    flip(&files, file, 1);
    flip(&files, file, BLOCK + 1);
    let mut other = data.clone();
    other[BLOCK_LEN] ^= 4;
    assert!(!files.mend(file, 0, 0, &other, false).expect("mends one"));
    assert_eq!(bad(&files, file), [1]);
    assert!(
        files
            .mend(file, 0, BLOCK, &data[BLOCK_LEN..], false)
            .expect("mends")
    );
    assert_eq!(files.read_at(file, 0, 0, 1 << 20).expect("reads"), data);
    files.mark_bad(file, 0, 2 * BLOCK, 10).expect("marks");
    assert_eq!(bad(&files, file), [2]);
    let last = &data[2 * BLOCK_LEN..];
    assert!(
        !files
            .mend(file, 0, 2 * BLOCK, last, false)
            .expect("has no sum")
    );
    assert!(files.mend(file, 0, 2 * BLOCK, last, true).expect("mends"));
    assert_eq!(files.read_at(file, 0, 0, 1 << 20).expect("reads"), data);
}

#[test]
fn a_process_that_ends_between_sum_and_content_leaves_no_bad_block() {
    let (_dir, files) = files();
    let file = flare("/a");
    files.write_at(file, 0, 0, &[7; 9000]).expect("writes");
    let open = files
        .existing(FileId(file, 0))
        .expect("opens")
        .expect("is there");
    let span = Span::new(FileId(file, 0), (1, 4));
    files.note(&span).expect("notes");
    open.sums.write(1, &[1, 2, 3]).expect("writes");
    assert_eq!(bad(&files, file), [1, 2, 3]);
    files.recover().expect("recovers");
    assert_eq!(bad(&files, file), []);
    assert_eq!(
        files.read_at(file, 0, 0, 9999).expect("reads"),
        &[7; 9000][..]
    );
    // A block that was bad before stays so.
    let span = Span {
        bad_first: true,
        ..Span::new(FileId(file, 0), (0, 2))
    };
    files.note(&span).expect("notes");
    files.recover().expect("recovers");
    assert_eq!(bad(&files, file), [0]);
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, usize, u8),
    Truncate(u64),
    Punch(u64, u64),
    Reserve(u64, u64),
}

fn change() -> impl Strategy<Value = Change> {
    let at = || prop_oneof![0..5 * BLOCK, (0..5_u64).prop_map(|block| block * BLOCK)];
    let len = || prop_oneof![1..2 * BLOCK, Just(BLOCK)];
    prop_oneof![
        (at(), len(), 0..4_u8).prop_map(|(at, len, byte)| Change::Write(at, len as usize, byte)),
        at().prop_map(Change::Truncate),
        (at(), len()).prop_map(|(at, len)| Change::Punch(at, len)),
        (at(), len()).prop_map(|(at, len)| Change::Reserve(at, len)),
    ]
}

proptest! {
    /// Whatever is done to content, every block has its sum, and holds what a plain file would.
    #[test]
    fn sums_follow_every_change(changes in collection::vec(change(), 1..30)) {
        let (_dir, files) = files();
        let file = flare("/a");
        let mut model: Vec<u8> = Vec::new();
        for change in changes {
            match change {
                Change::Write(at, len, byte) => {
                    files.write_at(file, 0, at, &vec![byte; len]).expect("writes");
                    let at = at as usize;
                    if model.len() < at + len {
                        model.resize(at + len, 0);
                    }
                    model[at..at + len].fill(byte);
                }
                Change::Truncate(len) => {
                    files.truncate(file, 0, len).expect("cuts");
                    model.truncate(len as usize);
                }
                Change::Punch(at, len) => {
                    files.punch(file, 0, at, len).expect("punches");
                    let end = model.len().min((at + len) as usize);
                    if let Some(hole) = model.get_mut(at as usize..end) {
                        hole.fill(0);
                    }
                }
                Change::Reserve(at, len) => {
                    files.reserve(file, 0, at, len, true).expect("reserves");
                }
            }
            assert_eq!(bad(&files, file), []);
            let data = files.read_at(file, 0, 0, 1 << 24).expect("reads");
            assert_eq!(data, model);
        }
    }
}

#[test]
fn a_scrub_finds_what_nobody_has_read() {
    let (_dir, files) = files();
    let file = flare("/a");
    let id = FileId(file, 0);
    let len = 2 * SCRUB_PIECE + 3 * BLOCK_LEN + 100;
    let data: Vec<u8> = (0..len).map(|n| (n / 7) as u8).collect();
    files.write_at(file, 0, 0, &data).expect("writes");
    files.sync(file).expect("syncs");
    let part = file.key().0[0];
    let listed = files.files_of_part(part).expect("lists");
    assert_eq!(listed.into_iter().collect::<Vec<_>>(), [id]);
    assert!(files.files_of_part(!part).expect("lists").is_empty());
    let walk = || {
        let mut all = Scrubbed::default();
        while !all.end {
            let found = files.scrub(id, all.bytes).expect("scrubs");
            all.bytes += found.bytes;
            all.damaged += found.damaged;
            all.rewritten += found.rewritten;
            all.end = found.end;
        }
        all
    };
    let clean = Scrubbed {
        bytes: len as u64,
        end: true,
        ..Scrubbed::default()
    };
    assert_eq!(walk(), clean);
    // Through the page cache and past it, in the middle, at a border, in the last part of a block.
    let last = len as u64 - 1;
    let offsets = [5 * BLOCK + 7, SCRUB_PIECE as u64, last];
    for offset in offsets {
        flip(&files, file, offset);
    }
    assert_eq!((walk().damaged, walk().rewritten), (3, 0));
    let blocks = offsets.map(|offset| (file, offset - offset % BLOCK));
    assert_eq!(files.bad_waiting(), 3);
    assert_eq!(
        files.take_bad(1).into_iter().collect::<Vec<_>>(),
        [blocks[0]]
    );
    assert_eq!(
        files.take_bad(9).into_iter().collect::<Vec<_>>(),
        blocks[1..]
    );
    assert_eq!(files.bad_waiting(), 0);
    files.truncate(file, 0, 0).expect("cuts");
    files.write_at(file, 0, 0, &data).expect("writes");
    assert_eq!(walk(), clean);
}

#[test]
fn a_scrub_finds_a_file_that_is_gone_and_sums_that_are() {
    let (_dir, files) = files();
    let (gone, bare) = (flare("/gone"), flare("/bare"));
    for file in [gone, bare] {
        files
            .write_at(file, 0, 0, &[7; 2 * BLOCK_LEN])
            .expect("writes");
    }
    fs::remove_file(files.path(gone, 0)).expect("removes");
    fs::remove_file(FileId(bare, 0).sums_path(files.directory())).expect("removes");
    let again = ContentFiles::open(files.directory()).expect("opens");
    for file in [gone, bare] {
        let part = file.key().0[0];
        assert_eq!(again.files_of_part(part).expect("lists").len(), 1);
        let found = again.scrub(FileId(file, 0), 0).expect("scrubs");
        assert_eq!((found.damaged, found.rewritten, found.end), (2, 0, true));
    }
    assert_eq!(again.bad_waiting(), 4);
}
