//! Rows to test with.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use tempfile::TempDir;

use crate::effect::{ContentWrite, Effect, Record};
use crate::flare::{
    EntryRow, FlareRow, Kind, Layout, LinkRow, LinkState, Name, OutboxRow, Prepared, ReplyRow,
};
use crate::ids::{Epoch, FlareRef, Seq, SessionId, SliceId, Slot, SlotSeq, Stamp, TxId};
use crate::key::Key;
use crate::store::{Store, View};
use crate::time::Timestamp;

pub(super) const SLICE: SliceId = SliceId(1);

pub(super) fn stamp(seq: u64) -> Stamp {
    Stamp(SLICE, Epoch(1), Seq(seq))
}

/// A key with this first byte.
pub(super) fn key(first: u8) -> Key {
    let mut key = Key::of_path(&[first]);
    key.0[0] = first;
    key
}

pub(super) fn flare(first: u8, inc: u64) -> FlareRef {
    FlareRef(key(first), stamp(inc))
}

pub(super) fn row(flare: FlareRef, layout: Layout, size: u64) -> FlareRow {
    FlareRow {
        key: flare.key(),
        inc: flare.inc(),
        version: flare.inc(),
        kind: Kind::File,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        size,
        nlink: 1,
        rdev: 0,
        atime: Timestamp(1_700_000_000, 1),
        mtime: Timestamp(1_700_000_000, 2),
        ctime: Timestamp(1_700_000_000, 3),
        crtime: Timestamp(1_700_000_000, 4),
        layout,
        entries: 0,
        next_cookie: 3,
        nascent: None,
        asked: 0,
        acls: None,
    }
}

pub(super) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a valid name")
}

pub(super) fn tx(n: u64) -> TxId {
    TxId(SessionId(9), Slot(2), SlotSeq(n), 0)
}

pub(super) fn entry(text: &str, child: FlareRef, cookie: u64) -> EntryRow {
    EntryRow {
        name: name(text),
        child,
        kind: Kind::File,
        cookie,
        version: child.inc(),
        prepared: None,
    }
}

pub(super) fn prepared() -> Prepared {
    Prepared {
        tx: tx(2),
        decider: key(7),
        becomes: Some((flare(8, 8), Kind::Directory)),
    }
}

pub(super) fn link(parent: FlareRef, text: &str, state: LinkState) -> LinkRow {
    LinkRow {
        parent,
        name: name(text),
        state,
    }
}

pub(super) fn reply(key: Key, session: u64, slot: u16, seq: u64) -> ReplyRow {
    ReplyRow {
        key,
        session: SessionId(session),
        slot: Slot(slot),
        seq: SlotSeq(seq),
        step: 0,
        reply: vec![0x5a; 180],
    }
}

pub(super) fn outbox(key: Key, n: u64, to: Key) -> OutboxRow {
    OutboxRow {
        key,
        tx: tx(n),
        to,
        step: b"step".to_vec(),
    }
}

pub(super) fn write(flare: FlareRef, offset: u64, data: &[u8]) -> Effect {
    Effect::Write(ContentWrite {
        flare,
        segment: 0,
        offset,
        len: data.len() as u32,
        data: Bytes::copy_from_slice(data),
    })
}

pub(super) fn put(row: FlareRow) -> Effect {
    Effect::PutFlare(Box::new(row))
}

pub(super) fn record(slice: SliceId, seq: u64, effects: Vec<Effect>) -> Record {
    Record {
        slice,
        epoch: Epoch(1),
        seq: Seq(seq),
        clock: seq,
        effects,
    }
}

/// What a create of a file changes at a volcano that owns the flare but not its parent.
pub(super) fn create(n: u64) -> Vec<Effect> {
    let path = format!("/some/directory/file-{n}");
    let flare = FlareRef(Key::of_path(path.as_bytes()), stamp(n));
    vec![
        put(row(flare, Layout::Inline, 0)),
        Effect::PutLink(
            flare.key(),
            Box::new(link(
                self::flare(1, 1),
                &format!("file-{n}"),
                LinkState::Settled,
            )),
        ),
        Effect::PutReply(Box::new(reply(flare.key(), 1, (n % 64) as u16, n))),
    ]
}

/// All content of a flare, filled with zeros up to its size.
pub(super) fn content(store: &impl View, row: &FlareRow) -> Bytes {
    let data = store
        .read(row, 0, row.size as usize)
        .expect("content is read");
    crate::store::rules::padded(data, row.size as usize)
}

/// Every row of every key with the content of flares.
pub(super) fn image(store: &impl Store) -> Vec<(Key, Vec<Effect>, Option<Bytes>)> {
    let mut image = Vec::new();
    let mut after = None;
    while let Some((key, rows)) = store
        .rows_of_next_key(after, Key::MAX)
        .expect("rows are read")
    {
        let row = store.flare(key).expect("a row is read");
        image.push((key, rows, row.map(|row| content(store, &row))));
        after = Some(key);
    }
    image
}

/// What a process that is killed now leaves of a store's directory: all that it has given to
/// the kernel, in a directory of its own.
pub(super) fn killed(directory: &Path) -> TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    copy_tree(directory, copy.path());
    copy
}

fn copy_tree(from: &Path, to: &Path) {
    for file in fs::read_dir(from).expect("is a directory") {
        let file = file.expect("is read");
        let to = to.join(file.file_name());
        if file.file_type().expect("is known").is_dir() {
            fs::create_dir(&to).expect("is made");
            copy_tree(&file.path(), &to);
        } else {
            fs::copy(file.path(), to).expect("is copied");
        }
    }
}
