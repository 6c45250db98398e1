//! Every number that the process shows, declared in one place and registered once, at start.
//!
//! Stages count what happens through the methods here; what a stage merely *has* is read from it on each scrape
//! ([`Sizes`]). Labels are closed sets ([`Controller`], [`SinkType`], …), whose series exist from the first scrape on, or
//! names of resources, whose series go when they do. There are no globals: whoever counts holds an `Arc<Metrics>`.

mod declare;
mod labels;
mod scrape;

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use prometheus::process_collector::ProcessCollector;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder};
use tokio::time::Instant;

use declare::Declare;
pub use declare::Family;
pub use labels::{Cached, Controller, Fault, Mapping, Outcome, Reference, Resolution, SinkType, TlsServer, Verb};
pub use scrape::{Binding, Collected, OBJECT_COUNT, ProfileSeries, Queue, Reach, Reading, Sizes, Stream, label_names};

use crate::error::Class;

const DISPATCH_SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];
const RECONCILE_SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// As for reconciles, and further: an alert on more than 10 s must be able to fire.
const EXPORT_SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];
/// Around the aim of 350 ms, and up to the longest usual intervals between writes.
const FRESHNESS_SECONDS: &[f64] = &[0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    families: Vec<Family>,
    scrape: Arc<scrape::Scrape>,
    /// Extract plus store time per object.
    pub dispatch_seconds: Histogram,
    /// Rows in the inventory that was last reconciled.
    pub inventory_rows: IntGauge,
    /// Exports of inventories with 1 MiB of rows and more, and reminders of it.
    pub spill_warnings: IntCounter,
    /// Exports of inventories of 1,800 rows and more, and reminders of it.
    pub shard_warnings: IntCounter,
    /// Rows in which U+0000 was replaced.
    pub rows_sanitized: IntCounter,
    dispatch_backpressure: IntCounter,
    dispatch_fallback: IntCounter,
    resyncs: IntCounterVec,
    mismatches: IntCounterVec,
    reconciles: IntCounterVec,
    reconcile_errors: IntCounterVec,
    reconcile_seconds: HistogramVec,
    workqueue_depth: IntGaugeVec,
    export_seconds: HistogramVec,
    export_bytes: IntCounterVec,
    export_rows: IntCounterVec,
    export_debounced: IntCounterVec,
    freshness_seconds: HistogramVec,
    sink_errors: IntCounterVec,
    sink_repairs: IntCounterVec,
    connection_tests: IntCounterVec,
    fingerprint_checks: IntCounterVec,
    mapping_errors: IntCounterVec,
    resolutions: IntCounterVec,
    access_cache: IntCounterVec,
    labeled_series_capped: IntCounterVec,
    api_requests: IntCounterVec,
    leader: IntGaugeVec,
    api_host: OnceLock<String>,
    framework: Framework,
}

/// Names under which dashboards know the same numbers from other operators.
struct Framework {
    reconciles: IntCounterVec,
    reconcile_errors: IntCounterVec,
    queued: IntGaugeVec,
    requests: IntCounterVec,
    reviews: IntCounterVec,
    review_seconds: HistogramVec,
}

/// A page could not be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to encode the metrics")]
pub struct EncodeError(#[source] prometheus::Error);

/// Counters of one watched resource, held by its streams so that an event costs no lookup.
#[derive(Debug, Clone)]
pub struct ResourceCounters {
    /// Objects that a list brought once more and that changed nothing.
    pub resyncs: IntCounter,
    /// Objects outside the namespaces of a target, once per target.
    pub mismatches: IntCounter,
}

impl Metrics {
    /// Declares everything. `version` and `commit` become the labels of `kollect_build_info`.
    pub fn new(version: &str, commit: &str) -> Self {
        let mut declare = Declare::default();
        declare
            .gauges("kollect_build_info", &["version", "commit"], "1; which build this is")
            .with_label_values(&[version, commit])
            .set(1);
        let scrape = Arc::new(scrape::Scrape::new());
        declare.collector(scrape::Shared(scrape.clone()), scrape::FAMILIES);
        declare.collector(ProcessCollector::for_self(), &[]);
        let metrics = Self::declare(declare, scrape);
        metrics.show_zeros();
        metrics
    }

    #[expect(clippy::too_many_lines, reason = "one list of declarations reads better than several")]
    fn declare(mut declare: Declare, scrape: Arc<scrape::Scrape>) -> Self {
        let resource: &[&str] = &["group", "version", "resource"];
        Self {
            scrape,
            dispatch_seconds: declare.histogram(
                "kollect_collect_dispatch_duration_seconds",
                DISPATCH_SECONDS,
                "Extract plus store time per object",
            ),
            dispatch_backpressure: declare.counter(
                "kollect_collect_dispatch_backpressure_total",
                "Events that found no place in the queue within the enqueue wait; the stream waits, nothing is dropped",
            ),
            dispatch_fallback: declare.counter(
                "kollect_collect_dispatch_sync_fallback_total",
                "The same as `kollect_collect_dispatch_backpressure_total`, under its older name",
            ),
            resyncs: declare.counters(
                "kollect_informer_resync_dispatches_total",
                resource,
                "Objects that a list brought once more and that changed nothing",
            ),
            mismatches: declare.counters(
                "kollect_collect_namespace_mismatch_total",
                resource,
                "Objects that a stream over all namespaces brought for a target which does not collect there",
            ),
            inventory_rows: declare
                .gauge("kollect_inventory_items_total", "Rows in the inventory that was last reconciled"),
            reconciles: declare.counters("kollect_reconcile_total", &["controller", "result"], "Reconciles"),
            reconcile_errors: declare.counters(
                "kollect_reconcile_errors_total",
                &["kind", "error_class"],
                "Failed reconciles by class: transient is tried again, terminal waits for a change, forbidden skips a part",
            ),
            reconcile_seconds: declare.histograms(
                "kollect_reconcile_duration_seconds",
                &["controller"],
                RECONCILE_SECONDS,
                "Time of a reconcile",
            ),
            workqueue_depth: declare.gauges("kollect_workqueue_depth", &["controller"], "Reconciles in flight"),
            export_seconds: declare.histograms(
                "kollect_export_duration_seconds",
                &["sink_type"],
                EXPORT_SECONDS,
                "Time of a delivery to a sink, failed ones included",
            ),
            export_bytes: declare.counters(
                "kollect_export_bytes_total",
                &["sink_type"],
                "Bytes of payload handed to sinks, failed deliveries included",
            ),
            export_rows: declare.counters(
                "kollect_export_rows_total",
                &["sink_type"],
                "Rows that sinks wrote and deleted",
            ),
            export_debounced: declare.counters(
                "kollect_export_debounced_total",
                &["controller"],
                "Changes that began to wait for the end of an interval, per sink",
            ),
            spill_warnings: declare.counter(
                "kollect_export_spill_warn_total",
                "Exports of inventories with 1 MiB of rows and more, and every ten minutes for as long as they are so large",
            ),
            shard_warnings: declare.counter(
                "kollect_export_shard_warn_total",
                "Exports of inventories of 1,800 rows and more, and every ten minutes for as long as they are so large",
            ),
            freshness_seconds: declare.histograms(
                "kollect_freshness_seconds",
                &["sink_type"],
                FRESHNESS_SECONDS,
                "Time from an event's arrival to the sink's acknowledgement of the row",
            ),
            rows_sanitized: declare.counter(
                "kollect_rows_sanitized_total",
                "Rows in which U+0000, which databases refuse, was stored as U+FFFD",
            ),
            sink_errors: declare.counters("kollect_sink_errors_total", &["reason"], "Failed deliveries by reason"),
            sink_repairs: declare.counters(
                "kollect_sink_repairs_total",
                &["sink_type"],
                "Rows that an audit found to differ in a sink and put right",
            ),
            connection_tests: declare.counters(
                "kollect_sink_connection_test_total",
                &["type", "result"],
                "Probes of sinks",
            ),
            fingerprint_checks: declare.counters(
                "kollect_namespace_fingerprint_cache_total",
                &["controller", "result"],
                "Checks of an inventory's digest: a hit found nothing to write, a miss did",
            ),
            mapping_errors: declare.counters(
                "kollect_watch_map_list_errors_total",
                &["controller", "watch"],
                "Changes whose inventories could not be found",
            ),
            resolutions: declare.counters(
                "kollect_static_ref_resolution_total",
                &["kind", "ref_type", "result"],
                "References of cluster-scoped kinds that were followed",
            ),
            access_cache: declare.counters(
                "kollect_access_cache_total",
                &["result"],
                "Decisions on who may read `/metrics`: a hit was remembered, a miss asked the API server",
            ),
            labeled_series_capped: declare.counters(
                "kollect_custom_resource_labeled_series_capped_total",
                &["profile", "gvk", "series"],
                "Label tuples of profile metrics left out by the cap, per refresh",
            ),
            api_requests: declare.counters(
                "kollect_api_requests_total",
                &["verb", "resource", "code"],
                "Requests to the API server for collected objects, statuses, Events, leases and reviews; the code is `none` \
                 when there was no answer",
            ),
            leader: declare.gauges(
                "leader_election_master_status",
                &["name"],
                "1 while this process holds the lease of that name, 0 while another does; absent without election",
            ),
            api_host: OnceLock::new(),
            framework: Framework {
                reconciles: declare.counters(
                    "controller_runtime_reconcile_total",
                    &["controller", "result"],
                    "The same as `kollect_reconcile_total`, with the results `success` and `error`",
                ),
                reconcile_errors: declare.counters(
                    "controller_runtime_reconcile_errors_total",
                    &["controller"],
                    "Failed reconciles",
                ),
                queued: declare.gauges("workqueue_depth", &["name"], "Objects that wait to be reconciled"),
                requests: declare.counters(
                    "rest_client_requests_total",
                    &["code", "method", "host"],
                    "The same requests as in `kollect_api_requests_total`; the code is `<error>` when there was no answer",
                ),
                reviews: declare.counters(
                    "controller_runtime_webhook_requests_total",
                    &["webhook", "code"],
                    "Admission reviews by path and status code: 200 is a verdict, whichever; anything else is none, and the \
                     failure policy decides",
                ),
                review_seconds: declare.histograms(
                    "controller_runtime_webhook_latency_seconds",
                    &["webhook"],
                    RECONCILE_SECONDS,
                    "Time of an admission review",
                ),
            },
            registry: declare.registry,
            families: declare.families,
        }
    }

    /// Makes the series of closed sets, so that the first scrape shows zeros and rates start from the first event.
    fn show_zeros(&self) {
        for controller in Controller::ALL {
            let name = controller.as_str();
            self.workqueue_depth.with_label_values(&[name]);
            self.framework.queued.with_label_values(&[name]);
            self.framework.reconcile_errors.with_label_values(&[name]);
            self.reconcile_seconds.with_label_values(&[name]);
            for outcome in Outcome::ALL {
                self.reconciles.with_label_values(&[name, outcome.as_str()]);
                self.framework.reconciles.with_label_values(&[name, framework_result(*outcome)]);
            }
            for class in [Class::Transient, Class::Terminal, Class::Forbidden] {
                self.reconcile_errors.with_label_values(&[controller.kind(), class.as_str()]);
            }
        }
        for sink in SinkType::ALL {
            let name = sink.as_str();
            self.export_seconds.with_label_values(&[name]);
            self.freshness_seconds.with_label_values(&[name]);
            for counters in [&self.export_bytes, &self.export_rows, &self.sink_repairs] {
                counters.with_label_values(&[name]);
            }
            for outcome in Outcome::ALL {
                self.connection_tests.with_label_values(&[name, outcome.as_str()]);
            }
        }
        for fault in Fault::ALL {
            self.sink_errors.with_label_values(&[fault.as_str()]);
        }
        for cached in Cached::ALL {
            self.access_cache.with_label_values(&[cached.as_str()]);
        }
        for inventory in [Controller::Inventory, Controller::ClusterInventory] {
            self.export_debounced.with_label_values(&[inventory.kind()]);
            for cached in Cached::ALL {
                self.fingerprint_checks.with_label_values(&[inventory.kind(), cached.as_str()]);
            }
            for mapping in Mapping::ALL {
                self.mapping_errors.with_label_values(&[inventory.kind(), mapping.as_str()]);
            }
        }
        for result in Resolution::ALL {
            let profile = Reference::Profile.as_str();
            let target = Controller::ClusterTarget.kind();
            self.resolutions.with_label_values(&[target, profile, result.as_str()]);
            for sink in [Reference::Snapshot, Reference::Database, Reference::Event] {
                let inventory = Controller::ClusterInventory.kind();
                self.resolutions.with_label_values(&[inventory, sink.as_str(), result.as_str()]);
            }
        }
    }

    /// Reads sizes from this stage on each scrape, for as long as the stage exists.
    pub fn read_from<S: Sizes + 'static>(&self, stage: &Arc<S>) {
        let stage: Weak<S> = Arc::downgrade(stage);
        self.scrape.add(stage);
    }

    /// Returns the page that Prometheus reads.
    pub fn page(&self) -> Result<String, EncodeError> {
        TextEncoder::new().encode_to_string(&self.registry.gather()).map_err(EncodeError)
    }

    /// Returns what is declared, but for the families of the process (`process_…`).
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// Counts an event that found no place in the dispatch queue in time.
    pub fn dispatch_waited(&self) {
        self.dispatch_backpressure.inc();
        self.dispatch_fallback.inc();
    }

    /// Returns the counters of a watched resource; `group` is empty for core.
    pub fn resource(&self, group: &str, version: &str, resource: &str) -> ResourceCounters {
        let labels = [group, version, resource];
        ResourceCounters {
            resyncs: self.resyncs.with_label_values(&labels),
            mismatches: self.mismatches.with_label_values(&labels),
        }
    }

    /// Removes the counters of a resource that nobody watches any more.
    pub fn forget_resource(&self, group: &str, version: &str, resource: &str) {
        for counters in [&self.resyncs, &self.mismatches] {
            let _ = counters.remove_label_values(&[group, version, resource]); // never counted is as good as removed
        }
    }

    /// Counts an object that a target could not extract.
    pub fn row_failed(&self) {
        let labels = [Controller::Target.kind(), Class::Terminal.as_str()];
        self.reconcile_errors.with_label_values(&labels).inc();
    }

    /// Starts to measure a reconcile.
    pub fn reconcile(&self, controller: Controller) -> Reconciling<'_> {
        self.workqueue_depth.with_label_values(&[controller.as_str()]).inc();
        Reconciling { metrics: self, controller, since: Instant::now() }
    }

    /// Says how many objects wait to be reconciled.
    pub fn queued(&self, controller: Controller, objects: usize) {
        let objects = i64::try_from(objects).unwrap_or(i64::MAX);
        self.framework.queued.with_label_values(&[controller.as_str()]).set(objects);
    }

    /// Counts a delivery, whatever came of it.
    pub fn delivered(&self, sink: SinkType, elapsed: Duration, payload_bytes: u64) {
        self.export_seconds.with_label_values(&[sink.as_str()]).observe(elapsed.as_secs_f64());
        self.export_bytes.with_label_values(&[sink.as_str()]).inc_by(payload_bytes);
    }

    /// Counts rows that a sink wrote and deleted.
    pub fn rows_written(&self, sink: SinkType, rows: u64) {
        self.export_rows.with_label_values(&[sink.as_str()]).inc_by(rows);
    }

    /// Counts rows that an audit put right.
    pub fn rows_repaired(&self, sink: SinkType, rows: u64) {
        self.sink_repairs.with_label_values(&[sink.as_str()]).inc_by(rows);
    }

    /// Counts how long a change took from its arrival to the acknowledgement.
    pub fn acknowledged(&self, sink: SinkType, age: Duration) {
        self.freshness_seconds.with_label_values(&[sink.as_str()]).observe(age.as_secs_f64());
    }

    /// Counts a failed delivery.
    pub fn sink_failed(&self, fault: Fault) {
        self.sink_errors.with_label_values(&[fault.as_str()]).inc();
    }

    /// Counts a change that began to wait for the end of an interval. `inventory` is one of the two inventory kinds.
    pub fn debounced(&self, inventory: Controller) {
        self.export_debounced.with_label_values(&[inventory.kind()]).inc();
    }

    /// Counts a look at an inventory's digest.
    pub fn digest_checked(&self, inventory: Controller, cached: Cached) {
        self.fingerprint_checks.with_label_values(&[inventory.kind(), cached.as_str()]).inc();
    }

    /// Counts a probe.
    pub fn probed(&self, sink: SinkType, outcome: Outcome) {
        self.connection_tests.with_label_values(&[sink.as_str(), outcome.as_str()]).inc();
    }

    /// Counts a change whose inventories could not be found.
    pub fn mapping_failed(&self, inventory: Controller, mapping: Mapping) {
        self.mapping_errors.with_label_values(&[inventory.kind(), mapping.as_str()]).inc();
    }

    /// Counts a reference of a cluster-scoped kind that was followed.
    pub fn resolved(&self, controller: Controller, reference: Reference, resolution: Resolution) {
        self.resolutions.with_label_values(&[controller.kind(), reference.as_str(), resolution.as_str()]).inc();
    }

    /// Counts a question about access.
    pub fn access_checked(&self, cached: Cached) {
        self.access_cache.with_label_values(&[cached.as_str()]).inc();
    }

    /// Counts label tuples left out of a profile metric; none shows that it can be counted.
    pub fn labeled_series_capped(&self, profile: &str, gvk: &str, series: &str, tuples: u64) {
        self.labeled_series_capped.with_label_values(&[profile, gvk, series]).inc_by(tuples);
    }

    /// Removes the counter of a profile metric that is not there any more.
    pub fn forget_labeled_series(&self, profile: &str, gvk: &str, series: &str) {
        let _ = self.labeled_series_capped.remove_label_values(&[profile, gvk, series]); // never counted is as good
    }

    /// Makes the series of a webhook, by its path.
    pub fn reviews(&self, webhook: &str) {
        self.framework.review_seconds.with_label_values(&[webhook]);
        for code in ["200", "503"] {
            self.framework.reviews.with_label_values(&[webhook, code]);
        }
    }

    /// Counts an answer of a webhook.
    pub fn reviewed(&self, webhook: &str, code: u16, elapsed: Duration) {
        self.framework.reviews.with_label_values(&[webhook, &code.to_string()]).inc();
        self.framework.review_seconds.with_label_values(&[webhook]).observe(elapsed.as_secs_f64());
    }

    /// Says that another process holds a lease, or nobody.
    pub fn standing_by(&self, lease: &str) {
        self.leader.with_label_values(&[lease]).set(0);
    }

    /// Says that this process holds a lease.
    pub fn leading(&self, lease: &str) {
        self.leader.with_label_values(&[lease]).set(1);
    }

    /// Says where the API server is, once.
    pub fn api_server(&self, host: &str) {
        let _ = self.api_host.set(host.to_owned()); // a process has one
    }

    /// Counts a request to the API server; `code` is `None` when there was no answer.
    pub fn api_request(&self, verb: Verb, resource: &str, code: Option<u16>) {
        let code = code.map(|code| code.to_string());
        let host = self.api_host.get().map_or("", String::as_str);
        let answer = code.as_deref();
        self.api_requests.with_label_values(&[verb.as_str(), resource, answer.unwrap_or("none")]).inc();
        self.framework.requests.with_label_values(&[answer.unwrap_or("<error>"), verb.method(), host]).inc();
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").field("families", &self.families.len()).finish_non_exhaustive()
    }
}

/// A reconcile under way. Dropped without a verdict (cancelled), it counts as neither success nor failure.
#[derive(Debug)]
pub struct Reconciling<'a> {
    metrics: &'a Metrics,
    controller: Controller,
    since: Instant,
}

impl Reconciling<'_> {
    /// Ends it well.
    pub fn succeeded(self) {
        self.ended(Outcome::Success);
    }

    /// Ends it with a failure.
    pub fn failed(self, class: Class) {
        self.metrics.reconcile_errors.with_label_values(&[self.controller.kind(), class.as_str()]).inc();
        self.ended(Outcome::Failure);
    }

    fn ended(&self, outcome: Outcome) {
        let name = self.controller.as_str();
        self.metrics.reconciles.with_label_values(&[name, outcome.as_str()]).inc();
        self.metrics.framework.reconciles.with_label_values(&[name, framework_result(outcome)]).inc();
        if outcome == Outcome::Failure {
            self.metrics.framework.reconcile_errors.with_label_values(&[name]).inc();
        }
        self.metrics.reconcile_seconds.with_label_values(&[name]).observe(self.since.elapsed().as_secs_f64());
    }
}

impl Drop for Reconciling<'_> {
    fn drop(&mut self) {
        self.metrics.workqueue_depth.with_label_values(&[self.controller.as_str()]).dec();
    }
}

/// Returns what other operators call an outcome.
const fn framework_result(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Success => "success",
        Outcome::Failure => "error",
    }
}

#[cfg(test)]
mod tests;
