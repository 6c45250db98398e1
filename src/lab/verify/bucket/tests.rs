use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use super::*;

fn item(uid: &str) -> Value {
    json!({
        "targetNamespace": "team-a", "targetName": "t", "namespace": "team-a", "name": uid,
        "version": "v1", "kind": "ConfigMap", "uid": uid, "attributes": {"value": 1},
    })
}

fn record(cluster: &str, keys: &[&str]) -> Vec<u8> {
    let objects: Vec<Value> = keys.iter().map(|key| json!({"key": key, "etag": "e"})).collect();
    let record = json!({
        "kind": "KollectObjectRecord", "cluster": cluster, "namespace": "team-a", "name": "apps",
        "current": {"generation": 1, "objects": objects}, "pending": ["coming.json"],
        "past": [{"generation": 0, "objects": [{"key": "past.json", "etag": "e"}]}],
    });
    record.to_string().into_bytes()
}

fn bucket(objects: &[(&str, Vec<u8>)]) -> BTreeMap<String, Vec<u8>> {
    objects.iter().map(|(key, content)| ((*key).to_owned(), content.clone())).collect()
}

#[test]
fn what_records_name_is_read_and_the_rest_is_nobodys() {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(format!("{}\n{}\n", item("3"), item("4")).as_bytes()).unwrap();
    let objects = bucket(&[
        (".kollect/west/team-a/apps.json.json", record("west", &["a.part-1.json", "a.part-2.json", "a.manifest.json"])),
        (".kollect/west/team-a/apps.ndjson.json", record("west", &["b.ndjson.gz"])),
        (".kollect/east/team-a/apps.json.json", record("east", &["east.json"])),
        ("a.part-1.json", json!({"items": [item("1")]}).to_string().into()),
        ("a.part-2.json", json!({"items": [item("2")]}).to_string().into()),
        ("a.manifest.json", json!({"parts": []}).to_string().into()),
        ("b.ndjson.gz", gzip.finish().unwrap()),
        ("past.json", Vec::new()),
        ("coming.json", Vec::new()),
        ("east.json", Vec::new()),
        ("README.md", Vec::new()),
    ]);

    let contents = Contents::read(&objects, "west").unwrap();

    assert!(contents.problems.is_empty(), "{:?}", contents.problems);
    assert_eq!((contents.objects, contents.rows, contents.unowned), (4, 4, 1));
    let formats: Vec<_> = contents.held.iter().map(|(format, held)| (format.as_str(), held.values().len())).collect();
    assert_eq!(formats, [("json", 1), ("ndjson", 1)]);
}

#[test]
fn what_is_missing_doubled_or_none_of_ours_is_named() {
    let objects = bucket(&[
        (".kollect/west/team-a/apps.json.json", record("west", &["a.json", "b.json", "c.parquet", "d.json"])),
        ("a.json", json!({"items": [item("1"), item("1")]}).to_string().into()),
        ("c.parquet", b"PAR1".to_vec()),
        ("d.json", json!({"items": [{"uid": "2"}]}).to_string().into()),
    ]);
    let problems = Contents::read(&objects, "west").unwrap().problems;
    let wanted = [
        "team-a/apps: 1 is twice in the bucket, once in a.json",
        "team-a/apps: b.json is not in the bucket",
        "team-a/apps: c.parquet: it is no Parquet",
        "team-a/apps: d.json: no item of an inventory",
    ];
    assert_eq!(problems.len(), wanted.len(), "{problems:?}");
    assert!(problems.iter().zip(wanted).all(|(problem, wanted)| problem.starts_with(wanted)), "{problems:?}");
    assert!(Contents::read(&bucket(&[(".kollect/x.json", Vec::new())]), "west").is_err());
}
