//! What a proof is run with: a tier, and single settings that win over it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::super::load::Load;
use super::super::operator::sibling_program;
use super::super::tools;
use crate::duration::parse_go_duration;

/// How large, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Tier {
    /// 10 namespaces of 200 objects, a soak of one minute.
    #[value(name = "2k")]
    TwoThousand,
    /// 50 namespaces of 200 objects, a soak of five minutes.
    #[value(name = "10k")]
    TenThousand,
    /// 50 namespaces of 2,000 objects, a soak of an hour.
    #[value(name = "100k")]
    HundredThousand,
}

impl Tier {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::TwoThousand => "2k",
            Self::TenThousand => "10k",
            Self::HundredThousand => "100k",
        }
    }

    const fn shape(self) -> (usize, usize) {
        match self {
            Self::TwoThousand => (10, 200),
            Self::TenThousand => (50, 200),
            Self::HundredThousand => (50, 2_000),
        }
    }

    const fn soak(self) -> Duration {
        match self {
            Self::TwoThousand => Duration::from_mins(1),
            Self::TenThousand => Duration::from_mins(5),
            Self::HundredThousand => Duration::from_hours(1),
        }
    }
}

/// The advised shape of the largest tier: inventories below the 1,800 rows from which splitting is advised.
const ADVISED: (usize, usize) = (60, 1_667);

/// Settings of a proof.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Size and length by name; the settings below win.
    #[arg(long, value_enum, default_value = "2k")]
    pub tier: Tier,
    /// Namespaces, each with a profile, a target, an inventory and two sinks.
    #[arg(long)]
    pub namespaces: Option<usize>,
    /// Objects in each namespace.
    #[arg(long)]
    pub per_namespace: Option<usize>,
    /// 60 namespaces of 1,667 objects, which no inventory warns of.
    #[arg(long, conflicts_with_all = ["namespaces", "per_namespace"])]
    pub advised: bool,
    /// How long objects change while nothing else happens.
    #[arg(long, value_parser = parse_go_duration)]
    pub soak: Option<Duration>,
    /// Objects that are created, changed or deleted in a minute, in percent of all.
    #[arg(long, default_value_t = 1.0)]
    pub churn: f64,
    /// `exportMinInterval` of the inventories.
    #[arg(long, value_parser = parse_go_duration, default_value = "30s")]
    pub interval: Duration,
    /// `exportMinInterval` of the references to the git sinks.
    #[arg(long, value_parser = parse_go_duration, default_value = "1h")]
    pub git_interval: Duration,
    /// How long a part stays away in a fault.
    #[arg(long, value_parser = parse_go_duration, default_value = "15s")]
    pub outage: Duration,
    /// Runs the operator in a memory cgroup of this many MiB. Takes root.
    #[arg(long)]
    pub limit_memory: Option<u64>,
    /// The `kollect` binary. Default: the one beside this program.
    #[arg(long)]
    pub kollect: Option<PathBuf>,
    /// Directory of custom resource definitions. Default: those of the source tree.
    #[arg(long)]
    pub crds: Option<PathBuf>,
    /// Directory for the report and its data; made if it is not there.
    #[arg(long)]
    pub out: PathBuf,
    /// More flags for the operator.
    #[arg(long = "operator-arg", allow_hyphen_values = true)]
    pub operator_args: Vec<String>,
}

impl Options {
    /// Checks the settings that can be wrong by themselves, before anything is started.
    pub(super) fn check(&self) -> Result<()> {
        ensure!(
            self.load().total() > 0,
            "there is nothing to collect: --namespaces and --per-namespace must be positive"
        );
        ensure!(self.churn > 0.0 && self.churn <= 600.0, "--churn must be more than 0 and at most 600 percent");
        ensure!(self.git_interval >= self.interval, "--git-interval must not be less than --interval");
        let programs = self.program()?;
        ensure!(programs.exists(), "there is no {}", programs.display());
        Ok(())
    }

    /// Returns the objects.
    pub(super) fn load(&self) -> Load {
        let (namespaces, per_namespace) = if self.advised { ADVISED } else { self.tier.shape() };
        Load {
            namespaces: self.namespaces.unwrap_or(namespaces),
            per_namespace: self.per_namespace.unwrap_or(per_namespace),
            ..Load::default()
        }
    }

    pub(super) fn soak(&self) -> Duration {
        self.soak.unwrap_or_else(|| self.tier.soak())
    }

    pub(super) fn program(&self) -> Result<PathBuf> {
        self.kollect.clone().map_or_else(sibling_program, Ok)
    }

    pub(super) fn definitions(&self) -> PathBuf {
        self.crds.clone().unwrap_or_else(|| tools::repository_file("crds"))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(line: &str) -> Options {
        Line::parse_from(format!("proof --out /tmp/out {line}").split_whitespace()).options
    }

    #[test]
    fn tiers_have_their_shapes_and_single_settings_win() {
        let shape = |line: &str| {
            let options = options(line);
            (options.load().namespaces, options.load().per_namespace, options.soak().as_secs())
        };
        assert_eq!(shape(""), (10, 200, 60));
        assert_eq!(shape("--tier 100k"), (50, 2_000, 3_600));
        assert_eq!(shape("--tier 100k --advised --soak 10m"), (60, 1_667, 600));
        assert_eq!(shape("--tier 10k --namespaces 5 --per-namespace 20"), (5, 20, 300));
    }

    #[test]
    fn what_cannot_be_is_said_before_anything_starts() {
        for line in ["--namespaces 0", "--churn 0", "--git-interval 1s", "--kollect /nonexistent"] {
            assert!(options(line).check().is_err(), "{line}");
        }
    }
}
