//! The validating webhooks on the real API server: each rule with them and without them, their certificates, and what they
//! must never hold up.

mod table;

use std::path::Path;

use anyhow::{Result, ensure};
use kollect::api::v1alpha1::Kind;
use kollect::lab::Operator;
use kollect::lab::helm::{Chart, NAMESPACE, Objects, webhooks_by_url};
use kollect::lab::operator::OperatorOptions;
use kollect::lab::process;
use kollect::lab::tools::Tool;
use kollect::lab::wait::wait_for;
use kube::api::{Api, DynamicObject, PostParams};
use serde_json::{Value, json};

use self::table::{Place, Rule, Without, rules};
use crate::operator::PATIENCE;
use crate::support::{Ground, part_or_skip};

const CONFIGURATION: &str = "kollect-validating-webhook-configuration";
const SECRET: &str = "webhook-server-cert";

/// A control plane with a namespace that has limits, and limits for the cluster.
struct Stage {
    ground: Ground,
    limited: String,
    port: u16,
}

impl Stage {
    async fn new() -> Option<Self> {
        part_or_skip(Tool::Helm.path())?;
        let ground = Ground::own("admission").await?;
        let limited = format!("{}-limited", ground.namespace);
        ground.create_namespace(&limited).await.unwrap();
        let stage = Self { ground, limited, port: process::free_port().unwrap() };
        let limits = json!({
            "allowedGVKs": [{"group": "apps", "version": "v1", "kind": "Deployment"}],
            "deniedNamespaces": ["secret"],
            "minExportInterval": "1m",
        });
        let pods = json!({"targetGVK": {"version": "v1", "kind": "Pod"}});
        stage.create(Kind::Scope, Place::Limited, "limits", &limits).await.unwrap();
        stage.create(Kind::Profile, Place::Limited, "pods", &pods).await.unwrap();
        Some(stage)
    }

    /// Limits the cluster; in the way of nobody but the rules that want it.
    async fn limit_the_cluster(&self) {
        let limits = json!({
            "allowedGVKs": [{"group": "apps", "version": "v1", "kind": "Deployment"}],
            "deniedNamespaces": ["secret"],
            "databaseSinkRefs": ["pg"],
            "allowedStaticRefNamespaces": ["platform"],
        });
        self.create(Kind::ClusterScope, Place::Open, "limits", &limits).await.unwrap();
        // Where the inventories of the cluster have their sinks.
        self.ground.create_namespace("platform").await.unwrap();
        let floor = json!({
            "apiVersion": "kollect.dev/v1alpha1", "kind": "KollectScope",
            "metadata": {"name": "limits", "namespace": "platform"}, "spec": {"minExportInterval": "1m"},
        });
        self.kubectl_apply(&floor.to_string());
    }

    fn api(&self, kind: Kind, place: Place) -> Api<DynamicObject> {
        let client = self.ground.client.clone();
        if matches!(kind, Kind::ClusterTarget | Kind::ClusterInventory | Kind::ClusterScope) {
            return Api::all_with(client, &kind.resource());
        }
        let namespace = if place == Place::Limited { &self.limited } else { &self.ground.namespace };
        Api::namespaced_with(client, namespace, &kind.resource())
    }

    async fn create(&self, kind: Kind, place: Place, name: &str, spec: &Value) -> Result<()> {
        self.post(kind, place, name, spec, &PostParams::default()).await
    }

    /// Asks whether an object would be taken.
    async fn ask(&self, rule: &Rule, spec: &Value) -> Result<()> {
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        self.post(rule.kind, rule.place, "asked", spec, &dry).await
    }

    async fn post(&self, kind: Kind, place: Place, name: &str, spec: &Value, how: &PostParams) -> Result<()> {
        let object = DynamicObject::new(name, &kind.resource()).data(json!({ "spec": spec }));
        self.api(kind, place).create(how, &object).await?;
        Ok(())
    }

    /// Returns how to start an operator with webhooks.
    fn options(&self, port: u16, more: &[&str]) -> OperatorOptions {
        let options = self.ground.operator_options();
        let options =
            options.arg("--validating-webhooks-enabled").arg(format!("--webhook-bind-address=127.0.0.1:{port}"));
        more.iter().fold(options, |options, flag| options.arg(*flag))
    }

    /// Registers the webhooks as the chart does.
    fn register(&self) {
        let by_url = webhooks_by_url(self.ground.lab().dir(), self.port).unwrap();
        let rendered = Chart::own().render(&["--post-renderer", by_url.to_str().unwrap()]).unwrap();
        let of_webhooks = |object: &Value| {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            name.contains("webhook") && object["kind"] != "Service"
        };
        let objects = Objects::parse(&rendered).unwrap().0;
        let manifests: Vec<String> = objects.into_iter().filter(of_webhooks).map(|object| object.to_string()).collect();
        assert_eq!(manifests.len(), 6, "{manifests:?}");
        self.kubectl_apply(&manifests.join("\n---\n"));
    }

    fn kubectl_apply(&self, manifests: &str) -> String {
        self.ground.api().apply(manifests).unwrap()
    }

    fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.ground.api().kubectl(args)
    }

    /// Waits until the webhooks answer with a certificate that the API server believes.
    async fn answered(&self, operators: &[&Operator]) {
        let first = rules().into_iter().find(|rule| rule.number == "V-P3 CEL").unwrap();
        let waited = wait_for("an answer of the webhooks", PATIENCE, || async {
            self.ask(&first, &first.good).await?;
            ensure!(self.ask(&first, &first.bad).await.is_err(), "nobody refuses it");
            Ok(())
        });
        waited.await.unwrap_or_else(|error| {
            let logs: Vec<String> = operators.iter().map(|operator| operator.log_tail(20)).collect();
            panic!("{error:#}\n{}", logs.join("\n"))
        });
    }

    /// Returns what each rule gets wrong.
    async fn judge(&self, rules: &[Rule], webhooks: Webhooks) -> Vec<String> {
        let mut wrong = Vec::new();
        for rule in rules {
            let number = rule.number;
            if let Err(error) = self.ask(rule, &rule.good).await {
                wrong.push(format!("{number}: what is right is refused: {error}"));
            }
            let wanted = webhooks == Webhooks::On || rule.without == Without::Schema;
            match self.ask(rule, &rule.bad).await {
                Ok(()) if wanted => wrong.push(format!("{number}: what is wrong is taken")),
                Err(error) if !wanted => wrong.push(format!("{number}: refused without the webhook: {error}")),
                Err(error) if webhooks == Webhooks::On => {
                    let said = error.to_string();
                    let ours = format!("admission webhook \"v{}.kb.io\" denied", rule.kind.as_str().to_lowercase());
                    if !said.contains(rule.says) || rule.without != Without::Schema && !said.contains(&ours) {
                        wrong.push(format!("{number}: {said}"));
                    }
                }
                Ok(()) | Err(_) => {}
            }
        }
        wrong
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Webhooks {
    On,
    Off,
}

#[tokio::test]
async fn every_rule_holds_with_webhooks_and_without_and_nothing_holds_up_a_deletion() {
    let Some(stage) = Stage::new().await else { return };
    let (open, limited): (Vec<Rule>, Vec<Rule>) = rules().into_iter().partition(|rule| rule.place == Place::Open);
    let mut wrong = stage.judge(&open, Webhooks::Off).await;

    // Two replicas, one pair, and a Secret that is empty before.
    stage.register();
    let other = process::free_port().unwrap();
    let guard = stage.ground.lab().guard();
    let mut operators = Vec::new();
    for (port, log) in [(stage.port, "one"), (other, "two")] {
        let mut options = stage.options(port, &["--leader-elect"]);
        options.log = stage.ground.lab().dir().join(format!("kollect-{log}.log"));
        operators.push(Operator::start(&options, guard).await.unwrap());
    }
    stage.answered(&operators.iter().collect::<Vec<_>>()).await;
    let made = shared_by(&operators).await;
    assert_eq!(made, 1, "each made a pair of its own");

    wrong.extend(stage.judge(&open, Webhooks::On).await);
    stage.limit_the_cluster().await;
    wrong.extend(stage.judge(&limited, Webhooks::On).await);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    said_to_people(&stage);
    deletions_pass(&stage, operators).await;
    files_are_exchanged(&stage).await;
    conditions_say_it(&stage, &open).await;
}

/// Waits until both replicas use the pair, and returns how many were made.
async fn shared_by(operators: &[Operator]) -> usize {
    let used = wait_for("a pair that both use", PATIENCE, || async {
        let logs = operators.iter().map(Operator::log).collect::<Result<Vec<_>>>()?;
        ensure!(logs.iter().all(|log| log.contains("webhook certificate in use")), "one does not use it");
        Ok(logs.iter().map(|log| log.matches("webhook certificate made").count()).sum())
    });
    used.await.unwrap()
}

/// What `kubectl` shows of a refusal and of a warning.
fn said_to_people(stage: &Stage) {
    let namespace = &stage.ground.namespace;
    let sink = |spec: &str| {
        format!(
            "apiVersion: kollect.dev/v1alpha1\nkind: KollectSnapshotSink\nmetadata: {{name: s, namespace: {namespace}}}\n\
             spec: {spec}\n"
        )
    };
    let refused =
        stage.ground.api().dry_run(&sink("{type: git, git: {branch: a//b}, options: {myToken: x}}")).unwrap_err();
    let said = format!("{refused:#}");
    assert!(said.contains("(Forbidden)") || said.contains("denied the request"), "{said}");
    assert!(said.contains(&format!("KollectSnapshotSink {namespace}/s: spec.")), "{said}");
    assert!(said.contains("spec.git.branch: \"a//b\" must not"), "{said}");
    assert!(said.contains("spec.options.myToken: looks like a credential;"), "{said}");

    // What is legal and does less than it seems to (V-P14, V-K14, V-K15).
    let profile = format!(
        "apiVersion: kollect.dev/v1alpha1\nkind: KollectProfile\nmetadata: {{name: p, namespace: {namespace}}}\nspec:\n  \
         targetGVK: {{version: v1, kind: Pod}}\n  \
         attributes: [{{name: a, path: '$.status.conditions[?(@.type==\"Ready\")].status'}}]\n"
    );
    for (manifest, warning) in [
        (profile, "Warning: spec.attributes[0].path: a comparison in a filter"),
        (
            sink("{type: git, endpoint: 'https://git.example.com/x.git'}"),
            "Warning: spec.serialization.format: is not set",
        ),
        (sink("{type: git, serialization: {format: json}}"), "Warning: spec.endpoint: is missing"),
    ] {
        let said = warned(stage, &manifest);
        assert!(said.contains(warning), "{said}");
    }
}

/// Returns what `kubectl` prints beside its answer when a manifest is taken.
fn warned(stage: &Stage, manifest: &str) -> String {
    let path = stage.ground.lab().dir().join("warned.yaml");
    std::fs::write(&path, manifest).unwrap();
    let mut kubectl = std::process::Command::new(Tool::Kubectl.path().unwrap());
    kubectl.arg("--kubeconfig").arg(stage.ground.api().admin_kubeconfig());
    let output = kubectl.args(["apply", "--dry-run=server", "-f"]).arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// With nobody to answer, a change is refused, and whatever is deleted goes, finalizers and all.
async fn deletions_pass(stage: &Stage, operators: Vec<Operator>) {
    let inventory = json!({"databaseSinkRefs": [{"name": "nowhere"}]});
    stage.create(Kind::Inventory, Place::Open, "kept", &inventory).await.unwrap();
    let namespace = stage.ground.namespace.as_str();
    let held = r#"--patch={"metadata":{"finalizers":["example.com/held"]}}"#;
    stage.kubectl(&["-n", namespace, "patch", "kinv", "kept", "--type=merge", held]).unwrap();
    for operator in operators {
        operator.kill9().await.unwrap();
    }
    let change = stage.create(Kind::Inventory, Place::Open, "another", &inventory).await.unwrap_err();
    assert!(change.to_string().contains("failed calling webhook"), "{change}");
    stage.kubectl(&["-n", namespace, "delete", "kinv", "kept", "--wait=false"]).unwrap();
    let freed = r#"--patch={"metadata":{"finalizers":null}}"#;
    stage.kubectl(&["-n", namespace, "patch", "kinv", "kept", "--type=merge", freed]).unwrap();
    let left = stage.kubectl(&["-n", namespace, "get", "kinv", "-o", "name"]).unwrap();
    assert_eq!(left.trim(), "");
}

/// Without webhooks, the objects say what is wrong with them.
async fn conditions_say_it(stage: &Stage, rules: &[Rule]) {
    stage.kubectl(&["delete", "validatingwebhookconfiguration", CONFIGURATION]).unwrap();
    let _operator = stage.ground.start_operator(&stage.ground.operator_options()).await;
    let mut said = Vec::new();
    for rule in rules {
        let Without::Condition(text) = rule.without else { continue };
        let name = rule.number.to_lowercase().replace(' ', "-");
        stage.create(rule.kind, rule.place, &name, &rule.bad).await.unwrap();
        said.push((rule, name, text));
    }
    assert!(said.len() >= 5, "{}", said.len());
    for (rule, name, text) in said {
        let told = wait_for(rule.number, PATIENCE, || async {
            let object = stage.api(rule.kind, rule.place).get(&name).await?;
            let conditions = object.data["status"]["conditions"].to_string();
            ensure!(conditions.contains(text), "{conditions}");
            Ok(())
        });
        told.await.unwrap_or_else(|error| panic!("{error:#}"));
    }
}

/// A pair that somebody brings is used, and the one that takes its place while the operator serves. That one works for a
/// team, which has no cluster kinds (V-X1).
async fn files_are_exchanged(stage: &Stage) {
    let dir = stage.ground.lab().dir().join("pair");
    std::fs::create_dir_all(&dir).unwrap();
    let believed =
        stage.kubectl(&["-n", NAMESPACE, "get", "secret", SECRET, "-o", "jsonpath={.data.ca\\.crt}"]).unwrap();
    bring(stage, &dir);
    let own = format!("--watch-namespaces={},{}", stage.ground.namespace, stage.limited);
    let pair = format!("--webhook-cert-path={}", dir.display());
    let options = stage.options(stage.port, &[&pair, "--tenant-mode", &own]);
    let operator = stage.ground.start_operator(&options).await;
    stage.answered(&[&operator]).await;
    bring(stage, &dir);
    stage.answered(&[&operator]).await;
    assert!(operator.log().unwrap().contains("serving certificate renewed"));
    let after = stage.kubectl(&["-n", NAMESPACE, "get", "secret", SECRET, "-o", "jsonpath={.data.ca\\.crt}"]).unwrap();
    assert_eq!(after, believed, "the Secret of others was written");
    for rule in rules().iter().filter(|rule| matches!(rule.number, "V-T11" | "V-I13")) {
        let refused = stage.ask(rule, &rule.good).await.unwrap_err().to_string();
        assert!(refused.contains("(--tenant-mode)"), "{refused}");
    }
}

/// Writes a new pair, and has the API server believe this one and no other.
fn bring(stage: &Stage, dir: &Path) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(dir.join("tls.crt"), made.cert.pem()).unwrap();
    std::fs::write(dir.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    let bundle = k8s_openapi::ByteString(made.cert.pem().into_bytes());
    let operations: Vec<Value> = (0..Kind::ALL.len())
        .map(|index| json!({"op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": bundle}))
        .collect();
    let patch = format!("--patch={}", Value::Array(operations));
    stage.kubectl(&["patch", "validatingwebhookconfiguration", CONFIGURATION, "--type=json", &patch]).unwrap();
}
