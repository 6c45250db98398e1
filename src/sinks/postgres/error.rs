//! What can go wrong with PostgreSQL, and what that means for the scheduler.
//!
//! The class comes from the SQLSTATE, from the kind of TLS failure, or from the variant, never from a text. Of what the
//! server says only the primary message is kept: details and hints quote rows.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use tokio_postgres::error::{DbError, SqlState};

use super::dsn::DsnError;
use super::schema::SchemaError;
use crate::error::{Class, Classify};
use crate::sinks::mandate::Deposed;
use crate::sinks::netguard::DialError;
use crate::sinks::tls::{TlsError, handshake_class};
use crate::sinks::{Fault, SinkError};

/// A failure of the PostgreSQL sink.
#[derive(Debug, thiserror::Error)]
pub(super) enum PostgresError {
    /// No connection could be opened, for one of the other reasons.
    #[error(transparent)]
    Connect(Box<PostgresError>),
    #[error(transparent)]
    Dsn(DsnError),
    #[error("{field} must have 1 to {limit} bytes, or PostgreSQL would cut it")]
    Name { field: &'static str, limit: usize },
    #[error("spec.postgres.table and spec.postgres.stateTable name the same table")]
    SameTable,
    #[error("failed to set up TLS")]
    Tls(#[source] TlsError),
    #[error(transparent)]
    Dial(DialError),
    #[error("failed to {doing}")]
    Handshake {
        doing: String,
        #[source]
        source: rustls::Error,
    },
    #[error("failed to {doing}")]
    Server {
        doing: String,
        #[source]
        source: ServerError,
    },
    #[error("failed to {doing}")]
    Io {
        doing: String,
        #[source]
        source: io::Error,
    },
    #[error("failed to {doing}: the connection was closed")]
    Closed { doing: String },
    /// What the driver refuses by itself: a kind of authentication, a server without TLS.
    #[error("failed to {doing}")]
    Driver {
        doing: String,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    #[error("failed to {doing}: no answer within {} s", .after.as_secs())]
    Timeout { doing: String, after: Duration },
    #[error("{server} is read-only")]
    ReadOnly { server: String },
    #[error(transparent)]
    Schema(SchemaError),
    #[error(
        "rows of cluster \"{cluster}\" for inventory {inventory} in {table} belong to another operator (writer {writer}, \
         last seen {seen_seconds} s ago); set spec.cluster of the sink to a name that no other operator uses"
    )]
    ClusterConflict { cluster: String, inventory: String, table: String, writer: String, seen_seconds: i64 },
    #[error(
        "a newer instance of this operator (epoch {theirs}, ours is {ours}) writes inventory {inventory} in {table}"
    )]
    Fenced { inventory: String, table: String, theirs: i64, ours: i64 },
    #[error("another operator started to write inventory {inventory} in {table} at the same moment")]
    Raced { inventory: String, table: String },
    #[error("another operator failed to build unique index {index} of table {table}; it will be built again")]
    Unfinished { index: String, table: String },
    #[error("failed to {doing}")]
    Deposed {
        doing: String,
        #[source]
        source: Deposed,
    },
}

/// What the server said.
#[derive(Debug)]
pub(super) struct ServerError {
    pub(super) state: SqlState,
    message: String,
    constraint: Option<String>,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.state.code())?;
        if let Some(advice) = advice(&self.state) {
            write!(f, "; {advice}")?;
        }
        match self.unique_index() {
            Some(index) => write!(f, "; the constraint \"{index}\" is narrower than the key of the rows: drop it"),
            None => Ok(()),
        }
    }
}

impl ServerError {
    /// Returns the unique index that a row offends.
    pub(super) fn unique_index(&self) -> Option<&str> {
        self.constraint.as_deref().filter(|_| self.state == SqlState::UNIQUE_VIOLATION)
    }

    /// Says why a row is refused; `mend` is the statement after which its unique index refuses it no more.
    pub(super) fn refusal(&self, mend: Option<&str>) -> String {
        match mend {
            Some(mend) => format!("{} (SQLSTATE {}); {mend}", self.message, self.state.code()),
            None => self.to_string(),
        }
    }
}

impl Error for ServerError {}

impl From<&DbError> for ServerError {
    fn from(error: &DbError) -> Self {
        Self {
            state: error.code().clone(),
            message: error.message().to_owned(),
            constraint: error.constraint().map(str::to_owned),
        }
    }
}

/// Returns what a person can do about an error of the server.
fn advice(state: &SqlState) -> Option<&'static str> {
    Some(match state.code() {
        "28P01" => "check user and password of the connection string",
        "28000" => "the server's pg_hba.conf does not let this user in from here, or not without TLS",
        "3D000" => "create the database, or correct its name in the connection string",
        "42501" => "grant the missing privilege",
        "25006" => "the server is a standby or set to read-only",
        "53100" => "the server's disk is full",
        "53300" => "the server has no connection left",
        _ => return None,
    })
}

impl PostgresError {
    /// Sorts an error of the driver by its cause.
    pub(super) fn driver(doing: impl Into<String>, error: tokio_postgres::Error) -> Self {
        let doing = doing.into();
        if let Some(cause) = error.as_db_error() {
            return Self::Server { doing, source: cause.into() };
        }
        match error.into_source() {
            // No cause: the connection went away, or the talk was cut.
            None => Self::Closed { doing },
            Some(cause) => match cause.downcast::<io::Error>() {
                Ok(cause) => Self::io(doing, *cause),
                Err(source) => Self::Driver { doing, source },
            },
        }
    }

    fn io(doing: String, error: io::Error) -> Self {
        match error.downcast::<rustls::Error>() {
            Ok(source) => Self::Handshake { doing, source },
            Err(source) => Self::Io { doing, source },
        }
    }

    /// Returns the SQLSTATE, if it is the server that failed.
    pub(super) fn state(&self) -> Option<&SqlState> {
        match self {
            Self::Server { source, .. } => Some(&source.state),
            Self::Connect(cause) => cause.state(),
            _ => None,
        }
    }

    /// Returns what the server says, if it refuses what is in the rows and not the statement, the role or the moment.
    pub(super) fn of_data(&self) -> Option<&ServerError> {
        let Self::Server { source, .. } = self else { return None };
        let code = source.state.code();
        // Data exception, integrity constraint violation, program limit exceeded; what a trigger raises.
        let of_data = matches!(code.get(..2), Some("22" | "23" | "54")) || code == "P0001";
        of_data.then_some(source)
    }

    /// Returns where the failure lies.
    fn fault(&self) -> Fault {
        match self {
            // Once connected, all that says that the server is away.
            Self::Connect(_)
            | Self::Dial(_)
            | Self::Tls(_)
            | Self::Handshake { .. }
            | Self::Io { .. }
            | Self::Closed { .. }
            | Self::ReadOnly { .. } => Fault::Destination,
            Self::Server { source, .. } => state_fault(&source.state),
            Self::Dsn(_)
            | Self::Name { .. }
            | Self::SameTable
            | Self::Driver { .. }
            | Self::Timeout { .. }
            | Self::Schema(_)
            | Self::ClusterConflict { .. }
            | Self::Fenced { .. }
            | Self::Raced { .. }
            | Self::Unfinished { .. }
            | Self::Deposed { .. } => Fault::Delivery,
        }
    }

    /// Returns the condition reason.
    fn reason(&self) -> &'static str {
        match self {
            Self::Connect(cause) => cause.reason(),
            Self::ClusterConflict { .. } => "ClusterConflict",
            Self::Fenced { .. } => "Fenced",
            Self::Dsn(_)
            | Self::Name { .. }
            | Self::SameTable
            | Self::Tls(_)
            | Self::Dial(_)
            | Self::Handshake { .. }
            | Self::Driver { .. }
            | Self::ReadOnly { .. }
            | Self::Schema(_) => "ConnectionTestFailed",
            Self::Server { source, .. } => match source.state.code().get(..2) {
                Some("08" | "28" | "3D" | "57") => "ConnectionTestFailed",
                _ if self.class() == Class::Terminal => "ExportTerminal",
                _ => "ExportFailed",
            },
            Self::Io { .. }
            | Self::Closed { .. }
            | Self::Timeout { .. }
            | Self::Raced { .. }
            | Self::Unfinished { .. }
            | Self::Deposed { .. } => "ExportFailed",
        }
    }
}

impl From<PostgresError> for SinkError {
    fn from(error: PostgresError) -> Self {
        let (fault, failure) = (error.fault(), Self::new(error.class(), error.reason(), error));
        match fault {
            Fault::Destination => failure.of_destination(),
            Fault::Delivery => failure,
        }
    }
}

impl Classify for PostgresError {
    fn class(&self) -> Class {
        match self {
            Self::Dsn(_)
            | Self::Name { .. }
            | Self::SameTable
            | Self::Tls(_)
            | Self::Driver { .. }
            | Self::Schema(_)
            | Self::ClusterConflict { .. }
            | Self::Fenced { .. } => Class::Terminal,
            Self::Connect(cause) => cause.class(),
            Self::Dial(error) => error.class(),
            Self::Handshake { source, .. } => handshake_class(source),
            Self::Server { source, .. } => state_class(&source.state),
            Self::Io { .. }
            | Self::Closed { .. }
            | Self::Timeout { .. }
            | Self::ReadOnly { .. }
            | Self::Raced { .. }
            | Self::Unfinished { .. }
            // The process is about to end; its successor delivers.
            | Self::Deposed { .. } => Class::Transient,
        }
    }
}

/// Tells a server that serves nobody from one that refuses this statement, by class (PostgreSQL manual, appendix A).
fn state_fault(state: &SqlState) -> Fault {
    match state.code() {
        "57014" => Fault::Delivery,    // the statement timeout
        "25006" => Fault::Destination, // read-only
        code => match code.get(..2).unwrap_or_default() {
            // connection, authorization, catalog name, out of resources, operator intervention
            "08" | "28" | "3D" | "53" | "57" => Fault::Destination,
            _ => Fault::Delivery,
        },
    }
}

/// Every class of the standard and of PostgreSQL, by its two characters (PostgreSQL manual, appendix A).
fn state_class(state: &SqlState) -> Class {
    let code = state.code();
    match code {
        "57P04" => return Class::Terminal, // the database was dropped
        // A pooler mixed up prepared statements, or a table was dropped under way: the next try looks at the tables, and
        // makes it or says what to run.
        "42P05" | "26000" | "42P01" => return Class::Transient,
        _ => {}
    }
    match code.get(..2).unwrap_or_default() {
        // success, warning, no data: not failures at all, so nothing that a person must mend
        "00" | "01" | "02" | "03"
        // connection, transaction state (25006 read-only), statement name, transaction termination
        | "08" | "25" | "26" | "2D"
        // rolled back: serialization failure, deadlock
        | "40"
        // out of resources, object state (55P03 lock timeout), operator intervention, system, snapshot, configuration
        | "53" | "55" | "57" | "58" | "72" | "F0"
        // internal error: also what poolers say when their server is away
        | "XX" => Class::Transient,
        // Terminal is all the rest of the standard and of PostgreSQL: triggered action (09), unsupported feature (0A),
        // transaction initiation, locator, grantor, role, diagnostics (0B to 0Z), case (20), cardinality (21), data (22),
        // integrity (23), cursor state (24), triggered change (27), authorization (28), privileges (2B), routines (2F, 38,
        // 39), cursor name (34), savepoint (3B), catalog (3D), schema (3F), syntax and access (42), check option (44),
        // program limits (54), foreign data (HV), PL/pgSQL (P0); and what a trigger of the table's owner raises.
        _ => Class::Terminal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::chain;

    #[test]
    fn class_follows_the_sqlstate() {
        for (state, class) in [
            ("28P01", Class::Terminal),
            ("28000", Class::Terminal),
            ("3D000", Class::Terminal),
            ("3F000", Class::Terminal),
            ("42501", Class::Terminal),
            ("42703", Class::Terminal),
            ("22P05", Class::Terminal),
            ("23505", Class::Terminal),
            ("54000", Class::Terminal),
            ("57P04", Class::Terminal),
            ("ZZ999", Class::Terminal),
            ("08006", Class::Transient),
            ("25006", Class::Transient),
            ("25P03", Class::Transient),
            ("26000", Class::Transient),
            ("40001", Class::Transient),
            ("40P01", Class::Transient),
            ("42P01", Class::Transient),
            ("53100", Class::Transient),
            ("53300", Class::Transient),
            ("55P03", Class::Transient),
            ("57014", Class::Transient),
            ("57P01", Class::Transient),
            ("57P03", Class::Transient),
            ("58030", Class::Transient),
            ("XX000", Class::Transient),
        ] {
            assert_eq!(state_class(&SqlState::from_code(state)), class, "{state}");
        }
    }

    #[test]
    fn fault_is_the_destinations_when_nobody_could_be_served() {
        for (state, fault) in [
            ("08006", Fault::Destination),
            ("08P01", Fault::Destination),
            ("25006", Fault::Destination),
            ("28P01", Fault::Destination),
            ("3D000", Fault::Destination),
            ("53100", Fault::Destination),
            ("53300", Fault::Destination),
            ("57P01", Fault::Destination),
            ("57P03", Fault::Destination),
            ("22P05", Fault::Delivery),
            ("23505", Fault::Delivery),
            ("3F000", Fault::Delivery),
            ("40001", Fault::Delivery),
            ("40P01", Fault::Delivery),
            ("42501", Fault::Delivery),
            ("55P03", Fault::Delivery),
            ("57014", Fault::Delivery),
        ] {
            assert_eq!(state_fault(&SqlState::from_code(state)), fault, "{state}");
        }
        let timeout = || PostgresError::Timeout { doing: "answer".to_owned(), after: Duration::from_secs(1) };
        assert_eq!(SinkError::from(timeout()).fault(), Fault::Delivery);
        let connect = PostgresError::Connect(Box::new(timeout()));
        assert_eq!(SinkError::from(connect).fault(), Fault::Destination);
        let closed = PostgresError::Closed { doing: "write".to_owned() };
        assert_eq!(SinkError::from(closed).fault(), Fault::Destination);
    }

    #[test]
    fn rows_are_to_blame_for_data_errors_only() {
        for (state, blamed) in [
            ("22021", true),
            ("23505", true),
            ("23514", true),
            ("54000", true),
            ("P0001", true),
            ("08006", false),
            ("40001", false),
            ("42501", false),
            ("55P03", false),
            ("57014", false),
            ("P0002", false),
        ] {
            let source = ServerError { state: SqlState::from_code(state), message: String::new(), constraint: None };
            let error = PostgresError::Server { doing: String::new(), source };
            assert_eq!(error.of_data().is_some(), blamed, "{state}");
        }
    }

    #[test]
    fn tls_failure_is_found_inside_what_the_driver_reports() {
        use rustls::CertificateError;
        for (error, class) in [
            (rustls::Error::InvalidCertificate(CertificateError::Expired), Class::Terminal),
            (rustls::Error::HandshakeNotComplete, Class::Transient),
        ] {
            let wrapped = io::Error::new(io::ErrorKind::InvalidData, error);
            assert_eq!(PostgresError::io("connect".to_owned(), wrapped).class(), class);
        }
    }

    #[test]
    fn message_says_what_was_done_and_what_to_do() {
        let source = ServerError {
            state: SqlState::INVALID_PASSWORD,
            message: "password authentication failed for user \"kollect\"".to_owned(),
            constraint: None,
        };
        let error = SinkError::from(PostgresError::Server { doing: "log in to db:5432".to_owned(), source });
        assert_eq!(error.class(), Class::Terminal);
        assert_eq!(error.reason(), "ConnectionTestFailed");
        assert_eq!(
            chain(&error),
            "failed to log in to db:5432: password authentication failed for user \"kollect\" (SQLSTATE 28P01); check \
             user and password of the connection string"
        );
    }
}
