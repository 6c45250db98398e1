//! `helm:release.<field>`: a field of the release that Helm keeps in a Secret.
//!
//! ```text
//! helm:release.chartVersion      helm:release.info.first_deployed      helm:release.config.image.tag
//! ```
//!
//! A field is one of the [`ALIASES`], or keys of the release joined by dots; lists are not indexed. What would carry the
//! whole release out of the cluster is refused when the path is compiled: manifest, hooks, and of the chart its templates,
//! files and values, with all that is below or above them. Unpacking the Secret is for `extract`.

use super::{CompileError, EvalError, Found, Hiding, Prefixes, Shape};
use crate::canonical::Value;

/// Short names, and the keys that they stand for. `namespace` and `config` are what they are called in a release too.
const ALIASES: [(&str, &str); 7] = [
    ("releaseName", "name"),
    ("chartName", "chart.metadata.name"),
    ("chartVersion", "chart.metadata.version"),
    ("appVersion", "chart.metadata.appVersion"),
    ("revision", "version"),
    ("status", "info.status"),
    ("lastDeployed", "info.last_deployed"),
];

/// Fields that stay in the cluster.
const REFUSED: [&str; 6] = ["manifest", "hooks", "chart.templates", "chart.files", "chart.values", "chart.raw"];

/// The values that users gave to a release; they hold passwords as a rule.
const CONFIG: &str = "config";

/// A compiled path.
#[derive(Debug)]
pub struct Field {
    keys: Vec<Box<str>>,
    shape: Shape,
}

/// Why an object holds no release that can be read. Messages never hold values of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// There is no `data`, or it is not a map.
    #[error("secret has no data")]
    NoData,
    /// `data` has no `release`.
    #[error("secret data.release not found")]
    NotFound,
    /// `data.release` is no text.
    #[error("secret data.release has unsupported type")]
    UnsupportedType,
    /// The text is not base64.
    #[error("base64 decode data.release")]
    Base64,
    /// What looks like gzip has no header of it.
    #[error("gzip decode release")]
    GzipHeader,
    /// The compressed text is cut short or damaged.
    #[error("read gzip release")]
    Gzip,
    /// The release is no JSON object.
    #[error("json decode release")]
    Json,
    /// Packed, unpacked or in what is read of it, the release is larger than any that Helm can store.
    #[error("release is larger than {0} bytes")]
    TooLarge(usize),
}

impl Field {
    /// Compiles the text behind `helm:release.`.
    pub(super) fn compile(field: &str, shape: Shape) -> Result<Self, CompileError> {
        if field.is_empty() {
            let message = "empty helm release field; write helm:release.<field>, for example helm:release.status";
            return Err(CompileError::new(0, message));
        }
        let path = ALIASES.iter().find(|(alias, _)| *alias == field).map_or(field, |(_, path)| path);
        let keys: Vec<Box<str>> = path.split('.').map(Into::into).collect();
        if keys.iter().any(|key| key.is_empty()) {
            return Err(CompileError::new(0, format!("helm release field {field:?} has an empty key; remove the dot")));
        }
        if is_refused(&keys) {
            let message =
                format!("helm release field {field:?} is not exportable; choose another one, for example chartVersion");
            return Err(CompileError::new(0, message));
        }
        Ok(Self { keys, shape })
    }

    /// Tells whether the field is among the values that users gave to the release.
    pub fn is_config(&self) -> bool {
        self.keys.first().is_some_and(|key| **key == *CONFIG)
    }

    pub(super) fn prefixes(&self, prefixes: &mut Prefixes) {
        prefixes.insert(["data", "release"]);
        let mut node = prefixes.release();
        for key in &self.keys {
            node = node.picked(key);
        }
        node.take_all();
    }

    pub(super) fn keys(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.keys.iter().map(|key| &**key)
    }

    /// Looks the field up in a release.
    pub(super) fn evaluate<'v, 'a>(
        &self,
        release: &'v Value<'a>,
        hiding: Hiding<'v>,
    ) -> Result<Found<'v, 'a>, EvalError> {
        let mut value = release;
        for (at, key) in self.keys.iter().enumerate() {
            let Some(next) = entry(value, key)? else { return Ok(Found::Nothing) };
            if **key == *"value" && hiding.applies(value) {
                let is_last = at + 1 == self.keys.len();
                return Ok(if is_last { Found::One(hiding.replacement) } else { Found::Nothing });
            }
            value = next;
        }
        Ok(match value {
            Value::Null => Found::Nothing,
            Value::List(_) => Found::One(value),
            _ if self.shape == Shape::List => Found::Many(vec![value]),
            _ => Found::One(value),
        })
    }
}

/// Tells whether the keys lead to a refused field, into one, or to what holds one.
fn is_refused(keys: &[Box<str>]) -> bool {
    REFUSED.iter().any(|refused| refused.split('.').zip(keys).all(|(refused, key)| *refused == **key))
}

fn entry<'v, 'a>(value: &'v Value<'a>, key: &str) -> Result<Option<&'v Value<'a>>, EvalError> {
    match value {
        Value::Map(map) => Ok(map.get(key)),
        Value::Null => Ok(None),
        Value::List(_) => Err(EvalError::NoFields("list")),
        Value::Str(_) => Err(EvalError::NoFields("string")),
        Value::Bool(_) => Err(EvalError::NoFields("bool")),
        Value::Int(_) | Value::UInt(_) | Value::Float(_) => Err(EvalError::NoFields("number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(field: &str) -> Vec<String> {
        Field::compile(field, Shape::Any).unwrap().keys().map(str::to_owned).collect()
    }

    #[test]
    fn an_alias_stands_for_its_keys_and_nothing_below_it() {
        assert_eq!(keys("chartVersion"), ["chart", "metadata", "version"]);
        assert_eq!(keys("status"), ["info", "status"]);
        assert_eq!(keys("status.x"), ["status", "x"]);
        assert_eq!(keys("config.db.host"), ["config", "db", "host"]);
    }

    #[test]
    fn what_carries_the_release_out_is_refused_with_all_above_and_below_it() {
        for field in ["manifest", "manifest.x", "hooks", "chart", "chart.templates", "chart.values.db", "chart.raw"] {
            let error = Field::compile(field, Shape::Any).unwrap_err();
            assert!(error.message.starts_with(&format!("helm release field {field:?} is not exportable;")), "{error}");
        }
        for field in ["chart.metadata", "chart.valuesX", "manifests", "info", "chart.lock.digest"] {
            Field::compile(field, Shape::Any).unwrap();
        }
    }

    #[test]
    fn an_empty_field_or_key_is_refused() {
        assert!(Field::compile("", Shape::Any).unwrap_err().message.starts_with("empty helm release field;"));
        for field in [".", "chart.", ".name", "a..b"] {
            assert!(Field::compile(field, Shape::Any).unwrap_err().message.contains("has an empty key"), "{field}");
        }
    }
}
