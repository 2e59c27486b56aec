//! Which blocks are being written: content and its sums are two files, and a process can end
//! between the one and the other.
//!
//! There is one writer, so one record is enough. It is written before the content, and what the
//! process has written outlives it; the next start of the store sums these blocks again, if it
//! was not an orderly stop. Nobody was told of the operation: its blocks may be as before it or
//! as after it. A loss of power is another matter: it takes back any part of what was not synced.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::name::FileId;
use super::sums::read_full;
use crate::ids::FlareRef;
use crate::wire::codec;

/// Name of the file in the content directory.
const FILE: &str = "in-flight";
/// More than a record takes.
const RECORD_MAX: usize = 256;

/// Blocks that are being changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Span {
    pub(super) flare: FlareRef,
    pub(super) segment: u32,
    /// The first block.
    pub(super) first: u64,
    /// The one after the last.
    pub(super) end: u64,
    /// The first block was bad before, and stays so.
    pub(super) bad_first: bool,
    /// So was the last.
    pub(super) bad_last: bool,
}

impl Span {
    pub(super) fn new(id: FileId, (first, end): (u64, u64)) -> Span {
        Span {
            flare: id.0,
            segment: id.1,
            first,
            end,
            bad_first: false,
            bad_last: false,
        }
    }

    pub(super) fn id(&self) -> FileId {
        FileId(self.flare, self.segment)
    }

    /// Whether a block was bad before.
    pub(super) fn was_bad(&self, block: u64) -> bool {
        (self.bad_first && block == self.first) || (self.bad_last && block + 1 == self.end)
    }
}

/// The record on the disk.
#[derive(Debug)]
pub(super) struct InFlight(File);

impl InFlight {
    pub(super) fn open(directory: &Path) -> io::Result<InFlight> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join(FILE))?;
        // Its room is there before it is needed: a full disk must not keep anybody from deleting.
        if file.metadata()?.len() < RECORD_MAX as u64 {
            file.write_all_at(&[0; RECORD_MAX], 0)?;
        }
        Ok(InFlight(file))
    }

    /// Keeps the record: length, sum, and the span.
    pub(super) fn begin(&self, span: &Span) -> io::Result<()> {
        let body = codec::encode(span).map_err(io::Error::other)?;
        let mut record = Vec::with_capacity(8 + body.len());
        record.extend_from_slice(&(body.len() as u32).to_be_bytes());
        record.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
        record.extend_from_slice(&body);
        self.0.write_all_at(&record, 0)
    }

    /// The last span that was begun; none when there is none, or it is torn.
    pub(super) fn last(&self) -> io::Result<Option<Span>> {
        let mut record = [0; RECORD_MAX];
        let found = read_full(&self.0, &mut record, 0)?;
        let Some((head, rest)) = record[..found].split_first_chunk::<8>() else {
            return Ok(None);
        };
        let [a, b, c, d, e, f, g, h] = *head;
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        let sum = u32::from_be_bytes([e, f, g, h]);
        let body = rest.get(..len).filter(|body| !body.is_empty());
        let whole = body.filter(|body| crc32c::crc32c(body) == sum);
        Ok(whole.and_then(|body| codec::decode(body).ok()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, Seq, SliceId, Stamp};
    use crate::key::Key;

    #[test]
    fn there_and_back_and_torn() {
        let dir = tempfile::tempdir().expect("a directory");
        let stamp = Stamp(SliceId(u64::MAX), Epoch(u64::MAX), Seq(u64::MAX));
        let id = FileId(FlareRef(Key::of_path(b"/a"), stamp), u32::MAX);
        let span = Span {
            bad_last: true,
            ..Span::new(id, (u64::MAX - 1, u64::MAX))
        };
        let record = InFlight::open(dir.path()).expect("opens");
        assert_eq!(record.last().expect("reads"), None);
        record.begin(&span).expect("writes");
        let again = InFlight::open(dir.path()).expect("opens again");
        assert_eq!(again.last().expect("reads"), Some(span));
        assert!(span.was_bad(u64::MAX - 1));
        again.0.write_all_at(b"x", 20).expect("tears");
        assert_eq!(again.last().expect("reads"), None);
    }
}
