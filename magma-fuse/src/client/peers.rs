//! Connections to the volcanos, made when they are first needed and again when they break.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

use magma_actors::transport::{
    Connection, Endpoint, NetworkSecret, Protocol, SharedService, TransportError,
};
use magma_core::limits::{CLIENT_DIAL_MS, CLIENT_REDIAL_MS};

use super::locked;

/// The connections of one protocol.
pub(crate) struct Peers {
    protocol: Protocol,
    secret: NetworkSecret,
    runtime: Handle,
    /// One endpoint for each kind of destination: sockets are of one address family, and
    /// the settings for loopback are not those for a network.
    endpoints: Mutex<BTreeMap<(bool, bool), Endpoint>>,
    peers: Mutex<BTreeMap<SocketAddr, Arc<Peer>>>,
}

/// What is known of one address.
#[derive(Default)]
struct Peer {
    state: Mutex<State>,
    /// Held by whoever dials, so that the others wait for the outcome.
    dialling: tokio::sync::Mutex<()>,
}

#[derive(Default)]
enum State {
    #[default]
    Unknown,
    Up(Connection),
    /// Left alone until then.
    Failed(Instant, TransportError),
}

/// A connection with what the other side said in its welcome, if it is new.
pub(crate) struct Dialled {
    pub(crate) connection: Connection,
    pub(crate) welcome: Option<Bytes>,
}

impl Peers {
    pub(crate) fn new(protocol: Protocol, secret: NetworkSecret, runtime: Handle) -> Peers {
        Peers {
            protocol,
            secret,
            runtime,
            endpoints: Mutex::new(BTreeMap::new()),
            peers: Mutex::new(BTreeMap::new()),
        }
    }

    /// The open connection to an address, if there is one.
    pub(crate) fn open(&self, addr: SocketAddr) -> Option<Connection> {
        let peer = locked(&self.peers).get(&addr).cloned()?;
        peer.open()
    }

    /// A connection to an address: the open one, or a new one. An address that failed a
    /// moment ago fails at once with the same reason.
    pub(crate) async fn get(
        &self,
        addr: SocketAddr,
        hello: Bytes,
        service: SharedService,
    ) -> Result<Dialled, TransportError> {
        let peer = locked(&self.peers).entry(addr).or_default().clone();
        let old = |connection| Dialled {
            connection,
            welcome: None,
        };
        if let Some(connection) = peer.open() {
            return Ok(old(connection));
        }
        let _dialling = peer.dialling.lock().await;
        if let Some(connection) = peer.open() {
            return Ok(old(connection));
        }
        if let State::Failed(until, error) = &*locked(&peer.state)
            && Instant::now() < *until
        {
            return Err(error.clone());
        }
        match self.dial(addr, hello, service).await {
            Ok((connection, welcome)) => {
                *locked(&peer.state) = State::Up(connection.clone());
                Ok(Dialled {
                    connection,
                    welcome: Some(welcome),
                })
            }
            Err(error) => {
                tracing::debug!(%addr, %error, "cannot connect");
                let until = Instant::now() + Duration::from_millis(CLIENT_REDIAL_MS);
                *locked(&peer.state) = State::Failed(until, error.clone());
                Err(error)
            }
        }
    }

    /// Dials from the client's own runtime, on which the endpoint lives.
    async fn dial(
        &self,
        addr: SocketAddr,
        hello: Bytes,
        service: SharedService,
    ) -> Result<(Connection, Bytes), TransportError> {
        let endpoint = self.endpoint(addr).await?;
        let dialled = self.runtime.spawn(async move {
            let limit = Duration::from_millis(CLIENT_DIAL_MS);
            tokio::time::timeout(limit, endpoint.connect(addr, hello, service))
                .await
                .unwrap_or(Err(TransportError::Timeout { addr }))
        });
        dialled.await.unwrap_or_else(|_| Err(ended(addr)))
    }

    async fn endpoint(&self, addr: SocketAddr) -> Result<Endpoint, TransportError> {
        let kind = (addr.is_ipv6(), addr.ip().is_loopback());
        if let Some(endpoint) = locked(&self.endpoints).get(&kind) {
            return Ok(endpoint.clone());
        }
        let (protocol, secret) = (self.protocol, self.secret.clone());
        let made = self
            .runtime
            .spawn(async move { Endpoint::client(addr, protocol, &secret) });
        let endpoint = made.await.unwrap_or_else(|_| Err(ended(addr)))?;
        // Two who dial at the same time may have made one each; the first is kept.
        Ok(locked(&self.endpoints)
            .entry(kind)
            .or_insert(endpoint)
            .clone())
    }

    /// Who answered at an address is not to be talked to: the connection is closed, and the
    /// address is left alone for a while.
    pub(crate) fn refuse(&self, connection: &Connection, error: &TransportError) {
        if let Some(peer) = locked(&self.peers).get(&connection.peer()) {
            let until = Instant::now() + Duration::from_millis(CLIENT_REDIAL_MS);
            *locked(&peer.state) = State::Failed(until, error.clone());
        }
        connection.close(&error.to_string());
    }

    /// Whether this was the connection that requests to its address went by.
    pub(crate) fn was_used(&self, connection: &Connection) -> bool {
        let peer = locked(&self.peers).get(&connection.peer()).cloned();
        peer.is_some_and(
            |peer| matches!(&*locked(&peer.state), State::Up(used) if used.id() == connection.id()),
        )
    }

    /// Forgets the addresses that are no volcano's any more.
    pub(crate) fn keep(&self, wanted: impl Fn(SocketAddr) -> bool) {
        let mut gone = Vec::new();
        locked(&self.peers).retain(|addr, peer| {
            let keep = wanted(*addr);
            if !keep {
                gone.extend(peer.open());
            }
            keep
        });
        for connection in gone {
            connection.close("not a member any more");
        }
    }

    /// Closes the connection to an address, if there is one.
    pub(crate) fn hang_up_on(&self, addr: SocketAddr, reason: &str) {
        if let Some(connection) = self.open(addr) {
            connection.close(reason);
        }
    }

    /// Closes every connection; the next use dials again.
    pub(crate) fn hang_up(&self, reason: &str) {
        for (_, peer) in std::mem::take(&mut *locked(&self.peers)) {
            if let Some(connection) = peer.open() {
                connection.close(reason);
            }
        }
    }

    /// Closes the endpoints.
    pub(crate) async fn close(&self, reason: &str) {
        self.hang_up(reason);
        let endpoints = std::mem::take(&mut *locked(&self.endpoints));
        for endpoint in endpoints.into_values() {
            endpoint.close(reason).await;
        }
    }
}

impl Peer {
    fn open(&self) -> Option<Connection> {
        match &*locked(&self.state) {
            State::Up(connection) if connection.is_open() => Some(connection.clone()),
            _ => None,
        }
    }
}

/// The client's runtime has ended under the caller.
fn ended(addr: SocketAddr) -> TransportError {
    TransportError::Closed {
        addr,
        reason: "the client has ended".to_owned(),
    }
}
