//! One writer and one reader task a lane, and streams of one message.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use magma_core::limits::{FRAME_HEADER_MAX, FRAME_PAYLOAD_MAX};
use quinn::{ReadError, ReadToEndError, RecvStream, SendStream, VarInt, WriteError};
use tokio::sync::mpsc;

use super::frame::{self, BadFrame, FIXED, Kind, Mark};
use super::{Connection, Replier};
use crate::transport::quic::explain;
use crate::transport::{Frame, Lane, SharedService, TransportError};

/// Most bytes of headers gathered for one write.
const GATHER: usize = 64 * 1024;
/// Payloads up to this size are copied beside their header instead of written apart.
const COPY: usize = 4 * 1024;
/// The largest whole frame.
const FRAME_MAX: usize = FIXED + FRAME_HEADER_MAX + FRAME_PAYLOAD_MAX;

/// A frame that waits to be written.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) mark: Mark,
    pub(super) frame: Frame,
}

/// Why a stream of one message could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("{0}")]
    ReadToEnd(#[from] ReadToEndError),
    #[error("{0}")]
    Bad(#[from] BadFrame),
    #[error("the stream ended in the middle of a frame")]
    Short,
}

/// Why a connection has ended, for whoever found out by a stream.
pub(super) fn why(quic: &quinn::Connection) -> TransportError {
    let addr = quic.remote_address();
    match quic.close_reason() {
        Some(error) => explain(addr, &error),
        None => TransportError::Closed {
            addr,
            reason: "a stream was cut off".into(),
        },
    }
}

/// Writes what waits in a lane: everything that is ready leaves together.
pub(super) async fn write_lane(
    mut send: SendStream,
    mut queue: mpsc::Receiver<Queued>,
    queued: Arc<AtomicUsize>,
) {
    while let Some(first) = queue.recv().await {
        let mut chunks = Vec::new();
        let mut head = BytesMut::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(Queued { mark, frame }) = next {
            bytes += frame.header.len() + frame.payload.len();
            gather(&mut chunks, &mut head, mark, frame);
            next = if head.len() < GATHER && bytes < FRAME_PAYLOAD_MAX {
                queue.try_recv().ok()
            } else {
                None
            };
        }
        if !head.is_empty() {
            chunks.push(head.freeze());
        }
        let written = send.write_all_chunks(&mut chunks).await;
        queued.fetch_sub(bytes, Ordering::Relaxed);
        if written.is_err() {
            // The connection has ended; whoever waits hears it from there.
            return;
        }
    }
}

fn gather(chunks: &mut Vec<Bytes>, head: &mut BytesMut, mark: Mark, frame: Frame) {
    frame::put(head, mark, &frame);
    if frame.payload.len() <= COPY {
        head.extend_from_slice(&frame.payload);
    } else {
        chunks.push(head.split().freeze());
        chunks.push(frame.payload);
    }
}

/// Writes one frame.
pub(super) async fn write(
    send: &mut SendStream,
    mark: Mark,
    frame: Frame,
) -> Result<(), WriteError> {
    let (mut chunks, mut head) = (Vec::new(), BytesMut::new());
    gather(&mut chunks, &mut head, mark, frame);
    if !head.is_empty() {
        chunks.push(head.freeze());
    }
    send.write_all_chunks(&mut chunks).await
}

/// Writes the only frame of a stream.
pub(super) async fn write_one(mut send: SendStream, mark: Mark, frame: Frame) {
    if write(&mut send, mark, frame).await.is_ok() {
        let _ = send.finish();
    }
}

/// Reads the first frame of a stream, and nothing beyond it.
pub(super) async fn read_one(recv: &mut RecvStream) -> Result<(Mark, Frame), StreamError> {
    let mut buffer = BytesMut::new();
    let mut want = FIXED;
    loop {
        while buffer.len() < want {
            match recv.read_chunk(want - buffer.len(), true).await? {
                Some(chunk) => buffer.extend_from_slice(&chunk.bytes),
                None => return Err(StreamError::Short),
            }
        }
        match frame::length(&buffer)? {
            Some(length) if buffer.len() >= length => return Ok(frame::parse(buffer.freeze())?),
            Some(length) => want = length,
            None => want = FIXED,
        }
    }
}

/// Reads a lane: each frame goes straight to whoever it is for.
pub(super) async fn read_lane(
    connection: Connection,
    lane: Lane,
    mut recv: RecvStream,
    service: SharedService,
) {
    let mut buffer = BytesMut::new();
    loop {
        match recv.read_chunk(usize::MAX, true).await {
            Ok(Some(chunk)) => {
                if buffer.is_empty() {
                    // The usual case, whole frames in a chunk, needs no copy.
                    buffer = BytesMut::from(chunk.bytes);
                } else {
                    buffer.extend_from_slice(&chunk.bytes);
                }
            }
            Ok(None) | Err(_) => return,
        }
        loop {
            match frame::take(&mut buffer) {
                Ok(Some((mark, frame))) => {
                    if !dispatch(&connection, lane, mark, frame, &service) {
                        return connection.misbehaved("a frame that does not belong here");
                    }
                }
                Ok(None) => break,
                Err(error) => return connection.misbehaved(&error.to_string()),
            }
        }
    }
}

fn dispatch(
    connection: &Connection,
    lane: Lane,
    mark: Mark,
    frame: Frame,
    service: &SharedService,
) -> bool {
    match (mark.kind, lane) {
        (Kind::Push, _) => service.push(connection, lane, frame),
        (Kind::Call, Lane::Control) => {
            let replier = Replier {
                connection: connection.clone(),
                id: mark.id,
                stream: None,
                sent: false,
            };
            service.call(connection, frame, replier);
        }
        (Kind::Reply, Lane::Control) => connection.answered(mark.id, Ok(frame)),
        (Kind::NoReply, Lane::Control) => connection.answered(mark.id, Err(dropped(connection))),
        _ => return false,
    }
    true
}

fn dropped(connection: &Connection) -> TransportError {
    let addr = connection.peer();
    TransportError::Refused {
        addr,
        reason: "the request was dropped: it has too much to do".into(),
    }
}

/// A call on a stream of its own.
pub(super) async fn bulk_call(
    connection: &Connection,
    id: u64,
    frame: Frame,
) -> Result<(), TransportError> {
    let quic = &connection.0.quic;
    let (mut send, recv) = quic
        .open_bi()
        .await
        .map_err(|e| explain(connection.peer(), &e))?;
    write(
        &mut send,
        Mark {
            kind: Kind::Call,
            id,
        },
        frame,
    )
    .await
    .map_err(|_| why(quic))?;
    let _ = send.finish();
    match read_whole(recv).await {
        Ok((
            Mark {
                kind: Kind::Reply, ..
            },
            frame,
        )) => connection.answered(id, Ok(frame)),
        Ok(_) => return Err(dropped(connection)),
        Err(_) => return Err(why(quic)),
    }
    Ok(())
}

async fn read_whole(mut recv: RecvStream) -> Result<(Mark, Frame), StreamError> {
    let bytes = recv.read_to_end(FRAME_MAX).await?;
    Ok(frame::parse(bytes.into())?)
}

/// Calls that come on streams of their own.
pub(super) async fn take_bulk_calls(connection: Connection, service: SharedService) {
    while let Ok((send, recv)) = connection.0.quic.accept_bi().await {
        let (connection, service) = (connection.clone(), service.clone());
        tokio::spawn(async move {
            match read_whole(recv).await {
                Ok((
                    Mark {
                        kind: Kind::Call,
                        id,
                    },
                    frame,
                )) => {
                    let replier = Replier {
                        connection: connection.clone(),
                        id,
                        stream: Some(send),
                        sent: false,
                    };
                    service.call(&connection, frame, replier);
                }
                Ok(_) | Err(StreamError::Bad(_) | StreamError::Short) => {
                    connection.misbehaved("a stream that carries no call");
                }
                Err(StreamError::ReadToEnd(ReadToEndError::TooLong)) => {
                    connection.misbehaved("a call over its bounds");
                }
                Err(StreamError::Read(_) | StreamError::ReadToEnd(_)) => {}
            }
        });
    }
}

/// Replies with much content, each on a stream of its own.
pub(super) async fn take_bulk_replies(connection: Connection) {
    while let Ok(mut recv) = connection.0.quic.accept_uni().await {
        let connection = connection.clone();
        tokio::spawn(async move {
            match recv
                .read_to_end(FRAME_MAX)
                .await
                .map(|bytes| frame::parse(bytes.into()))
            {
                Ok(Ok((
                    Mark {
                        kind: Kind::Reply,
                        id,
                    },
                    frame,
                ))) => {
                    connection.answered(id, Ok(frame));
                }
                Ok(_) => connection.misbehaved("a stream that carries no reply"),
                Err(_) => drop(recv.stop(VarInt::from_u32(0))),
            }
        });
    }
}
