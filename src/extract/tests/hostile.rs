//! What somebody who may write objects or profiles can do at worst: a row that fails, soon, and nothing else.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::expr::{Program, compile};

/// Far above what any of these takes in a debug build on a busy machine, far below what it would without its bound.
const SOON: Duration = Duration::from_mins(1);

fn evaluated(path: &str, object: &str) -> Result<String, String> {
    let started = Instant::now();
    let outcome = row(&[attribute("v", path)], object).map(|(text, _)| text);
    assert!(started.elapsed() < SOON, "{path:.60} took {:?}", started.elapsed());
    outcome
}

#[test]
fn paths_that_multiply_end_at_their_budget() {
    let chain = format!(r#"{{"metadata":{{}},"a":{}1{}}}"#, r#"{"a":"#.repeat(100), "}".repeat(100));
    let nest = format!(r#"{{"metadata":{{}},"a":{}{}}}"#, "[".repeat(100), "]".repeat(100));
    let wide = format!(r#"{{"metadata":{{}},"a":[{}1]}}"#, "1,".repeat(300_000));
    let recursive = format!("$.a{}", "..a".repeat(40));
    let union = format!("$.a{}", "['a','a']".repeat(60));
    let indexes = format!("$.a{}", "[0,0]".repeat(60));
    let filters = format!("$..[?(@{}..a{})]", "[?(@..a".repeat(3), ")]".repeat(3));
    for (path, object) in [(&recursive, &chain), (&union, &chain), (&indexes, &nest)] {
        let error = evaluated(path, object).unwrap_err();
        assert!(error.contains("path visits more than 1000000 values"), "{path:.60}: {error}");
    }
    for path in [&recursive, &filters, "$..[?(@..x)]", "$.a[*].x", "$.a[?(@..x)]", &format!("$.a{}", "..".repeat(80))] {
        let _ = evaluated(path, &wide); // any outcome is right, as long as it comes soon
        let _ = evaluated(path, &chain); // as above
    }
}

#[test]
fn what_is_of_another_type_is_not_equal() {
    for (path, expected) in [
        ("cel:object.a == 1", "false"),
        ("cel:object.x == null", "false"),
        ("cel:object.x == object.a", "false"),
        ("cel:'a' == dyn(object.a)", "false"),
        ("cel:object.x != 'x'", "true"),
        ("cel:1 in [object.a, object.x]", "false"),
        ("cel:object.a in [1, 'a', object.a]", "true"),
        ("cel:[object.x] == ['x']", "false"),
        ("cel:{'k': object.x} == {'k': 1.5}", "false"),
    ] {
        assert_eq!(evaluated(path, OBJECT).unwrap(), format!(r#"{{"v":{expected}}}"#), "{path}");
    }
}

#[test]
fn a_value_that_is_hidden_is_neither_a_key_of_a_result_nor_in_an_error() {
    for path in [
        "cel:{object.password: 1}",
        "cel:[{[object.password][0]: 1}]",
        "cel:[object.password].map(x, {x: 1})",
        "cel:{'k': {object.env[0].value: 1}}",
    ] {
        assert_eq!(evaluated(path, OBJECT).unwrap(), format!(r#"{{"v":{HIDDEN}}}"#), "{path}");
    }
    for path in ["cel:{'a': 1}[object.password]", "cel:object[object.password]", "cel:object.x[object.env[0].value]"] {
        let error = evaluated(path, OBJECT).unwrap_err();
        assert_eq!(error, "attribute \"v\": no such key: one that is computed", "{path}");
    }
    let error = evaluated("cel:object.x['missing']", OBJECT).unwrap_err();
    assert_eq!(error, "attribute \"v\": no such key: missing");
}

#[test]
fn two_hundred_cubed_iterations_end_at_their_budget() {
    let list = format!(r#"{{"metadata":{{}},"l":[{}1]}}"#, "1,".repeat(199));
    let path = "cel:object.l.map(x, object.l.map(y, object.l.map(z, x + y + z)))";
    assert_eq!(evaluated(path, &list).unwrap_err(), r#"attribute "v": cost budget of 100000 steps exceeded"#);
}

#[test]
fn deep_objects_fail_by_themselves() {
    let deep = format!(r#"{{"metadata":{{}},"a":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(evaluated("$.a", &deep).is_err());
    assert_eq!(evaluated("$.metadata", &deep).unwrap(), r#"{"v":{}}"#);
    let allowed = format!(r#"{{"metadata":{{}},"a":{}{}}}"#, "[".repeat(120), "]".repeat(120));
    for path in ["$.a", "$..b", "cel:object.a", "cel:object.a == [object.a]", "cel:[object.a, object]"] {
        evaluated(path, &allowed).unwrap();
    }
}

#[test]
fn numbers_beyond_every_type_fail_or_are_rounded_never_wrap() {
    let object = |number: &str| format!(r#"{{"metadata":{{}},"a":{number}}}"#);
    assert_eq!(evaluated("$.a", &object("18446744073709551615")).unwrap(), r#"{"v":18446744073709551615}"#);
    assert_eq!(evaluated("$.a", &object(&"9".repeat(300))).unwrap(), r#"{"v":1e+300}"#);
    assert!(evaluated("$.a", &object(&"9".repeat(400))).is_err());
    assert!(evaluated("$.a", &object("1e999")).is_err());
    assert_eq!(evaluated("$.a", &object("-1e-999")).unwrap(), r#"{"v":-0}"#);
    assert!(evaluated("cel:object.a + 1u", &object("18446744073709551615")).unwrap_err().contains("integer overflow"));
    assert!(evaluated("cel:-object.a", &object("-9223372036854775808")).unwrap_err().contains("integer overflow"));
    assert!(evaluated("$.b", &object(&"9".repeat(100_000))).is_ok(), "what nobody reads is not a number yet");
}

#[test]
fn names_and_keys_are_text_and_nothing_else() {
    let name = r#"\u0000\"}],{\u2028<script>\ud83d\ude00../../etc/hosts"#;
    let object = format!(r#"{{"metadata":{{"name":"{name}","labels":{{"{name}":"{name}"}}}}}}"#);
    let text = evaluated("{.metadata}", &object).unwrap();
    let read: serde_json::Value = serde_json::from_str(&text).unwrap();
    let expected = "\u{fffd}\"}],{\u{2028}<script>\u{1f600}../../etc/hosts";
    assert_eq!(read["v"]["name"], expected);
    assert_eq!(read["v"]["labels"][expected], expected);
    assert!(!text.contains('\0') && !text.contains('<') && !text.contains('\u{2028}'), "{text}");
    let long = format!(r#"{{"metadata":{{"{}":"x"}}}}"#, "k".repeat(1_000_000));
    assert_eq!(evaluated("{.metadata.*}", &long).unwrap(), r#"{"v":"x"}"#);
}

#[test]
fn text_that_is_no_text_costs_its_object() {
    let plan = Plan::whole();
    for bytes in
        [&b"{\"a\":\"\xff\xfe\"}"[..], b"{\"a\":\"\xed\xa0\x80\"}", b"{\"a\":\"\\ud800\"}", b"{\"a\":\"\x01\"}"]
    {
        assert!(decode(bytes, &plan, TYPE).is_err(), "{bytes:?}");
    }
}

#[test]
fn a_key_that_comes_twice_counts_once_and_the_last_time() {
    assert_eq!(
        evaluated("{.a}", r#"{"a":{"x":1},"metadata":{},"a":{"password":"p"}}"#).unwrap(),
        format!(r#"{{"v":{{"password":{HIDDEN}}}}}"#)
    );
}

#[test]
fn hostile_patterns_do_not_hang() {
    let object = format!(r#"{{"metadata":{{}},"a":"{}"}}"#, "a".repeat(100_000));
    for path in ["cel:object.a.matches('(a+)+$')", "cel:object.a.matches('((a{100}){100}){100}')"] {
        let _ = evaluated(path, &object); // any outcome is right, as long as it comes soon
    }
}

/// An object with some of everything, to be read by paths that nobody would write.
const OBJECT: &str = r#"{"metadata":{"name":"a","labels":{"a":"é","x":""}},"a":[1,-2.5,null,true,"1",[[],{}],{"a":{"a":[{"a":1}]}}],
    "x":{"x":18446744073709551615,"a":"2026-01-01T00:00:00Z"},"env":[{"name":"TOKEN","value":"MARKER"}],"password":"MARKER"}"#;

/// Text that is mostly of the language, so that some of it compiles.
fn jsonpath() -> impl Strategy<Value = String> {
    r"\{(\.a|\.x|\.env|\.\.|\.\*|\[0\]|\[-1\]|\[\*\]|\[:-1\]|\[::2\]|\[0,1\]|\['a','x'\]|\[\?\(@\.a\)\]|\[\?\(@\.a==1\)\]|\[\?\(@\.\.name>'a'\)\]|\$|@|\}\{)*\}"
}

/// The same of CEL.
fn cel() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "object",
        "object.a",
        "object.x.x",
        "object.env",
        "x",
        "1",
        "-1",
        "2.5",
        "0u",
        "'a'",
        "b'a'",
        "''",
        "null",
        "true",
        "[]",
        "{}",
        "duration('1h')",
        "timestamp('2026-01-01T00:00:00Z')",
        "9223372036854775807",
        "object.password",
    ]);
    leaf.prop_map(str::to_owned).prop_recursive(5, 32, 3, |inner| {
        let two = (inner.clone(), inner.clone());
        let operator = prop::sample::select(vec!["+", "-", "*", "/", "%", "==", "<", "in", "&&", "||"]);
        let call = prop::sample::select(vec![
            "size", "int", "uint", "double", "string", "bytes", "bool", "dyn", "type", "-", "!",
        ]);
        let method =
            prop::sample::select(vec!["contains", "startsWith", "matches", "map", "filter", "exists", "getFullYear"]);
        prop_oneof![
            (two.clone(), operator).prop_map(|((left, right), operator)| format!("({left} {operator} {right})")),
            (call, inner.clone()).prop_map(|(call, value)| format!("{call}({value})")),
            (two.clone(), method).prop_map(|((value, with), method)| match method {
                "map" | "filter" | "exists" => format!("{value}.{method}(x, {with})"),
                "getFullYear" => format!("{value}.getFullYear()"),
                _ => format!("{value}.{method}({with})"),
            }),
            (inner.clone(), two.clone())
                .prop_map(|(condition, (left, right))| format!("({condition} ? {left} : {right})")),
            two.clone().prop_map(|(left, right)| format!("[{left}, {right}]")),
            two.clone().prop_map(|(key, value)| format!("{{{key}: {value}}}")),
            two.prop_map(|(value, index)| format!("{value}[{index}]")),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_is_a_path_that_panics(text in any::<String>(), prefix in prop::sample::select(vec!["", "$.", "{.", "cel:", "helm:release."])) {
        let path = format!("{prefix}{text}");
        if compile(&path, Shape::Any).is_ok() {
            let _ = evaluated(&path, OBJECT); // any outcome but a panic is right, if it comes soon
        }
    }

    #[test]
    fn no_path_that_compiles_panics_or_shows_what_is_sensitive(path in prop_oneof![jsonpath(), cel().prop_map(|text| format!("cel:{text}"))]) {
        let outcome = evaluated(&path, OBJECT);
        let said = outcome.as_ref().unwrap_or_else(|error| error);
        prop_assert!(!said.contains("MARKER"), "{path} shows {said}");
        if let Ok(text) = &outcome {
            prop_assert!(serde_json::from_str::<serde_json::Value>(text).is_ok(), "{path} gives {text}");
        }
    }

    #[test]
    fn no_damage_to_an_object_panics_the_decoder(at in 0_usize..OBJECT.len(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = OBJECT.as_bytes().to_vec();
        bytes[at] = byte;
        let extractor = Extractor::compile(&[attribute("v", "$..a"), attribute("w", "cel:object.x")], &[]).unwrap();
        for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
            let _ = peek(bytes); // any outcome but a panic is right, here and below
            for plan in [Plan::whole(), Plan::new([extractor.prefixes()])] {
                if let Ok(object) = decode(bytes, &plan, TYPE) {
                    let _ = extractor.extract(&object, &mut Vec::new());
                }
            }
        }
    }

    #[test]
    fn no_bytes_panic_the_decoder(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes, &Plan::whole(), TYPE); // any outcome but a panic is right
    }

    #[test]
    fn no_text_like_json_panics_the_decoder(text in r#"\{("a"|:|,|\{|\}|\[|\]|1|-|e9|null|true|"metadata"|\\u|"| )*"#) {
        let extractor = Extractor::compile(&[attribute("v", "{.a}{.metadata.a}")], &[]).unwrap();
        for plan in [Plan::whole(), Plan::new([extractor.prefixes()])] {
            let _ = decode(text.as_bytes(), &plan, TYPE); // any outcome but a panic is right
        }
    }

    #[test]
    fn no_path_of_a_release_panics(field in r"(\.|manifest|chart|values|config|name|a|é| |\[0\])*") {
        if let Ok(Program::Helm(field)) = compile(&format!("helm:release.{field}"), Shape::List) {
            let shown = format!("{field:?}");
            prop_assert!(!shown.contains("[\"manifest\"") && !shown.contains("[\"chart\"]"), "{shown}");
        }
    }
}
