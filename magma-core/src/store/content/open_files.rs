//! The bounded cache of open content files: the least recently used one goes first.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use super::lock;
use super::name::FileId;
use super::sums::Sums;
use crate::limits::WRITEBACK_BYTES;

/// An open content file. It stays open while anyone uses it, in the cache or not.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: File,
    pub(super) sums: Sums,
    gathered: Mutex<Gathered>,
}

/// What was written since write-back was last started.
#[derive(Debug, Default)]
struct Gathered {
    bytes: u64,
    start: u64,
    end: u64,
}

impl OpenFile {
    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Puts content and sums on the disk. The write-back of the sums begins first: what they
    /// need of the file system's own journal goes with the content's, and costs no second wait.
    pub(super) fn sync(&self) -> io::Result<()> {
        if let Some(sums) = &self.sums.0 {
            // SAFETY: the call takes a descriptor, which `sums` keeps open, and touches no memory.
            // A failure shows in the sync below.
            unsafe {
                libc::sync_file_range(sums.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE);
            }
        }
        self.file.sync_data()?;
        match &self.sums.0 {
            Some(sums) => sums.sync_data(),
            None => Ok(()),
        }
    }

    /// Counts a write; every [`WRITEBACK_BYTES`] it returns the range (offset, length) that
    /// the writes since the last time span.
    pub(super) fn written(&self, offset: u64, len: u64) -> Option<(u64, u64)> {
        let mut gathered = lock(&self.gathered);
        let end = offset.saturating_add(len);
        if gathered.bytes == 0 {
            (gathered.start, gathered.end) = (offset, end);
        }
        gathered.bytes = gathered.bytes.saturating_add(len);
        gathered.start = gathered.start.min(offset);
        gathered.end = gathered.end.max(end);
        if gathered.bytes < WRITEBACK_BYTES {
            return None;
        }
        let range = (gathered.start, gathered.end - gathered.start);
        *gathered = Gathered::default();
        Some(range)
    }
}

#[derive(Debug)]
pub(super) struct OpenFiles {
    capacity: usize,
    uses: u64,
    files: BTreeMap<FileId, (Arc<OpenFile>, u64)>,
    by_use: BTreeMap<u64, FileId>,
}

impl OpenFiles {
    pub(super) fn new(capacity: usize) -> OpenFiles {
        OpenFiles {
            capacity,
            uses: 0,
            files: BTreeMap::new(),
            by_use: BTreeMap::new(),
        }
    }

    pub(super) fn get(&mut self, id: FileId) -> Option<Arc<OpenFile>> {
        let (file, used) = self.files.get_mut(&id)?;
        self.by_use.remove(used);
        self.uses += 1;
        *used = self.uses;
        self.by_use.insert(self.uses, id);
        Some(Arc::clone(file))
    }

    /// Keeps a file that was just opened, or drops it for one that another thread kept first.
    pub(super) fn keep(&mut self, id: FileId, file: File, sums: Sums) -> Arc<OpenFile> {
        if let Some(kept) = self.get(id) {
            return kept;
        }
        while self.files.len() >= self.capacity {
            let Some((_, oldest)) = self.by_use.pop_first() else {
                break;
            };
            self.files.remove(&oldest);
        }
        self.uses += 1;
        let file = Arc::new(OpenFile {
            file,
            sums,
            gathered: Mutex::default(),
        });
        self.files.insert(id, (Arc::clone(&file), self.uses));
        self.by_use.insert(self.uses, id);
        file
    }

    pub(super) fn forget(&mut self, id: FileId) {
        if let Some((_, used)) = self.files.remove(&id) {
            self.by_use.remove(&used);
        }
    }
}
