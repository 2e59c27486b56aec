//! Peers without the key, with another one, and with the right one but bad manners.

use bytes::{BufMut, Bytes, BytesMut};
use magma_core::limits::{FRAME_HEADER_MAX, FRAME_PAYLOAD_MAX, HELLO_MAX};
use magma_core::wire::ALPN_FLARE;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, SignatureScheme};
use std::net::SocketAddr;
use std::sync::Arc;

use super::{
    Endpoint, LIMIT, OTHER, Peer, Protocol, SECRET, TransportError, frame, pair, run, serve, until,
};

/// Dials like one who has written a client of his own.
async fn dial(addr: SocketAddr, tls: rustls::ClientConfig) -> quinn::Connection {
    let endpoint = quinn::Endpoint::client("0.0.0.0:0".parse().unwrap()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    endpoint
        .connect_with(config, addr, "magma")
        .unwrap()
        .await
        .unwrap()
}

/// Trusts any server, as one would to get around the check on one's own side.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

fn trusting(key: Option<Arc<CertifiedKey>>) -> rustls::ClientConfig {
    let builder = rustls::ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting));
    let mut config = match key {
        Some(key) => {
            builder.with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(key)))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN_FLARE.to_vec()];
    config
}

#[test]
fn another_key_is_refused_and_both_sides_know() {
    run(async {
        let server = Peer::new();
        let (endpoint, addr) = serve([127, 77, 2, 1], &server);
        let dialler = Endpoint::client(addr, Protocol::Flare, &OTHER).unwrap();
        let result = dialler.connect(addr, Bytes::new(), Peer::new()).await;
        assert!(
            matches!(result, Err(TransportError::WrongKey { .. })),
            "{result:?}"
        );
        until("the refusal", || endpoint.refusals() == 1).await;
        assert_eq!(server.ups(), 0);
    });
}

#[test]
fn a_client_that_does_not_check_is_refused_by_the_server() {
    run(async {
        let server = Peer::new();
        let (endpoint, addr) = serve([127, 77, 2, 2], &server);
        let mut pkcs8 = vec![
            0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22,
            0x04, 0x20,
        ];
        pkcs8.extend([7; 32]);
        let key = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8)).unwrap();
        let public = CertificateDer::from(key.public_key().unwrap().to_vec());
        let stranger = Arc::new(CertifiedKey::new(vec![public], key));

        // Its own handshake is done before the server has looked at its key.
        let quic = dial(addr, trusting(Some(stranger))).await;
        let error = quic.closed().await;
        let told = super::super::quic::failure::reason(&error);
        assert_eq!(told, "another secret key", "{error:?}");
        until("the refusal", || endpoint.refusals() == 1).await;

        let endpoint2 = quinn::Endpoint::client("0.0.0.0:0".parse().unwrap()).unwrap();
        let tls = QuicClientConfig::try_from(trusting(None)).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(tls));
        if let Ok(quic) = endpoint2.connect_with(config, addr, "magma").unwrap().await {
            quic.closed().await;
        }
        until("the second refusal", || endpoint.refusals() == 2).await;
        assert_eq!(server.ups(), 0);
    });
}

#[test]
fn the_other_protocol_is_refused() {
    run(async {
        let (endpoint, addr) = serve([127, 77, 2, 3], &Peer::new());
        let dialler = Endpoint::client(addr, Protocol::Node, &SECRET).unwrap();
        let result = dialler.connect(addr, Bytes::new(), Peer::new()).await;
        assert!(
            matches!(result, Err(TransportError::Refused { .. })),
            "{result:?}"
        );
        until("the refusal", || endpoint.refusals() == 1).await;
    });
}

#[test]
fn garbage_is_counted_and_hurts_nobody() {
    run(async {
        let pair = pair([127, 77, 2, 4]).await;
        let addr = pair.endpoint.local_addr().unwrap();
        let socket = std::net::UdpSocket::bind("127.77.2.4:0").unwrap();
        let garbage: [&[u8]; 5] = [
            b"",
            b"\x00",
            b"GET / HTTP/1.1\r\n\r\n",
            &[0xff; 1400],
            &[0x80; 60_000],
        ];
        for datagram in garbage {
            socket.send_to(datagram, addr).unwrap();
        }
        // The text looks like QUIC by its first byte (0x47), the rest does not.
        until("the count", || pair.endpoint.refusals() == 4).await;
        pair.connection
            .call(frame("echo", ""), LIMIT)
            .await
            .unwrap();
    });
}

#[test]
fn the_text_of_a_refused_hello_arrives() {
    run(async {
        let server = Peer::new();
        let (endpoint, addr) = serve([127, 77, 2, 5], &server);
        let dialler = Endpoint::client(addr, Protocol::Flare, &SECRET).unwrap();
        let client = Peer::new();
        let result = dialler
            .connect(addr, Bytes::from_static(b"no stranger"), client.clone())
            .await;
        match result {
            Err(TransportError::Refused { reason, .. }) => assert_eq!(reason, "not you, stranger"),
            other => panic!("{other:?}"),
        }
        assert_eq!(endpoint.refusals(), 1);
        assert_eq!(
            (server.ups(), client.ups(), client.downs().len()),
            (0, 0, 0)
        );
        let long = Bytes::from(vec![0; HELLO_MAX + 1]);
        let result = dialler.connect(addr, long, client).await;
        assert!(matches!(result, Err(TransportError::TooLarge { .. })));
    });
}

#[test]
fn a_member_that_says_nothing_is_let_go() {
    run(async {
        let server = Peer::new();
        let (endpoint, addr) = serve([127, 77, 2, 6], &server);
        let quic = dial(addr, SECRET.client_config(Protocol::Flare).unwrap()).await;
        // Longer than the idle time would be, were it not for the limit of the hello.
        let error = tokio::time::timeout(LIMIT, quic.closed()).await.unwrap();
        assert!(
            matches!(error, quinn::ConnectionError::ApplicationClosed(_)),
            "{error:?}"
        );
        assert_eq!((endpoint.refusals(), server.ups()), (1, 0));
    });
}

fn prefix(kind: u8, id: u64, header: usize, payload: usize) -> BytesMut {
    let mut bytes = BytesMut::new();
    bytes.put_u8(kind);
    bytes.put_u64(id);
    bytes.put_u32(header as u32);
    bytes.put_u32(payload as u32);
    bytes
}

const HELLO: u8 = 1;
const LANE: u8 = 3;
const CALL: u8 = 4;
const REPLY: u8 = 5;
const PUSH: u8 = 6;

#[test]
fn bad_frames_end_the_connection_and_nothing_else() {
    let mut bad_on_control: Vec<BytesMut> = vec![
        prefix(0, 0, 0, 0),
        prefix(77, 0, 0, 0),
        prefix(HELLO, 0, 0, 0),
        prefix(LANE, 1, 0, 0),
        prefix(CALL, 0, FRAME_HEADER_MAX + 1, 0),
        prefix(PUSH, 0, 0, FRAME_PAYLOAD_MAX + 1),
        prefix(PUSH, 0, u32::MAX as usize, u32::MAX as usize),
        prefix(REPLY, 0, 0, 0),
    ];
    bad_on_control.push(BytesMut::from(vec![0xff; 1000].as_slice()));
    let bad_on_own: Vec<BytesMut> = vec![
        prefix(LANE, 0, 0, 0),
        prefix(LANE, 2, 0, 0),
        prefix(PUSH, 0, 0, 0),
        prefix(CALL, 0, FRAME_HEADER_MAX + 1, 0),
        {
            let mut whole = prefix(CALL, 0, 0, 0);
            whole.extend_from_slice(b"trailing");
            whole
        },
    ];
    let bad_on_uni: Vec<BytesMut> = vec![prefix(CALL, 0, 0, 0), prefix(REPLY, 0, 0, 100)];
    run(async move {
        let server = Peer::new();
        let (endpoint, addr) = serve([127, 77, 2, 7], &server);
        let mut count = 0;
        let cases = [(0, bad_on_control), (1, bad_on_own), (2, bad_on_uni)];
        for (way, bad) in cases
            .into_iter()
            .flat_map(|(w, all)| all.into_iter().map(move |b| (w, b)))
        {
            let quic = dial(addr, SECRET.client_config(Protocol::Flare).unwrap()).await;
            let (mut control, mut answers) = quic.open_bi().await.unwrap();
            control.write_all(&prefix(HELLO, 0, 0, 0)).await.unwrap();
            let mut welcome = [0; 25];
            answers.read_exact(&mut welcome).await.unwrap();
            match way {
                0 => control.write_all(&bad).await.unwrap(),
                1 => {
                    let (mut send, _recv) = quic.open_bi().await.unwrap();
                    send.write_all(&bad).await.unwrap();
                    send.finish().unwrap();
                }
                _ => {
                    let mut send = quic.open_uni().await.unwrap();
                    send.write_all(&bad).await.unwrap();
                    send.finish().unwrap();
                }
            }
            let error = tokio::time::timeout(LIMIT, quic.closed()).await.unwrap();
            assert!(
                matches!(&error, quinn::ConnectionError::ApplicationClosed(close)
                    if close.error_code == quinn::VarInt::from_u32(2)),
                "{way} {bad:?}: {error:?}"
            );
            count += 1;
            assert_eq!(endpoint.refusals(), count, "{way} {bad:?}");
            until("the end", || server.downs().len() as u64 == count).await;
        }
        let dialler = Endpoint::client(addr, Protocol::Flare, &SECRET).unwrap();
        let (connection, _) = dialler
            .connect(addr, Bytes::new(), Peer::new())
            .await
            .unwrap();
        connection.call(frame("echo", ""), LIMIT).await.unwrap();
    });
}
