use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::sums::Tuples;
use super::*;
use crate::api::v1alpha1::Kind;
use crate::model::{Body, Namespace, Origin, Uid};
use crate::store::{Coverage, Store};

const INTERVAL: Duration = Duration::from_secs(30);

/// The measures of a store, with the page that shows them.
struct Stage {
    store: Store,
    metrics: Arc<Metrics>,
    measures: Arc<Measures>,
    /// The time of the last refresh.
    now: Instant,
}

impl Stage {
    fn new(cap: usize) -> Self {
        let metrics = Arc::new(Metrics::new("dev", "unknown"));
        let inner = Mutex::default();
        let measures = Arc::new(Measures { metrics: metrics.clone(), interval: INTERVAL, cap, inner });
        metrics.read_from(&measures);
        Self { store: Store::default(), metrics, measures, now: Instant::now() }
    }

    /// Registers a target of the profile `p`, all of which is known once rows are put.
    fn target(&self, namespace: &str, name: &str, metrics: &Value) -> Target {
        let gvk = Gvk { group: "apps".into(), version: "v1".into(), kind: "Deployment".into() };
        let key = ObjectKey::new(Namespace::new(namespace), Name::new(name));
        let target = self.store.register(Origin { target: key.clone(), gvk });
        target.cover(&Coverage::Cluster);
        self.want(&target, metrics);
        target
    }

    fn want(&self, target: &Target, metrics: &Value) {
        let metrics: Vec<ProfileMetric> = serde_json::from_value(metrics.clone()).unwrap();
        let subject = (Kind::Target, target.origin().target.clone());
        self.measures.put(subject, &Name::new("p"), &metrics, vec![target.clone()]);
    }

    /// Looks once more, an interval later.
    fn refresh(&mut self) {
        self.now += INTERVAL;
        self.measures.refresh(self.measures.due(self.now), self.now, &CancellationToken::new());
    }

    /// Returns what the page shows of profiles, without what is the same in all lines.
    fn page(&self) -> String {
        let page = self.metrics.page().unwrap();
        let lines = page.lines().filter_map(|line| line.strip_prefix("kollect_custom_resource_"));
        let same = [r#"profile="p",gvk="apps/v1/Deployment","#, r#"gvk="apps/v1/Deployment",profile="p","#];
        let lines: Vec<String> =
            lines.map(|line| same.iter().fold(line.to_owned(), |line, same| line.replace(same, ""))).collect();
        lines.join("\n")
    }
}

fn put(target: &Target, uid: &str, attributes: &Value) {
    let body = Body::new(uid, attributes.to_string().as_bytes()).unwrap();
    target.apply(&Uid::new(uid), &Namespace::new("a"), body, false, 1);
}

/// Puts rows with one attribute of these values.
fn put_all(target: &Target, attribute: &str, values: &Value) {
    for (index, value) in values.as_array().unwrap().iter().enumerate() {
        put(target, &format!("u{index}"), &json!({ attribute: value }));
    }
    target.sweep(|_| true, 1);
}

#[test]
fn numbers_and_texts_that_are_numbers_are_added_up_and_nothing_else_is() {
    for (values, sum) in [
        (json!(["2.25", true, "x", 3]), Some("5.25")),
        (
            json!(["NaN", "Inf", "-infinity", "1e999", "", " 1", "1 ", "0x10", "1_000", "500m", "1.2.3", null, [7], {"a": 7}]),
            None,
        ),
        (json!(["+1", "-0.5", ".5", "5.", "1e3", 1.5e3, -2]), Some("2504")),
        (json!([9_007_199_254_740_993_u64, u64::MAX]), Some("18455751272964293000")),
        (json!([false, "0"]), Some("0")),
    ] {
        for metrics in [json!([]), json!([{"name": "size", "path": "size"}])] {
            let mut stage = Stage::new(200);
            let target = stage.target("team-a", "t", &metrics);
            put_all(&target, "size", &values);
            stage.refresh();
            let named = metrics != json!([]);
            let expected = sum.or_else(|| named.then_some("0")).map(|sum| format!(r#"series{{series="size"}} {sum}"#));
            assert_eq!(stage.page(), expected.unwrap_or_default(), "{values} by {metrics}");
        }
    }
}

#[test]
fn without_metrics_each_number_is_a_series_but_not_in_the_place_of_the_number_of_rows() {
    let mut stage = Stage::new(200);
    let target = stage.target("team-a", "t", &json!([]));
    put(
        &target,
        "u1",
        &json!({"image": "a:1.2", "object_count": 9, "ready": "1", "replicas": 2, "spec": {"replicas": 5}}),
    );
    put(&target, "u2", &json!({"image": "b", "replicas": 3, "we\"ird": 1}));
    target.sweep(|_| true, 1);
    stage.refresh();
    let lines = [r#"series{series="ready"} 1"#, r#"series{series="replicas"} 5"#, r#"series{series="we\"ird"} 1"#];
    assert_eq!(stage.page(), lines.join("\n"));
}

#[test]
fn a_number_that_comes_later_is_seen_though_the_rows_had_none() {
    let mut stage = Stage::new(200);
    let target = stage.target("team-a", "t", &json!([]));
    put_all(&target, "version", &json!(["v1", "v2", "nginx:3"]));
    stage.refresh();
    assert_eq!(stage.page(), "");
    put(&target, "u1", &json!({"version": "v3"}));
    stage.refresh();
    assert_eq!(stage.page(), "");
    put(&target, "u2", &json!({"version": 3}));
    stage.refresh();
    assert_eq!(stage.page(), r#"series{series="version"} 3"#);
    target.remove(&Uid::new("u2"));
    stage.refresh();
    assert_eq!(stage.page(), "");
}

#[test]
fn the_first_tuples_stay_and_the_others_are_counted_at_each_refresh() {
    let metrics = json!([{"name": "m", "path": "size", "labels": ["name"]}]);
    let mut stage = Stage::new(2);
    let target = stage.target("team-a", "t", &metrics);
    for (uid, name) in [("u1", "c"), ("u2", "a"), ("u3", "b"), ("u4", "a")] {
        put(&target, uid, &json!({"name": name, "size": 1.5}));
    }
    target.sweep(|_| true, 1);
    let expected = |capped: u32| {
        format!(
            "labeled_series{{series=\"m\",name=\"a\"}} 3\nlabeled_series{{series=\"m\",name=\"b\"}} 1.5\n\
             labeled_series_capped_total{{series=\"m\"}} {capped}"
        )
    };
    stage.refresh();
    assert_eq!(stage.page(), expected(1));
    // Nothing changed, so nothing is refreshed.
    stage.refresh();
    assert_eq!(stage.page(), expected(1));
    put(&target, "u5", &json!({"name": "c", "size": 1}));
    stage.refresh();
    assert_eq!(stage.page(), expected(2));
    // What another target has is no tuple of its own.
    let other = stage.target("team-b", "t", &metrics);
    put(&other, "u1", &json!({"name": "c", "size": 1}));
    other.sweep(|_| true, 1);
    stage.refresh();
    assert_eq!(stage.page(), expected(3));
}

#[test]
fn labels_are_attributes_as_text() {
    let mut stage = Stage::new(200);
    let target = stage.target("team-a", "t", &json!([{"name": "m", "path": "n", "labels": ["profile", "b.c", "b.c"]}]));
    let long = "ü".repeat(200);
    for (index, (label, value)) in [
        (json!("x=\"\n<"), 1),
        (json!(null), 2),
        (json!(1.0), 4),
        (json!(true), 8),
        (json!(["a", {"b": 1}]), 16),
        (json!(format!("{long}1")), 32),
        (json!(format!("{long}2")), 64),
    ]
    .into_iter()
    .enumerate()
    {
        put(&target, &format!("u{index}"), &json!({"b.c": label, "n": value}));
    }
    put(&target, "u8", &json!({"n": 128}));
    put(&target, "u9", &json!({"b.c": "no number", "n": "many"}));
    target.sweep(|_| true, 1);
    stage.refresh();
    let page = stage.page();
    let cut = "ü".repeat(128);
    for (label, sum) in
        [(r#"x=\"\n<"#, 1), ("", 130), ("1.0", 4), ("true", 8), (r#"[\"a\",{\"b\":1}]"#, 16), (cut.as_str(), 96)]
    {
        let line = format!(r#"labeled_series{{series="m",b_c="{label}",attribute_profile=""}} {sum}"#);
        assert!(page.lines().any(|found| found == line), "{line}\nis not in\n{page}");
    }
    assert_eq!(page.lines().count(), 7, "{page}");
}

#[test]
fn a_profile_is_the_sum_of_its_targets_and_goes_with_the_last() {
    let metrics = json!([{"name": "all", "path": "n"}, {"name": "by", "path": "n", "labels": ["l"]}]);
    let mut stage = Stage::new(200);
    let [first, second] = ["team-a", "team-b"].map(|namespace| stage.target(namespace, "t", &metrics));
    for (target, number) in [(&first, 1), (&second, 2)] {
        put(target, "u1", &json!({"l": "x", "n": number}));
        target.sweep(|_| true, 1);
    }
    let page = |sum: u32| {
        format!(
            "labeled_series{{series=\"by\",l=\"x\"}} {sum}\nlabeled_series_capped_total{{series=\"by\"}} 0\n\
             series{{series=\"all\"}} {sum}"
        )
    };
    stage.refresh();
    assert_eq!(stage.page(), page(3));
    second.remove(&Uid::new("u1"));
    put(&second, "u2", &json!({"l": "x", "n": 7}));
    stage.refresh();
    assert_eq!(stage.page(), page(8));
    // The same again keeps what is known.
    stage.want(&first, &metrics);
    assert!(stage.measures.due(stage.now + INTERVAL).is_empty());
    stage.measures.remove(&(Kind::Target, second.origin().target.clone()));
    stage.refresh();
    assert_eq!(stage.page(), page(1));
    // A metric that the profile does not name any more goes, with its counter.
    stage.want(&first, &json!([{"name": "all", "path": "n"}]));
    assert_eq!(stage.page(), page(1));
    stage.refresh();
    assert_eq!(stage.page(), r#"series{series="all"} 1"#);
    stage.want(&first, &metrics);
    stage.refresh();
    assert_eq!(stage.page(), page(1));
    stage.measures.put((Kind::Target, first.origin().target.clone()), &Name::new("p"), &[], Vec::new());
    assert_eq!(stage.page(), "");
    stage.refresh();
    assert_eq!(stage.page(), "");
}

#[test]
fn a_change_is_added_up_at_the_end_of_the_interval_and_half_a_list_is_waited_for() {
    let stage = Stage::new(200);
    let start = Instant::now();
    let target = stage.target("team-a", "t", &json!([]));
    put(&target, "u1", &json!({"n": 1}));
    let due = |now: Instant| stage.measures.due(now).len();
    let refresh = |now: Instant| stage.measures.refresh(stage.measures.due(now), now, &CancellationToken::new());
    let seconds = Duration::from_secs;
    // A part that stays unknown does not hide the others for ever.
    assert_eq!([due(start + seconds(20)), due(start + seconds(40))], [0, 1]);
    target.sweep(|_| true, 1);
    assert_eq!(due(start + seconds(1)), 1);
    refresh(start + seconds(1));
    assert_eq!(due(start + seconds(100)), 0);
    put(&target, "u1", &json!({"n": 2}));
    assert_eq!(due(start + seconds(30)), 0);
    put(&target, "u1", &json!({"n": 3}));
    assert_eq!(due(start + seconds(31)), 1);
    refresh(start + seconds(31));
    assert_eq!(stage.page(), r#"series{series="n"} 3"#);
    put(&target, "u1", &json!({"n": 4}));
    assert_eq!([due(start + seconds(60)), due(start + seconds(61))], [0, 1]);
    // Cancelled in the middle, nothing is shown and nothing is forgotten.
    let (now, stop) = (start + seconds(61), CancellationToken::new());
    stop.cancel();
    stage.measures.refresh(stage.measures.due(now), now, &stop);
    assert_eq!((due(now), stage.page().as_str()), (1, r#"series{series="n"} 3"#));
    // A target that was removed meanwhile is not read.
    let late = stage.measures.due(now);
    stage.store.unregister(&Namespace::new("team-a"), &Name::new("t"));
    stage.measures.refresh(late, now, &CancellationToken::new());
    assert_eq!((due(now), stage.page().as_str()), (0, r#"series{series="n"} 3"#));
}

#[test]
fn tuples_that_find_no_room_are_left_out_and_say_so() {
    let metrics = serde_json::from_value::<Vec<ProfileMetric>>(json!([{"name": "m", "path": "n", "labels": ["l"]}]));
    let wanted = Wanted::new(&metrics.unwrap());
    let stage = Stage::new(200);
    let target = stage.target("team-a", "t", &json!([]));
    for uid in 0..50 {
        put(&target, &format!("u{uid}"), &json!({"l": format!("l{uid}"), "n": 1}));
    }
    let room = Room(10 * (TUPLE_BYTES + 8));
    let partial = add_up(&target, &wanted, None, 200, room, &CancellationToken::new()).unwrap();
    let tuples: &Tuples = partial.sums.labeled.values().next().unwrap();
    assert!((5..=10).contains(&tuples.sums.len()) && tuples.left_out() > 0, "{tuples:?}");
    assert!(partial.bytes <= room.0);
    assert!(tuples.sums.values().all(|sum| (sum - 1.0).abs() < f64::EPSILON));
}

#[tokio::test(start_paused = true)]
async fn the_task_refreshes_by_itself_until_it_is_told_to_stop() {
    let stage = Stage::new(200);
    let target = stage.target("team-a", "t", &json!([]));
    put_all(&target, "n", &json!([1, 2]));
    let stop = CancellationToken::new();
    let mut run = std::pin::pin!(stage.measures.clone().run(stop.clone()));
    let shown = |sum: u32| stage.page() == format!(r#"series{{series="n"}} {sum}"#);
    let mut until = async |sum: u32| {
        while !shown(sum) {
            let pause = tokio::time::timeout(Duration::from_millis(100), &mut run);
            assert!(pause.await.is_err(), "it ended by itself");
        }
    };
    let start = Instant::now();
    until(3).await;
    assert!(start.elapsed() <= 2 * POLL);
    put_all(&target, "n", &json!([1, 2, 4]));
    until(7).await;
    assert!((INTERVAL..=INTERVAL + 3 * POLL).contains(&start.elapsed()), "{:?}", start.elapsed());
    stop.cancel();
    run.await.unwrap();
}

proptest! {
    /// Whatever the order of the rows and their distribution over targets: what is shown is the first tuples of all with
    /// their whole sums, and what is counted is the number of the others.
    #[test]
    fn what_is_kept_of_each_target_is_enough_for_all(
        rows in prop::collection::vec((0..3_usize, "[a-d]{1,2}", 0..100_u32), 0..60),
        cap in 1..6_usize,
    ) {
        let metrics = json!([{"name": "m", "path": "n", "labels": ["l"]}]);
        let mut stage = Stage::new(cap);
        let targets = ["x", "y", "z"].map(|name| stage.target("team-a", name, &metrics));
        let mut sums: BTreeMap<&str, u32> = BTreeMap::new();
        for (index, (target, label, number)) in rows.iter().enumerate() {
            put(&targets[*target], &format!("u{index}"), &json!({"l": label, "n": number}));
            *sums.entry(label).or_default() += number;
        }
        for target in &targets {
            target.sweep(|_| true, 1);
        }
        stage.refresh();
        let capped = sums.len().saturating_sub(cap);
        let kept = sums.iter().take(cap).map(|(label, sum)| format!("labeled_series{{series=\"m\",l=\"{label}\"}} {sum}"));
        let lines: Vec<String> = kept.chain([format!("labeled_series_capped_total{{series=\"m\"}} {capped}")]).collect();
        prop_assert_eq!(stage.page(), lines.join("\n"));
    }
}
