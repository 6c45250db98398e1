//! The command line: one subcommand for each thing that the binary does.

use clap::{Parser, Subcommand};

pub mod crds;

/// Exports chosen attributes of chosen Kubernetes resources to databases and other stores.
#[derive(Debug, Parser)]
#[command(name = "kollect", arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints the custom resource definitions, or writes them to files.
    Crds(crds::Args),
    /// Prints the version.
    Version,
}

impl Cli {
    /// Runs the chosen subcommand to its end.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Crds(args) => crds::run(&args),
            Command::Version => {
                println!("kollect {}", env!("CARGO_PKG_VERSION"));
                Ok(())
            }
        }
    }
}
