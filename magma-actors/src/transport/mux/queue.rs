//! What waits to be sent on one lane, and the task that sends it.
//!
//! Anyone on any thread may add; one writer drains. It takes whatever is ready, so under load
//! many frames leave with one write, and it is woken once for as many as came meanwhile.

use bytes::{Bytes, BytesMut};
use quinn::SendStream;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::super::Frame;
use super::frame::{PREFIX, Prefix};
use magma_core::limits::{SEND_QUEUE, SHIP_WINDOW_BYTES};

const QUEUE_BYTES: usize = 2 * SHIP_WINDOW_BYTES;
/// The writer takes no more than this at once, so that one write stays short.
const BATCH_BYTES: usize = 512 * 1024;
/// A part at least this long is sent from where it lies, shorter ones are copied together.
const COPY_BELOW: usize = 4 * 1024;

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    Full,
    Closed,
}

/// The queue of one lane.
#[derive(Debug, Default)]
pub(super) struct SendQueue {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<(Prefix, Frame)>,
    /// Bytes that wait, and those that the writer has not handed over yet.
    bytes: usize,
    writer: Option<Waker>,
    closed: bool,
}

impl SendQueue {
    /// Adds a frame unless as much waits as may.
    pub(super) fn push(&self, prefix: Prefix, frame: Frame) -> Result<(), Rejected> {
        let state = self.lock();
        if state.frames.len() >= SEND_QUEUE || state.bytes + prefix.size() > QUEUE_BYTES {
            return Err(if state.closed {
                Rejected::Closed
            } else {
                Rejected::Full
            });
        }
        Self::add(state, prefix, frame)
    }

    /// Adds an answer. The bound on questions bounds the answers, so they always have room.
    pub(super) fn push_answer(&self, prefix: Prefix, frame: Frame) {
        // A peer that is gone needs no answer.
        let _ = Self::add(self.lock(), prefix, frame);
    }

    fn add(mut state: MutexGuard<'_, State>, prefix: Prefix, frame: Frame) -> Result<(), Rejected> {
        if state.closed {
            return Err(Rejected::Closed);
        }
        state.bytes += prefix.size();
        state.frames.push_back((prefix, frame));
        let writer = state.writer.take();
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
        Ok(())
    }

    /// Takes no more frames; the writer ends.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let frames = std::mem::take(&mut state.frames);
        let writer = state.writer.take();
        drop(state);
        drop(frames);
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// Moves what is ready into `batch`; the number of its bytes, `None` at the end.
    fn poll_batch(&self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<Option<usize>> {
        let mut state = self.lock();
        if state.closed {
            return Poll::Ready(None);
        }
        if state.frames.is_empty() {
            if !state
                .writer
                .as_ref()
                .is_some_and(|w| w.will_wake(cx.waker()))
            {
                state.writer = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        let mut bytes = 0;
        while bytes < BATCH_BYTES {
            let Some((prefix, frame)) = state.frames.pop_front() else {
                break;
            };
            bytes += prefix.size();
            batch.add(&prefix, frame);
        }
        Poll::Ready(Some(bytes))
    }

    fn sent(&self, bytes: usize) {
        self.lock().bytes -= bytes;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends what the queue holds until it is closed or the stream ends.
pub(super) async fn write_lane(
    queue: &SendQueue,
    stream: &mut SendStream,
) -> Result<(), quinn::WriteError> {
    let mut batch = Batch::default();
    while let Some(bytes) = poll_fn(|cx| queue.poll_batch(cx, &mut batch)).await {
        stream.write_all_chunks(batch.seal()).await?;
        batch.chunks.clear();
        queue.sent(bytes);
    }
    Ok(())
}

/// Writes one frame to a stream of its own.
pub(in super::super) async fn write_frame(
    stream: &mut SendStream,
    prefix: Prefix,
    frame: Frame,
) -> Result<(), quinn::WriteError> {
    let mut batch = Batch::default();
    batch.add(&prefix, frame);
    stream.write_all_chunks(batch.seal()).await
}

/// Frames on their way into one write.
#[derive(Debug, Default)]
struct Batch {
    small: BytesMut,
    chunks: Vec<Bytes>,
}

impl Batch {
    fn add(&mut self, prefix: &Prefix, frame: Frame) {
        self.small.reserve(PREFIX);
        prefix.put(&mut self.small);
        self.part(frame.header);
        self.part(frame.payload);
    }

    fn part(&mut self, bytes: Bytes) {
        if bytes.len() < COPY_BELOW {
            self.small.extend_from_slice(&bytes);
        } else {
            self.cut();
            self.chunks.push(bytes);
        }
    }

    fn cut(&mut self) {
        if !self.small.is_empty() {
            self.chunks.push(self.small.split().freeze());
        }
    }

    fn seal(&mut self) -> &mut [Bytes] {
        self.cut();
        &mut self.chunks
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{Kind, Prefix};
    use super::{Rejected, SendQueue};
    use crate::transport::Frame;
    use bytes::Bytes;
    use magma_core::limits::{FRAME_PAYLOAD_MAX, SEND_QUEUE, SHIP_WINDOW_BYTES};

    fn push(queue: &SendQueue, size: usize) -> Result<(), Rejected> {
        let frame = Frame {
            header: Bytes::new(),
            payload: vec![0; size].into(),
        };
        queue.push(Prefix::new(Kind::Push, 0, &frame), frame)
    }

    #[test]
    fn a_queue_is_bounded_in_frames_and_in_bytes() {
        let queue = SendQueue::default();
        for _ in 0..SEND_QUEUE {
            push(&queue, 1).unwrap();
        }
        assert_eq!(push(&queue, 1), Err(Rejected::Full));

        let queue = SendQueue::default();
        for _ in 0..2 * SHIP_WINDOW_BYTES / FRAME_PAYLOAD_MAX {
            push(&queue, FRAME_PAYLOAD_MAX).unwrap();
        }
        assert_eq!(push(&queue, 1), Err(Rejected::Full));
        queue.close();
        assert_eq!(push(&queue, 0), Err(Rejected::Closed));
    }
}
