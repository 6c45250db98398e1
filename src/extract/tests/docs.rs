//! `docs/expressions.md` says what is: its tables are run over its objects, and the samples over objects of their kinds.

use serde_json::{Value as Json, json};

use super::profiles::{helm_secret, row, value};
use crate::api::v1alpha1::KollectProfileSpec;
use crate::validate;

const PAGE: &str = include_str!("../../../docs/expressions.md");

/// Returns the text below a heading.
fn section(title: &str) -> &'static str {
    let level = title.split(' ').next().unwrap();
    let (_, rest) = PAGE.split_once(&format!("\n{title}\n")).unwrap_or_else(|| panic!("no heading {title}"));
    rest.split(&format!("\n{level} ")).next().unwrap()
}

/// Returns the first block of JSON.
fn block(text: &str) -> Json {
    let (_, rest) = text.split_once("```json\n").expect("a block of JSON");
    serde_json::from_str(rest.split("```").next().unwrap()).unwrap()
}

/// Returns what a table says of each path.
fn examples(title: &str) -> Vec<(&'static str, &'static str)> {
    let lines = section(title).lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
    lines.filter_map(|line| line.split_once("` | ")).collect()
}

fn check(kind: &str, object: &Json, examples: &[(&str, &str)]) {
    for (path, expected) in examples {
        let answer = value(kind, path, &[], object);
        let refusal = expected.strip_prefix("refused: ").or_else(|| expected.strip_prefix("error: "));
        match (refusal, answer) {
            (Some(part), Err(message)) => {
                assert_eq!(
                    message.starts_with("attribute \"v\": "),
                    expected.starts_with("error"),
                    "{path}: {message}"
                );
                assert!(message.contains(part), "{path}: {message}");
            }
            (None, Ok(answer)) => {
                let answer = if answer == "null" { "no value".to_owned() } else { format!("`{answer}`") };
                assert_eq!(answer, *expected, "{path}");
            }
            (_, answer) => panic!("{path} is not {expected} but {answer:?}"),
        }
    }
}

#[test]
fn the_examples_of_the_page_are_true() {
    let object = block(section("## The object of the examples"));
    let mut count = 0;
    for title in ["## JSONPath", "## CEL", "## Redaction"] {
        let examples = examples(title);
        count += examples.len();
        check("Deployment", &object, &examples);
    }
    let examples = examples("## Helm releases");
    check("Secret", &helm_secret(&block(section("## Helm releases"))), &examples);
    assert!(count + examples.len() > 60, "the tables of the page are not found any more");
}

#[test]
fn the_samples_make_of_an_object_what_the_page_says() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root.join("config/samples/profiles")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if name == "kustomization" {
            continue;
        }
        let manifests = std::fs::read_to_string(&path).unwrap();
        let (profile, target) = manifests.split_once("\n---\n").unwrap();
        let target: Json = serde_saphyr::from_str(target).unwrap();
        assert_eq!((&target["metadata"]["name"], &target["spec"]["profileRef"]), (&json!(name), &json!(name)));
        validate::target(&serde_json::from_value(target["spec"].clone()).unwrap()).unwrap();
        let profile: Json = serde_saphyr::from_str(profile).unwrap();
        assert_eq!(profile["metadata"]["name"], name.as_str());
        let spec: KollectProfileSpec = serde_json::from_value(profile["spec"].clone()).unwrap();
        validate::profile_expressions(&spec).unwrap();

        let object = if name == "helm-releases" {
            helm_secret(&block(section("## Helm releases")))
        } else {
            let fixture = root.join(format!("tests/fixtures/objects/{name}.json"));
            serde_json::from_str(&std::fs::read_to_string(fixture).unwrap()).unwrap()
        };
        let row = row(profile["spec"].clone(), &[], &object).unwrap();
        let said = block(section(&format!("### [{name}](../config/samples/profiles/{name}.yaml)")));
        assert_eq!(serde_json::from_str::<Json>(&row).unwrap(), said, "{name}");
        names.push(name);
    }
    assert_eq!(names.len(), 8, "{names:?}");
}
