//! A disk that changes what was written: nothing wrong is ever read, and what one volcano has lost
//! it gets from another.

// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use integration::Cluster;
use integration::mounted::can_mount;

const BYTES: u32 = 3_000_000;
const AT: u64 = 1_500_000;

/// The content files of a store, without their checksums.
fn contents(store: &Path) -> Vec<PathBuf> {
    let parts = fs::read_dir(store.join("content")).unwrap();
    let parts = parts.map(|part| part.unwrap().path());
    parts
        .filter(|part| part.is_dir())
        .flat_map(|part| fs::read_dir(part).unwrap())
        .map(|file| file.unwrap().path())
        .filter(|file| file.extension().is_none_or(|end| end != "crc"))
        .collect()
}

/// Changes a byte behind the volcano's back.
fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn a_flipped_byte_is_repaired_from_the_other_volcano_or_not_read_at_all() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(3);
    let data: Vec<u8> = (0..BYTES).map(|n| (n / 7) as u8).collect();
    let mount = cluster.mount(0);
    fs::write(mount.join("big"), &data).unwrap();
    mount.end();
    let stores = cluster.stores();
    let holders: Vec<PathBuf> = stores.iter().flat_map(|dir| contents(dir)).collect();
    assert_eq!(holders.len(), 2, "{holders:?}");

    // A mount that knows nothing asks the owner; the check of all copies reads the others, too.
    let read = |cluster: &mut Cluster| {
        let mount = cluster.mount(1);
        let found = fs::read(mount.join("big"));
        mount.end();
        found
    };
    for holder in &holders {
        flip(holder, AT);
        assert!(read(&mut cluster).unwrap() == data, "{}", holder.display());
        Cluster::eventually("the block is repaired", || {
            cluster.fsck().unwrap();
            (fs::read(holder).unwrap() == data).then_some(())
        });
    }
    // Other bytes of one block on either: each gets it from the other's sum, but has none itself.
    for holder in &holders {
        flip(holder, AT);
    }
    assert_eq!(
        read(&mut cluster).unwrap_err().raw_os_error(),
        Some(libc::EIO)
    );
    // What was lost can be written anew.
    let mount = cluster.mount(0);
    fs::write(mount.join("big"), &data).unwrap();
    mount.end();
    assert!(read(&mut cluster).unwrap() == data);
    cluster.fsck().unwrap();
}

#[test]
fn a_scrub_finds_what_nobody_reads_and_names_what_is_lost() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(3);
    let data: Vec<u8> = (0..BYTES).map(|n| (n / 7) as u8).collect();
    let mount = cluster.mount(0);
    fs::create_dir(mount.join("dir")).unwrap();
    for name in ["left", "right"] {
        fs::write(mount.join("dir").join(name), &data).unwrap();
    }
    let stores = cluster.stores();
    let scrubbed = |cluster: &mut Cluster, volcano: usize, shows: &str| {
        cluster.ask(volcano, "scrub now");
        Cluster::eventually("the scrub is done", || {
            let said = cluster.ask(volcano, "scrub");
            (said.contains("scrub: the next begins") && said.contains(shows)).then_some(said)
        })
    };
    // The first volcano that holds one of them, and another that does.
    let holding = |dir: &PathBuf| contents(dir).first().cloned();
    let (at, file) = stores
        .iter()
        .enumerate()
        .find_map(|(at, dir)| Some((at, holding(dir)?)))
        .unwrap();
    let name = file.file_name().unwrap();
    let other = stores.iter().enumerate().find_map(|(other, dir)| {
        let same = contents(dir)
            .into_iter()
            .find(|file| file.file_name() == Some(name));
        same.filter(|_| other != at).map(|file| (other, file))
    });
    let (other, same) = other.unwrap();

    flip(&file, AT);
    let said = scrubbed(&mut cluster, at, "repaired: 1");
    assert!(said.contains("1 block"), "{said}");
    assert!(said.contains("lost blocks: 0"), "{said}");
    assert!(fs::read(&file).unwrap() == data);

    for file in [&file, &same] {
        flip(file, AT);
    }
    for volcano in [at, other] {
        let said = scrubbed(&mut cluster, volcano, "lost blocks: 1");
        let path = ["/dir/left", "/dir/right"]
            .iter()
            .find(|path| said.contains(**path));
        assert!(path.is_some(), "{said}");
        assert!(
            said.contains(&format!("at byte {}", AT - AT % 4096)),
            "{said}"
        );
    }
    // Nothing is lost any more when it is written anew.
    for name in ["left", "right"] {
        fs::write(mount.join("dir").join(name), &data).unwrap();
    }
    for volcano in [at, other] {
        Cluster::eventually("nothing is lost", || {
            let said = cluster.ask(volcano, "scrub");
            said.contains("lost blocks: 0").then_some(())
        });
    }
    mount.end();
    cluster.fsck().unwrap();
}
