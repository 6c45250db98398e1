//! The definitions on a real API server: what it accepts, what it refuses and in which words.

use kollect::api;
use kollect::api::v1alpha1::{KollectDatabaseSink, KollectInventory, KollectProfile, KollectTarget, WatchMode};
use kollect::{api::v1alpha1::Duration, validate};
use kube::api::{DynamicObject, PostParams, TypeMeta};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::support::{Ground, repository_file};

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
    for dir in ["config/samples", "config/samples/demo"] {
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
    validate::profile(&profile.spec).unwrap();
    assert!(validate::not_served::profile(&profile.spec).is_empty());
    let target = Api::<KollectTarget>::namespaced(client.clone(), "demo").get("deployments").await.unwrap();
    validate::target(&target.spec).unwrap();
    assert!(validate::not_served::target(&target.spec).is_empty());
    assert_eq!(target.spec.watch_mode, WatchMode::All);
    let sink = Api::<KollectDatabaseSink>::namespaced(client.clone(), "demo").get("postgres").await.unwrap();
    validate::postgres(&sink.spec).unwrap();
    assert!(validate::not_served::database_sink(&sink.spec).is_empty());
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
    let names: Vec<String> = (0..20).map(|n| format!("s{n}")).collect();
    let refs: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
    let accepted = [
        ("KollectProfile", json!({"targetGVK": {"version": "v1", "kind": "Secret"}})),
        (
            "KollectProfile",
            json!({
                "targetGVK": {"group": "apps", "version": "v1", "kind": "Deployment"},
                "attributes": [
                    {"name": "a", "path": "$.spec.replicas"},
                    {"name": "b", "path": ".metadata.name"},
                    {"name": "c", "path": "helm:release.chartVersion", "optional": true},
                    {"name": "d", "path": "cel:object.spec.replicas > 1", "type": "anything"},
                ],
                "export": {"mode": "Resource", "as": "object", "prune": {"jsonPointers": ["/metadata/annotations"], "cel": ["x"]}},
                "metrics": [{"name": "m", "path": "a", "labels": ["b", "c"]}],
            }),
        ),
        (
            "KollectTarget",
            json!({
                "profileRef": "p",
                "namespaceSelector": {},
                "names": ["x"],
                "labelSelector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "DoesNotExist"}]},
                "resourceRules": [{"gvk": {"version": "v1", "kind": "Pod"}, "matchPolicy": "true"}],
                "watchMode": "OptIn",
            }),
        ),
        (
            "KollectInventory",
            json!({"databaseSinkRefs": refs, "exportMinInterval": "0s", "httpEndpoint": {"enabled": true, "port": 8082}}),
        ),
        ("KollectInventory", json!({"exportMinInterval": "1.5h"})),
        (
            "KollectInventory",
            json!({"exportMinInterval": "24h0m0s", "eventSinkRefs": [{"name": "a", "namespace": ""}]}),
        ),
        ("KollectSnapshotSink", json!({"type": "git", "endpoint": "https://git.example.com/a.git#branch=main"})),
        (
            "KollectSnapshotSink",
            json!({
                "type": "gitlab", "endpoint": "https://gitlab.example.com/a.git",
                "gitlab": {"mergeRequest": {"mode": "merge_request", "targetBranch": "main"}},
                "serialization": {"format": "ndjson", "compression": "gzip"},
                "layout": {"mode": "split", "index": {"pathTemplate": "{namespace}/{name}"}},
            }),
        ),
        (
            "KollectSnapshotSink",
            json!({
                "type": "s3", "endpoint": "s3://bucket/prefix", "pathTemplate": "{cluster}/{namespace}/{name}/{Free}.json",
                "objectStore": {"format": "parquet"}, "serialization": {"format": "csv"},
            }),
        ),
        (
            "KollectDatabaseSink",
            json!({"type": "bigquery", "bigquery": {"project": "p", "dataset": "d", "table": "t"}, "options": {"any": "thing"}}),
        ),
        ("KollectEventSink", json!({"type": "kafka", "kafka": {"brokers": ["b:9092"], "topic": "t"}})),
        ("KollectConnectionTest", json!({"sinkRef": {"eventSinkRef": "bus"}, "profileRef": "p", "ownerSink": false})),
        ("KollectScope", json!({})),
        ("KollectClusterScope", json!({"minExportInterval": "1m", "allowedStaticRefNamespaces": ["a"]})),
        (
            "KollectClusterTarget",
            json!({"profileRef": {"name": "p", "namespace": "n"}, "namespaceSelector": {"matchLabels": {"a": "b"}}}),
        ),
        ("KollectClusterInventory", json!({"namespaceSelector": {"matchLabels": {"a": "b"}}, "targetRefs": ["t"]})),
    ];
    for (kind, spec) in accepted {
        let answer = try_create(&ground.client, &ground.namespace, kind, spec.clone()).await;
        assert!(answer.is_ok(), "{kind} {spec}\n{}", answer.unwrap_err());
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

/// Manifests that are refused, one for each rule at least: kind, spec, and words of the answer.
fn refused() -> Vec<(&'static str, Value, &'static str)> {
    let gvk = json!({"version": "v1", "kind": "Pod"});
    let profile = |path: &str| json!({"targetGVK": gvk, "attributes": [{"name": "a", "path": path}]});
    let target = |more: Value| merged(json!({"profileRef": "p"}), more);
    let selector = |requirement: Value| target(json!({"labelSelector": {"matchExpressions": [requirement]}}));
    let refs = |refs: Value| json!({ "databaseSinkRefs": refs });
    let git = |more: Value| merged(json!({"type": "git", "endpoint": "https://git.example.com/a.git"}), more);
    let postgres = |more: Value| {
        merged(json!({"type": "postgres", "postgres": {"databaseRef": {"name": "s"}, "table": "t"}}), more)
    };
    let nats = |more: Value| merged(json!({"type": "nats", "nats": {"subject": "s"}}), more);
    let cluster_target = |more: Value| {
        merged(
            json!({"profileRef": {"name": "p", "namespace": "n"}, "namespaceSelector": {"matchLabels": {"a": "b"}}}),
            more,
        )
    };
    let cluster_inventory = |more: Value| merged(json!({"namespaceSelector": {"matchLabels": {"a": "b"}}}), more);
    let many: Vec<Value> = (0..11).map(|n| json!({"name": format!("s{n}")})).collect();
    vec![
        // Profiles.
        (
            "KollectProfile",
            json!({"targetGVK": {"version": "", "kind": "Pod"}}),
            "spec.targetGVK.version: Invalid value",
        ),
        ("KollectProfile", json!({"targetGVK": {"version": "v1"}}), "spec.targetGVK.kind: Required value"),
        ("KollectProfile", profile(" "), "spec.attributes[0].path: Invalid value: \"string\": must not be blank"),
        ("KollectProfile", profile("object.spec"), "write cel: in front, for example cel:object.spec.replicas"),
        ("KollectProfile", profile("object['spec']"), "write cel: in front"),
        ("KollectProfile", profile("helm:release."), "must name a field of the release: write helm:release.<field>"),
        ("KollectProfile", profile("helm:release.chart.values.a"), "is not exportable"),
        (
            "KollectProfile",
            json!({"targetGVK": gvk, "attributes": [{"name": "a", "path": "{.a}"}, {"name": "a", "path": "{.b}"}]}),
            "spec.attributes[1]: Duplicate value",
        ),
        (
            "KollectProfile",
            json!({"targetGVK": gvk, "export": {}}),
            "spec.attributes: Invalid value: \"object\": must not be empty while export.mode is Attributes",
        ),
        (
            "KollectProfile",
            json!({"targetGVK": gvk, "attributes": [{"name": "resource", "path": "{.a}"}], "export": {"mode": "Resource"}}),
            "spec.export.as: Invalid value: \"object\": must not be the name of an attribute",
        ),
        (
            "KollectProfile",
            json!({"targetGVK": gvk, "export": {"mode": "Resource", "prune": {"jsonPointers": ["metadata"]}}}),
            "spec.export.prune.jsonPointers[0]: Invalid value: \"string\": must be a JSON pointer",
        ),
        (
            "KollectProfile",
            json!({"targetGVK": gvk, "metrics": [{"name": "m", "path": "a"}]}),
            "spec.metrics: Invalid value: \"object\": each path must be the name of an attribute",
        ),
        (
            "KollectProfile",
            merged(profile("{.a}"), json!({"metrics": [{"name": "m", "path": "a", "labels": ["b"]}]})),
            "spec.metrics: Invalid value: \"object\": each label must be the name of an attribute",
        ),
        (
            "KollectProfile",
            merged(
                profile("{.a}"),
                json!({"metrics": [{"name": "m", "path": "a", "labels": ["a", "b", "c", "d", "e", "f"]}]}),
            ),
            "spec.metrics[0].labels: Too many: 6: must have at most 5 items",
        ),
        // Targets.
        (
            "KollectTarget",
            json!({"profileRef": "a/b"}),
            "spec.profileRef: Invalid value: \"string\": must be a name without a slash",
        ),
        ("KollectTarget", json!({"profileRef": " "}), "must be a name without a slash"),
        ("KollectTarget", target(json!({"watchMode": "Some"})), "supported values: \"All\", \"OptIn\""),
        ("KollectTarget", target(json!({"includedNamespaces": [""]})), "spec.includedNamespaces[0]: Invalid value"),
        (
            "KollectTarget",
            target(json!({"excludedNamespaces": ["a", "a"]})),
            "spec.excludedNamespaces[1]: Duplicate value",
        ),
        (
            "KollectTarget",
            target(json!({"resourceRules": [{"gvk": {"version": "v1", "kind": ""}}]})),
            "spec.resourceRules[0].gvk.kind",
        ),
        (
            "KollectTarget",
            selector(json!({"key": "a", "operator": "in", "values": ["b"]})),
            "spec.labelSelector.matchExpressions[0].operator: Invalid value: \"object\": must be one of In, NotIn, Exists, DoesNotExist",
        ),
        (
            "KollectTarget",
            selector(json!({"key": "a", "operator": "In"})),
            "spec.labelSelector.matchExpressions[0].values: Invalid value: \"object\": must not be empty",
        ),
        (
            "KollectTarget",
            selector(json!({"key": "a", "operator": "Exists", "values": ["b"]})),
            "must be empty: the operators Exists",
        ),
        // Inventories.
        (
            "KollectInventory",
            json!({"databaseSinkRefs": many, "eventSinkRefs": &many[..10]}),
            "spec: Invalid value: \"object\": at most 20 sinks over snapshotSinkRefs, databaseSinkRefs and eventSinkRefs",
        ),
        ("KollectInventory", refs(json!(["pg"])), "spec.databaseSinkRefs[0]: Invalid value: \"string\""),
        (
            "KollectInventory",
            refs(json!([{"name": "a/b"}])),
            "spec.databaseSinkRefs[0].name: Invalid value: \"string\": must be a name",
        ),
        (
            "KollectInventory",
            refs(json!([{"name": "a"}, {"name": "a"}])),
            "spec.databaseSinkRefs: Invalid value: \"array\": each sink may be named once in a list",
        ),
        ("KollectInventory", refs(json!([{"name": "a", "namespace": "b"}])), "namespace is not allowed here"),
        (
            "KollectInventory",
            refs(json!([{"name": "a", "maxExportBytes": 0}])),
            "spec.databaseSinkRefs[0].maxExportBytes",
        ),
        (
            "KollectInventory",
            refs(json!([{"name": "a", "exportMinInterval": "25h"}])),
            "must be a duration from 0s to 24h",
        ),
        (
            "KollectInventory",
            json!({"exportMinInterval": "5 minutes"}),
            "spec.exportMinInterval: Invalid value: \"string\": must be a duration from 0s to 24h",
        ),
        ("KollectInventory", json!({"exportMinInterval": "-1s"}), "must be a duration from 0s to 24h"),
        ("KollectInventory", json!({"exportMinInterval": "24h1ns"}), "must be a duration from 0s to 24h"),
        ("KollectInventory", json!({"maxExportBytes": -1}), "spec.maxExportBytes: Invalid value"),
        ("KollectInventory", json!({"httpEndpoint": {"port": 0}}), "spec.httpEndpoint.port: Invalid value"),
        // Snapshot sinks.
        ("KollectSnapshotSink", json!({"type": "svn"}), "supported values: \"git\", \"gitlab\", \"s3\", \"gcs\""),
        (
            "KollectSnapshotSink",
            json!({"type": "s3", "git": {}}),
            "spec.git: Invalid value: \"object\": is allowed only for type git",
        ),
        (
            "KollectSnapshotSink",
            git(json!({"gitlab": {}})),
            "spec.gitlab: Invalid value: \"object\": is allowed only for type gitlab",
        ),
        (
            "KollectSnapshotSink",
            git(json!({"objectStore": {}})),
            "spec.objectStore: Invalid value: \"object\": is allowed only for the types s3 and gcs",
        ),
        ("KollectSnapshotSink", git(json!({"http": {}})), "spec.http: Invalid value: \"object\": is not allowed"),
        (
            "KollectSnapshotSink",
            json!({"type": "gcs", "layout": {}}),
            "spec.layout: Invalid value: \"object\": is allowed only for the types git and gitlab",
        ),
        (
            "KollectSnapshotSink",
            git(json!({"serialization": {"format": "parquet"}})),
            "spec.serialization.format: Invalid value: \"object\": does not fit the type",
        ),
        ("KollectSnapshotSink", json!({"type": "s3", "serialization": {"format": "yaml"}}), "does not fit the type"),
        (
            "KollectSnapshotSink",
            git(json!({"pathTemplate": "/{namespace}/{name}"})),
            "spec.pathTemplate: Invalid value: \"string\": must be a relative path without '..'",
        ),
        (
            "KollectSnapshotSink",
            git(json!({"pathTemplate": "../{namespace}/{name}"})),
            "must be a relative path without '..'",
        ),
        ("KollectSnapshotSink", git(json!({"pathTemplate": "{name}"})), "must contain {namespace} and {name}"),
        (
            "KollectSnapshotSink",
            git(json!({"pathTemplate": "{namespace}/{name}/{kind}"})),
            "may use only {cluster}, {namespace}",
        ),
        (
            "KollectSnapshotSink",
            git(json!({"layout": {"pathTemplate": "a/{kind}"}})),
            "must contain {sourceName}, {name} or {uid}",
        ),
        (
            "KollectSnapshotSink",
            git(json!({"layout": {"pathTemplate": "{uid}/{x}"}})),
            "spec.layout.pathTemplate: Invalid value: \"string\": may use only",
        ),
        ("KollectSnapshotSink", git(json!({"layout": {"pathTemplate": "../{uid}"}})), "must not contain '..'"),
        (
            "KollectSnapshotSink",
            git(json!({"layout": {"index": {"pathTemplate": "x"}}})),
            "spec.layout.index.pathTemplate",
        ),
        (
            "KollectSnapshotSink",
            git(json!({"provisioning": {"naming": {"template": "x"}}})),
            "spec.provisioning.naming.template",
        ),
        (
            "KollectSnapshotSink",
            git(json!({"layout": {"filename": {"maxSegmentLength": 0}}})),
            "spec.layout.filename.maxSegmentLength",
        ),
        (
            "KollectSnapshotSink",
            git(json!({"git": {"branch": "refs/heads/main"}})),
            "spec.git.branch: Invalid value: \"string\": must be a short branch name",
        ),
        ("KollectSnapshotSink", git(json!({"git": {"branch": "a..b"}})), "must be a short branch name"),
        ("KollectSnapshotSink", git(json!({"git": {"branch": "a.lock"}})), "must be a short branch name"),
        ("KollectSnapshotSink", git(json!({"git": {"cloneDepth": 0}})), "spec.git.cloneDepth: Invalid value"),
        (
            "KollectSnapshotSink",
            git(json!({"git": {"auth": {"secretRef": {"name": ""}}}})),
            "spec.git.auth.secretRef.name: Invalid value",
        ),
        (
            "KollectSnapshotSink",
            json!({"type": "git", "endpoint": "FILE:///srv/git"}),
            "spec.endpoint: Invalid value: \"string\": must not be a file: URL",
        ),
        (
            "KollectSnapshotSink",
            json!({"type": "s3", "objectStore": {"retention": {"maxAge": "30d"}}}),
            "spec.objectStore.retention.maxAge: Invalid value: \"string\": must be a duration that is not negative",
        ),
        // Database sinks.
        (
            "KollectDatabaseSink",
            json!({"type": "postgres"}),
            "spec.postgres: Invalid value: \"object\": is required for type postgres",
        ),
        (
            "KollectDatabaseSink",
            postgres(json!({"type": "mongodb"})),
            "spec.postgres: Invalid value: \"object\": is required for type postgres and not allowed",
        ),
        (
            "KollectDatabaseSink",
            json!({"type": "mongodb"}),
            "spec.mongodb: Invalid value: \"object\": is required for type mongodb",
        ),
        (
            "KollectDatabaseSink",
            json!({"type": "bigquery"}),
            "spec.bigquery: Invalid value: \"object\": is required for type bigquery",
        ),
        (
            "KollectDatabaseSink",
            json!({"type": "bigquery", "bigquery": {"project": " ", "dataset": "d", "table": "t"}}),
            "spec.bigquery.project: Invalid value: \"string\": must not be blank",
        ),
        (
            "KollectDatabaseSink",
            postgres(json!({"layout": {}})),
            "spec.layout: Invalid value: \"object\": is allowed only for the types git and gitlab",
        ),
        (
            "KollectDatabaseSink",
            postgres(json!({"serialization": {"format": "yaml"}})),
            "spec.serialization.format: Invalid value: \"object\": must be json",
        ),
        (
            "KollectDatabaseSink",
            postgres(json!({"options": {"password": "x"}})),
            "spec.options: Invalid value: \"object\": must not hold credentials",
        ),
        (
            "KollectDatabaseSink",
            postgres(json!({"exportMinInterval": "2d"})),
            "spec.exportMinInterval: Invalid value: \"string\": must be a duration",
        ),
        (
            "KollectDatabaseSink",
            json!({"type": "postgres", "postgres": {"databaseRef": {"name": "s"}, "table": "t".repeat(64)}}),
            "spec.postgres.table: Too long: may not be more than 63",
        ),
        (
            "KollectDatabaseSink",
            json!({"type": "postgres", "postgres": {"databaseRef": {"name": "s"}, "table": "t", "refreshAfter": "never"}}),
            "spec.postgres.refreshAfter: Invalid value: \"string\": must be a duration that is not negative",
        ),
        // Event sinks.
        (
            "KollectEventSink",
            json!({"type": "nats"}),
            "spec.nats: Invalid value: \"object\": is required for type nats",
        ),
        (
            "KollectEventSink",
            json!({"type": "kafka"}),
            "spec.kafka: Invalid value: \"object\": is required for type kafka",
        ),
        (
            "KollectEventSink",
            nats(json!({"layout": {}})),
            "spec.layout: Invalid value: \"object\": is allowed only for the types git and gitlab",
        ),
        ("KollectEventSink", nats(json!({"serialization": {"format": "csv"}})), "must be json"),
        ("KollectEventSink", nats(json!({"nats": {"mode": "All"}})), "supported values: \"Snapshot\", \"Changes\""),
        // Connection tests.
        (
            "KollectConnectionTest",
            json!({"sinkRef": {}}),
            "spec.sinkRef: Invalid value: \"object\": must name exactly one sink",
        ),
        (
            "KollectConnectionTest",
            json!({"sinkRef": {"databaseSinkRef": "a", "eventSinkRef": "b"}}),
            "must name exactly one sink",
        ),
        ("KollectConnectionTest", json!({"sinkRef": {"databaseSinkRef": "a/b"}}), "spec.sinkRef.databaseSinkRef"),
        (
            "KollectConnectionTest",
            json!({"sinkRef": {"databaseSinkRef": "a"}, "ttlSecondsAfterFinished": -1}),
            "spec.ttlSecondsAfterFinished: Invalid value",
        ),
        // Scopes.
        (
            "KollectScope",
            json!({"minExportInterval": "25h"}),
            "spec.minExportInterval: Invalid value: \"string\": must be a duration",
        ),
        (
            "KollectScope",
            json!({"allowedGVKs": [{"version": "v1", "kind": ""}]}),
            "spec.allowedGVKs[0].kind: Invalid value",
        ),
        ("KollectScope", json!({"databaseSinkRefs": ["a", "a"]}), "spec.databaseSinkRefs[1]: Duplicate value"),
        ("KollectClusterScope", json!({"allowedStaticRefNamespaces": [""]}), "spec.allowedStaticRefNamespaces[0]"),
        // Cluster kinds.
        (
            "KollectClusterTarget",
            json!({"profileRef": {"name": "p", "namespace": "n"}}),
            "spec.namespaceSelector: Invalid value: \"object\": must have at least one requirement",
        ),
        (
            "KollectClusterTarget",
            cluster_target(json!({"namespaceSelector": {"matchLabels": {}}})),
            "must have at least one requirement",
        ),
        (
            "KollectClusterTarget",
            cluster_target(json!({"profileRef": {"name": "p"}})),
            "spec.profileRef.namespace: Invalid value: \"object\": is required",
        ),
        (
            "KollectClusterTarget",
            cluster_target(json!({"profileRef": {"name": "a/b", "namespace": "n"}})),
            "spec.profileRef.name",
        ),
        (
            "KollectClusterInventory",
            json!({}),
            "spec.namespaceSelector: Invalid value: \"object\": must have at least one requirement",
        ),
        (
            "KollectClusterInventory",
            cluster_inventory(json!({"targetRefs": ["a/b"]})),
            "spec.targetRefs[0]: Invalid value: \"string\": must be a name",
        ),
        (
            "KollectClusterInventory",
            cluster_inventory(json!({"namespaces": ["A"]})),
            "spec.namespaces[0]: Invalid value",
        ),
        (
            "KollectClusterInventory",
            cluster_inventory(json!({"sinkNamespace": "a/b"})),
            "spec.sinkNamespace: Invalid value: \"string\": must be one namespace",
        ),
        (
            "KollectClusterInventory",
            cluster_inventory(json!({"dedupe": "some"})),
            "supported values: \"keepAll\", \"byResourceUID\"",
        ),
        (
            "KollectClusterInventory",
            cluster_inventory(json!({"databaseSinkRefs": [{"name": "a", "namespace": "B"}]})),
            "namespace must be the name of a namespace",
        ),
        (
            "KollectClusterInventory",
            cluster_inventory(json!({"databaseSinkRefs": [{"name": "a"}, {"name": "a", "namespace": "b"}]})),
            "each sink may be named once",
        ),
        (
            "KollectClusterInventory",
            cluster_inventory(json!({"databaseSinkRefs": many, "eventSinkRefs": &many[..10]})),
            "at most 20 sinks",
        ),
    ]
}

/// Returns the first object with the fields of the second put over it.
fn merged(mut base: Value, over: Value) -> Value {
    let fields = base.as_object_mut().expect("an object");
    fields.extend(over.as_object().cloned().expect("an object"));
    base
}

#[tokio::test]
async fn refusals_name_the_field_and_the_fix() {
    let Some(ground) = Ground::shared("refused").await else { return };
    let mut wrong = Vec::new();
    let mut answers = Vec::new();
    for (kind, spec, expected) in refused() {
        match try_create(&ground.client, &ground.namespace, kind, spec.clone()).await {
            Ok(_) => wrong.push(format!("{kind} {spec}\n  was accepted")),
            Err(message) if message.contains(expected) => answers.push(message),
            Err(message) => wrong.push(format!("{kind} {spec}\n  expected: {expected}\n  answered: {message}")),
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
