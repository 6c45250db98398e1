//! A sink of events, whichever broker: its own throughput, and how long a change takes on its way to the stream.
//!
//! Throughput is that of the sink alone, driven as the operator drives it: all rows into an empty stream in `mode: Changes`,
//! until the broker has acknowledged the last message. The yardstick is the load tool of the broker itself, on the same
//! server in the same run: as many messages with the headers and the size of ours, ids that are compared among them, into a
//! stream of the same settings, acknowledged in the same way; the best of several windows counts. What the tool reaches with
//! bare payloads of that size stands beside it, or alone where the tool knows no headers. Sink and tool take turns in going first. A first round of both is a warm-up:
//! its speed does not count, but its memory does, for later rounds find what the allocator has kept.
//!
//! The way of a change is that of [`freshness`](super::freshness), with a stream instead of the table.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::{Lab, LabOptions};
use super::copy::{rows, scope};
use super::git::{peak_mib, reset_peak};
use super::kafka::Kafka;
use super::nats::Nats;
use super::report::{self, Report};
use super::{Bench, Name};
use crate::export::event::{
    DEFAULT_MESSAGE_BYTES, Fold, Header, Holdings, Limit, Message, Operation, Owner, Plan, Sequence,
};
use crate::export::{Base, Selection};
use crate::model::Row;
use crate::sinks::{RowSink, contract};

/// A broker that runs, and the stream of the bench in it.
pub(super) trait Broker: Send + Sync {
    /// Makes the stream anew, empty, with the settings that the sink gives it.
    fn renew(&self) -> BoxFuture<'_, Result<()>>;

    /// Makes the sink of a process that was just started and lasts until `stop`. It sends `Changes`.
    fn sink(&self, stop: CancellationToken) -> Result<Arc<dyn RowSink>>;

    /// Returns the spec of a `KollectEventSink` of the same stream.
    fn spec(&self) -> Value;

    /// Returns how many messages the stream has.
    fn count(&self) -> BoxFuture<'_, Result<u64>>;

    /// Reads what came since a time, or all that is there, in order, with the time at which the broker stored it for readers.
    fn messages(&self, since: Option<Timestamp>) -> BoxFuture<'_, Result<Vec<(Timestamp, Header)>>>;

    /// Has the broker's own tool send so many messages like this one. The stream is [made anew](Self::renew) for each
    /// attempt, of which the best counts.
    fn tool<'a>(&'a self, messages: usize, like: &'a Message) -> BoxFuture<'a, Result<Tool>>;
}

/// The most messages per second that the tool of a broker reached.
pub(super) struct Tool {
    /// With the headers of ours, among them an id that the broker compares; bare where the tool sends no headers.
    pub(super) per_second: f64,
    /// As payloads of as many bytes, with nothing around them.
    pub(super) bare_per_second: f64,
}

/// Starts the broker of a bench; nothing for a bench without one.
pub(super) async fn start(name: Name, lab: &Lab) -> Result<Option<Arc<dyn Broker>>> {
    Ok(match name {
        Name::Nats => Some(Arc::new(Nats::start(lab).await?)),
        Name::Kafka => Some(Arc::new(Kafka::start(lab).await?)),
        _ => None,
    })
}

/// Measures the throughput, as many rounds as there are runs.
pub(super) async fn throughput(bench: &Bench, report: &mut Report) -> Result<()> {
    let lab = Lab::start(LabOptions { control_plane: false, postgres: false, ..LabOptions::default() }).await?;
    let broker = start(bench.name, &lab).await?.context("this bench has no broker")?;
    let rows = rows(bench.rows)?;
    let like = sample(&rows)?;
    let warm = sink(&*broker, &rows).await?;
    broker.tool(rows.len(), &like).await?;
    report.add(&[("extra_rss_mib", warm.extra_rss_mib)]);
    for round in 1..=bench.runs {
        let (ours, tool) = if round % 2 == 1 {
            (sink(&*broker, &rows).await?, broker.tool(rows.len(), &like).await?)
        } else {
            let tool = broker.tool(rows.len(), &like).await?;
            (sink(&*broker, &rows).await?, tool)
        };
        let values = [
            ("throughput_ratio", ours.per_second / tool.per_second),
            ("bare_ratio", ours.per_second / tool.bare_per_second),
            ("messages_per_second", ours.per_second),
            ("tool_messages_per_second", tool.per_second),
            ("tool_bare_messages_per_second", tool.bare_per_second),
            ("message_bytes", bytes(&like) as f64),
        ];
        eprintln!("round {round}: {}", report::line(&values));
        report.add(&values);
    }
    drop(broker);
    lab.stop().await
}

/// Returns a message as the sink sends it.
fn sample(rows: &[Row]) -> Result<Message> {
    let scope = scope();
    let owner = Owner { process: "bench".to_owned(), inventory: Some(scope.inventory_uid.clone()) };
    let row = rows.iter().take(1).cloned().collect();
    let delta = contract::delta(&scope, Base::Empty, row, Vec::new(), 1, 1);
    let limit = Limit { bytes: DEFAULT_MESSAGE_BYTES, setting: "max_payload of the server" };
    let plan = Arc::new(Plan::deliver(&delta, &Holdings::<()>::default(), owner, limit));
    plan.messages(Sequence { epoch: 1, n: rows.len() as u64 }).next().context("there is no row")
}

/// Returns how many bytes headers and value of a message have.
pub(super) fn bytes(message: &Message) -> usize {
    // Colon, blank and end of line.
    let headers: usize = message.header.fields().iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    headers + message.value().len()
}

/// What a first delivery took.
struct Delivery {
    per_second: f64,
    extra_rss_mib: f64,
}

/// Measures a first delivery, from its plan to the last acknowledgement. Connecting and looking what is there come before,
/// as at any start.
async fn sink(broker: &dyn Broker, rows: &[Row]) -> Result<Delivery> {
    broker.renew().await?;
    let (stop, scope) = (CancellationToken::new(), scope());
    let _stopped = stop.clone().drop_guard();
    let sink = broker.sink(stop)?;
    ensure!(sink.recover(&scope, &Selection::All, &[]).await?.is_empty(), "the stream is not empty");
    let count = rows.len() as u64;
    let delta = contract::delta(&scope, Base::Empty, rows.to_vec(), Vec::new(), count, count);
    let before = reset_peak()?;
    let started = Instant::now();
    let receipt = sink.deliver(&delta).await?;
    let seconds = started.elapsed().as_secs_f64();
    let extra_rss_mib = peak_mib()? - before;
    ensure!(receipt.written == count && receipt.refused.is_empty(), "{} rows were written", receipt.written);
    let messages = broker.count().await?;
    ensure!(messages > count, "{messages} messages are there");
    Ok(Delivery { per_second: messages as f64 / seconds, extra_rss_mib })
}

/// Returns how many rows a reader has, or how many messages there are while those cannot be enough.
pub(super) async fn count_rows(broker: &dyn Broker, expected: usize) -> Result<usize> {
    let messages = usize::try_from(broker.count().await?)?;
    if messages < expected {
        return Ok(messages);
    }
    let mut fold = Fold::<()>::default();
    for (at, header) in broker.messages(None).await? {
        fold.take(0, header, at, ());
    }
    Ok(fold.iter().map(|(_, held)| held.rows().len()).sum())
}

/// Returns when the last message about each row came since a time, in seconds since 1970, by namespace and name.
pub(super) async fn arrivals(broker: &dyn Broker, since: SystemTime) -> Result<HashMap<(String, String), f64>> {
    let mut arrivals = HashMap::new();
    for (at, header) in broker.messages(Some(Timestamp::try_from(since)?)).await? {
        let item = header.item.filter(|_| header.operation == Operation::Upsert);
        if let Some((item, there)) = item.and_then(|item| item.there.clone().map(|there| (item, there))) {
            arrivals.insert((item.namespace.to_string(), there.name), at.as_nanosecond() as f64 / 1e9);
        }
    }
    Ok(arrivals)
}
