//! The tiers: who may call which, and that what is called is there.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::repository_file;

/// Programs that a task may call beside the scripts of this repository.
const PROGRAMS: [&str; 5] = ["cargo", "docker", "helm", "kubectl", "task"];

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Tells whether a text has a command that runs the largest tier: by its task, by its script, or by the program.
fn runs_the_largest_tier(text: &str) -> bool {
    let commands = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    commands.map(|line| line.replace(['=', '"', '\'', ','], " ")).any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |name: &str| words.windows(2).any(|pair| pair[0].ends_with(name) && pair[1] == "100k");
        words.iter().any(|word| word.ends_with("load-test:100k"))
            || after("tier.sh")
            || after("--tier")
            || words.contains(&"proof") && !line.contains("--tier")
    })
}

#[test]
fn no_workflow_runs_the_largest_tier() {
    for command in [
        "- run: task load-test:100k",
        "run: hack/loadtest/tier.sh 100k --soak 1h",
        "kollect-lab proof --tier=100k --out x",
        "kollect-lab proof --namespaces 50 --per-namespace 2000 --out x",
    ] {
        assert!(runs_the_largest_tier(command), "{command}");
    }
    for command in ["hack/bench/bench.sh cold-start --rows 100000", "task load-test:10k", "# task load-test:100k"] {
        assert!(!runs_the_largest_tier(command), "{command}");
    }
    let workflows = fs::read_dir(repository_file(".github/workflows")).unwrap();
    let mut files: Vec<_> = workflows.map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 2);
    // What they call counts too.
    files.extend([".ci/run", "hack/test.sh", "hack/nightly.sh"].map(repository_file));
    for file in files {
        assert!(!runs_the_largest_tier(&read(&file)), "{} runs the tier of 100,000 objects", file.display());
    }
}

#[test]
fn the_nightly_workflow_runs_every_step_of_the_night() {
    let output = Command::new(repository_file("hack/nightly.sh")).arg("--list").output().unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    let steps: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let workflow: Value = serde_saphyr::from_str(&read(&repository_file(".github/workflows/nightly.yaml"))).unwrap();
    let job = &workflow["jobs"]["night"];
    let matrix: Vec<&str> =
        job["strategy"]["matrix"]["step"].as_array().unwrap().iter().map(|step| step.as_str().unwrap()).collect();
    assert_eq!(matrix, steps);
    let last = job["steps"].as_array().unwrap().last().unwrap();
    assert_eq!(last["run"], "hack/nightly.sh --only ${{ matrix.step }}");
    assert!(steps.contains(&"load-10k"));

    let workflow: Value = serde_saphyr::from_str(&read(&repository_file(".github/workflows/ci.yaml"))).unwrap();
    let steps = workflow["jobs"]["test"]["steps"].as_array().unwrap();
    assert_eq!(steps.last().unwrap()["run"], ".ci/run");
}

#[test]
fn each_task_calls_what_is_there() {
    let file: Value = serde_saphyr::from_str(&read(&repository_file("Taskfile.yml"))).unwrap();
    let tasks: BTreeMap<String, Value> = serde_json::from_value(file["tasks"].clone()).unwrap();
    for tier in ["load-test", "load-test:10k", "load-test:100k"] {
        assert!(tasks.contains_key(tier), "there is no task {tier}");
    }
    for (name, task) in &tasks {
        let one = task.get("cmd").cloned().into_iter();
        let commands: Vec<Value> = one.chain(task["cmds"].as_array().cloned().unwrap_or_default()).collect();
        assert!(!commands.is_empty(), "{name} does nothing");
        for command in commands {
            if let Some(other) = command.get("task") {
                assert!(tasks.contains_key(other.as_str().unwrap()), "{name} calls {other}");
                continue;
            }
            let line = command.as_str().unwrap_or_else(|| panic!("{name}: {command}"));
            let program = line.split_whitespace().find(|word| !word.contains('=')).unwrap();
            if program.contains('/') {
                let mode = fs::metadata(repository_file(program)).map(|file| file.permissions().mode());
                assert!(mode.is_ok_and(|mode| mode & 0o111 != 0), "{name}: {program} is no program");
            } else {
                assert!(PROGRAMS.contains(&program), "{name} calls {program}");
            }
        }
    }
}

/// Runs a tier with a program that only shows how it is called.
fn tier(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(repository_file("hack/loadtest/tier.sh"));
    for name in ["KOLECT_LOAD_TEST", "KOLLECT_LOAD_TEST", "KOLECT_LOAD_TEST_MAX", "KOLLECT_LOAD_TEST_MAX"] {
        command.env_remove(name);
    }
    command.args(arguments).env("KOLLECT_LAB", "/bin/echo").envs(variables.iter().copied()).output().unwrap()
}

#[test]
fn the_tier_of_two_thousand_asks_first_and_obeys_its_cap() {
    for (variables, says) in [
        (vec![], "set KOLECT_LOAD_TEST=1"),
        (vec![("KOLECT_LOAD_TEST", "0")], "set KOLECT_LOAD_TEST=1"),
        (vec![("KOLECT_LOAD_TEST", "1"), ("KOLECT_LOAD_TEST_MAX", "0")], "from 1 to 10000, not '0'"),
        (vec![("KOLECT_LOAD_TEST", "1"), ("KOLECT_LOAD_TEST_MAX", "10001")], "not '10001'"),
        (vec![("KOLECT_LOAD_TEST", "1"), ("KOLLECT_LOAD_TEST_MAX", "many")], "not 'many'"),
    ] {
        let output = tier(&["2k"], &variables);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{variables:?}");
        assert!(error.contains(says), "{variables:?}: {error}");
    }
    let called = |arguments: &[&str], variables: &[(&str, &str)]| {
        let output = tier(arguments, variables);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let opted = ("KOLLECT_LOAD_TEST", "1");
    assert_eq!(called(&["2k"], &[opted]), "proof --tier 2k --out artifacts/load-test/2k");
    assert_eq!(called(&["2k"], &[opted, ("KOLECT_LOAD_TEST_MAX", "10000")]), called(&["2k"], &[opted]));
    let capped = called(&["2k", "--out", "/tmp/x"], &[("KOLECT_LOAD_TEST", "1"), ("KOLECT_LOAD_TEST_MAX", "505")]);
    assert_eq!(capped, "proof --tier 2k --namespaces 10 --per-namespace 50 --out /tmp/x");
    assert_eq!(called(&["100k", "--soak", "4h"], &[]), "proof --tier 100k --out artifacts/load-test/100k --soak 4h");
    assert_eq!(tier(&["1m"], &[opted]).status.code(), Some(2));
}
