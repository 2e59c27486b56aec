//! What a tree looks like: everything that must be the same before and after, or here and there.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha1::{Digest, Sha1};

/// One object of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Type and permissions.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Seconds and nanoseconds of the last change of content.
    pub mtime: (i64, i64),
    /// Bytes; not of directories, where it is up to the file system.
    pub size: u64,
    /// Number of names.
    pub links: u64,
    /// Inode number.
    pub inode: u64,
    /// SHA-1 of the content of a file, or the target of a symlink.
    pub content: Vec<u8>,
}

impl Object {
    /// Without what another file system may have otherwise: inode numbers, and the link counts
    /// of directories.
    fn anywhere(&self) -> Object {
        let is_dir = self.mode & libc::S_IFMT == libc::S_IFDIR;
        Object {
            inode: 0,
            links: if is_dir { 0 } else { self.links },
            ..self.clone()
        }
    }
}

/// A tree, by path below its root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(pub BTreeMap<PathBuf, Object>);

impl Snapshot {
    /// Reads a whole tree, its root left out.
    ///
    /// # Panics
    ///
    /// When something in it cannot be read.
    #[track_caller]
    pub fn of(root: &Path) -> Snapshot {
        let mut objects = BTreeMap::new();
        for entry in walkdir::WalkDir::new(root).min_depth(1) {
            let entry = entry.unwrap_or_else(|error| panic!("{error}"));
            let path = entry.path();
            let object = look(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let below = path.strip_prefix(root).unwrap_or(path).to_owned();
            objects.insert(below, object);
        }
        Snapshot(objects)
    }

    /// What is below one directory of the tree.
    pub fn below(&self, directory: &str) -> Snapshot {
        let inside = self.0.iter().filter_map(|(path, object)| {
            let path = path.strip_prefix(directory).ok()?;
            (!path.as_os_str().is_empty()).then(|| (path.to_owned(), object.clone()))
        });
        Snapshot(inside.collect())
    }

    /// Panics with the first differences to another snapshot of the same tree.
    #[track_caller]
    pub fn assert_same(&self, other: &Snapshot, what: &str) {
        self.compare(other, what, Object::clone);
    }

    /// The same for a copy of the tree on another file system: inode numbers may differ.
    #[track_caller]
    pub fn assert_copy(&self, other: &Snapshot, what: &str) {
        self.compare(other, what, Object::anywhere);
    }

    #[track_caller]
    fn compare(&self, other: &Snapshot, what: &str, part: impl Fn(&Object) -> Object) {
        let mut differences = Vec::new();
        for (path, object) in &self.0 {
            match other.0.get(path) {
                None => differences.push(format!("{path:?} is missing")),
                Some(found) if part(object) != part(found) => {
                    differences.push(format!("{path:?}: {object:?}\n  is now {found:?}"));
                }
                Some(_) => {}
            }
        }
        for path in other.0.keys().filter(|path| !self.0.contains_key(*path)) {
            differences.push(format!("{path:?} is new"));
        }
        let count = differences.len();
        differences.truncate(5);
        assert!(count == 0, "{what}: {count} differences\n{differences:#?}");
    }
}

fn look(path: &Path) -> std::io::Result<Object> {
    let meta = fs::symlink_metadata(path)?;
    let kind = meta.file_type();
    let content = if kind.is_symlink() {
        fs::read_link(path)?.as_os_str().as_bytes().to_vec()
    } else if kind.is_file() {
        checksum(path)?
    } else if kind.is_char_device() || kind.is_block_device() {
        meta.rdev().to_be_bytes().to_vec()
    } else {
        Vec::new()
    };
    Ok(Object {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        size: if kind.is_dir() { 0 } else { meta.size() },
        links: meta.nlink(),
        inode: meta.ino(),
        content,
    })
}

fn checksum(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha1::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().to_vec()),
            len => hash.update(&buffer[..len]),
        }
    }
}
