//! The command line: `kollect manager`, `kollect crds`, `kollect version`.
//!
//! Called under the name `manager`, the program behaves as `kollect manager`, so that published arguments of the image
//! work. A wrong command line ends with 2, any other failure with 1.

pub mod crds;
pub mod manager;
pub mod version;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::ManagerArgs;

/// Exports chosen attributes of chosen Kubernetes resources to databases and other stores.
#[derive(Debug, Parser)]
#[command(name = "kollect", disable_help_subcommand = true, arg_required_else_help = true)]
struct Cli {
    /// Print which build this is and exit
    #[arg(long, exclusive = true)]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the operator.
    // Boxed: some fifty settings beside commands that have none.
    Manager(Box<ManagerArgs>),
    /// Prints the definitions of the kinds, or writes them to files.
    Crds(crds::Args),
    /// Prints which build this is.
    Version,
}

/// Runs what the arguments ask for; the first one is the name that the program was called by.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = match Cli::try_parse_from(expand(arguments.into_iter().collect())) {
        Ok(cli) => cli.command,
        Err(error) => {
            let _ = error.print(); // neither output is there
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match command {
        Some(Command::Manager(args)) => manager::run(*args),
        Some(Command::Crds(args)) => match crds::run(&args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let _ = writeln!(io::stderr(), "error: {error:#}"); // nobody is left to tell
                ExitCode::FAILURE
            }
        },
        // Without a command there is `--version`: anything else is an error that clap found.
        Some(Command::Version) | None => {
            print(&version::line());
            ExitCode::SUCCESS
        }
    }
}

/// Puts in the `manager` that its own name stands for.
fn expand(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let called = arguments.first().and_then(|program| Path::new(program).file_name());
    if called == Some(OsStr::new("manager")) {
        arguments.insert(1, "manager".into());
    }
    arguments
}

/// Prints a line; a reader that has gone away is no failure.
fn print(line: &str) {
    let _ = writeln!(io::stdout(), "{line}"); // `kollect version | head -0` is fine
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(expand(arguments.iter().map(OsString::from).collect()))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn called_as_manager_it_is_the_manager() {
        let cli = parse(&["/manager", "--zap-devel=false", "--leader-elect"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Manager(args)) if args.leader_elect && !args.zap_devel));
        assert!(parse(&["/kollect", "--zap-devel=false"]).is_err());
    }

    #[test]
    fn wrong_command_lines_end_with_2() {
        for arguments in [&["kollect"][..], &["kollect", "fly"], &["manager", "--no-such"], &["manager", "stray"]] {
            assert_eq!(parse(arguments).unwrap_err().exit_code(), 2, "{arguments:?}");
        }
    }

    #[test]
    fn a_developers_build_says_so() {
        assert_eq!(version::line(), "dev (commit unknown, built unknown)");
    }
}
