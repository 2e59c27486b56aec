//! Content files `content/ab/KEY.INCARNATION.SEGMENT` (`ab`: the first byte of the key).
//!
//! | file | what |
//! |---|---|
//! | [`name`] | the name of a content file, and back |
//! | [`files`](self) | opening, making, syncing and removing |
//! | `transfer` | reading and writing |
//! | `sums` | a checksum for each block, in a file beside the content |
//! | `in_flight` | which blocks are being written, should the process end |
//! | `space` | cutting, holes, and where they are |
//! | [`scrub`] | looking at what nobody reads |
//! | `open_files` | the bounded cache of open descriptors |
//!
//! [`ContentFiles`] is a handle that any thread may use. Only the store's writer creates,
//! cuts and removes files; readers and syncs run beside it on the shell's pool.

mod in_flight;
mod largest_file;
pub mod name;
mod open_files;
pub mod scrub;
mod space;
mod sums;
mod transfer;

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{StoreError, StoreResult};
use crate::ids::FlareRef;
use crate::limits::{BAD_BLOCKS_KEPT, CONTENT_FDS, FILE_SIZE_MAX};
use in_flight::{InFlight, Span};
use largest_file::largest_file;
use name::FileId;
use open_files::{OpenFile, OpenFiles};
pub use sums::BLOCK;
use sums::{Sums, never_right, sum_of};
pub use transfer::Checked;

/// Written bytes whose way to the disk should be started, off the writer's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WritebackRange {
    /// The flare.
    pub flare: FlareRef,
    /// The segment.
    pub segment: u32,
    /// The first byte.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
}

/// Locks that content files share by their key.
const STRIPES: usize = 64;

/// A handle to the content directory.
#[derive(Clone, Debug)]
pub struct ContentFiles {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    /// Files are opened for reading alone: somebody looks at a store that is not theirs.
    read_only: bool,
    /// The most bytes of a file, as the disk says.
    largest: u64,
    open: Mutex<OpenFiles>,
    /// For each of the 256 directories whether a file was created in it since it was last
    /// synced. True at first: an earlier life may have ended before its sync.
    ///
    /// The lock is held while the directory is synced, so that nobody takes a sync that is
    /// still under way for done.
    unsynced: Vec<Mutex<bool>>,
    due: Mutex<VecDeque<WritebackRange>>,
    /// Which blocks are being written; none in a store that is only looked at.
    in_flight: Option<InFlight>,
    /// Held while content and sums of a file do not agree.
    writing: Vec<Mutex<()>>,
    /// Bad blocks that the writer has come upon, and nobody has asked for yet.
    bad: Mutex<BTreeSet<(FlareRef, u64)>>,
}

/// Another thread's panic leaves these values whole: each is changed in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names the file, and tells a full disk from other failures.
pub(super) fn io_error(action: &'static str, path: &Path, source: io::Error) -> StoreError {
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::Full {
            path: path.to_path_buf(),
        },
        _ => StoreError::Io {
            action,
            path: path.to_path_buf(),
            source,
        },
    }
}

/// Makes a directory that may be there already.
fn make_directory(path: &Path) -> StoreResult<()> {
    match fs::create_dir(path) {
        Err(source) if source.kind() != ErrorKind::AlreadyExists => {
            Err(io_error("create", path, source))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes a file, or opens the one that a crash has left behind.
fn make(path: &Path) -> StoreResult<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|source| io_error("create", path, source))
}

/// Puts the entries of a directory on the disk.
pub(super) fn sync_directory(path: &Path) -> StoreResult<()> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| io_error("sync", path, source))
}

impl ContentFiles {
    /// Opens `directory`, and makes it when it is new.
    pub fn open(directory: &Path) -> StoreResult<ContentFiles> {
        make_directory(directory)?;
        let largest = largest_file(directory)
            .map_err(|source| io_error("ask for the largest file in", directory, source))?;
        let in_flight = InFlight::open(directory)
            .map_err(|source| io_error("open the record of writes in", directory, source))?;
        Ok(ContentFiles::handle(directory, Some(in_flight), largest))
    }

    /// Opens `directory` to be read. Makes nothing; content that is not there reads as none.
    pub fn peek(directory: &Path) -> ContentFiles {
        ContentFiles::handle(directory, None, FILE_SIZE_MAX)
    }

    fn handle(directory: &Path, in_flight: Option<InFlight>, largest: u64) -> ContentFiles {
        ContentFiles {
            shared: Arc::new(Shared {
                directory: directory.to_path_buf(),
                read_only: in_flight.is_none(),
                largest,
                open: Mutex::new(OpenFiles::new(CONTENT_FDS)),
                unsynced: (0..=u8::MAX).map(|_| Mutex::new(true)).collect(),
                due: Mutex::default(),
                in_flight,
                writing: (0..STRIPES).map(|_| Mutex::default()).collect(),
                bad: Mutex::default(),
            }),
        }
    }

    /// The path of a content file.
    pub fn path(&self, flare: FlareRef, segment: u32) -> PathBuf {
        FileId(flare, segment).path(&self.shared.directory)
    }

    /// The most bytes that a file can have here.
    pub fn largest_file(&self) -> u64 {
        self.shared.largest
    }

    /// The directory of all content.
    pub(super) fn directory(&self) -> &Path {
        &self.shared.directory
    }

    /// Keeps the others who write this file out, and readers who look twice.
    fn writing(&self, id: FileId) -> MutexGuard<'_, ()> {
        lock(&self.shared.writing[usize::from(id.0.key().0[1]) % STRIPES])
    }

    /// Remembers which blocks are about to change.
    fn note(&self, span: &Span) -> io::Result<()> {
        match &self.shared.in_flight {
            Some(record) => record.begin(span),
            None => Err(io::Error::from_raw_os_error(libc::EROFS)),
        }
    }

    /// Remembers that a block is bad.
    fn found(&self, id: FileId, block: u64) {
        let mut bad = lock(&self.shared.bad);
        if bad.len() < BAD_BLOCKS_KEPT {
            bad.insert((id.0, block.saturating_mul(BLOCK)));
        }
    }

    /// Takes what the writer and the scrub have found to be bad, at most so many: flares, and
    /// offsets of blocks, in order.
    pub fn take_bad(&self, most: usize) -> BTreeSet<(FlareRef, u64)> {
        let mut bad = lock(&self.shared.bad);
        match bad.iter().nth(most).copied() {
            Some(next) => {
                let rest = bad.split_off(&next);
                std::mem::replace(&mut *bad, rest)
            }
            None => std::mem::take(&mut *bad),
        }
    }

    /// After a stop that was not orderly: makes the sums of the blocks right that were being
    /// written. What they hold was acknowledged to nobody, unless it is as it was before.
    pub(super) fn recover(&self) -> StoreResult<()> {
        let Some(record) = &self.shared.in_flight else {
            return Ok(());
        };
        let failed = |source| io_error("recover", &self.shared.directory, source);
        let Some(span) = record.last().map_err(failed)? else {
            return Ok(());
        };
        let Some(file) = self.existing(span.id())? else {
            return Ok(());
        };
        let _writing = self.writing(span.id());
        file.sum_again(&span)
            .map_err(|source| self.failed("sum", span.id(), source))
    }

    /// Gives all content the sums of what it is now: it comes from a magmad without sums.
    pub(super) fn sum_all(&self) -> StoreResult<()> {
        let directory = &self.shared.directory;
        let failed = |path: &Path, source| io_error("read", path, source);
        for part in fs::read_dir(directory).map_err(|source| failed(directory, source))? {
            let part = part.map_err(|source| failed(directory, source))?.path();
            if !part.is_dir() {
                continue;
            }
            for file in fs::read_dir(&part).map_err(|source| failed(&part, source))? {
                let file = file.map_err(|source| failed(&part, source))?;
                let Some(id) = file.file_name().to_str().and_then(FileId::parse) else {
                    continue;
                };
                if let Some(open) = self.existing(id)? {
                    open.sum_again(&Span::new(id, (0, u64::MAX)))
                        .and_then(|()| open.sync())
                        .map_err(|source| self.failed("sum", id, source))?;
                }
            }
        }
        Ok(())
    }

    /// Puts right a range of blocks with what another volcano holds, as far as they are bad: a
    /// block that has the sum which ours should have, or, if `surely`, any. Whether all blocks of
    /// the range are good afterwards.
    pub fn mend(
        &self,
        flare: FlareRef,
        segment: u32,
        offset: u64,
        data: &[u8],
        surely: bool,
    ) -> StoreResult<bool> {
        let id = FileId(flare, segment);
        let file = match self.existing(id)? {
            Some(file) => file,
            None => self.create(id)?,
        };
        let _writing = self.writing(id);
        self.mend_blocks(&file, id, offset, data, surely)
            .map_err(|source| self.failed("mend", id, source))
    }

    fn mend_blocks(
        &self,
        file: &OpenFile,
        id: FileId,
        offset: u64,
        data: &[u8],
        surely: bool,
    ) -> io::Result<bool> {
        let mut all = true;
        for (part, block) in data.chunks(BLOCK as usize).zip(offset / BLOCK..) {
            if file.block(block)?.1 {
                continue;
            }
            let sum = sum_of(part);
            if !surely && file.sums.read(block, 1)?.first() != Some(&sum) {
                all = false;
                continue;
            }
            self.note(&Span::new(id, (block, block + 1)))?;
            file.sums.write(block, &[sum])?;
            file.file.write_all_at(part, block.saturating_mul(BLOCK))?;
        }
        Ok(all)
    }

    /// Marks the blocks of a range as bad: who filled this copy had no good ones.
    pub fn mark_bad(
        &self,
        flare: FlareRef,
        segment: u32,
        offset: u64,
        len: u64,
    ) -> StoreResult<()> {
        let id = FileId(flare, segment);
        let file = match self.existing(id)? {
            Some(file) => file,
            None => self.create(id)?,
        };
        let _writing = self.writing(id);
        let (first, end) = sums::blocks_of(offset, len);
        for block in first..end {
            let marked = file
                .block(block)
                .and_then(|(data, _)| file.sums.write(block, &[never_right(sum_of(&data))]));
            marked.map_err(|source| self.failed("mark a bad block of", id, source))?;
        }
        Ok(())
    }

    /// Removes all segments of a flare. Readers that have a file open keep it.
    pub fn remove(&self, flare: FlareRef) -> StoreResult<()> {
        for segment in 0.. {
            let id = FileId(flare, segment);
            let _writing = self.writing(id);
            let removed = fs::remove_file(id.path(&self.shared.directory));
            match fs::remove_file(id.sums_path(&self.shared.directory)) {
                Err(source) if source.kind() != ErrorKind::NotFound => {
                    return Err(self.failed("remove the sums of", id, source));
                }
                Ok(()) | Err(_) => {}
            }
            // Forgotten after it is gone, so that a reader who opened it in between sees, when
            // it puts it into the cache, that the file has no name any more.
            lock(&self.shared.open).forget(id);
            match removed {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                Err(source) => return Err(self.failed("remove", id, source)),
            }
        }
        Ok(())
    }

    /// Puts the content of a flare on the disk, with the name of its file when that is new.
    pub fn sync(&self, flare: FlareRef) -> StoreResult<()> {
        for segment in 0.. {
            let id = FileId(flare, segment);
            let Some(file) = self.existing(id)? else {
                if segment == 0 {
                    return Ok(());
                }
                break;
            };
            file.sync()
                .map_err(|source| self.failed("sync", id, source))?;
        }
        let first = flare.key().0[0];
        let mut unsynced = lock(&self.shared.unsynced[usize::from(first)]);
        if *unsynced {
            sync_directory(&self.shared.directory.join(name::part(first)))?;
            *unsynced = false;
        }
        Ok(())
    }

    fn existing(&self, id: FileId) -> StoreResult<Option<Arc<OpenFile>>> {
        if let Some(file) = lock(&self.shared.open).get(id) {
            return Ok(Some(file));
        }
        let path = id.path(&self.shared.directory);
        let sums_path = id.sums_path(&self.shared.directory);
        // Opened outside the lock: this may wait for a disk, and others should not.
        let open = |path: &Path| self.open_if_there(path);
        // The sums come first and go last.
        let (mut sums, mut file) = (open(&sums_path)?, open(&path)?);
        // Removed in between, or lost? Nobody removes it now.
        let odd = sums.is_some() != file.is_some();
        let _writing = odd.then(|| self.writing(id));
        if odd {
            (sums, file) = (open(&sums_path)?, open(&path)?);
        }
        let (file, sums) = match (file, sums) {
            (None, None) => return Ok(None),
            (Some(file), None) if self.shared.read_only => (file, Sums(None)),
            // One without the other: what had a sum, or content, is bad now.
            (Some(file), sums) => {
                let sums = sums.map_or_else(|| make(&sums_path), Ok)?;
                (file, Sums(Some(sums)))
            }
            (None, Some(sums)) => {
                let empty = sums.metadata().is_ok_and(|sums| sums.len() == 0);
                if empty || self.shared.read_only {
                    return Ok(None);
                }
                (make(&path)?, Sums(Some(sums)))
            }
        };
        self.keep(id, file, sums).map(Some)
    }

    fn open_if_there(&self, path: &Path) -> StoreResult<Option<File>> {
        let writable = !self.shared.read_only;
        match OpenOptions::new().read(true).write(writable).open(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error("open", path, source)),
        }
    }

    fn create(&self, id: FileId) -> StoreResult<Arc<OpenFile>> {
        let path = id.path(&self.shared.directory);
        let first = usize::from(id.0.key().0[0]);
        let mut unsynced = lock(&self.shared.unsynced[first]);
        let sums_path = id.sums_path(&self.shared.directory);
        // The sums first: a file without any would be taken for one that has lost them.
        let mut sums = make(&sums_path);
        if matches!(&sums, Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::NotFound)
        {
            // The first file of its part. This happens 256 times in the life of a store, so
            // that the part's own name can be made durable at once.
            if let Some(part) = path.parent() {
                make_directory(part)?;
            }
            sync_directory(&self.shared.directory)?;
            sums = make(&sums_path);
        }
        let sums = sums?;
        let file = make(&path)?;
        *unsynced = true;
        drop(unsynced);
        self.keep(id, file, Sums(Some(sums)))
    }

    fn keep(&self, id: FileId, file: File, sums: Sums) -> StoreResult<Arc<OpenFile>> {
        let file = lock(&self.shared.open).keep(id, file, sums);
        let links = file
            .file
            .metadata()
            .map_err(|source| self.failed("stat", id, source))?
            .nlink();
        if links == 0 {
            lock(&self.shared.open).forget(id);
        }
        Ok(file)
    }

    fn failed(&self, action: &'static str, id: FileId, source: io::Error) -> StoreError {
        io_error(action, &id.path(&self.shared.directory), source)
    }
}

#[cfg(test)]
mod sums_tests;
#[cfg(test)]
mod tests;
