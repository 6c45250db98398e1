//! Cuts the items out of a list reply as its bytes arrive; nothing of the reply is held whole.
//!
//! A scanner of depth and strings, not a parser: an item is the text between a `{` and its `}` one level below the
//! top-level array `items`, and it is checked when it is decoded. List `metadata` may come before or after `items`.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;

/// Largest top-level value, other than an item, that is kept while it arrives: list metadata is below 2 KiB.
const MAX_OTHER: usize = 1 << 20;

/// What a list reply says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ListMeta {
    /// Where a watch takes over.
    pub(super) resource_version: String,
    /// Token of the next page, empty on the last.
    #[serde(rename = "continue")]
    pub(super) next: String,
}

/// Why a reply cannot be cut.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum ScanError {
    #[error("list reply is no JSON object")]
    NotAnObject,
    #[error("list reply ended early")]
    Truncated,
    #[error("list reply has no metadata.resourceVersion")]
    NoMetadata,
    #[error("list reply holds a value of more than {MAX_OTHER} bytes beside its items")]
    TooLarge,
}

/// Where the scanner stands at depth 1 and 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the opening brace.
    Start,
    /// Between two members of the top-level object, or in a key.
    Key,
    /// In a value that is not `items`.
    Value,
    /// In the `items` array, between items.
    Items,
    /// In an item.
    Item,
    /// After the closing brace.
    End,
}

/// State between two chunks.
#[derive(Debug)]
pub(super) struct Scanner {
    place: Place,
    depth: u32,
    in_string: bool,
    /// The last byte of the previous chunk was a backslash inside a string.
    escaped: bool,
    /// Text of the current key, value or item that came in earlier chunks.
    held: BytesMut,
    key: Vec<u8>,
    meta: Option<ListMeta>,
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            place: Place::Start,
            depth: 0,
            in_string: false,
            escaped: false,
            held: BytesMut::new(),
            key: Vec::new(),
            meta: None,
        }
    }
}

impl Scanner {
    /// Takes the next chunk and appends the items that end in it. An item that lies in one chunk shares its memory.
    pub(super) fn feed(&mut self, chunk: &Bytes, items: &mut Vec<Bytes>) -> Result<(), ScanError> {
        let text: &[u8] = chunk;
        let mut at = 0;
        // Start of the current key, value or item inside this chunk.
        let mut start = 0;
        if self.escaped && !text.is_empty() {
            self.escaped = false;
            at = 1;
        }
        while at < text.len() {
            if self.in_string {
                match memchr::memchr2(b'"', b'\\', &text[at..]) {
                    None => break,
                    Some(offset) if text[at + offset] == b'\\' => {
                        at += offset + 2;
                        self.escaped = at > text.len();
                        continue;
                    }
                    Some(offset) => {
                        self.in_string = false;
                        at += offset + 1;
                        if self.place == Place::Key && self.depth == 1 {
                            self.key.clear();
                            self.key.extend_from_slice(&self.held);
                            self.key.extend_from_slice(&text[start..at - 1]);
                            self.held.clear();
                            start = at;
                        }
                        continue;
                    }
                }
            }
            match text[at] {
                b'"' => {
                    self.in_string = true;
                    if self.place == Place::Key && self.depth == 1 {
                        self.held.clear();
                        start = at + 1;
                    }
                }
                b':' if self.place == Place::Key && self.depth == 1 => {
                    self.place = Place::Value;
                    self.held.clear();
                    start = at + 1;
                }
                b'{' | b'[' => self.open(text[at], at, &mut start)?,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    match (self.place, self.depth) {
                        (Place::Item, 2) => {
                            items.push(self.take(chunk, start, at + 1));
                            self.place = Place::Items;
                        }
                        (Place::Items, 1) => {
                            self.place = Place::Key;
                            self.held.clear();
                        }
                        (Place::Value, 0) => {
                            self.value(&text[start..at]);
                            self.place = Place::End;
                        }
                        (Place::Key, 0) => self.place = Place::End,
                        _ => {}
                    }
                }
                b',' if self.place == Place::Value && self.depth == 1 => {
                    self.value(&text[start..at]);
                    self.place = Place::Key;
                }
                byte if self.place == Place::Start && !byte.is_ascii_whitespace() => {
                    return Err(ScanError::NotAnObject);
                }
                _ => {}
            }
            at += 1;
        }
        self.keep(&text[start.min(text.len())..])
    }

    fn open(&mut self, byte: u8, at: usize, start: &mut usize) -> Result<(), ScanError> {
        match (self.place, self.depth, byte) {
            (Place::Start, 0, b'{') => self.place = Place::Key,
            (Place::Start, ..) => return Err(ScanError::NotAnObject),
            (Place::Value, 1, b'[') if self.key == b"items" => self.place = Place::Items,
            (Place::Items, 2, b'{') => {
                self.place = Place::Item;
                self.held.clear();
                *start = at;
            }
            _ => {}
        }
        self.depth += 1;
        Ok(())
    }

    /// Keeps the unfinished end of a chunk, where it matters.
    fn keep(&mut self, rest: &[u8]) -> Result<(), ScanError> {
        match self.place {
            Place::Item => self.held.extend_from_slice(rest),
            Place::Key | Place::Value => {
                self.held.extend_from_slice(rest);
                if self.held.len() > MAX_OTHER {
                    return Err(ScanError::TooLarge);
                }
            }
            Place::Start | Place::Items | Place::End => {}
        }
        Ok(())
    }

    fn take(&mut self, chunk: &Bytes, start: usize, end: usize) -> Bytes {
        if self.held.is_empty() {
            return chunk.slice(start..end);
        }
        self.held.extend_from_slice(&chunk[..end]);
        self.held.split().freeze()
    }

    /// Ends a top-level value.
    fn value(&mut self, rest: &[u8]) {
        if self.key == b"metadata" {
            self.held.extend_from_slice(rest);
            self.meta = serde_json::from_slice(&self.held).ok();
        }
        self.held.clear();
    }

    /// Ends the reply and returns its metadata.
    pub(super) fn finish(self) -> Result<ListMeta, ScanError> {
        if self.place != Place::End {
            return Err(ScanError::Truncated);
        }
        self.meta.filter(|meta| !meta.resource_version.is_empty()).ok_or(ScanError::NoMetadata)
    }
}

/// Cuts a watch reply into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    held: BytesMut,
}

impl Lines {
    /// Takes the next chunk and appends the lines that end in it, without their ends and without empty ones.
    pub(super) fn feed(&mut self, chunk: &Bytes, lines: &mut Vec<Bytes>) {
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', chunk) {
            let line = if self.held.is_empty() {
                chunk.slice(start..end)
            } else {
                self.held.extend_from_slice(&chunk[start..end]);
                self.held.split().freeze()
            };
            if !line.is_empty() {
                lines.push(line);
            }
            start = end + 1;
        }
        self.held.extend_from_slice(&chunk[start..]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(text: &str, size: usize) -> Result<(Vec<String>, ListMeta), ScanError> {
        let mut scanner = Scanner::default();
        let mut items = Vec::new();
        for chunk in text.as_bytes().chunks(size.max(1)) {
            scanner.feed(&Bytes::copy_from_slice(chunk), &mut items)?;
        }
        let items = items.iter().map(|item| String::from_utf8_lossy(item).into_owned()).collect();
        Ok((items, scanner.finish()?))
    }

    const LIST: &str = r#" {"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"7","continue":"a]}b"},
        "items":[{"a":"}]\"{","b":[{"c":1}]} , {"items":[{}],"metadata":{"resourceVersion":"9"}},{}]}
"#;

    #[test]
    fn items_are_cut_at_any_chunk_size() {
        for size in 1..=LIST.len() {
            let (items, meta) = cut(LIST, size).unwrap();
            let want = [r#"{"a":"}]\"{","b":[{"c":1}]}"#, r#"{"items":[{}],"metadata":{"resourceVersion":"9"}}"#, "{}"];
            assert_eq!(items, want, "chunks of {size}");
            assert_eq!(meta, ListMeta { resource_version: "7".into(), next: "a]}b".into() });
        }
    }

    #[test]
    fn metadata_may_come_after_the_items() {
        for size in [1, 3, 1000] {
            let text = r#"{"items":[{"x":1}],"metadata":{"resourceVersion":"12"},"kind":"L"}"#;
            let (items, meta) = cut(text, size).unwrap();
            assert_eq!((items.len(), meta.resource_version.as_str()), (1, "12"));
        }
    }

    #[test]
    fn empty_and_null_items_are_no_items() {
        for items in ["[]", "null", "[ ]"] {
            let text = format!(r#"{{"metadata":{{"resourceVersion":"1"}},"items":{items}}}"#);
            assert_eq!(cut(&text, 5).unwrap().0.len(), 0);
        }
    }

    #[test]
    fn broken_replies_are_errors() {
        assert_eq!(cut("[]", 9), Err(ScanError::NotAnObject));
        assert_eq!(cut("not found", 9), Err(ScanError::NotAnObject));
        assert_eq!(cut(r#"{"items":[{"a":1}"#, 9), Err(ScanError::Truncated));
        assert_eq!(cut(r#"{"items":[]}"#, 9), Err(ScanError::NoMetadata));
    }

    #[test]
    fn lines_are_cut_at_any_chunk_size() {
        for size in 1..12 {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for chunk in b"one\n\ntwo\nthree\nrest".chunks(size) {
                lines.feed(&Bytes::copy_from_slice(chunk), &mut found);
            }
            assert_eq!(found, [&b"one"[..], b"two", b"three"]);
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            "[a-z\"\\\\{}\\[\\],: é]{0,8}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map("[a-z\"\\\\]{0,5}", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn scanned(bytes: &[u8], size: usize) -> Result<(Vec<Bytes>, ListMeta), ScanError> {
        let (mut scanner, mut items) = (Scanner::default(), Vec::new());
        for chunk in bytes.chunks(size) {
            scanner.feed(&Bytes::copy_from_slice(chunk), &mut items)?;
        }
        Ok((items, scanner.finish()?))
    }

    fn lines(bytes: &[u8], size: usize) -> Vec<Bytes> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for chunk in bytes.chunks(size) {
            lines.feed(&Bytes::copy_from_slice(chunk), &mut found);
        }
        found
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_chunks_make_no_difference(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..200),
                r#"\{("items":|"metadata":|"resourceVersion":|\[|\]|\{|\}|,|"|\\|"7"|1|null| |\n)*"#.prop_map(String::into_bytes),
            ],
            size in 1_usize..40,
        ) {
            let whole = bytes.len().max(1);
            prop_assert_eq!(scanned(&bytes, size), scanned(&bytes, whole));
            prop_assert_eq!(lines(&bytes, size), lines(&bytes, whole));
        }

        #[test]
        fn any_list_gives_back_its_items(
            objects in prop::collection::vec(prop::collection::btree_map("[a-z]{1,6}", json(), 0..4), 0..6),
            size in 1usize..64,
        ) {
            let list = serde_json::json!({
                "metadata": {"resourceVersion": "5"}, "items": objects, "other": {"items": [{"no": 1}]},
            });
            let (items, meta) = cut(&list.to_string(), size).unwrap();
            let parsed: Vec<serde_json::Value> = items.iter().map(|item| serde_json::from_str(item).unwrap()).collect();
            prop_assert_eq!(serde_json::Value::from(parsed), list["items"].clone());
            prop_assert_eq!(meta.resource_version, "5");
        }
    }
}
