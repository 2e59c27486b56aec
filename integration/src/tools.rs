//! Programs of others that work on a mount: found or missed with a clear reason, and bounded.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

/// Set to 1 where such programs are not installed: tests of them pass without doing anything.
pub const SKIP_VARIABLE: &str = "MAGMA_SKIP_TOOLS";

/// Seconds that one program may take, on a busy machine and with unoptimised builds.
const LIMIT: &str = "180";
/// Exit code of timeout(1) when the limit was over.
const TIMED_OUT: i32 = 124;

/// Programs and the Debian packages that have them.
const PACKAGES: [(&str, &str); 12] = [
    ("cargo", "cargo"),
    ("cp", "coreutils"),
    ("diff", "diffutils"),
    ("gcc", "gcc"),
    ("git", "git"),
    ("make", "make"),
    ("mkfs.ext4", "e2fsprogs"),
    ("python3", "python3"),
    ("rsync", "rsync"),
    ("sh", "dash"),
    ("sqlite3", "sqlite3"),
    ("tar", "tar"),
];

/// Whether the tests of these programs are to do their work: `if !have(&["git"]) { return; }`.
///
/// # Panics
///
/// When one is missing and nobody has said that this is known.
pub fn have(programs: &[&str]) -> bool {
    if std::env::var_os(SKIP_VARIABLE).is_some_and(|value| value == "1") {
        return false;
    }
    for program in programs {
        let package = PACKAGES
            .iter()
            .find(|(name, _)| name == program)
            .map_or("unknown", |(_, package)| package);
        assert!(
            is_installed(program),
            "{program} is not installed: apt-get install {package}, or leave such tests out \
             with {SKIP_VARIABLE}=1"
        );
    }
    true
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/sbin".into(), "/usr/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}

/// A program, ended when it takes too long.
pub fn command(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", LIMIT, program]);
    command
}

/// Runs a program in a directory. Returns what it printed.
///
/// # Panics
///
/// When it fails or takes too long, with what it said.
#[track_caller]
pub fn run_in<S: AsRef<OsStr>>(dir: &Path, program: &str, arguments: &[S]) -> String {
    let mut command = command(program);
    command.current_dir(dir).args(arguments);
    finish(command)
}

/// The same, anywhere.
#[track_caller]
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> String {
    run_in(Path::new("/"), program, arguments)
}

/// Runs a prepared command to its end. Returns what it printed.
///
/// # Panics
///
/// When it fails or takes too long, with what it said.
#[track_caller]
pub fn finish(mut command: Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    assert!(output.status.success(), "{}", said(&command, &output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn said(command: &Command, output: &Output) -> String {
    let how = match output.status.code() {
        Some(TIMED_OUT) => format!("took more than {LIMIT} s"),
        _ => output.status.to_string(),
    };
    format!(
        "{command:?}: {how}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
