//! What an event sink of type `kafka` says, with every Secret resolved.

use std::fmt;

use rdkafka::ClientConfig;

use super::error::KafkaError;
use crate::model::Cluster;
use crate::secret::Secret;
use crate::sinks::netguard::Guard;
use crate::sinks::{Destination, TlsConfig, digest_of};

/// Memory for messages that are under way; a delivery waits while it is full.
const QUEUE_KIB: u32 = 16 * 1024;

/// How many messages are under way at most: the memory above does not count their headers, which take some 2 KiB each.
const QUEUE_MESSAGES: u32 = 8 * 1024;

/// After this the coordinator aborts what a producer began and never ended.
const TRANSACTION_MILLIS: u32 = 60_000;

/// Settings of one sink.
#[derive(Clone)]
pub struct KafkaConfig {
    /// Brokers to start from, as `host:port`; blank ones do not count.
    pub brokers: Vec<String>,
    /// Topic that is written to.
    pub topic: String,
    /// `spec.cluster`; may be empty.
    pub cluster: Cluster,
    /// What is sent when rows change.
    pub mode: Mode,
    /// How the operator logs in.
    pub login: Option<Login>,
    /// Trust settings; none where the talk is in plain text.
    pub tls: Option<TlsConfig>,
    /// How batches are compressed.
    pub compression: Compression,
    /// Who makes the topic.
    pub provisioning: Provisioning,
}

/// What is sent when rows change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The whole inventory.
    Snapshot,
    /// The rows that changed.
    Changes,
}

/// User and password, and how they are shown.
#[derive(Debug, Clone)]
pub struct Login {
    /// How.
    pub mechanism: Mechanism,
    /// User.
    pub user: String,
    /// Password or token.
    pub password: Secret,
}

/// How user and password are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// As they are; inside TLS only.
    Plain,
    /// By a challenge with SHA-256.
    ScramSha256,
    /// By a challenge with SHA-512.
    ScramSha512,
}

impl Mechanism {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// How batches are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// By gzip.
    Gzip,
    /// By snappy.
    Snappy,
    /// By zstd.
    Zstd,
}

impl Compression {
    const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Zstd => "zstd",
        }
    }
}

/// Who makes the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Provisioning {
    /// The operator, when it is missing.
    Ensure,
    /// Somebody else.
    Existing,
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { brokers, topic, mode, login, .. } = self;
        f.debug_struct("KafkaConfig")
            .field("brokers", brokers)
            .field("topic", topic)
            .field("mode", mode)
            .field("login", login)
            .finish_non_exhaustive()
    }
}

/// Settings that can be used.
#[derive(Debug, Clone)]
pub(super) struct Checked {
    pub(super) brokers: Vec<String>,
    pub(super) topic: String,
    pub(super) destination: Destination,
    /// Over all that decides how the destination is talked to, credentials included.
    pub(super) key: [u8; 32],
    /// The same without what is secret: how this operator is known to the coordinator of transactions.
    pub(super) transactional: String,
    /// For all clients.
    pub(super) client: ClientConfig,
    pub(super) compression: Compression,
}

impl KafkaConfig {
    /// Checks what can be checked without the broker. `process` is the operator's name among its like.
    pub(super) fn check(&self, guard: Guard, process: &str) -> Result<Checked, KafkaError> {
        let mut brokers = Vec::new();
        for (index, broker) in self.brokers.iter().enumerate() {
            let broker = broker.trim();
            if broker.is_empty() {
                continue;
            }
            let host = host_of(broker).ok_or_else(|| KafkaError::Setting {
                field: format!("spec.kafka.brokers[{index}]"),
                what: "is not host:port; write for example kafka-0.example.com:9092",
            })?;
            guard.check_literal(host)?;
            brokers.push(broker.to_owned());
        }
        if brokers.is_empty() {
            let (field, what) = ("spec.kafka.brokers".to_owned(), "names no broker; add one as host:port");
            return Err(KafkaError::Setting { field, what });
        }
        let topic = self.topic.trim().to_owned();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if topic.is_empty() || topic.len() > 249 || !topic.bytes().all(plain) {
            let what = "is no name of a topic: up to 249 letters, digits, dots, hyphens and underscores";
            return Err(KafkaError::Setting { field: "spec.kafka.topic".to_owned(), what });
        }
        let destination = Self::destination(&brokers, &topic);
        let (key, public) = (self.key(&brokers, Keep::All), self.key(&brokers, Keep::Public));
        let short = public.iter().take(8).fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        Ok(Checked {
            destination,
            key,
            transactional: format!("kollect.{process}.{short}"),
            client: self.client()?,
            compression: self.compression,
            brokers,
            topic,
        })
    }

    fn destination(brokers: &[String], topic: &str) -> Destination {
        let mut sorted = brokers.to_vec();
        sorted.sort();
        let digest = digest_of(&[Some(sorted.join(",").as_bytes()), Some(topic.as_bytes())]);
        let id = digest.iter().take(8).fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        Destination { id, description: format!("kafka://{}/{topic}", sorted.join(",")) }
    }

    fn key(&self, brokers: &[String], keep: Keep) -> [u8; 32] {
        let secret = |secret: &Secret| (keep == Keep::All).then(|| secret.expose().as_bytes().to_vec());
        let password = self.login.as_ref().and_then(|login| secret(&login.password));
        let tls = self.tls.as_ref();
        let client_key = tls.and_then(|tls| tls.client_key_pem.as_ref()).and_then(secret);
        digest_of(&[
            Some(brokers.join(",").as_bytes()),
            Some(self.topic.trim().as_bytes()),
            Some(self.cluster.as_str().as_bytes()),
            Some(format!("{:?} {:?} {:?}", self.mode, self.compression, self.provisioning).as_bytes()),
            self.login.as_ref().map(|login| login.mechanism.as_str().as_bytes()),
            self.login.as_ref().map(|login| login.user.as_bytes()),
            password.as_deref(),
            tls.map(|_| &[][..]),
            tls.and_then(|tls| tls.ca_pem.as_deref()),
            tls.and_then(|tls| tls.client_cert_pem.as_deref()),
            tls.filter(|tls| tls.insecure_skip_verify).map(|_| &[][..]),
            client_key.as_deref(),
        ])
    }

    fn client(&self) -> Result<ClientConfig, KafkaError> {
        let mut config = ClientConfig::new();
        config
            .set("client.id", "kollect")
            .set("log_level", "0")
            .set("socket.keepalive.enable", "true")
            .set("socket.connection.setup.timeout.ms", "10000")
            .set("socket.timeout.ms", "20000")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            // A topic appears only where it shall be created.
            .set("allow.auto.create.topics", "false");
        let protocol = match (&self.tls, &self.login) {
            (None, None) => "plaintext",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), None) => "ssl",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        if let Some(login) = &self.login {
            if login.mechanism == Mechanism::Plain && self.tls.is_none() {
                let what = "PLAIN shows the password to whoever listens; set spec.tls as well ({} trusts the system's \
                            authorities), or choose SCRAM-SHA-256 or SCRAM-SHA-512";
                return Err(KafkaError::Setting { field: "spec.kafka.saslMechanism".to_owned(), what });
            }
            config
                .set("sasl.mechanism", login.mechanism.as_str())
                .set("sasl.username", &login.user)
                .set("sasl.password", login.password.expose());
        }
        if let Some(tls) = &self.tls {
            trust(tls, &mut config)?;
        }
        Ok(config)
    }
}

impl Checked {
    /// Returns the settings of the client that reads.
    pub(super) fn reader(&self) -> ClientConfig {
        let mut config = self.client.clone();
        config
            // librdkafka assigns partitions to members of a group alone; nothing is ever committed to it.
            .set("group.id", format!("kollect.{}", self.destination.id))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            // One queue of this size, whatever the number of partitions.
            .set("queued.max.messages.kbytes", QUEUE_KIB.to_string())
            .set("fetch.queue.backoff.ms", "10")
            // The end is told by the answer to a fetch, and there is nothing to wait for behind it.
            .set("fetch.wait.max.ms", "10");
        config
    }

    /// Returns the settings of the client that writes messages of at most so many bytes.
    pub(super) fn writer(&self, limit: u64) -> ClientConfig {
        let mut config = self.client.clone();
        config
            .set("transactional.id", &self.transactional)
            .set("transaction.timeout.ms", TRANSACTION_MILLIS.to_string())
            // No longer than the transaction that it is part of.
            .set("message.timeout.ms", TRANSACTION_MILLIS.to_string())
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // What Java's own producer does with a key.
            .set("partitioner", "murmur2_random")
            .set("compression.type", self.compression.as_str())
            .set("queue.buffering.max.kbytes", QUEUE_KIB.to_string())
            .set("queue.buffering.max.messages", QUEUE_MESSAGES.to_string())
            // What arrived leaves the queue by itself.
            .set("delivery.report.only.error", "true")
            .set("linger.ms", "5")
            .set("message.max.bytes", limit.clamp(1_000, 1_000_000_000).to_string());
        config
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    All,
    Public,
}

fn trust(tls: &TlsConfig, config: &mut ClientConfig) -> Result<(), KafkaError> {
    let pem = |field: &str, bytes: &[u8]| {
        let wrong = |what| KafkaError::Setting { field: field.to_owned(), what };
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("is no text; it must be PEM"))?;
        if text.contains("-----BEGIN ") { Ok(text.to_owned()) } else { Err(wrong("holds no PEM")) }
    };
    if tls.insecure_skip_verify {
        config.set("enable.ssl.certificate.verification", "false").set("ssl.endpoint.identification.algorithm", "none");
    }
    match &tls.ca_pem {
        Some(ca) => config.set("ssl.ca.pem", pem("spec.tls.caBundle or caSecretRef", ca)?),
        // The usual places are looked through: an image without OpenSSL's own programs lacks the one that it was built for.
        None => config.set("ssl.ca.location", "probe"),
    };
    match (&tls.client_cert_pem, &tls.client_key_pem) {
        (None, None) => {}
        (Some(certificate), Some(key)) => {
            config
                .set("ssl.certificate.pem", pem("spec.tls.clientSecretRef: tls.crt", certificate)?)
                .set("ssl.key.pem", pem("spec.tls.clientSecretRef: tls.key", key.expose().as_bytes())?);
        }
        _ => {
            let (field, what) =
                ("spec.tls.clientSecretRef".to_owned(), "lacks one of tls.crt and tls.key; it needs both");
            return Err(KafkaError::Setting { field, what });
        }
    }
    Ok(())
}

/// Returns the host of `host:port`; nothing where it is anything else, such as a list or an address with a scheme.
fn host_of(broker: &str) -> Option<&str> {
    let (host, port) = broker.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let sane = match bare {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        }
    };
    (sane && port != 0).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(brokers: &[&str]) -> KafkaConfig {
        KafkaConfig {
            brokers: brokers.iter().map(|&broker| broker.to_owned()).collect(),
            topic: "kollect.inventory".to_owned(),
            cluster: Cluster::new("west"),
            mode: Mode::Changes,
            login: None,
            tls: None,
            compression: Compression::None,
            provisioning: Provisioning::Existing,
        }
    }

    fn with_login(mechanism: Mechanism, password: &str, config: KafkaConfig) -> KafkaConfig {
        let login = Login { mechanism, user: "kollect".to_owned(), password: Secret::new(password) };
        KafkaConfig { login: Some(login), ..config }
    }

    #[test]
    fn another_password_is_another_client_of_the_same_writer() {
        let with = |password| {
            let config = with_login(Mechanism::ScramSha256, password, config(&["b:2", " a:1 "]));
            config.check(Guard::default(), "us").unwrap()
        };
        let (old, new) = (with("old"), with("new"));
        assert_eq!((&old.transactional, &old.destination), (&new.transactional, &new.destination));
        assert_ne!(old.key, new.key);
        assert_eq!(old.destination.description, "kafka://a:1,b:2/kollect.inventory");
        assert!(old.transactional.starts_with("kollect.us."), "{}", old.transactional);
        assert!(!format!("{old:?}").contains("\"old\""), "a password in {old:?}");
    }

    #[test]
    fn every_mistake_is_named_with_its_place() {
        let good = || config(&["kafka-0.example.com:9092"]);
        let tls = |ca: &str| TlsConfig { ca_pem: Some(ca.as_bytes().to_vec()), ..TlsConfig::default() };
        let half = TlsConfig { client_cert_pem: Some(b"-----BEGIN ".to_vec()), ..TlsConfig::default() };
        for (config, want) in [
            (config(&[""]), "spec.kafka.brokers: names no broker"),
            (config(&["", "kafka"]), "spec.kafka.brokers[1]: is not host:port"),
            (config(&["tcp://kafka:9092"]), "spec.kafka.brokers[0]: is not host:port"),
            (config(&["a:1,b:2"]), "spec.kafka.brokers[0]: is not host:port"),
            (config(&["169.254.169.254:80"]), "spec.kafka.brokers: host"),
            (KafkaConfig { topic: "a b".to_owned(), ..good() }, "spec.kafka.topic: is no name of a topic"),
            (with_login(Mechanism::Plain, "x", good()), "spec.kafka.saslMechanism: PLAIN shows"),
            (KafkaConfig { tls: Some(tls("none")), ..good() }, "spec.tls.caBundle or caSecretRef: holds no PEM"),
            (KafkaConfig { tls: Some(half), ..good() }, "spec.tls.clientSecretRef: lacks one of tls.crt and tls.key"),
        ] {
            let message = config.check(Guard::default(), "us").unwrap_err().to_string();
            assert!(message.starts_with(want), "{message}");
        }
    }
}
