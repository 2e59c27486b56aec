//! What is wrong gets the right errno or one clear line, and nothing is lost.

// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use integration::cluster::KEY;
use integration::mounted::can_mount;
use integration::stores::verify;
use integration::volcano_process::programs;
use integration::{Cluster, tools};
use magma_actors::config::DEFAULT_PORT;
use magma_cli::program::Program;

/// MiB of the small disk, and what fits on it for sure.
const DISK_MIB: u64 = 48;
const PIECE: usize = 1 << 20;

/// Runs a magmad that cannot start. Returns the one line that says why.
#[track_caller]
fn complaint(key: &str, arguments: &[&OsStr]) -> String {
    let mut command = Command::new("timeout");
    let magmad = programs().command(Program::Magmad);
    command
        .args(["-k", "5", "60"])
        .arg(magmad.get_program())
        .args(magmad.get_args());
    let output = command
        .args(arguments)
        .env("MAGMA_KEY", key)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let text = text(&output);
    let mut errors = text.lines().filter(|line| line.contains("ERROR"));
    let error = errors
        .next()
        .unwrap_or_else(|| panic!("no error in\n{text}"));
    assert_eq!(errors.next(), None, "more than one line:\n{text}");
    error.to_owned()
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// The arguments of a volcano that is to join.
fn join<'a>(dir: &'a Path, nick: &'a str, addr: &'a str, contact: &'a str) -> Vec<&'a OsStr> {
    let mut arguments: Vec<&OsStr> = vec![OsStr::new("-d"), dir.as_os_str()];
    arguments.extend(["-n", nick, "-i", addr, "-r", contact].map(OsStr::new));
    arguments
}

#[test]
fn a_join_that_cannot_be_says_why() {
    let mut cluster = Cluster::start(1);
    let contact = cluster.addr(0).to_string();
    let addr = cluster.addr(5).to_string();
    let nowhere = cluster.addr(6).to_string();
    let dir = |name: &str| -> PathBuf { cluster.dir().join(name) };

    let said = complaint(
        "not-the-key-of-this-network-4711",
        &join(&dir("a"), "gromit", &addr, &contact),
    );
    assert!(said.contains("key"), "{said}");
    let said = complaint(KEY, &join(&dir("b"), "wallace", &addr, &contact));
    assert!(
        said.contains("a volcano called wallace is a member already"),
        "{said}"
    );
    let said = complaint(KEY, &join(&dir("c"), "gromit", &addr, &nowhere));
    assert!(said.contains(&nowhere), "{said}");
    // None of them has become a member, and each directory can be used for another try.
    let lava = cluster.ask(0, "lava");
    assert!(!lava.contains("gromit"), "{lava}");
    cluster.join();
    cluster.shutdown();
    verify(&cluster.stores());
}

#[test]
fn a_volcano_that_cannot_start_says_why() {
    let mut cluster = Cluster::start(1);
    let bootstrap = |dir: &Path, addr: &str| {
        let mut arguments = vec![OsStr::new("-d").to_owned(), dir.as_os_str().to_owned()];
        arguments.extend(["-n", "x", "-i", addr, "-b"].map(|a| OsStr::new(a).to_owned()));
        let arguments: Vec<&OsStr> = arguments.iter().map(|a| a.as_os_str()).collect();
        complaint(KEY, &arguments)
    };
    let other = cluster.dir().join("other");
    let addr = cluster.addr(5);

    // A second magmad on the directory of one that runs.
    let pid = cluster.volcano(0).process().pid().to_string();
    let said = bootstrap(&cluster.stores()[0], &addr.to_string());
    assert!(said.contains(&pid), "{said}");

    // Each port in use.
    for step in 0..2 {
        let taken = UdpSocket::bind((addr, DEFAULT_PORT + step)).unwrap();
        let said = bootstrap(&cluster.dir().join(format!("udp{step}")), &addr.to_string());
        assert!(
            said.contains(&format!("{addr}:{}", DEFAULT_PORT + step)),
            "{said}"
        );
        drop(taken);
    }
    let taken = TcpListener::bind((addr, DEFAULT_PORT + 2)).unwrap();
    let said = bootstrap(&cluster.dir().join("tcp"), &addr.to_string());
    assert!(
        said.contains(&format!("{addr}:{}", DEFAULT_PORT + 2)),
        "{said}"
    );
    drop(taken);

    // A storage directory that is a file, and one that cannot be made.
    fs::write(&other, "a file").unwrap();
    let said = bootstrap(&other, &addr.to_string());
    assert!(said.contains(&other.display().to_string()), "{said}");
    let said = bootstrap(Path::new("/proc/no-such-place"), &addr.to_string());
    assert!(said.contains("/proc/no-such-place"), "{said}");

    // A directory that holds a volcano already, whose network runs no longer.
    cluster.shutdown();
    let said = bootstrap(&cluster.stores()[0], &addr.to_string());
    assert!(said.contains("wallace"), "{said}");
    cluster.restart();
}

#[test]
fn a_mount_without_a_network_ends_with_32() {
    if !can_mount() {
        return;
    }
    let cluster = Cluster::start(0);
    let target = cluster.dir().join("target");
    fs::create_dir(&target).unwrap();
    let output = programs()
        .command(Program::Mount)
        .arg(format!("--host={}", cluster.addr(0)))
        .args(["-o", "patience=1"])
        .arg(&target)
        .env("MAGMA_KEY", KEY)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(32));
    let said = text(&output);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(&cluster.addr(0).to_string()), "{said}");
}

#[test]
fn names_and_paths_keep_their_bounds() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(2);
    let one = cluster.mount(0);
    let two = cluster.mount(1);

    let longest = "n".repeat(255);
    fs::write(one.join(&longest), "fits").unwrap();
    assert_eq!(fs::read_to_string(two.join(&longest)).unwrap(), "fits");
    let errno = |error: std::io::Error| error.raw_os_error();
    let long = "n".repeat(256);
    let error = fs::write(one.join(&long), "does not").unwrap_err();
    assert_eq!(errno(error), Some(libc::ENAMETOOLONG));
    let error = fs::create_dir(one.join(&long)).unwrap_err();
    assert_eq!(errno(error), Some(libc::ENAMETOOLONG));
    let error = fs::rename(one.join(&longest), one.join(&long)).unwrap_err();
    assert_eq!(errno(error), Some(libc::ENAMETOOLONG));
    // The kernel takes 4,095 bytes and the zero.
    let mut path = one.path().as_os_str().as_bytes().to_vec();
    while path.len() < 4096 {
        path.extend_from_slice(b"/dd");
    }
    path.truncate(4096);
    let error = fs::write(OsStr::from_bytes(&path), "too long").unwrap_err();
    assert_eq!(errno(error), Some(libc::ENAMETOOLONG));
    // A symlink's target has the bound of a path, too.
    let error = std::os::unix::fs::symlink("t".repeat(4096), one.join("link")).unwrap_err();
    assert_eq!(errno(error), Some(libc::ENAMETOOLONG));

    for name in [
        &b"new\nline"[..],
        b"\xff\xfe invalid \x80",
        b"\x01\x1b[31m",
        b" ",
        b"\\",
    ] {
        let name = OsStr::from_bytes(name);
        fs::create_dir(one.join(name)).unwrap();
        fs::write(one.join(name).join(name), name.as_bytes()).unwrap();
        assert_eq!(
            fs::read(two.join(name).join(name)).unwrap(),
            name.as_bytes()
        );
        let listed: Vec<_> = fs::read_dir(two.join(name))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(listed, [name]);
    }
    // Long names in deep directories, nearly as long as a path can be.
    let deep = one.join(["d".repeat(200).as_str(); 15].iter().collect::<PathBuf>());
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), "deep").unwrap();
    let there = two.path().join(deep.strip_prefix(one.path()).unwrap());
    assert_eq!(fs::read_to_string(there.join("file")).unwrap(), "deep");
    one.end();
    two.end();
    cluster.shutdown();
    verify(&cluster.stores());
}

/// A small file system of its own, mounted. Dropped, it is unmounted.
struct SmallDisk {
    target: PathBuf,
}

impl SmallDisk {
    fn make(image: &Path, target: &Path, features: &str) -> SmallDisk {
        fs::File::create(image)
            .unwrap()
            .set_len(DISK_MIB << 20)
            .unwrap();
        tools::run(
            "mkfs.ext4",
            &[
                Path::new("-qF"),
                Path::new("-m0"),
                Path::new("-b1024"),
                Path::new("-O"),
                features.as_ref(),
                image,
            ],
        );
        fs::create_dir_all(target).unwrap();
        tools::run(
            "mount",
            &[Path::new("-o"), Path::new("loop"), image, target],
        );
        SmallDisk {
            target: target.to_owned(),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a volcano that a failed test has left still uses it.
        let _ = Command::new("umount").arg("-l").arg(&self.target).status();
    }
}

#[test]
fn a_full_disk_loses_nothing() {
    if !can_mount() || !tools::have(&["mkfs.ext4"]) {
        return;
    }
    let mut cluster = Cluster::start(0);
    // Where the harness puts the store of the first.
    let _disk = SmallDisk::make(
        &cluster.dir().join("image"),
        &cluster.dir().join("wallace"),
        "extent",
    );
    cluster.join();
    let mount = cluster.mount(0);
    fs::write(mount.join("before"), "was here before").unwrap();

    let mut kept = Vec::new();
    let error = (0..DISK_MIB * 2)
        .find_map(|n| {
            let path = mount.join(format!("big{n}"));
            let written = fs::File::create(&path).and_then(|mut file| {
                file.write_all(&vec![n as u8; PIECE])?;
                file.sync_all()
            });
            match written {
                Ok(()) => kept.push((path, n as u8)),
                Err(error) => return Some(error),
            }
            None
        })
        .expect("the disk is full at some time");
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    assert!(kept.len() > 5, "{} files", kept.len());
    let check = |kept: &[(PathBuf, u8)]| {
        for (path, byte) in kept {
            assert!(
                fs::read(path).unwrap() == vec![*byte; PIECE],
                "{}",
                path.display()
            );
        }
        let before = fs::read_to_string(mount.join("before")).unwrap();
        assert_eq!(before, "was here before");
    };
    check(&kept);
    // Deleting works, and makes room once the reserve is back.
    for (path, _) in kept.drain(..8) {
        fs::remove_file(path).unwrap();
    }
    Cluster::eventually("there is room again", || {
        let path = mount.join("after");
        let written = fs::write(&path, vec![9; PIECE]);
        written.is_ok().then_some(())
    });
    assert!(fs::read(mount.join("after")).unwrap() == vec![9; PIECE]);
    check(&kept);
    mount.end();
    cluster.shutdown();
    verify(&cluster.stores());
    cluster.restart();
    let again = cluster.mount(0);
    assert!(fs::read(again.join("after")).unwrap() == vec![9; PIECE]);
    for (path, byte) in &kept {
        let path = again.join(path.file_name().unwrap());
        assert!(
            fs::read(&path).unwrap() == vec![*byte; PIECE],
            "{}",
            path.display()
        );
    }
    again.end();
    cluster.shutdown();
}

/// EFBIG at the length that the smallest of the disks says, whichever volcano has the file, and
/// everything goes on.
#[test]
fn files_are_as_large_as_the_disks_let_them() {
    if !can_mount() || !tools::have(&["mkfs.ext4"]) {
        return;
    }
    let mut cluster = Cluster::start(0);
    let small = cluster.dir().join("wallace");
    // Without extents, a file has at most 16 GiB and a little in blocks of 1 KiB.
    let _disk = SmallDisk::make(&cluster.dir().join("image"), &small, "^extent,^64bit");
    cluster.join();
    cluster.join();
    let mount = cluster.mount(1);
    let probe = fs::File::create(small.join("probe")).unwrap();
    let (mut largest, mut too_large) = (1_u64 << 30, 1_u64 << 50);
    while too_large - largest > 1 {
        let middle = largest.midpoint(too_large);
        match probe.set_len(middle) {
            Ok(()) => largest = middle,
            Err(_) => too_large = middle,
        }
    }
    fs::remove_file(small.join("probe")).unwrap();
    let is_too_big = |done: std::io::Result<()>| {
        let error = done.expect_err("it is too big");
        assert_eq!(error.raw_os_error(), Some(libc::EFBIG), "{error}");
    };
    // The second one tells the first of its disk a moment after it is there, and is told.
    Cluster::eventually("both know of the small disk", || {
        let known = (0..8).all(|at| {
            let file = fs::File::create(mount.join(format!("file-{at}"))).unwrap();
            file.set_len(largest + 1).is_err()
        });
        known.then_some(())
    });
    for at in 0..8 {
        let path = mount.join(format!("file-{at}"));
        let file = fs::File::options().read(true).write(true).open(&path);
        let file = file.unwrap();
        file.set_len(largest).unwrap();
        is_too_big(file.set_len(largest + 1));
        is_too_big(file.write_all_at(b"xy", largest - 1));
        is_too_big(file.write_all_at(b"x", i64::MAX as u64 - 1));
        file.write_all_at(b"x", largest - 1).unwrap();
        assert_eq!(file.metadata().unwrap().len(), largest);
        let mut end = [0; 2];
        file.read_exact_at(&mut end, largest - 2).unwrap();
        assert_eq!(end, [0, b'x']);
        file.set_len(1).unwrap();
    }
    for volcano in 0..2 {
        let log = fs::read_to_string(cluster.volcano(volcano).process().log()).unwrap();
        assert!(!log.contains("built anew"), "{log}");
    }
    mount.end();
    cluster.shutdown();
    verify(&cluster.stores());
}
