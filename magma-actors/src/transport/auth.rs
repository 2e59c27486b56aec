//! The secret key, and the identity that both sides prove from it.
//!
//! The secret is stretched by argon2id (RFC 9106) into an Ed25519 key that all members of the
//! network have in common. Each side of a handshake presents its public half as a raw public
//! key (RFC 7250), signs with it (TLS 1.3 CertificateVerify), and accepts only that same key:
//! who does not know the secret can neither serve nor ask.

use std::fmt;
use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, Version};
use hkdf::Hkdf;
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer,
    UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{Protocol, TransportError};

/// The salt of the key derivation: the same in every lava network, so that only the secret
/// has to be known. It also names the version of the derivation.
const SALT: &[u8] = b"magma-key/1";
/// What the derived key is for (HKDF info).
const PURPOSE: &[u8] = b"magma network identity";
/// Memory of argon2id in KiB, passes, lanes: the second choice of RFC 9106.
const COST: (u32, u32, u32) = (64 * 1024, 3, 1);
/// PKCS #8 (RFC 8410) of an Ed25519 seed, up to the seed.
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// Secrets that are guessed with fewer tries than 2 to this power get a warning.
const WEAK_BITS: f64 = 80.0;

/// The identity of a lava network, derived from its secret key.
#[derive(Clone)]
pub struct NetworkSecret {
    key: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for NetworkSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetworkSecret")
    }
}

impl NetworkSecret {
    /// Stretches a secret: takes about a tenth of a second and 64 MiB, so that guessing does.
    pub fn derive(secret: &str) -> Result<NetworkSecret, TransportError> {
        let failed = |error: &dyn fmt::Display| TransportError::Setup(error.to_string());
        let params = Params::new(COST.0, COST.1, COST.2, Some(32)).map_err(|e| failed(&e))?;
        let mut stretched = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(secret.as_bytes(), SALT, &mut *stretched)
            .map_err(|e| failed(&e))?;
        let mut pkcs8 = Zeroizing::new([0; 48]);
        pkcs8[..16].copy_from_slice(&PKCS8_PREFIX);
        Hkdf::<Sha256>::new(None, &*stretched)
            .expand(PURPOSE, &mut pkcs8[16..])
            .map_err(|e| failed(&e))?;
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites = vec![rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256];
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(&pkcs8[..]));
        let signer = rustls::crypto::ring::sign::any_eddsa_type(match &der {
            PrivateKeyDer::Pkcs8(der) => der,
            _ => return Err(TransportError::Setup("no PKCS #8 key".into())),
        })
        .map_err(|e| failed(&e))?;
        let public = signer
            .public_key()
            .ok_or_else(|| TransportError::Setup("the key has no public half".into()))?;
        let presented = CertificateDer::from(public.as_ref().to_vec());
        Ok(NetworkSecret {
            key: Arc::new(CertifiedKey::new(vec![presented], signer)),
            provider: Arc::new(provider),
        })
    }

    /// Whether a secret looks guessable: fewer than 80 bits by the alphabet it uses.
    pub fn is_weak(secret: &str) -> bool {
        let mut alphabet = 0_u32;
        for (there, size) in [
            (secret.chars().any(|c| c.is_ascii_lowercase()), 26),
            (secret.chars().any(|c| c.is_ascii_uppercase()), 26),
            (secret.chars().any(|c| c.is_ascii_digit()), 10),
            (secret.chars().any(|c| !c.is_ascii_alphanumeric()), 33),
        ] {
            if there {
                alphabet += size;
            }
        }
        let mut distinct: Vec<char> = secret.chars().collect();
        let length = distinct.len();
        distinct.sort_unstable();
        distinct.dedup();
        // A repeated character adds less than a new one.
        let counted = (length.min(2 * distinct.len())) as f64;
        counted * f64::from(alphabet.max(1)).log2() < WEAK_BITS
    }

    /// A new secret of 256 bits, as text.
    pub fn generate() -> String {
        let bits: [u8; 32] = rand::random();
        bits.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn alpn(protocol: Protocol) -> Vec<Vec<u8>> {
        vec![match protocol {
            Protocol::Flare => magma_core::wire::ALPN_FLARE.to_vec(),
            Protocol::Node => magma_core::wire::ALPN_NODE.to_vec(),
        }]
    }

    /// TLS settings of an accepting side.
    pub(super) fn server(
        &self,
        protocol: Protocol,
    ) -> Result<rustls::ServerConfig, TransportError> {
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| TransportError::Setup(error.to_string()))?
            .with_client_cert_verifier(Arc::new(self.verifier()))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(
                self.key.clone(),
            )));
        config.alpn_protocols = Self::alpn(protocol);
        // A resumed session would skip the proof of the key.
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// TLS settings of a dialling side.
    pub(super) fn client(
        &self,
        protocol: Protocol,
    ) -> Result<rustls::ClientConfig, TransportError> {
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| TransportError::Setup(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self.verifier()))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                self.key.clone(),
            )));
        config.alpn_protocols = Self::alpn(protocol);
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    fn verifier(&self) -> SameKey {
        SameKey {
            spki: self
                .key
                .cert
                .first()
                .map(|spki| spki.to_vec())
                .unwrap_or_default(),
            algorithms: self.provider.signature_verification_algorithms,
        }
    }
}

/// Accepts exactly the network's own public key.
#[derive(Debug)]
struct SameKey {
    spki: Vec<u8>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl SameKey {
    fn check(&self, presented: &[u8]) -> Result<(), rustls::Error> {
        // The public key is no secret: a comparison that stops early tells nothing that the
        // handshake does not show anyway. What proves membership is the signature.
        if presented == self.spki {
            return Ok(());
        }
        Err(rustls::Error::InvalidCertificate(
            CertificateError::ApplicationVerificationFailure,
        ))
    }

    fn verify_signature(
        &self,
        message: &[u8],
        presented: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let spki = SubjectPublicKeyInfoDer::from(presented.as_ref());
        verify_tls13_signature_with_raw_key(message, &spki, signed, &self.algorithms)
    }
}

const NO_TLS12: &str = "TLS 1.2 is never spoken";

impl ServerCertVerifier for SameKey {
    fn verify_server_cert(
        &self,
        presented: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(presented)
            .map(|()| ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General(NO_TLS12.into()))
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        presented: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, presented, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for SameKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        presented: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(presented)
            .map(|()| ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General(NO_TLS12.into()))
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        presented: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, presented, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_and_strong() {
        for weak in [
            "m4gm4s3cr3t",
            "",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "password",
        ] {
            assert!(NetworkSecret::is_weak(weak), "{weak}");
        }
        assert!(!NetworkSecret::is_weak(&NetworkSecret::generate()));
        assert_ne!(NetworkSecret::generate(), NetworkSecret::generate());
    }

    #[test]
    fn the_same_secret_is_the_same_key() {
        let spki = |secret: &str| {
            let secret = NetworkSecret::derive(secret).expect("derived");
            secret.key.cert.first().expect("a key").to_vec()
        };
        assert_eq!(spki("one"), spki("one"));
        assert_ne!(spki("one"), spki("two"));
    }
}
