//! The UDP socket: bound with large buffers, watched for what cannot be QUIC.

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use socket2::{Domain, Socket, Type};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::refusals::Refusals;
use super::settings::PACKET_MAX;

const BUFFER: usize = 4 * 1024 * 1024;
/// The bit that every packet of QUIC version 1 has set in its first byte (RFC 9000, 17.2).
const FIXED_BIT: u8 = 0x40;
/// The bit of packets that carry a version.
const LONG_HEADER: u8 = 0x80;
const VERSIONS: [[u8; 4]; 2] = [[0, 0, 0, 0], [0, 0, 0, 1]];

/// Binds a socket, IPv6 ones for IPv4 too.
pub(super) fn bind(addr: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, None)?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Root may go over net.core.rmem_max; others get as much as the kernel grants.
    if setsockopt(&socket, RcvBufForce, &BUFFER).is_err() {
        socket.set_recv_buffer_size(BUFFER)?;
    }
    if setsockopt(&socket, SndBufForce, &BUFFER).is_err() {
        socket.set_send_buffer_size(BUFFER)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// Hands datagrams to QUIC, counting those that it will drop without a word.
#[derive(Debug)]
pub(super) struct WatchedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    refusals: Arc<Refusals>,
}

impl WatchedSocket {
    pub(super) fn new(
        socket: std::net::UdpSocket,
        refusals: Arc<Refusals>,
    ) -> io::Result<WatchedSocket> {
        let inner = TokioRuntime.wrap_udp_socket(socket)?;
        Ok(WatchedSocket { inner, refusals })
    }

    fn watch(&self, buffer: &[u8], meta: &RecvMeta) {
        let datagrams = buffer.get(..meta.len).unwrap_or(buffer);
        if datagrams.is_empty() {
            self.refusals.add(meta.addr, "an empty datagram");
        }
        for datagram in datagrams.chunks(meta.stride.max(1)) {
            if !plausible(datagram) {
                self.refusals.add(meta.addr, "a datagram that is not QUIC");
            }
        }
    }
}

/// Whether a datagram may be one of ours, by its first bytes.
fn plausible(datagram: &[u8]) -> bool {
    match datagram {
        [first, ..] if first & LONG_HEADER == 0 => first & FIXED_BIT != 0,
        // Version negotiation (version 0) leaves the fixed bit free.
        [_, 0, 0, 0, 0, ..] => true,
        [first, a, b, c, d, ..] => first & FIXED_BIT != 0 && VERSIONS.contains(&[*a, *b, *c, *d]),
        _ => false,
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
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let polled = self.inner.poll_recv(cx, buffers, metas);
        if let Poll::Ready(Ok(received)) = &polled {
            for (buffer, meta) in buffers.iter().zip(metas.iter()).take(*received) {
                self.watch(buffer, meta);
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

    /// One receive call returns at most 64 KiB, however many packets they are. quinn sizes its
    /// buffer as this number times the largest packet: without the cap that is 130 MiB.
    fn max_receive_segments(&self) -> usize {
        const ENOUGH: usize = (64 * 1024usize).div_ceil(PACKET_MAX as usize);
        self.inner.max_receive_segments().min(ENOUGH)
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::plausible;

    #[test]
    fn garbage_is_told_from_quic() {
        assert!(plausible(&[0x40]));
        assert!(plausible(&[0xc0, 0, 0, 0, 1, 8]));
        assert!(plausible(&[0x80, 0, 0, 0, 0, 8]));
        assert!(!plausible(b""));
        assert!(!plausible(b"\x00hello"));
        assert!(!plausible(b"\xffhello"));
        assert!(!plausible(&[0xc0, 0, 0]));
        assert!(!plausible(&[0x80, 0, 0, 0, 1, 8]));
    }
}
