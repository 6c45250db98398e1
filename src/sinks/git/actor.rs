//! One writer for one branch: what many inventories want written becomes one push.
//!
//! Callers hand in [`Edit`]s and wait. The actor gathers what comes within a moment, turns each edit that changes
//! something into a commit of its own, and pushes once: the branch, and the refs that say who owns what. When others
//! pushed meanwhile, it fetches and builds all of it again on the new tip.
//!
//! What is known of the remote is in the mirror. It is trusted as long as every conversation of this process ended with an
//! answer; after a failure the remote is asked first, so that a push whose answer was lost is found and not repeated.

mod build;
mod rivals;
mod work;

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use git2::Oid;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::{Author, PushPolicy};
use super::error::GitError;
use super::message::Facts;
use super::mirror::{Place, Places};
use super::residents::Residents;
use super::transport::Wire;
use crate::export::layout::{Layout, Scratch};
use crate::export::{File, FilePath, Scope, Text};
use crate::model::{Cluster, Row};
use crate::sinks::Leave;
use crate::sinks::mandate::Mandate;
use work::{Knowledge, Worker};

/// Callers that wait; one more waits to get in.
const QUEUE: usize = 256;

/// Edits of one push at most.
const BATCH: usize = 256;

/// How long the next edit is waited for after the last one, where inventories are left that have none in the push.
const GATHER: Duration = Duration::from_millis(100);

/// How long edits are gathered at most.
const GATHER_AT_MOST: Duration = Duration::from_millis(500);

/// Gives the time that commits are stamped with.
pub(super) type Clock = fn() -> jiff::Timestamp;

/// What an inventory wants of a branch.
#[derive(Debug)]
pub(super) struct Edit {
    /// Whose files.
    pub(super) scope: Arc<Scope>,
    /// Which files.
    pub(super) change: Change,
    /// For the commit message.
    pub(super) facts: Facts,
}

/// Files to write and to remove.
#[derive(Debug)]
pub(super) enum Change {
    /// These files and no others are the inventory's.
    Whole(Vec<File>),
    /// The same, but these of its files stay in the branch, and are nobody's from now on.
    Successor {
        /// Written, or taken over as they are.
        files: Vec<File>,
        /// Left as they are.
        released: Vec<FilePath>,
    },
    /// Of its files, these are written and those go.
    Part {
        /// Written, or taken over as they are.
        put: Puts,
        /// Removed, if they are the inventory's.
        remove: Vec<FilePath>,
    },
    /// The inventory is left: its files go or stay, and nobody owns them any more.
    End(Leave),
}

/// Rows by the paths of their files.
pub(super) type Rows = Arc<BTreeMap<FilePath, Row>>;

/// Files to write. Those of rows are rendered one after the other, for all of them together may be large.
#[derive(Debug)]
pub(super) struct Puts {
    rows: Option<(Arc<Layout>, Rows)>,
    files: Vec<File>,
}

impl From<Vec<File>> for Puts {
    fn from(files: Vec<File>) -> Self {
        Self { rows: None, files }
    }
}

impl Puts {
    /// Returns the files of rows, and some that are rendered already.
    pub(super) fn of_rows(layout: Arc<Layout>, rows: Rows, files: Vec<File>) -> Self {
        Self { rows: Some((layout, rows)), files }
    }

    fn paths(&self) -> impl Iterator<Item = &FilePath> {
        let rows = self.rows.iter().flat_map(|(_, rows)| rows.keys());
        rows.chain(self.files.iter().map(|file| &file.path))
    }
}

impl Change {
    /// Does something with each file to write.
    fn for_each_put(&self, mut work: impl FnMut(&FilePath, &Text) -> Result<(), GitError>) -> Result<(), GitError> {
        let files = match self {
            Self::Whole(files) | Self::Successor { files, .. } => files,
            Self::Part { put: Puts { rows, files }, .. } => {
                let mut scratch = Scratch::default();
                if let Some((layout, rows)) = rows {
                    for (path, row) in &**rows {
                        work(path, &layout.content_with(row, &mut scratch)?)?;
                    }
                }
                files
            }
            Self::End(_) => return Ok(()),
        };
        files.iter().try_for_each(|file| work(&file.path, &file.text))
    }
}

/// What an edit did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Outcome {
    /// Files written to the branch, restored ones included.
    pub(super) written: u64,
    /// Files removed from the branch.
    pub(super) deleted: u64,
    /// Bytes of the files written.
    pub(super) bytes: u64,
    /// The commit of the branch; none where the branch had everything.
    pub(super) commit: Option<Oid>,
    /// Paths that another inventory owns, with its name; they were left alone.
    pub(super) conflicts: Vec<(FilePath, String)>,
}

/// Whether a branch has a file as its inventory left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It has.
    Intact,
    /// It has another file there, or none.
    Altered,
    /// It has one, and nobody can tell: a file that stands for a ref has paths alone.
    Untold,
}

/// A file that an inventory owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holding {
    /// Where.
    pub(super) path: FilePath,
    /// The content that the inventory left there, or what is there where nobody can tell.
    pub(super) blob: Oid,
    /// Whether the branch has that.
    pub(super) state: State,
}

/// What tells one actor from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// The repository and the branch.
    pub(super) place: Place,
    /// How the branch is moved.
    pub(super) push: PushPolicy,
    /// Depth of what is fetched.
    pub(super) depth: NonZeroU32,
    /// Author and committer.
    pub(super) author: Author,
}

/// What all actors of a process have in common.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    /// Where mirrors are.
    pub(super) places: Places,
    /// UID of the namespace `kube-system`: the same for every life of this operator, and no other cluster's.
    pub(super) writer: String,
    /// Whether this process may write.
    pub(super) mandate: Mandate,
    /// Who writes to which branch.
    pub(super) residents: Residents,
    /// The time of commits.
    pub(super) clock: Clock,
    /// Owns the tasks.
    pub(super) tasks: TaskTracker,
    /// Ends the tasks, and conversations in their middle.
    pub(super) stop: CancellationToken,
}

/// The writer of one branch. It ends with its last handle, when what it has taken is done.
#[derive(Debug)]
pub(super) struct Actor {
    queue: mpsc::Sender<Job>,
}

type Reply<T> = oneshot::Sender<Result<T, GitError>>;

/// What callers ask for.
#[derive(Debug)]
enum Job {
    Edit(Edit, Reply<Outcome>),
    Owned(Arc<Scope>, Reply<Vec<Holding>>),
    Blobs(Vec<Oid>, Reply<Vec<Vec<u8>>>),
    Scopes(Cluster, Reply<Vec<Scope>>),
    Identity(Reply<Option<String>>),
    Probe(Reply<Option<Oid>>),
}

impl Actor {
    /// Starts a writer. Must be called inside the runtime; nothing is connected yet.
    pub(super) fn start(settings: Settings, wire: Arc<Wire>, around: &Surroundings) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let worker = Worker { settings, wire, around: around.clone(), rivals: Mutex::default() };
        around.tasks.spawn(run(Arc::new(worker), jobs));
        Self { queue }
    }

    /// Has an edit written, together with those of others. Dropped before the edit is taken, nothing is done; after that
    /// it is done as a whole.
    pub(super) async fn submit(&self, edit: Edit) -> Result<Outcome, GitError> {
        self.ask(|reply| Job::Edit(edit, reply)).await
    }

    /// Asks the remote what an inventory owns.
    pub(super) async fn owned(&self, scope: Arc<Scope>) -> Result<Vec<Holding>, GitError> {
        self.ask(|reply| Job::Owned(scope, reply)).await
    }

    /// Returns the contents of files that an inventory owns.
    pub(super) async fn blobs(&self, blobs: Vec<Oid>) -> Result<Vec<Vec<u8>>, GitError> {
        if blobs.is_empty() {
            return Ok(Vec::new());
        }
        self.ask(|reply| Job::Blobs(blobs, reply)).await
    }

    /// Returns the inventories that this operator, in any of its lives, wrote to the branch. `unnamed` is the cluster that
    /// `default` stands for.
    pub(super) async fn scopes(&self, unnamed: Cluster) -> Result<Vec<Scope>, GitError> {
        self.ask(|reply| Job::Scopes(unnamed, reply)).await
    }

    /// Returns what tells this branch from others, whatever address leads to it; nothing while nobody wrote.
    ///
    /// The first inventory that writes makes it up, and all others copy it. So a copy of a repository that has the refs
    /// as well (`git clone --mirror`) passes for the same; a fork, which has not, is another.
    pub(super) async fn identity(&self) -> Result<Option<String>, GitError> {
        self.ask(Job::Identity).await
    }

    /// Asks the remote for its refs, and returns where the branch is, if there is one.
    pub(super) async fn probe(&self) -> Result<Option<Oid>, GitError> {
        self.ask(Job::Probe).await
    }

    async fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, GitError> {
        let (reply, answer) = oneshot::channel();
        // A full queue makes the caller wait.
        self.queue.send(job(reply)).await.map_err(|_| GitError::GivenUp)?;
        answer.await.map_err(|_| GitError::GivenUp)?
    }
}

/// Works until the last handle is gone, or the process stops.
async fn run(worker: Arc<Worker>, mut jobs: mpsc::Receiver<Job>) {
    let Surroundings { stop, residents, .. } = worker.around.clone();
    let mut knowledge = Knowledge::Unknown;
    while let Some(Some(first)) = stop.run_until_cancelled(jobs.recv()).await {
        let batch = gather(first, &mut jobs, || residents.of(&worker.settings.place, GATHER)).await;
        let worker = Arc::clone(&worker);
        // What panics there has dropped its replies, and nothing is known of the remote any more.
        let done = tokio::task::spawn_blocking(move || worker.work(batch, knowledge)).await;
        knowledge = done.unwrap_or(Knowledge::Unknown);
    }
}

/// Takes what is there, and waits for more while edits keep coming, until there is one of each inventory: the branch has
/// `residents` of them, as far as is known.
async fn gather(first: Job, jobs: &mut mpsc::Receiver<Job>, residents: impl Fn() -> Option<NonZeroUsize>) -> Vec<Job> {
    let mut batch = vec![first];
    while let Ok(job) = jobs.try_recv() {
        batch.push(job);
    }
    let limit = Instant::now() + GATHER_AT_MOST;
    while batch.len() < BATCH {
        let edits = batch.iter().filter(|job| matches!(job, Job::Edit(..))).count();
        if edits == 0 || residents().is_some_and(|residents| edits >= residents.get()) {
            break;
        }
        match timeout_at(limit.min(Instant::now() + GATHER), jobs.recv()).await {
            Ok(Some(job)) => batch.push(job),
            Ok(None) | Err(_) => break,
        }
    }
    batch
}

#[cfg(test)]
mod tests;
