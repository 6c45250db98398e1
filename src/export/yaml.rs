//! Values as YAML, written straight from their canonical JSON text.
//!
//! The style is the one that earlier releases wrote, so that a repository shows no difference that means nothing: block
//! style, two blanks per level, the dashes of a list at the column of its key, no `---`, a line break at the end, `{}`,
//! `[]` and `null` for what is empty, and keys in [natural order](order). How a text is quoted is in [`scalar`]. Two
//! things differ: numbers keep all their digits, and nothing is ever folded, however long the line.

mod order;
mod scalar;

use super::json::{Kind, Tape};

/// Longer keys are written in the form of two lines, `? key` and `: value`. YAML demands that from 1024 characters on.
const MAX_SIMPLE_KEY_BYTES: usize = 128;

/// Writes YAML. Kept between values for its memory.
#[derive(Debug, Default)]
pub(super) struct Yaml {
    tape: Tape,
    /// Keys of the maps that are being written, each map's own at the end.
    keys: Vec<usize>,
    scratch: Vec<u8>,
}

impl Yaml {
    /// Appends a value as a file of its own.
    pub(super) fn write(&mut self, json: &[u8], out: &mut Vec<u8>) {
        self.tape.read(json);
        Pen { tape: &self.tape, keys: &mut self.keys, scratch: &mut self.scratch, json, out }.beside(0, 0);
    }

    /// Appends a value as one entry of a list that is the file.
    pub(super) fn write_entry(&mut self, json: &[u8], out: &mut Vec<u8>) {
        self.tape.read(json);
        out.extend_from_slice(b"- ");
        Pen { tape: &self.tape, keys: &mut self.keys, scratch: &mut self.scratch, json, out }.beside(0, 2);
    }
}

/// Whether the first line of a block has its indent already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    /// It goes on behind a dash.
    Begun,
    /// It starts at the left.
    Fresh,
}

struct Pen<'a> {
    tape: &'a Tape,
    keys: &'a mut Vec<usize>,
    scratch: &'a mut Vec<u8>,
    json: &'a [u8],
    out: &'a mut Vec<u8>,
}

impl Pen<'_> {
    /// Writes a value where the line stands at the column of the value.
    fn beside(&mut self, value: usize, column: usize) {
        match self.tape.node(value).kind {
            Kind::Map if !self.tape.is_empty(value) => self.map(value, column, First::Begun),
            Kind::List if !self.tape.is_empty(value) => self.list(value, column, First::Begun),
            _ => self.scalar(value, column),
        }
    }

    /// Writes the value of a key of a map at this column; the colon is written.
    fn behind_key(&mut self, value: usize, column: usize) {
        let kind = self.tape.node(value).kind;
        if matches!(kind, Kind::Map | Kind::List) && !self.tape.is_empty(value) {
            self.out.push(b'\n');
            if kind == Kind::Map {
                self.map(value, column + 2, First::Fresh);
            } else {
                self.list(value, column, First::Fresh);
            }
        } else {
            self.out.push(b' ');
            self.scalar(value, column + 2);
        }
    }

    fn map(&mut self, map: usize, column: usize, mut first: First) {
        let from = self.keys.len();
        self.keys.extend(self.tape.children(map));
        let (tape, json) = (self.tape, self.json);
        let own = self.keys.get_mut(from..).unwrap_or_default();
        // Most maps are small and in order: canonical text has its keys sorted bytewise.
        if !own.is_sorted_by(|&left, &right| order::compare(tape, json, left, right).is_lt()) {
            own.sort_unstable_by(|&left, &right| order::compare(tape, json, left, right));
        }
        let mut at = from;
        while let Some(&key) = self.keys.get(at) {
            self.start(column, first);
            first = First::Fresh;
            self.entry(key, column);
            at += 1;
        }
        self.keys.truncate(from);
    }

    fn entry(&mut self, key: usize, column: usize) {
        let text = self.tape.node(key).text(self.json, self.scratch);
        if text.len() > MAX_SIMPLE_KEY_BYTES {
            self.out.extend_from_slice(b"? ");
            scalar::write_key(text, self.out);
            self.out.push(b'\n');
            self.start(column, First::Fresh);
            self.out.extend_from_slice(b": ");
            self.beside(key + 1, column + 2);
        } else {
            scalar::write_key(text, self.out);
            self.out.push(b':');
            self.behind_key(key + 1, column);
        }
    }

    fn list(&mut self, list: usize, column: usize, mut first: First) {
        let tape = self.tape;
        for item in tape.children(list) {
            self.start(column, first);
            first = First::Fresh;
            self.out.extend_from_slice(b"- ");
            self.beside(item, column + 2);
        }
    }

    fn start(&mut self, column: usize, first: First) {
        if first == First::Fresh {
            self.out.resize(self.out.len() + column, b' ');
        }
    }

    /// Writes what has no children, and the line break after it. Lines of a longer text start at the column.
    fn scalar(&mut self, value: usize, column: usize) {
        let node = self.tape.node(value);
        match node.kind {
            Kind::Map => self.out.extend_from_slice(b"{}"),
            Kind::List => self.out.extend_from_slice(b"[]"),
            Kind::Plain => self.out.extend_from_slice(node.raw(self.json)),
            Kind::Text | Kind::Escaped => {
                let text = node.text(self.json, self.scratch);
                if scalar::write_value(text, column, self.out) == scalar::Line::Ended {
                    return;
                }
            }
        }
        self.out.push(b'\n');
    }
}

#[cfg(test)]
mod tests;
