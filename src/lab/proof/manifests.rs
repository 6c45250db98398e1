//! What a user writes, by the script and the files that the runbook names: `hack/loadtest/100k`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::super::control_plane::ControlPlane;
use super::super::load::Load;
use super::super::{process, tools};
use super::site::CLUSTER;

/// Where the load kit lies.
const KIT: &str = "hack/loadtest/100k";

/// The namespace of the Secrets that all sinks share.
const SHARED: &str = "kollect-loadtest";

/// What the manifests depend on.
pub(super) struct Setting<'a> {
    pub(super) load: &'a Load,
    pub(super) dsn: &'a str,
    pub(super) git_url: &'a str,
    pub(super) git_token: &'a str,
    pub(super) git_ca: &'a str,
    pub(super) interval: Duration,
    pub(super) git_interval: Duration,
}

/// Applies the shared Secrets, and for each namespace a profile, a target, an inventory and its two sinks. The objects
/// are not among it. Manifests are written below `dir`.
pub(super) fn apply(api: &ControlPlane, dir: &Path, setting: &Setting) -> Result<()> {
    let kit = tools::repository_file(KIT);
    let secrets = std::fs::read_to_string(kit.join("sinks.yaml")).context("failed to read sinks.yaml")?;
    api.apply(&secrets)?;
    for (name, values) in [
        ("postgres-loadtest", json!({"dsn": setting.dsn})),
        ("git-loadtest", json!({"token": setting.git_token, "ca.crt": setting.git_ca})),
    ] {
        let patch = json!({"stringData": values}).to_string();
        api.kubectl(&["--namespace", SHARED, "patch", "secret", name, "--patch", &patch])?;
    }
    let manifests = dir.join("manifests");
    let mut generate = Command::new(kit.join("generate.sh"));
    generate
        .arg(format!("--namespaces={}", setting.load.namespaces))
        .args(["--deployments-per-ns=0", "--git-ca", &format!("--cluster={CLUSTER}")])
        .arg(format!("--seed={}", setting.load.seed))
        .arg(format!("--interval={}s", setting.interval.as_secs()))
        .arg(format!("--git-interval={}s", setting.git_interval.as_secs()))
        .arg(format!("--git-endpoint={}", setting.git_url))
        .arg(format!("--out={}", manifests.display()));
    process::run(&mut generate)?;
    let directory = manifests.display().to_string();
    api.kubectl(&["apply", "--server-side", "--force-conflicts", "-k", &directory]).map(drop)
}
