use std::fmt::Write as _;

use super::*;
use crate::model::{BindingKey, Family as SinkFamily, Gvk, Name, Namespace, ObjectKey, SinkKey};

fn metrics() -> Metrics {
    Metrics::new("dev", "unknown")
}

fn object(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::new(Namespace::new(namespace), Name::new(name))
}

/// The page without the numbers of the process and without the buckets.
fn page(metrics: &Metrics) -> String {
    let page = metrics.page().unwrap();
    let lines = page.lines().filter(|line| !line.contains("process_") && !line.contains("_bucket{"));
    lines.fold(String::new(), |page, line| page + line + "\n")
}

fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    let page = metrics.page().unwrap();
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// A stage with one of everything.
struct Stage(usize);

impl Sizes for Stage {
    fn read(&self, reading: &mut Reading) {
        let gvk = Gvk { group: "apps".into(), version: "v1".into(), kind: "Deployment".into() };
        reading.rows += 7;
        reading.row_bytes += 700;
        reading.row_budget_bytes = 1 << 20;
        reading.allocator.push(("allocated", 5_000));
        reading.collected.extend([3, 4].map(|rows| Collected { profile: Name::new("images"), gvk: gvk.clone(), rows }));
        reading.streams.extend([(5, Reach::Namespace), (2, Reach::Namespace)].map(|(objects, reach)| Stream {
            group: "apps".into(),
            version: "v1".into(),
            resource: "deployments".into(),
            objects,
            reach,
        }));
        reading.watch_connections_limit = 200;
        reading.queues.push(Queue { name: "dispatch", depth: 9, limit: 512, bytes: Some((4_000, 16 << 20)) });
        reading.queues.push(Queue { name: "deliveries", depth: 1, limit: 8, bytes: None });
        reading.bindings.extend((0..self.0).map(|index| Binding {
            key: BindingKey {
                inventory: object("team-a", &format!("inventory-{index:04}")),
                sink: SinkKey { family: SinkFamily::Database, object: object("team-a", "pg") },
            },
            lag: Duration::from_millis(1500),
            interval: Duration::from_secs(30),
            synced: true,
            last_export_seconds: Some(1_770_000_000.0),
        }));
        reading.targets.push((object("team-a", "images"), false));
        reading.profile_series.push(ProfileSeries {
            profile: Name::new("images"),
            gvk: gvk.clone(),
            series: "cores".into(),
            labels: Vec::new(),
            value: 0.5,
        });
        reading.profile_series.push(ProfileSeries {
            profile: Name::new("images"),
            gvk,
            series: "replicas".into(),
            labels: vec![(label_names(&["app.name"]).remove(0), "a\"b".into())],
            value: 2.5,
        });
    }
}

#[test]
fn the_page_shows_zeros_from_the_start() {
    insta::assert_snapshot!(page(&metrics()));
}

#[test]
fn sizes_are_read_from_the_stages() {
    let metrics = metrics();
    let before = page(&metrics);
    let stage = Arc::new(Stage(1));
    metrics.read_from(&stage);
    let after = page(&metrics);
    let new = after.lines().filter(|line| !line.starts_with('#') && !before.contains(line));
    insta::assert_snapshot!(new.fold(String::new(), |lines, line| lines + line + "\n"));
    drop(stage);
    assert_eq!(page(&metrics), before);
}

#[test]
fn attributes_become_labels_that_prometheus_takes_and_that_differ() {
    let attributes = ["", "1st", "__name__", "app.name", "app_name", "größe", "gvk", "profile", "series", "-"];
    let names = label_names(&attributes);
    let expected = [
        "_",
        "_1st",
        "_name__",
        "app_name",
        "attribute_app_name",
        "gr__e",
        "attribute_gvk",
        "attribute_profile",
        "attribute_series",
        "attribute__",
    ];
    assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), expected);
}

#[test]
fn series_of_objects_are_capped_and_the_rest_is_counted() {
    let metrics = metrics();
    let stage = Arc::new(Stage(scrape::OBJECT_SERIES + 5));
    metrics.read_from(&stage);
    let page = metrics.page().unwrap();
    assert_eq!(page.matches("kollect_binding_synced{").count(), scrape::OBJECT_SERIES);
    assert!(page.contains("inventory-0999") && !page.contains("inventory-1000"));
    assert_eq!(value(&metrics, "kollect_object_series_left_out"), Some(5.0));
}

#[test]
fn a_reconcile_is_counted_once_with_its_verdict() {
    let metrics = metrics();
    let depth = r#"kollect_workqueue_depth{controller="kollecttarget"}"#;
    let running = metrics.reconcile(Controller::Target);
    assert_eq!(value(&metrics, depth), Some(1.0));
    running.failed(Class::Terminal);
    metrics.reconcile(Controller::Target).succeeded();
    drop(metrics.reconcile(Controller::Target));
    assert_eq!(value(&metrics, depth), Some(0.0));
    for (series, count) in [
        (r#"kollect_reconcile_total{controller="kollecttarget",result="failure"}"#, 1.0),
        (r#"kollect_reconcile_total{controller="kollecttarget",result="success"}"#, 1.0),
        (r#"kollect_reconcile_errors_total{error_class="terminal",kind="KollectTarget"}"#, 1.0),
        (r#"kollect_reconcile_duration_seconds_count{controller="kollecttarget"}"#, 2.0),
        (r#"controller_runtime_reconcile_total{controller="kollecttarget",result="error"}"#, 1.0),
        (r#"controller_runtime_reconcile_total{controller="kollecttarget",result="success"}"#, 1.0),
        (r#"controller_runtime_reconcile_errors_total{controller="kollecttarget"}"#, 1.0),
    ] {
        assert_eq!(value(&metrics, series), Some(count), "{series}");
    }
}

#[test]
fn a_request_to_the_api_server_has_both_its_names() {
    let metrics = metrics();
    metrics.api_server("10.0.0.1:6443");
    metrics.api_request(Verb::List, "deployments", Some(200));
    metrics.api_request(Verb::Patch, "deployments", None);
    for series in [
        r#"kollect_api_requests_total{code="200",resource="deployments",verb="list"}"#,
        r#"kollect_api_requests_total{code="none",resource="deployments",verb="patch"}"#,
        r#"rest_client_requests_total{code="200",host="10.0.0.1:6443",method="GET"}"#,
        r#"rest_client_requests_total{code="<error>",host="10.0.0.1:6443",method="PATCH"}"#,
    ] {
        assert_eq!(value(&metrics, series), Some(1.0), "{series}");
    }
}

#[test]
fn back_pressure_has_both_its_names() {
    let metrics = metrics();
    metrics.dispatch_waited();
    assert_eq!(value(&metrics, "kollect_collect_dispatch_backpressure_total"), Some(1.0));
    assert_eq!(value(&metrics, "kollect_collect_dispatch_sync_fallback_total"), Some(1.0));
}

#[test]
fn a_resource_that_nobody_watches_leaves_no_series() {
    let metrics = metrics();
    metrics.resource("apps", "v1", "deployments").mismatches.inc();
    assert!(metrics.page().unwrap().contains("deployments"));
    metrics.forget_resource("apps", "v1", "deployments");
    metrics.forget_resource("apps", "v1", "deployments");
    assert!(!metrics.page().unwrap().contains("deployments"));
}

#[test]
fn the_holder_of_a_lease_says_so() {
    let metrics = metrics();
    let series = r#"leader_election_master_status{name="l"}"#;
    assert_eq!(value(&metrics, series), None);
    metrics.standing_by("l");
    assert_eq!(value(&metrics, series), Some(0.0));
    metrics.leading("l");
    assert_eq!(value(&metrics, series), Some(1.0));
}

#[test]
fn process_metrics_are_on_the_page() {
    let page = metrics().page().unwrap();
    for name in ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"] {
        assert!(page.contains(name), "{name}");
    }
}

/// The table of all families as `docs/metrics.md` has it.
fn family_table(families: &[Family]) -> String {
    let mut families: Vec<_> = families.iter().collect();
    families.sort_by_key(|family| family.name);
    let mut table = String::from("| Name | Type | Labels | Meaning |\n| --- | --- | --- | --- |\n");
    for family in families {
        let labels = family.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(" ");
        writeln!(table, "| `{}` | {} | {labels} | {} |", family.name, family.kind, family.help).unwrap();
    }
    table
}

#[test]
fn the_page_on_metrics_lists_every_family() {
    let page = include_str!("../../docs/metrics.md");
    let table = family_table(metrics().families());
    assert!(page.contains(&table), "docs/metrics.md is out of date; its table should be:\n{table}");
}
