//! Scopes on a real API server and a real PostgreSQL: what they refuse goes, from the table too, what is put right comes
//! back, and what they say names the field and the scope. The scopes are those of `docs/scopes.md`.

use anyhow::ensure;
use kollect::lab::load::Load;
use kollect::lab::wait::wait_for;
use serde_json::Value;

use crate::operator::{Job, PATIENCE};
use crate::support::repository_file;

const ALL: &str = "{profileRef: deployments, excludedNamespaces: [kube-system]}";

/// Two namespaces with five objects each, and a target that selects both.
struct Tenancy {
    job: Job,
    load: Load,
}

impl Tenancy {
    /// Applies what the page shows below a heading, with the names of this test, and with something else.
    fn scope(&self, heading: &str, instead: &[(&str, &str)]) {
        let page = std::fs::read_to_string(repository_file("docs/scopes.md")).unwrap();
        let (_, section) = page.split_once(&format!("\n## {heading}\n")).unwrap();
        let (_, example) = section.split_once("```yaml\n").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let (first, second) = (self.load.namespace(0), self.load.namespace(1));
        let names =
            [("team-a-staging", &*first), ("team-a", self.job.namespace()), ("sandbox", &*second), ("warehouse", "pg")];
        let scope = names.iter().chain(instead).fold(example.to_owned(), |text, (from, to)| {
            assert!(text.contains(from) || names.iter().any(|(name, _)| name == from), "{from} is not in {text}");
            text.replace(from, to)
        });
        self.job.apply(&scope).unwrap();
    }

    fn patch(&self, object: &str, patch: &str) {
        self.job.kubectl(&["-n", self.job.namespace(), "patch", object, "--type=merge", "-p", patch]);
    }

    fn target(&self, spec: &str) {
        let namespace = self.job.namespace();
        let target = format!(
            "apiVersion: kollect.dev/v1alpha1\nkind: KollectTarget\n\
             metadata: {{name: deployments, namespace: {namespace}}}\nspec: {spec}\n"
        );
        self.job.apply(&target).unwrap();
    }

    /// Waits until the target is refused, and checks what it says and that its rows go.
    async fn refused(&self, reason: &str, says: &[&str]) {
        let message = self.job.condition("ktgt/deployments", "Degraded", reason).await;
        assert!(says.iter().all(|text| message.contains(text)), "{says:?}\n{message}");
        self.job.rows(0).await;
    }

    /// Waits until the target collects so many rows.
    async fn collects(&self, rows: i64) {
        self.job.rows(rows).await;
        self.job.condition("ktgt/deployments", "Ready", "Collecting").await;
    }

    async fn event(&self, reason: &str, kind: &str) {
        let selector = format!("--field-selector=type=Warning,reason={reason},involvedObject.kind={kind}");
        let what = format!("an Event {reason}");
        let told = wait_for(&what, PATIENCE, || async {
            let found = self.job.ground.api().kubectl(&["get", "events", "-A", "-o", "name", &selector])?;
            ensure!(!found.is_empty(), "there is none");
            Ok(())
        });
        told.await.unwrap();
    }
}

#[tokio::test]
async fn what_a_scope_refuses_goes_and_comes_back_when_it_is_put_right() {
    let Some(job) = Job::new("scopes").await else { return };
    let load = Job::load(2, 5);
    load.create(&job.ground.client).await.unwrap();
    let tenancy = Tenancy { job, load };
    let job = &tenancy.job;
    let operator = job.operator().await;
    tenancy.collects(10).await;
    let own = format!("KollectScope \"limits\" in namespace {:?}", job.namespace());
    let first = tenancy.load.namespace(0);

    // A target that selects more than the scope allows loses all its rows, until it selects less.
    tenancy.scope("The scope of a namespace", &[("minExportInterval: 1m", "minExportInterval: 0s")]);
    tenancy.refused("ScopeNamespaceDenied", &["spec.namespaceSelector: ", &own, "spec.allowedNamespaces"]).await;
    tenancy.event("ScopeNamespaceDenied", "KollectTarget").await;
    tenancy.target(&format!("{{profileRef: deployments, includedNamespaces: [{first}]}}"));
    tenancy.collects(5).await;
    // What is named has to be allowed, whether it is there or not.
    tenancy.target(&format!("{{profileRef: deployments, includedNamespaces: [{first}, nowhere]}}"));
    tenancy.refused("ScopeNamespaceDenied", &["spec.includedNamespaces: ", &own, "nowhere (not in"]).await;
    tenancy.target(&format!("{{profileRef: deployments, includedNamespaces: [{first}]}}"));
    tenancy.collects(5).await;

    // So it is with a kind; and a scope that goes takes its limits along.
    tenancy.patch("kscope/limits", r#"{"spec":{"allowedGVKs":[{"version":"v1","kind":"ConfigMap"}]}}"#);
    let kind = "{group: \"apps\", version: v1, kind: Deployment}";
    tenancy.refused("ScopeGVKDenied", &["spec.profileRef: ", kind, &own, "spec.allowedGVKs"]).await;
    tenancy.event("ScopeGVKDenied", "KollectTarget").await;
    tenancy.target(ALL);
    job.kubectl(&["-n", job.namespace(), "delete", "kscope", "limits"]);
    tenancy.collects(10).await;

    the_scope_of_the_cluster_is_not_about_targets_of_a_namespace(&tenancy).await;
    sinks_and_intervals_are_those_of_the_scope(&tenancy, &own).await;
    a_scope_that_cannot_be_read_lets_nothing_change(&tenancy, &own).await;

    // What a scope forbids while nobody looks is gone after the next start.
    operator.terminate().await.unwrap();
    tenancy.scope("The scope of a namespace", &[("kind: Deployment", "kind: StatefulSet"), ("1m", "0s")]);
    let operator = job.operator().await;
    tenancy.refused("ScopeGVKDenied", &[&own]).await;
    operator.terminate().await.unwrap();
}

async fn the_scope_of_the_cluster_is_not_about_targets_of_a_namespace(tenancy: &Tenancy) {
    let job = &tenancy.job;
    tenancy.scope("The scope of the cluster", &[]);
    tenancy.patch("kcscope/limits", r#"{"spec":{"allowedGVKs":[{"version":"v1","kind":"ConfigMap"}]}}"#);
    // One that sorts first holds, and the other is told.
    let first = "apiVersion: kollect.dev/v1alpha1\nkind: KollectClusterScope\nmetadata: {name: first}\nspec: {}\n";
    job.apply(first).unwrap();
    tenancy.event("ScopeNotUsed", "KollectClusterScope").await;
    tenancy.collects(10).await;
    job.kubectl(&["delete", "kcscope", "limits", "first"]);
}

async fn sinks_and_intervals_are_those_of_the_scope(tenancy: &Tenancy, own: &str) {
    let job = &tenancy.job;
    let everywhere = ("allowedNamespaces", "# allowedNamespaces");
    tenancy.scope("The scope of a namespace", &[("databaseSinkRefs: [pg]", "databaseSinkRefs: [other]"), everywhere]);
    let message = job.condition("kinv/all", "Degraded", "ScopeSinkDenied").await;
    let field = "spec.databaseSinkRefs[0]: KollectDatabaseSink \"pg\" is not allowed by ";
    assert!(message.contains(&format!("{field}{own}: its spec.databaseSinkRefs")), "{message}");
    tenancy.event("ScopeSinkDenied", "KollectInventory").await;
    job.rows(10).await;

    tenancy.scope("The scope of a namespace", &[everywhere, ("1m", "1h")]);
    let note = wait_for("the interval is that of the scope", PATIENCE, || async {
        let message = job.condition("kinv/all", "Ready", "Exported").await;
        ensure!(message.contains("; interval raised from 0s to 1h0m0s, spec.minExportInterval of "), "{message}");
        Ok(message)
    });
    let note = note.await.unwrap();
    assert!(note.contains(own), "{note}");
    // The last write is less than an hour ago, so the next one waits, until the floor is gone.
    tenancy.load.delete(&job.ground.client, vec![0]).await.unwrap();
    job.condition("kinv/all", "Synced", "Debounced").await;
    job.rows(10).await;
    tenancy.patch("kscope/limits", r#"{"spec":{"minExportInterval":"0s"}}"#);
    job.rows(9).await;
}

async fn a_scope_that_cannot_be_read_lets_nothing_change(tenancy: &Tenancy, own: &str) {
    let job = &tenancy.job;
    let loose = r#"[{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/minExportInterval",
        "value": {"x-kubernetes-preserve-unknown-fields": true}}]"#;
    job.kubectl(&["patch", "crd", "kollectscopes.kollect.dev", "--type=json", "-p", loose]);
    let broken = wait_for("an object of the loose schema", PATIENCE, || async {
        let patch = r#"{"spec":{"minExportInterval":"soon"}}"#;
        let limits = ["-n", job.namespace(), "patch", "kscope/limits", "--type=merge", "-p", patch];
        job.ground.api().kubectl(&limits)
    });
    broken.await.unwrap();
    for object in ["ktgt/deployments", "kinv/all"] {
        let message = job.condition(object, "Degraded", "ScopeLookupFailed").await;
        let says = [own, "cannot be read", "spec.minExportInterval: ", "\"soon\""];
        assert!(says.iter().all(|text| message.contains(text)), "{message}");
    }
    tenancy.load.delete(&job.ground.client, vec![1]).await.unwrap();
    job.rows(9).await;
    job.kubectl(&["-n", job.namespace(), "delete", "kscope", "limits"]);
    tenancy.collects(8).await;
    let inventory = job.kubectl(&["-n", job.namespace(), "get", "kinv", "all", "-o", "json"]);
    let inventory: Value = serde_json::from_str(&inventory).unwrap();
    assert!(inventory["status"]["conditions"].to_string().contains("Exported"), "{inventory}");
}
