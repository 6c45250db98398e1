//! What every sink of documents must do, as a test that each passes.
//!
//! The promises of [`DocumentSink`]: nothing is written before there is a row; an equal document is not written again, by
//! nobody and at no other time; one that shrinks or is emptied leaves nothing behind; other scopes are left alone; failures
//! have the right class; what somebody does behind the sink's back is mended by publishing again; a scope that is left is
//! gone or nobody's, and what is dropped half way has happened either not at all or as a whole.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};

use super::{Stored, Tamper, cut_later_and_later, rows, scope};
use crate::error::{Class, Classify};
use crate::export::document::canonical_order;
use crate::export::{Document, Scope, Standing};
use crate::model::{Row, Seq};
use crate::sinks::{DocumentSink, Fault, Leave, Receipt};

/// Limit of a part that no document of the contract reaches.
const WHOLE: u64 = 1_572_864;
/// Limit of a part that makes several of fifty rows.
const PARTS: u64 = 4_000;

/// A backend under test.
pub trait DocumentSubject: Sync {
    /// Makes a sink as a freshly started process would.
    fn sink(&self) -> Arc<dyn DocumentSink>;

    /// Makes a sink that logs in with a wrong password, or none where the backend has no login.
    fn wrong_credentials(&self) -> Option<Arc<dyn DocumentSink>>;

    /// Makes a sink whose destination does not answer.
    fn unreachable(&self) -> Arc<dyn DocumentSink>;

    /// Reads what is stored of a scope in all its parts, past the sink: (target, uid) to item.
    fn stored<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Stored>>;

    /// Does something to the destination behind the sink's back; `uid` says to which row of the scope. Asked for are
    /// [`Tamper::Edit`], [`Tamper::Delete`] and [`Tamper::Forget`].
    fn tamper<'a>(&'a self, scope: &'a Scope, uid: &'a str, deed: Tamper) -> BoxFuture<'a, Result<()>>;
}

/// Returns a document of these rows, written at this second of a day.
pub fn document(scope: &Arc<Scope>, mut rows: Vec<Row>, max_part_bytes: u64, second: u32) -> Document {
    rows.sort_unstable_by(canonical_order);
    let seq = Seq(second.into());
    let standing = Standing { rows: rows.len() as u64, seq, generation: second.into(), ..Standing::default() };
    let exported_at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second.into());
    Document { scope: Arc::clone(scope), rows: rows.into(), standing, max_part_bytes, exported_at }
}

/// Runs the whole contract.
///
/// # Errors
/// The first promise that is broken.
pub async fn run(subject: &impl DocumentSubject) -> Result<()> {
    nothing_is_written_before_the_first_row(subject).await.context("nothing is written before the first row")?;
    equal_document_is_not_written_again(subject).await.context("an equal document is not written again")?;
    shrunken_document_leaves_nothing_behind(subject).await.context("a smaller document leaves nothing behind")?;
    other_scopes_are_untouched(subject).await.context("other scopes are untouched")?;
    failures_have_their_class(subject).await.context("failures have their class")?;
    tampering_is_mended(subject).await.context("tampering is mended by publishing again")?;
    left_scope_is_gone_or_nobodys(subject).await.context("a scope that is left is gone or nobody's")?;
    dropped_publication_is_all_or_nothing(subject).await.context("a dropped publication is all or nothing")?;
    dropped_leave_is_all_or_nothing(subject).await.context("a dropped leave is all or nothing")
}

/// Tells whether nothing was done.
fn is_idle(receipt: &Receipt) -> bool {
    (receipt.written, receipt.deleted) == (0, 0)
}

async fn nothing_is_written_before_the_first_row(subject: &impl DocumentSubject) -> Result<()> {
    let (sink, scope) = (subject.sink(), scope("contract", "team-a", "begins"));
    let empty = sink.publish(&document(&scope, Vec::new(), WHOLE, 1)).await?;
    ensure!(is_idle(&empty), "without a row: {empty:?}");
    ensure!(sink.has(&document(&scope, Vec::new(), WHOLE, 2)).await?, "without a row, and not there");
    let first = sink.publish(&document(&scope, rows(1, |_| "{}".to_owned())?, WHOLE, 3)).await?;
    ensure!(!is_idle(&first) && subject.stored(&scope).await?.len() == 1, "the first row: {first:?}");
    Ok(())
}

async fn equal_document_is_not_written_again(subject: &impl DocumentSubject) -> Result<()> {
    let (sink, scope) = (subject.sink(), scope("contract", "team-a", "idempotent"));
    let first = rows(50, |n| format!("{{\"replicas\":{n}}}"))?;
    let written = sink.publish(&document(&scope, first.clone(), WHOLE, 1)).await?;
    ensure!(written.written > 0 && written.refused.is_empty(), "first publication: {written:?}");
    ensure!(subject.stored(&scope).await?.len() == 50);
    // Neither the time nor the generation makes a document another one.
    for (sink, second) in [(sink.clone(), 1), (sink.clone(), 2), (subject.sink(), 3)] {
        let again = sink.publish(&document(&scope, first.clone(), WHOLE, second)).await?;
        ensure!(is_idle(&again), "the same again: {again:?}");
        ensure!(again.checksum == written.checksum, "{:?} and {:?}", again.checksum, written.checksum);
    }
    let second = rows(50, |n| format!("{{\"replicas\":{}}}", if n == 7 { 100 } else { n }))?;
    let receipt = sink.publish(&document(&scope, second, WHOLE, 4)).await?;
    ensure!(!is_idle(&receipt), "one change: {receipt:?}");
    let stored = subject.stored(&scope).await?;
    let changed = stored.values().filter(|item| item["attributes"]["replicas"] == 100).count();
    ensure!((stored.len(), changed) == (50, 1), "{} rows, {changed} changed", stored.len());
    Ok(())
}

async fn shrunken_document_leaves_nothing_behind(subject: &impl DocumentSubject) -> Result<()> {
    let (sink, scope) = (subject.sink(), scope("contract", "team-a", "shrinks"));
    let all = rows(50, |n| format!("{{\"replicas\":{n}}}"))?;
    let few: Vec<Row> = all.iter().take(3).cloned().collect();
    for (limit, rows) in [
        (PARTS, all.clone()),
        (PARTS, few.clone()),
        (WHOLE, all.clone()),
        (PARTS, all),
        (WHOLE, few.clone()),
        (PARTS, Vec::new()),
        (WHOLE, few),
        (WHOLE, Vec::new()),
    ] {
        let wanted = document(&scope, rows, limit, 1);
        let what = format!("{} rows in parts of {limit}", wanted.rows.len());
        let receipt = sink.publish(&wanted).await.with_context(|| what.clone())?;
        ensure!(receipt.refused.is_empty(), "{what}: {receipt:?}");
        let stored = subject.stored(&scope).await?;
        let keys: Vec<(String, String)> = stored.into_keys().collect();
        let mut expected: Vec<(String, String)> =
            wanted.rows.iter().map(|row| (row.origin.target.name.to_string(), row.uid.to_string())).collect();
        expected.sort();
        ensure!(keys == expected, "{what}: {} are stored", keys.len());
        let again = subject.sink().publish(&wanted).await?;
        ensure!(is_idle(&again), "{what}, again: {again:?}");
    }
    Ok(())
}

async fn other_scopes_are_untouched(subject: &impl DocumentSubject) -> Result<()> {
    let sink = subject.sink();
    let scopes = [
        scope("contract", "team-a", "apps"),
        scope("contract", "team-a", "other"),
        scope("contract", "team-b", "apps"),
    ];
    let all = rows(3, |_| "{}".to_owned())?;
    for scope in &scopes {
        sink.publish(&document(scope, all.clone(), WHOLE, 1)).await?;
    }
    let [first, others @ ..] = &scopes;
    let changed = rows(3, |_| "{\"changed\":true}".to_owned())?;
    sink.publish(&document(first, changed, WHOLE, 2)).await?;
    sink.publish(&document(first, Vec::new(), WHOLE, 3)).await?;
    ensure!(subject.stored(first).await?.is_empty());
    for scope in others {
        let stored = subject.stored(scope).await?;
        let intact = stored.len() == 3 && stored.values().all(|item| item["attributes"] == serde_json::json!({}));
        ensure!(intact, "{}/{} changed: {stored:?}", scope.cluster, scope.inventory);
    }
    let beating: Vec<&Scope> = scopes.iter().map(|scope| &**scope).collect();
    sink.heartbeat(&beating).await?;
    Ok(())
}

async fn failures_have_their_class(subject: &impl DocumentSubject) -> Result<()> {
    let scope = scope("contract", "team-a", "failures");
    let attempt = document(&scope, rows(1, |_| "{}".to_owned())?, WHOLE, 1);
    if let Some(sink) = subject.wrong_credentials() {
        let probe = sink.probe().await.err().context("a probe with wrong credentials passed")?;
        ensure!(probe.class() == Class::Terminal, "wrong credentials, probe: {} ({probe})", probe.class());
        let failure = sink.publish(&attempt).await.err().context("a publication with wrong credentials passed")?;
        ensure!(failure.class() == Class::Terminal, "wrong credentials: {} ({failure})", failure.class());
    }
    let sink = subject.unreachable();
    let failure = sink.publish(&attempt).await.err().context("a publication to nowhere passed")?;
    ensure!(failure.class() == Class::Transient, "no answer: {} ({failure})", failure.class());
    ensure!(failure.fault() == Fault::Destination, "no answer: {:?} ({failure})", failure.fault());
    Ok(())
}

async fn tampering_is_mended(subject: &impl DocumentSubject) -> Result<()> {
    let scope = scope("contract", "team-a", "tampered");
    let wanted = document(&scope, rows(20, |n| format!("{{\"replicas\":{n}}}"))?, WHOLE, 1);
    let sink = subject.sink();
    sink.publish(&wanted).await?;
    let stored = subject.stored(&scope).await?;
    for deed in [Tamper::Edit, Tamper::Delete, Tamper::Forget] {
        // By the process that wrote it, and by the next one.
        for sink in [sink.clone(), subject.sink()] {
            subject.tamper(&scope, "00000007-0000-4000-8000-000000000000", deed).await?;
            let receipt = sink.publish(&wanted).await.with_context(|| format!("mend {deed:?}"))?;
            ensure!(deed == Tamper::Forget || receipt.written > 0, "{deed:?} is not seen: {receipt:?}");
            ensure!(subject.stored(&scope).await? == stored, "{deed:?} is not mended");
            ensure!(sink.scopes().await?.contains(&scope), "{deed:?}: the scope is not on record");
            let again = sink.publish(&wanted).await?;
            ensure!(is_idle(&again), "{deed:?} is mended and still seen: {again:?}");
        }
    }
    Ok(())
}

async fn left_scope_is_gone_or_nobodys(subject: &impl DocumentSubject) -> Result<()> {
    let sink = subject.sink();
    let [left, orphan, kept, never] = ["left", "orphan", "kept", "never"].map(|name| scope("leave", "team-a", name));
    let all = rows(5, |_| "{}".to_owned())?;
    for scope in [&left, &orphan, &kept] {
        sink.publish(&document(scope, all.clone(), WHOLE, 1)).await?;
    }
    let ours = |scopes: Vec<Scope>| {
        let mut names: Vec<String> = scopes
            .into_iter()
            .filter(|scope| scope.cluster == kept.cluster)
            .map(|scope| scope.inventory.name.to_string())
            .collect();
        names.sort();
        names
    };
    ensure!(ours(sink.scopes().await?) == ["kept", "left", "orphan"]);
    let receipt = sink.leave(&left, Leave::Delete).await?;
    ensure!(receipt.written == 0 && receipt.deleted > 0, "{receipt:?}");
    ensure!(subject.stored(&left).await?.is_empty());
    ensure!(is_idle(&sink.leave(&left, Leave::Delete).await?), "it was left before");
    // What was left to nobody is not ours to delete afterwards.
    for leave in [Leave::Orphan, Leave::Orphan, Leave::Delete] {
        ensure!(is_idle(&sink.leave(&orphan, leave).await?));
        ensure!(subject.stored(&orphan).await?.len() == 5);
    }
    for leave in [Leave::Orphan, Leave::Delete] {
        ensure!(is_idle(&sink.leave(&never, leave).await?));
    }
    ensure!(ours(sink.scopes().await?) == ["kept"]);
    ensure!(subject.stored(&kept).await?.len() == 5);
    // What is nobody's can be taken.
    sink.publish(&document(&orphan, all, WHOLE, 2)).await?;
    ensure!(ours(sink.scopes().await?) == ["kept", "orphan"]);
    Ok(())
}

async fn dropped_publication_is_all_or_nothing(subject: &impl DocumentSubject) -> Result<()> {
    let (sink, scope) = (&subject.sink(), &scope("contract", "team-a", "dropped"));
    let before = rows(3_000, |n| format!("{{\"replicas\":{n}}}"))?;
    sink.publish(&document(scope, before, WHOLE, 1)).await?;
    let after = rows(2_000, |n| format!("{{\"replicas\":-{n}}}"))?;
    let change = &document(scope, after, WHOLE, 2);
    cut_later_and_later(
        || Box::pin(async { Ok(sink.publish(change).await?) }),
        |limit| {
            Box::pin(async move {
                let stored = subject.stored(scope).await?;
                let old = stored.values().filter(|item| item["attributes"]["replicas"].as_i64() > Some(0)).count();
                let whole = (stored.len(), old) == (3_000, 2_999) || (stored.len(), old) == (2_000, 0);
                ensure!(whole, "cut after {limit:?}: {old} old ones among {} rows", stored.len());
                Ok(())
            })
        },
    )
    .await?;
    ensure!(subject.stored(scope).await?.len() == 2_000, "acknowledged, and not there");
    Ok(())
}

async fn dropped_leave_is_all_or_nothing(subject: &impl DocumentSubject) -> Result<()> {
    let (sink, scope) = (&subject.sink(), &scope("contract", "team-a", "dropped-leave"));
    sink.publish(&document(scope, rows(3_000, |_| "{}".to_owned())?, WHOLE, 1)).await?;
    cut_later_and_later(
        || Box::pin(async { Ok(sink.leave(scope, Leave::Delete).await?) }),
        |limit| {
            Box::pin(async move {
                // What was cut may still come to its end meanwhile.
                let was_ours = sink.scopes().await?.contains(scope);
                let rows = subject.stored(scope).await?.len();
                let is_ours = sink.scopes().await?.contains(scope);
                ensure!(
                    rows == 3_000 && was_ours || rows == 0 && !is_ours,
                    "cut after {limit:?}: {rows} rows, on record: {is_ours}"
                );
                Ok(())
            })
        },
    )
    .await?;
    ensure!(subject.stored(scope).await?.is_empty(), "left, and still there");
    Ok(())
}
