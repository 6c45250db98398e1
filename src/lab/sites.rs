//! Servers of every kind of sink beside a lab, each with one place to write to, for whoever writes sinks by hand: a git
//! repository, a bucket, NATS, Kafka.
//!
//! All of them speak TLS and ask for a login. How to reach each is said in `KEY=value` lines; what holds a certificate
//! authority is a file in the directory of the lab.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::control_plane::random_text;
use super::git::{Certificates, HttpServer, Repositories, Repository, Scheme};
use super::kafka::{self, Kafka, Way};
use super::nats::{NatsOptions, NatsServer};
use super::object::{ACCESS_KEY, ObjectServer, Protocol, SECRET_KEY};
use super::process::Guard;
use super::tools::{self, Tool};

/// Repository and bucket.
const NAME: &str = "inventory";
/// User of NATS.
const NATS_USER: &str = "kollect";

/// Which ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// A git server over HTTPS with one empty repository.
    Git,
    /// S3 over a folder, with one empty bucket.
    Object,
    /// NATS with JetStream.
    Nats,
    /// A broker of Kafka.
    Kafka,
}

/// A server that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Running {
    /// How to reach it, as lines.
    env: String,
    _server: Server,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held to the end")]
enum Server {
    Git(Box<(HttpServer, Repositories)>),
    Object(Box<ObjectServer>),
    Nats(Box<NatsServer>),
    Kafka(Box<Kafka>),
}

impl Running {
    /// Starts a server, whose files are below this directory or removed with the guard.
    pub async fn start(site: Site, dir: &Path, guard: &Arc<Guard>) -> Result<Self> {
        match site {
            Site::Git => git(dir),
            Site::Object => object(dir).await,
            Site::Nats => nats(dir, guard).await,
            Site::Kafka => broker(dir, guard).await,
        }
    }

    /// Returns how to reach it: a line for each variable.
    pub fn env(&self) -> &str {
        &self.env
    }
}

fn git(dir: &Path) -> Result<Running> {
    const TOKEN: &str = "lab-token";
    let repositories = Repositories::new()?;
    let repository: Repository = repositories.create(NAME)?;
    let server = HttpServer::start(&repositories, Scheme::Https)?;
    server.require_login("x-access-token", TOKEN)?;
    let env = lines(&[
        ("GIT_URL", server.url(&repository)),
        ("GIT_TOKEN", TOKEN.to_owned()),
        ("GIT_CA", authority(dir, "git", &server.ca_pem())?),
        ("GIT_REPOSITORY", repository.path().display().to_string()),
    ]);
    Ok(Running { env, _server: Server::Git(Box::new((server, repositories))) })
}

async fn object(dir: &Path) -> Result<Running> {
    let server = ObjectServer::start(Protocol::S3).await?;
    server.create_bucket(NAME).await?;
    let env = lines(&[
        ("BUCKET_URL", server.url(NAME)),
        ("BUCKET_KEY", ACCESS_KEY.to_owned()),
        ("BUCKET_SECRET", SECRET_KEY.to_owned()),
        ("BUCKET_CA", authority(dir, "bucket", &server.ca_pem())?),
        ("BUCKET_DIR", server.bucket(NAME).display().to_string()),
    ]);
    Ok(Running { env, _server: Server::Object(Box::new(server)) })
}

async fn nats(dir: &Path, guard: &Arc<Guard>) -> Result<Running> {
    let data = make(dir, "nats", guard)?;
    let certificates = Certificates::new(&data, &["IP:127.0.0.1"])?;
    let file = |name: &str, content: &str| {
        let path = data.join(name);
        std::fs::write(&path, content).with_context(|| format!("failed to write {}", path.display())).map(|()| path)
    };
    let tls = (file("server.crt", &certificates.server)?, file("server.key", &certificates.server_key)?, None);
    let password = random_text()?;
    let login = Some((NATS_USER.to_owned(), password.clone()));
    let options = NatsOptions { login, tls: Some(tls), ..NatsOptions::default() };
    let server = NatsServer::start(&data, options, guard).await?;
    let env = lines(&[
        ("NATS_URL", format!("tls://127.0.0.1:{}", server.port())),
        ("NATS_USER", NATS_USER.to_owned()),
        ("NATS_PASSWORD", password),
        ("NATS_CA", authority(dir, "nats", &certificates.ca)?),
        ("NATS_CLI", Tool::Nats.path()?.display().to_string()),
    ]);
    Ok(Running { env, _server: Server::Nats(Box::new(server)) })
}

async fn broker(dir: &Path, guard: &Arc<Guard>) -> Result<Running> {
    let server = Kafka::start(&make(dir, "broker", guard)?, guard).await?;
    let env = lines(&[
        ("KAFKA_BROKER", server.broker(Way::Sasl)),
        ("KAFKA_USER", kafka::USER.to_owned()),
        ("KAFKA_PASSWORD", server.password().to_owned()),
        ("KAFKA_CA", authority(dir, "kafka", &server.certificates().ca)?),
        // For whoever looks from the side: plain text, without a login.
        ("KAFKA_PLAIN", server.broker(Way::Plain)),
        ("KAFKA_JARS", tools::kafka()?.display().to_string()),
    ]);
    Ok(Running { env, _server: Server::Kafka(Box::new(server)) })
}

/// Makes a directory that goes with the guard, also where that of the lab stays.
fn make(dir: &Path, name: &str, guard: &Guard) -> Result<PathBuf> {
    let dir = dir.join(name);
    guard.remove_at_end(&dir)?;
    std::fs::create_dir(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
    Ok(dir)
}

fn authority(dir: &Path, name: &str, pem: &str) -> Result<String> {
    let file = dir.join(format!("{name}-ca.pem"));
    std::fs::write(&file, pem).with_context(|| format!("failed to write {}", file.display()))?;
    Ok(file.display().to_string())
}

fn lines(variables: &[(&str, String)]) -> String {
    variables.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name}={value}"); // a String takes everything
        text
    })
}
