//! TLS of a sink: what `spec.tls` names, read from its Secrets, and the settings that rustls makes of it.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{AlertDescription, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::Class;
use crate::secret::Secret;

/// Certificates of a sink, as PEM.
#[derive(Clone, Default)]
pub struct TlsConfig {
    /// Turns every certificate check off.
    pub insecure_skip_verify: bool,
    /// Authorities to trust instead of those of the system.
    pub ca_pem: Option<Vec<u8>>,
    /// Client certificate chain.
    pub client_cert_pem: Option<Vec<u8>>,
    /// Key of the client certificate.
    pub client_key_pem: Option<Secret>,
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig")
            .field("insecure_skip_verify", &self.insecure_skip_verify)
            .field("ca", &self.ca_pem.is_some())
            .field("client_certificate", &self.client_cert_pem.is_some())
            .finish_non_exhaustive()
    }
}

/// What is wrong with the certificates of a sink.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("the CA of spec.tls cannot be read as PEM")]
    Authority(#[source] pem::Error),
    #[error("the CA of spec.tls holds no certificate")]
    NoAuthority,
    #[error("a certificate in the CA of spec.tls is not usable")]
    UnusableAuthority(#[source] rustls::Error),
    #[error("the system has no certificate authorities; give one in spec.tls.caBundle or spec.tls.caSecretRef")]
    NoSystemAuthorities,
    #[error("the client certificate of spec.tls.clientSecretRef cannot be read as PEM")]
    ClientCertificate(#[source] pem::Error),
    #[error("the client key of spec.tls.clientSecretRef cannot be read as an unencrypted PEM key")]
    ClientKey(#[source] pem::Error),
    #[error("spec.tls.clientSecretRef must hold both tls.crt and tls.key")]
    HalfClient,
    #[error("the client certificate of spec.tls.clientSecretRef cannot be used")]
    Client(#[source] rustls::Error),
    #[error("failed to set up the cryptography")]
    Provider(#[source] rustls::Error),
}

/// How much of the server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verify {
    /// Nothing.
    Nothing,
    /// The chain up to a trusted authority.
    Chain,
    /// The chain and the name of the host.
    Full,
}

/// Which authorities are trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Roots {
    /// Those of `spec.tls`, or of the system where it gives none.
    Given,
    /// Those of the system, whatever `spec.tls` gives.
    System,
}

/// Builds the TLS settings of one sink; `alpn` names the protocols that are offered. Reads the certificates of the system
/// when it needs them, from disk.
pub(super) fn client_config(
    verify: Verify,
    tls: &TlsConfig,
    roots: Roots,
    alpn: &[&[u8]],
) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Provider)?
        .dangerous()
        .with_custom_certificate_verifier(verifier(verify, tls, roots, provider)?);
    let mut config = match (&tls.client_cert_pem, &tls.client_key_pem) {
        (None, None) => builder.with_no_client_auth(),
        (Some(certificate), Some(key)) => {
            let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
                .collect::<Result<_, _>>()
                .map_err(TlsError::ClientCertificate)?;
            let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(TlsError::ClientKey)?;
            builder.with_client_auth_cert(chain, key).map_err(TlsError::Client)?
        }
        _ => return Err(TlsError::HalfClient),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// Builds what [`client_config`] checks certificates with, for those who wrap it.
pub(super) fn verifier(
    verify: Verify,
    tls: &TlsConfig,
    roots: Roots,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    let store = match verify {
        Verify::Nothing => return Ok(Arc::new(Lenient { roots: None, provider })),
        Verify::Chain | Verify::Full => store(tls.ca_pem.as_deref().filter(|_| roots == Roots::Given))?,
    };
    if verify == Verify::Chain {
        return Ok(Arc::new(Lenient { roots: Some(store), provider }));
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider)
        .build()
        .map(|verifier| verifier as Arc<dyn ServerCertVerifier>)
        .map_err(|_| TlsError::NoAuthority)
}

fn store(ca: Option<&[u8]>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    if let Some(ca) = ca {
        for certificate in CertificateDer::pem_slice_iter(ca) {
            roots.add(certificate.map_err(TlsError::Authority)?).map_err(TlsError::UnusableAuthority)?;
        }
        return if roots.is_empty() { Err(TlsError::NoAuthority) } else { Ok(roots) };
    }
    // Files that cannot be read are left out, as other programs do; what counts is that some can.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TlsError::NoSystemAuthorities) } else { Ok(roots) }
}

/// A certificate that is refused stays refused; a cut handshake may succeed next time.
pub(super) fn handshake_class(error: &rustls::Error) -> Class {
    use rustls::Error as Tls;
    match error {
        Tls::InvalidCertificate(_)
        | Tls::NoCertificatesPresented
        | Tls::UnsupportedNameType
        | Tls::PeerIncompatible(_)
        | Tls::InvalidCertRevocationList(_)
        | Tls::InconsistentKeys(_)
        | Tls::NoApplicationProtocol
        | Tls::AlertReceived(
            AlertDescription::HandshakeFailure
            | AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
            | AlertDescription::ProtocolVersion
            | AlertDescription::InsufficientSecurity
            | AlertDescription::UnrecognisedName
            | AlertDescription::NoApplicationProtocol,
        ) => Class::Terminal,
        _ => Class::Transient,
    }
}

/// Checks the chain alone, or nothing; signatures of the handshake are always checked.
#[derive(Debug)]
struct Lenient {
    roots: Option<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_certificates_are_named() {
        let empty = TlsConfig { ca_pem: Some(b"not pem".to_vec()), ..TlsConfig::default() };
        assert!(matches!(client_config(Verify::Full, &empty, Roots::Given, &[]), Err(TlsError::NoAuthority)));
        let half = TlsConfig { client_key_pem: Some(Secret::new("key")), ..TlsConfig::default() };
        assert!(matches!(client_config(Verify::Nothing, &half, Roots::Given, &[]), Err(TlsError::HalfClient)));
    }

    #[test]
    fn class_follows_the_tls_failure() {
        use rustls::CertificateError;
        for (error, class) in [
            (rustls::Error::InvalidCertificate(CertificateError::Expired), Class::Terminal),
            (rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer), Class::Terminal),
            (rustls::Error::AlertReceived(AlertDescription::CertificateRequired), Class::Terminal),
            (rustls::Error::AlertReceived(AlertDescription::InternalError), Class::Transient),
            (rustls::Error::HandshakeNotComplete, Class::Transient),
        ] {
            assert_eq!(handshake_class(&error), class, "{error}");
        }
    }
}
