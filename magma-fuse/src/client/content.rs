//! Reading and writing content, in pieces that one operation may carry.

use bytes::{Bytes, BytesMut};

use magma_core::error::{OpError, OpResult};
use magma_core::ids::FlareRef;
use magma_core::limits::IO_MAX;
use magma_core::op::{AllocateHow, Answer, Credentials, Op};

use super::Client;
use super::objects::done;
use super::request::{Ask, Told, unexpected};

/// How content is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteHow {
    /// At the end, wherever that is (`O_APPEND`); the offset is ignored.
    pub append: bool,
    /// On the disks of all copies before the answer (`O_SYNC`, `O_DSYNC`).
    pub sync: bool,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Where the first byte went.
    pub offset: u64,
    /// How many bytes were written.
    pub count: usize,
    /// The size afterwards.
    pub size: u64,
}

impl Client {
    /// Reads content; less than asked only at the end of the file.
    pub async fn read(
        &self,
        flare: FlareRef,
        offset: u64,
        len: usize,
        cred: &Credentials,
    ) -> OpResult<Bytes> {
        let first = self.read_piece(flare, offset, len, cred).await?;
        // Nearly always one piece is all, and needs no copy.
        if first.bytes.len() >= len || first.end {
            return Ok(first.bytes);
        }
        let mut all = BytesMut::from(first.bytes);
        while all.len() < len {
            let at = offset.saturating_add(all.len() as u64);
            let piece = self.read_piece(flare, at, len - all.len(), cred).await?;
            all.extend_from_slice(&piece.bytes);
            if piece.end {
                break;
            }
        }
        Ok(all.freeze())
    }

    async fn read_piece(
        &self,
        flare: FlareRef,
        offset: u64,
        len: usize,
        cred: &Credentials,
    ) -> OpResult<Piece> {
        let asked = len.min(IO_MAX);
        let op = Op::Read {
            flare,
            offset,
            len: asked as u32,
        };
        let told = self.shared.ask(Ask::new(flare.key(), cred, op)).await?;
        if let Answer::Data { version, atime, .. } = told.answer {
            self.shared.cache.was_read(flare, version, atime);
        }
        Piece::from_told(told, asked)
    }

    /// Reserves, empties or zeroes a range of content.
    pub async fn allocate(
        &self,
        flare: FlareRef,
        offset: u64,
        len: u64,
        how: AllocateHow,
        cred: &Credentials,
    ) -> OpResult<()> {
        let op = Op::Allocate {
            flare,
            offset,
            len,
            how,
        };
        done(self.shared.ask(Ask::new(flare.key(), cred, op)).await?)
    }

    /// The next byte of data, or of a hole.
    pub async fn seek(
        &self,
        flare: FlareRef,
        offset: u64,
        data: bool,
        cred: &Credentials,
    ) -> OpResult<u64> {
        let op = Op::Seek {
            flare,
            offset,
            data,
        };
        let told = self.shared.ask(Ask::new(flare.key(), cred, op)).await?;
        match told.answer {
            Answer::Offset(offset) => Ok(offset),
            other => Err(unexpected(&other)),
        }
    }

    /// Copies content between two files without moving it through this mount. Returns how many
    /// bytes were copied: [`IO_MAX`] at most, fewer where the source ends.
    pub async fn copy_range(
        &self,
        from: (FlareRef, u64),
        to: (FlareRef, u64),
        len: u64,
        cred: &Credentials,
    ) -> OpResult<u32> {
        let op = Op::CopyRange {
            from: from.0,
            from_offset: from.1,
            flare: to.0,
            offset: to.1,
            len: len.min(IO_MAX as u64) as u32,
        };
        let told = self.shared.ask(Ask::new(to.0.key(), cred, op)).await?;
        match told.answer {
            Answer::Copied { len } => Ok(len),
            other => Err(unexpected(&other)),
        }
    }

    /// Writes content. When a later piece fails, what went before counts, as write(2) has it.
    /// Appends of more than [`IO_MAX`] bytes are several appends.
    pub async fn write(
        &self,
        flare: FlareRef,
        offset: u64,
        content: Bytes,
        how: WriteHow,
        cred: &Credentials,
    ) -> OpResult<Written> {
        let mut done: Option<Written> = None;
        let mut rest = content;
        while !rest.is_empty() || done.is_none() {
            let piece = rest.split_to(rest.len().min(IO_MAX));
            let count = piece.len();
            let at = done.map_or(offset, |done| offset.saturating_add(done.count as u64));
            let op = Op::Write {
                flare,
                offset: at,
                len: count as u32,
                append: how.append,
                sync: how.sync,
            };
            let ask = Ask {
                payload: piece,
                ..Ask::new(flare.key(), cred, op)
            };
            let answer = match (self.shared.ask(ask).await, done) {
                (Ok(told), _) => told.answer,
                (Err(error), None) => return Err(error),
                (Err(error), Some(done)) => {
                    tracing::debug!(%error, count = done.count, "a write stopped short");
                    return Ok(done);
                }
            };
            let Answer::Written { offset: went, size } = answer else {
                return Err(unexpected(&answer));
            };
            done = Some(Written {
                offset: done.map_or(went, |done| done.offset),
                count: done.map_or(0, |done| done.count) + count,
                size,
            });
        }
        // The loop runs at least once.
        done.ok_or(OpError::Io)
    }
}

/// The answer to one read.
#[derive(Debug, PartialEq, Eq)]
struct Piece {
    bytes: Bytes,
    end: bool,
}

impl Piece {
    fn from_told(told: Told, asked: usize) -> OpResult<Piece> {
        let Answer::Data { len, eof, .. } = told.answer else {
            return Err(unexpected(&told.answer));
        };
        let len = len as usize;
        if len > asked || len > told.payload.len() {
            tracing::warn!(len, asked, payload = told.payload.len(), "a reply lies");
            return Err(OpError::Io);
        }
        Ok(Piece {
            bytes: told.payload.slice(..len),
            // Nothing read and not at the end: asking again would never end.
            end: eof || len == 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use magma_core::ids::Stamp;
    use magma_core::time::Timestamp;

    fn told(len: u32, eof: bool, payload: &'static [u8]) -> Told {
        Told {
            again: false,
            answer: Answer::Data {
                len,
                eof,
                version: Stamp::default(),
                atime: Timestamp::default(),
            },
            payload: Bytes::from_static(payload),
        }
    }

    #[test]
    fn pieces_are_checked() {
        let piece = Piece::from_told(told(3, false, b"abc"), 3).expect("a piece");
        assert_eq!((&piece.bytes[..], piece.end), (&b"abc"[..], false));
        assert!(
            Piece::from_told(told(0, false, b""), 3)
                .expect("a piece")
                .end
        );
        assert_eq!(Piece::from_told(told(4, true, b"abc"), 8), Err(OpError::Io));
        assert_eq!(Piece::from_told(told(3, true, b"abc"), 2), Err(OpError::Io));
    }
}
