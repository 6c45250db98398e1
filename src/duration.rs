//! Durations as Go writes them, `1h30m` or `250ms`: the form of flags and of fields in our resources.
//!
//! Reading is exact to the nanosecond, and what [`format_go_duration`] writes reads back to the same value. A negative
//! duration is an error of its own, so that a caller for whom "not positive" has a meaning can tell it from nonsense.

use std::fmt::Write as _;
use std::time::Duration;

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not of the form `<number><unit>…`.
    #[error("invalid duration {0:?}: write numbers with units, for example \"90s\" or \"1h30m\"")]
    Syntax(String),
    /// A number without its unit.
    #[error("missing unit in duration {0:?}: add one of ns, us, ms, s, m, h")]
    MissingUnit(String),
    /// A unit that Go does not know; `d` is the usual one.
    #[error("unknown unit {unit:?} in duration {text:?}: use ns, us, ms, s, m or h")]
    UnknownUnit {
        /// The whole text.
        text: String,
        /// The unit found in it.
        unit: String,
    },
    /// Below zero.
    #[error("duration {0:?} is negative")]
    Negative(String),
    /// More than Go's 292 years.
    #[error("duration {0:?} is too long")]
    TooLong(String),
}

/// The longest duration that Go can hold, in nanoseconds.
const LONGEST_NANOS: u128 = i64::MAX as u128;

/// Reads a duration in Go syntax.
///
/// A plain `0` needs no unit. Fractions are allowed (`1.5h`); what is finer than a nanosecond is cut off.
pub fn parse_go_duration(text: &str) -> Result<Duration, DurationError> {
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, text.get(1..).unwrap_or_default()),
        Some(b'+') => (false, text.get(1..).unwrap_or_default()),
        _ => (false, text),
    };
    if unsigned == "0" {
        return Ok(Duration::ZERO);
    }
    let syntax = || DurationError::Syntax(text.to_owned());
    if unsigned.is_empty() {
        return Err(syntax());
    }
    let mut total: u128 = 0;
    let mut rest = unsigned;
    while !rest.is_empty() {
        let (whole, after) = split_digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split_digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(syntax());
        }
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let nanos = nanos_of(unit, text)?;
        total = parse_part(whole, fraction, nanos)
            .and_then(|part| total.checked_add(part))
            .filter(|total| *total <= LONGEST_NANOS)
            .ok_or_else(|| DurationError::TooLong(text.to_owned()))?;
        rest = after;
    }
    if negative && total > 0 {
        return Err(DurationError::Negative(text.to_owned()));
    }
    u64::try_from(total).map(Duration::from_nanos).map_err(|_| DurationError::TooLong(text.to_owned()))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn nanos_of(unit: &str, text: &str) -> Result<u128, DurationError> {
    Ok(match unit {
        "ns" => 1,
        // Go takes both the micro sign and the Greek letter.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "" => return Err(DurationError::MissingUnit(text.to_owned())),
        _ => return Err(DurationError::UnknownUnit { text: text.to_owned(), unit: unit.to_owned() }),
    })
}

/// Returns `whole.fraction × nanos`, or `None` when it does not fit.
fn parse_part(whole: &str, fraction: &str, nanos: u128) -> Option<u128> {
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u128>().ok()?.checked_mul(nanos)? };
    let (mut numerator, mut divisor) = (0_u128, 1_u128);
    // 18 digits are finer than a nanosecond of an hour, and numerator × nanos stays far below the limit of u128.
    for digit in fraction.bytes().take(18) {
        numerator = numerator * 10 + u128::from(digit - b'0');
        divisor *= 10;
    }
    whole.checked_add(numerator * nanos / divisor)
}

/// Writes a duration as Go prints it: `1h30m0s`, `25ms`, `1.5s`, `0s`.
pub fn format_go_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let (unit, name) = match nanos {
        0 => return "0s".to_owned(),
        1..1_000 => (1, "ns"),
        1_000..1_000_000 => (1_000, "\u{b5}s"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        _ => (1_000_000_000, "s"),
    };
    let mut text = String::new();
    let (mut whole, fraction) = (nanos / unit, nanos % unit);
    if name == "s" {
        // Go prints every smaller unit once a larger one is there.
        let (hours, minutes) = (whole / 3600, whole / 60 % 60);
        if hours > 0 {
            let _ = write!(text, "{hours}h"); // a String takes any text
        }
        if whole >= 60 {
            let _ = write!(text, "{minutes}m"); // a String takes any text
        }
        whole %= 60;
    }
    let _ = write!(text, "{whole}"); // a String takes any text
    if fraction > 0 {
        let width = unit.ilog10() as usize;
        let digits = format!("{fraction:0width$}");
        let _ = write!(text, ".{}", digits.trim_end_matches('0')); // a String takes any text
    }
    text.push_str(name);
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_read_as_go_reads_them() {
        for (text, nanos) in [
            ("0", 0),
            ("-0", 0),
            ("0s", 0),
            ("90s", 90_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("25ms", 25_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("+1us", 1_000),
            ("1\u{b5}s", 1_000),
            ("0.3333333333333333333h", 1_199_999_999_999),
            ("2562047h47m16.854775807s", i64::MAX as u64),
        ] {
            assert_eq!(parse_go_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn errors_say_what_to_write_instead() {
        for (text, message) in [
            ("", "invalid duration \"\": write numbers with units, for example \"90s\" or \"1h30m\""),
            ("abc", "invalid duration \"abc\": write numbers with units, for example \"90s\" or \"1h30m\""),
            (".s", "invalid duration \".s\": write numbers with units, for example \"90s\" or \"1h30m\""),
            ("60", "missing unit in duration \"60\": add one of ns, us, ms, s, m, h"),
            ("7d", "unknown unit \"d\" in duration \"7d\": use ns, us, ms, s, m or h"),
            ("-5s", "duration \"-5s\" is negative"),
            ("3000000h", "duration \"3000000h\" is too long"),
        ] {
            assert_eq!(parse_go_duration(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn durations_print_as_go_prints_them() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1\u{b5}s"),
            (25_000_000, "25ms"),
            (1_500_000_000, "1.5s"),
            (60_000_000_000, "1m0s"),
            (5_400_000_000_000, "1h30m0s"),
            (3_600_000_000_001, "1h0m0.000000001s"),
        ] {
            assert_eq!(format_go_duration(Duration::from_nanos(nanos)), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(nanos in 0..=i64::MAX as u64) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse_go_duration(&format_go_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,20}") {
            let _ = parse_go_duration(&text); // only that it returns
        }
    }
}
