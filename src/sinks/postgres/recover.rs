//! Rows back from the table, as far as a comparison needs them: key, namespace, fingerprint.

use std::collections::HashSet;
use std::pin::pin;

use futures::TryStreamExt;
use tokio_postgres::types::{ToSql, Type};

use super::connect::in_time;
use super::error::PostgresError;
use super::{Session, state};
use crate::export::{Held, Scope, Selection};
use crate::model::{Fingerprint, Name, Namespace, Part, RowKey, Uid};

/// Statements that read rows back.
#[derive(Debug)]
pub(super) struct RecoverSql {
    all: String,
    parts: String,
}

impl RecoverSql {
    pub(super) fn new(data: &str) -> Self {
        let all = format!(
            "SELECT target_name, source_uid, resource_namespace, fingerprint FROM {data} \
             WHERE cluster = $1 AND inventory_namespace = $2 AND inventory_name = $3"
        );
        // One text for the pair, for it can be looked up in a hashed array; names hold no slash.
        let parts = format!("{all} AND target_name || '/' || resource_namespace = ANY ($4)");
        Self { all, parts }
    }
}

/// Reads what the table holds of a scope. Rows stream in; equal names share one allocation.
pub(super) async fn read<'a>(
    session: &Session<'_>,
    scope: &'a Scope,
    selection: &'a Selection,
) -> Result<Vec<Held>, PostgresError> {
    let doing = || format!("read the rows of inventory {} from {}", scope.inventory, session.data());
    let failed = |error| PostgresError::driver(doing(), error);
    let (cluster, namespace, name) = state::key(scope);
    let mut params: Vec<(&(dyn ToSql + Sync), Type)> =
        vec![(&cluster, Type::TEXT), (&namespace, Type::TEXT), (&name, Type::TEXT)];
    // Cluster-scoped objects are stored under the namespace of their inventory.
    let stored = |part: &'a Part| if part.namespace.is_empty() { namespace } else { part.namespace.as_str() };
    let parts: Vec<String>;
    let sql = match selection {
        Selection::All => &session.sql.recover.all,
        Selection::Parts(wanted) => {
            parts = wanted.iter().map(|part| format!("{}/{}", part.target, stored(part))).collect();
            params.push((&parts, Type::TEXT_ARRAY));
            &session.sql.recover.parts
        }
    };
    let rows = in_time(session.deadline(), doing, session.client().query_typed_raw(sql, params)).await?;
    let mut rows = pin!(rows);
    let mut held = Vec::new();
    let mut names: HashSet<Name> = HashSet::new();
    let mut namespaces: HashSet<Namespace> = HashSet::new();
    // The deadline holds for each piece: a large table may take its time as long as it moves.
    while let Some(row) = in_time(session.deadline(), doing, rows.try_next()).await? {
        let fingerprint: Option<&[u8]> = row.try_get(3).map_err(failed)?;
        held.push(Held {
            key: RowKey {
                target: shared(&mut names, row.try_get(0).map_err(failed)?, Name::new),
                uid: Uid::new(row.try_get(1).map_err(failed)?),
            },
            namespace: shared(&mut namespaces, row.try_get(2).map_err(failed)?, Namespace::new),
            fingerprint: fingerprint.and_then(|bytes| bytes.try_into().ok()).map(Fingerprint),
        });
    }
    Ok(held)
}

/// Returns the one copy of a text.
fn shared<T: Clone + Eq + std::hash::Hash + std::borrow::Borrow<str>>(
    known: &mut HashSet<T>,
    text: &str,
    make: impl FnOnce(std::sync::Arc<str>) -> T,
) -> T {
    if let Some(there) = known.get(text) {
        return there.clone();
    }
    let first = make(text.into());
    known.insert(first.clone());
    first
}
