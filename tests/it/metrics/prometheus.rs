//! A real Prometheus reads the page of a running operator over HTTPS, and every expression that we publish is put to it.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, ensure};
use kollect::lab::Prometheus;
use kollect::lab::git::Certificates;
use kollect::lab::wait::wait_for;
use kollect::metrics::Metrics;
use serde_json::Value;

use super::alerts::RULES;
use super::{promtool, scrape, token, write_pair};
use crate::operator::{Job, PATIENCE};
use crate::support::{part_or_skip, repository_file};

/// The family whose series have attributes as labels, besides those that are declared.
const LABELED: &str = "kollect_custom_resource_labeled_series";

const PAGE: &str = include_str!("../../../docs/metrics.md");
const DASHBOARD: &str = include_str!("../../../charts/kollect/files/dashboards/kollect.json");

/// The queries of the runbooks.
const RUNBOOK: [&str; 8] = [
    "kollect_collect_items_total",
    "histogram_quantile(0.95, sum(rate(kollect_reconcile_duration_seconds_bucket[5m])) by (le, controller))",
    "histogram_quantile(0.95, sum(rate(kollect_export_duration_seconds_bucket[5m])) by (le, sink_type))",
    "increase(kollect_export_shard_warn_total[1h])",
    "sum(increase(kollect_sink_errors_total[15m])) by (reason)",
    "increase(kollect_collect_dispatch_backpressure_total[15m])",
    "max_over_time(kollect_workqueue_depth[10m])",
    "sum(rate(kollect_reconcile_errors_total[5m])) by (error_class)",
];

/// When the series of a family are there.
#[derive(Debug, PartialEq, Eq)]
enum There {
    /// From the first scrape on, with these values of its first label.
    Always(&'static [&'static str]),
    /// Since something is collected and exported.
    Collecting,
    /// Where webhooks are served, which they are not here.
    Reviewing,
}
use There::{Always, Collecting, Reviewing};

const CONTROLLERS: &[&str] = &[
    "kollecttarget",
    "kollectinventory",
    "kollectclustertarget",
    "kollectclusterinventory",
    "kollectconnectiontest",
    "kollectsnapshotsink",
    "kollectdatabasesink",
    "kollecteventsink",
];
const SINKS: &[&str] = &["git", "gitlab", "s3", "gcs", "postgres", "kafka", "nats"];
const RESOURCE: &[&str] = &["group", "version", "resource"];
const BINDING: &[&str] = &["inventory_namespace", "inventory_name", "sink"];

/// Every name that dashboards and runbooks may rely on: its type, its labels, and when it is there.
#[rustfmt::skip]
const CONTRACT: &[(&str, &str, &[&str], There)] = &[
    ("kollect_collect_items_total", "gauge", &[], Always(&[])),
    ("kollect_inventory_items_total", "gauge", &[], Always(&[])),
    ("kollect_collected_objects", "gauge", &["profile", "gvk"], Collecting),
    ("kollect_informer_objects", "gauge", RESOURCE, Collecting),
    ("kollect_informer_cluster_wide_scope", "gauge", RESOURCE, Collecting),
    ("kollect_informer_resync_dispatches_total", "counter", RESOURCE, Collecting),
    ("kollect_collect_namespace_mismatch_total", "counter", RESOURCE, Collecting),
    ("kollect_collect_dispatch_duration_seconds", "histogram", &[], Always(&[])),
    ("kollect_collect_dispatch_queue_depth", "gauge", &[], Always(&[])),
    ("kollect_collect_dispatch_backpressure_total", "counter", &[], Always(&[])),
    ("kollect_collect_dispatch_sync_fallback_total", "counter", &[], Always(&[])),
    ("kollect_reconcile_total", "counter", &["controller", "result"], Always(CONTROLLERS)),
    ("kollect_reconcile_errors_total", "counter", &["kind", "error_class"],
        Always(&["KollectTarget", "KollectInventory", "KollectClusterInventory"])),
    ("kollect_reconcile_duration_seconds", "histogram", &["controller"], Always(CONTROLLERS)),
    ("kollect_workqueue_depth", "gauge", &["controller"], Always(CONTROLLERS)),
    ("kollect_export_duration_seconds", "histogram", &["sink_type"], Always(SINKS)),
    ("kollect_export_bytes_total", "counter", &["sink_type"], Always(SINKS)),
    ("kollect_export_debounced_total", "counter", &["controller"], Always(&["KollectInventory"])),
    ("kollect_export_spill_warn_total", "counter", &[], Always(&[])),
    ("kollect_export_shard_warn_total", "counter", &[], Always(&[])),
    ("kollect_sink_errors_total", "counter", &["reason"],
        Always(&["transient", "terminal", "forbidden", "payload_too_large"])),
    ("kollect_sink_connection_test_total", "counter", &["type", "result"], Always(SINKS)),
    ("kollect_namespace_fingerprint_cache_total", "counter", &["controller", "result"], Always(&["KollectInventory"])),
    ("kollect_watch_map_list_errors_total", "counter", &["controller", "watch"], Always(&["KollectInventory"])),
    ("kollect_static_ref_resolution_total", "counter", &["kind", "ref_type", "result"],
        Always(&["KollectClusterTarget", "KollectClusterInventory"])),
    ("kollect_access_cache_total", "counter", &["result"], Always(&["hit", "miss"])),
    ("kollect_custom_resource_series", "gauge", &["profile", "gvk", "series"], Collecting),
    (LABELED, "gauge", &["profile", "gvk", "series"], Collecting),
    ("kollect_custom_resource_labeled_series_capped_total", "counter", &["profile", "gvk", "series"], Collecting),
    ("kollect_export_rows_total", "counter", &["sink_type"], Always(SINKS)),
    ("kollect_target_ready", "gauge", &["target_namespace", "target_name"], Collecting),
    ("kollect_inventory_last_export_timestamp_seconds", "gauge", BINDING, Collecting),
    ("kollect_build_info", "gauge", &["version", "commit"], Always(&[])),
    ("kollect_export_lag_seconds", "gauge", BINDING, Collecting),
    ("kollect_export_interval_seconds", "gauge", BINDING, Collecting),
    ("kollect_binding_synced", "gauge", BINDING, Collecting),
    ("kollect_freshness_seconds", "histogram", &["sink_type"], Always(SINKS)),
    ("kollect_api_requests_total", "counter", &["verb", "resource", "code"], Collecting),
    ("controller_runtime_reconcile_total", "counter", &["controller", "result"], Always(CONTROLLERS)),
    ("controller_runtime_reconcile_errors_total", "counter", &["controller"], Always(CONTROLLERS)),
    ("controller_runtime_webhook_requests_total", "counter", &["webhook", "code"], Reviewing),
    ("controller_runtime_webhook_latency_seconds", "histogram", &["webhook"], Reviewing),
    ("kollect_certificate_expiry_timestamp_seconds", "gauge", &["server"], Collecting),
    ("workqueue_depth", "gauge", &["name"], Always(CONTROLLERS)),
    ("rest_client_requests_total", "counter", &["code", "method", "host"], Collecting),
    ("leader_election_master_status", "gauge", &["name"], Collecting),
    ("process_resident_memory_bytes", "gauge", &[], Always(&[])),
    ("process_cpu_seconds_total", "counter", &[], Always(&[])),
];

/// Names that `promtool` would have otherwise, and that readers of earlier releases know.
const KNOWN_NAMES: [&str; 2] = ["kollect_collect_items_total", "kollect_inventory_items_total"];

/// Returns the families of a page that have samples, as name and type.
fn families(page: &str) -> BTreeSet<(&str, &str)> {
    page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect()
}

/// Returns the samples of a family, of its sum where it is a histogram.
fn samples<'a>(page: &'a str, family: &str, kind: &str) -> Vec<&'a str> {
    let name = if kind == "histogram" { format!("{family}_sum") } else { family.to_owned() };
    let of = |line: &&str| line.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    page.lines().filter(of).collect()
}

#[test]
fn the_first_scrape_has_all_names_that_need_no_event() {
    let page = Metrics::new("v1.2.3", "abc").page().unwrap();
    for (name, kind, labels, there) in CONTRACT {
        let samples = samples(&page, name, kind);
        let Always(values) = there else {
            assert_eq!(samples.len(), 0, "{name} can be expected earlier");
            continue;
        };
        assert!(families(&page).contains(&(*name, *kind)), "{name} is missing, or no {kind}");
        for value in *values {
            let label = format!("{}=\"{value}\"", labels.first().unwrap());
            assert!(samples.iter().any(|sample| sample.contains(&label)), "{name} has no series with {label}");
        }
        if !name.starts_with("process_") && *name != "kollect_build_info" {
            assert!(samples.iter().all(|sample| sample.ends_with(" 0")), "{samples:?}");
        }
    }
}

#[test]
fn the_contract_has_no_name_that_is_not_declared_as_it_says() {
    let metrics = Metrics::new("v1.2.3", "abc");
    for (name, kind, labels, _) in CONTRACT.iter().filter(|(name, ..)| !name.starts_with("process_")) {
        let declared = metrics.families().iter().find(|family| family.name == *name);
        let declared = declared.unwrap_or_else(|| panic!("{name} is not declared"));
        assert_eq!((declared.kind, declared.labels), (*kind, *labels), "{name}");
    }
}

/// An expression that we tell people to use.
struct Published {
    /// Where it is.
    place: &'static str,
    expression: String,
    /// What is written beside its values.
    legend: String,
}

impl Published {
    fn new(place: &'static str, expression: impl Into<String>) -> Self {
        Self { place, expression: expression.into(), legend: String::new() }
    }

    /// Returns the labels that its legend takes from the result.
    fn labels(&self) -> impl Iterator<Item = &str> {
        self.legend.split("{{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0))
    }

    /// Tells whether the result may be empty while all is well: what compares keeps what is out of order.
    fn may_be_empty(&self) -> bool {
        self.place == "the rules" || [" == ", " > "].iter().any(|sign| self.expression.contains(sign))
    }
}

/// Returns a section of the page on metrics.
fn section(title: &str) -> &'static str {
    let (_, section) = PAGE.split_once(&format!("\n## {title}\n")).unwrap();
    section.split("\n## ").next().unwrap()
}

/// Returns the profile that the page has for an example.
fn example(namespace: &str) -> String {
    let (_, yaml) = section("Metrics of profiles").split_once("```yaml\n").unwrap();
    yaml.split("```").next().unwrap().replace("namespace: team-a", &format!("namespace: {namespace}"))
}

fn published() -> Vec<Published> {
    let mut all = RUNBOOK.map(|query| Published::new("the runbook", query)).into_iter().collect::<Vec<_>>();
    let sections = ["Questions and queries", "Metrics of profiles"].map(section);
    let lines = sections.iter().flat_map(|section| section.lines());
    for (_, cell) in lines.filter_map(|line| line.strip_prefix("| ")?.split_once(" | `")) {
        let cell = cell.trim_end_matches([' ', '|', '`']);
        all.extend(cell.split("`, `").map(|query| Published::new("docs/metrics.md", query)));
    }
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            let query = query.replace("$__rate_interval", "1m").replace("$cluster", ".*").replace("$goal", "100000");
            assert!(!query.contains('$'), "a variable without a value: {query}");
            let legend = target["legendFormat"].as_str().unwrap().to_owned();
            all.push(Published { legend, ..Published::new("the dashboard", query) });
        }
    }
    let rules: Value = serde_saphyr::from_str(&std::fs::read_to_string(repository_file(RULES)).unwrap()).unwrap();
    for rule in rules["groups"][0]["rules"].as_array().unwrap() {
        all.push(Published::new("the rules", rule["expr"].as_str().unwrap()));
    }
    all
}

/// Asks for an expression, and looks whether there is something to see, with the labels that its legend wants.
async fn is_answered(prometheus: &Prometheus, published: &Published) {
    let Published { place, expression, legend } = published;
    let answered = wait_for(expression, PATIENCE, || async {
        let result = prometheus.query(expression).await?;
        let samples = result.as_array().context("the result is no vector")?;
        ensure!(published.may_be_empty() || !samples.is_empty(), "the result is empty");
        for sample in samples {
            let missing: Vec<&str> = published.labels().filter(|label| sample["metric"].get(label).is_none()).collect();
            ensure!(missing.is_empty(), "{legend:?} finds no {missing:?} in {sample}");
        }
        Ok(())
    });
    answered.await.unwrap_or_else(|error| panic!("{place}: {error:#}"));
}

/// Returns the names of metrics in an expression.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let prefixes = ["kollect_", "process_", "workqueue_", "leader_", "controller_runtime_", "rest_client_"];
    words.filter(move |word| prefixes.iter().any(|prefix| word.starts_with(prefix)))
}

#[test]
fn published_expressions_name_no_metric_that_is_not_there() {
    let metrics = Metrics::new("v1.2.3", "abc");
    let page = metrics.page().unwrap();
    let mut known: BTreeSet<String> = families(&page).into_iter().map(|(name, _)| name.to_owned()).collect();
    for family in metrics.families() {
        let suffixes: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        known.extend(suffixes.iter().map(|suffix| format!("{}{suffix}", family.name)));
    }
    let all = published();
    for place in ["docs/metrics.md", "the dashboard", "the rules"] {
        assert!(all.iter().filter(|published| published.place == place).count() >= 10, "{place} is not read");
    }
    for Published { place, expression, .. } in &all {
        for name in names(expression) {
            assert!(known.contains(name), "{place}: there is no {name}: {expression}");
        }
    }
}

/// Returns what a Prometheus is told; `files` holds the token and the authority.
fn configuration(operator: &str, files: &Path) -> String {
    let (rules, files) = (repository_file(RULES).display().to_string(), files.display());
    format!(
        r#"
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
- job_name: kollect
  scheme: https
  authorization: {{credentials_file: "{files}/token"}}
  tls_config: {{ca_file: "{files}/ca.crt"}}
  static_configs: [{{targets: ["{operator}"], labels: {{cluster: lab}}}}]
"#
    )
}

#[tokio::test]
async fn a_prometheus_scrapes_over_https_and_understands_all_that_is_published() {
    let Some(job) = Job::new("prometheus").await else { return };
    let load = Job::load(2, 50);
    load.create(&job.ground.client).await.unwrap();
    job.apply(&example(job.namespace())).expect("the example of the page is accepted");
    let replicas = job.ground.api().kubectl(&["get", "deployments", "-A", "-o", "jsonpath={.items[*].spec.replicas}"]);
    let replicas: f64 = replicas.unwrap().split_whitespace().map(|number| number.parse::<f64>().unwrap()).sum();
    let files = job.ground.lab().dir().join("serving");
    let certificates = Certificates::new(job.ground.lab().dir(), &["IP:127.0.0.1"]).unwrap();
    write_pair(&files, &certificates);
    let options = job.ground.operator_options().arg("--metrics-secure=true").arg("--leader-elect");
    let options = options.arg(format!("--metrics-cert-path={}", files.display()));
    let operator = job.ground.start_operator(&options).await;
    let token = token(&job.ground, "kollect-system", "kollect-controller-manager");
    std::fs::write(files.join("token"), &token).unwrap();
    std::fs::write(files.join("ca.crt"), &certificates.ca).unwrap();
    let configuration = configuration(operator.metrics_address(), &files);
    let started = Prometheus::start(job.ground.lab().dir(), &configuration, job.ground.lab().guard()).await;
    let Some(prometheus) = part_or_skip(started) else { return };

    job.rows(100).await;
    for (expression, want) in [
        (r#"up{job="kollect"}"#, 1.0),
        ("kollect_collect_items_total", 100.0),
        (r#"kollect_custom_resource_series{series="object_count"}"#, 100.0),
        (r#"kollect_custom_resource_series{series="replicas"}"#, replicas),
        (r#"sum(kollect_custom_resource_labeled_series{series="replicas_by_team",team!="",tier!=""})"#, replicas),
        (r#"kollect_custom_resource_labeled_series{series="replicas_by_image",image!=""}"#, replicas),
        ("min(kollect_binding_synced)", 1.0),
        (r#"kollect_export_rows_total{sink_type="postgres"}"#, 100.0),
        (r#"leader_election_master_status{name="3274ac8a.kollect.dev"}"#, 1.0),
    ] {
        let seen = wait_for(expression, PATIENCE, || async {
            let have = prometheus.value(expression).await?;
            ensure!((have - want).abs() < f64::EPSILON, "it is {have}");
            Ok(())
        });
        seen.await.unwrap_or_else(|error| panic!("{error:#}\n{}", operator.log_tail(20)));
    }
    for published in published() {
        is_answered(&prometheus, &published).await;
    }
    wait_for("all rules to be evaluated", PATIENCE, || async {
        let rules = prometheus.rules().await?;
        let well = |rule: &&Value| rule["health"] == "ok" && rule["state"] == "inactive";
        let ill: Vec<_> = rules.iter().filter(|rule| !well(rule)).collect();
        ensure!(!rules.is_empty() && ill.is_empty(), "{ill:?}");
        Ok(())
    })
    .await
    .unwrap();

    let page = scrape(&operator, &certificates.ca, Some(&token)).await.unwrap().text;
    let (content, said) = promtool(&["check", "metrics"], &page).unwrap();
    let complaints: Vec<&str> =
        said.lines().filter(|line| !KNOWN_NAMES.iter().any(|name| line.starts_with(name))).collect();
    assert!(complaints.is_empty(), "{said}");
    assert!(content || !said.is_empty(), "promtool failed without a word");
    for (name, kind, labels, _) in CONTRACT.iter().filter(|(.., there)| *there != Reviewing) {
        let samples = samples(&page, name, kind);
        assert!(!samples.is_empty(), "{name} is missing");
        for sample in samples {
            let all = labels.iter().all(|label| sample.contains(&format!("{label}=\"")));
            let more = sample.matches("=\"").count() - labels.len();
            assert!(all && if *name == LABELED { more > 0 } else { more == 0 }, "{sample}");
        }
    }
    assert!(operator.terminate().await.unwrap().success());
}
