//! One request from its slot to its answer: send, wait, find the owner again, repeat.
//!
//! A repeated request keeps its (session, slot, sequence), so that it happens once. Where
//! the caller is told of a timeout, or goes away, while the outcome is still unknown, the
//! slot is not given back: the request is repeated in the background until it is answered.

use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

use magma_actors::transport::{Connection, Frame, TransportError};
use magma_core::error::{OpError, OpResult};
use magma_core::ids::VolcanoId;
use magma_core::key::Key;
use magma_core::limits::{CLIENT_ATTEMPT_MS, CLIENT_SILENT_MS, SETTLE_PAUSE_MS};
use magma_core::op::{Answer, Credentials, Op};
use magma_core::wire::codec::{self, CodecError};
use magma_core::wire::flare_protocol::{Grant, Reply, Request};

use super::Shared;
use super::cache::{Changing, Lesson, Source, Ticket};
use super::retry::{Backoff, Patience};
use super::routing;
use super::session::SlotLease;

/// What to ask of the owner of a key.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) key: Key,
    pub(crate) cred: Credentials,
    pub(crate) op: Op,
    /// Bytes to write.
    pub(crate) payload: Bytes,
}

impl Ask {
    pub(crate) fn new(key: Key, cred: &Credentials, op: Op) -> Ask {
        Ask {
            key,
            cred: cred.clone(),
            op,
            payload: Bytes::new(),
        }
    }
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) answer: Answer,
    /// Bytes read.
    pub(crate) payload: Bytes,
    /// It was asked more than once: the answer may be from before a restart of the owner.
    pub(crate) again: bool,
}

/// Why one attempt has no reply.
#[derive(Debug, thiserror::Error)]
enum Miss {
    #[error("the lava names no owner")]
    NoOwner,
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// What to do after a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is the answer.
    Final,
    /// Ask again; with a fresh lava if whoever answered may not be the owner.
    Again { refresh: bool },
    /// The session is gone.
    SessionEnded,
}

fn verdict(result: &OpResult<Answer>) -> Verdict {
    match result {
        Err(OpError::SessionEnded) => Verdict::SessionEnded,
        Err(error) if error.is_transient() => Verdict::Again {
            refresh: !matches!(error, OpError::Busy | OpError::Conflict),
        },
        Ok(_) | Err(_) => Verdict::Final,
    }
}

/// Whether a repetition of this operation must find the first one's reply. An open counts, although
/// it changes nothing that others see.
fn counts(op: &Op) -> bool {
    op.is_mutation() || matches!(op, Op::Open { .. } | Op::Hold(..))
}

/// A request that occupies a slot.
struct Outstanding {
    lease: SlotLease,
    request: Request,
    payload: Bytes,
    /// The share of the bytes in flight, held as long as the payload is.
    _bytes: Option<OwnedSemaphorePermit>,
    counts: bool,
    /// When it was first sent, for what may be remembered of its answer.
    ticket: Ticket,
    /// What it changes, which is not remembered until the outcome is known.
    changing: Option<Changing>,
    /// It has been sent, and what became of it is not known.
    unknown: bool,
}

/// Keeps an outstanding request's promise when its caller leaves early.
struct InFlight<'a> {
    client: &'a Arc<Shared>,
    outstanding: Option<Outstanding>,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if let Some(left) = self.outstanding.take()
            && left.counts
            && left.unknown
        {
            let client = Arc::downgrade(self.client);
            self.client.runtime.spawn(settle(client, left));
        }
    }
}

/// Repeats a request whose caller has left until it is answered, then frees its slot.
async fn settle(client: Weak<Shared>, mut left: Outstanding) {
    loop {
        tokio::time::sleep(Duration::from_millis(SETTLE_PAUSE_MS)).await;
        let Some(client) = client.upgrade() else {
            return;
        };
        if client.is_closing() || client.session().id() != left.lease.session() {
            return;
        }
        let limit = Duration::from_millis(CLIENT_ATTEMPT_MS);
        match client.attempt(&mut left, limit).await {
            Ok((reply, ..)) => match reply.results.first().map(verdict) {
                Some(Verdict::Again { .. }) => {}
                Some(Verdict::Final | Verdict::SessionEnded) | None => return,
            },
            Err(Miss::Codec(_)) => return,
            Err(miss) => tracing::debug!(%miss, "a request is still not settled"),
        }
        client.refresh_lava().await;
    }
}

impl Shared {
    /// Asks the owner of a key, as often as it takes within the client's patience.
    pub(crate) async fn ask(self: &Arc<Self>, ask: Ask) -> OpResult<Told> {
        self.ask_within(ask, self.patience).await
    }

    /// Asks with a patience of its own.
    pub(crate) async fn ask_within(
        self: &Arc<Self>,
        ask: Ask,
        patience: Duration,
    ) -> OpResult<Told> {
        let patience = Patience::of(patience);
        self.opens_before(&ask.op).await?;
        let counts = counts(&ask.op);
        let changing = self.cache.changing(ask.op.changes().into_iter().flatten());
        let ticket = self.cache.ticket();
        let bytes = self.take_bytes(ask.payload.len(), &patience).await?;
        let lease = self.take_slot(&patience).await?;
        let request = Request {
            session: lease.session(),
            slot: lease.slot(),
            seq: lease.seq(),
            clock: 0,
            epoch: Default::default(),
            key: ask.key,
            hops: 0,
            cred: ask.cred,
            ops: vec![ask.op],
        };
        let mut flight = InFlight {
            client: self,
            outstanding: Some(Outstanding {
                lease,
                request,
                payload: ask.payload,
                _bytes: bytes,
                counts,
                ticket,
                changing,
                unknown: false,
            }),
        };
        self.drive(&mut flight, &patience).await
    }

    async fn drive(
        self: &Arc<Self>,
        flight: &mut InFlight<'_>,
        patience: &Patience,
    ) -> OpResult<Told> {
        let mut backoff = Backoff::new();
        loop {
            let Some(out) = flight.outstanding.as_mut() else {
                return Err(OpError::Io);
            };
            // An earlier attempt without reply may have been executed.
            let doubtful = out.unknown;
            if out.lease.session() != self.session().id() {
                // Another request has found out that the session has ended.
                if doubtful && out.counts {
                    out.unknown = false;
                    return Err(OpError::SessionEnded);
                }
                self.give_new_slot(out, patience).await?;
            }
            let limit = patience.at_most(Duration::from_millis(CLIENT_ATTEMPT_MS));
            let mut refresh = true;
            match self.attempt(out, limit).await {
                Ok((mut reply, payload, source)) => {
                    let Some(result) = reply.results.pop() else {
                        tracing::warn!(op = ?out.request.ops, "a reply without result");
                        return Err(OpError::Io);
                    };
                    match verdict(&result) {
                        Verdict::Final => {
                            out.unknown = false;
                            self.remember(out, &result, source.zip(reply.lease));
                            return result.map(|answer| Told {
                                answer,
                                payload,
                                again: doubtful,
                            });
                        }
                        Verdict::Again { refresh: stale } => {
                            // Through a proxy "try again" may only mean that the owner's
                            // answer was lost.
                            out.unknown = doubtful || reply.topology_changed;
                            refresh = stale;
                        }
                        Verdict::SessionEnded if doubtful && out.counts => {
                            // Nobody remembers any more whether it happened.
                            out.unknown = false;
                            return Err(OpError::SessionEnded);
                        }
                        Verdict::SessionEnded => {
                            out.unknown = false;
                            self.renew_session(out.lease.session(), patience).await?;
                            self.give_new_slot(out, patience).await?;
                            refresh = false;
                        }
                    }
                }
                Err(Miss::Codec(error)) => {
                    tracing::warn!(%error, key = %out.request.key, "a message made no sense");
                    return Err(match error {
                        CodecError::TooLarge(_) => OpError::ArgumentTooBig,
                        CodecError::Encode(_) | CodecError::Decode(_) => OpError::Io,
                    });
                }
                Err(Miss::Transport(TransportError::TooLarge { .. })) => {
                    return Err(OpError::ArgumentTooBig);
                }
                Err(miss) => {
                    tracing::debug!(%miss, key = %out.request.key, "no reply");
                }
            }
            if self.is_closing() || patience.is_over() {
                tracing::warn!(key = %out.request.key, "given up");
                return Err(OpError::Unreachable);
            }
            if refresh {
                let asked = self.refresh_lava();
                let limit = patience.left();
                // When it takes too long, the next look at the patience ends the loop.
                let _ = tokio::time::timeout(limit, asked).await;
            }
            tokio::time::sleep(patience.at_most(backoff.pause())).await;
        }
    }

    /// Makes it a request of the session that there is now.
    async fn give_new_slot(&self, out: &mut Outstanding, patience: &Patience) -> OpResult<()> {
        out.unknown = false;
        out.lease = self.take_slot(patience).await?;
        out.request.session = out.lease.session();
        out.request.slot = out.lease.slot();
        out.request.seq = out.lease.seq();
        Ok(())
    }

    /// Sends once and waits for the reply.
    async fn attempt(
        self: &Arc<Self>,
        out: &mut Outstanding,
        limit: Duration,
    ) -> Result<(Reply, Bytes, Option<Source>), Miss> {
        let (connection, owner) = self.connection_for(out.request.key).await?;
        let source = owner.map(|volcano| Source {
            volcano,
            connection: connection.id(),
        });
        if let Some(source) = source {
            self.cache.connected(source);
        }
        out.request.epoch = self.routing.epoch();
        out.request.clock = self.clock_tick();
        let frame = Frame {
            header: codec::encode(&out.request)?.into(),
            payload: out.payload.clone(),
        };
        out.unknown = true;
        let sent_at = Instant::now();
        let frame = self.reply_to(&connection, frame, limit).await?;
        let reply: Reply = codec::decode(&frame.header)?;
        self.clock_receive(reply.clock);
        // A request sent past the owner on purpose is proxied without anything having
        // changed.
        if reply.epoch > out.request.epoch || (reply.topology_changed && source.is_some()) {
            self.lava_is_at(reply.epoch);
        }
        if let (Some(source), Some(grant)) = (source, &reply.lease) {
            self.cache.heard(source, sent_at, grant);
        }
        Ok((reply, frame.payload, source))
    }

    /// Waits for a reply. Whoever is silent for a while may be dead: then another volcano knows who has
    /// taken its place, and with that lava the connection is given up.
    async fn reply_to(
        self: &Arc<Self>,
        connection: &Connection,
        frame: Frame,
        limit: Duration,
    ) -> Result<Frame, TransportError> {
        let reply = connection.call(frame, limit);
        tokio::pin!(reply);
        loop {
            let silent = Duration::from_millis(CLIENT_SILENT_MS);
            match tokio::time::timeout(silent, &mut reply).await {
                Ok(reply) => return reply,
                Err(_) => self.lava_is_at(self.routing.epoch()),
            }
        }
    }

    /// A connection to the owner of a key, or, when that cannot be reached, to any other
    /// volcano, which passes the request on. Names the owner if the connection is to it.
    async fn connection_for(
        self: &Arc<Self>,
        key: Key,
    ) -> Result<(Connection, Option<VolcanoId>), Miss> {
        let lava = self.routing.lava();
        let owner = routing::owner(&lava, key).ok_or(Miss::NoOwner)?;
        let refused = match self.flare_connection(owner.addr).await {
            Ok(connection) => return Ok((connection, Some(owner.volcano))),
            Err(error) => error,
        };
        let others = routing::others(&lava, Some(owner.volcano));
        let open = |addr: &SocketAddr| self.flare.open(*addr);
        if let Some(connection) = others.iter().find_map(open) {
            return Ok((connection, None));
        }
        for addr in others {
            if let Ok(connection) = self.flare_connection(addr).await {
                return Ok((connection, None));
            }
        }
        Err(Miss::Transport(refused))
    }

    /// Remembers what an answer shows, and what its request did.
    fn remember(
        &self,
        out: &mut Outstanding,
        result: &OpResult<Answer>,
        granted: Option<(Source, Grant)>,
    ) {
        let (source, grant) = granted.unzip();
        let Some(op) = out.request.ops.first() else {
            return;
        };
        let lesson = Lesson {
            source: source.unwrap_or_default(),
            ticket: out.ticket,
            grant,
            op,
            result,
        };
        match out.changing.take() {
            Some(changing) => self.cache.changed(changing, &lesson),
            None => self.cache.learn(&lesson),
        }
    }

    pub(super) async fn take_slot(&self, patience: &Patience) -> OpResult<SlotLease> {
        let session = self.session();
        match tokio::time::timeout(patience.left(), session.acquire()).await {
            Ok(Some(lease)) => Ok(lease),
            Ok(None) | Err(_) => Err(OpError::Unreachable),
        }
    }

    /// Waits until that many more bytes may be in flight.
    async fn take_bytes(
        &self,
        count: usize,
        patience: &Patience,
    ) -> OpResult<Option<OwnedSemaphorePermit>> {
        if count == 0 {
            return Ok(None);
        }
        let count = u32::try_from(count).map_err(|_| OpError::ArgumentTooBig)?;
        let taken = self.bytes.clone().acquire_many_owned(count);
        match tokio::time::timeout(patience.left(), taken).await {
            Ok(Ok(permit)) => Ok(Some(permit)),
            Ok(Err(_)) | Err(_) => Err(OpError::Unreachable),
        }
    }
}

/// A reply that does not fit the question: the other side is at fault.
pub(crate) fn unexpected(answer: &Answer) -> OpError {
    tracing::warn!(?answer, "an answer to another question");
    OpError::Io
}

#[cfg(test)]
mod tests {
    use super::*;
    use magma_core::ids::FlareRef;

    #[test]
    fn verdicts() {
        assert_eq!(verdict(&Ok(Answer::Done)), Verdict::Final);
        assert_eq!(verdict(&Err(OpError::NotFound)), Verdict::Final);
        assert_eq!(verdict(&Err(OpError::KeyTaken)), Verdict::Final);
        assert_eq!(
            verdict(&Err(OpError::Busy)),
            Verdict::Again { refresh: false }
        );
        assert_eq!(
            verdict(&Err(OpError::TryAgain)),
            Verdict::Again { refresh: true }
        );
        assert_eq!(verdict(&Err(OpError::SessionEnded)), Verdict::SessionEnded);
    }

    #[test]
    fn what_must_happen_once() {
        let flare = FlareRef::default();
        assert!(counts(&Op::Hold(flare, 1)));
        assert!(counts(&Op::Write {
            flare,
            offset: 0,
            len: 0,
            append: false,
            sync: false,
        }));
        assert!(!counts(&Op::GetAttr(flare)));
        assert!(!counts(&Op::ReadLink(flare)));
    }
}
