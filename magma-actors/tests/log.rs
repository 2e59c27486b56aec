//! The log of a whole process: in the journal, elsewhere, and when it panics.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use magma_actors::debug::{self, Mask};
use magma_actors::supervision::install_panic_hook;

const CHILD: &str = "MAGMA_TEST_LOG_CHILD";

/// Not a test of its own: what the child of the tests below does.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    debug::install(Mask::parse("f").expect("a channel")).expect("once");
    assert!(debug::install(Mask::NONE).is_err(), "only once");
    install_panic_hook();
    tracing::warn!(target: "magma::n", "two\nlines");
    tracing::debug!(target: "magma::f", op = "GetAttr", "served");
    tracing::debug!(target: "magma::s", "not asked for");
    let thread = std::thread::Builder::new().name("engine".to_owned());
    let thread = thread.spawn(|| panic!("out of lava")).expect("a thread");
    assert!(thread.join().is_err());
}

/// Runs the child with its standard error in a file; announced as the journal or not.
fn log_of_child(journal: bool) -> Vec<String> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("stderr");
    let file = File::create(&path).expect("a file");
    let metadata = file.metadata().expect("its numbers");
    let stream = if journal {
        format!("{}:{}", metadata.dev(), metadata.ino())
    } else {
        // The journal of somebody else: ours has been redirected.
        format!("{}:{}", metadata.dev(), metadata.ino() + 1)
    };
    let status = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .env("JOURNAL_STREAM", stream)
        .stderr(file)
        .stdout(std::process::Stdio::null())
        .status()
        .expect("it runs");
    assert!(status.success());
    let log = std::fs::read_to_string(path).expect("text");
    log.lines().map(ToOwned::to_owned).collect()
}

#[test]
fn in_the_journal() {
    let log = log_of_child(true);
    assert_eq!(log.len(), 3, "{log:?}");
    assert_eq!(log[0], "<4>magma::n: two\\nlines");
    assert_eq!(log[1], "<7>magma::f: served op=\"GetAttr\"");
    assert!(
        log[2].starts_with("<3>magma::v: panic: out of lava"),
        "{log:?}"
    );
    assert!(log[2].contains("thread=\"engine\""), "{log:?}");
    assert!(log[2].contains("log.rs:"), "{log:?}");
}

#[test]
fn elsewhere() {
    let log = log_of_child(false);
    assert_eq!(log.len(), 3, "{log:?}");
    let (time, rest) = log[0].split_at("2026-01-02T03:04:05.678Z".len());
    assert!(time.ends_with('Z') && time.contains('T'), "{log:?}");
    assert_eq!(rest, " WARN  magma::n: two\\nlines");
}
