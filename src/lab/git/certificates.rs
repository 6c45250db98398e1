//! A certificate authority and what it signed for a server.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::super::process;

/// What `openssl req` is told of both certificates.
const CONFIG: &str = "[req]\ndistinguished_name = name\n[name]\n\
[authority]\nbasicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign, cRLSign\nsubjectKeyIdentifier = hash\n\
[server]\nbasicConstraints = critical, CA:FALSE\nextendedKeyUsage = serverAuth\nsubjectAltName = ";

/// A new authority and the certificate that it signed, as PEM.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The authority, for those who shall trust the server.
    pub ca: String,
    /// The server's certificate.
    pub server: String,
    /// The server's private key.
    pub server_key: String,
}

impl Certificates {
    /// Makes an authority and lets it sign for these names: `DNS:…` or `IP:…`. `dir` is used for a moment.
    pub fn new(dir: &Path, names: &[&str]) -> Result<Self> {
        let dir = dir.join(format!("certificates-{}", super::super::control_plane::random_text()?));
        std::fs::create_dir(&dir)?;
        let made = Self::make(&dir, names).context("failed to make certificates");
        std::fs::remove_dir_all(&dir)?;
        made
    }

    fn make(dir: &Path, names: &[&str]) -> Result<Self> {
        std::fs::write(dir.join("openssl.cnf"), format!("{CONFIG}{}\n", names.join(",")))?;
        let request = |part: &str, more: &[&str]| {
            let mut command = Command::new("openssl");
            command
                .current_dir(dir)
                .args(["req", "-config", "openssl.cnf", "-x509", "-nodes", "-days", "30"])
                .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
                .args(["-subj", &format!("/CN={part}"), "-extensions", part])
                .args(["-keyout", &format!("{part}.key"), "-out", &format!("{part}.crt")])
                .args(more);
            process::run(&mut command)
        };
        request("authority", &[])?;
        request("server", &["-CA", "authority.crt", "-CAkey", "authority.key"])?;
        let read = |name: &str| std::fs::read_to_string(dir.join(name));
        Ok(Self { ca: read("authority.crt")?, server: read("server.crt")?, server_key: read("server.key")? })
    }

    /// Returns how a server greets clients with this certificate.
    pub(super) fn config(&self) -> Result<Arc<ServerConfig>> {
        let chain = CertificateDer::pem_slice_iter(self.server.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(self.server_key.as_bytes())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Ok(Arc::new(config))
    }
}
