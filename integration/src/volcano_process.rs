//! One `magmad`, started, asked to end, killed. See [`VolcanoProcess`].

pub use magma_cli::launch::process::{Process, Programs};
pub use magma_cli::launch::volcano::{How, Site, VolcanoProcess};

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// A directory with `magmad` and `mount-magma` to test instead of the package's own build: for
/// example `target/release`.
const BIN_DIR_VARIABLE: &str = "MAGMA_BIN_DIR";
const BINARY: &str = "magma-under-test";

/// The programs under test.
///
/// # Panics
///
/// When they are not there and cannot be built.
pub fn programs() -> Programs {
    static FOUND: OnceLock<Programs> = OnceLock::new();
    FOUND.get_or_init(find).clone()
}

fn find() -> Programs {
    if let Some(dir) = std::env::var_os(BIN_DIR_VARIABLE) {
        return Programs::Dir(PathBuf::from(dir));
    }
    // A test runs as target/PROFILE/deps/NAME-HASH, a program as target/PROFILE/NAME.
    let me = std::env::current_exe()
        .unwrap_or_else(|error| panic!("this test does not know where it is: {error}"));
    let profile = me
        .ancestors()
        .skip(1)
        .find(|dir| !dir.ends_with("deps"))
        .unwrap_or_else(|| panic!("{} is not below a target directory", me.display()));
    let binary = profile.join(BINARY);
    if !binary.exists() {
        // Cargo builds it for the tests in `tests/`, not for unit tests alone.
        let built = Command::new(env!("CARGO"))
            .args(["build", "-p", "integration", "--bins"])
            .status();
        assert!(
            built.is_ok_and(|status| status.success()) && binary.exists(),
            "{} is not there: cargo build -p integration --bins",
            binary.display()
        );
    }
    Programs::One(binary)
}
