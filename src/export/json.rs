//! Canonical JSON text as a list of its values, and the same text with line breaks.
//!
//! Attributes are kept as text, so what writes them in another form starts from that text: nothing is decoded into a
//! tree of its own, and a number stays the digits that it is. The text comes from [`crate::canonical`]; anything that is
//! not JSON gives nonsense here, never a panic.

use memchr::memchr2;

/// What a value is, as far as a writer needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An object; its children are keys and values in turn.
    Map,
    /// A list.
    List,
    /// A string without a backslash: its text is between the quotes.
    Text,
    /// A string with escapes.
    Escaped,
    /// A number, `true`, `false` or `null`.
    Plain,
}

/// One value, or one key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    /// First byte of the text; of a string the one after the quote.
    start: usize,
    /// End of the text; of a string the closing quote.
    end: usize,
    /// Where the next sibling stands in the list.
    pub(super) next: usize,
}

/// The values of one text in order of appearance. Kept between texts for its memory.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    nodes: Vec<Node>,
    open: Vec<usize>,
}

impl Tape {
    /// Reads a text; what was read before is forgotten.
    pub(crate) fn read(&mut self, json: &[u8]) {
        self.nodes.clear();
        self.open.clear();
        let mut at = 0;
        while let Some(&byte) = json.get(at) {
            match byte {
                b'{' | b'[' => {
                    self.open.push(self.nodes.len());
                    self.push(if byte == b'{' { Kind::Map } else { Kind::List }, at, at + 1);
                    at += 1;
                }
                b'}' | b']' => {
                    at += 1;
                    self.close(at);
                }
                b'"' => {
                    let (kind, end) = string(json, at + 1);
                    self.push(kind, at + 1, end);
                    at = end + 1;
                }
                b',' | b':' | b' ' | b'\n' | b'\r' | b'\t' => at += 1,
                _ => {
                    let rest = json.get(at..).unwrap_or_default();
                    let length = rest.iter().position(|byte| b",:]} \n\r\t".contains(byte)).unwrap_or(rest.len());
                    self.push(Kind::Plain, at, at + length);
                    at += length;
                }
            }
        }
        while !self.open.is_empty() {
            self.close(json.len());
        }
    }

    fn push(&mut self, kind: Kind, start: usize, end: usize) {
        let next = self.nodes.len() + 1;
        self.nodes.push(Node { kind, start, end, next });
    }

    fn close(&mut self, end: usize) {
        let next = self.nodes.len();
        if let Some(node) = self.open.pop().and_then(|index| self.nodes.get_mut(index)) {
            node.end = end;
            node.next = next;
        }
    }

    /// Returns the value at a place; a place outside the text is an empty scalar.
    pub(crate) fn node(&self, index: usize) -> Node {
        self.nodes.get(index).copied().unwrap_or(Node { kind: Kind::Plain, start: 0, end: 0, next: index + 1 })
    }

    /// Tells whether a map or a list has no children.
    pub(super) fn is_empty(&self, index: usize) -> bool {
        self.node(index).next == index + 1
    }

    /// Iterates over the places of the children of a list; of a map, over those of its keys.
    pub(crate) fn children(&self, index: usize) -> impl Iterator<Item = usize> + '_ {
        let node = self.node(index);
        let map = node.kind == Kind::Map;
        let step = move |at: usize| if map { self.node(at + 1).next } else { self.node(at).next };
        std::iter::successors(Some(index + 1), move |&at| Some(step(at))).take_while(move |&at| at < node.next)
    }

    /// Returns the place of the value of a key of a map.
    pub(crate) fn find(&self, json: &[u8], map: usize, key: &str) -> Option<usize> {
        if self.node(map).kind != Kind::Map {
            return None;
        }
        let mut scratch = Vec::new();
        let found = self.children(map).find(|&at| self.node(at).text(json, &mut scratch) == key.as_bytes())?;
        Some(found + 1)
    }
}

impl Node {
    /// Returns the text as it stands, without the quotes of a string.
    pub(crate) fn raw<'a>(&self, json: &'a [u8]) -> &'a [u8] {
        json.get(self.start..self.end).unwrap_or_default()
    }

    /// Returns what a string says; with escapes it is written into `scratch`.
    pub(crate) fn text<'a>(&self, json: &'a [u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
        let raw = self.raw(json);
        if self.kind != Kind::Escaped {
            return raw;
        }
        scratch.clear();
        unescape(raw, scratch);
        scratch
    }
}

/// Returns the value of a key of a compact object. Reads no further than that, and keeps nothing: one key of many texts is
/// found sooner than by a [`Tape`]. `scratch` is for keys with escapes.
pub(crate) fn member(json: &[u8], key: &str, scratch: &mut Vec<u8>) -> Option<Node> {
    if json.first() != Some(&b'{') {
        return None;
    }
    let mut at = 1;
    while json.get(at) == Some(&b'"') {
        let (name, colon) = value(json, at);
        let (found, after) = value(json, colon + 1);
        if name.text(json, scratch) == key.as_bytes() {
            return Some(found);
        }
        at = after + 1; // behind the comma
    }
    None
}

/// Reads the value that starts here, without what is in it; returns it and where the text goes on.
fn value(json: &[u8], start: usize) -> (Node, usize) {
    let node = |kind, start, end| Node { kind, start, end, next: 1 };
    match json.get(start) {
        Some(b'"') => {
            let (kind, end) = string(json, start + 1);
            (node(kind, start + 1, end), end + 1)
        }
        Some(open @ (b'{' | b'[')) => {
            let kind = if *open == b'{' { Kind::Map } else { Kind::List };
            let (mut depth, mut at) = (0_usize, start);
            while let Some(byte) = json.get(at) {
                match byte {
                    b'"' => at = string(json, at + 1).1,
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                at += 1;
                if depth == 0 {
                    break;
                }
            }
            (node(kind, start, at), at)
        }
        _ => {
            let rest = json.get(start..).unwrap_or_default();
            let end = start + rest.iter().position(|byte| b",]}".contains(byte)).unwrap_or(rest.len());
            (node(Kind::Plain, start, end), end)
        }
    }
}

/// Returns what kind of string starts here, and where its closing quote stands.
fn string(json: &[u8], start: usize) -> (Kind, usize) {
    let (mut kind, mut at) = (Kind::Text, start);
    loop {
        match memchr2(b'"', b'\\', json.get(at..).unwrap_or_default()) {
            None => return (kind, json.len()),
            Some(offset) if json.get(at + offset) == Some(&b'"') => return (kind, at + offset),
            Some(offset) => {
                kind = Kind::Escaped;
                at += offset + 2;
            }
        }
    }
}

fn unescape(raw: &[u8], out: &mut Vec<u8>) {
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let (plain, escape) = rest.split_at(at);
        out.extend_from_slice(plain);
        rest = match escape {
            [_, b'u', after @ ..] => unescape_unit(after, out),
            [_, simple, after @ ..] => {
                out.push(match simple {
                    b'b' => 0x08,
                    b'f' => 0x0c,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    other => *other,
                });
                after
            }
            _ => &[],
        };
    }
    out.extend_from_slice(rest);
}

/// Writes the character whose hex digits come next, two units of them where it needs that, and returns what follows.
fn unescape_unit<'a>(digits: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    let Some((unit, mut rest)) = hex(digits) else { return digits };
    let mut code = unit;
    if (0xd800..0xdc00).contains(&unit)
        && let Some((low, after)) = rest.strip_prefix(b"\\u").and_then(hex)
        && (0xdc00..0xe000).contains(&low)
    {
        code = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
        rest = after;
    }
    let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    rest
}

fn hex(text: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = text.split_at_checked(4)?;
    let number = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    Some((number, rest))
}

/// Appends a compact text with an indent of two blanks and `": "` after keys. Strings stay as they are escaped.
pub(super) fn indent(json: &[u8], out: &mut Vec<u8>) {
    let mut depth = 0;
    let mut at = 0;
    while let Some(&byte) = json.get(at) {
        let mut end = at + 1;
        match byte {
            b'"' => {
                end = string(json, end).1 + 1;
                out.extend_from_slice(json.get(at..end).unwrap_or_default());
            }
            b'{' | b'[' if matches!(json.get(end), Some(b'}' | b']')) => {
                end += 1;
                out.extend_from_slice(json.get(at..end).unwrap_or_default());
            }
            b'{' | b'[' => {
                depth += 1;
                out.push(byte);
                line(depth, out);
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                line(depth, out);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(depth, out);
            }
            b':' => out.extend_from_slice(b": "),
            _ => out.push(byte),
        }
        at = end;
    }
}

fn line(depth: usize, out: &mut Vec<u8>) {
    out.push(b'\n');
    out.resize(out.len() + 2 * depth, b' ');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_key_and_strings_are_read() {
        let json = br#"{"a":{"x":[1,{"y":2}],"z":null},"b\u003c":"\ud83d\ude00\n\u00e4\\","c":-1.5e+21}"#;
        let mut tape = Tape::default();
        tape.read(json);
        let (b, c) = (tape.find(json, 0, "b<").unwrap(), tape.find(json, 0, "c").unwrap());
        assert_eq!(tape.node(b).text(json, &mut Vec::new()), "😀\nä\\".as_bytes());
        assert_eq!(tape.node(c).raw(json), b"-1.5e+21");
        let a = tape.find(json, 0, "a").unwrap();
        assert_eq!(tape.node(a).raw(json), br#"{"x":[1,{"y":2}],"z":null}"#);
        assert_eq!(tape.children(tape.find(json, a, "x").unwrap()).count(), 2);
        assert_eq!(tape.find(json, 0, "x"), None);
    }

    #[test]
    fn a_member_is_what_the_tape_finds() {
        let json = br#"{"a":{"x":[1,{"y":"]}"}],"z":null},"b\u003c":"\"}","c":-1.5e+21,"d":[],"e":true}"#;
        let (mut tape, mut scratch) = (Tape::default(), Vec::new());
        tape.read(json);
        for key in ["a", "b<", "c", "d", "e", "x", "y", ""] {
            let want = tape.find(json, 0, key).map(|at| tape.node(at)).map(|node| (node.kind, node.raw(json)));
            assert_eq!(member(json, key, &mut scratch).map(|node| (node.kind, node.raw(json))), want, "{key}");
        }
        assert_eq!(member(b"[1]", "1", &mut scratch).map(|node| node.kind), None);
    }

    #[test]
    fn broken_text_does_no_harm() {
        for json in ["", "{", "[1,", "{\"a", "{\"a\\", "}", "{\"a\"}", "\"\\u12", "\"\\ud800\\u0041\"", "]]"] {
            let mut tape = Tape::default();
            tape.read(json.as_bytes());
            tape.node(0).text(json.as_bytes(), &mut Vec::new());
            tape.children(0).for_each(drop);
            indent(json.as_bytes(), &mut Vec::new());
            member(json.as_bytes(), "b", &mut Vec::new());
        }
        for json in ["{\"a\"", "{\"a\":[", "{\"a\":{\"", "{\"a\":]}", "{\"a\":1,", "{\"a\\"] {
            member(json.as_bytes(), "b", &mut Vec::new());
        }
    }

    #[test]
    fn an_indented_text_keeps_its_strings() {
        let mut out = Vec::new();
        indent(br#"{"a":[1,2],"b":{},"c":[],"d":{"e":"x,\":{y"}}"#, &mut out);
        let expected = "{\n  \"a\": [\n    1,\n    2\n  ],\n  \"b\": {},\n  \"c\": [],\n  \"d\": {\n    \"e\": \"x,\\\":{y\"\n  }\n}";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
