//! Object stores of our own on loopback ports: S3 over a folder, behind TLS, and Google's in memory.
//!
//! What is asked of S3 is answered by its folder: an object is a file, so that a test never believes the code that it
//! looks at. Google's is asked over its JSON protocol, which the operator does not speak.

mod bucket;
mod google;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use reqwest::{Client, StatusCode};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

pub use self::bucket::Bucket;
use self::google::Front;
use super::git::Certificates;
use super::process::{self, Guard, Process, Signal};
use super::tools::Tool;

/// Names the key of the one user of S3.
pub const ACCESS_KEY: &str = "kollect-lab";
/// The key.
pub const SECRET_KEY: &str = "kollect-lab-secret";
/// What stands for the key of a service account where nobody asks for one.
pub const SERVICE_ACCOUNT: &str = r#"{"type":"service_account","project_id":"lab","private_key_id":"","private_key":"","client_email":"","disable_oauth":true}"#;

/// How long a server may take to answer for the first time.
const READY: Duration = Duration::from_secs(30);

/// Which protocol a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// versitygw.
    S3,
    /// fake-gcs-server, without TLS.
    Google,
}

/// A running object store. Dropping it ends it, and removes what it held.
#[derive(Debug)]
pub struct ObjectServer {
    protocol: Protocol,
    process: Mutex<Option<(Process, Option<Front>)>>,
    dir: PathBuf,
    port: u16,
    certificates: Certificates,
    http: Client,
    guard: Arc<Guard>,
}

impl ObjectServer {
    /// Starts a server without a bucket and returns when it answers.
    pub async fn start(protocol: Protocol) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("kollect-object-{}-{number}", std::process::id()));
        let guard = Arc::new(Guard::start()?);
        fs::create_dir(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
        guard.remove_at_end(&dir)?;
        for part in ["data", "iam"] {
            fs::create_dir(dir.join(part))?;
        }
        let certificates = Certificates::new(&dir, &["IP:127.0.0.1"])?;
        fs::write(dir.join("server.crt"), &certificates.server)?;
        fs::write(dir.join("server.key"), &certificates.server_key)?;
        let http = client(&certificates.ca)?;
        let port = process::free_port()?;
        let this = Self { protocol, process: Mutex::default(), dir, port, certificates, http, guard };
        this.restart().await?;
        Ok(this)
    }

    /// Returns the port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the address of a bucket, or of what is below it.
    pub fn url(&self, bucket: &str) -> String {
        let scheme = if self.protocol == Protocol::S3 { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}/{bucket}", self.port)
    }

    /// Returns the authority that the server's certificate is from.
    pub fn ca_pem(&self) -> String {
        self.certificates.ca.clone()
    }

    /// Makes a bucket.
    pub async fn create_bucket(&self, name: &str) -> Result<()> {
        match self.protocol {
            // A folder without an owner is the root user's.
            Protocol::S3 => fs::create_dir(self.bucket(name)).context("failed to make the bucket"),
            Protocol::Google => {
                let url = self.url("storage/v1/b?project=lab");
                let body = serde_json::json!({"name": name}).to_string();
                let made = self.http.post(url).header("content-type", "application/json").body(body).send().await?;
                made.error_for_status().context("failed to make the bucket").map(drop)
            }
        }
    }

    /// Removes a bucket with all that is in it.
    pub fn delete_bucket(&self, name: &str) -> Result<()> {
        ensure!(self.protocol == Protocol::S3, "only S3 is a folder");
        fs::remove_dir_all(self.bucket(name)).context("failed to remove the bucket")
    }

    /// Returns the folder of a bucket of S3.
    pub fn bucket(&self, name: &str) -> PathBuf {
        self.dir.join("data").join(name)
    }

    /// Returns what is in a bucket, by key.
    pub async fn objects(&self, bucket: &str) -> Result<BTreeMap<String, Vec<u8>>> {
        self.contents(bucket).objects().await
    }

    /// Returns where its objects are read past the server's S3.
    pub fn contents(&self, bucket: &str) -> Bucket {
        match self.protocol {
            Protocol::S3 => Bucket::Folder(self.bucket(bucket)),
            Protocol::Google => Bucket::Google(self.url(bucket)),
        }
    }

    /// Returns something of each object that no two writes have in common: when S3 wrote its file, or Google's generation.
    pub async fn versions(&self, bucket: &str) -> Result<BTreeMap<String, String>> {
        let keys = self.objects(bucket).await?.into_keys();
        let mut versions = BTreeMap::new();
        for key in keys {
            let version = match self.protocol {
                Protocol::S3 => {
                    let file = fs::metadata(self.bucket(bucket).join(&key))?;
                    format!("{} {:?}", file.ino(), file.modified()?)
                }
                Protocol::Google => {
                    let found = self.http.get(self.object_url(bucket, &key)).send().await?;
                    let object: serde_json::Value = serde_json::from_slice(&found.error_for_status()?.bytes().await?)?;
                    object["generation"].as_str().context("an object has no generation")?.to_owned()
                }
            };
            versions.insert(key, version);
        }
        Ok(versions)
    }

    /// Returns what S3 was asked for and answered so far, as it says itself: `PutObject prod/a.json`.
    pub fn requests(&self) -> Result<Vec<String>> {
        ensure!(self.protocol == Protocol::S3, "only S3 keeps a log");
        let log = fs::read_to_string(self.dir.join("access.log")).context("failed to read the log of requests")?;
        // As Amazon's: owner, bucket, time in two words, address, requester, number, operation, key.
        let asked = |line: &str| {
            let mut words = line.split(' ').skip(7);
            Some(format!("{} {}", words.next()?.strip_prefix("s3_")?, words.next()?))
        };
        Ok(log.lines().filter_map(asked).collect())
    }

    /// Puts an object in the place of another one, as somebody would who knows nothing of the operator.
    pub async fn replace(&self, bucket: &str, key: &str, content: Vec<u8>) -> Result<()> {
        match self.protocol {
            Protocol::S3 => {
                let path = self.bucket(bucket).join(key);
                // A new file, for what S3 knows of an object beside its bytes is in attributes of the file.
                let _ = fs::remove_file(&path); // there may be none
                fs::write(path, content).context("failed to write the object")
            }
            Protocol::Google => {
                let url = self.url(&format!("upload/storage/v1/b/{bucket}/o?uploadType=media&name={}", encoded(key)));
                let put = self.http.post(url).body(content).send().await?;
                put.error_for_status().context("failed to write the object").map(drop)
            }
        }
    }

    /// Removes an object.
    pub async fn remove(&self, bucket: &str, key: &str) -> Result<()> {
        match self.protocol {
            Protocol::S3 => fs::remove_file(self.bucket(bucket).join(key)).context("failed to remove the object"),
            Protocol::Google => {
                let gone = self.http.delete(self.object_url(bucket, key)).send().await?;
                gone.error_for_status().context("failed to remove the object").map(drop)
            }
        }
    }

    fn object_url(&self, bucket: &str, key: &str) -> String {
        self.url(&format!("storage/v1/b/{bucket}/o/{}", encoded(key)))
    }

    /// Ends the server at once. Its port stays reserved for [`Self::restart`].
    pub async fn kill9(&self) -> Result<()> {
        let process = self.process.lock().take();
        match process {
            Some((process, _)) => process.stop(Signal::Kill).await.map(drop),
            None => Ok(()),
        }
    }

    /// Starts the server on its port and waits until it answers.
    pub async fn restart(&self) -> Result<()> {
        self.start_as(ACCESS_KEY, SECRET_KEY).await
    }

    /// Starts S3 with another key, as after a rotation.
    pub async fn restart_with(&self, access_key: &str, secret_key: &str) -> Result<()> {
        self.start_as(access_key, secret_key).await
    }

    async fn start_as(&self, access_key: &str, secret_key: &str) -> Result<()> {
        let inner = process::free_port()?;
        let mut command = match self.protocol {
            Protocol::S3 => {
                let mut command = Command::new(Tool::VersityGw.path()?);
                command
                    .args(["--port", &format!("127.0.0.1:{}", self.port), "--quiet", "--keep-alive"])
                    .args(["--access", access_key, "--secret", secret_key])
                    .arg("--access-log")
                    .arg(self.dir.join("access.log"))
                    .arg("--cert")
                    .arg(self.dir.join("server.crt"))
                    .arg("--key")
                    .arg(self.dir.join("server.key"))
                    .arg("posix")
                    .arg(self.dir.join("data"));
                command
            }
            Protocol::Google => {
                let mut command = Command::new(Tool::FakeGcsServer.path()?);
                command
                    .args(["-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-log-level", "error"])
                    .args(["-port", &inner.to_string(), "-public-host", &format!("127.0.0.1:{inner}")]);
                command
            }
        };
        let mut server =
            Process::spawn("object store", &mut command, &self.dir.join("log"), Signal::Term, &self.guard)?;
        let front = match self.protocol {
            Protocol::S3 => None,
            Protocol::Google => Some(Front::start(self.http.clone(), self.port, inner).await?),
        };
        let (http, url) = (&self.http, self.url(""));
        // Any answer will do: without a login it is a refusal.
        server
            .ready(READY, || async {
                let answer = http.get(&url).send().await.context("it does not answer")?;
                ensure!(answer.status() != StatusCode::BAD_GATEWAY, "only its front answers");
                Ok(())
            })
            .await?;
        *self.process.lock() = Some((server, front));
        Ok(())
    }
}

/// Returns a client that trusts one authority alone.
fn client(ca: &str) -> Result<Client> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate?)?;
    }
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Client::builder().tls_backend_preconfigured(tls).no_proxy().build()?)
}

fn encoded(key: &str) -> String {
    key.replace('%', "%25").replace('/', "%2F")
}
