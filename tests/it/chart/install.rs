//! Install, upgrade, uninstall, as the pages say, on a real cluster. There are no nodes, so the test is the kubelet: it runs
//! what was installed with exactly its flags, its variables and its ServiceAccount.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kollect::lab::Operator;
use kollect::lab::helm::{NAMESPACE, Objects, webhooks_by_url};
use kollect::lab::load::Load;
use kollect::lab::operator::Metrics;
use kollect::lab::process;
use kollect::lab::wait::wait_for;

use super::page::{Reader, Step, split_after, steps};
use crate::operator::{Job, PATIENCE};
use crate::support::Ground;

const INSTALLATION: &str = "docs/installation.md";
const SYNCED: &str =
    r#"kollect_binding_synced{inventory_namespace="demo",inventory_name="demo",sink="database/postgres"}"#;
/// Three namespaces of twenty Deployments, and that of the operator itself.
const ROWS: i64 = 61;

/// A cluster on which nobody has installed anything yet, with something to collect.
struct Cluster {
    ground: Ground,
    load: Load,
}

impl Cluster {
    async fn new(name: &str) -> Option<Self> {
        let ground = Ground::own(name).await?;
        let load = Job::load(3, 20);
        load.create(&ground.client).await.unwrap();
        // What the lab made for operators that are not installed by anybody.
        ground.api().kubectl(&["delete", "-k", "config/rbac"]).unwrap();
        // The namespace first: its controller looks for the kinds that it knows of, and waits long for one that just went.
        ground.api().kubectl(&["delete", "namespace", NAMESPACE]).unwrap();
        ground.api().kubectl(&["delete", "-f", "crds/"]).unwrap();
        Some(Self { ground, load })
    }

    /// Returns a reader of the pages, with what is different here: the database, and where this machine has free ports.
    fn reader(&self) -> Reader<'_> {
        let mut reader = Reader::new(&self.ground).unwrap();
        let [metrics, probes, webhooks] = [(); 3].map(|()| process::free_port().unwrap());
        let by_url = webhooks_by_url(self.ground.lab().dir(), webhooks).unwrap();
        let by_url = format!("--post-renderer {}", by_url.display());
        let here = format!(
            "--set allowPrivateSinks=true --set metrics.bindAddress=:{metrics} \
             --set 'extraArgs={{--allow-loopback-sinks,--zap-devel=false,--health-probe-bind-address=:{probes},\
             --webhook-bind-address=:{webhooks}}}' {by_url}"
        );
        let dsn = "postgres://kollect:…@db.example.com:5432/inventory?sslmode=verify-full";
        reader.instead = vec![
            ("--set allowPrivateSinks=true".to_owned(), here),
            ("--reset-then-reuse-values".to_owned(), format!("--reset-then-reuse-values {by_url}")),
            (dsn.to_owned(), self.ground.dsn()),
        ];
        reader
    }

    /// Runs the container of the release.
    async fn operator(&self, reader: &Reader<'_>) -> Operator {
        let manifest = reader.run(&format!("helm get manifest kollect --namespace {NAMESPACE}")).unwrap();
        let objects = Objects::parse(&manifest).unwrap();
        let account = objects.pod().unwrap()["serviceAccountName"].as_str().unwrap().to_owned();
        let kubeconfig = self.ground.api().service_account_kubeconfig(NAMESPACE, &account).await.unwrap();
        let log = self.ground.lab().dir().join("installed.log");
        let options = objects.run_options(env!("CARGO_BIN_EXE_kollect").as_ref(), &kubeconfig, &log).unwrap();
        assert_eq!(options.args, objects.args().unwrap());
        let mut operator = Operator::spawn_container(&options, self.ground.lab().guard()).unwrap();
        operator.ready(Duration::from_secs(30)).await.unwrap();
        operator
    }

    /// Waits until the table of the page has so many rows.
    async fn rows(&self, want: i64) {
        let database = self.ground.connect().await;
        let what = format!("{want} rows");
        let counted = wait_for(&what, PATIENCE, || async {
            let have = self.ground.postgres().count(&database, "kollect_rows").await?;
            ensure!(have == want, "there are {have}");
            Ok(())
        });
        let look = ["get", "kollecttargets,kollectinventories", "-A", "-o", "yaml"];
        counted
            .await
            .unwrap_or_else(|error| panic!("{error:#}\n{}", self.ground.api().kubectl(&look).unwrap_or_default()));
    }

    /// Returns the time of the last change of any row.
    async fn last_change(&self) -> String {
        let database = self.ground.connect().await;
        database.query_one("SELECT max(exported_at)::text FROM kollect_rows", &[]).await.unwrap().get(0)
    }

    /// Fails if the operator was ever refused something.
    fn nothing_was_refused(&self, operator: &Operator) {
        let writes = self.ground.api().operator_writes().unwrap();
        let refused: Vec<_> = writes.iter().filter(|write| write.code == 403).collect();
        assert!(!writes.is_empty() && refused.is_empty(), "{refused:?}");
        let log = operator.log().unwrap();
        assert!(!log.contains("orbidden") && !log.contains("403"), "{log}");
    }

    fn inventory_is_there(&self) -> bool {
        let get = ["-n", "demo", "get", "kollectinventory", "demo", "--ignore-not-found", "-o", "name"];
        !self.ground.api().kubectl(&get).unwrap().trim().is_empty()
    }
}

/// Returns the manifests among some steps.
fn manifests(steps: &[Step]) -> Vec<Step> {
    steps.iter().filter(|step| matches!(step, Step::Manifests(_))).cloned().collect()
}

#[tokio::test]
async fn the_pages_lead_from_an_empty_cluster_to_rows_through_an_upgrade_and_back() {
    let Some(cluster) = Cluster::new("install").await else { return };
    let reader = cluster.reader();
    let page = steps("docs/getting-started.md", "# Getting started").unwrap();
    let (install, to_rows) = split_after(&page, "helm install").unwrap();

    // Install. The notes warn of nothing.
    let printed = reader.take(install.last().unwrap()).unwrap();
    assert!(printed.contains("STATUS: deployed") && !printed.contains("WARNING"), "{printed}");
    let definitions = cluster.ground.api().kubectl(&["get", "crds", "-o", "name"]).unwrap();
    assert_eq!(definitions.lines().filter(|line| line.ends_with(".kollect.dev")).count(), kollect::api::crds().len());
    let operator = cluster.operator(&reader).await;

    // What a reader does from there on leads to rows, before a look at them.
    let (before, look) = to_rows.split_at(to_rows.iter().position(|step| matches!(step, Step::Query(_))).unwrap());
    reader.take_all(before).unwrap();
    cluster.rows(ROWS).await;
    for step in look {
        let printed = reader.take(step).unwrap();
        match step {
            Step::Query(query) if query.contains("_state") => {
                assert!(printed.contains(&format!("|{ROWS}|")), "{printed}");
            }
            Step::Query(_) => assert_eq!(printed.lines().count(), 61, "{printed}"),
            Step::Command(_) | Step::Manifests(_) => assert!(!printed.is_empty(), "{step:?}"),
        }
    }
    synced(&reader, &operator).await;
    cluster.nothing_was_refused(&operator);

    let operator = upgrade(&cluster, &reader, operator).await;
    uninstall(&cluster, &reader, operator).await;
}

/// Waits until the binding is synced, as Prometheus would see it: over HTTPS, with a token of the operator's account.
async fn synced(reader: &Reader<'_>, operator: &Operator) {
    let token = reader.run("kubectl -n kollect-system create token kollect-controller-manager").unwrap();
    let request = format!(
        "printf 'GET /metrics HTTP/1.0\\r\\nAuthorization: Bearer {}\\r\\n\\r\\n' \
         | openssl s_client -quiet -connect {}",
        token.trim(),
        operator.metrics_address()
    );
    let waited = wait_for("a binding that is synced", PATIENCE, || async {
        let answer = reader.run(&request)?;
        ensure!(Metrics::parse(&answer).get(SYNCED) == Some(1.0), "{answer}");
        Ok(())
    });
    waited.await.unwrap_or_else(|error| panic!("{error:#}\n{}", operator.log_tail(20)));
}

/// Upgrades from a release with an older definition; nothing is written on account of it.
async fn upgrade(cluster: &Cluster, reader: &Reader<'_>, operator: Operator) -> Operator {
    let api = cluster.ground.api();
    let definition = "crd/kollectscopes.kollect.dev";
    let description = "/spec/versions/0/schema/openAPIV3Schema/description";
    let patch = format!(r#"[{{"op": "replace", "path": "{description}", "value": "older"}}]"#);
    api.kubectl(&["patch", definition, "--field-manager=helm", "--type=json", "--patch", &patch]).unwrap();
    let before = cluster.last_change().await;

    for step in steps(INSTALLATION, "## Upgrade").unwrap() {
        let Step::Command(command) = step else { panic!("{step:?}") };
        let more = if command.starts_with("helm") {
            " --set collect.dispatchWorkers=6 --set resourcesProfile=large"
        } else {
            ""
        };
        reader.run(&format!("{command}{more}")).unwrap();
    }
    let jsonpath = "jsonpath={.spec.versions[0].schema.openAPIV3Schema.description}";
    assert_ne!(api.kubectl(&["get", definition, "-o", jsonpath]).unwrap(), "older");

    // The Deployment replaces its pod. Without a network of its own, the new one cannot stand by while the old one ends.
    assert!(operator.terminate().await.unwrap().success());
    let next = cluster.operator(reader).await;
    synced(reader, &next).await;
    assert_eq!(cluster.last_change().await, before);
    cluster.load.delete(&cluster.ground.client, vec![0]).await.unwrap();
    // Sooner than the interval of the page, unless the annotation is seen before the change.
    api.kubectl(&["-n", "demo", "annotate", "kollectinventory", "demo", "kollect.dev/export-now=now"]).unwrap();
    cluster.rows(ROWS - 1).await;
    next
}

/// Uninstalls in the order of the page, and nothing is left.
async fn uninstall(cluster: &Cluster, reader: &Reader<'_>, operator: Operator) {
    let all = steps(INSTALLATION, "## Uninstall").unwrap();
    let (inventories, rest) = split_after(&all, "kubectl delete kollectinventories").unwrap();
    let (rest, _) = split_after(rest, "kubectl delete -f crds/").unwrap();
    reader.take_all(inventories).unwrap();
    cluster.rows(0).await;
    cluster.nothing_was_refused(&operator);
    assert!(operator.terminate().await.unwrap().success());
    reader.take_all(rest).unwrap();
    let left = reader
        .run("kubectl get clusterroles,clusterrolebindings,crds -o name | grep kollect; kubectl get namespaces -o name")
        .unwrap();
    assert!(!left.contains("kollect"), "{left}");
}

#[tokio::test]
async fn inventories_that_outlive_the_operator_can_be_let_go() {
    let Some(cluster) = Cluster::new("uninstall").await else { return };
    let reader = cluster.reader();
    let page = steps("docs/getting-started.md", "# Getting started").unwrap();
    let (install, to_rows) = split_after(&page, "helm install").unwrap();
    let uninstall = "helm uninstall kollect --namespace kollect-system";
    reader.take_all(install).unwrap();
    let operator = cluster.operator(&reader).await;
    let (set_up, _) = split_after(to_rows, "create secret").unwrap();
    reader.take_all(set_up).unwrap();
    reader.take_all(&manifests(to_rows)).unwrap();
    cluster.rows(ROWS).await;

    // Taken away for a while: resources and rows stay.
    assert!(operator.terminate().await.unwrap().success());
    reader.run(uninstall).unwrap();
    assert!(cluster.inventory_is_there());
    cluster.rows(ROWS).await;

    // Deleted without it, the inventory waits, and the next operator lets it go.
    stuck(&reader, &cluster).unwrap();
    reader.take_all(install).unwrap();
    let operator = cluster.operator(&reader).await;
    cluster.rows(0).await;
    reader.run("kubectl -n demo wait --for=delete kollectinventory/demo --timeout=60s").unwrap();

    // The same, and no next operator: as the page says.
    reader.take_all(&manifests(to_rows)).unwrap();
    cluster.rows(ROWS).await;
    assert!(operator.terminate().await.unwrap().success());
    reader.run(uninstall).unwrap();
    stuck(&reader, &cluster).unwrap();
    reader.take_all(&steps(INSTALLATION, "### The operator went first").unwrap()).unwrap();
    assert!(!cluster.inventory_is_there());
    cluster.rows(ROWS).await;
    reader.run("kubectl delete -f crds/ --timeout=60s").unwrap();
}

/// Deletes the inventory while nobody answers its finalizer.
fn stuck(reader: &Reader<'_>, cluster: &Cluster) -> Result<()> {
    let refused = reader.run("kubectl -n demo delete kollectinventory demo --timeout=1s");
    let error = refused.err().context("the inventory is gone")?;
    ensure!(format!("{error:#}").contains("timed out"), "{error:#}");
    ensure!(cluster.inventory_is_there(), "the inventory is gone");
    Ok(())
}
