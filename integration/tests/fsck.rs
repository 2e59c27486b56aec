//! `magma fsck` on real networks: a whole tree is clean, also while work goes on; each kind of
//! damage that is planted in the stores is found, and repaired if asked to.

// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use integration::Cluster;
use integration::cluster::KEY;
use integration::mounted::can_mount;
use integration::stores::LookedAt;
use integration::volcano_process::programs;
use magma_cli::program::Program;
use magma_core::effect::Effect;
use magma_core::flare::{EntryRow, FlareRow, Kind, LinkRow, LinkState, Name};
use magma_core::ids::{FlareRef, SliceId, VolcanoId};
use magma_core::key::{Key, ROOT};
use magma_core::lava::Lava;
use magma_core::store::content::ContentFiles;
use magma_core::store::sqlite::{CONTENT_DIRECTORY, SqliteStore};
use magma_core::store::{Durability, Store, View};
use serde_json::Value;

/// Exit codes of fsck(8).
const CLEAN: i32 = 0;
const REPAIRED: i32 = 1;
const LEFT: i32 = 4;
const UNCHECKED: i32 = 8;
const BIG: usize = 3 * 1024 * 1024 + 17;

/// Runs `magma fsck --json`: its exit code and its document.
#[track_caller]
fn fsck(cluster: &Cluster, more: &[&str]) -> (i32, Value) {
    let host = cluster.addr(0).to_string();
    let mut command = programs().command(Program::Tools);
    command.env("MAGMA_KEY", KEY);
    command.args(["fsck", &host, "--json", "--patience", "30"]);
    let output = command.args(more).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    let document = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {complaint}"));
    (output.status.code().unwrap(), document)
}

#[track_caller]
fn is_clean(cluster: &Cluster) -> Value {
    let (code, document) = fsck(cluster, &[]);
    assert_eq!(code, CLEAN, "{document:#}");
    assert_eq!(document["findings"].as_array().unwrap().len(), 0);
    document
}

/// How many findings of each kind there are.
fn kinds(document: &Value) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for finding in document["findings"].as_array().unwrap() {
        let kind = finding["kind"].as_str().unwrap().to_owned();
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

/// Creates, renames, links, writes and removes below a directory of its own.
fn work(dir: &Path, rounds: impl Iterator<Item = usize>, stop: &AtomicBool) {
    let other = dir.join("other");
    fs::create_dir_all(&other).unwrap();
    for n in rounds {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let file = dir.join(format!("file{n}"));
        fs::write(&file, vec![n as u8; 100 + (n % 7) * 5000]).unwrap();
        fs::hard_link(&file, other.join(format!("hard{n}"))).unwrap();
        symlink("file", dir.join(format!("soft{n}"))).unwrap();
        fs::create_dir(dir.join(format!("dir{n}"))).unwrap();
        match n % 4 {
            0 => fs::rename(&file, other.join(format!("moved{n}"))).unwrap(),
            1 => fs::remove_file(&file).unwrap(),
            2 => fs::remove_dir(dir.join(format!("dir{n}"))).unwrap(),
            _ => {
                let (from, to) = (dir.join(format!("dir{n}")), other.join(format!("dir{n}")));
                fs::rename(from, to).unwrap();
            }
        }
    }
}

#[test]
fn a_tree_is_clean_after_work_and_while_it_goes_on() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(3);
    let mount = cluster.mount(1);
    fs::write(mount.join("big"), vec![7; BIG]).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    work(&mount.join("before"), 0..60, &stop);
    let document = is_clean(&cluster);
    assert!(document["keys"].as_u64().unwrap() > 150, "{document:#}");
    // Every key is on two volcanos.
    assert_eq!(document["keys"], document["copied_keys"], "{document:#}");
    assert!(document["content_bytes"].as_u64().unwrap() >= BIG as u64);

    let workers: Vec<_> = ["one", "two"]
        .map(|name| {
            let (dir, stop) = (mount.join(name), stop.clone());
            std::thread::spawn(move || work(&dir, 0.., &stop))
        })
        .into();
    let big = {
        let (file, stop) = (mount.join("changing"), stop.clone());
        std::thread::spawn(move || {
            for n in 0_usize.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                fs::write(&file, vec![n as u8; 300_000]).unwrap();
            }
        })
    };
    for _ in 0..3 {
        is_clean(&cluster);
    }
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().unwrap();
    }
    big.join().unwrap();
    is_clean(&cluster);
    mount.end();
    is_clean(&cluster);
}

/// The stores of a network that is down, to be damaged.
struct Stores {
    lava: Lava,
    dirs: BTreeMap<VolcanoId, PathBuf>,
}

/// What a path stands for.
struct Found {
    row: FlareRow,
    dir: FlareRow,
    name: Name,
    entry: EntryRow,
}

impl Stores {
    fn of(cluster: &Cluster) -> Stores {
        let mut dirs = BTreeMap::new();
        let mut lava = Lava::default();
        for dir in cluster.stores() {
            let looked = LookedAt::open(&dir);
            if looked.lava.epoch >= lava.epoch {
                lava = looked.lava.clone();
            }
            dirs.insert(looked.volcano, dir);
        }
        Stores { lava, dirs }
    }

    fn slice(&self, key: Key) -> (SliceId, VolcanoId, VolcanoId) {
        let slice = self.lava.slice_of(key).unwrap();
        (slice.id, slice.owner, slice.in_sync().next().unwrap())
    }

    fn row(&self, key: Key) -> FlareRow {
        let (_, owner, _) = self.slice(key);
        let store = SqliteStore::peek(&self.dirs[&owner]).unwrap();
        store.flare(key).unwrap().unwrap()
    }

    fn find(&self, path: &str) -> Found {
        let mut dir = self.row(ROOT);
        let mut names = path.split('/').peekable();
        loop {
            let name = Name::new(names.next().unwrap().as_bytes()).unwrap();
            let (_, owner, _) = self.slice(dir.key);
            let store = SqliteStore::peek(&self.dirs[&owner]).unwrap();
            let entry = store.entry(dir.key, &name).unwrap().unwrap();
            let row = self.row(entry.child.key());
            if names.peek().is_none() {
                return Found {
                    row,
                    dir,
                    name,
                    entry,
                };
            }
            dir = row;
        }
    }

    fn plant_on(&self, volcano: VolcanoId, slice: SliceId, effects: &[Effect]) {
        let mut store = SqliteStore::open(&self.dirs[&volcano]).unwrap();
        store.begin().unwrap();
        store.apply_rows(slice, effects).unwrap();
        store.commit(Durability::Disk).unwrap();
    }

    /// At the owner and at the copy of the key.
    fn plant(&self, effect: Effect) {
        let (slice, owner, copy) = self.slice(effect.key());
        for volcano in [owner, copy] {
            self.plant_on(volcano, slice, std::slice::from_ref(&effect));
        }
    }
}

fn link(parent: FlareRef, name: &Name) -> Box<LinkRow> {
    Box::new(LinkRow {
        parent,
        name: name.clone(),
        state: LinkState::Settled,
    })
}

#[test]
fn damage_is_found_and_repaired() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(3);
    let mount = cluster.mount(0);
    let names = [
        "links", "gone", "nolink", "noentry", "type", "copy", "stray",
    ];
    for name in names {
        fs::create_dir(mount.join(name)).unwrap();
        fs::write(mount.join(name).join("file"), name).unwrap();
    }
    fs::create_dir(mount.join("entries")).unwrap();
    fs::create_dir(mount.join("subdirs")).unwrap();
    fs::create_dir(mount.join("subdirs/one")).unwrap();
    fs::write(mount.join("big"), vec![7; BIG]).unwrap();
    mount.end();
    is_clean(&cluster);
    cluster.shutdown();

    let stores = Stores::of(&cluster);
    let mut links = stores.find("links/file").row;
    links.nlink = 5;
    stores.plant(Effect::PutFlare(Box::new(links)));
    let mut entries = stores.find("entries").row;
    entries.entries = 3;
    stores.plant(Effect::PutFlare(Box::new(entries)));
    let mut subdirs = stores.find("subdirs").row;
    subdirs.nlink = 2;
    stores.plant(Effect::PutFlare(Box::new(subdirs)));
    let gone = stores.find("gone/file").row;
    stores.plant(Effect::DropFlare(gone.flare_ref()));
    let found = stores.find("nolink/file");
    stores.plant(Effect::DropLink(
        found.row.key,
        found.dir.flare_ref(),
        found.name,
    ));
    let found = stores.find("noentry/file");
    stores.plant(Effect::DropEntry(found.dir.key, found.name));
    let mut found = stores.find("type/file");
    found.entry.kind = Kind::Fifo;
    stores.plant(Effect::PutEntry(found.dir.key, Box::new(found.entry)));
    let mut orphan = stores.find("links/file").row;
    orphan.key = Key::of_path(b"/nobody/knows/it");
    orphan.nlink = 1;
    stores.plant(Effect::PutFlare(Box::new(orphan)));
    let nothing = Key::of_path(b"/no/flare");
    let parent = stores.row(ROOT).flare_ref();
    stores.plant(Effect::PutLink(nothing, link(parent, &found.name)));
    // On the copy alone.
    let mut copy = stores.find("copy/file").row;
    copy.uid = 77;
    let (slice, _, on) = stores.slice(copy.key);
    stores.plant_on(on, slice, &[Effect::PutFlare(Box::new(copy))]);
    let big = stores.find("big").row;
    let (_, _, on) = stores.slice(big.key);
    // Written by whom knows of the checksum: a byte that the disk has changed is repaired at once.
    let content = ContentFiles::open(&stores.dirs[&on].join(CONTENT_DIRECTORY)).unwrap();
    let flare = big.flare_ref();
    let byte = content.read_at(flare, 0, 2_000_000, 1).unwrap()[0];
    content.write_at(flare, 0, 2_000_000, &[byte ^ 1]).unwrap();
    // Where the key does not belong.
    let stray = stores.find("stray/file").row;
    let (slice, owner, copy) = stores.slice(stray.key);
    let third = stores.dirs.keys().find(|id| **id != owner && **id != copy);
    let third = *third.unwrap();
    // A start clears flares away that do not belong there, but has no eye for this.
    let row = Effect::PutLink(stray.key, link(parent, &found.name));
    stores.plant_on(third, slice, &[row]);

    cluster.restart();
    let expected: BTreeMap<String, usize> = [
        ("wrong_links", 2),
        // The directory of the entry that is gone counts it still.
        ("wrong_entries", 2),
        ("entry_without_flare", 1),
        ("entry_without_link", 1),
        ("link_without_entry", 1),
        ("wrong_type", 1),
        ("orphan", 1),
        ("leftovers", 1),
        ("copy_differs", 1),
        ("content_differs", 1),
        ("stray", 1),
    ]
    .map(|(kind, count)| (kind.to_owned(), count))
    .into();
    let (code, document) = fsck(&cluster, &[]);
    assert_eq!(kinds(&document), expected, "{document:#}");
    assert_eq!(code, LEFT, "{document:#}");
    let typed = document["findings"].as_array().unwrap().iter();
    let typed: Vec<_> = typed
        .filter(|found| found["kind"] == "wrong_type")
        .collect();
    assert_eq!(typed[0]["path"], "/type/file", "{document:#}");
    // Looking changes nothing.
    let (_, again) = fsck(&cluster, &[]);
    assert_eq!(kinds(&again), expected, "{again:#}");

    let (code, document) = fsck(&cluster, &["--repair"]);
    assert_eq!(kinds(&document), expected, "{document:#}");
    assert_eq!(code, REPAIRED, "{document:#}");
    is_clean(&cluster);

    let mount = cluster.mount(2);
    for name in names {
        let content = fs::read_to_string(mount.join(name).join("file"));
        match name {
            "gone" => assert!(content.is_err()),
            _ => assert_eq!(content.unwrap(), name),
        }
    }
    assert_eq!(fs::read(mount.join("big")).unwrap(), vec![7; BIG]);
    // Directories that were repaired can be used as any other.
    fs::remove_dir(mount.join("gone")).unwrap();
    fs::remove_dir_all(mount.join("noentry")).unwrap();
    mount.end();
    is_clean(&cluster);
    cluster.shutdown();
    integration::stores::verify(&cluster.stores());
}

#[test]
fn what_cannot_be_repaired_is_left_and_nothing_is_deleted() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(3);
    let mount = cluster.mount(0);
    for dir in ["one", "two"] {
        fs::create_dir(mount.join(dir)).unwrap();
    }
    fs::create_dir(mount.join("two/below")).unwrap();
    fs::write(mount.join("saved"), "at the copy").unwrap();
    mount.end();
    cluster.shutdown();

    // Two directories below each other, and a flare that only its copy has.
    let stores = Stores::of(&cluster);
    let (one, two) = (stores.find("one"), stores.find("two"));
    let below = stores.find("two/below");
    for (child, parent) in [(&one, &two), (&two, &one)] {
        let name = Name::new(b"in").unwrap();
        let root = child.dir.flare_ref();
        stores.plant(Effect::DropEntry(ROOT, child.name.clone()));
        stores.plant(Effect::DropLink(child.row.key, root, child.name.clone()));
        stores.plant(Effect::PutLink(
            child.row.key,
            link(parent.row.flare_ref(), &name),
        ));
        let mut entry = child.entry.clone();
        (entry.name, entry.cookie) = (name, 1000);
        stores.plant(Effect::PutEntry(parent.row.key, Box::new(entry)));
    }
    let saved = stores.find("saved").row;
    let (slice, owner, _) = stores.slice(saved.key);
    stores.plant_on(owner, slice, &[Effect::DropFlare(saved.flare_ref())]);
    cluster.restart();

    let (code, document) = fsck(&cluster, &["--repair"]);
    assert_eq!(code, LEFT, "{document:#}");
    let found = kinds(&document);
    for kind in ["unreachable", "copy_has_more", "entry_without_flare"] {
        assert_eq!(found.get(kind), Some(&1), "{document:#}");
    }
    // What could be repaired was: now it finds only the rest.
    let (code, document) = fsck(&cluster, &["--repair"]);
    assert_eq!(code, LEFT, "{document:#}");
    let found: Vec<_> = kinds(&document).into_keys().collect();
    let rest = ["copy_has_more", "entry_without_flare", "unreachable"];
    assert_eq!(found, rest, "{document:#}");
    cluster.shutdown();
    let stores = Stores::of(&cluster);
    let (_, _, copy) = stores.slice(saved.key);
    let store = SqliteStore::peek(&stores.dirs[&copy]).unwrap();
    assert_eq!(store.flare(saved.key).unwrap(), Some(saved));
    assert_eq!(stores.row(below.row.key).kind, Kind::Directory);
}

#[test]
fn it_says_when_it_could_not_check() {
    let mut command = programs().command(Program::Tools);
    command.env("MAGMA_KEY", KEY);
    let output = command
        .args(["fsck", "127.0.0.1:9", "--patience", "1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(UNCHECKED), "{output:?}");
    let mut command = programs().command(Program::Tools);
    let output = command.args(["fsck", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for word in ["--repair", "--rows-only", "Exit codes: 0 clean"] {
        assert!(help.contains(word), "{help}");
    }
}
