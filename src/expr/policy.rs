//! Conditions over an object, written in CEL without `cel:`: yes, or anything else, which is no.

use std::sync::Arc;

use super::cel::Expression;
use super::{CompileError, Found, Hiding, Prefixes, Shape};
use crate::canonical::Value;

/// A compiled condition. Two are equal when their text is. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Policy {
    source: Arc<str>,
    expression: Arc<Expression>,
}

impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Policy {}

impl Policy {
    /// Compiles a condition, within the bounds of an attribute.
    ///
    /// # Errors
    /// A [`CompileError`] for what cannot be read, and for what can never have a value.
    pub fn compile(source: &str) -> Result<Self, CompileError> {
        if let Some(rest) = source.trim_start().strip_prefix("cel:") {
            let position = source.len() - rest.len() - "cel:".len();
            return Err(CompileError::new(position, "a condition is CEL as it is; write it without \"cel:\""));
        }
        let expression = Expression::compile(source, Shape::Any)?;
        Ok(Self { source: source.into(), expression: Arc::new(expression) })
    }

    /// Adds what the condition reads of an object.
    pub fn prefixes(&self, prefixes: &mut Prefixes) {
        self.expression.prefixes(prefixes);
    }

    /// Tells whether the condition holds: it is true, or text that says so. An error, a budget that is used up, or any
    /// other result is a no.
    pub fn holds(&self, object: &Value<'_>) -> bool {
        match self.expression.evaluate(object, Hiding::NOTHING) {
            Ok(Found::Made(value)) => says_yes(&value),
            Ok(Found::One(value)) => says_yes(value),
            Ok(Found::Nothing | Found::Many(_)) | Err(_) => false,
        }
    }
}

fn says_yes(value: &Value<'_>) -> bool {
    match value {
        Value::Bool(yes) => *yes,
        // What Go's `strconv.ParseBool` takes for true.
        Value::Str(text) => matches!(&**text, "1" | "t" | "T" | "true" | "True" | "TRUE"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract::{Plan, TypeMeta, decode};

    /// Decides over an object of which only what the condition reads was decoded.
    fn holds(source: &str, object: &str) -> bool {
        let policy = Policy::compile(source).unwrap();
        let mut prefixes = Prefixes::default();
        policy.prefixes(&mut prefixes);
        let supplied = TypeMeta { api_version: "v1", kind: "Report" };
        policy.holds(&decode(object.as_bytes(), &Plan::new([&prefixes]), supplied).unwrap())
    }

    const REPORT: &str = r#"{"metadata":{"name":"r","labels":{"a":"true"}},"status":{"summary":{"criticalCount":2}}}"#;

    #[test]
    fn a_boolean_or_text_that_says_so_decides_and_everything_else_is_no() {
        let critical = "has(object.status.summary) && object.status.summary.criticalCount > 0";
        let cases = [
            (critical, true),
            (" object.metadata.name == 'r' ", true),
            ("object.metadata.name != 'r'", false),
            ("object.metadata.labels.a", true),
            ("object.kind == 'Report'", true),
            ("'t'", true),
            ("'1'", true),
            ("'TRUE'", true),
            ("'tRUE'", false),
            ("'false'", false),
            ("'truthy'", false),
            ("1 + 1", false),
            ("null", false),
            ("[true]", false),
            ("object.status.missing", false),
            ("object.metadata.name > 3", false),
        ];
        for (source, want) in cases {
            assert_eq!(holds(source, REPORT), want, "{source}");
        }
        assert!(!holds(critical, r#"{"status":{"summary":{"criticalCount":0}}}"#));
        assert!(!holds(critical, r#"{"status":{}}"#));
        assert!(!holds(critical, "{}"));
    }

    #[test]
    fn a_condition_that_costs_too_much_is_no() {
        let list: Vec<String> = (0..200).map(|index| index.to_string()).collect();
        let object = format!(r#"{{"l":[{}]}}"#, list.join(","));
        assert!(!holds("object.l.all(a, object.l.all(b, object.l.all(c, a + b + c >= 0)))", &object));
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_place() {
        let place = |source: &str| Policy::compile(source).unwrap_err().position;
        assert_eq!(place("  nobody"), 2);
        assert_eq!(place("cel:object.a"), 0);
        assert_eq!(place("object.a && nobody"), 12);
        assert!(Policy::compile("cel:true").unwrap_err().message.contains("without \"cel:\""));
    }
}
