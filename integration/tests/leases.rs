//! Mounts agree while each of them remembers what it has seen: whatever one has done, the
//! other's next look shows.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use integration::Cluster;
use integration::Mount;

fn is_there(path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

/// Looks twice, so that the second look comes from memory.
fn warm(mount: &Mount, dir: &str) {
    for _ in 0..2 {
        for entry in fs::read_dir(mount.join(dir)).expect("a listing") {
            fs::metadata(entry.expect("an entry").path()).expect("attributes");
        }
    }
}

#[test]
fn every_kind_of_change_shows_on_the_other_mount_at_once() {
    let Some((_cluster, one, two)) = Cluster::with_two_mounts() else {
        return;
    };
    fs::create_dir_all(one.join("d/sub")).unwrap();
    for round in 0..20 {
        let (here, there) = if round % 2 == 0 {
            (&one, &two)
        } else {
            (&two, &one)
        };
        let name = format!("d/file-{round}");
        let (mine, theirs) = (here.join(&name), there.join(&name));
        assert!(!is_there(&theirs), "that it is not there is remembered");
        fs::write(&mine, "first").unwrap();
        assert_eq!(fs::read_to_string(&theirs).unwrap(), "first");
        for mount in [here, there] {
            warm(mount, "d");
        }
        fs::set_permissions(&mine, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(fs::metadata(&theirs).unwrap().mode() & 0o7777, 0o640);
        let mut file = fs::OpenOptions::new().append(true).open(&mine).unwrap();
        file.write_all(b" and more").unwrap();
        assert_eq!(fs::metadata(&theirs).unwrap().len(), 14);
        assert_eq!(fs::read_to_string(&theirs).unwrap(), "first and more");
        let linked = format!("d/sub/link-{round}");
        fs::hard_link(&mine, here.join(&linked)).unwrap();
        assert_eq!(fs::metadata(&theirs).unwrap().nlink(), 2);
        assert!(is_there(&there.join(&linked)));
        let moved = format!("d/moved-{round}");
        fs::rename(&mine, here.join(&moved)).unwrap();
        assert!(!is_there(&theirs));
        assert_eq!(fs::metadata(there.join(&moved)).unwrap().len(), 14);
        // Replaced: the flare that it was has another name left, and says so.
        fs::write(here.join("d/other"), "x").unwrap();
        warm(there, "d");
        fs::rename(here.join("d/other"), here.join(&moved)).unwrap();
        assert_eq!(fs::metadata(there.join(&moved)).unwrap().len(), 1);
        assert_eq!(fs::metadata(there.join(&linked)).unwrap().nlink(), 1);
        assert_eq!(fs::metadata(here.join(&linked)).unwrap().nlink(), 1);
        fs::remove_file(here.join(&moved)).unwrap();
        assert!(!is_there(&there.join(&moved)));
        fs::create_dir(here.join("d/new")).unwrap();
        assert_eq!(fs::metadata(there.join("d")).unwrap().nlink(), 4);
        fs::remove_dir(there.join("d/new")).unwrap();
        assert!(!is_there(&here.join("d/new")));
        assert_eq!(fs::metadata(here.join("d")).unwrap().nlink(), 3);
    }
}

/// The kernel compares time and size to see whether its pages are still good.
#[test]
fn a_change_that_time_and_size_do_not_show_is_seen() {
    let Some((_cluster, one, two)) = Cluster::with_two_mounts() else {
        return;
    };
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::write(one.join("file"), "zeroth").unwrap();
    // Opened before any of the changes, with pages that are read again and again.
    let held = [&one, &two].map(|mount| fs::File::open(mount.join("file")).unwrap());
    let see = |file: &fs::File| {
        let mut bytes = [0; 6];
        file.read_exact_at(&mut bytes, 0).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    assert_eq!(held.each_ref().map(see), ["zeroth", "zeroth"]);
    for (round, text) in ["first ", "second", "third ", "fourth"]
        .into_iter()
        .enumerate()
    {
        let (here, there) = if round % 2 == 0 {
            (&one, &two)
        } else {
            (&two, &one)
        };
        let mut file = fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(here.join("file"))
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.set_modified(time).unwrap();
        for mount in [there, here, there] {
            let path = mount.join("file");
            assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), time);
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        // By the other mount, and attributes as well: setattr brings the kernel the new time
        // without its comparing it.
        let mut file = fs::File::options()
            .write(true)
            .open(here.join("file"))
            .unwrap();
        file.write_all(text.to_uppercase().as_bytes()).unwrap();
        file.set_modified(time).unwrap();
        let mode = fs::Permissions::from_mode(0o600 + round as u32);
        fs::set_permissions(there.join("file"), mode).unwrap();
        for file in &held {
            assert_eq!(see(file), text.to_uppercase());
            assert_eq!(file.metadata().unwrap().modified().unwrap(), time);
            assert_eq!(see(file), text.to_uppercase());
        }
    }
}

/// The standing test of recalls that meet operations which hold the kernel's locks.
#[test]
fn two_mounts_that_change_the_same_directories_never_stop_each_other() {
    let Some((_cluster, one, two)) = Cluster::with_two_mounts() else {
        return;
    };
    for dir in ["a", "b"] {
        fs::create_dir(one.join(dir)).unwrap();
    }
    let busy = |mount: &Mount, me: &'static str, first: &'static str, second: &'static str| {
        let root = mount.path().to_owned();
        std::thread::spawn(move || {
            let (begin, mut rounds, mut slowest) = (Instant::now(), 0, Duration::ZERO);
            while begin.elapsed() < Duration::from_secs(5) {
                let round = Instant::now();
                let (from, to) = (root.join(first), root.join(second));
                let name = format!("{me}-{}", rounds % 7);
                fs::write(from.join(&name), me).unwrap();
                fs::rename(from.join(&name), to.join(&name)).unwrap();
                // A name that both fight for: whoever loses is told so, and nothing else.
                match fs::rename(to.join(&name), to.join("both")) {
                    Ok(()) => {}
                    Err(error) => panic!("{me}: {error}"),
                }
                match fs::remove_file(to.join("both")) {
                    Err(error) if error.kind() != ErrorKind::NotFound => panic!("{me}: {error}"),
                    _ => {}
                }
                assert!(!is_there(&to.join(&name)));
                slowest = slowest.max(round.elapsed());
                rounds += 1;
            }
            (rounds, slowest)
        })
    };
    let workers = [
        busy(&one, "one", "a", "b"),
        busy(&two, "two", "b", "a"),
        busy(&one, "uno", "a", "a"),
        busy(&two, "due", "a", "a"),
    ];
    for worker in workers {
        let (rounds, slowest) = worker.join().unwrap();
        assert!(rounds > 5, "only {rounds} rounds");
        assert!(slowest < Duration::from_secs(3), "a round took {slowest:?}");
    }
    for dir in ["a", "b"] {
        let list = |mount: &Mount| {
            let entries = fs::read_dir(mount.join(dir)).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(list(&one), list(&two), "{dir}");
    }
}

/// A mount that is gone without a word holds others up for no longer than its leases last.
#[test]
fn a_dead_mount_holds_nobody_up_for_long() {
    let Some((mut cluster, one, two)) = Cluster::with_two_mounts() else {
        return;
    };
    fs::create_dir(one.join("d")).unwrap();
    fs::write(one.join("d/file"), "x").unwrap();
    let three = cluster.mount(2);
    warm(&three, "d");
    three.kill();
    let begin = Instant::now();
    fs::write(two.join("d/file"), "changed").unwrap();
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert_eq!(fs::read_to_string(one.join("d/file")).unwrap(), "changed");
}
