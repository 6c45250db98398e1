//! Which objects a target collects, on a real API server: the examples of `docs/filters.md`, and what changes when
//! objects, namespaces and targets do.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, ensure};
use kollect::lab::Operator;
use kollect::lab::wait::wait_for;
use serde_json::{Value, json};

use crate::operator::{Job, PATIENCE, TABLE};
use crate::support::{Definition, repository_file};

const PAGE: &str = "docs/filters.md";

/// Names of rows by target.
pub(crate) type Rows = BTreeMap<String, Vec<String>>;

/// The targets of the page, and what it says that they collect.
fn examples(page: &str) -> (String, Rows) {
    let (mut manifests, mut rows) = (String::new(), Rows::new());
    let mut rest = page;
    while let Some((_, after)) = rest.split_once("```yaml\n") {
        let (manifest, after) = after.split_once("```\n").expect("a block has an end");
        let name = manifest.split_once("name: ").expect("a target has a name").1;
        let name = name.split_once(',').expect("and a namespace").0.to_owned();
        let (_, said) = after.split_once("\nCollects ").expect("an example says what it collects");
        let said = said.split_once('\n').map_or(said, |(line, _)| line);
        let mut names: Vec<String> = said.split('`').skip(1).step_by(2).map(row_name).collect();
        names.sort();
        manifests.push_str(manifest);
        manifests.push_str("---\n");
        assert!(rows.insert(name.clone(), names).is_none(), "{name} is there twice");
        rest = after;
    }
    (manifests, rows)
}

/// A row is shown as `namespace/name`; an object without a namespace has the slash too.
fn row_name(name: &str) -> String {
    if name.contains('/') { name.to_owned() } else { format!("/{name}") }
}

pub(crate) fn namespace(name: &str, labels: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n---\n")
}

pub(crate) fn deployment(namespace: &str, name: &str, labels: &str, replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\n\
         spec:\n  replicas: {replicas}\n  selector: {{matchLabels: {{of: it}}}}\n  template:\n    metadata: {{labels: {{of: it}}}}\n    \
         spec: {{containers: [{{name: c, image: i}}]}}\n---\n"
    )
}

/// What the table at the head of the page shows.
fn world() -> String {
    [
        namespace("shop", "env: prod, team: shop"),
        namespace("pay", "env: prod, team: pay"),
        namespace("lab", "env: dev"),
        namespace("legacy", "env: prod"),
        deployment("shop", "web", "app: web, criticality: high", 3),
        deployment("shop", "api", "app: api", 1),
        deployment("pay", "api", "app: api", 4),
        deployment("lab", "web", "app: web", 1),
        deployment("lab", "try", "app: try, kollect.dev/watch: disabled", 1),
        deployment("legacy", "web", "app: web", 1),
    ]
    .concat()
}

const MAY_LIST_ZONES: &str = r"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: zones}
rules: [{apiGroups: [test.kollect.dev], resources: [zones], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: zones}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: zones}
subjects: [{kind: ServiceAccount, name: kollect-controller-manager, namespace: kollect-system}]
";

impl Job {
    /// Waits until the targets have these rows, and no others.
    pub(crate) async fn collects(&self, want: &Rows) {
        let query = format!(
            "SELECT target_name, coalesce(payload->>'namespace', '') || '/' || (payload->>'name') FROM {TABLE} ORDER BY 1, 2"
        );
        let collected = wait_for("the rows", PATIENCE, || async {
            let mut have = Rows::new();
            for row in self.database.query(&query, &[]).await? {
                have.entry(row.get(0)).or_default().push(row.get(1));
            }
            for names in have.values_mut() {
                names.sort();
            }
            let different: Vec<String> = want
                .iter()
                .map(|(target, names)| (target, names, have.get(target).cloned().unwrap_or_default()))
                .filter(|(_, names, have)| *names != have)
                .map(|(target, names, have)| format!("{target}: want {names:?}, have {have:?}"))
                .collect();
            ensure!(different.is_empty(), "{different:?}");
            Ok(())
        });
        collected.await.unwrap_or_else(|error| panic!("{error:#}\n{}", self.describe()));
    }

    pub(crate) fn profile(&self, name: &str, gvk: &str) -> String {
        format!(
            "apiVersion: kollect.dev/v1alpha1\nkind: KollectProfile\nmetadata: {{name: {name}, namespace: {}}}\n\
             spec: {{targetGVK: {gvk}, attributes: [{{name: uid, path: $.metadata.uid}}]}}\n---\n",
            self.namespace()
        )
    }

    pub(crate) fn target(&self, name: &str, spec: &str) -> String {
        format!(
            "apiVersion: kollect.dev/v1alpha1\nkind: KollectTarget\nmetadata: {{name: {name}, namespace: {}}}\n\
             spec: {{{spec}}}\n---\n",
            self.namespace()
        )
    }
}

fn zones(names: std::ops::Range<u32>, tier: &str) -> Result<String> {
    let mut objects = String::new();
    for name in names {
        write!(
            objects,
            "apiVersion: test.kollect.dev/v1\nkind: Zone\nmetadata: {{name: z{name:02}, labels: {{tier: {tier}}}}}\n---\n"
        )?;
    }
    Ok(objects)
}

/// Changes what a target is said to collect.
fn change(rows: &mut Rows, target: &str, gone: &[&str], new: &[&str]) {
    let names = rows.get_mut(target).expect("a target of the page");
    for name in gone {
        let at = names.iter().position(|have| have == name);
        names.remove(at.unwrap_or_else(|| panic!("{target} does not collect {name}")));
    }
    names.extend(new.iter().map(|name| (*name).to_owned()));
    names.sort();
}

#[tokio::test]
async fn targets_collect_what_the_page_says_and_follow_every_change() {
    let Some(job) = Job::new("filters").await else { return };
    let page = std::fs::read_to_string(repository_file(PAGE)).unwrap();
    let (manifests, mut rows) = examples(&page);
    assert!(rows.len() >= 15, "{:?}", rows.keys());
    job.apply(&world()).unwrap();
    let zones_exist = Definition { kind: "Zone", plural: "zones", scope: "Cluster", ..Definition::default() };
    job.apply(&(zones_exist.manifest() + MAY_LIST_ZONES)).unwrap();
    let first = [zones(0..1, "gold").unwrap(), zones(1..2, "lead").unwrap()].concat();
    wait_for("the new kind", PATIENCE, || async { job.apply(&first) }).await.unwrap();
    job.apply(&job.profile("zones", "{group: test.kollect.dev, version: v1, kind: Zone}")).unwrap();
    job.apply(&job.profile("namespaces", "{version: v1, kind: Namespace}")).unwrap();
    job.apply(&manifests.replace("namespace: platform", &format!("namespace: {}", job.namespace()))).unwrap();
    let options = job.ground.operator_options().arg("--default-excluded-namespaces=legacy");
    let operator = job.ground.start_operator(&options).await;
    job.collects(&rows).await;

    statuses(&job).await;
    refusals(&job).await;
    changes(&job, &mut rows).await;
    job.collects(&rows).await;
    selectors(&job, &operator).await;
    job.collects(&rows).await;
    operator.terminate().await.unwrap();
}

/// What the filters select is in the status, and what they cannot do in the message.
async fn statuses(job: &Job) {
    let cases = [
        ("production", "matchedNamespaces", json!(["pay", "shop"])),
        ("production", "effectiveNamespaces", json!(["pay", "shop"])),
        ("production", "activeResourceRules", Value::Null),
        ("all-excluded", "matchedNamespaces", Value::Null),
        ("all-excluded", "effectiveNamespaces", Value::Null),
        ("namespaces", "effectiveNamespaces", Value::Null),
        ("important", "activeResourceRules", json!(2)),
    ];
    for (target, field, want) in cases {
        job.condition(&format!("ktgt/{target}"), "Ready", "Collecting").await;
        assert_eq!(job.status(&format!("ktgt/{target}"))[field], want, "{target} {field}");
    }
    let message = job.condition("ktgt/other-kind", "Ready", "Collecting").await;
    assert!(message.contains("spec.resourceRules[0] (apps/v1/StatefulSet) can never match"), "{message}");
    let message = job.condition("ktgt/namespaces", "Ready", "Collecting").await;
    assert!(message.contains("cluster-scoped"), "{message}");
}

/// What cannot be read or compiled is named with its field, and the rows stay.
async fn refusals(job: &Job) {
    let deployment = "gvk: {group: apps, version: v1, kind: Deployment}";
    let cases = [
        (
            "namespaceExcludeSelector: {matchLabels: {team: 'a b'}}",
            "InvalidSpec",
            "spec.namespaceExcludeSelector.matchLabels: \"a b\"",
        ),
        ("labelSelector: {matchLabels: {a/b/c: x}}", "InvalidSpec", "spec.labelSelector.matchLabels: \"a/b/c\""),
        (
            &format!("resourceRules: [{{{deployment}}}, {{{deployment}, matchPolicy: 'object.spec.replicas >'}}]"),
            "InformerRegistrationFailed",
            "spec.resourceRules[1].matchPolicy: ",
        ),
        (
            "resourceRules: [{gvk: {version: v1, kind: Secret}, matchPolicy: 'size(object.data) > 0'}]",
            "InformerRegistrationFailed",
            "reads data or stringData of Secrets",
        ),
    ];
    for (number, (spec, reason, text)) in cases.into_iter().enumerate() {
        let name = format!("wrong-{number}");
        job.apply(&job.target(&name, &format!("profileRef: deployments, {spec}"))).unwrap();
        let message = job.condition(&format!("ktgt/{name}"), "Degraded", reason).await;
        assert!(message.contains(text), "{message}");
        job.kubectl(&["-n", job.namespace(), "delete", "ktgt", &name]);
    }
}

/// Objects, namespaces and targets change one after the other; nothing else has rows written.
async fn changes(job: &Job, rows: &mut Rows) {
    // The annotation lets the namespace in; an object that says no stays out.
    job.kubectl(&["annotate", "namespace", "lab", "kollect.dev/namespace-watch=enabled"]);
    change(rows, "opted-in", &[], &["lab/web"]);
    job.collects(rows).await;
    // Label and annotation disagree: the refusal wins.
    job.kubectl(&["label", "namespace", "lab", "kollect.dev/watch=disabled"]);
    for target in ["everything", "included", "excluded", "without-teams", "by-label", "conditions", "opted-in"] {
        change(rows, target, &["lab/web"], &[]);
    }
    job.collects(rows).await;
    // An object that opts in has the last word.
    job.kubectl(&["-n", "lab", "label", "--overwrite", "deployment", "web", "kollect.dev/watch=enabled"]);
    for target in ["everything", "included", "excluded", "without-teams", "by-label", "conditions", "opted-in"] {
        change(rows, target, &[], &["lab/web"]);
    }
    job.collects(rows).await;
    job.kubectl(&["label", "namespace", "lab", "kollect.dev/watch-", "env=prod", "--overwrite"]);
    change(rows, "production", &[], &["lab/web"]);
    change(rows, "both-agree", &[], &["lab/web"]);
    change(rows, "namespaces", &[], &["/lab"]);
    job.collects(rows).await;

    // The labels of a namespace decide which rules apply there.
    job.kubectl(&["label", "namespace", "pay", "team=shop", "--overwrite"]);
    change(rows, "shop-api", &[], &["pay/api"]);
    job.collects(rows).await;
    // An object changes its labels, or what a condition reads.
    job.kubectl(&["-n", "shop", "label", "--overwrite", "deployment", "web", "app=other", "criticality-"]);
    change(rows, "by-label", &["shop/web"], &[]);
    change(rows, "important", &["shop/web"], &[]);
    change(rows, "conditions", &["shop/web"], &[]);
    job.kubectl(&["-n", "shop", "scale", "deployment", "api", "--replicas=9"]);
    change(rows, "important", &[], &["shop/api"]);
    job.collects(rows).await;

    // A target changes its rules, and goes back to names.
    job.patch("ktgt/important", r#"{"spec":{"names":["web"],"resourceRules":[]}}"#);
    change(rows, "important", &["shop/api", "pay/api"], &["shop/web", "lab/web"]);
    job.collects(rows).await;
    // A namespace that comes later, and one that goes.
    job.apply(&[namespace("not-yet-there", ""), deployment("not-yet-there", "web", "", 1)].concat()).unwrap();
    for target in ["everything", "included", "excluded", "without-teams", "important"] {
        change(rows, target, &[], &["not-yet-there/web"]);
    }
    job.collects(rows).await;

    // What has no namespace asks `default`.
    job.kubectl(&["label", "namespace", "default", "kollect.dev/watch=disabled"]);
    let namespaces = rows.insert("namespaces".to_owned(), Vec::new()).unwrap();
    job.collects(rows).await;
    job.kubectl(&["label", "namespace", "default", "kollect.dev/watch-"]);
    rows.insert("namespaces".to_owned(), namespaces);
    job.collects(rows).await;
}

/// The server filters for a target that is alone with its labels, no more for two that disagree, and again for the one
/// that is left; rows that stay are neither deleted nor added again.
async fn selectors(job: &Job, operator: &Operator) {
    job.apply(&job.target("gold", "profileRef: zones, labelSelector: {matchLabels: {tier: gold}}")).unwrap();
    let mut rows = Rows::from([("gold".to_owned(), vec!["/z00".to_owned()])]);
    job.collects(&rows).await;

    let handled = || async {
        operator.metrics().await.unwrap().get("kollect_collect_dispatch_duration_seconds_count").unwrap_or_default()
    };
    let before = handled().await;
    job.apply(&zones(10..40, "lead").unwrap()).unwrap();
    job.apply(&zones(2..3, "gold").unwrap()).unwrap();
    change(&mut rows, "gold", &[], &["/z02"]);
    job.collects(&rows).await;
    let brought = handled().await - before;
    assert!(brought < 5.0, "the server sent {brought} objects for one that is wanted");

    let before = job.writes().await;
    job.apply(&job.target("lead", "profileRef: zones, labelSelector: {matchLabels: {tier: lead}}")).unwrap();
    let lead = (10..40).map(|name| format!("/z{name}"));
    rows.insert("lead".to_owned(), std::iter::once("/z01".to_owned()).chain(lead).collect());
    job.collects(&rows).await;
    // One moves from the one to the other.
    job.kubectl(&["label", "zone", "z01", "tier=gold", "--overwrite"]);
    change(&mut rows, "lead", &["/z01"], &[]);
    change(&mut rows, "gold", &[], &["/z01"]);
    job.collects(&rows).await;
    job.kubectl(&["-n", job.namespace(), "delete", "ktgt/lead"]);
    rows.insert("lead".to_owned(), Vec::new());
    job.collects(&rows).await;
    let written = job.writes().await.since(before);
    assert_eq!((written.inserted, written.deleted), (31 + 1, 1 + 30));

    // Filtered by the server again: what loses its label is deleted, what gets it is added.
    job.kubectl(&["label", "zone", "z00", "tier=lead", "--overwrite"]);
    job.kubectl(&["label", "zone", "z11", "tier=gold", "--overwrite"]);
    change(&mut rows, "gold", &["/z00"], &["/z11"]);
    job.collects(&rows).await;
    job.kubectl(&["-n", job.namespace(), "delete", "ktgt/gold"]);
    rows.insert("gold".to_owned(), Vec::new());
    job.collects(&rows).await;
}

#[test]
fn the_examples_of_a_page_are_read_with_what_they_collect() {
    let page = "a\n```yaml\nkind: X\nmetadata: {name: one, namespace: p}\n```\n\nCollects `a/b`, `c`.\n\n\
                ```yaml\nmetadata: {name: two, namespace: p}\n```\nText.\n\nCollects nothing.\n";
    let (manifests, rows) = examples(page);
    assert_eq!(manifests.matches("---\n").count(), 2);
    assert_eq!(rows["one"], ["/c", "a/b"]);
    assert!(rows["two"].is_empty());
}
