//! `KollectDatabaseSink` of type `postgres`, and what all sinks have in common.

use super::{Duration, FieldErrors, FieldPath, Findings};
use crate::api::v1alpha1::sink::{ProvisioningMode, Tls};
use crate::api::v1alpha1::{Dedupe, KollectDatabaseSinkSpec, SecretRef, SinkCommon};
use crate::duration::DurationError;
use crate::model::Cluster;

/// PostgreSQL cuts longer names without a word.
const MAX_IDENTIFIER_BYTES: usize = 63;

/// Keys of `options` that hold one of these words hold a credential.
const CREDENTIAL_WORDS: [&str; 14] = [
    "password",
    "passwd",
    "secret",
    "token",
    "apikey",
    "api_key",
    "accesskey",
    "access_key",
    "secretkey",
    "secret_key",
    "privatekey",
    "private_key",
    "credential",
    "credentials",
];

/// A Postgres sink whose settings are understood; its connection string is in a Secret and not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatedPostgres {
    /// The Secret with the connection string; an empty namespace is that of the sink.
    pub database_ref: SecretRef,
    /// Schema of both tables.
    pub schema: String,
    /// Table of the rows.
    pub table: String,
    /// Table of the state of deliveries.
    pub state_table: String,
    /// Who makes the tables.
    pub provisioning: ProvisioningMode,
    /// Trust settings, as written.
    pub tls: Tls,
    /// What keeps the operators of a fleet apart; may be empty.
    pub cluster: Cluster,
    /// The least time between two writes, if the sink says it.
    pub min_interval: Option<std::time::Duration>,
    /// Whether a change of the sink probes it.
    pub probe: Probe,
    /// Limit of one statement, if the sink says it.
    pub statement_timeout: Option<std::time::Duration>,
    /// Limit of one wait for a lock, if the sink says it.
    pub lock_timeout: Option<std::time::Duration>,
    /// What happens to an object that several targets collect.
    pub dedupe: Dedupe,
    /// Remarks that do not stop the sink, such as an option that nobody knows.
    pub warnings: Vec<String>,
}

/// When a sink is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Whenever it changes.
    OnChange,
    /// Only when an annotation asks for it.
    OnRequest,
}

impl Probe {
    /// Reads `spec.connectionTest`, which is on when absent.
    pub(super) fn of(connection_test: Option<bool>) -> Self {
        if connection_test == Some(false) { Self::OnRequest } else { Self::OnChange }
    }
}

/// Checks a sink of type `postgres`. For other types the block is missing, and that is what is wrong.
///
/// # Errors
/// Terminal, with everything that is wrong.
pub fn postgres(spec: &KollectDatabaseSinkSpec) -> Result<ValidatedPostgres, FieldErrors> {
    let mut findings = Findings::default();
    common(&mut findings, &spec.common);
    let block = FieldPath::spec().field("postgres");
    if spec.postgres.is_none() {
        findings.add(block.clone(), "is missing; type postgres needs databaseRef and table here");
    }
    let postgres = spec.postgres.clone().unwrap_or_default();
    let schema = postgres.schema.unwrap_or_else(|| "public".to_owned());
    let state_table = postgres.state_table.unwrap_or_else(|| format!("{}_state", postgres.table));
    if spec.postgres.is_some() {
        if postgres.database_ref.name.trim().is_empty() {
            findings
                .add(block.field("databaseRef").field("name"), "is blank; name the Secret with the connection string");
        }
        for (field, name) in [("schema", &schema), ("table", &postgres.table), ("stateTable", &state_table)] {
            identifier(&mut findings, block.field(field), name);
        }
        if state_table == postgres.table {
            findings.add(block.field("stateTable"), "is the table of the rows; choose another name");
        }
    }
    let mut warnings = Vec::new();
    let mut timeouts = [None, None];
    for (key, value) in &spec.common.options {
        let path = FieldPath::spec().field("options").field(key);
        let slot = match key.as_str() {
            "statement_timeout" => 0,
            "lock_timeout" => 1,
            _ => {
                warnings
                    .push(format!("{path}: unknown, ignored; Postgres sinks know statement_timeout and lock_timeout"));
                continue;
            }
        };
        match timeout(value) {
            Ok(timeout) => timeouts[slot] = Some(timeout),
            Err(error) => findings.add(path, error.to_string()),
        }
    }
    let [statement_timeout, lock_timeout] = timeouts;
    let provisioning = spec.common.provisioning.as_ref().and_then(|provisioning| provisioning.mode);
    findings.give(ValidatedPostgres {
        database_ref: postgres.database_ref,
        schema,
        table: postgres.table,
        state_table,
        provisioning: provisioning.unwrap_or_default(),
        tls: spec.common.tls.clone().unwrap_or_default(),
        cluster: Cluster::new(spec.common.cluster.clone().unwrap_or_default()),
        min_interval: spec.common.export_min_interval.map(Duration::get),
        probe: Probe::of(spec.common.connection_test),
        statement_timeout,
        lock_timeout,
        dedupe: postgres.dedupe.unwrap_or_default(),
        warnings,
    })
}

/// Reads a timeout; a number without a unit is milliseconds, as in PostgreSQL itself.
fn timeout(text: &str) -> Result<std::time::Duration, DurationError> {
    match text.trim().parse::<u64>() {
        Ok(millis) => Ok(std::time::Duration::from_millis(millis)),
        Err(_) => text.trim().parse().map(Duration::get),
    }
}

fn identifier(findings: &mut Findings, path: FieldPath, name: &str) {
    if name.trim().is_empty() {
        findings.add_for_use(path, "is blank; write the name of a table or schema");
    } else if name.len() > MAX_IDENTIFIER_BYTES {
        let message =
            format!("has {} bytes; PostgreSQL cuts names after {MAX_IDENTIFIER_BYTES}, shorten it", name.len());
        findings.add(path, message);
    } else if name.contains('\0') {
        findings.add(path, "has a zero character; remove it");
    }
}

/// Checks what sinks of all types have.
pub(super) fn common(findings: &mut Findings, common: &SinkCommon) {
    let root = FieldPath::spec();
    if let Some(interval) = common.export_min_interval {
        findings.interval(root.field("exportMinInterval"), interval);
    }
    if common.tls.as_ref().is_some_and(|tls| tls.ca_bundle.is_some() && tls.ca_secret_ref.is_some()) {
        findings.add_for_use(root.field("tls"), "has both caBundle and caSecretRef; remove one of them");
    }
    for key in common.options.keys() {
        let lower = key.to_lowercase();
        if CREDENTIAL_WORDS.iter().any(|word| lower.contains(word)) {
            let message = "looks like a credential; put it into a Secret and name that in secretRef";
            findings.add(root.field("options").field(key), message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(spec: serde_json::Value) -> Result<ValidatedPostgres, String> {
        let spec: KollectDatabaseSinkSpec = serde_json::from_value(spec).unwrap();
        postgres(&spec).map_err(|errors| errors.to_string())
    }

    #[test]
    fn what_is_absent_has_its_default() {
        let sink =
            check(json!({"type": "postgres", "postgres": {"databaseRef": {"name": "s"}, "table": "rows"}})).unwrap();
        assert_eq!(
            (sink.schema.as_str(), sink.table.as_str(), sink.state_table.as_str()),
            ("public", "rows", "rows_state")
        );
        assert_eq!(
            (sink.provisioning, sink.probe, sink.min_interval),
            (ProvisioningMode::Ensure, Probe::OnChange, None)
        );
        assert!(sink.cluster.is_empty() && sink.warnings.is_empty());
    }

    #[test]
    fn options_are_durations_and_unknown_ones_are_remarked_upon() {
        let sink = check(json!({
            "type": "postgres",
            "postgres": {"databaseRef": {"name": "s"}, "table": "rows"},
            "options": {"statement_timeout": "5000", "lock_timeout": "1m", "fetch": "all"},
        }))
        .unwrap();
        assert_eq!(sink.statement_timeout, Some(std::time::Duration::from_secs(5)));
        assert_eq!(sink.lock_timeout, Some(std::time::Duration::from_mins(1)));
        assert_eq!(sink.warnings.len(), 1);
        assert!(sink.warnings[0].starts_with("spec.options.fetch: unknown, ignored;"), "{:?}", sink.warnings);
    }

    #[test]
    fn every_mistake_is_named_with_its_place_at_once() {
        let message = check(json!({
            "type": "postgres",
            "exportMinInterval": "25h",
            "tls": {"caBundle": "YQ==", "caSecretRef": {"name": "ca"}},
            "postgres": {"databaseRef": {"name": " "}, "table": "ä".repeat(32), "stateTable": "ä".repeat(32), "schema": ""},
            "options": {"lock_timeout": "10 s", "dbPassword": "x"},
        }))
        .unwrap_err();
        for expected in [
            "spec.exportMinInterval: 25h0m0s is out of range;",
            "spec.tls: has both caBundle and caSecretRef;",
            "spec.options.dbPassword: looks like a credential;",
            "spec.postgres.databaseRef.name: is blank;",
            "spec.postgres.schema: is blank;",
            "spec.postgres.table: has 64 bytes; PostgreSQL cuts names after 63, shorten it",
            "spec.postgres.stateTable: is the table of the rows;",
            "spec.options.lock_timeout: unknown unit \" s\" in duration \"10 s\"",
        ] {
            assert!(message.contains(expected), "{expected}\nis not in\n{message}");
        }
    }

    #[test]
    fn a_sink_without_its_block_says_so() {
        let message = check(json!({"type": "postgres"})).unwrap_err();
        assert_eq!(message, "spec.postgres: is missing; type postgres needs databaseRef and table here");
    }
}
