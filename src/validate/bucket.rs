//! Addresses of buckets: `s3://`, `gs://`, a bucket alone, and the `http(s)://` of a server with the bucket in its path.
//!
//! What may be dialled is decided where it is dialled, by the guard. A message never repeats a part of an address, which
//! may hold a password.

use crate::metrics::SinkType;

/// Host of Google's store, which is Google's whatever form the address has.
const GOOGLE_HOST: &str = "storage.googleapis.com";
/// The longest name of a bucket, with Google's dotted ones.
const MAX_NAME_BYTES: usize = 222;

/// A bucket, and what comes before the keys in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// Who serves it.
    pub server: Server,
    /// Its name.
    pub name: String,
    /// What every key begins with, without slashes at its ends; may be empty.
    pub prefix: String,
}

/// Who serves a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Server {
    /// Amazon, in the region of the sink.
    Amazon,
    /// Google.
    Google,
    /// A server by its address.
    Other {
        /// Whether what is sent can be read on the way.
        scheme: Scheme,
        /// Host and port, in lower case.
        authority: String,
    },
}

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// In plain text.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// Returns the text in front of an address.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// What else an address says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Aside {
    /// Whether it has a user or a password, which are ignored.
    pub(super) user_info: bool,
}

/// Reads an address; what is wrong is said together with what to write.
pub(super) fn bucket(kind: SinkType, endpoint: &str) -> Result<(Bucket, Aside), String> {
    if endpoint.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("has a blank; write the address alone".to_owned());
    }
    if endpoint.contains(['?', '#']) {
        return Err("has '?' or '#'; write bucket and prefix alone".to_owned());
    }
    let own = if kind == SinkType::Gcs { Server::Google } else { Server::Amazon };
    let mut aside = Aside::default();
    let (server, path) = match endpoint.split_once("://") {
        None => (own, endpoint),
        Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
            "s3" if kind == SinkType::S3 => (own, rest),
            "gs" if kind == SinkType::Gcs => (own, rest),
            "s3" => return Err("is an address of type s3; write gs://bucket, or change spec.type".to_owned()),
            "gs" => return Err("is an address of type gcs; write s3://bucket, or change spec.type".to_owned()),
            scheme @ ("http" | "https") => {
                let scheme = if scheme == "http" { Scheme::Http } else { Scheme::Https };
                let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
                let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
                aside.user_info = host.len() < authority.len();
                (server(kind, scheme, host)?, path)
            }
            _ => return Err(format!("has an unknown scheme; write {}", forms(kind))),
        },
    };
    let (name, prefix) = path.split_once('/').unwrap_or((path, ""));
    if name.is_empty() {
        return Err(format!("names no bucket; write {}", forms(kind)));
    }
    if name.len() > MAX_NAME_BYTES || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Err("names a bucket that cannot be: letters, digits, '.', '_' and '-' only; correct it".to_owned());
    }
    if matches!(name, "." | "..") {
        return Err("names no bucket; write its name".to_owned());
    }
    let prefix = prefix.trim_end_matches('/');
    let wrong = |segment: &str| matches!(segment, "" | "." | ".." | ".kollect");
    if !prefix.is_empty() && prefix.split('/').any(wrong) {
        return Err("has a prefix with '//', '.', '..' or '.kollect'; write plain names".to_owned());
    }
    Ok((Bucket { server, name: name.to_owned(), prefix: prefix.to_owned() }, aside))
}

fn server(kind: SinkType, scheme: Scheme, host: &str) -> Result<Server, String> {
    if host.is_empty() || host.starts_with(':') {
        return Err(format!("names no host; write {}", forms(kind)));
    }
    let authority = host.to_ascii_lowercase();
    if kind == SinkType::Gcs && authority.strip_suffix(":443").unwrap_or(&authority) == GOOGLE_HOST {
        return Ok(Server::Google);
    }
    Ok(Server::Other { scheme, authority })
}

fn forms(kind: SinkType) -> &'static str {
    if kind == SinkType::Gcs { "gs://bucket/prefix" } else { "s3://bucket/prefix or https://host/bucket/prefix" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: SinkType, endpoint: &str) -> Result<Bucket, String> {
        bucket(kind, endpoint).map(|(bucket, _)| bucket)
    }

    #[test]
    fn every_form_of_an_address_names_server_bucket_and_prefix() {
        let other = |scheme, authority: &str| Server::Other { scheme, authority: authority.to_owned() };
        for (kind, endpoint, server, name, prefix) in [
            (SinkType::S3, "s3://inv", Server::Amazon, "inv", ""),
            (SinkType::S3, "S3://inv/a/b/", Server::Amazon, "inv", "a/b"),
            (SinkType::S3, "inv", Server::Amazon, "inv", ""),
            (SinkType::S3, "inv/prod", Server::Amazon, "inv", "prod"),
            (
                SinkType::S3,
                "https://minio.example:9000/inv/prod",
                other(Scheme::Https, "minio.example:9000"),
                "inv",
                "prod",
            ),
            (SinkType::S3, "http://u:p@Minio.example/inv", other(Scheme::Http, "minio.example"), "inv", ""),
            (SinkType::Gcs, "gs://inv/prod", Server::Google, "inv", "prod"),
            (SinkType::Gcs, "inv", Server::Google, "inv", ""),
            (SinkType::Gcs, "https://storage.googleapis.com/inv/p", Server::Google, "inv", "p"),
            (SinkType::Gcs, "https://gcs.example/inv", other(Scheme::Https, "gcs.example"), "inv", ""),
        ] {
            let want = Bucket { server, name: name.to_owned(), prefix: prefix.to_owned() };
            assert_eq!(read(kind, endpoint), Ok(want), "{endpoint}");
        }
        assert!(bucket(SinkType::S3, "http://u:p@minio.example/inv").unwrap().1.user_info);
    }

    #[test]
    fn what_is_no_bucket_says_what_to_write() {
        for (kind, endpoint, want) in [
            (SinkType::S3, "s3://", "names no bucket; write s3://bucket/prefix"),
            (SinkType::S3, "https://minio.example", "names no bucket"),
            (SinkType::S3, "https:///inv", "names no host"),
            (SinkType::S3, "gs://inv", "is an address of type gcs"),
            (SinkType::Gcs, "s3://inv", "is an address of type s3; write gs://bucket"),
            (SinkType::S3, "ftp://h/inv", "has an unknown scheme"),
            (SinkType::S3, "file:///inv", "has an unknown scheme"),
            (SinkType::S3, "s3://in v", "has a blank"),
            (SinkType::S3, "s3://inv?x=1", "has '?' or '#'"),
            (SinkType::S3, "s3://inv/a//b", "has a prefix with '//'"),
            (SinkType::S3, "s3://inv/../b", "has a prefix with '//'"),
            (SinkType::S3, "s3://inv/.kollect", "has a prefix with '//'"),
            (SinkType::S3, "s3://in%76", "names a bucket that cannot be"),
        ] {
            let message = read(kind, endpoint).unwrap_err();
            assert!(message.starts_with(want), "{endpoint}: {message}");
        }
    }
}
