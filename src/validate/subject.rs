//! Subjects of NATS: words with dots between, and placeholders in them.

use std::fmt;

use crate::api::v1alpha1::sink::StreamMode;

/// A subject, with placeholders or without.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    text: String,
    pieces: Vec<Piece>,
}

/// What a subject is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Piece {
    /// Itself.
    Text(String),
    /// `spec.cluster` of the sink.
    Cluster,
    /// Namespace of the inventory.
    Namespace,
    /// Name of the inventory.
    Name,
    /// Target of the row.
    TargetName,
    /// UID of the collected object.
    Uid,
    /// Kind of the collected object.
    Kind,
}

/// Placeholders, and what stands for them.
const PLACEHOLDERS: [(&str, Piece); 6] = [
    ("cluster", Piece::Cluster),
    ("namespace", Piece::Namespace),
    ("name", Piece::Name),
    ("targetName", Piece::TargetName),
    ("uid", Piece::Uid),
    ("kind", Piece::Kind),
];

impl Subject {
    /// Reads a subject. Whether a server takes it is seen there.
    ///
    /// # Errors
    /// What is wrong with it, and what to write.
    pub fn parse(text: &str, mode: StreamMode) -> Result<Self, String> {
        if text.is_empty() {
            return Err("is blank; write a subject such as kollect.inventory".to_owned());
        }
        let subject = Self { text: text.to_owned(), pieces: pieces(text)? };
        let plain = subject.fill(|_| "x".to_owned());
        let wrong = if plain.split('.').any(str::is_empty) {
            "has an empty token; write words with single dots between"
        } else if plain.contains(|c: char| c.is_whitespace() || c.is_control() || "*>{}".contains(c)) {
            "has a blank, a wildcard or a brace; leave it out"
        } else if plain.starts_with('$') || plain.starts_with("_INBOX.") {
            "belongs to the server; choose one that does not start with '$' or _INBOX"
        } else if mode == StreamMode::Snapshot && subject.is_of_rows() {
            "has a placeholder of a single row, and mode Snapshot sends all of them in one; leave it out"
        } else {
            return Ok(subject);
        };
        Err(wrong.to_owned())
    }

    /// Tells whether it has a place for what only one row has.
    fn is_of_rows(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::TargetName | Piece::Uid | Piece::Kind))
    }

    /// Returns the filter that finds the messages of all inventories.
    pub fn filter(&self) -> String {
        let marked = self.fill(|_| "*".to_owned());
        let tokens = marked.split('.').map(|token| if token.contains('*') { "*" } else { token });
        tokens.collect::<Vec<_>>().join(".")
    }

    /// Returns the text with something in place of each placeholder.
    pub fn fill(&self, with: impl Fn(&Piece) -> String) -> String {
        let mut filled = String::with_capacity(self.text.len());
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => filled.push_str(text),
                other => filled.push_str(&with(other)),
            }
        }
        filled
    }
}

/// Cuts a text at its placeholders.
fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or("has a '{' without '}'; close it")?;
        let known = PLACEHOLDERS.iter().find(|(known, _)| *known == name);
        let (_, piece) = known.ok_or_else(|| unknown(name))?;
        pieces.extend([Piece::Text(before.to_owned()), piece.clone()]);
        rest = after;
    }
    pieces.push(Piece::Text(rest.to_owned()));
    Ok(pieces)
}

fn unknown(name: &str) -> String {
    let all: Vec<String> = PLACEHOLDERS.iter().map(|(name, _)| format!("{{{name}}}")).collect();
    format!("has unknown {{{name}}}; use {}", all.join(", "))
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_finds_whatever_stands_for_the_placeholders() {
        for (text, filter) in [
            ("kollect.inventory", "kollect.inventory"),
            ("kollect.{cluster}.x-{name}.{kind}", "kollect.*.*.*"),
            ("{namespace}", "*"),
        ] {
            let subject = Subject::parse(text, StreamMode::Changes).unwrap();
            assert_eq!((subject.filter().as_str(), subject.to_string().as_str()), (filter, text));
        }
    }

    #[test]
    fn what_is_no_subject_says_what_to_write() {
        for (text, part) in [
            ("", "is blank; write"),
            ("a..b", "has an empty token"),
            ("a.", "has an empty token"),
            ("a b", "has a blank"),
            ("a.*", "has a blank, a wildcard"),
            ("a.>", "has a blank, a wildcard"),
            ("a.}", "has a blank, a wildcard or a brace"),
            ("a.{b}", "has unknown {b}; use {cluster}, {namespace}, {name}, {targetName}, {uid}, {kind}"),
            ("a.{uid", "has a '{' without"),
            ("$JS.API", "belongs to the server"),
            ("_INBOX.a", "belongs to the server"),
        ] {
            let error = Subject::parse(text, StreamMode::Changes).unwrap_err();
            assert!(error.starts_with(part), "{text}: {error}");
        }
        for text in ["a.{targetName}", "a.{uid}", "a.{kind}"] {
            assert!(Subject::parse(text, StreamMode::Changes).is_ok(), "{text}");
            let error = Subject::parse(text, StreamMode::Snapshot).unwrap_err();
            assert!(error.starts_with("has a placeholder of a single row"), "{text}: {error}");
        }
    }
}
