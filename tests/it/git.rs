//! The git sinks against real servers: files, commits, ownership, faults.

mod contract;
mod faults;
mod history;
mod many;
mod ownership;
mod ssh;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use jiff::Timestamp;
use kollect::api::v1alpha1::sink::LayoutMode;
use kollect::export::layout::LayoutSpec;
use kollect::export::{Base, Difference, Document, Scope, Selection, compare};
use kollect::lab::git::{HttpServer, Human, Repositories, Repository, Scheme};
use kollect::model::{Body, Cluster, Family, Gvk, Name, Namespace, ObjectKey, Origin, Row, RowKey, SinkKey, Uid};
use kollect::secret::Secret;
use kollect::sinks::contract::document::document as document_of;
use kollect::sinks::contract::{delta, row as row_of, scope};
use kollect::sinks::git::{Credentials, GitConfig, GitRepositories, MirrorPlaces};
use kollect::sinks::netguard::Guard;
use kollect::sinks::{Backend, DocumentSink, Receipt, RowSink, SinkError, TlsConfig};
use tokio_util::sync::CancellationToken;

const USER: &str = "kollect";
const TOKEN: &str = "glpat-0123456789";

/// A repository of one test, behind a server of its own that asks for a token.
struct Remote {
    repositories: Repositories,
    repository: Repository,
    server: HttpServer,
    lives: AtomicU32,
}

impl Remote {
    fn new(name: &str) -> Self {
        let repositories = Repositories::new().unwrap();
        let repository = repositories.create(name).unwrap();
        let server = HttpServer::start(&repositories, Scheme::Https).unwrap();
        server.require_login(USER, TOKEN).unwrap();
        Self { repositories, repository, server, lives: AtomicU32::new(0) }
    }

    fn config(&self, mode: LayoutMode) -> GitConfig {
        GitConfig {
            cluster: Cluster::new("west"),
            credentials: Credentials::Basic { user: USER.to_owned(), password: Secret::new(TOKEN) },
            tls: TlsConfig { ca_pem: Some(self.server.ca_pem().into_bytes()), ..TlsConfig::default() },
            layout: LayoutSpec { mode: Some(mode), cluster: Cluster::new("west"), ..LayoutSpec::default() },
            prune: true,
            ..GitConfig::new(sink_key("git-audit"), self.server.url(&self.repository))
        }
    }

    /// Returns the directory of mirrors of a machine that never saw the repository.
    fn mirrors(&self) -> PathBuf {
        let life = self.lives.fetch_add(1, Ordering::Relaxed);
        self.repositories.dir().join(format!("mirrors-{life}"))
    }

    /// One life of an operator on a machine that never saw the repository.
    fn life(&self, writer: &str) -> GitRepositories {
        life(writer, &self.mirrors())
    }

    /// Returns a file of the branch, and an empty text where there is none.
    fn content(&self, path: &str) -> String {
        let content = self.repository.files("main").unwrap().remove(path).unwrap_or_default();
        String::from_utf8(content).unwrap()
    }

    /// Returns the paths of a revision.
    fn paths(&self, revision: &str) -> Vec<String> {
        self.repository.files(revision).unwrap().into_keys().collect()
    }

    /// Returns how many commits the branch has.
    fn commits(&self) -> usize {
        self.repository.log("main").unwrap().len()
    }

    /// Checks that git finds nothing wrong, and that nobody merged.
    fn check(&self) {
        self.repository.fsck().unwrap();
        assert!(self.repository.is_linear("main").unwrap());
    }

    fn human(&self, name: &str) -> Human {
        self.repository.human(name, "main").unwrap()
    }
}

/// One life of an operator.
fn life(writer: &str, mirrors: &Path) -> GitRepositories {
    let guard = Guard { allow_private: false, allow_loopback: true };
    let mirrors = MirrorPlaces { configured: Some(mirrors.to_owned()), cache: None, temporary: std::env::temp_dir() };
    GitRepositories::new(guard, writer.to_owned(), mirrors, clock, CancellationToken::new())
}

/// The time of the examples.
fn clock() -> Timestamp {
    "2026-03-01T10:20:30.5Z".parse().unwrap()
}

/// Returns the rows of the examples: `api`, `web` and `feature-flags`.
fn examples() -> Vec<Row> {
    let row = |uid: char, kind: (&str, &str), target: &str, name: &str, attributes: &str| {
        let uid = "XXXXXXXX-XXXX-4XXX-8XXX-XXXXXXXXXXXX".replace('X', &uid.to_string());
        let gvk = Gvk { group: kind.0.into(), version: "v1".into(), kind: kind.1.into() };
        let target = ObjectKey::new(Namespace::new("team-a"), Name::new(target));
        Row {
            origin: Arc::new(Origin { target, gvk }),
            uid: Uid::new(&uid),
            namespace: Namespace::new("team-a"),
            body: Body::new(name, attributes.as_bytes()).unwrap(),
        }
    };
    let deployment = ("apps", "Deployment");
    vec![
        row('1', deployment, "deploys", "api", r#"{"image":"ghcr.io/acme/api:1.4.2","replicas":3}"#),
        row(
            '2',
            deployment,
            "deploys",
            "web",
            r#"{"image":"ghcr.io/acme/web:2.0.0","note":"a\u003cb \u0026 c\u003ed","ports":[80,8443],"replicas":2}"#,
        ),
        row(
            '3',
            ("", "ConfigMap"),
            "configs",
            "feature-flags",
            r#"{"immutable":false,"owner":null,"ratio":0.25,"version":"7"}"#,
        ),
    ]
}

/// Returns one row.
fn row(name: &str, replicas: u32) -> Row {
    let uid = format!(
        "{:08x}-0000-4000-8000-000000000000",
        name.bytes().fold(7u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()))
    );
    row_of("deploys", &uid, "team-a", name, &format!("{{\"replicas\":{replicas}}}")).unwrap()
}

/// The inventory of the examples.
fn apps() -> Arc<Scope> {
    scope("west", "team-a", "apps")
}

/// Returns a document of the inventory of the examples.
fn document(rows: Vec<Row>) -> Document {
    document_of(&apps(), rows, 1_572_864, 4)
}

/// Brings an inventory to these rows as an operator does that has just started.
async fn bring(sink: &Arc<dyn RowSink>, scope: &Arc<Scope>, rows: &[Row]) -> Result<Receipt, SinkError> {
    let held = sink.recover(scope, &Selection::All, rows).await?;
    let Difference { upserts, deletes, .. } =
        compare(rows.to_vec(), held, |_, _| true, |row| sink.fingerprint(scope, row));
    change(sink, scope, upserts, deletes, rows.len()).await
}

/// Delivers a change.
async fn change(
    sink: &Arc<dyn RowSink>,
    scope: &Arc<Scope>,
    upserts: Vec<Row>,
    deletes: Vec<RowKey>,
    count: usize,
) -> Result<Receipt, SinkError> {
    sink.deliver(&delta(scope, Base::Filled, upserts, deletes, count as u64, 1)).await
}

fn sink_key(name: &str) -> SinkKey {
    SinkKey { family: Family::Snapshot, object: ObjectKey::new(Namespace::new("team-a"), Name::new(name)) }
}

fn rows(life: &GitRepositories, config: &GitConfig) -> Arc<dyn RowSink> {
    match life.sink(config).unwrap() {
        Backend::Rows(sink) => sink,
        Backend::Documents(_) => panic!("a sink of documents"),
    }
}

fn documents(life: &GitRepositories, config: &GitConfig) -> Arc<dyn DocumentSink> {
    match life.sink(config).unwrap() {
        Backend::Documents(sink) => sink,
        Backend::Rows(_) => panic!("a sink of rows"),
    }
}
