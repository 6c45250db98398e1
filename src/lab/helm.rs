//! Helm: renders the chart of this repository, and says how to run what it rendered.
//!
//! What was rendered is read as data, so that a test asks for a field and never for a line. A [`Chart`] may be a copy in
//! which something was broken on purpose, to see whether anybody notices.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::operator::OperatorOptions;
use super::process::{self, Guard};
use super::tools::{self, Tool};

/// The namespace that charts are rendered and installed in.
pub const NAMESPACE: &str = "kollect-system";

/// A chart in a directory.
#[derive(Debug, Clone)]
pub struct Chart {
    dir: PathBuf,
}

impl Chart {
    /// Returns the chart of this repository.
    pub fn own() -> Self {
        Self { dir: tools::repository_file("charts/kollect") }
    }

    /// Returns a copy in a temporary directory, which goes with the guard.
    pub fn copy(&self, guard: &Arc<Guard>) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("kollect-chart-{}-{number}", std::process::id()));
        guard.remove_at_end(&dir)?;
        process::run(Command::new("cp").arg("-r").arg(&self.dir).arg(&dir))?;
        Ok(Self { dir })
    }

    /// Returns a file of the chart.
    pub fn file(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }

    /// Reads a file of the chart.
    pub fn read(&self, path: &str) -> Result<String> {
        std::fs::read_to_string(self.file(path)).with_context(|| format!("failed to read {path} of the chart"))
    }

    /// Puts another text in the place of one that stands in a file of the chart.
    pub fn replace(&self, path: &str, text: &str, by: &str) -> Result<()> {
        let before = self.read(path)?;
        ensure!(before.contains(text), "{path} of the chart has no {text:?}");
        std::fs::write(self.file(path), before.replace(text, by))?;
        Ok(())
    }

    /// Renders the chart as the release `kollect`, under options of `helm template`, without asking a server.
    pub fn render(&self, options: &[&str]) -> Result<String> {
        self.render_as("kollect", options)
    }

    /// Renders the chart as some release.
    pub fn render_as(&self, release: &str, options: &[&str]) -> Result<String> {
        let mut command = Command::new(Tool::Helm.path()?);
        command.args(["template", release]).arg(&self.dir).args(["--namespace", NAMESPACE]).args(options);
        process::run(&mut command)
    }

    /// Renders the chart and reads every object.
    pub fn objects(&self, options: &[&str]) -> Result<Objects> {
        Objects::parse(&self.render(options)?)
    }
}

/// Writes a program for `--post-renderer` that lets an API server without nodes reach the webhooks of a rendered chart: each
/// Service becomes the address of a process on this machine. Returns its path.
pub fn webhooks_by_url(dir: &Path, port: u16) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = dir.join("webhooks-by-url");
    let by =
        format!(r#"s|service: {{name: [^,]*, namespace: [^,]*, path: \([^}}]*\)}}|url: "https://127.0.0.1:{port}\1"|"#);
    std::fs::write(&path, format!("#!/bin/sh\nexec sed '{by}'\n"))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// Rendered objects, in the order in which they came.
#[derive(Debug, Clone)]
pub struct Objects(pub Vec<Value>);

impl Objects {
    /// Reads any number of documents of YAML; empty ones are passed over.
    pub fn parse(text: &str) -> Result<Self> {
        let all: Vec<Value> = serde_saphyr::from_multiple(text).context("what was rendered is no YAML")?;
        Ok(Self(all.into_iter().filter(|object| !object.is_null()).collect()))
    }

    /// Returns the objects of a kind.
    pub fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |object| object["kind"] == kind)
    }

    /// Returns the object of a kind and a name.
    pub fn find(&self, kind: &str, name: &str) -> Result<&Value> {
        self.0
            .iter()
            .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
            .with_context(|| format!("there is no {kind} {name}"))
    }

    /// Returns the only Deployment.
    pub fn deployment(&self) -> Result<&Value> {
        let mut all = self.of("Deployment");
        let first = all.next().context("there is no Deployment")?;
        ensure!(all.next().is_none(), "there are several Deployments");
        Ok(first)
    }

    /// Returns the pod of the Deployment.
    pub fn pod(&self) -> Result<&Value> {
        Ok(&self.deployment()?["spec"]["template"]["spec"])
    }

    /// Returns the only container.
    pub fn container(&self) -> Result<&Value> {
        let containers = self.pod()?["containers"].as_array().context("the pod has no containers")?;
        ensure!(containers.len() == 1, "the pod has {} containers", containers.len());
        containers.first().context("the pod has no containers")
    }

    /// Returns the flags of the operator.
    pub fn args(&self) -> Result<Vec<String>> {
        let args = self.container()?["args"].as_array().context("the container has no arguments")?;
        args.iter().map(|arg| Ok(arg.as_str().context("an argument is no text")?.to_owned())).collect()
    }

    /// Returns the variables of the operator.
    pub fn env(&self) -> Result<Vec<(String, String)>> {
        let env = self.container()?["env"].as_array().cloned().unwrap_or_default();
        env.iter()
            .map(|variable| {
                let text = |key: &str| variable[key].as_str().map(str::to_owned);
                text("name").zip(text("value")).with_context(|| format!("not a plain variable: {variable}"))
            })
            .collect()
    }

    /// Returns how to run the container, for [`Operator::spawn_container`](super::Operator::spawn_container).
    pub fn run_options(&self, program: &Path, kubeconfig: &Path, log: &Path) -> Result<OperatorOptions> {
        let mut options = OperatorOptions::new(program, kubeconfig, log);
        options.args = self.args()?;
        options.env = self.env()?;
        Ok(options)
    }
}
