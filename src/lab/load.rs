//! Load: realistic objects by the hundred thousand, written fast, changed and deleted by plan.
//!
//! Everything is a function of the options: the same options name the same objects with the same content, so that a
//! second run skips what exists, and a test knows which rows to expect. Object `i` lives in namespace `i mod N`, which
//! spreads every choice over all namespaces.

mod churn;
mod content;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::AsyncBufReadExt as _;
use http::Request;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::core::{DynamicObject, ObjectMeta};
use kube::{Api, Client};
use serde::Serialize;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

pub use churn::{Churn, Churned, churn};
use content::{Content, Single};
pub use content::{FILTERED_LABEL, IMAGE};

/// The label on every namespace of a load test, and its value.
pub const NAMESPACE_LABEL: (&str, &str) = ("kollect.dev/loadtest", "100k");

/// Requests that fail for a passing reason are tried again for so long.
const PATIENCE: Duration = Duration::from_secs(6);

/// No pause between two tries is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The kind of the written objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// `apps/v1` Deployments of about 5 KB.
    Deployment,
    /// `ConfigMap` objects of about 1 KB.
    Configmap,
    /// Both by turns: of each namespace the first is a Deployment, the second a `ConfigMap`.
    Mixed,
}

/// What to write, and how fast.
#[derive(Debug, Clone)]
pub struct Load {
    /// Kind of all objects.
    pub kind: Kind,
    /// Number of namespaces.
    pub namespaces: usize,
    /// Number of objects in each.
    pub per_namespace: usize,
    /// Namespaces are called by this and three digits, counted from 1.
    pub prefix: String,
    /// Replicas of a Deployment. Where nothing runs them, 0 keeps the controllers out of it.
    pub replicas: u32,
    /// Part of the objects of each namespace that has [`FILTERED_LABEL`], which targets leave out; up to 100.
    pub filtered_percent: usize,
    /// Chooses content and order of changes.
    pub seed: u64,
    /// Requests at the same time, each on a connection of its own.
    pub connections: usize,
    /// Requests per second at most.
    pub rate: Option<f64>,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            kind: Kind::Deployment,
            namespaces: 50,
            per_namespace: 2_000,
            prefix: "loadtest-".to_owned(),
            replicas: 0,
            filtered_percent: 0,
            seed: 1,
            connections: 24,
            rate: None,
        }
    }
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// `create`, `patch` or `delete`.
    pub action: &'static str,
    /// Objects written.
    pub written: usize,
    /// Objects found as they should be.
    pub skipped: usize,
    /// Seconds for all of it.
    pub seconds: f64,
    /// Requests per second.
    pub per_second: f64,
}

/// One change of [`Load::patch`], for tests that count what should have been delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The changed object.
    pub object: usize,
    /// When the API server acknowledged it.
    pub at: Instant,
}

impl Load {
    /// Returns a short text that differs when the objects would have other content.
    pub fn shape(&self) -> String {
        let digest = blake3::hash(self.content(0).to_string().as_bytes());
        digest.to_hex().chars().take(8).collect()
    }

    /// Returns the number of objects.
    pub fn total(&self) -> usize {
        self.namespaces * self.per_namespace
    }

    /// Returns the name of a namespace, counted from 0.
    pub fn namespace(&self, index: usize) -> String {
        format!("{}{:03}", self.prefix, index + 1)
    }

    /// Returns namespace and name of an object. Numbers from the total on are names that the load itself has not.
    pub fn object(&self, index: usize) -> (String, String) {
        let namespace = self.namespace(index % self.namespaces.max(1));
        (namespace, format!("{}-{:05}", self.single(index).prefix(), self.number(index) + 1))
    }

    /// Tells whether an object has [`FILTERED_LABEL`]. Those that have are spread evenly over each namespace and kind.
    pub fn is_filtered(&self, index: usize) -> bool {
        let kinds = if self.kind == Kind::Mixed { 2 } else { 1 };
        let of_kind = self.number(index) / kinds;
        let filtered_up_to = |number: usize| number * self.filtered_percent / 100;
        filtered_up_to(of_kind + 1) > filtered_up_to(of_kind)
    }

    /// Returns an object as it is created.
    pub fn content(&self, index: usize) -> Value {
        let (namespace, name) = self.object(index);
        let chance = mix(self.seed ^ mix(index as u64));
        let labels: &[_] = if self.is_filtered(index) { &[(FILTERED_LABEL, "true")] } else { &[] };
        let content = Content { namespace: &namespace, name: &name, chance, replicas: self.replicas, labels };
        content.of(self.single(index))
    }

    /// Returns the number of an object in its namespace, counted from 0.
    fn number(&self, index: usize) -> usize {
        index / self.namespaces.max(1)
    }

    fn single(&self, index: usize) -> Single {
        match (self.kind, self.number(index) % 2) {
            (Kind::Deployment, _) | (Kind::Mixed, 0) => Single::Deployment,
            (Kind::Configmap | Kind::Mixed, _) => Single::ConfigMap,
        }
    }

    fn collection(&self, index: usize) -> String {
        self.single(index).collection(&self.namespace(index % self.namespaces.max(1)))
    }

    /// Returns the first `count` objects of a fixed shuffle of all, spread evenly over the namespaces.
    pub fn choose(&self, count: usize) -> Vec<usize> {
        let (total, count) = (self.total(), count.min(self.total()));
        if total == 0 {
            return Vec::new();
        }
        // A step without a common divisor visits every object once.
        let mut step = usize::try_from(mix(self.seed) % 1_000_003).unwrap_or(1) % total;
        while gcd(step, total) != 1 {
            step += 1;
        }
        (0..count).map(|turn| turn * step % total).collect()
    }

    /// Returns `count` draws, with repetition, from the first `pool` objects of [`Self::choose`].
    pub fn draw(&self, count: usize, pool: usize) -> Vec<usize> {
        let pool = self.choose(pool);
        (0..count).map(|turn| pool[reduce(mix(self.seed ^ mix(turn as u64)), pool.len())]).collect()
    }

    /// Creates namespaces and objects. What exists is left as it is.
    pub async fn create(&self, client: &Client) -> Result<Summary> {
        let started = Instant::now();
        let existing = self.create_namespaces(client).await?;
        let missing: Vec<usize> = (0..self.total()).filter(|index| !existing.contains(&self.object(*index))).collect();
        let skipped = self.total() - missing.len();
        let load = self.clone();
        self.run(client, missing, move |index, _| load.create_request(index)).await?;
        Ok(self.summary("create", started, skipped))
    }

    /// Gives each of these objects a new image (or, a `ConfigMap`, a new value), in this order. `round` tells apart
    /// patches of several runs; an object named twice changes twice.
    pub async fn patch(&self, client: &Client, objects: Vec<usize>, round: u64) -> Result<(Summary, Vec<Change>)> {
        let started = Instant::now();
        let load = self.clone();
        let count = objects.len();
        let requests = move |index: usize, turn: usize| load.patch_request(index, &format!("r{round}-{turn}"));
        let changes = self.run(client, objects, requests).await?;
        Ok((self.summary("patch", started, self.total() - count.min(self.total())), changes))
    }

    /// Deletes these objects. What is gone already counts as deleted.
    pub async fn delete(&self, client: &Client, objects: Vec<usize>) -> Result<Summary> {
        let started = Instant::now();
        let load = self.clone();
        let skipped = self.total() - objects.len();
        self.run(client, objects, move |index, _| load.delete_request(index)).await?;
        Ok(self.summary("delete", started, skipped))
    }

    /// Deletes the namespaces with all that is in them; the namespace controller does so in its own time.
    pub async fn delete_namespaces(&self, client: &Client) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        for index in 0..self.namespaces {
            match namespaces.delete(&self.namespace(index), &DeleteParams::default()).await {
                Ok(_) => {}
                Err(error) if status(&error) == Some(404) => {}
                Err(error) => return Err(error).context("failed to delete a namespace"),
            }
        }
        Ok(())
    }

    /// Creates the namespaces and returns the objects that were in those which existed.
    async fn create_namespaces(&self, client: &Client) -> Result<HashSet<(String, String)>> {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let mut found = HashSet::new();
        for index in 0..self.namespaces {
            let name = self.namespace(index);
            let (label, value) = NAMESPACE_LABEL;
            let labels = [(label.to_owned(), value.to_owned())].into();
            let metadata = ObjectMeta { name: Some(name.clone()), labels: Some(labels), ..ObjectMeta::default() };
            match namespaces.create(&PostParams::default(), &Namespace { metadata, ..Namespace::default() }).await {
                Ok(_) => {}
                Err(error) if status(&error) == Some(409) => found.extend(self.names(client, &name).await?),
                Err(error) => return Err(error).with_context(|| format!("failed to create namespace {name}")),
            }
        }
        Ok(found)
    }

    async fn names(&self, client: &Client, namespace: &str) -> Result<Vec<(String, String)>> {
        let kinds: &[Single] = match self.kind {
            Kind::Deployment => &[Single::Deployment],
            Kind::Configmap => &[Single::ConfigMap],
            Kind::Mixed => &[Single::Deployment, Single::ConfigMap],
        };
        let mut names = Vec::new();
        for kind in kinds {
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource());
            let list = api.list_metadata(&ListParams::default()).await.context("failed to list what exists")?;
            let found = list.items.into_iter().filter_map(|object| object.metadata.name);
            names.extend(found.map(|name| (namespace.to_owned(), name)));
        }
        Ok(names)
    }

    fn create_request(&self, index: usize) -> Result<Request<Vec<u8>>> {
        Ok(Request::post(format!("{}?fieldManager=loadtest", self.collection(index)))
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&self.content(index))?)?)
    }

    /// Gives an object a value that it never had.
    fn patch_request(&self, index: usize, revision: &str) -> Result<Request<Vec<u8>>> {
        let (collection, (_, name)) = (self.collection(index), self.object(index));
        Ok(Request::patch(format!("{collection}/{name}?fieldManager=loadtest"))
            .header("content-type", "application/strategic-merge-patch+json")
            .body(serde_json::to_vec(&self.single(index).patch(revision))?)?)
    }

    fn delete_request(&self, index: usize) -> Result<Request<Vec<u8>>> {
        let (collection, (_, name)) = (self.collection(index), self.object(index));
        Ok(Request::delete(format!("{collection}/{name}")).body(Vec::new())?)
    }

    /// Sends one request per object over all connections and returns when each was acknowledged, in order of time.
    async fn run<F>(&self, client: &Client, objects: Vec<usize>, request: F) -> Result<Vec<Change>>
    where
        F: Fn(usize, usize) -> Result<Request<Vec<u8>>> + Send + Sync + 'static,
    {
        let (objects, request) = (Arc::new(objects), Arc::new(request));
        let next = Arc::new(AtomicUsize::new(0));
        let started = Instant::now();
        let pause = self.rate.map(|rate| Duration::from_secs_f64(1.0 / rate));
        let mut workers = JoinSet::new();
        for _ in 0..self.connections.max(1) {
            let (objects, request, next, client) = (objects.clone(), request.clone(), next.clone(), client.clone());
            workers.spawn(async move {
                let mut changes = Vec::new();
                loop {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&object) = objects.get(turn) else { return Ok::<_, anyhow::Error>(changes) };
                    if let Some(pause) = pause {
                        sleep_until(started + pause * u32::try_from(turn).unwrap_or(u32::MAX)).await;
                    }
                    send(&client, PATIENCE, || request(object, turn)).await?;
                    changes.push(Change { object, at: Instant::now() });
                }
            });
        }
        let mut changes = Vec::with_capacity(objects.len());
        while let Some(worker) = workers.join_next().await {
            changes.extend(worker.context("a worker of the load failed")??);
        }
        changes.sort_by_key(|change| change.at);
        Ok(changes)
    }

    fn summary(&self, action: &'static str, started: Instant, skipped: usize) -> Summary {
        let (written, seconds) = (self.total() - skipped, started.elapsed().as_secs_f64());
        Summary { action, written, skipped, seconds, per_second: written as f64 / seconds }
    }
}

/// Sends a request until it is done or fails for good, for so long. Existing on create and gone on delete is done.
async fn send(client: &Client, patience: Duration, request: impl Fn() -> Result<Request<Vec<u8>>>) -> Result<()> {
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_millis(100);
    loop {
        let request = request()?;
        let deleting = request.method() == http::Method::DELETE;
        let creating = request.method() == http::Method::POST;
        let Err(error) = client.request_text(request).await else { return Ok(()) };
        match status(&error) {
            Some(409) if creating => return Ok(()),
            Some(404) if deleting => return Ok(()),
            Some(code) if code < 500 && code != 429 => return Err(error).context("the API server refused a write"),
            _ if Instant::now() > deadline => return Err(error).context("the API server does not take writes"),
            _ => {
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

fn status(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// What a plain client saw of one unpaged list.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RawList {
    /// From the request to the end of the answer.
    pub seconds: f64,
    /// Length of the answer.
    pub bytes: usize,
}

/// Reads one unpaged list of a resource, named like `deployments.apps` or `configmaps`, to its end and drops it.
pub async fn raw_list(client: &Client, resource: &str) -> Result<RawList> {
    let path = match resource.split_once('.') {
        None => format!("/api/v1/{resource}"),
        Some((plural, group)) => {
            let groups = client.list_api_groups().await?;
            let version = groups
                .groups
                .into_iter()
                .find(|known| known.name == group)
                .and_then(|known| known.preferred_version)
                .with_context(|| format!("the API server serves no group {group}"))?;
            format!("/apis/{}/{plural}", version.group_version)
        }
    };
    let started = Instant::now();
    let stream = client.request_stream(Request::get(&path).body(Vec::new())?).await?;
    let mut stream = std::pin::pin!(stream);
    let mut bytes = 0;
    loop {
        let length = stream.fill_buf().await.with_context(|| format!("failed to read {path}"))?.len();
        if length == 0 {
            break;
        }
        stream.consume_unpin(length);
        bytes += length;
    }
    Ok(RawList { seconds: started.elapsed().as_secs_f64(), bytes })
}

/// Turns a counter into a number that looks random (`SplitMix64`).
pub(super) const fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Returns a number below `length`.
fn reduce(chance: u64, length: usize) -> usize {
    usize::try_from(chance % length.max(1) as u64).unwrap_or_default()
}

const fn gcd(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Load {
        Load { namespaces: 50, per_namespace: 200, ..Load::default() }
    }

    #[test]
    fn objects_are_named_by_namespace_and_number() {
        assert_eq!(load().object(0), ("loadtest-001".to_owned(), "dep-00001".to_owned()));
        assert_eq!(load().object(9_999), ("loadtest-050".to_owned(), "dep-00200".to_owned()));
    }

    #[test]
    fn choice_is_repeatable_distinct_and_spread() {
        let chosen = load().choose(800);
        assert_eq!(chosen, load().choose(800));
        assert_eq!(chosen.iter().collect::<HashSet<_>>().len(), 800);
        let mut per_namespace = [0; 50];
        for object in chosen {
            per_namespace[object % 50] += 1;
        }
        assert!(per_namespace.iter().all(|count| (10..=22).contains(count)), "{per_namespace:?}");
    }

    #[test]
    fn draws_repeat_some_objects() {
        let distinct = load().draw(600, 800).into_iter().collect::<HashSet<_>>().len();
        assert!((395..=450).contains(&distinct), "{distinct}");
    }

    #[test]
    fn content_depends_on_seed_and_number_alone() {
        let content = load().content(7);
        assert_eq!(content, load().content(7));
        assert_ne!(content, Load { seed: 2, ..load() }.content(7));
    }

    #[test]
    fn benches_measure_the_objects_that_they_always_measured() {
        // Figures of different days are about the same objects; a kept etcd is found by this, too.
        assert_eq!(load().shape(), "13908e1d");
    }

    #[test]
    fn mixed_kinds_take_turns_in_each_namespace() {
        let mixed = Load { kind: Kind::Mixed, namespaces: 2, per_namespace: 2, ..Load::default() };
        let names: Vec<_> = (0..4).map(|index| mixed.object(index).1).collect();
        assert_eq!(names, ["dep-00001", "dep-00001", "cm-00002", "cm-00002"]);
        let kinds: Vec<_> = (0..4).map(|index| mixed.content(index)["kind"].clone()).collect();
        assert_eq!(kinds, ["Deployment", "Deployment", "ConfigMap", "ConfigMap"]);
    }

    #[test]
    fn filtered_part_is_exact_in_each_namespace() {
        for percent in [0, 1, 7, 50, 99, 100] {
            let load = Load { filtered_percent: percent, ..load() };
            for namespace in 0..50 {
                let filtered = (0..200).filter(|number| load.is_filtered(number * 50 + namespace)).count();
                assert_eq!(filtered, 200 * percent / 100);
            }
        }
        let half = Load { filtered_percent: 50, ..load() };
        let labelled = |index: usize| half.content(index)["metadata"]["labels"][FILTERED_LABEL].is_string();
        assert_eq!((labelled(0), labelled(50)), (false, true));
        let mixed = Load { kind: Kind::Mixed, ..half };
        let filtered = (0..200).filter(|number| mixed.is_filtered(number * 50)).map(|number| mixed.single(number * 50));
        assert_eq!(filtered.filter(|kind| *kind == Single::Deployment).count(), 50);
    }
}
