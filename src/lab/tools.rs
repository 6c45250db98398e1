//! Finds the programs that `hack/lib/tools.sh` built or installed. Builds and downloads nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Where the distribution puts the programs of PostgreSQL 15.
const POSTGRES_BIN: &str = "/usr/lib/postgresql/15/bin";

/// Where the distribution puts the SSH server, which wants to be called by its whole path.
const SSHD: &str = "/usr/sbin/sshd";

/// A program of the control plane.
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
}

impl Tool {
    const fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::Kubectl => "kubectl",
        }
    }

    /// Returns the release, as the go.mod files of `hack/envtest` name it.
    pub fn version(self) -> Result<&'static str> {
        let (go_mod, module) = match self {
            Self::Etcd => (include_str!("../../hack/envtest/etcd/go.mod"), "go.etcd.io/etcd/server/v3"),
            _ => (include_str!("../../hack/envtest/go.mod"), "k8s.io/kubernetes"),
        };
        go_mod
            .lines()
            .map(|line| line.trim().trim_start_matches("require "))
            .find_map(|line| line.strip_prefix(module)?.strip_prefix(' '))
            .with_context(|| format!("hack/envtest names no version of {module}"))
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
    fn versions_come_from_the_go_modules() {
        assert!(Tool::KubeApiserver.version().unwrap().starts_with("v1.34."));
        assert!(Tool::Etcd.version().unwrap().starts_with("v3.6."));
    }
}
