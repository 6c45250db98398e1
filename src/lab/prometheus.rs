//! A real Prometheus: scrapes what its configuration says, evaluates rules and answers queries.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::operator::http_get;
use super::process::{self, Guard, Process, Signal};

/// An empty one is there after a second.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A running Prometheus. Dropping it ends it.
#[derive(Debug)]
pub struct Prometheus {
    _process: Process,
    address: String,
}

impl Prometheus {
    /// Starts it with this configuration; everything that it writes goes below `dir`.
    pub async fn start(dir: &Path, configuration: &str, guard: &Arc<Guard>) -> Result<Self> {
        let dir = dir.join("prometheus");
        std::fs::create_dir_all(&dir)?;
        let file = dir.join("prometheus.yaml");
        std::fs::write(&file, configuration)?;
        let address = format!("127.0.0.1:{}", process::free_port()?);
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn");
        let mut process = Process::spawn("prometheus", &mut command, &dir.join("log"), Signal::Kill, guard)?;
        process
            .ready(START_LIMIT, || {
                let address = address.clone();
                async move { http_get(&address, "/-/ready").await.map(drop) }
            })
            .await?;
        Ok(Self { _process: process, address })
    }

    /// Returns what an expression is now: the `result` of an instant query.
    pub async fn query(&self, expression: &str) -> Result<Value> {
        let path = format!("/api/v1/query?query={}", percent_encode(expression));
        self.get(&path).await.map(|mut data| data["result"].take()).with_context(|| expression.to_owned())
    }

    /// Returns the only value of an expression.
    pub async fn value(&self, expression: &str) -> Result<f64> {
        let result = self.query(expression).await?;
        let samples = result.as_array().context("the result is no vector")?;
        ensure!(samples.len() == 1, "{expression} has {} values", samples.len());
        let text = result[0]["value"][1].as_str().context("the sample has no value")?;
        text.parse().with_context(|| format!("{expression} is {text}"))
    }

    /// Returns the rules with their state, all groups in one list.
    pub async fn rules(&self) -> Result<Vec<Value>> {
        let data = self.get("/api/v1/rules").await?;
        let groups = data["groups"].as_array().context("there are no groups")?;
        Ok(groups.iter().filter_map(|group| group["rules"].as_array()).flatten().cloned().collect())
    }

    /// Returns the `data` of an answer.
    async fn get(&self, path: &str) -> Result<Value> {
        let mut answer: Value = serde_json::from_str(&http_get(&self.address, path).await?)?;
        ensure!(answer["status"] == "success", "{answer}");
        Ok(answer["data"].take())
    }
}

fn percent_encode(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::percent_encode;

    #[test]
    fn an_expression_becomes_part_of_an_address() {
        assert_eq!(percent_encode(r#"up{job="a b"} == 1"#), "up%7Bjob%3D%22a%20b%22%7D%20%3D%3D%201");
    }
}
