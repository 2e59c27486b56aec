//! The frames of a stream.
//!
//! ```text
//!   kind  1 byte    id  8 bytes    header length  4 bytes    payload length  4 bytes
//!   header (MessagePack)           payload (raw)
//! ```
//!
//! All numbers are big-endian. Lengths are checked against the bounds before anything is
//! allocated for them.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use magma_core::limits::{FRAME_HEADER_MAX, FRAME_PAYLOAD_MAX};

use crate::transport::Frame;

/// Length of the fixed part.
pub(super) const FIXED: usize = 17;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Hello = 1,
    Welcome = 2,
    Refused = 3,
    /// Opens a lane, whose number is the id.
    Lane = 4,
    Call = 5,
    Reply = 6,
    /// The call is not answered: it was dropped.
    NoReply = 7,
    Push = 8,
}

/// Kind and id of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) kind: Kind,
    pub(super) id: u64,
}

/// A frame that is not of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame is malformed or over its bounds")]
pub(super) struct BadFrame;

/// Writes the fixed part and the header.
pub(super) fn put(out: &mut BytesMut, mark: Mark, frame: &Frame) {
    out.reserve(FIXED + frame.header.len());
    out.put_u8(mark.kind as u8);
    out.put_u64(mark.id);
    out.put_u32(frame.header.len() as u32);
    out.put_u32(frame.payload.len() as u32);
    out.put_slice(&frame.header);
}

/// How many bytes the first frame of a buffer has, once its fixed part is there.
pub(super) fn length(buffer: &[u8]) -> Result<Option<usize>, BadFrame> {
    let Some(mut fixed) = buffer.get(..FIXED) else {
        return Ok(None);
    };
    kind(fixed.get_u8())?;
    fixed.advance(8);
    let (header, payload) = (fixed.get_u32() as usize, fixed.get_u32() as usize);
    if header > FRAME_HEADER_MAX || payload > FRAME_PAYLOAD_MAX {
        return Err(BadFrame);
    }
    Ok(Some(FIXED + header + payload))
}

/// Takes the first frame off a buffer, if it is whole.
pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<(Mark, Frame)>, BadFrame> {
    match length(buffer)? {
        Some(length) if buffer.len() >= length => parse(buffer.split_to(length).freeze()).map(Some),
        Some(length) => {
            // The rest is on its way: one allocation instead of many.
            buffer.reserve(length - buffer.len());
            Ok(None)
        }
        None => Ok(None),
    }
}

/// Reads a whole frame.
pub(super) fn parse(mut bytes: Bytes) -> Result<(Mark, Frame), BadFrame> {
    if length(&bytes)? != Some(bytes.len()) {
        return Err(BadFrame);
    }
    let kind = kind(bytes.get_u8())?;
    let id = bytes.get_u64();
    let header = bytes.get_u32() as usize;
    bytes.advance(4);
    let header = bytes.split_to(header);
    Ok((
        Mark { kind, id },
        Frame {
            header,
            payload: bytes,
        },
    ))
}

fn kind(byte: u8) -> Result<Kind, BadFrame> {
    Ok(match byte {
        1 => Kind::Hello,
        2 => Kind::Welcome,
        3 => Kind::Refused,
        4 => Kind::Lane,
        5 => Kind::Call,
        6 => Kind::Reply,
        7 => Kind::NoReply,
        8 => Kind::Push,
        _ => return Err(BadFrame),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_in_pieces() {
        let frame = Frame {
            header: Bytes::from_static(b"head"),
            payload: Bytes::from_static(b"load"),
        };
        let mark = Mark {
            kind: Kind::Call,
            id: 7,
        };
        let mut wire = BytesMut::new();
        for _ in 0..2 {
            put(&mut wire, mark, &frame);
            wire.put_slice(&frame.payload);
        }
        let mut buffer = BytesMut::new();
        let mut got = Vec::new();
        for byte in wire {
            buffer.put_u8(byte);
            got.extend(take(&mut buffer).expect("well-formed"));
        }
        assert_eq!(got, vec![(mark, frame.clone()), (mark, frame)]);
    }

    #[test]
    fn bounds_before_allocation() {
        let mut bad = BytesMut::new();
        bad.put_u8(Kind::Push as u8);
        bad.put_u64(0);
        bad.put_u32(u32::MAX);
        bad.put_u32(0);
        assert_eq!(take(&mut bad), Err(BadFrame));
        assert_eq!(take(&mut BytesMut::from(&[99; FIXED][..])), Err(BadFrame));
    }
}
