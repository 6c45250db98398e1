//! The rules, each with a manifest that is taken and one that is refused.

use kollect::api::v1alpha1::Kind;
use serde_json::{Value, json};

/// Where the object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In a namespace without limits, or nowhere in particular.
    Open,
    /// In a namespace with a scope.
    Limited,
}

/// Who refuses the wrong manifest while no webhook does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Without {
    /// The schema, or one of its rules.
    Schema,
    /// Nobody; whoever uses it complains.
    Nobody,
    /// Nobody; the object itself says this in a condition.
    Condition(&'static str),
}

use Place::{Limited, Open};
use Without::{Condition, Nobody, Schema};

/// One rule.
pub(super) struct Rule {
    /// Its number in the list of rules.
    pub(super) number: &'static str,
    pub(super) kind: Kind,
    pub(super) place: Place,
    pub(super) good: Value,
    pub(super) bad: Value,
    /// What a refusal says.
    pub(super) says: &'static str,
    pub(super) without: Without,
}

fn rule(
    number: &'static str,
    kind: Kind,
    place: Place,
    [good, bad]: [Value; 2],
    says: &'static str,
    without: Without,
) -> Rule {
    Rule { number, kind, place, good, bad, says, without }
}

/// Adds fields to an object.
fn with(base: &Value, more: &Value) -> Value {
    let mut all = base.clone();
    if let (Some(all), Some(more)) = (all.as_object_mut(), more.as_object()) {
        all.extend(more.clone());
    }
    all
}

/// Returns all rules that can be told apart by manifests.
pub(super) fn rules() -> Vec<Rule> {
    [profiles(), targets(), inventories(), limits(), sinks(), scopes_and_tests()].into_iter().flatten().collect()
}

fn profiles() -> Vec<Rule> {
    let pod = json!({"targetGVK": {"version": "v1", "kind": "Pod"}});
    let profile = |more: Value| with(&pod, &more);
    let path = |path: &str| profile(json!({"attributes": [{"name": "a", "path": path}]}));
    let secret = |more: Value| with(&json!({"targetGVK": {"version": "v1", "kind": "Secret"}}), &more);
    let data = json!({"name": "a", "path": "{['data'].user}"});
    let config = json!({"name": "a", "path": "helm:release.config.db"});
    let good = path("{.spec.nodeName}");
    let metric = |metric: Value| with(&good, &json!({ "metrics": [metric] }));
    let of = |number, bad: Value, says, without| {
        rule(number, Kind::Profile, Open, [path("cel:object.metadata.name"), bad], says, without)
    };
    vec![
        of("V-P1", json!({"targetGVK": {"version": " ", "kind": "Pod"}}), "spec.targetGVK.version", Nobody),
        of(
            "V-P2",
            profile(json!({"attributes": [{"name": "a", "path": "{.a}"}, {"name": "a", "path": "{.b}"}]})),
            "spec.attributes[1]",
            Schema,
        ),
        of("V-P3 JSONPath", path("{.a[}"), "spec.attributes[0].path", Nobody),
        of("V-P3 CEL", path("cel:object.metadata."), "spec.attributes[0].path", Nobody),
        of("V-P4", path("object.spec.replicas"), "cel:", Schema),
        of("V-P5", path("helm:release.manifest"), "not exportable", Schema),
        of("V-P6", secret(json!({"attributes": [data]})), "allow-secret-extraction", Nobody),
        of("V-P7", secret(json!({"attributes": [config]})), "allow-secret-extraction", Nobody),
        of("V-P11", secret(json!({"export": {"mode": "Resource"}})), "allow-full-resource-export", Nobody),
        of("V-P8", profile(json!({"export": {}})), "spec.attributes", Schema),
        of("V-P9", with(&good, &json!({"export": {"mode": "Resource", "as": "a"}})), "spec.export.as", Schema),
        of(
            "V-P10",
            with(&good, &json!({"export": {"mode": "Resource", "prune": {"jsonPointers": ["spec"]}}})),
            "spec.export.prune.jsonPointers[0]",
            Schema,
        ),
        of("V-P12", metric(json!({"name": "m", "path": "b"})), "spec.metrics", Schema),
        of("V-P13", metric(json!({"name": "m", "path": "a", "labels": ["b"]})), "spec.metrics", Schema),
    ]
}

fn targets() -> Vec<Rule> {
    let target = |more: Value| with(&json!({"profileRef": "p"}), &more);
    let of = |number, bad: Value, says, without| {
        let good = target(json!({"includedNamespaces": ["a"], "watchMode": "OptIn"}));
        rule(number, Kind::Target, Open, [good, bad], says, without)
    };
    let said = |number, bad: Value, says| of(number, bad, says, Condition(says));
    let rules = |one: Value| target(json!({ "resourceRules": [one] }));
    let pod = json!({"version": "v1", "kind": "Pod"});
    let selector = json!({"matchLabels": {"team": "a"}});
    let everywhere = json!({"profileRef": {"name": "p", "namespace": "platform"}, "namespaceSelector": selector});
    let cluster = |number, more: Value, says| {
        rule(number, Kind::ClusterTarget, Open, [everywhere.clone(), with(&everywhere, &more)], says, Schema)
    };
    vec![
        of("V-T1", json!({"profileRef": "other/p"}), "spec.profileRef", Schema),
        of("V-T2", target(json!({"excludedNamespaces": ["a", "a"]})), "spec.excludedNamespaces[1]", Schema),
        said("V-T3", rules(json!({"gvk": {"version": " ", "kind": "Pod"}})), "spec.resourceRules[0].gvk.version"),
        said("V-T4", rules(json!({"gvk": pod, "matchPolicy": "object."})), "spec.resourceRules[0].matchPolicy"),
        of("V-T5", target(json!({"watchMode": "Some"})), "spec.watchMode", Schema),
        cluster("V-T2 cluster", json!({"includedNamespaces": ["a", "a"]}), "spec.includedNamespaces[1]"),
        cluster("V-T3 cluster", json!({"resourceRules": [{"gvk": {"version": "", "kind": "Pod"}}]}), "version"),
        rule(
            "V-T4 cluster",
            Kind::ClusterTarget,
            Open,
            [
                everywhere.clone(),
                with(&everywhere, &json!({"resourceRules": [{"gvk": pod, "matchPolicy": "object."}]})),
            ],
            "spec.resourceRules[0].matchPolicy",
            Condition("spec.resourceRules[0].matchPolicy"),
        ),
        cluster("V-T10 name", json!({"profileRef": {"name": "a/b", "namespace": "n"}}), "spec.profileRef.name"),
        cluster("V-T10 namespace", json!({"profileRef": {"name": "p"}}), "spec.profileRef.namespace"),
        cluster("V-T11", json!({"namespaceSelector": {}}), "spec.namespaceSelector"),
    ]
}

fn inventories() -> Vec<Rule> {
    let refs = |names: &[Value]| json!({ "databaseSinkRefs": names });
    let of = |number, bad: Value, says, without| {
        let good = json!({"databaseSinkRefs": [{"name": "pg", "exportMinInterval": "0s"}], "exportMinInterval": "24h"});
        rule(number, Kind::Inventory, Open, [good, bad], says, without)
    };
    let many: Vec<Value> = (0..21).map(|number| json!({"name": format!("s{number}")})).collect();
    let selector = json!({"matchLabels": {"team": "a"}});
    let everywhere =
        json!({"namespaceSelector": selector, "sinkNamespace": "platform", "databaseSinkRefs": [{"name": "pg"}]});
    let cluster_without = |number, more: Value, says, without| {
        rule(number, Kind::ClusterInventory, Open, [everywhere.clone(), with(&everywhere, &more)], says, without)
    };
    let cluster = |number, more: Value, says| cluster_without(number, more, says, Schema);
    vec![
        of("V-I1", refs(&many), "at most 20", Schema),
        of("V-I2 slash", refs(&[json!({"name": "a/b"})]), "spec.databaseSinkRefs[0].name", Schema),
        of("V-I2 twice", refs(&[json!({"name": "a"}), json!({"name": "a"})]), "spec.databaseSinkRefs", Schema),
        of("V-I3", refs(&[json!({"name": "a", "namespace": "b"})]), "spec.databaseSinkRefs", Schema),
        of("V-I5", json!({"exportMinInterval": "25h"}), "spec.exportMinInterval", Schema),
        of("V-I6 zero", json!({"maxExportBytes": 0}), "spec.maxExportBytes", Schema),
        of(
            "V-I6 cap",
            json!({"maxExportBytes": 9_000_000, "databaseSinkRefs": [{"name": "pg"}]}),
            "spec.maxExportBytes: 9000000 is out of range",
            Condition("spec.maxExportBytes: 9000000 is out of range"),
        ),
        of(
            "V-I7",
            refs(&[json!({"name": "a", "maxExportBytes": 9_000_000})]),
            "spec.databaseSinkRefs[0].maxExportBytes",
            Condition("spec.databaseSinkRefs[0].maxExportBytes: 9000000 is out of range"),
        ),
        cluster("V-I1 cluster", refs(&many), "at most 20"),
        cluster("V-I2 cluster", refs(&[json!({"name": "a"}), json!({"name": "a"})]), "spec.databaseSinkRefs"),
        cluster("V-I5 cluster", json!({"exportMinInterval": "25h"}), "spec.exportMinInterval"),
        cluster_without(
            "V-I7 cluster",
            refs(&[json!({"name": "a", "maxExportBytes": 9_000_000})]),
            "spec.databaseSinkRefs[0].maxExportBytes: 9000000 is out of range",
            Condition("spec.databaseSinkRefs[0].maxExportBytes: 9000000 is out of range"),
        ),
        cluster_without(
            "labels of a roll-up",
            json!({"targetSelector": {"matchLabels": {"a b": "c"}}}),
            "spec.targetSelector.matchLabels: \"a b\" cannot be the key of a label",
            Condition("spec.targetSelector.matchLabels"),
        ),
        cluster("V-I4", refs(&[json!({"name": "a", "namespace": "B"})]), "spec.databaseSinkRefs"),
        cluster("V-I10", json!({"profileRef": {"name": "p"}}), "spec.profileRef.namespace"),
        cluster("V-I11", json!({"targetRefs": ["a/b"]}), "spec.targetRefs[0]"),
        cluster("V-I12", json!({"namespaces": ["A"]}), "spec.namespaces[0]"),
        cluster("V-I13", json!({"namespaceSelector": {}, "namespaces": ["a"]}), "spec.namespaceSelector"),
        cluster("V-I14", json!({"sinkNamespace": "a/b"}), "spec.sinkNamespace"),
        cluster("V-I15", json!({"dedupe": "some"}), "spec.dedupe"),
    ]
}

/// What a scope does not allow. Nobody else refuses any of it.
fn limits() -> Vec<Rule> {
    [limits_of_targets(), limits_of_intervals_and_sinks()].into_iter().flatten().collect()
}

fn limits_of_targets() -> Vec<Rule> {
    let deployments = json!([{"gvk": {"group": "apps", "version": "v1", "kind": "Deployment"}}]);
    let pods = json!([{"gvk": {"version": "v1", "kind": "Pod"}}]);
    let selector = json!({"matchLabels": {"team": "a"}});
    let target = |rules: &Value, included: &str| {
        let included = [included];
        json!({"profileRef": "nowhere", "resourceRules": rules, "includedNamespaces": included})
    };
    let everywhere = |rules: &Value, included: &str, namespace: &str| {
        json!({
            "profileRef": {"name": "p", "namespace": namespace}, "namespaceSelector": selector,
            "resourceRules": rules, "includedNamespaces": [included],
        })
    };
    vec![
        rule(
            "V-T6 rules",
            Kind::Target,
            Limited,
            [target(&deployments, "a"), target(&pods, "a")],
            "spec.resourceRules[0].gvk",
            Nobody,
        ),
        rule(
            "V-T6 profile",
            Kind::Target,
            Limited,
            // A profile that is not there yet is nobody's mistake.
            [json!({"profileRef": "nowhere"}), json!({"profileRef": "pods"})],
            "spec.profileRef: {group: \"\", version: v1, kind: Pod} is not allowed",
            Nobody,
        ),
        rule(
            "V-T7",
            Kind::Target,
            Limited,
            [target(&deployments, "a"), target(&deployments, "secret")],
            "spec.includedNamespaces: not allowed",
            Nobody,
        ),
        rule(
            "V-T6 cluster",
            Kind::ClusterTarget,
            Limited,
            [everywhere(&deployments, "a", "platform"), everywhere(&pods, "a", "platform")],
            "spec.resourceRules[0].gvk",
            Nobody,
        ),
        rule(
            "V-T12",
            Kind::ClusterTarget,
            Limited,
            [everywhere(&deployments, "a", "platform"), everywhere(&deployments, "secret", "platform")],
            "spec.includedNamespaces: not allowed",
            Nobody,
        ),
        rule(
            "V-T13",
            Kind::ClusterTarget,
            Limited,
            [everywhere(&deployments, "a", "platform"), everywhere(&deployments, "a", "other")],
            "spec.profileRef.namespace: namespace",
            Nobody,
        ),
    ]
}

fn limits_of_intervals_and_sinks() -> Vec<Rule> {
    let selector = json!({"matchLabels": {"team": "a"}});
    let inventory = |interval: &str| {
        let refs = json!([{"name": "pg", "exportMinInterval": interval}]);
        json!({"exportMinInterval": "1m", "databaseSinkRefs": refs})
    };
    let own = |interval: &str| json!({"exportMinInterval": interval, "databaseSinkRefs": [{"name": "pg"}]});
    let rollup = |sink: &str, namespace: &str| {
        let refs = json!([{ "name": sink }]);
        json!({"namespaceSelector": selector, "sinkNamespace": namespace, "databaseSinkRefs": refs})
    };
    let of_profile = |namespace: &str| {
        with(&rollup("pg", "platform"), &json!({"profileRef": {"name": "p", "namespace": namespace}}))
    };
    let slow = |interval: &str| with(&rollup("pg", "platform"), &json!({"exportMinInterval": interval}));
    let sink = |interval: &str| {
        let postgres = json!({"databaseRef": {"name": "s"}, "table": "t"});
        json!({"type": "postgres", "exportMinInterval": interval, "postgres": postgres})
    };
    vec![
        rule(
            "V-I8",
            Kind::Inventory,
            Limited,
            [inventory("2m"), inventory("0s")],
            "spec.databaseSinkRefs[0].exportMinInterval: 0s is below 1m0s",
            Nobody,
        ),
        rule(
            "V-I8 own",
            Kind::Inventory,
            Limited,
            [own("30s"), own("20s")],
            "spec.exportMinInterval: 20s is below 1m0s",
            Nobody,
        ),
        rule(
            "V-I8 cluster",
            Kind::ClusterInventory,
            Limited,
            [slow("2m"), slow("20s")],
            "spec.exportMinInterval: 20s is below 1m0s",
            Nobody,
        ),
        rule(
            "V-I16 profile",
            Kind::ClusterInventory,
            Limited,
            [of_profile("platform"), of_profile("other")],
            "spec.profileRef.namespace: namespace",
            Nobody,
        ),
        rule(
            "V-I16",
            Kind::ClusterInventory,
            Limited,
            [rollup("pg", "platform"), rollup("pg", "other")],
            "spec.databaseSinkRefs[0]: namespace",
            Nobody,
        ),
        rule(
            "V-I17",
            Kind::ClusterInventory,
            Limited,
            [rollup("pg", "platform"), rollup("other", "platform")],
            "spec.databaseSinkRefs[0]: KollectDatabaseSink",
            Nobody,
        ),
        rule(
            "V-K4",
            Kind::DatabaseSink,
            Limited,
            [sink("1m"), sink("30s")],
            "spec.exportMinInterval: 30s is below",
            Nobody,
        ),
    ]
}

fn sinks() -> Vec<Rule> {
    let repository = json!({"type": "git", "endpoint": "https://git.example.com/x.git", "git": {}});
    let git = |number, more: Value, says, without| {
        rule(number, Kind::SnapshotSink, Open, [repository.clone(), with(&repository, &more)], says, without)
    };
    let database = json!({"type": "postgres", "postgres": {"databaseRef": {"name": "s"}, "table": "t"}});
    let postgres = |number, more: Value, says, without| {
        rule(number, Kind::DatabaseSink, Open, [database.clone(), with(&database, &more)], says, without)
    };
    let stream = json!({"type": "kafka", "kafka": {"brokers": ["k.example.com:9092"], "topic": "t"}});
    let endpoint = |endpoint: &str| json!({ "endpoint": endpoint });
    let template = "must contain {namespace} and {name}";
    vec![
        git("V-K1", json!({"type": "ftp"}), "spec.type", Schema),
        git("V-K2", json!({"pathTemplate": "all.yaml"}), template, Schema),
        git("V-K2 index", json!({"layout": {"mode": "split", "index": {"pathTemplate": "all"}}}), template, Schema),
        git("V-K2 naming", json!({"provisioning": {"naming": {"template": "all"}}}), template, Schema),
        git("V-K3", json!({"exportMinInterval": "25h"}), "spec.exportMinInterval", Schema),
        git("V-K5", json!({"git": {"cloneDepth": 0}}), "spec.git.cloneDepth", Schema),
        git("V-K6", json!({"serialization": {"format": "parquet"}}), "spec.serialization.format", Schema),
        postgres("V-K6 database", json!({"serialization": {"format": "yaml"}}), "spec.serialization.format", Schema),
        postgres("V-K7", json!({"options": {"password": "x"}}), "spec.options", Schema),
        postgres(
            "V-K7 part",
            json!({"options": {"myPassWord": "x"}}),
            "spec.options.myPassWord",
            Condition("spec.options.myPassWord"),
        ),
        git("V-K8", json!({"gitlab": {}}), "spec.gitlab", Schema),
        postgres("V-K8 database", json!({"postgres": null}), "spec.postgres", Schema),
        postgres("V-K9", json!({"layout": {}}), "spec.layout", Schema),
        git(
            "V-K10",
            json!({"layout": {"mode": "perResource", "pathTemplate": "{kind}"}}),
            "must contain {sourceName}",
            Schema,
        ),
        git("V-K11", json!({"git": {"branch": "refs/heads/main"}}), "spec.git.branch", Schema),
        git("V-K11 part", json!({"git": {"branch": "a/.b"}}), "spec.git.branch", Condition("spec.git.branch")),
        git(
            "V-K12",
            json!({"git": {"auth": {"secretRef": {"name": " "}}}}),
            "spec.git.auth.secretRef.name",
            Condition("spec.git.auth.secretRef.name"),
        ),
        git("V-K13 scheme", endpoint("file:///srv/x.git"), "spec.endpoint", Schema),
        git(
            "V-K13 metadata",
            endpoint("https://169.254.169.254/x.git"),
            "spec.endpoint: host",
            Condition("link-local"),
        ),
        git(
            "V-K13 private",
            endpoint("https://10.0.0.1/x.git"),
            "--allow-private-sinks",
            Condition("--allow-private-sinks"),
        ),
        git(
            "V-K13 unasked",
            json!({"endpoint": "https://10.0.0.1/x.git", "connectionTest": false}),
            "--allow-private-sinks",
            Condition("spec.endpoint: host \\\"10.0.0.1\\\""),
        ),
        rule(
            "V-K13 brokers",
            Kind::EventSink,
            Open,
            [stream.clone(), with(&stream, &json!({"kafka": {"brokers": ["metadata:9092"], "topic": "t"}}))],
            "spec.kafka.brokers[0]: host",
            Nobody,
        ),
    ]
}

fn scopes_and_tests() -> Vec<Rule> {
    let scope = |number, kind, bad: Value, says, without| {
        let good = json!({"allowedNamespaces": ["a"], "minExportInterval": "1m", "databaseSinkRefs": ["pg"]});
        rule(number, kind, Open, [good, bad], says, without)
    };
    let probe = |number, sink: Value, says| {
        let good = json!({"sinkRef": {"databaseSinkRef": "pg"}, "profileRef": "p"});
        rule(number, Kind::ConnectionTest, Open, [good, json!({ "sinkRef": sink })], says, Schema)
    };
    let with_profile = json!({"sinkRef": {"databaseSinkRef": "pg"}, "profileRef": "a/b"});
    let good = json!({"sinkRef": {"databaseSinkRef": "pg"}});
    let blank = json!({"allowedGVKs": [{"version": " ", "kind": "Pod"}]});
    vec![
        scope("V-S1", Kind::Scope, blank.clone(), "spec.allowedGVKs[0].version", Nobody),
        scope("V-S1 cluster", Kind::ClusterScope, blank, "spec.allowedGVKs[0].version", Nobody),
        scope("V-S2", Kind::Scope, json!({"deniedNamespaces": ["a", "a"]}), "spec.deniedNamespaces[1]", Schema),
        scope("V-S2 blank", Kind::Scope, json!({"databaseSinkRefs": [" "]}), "spec.databaseSinkRefs[0]", Schema),
        scope("V-S3", Kind::Scope, json!({"minExportInterval": "25h"}), "spec.minExportInterval", Schema),
        probe("V-C1 none", json!({}), "exactly one"),
        probe("V-C1 two", json!({"databaseSinkRef": "a", "eventSinkRef": "b"}), "exactly one"),
        probe("V-C2", json!({"databaseSinkRef": "a/b"}), "spec.sinkRef.databaseSinkRef"),
        rule("V-C2 profile", Kind::ConnectionTest, Open, [good, with_profile], "spec.profileRef", Schema),
    ]
}
