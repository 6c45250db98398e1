//! Numbers that a stage knows anyway are read when somebody asks, and never kept a second time.
//!
//! Each stage implements [`Sizes`] and adds what it knows to a [`Reading`]. What is gone from a stage is gone from the
//! next page: there are no series to remove.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::declare::Family;
use super::labels::TlsServer;
use crate::model::{BindingKey, Gvk, Name, TargetKey};

/// A stage that knows sizes. Called on each scrape, so it must be quick and must not wait for I/O.
pub trait Sizes: Send + Sync {
    /// Adds to the reading what this stage knows.
    fn read(&self, reading: &mut Reading);
}

/// What all stages know at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// Rows in the store.
    pub rows: u64,
    /// Bytes that these take.
    pub row_bytes: u64,
    /// Bytes that they may take; 0 is unlimited.
    pub row_budget_bytes: u64,
    /// Bytes of the allocator by kind, a constant: `allocated`, `active`, `resident`.
    pub allocator: Vec<(&'static str, u64)>,
    /// Rows by profile and kind; entries of several targets are added up.
    pub collected: Vec<Collected>,
    /// Streams from the API server.
    pub streams: Vec<Stream>,
    /// Watch connections that may be open.
    pub watch_connections_limit: u64,
    /// Every queue, semaphore and set with a bound.
    pub queues: Vec<Queue>,
    /// Each binding of an inventory to a sink.
    pub bindings: Vec<Binding>,
    /// Whether each target is Ready.
    pub targets: Vec<(TargetKey, bool)>,
    /// When the certificates in use end, in seconds since 1970.
    pub certificates: Vec<(TlsServer, i64)>,
    /// Metrics that profiles define.
    pub profile_series: Vec<ProfileSeries>,
}

/// Rows of one target.
#[derive(Debug, Clone, PartialEq)]
pub struct Collected {
    /// Profile of the target.
    pub profile: Name,
    /// Kind collected.
    pub gvk: Gvk,
    /// Rows.
    pub rows: u64,
}

/// One open list-and-watch stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Stream {
    /// API group, empty for core.
    pub group: Arc<str>,
    /// API version.
    pub version: Arc<str>,
    /// Plural name.
    pub resource: Arc<str>,
    /// Objects that the stream knows of.
    pub objects: u64,
    /// How far it reaches.
    pub reach: Reach,
}

/// How far a stream reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// All namespaces, or a cluster-scoped resource.
    Cluster,
    /// One namespace.
    Namespace,
}

/// Something with a bound.
#[derive(Debug, Clone, PartialEq)]
pub struct Queue {
    /// Its name, a constant: `dispatch`, `deliveries`, `status`, …
    pub name: &'static str,
    /// Entries in it.
    pub depth: u64,
    /// Entries that fit.
    pub limit: u64,
    /// Bytes in it and bytes that fit, where it is bounded by bytes as well.
    pub bytes: Option<(u64, u64)>,
}

/// How far one sink is behind one inventory.
#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    /// Inventory and sink.
    pub key: BindingKey,
    /// Age of the oldest change that the sink does not have; zero when it has all.
    pub lag: Duration,
    /// Least time between two writes.
    pub interval: Duration,
    /// Whether the binding is Synced.
    pub synced: bool,
    /// Time of the last write, in seconds since 1970.
    pub last_export_seconds: Option<f64>,
}

/// One value of a metric that a profile defines.
#[derive(Debug, Clone, PartialEq)]
pub struct ProfileSeries {
    /// The profile.
    pub profile: Name,
    /// Kind collected.
    pub gvk: Gvk,
    /// Name of the series; `object_count`, the number of rows, is there for every profile without being told.
    pub series: Arc<str>,
    /// Attribute labels, sorted, by names from [`label_names`]; empty for an unlabelled series.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// Its value.
    pub value: f64,
}

/// The series of a profile's rows.
pub const OBJECT_COUNT: &str = "object_count";

/// The queue whose depth has a name of its own, which dashboards of earlier releases read.
const DISPATCH: &str = "dispatch";

/// Per-binding and per-target series on one page at most: a scrape of 1,000 bindings has some 400 KB.
pub(super) const OBJECT_SERIES: usize = 1_000;

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: "gauge", labels, help }
}

const RESOURCE: &[&str] = &["group", "version", "resource"];
const BINDING: &[&str] = &["inventory_namespace", "inventory_name", "sink"];

const ROWS: Family = gauge("kollect_collect_items_total", &[], "Rows in the store");
const ROW_BYTES: Family = gauge("kollect_store_bytes", &[], "Bytes that the rows in the store take");
const ROW_BUDGET: Family =
    gauge("kollect_store_budget_bytes", &[], "Bytes that the rows in the store may take; 0 is unlimited");
const ALLOCATOR: Family = gauge(
    "kollect_allocator_bytes",
    &["kind"],
    "Bytes of the allocator: `allocated` is in use, `active` the pages around it, `resident` all that is held in memory",
);
const COLLECTED: Family = gauge(
    "kollect_collected_objects",
    &["profile", "gvk"],
    "Rows by profile and kind, over all targets of the profile",
);
const OBJECTS: Family = gauge("kollect_informer_objects", RESOURCE, "Objects that the streams of a resource know of");
const CLUSTER_WIDE: Family = gauge(
    "kollect_informer_cluster_wide_scope",
    RESOURCE,
    "1 while one stream covers all namespaces, 0 while streams are per namespace",
);
const STREAMS: Family = gauge("kollect_watch_streams", RESOURCE, "Open streams of a resource");
const CONNECTIONS: Family = gauge("kollect_watch_connections", &[], "Open watch connections over all resources");
const CONNECTIONS_LIMIT: Family = gauge(
    "kollect_watch_connections_limit",
    &[],
    "Watch connections that may be open; above, watches cover the cluster",
);
const DISPATCH_DEPTH: Family =
    gauge("kollect_collect_dispatch_queue_depth", &[], "Events that wait for a dispatch worker");
const QUEUE_DEPTH: Family = gauge("kollect_queue_depth", &["queue"], "Entries in a bounded queue or set");
const QUEUE_LIMIT: Family = gauge("kollect_queue_limit", &["queue"], "Entries that fit");
const QUEUE_BYTES: Family = gauge("kollect_queue_bytes", &["queue"], "Bytes in a queue that is bounded by bytes");
const QUEUE_BYTES_LIMIT: Family = gauge("kollect_queue_limit_bytes", &["queue"], "Bytes that fit");
const LAG: Family = gauge(
    "kollect_export_lag_seconds",
    BINDING,
    "Age of the oldest change that a sink does not have yet; 0 when it has all",
);
const INTERVAL: Family = gauge(
    "kollect_export_interval_seconds",
    BINDING,
    "Least time between two writes of an inventory to a sink, as it results from sink, inventory and scope",
);
const SYNCED: Family = gauge("kollect_binding_synced", BINDING, "1 while a sink is Synced with an inventory, else 0");
const LAST_EXPORT: Family = gauge(
    "kollect_inventory_last_export_timestamp_seconds",
    BINDING,
    "Time of the last write of an inventory to a sink, in seconds since 1970",
);
const TARGET_READY: Family = gauge(
    "kollect_target_ready",
    &["target_namespace", "target_name"],
    "1 while a target is Ready, else 0; none of a suspended target",
);
const CERTIFICATE_END: Family = gauge(
    "kollect_certificate_expiry_timestamp_seconds",
    &["server"],
    "When the certificate ends that a server uses, in seconds since 1970; absent where none is used",
);
const LEFT_OUT: Family = gauge(
    "kollect_object_series_left_out",
    &[],
    "Bindings and targets without series of their own because there are more than 1000 of a kind",
);
const SERIES: Family =
    gauge("kollect_custom_resource_series", &["profile", "gvk", "series"], "Metrics that profiles define, unlabelled");
const LABELED_SERIES: Family = gauge(
    "kollect_custom_resource_labeled_series",
    &["profile", "gvk", "series"],
    "Metrics that profiles define, with attribute labels besides these",
);

/// All families of this collector.
pub(super) const FAMILIES: &[Family] = &[
    ROWS,
    ROW_BYTES,
    ROW_BUDGET,
    ALLOCATOR,
    COLLECTED,
    OBJECTS,
    CLUSTER_WIDE,
    STREAMS,
    CONNECTIONS,
    CONNECTIONS_LIMIT,
    DISPATCH_DEPTH,
    QUEUE_DEPTH,
    QUEUE_LIMIT,
    QUEUE_BYTES,
    QUEUE_BYTES_LIMIT,
    LAG,
    INTERVAL,
    SYNCED,
    LAST_EXPORT,
    TARGET_READY,
    CERTIFICATE_END,
    LEFT_OUT,
    SERIES,
    LABELED_SERIES,
];

/// Asks the stages on each scrape. Holds them weakly: a stage that is shut down has no sizes.
#[derive(Default)]
pub(super) struct Scrape {
    stages: Mutex<Vec<Weak<dyn Sizes>>>,
    descriptions: Vec<Desc>,
}

impl Scrape {
    pub(super) fn new() -> Self {
        let describe = |family: &Family| {
            let labels = family.labels.iter().map(ToString::to_string).collect();
            Desc::new(family.name.to_owned(), family.help.to_owned(), labels, std::collections::HashMap::new())
        };
        // A family that cannot be described is missing here, and then the registry's snapshot test lacks it.
        Self { stages: Mutex::default(), descriptions: FAMILIES.iter().filter_map(|f| describe(f).ok()).collect() }
    }

    pub(super) fn add(&self, stage: Weak<dyn Sizes>) {
        let mut stages = self.stages.lock();
        stages.retain(|stage| stage.strong_count() > 0);
        stages.push(stage);
    }

    fn read(&self) -> Reading {
        // Cloned out, so that no stage is asked under the lock.
        let stages: Vec<_> = self.stages.lock().iter().filter_map(Weak::upgrade).collect();
        let mut reading = Reading::default();
        for stage in stages {
            stage.read(&mut reading);
        }
        reading
    }
}

/// The collector that the registry owns.
pub(super) struct Shared(pub(super) Arc<Scrape>);

impl Collector for Shared {
    fn desc(&self) -> Vec<&Desc> {
        self.0.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        families(&self.0.read())
    }
}

fn families(reading: &Reading) -> Vec<MetricFamily> {
    let mut page = Page::default();
    page.value(&ROWS, count(reading.rows));
    page.value(&ROW_BYTES, count(reading.row_bytes));
    page.value(&ROW_BUDGET, count(reading.row_budget_bytes));
    page.values(&ALLOCATOR, reading.allocator.iter().map(|(kind, bytes)| (vec![(*kind).to_owned()], count(*bytes))));
    let collected = collected(&reading.collected);
    let labels = |(profile, gvk): &(&Name, &Gvk)| vec![profile.to_string(), gvk.to_string()];
    page.values(&COLLECTED, collected.iter().map(|(of, rows)| (labels(of), count(*rows))));
    streams(&mut page, reading);
    queues(&mut page, &reading.queues);
    bindings(&mut page, &reading.bindings);
    targets(&mut page, &reading.targets);
    let certificates = reading.certificates.iter();
    page.values(&CERTIFICATE_END, certificates.map(|(server, end)| (vec![server.as_str().to_owned()], *end as f64)));
    let left_out =
        reading.bindings.len().saturating_sub(OBJECT_SERIES) + reading.targets.len().saturating_sub(OBJECT_SERIES);
    page.value(&LEFT_OUT, left_out as f64);
    profile_series(&mut page, &collected, &reading.profile_series);
    page.0
}

/// Rows by profile and kind.
type Sums<'a> = BTreeMap<(&'a Name, &'a Gvk), u64>;

/// Adds up the targets of each profile.
fn collected(collected: &[Collected]) -> Sums<'_> {
    let mut sums = Sums::new();
    for entry in collected {
        *sums.entry((&entry.profile, &entry.gvk)).or_default() += entry.rows;
    }
    sums
}

fn streams(page: &mut Page, reading: &Reading) {
    struct Sum {
        objects: u64,
        streams: u64,
        reach: Reach,
    }
    let mut sums: BTreeMap<[&str; 3], Sum> = BTreeMap::new();
    for stream in &reading.streams {
        let sum = sums.entry([&stream.group, &stream.version, &stream.resource]).or_insert(Sum {
            objects: 0,
            streams: 0,
            reach: Reach::Namespace,
        });
        sum.objects += stream.objects;
        sum.streams += 1;
        if stream.reach == Reach::Cluster {
            sum.reach = Reach::Cluster;
        }
    }
    let labels = |resource: &[&str; 3]| resource.iter().map(ToString::to_string).collect::<Vec<_>>();
    page.values(&OBJECTS, sums.iter().map(|(resource, sum)| (labels(resource), count(sum.objects))));
    page.values(
        &CLUSTER_WIDE,
        sums.iter().map(|(resource, sum)| (labels(resource), truth(sum.reach == Reach::Cluster))),
    );
    page.values(&STREAMS, sums.iter().map(|(resource, sum)| (labels(resource), count(sum.streams))));
    page.value(&CONNECTIONS, reading.streams.len() as f64);
    page.value(&CONNECTIONS_LIMIT, count(reading.watch_connections_limit));
}

fn queues(page: &mut Page, queues: &[Queue]) {
    let dispatch = queues.iter().find(|queue| queue.name == DISPATCH).map_or(0, |queue| queue.depth);
    page.value(&DISPATCH_DEPTH, count(dispatch));
    let name = |queue: &Queue| vec![queue.name.to_owned()];
    page.values(&QUEUE_DEPTH, queues.iter().map(|queue| (name(queue), count(queue.depth))));
    page.values(&QUEUE_LIMIT, queues.iter().map(|queue| (name(queue), count(queue.limit))));
    let bytes = || queues.iter().filter_map(|queue| Some((name(queue), queue.bytes?)));
    page.values(&QUEUE_BYTES, bytes().map(|(name, (used, _))| (name, count(used))));
    page.values(&QUEUE_BYTES_LIMIT, bytes().map(|(name, (_, limit))| (name, count(limit))));
}

fn bindings(page: &mut Page, bindings: &[Binding]) {
    // By key, so that the same ones stay when there are too many.
    let mut bindings: Vec<&Binding> = bindings.iter().collect();
    bindings.sort_by(|a, b| a.key.cmp(&b.key));
    bindings.truncate(OBJECT_SERIES);
    let labels = |binding: &Binding| {
        let inventory = &binding.key.inventory;
        vec![inventory.namespace.to_string(), inventory.name.to_string(), binding.key.sink.to_string()]
    };
    page.values(&LAG, bindings.iter().map(|binding| (labels(binding), binding.lag.as_secs_f64())));
    page.values(&INTERVAL, bindings.iter().map(|binding| (labels(binding), binding.interval.as_secs_f64())));
    page.values(&SYNCED, bindings.iter().map(|binding| (labels(binding), truth(binding.synced))));
    page.values(
        &LAST_EXPORT,
        bindings.iter().filter_map(|binding| Some((labels(binding), binding.last_export_seconds?))),
    );
}

fn targets(page: &mut Page, targets: &[(TargetKey, bool)]) {
    let mut targets: Vec<_> = targets.iter().collect();
    targets.sort();
    targets.truncate(OBJECT_SERIES);
    page.values(
        &TARGET_READY,
        targets
            .iter()
            .map(|(target, ready)| (vec![target.namespace.to_string(), target.name.to_string()], truth(*ready))),
    );
}

fn profile_series(page: &mut Page, collected: &Sums<'_>, series: &[ProfileSeries]) {
    let fixed =
        |series: &ProfileSeries| vec![series.profile.to_string(), series.gvk.to_string(), series.series.to_string()];
    let (plain, labeled): (Vec<_>, Vec<_>) = series.iter().partition(|series| series.labels.is_empty());
    // The one that every profile has.
    let counts = collected.iter().map(|((profile, gvk), rows)| {
        (vec![profile.to_string(), gvk.to_string(), OBJECT_COUNT.to_owned()], count(*rows))
    });
    page.values(&SERIES, counts.chain(plain.iter().map(|series| (fixed(series), series.value))));
    let metrics = labeled.iter().map(|series| {
        let mut labels = label_pairs(LABELED_SERIES.labels, fixed(series));
        labels.extend(series.labels.iter().map(|(name, value)| label(name, value.to_string())));
        sample(labels, series.value)
    });
    page.family(&LABELED_SERIES, metrics.collect());
}

/// Turns names of attributes into names of labels beside each other: letters, digits and `_`, not starting with a digit
/// or, as Prometheus' own do, with `__`. One that is taken, or that every series has, gets `attribute_` in front.
pub fn label_names(attributes: &[&str]) -> Vec<Arc<str>> {
    let mut names: Vec<Arc<str>> = Vec::new();
    for attribute in attributes {
        let mut name: String = attribute.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            name.insert(0, '_');
        }
        while name.starts_with("__") {
            name.remove(0);
        }
        while LABELED_SERIES.labels.contains(&name.as_str()) || names.iter().any(|taken| **taken == *name) {
            name.insert_str(0, "attribute_");
        }
        names.push(name.into());
    }
    names
}

/// The families of one scrape.
#[derive(Default)]
struct Page(Vec<MetricFamily>);

impl Page {
    fn value(&mut self, family: &Family, value: f64) {
        self.family(family, vec![sample(Vec::new(), value)]);
    }

    fn values(&mut self, family: &Family, values: impl Iterator<Item = (Vec<String>, f64)>) {
        let samples = values.map(|(labels, value)| sample(label_pairs(family.labels, labels), value)).collect();
        self.family(family, samples);
    }

    fn family(&mut self, family: &Family, samples: Vec<Metric>) {
        let mut made = MetricFamily::default();
        made.set_name(family.name.to_owned());
        made.set_help(family.help.to_owned());
        made.set_field_type(MetricType::GAUGE);
        made.set_metric(samples);
        self.0.push(made);
    }
}

fn sample(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge);
    metric
}

fn label_pairs(names: &[&str], values: Vec<String>) -> Vec<LabelPair> {
    names.iter().zip(values).map(|(name, value)| label(name, value)).collect()
}

fn label(name: &str, value: String) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value);
    pair
}

fn count(number: u64) -> f64 {
    number as f64
}

fn truth(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}
