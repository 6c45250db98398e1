//! What a sink expects of its database, as text for people. Nothing is connected.

use super::config::{Names, PostgresConfig};
use super::dsn::SslMode;
use super::schema;
use crate::validate::ValidatedPostgres;

/// Returns the statements that create both tables, ready to be run by hand as they are. Indexes that portals want and
/// the operator does not need follow as comments.
pub fn expected_ddl(sink: &ValidatedPostgres) -> String {
    let names = Names { schema: sink.schema.clone(), table: sink.table.clone(), state_table: sink.state_table.clone() };
    let [data, state] = schema::create_statements(&names);
    let mut ddl = format!("{data};\n{state};\n");
    let table = names.data();
    // A line break in a name would end the comment in the middle of a statement.
    if !table.contains(['\n', '\r']) {
        let advice = [
            ("rows by the namespace of their object", "(resource_namespace)"),
            (
                "rows by attributes, with payload->'attributes' @> '{...}'",
                "USING gin ((payload->'attributes') jsonb_path_ops)",
            ),
        ];
        for (who, keys) in advice {
            ddl.extend(["-- For portals that read ", who, ":\n-- CREATE INDEX ON ", table.as_str(), " ", keys, ";\n"]);
        }
    }
    ddl
}

/// Returns remarks on a connection that do not stop the sink. None holds a part of the connection string.
pub fn remarks(config: &PostgresConfig) -> Vec<String> {
    let checked = match config.check() {
        Ok(checked) => checked,
        Err(error) => return vec![crate::error::chain(&error)],
    };
    let mut remarks = Vec::new();
    let fix = "write sslmode=verify-full into the connection string";
    match checked.ssl_mode {
        SslMode::Disable => {
            remarks.push(format!("sslmode=disable: rows and password cross the network in plain text; {fix}"));
            let tls = &config.tls;
            if tls.ca_pem.is_some() || tls.client_cert_pem.is_some() {
                remarks.push(format!("spec.tls has no effect with sslmode=disable; {fix}"));
            }
        }
        SslMode::Allow | SslMode::Prefer => remarks.push(format!(
            "sslmode={}: a server without TLS is talked to in plain text, and no certificate is checked; {fix}",
            if checked.ssl_mode == SslMode::Allow { "allow" } else { "prefer" }
        )),
        SslMode::Require if config.tls.ca_pem.is_none() => {
            remarks.push(format!("sslmode=require: the server's certificate is not checked; {fix}"));
        }
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {}
    }
    if config.tls.insecure_skip_verify {
        remarks.push("spec.tls.insecureSkipVerify: the server's certificate is not checked; for tests only".to_owned());
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use crate::sinks::TlsConfig;
    use crate::sinks::postgres::Provisioning;

    fn sink(table: &str) -> ValidatedPostgres {
        let spec = serde_json::json!({
            "type": "postgres",
            "postgres": {"databaseRef": {"name": "s"}, "schema": "Portal", "table": table, "stateTable": "s"},
        });
        crate::validate::postgres(&serde_json::from_value(spec).unwrap()).unwrap()
    }

    #[test]
    fn both_tables_are_statements_and_advice_is_comment() {
        let ddl = expected_ddl(&sink("rows"));
        let (statements, comments): (Vec<&str>, Vec<&str>) = ddl.lines().partition(|line| !line.starts_with("--"));
        assert_eq!(statements.len(), 2, "{ddl}");
        assert!(statements[0].starts_with("CREATE TABLE IF NOT EXISTS \"Portal\".\"rows\" ("), "{ddl}");
        assert!(statements[1].starts_with("CREATE TABLE IF NOT EXISTS \"Portal\".\"s\" ("), "{ddl}");
        assert!(statements.iter().all(|statement| statement.ends_with(';')), "{ddl}");
        assert_eq!(comments[1], "-- CREATE INDEX ON \"Portal\".\"rows\" (resource_namespace);");
        assert_eq!(
            comments[3],
            "-- CREATE INDEX ON \"Portal\".\"rows\" USING gin ((payload->'attributes') jsonb_path_ops);"
        );
        assert!(!expected_ddl(&sink("a\n; DROP TABLE b")).contains("--"));
    }

    #[test]
    fn what_weakens_the_connection_is_remarked_upon() {
        let said = |dsn: &str, insecure_skip_verify: bool, ca: Option<&str>| {
            let tls = TlsConfig {
                insecure_skip_verify,
                ca_pem: ca.map(|pem| pem.as_bytes().to_vec()),
                ..TlsConfig::default()
            };
            let config = PostgresConfig {
                dsn: Secret::new(dsn),
                schema: "public".to_owned(),
                table: "rows".to_owned(),
                state_table: None,
                provisioning: Provisioning::Ensure,
                tls,
                statement_timeout: None,
                lock_timeout: None,
            };
            let lines = remarks(&config);
            assert!(!lines.concat().contains("hunter2"), "{lines:?}");
            lines.iter().filter_map(|line| line.split(':').next().map(str::to_owned)).collect::<Vec<_>>().join(", ")
        };
        let dsn = |rest: &str| format!("postgres://u:hunter2@h/d{rest}");
        for (rest, insecure, ca, want) in [
            ("", false, None, "sslmode=prefer"),
            ("?sslmode=allow", false, None, "sslmode=allow"),
            ("?sslmode=disable", false, None, "sslmode=disable"),
            (
                "?sslmode=disable",
                false,
                Some("pem"),
                "sslmode=disable, spec.tls has no effect with sslmode=disable; write sslmode=verify-full into the connection string",
            ),
            ("?sslmode=require", false, None, "sslmode=require"),
            ("?sslmode=require", false, Some("pem"), ""),
            ("?sslmode=verify-full", false, None, ""),
            ("?sslmode=verify-full", true, None, "spec.tls.insecureSkipVerify"),
        ] {
            assert_eq!(said(&dsn(rest), insecure, ca), want, "{rest} {insecure} {ca:?}");
        }
        assert_eq!(said("postgres://u:hunter2@/d?nonsense=1", false, None).len().min(1), 1);
    }
}
