use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::*;

/// Every property of every kind: (kind, path) → its schema, and whether it is required.
fn fields() -> BTreeMap<(String, String), (Value, bool)> {
    fn walk(
        kind: &str,
        path: &str,
        schema: &Value,
        required: bool,
        out: &mut BTreeMap<(String, String), (Value, bool)>,
    ) {
        if !path.is_empty() {
            out.insert((kind.to_owned(), path.to_owned()), (schema.clone(), required));
        }
        for (name, child) in schema["properties"].as_object().into_iter().flatten() {
            if path.is_empty() && !matches!(name.as_str(), "spec" | "status") {
                continue;
            }
            let child_path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let required = schema["required"].as_array().is_some_and(|names| names.contains(&Value::from(&**name)));
            walk(kind, &child_path, child, required, out);
        }
        for (key, suffix) in [("items", "[]"), ("additionalProperties", "{}")] {
            if schema[key].is_object() {
                walk(kind, &format!("{path}{suffix}"), &schema[key], false, out);
            }
        }
    }
    let mut out = BTreeMap::new();
    for crd in crds() {
        let whole = serde_json::to_value(&crd).unwrap();
        let schema = &whole["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        walk(&crd.spec.names.kind, "", schema, false, &mut out);
    }
    out
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[test]
fn every_field_of_the_table_is_there_as_the_table_says() {
    let have = fields();
    let mut wrong = Vec::new();
    let table = include_str!("../../tests/fixtures/crd-fields.tsv");
    for line in table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [kind, path, type_, required, default, values] = columns.as_slice() else {
            panic!("six columns: {line:?}");
        };
        let Some((schema, is_required)) = have.get(&((*kind).to_owned(), (*path).to_owned())) else {
            wrong.push(format!("{kind}.{path} is missing"));
            continue;
        };
        if schema["type"] != **type_ {
            wrong.push(format!("{kind}.{path} has type {} and not {type_}", schema["type"]));
        }
        let is_default = schema.get("default").map(text).unwrap_or_default();
        if is_default != *default {
            wrong.push(format!("{kind}.{path} has default {is_default:?} and not {default:?}"));
        }
        if *is_required != (*required == "req") {
            wrong.push(format!("{kind}.{path} is required: {is_required}"));
        }
        let is_values: Vec<String> = schema["enum"].as_array().into_iter().flatten().map(text).collect();
        let values: Vec<&str> = values.split('|').filter(|value| !value.is_empty()).collect();
        if is_values != values {
            wrong.push(format!("{kind}.{path} has the values {is_values:?} and not {values:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_property_has_a_description_that_says_more_than_its_name() {
    for ((kind, path), (schema, _)) in fields() {
        // Elements and values are described by the field that holds them.
        if path.ends_with("[]") || path.ends_with("{}") {
            continue;
        }
        let name = path.rsplit('.').next().unwrap().trim_end_matches("[]");
        let description = schema["description"].as_str().unwrap_or_default();
        let words: Vec<&str> = description.split_whitespace().collect();
        assert!(words.len() >= 3, "{kind}.{path}: {description:?}");
        let letters = |text: &str| text.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect::<String>();
        assert_ne!(letters(description), letters(name), "{kind}.{path}");
        assert!(description.ends_with('.'), "{kind}.{path} ends without a full stop: {description:?}");
    }
}

#[test]
fn nothing_is_nullable_and_every_object_is_closed() {
    for ((kind, path), (schema, _)) in fields() {
        assert!(schema.get("nullable").is_none(), "{kind}.{path}");
        assert!(schema.get("x-kubernetes-preserve-unknown-fields").is_none(), "{kind}.{path}");
        assert!(schema["type"].is_string(), "{kind}.{path} has no type: {schema}");
    }
}

#[test]
fn every_rule_says_what_to_do() {
    for ((kind, path), (schema, _)) in fields() {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let message = rule["message"].as_str().unwrap_or_default();
            assert!(message.split_whitespace().count() >= 3, "{kind}.{path}: {rule}");
        }
    }
}

#[test]
fn definitions_read_back_from_yaml_are_the_same() {
    for (crd, (_, text)) in crds().iter().zip(crd_files()) {
        let read: CustomResourceDefinition = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::to_value(crd).unwrap());
    }
}

fn assert_fresh(dir: &str, files: &[(String, String)]) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    for (name, text) in files {
        let committed = std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        assert!(committed == *text, "{name} is stale: run `kollect crds --dir crds --docs docs/reference`");
    }
    assert_eq!(
        std::fs::read_dir(&dir).unwrap().count(),
        files.len(),
        "{} has files that nothing generates",
        dir.display()
    );
}

#[test]
fn committed_definitions_are_fresh() {
    assert_fresh("crds", &crd_files());
}

#[test]
fn committed_reference_pages_are_fresh() {
    assert_fresh("docs/reference", &reference::pages());
}

#[test]
fn the_stream_has_one_document_for_each_kind() {
    assert_eq!(crds_yaml().matches("\nkind: CustomResourceDefinition\n").count(), 11);
}
