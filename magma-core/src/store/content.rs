//! Content files `content/ab/KEY.INCARNATION.SEGMENT` (`ab`: the first byte of the key).
//!
//! | file | what |
//! |---|---|
//! | [`name`] | the name of a content file, and back |
//! | [`files`](self) | reading, writing and syncing |
//! | `open_files` | the bounded cache of open descriptors |
//!
//! [`ContentFiles`] is a handle that any thread may use. Only the store's writer creates,
//! cuts and removes files; readers and syncs run beside it on the shell's pool.

mod largest_file;
pub mod name;
mod open_files;

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{StoreError, StoreResult};
use crate::ids::FlareRef;
use crate::limits::{CONTENT_FDS, FILE_SIZE_MAX, WRITEBACK_QUEUE};
use largest_file::largest_file;
use name::FileId;
use open_files::{OpenFile, OpenFiles};

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

/// Zeros written at once where there are no holes.
const ZEROS: usize = 64 * 1024;

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

/// fallocate(2).
fn allocate(file: &File, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
    let range = libc::off64_t::try_from(offset).and_then(|o| Ok((o, len.try_into()?)));
    let (offset, len) = range.map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    // SAFETY: the call takes a descriptor, which `file` keeps open, and touches no memory.
    match unsafe { libc::fallocate64(file.as_raw_fd(), mode, offset, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
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
        Ok(ContentFiles::handle(directory, false, largest))
    }

    /// Opens `directory` to be read. Makes nothing; content that is not there reads as none.
    pub fn peek(directory: &Path) -> ContentFiles {
        ContentFiles::handle(directory, true, FILE_SIZE_MAX)
    }

    fn handle(directory: &Path, read_only: bool, largest: u64) -> ContentFiles {
        ContentFiles {
            shared: Arc::new(Shared {
                directory: directory.to_path_buf(),
                read_only,
                largest,
                open: Mutex::new(OpenFiles::new(CONTENT_FDS)),
                unsynced: (0..=u8::MAX).map(|_| Mutex::new(true)).collect(),
                due: Mutex::default(),
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

    /// Writes bytes, creating the file when it is not there; a gap stays a hole. When enough
    /// has gathered for the disk to begin, the range is queued for [`Self::due_writeback`].
    pub fn write_at(
        &self,
        flare: FlareRef,
        segment: u32,
        offset: u64,
        data: &[u8],
    ) -> StoreResult<()> {
        let id = FileId(flare, segment);
        let file = match self.existing(id)? {
            Some(file) => file,
            None => self.create(id)?,
        };
        file.file
            .write_all_at(data, offset)
            .map_err(|source| self.failed("write", id, source))?;
        if let Some((offset, len)) = file.written(offset, data.len() as u64) {
            let mut due = lock(&self.shared.due);
            // Only a head start for the disk: when nobody takes the ranges, the oldest, which
            // the kernel is most likely to have written by itself, is dropped.
            if due.len() >= WRITEBACK_QUEUE {
                due.pop_front();
            }
            due.push_back(WritebackRange {
                flare,
                segment,
                offset,
                len,
            });
        }
        Ok(())
    }

    /// Takes the ranges whose write-back should be started, each with
    /// [`Self::start_writeback`] on a thread that may wait.
    pub fn due_writeback(&self) -> Vec<WritebackRange> {
        lock(&self.shared.due).drain(..).collect()
    }

    /// Starts the write-back of a range, so that no later sync meets a backlog. Waits when
    /// the disk's queue is full.
    pub fn start_writeback(&self, range: WritebackRange) -> StoreResult<()> {
        let id = FileId(range.flare, range.segment);
        let Some(file) = self.existing(id)? else {
            return Ok(());
        };
        // SAFETY: the call takes a descriptor, which `file` keeps open, and touches no memory.
        let result = unsafe {
            libc::sync_file_range(
                file.file.as_raw_fd(),
                range.offset as libc::off64_t,
                range.len as libc::off64_t,
                libc::SYNC_FILE_RANGE_WRITE,
            )
        };
        if result == 0 {
            return Ok(());
        }
        Err(self.failed("start write-back of", id, io::Error::last_os_error()))
    }

    /// Reads at most `len` bytes: fewer at the end of the file, none when there is no file.
    pub fn read_at(
        &self,
        flare: FlareRef,
        segment: u32,
        offset: u64,
        len: usize,
    ) -> StoreResult<Bytes> {
        let id = FileId(flare, segment);
        let Some(file) = self.existing(id)? else {
            return Ok(Bytes::new());
        };
        // Not more memory than there is content: `len` may come from a client.
        let size = file
            .len()
            .map_err(|source| self.failed("stat", id, source))?;
        let mut data =
            vec![0; len.min(usize::try_from(size.saturating_sub(offset)).unwrap_or(len))];
        let mut filled = 0;
        while filled < data.len() {
            match file
                .file
                .read_at(&mut data[filled..], offset + filled as u64)
            {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(self.failed("read", id, source)),
            }
        }
        data.truncate(filled);
        Ok(data.into())
    }

    /// Reads as [`Self::read_at`], but only what the page cache holds, without ever waiting
    /// for a disk: `None` when the file is not open or a page would have to be fetched.
    pub fn try_read_cached(
        &self,
        flare: FlareRef,
        segment: u32,
        offset: u64,
        len: usize,
    ) -> StoreResult<Option<Bytes>> {
        let id = FileId(flare, segment);
        let Some(file) = lock(&self.shared.open).get(id) else {
            return Ok(None);
        };
        let size = file
            .len()
            .map_err(|source| self.failed("stat", id, source))?;
        let len = len.min(usize::try_from(size.saturating_sub(offset)).unwrap_or(len));
        if len == 0 {
            return Ok(Some(Bytes::new()));
        }
        let mut data = vec![0_u8; len];
        let part = libc::iovec {
            iov_base: data.as_mut_ptr().cast(),
            iov_len: len,
        };
        // SAFETY: `part` describes `data`, which outlives the call; `file` keeps the
        // descriptor open.
        let count = unsafe {
            libc::preadv2(
                file.file.as_raw_fd(),
                &part,
                1,
                offset as libc::off_t,
                libc::RWF_NOWAIT,
            )
        };
        // A short count is a page that is missing, or a file that was cut this moment: either
        // way the read that may wait answers. So it does where the file system has no NOWAIT.
        if usize::try_from(count).ok() != Some(len) {
            return Ok(None);
        }
        Ok(Some(data.into()))
    }

    /// Cuts a file that is longer than `len`. A shorter one stays as it is: readers take what
    /// is missing up to the flare's size for zeros.
    pub fn truncate(&self, flare: FlareRef, segment: u32, len: u64) -> StoreResult<()> {
        let id = FileId(flare, segment);
        let Some(file) = self.existing(id)? else {
            return Ok(());
        };
        let cut = file.len().and_then(|size| match size > len {
            true => file.file.set_len(len),
            false => Ok(()),
        });
        cut.map_err(|source| self.failed("truncate", id, source))
    }

    /// Makes a range a hole.
    pub fn punch(&self, flare: FlareRef, segment: u32, offset: u64, len: u64) -> StoreResult<()> {
        let id = FileId(flare, segment);
        let Some(file) = self.existing(id)? else {
            return Ok(());
        };
        // Past the end, too: space may be reserved there.
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        match allocate(&file.file, mode, offset, len) {
            Ok(()) => Ok(()),
            // A file system without holes: zeros are as good, but for the space.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                let size = file
                    .len()
                    .map_err(|source| self.failed("stat", id, source))?;
                let end = size.min(offset.saturating_add(len));
                let zeros = vec![0; ZEROS];
                let mut at = offset;
                while at < end {
                    let piece = zeros.len().min(usize::try_from(end - at).unwrap_or(ZEROS));
                    file.file
                        .write_all_at(&zeros[..piece], at)
                        .map_err(|source| self.failed("write", id, source))?;
                    at += piece as u64;
                }
                Ok(())
            }
            Err(source) => Err(self.failed("punch a hole into", id, source)),
        }
    }

    /// Reserves the space of a range; past the end of the file, the file stays as long as it is
    /// if `past_end` says that the flare's size is less. A copy whose disk has less
    /// room than the owner's, or cannot reserve at all, goes without: a write says so if it
    /// comes to that.
    pub fn reserve(
        &self,
        flare: FlareRef,
        segment: u32,
        offset: u64,
        len: u64,
        past_end: bool,
    ) -> StoreResult<()> {
        let id = FileId(flare, segment);
        let file = match self.existing(id)? {
            Some(file) => file,
            None => self.create(id)?,
        };
        let mode = match past_end {
            true => libc::FALLOC_FL_KEEP_SIZE,
            false => 0,
        };
        if let Err(error) = allocate(&file.file, mode, offset, len) {
            tracing::debug!(path = %self.path(flare, segment).display(), %error, "no space was reserved");
        }
        Ok(())
    }

    /// The next byte of data (or of a hole) from an offset on; none when there is no more data.
    pub fn seek(
        &self,
        flare: FlareRef,
        segment: u32,
        offset: u64,
        data: bool,
    ) -> StoreResult<Option<u64>> {
        let id = FileId(flare, segment);
        let nothing = (!data).then_some(offset);
        let Some(file) = self.existing(id)? else {
            return Ok(nothing);
        };
        let whence = if data {
            libc::SEEK_DATA
        } else {
            libc::SEEK_HOLE
        };
        let Ok(from) = libc::off64_t::try_from(offset) else {
            return Ok(nothing);
        };
        // SAFETY: the call takes a descriptor, which `file` keeps open, and touches no memory.
        // Nobody reads or writes at the position that it moves.
        let found = unsafe { libc::lseek64(file.file.as_raw_fd(), from, whence) };
        if let Ok(found) = u64::try_from(found) {
            return Ok(Some(found));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // Past the end of what is stored: a hole up to the flare's size.
            Some(libc::ENXIO) => Ok(nothing),
            _ => Err(self.failed("seek in", id, error)),
        }
    }

    /// Removes all segments of a flare. Readers that have a file open keep it.
    pub fn remove(&self, flare: FlareRef) -> StoreResult<()> {
        for segment in 0.. {
            let id = FileId(flare, segment);
            let removed = fs::remove_file(id.path(&self.shared.directory));
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
            file.file
                .sync_data()
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

    /// Space that the content occupies, in units of 512 bytes.
    pub fn blocks(&self, flare: FlareRef) -> StoreResult<u64> {
        let id = FileId(flare, 0);
        let path = id.path(&self.shared.directory);
        // Not through the cache: a listing with attributes would empty it.
        match fs::symlink_metadata(&path) {
            Ok(metadata) => Ok(metadata.blocks()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
            Err(source) => Err(self.failed("stat", id, source)),
        }
    }

    /// Asks the kernel to fetch a range that will be read soon.
    pub fn readahead(&self, flare: FlareRef, offset: u64, len: u64) -> StoreResult<()> {
        let id = FileId(flare, 0);
        let Some(file) = self.existing(id)? else {
            return Ok(());
        };
        // SAFETY: the call takes a descriptor, which `file` keeps open, and touches no memory.
        let error = unsafe {
            libc::posix_fadvise(
                file.file.as_raw_fd(),
                offset as libc::off_t,
                len as libc::off_t,
                libc::POSIX_FADV_WILLNEED,
            )
        };
        match error {
            0 => Ok(()),
            code => Err(self.failed("read ahead in", id, io::Error::from_raw_os_error(code))),
        }
    }

    fn existing(&self, id: FileId) -> StoreResult<Option<Arc<OpenFile>>> {
        if let Some(file) = lock(&self.shared.open).get(id) {
            return Ok(Some(file));
        }
        let path = id.path(&self.shared.directory);
        // Opened outside the lock: this may wait for a disk, and others should not.
        let writable = !self.shared.read_only;
        match OpenOptions::new().read(true).write(writable).open(&path) {
            Ok(file) => self.keep(id, file).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error("open", &path, source)),
        }
    }

    fn create(&self, id: FileId) -> StoreResult<Arc<OpenFile>> {
        let path = id.path(&self.shared.directory);
        let first = usize::from(id.0.key().0[0]);
        let mut unsynced = lock(&self.shared.unsynced[first]);
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
        };
        let mut file = open();
        if matches!(&file, Err(error) if error.kind() == ErrorKind::NotFound) {
            // The first file of its part. This happens 256 times in the life of a store, so
            // that the part's own name can be made durable at once.
            if let Some(part) = path.parent() {
                make_directory(part)?;
            }
            sync_directory(&self.shared.directory)?;
            file = open();
        }
        let file = file.map_err(|source| io_error("create", &path, source))?;
        *unsynced = true;
        drop(unsynced);
        self.keep(id, file)
    }

    fn keep(&self, id: FileId, file: File) -> StoreResult<Arc<OpenFile>> {
        let file = lock(&self.shared.open).keep(id, file);
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
mod tests;
