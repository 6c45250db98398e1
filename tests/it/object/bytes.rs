//! What stands in a bucket, byte by byte, and when it is written.

use std::collections::BTreeMap;

use kollect::lab::object::{ObjectServer, Protocol};
use kollect::sinks::Leave;
use kollect::validate::{Codec, Encoding, Packing, Retention};
use serde_json::Value;

use super::{BUCKET, config, document, examples, scope, sink, sink_of, store, writes};

/// No document of these tests reaches it.
const WHOLE: u64 = 1_572_864;
/// Each of the examples gets a part of its own.
const PARTS: u64 = 700;

const ENVELOPE: &str = r#"{"schemaVersion":"kollect.dev/v1alpha1","checksum":"2074c303768e472bddd7fac391fc2eca8e05e72048af071600a33fc9443486f4","generation":4,"itemCount":3,"exportedAt":"2026-03-01T10:20:30.5Z","items":[{"targetNamespace":"team-a","targetName":"configs","namespace":"team-a","name":"feature-flags","version":"v1","kind":"ConfigMap","uid":"33333333-3333-4333-8333-333333333333","attributes":{"immutable":false,"owner":null,"ratio":0.25,"version":"7"}},{"targetNamespace":"team-a","targetName":"deploys","namespace":"team-a","name":"api","group":"apps","version":"v1","kind":"Deployment","uid":"11111111-1111-4111-8111-111111111111","attributes":{"image":"ghcr.io/acme/api:1.4.2","replicas":3}},{"targetNamespace":"team-a","targetName":"deploys","namespace":"team-a","name":"web","group":"apps","version":"v1","kind":"Deployment","uid":"22222222-2222-4222-8222-222222222222","attributes":{"image":"ghcr.io/acme/web:2.0.0","note":"a\u003cb \u0026 c\u003ed","ports":[80,8443],"replicas":2}}]}"#;
const PART_2: &str = r#"{"schemaVersion":"kollect.dev/v1alpha1","checksum":"03ff021aa57be2ec66a0e1941fe5a88c08165bf85d0f5f95e1b11c687a783112","generation":4,"partIndex":2,"partTotal":3,"itemCount":1,"exportedAt":"2026-03-01T10:20:30.5Z","items":[{"targetNamespace":"team-a","targetName":"deploys","namespace":"team-a","name":"api","group":"apps","version":"v1","kind":"Deployment","uid":"11111111-1111-4111-8111-111111111111","attributes":{"image":"ghcr.io/acme/api:1.4.2","replicas":3}}]}"#;

/// Returns what is in the bucket but for the records of the operator.
async fn objects(server: &ObjectServer) -> BTreeMap<String, Vec<u8>> {
    let mut objects = server.objects(BUCKET).await.unwrap();
    objects.retain(|key, _| !key.contains(".kollect/"));
    objects
}

#[tokio::test]
async fn documents_parts_and_what_becomes_of_them_are_as_the_examples_say() {
    let Some(server) = store(Protocol::S3).await else { return };
    let mut settings = config(Protocol::S3, &server, server.port());
    let writer = sink(&settings);
    assert_eq!(writer.probe().await.unwrap(), "S3 bucket HeadBucket succeeded");
    let (whole, parts) = (document(examples(), 4, WHOLE), document(examples(), 4, PARTS));

    // One document, and its checksum for the status.
    assert!(!writer.has(&whole).await.unwrap());
    let receipt = writer.publish(&whole).await.unwrap();
    let set = "db6a282ba92a84c4279b0f8865c0c3deb6216930c4c645c4be4d5d90e09a314b";
    assert_eq!((receipt.written, receipt.bytes, receipt.checksum.as_deref()), (1, 979, Some(set)));
    let there = objects(&server).await;
    assert_eq!(there.keys().collect::<Vec<_>>(), ["prod/inventory/team-a/apps.json"]);
    assert_eq!(String::from_utf8_lossy(&there["prod/inventory/team-a/apps.json"]), ENVELOPE);
    assert!(writer.has(&whole).await.unwrap() && sink(&settings).has(&whole).await.unwrap());

    // Parts and a manifest in its place; the document goes.
    let receipt = writer.publish(&parts).await.unwrap();
    let set = "5666fea6958a887d2d53320f17f0b84a62e0dbc630aa18e98ad42ec1435d9103";
    assert_eq!((receipt.written, receipt.deleted, receipt.checksum.as_deref()), (4, 1, Some(set)));
    let there = objects(&server).await;
    let keys: Vec<&str> = there.keys().map(String::as_str).collect();
    let want = [
        "prod/inventory/team-a/apps.manifest.json",
        "prod/inventory/team-a/apps.part-0001-of-0003.json",
        "prod/inventory/team-a/apps.part-0002-of-0003.json",
        "prod/inventory/team-a/apps.part-0003-of-0003.json",
    ];
    assert_eq!(keys, want);
    assert_eq!(String::from_utf8_lossy(&there[want[2]]), PART_2);
    for (index, checksum) in [
        (1, "d26f571ac67c938c68826542c762201ebc1da8393445514bc5a4ac0b979f9f21"),
        (2, "03ff021aa57be2ec66a0e1941fe5a88c08165bf85d0f5f95e1b11c687a783112"),
        (3, "7b5160ab3013569923ead242a3a26112d0ade2c19261007e3c11d8cbd3a37b8e"),
    ] {
        let part: Value = serde_json::from_slice(&there[want[index]]).unwrap();
        let fields = ["checksum", "partIndex", "partTotal", "itemCount", "generation"].map(|field| part[field].clone());
        let said: [Value; 5] = [checksum.into(), index.into(), 3.into(), 1.into(), 4.into()];
        assert_eq!(fields, said);
    }
    let manifest: Value = serde_json::from_slice(&there[want[0]]).unwrap();
    assert_eq!(manifest["paths"][1], "inventory/team-a/apps.part-0002-of-0003.json");

    // Parts, their manifest, the record of all, and only then is the document gone, which is on record as well.
    let [put_record, put] = [".kollect/west/team-a/apps.json.json", "inventory/team-a/apps.json"]
        .map(|key| format!("PutObject prod/{key}"));
    let mut order = vec![put_record.clone(), put, put_record.clone(), "PutObject prod/.kollect/identity".to_owned()];
    order.push(put_record.clone());
    order.extend([1, 2, 3, 0].map(|index| format!("PutObject {}", want[index])));
    order.extend([put_record.clone(), "DeleteObject prod/inventory/team-a/apps.json".to_owned(), put_record]);
    assert_eq!(writes(&server), order);

    // A path of the sink's own; what stands at the old one stays, and nobody owns it.
    settings.path_template = Some("clusters/{cluster}/{namespace}/{name}{extension}".to_owned());
    drop(writer);
    sink(&settings).publish(&whole).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&objects(&server).await["prod/clusters/west/team-a/apps.json"]), ENVELOPE);
    settings.encoding = Encoding::Json(Packing::Gzip);
    let writer = sink(&settings);
    writer.publish(&whole).await.unwrap();
    assert!(objects(&server).await.contains_key("prod/clusters/west/team-a/apps.json.gz"));
    assert_eq!(objects(&server).await.len(), 5);

    // Another operator does not write it, and what is nobody's stays.
    let rival = sink_of("them", &settings).publish(&document(Vec::new(), 5, WHOLE)).await.unwrap_err();
    assert_eq!(rival.reason(), "ClusterConflict");
    assert!(rival.to_string().contains("spec.cluster"), "{rival}");
    let mut key = (*scope()).clone();
    key.inventory.name = kollect::model::Name::new("x");
    server.replace(BUCKET, "prod/note.txt", b"mine".to_vec()).await.unwrap();
    assert_eq!(writer.leave(&key, Leave::Delete).await.unwrap().deleted, 0);

    // Leaving removes what the record names, and nothing else.
    assert_eq!(writer.scopes().await.unwrap(), [(*scope()).clone()]);
    assert_eq!(writer.leave(&scope(), Leave::Delete).await.unwrap().deleted, 1);
    let there = objects(&server).await;
    assert!(there.contains_key("prod/note.txt") && there.len() == 5, "{:?}", there.keys());
    assert!(writer.identity().await.unwrap().is_some());
}

#[tokio::test]
async fn generations_are_kept_as_long_as_the_sink_says() {
    let Some(server) = store(Protocol::S3).await else { return };
    let mut settings = config(Protocol::S3, &server, server.port());
    settings.encoding = Encoding::Parquet { codec: Codec::Zstd, hot: vec!["image".to_owned()] };
    settings.retention = Retention { generations: Some(2), max_age: None };
    let writer = sink(&settings);
    for generation in 1..=5 {
        let receipt = writer.publish(&document(examples(), generation, WHOLE)).await.unwrap();
        assert_eq!(receipt.written, 1, "{receipt:?}");
        let again = writer.publish(&document(examples(), generation, WHOLE)).await.unwrap();
        assert_eq!((again.written, again.deleted), (0, 0), "{again:?}");
    }
    let keys: Vec<String> = objects(&server).await.into_keys().collect();
    let want = [3, 4, 5]
        .map(|generation| format!("prod/inventory/cluster=west/ns=team-a/name=apps/generation={generation}.parquet"));
    assert_eq!(keys, want);
}
