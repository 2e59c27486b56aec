//! A volcano that was away gets what it missed, and no more; an empty one gets everything.

#![allow(clippy::print_stdout, reason = "a test prints what it has measured")]
// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use integration::Cluster;
use integration::mounted::can_mount;

/// How many operations are missed, about.
const OPERATIONS_VARIABLE: &str = "MAGMA_RESYNC_OPERATIONS";
/// Files that are there before, and do not change.
const OLD: usize = 32;
/// Bytes of each.
const LARGE: usize = 1 << 20;
/// Files that change while the volcano is away.
const NEW: usize = 30;

fn becomes_whole(cluster: &mut Cluster) {
    Cluster::eventually("all is well", || {
        let said = cluster.ask(0, "status");
        let slices: Vec<&str> = said.lines().filter(|l| l.starts_with("slice ")).collect();
        let well = |line: &&str| line.contains("in sync") && !line.contains("stands in");
        let all = slices.len() >= 3 && slices.iter().all(well);
        (all && said.contains("awaited: nobody") && !said.contains(" sent")).then_some(())
    });
}

/// What the owners have sent, as their logs say after `from`: operations, bytes, and the longest time.
fn sent(cluster: &mut Cluster, line: &str, from: &[usize]) -> (u64, u64, u64) {
    let mut all = (0, 0, 0);
    for (at, from) in from.iter().enumerate() {
        let log = fs::read_to_string(&cluster.volcano(at).site().log).unwrap();
        for said in log[*from..].lines().filter(|said| said.contains(line)) {
            let number = |name: &str| -> u64 {
                let word = said.split(' ').find_map(|word| word.strip_prefix(name));
                word.map_or(0, |digits| digits.parse().unwrap())
            };
            all.0 += number("operations=");
            all.1 += number("bytes=");
            all.2 = all.2.max(number("took_ms="));
        }
    }
    all
}

fn log_lengths(cluster: &mut Cluster) -> Vec<usize> {
    let length = |path: &Path| fs::metadata(path).map_or(0, |file| file.len() as usize);
    (0..cluster.len())
        .map(|at| length(&cluster.volcano(at).site().log))
        .collect()
}

#[test]
fn what_was_missed_is_all_that_is_sent_and_an_empty_one_gets_everything() {
    if !can_mount() {
        return;
    }
    let operations = std::env::var(OPERATIONS_VARIABLE).map_or(3000, |n| n.parse().unwrap());
    let mut cluster = Cluster::start(3);
    let mount = cluster.mount(0);
    for n in 0..OLD {
        let data: Vec<u8> = (0..LARGE).map(|at| (at * n / 7) as u8).collect();
        fs::write(mount.join(format!("old-{n}")), data).unwrap();
    }
    let new = |n: usize| mount.join(format!("new-{n}"));
    (0..NEW).for_each(|n| drop(File::create(new(n)).unwrap()));
    becomes_whole(&mut cluster);

    cluster.kill(2);
    Cluster::eventually("penguin is known to be down", || {
        cluster.ask(0, "status").contains("down").then_some(())
    });
    let write = |from: usize, upto: usize| {
        for n in from..upto {
            let file = File::options().write(true).open(new(n % NEW)).unwrap();
            file.write_all_at(format!("{n:015}\n").as_bytes(), 0)
                .unwrap();
        }
    };
    write(0, operations);
    let before = log_lengths(&mut cluster);
    let began = Instant::now();
    cluster.start_again(2);
    // Work goes on meanwhile.
    write(operations, operations + 100);
    becomes_whole(&mut cluster);
    let whole = began.elapsed();
    let (missed, bytes, took_ms) = sent(&mut cluster, "it has got what it missed", &before);
    println!(
        "{missed} operations missed: {} KByte sent, in sync after {took_ms} ms, the network whole {whole:.1?} after the start",
        bytes >> 10
    );
    // Two of three slices are on it.
    assert!(missed as usize > operations / 4, "{missed}");
    assert!(
        (bytes as usize) < LARGE + 1000 * missed as usize,
        "{bytes} bytes"
    );
    let read = |n: usize| fs::read_to_string(new(n % NEW)).unwrap();
    for n in operations + 100 - NEW..operations + 100 {
        assert_eq!(read(n), format!("{n:015}\n"));
    }
    cluster.fsck().unwrap();

    // Its directory is gone: it joins as another, and gets everything that it is to hold.
    cluster.kill(2);
    Cluster::eventually("penguin is known to be down", || {
        cluster.ask(0, "status").contains("down").then_some(())
    });
    let mut console = cluster.console(0);
    let said = console.ask_back("evict penguin", "yes").unwrap();
    assert!(said.contains("Done"), "{said}");
    let before = log_lengths(&mut cluster);
    cluster.join_anew(2, 1);
    cluster.volcano(2).wait_ready().unwrap();
    becomes_whole(&mut cluster);
    let (_, bytes, took_ms) = sent(&mut cluster, "it has got everything", &before);
    println!(
        "an empty volcano: {} KByte sent, at most {took_ms} ms for a slice",
        bytes >> 10
    );
    assert!(bytes as usize > OLD * LARGE / 4, "{bytes} bytes");
    cluster.fsck().unwrap();
    mount.end();
}
