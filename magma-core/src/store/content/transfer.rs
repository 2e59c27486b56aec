//! Reading and writing content with its checksums.
//!
//! **Order.** The writer, of which there is one, notes which blocks it changes, then writes their
//! sums, then the bytes ([`in_flight`](super::in_flight) says why); all three have left the
//! process before the operation is committed. Sums come first, because they may need room: when
//! the disk is full, nothing has changed.
//!
//! **Readers** take no lock and read bytes before sums. What agrees was together at some moment.
//! What does not is read again under the lock that the writer holds: only then is a block bad.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use super::in_flight::Span;
use super::name::FileId;
use super::open_files::OpenFile;
use super::sums::{BLOCK, BLOCK_LEN, blocks_of, never_right, read_full, sum_of};
use super::{ContentFiles, WritebackRange, lock};
use crate::effect::Effect;
use crate::ids::FlareRef;
use crate::limits::WRITEBACK_QUEUE;
use crate::store::{StoreError, StoreResult};

/// Content as it was read, and which of its blocks do not have their sum.
#[derive(Debug)]
pub struct Checked {
    /// The bytes, the wrong ones too.
    pub data: Bytes,
    /// Numbers of the bad blocks, in order.
    pub bad: Vec<u64>,
}

impl ContentFiles {
    /// Writes bytes, creating the file when it is not there; a gap stays a hole. When enough
    /// has gathered for the disk to begin, the range is queued for [`Self::due_writeback`].
    pub fn write_at(
        &self,
        flare: FlareRef,
        segment: u32,
        offset: u64,
        data: &[u8],
    ) -> StoreResult<()> {
        if data.is_empty() {
            return Ok(());
        }
        let id = FileId(flare, segment);
        let file = match self.existing(id)? {
            Some(file) => file,
            None => self.create(id)?,
        };
        let writing = self.writing(id);
        self.write_summed(&file, id, offset, data)
            .map_err(|source| self.failed("write", id, source))?;
        drop(writing);
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

    fn write_summed(
        &self,
        file: &OpenFile,
        id: FileId,
        offset: u64,
        data: &[u8],
    ) -> io::Result<()> {
        let (span, sums) = self.sums_after(file, id, offset, data)?;
        self.note(&span)?;
        let written = file
            .sums
            .write(span.first, &sums)
            .and_then(|()| file.file.write_all_at(data, offset));
        if let Err(error) = written {
            // A part of it may be in: the sums are made right for whatever is there.
            file.sum_again(&span)?;
            return Err(error);
        }
        Ok(())
    }

    /// The blocks that a write changes, and their sums after it.
    fn sums_after(
        &self,
        file: &OpenFile,
        id: FileId,
        offset: u64,
        data: &[u8],
    ) -> io::Result<(Span, Vec<u32>)> {
        let end = offset.saturating_add(data.len() as u64);
        let mut span = Span::new(id, blocks_of(offset, data.len() as u64));
        let mut sums = Vec::with_capacity((span.end - span.first) as usize);
        for block in span.first..span.end {
            let start = block.saturating_mul(BLOCK);
            // The part of the block that is written, within the block and within the data.
            let from = offset.max(start);
            let upto = end.min(start.saturating_add(BLOCK));
            let new = &data[(from - offset) as usize..(upto - offset) as usize];
            // Even if it is all that there is of the last block: a file that has lost its end
            // looks the same.
            if new.len() == BLOCK_LEN {
                sums.push(sum_of(new));
                continue;
            }
            let (mut whole, good) = file.block(block)?;
            whole[(from - start) as usize..(upto - start) as usize].copy_from_slice(new);
            let sum = sum_of(&whole);
            sums.push(if good { sum } else { never_right(sum) });
            if !good {
                span.bad_first |= block == span.first;
                span.bad_last |= block + 1 == span.end;
                self.found(id, block);
            }
        }
        Ok((span, sums))
    }

    /// Reads at most `len` bytes: fewer at the end of the file, none when there is no file.
    /// Bytes that do not have their checksum are an error ([`StoreError::BadBlock`]).
    pub fn read_at(
        &self,
        flare: FlareRef,
        segment: u32,
        offset: u64,
        len: usize,
    ) -> StoreResult<Bytes> {
        let Checked { data, bad } = self.read_checked(flare, segment, offset, len)?;
        match bad.first() {
            None => Ok(data),
            Some(block) => Err(StoreError::BadBlock {
                path: self.path(flare, segment),
                flare,
                offset: block.saturating_mul(BLOCK),
            }),
        }
    }

    /// Reads as [`Self::read_at`], and says which blocks are bad.
    pub fn read_checked(
        &self,
        flare: FlareRef,
        segment: u32,
        offset: u64,
        len: usize,
    ) -> StoreResult<Checked> {
        let id = FileId(flare, segment);
        let Some(file) = self.existing(id)? else {
            return Ok(Checked {
                data: Bytes::new(),
                bad: Vec::new(),
            });
        };
        self.checked(&file, id, offset, len)
            .map_err(|source| self.failed("read", id, source))
    }

    fn checked(&self, file: &OpenFile, id: FileId, offset: u64, len: usize) -> io::Result<Checked> {
        let (mut data, first, mut bad) = file.read_blocks(offset, len)?;
        if !bad.is_empty() {
            // A write may have been under way: the writer is kept out for the second look, which
            // finds the pages in memory.
            let _writing = self.writing(id);
            let mut still = Vec::new();
            for block in bad {
                let (whole, good) = file.block(block)?;
                let at = ((block - first) as usize).saturating_mul(BLOCK_LEN);
                if let Some(place) = data.get_mut(at..) {
                    let part = place.len().min(BLOCK_LEN);
                    place[..part].copy_from_slice(&whole[..part]);
                }
                if !good {
                    still.push(block);
                }
            }
            bad = still;
        }
        Ok(Checked {
            data: wanted(data, offset, len),
            bad,
        })
    }

    /// Reads for another volcano: bad blocks come too, each with the effect that marks it, and
    /// are remembered for [`Self::take_bad`].
    pub fn read_to_copy(
        &self,
        flare: FlareRef,
        segment: u32,
        offset: u64,
        len: usize,
    ) -> StoreResult<(Bytes, Vec<Effect>)> {
        let Checked { data, bad } = self.read_checked(flare, segment, offset, len)?;
        let marks = bad.into_iter().map(|block| {
            self.found(FileId(flare, segment), block);
            Effect::Damage(flare, block.saturating_mul(BLOCK), BLOCK)
        });
        Ok((data, marks.collect()))
    }

    /// Reads as [`Self::read_at`], but only what the page cache holds, without ever waiting
    /// for a disk: `None` when the file is not open, when a page would have to be fetched, or when
    /// a sum does not agree (the read that may wait looks again).
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
        let (first, end) = blocks_of(offset, len as u64);
        let start = first.saturating_mul(BLOCK);
        let aligned = size.min(end.saturating_mul(BLOCK)).saturating_sub(start);
        // A file that has lost its end still has the sums of what was there.
        let summed = file.sums.count();
        let summed = summed.map_err(|source| self.failed("stat the sums of", id, source))?;
        if summed > size.div_ceil(BLOCK) {
            return Ok(None);
        }
        if aligned == 0 {
            return Ok(Some(Bytes::new()));
        }
        let mut data = vec![0_u8; aligned as usize];
        let part = libc::iovec {
            iov_base: data.as_mut_ptr().cast(),
            iov_len: data.len(),
        };
        // SAFETY: `part` describes `data`, which outlives the call; `file` keeps the
        // descriptor open.
        let count = unsafe {
            libc::preadv2(
                file.file.as_raw_fd(),
                &part,
                1,
                start as libc::off_t,
                libc::RWF_NOWAIT,
            )
        };
        // A short count is a page that is missing, or a file that was cut this moment: either
        // way the read that may wait answers. So it does where the file system has no NOWAIT.
        if usize::try_from(count).ok() != Some(data.len()) {
            return Ok(None);
        }
        // The sums of a file whose pages are in memory are as good as always there, too.
        let sums = file
            .sums
            .read(first, data.len().div_ceil(BLOCK_LEN))
            .map_err(|source| self.failed("read the sums of", id, source))?;
        let agree = data.chunks(BLOCK_LEN).map(sum_of).eq(sums);
        Ok(agree.then(|| wanted(data, offset, len)))
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
}

/// Whether the disk says that it has lost what was written there.
fn is_unreadable(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EBADMSG | libc::EUCLEAN)
    )
}

/// The bytes asked for, of whole blocks.
fn wanted(data: Vec<u8>, offset: u64, len: usize) -> Bytes {
    let data = Bytes::from(data);
    let skip = ((offset % BLOCK) as usize).min(data.len());
    let end = skip.saturating_add(len).min(data.len());
    data.slice(skip..end)
}

impl OpenFile {
    /// A block as it is, filled with zeros, and whether it has its sum. One that the disk cannot
    /// read is zeros, and bad.
    pub(super) fn block(&self, block: u64) -> io::Result<(Vec<u8>, bool)> {
        let mut data = vec![0; BLOCK_LEN];
        match read_full(&self.file, &mut data, block.saturating_mul(BLOCK)) {
            Err(error) if is_unreadable(&error) => return Ok((vec![0; BLOCK_LEN], false)),
            read => read?,
        };
        let sums = self.sums.read(block, 1)?;
        let good = sums.first() == Some(&sum_of(&data));
        Ok((data, good))
    }

    /// The blocks that a range touches as far as there is content or a sum that says there
    /// should be, the number of the first, and which do not have their sum.
    fn read_blocks(&self, offset: u64, len: usize) -> io::Result<(Vec<u8>, u64, Vec<u64>)> {
        let (first, end) = blocks_of(offset, len as u64);
        let start = first.saturating_mul(BLOCK);
        let size = self.len()?;
        // A file that has lost its end still has the sums of what was there.
        let there = size.max(self.sums.count()?.saturating_mul(BLOCK));
        // Not more memory than there is content: `len` may come from a client.
        let wanted = there.min(end.saturating_mul(BLOCK)).saturating_sub(start);
        let mut data = vec![0; usize::try_from(wanted).map_err(io::Error::other)?];
        let found = match read_full(&self.file, &mut data, start) {
            // The second look finds out which of them.
            Err(error) if is_unreadable(&error) => {
                let end = first.saturating_add(data.len().div_ceil(BLOCK_LEN) as u64);
                return Ok((data, first, (first..end).collect()));
            }
            read => read?,
        };
        let sums = self.sums.read(first, data.len().div_ceil(BLOCK_LEN))?;
        let blocks = data.chunks(BLOCK_LEN).zip(sums).zip(first..);
        let bad: Vec<u64> = blocks
            .filter(|((block, sum), _)| sum_of(block) != *sum)
            .map(|(_, block)| block)
            .collect();
        if bad.is_empty() {
            data.truncate(found);
        }
        Ok((data, first, bad))
    }

    /// Makes the sums of a span right for what is in the file, but for blocks that were bad before.
    pub(super) fn sum_again(&self, span: &Span) -> io::Result<()> {
        // Behind the content there is nothing to sum.
        let end = span.end.min(self.len()?.div_ceil(BLOCK));
        for block in span.first..end {
            let (data, good) = self.block(block)?;
            let sum = match span.was_bad(block) {
                true => never_right(sum_of(&data)),
                false if good => continue,
                false => sum_of(&data),
            };
            self.sums.write(block, &[sum])?;
        }
        if span.end > end {
            let had = self.sums.count()?;
            let cut = end.max(span.first);
            // Only what lies in the span: sums after it are of content that was lost.
            match had > span.end {
                true => self.sums.write(cut, &vec![0; (span.end - cut) as usize])?,
                false => self.sums.cut(cut)?,
            }
        }
        Ok(())
    }
}
