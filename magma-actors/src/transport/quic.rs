//! Endpoints: bind, accept, connect; loopback and LAN settings.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use magma_core::limits::{CONNECTIONS_MAX, SHIP_WINDOW_BYTES};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, ConnectionError, EndpointConfig, Incoming, MtuDiscoveryConfig, Runtime,
    ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use socket2::{Domain, Socket, Type};

use super::mux::{self, Connection};
use super::watch::{Refusals, WatchedSocket};
use super::{NetworkSecret, Protocol, SharedService, TransportError};

/// Socket buffers: what arrives while this thread is busy elsewhere.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// Streams that a peer may have open: bulk calls and replies.
const STREAMS: u32 = 1024;
/// A dead peer is noticed after this long.
const IDLE: Duration = Duration::from_secs(5);
/// How often a quiet connection says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// A connect, with handshake and hello.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Handshakes that may be under way before addresses must be proved first.
const PENDING_HANDSHAKES: usize = 64;
/// Largest datagram on loopback. A larger initial size hangs the handshake, so it is
/// discovered; segmentation offload is off because the datagrams are larger than it takes.
const LOOPBACK_MTU: u16 = 65_000;
/// Largest datagram elsewhere: with segmentation offload, sizes over 6500 lose packets.
const LAN_MTU: u16 = 6_400;

/// One UDP port that speaks one protocol, as server and as client.
#[derive(Clone)]
pub struct Endpoint {
    inner: quinn::Endpoint,
    client: ClientConfig,
    refusals: Arc<Refusals>,
}

impl Endpoint {
    /// Binds, accepts, and dials from the same port. Call it on the runtime that is to carry it.
    pub fn serve(
        addr: SocketAddr,
        protocol: Protocol,
        secret: &NetworkSecret,
        service: SharedService,
    ) -> Result<Endpoint, TransportError> {
        let loopback = addr.ip().is_loopback();
        let tls = QuicServerConfig::try_from(secret.server(protocol)?)
            .map_err(|error| TransportError::Setup(error.to_string()))?;
        let mut server = ServerConfig::with_crypto(Arc::new(tls));
        server.transport_config(Arc::new(transport(loopback)));
        let endpoint = Self::bind(addr, loopback, protocol, secret, Some(server))?;
        tokio::spawn(accept(endpoint.clone(), service));
        Ok(endpoint)
    }

    /// A client-only endpoint on a port of the system's choice, for peers like `towards`.
    pub fn client(
        towards: SocketAddr,
        protocol: Protocol,
        secret: &NetworkSecret,
    ) -> Result<Endpoint, TransportError> {
        let any: IpAddr = match towards {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let loopback = towards.ip().is_loopback();
        Self::bind(SocketAddr::new(any, 0), loopback, protocol, secret, None)
    }

    fn bind(
        addr: SocketAddr,
        loopback: bool,
        protocol: Protocol,
        secret: &NetworkSecret,
        server: Option<ServerConfig>,
    ) -> Result<Endpoint, TransportError> {
        let failed = |error: std::io::Error| TransportError::Bind {
            addr,
            reason: error.to_string(),
        };
        let mut config = EndpointConfig::default();
        let mtu = if loopback { LOOPBACK_MTU } else { LAN_MTU };
        config
            .max_udp_payload_size(mtu)
            .map_err(|error| TransportError::Setup(error.to_string()))?;
        // Foreign datagrams are told apart by the fixed bit.
        config.grease_quic_bit(false);
        let refusals = Arc::new(Refusals::default());
        let socket = TokioRuntime
            .wrap_udp_socket(udp(addr).map_err(failed)?)
            .map_err(failed)?;
        let socket = Arc::new(WatchedSocket::new(socket, refusals.clone()));
        let inner = quinn::Endpoint::new_with_abstract_socket(
            config,
            server,
            socket,
            Arc::new(TokioRuntime),
        )
        .map_err(failed)?;
        let tls = QuicClientConfig::try_from(secret.client(protocol)?)
            .map_err(|error| TransportError::Setup(error.to_string()))?;
        let mut client = ClientConfig::new(Arc::new(tls));
        client.transport_config(Arc::new(transport(loopback)));
        Ok(Endpoint {
            inner,
            client,
            refusals,
        })
    }

    /// Connects, and says hello. The peer counts as up only when it has answered: before
    /// that it may still refuse our key.
    pub async fn connect(
        &self,
        to: SocketAddr,
        hello: Bytes,
        service: SharedService,
    ) -> Result<(Connection, Bytes), TransportError> {
        let attempt = async {
            let connecting = self
                .inner
                .connect_with(self.client.clone(), to, "magma")
                .map_err(|error| TransportError::NoAnswer {
                    addr: to,
                    reason: error.to_string(),
                })?;
            self.refusals.expect(to);
            let connected = connecting.await;
            let outcome = match connected {
                Ok(connection) => {
                    mux::dialled(connection, hello, service, self.refusals.clone()).await
                }
                Err(error) => Err(explain(to, &error)),
            };
            if outcome.is_err() {
                self.refusals.forget(to);
            }
            outcome
        };
        match tokio::time::timeout(CONNECT_LIMIT, attempt).await {
            Ok(outcome) => outcome,
            Err(_) => Err(TransportError::NoAnswer {
                addr: to,
                reason: "nobody is there".into(),
            }),
        }
    }

    /// Where it is bound.
    pub fn local_addr(&self) -> Result<SocketAddr, TransportError> {
        self.inner
            .local_addr()
            .map_err(|error| TransportError::Setup(error.to_string()))
    }

    /// Refused handshakes, bad hellos, bad frames and foreign datagrams since the start.
    pub fn refusals(&self) -> u64 {
        self.refusals.count()
    }

    /// Closes all connections and waits a moment for the goodbyes to leave.
    pub async fn close(&self, reason: &str) {
        self.inner.close(VarInt::from_u32(0), reason.as_bytes());
        let _ = tokio::time::timeout(Duration::from_millis(300), self.inner.wait_idle()).await;
    }
}

/// What a failed connection means for a person.
pub(super) fn explain(addr: SocketAddr, error: &ConnectionError) -> TransportError {
    // Codes 0x100 to 0x1ff are TLS alerts (RFC 9001, 4.8): the handshake was refused.
    let is_alert = |code: u64| (0x100..0x200).contains(&code);
    match error {
        ConnectionError::TransportError(error) if is_alert(u64::from(error.code)) => {
            TransportError::WrongKey { addr }
        }
        ConnectionError::ConnectionClosed(close) if is_alert(u64::from(close.error_code)) => {
            TransportError::WrongKey { addr }
        }
        ConnectionError::TimedOut => TransportError::NoAnswer {
            addr,
            reason: "nobody is there".into(),
        },
        ConnectionError::ApplicationClosed(close) => TransportError::Closed {
            addr,
            reason: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        other => TransportError::Closed {
            addr,
            reason: other.to_string(),
        },
    }
}

fn transport(loopback: bool) -> TransportConfig {
    let mut config = TransportConfig::default();
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(if loopback { LOOPBACK_MTU } else { LAN_MTU });
    config.mtu_discovery_config(Some(mtu));
    config.enable_segmentation_offload(!loopback);
    config.max_concurrent_bidi_streams(STREAMS.into());
    config.max_concurrent_uni_streams(STREAMS.into());
    config.stream_receive_window(VarInt::from_u32(16 * 1024 * 1024));
    config.receive_window(VarInt::from_u32(2 * SHIP_WINDOW_BYTES as u32));
    config.send_window(2 * SHIP_WINDOW_BYTES as u64);
    config.keep_alive_interval(Some(KEEP_ALIVE));
    config.max_idle_timeout(IDLE.try_into().ok());
    config.datagram_receive_buffer_size(None);
    config
}

fn udp(addr: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, None)?;
    // Sizes beyond the system's limit are cut to it, which is no failure.
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

async fn accept(endpoint: Endpoint, service: SharedService) {
    let pending = Arc::new(AtomicUsize::new(0));
    while let Some(incoming) = endpoint.inner.accept().await {
        let crowded = pending.load(Ordering::Relaxed) >= PENDING_HANDSHAKES;
        if endpoint.inner.open_connections() > CONNECTIONS_MAX {
            endpoint
                .refusals
                .refuse(incoming.remote_address(), "too many connections");
            incoming.refuse();
            continue;
        }
        if crowded && !incoming.remote_address_validated() {
            // A flood with forged addresses costs it a round trip that it never sees.
            if incoming.retry().is_err() {
                endpoint.refusals.refuse(
                    SocketAddr::from(([0, 0, 0, 0], 0)),
                    "cannot be asked to retry",
                );
            }
            continue;
        }
        pending.fetch_add(1, Ordering::Relaxed);
        let (pending, refusals, service) =
            (pending.clone(), endpoint.refusals.clone(), service.clone());
        tokio::spawn(async move {
            let from = incoming.remote_address();
            refusals.expect(from);
            let greeted = tokio::time::timeout(CONNECT_LIMIT, greet(incoming, service, &refusals));
            match greeted.await {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => {
                    refusals.refuse(from, &reason);
                    refusals.forget(from);
                }
                Err(_) => {
                    refusals.refuse(from, "no hello in time");
                    refusals.forget(from);
                }
            }
            pending.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn greet(
    incoming: Incoming,
    service: SharedService,
    refusals: &Arc<Refusals>,
) -> Result<(), String> {
    let from = incoming.remote_address();
    let connecting = incoming.accept().map_err(|error| error.to_string())?;
    let connection = connecting
        .await
        .map_err(|error| match explain(from, &error) {
            TransportError::WrongKey { .. } => "it has another secret key, or none".to_owned(),
            other => other.to_string(),
        })?;
    mux::accepted(connection, service, refusals.clone()).await
}
