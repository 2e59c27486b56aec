//! What the suites of others say of a mount of three volcanos.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use integration::Cluster;
use integration::mounted::can_mount;
use integration::suites::{FSX, PJDFSTEST};
use integration::volcano_process::programs;
use magma_cli::program::Program;

/// Everything that it can test on Linux is switched on.
const PJDFSTEST_SETTINGS: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]

[settings]
naptime = 0.01
"#;

/// The tests that it leaves out, which docs/SEMANTICS.md gives the reasons for.
const PJDFSTEST_SKIPS: [&str; 1] = ["link::link_count_max"];

/// Runs in a mount namespace, where the helper is installed as mount(8) looks for it when a
/// mount that stands in no fstab is mounted again. The mount is seen in `/mnt` there: a
/// temporary directory may be one that other users cannot enter, and so deep that the names of
/// sockets in it are too long.
const IN_NAMESPACE: &str = r#"
set -e
mount -t overlay overlay -o "lowerdir=$1/sbin:/usr/sbin" /usr/sbin
mount -t tmpfs other "$1/other"
mount -t tmpfs -o mode=755 places /mnt
mkdir /mnt/m
mount --bind "$3" /mnt/m
program=$2
shift 3
exec "$program" -c "$PWD/settings.toml" -s "$PWD/other" -p /mnt/m/suite "$@"
"#;

/// Names of tests with what became of each.
type Outcomes = BTreeMap<String, String>;

#[test]
fn pjdfstest_finds_nothing() {
    if !can_mount() {
        return;
    }
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let mut cluster = Cluster::start(3);
    let mount = cluster.mount(0);
    fs::create_dir(mount.join("suite")).unwrap();

    let mut outcomes = pjdfstest(&mount.join(""), false, None);
    // A process of its own for those that mount again: some of the others leave a file open for
    // writing behind, and no file system becomes read-only under that.
    let remounting = pjdfstest(&mount.join(""), true, Some("erofs"));
    assert!(remounting.len() > 10, "{remounting:?}");
    outcomes.extend(remounting);

    let skipped: Vec<&str> = outcomes
        .iter()
        .filter(|(_, outcome)| *outcome == "skipped")
        .map(|(test, _)| test.as_str())
        .collect();
    assert_eq!(skipped, PJDFSTEST_SKIPS);
    let passed = outcomes.values().filter(|outcome| *outcome == "ok").count();
    assert_eq!(passed + skipped.len(), outcomes.len(), "{outcomes:?}");
    assert!(passed > 390, "only {passed} tests ran");
    mount.end();
}

fn pjdfstest(mount: &Path, remount: bool, pattern: Option<&str>) -> Outcomes {
    let scratch = tempfile::tempdir().expect("a directory");
    let sbin = scratch.path().join("sbin");
    for dir in [&sbin, &scratch.path().join("other")] {
        fs::create_dir(dir).expect("a directory");
    }
    install_helper(&sbin);
    let settings = format!("{PJDFSTEST_SETTINGS}allow_remount = {remount}\n");
    fs::write(scratch.path().join("settings.toml"), settings).expect("the settings");

    let output = Command::new("timeout")
        .args(["-k", "5", "400"])
        .args(["unshare", "--mount", "sh", "-c", IN_NAMESPACE, "sh"])
        .args([scratch.path(), &PJDFSTEST.program(), mount])
        .args(pattern)
        .current_dir(scratch.path())
        .output()
        .expect("unshare starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    // Hundreds of lines say "ok": whoever reads a failure wants the others, and what is below them.
    let told: Vec<&str> = said.lines().filter(|line| !line.ends_with(" ok")).collect();
    assert!(
        output.status.success(),
        "{}\n{}\n{errors}",
        output.status,
        told.join("\n")
    );
    said.lines()
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(test, outcome)| test.contains("::") && ["ok", "skipped"].contains(outcome))
        .map(|(test, outcome)| (test.trim().to_owned(), outcome.to_owned()))
        .collect()
}

fn install_helper(sbin: &Path) {
    let helper = sbin.join("mount.fuse.magma");
    let command = programs().command(Program::Mount);
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_str().expect("a path in UTF-8")))
        .collect();
    fs::write(
        &helper,
        format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")),
    )
    .expect("the helper is written");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("it is made executable");
}

/// Everything that fsx can do, but for direct I/O. It takes EINVAL for the reservation of nothing, which
/// POSIX wants, for a fault.
const FSX_SETTINGS: &str = "
flen = 1048576
[opsize]
min = 1
max = 131072
[weights]
close_open = 1.0
invalidate = 1.0
mapread = 1.0
mapwrite = 1.0
read = 1.0
write = 1.0
truncate = 1.0
fsync = 0.1
fdatasync = 0.1
posix_fallocate = 1.0
punch_hole = 1.0
sendfile = 1.0
posix_fadvise = 1.0
copy_file_range = 1.0
";

/// Operations of one run; `MAGMA_FSX_OPERATIONS=200000` makes it a long one.
const FSX_OPERATIONS: &str = "2500";

/// On one file, from one mount and then from the other.
#[test]
fn fsx_finds_nothing() {
    if !can_mount() {
        return;
    }
    let program = FSX.program();
    let operations =
        std::env::var("MAGMA_FSX_OPERATIONS").unwrap_or_else(|_| FSX_OPERATIONS.to_owned());
    let mut cluster = Cluster::start(3);
    let mounts = [cluster.mount(0), cluster.mount(2)];
    let scratch = tempfile::tempdir().unwrap();
    let settings = scratch.path().join("fsx.toml");
    fs::write(&settings, FSX_SETTINGS).unwrap();
    for (seed, mount) in (1..).zip(mounts.iter().chain(&mounts)) {
        let output = Command::new(&program)
            .args(["-N", &operations, "-S", &format!("{seed}"), "-f"])
            .arg(&settings)
            .arg("-P")
            .arg(scratch.path())
            .arg(mount.join("exercised"))
            .output()
            .expect("fsx starts");
        assert!(
            output.status.success(),
            "seed {seed}: {}\n{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
