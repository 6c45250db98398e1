//! Rows into the table: one transaction, bounded memory, and nothing that is already there.
//!
//! A first delivery is streamed by binary `COPY` straight into the table. Every other one goes in batches of typed
//! arrays: each batch is one statement that looks its rows up by key, leaves the equal ones alone (they are not even
//! locked), writes the rest and returns what that does to the hash of the inventory. `COPY` into a temporary table was
//! ruled out: it gains an estimated third when every row of a large inventory changes, and costs catalog rows and more
//! round trips in all the deliveries that matter.

use std::pin::pin;

use bytes::{BufMut, Bytes, BytesMut};
use futures::SinkExt;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::connect::in_time;
use super::error::PostgresError;
use super::schema::Facts;
use super::{Session, state};
use crate::canonical;
use crate::export::{Base, Delta, Scope};
use crate::model::{Fingerprint, Row, RowKey};
use crate::sinks::{Receipt, Refused};

/// A chunk of a `COPY` is sent when it has grown to this.
const CHUNK_BYTES: usize = 64 * 1024;

/// Rows of one `COPY` statement, so that each statement stays well inside its timeout.
const COPY_ROWS: usize = 25_000;

/// Limits of one batch of arrays: whichever is reached first.
const BATCH_ROWS: usize = 1_000;
const BATCH_BYTES: usize = 256 * 1024;

/// Microseconds between the epochs of Unix and of PostgreSQL (2000-01-01).
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Statements over the table of rows.
#[derive(Debug)]
pub(super) struct WriteSql {
    filled: String,
    copy: String,
    upsert: String,
    differing: String,
    delete: String,
    delete_all: String,
    finish: String,
}

/// What the delivery has done so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    inserted: i64,
    updated: i64,
    deleted: i64,
    hash: i64,
    bytes: u64,
}

impl Tally {
    /// Returns what the caller is told.
    pub(super) fn receipt(&self, refused: Vec<Refused>) -> Receipt {
        Receipt {
            written: u64::try_from(self.inserted + self.updated).unwrap_or(0),
            deleted: u64::try_from(self.deleted).unwrap_or(0),
            bytes: self.bytes,
            refused,
            checksum: None,
        }
    }
}

impl WriteSql {
    pub(super) fn new(data: &str, state: &str) -> Self {
        let scope = |alias: &str| {
            format!("{alias}.cluster = $1 AND {alias}.inventory_namespace = $2 AND {alias}.inventory_name = $3")
        };
        let of_scope = scope("t");
        let (hash_t, hash_w, hash_g) = (hash("t"), hash("w"), hash("g"));
        let lookup = format!(
            "LEFT JOIN LATERAL (SELECT t.* FROM {data} t WHERE {of_scope} AND t.target_name = u.target_name \
             AND t.source_uid = u.source_uid LIMIT 1) t ON true"
        );
        let content_differs =
            "(t.resource_namespace IS DISTINCT FROM u.resource_namespace OR t.payload IS DISTINCT FROM u.payload)";
        let differs = format!("(t.fingerprint IS DISTINCT FROM u.fingerprint OR {content_differs})");
        Self {
            filled: format!("SELECT EXISTS (SELECT FROM {data} t WHERE {of_scope})"),
            copy: format!(
                "COPY {data} (cluster, inventory_namespace, inventory_name, target_name, source_uid, resource_namespace, \
                 payload, exported_at, fingerprint) FROM STDIN WITH (FORMAT binary)"
            ),
            // `d` reads the old versions in the snapshot of the statement, before `w` changes them. Each row is looked up by
            // itself (LIMIT keeps the planner from joining in bulk): right after a first delivery there are no statistics,
            // and a planner that believes in one row per inventory reads the whole inventory for each row.
            //
            // A row that has all that we would write but the fingerprint (it comes from an earlier release) is given the
            // fingerprint and keeps its time: it did not change. One whose fingerprint is right and whose content is not was
            // edited by somebody, and is written.
            upsert: format!(
                "WITH d AS MATERIALIZED (SELECT u.*, t.source_uid IS NULL AS is_new, {content_differs} AS is_changed, \
                 {hash_t} AS old_hash \
                 FROM unnest($4::text[], $5::text[], $6::text[], $7::jsonb[], $8::bytea[]) \
                 AS u(target_name, source_uid, resource_namespace, payload, fingerprint) \
                 {lookup} WHERE {differs}), \
                 w AS (INSERT INTO {data} AS w (cluster, inventory_namespace, inventory_name, target_name, source_uid, \
                 resource_namespace, payload, exported_at, fingerprint) \
                 SELECT $1, $2, $3, target_name, source_uid, resource_namespace, payload, $9, fingerprint FROM d \
                 ON CONFLICT (cluster, inventory_namespace, inventory_name, target_name, source_uid) DO UPDATE SET \
                 resource_namespace = excluded.resource_namespace, payload = excluded.payload, fingerprint = \
                 excluded.fingerprint, exported_at = CASE WHEN w.payload = excluded.payload AND w.resource_namespace = \
                 excluded.resource_namespace THEN w.exported_at ELSE excluded.exported_at END \
                 RETURNING {hash_w} AS new_hash) \
                 SELECT (SELECT count(*) FROM d WHERE is_new), (SELECT count(*) FROM d WHERE is_changed AND NOT is_new), \
                 coalesce((SELECT bit_xor(old_hash) FROM d WHERE NOT is_new), 0) # \
                 coalesce((SELECT bit_xor(new_hash) FROM w), 0)"
            ),
            differing: format!(
                "SELECT u.n FROM unnest($4::text[], $5::text[], $6::text[], $7::jsonb[], $8::bytea[]) WITH ORDINALITY \
                 AS u(target_name, source_uid, resource_namespace, payload, fingerprint, n) \
                 {lookup} WHERE {differs}"
            ),
            delete: format!(
                "WITH g AS (DELETE FROM {data} g WHERE {} AND g.target_name = $4 AND g.source_uid = ANY ($5) \
                 RETURNING {hash_g} AS old_hash) SELECT count(*), coalesce(bit_xor(old_hash), 0) FROM g",
                scope("g")
            ),
            delete_all: format!("DELETE FROM {data} t WHERE {of_scope}"),
            // The hash is kept up to date by what changed, made anew from what is there, or voided until it is made anew:
            // a mend that could not look everywhere must not vouch for what it did not see.
            finish: format!(
                "UPDATE {state} s SET (rows, hash) = (SELECT CASE WHEN n.counted THEN n.rows ELSE s.rows + $4 END, \
                 CASE $9 WHEN '{KEEP}' THEN s.hash # $5 WHEN '{RENEW}' THEN coalesce(n.hash, 0) END \
                 FROM (SELECT false AS counted, 0 AS rows, 0::bigint AS hash \
                 WHERE $9 = '{KEEP}' AND s.last_write IS NOT NULL \
                 UNION ALL SELECT true, count(*), bit_xor(CASE $9 WHEN '{RENEW}' THEN {hash_t} END) FROM {data} t \
                 WHERE {of_scope} HAVING $9 <> '{KEEP}' OR s.last_write IS NULL) n), \
                 digest = $6, seq = $7, generation = $8, last_write = now(), heartbeat = now() \
                 WHERE s.cluster = $1 AND s.inventory_namespace = $2 AND s.inventory_name = $3"
            ),
        }
    }
}

/// What becomes of the hash in the state row.
const KEEP: &str = "keep";
const RENEW: &str = "renew";
const VOID: &str = "void";

/// The hash of one row: over all that is stored of it but the time and the scope, which is that of all rows hashed
/// together. The payload is hashed as it is stored, seeded by the hash of the rest, so that rows cannot trade payloads; its
/// text would cost twice as much as everything else.
pub(super) fn hash(alias: &str) -> String {
    format!(
        "jsonb_hash_extended({alias}.payload, hashtextextended(concat_ws('|', {alias}.target_name, {alias}.source_uid, \
         {alias}.resource_namespace, encode({alias}.fingerprint, 'hex')), 0))"
    )
}

/// Writes a delta inside the open transaction of the session. The scope must be claimed.
pub(super) async fn write(
    session: &Session<'_>,
    delta: &Delta,
    facts: &Facts,
    stamp: Stamp,
) -> Result<Receipt, PostgresError> {
    let mut tally = Tally::default();
    let try_copy = delta.base == Base::Empty && !delta.upserts.is_empty();
    if try_copy && !is_filled(session, &delta.scope).await? {
        for rows in delta.upserts.chunks(COPY_ROWS) {
            copy(session, &delta.scope, rows, stamp, &mut tally).await?;
        }
    } else {
        let mut rest = delta.upserts.as_slice();
        let mut batch = Batch::default();
        while !rest.is_empty() {
            rest = batch.fill(&delta.scope, rest);
            upsert(session, &delta.scope, &batch, stamp, &mut tally).await?;
        }
    }
    deletes(session, delta, &mut tally).await?;
    if facts.has_state {
        finish(session, delta, &tally).await?;
    }
    Ok(tally.receipt(Vec::new()))
}

/// Deletes the keys that are gone.
pub(super) async fn deletes(session: &Session<'_>, delta: &Delta, tally: &mut Tally) -> Result<(), PostgresError> {
    for of_target in delta.deletes.chunk_by(|a, b| a.target == b.target) {
        for keys in of_target.chunks(BATCH_ROWS) {
            delete(session, &delta.scope, keys, tally).await?;
        }
    }
    Ok(())
}

/// Returns the fingerprint of a row as this sink stores it.
pub(super) fn fingerprint(scope: &Scope, row: &Row) -> Fingerprint {
    let mut payload = Vec::new();
    canonical::write_item(row, &mut payload);
    stored_fingerprint(scope, row, &row.uid.to_string(), &payload)
}

/// Goes over every stored column but the time.
fn stored_fingerprint(scope: &Scope, row: &Row, uid: &str, payload: &[u8]) -> Fingerprint {
    let (cluster, namespace, name) = state::key(scope);
    canonical::fingerprint(&[
        cluster.as_bytes(),
        namespace.as_bytes(),
        name.as_bytes(),
        row.origin.target.name.as_str().as_bytes(),
        uid.as_bytes(),
        resource_namespace(scope, row).as_bytes(),
        payload,
    ])
}

/// Returns the `resource_namespace` of a row: a cluster-scoped object counts to the namespace of its inventory.
fn resource_namespace<'a>(scope: &'a Scope, row: &'a Row) -> &'a str {
    if row.namespace.is_empty() { scope.inventory.namespace.as_str() } else { row.namespace.as_str() }
}

/// Tells whether the table has a row of the scope.
pub(super) async fn is_filled(session: &Session<'_>, scope: &Scope) -> Result<bool, PostgresError> {
    let doing = || format!("look for rows of inventory {} in {}", scope.inventory, session.data());
    let (cluster, namespace, name) = state::key(scope);
    let params: [(&(dyn ToSql + Sync), Type); 3] =
        [(&cluster, Type::TEXT), (&namespace, Type::TEXT), (&name, Type::TEXT)];
    let row = in_time(session.deadline(), doing, session.client().query_typed_one(&session.sql.write.filled, &params))
        .await?;
    row.try_get(0).map_err(|error| PostgresError::driver(doing(), error))
}

/// Streams rows in. The server's complaint about an earlier row arrives at the end, so a failed send asks for it.
async fn copy(
    session: &Session<'_>,
    scope: &Scope,
    rows: &[Row],
    stamp: Stamp,
    tally: &mut Tally,
) -> Result<(), PostgresError> {
    let doing = || format!("copy {} rows of inventory {} to {}", rows.len(), scope.inventory, session.data());
    let sink = session.client().copy_in::<_, Bytes>(&session.sql.write.copy);
    let mut sink = pin!(in_time(session.deadline(), doing, sink).await?);
    let mut chunk = BytesMut::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
    let mut payload = Vec::new();
    chunk.put_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
    let (cluster, namespace, name) = state::key(scope);
    for row in rows {
        payload.clear();
        canonical::write_item(row, &mut payload);
        tally.bytes += payload.len() as u64;
        chunk.put_i16(9);
        for text in [cluster, namespace, name, row.origin.target.name.as_str()] {
            put_field(&mut chunk, &[text.as_bytes()]);
        }
        let uid = row.uid.to_string();
        put_field(&mut chunk, &[uid.as_bytes()]);
        put_field(&mut chunk, &[resource_namespace(scope, row).as_bytes()]);
        put_field(&mut chunk, &[&[JSONB_VERSION], &payload]);
        put_field(&mut chunk, &[&stamp.0.to_be_bytes()]);
        put_field(&mut chunk, &[&stored_fingerprint(scope, row, &uid, &payload).0]);
        if chunk.len() >= CHUNK_BYTES {
            let full = chunk.split().freeze();
            chunk.reserve(CHUNK_BYTES + CHUNK_BYTES / 4);
            if in_time(session.deadline(), doing, sink.send(full)).await.is_err() {
                break;
            }
        }
    }
    chunk.put_i16(-1);
    // A send that fails leaves the cause to `finish`.
    let _ = in_time(session.deadline(), doing, sink.send(chunk.freeze())).await;
    let written = in_time(session.deadline(), doing, sink.as_mut().finish()).await?;
    tally.inserted += i64::try_from(written).unwrap_or(i64::MAX);
    Ok(())
}

/// The byte that stands before the text of a binary `jsonb`.
const JSONB_VERSION: u8 = 1;

fn put_field(chunk: &mut BytesMut, pieces: &[&[u8]]) {
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    // A row is bounded by what the API server stores, far below 2 GiB.
    chunk.put_i32(i32::try_from(length).unwrap_or(i32::MAX));
    for piece in pieces {
        chunk.put_slice(piece);
    }
}

/// Rows as columns of arrays.
#[derive(Default)]
pub(super) struct Batch<'a> {
    targets: Vec<&'a str>,
    uids: Vec<String>,
    namespaces: Vec<&'a str>,
    payloads: Vec<u8>,
    ends: Vec<usize>,
    fingerprints: Vec<[u8; 16]>,
}

impl<'a> Batch<'a> {
    /// Takes rows until the batch is full and returns the rest.
    pub(super) fn fill(&mut self, scope: &'a Scope, rows: &'a [Row]) -> &'a [Row] {
        self.targets.clear();
        self.uids.clear();
        self.namespaces.clear();
        self.payloads.clear();
        self.ends.clear();
        self.fingerprints.clear();
        let mut taken = 0;
        for row in rows {
            if taken == BATCH_ROWS || self.payloads.len() >= BATCH_BYTES {
                break;
            }
            self.targets.push(row.origin.target.name.as_str());
            self.namespaces.push(resource_namespace(scope, row));
            let (uid, begin) = (row.uid.to_string(), self.payloads.len());
            canonical::write_item(row, &mut self.payloads);
            let payload = self.payloads.get(begin..).unwrap_or_default();
            self.fingerprints.push(stored_fingerprint(scope, row, &uid, payload).0);
            self.uids.push(uid);
            self.ends.push(self.payloads.len());
            taken += 1;
        }
        rows.get(taken..).unwrap_or_default()
    }

    fn fingerprints(&self) -> Vec<&[u8]> {
        self.fingerprints.iter().map(|bytes| &bytes[..]).collect()
    }

    fn payloads(&self) -> Vec<Json<'_>> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(begin, end)| Json(self.payloads.get(begin..*end).unwrap_or_default())).collect()
    }
}

/// JSON text as a `jsonb` parameter.
#[derive(Debug)]
struct Json<'a>(&'a [u8]);

impl ToSql for Json<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.put_u8(JSONB_VERSION);
        out.put_slice(self.0);
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::JSONB
    }

    to_sql_checked!();
}

/// The time that the rows of one delivery are stamped with, as PostgreSQL counts it: microseconds since 2000.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp(i64);

impl From<jiff::Timestamp> for Stamp {
    fn from(time: jiff::Timestamp) -> Self {
        Self(time.as_microsecond() - POSTGRES_EPOCH_MICROS)
    }
}

impl ToSql for Stamp {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.put_i64(self.0);
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}

/// Writes what differs of a batch.
pub(super) async fn upsert(
    session: &Session<'_>,
    scope: &Scope,
    batch: &Batch<'_>,
    stamp: Stamp,
    tally: &mut Tally,
) -> Result<(), PostgresError> {
    let doing = || format!("write {} rows of inventory {} to {}", batch.uids.len(), scope.inventory, session.data());
    let failed = |error| PostgresError::driver(doing(), error);
    let (cluster, namespace, name) = state::key(scope);
    let (payloads, fingerprints) = (batch.payloads(), batch.fingerprints());
    let params: [(&(dyn ToSql + Sync), Type); 9] = [
        (&cluster, Type::TEXT),
        (&namespace, Type::TEXT),
        (&name, Type::TEXT),
        (&batch.targets, Type::TEXT_ARRAY),
        (&batch.uids, Type::TEXT_ARRAY),
        (&batch.namespaces, Type::TEXT_ARRAY),
        (&payloads, Type::JSONB_ARRAY),
        (&fingerprints, Type::BYTEA_ARRAY),
        (&stamp, Type::TIMESTAMPTZ),
    ];
    let query = session.client().query_typed_one(&session.sql.write.upsert, &params);
    let row = in_time(session.deadline(), doing, query).await?;
    let inserted: i64 = row.try_get(0).map_err(failed)?;
    let updated: i64 = row.try_get(1).map_err(failed)?;
    let hash: i64 = row.try_get(2).map_err(failed)?;
    tally.inserted += inserted;
    tally.updated += updated;
    tally.hash ^= hash;
    tally.bytes += batch.payloads.len() as u64;
    Ok(())
}

/// Returns the positions in the batch of the rows that the table lacks or has otherwise, in any column but the time.
pub(super) async fn differing(
    session: &Session<'_>,
    scope: &Scope,
    batch: &Batch<'_>,
) -> Result<Vec<usize>, PostgresError> {
    let doing = || format!("compare {} rows of inventory {} in {}", batch.uids.len(), scope.inventory, session.data());
    let (cluster, namespace, name) = state::key(scope);
    let (payloads, fingerprints) = (batch.payloads(), batch.fingerprints());
    let params: [(&(dyn ToSql + Sync), Type); 8] = [
        (&cluster, Type::TEXT),
        (&namespace, Type::TEXT),
        (&name, Type::TEXT),
        (&batch.targets, Type::TEXT_ARRAY),
        (&batch.uids, Type::TEXT_ARRAY),
        (&batch.namespaces, Type::TEXT_ARRAY),
        (&payloads, Type::JSONB_ARRAY),
        (&fingerprints, Type::BYTEA_ARRAY),
    ];
    let query = session.client().query_typed(&session.sql.write.differing, &params);
    let rows = in_time(session.deadline(), doing, query).await?;
    rows.iter()
        .map(|row| {
            let ordinal: i64 = row.try_get(0).map_err(|error| PostgresError::driver(doing(), error))?;
            // Ordinals begin at 1.
            Ok(usize::try_from(ordinal - 1).unwrap_or(usize::MAX))
        })
        .collect()
}

async fn delete(session: &Session<'_>, scope: &Scope, keys: &[RowKey], tally: &mut Tally) -> Result<(), PostgresError> {
    let doing = || format!("delete {} rows of inventory {} from {}", keys.len(), scope.inventory, session.data());
    let failed = |error| PostgresError::driver(doing(), error);
    let (cluster, namespace, name) = state::key(scope);
    let target = keys.first().map_or("", |key| key.target.as_str());
    let uids: Vec<String> = keys.iter().map(|key| key.uid.to_string()).collect();
    let params: [(&(dyn ToSql + Sync), Type); 5] = [
        (&cluster, Type::TEXT),
        (&namespace, Type::TEXT),
        (&name, Type::TEXT),
        (&target, Type::TEXT),
        (&uids, Type::TEXT_ARRAY),
    ];
    let query = session.client().query_typed_one(&session.sql.write.delete, &params);
    let row = in_time(session.deadline(), doing, query).await?;
    let deleted: i64 = row.try_get(0).map_err(failed)?;
    let hash: i64 = row.try_get(1).map_err(failed)?;
    tally.deleted += deleted;
    tally.hash ^= hash;
    Ok(())
}

/// Deletes all rows of a scope, of which there were `rows` when they were counted last.
pub(super) async fn delete_all(session: &Session<'_>, scope: &Scope, rows: i64) -> Result<u64, PostgresError> {
    let doing = || format!("delete the rows of inventory {} from {}", scope.inventory, session.data());
    let (cluster, namespace, name) = state::key(scope);
    let params: [(&(dyn ToSql + Sync), Type); 3] =
        [(&cluster, Type::TEXT), (&namespace, Type::TEXT), (&name, Type::TEXT)];
    let deadline = session.allow(u64::try_from(rows).unwrap_or(0)).await?;
    in_time(deadline, doing, session.client().execute_typed(&session.sql.write.delete_all, &params)).await
}

/// Writes where the sink stands now.
pub(super) async fn finish(session: &Session<'_>, delta: &Delta, tally: &Tally) -> Result<(), PostgresError> {
    let doing = || format!("write the state of inventory {} to {}", delta.scope.inventory, session.state());
    let (cluster, namespace, name) = state::key(&delta.scope);
    let grown = tally.inserted - tally.deleted;
    let digest = delta.standing.digest.to_string();
    let seq = i64::try_from(delta.standing.seq.0).unwrap_or(i64::MAX);
    let record = match delta.base {
        Base::Filled => KEEP,
        Base::Empty | Base::Drifted => RENEW,
        Base::Doubtful => VOID,
    };
    let deadline = if record == KEEP { session.deadline() } else { session.allow(delta.standing.rows).await? };
    let params: [(&(dyn ToSql + Sync), Type); 9] = [
        (&cluster, Type::TEXT),
        (&namespace, Type::TEXT),
        (&name, Type::TEXT),
        (&grown, Type::INT8),
        (&tally.hash, Type::INT8),
        (&digest, Type::TEXT),
        (&seq, Type::INT8),
        (&delta.standing.generation, Type::INT8),
        (&record, Type::TEXT),
    ];
    let update = session.client().execute_typed(&session.sql.write.finish, &params);
    in_time(deadline, doing, update).await.map(|_| ())
}
