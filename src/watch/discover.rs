//! Which resources the API server has: plural and scope of a kind, from aggregated discovery.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use http::header::{ACCEPT, ETAG, IF_NONE_MATCH};
use http_body_util::BodyExt;
use kube::client::Body;
use serde::Deserialize;
use tokio::time::Instant;

use crate::model::{Gvk, Namespace};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// How a kind is spelled in URLs, and whether it lives in namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    /// API group, `""` for core.
    pub group: Arc<str>,
    /// API version.
    pub version: Arc<str>,
    /// Plural, such as `deployments`.
    pub plural: Arc<str>,
    /// Where its objects live.
    pub scope: Scope,
}

/// Where the objects of a resource live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// In namespaces.
    Namespaced,
    /// In none.
    Cluster,
}

impl Resource {
    /// Returns the `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Returns the URL path of its list.
    pub fn path(&self, namespace: Option<&Namespace>) -> String {
        let root = if self.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", self.group) };
        match namespace {
            Some(namespace) => format!("{root}/{}/namespaces/{namespace}/{}", self.version, self.plural),
            None => format!("{root}/{}/{}", self.version, self.plural),
        }
    }
}

/// A failed discovery.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// The request failed.
    #[error("failed to ask the API server which resources it has")]
    Request(#[from] kube::Error),
    /// The reply could not be read.
    #[error("failed to read the API server's list of resources")]
    Reply(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server refused.
    #[error("API server answered {0} to discovery")]
    Status(u16),
    /// The server did not answer in time.
    #[error("no answer from the API server to discovery within {} s", .0.as_secs())]
    Silent(std::time::Duration),
}

/// Whether the API server has a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence<'a> {
    /// It has.
    Listed(&'a Resource),
    /// It cannot tell: nothing was read yet, or the server behind the group does not answer.
    Unsure,
    /// It has not, by the discovery of that moment.
    Absent(Instant),
}

/// All listable resources, polled; a poll that finds nothing new costs two requests that are answered 304.
#[derive(Debug, Default)]
pub struct Discovery {
    roots: [Root; 2],
    /// When all of it was read last.
    polled: Option<Instant>,
}

#[derive(Debug, Default)]
struct Root {
    etag: Option<http::HeaderValue>,
    found: Found,
}

/// What one root has.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    resources: BTreeMap<Gvk, Resource>,
    /// Groups and versions whose own server does not answer, so that what is missing there may exist.
    stale: BTreeSet<(Arc<str>, Arc<str>)>,
}

impl Found {
    fn is_stale(&self, gvk: &Gvk) -> bool {
        self.stale.contains(&(gvk.group.clone(), gvk.version.clone()))
    }

    /// Keeps what an earlier discovery had of groups that do not answer now.
    fn remember(&mut self, before: &Self) {
        for (gvk, resource) in &before.resources {
            if self.is_stale(gvk) {
                self.resources.entry(gvk.clone()).or_insert_with(|| resource.clone());
            }
        }
    }
}

impl Discovery {
    /// Asks again. Tells whether anything changed.
    ///
    /// # Errors
    /// All are transient; what was found before stays.
    pub async fn poll(&mut self, client: &kube::Client) -> Result<bool, DiscoverError> {
        let mut changed = false;
        for (root, path) in self.roots.iter_mut().zip(["/api", "/apis"]) {
            changed |= root.poll(client, path).await?;
        }
        self.polled = Some(Instant::now());
        Ok(changed)
    }

    /// Returns the resource of a kind, or whether that is known to be missing.
    pub fn find(&self, gvk: &Gvk) -> Presence<'_> {
        if let Some(resource) = self.roots.iter().find_map(|root| root.found.resources.get(gvk)) {
            return Presence::Listed(resource);
        }
        match self.polled {
            Some(polled) if !self.roots.iter().any(|root| root.found.is_stale(gvk)) => Presence::Absent(polled),
            _ => Presence::Unsure,
        }
    }
}

impl Root {
    async fn poll(&mut self, client: &kube::Client, path: &str) -> Result<bool, DiscoverError> {
        let mut request = http::Request::get(path).header(ACCEPT, AGGREGATED);
        if let Some(etag) = &self.etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let request = request.body(Body::empty()).map_err(|error| DiscoverError::Reply(error.into()))?;
        let response = client.send(request).await?;
        if response.status() == http::StatusCode::NOT_MODIFIED {
            return Ok(false);
        }
        if !response.status().is_success() {
            return Err(DiscoverError::Status(response.status().as_u16()));
        }
        let etag = response.headers().get(ETAG).cloned();
        let body = response.into_body().collect().await?.to_bytes();
        let found = read(&body).map_err(|error| DiscoverError::Reply(error.into()))?;
        self.etag = etag;
        Ok(self.take(found))
    }

    /// Takes what was read; tells whether it is news.
    fn take(&mut self, mut found: Found) -> bool {
        found.remember(&self.found);
        let changed = found != self.found;
        self.found = found;
        changed
    }
}

#[derive(Deserialize)]
struct GroupList {
    items: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    metadata: GroupMeta,
    #[serde(default)]
    versions: Vec<VersionEntry>,
}

#[derive(Deserialize, Default)]
struct GroupMeta {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct VersionEntry {
    version: String,
    #[serde(default)]
    freshness: String,
    #[serde(default)]
    resources: Vec<ResourceEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceEntry {
    resource: String,
    #[serde(default)]
    response_kind: Option<ResponseKind>,
    scope: String,
    #[serde(default)]
    verbs: Vec<String>,
}

#[derive(Deserialize)]
struct ResponseKind {
    kind: String,
}

fn read(text: &[u8]) -> Result<Found, serde_json::Error> {
    let mut found = Found::default();
    for group in serde_json::from_slice::<GroupList>(text)?.items {
        let name: Arc<str> = group.metadata.name.into();
        for group_version in group.versions {
            let version: Arc<str> = group_version.version.into();
            if group_version.freshness == "Stale" {
                found.stale.insert((name.clone(), version.clone()));
            }
            for resource in group_version.resources {
                let Some(response) = resource.response_kind else { continue };
                if !["list", "watch"].iter().all(|verb| resource.verbs.iter().any(|have| have == verb)) {
                    continue;
                }
                let scope = if resource.scope == "Namespaced" { Scope::Namespaced } else { Scope::Cluster };
                let gvk = Gvk { group: name.clone(), version: version.clone(), kind: response.kind.into() };
                let resource =
                    Resource { group: name.clone(), version: version.clone(), plural: resource.resource.into(), scope };
                found.resources.insert(gvk, resource);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listable_kinds_are_found_with_plural_and_scope() {
        let text = br#"{"kind":"APIGroupDiscoveryList","items":[
            {"metadata":{"name":"gateway.networking.k8s.io"},"versions":[{"version":"v1","resources":[
              {"resource":"gateways","responseKind":{"group":"","version":"","kind":"Gateway"},"scope":"Namespaced",
               "singularResource":"gateway","verbs":["get","list","watch"]}]}]},
            {"metadata":{},"versions":[{"version":"v1","resources":[
              {"resource":"nodes","responseKind":{"kind":"Node"},"scope":"Cluster","verbs":["list","watch"]},
              {"resource":"bindings","responseKind":{"kind":"Binding"},"scope":"Namespaced","verbs":["create"]}]}]}]}"#;
        let found = read(text).unwrap().resources;
        let gvk = |group: &str, kind: &str| Gvk { group: group.into(), version: "v1".into(), kind: kind.into() };
        let gateway = &found[&gvk("gateway.networking.k8s.io", "Gateway")];
        let team = Namespace::new("team-a");
        assert_eq!(gateway.path(Some(&team)), "/apis/gateway.networking.k8s.io/v1/namespaces/team-a/gateways");
        let node = &found[&gvk("", "Node")];
        assert_eq!((node.path(None).as_str(), node.scope), ("/api/v1/nodes", Scope::Cluster));
        assert_eq!(node.api_version(), "v1");
        assert!(!found.contains_key(&gvk("", "Binding")));
    }

    fn aggregated(versions: &str) -> Found {
        read(format!(r#"{{"items":[{{"metadata":{{"name":"x.io"}},"versions":[{versions}]}}]}}"#).as_bytes()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_kind_is_absent_only_when_whoever_serves_its_group_says_so() {
        let things = r#""resources":[{"resource":"things","responseKind":{"kind":"Thing"},"scope":"Namespaced","verbs":["list","watch"]}]"#;
        let gvk = |kind: &str| Gvk { group: "x.io".into(), version: "v1".into(), kind: kind.into() };
        let mut discovery = Discovery::default();
        assert_eq!(discovery.find(&gvk("Thing")), Presence::Unsure, "nothing was read yet");
        discovery.polled = Some(Instant::now());
        assert!(discovery.roots[1].take(aggregated(&format!(r#"{{"version":"v1","freshness":"Current",{things}}}"#))));
        assert!(matches!(discovery.find(&gvk("Thing")), Presence::Listed(_)));
        assert_eq!(discovery.find(&gvk("Other")), Presence::Absent(Instant::now()));

        // The server behind the group is down: what it had is remembered, and nothing is called absent.
        for _ in 0..2 {
            discovery.roots[1].take(aggregated(r#"{"version":"v1","freshness":"Stale"}"#));
            assert!(matches!(discovery.find(&gvk("Thing")), Presence::Listed(_)));
            assert_eq!(discovery.find(&gvk("Other")), Presence::Unsure);
        }
        assert!(discovery.roots[1].take(aggregated(r#"{"version":"v1","freshness":"Current"}"#)));
        assert_eq!(discovery.find(&gvk("Thing")), Presence::Absent(Instant::now()));
        assert!(!discovery.roots[1].take(aggregated(r#"{"version":"v1","freshness":"Current"}"#)));
    }
}
