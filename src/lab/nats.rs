//! A real NATS server with JetStream, and somebody who reads, writes and deletes in its streams past the operator.

mod accounts;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use async_nats::{ConnectOptions, HeaderMap, HeaderName};
use futures::StreamExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::Mutex;

pub use accounts::Accounts;

use super::process::{self, Guard, Process, Signal};
use super::tools::Tool;
use crate::export::event::{Fold, Header, Stream};

/// An empty one is there after a moment.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Limit of one answer.
const ANSWER: Duration = Duration::from_secs(20);
/// Messages of one pull.
const BATCH: usize = 500;

/// How to start it.
#[derive(Debug, Clone, Default)]
pub struct NatsOptions {
    /// User and password; anybody may log in when absent.
    pub login: Option<(String, String)>,
    /// More users, each with what its block says, such as `nkey: U…`.
    pub users: Vec<String>,
    /// Certificate, key and authority, as PEM files. With an authority, clients have to show a certificate.
    pub tls: Option<(PathBuf, PathBuf, Option<PathBuf>)>,
    /// The largest message in bytes.
    pub max_payload: Option<u64>,
    /// More lines of its configuration.
    pub more: String,
}

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct NatsServer {
    process: Mutex<Option<Process>>,
    dir: PathBuf,
    port: u16,
    options: NatsOptions,
    guard: Arc<Guard>,
}

/// A message as it is stored.
#[derive(Debug, Clone)]
pub struct StoredMessage {
    /// Where it stands.
    pub seq: u64,
    /// When it was stored.
    pub at: Timestamp,
    /// Its headers, where they are ours.
    pub header: Option<Header>,
    /// All headers, as they are.
    pub headers: BTreeMap<String, String>,
    /// Its value.
    pub value: Vec<u8>,
}

impl NatsServer {
    /// Starts it; everything that it writes goes below `dir`.
    pub async fn start(dir: &Path, options: NatsOptions, guard: &Arc<Guard>) -> Result<Self> {
        Tool::NatsServer.path()?;
        let port = process::free_port()?;
        let dir = dir.join(format!("nats-{port}"));
        std::fs::create_dir_all(&dir)?;
        let server = Self { process: Mutex::new(None), dir, port, options, guard: Arc::clone(guard) };
        server.restart().await?;
        Ok(server)
    }

    /// Returns the port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the address.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Starts it on its port and its data, or again.
    pub async fn restart(&self) -> Result<()> {
        self.end(Signal::Kill).await?;
        let file = self.dir.join("nats.conf");
        std::fs::write(&file, self.configuration())?;
        let mut command = Command::new(Tool::NatsServer.path()?);
        command.arg("-c").arg(&file);
        let log = self.dir.join("log");
        let mut process = Process::spawn("nats-server", &mut command, &log, Signal::Kill, &self.guard)?;
        let port = self.port;
        process
            .ready(START_LIMIT, || async move {
                tokio::net::TcpStream::connect(("127.0.0.1", port)).await.map(drop).map_err(Into::into)
            })
            .await?;
        *self.process.lock().await = Some(process);
        Ok(())
    }

    /// Ends it without a chance to clean up.
    pub async fn kill9(&self) -> Result<()> {
        self.end(Signal::Kill).await
    }

    async fn end(&self, signal: Signal) -> Result<()> {
        if let Some(process) = self.process.lock().await.take() {
            process.stop(signal).await?;
        }
        Ok(())
    }

    /// Changes user and password, with a restart.
    pub async fn rotate(&mut self, user: &str, password: &str) -> Result<()> {
        self.options.login = Some((user.to_owned(), password.to_owned()));
        self.restart().await
    }

    fn configuration(&self) -> String {
        let mut text = format!(
            "host: 127.0.0.1\nport: {}\nserver_name: lab-{}\njetstream {{ store_dir: {:?}, max_file_store: 4G }}\n",
            self.port,
            self.port,
            self.dir.join("data").display().to_string()
        );
        text.push_str(&self.options.more);
        if let Some(bytes) = self.options.max_payload {
            let _ = writeln!(text, "max_payload: {bytes}"); // a String takes everything
        }
        let login =
            self.options.login.iter().map(|(user, password)| format!("{{user: {user:?}, password: {password:?}}}"));
        let users: Vec<String> = login.chain(self.options.users.iter().map(|user| format!("{{{user}}}"))).collect();
        if !users.is_empty() {
            let _ = writeln!(text, "authorization {{ users: [{}] }}", users.join(", ")); // as above
        }
        if let Some((certificate, key, authority)) = &self.options.tls {
            let file = |path: &Path| format!("{:?}", path.display().to_string());
            let _ = write!(text, "tls {{ cert_file: {}, key_file: {}", file(certificate), file(key)); // as above
            if let Some(authority) = authority {
                let _ = write!(text, ", ca_file: {}, verify: true", file(authority)); // as above
            }
            text.push_str(" }\n");
        }
        text
    }

    /// Logs somebody in who is not the operator. Only for a server without TLS.
    pub async fn somebody(&self) -> Result<Somebody> {
        let options = match &self.options.login {
            Some((user, password)) => ConnectOptions::with_user_and_password(user.clone(), password.clone()),
            None => ConnectOptions::new(),
        };
        let client = options.connect(self.url()).await.context("failed to connect to the NATS server")?;
        Ok(Somebody { client })
    }
}

/// Somebody at a server.
#[derive(Debug, Clone)]
pub struct Somebody {
    client: async_nats::Client,
}

impl Somebody {
    /// Logs in at `nats://user:password@host:port`; with an authority, which is a PEM file, by TLS.
    pub async fn connect(address: &str, authority: Option<&Path>) -> Result<Self> {
        let (scheme, rest) = address.split_once("://").context("the address has no scheme")?;
        let (login, host) = rest.rsplit_once('@').map_or((None, rest), |(login, host)| (login.split_once(':'), host));
        let mut options = match login {
            Some((user, password)) => ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned()),
            None => ConnectOptions::new(),
        };
        if let Some(authority) = authority {
            options = options.add_root_certificates(authority.to_owned()).require_tls(true);
        }
        let connected = options.connect(format!("{scheme}://{host}")).await;
        Ok(Self { client: connected.with_context(|| format!("failed to connect to {scheme}://{host}"))? })
    }

    /// Asks JetStream; an error in the answer is one.
    pub async fn api(&self, subject: &str, body: &Value) -> Result<Value> {
        let payload = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let asked = self.client.request(format!("$JS.API.{subject}"), payload.into());
        let answer = tokio::time::timeout(ANSWER, asked).await.context("no answer")??;
        let answer: Value = serde_json::from_slice(&answer.payload)?;
        ensure!(answer.get("error").is_none(), "{subject}: {}", answer["error"]);
        Ok(answer)
    }

    /// Reads all messages of a filter, in order; none where there is no stream.
    pub async fn messages(&self, stream: &str, filter: &str) -> Result<Vec<StoredMessage>> {
        self.messages_since(stream, filter, None).await
    }

    /// Reads the messages of a filter that were stored since a time, in order; none where there is no stream.
    pub async fn messages_since(
        &self,
        stream: &str,
        filter: &str,
        since: Option<Timestamp>,
    ) -> Result<Vec<StoredMessage>> {
        let mut consumer = json!({"stream_name": stream, "config": {
            "deliver_policy": "all", "ack_policy": "none", "filter_subject": filter, "mem_storage": true,
            "num_replicas": 1, "inactive_threshold": 30_000_000_000_u64,
        }});
        if let Some(since) = since {
            consumer["config"]["deliver_policy"] = "by_start_time".into();
            consumer["config"]["opt_start_time"] = since.to_string().into();
        }
        let made = match self.api(&format!("CONSUMER.CREATE.{stream}"), &consumer).await {
            Ok(made) => made,
            Err(error) if error.to_string().contains("stream not found") => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let name = made["name"].as_str().context("the consumer has no name")?;
        let (next, inbox) = (format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"), self.client.new_inbox());
        let mut answers = self.client.subscribe(inbox.clone()).await?;
        let pull = json!({"batch": BATCH, "no_wait": true}).to_string();
        let mut found = Vec::new();
        'pulls: loop {
            self.client.publish_with_reply(next.clone(), inbox.clone(), pull.clone().into()).await?;
            for _ in 0..BATCH {
                let message = tokio::time::timeout(ANSWER, answers.next()).await.context("no message")?;
                let message = message.context("the connection ended")?;
                if message.status.is_some() {
                    break 'pulls;
                }
                let reply = message.reply.as_ref().context("a message without a place")?;
                let words: Vec<&str> = reply.split('.').collect();
                let [.., seq, _, time, left] = words[..] else { bail!("a message without a place") };
                let get = |name: &'static str| Some(message.headers.as_ref()?.get(name)?.as_str());
                let all = message.headers.iter().flat_map(HeaderMap::iter);
                found.push(StoredMessage {
                    seq: seq.parse()?,
                    at: Timestamp::from_nanosecond(time.parse()?)?,
                    header: Header::read(get).ok(),
                    headers: all
                        .filter_map(|(name, values)| Some((name.to_string(), values.first()?.to_string())))
                        .collect(),
                    value: message.payload.to_vec(),
                });
                if left == "0" {
                    break 'pulls;
                }
            }
        }
        self.api(&format!("CONSUMER.DELETE.{stream}.{name}"), &Value::Null).await?;
        Ok(found)
    }

    /// Reads what a stream adds up to, with values.
    pub async fn fold(&self, stream: &str, filter: &str) -> Result<Fold<Vec<u8>>> {
        let mut fold = Fold::default();
        for message in self.messages(stream, filter).await? {
            if let Some(header) = message.header {
                fold.take(0, header, message.at, message.value);
            }
        }
        Ok(fold)
    }

    /// Returns the messages of one inventory.
    pub async fn of(&self, stream: &str, filter: &str, whose: &Stream) -> Result<Vec<(StoredMessage, Header)>> {
        let all = self.messages(stream, filter).await?.into_iter();
        let ours = all.filter_map(|message| message.header.clone().map(|header| (message, header)));
        Ok(ours.filter(|(_, header)| header.stream == *whose).collect())
    }

    /// Sends a message as the operator would.
    pub async fn send(&self, subject: &str, header: &Header, value: &[u8]) -> Result<()> {
        let mut headers = HeaderMap::new();
        for (name, value) in header.fields().iter() {
            headers.insert(HeaderName::from_static(name), value);
        }
        let sent = self.client.request_with_headers(subject.to_owned(), headers, value.to_vec().into());
        let answer = tokio::time::timeout(ANSWER, sent).await.context("no answer")??;
        let answer: Value = serde_json::from_slice(&answer.payload)?;
        ensure!(answer["seq"].is_u64(), "{answer}");
        Ok(())
    }

    /// Deletes one message.
    pub async fn delete(&self, stream: &str, seq: u64) -> Result<()> {
        self.api(&format!("STREAM.MSG.DELETE.{stream}"), &json!({"seq": seq})).await.map(drop)
    }
}
