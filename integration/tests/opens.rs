//! Open files: known to their owner however they were opened, whoever removes them, and whoever
//! starts again meanwhile; and opening what has not changed asks nobody.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use integration::{Cluster, Mount};
use magma_core::limits::{SESSION_MS, SESSION_RENEW_MS};

/// Looks and reads twice, so that the next open is under a lease.
fn warm(path: &Path) {
    for _ in 0..2 {
        fs::metadata(path).expect("attributes");
        fs::read(path).expect("content");
    }
}

fn text(file: &mut File) -> String {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).expect("the start");
    file.read_to_string(&mut text).expect("content");
    text
}

/// What a volcano says of a line of `lava`, summed over all.
fn sum(cluster: &mut Cluster, field: &str) -> u64 {
    let said = cluster.ask(0, "lava");
    let count = |line: &str| line.trim().strip_prefix(field)?.trim().parse::<u64>().ok();
    said.lines().filter_map(count).sum()
}

/// Operations that all volcanos have served.
fn served(cluster: &mut Cluster) -> u64 {
    let nicks = ["wallace", "gromit", "penguin"];
    let count = |nick: &&str| {
        let said = cluster.ask(0, &format!("cat /.dht/{nick}"));
        let line = said
            .lines()
            .find_map(|line| line.trim().strip_prefix("operations: "));
        let count = line.and_then(|line| line.parse::<u64>().ok());
        count.unwrap_or_else(|| panic!("{said}"))
    };
    nicks.iter().map(count).sum()
}

/// A way to take the only name of `path` away, on one mount or the other.
type Removal = fn(&Mount, &str);

#[test]
fn an_open_file_outlives_its_name_whoever_removes_it() {
    let Some((mut cluster, one, two)) = Cluster::with_two_mounts() else {
        return;
    };
    let removals: [Removal; 2] = [
        |mount, name| fs::remove_file(mount.join(name)).expect("removed"),
        |mount, name| {
            fs::write(mount.join("other"), "new").expect("written");
            fs::rename(mount.join("other"), mount.join(name)).expect("replaced");
        },
    ];
    for round in 0..40 {
        let remove = removals[round % 2];
        let remover = [&one, &two][round / 2 % 2];
        let name = format!("file-{round}");
        let content = format!("old {round}");
        fs::write(two.join(&name), &content).unwrap();
        warm(&one.join(&name));
        let mut open = File::open(one.join(&name)).unwrap();
        remove(remover, &name);
        // Not from memory.
        nix::fcntl::posix_fadvise(
            &open,
            0,
            0,
            nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED,
        )
        .unwrap();
        assert_eq!(text(&mut open), content);
        assert_eq!(open.metadata().unwrap().len(), content.len() as u64);
    }
    // And nothing is left of them.
    for entry in fs::read_dir(one.path()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    Cluster::eventually("all are gone", || {
        (sum(&mut cluster, "keys: ") == 1).then_some(())
    });
}

#[test]
fn an_unlinked_open_file_outlives_its_owner_and_its_session() {
    let Some((mut cluster, one, two)) = Cluster::with_two_mounts() else {
        return;
    };
    let names: Vec<String> = (0..12).map(|number| format!("file-{number}")).collect();
    let mut open: Vec<File> = Vec::new();
    for name in &names {
        fs::write(one.join(name), name).unwrap();
        warm(&one.join(name));
        open.push(File::open(one.join(name)).unwrap());
        fs::remove_file(two.join(name)).unwrap();
    }
    for at in 0..cluster.len() {
        cluster.kill(at);
        cluster.start_again(at);
    }
    // Longer than an owner waits for sessions that do not say what they have open.
    let over = Instant::now() + Duration::from_millis(SESSION_MS + SESSION_RENEW_MS);
    while Instant::now() < over {
        std::thread::sleep(Duration::from_millis(500));
        for (name, file) in names.iter().zip(&mut open) {
            assert_eq!(&text(file), name);
        }
    }
    drop(open);
    Cluster::eventually("all are gone", || {
        (sum(&mut cluster, "keys: ") == 1).then_some(())
    });
}

#[test]
fn what_has_not_changed_is_opened_and_read_without_asking() {
    let Some((mut cluster, one, _two)) = Cluster::with_two_mounts() else {
        return;
    };
    let path = one.join("file");
    fs::write(&path, "unchanged").unwrap();
    warm(&path);
    let operations = |cluster: &mut Cluster| -> u64 {
        // They are counted now and then.
        let mut last = u64::MAX;
        Cluster::eventually("the count is at rest", || {
            std::thread::sleep(Duration::from_millis(1500));
            let count = served(cluster);
            let rests = count.abs_diff(last) < 20;
            last = count;
            rests.then_some(count)
        })
    };
    let before = operations(&mut cluster);
    for _ in 0..2000 {
        assert_eq!(fs::read_to_string(&path).unwrap(), "unchanged");
        assert_eq!(fs::metadata(&path).unwrap().len(), 9);
    }
    let asked = operations(&mut cluster) - before;
    assert!(asked < 100, "{asked} questions for 2000 rounds");
}
