//! From what users wrote to what the operator works with.
//!
//! Each function takes a spec and returns a `Validated…` type, which is trusted from then on, or everything that is
//! wrong with the spec at once, each with its place and what to write instead. All of it is pure: admission, the
//! controllers and the command line share it. Most of these rules are in the schemas too, where the API server speaks
//! first; they are repeated here as far as an object that breaks them could not be used, since an object may be older
//! than its schema.
//!
//! What needs other objects or the network is left to those who have them. What is valid and not in this build is told by
//! [`not_served`]. What only admission says, of kinds of sinks that have no function of their own and of settings that are
//! legal and seldom meant, is in [`admitted`].

use std::fmt;

use crate::api::v1alpha1::{Duration, LabelSelector};
use crate::error::{Class, Classify};

pub mod admitted;
mod bucket;
mod cluster_inventory;
mod cluster_target;
mod connection_test;
mod endpoint;
mod inventory;
mod label;
mod nats;
pub mod not_served;
mod object;
mod profile;
mod rules;
pub mod scope;
mod sink;
mod snapshot;
mod subject;
mod target;
mod template;

pub use bucket::{Bucket, Scheme, Server};
pub use cluster_inventory::{ValidatedClusterInventory, cluster_inventory};
pub use cluster_target::{ValidatedClusterTarget, cluster_target};
pub use connection_test::connection_test;
pub use endpoint::Transport;
pub use inventory::{SinkRef, ValidatedInventory, inventory};
pub use nats::{ValidatedNats, nats};
pub use object::{Addressing, Codec, Encoding, HOT_ATTRIBUTES, Packing, REGION, Retention, ValidatedObject, object};
pub use profile::{
    ALLOW_FULL_RESOURCE_EXPORT, ALLOW_SECRET_EXTRACTION, Embedding, SecretContent, ValidatedProfile,
    expressions as profile_expressions, lacks_secret_consent, profile,
};
pub use rules::ValidatedRule;
pub use sink::{Probe, ValidatedPostgres, postgres};
pub use snapshot::{ValidatedGit, git};
pub use subject::{Piece, Subject};
pub use target::{NamespaceFilter, ValidatedTarget, target};

/// The longest interval between exports.
const MAX_INTERVAL: std::time::Duration = std::time::Duration::from_hours(24);

/// The most text of all expressions of one object. Compiling takes some microseconds for each byte, while reviews and
/// reconciles of other objects wait.
const MAX_EXPRESSIONS_BYTES: usize = 128 * 1024;

/// A place in an object, such as `spec.attributes[2].name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldPath(String);

impl FieldPath {
    /// The spec itself.
    pub fn spec() -> Self {
        Self("spec".to_owned())
    }

    /// Returns the place of a field below.
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        Self(format!("{}.{name}", self.0))
    }

    /// Returns the place of an element below.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One thing that is wrong, where it is, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct FieldError {
    /// Where it is.
    pub path: FieldPath,
    /// What is wrong; after a semicolon, what to do.
    pub message: String,
}

/// When a mistake is held against an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// As it is written: admission refuses it.
    Written,
    /// As it is used: admission warns, and the condition of the object says it. Manifests may leave open what is filled in
    /// later, such as the endpoint of a sink.
    Used,
}

/// Everything that is wrong with one spec; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldErrors(Vec<(Stage, FieldError)>);

impl FieldErrors {
    /// Returns the single errors, in the order of the fields.
    pub fn iter(&self) -> impl Iterator<Item = &FieldError> {
        self.0.iter().map(|(_, error)| error)
    }

    /// Returns those that are held against the object at this stage.
    pub fn of(&self, stage: Stage) -> impl Iterator<Item = &FieldError> {
        self.0.iter().filter(move |(of, _)| *of == stage).map(|(_, error)| error)
    }
}

impl fmt::Display for FieldErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for FieldErrors {}

impl Classify for FieldErrors {
    /// Only another spec helps.
    fn class(&self) -> Class {
        Class::Terminal
    }
}

/// Collects what is wrong while a spec is read.
#[derive(Debug, Default)]
struct Findings(Vec<(Stage, FieldError)>);

impl Findings {
    fn add(&mut self, path: FieldPath, message: impl Into<String>) {
        self.0.push((Stage::Written, FieldError { path, message: message.into() }));
    }

    /// Adds what stops the object from working and not from being written.
    fn add_for_use(&mut self, path: FieldPath, message: impl Into<String>) {
        self.0.push((Stage::Used, FieldError { path, message: message.into() }));
    }

    /// Returns the value when nothing is wrong.
    fn give<T>(self, value: T) -> Result<T, FieldErrors> {
        if self.0.is_empty() { Ok(value) } else { Err(FieldErrors(self.0)) }
    }

    /// The name of an object of the same namespace.
    fn local_name(&mut self, path: FieldPath, name: &str) {
        if name.trim().is_empty() {
            self.add(path, "is blank; name an object of this namespace");
        } else if name.contains('/') {
            self.add(path, format!("{name:?} has a slash; write the name alone, the object is in this namespace"));
        }
    }

    /// Tells whether expressions are short enough, all together, to be compiled.
    fn compilable<'a>(&mut self, path: &FieldPath, texts: impl Iterator<Item = &'a str>) -> bool {
        let bytes: usize = texts.map(str::len).sum();
        if bytes > MAX_EXPRESSIONS_BYTES {
            let message =
                format!("has expressions of {bytes} bytes, of {MAX_EXPRESSIONS_BYTES} that are compiled; split it");
            self.add(path.clone(), message);
        }
        bytes <= MAX_EXPRESSIONS_BYTES
    }

    /// The name of an object whose namespace is known otherwise.
    fn plain_name(&mut self, path: FieldPath, name: &str, what: &str) {
        if name.trim().is_empty() {
            self.add(path, format!("is blank; name {what}"));
        } else if name.contains('/') {
            let message = format!("{name:?} has a slash; write the name alone, and the namespace in its own field");
            self.add(path, message);
        }
    }

    /// The name of a namespace.
    fn namespace(&mut self, path: FieldPath, name: &str) {
        if !label::is_namespace(name) {
            let message = format!("{name:?} cannot be a namespace; write lower-case letters, digits and dashes");
            self.add(path, message);
        }
    }

    /// The profile of an object that lives in no namespace.
    fn profile_ref(&mut self, path: &FieldPath, name: &str, namespace: &str, whose: &str) {
        self.plain_name(path.field("name"), name, "a KollectProfile");
        if namespace.trim().is_empty() {
            let message = format!("is blank; name the namespace of the profile, for {whose} has none of its own");
            self.add(path.field("namespace"), message);
        } else {
            self.namespace(path.field("namespace"), namespace);
        }
    }

    /// The namespaces of an object that lives in none.
    fn some_namespaces(&mut self, selector: Option<&LabelSelector>, whose: &str) {
        if selector.is_none_or(|selector| selector.match_labels.is_empty() && selector.match_expressions.is_empty()) {
            let message = format!(
                "has no requirement, and {whose} never selects every namespace by default; to mean all of them, write \
                 matchExpressions: [{{key: kubernetes.io/metadata.name, operator: Exists}}]"
            );
            self.add(FieldPath::spec().field("namespaceSelector"), message);
        }
    }

    fn interval(&mut self, path: FieldPath, interval: Duration) {
        if interval.get() > MAX_INTERVAL {
            self.add(path, format!("{interval} is out of range; write a duration from 0s to 24h"));
        }
    }

    /// Names that may be there once.
    fn unique<'a>(&mut self, list: &FieldPath, field: Option<&str>, names: impl Iterator<Item = &'a str>) {
        let mut seen = std::collections::BTreeSet::new();
        for (index, name) in names.enumerate() {
            if !seen.insert(name) {
                let element = list.index(index);
                let path = field.map_or_else(|| element.clone(), |field| element.field(field));
                self.add(path, format!("{name:?} is there twice; remove one of them"));
            }
        }
    }
}
