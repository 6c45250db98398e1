//! What is refused when it is written: the verdict on one object of ours, before it is stored.
//!
//! A review is pure. It takes the object as the API server has it, what it was before, and the few facts about other objects
//! that [`needs`] asked for; it answers with [`Decision`]. The rules themselves are those of [`crate::validate`], of the
//! compiler of expressions and of the guard, so that what is refused here is what a controller would complain about: the
//! controllers repeat every check, and nothing depends on a webhook that answers.
//!
//! What a webhook must never do: stop a deletion, or refuse a right manifest because another one of the same directory is
//! not there yet. So an object that is being deleted passes, as does an update that changes neither the spec nor the
//! annotations, and a profile that does not exist is nobody's mistake.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::v1alpha1::{
    Kind, KollectClusterInventorySpec, KollectClusterScopeSpec, KollectClusterTargetSpec, KollectConnectionTestSpec,
    KollectDatabaseSinkSpec, KollectEventSinkSpec, KollectInventorySpec, KollectProfileSpec, KollectScopeSpec,
    KollectSnapshotSinkSpec, KollectTargetSpec,
};
use crate::config::Permission;
use crate::model::{Gvk, Name, Namespace, ObjectKey};
use crate::sinks::netguard::Guard;
use crate::validate::scope::{Ceiling, ClusterCeiling};
use crate::validate::{FieldErrors, Stage};

mod rules;

/// The settings of the operator that decide with.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The ceiling of `maxExportBytes`.
    pub max_export_bytes: u64,
    /// Which addresses sinks may reach.
    pub guard: Guard,
    /// Whether the kinds without a namespace are served: not in tenant mode.
    pub cluster_kinds: Permission,
}

/// The verdict on an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may be stored; what is worth knowing is shown to whoever wrote it.
    Allowed(Vec<String>),
    /// It may not, and why.
    Refused(String),
}

/// An object and what it was.
#[derive(Debug, Clone, Copy)]
pub struct Review<'a> {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace, empty for kinds without, and its name, empty when the API server is to choose one.
    pub key: &'a ObjectKey,
    /// The object.
    pub object: &'a Value,
    /// What it was, when it is changed.
    pub old: Option<&'a Value>,
}

impl Review<'_> {
    /// Tells whether there is nothing to decide: it is about to go, or nothing that counts has changed.
    fn is_settled(&self) -> bool {
        if !self.object["metadata"]["deletionTimestamp"].is_null() {
            return true;
        }
        self.old.is_some_and(|old| {
            let annotations = |object: &Value| object["metadata"]["annotations"].clone();
            old["spec"] == self.object["spec"] && annotations(old) == annotations(self.object)
        })
    }

    fn spec<S: DeserializeOwned>(&self) -> Result<S, String> {
        let spec = self.object.get("spec").cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        serde_path_to_error::deserialize(spec)
            .map_err(|error| format!("spec.{}: {}; correct the field", error.path(), error.inner()))
    }
}

/// What a review has to know of other objects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// The namespace whose scope limits the object.
    pub scope: Option<Namespace>,
    /// Whether the scope of the cluster does.
    pub cluster_scope: bool,
    /// The profile whose kind a scope may not allow.
    pub profile: Option<ObjectKey>,
}

/// What was found out of that; without a scope nothing is limited.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The limits of the namespace.
    pub ceiling: Ceiling,
    /// The limits of the cluster.
    pub cluster: ClusterCeiling,
    /// The kind of the profile, if there is such a profile.
    pub profile: Option<Gvk>,
}

/// Says what has to be looked up for a review.
pub fn needs(review: &Review<'_>, settings: &Settings) -> Needs {
    // A kind that is refused whatever there is takes no right to look.
    let of_all = matches!(review.kind, Kind::ClusterTarget | Kind::ClusterInventory);
    if review.is_settled() || (of_all && settings.cluster_kinds == Permission::Denied) {
        return Needs::default();
    }
    let spec = &review.object["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().trim().to_owned();
    let here = &review.key.namespace;
    // The kinds of rules stand for themselves.
    let by_rules = spec["resourceRules"].as_array().is_some_and(|rules| !rules.is_empty());
    let profile = |namespace: Namespace, name: String| {
        let named = !name.is_empty() && !namespace.is_empty() && !by_rules;
        named.then(|| ObjectKey::new(namespace, Name::new(name)))
    };
    match review.kind {
        Kind::Target => Needs {
            scope: Some(here.clone()),
            profile: profile(here.clone(), text(&spec["profileRef"])),
            ..Needs::default()
        },
        Kind::ClusterTarget => {
            let of = &spec["profileRef"];
            let profile = profile(Namespace::new(text(&of["namespace"])), text(&of["name"]));
            Needs { cluster_scope: true, profile, ..Needs::default() }
        }
        Kind::Inventory | Kind::SnapshotSink | Kind::DatabaseSink | Kind::EventSink => {
            Needs { scope: Some(here.clone()), ..Needs::default() }
        }
        Kind::ClusterInventory => {
            let named = KollectClusterInventorySpec {
                sink_namespace: text(&spec["sinkNamespace"]),
                ..KollectClusterInventorySpec::default()
            };
            Needs { scope: Some(Namespace::new(named.home_of_sinks())), cluster_scope: true, ..Needs::default() }
        }
        Kind::Profile | Kind::Scope | Kind::ClusterScope | Kind::ConnectionTest => Needs::default(),
    }
}

/// Decides on an object. Compiles its expressions, which may take milliseconds.
pub fn review(review: &Review<'_>, settings: &Settings, around: &Surroundings) -> Decision {
    if review.is_settled() {
        return Decision::Allowed(Vec::new());
    }
    let mut findings = Findings::default();
    if let Err(error) = judge(review, settings, around, &mut findings) {
        findings.errors.push(error);
    }
    if findings.errors.is_empty() {
        return Decision::Allowed(findings.warnings);
    }
    Decision::Refused(refusal(review, &findings.errors.join("; ")))
}

/// Returns the text of a refusal: kind and object, then what is wrong.
pub fn refusal(review: &Review<'_>, what: &str) -> String {
    let prefix = review.object["metadata"]["generateName"].as_str().unwrap_or_default();
    let name = if review.key.name.is_empty() { format!("{prefix}…") } else { review.key.name.to_string() };
    let kind = review.kind.as_str();
    if review.key.namespace.is_empty() {
        format!("{kind} {name}: {what}")
    } else {
        format!("{kind} {}/{name}: {what}", review.key.namespace)
    }
}

fn judge(review: &Review<'_>, settings: &Settings, around: &Surroundings, to: &mut Findings) -> Result<(), String> {
    match review.kind {
        Kind::Profile => {
            let kept = review.old.is_some_and(|old| old["spec"] == review.object["spec"]);
            let of_spec = if kept { rules::Spec::Kept } else { rules::Spec::Written };
            let annotations = &review.object["metadata"]["annotations"];
            rules::profile(&review.spec::<KollectProfileSpec>()?, of_spec, annotations, to);
        }
        Kind::Target => rules::target(&review.spec::<KollectTargetSpec>()?, around, to),
        Kind::ClusterTarget => {
            rules::served_for_all(settings.cluster_kinds)?;
            rules::cluster_target(&review.spec::<KollectClusterTargetSpec>()?, around, to);
        }
        Kind::Scope => rules::scope(review.key, &review.spec::<KollectScopeSpec>()?, to),
        Kind::ClusterScope => rules::cluster_scope(review.key, &review.spec::<KollectClusterScopeSpec>()?, to),
        Kind::SnapshotSink => {
            rules::snapshot_sink(&review.spec::<KollectSnapshotSinkSpec>()?, settings.guard, around, to);
        }
        Kind::DatabaseSink => rules::database_sink(&review.spec::<KollectDatabaseSinkSpec>()?, around, to),
        Kind::EventSink => rules::event_sink(&review.spec::<KollectEventSinkSpec>()?, settings.guard, around, to),
        Kind::Inventory => {
            rules::inventory(&review.spec::<KollectInventorySpec>()?, settings.max_export_bytes, around, to);
        }
        Kind::ClusterInventory => {
            rules::served_for_all(settings.cluster_kinds)?;
            let spec = review.spec::<KollectClusterInventorySpec>()?;
            rules::cluster_inventory(&spec, settings.max_export_bytes, around, to);
        }
        Kind::ConnectionTest => rules::connection_test(&review.spec::<KollectConnectionTestSpec>()?, to),
    }
    Ok(())
}

/// What a review found.
#[derive(Debug, Default)]
struct Findings {
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl Findings {
    /// Takes in what a function of [`crate::validate`] said, and returns what it made.
    fn take<T>(&mut self, checked: Result<T, FieldErrors>) -> Option<T> {
        match checked {
            Ok(made) => Some(made),
            Err(errors) => {
                self.errors.extend(errors.of(Stage::Written).map(ToString::to_string));
                self.warnings.extend(errors.of(Stage::Used).map(ToString::to_string));
                None
            }
        }
    }

    /// Takes in one refusal.
    fn deny<E: ToString>(&mut self, allowed: Result<(), E>) {
        self.errors.extend(allowed.err().map(|error| error.to_string()));
    }
}

#[cfg(test)]
mod tests;
