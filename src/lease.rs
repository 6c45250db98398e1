//! One active replica: an election over a Lease, and the mandate that comes with it.
//!
//! In flow what the API server says of the lease; out flows a [`Term`], and with it the [`Mandate`] that sinks ask before
//! they write. A candidate follows the lease by a watch and looks again every retry period; it takes a lease that is
//! absent, released, or unchanged for as long as its holder said. A leader renews every retry period. It counts its
//! mandate from the moment when the last successful renewal was *sent*, so the renew deadline, which is less than the
//! lease duration, is over for the leader before the lease is over for anybody else.
//!
//! What a leader does, how it ends its work and what follows from a lost lease is left to the runtime.

mod api;
mod election;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ObjectMeta;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::config;
use crate::error::chain;
use crate::metrics::Metrics;
use crate::sinks::mandate::{Mandate, Moment};
use api::{ApiError, Changes, KubeLeases, Leases};
use election::{Election, Record, Verdict};

/// Name of the lease, the same as in earlier releases: they and we never lead together.
pub const NAME: &str = "3274ac8a.kollect.dev";

/// No request takes longer; with short renew deadlines, less.
const MAX_REQUEST: Duration = Duration::from_secs(10);

/// A replica that stands for election.
pub struct Candidate {
    office: Office,
    changes: Option<Changes>,
    /// When to look at the lease again, whatever the watch says.
    look: Instant,
    failing: bool,
}

/// A replica that leads.
pub struct Term {
    office: Office,
    /// The lease as we wrote it last.
    held: Lease,
    mandate: Mandate,
    renewed: Instant,
}

/// What a replica has before, while and after it leads.
struct Office {
    leases: Box<dyn Leases>,
    election: Election,
    retry: Duration,
    limit: Duration,
    metrics: Arc<Metrics>,
}

/// Why a term ended before it was given up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// No renewal succeeded in time.
    #[error("lease {NAME} was not renewed in time")]
    Expired,
    /// The lease names somebody else, or nobody.
    #[error("lease {NAME} is held by \"{holder}\"")]
    Taken {
        /// Who has it now.
        holder: String,
    },
}

impl Candidate {
    /// Stands for election over the lease in a namespace. Nothing is asked yet.
    pub fn new(client: kube::Client, namespace: &str, settings: &config::Election, metrics: Arc<Metrics>) -> Self {
        let deadline = (settings.renew_deadline / 2).min(MAX_REQUEST);
        let leases = KubeLeases::new(client, namespace, metrics.clone(), deadline);
        Self::over(Box::new(leases), identity(&settings.hostname), settings, metrics)
    }

    fn over(leases: Box<dyn Leases>, identity: String, settings: &config::Election, metrics: Arc<Metrics>) -> Self {
        let election = Election::new(identity, settings.lease_duration);
        let office = Office { leases, election, retry: settings.retry_period, limit: settings.renew_deadline, metrics };
        Self { office, changes: None, look: Instant::now(), failing: false }
    }

    /// Waits for the lease; returns nothing when `stop` is cancelled before.
    ///
    /// A claim that is under way is waited for even then, so that it can be given back.
    pub async fn campaign(mut self, stop: &CancellationToken) -> Option<Term> {
        self.office.metrics.standing_by(NAME);
        info!(identity = self.office.election.identity(), lease = NAME, "standing by for leadership");
        let mut found = stop.run_until_cancelled(self.office.leases.read()).await?;
        loop {
            match found {
                Ok(lease) => {
                    self.failing = false;
                    let now = Moment::now();
                    self.look = now.steady + self.office.retry;
                    match self.office.consider(lease.as_ref(), now) {
                        Verdict::Claim(record) | Verdict::Renew(record) => {
                            match self.office.write(lease.as_ref(), &record).await {
                                Ok((held, sent)) => return Some(self.office.enter(held, sent)),
                                Err(error) if error.is_stale() => debug!(lease = NAME, "another replica was faster"),
                                Err(error) => self.failed(&error),
                            }
                        }
                        Verdict::Wait(until) => self.look = self.look.min(until),
                    }
                }
                Err(error) => {
                    self.look = Instant::now() + self.office.retry;
                    self.failed(&error);
                }
            }
            found = match stop.run_until_cancelled(self.change()).await? {
                Some(lease) => Ok(lease),
                None => stop.run_until_cancelled(self.office.leases.read()).await?,
            };
        }
    }

    /// Waits until the lease changes or it is time to look; then there is nothing to return.
    async fn change(&mut self) -> Option<Option<Lease>> {
        if self.changes.is_none() {
            match timeout_at(self.look, self.office.leases.watch()).await {
                Ok(Ok(changes)) => self.changes = Some(changes),
                Ok(Err(error)) => debug!(error = chain(&error), "the lease is read without a watch"),
                Err(_) => {}
            }
        }
        if let Some(changes) = &mut self.changes {
            match timeout_at(self.look, changes.next()).await {
                Ok(Some(lease)) => return Some(lease),
                Ok(None) => self.changes = None,
                Err(_) => return None,
            }
        }
        sleep_until(self.look).await;
        None
    }

    /// Logs the first of a row of failures.
    fn failed(&mut self, error: &ApiError) {
        if !self.failing {
            self.failing = true;
            warn!(error = chain(error), "lease not reached, trying again");
        }
    }
}

impl Office {
    fn consider(&mut self, lease: Option<&Lease>, now: Moment) -> Verdict {
        let record = lease.map(record);
        self.election.consider(record.as_ref(), now)
    }

    /// Writes a record over the version of the lease that it was decided from; returns also when that was sent.
    async fn write(&self, base: Option<&Lease>, record: &Record) -> Result<(Lease, Moment), ApiError> {
        let mut lease = base.cloned().unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
            ..Lease::default()
        });
        record.write_to(lease.spec.get_or_insert_default());
        let sent = Moment::now();
        Ok((self.leases.write(lease).await?, sent))
    }

    fn enter(self, held: Lease, sent: Moment) -> Term {
        self.metrics.leading(NAME);
        let transitions = record(&held).transitions;
        info!(identity = self.election.identity(), transitions, "became the leader");
        Term { mandate: Mandate::limited(self.limit, sent), renewed: sent.steady, office: self, held }
    }
}

impl Term {
    /// Returns the right to write that lasts as long as this term.
    pub fn mandate(&self) -> Mandate {
        self.mandate.clone()
    }

    /// Returns how often the lease has changed hands, this time included.
    pub fn transitions(&self) -> i64 {
        record(&self.held).transitions.into()
    }

    /// Returns the UID of the lease, which tells this installation from others where nothing better may be read.
    pub fn uid(&self) -> Option<&str> {
        self.held.metadata.uid.as_deref()
    }

    /// Renews for ever; returns when the lease is lost, and then nothing may be written any more.
    ///
    /// Dropping it in the middle of a renewal is fine.
    pub async fn keep(&mut self) -> Lost {
        let lost = self.renew_until_lost().await;
        self.mandate.end();
        self.office.metrics.standing_by(NAME);
        lost
    }

    async fn renew_until_lost(&mut self) -> Lost {
        let mut failing = false;
        let mut next = self.renewed + self.office.retry;
        loop {
            let now = Moment::now();
            let Ok(rest) = self.mandate.remaining(now) else { return Lost::Expired };
            sleep_until(next.min(now.steady + rest)).await;
            // Asked again before anything is sent: after a pause, a lease that is over must not be renewed.
            let now = Moment::now();
            let Ok(rest) = self.mandate.remaining(now) else { return Lost::Expired };
            next = now.steady + self.office.retry;
            match timeout(rest, self.renew()).await {
                Ok(Ok(Ok(()))) => failing = false,
                Ok(Ok(Err(lost))) => return lost,
                Ok(Err(error)) if !failing => {
                    failing = true;
                    warn!(error = chain(&error), "lease not renewed, trying again");
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    /// Renews once. A lease that changed under us is read again: it may still be ours.
    async fn renew(&mut self) -> Result<Result<(), Lost>, ApiError> {
        let renewal = self.office.election.renewal(&record(&self.held), Moment::now());
        let written = match self.office.write(Some(&self.held), &renewal).await {
            Err(error) if error.is_stale() => {
                let found = self.office.leases.read().await?;
                let holder = found.as_ref().map(|lease| record(lease).holder);
                match (self.office.consider(found.as_ref(), Moment::now()), holder) {
                    (Verdict::Renew(record), _) | (Verdict::Claim(record), None) => {
                        self.office.write(found.as_ref(), &record).await?
                    }
                    (_, holder) => return Ok(Err(Lost::Taken { holder: holder.unwrap_or_default() })),
                }
            }
            written => written?,
        };
        self.confirm(written);
        Ok(Ok(()))
    }

    fn confirm(&mut self, (held, sent): (Lease, Moment)) {
        // Seen, so that a lease which is deleted comes back with its count.
        self.office.consider(Some(&held), sent);
        self.held = held;
        self.mandate.confirm(sent);
    }

    /// Gives the lease away, so that another replica takes over at once. Nothing may be written afterwards.
    pub async fn release(mut self) {
        self.mandate.end();
        self.office.metrics.standing_by(NAME);
        match self.try_release().await {
            Ok(()) => info!(lease = NAME, "lease released"),
            Err(error) => warn!(error = chain(&error), "lease not released; it runs out by itself"),
        }
    }

    async fn try_release(&mut self) -> Result<(), ApiError> {
        let release = record(&self.held).released(Moment::now());
        match self.office.write(Some(&self.held), &release).await {
            // A renewal that was cut off may have arrived.
            Err(error) if error.is_stale() => {
                let found = self.office.leases.read().await?;
                let Some(lease) = found.filter(|lease| record(lease).holder == self.office.election.identity()) else {
                    return Ok(());
                };
                let release = record(&lease).released(Moment::now());
                self.office.write(Some(&lease), &release).await.map(drop)
            }
            written => written.map(drop),
        }
    }
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate").field("election", &self.office.election).finish_non_exhaustive()
    }
}

impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Term").field("election", &self.office.election).finish_non_exhaustive()
    }
}

fn record(lease: &Lease) -> Record {
    lease.spec.as_ref().map(Record::from).unwrap_or_default()
}

/// Returns a name that no other process has: the host, and a random UUID (RFC 9562, version 4).
fn identity(hostname: &str) -> String {
    // The keys of the hasher are drawn from the system's random numbers.
    let random = RandomState::new();
    let (high, low) = (random.hash_one(0), random.hash_one(1));
    format!(
        "{hostname}_{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        ((low >> 48) & 0x3fff) | 0x8000,
        low & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests;
