//! `magma demo` for real: it checks itself, and however it ends, it leaves nothing behind.

// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use integration::Cluster;
use integration::mounted::can_mount;
use integration::volcano_process::programs;
use magma_cli::program::Program;
use magma_fuse::mount::table;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A demo whose temporary directory is below this one.
fn demo(temporary: &Path, arguments: &[&str]) -> Command {
    let mut command = programs().command(Program::Tools);
    command
        .arg("demo")
        .args(arguments)
        .env("TMPDIR", temporary)
        .stdout(Stdio::piped());
    command
}

/// Processes with this text in their command line, beside this one.
fn processes_about(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(text) {
            found.push(line);
        }
    }
    found
}

/// Waits until no process, no mount and no temporary directory is left.
#[track_caller]
fn nothing_is_left(temporary: &Path) {
    let text = temporary.to_str().unwrap();
    Cluster::eventually("no process, no mount and no directory is left", || {
        let mounted = table::read()
            .iter()
            .any(|mount| mount.target.starts_with(temporary));
        let directories = fs::read_dir(temporary).unwrap().flatten();
        let left = directories
            .filter(|entry| {
                entry
                    .file_name()
                    .to_string_lossy()
                    .starts_with("magma-demo-")
            })
            .count();
        (!mounted && left == 0 && processes_about(text).is_empty()).then_some(())
    });
}

/// Waits until a demo has mounted.
#[track_caller]
fn mounted_below(temporary: &Path) {
    Cluster::eventually("the demo is mounted", || {
        table::read()
            .iter()
            .any(|mount| mount.is_magma() && mount.target.starts_with(temporary))
            .then_some(())
    });
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

#[test]
fn it_checks_itself() {
    if !can_mount() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let output = demo(temporary.path(), &["--check"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.ends_with("All is well.\n"), "{said}");
    let mut steps = said.lines().filter(|line| *line != "All is well.");
    assert!(steps.all(|line| line.starts_with("ok    ")), "{said}");
    nothing_is_left(temporary.path());
}

#[test]
fn two_at_once_end_by_signals() {
    if !can_mount() {
        return;
    }
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut first = demo(one.path(), &["--volcanos", "1"]).spawn().unwrap();
    let mut second = demo(two.path(), &["--volcanos", "2"]).spawn().unwrap();
    mounted_below(one.path());
    mounted_below(two.path());
    signal(&first, Signal::SIGINT);
    signal(&second, Signal::SIGTERM);
    assert!(first.wait().unwrap().success());
    assert!(second.wait().unwrap().success());
    nothing_is_left(one.path());
    nothing_is_left(two.path());
}

#[test]
fn a_killed_demo_takes_its_processes_and_its_mount_along() {
    if !can_mount() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let mut demo = demo(temporary.path(), &["--volcanos", "1"])
        .spawn()
        .unwrap();
    mounted_below(temporary.path());
    demo.kill().unwrap();
    demo.wait().unwrap();
    let text = temporary.path().to_str().unwrap().to_owned();
    // Nobody is left to remove the directory; the next demo does that.
    Cluster::eventually("no process and no mount is left", || {
        let mounted = table::read()
            .iter()
            .any(|mount| mount.target.starts_with(temporary.path()));
        (!mounted && processes_about(&text).is_empty()).then_some(())
    });
}

#[test]
fn a_directory_in_use_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    fs::write(temporary.path().join("precious"), "x").unwrap();
    let dir = temporary.path().to_str().unwrap();
    let output = demo(temporary.path(), &["--dir", dir]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("holds files already"), "{said}");
    assert!(temporary.path().join("precious").exists());
}
