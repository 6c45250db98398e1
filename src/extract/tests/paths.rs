//! The table of documented paths, over one Deployment: each is evaluated over the whole object and over the projected one.

use crate::canonical::{Value, write_value};
use crate::expr::{EvalError, Found, Hiding, Prefixes, Shape, compile};
use crate::extract::{Plan, TypeMeta, decode};

const DEPLOYMENT: &str = r#"{
  "metadata": {"name": "web", "namespace": "team-a", "uid": "u-1",
    "labels": {"zone": "z1", "app": "web", "app.kubernetes.io/name": "shop"}},
  "spec": {"replicas": 3, "ratio": 0.5, "big": 9007199254740993, "paused": false, "nothing": null,
    "emptyList": [], "emptyMap": {}, "one": [{"image": "solo:1"}], "matrix": [[1,2],[3]],
    "env": {"password": "hunter2", "host": "db"}, "tls": [{"hosts":["a","b"]},{"hosts":["c"]}],
    "template": {"spec": {"containers": [
      {"name": "app", "image": "app:1.0", "cpu": 2, "ports": [{"containerPort": 80}, {"containerPort": 443}]},
      {"name": "sidecar", "image": "sidecar:2.0", "cpu": 5},
      {"name": "noimg"}]}}},
  "status": {"conditions": [{"type": "Available", "status": "True"}, {"type": "Ready", "status": "False"}]}
}"#;

const TYPE: TypeMeta<'static> = TypeMeta { api_version: "apps/v1", kind: "Deployment" };

/// Evaluates over the whole object and over the projected one, and wants one answer from both.
fn outcome(path: &str, shape: Shape) -> String {
    let path = path
        .replace("$.C", "$.spec.template.spec.containers")
        .replace("object.C", "object.spec.template.spec.containers");
    let program = match compile(&path, shape) {
        Ok(program) => program,
        Err(error) => return format!("refused: {error}"),
    };
    let mut prefixes = Prefixes::default();
    program.prefixes(&mut prefixes);
    let answers = [Plan::whole(), Plan::new([&prefixes])].map(|plan| {
        let object = decode(DEPLOYMENT.as_bytes(), &plan, TYPE).unwrap();
        match program.evaluate(&object, Hiding::NOTHING) {
            Err(error) => format!("error: {error}"),
            Ok(Found::Nothing) => "∅".to_owned(),
            Ok(found) => {
                let mut out = Vec::new();
                write_value(&found.to_value().unwrap(), &mut out);
                String::from_utf8(out).unwrap()
            }
        }
    });
    assert_eq!(answers[0], answers[1], "projection changes the answer of {path}");
    let [answer, _] = answers;
    answer
}

/// Compares with the table; what is expected of an error is a part of its text.
fn check(rows: &[(&str, &str)]) {
    let mut wrong = Vec::new();
    for &(path, expected) in rows {
        let answer = outcome(path, Shape::Any);
        let fits = if expected.starts_with("refused:") || expected.starts_with("error:") {
            let (kind, part) = expected.split_once(": ").unwrap_or((expected, ""));
            answer.starts_with(kind) && answer.contains(part)
        } else {
            answer == expected
        };
        if !fits {
            wrong.push(format!("{path}\n  expected {expected}\n  found    {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn jsonpath_rows_of_the_table() {
    check(&[
        ("{.metadata.name}", r#""web""#),
        ("  $.metadata.name ", r#""web""#),
        ("{$.metadata.name}", r#""web""#),
        ("{['metadata']['name']}", r#""web""#),
        ("$.metadata['name']", r#""web""#),
        (r#"$.metadata["name"]"#, r#""web""#),
        (".metadata.name", "refused: path has no action"),
        ("metadata.name", "refused: path has no action"),
        ("$['metadata']['name']", "refused: {$['metadata']['name']}"),
        ("$", "refused: path has no action"),
        ("CEL:object", "refused: path has no action"),
        ("helm:x", "refused: path has no action"),
        ("object.metadata.name", "refused: cel:object.metadata.name"),
        ("{metadata.name}", "refused: unrecognized identifier metadata"),
        ("{.metadata.name", "refused: unclosed action"),
        ("{.metadata.name}/{.metadata.namespace}", r#""web""#),
        ("name={.metadata.name}", "refused: text before the first action"),
        ("{.metadata.missing}{.metadata.name}", "∅"),
        ("{.metadata.name}{.metadata.missing}", "∅"),
        (r"$.metadata.labels.app\.kubernetes\.io/name", r#""shop""#),
        (r"$.metadata.labels['app\.kubernetes\.io/name']", r#""shop""#),
        ("$.metadata.labels['app.kubernetes.io/name']", r#""shop""#),
        (r#"$.metadata.labels["app.kubernetes.io/name"]"#, r#""shop""#),
        ("$.metadata.labels", r#"{"app":"web","app.kubernetes.io/name":"shop","zone":"z1"}"#),
        ("$.metadata.labels.*", r#"["web","shop","z1"]"#),
        ("$.spec.replicas", "3"),
        ("$.spec.big", "9007199254740993"),
        ("$.spec.nothing", "∅"),
        ("$.spec.nothing.deeper", "∅"),
        ("$.spec.nothing[0]", "∅"),
        ("$.spec.emptyList", "[]"),
        ("$.spec.emptyList[*]", "∅"),
        ("$.spec.emptyMap.*", "∅"),
        ("$.spec.emptyList[0]", "∅"),
        ("$.spec.emptyList[0].image", "∅"),
        ("$.metadata.finalizers[0]", "∅"),
        ("$.spec.replicas.foo", "∅"),
        ("$.metadata.name[0]", "error: not array or slice"),
        ("$.metadata.labels[0]", "error: not array or slice"),
        ("$.metadata.name.*", "error: has no elements"),
        ("$.C[0].image", r#""app:1.0""#),
        ("$.C[-1].name", r#""noimg""#),
        ("$.C[9].image", "∅"),
        ("$.C[-4].image", "∅"),
        ("$.C[0:99].name", "∅"),
        ("$.C[2].image", "∅"),
        ("$.C[*].image", r#"["app:1.0","sidecar:2.0"]"#),
        ("$.C[*].missing", "∅"),
        ("$.C[:1].name", r#""app""#),
        ("$.C[1:].name", r#"["sidecar","noimg"]"#),
        ("$.C[-2:].name", r#"["sidecar","noimg"]"#),
        ("$.C[::2].name", r#"["app","noimg"]"#),
        ("$.C[0,2].name", r#"["app","noimg"]"#),
        ("$.C[0,9].name", "∅"),
        ("$.C[1:1].name", "∅"),
        ("$.C[2:1].name", "∅"),
        ("$.C[].name", r#""app""#),
        ("$.C[ALL].name", "refused: an index is"),
        ("$.C[0:2:0].name", "refused: above 0"),
        ("$.C[*].ports[*].containerPort", "[80,443]"),
        ("$.spec.one[*].image", r#""solo:1""#),
        ("$.spec.matrix[*]", "[[1,2],[3]]"),
        ("$.spec.matrix[*][*]", "[1,2,3]"),
        ("$.spec.tls[*].hosts", r#"[["a","b"],["c"]]"#),
        ("$.spec.tls[*].hosts[*]", r#"["a","b","c"]"#),
        ("$.metadata['name','namespace']", r#"["web","team-a"]"#),
        ("$.metadata['name','missing']", "∅"),
        ("$.C[*]['name','cpu']", r#"["app","sidecar","noimg",2,5]"#),
        (r#"$.status.conditions[?(@.type=="Ready")].status"#, r#""False""#),
        ("$.status.conditions[?(@.type=='Nope')].status", "∅"),
        ("$.C[?(@.image)].name", r#"["app","sidecar"]"#),
        (r#"$.C[?(@.image=="app:1.0")].name"#, "∅"),
        (r#"$.C[?(@.name != "app")].name"#, r#"["sidecar","noimg"]"#),
        ("$.C[?(@.cpu>2.5)].name", "error: incompatible types"),
        ("$.C[0:2][?(@.cpu>2)].name", "error: not array or slice"),
        ("$.C[?(@.type=='Ready' && @.status=='False')].name", "refused: a filter is written"),
        ("$.metadata[?(@.name)]", "error: not array or slice"),
        ("$..image", r#"["solo:1","app:1.0","sidecar:2.0"]"#),
        ("$..['type']", r#"["Available","Ready"]"#),
        ("{range .spec.template.spec.containers[*]}{.name}{'\\n'}{end}", r#""app""#),
        ("{range .spec.missing[*]}{.name}{end}", "∅"),
        ("{range .spec}{.name}", "refused: range without {end}"),
        ("$.spec.env", r#"{"host":"db","password":"hunter2"}"#),
        ("", "refused: empty path"),
        ("$.a..", "∅"),
        ("$.a...b", "refused: three dots"),
        ("$.a.", "refused: a field name is missing"),
        ("$.a['b", "refused: unterminated"),
        ("$.a]", "refused: unexpected"),
        ("$.a}", "refused: unexpected"),
        ("$.a[99999999999999999999]", "refused: too large"),
    ]);
    let whole = outcome("{@}", Shape::Any);
    assert!(whole.starts_with(r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":"#), "{whole}");
    assert_eq!(outcome("{}", Shape::Any), whole);
}

#[test]
fn cel_rows_of_the_table() {
    check(&[
        ("cel:object.metadata.namespace + '/' + object.metadata.name", r#""team-a/web""#),
        ("cel:'app' in object.metadata.labels", "true"),
        ("cel:object.spec.missing", "error: no such key: missing"),
        ("cel:object.missing.deeper", "error: no such key: missing"),
        ("cel:object.spec.replicas.foo", "error: no such overload"),
        ("cel:has(object.status.readyReplicas) ? object.status.readyReplicas : 0", "0"),
        ("cel:has(object.nothing.deeper)", "error: no such key: nothing"),
        ("cel:has(object.spec.emptyMap)", "true"),
        ("cel:has(object.spec.template.spec)", "true"),
        ("cel:object.spec.nothing", "∅"),
        ("cel:has(object.spec.nothing)", "true"),
        ("cel:size(object.C)", "3"),
        ("cel:object.C.size()", "3"),
        ("cel:object.C.map(c, c.image)", "error: no such key: image"),
        ("cel:object.C.filter(c, has(c.image)).map(c, c.image)", r#"["app:1.0","sidecar:2.0"]"#),
        ("cel:object.C.map(c, has(c.image), c.image)", r#"["app:1.0","sidecar:2.0"]"#),
        (
            "cel:object.C.filter(c, has(c.cpu)).map(c, {'n': c.name, 'p': has(c.ports)})",
            r#"[{"n":"app","p":true},{"n":"sidecar","p":false}]"#,
        ),
        (
            "cel:object.C.filter(c, has(c.cpu))",
            r#"[{"cpu":2,"image":"app:1.0","name":"app","ports":[{"containerPort":80},{"containerPort":443}]},{"cpu":5,"image":"sidecar:2.0","name":"sidecar"}]"#,
        ),
        ("cel:object.spec.one.filter(c, has(c.image))", r#"[{"image":"solo:1"}]"#),
        ("cel:[object.spec.nothing, {'a': [1u, b'x']}]", r#"[null,{"a":[1,"eA=="]}]"#),
        ("cel:{'n': object.metadata.name}", r#"{"n":"web"}"#),
        ("cel:{1: 'a', true: 'b', 2u: 'c'}", r#"{"1":"a","2":"c","true":"b"}"#),
        ("cel:object.spec.replicas * 2.0", "error: no such overload"),
        ("cel:object.spec.replicas > 2.5", "true"),
        ("cel:double(object.spec.replicas) * 2.0", "6"),
        ("cel:object.spec.replicas == '3'", "false"),
        ("cel:object.spec.big + 1", "9007199254740994"),
        ("cel:object.C[9].image", "error: index out of bounds"),
        ("cel:object.C[-1]", "error: index out of bounds"),
        ("cel:object.C[1].image", r#""sidecar:2.0""#),
        ("cel:object.C[0]['image']", r#""app:1.0""#),
        ("cel:object.metadata.labels['app.kubernetes.io/name']", r#""shop""#),
        ("cel:duration('90s')", "90000000000"),
        ("cel:timestamp('2026-01-01T00:00:00Z') + duration('1h')", r#""2026-01-01T01:00:00Z""#),
        ("cel:timestamp('2026-01-01T00:00:00.500+01:00')", r#""2025-12-31T23:00:00.5Z""#),
        ("cel:b'abc'", r#""YWJj""#),
        ("cel:b'abcd'", r#""YWJjZA==""#),
        ("cel:type(object)", r#""map""#),
        ("cel:type(object) == map && type(object.C) == list", "true"),
        ("cel:'x' + 1", "refused: no such overload: _+_(string, int)"),
        ("cel:now()", "refused: unknown function"),
        ("cel:'a,b'.split(',')", "refused: unknown function"),
        ("cel:object.?x", "refused: unsupported syntax"),
        ("cel:   ", "refused: empty expression"),
        ("cel:object..a", "refused: "),
        ("cel:object.metadata ==", "refused: "),
        ("cel:foo.bar", "refused: undeclared reference to \"foo\""),
        ("cel:size()", "refused: wrong number of arguments"),
        ("cel:size(1)", "refused: no such overload"),
        ("cel:[1].all(x)", "refused: wrong number"),
        ("cel:x.y{a: 1}", "refused: unknown type"),
        ("cel:cel.bind(a, 1, a)", "refused: "),
        ("cel:optional.of(1)", "refused: "),
        ("cel:base64.encode(b'a')", "refused: "),
        ("cel:1/0", "error: division by zero"),
        ("cel:1%0", "error: division by zero"),
        ("cel:0.0/0.0", "error: not a finite number"),
        ("cel:int('x')", "error: failed to call int"),
        ("cel:9223372036854775807 + 1", "error: overflow"),
        ("cel:object.metadata.uid == 'u-1' ? 'yes' : 1", "refused: no such overload: _?_:_"),
        ("cel:object.metadata.uid == 'u-1' ? 'yes' : 'no'", r#""yes""#),
        ("cel:object.metadata.uid == 'u-2' ? 'yes' : null", "∅"),
    ]);
}

#[test]
fn the_standard_library_of_cel_works_over_objects() {
    check(&[
        ("cel:{object.metadata.name: 1, 'b': object.spec.one}", r#"{"b":[{"image":"solo:1"}],"web":1}"#),
        ("cel:{'a': 1}.a + {'a': 1}['a'] + [1, 2][1]", "4"),
        ("cel:{'a': 1}.b", "error: no such key: b"),
        ("cel:[1, 2][2]", "error: index out of bounds"),
        ("cel:object.spec.replicas in [1, 3] && 1 in [1u] && !('x' in {'a': 1})", "true"),
        ("cel:object.C.map(c, c.name).exists(n, n == 'app')", "true"),
        ("cel:timestamp('2026-01-02T03:04:05Z').getFullYear() + duration('2h').getMinutes()", "2146"),
        ("cel:timestamp('2026-01-02T23:30:00Z').getDate('+01:00')", "3"),
        ("cel:timestamp('2026-01-02T00:00:00Z') - timestamp('2026-01-01T00:00:00Z') > duration('23h')", "true"),
        ("cel:timestamp('yesterday')", "error: failed to call timestamp"),
        ("cel:bool('true') && dyn(1) == 1.0 && 1u == 1", "true"),
        ("cel:string(1u) + string(1.5) + string(b'x') + string(true)", r#""11.5xtrue""#),
        ("cel:size('é') + size(b'\\303\\251')", "3"),
        ("cel:matches(object.metadata.name, 'w[a-f]b')", "true"),
        ("cel:object.metadata.name.matches('(')", "error: failed to call"),
        ("cel:-object.spec.replicas", "-3"),
        ("cel:-object.metadata.name", "error: no such overload"),
        ("cel:object.spec.nothing == null", "true"),
        ("cel:object.spec.replicas + object.metadata.name", "error: no such overload"),
        ("cel:object.spec.replicas && true", "error: no such overload"),
        ("cel:true || object.missing", "true"),
        ("cel:object.missing && false", "false"),
        ("cel:object.spec.replicas.map(x, x)", "error: "),
        ("cel:object.metadata.name.foo", "error: no such overload"),
        ("cel:object.metadata.labels.map(k, k)", r#"["app","app.kubernetes.io/name","zone"]"#),
        ("cel:{'b': 1, 'c': 2, 'a': 3}.map(k, k)", r#"["a","b","c"]"#),
        ("cel:object.spec.matrix == [[1, 2], [3]]", "true"),
        ("cel:[[1, 2], [3]] == object.spec.matrix", "true"),
        ("cel:[[1, 2], [4]] != object.spec.matrix", "true"),
        ("cel:{'hosts': ['c']} in object.spec.tls", "true"),
        ("cel:object.spec.tls[1] in [{'hosts': ['c']}]", "true"),
        ("cel:object.spec.env == {'password': 'hunter2', 'host': 'db'}", "true"),
        ("cel:object.spec.env == {'password': 'hunter2', 'hose': 'db'}", "false"),
        ("cel:object.spec.matrix[0] + [3]", "[1,2,3]"),
        ("cel:[0] + object.spec.matrix[0]", "[0,1,2]"),
        ("cel:object.spec.matrix.map(m, m[0])", "[1,3]"),
        ("cel:object.spec.matrix.exists(m, m.all(x, x > 2))", "true"),
        ("cel:object.C.exists_one(c, c.name == 'app')", "true"),
        ("cel:object.C.all(object, object.name != '')", "true"),
        ("cel:object.metadata.name.startsWith('w') && object.metadata.name.matches('^w.b$')", "true"),
        ("cel:object.metadata[object.metadata.name == 'web' ? 'uid' : 'name']", r#""u-1""#),
        ("cel:string(object.spec.ratio) + string(object.spec.paused)", r#""0.5false""#),
        (
            "cel:object.metadata",
            r#"{"labels":{"app":"web","app.kubernetes.io/name":"shop","zone":"z1"},"name":"web","namespace":"team-a","uid":"u-1"}"#,
        ),
    ]);
}

#[test]
fn a_list_attribute_is_always_a_list() {
    for (path, expected) in [
        ("$.spec.one[*].image", r#"["solo:1"]"#),
        ("$.spec.emptyList[*]", "[]"),
        ("$.C[?(@.name==\"nope\")].name", "[]"),
        ("$.spec.tls[0:1].hosts", r#"[["a","b"]]"#),
        ("$.spec.tls[0].hosts", r#"["a","b"]"#),
        ("$.metadata.name", r#"["web"]"#),
        ("$.metadata.missing", "∅"),
        ("$.C[:1].name", r#"["app"]"#),
        ("cel:object.metadata.name", r#"["web"]"#),
        ("cel:object.spec.emptyList", "[]"),
        ("cel:object.spec.nothing", "∅"),
    ] {
        assert_eq!(outcome(path, Shape::List), expected, "{path}");
    }
}

#[test]
fn errors_tell_their_place_in_the_path_as_written() {
    for (path, at) in [(" {.a}{b}", 6), ("$.a[x]", 3), (" cel: object.a + foo", 17), ("cel:\n1 +\n  now()", 14)] {
        let error = compile(path, Shape::Any).unwrap_err();
        assert_eq!(error.position, at, "{path}: {error}");
    }
}

#[test]
fn a_program_reads_only_what_it_names() {
    let read = |path: &str| {
        let mut prefixes = Prefixes::default();
        compile(path, Shape::Any).unwrap().prefixes(&mut prefixes);
        prefixes
    };
    let wanted = |keys: &[&[&str]]| {
        let mut prefixes = Prefixes::default();
        for path in keys {
            prefixes.insert(path.iter().copied());
        }
        prefixes
    };
    assert_eq!(read("$.spec.c[*].image"), wanted(&[&["spec", "c", "image"]]));
    assert_eq!(read("$.a[?(@.type==\"x\")].status"), wanted(&[&["a", "type"], &["a", "status"]]));
    assert_eq!(read("$.a['x','y'].z"), wanted(&[&["a", "x", "z"], &["a", "y", "z"]]));
    assert_eq!(read("$.env[*].value"), wanted(&[&["env", "name"], &["env", "value"]]));
    assert_eq!(read("{range .a[*]}{.b}{end}"), wanted(&[&["a", "b"]]));
    assert!(read("$..a").is_whole());
    assert!(read("cel:object").is_whole());
    assert_eq!(read("cel:object.a['b'].c[0].d"), wanted(&[&["a", "b", "c", "d"]]));
    assert!(!read("cel:has(object.a.b)").get("a").unwrap().get("b").unwrap().is_whole());
}

#[test]
fn nested_loops_end_at_the_budget() {
    for source in [
        "L.map(x, L.map(y, L.map(z, x + y + z)))",
        "L.all(x, L.all(y, L.all(z, x + y + z > 0)))",
        "L.exists(x, L.exists(y, L.exists(z, x + y + z > 100)))",
        "L.filter(x, size(L.filter(y, L.exists_one(z, z == y))) > 500)",
        "L.map(x, true, L.map(y, L.all(z, z > 0), y))",
        "L.all(x, L.all(y, L.all(z, x + y + z > 0))) || true",
    ] {
        let list = format!("[{}]", vec!["1"; 200].join(","));
        let program = compile(&format!("cel:{}", source.replace('L', &list)), Shape::Any).unwrap();
        let outcome = program.evaluate(&Value::Null, Hiding::NOTHING).map(|_| ());
        assert_eq!(outcome, Err(EvalError::BudgetExceeded), "{source}");
    }
}

#[test]
fn an_expression_cannot_outgrow_the_process() {
    let big = format!(r#"{{"big":"{}","list":[{}]}}"#, "x".repeat(1_000_000), vec!["1"; 10_000].join(","));
    let object = decode(big.as_bytes(), &Plan::whole(), TYPE).unwrap();
    let list = format!("[{}]", vec!["1"; 20_000].join(","));
    for (source, expected) in [
        ("object.list.map(x, object.big + 'x')".to_owned(), EvalError::TooLarge),
        ("object.list.map(x, bytes(object.big))".to_owned(), EvalError::TooLarge),
        ("object.list.map(x, object.big)".to_owned(), EvalError::TooLarge),
        (format!("size({list}.map(x, {list}))"), EvalError::TooLarge),
        (format!("size([{list}].map(l, {list}.map(x, l)))"), EvalError::TooLarge),
        (format!("size([{list}].map(l, {list}.filter(x, true).map(x, l)))"), EvalError::TooLarge),
        (vec!["object.big"; 200].join("+"), EvalError::TooLarge),
        ("object.list.map(x, object.list.map(y, object.big.contains('y')))".to_owned(), EvalError::BudgetExceeded),
    ] {
        let program = compile(&format!("cel:{source}"), Shape::Any).unwrap();
        assert_eq!(program.evaluate(&object, Hiding::NOTHING).map(|_| ()), Err(expected), "{source:.60}");
    }
}

#[test]
fn deep_and_long_expressions_are_refused_not_fatal() {
    for source in [
        "(".repeat(10_000),
        format!("{}1{}", "(".repeat(240), ")".repeat(240)),
        format!("{}1{}", "[".repeat(240), "]".repeat(240)),
        format!("{}true", "!".repeat(10_000)),
        format!("{}1", "- ".repeat(10_000)),
        format!("object{}", ".a".repeat(49_000)),
        vec!["1"; 50_000].join("+"),
        vec!["true"; 20_000].join("&&"),
        vec!["true ? 1 "; 3_000].join(":") + ": 1",
        format!("object{}", "[0]".repeat(10_000)),
        "object.a".repeat(20_000),
    ] {
        if let Ok(program) = compile(&format!("cel:{source}"), Shape::Any) {
            let _ = program.evaluate(&Value::Null, Hiding::NOTHING); // any outcome but an abort is right
        }
    }
}

mod random {
    use proptest::prelude::*;

    use super::*;

    fn any_path() -> impl Strategy<Value = String> {
        let step = prop::sample::select(vec![
            ".spec",
            ".metadata",
            ".a",
            ".b",
            ".value",
            ".name",
            "[0]",
            "[-1]",
            "[*]",
            "[1:]",
            "[::2]",
            "[0,1]",
            ".*",
            "..",
            "..a",
            "['a','b']",
            "[?(@.a)]",
            "[?(@.a==1)]",
            "[?(@.name != \"b\")]",
            "['a']",
            "[\"b\"]",
        ]);
        prop::collection::vec(step, 1..5).prop_map(|steps| format!("{{{}}}", steps.concat()))
    }

    fn any_object() -> impl Strategy<Value = String> {
        let leaf = prop::sample::select(vec!["null", "1", "\"b\"", "true", "[]", "{}"]).prop_map(str::to_owned);
        let node = leaf.prop_recursive(5, 40, 4, |inner| {
            let key = prop::sample::select(vec!["a", "b", "name", "value", "spec"]);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
                prop::collection::btree_map(key, inner, 0..5).prop_map(|entries| {
                    let entries: Vec<_> =
                        entries.into_iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
                    format!("{{{}}}", entries.join(","))
                }),
            ]
        });
        (node.clone(), node).prop_map(|(spec, a)| format!(r#"{{"metadata":{{"name":"b"}},"spec":{spec},"a":{a}}}"#))
    }

    proptest! {
        #![proptest_config(super::super::cases(2000))]

        #[test]
        fn a_projected_object_gives_the_same_answer(path in any_path(), object in any_object()) {
            let Ok(program) = compile(&path, Shape::Any) else { return Ok(()) };
            let mut prefixes = Prefixes::default();
            program.prefixes(&mut prefixes);
            let whole = decode(object.as_bytes(), &Plan::whole(), TYPE).unwrap();
            let part = decode(object.as_bytes(), &Plan::new([&prefixes]), TYPE).unwrap();
            let hides = |name: &str| name == "b";
            let hiding = Hiding { hides: &hides, replacement: &Value::Bool(true) };
            let answer = |object| program.evaluate(object, hiding).map(|found| found.to_value().map(|value| {
                let mut out = Vec::new();
                write_value(&value, &mut out);
                String::from_utf8(out).unwrap()
            }));
            prop_assert_eq!(answer(&whole), answer(&part), "{} over {}", path, object);
        }

        #[test]
        fn no_text_panics_the_jsonpath_parser(text in r#"(\$|\.|\[|\]|\{|\}|\?|\(|\)|@|'|"|\\|\*|,|:|-|=|<|&| |a|é|1|range|end)*"#) {
            let _ = compile(&text, Shape::Any); // any outcome but a panic is right
            let _ = compile(&format!("$.a{text}"), Shape::List); // as above
        }
    }

    proptest! {
        #![proptest_config(super::super::cases(512))]

        #[test]
        fn no_text_panics_the_cel_compiler(text in r#"(\.|\[|\]|\{|\}|\?|\(|\)|'|"|\\|\*|,|:|-|=|<|&&| |a|é|1|object|has|map|x)*"#) {
            let _ = compile(&format!("cel:{text}"), Shape::Any); // any outcome but a panic is right
        }
    }
}
