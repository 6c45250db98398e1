//! Which streams the interests of all targets take, within the budget of connections. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::api::Extent;
use super::discover::{Resource, Scope};
use super::process::Interest;
use crate::model::Namespace;

/// How many streams there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Up to so many namespaces of a resource are watched one by one.
    pub(super) namespaced: usize,
    /// Namespaced streams over all resources.
    pub(super) connections: usize,
    pub(super) cluster_wide: ClusterWide,
}

/// Whether one stream may cover all namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterWide {
    /// It may, where the API server permits it.
    Allowed,
    /// It may not: nobody asks for it.
    Never,
}

/// What is decided.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Streams {
    pub(super) open: BTreeSet<Extent>,
    /// Wanted, and over the budget.
    pub(super) left_out: BTreeSet<Extent>,
}

/// The labels that all who share a stream ask for; empty when they disagree.
#[derive(Debug, Clone)]
struct Agreed(Arc<str>);

impl Agreed {
    fn join(&mut self, other: &Arc<str>) {
        if self.0 != *other {
            self.0 = "".into();
        }
    }
}

/// What is wanted of one resource.
#[derive(Debug, Default)]
pub(super) struct Wanted<'a> {
    namespaces: BTreeMap<&'a Namespace, Agreed>,
    /// What all agree on that want anything.
    all: Option<Agreed>,
}

impl<'a> Wanted<'a> {
    fn add(&mut self, interest: &'a Interest) {
        let selector = interest.program.selector();
        if interest.resource.scope == Scope::Namespaced && interest.namespaces.is_empty() {
            return;
        }
        self.all.get_or_insert_with(|| Agreed(selector.clone())).join(selector);
        for namespace in interest.namespaces.keys() {
            self.namespaces.entry(namespace).or_insert_with(|| Agreed(selector.clone())).join(selector);
        }
    }

    /// Counts the namespaces in which somebody wants objects.
    pub(super) fn count(&self) -> usize {
        self.namespaces.len()
    }

    /// Returns the streams of one namespace each.
    fn namespaced(&self, resource: &Arc<Resource>) -> impl Iterator<Item = Extent> {
        self.namespaces.iter().map(|(namespace, Agreed(selector))| Extent {
            resource: resource.clone(),
            namespace: Some((*namespace).clone()),
            selector: selector.clone(),
        })
    }

    /// Returns the stream over all namespaces, or over what is in none.
    pub(super) fn wide(&self, resource: &Arc<Resource>) -> Extent {
        let selector = self.all.as_ref().map_or_else(|| "".into(), |Agreed(selector)| selector.clone());
        Extent { resource: resource.clone(), namespace: None, selector }
    }
}

/// Gathers what all targets want, by resource.
pub(super) fn wanted<'a>(
    interests: impl IntoIterator<Item = &'a Arc<Interest>>,
) -> BTreeMap<&'a Arc<Resource>, Wanted<'a>> {
    let mut wanted: BTreeMap<&Arc<Resource>, Wanted<'_>> = BTreeMap::new();
    for interest in interests {
        wanted.entry(&interest.resource).or_default().add(interest);
    }
    wanted
}

/// Decides which streams are open. `narrow` are resources whose cluster-wide list is refused; what `runs` is kept before
/// anything new is opened. The server filters by labels where all targets of a stream agree on them.
pub(super) fn streams(
    wanted: &BTreeMap<&Arc<Resource>, Wanted<'_>>,
    narrow: &BTreeSet<Arc<Resource>>,
    limits: &Limits,
    runs: impl Fn(&Extent) -> bool,
) -> Streams {
    let mut streams = Streams::default();
    let may_be_wide = |resource: &Arc<Resource>| {
        resource.scope == Scope::Cluster || (limits.cluster_wide == ClusterWide::Allowed && !narrow.contains(resource))
    };
    let (free_to_choose, mut forced): (Vec<_>, Vec<_>) = wanted.iter().partition(|(resource, _)| may_be_wide(resource));
    // First those that have no choice, the smallest of them before the others.
    forced.sort_by_key(|(_, wanted)| wanted.count());
    let mut free = limits.connections;
    for (resource, wanted) in forced {
        let (running, new): (Vec<Extent>, Vec<Extent>) = wanted.namespaced(resource).partition(&runs);
        for extent in running.into_iter().chain(new) {
            if free == 0 {
                streams.left_out.insert(extent);
            } else {
                free -= 1;
                streams.open.insert(extent);
            }
        }
    }
    for (resource, wanted) in free_to_choose {
        if resource.scope == Scope::Namespaced && wanted.count() <= limits.namespaced && wanted.count() <= free {
            free -= wanted.count();
            streams.open.extend(wanted.namespaced(resource));
        } else {
            tracing::debug!(
                group = %resource.group, version = %resource.version, resource = %resource.plural,
                "cluster-wide informer scope for GVR"
            );
            streams.open.insert(wanted.wide(resource));
        }
    }
    streams
}

#[cfg(test)]
mod tests {
    use kube::core::{Expression, Selector};

    use super::*;
    use crate::extract::Extractor;
    use crate::model::{Gvk, Name, ObjectKey, Origin};
    use crate::store::Store;
    use crate::watch::Program;
    use crate::watch::filter::{Choice, Filter, Terms};

    const LIMITS: Limits = Limits { namespaced: 2, connections: 3, cluster_wide: ClusterWide::Allowed };

    fn resource(plural: &str, scope: Scope) -> Arc<Resource> {
        Arc::new(Resource { group: "".into(), version: "v1".into(), plural: plural.into(), scope })
    }

    fn names(names: &[&'static str]) -> Vec<Namespace> {
        names.iter().map(|name| Namespace::new(*name)).collect()
    }

    fn numbered(count: usize) -> Vec<Namespace> {
        (0..count).map(|index| Namespace::new(format!("n{index}"))).collect()
    }

    fn interest(
        resource: &Arc<Resource>,
        target: &str,
        namespaces: Vec<Namespace>,
        app: Option<&str>,
    ) -> Arc<Interest> {
        let gvk = Gvk { group: "".into(), version: "v1".into(), kind: "Thing".into() };
        let key = ObjectKey::new(Namespace::new("team"), Name::new(target));
        let labels = app.map(|app| Expression::Equal("app".to_owned(), app.to_owned()));
        let labels: Selector = labels.into_iter().collect();
        let choice = Choice::Plain { names: BTreeSet::new(), labels };
        let filter = Filter { choice, ..Filter::default() };
        Arc::new(Interest {
            target: Store::default().register(Origin { target: key, gvk }),
            resource: resource.clone(),
            program: Arc::new(Program::new(filter, Extractor::compile(&[], &[]).unwrap())),
            namespaces: Arc::new(namespaces.into_iter().map(|name| (name, Terms::default())).collect()),
        })
    }

    fn shown(extents: &BTreeSet<Extent>) -> Vec<String> {
        let shown = |extent: &Extent| {
            let namespace = extent.namespace.as_ref().map_or("*", Namespace::as_str);
            format!("{} {namespace} {}", extent.resource.plural, extent.selector).trim_end().to_owned()
        };
        extents.iter().map(shown).collect()
    }

    fn planned(interests: &[Arc<Interest>], narrow: &[&Arc<Resource>]) -> Vec<String> {
        let narrow = narrow.iter().map(|resource| (*resource).clone()).collect();
        let Streams { open, left_out } = streams(&wanted(interests), &narrow, &LIMITS, |_| false);
        assert_eq!(left_out, BTreeSet::new());
        shown(&open)
    }

    /// Says for each resource how many namespaced streams are open and left out; `wide` stands for one over all.
    fn words(streams: &Streams) -> Vec<String> {
        let mut counts: BTreeMap<&str, (usize, usize, bool)> = BTreeMap::new();
        for extent in &streams.open {
            let count = counts.entry(&extent.resource.plural).or_default();
            if extent.namespace.is_some() { count.0 += 1 } else { count.2 = true }
        }
        for extent in &streams.left_out {
            counts.entry(&extent.resource.plural).or_default().1 += 1;
        }
        let words = counts.into_iter().map(|(name, (open, left_out, wide))| match (wide, left_out) {
            (true, _) => format!("{name} wide"),
            (false, 0) => format!("{name} {open}"),
            (false, _) => format!("{name} {open} without {left_out}"),
        });
        words.collect()
    }

    #[test]
    fn few_namespaces_are_watched_one_by_one_and_many_by_one_stream_unless_that_is_refused() {
        use ClusterWide::{Allowed, Never};
        for (a, b, narrow, cluster_wide, want) in [
            (0, 0, "", Allowed, &[][..]),
            (3, 0, "", Allowed, &["a 3"]),
            (4, 0, "", Allowed, &["a wide"]),
            (3, 3, "", Allowed, &["a 3", "b 3"]),
            (4, 3, "", Allowed, &["a wide", "b 3"]),
            // Refused: namespaced, and the other gives way.
            (4, 3, "a", Allowed, &["a 4", "b 3"]),
            (6, 3, "a", Allowed, &["a 6", "b wide"]),
            (9, 3, "a", Allowed, &["a 8 without 1", "b wide"]),
            // The smaller one has all it needs.
            (9, 3, "ab", Allowed, &["a 5 without 4", "b 3"]),
            (4, 0, "", Never, &["a 4"]),
            (4, 6, "", Never, &["a 4", "b 4 without 2"]),
        ] {
            let limits = Limits { namespaced: 3, connections: 8, cluster_wide };
            let of = |name: &str, count| interest(&resource(name, Scope::Namespaced), name, numbered(count), None);
            // A target without a namespace takes no stream, and no connection.
            let interests = [of("a", a), of("b", b)];
            let resources = interests.iter().map(|interest| interest.resource.clone());
            let narrow = resources.filter(|resource| narrow.contains(&*resource.plural)).collect();
            let decided = streams(&wanted(&interests), &narrow, &limits, |_| false);
            assert_eq!(words(&decided), want, "{a} {b} {cluster_wide:?}");
        }
    }

    #[test]
    fn what_runs_is_kept_before_anything_new_is_opened() {
        let limits = Limits { namespaced: 3, connections: 2, cluster_wide: ClusterWide::Never };
        let interests = [interest(&resource("a", Scope::Namespaced), "t", numbered(4), Some("web"))];
        let last = names(&["n2", "n3"]);
        let runs = |extent: &Extent| extent.namespace.as_ref().is_some_and(|namespace| last.contains(namespace));
        let Streams { open, left_out } = streams(&wanted(&interests), &BTreeSet::new(), &limits, runs);
        assert_eq!(shown(&open), ["a n2 app=web", "a n3 app=web"]);
        assert_eq!(shown(&left_out), ["a n0 app=web", "a n1 app=web"]);
    }

    #[test]
    fn a_target_that_goes_takes_its_streams_along() {
        let pods = resource("pods", Scope::Namespaced);
        let of = |target: &str, namespaces: &[&'static str]| interest(&pods, target, names(namespaces), None);
        let (one, two) = (of("one", &["a"]), of("two", &["a", "b"]));
        assert_eq!(planned(&[one.clone(), two.clone()], &[]), ["pods a", "pods b"]);
        assert_eq!(planned(&[one.clone(), two.clone(), of("three", &["c"])], &[]), ["pods *"]);
        assert_eq!(planned(&[one.clone(), two, of("three", &["c"])], &[&pods]), ["pods a", "pods b", "pods c"]);
        assert_eq!(planned(&[one], &[]), ["pods a"]);
        assert_eq!(planned(&[of("none", &[])], &[]), Vec::<String>::new());
        assert_eq!(planned(&[], &[]), Vec::<String>::new());
    }

    #[test]
    fn connections_are_bounded_over_all_resources() {
        let of = |plural: &str| interest(&resource(plural, Scope::Namespaced), plural, numbered(2), None);
        assert_eq!(planned(&[of("configmaps"), of("pods")], &[]), ["configmaps n0", "configmaps n1", "pods *"]);
    }

    #[test]
    fn a_cluster_scoped_kind_has_one_stream_whatever_the_budget() {
        let nodes = resource("nodes", Scope::Cluster);
        for namespaces in [&[][..], &[""][..]] {
            let interests = [interest(&nodes, "n", names(namespaces), Some("x"))];
            let limits = Limits { connections: 0, ..LIMITS };
            let decided = streams(&wanted(&interests), &BTreeSet::from([nodes.clone()]), &limits, |_| false);
            assert_eq!(shown(&decided.open), ["nodes * app=x"]);
        }
    }

    #[test]
    fn labels_are_asked_of_the_server_where_all_who_share_a_stream_agree() {
        let pods = resource("pods", Scope::Namespaced);
        let of = |target: &str, namespaces: &[&'static str], app| interest(&pods, target, names(namespaces), app);
        let (web, same) = (of("web", &["a", "b"], Some("web")), of("same", &["a"], Some("web")));
        assert_eq!(planned(&[web.clone(), same.clone()], &[]), ["pods a app=web", "pods b app=web"]);
        let other = of("other", &["a"], Some("api"));
        assert_eq!(planned(&[web.clone(), same.clone(), other.clone()], &[]), ["pods a", "pods b app=web"]);
        let (all, wide) = (of("all", &["b"], None), of("wide", &["a", "b", "c"], Some("web")));
        assert_eq!(planned(&[web.clone(), all.clone()], &[]), ["pods a app=web", "pods b"]);
        // Over all namespaces, everybody counts; but not who wants nothing.
        assert_eq!(planned(&[web.clone(), wide.clone(), of("none", &[], None)], &[]), ["pods * app=web"]);
        // Refused, it is each namespace by itself again.
        let each = ["pods a app=web", "pods b", "pods c app=web"];
        assert_eq!(planned(&[web.clone(), wide.clone(), all.clone()], &[&pods]), each);
        assert_eq!(planned(&[web, wide, all], &[]), ["pods *"]);
    }

    #[test]
    fn a_very_long_selector_is_not_sent() {
        let pods = resource("pods", Scope::Namespaced);
        let long = "x".repeat(3000);
        assert_eq!(planned(&[interest(&pods, "t", names(&["a"]), Some(&long))], &[]), ["pods a"]);
    }
}
