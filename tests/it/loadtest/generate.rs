//! `generate.sh`: the same objects as `kollect-lab load`, the same bytes each time, and clear refusals.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use kollect::lab::load::{Kind, Load};
use serde_json::Value;

use crate::support::repository_file;

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("kollect-generate-{}-{number}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn run(&self, options: &[&str]) -> Output {
        let mut command = Command::new(repository_file("hack/loadtest/100k/generate.sh"));
        command.args(["--out", self.out().to_str().unwrap()]).args(options).output().unwrap()
    }

    fn write(&self, options: &[&str]) {
        let output = self.run(options);
        assert!(output.status.success(), "{options:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn out(&self) -> PathBuf {
        self.0.join("manifests")
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.out().join(file)).unwrap()
    }

    fn documents(&self, file: &str) -> Vec<Value> {
        let text = self.read(file);
        let documents = text.split("---\n").filter(|document| !document.trim().is_empty());
        documents.map(|document| serde_saphyr::from_str(document).unwrap()).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // a leftover below the directory of temporary files
    }
}

#[test]
fn generated_objects_are_those_that_load_writes() {
    let scratch = Scratch::new();
    let usual = Load { namespaces: 3, per_namespace: 21, ..Load::default() };
    let cases = [
        (Load { replicas: 2, ..usual.clone() }, vec!["--replicas", "2"]),
        (
            Load { kind: Kind::Configmap, seed: 7, filtered_percent: 100, ..usual.clone() },
            vec!["--kind", "configmap", "--seed=7", "--filtered-percent", "100"],
        ),
        (
            Load { kind: Kind::Mixed, seed: 999_999_999, filtered_percent: 33, ..usual },
            vec!["--kind=mixed", "--seed", "999999999", "--filtered-percent=33"],
        ),
    ];
    for (load, options) in cases {
        scratch.write(&[vec!["--namespaces", "3", "--deployments-per-ns", "21"], options].concat());
        for namespace in 0..3 {
            let documents = scratch.documents(&format!("objects/{}.yaml", load.namespace(namespace)));
            let wanted: Vec<Value> = (0..21).map(|number| load.content(number * 3 + namespace)).collect();
            assert_eq!(documents, wanted);
        }
    }
}

#[test]
fn a_namespace_has_what_collects_and_exports_its_objects() {
    let scratch = Scratch::new();
    let options = "--namespaces 2 --deployments-per-ns 1 --kind mixed --cluster west --interval 5s --git-interval 2h \
                   --git-endpoint https://git.example.com/a.git --git-ca --git-layout perResource";
    scratch.write(&options.split_whitespace().collect::<Vec<_>>());
    let kustomization = &scratch.documents("kustomization.yaml")[0];
    assert_eq!(
        kustomization["resources"],
        serde_json::json!(["namespace-loadtest-001.yaml", "namespace-loadtest-002.yaml"])
    );
    let documents = scratch.documents("namespace-loadtest-002.yaml");
    let kinds: Vec<_> = documents.iter().map(|one| one["kind"].as_str().unwrap()).collect();
    let wanted = "Namespace KollectProfile KollectTarget KollectProfile KollectTarget KollectDatabaseSink \
                  KollectSnapshotSink KollectInventory";
    assert_eq!(kinds, wanted.split_whitespace().collect::<Vec<_>>());
    assert_eq!(documents[0]["metadata"]["labels"]["kollect.dev/loadtest"], "100k");
    let inventory = &documents[7]["spec"];
    assert_eq!((&inventory["exportMinInterval"], &inventory["suspend"]), (&"5s".into(), &false.into()));
    assert_eq!(inventory["snapshotSinkRefs"][0]["exportMinInterval"], "2h");
    let git = &documents[6]["spec"];
    assert_eq!((&git["cluster"], &git["layout"]["mode"]), (&"west".into(), &"perResource".into()));
    assert!(git["tls"].is_object());

    scratch.write(&["--namespaces", "1", "--deployments-per-ns", "0", "--sinks", "postgres"]);
    assert!(!scratch.read("namespace-loadtest-001.yaml").contains("napshot"));
    assert!(!scratch.out().join("namespace-loadtest-002.yaml").exists(), "an older file was left");
}

#[test]
fn the_same_options_give_the_same_bytes_and_a_dry_run_writes_none() {
    let (one, other) = (Scratch::new(), Scratch::new());
    let options = ["--namespaces=2", "--deployments-per-ns=5", "--seed=3", "--kind=mixed"];
    let dry = one.run(&[&options[..], &["--dry-run"]].concat());
    assert!(String::from_utf8_lossy(&dry.stdout).contains("10 objects of kind mixed"), "{dry:?}");
    assert!(!one.out().exists());
    one.write(&options);
    one.write(&options);
    other.write(&options);
    for file in ["kustomization.yaml", "namespace-loadtest-002.yaml", "objects/loadtest-002.yaml"] {
        assert_eq!(one.read(file), other.read(file));
    }
    other.write(&[&options[..], &["--seed=4"]].concat());
    assert_ne!(one.read("objects/loadtest-002.yaml"), other.read("objects/loadtest-002.yaml"));
}

#[test]
fn wrong_options_are_named_and_nothing_is_written() {
    let scratch = Scratch::new();
    for (options, says) in [
        ("--pods 3", "unknown option '--pods'"),
        ("5", "unknown option '5'"),
        ("--namespaces 0", "--namespaces must be a whole number from 1 to 999, not '0'"),
        ("--namespaces 1000", "--namespaces must be"),
        ("--namespaces=2x", "not '2x'"),
        ("--deployments-per-ns -1", "--deployments-per-ns must be"),
        ("--filtered-percent 101", "from 0 to 100"),
        ("--kind pod", "--kind must be deployment, configmap or mixed, not 'pod'"),
        ("--cluster West", "--cluster must be"),
        ("--interval soon", "--interval must be a duration"),
        ("--git-layout tree", "--git-layout must be"),
        ("--git-endpoint file:///tmp/a.git", "--git-endpoint must be"),
        ("--sinks postgres,s3", "s3 is no part of this load test"),
        ("--sinks nats", "nats is not in this build yet"),
        ("--sinks mysql", "there is no 'mysql'"),
        ("--seed", "--seed needs a value"),
        ("--kind= --dry-run", "--kind needs a value"),
    ] {
        let output = scratch.run(&options.split_whitespace().collect::<Vec<_>>());
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{options}");
        assert!(error.contains(says), "{options}: {error}");
        assert!(!scratch.out().exists(), "{options}");
    }
    let help = scratch.run(&["--help"]);
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("--deployments-per-ns"));
}

#[test]
fn a_directory_of_somebody_else_is_left_alone() {
    let scratch = Scratch::new();
    let theirs = scratch.out().join("notes.txt");
    fs::create_dir(scratch.out()).unwrap();
    fs::write(&theirs, "mine").unwrap();
    let output = scratch.run(&["--namespaces", "1", "--deployments-per-ns", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(Path::new(&theirs).exists());
}
