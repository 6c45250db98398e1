//! `kollect crds`: prints the definitions of the kinds, or writes them and their reference pages to files.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::api;

/// Arguments of `kollect crds`.
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// Writes one file for each kind into this directory instead of printing all of them.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Writes one Markdown page for each kind into this directory.
    #[arg(long, value_name = "DIR")]
    pub docs: Option<PathBuf>,
}

/// Prints the definitions as one YAML stream, unless a directory asks for files.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if args.dir.is_none() && args.docs.is_none() {
        return std::io::stdout().write_all(api::crds_yaml().as_bytes()).context("failed to print the definitions");
    }
    if let Some(dir) = &args.dir {
        write_all(dir, &api::crd_files())?;
    }
    if let Some(dir) = &args.docs {
        write_all(dir, &api::reference::pages())?;
    }
    Ok(())
}

fn write_all(dir: &Path, files: &[(String, String)]) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("failed to create directory {}", dir.display()))?;
    for (name, text) in files {
        let path = dir.join(name);
        std::fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_gets_one_file_for_each_kind() {
        let dir = std::env::temp_dir().join(format!("kollect-crds-{}", std::process::id()));
        let args = Args { dir: Some(dir.join("crds")), docs: Some(dir.join("docs")) };

        run(&args).unwrap();

        let count = |path: PathBuf| std::fs::read_dir(path).unwrap().count();
        assert_eq!((count(dir.join("crds")), count(dir.join("docs"))), (11, 12));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
