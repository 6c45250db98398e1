//! Subjects: where each message goes, and which patterns of a stream take it.

use crate::export::event::{Header, Stream};
use crate::validate::{Piece, Subject};

/// Returns the subject of a message. What a message about the whole inventory does not have is `_`.
pub(super) fn subject_of(subject: &Subject, header: &Header) -> String {
    let Stream { cluster, inventory } = &header.stream;
    let item = header.item.as_ref();
    subject.fill(|piece| match piece {
        Piece::Text(text) => text.clone(),
        Piece::Cluster => token(cluster.as_str()),
        Piece::Namespace => token(inventory.namespace.as_str()),
        Piece::Name => token(inventory.name.as_str()),
        Piece::TargetName => token(item.map_or("", |item| item.key.target.as_str())),
        Piece::Uid => token(&item.map_or(String::new(), |item| item.key.uid.to_string())),
        Piece::Kind => token(item.map_or("", |item| &item.gvk.kind)),
    })
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
    use crate::api::v1alpha1::sink::StreamMode;
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
        let text = "kollect.{cluster}.{namespace}.x-{name}.{targetName}.{uid}.{kind}";
        let subject = Subject::parse(text, StreamMode::Changes).unwrap();
        assert_eq!(subject_of(&subject, &header(None)), "kollect._.team-a.x-apps_v2._._._");
        let gvk = Gvk { group: "apps".into(), version: "v1".into(), kind: "Deployment".into() };
        let key = RowKey { target: Name::new("deploys"), uid: Uid::new("a b*c>") };
        let item = ItemHeader { key, namespace: Namespace::new("n"), gvk, there: None };
        assert_eq!(subject_of(&subject, &header(Some(item))), "kollect._.team-a.x-apps_v2.deploys.a_b_c_.Deployment");
        let plain = Subject::parse("kollect.inventory", StreamMode::Snapshot).unwrap();
        assert_eq!(subject_of(&plain, &header(None)), "kollect.inventory");
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
