//! Whole profiles over whole objects, from what a user applies to the text of a row: Helm releases, Secrets, copies of
//! objects, and objects of well-known operators.

use std::collections::BTreeMap;
use std::io::Write as _;

use k8s_openapi::ByteString;
use serde_json::{Value as Json, json};

use crate::api::v1alpha1::KollectProfileSpec;
use crate::extract::{Extractor, Plan, TypeMeta, decode};
use crate::validate::{self, ALLOW_FULL_RESOURCE_EXPORT, ALLOW_SECRET_EXTRACTION};

const HIDDEN: &str = r#"{"reason":"sensitive-key","redacted":true}"#;
const WITHHELD: &str = r#"{"reason":"secret-data","redacted":true}"#;

/// Extracts as the watch stage does; the annotations are `true`.
pub(super) fn row(spec: Json, annotations: &[&str], object: &Json) -> Result<String, String> {
    let kind = spec["targetGVK"]["kind"].as_str().unwrap_or_default().to_owned();
    let spec: KollectProfileSpec = serde_json::from_value(spec).unwrap();
    let annotations: BTreeMap<String, String> =
        annotations.iter().map(|&key| (key.to_owned(), "true".to_owned())).collect();
    let profile = validate::profile(&spec, Some(&annotations)).map_err(|errors| errors.to_string())?;
    let extractor = Extractor::of_profile(&profile, &[]).map_err(|errors| errors[0].to_string())?;
    let plan = Plan::new([extractor.prefixes()]);
    let text = object.to_string();
    let object = decode(text.as_bytes(), &plan, TypeMeta { api_version: "v1", kind: &kind }).unwrap();
    let mut out = Vec::new();
    extractor.extract(&object, &mut out).map_err(|error| crate::error::chain(&error))?;
    Ok(String::from_utf8(out).unwrap())
}

/// Extracts one attribute; its value alone.
pub(super) fn value(kind: &str, path: &str, annotations: &[&str], object: &Json) -> Result<String, String> {
    let spec = json!({"targetGVK": {"version": "v1", "kind": kind}, "attributes": [{"name": "v", "path": path}]});
    let row = row(spec, annotations, object)?;
    Ok(row.strip_prefix(r#"{"v":"#).and_then(|row| row.strip_suffix('}')).unwrap().to_owned())
}

fn check(kind: &str, annotations: &[&str], object: &Json, rows: &[(&str, &str)]) {
    let mut wrong = Vec::new();
    for (path, expected) in rows {
        let answer = value(kind, path, annotations, object);
        let fits = match (&answer, expected.strip_prefix("error: ")) {
            (Ok(answer), None) => answer == expected,
            (Err(answer), Some(part)) => answer.contains(part),
            _ => false,
        };
        if !fits {
            wrong.push(format!("{path}\n  expected {expected}\n  found    {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn base64(bytes: &[u8]) -> String {
    serde_json::to_value(ByteString(bytes.to_vec())).unwrap().as_str().unwrap().to_owned()
}

/// A release as Helm stores it.
pub(super) fn helm_secret(release: &Json) -> Json {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(release.to_string().as_bytes()).unwrap();
    let stored = base64(base64(&gzip.finish().unwrap()).as_bytes());
    json!({
        "metadata": {"name": "sh.helm.release.v1.my-app.v2", "namespace": "team-a", "uid": "u-2",
            "labels": {"owner": "helm", "name": "my-app", "status": "deployed", "version": "2"}},
        "type": "helm.sh/release.v1",
        "data": {"release": stored},
    })
}

fn release() -> Json {
    json!({
        "name": "my-app", "namespace": "team-a", "version": 2,
        "info": {"status": "deployed", "first_deployed": "2024-01-10T08:00:00Z", "last_deployed": "2024-01-15T10:30:00Z",
            "notes": "Visit http://my-app"},
        "chart": {
            "metadata": {"name": "nginx", "version": "14.3.0", "appVersion": "2.1.0", "keywords": ["web", "proxy"]},
            "templates": [{"name": "a", "data": "eA=="}], "values": {"password": "chart"}, "files": [], "schema": "",
        },
        "config": {"db": {"host": "h", "password": "x"}, "extraEnv": [{"name": "API_TOKEN", "value": "t"}],
            "single": {"name": "API_TOKEN", "value": "t"}},
        "manifest": "kind: Secret", "hooks": [{"manifest": "x"}],
    })
}

#[test]
fn helm_rows_of_the_table() {
    let secret = helm_secret(&release());
    check(
        "Secret",
        &[],
        &secret,
        &[
            ("helm:release.releaseName", r#""my-app""#),
            ("helm:release.chartName", r#""nginx""#),
            ("helm:release.chartVersion", r#""14.3.0""#),
            ("helm:release.appVersion", r#""2.1.0""#),
            (" helm:release.revision ", "2"),
            ("helm:release.status", r#""deployed""#),
            ("helm:release.lastDeployed", r#""2024-01-15T10:30:00Z""#),
            ("helm:release.namespace", r#""team-a""#),
            ("helm:release.chart.metadata.version", r#""14.3.0""#),
            ("helm:release.chart.metadata.keywords", r#"["web","proxy"]"#),
            ("helm:release.info.first_deployed", r#""2024-01-10T08:00:00Z""#),
            ("helm:release.manifest", r#"error: helm release field "manifest" is not exportable"#),
            ("helm:release.hooks", r#"error: helm release field "hooks" is not exportable"#),
            (
                "helm:release.chart.templates.foo",
                r#"error: helm release field "chart.templates.foo" is not exportable"#,
            ),
            ("helm:release.chart", r#"error: helm release field "chart" is not exportable"#),
            ("helm:release.config", "error: kollect.dev/allow-secret-extraction"),
            ("helm:release.config.db.host", "error: kollect.dev/allow-secret-extraction"),
            ("helm:release.doesNotExist", "null"),
            ("helm:release.doesNotExist.below", "null"),
            ("helm:release.name.sub", "error: string has no fields"),
            ("helm:release.chart.metadata.keywords.x", "error: list has no fields"),
            ("helm:release.", "error: empty helm release field"),
            ("helm:x", "error: names no field"),
            ("{.data.release}", "error: kollect.dev/allow-secret-extraction"),
            ("{.metadata.labels.status}", r#""deployed""#),
        ],
    );
    check(
        "Secret",
        &[ALLOW_SECRET_EXTRACTION],
        &secret,
        &[
            ("helm:release.config.db", &format!(r#"{{"host":"h","password":{HIDDEN}}}"#)),
            ("helm:release.config.db.host", r#""h""#),
            ("helm:release.config.db.password", HIDDEN),
            ("helm:release.config.single.value", HIDDEN),
            ("helm:release.config.extraEnv", &format!(r#"[{{"name":"API_TOKEN","value":{HIDDEN}}}]"#)),
            ("helm:release.manifest", "error: is not exportable"),
        ],
    );
    let legacy = json!({"data": {"release": base64(br#"{"name":"legacy-app","version":7}"#)}});
    check("Secret", &[], &legacy, &[("helm:release.releaseName", r#""legacy-app""#), ("helm:release.revision", "7")]);
}

#[test]
fn what_is_no_release_fails_its_row_alone() {
    for (object, expected) in [
        (json!({}), "secret has no data"),
        (json!({"data": {"other": "eA=="}}), "secret data.release not found"),
        (json!({"data": {"release": "?"}}), "base64 decode data.release"),
        (json!({"data": {"release": 7}}), "secret data.release has unsupported type"),
        (json!({"data": {"release": base64(b"x")}}), "json decode release"),
    ] {
        let error = value("Secret", "helm:release.name", &[], &object).unwrap_err();
        assert_eq!(error, format!("attribute \"v\": {expected}"));
    }
    let spec = json!({"targetGVK": {"version": "v1", "kind": "Secret"}, "attributes": [
        {"name": "chart", "path": "helm:release.chartName", "optional": true}, {"name": "n", "path": "{.metadata.name}"}]});
    let object = json!({"metadata": {"name": "s"}, "data": {"release": "?"}});
    assert_eq!(row(spec, &[], &object).unwrap(), r#"{"n":"s"}"#);
}

#[test]
fn a_list_field_of_a_release_is_a_list() {
    let spec = json!({"targetGVK": {"version": "v1", "kind": "Secret"}, "attributes": [
        {"name": "a", "path": "helm:release.name", "type": "list"},
        {"name": "b", "path": "helm:release.chart.metadata.keywords", "type": "list"}]});
    assert_eq!(row(spec, &[], &helm_secret(&release())).unwrap(), r#"{"a":["my-app"],"b":["web","proxy"]}"#);
}

#[test]
fn a_release_is_unpacked_once_for_all_targets() {
    let attribute = |path: &str| json!({"name": "v", "path": path});
    let extractors: Vec<Extractor> = ["helm:release.name", "helm:release.info", "{@}"]
        .map(|path| {
            let spec = json!({"targetGVK": {"version": "v1", "kind": "Secret"}, "attributes": [attribute(path)]});
            let spec: KollectProfileSpec = serde_json::from_value(spec).unwrap();
            Extractor::of_profile(&validate::profile(&spec, None).unwrap(), &[]).unwrap()
        })
        .into();
    let plan = Plan::new(extractors.iter().map(Extractor::prefixes));
    let text = helm_secret(&release()).to_string();
    let object = decode(text.as_bytes(), &plan, TypeMeta { api_version: "v1", kind: "Secret" }).unwrap();
    let first: *const _ = object.release().unwrap();
    let rows: Vec<String> = extractors
        .iter()
        .map(|extractor| {
            let mut out = Vec::new();
            extractor.extract(&object, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        })
        .collect();
    assert!(std::ptr::eq(first, object.release().unwrap()));
    assert_eq!(rows[0], r#"{"v":"my-app"}"#);
    assert!(rows[1].contains(r#""status":"deployed""#), "{}", rows[1]);
    assert!(!rows[2].contains(r#""data""#), "{}", rows[2]);
    let kept = object.release().unwrap();
    assert!(kept.get("manifest").is_none() && kept.get("config").is_none(), "nobody reads these");
}

/// A Secret whose content is `MARKER`, wherever it stands.
fn secret() -> Json {
    json!({
        "metadata": {"name": "s", "uid": "u", "annotations": {
            "kubectl.kubernetes.io/last-applied-configuration": r#"{"stringData":{"user":"MARKER"}}"#,
            "kapp.k14s.io/original": r#"{"data":{"user":"MARKER"}}"#, "objectset.rio.cattle.io/applied": "MARKER",
            "team": "a"}},
        "type": "Opaque",
        "data": {"user": "MARKER", "password": "MARKER"},
        "stringData": {"user": "MARKER"},
    })
}

#[test]
fn no_path_sees_the_content_of_a_secret_without_consent() {
    for (path, expected) in [
        (
            "{@}",
            r#"{"apiVersion":"v1","kind":"Secret","metadata":{"annotations":{"team":"a"},"name":"s","uid":"u"},"type":"Opaque"}"#,
        ),
        (
            "cel:object",
            r#"{"apiVersion":"v1","kind":"Secret","metadata":{"annotations":{"team":"a"},"name":"s","uid":"u"},"type":"Opaque"}"#,
        ),
        ("{..user}", "null"),
        ("{.*}", r#"["v1","Secret",{"annotations":{"team":"a"},"name":"s","uid":"u"},"Opaque"]"#),
        ("{..annotations.*}", r#""a""#),
        ("{.metadata.annotations.kubectl\\.kubernetes\\.io/last-applied-configuration}", "null"),
        ("$.metadata.annotations['kapp.k14s.io/original']", "null"),
        ("cel:'objectset.rio.cattle.io/applied' in object.metadata.annotations", "false"),
        ("cel:object.map(k, object[k]).size()", "4"),
        ("cel:object['da' + 'ta']", "error: no such key: one that is computed"),
        ("cel:['data'].map(k, object[k])", "error: no such key: data"),
        ("cel:('da' + 'ta') in object", "false"),
        ("cel:object.exists(k, k.startsWith('stringD'))", "false"),
        ("{.type}", r#""Opaque""#),
    ] {
        check("Secret", &[], &secret(), &[(path, expected)]);
    }
    for path in
        ["{.data.user}", "$.data['user']", "{['data']}", "{$.stringData}", "cel:object['data'].user", "{..data}"]
    {
        check("Secret", &[], &secret(), &[(path, "error: kollect.dev/allow-secret-extraction: \"true\"")]);
    }
}

#[test]
fn with_consent_what_is_not_sensitive_by_its_key_is_shown() {
    check(
        "Secret",
        &[ALLOW_SECRET_EXTRACTION],
        &secret(),
        &[
            ("{.data.user}", r#""MARKER""#),
            ("{.data}", &format!(r#"{{"password":{HIDDEN},"user":"MARKER"}}"#)),
            ("{.data.password}", HIDDEN),
            ("{['data']['password']}", HIDDEN),
            // What repeats the content as text is no way around that.
            ("{.metadata.annotations}", r#"{"team":"a"}"#),
            ("$.metadata.annotations['kapp.k14s.io/original']", "null"),
            ("cel:object.metadata.annotations.size()", "1"),
        ],
    );
}

fn copy(kind: &str, export: &Json, annotations: &[&str], object: &Json) -> Json {
    let spec = json!({"targetGVK": {"version": "v1", "kind": kind}, "export": export});
    let row = row(spec, annotations, object).unwrap();
    let mut row: Json = serde_json::from_str(&row).unwrap();
    row.as_object_mut().unwrap().remove("resource").unwrap()
}

fn deployment() -> Json {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "team-a", "uid": "u-1", "resourceVersion": "7", "generation": 3,
            "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"a/b": "x", "pod-template-hash": "h"},
            "managedFields": [{"manager": "m"}],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "argocd.argoproj.io/tracking-id": "t",
                "team": "a"}},
        "spec": {"l": ["x", "y", "z"], "m": [{"n": 1, "o": 2}], "env": {"password": "p", "host": "h"}},
        "status": {"readyReplicas": 1},
        "extra": {"a": 1},
    })
}

#[test]
fn sections_identity_and_defaults_of_a_copy() {
    let object = deployment();
    let redacted = json!({"redacted": true, "reason": "sensitive-key"});
    let mut spec = object["spec"].clone();
    spec["env"]["password"] = redacted;
    let top = json!({"apiVersion": "apps/v1", "kind": "Deployment"});
    let with = |sections: &[(&str, &Json)]| {
        let mut all = top.clone();
        for (key, section) in sections {
            all[key] = (*section).clone();
        }
        all
    };
    let status = &object["status"];
    let metadata = json!({"creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {"a/b": "x", "pod-template-hash": "h"}, "annotations": {"team": "a"}});
    for (export, expected) in [
        (json!({"mode": "Resource"}), with(&[("spec", &spec), ("status", status)])),
        (json!({"mode": "Resource", "include": "SpecOnly"}), with(&[("spec", &spec)])),
        (json!({"mode": "Resource", "include": "StatusOnly"}), with(&[("status", status)])),
        (json!({"mode": "Resource", "include": "MetadataOnly"}), with(&[("metadata", &metadata)])),
        (
            json!({"mode": "Resource", "include": "All"}),
            with(&[("metadata", &metadata), ("spec", &spec), ("status", status), ("extra", &object["extra"])]),
        ),
        (
            json!({"mode": "Resource", "include": "All", "dedupeIdentity": false, "prune": {"defaults": false}}),
            with(&[
                ("metadata", &object["metadata"]),
                ("spec", &spec),
                ("status", status),
                ("extra", &object["extra"]),
            ]),
        ),
    ] {
        assert_eq!(copy("Deployment", &export, &[], &object), expected, "{export}");
    }
}

#[test]
fn what_authors_prune_is_taken_out_of_the_copy() {
    let object = deployment();
    let pruned =
        |prune: Json| copy("Deployment", &json!({"mode": "Resource", "include": "All", "prune": prune}), &[], &object);
    let plain = pruned(json!({}));
    let without = |change: fn(&mut Json)| {
        let mut changed = plain.clone();
        change(&mut changed);
        changed
    };
    for (prune, expected) in [
        (json!({"jsonPointers": ["/spec/l/1"]}), without(|all| all["spec"]["l"] = json!(["x", null, "z"]))),
        (json!({"jsonPointers": ["/spec/m/0/n"]}), without(|all| all["spec"]["m"] = json!([{"o": 2}]))),
        (
            json!({"jsonPointers": ["/", "/spec/l/9", "/spec/l/-1", "/spec/l/01", "/spec/l/-", "/no/such"]}),
            plain.clone(),
        ),
        (
            json!({"jsonPointers": ["/metadata/labels/a~1b"]}),
            without(|all| all["metadata"]["labels"] = json!({"pod-template-hash": "h"})),
        ),
        (
            json!({"jsonPaths": ["$.metadata.labels[\"pod-template-hash\"]"]}),
            without(|all| all["metadata"]["labels"] = json!({"a/b": "x"})),
        ),
        (
            json!({"jsonPaths": [".spec.m[0].o", "status.readyReplicas"]}),
            without(|all| {
                all["spec"]["m"] = json!([{"n": 1}]);
                all["status"] = json!({});
            }),
        ),
        (
            json!({"jsonPaths": ["$.spec[*]", "$.*", "$.spec.*.b", "$.spec[?(@.x)]", "$.spec[0", "{.spec}", "$"]}),
            plain.clone(),
        ),
        (
            json!({"jsonPointers": ["/spec", "/spec/l"]}),
            without(|all| {
                all.as_object_mut().unwrap().remove("spec");
            }),
        ),
    ] {
        assert_eq!(pruned(prune.clone()), expected, "{prune}");
    }
    let both = pruned(json!({"scrubKeys": ["host"]}));
    assert_eq!(both["spec"]["env"]["host"]["redacted"], true);
    assert_eq!(both["spec"]["env"]["password"]["redacted"], true);
}

#[test]
fn scrub_keys_of_a_profile_hide_attributes_too() {
    let spec = json!({"targetGVK": {"version": "v1", "kind": "Pod"}, "export": {"prune": {"scrubKeys": ["host"]}},
        "attributes": [{"name": "a", "path": "{.spec.host}"}, {"name": "b", "path": "{.spec}"}]});
    let object = json!({"spec": {"host": "h", "port": 1}});
    assert_eq!(row(spec, &[], &object).unwrap(), format!(r#"{{"a":{HIDDEN},"b":{{"host":{HIDDEN},"port":1}}}}"#));
}

#[test]
fn a_copy_stands_among_the_attributes_in_the_order_of_keys() {
    let object = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"a": 1}});
    for (key, expected) in [
        ("aa", r#"{"aa":{"apiVersion":"v1","kind":"Pod","spec":{"a":1}},"b":1,"c":1}"#),
        ("bb", r#"{"b":1,"bb":{"apiVersion":"v1","kind":"Pod","spec":{"a":1}},"c":1}"#),
        ("d", r#"{"b":1,"c":1,"d":{"apiVersion":"v1","kind":"Pod","spec":{"a":1}}}"#),
    ] {
        let spec = json!({"targetGVK": {"version": "v1", "kind": "Pod"}, "export": {"mode": "Resource", "as": key},
            "attributes": [{"name": "c", "path": "{.spec.a}"}, {"name": "b", "path": "{.spec.a}"}]});
        assert_eq!(row(spec, &[], &object).unwrap(), expected);
    }
}

#[test]
fn the_content_of_a_secret_is_in_no_copy_of_it() {
    let annotations = [ALLOW_FULL_RESOURCE_EXPORT, ALLOW_SECRET_EXTRACTION];
    let top = json!({"apiVersion": "v1", "kind": "Secret"});
    assert_eq!(copy("Secret", &json!({"mode": "Resource"}), &annotations, &secret()), top);
    for prune in [json!({}), json!({"defaults": false}), json!({"defaults": false, "jsonPointers": ["/data/password"]})]
    {
        let export = json!({"mode": "Resource", "include": "All", "prune": prune});
        let all = copy("Secret", &export, &annotations, &secret());
        let withheld: Json = serde_json::from_str(WITHHELD).unwrap();
        assert_eq!((&all["data"], &all["stringData"]), (&withheld, &withheld));
        assert!(!all.to_string().contains("MARKER"), "{all}");
        assert_eq!(all["metadata"]["annotations"]["team"], "a");
    }
    let spec = json!({"targetGVK": {"version": "v1", "kind": "Secret"}, "export": {"mode": "Resource"}});
    let refusal = row(spec, &[ALLOW_SECRET_EXTRACTION], &secret()).unwrap_err();
    assert!(refusal.contains("kollect.dev/allow-full-resource-export: \"true\""), "{refusal}");
}

#[test]
fn objects_of_other_operators_in_the_table() {
    let flux = json!({
        "spec": {"values": {"image": {"tag": "1.2.3"}, "database": {"host": "h", "password": "p"}, "auth": {"token": "t"}}},
        "status": {"lastAttemptedRevision": "14.3.0",
            "history": [{"version": 3, "appVersion": "2.1.0"}, {"version": 2, "appVersion": "2.0.0"}]},
    });
    let values =
        format!(r#"{{"auth":{HIDDEN},"database":{{"host":"h","password":{HIDDEN}}},"image":{{"tag":"1.2.3"}}}}"#);
    check(
        "HelmRelease",
        &[],
        &flux,
        &[
            ("$.status.lastAttemptedRevision", r#""14.3.0""#),
            ("$.status.history[0].appVersion", r#""2.1.0""#),
            ("$.status.history[0].version", "3"),
            ("$.spec.values", &values),
        ],
    );
    let spec = json!({"targetGVK": {"version": "v2", "kind": "HelmRelease"}, "attributes": [
        {"name": "app", "path": "$.status.history[0].appVersion"},
        {"name": "maybe", "path": "$.status.history[0].appVersion", "optional": true}]});
    assert_eq!(row(spec, &[], &json!({"status": {"history": []}})).unwrap(), r#"{"app":null}"#);
    let argo = json!({
        "spec": {"source": {"chart": "nginx", "targetRevision": "14.3.0"}},
        "status": {"sync": {"revision": "14.3.0"}, "summary": {"images": ["nginx:2.1.0"]}, "history": [{"id": 3}]},
    });
    check(
        "Application",
        &[],
        &argo,
        &[
            ("$.status.sync.revision", r#""14.3.0""#),
            ("$.spec.source.chart", r#""nginx""#),
            ("$.spec.source.targetRevision", r#""14.3.0""#),
            ("$.status.summary.images[0]", r#""nginx:2.1.0""#),
            ("$.status.history[0].id", "3"),
        ],
    );
    let certificate = json!({
        "spec": {"commonName": "example.com", "dnsNames": ["example.com"], "issuerRef": {"kind": "ClusterIssuer"}},
        "status": {"notAfter": "2026-07-01T00:00:00Z", "revision": 2, "conditions": [{"status": "True"}]},
    });
    check(
        "Certificate",
        &[],
        &certificate,
        &[
            ("$.spec.commonName", r#""example.com""#),
            ("$.spec.dnsNames[0]", r#""example.com""#),
            ("$.spec.issuerRef.kind", r#""ClusterIssuer""#),
            ("$.status.notAfter", r#""2026-07-01T00:00:00Z""#),
            ("$.status.revision", "2"),
            ("$.status.conditions[0].status", r#""True""#),
        ],
    );
}
