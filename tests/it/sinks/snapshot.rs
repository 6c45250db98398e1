//! Snapshot sinks as objects, as far as that needs no repository: what is refused, where and with which advice, Secrets,
//! previews, and what this build does not serve.

use anyhow::ensure;
use kollect::lab::wait::wait_for;
use serde_json::Value;

use super::{PATIENCE, Place};

const ENDPOINT: &str = "https://git.example.com/team/inventory.git";
const INVALID: &[&str] = &["Degraded=True/InvalidSpec"];
const NOT_SERVED: &[&str] = &["Degraded=True/NotServed"];
const SECRET: &[&str] = &["ConnectionVerified=False/SecretResolveFailed", "Degraded=True/SecretResolveFailed"];

impl Place {
    fn snapshot_manifest(&self, name: &str, spec: &str) -> String {
        let namespace = &self.ground.namespace;
        format!(
            "apiVersion: kollect.dev/v1alpha1\nkind: KollectSnapshotSink\n\
             metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
        )
    }

    fn snapshot(&self, name: &str, spec: &str) {
        self.apply(&self.snapshot_manifest(name, spec));
    }

    fn inventory(&self, name: &str, spec: &str) {
        let namespace = &self.ground.namespace;
        self.apply(&format!(
            "apiVersion: kollect.dev/v1alpha1\nkind: KollectInventory\n\
             metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
        ));
    }

    async fn preview(&self, object: &str) -> Value {
        self.kubectl(&["annotate", object, "kollect.dev/preview=true"]);
        wait_for("a preview", PATIENCE, || async {
            let preview = self.get(object)?["status"]["preview"].clone();
            ensure!(preview.is_object(), "there is none");
            Ok(preview)
        })
        .await
        .unwrap()
    }
}

#[tokio::test]
async fn a_git_sink_that_cannot_work_names_the_field_and_what_to_write() {
    let Some(place) = Place::new("snap-refused").await else { return };

    // What the schema can say, the API server says when the object is applied.
    for (spec, says) in [
        (format!("{{type: gitlab, endpoint: '{ENDPOINT}', git: {{}}}}"), "spec.git: Invalid value"),
        ("{type: git, endpoint: 'file:///srv/x.git'}".to_owned(), "must not be a file: URL"),
        (
            format!("{{type: git, endpoint: '{ENDPOINT}', git: {{branch: refs/heads/x}}}}"),
            "must be a short branch name",
        ),
        (
            format!("{{type: git, endpoint: '{ENDPOINT}', pathTemplate: 'all.yaml'}}"),
            "must contain {namespace} and {name}",
        ),
        (format!("{{type: git, endpoint: '{ENDPOINT}', serialization: {{format: parquet}}}}"), "does not fit the type"),
    ] {
        let refusal = place.ground.api().apply(&place.snapshot_manifest("refused", &spec)).unwrap_err();
        assert!(format!("{refusal:#}").contains(says), "{spec}: {refusal:#}");
    }

    // The rest is a condition.
    for (name, spec, want, says) in [
        ("nowhere", "{type: git}".to_owned(), INVALID, "spec.endpoint: is missing; write the address"),
        ("scheme", "{type: git, endpoint: 'svn://h/x'}".to_owned(), INVALID, "spec.endpoint: has an unknown scheme"),
        (
            "two-cas",
            format!("{{type: git, endpoint: '{ENDPOINT}', tls: {{caBundle: YQ==, caSecretRef: {{name: ca}}}}}}"),
            INVALID,
            "spec.tls: has both caBundle and caSecretRef; remove one of them",
        ),
        (
            "keyless",
            "{type: git, endpoint: 'git@git.example.com:team/x.git'}".to_owned(),
            INVALID,
            "spec.secretRef: is missing; an ssh endpoint needs a Secret",
        ),
        (
            "contradiction",
            format!("{{type: git, endpoint: '{ENDPOINT}', git: {{auth: {{type: ssh}}}}}}"),
            INVALID,
            "spec.git.auth.type: ssh does not fit an http endpoint",
        ),
        (
            "placeholder",
            format!("{{type: git, endpoint: '{ENDPOINT}', git: {{commitMessage: '{{items}}'}}}}"),
            INVALID,
            "spec.git.commitMessage: has unknown {items}; use {cluster}",
        ),
        (
            "requests",
            format!("{{type: gitlab, endpoint: '{ENDPOINT}', gitlab: {{mergeRequest: {{mode: merge_request}}}}}}"),
            NOT_SERVED,
            "spec.gitlab.mergeRequest.mode: not in this build",
        ),
        (
            "bucket",
            "{type: s3, endpoint: 's3://bucket', serialization: {format: csv}}".to_owned(),
            NOT_SERVED,
            "spec.serialization.format: not in this build",
        ),
    ] {
        place.snapshot(name, &spec);
        let messages = place.conditions(&format!("ksnap/{name}"), want).await;
        assert!(messages[0].starts_with(says), "{messages:?}");
    }

    // An inventory says the same of its reference, and its other sink goes on.
    place.secret("pg", &place.ground.dsn());
    place.sink("pg", "rows", "");
    place.inventory("mixed", "{snapshotSinkRefs: [{name: bucket}], databaseSinkRefs: [{name: pg}]}");
    let want =
        ["Ready=True/PartiallySynced", "Synced=False/PartiallySynced", "Degraded=True/NotServed"].map(str::to_owned);
    let messages = wait_for("what the inventory says", PATIENCE, || async {
        let conditions = place.get("kinv/mixed")?["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let words: Vec<String> = conditions
            .iter()
            .map(|it| format!("{}={}/{}", text(&it["type"]), text(&it["status"]), text(&it["reason"])))
            .collect();
        ensure!(want.iter().all(|word| words.contains(word)), "they are {words:?}");
        Ok(conditions.iter().map(|condition| text(&condition["message"])).collect::<Vec<_>>())
    })
    .await
    .unwrap();
    let what = "snapshot/bucket: KollectSnapshotSink \"bucket\": spec.serialization.format: not in this build";
    assert!(messages.iter().any(|message| message.contains(what)), "{messages:?}");
    place.inventory("wrong", "{snapshotSinkRefs: [{name: nowhere}]}");
    let said = place.degraded("wrong", "InvalidSpec").await;
    assert!(said.contains("KollectSnapshotSink \"nowhere\": spec.endpoint: is missing"), "{said}");
    place.inventory("dangling", "{snapshotSinkRefs: [{name: nobody}]}");
    let said = place.degraded("dangling", "SinkNotFound").await;
    assert!(said.contains("spec.snapshotSinkRefs[0]: there is no KollectSnapshotSink \"nobody\""), "{said}");

    // So does a connection test.
    let failed = |reason: &str| [format!("ConnectionVerified=False/{reason}"), format!("Ready=False/{reason}")];
    for (name, sink, reason, says) in [
        ("of-nobody", "nobody", "SinkNotFound", "there is no KollectSnapshotSink \"nobody\""),
        ("of-bucket", "bucket", "NotServed", "spec.serialization.format: not in this build"),
        ("of-nowhere", "nowhere", "ConnectionTestFailed", "spec.endpoint: is missing"),
    ] {
        place.test(name, &format!("{{sinkRef: {{snapshotSinkRef: {sink}}}}}"));
        let want = failed(reason);
        let messages = place.conditions(&format!("kconntest/{name}"), &[&want[0], &want[1]]).await;
        assert!(messages[0].contains(says), "{messages:?}");
    }
    place.operator.terminate().await.unwrap();
}

#[tokio::test]
async fn a_git_sink_names_the_secret_the_key_or_the_annotation_that_it_lacks() {
    let Some(place) = Place::new("snap-secret").await else { return };
    let other = format!("{}-vault", place.ground.namespace);
    place.ground.create_namespace(&other).await.unwrap();
    let secret = |namespace: &str, name: &str, data: &str| {
        place.apply(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\nstringData: {{{data}}}\n"
        ));
    };
    let own = &place.ground.namespace;

    place.snapshot("token", &format!("{{type: git, endpoint: '{ENDPOINT}', secretRef: {{name: bot}}}}"));
    let messages = place.conditions("ksnap/token", SECRET).await;
    let missing = format!("KollectSnapshotSink \"token\": spec.secretRef: there is no Secret {own}/bot; create it");
    assert_eq!(messages[0], missing);
    secret(own, "bot", "user: x");
    wait_for("the key that is missing", PATIENCE, || async {
        let message = place.get("ksnap/token")?["status"]["conditions"][0]["message"].clone();
        ensure!(message.to_string().contains("has none of the keys token, password"), "it says {message}");
        Ok(())
    })
    .await
    .unwrap();

    // Host keys are asked for, even where the key is there.
    secret(own, "deploy", "ssh-privatekey: x");
    place.snapshot("ssh", "{type: git, endpoint: 'git@git.example.com:x.git', secretRef: {name: deploy}}");
    let messages = place.conditions("ksnap/ssh", SECRET).await;
    assert!(messages[0].contains("spec.secretRef: Secret \"deploy\" has no known_hosts; put"), "{messages:?}");

    // The Secret of the block counts, and has to be shared.
    secret(&other, "shared", "token: x");
    let auth = format!("git: {{auth: {{secretRef: {{name: shared, namespace: {other}}}}}}}");
    place.snapshot("borrowed", &format!("{{type: gitlab, endpoint: '{ENDPOINT}', secretRef: {{name: bot}}}}"));
    place.snapshot("borrowed-git", &format!("{{type: git, endpoint: '{ENDPOINT}', {auth}}}"));
    let messages = place.conditions("ksnap/borrowed-git", SECRET).await;
    let want = format!("annotate it with kollect.dev/shared-with: \"{own}\"");
    assert!(messages[0].contains("spec.git.auth.secretRef: Secret") && messages[0].contains(&want), "{messages:?}");
    place.conditions("ksnap/borrowed", SECRET).await;

    // A Secret that is put right is noticed: whatever is wrong then, it is not the Secret.
    let api = place.ground.api();
    api.kubectl(&["-n", &other, "annotate", "secret", "shared", &format!("kollect.dev/shared-with={own}")]).unwrap();
    secret(own, "bot", "token: x");
    for sink in ["ksnap/borrowed-git", "ksnap/token"] {
        wait_for("the Secret is taken", PATIENCE, || async {
            let conditions = place.get(sink)?["status"]["conditions"].clone();
            ensure!(conditions.is_array() && !conditions.to_string().contains("SecretResolveFailed"), "{conditions}");
            Ok(())
        })
        .await
        .unwrap();
    }
    place.operator.terminate().await.unwrap();
}

#[tokio::test]
async fn a_preview_of_a_git_sink_shows_paths_and_a_commit_without_touching_the_repository() {
    let Some(place) = Place::new("snap-preview").await else { return };
    place.snapshot(
        "fleet",
        &format!(
            "{{type: git, endpoint: '{ENDPOINT}', connectionTest: false, cluster: west, \
             pathTemplate: 'clusters/{{cluster}}/{{namespace}}/{{name}}{{extension}}', \
             serialization: {{format: json, compression: gzip}}, \
             git: {{commitBody: 'gen {{generation}}', commitTrailers: ['Sink: {{sink}}']}}}}"
        ),
    );
    let preview = place.preview("ksnap/fleet").await;
    assert_eq!(preview["objectPath"], "clusters/west/team-a/api.json");
    assert_eq!(preview["serializationFormat"], "json");
    assert_eq!(preview["inputSampleSource"], "synthetic");
    let subject = preview["git"]["sampleCommitSubject"].as_str().unwrap();
    assert!(subject.starts_with("chore(west/team-a/api): export 42 items @ "), "{subject}");
    assert_eq!(preview["git"]["sampleCommitBody"], "gen 1\n\nSink: fleet");
    let warnings = preview["warnings"].to_string();
    assert!(warnings.contains("spec.serialization.compression: without effect"), "{warnings}");
    let status = place.get("ksnap/fleet").unwrap()["status"].clone();
    assert_eq!(status["conditions"], Value::Null, "nobody asked for a probe");

    place.snapshot(
        "tree",
        &format!("{{type: git, endpoint: '{ENDPOINT}', connectionTest: false, layout: {{mode: perResource}}}}"),
    );
    let layout = place.preview("ksnap/tree").await["layout"].clone();
    assert_eq!((&layout["mode"], &layout["prune"]), (&"perResource".into(), &true.into()));
    let paths = layout["samplePaths"].as_array().cloned().unwrap_or_default();
    assert!((1..=3).contains(&paths.len()), "{paths:?}");
    assert!(
        paths.iter().all(|path| path.as_str().is_some_and(|path| path.starts_with("default/team-a/"))),
        "{paths:?}"
    );
    place.kubectl(&["annotate", "ksnap", "tree", "kollect.dev/preview-"]);
    wait_for("the preview is gone", PATIENCE, || async {
        let status = place.get("ksnap/tree")?["status"].clone();
        ensure!(status["preview"].is_null(), "{status}");
        Ok(())
    })
    .await
    .unwrap();
    place.operator.terminate().await.unwrap();
}
