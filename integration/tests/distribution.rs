//! Where keys are: every volcano of a network holds a part of them, and each is on exactly two.

// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use integration::mounted::can_mount;
use integration::snapshot::Snapshot;
use integration::stores::{LookedAt, verify};
use integration::{Cluster, source_tree};
use magma_core::key::Key;

/// The ring of the original page: whose keys are replicated on whom.
const RING: [(&str, &str); 3] = [
    ("wallace", "gromit"),
    ("gromit", "penguin"),
    ("penguin", "wallace"),
];
const FILES: usize = 300;

#[test]
fn every_key_is_on_two_volcanos_of_the_ring() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(3);
    let mount = cluster.mount(1);
    source_tree::generate(&mount.join("tree"), FILES, 7).unwrap();
    let objects = Snapshot::of(mount.path()).0;
    mount.end();

    let status = cluster.ask(0, "status");
    for (owner, copy) in RING {
        let line = format!("of {owner}: copy on {copy} in sync");
        assert!(status.contains(&line), "{line:?} is not in\n{status}");
    }
    cluster.shutdown();
    let table = verify(&cluster.stores());

    let stores: Vec<LookedAt> = cluster
        .stores()
        .iter()
        .map(|dir| LookedAt::open(dir))
        .collect();
    let newest = stores.iter().max_by_key(|store| store.lava.epoch).unwrap();
    let lava = &newest.lava;
    for slice in &lava.slices {
        let owner = lava.nick(slice.owner);
        let copies: Vec<String> = slice.in_sync().map(|id| lava.nick(id)).collect();
        let (_, wanted) = RING.iter().find(|(nick, _)| *nick == owner).unwrap();
        assert_eq!(copies, [*wanted], "copies of the keys of {owner}");
    }
    // Key by key, from the rows themselves.
    let mut holders: BTreeMap<Key, Vec<(String, _)>> = BTreeMap::new();
    for store in &stores {
        for (key, rows) in store.keys() {
            let nick = lava.nick(store.volcano);
            holders.entry(key).or_default().push((nick, rows));
        }
    }
    let mut owned: BTreeMap<String, usize> = BTreeMap::new();
    for (key, on) in &holders {
        let slice = lava.slice_of(*key).unwrap();
        let nicks: Vec<&String> = on.iter().map(|(nick, _)| nick).collect();
        let owner = lava.nick(slice.owner);
        assert_eq!(on.len(), 2, "{key} is on {nicks:?}");
        assert!(nicks.contains(&&owner), "{key} of {owner} is on {nicks:?}");
        assert_eq!(on[0].1, on[1].1, "the rows of {key} on {nicks:?}");
        *owned.entry(owner).or_default() += 1;
    }
    // Hard links share a flare.
    let inodes: std::collections::BTreeSet<u64> =
        objects.values().map(|object| object.inode).collect();
    assert!(holders.len() >= inodes.len(), "{} keys", holders.len());
    for (nick, _) in RING {
        assert!(
            owned.get(nick).is_some_and(|count| *count > 10),
            "{owned:?}\n{table}"
        );
    }
}

#[test]
fn verify_finds_what_differs_and_changes_nothing() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(2);
    let mount = cluster.mount(0);
    for n in 0..5 {
        fs::write(mount.join(format!("file{n}")), vec![n; 100_000]).unwrap();
    }
    mount.end();
    cluster.shutdown();
    let before = Snapshot::of(cluster.dir());
    verify(&cluster.stores());
    verify(&cluster.stores());
    let after = Snapshot::of(cluster.dir());
    let of_store = |snapshot: &Snapshot| -> BTreeMap<_, _> {
        let names = ["store.sql", "agreement.sql"];
        let is_ours = |path: &Path| {
            names.iter().any(|name| path.ends_with(name))
                || path.to_string_lossy().contains("content/")
        };
        let objects = snapshot.0.iter().filter(|(path, _)| is_ours(path));
        objects
            .map(|(path, object)| (path.clone(), object.clone()))
            .collect()
    };
    assert_eq!(of_store(&before), of_store(&after));

    // One byte of one copy.
    let dir = cluster.stores().remove(1);
    let file = walkdir::WalkDir::new(dir.join("content"))
        .into_iter()
        .filter_map(Result::ok)
        .find(|entry| entry.metadata().is_ok_and(|found| found.len() > 70_000))
        .unwrap();
    let mut bytes = fs::read(file.path()).unwrap();
    bytes[70_000] ^= 1;
    fs::write(file.path(), bytes).unwrap();
    let output = integration::volcano_process::programs()
        .command(magma_cli::program::Program::Tools)
        .arg("verify")
        .args(cluster.stores())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("the content differs at byte 70000"), "{said}");
}

#[test]
fn verify_does_not_look_at_a_store_in_use() {
    let mut cluster = Cluster::start(1);
    let run = |dir: &Path| {
        let mut command =
            integration::volcano_process::programs().command(magma_cli::program::Program::Tools);
        let output = command.arg("verify").arg(dir).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let pid = cluster.volcano(0).process().pid().to_string();
    let said = run(&cluster.stores()[0]);
    assert!(said.contains(&pid), "{said}");
    let said = run(cluster.dir());
    assert!(said.contains("holds no volcano"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}
