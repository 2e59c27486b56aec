//! Looking at content that nobody reads: whether what is on the disk still has its checksums.
//!
//! The disk is read past the page cache (`O_DIRECT`), which would hide what the disk has done, and
//! which other readers need more. Nothing is held while it is read, so a piece that is being
//! written may not agree: it is looked at again, and a block that still does not agree once more
//! with the writer kept out. A block that is right in memory is written to the disk again; any
//! other is left for a repair from another volcano ([`ContentFiles::take_bad`]).

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::name::{self, FileId};
use super::sums::{BLOCK, BLOCK_LEN, Sums, sum_of};
use super::{ContentFiles, io_error, lock};
use crate::limits::SCRUB_PIECE;
use crate::store::StoreResult;

/// Looks at a piece before the writer is kept out.
const LOOKS: usize = 2;

/// What was found in a piece of a content file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes that were compared.
    pub bytes: u64,
    /// Blocks that did not have their sum on the disk.
    pub damaged: u64,
    /// Those of them that were right in memory, and were written again.
    pub rewritten: u64,
    /// The file has ended.
    pub end: bool,
}

impl ContentFiles {
    /// The content files of keys with this first byte, in order: also those of which only the sums
    /// are left.
    pub fn files_of_part(&self, first: u8) -> StoreResult<BTreeSet<FileId>> {
        let directory = self.directory().join(name::part(first));
        let failed = |source| io_error("read", &directory, source);
        let files = match fs::read_dir(&directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
            listed => listed.map_err(failed)?,
        };
        let mut found = BTreeSet::new();
        for file in files {
            let name = file.map_err(failed)?.file_name();
            found.extend(name.to_str().and_then(FileId::of_any));
        }
        Ok(found)
    }

    /// Compares [`SCRUB_PIECE`] bytes of a file, as they are on the disk, with their sums.
    /// `offset` is a multiple of that.
    pub fn scrub(&self, id: FileId, offset: u64) -> StoreResult<Scrubbed> {
        self.scrub_piece(id, offset)
            .map_err(|source| self.failed("scrub", id, source))?
    }

    /// How many bad blocks wait for [`Self::take_bad`]: whoever looks for more should wait, too.
    pub fn bad_waiting(&self) -> usize {
        lock(&self.shared.bad).len()
    }

    fn scrub_piece(&self, id: FileId, offset: u64) -> io::Result<StoreResult<Scrubbed>> {
        let mut buffer = Aligned::new(SCRUB_PIECE);
        let mut piece = Piece::default();
        for _ in 0..LOOKS {
            piece = self.look(id, offset, &mut buffer)?;
            if piece.differ.is_empty() {
                break;
            }
        }
        let mut found = Scrubbed {
            bytes: piece.bytes,
            end: piece.end,
            ..Scrubbed::default()
        };
        if piece.differ.is_empty() {
            return Ok(Ok(found));
        }
        // Through the cache of open files, which also makes up for a file that is missing.
        let open = match self.existing(id) {
            Ok(Some(open)) => open,
            Ok(None) => return Ok(Ok(found)),
            Err(error) => return Ok(Err(error)),
        };
        for block in piece.differ {
            let _writing = self.writing(id);
            let at = block.saturating_mul(BLOCK);
            let len = direct(&id.path(self.directory()))
                .and_then(|file| buffer.read(file.as_ref(), at, BLOCK_LEN));
            let sum = open.sums.read(block, 1)?;
            let on_disk = len.map(|len| sum_of(buffer.bytes(len)));
            if on_disk.is_ok_and(|disk| sum.first() == Some(&disk)) {
                continue;
            }
            found.damaged += 1;
            let (whole, good) = open.block(block)?;
            if good {
                // As far as the file goes, and no further.
                let len = open.len()?.saturating_sub(at).min(BLOCK) as usize;
                open.file.write_all_at(&whole[..len], at)?;
                found.rewritten += 1;
            } else {
                self.found(id, block);
            }
        }
        Ok(Ok(found))
    }

    fn look(&self, id: FileId, offset: u64, buffer: &mut Aligned) -> io::Result<Piece> {
        let file = direct(&id.path(self.directory()))?;
        let sums = Sums(open(&id.sums_path(self.directory()), 0)?);
        let size = file.as_ref().map_or(Ok(0), length)?;
        // Bytes before sums, as every reader.
        let read = buffer.read(file.as_ref(), offset, SCRUB_PIECE);
        // A file that has lost its end still has the sums of what was there.
        let there = match sums.count()? {
            summed if summed > size.div_ceil(BLOCK) => summed.saturating_mul(BLOCK),
            _ => size,
        };
        let bytes = there.saturating_sub(offset).min(SCRUB_PIECE as u64);
        let first = offset / BLOCK;
        let count = bytes.div_ceil(BLOCK) as usize;
        let sums = sums.read(first, count)?;
        let mut piece = Piece {
            bytes,
            differ: Vec::new(),
            end: there <= offset.saturating_add(SCRUB_PIECE as u64),
        };
        for (at, (sum, block)) in sums.iter().zip(first..).enumerate() {
            let right = match &read {
                Ok(len) => {
                    let from = at.saturating_mul(BLOCK_LEN).min(*len);
                    let upto = from.saturating_add(BLOCK_LEN).min(*len);
                    sum_of(&buffer.bytes(*len)[from..upto]) == *sum
                }
                // The disk cannot read it: which block it is comes out one by one.
                Err(_) => false,
            };
            if !right {
                piece.differ.push(block);
            }
        }
        Ok(piece)
    }
}

/// A look at a piece.
#[derive(Debug, Default)]
struct Piece {
    bytes: u64,
    differ: Vec<u64>,
    end: bool,
}

fn length(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.len())
}

/// Opens a file past the page cache; through it where the file system knows no other way.
fn direct(path: &Path) -> io::Result<Option<File>> {
    match open(path, libc::O_DIRECT) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => open(path, 0),
        opened => opened,
    }
}

fn open(path: &Path, flags: libc::c_int) -> io::Result<Option<File>> {
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Memory that begins where a disk wants it to.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new(len: usize) -> Aligned {
        let memory = vec![0; len + BLOCK_LEN];
        let start = memory.as_ptr().align_offset(BLOCK_LEN).min(BLOCK_LEN);
        Aligned { memory, start }
    }

    fn bytes(&self, len: usize) -> &[u8] {
        &self.memory[self.start..self.start + len]
    }

    /// Reads at most `len` bytes; how many there were. After a piece that is no whole number of
    /// blocks the file ends, and a read past the cache could not go on.
    fn read(&mut self, file: Option<&File>, offset: u64, len: usize) -> io::Result<usize> {
        let Some(file) = file else { return Ok(0) };
        let place = &mut self.memory[self.start..self.start + len];
        let mut filled = 0;
        while filled < len && filled.is_multiple_of(BLOCK_LEN) {
            match file.read_at(&mut place[filled..], offset.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}
