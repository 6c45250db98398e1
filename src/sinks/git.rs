//! Rows into a git repository: files in a branch, and a ref that says which of them are whose.
//!
//! ```text
//!   rows that changed ─► trees ─────┐                         ┌─► the branch
//!                                   ├─ edits ─► actor ─ push ─┤
//!   all rows ──────────► documents ─┘             │           └─► refs/kollect/<cluster>/<namespace>/<name>
//!                                               mirror
//! ```
//!
//! The layout of a sink says which way its rows go. All sinks of one branch share the one writer of it, which makes a
//! commit of each edit and pushes what has gathered together. See `docs/adr/0002-git-ownership.md` for what is kept where.

mod actor;
mod config;
mod documents;
mod endpoint;
mod error;
mod message;
mod mirror;
mod objects;
mod owner;
mod preview;
mod residents;
#[cfg(test)]
mod testing;

mod transport;
mod tree;
mod trees;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::{Author, Challenge, Credentials, GitConfig, MessageTemplate, PushPolicy};
pub use mirror::Places as MirrorPlaces;
pub use preview::preview;

use actor::{Actor, Change, Clock, Edit, Settings, Surroundings};
use endpoint::Endpoint;
use error::GitError;
use message::Facts;
use mirror::Place;
use residents::{Residence, Residents};
use transport::Wire;
use trees::Standing;

use super::mandate::Mandate;
use super::netguard::Guard;
use super::{Backend, Destination, Leave, Receipt, Refused, Sink, SinkError, shared};
use crate::export::layout::{DEFAULT_CLUSTER, Layout};
use crate::export::{Scope, Standing as Position};
use crate::metrics::SinkType;
use crate::model::{Cluster, Lane, Row, SinkKey};

/// A mirror that no sink used for this long is removed.
const MIRROR_KEPT: Duration = Duration::from_hours(48);

/// How often mirrors are looked at.
const EVICTION: Duration = Duration::from_hours(1);

/// Makes sinks; those of one branch with one credential share a writer.
#[derive(Debug)]
pub struct GitRepositories {
    guard: Guard,
    around: Surroundings,
    actors: Mutex<HashMap<[u8; 32], Weak<Actor>>>,
}

impl GitRepositories {
    /// Makes the registry. Must be called inside the runtime; what it starts lives until `stop`.
    pub fn new(guard: Guard, writer: String, mirrors: MirrorPlaces, clock: Clock, stop: CancellationToken) -> Self {
        let tasks = TaskTracker::new();
        tasks.spawn(stop.clone().run_until_cancelled_owned(evict(mirrors.clone())));
        let (mandate, residents) = (Mandate::unlimited(), Residents::default());
        let around = Surroundings { places: mirrors, writer, mandate, residents, clock, tasks, stop };
        Self { guard, around, actors: Mutex::default() }
    }

    /// Lets the sinks write only as long as the mandate lasts.
    #[must_use]
    pub fn under(self, mandate: Mandate) -> Self {
        Self { around: Surroundings { mandate, ..self.around }, ..self }
    }

    /// Makes a sink. Nothing is connected yet.
    ///
    /// # Errors
    /// Terminal when a setting cannot be used.
    pub fn sink(&self, config: &GitConfig) -> Result<Backend, SinkError> {
        let sink = Arc::new(self.make(config)?);
        Ok(if sink.layout.is_tree() { Backend::Rows(sink) } else { Backend::Documents(sink) })
    }

    fn make(&self, config: &GitConfig) -> Result<GitSink, GitError> {
        let endpoint = Endpoint::parse(&config.endpoint).map_err(GitError::Endpoint)?;
        let branch = endpoint.branch(config.branch.as_deref()).to_owned();
        let layout = Arc::new(Layout::new(config.layout.clone())?);
        let place = Place { url: endpoint.to_string(), branch };
        let wire = Arc::new(Wire::new(config, self.guard, Handle::current())?);
        let destination = destination(&place);
        let settings =
            Settings { place: place.clone(), push: config.push, depth: config.depth, author: config.author.clone() };
        let actor =
            shared(&self.actors, config.writer_key(&settings.place), || Actor::start(settings, wire, &self.around));
        Ok(GitSink {
            kind: config.kind,
            destination,
            actor,
            layout,
            template: Arc::new(config.message.clone()),
            key: config.sink.clone(),
            place,
            appearance: config.appearance(),
            prune: config.prune,
            residents: self.around.residents.clone(),
            residences: Mutex::default(),
            unnamed: Cluster::new(if config.cluster.as_str() == DEFAULT_CLUSTER { DEFAULT_CLUSTER } else { "" }),
            clock: self.around.clock,
            standings: Mutex::default(),
        })
    }

    /// Ends all writers and waits for them. Sinks must not be used any more.
    pub async fn close(&self) {
        self.around.stop.cancel();
        self.around.tasks.close();
        self.around.tasks.wait().await;
    }
}

/// Removes old mirrors as long as it runs.
async fn evict(mirrors: MirrorPlaces) {
    loop {
        let mirrors = mirrors.clone();
        let evicted = tokio::task::spawn_blocking(move || mirror::evict(&mirrors, &[], MIRROR_KEPT)).await;
        if let Ok(Err(error)) = evicted {
            tracing::warn!(error = crate::error::chain(&error), "old git mirrors stay");
        }
        tokio::time::sleep(EVICTION).await;
    }
}

fn destination(place: &Place) -> Destination {
    let id = place.directory().chars().take(16).collect();
    Destination { id, description: format!("{}#branch={}", place.url, place.branch) }
}

/// Files of one sink object.
#[derive(Debug)]
struct GitSink {
    kind: SinkType,
    destination: Destination,
    actor: Arc<Actor>,
    layout: Arc<Layout>,
    template: Arc<MessageTemplate>,
    key: SinkKey,
    place: Place,
    /// Digest of all that decides which files are written.
    appearance: [u8; 32],
    /// Whether files under earlier paths of a document are removed.
    prune: bool,
    residents: Residents,
    /// The inventories that this sink writes.
    residences: Mutex<HashMap<Scope, Residence>>,
    /// What `default` stands for in the names of refs.
    unnamed: Cluster,
    clock: Clock,
    /// What the branch has of the rows of each inventory; none until they were compared.
    standings: Mutex<HashMap<Scope, Arc<Mutex<Standing>>>>,
}

impl GitSink {
    /// Returns what a commit message tells.
    fn facts(
        &self,
        scope: &Scope,
        position: &Position,
        checksum: String,
        exported_at: jiff::Timestamp,
    ) -> Result<Facts, GitError> {
        Ok(Facts {
            template: self.template.clone(),
            sink: self.key.object.name.clone(),
            generation: position.generation,
            item_count: position.rows,
            checksum,
            exported_at,
            path: self.layout.document_path(&scope.inventory, position.generation)?.to_string(),
        })
    }

    /// Makes sure that no other sink writes this inventory to this branch in another way.
    fn settle(&self, scope: &Scope) -> Result<(), GitError> {
        let mut residences = self.residences.lock();
        if !residences.contains_key(scope) {
            let residence = self.residents.settle(&self.place, scope, &self.key, self.appearance)?;
            residences.insert(scope.clone(), residence);
        }
        Ok(())
    }

    async fn end(&self, scope: &Scope, leave: Leave) -> Result<Receipt, GitError> {
        let position = Position::default();
        let facts = self.facts(scope, &position, position.digest.to_string(), (self.clock)())?;
        self.standings.lock().remove(scope);
        let edit = Edit { scope: Arc::new(scope.clone()), change: Change::End(leave), facts };
        let done = self.actor.submit(edit).await?;
        self.residences.lock().remove(scope);
        Ok(Receipt { written: done.written, deleted: done.deleted, bytes: done.bytes, ..Receipt::default() })
    }
}

impl Sink for GitSink {
    fn kind(&self) -> SinkType {
        self.kind
    }

    fn destination(&self) -> &Destination {
        &self.destination
    }

    fn identity(&self) -> BoxFuture<'_, Result<Option<String>, SinkError>> {
        async { Ok(self.actor.identity().await?) }.boxed()
    }

    fn probe(&self) -> BoxFuture<'_, Result<String, SinkError>> {
        async {
            self.actor.probe().await?;
            let what = if self.kind == SinkType::Gitlab { "GitLab" } else { "git" };
            Ok(format!("TLS and {what} remote reachability verified"))
        }
        .boxed()
    }

    fn leave<'a>(&'a self, scope: &'a Scope, leave: Leave) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        async move { Ok(self.end(scope, leave).await?) }.boxed()
    }

    fn scopes(&self) -> BoxFuture<'_, Result<Vec<Scope>, SinkError>> {
        async { Ok(self.actor.scopes(self.unnamed.clone()).await?) }.boxed()
    }

    /// Readers of a branch are told nothing: a commit that says that nothing changed would be a change.
    fn heartbeat<'a>(&'a self, _: &'a [&'a Scope]) -> BoxFuture<'a, Result<(), SinkError>> {
        futures::future::ready(Ok(())).boxed()
    }

    fn release(&self, scope: &Scope) {
        self.standings.lock().remove(scope);
        self.residences.lock().remove(scope);
    }

    fn lane(&self) -> Lane {
        Lane::Joined
    }
}

/// Says of a row that it is not taken.
fn refused_by(row: &Row, reason: &'static str, message: String) -> Refused {
    Refused { key: row.key(), object: row.object(), reason, message, excess: None }
}
