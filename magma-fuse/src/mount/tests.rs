//! Mounts of a file system that has only a root directory. They need `/dev/fuse` and root;
//! `MAGMA_SKIP_FUSE=1` leaves them out.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileHandle, FileType, INodeNo, ReplyAttr, Request};

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

struct OnlyRoot;

impl Filesystem for OnlyRoot {
    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let epoch = SystemTime::UNIX_EPOCH;
        let attr = FileAttr {
            ino,
            size: 0,
            blocks: 0,
            atime: epoch,
            mtime: epoch,
            ctime: epoch,
            crtime: epoch,
            kind: FileType::Directory,
            perm: 0o755,
            nlink: 2,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        reply.attr(&Duration::ZERO, &attr);
    }
}

fn skipped() -> bool {
    std::env::var_os("MAGMA_SKIP_FUSE").is_some_and(|value| value == "1")
}

fn mounted(source: &str, target: &Path) -> Mounted {
    let options = MountOptions::new(source.to_owned(), target.to_owned());
    let attached = Attached::new(&options, OnlyRoot).unwrap();
    assert!(attached.device_fd().is_ok());
    attached.serve().unwrap()
}

#[test]
fn mounts_under_its_own_name_and_type_and_ends() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().canonicalize().unwrap();
    let mounted = mounted("h1,h2:/some where", &target);
    mounted.answers(LIMIT).unwrap();
    let entry = table::at(&target).unwrap();
    assert_eq!(entry.fs_type, FS_TYPE);
    assert_eq!(entry.source, "h1,h2:/some where");
    assert!(mounted.is_attached());
    assert!(!mounted.wait(Duration::ZERO));
    let readahead = format!("/sys/class/bdi/{}/read_ahead_kb", entry.device);
    if let Ok(kilobytes) = fs::read_to_string(readahead) {
        assert!(kilobytes.trim().parse::<u32>().unwrap() > 128);
    }
    mounted.end(LIMIT).unwrap().unwrap();
    assert!(table::at(&target).is_none());
}

/// As root, because only root may open `/dev/fuse` everywhere; the protocol is the same.
#[test]
fn mounts_through_fusermount_too() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().canonicalize().unwrap();
    let options = MountOptions::new("h1,h2:/".to_owned(), target.clone());
    let attached = Attached::through(fusermount::mount, &options, OnlyRoot).unwrap();
    let mounted = attached.serve().unwrap();
    mounted.answers(LIMIT).unwrap();
    let entry = table::at(&target).unwrap();
    assert_eq!(entry.fs_type, FS_TYPE);
    assert_eq!(entry.source, "h1,h2:/");
    fusermount::unmount(&target).unwrap();
    assert!(mounted.wait(LIMIT));
}

#[test]
fn a_dead_mount_makes_place() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().canonicalize().unwrap();
    let options = MountOptions::new("dead:/".to_owned(), target.clone());
    // The device is closed at once, as when the process that served it was killed.
    drop(kernel::mount(&options).unwrap());
    let mounted = mounted("alive:/", &target);
    mounted.answers(LIMIT).unwrap();
    mounted.end(LIMIT).unwrap().unwrap();
    assert!(table::at(&target).is_none(), "the dead one was unmounted");
}

#[test]
fn notices_that_somebody_else_unmounted_it() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().canonicalize().unwrap();
    let mounted = mounted("h:/", &target);
    unmount(&target).unwrap();
    assert!(mounted.wait(LIMIT));
    assert!(!mounted.is_attached());
    assert!(matches!(unmount(&target), Err(UnmountError::NotMounted(_))));
}

#[test]
fn never_unmounts_a_stranger() {
    if skipped() {
        return;
    }
    assert!(matches!(
        unmount(Path::new("/proc")),
        Err(UnmountError::Foreign { .. })
    ));
    // A stranger that came to our mount point later stays, too.
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().canonicalize().unwrap();
    let first = mounted("first:/", &target);
    let second = mounted("second:/", &target);
    drop(first);
    assert_eq!(table::at(&target).unwrap().source, "second:/");
    second.end(LIMIT).unwrap().unwrap();
    // The first one is uncovered now, and nobody's.
    unmount(&target).unwrap();
}

#[test]
fn refuses_a_file_as_mount_point() {
    if skipped() {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let options = MountOptions::new("h:/".to_owned(), file.path().to_owned());
    assert!(matches!(
        Attached::new(&options, OnlyRoot),
        Err(MountError::NotDirectory(_))
    ));
}
