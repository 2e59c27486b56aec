//! Connections: calls with answers out of order, ordered lanes, bulk streams.
//!
//! | file | what |
//! |---|---|
//! | `frame` | the frame: its prefix and how it is read off a stream |
//! | `queue` | what waits to be sent on a lane, and its writer |
//! | `calls` | the questions that wait for an answer, and their limits |
//! | `reader` | takes frames off the streams and hands them to the [`Service`] |
//! | `bulk` | messages that have a stream of their own |
//!
//! [`Service`]: super::Service
//!
//! On the wire: the dialler opens one bidirectional stream for each lane. The first carries the
//! hello and the welcome and then is the Control lane, on which small questions and answers
//! travel too. A question above [`BULK_THRESHOLD`] gets a bidirectional stream of its own, on
//! which its answer comes back; the bulk answer to a small question comes on a unidirectional
//! stream. Both sides may ask; each numbers its own questions.

mod bulk;
mod calls;
pub(super) mod frame;
mod queue;
mod reader;

use quinn::{RecvStream, SendStream, VarInt};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::quic::failure::{self, Code};
use super::quic::refusals::Refusals;
use super::{Frame, Lane, SharedService, TransportError};
use bytes::Bytes;
use calls::{Calls, Waiter};
use frame::{BadFrame, Inbox, Kind, Prefix};
use magma_core::limits::{BULK_OUT_BYTES, BULK_THRESHOLD, CALLS_PER_CONNECTION};
use queue::{Rejected, SendQueue};

pub(super) use queue::write_frame;
pub(super) use reader::next_frame;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A connection to a peer that has proved the secret. Cheap to clone; usable from any thread.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    id: u64,
    peer: SocketAddr,
    quic: quinn::Connection,
    runtime: Handle,
    service: SharedService,
    refusals: Arc<Refusals>,
    lanes: [SendQueue; 2],
    calls: Calls,
    /// Questions of the peer that are not answered yet.
    asked: AtomicUsize,
    bulk_out: AtomicUsize,
    bulk_in: AtomicUsize,
    replication_open: AtomicBool,
    closed: AtomicBool,
    /// The first reason that was heard of.
    closed_because: Mutex<Option<String>>,
}

/// The side that opens the lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Dialler,
    Acceptor,
}

/// The Control lane after hello and welcome, with what has arrived behind them.
pub(super) struct Control {
    pub(super) send: SendStream,
    pub(super) recv: RecvStream,
    pub(super) inbox: Inbox,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.inner.id)
            .field("peer", &self.inner.peer)
            .field("open", &self.is_open())
            .finish()
    }
}

impl Connection {
    /// Brings a connection up whose hello is done. On the endpoint's runtime.
    pub(super) fn start(
        side: Side,
        quic: quinn::Connection,
        control: Control,
        hello: Bytes,
        service: SharedService,
        refusals: Arc<Refusals>,
    ) -> Connection {
        let inner = Arc::new(Inner {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            peer: failure::peer(&quic),
            quic,
            runtime: Handle::current(),
            service,
            refusals,
            lanes: Default::default(),
            calls: Calls::default(),
            asked: AtomicUsize::new(0),
            bulk_out: AtomicUsize::new(0),
            bulk_in: AtomicUsize::new(0),
            replication_open: AtomicBool::new(side == Side::Dialler),
            closed: AtomicBool::new(false),
            closed_because: Mutex::new(None),
        });
        let connection = Connection { inner };
        // Small messages go ahead of bulk.
        let _ = control.send.set_priority(1);
        connection.inner.service.connected(&connection, hello);
        reader::start(&connection, side, control);
        connection
    }

    /// A number that no other connection of this process has.
    pub fn id(&self) -> u64 {
        self.inner.id
    }

    /// The address of the other side.
    pub fn peer(&self) -> SocketAddr {
        self.inner.peer
    }

    /// Whether the connection has not ended, as far as is known.
    pub fn is_open(&self) -> bool {
        !self.inner.closed.load(Ordering::Acquire)
    }

    /// Waits for the end of the connection.
    pub async fn ended(&self) {
        // The reason is told to the service.
        let _ = self.inner.quic.closed().await;
    }

    /// Asks and waits for the answer, from any runtime or thread. Dropping the future forgets
    /// the question; the peer may have carried it out.
    pub async fn call(&self, frame: Frame, limit: Duration) -> Result<Frame, TransportError> {
        /// Forgets the question when the future is dropped.
        struct Forget<'a>(&'a Calls, u64);
        impl Drop for Forget<'_> {
            fn drop(&mut self) {
                drop(self.0.take(self.1));
            }
        }

        let (sender, receiver) = oneshot::channel();
        let id = self
            .ask(frame, limit, Waiter::Future(sender))
            .map_err(|(error, _)| error)?;
        let _forget = Forget(&self.inner.calls, id);
        receiver
            .await
            .unwrap_or_else(|_| Err(self.end_error("the endpoint is gone")))
    }

    /// Asks and calls `done` once with the answer: on the endpoint's thread, or at once on this
    /// one if the question cannot be sent.
    pub fn call_with(
        &self,
        frame: Frame,
        limit: Duration,
        done: Box<dyn FnOnce(Result<Frame, TransportError>) + Send>,
    ) {
        if let Err((error, Some(waiter))) = self.ask(frame, limit, Waiter::Callback(done)) {
            waiter.finish(Err(error));
        }
    }

    /// Sends without waiting: for room, for the peer, or for an answer.
    pub fn push(&self, lane: Lane, frame: Frame) -> Result<(), TransportError> {
        self.check(&frame)?;
        let prefix = Prefix::new(Kind::Push, 0, &frame);
        self.lane(lane)
            .push(prefix, frame)
            .map_err(|rejected| self.rejected(rejected))
    }

    /// Ends the connection now; what waits to be sent is dropped.
    pub fn close(&self, reason: &str) {
        self.close_with(Code::Goodbye, reason);
    }

    /// Bulk bytes on their way out and in.
    #[cfg(test)]
    pub(super) fn bulk_bytes(&self) -> (usize, usize) {
        let Inner {
            bulk_out, bulk_in, ..
        } = self.inner.as_ref();
        (
            bulk_out.load(Ordering::Relaxed),
            bulk_in.load(Ordering::Relaxed),
        )
    }

    fn close_with(&self, code: Code, reason: &str) {
        if self.inner.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.inner.quic.close(code.into(), failure::fit(reason));
        self.inner.stop(reason);
    }

    /// The peer broke the rules of the wire.
    fn refuse(&self, error: &BadFrame) {
        if self.is_open() {
            self.inner
                .refusals
                .add(self.inner.peer, &format!("a bad frame: {error}"));
            self.close_with(Code::BadFrame, &error.to_string());
        }
    }

    /// Registers and sends a question. On failure the waiter comes back if it was not told.
    fn ask(
        &self,
        frame: Frame,
        limit: Duration,
        waiter: Waiter,
    ) -> Result<u64, (TransportError, Option<Waiter>)> {
        let size = match self.check(&frame) {
            Ok(size) => size,
            Err(error) => return Err((error, Some(waiter))),
        };
        let bulk = if size > BULK_THRESHOLD {
            match self.reserve_out(size) {
                Some(reserved) => Some(reserved),
                None => return Err((self.full(), Some(waiter))),
            }
        } else {
            None
        };
        let id = self
            .inner
            .calls
            .add(waiter, limit)
            .map_err(|rejected| match rejected {
                calls::Rejected::Full(waiter) => (self.full(), Some(waiter)),
                calls::Rejected::Closed(waiter, reason) => (self.end_error(&reason), Some(waiter)),
            })?;
        let prefix = Prefix::new(Kind::Call, id, &frame);
        match bulk {
            Some(reserved) => {
                let asking = bulk::ask(self.clone(), prefix, frame, reserved);
                self.inner.runtime.spawn(async move {
                    // Past the limit nobody waits; the streams are given back.
                    let _ = tokio::time::timeout(limit, asking).await;
                });
            }
            None => {
                if let Err(rejected) = self.lane(Lane::Control).push(prefix, frame) {
                    return Err((self.rejected(rejected), self.inner.calls.take(id)));
                }
            }
        }
        Ok(id)
    }

    fn check(&self, frame: &Frame) -> Result<usize, TransportError> {
        frame::check(frame).map_err(|(size, limit)| TransportError::TooLarge { size, limit })
    }

    fn lane(&self, lane: Lane) -> &SendQueue {
        match lane {
            Lane::Control => &self.inner.lanes[0],
            Lane::Replication => &self.inner.lanes[1],
        }
    }

    fn reserve_out(&self, bytes: usize) -> Option<Reserved> {
        Reserved::take(&self.inner, |inner| &inner.bulk_out, bytes, BULK_OUT_BYTES)
    }

    fn rejected(&self, rejected: Rejected) -> TransportError {
        match rejected {
            Rejected::Full => self.full(),
            Rejected::Closed => self.end_error("it is closed"),
        }
    }

    fn full(&self) -> TransportError {
        TransportError::Full {
            addr: self.inner.peer,
        }
    }

    fn end_error(&self, otherwise: &str) -> TransportError {
        let reason = self.inner.closed_because().clone();
        let reason = reason.unwrap_or_else(|| otherwise.to_owned());
        TransportError::Closed {
            addr: self.inner.peer,
            reason,
        }
    }

    fn unanswered(&self) -> TransportError {
        TransportError::NoAnswer {
            addr: self.inner.peer,
            reason: "it dropped the question".to_owned(),
        }
    }
}

impl Inner {
    fn closed_because(&self) -> MutexGuard<'_, Option<String>> {
        self.closed_because
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets everything that waits on the connection know that it has ended.
    fn stop(&self, reason: &str) {
        self.closed_because()
            .get_or_insert_with(|| reason.to_owned());
        self.closed.store(true, Ordering::Release);
        self.lanes.iter().for_each(SendQueue::close);
        for waiter in self.calls.close(reason) {
            let error = TransportError::Closed {
                addr: self.peer,
                reason: reason.to_owned(),
            };
            waiter.finish(Err(error));
        }
    }
}

/// Bytes counted against a bound of the connection until this is dropped.
struct Reserved {
    inner: Arc<Inner>,
    counter: fn(&Inner) -> &AtomicUsize,
    bytes: usize,
}

impl Reserved {
    fn take(
        inner: &Arc<Inner>,
        counter: fn(&Inner) -> &AtomicUsize,
        bytes: usize,
        limit: usize,
    ) -> Option<Reserved> {
        counter(inner)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                Some(used + bytes).filter(|sum| *sum <= limit)
            })
            .ok()
            .map(|_| Reserved {
                inner: inner.clone(),
                counter,
                bytes,
            })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        (self.counter)(&self.inner).fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The way back to whoever asked. Dropping it unsent tells the asker so at once.
pub struct Replier {
    connection: Connection,
    id: u64,
    way: Option<Way>,
}

/// How an answer travels.
enum Way {
    /// As its size demands.
    Lane,
    /// On the stream of the question.
    Stream(SendStream),
}

impl fmt::Debug for Replier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replier")
            .field("to", &self.connection)
            .field("id", &self.id)
            .finish()
    }
}

impl Replier {
    /// Counts a question of the peer in; gives the way back if too many wait already.
    fn new(connection: &Connection, id: u64, way: Way) -> Result<Replier, Way> {
        let asked = &connection.inner.asked;
        if asked.fetch_add(1, Ordering::Relaxed) >= CALLS_PER_CONNECTION {
            asked.fetch_sub(1, Ordering::Relaxed);
            return Err(way);
        }
        Ok(Replier {
            connection: connection.clone(),
            id,
            way: Some(way),
        })
    }

    /// Answers, from any thread. An answer over the bounds of a frame counts as none.
    pub fn send(mut self, frame: Frame) {
        let size = match self.connection.check(&frame) {
            Ok(size) => size,
            Err(error) => {
                tracing::error!(target: "magma::n", peer = %self.connection.peer(), "{error}");
                return;
            }
        };
        let connection = &self.connection;
        let prefix = Prefix::new(Kind::Reply, self.id, &frame);
        match self.way.take() {
            Some(Way::Lane) if size <= BULK_THRESHOLD => {
                connection.lane(Lane::Control).push_answer(prefix, frame);
            }
            Some(way) => match connection.reserve_out(size) {
                Some(reserved) => {
                    let answering = bulk::answer(connection.clone(), way, prefix, frame, reserved);
                    connection.inner.runtime.spawn(answering);
                }
                None => way.fail(connection, self.id, Kind::Busy),
            },
            None => {}
        }
    }

    /// The connection on which the question came.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Replier {
    fn drop(&mut self) {
        self.connection.inner.asked.fetch_sub(1, Ordering::Relaxed);
        if let Some(way) = self.way.take() {
            way.fail(&self.connection, self.id, Kind::NoAnswer);
        }
    }
}

impl Way {
    /// Tells the asker that there will be no answer, and why.
    fn fail(self, connection: &Connection, id: u64, kind: Kind) {
        match self {
            Way::Lane => {
                let frame = Frame::default();
                let prefix = Prefix::new(kind, id, &frame);
                connection.lane(Lane::Control).push_answer(prefix, frame);
            }
            Way::Stream(mut stream) => {
                let code = if kind == Kind::Busy {
                    Code::Busy
                } else {
                    Code::NoAnswer
                };
                // Only a stream that is gone already cannot be reset.
                let _ = stream.reset(VarInt::from(code));
            }
        }
    }
}
