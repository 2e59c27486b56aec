//! The space of content: cutting, holes, reserving, and where the holes are.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::ContentFiles;
use super::in_flight::Span;
use super::name::FileId;
use super::open_files::OpenFile;
use super::sums::{BLOCK, blocks_of, never_right, sum_of};
use crate::ids::FlareRef;
use crate::store::StoreResult;

/// Zeros written at once where there are no holes.
const ZEROS: usize = 64 * 1024;
/// Bytes that are made a hole at once: as many have to be summed again after a crash in between.
const PUNCH: u64 = 1 << 30;

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

impl ContentFiles {
    /// Cuts a file that is longer than `len`. A shorter one stays as it is: readers take what
    /// is missing up to the flare's size for zeros.
    pub fn truncate(&self, flare: FlareRef, segment: u32, len: u64) -> StoreResult<()> {
        let id = FileId(flare, segment);
        let Some(file) = self.existing(id)? else {
            return Ok(());
        };
        let _writing = self.writing(id);
        self.cut(&file, id, len)
            .map_err(|source| self.failed("truncate", id, source))
    }

    fn cut(&self, file: &OpenFile, id: FileId, len: u64) -> io::Result<()> {
        let blocks = file.len()?.div_ceil(BLOCK).max(file.sums.count()?);
        let kept = len.div_ceil(BLOCK);
        if file.len()? <= len && blocks <= kept {
            return Ok(());
        }
        let span = self.span_of(
            file,
            id,
            len,
            blocks.saturating_mul(BLOCK).saturating_sub(len),
        )?;
        self.note(&span)?;
        if file.len()? > len {
            file.file.set_len(len)?;
        }
        file.sums.cut(kept)?;
        file.sum_edges(&span)
    }

    /// Makes a range a hole.
    pub fn punch(&self, flare: FlareRef, segment: u32, offset: u64, len: u64) -> StoreResult<()> {
        let id = FileId(flare, segment);
        let Some(file) = self.existing(id)? else {
            return Ok(());
        };
        let _writing = self.writing(id);
        let there = file.len().and_then(|size| {
            let summed = file.sums.count()?.saturating_mul(BLOCK);
            Ok(size.max(summed))
        });
        let there = there.map_err(|source| self.failed("stat", id, source))?;
        let end = offset.saturating_add(len);
        let mut at = offset;
        while at < end.min(there) {
            let piece = PUNCH.min(end.min(there) - at);
            self.punch_piece(&file, id, at, piece)
                .map_err(|source| self.failed("punch a hole into", id, source))?;
            at += piece;
        }
        if at < end {
            // Past the end, too: space may be reserved there.
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            match allocate(&file.file, mode, at, end - at) {
                Err(error) if error.raw_os_error() != Some(libc::EOPNOTSUPP) => {
                    return Err(self.failed("punch a hole into", id, error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn punch_piece(&self, file: &OpenFile, id: FileId, offset: u64, len: u64) -> io::Result<()> {
        let span = self.span_of(file, id, offset, len)?;
        self.note(&span)?;
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        match allocate(&file.file, mode, offset, len) {
            // A file system without holes: zeros are as good, but for the space.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                let end = file.len()?.min(offset.saturating_add(len));
                let zeros = vec![0; ZEROS];
                let mut at = offset;
                while at < end {
                    let piece = zeros.len().min(usize::try_from(end - at).unwrap_or(ZEROS));
                    file.file.write_all_at(&zeros[..piece], at)?;
                    at += piece as u64;
                }
            }
            result => result?,
        }
        // Whole blocks have no sum now; those at the edges have another.
        let (first, end) = (offset.div_ceil(BLOCK), offset.saturating_add(len) / BLOCK);
        let end = end.min(file.sums.count()?);
        if first < end {
            file.sums.write(first, &vec![0; (end - first) as usize])?;
        }
        file.sum_edges(&span)
    }

    /// The blocks of a range that becomes zeros, and whether those at its edges, of which a part
    /// stays, are good.
    fn span_of(&self, file: &OpenFile, id: FileId, offset: u64, len: u64) -> io::Result<Span> {
        let mut span = Span::new(id, blocks_of(offset, len));
        let end = offset.saturating_add(len);
        if !offset.is_multiple_of(BLOCK) && !file.block(span.first)?.1 {
            span.bad_first = true;
            self.found(id, span.first);
        }
        if !end.is_multiple_of(BLOCK) && !file.block(span.end - 1)?.1 {
            span.bad_last = true;
            self.found(id, span.end - 1);
        }
        Ok(span)
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
}

impl OpenFile {
    /// Makes the sums of the first and the last block of a span right, but for a block that was
    /// bad before.
    fn sum_edges(&self, span: &Span) -> io::Result<()> {
        for block in [span.first, span.end.saturating_sub(1)] {
            let (data, good) = self.block(block)?;
            match span.was_bad(block) {
                true => self.sums.write(block, &[never_right(sum_of(&data))])?,
                false if good => {}
                false => self.sums.write(block, &[sum_of(&data)])?,
            }
        }
        Ok(())
    }
}
