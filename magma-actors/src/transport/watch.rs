//! What is turned away: counted, and logged without letting a flood fill the log.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use magma_core::limits::CONNECTIONS_MAX;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use crate::node::lock;

/// At most one line of the log in this time; the next one tells how many were left out.
const LOG_EVERY: Duration = Duration::from_secs(1);
/// Datagrams of a connection that has just ended may still arrive for this long.
const LINGER: Duration = Duration::from_secs(10);
/// The version of QUIC that is spoken (RFC 9000).
const QUIC_VERSION: [u8; 4] = [0, 0, 0, 1];

/// Counts what an endpoint refuses, and knows with whom it talks.
#[derive(Debug, Default)]
pub struct Refusals {
    count: AtomicU64,
    log: Mutex<(Option<Instant>, u64)>,
    /// Peers with a connection or a handshake under way; those that left, until when.
    known: Mutex<HashMap<SocketAddr, (usize, Option<Instant>)>>,
}

impl Refusals {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Counts one.
    pub fn refuse(&self, from: SocketAddr, reason: &str) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut log = lock(&self.log);
        if log.0.is_some_and(|last| last.elapsed() < LOG_EVERY) {
            log.1 += 1;
            return;
        }
        let silent = std::mem::take(&mut log.1);
        log.0 = Some(Instant::now());
        drop(log);
        tracing::warn!(target: "magma::n", %from, not_logged = silent, "refused: {reason}");
    }

    /// A connection with a peer begins.
    pub fn expect(&self, peer: SocketAddr) {
        let mut known = lock(&self.known);
        if known.len() > 2 * CONNECTIONS_MAX {
            known.retain(|_, (count, gone)| {
                *count > 0 || gone.is_some_and(|gone| gone.elapsed() < LINGER)
            });
        }
        known.entry(peer).or_insert((0, None)).0 += 1;
    }

    /// It has ended.
    pub fn forget(&self, peer: SocketAddr) {
        let mut known = lock(&self.known);
        if let Some((count, gone)) = known.get_mut(&peer) {
            *count = count.saturating_sub(1);
            *gone = Some(Instant::now());
        }
    }

    /// Looks at a datagram before QUIC does, which drops foreign ones without a word.
    fn look(&self, from: SocketAddr, datagram: &[u8]) {
        let plausible = match datagram {
            // A long header names its version.
            [first, a, b, c, d, ..] if first & 0x80 != 0 => {
                first & 0x40 != 0 && [*a, *b, *c, *d] == QUIC_VERSION
            }
            // A short header belongs to a connection.
            [first, ..] if first & 0x40 != 0 => {
                lock(&self.known).get(&from).is_some_and(|(count, gone)| {
                    *count > 0 || gone.is_some_and(|gone| gone.elapsed() < LINGER)
                })
            }
            _ => false,
        };
        if !plausible {
            self.refuse(from, "a datagram that is not of this protocol");
        }
    }
}

/// A UDP socket that has an eye on what arrives.
pub struct WatchedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    refusals: Arc<Refusals>,
}

impl WatchedSocket {
    /// Watches a socket.
    pub fn new(inner: Arc<dyn AsyncUdpSocket>, refusals: Arc<Refusals>) -> WatchedSocket {
        WatchedSocket { inner, refusals }
    }
}

impl fmt::Debug for WatchedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl AsyncUdpSocket for WatchedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [io::IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let polled = self.inner.poll_recv(cx, bufs, meta);
        if let Poll::Ready(Ok(count)) = &polled {
            for (buffer, meta) in bufs.iter().zip(meta.iter()).take(*count) {
                let first = meta.stride.min(meta.len).min(buffer.len());
                self.refusals.look(meta.addr, &buffer[..first]);
            }
        }
        polled
    }
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }
    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }
    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
