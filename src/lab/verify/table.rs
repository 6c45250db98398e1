//! What the database says: the rows of a cluster as they are stored, and the states beside them.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use tokio_postgres::Row;

use super::Held;
use super::item::Item;
use crate::lab::postgres::Database;
use crate::model::{Digest, Name, Namespace, ObjectKey};

/// The table of a cluster.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) rows: usize,
    /// The rows by inventory and key.
    pub(super) held: Held,
    /// The digest of the rows of each inventory, made anew.
    pub(super) digests: BTreeMap<ObjectKey, Digest>,
    /// Rows whose key another one has too.
    pub(super) duplicates: usize,
    /// Rows whose columns do not say what their payload says, or whose payload is none.
    pub(super) odd: Vec<String>,
    pub(super) states: BTreeMap<ObjectKey, State>,
}

/// What stands in the table of states.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct State {
    pub(super) rows: i64,
    pub(super) digest: String,
    pub(super) heartbeat_seconds: f64,
    pub(super) write_seconds: Option<f64>,
}

/// Reads all rows of a cluster; `None` where there is no such table.
pub(super) async fn read(dsn: &str, name: &str, cluster: &str) -> Result<Option<Table>> {
    let database = Database::connect(dsn).await?;
    let there = database.query_one("SELECT to_regclass($1) IS NOT NULL", &[&name]).await?;
    if !there.get::<_, bool>(0) {
        return Ok(None);
    }
    let mut table = Table::default();
    let query = format!(
        "SELECT inventory_namespace, inventory_name, target_name, source_uid, resource_namespace, payload::text \
         FROM {name} WHERE cluster = $1"
    );
    let rows = database.query_raw(&query, [&cluster]).await.with_context(|| format!("failed to read {name}"))?;
    let mut rows = pin!(rows);
    while let Some(row) = rows.try_next().await.with_context(|| format!("failed to read {name}"))? {
        table.add(&row);
    }
    let query = format!(
        "SELECT inventory_namespace, inventory_name, rows, digest, extract(epoch FROM now() - heartbeat)::float8, \
         extract(epoch FROM now() - last_write)::float8 FROM {name}_state WHERE cluster = $1 AND writer <> ''"
    );
    for row in database.query(&query, &[&cluster]).await.with_context(|| format!("failed to read {name}_state"))? {
        let (rows, digest) = (row.get(2), row.get(3));
        let (heartbeat_seconds, write_seconds) = (row.get(4), row.get(5));
        table.states.insert(inventory(&row), State { rows, digest, heartbeat_seconds, write_seconds });
    }
    Ok(Some(table))
}

impl Table {
    fn add(&mut self, row: &Row) {
        self.rows += 1;
        let key = inventory(row);
        let (target, uid, namespace): (&str, &str, &str) = (row.get(2), row.get(3), row.get(4));
        let item = match serde_json::from_str(row.get(5)).map_err(Into::into).and_then(Item::read) {
            Ok(item) => item,
            Err(error) => return self.odd.push(format!("{uid} of {key}: {error:#}")),
        };
        let says = (item.key.target.as_str(), item.key.uid.to_string(), item.namespace.as_str());
        if says != (target, uid.to_owned(), namespace) {
            self.odd.push(format!("{uid} of {key}: the payload is that of {} of target {}", says.1, says.0));
        }
        self.digests.entry(key.clone()).or_default().add(item.said.hash);
        let of_inventory: &mut HashMap<_, _> = self.held.entry(key).or_default();
        if of_inventory.insert(item.key, item.said).is_some() {
            self.duplicates += 1;
        }
    }
}

fn inventory(row: &Row) -> ObjectKey {
    ObjectKey::new(Namespace::new(row.get::<_, &str>(0)), Name::new(row.get::<_, &str>(1)))
}
