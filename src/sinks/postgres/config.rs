//! What a database sink says about its PostgreSQL destination, checked where it is made.

use std::time::Duration;

use super::dsn::{Dsn, SslMode};
use super::error::PostgresError;
use crate::secret::Secret;
use crate::sinks::{Destination, TlsConfig, digest_of};

/// How long one statement may take when `options.statement_timeout` does not say.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_mins(2);

/// How long a statement may wait for a lock when `options.lock_timeout` does not say.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// PostgreSQL cuts longer names silently.
pub(super) const LONGEST_IDENTIFIER_BYTES: usize = 63;

/// Settings of one PostgreSQL sink.
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    /// Connection string, as URL or as `key=value` list.
    pub dsn: Secret,
    /// Schema of both tables; never created.
    pub schema: String,
    /// Table of the rows.
    pub table: String,
    /// Table of the state; `<table>_state` when absent.
    pub state_table: Option<String>,
    /// Whether missing tables are created.
    pub provisioning: Provisioning,
    /// Certificates of `spec.tls`.
    pub tls: TlsConfig,
    /// Limit of one statement; [`STATEMENT_TIMEOUT`] when absent.
    pub statement_timeout: Option<Duration>,
    /// Limit of one wait for a lock; [`LOCK_TIMEOUT`] when absent.
    pub lock_timeout: Option<Duration>,
}

/// Who makes the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Provisioning {
    /// The operator creates what is missing, after it looked.
    #[default]
    Ensure,
    /// Somebody else did; the operator runs no DDL.
    Existing,
}

/// A configuration that can be used: the string is understood, the names are names.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) dsn: Dsn,
    pub(super) ssl_mode: SslMode,
    pub(super) names: Names,
    pub(super) destination: Destination,
    /// What makes two sinks share a pool: the connection string and the certificates.
    pub(super) pool_key: [u8; 32],
}

/// Schema and tables.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Names {
    pub(super) schema: String,
    pub(super) table: String,
    pub(super) state_table: String,
}

impl PostgresConfig {
    pub(super) fn check(&self) -> Result<Checked, PostgresError> {
        let dsn = Dsn::parse(self.dsn.expose()).map_err(PostgresError::Dsn)?;
        let state_table = self.state_table.clone().unwrap_or_else(|| format!("{}_state", self.table));
        let names = Names { schema: self.schema.clone(), table: self.table.clone(), state_table };
        for (field, name) in [
            ("spec.postgres.schema", &names.schema),
            ("spec.postgres.table", &names.table),
            ("spec.postgres.stateTable", &names.state_table),
        ] {
            if name.is_empty() || name.len() > LONGEST_IDENTIFIER_BYTES || name.contains('\0') {
                return Err(PostgresError::Name { field, limit: LONGEST_IDENTIFIER_BYTES });
            }
        }
        if names.table == names.state_table {
            return Err(PostgresError::SameTable);
        }
        // Who gives certificates wants them checked; libpq's own default is `prefer`.
        let certificates = self.tls.ca_pem.is_some() || self.tls.client_cert_pem.is_some();
        let default = if certificates { SslMode::VerifyFull } else { SslMode::Prefer };
        let ssl_mode = dsn.ssl_mode.unwrap_or(default);
        Ok(Checked { destination: destination(&dsn, &names), pool_key: self.pool_key(), dsn, ssl_mode, names })
    }

    fn pool_key(&self) -> [u8; 32] {
        let key = self.tls.client_key_pem.as_ref().map(|key| key.expose().as_bytes());
        digest_of(&[
            Some(self.dsn.expose().as_bytes()),
            self.tls.ca_pem.as_deref(),
            self.tls.client_cert_pem.as_deref(),
            key,
            self.tls.insecure_skip_verify.then_some(&[][..]),
        ])
    }
}

fn destination(dsn: &Dsn, names: &Names) -> Destination {
    let hosts: Vec<String> = dsn
        .hosts
        .iter()
        .map(|host| {
            let bracket = host.name.contains(':');
            if bracket { format!("[{}]:{}", host.name, host.port) } else { format!("{}:{}", host.name, host.port) }
        })
        .collect();
    let description = format!("postgres://{}/{} {}.{}", hosts.join(","), dsn.database, names.schema, names.table);
    let mut hasher = blake3::Hasher::new();
    for part in hosts.iter().chain([&dsn.database, &names.schema, &names.table]) {
        hasher.update(part.as_bytes()).update(&[0]);
    }
    let id: String = hasher.finalize().to_hex().chars().take(16).collect();
    Destination { id, description }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dsn: &str) -> PostgresConfig {
        PostgresConfig {
            dsn: Secret::new(dsn),
            schema: "public".to_owned(),
            table: "items".to_owned(),
            state_table: None,
            provisioning: Provisioning::Ensure,
            tls: TlsConfig::default(),
            statement_timeout: None,
            lock_timeout: None,
        }
    }

    #[test]
    fn destination_names_host_and_table_and_no_credential() {
        let checked = config("postgres://u:hunter2@a:1,[2001:db8::1]/inventory").check().unwrap();
        assert_eq!(checked.destination.description, "postgres://a:1,[2001:db8::1]:5432/inventory public.items");
        assert_eq!(checked.destination.id.len(), 16);
        let rotated = config("postgres://other:secret@a:1,[2001:db8::1]/inventory").check().unwrap();
        assert_eq!(checked.destination, rotated.destination);
        assert_ne!(checked.pool_key, rotated.pool_key);
        let shown = format!("{checked:?} {:?}", config("postgres://u:hunter2@a/d"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn certificates_ask_for_verification_unless_the_string_says_otherwise() {
        let mut with_ca = config("postgres://u@h/d");
        assert_eq!(with_ca.check().unwrap().ssl_mode, SslMode::Prefer);
        with_ca.tls.ca_pem = Some(b"pem".to_vec());
        assert_eq!(with_ca.check().unwrap().ssl_mode, SslMode::VerifyFull);
        with_ca.dsn = Secret::new("postgres://u@h/d?sslmode=require");
        assert_eq!(with_ca.check().unwrap().ssl_mode, SslMode::Require);
    }

    #[test]
    fn names_that_postgres_would_cut_are_refused() {
        let mut long = config("postgres://u@h/d");
        long.table = "t".repeat(60);
        assert_eq!(
            long.check().unwrap_err().to_string(),
            "spec.postgres.stateTable must have 1 to 63 bytes, or PostgreSQL would cut it"
        );
        long.state_table = Some("state".to_owned());
        assert!(long.check().is_ok());
        long.state_table = Some(long.table.clone());
        assert!(long.check().is_err());
    }
}
