//! What a volcano is told when it starts: plain values, checked once, by whoever starts it.
//!
//! `magmad` fills a [`VolcanoConfig`] from its options; nothing below the programs reads an
//! argument or an environment variable.

pub mod secret;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use magma_core::lava::VolcanoInfo;
use magma_core::limits::HOST_NAME_MAX;

use crate::debug::CHANNELS;
pub use crate::debug::Mask as DebugMask;
pub use magma_core::limits::REDUNDANCY_MAX;
pub use secret::SecretText;

/// A volcano logs a line that contains this when it serves: whoever started it waits for it.
pub const READY_LINE: &str = "ready: this volcano serves";
/// The flare port when none is given; the node port is one above, the console two above.
pub const DEFAULT_PORT: u16 = 12_000;
/// The highest flare port: two more ports lie above it.
pub const PORT_MAX: u16 = u16::MAX - 2;
/// Bandwidth that a volcano declares when it is not told any, in Kbit/s.
pub const DEFAULT_BANDWIDTH_KBIT: u64 = 1_000_000;

/// Seconds after which a dead volcano is evicted when nothing else is said.
pub const DEFAULT_EVICT_AFTER: u64 = 600;

/// Every debug channel (`-A`).
pub fn all_channels() -> DebugMask {
    let letters = CHANNELS.iter().map(|channel| channel.letter);
    letters.fold(DebugMask::NONE, |mask, letter| {
        DebugMask::parse(letter.encode_utf8(&mut [0; 4])).map_or(mask, |one| mask.with(one))
    })
}

/// How a volcano is to start, and with what.
#[derive(Clone, Debug)]
pub struct VolcanoConfig {
    /// Where it keeps its store. An absolute path.
    pub dir: PathBuf,
    /// The secret key of the network.
    pub secret: SecretText,
    /// What to do: begin a network, join one, or come back.
    pub start: Start,
    /// The debug channels that are on.
    pub debug: DebugMask,
    /// How long another volcano may be dead before it is evicted; none for ever.
    pub evict_after: Option<Duration>,
}

/// The ways to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Begin a lava network of one volcano (`-b`).
    Bootstrap {
        /// The volcano as the others will know it.
        me: VolcanoInfo,
        /// Copies beside the owner.
        redundancy: u8,
    },
    /// Join a network after the volcano at a host (`-r`).
    Join {
        /// The volcano as the others will know it.
        me: VolcanoInfo,
        /// The volcano to contact.
        contact: HostPort,
    },
    /// Join the network that has gone on without this volcano (`--rejoin`): what is on the disk is
    /// kept aside.
    Rejoin {
        /// What has changed since.
        changes: InfoChanges,
        /// The volcano to contact; any other that was a member when none is named.
        contact: Option<HostPort>,
    },
    /// Come back with what is on the disk (neither `-b` nor `-r`).
    Restart {
        /// What has changed since.
        changes: InfoChanges,
    },
}

/// A host, by name or address, and its **flare** port (the node port is one above).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Name or address, an IPv6 address without its brackets.
    pub host: String,
    /// Flare port.
    pub port: u16,
}

/// What a volcano says of itself, where it was told; the rest comes from the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InfoChanges {
    /// Nickname.
    pub nick: Option<String>,
    /// Fully qualified name.
    pub fqdn: Option<String>,
    /// Address.
    pub addr: Option<IpAddr>,
    /// Flare port.
    pub port: Option<u16>,
    /// Bandwidth in Kbit/s.
    pub bandwidth_kbit: Option<u64>,
    /// Storage in bytes.
    pub storage_bytes: Option<u64>,
}

impl InfoChanges {
    /// What the volcano says of itself now, given what it said before.
    pub fn over(&self, before: &VolcanoInfo) -> VolcanoInfo {
        VolcanoInfo {
            nick: self.nick.clone().unwrap_or_else(|| before.nick.clone()),
            fqdn: self.fqdn.clone().unwrap_or_else(|| before.fqdn.clone()),
            addr: self.addr.unwrap_or(before.addr),
            port: self.port.unwrap_or(before.port),
            bandwidth_kbit: self.bandwidth_kbit.unwrap_or(before.bandwidth_kbit),
            storage_bytes: self.storage_bytes.unwrap_or(before.storage_bytes),
            arbiter: before.arbiter,
        }
    }
}

/// Why a value was refused. One line for a person.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A nickname or host name that cannot be one.
    #[error("{what} {value:?} is not valid: {reason}")]
    BadName {
        /// Which name.
        what: &'static str,
        /// As given.
        value: String,
        /// Why not.
        reason: &'static str,
    },
    /// A text that is no host with an optional port.
    #[error("{value:?} is not a host or HOST:PORT (an IPv6 address goes in brackets): {reason}")]
    BadHost {
        /// As given.
        value: String,
        /// Why not.
        reason: &'static str,
    },
    /// A host name that does not resolve.
    #[error("cannot resolve {host}: {reason}")]
    Unresolved {
        /// The name.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// No address to choose from.
    #[error("this host has no address other than loopback: give one with -i")]
    NoAddress,
    /// The secret key is missing or cannot be read.
    #[error("{0}")]
    Secret(String),
    /// A letter that is no debug channel.
    #[error(transparent)]
    BadChannel(#[from] crate::debug::BadChannel),
}

impl HostPort {
    /// Reads `HOST`, `HOST:PORT`, `[V6]`, `[V6]:PORT`, or a bare IPv6 address.
    pub fn parse(text: &str, default_port: u16) -> Result<HostPort, ConfigError> {
        let bad = |reason| ConfigError::BadHost {
            value: text.to_owned(),
            reason,
        };
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest
                .split_once(']')
                .ok_or(bad("the bracket is not closed"))?;
            if host.parse::<Ipv6Addr>().is_err() {
                return Err(bad("what is in the brackets is not an IPv6 address"));
            }
            match rest {
                "" => (host, None),
                _ => (
                    host,
                    Some(
                        rest.strip_prefix(':')
                            .ok_or(bad("no colon before the port"))?,
                    ),
                ),
            }
        } else if text.parse::<Ipv6Addr>().is_ok() {
            (text, None)
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        if host.is_empty() || host.len() > HOST_NAME_MAX {
            return Err(bad("the host is empty or too long"));
        }
        if host
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || c == '/')
        {
            return Err(bad("a host has no blanks and no slashes"));
        }
        let port = match port {
            None => default_port,
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| (1..=PORT_MAX).contains(port))
                .ok_or(bad("a port is a number from 1 to 65533"))?,
        };
        Ok(HostPort {
            host: host.to_owned(),
            port,
        })
    }

    /// The flare addresses of the host, in the resolver's order. Asks the name service, so it
    /// may take seconds: never call it on the network thread.
    pub fn resolve(&self) -> Result<Vec<SocketAddr>, ConfigError> {
        let unresolved = |reason: String| ConfigError::Unresolved {
            host: self.host.clone(),
            reason,
        };
        let found: Vec<SocketAddr> = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .map_err(|error| unresolved(error.to_string()))?
            .collect();
        if found.is_empty() {
            return Err(unresolved("it has no address".to_owned()));
        }
        Ok(found)
    }
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Checks a nickname: it names a file in `/.dht` and stands in the console's prompt.
pub fn check_nick(nick: &str) -> Result<(), ConfigError> {
    check_name("the nickname", nick)?;
    if nick.starts_with('.') {
        return Err(ConfigError::BadName {
            what: "the nickname",
            value: nick.to_owned(),
            reason: "it must not begin with a dot",
        });
    }
    Ok(())
}

/// Checks a fully qualified name.
pub fn check_fqdn(fqdn: &str) -> Result<(), ConfigError> {
    check_name("the host name", fqdn)
}

fn check_name(what: &'static str, value: &str) -> Result<(), ConfigError> {
    let reason = if value.is_empty() {
        "it is empty"
    } else if value.len() > HOST_NAME_MAX {
        "it is longer than 253 bytes"
    } else if value
        .chars()
        .any(|c| c.is_whitespace() || c.is_control() || matches!(c, '/' | '[' | ']'))
    {
        "it must not contain blanks, control characters, slashes or brackets"
    } else {
        return Ok(());
    };
    Err(ConfigError::BadName {
        what,
        value: value.to_owned(),
        reason,
    })
}

/// The address that a volcano takes when it is not told one.
///
/// Who joins takes the address from which it reaches the volcano that it contacts: that one
/// must be able to answer. Who begins a network takes the first address of this host that is
/// not loopback, IPv4 before IPv6.
pub fn default_address(contact: Option<&HostPort>) -> Result<IpAddr, ConfigError> {
    if let Some(contact) = contact {
        for peer in contact.resolve()? {
            if let Ok(addr) = source_towards(peer) {
                return Ok(addr);
            }
        }
    }
    let mut six = None;
    let interfaces = nix::ifaddrs::getifaddrs().map_err(|_| ConfigError::NoAddress)?;
    for interface in interfaces {
        let Some(address) = interface.address else {
            continue;
        };
        if let Some(four) = address.as_sockaddr_in() {
            if !four.ip().is_loopback() && !four.ip().is_link_local() {
                return Ok(IpAddr::V4(four.ip()));
            }
        } else if let Some(found) = address.as_sockaddr_in6() {
            let found = found.ip();
            // Link-local addresses need a scope, which a lava network has no place for.
            let usable = !found.is_loopback() && (found.segments()[0] & 0xffc0) != 0xfe80;
            six = six.or(usable.then_some(IpAddr::V6(found)));
        }
    }
    six.ok_or(ConfigError::NoAddress)
}

/// The local address from which datagrams to a peer leave. Nothing is sent.
fn source_towards(peer: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(peer)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        for (text, host, port) in [
            ("192.168.1.20", "192.168.1.20", 12_000),
            ("192.168.1.20:13000", "192.168.1.20", 13_000),
            ("wallace.intranet", "wallace.intranet", 12_000),
            ("[fe80::1]:7", "fe80::1", 7),
            ("[::1]", "::1", 12_000),
            ("::1", "::1", 12_000),
        ] {
            let parsed = HostPort::parse(text, DEFAULT_PORT).unwrap();
            assert_eq!((parsed.host.as_str(), parsed.port), (host, port), "{text}");
        }
        for text in [
            "", ":1", "h:", "h:0", "h:65534", "h:x", "[::1", "[::1]x", "[h]", "a b",
        ] {
            assert!(HostPort::parse(text, DEFAULT_PORT).is_err(), "{text:?}");
        }
        let six = HostPort::parse("[::1]:7", DEFAULT_PORT).unwrap();
        assert_eq!(six.to_string(), "[::1]:7");
        assert_eq!(six.resolve().unwrap(), ["[::1]:7".parse().unwrap()]);
    }

    #[test]
    fn names() {
        assert!(check_nick("wallace").is_ok());
        for nick in [
            "",
            ".",
            "..",
            ".x",
            "a/b",
            "a b",
            "a]",
            "a\n",
            &"x".repeat(254),
        ] {
            assert!(check_nick(nick).is_err(), "{nick:?}");
        }
    }

    #[test]
    fn changes_leave_the_rest() {
        let before = VolcanoInfo {
            nick: "wallace".to_owned(),
            fqdn: "wallace.intranet".to_owned(),
            addr: Ipv4Addr::LOCALHOST.into(),
            port: DEFAULT_PORT,
            bandwidth_kbit: 1,
            storage_bytes: 2,
            arbiter: false,
        };
        assert_eq!(InfoChanges::default().over(&before), before);
        let moved = InfoChanges {
            port: Some(13_000),
            ..InfoChanges::default()
        };
        let after = moved.over(&before);
        assert_eq!((after.port, after.nick), (13_000, before.nick));
    }

    #[test]
    fn joins_from_the_side_of_the_contact() {
        let contact = HostPort::parse("127.0.0.9", DEFAULT_PORT).unwrap();
        assert!(default_address(Some(&contact)).unwrap().is_loopback());
    }
}
