//! A JSON value that borrows from the text it was read from.

use std::borrow::Cow;

/// One JSON value. Text without escapes is a slice of the object it came from.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value<'a> {
    /// `null`.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number that fits 64 bits with a sign.
    Int(i64),
    /// A whole number above `i64::MAX`.
    UInt(u64),
    /// Any other number; finite.
    Float(f64),
    /// Text.
    Str(Cow<'a, str>),
    /// A list.
    List(Vec<Value<'a>>),
    /// An object.
    Map(Map<'a>),
}

impl<'a> Value<'a> {
    /// Returns the entry of a map; `None` when there is none, or this is no map.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        match self {
            Self::Map(map) => map.get(key),
            _ => None,
        }
    }

    /// Returns the text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }

    /// Tells whether this is JSON `null`.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Str(Cow::Borrowed(text))
    }
}

/// The entries of an object, sorted bytewise by key, each key once.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Map<'a> {
    // INVARIANT: sorted by key, no key twice; every lookup and the encoder rely on it.
    entries: Vec<(Cow<'a, str>, Value<'a>)>,
}

impl<'a> Map<'a> {
    /// Takes entries in any order; of two with one key the later wins, as in every JSON reader.
    pub fn new(mut entries: Vec<(Cow<'a, str>, Value<'a>)>) -> Self {
        if !entries.is_sorted_by(|(left, _), (right, _)| left < right) {
            entries.sort_by(|(left, _), (right, _)| left.cmp(right)); // stable: equal keys stay in order of appearance
            entries.dedup_by(|later, earlier| {
                let same = later.0 == earlier.0;
                if same {
                    std::mem::swap(later, earlier);
                }
                same
            });
        }
        Self { entries }
    }

    /// Returns the value at a key.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        // Projected maps hold a handful of entries; a comparison of lengths settles most of those.
        if self.entries.len() <= 8 {
            return self.entries.iter().find(|(known, _)| known == key).map(|(_, value)| value);
        }
        let index = self.entries.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        self.entries.get(index).map(|(_, value)| value)
    }

    /// Iterates in the order of the keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value<'a>)> {
        self.entries.iter().map(|(key, value)| (&**key, value))
    }

    /// Makes a map of the same keys, less those for which there is no value.
    #[must_use]
    pub fn filter_map(&self, mut value: impl FnMut(&str, &Value<'a>) -> Option<Value<'a>>) -> Self {
        let entries = self.entries.iter().filter_map(|(key, item)| Some((key.clone(), value(key, item)?)));
        Self { entries: entries.collect() }
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Tells whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl<'a> IntoIterator for Map<'a> {
    type Item = (Cow<'a, str>, Value<'a>);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl<'a> FromIterator<(Cow<'a, str>, Value<'a>)> for Map<'a> {
    fn from_iter<T: IntoIterator<Item = (Cow<'a, str>, Value<'a>)>>(entries: T) -> Self {
        Self::new(entries.into_iter().collect())
    }
}
