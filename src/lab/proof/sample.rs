//! One look at everything that moves: the process, its metrics page, the database, the repository.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::super::operator::Metrics;
use super::stats::{Histogram, percentile};

/// The two destinations of a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Sink {
    Postgres,
    Git,
}

impl Sink {
    pub(super) const ALL: [Self; 2] = [Self::Postgres, Self::Git];

    /// Returns its label `sink_type`.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Git => "git",
        }
    }

    /// Returns what the label `sink` of its bindings begins with.
    const fn family(self) -> &'static str {
        match self {
            Self::Postgres => "database/",
            Self::Git => "snapshot/",
        }
    }
}

/// What was seen at one moment. What did not answer is absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sample {
    /// Seconds since the run began.
    pub(super) at: f64,
    pub(super) phase: &'static str,
    pub(super) process: Option<Usage>,
    pub(super) page: Option<Page>,
    pub(super) database: Option<Written>,
    /// Commits on the branch.
    pub(super) commits: Option<usize>,
}

/// What the kernel says of the operator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    pub(super) pid: u32,
    pub(super) rss_mib: f64,
    pub(super) cpu_seconds: f64,
}

/// What the database says of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Written {
    /// Bytes of WAL since the cluster was made.
    pub(super) wal_bytes: f64,
    /// Rows ever written to the table of rows; a backend reports them with up to ten seconds of delay, and a crash of the
    /// server loses them.
    pub(super) rows: f64,
}

/// What the operator says of itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Page {
    /// Rows in the store.
    pub(super) rows: f64,
    /// Bytes that the allocator has handed out, where the build tells.
    pub(super) allocated_bytes: Option<f64>,
    pub(super) api_requests: f64,
    /// Failed deliveries and failed reconciles, by `sink <reason>` and `reconcile <class>`.
    pub(super) errors: BTreeMap<String, f64>,
    /// Lag of each binding.
    pub(super) lags: Vec<(Sink, f64)>,
    /// The sinks of the bindings that are synced.
    pub(super) synced: Vec<Sink>,
    /// Durations of exports, by sink.
    pub(super) exports: BTreeMap<Sink, Histogram>,
    /// Exports of inventories that are too large.
    pub(super) shard_warnings: f64,
}

impl Page {
    pub(super) fn read(metrics: &Metrics) -> Self {
        let mut exports: BTreeMap<Sink, Histogram> = BTreeMap::new();
        for (sample, values) in metrics.family("kollect_export_duration_seconds_bucket") {
            let sink = Sink::ALL.into_iter().find(|sink| label(sample, "sink_type") == Some(sink.as_str()));
            let bound = label(sample, "le").and_then(|bound| bound.parse().ok());
            if let (Some(sink), Some(bound)) = (sink, bound) {
                exports.entry(sink).or_default().add(bound, values);
            }
        }
        let of = |sample: &str| {
            let named = label(sample, "sink")?;
            Sink::ALL.into_iter().find(|sink| named.starts_with(sink.family()))
        };
        let lags = metrics.family("kollect_export_lag_seconds");
        let synced = metrics.family("kollect_binding_synced").filter(|(_, synced)| *synced > 0.5);
        Self {
            rows: metrics.sum("kollect_collect_items_total", &[]),
            allocated_bytes: metrics.get("kollect_allocator_bytes{kind=\"allocated\"}"),
            api_requests: metrics.sum("kollect_api_requests_total", &[]),
            errors: errors(metrics),
            lags: lags.filter_map(|(sample, lag)| Some((of(sample)?, lag))).collect(),
            synced: synced.filter_map(|(sample, _)| of(sample)).collect(),
            exports,
            shard_warnings: metrics.sum("kollect_export_shard_warn_total", &[]),
        }
    }

    /// Returns the lags of the bindings of a sink.
    pub(super) fn lags_of(&self, sink: Sink) -> Vec<f64> {
        self.lags.iter().filter(|(of, _)| *of == sink).map(|(_, lag)| *lag).collect()
    }
}

fn errors(metrics: &Metrics) -> BTreeMap<String, f64> {
    let mut errors = BTreeMap::new();
    for (family, what, by) in [
        ("kollect_sink_errors_total", "sink", "reason"),
        ("kollect_reconcile_errors_total", "reconcile", "error_class"),
    ] {
        for (sample, count) in metrics.family(family).filter(|(_, count)| *count > 0.0) {
            *errors.entry(format!("{what} {}", label(sample, by).unwrap_or_default())).or_default() += count;
        }
    }
    errors
}

/// Returns the value of a label of a sample such as `name{a="b",c="d"}`; values of ours have no quotes in them.
fn label<'a>(sample: &'a str, name: &str) -> Option<&'a str> {
    let (_, labels) = sample.split_once('{')?;
    labels.trim_end_matches('}').split("\",").find_map(|pair| {
        let (key, value) = pair.split_once("=\"")?;
        (key == name).then(|| value.trim_end_matches('"'))
    })
}

/// Writes samples as a table: one line each, an empty field for what did not answer. Counters are as they were read; one
/// that falls began anew with its process.
pub(super) fn csv(samples: &[Sample]) -> String {
    let mut text =
        String::from("seconds,phase,pid,rss_mib,cpu_seconds,rows,allocated_bytes,api_requests,errors,synced");
    for sink in Sink::ALL {
        let sink = sink.as_str();
        for column in ["lag_max", "lag_p99", "exports", "export_p50", "export_p95", "export_p99"] {
            let _ = write!(text, ",{sink}_{column}"); // a String takes all that is written
        }
    }
    text.push_str(",wal_bytes,rows_written,commits\n");
    let mut before: Option<&Page> = None;
    for sample in samples {
        text.push_str(&line(sample, before));
        text.push('\n');
        before = sample.page.as_ref().or(before);
    }
    text
}

fn line(sample: &Sample, before: Option<&Page>) -> String {
    let number = |value: Option<f64>| value.map(|value| rounded(value).to_string()).unwrap_or_default();
    let page = sample.page.as_ref();
    let mut fields = vec![
        number(Some(sample.at)),
        sample.phase.to_owned(),
        sample.process.map(|usage| usage.pid.to_string()).unwrap_or_default(),
        number(sample.process.map(|usage| usage.rss_mib)),
        number(sample.process.map(|usage| usage.cpu_seconds)),
        number(page.map(|page| page.rows)),
        number(page.and_then(|page| page.allocated_bytes)),
        number(page.map(|page| page.api_requests)),
        number(page.map(|page| page.errors.values().sum())),
        number(page.map(|page| page.synced.len() as f64)),
    ];
    for sink in Sink::ALL {
        let lags = page.map(|page| page.lags_of(sink)).unwrap_or_default();
        // Of the exports since the sample before.
        let exports = page.and_then(|page| page.exports.get(&sink)).map(|now| {
            let earlier = before.and_then(|page| page.exports.get(&sink)).cloned().unwrap_or_default();
            now.since(&earlier)
        });
        fields.push(number(percentile(&lags, 1.0)));
        fields.push(number(percentile(&lags, 0.99)));
        fields.push(number(exports.as_ref().map(Histogram::count)));
        for part in [0.5, 0.95, 0.99] {
            fields.push(number(exports.as_ref().and_then(|exports| exports.quantile(part))));
        }
    }
    fields.push(number(sample.database.map(|written| written.wal_bytes)));
    fields.push(number(sample.database.map(|written| written.rows)));
    fields.push(sample.commits.map(|commits| commits.to_string()).unwrap_or_default());
    fields.join(",")
}

/// Keeps thousandths, and no sign of nothing.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0 + 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"kollect_collect_items_total 100
kollect_allocator_bytes{kind="allocated"} 1048576
kollect_api_requests_total{verb="patch",resource="kollectinventories",code="200"} 3
kollect_api_requests_total{verb="list",resource="deployments",code="200"} 4
kollect_sink_errors_total{reason="transient"} 2
kollect_sink_errors_total{reason="terminal"} 0
kollect_reconcile_errors_total{error_class="transient",kind="KollectTarget"} 1
kollect_reconcile_errors_total{error_class="transient",kind="KollectInventory"} 1
kollect_export_lag_seconds{inventory_namespace="a",inventory_name="i",sink="database/pg"} 12.5
kollect_export_lag_seconds{inventory_namespace="a",inventory_name="i",sink="snapshot/repository"} 600
kollect_binding_synced{inventory_namespace="a",inventory_name="i",sink="database/pg"} 1
kollect_binding_synced{inventory_namespace="a",inventory_name="i",sink="snapshot/repository"} 0
kollect_export_duration_seconds_bucket{sink_type="git",le="0.1"} 1
kollect_export_duration_seconds_bucket{sink_type="git",le="+Inf"} 2
kollect_export_duration_seconds_bucket{sink_type="nats",le="+Inf"} 9
"#;

    #[test]
    fn page_is_read_from_the_metrics() {
        let page = Page::read(&Metrics::parse(PAGE));
        assert_eq!((page.rows, page.allocated_bytes, page.api_requests), (100.0, Some(1_048_576.0), 7.0));
        assert_eq!(page.lags, [(Sink::Postgres, 12.5), (Sink::Git, 600.0)]);
        assert_eq!(page.synced, [Sink::Postgres]);
        let errors: Vec<_> = page.errors.iter().map(|(name, count)| format!("{name}: {count}")).collect();
        assert_eq!(errors, ["reconcile transient: 2", "sink transient: 2"]);
        assert_eq!(page.exports.keys().copied().collect::<Vec<_>>(), [Sink::Git]);
        assert!((page.exports[&Sink::Git].count() - 2.0).abs() < f64::EPSILON);
    }

    #[test]
    fn table_has_an_empty_field_for_what_did_not_answer() {
        let page = Page::read(&Metrics::parse(PAGE));
        let up = Sample { at: 5.0, phase: "soak", page: Some(page), commits: Some(3), ..Sample::default() };
        let down = Sample { at: 10.0, phase: "faults", ..Sample::default() };
        let table = csv(&[up, down]);
        let lines: Vec<&str> = table.lines().collect();
        let width = |line: &str| line.split(',').count();
        assert!(lines.iter().all(|line| width(line) == width(lines[0])), "{table}");
        assert!(lines[1].starts_with("5,soak,,,,100,1048576,7,4,1,12.5,12.5,"), "{table}");
        assert!(lines[1].ends_with(",,,3") && lines[2].starts_with("10,faults,,,,,,"), "{table}");
    }

    #[test]
    fn export_times_of_a_line_are_those_since_the_line_before() {
        let page = Page::read(&Metrics::parse(PAGE));
        let sample = Sample { page: Some(page), ..Sample::default() };
        let table = csv(&[sample.clone(), sample]);
        let column = table.lines().next().unwrap().split(',').position(|name| name == "git_exports").unwrap();
        let counts: Vec<&str> = table.lines().skip(1).map(|line| line.split(',').nth(column).unwrap()).collect();
        assert_eq!(counts, ["2", "0"]);
    }
}
