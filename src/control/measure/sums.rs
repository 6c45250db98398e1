//! Adding up the rows of a target.
//!
//! The text of a row is read as it is encoded; nothing is decoded but the values that count. What is kept of a target is
//! as small as what is shown of it: of the tuples of a label set, the first in their order and a count of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use memchr::memchr_iter;
use tokio_util::sync::CancellationToken;

use super::wanted::{Named, Wanted};
use crate::export::json::{Kind, Tape};
use crate::metrics::OBJECT_COUNT;
use crate::model::Seq;
use crate::store::Target;

/// A longer value of a label is cut there.
const LABEL_BYTES: usize = 256;
/// So many tuples beyond the cap are told apart; there may be as many as rows.
const MAX_BEYOND: usize = 1_000;
/// What a tuple takes beside its text: a place in a tree that is two thirds full, and the rounding of its allocation.
pub(super) const TUPLE_BYTES: usize = 64;
/// What a tuple beyond the cap takes.
const BEYOND_BYTES: usize = 16;

/// Bytes that tuples may still take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room(pub(super) usize);

impl Room {
    fn take(&mut self, bytes: usize) -> bool {
        let left = self.0.checked_sub(bytes);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }

    fn give(&mut self, bytes: usize) {
        self.0 = self.0.saturating_add(bytes);
    }
}

/// The rows of one target, added up.
#[derive(Debug)]
pub(super) struct Partial {
    /// The last change that is in it.
    pub(super) changed: Seq,
    pub(super) sums: Sums,
    /// What its tuples take.
    pub(super) bytes: usize,
}

/// Sums by name of the series.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pub(super) plain: BTreeMap<Arc<str>, f64>,
    pub(super) labeled: BTreeMap<Arc<str>, Tuples>,
}

/// Sums by label tuple, `<name>=<value>` and a zero byte for each label.
#[derive(Debug, Default)]
pub(super) struct Tuples {
    pub(super) sums: BTreeMap<Box<str>, f64>,
    /// Hashes of tuples that have no sum.
    beyond: BTreeSet<u64>,
    /// There was no room for one: what comes now may have been left out before.
    closed: bool,
}

impl Tuples {
    /// Returns how many tuples were left out, as far as they are told apart.
    pub(super) fn left_out(&self) -> usize {
        self.beyond.len()
    }

    /// Adds to a tuple, and keeps the first `cap` of them.
    ///
    /// A tuple that was left out never comes back, since those before it only become more: what is kept is complete. For
    /// the same reason the first tuples over several targets are among the first of each.
    fn add(&mut self, tuple: &str, value: f64, cap: usize, room: &mut Room) {
        if let Some(sum) = self.sums.get_mut(tuple) {
            *sum += value;
            return;
        }
        let late = self.sums.len() >= cap && self.sums.last_key_value().is_some_and(|(last, _)| **last < *tuple);
        if late || self.closed {
            return self.leave_out(tuple, room);
        }
        if self.sums.len() >= cap
            && let Some((last, _)) = self.sums.pop_last()
        {
            room.give(TUPLE_BYTES + last.len());
            self.leave_out(&last, room);
        }
        if room.take(TUPLE_BYTES + tuple.len()) {
            self.sums.insert(tuple.into(), value);
        } else {
            self.closed = true;
            self.leave_out(tuple, room);
        }
    }

    fn leave_out(&mut self, tuple: &str, room: &mut Room) {
        let mut hasher = DefaultHasher::new();
        tuple.hash(&mut hasher);
        // That there is one shows in any case.
        if self.beyond.is_empty() || (self.beyond.len() < MAX_BEYOND && room.take(BEYOND_BYTES)) {
            self.beyond.insert(hasher.finish());
        }
    }
}

impl Sums {
    /// Adds what another target of the profile has.
    pub(super) fn merge(&mut self, other: &Self, cap: usize) {
        for (series, sum) in &other.plain {
            *self.plain.entry(series.clone()).or_default() += sum;
        }
        for (series, theirs) in &other.labeled {
            let ours = self.labeled.entry(series.clone()).or_default();
            for (tuple, sum) in &theirs.sums {
                ours.add(tuple, *sum, cap, &mut Room(usize::MAX));
            }
            let free = MAX_BEYOND.saturating_sub(ours.beyond.len());
            ours.beyond.extend(theirs.beyond.iter().take(free));
        }
    }
}

/// Adds up the rows of a target; `previous` is what came of it last time, by the same `wanted`. Returns `None` when
/// `stop` was cancelled or the target was removed meanwhile.
pub(super) fn add_up(
    target: &Target,
    wanted: &Wanted,
    previous: Option<&Partial>,
    cap: usize,
    mut room: Room,
    stop: &CancellationToken,
) -> Option<Partial> {
    let space = room.0;
    // Before the first step: what changes from now on shows as a change.
    let changed = target.changed()?;
    let mut adder = Adder::new(wanted);
    // While no row has a number, only a row that changed can have got one. A profile of texts alone costs a look at the
    // position of each row, and at the text of those that changed.
    let numberless = previous.filter(|previous| *wanted == Wanted::Numbers && previous.sums.plain.is_empty());
    if let Some(previous) = numberless {
        adder.walk(target, previous.changed, cap, &mut room, stop)?;
        if adder.sums.plain.is_empty() {
            return Some(Partial { changed, sums: adder.sums, bytes: 0 });
        }
        adder = Adder::new(wanted);
    }
    adder.walk(target, Seq::default(), cap, &mut room, stop)?;
    Some(Partial { changed, sums: adder.sums, bytes: space.saturating_sub(room.0) })
}

/// Reads rows. Kept between them for its memory.
struct Adder<'a> {
    wanted: &'a Wanted,
    sums: Sums,
    tape: Tape,
    /// Where the wanted attributes of the row are.
    found: Vec<Option<usize>>,
    scratch: Vec<u8>,
    tuple: String,
}

impl<'a> Adder<'a> {
    fn new(wanted: &'a Wanted) -> Self {
        let mut sums = Sums::default();
        if let Wanted::Named(named) = wanted {
            for metric in &named.metrics {
                if metric.labels.is_empty() {
                    sums.plain.insert(metric.series.clone(), 0.0);
                } else {
                    sums.labeled.insert(metric.series.clone(), Tuples::default());
                }
            }
        }
        Self { wanted, sums, tape: Tape::default(), found: Vec::new(), scratch: Vec::new(), tuple: String::new() }
    }

    /// Adds the rows that changed after `since`. Returns `None` when `stop` was cancelled on the way.
    fn walk(
        &mut self,
        target: &Target,
        since: Seq,
        cap: usize,
        room: &mut Room,
        stop: &CancellationToken,
    ) -> Option<()> {
        for step in target.walk(since) {
            for body in &step {
                self.add(body.attributes(), cap, room);
            }
            if stop.is_cancelled() {
                return None;
            }
        }
        Some(())
    }

    /// Adds the attributes of a row.
    fn add(&mut self, json: &[u8], cap: usize, room: &mut Room) {
        match self.wanted {
            Wanted::Numbers if !may_have_number(json) => {}
            Wanted::Numbers => self.add_numbers(json),
            Wanted::Named(named) => self.add_named(named, json, cap, room),
        }
    }

    fn add_numbers(&mut self, json: &[u8]) {
        self.tape.read(json);
        for key in self.tape.children(0) {
            let Some(number) = number(&self.tape, json, key + 1) else { continue };
            let name = self.tape.node(key).text(json, &mut self.scratch);
            let Ok(name) = std::str::from_utf8(name) else { continue };
            // The number of rows has that name, and is there in any case.
            if name == OBJECT_COUNT {
                continue;
            }
            match self.sums.plain.get_mut(name) {
                Some(sum) => *sum += number,
                None => {
                    self.sums.plain.insert(name.into(), number);
                }
            }
        }
    }

    fn add_named(&mut self, named: &Named, json: &[u8], cap: usize, room: &mut Room) {
        self.tape.read(json);
        self.find(&named.attributes, json);
        for metric in &named.metrics {
            let value = self.found.get(metric.number).copied().flatten();
            let Some(number) = value.and_then(|value| number(&self.tape, json, value)) else { continue };
            if metric.labels.is_empty() {
                if let Some(sum) = self.sums.plain.get_mut(&metric.series) {
                    *sum += number;
                }
                continue;
            }
            self.tuple.clear();
            for (name, attribute) in &metric.labels {
                self.tuple.push_str(name);
                self.tuple.push('=');
                if let Some(value) = self.found.get(*attribute).copied().flatten() {
                    let text = label(&self.tape, json, value, &mut self.scratch);
                    self.tuple.extend(text.split('\0')); // no row has one
                }
                self.tuple.push('\0');
            }
            if let Some(tuples) = self.sums.labeled.get_mut(&metric.series) {
                tuples.add(&self.tuple, number, cap, room);
            }
        }
    }

    /// Finds the values of these attributes in one pass: names and keys are in the same order.
    fn find(&mut self, attributes: &[Box<str>], json: &[u8]) {
        self.found.clear();
        let mut keys = self.tape.children(0).peekable();
        for attribute in attributes {
            let mut found = None;
            while let Some(&key) = keys.peek() {
                match self.tape.node(key).text(json, &mut self.scratch).cmp(attribute.as_bytes()) {
                    std::cmp::Ordering::Greater => break,
                    std::cmp::Ordering::Equal => found = Some(key + 1),
                    std::cmp::Ordering::Less => {}
                }
                keys.next();
            }
            self.found.push(found);
        }
    }
}

/// Tells, by a look at what follows the colons, whether an attribute can be a number: a row without one is not read.
fn may_have_number(json: &[u8]) -> bool {
    memchr_iter(b':', json).any(|at| {
        let (before, after) = json.split_at(at);
        before.ends_with(b"\"")
            && matches!(after, [_, b'0'..=b'9' | b'-', ..] | [_, b'"', b'0'..=b'9' | b'+' | b'-' | b'.', ..])
    })
}

/// Returns the value of a number, or of a text that is one. A truth value is none.
fn number(tape: &Tape, json: &[u8], value: usize) -> Option<f64> {
    let node = tape.node(value);
    if !matches!(node.kind, Kind::Plain | Kind::Text) {
        return None;
    }
    let text = std::str::from_utf8(node.raw(json)).ok()?;
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// Returns a value as the text of a label: null is empty, a list or a map is its JSON.
fn label<'a>(tape: &Tape, json: &'a [u8], value: usize, scratch: &'a mut Vec<u8>) -> &'a str {
    let node = tape.node(value);
    let text = std::str::from_utf8(node.text(json, scratch)).unwrap_or_default();
    if node.kind == Kind::Plain && text == "null" {
        return "";
    }
    text.split_at(text.floor_char_boundary(LABEL_BYTES)).0
}
