//! The messages of both protocols and their codec.
//!
//! | file | what |
//! |---|---|
//! | [`codec`] | MessagePack with bounds; unknown fields are skipped |
//! | [`flare_protocol`] | flare protocol: requests of clients and their replies |
//! | [`peer`] | flare protocol between volcanos: replication, copying, transaction steps |
//! | [`node_protocol`] | node protocol: hello, join, heartbeat, lava, agreement, sessions |

pub mod codec;
pub mod flare_protocol;
pub mod node_protocol;
pub mod peer;

/// Version of both protocols. Neighbours one apart work together.
pub const PROTOCOL_VERSION: u32 = 1;
/// ALPN of the flare protocol.
pub const ALPN_FLARE: &[u8] = b"magma-flare/1";
/// ALPN of the node protocol.
pub const ALPN_NODE: &[u8] = b"magma-node/1";
