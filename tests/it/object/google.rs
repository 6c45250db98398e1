//! What is Google's alone: files in pieces through its own protocol, and its two kinds of keys.

use std::process::Command;

use kollect::error::{Class, Classify as _};
use kollect::lab::Proxy;
use kollect::lab::object::Protocol;
use kollect::lab::process;
use kollect::lab::proxy::Cuts;
use kollect::metrics::SinkType;
use kollect::model::{Body, Uid};
use kollect::secret::Secret;
use kollect::sinks::Leave;
use kollect::sinks::object::{Credentials, ObjectConfig};
use kollect::validate::{Codec, Encoding, Scheme, Server};

use super::{BUCKET, config, document, examples, scope, sink, store};

/// Where the file stands.
const KEY: &str = "prod/inventory/cluster=west/ns=team-a/name=apps/generation=4.parquet";

/// Returns a document that makes a file of three pieces where nothing is compressed.
fn large(version: u32) -> kollect::export::Document {
    let pattern = examples().swap_remove(0);
    let rows = (0..40_000_u32).map(|number| {
        let mut row = pattern.clone();
        row.uid = Uid::new(&format!("{number:08x}-0000-4000-8000-{version:012x}"));
        let note = format!("{number:x}-").repeat(40);
        row.body = Body::new(&format!("app-{number}"), format!("{{\"note\":\"{note}\"}}").as_bytes()).unwrap();
        row
    });
    document(rows.collect(), 4, 1 << 20)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn google_takes_a_large_file_in_pieces_and_hmac_keys_speak_s3() {
    let (Some(google), Some(s3)) = (store(Protocol::Google).await, store(Protocol::S3).await) else { return };
    let proxy = Proxy::start(google.port()).await.unwrap();
    let encoding = Encoding::Parquet { codec: Codec::None, hot: vec!["note".to_owned()] };
    let settings = ObjectConfig { encoding, ..config(Protocol::Google, &google, proxy.port()) };

    // Cut in the middle of the pieces: there is no object, and the next life makes it.
    let direct = ObjectConfig { bucket: config(Protocol::Google, &google, google.port()).bucket, ..settings.clone() };
    let mut cut = None;
    for seed in 0..8 {
        proxy.cut_each(Some(Cuts { seed, up: 9_000_000, down: 9_000_000 }));
        cut = sink(&settings).publish(&large(1)).await.err();
        if cut.is_some() {
            break;
        }
        sink(&direct).leave(&scope(), Leave::Delete).await.unwrap();
    }
    assert_eq!(cut.map(|error| error.class()), Some(Class::Transient));
    assert!(!google.objects(BUCKET).await.unwrap().contains_key(KEY));
    proxy.cut_each(None);
    proxy.cut();
    let receipt = sink(&settings).publish(&large(1)).await.unwrap();
    assert!(receipt.written == 1 && receipt.bytes > 12 * 1024 * 1024, "{receipt:?}");

    // What came together says whose it is: no later life writes it again.
    let versions = google.versions(BUCKET).await.unwrap();
    assert_eq!(sink(&settings).publish(&large(1)).await.unwrap().written, 0);
    assert_eq!(google.versions(BUCKET).await.unwrap(), versions);

    // HMAC keys are Google's keys for the protocol of S3, and the same rows make the same bytes there.
    let hmac = ObjectConfig {
        kind: SinkType::Gcs,
        encoding: settings.encoding.clone(),
        ..config(Protocol::S3, &s3, s3.port())
    };
    assert_eq!(sink(&hmac).probe().await.unwrap(), "GCS bucket HeadBucket succeeded");
    sink(&hmac).publish(&large(1)).await.unwrap();
    let (there, here) = (google.objects(BUCKET).await.unwrap(), s3.objects(BUCKET).await.unwrap());
    assert!(there[KEY] == here[KEY], "{} bytes there, {} here", there[KEY].len(), here[KEY].len());

    // A change takes its place in one step, and an end removes it.
    let changed = sink(&settings).publish(&large(2)).await.unwrap();
    assert_eq!((changed.written, changed.deleted), (1, 0), "{changed:?}");
    assert!(google.objects(BUCKET).await.unwrap()[KEY] != there[KEY]);
    assert_eq!(sink(&settings).leave(&scope(), Leave::Delete).await.unwrap().deleted, 1);
    assert!(!google.objects(BUCKET).await.unwrap().contains_key(KEY));
}

#[tokio::test]
async fn each_kind_of_credentials_signs_requests_in_its_way() {
    let Some(server) = store(Protocol::S3).await else { return };
    let mut openssl = Command::new("openssl");
    let key = process::run(openssl.args(["genpkey", "-algorithm", "RSA", "-quiet"])).unwrap();
    let account = serde_json::json!({
        "type": "service_account", "project_id": "lab", "private_key_id": "k1", "private_key": key,
        "client_email": "kollect@lab.iam.gserviceaccount.com",
    });
    let keys = |session: Option<&str>| {
        let (id, secret) = ("AKIA1".to_owned(), Secret::new("hunter2"));
        Credentials::Keys { id, secret, session: session.map(Secret::new) }
    };
    let amazon = "aws4-hmac-sha256 credential=akia1/";
    for (kind, credentials, wanted, unwanted) in [
        (SinkType::S3, keys(None), vec![amazon, "/eu-central-1/s3/aws4_request"], "x-amz-security-token"),
        (SinkType::S3, keys(Some("for-an-hour")), vec![amazon, "x-amz-security-token: for-an-hour"], "bearer"),
        (SinkType::Gcs, keys(None), vec![amazon, "get /inv?list-type=2"], "bearer"),
        // Three parts with dots between: a token that the key itself signs, and nobody else is asked.
        (
            SinkType::Gcs,
            Credentials::ServiceAccount(Secret::new(account.to_string())),
            vec!["authorization: bearer eyj", ".eyj", "get /inv?list-type=2"],
            "aws4",
        ),
    ] {
        let (port, asked) = super::faults::overhear("403 Forbidden").await;
        let mut settings = config(Protocol::S3, &server, port);
        settings.bucket.server = Server::Other { scheme: Scheme::Http, authority: format!("127.0.0.1:{port}") };
        (settings.kind, settings.credentials) = (kind, credentials);
        settings.region = "eu-central-1".to_owned();
        assert_eq!(sink(&settings).probe().await.unwrap_err().class(), Class::Terminal);
        let asked = asked.lock().join("\n").to_lowercase();
        assert!(wanted.iter().all(|words| asked.contains(words)), "{wanted:?} in {asked}");
        assert!(!asked.contains(unwanted) && !asked.contains("hunter2"), "{unwanted} in {asked}");
    }
}
