//! Connections: calls with answers out of order, ordered lanes, bulk streams.
//!
//! Each lane is one bidirectional stream that the dialler opens and both sides keep. Small
//! calls, their replies and pushes are frames on it; whatever is ready for one peer leaves in
//! one write. A call with much content has a stream of its own, and so has a reply: nothing
//! small waits behind it.
//!
//! | file | what |
//! |---|---|
//! | [`frame`] | the frames of a stream: header, bounds, parsing |
//! | [`stream`] | one writer and one reader task a lane; streams of one message |

mod frame;
mod stream;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use magma_core::limits::{
    BULK_THRESHOLD, CALLS_PER_CONNECTION, FRAME_HEADER_MAX, FRAME_PAYLOAD_MAX, SEND_QUEUE,
    SHIP_WINDOW_BYTES,
};
use quinn::{RecvStream, SendStream, VarInt};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::quic::explain;
use super::watch::Refusals;
use super::{Frame, Lane, SharedService, TransportError};
use crate::node::lock;
use frame::{Kind, Mark};
use stream::Queued;

/// Overdue calls are looked for this often.
const SWEEP: Duration = Duration::from_millis(100);

/// Who waits for the answer of a call.
type Done = Box<dyn FnOnce(Result<Frame, TransportError>) + Send>;

/// A connection to a peer that has proved the secret and said hello.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    id: u64,
    peer: SocketAddr,
    quic: quinn::Connection,
    /// Frames that wait to be written, by lane.
    lanes: [mpsc::Sender<Queued>; 2],
    /// Bytes that wait in the lanes.
    queued: Arc<AtomicUsize>,
    calls: Mutex<HashMap<u64, (Instant, Done)>>,
    next_call: AtomicU64,
    open: AtomicBool,
    runtime: Handle,
    refusals: Arc<Refusals>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({} to {})", self.0.id, self.0.peer)
    }
}

impl Connection {
    /// A number that no other connection of this process has.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The other end.
    pub fn peer(&self) -> SocketAddr {
        self.0.peer
    }

    /// Whether it still works, as far as is known.
    pub fn is_open(&self) -> bool {
        self.0.open.load(Ordering::Relaxed)
    }

    /// Asks, and waits for the answer. Dropping the future forgets the call.
    pub async fn call(&self, frame: Frame, limit: Duration) -> Result<Frame, TransportError> {
        let (done, answered) = oneshot::channel();
        self.call_with(
            frame,
            limit,
            Box::new(move |answer| drop(done.send(answer))),
        );
        let closed = TransportError::Closed {
            addr: self.peer(),
            reason: "it has ended".into(),
        };
        answered.await.unwrap_or(Err(closed))
    }

    /// Asks; `done` hears the answer, on the connection's runtime or at once.
    pub fn call_with(&self, frame: Frame, limit: Duration, done: Done) {
        if let Err(error) = self.check(&frame) {
            return done(Err(error));
        }
        let id = self.0.next_call.fetch_add(1, Ordering::Relaxed);
        {
            let mut calls = lock(&self.0.calls);
            if calls.len() >= CALLS_PER_CONNECTION {
                drop(calls);
                return done(Err(TransportError::Full { addr: self.peer() }));
            }
            calls.insert(id, (Instant::now() + limit, done));
        }
        if !self.is_open() {
            return self.answered(id, Err(self.ended()));
        }
        if frame.payload.len() > BULK_THRESHOLD {
            let connection = self.clone();
            self.0.runtime.spawn(async move {
                if let Err(error) = stream::bulk_call(&connection, id, frame).await {
                    connection.answered(id, Err(error));
                }
            });
            return;
        }
        if let Err(error) = self.enqueue(
            Lane::Control,
            Mark {
                kind: Kind::Call,
                id,
            },
            frame,
        ) {
            self.answered(id, Err(error));
        }
    }

    /// Tells, without an answer. Never waits: `Full` when as much waits as may.
    pub fn push(&self, lane: Lane, frame: Frame) -> Result<(), TransportError> {
        self.check(&frame)?;
        self.enqueue(
            lane,
            Mark {
                kind: Kind::Push,
                id: 0,
            },
            frame,
        )
    }

    /// Ends the connection; both sides hear of it.
    pub fn close(&self, reason: &str) {
        self.0.quic.close(VarInt::from_u32(1), reason.as_bytes());
    }

    fn check(&self, frame: &Frame) -> Result<(), TransportError> {
        for (size, limit) in [
            (frame.header.len(), FRAME_HEADER_MAX),
            (frame.payload.len(), FRAME_PAYLOAD_MAX),
        ] {
            if size > limit {
                return Err(TransportError::TooLarge { size, limit });
            }
        }
        Ok(())
    }

    fn enqueue(&self, lane: Lane, mark: Mark, frame: Frame) -> Result<(), TransportError> {
        let size = frame.header.len() + frame.payload.len();
        let full = TransportError::Full { addr: self.peer() };
        if self.0.queued.load(Ordering::Relaxed) + size > 2 * SHIP_WINDOW_BYTES {
            return Err(full);
        }
        self.0.queued.fetch_add(size, Ordering::Relaxed);
        self.0.lanes[lane as usize]
            .try_send(Queued { mark, frame })
            .map_err(|error| {
                self.0.queued.fetch_sub(size, Ordering::Relaxed);
                match error {
                    mpsc::error::TrySendError::Full(_) => full,
                    mpsc::error::TrySendError::Closed(_) => self.ended(),
                }
            })
    }

    fn ended(&self) -> TransportError {
        match self.0.quic.close_reason() {
            Some(error) => explain(self.peer(), &error),
            None => TransportError::Closed {
                addr: self.peer(),
                reason: "it has ended".into(),
            },
        }
    }

    /// Hands an answer to whoever waits for it.
    fn answered(&self, id: u64, answer: Result<Frame, TransportError>) {
        let waiting = lock(&self.0.calls).remove(&id);
        if let Some((_, done)) = waiting {
            done(answer);
        }
    }

    /// A peer that does not keep to the protocol: the connection ends.
    fn misbehaved(&self, reason: &str) {
        self.0.refusals.refuse(self.peer(), reason);
        self.close(reason);
    }
}

/// The place for the answer to one call. Dropped unsent, the caller is told so at once.
pub struct Replier {
    connection: Connection,
    id: u64,
    /// The stream of a bulk call, on which its answer travels.
    stream: Option<SendStream>,
    sent: bool,
}

impl Replier {
    /// Answers.
    pub fn send(mut self, frame: Frame) {
        self.sent = true;
        if let Err(error) = self.connection.check(&frame) {
            tracing::error!(target: "magma::n", "a reply is not sent: {error}");
            return self.give_up();
        }
        let connection = self.connection.clone();
        let mark = Mark {
            kind: Kind::Reply,
            id: self.id,
        };
        if let Some(stream) = self.stream.take() {
            connection.0.runtime.clone().spawn(async move {
                stream::write_one(stream, mark, frame).await;
            });
        } else if frame.payload.len() > BULK_THRESHOLD {
            connection.0.runtime.clone().spawn(async move {
                if let Ok(stream) = connection.0.quic.open_uni().await {
                    stream::write_one(stream, mark, frame).await;
                }
            });
        } else if connection.enqueue(Lane::Control, mark, frame).is_err() {
            // The caller's patience, or the end of the connection, tells it.
            tracing::debug!(target: "magma::n", peer = %connection.peer(), "a reply found no room");
        }
    }

    /// Where the call came from.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    fn give_up(&mut self) {
        let mark = Mark {
            kind: Kind::NoReply,
            id: self.id,
        };
        match self.stream.take() {
            Some(stream) => {
                let write = stream::write_one(stream, mark, Frame::default());
                drop(self.connection.0.runtime.spawn(write));
            }
            None => drop(
                self.connection
                    .enqueue(Lane::Control, mark, Frame::default()),
            ),
        }
    }
}

impl Drop for Replier {
    fn drop(&mut self) {
        if !self.sent {
            self.give_up();
        }
    }
}

/// The dialling side: opens the lanes, says hello, waits for the welcome.
pub(super) async fn dialled(
    quic: quinn::Connection,
    hello: Bytes,
    service: SharedService,
    refusals: Arc<Refusals>,
) -> Result<(Connection, Bytes), TransportError> {
    let addr = quic.remote_address();
    let ended = |error: quinn::ConnectionError| explain(addr, &error);
    let (mut send, mut recv) = quic.open_bi().await.map_err(ended)?;
    let said = Frame {
        header: hello.clone(),
        payload: Bytes::new(),
    };
    stream::write(
        &mut send,
        Mark {
            kind: Kind::Hello,
            id: Lane::Control as u64,
        },
        said,
    )
    .await
    .map_err(|_| stream::why(&quic))?;
    let (mark, welcome) = match stream::read_one(&mut recv).await {
        Ok(answer) => answer,
        Err(_) => return Err(stream::why(&quic)),
    };
    if mark.kind != Kind::Welcome {
        let reason = String::from_utf8_lossy(&welcome.header).into_owned();
        quic.close(VarInt::from_u32(0), b"refused");
        return Err(TransportError::Refused { addr, reason });
    }
    let (mut send2, recv2) = quic.open_bi().await.map_err(ended)?;
    let mark = Mark {
        kind: Kind::Lane,
        id: Lane::Replication as u64,
    };
    stream::write(&mut send2, mark, Frame::default())
        .await
        .map_err(|_| stream::why(&quic))?;
    let connection = start(
        quic,
        [(send, recv), (send2, recv2)],
        service.clone(),
        refusals,
    );
    service.connected(&connection, Bytes::new());
    Ok((connection, welcome.header))
}

/// The accepting side: waits for the hello, welcomes or refuses.
pub(super) async fn accepted(
    quic: quinn::Connection,
    service: SharedService,
    refusals: Arc<Refusals>,
) -> Result<(), String> {
    let from = quic.remote_address();
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let (mut send, mut recv) = quic.accept_bi().await.map_err(|error| text(&error))?;
    let (mark, hello) = stream::read_one(&mut recv)
        .await
        .map_err(|error| text(&error))?;
    if mark.kind != Kind::Hello {
        quic.close(VarInt::from_u32(1), b"no hello");
        return Err("its first message is no hello".into());
    }
    match service.hello(from, hello.header.clone()) {
        Ok(welcome) => {
            let frame = Frame {
                header: welcome,
                payload: Bytes::new(),
            };
            stream::write(
                &mut send,
                Mark {
                    kind: Kind::Welcome,
                    id: 0,
                },
                frame,
            )
            .await
            .map_err(|error| text(&error))?;
        }
        Err(reason) => {
            let frame = Frame {
                header: reason.clone().into(),
                payload: Bytes::new(),
            };
            let refuse = Mark {
                kind: Kind::Refused,
                id: 0,
            };
            stream::write(&mut send, refuse, frame)
                .await
                .map_err(|error| text(&error))?;
            // The refusal must arrive before the end of the connection overtakes it.
            let _ = send.finish();
            let _ = tokio::time::timeout(Duration::from_secs(1), quic.closed()).await;
            quic.close(VarInt::from_u32(0), b"refused");
            return Err(format!("hello refused: {reason}"));
        }
    }
    let (send2, mut recv2) = quic.accept_bi().await.map_err(|error| text(&error))?;
    let (mark, _) = stream::read_one(&mut recv2)
        .await
        .map_err(|error| text(&error))?;
    if mark.kind != Kind::Lane || mark.id != Lane::Replication as u64 {
        quic.close(VarInt::from_u32(1), b"no second lane");
        return Err("it opened no second lane".into());
    }
    let connection = start(
        quic,
        [(send, recv), (send2, recv2)],
        service.clone(),
        refusals,
    );
    service.connected(&connection, hello.header);
    Ok(())
}

/// Starts the tasks of a connection.
fn start(
    quic: quinn::Connection,
    streams: [(SendStream, RecvStream); 2],
    service: SharedService,
    refusals: Arc<Refusals>,
) -> Connection {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let (control, control_queue) = mpsc::channel(SEND_QUEUE);
    let (replication, replication_queue) = mpsc::channel(SEND_QUEUE);
    let queued = Arc::new(AtomicUsize::new(0));
    let connection = Connection(Arc::new(Inner {
        id: NEXT.fetch_add(1, Ordering::Relaxed),
        peer: quic.remote_address(),
        quic,
        lanes: [control, replication],
        queued: queued.clone(),
        calls: Mutex::default(),
        next_call: AtomicU64::new(1),
        open: AtomicBool::new(true),
        runtime: Handle::current(),
        refusals,
    }));
    let queues = [control_queue, replication_queue];
    for (lane, ((send, recv), queue)) in [Lane::Control, Lane::Replication]
        .into_iter()
        .zip(streams.into_iter().zip(queues))
    {
        tokio::spawn(stream::write_lane(send, queue, queued.clone()));
        tokio::spawn(stream::read_lane(
            connection.clone(),
            lane,
            recv,
            service.clone(),
        ));
    }
    tokio::spawn(stream::take_bulk_calls(connection.clone(), service.clone()));
    tokio::spawn(stream::take_bulk_replies(connection.clone()));
    tokio::spawn(mind(connection.clone(), service));
    connection
}

/// Ends calls that are overdue, and everything when the connection ends.
async fn mind(connection: Connection, service: SharedService) {
    let quic = connection.0.quic.clone();
    let closed = quic.closed();
    tokio::pin!(closed);
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let reason = loop {
        tokio::select! {
            reason = &mut closed => break reason,
            _ = sweep.tick() => {
                let now = Instant::now();
                let overdue: Vec<u64> = lock(&connection.0.calls)
                    .iter()
                    .filter(|(_, (limit, _))| *limit <= now)
                    .map(|(id, _)| *id)
                    .collect();
                for id in overdue {
                    let addr = connection.peer();
                    connection.answered(id, Err(TransportError::Timeout { addr }));
                }
            }
        }
    };
    connection.0.open.store(false, Ordering::Relaxed);
    connection.0.refusals.forget(connection.peer());
    let error = explain(connection.peer(), &reason);
    let waiting: Vec<u64> = lock(&connection.0.calls).keys().copied().collect();
    for id in waiting {
        connection.answered(id, Err(error.clone()));
    }
    service.closed(&connection, &error.to_string());
}
