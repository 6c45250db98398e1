mod docs;
mod hostile;
mod paths;
mod profiles;

use super::*;

const TYPE: TypeMeta<'static> = TypeMeta { api_version: "v1", kind: "Pod" };

fn attribute(name: &str, path: &str) -> Attribute {
    Attribute { name: name.into(), path: path.into(), shape: Shape::Any, optional: false }
}

fn optional(name: &str, path: &str) -> Attribute {
    Attribute { optional: true, ..attribute(name, path) }
}

/// Extracts through the projected decode, as the watch stage does.
fn row(attributes: &[Attribute], object: &str) -> Result<(String, Extracted), String> {
    let extractor = Extractor::compile(attributes, &[]).map_err(|errors| errors[0].to_string())?;
    let plan = Plan::new([extractor.prefixes()]);
    let object = decode(object.as_bytes(), &plan, TYPE).map_err(|error| error.to_string())?;
    let mut out = b"before".to_vec();
    match extractor.extract(&object, &mut out) {
        Ok(extracted) => Ok((String::from_utf8(out[6..].to_vec()).unwrap(), extracted)),
        Err(error) => {
            assert_eq!(out, b"before");
            Err(crate::error::chain(&error))
        }
    }
}

fn attributes_of(attributes: &[Attribute], object: &str) -> String {
    row(attributes, object).unwrap().0
}

const POD: &str = r#"{"metadata":{"name":"web"},"spec":{"password":"hunter2","port":80,
    "auth":{"user":"u"},"tls":{"key":"k","cert":"c"},"hosts":["a","b"],
    "env":[{"name":"DB_PASSWORD","value":"x"},{"name":"HOST","value":"h"},{"name":"EMPTY"}]}}"#;

/// So many cases, or more where `PROPTEST_CASES` asks for them.
fn cases(least: u32) -> proptest::test_runner::Config {
    let config = proptest::test_runner::Config::default();
    proptest::test_runner::Config { cases: config.cases.max(least), ..config }
}

const HIDDEN: &str = r#"{"reason":"sensitive-key","redacted":true}"#;

#[test]
fn no_value_is_null_or_left_out() {
    let name = attribute("n", "$.metadata.name");
    assert_eq!(attributes_of(&[attribute("m", "$.metadata.missing"), name.clone()], POD), r#"{"m":null,"n":"web"}"#);
    assert_eq!(attributes_of(&[optional("m", "$.metadata.missing"), name.clone()], POD), r#"{"n":"web"}"#);
    assert_eq!(attributes_of(&[optional("m", "cel:object.missing"), name], POD), r#"{"n":"web"}"#);
    assert_eq!(attributes_of(&[], POD), "{}");
    assert_eq!(attributes_of(&[optional("m", "$.metadata.missing")], POD), "{}");
}

#[test]
fn an_optional_attribute_with_a_wrong_path_is_left_out_and_named() {
    let attributes = [optional("bad", "cel:object.metadata =="), attribute("n", "$.metadata.name")];
    assert_eq!(attributes_of(&attributes, POD), r#"{"n":"web"}"#);
    let extractor = Extractor::compile(&attributes, &[]).unwrap();
    assert_eq!(extractor.left_out().iter().map(|error| error.index).collect::<Vec<_>>(), [0]);
}

#[test]
fn all_wrong_paths_are_told_at_once() {
    let attributes = [
        attribute("a", "$.a["),
        attribute("b", "$.b"),
        optional("c", "helm:release.manifest"),
        attribute("b", "$.c"),
        optional("d", "x"),
    ];
    let errors = Extractor::compile(&attributes, &[]).unwrap_err();
    assert_eq!(errors.iter().map(|error| error.index).collect::<Vec<_>>(), [0, 2, 3, 4]);
    assert!(errors[0].to_string().ends_with("(at character 4)"), "{}", errors[0]);
}

#[test]
fn the_first_failing_attribute_of_the_profile_is_told() {
    let attributes = [attribute("z", "cel:object.a"), attribute("a", "cel:object.b")];
    assert_eq!(row(&attributes, POD).unwrap_err(), r#"attribute "z": no such key: a"#);
}

#[test]
fn attributes_are_sorted_by_name() {
    let attributes =
        [attribute("b", "$.metadata.name"), attribute("é", "$.spec.port"), attribute("B", "$.spec.hosts[0]")];
    assert_eq!(attributes_of(&attributes, POD), r#"{"B":"a","b":"web","é":80}"#);
}

#[test]
fn a_value_picked_by_a_sensitive_key_is_hidden() {
    for path in [
        "$.spec.password",
        "{['spec']['password']}",
        "$.spec['port','password']",
        "$.spec.auth",
        "$.spec.tls",
        "cel:object.spec.password",
        "cel:object.spec['password']",
        "cel:'p=' + string(object.spec.password)",
        "cel:object.spec.port > 1 ? object.spec.password : ''",
        "cel:[object.spec].map(s, s.password)",
        "cel:object.spec.env.filter(e, e.name == 'DB_PASSWORD').map(e, e.value)",
        "cel:object.spec.env[0].value",
        "cel:['password'].map(k, object.spec[k])",
        "$.spec.auth.*",
        "$.spec.auth..",
        "$.spec.env[0].value",
        "$.spec.env[?(@.name==\"DB_PASSWORD\")].value",
    ] {
        assert_eq!(attributes_of(&[attribute("v", path)], POD), format!(r#"{{"v":{HIDDEN}}}"#), "{path}");
    }
}

#[test]
fn what_only_speaks_about_a_sensitive_value_is_shown() {
    for (path, expected) in [
        ("cel:has(object.spec.password)", "true"),
        ("cel:object.spec.password == 'x'", "false"),
        ("cel:size(object.spec.password)", "7"),
        ("cel:object.spec.password != '' ? 'set' : 'unset'", "\"set\""),
        ("$.spec.auth.user", "\"u\""),
        ("$..user", "null"),
        ("cel:[object.spec].exists(s, s.password == 'x')", "false"),
        ("cel:[object.spec].map(s, s.auth.user)", "[\"u\"]"),
        ("$.spec.env[1].value", "\"h\""),
        ("cel:object.spec.env[1].value", "\"h\""),
        ("$.spec.missing.password", "null"),
    ] {
        assert_eq!(attributes_of(&[attribute("v", path)], POD), format!(r#"{{"v":{expected}}}"#), "{path}");
    }
}

#[test]
fn a_list_of_entry_values_hides_only_the_sensitive_ones() {
    assert_eq!(attributes_of(&[attribute("v", "$.spec.env[*].value")], POD), format!(r#"{{"v":[{HIDDEN},"h"]}}"#));
    assert_eq!(
        attributes_of(&[attribute("v", "$.spec.env")], POD),
        format!(
            r#"{{"v":[{{"name":"DB_PASSWORD","value":{HIDDEN}}},{{"name":"HOST","value":"h"}},{{"name":"EMPTY"}}]}}"#
        )
    );
    assert_eq!(
        attributes_of(&[attribute("v", "cel:object.spec.env.map(e, has(e.value), e)")], POD),
        format!(r#"{{"v":[{{"name":"DB_PASSWORD","value":{HIDDEN}}},{{"name":"HOST","value":"h"}}]}}"#)
    );
}

#[test]
fn an_entry_value_picked_as_a_member_is_hidden() {
    assert_eq!(
        attributes_of(&[attribute("v", "$.spec.env[0].*")], POD),
        format!(r#"{{"v":["DB_PASSWORD",{HIDDEN}]}}"#)
    );
    assert_eq!(attributes_of(&[attribute("v", "$.spec.env[1].*")], POD), r#"{"v":["HOST","h"]}"#);
}

#[test]
fn members_under_sensitive_keys_are_hidden_among_others() {
    assert_eq!(
        attributes_of(&[attribute("v", "$.spec.*")], r#"{"spec":{"port":80,"password":"x"}}"#),
        format!(r#"{{"v":[{HIDDEN},80]}}"#)
    );
}

#[test]
fn a_sensitive_attribute_name_hides_plain_values() {
    assert_eq!(attributes_of(&[attribute("apiToken", "$.spec.port")], POD), format!(r#"{{"apiToken":{HIDDEN}}}"#));
    assert_eq!(attributes_of(&[attribute("token", "$.spec.hosts")], POD), format!(r#"{{"token":{HIDDEN}}}"#));
    assert_eq!(attributes_of(&[attribute("auth", "$.spec.auth")], POD), format!(r#"{{"auth":{HIDDEN}}}"#));
    assert_eq!(attributes_of(&[attribute("auth", "$.metadata")], POD), r#"{"auth":{"name":"web"}}"#);
    assert_eq!(attributes_of(&[attribute("token", "$.missing")], POD), r#"{"token":null}"#);
}

#[test]
fn configured_keys_are_hidden_too() {
    let extractor = Extractor::compile(&[attribute("v", "$.spec")], &[" Port ".into()]).unwrap();
    let plan = Plan::new([extractor.prefixes()]);
    let object = decode(br#"{"spec":{"port":1,"x":2}}"#, &plan, TYPE).unwrap();
    let mut out = Vec::new();
    extractor.extract(&object, &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), format!(r#"{{"v":{{"port":{HIDDEN},"x":2}}}}"#));
}

#[test]
fn a_nul_character_is_replaced_and_told() {
    let (text, extracted) = row(&[attribute("v", "$.a")], r#"{"a":{"k\u0000":"x\u0000y"}}"#).unwrap();
    assert_eq!(text, "{\"v\":{\"k\u{fffd}\":\"x\u{fffd}y\"}}");
    assert!(extracted.sanitized);
    assert!(!row(&[attribute("v", "$.a")], r#"{"a":"x"}"#).unwrap().1.sanitized);
}

#[test]
fn a_listed_and_a_watched_object_give_one_row() {
    let attributes = [attribute("o", "{@}"), attribute("k", "$.kind")];
    assert_eq!(
        attributes_of(&attributes, r#"{"a":1}"#),
        attributes_of(&attributes, r#"{"kind":"Pod","apiVersion":"v1","a":1}"#)
    );
}

#[test]
fn an_extractor_is_shared_between_threads() {
    fn assert_shared<T: Send + Sync>() {}
    assert_shared::<Extractor>();
    assert_shared::<Plan>();
}

mod random {
    use proptest::prelude::*;

    use super::*;

    fn any_path() -> impl Strategy<Value = String> {
        let step = prop::sample::select(vec![
            ".spec",
            ".a",
            ".value",
            ".name",
            ".password",
            "[0]",
            "[*]",
            "[1:]",
            ".*",
            "..",
            "..a",
            "..password",
            "['a','password']",
            "[?(@.a)]",
            "[?(@.password)]",
            "['password']",
        ]);
        let jsonpath = prop::collection::vec(step, 1..4).prop_map(|steps| format!("{{{}}}", steps.concat()));
        let cel = prop::sample::select(vec![
            "cel:object",
            "cel:object.spec",
            "cel:[object.spec]",
            "cel:object.a.map(x, x.password)",
            "cel:object.a.map(x, [x])",
            "cel:object.a.map(x, x.value)",
            "cel:object.spec.map(k, object.spec[k])",
            "cel:{'k': object.spec.password}",
            "cel:object.a.filter(x, has(x.value))",
            "cel:object.spec.value",
            "cel:[1].map(x, object.spec.password)",
        ]);
        prop_oneof![jsonpath, cel.prop_map(str::to_owned)]
    }

    /// An object in which each plain value, or list of them, under a sensitive key is a marker.
    fn any_object() -> impl Strategy<Value = String> {
        let leaf = prop::sample::select(vec!["null", "1", "\"b\"", "[]", "{}"]).prop_map(str::to_owned);
        let node = leaf.prop_recursive(5, 40, 4, |inner| {
            let key = prop::sample::select(vec!["a", "name", "spec", "value"]);
            let secret = prop::sample::select(vec![
                "",
                r#""password":"MARKER""#,
                r#""password":["MARKER",["MARKER"]]"#,
                r#""name":"API_TOKEN","value":"MARKER""#,
                r#""name":"API_TOKEN","value":["MARKER"]"#,
            ]);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
                (prop::collection::btree_map(key, inner, 0..5), secret).prop_map(|(entries, secret)| {
                    let entries = entries.into_iter().map(|(key, value)| format!("\"{key}\":{value}"));
                    let secret = Some(secret.to_owned()).filter(|secret| !secret.is_empty());
                    format!("{{{}}}", entries.chain(secret).collect::<Vec<_>>().join(","))
                }),
            ]
        });
        (node.clone(), node).prop_map(|(spec, a)| format!(r#"{{"metadata":{{"name":"b"}},"spec":{spec},"a":{a}}}"#))
    }

    proptest! {
        #![proptest_config(cases(10_000))]

        #[test]
        fn no_path_shows_what_is_under_a_sensitive_key(path in any_path(), object in any_object()) {
            if let Ok((text, _)) = row(&[attribute("v", &path)], &object) {
                prop_assert!(!text.contains("MARKER"), "{path} over {object} shows {text}");
            }
        }
    }
}
