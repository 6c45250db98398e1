//! A delivery again, after the server refused something in it: row by row where it must be, and all the rest as usual.
//!
//! One row that a constraint or a trigger refuses would otherwise hold up every other one of its inventory for ever. Each
//! batch is tried under a savepoint, and one that fails is halved until the row that is to blame stands alone. It is
//! reported, and the transaction goes on without it.

use std::collections::HashMap;

use super::Session;
use super::connect::in_time;
use super::error::{PostgresError, ServerError};
use super::schema::{self, Facts};
use super::write::{self, Batch, Stamp, Tally};
use crate::export::{Delta, Scope};
use crate::model::Row;
use crate::sinks::{Receipt, Refused};

/// More refused rows than this are not a matter of single rows; the delivery fails as a whole.
const MAX_REFUSED: usize = 1_000;

/// Writes a delta inside the open transaction of the session, all but the rows that the server refuses. The scope must be
/// claimed. Keys that are gone go first: a row may be refused only because of one of them.
pub(super) async fn write(
    session: &Session<'_>,
    delta: &Delta,
    facts: &Facts,
    stamp: Stamp,
) -> Result<Receipt, PostgresError> {
    // What is checked at the commit would be found there for all rows at once.
    run(session, "SET CONSTRAINTS ALL IMMEDIATE").await?;
    let mut tally = Tally::default();
    write::deletes(session, delta, &mut tally).await?;
    let mut refused = Vec::new();
    let mut mends = Mends::default();
    let mut batch = Batch::default();
    let mut todo: Vec<&[Row]> = vec![&delta.upserts];
    while let Some(rows) = todo.pop() {
        if rows.is_empty() {
            continue;
        }
        let rest = batch.fill(&delta.scope, rows);
        let (tried, rest) = rows.split_at(rows.len() - rest.len());
        todo.push(rest);
        let Err(error) = attempt(session, &delta.scope, &batch, stamp, &mut tally).await else { continue };
        let (Some(cause), true) = (error.of_data(), refused.len() < MAX_REFUSED) else { return Err(error) };
        run(session, "ROLLBACK TO SAVEPOINT batch").await?;
        match tried {
            [row] => refused.push(refusal(session, row, cause, &mut mends).await?),
            several => {
                let (first, second) = several.split_at(several.len() / 2);
                todo.extend([second, first]);
            }
        }
    }
    if facts.has_state {
        write::finish(session, delta, &tally).await?;
    }
    Ok(tally.receipt(refused))
}

async fn attempt(
    session: &Session<'_>,
    scope: &Scope,
    batch: &Batch<'_>,
    stamp: Stamp,
    tally: &mut Tally,
) -> Result<(), PostgresError> {
    run(session, "SAVEPOINT batch").await?;
    write::upsert(session, scope, batch, stamp, tally).await?;
    run(session, "RELEASE SAVEPOINT batch").await
}

async fn run(session: &Session<'_>, sql: &str) -> Result<(), PostgresError> {
    let doing = || format!("write row by row to {}", session.data());
    in_time(session.deadline(), doing, session.client().batch_execute(sql)).await
}

/// What mends a unique index, by its name; none for one that the catalog does not know under that name.
type Mends = HashMap<String, Option<String>>;

async fn refusal(
    session: &Session<'_>,
    row: &Row,
    cause: &ServerError,
    mends: &mut Mends,
) -> Result<Refused, PostgresError> {
    let mut mend = None;
    if let Some(index) = cause.unique_index() {
        if !mends.contains_key(index) {
            let found = schema::mend_unique(session.client(), session.names, index, session.deadline()).await?;
            mends.insert(index.to_owned(), found);
        }
        mend = mends.get(index).and_then(Option::as_deref);
    }
    Ok(Refused {
        key: row.key(),
        object: row.object(),
        reason: "ExportTerminal",
        message: cause.refusal(mend),
        excess: None,
    })
}
