//! The lab itself: what it promises to all other tests.

mod git;

use std::collections::{BTreeMap, HashSet};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Pod, Secret};
use kollect::lab::load::{self, IMAGE, Kind, Load};
use kollect::lab::operator::http_get;
use kollect::lab::process::{Signal, signal_process};
use kollect::lab::wait::wait_for;
use kollect::lab::{LabOptions, control_plane};
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};

use crate::support::{Ground, lab_or_skip, repository_file};

/// Tells whether a process runs; a zombie does not.
fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Returns the HTTP status of a refused request.
fn refusal<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> u16 {
    match result {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn parts_are_the_real_ones() {
    let Some(ground) = Ground::shared("parts").await else { return };
    let version = ground.client.apiserver_version().await.unwrap();
    assert!(version.git_version.starts_with("v1.34."), "{}", version.git_version);
    assert_eq!(
        ground.postgres().psql(&ground.database, "SELECT current_setting('server_version_num')::int / 10000").unwrap(),
        "15\n"
    );
    let client = ground.api().kubectl(&["version", "--client"]).unwrap();
    assert!(client.contains(&version.git_version), "{client}");
}

#[tokio::test]
async fn deleted_namespaces_go_away() {
    let Some(ground) = Ground::shared("goes-away").await else { return };
    let namespaces: Api<Namespace> = Api::all(ground.client.clone());
    namespaces.delete(&ground.namespace, &DeleteParams::default()).await.unwrap();
    wait_for("the namespace to go away", Duration::from_mins(1), || async {
        ensure!(namespaces.get_opt(&ground.namespace).await?.is_none(), "it is still there");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn operator_reads_what_it_collects_and_changes_none_of_it() {
    let Some(ground) = Ground::shared("rights").await else { return };
    let operator = ground.api().operator_client().await.unwrap();
    let all = ListParams::default();

    Api::<Deployment>::all(operator.clone()).list(&all).await.unwrap();
    Api::<Secret>::all(operator.clone()).list(&all).await.unwrap();
    Api::<Namespace>::all(operator.clone()).list(&all).await.unwrap();

    let maps: Api<ConfigMap> = Api::namespaced(operator.clone(), &ground.namespace);
    let map =
        ConfigMap { metadata: ObjectMeta { name: Some("a".into()), ..ObjectMeta::default() }, ..ConfigMap::default() };
    assert_eq!(refusal(maps.create(&PostParams::default(), &map).await), 403);
    assert_eq!(refusal(maps.delete("a", &DeleteParams::default()).await), 403);
    assert_eq!(refusal(Api::<Pod>::all(operator.clone()).list(&all).await), 403);
    let secrets: Api<Secret> = Api::namespaced(operator, &ground.namespace);
    let patch = Patch::Merge(serde_json::json!({"stringData": {"a": "b"}}));
    assert_eq!(refusal(secrets.patch("a", &PatchParams::default(), &patch).await), 403);
}

#[tokio::test]
async fn nobody_is_anonymous_but_for_the_probes() {
    let Some(ground) = Ground::shared("anonymous").await else { return };
    let kubeconfig = std::fs::read_to_string(ground.api().admin_kubeconfig()).unwrap();
    let mut kubeconfig: serde_json::Value = serde_json::from_str(&kubeconfig).unwrap();
    kubeconfig["users"][0]["user"] = serde_json::json!({});
    let path = ground.lab().dir().join("anonymous.kubeconfig");
    std::fs::write(&path, kubeconfig.to_string()).unwrap();
    let anonymous = control_plane::client(&path).await.unwrap();

    anonymous.request_text(http::Request::get("/readyz").body(Vec::new()).unwrap()).await.unwrap();
    assert_eq!(refusal(anonymous.apiserver_version().await), 401);
}

#[tokio::test]
async fn every_write_of_the_operator_is_on_record() {
    // A lab of its own: operators of other tests write too.
    let Some(ground) = Ground::own("record").await else { return };
    let events: Api<Event> = Api::namespaced(ground.api().operator_client().await.unwrap(), &ground.namespace);
    assert_eq!(ground.api().operator_writes().unwrap(), []);

    let mut event =
        Event { metadata: ObjectMeta { name: Some("e".into()), ..ObjectMeta::default() }, ..Event::default() };
    event.involved_object.namespace = Some(ground.namespace.clone());
    events.create(&PostParams::default(), &event).await.unwrap();
    events.delete("e", &DeleteParams::default()).await.unwrap_err();

    let writes = ground.api().operator_writes().unwrap();
    let seen: Vec<_> = writes.iter().map(|write| (write.verb.as_str(), write.resource.as_str(), write.code)).collect();
    assert_eq!(seen, [("create", "events", 201), ("delete", "events", 403)]);
    assert_eq!(writes[0].namespace, ground.namespace);
}

#[tokio::test]
async fn kustomization_holds_the_rights_that_the_lab_grants() {
    let Some(ground) = Ground::shared("kustomization").await else { return };
    let dir = repository_file("config/rbac");
    let rendered = ground.api().kubectl(&["kustomize", dir.to_str().unwrap()]).unwrap();
    let difference =
        ground.api().kubectl(&["diff", "--server-side", "--force-conflicts", "-k", dir.to_str().unwrap()]).unwrap();
    assert_eq!(rendered.matches("\nkind: ").count(), 7, "{rendered}");
    assert_eq!(difference, "");
}

#[tokio::test]
async fn api_server_and_database_come_back_on_their_ports() {
    let Some(ground) = Ground::own("outage").await else { return };
    let postgres = ground.postgres();
    let database = ground.connect().await;
    database.batch_execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1)").await.unwrap();

    ground.api().stop_api_server().await.unwrap();
    ground.client.apiserver_version().await.unwrap_err();
    ground.api().start_api_server().await.unwrap();
    ground.client.apiserver_version().await.unwrap();

    ground.api().stop_etcd().await.unwrap();
    ground.api().start_etcd().await.unwrap();
    Api::<Namespace>::all(ground.client.clone()).get(&ground.namespace).await.unwrap();

    postgres.stop().await.unwrap();
    postgres.connect(&ground.database).await.unwrap_err();
    postgres.restart().await.unwrap();
    assert_eq!(postgres.count(&ground.connect().await, "t").await.unwrap(), 1);
}

#[tokio::test]
async fn row_writes_are_counted_exactly() {
    let Some(ground) = Ground::shared("counters").await else { return };
    let database = ground.connect().await;
    assert_eq!(ground.postgres().count(&database, "t").await.unwrap(), 0, "a table that does not exist has no rows");
    database.batch_execute("CREATE TABLE t (a int); INSERT INTO t SELECT generate_series(1, 5)").await.unwrap();
    let before = ground.postgres().row_writes(&database, "t").await.unwrap();
    database.batch_execute("UPDATE t SET a = 9 WHERE a = 1; DELETE FROM t WHERE a IN (2, 3)").await.unwrap();
    let after = ground.postgres().row_writes(&database, "t").await.unwrap().since(before);

    assert_eq!((before.inserted, before.total()), (5, 5));
    assert_eq!((after.inserted, after.updated, after.deleted), (0, 1, 2));
    assert_eq!(ground.postgres().count(&database, "t").await.unwrap(), 3);
}

#[tokio::test]
async fn load_creates_skips_patches_and_deletes() {
    let Some(ground) = Ground::shared("load").await else { return };
    let load = Load { namespaces: 3, per_namespace: 10, prefix: format!("{}-", ground.namespace), ..Load::default() };
    let client = &ground.client;

    let half = Load { per_namespace: 5, ..load.clone() };
    assert_eq!(half.create(client).await.unwrap().written, 15);
    let summary = load.create(client).await.unwrap();
    assert_eq!((summary.written, summary.skipped), (15, 15));

    let patched = load.choose(6);
    let (summary, changes) = load.patch(client, patched.clone(), 1).await.unwrap();
    assert_eq!(summary.written, 6);
    assert_eq!(changes.len(), 6);
    let gone = load.choose(4);
    assert_eq!(load.delete(client, gone.clone()).await.unwrap().written, 4);
    assert_eq!(load.delete(client, gone.clone()).await.unwrap().written, 4, "deleting again is fine");

    let mut images = BTreeMap::new();
    for index in 0..load.namespaces {
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), &load.namespace(index));
        for deployment in deployments.list(&ListParams::default()).await.unwrap() {
            let image = deployment.spec.clone().unwrap().template.spec.unwrap().containers[0].image.clone().unwrap();
            images.insert((load.namespace(index), deployment.name_any()), image);
        }
    }
    let gone: HashSet<_> = gone.into_iter().collect();
    let expected = (0..load.total()).filter(|object| !gone.contains(object)).map(|object| {
        let turn = patched.iter().position(|one| *one == object);
        let image = turn.map_or_else(|| IMAGE.to_owned(), |turn| format!("registry.k8s.io/pause:r1-{turn}"));
        (load.object(object), image)
    });
    assert_eq!(images, expected.collect());
}

#[tokio::test]
async fn loaded_objects_have_the_size_of_real_ones() {
    let Some(ground) = Ground::shared("size").await else { return };
    for (kind, resource, path, bytes) in [
        (Kind::Deployment, "deployments.apps", "/apis/apps/v1/namespaces/{}/deployments", 4_600..5_600),
        (Kind::Configmap, "configmaps", "/api/v1/namespaces/{}/configmaps", 700..1_500),
    ] {
        let prefix = format!("{}-", ground.namespace);
        let load = Load { kind, namespaces: 1, per_namespace: 50, prefix, ..Load::default() };
        load.create(&ground.client).await.unwrap();
        let path = path.replace("{}", &load.namespace(0));
        let list = ground.client.request_text(http::Request::get(path).body(Vec::new()).unwrap()).await.unwrap();
        assert!(bytes.contains(&(list.len() / load.total())), "{} bytes per {resource}", list.len() / load.total());
        let raw = load::raw_list(&ground.client, resource).await.unwrap();
        assert!(raw.bytes >= list.len(), "a list of all namespaces is shorter than that of one");
    }
}

#[tokio::test]
async fn dropping_a_lab_ends_all_parts_and_removes_the_directory() {
    let Some(lab) = lab_or_skip(LabOptions::default()).await else { return };
    let mut pids: Vec<u32> = lab.api().pids().into_iter().map(|(_, pid)| pid).collect();
    pids.extend(lab.postgres().pid());
    let dir = lab.dir().to_owned();
    assert_eq!(pids.len(), 4);
    assert!(pids.iter().all(|pid| alive(*pid)));

    drop(lab);

    assert!(pids.iter().all(|pid| !alive(*pid)));
    assert!(!dir.exists());
}

#[tokio::test]
async fn nothing_outlives_a_starter_that_is_killed() {
    let Some(ground) = Ground::shared("killed").await else { return };
    let dir = ground.lab().dir().join("killed");
    let mut starter = Command::new(env!("CARGO_BIN_EXE_kollect-lab"))
        .args(["up", "--dir", dir.to_str().unwrap()])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let env = wait_for("the other lab", Duration::from_mins(2), || async {
        std::fs::read_to_string(dir.join("lab.env")).context("it is not ready")
    });
    let pids: Vec<u32> = env
        .await
        .unwrap()
        .lines()
        .filter_map(|line| line.split_once("_PID="))
        .map(|(_, pid)| pid.parse().unwrap())
        .collect();
    assert_eq!(pids.len(), 5);
    assert!(pids.iter().all(|pid| alive(*pid)));

    signal_process(starter.id(), Signal::Kill).unwrap();
    starter.wait().unwrap();

    wait_for("the guard to clean up", Duration::from_secs(20), || async {
        ensure!(pids.iter().all(|pid| !alive(*pid)), "a part still runs");
        ensure!(!dir.exists(), "the directory is still there");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn detached_lab_is_ended_by_its_directory() {
    let Some(ground) = Ground::shared("detached").await else { return };
    let dir = ground.lab().dir().join("detached");
    let run = |verb: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_kollect-lab")).args(verb).args(["--dir", dir.to_str().unwrap()]).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let env = run(&["up", "--no-postgres", "--detach"]);
    let kubeconfig = env.lines().find_map(|line| line.strip_prefix("KUBECONFIG=")).unwrap();
    control_plane::client(kubeconfig.as_ref()).await.unwrap().apiserver_version().await.unwrap();
    run(&["down"]);
    assert!(!dir.exists());
}

#[tokio::test]
async fn metrics_page_of_a_silent_port_is_an_error() {
    let port = kollect::lab::process::free_port().unwrap();
    let error = http_get(&format!("127.0.0.1:{port}"), "/metrics").await.unwrap_err();
    assert!(error.to_string().starts_with("failed to connect"), "{error}");
}
