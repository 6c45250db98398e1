//! The alerts: each of them fires and clears in the hands of `promtool`, and has a page that says what to do.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::promtool;
use crate::support::{part_or_skip, repository_file};

pub(super) const RULES: &str = "charts/kollect/files/rules.yaml";
const TESTS: &str = "tests/it/alerts";
const PAGE: &str = include_str!("../../../docs/operator-manual/alerts.md");

fn yaml(path: &std::path::Path) -> Value {
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn tests() -> Vec<std::path::PathBuf> {
    std::fs::read_dir(repository_file(TESTS)).unwrap().map(|file| file.unwrap().path()).collect()
}

fn rules() -> Vec<Value> {
    let file = yaml(&repository_file(RULES));
    let groups = file["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 1);
    assert_eq!(groups[0]["name"], "kollect.rules");
    groups[0]["rules"].as_array().unwrap().clone()
}

#[test]
fn each_alert_fires_and_clears() {
    let rules_file = repository_file(RULES);
    let checked = promtool(&["check", "rules", &rules_file.display().to_string()], "");
    let Some((content, said)) = part_or_skip(checked) else { return };
    assert!(content, "{said}");
    // Alert by alert: in the order of time, whether it is expected.
    let mut proven: BTreeMap<String, BTreeSet<Vec<bool>>> = BTreeMap::new();
    for file in tests() {
        let (content, said) = promtool(&["test", "rules", &file.display().to_string()], "").unwrap();
        assert!(content, "{said}");
        for test in yaml(&file)["tests"].as_array().unwrap() {
            let mut course: BTreeMap<&str, Vec<bool>> = BTreeMap::new();
            for look in test["alert_rule_test"].as_array().unwrap() {
                let alert = look["alertname"].as_str().unwrap();
                course.entry(alert).or_default().push(!look["exp_alerts"].as_array().unwrap().is_empty());
            }
            for (alert, course) in course {
                proven.entry(alert.to_owned()).or_default().insert(course);
            }
        }
    }
    let alerts: BTreeSet<String> = rules().iter().map(|rule| rule["alert"].as_str().unwrap().to_owned()).collect();
    assert_eq!(proven.keys().cloned().collect::<BTreeSet<_>>(), alerts);
    for (alert, courses) in proven {
        assert_eq!(courses, BTreeSet::from([vec![false, true, false]]), "{alert} is not proven to fire and to clear");
    }
}

#[test]
fn each_alert_has_a_section_that_its_runbook_leads_to() {
    let mut named = Vec::new();
    for rule in rules() {
        let (alert, notes) = (rule["alert"].as_str().unwrap(), &rule["annotations"]);
        assert_eq!(rule["labels"]["severity"], "warning", "{alert}");
        assert!(notes["summary"].is_string() && notes["description"].is_string(), "{alert}");
        let anchor = alert.to_lowercase();
        assert_eq!(notes["runbook_url"], format!("https://kollect.dev/docs/operator-manual/alerts.md#{anchor}"));
        named.push(format!("## {alert}"));
    }
    let sections: Vec<&str> = PAGE.lines().filter(|line| line.starts_with("## Kollect")).collect();
    assert_eq!(
        sections, named,
        "docs/operator-manual/alerts.md has a section for each alert, in the order of the rules"
    );
}
