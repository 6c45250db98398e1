//! What every sink of rows must do, as a test that each passes.
//!
//! A backend brings a [`Subject`]: how to make sinks, good ones and broken ones, and how to see what is really stored.
//! [`run`] drives it through the promises of [`RowSink`]: equal rows are not written again, keys that are gone are deleted,
//! an empty inventory leaves nothing, other scopes are left alone, failures have the right class, what somebody does behind
//! the sink's back is found and mended, a scope that is left is gone or nobody's, and what is dropped half way has happened
//! either not at all or as a whole. Sinks of documents have a contract of [their own](document).

pub mod document;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::BoxFuture;

use super::{Audit, Fault, Leave, Receipt, RowSink, SinkError};
use crate::error::{Class, Classify};
use crate::export::{Base, Delta, Difference, Scope, Selection, Standing, compare};
use crate::model::{Body, Cluster, Gvk, Name, Namespace, ObjectKey, Origin, Part, Row, RowKey, Seq, Uid};

/// A backend under test.
pub trait Subject: Sync {
    /// Makes a sink as a freshly started process would.
    fn sink(&self) -> Arc<dyn RowSink>;

    /// Makes a sink of an object with this `spec.cluster`, where that decides where rows go.
    fn sink_of(&self, _cluster: &Cluster) -> Arc<dyn RowSink> {
        self.sink()
    }

    /// Makes a sink that logs in with a wrong password, or none where the backend has no login.
    fn wrong_credentials(&self) -> Option<Arc<dyn RowSink>>;

    /// Makes a sink whose destination does not answer.
    fn unreachable(&self) -> Arc<dyn RowSink>;

    /// Reads what is stored of a scope, past the sink: (target, uid) to item.
    fn stored<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Stored>>;

    /// Returns what can be done to the destination by hand: where rows are files, a file that somebody adds is nobody's
    /// business.
    fn deeds(&self) -> &[Tamper] {
        &[Tamper::Edit, Tamper::Move, Tamper::Delete, Tamper::Add, Tamper::Forget]
    }

    /// Does something to the destination behind the sink's back; `uid` says to which row of the scope.
    fn tamper<'a>(&'a self, scope: &'a Scope, uid: &'a str, deed: Tamper) -> BoxFuture<'a, Result<()>>;
}

/// What somebody does to a destination by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tamper {
    /// Changes the content of the row, and nothing of what the sink keeps beside it.
    Edit,
    /// Changes the namespace that the row is stored under.
    Move,
    /// Deletes the row.
    Delete,
    /// Adds a row under this uid.
    Add,
    /// Loses what the sink has on record of the scope.
    Forget,
}

/// Items by target and uid.
pub type Stored = BTreeMap<(String, String), serde_json::Value>;

/// Returns a scope of the contract.
pub fn scope(cluster: &str, namespace: &str, name: &str) -> Arc<Scope> {
    Arc::new(Scope {
        cluster: Cluster::new(cluster),
        inventory: ObjectKey::new(Namespace::new(namespace), Name::new(name)),
        inventory_uid: Uid::new("99999999-0000-4000-8000-000000000001"),
    })
}

/// Returns a row of an inventory in `team-a`.
///
/// # Errors
/// If the name is longer than a Kubernetes name can be.
pub fn row(target: &str, uid: &str, namespace: &str, name: &str, attributes: &str) -> Result<Row> {
    let gvk = Gvk { group: "apps".into(), version: "v1".into(), kind: "Deployment".into() };
    let target = ObjectKey::new(Namespace::new("team-a"), Name::new(target));
    Ok(Row {
        origin: Arc::new(Origin { target, gvk }),
        uid: Uid::new(uid),
        namespace: Namespace::new(namespace),
        body: Body::new(name, attributes.as_bytes()).context("the name is too long")?,
    })
}

/// Returns `count` rows with predictable uids, ascending by key.
///
/// # Errors
/// Never; rows of the contract have short names.
pub fn rows(count: u32, attributes: impl Fn(u32) -> String) -> Result<Vec<Row>> {
    (0..count)
        .map(|n| {
            let uid = format!("{n:08x}-0000-4000-8000-000000000000");
            row("deploys", &uid, &format!("ns-{}", n % 7), &format!("app-{n}"), &attributes(n))
        })
        .collect()
}

/// Returns a delta that brings a scope to `rows` rows.
pub fn delta(scope: &Arc<Scope>, base: Base, upserts: Vec<Row>, deletes: Vec<RowKey>, rows: u64, seq: u64) -> Delta {
    let standing = Standing { rows, seq: Seq(seq), generation: 1, ..Standing::default() };
    Delta { scope: Arc::clone(scope), upserts, deletes, standing, base }
}

/// Runs the whole contract.
///
/// # Errors
/// The first promise that is broken.
pub async fn run(subject: &impl Subject) -> Result<()> {
    equal_rows_are_not_written_again(subject).await.context("equal rows are not written again")?;
    gone_keys_are_deleted(subject).await.context("gone keys are deleted")?;
    restart_finds_nothing_to_do(subject).await.context("a restart finds nothing to do")?;
    other_scopes_are_untouched(subject).await.context("other scopes are untouched")?;
    failures_have_their_class(subject).await.context("failures have their class")?;
    tampering_is_found_and_mended(subject).await.context("tampering is found and mended")?;
    left_scope_is_gone_or_nobodys(subject).await.context("a scope that is left is gone or nobody's")?;
    dropped_delivery_is_all_or_nothing(subject).await.context("a dropped delivery is all or nothing")?;
    dropped_change_is_all_or_nothing(subject).await.context("a dropped change is all or nothing")?;
    dropped_leave_is_all_or_nothing(subject).await.context("a dropped leave is all or nothing")
}

async fn keys(subject: &impl Subject, scope: &Scope) -> Result<Vec<String>> {
    Ok(subject
        .stored(scope)
        .await?
        .into_keys()
        .map(|(_, uid)| uid.split('-').next().unwrap_or("").to_owned())
        .collect())
}

async fn equal_rows_are_not_written_again(subject: &impl Subject) -> Result<()> {
    let (sink, scope) = (subject.sink(), scope("contract", "team-a", "idempotent"));
    let there = sink.recover(&scope, &Selection::All, &[]).await?;
    ensure!(there.is_empty(), "the scope is not empty to begin with");
    let first = rows(50, |n| format!("{{\"replicas\":{n}}}"))?;
    let receipt = sink.deliver(&delta(&scope, Base::Empty, first.clone(), Vec::new(), 50, 1)).await?;
    ensure!((receipt.written, receipt.deleted) == (50, 0), "first delivery: {receipt:?}");
    let receipt = sink.deliver(&delta(&scope, Base::Filled, first.clone(), Vec::new(), 50, 2)).await?;
    ensure!((receipt.written, receipt.deleted) == (0, 0), "the same again: {receipt:?}");
    let second = rows(50, |n| format!("{{\"replicas\":{}}}", if n == 7 { 100 } else { n }))?;
    let receipt = sink.deliver(&delta(&scope, Base::Filled, second, Vec::new(), 50, 3)).await?;
    ensure!((receipt.written, receipt.deleted) == (1, 0), "one change: {receipt:?}");
    let stored = subject.stored(&scope).await?;
    let changed = stored.values().filter(|item| item["attributes"]["replicas"] == 100).count();
    ensure!((stored.len(), changed) == (50, 1), "{} rows, {changed} changed", stored.len());
    Ok(())
}

async fn gone_keys_are_deleted(subject: &impl Subject) -> Result<()> {
    let (sink, scope) = (subject.sink(), scope("contract", "team-a", "deletes"));
    sink.recover(&scope, &Selection::All, &[]).await?;
    let all = rows(5, |_| "{}".to_owned())?;
    sink.deliver(&delta(&scope, Base::Empty, all.clone(), Vec::new(), 5, 1)).await?;
    let gone: Vec<RowKey> = all.iter().take(2).map(Row::key).collect();
    let receipt = sink.deliver(&delta(&scope, Base::Filled, Vec::new(), gone.clone(), 3, 2)).await?;
    ensure!((receipt.written, receipt.deleted) == (0, 2), "two deletes: {receipt:?}");
    ensure!(keys(subject, &scope).await? == ["00000002", "00000003", "00000004"]);
    let receipt = sink.deliver(&delta(&scope, Base::Filled, Vec::new(), gone, 3, 3)).await?;
    ensure!(receipt.deleted == 0, "the same deletes again: {receipt:?}");
    let rest = all.iter().skip(2).map(Row::key).collect();
    sink.deliver(&delta(&scope, Base::Filled, Vec::new(), rest, 0, 4)).await?;
    ensure!(keys(subject, &scope).await?.is_empty(), "rows of an emptied inventory are left");
    ensure!(sink.recover(&scope, &Selection::All, &[]).await?.is_empty());
    Ok(())
}

async fn restart_finds_nothing_to_do(subject: &impl Subject) -> Result<()> {
    let scope = scope("contract", "team-a", "restart");
    let all = rows(40, |n| format!("{{\"replicas\":{n}}}"))?;
    let first = subject.sink();
    first.recover(&scope, &Selection::All, &[]).await?;
    first.deliver(&delta(&scope, Base::Empty, all.clone(), Vec::new(), 40, 1)).await?;

    let second = subject.sink();
    let held = second.recover(&scope, &Selection::All, &all).await?;
    let Difference { upserts, deletes, .. } =
        compare(all.clone(), held, |_, _| true, |row| second.fingerprint(&scope, row));
    ensure!(upserts.is_empty() && deletes.is_empty(), "{} to write, {} to delete", upserts.len(), deletes.len());

    let part = Part { target: Name::new("deploys"), namespace: Namespace::new("ns-3") };
    let wanted: Vec<Row> = all.iter().filter(|row| row.namespace.as_str() == "ns-3").cloned().collect();
    let held = second.recover(&scope, &Selection::Parts(vec![part]), &wanted).await?;
    ensure!(held.len() == wanted.len(), "{} rows of a part of {}", held.len(), wanted.len());
    ensure!(held.iter().all(|row| row.namespace.as_str() == "ns-3"));
    ensure!(second.recover(&scope, &Selection::Parts(Vec::new()), &[]).await?.is_empty());
    Ok(())
}

async fn other_scopes_are_untouched(subject: &impl Subject) -> Result<()> {
    let scopes = [
        scope("contract", "team-a", "apps"),
        scope("contract", "team-a", "other"),
        scope("contract", "team-b", "apps"),
        scope("elsewhere", "team-a", "apps"),
        scope("", "team-a", "apps"),
    ];
    let all = rows(3, |_| "{}".to_owned())?;
    for scope in &scopes {
        let sink = subject.sink_of(&scope.cluster);
        sink.recover(scope, &Selection::All, &all).await?;
        sink.deliver(&delta(scope, Base::Empty, all.clone(), Vec::new(), 3, 1)).await?;
    }
    let [first, others @ ..] = &scopes;
    let sink = subject.sink_of(&first.cluster);
    sink.recover(first, &Selection::All, &all).await?;
    let changed = rows(3, |_| "{\"changed\":true}".to_owned())?;
    sink.deliver(&delta(first, Base::Filled, changed, Vec::new(), 3, 2)).await?;
    sink.deliver(&delta(first, Base::Filled, Vec::new(), all.iter().map(Row::key).collect(), 0, 3)).await?;
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

/// Delivers as a process does that has just started.
async fn attempt(sink: &Arc<dyn RowSink>, delta: &Delta) -> Result<Receipt, SinkError> {
    sink.recover(&delta.scope, &Selection::All, &delta.upserts).await?;
    sink.deliver(delta).await
}

async fn failures_have_their_class(subject: &impl Subject) -> Result<()> {
    let scope = scope("contract", "team-a", "failures");
    let wanted = delta(&scope, Base::Filled, rows(1, |_| "{}".to_owned())?, Vec::new(), 1, 1);
    if let Some(sink) = subject.wrong_credentials() {
        let probe = sink.probe().await.err().context("a probe with wrong credentials passed")?;
        ensure!(probe.class() == Class::Terminal, "wrong credentials, probe: {} ({probe})", probe.class());
        let delivery = attempt(&sink, &wanted).await.err().context("a delivery with wrong credentials passed")?;
        ensure!(delivery.class() == Class::Terminal, "wrong credentials: {} ({delivery})", delivery.class());
        ensure!(delivery.fault() == Fault::Destination, "wrong credentials: {:?} ({delivery})", delivery.fault());
    }
    let delivery = attempt(&subject.unreachable(), &wanted).await.err().context("a delivery to nowhere passed")?;
    ensure!(delivery.class() == Class::Transient, "no answer: {} ({delivery})", delivery.class());
    ensure!(delivery.fault() == Fault::Destination, "no answer: {:?} ({delivery})", delivery.fault());
    Ok(())
}

async fn dropped_delivery_is_all_or_nothing(subject: &impl Subject) -> Result<()> {
    let (sink, scope) = (subject.sink(), scope("contract", "team-a", "dropped"));
    sink.recover(&scope, &Selection::All, &[]).await?;
    let whole = 4_000;
    let all = rows(whole, |n| format!("{{\"replicas\":{n},\"image\":\"registry.example/team/app:{n}\"}}"))?;
    // Cut later and later, until one delivery gets through.
    for cut in 0..40 {
        let base = if cut % 2 == 0 { Base::Empty } else { Base::Filled };
        let attempt = delta(&scope, base, all.clone(), Vec::new(), u64::from(whole), cut);
        let limit = Duration::from_millis(2 + cut * cut * 4);
        let outcome = tokio::time::timeout(limit, sink.deliver(&attempt)).await;
        let held = sink.recover(&scope, &Selection::All, &all).await?;
        ensure!(
            held.is_empty() || held.len() == all.len(),
            "cut after {limit:?} there are {} of {whole} rows",
            held.len()
        );
        if let Ok(outcome) = outcome {
            outcome?;
            ensure!(held.len() == all.len(), "acknowledged, and not there");
            return Ok(());
        }
    }
    anyhow::bail!("no delivery got through")
}

/// Brings a scope back to these rows, as the caller of a sink does after an audit.
///
/// # Errors
/// What the sink says.
pub async fn mend(sink: &Arc<dyn RowSink>, scope: &Arc<Scope>, rows: &[Row]) -> Result<Receipt> {
    let held = sink.verify(scope, rows).await?;
    let Difference { upserts, deletes, .. } =
        compare(rows.to_vec(), held, |_, _| true, |row| sink.fingerprint(scope, row));
    Ok(sink.deliver(&delta(scope, Base::Drifted, upserts, deletes, rows.len() as u64, 9)).await?)
}

async fn tampering_is_found_and_mended(subject: &impl Subject) -> Result<()> {
    let (sink, scope) = (subject.sink(), scope("contract", "team-a", "tampered"));
    sink.recover(&scope, &Selection::All, &[]).await?;
    let mut all = rows(20, |n| format!("{{\"replicas\":{n}}}"))?;
    sink.deliver(&delta(&scope, Base::Empty, all.clone(), Vec::new(), 20, 1)).await?;
    ensure!(sink.audit(&scope).await? == Audit::Intact, "after the first delivery");
    let changed = rows(3, |_| "{\"replicas\":0}".to_owned())?;
    let gone = all.pop().map(|row| row.key()).into_iter().collect();
    all.splice(..3, changed.iter().cloned());
    sink.deliver(&delta(&scope, Base::Filled, changed, gone, 19, 2)).await?;
    ensure!(sink.audit(&scope).await? == Audit::Intact, "after a change");
    let wanted = subject.stored(&scope).await?;

    let (there, strange) = ("00000007-0000-4000-8000-000000000000", "0000ffff-0000-4000-8000-000000000000");
    for (deed, uid, mended) in [
        (Tamper::Edit, there, (1, 0)),
        (Tamper::Move, there, (1, 0)),
        (Tamper::Delete, there, (1, 0)),
        (Tamper::Add, strange, (0, 1)),
        (Tamper::Forget, there, (0, 0)),
    ] {
        if !subject.deeds().contains(&deed) {
            continue;
        }
        subject.tamper(&scope, uid, deed).await?;
        ensure!(sink.audit(&scope).await? == Audit::Drifted, "{deed:?} is not seen");
        let receipt = mend(&sink, &scope, &all).await.with_context(|| format!("mend {deed:?}"))?;
        ensure!((receipt.written, receipt.deleted) == mended, "{deed:?}: {receipt:?}");
        ensure!(subject.stored(&scope).await? == wanted, "{deed:?} is not mended");
        ensure!(sink.audit(&scope).await? == Audit::Intact, "{deed:?} is mended and still seen");
    }
    Ok(())
}

async fn left_scope_is_gone_or_nobodys(subject: &impl Subject) -> Result<()> {
    let sink = subject.sink();
    let [left, orphan, kept, never] = ["left", "orphan", "kept", "never"].map(|name| scope("leave", "team-a", name));
    let all = rows(5, |_| "{}".to_owned())?;
    for scope in [&left, &orphan, &kept] {
        sink.recover(scope, &Selection::All, &[]).await?;
        sink.deliver(&delta(scope, Base::Empty, all.clone(), Vec::new(), 5, 1)).await?;
    }
    let ours = |scopes: Vec<Scope>| {
        let mut names: Vec<String> = scopes
            .into_iter()
            .filter(|scope| scope.cluster == kept.cluster && scope.inventory_uid == kept.inventory_uid)
            .map(|scope| scope.inventory.name.to_string())
            .collect();
        names.sort();
        names
    };
    ensure!(ours(sink.scopes().await?) == ["kept", "left", "orphan"]);
    for deleted in [5, 0] {
        let receipt = sink.leave(&left, Leave::Delete).await?;
        ensure!((receipt.written, receipt.deleted) == (0, deleted), "{receipt:?}");
        ensure!(subject.stored(&left).await?.is_empty());
    }
    // What was left to nobody is not ours to delete afterwards.
    for leave in [Leave::Orphan, Leave::Orphan, Leave::Delete] {
        ensure!(sink.leave(&orphan, leave).await? == Receipt::default());
        ensure!(subject.stored(&orphan).await?.len() == 5);
    }
    for leave in [Leave::Orphan, Leave::Delete] {
        ensure!(sink.leave(&never, leave).await? == Receipt::default());
    }
    ensure!(ours(sink.scopes().await?) == ["kept"]);
    ensure!(subject.stored(&kept).await?.len() == 5);
    mend(&sink, &orphan, &all).await.context("rows of nobody are taken")?;
    ensure!(subject.stored(&orphan).await?.len() == 5);
    ensure!(ours(sink.scopes().await?) == ["kept", "orphan"]);
    Ok(())
}

/// Lets `attempt` run longer and longer until it gets through; after each cut, `check` looks at what is there.
async fn cut_later_and_later<'a, T>(
    mut attempt: impl FnMut() -> BoxFuture<'a, Result<T>>,
    mut check: impl FnMut(Duration) -> BoxFuture<'a, Result<()>>,
) -> Result<T> {
    let mut limit = Duration::from_millis(1);
    while limit < Duration::from_mins(1) {
        let outcome = tokio::time::timeout(limit, attempt()).await;
        check(limit).await?;
        if let Ok(outcome) = outcome {
            return outcome;
        }
        limit += Duration::from_millis(2) + limit / 16;
    }
    anyhow::bail!("nothing gets through")
}

async fn dropped_change_is_all_or_nothing(subject: &impl Subject) -> Result<()> {
    let (sink, scope) = (&subject.sink(), &scope("contract", "team-a", "dropped-change"));
    sink.recover(scope, &Selection::All, &[]).await?;
    let before = rows(3_000, |n| format!("{{\"replicas\":{n}}}"))?;
    sink.deliver(&delta(scope, Base::Empty, before.clone(), Vec::new(), 3_000, 1)).await?;
    let mut after = rows(3_000, |n| format!("{{\"replicas\":-{n}}}"))?;
    let gone: Vec<RowKey> = after.split_off(2_000).iter().map(Row::key).collect();
    let change = &delta(scope, Base::Filled, after, gone, 2_000, 2);
    cut_later_and_later(
        || Box::pin(async { Ok(sink.deliver(change).await?) }),
        |limit| {
            Box::pin(async move {
                let stored = subject.stored(scope).await?;
                let old = stored.values().filter(|item| item["attributes"]["replicas"].as_i64() > Some(0)).count();
                let whole = (stored.len(), old) == (3_000, 2_999) || (stored.len(), old) == (2_000, 0);
                ensure!(whole, "cut after {limit:?}: {old} old ones among {} rows", stored.len());
                ensure!(
                    sink.audit(scope).await? == Audit::Intact,
                    "cut after {limit:?}: the record is not that of the rows"
                );
                Ok(())
            })
        },
    )
    .await?;
    ensure!(subject.stored(scope).await?.len() == 2_000, "acknowledged, and not there");
    Ok(())
}

async fn dropped_leave_is_all_or_nothing(subject: &impl Subject) -> Result<()> {
    let (sink, scope) = (&subject.sink(), &scope("contract", "team-a", "dropped-leave"));
    sink.recover(scope, &Selection::All, &[]).await?;
    let all = rows(3_000, |_| "{}".to_owned())?;
    sink.deliver(&delta(scope, Base::Empty, all, Vec::new(), 3_000, 1)).await?;
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
