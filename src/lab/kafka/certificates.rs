//! A certificate authority, and what it signed for the broker and for one client.

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};

/// An authority and what it signed, as PEM.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The authority.
    pub ca: String,
    /// The broker's certificate, for 127.0.0.1 and `localhost`.
    pub server: String,
    /// The broker's private key.
    pub server_key: String,
    /// The client's certificate.
    pub client: String,
    /// The client's private key.
    pub client_key: String,
}

impl Certificates {
    /// Makes all of them.
    pub fn new(client: &str) -> Result<Self> {
        let named = |name: &str, hosts: &[&str]| -> Result<CertificateParams> {
            let mut parameters = CertificateParams::new(hosts.iter().map(ToString::to_string).collect::<Vec<_>>())?;
            parameters.distinguished_name = DistinguishedName::new();
            parameters.distinguished_name.push(DnType::CommonName, name);
            Ok(parameters)
        };
        let mut authority = named("kollect lab", &[])?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let ca = authority.self_signed(&key)?.pem();
        let issuer = Issuer::new(authority, key);
        let sign = |parameters: CertificateParams| -> Result<(String, String)> {
            let key = KeyPair::generate()?;
            Ok((parameters.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
        };
        let (server, server_key) = sign(named("broker", &["127.0.0.1", "localhost"])?)?;
        let (client, client_key) = sign(named(client, &[])?)?;
        Ok(Self { ca, server, server_key, client, client_key })
    }
}
