//! TLS as `sslmode` and `spec.tls` ask for it: which certificates are believed, and how much of them.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::dsn::SslMode;
use crate::sinks::TlsConfig;

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

impl Verify {
    /// As libpq: below `verify-ca` nothing is checked, unless an authority is given.
    pub(super) fn of(mode: SslMode, tls: &TlsConfig) -> Self {
        match mode {
            _ if tls.insecure_skip_verify => Self::Nothing,
            SslMode::VerifyFull => Self::Full,
            SslMode::VerifyCa => Self::Chain,
            SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require if tls.ca_pem.is_some() => {
                Self::Chain
            }
            SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require => Self::Nothing,
        }
    }
}

/// Builds the TLS settings of one sink. Reads the certificates of the system when it needs them, from disk.
pub(super) fn client_config(
    verify: Verify,
    tls: &TlsConfig,
    system_roots: bool,
    direct: bool,
) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Provider)?
        .dangerous()
        .with_custom_certificate_verifier(verifier(verify, tls, system_roots, provider)?);
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
    if direct {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(config)
}

fn verifier(
    verify: Verify,
    tls: &TlsConfig,
    system_roots: bool,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    let roots = match verify {
        Verify::Nothing => return Ok(Arc::new(Lenient { roots: None, provider })),
        Verify::Chain | Verify::Full => roots(tls.ca_pem.as_deref().filter(|_| !system_roots))?,
    };
    if verify == Verify::Chain {
        return Ok(Arc::new(Lenient { roots: Some(roots), provider }));
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map(|verifier| verifier as Arc<dyn ServerCertVerifier>)
        .map_err(|_| TlsError::NoAuthority)
}

fn roots(ca: Option<&[u8]>) -> Result<RootCertStore, TlsError> {
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
    use crate::secret::Secret;

    #[test]
    fn verification_is_that_of_libpq() {
        let plain = TlsConfig::default();
        let with_ca = TlsConfig { ca_pem: Some(Vec::new()), ..TlsConfig::default() };
        let insecure = TlsConfig { insecure_skip_verify: true, ..with_ca.clone() };
        for (mode, without, with) in [
            (SslMode::Allow, Verify::Nothing, Verify::Chain),
            (SslMode::Prefer, Verify::Nothing, Verify::Chain),
            (SslMode::Require, Verify::Nothing, Verify::Chain),
            (SslMode::VerifyCa, Verify::Chain, Verify::Chain),
            (SslMode::VerifyFull, Verify::Full, Verify::Full),
        ] {
            assert_eq!(Verify::of(mode, &plain), without, "{mode:?}");
            assert_eq!(Verify::of(mode, &with_ca), with, "{mode:?}");
            assert_eq!(Verify::of(mode, &insecure), Verify::Nothing, "{mode:?}");
        }
    }

    #[test]
    fn unusable_certificates_are_named() {
        let empty = TlsConfig { ca_pem: Some(b"not pem".to_vec()), ..TlsConfig::default() };
        assert!(matches!(client_config(Verify::Full, &empty, false, false), Err(TlsError::NoAuthority)));
        let half = TlsConfig { client_key_pem: Some(Secret::new("key")), ..TlsConfig::default() };
        assert!(matches!(client_config(Verify::Nothing, &half, false, false), Err(TlsError::HalfClient)));
    }
}
