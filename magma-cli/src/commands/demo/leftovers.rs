//! Temporary directories of demos that were killed: nobody was left to remove them, so the next
//! demo does. A demo that lives holds a lock in its directory.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use magma_fuse::mount::table;

/// What the names of temporary directories begin with.
pub(super) const PREFIX: &str = "magma-demo-";
/// The file that is locked while the demo lives.
const LOCK: &str = "demo.lock";

/// Marks a directory as one of a demo that lives, until the file is dropped.
pub(super) fn hold(dir: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(dir.join(LOCK))?;
    file.try_lock()?;
    Ok(file)
}

/// Removes the directories of dead demos. What cannot be removed (it belongs to another user,
/// or something is mounted in it) stays.
pub(super) fn sweep(temporary: &Path) {
    let Ok(entries) = fs::read_dir(temporary) else {
        return;
    };
    for entry in entries.flatten() {
        // Not through a symbolic link that somebody else has put there.
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_directory && is_ours(&entry.file_name()) {
            remove_if_dead(&entry.path());
        }
    }
}

fn is_ours(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(PREFIX))
}

fn remove_if_dead(dir: &Path) {
    // No lock file: its demo is just beginning, or it is none.
    let Ok(lock) = OpenOptions::new().write(true).open(dir.join(LOCK)) else {
        return;
    };
    let is_dead = lock.try_lock().is_ok();
    let is_mounted = || table::read().iter().any(|one| one.target.starts_with(dir));
    if is_dead
        && !is_mounted()
        && let Err(error) = fs::remove_dir_all(dir)
    {
        tracing::debug!("{} stays: {error}", dir.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_dead_are_removed() {
        let temporary = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let dir = temporary.path().join(name);
            fs::create_dir(&dir).unwrap();
            dir
        };
        let dirs = ["magma-demo-dead", "magma-demo-alive", "other"].map(make);
        let dead = hold(&dirs[0]).unwrap();
        let _alive = hold(&dirs[1]).unwrap();
        let other = hold(&dirs[2]).unwrap();
        drop((dead, other));
        // A child that another test forks just now has the lock until it execs.
        let gone = crate::launch::wait_for(crate::launch::END_LIMIT, || {
            sweep(temporary.path());
            (!dirs[0].exists()).then_some(())
        });
        assert!(gone.is_some());
        assert!(dirs[1].exists() && dirs[2].exists());
    }
}
