//! Content with holes, in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::store::rules;

const BLOCK: u64 = 4096;

/// A file whose blocks exist where something was written. Copies share what they do not change.
#[derive(Clone, Debug, Default)]
pub(super) struct SparseFile {
    len: u64,
    blocks: BTreeMap<u64, Arc<Vec<u8>>>,
}

impl SparseFile {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// In units of 512 bytes.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks.len() as u64 * (BLOCK / 512)
    }

    pub(super) fn write(&mut self, mut offset: u64, mut data: &[u8]) {
        self.len = self.len.max(offset.saturating_add(data.len() as u64));
        while !data.is_empty() {
            let start = (offset % BLOCK) as usize;
            let count = data.len().min(BLOCK as usize - start);
            let block = self
                .blocks
                .entry(offset / BLOCK)
                .or_insert_with(|| Arc::new(vec![0; BLOCK as usize]));
            Arc::make_mut(block)[start..start + count].copy_from_slice(&data[..count]);
            data = &data[count..];
            offset = offset.saturating_add(count as u64);
        }
    }

    pub(super) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let end = self.len.min(offset.saturating_add(len as u64));
        let mut data = Vec::new();
        let mut at = offset;
        while at < end {
            let start = at % BLOCK;
            let count = (BLOCK - start).min(end - at) as usize;
            match self.blocks.get(&(at / BLOCK)) {
                Some(block) => data.extend_from_slice(rules::cut_out(block, start, count)),
                None => data.resize(data.len() + count, 0),
            }
            at += count as u64;
        }
        data
    }

    /// Cuts it, if it is longer.
    /// The next byte of data (or of a hole) from an offset on.
    pub(super) fn seek(&self, offset: u64, data: bool) -> Option<u64> {
        let mut at = offset;
        while at < self.len {
            if self.blocks.contains_key(&(at / BLOCK)) == data {
                return Some(at);
            }
            at = (at / BLOCK + 1) * BLOCK;
        }
        (!data).then_some(offset.max(self.len))
    }

    pub(super) fn punch(&mut self, offset: u64, len: u64) {
        let end = self.len.min(offset.saturating_add(len));
        let mut at = offset;
        while at < end {
            let start = (at % BLOCK) as usize;
            let count = (end - at).min(BLOCK - at % BLOCK) as usize;
            if count == BLOCK as usize {
                self.blocks.remove(&(at / BLOCK));
            } else if let Some(block) = self.blocks.get_mut(&(at / BLOCK)) {
                Arc::make_mut(block)[start..start + count].fill(0);
            }
            at += count as u64;
        }
    }

    pub(super) fn truncate(&mut self, len: u64) {
        if len >= self.len {
            return;
        }
        self.len = len;
        self.blocks.split_off(&len.div_ceil(BLOCK));
        if let Some(block) = self.blocks.get_mut(&(len / BLOCK)) {
            Arc::make_mut(block)[(len % BLOCK) as usize..].fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_and_cuts() {
        let mut file = SparseFile::default();
        file.write(1 << 40, b"far");
        assert_eq!(file.read((1 << 40) - 2, 99), b"\0\0far");
        file.write(BLOCK - 1, b"ab");
        assert_eq!(file.blocks(), 3 * 8);
        file.truncate(BLOCK);
        assert_eq!((file.len(), file.blocks()), (BLOCK, 8));
        assert_eq!(file.read(BLOCK - 1, 9), b"a");
        file.truncate(BLOCK - 1);
        file.write(BLOCK + 1, b"c");
        assert_eq!(file.read(BLOCK - 1, 9), b"\0\0c");
        assert_eq!(file.read(u64::MAX, 9), b"");
    }
}
