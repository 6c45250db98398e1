use serde_json::json;

use super::*;
use crate::validate::{self, scope};

const SETTINGS: Settings = Settings {
    max_export_bytes: 1_000,
    guard: Guard { allow_private: false, allow_loopback: false },
    cluster_kinds: Permission::Allowed,
};

fn key(kind: Kind) -> ObjectKey {
    let everywhere = matches!(kind, Kind::ClusterTarget | Kind::ClusterInventory | Kind::ClusterScope);
    ObjectKey::new(Namespace::new(if everywhere { "" } else { "team-a" }), Name::new("x"))
}

fn decide(kind: Kind, object: &Value, old: Option<&Value>, around: &Surroundings) -> Decision {
    review(&Review { kind, key: &key(kind), object, old }, &SETTINGS, around)
}

/// Decides on a new object in a namespace without limits.
fn fresh(kind: Kind, spec: &Value) -> Decision {
    decide(kind, &json!({ "spec": spec }), None, &Surroundings::default())
}

fn refused(decision: Decision) -> String {
    match decision {
        Decision::Refused(text) => text,
        Decision::Allowed(warnings) => panic!("it is allowed, with {warnings:?}"),
    }
}

fn warnings(decision: Decision) -> Vec<String> {
    match decision {
        Decision::Allowed(warnings) => warnings,
        Decision::Refused(text) => panic!("it is refused: {text}"),
    }
}

#[test]
fn a_refusal_names_the_object_and_every_field() {
    let said = refused(fresh(Kind::Target, &json!({"profileRef": "a/b", "excludedNamespaces": ["x", "x"]})));
    assert!(said.starts_with("KollectTarget team-a/x: spec.profileRef: \"a/b\" has a slash;"), "{said}");
    assert!(said.contains("; spec.excludedNamespaces[1]: \"x\" is there twice;"), "{said}");
    let nameless = Review {
        kind: Kind::Scope,
        key: &ObjectKey::new(Namespace::new("n"), Name::new("")),
        object: &json!({"metadata": {"generateName": "limits-"}}),
        old: None,
    };
    assert_eq!(refusal(&nameless, "w"), "KollectScope n/limits-…: w");
}

#[test]
fn what_cannot_be_read_names_the_field() {
    let said = refused(fresh(Kind::Inventory, &json!({"exportMinInterval": "soon"})));
    assert!(said.starts_with("KollectInventory team-a/x: spec.exportMinInterval: "), "{said}");
}

#[test]
fn what_goes_and_what_does_not_change_passes_unseen() {
    let wrong = json!({"profileRef": ""});
    let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": wrong});
    let none = Surroundings::default();
    assert_eq!(decide(Kind::Target, &going, Some(&json!({})), &none), Decision::Allowed(Vec::new()));
    let before = json!({"metadata": {"finalizers": ["f"]}, "spec": wrong});
    let labelled = json!({"metadata": {"labels": {"a": "b"}}, "spec": wrong});
    assert_eq!(decide(Kind::Target, &labelled, Some(&before), &none), Decision::Allowed(Vec::new()));
    let annotated = json!({"metadata": {"annotations": {"a": "b"}}, "spec": wrong});
    refused(decide(Kind::Target, &annotated, Some(&before), &none));
    let key = key(Kind::Target);
    assert_eq!(
        needs(&Review { kind: Kind::Target, key: &key, object: &going, old: None }, &SETTINGS),
        Needs::default()
    );
}

#[test]
fn consent_is_withdrawn_without_touching_the_paths_and_not_left_out_where_they_are_written() {
    let profile = |path: &str, given: &str| {
        json!({
            "metadata": {"annotations": {validate::ALLOW_SECRET_EXTRACTION: given}},
            "spec": {"targetGVK": {"version": "v1", "kind": "Secret"}, "attributes": [{"name": "a", "path": path}]},
        })
    };
    let decide = |object: Value, old: Value| decide(Kind::Profile, &object, Some(&old), &Surroundings::default());
    let said = warnings(decide(profile("$.data.user", "false"), profile("$.data.user", "true")));
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("spec.attributes[0].path: \"$.data.user\" reads the content"), "{said:?}");
    assert!(said[0].ends_with("; without its consent there are no rows"), "{said:?}");
    // What is written anew is judged with the consent that it has.
    let said = refused(decide(profile("$.data.other", "false"), profile("$.data.user", "true")));
    assert!(said.contains("spec.attributes[0].path: "), "{said}");
    // What is wrong for another reason stays wrong.
    refused(decide(profile("{.data[}", "false"), profile("{.data[}", "true")));
}

#[test]
fn expressions_are_compiled_also_those_that_may_fail() {
    let profile = |path: &str| {
        fresh(
            Kind::Profile,
            &json!({
                "targetGVK": {"version": "v1", "kind": "Pod"},
                "attributes": [{"name": "a", "path": path, "optional": true}],
            }),
        )
    };
    assert_eq!(profile("cel:object.metadata.name"), Decision::Allowed(Vec::new()));
    for (path, want) in [("cel:object.", "spec.attributes[0].path: "), ("{.a[}", "spec.attributes[0].path: ")] {
        let said = refused(profile(path));
        assert_eq!(said.matches(want).count(), 1, "{path}: {said}");
    }
    let said = refused(profile("object.spec"));
    assert_eq!(said.matches("spec.attributes[0].path").count(), 1, "{said}");
}

#[test]
fn what_is_not_in_this_build_is_a_warning() {
    let mongodb =
        json!({"type": "mongodb", "mongodb": {"databaseRef": {"name": "s"}, "database": "d", "collection": "c"}});
    assert_eq!(warnings(fresh(Kind::DatabaseSink, &mongodb)), ["spec.type: not in this build"]);
}

#[test]
fn what_only_stops_the_use_of_a_sink_is_a_warning() {
    let said = warnings(fresh(Kind::SnapshotSink, &json!({"type": "git"})));
    assert!(said.iter().any(|line| line.starts_with("spec.endpoint: is missing;")), "{said:?}");
    let both = json!({"type": "git", "git": {"branch": "a..b"}});
    let said = refused(fresh(Kind::SnapshotSink, &both));
    assert!(said.contains("spec.git.branch: ") && !said.contains("endpoint"), "{said}");
}

#[test]
fn hosts_that_sinks_may_not_reach_are_refused() {
    for (endpoint, allowed) in [
        ("https://git.example.com/x", true),
        ("https://169.254.169.254/x", false),
        ("ssh://git@localhost:22/x", false),
        ("git@10.0.0.7:team/x.git", false),
        ("https://[fd00:ec2::254]/x", false),
    ] {
        let decision =
            fresh(Kind::SnapshotSink, &json!({"type": "git", "endpoint": endpoint, "secretRef": {"name": "s"}}));
        match (&decision, allowed) {
            (Decision::Allowed(_), true) => {}
            (Decision::Refused(said), false) => assert!(said.contains("spec.endpoint: host \""), "{said}"),
            _ => panic!("{endpoint}: {decision:?}"),
        }
    }
    let kafka = json!({"type": "kafka", "kafka": {"brokers": ["k.example.com:9092", "127.0.0.1:9092"], "topic": "t"}});
    let said = refused(fresh(Kind::EventSink, &kafka));
    assert!(said.contains("spec.kafka.brokers[1]: host \"127.0.0.1\" is a loopback address"), "{said}");
}

/// A namespace and a cluster with limits.
fn limited() -> Surroundings {
    let limits = json!({
        "allowedGVKs": [{"group": "apps", "version": "v1", "kind": "Deployment"}],
        "deniedNamespaces": ["secret"],
        "minExportInterval": "1m",
        "databaseSinkRefs": ["pg"],
    });
    let mut everywhere = limits.clone();
    everywhere["allowedStaticRefNamespaces"] = json!(["platform"]);
    let spec = serde_json::from_value(limits).unwrap();
    Surroundings {
        ceiling: scope::scope(&key(Kind::Scope), &spec).unwrap(),
        cluster: scope::cluster_scope(&key(Kind::ClusterScope), &serde_json::from_value(everywhere).unwrap()).unwrap(),
        profile: Some(Gvk { group: "".into(), version: "v1".into(), kind: "Pod".into() }),
    }
}

#[test]
fn a_scope_limits_what_is_written() {
    let around = limited();
    let decide = |kind: Kind, spec: Value| decide(kind, &json!({ "spec": spec }), None, &around);
    let deployments = json!([{"gvk": {"group": "apps", "version": "v1", "kind": "Deployment"}}]);
    let selector = json!({"matchLabels": {"a": "b"}});
    let refs = |more: Value| {
        let mut spec = json!({
            "namespaceSelector": selector, "sinkNamespace": "platform", "exportMinInterval": "1m",
            "databaseSinkRefs": [{"name": "pg"}],
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    for (kind, spec, want) in [
        (Kind::Target, json!({"profileRef": "p"}), "spec.profileRef: {group: \"\", version: v1, kind: Pod}"),
        (
            Kind::Target,
            json!({"profileRef": "p", "resourceRules": deployments, "includedNamespaces": ["a", "secret"]}),
            "spec.includedNamespaces: not allowed by",
        ),
        (
            Kind::ClusterTarget,
            json!({"profileRef": {"name": "p", "namespace": "other"}, "namespaceSelector": selector, "resourceRules": deployments}),
            "spec.profileRef.namespace: namespace",
        ),
        (Kind::Inventory, json!({"exportMinInterval": "29s"}), "spec.exportMinInterval: 29s is below 1m0s"),
        (
            Kind::Inventory,
            json!({"exportMinInterval": "1m", "eventSinkRefs": [{"name": "b", "exportMinInterval": "0s"}]}),
            "spec.eventSinkRefs[0].exportMinInterval: 0s is below 1m0s",
        ),
        (Kind::ClusterInventory, refs(json!({"sinkNamespace": "other"})), "spec.databaseSinkRefs[0]: namespace"),
        (
            Kind::ClusterInventory,
            refs(json!({"databaseSinkRefs": [{"name": "other"}]})),
            "spec.databaseSinkRefs[0]: KollectDatabaseSink \"other\" is not allowed",
        ),
        (
            Kind::DatabaseSink,
            json!({"type": "postgres", "postgres": {"databaseRef": {"name": "s"}, "table": "t"}, "exportMinInterval": "1s"}),
            "spec.exportMinInterval: 1s is below 1m0s",
        ),
    ] {
        let said = refused(decide(kind, spec));
        assert!(said.contains(want), "{want}\nis not in\n{said}");
    }
    for (kind, spec) in [
        (Kind::Target, json!({"profileRef": "p", "resourceRules": deployments, "includedNamespaces": ["a"]})),
        (Kind::Inventory, json!({"exportMinInterval": "1m", "databaseSinkRefs": [{"name": "other"}]})),
        (Kind::ClusterInventory, refs(json!({}))),
    ] {
        warnings(decide(kind, spec));
    }
}

#[test]
fn the_interval_of_an_inventory_that_names_none_is_raised_and_not_refused() {
    let selector = json!({"matchLabels": {"a": "b"}});
    for (kind, spec) in [
        (Kind::Inventory, json!({"databaseSinkRefs": [{"name": "pg"}]})),
        (Kind::Inventory, json!({"exportMinInterval": "30s", "databaseSinkRefs": [{"name": "pg"}]})),
        (
            Kind::ClusterInventory,
            json!({"namespaceSelector": selector, "sinkNamespace": "platform", "databaseSinkRefs": [{"name": "pg"}]}),
        ),
    ] {
        let said = warnings(decide(kind, &json!({ "spec": spec }), None, &limited())).join("\n");
        let want = "spec.exportMinInterval: raised from 30s to 1m0s, spec.minExportInterval of KollectScope";
        assert!(said.contains(want), "{said}");
    }
}

#[test]
fn nothing_is_looked_up_that_does_not_decide() {
    let ask = |kind: Kind, spec: Value| {
        let object = json!({ "spec": spec });
        needs(&Review { kind, key: &key(kind), object: &object, old: None }, &SETTINGS)
    };
    let of = |namespace: &str| Some(Namespace::new(namespace));
    let profile = |namespace: &str| Some(ObjectKey::new(Namespace::new(namespace), Name::new("p")));
    assert_eq!(
        ask(Kind::Target, json!({"profileRef": "p"})),
        Needs { scope: of("team-a"), profile: profile("team-a"), cluster_scope: false }
    );
    let ruled = json!({"profileRef": "p", "resourceRules": [{}]});
    assert_eq!(ask(Kind::Target, ruled), Needs { scope: of("team-a"), ..Needs::default() });
    assert_eq!(
        ask(Kind::ClusterTarget, json!({"profileRef": {"name": "p", "namespace": "n"}})),
        Needs { cluster_scope: true, profile: profile("n"), scope: None }
    );
    for (named, namespace) in [(json!({}), "kollect-system"), (json!({"sinkNamespace": "n"}), "n")] {
        let want = Needs { scope: of(namespace), cluster_scope: true, profile: None };
        assert_eq!(ask(Kind::ClusterInventory, named), want);
    }
    for kind in [Kind::Profile, Kind::Scope, Kind::ClusterScope, Kind::ConnectionTest] {
        assert_eq!(ask(kind, json!({})), Needs::default());
    }
}

#[test]
fn kinds_for_the_whole_cluster_are_refused_in_tenant_mode() {
    let settings = Settings { cluster_kinds: Permission::Denied, ..SETTINGS };
    for kind in [Kind::ClusterTarget, Kind::ClusterInventory] {
        let spec = json!({"spec": {"profileRef": {"name": "p", "namespace": "n"}}});
        let review = Review { kind, key: &key(kind), object: &spec, old: None };
        assert_eq!(needs(&review, &settings), Needs::default());
        let said = refused(super::review(&review, &settings, &Surroundings::default()));
        assert!(said.starts_with(&format!("{} x: needs rights in the whole cluster", kind.as_str())), "{said}");
    }
}
