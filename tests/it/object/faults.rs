//! A store that is away, cut, busy, emptied or somebody else's: what is said, and that the bucket converges.

use std::sync::Arc;

use anyhow::{Result, ensure};
use kollect::error::{Class, Classify as _, chain};
use kollect::export::Document;
use kollect::lab::Proxy;
use kollect::lab::object::{ObjectServer, Protocol};
use kollect::lab::proxy::Cuts;
use kollect::model::{Body, Row};
use kollect::secret::Secret;
use kollect::sinks::object::{Credentials, ObjectConfig};
use kollect::sinks::{DocumentSink, Fault, SinkError, TlsConfig};
use kollect::validate::{Addressing, Codec, Encoding, Scheme, Server};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{BUCKET, config, document, examples, sink, store};

/// The key of the inventory.
const KEY: &str = "prod/inventory/team-a/apps.json";
/// Limit of a part that makes several of the rows.
const PARTS: u64 = 40_000;

/// Returns a document of so many rows, in a version that can be told apart.
fn rows(count: usize, version: usize) -> Document {
    let pattern = examples().swap_remove(0);
    let row = |number: usize| Row {
        uid: kollect::model::Uid::new(&format!("{number:08x}-0000-4000-8000-000000000000")),
        body: Body::new(&format!("app-{number:05}"), format!("{{\"version\":{version}}}").as_bytes()).unwrap(),
        ..pattern.clone()
    };
    document((0..count).map(row).collect(), 4, PARTS)
}

/// Checks that the bucket has exactly these rows, in parts that belong together.
async fn equals(server: &ObjectServer, count: usize, version: usize) -> Result<()> {
    let mut found = 0;
    for (key, content) in server.objects(BUCKET).await? {
        if key.contains(".kollect/") || key.ends_with(".manifest.json") {
            continue;
        }
        let envelope: Value = serde_json::from_slice(&content)?;
        let items = envelope["items"].as_array().cloned().unwrap_or_default();
        ensure!(items.iter().all(|item| item["attributes"]["version"] == version), "{key} is of another version");
        found += items.len();
    }
    ensure!(found == count, "{found} rows, not {count}");
    Ok(())
}

fn is(error: &SinkError, class: Class, fault: Fault, words: &str) {
    let text = chain(error);
    assert_eq!((error.class(), error.fault()), (class, fault), "{text}");
    assert!(text.contains(words), "{words} is not in {text}");
}

/// Answers every request with one status and no more; returns the port, and what is asked there.
pub(super) async fn overhear(status: &'static str) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let requests = Arc::clone(&heard);
    #[expect(clippy::disallowed_methods, reason = "it ends with the runtime of the test")]
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut asked = [0; 4096];
            let count = client.read(&mut asked).await.unwrap_or_default();
            requests.lock().push(String::from_utf8_lossy(&asked[..count]).into_owned());
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = client.write_all(answer.as_bytes()).await; // whoever asks is gone already
        }
    });
    (port, heard)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bucket_converges_after_every_fault() {
    let Some(server) = store(Protocol::S3).await else { return };
    let proxy = Proxy::start(server.port()).await.unwrap();
    let settings = config(Protocol::S3, &server, proxy.port());
    let writer = sink(&settings);
    writer.publish(&rows(1_000, 1)).await.unwrap();
    equals(&server, 1_000, 1).await.unwrap();

    // Away, and back.
    proxy.shut();
    let error = writer.publish(&rows(1_000, 2)).await.unwrap_err();
    is(&error, Class::Transient, Fault::Destination, "failed to");
    proxy.open();
    writer.publish(&rows(1_000, 2)).await.unwrap();
    equals(&server, 1_000, 2).await.unwrap();

    // Killed and started again, by a process that remembers nothing: nothing is rewritten.
    server.kill9().await.unwrap();
    is(&writer.publish(&rows(900, 3)).await.unwrap_err(), Class::Transient, Fault::Destination, "failed to");
    server.restart().await.unwrap();
    let receipt = sink(&settings).publish(&rows(1_000, 2)).await.unwrap();
    assert_eq!((receipt.written, receipt.deleted), (0, 0), "{receipt:?}");

    // Cut at random bytes: whatever came through, the next life finishes it.
    for seed in 0..12 {
        proxy.cut_each(Some(Cuts { seed, up: 90_000, down: 9_000 }));
        let count = 200 + 150 * usize::try_from(seed).unwrap();
        let wanted = rows(count, 10 + usize::try_from(seed).unwrap());
        if let Err(error) = sink(&settings).publish(&wanted).await {
            assert_eq!(error.class(), Class::Transient, "{}", chain(&error));
        }
        proxy.cut_each(None);
        proxy.cut();
        sink(&settings).publish(&wanted).await.unwrap();
        equals(&server, count, 10 + usize::try_from(seed).unwrap()).await.unwrap();
        let again = sink(&settings).publish(&wanted).await.unwrap();
        assert_eq!((again.written, again.deleted), (0, 0), "{again:?}");
    }

    // A large file in pieces, cut in the middle: the old one stays until the new one is there.
    let columns = Encoding::Parquet { codec: Codec::None, hot: Vec::new() };
    let parquet = ObjectConfig { encoding: columns, ..settings.clone() };
    sink(&parquet).publish(&rows(1_000, 1)).await.unwrap();
    let key = "prod/inventory/cluster=west/ns=team-a/name=apps/generation=4.parquet";
    let before = server.objects(BUCKET).await.unwrap().remove(key).unwrap();
    let large = rows(160_000, 2);
    proxy.cut_each(Some(Cuts { seed: 7, up: 4_000_000, down: 4_000_000 }));
    let cut = sink(&parquet).publish(&large).await;
    proxy.cut_each(None);
    if cut.is_err() {
        assert_eq!(server.objects(BUCKET).await.unwrap().remove(key).as_ref(), Some(&before));
        sink(&parquet).publish(&large).await.unwrap();
    }
    let bytes = server.objects(BUCKET).await.unwrap().remove(key).unwrap().len();
    assert!(bytes > 6 * 1024 * 1024, "{bytes} bytes are one piece");
    assert_eq!(sink(&parquet).publish(&large).await.unwrap().written, 0);
    parquet_is_gone(&sink(&parquet)).await;

    // Busy, in trouble, elsewhere.
    for (status, class) in [
        ("503 Service Unavailable", Class::Transient),
        ("500 Internal Server Error", Class::Transient),
        ("429 Too Many Requests", Class::Transient),
        ("403 Forbidden", Class::Terminal),
        ("301 Moved Permanently", Class::Terminal),
    ] {
        let mut busy = settings.clone();
        let authority = format!("127.0.0.1:{}", overhear(status).await.0);
        busy.bucket.server = Server::Other { scheme: Scheme::Http, authority };
        let error = sink(&busy).publish(&rows(1, 1)).await.unwrap_err();
        is(&error, class, Fault::Destination, status.split(' ').next().unwrap());
    }

    // What stands in the way before any server is asked.
    let elsewhere = |authority: &str, addressing| {
        let mut settings = ObjectConfig { addressing, ..settings.clone() };
        settings.bucket.server = Server::Other { scheme: Scheme::Https, authority: authority.to_owned() };
        settings
    };
    let here = format!("127.0.0.1:{}", proxy.port());
    let mut strange = elsewhere(&here, Addressing::Path);
    strange.tls = TlsConfig::default();
    for (settings, class, words) in [
        (elsewhere("169.254.169.254", Addressing::Path), Class::Terminal, "169.254.169.254"),
        (elsewhere("10.1.2.3:9000", Addressing::Path), Class::Terminal, "--allow-private-sinks"),
        (elsewhere("store.invalid", Addressing::Host), Class::Transient, "\"inv.store.invalid\""),
        (strange, Class::Terminal, "name its authority in spec.tls.caBundle or spec.tls.caSecretRef"),
    ] {
        is(&sink(&settings).publish(&rows(1, 1)).await.unwrap_err(), class, Fault::Destination, words);
    }

    // Emptied: readers see an inventory without rows, not the old ones.
    let receipt = writer.publish(&rows(0, 0)).await.unwrap();
    assert!(receipt.written == 1 && receipt.deleted > 1, "{receipt:?}");
    let text = server.objects(BUCKET).await.unwrap().remove(KEY).unwrap();
    assert!(String::from_utf8(text).unwrap().ends_with("\"items\":[]}"));

    // The bucket is gone, and made again.
    server.delete_bucket(BUCKET).unwrap();
    let error = writer.publish(&rows(5, 5)).await.unwrap_err();
    is(&error, Class::Terminal, Fault::Destination, "there is no such bucket; create it, or correct spec.endpoint");
    is(&writer.probe().await.unwrap_err(), Class::Terminal, Fault::Destination, "there is no such bucket");
    server.create_bucket(BUCKET).await.unwrap();
    writer.publish(&rows(5, 5)).await.unwrap();
    equals(&server, 5, 5).await.unwrap();

    // The keys are others.
    server.kill9().await.unwrap();
    server.restart_with("rotated", "rotated-secret").await.unwrap();
    let error = writer.publish(&rows(6, 6)).await.unwrap_err();
    is(&error, Class::Terminal, Fault::Destination, "check accessKeyID and secretAccessKey");
    let secret = Secret::new("rotated-secret");
    let credentials = Credentials::Keys { id: "rotated".to_owned(), secret, session: None };
    sink(&ObjectConfig { credentials, ..settings }).publish(&rows(6, 6)).await.unwrap();
    equals(&server, 6, 6).await.unwrap();
}

/// Ends the inventory in its other format.
async fn parquet_is_gone(sink: &Arc<dyn DocumentSink>) {
    use kollect::sinks::Leave;
    let gone = sink.leave(&super::scope(), Leave::Delete).await.unwrap();
    assert_eq!(gone.deleted, 1);
}
