//! Which streams the targets' wishes take, within the budget of connections. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::api::Extent;
use super::discover::{Resource, Scope};
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

/// Decides which streams are open. `narrow` are resources whose cluster-wide list is refused; what `runs` is kept before
/// anything new is opened.
pub(super) fn streams(
    wanted: &BTreeMap<Arc<Resource>, BTreeSet<Namespace>>,
    narrow: &BTreeSet<Arc<Resource>>,
    limits: &Limits,
    runs: impl Fn(&Extent) -> bool,
) -> Streams {
    let mut streams = Streams::default();
    let mut forced: Vec<(&Arc<Resource>, &BTreeSet<Namespace>)> = Vec::new();
    let namespaced = |resource: &Arc<Resource>| resource.scope == Scope::Namespaced;
    let may_be_wide =
        |resource: &Arc<Resource>| limits.cluster_wide == ClusterWide::Allowed && !narrow.contains(resource);
    // First those that have no choice, the smallest of them before the others.
    for (resource, namespaces) in wanted.iter().filter(|(resource, _)| namespaced(resource) && !may_be_wide(resource)) {
        forced.push((resource, namespaces));
    }
    forced.sort_by_key(|(_, namespaces)| namespaces.len());
    let mut free = limits.connections;
    for (resource, namespaces) in forced {
        let extents = namespaces
            .iter()
            .map(|namespace| Extent { resource: resource.clone(), namespace: Some(namespace.clone()) });
        let (running, new): (Vec<Extent>, Vec<Extent>) = extents.partition(&runs);
        for extent in running.into_iter().chain(new) {
            if free == 0 {
                streams.left_out.insert(extent);
            } else {
                free -= 1;
                streams.open.insert(extent);
            }
        }
    }
    for (resource, namespaces) in wanted {
        if namespaced(resource) && !may_be_wide(resource) {
            continue;
        }
        if namespaced(resource) && namespaces.len() <= limits.namespaced && namespaces.len() <= free {
            free -= namespaces.len();
            streams.open.extend(
                namespaces
                    .iter()
                    .map(|namespace| Extent { resource: resource.clone(), namespace: Some(namespace.clone()) }),
            );
        } else {
            streams.open.insert(Extent { resource: resource.clone(), namespace: None });
        }
    }
    streams
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(plural: &str, scope: Scope) -> Arc<Resource> {
        Arc::new(Resource { group: "".into(), version: "v1".into(), plural: plural.into(), scope })
    }

    fn names(count: usize) -> BTreeSet<Namespace> {
        (0..count).map(|index| Namespace::new(format!("n{index}"))).collect()
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
            let wanted: BTreeMap<_, _> = [("a", a), ("b", b)]
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(name, count)| (resource(name, Scope::Namespaced), names(count)))
                .collect();
            let narrow = wanted.keys().filter(|resource| narrow.contains(&*resource.plural)).cloned().collect();
            let decided = streams(&wanted, &narrow, &limits, |_| false);
            assert_eq!(words(&decided), want, "{a} {b} {cluster_wide:?}");
        }
    }

    #[test]
    fn what_runs_is_kept_before_anything_new_is_opened() {
        let limits = Limits { namespaced: 3, connections: 2, cluster_wide: ClusterWide::Never };
        let wanted = BTreeMap::from([(resource("a", Scope::Namespaced), names(4))]);
        let last = ["n2", "n3"].map(Namespace::new);
        let runs = |extent: &Extent| extent.namespace.as_ref().is_some_and(|namespace| last.contains(namespace));
        let decided = streams(&wanted, &BTreeSet::new(), &limits, runs);
        assert!(decided.open.iter().all(runs) && decided.open.len() == 2, "{decided:?}");
        assert_eq!(decided.left_out.len(), 2);
    }

    #[test]
    fn a_cluster_scoped_kind_has_one_stream_whatever_the_budget() {
        let limits = Limits { namespaced: 3, connections: 0, cluster_wide: ClusterWide::Allowed };
        let wanted = BTreeMap::from([(resource("nodes", Scope::Cluster), BTreeSet::new())]);
        assert_eq!(words(&streams(&wanted, &BTreeSet::new(), &limits, |_| false)), ["nodes wide"]);
    }
}
