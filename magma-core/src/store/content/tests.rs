use bytes::Bytes;

use super::*;
use crate::ids::{Epoch, Seq, SliceId, Stamp};
use crate::key::Key;
use crate::limits::WRITEBACK_BYTES;

pub(super) fn flare(path: &str) -> FlareRef {
    FlareRef(
        Key::of_path(path.as_bytes()),
        Stamp(SliceId(1), Epoch(1), Seq(1)),
    )
}

pub(super) fn files() -> (tempfile::TempDir, ContentFiles) {
    let dir = tempfile::tempdir().expect("a directory");
    let files = ContentFiles::open(&dir.path().join("content")).expect("opens");
    (dir, files)
}

#[test]
fn sparse_and_short() {
    let (_dir, files) = files();
    let file = flare("/a");
    assert_eq!(files.read_at(file, 0, 0, 10).expect("reads"), &b""[..]);
    assert_eq!(files.blocks(file).expect("stats"), 0);
    files.truncate(file, 0, 5).expect("nothing to cut");
    files.sync(file).expect("nothing to sync");

    let far = 1 << 30;
    files.write_at(file, 0, far, b"end").expect("writes");
    assert!(files.blocks(file).expect("stats") < 1024, "not sparse");
    assert_eq!(
        files.read_at(file, 0, far - 2, 99).expect("reads"),
        &b"\0\0end"[..]
    );
    assert_eq!(
        files.read_at(file, 0, far + 3, 99).expect("reads"),
        &b""[..]
    );
    assert_eq!(
        files.read_at(file, 0, u64::MAX, 99).expect("reads"),
        &b""[..]
    );
    files.sync(file).expect("syncs");
    files.sync(file).expect("syncs again");

    files.truncate(file, 0, far + 1).expect("cuts");
    assert_eq!(files.read_at(file, 0, far, 99).expect("reads"), &b"e"[..]);
    files.remove(file).expect("removes");
    files.remove(file).expect("twice is once");
    assert_eq!(files.read_at(file, 0, far, 99).expect("reads"), &b""[..]);
}

#[test]
fn cached_reads_never_open() {
    let (dir, files) = files();
    let file = flare("/a");
    files.write_at(file, 0, 0, b"hello").expect("writes");
    // The temporary directory may be on a file system without NOWAIT: then it is never served.
    if let Some(data) = files.try_read_cached(file, 0, 1, 99).expect("reads") {
        assert_eq!(data, &b"ello"[..]);
        let past = files.try_read_cached(file, 0, 9, 9).expect("reads");
        assert_eq!(past, Some(Bytes::new()));
    }
    let fresh = ContentFiles::open(&dir.path().join("content")).expect("opens");
    assert_eq!(fresh.try_read_cached(file, 0, 0, 5).expect("reads"), None);
}

#[test]
fn descriptors_are_bounded_and_writes_survive_eviction() {
    let (_dir, files) = files();
    let many: Vec<FlareRef> = (0..CONTENT_FDS + 20)
        .map(|n| flare(&format!("/{n}")))
        .collect();
    for (n, file) in many.iter().enumerate() {
        files
            .write_at(*file, 0, 0, &n.to_be_bytes())
            .expect("writes");
    }
    for (n, file) in many.iter().enumerate() {
        assert_eq!(
            files.read_at(*file, 0, 0, 8).expect("reads"),
            &n.to_be_bytes()[..]
        );
    }
    // Readers elsewhere, while the writer removes.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for file in &many {
                files.read_at(*file, 0, 0, 8).expect("reads");
            }
        });
        for file in &many {
            files.remove(*file).expect("removes");
        }
    });
    for file in &many {
        assert_eq!(files.read_at(*file, 0, 0, 8).expect("reads"), &b""[..]);
    }
}

#[test]
fn write_back_becomes_due() {
    let (_dir, files) = files();
    let file = flare("/big");
    let piece = vec![7; 1 << 20];
    let pieces = WRITEBACK_BYTES / piece.len() as u64;
    for n in 0..pieces {
        assert!(files.due_writeback().is_empty());
        files
            .write_at(file, 0, n * piece.len() as u64, &piece)
            .expect("writes");
    }
    let due = files.due_writeback();
    let whole = WritebackRange {
        flare: file,
        segment: 0,
        offset: 0,
        len: WRITEBACK_BYTES,
    };
    assert_eq!(due, [whole]);
    files.start_writeback(whole).expect("starts");
    files.readahead(file, 0, WRITEBACK_BYTES).expect("advises");
}
