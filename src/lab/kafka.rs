//! A Kafka broker of our own: one process that is broker and controller, with a listener for each way in.
//!
//! | Listener | Speaks | Asks for |
//! |---|---|---|
//! | [`Way::Plain`] | plain text | nothing |
//! | [`Way::Proxied`] | plain text, through a [`Proxy`] that clients are also sent back to | nothing |
//! | [`Way::Tls`] | TLS | nothing |
//! | [`Way::MutualTls`] | TLS | a certificate of the authority |
//! | [`Way::Sasl`] | TLS | a login by PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512 |
//!
//! Whoever logs in or shows a certificate may do everything; [`Kafka::alter`] changes a password while the broker runs. What
//! is in a topic is read and written by [`Topics`], past any sink.

mod certificates;
mod topics;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use parking_lot::Mutex;

pub use certificates::Certificates;
pub use topics::{Record, Topics};

use super::control_plane::random_text;
use super::process::{self, Guard, Process, Signal};
use super::proxy::Proxy;
use super::tools;

/// The user who may log in.
pub const USER: &str = "kollect";

/// An empty one is there after three seconds, one that was killed after five.
const START_LIMIT: Duration = Duration::from_mins(1);

/// A way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// In plain text.
    Plain,
    /// In plain text through the proxy.
    Proxied,
    /// By TLS.
    Tls,
    /// By TLS with a certificate of the client.
    MutualTls,
    /// By TLS with a login.
    Sasl,
}

const WAYS: [Way; 5] = [Way::Plain, Way::Proxied, Way::Tls, Way::MutualTls, Way::Sasl];

impl Way {
    const fn listener(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Proxied => "PROXIED",
            Self::Tls => "TLS",
            Self::MutualTls => "MTLS",
            Self::Sasl => "SASL",
        }
    }

    const fn protocol(self) -> &'static str {
        match self {
            Self::Plain | Self::Proxied => "PLAINTEXT",
            Self::Tls | Self::MutualTls => "SSL",
            Self::Sasl => "SASL_SSL",
        }
    }
}

/// A running broker. Dropping it ends it.
#[derive(Debug)]
pub struct Kafka {
    process: Mutex<Option<Process>>,
    dir: PathBuf,
    ports: [u16; 5],
    controller: u16,
    proxy: Proxy,
    password: String,
    certificates: Certificates,
    guard: Arc<Guard>,
}

impl Kafka {
    /// Formats a new directory below `dir` and starts a broker on it.
    pub async fn start(dir: &Path, guard: &Arc<Guard>) -> Result<Self> {
        tools::kafka()?;
        let dir = dir.join("kafka");
        std::fs::create_dir_all(&dir)?;
        let mut ports = [0; 5];
        for port in &mut ports {
            *port = process::free_port()?;
        }
        let controller = process::free_port()?;
        let (_, proxied) = (ports[0], ports[1]);
        let this = Self {
            process: Mutex::default(),
            ports,
            controller,
            proxy: Proxy::start(proxied).await?,
            password: random_text()?,
            certificates: Certificates::new(USER)?,
            guard: Arc::clone(guard),
            dir,
        };
        this.write_files()?;
        this.format()?;
        this.restart().await?;
        Ok(this)
    }

    /// Returns the address of a way in, for a list of brokers.
    pub fn broker(&self, way: Way) -> String {
        format!("127.0.0.1:{}", self.advertised(way))
    }

    /// Returns the proxy that [`Way::Proxied`] goes through.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// Returns the password of [`USER`], as it was in the beginning.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Returns the authority that signed for the broker and for clients.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Returns what is in the topics.
    pub fn topics(&self) -> Topics {
        Topics::new(self.broker(Way::Plain))
    }

    /// Returns the broker's log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Returns the process id of the broker, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.lock().as_ref().map(Process::pid)
    }

    /// Kills the broker, as a power cut does. Its ports stay reserved for [`Self::restart`].
    pub async fn kill9(&self) -> Result<()> {
        let process = self.process.lock().take();
        match process {
            Some(process) => process.stop(Signal::Kill).await.map(drop),
            None => Ok(()),
        }
    }

    /// Starts the broker on what it left behind, and waits until it answers.
    pub async fn restart(&self) -> Result<()> {
        let mut command = Self::java("kafka.Kafka", LASTING)?;
        command.arg(self.properties());
        let mut broker = Process::spawn("kafka", &mut command, &self.log(), Signal::Kill, &self.guard)?;
        let topics = self.topics();
        broker
            .ready(START_LIMIT, || {
                let topics = topics.clone();
                async move { topics.ready().await }
            })
            .await?;
        *self.process.lock() = Some(broker);
        Ok(())
    }

    /// Gives [`USER`] another password for SCRAM.
    pub fn alter(&self, password: &str) -> Result<()> {
        // The broker takes one of them in a request.
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            let mut command = Self::java("kafka.admin.ConfigCommand", BRIEF)?;
            command
                .args(["--bootstrap-server", &self.broker(Way::Plain), "--alter"])
                .args(["--entity-type", "users", "--entity-name", USER])
                .args(["--add-config", &format!("{mechanism}=[password={password}]")]);
            process::run(&mut command)?;
        }
        Ok(())
    }

    /// Runs the broker's own load generator on a topic: so many messages of this size as fast as they go, in batches of at
    /// most so many bytes, acknowledged by all. Returns messages per second, as it says itself.
    pub fn producer_performance(&self, topic: &str, messages: usize, bytes: u64, batch: u32) -> Result<f64> {
        let mut command = Self::java("org.apache.kafka.tools.ProducerPerformance", LASTING)?;
        command
            .args(["--topic", topic, "--throughput", "-1"])
            .args(["--num-records", &messages.to_string(), "--record-size", &bytes.to_string()])
            .args(["--producer-props", "acks=all", "enable.idempotence=true", &format!("batch.size={batch}")])
            .arg(format!("bootstrap.servers={}", self.broker(Way::Plain)));
        let printed = process::run(&mut command)?;
        rate(&printed, messages).with_context(|| format!("the load generator printed {printed:?}"))
    }

    /// Returns when each transaction of a topic ended, in milliseconds since 1970, by partition and offset of its mark. What
    /// stands before a mark is there for readers of committed messages from then on.
    pub fn ends(&self, topic: &str) -> Result<BTreeMap<(i32, i64), i64>> {
        let mut segments: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(self.data())? {
            let dir = entry?.path();
            let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.rsplit_once('-').is_some_and(|(owner, _)| owner == topic) {
                for file in std::fs::read_dir(&dir)? {
                    segments.push(file?.path());
                }
            }
        }
        segments.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        let files: Vec<String> = segments.iter().map(|path| path.display().to_string()).collect();
        let mut command = Self::java("kafka.tools.DumpLogSegments", BRIEF)?;
        command.args(["--files", &files.join(",")]);
        Ok(ends(&process::run(&mut command)?))
    }

    /// Runs the console consumer on a topic from its beginning to this many messages, and returns what it printed.
    pub fn console_consumer(&self, topic: &str, messages: usize, more: &[&str]) -> Result<String> {
        let mut command = Self::java("org.apache.kafka.tools.consumer.ConsoleConsumer", BRIEF)?;
        command
            .args(["--bootstrap-server", &self.broker(Way::Plain), "--topic", topic, "--from-beginning"])
            .args(["--max-messages", &messages.to_string(), "--timeout-ms", "20000"])
            .args(more);
        process::run(&mut command)
    }

    fn advertised(&self, way: Way) -> u16 {
        match way {
            Way::Proxied => self.proxy.port(),
            _ => self.port(way),
        }
    }

    fn port(&self, way: Way) -> u16 {
        let [plain, proxied, tls, mutual, sasl] = self.ports;
        match way {
            Way::Plain => plain,
            Way::Proxied => proxied,
            Way::Tls => tls,
            Way::MutualTls => mutual,
            Way::Sasl => sasl,
        }
    }

    fn properties(&self) -> PathBuf {
        self.dir.join("server.properties")
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn format(&self) -> Result<()> {
        let mut command = Self::java("kafka.tools.StorageTool", BRIEF)?;
        // Any identifier will do: 16 bytes in base64.
        command.args(["format", "-t", "a29sbGVjdGtvbGxlY3RrbA", "-c"]).arg(self.properties());
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            command.args(["--add-scram", &format!("{mechanism}=[name={USER},password={}]", self.password)]);
        }
        process::run(&mut command).map(drop).context("failed to format the directory of Kafka")
    }

    fn write_files(&self) -> Result<()> {
        let file = |name: &str| self.dir.join(name).display().to_string();
        std::fs::write(file("keystore.pem"), format!("{}{}", self.certificates.server_key, self.certificates.server))?;
        std::fs::write(file("authority.pem"), &self.certificates.ca)?;
        // Without it the broker says nothing at all.
        std::fs::write(file("log4j2.properties"), LOGGING)?;
        let list = |text: &dyn Fn(Way) -> String| WAYS.map(text).join(",");
        let module = "org.apache.kafka.common.security";
        let lines = [
            "process.roles=broker,controller".to_owned(),
            "node.id=1".to_owned(),
            format!("controller.quorum.voters=1@127.0.0.1:{}", self.controller),
            "controller.listener.names=CONTROLLER".to_owned(),
            "inter.broker.listener.name=PLAIN".to_owned(),
            format!(
                "listeners={},CONTROLLER://127.0.0.1:{}",
                list(&|way| format!("{}://127.0.0.1:{}", way.listener(), self.port(way))),
                self.controller
            ),
            format!(
                "advertised.listeners={}",
                list(&|way| format!("{}://127.0.0.1:{}", way.listener(), self.advertised(way)))
            ),
            format!(
                "listener.security.protocol.map={},CONTROLLER:PLAINTEXT",
                list(&|way| format!("{}:{}", way.listener(), way.protocol()))
            ),
            "ssl.keystore.type=PEM".to_owned(),
            format!("ssl.keystore.location={}", file("keystore.pem")),
            "ssl.truststore.type=PEM".to_owned(),
            format!("ssl.truststore.location={}", file("authority.pem")),
            "listener.name.mtls.ssl.client.auth=required".to_owned(),
            "listener.name.sasl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512".to_owned(),
            format!(
                "listener.name.sasl.plain.sasl.jaas.config={module}.plain.PlainLoginModule required user_{USER}=\"{}\";",
                self.password
            ),
            format!("listener.name.sasl.scram-sha-256.sasl.jaas.config={module}.scram.ScramLoginModule required;"),
            format!("listener.name.sasl.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;"),
            format!("log.dirs={}", self.data().display()),
            "auto.create.topics.enable=false".to_owned(),
            "num.partitions=3".to_owned(),
            "offsets.topic.replication.factor=1".to_owned(),
            "offsets.topic.num.partitions=1".to_owned(),
            "transaction.state.log.replication.factor=1".to_owned(),
            "transaction.state.log.min.isr=1".to_owned(),
            "transaction.state.log.num.partitions=1".to_owned(),
            "share.coordinator.state.topic.replication.factor=1".to_owned(),
            "share.coordinator.state.topic.num.partitions=1".to_owned(),
            "group.initial.rebalance.delay.ms=0".to_owned(),
            // A topic that is deleted is gone soon.
            "log.segment.delete.delay.ms=1000".to_owned(),
        ];
        std::fs::write(self.properties(), lines.join("\n")).context("failed to write the properties of Kafka")
    }

    fn java(class: &str, options: &[&str]) -> Result<Command> {
        let mut command = Command::new("java");
        command
            .args(options)
            // Starts in half the time, and one broker for tests needs no more.
            .args(["-XX:+UseSerialGC", "-Xshare:auto"])
            .arg("-cp")
            .arg(tools::kafka()?.join("*"))
            .arg(class);
        Ok(command)
    }
}

/// What is told to the machine of a program that runs for long.
const LASTING: &[&str] = &["-Xmx512m"];

/// The same of one that ends soon: nothing is worth a second compilation.
const BRIEF: &[&str] = &["-Xmx128m", "-XX:TieredStopAtLevel=1"];

/// Reads the rate out of what the load generator prints in the end, `100000 records sent, 61087.4 records/sec (58.26 MB/sec)`
/// and so on, unless it lost messages.
fn rate(printed: &str, messages: usize) -> Option<f64> {
    let all = format!("{messages} records sent, ");
    let last = printed.lines().rev().find_map(|line| line.strip_prefix(&all))?;
    last.split_once(" records/sec")?.0.parse().ok()
}

/// Reads marks out of a dump of segments: a line names the file, each one below it a batch.
fn ends(dump: &str) -> BTreeMap<(i32, i64), i64> {
    let (mut ends, mut partition) = (BTreeMap::new(), None);
    for line in dump.lines() {
        if let Some(path) = line.strip_prefix("Dumping ") {
            let dir = Path::new(path).parent().and_then(Path::file_name).and_then(|name| name.to_str());
            partition = dir.and_then(|dir| dir.rsplit_once('-')?.1.parse().ok());
        }
        let number = |key: &str| line.split_once(key)?.1.split_whitespace().next()?.parse().ok();
        if line.contains("isControl: true")
            && let (Some(partition), Some(offset), Some(at)) =
                (partition, number("baseOffset: "), number("CreateTime: "))
        {
            ends.insert((partition, offset), at);
        }
    }
    ends
}

const LOGGING: &str = "rootLogger.level = warn\nrootLogger.appenderRef.out.ref = out\nappender.out.type = Console\n\
    appender.out.name = out\nappender.out.layout.type = PatternLayout\nappender.out.layout.pattern = %d %p %c %m%n\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_whole_run_when_all_arrived() {
        let printed = "9 records sent, 7.5 records/sec (0.01 MB/sec), 1.0 ms avg latency, 2.0 ms max latency.\n\
                       100 records sent, 61087.4 records/sec (58.26 MB/sec), 1.00 ms avg latency, 2 ms 99.9th.\n";
        assert_eq!(rate(printed, 100), Some(61_087.4));
        assert_eq!(rate("0 records sent, 0.0 records/sec (0.00 MB/sec), NaN ms avg latency", 100), None);
    }

    #[test]
    fn the_end_of_a_transaction_is_a_control_batch() {
        let dump = "Dumping /k/data/a-b-2/00000000000000000000.log\nLog starting offset: 0\n\
                    baseOffset: 0 lastOffset: 1 count: 2 isTransactional: true isControl: false position: 0 CreateTime: 5 size: 9\n\
                    baseOffset: 2 lastOffset: 2 count: 1 isTransactional: true isControl: true position: 9 CreateTime: 17 size: 78\n";
        assert_eq!(ends(dump), BTreeMap::from([((2, 2), 17)]));
    }
}
