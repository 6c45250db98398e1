use futures::future::BoxFuture;
use futures::stream;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use kube::core::Status;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::*;
use crate::sinks::mandate::Deposed;

const LEASE: Duration = Duration::from_mins(1);
const RENEW: Duration = Duration::from_secs(40);
const RETRY: Duration = Duration::from_secs(5);

/// A server with one lease, for all candidates of a test.
#[derive(Clone)]
struct Server(Arc<State>);

struct State {
    lease: watch::Sender<Option<Lease>>,
    condition: Mutex<Condition>,
    writes: Mutex<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    Well,
    /// Reads and writes are served, a watch is not.
    WithoutWatch,
    Refusing,
    /// It takes requests and never answers; what was sent is done all the same.
    Silent,
}

impl Server {
    fn new() -> Self {
        let (lease, _) = watch::channel(None);
        Self(Arc::new(State { lease, condition: Mutex::new(Condition::Well), writes: Mutex::new(0) }))
    }

    fn candidate(&self, identity: &str) -> Candidate {
        let settings = config::Election {
            lease_duration: LEASE,
            renew_deadline: RENEW,
            retry_period: RETRY,
            hostname: String::new(),
        };
        let metrics = Arc::new(Metrics::new("dev", "unknown"));
        Candidate::over(Box::new(self.clone()), identity.to_owned(), &settings, metrics)
    }

    async fn leader(&self, identity: &str) -> Term {
        self.candidate(identity).campaign(&CancellationToken::new()).await.unwrap()
    }

    fn turn(&self, condition: Condition) {
        *self.0.condition.lock() = condition;
    }

    fn record(&self) -> Record {
        record(self.0.lease.borrow().as_ref().unwrap())
    }

    fn writes(&self) -> u64 {
        *self.0.writes.lock()
    }

    /// Changes the lease by hand.
    fn edit(&self, edit: impl FnOnce(&mut LeaseSpec)) {
        let mut lease = self.0.lease.borrow().clone().unwrap();
        edit(lease.spec.as_mut().unwrap());
        self.put(lease);
    }

    fn delete(&self) {
        self.0.lease.send_replace(None);
    }

    fn put(&self, mut lease: Lease) -> Lease {
        let mut writes = self.0.writes.lock();
        *writes += 1;
        lease.metadata.resource_version = Some(writes.to_string());
        self.0.lease.send_replace(Some(lease.clone()));
        lease
    }

    async fn answer<T>(&self, doing: &'static str, answer: T) -> Result<T, ApiError> {
        let condition = *self.0.condition.lock();
        match condition {
            Condition::Well | Condition::WithoutWatch => Ok(answer),
            Condition::Refusing => Err(refused(doing, 500)),
            Condition::Silent => {
                tokio::time::sleep(MAX_REQUEST).await;
                Err(ApiError::Silent { doing, after: MAX_REQUEST })
            }
        }
    }
}

fn refused(doing: &'static str, code: u16) -> ApiError {
    let status = Status { code, ..Status::default() };
    ApiError::Refused { doing, source: Box::new(kube::Error::Api(Box::new(status))) }
}

impl Leases for Server {
    fn read(&self) -> BoxFuture<'_, Result<Option<Lease>, ApiError>> {
        let lease = self.0.lease.borrow().clone();
        Box::pin(self.answer("read", lease))
    }

    fn write(&self, lease: Lease) -> BoxFuture<'_, Result<Lease, ApiError>> {
        let condition = *self.0.condition.lock();
        let known = self.0.lease.borrow().as_ref().map(|lease| lease.metadata.resource_version.clone());
        let stale = match (&lease.metadata.resource_version, known) {
            (None, Some(_)) => Some(409),
            (Some(_), None) => Some(404),
            (mine, Some(theirs)) if *mine != theirs => Some(409),
            _ => None,
        };
        Box::pin(async move {
            if condition != Condition::Refusing {
                if let Some(code) = stale {
                    return Err(refused("write", code));
                }
                return self.answer("write", self.put(lease)).await;
            }
            self.answer("write", lease).await
        })
    }

    fn watch(&self) -> BoxFuture<'_, Result<Changes, ApiError>> {
        Box::pin(async {
            if *self.0.condition.lock() == Condition::WithoutWatch {
                return Err(refused("watch", 403));
            }
            let mut receiver = self.0.lease.subscribe();
            receiver.mark_changed();
            let changes = stream::unfold(receiver, |mut receiver| async {
                receiver.changed().await.ok()?;
                let lease = receiver.borrow_and_update().clone();
                Some((lease, receiver))
            });
            self.answer("watch", changes.boxed()).await
        })
    }
}

/// Lets a standby wait until it leads.
fn standby(server: &Server, identity: &str) -> JoinSet<Term> {
    let candidate = server.candidate(identity);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { candidate.campaign(&CancellationToken::new()).await.unwrap() });
    tasks
}

async fn leads(standby: &mut JoinSet<Term>) -> Term {
    standby.join_next().await.unwrap().unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_first_candidate_leads_at_once() {
    let server = Server::new();
    let began = Instant::now();
    let term = server.leader("a").await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(server.record().holder, "a");
    assert_eq!((server.record().duration_seconds, term.transitions()), (60, 0));
    assert_eq!(term.mandate().check(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn of_several_candidates_one_leads() {
    let server = Server::new();
    let mut candidates = JoinSet::new();
    for identity in ["a", "b", "c"] {
        let candidate = server.candidate(identity);
        candidates.spawn(async move {
            let mut term = candidate.campaign(&CancellationToken::new()).await.unwrap();
            timeout(10 * LEASE, term.keep()).await
        });
    }
    assert!(candidates.join_next().await.unwrap().unwrap().is_err());
    assert!(candidates.try_join_next().is_none());
    assert_eq!(server.record().transitions, 0);
}

#[tokio::test(start_paused = true)]
async fn a_released_lease_is_taken_within_moments() {
    let server = Server::new();
    let term = server.leader("a").await;
    let mut other = standby(&server, "b");
    tokio::time::sleep(RETRY / 2).await;
    let mandate = term.mandate();
    let released = Instant::now();
    term.release().await;
    assert_eq!(mandate.check(), Err(Deposed));
    let term = leads(&mut other).await;
    assert_eq!(released.elapsed(), Duration::ZERO);
    assert_eq!((server.record().holder.as_str(), term.transitions()), ("b", 1));
}

#[tokio::test(start_paused = true)]
async fn without_a_watch_a_released_lease_is_taken_at_the_next_look() {
    let server = Server::new();
    server.turn(Condition::WithoutWatch);
    let term = server.leader("a").await;
    let mut other = standby(&server, "b");
    tokio::time::sleep(RETRY / 2).await;
    let released = Instant::now();
    term.release().await;
    leads(&mut other).await;
    assert!(released.elapsed() <= RETRY, "{:?}", released.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_lease_of_a_silent_leader_is_taken_when_it_is_over_and_not_before() {
    let server = Server::new();
    let dead = server.leader("a").await;
    let began = Instant::now();
    let mut other = standby(&server, "b");
    let term = leads(&mut other).await;
    let waited = began.elapsed();
    // Timers of the runtime have the grain of a millisecond.
    assert!(waited >= LEASE && waited < LEASE + Duration::from_millis(10), "{waited:?}");
    assert_eq!(term.transitions(), 1);
    assert_eq!(dead.mandate().check(), Err(Deposed));
}

#[tokio::test(start_paused = true)]
async fn a_leader_keeps_its_lease_through_a_short_outage() {
    for condition in [Condition::Refusing, Condition::Silent] {
        let server = Server::new();
        let mut term = server.leader("a").await;
        let mut other = standby(&server, "b");
        let mandate = term.mandate();
        let outage = async {
            tokio::time::sleep(Duration::from_mins(3)).await;
            server.turn(condition);
            tokio::time::sleep(Duration::from_secs(15)).await;
            server.turn(Condition::Well);
            tokio::time::sleep(Duration::from_mins(3)).await;
        };
        tokio::select! {
            lost = term.keep() => panic!("{lost}"),
            () = outage => {}
        }
        assert_eq!(mandate.check(), Ok(()));
        assert!(other.try_join_next().is_none());
        assert_eq!((server.record().holder.as_str(), server.record().transitions), ("a", 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_gives_up_before_others_may_lead() {
    let server = Server::new();
    let mut term = server.leader("a").await;
    let began = Instant::now();
    server.turn(Condition::Refusing);
    assert_eq!(term.keep().await, Lost::Expired);
    assert!(began.elapsed() < RENEW + Duration::from_millis(10), "{:?}", began.elapsed());
    assert_eq!(term.mandate().check(), Err(Deposed));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_paused_for_too_long_writes_nothing_more() {
    let server = Server::new();
    let mut term = server.leader("a").await;
    let writes = server.writes();
    let mandate = term.mandate();
    tokio::time::advance(RENEW).await;
    assert_eq!(mandate.check(), Err(Deposed));
    assert_eq!(term.keep().await, Lost::Expired);
    assert_eq!(server.writes(), writes);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_somebody_else_has_is_lost() {
    for holder in ["b", ""] {
        let server = Server::new();
        let mut term = server.leader("a").await;
        server.edit(|spec| spec.holder_identity = Some(holder.to_owned()));
        assert_eq!(term.keep().await, Lost::Taken { holder: holder.to_owned() });
        assert_eq!(term.mandate().check(), Err(Deposed));
        assert_eq!(server.record().holder, holder);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_only_touched_or_deleted_is_kept() {
    let server = Server::new();
    let mut term = server.leader("a").await;
    server.edit(|spec| spec.lease_transitions = Some(7));
    assert!(timeout(LEASE, term.keep()).await.is_err());
    server.delete();
    assert!(timeout(LEASE, term.keep()).await.is_err());
    assert_eq!((server.record().holder.as_str(), server.record().transitions), ("a", 7));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_was_cut_off_does_not_keep_the_lease_from_being_released() {
    let server = Server::new();
    let mut term = server.leader("a").await;
    server.turn(Condition::Silent);
    // The renewal arrives, its answer does not.
    assert!(timeout(RETRY + Duration::from_secs(1), term.keep()).await.is_err());
    server.turn(Condition::Well);
    term.release().await;
    assert_eq!(server.record().holder, "");
}

#[tokio::test(start_paused = true)]
async fn a_standby_ends_when_it_is_told_to() {
    let server = Server::new();
    let _leader = server.leader("a").await;
    for condition in [Condition::Well, Condition::WithoutWatch, Condition::Refusing, Condition::Silent] {
        server.turn(condition);
        let stop = CancellationToken::new();
        let mut candidates = JoinSet::new();
        let (candidate, token) = (server.candidate("b"), stop.clone());
        candidates.spawn(async move { candidate.campaign(&token).await.is_none() });
        tokio::time::sleep(RETRY + RETRY / 2).await;
        let stopped = Instant::now();
        stop.cancel();
        assert!(candidates.join_next().await.unwrap().unwrap());
        assert_eq!(stopped.elapsed(), Duration::ZERO);
    }
}

#[test]
fn identities_are_the_host_and_a_uuid() {
    let one = identity("kollect-0");
    let (host, uuid) = one.split_once('_').unwrap();
    let groups: Vec<_> = uuid.split('-').map(str::len).collect();
    assert_eq!((host, groups), ("kollect-0", vec![8, 4, 4, 4, 12]));
    assert_ne!(one, identity("kollect-0"));
}
