//! Kinds of definitions: plurals that nobody can guess, kinds that appear while targets wait for them, versions that come
//! and go.

use std::fmt::Write as _;

use anyhow::ensure;
use kollect::lab::wait::wait_for;

use crate::operator::{Job, PATIENCE, TABLE};

const GROUP: &str = "odd.kollect.dev";

/// Kind and plural, as somebody wrote them. A guess from the kind would be wrong for each.
const KINDS: [(&str, &str); 5] =
    [("Gateway", "gateways"), ("Sheep", "sheep"), ("Radius", "radii"), ("Policy", "policys"), ("Widget", "gadgetz")];

fn definition(kind: &str, plural: &str, versions: &[(&str, bool)]) -> String {
    let mut text = format!(
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: {plural}.{GROUP}}}\n\
         spec:\n  group: {GROUP}\n  names: {{kind: {kind}, listKind: {kind}List, plural: {plural}, singular: one{}}}\n\
         \x20 scope: Namespaced\n  versions:\n",
        kind.to_lowercase()
    );
    for (index, (version, served)) in versions.iter().enumerate() {
        writeln!(
            text,
            "  - name: {version}\n    served: {served}\n    storage: {}\n    schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}",
            index == 0
        )
        .unwrap();
    }
    text + "---\n"
}

fn target(namespace: &str, kind: &str, version: &str) -> String {
    let name = kind.to_lowercase();
    format!(
        "apiVersion: kollect.dev/v1alpha1\nkind: KollectProfile\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{targetGVK: {{group: {GROUP}, version: {version}, kind: {kind}}}, attributes: [{{name: a, path: \"$.metadata.name\"}}]}}\n---\n\
         apiVersion: kollect.dev/v1alpha1\nkind: KollectTarget\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{profileRef: {name}, includedNamespaces: [{namespace}]}}\n---\n"
    )
}

fn object(namespace: &str, kind: &str) -> String {
    format!("apiVersion: {GROUP}/v1\nkind: {kind}\nmetadata: {{name: it, namespace: {namespace}}}\n---\n")
}

const RIGHTS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: odd}
rules: [{apiGroups: [odd.kollect.dev], resources: ['*'], verbs: [list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: odd}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: odd}
subjects: [{kind: ServiceAccount, name: kollect-controller-manager, namespace: kollect-system}]
";

#[tokio::test]
async fn kinds_appear_change_their_version_and_are_found_whatever_their_plural() {
    let Some(job) = Job::new("kinds").await else { return };
    let namespace = job.namespace();
    let create = async |kinds: &[(&str, &str)]| {
        let definitions: String =
            kinds.iter().map(|(kind, plural)| definition(kind, plural, &[("v1", true)])).collect();
        job.apply(&definitions).unwrap();
        let objects: String = kinds.iter().map(|(kind, _)| object(namespace, kind)).collect();
        wait_for("the new kinds", PATIENCE, || async { job.apply(&objects) }).await.unwrap();
    };
    let name = |kind: &str| format!("ktgt/{}", kind.to_lowercase());
    let ((first, plural), later) = (KINDS[0], &KINDS[1..]);
    job.apply(RIGHTS).unwrap();
    create(&KINDS[..1]).await;
    let targets: String = KINDS.iter().map(|(kind, _)| target(namespace, kind, "v1")).collect();
    job.apply(&targets).unwrap();
    let operator = job.operator().await;
    job.rows(1).await;
    job.condition(&name(first), "Ready", "Collecting").await;
    for (kind, _) in later {
        job.condition(&name(kind), "Degraded", "KindNotFound").await;
    }

    // The others appear while targets wait for them, and the first one goes over to another version.
    create(later).await;
    job.apply(&definition(first, plural, &[("v2", true), ("v1", false)])).unwrap();
    for (kind, _) in later {
        job.condition(&name(kind), "Ready", "Collecting").await;
    }
    let message = job.condition(&name(first), "Degraded", "KindNotFound").await;
    assert!(message.contains("has no Gateway in odd.kollect.dev/v1 to list"), "{message}");
    job.rows(5).await;
    // The target kept its row, and goes on when its profile follows.
    job.apply(&target(namespace, first, "v2")).unwrap();
    job.condition(&name(first), "Ready", "Collecting").await;
    wait_for("the row of the new version", PATIENCE, || async {
        let of = "payload->>'kind' = 'Gateway' AND payload->>'version' = 'v2'";
        let count = format!("SELECT count(*) FROM {TABLE} WHERE {of}");
        let count: i64 = job.database.query_one(&count, &[]).await?.get(0);
        ensure!(count == 1, "{count}");
        Ok(())
    })
    .await
    .unwrap();
    job.rows(5).await;
    operator.terminate().await.unwrap();
}
