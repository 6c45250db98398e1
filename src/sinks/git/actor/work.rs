//! What an actor does on its blocking thread: one batch of jobs against the mirror and the remote.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use git2::Oid;
use parking_lot::Mutex;

use super::build::Building;
use super::rivals::Rivals;
use super::{Edit, Holding, Job, Outcome, Reply, Settings, State, Surroundings};
use crate::export::Scope;
use crate::model::Cluster;
use crate::sinks::git::config::PushPolicy;
use crate::sinks::git::error::GitError;
use crate::sinks::git::mirror::{Lease, Ledger, Mirror, Pushed, Update};
use crate::sinks::git::objects::Volume;
use crate::sinks::git::owner::OwnerName;
use crate::sinks::git::transport::{Session, Wire};
use crate::sinks::git::tree;

/// How long one conversation with the remote may last.
const CONVERSATION: Duration = Duration::from_mins(2);

/// How long another process may keep the mirror from us: one conversation of its own.
const LOCK_WAIT: Duration = Duration::from_secs(130);

/// How often a push is built anew because others were faster.
const TRIES: u32 = 5;

/// What is known of the remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Knowledge {
    /// The last conversation ended with an answer: the mirror is as the remote was then.
    Synchronised,
    /// The remote may be anywhere.
    Unknown,
}

/// All that a batch needs.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) settings: Settings,
    pub(super) wire: Arc<Wire>,
    pub(super) around: Surroundings,
    pub(super) rivals: Mutex<Rivals>,
}

/// A batch in work.
struct Batch<'w> {
    worker: &'w Worker,
    mirror: Mirror,
    knowledge: Knowledge,
}

/// What comes after a push that the server refused.
enum Next {
    /// Others were faster.
    Again,
    /// The same without our refs.
    Without,
    /// The branch went and the refs did not.
    Complete,
}

impl Worker {
    /// Does all jobs and answers them; returns what is known of the remote after that.
    pub(super) fn work(&self, jobs: Vec<Job>, knowledge: Knowledge) -> Knowledge {
        let jobs: Vec<Job> = jobs.into_iter().filter(|job| !job.is_abandoned()).collect();
        if jobs.is_empty() {
            return knowledge;
        }
        let place = &self.settings.place;
        let mirror = match Mirror::open(&self.around.places, place, Instant::now() + LOCK_WAIT) {
            Ok(mirror) => mirror,
            Err(error) => {
                let error = Arc::new(error);
                for job in jobs {
                    job.fail(&error);
                }
                return Knowledge::Unknown;
            }
        };
        let mut batch = Batch { worker: self, mirror, knowledge };
        if jobs.iter().any(Job::wants_fresh) {
            batch.knowledge = Knowledge::Unknown;
        }
        let mut edits = Vec::new();
        for job in jobs {
            match job {
                Job::Edit(edit, reply) => edits.push((edit, reply)),
                other => batch.answer(other),
            }
        }
        if !edits.is_empty() {
            let (edits, replies): (Vec<Edit>, Vec<Reply<Outcome>>) = edits.into_iter().unzip();
            deliver(replies, batch.soundly(|batch| batch.write(&edits)));
        }
        // What cannot be tidied is still a mirror; what is wrong with it shows at the next use.
        let _ = batch.mirror.tidy();
        batch.knowledge
    }
}

impl Job {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Edit(_, reply) => reply.is_closed(),
            Self::Owned(_, reply) => reply.is_closed(),
            Self::Blobs(_, reply) => reply.is_closed(),
            Self::Scopes(_, reply) => reply.is_closed(),
            Self::Identity(reply) => reply.is_closed(),
            Self::Probe(reply) => reply.is_closed(),
        }
    }

    /// Tells whether the remote is to be asked whatever is known.
    fn wants_fresh(&self) -> bool {
        matches!(self, Self::Owned(..) | Self::Scopes(..) | Self::Identity(_))
    }

    fn fail(self, error: &Arc<GitError>) {
        let error = GitError::Shared(Arc::clone(error));
        match self {
            Self::Edit(_, reply) => send(reply, Err(error)),
            Self::Owned(_, reply) => send(reply, Err(error)),
            Self::Blobs(_, reply) => send(reply, Err(error)),
            Self::Scopes(_, reply) => send(reply, Err(error)),
            Self::Identity(reply) => send(reply, Err(error)),
            Self::Probe(reply) => send(reply, Err(error)),
        }
    }
}

fn send<T>(reply: Reply<T>, answer: Result<T, GitError>) {
    let _ = reply.send(answer); // the caller may have gone away meanwhile
}

/// Answers edits, each with its own outcome or all with the same failure.
fn deliver(replies: Vec<Reply<Outcome>>, done: Result<Vec<Result<Outcome, GitError>>, GitError>) {
    match done {
        Ok(outcomes) => replies.into_iter().zip(outcomes).for_each(|(reply, outcome)| send(reply, outcome)),
        Err(error) => {
            let error = Arc::new(error);
            for reply in replies {
                send(reply, Err(GitError::Shared(Arc::clone(&error))));
            }
        }
    }
}

impl Batch<'_> {
    /// Does something with the mirror; when the mirror turns out to be broken, once more with a new one.
    fn soundly<T>(&mut self, mut work: impl FnMut(&mut Self) -> Result<T, GitError>) -> Result<T, GitError> {
        match work(self).map_err(|error| self.mirror.diagnose(error)) {
            Err(GitError::Mirror(_)) => {
                self.knowledge = Knowledge::Unknown;
                self.mirror.renew()?;
                work(self).map_err(|error| self.mirror.diagnose(error))
            }
            done => done,
        }
    }

    fn answer(&mut self, job: Job) {
        match job {
            Job::Edit(..) => {}
            Job::Owned(scope, reply) => send(reply, self.soundly(|batch| batch.owned(&scope))),
            Job::Blobs(blobs, reply) => send(reply, self.soundly(|batch| batch.blobs(&blobs))),
            Job::Scopes(cluster, reply) => send(reply, self.soundly(|batch| batch.scopes(&cluster))),
            Job::Identity(reply) => send(reply, self.soundly(Self::identity)),
            Job::Probe(reply) => send(reply, self.soundly(Self::probe)),
        }
    }

    fn session(&self) -> Result<Session, GitError> {
        self.worker.session()
    }

    /// Asks the remote, unless the mirror is known to be as it is.
    fn synchronise(&mut self) -> Result<(), GitError> {
        if self.knowledge == Knowledge::Unknown {
            let session = self.worker.session()?;
            self.mirror.synchronise(&session, self.worker.settings.depth)?;
            self.knowledge = Knowledge::Synchronised;
        }
        Ok(())
    }

    fn building(&self, ledger: Ledger, volume: Volume) -> Result<Building<'_>, GitError> {
        let Settings { place, author, .. } = &self.worker.settings;
        let Surroundings { writer, clock, .. } = &self.worker.around;
        Building::new(&self.mirror, place, author, writer, clock(), ledger, volume)
    }

    fn probe(&mut self) -> Result<Option<Oid>, GitError> {
        self.mirror.ask(&self.session()?)
    }

    fn blobs(&mut self, blobs: &[Oid]) -> Result<Vec<Vec<u8>>, GitError> {
        if let Ok(found) = self.read(blobs) {
            return Ok(found);
        }
        self.knowledge = Knowledge::Unknown;
        self.synchronise()?;
        self.read(blobs).map_err(GitError::Mirror)
    }

    fn read(&self, blobs: &[Oid]) -> Result<Vec<Vec<u8>>, git2::Error> {
        let repository = self.mirror.repository();
        blobs.iter().map(|blob| Ok(repository.find_blob(*blob)?.content().to_vec())).collect()
    }

    fn owned(&mut self, scope: &Scope) -> Result<Vec<Holding>, GitError> {
        self.synchronise()?;
        let building = self.building(self.mirror.ledger()?, Volume::Few)?;
        let owned = building.owned(&OwnerName::of(scope))?;
        let Some(tree) = owned.tree else { return Ok(Vec::new()) };
        let sound = if owned.listed.is_some() { State::Untold } else { State::Intact };
        let repository = self.mirror.repository();
        let altered: BTreeMap<_, _> = tree::missing(repository, tree, building.tree())?.into_iter().collect();
        let holding = |(path, blob)| {
            let state = if altered.contains_key(&path) { State::Altered } else { sound };
            Holding { path, blob, state }
        };
        Ok(tree::list(repository, tree)?.into_iter().map(holding).collect())
    }

    fn scopes(&mut self, unnamed: &Cluster) -> Result<Vec<Scope>, GitError> {
        self.synchronise()?;
        let building = self.building(self.mirror.ledger()?, Volume::Few)?;
        let (branch, writer) = (&self.worker.settings.place.branch, &self.worker.around.writer);
        let ours =
            building.claims().iter().filter(|(_, claim)| claim.note.branch == *branch && claim.note.writer == *writer);
        Ok(ours.filter_map(|(owner, claim)| owner.scope(unnamed, claim.note.inventory_uid.clone())).collect())
    }

    fn identity(&mut self) -> Result<Option<String>, GitError> {
        self.synchronise()?;
        let identity = self.building(self.mirror.ledger()?, Volume::Few)?.identity()?;
        Ok(identity.map(|identity| format!("{identity} {}", self.worker.settings.place.branch)))
    }

    /// Writes all edits with one push.
    fn write(&mut self, edits: &[Edit]) -> Result<Vec<Result<Outcome, GitError>>, GitError> {
        self.worker.may_write()?;
        if self.worker.settings.push == PushPolicy::Force {
            // What others pushed until now is kept; what they push until we do is overwritten.
            self.knowledge = Knowledge::Unknown;
        }
        let mut ledger = self.mirror.ledger()?;
        let mut seen = None;
        let mut first: Vec<Outcome> = vec![Outcome::default(); edits.len()];
        for _ in 0..TRIES {
            self.synchronise()?;
            let (outcomes, updates) = self.build(edits, ledger)?;
            let outcomes =
                outcomes.into_iter().zip(&first).map(|(outcome, first)| outcome.map(|done| done.after(first)));
            let outcomes: Vec<_> = outcomes.collect();
            if updates.is_empty() {
                return Ok(outcomes);
            }
            match self.push(&updates)? {
                Pushed::All => {
                    if ledger == Ledger::Files && self.mirror.ledger()? == Ledger::Refs {
                        self.mirror.refs_are_refused()?;
                    }
                    return Ok(outcomes);
                }
                Pushed::Moved => {
                    // Twice from the same places: the server has refs of ours that it does not show to who fetches.
                    let from: Vec<_> = updates.into_iter().map(|update| (update.reference, update.from)).collect();
                    if seen.as_ref() == Some(&from) {
                        ledger = Ledger::Files;
                    }
                    seen = Some(from);
                }
                Pushed::Rejected(refused) => match self.rejected(&updates, refused, ledger)? {
                    Next::Again => {}
                    Next::Without => ledger = Ledger::Files,
                    Next::Complete => {
                        ledger = Ledger::Files;
                        first = outcomes.into_iter().map(Result::unwrap_or_default).collect();
                    }
                },
            }
        }
        let branch = self.worker.settings.place.branch.clone();
        Err(GitError::Superseded { branch, tries: TRIES })
    }

    /// Builds all edits on what the mirror has. An edit that fails for itself leaves the others alone.
    #[expect(clippy::type_complexity, reason = "two results of one step, taken apart at once")]
    fn build(&self, edits: &[Edit], ledger: Ledger) -> Result<(Vec<Result<Outcome, GitError>>, Vec<Update>), GitError> {
        // Where there is no branch, all of it is new.
        let branch = self.mirror.tip(&self.worker.settings.place.reference())?;
        let mut building = self.building(ledger, if branch.is_some() { Volume::Few } else { Volume::Many })?;
        let mut outcomes = Vec::with_capacity(edits.len());
        for edit in edits {
            outcomes.push(match self.unrivalled(&building, edit).and_then(|()| building.edit(edit)) {
                Err(error @ (GitError::Mirror(_) | GitError::Disk { .. })) => return Err(error),
                outcome => outcome,
            });
        }
        let lease = match self.worker.settings.push {
            PushPolicy::Commit => Lease::Held,
            PushPolicy::Force => Lease::Ignored,
        };
        let updates = building.updates(lease);
        if !updates.is_empty() {
            building.objects().finish()?;
        }
        Ok((outcomes, updates))
    }

    /// Checks that no other operator writes this inventory.
    fn unrivalled(&self, building: &Building<'_>, edit: &Edit) -> Result<(), GitError> {
        let owner = OwnerName::of(&edit.scope);
        let ours = &self.worker.around.writer;
        let mut rivals = self.worker.rivals.lock();
        match building.writer_of(&owner) {
            Some((writer, commit)) if writer != ours => {
                if rivals.has_gone(&owner, commit, Instant::now()) {
                    return Ok(());
                }
                Err(GitError::ClusterConflict { inventory: owner.to_string(), writer: writer.to_owned() })
            }
            _ => {
                rivals.forget(&owner);
                Ok(())
            }
        }
    }

    fn push(&mut self, updates: &[Update]) -> Result<Pushed, GitError> {
        self.worker.may_write()?;
        // Until there is an answer.
        self.knowledge = Knowledge::Unknown;
        let session = self.worker.session()?;
        let pushed = self.mirror.push(&session, updates, &self.worker.around.mandate)?;
        if matches!(pushed, Pushed::All) {
            self.knowledge = Knowledge::Synchronised;
        }
        Ok(pushed)
    }

    /// Finds out why the server refused: somebody was faster, our refs are not wanted, or the branch is not.
    fn rejected(
        &mut self,
        updates: &[Update],
        mut refused: BTreeMap<String, GitError>,
        ledger: Ledger,
    ) -> Result<Next, GitError> {
        self.synchronise()?;
        for update in updates.iter().filter(|update| refused.contains_key(&update.reference)) {
            if self.mirror.tip(&update.reference)? != update.from {
                return Ok(Next::Again);
            }
        }
        let branch = self.worker.settings.place.reference();
        let of_branch = refused.remove(&branch);
        let trouble = |error: &GitError| matches!(error, GitError::Busy { .. } | GitError::NonFastForward { .. });
        if of_branch.as_ref().is_some_and(trouble) || refused.values().any(trouble) {
            let trouble = of_branch.into_iter().chain(refused.into_values()).find(trouble);
            return Err(trouble.unwrap_or(GitError::GivenUp));
        }
        let refs = updates.iter().any(|update| update.reference != branch);
        match of_branch {
            None => Ok(Next::Complete),
            Some(_) if refs && ledger == Ledger::Refs => Ok(Next::Without),
            Some(error) => Err(error),
        }
    }
}

impl Worker {
    fn session(&self) -> Result<Session, GitError> {
        self.wire.session(tokio::time::Instant::now() + CONVERSATION, &self.around.stop)
    }

    fn may_write(&self) -> Result<(), GitError> {
        let branch = || self.settings.place.branch.clone();
        self.around.mandate.check().map_err(|source| GitError::Deposed { branch: branch(), source })
    }
}

impl Outcome {
    /// Adds what an earlier push of the same edit did.
    fn after(mut self, first: &Self) -> Self {
        self.written += first.written;
        self.deleted += first.deleted;
        self.bytes += first.bytes;
        self.commit = self.commit.or(first.commit);
        self
    }
}
