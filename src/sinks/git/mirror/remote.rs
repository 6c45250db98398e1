//! What a mirror says to its remote, and hears from it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::num::NonZeroU32;

use git2::{AutotagOption, Direction, FetchOptions, ObjectType, Oid, PushOptions, Remote};

use super::Mirror;
use crate::sinks::git::error::GitError;
use crate::sinks::git::owner::{OwnerName, REFS};
use crate::sinks::git::transport::Session;
use crate::sinks::mandate::{Deposed, Mandate};

/// With more refs than this to fetch they are asked for by pattern.
const NAMED_REFS: usize = 200;

/// So that the files that an inventory owned one write ago are known, whatever depth is asked for.
const LEAST_DEPTH: i32 = 2;

/// A ref of the remote that is to move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sinks::git) struct Update {
    /// Full name.
    pub(in crate::sinks::git) reference: String,
    /// Where it must be before; `None` where there must be none.
    pub(in crate::sinks::git) from: Option<Oid>,
    /// Where it is to be; `None` where it is to go.
    pub(in crate::sinks::git) to: Option<Oid>,
    /// Whether what others did meanwhile counts.
    pub(in crate::sinks::git) lease: Lease,
}

/// Whether a ref moves only from where we believe it to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sinks::git) enum Lease {
    /// Only from there.
    Held,
    /// From anywhere.
    Ignored,
}

/// What became of a push.
#[derive(Debug)]
pub(in crate::sinks::git) enum Pushed {
    /// Every ref moved.
    All,
    /// A ref was not where we believed it to be, and nothing was sent.
    Moved,
    /// The server refused these refs; it may have moved the others.
    Rejected(BTreeMap<String, GitError>),
}

impl Mirror {
    /// Brings the mirror's refs to where those of the remote are. Nothing is fetched when nothing moved.
    pub(in crate::sinks::git) fn synchronise(&mut self, session: &Session, depth: NonZeroU32) -> Result<(), GitError> {
        let mut advertised = self.fetch(session, depth)?;
        self.reopen()?;
        let odb = self.repository.odb().map_err(GitError::Mirror)?;
        for (reference, id) in &advertised {
            // What was fetched is there, and the ref points at it.
            odb.read_header(*id).map_err(GitError::Mirror)?;
            if self.tip(reference)? != Some(*id) {
                self.record(reference, Some(*id))?;
            }
        }
        // A ref of ours that somebody made of something else says nothing.
        advertised.retain(|_, id| odb.read_header(*id).is_ok_and(|(_, kind)| kind == ObjectType::Commit));
        drop(odb);
        let branch = self.place.reference();
        let gone = self.references("refs/")?.into_iter().filter(|(reference, _)| {
            (*reference == branch || reference.starts_with(REFS)) && !advertised.contains_key(reference)
        });
        for (reference, _) in gone {
            self.record(&reference, None)?;
        }
        Ok(())
    }

    /// Fetches what is not here, and returns the refs of the remote that concern us.
    fn fetch(&self, session: &Session, depth: NonZeroU32) -> Result<BTreeMap<String, Oid>, GitError> {
        let branch = self.place.reference();
        let mut remote = session.remote(&self.repository)?;
        let mut connection = remote
            .connect_auth(Direction::Fetch, Some(session.callbacks()), None)
            .map_err(|error| session.explain(error))?;
        let listed = connection.list().map_err(|error| session.explain(error))?;
        let ours = |name: &str| name == branch || OwnerName::from_reference(name).is_some();
        let advertised: BTreeMap<String, Oid> =
            listed.iter().filter(|head| ours(head.name())).map(|head| (head.name().to_owned(), head.oid())).collect();
        let mut wanted = Vec::new();
        for (reference, id) in &advertised {
            if self.tip(reference)? != Some(*id) {
                wanted.push(reference.as_str());
            }
        }
        if wanted.is_empty() {
            return Ok(advertised);
        }
        let named = |reference: &&str| format!("+{reference}:{reference}");
        let refspecs: Vec<String> = if wanted.len() > NAMED_REFS {
            [branch.as_str(), "refs/kollect/*"].iter().map(named).collect()
        } else {
            wanted.iter().map(named).collect()
        };
        let depth = i32::try_from(depth.get()).unwrap_or(i32::MAX).max(LEAST_DEPTH);
        let fetched = match download(connection.remote(), session, &refspecs, Some(depth)) {
            // A server, or a way to it, that knows nothing of depth.
            Err(error) if error.raw_code() == NOT_SUPPORTED => download(connection.remote(), session, &refspecs, None),
            fetched => fetched,
        };
        fetched.map_err(|error| session.explain(error))?;
        Ok(advertised)
    }

    /// Asks the remote for its refs alone, and returns where the branch is.
    pub(in crate::sinks::git) fn ask(&self, session: &Session) -> Result<Option<Oid>, GitError> {
        let branch = self.place.reference();
        let mut remote = session.remote(&self.repository)?;
        let connection = remote
            .connect_auth(Direction::Fetch, Some(session.callbacks()), None)
            .map_err(|error| session.explain(error))?;
        let listed = connection.list().map_err(|error| session.explain(error))?;
        Ok(listed.iter().find(|head| head.name() == branch).map(git2::RemoteHead::oid))
    }

    /// Moves refs of the remote, and those of the mirror after them.
    ///
    /// Each ref moves only from where we believe it to be: libgit2 compares the advertised ids before anything is sent,
    /// and the server compares once more with those. So the `+` of the refspecs forces nothing; it only keeps libgit2 from
    /// looking for common ancestors, which a shallow history may not have.
    pub(in crate::sinks::git) fn push(
        &self,
        session: &Session,
        updates: &[Update],
        mandate: &Mandate,
    ) -> Result<Pushed, GitError> {
        let statuses = RefCell::new(BTreeMap::new());
        let moved = Cell::new(false);
        let deposed: Cell<Option<Deposed>> = Cell::new(None);
        let mut callbacks = session.callbacks();
        callbacks.push_negotiation(|offers| {
            if let Err(error) = mandate.check() {
                deposed.set(Some(error));
                return Err(git2::Error::from_str("the mandate has ended"));
            }
            let stale = updates.iter().filter(|update| update.lease == Lease::Held).any(|update| {
                let offer = offers.iter().find(|offer| offer.dst_refname() == Some(&update.reference));
                offer.is_some_and(|offer| offer.src() != update.from.unwrap_or_else(Oid::zero))
            });
            moved.set(stale);
            if stale { Err(git2::Error::from_str("a ref moved")) } else { Ok(()) }
        });
        callbacks.push_update_reference(|reference, status| {
            statuses.borrow_mut().insert(reference.to_owned(), status.map(str::to_owned));
            Ok(())
        });
        let mut options = PushOptions::new();
        options.remote_callbacks(callbacks).packbuilder_parallelism(1);
        let refspecs: Vec<String> = updates
            .iter()
            .map(|update| match update.to {
                Some(id) => format!("+{id}:{}", update.reference),
                None => format!(":{}", update.reference),
            })
            .collect();
        let pushed = session.remote(&self.repository)?.push(&refspecs, Some(&mut options));
        drop(options);
        if let Some(source) = deposed.get() {
            return Err(GitError::Deposed { branch: self.place.branch.clone(), source });
        }
        if moved.get() {
            return Ok(Pushed::Moved);
        }
        let statuses = statuses.into_inner();
        if let Err(error) = pushed
            && statuses.values().all(Option::is_none)
        {
            return Err(session.explain(error));
        }
        let mut rejected = BTreeMap::new();
        for update in updates {
            match statuses.get(&update.reference) {
                Some(None) => self.record(&update.reference, update.to)?,
                Some(Some(status)) => {
                    rejected.insert(update.reference.clone(), session.refused(&update.reference, status));
                }
                None => {
                    _ = rejected.insert(update.reference.clone(), session.refused(&update.reference, "no answer"));
                }
            }
        }
        Ok(if rejected.is_empty() { Pushed::All } else { Pushed::Rejected(rejected) })
    }
}

/// `GIT_ENOTSUPPORTED`, which git2 has no name for.
const NOT_SUPPORTED: i32 = -39;

fn download(
    remote: &mut Remote<'_>,
    session: &Session,
    refspecs: &[String],
    depth: Option<i32>,
) -> Result<(), git2::Error> {
    let mut options = FetchOptions::new();
    options.remote_callbacks(session.callbacks()).update_fetchhead(false).download_tags(AutotagOption::None);
    if let Some(depth) = depth {
        options.depth(depth);
    }
    remote.fetch(refspecs, Some(&mut options), None)
}
