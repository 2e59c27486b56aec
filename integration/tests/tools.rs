//! The tools of `magma` on a real network: what they show, as text and as JSON, and how they
//! end when something is wrong.

// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Output;

use integration::Cluster;
use integration::cluster::KEY;
use integration::mounted::can_mount;
use integration::volcano_process::programs;
use magma_cli::program::Program;
use serde_json::Value;

fn magma_with(key: &str, arguments: &[&str]) -> Output {
    let mut command = programs().command(Program::Tools);
    command.env("MAGMA_KEY", key).args(arguments);
    command.output().unwrap()
}

fn magma(arguments: &[&str]) -> Output {
    magma_with(KEY, arguments)
}

#[track_caller]
fn text(arguments: &[&str]) -> String {
    let output = magma(arguments);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&text(&[arguments, &["--json"]].concat())).unwrap()
}

#[track_caller]
fn fails(arguments: &[&str], code: i32, about: &str) {
    let output = magma(arguments);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{arguments:?}: {complaint}"
    );
    assert_eq!(complaint.lines().count(), 1, "{arguments:?}: {complaint}");
    assert!(complaint.contains(about), "{arguments:?}: {complaint}");
    assert!(!complaint.contains(KEY), "{complaint}");
}

#[test]
fn lava_and_status_ask_every_volcano() {
    let mut cluster = Cluster::start(3);
    let host = cluster.volcano(1).site().addr.to_string();
    let shown = text(&["lava", &host]);
    let blocks: Vec<&str> = shown.split("\n\n").collect();
    for (block, nick) in blocks.iter().zip(["wallace", "gromit", "penguin"]) {
        let begin = format!("node: {nick} ({nick})\nalive: yes\nstart: ");
        assert!(block.trim_start().starts_with(&begin), "{shown}");
        assert!(block.contains(" Kbit/s\nstorage: "), "{shown}");
    }
    assert_eq!(blocks.len(), 4, "{shown}");
    let lava = json(&["lava", &host]);
    assert_eq!(lava["volcanos"][2]["node"], "penguin");
    assert_eq!(
        lava["volcanos"][0]["slices"][0]["start"],
        "0000000000000000000000000000000000000000"
    );

    // The copies of those who have just joined may still be filled.
    Cluster::eventually("all is well", || {
        magma(&["status", &host]).status.success().then_some(())
    });
    let status = json(&["status", &host]);
    assert_eq!(status["well"], true);
    // A tool that needs a session ends it.
    text(&["ls", &format!("{host}:/")]);
    assert_eq!(json(&["status", &host])["sessions"], 0);

    cluster.volcano(2).terminate().unwrap();
    let unwell = magma(&["status", &host, "--patience", "5"]);
    assert_eq!(unwell.status.code(), Some(1), "{unwell:?}");
    let said = String::from_utf8_lossy(&unwell.stdout).into_owned();
    assert!(said.contains("penguin does not answer"), "{said}");
}

#[test]
fn files_are_listed_read_and_inspected() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(3);
    let mount = cluster.mount(0);
    let big: Vec<u8> = (0..3_000_000_u32).map(|at| (at * 7 % 251) as u8).collect();
    fs::create_dir(mount.join("dir")).unwrap();
    fs::write(mount.join("dir/small"), "hello\n").unwrap();
    fs::write(mount.join("dir/big"), &big).unwrap();
    std::os::unix::fs::symlink("small", mount.join("dir/link")).unwrap();
    for file in 0..300 {
        fs::write(mount.join(format!("dir/f{file}")), "").unwrap();
    }
    let addr = cluster.volcano(2).site().addr;
    let place = |path: &str| format!("{addr}:12000:{path}");

    let listed = text(&["ls", &place("/dir")]);
    assert_eq!(listed.lines().count(), 303, "{listed}");
    assert!(listed.contains(" small\n"), "{listed}");
    assert_eq!(json(&["ls", &place("/dir")]).as_array().unwrap().len(), 303);
    assert!(text(&["ls", &place("/dir/small")]).ends_with(" /dir/small\n"));

    assert_eq!(magma(&["cat", &place("/dir/big")]).stdout, big);
    assert_eq!(text(&["cat", &place("/dir/small")]), "hello\n");
    assert_eq!(json(&["cat", &place("/dir/small")])["text"], "hello\n");

    let stat = json(&["stat", &place("/dir/big")]);
    let seen = fs::metadata(mount.join("dir/big")).unwrap();
    assert_eq!(stat["size"], 3_000_000);
    assert_eq!(stat["inode"], seen.ino());
    assert_eq!(stat["written"][0], seen.mtime());
    assert_eq!(json(&["stat", &place("/dir/link")])["target"], "small");
    assert!(text(&["stat", &place("/dir")]).contains("type: directory\n"));

    let inspected = text(&["inspect", &place("/dir/small")]);
    for line in [
        "key: ",
        "incarnation: ",
        "owner: ",
        "copy: ",
        "name: small in ",
        "content: ",
    ] {
        assert!(
            inspected.lines().any(|l| l.starts_with(line)),
            "{inspected}"
        );
    }
    let inspected = json(&["inspect", &place("/dir/small")]);
    assert_eq!(inspected["names"][0]["name"], "small");
    assert_eq!(inspected["copies"][0]["in_sync"], true);

    fails(&["cat", &place("/dir")], 1, "it is a directory");
    fails(&["cat", &place("/dir/none")], 1, "/dir/none: no such file");
    fails(&["stat", &place("/dir/small/x")], 1, "not a directory");
    mount.end();
}

#[test]
fn errors_are_one_line_with_their_code() {
    let mut cluster = Cluster::start(1);
    let host = cluster.volcano(0).site().addr.to_string();
    fails(&["ls", &host], 2, "HOST:/DIR");
    fails(&["lava"], 2, "HOST");
    fails(
        &["lava", &host, "-k", "a", "--key-file", "b"],
        2,
        "not both",
    );
    fails(
        &["lava", &host, "--key-file", "/no/such/file"],
        2,
        "/no/such/file",
    );
    fails(
        &["lava", &format!("{host}:9"), "--patience", "1"],
        3,
        "no volcano answered",
    );
    let other = magma_with("another-key", &["lava", &host]);
    assert_eq!(other.status.code(), Some(3), "{other:?}");
    let complaint = String::from_utf8_lossy(&other.stderr);
    assert!(complaint.contains("has another secret key"), "{complaint}");
    // The key by each of the three ways.
    let file = cluster.dir().join("key-file");
    fs::write(&file, format!("{KEY}\n")).unwrap();
    for way in [["-k", KEY], ["--key-file", file.to_str().unwrap()]] {
        let output = magma_with("another-key", &["lava", &host, way[0], way[1]]);
        assert!(output.status.success(), "{output:?}");
    }
}
