//! What strangers send to the ports is refused, counted and logged, and disturbs nobody.

// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::UdpSocket;

use integration::Cluster;
use integration::mounted::can_mount;
use integration::volcano_process::programs;
use magma_actors::config::DEFAULT_PORT;
use magma_cli::program::Program;

fn refusals(cluster: &mut Cluster, at: usize) -> usize {
    let log = fs::read_to_string(cluster.volcano(at).process().log()).unwrap();
    log.lines().filter(|line| line.contains("refused")).count()
}

#[test]
fn garbage_on_the_ports_disturbs_nobody() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(2);
    let mount = cluster.mount(0);
    let socket = UdpSocket::bind((cluster.addr(7), 0)).unwrap();
    for port in [DEFAULT_PORT, DEFAULT_PORT + 1] {
        let before = refusals(&mut cluster, 0);
        for n in 0..200_usize {
            // Sizes of all kinds, first bytes of all kinds: long and short QUIC headers too.
            let datagram: Vec<u8> = (0..1 + n * 7).map(|at| (at * 31 + n) as u8).collect();
            socket.send_to(&datagram, (cluster.addr(0), port)).unwrap();
        }
        fs::write(mount.join(format!("file{port}")), "works").unwrap();
        Cluster::eventually("the refusal is in the log", || {
            (refusals(&mut cluster, 0) > before).then_some(())
        });
    }
    for port in [DEFAULT_PORT, DEFAULT_PORT + 1] {
        let seen = fs::read_to_string(mount.join(format!("file{port}"))).unwrap();
        assert_eq!(seen, "works");
    }
    mount.end();
    cluster.shutdown();
}

#[test]
fn a_wrong_key_is_refused_and_logged() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(1);
    let mount = cluster.mount(0);
    let target = cluster.dir().join("stranger");
    fs::create_dir(&target).unwrap();
    let output = programs()
        .command(Program::Mount)
        .arg(format!("--host={}", cluster.addr(0)))
        .args(["-o", "patience=2"])
        .arg(&target)
        .env("MAGMA_KEY", "another-key-than-that-of-the-network")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(32));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    Cluster::eventually("the refusal is in the log", || {
        (refusals(&mut cluster, 0) > 0).then_some(())
    });
    fs::write(mount.join("file"), "works").unwrap();
    assert_eq!(fs::read_to_string(mount.join("file")).unwrap(), "works");
}
