//! The sinks of object stores against real servers: bytes, the contract, faults, Parquet in the hands of others.

mod bytes;
mod contract;
mod faults;
mod google;
mod operator;
mod parquet;

use std::sync::Arc;

use jiff::Timestamp;
use kollect::export::document::canonical_order;
use kollect::export::{Document, Scope, Standing};
use kollect::lab::object::{ACCESS_KEY, ObjectServer, Protocol, SECRET_KEY, SERVICE_ACCOUNT};
use kollect::metrics::SinkType;
use kollect::model::{Body, Cluster, Family, Gvk, InventoryKey, Name, Namespace, ObjectKey, Origin, Row, SinkKey, Uid};
use kollect::secret::Secret;
use kollect::sinks::netguard::Guard;
use kollect::sinks::object::{Credentials, ObjectConfig, ObjectStores};
use kollect::sinks::{Backend, DocumentSink, TlsConfig};
use kollect::validate::{Addressing, Bucket, Encoding, Packing, Retention, Scheme, Server};
use tokio_util::sync::CancellationToken;

/// The bucket of every test, on a server of its own.
const BUCKET: &str = "inv";

/// Starts a store with a bucket.
async fn store(protocol: Protocol) -> Option<ObjectServer> {
    let server = crate::support::part_or_skip(ObjectServer::start(protocol).await)?;
    server.create_bucket(BUCKET).await.unwrap();
    Some(server)
}

/// Returns the requests that changed something in S3, in order, as its log has them.
fn writes(server: &ObjectServer) -> Vec<String> {
    let mut requests = server.requests().unwrap();
    requests.retain(|request| !["Get", "Head", "List"].iter().any(|reads| request.starts_with(reads)));
    requests
}

/// Returns the settings of a sink of a store behind a port of this machine.
fn config(protocol: Protocol, server: &ObjectServer, port: u16) -> ObjectConfig {
    let object = ObjectKey::new(Namespace::new("team-a"), Name::new("bucket"));
    let keys = Credentials::Keys { id: ACCESS_KEY.to_owned(), secret: Secret::new(SECRET_KEY), session: None };
    let (kind, credentials) = match protocol {
        Protocol::S3 => (SinkType::S3, keys),
        Protocol::Google => (SinkType::Gcs, Credentials::ServiceAccount(Secret::new(SERVICE_ACCOUNT))),
    };
    let authority = format!("127.0.0.1:{port}");
    let scheme = if protocol == Protocol::S3 { Scheme::Https } else { Scheme::Http };
    ObjectConfig {
        sink: SinkKey { family: Family::Snapshot, object },
        kind,
        cluster: Cluster::new("west"),
        bucket: Bucket {
            server: Server::Other { scheme, authority },
            name: BUCKET.to_owned(),
            prefix: "prod".to_owned(),
        },
        region: "us-east-1".to_owned(),
        addressing: Addressing::Path,
        credentials,
        tls: TlsConfig { ca_pem: Some(server.ca_pem().into_bytes()), ..TlsConfig::default() },
        encoding: Encoding::Json(Packing::Plain),
        path_template: None,
        retention: Retention::default(),
    }
}

/// One life of an operator.
fn life(writer: &str) -> ObjectStores {
    let guard = Guard { allow_private: false, allow_loopback: true };
    ObjectStores::new(guard, writer.to_owned(), clock, CancellationToken::new())
}

/// Makes a sink as a freshly started process would.
fn sink(config: &ObjectConfig) -> Arc<dyn DocumentSink> {
    sink_of("us", config)
}

fn sink_of(writer: &str, config: &ObjectConfig) -> Arc<dyn DocumentSink> {
    match life(writer).sink(config).unwrap() {
        Backend::Documents(sink) => sink,
        Backend::Rows(_) => panic!("a bucket takes documents"),
    }
}

/// The time of the examples.
fn clock() -> Timestamp {
    "2026-03-01T10:20:30.5Z".parse().unwrap()
}

fn scope() -> Arc<Scope> {
    Arc::new(Scope {
        cluster: Cluster::new("west"),
        inventory: InventoryKey::new(Namespace::new("team-a"), Name::new("apps")),
        inventory_uid: Uid::new("99999999-9999-4999-8999-999999999999"),
    })
}

/// Returns the rows of the examples: `api`, `web` and `feature-flags`.
fn examples() -> Vec<Row> {
    let row = |target: &str, gvk: (&str, &str), name: &str, uid: &str, attributes: &str| {
        let gvk = Gvk { group: gvk.0.into(), version: "v1".into(), kind: gvk.1.into() };
        let target = ObjectKey::new(Namespace::new("team-a"), Name::new(target));
        Row {
            origin: Arc::new(Origin { target, gvk }),
            uid: Uid::new(uid),
            namespace: Namespace::new("team-a"),
            body: Body::new(name, attributes.as_bytes()).unwrap(),
        }
    };
    let (apps, core) = (("apps", "Deployment"), ("", "ConfigMap"));
    let web = r#"{"image":"ghcr.io/acme/web:2.0.0","note":"a\u003cb \u0026 c\u003ed","ports":[80,8443],"replicas":2}"#;
    let flags = r#"{"immutable":false,"owner":null,"ratio":0.25,"version":"7"}"#;
    let api = r#"{"image":"ghcr.io/acme/api:1.4.2","replicas":3}"#;
    vec![
        row("deploys", apps, "api", "11111111-1111-4111-8111-111111111111", api),
        row("deploys", apps, "web", "22222222-2222-4222-8222-222222222222", web),
        row("configs", core, "feature-flags", "33333333-3333-4333-8333-333333333333", flags),
    ]
}

fn document(mut rows: Vec<Row>, generation: i64, max_part_bytes: u64) -> Document {
    rows.sort_unstable_by(canonical_order);
    let standing = Standing { rows: rows.len() as u64, generation, ..Standing::default() };
    Document { scope: scope(), rows: rows.into(), standing, max_part_bytes, exported_at: clock() }
}
