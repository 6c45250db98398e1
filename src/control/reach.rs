//! Where the operator looks for its own kinds and for namespaces, and how far it knows each place.
//!
//! Bound to namespaces (`--watch-namespaces`), it asks for nothing that takes rights elsewhere: one watch of each of our
//! kinds in each namespace, and one read of the namespace itself. A namespace is reconciled once all kinds were listed in
//! it: one without rights keeps no other waiting, and what may not be listed is not taken for deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace as KubeNamespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PartialObjectMeta, PartialObjectMetaExt};
use kube::runtime::watcher::Event;
use tokio::sync::mpsc;

use super::shelf::{Heard, Notice, Place};
use crate::api::v1alpha1::Kind;
use crate::config::Bound;
use crate::error::chain;
use crate::model::Namespace;
use crate::status::Subject;

/// Labels and annotations of a namespace that is read by itself are as old as this at the most.
const EVERY: Duration = Duration::from_secs(20);
/// The pause before namespaces are read again of which nothing is known yet.
const RETRY: Duration = Duration::from_secs(2);
/// So many refusals in a row are believed.
const BELIEVED: u32 = 5;
/// Deadline of reading one namespace.
const DEADLINE: Duration = Duration::from_secs(10);

/// Kinds that live in no namespace.
const CLUSTER_KINDS: [Kind; 3] = [Kind::ClusterTarget, Kind::ClusterScope, Kind::ClusterInventory];

/// Where our own kinds are watched.
#[derive(Debug)]
pub(super) struct Reach {
    bound: Bound,
    /// What was not listed yet, by namespace.
    waiting: BTreeMap<Namespace, BTreeSet<Kind>>,
    /// What may not be listed.
    refused: BTreeSet<(Namespace, Kind)>,
    /// Objects to reconcile once their namespace is known.
    held: BTreeSet<Subject>,
}

impl Reach {
    pub(super) fn new(bound: &Bound) -> Self {
        let kinds = || Kind::ALL.into_iter().filter(|kind| !CLUSTER_KINDS.contains(kind)).collect();
        let waiting = match bound {
            Bound::Cluster => BTreeMap::new(),
            Bound::Namespaces(names) => names.iter().map(|name| (name.clone(), kinds())).collect(),
        };
        Self { bound: bound.clone(), waiting, refused: BTreeSet::new(), held: BTreeSet::new() }
    }

    /// Returns where a kind is watched; nowhere if it lives outside the bound.
    pub(super) fn places(&self, kind: Kind) -> Vec<Place> {
        match &self.bound {
            Bound::Cluster => vec![None],
            Bound::Namespaces(_) if CLUSTER_KINDS.contains(&kind) => {
                tracing::info!(
                    kind = kind.as_str(),
                    "kind ignored: it lives in no namespace, and this operator looks at namespaces only"
                );
                Vec::new()
            }
            Bound::Namespaces(names) => names.iter().cloned().map(Some).collect(),
        }
    }

    /// Returns the namespaces to look at; `None` for all.
    pub(super) fn namespaces(&self) -> Option<&BTreeSet<Namespace>> {
        match &self.bound {
            Bound::Cluster => None,
            Bound::Namespaces(names) => Some(names),
        }
    }

    /// Tells whether every first list is complete or refused, where that is not known from the shelves.
    pub(super) fn listed(&self) -> bool {
        self.waiting
            .iter()
            .all(|(namespace, kinds)| kinds.iter().all(|kind| self.refused.contains(&(namespace.clone(), *kind))))
    }

    /// Tells whether all objects of ours in a namespace are known: what is not there does not exist.
    pub(super) fn knows(&self, namespace: &Namespace) -> bool {
        self.bound.contains(namespace) && !self.waiting.contains_key(namespace)
    }

    /// Keeps an object for the time when its namespace is known. Tells whether it has to wait.
    pub(super) fn hold(&mut self, subject: &Subject) -> bool {
        let waits = self.waiting.contains_key(&subject.1.namespace);
        if waits {
            self.held.insert(subject.clone());
        }
        waits
    }

    /// Notes the end of a list. Returns what waited for it.
    pub(super) fn hear(&mut self, kind: Kind, heard: &Heard) -> BTreeSet<Subject> {
        let (Some(namespace), Event::InitDone) = (&heard.place, &heard.event) else { return BTreeSet::new() };
        let Some(kinds) = self.waiting.get_mut(namespace) else { return BTreeSet::new() };
        kinds.remove(&kind);
        self.refused.remove(&(namespace.clone(), kind));
        if !kinds.is_empty() {
            return BTreeSet::new();
        }
        self.waiting.remove(namespace);
        self.held.extract_if(.., |(_, key)| key.namespace == *namespace).collect()
    }

    /// Notes that a kind may not be listed in a namespace.
    pub(super) fn refuse(&mut self, kind: Kind, namespace: &Namespace) {
        let waits = self.waiting.get(namespace).is_some_and(|kinds| kinds.contains(&kind));
        if waits && self.refused.insert((namespace.clone(), kind)) {
            tracing::warn!(
                kind = kind.as_str(),
                %namespace,
                "nothing of this namespace is reconciled before this kind may be listed there: grant get, list and watch"
            );
        }
    }
}

/// Reads labels and annotations of some namespaces, one by one, for ever. One that may not be read is taken to be there,
/// without labels.
pub(super) async fn read_namespaces(client: kube::Client, names: BTreeSet<Namespace>, notices: mpsc::Sender<Notice>) {
    let api: Api<KubeNamespace> = Api::all(client);
    let mut sight = Sight::default();
    let mut shown = false;
    loop {
        for name in &names {
            if let Some(found) = read(&api, name).await {
                sight.take(name, found);
            }
        }
        if !shown && sight.found.len() < names.len() {
            tokio::time::sleep(RETRY).await;
            continue;
        }
        for event in events(&sight.found, shown) {
            if notices.send(Notice::Namespace(event)).await.is_err() {
                return;
            }
        }
        shown = true;
        tokio::time::sleep(EVERY).await;
    }
}

type Seen = PartialObjectMeta<KubeNamespace>;

/// What is known of one namespace.
#[derive(Debug, Clone)]
enum Found {
    There(Box<Seen>),
    /// It may not be read.
    Bare(Box<Seen>),
    Absent(Box<Seen>),
}

/// What was found so far.
#[derive(Debug, Default)]
struct Sight {
    found: BTreeMap<Namespace, Found>,
    refused: BTreeMap<Namespace, u32>,
}

impl Sight {
    /// Takes in what one read found. Labels that were read once stay good while they may not be read again; a refusal of
    /// what was never read is believed after a few, for an API server that starts refuses everything for a moment.
    fn take(&mut self, name: &Namespace, found: Found) {
        if !matches!(found, Found::Bare(_)) {
            self.refused.remove(name);
            self.found.insert(name.clone(), found);
            return;
        }
        if self.found.contains_key(name) {
            return;
        }
        let refused = self.refused.entry(name.clone()).or_default();
        *refused += 1;
        if *refused >= BELIEVED {
            tracing::info!(
                namespace = %name,
                "namespace may not be read, its labels count as none: grant get on namespaces in it"
            );
            self.found.insert(name.clone(), found);
        }
    }
}

/// Reads one namespace; nothing when there was no answer.
async fn read(api: &Api<KubeNamespace>, name: &Namespace) -> Option<Found> {
    let bare = || {
        let metadata = ObjectMeta { name: Some(name.to_string()), ..ObjectMeta::default() };
        Box::new(metadata.into_response_partial::<KubeNamespace>())
    };
    match tokio::time::timeout(DEADLINE, api.get_metadata_opt(name.as_str())).await {
        Ok(Ok(Some(namespace))) => Some(Found::There(Box::new(namespace))),
        Ok(Ok(None)) => Some(Found::Absent(bare())),
        Ok(Err(kube::Error::Api(answer))) if answer.code == 403 => Some(Found::Bare(bare())),
        Ok(Err(error)) => {
            tracing::debug!(namespace = %name, error = chain(&error), "namespace not read, trying again");
            None
        }
        Err(_) => None,
    }
}

/// Says what was found as a watch would: as a list at first, as changes later.
fn events(found: &BTreeMap<Namespace, Found>, shown: bool) -> Vec<Event<Seen>> {
    let mut events = Vec::with_capacity(found.len() + 2);
    if !shown {
        events.push(Event::Init);
    }
    for namespace in found.values().cloned() {
        match namespace {
            Found::There(seen) | Found::Bare(seen) if shown => events.push(Event::Apply(*seen)),
            Found::There(seen) | Found::Bare(seen) => events.push(Event::InitApply(*seen)),
            Found::Absent(seen) if shown => events.push(Event::Delete(*seen)),
            Found::Absent(_) => {}
        }
    }
    if !shown {
        events.push(Event::InitDone);
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Name, ObjectKey};

    fn bound(names: &[&'static str]) -> Bound {
        Bound::Namespaces(names.iter().map(|name| Namespace::new(*name)).collect())
    }

    fn done(namespace: &'static str) -> Heard {
        Heard { place: Some(Namespace::new(namespace)), event: Event::InitDone }
    }

    #[test]
    fn without_a_bound_every_kind_is_watched_once_and_nothing_waits() {
        let mut reach = Reach::new(&Bound::Cluster);
        assert!(Kind::ALL.iter().all(|kind| reach.places(*kind) == [None]));
        let a = Namespace::new("a");
        let subject = (Kind::Target, ObjectKey::new(a.clone(), Name::new("t")));
        assert!(reach.listed() && reach.knows(&a) && !reach.hold(&subject) && reach.namespaces().is_none());
    }

    #[test]
    fn a_namespace_waits_for_all_its_kinds_and_for_no_other_namespace() {
        let mut reach = Reach::new(&bound(&["a", "b"]));
        let (a, b) = (Namespace::new("a"), Namespace::new("b"));
        assert_eq!(reach.places(Kind::Target), [Some(a.clone()), Some(b.clone())]);
        assert!(reach.places(Kind::ClusterTarget).is_empty());
        let of = |namespace: &Namespace| (Kind::Target, ObjectKey::new(namespace.clone(), Name::new("t")));
        assert!(reach.hold(&of(&a)) && reach.hold(&of(&b)));

        let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| !CLUSTER_KINDS.contains(kind)).collect();
        let (last, others) = kinds.split_last().unwrap();
        for kind in others {
            assert!(reach.hear(*kind, &done("a")).is_empty() && reach.hear(*kind, &done("b")).is_empty());
        }
        assert!(!reach.listed() && !reach.knows(&a));
        assert_eq!(reach.hear(*last, &done("a")), BTreeSet::from([of(&a)]));
        assert!(reach.knows(&a) && !reach.hold(&of(&a)), "all of it is known");
        assert!(!reach.knows(&Namespace::new("elsewhere")), "it is none of ours");

        // What may not be listed keeps its own namespace waiting, and nobody else.
        assert!(!reach.listed());
        reach.refuse(*last, &b);
        assert!(reach.listed() && !reach.knows(&b) && reach.hold(&of(&b)));
        assert_eq!(reach.hear(*last, &done("b")), BTreeSet::from([of(&b)]));
        assert!(reach.knows(&b));
    }

    fn seen(name: &str) -> Box<Seen> {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        Box::new(metadata.into_response_partial::<KubeNamespace>())
    }

    #[test]
    fn a_refusal_is_believed_after_a_few_and_takes_away_nothing_that_was_read() {
        let (mut sight, name) = (Sight::default(), Namespace::new("a"));
        for _ in 1..BELIEVED {
            sight.take(&name, Found::Bare(seen("a")));
            assert!(sight.found.is_empty(), "it may be the moment");
        }
        sight.take(&name, Found::Bare(seen("a")));
        assert!(matches!(sight.found.get(&name), Some(Found::Bare(_))));
        sight.take(&name, Found::There(seen("a")));
        for _ in 0..=BELIEVED {
            sight.take(&name, Found::Bare(seen("a")));
        }
        assert!(matches!(sight.found.get(&name), Some(Found::There(_))));
        sight.take(&name, Found::Absent(seen("a")));
        assert!(matches!(sight.found.get(&name), Some(Found::Absent(_))));
    }

    #[test]
    fn namespaces_that_are_read_one_by_one_come_as_a_list_and_then_as_changes() {
        let found = BTreeMap::from([
            (Namespace::new("a"), Found::There(seen("a"))),
            (Namespace::new("b"), Found::Absent(seen("b"))),
            (Namespace::new("c"), Found::Bare(seen("c"))),
        ]);
        let words = |shown| -> Vec<String> {
            let name = |seen: &Seen| seen.metadata.name.clone().unwrap_or_default();
            let word = |event: Event<Seen>| match event {
                Event::Init => "init".to_owned(),
                Event::InitApply(seen) => format!("list {}", name(&seen)),
                Event::InitDone => "done".to_owned(),
                Event::Apply(seen) => format!("put {}", name(&seen)),
                Event::Delete(seen) => format!("delete {}", name(&seen)),
            };
            events(&found, shown).into_iter().map(word).collect()
        };
        assert_eq!(words(false), ["init", "list a", "list c", "done"]);
        assert_eq!(words(true), ["put a", "delete b", "put c"]);
    }
}
