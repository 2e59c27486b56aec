use super::*;
use magma_core::flare::Layout;
use magma_core::ids::{Epoch, SliceId, Stamp};
use magma_core::lava::{CopyState, Volcano, VolcanoInfo};
use magma_core::time::Timestamp;

/// A store in memory: rows and content by key.
#[derive(Clone, Default)]
struct Fake(BTreeMap<Key, (Vec<Effect>, Vec<u8>)>);

impl Copy for Fake {
    fn next_key(&self, after: Option<Key>, upto: Key) -> StoreResult<Option<(Key, Vec<Effect>)>> {
        let mut keys = self.0.range(..=upto);
        let next = keys.find(|(key, _)| after.is_none_or(|after| **key > after));
        Ok(next.map(|(key, (rows, _))| (*key, rows.clone())))
    }
    fn content(&self, row: &FlareRow, offset: u64, len: usize) -> StoreResult<Bytes> {
        let content = &self.0[&row.key].1;
        let from = content.len().min(offset as usize);
        let to = content.len().min(offset as usize + len);
        Ok(Bytes::copy_from_slice(&content[from..to]))
    }
}

const ONE: VolcanoId = VolcanoId(1);
const TWO: VolcanoId = VolcanoId(2);
const LOW: Key = Key([1; 20]);
const HIGH: Key = Key([200; 20]);

fn file(key: Key, size: u64) -> Effect {
    Effect::PutFlare(Box::new(FlareRow {
        key,
        inc: Stamp::default(),
        version: Stamp::default(),
        kind: Kind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size,
        nlink: 1,
        rdev: 0,
        atime: Timestamp::default(),
        mtime: Timestamp::default(),
        ctime: Timestamp::default(),
        crtime: Timestamp::default(),
        layout: Layout::Segments,
        entries: 0,
        next_cookie: 0,
        nascent: None,
        asked: 0,
        acls: None,
    }))
}

/// Two volcanos, each with half of the key space and a copy of the other half.
fn lava() -> Lava {
    let volcano = |id: VolcanoId| Volcano {
        id,
        info: VolcanoInfo {
            nick: format!("v{id}"),
            fqdn: String::new(),
            addr: std::net::Ipv4Addr::LOCALHOST.into(),
            port: 1,
            bandwidth_kbit: 0,
            storage_bytes: 0,
            arbiter: false,
        },
        down: false,
        evicted: false,
    };
    let middle = Key([128; 20]);
    let slice = |id, start, end, owner, copy| Slice {
        id: SliceId(id),
        start,
        end,
        owner,
        home: owner,
        since: Epoch(1),
        seized: false,
        copies: vec![CopyState {
            volcano: copy,
            in_sync: true,
        }],
    };
    let below = middle.prev().unwrap();
    Lava {
        epoch: Epoch(5),
        volcanos: vec![volcano(ONE), volcano(TWO)],
        slices: vec![
            slice(1, Key::MIN, below, ONE, TWO),
            slice(2, middle, Key::MAX, TWO, ONE),
        ],
        ..Lava::default()
    }
}

fn equal_stores() -> (Fake, Fake) {
    let mut store = Fake::default();
    store.0.insert(LOW, (vec![file(LOW, 3)], b"abc".to_vec()));
    // Longer than one read, and not stored to its end.
    let size = IO_MAX as u64 + 10;
    let stored = vec![7; IO_MAX + 1];
    store.0.insert(HIGH, (vec![file(HIGH, size)], stored));
    (store.clone(), store)
}

fn findings(one: &Fake, two: &Fake) -> Findings {
    let lava = lava();
    assert!(lava.covers());
    compare(&lava, &[(ONE, one), (TWO, two)], true).unwrap()
}

fn problem(one: &Fake, two: &Fake) -> Finding {
    let findings = findings(one, two);
    assert_eq!(findings.problems, 1, "{findings:?}");
    findings.shown[0].clone()
}

#[test]
fn equal_copies_are_clean() {
    let (one, two) = equal_stores();
    let findings = findings(&one, &two);
    assert!(findings.is_clean(), "{findings:?}");
    let count = findings.counts[&ONE];
    assert_eq!((count.owned, count.copied), (1, 1));
    assert_eq!(count.bytes, IO_MAX as u64 + 10);
    assert_eq!(findings.counts[&TWO].bytes, 3);
}

#[test]
fn every_kind_of_difference_is_found_where_it_is() {
    let (one, mut two) = equal_stores();
    two.0.remove(&LOW);
    let found = problem(&one, &two);
    assert_eq!((found.key, found.volcano), (LOW, TWO));

    let (mut one, two) = equal_stores();
    one.0.remove(&LOW);
    assert!(problem(&one, &two).what.contains("owner"));

    let (one, mut two) = equal_stores();
    two.0.get_mut(&LOW).unwrap().0 = vec![file(LOW, 4)];
    assert!(problem(&one, &two).what.contains("flare's row"));

    let (one, mut two) = equal_stores();
    two.0.get_mut(&HIGH).unwrap().1[IO_MAX] = 8;
    let found = problem(&one, &two);
    assert_eq!((found.key, found.volcano), (HIGH, ONE));
    assert!(found.what.contains(&format!("byte {IO_MAX}")), "{found:?}");

    let (one, mut two) = equal_stores();
    let holder = Effect::PutHolder(LOW, magma_core::ids::SessionId(9));
    two.0.get_mut(&LOW).unwrap().0.push(holder);
    assert!(problem(&one, &two).what.contains("session 9"));
}

#[test]
fn holes_and_zeros_are_the_same() {
    let (one, mut two) = equal_stores();
    two.0.get_mut(&HIGH).unwrap().1.extend([0; 9]);
    assert!(findings(&one, &two).is_clean());
}

#[test]
fn strangers_and_absent_members_are_named() {
    let (one, two) = equal_stores();
    let mut lava = lava();
    lava.slices[0].copies.clear();
    let stores: [(VolcanoId, &dyn Copy); 2] = [(ONE, &one), (TWO, &two)];
    let strayed = compare(&lava, &stores, true).unwrap();
    assert_eq!(strayed.shown[0].what, "it is neither owner nor copy");
    let alone = compare(&lava, &stores[..1], true).unwrap();
    assert_eq!(alone.absent, BTreeSet::from([TWO]));
    assert!(alone.is_clean());
    // A copy that is being filled may have the key or not.
    lava.slices[0].copies.push(CopyState {
        volcano: TWO,
        in_sync: false,
    });
    assert!(compare(&lava, &stores, true).unwrap().is_clean());
}
