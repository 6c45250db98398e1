//! What a snapshot sink says about its bucket, with every Secret resolved.

use std::path::PathBuf;

use crate::metrics::SinkType;
use crate::model::{Cluster, SinkKey};
use crate::secret::Secret;
use crate::sinks::{Destination, TlsConfig, digest_of};
use crate::validate::{Addressing, Bucket, Encoding, Retention, Scheme, Server};

/// Settings of one sink of type `s3` or `gcs`.
#[derive(Debug, Clone)]
pub struct ObjectConfig {
    /// The sink object: two of them do not write one inventory to one place.
    pub sink: SinkKey,
    /// `s3` or `gcs`.
    pub kind: SinkType,
    /// `spec.cluster`; empty is shown as `default`.
    pub cluster: Cluster,
    /// Where objects go.
    pub bucket: Bucket,
    /// Region that requests are signed for.
    pub region: String,
    /// Where the name of the bucket stands in an address.
    pub addressing: Addressing,
    /// How the operator logs in.
    pub credentials: Credentials,
    /// Certificates.
    pub tls: TlsConfig,
    /// How objects are written.
    pub encoding: Encoding,
    /// `spec.pathTemplate`, if the sink says it.
    pub path_template: Option<String>,
    /// What becomes of the objects of earlier generations.
    pub retention: Retention,
}

/// How the operator logs in to a store.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// Keys of S3, or HMAC keys of Google.
    Keys {
        /// Names the key.
        id: String,
        /// The key.
        secret: Secret,
        /// Goes with keys that were issued for a while.
        session: Option<Secret>,
    },
    /// A token that Kubernetes mounts and Amazon takes for a role.
    WebIdentity {
        /// ARN of the role.
        role: String,
        /// File with the token.
        token_file: PathBuf,
    },
    /// Key of a service account of Google, as JSON.
    ServiceAccount(Secret),
    /// A file with the same.
    GoogleFile(PathBuf),
}

impl ObjectConfig {
    /// Returns the place, without any credential. Each format is a place of its own: two of them stand side by side.
    pub(super) fn destination(&self) -> Destination {
        let Bucket { server, name, prefix } = &self.bucket;
        let host = match server {
            Server::Amazon => "amazon".to_owned(),
            Server::Google => "google".to_owned(),
            Server::Other { authority, .. } => authority.clone(),
        };
        let format = self.encoding.format();
        let parts = [host.as_str(), name, prefix, format].map(|part| Some(part.as_bytes()));
        let digest = digest_of(&parts);
        let id = format!("{:016x}", digest.first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head)));
        let below = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        let address = match server {
            Server::Amazon => format!("s3://{name}{below}"),
            Server::Google => format!("gs://{name}{below}"),
            Server::Other { scheme: Scheme::Http, authority } => format!("http://{authority}/{name}{below}"),
            Server::Other { scheme: Scheme::Https, authority } => format!("https://{authority}/{name}{below}"),
        };
        Destination { id, description: format!("{address} ({format})") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, Name, Namespace, ObjectKey};
    use crate::validate::Packing;

    #[test]
    fn a_destination_is_bucket_prefix_and_format_and_has_no_key() {
        let config = |prefix: &str, encoding| {
            let object = ObjectKey::new(Namespace::new("team-a"), Name::new("bucket"));
            let server = Server::Other { scheme: Scheme::Https, authority: "minio.example:9000".to_owned() };
            let keys = Credentials::Keys { id: "id".to_owned(), secret: Secret::new("hunter2"), session: None };
            let config = ObjectConfig {
                sink: SinkKey { family: Family::Snapshot, object },
                kind: SinkType::S3,
                cluster: Cluster::new("west"),
                bucket: Bucket { server, name: "inv".to_owned(), prefix: prefix.to_owned() },
                region: "us-east-1".to_owned(),
                addressing: Addressing::Path,
                credentials: keys,
                tls: TlsConfig::default(),
                encoding,
                path_template: None,
                retention: Retention::default(),
            };
            assert!(!format!("{config:?}").contains("hunter2"));
            config.destination()
        };
        let json = config("prod", Encoding::Json(Packing::Plain));
        assert_eq!(json.description, "https://minio.example:9000/inv/prod (json)");
        assert_eq!(json.id.len(), 16);
        assert_eq!(json, config("prod", Encoding::Json(Packing::Gzip)));
        assert_ne!(json.id, config("prod", Encoding::Ndjson(Packing::Plain)).id);
        assert_ne!(json.id, config("test", Encoding::Json(Packing::Plain)).id);
    }
}
