//! KollectTarget: what to collect, where.

pub(super) mod absence;
mod access;
mod brake;
pub(super) mod cluster;
mod filter;
mod limits;
mod remarks;
mod room;
mod secrets;
mod unknown;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use absence::{Absence, Verdict};
use filter::Checked;
use limits::Limits;
use room::{Fill, Room};

use super::overview::Seen;
use super::shelf::Object;
use super::{Control, Shelves};
use crate::api::v1alpha1::conditions::{ConditionStatus, Finding, merge, reasons, types};
use crate::api::v1alpha1::{Kind, KollectProfileSpec, KollectTargetSpec, KollectTargetStatus};
use crate::error::Class;
use crate::extract::{AttributeError, Extractor};
use crate::model::{Gvk, Name, Namespace, ObjectKey, Origin, SinkKey, TargetKey};
use crate::store::{Coverage, Store, TargetCounts};
use crate::validate::{self, NamespaceFilter, SecretContent, ValidatedTarget};
use crate::watch::{Consent, Filter, Interest, Presence, Problem, Program, Resource, Scope, Terms};

/// A first list that takes no longer is not worth a status of its own.
const STARTING: Duration = Duration::from_secs(2);
/// So many names are spelled out in a message.
const NAMED: usize = 5;

/// What is remembered of a target between two reconciles.
#[derive(Debug, Default)]
pub(super) struct State {
    checked: Option<Checked>,
    compiled: Option<Compiled>,
    /// What of target and profile has no effect.
    remarks: String,
    absence: Absence,
    room: Room,
    /// Its rows were removed on purpose.
    dropped: bool,
    /// The store had all its rows at some time of this process, so that it knows their number better than the status.
    counted: bool,
    /// When the target was first reconciled.
    starting: Option<Instant>,
    interest: Option<Interest>,
    /// What the status was made of.
    reported: TargetCounts,
}

impl State {
    /// Tells whether the store has other numbers than the status; only knowledge and failures are compared at once.
    pub(super) fn moved(&self, store: &Store, key: &TargetKey) -> bool {
        let table = store.existing(&key.namespace);
        let counts = table.map(|table| table.target_counts(&key.name)).unwrap_or_default();
        counts != self.reported || (!self.dropped && self.absence.is_due(Instant::now()))
    }

    /// Tells whether the next discovery can decide something about its rows.
    pub(super) fn awaits_discovery(&self) -> bool {
        !self.dropped && self.absence.awaits_discovery()
    }

    /// Returns the namespaces to list again because there is room for their rows now.
    pub(super) fn fitting(&mut self, store: &Store) -> Option<Vec<Namespace>> {
        let over = &self.reported.over_budget;
        self.room.turn(over, Fill::of(store), Instant::now()).then(|| over.clone())
    }
}

/// A program, and what it was made from.
#[derive(Debug)]
struct Compiled {
    /// UID and generation, and what its annotations allow, which no generation counts.
    profile: (String, i64, SecretContent),
    filter: Filter,
    program: Arc<Program>,
    /// What the profile does not do.
    remarks: Vec<String>,
}

/// Why a target does not collect.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    reason: &'static str,
    message: String,
    rows: Rows,
}

/// What happens to the rows of a target that does not collect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rows {
    /// They stay, here and in the sinks: it is not known what they should be.
    Stay,
    /// They go, here and in the sinks: that is what the user asked for.
    Go,
    /// They go because what made them is gone, unless they are too many.
    Vanish,
}

impl From<Verdict> for Rows {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Open => Self::Stay,
            Verdict::Final => Self::Vanish,
        }
    }
}

impl Refusal {
    fn new(reason: &'static str, message: impl Into<String>, rows: Rows) -> Self {
        Self { reason, message: message.into(), rows }
    }
}

/// A target of which everything is known.
struct Resolved {
    target: Arc<ValidatedTarget>,
    gvk: Gvk,
    resource: Resource,
    program: Arc<Program>,
    namespaces: Chosen,
    /// What has no effect, or not the one that it seems to have.
    remarks: Vec<String>,
}

/// The namespaces of a target.
#[derive(Debug, Clone, Default)]
struct Chosen {
    /// Those that it asks for.
    matched: BTreeMap<Namespace, Consent>,
    /// Those that it gets.
    effective: BTreeMap<Namespace, Consent>,
}

impl Control {
    pub(super) fn reconcile_target(&mut self, key: &TargetKey) -> Option<Class> {
        let Some(object) = self.shelves.targets.get(key).cloned() else {
            self.parts.watch.remove(key);
            self.parts.store.unregister(&key.namespace, &key.name);
            self.targets.remove(key);
            self.overview.remove(key);
            self.forget(&(Kind::Target, key.clone()));
            return None;
        };
        self.free((Kind::Target, key.clone()), &object.meta);
        let mut state = self.targets.remove(key).unwrap_or_default();
        let resolved = self.resolve_target(key, &object, &mut state);
        let namespaces = resolved.as_ref().map(|resolved| resolved.namespaces.clone()).unwrap_or_default();
        let missing =
            |refusal: &Refusal| [reasons::PROFILE_NOT_FOUND, reasons::KIND_NOT_FOUND].contains(&refusal.reason);
        let held = state.absence.held().is_some();
        if !resolved.as_ref().err().is_some_and(missing) {
            state.absence.clear();
        }
        let collecting = state.interest.is_some();
        let outcome = resolved
            .map(|resolved| self.collect(key, resolved, &mut state))
            .map_err(|refusal| self.brake(key, &object, refusal, &mut state));
        if held != state.absence.held().is_some() {
            self.queue_inventories(|inventory| inventory.namespace == key.namespace);
        }
        if let Err(refusal) = &outcome {
            self.stop(key, refusal.rows, &mut state);
        }
        let collects = state.interest.as_ref().and_then(|interest| {
            let profile = object.spec.as_ref().ok()?.profile_ref.as_str();
            Some((Name::new(profile), interest.target.origin().gvk.clone()))
        });
        let profile = collects.as_ref().map(|(profile, _)| ObjectKey::new(key.namespace.clone(), profile.clone()));
        self.measure((Kind::Target, key.clone()), profile, state.interest.iter().map(|interest| &interest.target));
        let class = self.report_target(key, &object, outcome.as_ref().err(), &namespaces, &mut state);
        let suspended = outcome.is_err_and(|refusal| refusal.reason == reasons::SUSPENDED);
        match (collecting, state.interest.is_some()) {
            (false, true) => tracing::debug!(target = %key, "registered collection target"),
            (true, false) if suspended => tracing::info!(target = %key, "target suspended"),
            _ => {}
        }
        self.targets.insert(key.clone(), state);
        if suspended {
            // As its owner wants it: neither a failure nor something to be alarmed about.
            self.overview.remove(key);
            return None;
        }
        self.overview.put(key, Seen { collects, ready: class.is_none(), namespaces: vec![key.namespace.clone()] });
        class
    }

    fn resolve_target(
        &self,
        key: &TargetKey,
        object: &Object<KollectTargetSpec>,
        state: &mut State,
    ) -> Result<Resolved, Refusal> {
        let invalid = |message: String| Refusal::new(reasons::INVALID_SPEC, message, Rows::Stay);
        let spec = object.spec.as_ref().map_err(|error| invalid(error.to_string()))?;
        if spec.suspend {
            let message = "spec.suspend is true: nothing is collected and the rows are removed";
            return Err(Refusal::new(reasons::SUSPENDED, message, Rows::Go));
        }
        let profile_key = ObjectKey::new(key.namespace.clone(), Name::new(spec.profile_ref.as_str()));
        secrets::consented(&self.shelves, &profile_key)?;
        let target = filter::checked(object, spec, state)?;
        let profile = self.profile(&profile_key, &mut state.absence)?;
        let limits = Limits::of(&self.shelves, key, spec, profile.spec.as_ref().ok())?;
        let (gvk, program) = self.compile(&spec.profile_ref, profile, &target, &mut state.compiled)?;
        let resource = self.resource(&spec.profile_ref, &gvk, &mut state.absence)?.clone();
        access::within(&self.parts.config.bound, &spec.profile_ref, &gvk, &resource)?;
        let matched = match resource.scope {
            Scope::Namespaced => self.matched(target.namespaces()),
            Scope::Cluster => BTreeMap::new(),
        };
        limits.allow(key, spec, &matched)?;
        let effective = matched.clone();
        let remarks = remarks::of(&target, &gvk, resource.scope, state.compiled.as_ref());
        Ok(Resolved { target, gvk, resource, program, namespaces: Chosen { matched, effective }, remarks })
    }

    /// Finds the profile of a target.
    fn profile(&self, key: &ObjectKey, absence: &mut Absence) -> Result<&Object<KollectProfileSpec>, Refusal> {
        if let Some(profile) = self.shelves.profiles.get(key) {
            return Ok(profile);
        }
        let rows = absence.profile(Instant::now()).into();
        let message = format!(
            "spec.profileRef: there is no KollectProfile {:?} in namespace {:?}; create it or name another",
            key.name.as_str(),
            key.namespace.as_str()
        );
        Err(Refusal::new(reasons::PROFILE_NOT_FOUND, message, rows))
    }

    /// Finds the resource of a kind.
    fn resource(&self, profile: &str, gvk: &Gvk, absence: &mut Absence) -> Result<&Resource, Refusal> {
        let field = format!("spec.targetGVK of KollectProfile {profile:?}");
        let polled = match self.discovery.find(gvk) {
            Presence::Listed(resource) => return Ok(resource),
            Presence::Unsure => {
                absence.clear();
                let message = format!(
                    "{field}: it is not known whether there is a {}, for the server of that group does not answer; rows \
                     stay as they are. Check its APIService",
                    in_words(gvk)
                );
                return Err(Refusal::new(reasons::KIND_NOT_FOUND, message, Rows::Stay));
            }
            Presence::Absent(polled) => polled,
        };
        let message = format!(
            "{field}: the API server has no {} to list; check group, version and kind, or install its \
             CustomResourceDefinition",
            in_words(gvk)
        );
        Err(Refusal::new(reasons::KIND_NOT_FOUND, message, absence.kind(gvk, polled).into()))
    }

    /// Returns the program of profile and filter; the same one as long as neither changes.
    fn compile(
        &self,
        name: &str,
        profile: &Object<KollectProfileSpec>,
        target: &ValidatedTarget,
        compiled: &mut Option<Compiled>,
    ) -> Result<(Gvk, Arc<Program>), Refusal> {
        let invalid = |message: String| {
            Refusal::new(reasons::PROFILE_INVALID, format!("KollectProfile {name:?}: {message}"), Rows::Stay)
        };
        let spec = profile.spec.as_ref().map_err(|error| invalid(error.to_string()))?;
        let validated =
            validate::profile(spec, profile.meta.annotations.as_ref()).map_err(|errors| invalid(errors.to_string()))?;
        let filter = filter::filter(target, validated.gvk());
        let version = (profile.uid().to_owned(), profile.generation(), validated.secret_content());
        if let Some(compiled) = compiled.as_ref()
            && compiled.profile == version
            && compiled.filter == filter
        {
            return Ok((validated.gvk().clone(), compiled.program.clone()));
        }
        let scrub_keys = &self.parts.config.collection.scrub_keys;
        let extractor = Extractor::of_profile(&validated, scrub_keys).map_err(|errors| {
            let line = |error: &AttributeError| format!("spec.attributes[{}].path: {error}", error.index);
            invalid(errors.iter().map(line).collect::<Vec<_>>().join("; "))
        })?;
        let remarks = remarks::of_profile(name, &validated, extractor.left_out());
        let program = Arc::new(Program::new(filter.clone(), extractor));
        *compiled = Some(Compiled { profile: version, filter, program: program.clone(), remarks });
        Ok((validated.gvk().clone(), program))
    }

    /// Returns the namespaces of the cluster that a target asks for, with what each says about being watched.
    fn matched(&self, filter: &NamespaceFilter) -> BTreeMap<Namespace, Consent> {
        let filter = self.asked_for(filter);
        let all = self.shelves.namespaces.iter();
        let matching = all.filter(|(name, facts)| filter.matches(name, &facts.labels));
        matching.map(|(name, facts)| (name.clone(), facts.consent)).collect()
    }

    /// Adds the defaults of the operator to what a target asks for.
    pub(super) fn asked_for(&self, filter: &NamespaceFilter) -> NamespaceFilter {
        let defaults = &self.parts.config.collection;
        let set = |names: &[String]| names.iter().map(|name| Namespace::new(name.as_str())).collect();
        let (included, excluded) =
            (set(&defaults.default_included_namespaces), set(&defaults.default_excluded_namespaces));
        filter.clone().with_defaults(&included, &excluded)
    }

    /// Tells store and streams what the target wants.
    fn collect(&self, key: &TargetKey, resolved: Resolved, state: &mut State) {
        let Resolved { target, gvk, resource, program, namespaces: Chosen { effective, .. }, remarks } = resolved;
        state.remarks = remarks.join("; ");
        let terms = self.terms(&target, &resource, &effective);
        state.interest = Some(self.register(key, gvk, Arc::new(resource), program, terms));
        state.dropped = false;
    }

    /// Registers a target, or what a cluster target collects in one namespace.
    fn register(
        &self,
        key: &TargetKey,
        gvk: Gvk,
        resource: Arc<Resource>,
        program: Arc<Program>,
        namespaces: BTreeMap<Namespace, Terms>,
    ) -> Interest {
        let target = self.parts.store.register(Origin { target: key.clone(), gvk });
        target.cover(&match resource.scope {
            Scope::Namespaced => Coverage::Namespaces(Arc::new(namespaces.keys().cloned().collect())),
            Scope::Cluster => Coverage::Cluster,
        });
        let interest = Interest { target, resource, program, namespaces: Arc::new(namespaces) };
        self.parts.watch.set(interest.clone());
        interest
    }

    fn stop(&self, key: &TargetKey, rows: Rows, state: &mut State) {
        state.dropped = rows != Rows::Stay;
        self.stand_down(key, rows, state.interest.take());
    }

    /// Ends what was registered, and does with its rows what is to happen to them.
    fn stand_down(&self, key: &TargetKey, rows: Rows, interest: Option<Interest>) {
        self.parts.watch.remove(key);
        match rows {
            Rows::Go | Rows::Vanish => self.parts.store.unregister(&key.namespace, &key.name),
            Rows::Stay => {
                // Registered in any case: a target that is there but not understood is not a deleted one.
                let table = self.parts.store.existing(&key.namespace);
                if let Some(interest) = interest {
                    interest.target.cover(&Coverage::Unresolved);
                } else if table.is_none_or(|table| !table.has(&key.name)) {
                    let gvk = Gvk { group: "".into(), version: "".into(), kind: "".into() };
                    self.parts.store.register(Origin { target: key.clone(), gvk });
                }
            }
        }
    }

    fn report_target(
        &mut self,
        key: &TargetKey,
        object: &Object<KollectTargetSpec>,
        refusal: Option<&Refusal>,
        namespaces: &Chosen,
        state: &mut State,
    ) -> Option<Class> {
        let table = self.parts.store.existing(&key.namespace);
        let counts = table.map(|table| table.target_counts(&key.name)).unwrap_or_default();
        let problems = state.interest.as_ref().map(|interest| self.parts.watch.problems(interest)).unwrap_or_default();
        if counts.failing > 0 && state.reported.failing == 0 {
            let error = counts.last_failure.as_deref().unwrap_or_default();
            tracing::error!(target = %key, rows = counts.failing, error, "extract attributes");
        }
        let before: KollectTargetStatus = serde_json::from_value(object.status.clone()).unwrap_or_default();
        let sinks = sinks_of(&self.shelves, key);
        let starting = *state.starting.get_or_insert_with(Instant::now) + STARTING;
        if refusal.is_none() && problems.is_empty() && !counts.whole && Instant::now() < starting {
            self.deferred.insert((Kind::Target, key.clone()), starting);
            state.reported = counts;
            return None;
        }
        let fill = Fill::of(&self.parts.store);
        let view = View { counts: &counts, problems: &problems, refusal, remarks: &state.remarks, sinks, fill };
        let (findings, class) = findings(object, &view);
        let now = Self::now();
        let ready = class.is_none();
        // A number that is still growing after a restart says less than the last complete one.
        let settled = refusal.is_none() && counts.whole;
        state.counted |= settled;
        let collected = if settled || state.dropped { i64::try_from(counts.rows).ok() } else { before.collected_count };
        let moved = collected != before.collected_count;
        let names = |of: &BTreeMap<Namespace, Consent>| filter::names(of.keys());
        let rules = object.spec.as_ref().map_or(0, |spec| spec.resource_rules.len());
        let status = KollectTargetStatus {
            conditions: merge(&before.conditions, &findings, object.generation(), &now),
            observed_generation: if ready { Some(object.generation()) } else { before.observed_generation },
            extraction_failures: i64::try_from(counts.failing).unwrap_or(i64::MAX),
            last_extraction_error: counts.last_failure.as_deref().unwrap_or_default().to_owned(),
            collected_count: collected,
            collected_count_updated_at: if moved { Some(now) } else { before.collected_count_updated_at.clone() },
            matched_namespaces: names(&namespaces.matched),
            effective_namespaces: names(&namespaces.effective),
            active_resource_rules: if refusal.is_none() { i64::try_from(rules).unwrap_or(i64::MAX) } else { 0 },
        };
        let substance = substance(&status, &counts, &state.remarks);
        let status = serde_json::to_value(&status).unwrap_or_default();
        state.reported = counts;
        let patience = self.parts.config.control.count_resync;
        self.report((Kind::Target, key.clone()), &object.status, status, substance, patience);
        class
    }
}

/// What a status is made from.
struct View<'a> {
    counts: &'a TargetCounts,
    problems: &'a BTreeMap<Namespace, Problem>,
    refusal: Option<&'a Refusal>,
    remarks: &'a str,
    sinks: Sinks,
    fill: Fill,
}

/// What the inventories of the namespace say of their sinks.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sinks {
    /// No inventory names one.
    None,
    /// All are there.
    Present,
    /// This one is not.
    Missing(String),
}

fn sinks_of(shelves: &Shelves, key: &TargetKey) -> Sinks {
    let mut found = Sinks::None;
    for (_, inventory) in shelves.inventories.within(&key.namespace) {
        let Ok(spec) = &inventory.spec else { continue };
        let all = spec.refs().into_iter();
        for (family, sink) in all.flat_map(|(family, list)| list.iter().map(move |sink| (family, sink))) {
            let object = ObjectKey::new(key.namespace.clone(), Name::new(sink.name.as_str()));
            if shelves.sinks.get(&SinkKey { family, object }).is_none() {
                return Sinks::Missing(format!("{} {:?}", Kind::of_family(family).as_str(), sink.name));
            }
            found = Sinks::Present;
        }
    }
    found
}

/// Decides the conditions, and the class of what is wrong.
fn findings(object: &Object<KollectTargetSpec>, view: &View<'_>) -> (Vec<Finding>, Option<Class>) {
    let finding = |type_, status, reason, message: &str| Finding { type_, status, reason, message: message.to_owned() };
    let (counts, problems) = (view.counts, view.problems);
    let degraded = if let Some(refusal) = view.refusal {
        Some((refusal.reason, refusal.message.clone(), Class::Terminal))
    } else if !counts.over_budget.is_empty() {
        Some((reasons::STORE_BUDGET_EXCEEDED, view.fill.message(&counts.over_budget), Class::Terminal))
    } else if counts.failing > 0 {
        let last = counts.last_failure.as_deref().unwrap_or_default();
        let message = format!("{} resource(s) failed attribute extraction: {last}", counts.failing);
        Some((reasons::EXTRACTION_FAILED, message, Class::Terminal))
    } else if let Some(failure) = access::failure(problems) {
        Some(failure)
    } else if let Sinks::Missing(sink) = &view.sinks {
        let message = format!("{sink}, which an inventory of this namespace names, does not exist; rows are collected");
        Some((reasons::SINK_NOT_FOUND, message, Class::Terminal))
    } else {
        None
    };
    if let Some((reason, message, class)) = degraded {
        let findings = vec![
            finding(types::DEGRADED, ConditionStatus::True, reason, &message),
            finding(types::SINK_REACHABLE, ConditionStatus::False, reason, &message),
        ];
        return (findings, Some(class));
    }
    let profile = object.spec.as_ref().map(|spec| spec.profile_ref.as_str()).unwrap_or_default();
    let mut ready = format!("profileRef {profile:?} resolved; collecting {} resource(s)", counts.rows);
    if !counts.whole {
        let unknown = some(counts.unknown.iter());
        let place = if unknown.is_empty() { String::new() } else { format!(" in {unknown}") };
        ready = format!("profileRef {profile:?} resolved; first list under way{place}");
    }
    if counts.sanitized > 0 {
        ready.push_str("; U+0000 replaced by U+FFFD in ");
        ready.push_str(&counts.sanitized.to_string());
        ready.push_str(" of them");
    }
    if !view.remarks.is_empty() {
        ready.push_str("; ");
        ready.push_str(view.remarks);
    }
    let synced = if problems.is_empty() {
        finding(types::SYNCED, ConditionStatus::True, reasons::COLLECTING, &ready)
    } else {
        finding(types::SYNCED, ConditionStatus::True, reasons::SCOPE_FORBIDDEN, &access::denied(problems))
    };
    let (reason, message) = match view.sinks {
        Sinks::None => (reasons::NO_SINKS_IN_NAMESPACE, "no inventory of this namespace names a sink"),
        _ => (reasons::SINKS_REACHABLE, "every sink that an inventory of this namespace names exists"),
    };
    let sinks = finding(types::SINK_REACHABLE, ConditionStatus::True, reason, message);
    (vec![finding(types::READY, ConditionStatus::True, reasons::COLLECTING, &ready), synced, sinks], None)
}

/// Returns the status without what only counts.
fn substance(status: &KollectTargetStatus, counts: &TargetCounts, remarks: &str) -> Value {
    let mut status = status.clone();
    status.collected_count = None;
    status.collected_count_updated_at = None;
    for condition in &mut status.conditions {
        if condition.reason == reasons::COLLECTING {
            condition.message = format!("{} {} {remarks}", counts.whole, counts.unknown.len());
        }
        if condition.reason == reasons::STORE_BUDGET_EXCEEDED {
            condition.message = some(counts.over_budget.iter());
        }
    }
    serde_json::to_value(&status).unwrap_or_default()
}

/// Names the first few and counts the rest.
fn some<'a>(names: impl Iterator<Item = &'a Namespace>) -> String {
    some_names(names.map(Namespace::as_str))
}

/// Names the first few and counts the rest.
pub(super) fn some_names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let (first, rest) = names.split_at(names.len().min(NAMED));
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    format!("{}{more}", first.join(", "))
}

fn in_words(gvk: &Gvk) -> String {
    let group = if gvk.group.is_empty() { "the core group" } else { &gvk.group };
    format!("{} in {group}/{}", gvk.kind, gvk.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_of_namespaces_are_cut_in_messages() {
        let names: Vec<Namespace> = (0..7).map(|index| Namespace::new(format!("n{index}"))).collect();
        assert_eq!(some(names.iter()), "n0, n1, n2, n3, n4 and 2 more");
        assert_eq!(some(names[..2].iter()), "n0, n1");
    }
}
