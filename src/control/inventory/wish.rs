//! Annotations by which a person asks for something once: each new value acts once.

use crate::control::shelf::Object;

/// Asks for an audit of every sink of the inventory.
pub(super) const AUDIT_NOW: &str = "kollect.dev/audit-now";
/// Asks for the delivery of what waits.
pub(super) const EXPORT_NOW: &str = "kollect.dev/export-now";

/// What an annotation asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Nothing, or what was done before.
    Nothing,
    /// Something that was written before the object was first seen: while nobody looked, or long ago.
    AtFirstSight,
    /// Something since then.
    Since,
}

/// The value that one annotation of an object had when it was last looked at.
#[derive(Debug, Default)]
pub(super) struct Wish {
    looked_at: bool,
    value: Option<String>,
}

impl Wish {
    /// Looks at the annotation, and takes what it asks for.
    pub(super) fn take<S>(&mut self, object: &Object<S>, annotation: &str) -> Asked {
        let value = object.meta.annotations.as_ref().and_then(|all| all.get(annotation));
        self.take_value(value.map(|value| value.trim()).filter(|value| !value.is_empty()))
    }

    fn take_value(&mut self, value: Option<&str>) -> Asked {
        let looked_at = std::mem::replace(&mut self.looked_at, true);
        let before = std::mem::replace(&mut self.value, value.map(str::to_owned));
        match value {
            None => Asked::Nothing,
            Some(_) if !looked_at => Asked::AtFirstSight,
            Some(_) if self.value == before => Asked::Nothing,
            Some(_) => Asked::Since,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_new_value_asks_once() {
        let mut wish = Wish::default();
        for (value, asked) in [
            (Some("old"), Asked::AtFirstSight),
            (Some("old"), Asked::Nothing),
            (None, Asked::Nothing),
            (Some("new"), Asked::Since),
            (Some("new"), Asked::Nothing),
            (Some("newer"), Asked::Since),
        ] {
            assert_eq!(wish.take_value(value), asked, "{value:?}");
        }
        let mut bare = Wish::default();
        assert_eq!(bare.take_value(None), Asked::Nothing);
        assert_eq!(bare.take_value(Some("first")), Asked::Since);
    }
}
