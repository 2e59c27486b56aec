//! Ranges of files: holes, reserved space, and copies that the volcanos make by themselves.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

use integration::Cluster;
use integration::Mount;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, copy_file_range, fallocate};
use nix::unistd::{Whence, lseek};

const KEEP: FallocateFlags = FallocateFlags::FALLOC_FL_KEEP_SIZE;
const PUNCH: FallocateFlags = FallocateFlags::FALLOC_FL_PUNCH_HOLE.union(KEEP);
const ZERO: FallocateFlags = FallocateFlags::FALLOC_FL_ZERO_RANGE;

fn new_file(mount: &Mount, name: &str) -> File {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(mount.join(name))
        .expect("a file")
}

/// Both a content that lies in the store's row and one in a file of its own.
#[test]
fn space_is_reserved_and_given_back() {
    let Some((_cluster, one, two)) = Cluster::with_two_mounts() else {
        return;
    };
    for (name, unit) in [("small", 1_000_usize), ("large", 100_000)] {
        let file = new_file(&one, name);
        file.write_all_at(&vec![b'a'; 10 * unit], 0).unwrap();
        let (from, len) = (unit as i64, 3 * unit as i64);
        fallocate(&file, PUNCH, from, len).unwrap();
        let mut expected = vec![b'a'; 10 * unit];
        expected[unit..4 * unit].fill(0);
        assert_eq!(fs::read(two.join(name)).unwrap(), expected, "{name}");

        fallocate(&file, ZERO.union(KEEP), 9 * from, 20 * from).unwrap();
        expected[9 * unit..].fill(0);
        assert_eq!(fs::read(two.join(name)).unwrap(), expected, "{name}");
        fallocate(&file, ZERO, 9 * from, 20 * from).unwrap();
        expected.resize(29 * unit, 0);
        assert_eq!(fs::read(two.join(name)).unwrap(), expected, "{name}");
        fallocate(&file, FallocateFlags::empty(), 0, 40 * from).unwrap();
        expected.resize(40 * unit, 0);
        assert_eq!(fs::read(two.join(name)).unwrap(), expected, "{name}");
    }

    let file = new_file(&one, "reserved");
    fallocate(&file, KEEP, 0, 4 << 20).unwrap();
    let seen = fs::metadata(two.join("reserved")).unwrap();
    assert_eq!((seen.size(), seen.blocks() >= 8192), (0, true), "{seen:?}");
    // A hole is made within the file; what file systems do with space past its end differs.
    fallocate(&file, FallocateFlags::empty(), 0, 4 << 20).unwrap();
    fallocate(&file, PUNCH, 0, 4 << 20).unwrap();
    assert!(fs::metadata(two.join("reserved")).unwrap().blocks() < 16);

    let refused = |flags, offset, len| fallocate(&file, flags, offset, len).unwrap_err();
    assert_eq!(
        refused(FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, 0, 4096),
        Errno::EOPNOTSUPP
    );
    // As long as a file may be on any file system, and more than there is.
    assert_eq!(refused(KEEP, 0, 1 << 43), Errno::ENOSPC);
}

#[test]
fn holes_are_found() {
    let Some((_cluster, one, two)) = Cluster::with_two_mounts() else {
        return;
    };
    let file = new_file(&one, "sparse");
    file.write_all_at(&[b'x'; 4096], 0).unwrap();
    file.write_all_at(&[b'x'; 4096], 512 << 20).unwrap();
    file.set_len(1 << 30).unwrap();
    for reader in [&file, &File::open(two.join("sparse")).unwrap()] {
        let seek = |offset, whence| lseek(reader, offset, whence);
        assert_eq!(seek(0, Whence::SeekHole), Ok(4096));
        assert_eq!(seek(4096, Whence::SeekData), Ok(512 << 20));
        assert_eq!(seek(512 << 20, Whence::SeekHole), Ok((512 << 20) + 4096));
        assert_eq!(seek(600 << 20, Whence::SeekData), Err(Errno::ENXIO));
        assert_eq!(seek(600 << 20, Whence::SeekHole), Ok(600 << 20));
        assert_eq!(seek(1 << 30, Whence::SeekHole), Err(Errno::ENXIO));
    }
    assert!(fs::metadata(two.join("sparse")).unwrap().blocks() < 64);
    let small = new_file(&one, "small");
    small.write_all_at(b"some", 0).unwrap();
    let seek = |offset, whence| lseek(&small, offset, whence);
    assert_eq!(seek(1, Whence::SeekData), Ok(1));
    assert_eq!(seek(1, Whence::SeekHole), Ok(4));
}

/// Several names, so that source and destination are on one volcano and on two.
#[test]
fn volcanos_copy_ranges() {
    let Some((_cluster, one, two)) = Cluster::with_two_mounts() else {
        return;
    };
    let content: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    for round in 0..8 {
        let (name, copy) = (format!("from-{round}"), format!("to-{round}"));
        let source = new_file(&one, &name);
        source.write_all_at(&content, 0).unwrap();
        let target = new_file(&one, &copy);
        target.write_all_at(b"before", 0).unwrap();
        let (mut from, mut to) = (1, 3);
        loop {
            let rest = content.len() - from as usize;
            match copy_file_range(&source, Some(&mut from), &target, Some(&mut to), rest).unwrap() {
                0 => break,
                count => assert!(count <= rest),
            }
        }
        let seen = fs::read(two.join(&copy)).unwrap();
        assert_eq!(&seen[..3], b"bef");
        assert!(seen[3..] == content[1..], "{copy} differs");
        // A few bytes stay in the row.
        let (small, other) = (new_file(&two, "small"), new_file(&two, &name));
        small.write_all_at(b"hello", 0).unwrap();
        other.write_all_at(b"0123456789", 0).unwrap();
        let (mut from, mut to) = (1, 2);
        let count = copy_file_range(&small, Some(&mut from), &other, Some(&mut to), 100);
        assert_eq!(count, Ok(4));
        assert_eq!(fs::read(one.join(&name)).unwrap(), b"01ello6789");
    }
}
