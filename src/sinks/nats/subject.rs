//! Subjects: where each message goes, and which filter finds all of them.

use std::fmt;

use crate::export::event::{Header, Stream};

/// A subject, with placeholders or without.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Subject {
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Piece {
    Text(String),
    Cluster,
    Namespace,
    Name,
    TargetName,
    Uid,
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
    /// Reads a subject.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or("has a '{' without '}'; close it")?;
            let known = PLACEHOLDERS.iter().find(|(known, _)| *known == name);
            let (_, piece) = known.ok_or(
                "has an unknown placeholder; there are {cluster}, {namespace}, {name}, {targetName}, {uid} and {kind}",
            )?;
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(piece.clone());
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        pieces.retain(|piece| !matches!(piece, Piece::Text(text) if text.is_empty()));
        let subject = Self { text: text.to_owned(), pieces };
        let plain = subject.fill(|_| "x".to_owned());
        if plain.split('.').any(str::is_empty) {
            return Err("has an empty token; write words with single dots between");
        }
        if plain.contains(|c: char| c.is_whitespace() || c.is_control() || "*>{}".contains(c)) {
            return Err("has a blank, a wildcard or a brace; leave it out");
        }
        if plain.starts_with('$') || plain.starts_with("_INBOX.") {
            return Err("belongs to the server; choose one that does not start with '$' or _INBOX");
        }
        Ok(subject)
    }

    /// Tells whether it has a place for what only one row has.
    pub(super) fn is_of_rows(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::TargetName | Piece::Uid | Piece::Kind))
    }

    /// Returns the subject of a message. What a message about the whole inventory does not have is `_`.
    pub(super) fn of(&self, header: &Header) -> String {
        let Stream { cluster, inventory } = &header.stream;
        let item = header.item.as_ref();
        self.fill(|piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Cluster => token(cluster.as_str()),
            Piece::Namespace => token(inventory.namespace.as_str()),
            Piece::Name => token(inventory.name.as_str()),
            Piece::TargetName => token(item.map_or("", |item| item.key.target.as_str())),
            Piece::Uid => token(&item.map_or(String::new(), |item| item.key.uid.to_string())),
            Piece::Kind => token(item.map_or("", |item| &item.gvk.kind)),
        })
    }

    /// Returns the filter that finds the messages of all inventories.
    pub(super) fn filter(&self) -> String {
        let marked = self.fill(|_| "*".to_owned());
        let tokens = marked.split('.').map(|token| if token.contains('*') { "*" } else { token });
        tokens.collect::<Vec<_>>().join(".")
    }

    fn fill(&self, with: impl Fn(&Piece) -> String) -> String {
        let fill = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            other => with(other),
        };
        self.pieces.iter().map(fill).collect()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Makes a text one token.
fn token(text: &str) -> String {
    let safe = |c: char| if c.is_ascii_graphic() && !".*>".contains(c) { c } else { '_' };
    if text.is_empty() { "_".to_owned() } else { text.chars().map(safe).collect() }
}

/// Tells whether a pattern takes everything that a filter finds.
pub(super) fn covers(pattern: &str, filter: &str) -> bool {
    let mut wanted = filter.split('.');
    for token in pattern.split('.') {
        match (token, wanted.next()) {
            (">", Some(_)) => return true,
            ("*", Some(other)) if other != ">" => {}
            (token, Some(other)) if token == other => {}
            _ => return false,
        }
    }
    wanted.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::event::{ItemHeader, Operation, Owner, Sequence};
    use crate::model::{Cluster, Digest, Gvk, Name, Namespace, ObjectKey, RowKey, Uid};

    fn header(item: Option<ItemHeader>) -> Header {
        let inventory = ObjectKey::new(Namespace::new("team-a"), Name::new("apps.v2"));
        Header {
            stream: Stream { cluster: Cluster::new(""), inventory },
            owner: Owner::default(),
            sequence: Sequence::default(),
            operation: Operation::End,
            digest: Digest::default(),
            rows: 0,
            item,
            set: None,
        }
    }

    #[test]
    fn placeholders_become_one_token_each() {
        let subject = Subject::parse("kollect.{cluster}.{namespace}.x-{name}.{targetName}.{uid}.{kind}").unwrap();
        assert_eq!(subject.of(&header(None)), "kollect._.team-a.x-apps_v2._._._");
        let gvk = Gvk { group: "apps".into(), version: "v1".into(), kind: "Deployment".into() };
        let key = RowKey { target: Name::new("deploys"), uid: Uid::new("a b*c>") };
        let item = ItemHeader { key, namespace: Namespace::new("n"), gvk, there: None };
        assert_eq!(subject.of(&header(Some(item))), "kollect._.team-a.x-apps_v2.deploys.a_b_c_.Deployment");
        assert_eq!(subject.filter(), "kollect.*.*.*.*.*.*");
        assert!(subject.is_of_rows());
        let plain = Subject::parse("kollect.inventory").unwrap();
        assert_eq!((plain.of(&header(None)), plain.filter()), ("kollect.inventory".to_owned(), plain.to_string()));
    }

    #[test]
    fn what_is_no_subject_says_what_to_write() {
        for (text, part) in [
            ("", "has an empty token"),
            ("a..b", "has an empty token"),
            ("a.", "has an empty token"),
            ("a b", "has a blank"),
            ("a.*", "has a blank, a wildcard"),
            ("a.>", "has a blank, a wildcard"),
            ("a.{b}", "has an unknown placeholder"),
            ("a.{uid", "has a '{' without"),
            ("$JS.API", "belongs to the server"),
        ] {
            let error = Subject::parse(text).unwrap_err();
            assert!(error.starts_with(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_pattern_covers_what_it_takes_whole() {
        for (pattern, filter, want) in [
            ("a.b", "a.b", true),
            ("a.*", "a.b", true),
            ("a.>", "a.*.b", true),
            (">", "a", true),
            ("a.b", "a.*", false),
            ("a.*", "a.b.c", false),
            ("a.>", "a", false),
            ("a.b.c", "a.b", false),
        ] {
            assert_eq!(covers(pattern, filter), want, "{pattern} {filter}");
        }
    }
}
