//! What every store must agree on, whatever it keeps its rows in.

use bytes::Bytes;

use crate::flare::{EntryRow, FlareRow, Kind, LinkRow, LinkState};
use crate::ids::{Epoch, Seq};
use crate::limits::INLINE_MAX;

/// Whether a flare is unfinished by its own row: nascent, or unlinked but kept.
pub(super) fn flare_unsettled(row: &FlareRow) -> bool {
    row.nascent.is_some() || row.nlink == 0
}

/// Whether an entry waits for a decision.
pub(super) fn entry_unsettled(row: &EntryRow) -> bool {
    row.prepared.is_some()
}

/// Whether a link is not (or no longer) to be trusted.
pub(super) fn link_unsettled(row: &LinkRow) -> bool {
    row.state != LinkState::Settled
}

/// A write does not fit into inline content: whoever decided it should have spilled before.
#[derive(Debug, thiserror::Error)]
#[error("{len} bytes at {offset} do not fit inline ({INLINE_MAX} bytes)")]
pub(super) struct NotInline {
    offset: u64,
    len: usize,
}

/// Writes into inline content; a gap before `offset` becomes zeros.
pub(super) fn write_inline(data: &mut Vec<u8>, offset: u64, bytes: &[u8]) -> Result<(), NotInline> {
    let refused = NotInline {
        offset,
        len: bytes.len(),
    };
    let Some(end) = offset.checked_add(bytes.len() as u64) else {
        return Err(refused);
    };
    if end > INLINE_MAX {
        return Err(refused);
    }
    let (start, end) = (offset as usize, end as usize);
    if data.len() < end {
        data.resize(end, 0);
    }
    data[start..end].copy_from_slice(bytes);
    Ok(())
}

/// The part of stored bytes that a read asks for.
pub(super) fn cut_out(data: &[u8], offset: u64, len: usize) -> &[u8] {
    let start = usize::try_from(offset).map_or(data.len(), |at| at.min(data.len()));
    let end = start.saturating_add(len).min(data.len());
    &data[start..end]
}

/// Bytes filled with zeros up to `len`.
pub(super) fn padded(bytes: Bytes, len: usize) -> Bytes {
    if bytes.len() >= len {
        return bytes.slice(..len);
    }
    let mut full = Vec::with_capacity(len);
    full.extend_from_slice(&bytes);
    full.resize(len, 0);
    full.into()
}

/// Makes a range of inline content zeros.
pub(super) fn punch_inline(data: &mut [u8], offset: u64, len: u64) {
    let start = usize::try_from(offset)
        .unwrap_or(usize::MAX)
        .min(data.len());
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let end = start.saturating_add(len).min(data.len());
    data[start..end].fill(0);
}

/// Where content without holes has its next byte of data, or of a hole.
pub(super) fn seek_whole(size: u64, offset: u64, data: bool) -> Option<u64> {
    match data {
        true => (offset < size).then_some(offset),
        false => Some(size),
    }
}

/// Units of 512 bytes that content inside a row occupies.
pub(super) fn inline_blocks(row: &FlareRow) -> u64 {
    match row.kind {
        Kind::File => row.size.min(INLINE_MAX).div_ceil(512),
        // A target takes no block of its own, and so it is 0 from the birth on.
        Kind::Symlink
        | Kind::Directory
        | Kind::Fifo
        | Kind::Socket
        | Kind::CharDevice
        | Kind::BlockDevice => 0,
    }
}

/// Whether a journal must be thrown away when its slice's position is set: what it holds
/// would no longer lead up to the position without a gap.
pub(super) fn breaks_journal(old: Option<(Epoch, Seq)>, new: (Epoch, Seq)) -> bool {
    old.is_none_or(|(_, seq)| seq != new.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inline_edges() {
        let mut data = b"abc".to_vec();
        write_inline(&mut data, 5, b"xy").expect("fits");
        assert_eq!(data, b"abc\0\0xy");
        write_inline(&mut data, 1, b"BC").expect("fits");
        assert_eq!(data, b"aBC\0\0xy");
        write_inline(&mut data, INLINE_MAX - 1, b"z").expect("just fits");
        assert!(write_inline(&mut data, INLINE_MAX, b"z").is_err());
        assert!(write_inline(&mut data, u64::MAX, b"z").is_err());
        assert_eq!(cut_out(b"abc", 1, 9), b"bc");
        assert_eq!(cut_out(b"abc", u64::MAX, usize::MAX), b"");
        assert_eq!(padded(Bytes::from_static(b"ab"), 4), &b"ab\0\0"[..]);
    }
}
