//! The only encoder of rows: what a row looks like as text, and the digests over that text.
//!
//! Every byte that a sink, a checksum or a fingerprint sees of a row comes from here, so that one row has one text in
//! all of them (D19): object keys sorted bytewise at every depth, integers exact, floats in their shortest form, no
//! white space, and the escapes that earlier releases wrote.
//!
//! In flows a [`Value`], the borrowed tree that `extract` decodes, or a [`Row`], whose attributes are encoded already.
//! Nothing here can fail: what cannot be written (NaN, invalid text) is refused where the value is made.

mod value;

use std::fmt::Write as _;

use crate::model::{Digest, Fingerprint, Row};

pub use value::{Map, Value};

/// Goes first into every fingerprint: raise it when the text of unchanged rows changes, and they are written again.
const ENCODER_VERSION: u8 = 1;

/// Appends the canonical JSON text of a value.
///
/// ```
/// use kollect::canonical::{Map, Value, write_value};
///
/// let value = Value::Map(Map::from_iter([("b".into(), Value::Float(1.0)), ("a".into(), Value::from("<x>"))]));
/// let mut out = Vec::new();
/// write_value(&value, &mut out);
/// assert_eq!(out, br#"{"a":"\u003cx\u003e","b":1}"#);
/// ```
pub fn write_value(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::List(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(item, out);
            }
            out.push(b']');
        }
        Value::Map(map) => {
            out.push(b'{');
            for (index, (key, item)) in map.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_string(key, out);
                out.push(b':');
                write_value(item, out);
            }
            out.push(b'}');
        }
        scalar => write_scalar(scalar, out),
    }
}

/// Appends anything but a list or a map; those two are left to the caller, which decides what to show of them.
pub(crate) fn write_scalar(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(number) => write_display(number, out),
        Value::UInt(number) => write_display(number, out),
        Value::Float(number) => write_float(*number, out),
        Value::Str(text) => write_string(text, out),
        Value::Null | Value::List(_) | Value::Map(_) => out.extend_from_slice(b"null"),
    }
}

/// Appends a JSON string with its quotes.
pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    out.push(b'"');
    let mut written = 0;
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if !ESCAPED[usize::from(byte)] {
            at += 1;
            continue;
        }
        let mut length = 1;
        let mut control = *b"\\u0000";
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0x08 => b"\\b",
            0x0c => b"\\f",
            b'<' => b"\\u003c",
            b'>' => b"\\u003e",
            b'&' => b"\\u0026",
            0xe2 => {
                length = 3;
                match bytes.get(at..at + 3) {
                    Some([_, 0x80, 0xa8]) => b"\\u2028",
                    Some([_, 0x80, 0xa9]) => b"\\u2029",
                    _ => {
                        at += length;
                        continue;
                    }
                }
            }
            _ => {
                control[4] = HEX[usize::from(byte >> 4)];
                control[5] = HEX[usize::from(byte & 15)];
                &control
            }
        };
        out.extend_from_slice(&bytes[written..at]);
        out.extend_from_slice(escape);
        at += length;
        written = at;
    }
    out.extend_from_slice(&bytes[written..]);
    out.push(b'"');
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Bytes at which [`write_string`] has to look twice. 0xe2 starts U+2028 and U+2029.
const ESCAPED: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    let others = b"\"\\<>&\xe2";
    let mut index = 0;
    while index < others.len() {
        table[others[index] as usize] = true;
        index += 1;
    }
    table
};

/// Appends a double: plain digits from 1e-6 up to 1e21, an exponent without padding outside, `1` for 1.0.
///
/// JSON has no text for NaN and the infinities; the one place that computes numbers, CEL, refuses them.
fn write_float(number: f64, out: &mut Vec<u8>) {
    let size = number.abs();
    if !number.is_finite() {
        out.extend_from_slice(b"null");
    } else if number == 0.0 || (1e-6..1e21).contains(&size) {
        write_display(&number, out);
    } else if size < 1.0 {
        write_display(&format_args!("{number:e}"), out);
    } else {
        // Rust writes `1e21`, the format wants `1e+21`.
        let start = out.len();
        write_display(&format_args!("{number:e}"), out);
        if let Some(exponent) = out[start..].iter().position(|&byte| byte == b'e') {
            out.insert(start + exponent + 1, b'+');
        }
    }
}

fn write_display(shown: &impl std::fmt::Display, out: &mut Vec<u8>) {
    struct Sink<'a>(&'a mut Vec<u8>);
    impl std::fmt::Write for Sink<'_> {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.extend_from_slice(text.as_bytes());
            Ok(())
        }
    }
    let _ = write!(Sink(out), "{shown}"); // a Vec takes everything, and numbers always print
}

/// Appends the JSON text of a row with its fields in their fixed order; an empty group is left out.
pub fn write_item(row: &Row, out: &mut Vec<u8>) {
    let origin = &*row.origin;
    let field = |name: &str, text: &str, out: &mut Vec<u8>| {
        out.extend_from_slice(name.as_bytes());
        write_string(text, out);
    };
    field("{\"targetNamespace\":", origin.target.namespace.as_str(), out);
    field(",\"targetName\":", origin.target.name.as_str(), out);
    field(",\"namespace\":", row.namespace.as_str(), out);
    field(",\"name\":", row.body.name(), out);
    if !origin.gvk.group.is_empty() {
        field(",\"group\":", &origin.gvk.group, out);
    }
    field(",\"version\":", &origin.gvk.version, out);
    field(",\"kind\":", &origin.gvk.kind, out);
    out.extend_from_slice(b",\"uid\":");
    match &row.uid {
        crate::model::Uid::Other(text) => write_string(text, out),
        uuid @ crate::model::Uid::Uuid(_) => {
            out.push(b'"');
            write_display(uuid, out);
            out.push(b'"');
        }
    }
    out.extend_from_slice(b",\"attributes\":");
    out.extend_from_slice(row.body.attributes());
    out.push(b'}');
}

/// Returns what [`Digest::add`] and [`Digest::remove`] take, the BLAKE3-256 of the item text in four lanes, and the
/// length of that text in bytes.
pub fn row_hash(row: &Row) -> ([u64; 4], usize) {
    let mut text = Vec::with_capacity(256 + row.body.size());
    write_item(row, &mut text);
    (text_hash(&text), text.len())
}

/// Returns the BLAKE3-256 of the text of an item in four lanes.
pub fn text_hash(text: &[u8]) -> [u64; 4] {
    let hash = blake3::hash(text);
    let mut lanes = [0; 4];
    for (lane, bytes) in lanes.iter_mut().zip(hash.as_bytes().as_chunks::<8>().0) {
        *lane = u64::from_be_bytes(*bytes);
    }
    lanes
}

impl Digest {
    /// Adds a row to the set.
    pub fn add(&mut self, row_hash: [u64; 4]) {
        for (lane, part) in self.0.iter_mut().zip(row_hash) {
            *lane = lane.wrapping_add(part);
        }
    }

    /// Takes a row out of the set that was added before.
    pub fn remove(&mut self, row_hash: [u64; 4]) {
        for (lane, part) in self.0.iter_mut().zip(row_hash) {
            *lane = lane.wrapping_sub(part);
        }
    }
}

/// Returns the fingerprint of what a sink stores of a row: BLAKE3-128 over the columns, each with its length in front,
/// so that a byte that moves to the next column shows.
pub fn fingerprint(columns: &[&[u8]]) -> Fingerprint {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[ENCODER_VERSION]);
    for column in columns {
        hasher.update(&(column.len() as u64).to_le_bytes());
        hasher.update(column);
    }
    let mut short = [0; 16];
    hasher.finalize_xof().fill(&mut short);
    Fingerprint(short)
}

#[cfg(test)]
mod tests;
