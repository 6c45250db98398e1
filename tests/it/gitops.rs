//! Git sinks end to end: the operator as a process, a real API server, and git behind HTTPS with a token and a private
//! authority. What is in the repositories is read by the git command line, and compared with the cluster.
//!
//! Every inventory here writes three places: a table, one document, and a file per row.

mod access;
mod fleet;
mod interval;
mod leaving;
mod ledger;
mod restart;
mod roll_up;
mod ssh;
mod unknown;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use kollect::lab::Operator;
use kollect::lab::git::{BRANCH, Commit, HttpServer, Repositories, Repository, Scheme};
use kollect::lab::load::Load;
use kollect::lab::operator::OperatorOptions;
use kollect::lab::wait::wait_for;
use tokio::time::Duration;

use crate::operator::{Job, PATIENCE};

const USER: &str = "kollect";
const TOKEN: &str = "glpat-0123456789";
/// The document of the inventory `all`, below the namespace of the test.
const DOCUMENT: &str = "all.yaml";

/// A job with two repositories beside its table.
struct Bench {
    job: Job,
    cluster: &'static str,
    repositories: Arc<Repositories>,
    server: Arc<HttpServer>,
    /// Has a document of all rows.
    document: Repository,
    /// Has a file for each row.
    tree: Repository,
}

impl Bench {
    async fn new(name: &str) -> Option<Self> {
        let job = Job::new(name).await?;
        let repositories = Arc::new(Repositories::new().unwrap());
        let server = Arc::new(HttpServer::start(&repositories, Scheme::Https).unwrap());
        server.require_login(USER, TOKEN).unwrap();
        let document = repositories.create("document").unwrap();
        let tree = repositories.create("tree").unwrap();
        let bench = Self { job, cluster: "test", repositories, server, document, tree };
        bench.job.apply(&bench.manifests()).unwrap();
        Some(bench)
    }

    /// Returns a bench of another cluster that writes the same repositories.
    async fn beside(&self, name: &str, cluster: &'static str) -> Option<Self> {
        let job = Job::new(name).await?;
        let (repositories, server) = (self.repositories.clone(), self.server.clone());
        let bench =
            Self { job, cluster, repositories, server, document: self.document.clone(), tree: self.tree.clone() };
        bench.job.apply(&bench.manifests()).unwrap();
        Some(bench)
    }

    /// The same with objects, and an operator that has brought all of them everywhere.
    async fn filled(name: &str, namespaces: usize, each: usize) -> Option<(Self, Load, Operator)> {
        let bench = Self::new(name).await?;
        let load = Job::load(namespaces, each);
        load.create(&bench.job.ground.client).await.unwrap();
        let operator = bench.operator().await;
        bench.equals_the_cluster().await;
        bench.job.condition("kinv/all", "Ready", "Exported").await;
        Some((bench, load, operator))
    }

    /// What a git sink needs beside [`Job::manifests`], and an inventory that names all three sinks.
    fn manifests(&self) -> String {
        let (namespace, cluster) = (self.job.namespace(), self.cluster);
        let ca = self.server.ca_pem().replace('\n', "\n    ");
        format!(
            r"{}
---
apiVersion: v1
kind: Secret
metadata: {{name: authority, namespace: {namespace}}}
stringData:
  ca.crt: |
    {ca}
---
{}
---
{}
---
apiVersion: kollect.dev/v1alpha1
kind: KollectInventory
metadata: {{name: all, namespace: {namespace}}}
spec:
  exportMinInterval: 0s
  databaseSinkRefs: [{{name: pg}}]
  snapshotSinkRefs: [{{name: document}}, {{name: tree}}]
",
            self.secret(TOKEN),
            self.sink("document", &format!("type: git, cluster: {cluster}"), &self.document),
            self.sink("tree", &format!("type: git, cluster: {cluster}, layout: {{mode: perResource}}"), &self.tree),
        )
    }

    fn secret(&self, token: &str) -> String {
        let namespace = self.job.namespace();
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: bot, namespace: {namespace}}}\n\
             stringData: {{username: {USER}, token: \"{token}\"}}\n"
        )
    }

    fn sink(&self, name: &str, spec: &str, repository: &Repository) -> String {
        let (namespace, url) = (self.job.namespace(), self.server.url(repository));
        format!(
            "apiVersion: kollect.dev/v1alpha1\nkind: KollectSnapshotSink\n\
             metadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{{spec}, endpoint: '{url}', secretRef: {{name: bot}}, tls: {{caSecretRef: {{name: authority}}}}}}\n"
        )
    }

    /// Where the operator has its mirrors.
    fn mirrors(&self) -> PathBuf {
        self.repositories.dir().join(format!("mirrors-{}", self.cluster))
    }

    fn options(&self) -> OperatorOptions {
        // Without audits, so that none of them mends what a delivery lost.
        let mut options = self.job.ground.operator_options().arg("--sink-audit-interval=0");
        let mirrors = self.mirrors();
        options.env.push(("KOLLECT_GIT_MIRROR_DIR".to_owned(), mirrors.to_string_lossy().into_owned()));
        options
    }

    async fn operator(&self) -> Operator {
        self.job.ground.start_operator(&self.options()).await
    }

    fn both(&self) -> [&Repository; 2] {
        [&self.document, &self.tree]
    }

    /// Returns the files of a repository's branch; none where there is no branch.
    fn files(repository: &Repository) -> Result<BTreeMap<String, String>> {
        if repository.tip(BRANCH)?.is_none() {
            return Ok(BTreeMap::new());
        }
        let files = repository.files(BRANCH)?.into_iter();
        files.map(|(path, content)| Ok((path, String::from_utf8(content)?))).collect()
    }

    fn paths(repository: &Repository) -> Result<Vec<String>> {
        Ok(Self::files(repository)?.into_keys().collect())
    }

    fn log(repository: &Repository) -> Vec<Commit> {
        repository.log(BRANCH).unwrap()
    }

    /// Returns the refs of both repositories: equal refs mean that nothing was pushed.
    fn refs(&self) -> [BTreeMap<String, String>; 2] {
        self.both().map(|repository| repository.refs().unwrap())
    }

    /// Waits until the files of a branch are these.
    async fn has_paths(&self, repository: &Repository, want: &[String]) {
        self.becomes(&format!("the files {want:?}"), || {
            let have = Self::paths(repository)?;
            ensure!(have == want, "there are {have:?}");
            Ok(())
        })
        .await;
    }

    /// Waits until a repository has the ref of this inventory of this cluster, or of none.
    async fn has_owners(&self, repository: &Repository, want: &[&str]) {
        let want: Vec<String> =
            want.iter().map(|owner| format!("refs/kollect/{owner}").replace("NS", self.job.namespace())).collect();
        self.becomes(&format!("the refs {want:?}"), || {
            let refs = repository.refs()?;
            let have: Vec<&String> = refs.keys().filter(|name| name.starts_with("refs/kollect/")).collect();
            ensure!(have == want.iter().collect::<Vec<_>>(), "there are {have:?}");
            Ok(())
        })
        .await;
    }

    /// Waits for what is seen without waiting.
    async fn becomes(&self, what: &str, mut attempt: impl FnMut() -> Result<()>) {
        let came = wait_for(what, PATIENCE, || {
            let outcome = attempt();
            async { outcome }
        });
        came.await.unwrap_or_else(|error| {
            let tail = kollect::lab::process::tail(&self.options().log, 20);
            panic!("{error:#}\n{}\n{tail}", self.job.describe())
        });
    }

    /// Returns the path of a Deployment in the tree.
    fn path(load: &Load, index: usize) -> String {
        let (namespace, name) = load.object(index);
        format!("test/{namespace}/deployment/{name}.yaml")
    }

    /// Returns the items of all files, ascending.
    fn all_items(repository: &Repository) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for (path, text) in Self::files(repository)? {
            all.extend(items(&text).with_context(|| path)?);
        }
        all.sort();
        Ok(all)
    }

    /// Compares document and tree with the cluster, by UID, name and image.
    fn compare(&self) -> Result<()> {
        let want = self.job.objects()?;
        for repository in self.both() {
            let have = Self::all_items(repository)?;
            let name = repository.name();
            ensure!(want == have, "{} objects, {} items in {name}", want.len(), have.len());
        }
        Ok(())
    }

    /// Waits until table, document and tree equal the cluster.
    async fn equals_the_cluster(&self) {
        self.job.equals_the_cluster().await;
        self.becomes("the repositories equal the cluster", || self.compare()).await;
    }

    /// Waits until this process has everything everywhere, by what it says itself.
    async fn synced(&self, operator: &Operator) {
        self.job.synced(operator, &["database/pg", "snapshot/document", "snapshot/tree"]).await;
    }

    /// Lets a person edit a file of ours in each repository, and an audit undo that and nothing else.
    async fn hand_edits_are_undone(&self, load: &Load) {
        let document = format!("inventory/{}/{DOCUMENT}", self.job.namespace());
        let edited = [(&self.document, document), (&self.tree, Self::path(load, 0))];
        for (repository, path) in &edited {
            repository.human("ann", BRANCH).unwrap().edit(path, "edited: true\n", "edit").unwrap();
        }
        let before = self.both().map(|repository| Self::log(repository).len());
        self.job.annotate("kinv/all", "kollect.dev/audit-now=edited");
        self.equals_the_cluster().await;
        for ((repository, path), before) in edited.iter().zip(before) {
            let log = Self::log(repository);
            assert_eq!(log.len(), before + 1, "{log:?}");
            assert_eq!(&touched(repository, &log[0].id), std::slice::from_ref(path));
        }
    }

    fn set_image(&self, (namespace, name): &(String, String), image: &str) {
        self.job.kubectl(&["-n", namespace, "set", "image", &format!("deployment/{name}"), &format!("*={image}")]);
    }

    fn delete(&self, (namespace, name): &(String, String)) {
        self.job.kubectl(&["-n", namespace, "delete", &format!("deployment/{name}")]);
    }

    /// Checks what holds of every history that the operator wrote alone.
    fn is_sound(&self) {
        for repository in self.both() {
            repository.fsck().unwrap();
            assert!(repository.is_linear(BRANCH).unwrap());
            let trees = run_git(repository, &["log", "--format=%T", BRANCH]);
            let trees: Vec<&str> = trees.lines().collect();
            assert!(trees.windows(2).all(|pair| pair[0] != pair[1]), "{}: an empty commit", repository.name());
        }
    }
}

/// Returns the files that a commit touches.
fn touched(repository: &Repository, commit: &str) -> Vec<String> {
    let args = ["diff-tree", "--root", "--no-commit-id", "--name-only", "-r", commit];
    run_git(repository, &args).lines().map(str::to_owned).collect()
}

fn run_git(repository: &Repository, args: &[&str]) -> String {
    let output = repository.git().args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Returns UID, name and image of the items of a file, by the lines that have them.
fn items(text: &str) -> Result<Vec<String>> {
    let text = text.split_once("\nitems:").map_or(text, |(_, items)| items);
    let values = |key: &str| -> Vec<String> {
        let of_line = |line: &str| {
            let (name, value) = line.trim_start_matches([' ', '-']).split_once(": ")?;
            (name == key).then(|| value.trim_matches(['"', '\'']).to_owned())
        };
        text.lines().filter_map(of_line).collect()
    };
    let [uids, names, images] = ["uid", "name", "image"].map(values);
    ensure!(uids.len() == names.len() && names.len() == images.len(), "an odd file:\n{text}");
    Ok(uids.iter().zip(names).zip(images).map(|((uid, name), image)| format!("{uid} {name} {image}")).collect())
}

#[tokio::test]
async fn a_change_is_one_commit_that_touches_one_file_and_no_change_is_no_request() {
    let Some((bench, load, operator)) = Bench::filled("git-changes", 2, 10).await else { return };
    let (job, namespace) = (&bench.job, bench.job.namespace());
    bench.synced(&operator).await;
    let document = format!("inventory/{namespace}/{DOCUMENT}");
    assert_eq!(Bench::paths(&bench.document).unwrap(), std::slice::from_ref(&document));
    let mut paths: Vec<String> = (0..20).map(|index| Bench::path(&load, index)).collect();
    paths.sort();
    assert_eq!(Bench::paths(&bench.tree).unwrap(), paths);

    // What the status says of it.
    job.condition("kinv/all", "Synced", "Exported").await;
    job.places(3).await;
    let status = job.status("kinv/all");
    for (name, repository) in [("snapshot/document", &bench.document), ("snapshot/tree", &bench.tree)] {
        let exports = status["sinkExports"].as_array().unwrap();
        let export = exports.iter().find(|export| export["name"] == name).unwrap();
        let checksum = export["lastChecksum"].as_str().unwrap_or_default();
        assert!(!checksum.is_empty() && export["lastExportTime"].is_string(), "{export}");
        let places = status["destinations"].as_array().unwrap();
        let place = places.iter().find(|place| place["sink"] == name).unwrap();
        assert_eq!(place["type"], "git");
        let said = place["description"].as_str().unwrap_or_default();
        assert_eq!(said, format!("{}#branch={BRANCH}", bench.server.url(repository)));
    }
    job.condition("ksnap/document", "ConnectionVerified", "ConnectionOK").await;
    job.condition("ksnap/tree", "ConnectionVerified", "ConnectionOK").await;
    let listed = job.kubectl(&["-n", namespace, "get", "ksnap", "--no-headers"]);
    let words: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    assert_eq!(words, [["document", "git", "True"], ["tree", "git", "True"]]);

    // One object.
    let before = bench.both().map(|repository| Bench::log(repository).len());
    bench.set_image(&load.object(3), "changed:1");
    bench.equals_the_cluster().await;
    for (repository, (path, before)) in
        bench.both().into_iter().zip([(document, before[0]), (Bench::path(&load, 3), before[1])])
    {
        let log = Bench::log(repository);
        assert_eq!(log.len(), before + 1, "{log:?}");
        assert_eq!(touched(repository, &log[0].id), [path]);
        assert!(log[0].message.contains(&format!("chore(test/{namespace}/all): export 20 items @ ")), "{log:?}");
    }
    bench.delete(&load.object(4));
    bench.equals_the_cluster().await;
    assert!(!Bench::paths(&bench.tree).unwrap().contains(&Bench::path(&load, 4)));
    bench.has_owners(&bench.document, &["test/NS/all"]).await;
    bench.has_owners(&bench.tree, &["test/NS/all"]).await;
    bench.hand_edits_are_undone(&load).await;
    bench.synced(&operator).await;

    // Silence: what works is neither asked nor written.
    let (refs, counts) = (bench.refs(), bench.server.counts());
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(bench.refs(), refs);
    assert_eq!(bench.server.counts(), counts);
    bench.is_sound();
    assert!(!operator.log().unwrap().contains(TOKEN), "a credential in the log");
    operator.terminate().await.unwrap();
}

#[tokio::test]
async fn a_suspended_inventory_keeps_its_files_and_an_emptied_one_has_an_empty_document() {
    let Some((bench, load, operator)) = Bench::filled("git-empty", 1, 3).await else { return };
    let job = &bench.job;
    job.patch("kinv/all", r#"{"spec":{"suspend":true}}"#);
    job.condition("kinv/all", "Degraded", "Suspended").await;
    let refs = bench.refs();
    bench.delete(&load.object(0));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(bench.refs(), refs);
    job.patch("kinv/all", r#"{"spec":{"suspend":false}}"#);
    bench.equals_the_cluster().await;

    load.delete(&job.ground.client, vec![1, 2]).await.unwrap();
    bench.equals_the_cluster().await;
    assert_eq!(Bench::paths(&bench.tree).unwrap(), Vec::<String>::new());
    let files = Bench::files(&bench.document).unwrap();
    let (path, text) = files.first_key_value().unwrap();
    assert_eq!((files.len(), path), (1, &format!("inventory/{}/{DOCUMENT}", job.namespace())));
    assert!(text.trim_end() == "[]" || text.contains("\nitems: []\n"), "{text}");
    load.create(&job.ground.client).await.unwrap();
    bench.equals_the_cluster().await;
    bench.is_sound();
    operator.terminate().await.unwrap();
}
