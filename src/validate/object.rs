//! `KollectSnapshotSink` of the types `s3` and `gcs`.

use std::time::Duration as StdDuration;

use super::bucket::{self, Bucket, Scheme, Server};
use super::sink::{Probe, common};
use super::{Duration, FieldErrors, FieldPath, Findings, template};
use crate::api::v1alpha1::sink::{Compression, Format, ProvisioningMode, Tls};
use crate::api::v1alpha1::snapshot_sink::{ObjectFormat, ObjectStore};
use crate::api::v1alpha1::{KollectSnapshotSinkSpec, SecretRef, SnapshotSinkType};
use crate::metrics::SinkType;
use crate::model::Cluster;

/// Region of a sink that names none.
pub const REGION: &str = "us-east-1";
/// Attributes with a column of their own where the sink names none.
pub const HOT_ATTRIBUTES: [&str; 2] = ["image", "version"];
/// The most attributes with a column of their own.
const MAX_HOT_ATTRIBUTES: usize = 256;

/// A bucket whose settings are understood; its credentials are in a Secret and not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatedObject {
    /// `s3` or `gcs`.
    pub kind: SinkType,
    /// Where objects go.
    pub bucket: Bucket,
    /// Region that requests are signed for.
    pub region: String,
    /// Where the name of the bucket stands in an address.
    pub addressing: Addressing,
    /// How objects are written.
    pub encoding: Encoding,
    /// `spec.pathTemplate`, if the sink says it.
    pub path_template: Option<String>,
    /// What becomes of the objects of earlier generations.
    pub retention: Retention,
    /// `spec.secretRef`; an empty namespace is that of the sink.
    pub secret_ref: Option<SecretRef>,
    /// Trust settings, as written.
    pub tls: Tls,
    /// What keeps the operators of a fleet apart; may be empty.
    pub cluster: Cluster,
    /// The least time between two writes, if the sink says it.
    pub min_interval: Option<StdDuration>,
    /// Whether a change of the sink probes it.
    pub probe: Probe,
    /// Remarks that do not stop the sink, such as a setting without effect.
    pub warnings: Vec<String>,
}

/// Where the name of a bucket stands in an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Addressing {
    /// `https://host/bucket/key`.
    Path,
    /// `https://bucket.host/key`.
    Host,
}

/// How objects are written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// One envelope.
    Json(Packing),
    /// One line for each row.
    Ndjson(Packing),
    /// Columns.
    Parquet {
        /// How pages are compressed.
        codec: Codec,
        /// Attributes with a column of their own, as they are named in rows.
        hot: Vec<String>,
    },
}

impl Encoding {
    /// Returns an encoding of a format by its name, with nothing said about compression and columns.
    pub fn named(format: &str) -> Option<Self> {
        let codec = Codec::None;
        [Self::Json(Packing::Plain), Self::Ndjson(Packing::Plain), Self::Parquet { codec, hot: Vec::new() }]
            .into_iter()
            .find(|encoding| encoding.format() == format)
    }

    /// Returns the name of the format.
    pub const fn format(&self) -> &'static str {
        match self {
            Self::Json(_) => "json",
            Self::Ndjson(_) => "ndjson",
            Self::Parquet { .. } => "parquet",
        }
    }
}

/// How a text is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// As a gzip file, with `.gz` at the end of its key.
    Gzip,
}

/// How the pages of a Parquet file are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Not at all.
    None,
    /// Fast.
    Snappy,
    /// Small.
    Zstd,
}

/// What becomes of the objects of earlier generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// So many are kept besides the newest; all of them where that is not said.
    pub generations: Option<usize>,
    /// They are kept for so long.
    pub max_age: Option<StdDuration>,
}

/// Checks a sink of type `s3` or `gcs`.
///
/// # Errors
/// Terminal, with everything that is wrong.
pub fn object(spec: &KollectSnapshotSinkSpec) -> Result<ValidatedObject, FieldErrors> {
    let mut findings = Findings::default();
    let root = FieldPath::spec();
    common(&mut findings, &spec.common);
    let kind = if spec.type_ == SnapshotSinkType::Gcs { SinkType::Gcs } else { SinkType::S3 };
    blocks(&mut findings, spec);
    let mut warnings = Vec::new();
    let bucket = address(&mut findings, &mut warnings, spec, kind);
    let store = spec.object_store.clone().unwrap_or_default();
    if spec.common.secret_ref.as_ref().is_some_and(|secret| secret.name.trim().is_empty()) {
        let path = root.field("secretRef").field("name");
        findings.add(path, "is blank; name the Secret with the credentials, or remove the reference");
    }
    if let Some(template) = &spec.common.path_template {
        template::document_path(&mut findings, &root.field("pathTemplate"), template);
    }
    let region = region(&mut findings, &store);
    let retention = retention(&mut findings, &store);
    let encoding = encoding(&mut findings, &mut warnings, spec, &store);
    let mut validated = ValidatedObject {
        kind,
        addressing: addressing(&bucket, store.path_style),
        bucket,
        region,
        encoding,
        path_template: spec.common.path_template.clone(),
        retention,
        secret_ref: spec.common.secret_ref.clone(),
        tls: spec.common.tls.clone().unwrap_or_default(),
        cluster: Cluster::new(spec.common.cluster.clone().unwrap_or_default()),
        min_interval: spec.common.export_min_interval.map(Duration::get),
        probe: Probe::of(spec.common.connection_test),
        warnings: Vec::new(),
    };
    warnings.extend(remarks(spec, &validated, &store));
    validated.warnings = warnings;
    findings.give(validated)
}

/// Blocks that belong to other types.
fn blocks(findings: &mut Findings, spec: &KollectSnapshotSinkSpec) {
    for (field, stray, owner) in [
        ("git", spec.git.is_some(), "type git"),
        ("gitlab", spec.gitlab.is_some(), "type gitlab"),
        ("layout", spec.common.layout.is_some(), "the types git and gitlab"),
    ] {
        if stray {
            findings.add(FieldPath::spec().field(field), format!("is allowed only for {owner}; remove it"));
        }
    }
    if spec.http.is_some() {
        findings.add(FieldPath::spec().field("http"), "is not allowed; remove it");
    }
}

fn address(
    findings: &mut Findings,
    remarks: &mut Vec<String>,
    spec: &KollectSnapshotSinkSpec,
    kind: SinkType,
) -> Bucket {
    let path = FieldPath::spec().field("endpoint");
    let endpoint = spec.common.endpoint.as_deref().unwrap_or_default().trim();
    let nowhere = Bucket { server: Server::Amazon, name: String::new(), prefix: String::new() };
    if endpoint.is_empty() {
        let example = if kind == SinkType::Gcs { "gs://bucket/prefix" } else { "s3://bucket/prefix" };
        findings.add_for_use(path, format!("is missing; write the address of the bucket, such as {example}"));
        return nowhere;
    }
    let (bucket, aside) = match bucket::bucket(kind, endpoint) {
        Ok(read) => read,
        Err(message) => {
            findings.add(path, message);
            return nowhere;
        }
    };
    if aside.user_info {
        remarks.push(format!("{path}: user and password in it are ignored; put the keys into a Secret"));
    }
    if matches!(bucket.server, Server::Other { scheme: Scheme::Http, .. }) {
        remarks.push(format!("{path}: http:// sends rows in plain text; write https://"));
    }
    bucket
}

fn addressing(bucket: &Bucket, path_style: Option<bool>) -> Addressing {
    let by_path = path_style.unwrap_or(match bucket.server {
        // No certificate of Amazon covers a name with dots in front of its own.
        Server::Amazon => bucket.name.contains('.'),
        Server::Google | Server::Other { .. } => true,
    });
    if by_path { Addressing::Path } else { Addressing::Host }
}

fn region(findings: &mut Findings, store: &ObjectStore) -> String {
    let region = store.region.as_deref().map_or(REGION, str::trim);
    if region.is_empty() || !region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        let path = FieldPath::spec().field("objectStore").field("region");
        findings.add(path, "is not the name of a region; write one such as eu-central-1, or remove it");
    }
    region.to_owned()
}

fn retention(findings: &mut Findings, store: &ObjectStore) -> Retention {
    let Some(retention) = &store.retention else { return Retention::default() };
    let generations = retention.generations.map(|count| {
        usize::try_from(count).unwrap_or_else(|_| {
            let path = FieldPath::spec().field("objectStore").field("retention").field("generations");
            findings.add(path, format!("{count} is out of range; write 0 or more"));
            0
        })
    });
    Retention { generations, max_age: retention.max_age.map(Duration::get) }
}

fn encoding(
    findings: &mut Findings,
    remarks: &mut Vec<String>,
    spec: &KollectSnapshotSinkSpec,
    store: &ObjectStore,
) -> Encoding {
    let said = spec.common.serialization.clone().unwrap_or_default();
    let format = said.format.or(store.format.map(|format| match format {
        ObjectFormat::Json => Format::Json,
        ObjectFormat::Parquet => Format::Parquet,
    }));
    let without = "spec.serialization.compression: without effect";
    let packing = match said.compression {
        Some(Compression::Gzip) => Packing::Gzip,
        Some(Compression::Snappy | Compression::Zstd) if format != Some(Format::Parquet) => {
            remarks.push(format!("{without}, JSON is compressed with gzip only; write gzip or remove it"));
            Packing::Plain
        }
        _ => Packing::Plain,
    };
    match format.unwrap_or(Format::Json) {
        Format::Json => Encoding::Json(packing),
        Format::Ndjson => Encoding::Ndjson(packing),
        Format::Parquet => {
            let codec = match said.compression {
                Some(Compression::None) => Codec::None,
                Some(Compression::Snappy) => Codec::Snappy,
                Some(Compression::Zstd) | None => Codec::Zstd,
                Some(Compression::Gzip) => {
                    remarks.push(format!("{without}, parquet is compressed with zstd or snappy; write one of them"));
                    Codec::Zstd
                }
            };
            Encoding::Parquet { codec, hot: hot(findings, store) }
        }
        Format::Yaml | Format::Csv => {
            let path = FieldPath::spec().field("serialization").field("format");
            findings.add_for_use(path, "does not fit a bucket; write json, ndjson or parquet");
            Encoding::Json(packing)
        }
    }
}

fn hot(findings: &mut Findings, store: &ObjectStore) -> Vec<String> {
    let path = FieldPath::spec().field("objectStore").field("hotAttributes");
    if store.hot_attributes.len() > MAX_HOT_ATTRIBUTES {
        findings.add(path.clone(), format!("has more than {MAX_HOT_ATTRIBUTES} entries; remove some"));
    }
    for (index, name) in store.hot_attributes.iter().enumerate() {
        if name.trim().is_empty() {
            findings.add(path.index(index), "is blank; name an attribute or remove it");
        }
    }
    if store.hot_attributes.is_empty() {
        return HOT_ATTRIBUTES.map(str::to_owned).to_vec();
    }
    store.hot_attributes.clone()
}

/// Returns what does not stop the sink and is worth knowing.
fn remarks(spec: &KollectSnapshotSinkSpec, sink: &ValidatedObject, store: &ObjectStore) -> Vec<String> {
    let path = sink.path_template.as_deref();
    let parquet = matches!(sink.encoding, Encoding::Parquet { .. });
    let archives = parquet || path.is_some_and(|path| path.contains("{generation}"));
    let provisioning = spec.common.provisioning.as_ref().and_then(|provisioning| provisioning.mode);
    let alone = !parquet && !sink.cluster.is_empty() && !path.is_some_and(|path| path.contains("{cluster}"));
    let mut remarks = Vec::new();
    for (said, remark) in [
        (path.is_some() && parquet, "spec.pathTemplate: without effect, keys of parquet are fixed; remove it"),
        (
            !parquet && !store.hot_attributes.is_empty(),
            "spec.objectStore.hotAttributes: without effect, only parquet has columns; remove it",
        ),
        (
            store.retention.is_some() && !archives,
            "spec.objectStore.retention: without effect, every generation has the same key; \
             put {generation} into spec.pathTemplate",
        ),
        (
            provisioning == Some(ProvisioningMode::Existing),
            "spec.provisioning.mode: without effect, a bucket is never created",
        ),
        (
            spec.common.tls.as_ref().is_some_and(|tls| tls.insecure_skip_verify),
            "spec.tls.insecureSkipVerify: the certificate is not checked; for tests only",
        ),
        (
            alone,
            "spec.pathTemplate: has no {cluster}, so the clusters of a fleet write to one object; \
             write clusters/{cluster}/{namespace}/{name}{extension}",
        ),
    ] {
        if said {
            remarks.push(remark.to_owned());
        }
    }
    let options = spec.common.options.keys();
    remarks.extend(options.map(|key| format!("spec.options.{key}: unknown, ignored; object stores know no options")));
    remarks
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(more: &Value) -> Result<ValidatedObject, String> {
        let mut spec = json!({"type": "s3", "endpoint": "s3://inv/prod"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let spec: KollectSnapshotSinkSpec = serde_json::from_value(spec).unwrap();
        object(&spec).map_err(|errors| errors.to_string())
    }

    #[test]
    fn what_is_absent_has_its_default() {
        let sink = check(&json!({})).unwrap();
        assert_eq!((sink.kind, sink.region.as_str(), sink.addressing), (SinkType::S3, "us-east-1", Addressing::Host));
        assert_eq!(sink.encoding, Encoding::Json(Packing::Plain));
        assert_eq!(sink.retention, Retention::default());
        assert!(sink.warnings.is_empty(), "{:?}", sink.warnings);
        let parquet = check(&json!({"objectStore": {"format": "parquet"}})).unwrap();
        let hot = vec!["image".to_owned(), "version".to_owned()];
        assert_eq!(parquet.encoding, Encoding::Parquet { codec: Codec::Zstd, hot });
    }

    #[test]
    fn the_bucket_stands_in_the_path_of_servers_and_before_the_host_of_amazon() {
        for (more, want) in [
            (json!({"endpoint": "s3://inv"}), Addressing::Host),
            (json!({"endpoint": "s3://inv.example.com"}), Addressing::Path),
            (json!({"endpoint": "s3://inv", "objectStore": {"pathStyle": true}}), Addressing::Path),
            (json!({"endpoint": "https://minio.example/inv"}), Addressing::Path),
            (json!({"endpoint": "https://minio.example/inv", "objectStore": {"pathStyle": false}}), Addressing::Host),
            (json!({"type": "gcs", "endpoint": "gs://inv"}), Addressing::Path),
        ] {
            assert_eq!(check(&more).unwrap().addressing, want, "{more}");
        }
    }

    #[test]
    fn format_and_compression_make_the_encoding() {
        let hot = || HOT_ATTRIBUTES.map(str::to_owned).to_vec();
        for (format, compression, want, remarks) in [
            ("json", None, Encoding::Json(Packing::Plain), 0),
            ("json", Some("gzip"), Encoding::Json(Packing::Gzip), 0),
            ("json", Some("zstd"), Encoding::Json(Packing::Plain), 1),
            ("ndjson", Some("gzip"), Encoding::Ndjson(Packing::Gzip), 0),
            ("parquet", None, Encoding::Parquet { codec: Codec::Zstd, hot: hot() }, 0),
            ("parquet", Some("none"), Encoding::Parquet { codec: Codec::None, hot: hot() }, 0),
            ("parquet", Some("snappy"), Encoding::Parquet { codec: Codec::Snappy, hot: hot() }, 0),
            ("parquet", Some("gzip"), Encoding::Parquet { codec: Codec::Zstd, hot: hot() }, 1),
        ] {
            let mut serialization = json!({"format": format});
            if let Some(compression) = compression {
                serialization["compression"] = json!(compression);
            }
            let sink = check(&json!({"serialization": serialization})).unwrap();
            assert_eq!((sink.encoding, sink.warnings.len()), (want, remarks), "{format} {compression:?}");
        }
    }

    #[test]
    fn every_mistake_is_named_with_its_place_at_once() {
        let message = check(&json!({
            "endpoint": "gs://inv", "git": {}, "layout": {}, "pathTemplate": "{namespace}.json",
            "serialization": {"format": "yaml"}, "secretRef": {"name": " "},
            "objectStore": {"region": "eu west", "retention": {"generations": -1}},
        }))
        .unwrap_err();
        for expected in [
            "spec.endpoint: is an address of type gcs",
            "spec.git: is allowed only for type git; remove it",
            "spec.layout: is allowed only for the types git and gitlab; remove it",
            "spec.pathTemplate: must contain {namespace} and {name}",
            "spec.serialization.format: does not fit a bucket",
            "spec.secretRef.name: is blank",
            "spec.objectStore.region: is not the name of a region",
            "spec.objectStore.retention.generations: -1 is out of range",
        ] {
            assert!(message.contains(expected), "{expected}\nis not in\n{message}");
        }
        let message = check(&json!({"endpoint": ""})).unwrap_err();
        assert!(message.starts_with("spec.endpoint: is missing"), "{message}");
    }

    #[test]
    fn settings_without_effect_are_remarked_upon() {
        let sink = check(&json!({
            "cluster": "west", "options": {"acl": "public"}, "provisioning": {"mode": "existing"},
            "objectStore": {"hotAttributes": ["image"], "retention": {"generations": 3, "maxAge": "720h"}},
        }))
        .unwrap();
        let retention = Retention { generations: Some(3), max_age: Some(StdDuration::from_hours(720)) };
        assert_eq!((sink.retention, sink.warnings.len()), (retention, 5), "{:?}", sink.warnings);
        let archive =
            json!({"pathTemplate": "{cluster}/{namespace}/{name}/{generation}.json", "objectStore": {"retention": {}}});
        assert_eq!(check(&archive).unwrap().warnings, Vec::<String>::new());
    }
}
