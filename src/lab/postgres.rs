//! A PostgreSQL server of our own: password authentication over loopback TCP, the settings of a fresh installation.

use std::fmt::Write as _;
use std::ops::Deref;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

use super::control_plane::random_text;
use super::process::{self, Guard, Process, Signal};
use super::tools;
use super::wait::wait_for;

/// The role that owns the databases of tests. No superuser, as the operator's role is none.
const ROLE: &str = "kollect";

/// The account of the distribution that runs PostgreSQL when we are root, which the server refuses to be.
const ACCOUNT: &str = "postgres";

/// A backend reports its counters when it turns idle and at most every 10 s (`PGSTAT_IDLE_INTERVAL`).
const COUNTER_LAG: Duration = Duration::from_secs(11);

/// A running server. All methods take `&self`, so that one lab can serve many tests.
#[derive(Debug)]
pub struct Postgres {
    process: Mutex<Option<Process>>,
    data: PathBuf,
    log: PathBuf,
    port: u16,
    password: String,
    account: Option<(u32, u32)>,
    guard: Arc<Guard>,
}

/// A connection to one database; closes when it is dropped.
#[derive(Debug)]
pub struct Database {
    client: tokio_postgres::Client,
    // Owns the task that drives the connection.
    _connection: JoinSet<()>,
}

impl Database {
    /// Connects without TLS.
    pub async fn connect(dsn: &str) -> Result<Self> {
        let (client, connection) = tokio_postgres::connect(dsn, NoTls).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _ = connection.await; // the client reports it at its next call
        });
        Ok(Self { client, _connection: tasks })
    }
}

impl Deref for Database {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &tokio_postgres::Client {
        &self.client
    }
}

/// Rows that a table ever had inserted, updated and deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowWrites {
    /// Inserted rows.
    pub inserted: i64,
    /// Updated rows.
    pub updated: i64,
    /// Deleted rows.
    pub deleted: i64,
}

impl RowWrites {
    /// Returns all three together.
    pub fn total(self) -> i64 {
        self.inserted + self.updated + self.deleted
    }

    /// Returns what was written since an earlier count.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            inserted: self.inserted - earlier.inserted,
            updated: self.updated - earlier.updated,
            deleted: self.deleted - earlier.deleted,
        }
    }
}

impl Postgres {
    /// Creates a cluster below `lab` and starts it.
    pub(super) async fn start(lab: &Path, guard: &Arc<Guard>) -> Result<Self> {
        let home = lab.join("postgres");
        std::fs::create_dir_all(&home)?;
        let account = account()?;
        if let Some((user, group)) = account {
            chown(&home, Some(user), Some(group))?;
            // The account has to reach its directory through ours.
            std::fs::set_permissions(lab, std::fs::Permissions::from_mode(0o711))?;
        }
        let this = Self {
            process: Mutex::default(),
            data: home.join("data"),
            log: home.join("log"),
            port: process::free_port()?,
            password: random_text()?,
            account,
            guard: guard.clone(),
        };
        this.create_cluster(&home)?;
        this.restart().await?;
        let admin = this.connect_as(ACCOUNT, "postgres").await?;
        admin
            .batch_execute(&format!("CREATE ROLE {ROLE} LOGIN CREATEDB PASSWORD '{}'", this.password))
            .await
            .context("failed to create the role of the tests")?;
        Ok(this)
    }

    /// Returns the connection string of a database for the role that owns it.
    pub fn dsn(&self, database: &str) -> String {
        self.dsn_as(ROLE, database)
    }

    /// Returns the connection string of a database for the superuser.
    pub fn admin_dsn(&self, database: &str) -> String {
        self.dsn_as(ACCOUNT, database)
    }

    /// Returns the port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the server's log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Returns the process id of the server, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.lock().as_ref().map(Process::pid)
    }

    /// Creates an empty database.
    pub async fn create_database(&self, name: &str) -> Result<()> {
        let client = self.connect("postgres").await?;
        client
            .batch_execute(&format!("CREATE DATABASE \"{name}\""))
            .await
            .with_context(|| format!("failed to create database {name}"))
    }

    /// Connects to a database as the role that owns it.
    pub async fn connect(&self, database: &str) -> Result<Database> {
        self.connect_as(ROLE, database).await
    }

    /// Connects to a database as superuser.
    pub async fn connect_admin(&self, database: &str) -> Result<Database> {
        self.connect_as(ACCOUNT, database).await
    }

    /// Runs psql with a script and returns what it printed, unaligned and without headings.
    pub fn psql(&self, database: &str, script: &str) -> Result<String> {
        let mut command = Command::new(tools::postgres("psql")?);
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &self.dsn(database), "-c", script]);
        process::run(&mut command)
    }

    /// Returns how many rows a table has; one that does not exist has none.
    pub async fn count(&self, database: &Database, table: &str) -> Result<i64> {
        match database.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await {
            Ok(row) => Ok(row.get(0)),
            Err(error) if error.code() == Some(&tokio_postgres::error::SqlState::UNDEFINED_TABLE) => Ok(0),
            Err(error) => Err(error).with_context(|| format!("failed to count {table}")),
        }
    }

    /// Returns the rows ever written to a table, exactly, once no backend has counters to report: takes 11 seconds.
    pub async fn row_writes(&self, database: &Database, table: &str) -> Result<RowWrites> {
        tokio::time::sleep(COUNTER_LAG).await;
        let row = database
            .query_opt(
                "SELECT n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables WHERE relid = to_regclass($1::text)",
                &[&table],
            )
            .await
            .context("failed to read the counters")?;
        Ok(row.map_or_else(RowWrites::default, |row| RowWrites {
            inserted: row.get(0),
            updated: row.get(1),
            deleted: row.get(2),
        }))
    }

    /// Ends the server at once, as an outage does. Its port stays reserved for [`Self::restart`].
    pub async fn stop(&self) -> Result<()> {
        let process = self.process.lock().take();
        match process {
            Some(process) => process.stop(Signal::Quit).await.map(drop),
            None => Ok(()),
        }
    }

    /// Ends the server as a package upgrade does: connections are ended, what was committed is on disk.
    pub async fn stop_fast(&self) -> Result<()> {
        let process = self.process.lock().take();
        match process {
            Some(process) => process.stop(Signal::Int).await.map(drop),
            None => Ok(()),
        }
    }

    /// Kills the server and every process that serves a connection at the same moment, as a power cut does.
    pub async fn kill9(&self) -> Result<()> {
        let Some(process) = self.process.lock().take() else { return Ok(()) };
        let server = process.pid();
        // Stopped first: it would start others in place of those that are killed.
        process.signal(Signal::Stop)?;
        let children = process::children(server)?;
        for child in &children {
            process::signal_process(*child, Signal::Kill)?;
        }
        process.stop(Signal::Kill).await?;
        // A next server refuses to start while one of them still has the shared memory.
        wait_for("the processes of PostgreSQL to be gone", Duration::from_secs(10), || async {
            let left = children.iter().filter(|child| process::runs(**child)).count();
            anyhow::ensure!(left == 0, "{left} are left");
            Ok(())
        })
        .await
    }

    /// Starts the server on its port and waits until it answers.
    pub async fn restart(&self) -> Result<()> {
        let mut command = self.command("postgres")?;
        command
            .arg("-D")
            .arg(&self.data)
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(["-c", "unix_socket_directories="])
            .args(["-c", "max_connections=200"])
            .args(["-c", "max_wal_size=4GB"])
            .args(["-c", "timezone=UTC"]);
        let mut server = Process::spawn("postgres", &mut command, &self.log, Signal::Quit, &self.guard)?;
        server.ready(Duration::from_mins(1), || async { self.connect_as(ACCOUNT, "postgres").await.map(drop) }).await?;
        *self.process.lock() = Some(server);
        Ok(())
    }

    /// Returns a new empty directory that the server may use as a tablespace, on a file system of this size.
    ///
    /// # Errors
    /// When this account may not mount.
    pub fn small_tablespace(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        let path = self.data.with_file_name(name);
        std::fs::create_dir(&path)?;
        self.guard.mount_memory(&path, bytes)?;
        if let Some((user, group)) = self.account {
            chown(&path, Some(user), Some(group))?;
        }
        Ok(path)
    }

    /// Lets the server speak TLS with this certificate and key (PEM), from the next connection on.
    pub async fn enable_tls(&self, certificate: &str, key: &str) -> Result<()> {
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let path = self.data.join(name);
            std::fs::write(&path, text)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            if let Some((user, group)) = self.account {
                chown(&path, Some(user), Some(group))?;
            }
        }
        let admin = self.connect_admin("postgres").await?;
        admin.batch_execute("ALTER SYSTEM SET ssl = on").await?;
        admin.batch_execute("SELECT pg_reload_conf()").await?;
        wait_for("the server to speak TLS", Duration::from_secs(10), || async {
            // A backend that was there before keeps the setting that it started with, so each look is a new one.
            let admin = self.connect_admin("postgres").await?;
            let on: String = admin.query_one("SHOW ssl", &[]).await?.get(0);
            anyhow::ensure!(on == "on", "ssl is {on}");
            Ok(())
        })
        .await
    }

    fn create_cluster(&self, home: &Path) -> Result<()> {
        let secret = home.join("password");
        std::fs::write(&secret, &self.password)?;
        if let Some((user, group)) = self.account {
            chown(&secret, Some(user), Some(group))?;
        }
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600))?;
        let mut command = self.command("initdb")?;
        command
            .arg("-D")
            .arg(&self.data)
            .args(["-U", ACCOUNT, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"])
            .arg(format!("--pwfile={}", secret.display()));
        process::run(&mut command).with_context(|| {
            format!("failed to create a database cluster; can the account {ACCOUNT} reach {}?", home.display())
        })?;
        std::fs::remove_file(&secret)?;
        Ok(())
    }

    /// Returns a command that runs a program of the server as the right account.
    fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(tools::postgres(program)?);
        command.current_dir("/");
        if let Some((user, group)) = self.account {
            command.uid(user).gid(group);
        }
        Ok(command)
    }

    fn dsn_as(&self, role: &str, database: &str) -> String {
        let mut dsn = format!("postgres://{role}:{}@127.0.0.1:{}/", self.password, self.port);
        for byte in database.bytes() {
            // Names of test databases are plain; the rest is escaped so that odd ones work too.
            if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.') {
                dsn.push(char::from(byte));
            } else {
                let _ = write!(dsn, "%{byte:02X}"); // a String takes all that is written
            }
        }
        dsn.push_str("?sslmode=disable");
        dsn
    }

    async fn connect_as(&self, role: &str, database: &str) -> Result<Database> {
        Database::connect(&self.dsn_as(role, database))
            .await
            .with_context(|| format!("failed to connect to database {database} as {role}"))
    }
}

/// Returns the user and group to run the server as, when we are root.
fn account() -> Result<Option<(u32, u32)>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let root = status
        .lines()
        .any(|line| line.strip_prefix("Uid:").is_some_and(|ids| ids.split_whitespace().nth(1) == Some("0")));
    if !root {
        return Ok(None);
    }
    let accounts = std::fs::read_to_string("/etc/passwd")?;
    let mut fields = accounts
        .lines()
        .map(|line| line.split(':'))
        .find_map(|mut fields| (fields.next() == Some(ACCOUNT)).then_some(fields))
        .with_context(|| format!("PostgreSQL does not run as root, and there is no account {ACCOUNT}"))?
        .skip(1);
    let mut id = || fields.next().and_then(|id| id.parse().ok()).context("/etc/passwd is malformed");
    Ok(Some((id()?, id()?)))
}
