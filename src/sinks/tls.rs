//! Certificates of a sink: what `spec.tls` names, read from its Secrets.

use std::fmt;

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
