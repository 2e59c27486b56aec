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
