//! `magma demo --check`: real files, on two mounts, over a shutdown and a restart. One line a
//! step. The same tree is written to a local directory first: that is what must come out.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::tree::{self, Snapshot};
use super::{DemoError, output};
use crate::commands::verify;
use crate::launch::LaunchError;
use crate::launch::network::Network;

/// The content of the files does not matter, but it is the same each time.
const SEED: u64 = 0x006d_6167_6d61;

/// Runs all steps; stops at the first that fails.
pub(super) fn run(network: &mut Network, volcanos: u8, mount: &Path) -> Result<(), DemoError> {
    let dir = network.plan().dir.clone();
    let other = dir.join("mnt-other");
    let expected = step("write the tree to a local directory", || {
        local(&dir.join("local"))
    })?;
    step(&format!("{volcanos} volcanos form a network"), || {
        for _ in 0..volcanos {
            network.add_volcano()?;
        }
        Ok(())
    })?;
    step("mount through the first volcano", || {
        Ok(network.mount(0, mount).map(drop)?)
    })?;
    step("write the same tree to the mount", || {
        tree::write(mount, SEED).map_err(|source| file("write the tree to", mount, source))
    })?;
    step("compare on the same mount", || compare(&expected, mount))?;
    let last = usize::from(volcanos) - 1;
    step("mount through the last volcano", || {
        Ok(network.mount(last, &other).map(drop)?)
    })?;
    step("compare on that mount", || compare(&expected, &other))?;
    step("unmount both", || Ok(network.unmount_all()?))?;
    step("shut the network down on a console", || {
        Ok(network.shutdown(0).map(drop)?)
    })?;
    step("compare the copies in the stores", || {
        let volcanos = network.volcanos().iter();
        let dirs = volcanos.map(|volcano| volcano.dir().to_owned());
        verify::check(dirs.collect()).map_err(DemoError::Copies)
    })?;
    step("restart it", || Ok(network.restart()?))?;
    step("mount and compare again", || {
        network.mount(last, mount)?;
        compare(&expected, mount)
    })?;
    step("remove everything on the mount", || empty(mount))?;
    output::result("All is well.");
    Ok(())
}

fn step<T>(what: &str, act: impl FnOnce() -> Result<T, DemoError>) -> Result<T, DemoError> {
    let begin = Instant::now();
    if crate::launch::is_cancelled() {
        return Err(LaunchError::Cancelled.into());
    }
    let result = act();
    let word = if result.is_ok() { "ok  " } else { "FAIL" };
    let seconds = begin.elapsed().as_secs_f64();
    output::result(format_args!("{word}  {what}  ({seconds:.1} s)"));
    result
}

fn local(dir: &Path) -> Result<Snapshot, DemoError> {
    std::fs::create_dir(dir)
        .and_then(|()| tree::write(dir, SEED))
        .and_then(|()| tree::look(dir))
        .map_err(|source| file("write the tree to", dir, source))
}

fn compare(expected: &Snapshot, mount: &Path) -> Result<(), DemoError> {
    let found = tree::look(mount).map_err(|source| file("read", mount, source))?;
    match tree::difference(expected, &found) {
        None => Ok(()),
        Some(difference) => Err(DemoError::Differs(difference)),
    }
}

fn empty(mount: &Path) -> Result<(), DemoError> {
    let entries = || -> io::Result<Vec<PathBuf>> {
        std::fs::read_dir(mount)?
            .map(|entry| Ok(entry?.path()))
            .collect()
    };
    let failed = |source| file("empty", mount, source);
    for path in entries().map_err(failed)? {
        let removed = if std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir()) {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        removed.map_err(|source| file("remove", &path, source))?;
    }
    match entries().map_err(failed)?.first() {
        None => Ok(()),
        Some(left) => Err(DemoError::Differs(format!("{} is left", left.display()))),
    }
}

fn file(action: &'static str, path: &Path, source: io::Error) -> DemoError {
    DemoError::File {
        action,
        path: path.to_owned(),
        source,
    }
}
