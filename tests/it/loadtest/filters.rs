//! What `kollect-lab verify` counts at the API server, without an operator: the filters of targets, read again.

use kollect::lab::load::{Kind, Load};
use kollect::lab::verify::{Sources, verify};

use crate::support::Ground;

/// Kind, and what a target says beside its profile, with NS for the namespace of the test.
const TARGETS: [(&str, &str, usize); 8] = [
    ("ConfigMap", "includedNamespaces: [NS-001, NS-002], labelSelector: {matchLabels: {app: loadtest}}", 1_020),
    ("Deployment", "includedNamespaces: [NS-001]", 510),
    ("Deployment", "includedNamespaces: [NS-001, NS-002], excludedNamespaces: [NS-001]", 510),
    ("Deployment", "includedNamespaces: [NS-002], names: [dep-00001, dep-00003, dep-99999]", 2),
    (
        "Deployment",
        "includedNamespaces: [NS-001], labelSelector: {matchExpressions: [{key: loadtest-filtered, operator: DoesNotExist}]}",
        255,
    ),
    ("Deployment", "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NS-002}}", 510),
    (
        "Deployment",
        "includedNamespaces: [NS-001, NS-002], \
         namespaceExcludeSelector: {matchLabels: {kubernetes.io/metadata.name: NS-002}}",
        510,
    ),
    ("Deployment", "includedNamespaces: [NS-001], suspend: true", 0),
];

#[tokio::test]
async fn objects_that_the_filters_accept_are_counted_page_by_page() {
    let Some(ground) = Ground::shared("filters").await else { return };
    let namespace = &ground.namespace;
    let prefix = format!("{namespace}-");
    let load = Load {
        kind: Kind::Mixed,
        namespaces: 2,
        per_namespace: 1_020,
        prefix,
        filtered_percent: 50,
        ..Load::default()
    };
    load.create(&ground.client).await.unwrap();
    let named = |kind: &str, name: &str, spec: &str| {
        format!(
            "apiVersion: kollect.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{{spec}}}\n"
        )
    };
    let mut manifests = vec![named("KollectInventory", "all", "")];
    for (kind, group) in [("Deployment", "group: apps, "), ("ConfigMap", "")] {
        let attributes = r#"attributes: [{name: name, path: "$.metadata.name"}]"#;
        let spec = format!("targetGVK: {{{group}version: v1, kind: {kind}}}, {attributes}");
        manifests.push(named("KollectProfile", &kind.to_lowercase(), &spec));
    }
    for (number, (kind, spec, _)) in TARGETS.into_iter().enumerate() {
        let spec = format!("profileRef: {}, {}", kind.to_lowercase(), spec.replace("NS", namespace));
        manifests.push(named("KollectTarget", &format!("t{number}"), &spec));
    }
    ground.api().apply(&manifests.join("---\n")).unwrap();
    let sources = Sources::new(ground.client.clone(), format!("kubernetes.io/metadata.name={namespace}"));
    let wanted: usize = TARGETS.iter().map(|(_, _, count)| count).sum();

    let verdict = verify(&sources).await.unwrap();

    assert_eq!((verdict.namespaces, verdict.inventories, verdict.objects), (1, 1, wanted));
    assert_eq!(verdict.problems, [format!("{namespace}/all: its status has 0 items of {wanted} objects")]);

    // Of all these, two reach no further than that.
    let scope = format!("allowedNamespaces: [{namespace}-002]");
    ground.api().apply(&named("KollectScope", "limits", &scope)).unwrap();
    assert_eq!(verify(&sources).await.unwrap().objects, 512);

    let rules = "profileRef: deployment, resourceRules: [{gvk: {group: apps, version: v1, kind: Deployment}}]";
    ground.api().apply(&named("KollectTarget", "rules", rules)).unwrap();
    let error = verify(&sources).await.unwrap_err();
    assert!(error.to_string().contains("resourceRules, which are not understood"), "{error:#}");
    load.delete_namespaces(&ground.client).await.unwrap();
}
