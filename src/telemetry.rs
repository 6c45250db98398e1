//! Log lines: one event a line on standard error, as JSON or in columns for people.
//!
//! A line has time, level, logger, message, then the fields of all spans around it and its own. A field of an inner span
//! replaces one of the same name further out. Our own events follow the level asked for; those of libraries are shown
//! from `warn` on, since their `info` and `debug` speak of connections that nobody asked about.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::{LookupSpan, Scope};

use crate::config::{LogFormat, LogLevel, Logging, TimeEncoding};
use crate::error::chain;

/// The prefix of the loggers of this program.
const OURS: &str = "kollect";

/// Libraries that log each failure as an error, and return it too: we log it where it is handled.
const REPEAT: [&str; 2] = ["kube_client", "async_nats"];

/// Starts logging for the process, panics included. A second call changes nothing.
pub fn start(logging: Logging) {
    let lines = Lines { logging, write: to_stderr };
    if tracing::subscriber::set_global_default(Registry::default().with(lines)).is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let message = panic.payload_as_str().unwrap_or_default();
            tracing::error!(place, error = message, "panicked");
        }));
    }
}

fn to_stderr(line: &str) {
    let _ = io::stderr().lock().write_all(line.as_bytes()); // there is no other place to complain to
}

/// Writes events as lines.
struct Lines {
    logging: Logging,
    write: fn(&str),
}

/// Fields of a span, kept with it.
struct Fields(Map<String, Value>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let (wanted, target) = (level(self.logging.level), metadata.target());
        !REPEAT.iter().any(|library| target.starts_with(library))
            && *metadata.level() <= if is_ours(target) { wanted } else { wanted.min(Level::WARN) }
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields(Map::new());
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields(Map::new());
        for span in context.event_scope(event).into_iter().flat_map(Scope::from_root) {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.0.extend(outer.0.clone());
            }
        }
        event.record(&mut fields);
        (self.write)(&line(self.logging, event.metadata(), fields.0, Timestamp::now()));
    }
}

fn level(level: LogLevel) -> Level {
    match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    }
}

fn is_ours(target: &str) -> bool {
    target.strip_prefix(OURS).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '_']))
}

/// Returns the module of an event as the name of its logger: `kollect::watch::drive` is `watch.drive`.
fn logger(target: &str) -> String {
    target.strip_prefix("kollect::").unwrap_or(target).replace("::", ".")
}

fn line(logging: Logging, metadata: &Metadata<'_>, mut fields: Map<String, Value>, now: Timestamp) -> String {
    let message = match fields.remove("message") {
        Some(Value::String(message)) => message,
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let name = match *metadata.level() {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    };
    let logger = logger(metadata.target());
    let mut text = match logging.format {
        LogFormat::Json => {
            // The four come first and in this order, for the eye; `Map` would sort them.
            let (stamp, logger, message) = (stamp(logging.time, now), Value::from(logger), Value::from(message));
            let mut line = format!(r#"{{"ts":{stamp},"level":"{name}","logger":{logger},"msg":{message}"#);
            for (name, value) in fields {
                // A field that is called like one of the four would hide it, and is told apart by an underscore.
                let taken = matches!(name.as_str(), "ts" | "level" | "logger" | "msg");
                let name = Value::from(if taken { format!("{name}_") } else { name });
                let _ = write!(line, ",{name}:{value}"); // a String takes any text
            }
            line.push('}');
            line
        }
        LogFormat::Console => {
            let stamp = match stamp(logging.time, now) {
                Value::String(stamp) => stamp,
                number => number.to_string(),
            };
            let mut line =
                format!("{stamp}\t{}\t{logger}\t{}", name.to_uppercase(), message.replace(['\n', '\r'], " "));
            if !fields.is_empty() {
                let _ = write!(line, "\t{}", Value::Object(fields)); // a String takes any text
            }
            line
        }
    };
    text.push('\n');
    text
}

fn stamp(encoding: TimeEncoding, now: Timestamp) -> Value {
    match encoding {
        TimeEncoding::Epoch => (now.as_nanosecond() as f64 / 1e9).into(),
        TimeEncoding::Millis => (now.as_nanosecond() as f64 / 1e6).into(),
        TimeEncoding::Nano => i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX).into(),
        TimeEncoding::Iso8601 => format!("{now:.3}").into(),
        TimeEncoding::Rfc3339 => format!("{now:.0}").into(),
        TimeEncoding::Rfc3339Nano => now.to_string().into(),
    }
}

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.put(field, chain(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tracing::{debug, error, info, info_span};

    use super::*;

    thread_local! {
        static WRITTEN: RefCell<String> = const { RefCell::new(String::new()) };
    }

    /// Returns what `events` logs, without the time stamps.
    fn logged(format: LogFormat, level: LogLevel, events: impl FnOnce()) -> String {
        let logging = Logging { format, level, time: TimeEncoding::Rfc3339 };
        let write = |line: &str| WRITTEN.with_borrow_mut(|written| written.push_str(line));
        let lines = Registry::default().with(Lines { logging, write });
        tracing::subscriber::with_default(lines, events);
        let written = WRITTEN.take();
        let stamped = written.lines().map(|line| {
            if let Some((_, rest)) = line.split_once('\t') {
                return format!("{rest}\n");
            }
            let mut line: Map<String, Value> = serde_json::from_str(line).unwrap();
            assert!(line.remove("ts").unwrap().as_str().unwrap().ends_with('Z'));
            format!("{}\n", Value::Object(line))
        });
        stamped.collect()
    }

    #[derive(Debug, thiserror::Error)]
    #[error("failed to push branch \"main\"")]
    struct Push(#[source] io::Error);

    #[test]
    fn json_lines_carry_spans_fields_and_the_chain_of_an_error() {
        let lines = logged(LogFormat::Json, LogLevel::Info, || {
            let _delivery = info_span!("deliver", inventory = "team-a/all", attempt = 1).entered();
            let _write = info_span!("write", attempt = 2_u64, late = tracing::field::Empty).entered();
            tracing::Span::current().record("late", true);
            let error = Push(io::Error::other("connection refused"));
            error!(sink = %"database/pg", rows = 3, error = &error as &dyn Error, level = "x", "export failed");
        });
        assert_eq!(
            lines,
            "{\"attempt\":2,\"error\":\"failed to push branch \\\"main\\\": connection refused\",\
             \"inventory\":\"team-a/all\",\"late\":true,\"level\":\"error\",\"level_\":\"x\",\
             \"logger\":\"telemetry.tests\",\"msg\":\"export failed\",\"rows\":3,\"sink\":\"database/pg\"}\n"
        );
    }

    #[test]
    fn console_lines_are_columns() {
        let lines = logged(LogFormat::Console, LogLevel::Debug, || {
            info!("Starting manager");
            debug!(rows = 2, "two\nlines");
        });
        assert_eq!(lines, "INFO\ttelemetry.tests\tStarting manager\nDEBUG\ttelemetry.tests\ttwo lines\t{\"rows\":2}\n");
    }

    #[test]
    fn levels_and_libraries_are_held_back() {
        let lines = logged(LogFormat::Console, LogLevel::Info, || {
            debug!("hidden");
            info!(target: "hyper", "hidden");
            tracing::warn!(target: "hyper::proto", "shown");
            error!(target: "kube_client::client::builder", "hidden");
            error!(target: "async_nats::connector", "hidden");
            info!(target: "kollect_lab", "shown");
        });
        assert_eq!(lines, "WARN\thyper.proto\tshown\nINFO\tkollect_lab\tshown\n");
        assert_eq!(logged(LogFormat::Console, LogLevel::Error, || tracing::warn!(target: "hyper", "hidden")), "");
    }

    #[test]
    fn time_stamps_come_in_six_forms() {
        let now = Timestamp::new(1_770_000_000, 123_456_789).unwrap();
        for (encoding, text) in [
            (TimeEncoding::Epoch, "1770000000.1234567"),
            (TimeEncoding::Millis, "1770000000123.4568"),
            (TimeEncoding::Nano, "1770000000123456789"),
            (TimeEncoding::Iso8601, "\"2026-02-02T02:40:00.123Z\""),
            (TimeEncoding::Rfc3339, "\"2026-02-02T02:40:00Z\""),
            (TimeEncoding::Rfc3339Nano, "\"2026-02-02T02:40:00.123456789Z\""),
        ] {
            assert_eq!(stamp(encoding, now).to_string(), text);
        }
    }
}
