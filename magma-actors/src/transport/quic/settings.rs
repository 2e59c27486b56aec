//! Settings of QUIC, for peers on this host and for peers on the network.
//!
//! The largest packet is what decides the speed, and it has traps (all measured): raising
//! `initial_mtu` to 16000 hangs the handshake, so large packets are found by probing; GSO with
//! packets over 6500 bytes loses data silently, so it is one or the other. A peer on loopback
//! gets 65000 bytes without GSO, any other 6400 with GSO. The choice is made for each
//! connection by the peer's address, which both sides see alike.

use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, ClientConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig,
    ServerConfig, TransportConfig, VarInt,
};
use quinn_proto::HashedConnectionIdGenerator;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::super::auth::setup;
use super::super::{NetworkSecret, Protocol, TransportError};
use magma_core::limits::{CALLS_PER_CONNECTION, HANDSHAKES_MAX, SHIP_WINDOW_BYTES};

/// Largest packet that an endpoint takes, from whichever peer.
pub(super) const PACKET_MAX: u16 = 65_000;
const LAN_PACKET_MAX: u16 = 6_400;
/// A dead peer is noticed after this long.
const IDLE: Duration = Duration::from_secs(5);
/// A live peer says something at least this often.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// First guess of a round trip: governs how soon a lost first packet is sent again.
const FIRST_RTT: Duration = Duration::from_millis(30);
const STREAM_WINDOW: u32 = 32 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 64 * 1024 * 1024;
/// Bytes sent and not acknowledged. The socket buffer of the receiver holds this much; with more,
/// a burst on loopback loses packets (measured: one in a hundred at 16 MiB, none at 4 MiB).
const LOOPBACK_SEND_WINDOW: u64 = 4 * 1024 * 1024;
/// The same for a network: 10 Gbit/s for 13 ms.
const LAN_SEND_WINDOW: u64 = 16 * 1024 * 1024;
const BIDI_STREAMS: u32 = 1024;
/// First packets of a client that is not let in yet; a hello comes later than those.
const INCOMING_BUFFER: u64 = 64 * 1024;

const _: () = assert!(BIDI_STREAMS as usize <= CALLS_PER_CONNECTION);
// What is under way towards us fits into what `BULK_IN_BYTES` allows for.
const _: () = assert!(CONNECTION_WINDOW as usize <= SHIP_WINDOW_BYTES);

/// The TLS of an endpoint with the settings for both sorts of peers.
pub(super) struct Settings {
    pub(super) endpoint: EndpointConfig,
    pub(super) dial: ByPeer<ClientConfig>,
    pub(super) accept: ByPeer<Arc<ServerConfig>>,
}

/// One value for peers on this host, one for the others.
pub(super) struct ByPeer<T> {
    loopback: T,
    lan: T,
}

impl<T> ByPeer<T> {
    pub(super) fn of(&self, peer: SocketAddr) -> &T {
        if peer.ip().to_canonical().is_loopback() {
            &self.loopback
        } else {
            &self.lan
        }
    }
}

impl Settings {
    /// For an endpoint that serves at an address, or only dials.
    pub(super) fn new(
        protocol: Protocol,
        secret: &NetworkSecret,
        served: Option<SocketAddr>,
    ) -> Result<Settings, TransportError> {
        let loopback = Arc::new(transport(true)?);
        let lan = Arc::new(transport(false)?);

        let tls = secret.client_config(protocol)?;
        let tls = Arc::new(QuicClientConfig::try_from(tls).map_err(setup)?);
        let client = |transport: &Arc<TransportConfig>| {
            let mut config = ClientConfig::new(tls.clone());
            config.transport_config(transport.clone());
            config
        };

        let tls = secret.server_config(protocol)?;
        let tls = Arc::new(QuicServerConfig::try_from(tls).map_err(setup)?);
        let server = |transport: &Arc<TransportConfig>| {
            let mut config = ServerConfig::with_crypto(tls.clone());
            config
                .transport_config(transport.clone())
                // A connection stays with the address that it was made for.
                .migration(false)
                .max_incoming(2 * HANDSHAKES_MAX)
                .incoming_buffer_size(INCOMING_BUFFER)
                .incoming_buffer_size_total(INCOMING_BUFFER * HANDSHAKES_MAX as u64);
            Arc::new(config)
        };

        let mut endpoint = EndpointConfig::default();
        endpoint
            .max_udp_payload_size(PACKET_MAX)
            .map_err(setup)?
            // Then the fixed bit is always set, and what lacks it is garbage.
            .grease_quic_bit(false);
        if let Some(addr) = served {
            // Who was connected to an earlier life of this endpoint hears with its next packet that the
            // connection is gone, instead of waiting for [`IDLE`].
            let keys = secret.reset_keys(protocol, addr);
            endpoint
                .reset_key(Arc::new(keys.token))
                .cid_generator(move || {
                    Box::new(HashedConnectionIdGenerator::from_key(keys.connections))
                });
        }

        Ok(Settings {
            endpoint,
            dial: ByPeer {
                loopback: client(&loopback),
                lan: client(&lan),
            },
            accept: ByPeer {
                loopback: server(&loopback),
                lan: server(&lan),
            },
        })
    }
}

fn transport(loopback: bool) -> Result<TransportConfig, TransportError> {
    let mut mtu = MtuDiscoveryConfig::default();
    let mut cubic = CubicConfig::default();
    let mut acks = AckFrequencyConfig::default();
    let mut config = TransportConfig::default();
    if loopback {
        mtu.upper_bound(PACKET_MAX).minimum_change(2_000);
        cubic.initial_window(1024 * 1024);
        acks.ack_eliciting_threshold(VarInt::from_u32(3));
        config.enable_segmentation_offload(false);
    } else {
        mtu.upper_bound(LAN_PACKET_MAX);
        cubic.initial_window(256 * 1024);
        acks.ack_eliciting_threshold(VarInt::from_u32(9));
        config.enable_segmentation_offload(true);
    }
    config
        .mtu_discovery_config(Some(mtu))
        .congestion_controller_factory(Arc::new(cubic))
        .ack_frequency_config(Some(acks))
        .max_idle_timeout(Some(IdleTimeout::try_from(IDLE).map_err(setup)?))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(FIRST_RTT)
        .max_concurrent_bidi_streams(VarInt::from_u32(BIDI_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(BIDI_STREAMS))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(if loopback {
            LOOPBACK_SEND_WINDOW
        } else {
            LAN_SEND_WINDOW
        })
        .datagram_receive_buffer_size(None)
        .allow_spin(false);
    Ok(config)
}
