//! The laboratory: starts and stops the real parts that Kollect talks to, on free loopback ports under one directory.
//!
//! Demo, integration tests, benches and load tests all stand on this one implementation. It takes [`LabOptions`] and
//! gives a running [`Lab`]: etcd, an API server with RBAC, the few controllers without which namespaces never go away,
//! and PostgreSQL. Git servers ([`git`]), a [`Kafka`] broker, a [`Prometheus`] and the real Helm ([`helm`]) stand beside
//! it, for whoever wants one. What `hack/lib/tools.sh` built is only looked up here, never downloaded.
//!
//! It guarantees that a part is ready when it is handed out (a condition with a deadline, never a pause), and that
//! nothing outlives the process that started it: a guard process ends all parts and removes the directory when the
//! starter is gone, also after `kill -9`.
//!
//! Compiled only with the feature `lab`, never part of a release.

pub mod bench;
pub mod cgroup;
pub mod control_plane;
pub mod git;
pub mod helm;
pub mod kafka;
pub mod load;
pub mod nats;
pub mod object;
pub mod operator;
pub mod postgres;
pub mod process;
pub mod prometheus;
pub mod proof;
pub mod proxy;
pub mod sites;
pub mod tools;
pub mod verify;
pub mod wait;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

pub use self::prometheus::Prometheus;
pub use control_plane::ControlPlane;
pub use kafka::Kafka;
pub use operator::Operator;
pub use postgres::Postgres;
use process::Guard;
pub use proxy::Proxy;

/// What to start.
#[derive(Debug, Clone)]
pub struct LabOptions {
    /// Starts etcd, the API server and the controllers.
    pub control_plane: bool,
    /// Runs the garbage collector. It caches the metadata of every object, so load tests leave it out.
    pub garbage_collector: bool,
    /// Starts PostgreSQL.
    pub postgres: bool,
    /// Data directory of etcd, kept when the lab ends and used again as it is. Default: inside the lab's directory.
    pub etcd_dir: Option<PathBuf>,
    /// An etcd directory to start from: copied, never changed. Not together with `etcd_dir`.
    pub etcd_from: Option<PathBuf>,
    /// Directory for everything else. Default: a new one under the system's temporary directory. At the end the lab
    /// removes what it made there, and the directory itself if that was new.
    pub dir: Option<PathBuf>,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            control_plane: true,
            garbage_collector: true,
            postgres: true,
            etcd_dir: None,
            etcd_from: None,
            dir: None,
        }
    }
}

/// What a lab makes in its directory.
const PARTS: [&str; 3] = ["control-plane", "etcd", "postgres"];

/// A running laboratory. Dropping it ends every part.
#[derive(Debug)]
pub struct Lab {
    // Declared before the guard, so that they are dropped, and thereby ended in order, before it cleans up.
    control_plane: Option<ControlPlane>,
    postgres: Option<Postgres>,
    dir: PathBuf,
    guard: Arc<Guard>,
}

impl Lab {
    /// Starts what the options name and returns when all of it is ready. On failure everything is ended again.
    pub async fn start(options: LabOptions) -> Result<Self> {
        let (dir, created) = make_dir(options.dir)?;
        let guard = Arc::new(Guard::start()?);
        if created {
            guard.remove_at_end(&dir)?;
        } else {
            for part in PARTS {
                guard.remove_at_end(&dir.join(part))?;
            }
        }
        let (control_plane, postgres) = tokio::try_join!(
            async {
                if !options.control_plane {
                    return Ok(None);
                }
                let etcd = options.etcd_dir.unwrap_or_else(|| dir.join("etcd"));
                if let Some(from) = options.etcd_from {
                    process::run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(&etcd))?;
                }
                ControlPlane::start(&dir, &etcd, options.garbage_collector, &guard).await.map(Some)
            },
            async {
                if !options.postgres {
                    return Ok(None);
                }
                Postgres::start(&dir, &guard).await.map(Some)
            },
        )?;
        Ok(Self { control_plane, postgres, dir, guard })
    }

    /// Returns the control plane.
    ///
    /// # Panics
    /// If the options left it out.
    #[expect(clippy::expect_used, reason = "a lab without the part that its user asks for is a mistake in the user")]
    pub fn api(&self) -> &ControlPlane {
        self.control_plane.as_ref().expect("the lab was started with a control plane")
    }

    /// Returns the database server.
    ///
    /// # Panics
    /// If the options left it out.
    #[expect(clippy::expect_used, reason = "a lab without the part that its user asks for is a mistake in the user")]
    pub fn postgres(&self) -> &Postgres {
        self.postgres.as_ref().expect("the lab was started with PostgreSQL")
    }

    /// Tells whether PostgreSQL is part of this lab.
    pub fn has_postgres(&self) -> bool {
        self.postgres.is_some()
    }

    /// Returns the directory with data and logs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the guard, for processes that shall not outlive the lab.
    pub fn guard(&self) -> &Arc<Guard> {
        &self.guard
    }

    /// Ends every part in order, so that a kept etcd directory is complete.
    pub async fn stop(self) -> Result<()> {
        if let Some(api) = &self.control_plane {
            api.stop().await?;
        }
        if let Some(postgres) = &self.postgres {
            postgres.stop().await?;
        }
        Ok(())
    }
}

/// Returns the directory and whether it was made here.
fn make_dir(wanted: Option<PathBuf>) -> Result<(PathBuf, bool)> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let dir = wanted.unwrap_or_else(|| {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        std::env::temp_dir().join(format!("kollect-lab-{}-{number}", std::process::id()))
    });
    if PARTS.iter().any(|part| dir.join(part).exists()) {
        bail!("{} already holds a lab; end it with `kollect-lab down` or name another directory", dir.display());
    }
    let created = !dir.exists();
    std::fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
    Ok((std::fs::canonicalize(&dir)?, created))
}
