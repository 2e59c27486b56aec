//! Messages that have a stream of their own, so that small ones do not wait behind them.
//!
//! A message that is given up half-way has its stream *reset*: the other side then knows that
//! nothing is wrong but that nothing more will come.

use quinn::{RecvStream, SendStream, VarInt};

use super::super::quic::failure::Code;
use super::super::{Frame, TransportError};
use super::calls::Standing;
use super::frame::{BadFrame, Inbox, Kind, Prefix};
use super::reader::{Stop, next_frame, next_prefix};
use super::{Connection, Replier, Reserved, Way, queue};
use magma_core::limits::BULK_IN_BYTES;

/// Resets the stream when it is dropped before the message was whole.
struct Sending(Option<SendStream>);

impl Sending {
    async fn frame(mut self, prefix: Prefix, frame: Frame) -> Result<(), quinn::WriteError> {
        if let Some(stream) = self.0.as_mut() {
            queue::write_frame(stream, prefix, frame).await?;
        }
        if let Some(mut stream) = self.0.take() {
            // Fails only if the stream is gone, and then the write has failed before.
            let _ = stream.finish();
        }
        Ok(())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(stream) = self.0.as_mut() {
            let _ = stream.reset(Code::GivenUp.into());
        }
    }
}

/// Asks on a new stream and hands the answer to whoever waits.
pub(super) async fn ask(connection: Connection, prefix: Prefix, frame: Frame, reserved: Reserved) {
    let result = exchange(&connection, prefix, frame, reserved).await;
    if let Some(waiter) = connection.inner.calls.take(prefix.id) {
        waiter.finish(result);
    }
}

async fn exchange(
    connection: &Connection,
    prefix: Prefix,
    frame: Frame,
    reserved: Reserved,
) -> Result<Frame, TransportError> {
    let gone = || connection.end_error("the connection is lost");
    let (send, mut recv) = connection.inner.quic.open_bi().await.map_err(|_| gone())?;
    match Sending(Some(send)).frame(prefix, frame).await {
        Ok(()) => {}
        Err(quinn::WriteError::Stopped(_)) => return Err(connection.full()),
        Err(_) => return Err(gone()),
    }
    drop(reserved);

    let mut inbox = Inbox::default();
    let answer = match next_prefix(&mut recv, &mut inbox).await {
        Ok(found) if found.kind != Kind::Reply => Err(BadFrame::OutOfPlace(found.kind).into()),
        Ok(found) => match reserve_in(connection, found.size()) {
            Some(_reserved) => next_frame(&mut recv, &mut inbox).await,
            None => {
                let _ = recv.stop(Code::Busy.into());
                return Err(connection.full());
            }
        },
        Err(stop) => Err(stop),
    };
    match answer {
        Ok((_, frame)) => {
            tokio::spawn(end(connection.clone(), recv, inbox));
            Ok(frame)
        }
        Err(Stop::Bad(error)) => {
            connection.refuse(&error);
            Err(gone())
        }
        Err(Stop::End(Some(code))) if code == VarInt::from(Code::Busy) => Err(connection.full()),
        Err(Stop::End(_)) => Err(connection.unanswered()),
        Err(Stop::Lost) => Err(gone()),
    }
}

/// A question on a stream of its own, of which the prefix is here.
pub(super) async fn take_question(
    connection: &Connection,
    prefix: Prefix,
    mut send: SendStream,
    mut recv: RecvStream,
    mut inbox: Inbox,
) -> Result<(), Stop> {
    let Some(reserved) = reserve_in(connection, prefix.size()) else {
        let _ = recv.stop(Code::Busy.into());
        let _ = send.reset(Code::Busy.into());
        return Ok(());
    };
    let (_, frame) = next_frame(&mut recv, &mut inbox).await?;
    drop(reserved);
    match Replier::new(connection, prefix.id, Way::Stream(send)) {
        Ok(replier) => connection.inner.service.call(connection, frame, replier),
        Err(way) => way.fail(connection, prefix.id, Kind::Busy),
    }
    end(connection.clone(), recv, inbox).await;
    Ok(())
}

/// The bulk answer to a small question.
pub(super) async fn take_answer(connection: Connection, mut recv: RecvStream) {
    let mut inbox = Inbox::default();
    match answer_of(&connection, &mut recv, &mut inbox).await {
        Ok(()) => end(connection, recv, inbox).await,
        Err(Stop::Bad(error)) => connection.refuse(&error),
        // Given up by the peer, which has said so on the Control lane if it could.
        Err(Stop::End(_) | Stop::Lost) => {}
    }
}

async fn answer_of(
    connection: &Connection,
    recv: &mut RecvStream,
    inbox: &mut Inbox,
) -> Result<(), Stop> {
    let prefix = next_prefix(recv, inbox).await?;
    if prefix.kind != Kind::Reply {
        return Err(BadFrame::OutOfPlace(prefix.kind).into());
    }
    let calls = &connection.inner.calls;
    match calls.standing(prefix.id) {
        Standing::NeverAsked => return Err(BadFrame::NeverAsked(prefix.id).into()),
        Standing::Past => return give_back(recv),
        Standing::Waiting => {}
    }
    let Some(_reserved) = reserve_in(connection, prefix.size()) else {
        if let Some(waiter) = calls.take(prefix.id) {
            waiter.finish(Err(connection.full()));
        }
        return give_back(recv);
    };
    let (_, frame) = next_frame(recv, inbox).await?;
    if let Some(waiter) = calls.take(prefix.id) {
        waiter.finish(Ok(frame));
    }
    Ok(())
}

/// Tells the peer that the rest of its message is of no use.
fn give_back(recv: &mut RecvStream) -> Result<(), Stop> {
    let _ = recv.stop(Code::GivenUp.into());
    Err(Stop::End(None))
}

/// Sends an answer on the stream of its question, or on a new one.
pub(super) async fn answer(
    connection: Connection,
    way: Way,
    prefix: Prefix,
    frame: Frame,
    reserved: Reserved,
) {
    let stream = match way {
        Way::Stream(stream) => stream,
        Way::Lane => match connection.inner.quic.open_uni().await {
            Ok(stream) => stream,
            // The connection is gone, and the question with it.
            Err(_) => return,
        },
    };
    // An asker that no longer wants the answer stops it: nothing is wrong.
    let _ = Sending(Some(stream)).frame(prefix, frame).await;
    drop(reserved);
}

fn reserve_in(connection: &Connection, bytes: usize) -> Option<Reserved> {
    Reserved::take(
        &connection.inner,
        |inner| &inner.bulk_in,
        bytes,
        BULK_IN_BYTES,
    )
}

/// Sees the stream to its end, so that it is not taken for one that was stopped.
async fn end(connection: Connection, mut recv: RecvStream, inbox: Inbox) {
    let trailing = !inbox.is_empty() || matches!(recv.read_chunk(1, true).await, Ok(Some(_)));
    if trailing {
        connection.refuse(&BadFrame::Trailing);
    }
}
