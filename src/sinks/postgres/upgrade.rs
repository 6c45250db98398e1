//! A table of an earlier release, brought up to date beside those who still write to it.
//!
//! It lacks the fingerprint, and its key does not know the cluster. Both are added, nothing is taken away: the column takes
//! a lock for a moment, the index is built while rows come and go. The rows themselves are not touched; a fingerprint is
//! filled in when its row is compared the next time.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};
use tracing::info;

use super::config::{LONGEST_IDENTIFIER_BYTES, Names};
use super::connect::in_time;
use super::error::PostgresError;
use super::schema::{FINGERPRINT, KEY, Quoted};

/// For the index: a minute for each ten million rows, and the end of every transaction that was open before.
const BUILD_BUDGET: Duration = Duration::from_hours(1);

/// Adds what is missing. Two who do so at the same moment do not wait for each other (one that builds an index waits for
/// all that wait): the second one fails, Transient.
pub(super) async fn run(client: &Client, names: &Names, deadline: Instant) -> Result<(), PostgresError> {
    let table = names.data();
    let doing = || format!("bring table {table} of an earlier release up to date");
    let column = format!(
        "BEGIN; SET LOCAL lock_timeout = '10s'; ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {FINGERPRINT} bytea; COMMIT"
    );
    in_time(deadline, doing, client.batch_execute(&column)).await?;

    let index = index_name(names);
    let quoted = format!("{}.{}", Quoted(names.schema.clone()), Quoted(index.clone()));
    let lock =
        format!("BEGIN; SET LOCAL lock_timeout = '10s'; LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE NOWAIT");
    in_time(deadline, doing, client.batch_execute(&lock)).await?;
    if is_ruin(client, names, &index, deadline).await? {
        in_time(deadline, doing, client.batch_execute(&format!("DROP INDEX {quoted}"))).await?;
    }
    in_time(deadline, doing, client.batch_execute("COMMIT")).await?;

    info!(table, "building the unique index of the rows beside that of an earlier release");
    let began = Instant::now();
    let build = format!(
        "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS {} ON {table} ({})",
        Quoted(index.clone()),
        KEY.join(", ")
    );
    // Each statement by itself: an index cannot be built beside others inside a transaction.
    for sql in
        ["SET statement_timeout = 0", "SET lock_timeout = 0", &build, "RESET statement_timeout", "RESET lock_timeout"]
    {
        in_time(began + BUILD_BUDGET, doing, client.batch_execute(sql)).await?;
    }
    // One that began before us and lost a deadlock leaves an index that the statement above takes for done.
    if is_ruin(client, names, &index, deadline).await? {
        return Err(PostgresError::Unfinished { index, table });
    }
    let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    info!(table, elapsed_ms, "table of an earlier release is up to date");
    Ok(())
}

/// Tells whether our index is there and was never finished. Nobody is at it, for we hold the lock that a builder holds.
async fn is_ruin(client: &Client, names: &Names, index: &str, deadline: Instant) -> Result<bool, PostgresError> {
    let doing = || format!("look for index {index}");
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relname = $2 AND NOT i.indisvalid)";
    let params: [(&(dyn ToSql + Sync), Type); 2] = [(&names.schema, Type::TEXT), (&index, Type::TEXT)];
    let row = in_time(deadline, doing, client.query_typed_one(sql, &params)).await?;
    row.try_get(0).map_err(|error| PostgresError::driver(doing(), error))
}

/// Returns a name that says whose index it is, as long as PostgreSQL takes it.
fn index_name(names: &Names) -> String {
    const SUFFIX: &str = "_kollect_key";
    let mut name = String::new();
    for letter in names.table.chars() {
        if name.len() + letter.len_utf8() + SUFFIX.len() > LONGEST_IDENTIFIER_BYTES {
            break;
        }
        name.push(letter);
    }
    name + SUFFIX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_the_index_is_never_cut_by_the_server() {
        let names =
            |table: &str| Names { schema: "s".to_owned(), table: table.to_owned(), state_table: "t".to_owned() };
        assert_eq!(index_name(&names("items")), "items_kollect_key");
        let long = index_name(&names(&"ä".repeat(31)));
        assert!(long.len() <= LONGEST_IDENTIFIER_BYTES && long.ends_with("ä_kollect_key"), "{long}");
    }
}
