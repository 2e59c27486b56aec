//! ReplicaActor: carries operations, copies and steps between the engines.
//!
//! Everything about one slice (operations, rows, syncs) goes in order over one lane of the
//! connection that this volcano dialled; small messages have a lane of their own and do not
//! wait behind content.

use std::sync::Arc;

use actix::Message;
use bytes::{Bytes, BytesMut};
use magma_core::engine::Event;
use magma_core::ids::VolcanoId;
use magma_core::limits::ENGINE_QUEUE;
use magma_core::wire::codec;
use magma_core::wire::peer::PeerMessage;

use crate::links::Dialler;
use crate::node::Node;
use crate::supervision::{GuardedContext, Handle, Inner};
use crate::transport::{Frame, Lane};

/// A message of our engine to another's.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ToPeer {
    /// To whom.
    pub to: VolcanoId,
    /// The message.
    pub message: Box<PeerMessage>,
    /// Content, in pieces.
    pub payload: Vec<Bytes>,
}

/// A message of another engine to ours.
#[derive(Message)]
#[rtype(result = "()")]
pub struct FromPeer {
    /// Whose.
    pub from: VolcanoId,
    /// The message.
    pub message: Box<PeerMessage>,
    /// Content.
    pub payload: Bytes,
}

/// The lava has changed: other members may be there.
#[derive(Message)]
#[rtype(result = "()")]
pub struct FollowLava;

/// The actor's state.
pub struct Replica {
    node: Arc<Node>,
    dialler: Arc<Dialler>,
}

impl Replica {
    /// The actor's state: connections are kept by the dialler and outlive it.
    pub fn new(node: Arc<Node>, dialler: Arc<Dialler>) -> Replica {
        Replica { node, dialler }
    }
}

impl Inner for Replica {
    const NAME: &'static str = "ReplicaActor";

    fn started(&mut self, ctx: &mut GuardedContext<Self>) {
        ctx.set_mailbox_capacity(ENGINE_QUEUE);
        self.dialler.follow(&self.node.lava());
    }

    fn stopped(&mut self, _: &mut GuardedContext<Self>) {
        self.dialler.stop();
    }
}

impl Handle<ToPeer> for Replica {
    fn handle(&mut self, message: ToPeer, _: &mut GuardedContext<Self>) {
        // Without a connection the message is lost: the engine says again what matters when
        // it hears that the peer is up.
        let Some(connection) = self.node.flare_links.get(message.to) else {
            return;
        };
        tracing::trace!(target: "magma::r", to = %message.to, message = ?message.message, "send");
        let header = match codec::encode(&message.message) {
            Ok(header) => header.into(),
            Err(error) => {
                tracing::error!(target: "magma::r", "a message to a volcano cannot be sent: {error}");
                return;
            }
        };
        let frame = Frame {
            header,
            payload: joined(message.payload),
        };
        if let Err(error) = connection.push(lane(&message.message), frame) {
            // Order is lost with the message: only a new connection restores it.
            tracing::warn!(target: "magma::r", to = %self.node.lava().nick(message.to), "{error}");
            connection.close("its queue is full");
        }
    }
}

impl Handle<FromPeer> for Replica {
    fn handle(&mut self, message: FromPeer, _: &mut GuardedContext<Self>) {
        tracing::trace!(target: "magma::r", from = %message.from, message = ?message.message, "received");
        let event = Event::Peer {
            from: message.from,
            message: message.message,
            payload: message.payload,
        };
        if self.node.engine.post(event).is_err() {
            // As above: a gap is healed by a new connection of the sender. We cannot close
            // the one that it dialled here, but the engine notices the gap and asks.
            tracing::warn!(target: "magma::r", from = %message.from, "the engine is overloaded: a message is lost");
        }
    }
}

impl Handle<FollowLava> for Replica {
    fn handle(&mut self, _: FollowLava, _: &mut GuardedContext<Self>) {
        self.dialler.follow(&self.node.lava());
    }
}

fn lane(message: &PeerMessage) -> Lane {
    if message.is_history() {
        Lane::Replication
    } else {
        Lane::Control
    }
}

/// One piece is passed on without copying it.
fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() <= 1 {
        return pieces.pop().unwrap_or_default();
    }
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| all.extend_from_slice(piece));
    all.freeze()
}
