//! The definitions on a real API server: what it accepts, what it refuses and in which words.

use kollect::api;
use kollect::api::v1alpha1::{
    Duration, KollectDatabaseSink, KollectEventSink, KollectInventory, KollectProfile, KollectSnapshotSink,
    KollectTarget, WatchMode,
};
use kollect::validate;
use kube::api::{DynamicObject, PostParams, TypeMeta};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::{Ground, repository_file};

/// A spec and what the API server should say about it.
#[derive(Deserialize)]
struct Case {
    kind: String,
    spec: Value,
    #[serde(default)]
    says: String,
}

/// Reads a table of specs.
fn cases(file: &str) -> Vec<Case> {
    let path = repository_file("tests/fixtures").join(file);
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Asks the API server to create an object without keeping it; returns its answer or its refusal.
async fn try_create(client: &Client, namespace: &str, kind: &str, spec: Value) -> Result<DynamicObject, String> {
    let crds = api::crds();
    let names = &crds.iter().find(|crd| crd.spec.names.kind == kind).expect("a kind of the API").spec;
    let gvk = GroupVersionKind::gvk(api::GROUP, "v1alpha1", kind);
    let resource = ApiResource::from_gvk_with_plural(&gvk, &names.names.plural);
    let api: Api<DynamicObject> = if names.scope == "Cluster" {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), namespace, &resource)
    };
    let mut object = DynamicObject::new("probe", &resource).data(json!({ "spec": spec }));
    object.types = Some(TypeMeta { api_version: resource.api_version.clone(), kind: kind.to_owned() });
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    match api.create(&dry_run, &object).await {
        Ok(object) => Ok(object),
        Err(kube::Error::Api(status)) => Err(status.message),
        Err(other) => panic!("the API server does not answer: {other}"),
    }
}

#[tokio::test]
async fn every_sample_is_accepted_strictly_and_read_by_our_types() {
    let Some(ground) = Ground::shared("samples").await else { return };
    for dir in ["config/samples", "config/samples/demo", "config/samples/profiles"] {
        let dir = repository_file(dir);
        let dir = dir.to_str().unwrap();
        let applied = ground.api().kubectl(&["apply", "--server-side", "--validate=strict", "-k", dir]).unwrap();
        assert!(applied.lines().all(|line| line.ends_with("serverside-applied")), "{applied}");
    }

    for crd in api::crds() {
        let resource = format!("{}.{}", crd.spec.names.plural, crd.spec.group);
        let found = ground.api().kubectl(&["get", &resource, "-A", "-o", "name"]).unwrap();
        assert!(!found.is_empty(), "no sample of {resource}");
    }
    let client = &ground.client;
    let profile = Api::<KollectProfile>::namespaced(client.clone(), "demo").get("deployments").await.unwrap();
    validate::profile(&profile.spec, profile.metadata.annotations.as_ref()).unwrap();
    let target = Api::<KollectTarget>::namespaced(client.clone(), "demo").get("deployments").await.unwrap();
    validate::target(&target.spec).unwrap();
    assert_eq!(target.spec.watch_mode, WatchMode::All);
    let sink = Api::<KollectDatabaseSink>::namespaced(client.clone(), "demo").get("postgres").await.unwrap();
    validate::postgres(&sink.spec).unwrap();
    assert!(validate::not_served::database_sink(&sink.spec).is_empty());
    for namespace in ["default", "team-a"] {
        let sink = Api::<KollectSnapshotSink>::namespaced(client.clone(), namespace).get("repository").await.unwrap();
        let git = validate::git(&sink.spec).unwrap();
        assert!(git.warnings.is_empty() && validate::not_served::snapshot_sink(&sink.spec).is_empty(), "{git:?}");
    }
    for (name, format) in [("bucket", "parquet"), ("archive", "ndjson")] {
        let sink = Api::<KollectSnapshotSink>::namespaced(client.clone(), "default").get(name).await.unwrap();
        let object = validate::object(&sink.spec).unwrap();
        assert!(object.warnings.is_empty() && validate::not_served::snapshot_sink(&sink.spec).is_empty(), "{object:?}");
        assert_eq!(object.encoding.format(), format);
    }
    let streams = Api::<KollectEventSink>::namespaced(client.clone(), "default");
    validate::nats(&streams.get("bus").await.unwrap().spec).unwrap();
    validate::kafka(&streams.get("topic").await.unwrap().spec).unwrap();
    let inventory = Api::<KollectInventory>::namespaced(client.clone(), "team-a").get("inventory").await.unwrap();
    validate::inventory(&inventory.spec, 1_572_864).unwrap();
    assert_eq!(inventory.spec.export_min_interval, Duration::from_secs(30), "the default is persisted");
}

#[tokio::test]
async fn explain_prints_the_documentation_of_a_field() {
    let Some(ground) = Ground::shared("explain").await else { return };
    let text = ground.api().kubectl(&["explain", "kollectinventory.spec.exportMinInterval"]).unwrap();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("Least time between two writes of this inventory to one sink"), "{text}");
}

#[tokio::test]
async fn manifests_of_older_releases_stay_valid() {
    let Some(ground) = Ground::shared("older").await else { return };
    for case in cases("accepted.yaml") {
        let answer = try_create(&ground.client, &ground.namespace, &case.kind, case.spec.clone()).await;
        assert!(answer.is_ok(), "{} {}\n{}", case.kind, case.spec, answer.unwrap_err());
    }
}

#[tokio::test]
async fn defaults_are_those_of_the_reference() {
    let Some(ground) = Ground::shared("defaults").await else { return };
    let spec = |object: DynamicObject| object.data["spec"].clone();
    let create = async |kind, spec| try_create(&ground.client, &ground.namespace, kind, spec).await.unwrap();

    assert_eq!(spec(create("KollectInventory", json!({})).await), json!({"exportMinInterval": "30s"}));
    assert_eq!(
        spec(create("KollectTarget", json!({"profileRef": "p", "suspend": null})).await),
        json!({"profileRef": "p", "watchMode": "All"})
    );
    assert_eq!(
        spec(create("KollectProfile", json!({"targetGVK": {"version": "v1", "kind": "Pod"}})).await),
        json!({"targetGVK": {"version": "v1", "kind": "Pod"}}),
        "no default of a block that is absent"
    );
    let cluster = json!({"namespaceSelector": {"matchLabels": {"a": "b"}}});
    let stored = spec(create("KollectClusterInventory", cluster).await);
    assert_eq!(
        (&stored["sinkNamespace"], &stored["dedupe"], &stored["exportMinInterval"]),
        (&json!("kollect-system"), &json!("keepAll"), &json!("30s"))
    );
    let stored = spec(create("KollectConnectionTest", json!({"sinkRef": {"databaseSinkRef": "pg"}})).await);
    assert_eq!(stored["ttlSecondsAfterFinished"], 300);
}

#[tokio::test]
async fn refusals_name_the_field_and_the_fix() {
    let Some(ground) = Ground::shared("refused").await else { return };
    let mut wrong = Vec::new();
    let mut answers = Vec::new();
    for Case { kind, spec, says } in cases("refused.yaml") {
        match try_create(&ground.client, &ground.namespace, &kind, spec.clone()).await {
            Ok(_) => wrong.push(format!("{kind} {spec}\n  was accepted")),
            Err(message) if message.contains(&says) => answers.push(message),
            Err(message) => wrong.push(format!("{kind} {spec}\n  expected: {says}\n  answered: {message}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // Every rule of every kind speaks at least once.
    let definitions = serde_json::to_value(api::crds()).unwrap();
    for message in rule_messages(&definitions) {
        assert!(answers.iter().any(|answer| answer.contains(&message)), "no manifest breaks the rule: {message}");
    }
}

fn rule_messages(value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(key, value)| match (key.as_str(), value) {
                ("x-kubernetes-validations", Value::Array(rules)) => {
                    rules.iter().filter_map(|rule| rule["message"].as_str().map(str::to_owned)).collect()
                }
                _ => rule_messages(value),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(rule_messages).collect(),
        _ => Vec::new(),
    }
}
