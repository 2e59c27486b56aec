//! A tree of real files: written through one mount, compared through another.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use magma_core::key::Key;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

const DIRECTORIES: usize = 10;
const FILES_EACH: usize = 30;
/// Larger than what lives in a row of the store, so that both places are used.
const SMALL_MAX: usize = 24 * 1024;
const BIG_BYTES: usize = 16 * 1024 * 1024;

/// What is compared of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    mode: u32,
    len: u64,
    links: u64,
    /// SHA-1 of the content of a file, or of the target of a symbolic link.
    content: Key,
}

/// A tree as it was seen, by path below its root.
pub(super) type Snapshot = BTreeMap<PathBuf, Seen>;

/// Writes a tree below a directory: files, directories, links, renames, one big file. The seed
/// decides what is in the files.
pub(super) fn write(root: &Path, seed: u64) -> io::Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    for directory in 0..DIRECTORIES {
        let path = root.join(format!("directory {directory}"));
        fs::create_dir(&path)?;
        for file in 0..FILES_EACH {
            let mut content = vec![0; rng.random_range(0..SMALL_MAX)];
            rng.fill_bytes(&mut content);
            fs::write(path.join(format!("file-{file}")), content)?;
        }
        symlink("file-0", path.join("symlink"))?;
        fs::hard_link(path.join("file-1"), path.join("hard link"))?;
        // Onto an existing name, and to a new one.
        fs::rename(path.join("file-2"), path.join("file-3"))?;
        fs::rename(path.join("file-4"), path.join("renamed"))?;
        fs::remove_file(path.join("file-5"))?;
        fs::set_permissions(path.join("file-6"), fs::Permissions::from_mode(0o640))?;
        File::options()
            .append(true)
            .open(path.join("file-7"))?
            .write_all(b"appended")?;
        File::options()
            .write(true)
            .open(path.join("file-8"))?
            .set_len(10)?;
    }
    // Between directories, and a directory with all that is in it.
    fs::rename(
        root.join("directory 0/file-9"),
        root.join("directory 1/from another"),
    )?;
    fs::rename(root.join("directory 2"), root.join("directory 3/moved"))?;
    fs::create_dir(root.join("empty"))?;
    fs::create_dir(root.join("removed"))?;
    fs::remove_dir(root.join("removed"))?;
    let mut big = File::create(root.join("big"))?;
    let mut block = vec![0; 1024 * 1024];
    for _ in 0..BIG_BYTES / block.len() {
        rng.fill_bytes(&mut block);
        big.write_all(&block)?;
    }
    big.sync_all()
}

/// Looks at everything below a directory.
pub(super) fn look(root: &Path) -> io::Result<Snapshot> {
    let mut seen = Snapshot::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            let content = if meta.is_file() {
                digest(&path)?
            } else if meta.is_symlink() {
                let target = fs::read_link(&path)?;
                Key::of_path(target.as_os_str().as_encoded_bytes())
            } else {
                open.push(path.clone());
                Key::MIN
            };
            let below = path.strip_prefix(root).unwrap_or(&path).to_owned();
            // Size and link count of a directory are a notion of each file system.
            let (len, links) = if meta.is_dir() {
                (0, 0)
            } else {
                (meta.len(), meta.nlink())
            };
            seen.insert(
                below,
                Seen {
                    mode: meta.mode(),
                    len,
                    links,
                    content,
                },
            );
        }
    }
    Ok(seen)
}

fn digest(path: &Path) -> io::Result<Key> {
    let mut content = Vec::new();
    File::open(path)?.read_to_end(&mut content)?;
    Ok(Key::of_path(&content))
}

/// The first difference between two trees, for a person.
pub(super) fn difference(expected: &Snapshot, found: &Snapshot) -> Option<String> {
    for (path, before) in expected {
        match found.get(path) {
            None => return Some(format!("{} is missing", path.display())),
            Some(now) if now != before => {
                return Some(format!(
                    "{} is {now:?} instead of {before:?}",
                    path.display()
                ));
            }
            Some(_) => {}
        }
    }
    let more = found.keys().find(|path| !expected.contains_key(*path))?;
    Some(format!("{} should not be there", more.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_tree() {
        let one = tempfile::tempdir().unwrap();
        let two = tempfile::tempdir().unwrap();
        write(one.path(), 7).unwrap();
        write(two.path(), 7).unwrap();
        let (first, second) = (look(one.path()).unwrap(), look(two.path()).unwrap());
        assert!(first.len() > 290, "{}", first.len());
        assert_eq!(difference(&first, &second), None);
        fs::write(two.path().join("empty/more"), "").unwrap();
        assert!(difference(&first, &second).is_none());
        let third = look(two.path()).unwrap();
        assert!(difference(&first, &third).is_some_and(|line| line.contains("more")));
        assert!(difference(&third, &first).is_some_and(|line| line.contains("missing")));
    }
}
