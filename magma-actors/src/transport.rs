//! QUIC over UDP: the transport of both protocols, for volcanos and clients.
//!
//! | file | what |
//! |---|---|
//! | [`auth`] | the secret key, and the identity that both sides prove from it |
//! | [`quic`] | endpoints: bind, accept, connect; loopback and LAN settings |
//! | [`mux`] | connections: calls with answers out of order, ordered lanes, bulk streams |
//!
//! An endpoint lives on the tokio runtime (current-thread) on which it was made; its handles
//! may be used from any thread.

pub mod auth;
pub mod mux;
pub mod quic;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;

pub use auth::NetworkSecret;
pub use mux::{Connection, Replier};
pub use quic::Endpoint;

/// One message: a MessagePack header and raw bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The encoded message, at most [`magma_core::limits::FRAME_HEADER_MAX`] bytes.
    pub header: Bytes,
    /// Content, at most [`magma_core::limits::FRAME_PAYLOAD_MAX`] bytes.
    pub payload: Bytes,
}

/// Which of the two protocols an endpoint speaks (its ALPN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Data: UDP 12000.
    Flare,
    /// Metadata of the network: UDP 12001.
    Node,
}

/// Pushes of one lane arrive in the order in which they were sent; lanes do not wait for
/// each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Small messages: transaction steps, acknowledgements, recalls, heartbeats.
    Control = 0,
    /// Operations on their way to a copy, with their content.
    Replication = 1,
}

/// What an endpoint does with what arrives. Called on the endpoint's runtime: never block.
pub trait Service: Send + Sync {
    /// A peer that has proved the secret says who it is. `Err` is the refusal that it is told,
    /// after which the connection is closed.
    fn hello(&self, from: SocketAddr, hello: Bytes) -> Result<Bytes, String>;
    /// A connection is up: on the accepting side after [`Service::hello`] said yes, on the
    /// dialling side after the welcome arrived.
    fn connected(&self, connection: &Connection, hello: Bytes);
    /// A question. Answer with the replier, now or later, from any thread.
    fn call(&self, connection: &Connection, frame: Frame, replier: Replier);
    /// A message without answer.
    fn push(&self, connection: &Connection, lane: Lane, frame: Frame);
    /// The connection has ended; called once for each [`Service::connected`].
    fn closed(&self, connection: &Connection, reason: &str);
}

/// A shared [`Service`].
pub type SharedService = Arc<dyn Service>;

/// Why the transport could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransportError {
    /// The port is in use or the address is not ours.
    #[error("cannot bind UDP {addr}: {reason}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why.
        reason: String,
    },
    /// Nobody answers there.
    #[error("no answer from {addr}: {reason}")]
    NoAnswer {
        /// The address.
        addr: SocketAddr,
        /// Why.
        reason: String,
    },
    /// The other side has another secret key.
    #[error("{addr} has another secret key")]
    WrongKey {
        /// The address.
        addr: SocketAddr,
    },
    /// The other side refused us after the handshake.
    #[error("{addr} refused: {reason}")]
    Refused {
        /// The address.
        addr: SocketAddr,
        /// What it said.
        reason: String,
    },
    /// The connection has ended.
    #[error("the connection to {addr} ended: {reason}")]
    Closed {
        /// The address.
        addr: SocketAddr,
        /// Why.
        reason: String,
    },
    /// No answer came in time.
    #[error("{addr} did not answer in time")]
    Timeout {
        /// The address.
        addr: SocketAddr,
    },
    /// As much waits to be sent as may.
    #[error("too much waits to be sent to {addr}")]
    Full {
        /// The address.
        addr: SocketAddr,
    },
    /// The message is over a bound.
    #[error("a message of {size} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The bound.
        limit: usize,
    },
    /// Cryptography could not be set up.
    #[error("cannot set up the encryption: {0}")]
    Setup(String),
}
