//! Durations as fields: `30s`, `1h30m`, `500ms`, in the grammar of [`crate::duration`].
//!
//! A value is written back normalised (`60s` becomes `1m0s`), so that two spellings of one duration never differ in a
//! status. No duration of this API may be negative.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

use crate::duration::{DurationError, format_go_duration, parse_go_duration};

/// The longest text that the schema accepts; the longest normalised value has 27 characters.
const MAX_LENGTH: u32 = 64;

/// A length of time that is not negative, read from and written as text such as `30s`, `5m0s` or `1h30m0s`.
///
/// ```
/// use kollect::api::v1alpha1::Duration;
/// let interval: Duration = "60s".parse()?;
/// assert_eq!(interval.get(), std::time::Duration::from_secs(60));
/// assert_eq!(interval.to_string(), "1m0s");
/// # Ok::<(), kollect::duration::DurationError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Duration(std::time::Duration);

impl Duration {
    /// Wraps whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }

    /// Returns the duration for arithmetic and timers.
    pub const fn get(self) -> std::time::Duration {
        self.0
    }
}

impl From<std::time::Duration> for Duration {
    fn from(duration: std::time::Duration) -> Self {
        Self(duration)
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_go_duration(text).map(Self)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_go_duration(self.0))
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Duration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration as text, for example 30s")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": MAX_LENGTH })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_written_back_normalised() {
        let duration: Duration = serde_json::from_str("\"60s\"").unwrap();
        assert_eq!(serde_json::to_string(&duration).unwrap(), "\"1m0s\"");
    }

    #[test]
    fn a_refusal_names_the_value() {
        for text in ["5 minutes", "-1s", "9999999999h", ""] {
            let error = serde_json::from_value::<Duration>(text.into()).unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
        let error = serde_json::from_str::<Duration>("30").unwrap_err();
        assert!(error.to_string().contains("expected a duration as text, for example 30s"), "{error}");
    }
}
