//! Measurements.
use anyhow::Result;
use std::path::PathBuf;

/// A bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    /// Cold start.
    ColdStart,
}
/// A bench.
pub struct Bench {
    pub name: Name,
    pub rows: usize,
    pub namespaces: usize,
    pub targets: usize,
    pub runs: usize,
    pub kollect: PathBuf,
    pub crds: PathBuf,
    pub operator_args: Vec<String>,
}
impl Bench {
    /// Runs.
    pub async fn run(&self) -> Result<serde_json::Value> {
        Ok(serde_json::Value::Null)
    }
}
