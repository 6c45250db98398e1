//! The chart: what it renders under which values, that the API server takes it, and that what it installs works.
//!
//! What is said of a rendered chart is a [`Claim`]: a sentence with a function that looks. It is asked of the chart, and of
//! copies in which something was broken on purpose ([`broken`]): a claim that no break can upset says nothing.

mod args;
mod broken;
mod install;
mod monitoring;
mod network;
mod page;
mod pod;
mod rights;
mod server;
mod values;
mod webhooks;

use std::fmt::Debug;

use anyhow::{Result, ensure};
use kollect::lab::helm::{Chart, Objects};
use kollect::lab::tools::Tool;

use crate::support::part_or_skip;

/// Something that holds for the chart.
type Claim = (&'static str, fn(&Chart) -> Result<()>);

/// All claims.
fn claims() -> impl Iterator<Item = Claim> {
    [args::CLAIMS, pod::CLAIMS, rights::CLAIMS, monitoring::CLAIMS, network::CLAIMS, values::CLAIMS, webhooks::CLAIMS]
        .into_iter()
        .flatten()
        .copied()
}

/// Fails unless both are equal.
#[expect(clippy::needless_pass_by_value, reason = "most that is compared is written out in place")]
fn same<T: Debug + PartialEq<U>, U: Debug>(have: T, want: U) -> Result<()> {
    ensure!(have == want, "have {have:?}, want {want:?}");
    Ok(())
}

/// Renders with values on the command line.
fn set(chart: &Chart, values: &[&str]) -> Result<Objects> {
    let options: Vec<&str> = values.iter().flat_map(|value| ["--set", value]).collect();
    chart.objects(&options)
}

/// Renders with a file of values of the chart.
fn with_file(chart: &Chart, file: &str) -> Result<Objects> {
    chart.objects(&["--values", &chart.file(file).display().to_string()])
}

/// Returns why a chart cannot be rendered with values on the command line.
fn refusal(chart: &Chart, values: &[&str]) -> Result<String> {
    match set(chart, values) {
        Ok(_) => anyhow::bail!("{values:?} are rendered"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

#[test]
fn every_claim_holds() {
    if part_or_skip(Tool::Helm.path()).is_none() {
        return;
    }
    let chart = Chart::own();
    let wrong: Vec<String> =
        claims().filter_map(|(name, claim)| claim(&chart).err().map(|error| format!("{name}: {error:#}"))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
