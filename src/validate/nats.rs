//! `KollectEventSink` of type `nats`.

use super::sink::{Probe, common};
use super::{Duration, FieldErrors, FieldPath, Findings, Subject};
use crate::api::v1alpha1::sink::{ProvisioningMode, StreamMode, Tls};
use crate::api::v1alpha1::{KollectEventSinkSpec, SecretRef};
use crate::model::Cluster;

/// Stream of a sink that names none.
const STREAM: &str = "kollect_events";

/// A NATS sink whose settings are understood; its credentials are in a Secret and not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatedNats {
    /// Addresses as written.
    pub url: String,
    /// Subject of all messages, or the template of each.
    pub subject: String,
    /// The stream, as JetStream names it.
    pub stream: String,
    /// What is sent.
    pub mode: StreamMode,
    /// Who makes the stream.
    pub provisioning: ProvisioningMode,
    /// The Secret to log in with, and the field that names it.
    pub secret_ref: Option<(&'static str, SecretRef)>,
    /// Trust settings, as written.
    pub tls: Tls,
    /// What keeps the operators of a fleet apart; may be empty.
    pub cluster: Cluster,
    /// The least time between two writes, if the sink says it.
    pub min_interval: Option<std::time::Duration>,
    /// Whether a change of the sink probes it.
    pub probe: Probe,
    /// Remarks that do not stop the sink.
    pub warnings: Vec<String>,
}

/// Checks a sink of type `nats`. For other types the block is missing, and that is what is wrong.
///
/// # Errors
/// Terminal, with everything that is wrong.
pub fn nats(spec: &KollectEventSinkSpec) -> Result<ValidatedNats, FieldErrors> {
    let mut findings = Findings::default();
    let root = FieldPath::spec();
    common(&mut findings, &spec.common);
    let block = root.field("nats");
    if spec.nats.is_none() {
        findings.add(block.clone(), "is missing; type nats needs subject here");
    }
    let nats = spec.nats.clone().unwrap_or_default();
    let written = |text: Option<String>| text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let url = written(nats.url).or_else(|| written(spec.common.endpoint.clone()));
    if url.is_none() {
        findings.add_for_use(block.field("url"), "is blank, as is spec.endpoint; write nats://host:port");
    }
    let template = written(nats.subject_template);
    let subject = template.clone().unwrap_or_else(|| nats.subject.trim().to_owned());
    match Subject::parse(&subject, nats.mode) {
        Err(what) if template.is_some() => findings.add(block.field("subjectTemplate"), what),
        // Earlier releases took any text here.
        Err(what) => findings.add_for_use(block.field("subject"), what),
        Ok(_) => {}
    }
    let mut warnings = Vec::new();
    for key in spec.common.options.keys() {
        warnings.push(format!("{}: unknown, ignored; NATS sinks know none", root.field("options").field(key)));
    }
    if url.as_deref().is_some_and(|url| url.contains('@')) {
        warnings.push(format!(
            "{}: user and password in an address are ignored; put them into a Secret",
            block.field("url")
        ));
    }
    let own = nats.secret_ref.map(|secret| ("spec.nats.secretRef", secret));
    let secret_ref = own.or_else(|| spec.common.secret_ref.clone().map(|secret| ("spec.secretRef", secret)));
    let provisioning = spec.common.provisioning.as_ref().and_then(|provisioning| provisioning.mode);
    findings.give(ValidatedNats {
        url: url.unwrap_or_default(),
        subject,
        stream: written(nats.stream).unwrap_or_else(|| STREAM.to_owned()).replace('.', "_"),
        mode: nats.mode,
        provisioning: provisioning.unwrap_or_default(),
        secret_ref,
        tls: spec.common.tls.clone().unwrap_or_default(),
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

    fn check(spec: Value) -> Result<ValidatedNats, String> {
        nats(&serde_json::from_value(spec).unwrap()).map_err(|errors| errors.to_string())
    }

    #[test]
    fn what_is_absent_has_its_default() {
        let sink = check(json!({"type": "nats", "endpoint": "nats://n", "nats": {"subject": "a.b"}})).unwrap();
        assert_eq!((sink.url.as_str(), sink.stream.as_str(), sink.subject.as_str()), ("nats://n", STREAM, "a.b"));
        assert_eq!((sink.mode, sink.provisioning), (StreamMode::Snapshot, ProvisioningMode::Ensure));
        let template = json!({"url": "nats://m", "subject": "a", "subjectTemplate": "x.{uid}", "mode": "Changes", "stream": "a.b"});
        let sink = check(json!({"type": "nats", "endpoint": "nats://n", "nats": template})).unwrap();
        assert_eq!((sink.url.as_str(), sink.stream.as_str(), sink.subject.as_str()), ("nats://m", "a_b", "x.{uid}"));
    }

    #[test]
    fn every_mistake_is_named_with_its_place() {
        for (nats, want) in [
            (json!({"subject": "a"}), "spec.nats.url: is blank"),
            (json!({"url": "nats://n", "subject": " "}), "spec.nats.subject: is blank"),
            (json!({"url": "nats://n", "subject": "a.>"}), "spec.nats.subject: has a blank, a wildcard"),
            (
                json!({"url": "nats://n", "subject": "a", "subjectTemplate": "a.{uid}"}),
                "spec.nats.subjectTemplate: has a placeholder of a single row",
            ),
            (
                json!({"url": "nats://n", "subject": "a", "subjectTemplate": "a.{Kind}"}),
                "spec.nats.subjectTemplate: has unknown {Kind}; use {cluster}, {namespace}, {name}, {targetName}, {uid}, {kind}",
            ),
        ] {
            let message = check(json!({"type": "nats", "nats": nats})).unwrap_err();
            assert!(message.contains(want), "{message}");
        }
    }
}
