//! `/.dht`: the internal directory, as in the original: one file a volcano.
//!
//! It is made up from the lava that the client holds. It can be looked up in the root but is
//! not listed there, so that `rm -rf`, `du` and `rsync` never meet it; it is read-only, and
//! shows no secret.

use std::fmt::Write;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use fuser::{FileAttr, FileType, INodeNo};
use magma_core::flare::Name;
use magma_core::ids::VolcanoId;
use magma_core::key::{self, Key};
use magma_core::lava::Lava;

/// Its name in the root.
pub const NAME: &[u8] = b".dht";

/// Something in the internal directory, or the directory itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DhtItem {
    /// `/.dht`.
    Directory,
    /// The file of a volcano.
    Volcano(VolcanoId),
}

/// An entry of the internal directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhtEntry {
    /// What it is.
    pub item: DhtItem,
    /// Its inode number.
    pub ino: u64,
    /// Its name.
    pub name: Vec<u8>,
    /// Its readdir offset.
    pub cookie: u64,
}

/// The inode number of `/.dht`.
pub fn directory_ino() -> u64 {
    key::DHT.ino()
}

/// The inode number of an item; none for a volcano that is gone.
pub fn ino(lava: &Lava, item: DhtItem) -> Option<u64> {
    match item {
        DhtItem::Directory => Some(directory_ino()),
        DhtItem::Volcano(id) => Some(file_ino(&lava.volcano(id)?.info.nick)),
    }
}

fn file_ino(nick: &str) -> u64 {
    let ino = Key::of_path(format!("/.dht/{nick}").as_bytes()).ino();
    // 0 and 1 have a meaning of their own to the kernel.
    ino.max(2)
}

/// The item of a name in the directory.
pub fn lookup(lava: &Lava, name: &Name) -> Option<DhtItem> {
    let nick = std::str::from_utf8(name.as_bytes()).ok()?;
    let volcano = lava.volcano_called(nick)?;
    Some(DhtItem::Volcano(volcano.id))
}

/// The entries after a readdir offset; offsets 1 and 2 are `.` and `..`. The number of a
/// volcano is never used again, so an offset stays valid while the ring changes.
pub fn entries(lava: &Lava, after: u64) -> Vec<DhtEntry> {
    let mut all: Vec<_> = lava
        .volcanos
        .iter()
        .map(|volcano| DhtEntry {
            item: DhtItem::Volcano(volcano.id),
            ino: file_ino(&volcano.info.nick),
            name: volcano.info.nick.clone().into_bytes(),
            cookie: volcano.id.0.saturating_add(16),
        })
        .filter(|entry| entry.cookie > after)
        .collect();
    all.sort_by_key(|entry| entry.cookie);
    all
}

/// What the file of a volcano says; none for one that is gone.
pub fn content(lava: &Lava, id: VolcanoId) -> Option<Arc<[u8]>> {
    let info = &lava.volcano(id)?.info;
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(text, "nick: {}", info.nick);
    let _ = writeln!(text, "name: {}", info.fqdn);
    let _ = writeln!(text, "address: {}", info.flare_addr());
    let _ = writeln!(text, "bandwidth: {} Kbit/s", info.bandwidth_kbit);
    let _ = match info.storage_bytes {
        0 => writeln!(text, "storage: all of its disk"),
        bytes => writeln!(text, "storage: {bytes} bytes"),
    };
    let _ = writeln!(text, "network: {}", lava.network);
    let _ = writeln!(text, "epoch: {}", lava.epoch);
    let coordinator = lava.coordinator() == Some(id);
    let _ = writeln!(
        text,
        "coordinator: {}",
        if coordinator { "yes" } else { "no" }
    );
    // Whether it lives is known to the volcanos, not to a mount.
    let _ = writeln!(text, "alive: unknown");
    for slice in lava.owned_by(id) {
        let _ = writeln!(text, "slice: {} to {}", slice.start, slice.end);
    }
    for slice in lava.copied_on(id) {
        let in_sync = slice.copy_on(id).is_some_and(|copy| copy.in_sync);
        let state = if in_sync { "in sync" } else { "being filled" };
        let (start, end) = (slice.start, slice.end);
        let _ = writeln!(text, "copy: {start} to {end}, {state}");
    }
    Some(text.into_bytes().into())
}

/// Attributes of an item; none for a volcano that is gone.
pub fn attr(lava: &Lava, item: DhtItem) -> Option<FileAttr> {
    let (size, kind, perm, nlink) = match item {
        DhtItem::Directory => (0, FileType::Directory, 0o555, 2),
        DhtItem::Volcano(id) => {
            let size = content(lava, id)?.len() as u64;
            (size, FileType::RegularFile, 0o444, 1)
        }
    };
    Some(FileAttr {
        ino: INodeNo(ino(lava, item)?),
        size,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: crate::convert::BLOCK_SIZE,
        flags: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::testing::two;

    #[test]
    fn one_file_a_volcano() {
        let lava = two();
        let all = entries(&lava, 0);
        let names: Vec<_> = all.iter().map(|entry| entry.name.as_slice()).collect();
        assert_eq!(names, [b"v1", b"v2"]);
        assert_eq!(entries(&lava, all[0].cookie), all[1..]);
        assert!(all.iter().all(|entry| entry.cookie > 2));
        let name = Name::new(b"v2").expect("a name");
        assert_eq!(lookup(&lava, &name), Some(DhtItem::Volcano(VolcanoId(2))));
        let nobody = Name::new(b"v3").expect("a name");
        assert_eq!(lookup(&lava, &nobody), None);
    }

    #[test]
    fn what_it_says() {
        let lava = two();
        let text = content(&lava, VolcanoId(2)).expect("a volcano");
        let text = std::str::from_utf8(&text).expect("UTF-8");
        assert!(text.contains("nick: v2\n"));
        assert!(text.contains("address: 127.0.0.1:12020\n"));
        assert!(text.contains("coordinator: yes\n"));
        assert!(text.contains("slice: 8000000000000000"));
        let attr = attr(&lava, DhtItem::Volcano(VolcanoId(2))).expect("a volcano");
        assert_eq!(attr.size, text.len() as u64);
        assert_eq!(content(&lava, VolcanoId(3)), None);
        assert_eq!(ino(&lava, DhtItem::Directory), Some(0xa140_2b54_c45a_528a));
    }
}
