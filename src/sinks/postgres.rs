//! Rows into PostgreSQL: one table for all operators and inventories, and a small one that says who writes what.
//!
//! In flow a [`Delta`] and the scope it belongs to; out flow rows keyed by (cluster, inventory, target, uid), each with
//! the fingerprint by which it is recognised after a restart. A delivery is one transaction: all or nothing (but for rows
//! that the server takes in no case), and a row that is already there is neither written nor locked. [`PostgresPools`] is made once; it shares two connections among
//! all sinks of a destination, and knows who this process is among the writers of a table.
//!
//! Retrying is left to the caller, and so is the choice of what to write; this module alone decides what an error means.

mod audit;
mod careful;
mod config;
mod connect;
mod dsn;
mod error;
mod preview;
mod recover;
mod schema;
mod state;
mod tls;
mod upgrade;
mod write;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::{LOCK_TIMEOUT, PostgresConfig, Provisioning, STATEMENT_TIMEOUT};
pub use preview::{expected_ddl, remarks};

use audit::AuditSql;
use config::Names;
use connect::{IDLE_LIMIT, Lease, Pool, in_time};
use error::PostgresError;
use recover::RecoverSql;
use schema::{Facts, Present};
use state::{Owner, StateSql};
use write::WriteSql;

use super::mandate::Mandate;
use super::netguard::Guard;
use super::{Audit, Destination, Leave, Receipt, RowSink, Sink, SinkError, shared, sweep};
use crate::error::{Class, Classify};
use crate::export::{Delta, Held, Scope, Selection};
use crate::model::{Fingerprint, Row};

/// A transaction of ours that goes silent (a paused process) is ended by the server after this.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(30);

/// What the server's own limit is given before this side gives up waiting.
const GRACE: Duration = Duration::from_secs(5);

/// Gives the time that rows are stamped with.
pub type Clock = fn() -> jiff::Timestamp;

/// Who writes: this operator among those that share a table, and which life of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    /// UID of the namespace `kube-system`: the same for every life of this operator, and no other cluster's.
    pub process: String,
    /// How often the lease changed hands; 0 without election.
    pub lease_transitions: i64,
}

impl Writer {
    /// Returns the `writer` column of a scope.
    fn of(&self, scope: &Scope) -> String {
        format!("{}/{}", self.process, scope.inventory_uid)
    }
}

/// Makes sinks, and shares connections and epochs among those of one destination.
///
/// Holds as many entries as there are live destinations; a pool goes when its last sink goes.
#[derive(Debug)]
pub struct PostgresPools {
    guard: Guard,
    writer: Writer,
    mandate: Mandate,
    clock: Clock,
    tasks: TaskTracker,
    stop: CancellationToken,
    pools: Arc<Mutex<HashMap<[u8; 32], Weak<Pool>>>>,
    homes: Mutex<HashMap<HomeKey, Weak<Home>>>,
    /// Taken once for each destination and kept: a second sink of the same table must not fence the first.
    epochs: Mutex<HashMap<EpochKey, Arc<OnceCell<i64>>>>,
}

/// The destination and its table of states.
type EpochKey = (String, String);

/// One pair of tables as one login sees it.
type HomeKey = ([u8; 32], Names, Provisioning);

/// What sinks of one pair of tables share.
#[derive(Debug)]
struct Home {
    pool: Arc<Pool>,
    names: Names,
    provisioning: Provisioning,
    sql: Sql,
    /// Set when the tables were looked at and found right; unset by the next failure.
    facts: Mutex<Option<Facts>>,
}

/// All statements over one pair of tables.
#[derive(Debug)]
struct Sql {
    state: StateSql,
    write: WriteSql,
    recover: RecoverSql,
    audit: AuditSql,
}

impl PostgresPools {
    /// Makes the registry. Must be called inside the runtime; connections live until `stop`.
    pub fn new(guard: Guard, writer: Writer, clock: Clock, stop: CancellationToken) -> Self {
        let pools: Arc<Mutex<HashMap<[u8; 32], Weak<Pool>>>> = Arc::default();
        let tasks = TaskTracker::new();
        tasks.spawn(stop.clone().run_until_cancelled_owned(sweep(
            Arc::clone(&pools),
            IDLE_LIMIT / 3,
            Pool::close_idle,
        )));
        let mandate = Mandate::unlimited();
        Self { guard, writer, mandate, clock, tasks, stop, pools, homes: Mutex::default(), epochs: Mutex::default() }
    }

    /// Lets the sinks write only as long as the mandate lasts: each transaction asks at its begin and before its commit.
    #[must_use]
    pub fn under(self, mandate: Mandate) -> Self {
        Self { mandate, ..self }
    }

    /// Makes a sink. Nothing is connected yet.
    ///
    /// # Errors
    /// Terminal when the connection string or a name cannot be used.
    pub fn sink(&self, config: &PostgresConfig) -> Result<PostgresSink, SinkError> {
        let checked = config.check()?;
        let pool =
            shared(&self.pools, checked.pool_key, || Pool::new(self.guard, &checked, config, self.tasks.clone()));
        let home_key = (checked.pool_key, checked.names.clone(), config.provisioning);
        let home = shared(&self.homes, home_key, || {
            let (data, state) = (checked.names.data(), checked.names.state());
            Home {
                pool,
                provisioning: config.provisioning,
                sql: Sql {
                    state: StateSql::new(&state),
                    write: WriteSql::new(&data, &state),
                    recover: RecoverSql::new(&data),
                    audit: AuditSql::new(&data, &state),
                },
                names: checked.names.clone(),
                facts: Mutex::new(None),
            }
        });
        let states = (checked.destination.id.clone(), checked.names.state());
        Ok(PostgresSink {
            home,
            writer: self.writer.clone(),
            mandate: self.mandate.clone(),
            clock: self.clock,
            epoch: Arc::clone(self.epochs.lock().entry(states).or_default()),
            statement_timeout: config.statement_timeout.unwrap_or(STATEMENT_TIMEOUT),
            lock_timeout: config.lock_timeout.unwrap_or(LOCK_TIMEOUT),
            destination: checked.destination,
        })
    }

    /// Ends the tasks of all connections and waits for them. Sinks must not be used any more.
    pub async fn close(&self) {
        self.stop.cancel();
        let pools: Vec<Arc<Pool>> = self.pools.lock().drain().filter_map(|(_, pool)| pool.upgrade()).collect();
        for pool in pools {
            pool.close();
        }
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Rows of one sink object.
pub struct PostgresSink {
    home: Arc<Home>,
    destination: Destination,
    writer: Writer,
    mandate: Mandate,
    clock: Clock,
    /// The epoch of this process at the destination, once it has claimed something there.
    epoch: Arc<OnceCell<i64>>,
    statement_timeout: Duration,
    lock_timeout: Duration,
}

impl fmt::Debug for PostgresSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSink").field("destination", &self.destination.description).finish_non_exhaustive()
    }
}

/// What a transaction does.
#[derive(Debug, Clone, Copy)]
enum Access {
    Read,
    Write,
}

/// How rows are written.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// All or nothing.
    Whole,
    /// All but the rows that the server refuses.
    Careful,
}

/// A connection at work on one pair of tables.
struct Session<'a> {
    lease: &'a Lease,
    names: &'a Names,
    sql: &'a Sql,
    mandate: &'a Mandate,
    statement_timeout: Duration,
}

impl Session<'_> {
    fn client(&self) -> &Client {
        self.lease.client()
    }

    /// Returns until when the next statement must have been answered.
    fn deadline(&self) -> Instant {
        Instant::now() + self.statement_timeout + GRACE
    }

    /// Gives the next statement, which goes over this many rows at once, the time that they need, and returns until when it
    /// must have been answered. 100,000 rows are counted and hashed, or deleted, in less than a second.
    async fn allow(&self, rows: u64) -> Result<Instant, PostgresError> {
        let needed = Duration::from_secs(10).saturating_add(Duration::from_micros(rows.saturating_mul(50)));
        if needed <= self.statement_timeout {
            return Ok(self.deadline());
        }
        let doing = || format!("set the time limit of a statement on {}", self.data());
        let sql = format!("SET LOCAL statement_timeout = {}", needed.as_millis());
        in_time(self.deadline(), doing, self.client().batch_execute(&sql)).await?;
        Ok(Instant::now() + needed + GRACE)
    }

    /// Returns the table of rows, quoted.
    fn data(&self) -> String {
        self.names.data()
    }

    /// Returns the table of states, quoted.
    fn state(&self) -> String {
        self.names.state()
    }

    async fn commit(&self) -> Result<(), PostgresError> {
        let doing = || format!("commit to {}", self.data());
        // What is refused here is rolled back with the connection.
        self.mandate.check().map_err(|source| PostgresError::Deposed { doing: doing(), source })?;
        in_time(self.deadline(), doing, self.client().batch_execute("COMMIT")).await
    }
}

impl PostgresSink {
    fn session<'a>(&'a self, lease: &'a Lease) -> Session<'a> {
        let home = &*self.home;
        let (names, sql, mandate) = (&home.names, &home.sql, &self.mandate);
        Session { lease, names, sql, mandate, statement_timeout: self.statement_timeout }
    }

    /// Opens a transaction with our limits.
    async fn begin(&self, session: &Session<'_>, access: Access) -> Result<(), PostgresError> {
        let script = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED{}; SET LOCAL statement_timeout = {}; \
             SET LOCAL lock_timeout = {}; SET LOCAL idle_in_transaction_session_timeout = {}",
            match access {
                Access::Write => "",
                Access::Read => " READ ONLY",
            },
            self.statement_timeout.as_millis(),
            self.lock_timeout.as_millis(),
            IDLE_IN_TRANSACTION.as_millis()
        );
        let doing = || format!("begin a transaction on {}", session.data());
        self.mandate.check().map_err(|source| PostgresError::Deposed { doing: doing(), source })?;
        in_time(session.deadline(), doing, session.client().batch_execute(&script)).await
    }

    /// Returns what is known of the tables; looks, and creates them, when nothing is.
    async fn facts(&self, session: &Session<'_>) -> Result<Facts, PostgresError> {
        if let Some(facts) = self.home.facts.lock().clone() {
            return Ok(facts);
        }
        let facts = schema::ensure(session.client(), session.names, self.home.provisioning, session.deadline()).await?;
        *self.home.facts.lock() = Some(facts.clone());
        Ok(facts)
    }

    /// Returns the epoch of this process at the destination. The first use takes it, in a transaction that claims the scope.
    async fn epoch(&self, session: &Session<'_>, scope: &Scope) -> Result<i64, PostgresError> {
        let take = || async {
            self.begin(session, Access::Write).await?;
            let epoch = state::first_claim(session, scope, &self.writer).await?;
            session.commit().await?;
            Ok(epoch)
        };
        self.epoch.get_or_try_init(take).await.copied()
    }

    /// Opens a transaction in which the scope is ours.
    async fn begin_in(&self, session: &Session<'_>, scope: &Scope) -> Result<Facts, PostgresError> {
        let facts = self.facts(session).await?;
        let epoch = if facts.has_state { Some(self.epoch(session, scope).await?) } else { None };
        self.begin(session, Access::Write).await?;
        if let Some(epoch) = epoch {
            state::claim(session, scope, &self.writer, epoch).await?;
        }
        Ok(facts)
    }

    /// After a failure the tables are looked at again: at once when the server complains about them, so that the answer
    /// names what to run, and at the next use otherwise.
    async fn explain(&self, error: PostgresError) -> PostgresError {
        *self.home.facts.lock() = None;
        if !error.state().is_some_and(|state| state.code().starts_with("42")) {
            return error;
        }
        let Ok(lease) = self.home.pool.lease().await else { return error };
        let session = self.session(&lease);
        let mode = self.home.provisioning;
        match schema::look(session.client(), session.names, mode, session.deadline()).await {
            Ok(_) => {
                lease.give_back();
                error
            }
            Err(better) => better,
        }
    }

    async fn try_identity(&self) -> Result<Option<String>, PostgresError> {
        let lease = self.home.pool.lease().await?;
        let session = self.session(&lease);
        let identity = schema::identity(session.client(), session.names, session.deadline()).await?;
        lease.give_back();
        Ok(identity)
    }

    async fn try_probe(&self) -> Result<String, PostgresError> {
        let lease = self.home.pool.lease().await?;
        let session = self.session(&lease);
        let mode = self.home.provisioning;
        let facts = schema::look(session.client(), session.names, mode, session.deadline()).await?;
        let table = session.data();
        lease.give_back();
        let what = match (facts.has_table, facts.is_outdated) {
            (false, _) => "will be created",
            (true, true) => "is of an earlier release and will be brought up to date",
            (true, false) => "is ready",
        };
        Ok(format!("PostgreSQL {}, role \"{}\": table {table} {what}", facts.version, facts.role))
    }

    async fn try_recover(&self, scope: &Scope, selection: &Selection) -> Result<Vec<Held>, PostgresError> {
        let lease = self.home.pool.lease().await?;
        let session = self.session(&lease);
        self.begin_in(&session, scope).await?;
        let held = recover::read(&session, scope, selection).await?;
        session.commit().await?;
        lease.give_back();
        Ok(held)
    }

    async fn try_deliver(&self, delta: &Delta, manner: Manner) -> Result<Receipt, PostgresError> {
        let lease = self.home.pool.lease().await?;
        let session = self.session(&lease);
        let facts = self.begin_in(&session, &delta.scope).await?;
        let stamp = (self.clock)().into();
        let receipt = match manner {
            Manner::Whole => write::write(&session, delta, &facts, stamp).await?,
            Manner::Careful => careful::write(&session, delta, &facts, stamp).await?,
        };
        session.commit().await?;
        lease.give_back();
        Ok(receipt)
    }

    async fn try_audit(&self, scope: &Scope) -> Result<Audit, PostgresError> {
        let lease = self.home.pool.lease().await?;
        let session = self.session(&lease);
        let present = schema::present(session.client(), session.names, session.deadline()).await?;
        let mut found = Audit::Drifted;
        if present.data && present.state {
            self.begin(&session, Access::Read).await?;
            found = audit::audit(&session, scope).await?;
            session.commit().await?;
        }
        lease.give_back();
        Ok(found)
    }

    async fn try_verify(&self, scope: &Scope, rows: &[Row]) -> Result<Vec<Held>, PostgresError> {
        let lease = self.home.pool.lease().await?;
        let session = self.session(&lease);
        self.begin_in(&session, scope).await?;
        let held = audit::verify(&session, scope, rows).await?;
        session.commit().await?;
        lease.give_back();
        Ok(held)
    }

    async fn try_leave(&self, scope: &Scope, how: Leave) -> Result<Receipt, PostgresError> {
        let lease = self.home.pool.lease().await?;
        let session = self.session(&lease);
        let present = schema::present(session.client(), session.names, session.deadline()).await?;
        let mut deleted = 0;
        if present.data || present.state {
            self.begin(&session, Access::Write).await?;
            deleted = self.leave_in(&session, present, scope, how).await?;
            session.commit().await?;
        }
        lease.give_back();
        Ok(Receipt { deleted, ..Receipt::default() })
    }

    /// Leaves a scope in the open transaction and returns how many rows were deleted.
    async fn leave_in(
        &self,
        session: &Session<'_>,
        present: Present,
        scope: &Scope,
        leave: Leave,
    ) -> Result<u64, PostgresError> {
        let owner = if present.state {
            state::own(session, scope, &self.writer, self.epoch.get().copied()).await?
        } else {
            Owner::Unrecorded
        };
        let rows = match owner {
            Owner::NotUs => return Ok(0),
            Owner::Unrecorded => 0,
            Owner::Us { .. } if leave == Leave::Orphan => {
                state::orphan(session, scope).await?;
                return Ok(0);
            }
            Owner::Us { rows } => rows,
        };
        let gone = leave == Leave::Delete && present.data;
        let deleted = if gone { write::delete_all(session, scope, rows).await? } else { 0 };
        if present.state {
            state::remove(session, scope).await?;
        }
        Ok(deleted)
    }

    async fn try_scopes(&self) -> Result<Vec<Scope>, PostgresError> {
        let lease = self.home.pool.lease().await?;
        let session = self.session(&lease);
        let present = schema::present(session.client(), session.names, session.deadline()).await?;
        let mut ours = Vec::new();
        if present.state {
            self.begin(&session, Access::Read).await?;
            ours = state::scopes(&session, &self.writer).await?;
            session.commit().await?;
        }
        lease.give_back();
        Ok(ours)
    }

    async fn try_heartbeat(&self, scopes: &[&Scope]) -> Result<(), PostgresError> {
        // Before the first claim there is nothing that could be alive.
        let Some(epoch) = self.epoch.get().copied() else { return Ok(()) };
        let lease = self.home.pool.lease().await?;
        let session = self.session(&lease);
        if self.facts(&session).await?.has_state {
            self.begin(&session, Access::Write).await?;
            state::heartbeat(&session, scopes, &self.writer, epoch).await?;
            session.commit().await?;
        }
        lease.give_back();
        Ok(())
    }

    async fn settle<T>(&self, result: Result<T, PostgresError>) -> Result<T, SinkError> {
        match result {
            Ok(done) => Ok(done),
            Err(error) if error.class() == Class::Terminal => Err(self.explain(error).await.into()),
            Err(error) => {
                *self.home.facts.lock() = None;
                Err(error.into())
            }
        }
    }
}

impl Sink for PostgresSink {
    fn kind(&self) -> crate::metrics::SinkType {
        crate::metrics::SinkType::Postgres
    }

    fn destination(&self) -> &Destination {
        &self.destination
    }

    fn identity(&self) -> BoxFuture<'_, Result<Option<String>, SinkError>> {
        Box::pin(async { self.settle(self.try_identity().await).await })
    }

    fn probe(&self) -> BoxFuture<'_, Result<String, SinkError>> {
        Box::pin(async { Ok(self.try_probe().await?) })
    }

    fn leave<'a>(&'a self, scope: &'a Scope, leave: Leave) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(async move { self.settle(self.try_leave(scope, leave).await).await })
    }

    fn scopes(&self) -> BoxFuture<'_, Result<Vec<Scope>, SinkError>> {
        Box::pin(async { self.settle(self.try_scopes().await).await })
    }

    fn heartbeat<'a>(&'a self, scopes: &'a [&'a Scope]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async { self.settle(self.try_heartbeat(scopes).await).await })
    }
}

impl RowSink for PostgresSink {
    fn fingerprint(&self, scope: &Scope, row: &Row) -> Fingerprint {
        write::fingerprint(scope, row)
    }

    fn recover<'a>(
        &'a self,
        scope: &'a Scope,
        selection: &'a Selection,
        _rows: &'a [Row],
    ) -> BoxFuture<'a, Result<Vec<Held>, SinkError>> {
        Box::pin(async { self.settle(self.try_recover(scope, selection).await).await })
    }

    fn deliver<'a>(&'a self, delta: &'a Delta) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(async {
            let mut outcome = self.try_deliver(delta, Manner::Whole).await;
            if outcome.as_ref().is_err_and(|error| error.of_data().is_some()) && !delta.upserts.is_empty() {
                outcome = self.try_deliver(delta, Manner::Careful).await;
            }
            self.settle(outcome).await
        })
    }

    fn audit<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Audit, SinkError>> {
        Box::pin(async { self.settle(self.try_audit(scope).await).await })
    }

    fn verify<'a>(&'a self, scope: &'a Scope, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<Held>, SinkError>> {
        Box::pin(async { self.settle(self.try_verify(scope, rows).await).await })
    }
}
