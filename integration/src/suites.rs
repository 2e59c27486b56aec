//! Conformance suites that others wrote: programs of crates.io, built once below `target/`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};

/// A program of crates.io that tests a file system. The version stands here, so that a run of
/// today and one of next year do the same.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    /// Name of the crate and of its program.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
}

/// POSIX, call by call: <https://crates.io/crates/pjdfstest>.
pub const PJDFSTEST: Suite = Suite {
    name: "pjdfstest",
    version: "0.2.2",
};

/// Random reads, writes and changes of size, each compared with memory:
/// <https://crates.io/crates/fsx>.
pub const FSX: Suite = Suite {
    name: "fsx",
    version: "0.3.2",
};

impl Suite {
    /// The program, built if this is the first time.
    ///
    /// # Panics
    ///
    /// When it cannot be built.
    pub fn program(self) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../target/suites")
            .join(format!("{}-{}", self.name, self.version));
        let program = root.join("bin").join(self.name);
        fs::create_dir_all(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
        // Tests run in parallel, and two builds of one thing would be in each other's way.
        let lock = root.join("lock");
        let lock =
            File::create(&lock).unwrap_or_else(|error| panic!("{}: {error}", lock.display()));
        let _lock = Flock::lock(lock, FlockArg::LockExclusive)
            .unwrap_or_else(|(_, error)| panic!("cannot lock {}: {error}", root.display()));
        if !program.is_file() {
            self.build(&root);
        }
        program
    }

    fn build(self, root: &Path) {
        let output = Command::new(env!("CARGO"))
            .args(["install", "--locked", "--version", self.version, "--root"])
            .arg(root)
            .arg(self.name)
            // Not what this build was given for the workspace, and away from its target.
            .current_dir("/")
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_TARGET_DIR")
            .output()
            .unwrap_or_else(|error| panic!("cannot start cargo: {error}"));
        assert!(
            output.status.success(),
            "cargo install {} {}: {}\n{}",
            self.name,
            self.version,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
