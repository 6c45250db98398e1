//! Whether everything is where it belongs, said by the parts themselves: the API server, the operator's metrics and
//! status, the table, the repository, the bucket, the stream, the topic.
//!
//! The claim that is checked: objects that the filters accept = rows in the store = rows of the inventories = rows of the
//! table = items in files = rows in objects = what messages add up to, by number and by UID; each inventory has one digest in
//! all of these, made anew from what is stored; it is the one that the operator keeps beside the rows and shows; no key is
//! there twice; somebody still watches; nobody commits more often than allowed. Nothing is written anywhere.
//!
//! The filters are read again from the targets, by other code than the operator's, and so are the scopes of their
//! namespaces. What else narrows a target from outside (flags of the operator, the label `kollect.dev/watch`) is not looked at.
//!
//! What is compared has to be at rest. While objects change, or a change waits for its interval, numbers differ and the
//! verdict says so; whoever wants to know asks again.

mod bucket;
mod cluster;
mod compare;
mod item;
mod repository;
mod scope;
mod stream;
mod table;
mod verdict;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::Client;
use tokio::time::{Instant, sleep};

use self::compare::{Place, compare_keys, compare_places};
use self::item::Said;
use super::kafka::{Record, Topics};
use super::nats::{Somebody, StoredMessage};
use super::object::Bucket;
use super::operator::{Metrics, http_get};
use crate::api::v1alpha1::EventSinkType;
use crate::api::v1alpha1::sink::StreamMode;
use crate::model::{ObjectKey, RowKey};

pub use self::verdict::{Sum, Verdict};

/// An inventory whose last heartbeat is older is watched by nobody; what `docs/sinks/postgres.md` tells readers.
const SILENCE: Duration = Duration::from_mins(5);

/// More problems are only counted.
const PROBLEMS: usize = 50;

/// Between two looks of somebody who waits.
const PAUSE: Duration = Duration::from_secs(1);

/// What a sink holds of each inventory.
type Held = BTreeMap<ObjectKey, HashMap<RowKey, Said>>;

/// Where to look.
#[derive(Clone)]
pub struct Sources {
    /// A client that may list the collected kinds, namespaces, and the kinds of Kollect.
    pub client: Client,
    /// Address of the operator's metrics endpoint without TLS, for example `http://127.0.0.1:8080/metrics`. Without it
    /// the store is not part of the comparison.
    pub metrics: Option<String>,
    /// Connection string of the database, without TLS. Without it no table is looked at.
    pub database: Option<String>,
    /// The table of rows; that of states has `_state` behind it.
    pub table: String,
    /// Directory of the bare repository; one that is a mirror is brought up to date first. Without it no files are looked at.
    pub git: Option<PathBuf>,
    /// What the endpoint of a sink names, bucket and prefix. Without it no objects are looked at.
    pub bucket: Option<Bucket>,
    /// Without it no stream is looked at.
    pub nats: Option<NatsStream>,
    /// Without it no topic is looked at.
    pub kafka: Option<KafkaTopic>,
    /// The `spec.cluster` of the sinks.
    pub cluster: String,
    /// Label selector of the namespaces whose inventories are looked at, for example `kollect.dev/loadtest=100k`.
    pub namespaces: String,
    /// Commits of an inventory that were asked for (`kollect.dev/export-now`), beyond what its interval allows.
    pub commits_asked: usize,
}

/// A stream of NATS to which each inventory has one way.
#[derive(Debug, Clone)]
pub struct NatsStream {
    /// `nats://user:password@host:port`.
    pub address: String,
    /// The authority of its certificate, as a PEM file; without it there is no TLS.
    pub authority: Option<PathBuf>,
    /// Its name.
    pub name: String,
}

/// A topic of Kafka to which each inventory has one way.
#[derive(Debug, Clone)]
pub struct KafkaTopic {
    /// `host:port` of a broker that anybody may ask in plain text.
    pub broker: String,
    /// Its name.
    pub name: String,
}

impl Sources {
    /// Returns a look at the cluster alone, at inventories in the namespaces of this selector.
    pub fn new(client: Client, namespaces: impl Into<String>) -> Self {
        Self {
            client,
            metrics: None,
            database: None,
            table: String::new(),
            git: None,
            bucket: None,
            nats: None,
            kafka: None,
            cluster: String::new(),
            namespaces: namespaces.into(),
            commits_asked: 0,
        }
    }
}

/// Looks everywhere and compares. What is wrong in the cluster is part of the verdict.
///
/// # Errors
/// When a source cannot be read.
pub async fn verify(sources: &Sources) -> Result<Verdict> {
    let started = Instant::now();
    let mut verdict = Verdict::default();
    let found = cluster::read(&sources.client, &sources.namespaces, &sources.cluster).await?;
    look_at_status(&mut verdict, &found);
    if let Some(url) = &sources.metrics {
        look_at_metrics(&mut verdict, url).await?;
    }
    let mut places = Vec::new();
    places.extend(look_at_table(&mut verdict, sources, &found).await?);
    places.extend(look_at_files(&mut verdict, sources, &found).await?);
    places.extend(look_at_bucket(&mut verdict, sources, &found).await?);
    places.extend(look_at_stream(&mut verdict, sources, &found).await?);
    places.extend(look_at_topic(&mut verdict, sources, &found).await?);
    for place in &places {
        compare_keys(&mut verdict, place, &found);
    }
    compare_places(&mut verdict, &places);
    let more = verdict.problems.len().saturating_sub(PROBLEMS);
    verdict.problems.truncate(PROBLEMS);
    if more > 0 {
        verdict.problem(format!("and {more} more"));
    }
    verdict.seconds = started.elapsed().as_secs_f64();
    Ok(verdict)
}

/// Looks again and again until nothing is wrong, for so long, and returns the last verdict. A source that cannot be read
/// is waited for, too.
///
/// # Errors
/// When a source cannot be read in the end.
pub async fn verified_within(sources: &Sources, limit: Duration) -> Result<Verdict> {
    let deadline = Instant::now() + limit;
    loop {
        let verdict = verify(sources).await;
        if Instant::now() >= deadline || verdict.as_ref().is_ok_and(Verdict::is_ok) {
            return verdict;
        }
        sleep(PAUSE).await;
    }
}

/// Compares what the inventories say of themselves with the objects.
fn look_at_status(verdict: &mut Verdict, found: &cluster::Found) {
    verdict.namespaces = found.namespaces;
    verdict.inventories = found.inventories.len();
    verdict.objects = found.objects;
    if found.inventories.is_empty() {
        verdict.problem("there is no inventory in these namespaces");
    }
    for (key, inventory) in &found.inventories {
        let items = usize::try_from(inventory.status.item_count).unwrap_or_default();
        verdict.inventory_rows += items;
        if items != inventory.wanted.len() {
            verdict.problem(format!("{key}: its status has {items} items of {} objects", inventory.wanted.len()));
        }
        for sink in &inventory.sinks {
            let export = inventory.status.sink_exports.iter().find(|export| export.name == *sink);
            let synced = export.and_then(|export| export.conditions.iter().find(|one| one.type_ == "Synced"));
            match (export, synced) {
                (Some(export), Some(synced)) if synced.status == "True" && export.lag.is_none() => {
                    verdict.synced_bindings += 1;
                }
                (_, Some(synced)) => {
                    verdict.problem(format!("{key}: {sink} is not up to date: {}: {}", synced.reason, synced.message));
                }
                (_, None) => verdict.problem(format!("{key}: nothing is said of {sink}")),
            }
        }
    }
}

/// Compares the store with the objects.
async fn look_at_metrics(verdict: &mut Verdict, url: &str) -> Result<()> {
    let address = url.strip_prefix("http://").with_context(|| format!("{url} does not begin with http://"))?;
    let (address, path) = address.split_once('/').unwrap_or((address, "metrics"));
    let metrics = Metrics::parse(&http_get(address, &format!("/{path}")).await?);
    let rows = metrics.get("kollect_collect_items_total").context("there is no kollect_collect_items_total")?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let rows = rows as usize;
    verdict.store_rows = Some(rows);
    if rows != verdict.objects {
        verdict.problem(format!("the store has {rows} rows of {} objects", verdict.objects));
    }
    Ok(())
}

/// Compares the table with the objects, and with what is said of it.
async fn look_at_table(verdict: &mut Verdict, sources: &Sources, found: &cluster::Found) -> Result<Option<Place>> {
    let Some(dsn) = &sources.database else { return Ok(None) };
    let Some(table) = table::read(dsn, &sources.table, &sources.cluster).await? else {
        verdict.problem(format!("there is no table {}", sources.table));
        return Ok(None);
    };
    verdict.table_rows = Some(table.rows);
    if table.duplicates > 0 {
        verdict.problem(format!("{} rows of the table have the key of another", table.duplicates));
    }
    if let Some(odd) = table.odd.first() {
        verdict.problem(format!("{} rows of the table are odd, for example {odd}", table.odd.len()));
    }
    let mut equal = 0;
    for (key, inventory) in &found.inventories {
        if compare_digests(verdict, key, inventory, &table) {
            equal += 1;
        }
    }
    verdict.table_digests = Some(equal);
    for key in table.states.keys().filter(|key| !found.inventories.contains_key(key)) {
        verdict.problem(format!("the table has a state of {key}, which is no inventory here"));
    }
    let states = || table.states.values();
    verdict.heartbeat_seconds = states().map(|state| state.heartbeat_seconds).reduce(f64::max);
    verdict.write_seconds = states().filter_map(|state| state.write_seconds).reduce(f64::min);
    let inventories = found.inventories.keys().cloned().collect();
    Ok(Some(Place { name: "the table".to_owned(), inventories, held: table.held }))
}

/// Compares the digest of the rows as they are stored with the one in the state and the one in the status.
fn compare_digests(
    verdict: &mut Verdict,
    key: &ObjectKey,
    inventory: &cluster::Inventory,
    table: &table::Table,
) -> bool {
    let Some(state) = table.states.get(key) else {
        verdict.problem(format!("{key}: the table has no state of it"));
        return false;
    };
    let before = verdict.problems.len();
    if state.heartbeat_seconds > SILENCE.as_secs_f64() {
        verdict.problem(format!("{key}: its last heartbeat is {:.0} s old", state.heartbeat_seconds));
    }
    let rows = table.held.get(key).map_or(0, HashMap::len);
    if usize::try_from(state.rows).ok() != Some(rows) {
        verdict.problem(format!("{key}: the table has {rows} rows, its state says {}", state.rows));
    }
    let digest = table.digests.get(key).copied().unwrap_or_default().to_string();
    if state.digest != digest {
        verdict.problem(format!("{key}: the digest of the rows is {digest}, that of the state {}", state.digest));
    }
    let exports = inventory.status.sink_exports.iter().filter(|export| export.name.starts_with("database/"));
    for export in exports.filter(|export| export.last_checksum != digest) {
        let (sink, shown) = (&export.name, &export.last_checksum);
        verdict.problem(format!("{key}: the digest of the rows is {digest}, the status of {sink} has {shown}"));
    }
    verdict.problems.len() == before
}

/// Compares the files with the objects.
async fn look_at_files(verdict: &mut Verdict, sources: &Sources, found: &cluster::Found) -> Result<Option<Place>> {
    let Some(dir) = sources.git.clone() else { return Ok(None) };
    let places: BTreeMap<ObjectKey, cluster::Files> =
        found.inventories.iter().filter_map(|(key, one)| Some((key.clone(), one.files.clone()?))).collect();
    let (cluster, asked) = (sources.cluster.clone(), sources.commits_asked);
    let read = move || repository::read(&dir, &cluster, &places, asked);
    let mut tree = tokio::task::spawn_blocking(read).await.context("the repository could not be read")??;
    verdict.problems.append(&mut tree.problems);
    verdict.git_files = Some(tree.files);
    verdict.git_items = Some(tree.items);
    verdict.git_unowned_files = Some(tree.unowned);
    verdict.git_commits = Some(tree.commits);
    verdict.git_commits_per_interval = Some(tree.commits_per_interval);
    for (key, files) in &tree.bare {
        let wanted = found.inventories.get(key).map_or(0, |inventory| inventory.wanted.len());
        if *files != wanted {
            verdict.problem(format!("{key}: the repository has {files} files of {wanted} objects"));
        }
    }
    let with_files = found.inventories.iter().filter(|(key, one)| one.files.is_some() && !tree.bare.contains_key(key));
    let inventories = with_files.map(|(key, _)| key.clone()).collect();
    Ok(Some(Place { name: "the repository".to_owned(), inventories, held: tree.held }))
}

/// Reads the objects of the inventories, in each format that the bucket has.
async fn look_at_bucket(verdict: &mut Verdict, sources: &Sources, found: &cluster::Found) -> Result<Vec<Place>> {
    let Some(bucket) = &sources.bucket else { return Ok(Vec::new()) };
    let objects = bucket.objects().await?;
    let mut contents = bucket::Contents::read(&objects, &sources.cluster)?;
    verdict.problems.append(&mut contents.problems);
    verdict.bucket_objects = Some(contents.objects);
    verdict.bucket_rows = Some(contents.rows);
    verdict.bucket_unowned_objects = Some(contents.unowned);
    // Of an inventory that never had a row there is nothing.
    let archived = found.inventories.iter().filter(|(_, one)| one.archived && !one.wanted.is_empty());
    for (key, _) in archived.filter(|(key, _)| !contents.held.values().any(|held| held.contains_key(key))) {
        verdict.problem(format!("{key}: the bucket has no record of it"));
    }
    // A bucket is an archive: what inventories left behind that are gone belongs there.
    contents.held.values_mut().for_each(|held| held.retain(|key, _| found.inventories.contains_key(key)));
    let place = |(format, held): (String, Held)| Place {
        name: format!("the bucket as {format}"),
        inventories: held.keys().cloned().collect(),
        held,
    };
    Ok(contents.held.into_iter().map(place).collect())
}

/// Folds the messages of a stream of NATS.
async fn look_at_stream(verdict: &mut Verdict, sources: &Sources, found: &cluster::Found) -> Result<Option<Place>> {
    let Some(NatsStream { address, authority, name }) = &sources.nats else { return Ok(None) };
    let somebody = Somebody::connect(address, authority.as_deref()).await?;
    let messages = somebody.messages(name, ">").await.with_context(|| format!("failed to read the stream {name}"))?;
    let message =
        |message: StoredMessage| stream::Message { partition: 0, headers: message.headers, value: message.value };
    let flow = stream::Flow::of(messages.into_iter().map(message).collect(), &sources.cluster);
    verdict.stream_messages = Some(flow.messages);
    verdict.stream_rows = Some(flow.rows());
    Ok(Some(flow_place(verdict, found, flow, EventSinkType::Nats, name)))
}

/// Folds the committed messages of a topic of Kafka.
async fn look_at_topic(verdict: &mut Verdict, sources: &Sources, found: &cluster::Found) -> Result<Option<Place>> {
    let Some(KafkaTopic { broker, name }) = &sources.kafka else { return Ok(None) };
    let records = Topics::new(broker.clone()).committed(name).await;
    let records = records.with_context(|| format!("failed to read the topic {name}"))?;
    let message = |record: Record| stream::Message {
        partition: record.partition,
        headers: record.headers.into_iter().collect(),
        value: record.value.unwrap_or_default(),
    };
    let flow = stream::Flow::of(records.into_iter().map(message).collect(), &sources.cluster);
    verdict.topic_messages = Some(flow.messages);
    verdict.topic_rows = Some(flow.rows());
    Ok(Some(flow_place(verdict, found, flow, EventSinkType::Kafka, name)))
}

/// Compares the digest that messages tell with the one in the status.
fn flow_place(
    verdict: &mut Verdict,
    found: &cluster::Found,
    mut flow: stream::Flow,
    broker: EventSinkType,
    name: &str,
) -> Place {
    verdict.problems.append(&mut flow.problems);
    let kind = if broker == EventSinkType::Nats { "stream" } else { "topic" };
    let mut inventories = BTreeSet::new();
    for (key, inventory) in &found.inventories {
        let here = inventory.feeds.iter().filter(|feed| feed.broker == broker && feed.place == name);
        for feed in here {
            inventories.insert(key.clone());
            let export = inventory.status.sink_exports.iter().find(|export| export.name == feed.sink);
            let (told, shown) = (flow.told.get(key), export.map(|export| &export.last_checksum));
            if feed.mode == StreamMode::Changes && told != shown {
                let [told, shown] = [told, shown].map(|digest| digest.map_or("none", String::as_str));
                let sink = &feed.sink;
                verdict.problem(format!("{key}: the {kind} tells the digest {told}, the status of {sink} has {shown}"));
            }
        }
    }
    Place { name: format!("the {kind}"), inventories, held: flow.held }
}

#[cfg(test)]
mod tests;
