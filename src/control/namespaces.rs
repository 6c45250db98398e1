//! The namespaces of the cluster, as far as they decide on what is collected: their labels, and whether they want to be
//! watched.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Namespace as KubeNamespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PartialObjectMeta;
use kube::runtime::watcher::Event;

use super::Shelves;
use crate::model::Namespace;
use crate::watch::{Consent, NAMESPACE_WATCH_ANNOTATION, WATCH_LABEL};

/// What matters of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamespaceFacts {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) consent: Consent,
}

impl Shelves {
    /// Takes an event of a namespace in; tells whether anything that matters changed.
    pub(super) fn take_namespace(&mut self, event: Event<PartialObjectMeta<KubeNamespace>>) -> bool {
        match event {
            Event::Init => {
                self.listing.clear();
                false
            }
            Event::InitApply(namespace) => {
                let (name, facts) = facts(&namespace.metadata);
                self.listing.insert(name.clone());
                self.namespaces.insert(name, facts);
                false
            }
            Event::InitDone => {
                let listing = std::mem::take(&mut self.listing);
                self.namespaces.retain(|name, _| listing.contains(name));
                self.namespaces_listed = true;
                true
            }
            Event::Apply(namespace) => {
                let (name, facts) = facts(&namespace.metadata);
                self.namespaces.insert(name, facts.clone()) != Some(facts)
            }
            Event::Delete(namespace) => self.namespaces.remove(&facts(&namespace.metadata).0).is_some(),
        }
    }
}

fn facts(meta: &ObjectMeta) -> (Namespace, NamespaceFacts) {
    let labels = meta.labels.clone().unwrap_or_default();
    let annotation = meta.annotations.as_ref().and_then(|annotations| annotations.get(NAMESPACE_WATCH_ANNOTATION));
    let consent = Consent::of_namespace(labels.get(WATCH_LABEL).map(String::as_str), annotation.map(String::as_str));
    (Namespace::new(meta.name.as_deref().unwrap_or_default()), NamespaceFacts { labels, consent })
}
