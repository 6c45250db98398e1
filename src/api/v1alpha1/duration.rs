//! Durations as users write them: `30s`, `1h30m`, `500ms`.
//!
//! The grammar is that of Go: one or more of a decimal number and a unit (`ns`, `us` or `µs`, `ms`, `s`, `m`, `h`), with
//! an optional sign, or a bare `0`. A value is written back normalised (`60s` becomes `1m0s`), so that two spellings of
//! one duration never differ in a status. No duration of this API may be negative.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

/// The longest text that the schema accepts; the longest normalised value has 27 characters.
const MAX_LENGTH: u32 = 64;

/// A length of time that is not negative, read from and written as text such as `30s`, `5m0s` or `1h30m0s`.
///
/// ```
/// use kollect::api::v1alpha1::Duration;
/// let interval: Duration = "60s".parse()?;
/// assert_eq!(interval.get(), std::time::Duration::from_secs(60));
/// assert_eq!(interval.to_string(), "1m0s");
/// # Ok::<(), kollect::api::v1alpha1::DurationError>(())
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

/// Why a text is not a duration; every message names the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not of the grammar.
    #[error("invalid duration {0:?}: write a number and a unit (ns, us, ms, s, m, h), for example 30s, 5m or 1h30m")]
    Syntax(String),
    /// Below zero.
    #[error("invalid duration {0:?}: it must not be negative")]
    Negative(String),
    /// More than fits (about 292 years).
    #[error("invalid duration {0:?}: it is too long")]
    TooLong(String),
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let syntax = || DurationError::Syntax(text.to_owned());
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest.is_empty() {
            return Err(syntax());
        }
        let mut nanos: u128 = 0;
        if rest == "0" {
            rest = "";
        }
        while !rest.is_empty() {
            let (term, after) = term(rest).ok_or_else(syntax)?;
            nanos = nanos.saturating_add(term);
            rest = after;
        }
        // The bound of the grammar is a signed 64-bit count of nanoseconds.
        match i64::try_from(nanos) {
            Err(_) => Err(DurationError::TooLong(text.to_owned())),
            Ok(nanos) if negative && nanos > 0 => Err(DurationError::Negative(text.to_owned())),
            Ok(nanos) => Ok(Self(std::time::Duration::from_nanos(nanos.unsigned_abs()))),
        }
    }
}

/// Reads one number with its unit from the front of the text: nanoseconds and what follows.
fn term(text: &str) -> Option<(u128, &str)> {
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at_checked(number_end)?;
    let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
    let (unit, rest) = rest.split_at_checked(unit_end)?;
    let scale: u128 = match unit {
        "ns" => 1,
        // Both code points for the micro sign are in use.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut nanos = decimal(whole)?.saturating_mul(scale);
    let mut weight = scale;
    for digit in fraction.chars() {
        // Digits below a nanosecond are read and dropped.
        let digit = u128::from(digit.to_digit(10)?);
        nanos = nanos.saturating_add(digit * weight / 10);
        weight /= 10;
    }
    Some((nanos, rest))
}

/// Reads decimal digits; a number that does not fit is as good as the largest, since the sum is bounded later.
fn decimal(digits: &str) -> Option<u128> {
    let mut value: u128 = 0;
    for digit in digits.chars() {
        value = value.saturating_mul(10).saturating_add(u128::from(digit.to_digit(10)?));
    }
    Some(value)
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        if nanos == 0 {
            return f.write_str("0s");
        }
        if nanos < 1_000_000_000 {
            let (scale, unit) = match nanos {
                0..1_000 => (1, "ns"),
                1_000..1_000_000 => (1_000, "\u{b5}s"),
                _ => (1_000_000, "ms"),
            };
            return write!(f, "{}{unit}", Fraction { nanos, scale });
        }
        let (minutes, rest) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
        if minutes >= 60 {
            write!(f, "{}h", minutes / 60)?;
        }
        if minutes > 0 {
            write!(f, "{}m", minutes % 60)?;
        }
        write!(f, "{}s", Fraction { nanos: rest, scale: 1_000_000_000 })
    }
}

/// Prints `nanos / scale` as a decimal without trailing zeros.
struct Fraction {
    nanos: u128,
    scale: u128,
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.nanos / self.scale)?;
        let mut rest = self.nanos % self.scale;
        let mut weight = self.scale / 10;
        if rest > 0 {
            f.write_str(".")?;
        }
        while rest > 0 {
            write!(f, "{}", rest / weight)?;
            rest %= weight;
            weight /= 10;
        }
        Ok(())
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
                f.write_str("a duration in quotes or as plain text, for example 30s")
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
    fn each_spelling_is_written_back_normalised() {
        for (text, normal) in [
            ("30s", "30s"),
            ("60s", "1m0s"),
            ("1h30m", "1h30m0s"),
            ("24h", "24h0m0s"),
            ("500ms", "500ms"),
            ("1500ms", "1.5s"),
            ("0.5s", "500ms"),
            (".5s", "500ms"),
            ("1.s", "1s"),
            ("1us", "1µs"),
            ("1µs", "1µs"),
            ("1μs", "1µs"),
            ("1.5ns", "1ns"),
            ("+5m", "5m0s"),
            ("0", "0s"),
            ("0s", "0s"),
            ("-0s", "0s"),
            ("1m1m", "2m0s"),
            ("61.001s", "1m1.001s"),
        ] {
            let duration: Duration = text.parse().unwrap();
            assert_eq!(duration.to_string(), normal, "{text}");
            assert_eq!(normal.parse::<Duration>().unwrap(), duration, "{normal}");
        }
    }

    #[test]
    fn a_refusal_names_the_value() {
        for text in ["", "+", "5", "5 minutes", "1d", "s", ".s", "1h-1m", "1.2.3s", "30S"] {
            assert_eq!(text.parse::<Duration>(), Err(DurationError::Syntax(text.into())), "{text}");
        }
        assert_eq!("-1s".parse::<Duration>(), Err(DurationError::Negative("-1s".into())));
        assert_eq!("9999999999h".parse::<Duration>(), Err(DurationError::TooLong("9999999999h".into())));
        let error = serde_json::from_str::<Duration>("\"5 minutes\"").unwrap_err();
        assert!(error.to_string().contains("\"5 minutes\""), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn display_and_parse_are_inverse(nanos in 0..=i64::MAX.unsigned_abs()) {
            let duration = Duration(std::time::Duration::from_nanos(nanos));
            proptest::prop_assert_eq!(duration.to_string().parse::<Duration>().unwrap(), duration);
        }
    }
}
