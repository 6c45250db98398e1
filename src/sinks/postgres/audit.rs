//! Is the table as we left it? And if it is not, where?
//!
//! The first question costs the server one aggregate and the network nothing: the rows are counted and hashed where they
//! are, and compared with what the last delivery wrote into the state row. Only when that differs are the rows sent over
//! once, and the server names those that it has otherwise.

use std::collections::HashMap;

use tokio_postgres::types::{ToSql, Type};

use super::connect::in_time;
use super::error::PostgresError;
use super::write::{self, Batch};
use super::{Session, recover, state};
use crate::export::{Held, Scope, Selection};
use crate::model::{Row, RowKey};
use crate::sinks::Audit;

/// Statements of an audit.
#[derive(Debug)]
pub(super) struct AuditSql {
    record: String,
    compare: String,
}

impl AuditSql {
    pub(super) fn new(data: &str, state: &str) -> Self {
        let of_scope = "cluster = $1 AND inventory_namespace = $2 AND inventory_name = $3";
        Self {
            record: format!("SELECT rows, hash IS NOT NULL FROM {state} WHERE {of_scope}"),
            // One statement sees both tables at one moment, between two deliveries.
            compare: format!(
                "SELECT coalesce(s.rows = n.rows AND s.hash = n.hash, false) FROM (SELECT rows, hash FROM {state} \
                 WHERE {of_scope}) s, (SELECT count(*) AS rows, coalesce(bit_xor({}), 0) AS hash FROM {data} t \
                 WHERE {of_scope}) n",
                write::hash("t")
            ),
        }
    }
}

/// Compares the rows of a scope with its record, in the open transaction.
pub(super) async fn audit(session: &Session<'_>, scope: &Scope) -> Result<Audit, PostgresError> {
    let doing = || format!("audit the rows of inventory {} in {}", scope.inventory, session.data());
    let failed = |error| PostgresError::driver(doing(), error);
    let (cluster, namespace, name) = state::key(scope);
    let params: [(&(dyn ToSql + Sync), Type); 3] =
        [(&cluster, Type::TEXT), (&namespace, Type::TEXT), (&name, Type::TEXT)];
    let record = session.client().query_typed_opt(&session.sql.audit.record, &params);
    let Some(record) = in_time(session.deadline(), doing, record).await? else {
        // Nothing is on record, which is right as long as nothing is there.
        return Ok(if write::is_filled(session, scope).await? { Audit::Drifted } else { Audit::Intact });
    };
    let rows: i64 = record.try_get(0).map_err(failed)?;
    let is_hashed: bool = record.try_get(1).map_err(failed)?;
    if !is_hashed {
        return Ok(Audit::Drifted);
    }
    let deadline = session.allow(u64::try_from(rows).unwrap_or(0)).await?;
    let compare = session.client().query_typed_opt(&session.sql.audit.compare, &params);
    let Some(row) = in_time(deadline, doing, compare).await? else { return Ok(Audit::Drifted) };
    let same: bool = row.try_get(0).map_err(failed)?;
    Ok(if same { Audit::Intact } else { Audit::Drifted })
}

/// Reads a scope back and takes the fingerprint away from each row that is stored otherwise than given. The scope must be
/// claimed. Holds the keys of the scope and one batch of rows.
pub(super) async fn verify(session: &Session<'_>, scope: &Scope, rows: &[Row]) -> Result<Vec<Held>, PostgresError> {
    let mut held = recover::read(session, scope, &Selection::All).await?;
    let places: HashMap<RowKey, usize> = held.iter().enumerate().map(|(at, row)| (row.key.clone(), at)).collect();
    let mut batch = Batch::default();
    let mut rest = rows;
    while !rest.is_empty() {
        let sent = rest;
        rest = batch.fill(scope, sent);
        for position in write::differing(session, scope, &batch).await? {
            let place = sent.get(position).and_then(|row| places.get(&row.key()));
            // A row that the table lacks has no place.
            if let Some(wrong) = place.and_then(|&at| held.get_mut(at)) {
                wrong.fingerprint = None;
            }
        }
    }
    Ok(held)
}
