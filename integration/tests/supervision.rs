//! An actor that panics is built anew: the others and the mounts do not notice.

// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use std::fs;

use integration::Cluster;
use integration::mounted::can_mount;
use integration::stores::verify;

/// As the console names them, and as the log does.
const ACTORS: [&str; 6] = ["keyspace", "flare", "node", "replica", "balancer", "engine"];
/// Files that are written around each fault.
const FILES: usize = 30;

#[test]
fn an_actor_that_panics_is_built_anew() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::with_environment(2, 1, &[("MAGMA_FAULTS", "1")]);
    let mount = cluster.mount(0);
    for actor in ACTORS {
        let dir = mount.join(actor);
        let log = cluster.volcano(0).process().log().to_owned();
        let panics = || {
            let log = fs::read_to_string(&log).unwrap();
            log.lines().filter(|line| line.contains("panic")).count()
        };
        let before = panics();
        // Work is under way while the fault comes.
        let worker = {
            let dir = dir.clone();
            std::thread::spawn(move || -> std::io::Result<()> {
                fs::create_dir(&dir)?;
                for n in 0..FILES {
                    fs::write(dir.join(format!("file{n}")), content(n))?;
                }
                Ok(())
            })
        };
        let said = cluster.ask(0, &format!("fault {actor}"));
        assert!(said.contains("fault sent"), "{said}");
        let worked = worker.join().unwrap();
        assert!(worked.is_ok(), "{actor}: {worked:?}");
        Cluster::eventually("the panic is in the log", || {
            (panics() > before).then_some(())
        });
        for n in 0..FILES {
            assert!(fs::read(dir.join(format!("file{n}"))).unwrap() == content(n));
        }
        assert!(cluster.volcano(0).is_running() && cluster.volcano(1).is_running());
    }
    let other = cluster.mount(1);
    for actor in ACTORS {
        assert_eq!(fs::read_dir(other.join(actor)).unwrap().count(), FILES);
    }
    mount.end();
    other.end();
    // The neighbour had no trouble of its own.
    let log = fs::read_to_string(cluster.volcano(1).process().log()).unwrap();
    assert!(!log.contains("panic"), "{log}");
    cluster.shutdown();
    verify(&cluster.stores());
}

#[test]
fn faults_are_for_tests_only() {
    let mut cluster = Cluster::start(1);
    let said = cluster.ask(0, "fault engine");
    let log = fs::read_to_string(cluster.volcano(0).process().log()).unwrap();
    assert!(!log.contains("panic"), "{said}\n{log}");
    assert!(cluster.volcano(0).is_running());
}

fn content(n: usize) -> Vec<u8> {
    vec![n as u8; n * 1_000]
}
