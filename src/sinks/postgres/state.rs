//! Who writes a scope: one row of `<table>_state` for each (cluster, inventory).
//!
//! Before anything of a scope is compared or written, its state row is [claimed](claim): locked, checked, and marked
//! with our epoch, in the same transaction. From then on an older instance of this operator is refused, whatever it
//! still has in hand, and so is an operator of another cluster that was given the same `spec.cluster`.
//!
//! A writer is `<process>/<inventory UID>`; the empty one is nobody: the rows were left on purpose, whoever claims them
//! first has them, and no clean-up touches them.

use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::connect::in_time;
use super::error::PostgresError;
use super::{Session, Writer};
use crate::export::Scope;
use crate::model::{Cluster, Name, Namespace, ObjectKey, Uid};

/// Another operator counts as gone when its last sign of life is older than this.
const ABANDONED_SECONDS: i64 = 600;

/// Statements over the state table.
#[derive(Debug)]
pub(super) struct StateSql {
    select: String,
    insert: String,
    take: String,
    lock: &'static str,
    epoch: String,
    heartbeat: String,
    orphan: String,
    remove: String,
    scopes: String,
}

/// What the row says before we touch it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    writer: String,
    epoch: i64,
    /// Seconds since the last sign of life.
    silent_seconds: i64,
    rows: i64,
}

/// What to do with the row.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    Take,
}

/// Whose a scope is, for somebody who leaves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// Ours, with this many rows when it was last written.
    Us { rows: i64 },
    /// Nobody has it on record.
    Unrecorded,
    /// Another operator's, an inventory's of the same name that came after this one, or nobody's on purpose.
    NotUs,
}

impl StateSql {
    pub(super) fn new(state: &str) -> Self {
        Self {
            select: format!(
                "SELECT writer, epoch, coalesce(extract(epoch FROM clock_timestamp() - heartbeat), 0)::bigint, rows \
                 FROM {state} WHERE cluster = $1 AND inventory_namespace = $2 AND inventory_name = $3 FOR UPDATE"
            ),
            insert: format!(
                "INSERT INTO {state} (cluster, inventory_namespace, inventory_name, writer, epoch, heartbeat) \
                 VALUES ($1, $2, $3, $4, $5, now()) ON CONFLICT DO NOTHING"
            ),
            take: format!(
                "UPDATE {state} SET writer = $4, epoch = $5, heartbeat = now() \
                 WHERE cluster = $1 AND inventory_namespace = $2 AND inventory_name = $3"
            ),
            lock: "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))",
            epoch: format!("SELECT coalesce(max(epoch), 0)::bigint FROM {state} WHERE split_part(writer, '/', 1) = $1"),
            heartbeat: format!(
                "UPDATE {state} s SET heartbeat = now() FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) \
                 AS k(cluster, inventory_namespace, inventory_name, writer) WHERE s.cluster = k.cluster \
                 AND s.inventory_namespace = k.inventory_namespace AND s.inventory_name = k.inventory_name \
                 AND s.writer = k.writer AND s.epoch <= $5"
            ),
            orphan: format!(
                "UPDATE {state} SET writer = '' WHERE cluster = $1 AND inventory_namespace = $2 AND inventory_name = $3"
            ),
            remove: format!(
                "DELETE FROM {state} WHERE cluster = $1 AND inventory_namespace = $2 AND inventory_name = $3"
            ),
            scopes: format!(
                "SELECT cluster, inventory_namespace, inventory_name, substr(writer, length($1) + 2) FROM {state} \
                 WHERE starts_with(writer, $1 || '/')"
            ),
        }
    }
}

/// Takes the epoch of this process for a destination, newer than all that an earlier one left, and claims the scope under
/// it in the open transaction. The epoch holds once the transaction is committed: until then another life that starts at
/// the same moment waits for the lock, and afterwards it finds this one's epoch in the row.
pub(super) async fn first_claim(session: &Session<'_>, scope: &Scope, writer: &Writer) -> Result<i64, PostgresError> {
    let doing = || format!("take an epoch in {}", session.state());
    let name = format!("kollect epoch {} {}", session.state(), writer.process);
    let params: [(&(dyn ToSql + Sync), Type); 1] = [(&name, Type::TEXT)];
    in_time(session.deadline(), doing, session.client().query_typed(session.sql.state.lock, &params)).await?;
    let params: [(&(dyn ToSql + Sync), Type); 1] = [(&writer.process, Type::TEXT)];
    let query = session.client().query_typed_one(&session.sql.state.epoch, &params);
    let row = in_time(session.deadline(), doing, query).await?;
    let highest: i64 = row.try_get(0).map_err(|error| PostgresError::driver(doing(), error))?;
    let epoch = writer.lease_transitions.max(highest.saturating_add(1));
    claim(session, scope, writer, epoch).await?;
    Ok(epoch)
}

/// Locks the state row of a scope for the open transaction and makes sure that it is ours.
pub(super) async fn claim(
    session: &Session<'_>,
    scope: &Scope,
    writer: &Writer,
    epoch: i64,
) -> Result<(), PostgresError> {
    let Some(known) = lock(session, scope).await? else { return insert(session, scope, writer, epoch).await };
    let ours = writer.of(scope);
    if judge(&known, writer, &ours, epoch, scope, &session.data())? == Verdict::Take {
        let params: [(&(dyn ToSql + Sync), Type); 2] = [(&ours, Type::TEXT), (&epoch, Type::INT8)];
        execute(session, scope, &session.sql.state.take, "claim", &params).await?;
    }
    Ok(())
}

/// Locks the state row of a scope for the open transaction and says whose it is. A scope without a row gets one, so that
/// nobody else can begin to write it meanwhile. `epoch` is none when this process has claimed nothing here so far.
pub(super) async fn own(
    session: &Session<'_>,
    scope: &Scope,
    writer: &Writer,
    epoch: Option<i64>,
) -> Result<Owner, PostgresError> {
    let Some(known) = lock(session, scope).await? else {
        insert(session, scope, writer, epoch.unwrap_or(writer.lease_transitions)).await?;
        return Ok(Owner::Unrecorded);
    };
    if known.writer != writer.of(scope) {
        return Ok(Owner::NotUs);
    }
    match epoch {
        Some(epoch) if known.epoch > epoch => Err(fenced(&known, epoch, scope, &session.data())),
        _ => Ok(Owner::Us { rows: known.rows }),
    }
}

/// Leaves a scope to nobody.
pub(super) async fn orphan(session: &Session<'_>, scope: &Scope) -> Result<(), PostgresError> {
    execute(session, scope, &session.sql.state.orphan, "leave", &[]).await.map(drop)
}

/// Removes the record of a scope.
pub(super) async fn remove(session: &Session<'_>, scope: &Scope) -> Result<(), PostgresError> {
    execute(session, scope, &session.sql.state.remove, "leave", &[]).await.map(drop)
}

/// Returns the scopes that this operator has on record.
pub(super) async fn scopes(session: &Session<'_>, writer: &Writer) -> Result<Vec<Scope>, PostgresError> {
    let doing = || format!("read the inventories of {}", session.state());
    let params: [(&(dyn ToSql + Sync), Type); 1] = [(&writer.process, Type::TEXT)];
    let query = session.client().query_typed(&session.sql.state.scopes, &params);
    let rows = in_time(session.deadline(), doing, query).await?;
    let scope = |row: &Row| -> Result<Scope, tokio_postgres::Error> {
        Ok(Scope {
            cluster: Cluster::new(row.try_get::<_, &str>(0)?),
            inventory: ObjectKey::new(
                Namespace::new(row.try_get::<_, &str>(1)?),
                Name::new(row.try_get::<_, &str>(2)?),
            ),
            inventory_uid: Uid::new(row.try_get(3)?),
        })
    };
    rows.iter().map(|row| scope(row).map_err(|error| PostgresError::driver(doing(), error))).collect()
}

/// Reads and locks the state row of a scope.
async fn lock(session: &Session<'_>, scope: &Scope) -> Result<Option<Known>, PostgresError> {
    let doing = || format!("claim inventory {} in {}", scope.inventory, session.state());
    let (cluster, namespace, name) = key(scope);
    let params: [(&(dyn ToSql + Sync), Type); 3] =
        [(&cluster, Type::TEXT), (&namespace, Type::TEXT), (&name, Type::TEXT)];
    let select = session.client().query_typed_opt(&session.sql.state.select, &params);
    let Some(row) = in_time(session.deadline(), doing, select).await? else { return Ok(None) };
    let failed = |error| PostgresError::driver(doing(), error);
    Ok(Some(Known {
        writer: row.try_get(0).map_err(failed)?,
        epoch: row.try_get(1).map_err(failed)?,
        silent_seconds: row.try_get(2).map_err(failed)?,
        rows: row.try_get(3).map_err(failed)?,
    }))
}

/// Makes the state row of a scope that has none.
async fn insert(session: &Session<'_>, scope: &Scope, writer: &Writer, epoch: i64) -> Result<(), PostgresError> {
    let params: [(&(dyn ToSql + Sync), Type); 2] = [(&writer.of(scope), Type::TEXT), (&epoch, Type::INT8)];
    match execute(session, scope, &session.sql.state.insert, "claim", &params).await? {
        1 => Ok(()),
        _ => Err(PostgresError::Raced { inventory: scope.inventory.to_string(), table: session.data() }),
    }
}

/// Runs a statement over the state row of a scope; `more` goes after the key.
async fn execute(
    session: &Session<'_>,
    scope: &Scope,
    sql: &str,
    verb: &str,
    more: &[(&(dyn ToSql + Sync), Type)],
) -> Result<u64, PostgresError> {
    let doing = || format!("{verb} inventory {} in {}", scope.inventory, session.state());
    let (cluster, namespace, name) = key(scope);
    let mut params: Vec<(&(dyn ToSql + Sync), Type)> =
        vec![(&cluster, Type::TEXT), (&namespace, Type::TEXT), (&name, Type::TEXT)];
    params.extend_from_slice(more);
    in_time(session.deadline(), doing, session.client().execute_typed(sql, &params)).await
}

/// Decides whether a state row may be written. Pure.
fn judge(
    known: &Known,
    writer: &Writer,
    ours: &str,
    epoch: i64,
    scope: &Scope,
    table: &str,
) -> Result<Verdict, PostgresError> {
    if known.writer.is_empty() {
        return Ok(Verdict::Take);
    }
    let process = known.writer.split_once('/').map_or(known.writer.as_str(), |(process, _)| process);
    if process != writer.process {
        if known.silent_seconds >= ABANDONED_SECONDS {
            return Ok(Verdict::Take);
        }
        return Err(PostgresError::ClusterConflict {
            cluster: scope.cluster.to_string(),
            inventory: scope.inventory.to_string(),
            table: table.to_owned(),
            writer: known.writer.clone(),
            seen_seconds: known.silent_seconds.max(0),
        });
    }
    if known.epoch > epoch {
        return Err(fenced(known, epoch, scope, table));
    }
    // An inventory that was deleted and made again keeps the row under its new UID.
    let same = known.epoch == epoch && known.writer == ours;
    Ok(if same { Verdict::Keep } else { Verdict::Take })
}

fn fenced(known: &Known, epoch: i64, scope: &Scope, table: &str) -> PostgresError {
    let (inventory, table) = (scope.inventory.to_string(), table.to_owned());
    PostgresError::Fenced { inventory, table, theirs: known.epoch, ours: epoch }
}

/// Marks scopes as watched; those of other writers are left alone.
pub(super) async fn heartbeat(
    session: &Session<'_>,
    scopes: &[&Scope],
    writer: &Writer,
    epoch: i64,
) -> Result<(), PostgresError> {
    let doing = || format!("write the heartbeat of {} inventories to {}", scopes.len(), session.state());
    let keys: Vec<_> = scopes.iter().map(|scope| key(scope)).collect();
    let clusters: Vec<&str> = keys.iter().map(|key| key.0).collect();
    let namespaces: Vec<&str> = keys.iter().map(|key| key.1).collect();
    let names: Vec<&str> = keys.iter().map(|key| key.2).collect();
    let writers: Vec<String> = scopes.iter().map(|scope| writer.of(scope)).collect();
    let params: [(&(dyn ToSql + Sync), Type); 5] = [
        (&clusters, Type::TEXT_ARRAY),
        (&namespaces, Type::TEXT_ARRAY),
        (&names, Type::TEXT_ARRAY),
        (&writers, Type::TEXT_ARRAY),
        (&epoch, Type::INT8),
    ];
    let update = session.client().execute_typed(&session.sql.state.heartbeat, &params);
    in_time(session.deadline(), doing, update).await.map(|_| ())
}

/// Returns the first three columns of both keys.
pub(super) fn key(scope: &Scope) -> (&str, &str, &str) {
    (scope.cluster.as_str(), scope.inventory.namespace.as_str(), scope.inventory.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Class, Classify};

    fn verdict(writer: &str, epoch: i64, silent_seconds: i64) -> Result<Verdict, PostgresError> {
        let scope = Scope {
            cluster: Cluster::new("west"),
            inventory: ObjectKey::new(Namespace::new("team-a"), Name::new("apps")),
            inventory_uid: Uid::new("inv"),
        };
        let us = Writer { process: "us".to_owned(), lease_transitions: 3 };
        let known = Known { writer: writer.to_owned(), epoch, silent_seconds, rows: 0 };
        judge(&known, &us, "us/inv", 5, &scope, "\"public\".\"items\"")
    }

    #[test]
    fn own_row_is_kept_or_taken_by_epoch() {
        assert_eq!(verdict("us/inv", 5, 0).unwrap(), Verdict::Keep);
        assert_eq!(verdict("us/inv", 4, 0).unwrap(), Verdict::Take);
        assert_eq!(verdict("us/predecessor", 5, 0).unwrap(), Verdict::Take);
        let fenced = verdict("us/inv", 6, 100_000).unwrap_err();
        assert!(matches!(fenced, PostgresError::Fenced { theirs: 6, ours: 5, .. }));
        assert_eq!(fenced.class(), Class::Terminal);
    }

    #[test]
    fn row_of_another_operator_is_taken_only_when_it_is_silent() {
        let conflict = verdict("them/inv", 1, 599).unwrap_err();
        assert_eq!(conflict.class(), Class::Terminal);
        assert_eq!(
            conflict.to_string(),
            "rows of cluster \"west\" for inventory team-a/apps in \"public\".\"items\" belong to another operator (writer \
             them/inv, last seen 599 s ago); set spec.cluster of the sink to a name that no other operator uses"
        );
        assert_eq!(verdict("them/inv", 9, 600).unwrap(), Verdict::Take);
    }

    #[test]
    fn row_of_nobody_is_taken_at_once() {
        assert_eq!(verdict("", 9, 0).unwrap(), Verdict::Take);
    }
}
