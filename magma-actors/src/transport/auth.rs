//! The secret key, and the identity that both sides prove from it.
//!
//! secret → argon2id → HKDF → an Ed25519 key that every member of the network holds. Both
//! sides present it as a raw public key (RFC 7250) and accept only that key, so the TLS
//! handshake by itself proves that the other side knows the secret.

mod strength;
mod verify;

use ::ring::hmac::{self, HMAC_SHA256, Key};
use allocator_api2::alloc::System;
use argon2::{Algorithm, Argon2, Block, Params, Version};
use hkdf::Hkdf;
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::sign::CertifiedKey;
use sha2::Sha256;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use zeroize::{Zeroize, Zeroizing};

use super::{Protocol, TransportError};
use magma_core::wire::{ALPN_FLARE, ALPN_NODE};
use verify::OnlyThisKey;

/// The salt is a constant: all members must come to the same key from the secret alone.
const SALT: &[u8] = b"magma-key/1";
const INFO_IDENTITY: &[u8] = b"magma identity ed25519/1";
const INFO_RESET: &[u8] = b"magma stateless reset/1";
/// Memory of argon2id in KiB: 64 MiB, three times what OWASP asks for at least.
const ARGON_MEMORY_KIB: u32 = 64 * 1024;
const ARGON_PASSES: u32 = 2;
const SEED_LEN: usize = 32;
/// What PKCS#8 version 1 writes before the 32 bytes of an Ed25519 seed (RFC 8410).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// Below this many bits a secret can be guessed offline from the public key.
const STRONG_BITS: f64 = 80.0;

/// What proves membership of a lava network. Cheap to clone; shows nothing secret.
#[derive(Clone)]
pub struct NetworkSecret {
    identity: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
    reset: Arc<Key>,
}

/// By what an endpoint recognises packets of connections that it had in an earlier life, and proves that
/// they are gone.
pub(super) struct ResetKeys {
    /// Signs the proof: [`quinn::EndpointConfig::reset_key`].
    pub(super) token: Key,
    /// Marks connection numbers as its own.
    pub(super) connections: u64,
}

impl fmt::Debug for NetworkSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetworkSecret(..)")
    }
}

impl NetworkSecret {
    /// The identity that the secret stands for. Takes about a tenth of a second, on purpose.
    pub fn derive(secret: &str) -> Result<NetworkSecret, TransportError> {
        let mut pkcs8 = Zeroizing::new([0u8; PKCS8_PREFIX.len() + SEED_LEN]);
        pkcs8[..PKCS8_PREFIX.len()].copy_from_slice(&PKCS8_PREFIX);
        let mut reset = Zeroizing::new([0u8; SEED_LEN]);
        let outputs = [
            (INFO_IDENTITY, &mut pkcs8[PKCS8_PREFIX.len()..]),
            (INFO_RESET, reset.as_mut_slice()),
        ];
        derive_seeds(secret, outputs)?;

        let key = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8.as_slice()))
            .map_err(setup)?;
        let public = key
            .public_key()
            .ok_or_else(|| TransportError::Setup("no public half of the key".to_owned()))?;
        let chain = vec![CertificateDer::from(public.as_ref().to_vec())];
        Ok(NetworkSecret {
            identity: Arc::new(CertifiedKey::new(chain, key)),
            provider: Arc::new(provider()),
            reset: Arc::new(Key::new(HMAC_SHA256, reset.as_slice())),
        })
    }

    /// The same for each start of the same endpoint, and for no other endpoint: it could be used
    /// to end the connections of that one (RFC 9000, section 21.11).
    pub(super) fn reset_keys(&self, protocol: Protocol, addr: SocketAddr) -> ResetKeys {
        let sign = |what: &str| {
            let text = format!("{what} {protocol:?} {addr}");
            hmac::sign(&self.reset, text.as_bytes())
        };
        let mut number = [0; 8];
        let connections = sign("connections");
        number.copy_from_slice(&connections.as_ref()[..8]);
        ResetKeys {
            token: Key::new(HMAC_SHA256, sign("token").as_ref()),
            connections: u64::from_le_bytes(number),
        }
    }

    /// Whether the secret is estimated to hold fewer than 80 bits, so that somebody who has
    /// fetched the public key could guess it offline.
    pub fn is_weak(secret: &str) -> bool {
        strength::bits(secret) < STRONG_BITS
    }

    /// TLS of the side that dials.
    pub(super) fn client_config(
        &self,
        protocol: Protocol,
    ) -> Result<rustls::ClientConfig, TransportError> {
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(setup)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self.verifier()))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                self.identity.clone(),
            )));
        config.alpn_protocols = vec![alpn(protocol).to_vec()];
        // A resumed session would skip the proof of the key, and there is nothing to gain.
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// TLS of the side that accepts.
    pub(super) fn server_config(
        &self,
        protocol: Protocol,
    ) -> Result<rustls::ServerConfig, TransportError> {
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(setup)?
            .with_client_cert_verifier(Arc::new(self.verifier()))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(
                self.identity.clone(),
            )));
        config.alpn_protocols = vec![alpn(protocol).to_vec()];
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    fn verifier(&self) -> OnlyThisKey {
        let public = self.identity.cert.first().map(|der| der.to_vec());
        OnlyThisKey::new(
            public.unwrap_or_default(),
            self.provider.signature_verification_algorithms,
        )
    }
}

fn derive_seeds<const N: usize>(
    secret: &str,
    outputs: [(&[u8], &mut [u8]); N],
) -> Result<(), TransportError> {
    let params = Params::new(ARGON_MEMORY_KIB, ARGON_PASSES, 1, Some(SEED_LEN)).map_err(setup)?;
    // Not of the program's own allocator, which would keep it: the C library's gives as much as this
    // back to the kernel at once.
    let mut memory = allocator_api2::vec![in System; Block::default(); params.block_count()];
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut stretched = Zeroizing::new([0u8; SEED_LEN]);
    let result = argon.hash_password_into_with_memory(
        secret.as_bytes(),
        SALT,
        stretched.as_mut_slice(),
        &mut memory,
    );
    memory.iter_mut().for_each(Zeroize::zeroize);
    result.map_err(setup)?;
    let stretched = Hkdf::<Sha256>::new(None, stretched.as_slice());
    for (info, seed) in outputs {
        stretched.expand(info, seed).map_err(setup)?;
    }
    Ok(())
}

/// The cryptography of `ring`, with AES-128-GCM first: the fastest where the processor has AES.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
            ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..ring::default_provider()
    }
}

fn alpn(protocol: Protocol) -> &'static [u8] {
    match protocol {
        Protocol::Flare => ALPN_FLARE,
        Protocol::Node => ALPN_NODE,
    }
}

pub(super) fn setup(error: impl fmt::Display) -> TransportError {
    TransportError::Setup(error.to_string())
}
