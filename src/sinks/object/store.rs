//! A bucket: objects with their metadata, written whole or in pieces, and only where nobody else was faster.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::aws::AmazonS3Builder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, Error, GetOptions, GetResult, MultipartUpload, ObjectStore, ObjectStoreExt as _, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RetryConfig, UpdateVersion,
};
use serde::{Deserialize, Serialize};

use super::client::{Connector, explain};
use super::config::{Credentials, ObjectConfig};
use super::error::ObjectError;
use crate::validate::{Addressing, Scheme, Server};

/// Metadata of an object: whose it is.
const OWNER: &str = "kollect-owner";
/// Metadata of an object: the checksum of the document that it is part of.
const CHECKSUM: &str = "kollect-checksum";
/// Metadata of an object: what decides its bytes besides the rows.
const APPEARANCE: &str = "kollect-appearance";
/// Metadata of an object: which of how many it is.
const PART: &str = "kollect-part";

/// Which bytes stand under a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Version {
    /// Entity tag, as the store gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) e_tag: Option<String>,
    /// Generation of an object of Google.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) generation: Option<String>,
    pub(super) bytes: u64,
}

/// What an object says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Label {
    pub(super) owner: String,
    pub(super) checksum: String,
    pub(super) appearance: String,
    pub(super) part: String,
}

/// An object that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) version: Version,
    pub(super) label: Label,
}

/// What has to be true for a write to happen.
#[derive(Debug, Clone, Copy)]
pub(super) enum Condition<'a> {
    /// There is no object.
    Absent,
    /// The object is this one.
    Is(&'a Version),
}

/// How a conditional write ended.
#[derive(Debug)]
pub(super) enum Written {
    /// It is there.
    Done(Version),
    /// The condition was not true.
    Differs,
}

/// What tells one version of an object from another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tags {
    /// Its entity tag.
    Entity,
    /// Its generation.
    Generation,
}

/// A bucket below a prefix.
pub(super) struct Store {
    client: Arc<dyn ObjectStore>,
    prefix: String,
    /// Bucket and prefix, for people.
    name: String,
    tags: Tags,
    /// Whether the store has said that it knows no conditions.
    unconditional: AtomicBool,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens a bucket. Nothing is connected yet.
    pub(super) fn new(config: &ObjectConfig, connector: Connector) -> Result<Self, ObjectError> {
        // The scheduler alone tries again.
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let (client, tags) = match &config.credentials {
            Credentials::ServiceAccount(_) | Credentials::GoogleFile(_) => {
                (google(config, connector, retry)?, Tags::Generation)
            }
            Credentials::Keys { .. } | Credentials::WebIdentity { .. } => {
                (amazon(config, connector, retry)?, Tags::Entity)
            }
        };
        let bucket = &config.bucket;
        let name =
            if bucket.prefix.is_empty() { bucket.name.clone() } else { format!("{}/{}", bucket.name, bucket.prefix) };
        Ok(Self { client, prefix: bucket.prefix.clone(), name, tags, unconditional: AtomicBool::new(false) })
    }

    fn path(&self, key: &str) -> Result<Path, ObjectError> {
        let whole = if self.prefix.is_empty() { key.to_owned() } else { format!("{}/{key}", self.prefix) };
        Path::parse(&whole).map_err(|_| ObjectError::Key { key: whole })
    }

    /// Checks that the bucket is there and may be listed.
    pub(super) async fn probe(&self) -> Result<(), ObjectError> {
        let mut list = self.client.list(Some(&self.path(".kollect")?));
        match list.next().await {
            None | Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(explain(&format!("look at bucket {}", self.name), error)),
        }
    }

    /// Returns what is known of an object without its content.
    pub(super) async fn head(&self, key: &str) -> Result<Option<Held>, ObjectError> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        match self.client.get_opts(&self.path(key)?, options).await {
            Ok(result) => Ok(Some(held(&result))),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(explain(&format!("look at {key}"), error)),
        }
    }

    /// Returns a small object with its content.
    pub(super) async fn get(&self, key: &str) -> Result<Option<(Bytes, Version)>, ObjectError> {
        let failed = |error| explain(&format!("read {key}"), error);
        match self.client.get_opts(&self.path(key)?, GetOptions::default()).await {
            Ok(result) => {
                let version = held(&result).version;
                Ok(Some((result.bytes().await.map_err(failed)?, version)))
            }
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Writes a whole object if the condition is true. A store that knows no conditions writes in any case.
    pub(super) async fn put(
        &self,
        key: &str,
        content: Bytes,
        content_type: &'static str,
        label: Option<&Label>,
        condition: Condition<'_>,
    ) -> Result<Written, ObjectError> {
        let bytes = content.len() as u64;
        let path = self.path(key)?;
        let blind = self.unconditional.load(Ordering::Relaxed);
        let mode = if blind { PutMode::Overwrite } else { mode(self.tags, condition) };
        let conditional = !matches!(mode, PutMode::Overwrite);
        let options = PutOptions { mode, attributes: attributes(content_type, label), ..PutOptions::default() };
        let payload = PutPayload::from_bytes(content);
        match self.client.put_opts(&path, payload.clone(), options.clone()).await {
            Ok(result) => Ok(Written::Done(version(&result, bytes))),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) if conditional => Ok(Written::Differs),
            Err(error) => {
                let error = explain(&format!("write {key}"), error);
                if !conditional || !error.is_not_served() {
                    return Err(error);
                }
                self.unconditional.store(true, Ordering::Relaxed);
                let options = PutOptions { mode: PutMode::Overwrite, ..options };
                let result = self.client.put_opts(&path, payload, options).await;
                let result = result.map_err(|error| explain(&format!("write {key}"), error))?;
                Ok(Written::Done(version(&result, bytes)))
            }
        }
    }

    /// Begins an object that is written in pieces. It is there once it is finished, and not before.
    pub(super) async fn upload(
        &self,
        key: &str,
        content_type: &'static str,
        label: &Label,
    ) -> Result<Upload, ObjectError> {
        let attributes = attributes(content_type, Some(label));
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let doing = format!("write {key}");
        let begun = self.client.put_multipart_opts(&self.path(key)?, options).await;
        Ok(Upload { pieces: begun.map_err(|error| explain(&doing, error))?, doing, bytes: 0 })
    }

    /// Removes an object; one that is not there is no error.
    pub(super) async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        match self.client.delete(&self.path(key)?).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(explain(&format!("delete {key}"), error)),
        }
    }

    /// Returns the keys of a folder.
    pub(super) fn list(&self, folder: &str) -> Result<BoxStream<'static, Result<String, ObjectError>>, ObjectError> {
        let prefix = if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) };
        let list = self.client.list(Some(&self.path(folder)?));
        let keys = list.map(move |found| match found {
            Ok(found) => Ok(found.location.as_ref().strip_prefix(&prefix).unwrap_or_default().to_owned()),
            Err(error) => Err(explain("list the records of inventories", error)),
        });
        Ok(keys.boxed())
    }
}

/// An object that is being written in pieces.
#[derive(Debug)]
pub(super) struct Upload {
    pieces: Box<dyn MultipartUpload>,
    doing: String,
    bytes: u64,
}

impl Upload {
    /// Adds a piece.
    pub(super) async fn add(&mut self, piece: Bytes) -> Result<(), ObjectError> {
        self.bytes += piece.len() as u64;
        let added = self.pieces.put_part(PutPayload::from_bytes(piece)).await;
        added.map_err(|error| explain(&self.doing, error))
    }

    /// Makes the pieces an object.
    pub(super) async fn finish(mut self) -> Result<Version, ObjectError> {
        let result = self.pieces.complete().await.map_err(|error| explain(&self.doing, error))?;
        Ok(version(&result, self.bytes))
    }

    /// Gives the pieces up.
    pub(super) async fn abort(mut self) {
        // What stays after a failure here is for a rule of the bucket about uploads that were never finished.
        let _ = self.pieces.abort().await;
    }
}

fn mode(tags: Tags, condition: Condition<'_>) -> PutMode {
    match condition {
        Condition::Absent => PutMode::Create,
        Condition::Is(version) => {
            let there = match tags {
                Tags::Entity => version.e_tag.is_some(),
                Tags::Generation => version.generation.is_some(),
            };
            // An object that was not put through the protocol may have none, and then nothing can be compared.
            let update = UpdateVersion { e_tag: version.e_tag.clone(), version: version.generation.clone() };
            if there { PutMode::Update(update) } else { PutMode::Overwrite }
        }
    }
}

fn attributes(content_type: &'static str, label: Option<&Label>) -> Attributes {
    let mut attributes = Attributes::new();
    attributes.insert(Attribute::ContentType, content_type.into());
    if let Some(Label { owner, checksum, appearance, part }) = label {
        for (name, value) in [(OWNER, owner), (CHECKSUM, checksum), (APPEARANCE, appearance), (PART, part)] {
            attributes.insert(Attribute::Metadata(name.into()), value.clone().into());
        }
    }
    attributes
}

fn held(result: &GetResult) -> Held {
    let said = |name: &'static str| {
        let value = result.attributes.get(&Attribute::Metadata(name.into()));
        value.map(|value| value.to_string()).unwrap_or_default()
    };
    let (meta, label) = (
        &result.meta,
        Label { owner: said(OWNER), checksum: said(CHECKSUM), appearance: said(APPEARANCE), part: said(PART) },
    );
    Held { version: Version { e_tag: meta.e_tag.clone(), generation: meta.version.clone(), bytes: meta.size }, label }
}

fn version(result: &PutResult, bytes: u64) -> Version {
    Version { e_tag: result.e_tag.clone(), generation: result.version.clone(), bytes }
}

fn amazon(
    config: &ObjectConfig,
    connector: Connector,
    retry: RetryConfig,
) -> Result<Arc<dyn ObjectStore>, ObjectError> {
    use object_store::aws::AmazonS3ConfigKey as Key;
    let bucket = &config.bucket;
    let hosted = config.addressing == Addressing::Host;
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&bucket.name)
        .with_region(&config.region)
        .with_virtual_hosted_style_request(hosted)
        .with_allow_http(true)
        // Objects go one by one, and a deletion of many is not served by Google.
        .with_disable_bulk_delete(true)
        .with_retry(retry)
        .with_http_connector(connector);
    let server = match &bucket.server {
        Server::Amazon => None,
        Server::Google => Some((Scheme::Https, "storage.googleapis.com")),
        Server::Other { scheme, authority } => Some((*scheme, authority.as_str())),
    };
    if let Some((scheme, authority)) = server {
        let bucket = if hosted { format!("{}.", bucket.name) } else { String::new() };
        builder = builder.with_endpoint(format!("{}://{bucket}{authority}", scheme.as_str()));
    }
    match &config.credentials {
        Credentials::Keys { id, secret, session } => {
            builder = builder.with_access_key_id(id).with_secret_access_key(secret.expose());
            if let Some(session) = session {
                builder = builder.with_token(session.expose());
            }
        }
        Credentials::WebIdentity { role, token_file } => {
            builder = builder
                .with_config(Key::RoleArn, role)
                .with_config(Key::RoleSessionName, "kollect")
                .with_config(Key::WebIdentityTokenFile, token_file.to_string_lossy());
        }
        Credentials::ServiceAccount(_) | Credentials::GoogleFile(_) => {} // those are Google's own
    }
    Ok(Arc::new(builder.build().map_err(ObjectError::Credentials)?))
}

fn google(
    config: &ObjectConfig,
    connector: Connector,
    retry: RetryConfig,
) -> Result<Arc<dyn ObjectStore>, ObjectError> {
    let base = match &config.bucket.server {
        Server::Other { scheme, authority } => format!("{}://{authority}", scheme.as_str()),
        Server::Amazon | Server::Google => "https://storage.googleapis.com".to_owned(),
    };
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(&config.bucket.name)
        // Whatever the Secret says: what is dialled is what spec.endpoint says.
        .with_base_url(&base)
        .with_retry(retry)
        .with_http_connector(connector);
    builder = match &config.credentials {
        Credentials::ServiceAccount(json) => builder.with_service_account_key(json.expose()),
        Credentials::GoogleFile(path) => builder.with_application_credentials(path.to_string_lossy()),
        Credentials::Keys { .. } | Credentials::WebIdentity { .. } => builder, // those are Amazon's
    };
    Ok(Arc::new(builder.build().map_err(ObjectError::Credentials)?))
}
