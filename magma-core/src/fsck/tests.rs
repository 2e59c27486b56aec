//! Random trees are whole, and each kind of damage is found.

use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};

use super::{Checker, Finding, digest};
use crate::flare::{Kind, Name};
use crate::ids::{Epoch, FlareRef, Seq, SliceId, Stamp};
use crate::key::{Key, ROOT};
use crate::op::fsck::{FsckEntry, FsckFlare, FsckKey, FsckLink};

fn flare(n: usize) -> FlareRef {
    let key = match n {
        0 => ROOT,
        _ => Key::of_path(format!("/{n}").as_bytes()),
    };
    FlareRef(key, Stamp(SliceId(1), Epoch(1), Seq(n as u64 + 1)))
}

fn name(n: usize) -> Name {
    Name::new(format!("name{n}").as_bytes()).unwrap()
}

/// Flare `n + 1` lies below flare `parents[n]` (of those before it, when that is a directory).
fn tree(nodes: &[(usize, bool)]) -> Vec<FsckKey> {
    let mut keys = vec![key(0, Kind::Directory)];
    for (at, (parent, is_dir)) in nodes.iter().enumerate() {
        let n = at + 1;
        let mut parent = parent % n;
        while keys[parent].flare.unwrap().kind != Kind::Directory {
            parent -= 1;
        }
        let kind = if *is_dir { Kind::Directory } else { Kind::File };
        keys.push(key(n, kind));
        link(&mut keys, n, parent, n);
    }
    keys
}

fn key(n: usize, kind: Kind) -> FsckKey {
    let facts = FsckFlare {
        flare: flare(n),
        version: flare(n).inc(),
        kind,
        size: 0,
        segments: false,
        nlink: if kind == Kind::Directory { 2 } else { 0 },
        entries: 0,
    };
    FsckKey {
        key: flare(n).key(),
        digest: digest(b"row"),
        flare: Some(facts),
        ..FsckKey::default()
    }
}

/// Gives a flare a name, on both sides, with the counts.
fn link(keys: &mut [FsckKey], n: usize, parent: usize, called: usize) {
    let kind = keys[n].flare.unwrap().kind;
    keys[n].links.push(FsckLink {
        parent: flare(parent),
        name: name(called),
        settled: true,
    });
    keys[n].link_count += 1;
    let is_dir = kind == Kind::Directory;
    if !is_dir {
        keys[n].flare.as_mut().unwrap().nlink += 1;
    }
    let dir = &mut keys[parent];
    dir.entries.push(FsckEntry {
        name: name(called),
        child: flare(n),
        kind,
        settled: true,
    });
    dir.entry_count += 1;
    dir.subdirectories += u64::from(is_dir);
    let facts = dir.flare.as_mut().unwrap();
    facts.entries += 1;
    facts.nlink += u32::from(is_dir);
}

fn check(keys: &[FsckKey]) -> Vec<Finding> {
    let mut checker = Checker::default();
    for key in keys {
        checker.add(key);
    }
    assert_eq!(checker.counted(), keys.len() as u64);
    checker.finish().into_iter().collect()
}

/// What is done to a tree.
#[derive(Clone, Copy, Debug)]
enum Damage {
    DropEntry,
    DropLink,
    DropFlare,
    Type,
    Nlink,
    Entries,
    Nameless,
    Incarnation,
    Nascent,
    Cycle,
}

fn damages() -> impl Strategy<Value = Damage> {
    prop_oneof![
        Just(Damage::DropEntry),
        Just(Damage::DropLink),
        Just(Damage::DropFlare),
        Just(Damage::Type),
        Just(Damage::Nlink),
        Just(Damage::Entries),
        Just(Damage::Nameless),
        Just(Damage::Incarnation),
        Just(Damage::Nascent),
        Just(Damage::Cycle),
    ]
}

/// Damages flare `n`, which is not the root; true if the finding is among those expected.
fn plant(keys: &mut Vec<FsckKey>, n: usize, damage: Damage) -> fn(&Finding) -> bool {
    let parent = keys[n].links[0].parent;
    let at = keys.iter().position(|key| key.key == parent.key()).unwrap();
    let entry = keys[at].entries.iter().position(|e| e.child == flare(n));
    let entry = entry.unwrap();
    match damage {
        Damage::DropEntry => {
            keys[at].entries.remove(entry);
            keys[at].entry_count -= 1;
            |found| matches!(found, Finding::LinkWithoutEntry { .. })
        }
        Damage::DropLink => {
            keys[n].links.clear();
            keys[n].link_count = 0;
            |found| matches!(found, Finding::EntryWithoutLink { .. })
        }
        Damage::DropFlare => {
            keys[n].flare = None;
            |found| matches!(found, Finding::EntryWithoutFlare { .. })
        }
        Damage::Type => {
            keys[at].entries[entry].kind = Kind::Fifo;
            |found| matches!(found, Finding::WrongType { .. })
        }
        Damage::Nlink => {
            keys[n].flare.as_mut().unwrap().nlink += 1;
            |found| matches!(found, Finding::WrongLinks { .. })
        }
        Damage::Entries => {
            keys[at].flare.as_mut().unwrap().entries += 1;
            |found| matches!(found, Finding::WrongEntries { .. })
        }
        Damage::Nameless => {
            let extra = keys.len();
            keys.push(key(extra, Kind::File));
            |found| matches!(found, Finding::Orphan { .. })
        }
        Damage::Incarnation => {
            keys[at].entries[entry].child.1 = Stamp(SliceId(9), Epoch(9), Seq(9));
            |found| matches!(found, Finding::EntryWithoutFlare { .. })
        }
        Damage::Nascent => {
            keys[n].unfinished = 7;
            |found| matches!(found, Finding::Unfinished { what: 7, .. })
        }
        Damage::Cycle => {
            // Two directories, each below the other.
            let (one, two) = (keys.len(), keys.len() + 1);
            keys.push(key(one, Kind::Directory));
            keys.push(key(two, Kind::Directory));
            link(keys, one, two, 1);
            link(keys, two, one, 2);
            |found| matches!(found, Finding::Unreachable { .. })
        }
    }
}

proptest! {
    #[test]
    fn trees_are_whole_and_damage_is_found(
        nodes in proptest::collection::vec((any::<usize>(), any::<bool>()), 1..40),
        more in proptest::collection::vec((any::<usize>(), any::<usize>()), 0..10),
        damage in damages(),
        at in any::<usize>(),
        turn in any::<usize>(),
    ) {
        let mut keys = tree(&nodes);
        let of = |keys: &[FsckKey], kind| -> Vec<usize> {
            let is = |n: &usize| keys[*n].flare.unwrap().kind == kind;
            (0..keys.len()).filter(is).collect()
        };
        let (files, dirs) = (of(&keys, Kind::File), of(&keys, Kind::Directory));
        for (count, (file, dir)) in more.iter().enumerate() {
            if !files.is_empty() {
                let (file, dir) = (files[file % files.len()], dirs[dir % dirs.len()]);
                link(&mut keys, file, dir, 1000 + count);
            }
        }
        // The order in which rows come does not matter.
        let len = keys.len();
        let mut turned = keys.clone();
        turned.rotate_left(turn % len);
        assert_eq!(check(&turned), []);
        let expected = plant(&mut keys, 1 + at % (len - 1), damage);
        let len = keys.len();
        keys.rotate_left(turn % len);
        let found = check(&keys);
        assert!(found.iter().any(expected), "{damage:?}: {found:?}");
    }
}

#[test]
fn a_directory_in_several_pages_adds_up() {
    let mut keys = tree(&[(0, false), (0, true), (0, false)]);
    let mut second = keys[0].clone();
    keys[0].more = Some(2);
    second.entries = keys[0].entries.split_off(2);
    keys[0].entry_count = 2;
    second.entry_count = 1;
    second.subdirectories = 0;
    let mut checker = Checker::default();
    for part in [&keys[0], &second, &keys[1], &keys[2], &keys[3]] {
        checker.add(part);
    }
    assert!(checker.finish().is_empty());
    // Changed between the pages: the counts say nothing.
    second.flare.as_mut().unwrap().version = Stamp::default();
    second.entry_count = 0;
    let mut checker = Checker::default();
    for part in [&keys[0], &second, &keys[1], &keys[2], &keys[3]] {
        checker.add(part);
    }
    assert!(checker.finish().is_empty());
}

#[test]
fn an_open_file_without_name_is_no_orphan() {
    let mut keys = tree(&[(0, false)]);
    let mut open = key(9, Kind::File);
    open.open = true;
    keys.push(open);
    assert_eq!(check(&keys), []);
}

#[test]
fn nothing_at_all_has_no_root() {
    assert_eq!(check(&[]), [Finding::NoRoot]);
}
