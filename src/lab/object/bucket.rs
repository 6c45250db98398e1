//! What is in a bucket, read past S3 and its clients: from the folder of a server, or over Google's JSON protocol, which the
//! operator does not speak.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result};
use reqwest::Client;
use serde_json::Value;

use super::encoded;

/// A bucket, or what is below a prefix of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bucket {
    /// A file for each object: the folder of a server, or a copy of a bucket, as `aws s3 sync` makes one.
    Folder(PathBuf),
    /// `http://host:port/bucket/prefix` of a server without a login.
    Google(String),
}

impl FromStr for Bucket {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(if text.starts_with("http://") { Self::Google(text.to_owned()) } else { Self::Folder(text.into()) })
    }
}

impl Bucket {
    /// Returns its objects by key, without the prefix.
    pub async fn objects(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        match self {
            Self::Folder(dir) => {
                let dir = dir.clone();
                let read = move || {
                    let mut objects = BTreeMap::new();
                    collect(&dir, &dir, &mut objects)?;
                    Ok(objects)
                };
                tokio::task::spawn_blocking(read).await.context("the folder of the bucket could not be read")?
            }
            Self::Google(address) => google(address).await.with_context(|| format!("failed to read {address}")),
        }
    }
}

fn collect(root: &Path, dir: &Path, objects: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("failed to read {}", dir.display()))? {
        let path = entry?.path();
        // The server's own, such as uploads that are not finished.
        if path.file_name().is_some_and(|name| name == ".sgwtmp") {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, objects)?;
        } else {
            let key = path.strip_prefix(root)?.to_string_lossy().into_owned();
            objects.insert(key, fs::read(&path)?);
        }
    }
    Ok(())
}

async fn google(address: &str) -> Result<BTreeMap<String, Vec<u8>>> {
    // Nobody is trusted, for there is no TLS.
    let http: Client = super::client("")?;
    let (scheme, rest) = address.split_once("://").context("the address has no scheme")?;
    let (host, path) = rest.split_once('/').context("the address has no bucket")?;
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    let base = format!("{scheme}://{host}/storage/v1/b/{bucket}/o");
    let list = http.get(&base).send().await?.error_for_status()?.bytes().await?;
    let list: Value = serde_json::from_slice(&list)?;
    let mut objects = BTreeMap::new();
    for item in list["items"].as_array().into_iter().flatten() {
        let name = item["name"].as_str().context("an object has no name")?;
        let below =
            name.strip_prefix(prefix).map(|key| if prefix.is_empty() { Some(key) } else { key.strip_prefix('/') });
        let Some(key) = below.flatten() else { continue };
        let content = http.get(format!("{base}/{}?alt=media", encoded(name))).send().await?;
        objects.insert(key.to_owned(), content.error_for_status()?.bytes().await?.to_vec());
    }
    Ok(objects)
}
