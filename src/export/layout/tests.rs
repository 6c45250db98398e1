use std::fmt::Write as _;
use std::sync::Arc;

use git2::{ObjectType, Oid};

use super::*;
use crate::api::v1alpha1::KollectSnapshotSinkSpec;
use crate::export::document::{Document, canonical_order};
use crate::export::{File, Scope, Standing};
use crate::model::{Body, Gvk, InventoryKey, Name, Namespace, ObjectKey, Origin, Row, Uid};

const U1: &str = "11111111-1111-4111-8111-111111111111";
const U2: &str = "22222222-2222-4222-8222-222222222222";
const U3: &str = "33333333-3333-4333-8333-333333333333";

pub(super) fn inventory() -> InventoryKey {
    InventoryKey::new(Namespace::new("team-a"), Name::new("apps"))
}

pub(super) fn row(
    target: &str,
    (group, kind): (&str, &str),
    uid: &str,
    namespace: &str,
    name: &str,
    attributes: &str,
) -> Row {
    let target = ObjectKey::new(Namespace::new("team-a"), Name::new(target));
    let gvk = Gvk { group: group.into(), version: "v1".into(), kind: kind.into() };
    Row {
        origin: Arc::new(Origin { target, gvk }),
        uid: Uid::new(uid),
        namespace: Namespace::new(namespace),
        body: Body::new(name, attributes.as_bytes()).unwrap(),
    }
}

/// R1 of the specification.
pub(super) fn api() -> Row {
    let attributes = r#"{"image":"ghcr.io/acme/api:1.4.2","replicas":3}"#;
    row("deploys", ("apps", "Deployment"), U1, "team-a", "api", attributes)
}

fn web() -> Row {
    let attributes =
        r#"{"image":"ghcr.io/acme/web:2.0.0","note":"a\u003cb \u0026 c\u003ed","ports":[80,8443],"replicas":2}"#;
    row("deploys", ("apps", "Deployment"), U2, "team-a", "web", attributes)
}

fn flags() -> Row {
    let attributes = r#"{"immutable":false,"owner":null,"ratio":0.25,"version":"7"}"#;
    row("configs", ("", "ConfigMap"), U3, "team-a", "feature-flags", attributes)
}

fn document(mut rows: Vec<Row>, max_part_bytes: u64) -> Document {
    rows.sort_by(canonical_order);
    let scope = Scope { cluster: Cluster::new("west"), inventory: inventory(), inventory_uid: Uid::new("i") };
    Document {
        scope: Arc::new(scope),
        standing: Standing { rows: rows.len() as u64, generation: 4, ..Standing::default() },
        rows: rows.into(),
        max_part_bytes,
        exported_at: "2026-03-01T10:20:30.5Z".parse().unwrap(),
    }
}

fn fixture() -> Document {
    document(vec![api(), web(), flags()], 1_572_864)
}

fn spec(format: Format) -> LayoutSpec {
    LayoutSpec { format, cluster: Cluster::new("west"), mode: Some(LayoutMode::Document), ..LayoutSpec::default() }
}

fn tree(format: Format) -> LayoutSpec {
    LayoutSpec { mode: Some(LayoutMode::PerResource), ..spec(format) }
}

fn render(spec: LayoutSpec, document: &Document) -> Rendered {
    Layout::new(spec).unwrap().document(document).unwrap()
}

fn blob(file: &File) -> String {
    Oid::hash_object(ObjectType::Blob, &file.text.bytes).unwrap().to_string()
}

fn text(file: &File) -> &str {
    std::str::from_utf8(&file.text.bytes).unwrap()
}

fn paths(rendered: &Rendered) -> Vec<&str> {
    rendered.files.iter().map(|file| file.path.as_str()).collect()
}

const ITEM_1: &str = r#"{"targetNamespace":"team-a","targetName":"deploys","namespace":"team-a","name":"api","group":"apps","version":"v1","kind":"Deployment","uid":"11111111-1111-4111-8111-111111111111","attributes":{"image":"ghcr.io/acme/api:1.4.2","replicas":3}}"#;
const ITEM_2: &str = r#"{"targetNamespace":"team-a","targetName":"deploys","namespace":"team-a","name":"web","group":"apps","version":"v1","kind":"Deployment","uid":"22222222-2222-4222-8222-222222222222","attributes":{"image":"ghcr.io/acme/web:2.0.0","note":"a\u003cb \u0026 c\u003ed","ports":[80,8443],"replicas":2}}"#;
const ITEM_3: &str = r#"{"targetNamespace":"team-a","targetName":"configs","namespace":"team-a","name":"feature-flags","version":"v1","kind":"ConfigMap","uid":"33333333-3333-4333-8333-333333333333","attributes":{"immutable":false,"owner":null,"ratio":0.25,"version":"7"}}"#;
const ITEMS: &str = "2074c303768e472bddd7fac391fc2eca8e05e72048af071600a33fc9443486f4";

// E1, E2, E5.
#[test]
fn a_json_document_is_the_envelope() {
    let rendered = render(spec(Format::Json), &fixture());
    assert_eq!(paths(&rendered), ["inventory/team-a/apps.json"]);
    let expected = format!(
        r#"{{"schemaVersion":"kollect.dev/v1alpha1","checksum":"{ITEMS}","generation":4,"itemCount":3,"exportedAt":"2026-03-01T10:20:30.5Z","items":[{ITEM_3},{ITEM_1},{ITEM_2}]}}"#
    );
    assert_eq!(text(&rendered.files[0]), expected);
    assert_eq!(expected.len(), 979);
    assert_eq!(blob(&rendered.files[0]), "afc4998e0b8364efc1348fb595fd4b5443627654");
    assert_eq!(rendered.checksum.to_string(), ITEMS);
    let set = "db6a282ba92a84c4279b0f8865c0c3deb6216930c4c645c4be4d5d90e09a314b";
    assert_eq!(rendered.set_checksum.to_string(), set);
}

// E3.
#[test]
fn a_long_document_is_cut_into_parts_with_a_manifest() {
    let document = Document { max_part_bytes: 700, ..fixture() };
    let rendered = render(spec(Format::Json), &document);
    let expected = [
        "inventory/team-a/apps.part-0001-of-0003.json",
        "inventory/team-a/apps.part-0002-of-0003.json",
        "inventory/team-a/apps.part-0003-of-0003.json",
        "inventory/team-a/apps.manifest.json",
    ];
    assert_eq!(paths(&rendered), expected);
    let part = |index: usize, checksum: &str, item: &str| {
        format!(
            r#"{{"schemaVersion":"kollect.dev/v1alpha1","checksum":"{checksum}","generation":4,"partIndex":{index},"partTotal":3,"itemCount":1,"exportedAt":"2026-03-01T10:20:30.5Z","items":[{item}]}}"#
        )
    };
    let first = part(1, "d26f571ac67c938c68826542c762201ebc1da8393445514bc5a4ac0b979f9f21", ITEM_3);
    let second = part(2, "03ff021aa57be2ec66a0e1941fe5a88c08165bf85d0f5f95e1b11c687a783112", ITEM_1);
    let third = part(3, "7b5160ab3013569923ead242a3a26112d0ade2c19261007e3c11d8cbd3a37b8e", ITEM_2);
    for (file, expected) in rendered.files.iter().zip([first, second, third]) {
        assert_eq!(text(file), expected);
    }
    let set = "5666fea6958a887d2d53320f17f0b84a62e0dbc630aa18e98ad42ec1435d9103";
    assert_eq!((rendered.checksum.to_string().as_str(), rendered.set_checksum.to_string().as_str()), (ITEMS, set));
    assert_eq!(rendered.path.as_str(), "inventory/team-a/apps.json");
}

// E15: the form of the manifest, with the paths of a document's parts.
#[test]
fn a_manifest_names_the_parts_whatever_the_format() {
    let document = Document { max_part_bytes: 700, ..fixture() };
    let rendered = render(spec(Format::Yaml), &document);
    let manifest = rendered.files.last().unwrap();
    assert_eq!(manifest.path.as_str(), "inventory/team-a/apps.manifest.json");
    let expected = r#"{
  "kind": "KollectExportSetManifest",
  "schemaVersion": "kollect.dev/v1alpha1",
  "cluster": "west",
  "namespace": "team-a",
  "name": "apps",
  "generation": 4,
  "partTotal": 3,
  "parts": [
    1,
    2,
    3
  ],
  "exportedAt": "2026-03-01T10:20:30Z",
  "paths": [
"#;
    let tail = |folder: &str, names: [&str; 3]| {
        let paths: Vec<String> = names.iter().map(|name| format!("    \"{folder}/{name}.yaml\"")).collect();
        format!("{}\n  ]\n}}\n", paths.join(",\n"))
    };
    let parts = ["apps.part-0001-of-0003", "apps.part-0002-of-0003", "apps.part-0003-of-0003"];
    assert_eq!(text(manifest), format!("{expected}{}", tail("inventory/team-a", parts)));
    assert!(text(&rendered.files[1]).starts_with("- attributes:\n    image: ghcr.io/acme/api:1.4.2\n"));
    // With the paths of the example it is the file of the example.
    let example =
        format!("{expected}{}", tail("west/team-a", ["configmap/feature-flags", "deployment/api", "deployment/web"]));
    let example = Oid::hash_object(ObjectType::Blob, example.as_bytes()).unwrap();
    assert_eq!(example.to_string(), "dd619656267184c37c47672d5cb3bdd86fbef9e4");
}

// E4.
#[test]
fn a_yaml_document_is_a_list_of_items() {
    let rendered = render(spec(Format::Yaml), &fixture());
    assert_eq!(paths(&rendered), ["inventory/team-a/apps.yaml"]);
    assert_eq!(blob(&rendered.files[0]), "1144acd4a734c17bccf832024e42561f7678fe17", "{}", text(&rendered.files[0]));
    assert_eq!(rendered.checksum.to_string(), ITEMS);
    // Without a layout block rows that embed nothing make the same document.
    assert_eq!(render(LayoutSpec { mode: None, ..spec(Format::Yaml) }, &fixture()), rendered);
}

// E6.
#[test]
fn an_ndjson_document_has_a_line_per_item() {
    let rendered = render(spec(Format::Ndjson), &fixture());
    assert_eq!(paths(&rendered), ["inventory/team-a/apps.ndjson"]);
    assert_eq!(text(&rendered.files[0]), format!("{ITEM_3}\n{ITEM_1}\n{ITEM_2}\n"));
}

// E8.
#[test]
fn a_template_places_the_document() {
    let document_path = "clusters/{cluster}/{namespace}/{name}{extension}".to_owned();
    let spec = LayoutSpec { document_path, ..spec(Format::Yaml) };
    let rendered = render(spec.clone(), &fixture());
    assert_eq!(paths(&rendered), ["clusters/west/team-a/apps.yaml"]);
    assert_eq!(blob(&rendered.files[0]), "1144acd4a734c17bccf832024e42561f7678fe17");
    let parts = render(spec.clone(), &Document { max_part_bytes: 700, ..fixture() });
    assert_eq!(parts.files.last().unwrap().path.as_str(), "clusters/west/team-a/apps.manifest.json");
    let unnamed = render(LayoutSpec { cluster: Cluster::new(""), ..spec }, &fixture());
    assert_eq!(paths(&unnamed), ["clusters/default/team-a/apps.yaml"]);
}

// E9.
#[test]
fn a_tree_has_a_file_per_row() {
    let rendered = render(tree(Format::Yaml), &fixture());
    let files: Vec<_> = rendered.files.iter().map(|file| (file.path.as_str(), blob(file))).collect();
    let expected = [
        ("west/team-a/configmap/feature-flags.yaml", "781197a12ecb63459b9ae5d9210229fcc6bf57cd".to_owned()),
        ("west/team-a/deployment/api.yaml", "203a7d4ac023e4222461e2c4a5ec589cd38c060f".to_owned()),
        ("west/team-a/deployment/web.yaml", "60eeb2e2af3dcec788dd445ead53b004fe181ba4".to_owned()),
    ];
    assert_eq!(files, expected);
}

// E10.
#[test]
fn attributes_alone_can_be_written_and_an_empty_group_has_no_segment() {
    let row_path = "clusters/{cluster}/{targetName}/{group}/{kind}/{sourceName}-{uid}{extension}".to_owned();
    let spec = LayoutSpec { row_path, content: LayoutContent::Attributes, ..tree(Format::Yaml) };
    let rendered = render(spec.clone(), &fixture());
    let expected = [
        format!("clusters/west/configs/configmap/feature-flags-{U3}.yaml"),
        format!("clusters/west/deploys/apps/deployment/api-{U1}.yaml"),
        format!("clusters/west/deploys/apps/deployment/web-{U2}.yaml"),
    ];
    assert_eq!(paths(&rendered), expected);
    assert_eq!(text(&rendered.files[1]), "image: ghcr.io/acme/api:1.4.2\nreplicas: 3\n");
    let empty = document(vec![row("t", ("", "Pod"), U1, "a", "p", "null")], 10_000);
    assert_eq!(text(&render(spec.clone(), &empty).files[0]), "{}\n");
    let spec = LayoutSpec { group: GroupInPath::Never, kind_case: KindCase::Kept, ..spec };
    assert_eq!(paths(&render(spec, &fixture()))[1], format!("clusters/west/deploys/Deployment/api-{U1}.yaml"));
}

// E11.
#[test]
fn a_json_file_of_a_row_is_indented() {
    let rendered = render(tree(Format::Json), &fixture());
    assert_eq!(rendered.files[1].path.as_str(), "west/team-a/deployment/api.json");
    let mut expected = String::from("{\n");
    for (key, value) in [
        ("targetNamespace", "team-a"),
        ("targetName", "deploys"),
        ("namespace", "team-a"),
        ("name", "api"),
        ("group", "apps"),
        ("version", "v1"),
        ("kind", "Deployment"),
        ("uid", U1),
    ] {
        writeln!(expected, "  \"{key}\": \"{value}\",").unwrap();
    }
    expected.push_str("  \"attributes\": {\n    \"image\": \"ghcr.io/acme/api:1.4.2\",\n    \"replicas\": 3\n  }\n}\n");
    assert_eq!(text(&rendered.files[1]), expected);
    let web = text(&rendered.files[2]);
    assert!(
        web.contains(r#""note": "a\u003cb \u0026 c\u003ed","#)
            && web.contains("    \"ports\": [\n      80,\n      8443\n    ],")
    );
}

// E12.
#[test]
fn a_split_layout_has_an_index() {
    let split = LayoutSpec { mode: Some(LayoutMode::Split), ..spec(Format::Yaml) };
    let rendered = render(split.clone(), &fixture());
    assert_eq!(rendered.files.len(), 4);
    let index = &rendered.files[3];
    assert_eq!(index.path.as_str(), "inventory/team-a/apps.yaml");
    let expected = format!(
        "checksum: {ITEMS}
cluster: west
exportedAt: \"2026-03-01T10:20:30Z\"
itemCount: 3
paths:
- west/team-a/configmap/feature-flags.yaml
- west/team-a/deployment/api.yaml
- west/team-a/deployment/web.yaml
schemaVersion: kollect.dev/v1alpha1
"
    );
    assert_eq!(text(index), expected);
    let omitted = LayoutSpec { index: Index::Omitted, ..split.clone() };
    assert_eq!(render(omitted, &fixture()).files.len(), 3);
    let row_path = "inventory/{targetNamespace}/{name}{extension}".to_owned();
    let taken = Layout::new(LayoutSpec { row_path, ..split }).unwrap().document(&fixture()).unwrap_err();
    let expected = "spec.layout.index.pathTemplate: gives inventory/team-a/apps.yaml, which is the file of a row; choose another path";
    assert_eq!(taken.to_string(), expected);
}

// E13.
#[test]
fn an_index_as_ndjson_is_one_line() {
    let rendered = render(LayoutSpec { mode: Some(LayoutMode::Split), ..spec(Format::Ndjson) }, &fixture());
    let expected = format!(
        r#"{{"schemaVersion":"kollect.dev/v1alpha1","itemCount":3,"checksum":"{ITEMS}","exportedAt":"2026-03-01T10:20:30Z","cluster":"west","paths":["west/team-a/configmap/feature-flags.ndjson","west/team-a/deployment/api.ndjson","west/team-a/deployment/web.ndjson"]}}"#
    );
    assert_eq!(text(&rendered.files[3]), format!("{expected}\n"));
}

// E14.
#[test]
fn rows_that_embed_their_object_make_a_tree_of_manifests() {
    let manifest = |name: &str, kind: &str, key: &str| {
        let attributes =
            format!(r#"{{"note":"x","{key}":{{"apiVersion":"apps/v1","kind":"{kind}","spec":{{"replicas":3}}}}}}"#);
        row("deploys", ("apps", "Deployment"), name, "team-a", name, &attributes)
    };
    let auto = || LayoutSpec { mode: None, ..spec(Format::Yaml) };
    let rows = || vec![manifest("api", "Deployment", "resource"), manifest("web", "deployment", "resource")];
    let rendered = render(auto(), &document(rows(), 10_000));
    assert_eq!(paths(&rendered), ["west/team-a/deployment/api.yaml", "west/team-a/deployment/web.yaml"]);
    assert_eq!(text(&rendered.files[0]), "apiVersion: apps/v1\nkind: Deployment\nspec:\n  replicas: 3\n");
    for other in [manifest("x", "Pod", "resource"), manifest("x", "Deployment", "object"), api()] {
        let mut rows = rows();
        rows.push(other);
        assert_eq!(paths(&render(auto(), &document(rows, 10_000))), ["inventory/team-a/apps.yaml"]);
    }
    let manifests = LayoutSpec { content: LayoutContent::Manifest, ..tree(Format::Yaml) };
    assert_eq!(render(manifests.clone(), &document(rows(), 10_000)).files, rendered.files);
    let error = Layout::new(manifests).unwrap().document(&document(vec![api()], 10_000)).unwrap_err();
    let expected = "spec.layout.content: manifest needs an object in attribute \"resource\", and Deployment team-a/api \
                    has none; set export.mode Resource in its profile, or choose content item";
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.class(), Class::Terminal);
}

// E16: what is not among the files any more is deleted by whoever owns them.
#[test]
fn a_tree_has_no_file_of_a_row_that_is_gone() {
    let rendered = render(tree(Format::Yaml), &document(vec![api(), flags()], 10_000));
    assert_eq!(paths(&rendered), ["west/team-a/configmap/feature-flags.yaml", "west/team-a/deployment/api.yaml"]);
    assert_eq!(render(tree(Format::Yaml), &document(Vec::new(), 10_000)).files, []);
}

// E17.
#[test]
fn paths_are_safe_and_the_same_object_of_two_targets_has_two() {
    let layout = Layout::new(LayoutSpec { cluster: Cluster::new(""), ..tree(Format::Yaml) }).unwrap();
    let path = |namespace: &str, kind: &str, name: &str| {
        layout.path(&inventory(), 4, &row("t", ("g", kind), U1, namespace, name, "{}")).unwrap().to_string()
    };
    assert_eq!(path("", "ClusterRole", "cr"), "default/clusterrole/cr.yaml");
    assert_eq!(path("", "ClusterRole", "system:node:a/b"), "default/clusterrole/system-node-a-b.yaml");
    assert_eq!(path("n", "Pod", ".hidden"), "default/n/pod/hidden.yaml");
    let attributes = r#"{"image":"ghcr.io/acme/api:1.4.2","replicas":3}"#;
    let twin = row("zz", ("apps", "Deployment"), U1, "team-a", "api", attributes);
    let other = row("zz", ("apps", "Deployment"), U2, "team-a", "api", attributes);
    let rendered = render(tree(Format::Yaml), &document(vec![other.clone(), twin.clone(), api()], 10_000));
    let expected =
        ["api.yaml", "api-zz.yaml", "api-22222222.yaml"].map(|name| format!("west/team-a/deployment/{name}"));
    assert_eq!(paths(&rendered), expected);
    let unique = |row| layout.unique_path(&inventory(), 4, row, &api()).unwrap().to_string();
    assert_eq!(unique(&twin), "default/team-a/deployment/api-zz.yaml");
    assert_eq!(unique(&other), "default/team-a/deployment/api-22222222.yaml");
}

#[test]
fn an_empty_inventory_is_an_empty_document() {
    let empty = document(Vec::new(), 1);
    let rendered = |format| render(spec(format), &empty);
    assert_eq!(text(&rendered(Format::Yaml).files[0]), "[]\n");
    assert_eq!(text(&rendered(Format::Ndjson).files[0]), "");
    let json = rendered(Format::Json);
    assert!(text(&json.files[0]).ends_with(r#""itemCount":0,"exportedAt":"2026-03-01T10:20:30.5Z","items":[]}"#));
    assert_eq!(json.checksum.to_string(), "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945");
    assert_eq!(render(LayoutSpec { mode: None, ..spec(Format::Yaml) }, &empty), rendered(Format::Yaml));
}

#[test]
fn a_row_that_no_part_can_hold_is_left_out_and_named() {
    let long = format!(r#"{{"x":"{}"}}"#, "y".repeat(800));
    let rows = vec![api(), row("deploys", ("apps", "Deployment"), "long", "team-a", "long", &long), web()];
    let rendered = render(spec(Format::Json), &document(rows.clone(), 700));
    assert_eq!(rendered.files.len(), 3);
    let [refused] = rendered.refused.as_slice() else { panic!("{:?}", rendered.refused) };
    assert_eq!((refused.row.body.name(), refused.ceiling), ("long", 700));
    let expected = format!(
        "one row of inventory team-a/apps makes a file of {} bytes, more than spec.maxExportBytes (700); raise it, or \
         let the profile name fewer attributes",
        refused.bytes
    );
    assert_eq!(refused.message, expected);
    let kept = render(spec(Format::Json), &document(vec![api(), web()], 700));
    assert_eq!((rendered.checksum, rendered.set_checksum), (kept.checksum, kept.set_checksum));
    let tree = render(tree(Format::Json), &document(rows, 700));
    assert_eq!((tree.files.len(), tree.refused.len()), (2, 1));
}

#[test]
fn no_part_is_longer_than_the_ceiling_and_none_could_take_one_row_more() {
    let rows: Vec<Row> = (0..120)
        .map(|n| {
            row("t", ("", "Pod"), &format!("u{n}"), "a", &format!("p{n}"), &format!(r#"{{"n":"{}"}}"#, "x".repeat(n)))
        })
        .collect();
    for ceiling in [600, 1_000, 3_000, 20_000] {
        let rendered = render(spec(Format::Json), &document(rows.clone(), ceiling));
        let parts = rendered.files.iter().filter(|file| file.path.as_str().contains("part"));
        let sizes: Vec<u64> = parts.map(|file| file.text.bytes.len() as u64).collect();
        assert!(sizes.iter().all(|size| *size <= ceiling), "{ceiling} {sizes:?}");
        let (_, full) = sizes.split_last().unwrap();
        assert!(full.iter().all(|size| *size + 320 > ceiling), "{ceiling} {sizes:?}");
    }
}

#[test]
fn time_and_generation_are_no_change() {
    let split = || LayoutSpec { mode: Some(LayoutMode::Split), ..spec(Format::Yaml) };
    let layouts = [
        (spec(Format::Json), 10_000),
        (spec(Format::Json), 700),
        (spec(Format::Yaml), 700),
        (split(), 10_000),
        (LayoutSpec { format: Format::Json, ..split() }, 10_000),
        (LayoutSpec { format: Format::Ndjson, ..split() }, 10_000),
    ];
    for (spec, max_part_bytes) in layouts {
        let now = Document { max_part_bytes, ..fixture() };
        let mut later = now.clone();
        later.exported_at = "2026-12-31T00:00:00.123456789Z".parse().unwrap();
        later.standing.generation = 17;
        let mut unnumbered = later.clone();
        unnumbered.standing.generation = 0;
        let changed = Document { rows: now.rows.iter().skip(1).cloned().collect(), ..now.clone() };
        let files = |document| render(spec.clone(), document).files;
        for other in [&later, &unnumbered] {
            for (file, held) in files(&now).iter().zip(files(other)) {
                assert!(file.text.says_the_same(&held.text.bytes), "{file:?}");
                assert!(held.text.says_the_same(&file.text.bytes), "{file:?}");
                let longer = [held.text.bytes.as_slice(), b" "].concat();
                assert!(!file.text.says_the_same(&longer));
                assert!(!file.text.says_the_same(&held.text.bytes[..held.text.bytes.len() - 2]));
            }
        }
        let (now, changed) = (files(&now), files(&changed));
        assert!(!now.last().unwrap().text.says_the_same(&changed.last().unwrap().text.bytes));
    }
}

#[test]
fn a_layout_says_which_field_is_wrong() {
    for (spec, expected) in [
        (
            spec(Format::Parquet),
            "spec.serialization.format: parquet is not written to a repository; choose yaml, json or ndjson",
        ),
        (
            LayoutSpec { document_path: "{name}".to_owned(), ..spec(Format::Yaml) },
            "spec.pathTemplate: must contain {namespace} and {name}, else two inventories would write to one place",
        ),
        (
            LayoutSpec { row_path: "../{uid}".to_owned(), ..spec(Format::Yaml) },
            "spec.layout.pathTemplate: must be a relative path without '..'",
        ),
        (
            LayoutSpec { index_path: "{namespace}//{name}".to_owned(), ..spec(Format::Yaml) },
            "spec.layout.index.pathTemplate: gives the path \"team-a//api\": it has an empty segment; remove the slash \
             that is too many",
        ),
        (
            LayoutSpec { row_path: ".git/{uid}".to_owned(), ..spec(Format::Yaml) },
            "spec.layout.pathTemplate: gives the path \".git/00000000-0000-4000-8000-000000000000\": it leads into \
             '.git' or '.kollect', which are not for files; choose another folder",
        ),
    ] {
        assert_eq!(Layout::new(spec).unwrap_err().to_string(), expected);
    }
}

#[test]
fn examples_show_at_most_three_files() {
    let files = |spec| -> Vec<String> {
        Layout::new(spec).unwrap().examples().unwrap().files.iter().map(FilePath::to_string).collect()
    };
    assert_eq!(files(LayoutSpec::default()), ["inventory/team-a/api.yaml"]);
    let rows = ["api", "web", "worker"].map(|name| format!("west/team-a/deployment/{name}.yaml"));
    assert_eq!(files(tree(Format::Yaml)), rows);
    let split = files(LayoutSpec { mode: Some(LayoutMode::Split), ..spec(Format::Yaml) });
    assert_eq!(split, [rows[0].as_str(), rows[1].as_str(), "inventory/team-a/api.yaml"]);
}

#[test]
fn a_sink_is_read_with_its_defaults() {
    let read = |spec: serde_json::Value| {
        let spec: KollectSnapshotSinkSpec = serde_json::from_value(spec).unwrap();
        LayoutSpec::of(&spec.common)
    };
    assert_eq!(read(serde_json::json!({"type": "git"})), LayoutSpec::default());
    let said = read(serde_json::json!({
        "type": "git", "cluster": "west", "pathTemplate": "a/{namespace}/{name}", "serialization": {"format": "json"},
        "layout": {
            "mode": "split", "content": "manifest", "pathTemplate": "{uid}",
            "index": {"enabled": false, "pathTemplate": "i/{namespace}/{name}"},
            "filename": {"groupInPath": "never", "lowercaseKind": false, "maxSegmentLength": 10},
        },
    }));
    let expected = LayoutSpec {
        mode: Some(LayoutMode::Split),
        content: LayoutContent::Manifest,
        format: Format::Json,
        cluster: Cluster::new("west"),
        document_path: "a/{namespace}/{name}".to_owned(),
        row_path: "{uid}".to_owned(),
        index_path: "i/{namespace}/{name}".to_owned(),
        index: Index::Omitted,
        group: GroupInPath::Never,
        kind_case: KindCase::Kept,
        max_segment_bytes: NonZeroUsize::new(10).unwrap(),
        manifest_key: "resource".to_owned(),
    };
    assert_eq!(said, expected);
    assert_eq!(read(serde_json::json!({"type": "git", "layout": {}})).mode, Some(LayoutMode::Document));
}
