//! The values that flags take, as types.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;

/// Where a server listens: `host:port`, with an empty host for all interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindAddress {
    /// Host name or address without brackets; empty for all interfaces.
    pub host: String,
    /// Port; 0 takes any free one.
    pub port: u16,
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A server's address, or no server at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bind {
    /// `0`, or nothing.
    Off,
    /// Listen here.
    At(BindAddress),
}

impl FromStr for Bind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text == "0" {
            return Ok(Self::Off);
        }
        let wrong = || "write host:port, :port for all interfaces, or 0 for none".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if bare.is_none() && host.contains(':') {
            return Err("write an IPv6 address in brackets, for example [::1]:8080".to_owned());
        }
        Ok(Self::At(BindAddress { host: bare.unwrap_or(host).to_owned(), port }))
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    /// Reads a quantity as Kubernetes writes them: a plain number, or one with `Ki Mi Gi Ti` or `k M G T`.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor: u64 = match unit {
            "" => 1,
            "k" => 1_000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "T" => 1_000_000_000_000,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            _ => return Err("write bytes as a number with Ki, Mi or Gi, for example 256Mi".to_owned()),
        };
        let number: u64 = number.parse().map_err(|_| "write bytes as a whole number, for example 256Mi".to_owned())?;
        number.checked_mul(factor).map(Self).ok_or_else(|| "more bytes than can be counted".to_owned())
    }
}

impl fmt::Display for ByteSize {
    /// Prints the number with the largest binary unit that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in [(1_u64 << 40, "Ti"), (1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")] {
            if self.0 >= unit && self.0.is_multiple_of(unit) {
                return write!(f, "{}{name}", self.0 / unit);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// How much memory rows may take, as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// A number of bytes; zero is no limit.
    Bytes(ByteSize),
    /// A share of the memory limit, 1 to 100.
    Percent(u8),
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(share) = text.strip_suffix('%') else {
            return text.parse().map(Self::Bytes);
        };
        match share.trim_end().parse() {
            Ok(share @ 1..=100) => Ok(Self::Percent(share)),
            _ => Err("write a share from 1% to 100%".to_owned()),
        }
    }
}

/// Which Secrets of other namespaces a sink may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CrossNamespaceSecrets {
    /// Those whose annotation `kollect.dev/shared-with` names the namespace of the sink.
    Annotated,
    /// All of them.
    Any,
}

/// Authentication of the read API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AuthMode {
    /// Bearer tokens, reviewed by the API server.
    Kubernetes,
    /// None.
    #[value(alias = "none")]
    Disabled,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Columns separated by tabs, for people.
    Console,
}

/// The least level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Needs a person.
    Error,
    /// A fault that will be retried or was skipped.
    Warn,
    /// A change of state.
    Info,
    /// Per reconcile.
    Debug,
    /// Per object.
    Trace,
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            // There is nothing above `error` here, and a process that ends without a word helps nobody.
            "error" | "panic" => Ok(Self::Error),
            "warn" => Ok(Self::Warn),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            number => match number.parse::<u32>() {
                Ok(1) => Ok(Self::Debug),
                Ok(2..) => Ok(Self::Trace),
                _ => Err("use debug, info, warn, error, panic, or a number from 1".to_owned()),
            },
        }
    }
}

/// From which level on a stack trace would be logged: read, checked and without effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StacktraceLevel {
    /// From info.
    Info,
    /// From warn.
    Warn,
    /// From error.
    Error,
    /// At panics.
    Panic,
}

/// The form of a time stamp in a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TimeEncoding {
    /// Seconds since 1970, with a fraction.
    Epoch,
    /// Milliseconds since 1970, with a fraction.
    Millis,
    /// Nanoseconds since 1970.
    Nano,
    /// `2026-02-03T04:05:06.789Z`.
    Iso8601,
    /// `2026-02-03T04:05:06Z`.
    Rfc3339,
    /// `2026-02-03T04:05:06.789012345Z`.
    #[value(name = "rfc3339nano")]
    Rfc3339Nano,
}

/// A comma-separated list: entries are trimmed, blank ones dropped, repeated ones kept once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct List(pub Vec<String>);

impl FromStr for List {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let mut entries: Vec<String> = Vec::new();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            if !entries.iter().any(|known| known == entry) {
                entries.push(entry.to_owned());
            }
        }
        Ok(Self(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_host_and_port_or_zero() {
        for (text, shown) in [
            (":8081", ":8081"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("[::1]:80", "[::1]:80"),
            ("localhost:1", "localhost:1"),
        ] {
            match text.parse() {
                Ok(Bind::At(address)) => assert_eq!(address.to_string(), shown),
                other => unreachable!("{text}: {other:?}"),
            }
        }
        assert_eq!("0".parse(), Ok(Bind::Off));
        assert_eq!("".parse(), Ok(Bind::Off));
        for wrong in ["8081", "localhost", "::1:80", ":99999", "a:b"] {
            assert!(wrong.parse::<Bind>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_take_the_units_of_kubernetes() {
        for (text, bytes, shown) in [
            ("0", 0, "0"),
            ("1500", 1500, "1500"),
            ("256Mi", 256 << 20, "256Mi"),
            ("1024Mi", 1 << 30, "1Gi"),
            ("2k", 2000, "2000"),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)));
            assert_eq!(ByteSize(bytes).to_string(), shown);
        }
        for wrong in ["", "Mi", "12mb", "-1", "99999999999Ti"] {
            assert!(wrong.parse::<ByteSize>().is_err(), "{wrong}");
        }
        assert_eq!("60%".parse(), Ok(Budget::Percent(60)));
        assert!("0%".parse::<Budget>().is_err());
        assert!("101%".parse::<Budget>().is_err());
    }

    #[test]
    fn log_levels_are_words_or_numbers() {
        for (text, level) in [
            ("debug", LogLevel::Debug),
            ("INFO", LogLevel::Info),
            ("panic", LogLevel::Error),
            ("1", LogLevel::Debug),
            ("5", LogLevel::Trace),
        ] {
            assert_eq!(text.parse(), Ok(level));
        }
        assert!("0".parse::<LogLevel>().is_err());
        assert!("loud".parse::<LogLevel>().is_err());
    }

    #[test]
    fn lists_are_trimmed_and_without_repeats() {
        assert_eq!(" a, b,,a ,c".parse::<List>().unwrap().0, ["a", "b", "c"]);
        assert_eq!(" , ".parse::<List>().unwrap().0, Vec::<String>::new());
    }
}
