//! The CEL rules of the schemas: what the API server refuses, and the words it uses.
//!
//! Every rule says in its message what is wrong *and* what to write instead. The API server computes the worst cost of
//! a rule from the bounds of the fields it reads, so each field that a rule touches has a `maxLength` or `maxItems`.
//! Nothing newer than Kubernetes 1.28 is used. What a rule cannot say is in [`crate::validate`], which also repeats
//! the ones that decide whether an object can be used at all.

use kube::core::Rule;

/// One line of text: the rule, its message, and where in the object to point.
struct Line {
    rule: String,
    message: &'static str,
    at: Option<&'static str>,
}

fn check(rule: impl Into<String>, message: &'static str) -> Line {
    Line { rule: rule.into(), message, at: None }
}

impl Line {
    /// Points at a field below the one that carries the rule.
    fn at(mut self, field: &'static str) -> Self {
        self.at = Some(field);
        self
    }
}

fn rules<const N: usize>(lines: [Line; N]) -> Vec<Rule> {
    lines
        .into_iter()
        .map(|line| {
            let rule = Rule::new(line.rule).message(line.message);
            match line.at {
                Some(at) => rule.field_path(at),
                None => rule,
            }
        })
        .collect()
}

/// The grammar of [`super::Duration`] without a sign below zero.
const DURATION: &str = r"^[+]?(0|(([0-9]+[.]?[0-9]*|[.][0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$";
const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
const DNS_SUBDOMAIN: &str = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";

/// An interval between exports: 0s to 24h.
pub(super) fn interval() -> Vec<Rule> {
    rules([check(
        format!("self.matches('{DURATION}') && duration(self) <= duration('24h')"),
        "must be a duration from 0s to 24h: write a number and a unit, for example 30s, 5m or 1h",
    )])
}

/// Any duration that is not negative.
pub(super) fn duration() -> Vec<Rule> {
    rules([check(
        format!("self.matches('{DURATION}') && duration(self) >= duration('0s')"),
        "must be a duration that is not negative: write a number and a unit, for example 30s, 5m or 720h",
    )])
}

/// The name of an object in the namespace of the object that refers to it.
pub(super) fn local_name() -> Vec<Rule> {
    rules([check(
        "self.trim() != '' && !self.contains('/')",
        "must be a name without a slash: what it names lives in the namespace of this object",
    )])
}

/// The name of an object without a namespace in front.
pub(super) fn plain_name() -> Vec<Rule> {
    rules([check("self.trim() != '' && !self.contains('/')", "must be a name without a slash")])
}

/// The name of a namespace, in a list of them.
pub(super) fn namespace() -> Vec<Rule> {
    rules([check(
        format!("self.matches('{DNS_LABEL}')"),
        "must be the name of one namespace: lower-case letters, digits and '-'; patterns such as team-* are not understood",
    )])
}

/// Text that is more than blanks.
pub(super) fn not_blank() -> Vec<Rule> {
    rules([check("self.trim() != ''", "must not be blank")])
}

/// A reference from a cluster-scoped kind to a namespaced object.
pub(super) fn cluster_object_ref() -> Vec<Rule> {
    rules([
        check(
            format!("self.name.matches('{DNS_SUBDOMAIN}')"),
            "must be the name of an object: lower-case letters, digits, '-' and '.', without a slash",
        )
        .at(".name"),
        check(
            format!("has(self.__namespace__) && self.__namespace__.matches('{DNS_LABEL}')"),
            "is required: name the namespace of the object, cluster kinds have no namespace of their own",
        )
        .at(".namespace"),
    ])
}

/// `sinkNamespace`: one namespace.
pub(super) fn sink_namespace() -> Vec<Rule> {
    rules([check("!self.contains('/')", "must be one namespace, without a slash")])
}

/// One requirement of a label selector.
pub(super) fn requirement() -> Vec<Rule> {
    rules([
        check(
            "self.operator in ['In', 'NotIn', 'Exists', 'DoesNotExist']",
            "must be one of In, NotIn, Exists, DoesNotExist",
        )
        .at(".operator"),
        check(
            "!(self.operator in ['In', 'NotIn']) || (has(self.values) && size(self.values) > 0)",
            "must not be empty: the operators In and NotIn compare with at least one value",
        )
        .at(".values"),
        check(
            "!(self.operator in ['Exists', 'DoesNotExist']) || !has(self.values) || size(self.values) == 0",
            "must be empty: the operators Exists and DoesNotExist take no values",
        )
        .at(".values"),
    ])
}

// ── profile ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// What ties the parts of a profile together.
pub(super) fn profile() -> Vec<Rule> {
    rules([
        check(
            "!has(self.export) || self.export.mode == 'Resource' || (has(self.attributes) && size(self.attributes) > 0)",
            "must not be empty while export.mode is Attributes: add an attribute, or set export.mode to Resource",
        )
        .at(".attributes"),
        check(
            "!has(self.export) || self.export.mode != 'Resource' || !has(self.attributes) \
             || !self.attributes.exists(a, a.name == self.export.__as__)",
            "must not be the name of an attribute: choose another key for the embedded object",
        )
        .at(".export.as"),
        check(
            "!has(self.metrics) || self.metrics.all(m, has(self.attributes) && self.attributes.exists(a, a.name == m.path))",
            "each path must be the name of an attribute of this profile",
        )
        .at(".metrics"),
        check(
            "!has(self.metrics) || self.metrics.all(m, !has(m.labels) || m.labels.all(l, \
             has(self.attributes) && self.attributes.exists(a, a.name == l)))",
            "each label must be the name of an attribute of this profile",
        )
        .at(".metrics"),
    ])
}

/// The expression of an attribute, as far as it can be judged without compiling it.
pub(super) fn attribute_path() -> Vec<Rule> {
    rules([
        check(
            "self.trim() != ''",
            "must not be blank: write a JSONPath such as {.spec.replicas} or an expression such as cel:object.spec.replicas",
        ),
        check(
            "!self.startsWith('object.') && !self.startsWith('object[')",
            "looks like CEL without its prefix: write cel: in front, for example cel:object.spec.replicas",
        ),
        check(
            r"!self.startsWith('helm:') || self.matches('^helm:release[.][A-Za-z0-9_].*$')",
            "must name a field of the release: write helm:release.<field>, for example helm:release.chartVersion",
        ),
        // A regular expression would say it more exactly and cost more than the API server allows.
        check(
            "!self.startsWith('helm:release.manifest') && !self.startsWith('helm:release.hooks') \
             && !self.startsWith('helm:release.chart.templates') && !self.startsWith('helm:release.chart.files') \
             && !self.startsWith('helm:release.chart.values') && !self.startsWith('helm:release.chart.raw')",
            "is not exportable: the manifest, hooks, templates, files and values of a release stay in the cluster",
        ),
    ])
}

/// An RFC 6901 pointer.
pub(super) fn json_pointer() -> Vec<Rule> {
    rules([check(
        "self.matches('^/([^~]|~[01])*$')",
        "must be a JSON pointer: start with '/', and write '~' as ~0 and '/' inside a key as ~1, for example /metadata/annotations",
    )])
}

// ── targets ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Cluster kinds say which namespaces they mean.
pub(super) fn selector_required() -> Vec<Rule> {
    rules([check(
        "has(self.namespaceSelector) && ((has(self.namespaceSelector.matchLabels) && size(self.namespaceSelector.matchLabels) > 0) \
         || (has(self.namespaceSelector.matchExpressions) && size(self.namespaceSelector.matchExpressions) > 0))",
        "must have at least one requirement: a cluster kind never selects every namespace by default; \
         to mean all of them, write matchExpressions: [{key: kubernetes.io/metadata.name, operator: Exists}]",
    )
    .at(".namespaceSelector")])
}

// ── inventories ──────────────────────────────────────────────────────────────────────────────────────────────────────

const REFS: &str = "(has(self.snapshotSinkRefs) ? size(self.snapshotSinkRefs) : 0) \
                    + (has(self.databaseSinkRefs) ? size(self.databaseSinkRefs) : 0) \
                    + (has(self.eventSinkRefs) ? size(self.eventSinkRefs) : 0) <= 20";
const TOO_MANY_REFS: &str =
    "at most 20 sinks over snapshotSinkRefs, databaseSinkRefs and eventSinkRefs: split the inventory";
const UNIQUE: &str = "self.all(r, self.exists_one(q, q.name == r.name))";
const REPEATED: &str = "each sink may be named once in a list: remove the repeated name";

/// `KollectInventory.spec`.
pub(super) fn inventory() -> Vec<Rule> {
    rules([check(REFS, TOO_MANY_REFS)])
}

/// `KollectClusterInventory.spec`.
pub(super) fn cluster_inventory() -> Vec<Rule> {
    let mut all = inventory();
    all.extend(selector_required());
    all
}

/// A list of sinks in the namespace of the inventory.
pub(super) fn local_refs() -> Vec<Rule> {
    rules([
        check(UNIQUE, REPEATED),
        check(
            "self.all(r, !has(r.__namespace__) || r.__namespace__ == '')",
            "namespace is not allowed here: the sinks of an inventory live in its own namespace; remove it",
        ),
    ])
}

/// A list of sinks of a cluster inventory.
pub(super) fn cluster_refs() -> Vec<Rule> {
    rules([
        check(UNIQUE, REPEATED),
        check(
            format!(
                "self.all(r, !has(r.__namespace__) || r.__namespace__ == '' || r.__namespace__.matches('{DNS_LABEL}'))"
            ),
            "namespace must be the name of a namespace: lower-case letters, digits and '-'",
        ),
    ])
}

// ── connection test ──────────────────────────────────────────────────────────────────────────────────────────────────

/// Exactly one sink.
pub(super) fn one_sink() -> Vec<Rule> {
    rules([check(
        "[has(self.snapshotSinkRef), has(self.databaseSinkRef), has(self.eventSinkRef)].exists_one(set, set)",
        "must name exactly one sink: set one of snapshotSinkRef, databaseSinkRef, eventSinkRef",
    )])
}

// ── sinks ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Where a document or an object goes.
pub(super) fn path_template() -> Vec<Rule> {
    rules([
        check("!self.startsWith('/') && !self.contains('..')", "must be a relative path without '..'"),
        check(
            "self.contains('{namespace}') && self.contains('{name}')",
            "must contain {namespace} and {name}, else two inventories would write to one place",
        ),
        check(
            "self.findAll('[{][^{}A-Z]*[}]').all(t, t in ['{cluster}', '{namespace}', '{name}', '{generation}', '{extension}'])",
            "may use only {cluster}, {namespace}, {name}, {generation} and {extension}",
        ),
    ])
}

/// Where the file of one row goes.
pub(super) fn row_path_template() -> Vec<Rule> {
    rules([
        check("!self.contains('..')", "must not contain '..'"),
        check(
            "self.contains('{sourceName}') || self.contains('{name}') || self.contains('{uid}')",
            "must contain {sourceName}, {name} or {uid}, else all rows would share one file",
        ),
        check(
            "self.findAll('[{][^{}]*[}]').all(t, t in ['{cluster}', '{namespace}', '{name}', '{targetNamespace}', \
             '{targetName}', '{sourceNamespace}', '{sourceName}', '{group}', '{kind}', '{uid}', '{generation}', '{extension}'])",
            "may use only {cluster}, {namespace}, {name}, {targetNamespace}, {targetName}, {sourceNamespace}, \
             {sourceName}, {group}, {kind}, {uid}, {generation} and {extension}",
        ),
    ])
}

/// `endpoint` of any sink.
pub(super) fn endpoint() -> Vec<Rule> {
    rules([check("!self.lowerAscii().startsWith('file:')", "must not be a file: URL: use https, ssh, s3 or gs")])
}

/// Keys of `options` that look like credentials. Only whole names here: the length of a key has no bound in a schema.
pub(super) fn options() -> Vec<Rule> {
    rules([check(
        "self.all(k, !(k in ['password', 'passwd', 'secret', 'token', 'apikey', 'api_key', 'accesskey', 'access_key', \
         'secretkey', 'secret_key', 'privatekey', 'private_key', 'credential', 'credentials']))",
        "must not hold credentials: put them into a Secret and name it in secretRef",
    )])
}

/// A short branch name.
pub(super) fn branch() -> Vec<Rule> {
    rules([check(
        "self.matches('^[A-Za-z0-9][A-Za-z0-9._/-]*$') && !self.contains('..') && !self.endsWith('.') \
         && !self.endsWith('.lock') && !self.startsWith('refs/')",
        "must be a short branch name such as main or team/inventory: no refs/ in front, no '..', no '.' or '.lock' at the end",
    )])
}

/// `KollectSnapshotSink.spec`.
pub(super) fn snapshot_sink() -> Vec<Rule> {
    rules([
        check("self.type == 'git' || !has(self.git)", "is allowed only for type git: remove it").at(".git"),
        check("self.type == 'gitlab' || !has(self.gitlab)", "is allowed only for type gitlab: remove it").at(".gitlab"),
        check(
            "self.type in ['s3', 'gcs'] || !has(self.objectStore)",
            "is allowed only for the types s3 and gcs: remove it",
        )
        .at(".objectStore"),
        check("!has(self.http)", "is not allowed: no sink of this kind speaks plain HTTP; remove it").at(".http"),
        check(
            "self.type in ['git', 'gitlab'] || !has(self.layout)",
            "is allowed only for the types git and gitlab: remove it",
        )
        .at(".layout"),
        check(
            "!has(self.serialization) || !has(self.serialization.format) || self.serialization.format == 'json' \
             || (self.type in ['git', 'gitlab'] ? self.serialization.format in ['yaml', 'ndjson'] \
             : self.serialization.format in ['ndjson', 'parquet', 'csv'])",
            "does not fit the type: git and gitlab write json, yaml or ndjson; s3 and gcs write json, ndjson or parquet",
        )
        .at(".serialization.format"),
    ])
}

fn json_only() -> [Line; 2] {
    [
        check(
            "!has(self.serialization) || !has(self.serialization.format) || self.serialization.format == 'json'",
            "must be json for this kind of sink: remove it or write json",
        )
        .at(".serialization.format"),
        check("!has(self.layout)", "is allowed only for the types git and gitlab of KollectSnapshotSink: remove it")
            .at(".layout"),
    ]
}

/// `KollectDatabaseSink.spec`.
pub(super) fn database_sink() -> Vec<Rule> {
    let mut all = rules([
        check(
            "(self.type == 'postgres') == has(self.postgres)",
            "is required for type postgres and not allowed for any other type",
        )
        .at(".postgres"),
        check(
            "(self.type == 'bigquery') == has(self.bigquery)",
            "is required for type bigquery and not allowed for any other type",
        )
        .at(".bigquery"),
        check(
            "(self.type == 'mongodb') == has(self.mongodb)",
            "is required for type mongodb and not allowed for any other type",
        )
        .at(".mongodb"),
    ]);
    all.extend(rules(json_only()));
    all
}

/// `KollectEventSink.spec`.
pub(super) fn event_sink() -> Vec<Rule> {
    let mut all = rules([
        check(
            "(self.type == 'nats') == has(self.nats)",
            "is required for type nats and not allowed for any other type",
        )
        .at(".nats"),
        check(
            "(self.type == 'kafka') == has(self.kafka)",
            "is required for type kafka and not allowed for any other type",
        )
        .at(".kafka"),
    ]);
    all.extend(rules(json_only()));
    all
}
