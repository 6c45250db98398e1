use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn yaml(json: &str) -> String {
    let mut out = Vec::new();
    Yaml::default().write(json.as_bytes(), &mut out);
    String::from_utf8(out).unwrap()
}

fn quoted(text: &str) -> String {
    let written = yaml(&serde_json::json!({ "k": text }).to_string());
    let back: Value = serde_saphyr::from_str(&written).unwrap();
    assert_eq!(back["k"].as_str(), Some(text), "{written}");
    written.strip_prefix("k: ").and_then(|text| text.strip_suffix('\n')).unwrap().to_owned()
}

#[test]
fn what_reads_as_another_scalar_has_double_quotes() {
    for text in [
        "7",
        "yes",
        "y",
        "Y",
        "true",
        "TRUE",
        "null",
        "~",
        "",
        "2026-01-02",
        "12:30:45",
        "0x1f",
        "1e3",
        "on",
        "Off",
        "no",
        "N",
        "+1",
        "-1",
        "1_000",
        "0o17",
        "0b11",
        "-0b1",
        "010",
        "089",
        "1.",
        ".5",
        "1.5e-7",
        "-.inf",
        ".NaN",
        "+.nan",
        "1:20",
        "2026-03-01T10:20:30Z",
        "2026-03-01t1:2:3.5+01:00",
        "2026-03-01 10:20:30.5",
        "123456789012345678901234567890",
        "1e999",
        "0xffffffffffffffffffff",
        "<<",
        "=",
        "12e45",
        "190:20:30.15",
    ] {
        assert_eq!(quoted(text), format!("\"{text}\""));
    }
}

#[test]
fn what_reads_as_itself_is_bare() {
    for text in [
        "a",
        "a b",
        "v1",
        "1.4.2",
        "ghcr.io/acme/api:1.4.2",
        "10.0.0.1:80",
        "a<b & c>d",
        "-x",
        "?x",
        ":x",
        "a:b",
        "a#b",
        "11111111-1111-4111-8111-111111111111",
        "2026-13-01",
        "2026-02-30",
        "yesterday",
        "tru",
        "nul",
        "0x",
        "0b2",
        "1e",
        "1:60",
        "e5",
        "+",
        ".",
        "_1",
        "it's",
        "a, b",
        "x]",
        "ä",
        "Zürich\u{a0}x",
        "100m",
        "5Gi",
        "1.2.3",
        "2026-03-01 10:20",
        "a\"b",
        "1-2",
        "++1",
        "x".repeat(500).as_str(),
    ] {
        assert_eq!(quoted(text), text);
    }
    let long = "many words ".repeat(40);
    assert_eq!(quoted(long.trim()), long.trim());
}

#[test]
fn punctuation_takes_single_quotes() {
    for (text, expected) in [
        ("a: b", "'a: b'"),
        (" lead", "' lead'"),
        ("trail ", "'trail '"),
        ("#b", "'#b'"),
        ("a #b", "'a #b'"),
        ("-", "'-'"),
        ("- a", "'- a'"),
        ("? a", "'? a'"),
        ("a:", "'a:'"),
        ("---", "'---'"),
        ("...x", "'...x'"),
        ("[a]", "'[a]'"),
        ("{a}", "'{a}'"),
        ("*a", "'*a'"),
        ("&a", "'&a'"),
        ("!a", "'!a'"),
        ("|", "'|'"),
        (">", "'>'"),
        ("%a", "'%a'"),
        ("@a", "'@a'"),
        ("`a", "'`a'"),
        (", a", "', a'"),
        ("'a'", "'''a'''"),
        ("\"a\"", "'\"a\"'"),
    ] {
        assert_eq!(quoted(text), expected);
    }
}

#[test]
fn control_characters_and_what_lies_outside_the_basic_plane_are_escaped() {
    for (text, expected) in [
        ("a\tb", r#""a\tb""#),
        ("a\rb", r#""a\rb""#),
        ("\u{1}\u{1b}\u{7f}\u{85}", r#""\x01\e\x7F\N""#),
        ("😀 \"x\" \\", r#""\U0001F600 \"x\" \\""#),
        ("\u{feff}a\u{2028}", r#""\uFEFFa\L""#),
        ("a\u{ffff}", r#""a\uFFFF""#),
        ("a\tb\nc", r#""a\tb\nc""#),
        ("a \nb", r#""a \nb""#),
        ("a\nb ", r#""a\nb ""#),
    ] {
        assert_eq!(quoted(text), expected);
    }
}

#[test]
fn several_lines_are_a_literal_block() {
    for (text, expected) in [
        ("a\nb", "|-\n  a\n  b"),
        ("a\nb\n", "|\n  a\n  b"),
        ("a\n\n", "|+\n  a\n"),
        (" a\nb", "|2-\n   a\n  b"),
        ("\na", "|2-\n\n  a"),
        ("# a\n\n- b: |\n", "|\n  # a\n\n  - b: |"),
    ] {
        assert_eq!(quoted(text), expected);
    }
    let nested = yaml(r#"{"a":["x\ny",{"b":"x\ny\n","c":["p\nq"]}]}"#);
    assert_eq!(nested, "a:\n- |-\n  x\n  y\n- b: |\n    x\n    y\n  c:\n  - |-\n    p\n    q\n");
}

#[test]
fn maps_and_lists_are_blocks() {
    let text =
        yaml(r#"{"a":{"b":{"c":1},"d":{}},"e":[],"f":[[1,[2,3]],[{"g":[4]}],{},null],"h":null,"i":true,"j":-1.5e+21}"#);
    let expected = "\
a:
  b:
    c: 1
  d: {}
e: []
f:
- - 1
  - - 2
    - 3
- - g:
    - 4
- {}
- null
h: null
i: true
j: -1.5e+21
";
    assert_eq!(text, expected);
    assert_eq!(yaml("{}"), "{}\n");
}

#[test]
fn keys_are_sorted_and_quoted_and_integers_are_exact() {
    let text = yaml(
        r#"{"10":1,"9":2,"A":3,"_x":4,"a-b":5,"a.b":6,"a10":7,"a2":8,"x: y":9,"y":9007199254740993,"z\u003c":18446744073709551615}"#,
    );
    let expected = "\
_x: 4
\"9\": 2
\"10\": 1
A: 3
a-b: 5
a.b: 6
a2: 8
a10: 7
'x: y': 9
\"y\": 9007199254740993
z<: 18446744073709551615
";
    assert_eq!(text, expected);
}

#[test]
fn a_long_key_has_a_line_of_its_own() {
    let key = "k".repeat(1100);
    let json = format!(r#"{{"a":{{"{key}":{{"x":[1],"z":2}}}}}}"#);
    let text = yaml(&json);
    assert_eq!(text, format!("a:\n  ? {key}\n  : x:\n    - 1\n    z: 2\n"));
    assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), serde_json::from_str::<Value>(&json).unwrap());
}

#[test]
fn entries_make_a_list() {
    let (mut yaml, mut out) = (Yaml::default(), Vec::new());
    yaml.write_entry(br#"{"b":[1],"a":{"c":"x\ny"}}"#, &mut out);
    yaml.write_entry(b"{}", &mut out);
    assert_eq!(String::from_utf8(out).unwrap(), "- a:\n    c: |-\n      x\n      y\n  b:\n  - 1\n- {}\n");
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,12}",
        "[a-c :#\n-]{0,12}",
        "[0-9eExXob._:+TZ-]{0,12}",
        "[ \n]{0,4}[a#]?[\n ]{0,4}",
        "\\PC{0,6}",
        any::<String>().prop_map(|text| text.chars().take(8).collect()),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    scalar.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(text(), inner, 0..5).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_back(map in prop::collection::btree_map(text(), value(), 0..5)) {
        let value: Value = map.into_iter().collect();
        let written = yaml(&value.to_string());
        let back: Value = serde_saphyr::from_str(&written).map_err(|error| TestCaseError::fail(format!("{error}\n{written}")))?;
        prop_assert_eq!(&back, &value, "{}", written);
        let mut entries = Vec::new();
        for _ in 0..2 {
            Yaml::default().write_entry(value.to_string().as_bytes(), &mut entries);
        }
        let written = String::from_utf8(entries).unwrap();
        let back: Value =
            serde_saphyr::from_str(&written).map_err(|error| TestCaseError::fail(format!("{error}\n{written}")))?;
        prop_assert_eq!(back, Value::from(vec![value.clone(), value]), "{}", written);
    }
}
