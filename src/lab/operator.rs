//! The operator under test: the `kollect` binary as a child process, seen only from outside.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::cgroup::MemoryGroup;
use super::process::{self, Guard, Process, Signal};
use super::wait::wait_for;

/// A running `kollect manager`. Dropping it ends it.
#[derive(Debug)]
pub struct Operator {
    process: Process,
    // Declared behind the process, which has to be gone when this goes.
    memory: Option<MemoryGroup>,
    started: Instant,
    metrics: String,
    probes: String,
}

/// How an operator is started, kept so that a test can start the same one again.
#[derive(Debug, Clone)]
pub struct OperatorOptions {
    /// The `kollect` binary.
    pub program: PathBuf,
    /// Whose rights it has.
    pub kubeconfig: PathBuf,
    /// Where its log goes; a restart appends.
    pub log: PathBuf,
    /// Flags beside those that every lab operator gets.
    pub args: Vec<String>,
    /// Variables beside the inherited ones.
    pub env: Vec<(String, String)>,
    /// The limit of a memory control group that it runs in alone, in MiB; `None` is none. Takes root.
    pub memory_limit_mib: Option<u64>,
}

impl OperatorOptions {
    /// Names the binary, the identity and the log; no further flags.
    pub fn new(program: impl Into<PathBuf>, kubeconfig: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            kubeconfig: kubeconfig.into(),
            log: log.into(),
            args: Vec::new(),
            env: Vec::new(),
            memory_limit_mib: None,
        }
    }

    /// Adds a flag.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }
}

impl Operator {
    /// Starts the operator and returns at once.
    pub fn spawn(options: &OperatorOptions, guard: &Arc<Guard>) -> Result<Self> {
        let metrics = format!("127.0.0.1:{}", process::free_port()?);
        let probes = format!("127.0.0.1:{}", process::free_port()?);
        let memory = options.memory_limit_mib.map(|limit| MemoryGroup::new(limit, guard)).transpose()?;
        let program = &options.program;
        let mut command = memory.as_ref().map_or_else(|| Command::new(program), |group| group.command(program));
        command
            .arg("manager")
            .arg(format!("--kubeconfig={}", options.kubeconfig.display()))
            .arg(format!("--metrics-bind-address={metrics}"))
            .arg("--metrics-secure=false")
            .arg(format!("--health-probe-bind-address={probes}"))
            .arg("--allow-loopback-sinks")
            .arg("--validating-webhooks-enabled=false")
            .arg("--zap-devel=false")
            .args(&options.args)
            .envs(options.env.iter().map(|(name, value)| (name, value)));
        let started = Instant::now();
        let process = Process::spawn("kollect", &mut command, &options.log, Signal::Kill, guard)?;
        Ok(Self { process, memory, started, metrics, probes })
    }

    /// Starts the operator as a pod does, and returns at once: called as `/manager`, with these flags and variables and no
    /// others. Only the way to the API server, which a pod finds in its file system, is a kubeconfig here.
    pub fn spawn_container(options: &OperatorOptions, guard: &Arc<Guard>) -> Result<Self> {
        let listens =
            |flag| address(&options.args, flag).with_context(|| format!("the flags have no {flag} with a port"));
        let (metrics, probes) = (listens("--metrics-bind-address")?, listens("--health-probe-bind-address")?);
        let mut command = Command::new(&options.program);
        command
            .arg0("/manager")
            .args(&options.args)
            .envs(options.env.iter().map(|(name, value)| (name, value)))
            .env("KUBECONFIG", &options.kubeconfig);
        let started = Instant::now();
        let process = Process::spawn("kollect", &mut command, &options.log, Signal::Kill, guard)?;
        Ok(Self { process, memory: None, started, metrics, probes })
    }

    /// Starts the operator and waits until `/readyz` says so.
    pub async fn start(options: &OperatorOptions, guard: &Arc<Guard>) -> Result<Self> {
        let mut this = Self::spawn(options, guard)?;
        this.ready(Duration::from_secs(30)).await?;
        Ok(this)
    }

    /// Waits until `/readyz` says so; fails at once, with the end of the log, when the operator ends before.
    pub async fn ready(&mut self, limit: Duration) -> Result<()> {
        let probes = self.probes.clone();
        self.process
            .ready(limit, || {
                let probes = probes.clone();
                async move { http_get(&probes, "/readyz").await.map(drop) }
            })
            .await
    }

    /// Returns when it was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Returns the process, for signals, CPU time and memory.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Returns the memory group that it runs in, if it has one of its own.
    pub fn memory(&self) -> Option<&MemoryGroup> {
        self.memory.as_ref()
    }

    /// Returns how it ended, or `None` while it runs.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.process.exited()
    }

    /// Returns everything that it logged.
    pub fn log(&self) -> Result<String> {
        std::fs::read_to_string(self.process.log()).context("failed to read the operator's log")
    }

    /// Returns the last lines of its log, to be shown beside a failed assertion.
    pub fn log_tail(&self, lines: usize) -> String {
        process::tail(self.process.log(), lines)
    }

    /// Returns the address of the metrics endpoint.
    pub fn metrics_address(&self) -> &str {
        &self.metrics
    }

    /// Returns the address of the probes.
    pub fn probe_address(&self) -> &str {
        &self.probes
    }

    /// Reads `/metrics`.
    pub async fn metrics(&self) -> Result<Metrics> {
        http_get(&self.metrics, "/metrics").await.map(|text| Metrics::parse(&text))
    }

    /// Asks it to end, as Kubernetes does, and waits for that.
    pub async fn terminate(self) -> Result<ExitStatus> {
        self.process.stop(Signal::Term).await
    }

    /// Ends it in the middle of whatever it does.
    pub async fn kill9(self) -> Result<()> {
        self.process.stop(Signal::Kill).await.map(drop)
    }
}

/// Returns the address on loopback that the last of these flags makes a server listen at.
fn address(args: &[String], flag: &str) -> Option<String> {
    let value = args.iter().rev().find_map(|arg| arg.strip_prefix(flag)?.strip_prefix('='))?;
    value.rsplit_once(':').map(|(_, port)| format!("127.0.0.1:{port}"))
}

/// A scrape: every sample by its name with labels, exactly as exposed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Reads the text format; lines that are no samples are passed over.
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (key, value) = line.rsplit_once(' ')?;
            Some((key.to_owned(), value.parse().ok()?))
        });
        Self(samples.collect())
    }

    /// Returns one sample by name and labels, as in `kollect_binding_synced{inventory="a"}`.
    pub fn get(&self, sample: &str) -> Option<f64> {
        self.0.get(sample).copied()
    }

    /// Returns the sum of all samples of a family that carry every one of these labels.
    pub fn sum(&self, family: &str, labels: &[(&str, &str)]) -> f64 {
        self.family(family)
            .filter(|(sample, _)| labels.iter().all(|(name, value)| sample.contains(&format!("{name}=\"{value}\""))))
            .map(|(_, value)| value)
            .sum()
    }

    /// Returns the samples of a family.
    pub fn family<'a>(&'a self, family: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.0
            .iter()
            .filter(move |(sample, _)| sample.split_once('{').map_or(sample.as_str(), |(name, _)| name) == family)
            .map(|(sample, value)| (sample.as_str(), *value))
    }
}

/// Reads a page from a plain server on loopback; anything but 200 is an error with the page as its text.
pub async fn http_get(address: &str, path: &str) -> Result<String> {
    // HTTP/1.0 has no chunks, and the end of the page is the end of the stream.
    http_exchange(address, &format!("GET {path}"), &format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")).await
}

/// Posts JSON to a plain server on loopback, and reads the answer as [`http_get`] does.
pub async fn http_post(address: &str, path: &str, body: &str) -> Result<String> {
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    http_exchange(address, &format!("POST {path}"), &request).await
}

async fn http_exchange(address: &str, what: &str, request: &str) -> Result<String> {
    let exchange = async {
        let mut stream =
            TcpStream::connect(address).await.with_context(|| format!("failed to connect to {address}"))?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer =
        timeout(Duration::from_secs(10), exchange).await.with_context(|| format!("{address} did not answer"))??;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no end of headers")?;
    let status = head.split_whitespace().nth(1).context("the answer has no status")?;
    ensure!(status == "200", "{what}: {status} {body}");
    Ok(body.to_owned())
}

/// Waits until a sample of the operator's metrics satisfies a test.
pub async fn wait_for_metric(
    operator: &Operator,
    limit: Duration,
    what: &str,
    test: impl Fn(&Metrics) -> bool,
) -> Result<()> {
    wait_for(what, limit, || async {
        if test(&operator.metrics().await?) {
            return Ok(());
        }
        bail!("the metrics do not show it")
    })
    .await
}

/// Returns the `kollect` binary that lies beside the running program.
pub fn sibling_program() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let program = here.parent().map(|dir: &Path| dir.join("kollect")).context("the program has no directory")?;
    ensure!(program.exists(), "there is no {}; build it or name another with --kollect", program.display());
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str =
        "# HELP rows Rows.\n# TYPE rows gauge\nrows{kind=\"Pod\",ns=\"a b\"} 3\nrows{kind=\"Job\",ns=\"a\"} 4\nup 1\n";

    #[test]
    fn metrics_are_found_by_name_and_labels() {
        let metrics = Metrics::parse(PAGE);
        assert_eq!(metrics.get("up"), Some(1.0));
        assert_eq!(metrics.get("rows{kind=\"Pod\",ns=\"a b\"}"), Some(3.0));
        assert!((metrics.sum("rows", &[]) - 7.0).abs() < f64::EPSILON);
        assert!((metrics.sum("rows", &[("kind", "Job")]) - 4.0).abs() < f64::EPSILON);
        assert_eq!(metrics.family("row").count(), 0);
    }

    #[tokio::test]
    async fn page_other_than_200_is_an_error_with_its_text() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut server = tokio::task::JoinSet::new();
        server.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 256];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(b"HTTP/1.0 500 Oops\r\n\r\nnot yet").await.unwrap();
        });
        let error = http_get(&address, "/readyz").await.unwrap_err();
        assert_eq!(error.to_string(), "GET /readyz: 500 not yet");
    }
}
