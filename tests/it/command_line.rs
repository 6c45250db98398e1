//! The program as a user calls it: what it prints, and the code that it ends with. Needs no server.

use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

/// Runs the program with a home directory that has no kubeconfig, and nothing else in its environment.
fn kollect(arguments: &[&str]) -> Output {
    command().args(arguments).output().unwrap()
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kollect"));
    command.env_clear().env("HOME", "/nonexistent");
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn the_version_is_one_line_however_it_is_asked_for() {
    for arguments in [&["--version"][..], &["version"], &["manager", "--version"]] {
        let output = kollect(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        let printed = stdout(&output);
        assert!(printed.contains(" (commit ") && printed.contains(", built "), "{printed}");
        assert_eq!(printed.lines().count(), 1, "{printed}");
    }
}

#[test]
fn called_as_manager_it_takes_the_flags_of_the_manager() {
    let link = std::env::temp_dir().join(format!("kollect-link-{}", std::process::id()));
    std::fs::create_dir_all(&link).unwrap();
    let manager = link.join("manager");
    symlink(env!("CARGO_BIN_EXE_kollect"), &manager).unwrap();
    let by_link = Command::new(&manager).env_clear().arg("--version").output().unwrap();
    let by_name = command().arg0("/manager").args(["--zap-devel=false", "--version"]).output().unwrap();
    std::fs::remove_dir_all(&link).unwrap();
    assert_eq!((by_link.status.code(), by_name.status.code()), (Some(0), Some(0)));
    assert_eq!(stdout(&by_link), stdout(&by_name));
}

#[test]
fn a_command_line_that_cannot_be_read_ends_with_2() {
    for arguments in [&["manager", "--no-such-flag"][..], &["manager", "--zap-devel=perhaps"], &["fly"], &[]] {
        let output = kollect(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_flag_that_is_not_served_ends_the_start_in_the_log_form_asked_for() {
    let output = kollect(&["manager", "--zap-devel=false", "--inventory-http-enabled", "--enable-http2"]);
    assert_eq!(output.status.code(), Some(1));
    let line: serde_json::Value = serde_json::from_str(&stderr(&output)).unwrap();
    assert_eq!((&line["level"], &line["msg"]), (&"error".into(), &"invalid settings".into()));
    assert_eq!(
        line["error"],
        "--inventory-http-enabled: not in this build; remove the flag; --enable-http2: not in this build; remove the flag"
    );
}

#[test]
fn a_kubeconfig_that_is_not_there_ends_the_start_with_its_path() {
    let output = kollect(&["manager", "--health-probe-bind-address=0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/nonexistent/.kube/config"), "{}", stderr(&output));
}
