//! Frames on a stream: a prefix of 17 bytes, the header, the payload.
//!
//! ```text
//! kind u8 | id u64 | header length u32 | payload length u32     (big endian)
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::VecDeque;

use super::super::Frame;
use magma_core::limits::{FRAME_HEADER_MAX, FRAME_PAYLOAD_MAX, HELLO_MAX};

/// Bytes of an encoded [`Prefix`].
pub(super) const PREFIX: usize = 17;
/// A shorter payload is copied out of the packet that brought it: else a few bytes that
/// somebody keeps would keep 64 KiB in memory.
const COPY_BELOW: usize = 4 * 1024;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in super::super) enum Kind {
    /// First frame of the dialler.
    Hello = 1,
    /// The answer to it.
    Welcome = 2,
    /// First frame of a stream that is a lane; the id is its number.
    Lane = 3,
    /// A question; the id is of the asker's choice.
    Call = 4,
    /// The answer to the call of that id.
    Reply = 5,
    /// A message without answer.
    Push = 6,
    /// The call of that id was dropped without an answer.
    NoAnswer = 7,
    /// The call of that id was not taken on: too much is under way.
    Busy = 8,
}

impl Kind {
    fn parse(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Hello,
            2 => Kind::Welcome,
            3 => Kind::Lane,
            4 => Kind::Call,
            5 => Kind::Reply,
            6 => Kind::Push,
            7 => Kind::NoAnswer,
            8 => Kind::Busy,
            _ => return None,
        })
    }

    /// Bounds of header and payload.
    fn limits(self) -> (usize, usize) {
        match self {
            Kind::Hello | Kind::Welcome => (HELLO_MAX, 0),
            Kind::Lane | Kind::NoAnswer | Kind::Busy => (0, 0),
            Kind::Call | Kind::Reply | Kind::Push => (FRAME_HEADER_MAX, FRAME_PAYLOAD_MAX),
        }
    }
}

/// What makes a frame one that no honest peer sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in super::super) enum BadFrame {
    #[error("unknown kind of frame {0}")]
    Kind(u8),
    #[error("a frame of {size} bytes where {limit} are the most")]
    TooLarge { size: usize, limit: usize },
    #[error("a frame of kind {0:?} that does not belong there")]
    OutOfPlace(Kind),
    #[error("an answer to question {0}, which was never asked")]
    NeverAsked(u64),
    #[error("no lane has the number {0}")]
    Lane(u64),
    #[error("bytes after the end of a bulk message")]
    Trailing,
}

/// What stands before each frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Prefix {
    pub(in super::super) kind: Kind,
    pub(in super::super) id: u64,
    header: u32,
    payload: u32,
}

impl Prefix {
    /// The prefix of `frame`, whose lengths [`check`] has found right.
    pub(in super::super) fn new(kind: Kind, id: u64, frame: &Frame) -> Prefix {
        Prefix {
            kind,
            id,
            header: frame.header.len() as u32,
            payload: frame.payload.len() as u32,
        }
    }

    /// Bytes of the frame without the prefix.
    pub(super) fn size(&self) -> usize {
        self.header as usize + self.payload as usize
    }

    pub(super) fn put(&self, buffer: &mut BytesMut) {
        buffer.put_u8(self.kind as u8);
        buffer.put_u64(self.id);
        buffer.put_u32(self.header);
        buffer.put_u32(self.payload);
    }

    fn parse(mut bytes: &[u8]) -> Result<Prefix, BadFrame> {
        let byte = bytes.get_u8();
        let kind = Kind::parse(byte).ok_or(BadFrame::Kind(byte))?;
        let prefix = Prefix {
            kind,
            id: bytes.get_u64(),
            header: bytes.get_u32(),
            payload: bytes.get_u32(),
        };
        let (header, payload) = kind.limits();
        for (size, limit) in [
            (prefix.header as usize, header),
            (prefix.payload as usize, payload),
        ] {
            if size > limit {
                return Err(BadFrame::TooLarge { size, limit });
            }
        }
        Ok(prefix)
    }
}

/// The size of a frame, or which bound it breaks as (size, limit).
pub(super) fn check(frame: &Frame) -> Result<usize, (usize, usize)> {
    let (header, payload) = (frame.header.len(), frame.payload.len());
    if header > FRAME_HEADER_MAX {
        Err((header, FRAME_HEADER_MAX))
    } else if payload > FRAME_PAYLOAD_MAX {
        Err((payload, FRAME_PAYLOAD_MAX))
    } else {
        Ok(header + payload)
    }
}

/// What has arrived of a stream and is not yet parsed.
///
/// Chunks are kept as they came, so that nothing is set aside for a frame before its bytes are
/// really here, and a frame inside one chunk is cut out of it without copying.
#[derive(Debug, Default)]
pub(in super::super) struct Inbox {
    chunks: VecDeque<Bytes>,
    len: usize,
    /// The prefix of the frame whose rest is awaited.
    current: Option<Prefix>,
}

impl Inbox {
    pub(in super::super) fn add(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.len += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The prefix of the next frame, once it is here.
    pub(super) fn prefix(&mut self) -> Result<Option<Prefix>, BadFrame> {
        if self.current.is_none() && self.len >= PREFIX {
            let mut bytes = [0u8; PREFIX];
            self.copy_out(&mut bytes);
            self.current = Some(Prefix::parse(&bytes)?);
        }
        Ok(self.current)
    }

    /// The next frame, once all of it is here.
    pub(in super::super) fn frame(&mut self) -> Result<Option<(Prefix, Frame)>, BadFrame> {
        let Some(prefix) = self.prefix()? else {
            return Ok(None);
        };
        if self.len < prefix.size() {
            return Ok(None);
        }
        self.current = None;
        let header = self.take(prefix.header as usize);
        let payload = self.take(prefix.payload as usize);
        let payload = if payload.len() < COPY_BELOW && !payload.is_empty() {
            Bytes::copy_from_slice(&payload)
        } else {
            payload
        };
        Ok(Some((prefix, Frame { header, payload })))
    }

    /// The next `size` bytes in one piece; they are here.
    fn take(&mut self, size: usize) -> Bytes {
        if size == 0 {
            return Bytes::new();
        }
        match self.chunks.front_mut() {
            Some(front) if front.len() > size => {
                self.len -= size;
                front.split_to(size)
            }
            Some(front) if front.len() == size => {
                self.len -= size;
                self.chunks.pop_front().unwrap_or_default()
            }
            _ => {
                let mut whole = BytesMut::with_capacity(size);
                self.drain(size, |piece| whole.extend_from_slice(piece));
                whole.freeze()
            }
        }
    }

    fn copy_out(&mut self, target: &mut [u8]) {
        let mut filled = 0;
        self.drain(target.len(), |piece| {
            target[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
        });
    }

    fn drain(&mut self, size: usize, mut each: impl FnMut(&[u8])) {
        let mut missing = size;
        while missing > 0 {
            let Some(front) = self.chunks.front_mut() else {
                break;
            };
            let n = front.len().min(missing);
            each(&front[..n]);
            front.advance(n);
            missing -= n;
            if front.is_empty() {
                self.chunks.pop_front();
            }
        }
        self.len -= size - missing;
    }
}

#[cfg(test)]
mod tests {
    use super::{BadFrame, Inbox, Kind, PREFIX, Prefix};
    use crate::transport::Frame;
    use bytes::{Bytes, BytesMut};
    use magma_core::limits::FRAME_PAYLOAD_MAX;

    fn encode(kind: Kind, id: u64, frame: &Frame) -> Vec<u8> {
        let mut buffer = BytesMut::new();
        Prefix::new(kind, id, frame).put(&mut buffer);
        buffer.extend_from_slice(&frame.header);
        buffer.extend_from_slice(&frame.payload);
        buffer.to_vec()
    }

    #[test]
    fn frames_come_out_whichever_way_the_stream_is_cut() {
        let frames: Vec<Frame> = [(0, 0), (3, 0), (0, 9000), (40, 4095), (1, 1)]
            .iter()
            .map(|&(h, p)| Frame {
                header: vec![7; h].into(),
                payload: vec![9; p].into(),
            })
            .collect();
        let mut stream = Vec::new();
        for (i, frame) in frames.iter().enumerate() {
            stream.extend(encode(Kind::Push, i as u64, frame));
        }
        for cut in [1, 2, 16, 17, 18, 1000, stream.len()] {
            let mut inbox = Inbox::default();
            let mut out = Vec::new();
            for piece in stream.chunks(cut) {
                inbox.add(Bytes::copy_from_slice(piece));
                while let Some((prefix, frame)) = inbox.frame().unwrap() {
                    assert_eq!(prefix.id, out.len() as u64);
                    out.push(frame);
                }
            }
            assert_eq!(out, frames, "cut into pieces of {cut}");
            assert!(inbox.is_empty());
        }
    }

    #[test]
    fn a_prefix_over_the_bounds_is_refused_before_its_bytes_arrive() {
        let mut inbox = Inbox::default();
        let mut bytes = encode(Kind::Call, 1, &Frame::default());
        bytes[13..17].copy_from_slice(&(FRAME_PAYLOAD_MAX as u32 + 1).to_be_bytes());
        inbox.add(bytes.into());
        assert!(matches!(inbox.frame(), Err(BadFrame::TooLarge { .. })));

        let mut inbox = Inbox::default();
        inbox.add(vec![99; PREFIX].into());
        assert_eq!(inbox.frame(), Err(BadFrame::Kind(99)));

        let mut inbox = Inbox::default();
        let busy = Frame {
            header: Bytes::from_static(b"x"),
            payload: Bytes::new(),
        };
        inbox.add(encode(Kind::Busy, 1, &busy).into());
        assert!(inbox.frame().is_err());
    }
}
