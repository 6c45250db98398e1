//! The `kollect` binary: arguments in, exit code out.

use clap::Parser;
use kollect::cli::Cli;

fn main() -> anyhow::Result<()> {
    Cli::parse().run()
}
