//! Which streams the interests of all targets take.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Settings;
use super::api::Extent;
use super::process::Interest;
use crate::model::Namespace;
use crate::watch::discover::{Resource, Scope};

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

/// Plans the streams. A resource is watched namespace by namespace while these are few, or where its cluster-wide list is
/// refused (`narrow`). The server filters by labels where all targets of a stream agree on them.
pub(super) fn extents<'a>(
    interests: impl IntoIterator<Item = &'a Arc<Interest>>,
    narrow: &BTreeSet<Arc<Resource>>,
    settings: &Settings,
) -> BTreeSet<Extent> {
    let mut wanted: BTreeMap<&Arc<Resource>, Wanted<'_>> = BTreeMap::new();
    for interest in interests {
        wanted.entry(&interest.resource).or_default().add(interest);
    }
    let mut extents = BTreeSet::new();
    let mut connections = 0;
    for (resource, Wanted { namespaces, all }) in wanted {
        let few =
            namespaces.len() <= settings.max_namespaced && connections + namespaces.len() <= settings.max_connections;
        if resource.scope == Scope::Namespaced && (few || narrow.contains(resource)) {
            connections += namespaces.len();
            extents.extend(namespaces.into_iter().map(|(namespace, Agreed(selector))| Extent {
                resource: resource.clone(),
                namespace: Some(namespace.clone()),
                selector,
            }));
        } else {
            tracing::debug!(
                group = %resource.group, version = %resource.version, resource = %resource.plural,
                "cluster-wide informer scope for GVR"
            );
            let selector = all.map_or_else(|| "".into(), |Agreed(selector)| selector);
            extents.insert(Extent { resource: resource.clone(), namespace: None, selector });
        }
    }
    extents
}

/// What is wanted of one resource.
#[derive(Debug, Default)]
struct Wanted<'a> {
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
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::time::Duration;

    use kube::core::{Expression, Selector};

    use super::*;
    use crate::extract::Extractor;
    use crate::model::{Gvk, Name, ObjectKey, Origin};
    use crate::store::Store;
    use crate::watch::filter::{Choice, Filter, Terms};
    use crate::watch::{Bounds, Program};

    const SETTINGS: Settings = Settings {
        dispatch: Bounds { workers: NonZeroUsize::MIN, queue: NonZeroUsize::MIN, patience: Duration::ZERO },
        max_namespaced: 2,
        max_connections: 3,
        resync: Duration::ZERO,
        server_minor: 34,
    };

    fn resource(plural: &str, scope: Scope) -> Arc<Resource> {
        Arc::new(Resource { group: "".into(), version: "v1".into(), plural: plural.into(), scope })
    }

    fn interest(
        resource: &Arc<Resource>,
        target: &str,
        namespaces: &[&'static str],
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
            namespaces: Arc::new(namespaces.iter().map(|name| (Namespace::new(*name), Terms::default())).collect()),
        })
    }

    fn planned(interests: &[Arc<Interest>], narrow: &[&Arc<Resource>]) -> Vec<String> {
        let narrow = narrow.iter().map(|resource| (*resource).clone()).collect();
        let shown = |extent: Extent| {
            let namespace = extent.namespace.as_ref().map_or("*", Namespace::as_str).to_owned();
            format!("{} {namespace} {}", extent.resource.plural, extent.selector).trim_end().to_owned()
        };
        extents(interests, &narrow, &SETTINGS).into_iter().map(shown).collect()
    }

    #[test]
    fn few_namespaces_are_watched_one_by_one_and_many_at_once() {
        let pods = resource("pods", Scope::Namespaced);
        let (one, two) = (interest(&pods, "one", &["a"], None), interest(&pods, "two", &["a", "b"], None));
        assert_eq!(planned(&[one.clone(), two.clone()], &[]), ["pods a", "pods b"]);
        let three = interest(&pods, "three", &["c"], None);
        assert_eq!(planned(&[one.clone(), two.clone(), three.clone()], &[]), ["pods *"]);
        assert_eq!(planned(&[one.clone(), two, three], &[&pods]), ["pods a", "pods b", "pods c"]);
        // The last target takes its stream along, and an empty set of namespaces needs none.
        assert_eq!(planned(&[one], &[]), ["pods a"]);
        assert_eq!(planned(&[interest(&pods, "none", &[], None)], &[]), Vec::<String>::new());
        assert_eq!(planned(&[], &[]), Vec::<String>::new());
    }

    #[test]
    fn connections_are_bounded_over_all_resources() {
        let (pods, maps) = (resource("pods", Scope::Namespaced), resource("configmaps", Scope::Namespaced));
        let interests = [interest(&maps, "m", &["a", "b"], None), interest(&pods, "p", &["a", "b"], None)];
        assert_eq!(planned(&interests, &[]), ["configmaps a", "configmaps b", "pods *"]);
    }

    #[test]
    fn a_cluster_scoped_resource_has_one_stream() {
        let nodes = resource("nodes", Scope::Cluster);
        for namespaces in [&[][..], &[""][..]] {
            assert_eq!(planned(&[interest(&nodes, "n", namespaces, Some("x"))], &[&nodes]), ["nodes * app=x"]);
        }
    }

    #[test]
    fn labels_are_asked_of_the_server_where_all_who_share_a_stream_agree() {
        let pods = resource("pods", Scope::Namespaced);
        let of = |target: &str, namespaces: &[&'static str], app| interest(&pods, target, namespaces, app);
        let (web, same) = (of("web", &["a", "b"], Some("web")), of("same", &["a"], Some("web")));
        assert_eq!(planned(&[web.clone(), same.clone()], &[]), ["pods a app=web", "pods b app=web"]);
        let other = of("other", &["a"], Some("api"));
        assert_eq!(planned(&[web.clone(), same.clone(), other.clone()], &[]), ["pods a", "pods b app=web"]);
        let (all, wide) = (of("all", &["b"], None), of("wide", &["a", "b", "c"], Some("web")));
        assert_eq!(planned(&[web.clone(), all.clone()], &[]), ["pods a app=web", "pods b"]);
        // Over all namespaces, everybody counts; but not who wants nothing.
        assert_eq!(planned(&[web.clone(), wide.clone(), of("none", &[], None)], &[]), ["pods * app=web"]);
        assert_eq!(planned(&[web, wide, all], &[]), ["pods *"]);
    }

    #[test]
    fn a_very_long_selector_is_not_sent() {
        let pods = resource("pods", Scope::Namespaced);
        let long = "x".repeat(3000);
        assert_eq!(planned(&[interest(&pods, "t", &["a"], Some(&long))], &[]), ["pods a"]);
    }
}
