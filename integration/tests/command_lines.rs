//! The programs as a person meets them when something is wrong: one line, the right exit code,
//! and no secret in the process table.

// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

use integration::Cluster;
use integration::mounted::can_mount;
use integration::volcano_process::programs;
use magma_cli::program::Program;

fn run(program: Program, line: &str) -> Output {
    let mut command = programs().command(program);
    command
        .env_remove("MAGMA_KEY")
        .args(line.split_whitespace());
    command.output().unwrap()
}

fn complaint(output: &Output) -> String {
    assert!(output.stdout.is_empty());
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn magmad_says_in_one_line_what_is_wrong() {
    for (line, about) in [
        ("", "-d"),
        ("-d /nowhere", "secret key"),
        ("-d /nowhere -k k -b -r 127.0.0.1", "-b"),
        ("-d /nowhere -k k --frob", "--frob"),
        ("-d /nowhere -k k -b -D q", "debug channel"),
    ] {
        let output = run(Program::Magmad, line);
        assert_eq!(output.status.code(), Some(2), "{line}");
        let complaint = complaint(&output);
        assert!(complaint.contains(about), "{complaint}");
    }
    let help = run(Program::Magmad, "-h");
    assert!(help.status.success());
    assert!(String::from_utf8_lossy(&help.stdout).contains("-d, --dir <DIR>"));
}

#[test]
fn mount_magma_has_the_exit_codes_of_its_form() {
    for (line, code) in [
        ("--key=k /tmp", 2),
        ("--host=127.0.0.1 --key=k --frob /tmp", 2),
        ("127.0.0.1:/ /tmp -o key=k,frob", 1),
        ("127.0.0.1:/ /no/such/dir -o key=k", 1),
        ("-u /proc", 1),
    ] {
        let output = run(Program::Mount, line);
        assert_eq!(output.status.code(), Some(code), "{line}");
        complaint(&output);
    }
    let fake = run(Program::Mount, "127.0.0.1:/ /tmp -f -o key=k");
    assert!(fake.status.success());
}

#[test]
fn a_mount_that_fails_says_why_and_ends_with_32() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // Nobody listens on port 9 of loopback.
    let line = format!("127.0.0.1:9:/ {} -o key=k,patience=1", dir.path().display());
    let output = run(Program::Mount, &line);
    assert_eq!(output.status.code(), Some(32));
    complaint(&output);
}

#[test]
fn the_secret_is_not_in_the_process_table() {
    // Reads the secret, blocks on a FIFO that is its log, and can be looked at meanwhile.
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let mut command = programs().command(Program::Mount);
    command
        .args(["--host=127.0.0.1", "-f", "--key=sesame-open"])
        .arg(format!("--log={}", fifo.display()))
        .arg(dir.path())
        .env("MAGMA_KEY", "sesame-variable");
    let mut child = command.spawn().unwrap();
    let read = |what: &str| {
        let bytes = std::fs::read(format!("/proc/{}/{what}", child.id())).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Cluster::eventually("the key is overwritten", || {
        read("cmdline").contains("--key=xxx").then_some(())
    });
    assert!(!read("cmdline").contains("sesame"));
    assert!(!read("environ").contains("sesame-variable"));
    child.kill().unwrap();
    child.wait().unwrap();
}
