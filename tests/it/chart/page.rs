//! Pages of the documentation, done literally: their commands by a shell, their manifests by kubectl, their queries by psql.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use kollect::lab::process;
use kollect::lab::tools::Tool;

use crate::support::{Ground, repository_file};

/// Something on a page that a reader does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// A command behind a `$`, its continuations joined.
    Command(String),
    /// What goes to `kubectl apply`.
    Manifests(String),
    /// A query.
    Query(String),
}

/// Returns the steps below a heading, down to the next heading of the same rank or a higher one.
pub(super) fn steps(page: &str, heading: &str) -> Result<Vec<Step>> {
    let text = fs::read_to_string(repository_file(page))?;
    let rank = heading.split(' ').next().unwrap_or_default().len();
    let mut lines = text.lines().skip_while(|line| *line != heading);
    lines.next().with_context(|| format!("{page} has no heading {heading:?}"))?;
    let mut steps = Vec::new();
    let mut block: Option<(String, Vec<&str>)> = None;
    for line in lines {
        match &mut block {
            None if line.starts_with('#') && line.chars().take_while(|letter| *letter == '#').count() <= rank => break,
            None => block = line.strip_prefix("```").map(|language| (language.to_owned(), Vec::new())),
            Some((language, body)) if line == "```" => {
                steps.extend(read(language, body));
                block = None;
            }
            Some((_, body)) => body.push(line),
        }
    }
    ensure!(!steps.is_empty(), "{page}, {heading:?} has nothing to do");
    Ok(steps)
}

fn read(language: &str, body: &[&str]) -> Vec<Step> {
    match language {
        "console" => body
            .join("\n")
            .replace("\\\n", " ")
            .lines()
            .filter_map(|line| line.strip_prefix("$ ").map(|command| Step::Command(command.to_owned())))
            .collect(),
        "yaml" if body.iter().any(|line| line.starts_with("apiVersion:")) => vec![Step::Manifests(body.join("\n"))],
        "sql" => vec![Step::Query(body.join("\n"))],
        _ => Vec::new(),
    }
}

/// A reader with an administrator's rights, in a checkout.
pub(super) struct Reader<'a> {
    ground: &'a Ground,
    dir: PathBuf,
    /// What a page says only by example, and what it is here.
    pub(super) instead: Vec<(String, String)>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(ground: &'a Ground) -> Result<Self> {
        let dir = ground.lab().dir().join("reader");
        fs::create_dir_all(&dir)?;
        for tool in [Tool::Helm, Tool::Kubectl] {
            let path = tool.path()?;
            symlink(&path, dir.join(path.file_name().context("a tool has a name")?))?;
        }
        Ok(Self { ground, dir, instead: Vec::new() })
    }

    /// Does one step and returns what it printed.
    pub(super) fn take(&self, step: &Step) -> Result<String> {
        match step {
            Step::Command(command) => self.run(command),
            Step::Manifests(manifests) => self.ground.api().apply(&self.adapt(manifests)),
            Step::Query(query) => self.ground.postgres().psql(&self.ground.database, &self.adapt(query)),
        }
    }

    /// Does all steps.
    pub(super) fn take_all(&self, steps: &[Step]) -> Result<()> {
        steps.iter().try_for_each(|step| self.take(step).map(drop))
    }

    /// Runs a command line.
    pub(super) fn run(&self, command: &str) -> Result<String> {
        let command = self.adapt(command);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("PATH={}:$PATH; {command}", self.dir.display())])
            .current_dir(repository_file("."))
            .env("KUBECONFIG", self.ground.api().admin_kubeconfig())
            .env("KUBECACHEDIR", self.dir.join("kubectl-cache"));
        for (variable, dir) in
            [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
        {
            shell.env(variable, self.dir.join(dir));
        }
        process::run(&mut shell).with_context(|| command)
    }

    fn adapt(&self, text: &str) -> String {
        self.instead.iter().fold(text.to_owned(), |text, (example, here)| text.replace(example, here))
    }
}

/// Splits steps at the first that contains a text, which stays at the end of the first half.
pub(super) fn split_after<'s>(steps: &'s [Step], text: &str) -> Result<(&'s [Step], &'s [Step])> {
    let found = steps.iter().position(|step| matches!(step, Step::Command(command) if command.contains(text)));
    match found.and_then(|at| steps.split_at_checked(at + 1)) {
        Some(halves) => Ok(halves),
        None => bail!("no command has {text:?}"),
    }
}

#[test]
fn commands_manifests_and_queries_are_found_below_their_heading() {
    let install = steps("docs/installation.md", "## Install").unwrap();
    let Step::Command(command) = &install[0] else { panic!("{install:?}") };
    assert!(command.starts_with("helm install kollect charts/kollect ") && command.contains("--set"), "{command}");
    assert_eq!(install.len(), 1, "values are no manifests, and the next heading is another matter: {install:?}");
    let whole = steps("docs/getting-started.md", "# Getting started").unwrap();
    assert!(whole.iter().any(|step| matches!(step, Step::Manifests(text) if text.contains("KollectInventory"))));
    assert!(whole.iter().any(|step| matches!(step, Step::Query(_))));
    steps("docs/installation.md", "## No such heading").unwrap_err();
}
