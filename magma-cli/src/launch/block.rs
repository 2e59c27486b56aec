//! Loopback addresses that nobody else uses: all of 127.0.0.0/8 is ours, so each network of
//! volcanos gets a /24, and each volcano the usual ports on an address of its own.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::sync::atomic::{AtomicU32, Ordering};

use magma_actors::config::DEFAULT_PORT;

use super::LaunchError;

/// Blocks that tests may use: 127.64.0 to 127.127.255.
const BLOCKS: u32 = 64 * 256;
/// Blocks that are looked at before giving up.
const TRIES: u32 = 512;

/// A /24 of loopback addresses, held until dropped.
///
/// The mark that holds it is an abstract Unix socket: like the addresses it belongs to the
/// network namespace, for all users and whatever their temporary directory is, and it goes with
/// the process.
#[derive(Debug)]
pub struct LoopbackBlock {
    network: [u8; 3],
    _mark: UnixListener,
}

impl LoopbackBlock {
    /// A block that no other process holds, different each time.
    pub fn allocate(volcanos: u8) -> Result<LoopbackBlock, LaunchError> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        // Neighbouring processes begin far from each other (Knuth's multiplicative hash).
        let begin = std::process::id().wrapping_add(count << 16);
        let begin = begin.wrapping_mul(2_654_435_761) >> 8;
        for step in 0..TRIES {
            let number = begin.wrapping_add(step) % BLOCKS;
            let network = [127, 64 + (number >> 8) as u8, (number & 0xff) as u8];
            if let Some(block) = LoopbackBlock::take(network, volcanos)? {
                return Ok(block);
            }
        }
        Err(LaunchError::NoAddress(format!("{TRIES} were in use")))
    }

    /// 127.0.0.1 and up when their ports are free, any other block otherwise.
    pub fn preferring_localhost(volcanos: u8) -> Result<LoopbackBlock, LaunchError> {
        match LoopbackBlock::take([127, 0, 0], volcanos)? {
            Some(block) => Ok(block),
            None => LoopbackBlock::allocate(volcanos),
        }
    }

    /// The address of the volcano with this number, counted from 0.
    pub fn addr(&self, volcano: u8) -> Ipv4Addr {
        let [a, b, c] = self.network;
        Ipv4Addr::new(a, b, c, volcano + 1)
    }

    fn take(network: [u8; 3], volcanos: u8) -> Result<Option<LoopbackBlock>, LaunchError> {
        let [a, b, c] = network;
        let name = format!("magma-loopback-{a}.{b}.{c}");
        let failed = |error| LaunchError::NoAddress(format!("{name}: {error}"));
        let address = UnixAddr::from_abstract_name(&name).map_err(failed)?;
        let mark = match UnixListener::bind_addr(&address) {
            Ok(mark) => mark,
            Err(error) if error.kind() == ErrorKind::AddrInUse => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let block = LoopbackBlock {
            network,
            _mark: mark,
        };
        let free = (0..volcanos).all(|volcano| block.is_free(volcano));
        Ok(free.then_some(block))
    }

    fn is_free(&self, volcano: u8) -> bool {
        let at = |port| SocketAddr::from((self.addr(volcano), port));
        UdpSocket::bind(at(DEFAULT_PORT)).is_ok()
            && UdpSocket::bind(at(DEFAULT_PORT + 1)).is_ok()
            && TcpListener::bind(at(DEFAULT_PORT + 2)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_not_shared() {
        let first = LoopbackBlock::allocate(3).unwrap();
        let second = LoopbackBlock::allocate(3).unwrap();
        assert_ne!(first.addr(0), second.addr(0));
        assert!(first.addr(0).is_loopback());
        assert!(LoopbackBlock::take(first.network, 3).unwrap().is_none());
        let network = first.network;
        drop(first);
        // A child that another test forks just now has the mark until it execs.
        let again = || LoopbackBlock::take(network, 3).unwrap();
        assert!(crate::launch::wait_for(crate::launch::END_LIMIT, again).is_some());
    }
}
