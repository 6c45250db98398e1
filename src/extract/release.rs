//! Unpacks the release that Helm keeps in a Secret: base64 of base64 of gzip of JSON.
//!
//! Anybody who may write a Secret chooses these bytes. They are inflated and read as a stream, of which no more is kept
//! than what the paths read, and each step has its bound: a gzip bomb costs the time of [`UNPACKED_LIMIT`] bytes and no
//! memory.

use std::cell::Cell;
use std::io::{self, BufReader, Read};

use flate2::read::GzDecoder;
use serde::de::DeserializeSeed;

use super::decode::{Allowance, Keep};
use crate::canonical::Value;
use crate::expr::Prefixes;
use crate::expr::helm::ReleaseError;

/// Characters of `data.release`: an API server takes objects of 3 MiB at most, and a Secret of 1 MiB.
const PACKED_LIMIT: usize = 4 * 1024 * 1024;

/// Bytes of the JSON text. The largest charts unpack to some 5 MB.
const UNPACKED_LIMIT: usize = 16 * 1024 * 1024;

/// Bytes of what is kept of it, as [`Keep`] counts them: as much as an object of the API server.
const KEPT_LIMIT: usize = 2 * 1024 * 1024;

/// What comes behind these is gzip.
const GZIP: [u8; 3] = [0x1f, 0x8b, 0x08];

/// Reads what is wanted of the release in `data.release`.
pub(super) fn unpack(object: &Value<'_>, wanted: &Prefixes) -> Result<Value<'static>, ReleaseError> {
    let Some(Value::Map(data)) = object.get("data") else { return Err(ReleaseError::NoData) };
    let text = match data.get("release") {
        None => return Err(ReleaseError::NotFound),
        Some(Value::Str(text)) => text,
        Some(_) => return Err(ReleaseError::UnsupportedType),
    };
    if text.len() > PACKED_LIMIT {
        return Err(ReleaseError::TooLarge(PACKED_LIMIT));
    }
    let outer = base64(text.as_bytes()).ok_or(ReleaseError::Base64)?;
    let packed = base64(&outer).unwrap_or(outer);
    if packed.len() <= GZIP.len() || !packed.starts_with(&GZIP) {
        return read(&packed[..], wanted);
    }
    let inflated = GzDecoder::new(&packed[..]);
    if inflated.header().is_none() {
        return Err(ReleaseError::GzipHeader);
    }
    read(inflated, wanted)
}

fn read(json: impl Read, wanted: &Prefixes) -> Result<Value<'static>, ReleaseError> {
    let mut bounded = Bounded { inner: json, left: Some(UNPACKED_LIMIT) };
    let kept = Cell::new(Some(KEPT_LIMIT));
    let mut reader = serde_json::Deserializer::from_reader(BufReader::new(&mut bounded));
    let outcome = Keep(wanted, &kept).deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    drop(reader);
    match outcome {
        Ok(release @ Value::Map(_)) => Ok(release),
        Err(_) if bounded.left.is_none() => Err(ReleaseError::TooLarge(UNPACKED_LIMIT)),
        Err(_) if kept.get().is_none() => Err(ReleaseError::TooLarge(KEPT_LIMIT)),
        Err(error) if error.is_io() => Err(ReleaseError::Gzip),
        Ok(_) | Err(_) => Err(ReleaseError::Json),
    }
}

/// Takes bytes as long as there are some; `None` once there were too few.
impl Allowance for &Cell<Option<usize>> {
    fn take(self, bytes: usize) -> bool {
        self.set(self.get().and_then(|left| left.checked_sub(bytes)));
        self.get().is_some()
    }
}

/// Ends in an error behind so many bytes.
struct Bounded<R> {
    inner: R,
    /// `None` once there were more.
    left: Option<usize>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.left = self.left.and_then(|left| left.checked_sub(length));
        if self.left.is_some() { Ok(length) } else { Err(io::ErrorKind::FileTooLarge.into()) }
    }
}

/// Decodes base64 with its padding; line breaks are skipped, as `base64` of the shell puts them in.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count, mut padding) = (0_u32, 0_usize, 0_usize);
    for &character in text {
        let digit = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'\r' | b'\n' => continue,
            b'=' => {
                padding += 1;
                continue;
            }
            _ => return None,
        };
        if padding > 0 {
            return None;
        }
        bits = bits << 6 | u32::from(digit);
        count += 1;
        if count.is_multiple_of(4) {
            bytes.extend(bits.to_be_bytes().get(1..)?);
        }
    }
    match (count % 4, padding) {
        (0, 0) => {}
        (2, 2) => bytes.extend((bits << 12).to_be_bytes().get(1..2)?),
        (3, 1) => bytes.extend((bits << 6).to_be_bytes().get(1..3)?),
        _ => return None,
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::{Duration, Instant};

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use k8s_openapi::ByteString;
    use proptest::prelude::*;

    use super::*;

    fn encoded(bytes: &[u8]) -> String {
        serde_json::to_value(ByteString(bytes.to_vec())).unwrap().as_str().unwrap().to_owned()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn unpacked(release: &str, wanted: &[&str]) -> Result<String, ReleaseError> {
        let text = format!(r#"{{"data":{{"release":{release}}}}}"#);
        let whole = super::super::Plan::whole();
        let kind = super::super::TypeMeta { api_version: "v1", kind: "Secret" };
        let object = super::super::decode(text.as_bytes(), &whole, kind).unwrap();
        let mut prefixes = Prefixes::default();
        prefixes.insert(wanted.iter().copied());
        unpack(&object, &prefixes).map(|value| {
            let mut out = Vec::new();
            crate::canonical::write_value(&value, &mut out);
            String::from_utf8(out).unwrap()
        })
    }

    /// As Helm stores it, and the API server shows it.
    fn stored(json: &[u8]) -> String {
        format!("{:?}", encoded(encoded(&gzip(json)).as_bytes()))
    }

    #[test]
    fn only_what_is_wanted_is_kept_of_a_release() {
        let json = br#"{"name":"my-app","info":{"status":"deployed","notes":"x"},"manifest":"m","version":2}"#;
        assert_eq!(unpacked(&stored(json), &["info", "status"]).unwrap(), r#"{"info":{"status":"deployed"}}"#);
        assert_eq!(unpacked(&stored(json), &["version"]).unwrap(), r#"{"version":2}"#);
    }

    #[test]
    fn each_layer_may_be_missing() {
        let json = br#"{"name":"legacy-app"}"#;
        for release in [encoded(json), encoded(&gzip(json)), encoded(encoded(json).as_bytes())] {
            assert_eq!(unpacked(&format!("{release:?}"), &["name"]).unwrap(), r#"{"name":"legacy-app"}"#);
        }
    }

    #[test]
    fn what_is_no_release_says_at_which_step() {
        let whole = gzip(br#"{"name":"my-app"}"#);
        let cut = &whole[..whole.len() - 9];
        let mut damaged = whole.clone();
        let checksum = damaged.len() - 5;
        damaged[checksum] ^= 1;
        for (release, expected) in [
            ("7".to_owned(), ReleaseError::UnsupportedType),
            ("null".to_owned(), ReleaseError::UnsupportedType),
            (r#""%%%""#.to_owned(), ReleaseError::Base64),
            (r#""YQ=""#.to_owned(), ReleaseError::Base64),
            (format!("{:?}", encoded(b"plain text")), ReleaseError::Json),
            (format!("{:?}", encoded(b"[1]")), ReleaseError::Json),
            (format!("{:?}", encoded(b"{\"name\":\"\xff\"}")), ReleaseError::Json),
            (format!("{:?}", encoded(b"{} {}")), ReleaseError::Json),
            (format!("{:?}", encoded(&[0x1f, 0x8b, 0x08, 0xff])), ReleaseError::GzipHeader),
            (format!("{:?}", encoded(cut)), ReleaseError::Gzip),
            (format!("{:?}", encoded(&damaged)), ReleaseError::Gzip),
            (format!("{:?}", "A".repeat(PACKED_LIMIT + 4)), ReleaseError::TooLarge(PACKED_LIMIT)),
        ] {
            assert_eq!(unpacked(&release, &["name"]), Err(expected), "{release:.40}");
        }
    }

    #[test]
    fn a_secret_without_a_release_says_what_is_missing() {
        let kind = super::super::TypeMeta { api_version: "v1", kind: "Secret" };
        for (text, expected) in [
            (r#"{"metadata":{}}"#, ReleaseError::NoData),
            (r#"{"data":"x"}"#, ReleaseError::NoData),
            (r#"{"data":{}}"#, ReleaseError::NotFound),
        ] {
            let object = super::super::decode(text.as_bytes(), &super::super::Plan::whole(), kind).unwrap();
            assert_eq!(unpack(&object, &Prefixes::default()), Err(expected), "{text}");
        }
    }

    #[test]
    fn bombs_end_at_their_bound() {
        let started = Instant::now();
        // 64 MiB of spaces in 64 KB.
        let mut bomb = GzEncoder::new(Vec::new(), Compression::fast());
        let spaces = vec![b' '; 1 << 20];
        for _ in 0..64 {
            bomb.write_all(&spaces).unwrap();
        }
        let bomb = encoded(&bomb.finish().unwrap());
        assert_eq!(unpacked(&format!("{bomb:?}"), &["name"]), Err(ReleaseError::TooLarge(UNPACKED_LIMIT)));
        // Many small values, of which each would take more room than its text.
        let lists = format!(r#"{{"config":[{}[]]}}"#, "[],".repeat(1_000_000));
        assert_eq!(unpacked(&stored(lists.as_bytes()), &["config"]), Err(ReleaseError::TooLarge(KEPT_LIMIT)));
        assert_eq!(unpacked(&stored(lists.as_bytes()), &["name"]).unwrap(), "{}");
        let text = format!(r#"{{"name":"{}"}}"#, "x".repeat(KEPT_LIMIT));
        assert_eq!(unpacked(&stored(text.as_bytes()), &["name"]), Err(ReleaseError::TooLarge(KEPT_LIMIT)));
        // Deep nesting is refused where it is kept, and not walked where it is not.
        let deep = format!(r#"{{"config":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(unpacked(&stored(deep.as_bytes()), &["config"]), Err(ReleaseError::Json));
        assert_eq!(unpacked(&stored(deep.as_bytes()), &["name"]).unwrap(), "{}");
        assert!(started.elapsed() < Duration::from_mins(1), "{:?}", started.elapsed());
    }

    proptest! {
        #[test]
        fn base64_is_what_the_api_server_writes(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(base64(encoded(&bytes).as_bytes()), Some(bytes));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = base64(&bytes); // any outcome but a panic is right, here and below
            let _ = unpacked(&format!("{:?}", encoded(&bytes)), &["name"]);
            let _ = unpacked(&format!("{:?}", encoded(&[&GZIP, &bytes[..]].concat())), &["name"]);
            let _ = unpacked(&stored(&bytes), &["name"]);
        }

        #[test]
        fn no_damage_to_a_release_panics(at in 0_usize..200, bit in 0_u8..8) {
            let mut bytes = gzip(br#"{"name":"my-app","config":{"a":[1,2.5,null,true,"x"]},"version":2}"#);
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let _ = unpacked(&format!("{:?}", encoded(&bytes)), &["config"]); // any outcome but a panic is right
        }
    }
}
