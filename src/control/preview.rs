//! What a sink would write, rendered for people without touching the destination.

use super::Control;
use super::family::{Checked, SinkSpec};
use super::resolve::{Obstacle, Resolved, Settings};
use crate::api::v1alpha1::sink::{Preview, PreviewKafka, PreviewPostgres, ProvisioningMode};
use crate::error::chain;
use crate::model::Name;
use crate::sinks::{git, object, postgres};
use crate::validate::ValidatedPostgres;

/// Renders what the sink would write; the time moves only when something else does.
pub(super) fn render(
    (name, spec): (&Name, &SinkSpec),
    sink: &Checked,
    resolved: &Result<Resolved, Obstacle>,
    before: Option<Preview>,
) -> Option<Preview> {
    let mut remarks = Vec::new();
    match resolved.as_ref().map(|resolved| &resolved.settings) {
        Ok(Settings::Postgres(config)) => remarks.extend(postgres::remarks(config)),
        Ok(Settings::Git(_) | Settings::Object(_) | Settings::Nats(_) | Settings::Kafka(_)) => {}
        Err(Obstacle::Refused(failing)) => remarks.push(failing.message.clone()),
        Err(Obstacle::Wait(_)) => return before,
    }
    let (rendered, known) = match sink {
        Checked::Postgres(sink) => (of_postgres(sink), &sink.warnings),
        Checked::Git(sink) => {
            let rendered = git::preview(sink, spec.common(), name).unwrap_or_else(|error| {
                remarks.push(chain(&error));
                Preview::default()
            });
            (rendered, &sink.warnings)
        }
        Checked::Object(sink) => {
            let rendered = object::preview(sink).unwrap_or_else(|error| {
                remarks.push(chain(&error));
                Preview::default()
            });
            (rendered, &sink.warnings)
        }
        Checked::Kafka(sink) => {
            let preview = Preview {
                provisioning_mode: mode(sink.provisioning),
                kafka: Some(PreviewKafka { topic: sink.topic.clone() }),
                ..Preview::default()
            };
            (preview, &sink.warnings)
        }
        Checked::Nats(sink) => {
            remarks.push(format!("messages go to subject {} of stream {}", sink.subject, sink.stream));
            (Preview { provisioning_mode: mode(sink.provisioning), ..Preview::default() }, &sink.warnings)
        }
    };
    let preview = Preview {
        rendered_at: before.as_ref().and_then(|before| before.rendered_at.clone()),
        input_sample_source: "synthetic".to_owned(),
        warnings: known.iter().cloned().chain(remarks).collect(),
        ..rendered
    };
    if before.as_ref() == Some(&preview) {
        return before;
    }
    Some(Preview { rendered_at: Some(Control::now()), ..preview })
}

fn mode(provisioning: ProvisioningMode) -> String {
    match provisioning {
        ProvisioningMode::Ensure => "ensure".to_owned(),
        ProvisioningMode::Existing => "existing".to_owned(),
    }
}

fn of_postgres(sink: &ValidatedPostgres) -> Preview {
    Preview {
        provisioning_mode: mode(sink.provisioning),
        postgres: Some(PreviewPostgres { expected_ddl: postgres::expected_ddl(sink) }),
        ..Preview::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1alpha1::KollectDatabaseSinkSpec;
    use crate::api::v1alpha1::conditions::reasons;
    use crate::control::resolve::Failing;
    use crate::error::Class;
    use crate::model::Cluster;
    use crate::secret::Secret;
    use crate::sinks::TlsConfig;
    use crate::sinks::postgres::{PostgresConfig, Provisioning};
    use crate::validate;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;

    #[test]
    fn a_preview_is_rendered_again_only_when_it_differs() {
        let spec = json!({
            "type": "postgres", "postgres": {"databaseRef": {"name": "s"}, "table": "rows"}, "options": {"fetch": "all"},
        });
        let spec: KollectDatabaseSinkSpec = serde_json::from_value(spec).unwrap();
        let sink = Checked::Postgres(Box::new(validate::postgres(&spec).unwrap()));
        let (name, spec) = (Name::new("pg"), SinkSpec::from(spec));
        let render = |resolved: &_, before| super::render((&name, &spec), &sink, resolved, before);
        let resolved = |dsn: &str| {
            let config = PostgresConfig {
                dsn: Secret::new(dsn),
                schema: "public".to_owned(),
                table: "rows".to_owned(),
                state_table: None,
                provisioning: Provisioning::Ensure,
                tls: TlsConfig::default(),
                statement_timeout: None,
                lock_timeout: None,
            };
            let settings = Settings::Postgres(Box::new(config));
            Ok(Resolved { settings, cluster: Cluster::new(""), versions: String::new() })
        };
        let first = render(&resolved("postgres://u:p@h/d"), None).unwrap();
        assert_eq!((first.provisioning_mode.as_str(), first.warnings.len()), ("ensure", 2));
        assert!(first.warnings[0].starts_with("spec.options.fetch: unknown"), "{:?}", first.warnings);
        assert!(first.warnings[1].starts_with("sslmode=prefer"), "{:?}", first.warnings);
        let old = Preview { rendered_at: Some(Time(jiff::Timestamp::UNIX_EPOCH)), ..first };
        assert_eq!(render(&resolved("postgres://u:p@h/d"), Some(old.clone())).as_ref(), Some(&old));
        assert_eq!(render(&Err(Obstacle::Wait("")), Some(old.clone())).as_ref(), Some(&old));
        let strict = render(&resolved("postgres://u:p@h/d?sslmode=verify-full"), Some(old.clone())).unwrap();
        assert_ne!(strict.rendered_at, old.rendered_at);
        assert_eq!(strict.warnings.len(), 1);
        let failing =
            Failing { reason: reasons::SECRET_RESOLVE_FAILED, class: Class::Terminal, message: "it broke".to_owned() };
        let unread = render(&Err(Obstacle::Refused(failing)), None).unwrap();
        assert_eq!(unread.warnings[1], "it broke");
    }
}
