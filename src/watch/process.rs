//! One event to the rows of all targets that want it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;

use super::audience::{Asking, Audience};
use super::dispatch::{Change, Event};
use super::filter::{Candidate, Filter, Sign, Terms};
use crate::expr::Prefixes;
use crate::extract::{self, Extractor, Object, Plan, TypeMeta};
use crate::metrics::{Metrics, ResourceCounters};
use crate::model::{Body, Namespace, ObjectKey, TargetKey};
use crate::store::{self, Holder, Store};
use crate::watch::discover::{Resource, Scope};

/// The longest selector that is put into a URL; a longer one is applied here alone.
const MAX_SELECTOR: usize = 2048;

/// What one target wants of a resource.
#[derive(Debug, Clone)]
pub struct Interest {
    /// Where its rows go.
    pub target: store::Target,
    /// What it collects from.
    pub resource: Arc<Resource>,
    /// How; the same program keeps its rows when only the namespaces change.
    pub program: Arc<Program>,
    /// In which namespaces, and on what terms; one empty name for a cluster-scoped resource.
    pub namespaces: Arc<BTreeMap<Namespace, Terms>>,
}

/// Filter and extraction of one target.
#[derive(Debug)]
pub struct Program {
    filter: Filter,
    extractor: Extractor,
    /// What the filter reads of an object.
    reads: Prefixes,
    /// Labels that the server may filter by, as it reads them; empty for none.
    selector: Arc<str>,
    /// What to decode for it alone, once that was asked for.
    alone: OnceLock<Plan>,
}

impl Program {
    /// Joins which objects and which attributes.
    pub fn new(filter: Filter, extractor: Extractor) -> Self {
        let selector = filter.labels().map(ToString::to_string).filter(|text| text.len() <= MAX_SELECTOR);
        let (reads, selector) = (filter.prefixes(), selector.unwrap_or_default().into());
        Self { reads, selector, filter, extractor, alone: OnceLock::new() }
    }

    /// Returns labels that every object has which the filter lets pass.
    pub(super) fn selector(&self) -> &Arc<str> {
        &self.selector
    }

    /// Returns what every object shows that the filter lets pass, one of these signs; `None` for nothing in common.
    pub(super) fn signs(&self, terms: Terms) -> Option<Vec<Sign>> {
        self.filter.signs(terms)
    }

    /// Returns what to decode of an object when nobody else wants it.
    fn plan(&self) -> &Plan {
        self.alone.get_or_init(|| Plan::new([self.extractor.prefixes(), &self.reads]))
    }
}

impl Interest {
    /// Returns the target's key.
    pub fn key(&self) -> &TargetKey {
        &self.target.origin().target
    }

    /// Returns on what terms the target collects there, if it does.
    fn terms(&self, namespace: &str) -> Option<Terms> {
        let terms = self.namespaces.get(namespace).copied();
        terms.or_else(|| (self.resource.scope == Scope::Cluster && namespace.is_empty()).then(Terms::default))
    }
}

/// The interests by resource, namespace and what objects show: an event does not pay for targets that do not want it.
#[derive(Debug, Default)]
pub(super) struct Index {
    resources: HashMap<Arc<Resource>, ResourceIndex>,
}

#[derive(Debug)]
struct ResourceIndex {
    api_version: String,
    kind: Arc<str>,
    by_namespace: HashMap<Namespace, Audience>,
    /// Targets of the resource, whatever their namespaces; the registrations of a cluster target are one.
    targets: usize,
    counters: ResourceCounters,
}

/// What a lane keeps for the next event, so that none has to ask for memory.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    text: Vec<u8>,
    holders: Vec<Holder>,
    places: Vec<usize>,
}

impl Index {
    fn new<'a>(interests: impl IntoIterator<Item = &'a Arc<Interest>>, metrics: &Metrics) -> Self {
        let mut grouped: HashMap<Arc<Resource>, Vec<&Arc<Interest>>> = HashMap::new();
        for interest in interests {
            grouped.entry(interest.resource.clone()).or_default().push(interest);
        }
        let resources = grouped.into_iter().map(|(resource, interests)| {
            let index = ResourceIndex::new(&resource, &interests, metrics);
            (resource, index)
        });
        Self { resources: resources.collect() }
    }

    /// Returns our copy of a namespace that some target wants objects of.
    pub(super) fn wanted(&self, resource: &Resource, namespace: &str) -> Option<Namespace> {
        self.resources.get(resource)?.by_namespace.get_key_value(namespace).map(|(namespace, _)| namespace.clone())
    }

    /// Counts the targets that a stream over all namespaces brought an object for nothing.
    pub(super) fn count_mismatches(&self, resource: &Resource, namespace: &str) {
        let Some(index) = self.resources.get(resource) else { return };
        let wanting = index.by_namespace.get(namespace).map_or(0, |audience| audience.all().len());
        index.counters.mismatches.inc_by(index.targets.saturating_sub(wanting) as u64);
    }

    /// Returns the interests in one namespace of a resource, or in all.
    pub(super) fn interests(&self, resource: &Resource, namespace: Option<&Namespace>) -> Vec<Arc<Interest>> {
        let Some(index) = self.resources.get(resource) else { return Vec::new() };
        if let Some(namespace) = namespace {
            let there = index.by_namespace.get(namespace).into_iter().flat_map(Audience::all);
            return there.map(|asking| asking.interest.clone()).collect();
        }
        let all = index.by_namespace.values().flat_map(Audience::all).map(|asking| &asking.interest);
        let by_key: BTreeMap<&ObjectKey, &Arc<Interest>> = all.map(|interest| (interest.key(), interest)).collect();
        by_key.into_values().cloned().collect()
    }
}

impl ResourceIndex {
    fn supplied(&self) -> TypeMeta<'_> {
        TypeMeta { api_version: &self.api_version, kind: &self.kind }
    }

    fn new(resource: &Resource, interests: &[&Arc<Interest>], metrics: &Metrics) -> Self {
        let mut by_namespace: HashMap<Namespace, Vec<Asking>> = HashMap::new();
        for interest in interests {
            // All objects of a cluster-scoped resource are in the namespace without a name.
            let nowhere = [Namespace::new("")];
            let namespaces: Vec<&Namespace> = match resource.scope {
                Scope::Namespaced => interest.namespaces.keys().collect(),
                Scope::Cluster => nowhere.iter().collect(),
            };
            for namespace in namespaces {
                if let Some(terms) = interest.terms(namespace.as_str()) {
                    let asking = Asking { interest: (*interest).clone(), terms };
                    by_namespace.entry(namespace.clone()).or_default().push(asking);
                }
            }
        }
        let kind = interests.first().map_or_else(|| "".into(), |interest| interest.target.origin().gvk.kind.clone());
        let mut plans = Plans::default();
        let by_namespace = by_namespace
            .into_iter()
            .map(|(namespace, asking)| {
                let plan = plans.of(&asking);
                (namespace, Audience::new(asking, plan))
            })
            .collect();
        // What is registered in many namespaces has one program.
        let targets = plans.programs.len();
        let counters = metrics.resource(&resource.group, &resource.version, &resource.plural);
        Self { api_version: resource.api_version(), kind, by_namespace, targets, counters }
    }
}

/// What to decode, for each set of programs; that of the cluster targets is the same in many namespaces.
#[derive(Default)]
struct Plans {
    programs: HashSet<*const Program>,
    of_sets: HashMap<BTreeSet<*const Program>, Arc<Plan>>,
}

impl Plans {
    fn of(&mut self, asking: &[Asking]) -> Arc<Plan> {
        let programs: BTreeMap<*const Program, &Program> =
            asking.iter().map(|asking| (Arc::as_ptr(&asking.interest.program), &*asking.interest.program)).collect();
        self.programs.extend(programs.keys());
        let plan = self.of_sets.entry(programs.keys().copied().collect());
        let read = || programs.values().flat_map(|program| [program.extractor.prefixes(), &program.reads]);
        plan.or_insert_with(|| Arc::new(Plan::new(read()))).clone()
    }
}

/// An object that was read.
struct Shown<'a> {
    event: &'a Event,
    object: &'a Object<'a>,
    candidate: Candidate<'a>,
    /// Who holds something of it.
    holders: &'a [Holder],
}

impl<'a> Shown<'a> {
    fn new(object: &'a Object<'a>, event: &'a Event, holders: &'a [Holder]) -> Self {
        Self { event, object, candidate: Candidate::new(object), holders }
    }
}

/// Decodes, filters, extracts and stores.
#[derive(Debug)]
pub(super) struct Processor {
    index: RwLock<Arc<Index>>,
    store: Store,
    metrics: Arc<Metrics>,
}

impl Processor {
    pub(super) fn new(store: Store, metrics: Arc<Metrics>) -> Self {
        Self { index: RwLock::default(), store, metrics }
    }

    pub(super) fn index(&self) -> Arc<Index> {
        self.index.read().clone()
    }

    /// Says who wants what from now on.
    pub(super) fn watch_for<'a>(&self, interests: impl IntoIterator<Item = &'a Arc<Interest>>) {
        let index = Index::new(interests, &self.metrics);
        let before = std::mem::replace(&mut *self.index.write(), Arc::new(index));
        let now = self.index();
        for resource in before.resources.keys().filter(|resource| !now.resources.contains_key(*resource)) {
            self.metrics.forget_resource(&resource.group, &resource.version, &resource.plural);
        }
    }

    /// Handles one event. A broken object costs its own row and nothing else.
    pub(super) fn handle(&self, event: &Event, scratch: &mut Scratch) {
        let index = self.index();
        let Some(resource) = index.resources.get(&event.resource) else { return };
        let Some(audience) = resource.by_namespace.get(&event.namespace) else { return };
        let Scratch { text, holders, places } = scratch;
        holders.clear();
        self.store.holders(&event.uid, holders);
        if event.change == Change::Delete {
            audience.holding(holders).for_each(|asking| {
                asking.interest.target.remove(&event.uid);
            });
            return;
        }
        let known = match extract::decode(&event.text, audience.plan(), resource.supplied()) {
            Ok(object) => {
                let shown = Shown::new(&object, event, holders);
                let mut known = false;
                for asking in audience.concerned(&shown.candidate, holders, places) {
                    known |= self.offer(asking, &shown, text);
                }
                known
            }
            Err(_) => audience.all().iter().fold(false, |known, asking| {
                known | self.offer_alone(asking, event, resource.supplied(), holders, text)
            }),
        };
        if known && event.change == Change::Listed {
            resource.counters.resyncs.inc();
        }
    }

    /// Gives an object to one target, which may not want it, or no longer. Tells whether it had a row that stays as it is.
    fn offer(&self, Asking { interest, terms }: &Asking, shown: &Shown<'_>, text: &mut Vec<u8>) -> bool {
        let Shown { event, candidate, .. } = shown;
        if !interest.program.filter.wants(candidate, *terms) {
            if shown.holders.contains(&interest.target.holder()) {
                interest.target.remove(&event.uid);
            }
            return false;
        }
        text.clear();
        match interest.program.extractor.extract(shown.object, text) {
            Ok(extracted) => {
                if let Some(body) = Body::new(candidate.name(), text) {
                    if extracted.sanitized {
                        self.metrics.rows_sanitized.inc();
                    }
                    let target = &interest.target;
                    return !target.apply(&event.uid, &event.namespace, body, extracted.sanitized, event.mark);
                }
                self.failed(interest, event, "the object's name is longer than 65535 bytes");
            }
            Err(error) => self.failed(interest, event, &crate::error::chain(&error)),
        }
        false
    }

    /// Gives an object that cannot be read as far as all want it together to one of them, as far as that one wants it: what
    /// is nested too deeply may be nothing that it reads. Tells as [`Processor::offer`].
    fn offer_alone(
        &self,
        asking: &Asking,
        event: &Event,
        supplied: TypeMeta<'_>,
        holders: &[Holder],
        text: &mut Vec<u8>,
    ) -> bool {
        let Asking { interest, terms } = asking;
        let error = match extract::decode(&event.text, interest.program.plan(), supplied) {
            Ok(object) => return self.offer(asking, &Shown::new(&object, event, holders), text),
            Err(error) => error,
        };
        // Who does not want it does not miss it.
        let judged = extract::decode(&event.text, &Plan::new([&interest.program.reads]), supplied);
        match judged {
            Ok(object) if !interest.program.filter.wants(&Candidate::new(&object), *terms) => {
                self.offer(asking, &Shown::new(&object, event, holders), text)
            }
            Ok(_) | Err(_) => {
                self.failed(interest, event, &crate::error::chain(&error));
                false
            }
        }
    }

    fn failed(&self, interest: &Interest, event: &Event, message: &str) {
        self.metrics.row_failed();
        interest.target.fail(&event.uid, &event.namespace, message, event.mark);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::{Gvk, Name, Origin, Uid};
    use crate::store::Coverage;
    use crate::watch::filter::{Choice, Rule};
    use crate::{expr::Policy, extract::Attribute};

    struct Stage {
        store: Store,
        processor: Processor,
        resource: Arc<Resource>,
        interests: Vec<Arc<Interest>>,
    }

    impl Stage {
        fn new(scope: Scope) -> Self {
            let resource = Resource { group: "".into(), version: "v1".into(), plural: "things".into(), scope };
            let store = Store::default();
            Self {
                processor: Processor::new(store.clone(), Arc::new(Metrics::new("test", "test"))),
                store,
                resource: Arc::new(resource),
                interests: Vec::new(),
            }
        }

        /// Registers a target that collects in these namespaces, as the control would.
        fn target(&mut self, name: &str, namespaces: &[(&str, Terms)], filter: Filter) {
            let gvk = Gvk { group: "".into(), version: "v1".into(), kind: "Thing".into() };
            let key = ObjectKey::new(Namespace::new("team"), Name::new(name));
            let target = self.store.register(Origin { target: key, gvk });
            let namespaces: BTreeMap<Namespace, Terms> =
                namespaces.iter().map(|(name, terms)| (Namespace::new(*name), *terms)).collect();
            target.cover(&match self.resource.scope {
                Scope::Namespaced => Coverage::Namespaces(Arc::new(namespaces.keys().cloned().collect())),
                Scope::Cluster => Coverage::Cluster,
            });
            let shape = crate::expr::Shape::Any;
            let attribute = Attribute { name: "image".into(), path: "$.image".into(), shape, optional: true };
            let program = Arc::new(Program::new(filter, Extractor::compile(&[attribute], &[]).unwrap()));
            let resource = self.resource.clone();
            let interest = Interest { target, resource, program, namespaces: Arc::new(namespaces) };
            self.interests.push(Arc::new(interest));
        }

        /// Handles one event; returns which targets have a row then.
        fn put(&self, namespace: &str, text: &'static str) -> Vec<String> {
            self.processor.watch_for(&self.interests);
            let event = Event {
                resource: self.resource.clone(),
                change: Change::Put,
                uid: Uid::new("u1"),
                namespace: Namespace::new(namespace),
                mark: 1,
                text: Bytes::from_static(text.as_bytes()),
            };
            self.processor.handle(&event, &mut Scratch::default());
            let rows = self.store.table(&Namespace::new("team")).rows();
            rows.iter().map(|row| row.origin.target.name.to_string()).collect()
        }
    }

    fn rules(policies: &[Option<&str>]) -> Filter {
        let rule = |(number, source): (usize, Option<&str>)| Rule {
            number,
            labels: kube::core::Selector::default(),
            policy: source.map(|source| Policy::compile(source).unwrap()),
        };
        Filter { choice: Choice::Rules(policies.iter().copied().enumerate().map(rule).collect()), ..Filter::default() }
    }

    #[test]
    fn what_a_condition_reads_is_decoded_whatever_the_attributes_read() {
        let mut stage = Stage::new(Scope::Namespaced);
        let terms = Terms { rules: [0].into_iter().collect(), ..Terms::default() };
        stage.target("big", &[("n", terms)], rules(&[Some("object.size > 3 && object.kind == 'Thing'")]));
        stage.target("small", &[("n", terms)], rules(&[Some("object.size <= 3")]));
        assert_eq!(stage.put("n", r#"{"metadata":{"name":"a"},"size":5,"image":"i"}"#), ["big"]);
        // What a rule no longer matches loses its row.
        assert_eq!(stage.put("n", r#"{"metadata":{"name":"a"},"size":2,"image":"i"}"#), ["small"]);
    }

    #[test]
    fn a_rule_counts_only_where_it_applies() {
        let mut stage = Stage::new(Scope::Namespaced);
        let second = Terms { rules: [1].into_iter().collect(), ..Terms::default() };
        stage.target("t", &[("n", second)], rules(&[None, Some("object.size > 3")]));
        assert_eq!(stage.put("n", r#"{"metadata":{"name":"a"},"size":2}"#), Vec::<String>::new());
        assert_eq!(stage.put("n", r#"{"metadata":{"name":"a"},"size":4}"#), ["t"]);
    }

    #[test]
    fn an_object_without_a_namespace_is_wanted_on_the_terms_of_the_empty_one() {
        let mut stage = Stage::new(Scope::Cluster);
        let disabled = Terms { consent: crate::watch::Consent::Disabled, ..Terms::default() };
        stage.target("plain", &[], Filter::default());
        stage.target("refused", &[("", disabled)], Filter::default());
        stage.target("twice", &[("", Terms::default()), ("n", Terms::default())], Filter::default());
        assert_eq!(stage.put("", r#"{"metadata":{"name":"a"}}"#), ["plain", "twice"]);
    }

    /// A filter by name and labels.
    fn plain(names: &[&'static str], labels: &[kube::core::Expression]) -> Filter {
        let names = names.iter().map(|name| Name::new(*name)).collect();
        Filter { choice: Choice::Plain { names, labels: labels.iter().cloned().collect() }, ..Filter::default() }
    }

    #[test]
    fn whoever_has_a_row_loses_it_when_the_object_shows_what_only_others_want() {
        use kube::core::Expression::{Equal, Exists, NotEqual};
        let mut stage = Stage::new(Scope::Namespaced);
        let (app, red, blue) = (|| "app".to_owned(), || "red".to_owned(), || "blue".to_owned());
        for (name, filter) in [
            ("blue", plain(&[], &[Equal(app(), blue())])),
            ("named", plain(&["a", "b"], &[])),
            ("not-red", plain(&[], &[NotEqual(app(), red())])),
            ("opt-in", Filter { mode: crate::api::v1alpha1::WatchMode::OptIn, ..Filter::default() }),
            ("red", plain(&[], &[Equal(app(), red())])),
            ("with-app", plain(&[], &[Exists(app())])),
        ] {
            stage.target(name, &[("n", Terms::default())], filter);
        }
        for (text, want) in [
            (r#"{"metadata":{"name":"a","labels":{"app":"red"}}}"#, &["named", "red", "with-app"][..]),
            (r#"{"metadata":{"name":"a","labels":{"app":"blue"}}}"#, &["blue", "named", "not-red", "with-app"]),
            (r#"{"metadata":{"name":"a","labels":{"kollect.dev/watch":"enabled"}}}"#, &["named", "not-red", "opt-in"]),
            (r#"{"metadata":{"name":"a","labels":{"kollect.dev/watch":"disabled","app":"red"}}}"#, &[]),
            (r#"{"metadata":{"name":"c","labels":{"app":"red"}}}"#, &["red", "with-app"]),
            // Nobody knows who would want it.
            (r#"{"metadata":{"name":"c","labels":{"app""#, &[]),
            (r#"{"metadata":{"name":"c","labels":{"app":"green"}}}"#, &["not-red", "with-app"]),
        ] {
            assert_eq!(stage.put("n", text), want, "{text}");
        }
        let failing =
            |target: &Interest| stage.store.table(&target.key().namespace).target_counts(&target.key().name).failing;
        assert_eq!(
            stage.interests.iter().map(|interest| failing(interest)).sum::<usize>(),
            0,
            "what it was is forgotten"
        );
    }

    #[test]
    fn targets_of_one_namespace_that_cannot_want_an_object_are_not_asked() {
        use kube::core::Expression::Equal;
        let mut stage = Stage::new(Scope::Namespaced);
        stage.target("here", &[("n", Terms::default())], plain(&[], &[Equal("app".into(), "web".into())]));
        for number in 0..500 {
            let app = plain(&[], &[Equal("app".to_owned(), format!("app-{number}"))]);
            stage.target(&format!("app-{number}"), &[("n", Terms::default())], app);
            stage.target(&format!("named-{number}"), &[("n", Terms::default())], plain(&["other"], &[]));
        }
        let text = r#"{"metadata":{"name":"a","labels":{"app":"web"}}}"#;
        assert_eq!(stage.put("n", text), ["here"]);
        let index = stage.processor.index();
        let audience = &index.resources[&stage.resource].by_namespace["n"];
        let object = extract::decode(text.as_bytes(), audience.plan(), TypeMeta { api_version: "v1", kind: "Thing" });
        let (object, mut places, mut holders) = (object.unwrap(), Vec::new(), Vec::new());
        stage.store.holders(&Uid::new("u1"), &mut holders);
        assert_eq!(audience.concerned(&Candidate::new(&object), &holders, &mut places).count(), 1);
        assert_eq!(audience.holding(&holders).count(), 1);
    }

    #[test]
    fn an_object_that_is_too_deep_for_one_target_is_read_by_those_that_do_not_go_there() {
        let mut stage = Stage::new(Scope::Namespaced);
        let terms = Terms { rules: [0].into_iter().collect(), ..Terms::default() };
        stage.target("deep", &[("n", terms)], rules(&[Some("object.deep == [] || true")]));
        stage.target("other", &[("n", Terms::default())], plain(&["b"], &[]));
        stage.target("shallow", &[("n", Terms::default())], Filter::default());
        let deep =
            format!(r#"{{"metadata":{{"name":"a"}},"image":"i","deep":{}{}}}"#, "[".repeat(500), "]".repeat(500));
        assert_eq!(stage.put("n", deep.leak()), ["shallow"]);
        let failing = || -> Vec<usize> {
            let counts =
                |target: &Interest| stage.store.table(&target.key().namespace).target_counts(&target.key().name);
            stage.interests.iter().map(|interest| counts(interest).failing).collect()
        };
        assert_eq!(failing(), [1, 0, 0]);
        // Also where what is wanted cannot be read, and the object is not wanted.
        stage.target("reads", &[("n", Terms::default())], plain(&["b"], &[]));
        let image = format!(r#"{{"metadata":{{"name":"a"}},"image":{}{}}}"#, "[".repeat(500), "]".repeat(500));
        assert_eq!(stage.put("n", image.leak()), Vec::<String>::new());
        let failing =
            |target: &Interest| stage.store.table(&target.key().namespace).target_counts(&target.key().name).failing;
        assert_eq!(stage.interests.iter().map(|interest| failing(interest)).collect::<Vec<_>>(), [1, 0, 1, 0]);
    }

    #[test]
    fn what_a_target_of_another_namespace_reads_is_not_decoded() {
        let mut stage = Stage::new(Scope::Namespaced);
        stage.target("plain", &[("n", Terms::default())], Filter::default());
        let terms = Terms { rules: [0].into_iter().collect(), ..Terms::default() };
        stage.target("whole", &[("m", terms)], rules(&[Some("object == object")]));
        stage.processor.watch_for(&stage.interests);
        let index = stage.processor.index();
        let whole = |namespace| index.resources[&stage.resource].by_namespace[namespace].plan().is_whole();
        assert!(!whole("n") && whole("m"));
    }

    #[test]
    fn targets_of_other_namespaces_are_not_asked() {
        let mut stage = Stage::new(Scope::Namespaced);
        stage.target("here", &[("n", Terms::default())], Filter::default());
        for number in 0..1000 {
            stage.target(&format!("t{number}"), &[(&format!("n{number}"), Terms::default())], Filter::default());
        }
        assert_eq!(stage.put("n", r#"{"metadata":{"name":"a"}}"#), ["here"]);
        let index = stage.processor.index();
        assert_eq!(index.interests(&stage.resource, Some(&Namespace::new("n"))).len(), 1);
        // What nobody wants is not even queued.
        assert_eq!(index.wanted(&stage.resource, "nobodys"), None);
    }
}
