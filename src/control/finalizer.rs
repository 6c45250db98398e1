//! Finalizers of earlier releases.
//!
//! They put one on every target and cluster target, to drop rows that they held in memory. Rows here are gone with the
//! object, so nothing has to wait, and nobody would ever take them off: an object that has one could not be deleted. They
//! are taken off as soon as they are seen. That of inventories is in use ([`super::inventory`]), and other kinds had none.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::Control;
use super::errand::Errand;
use crate::api::v1alpha1::Kind;
use crate::status::Subject;

/// Returns what earlier releases put on objects of a kind, and this one has no use for.
fn unused(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Target => Some("kollect.dev/target-cleanup"),
        Kind::ClusterTarget => Some("kollect.dev/cluster-target-cleanup"),
        _ => None,
    }
}

impl Control {
    /// Takes the finalizer of an earlier release off an object that has it.
    pub(super) fn free(&mut self, subject: Subject, meta: &ObjectMeta) {
        if let Some(patch) = freed(subject.0, meta) {
            self.send(subject, Errand::Merge(patch));
        }
    }
}

/// Returns the patch that takes it off, and leaves those of others. With the version, so that one that somebody else sets
/// at the same moment is not lost.
fn freed(kind: Kind, meta: &ObjectMeta) -> Option<Value> {
    let unused = unused(kind)?;
    let finalizers = meta.finalizers.as_deref().unwrap_or_default();
    let rest: Vec<&String> = finalizers.iter().filter(|finalizer| *finalizer != unused).collect();
    let patch = || json!({"metadata": {"finalizers": rest, "resourceVersion": meta.resource_version}});
    (rest.len() < finalizers.len()).then(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_earlier_releases_left_is_taken_off_and_what_others_set_stays() {
        let of = |kind, finalizers: &[&str]| {
            let finalizers = finalizers.iter().map(|it| (*it).to_owned()).collect();
            let version = Some("7".to_owned());
            freed(
                kind,
                &ObjectMeta { finalizers: Some(finalizers), resource_version: version, ..ObjectMeta::default() },
            )
        };
        let (target, everywhere) = ("kollect.dev/target-cleanup", "kollect.dev/cluster-target-cleanup");
        let left = |rest: &[&str]| Some(json!({"metadata": {"finalizers": rest, "resourceVersion": "7"}}));
        assert_eq!(of(Kind::Target, &["a", target, "b"]), left(&["a", "b"]));
        assert_eq!(of(Kind::ClusterTarget, &[everywhere]), left(&[]));
        for (kind, finalizers) in [
            (Kind::Target, &["a"][..]),
            (Kind::Target, &[everywhere]),
            (Kind::ClusterTarget, &[]),
            // In use, or nobody's.
            (Kind::Inventory, &["kollect.dev/inventory-cleanup"]),
            (Kind::DatabaseSink, &[target]),
        ] {
            assert_eq!(of(kind, finalizers), None, "{kind:?} {finalizers:?}");
        }
    }
}
