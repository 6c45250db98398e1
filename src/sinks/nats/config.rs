//! What an event sink says about its stream of JetStream, checked where it is made.

use super::error::NatsError;
use super::nkey;
use crate::api::v1alpha1::sink::StreamMode;
use crate::secret::Secret;
use crate::sinks::{Destination, TlsConfig, digest_of};
use crate::validate::Subject;

/// Port of an address that names none.
const PORT: u16 = 4222;

/// The most servers of one address.
const MAX_SERVERS: usize = 16;

/// Settings of one NATS sink.
#[derive(Debug, Clone)]
pub struct NatsConfig {
    /// Addresses, `nats://host:port` or `tls://host:port`, separated by commas.
    pub url: String,
    /// The stream.
    pub stream: String,
    /// Subject of all messages, or the template of each.
    pub subject: String,
    /// What is sent.
    pub mode: StreamMode,
    /// Whether a missing stream is created.
    pub create: Creation,
    /// How to log in.
    pub credentials: NatsCredentials,
    /// Certificates of `spec.tls`.
    pub tls: TlsConfig,
}

/// Who makes the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Creation {
    /// The operator makes one that is missing.
    #[default]
    Ensure,
    /// Somebody else did.
    Existing,
}

/// How to log in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NatsCredentials {
    /// Not at all, or by a client certificate.
    #[default]
    None,
    /// A token.
    Token(Secret),
    /// User and password.
    User(String, Secret),
    /// Seed of a key.
    Seed(Secret),
    /// A file of credentials: JWT and seed.
    Creds(Secret),
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// A configuration that can be used.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) servers: Vec<Server>,
    /// TLS is asked for, whatever the server says.
    pub(super) tls: bool,
    pub(super) stream: String,
    pub(super) subject: Subject,
    pub(super) destination: Destination,
    /// What makes two sinks share a connection: addresses, login and certificates.
    pub(super) login_key: [u8; 32],
}

impl NatsConfig {
    pub(super) fn check(&self) -> Result<Checked, NatsError> {
        let (servers, scheme_tls) = servers(&self.url)?;
        let stream = self.stream.replace('.', "_");
        if let Some(what) = wrong_stream(&stream) {
            return Err(NatsError::Setting { field: "spec.nats.stream", what: what.to_owned() });
        }
        let subject = Subject::parse(&self.subject, self.mode)
            .map_err(|what| NatsError::Setting { field: "spec.nats.subject", what })?;
        nkey::login(&self.credentials, b"").map_err(NatsError::Credentials)?;
        let tls = scheme_tls
            || self.tls.ca_pem.is_some()
            || self.tls.client_cert_pem.is_some()
            || self.tls.insecure_skip_verify;
        let hosts: Vec<String> = servers.iter().map(Server::to_string).collect();
        let description = format!("nats://{} {stream} {subject}", hosts.join(","));
        let mut hasher = blake3::Hasher::new();
        for part in hosts.iter().chain([&stream, &subject.to_string()]) {
            hasher.update(part.as_bytes()).update(&[0]);
        }
        let id: String = hasher.finalize().to_hex().chars().take(16).collect();
        Ok(Checked {
            servers,
            tls,
            stream,
            subject,
            destination: Destination { id, description },
            login_key: self.login_key(&hosts.join(",")),
        })
    }

    fn login_key(&self, hosts: &str) -> [u8; 32] {
        let key = self.tls.client_key_pem.as_ref().map(|key| key.expose().as_bytes());
        let (kind, user, secret) = match &self.credentials {
            NatsCredentials::None => ("none", "", None),
            NatsCredentials::Token(token) => ("token", "", Some(token)),
            NatsCredentials::User(user, password) => ("user", user.as_str(), Some(password)),
            NatsCredentials::Seed(seed) => ("seed", "", Some(seed)),
            NatsCredentials::Creds(file) => ("creds", "", Some(file)),
        };
        digest_of(&[
            Some(hosts.as_bytes()),
            Some(kind.as_bytes()),
            Some(user.as_bytes()),
            secret.map(|secret| secret.expose().as_bytes()),
            self.tls.ca_pem.as_deref(),
            self.tls.client_cert_pem.as_deref(),
            key,
            self.tls.insecure_skip_verify.then_some(&[][..]),
        ])
    }
}

/// Reads the addresses; TLS is asked for when one of them does.
fn servers(url: &str) -> Result<(Vec<Server>, bool), NatsError> {
    let wrong = |what: &str| NatsError::Setting { field: "spec.nats.url", what: what.to_owned() };
    let mut tls = false;
    let mut servers = Vec::new();
    for address in url.split(',').map(str::trim).filter(|address| !address.is_empty()) {
        let (scheme, rest) = address.split_once("://").unwrap_or(("nats", address));
        match scheme.to_ascii_lowercase().as_str() {
            "nats" => {}
            "tls" => tls = true,
            _ => return Err(wrong("has an unknown scheme; write nats://host:port or tls://host:port")),
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
        let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Ok(PORT), str::parse).map_err(|_| wrong("has a port that is no number"))?;
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(wrong("names no host; write nats://host:port"));
        }
        servers.push(Server { host: host.to_owned(), port });
    }
    match servers.len() {
        0 => Err(wrong("is blank; write nats://host:port, here or in spec.endpoint")),
        1..=MAX_SERVERS => Ok((servers, tls)),
        _ => Err(wrong("names more than 16 servers; leave some out")),
    }
}

/// Says what is wrong with the name of a stream.
fn wrong_stream(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > 255 {
        return Some("must have 1 to 255 bytes");
    }
    let bad = |c: char| c.is_whitespace() || c.is_control() || ".*>/\\".contains(c);
    name.contains(bad).then_some("has a blank, '.', '*', '>', '/' or '\\'; leave it out")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> NatsConfig {
        NatsConfig {
            url: url.to_owned(),
            stream: "kollect.events".to_owned(),
            subject: "kollect.inventory".to_owned(),
            mode: StreamMode::Changes,
            create: Creation::Ensure,
            credentials: NatsCredentials::None,
            tls: TlsConfig::default(),
        }
    }

    #[test]
    fn a_destination_names_server_stream_and_subject_and_no_credential() {
        let checked = config("nats://bot:hunter2@nats.example.com, [2001:db8::1]:4333").check().unwrap();
        let description = "nats://nats.example.com:4222,[2001:db8::1]:4333 kollect_events kollect.inventory";
        assert_eq!(checked.destination.description, description);
        assert!(!checked.tls && checked.destination.id.len() == 16);
        let mut rotated = config("nats://nats.example.com,[2001:db8::1]:4333");
        rotated.credentials = NatsCredentials::Token(Secret::new("hunter2"));
        let again = rotated.check().unwrap();
        assert_eq!(again.destination, checked.destination);
        assert_ne!(again.login_key, checked.login_key);
        assert!(!format!("{again:?} {rotated:?}").contains("hunter2"));
        assert!(config("tls://nats.example.com").check().unwrap().tls);
    }

    #[test]
    fn what_cannot_be_used_names_its_field_and_the_fix() {
        for (url, part) in [
            ("", "spec.nats.url: is blank; write nats://"),
            ("ws://nats.example.com", "spec.nats.url: has an unknown scheme; write nats://"),
            ("nats://:4222", "spec.nats.url: names no host"),
            ("nats://a:b", "spec.nats.url: has a port that is no number"),
        ] {
            let error = config(url).check().unwrap_err().to_string();
            assert!(error.starts_with(part), "{url}: {error}");
        }
        let stream = NatsConfig { stream: "a b".to_owned(), ..config("nats://a") };
        assert!(stream.check().unwrap_err().to_string().starts_with("spec.nats.stream: has a blank"));
        let seed = NatsConfig { credentials: NatsCredentials::Seed(Secret::new("SU")), ..config("nats://a") };
        assert!(matches!(seed.check(), Err(NatsError::Credentials(_))));
    }
}
