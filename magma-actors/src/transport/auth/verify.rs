//! The check of the other side's key: the one key of this network, and its signature.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    SignatureScheme,
};
use std::hint::black_box;

/// Accepts exactly one raw public key, on either side.
#[derive(Debug)]
pub(super) struct OnlyThisKey {
    /// SubjectPublicKeyInfo (DER).
    public: Vec<u8>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl OnlyThisKey {
    pub(super) fn new(public: Vec<u8>, algorithms: WebPkiSupportedAlgorithms) -> OnlyThisKey {
        OnlyThisKey { public, algorithms }
    }

    fn check(&self, presented: &[u8], more: &[CertificateDer<'_>]) -> Result<(), Error> {
        if more.is_empty() && same(&self.public, presented) {
            Ok(())
        } else {
            // Becomes the TLS alert `access_denied`, by which both sides know a wrong key.
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn signature(
        &self,
        message: &[u8],
        presented: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(presented.as_ref()),
            signed,
            &self.algorithms,
        )
    }
}

/// Compares without ending early: the time says nothing about where two keys differ.
fn same(ours: &[u8], theirs: &[u8]) -> bool {
    if ours.is_empty() || ours.len() != theirs.len() {
        return false;
    }
    let difference = ours
        .iter()
        .zip(theirs)
        .fold(0u8, |difference, (a, b)| black_box(difference | (a ^ b)));
    difference == 0
}

fn tls12() -> Error {
    Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic)
}

/// What rustls asks of both sides in the same words, in a trait for each.
macro_rules! signed_by_the_key {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _cert: &CertificateDer<'_>,
            _dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(tls12())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.signature(message, cert, dss)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }

        fn requires_raw_public_keys(&self) -> bool {
            true
        }
    };
}

impl ServerCertVerifier for OnlyThisKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    signed_by_the_key!();
}

impl ClientCertVerifier for OnlyThisKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    signed_by_the_key!();
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn only_equal_keys_are_the_same() {
        assert!(same(b"abc", b"abc"));
        assert!(!same(b"abc", b"abd"));
        assert!(!same(b"abc", b"ab"));
        assert!(!same(b"", b""));
    }
}
