//! Endpoints: bind, accept, connect; loopback and LAN settings.
//!
//! | file | what |
//! |---|---|
//! | `settings` | packet sizes, windows, timeouts, by where the peer is |
//! | `socket` | the UDP socket, and the watch for what cannot be QUIC |
//! | `hello` | the first words on a connection |
//! | `failure` | the errors of QUIC in our words |
//! | `refusals` | counting and logging what is turned away |
//!
//! Measured by `tests/speed.rs` on loopback: dev profile, two cores, both sides on the one thread
//! whose processor time is shown, other programs running (so the time passed is an upper bound).
//!
//! | what | time each | processor each, both sides |
//! |---|---|---|
//! | call of 100 bytes, alone | 73 µs | 40 µs |
//! | … 4 at once | 17 µs | 11 µs |
//! | … 32 at once | 4.1 µs | 2.2 µs |
//! | … 128 at once | 1.8 µs | 1.3 µs |
//! | call with 1 MiB, alone | 1.4 ms | 0.9 ms |
//! | push of 1 MiB | 1.8 ms | 0.9 ms |

pub(super) mod failure;
mod hello;
pub(super) mod refusals;
mod settings;
mod socket;

use bytes::Bytes;
use quinn::TokioRuntime;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::auth::setup;
use super::{Connection, NetworkSecret, Protocol, SharedService, TransportError};
use failure::{Code, canonical, fit};
use magma_core::limits::{CONNECTIONS_MAX, HANDSHAKES_MAX, HANDSHAKES_UNPROVEN};
use refusals::Refusals;
use settings::{ByPeer, Settings};
use socket::WatchedSocket;

/// A connection is up within this time or counts as failed.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// An accepted handshake is done within this time.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);
/// How long the goodbyes may take to leave.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// TLS wants a name; the key is what counts.
const SERVER_NAME: &str = "magma";

/// One UDP socket with all its connections. Cheap to clone; the last clone that is dropped
/// closes it.
#[derive(Clone)]
pub struct Endpoint {
    owner: Arc<Owner>,
}

struct Owner {
    shared: Arc<Shared>,
}

/// What the tasks of an endpoint share.
struct Shared {
    quic: quinn::Endpoint,
    dial: ByPeer<quinn::ClientConfig>,
    accept: ByPeer<Arc<quinn::ServerConfig>>,
    runtime: Handle,
    refusals: Arc<Refusals>,
    handshakes: AtomicUsize,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("local", &self.local_addr().ok())
            .finish()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared
            .quic
            .close(Code::Goodbye.into(), b"the endpoint is gone");
    }
}

impl Endpoint {
    /// Binds `addr`, accepts connections, and dials from the same port.
    ///
    /// On a tokio runtime; a current-thread one is several times cheaper.
    pub fn serve(
        addr: SocketAddr,
        protocol: Protocol,
        secret: &NetworkSecret,
        service: SharedService,
    ) -> Result<Endpoint, TransportError> {
        let endpoint = Endpoint::bind(addr, protocol, secret, true)?;
        let shared = endpoint.owner.shared.clone();
        shared.runtime.clone().spawn(accept(shared, service));
        Ok(endpoint)
    }

    /// An endpoint that only dials, on a free port of the address family of `towards`.
    pub fn client(
        towards: SocketAddr,
        protocol: Protocol,
        secret: &NetworkSecret,
    ) -> Result<Endpoint, TransportError> {
        let any: IpAddr = match canonical(towards) {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        Endpoint::bind(SocketAddr::new(any, 0), protocol, secret, false)
    }

    fn bind(
        addr: SocketAddr,
        protocol: Protocol,
        secret: &NetworkSecret,
        serve: bool,
    ) -> Result<Endpoint, TransportError> {
        let runtime = Handle::try_current().map_err(setup)?;
        let Settings {
            endpoint,
            dial,
            accept,
        } = Settings::new(protocol, secret, serve.then_some(addr))?;
        let refusals = Arc::new(Refusals::default());
        let failed = |error: std::io::Error| TransportError::Bind {
            addr,
            reason: error.to_string(),
        };
        let socket = socket::bind(addr).map_err(failed)?;
        let socket = WatchedSocket::new(socket, refusals.clone()).map_err(failed)?;
        let quic = quinn::Endpoint::new_with_abstract_socket(
            endpoint,
            serve.then(|| accept.of(addr).as_ref().clone()),
            Arc::new(socket),
            Arc::new(TokioRuntime),
        )
        .map_err(failed)?;
        let handshakes = AtomicUsize::new(0);
        let shared = Shared {
            quic,
            dial,
            accept,
            runtime,
            refusals,
            handshakes,
        };
        Ok(Endpoint {
            owner: Arc::new(Owner {
                shared: Arc::new(shared),
            }),
        })
    }

    /// Connects, says `hello` and waits for the welcome, which is returned; all within about
    /// three seconds. From any runtime or thread.
    pub async fn connect(
        &self,
        to: SocketAddr,
        hello: Bytes,
        service: SharedService,
    ) -> Result<(Connection, Bytes), TransportError> {
        let shared = self.owner.shared.clone();
        let dialling = async move {
            let connected = tokio::time::timeout(CONNECT_LIMIT, dial(&shared, to, hello, service));
            connected.await.unwrap_or_else(|_| {
                let reason = format!("silence for {} s", CONNECT_LIMIT.as_secs());
                Err(TransportError::NoAnswer { addr: to, reason })
            })
        };
        match self.run(dialling).await {
            Some(result) => result,
            None => {
                let reason = "the endpoint's runtime has ended".to_owned();
                Err(TransportError::Closed { addr: to, reason })
            }
        }
    }

    /// The address that it is bound to.
    pub fn local_addr(&self) -> Result<SocketAddr, TransportError> {
        self.owner.shared.quic.local_addr().map_err(setup)
    }

    /// How much was turned away so far: handshakes, hellos, bad frames and garbage.
    pub fn refusals(&self) -> u64 {
        self.owner.shared.refusals.count()
    }

    /// Closes all connections, takes no new ones, and waits a moment until the peers have been
    /// told. The port is free again once this, and every [`Connection`], is dropped.
    pub async fn close(&self, reason: &str) {
        let quic = self.owner.shared.quic.clone();
        quic.close(Code::Goodbye.into(), fit(reason));
        self.run(async move {
            if tokio::time::timeout(CLOSE_LIMIT, quic.wait_idle())
                .await
                .is_err()
            {
                tracing::debug!(target: "magma::n", "closed before all peers had heard of it");
            }
        })
        .await;
    }

    /// Runs `task` on the endpoint's runtime; dropping the future ends it.
    async fn run<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        struct AbortOnDrop(AbortHandle);
        impl Drop for AbortOnDrop {
            fn drop(&mut self) {
                self.0.abort();
            }
        }
        let running = self.owner.shared.runtime.spawn(task);
        let _abort = AbortOnDrop(running.abort_handle());
        running.await.ok()
    }
}

async fn dial(
    shared: &Shared,
    to: SocketAddr,
    hello: Bytes,
    service: SharedService,
) -> Result<(Connection, Bytes), TransportError> {
    let config = shared.dial.of(to).clone();
    let connecting = shared
        .quic
        .connect_with(config, to, SERVER_NAME)
        .map_err(|error| TransportError::NoAnswer {
            addr: to,
            reason: error.to_string(),
        })?;
    let quic = connecting
        .await
        .map_err(|error| failure::dialled(to, &error))?;
    hello::say(shared, quic, hello, service).await
}

/// Lets newcomers in, as far as there is room.
async fn accept(shared: Arc<Shared>, service: SharedService) {
    while let Some(incoming) = shared.quic.accept().await {
        let peer = canonical(incoming.remote_address());
        let under_way = shared.handshakes.load(Ordering::Relaxed);
        if under_way >= HANDSHAKES_MAX || shared.quic.open_connections() >= CONNECTIONS_MAX {
            shared.refusals.add(peer, "too many connections");
            incoming.refuse();
        } else if under_way >= HANDSHAKES_UNPROVEN && incoming.may_retry() {
            // It may come again with a proof that it is where it says it is.
            let _ = incoming.retry();
        } else {
            let config = shared.accept.of(peer).clone();
            match incoming.accept_with(config) {
                Ok(connecting) => {
                    let newcomer = Newcomer::new(&shared);
                    let service = service.clone();
                    tokio::spawn(async move {
                        admit(&newcomer, peer, connecting, service).await;
                    });
                }
                Err(error) => shared.refusals.add(peer, &failure::reason(&error)),
            }
        }
    }
}

/// Counts a handshake as under way.
struct Newcomer(Arc<Shared>);

impl Newcomer {
    fn new(shared: &Arc<Shared>) -> Newcomer {
        shared.handshakes.fetch_add(1, Ordering::Relaxed);
        Newcomer(shared.clone())
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.0.handshakes.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn admit(
    newcomer: &Newcomer,
    peer: SocketAddr,
    connecting: quinn::Connecting,
    service: SharedService,
) {
    let shared = &newcomer.0;
    match tokio::time::timeout(HANDSHAKE_LIMIT, connecting).await {
        Ok(Ok(quic)) => hello::hear(shared, quic, service).await,
        // The endpoint is being closed.
        Ok(Err(quinn::ConnectionError::LocallyClosed)) => {}
        Ok(Err(error)) => {
            let reason = failure::reason(&error);
            shared
                .refusals
                .add(peer, &format!("handshake failed: {reason}"));
        }
        Err(_) => shared
            .refusals
            .add(peer, "the handshake was not finished in time"),
    }
}
