//! NATS JetStream under test: one server on loopback, a stream in files, and `nats bench` as the yardstick.

use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::super::nats::{NatsOptions, NatsServer, Somebody};
use super::super::{Lab, process, tools};
use super::stream::{self, Broker, Tool};
use crate::api::v1alpha1::sink::StreamMode;
use crate::export::event::{Header, Life, Message};
use crate::sinks::nats::{Creation, NatsConfig, NatsCredentials, NatsServers};
use crate::sinks::netguard::Guard;
use crate::sinks::{Backend, RowSink, TlsConfig};

const STREAM: &str = "bench";
const SUBJECT: &str = "kollect.inventory";

/// Messages of the tool that wait for an acknowledgement together; small ones leave it waiting, and beyond the largest it
/// gets no faster.
const WINDOWS: [usize; 4] = [500, 2_000, 5_000, 10_000];

/// The running server.
pub(super) struct Nats {
    server: NatsServer,
    somebody: Somebody,
}

impl Nats {
    pub(super) async fn start(lab: &Lab) -> Result<Self> {
        let server = NatsServer::start(lab.dir(), NatsOptions::default(), lab.guard()).await?;
        let this = Self { somebody: server.somebody().await?, server };
        this.create().await?;
        Ok(this)
    }

    /// Makes the stream as the sink would.
    async fn create(&self) -> Result<()> {
        let config = json!({"name": STREAM, "subjects": [SUBJECT]});
        self.somebody.api(&format!("STREAM.CREATE.{STREAM}"), &config).await.map(drop)
    }

    async fn state(&self, key: &str) -> Result<u64> {
        let info = self.somebody.api(&format!("STREAM.INFO.{STREAM}"), &Value::Null).await?;
        info["state"][key].as_u64().with_context(|| format!("the stream does not say its {key}"))
    }

    async fn renew_stream(&self) -> Result<()> {
        self.somebody.api(&format!("STREAM.DELETE.{STREAM}"), &Value::Null).await?;
        self.create().await
    }

    /// Returns the messages per second of one run of the tool.
    fn bench(&self, messages: usize, bytes: usize, window: usize, more: &[String]) -> Result<f64> {
        let mut command = Command::new(tools::Tool::Nats.path()?);
        command.args(["--no-context", "-s", &self.server.url(), "bench", "js", "pub", "async", "--no-progress"]);
        command.args(["--stream", STREAM, "--msgs", &messages.to_string(), "--size", &bytes.to_string()]);
        command.args(["--batch", &window.to_string()]).args(more).arg(SUBJECT);
        let printed = process::run(&mut command)?;
        rate(&printed).with_context(|| format!("nats bench printed {printed:?}"))
    }
}

impl Broker for Nats {
    fn renew(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.renew_stream())
    }

    fn sink(&self, stop: CancellationToken) -> Result<Arc<dyn RowSink>> {
        let guard = Guard { allow_private: false, allow_loopback: true };
        let life = Life { process: "bench".to_owned(), lease_transitions: 0 };
        let sink = NatsServers::new(guard, life, Timestamp::now, stop).sink(&NatsConfig {
            url: self.server.url(),
            stream: STREAM.to_owned(),
            subject: SUBJECT.to_owned(),
            mode: StreamMode::Changes,
            create: Creation::Existing,
            credentials: NatsCredentials::None,
            tls: TlsConfig::default(),
        })?;
        match sink {
            Backend::Rows(sink) => Ok(sink),
            Backend::Documents(_) => anyhow::bail!("a stream of changes takes rows"),
        }
    }

    fn spec(&self) -> Value {
        let nats = json!({"url": self.server.url(), "subject": SUBJECT, "stream": STREAM, "mode": "Changes"});
        json!({"type": "nats", "cluster": "bench", "nats": nats})
    }

    fn count(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(self.state("messages"))
    }

    fn messages(&self, since: Option<Timestamp>) -> BoxFuture<'_, Result<Vec<(Timestamp, Header)>>> {
        Box::pin(async move {
            let all = self.somebody.messages_since(STREAM, SUBJECT, since).await?.into_iter();
            Ok(all.filter_map(|message| Some((message.at, message.header?))).collect())
        })
    }

    fn tool<'a>(&'a self, messages: usize, like: &'a Message) -> BoxFuture<'a, Result<Tool>> {
        Box::pin(async move {
            let mut tool = Tool { per_second: 0.0, bare_per_second: 0.0 };
            for window in WINDOWS {
                self.renew_stream().await?;
                tool.bare_per_second =
                    tool.bare_per_second.max(self.bench(messages, stream::bytes(like), window, &[])?);
                let mut more = vec!["--dedup".to_owned()];
                more.extend(like.header.fields().iter().map(|(name, value)| format!("--header={name}:{value}")));
                self.renew_stream().await?;
                tool.per_second = tool.per_second.max(self.bench(messages, like.value().len(), window, &more)?);
            }
            Ok(tool)
        })
    }
}

/// Reads the rate out of what the tool prints: `… publisher stats: 151,249 msgs/sec ~ 188 MiB/sec ~ …`.
fn rate(printed: &str) -> Option<f64> {
    let (before, _) = printed.split_once(" msgs/sec")?;
    before.split_whitespace().next_back()?.replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_out_of_what_the_tool_prints() {
        let printed = "NATS JetStream asynchronous publisher stats: 151,249 msgs/sec ~ 188 MiB/sec ~ min: 62,067.69us";
        assert_eq!(rate(printed), Some(151_249.0));
        assert_eq!(rate("nats: error: nats: no servers available for connection"), None);
    }
}
