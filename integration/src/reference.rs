//! Random system calls, done on a file system of the kernel's and on a lava network in turn: what
//! they answer must be the same, down to the errno.
//!
//! | module | what it holds |
//! |---|---|
//! | [`step`] | what can be asked, and how it is drawn |
//! | [`tree`] | how it is asked of a tree, and what is seen of the answer |
//!
//! The reference is a tmpfs, which is in memory and was written by others. What may differ is not
//! looked at: inode numbers, sizes of directories, the order of listings, access times, and all times
//! that nobody has set. Times that are set by utimensat(2) lie long ago, so that a change that must, or
//! must not, move them shows.

pub mod step;
pub mod tree;

use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::rngs::StdRng;

use step::Step;
use tree::{Files, whole};

/// Steps between two looks at everything.
const LOOK_EVERY: usize = 500;
/// Steps that a failure shows.
const SHOWN: usize = 12;

/// Does `steps` on both, the second one through each of its mounts by chance.
///
/// # Errors
///
/// With the last steps, the first that differed, and the seed.
pub fn compare(
    reference: &Path,
    mounts: &[PathBuf],
    seed: u64,
    steps: usize,
) -> Result<(), String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut theirs, mut ours) = (Files::default(), Files::default());
    let mut done: Vec<String> = Vec::new();
    for number in 0..steps {
        let (step, mount) = Step::draw(&mut rng, mounts.len());
        let expected = theirs.ask(reference, &step);
        let got = ours.ask(&mounts[mount], &step);
        done.push(format!(
            "{number} on mount {mount}: {step:?} -> {expected:?}"
        ));
        if got != expected {
            let from = done.len().saturating_sub(SHOWN);
            // What it was taken for, perhaps.
            let same = whole(reference)
                .into_iter()
                .filter(|(_, stat, _)| *stat == got);
            let same: Vec<_> = same.map(|(path, ..)| String::from_utf8(path)).collect();
            let second = ours.ask(&mounts[mount], &step);
            let other = ours.ask(&mounts[(mount + 1) % mounts.len()], &step);
            return Err(format!(
                "seed {seed}: {got:?}, which is how {same:?} look, and then {second:?}, and on the other {other:?}, instead of the last of\n{}",
                done[from..].join("\n")
            ));
        }
        if number % LOOK_EVERY == LOOK_EVERY - 1 || number + 1 == steps {
            let expected = whole(reference);
            for mount in mounts {
                let got = whole(mount);
                if got != expected {
                    let differs = expected.iter().zip(&got).find(|(one, other)| one != other);
                    return Err(format!(
                        "seed {seed}, after step {number}: {} looks otherwise: {differs:?}",
                        mount.display()
                    ));
                }
            }
        }
    }
    Ok(())
}
