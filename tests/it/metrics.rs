//! The metrics page as its readers find it: who may read it, what is on it from the first scrape, and whether a real
//! Prometheus understands it, the queries of the docs, the dashboard and the alerts.

mod access;
mod alerts;
mod prometheus;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use kollect::lab::Operator;
use kollect::lab::git::Certificates;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::support::Ground;

/// The role that permits to read.
const READER_ROLE: &str = "kollect-metrics-reader";

/// An answer of the endpoint.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    text: String,
}

/// Reads the page over HTTPS, trusting this authority alone.
async fn scrape(operator: &Operator, authority: &str, token: Option<&str>) -> Result<Answer> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate?)?;
    }
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build()?;
    let mut request =
        client.get(format!("https://{}/metrics", operator.metrics_address())).timeout(Duration::from_secs(20));
    if let Some(token) = token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    let answer = request.send().await?;
    Ok(Answer { status: answer.status().as_u16(), text: answer.text().await? })
}

/// Writes a serving pair where `--metrics-cert-path` leads.
fn write_pair(directory: &Path, certificates: &Certificates) {
    std::fs::create_dir_all(directory).unwrap();
    std::fs::write(directory.join("tls.key"), &certificates.server_key).unwrap();
    std::fs::write(directory.join("tls.crt"), &certificates.server).unwrap();
}

/// Returns a token of a ServiceAccount, as `kubectl create token` gives it to a person.
fn token(ground: &Ground, namespace: &str, account: &str) -> String {
    let token = ground.api().kubectl(&["-n", namespace, "create", "token", account]).expect("no token");
    token.trim().to_owned()
}

/// Runs promtool with this input, and returns whether it was content and what it said.
fn promtool(arguments: &[&str], input: &str) -> Result<(bool, String)> {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("promtool is not installed: run hack/lib/tools.sh prometheus")?;
    // It reads all of its input before it prints.
    child.stdin.take().context("promtool has no input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}
