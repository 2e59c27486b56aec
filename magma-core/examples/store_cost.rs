//! What a create and a read cost in the store:
//!
//!     cargo run --release -p magma-core --example store_cost

#![allow(
    clippy::print_stdout,
    reason = "a measurement for a person at a terminal"
)]

use std::error::Error;
use std::time::{Duration, Instant};

use magma_core::effect::{Effect, Record};
use magma_core::flare::{FlareRow, Kind, Layout, LinkRow, LinkState, Name, ReplyRow};
use magma_core::ids::{Epoch, FlareRef, Seq, SessionId, SliceId, Slot, SlotSeq, Stamp};
use magma_core::key::Key;
use magma_core::store::sqlite::SqliteStore;
use magma_core::store::{Durability, Store, View};
use magma_core::time::Timestamp;

const SLICE: SliceId = SliceId(1);
const CREATES: u64 = 16_384;
const READS: u64 = 10_000;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let mut store = SqliteStore::open(dir.path())?;
    let mut seq = 0;
    for group in [1, 32, 1, 32] {
        let start = Instant::now();
        for _ in 0..CREATES / group {
            store.begin()?;
            for _ in 0..group {
                seq += 1;
                store.apply(&create(seq)?)?;
            }
            store.commit(Durability::Process)?;
        }
        let each = start.elapsed() / CREATES as u32;
        println!("in groups of {group}: {each:?} a create");
    }
    store.begin()?;
    println!("in a batch: {:?} a read", each_read(&store)?);
    store.commit(Durability::Process)?;
    println!("alone: {:?} a read", each_read(&store)?);
    let start = Instant::now();
    for n in 1..=READS {
        create(n)?;
    }
    let each = start.elapsed() / READS as u32;
    println!("of which making the rows: {each:?}");
    Ok(())
}

fn each_read(store: &SqliteStore) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    for n in 1..=READS {
        store.flare(flare(n).key())?;
    }
    Ok(start.elapsed() / READS as u32)
}

fn stamp(n: u64) -> Stamp {
    Stamp(SLICE, Epoch(1), Seq(n))
}

fn flare(n: u64) -> FlareRef {
    let path = format!("/some/directory/file-{n}");
    FlareRef(Key::of_path(path.as_bytes()), stamp(n))
}

/// What a create of a file changes at a volcano that owns the flare but not its parent.
fn create(n: u64) -> Result<Record, Box<dyn Error>> {
    let flare = flare(n);
    let time = Timestamp(1_700_000_000, n as u32);
    let row = FlareRow {
        key: flare.key(),
        inc: flare.inc(),
        version: flare.inc(),
        kind: Kind::File,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        size: 0,
        nlink: 1,
        rdev: 0,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        layout: Layout::Inline,
        entries: 0,
        next_cookie: 16,
        nascent: None,
        asked: 0,
        acls: None,
    };
    let link = LinkRow {
        parent: FlareRef(Key::of_path(b"/some/directory"), stamp(1)),
        name: Name::new(format!("file-{n}").as_bytes())?,
        state: LinkState::Settled,
    };
    let reply = ReplyRow {
        key: flare.key(),
        session: SessionId(1),
        slot: Slot((n % 64) as u16),
        seq: SlotSeq(n),
        step: 0,
        reply: vec![0x5a; 180],
    };
    Ok(Record {
        slice: SLICE,
        epoch: Epoch(1),
        seq: Seq(n),
        clock: n,
        effects: vec![
            Effect::PutFlare(Box::new(row)),
            Effect::PutLink(flare.key(), Box::new(link)),
            Effect::PutReply(Box::new(reply)),
        ],
    })
}
