//! The two tables: what they must look like, how they are looked at, and the DDL that makes or mends them.
//!
//! Looking comes first and is cheap: three questions to the catalog. DDL runs only for a table that is missing, and
//! only with `provisioning.mode: ensure`. Whatever else is wrong is said together with the statement that mends it.

use std::fmt;

use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};
use tracing::warn;

use super::config::{Names, Provisioning};
use super::connect::in_time;
use super::error::PostgresError;
use super::upgrade;
use tokio::time::Instant;

/// `bit_xor` came with 14; every older release is out of support.
const OLDEST_VERSION: i32 = 140_000;

/// The key of a row.
pub(super) const KEY: [&str; 5] = ["cluster", "inventory_namespace", "inventory_name", "target_name", "source_uid"];

/// The key of earlier releases.
const OLD_KEY: [&str; 4] = ["inventory_namespace", "inventory_name", "target_name", "source_uid"];

/// What tables of earlier releases lack.
pub(super) const FINGERPRINT: &str = "fingerprint";

/// The key of a state row.
const STATE_KEY: [&str; 3] = ["cluster", "inventory_namespace", "inventory_name"];

struct Column {
    name: &'static str,
    kind: &'static str,
    rest: &'static str,
}

const fn column(name: &'static str, kind: &'static str, rest: &'static str) -> Column {
    Column { name, kind, rest }
}

// Names compare bytewise: that is the order in which rows arrive, and faster than any language's.
const COLUMNS: [Column; 9] = [
    column("inventory_namespace", "text", "COLLATE \"C\" NOT NULL"),
    column("inventory_name", "text", "COLLATE \"C\" NOT NULL"),
    column("target_name", "text", "COLLATE \"C\" NOT NULL"),
    column("source_uid", "text", "COLLATE \"C\" NOT NULL"),
    column("cluster", "text", "COLLATE \"C\" NOT NULL DEFAULT ''"),
    column("resource_namespace", "text", "NOT NULL DEFAULT ''"),
    column("payload", "jsonb", "NOT NULL"),
    column("exported_at", "timestamp with time zone", "NOT NULL"),
    column(FINGERPRINT, "bytea", ""),
];

const STATE_COLUMNS: [Column; 12] = [
    column("cluster", "text", "COLLATE \"C\" NOT NULL"),
    column("inventory_namespace", "text", "COLLATE \"C\" NOT NULL"),
    column("inventory_name", "text", "COLLATE \"C\" NOT NULL"),
    column("rows", "bigint", "NOT NULL DEFAULT 0"),
    column("hash", "bigint", ""),
    column("digest", "text", "NOT NULL DEFAULT ''"),
    column("seq", "bigint", "NOT NULL DEFAULT 0"),
    column("generation", "bigint", "NOT NULL DEFAULT 0"),
    column("writer", "text", "NOT NULL"),
    column("epoch", "bigint", "NOT NULL"),
    column("last_write", "timestamp with time zone", ""),
    column("heartbeat", "timestamp with time zone", "NOT NULL"),
];

/// One of the two tables.
struct Shape {
    columns: &'static [Column],
    key: &'static [&'static str],
    privileges: &'static [&'static str],
    /// Room that each page keeps for new versions of its rows, so that an update stays on its page and leaves the index
    /// alone (a HOT update).
    fillfactor: u8,
}

const DATA: Shape =
    Shape { columns: &COLUMNS, key: &KEY, privileges: &["SELECT", "INSERT", "UPDATE", "DELETE"], fillfactor: 90 };

// A state row is written with each delivery and each heartbeat.
const STATE: Shape = Shape {
    columns: &STATE_COLUMNS,
    key: &STATE_KEY,
    privileges: &["SELECT", "INSERT", "UPDATE", "DELETE"],
    fillfactor: 50,
};

/// What is wrong with the tables. Each says what to run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SchemaError {
    #[error("the server is PostgreSQL {0}, which is older than the oldest that is supported, 14")]
    Version(String),
    #[error("schema {schema} does not exist; run: CREATE SCHEMA {schema}")]
    NoSchema { schema: Quoted },
    #[error("role {role} may not use schema {schema}; run: GRANT {privilege} ON SCHEMA {schema} TO {role}")]
    SchemaPrivilege { schema: Quoted, role: Quoted, privilege: &'static str },
    #[error("table {table} does not exist, and provisioning.mode is existing; run: {ddl}")]
    NoTable { table: String, ddl: String },
    #[error("{table} is not a table that rows can be written to; name another one")]
    NotATable { table: String },
    #[error("table {table} lacks {columns}; run: {ddl}")]
    MissingColumns { table: String, columns: String, ddl: String },
    #[error("column {column} of table {table} is of type {found}, not {wanted}; run: {ddl}")]
    WrongType { table: String, column: &'static str, found: String, wanted: &'static str, ddl: String },
    #[error(
        "column {column} of table {table} is NOT NULL and has no default; run: ALTER TABLE {table} ALTER COLUMN {column} \
         DROP NOT NULL"
    )]
    ForeignColumn { table: String, column: Quoted },
    #[error("table {table} has no unique index on exactly ({key}); run: {ddl}")]
    NoKey { table: String, key: String, ddl: String },
    #[error(
        "unique index {index} of table {table} is narrower than the key of the rows, ({columns}), and would refuse some; \
         run: {ddl}"
    )]
    NarrowKey { table: String, index: Quoted, columns: String, ddl: String },
    #[error("role {role} lacks {privileges} on table {table}; run: GRANT {privileges} ON {table} TO {role}")]
    TablePrivilege { table: String, role: Quoted, privileges: String },
}

/// A name in double quotes, as SQL wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Quoted(pub(super) String);

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('"', "\"\""))
    }
}

impl Names {
    /// Returns the table of rows as SQL names it.
    pub(super) fn data(&self) -> String {
        format!("{}.{}", Quoted(self.schema.clone()), Quoted(self.table.clone()))
    }

    /// Returns the table of states as SQL names it.
    pub(super) fn state(&self) -> String {
        format!("{}.{}", Quoted(self.schema.clone()), Quoted(self.state_table.clone()))
    }
}

/// What was found to be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// Version of the server, for people.
    pub(super) version: String,
    /// Role that the login ended up with.
    pub(super) role: String,
    /// Whether the table of rows is there.
    pub(super) has_table: bool,
    /// Whether it is one of an earlier release that will be brought up to date.
    pub(super) is_outdated: bool,
    /// Whether states are kept. They are optional beside a table that somebody else made.
    pub(super) has_state: bool,
}

/// What the catalog says.
#[derive(Debug, Default)]
struct Found {
    version: i32,
    version_text: String,
    role: String,
    read_only: bool,
    schema: bool,
    may_use: bool,
    may_create: bool,
    data: Option<Relation>,
    state: Option<Relation>,
}

#[derive(Debug, Clone, Default)]
struct Relation {
    oid: u32,
    kind: String,
    is_owned: bool,
    missing_privileges: Vec<&'static str>,
    columns: Vec<FoundColumn>,
    unique: Vec<UniqueIndex>,
}

#[derive(Debug, Clone)]
struct FoundColumn {
    name: String,
    kind: String,
    needs_value: bool,
}

#[derive(Debug, Clone)]
struct UniqueIndex {
    name: String,
    is_constraint: bool,
    columns: Vec<String>,
}

/// Returns what lets writers go on beside a statement about an index of a relation of this kind: a partitioned table
/// knows no such thing.
fn beside_writers(kind: &str) -> &'static str {
    if kind == "p" { "" } else { " CONCURRENTLY" }
}

impl UniqueIndex {
    /// Returns the statement that drops the index.
    fn drop(&self, kind: &str, schema: &str, table: &str) -> String {
        let name = Quoted(self.name.clone());
        if self.is_constraint {
            format!("ALTER TABLE {table} DROP CONSTRAINT {name}")
        } else {
            format!("DROP INDEX{} {}.{name}", beside_writers(kind), Quoted(schema.to_owned()))
        }
    }

    fn is_on(&self, key: &[&str]) -> bool {
        self.columns.len() == key.len() && key.iter().all(|name| self.columns.iter().any(|column| column == name))
    }
}

impl Relation {
    /// Returns this table of an earlier release as it will be once it is brought up to date, or none if there is nothing
    /// to do, or not by us.
    fn upgraded(&self) -> Option<Self> {
        // An index of a partitioned table cannot be built beside its writers.
        let is_old = self.kind == "r" && self.is_owned && self.unique.iter().any(|index| index.is_on(&OLD_KEY));
        let mut next = self.clone();
        if !self.columns.iter().any(|column| column.name == FINGERPRINT) {
            let (name, kind) = (FINGERPRINT.to_owned(), "bytea".to_owned());
            next.columns.push(FoundColumn { name, kind, needs_value: false });
        }
        if !self.unique.iter().any(|index| index.is_on(&KEY)) {
            let columns = KEY.iter().map(|&name| name.to_owned()).collect();
            next.unique.push(UniqueIndex { name: String::new(), is_constraint: false, columns });
        }
        let differs = next.columns.len() + next.unique.len() > self.columns.len() + self.unique.len();
        (is_old && differs).then_some(next)
    }
}

/// Looks at the tables, and creates the ones that are missing and brings an old one up to date, if it may.
pub(super) async fn ensure(
    client: &Client,
    names: &Names,
    mode: Provisioning,
    deadline: Instant,
) -> Result<Facts, PostgresError> {
    let found = inspect(client, names, deadline).await?;
    let facts = judge(&found, names, mode).map_err(PostgresError::Schema)?;
    if mode == Provisioning::Existing || facts.has_table && facts.has_state && !facts.is_outdated {
        return Ok(facts);
    }
    if !(facts.has_table && facts.has_state) {
        create(client, names, deadline).await?;
    }
    if facts.is_outdated {
        upgrade::run(client, names, deadline).await?;
    }
    let found = inspect(client, names, deadline).await?;
    judge(&found, names, Provisioning::Existing).map_err(PostgresError::Schema)
}

/// Looks at the tables and changes nothing.
pub(super) async fn look(
    client: &Client,
    names: &Names,
    mode: Provisioning,
    deadline: Instant,
) -> Result<Facts, PostgresError> {
    let found = inspect(client, names, deadline).await?;
    if found.read_only {
        return Err(PostgresError::ReadOnly { server: "the server".to_owned() });
    }
    judge(&found, names, mode).map_err(PostgresError::Schema)
}

/// Creates both tables. Operators that do so at the same moment wait for each other; one that does not know of the lock
/// (an earlier release) can still win, so a duplicate is looked at again by the caller.
async fn create(client: &Client, names: &Names, deadline: Instant) -> Result<(), PostgresError> {
    let lock = format!("kollect {}.{}", names.schema, names.table).replace('\'', "''");
    let script = format!(
        "BEGIN; SET LOCAL lock_timeout = '10s'; SELECT pg_advisory_xact_lock(hashtextextended('{lock}', 0)); {}; COMMIT",
        create_statements(names).join("; "),
    );
    let doing = || format!("create table {}", names.data());
    let created = in_time(deadline, doing, client.batch_execute(&script)).await;
    if created.is_err() {
        // The failed transaction is still open. If even this fails, the connection is gone, and with it the transaction.
        let _ = in_time(deadline, doing, client.batch_execute("ROLLBACK")).await;
    }
    match created {
        Err(error) if error.state().is_some_and(|state| ["23505", "42P07"].contains(&state.code())) => Ok(()),
        other => other,
    }
}

/// Returns what creates the table of rows, and what creates that of states. Neither does anything where there is one.
pub(super) fn create_statements(names: &Names) -> [String; 2] {
    [DATA.create(&names.data()), STATE.create(&names.state())]
}

/// Returns what the table of rows is, whatever address led here: the start of the server to the microsecond, and the
/// object ids of database and table.
pub(super) async fn identity(
    client: &Client,
    names: &Names,
    deadline: Instant,
) -> Result<Option<String>, PostgresError> {
    let doing = || format!("look at table {}", names.data());
    let sql = "SELECT concat_ws('/', extract(epoch FROM pg_postmaster_start_time()), d.oid, c.oid) \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace, pg_catalog.pg_database d \
         WHERE d.datname = current_database() AND n.nspname = $1 AND c.relname = $2";
    let params: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
        [(&names.schema, Type::TEXT), (&names.table, Type::TEXT)];
    let row = in_time(deadline, doing, client.query_typed_opt(sql, &params)).await?;
    row.map(|row| row.try_get(0)).transpose().map_err(|error| PostgresError::driver(doing(), error))
}

/// Decides from what the catalog says. Pure.
fn judge(found: &Found, names: &Names, mode: Provisioning) -> Result<Facts, SchemaError> {
    let schema = Quoted(names.schema.clone());
    let role = Quoted(found.role.clone());
    if found.version < OLDEST_VERSION {
        return Err(SchemaError::Version(found.version_text.clone()));
    }
    if !found.schema {
        return Err(SchemaError::NoSchema { schema });
    }
    if !found.may_use {
        return Err(SchemaError::SchemaPrivilege { schema, role, privilege: "USAGE" });
    }
    let table = names.data();
    let upgraded = match &found.data {
        Some(relation) if mode == Provisioning::Ensure => relation.upgraded(),
        _ => None,
    };
    match upgraded.as_ref().or(found.data.as_ref()) {
        Some(relation) => DATA.judge(relation, names, &table, &found.role)?,
        None if mode == Provisioning::Existing => {
            return Err(SchemaError::NoTable { ddl: DATA.create(&table), table });
        }
        None if !found.may_create => return Err(SchemaError::SchemaPrivilege { schema, role, privilege: "CREATE" }),
        None => {}
    }
    match &found.state {
        Some(relation) => STATE.judge(relation, names, &names.state(), &found.role)?,
        None if mode == Provisioning::Ensure && !found.may_create => {
            return Err(SchemaError::SchemaPrivilege { schema, role, privilege: "CREATE" });
        }
        None => {}
    }
    Ok(Facts {
        version: found.version_text.clone(),
        role: found.role.clone(),
        has_table: found.data.is_some(),
        is_outdated: upgraded.is_some(),
        has_state: found.state.is_some(),
    })
}

impl Shape {
    fn create(&self, table: &str) -> String {
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|column| format!("{} {} {}", column.name, column.kind, column.rest).trim_end().to_owned())
            .collect();
        format!(
            "CREATE TABLE IF NOT EXISTS {table} ({}, PRIMARY KEY ({})) WITH (fillfactor = {})",
            columns.join(", "),
            self.key.join(", "),
            self.fillfactor
        )
    }

    fn judge(&self, relation: &Relation, names: &Names, table: &str, role: &str) -> Result<(), SchemaError> {
        let table = table.to_owned();
        // Ordinary and partitioned tables.
        if !matches!(relation.kind.as_str(), "r" | "p") {
            return Err(SchemaError::NotATable { table });
        }
        self.judge_columns(relation, &table)?;
        self.judge_key(relation, &names.schema, &table)?;
        if !relation.missing_privileges.is_empty() {
            let privileges = relation.missing_privileges.join(", ");
            return Err(SchemaError::TablePrivilege { table, role: Quoted(role.to_owned()), privileges });
        }
        Ok(())
    }

    fn judge_columns(&self, relation: &Relation, table: &str) -> Result<(), SchemaError> {
        let find = |name: &str| relation.columns.iter().find(|column| column.name == name);
        let missing: Vec<&Column> = self.columns.iter().filter(|column| find(column.name).is_none()).collect();
        if !missing.is_empty() {
            let names: Vec<&str> = missing.iter().map(|column| column.name).collect();
            let added: Vec<String> = missing
                .iter()
                .map(|column| {
                    format!("ADD COLUMN {} {} {}", column.name, column.kind, column.rest).trim_end().to_owned()
                })
                .collect();
            return Err(SchemaError::MissingColumns {
                table: table.to_owned(),
                columns: format!("column {}", names.join(", ")),
                ddl: format!("ALTER TABLE {table} {}", added.join(", ")),
            });
        }
        for column in self.columns {
            let Some(found) = find(column.name).map(|found| &found.kind) else { continue };
            let same = found == column.kind || column.kind == "text" && found == "character varying";
            if !same {
                return Err(SchemaError::WrongType {
                    table: table.to_owned(),
                    column: column.name,
                    found: found.clone(),
                    wanted: column.kind,
                    ddl: format!(
                        "ALTER TABLE {table} ALTER COLUMN {0} TYPE {1} USING {0}::{1}",
                        column.name, column.kind
                    ),
                });
            }
        }
        let ours = |name: &str| self.columns.iter().any(|column| column.name == name);
        match relation.columns.iter().find(|column| column.needs_value && !ours(&column.name)) {
            Some(foreign) => {
                Err(SchemaError::ForeignColumn { table: table.to_owned(), column: Quoted(foreign.name.clone()) })
            }
            None => Ok(()),
        }
    }

    fn judge_key(&self, relation: &Relation, schema: &str, table: &str) -> Result<(), SchemaError> {
        if !relation.unique.iter().any(|index| index.is_on(self.key)) {
            return Err(SchemaError::NoKey {
                table: table.to_owned(),
                key: self.key.join(", "),
                ddl: format!(
                    "CREATE UNIQUE INDEX{} ON {table} ({})",
                    beside_writers(&relation.kind),
                    self.key.join(", ")
                ),
            });
        }
        for index in &relation.unique {
            let narrower = index.columns.len() < self.key.len()
                && index.columns.iter().all(|column| self.columns.iter().any(|ours| ours.name == column));
            if !narrower {
                continue;
            }
            if index.is_on(&OLD_KEY) {
                warn!(
                    table,
                    index = index.name,
                    "unique index of an earlier release does not know the cluster; drop it"
                );
                continue;
            }
            return Err(SchemaError::NarrowKey {
                table: table.to_owned(),
                columns: index.columns.join(", "),
                ddl: index.drop(&relation.kind, schema, table),
                index: Quoted(index.name.clone()),
            });
        }
        Ok(())
    }
}

/// Which of the two tables are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Present {
    pub(super) data: bool,
    pub(super) state: bool,
}

/// Looks which tables are there, for somebody who will not make any.
pub(super) async fn present(client: &Client, names: &Names, deadline: Instant) -> Result<Present, PostgresError> {
    let doing = || format!("look for table {}", names.data());
    let sql = "SELECT coalesce(bool_or(c.relname = $2), false), coalesce(bool_or(c.relname = $3), false) \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1";
    let params: [(&(dyn ToSql + Sync), Type); 3] =
        [(&names.schema, Type::TEXT), (&names.table, Type::TEXT), (&names.state_table, Type::TEXT)];
    let row = in_time(deadline, doing, client.query_typed_one(sql, &params)).await?;
    let failed = |error| PostgresError::driver(doing(), error);
    Ok(Present { data: row.try_get(0).map_err(failed)?, state: row.try_get(1).map_err(failed)? })
}

/// Returns what to say of a unique index that refuses rows, with the statement that drops it; none if the table of rows
/// has no such index.
pub(super) async fn mend_unique(
    client: &Client,
    names: &Names,
    index: &str,
    deadline: Instant,
) -> Result<Option<String>, PostgresError> {
    let doing = || format!("look at unique index {index} of table {}", names.data());
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = c.oid AND k.contype IN ('p', 'u')), \
         ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid ORDER BY a.attnum), \
         t.relkind::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid \
         JOIN pg_catalog.pg_class t ON t.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace \
         WHERE n.nspname = $1 AND t.relname = $2 AND c.relname = $3";
    let params: [(&(dyn ToSql + Sync), Type); 3] =
        [(&names.schema, Type::TEXT), (&names.table, Type::TEXT), (&index, Type::TEXT)];
    let row = in_time(deadline, doing, client.query_typed_opt(sql, &params)).await?;
    let Some(row) = row else { return Ok(None) };
    let failed = |error| PostgresError::driver(doing(), error);
    let (is_constraint, columns) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
    let kind: String = row.try_get(2).map_err(failed)?;
    let index = UniqueIndex { name: index.to_owned(), is_constraint, columns };
    let why = if index.is_on(&OLD_KEY) {
        "the key of earlier releases does not know the cluster; once none of them writes here, run"
    } else {
        "this unique index is none of ours and refuses rows that differ; run"
    };
    Ok(Some(format!("{why}: {}", index.drop(&kind, &names.schema, &names.data()))))
}

/// Asks the catalog.
async fn inspect(client: &Client, names: &Names, deadline: Instant) -> Result<Found, PostgresError> {
    let doing = || format!("look at table {}", names.data());
    let server = "SELECT current_setting('server_version_num')::int4, current_setting('server_version'), \
         current_user::text, current_setting('transaction_read_only') = 'on', n.oid IS NOT NULL, \
         coalesce(has_schema_privilege(n.oid, 'USAGE'), false), coalesce(has_schema_privilege(n.oid, 'CREATE'), false) \
         FROM (SELECT 1) one LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = $1";
    let schema: (&(dyn ToSql + Sync), Type) = (&names.schema, Type::TEXT);
    let row = in_time(deadline, doing, client.query_typed_one(server, std::slice::from_ref(&schema))).await?;
    let failed = |error| PostgresError::driver(doing(), error);
    let mut found = Found {
        version: row.try_get(0).map_err(failed)?,
        version_text: row.try_get(1).map_err(failed)?,
        role: row.try_get(2).map_err(failed)?,
        read_only: row.try_get(3).map_err(failed)?,
        schema: row.try_get(4).map_err(failed)?,
        may_use: row.try_get(5).map_err(failed)?,
        may_create: row.try_get(6).map_err(failed)?,
        data: None,
        state: None,
    };
    let relations = "SELECT c.relname::text, c.oid, c.relkind::text, \
         has_table_privilege(c.oid, 'SELECT'), has_table_privilege(c.oid, 'INSERT'), \
         has_table_privilege(c.oid, 'UPDATE'), has_table_privilege(c.oid, 'DELETE'), \
         pg_has_role(c.relowner, 'USAGE') FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relname = ANY ($2)";
    let tables = [names.table.as_str(), names.state_table.as_str()];
    let rows =
        in_time(deadline, doing, client.query_typed(relations, &[schema, (&&tables[..], Type::TEXT_ARRAY)])).await?;
    for row in rows {
        let name: String = row.try_get(0).map_err(failed)?;
        let mut relation = Relation {
            oid: row.try_get(1).map_err(failed)?,
            kind: row.try_get(2).map_err(failed)?,
            is_owned: row.try_get(7).map_err(failed)?,
            ..Relation::default()
        };
        let shape = if name == names.table { &DATA } else { &STATE };
        for (index, privilege) in shape.privileges.iter().enumerate() {
            let granted: bool = row.try_get(3 + index).map_err(failed)?;
            if !granted {
                relation.missing_privileges.push(*privilege);
            }
        }
        read_columns(client, &mut relation, names, deadline).await?;
        let place = if name == names.table { &mut found.data } else { &mut found.state };
        *place = Some(relation);
    }
    Ok(found)
}

async fn read_columns(
    client: &Client,
    relation: &mut Relation,
    names: &Names,
    deadline: Instant,
) -> Result<(), PostgresError> {
    let doing = || format!("look at table {}", names.data());
    let failed = |error| PostgresError::driver(doing(), error);
    let columns = "SELECT attname::text, format_type(atttypid, atttypmod), \
         attnotnull AND NOT atthasdef AND attidentity = '' AND attgenerated = '' \
         FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped";
    for row in in_time(deadline, doing, client.query_typed(columns, &[(&relation.oid, Type::OID)])).await? {
        relation.columns.push(FoundColumn {
            name: row.try_get(0).map_err(failed)?,
            kind: row.try_get(1).map_err(failed)?,
            needs_value: row.try_get(2).map_err(failed)?,
        });
    }
    // Partial and expression indexes say nothing about the key, invalid ones are being built or failed to.
    let unique = "SELECT c.relname::text, \
         EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u')), \
         array_agg(a.attname::text ORDER BY a.attname) \
         FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1]) \
         WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL \
         GROUP BY c.relname, i.indexrelid ORDER BY c.relname";
    for row in in_time(deadline, doing, client.query_typed(unique, &[(&relation.oid, Type::OID)])).await? {
        relation.unique.push(UniqueIndex {
            name: row.try_get(0).map_err(failed)?,
            is_constraint: row.try_get(1).map_err(failed)?,
            columns: row.try_get(2).map_err(failed)?,
        });
    }
    Ok(())
}
