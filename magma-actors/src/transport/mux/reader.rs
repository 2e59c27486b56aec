//! The tasks of a connection: one reader and one writer for each lane, one that accepts streams
//! and notices the end, one that looks after the limits of calls.
//!
//! A reader calls the [`Service`](super::super::Service) itself, without a task or a channel in
//! between: whatever has arrived is handled in one wake-up.

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use std::sync::atomic::Ordering;

use super::super::quic::failure::{self, Code};
use super::super::{Frame, Lane, TransportError};
use super::calls::Standing;
use super::frame::{BadFrame, Inbox, Kind, Prefix};
use super::{Connection, Control, Replier, Side, Way, bulk, queue};

/// Chunks taken from QUIC at once.
const CHUNKS: usize = 32;

/// Why a stream can no longer be read.
pub(in super::super) enum Stop {
    Bad(BadFrame),
    /// The peer has finished or reset it.
    End(Option<quinn::VarInt>),
    /// The connection is gone.
    Lost,
}

impl From<BadFrame> for Stop {
    fn from(error: BadFrame) -> Stop {
        Stop::Bad(error)
    }
}

/// Starts the tasks of `connection`.
pub(super) fn start(connection: &Connection, side: Side, control: Control) {
    let Control { send, recv, inbox } = control;
    spawn_lane(connection, Lane::Control, send, recv, inbox);
    tokio::spawn(accept_streams(Ending(connection.clone())));
    tokio::spawn(watch_limits(connection.clone()));
    if side == Side::Dialler {
        tokio::spawn(open_replication(connection.clone()));
    }
}

/// Reports the end of the connection once, also if its task is dropped with the runtime.
struct Ending(Connection);

impl Drop for Ending {
    fn drop(&mut self) {
        let connection = &self.0;
        let inner = &connection.inner;
        let reason = match (inner.closed_because().clone(), inner.quic.close_reason()) {
            (Some(ours), _) => ours,
            (None, Some(error)) => failure::reason(&error),
            (None, None) => "the endpoint is gone".to_owned(),
        };
        inner.stop(&reason);
        inner.service.closed(connection, &reason);
    }
}

/// Closes the connection when a lane's task ends, for whichever reason: without its lanes a
/// connection would only seem to live.
struct LaneGuard(Connection);

impl Drop for LaneGuard {
    fn drop(&mut self) {
        // If QUIC knows of an end, that is the reason, and the other task reports it.
        if self.0.is_open() && self.0.inner.quic.close_reason().is_none() {
            self.0.close_with(Code::Goodbye, "a lane has ended");
        }
    }
}

fn spawn_lane(
    connection: &Connection,
    lane: Lane,
    mut send: SendStream,
    recv: RecvStream,
    inbox: Inbox,
) {
    let guard = LaneGuard(connection.clone());
    tokio::spawn(async move {
        // An error means that the connection or the lane is gone; the guard sees to it.
        let _ = queue::write_lane(guard.0.lane(lane), &mut send).await;
    });
    let guard = LaneGuard(connection.clone());
    tokio::spawn(async move {
        if let Stop::Bad(error) = read_lane(&guard.0, lane, recv, inbox).await {
            guard.0.refuse(&error);
        }
    });
}

async fn open_replication(connection: Connection) {
    if let Ok((mut send, recv)) = connection.inner.quic.open_bi().await {
        let frame = Frame::default();
        let prefix = Prefix::new(Kind::Lane, Lane::Replication as u64, &frame);
        // If this fails, so does the first write to the lane, which ends the connection.
        let _ = queue::write_frame(&mut send, prefix, frame).await;
        spawn_lane(&connection, Lane::Replication, send, recv, Inbox::default());
    }
}

async fn watch_limits(connection: Connection) {
    while let Some(late) = connection.inner.calls.expired().await {
        for waiter in late {
            waiter.finish(Err(TransportError::Timeout {
                addr: connection.peer(),
            }));
        }
    }
}

async fn accept_streams(ending: Ending) {
    let connection = &ending.0;
    let quic = &connection.inner.quic;
    loop {
        tokio::select! {
            accepted = quic.accept_bi() => match accepted {
                Ok((send, recv)) => {
                    tokio::spawn(take_bidirectional(connection.clone(), send, recv));
                }
                Err(_) => return,
            },
            accepted = quic.accept_uni() => match accepted {
                Ok(recv) => {
                    tokio::spawn(bulk::take_answer(connection.clone(), recv));
                }
                Err(_) => return,
            },
        }
    }
}

/// A stream that the peer has opened: a lane, or a bulk question.
async fn take_bidirectional(connection: Connection, send: SendStream, mut recv: RecvStream) {
    let mut inbox = Inbox::default();
    let result = match next_prefix(&mut recv, &mut inbox).await {
        Ok(prefix) => match prefix.kind {
            Kind::Call => bulk::take_question(&connection, prefix, send, recv, inbox).await,
            Kind::Lane => take_lane(&connection, prefix, send, recv, inbox),
            kind => Err(BadFrame::OutOfPlace(kind).into()),
        },
        Err(stop) => Err(stop),
    };
    if let Err(Stop::Bad(error)) = result {
        connection.refuse(&error);
    }
}

fn take_lane(
    connection: &Connection,
    prefix: Prefix,
    send: SendStream,
    recv: RecvStream,
    mut inbox: Inbox,
) -> Result<(), Stop> {
    if prefix.id != Lane::Replication as u64 {
        return Err(BadFrame::Lane(prefix.id).into());
    }
    if connection
        .inner
        .replication_open
        .swap(true, Ordering::AcqRel)
    {
        return Err(BadFrame::OutOfPlace(Kind::Lane).into());
    }
    // It was only looked at so far.
    inbox.frame()?;
    spawn_lane(connection, Lane::Replication, send, recv, inbox);
    Ok(())
}

async fn read_lane(
    connection: &Connection,
    lane: Lane,
    mut recv: RecvStream,
    mut inbox: Inbox,
) -> Stop {
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    loop {
        loop {
            match inbox.frame() {
                Ok(Some((prefix, frame))) => {
                    if let Err(error) = dispatch(connection, lane, prefix, frame) {
                        return error.into();
                    }
                }
                Ok(None) => break,
                Err(error) => return error.into(),
            }
        }
        if let Err(stop) = read_more(&mut recv, &mut inbox, &mut chunks).await {
            return stop;
        }
    }
}

fn dispatch(
    connection: &Connection,
    lane: Lane,
    prefix: Prefix,
    frame: Frame,
) -> Result<(), BadFrame> {
    let inner = &connection.inner;
    if !connection.is_open() {
        return Ok(());
    }
    match (prefix.kind, lane) {
        (Kind::Push, _) => inner.service.push(connection, lane, frame),
        (Kind::Call, Lane::Control) => match Replier::new(connection, prefix.id, Way::Lane) {
            Ok(replier) => inner.service.call(connection, frame, replier),
            Err(way) => way.fail(connection, prefix.id, Kind::Busy),
        },
        (Kind::Reply, Lane::Control) => answered(connection, prefix.id, Ok(frame))?,
        (Kind::NoAnswer, Lane::Control) => {
            answered(connection, prefix.id, Err(connection.unanswered()))?;
        }
        (Kind::Busy, Lane::Control) => answered(connection, prefix.id, Err(connection.full()))?,
        (kind, _) => return Err(BadFrame::OutOfPlace(kind)),
    }
    Ok(())
}

/// Hands an answer to whoever waits for it.
fn answered(
    connection: &Connection,
    id: u64,
    result: Result<Frame, TransportError>,
) -> Result<(), BadFrame> {
    let calls = &connection.inner.calls;
    match calls.take(id) {
        Some(waiter) => waiter.finish(result),
        None if calls.standing(id) == Standing::NeverAsked => {
            return Err(BadFrame::NeverAsked(id));
        }
        // Forgotten or past its limit.
        None => {}
    }
    Ok(())
}

/// Reads until the prefix of the next frame is here.
pub(super) async fn next_prefix(recv: &mut RecvStream, inbox: &mut Inbox) -> Result<Prefix, Stop> {
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    loop {
        if let Some(prefix) = inbox.prefix()? {
            return Ok(prefix);
        }
        read_more(recv, inbox, &mut chunks).await?;
    }
}

/// Reads until the next frame is here.
pub(in super::super) async fn next_frame(
    recv: &mut RecvStream,
    inbox: &mut Inbox,
) -> Result<(Prefix, Frame), Stop> {
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    loop {
        if let Some(whole) = inbox.frame()? {
            return Ok(whole);
        }
        read_more(recv, inbox, &mut chunks).await?;
    }
}

/// Reads what has arrived, waiting if nothing has.
pub(super) async fn read_more(
    recv: &mut RecvStream,
    inbox: &mut Inbox,
    chunks: &mut [Bytes; CHUNKS],
) -> Result<(), Stop> {
    match recv.read_chunks(chunks.as_mut_slice()).await {
        Ok(Some(count)) => {
            for chunk in chunks.iter_mut().take(count) {
                inbox.add(std::mem::take(chunk));
            }
            Ok(())
        }
        Ok(None) => Err(Stop::End(None)),
        Err(quinn::ReadError::Reset(code)) => Err(Stop::End(Some(code))),
        Err(_) => Err(Stop::Lost),
    }
}
