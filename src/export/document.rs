//! An inventory as a whole: what a sink is given that takes nothing less.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use super::{Scope, Standing};
use crate::model::{Row, Uid};

/// An inventory as a whole. The rows are shared with the store, not copied.
#[derive(Debug, Clone)]
pub struct Document {
    /// Whose rows.
    pub scope: Arc<Scope>,
    /// All known rows in [canonical order](canonical_order).
    pub rows: Arc<[Row]>,
    /// Where the sink stands afterwards.
    pub standing: Standing,
    /// Limit of one part in bytes.
    pub max_part_bytes: u64,
    /// When the rows were read from the store.
    pub exported_at: Timestamp,
}

/// Compares two rows by their place in a document: bytewise by target, namespace, name, uid and kind.
pub fn canonical_order(one: &Row, other: &Row) -> Ordering {
    // Field by field is the same as joined with NUL, for no name has a byte below it.
    let (target, kind) = (&one.origin.target, &one.origin.gvk);
    let (other_target, other_kind) = (&other.origin.target, &other.origin.gvk);
    target
        .cmp(other_target)
        .then_with(|| one.namespace.cmp(&other.namespace))
        .then_with(|| one.body.name().cmp(other.body.name()))
        .then_with(|| by_text(&one.uid, &other.uid))
        .then_with(|| kind.cmp(other_kind))
}

/// Compares two UIDs as texts.
fn by_text(one: &Uid, other: &Uid) -> Ordering {
    match (one, other) {
        // The bytes of a UUID are in the order of its digits.
        (Uid::Uuid(one), Uid::Uuid(other)) => one.cmp(other),
        (Uid::Other(one), Uid::Other(other)) => one.cmp(other),
        (uuid @ Uid::Uuid(_), Uid::Other(text)) => compare_shown(uuid, text),
        (Uid::Other(text), uuid @ Uid::Uuid(_)) => compare_shown(uuid, text).reverse(),
    }
}

/// Compares what is shown of a value with a text, without writing it down.
fn compare_shown(shown: &impl fmt::Display, text: &str) -> Ordering {
    struct Beside<'t> {
        rest: &'t [u8],
        order: Ordering,
    }
    impl fmt::Write for Beside<'_> {
        fn write_str(&mut self, piece: &str) -> fmt::Result {
            if self.order.is_eq() {
                let (here, rest) = self.rest.split_at(piece.len().min(self.rest.len()));
                self.order = piece.as_bytes().cmp(here);
                self.rest = rest;
            }
            Ok(())
        }
    }
    let mut beside = Beside { rest: text.as_bytes(), order: Ordering::Equal };
    let _ = fmt::write(&mut beside, format_args!("{shown}")); // it takes everything
    beside.order.then_with(|| if beside.rest.is_empty() { Ordering::Equal } else { Ordering::Less })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Body, Gvk, Name, Namespace, ObjectKey, Origin};

    fn row(fields: &[String; 8]) -> Row {
        let [target_namespace, target_name, namespace, name, uid, group, version, kind] = fields;
        let gvk = Gvk { group: group.as_str().into(), version: version.as_str().into(), kind: kind.as_str().into() };
        let target = ObjectKey::new(Namespace::new(target_namespace.as_str()), Name::new(target_name.as_str()));
        Row {
            origin: Arc::new(Origin { target, gvk }),
            uid: Uid::new(uid),
            namespace: Namespace::new(namespace.as_str()),
            body: Body::new(name, b"{}").unwrap(),
        }
    }

    fn uid() -> impl Strategy<Value = String> {
        prop_oneof![
            "[0-1]{8}-0000-4000-8000-00000000000[a-f]",
            "[0-1]{0,9}(-0000)?",
            "[0-1]{8}-0000-4000-8000-[a-f]{0,14}"
        ]
    }

    fn fields() -> impl Strategy<Value = [String; 8]> {
        let name = || "[a-c.-]{0,2}";
        (name(), name(), name(), name(), uid(), name(), name(), name())
            .prop_map(|(a, b, c, d, e, f, g, h)| [a, b, c, d, e, f, g, h])
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_the_fields_joined_with_nul(one in fields(), other in fields()) {
            prop_assert_eq!(canonical_order(&row(&one), &row(&other)), one.join("\0").cmp(&other.join("\0")));
        }

        #[test]
        fn uids_are_compared_as_texts(one in uid(), other in uid()) {
            prop_assert_eq!(by_text(&Uid::new(&one), &Uid::new(&other)), one.cmp(&other));
        }
    }
}
