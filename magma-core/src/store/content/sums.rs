//! Checksums of content, one for each block of [`BLOCK`] bytes, in a file beside the content
//! file: `KEY.INCARNATION.SEGMENT.crc`, four bytes a block, in the order of the blocks.
//!
//! A sum is the CRC32C (Castagnoli, RFC 3720) of the block, filled with zeros where the file
//! ends inside it, with the CRC32C of a block of zeros taken out (exclusive or). So the sum of a
//! block of zeros is 0: a hole, what was cut off, and what was never written need no sum.
//!
//! A block that is known to be bad, and of which only a part is written anew, gets the
//! complement of its sum, which is never right: what was lost is not taken for good because
//! something was written beside it.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

/// Bytes of content that have one checksum: the unit in which disks and page caches err.
pub const BLOCK: u64 = 4096;

/// [`BLOCK`] as a length in memory.
pub(super) const BLOCK_LEN: usize = BLOCK as usize;

/// Bytes of a sum in its file.
const SUM_LEN: u64 = 4;

static ZEROS: [u8; BLOCK_LEN] = [0; BLOCK_LEN];
static SUM_OF_ZEROS: LazyLock<u32> = LazyLock::new(|| crc32c::crc32c(&ZEROS));

/// The sum of a block, of which `data` is what there is: at most [`BLOCK`] bytes.
pub(super) fn sum_of(data: &[u8]) -> u32 {
    let rest = BLOCK_LEN.saturating_sub(data.len());
    let crc = crc32c::crc32c_append(crc32c::crc32c(data), &ZEROS[..rest]);
    crc ^ *SUM_OF_ZEROS
}

/// A sum that is never right for a block that has this one.
pub(super) fn never_right(sum: u32) -> u32 {
    !sum
}

/// The blocks that a range of bytes touches: the first, and the one after the last.
pub(super) fn blocks_of(offset: u64, len: u64) -> (u64, u64) {
    let end = offset.saturating_add(len);
    (offset / BLOCK, end.div_ceil(BLOCK))
}

/// Reads until the buffer is full or the file ends; how many bytes there were.
pub(super) fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The sums of a content file. Without a file (a store that is only looked at, and has none)
/// all of them are 0.
#[derive(Debug)]
pub(super) struct Sums(pub(super) Option<File>);

impl Sums {
    /// How many blocks have a sum of their own; all after them have 0.
    pub(super) fn count(&self) -> io::Result<u64> {
        match &self.0 {
            Some(file) => Ok(file.metadata()?.len().div_ceil(SUM_LEN)),
            None => Ok(0),
        }
    }

    /// The sums of `count` blocks.
    pub(super) fn read(&self, first: u64, count: usize) -> io::Result<Vec<u32>> {
        let mut bytes = vec![0; count.saturating_mul(SUM_LEN as usize)];
        if let Some(file) = &self.0 {
            read_full(file, &mut bytes, first.saturating_mul(SUM_LEN))?;
        }
        Ok(decode(&bytes))
    }

    /// Sets the sums of the blocks from `first` on. Sums that are 0 and would only make the file
    /// longer are left out.
    pub(super) fn write(&self, first: u64, sums: &[u32]) -> io::Result<()> {
        let Some(file) = &self.0 else {
            return Err(io::Error::from_raw_os_error(libc::EROFS));
        };
        let mut sums = sums;
        if first.saturating_add(sums.len() as u64) > self.count()? {
            while let [rest @ .., 0] = sums {
                sums = rest;
            }
            // What is there already and becomes 0 was cut off the list with the rest.
            let there = self.count()?.saturating_sub(first);
            if (sums.len() as u64) < there {
                file.set_len(
                    first
                        .saturating_add(sums.len() as u64)
                        .saturating_mul(SUM_LEN),
                )?;
            }
        }
        let bytes: Vec<u8> = sums.iter().flat_map(|sum| sum.to_be_bytes()).collect();
        file.write_all_at(&bytes, first.saturating_mul(SUM_LEN))
    }

    /// Forgets the sums from a block on: all of them are 0.
    pub(super) fn cut(&self, blocks: u64) -> io::Result<()> {
        match &self.0 {
            Some(file) if self.count()? > blocks => file.set_len(blocks.saturating_mul(SUM_LEN)),
            Some(_) | None => Ok(()),
        }
    }
}

fn decode(bytes: &[u8]) -> Vec<u32> {
    let (sums, _) = bytes.as_chunks::<{ SUM_LEN as usize }>();
    sums.iter().map(|sum| u32::from_be_bytes(*sum)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_have_no_sum_and_a_short_block_is_filled() {
        assert_eq!(sum_of(&[]), 0);
        assert_eq!(sum_of(&ZEROS), 0);
        let mut block = ZEROS;
        block[..5].copy_from_slice(b"magma");
        assert_eq!(sum_of(b"magma"), sum_of(&block));
        assert_ne!(sum_of(b"magma"), sum_of(b"magmb"));
        assert_eq!(blocks_of(BLOCK - 1, 2), (0, 2));
        assert_eq!(blocks_of(BLOCK, BLOCK), (1, 2));
        // RFC 3720, B.4: 32 bytes of zeros have aa 36 91 8a (the lowest byte first).
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn trailing_zeros_take_no_room() {
        let sums = Sums(Some(tempfile::tempfile().expect("a file")));
        sums.write(2, &[7, 0, 9, 0, 0]).expect("writes");
        assert_eq!(sums.count().expect("counts"), 5);
        assert_eq!(sums.read(1, 5).expect("reads"), [0, 7, 0, 9, 0]);
        sums.write(3, &[4, 0, 0]).expect("writes");
        assert_eq!(sums.read(2, 4).expect("reads"), [7, 4, 0, 0]);
        sums.write(9, &[0]).expect("nothing to write");
        sums.cut(3).expect("cuts");
        assert_eq!(sums.read(2, 2).expect("reads"), [7, 0]);
    }
}
