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

proptest! {
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
