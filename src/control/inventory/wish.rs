//! Annotations by which a person asks for something once: each new value acts once.

use std::collections::BTreeSet;

use crate::control::shelf::Object;

/// Asks for an audit of every sink of the inventory.
pub(super) const AUDIT_NOW: &str = "kollect.dev/audit-now";
/// Asks for the delivery of what waits.
pub(super) const EXPORT_NOW: &str = "kollect.dev/export-now";

/// The values that one annotation of an object has had.
#[derive(Debug, Default)]
pub(super) struct Wish {
    seen: Option<BTreeSet<String>>,
}

impl Wish {
    /// Looks at the annotation; tells whether it asks for something new. What was there when the object was first seen
    /// does not: it may be older than what it would act on, and a start of the process looks at everything anyway.
    pub(super) fn take<S>(&mut self, object: &Object<S>, annotation: &str) -> bool {
        let value = object.meta.annotations.as_ref().and_then(|all| all.get(annotation));
        self.take_value(value.map(|value| value.trim()).filter(|value| !value.is_empty()))
    }

    fn take_value(&mut self, value: Option<&str>) -> bool {
        let first = self.seen.is_none();
        let seen = self.seen.get_or_insert_default();
        value.is_some_and(|value| seen.insert(value.to_owned())) && !first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_new_value_asks_once() {
        let mut wish = Wish::default();
        let asked: Vec<bool> = [Some("old"), Some("old"), None, Some("new"), Some("new"), Some("old"), Some("newer")]
            .into_iter()
            .map(|value| wish.take_value(value))
            .collect();
        assert_eq!(asked, [false, false, false, true, false, false, true]);
        let mut bare = Wish::default();
        assert!(!bare.take_value(None));
        assert!(bare.take_value(Some("first")));
    }
}
