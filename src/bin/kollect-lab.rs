//! The laboratory as a program: brings the real parts up and down, writes load, runs benches. Never part of a release.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use kollect::lab::bench::{self, Bench};
use kollect::lab::load::{self, Churn, Kind, Load};
use kollect::lab::object::Bucket;
use kollect::lab::process::{self, Signal};
use kollect::lab::proof;
use kollect::lab::sites::{Running, Site};
use kollect::lab::verify::{self, KafkaTopic, NatsStream, Sources};
use kollect::lab::wait::wait_for;
use kollect::lab::{Lab, LabOptions, control_plane, operator, tools};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The allocator of the operator with its settings, for benches of one part run that part in here.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// As in the operator, without the profile of its heap.
#[expect(unsafe_code, reason = "jemalloc finds its settings by the name of a symbol; nothing else defines this one")]
#[unsafe(export_name = "malloc_conf")]
pub static MALLOC_CONF: &[u8; 53] = b"background_thread:true,dirty_decay_ms:1000,narenas:2\0";

/// Says how to reach a lab; written when all of it is ready.
const ENV_FILE: &str = "lab.env";
/// Holds the process id of the lab's owner.
const PID_FILE: &str = "lab.pid";

#[derive(Parser)]
#[command(about = "Starts the real parts that Kollect talks to, loads them and measures")]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Start a lab, print how to reach it as KEY=value lines, and run until SIGINT, SIGTERM or `down`.
    Up(Up),
    /// End a lab that runs in this directory.
    Down {
        /// The directory that was given to `up`.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Write, change or delete many objects.
    #[command(subcommand)]
    Load(LoadVerb),
    /// Compare the objects with the store, the inventories and what the sinks hold; exit with 1 and the problems.
    Verify(Verify),
    /// Read one unpaged list to its end; print seconds and bytes.
    RawList {
        #[arg(long)]
        kubeconfig: PathBuf,
        /// Plural, with group, as in `deployments.apps` or `configmaps`.
        #[arg(long, default_value = "deployments.apps")]
        resource: String,
    },
    /// Run a bench; the last line of output is one JSON object.
    Bench(BenchArguments),
    /// Prove a size: load, converge, soak, faults, report. Fails when something claimed does not hold; the last line of
    /// output is one JSON object.
    Proof(proof::Options),
}

#[derive(Args)]
struct Up {
    /// Directory for data and logs, which are removed at the end.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Leave PostgreSQL out.
    #[arg(long)]
    no_postgres: bool,
    /// Start a git server over HTTPS too, with one empty repository.
    #[arg(long)]
    git: bool,
    /// Start a server that speaks S3 too, with one empty bucket.
    #[arg(long)]
    object: bool,
    /// Start a server of NATS too.
    #[arg(long)]
    nats: bool,
    /// Start a broker of Kafka too.
    #[arg(long)]
    kafka: bool,
    /// Leave the garbage collector out, which caches the metadata of every object.
    #[arg(long)]
    no_garbage_collector: bool,
    /// Directory of etcd, kept and used again.
    #[arg(long)]
    etcd_dir: Option<PathBuf>,
    /// Directory of an etcd to start from, which is copied and not changed.
    #[arg(long, conflicts_with = "etcd_dir")]
    etcd_from: Option<PathBuf>,
    /// Directory of custom resource definitions to apply. Default: those of the source tree.
    #[arg(long)]
    crds: Option<PathBuf>,
    /// Return when the lab is ready and leave it running; needs --dir.
    #[arg(long, requires = "dir")]
    detach: bool,
}

#[derive(Args, Clone)]
struct LoadArguments {
    #[arg(long)]
    kubeconfig: PathBuf,
    #[arg(long, default_value_t = 50)]
    namespaces: usize,
    #[arg(long, default_value_t = 2_000, alias = "deployments-per-ns")]
    per_namespace: usize,
    #[arg(long, value_enum, default_value_t = Kind::Deployment)]
    kind: Kind,
    #[arg(long, default_value = "loadtest-")]
    namespace_prefix: String,
    /// Replicas of a Deployment.
    #[arg(long, default_value_t = 0)]
    replicas: u32,
    /// Part of the objects of each namespace, in percent, with the label that targets of a load test leave out.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    filtered_percent: u8,
    /// Requests per second at most.
    #[arg(long)]
    rate: Option<f64>,
    #[arg(long, default_value_t = 24)]
    connections: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Subcommand)]
enum LoadVerb {
    /// Create namespaces and objects; what exists is skipped.
    Create(LoadArguments),
    /// Give a new image to a part of the objects, the same ones for the same seed.
    Patch {
        #[command(flatten)]
        load: LoadArguments,
        #[command(flatten)]
        part: Part,
        /// Tells the images of several runs apart.
        #[arg(long, default_value_t = 1)]
        round: u64,
    },
    /// Create, change and delete objects at a steady rate, the same ones for the same seed; print what was done at the
    /// end, also after SIGINT or SIGTERM.
    Churn {
        #[command(flatten)]
        load: LoadArguments,
        /// Operations per minute, in percent of all objects: of ten one creates, one deletes, eight change.
        #[arg(long, default_value_t = 1.0)]
        percent_per_minute: f64,
        /// How long, for example 10m; until a signal comes when absent.
        #[arg(long = "for", value_parser = duration)]
        length: Option<Duration>,
        /// Operations of earlier runs, which this one continues: `operations` of what they printed.
        #[arg(long, default_value_t = 0)]
        skip: usize,
    },
    /// Delete a part of the objects, the same ones for the same seed.
    Delete {
        #[command(flatten)]
        load: LoadArguments,
        #[command(flatten)]
        part: Part,
        /// Delete the namespaces with everything in them instead.
        #[arg(long)]
        namespaces_too: bool,
    },
}

#[derive(Args)]
struct Part {
    /// Part of all objects, from 0 to 1.
    #[arg(long, default_value_t = 1.0, conflicts_with = "count")]
    fraction: f64,
    /// Number of objects.
    #[arg(long)]
    count: Option<usize>,
}

#[derive(Args)]
struct Verify {
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The operator's metrics endpoint, as in `http://127.0.0.1:8080/metrics`.
    #[arg(long)]
    metrics: Option<String>,
    /// Connection string of the database.
    #[arg(long)]
    database: Option<String>,
    #[arg(long, default_value = "inventory_items")]
    table: String,
    /// Directory of the bare repository; a mirror is brought up to date first.
    #[arg(long)]
    git: Option<PathBuf>,
    /// Bucket and prefix: the folder of a server, a copy as `aws s3 sync` makes one, or an `http://` address that speaks
    /// Google's JSON protocol without a login.
    #[arg(long)]
    bucket: Option<Bucket>,
    /// Server of NATS, as in `nats://user:password@127.0.0.1:4222`.
    #[arg(long)]
    nats: Option<String>,
    /// PEM file with the authority of that server; without it there is no TLS.
    #[arg(long, requires = "nats")]
    nats_ca: Option<PathBuf>,
    /// Stream, to which each inventory has one way.
    #[arg(long, default_value = "kollect_events")]
    stream: String,
    /// Broker of Kafka in plain text, as in `127.0.0.1:9092`.
    #[arg(long)]
    kafka: Option<String>,
    /// Topic, to which each inventory has one way.
    #[arg(long, default_value = "kollect.inventory")]
    topic: String,
    /// The spec.cluster of the sinks.
    #[arg(long, default_value = "loadtest")]
    cluster: String,
    /// Label selector of the namespaces whose inventories are looked at.
    #[arg(long, default_value = load::NAMESPACE_LABEL.0)]
    namespaces: String,
    /// Commits of an inventory that were asked for by kollect.dev/export-now.
    #[arg(long, default_value_t = 0)]
    commits_asked: usize,
    /// Look again until nothing is wrong, for so long, for example 60s.
    #[arg(long, value_parser = duration, default_value = "0s")]
    wait: Duration,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct BenchArguments {
    #[arg(value_enum)]
    name: bench::Name,
    #[arg(long, default_value_t = 10_000)]
    rows: usize,
    #[arg(long, default_value_t = 50)]
    namespaces: usize,
    /// Number of targets; default: one per namespace.
    #[arg(long)]
    targets: Option<usize>,
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Changes per second of `freshness`, `nats` and `kafka`.
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// The `kollect` binary. Default: the one beside this program.
    #[arg(long)]
    kollect: Option<PathBuf>,
    /// Directory of custom resource definitions. Default: those of the source tree.
    #[arg(long)]
    crds: Option<PathBuf>,
    /// Run the operator in a memory control group with this limit in MiB, as a container has one. Takes root.
    #[arg(long)]
    memory_limit: Option<u64>,
    /// More flags for the operator.
    #[arg(long = "operator-arg", allow_hyphen_values = true)]
    operator_args: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kollect-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Verb) -> Result<()> {
    match command {
        Verb::Up(up) if up.detach => detach().await,
        Verb::Up(options) => up(options).await,
        Verb::Down { dir } => down(&dir).await,
        Verb::Load(verb) => write_load(verb).await,
        Verb::Verify(arguments) => verify(arguments).await,
        Verb::RawList { kubeconfig, resource } => {
            let client = control_plane::client(&kubeconfig).await?;
            print(&serde_json::to_string(&load::raw_list(&client, &resource).await?)?)
        }
        Verb::Bench(arguments) => measure(arguments).await,
        Verb::Proof(options) => print(&proof::run(&options).await?.to_string()),
    }
}

async fn up(options: Up) -> Result<()> {
    // Before anything is started: a signal during the start has to end it in order too.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stopped = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let mut stopped = std::pin::pin!(stopped);
    let wanted = [
        (options.git, Site::Git),
        (options.object, Site::Object),
        (options.nats, Site::Nats),
        (options.kafka, Site::Kafka),
    ];
    let lab_options = LabOptions {
        control_plane: true,
        garbage_collector: !options.no_garbage_collector,
        postgres: !options.no_postgres,
        etcd_dir: options.etcd_dir,
        etcd_from: options.etcd_from,
        dir: options.dir,
    };
    let lab = tokio::select! {
        lab = Lab::start(lab_options) => lab?,
        () = &mut stopped => bail!("interrupted before it was ready"),
    };
    let crds = options.crds.unwrap_or_else(|| tools::repository_file("crds"));
    if crds.exists() {
        lab.api().apply_crds(&crds)?;
    }
    let mut env = describe(&lab).await?;
    let mut running = Vec::new();
    for (wanted, site) in wanted {
        if wanted {
            let started = tokio::select! {
                started = Running::start(site, lab.dir(), lab.guard()) => started?,
                () = &mut stopped => bail!("interrupted before it was ready"),
            };
            env.push_str(started.env());
            running.push(started);
        }
    }
    write_whole(&lab.dir().join(PID_FILE), &std::process::id().to_string())?;
    write_whole(&lab.dir().join(ENV_FILE), &env)?;
    print(env.trim_end())?;
    stopped.await;
    for name in [PID_FILE, ENV_FILE] {
        std::fs::remove_file(lab.dir().join(name))?;
    }
    drop(running);
    lab.stop().await
}

/// Starts `up` again as a process of its own and returns when that is ready.
async fn detach() -> Result<()> {
    let Verb::Up(Up { dir: Some(dir), .. }) = Arguments::parse().command else {
        bail!("--detach needs --dir");
    };
    // The directory has to be new to the child, which removes what it created.
    let log = dir.with_extension("log");
    let output = std::fs::File::create(&log).with_context(|| format!("failed to create {}", log.display()))?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1).filter(|arg| arg != "--detach"))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0)
        .spawn()?;
    let pid = format!("LAB_PID={}\n", child.id());
    let env = wait_for("the lab to be ready", Duration::from_mins(3), || {
        let (ended, pid) = (child.try_wait(), pid.clone());
        let env = std::fs::read_to_string(dir.join(ENV_FILE));
        async move {
            if let Some(status) = ended? {
                return Ok(Err(status));
            }
            let env = env?;
            // The file of a lab that was killed is no answer.
            ensure!(env.contains(&pid), "it is another lab's");
            Ok(Ok(env))
        }
    });
    match env.await? {
        Ok(env) => print(env.trim_end()),
        Err(status) => bail!("the lab ended with {status}: {}", process::tail(&log, 20)),
    }
}

async fn down(dir: &Path) -> Result<()> {
    let file = dir.join(PID_FILE);
    let pid = std::fs::read_to_string(&file).with_context(|| format!("no lab runs in {}", dir.display()))?;
    let pid: u32 = pid.trim().parse().with_context(|| format!("{} holds no process id", file.display()))?;
    // The id may belong to another process by now.
    let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    ensure!(arguments.split('\0').any(|argument| argument == "up"), "the lab in {} is gone already", dir.display());
    process::signal_process(pid, Signal::Term)?;
    wait_for("the lab to end", Duration::from_mins(1), || async {
        // A zombie has ended too; its parent, a shell perhaps, did not look yet.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        ensure!(stat.is_empty() || stat.contains(") Z "), "it still runs");
        Ok(())
    })
    .await
}

async fn describe(lab: &Lab) -> Result<String> {
    let mut env = String::new();
    writeln!(env, "LAB_DIR={}", lab.dir().display())?;
    writeln!(env, "LAB_PID={}", std::process::id())?;
    writeln!(env, "KUBECONFIG={}", lab.api().admin_kubeconfig().display())?;
    writeln!(env, "OPERATOR_KUBECONFIG={}", lab.api().operator_kubeconfig().display())?;
    writeln!(env, "KUBECTL={}", tools::Tool::Kubectl.path()?.display())?;
    for (name, pid) in lab.api().pids() {
        writeln!(env, "{}_PID={pid}", name.to_uppercase().replace('-', "_"))?;
    }
    if lab.has_postgres() {
        let postgres = lab.postgres();
        postgres.create_database("kollect").await?;
        writeln!(env, "PG_DSN={}", postgres.dsn("kollect"))?;
        writeln!(env, "PSQL={}", tools::postgres("psql")?.display())?;
        if let Some(pid) = postgres.pid() {
            writeln!(env, "POSTGRES_PID={pid}")?;
        }
    }
    Ok(env)
}

/// Writes a file so that a reader sees all of it or nothing; it may hold a password.
fn write_whole(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;

    let part = path.with_extension("part");
    let mut file = std::fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(&part)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(&part, path).with_context(|| format!("failed to write {}", path.display()))
}

async fn write_load(verb: LoadVerb) -> Result<()> {
    let (LoadVerb::Create(arguments)
    | LoadVerb::Patch { load: arguments, .. }
    | LoadVerb::Churn { load: arguments, .. }
    | LoadVerb::Delete { load: arguments, .. }) = &verb;
    let client = control_plane::client(&arguments.kubeconfig).await?;
    let load = Load {
        kind: arguments.kind,
        namespaces: arguments.namespaces,
        per_namespace: arguments.per_namespace,
        prefix: arguments.namespace_prefix.clone(),
        replicas: arguments.replicas,
        filtered_percent: arguments.filtered_percent.into(),
        seed: arguments.seed,
        connections: arguments.connections,
        rate: arguments.rate,
    };
    let summary = match &verb {
        LoadVerb::Create(_) => load.create(&client).await?,
        LoadVerb::Patch { part, round, .. } => load.patch(&client, part.choose(&load)?, *round).await?.0,
        LoadVerb::Churn { percent_per_minute, length, skip, .. } => {
            let churn = Churn { percent_per_minute: *percent_per_minute, length: *length, skip: *skip };
            return churn_until_told(&client, &load, &churn).await;
        }
        LoadVerb::Delete { namespaces_too: true, .. } => return load.delete_namespaces(&client).await,
        LoadVerb::Delete { part, .. } => load.delete(&client, part.choose(&load)?).await?,
    };
    print(&serde_json::to_string(&summary)?)
}

async fn churn_until_told(client: &kube::Client, load: &Load, churn: &Churn) -> Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = CancellationToken::new();
    let told = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.cancel();
        std::future::pending::<Infallible>().await
    };
    let done = tokio::select! {
        done = load::churn(client, load, churn, &stop) => done?,
        never = told => match never {},
    };
    print(&serde_json::to_string(&done)?)
}

async fn verify(arguments: Verify) -> Result<()> {
    let (authority, name) = (arguments.nats_ca, arguments.stream);
    let sources = Sources {
        metrics: arguments.metrics,
        database: arguments.database,
        table: arguments.table,
        git: arguments.git,
        bucket: arguments.bucket,
        kafka: arguments.kafka.map(|broker| KafkaTopic { broker, name: arguments.topic }),
        nats: arguments.nats.map(|address| NatsStream { address, authority, name }),
        cluster: arguments.cluster,
        commits_asked: arguments.commits_asked,
        ..Sources::new(control_plane::client(&arguments.kubeconfig).await?, arguments.namespaces)
    };
    let verdict = verify::verified_within(&sources, arguments.wait).await?;
    if arguments.json {
        print(&serde_json::to_string(&verdict)?)?;
    } else {
        print(verdict.to_string().trim_end())?;
    }
    ensure!(verdict.is_ok(), "{} problems", verdict.problems.len());
    Ok(())
}

/// Reads a duration such as 30s, 10m or 1h.
fn duration(text: &str) -> Result<Duration, String> {
    kollect::duration::parse_go_duration(text).map_err(|error| error.to_string())
}

impl Part {
    fn choose(&self, load: &Load) -> Result<Vec<usize>> {
        ensure!((0.0..=1.0).contains(&self.fraction), "--fraction must be between 0 and 1");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the total")]
        let fraction = (self.fraction * load.total() as f64).round() as usize;
        Ok(load.choose(self.count.unwrap_or(fraction)))
    }
}

async fn measure(arguments: BenchArguments) -> Result<()> {
    let targets = arguments.targets.unwrap_or(arguments.namespaces);
    ensure!(
        arguments.namespaces > 0 && arguments.rows.is_multiple_of(arguments.namespaces),
        "--rows must be a multiple of --namespaces"
    );
    ensure!(targets > 0 && arguments.namespaces.is_multiple_of(targets), "--targets must divide --namespaces");
    ensure!(arguments.runs > 0, "--runs must be at least 1");
    let bench = Bench {
        name: arguments.name,
        rows: arguments.rows,
        namespaces: arguments.namespaces,
        targets,
        runs: arguments.runs,
        rate: arguments.rate,
        kollect: arguments.kollect.map_or_else(operator::sibling_program, Ok)?,
        crds: arguments.crds.unwrap_or_else(|| tools::repository_file("crds")),
        memory_limit_mib: arguments.memory_limit,
        operator_args: arguments.operator_args,
    };
    print(&bench.run().await?.to_string())
}

fn print(text: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{text}").context("failed to print")
}
