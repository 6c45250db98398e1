//! What becomes of rows when a target, its profile or an object changes, which condition a target has when several apply,
//! and where a cluster target collects: the rules that the pages on filters, scopes and cluster kinds leave to be seen.

use anyhow::{Result, ensure};
use kollect::api::v1alpha1::conditions::reasons;
use kollect::lab::Operator;
use kollect::lab::operator::wait_for_metric;
use kollect::lab::wait::wait_for;
use serde_json::Value;

use crate::filters::{Rows, deployment, namespace};
use crate::operator::{Job, PATIENCE};

const DEPLOYMENT: &str = "{group: apps, version: v1, kind: Deployment}";
/// Two namespaces of their own, beside that of the test, which the cluster target selects as well.
const PLACES: [&str; 2] = ["north", "south"];

fn rows(of: &[(&str, &[&str])]) -> Rows {
    of.iter()
        .map(|(target, names)| ((*target).to_owned(), names.iter().map(|&name| name.to_owned()).collect()))
        .collect()
}

impl Job {
    /// Returns the conditions of an object: type, status and reason, in the order of types.
    fn conditions(&self, object: &str) -> Vec<(String, String, String)> {
        let conditions = self.status(object)["conditions"].as_array().cloned().unwrap_or_default();
        let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        let mut all: Vec<_> = conditions
            .iter()
            .map(|condition| (text(condition, "type"), text(condition, "status"), text(condition, "reason")))
            .collect();
        all.sort();
        all
    }

    /// Waits until an object has exactly these conditions.
    async fn exactly(&self, object: &str, want: &[(&str, &str, &str)]) {
        let what = format!("{want:?} on {object}");
        let told = wait_for(&what, PATIENCE, || async {
            let have = self.conditions(object);
            let have: Vec<_> = have.iter().map(|(type_, status, reason)| (&**type_, &**status, &**reason)).collect();
            ensure!(have == want, "{have:?}");
            Ok(())
        });
        told.await.unwrap_or_else(|error| panic!("{error:#}\n{}", self.describe()));
    }

    /// Waits until a target is degraded for this reason, and is nothing else.
    async fn degraded(&self, object: &str, reason: &str) {
        self.exactly(object, &[("Degraded", "True", reason), ("SinkReachable", "False", reason)]).await;
    }
}

#[tokio::test]
async fn rows_follow_what_changes_and_the_first_reason_that_applies_is_told() {
    let Some(job) = Job::new("rules").await else { return };
    let own = job.namespace();
    let mut world: String = PLACES.map(|place| namespace(place, "place: 'yes'")).concat();
    for place in [PLACES[0], PLACES[1], own] {
        world += &deployment(place, "web", "app: web", 1);
    }
    world += "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: south}\n";
    job.apply(&world).unwrap();
    let options = job.ground.operator_options().arg("--informer-resync-period=4s");
    let operator = job.ground.start_operator(&options).await;
    rows_follow(&job).await;
    reasons_in_order(&job).await;
    numbers_are_kept(&job).await;
    cluster_targets(&job).await;
    relists_write_nothing(&job, &operator).await;
    operator.terminate().await.unwrap();
}

/// A target that moves, reads something else or goes takes its rows along.
async fn rows_follow(job: &Job) {
    let target = |spec: &str| job.target("one", &format!("profileRef: one, names: [web, settings], {spec}"));
    job.apply(&[job.profile("one", DEPLOYMENT), target("includedNamespaces: [north]")].concat()).unwrap();
    job.collects(&rows(&[("one", &["north/web"])])).await;
    // Alone on its watch, which moves with it.
    job.apply(&target("includedNamespaces: [south]")).unwrap();
    job.collects(&rows(&[("one", &["south/web"])])).await;
    job.apply(&job.profile("one", "{version: v1, kind: ConfigMap}")).unwrap();
    job.collects(&rows(&[("one", &["south/settings"])])).await;
    // Names are exact, and include nobody by their beginning.
    job.apply(&job.target("one", "profileRef: one, names: [setting], includedNamespaces: [south]")).unwrap();
    job.collects(&rows(&[("one", &[])])).await;
    job.apply(&[job.profile("one", DEPLOYMENT), target("includedNamespaces: [north, south]")].concat()).unwrap();
    job.collects(&rows(&[("one", &["north/web", "south/web"])])).await;
    // An object that is deleted and made again is another one.
    job.kubectl(&["-n", "north", "delete", "deployment", "web"]);
    job.collects(&rows(&[("one", &["south/web"])])).await;
    job.apply(&deployment("north", "web", "app: web", 1)).unwrap();
    job.collects(&rows(&[("one", &["north/web", "south/web"])])).await;
    job.kubectl(&["-n", job.namespace(), "delete", "ktgt/one"]);
    job.collects(&rows(&[("one", &[])])).await;
}

/// Several things are wrong at once: the first of them is told, and then the next.
async fn reasons_in_order(job: &Job) {
    let own = job.namespace();
    let scope = format!(
        "apiVersion: kollect.dev/v1alpha1\nkind: KollectScope\nmetadata: {{name: limits, namespace: {own}}}\n\
         spec: {{deniedNamespaces: [south]}}\n---\n"
    );
    let inventory = format!(
        "apiVersion: kollect.dev/v1alpha1\nkind: KollectInventory\nmetadata: {{name: other, namespace: {own}}}\n\
         spec: {{databaseSinkRefs: [{{name: nowhere}}]}}\n---\n"
    );
    let refused = job.apply(&job.target("ordered", "profileRef: ''")).unwrap_err().to_string();
    assert!(refused.contains("spec.profileRef"), "{refused}");
    let failing = "cel:object.metadata.namespace == 'north' ? object.metadata.missing : 'x'";
    let profile = |kind: &str, path: &str| {
        format!(
            "apiVersion: kollect.dev/v1alpha1\nkind: KollectProfile\nmetadata: {{name: ordered, namespace: {own}}}\n\
             spec: {{targetGVK: {kind}, attributes: [{{name: a, path: \"{path}\"}}]}}\n---\n"
        )
    };
    let places = "profileRef: ordered, includedNamespaces: [north, south]";
    let nonsense = "{group: apps, version: v1, kind: Deploymnet}";
    job.apply(&[scope, inventory, job.target("ordered", &format!("{places}, suspend: true"))].concat()).unwrap();
    job.degraded("ktgt/ordered", reasons::SUSPENDED).await;
    let steps: [(String, &str); 6] = [
        (job.target("ordered", &format!("{places}, suspend: false")), reasons::PROFILE_NOT_FOUND),
        (profile(nonsense, "{.a"), reasons::PROFILE_INVALID),
        (profile(nonsense, "{.a}"), reasons::KIND_NOT_FOUND),
        (profile(DEPLOYMENT, failing), reasons::SCOPE_NAMESPACE_DENIED),
        (
            job.target("ordered", "profileRef: ordered, includedNamespaces: [north], names: [web]"),
            reasons::EXTRACTION_FAILED,
        ),
        (profile(DEPLOYMENT, "{.metadata.name}"), reasons::SINK_NOT_FOUND),
    ];
    for (change, reason) in steps {
        job.apply(&change).unwrap();
        job.degraded("ktgt/ordered", reason).await;
    }
    // Rows are collected whatever sinks there are.
    job.collects(&rows(&[("ordered", &["north/web"])])).await;
    job.kubectl(&["-n", own, "delete", "kinv/other"]);
    let ready = [
        ("Ready", "True", reasons::COLLECTING),
        ("SinkReachable", "True", reasons::SINKS_REACHABLE),
        ("Synced", "True", reasons::COLLECTING),
    ];
    job.exactly("ktgt/ordered", &ready).await;
    for kind in ["Ready", "Synced"] {
        let message = job.condition("ktgt/ordered", kind, reasons::COLLECTING).await;
        assert_eq!(message, "profileRef \"ordered\" resolved; collecting 1 resource(s)");
    }
    job.kubectl(&["-n", own, "delete", "kscope/limits"]);
}

/// The number of rows is that of the last time at which it was known, with the time at which it changed.
async fn numbers_are_kept(job: &Job) {
    let number = || {
        let status = job.status("ktgt/ordered");
        (status["collectedCount"].clone(), status["collectedCountUpdatedAt"].clone())
    };
    let before = number();
    assert_eq!(before.0, 1, "{before:?}");
    let profile = job.kubectl(&["-n", job.namespace(), "get", "kprof/ordered", "-o", "json"]);
    let mut profile: Value = serde_json::from_str(&profile).unwrap();
    job.kubectl(&["-n", job.namespace(), "delete", "kprof/ordered"]);
    job.degraded("ktgt/ordered", reasons::PROFILE_NOT_FOUND).await;
    assert_eq!(number(), before, "degraded");
    profile["metadata"] = serde_json::json!({"name": "ordered", "namespace": job.namespace()});
    job.apply(&profile.to_string()).unwrap();
    job.condition("ktgt/ordered", "Ready", reasons::COLLECTING).await;
    assert_eq!(number(), before, "and back");
    job.patch("ktgt/ordered", r#"{"spec":{"suspend":true}}"#);
    job.degraded("ktgt/ordered", reasons::SUSPENDED).await;
    let suspended = number();
    assert_eq!(suspended.0, 0, "{suspended:?}");
    assert_ne!(suspended.1, before.1);
}

/// One cluster target, with filters of its own, and what takes its rows away.
async fn cluster_targets(job: &Job) {
    let own = job.namespace();
    job.kubectl(&["label", "namespace", own, "place=yes"]);
    let target = |spec: &str| -> Result<String> {
        job.apply(&format!(
            "apiVersion: kollect.dev/v1alpha1\nkind: KollectClusterTarget\nmetadata: {{name: wide}}\n\
             spec: {{profileRef: {{name: wide, namespace: north}}, {spec}}}\n"
        ))
    };
    let profile = |kind: &str| {
        let text = job.profile("wide", kind);
        job.apply(&text.replace(&format!("namespace: {own}"), "namespace: north")).unwrap();
    };
    for (spec, says) in
        [("suspend: false", "spec.namespaceSelector"), ("namespaceSelector: {}", "spec.namespaceSelector")]
    {
        let refused = target(spec).unwrap_err().to_string();
        assert!(refused.contains(says), "{refused}");
    }
    profile(DEPLOYMENT);
    // A target of that name in a namespace that is not selected is a target like others.
    job.apply(&namespace("aside", "")).unwrap();
    job.apply(&deployment("aside", "web", "", 1)).unwrap();
    let aside = job.target("wide", "profileRef: wide, includedNamespaces: [aside]");
    let aside =
        [job.profile("wide", DEPLOYMENT), aside].concat().replace(&format!("namespace: {own}"), "namespace: aside");
    job.apply(&aside).unwrap();
    let places = "namespaceSelector: {matchLabels: {place: 'yes'}}";
    let rule = format!("resourceRules: [{{gvk: {DEPLOYMENT}, matchLabels: {{app: web}}}}]");
    target(&format!("{places}, {rule}")).unwrap();
    // Of its registrations the inventory of this namespace has the one here.
    let web = format!("{own}/web");
    job.collects(&rows(&[("wide", &[&web])])).await;
    let wide = async |text: &str| {
        wait_for(text, PATIENCE, || async {
            let status = job.status("kctgt/wide");
            ensure!(status.to_string().contains(text), "{status}");
            Ok(())
        })
        .await
        .unwrap();
    };
    wide("3 namespace(s) matched; collecting 3 resource(s)").await;
    job.apply(&deployment(own, "api", "app: api", 1)).unwrap();
    target(&format!("{places}, excludedNamespaces: [south], {rule}")).unwrap();
    wide("2 namespace(s) matched; collecting 2 resource(s)").await;
    job.collects(&rows(&[("wide", &[&web])])).await;

    // The profile changes, and the scope of the cluster says no: to the namespace of the profile, and to the kind.
    profile("{version: v1, kind: ConfigMap}");
    job.collects(&rows(&[("wide", &[])])).await;
    profile(DEPLOYMENT);
    job.collects(&rows(&[("wide", &[&web])])).await;
    for (limit, reason) in [
        ("allowedStaticRefNamespaces: [south]", reasons::SCOPE_NAMESPACE_DENIED),
        ("allowedGVKs: [{version: v1, kind: Pod}]", reasons::SCOPE_GVK_DENIED),
    ] {
        let scope = "apiVersion: kollect.dev/v1alpha1\nkind: KollectClusterScope\nmetadata: {name: limits}\n";
        job.apply(&format!("{scope}spec: {{{limit}}}\n")).unwrap();
        job.condition("kctgt/wide", "Degraded", reason).await;
        job.collects(&rows(&[("wide", &[])])).await;
        job.kubectl(&["delete", "kcscope/limits"]);
        job.collects(&rows(&[("wide", &[&web])])).await;
    }
    // All of that was no concern of the target of the same name.
    let status = job.kubectl(&["-n", "aside", "get", "ktgt/wide", "-o", "jsonpath={.status}"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["collectedCount"], 1, "{status}");
    assert!(status["conditions"].to_string().contains(reasons::COLLECTING), "{status}");
}

/// The periodic list finds what is there, and writes nothing.
async fn relists_write_nothing(job: &Job, operator: &Operator) {
    let before = job.writes().await;
    let dispatched = "kollect_informer_resync_dispatches_total";
    let seen = operator.metrics().await.unwrap().sum(dispatched, &[]);
    wait_for_metric(operator, PATIENCE, "a relist", |metrics| metrics.sum(dispatched, &[]) > seen).await.unwrap();
    assert_eq!(job.writes().await.since(before).total(), 0);
}
