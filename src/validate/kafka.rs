//! `KollectEventSink` of type `kafka`.

use super::sink::{Probe, common};
use super::{Duration, FieldErrors, FieldPath, Findings};
use crate::api::v1alpha1::event_sink::SaslMechanism;
use crate::api::v1alpha1::sink::{Compression, ProvisioningMode, StreamMode, Tls};
use crate::api::v1alpha1::{KollectEventSinkSpec, SecretRef};
use crate::model::Cluster;

/// The longest name that a topic may have.
const TOPIC_BYTES: usize = 249;

/// A Kafka sink whose settings are understood; its credentials are in a Secret and not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatedKafka {
    /// Brokers as written; blank ones do not count.
    pub brokers: Vec<String>,
    /// The topic.
    pub topic: String,
    /// What is sent.
    pub mode: StreamMode,
    /// How the operator logs in, where the Secret has a login.
    pub mechanism: SaslMechanism,
    /// How batches are compressed; not at all when absent.
    pub compression: Option<Compression>,
    /// Who makes the topic.
    pub provisioning: ProvisioningMode,
    /// The Secret to log in with, and the field that names it.
    pub secret_ref: Option<(&'static str, SecretRef)>,
    /// Trust settings, as written; plain text when absent.
    pub tls: Option<Tls>,
    /// What keeps the operators of a fleet apart; may be empty.
    pub cluster: Cluster,
    /// The least time between two writes, if the sink says it.
    pub min_interval: Option<std::time::Duration>,
    /// Whether a change of the sink probes it.
    pub probe: Probe,
    /// Remarks that do not stop the sink.
    pub warnings: Vec<String>,
}

/// Checks a sink of type `kafka`. For other types the block is missing, and that is what is wrong.
///
/// # Errors
/// Terminal, with everything that is wrong.
pub fn kafka(spec: &KollectEventSinkSpec) -> Result<ValidatedKafka, FieldErrors> {
    let mut findings = Findings::default();
    let root = FieldPath::spec();
    common(&mut findings, &spec.common);
    let block = root.field("kafka");
    if spec.kafka.is_none() {
        findings.add(block.clone(), "is missing; type kafka needs brokers and topic here");
    }
    let kafka = spec.kafka.clone().unwrap_or_default();
    if kafka.brokers.iter().all(|broker| broker.trim().is_empty()) {
        findings.add_for_use(block.field("brokers"), "names no broker; add one as host:port");
    }
    let topic = kafka.topic.trim().to_owned();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if topic.is_empty() || topic.len() > TOPIC_BYTES || !topic.bytes().all(plain) {
        let what = "is no name of a topic: write up to 249 letters, digits, dots, hyphens and underscores";
        findings.add_for_use(block.field("topic"), what);
    }
    let mut warnings = Vec::new();
    for key in spec.common.options.keys() {
        warnings.push(format!("{}: unknown, ignored; Kafka sinks know none", root.field("options").field(key)));
    }
    if spec.common.endpoint.is_some() {
        warnings.push(format!("{}: ignored; brokers are in spec.kafka.brokers", root.field("endpoint")));
    }
    let own = kafka.secret_ref.map(|secret| ("spec.kafka.secretRef", secret));
    let secret_ref = own.or_else(|| spec.common.secret_ref.clone().map(|secret| ("spec.secretRef", secret)));
    let provisioning = spec.common.provisioning.as_ref().and_then(|provisioning| provisioning.mode);
    findings.give(ValidatedKafka {
        brokers: kafka.brokers,
        topic,
        mode: kafka.mode,
        mechanism: kafka.sasl_mechanism.unwrap_or(SaslMechanism::ScramSha256),
        compression: spec.common.serialization.as_ref().and_then(|serialization| serialization.compression),
        // Kafka is not asked for a topic unless the sink says so.
        provisioning: provisioning.unwrap_or(ProvisioningMode::Existing),
        secret_ref,
        tls: spec.common.tls.clone(),
        cluster: Cluster::new(spec.common.cluster.clone().unwrap_or_default()),
        min_interval: spec.common.export_min_interval.map(Duration::get),
        probe: Probe::of(spec.common.connection_test),
        warnings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(block: &Value) -> Result<ValidatedKafka, String> {
        let spec = json!({"type": "kafka", "kafka": block});
        kafka(&serde_json::from_value(spec).unwrap()).map_err(|errors| errors.to_string())
    }

    #[test]
    fn what_is_absent_has_its_default() {
        let sink = check(&json!({"brokers": [" ", "k:9092"], "topic": "a.b"})).unwrap();
        assert_eq!(
            (sink.brokers, sink.topic.as_str(), sink.mode),
            (vec![" ".to_owned(), "k:9092".to_owned()], "a.b", StreamMode::Snapshot)
        );
        assert_eq!((sink.mechanism, sink.provisioning), (SaslMechanism::ScramSha256, ProvisioningMode::Existing));
        assert_eq!((sink.tls, sink.compression, sink.secret_ref), (None, None, None));
    }

    #[test]
    fn every_mistake_is_named_with_its_place() {
        for (kafka, want) in [
            (json!({"brokers": [], "topic": "t"}), "spec.kafka.brokers: names no broker"),
            (json!({"brokers": ["k:1"], "topic": "a b"}), "spec.kafka.topic: is no name of a topic"),
        ] {
            let message = check(&kafka).unwrap_err();
            assert!(message.contains(want), "{message}");
        }
    }
}
