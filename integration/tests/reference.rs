//! A lava network answers as a file system of the kernel's does, call by call.

use std::path::PathBuf;
use std::process::Command;

use integration::Cluster;
use integration::reference::compare;

/// Steps of one run; `MAGMA_REFERENCE_STEPS=100000` makes it a long one.
const STEPS: &str = "4000";

fn number(variable: &str, otherwise: &str) -> u64 {
    let value = std::env::var(variable).unwrap_or_else(|_| otherwise.to_owned());
    value
        .parse()
        .unwrap_or_else(|error| panic!("{variable}: {error}"))
}

/// Unmounts the reference.
struct Tmpfs(PathBuf);

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn two_mounts_answer_as_a_tmpfs_does() {
    let Some((mut cluster, one, two)) = Cluster::with_two_mounts() else {
        return;
    };
    let reference = Tmpfs(cluster.dir().join("reference"));
    std::fs::create_dir(&reference.0).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "mode=755", "reference"])
        .arg(&reference.0)
        .status()
        .unwrap();
    assert!(mounted.success(), "this test needs root, to mount a tmpfs");
    // So that it shows where it has a say, and where a default access control list has.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o027));
    let seed = number("MAGMA_REFERENCE_SEED", "1");
    let steps = usize::try_from(number("MAGMA_REFERENCE_STEPS", STEPS)).unwrap();
    let mounts = [one.path().to_owned(), two.path().to_owned()];
    let compared = compare(&reference.0, &mounts, seed, steps);
    // The tree is sound, too, however it looks.
    let checked = cluster.fsck();
    if let Err(what) = compared {
        for path in ["/c", "/dd/b", "/c/c", "/dd/b/c"] {
            println!("{}", cluster.ask(0, &format!("inspect {path}")));
        }
        panic!("{what}\n{checked:?}");
    }
    assert_eq!(checked, Ok(()));
}
