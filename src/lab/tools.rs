//! Finds the programs that `hack/lib/tools.sh` built or installed. Builds and downloads nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Where the distribution puts the programs of PostgreSQL 15.
const POSTGRES_BIN: &str = "/usr/lib/postgresql/15/bin";

/// Where the distribution puts the SSH server, which wants to be called by its whole path.
const SSHD: &str = "/usr/sbin/sshd";

/// Programs that are built as they are published.
const PROGRAMS: &str = include_str!("../../hack/envtest/programs");

/// A program that is built from its Go module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// The store of the API server.
    Etcd,
    /// The API server.
    KubeApiserver,
    /// Namespace, service account and garbage controllers.
    KubeControllerManager,
    /// The command line client, of the same release.
    Kubectl,
    /// Installs charts.
    Helm,
    /// S3 over a folder.
    VersityGw,
    /// Google Cloud Storage in memory.
    FakeGcsServer,
    /// The server of NATS.
    NatsServer,
    /// Its command line client.
    Nats,
}

impl Tool {
    const fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::Kubectl => "kubectl",
            Self::Helm => "helm",
            Self::VersityGw => "versitygw",
            Self::FakeGcsServer => "fake-gcs-server",
            Self::NatsServer => "nats-server",
            Self::Nats => "nats",
        }
    }

    /// Returns the release, as the files of `hack/envtest` name it.
    pub fn version(self) -> Result<&'static str> {
        let (file, before) = match self {
            Self::Etcd => (include_str!("../../hack/envtest/etcd/go.mod"), "go.etcd.io/etcd/server/v3"),
            Self::Helm => (PROGRAMS, "helm helm.sh/helm/v3/cmd/helm"),
            Self::VersityGw => (PROGRAMS, "versitygw github.com/versity/versitygw/cmd/versitygw"),
            Self::FakeGcsServer => (PROGRAMS, "fake-gcs-server github.com/fsouza/fake-gcs-server"),
            Self::NatsServer => (PROGRAMS, "nats-server github.com/nats-io/nats-server/v2"),
            Self::Nats => (PROGRAMS, "nats github.com/nats-io/natscli/nats"),
            _ => (include_str!("../../hack/envtest/go.mod"), "k8s.io/kubernetes"),
        };
        file.lines()
            .map(|line| line.trim().trim_start_matches("require "))
            .find_map(|line| line.strip_prefix(before)?.strip_prefix(' '))
            .with_context(|| format!("hack/envtest names no version of {before}"))
    }

    /// Returns the path of the program.
    pub fn path(self) -> Result<PathBuf> {
        let (name, version) = (self.name(), self.version()?);
        let path = cache_dir()?.join(format!("tools/{name}-{version}/bin/{name}"));
        if !path.exists() {
            bail!("{name} {version} is not built: run hack/lib/tools.sh (looked for {})", path.display());
        }
        Ok(path)
    }
}

/// Returns a program of PostgreSQL 15.
pub fn postgres(program: &str) -> Result<PathBuf> {
    let path = Path::new(POSTGRES_BIN).join(program);
    if !path.exists() {
        bail!("PostgreSQL 15 is not installed: run hack/lib/tools.sh (looked for {})", path.display());
    }
    Ok(path)
}

/// Returns the SSH server.
pub fn sshd() -> Result<PathBuf> {
    let path = Path::new(SSHD);
    if !path.exists() {
        bail!("openssh-server is not installed: run hack/lib/tools.sh (looked for {SSHD})");
    }
    Ok(path.to_owned())
}

/// Returns the directory with the jars of Kafka.
pub fn kafka() -> Result<PathBuf> {
    let jars = include_str!("../../hack/envtest/kafka.jars");
    let version = jars.lines().find_map(|line| line.split_once("/kafka_2.13-")?.1.strip_suffix(".jar"));
    let version = version.context("hack/envtest/kafka.jars names no version of Kafka")?;
    let dir = cache_dir()?.join(format!("tools/kafka-{version}"));
    if !dir.exists() {
        bail!("Kafka {version} is not downloaded: run hack/lib/tools.sh kafka (looked for {})", dir.display());
    }
    Ok(dir)
}

/// Returns the Python that has what the scripts of `hack/lib` import, in the versions of its `requirements.txt`.
pub fn python() -> Result<PathBuf> {
    let requirements = include_str!("../../hack/lib/requirements.txt");
    let version = requirements.lines().find_map(|line| line.strip_prefix("matplotlib=="));
    let version = version.context("hack/lib/requirements.txt names no version of matplotlib")?;
    let dir = cache_dir()?.join(format!("tools/python-{version}"));
    if !dir.join("installed").exists() {
        bail!("matplotlib {version} is not installed: run hack/lib/tools.sh python (looked for {})", dir.display());
    }
    Ok(dir.join("bin/python"))
}

/// Returns the Python that reads Parquet, in the versions of `hack/lib/parquet.txt`.
pub fn python_parquet() -> Result<PathBuf> {
    let requirements = include_str!("../../hack/lib/parquet.txt");
    let version = requirements.lines().find_map(|line| line.strip_prefix("pyarrow=="));
    let version = version.context("hack/lib/parquet.txt names no version of pyarrow")?;
    let dir = cache_dir()?.join(format!("tools/python-parquet-{version}"));
    if !dir.join("installed").exists() {
        bail!("pyarrow {version} is not installed: run hack/lib/tools.sh parquet (looked for {})", dir.display());
    }
    Ok(dir.join("bin/python"))
}

/// Returns the directory for what is costly to make and safe to delete.
#[expect(clippy::disallowed_methods, reason = "the lab is no part of the operator whose environment config reads")]
pub fn cache_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("KOLLECT_TOOLS_DIR") {
        return Ok(dir.into());
    }
    let home = std::env::var_os("HOME").context("neither KOLLECT_TOOLS_DIR nor HOME is set")?;
    Ok(Path::new(&home).join(".cache/kollect"))
}

/// Returns a file of this source tree.
pub fn repository_file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_the_files_of_the_modules() {
        assert!(Tool::KubeApiserver.version().unwrap().starts_with("v1.34."));
        assert!(Tool::Etcd.version().unwrap().starts_with("v3.6."));
        assert!(Tool::Helm.version().unwrap().starts_with("v3.19."));
        assert!(Tool::NatsServer.version().unwrap().starts_with("v2.12."));
        assert!(Tool::Nats.version().is_ok());
    }
}
