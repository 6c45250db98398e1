//! What the API server says: which objects the filters accept, and what the operator wrote into the status.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Namespace as NamespaceObject;
use kube::api::{ListParams, PartialObjectMeta};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, Selector, SelectorExt as _};
use kube::discovery::Scope;
use kube::{Api, Client, ResourceExt as _, discovery};

use super::scope::{Asked, allows};
use crate::api::v1alpha1::sink::StreamMode;
use crate::api::v1alpha1::{
    EventSinkType, KollectEventSink, KollectInventory, KollectInventoryStatus, KollectProfile, KollectScope,
    KollectSnapshotSink, KollectTarget, LabelSelector, SnapshotSinkType, WatchMode,
};
use crate::model::{Name, Namespace, ObjectKey, RowKey, Uid};

/// Objects of one page of a list.
const PAGE: u32 = 500;

/// The stream of a sink that names none.
const DEFAULT_STREAM: &str = "kollect_events";

/// Lists that are read at the same time.
const LISTS: usize = 4;

/// One inventory: what it has to have, and what is said of it.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    /// The objects that its targets accept.
    pub(super) wanted: HashSet<RowKey>,
    pub(super) status: KollectInventoryStatus,
    /// Family and name of every sink that it names.
    pub(super) sinks: Vec<String>,
    /// Where its files are, if it names a git sink of the cluster.
    pub(super) files: Option<Files>,
    /// It names an object store of the cluster.
    pub(super) archived: bool,
    /// The streams and topics of the cluster that it names.
    pub(super) feeds: Vec<Feed>,
}

/// Where the messages of an inventory go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Feed {
    /// Family and name of the sink.
    pub(super) sink: String,
    pub(super) broker: EventSinkType,
    /// The stream or topic.
    pub(super) place: String,
    pub(super) mode: StreamMode,
}

/// Files of an inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) branch: String,
    /// Least time between two commits.
    pub(super) interval: Duration,
}

/// The namespaces that are looked at, and their inventories.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) namespaces: usize,
    pub(super) inventories: BTreeMap<ObjectKey, Inventory>,
    /// Objects that targets accept, once for each target.
    pub(super) objects: usize,
}

/// Reads what is there.
pub(super) async fn read(client: &Client, namespaces: &str, cluster: &str) -> Result<Found> {
    let all = Everything::read(client).await?;
    let chosen =
        Api::<NamespaceObject>::all(client.clone()).list_metadata(&ListParams::default().labels(namespaces)).await;
    let chosen = chosen.with_context(|| format!("failed to list the namespaces {namespaces:?}"))?;
    let chosen: BTreeSet<String> = chosen.items.iter().map(kube::ResourceExt::name_any).collect();
    let mut found = Found { namespaces: chosen.len(), ..Found::default() };
    for inventory in all.inventories.iter().filter(|inventory| chosen.contains(&place(*inventory))) {
        let key = key(inventory);
        found.inventories.insert(key, all.describe(inventory, cluster));
    }
    let targets = all.targets.iter().filter(|target| chosen.contains(&place(*target)) && !target.spec.suspend);
    let mut resources = HashMap::new();
    let mut lists = Vec::new();
    for target in targets {
        lists.extend(all.lists(client, target, &mut resources).await?);
    }
    let mut accepted = stream::iter(lists.into_iter().map(|list| list.read(client))).buffer_unordered(LISTS);
    while let Some((target, uids)) = accepted.try_next().await? {
        found.objects += uids.len();
        let keys = uids.into_iter().map(|uid| RowKey { target: target.name.clone(), uid });
        let keys: Vec<RowKey> = keys.collect();
        for (_, inventory) in found.inventories.iter_mut().filter(|(key, _)| key.namespace == target.namespace) {
            inventory.wanted.extend(keys.iter().cloned());
        }
    }
    drop(accepted);
    Ok(found)
}

/// The objects of ours, and all namespaces with their labels.
struct Everything {
    namespaces: Vec<(String, BTreeMap<String, String>)>,
    profiles: Vec<KollectProfile>,
    targets: Vec<KollectTarget>,
    inventories: Vec<KollectInventory>,
    snapshot_sinks: Vec<KollectSnapshotSink>,
    event_sinks: Vec<KollectEventSink>,
    scopes: Vec<KollectScope>,
}

impl Everything {
    async fn read(client: &Client) -> Result<Self> {
        let params = ListParams::default();
        let namespaces = Api::<NamespaceObject>::all(client.clone()).list_metadata(&params).await;
        let namespaces = namespaces.context("failed to list the namespaces")?.items.into_iter();
        Ok(Self {
            namespaces: namespaces.map(|one| (one.name_any(), one.metadata.labels.unwrap_or_default())).collect(),
            profiles: Api::all(client.clone()).list(&params).await.context("failed to list the profiles")?.items,
            targets: Api::all(client.clone()).list(&params).await.context("failed to list the targets")?.items,
            inventories: Api::all(client.clone()).list(&params).await.context("failed to list the inventories")?.items,
            snapshot_sinks: Api::all(client.clone()).list(&params).await.context("failed to list the sinks")?.items,
            event_sinks: Api::all(client.clone()).list(&params).await.context("failed to list the sinks")?.items,
            scopes: Api::all(client.clone()).list(&params).await.context("failed to list the scopes")?.items,
        })
    }

    fn describe(&self, inventory: &KollectInventory, cluster: &str) -> Inventory {
        let spec = &inventory.spec;
        let families = [
            ("snapshot", &spec.snapshot_sink_refs),
            ("database", &spec.database_sink_refs),
            ("event", &spec.event_sink_refs),
        ];
        let sinks =
            families.iter().flat_map(|(family, refs)| refs.iter().map(move |one| format!("{family}/{}", one.name)));
        let named: Vec<_> = spec
            .snapshot_sink_refs
            .iter()
            .filter_map(|one| Some((one, self.snapshot_sink(inventory, &one.name, cluster)?)))
            .collect();
        let is_git =
            |sink: &KollectSnapshotSink| matches!(sink.spec.type_, SnapshotSinkType::Git | SnapshotSinkType::Gitlab);
        let files = named.iter().find(|(_, sink)| is_git(sink)).map(|(one, sink)| {
            let interval = one.export_min_interval.or(sink.spec.common.export_min_interval);
            Files { branch: branch(sink), interval: interval.unwrap_or(spec.export_min_interval).get() }
        });
        let feeds = spec.event_sink_refs.iter().filter_map(|one| self.feed(inventory, &one.name, cluster));
        Inventory {
            wanted: HashSet::new(),
            status: inventory.status.clone().unwrap_or_default(),
            sinks: sinks.collect(),
            files,
            archived: named.iter().any(|(_, sink)| !is_git(sink)),
            feeds: feeds.collect(),
        }
    }

    fn snapshot_sink(&self, inventory: &KollectInventory, name: &str, cluster: &str) -> Option<&KollectSnapshotSink> {
        self.snapshot_sinks.iter().find(|sink| {
            sink.namespace() == inventory.namespace()
                && sink.name_any() == name
                && sink.spec.common.cluster.as_deref().unwrap_or_default() == cluster
        })
    }

    fn feed(&self, inventory: &KollectInventory, name: &str, cluster: &str) -> Option<Feed> {
        let spec = &self
            .event_sinks
            .iter()
            .find(|sink| {
                sink.namespace() == inventory.namespace()
                    && sink.name_any() == name
                    && sink.spec.common.cluster.as_deref().unwrap_or_default() == cluster
            })?
            .spec;
        let (place, mode) = match (&spec.nats, &spec.kafka) {
            (Some(nats), _) => (nats.stream.as_deref().unwrap_or(DEFAULT_STREAM).replace('.', "_"), nats.mode),
            (None, Some(kafka)) => (kafka.topic.clone(), kafka.mode),
            (None, None) => return None,
        };
        Some(Feed { sink: format!("event/{name}"), broker: spec.type_, place, mode })
    }

    /// Returns the lists that give the objects of a target.
    async fn lists(
        &self,
        client: &Client,
        target: &KollectTarget,
        resources: &mut HashMap<GroupVersionKind, (ApiResource, Scope)>,
    ) -> Result<Vec<List>> {
        let (key, spec) = (key(target), &target.spec);
        ensure!(spec.resource_rules.is_empty(), "target {key} has resourceRules, which are not understood here");
        ensure!(spec.watch_mode == WatchMode::All, "target {key} has a watchMode, which is not understood here");
        let profile =
            self.profiles.iter().find(|one| place(*one) == place(target) && one.name_any() == spec.profile_ref);
        let profile = profile
            .with_context(|| format!("target {key} names the profile {:?}, which is not there", spec.profile_ref))?;
        let gvk = &profile.spec.target_gvk;
        let gvk = GroupVersionKind::gvk(&gvk.group, &gvk.version, &gvk.kind);
        if !resources.contains_key(&gvk) {
            let (resource, found) = discovery::pinned_kind(client, &gvk)
                .await
                .with_context(|| format!("the API server does not serve {}", gvk.kind))?;
            resources.insert(gvk.clone(), (resource, found.scope));
        }
        let Some((resource, scope)) = resources.get(&gvk) else { return Ok(Vec::new()) };
        let selector = |selector: Option<&LabelSelector>| selector.map(read_selector).transpose();
        let (included, excluded) = (&spec.included_namespaces, &spec.excluded_namespaces);
        let wanted = selector(spec.namespace_selector.as_ref())?.unwrap_or_default();
        let unwanted = selector(spec.namespace_exclude_selector.as_ref())?;
        let namespaces = self.namespaces.iter().filter(|(name, labels)| {
            (included.is_empty() || included.contains(name))
                && !excluded.contains(name)
                && wanted.matches(labels)
                && !unwanted.as_ref().is_some_and(|unwanted| unwanted.matches(labels))
        });
        let namespaces: BTreeSet<String> = namespaces.map(|(name, _)| name.clone()).collect();
        let matched = if *scope == Scope::Cluster { &BTreeSet::new() } else { &namespaces };
        let own = place(target);
        if !allows(&self.scopes, &Asked { namespace: &own, kind: &gvk, named: included, matched }) {
            return Ok(Vec::new());
        }
        let list = List {
            target: key,
            resource: resource.clone(),
            namespaces,
            only: None,
            selector: selector(spec.label_selector.as_ref())?.unwrap_or_default(),
            names: spec.names.iter().cloned().collect(),
        };
        if included.is_empty() {
            return Ok(vec![list]);
        }
        Ok(list.namespaces.iter().map(|name| List { only: Some(name.clone()), ..list.clone() }).collect())
    }
}

/// One list of the objects of a target.
#[derive(Clone)]
struct List {
    target: ObjectKey,
    resource: ApiResource,
    /// The namespaces whose objects count.
    namespaces: BTreeSet<String>,
    /// The namespace that is listed; without it all are.
    only: Option<String>,
    selector: Selector,
    /// The names that count; none means all.
    names: HashSet<String>,
}

impl List {
    async fn read(self, client: &Client) -> Result<(ObjectKey, Vec<Uid>)> {
        let api: Api<DynamicObject> = match &self.only {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &self.resource),
            None => Api::all_with(client.clone(), &self.resource),
        };
        let mut params = ListParams::default().labels_from(&self.selector).limit(PAGE);
        let mut uids = Vec::new();
        loop {
            let page = api.list_metadata(&params).await;
            let page =
                page.with_context(|| format!("failed to list {} of target {}", self.resource.plural, self.target))?;
            uids.extend(
                page.items
                    .iter()
                    .filter(|object| self.counts(object))
                    .filter_map(|object| object.metadata.uid.as_deref().map(Uid::new)),
            );
            match page.metadata.continue_ {
                Some(token) if !token.is_empty() => params.continue_token = Some(token),
                _ => return Ok((self.target, uids)),
            }
        }
    }

    fn counts(&self, object: &PartialObjectMeta<DynamicObject>) -> bool {
        // An object of no namespace belongs to a kind that has none.
        object.metadata.namespace.as_ref().is_none_or(|namespace| self.namespaces.contains(namespace))
            && (self.names.is_empty() || object.metadata.name.as_ref().is_some_and(|name| self.names.contains(name)))
    }
}

fn read_selector(selector: &LabelSelector) -> Result<Selector> {
    // The same fields under the same names, which is what makes it a label selector.
    let known: k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector =
        serde_json::from_value(serde_json::to_value(selector)?)?;
    Selector::try_from(known).context("failed to read a label selector")
}

fn branch(sink: &KollectSnapshotSink) -> String {
    let said = sink.spec.git.as_ref().and_then(|git| git.branch.clone());
    let endpoint = sink.spec.common.endpoint.as_deref().unwrap_or_default();
    said.or_else(|| endpoint.split_once("#branch=").map(|(_, branch)| branch.to_owned()))
        .unwrap_or_else(|| "main".to_owned())
}

fn place(object: &impl kube::ResourceExt) -> String {
    object.namespace().unwrap_or_default()
}

fn key(object: &impl kube::ResourceExt) -> ObjectKey {
    ObjectKey::new(Namespace::new(place(object)), Name::new(object.name_any()))
}
