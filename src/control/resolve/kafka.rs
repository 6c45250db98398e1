//! The settings of a topic of Kafka, and how the operator logs in there.

use super::{Obstacle, SecretReader};
use crate::api::v1alpha1::event_sink::SaslMechanism;
use crate::api::v1alpha1::sink::{Compression as Written, ProvisioningMode, StreamMode};
use crate::sinks::kafka::{Compression, KafkaConfig, Login, Mechanism, Mode, Provisioning};
use crate::validate::ValidatedKafka;

impl SecretReader<'_> {
    /// Resolves a sink of type `kafka`.
    pub(super) fn kafka(&mut self, kafka: &ValidatedKafka) -> Result<KafkaConfig, Obstacle> {
        Ok(KafkaConfig {
            brokers: kafka.brokers.clone(),
            topic: kafka.topic.clone(),
            cluster: kafka.cluster.clone(),
            mode: match kafka.mode {
                StreamMode::Snapshot => Mode::Snapshot,
                StreamMode::Changes => Mode::Changes,
            },
            login: self.kafka_login(kafka)?,
            tls: kafka.tls.as_ref().map(|tls| self.tls(tls)).transpose()?,
            compression: match kafka.compression {
                None | Some(Written::None) => Compression::None,
                Some(Written::Gzip) => Compression::Gzip,
                Some(Written::Snappy) => Compression::Snappy,
                Some(Written::Zstd) => Compression::Zstd,
            },
            provisioning: match kafka.provisioning {
                ProvisioningMode::Ensure => Provisioning::Ensure,
                ProvisioningMode::Existing => Provisioning::Existing,
            },
        })
    }

    fn kafka_login(&mut self, kafka: &ValidatedKafka) -> Result<Option<Login>, Obstacle> {
        let Some((field, secret)) = &kafka.secret_ref else { return Ok(None) };
        let content = self.read(field, secret)?;
        let user = self.value(field, secret, &content, &["username"])?;
        let password = self.value(field, secret, &content, &["token", "password"])?;
        let mechanism = match kafka.mechanism {
            SaslMechanism::Plain => Mechanism::Plain,
            SaslMechanism::ScramSha256 => Mechanism::ScramSha256,
            SaslMechanism::ScramSha512 => Mechanism::ScramSha512,
        };
        Ok(Some(Login { mechanism, user: user.expose().to_owned(), password }))
    }
}
