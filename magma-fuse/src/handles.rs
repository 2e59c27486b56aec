//! Open files and directories, by the handle that the kernel passes back.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use fuser::FileHandle;
use magma_core::ids::FlareRef;
use magma_core::op::Credentials;

use crate::client::{Node, locked};
use crate::listing::Window;

/// Something open.
#[derive(Debug)]
pub enum Handle {
    /// A regular file.
    File(OpenFile),
    /// A directory.
    Directory(OpenDirectory),
    /// A file of `/.dht`, as it was at open.
    DhtFile(Bytes),
    /// `/.dht`.
    DhtDirectory,
}

/// An open regular file. It keeps its own incarnation: what happens to the name, or to the
/// key, does not concern it.
#[derive(Debug)]
pub struct OpenFile {
    /// The flare.
    pub flare: FlareRef,
    /// Who opened it.
    pub opener: Credentials,
    /// It may be written.
    pub write: bool,
    /// Lock owners that have locked through it.
    pub lockers: Mutex<BTreeSet<u64>>,
}

/// An open directory.
#[derive(Debug)]
pub struct OpenDirectory {
    /// The directory.
    pub node: Arc<Node>,
    /// Entries that were read and not yet asked for.
    pub window: tokio::sync::Mutex<Window>,
}

/// All that is open. Its size is bounded by the open files of the processes.
#[derive(Debug)]
pub struct HandleTable {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Handle>>>,
}

impl Default for HandleTable {
    fn default() -> HandleTable {
        HandleTable {
            next: AtomicU64::new(1),
            open: Mutex::new(HashMap::new()),
        }
    }
}

impl HandleTable {
    /// Gives something open a number. Numbers are not used again.
    pub fn insert(&self, handle: Handle) -> FileHandle {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        locked(&self.open).insert(number, Arc::new(handle));
        FileHandle(number)
    }

    /// What a number stands for.
    pub fn get(&self, number: FileHandle) -> Option<Arc<Handle>> {
        locked(&self.open).get(&number.0).cloned()
    }

    /// The regular file that a number stands for.
    pub fn file(&self, number: Option<FileHandle>) -> Option<FlareRef> {
        match self.get(number?)?.as_ref() {
            Handle::File(file) => Some(file.flare),
            _ => None,
        }
    }

    /// The kernel has let go of it.
    pub fn remove(&self, number: FileHandle) -> Option<Arc<Handle>> {
        locked(&self.open).remove(&number.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_not_used_again() {
        let table = HandleTable::default();
        let flare = FlareRef::default();
        let file = || {
            Handle::File(OpenFile {
                flare,
                opener: Credentials::root(),
                write: true,
                lockers: Mutex::default(),
            })
        };
        let first = table.insert(file());
        assert_eq!(table.file(Some(first)), Some(flare));
        assert!(table.remove(first).is_some());
        assert!(table.remove(first).is_none());
        let second = table.insert(Handle::DhtDirectory);
        assert_ne!(first, second);
        assert_eq!(table.file(Some(second)), None);
        assert_eq!(table.file(None), None);
    }
}
