//! Annotations by which a person asks for something once: each new value acts once.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};

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

/// Returns when an annotation was written, to the second, as far as the API server has it on record.
pub(super) fn written_at(meta: &ObjectMeta, annotation: &str) -> Option<Timestamp> {
    let field = format!("f:{annotation}");
    let has_it = |entry: &&ManagedFieldsEntry| {
        let annotations = entry.fields_v1.as_ref().and_then(|fields| fields.0.pointer("/f:metadata/f:annotations"));
        annotations.is_some_and(|annotations| annotations.get(&field).is_some())
    };
    let entries = meta.managed_fields.iter().flatten().filter(has_it);
    entries.filter_map(|entry| entry.time.as_ref()).map(|time| time.0).max()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_annotation_is_as_old_as_the_last_one_who_wrote_it_says() {
        let entry = |time: &str, annotation: &str| {
            let fields = json!({"f:metadata": {"f:annotations": {".": {}, annotation: {}}}});
            json!({"manager": "m", "operation": "Update", "time": time, "fieldsV1": fields})
        };
        let meta: ObjectMeta = serde_json::from_value(json!({"managedFields": [
            entry("2026-01-01T00:00:01Z", "f:kollect.dev/export-now"),
            entry("2026-01-01T00:00:03Z", "f:kollect.dev/export-now"),
            entry("2026-01-01T00:00:02Z", "f:kollect.dev/export-now"),
            entry("2026-01-01T00:00:09Z", "f:kollect.dev/audit-now"),
        ]}))
        .unwrap();
        let written = |annotation| written_at(&meta, annotation).map(|time| time.to_string());
        assert_eq!(written(EXPORT_NOW).as_deref(), Some("2026-01-01T00:00:03Z"));
        assert_eq!(written("kollect.dev/other"), None);
        assert_eq!(written_at(&ObjectMeta::default(), EXPORT_NOW), None);
    }

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
