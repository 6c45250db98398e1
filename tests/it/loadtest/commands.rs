//! The commands of `hack/loadtest/100k/README.md`, run as they stand and in their order, and what `kollect-lab verify` says
//! when somebody changes a row, a file or a commit by hand.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use kollect::lab::git::{HttpServer, Repositories, Repository, Scheme};
use kollect::lab::operator::OperatorOptions;
use kollect::lab::tools::{self, Tool};
use kollect::lab::verify::{Sources, Verdict, verified_within, verify};
use kollect::lab::{Operator, process};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::operator::PATIENCE;
use crate::support::{Definition, Ground, repository_file};

const PAGE: &str = "hack/loadtest/100k/README.md";
const CLUSTER: &str = "west";
const TOKEN: &str = "load-token";
const TABLE: &str = "inventory_items";

/// Returns the blocks of a page that are to be run, each with its heading.
fn blocks(page: &str) -> Vec<(String, String)> {
    let (mut heading, mut blocks, mut open) = (String::new(), Vec::new(), None::<String>);
    for line in page.lines() {
        open = match (open, line) {
            (None, "```sh") => Some(String::new()),
            (None, line) => {
                if let Some(text) = line.strip_prefix("## ") {
                    text.clone_into(&mut heading);
                }
                None
            }
            (Some(block), "```") => {
                blocks.push((heading.clone(), block));
                None
            }
            (Some(block), line) => Some(block + line + "\n"),
        };
    }
    blocks
}

/// A shell that is given one block after the other, and ends at the first command that fails.
struct Shell {
    process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// The log of the operator, which explains a failure.
    log: PathBuf,
}

impl Shell {
    fn start(variables: &[(&str, String)], log: PathBuf) -> Self {
        let mut process = Command::new("bash")
            .args(["-euo", "pipefail", "-s"])
            .current_dir(repository_file(""))
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, input, output, log }
    }

    /// Runs a block and returns what it printed.
    async fn run(&mut self, block: &str) -> String {
        const DONE: &str = "that block is done";
        // In a group, so that all of it is read before the first command could take it for its input.
        let script = format!("{{\n{block}}} 2>&1 </dev/null\necho '{DONE}'\n");
        self.input.write_all(script.as_bytes()).await.unwrap();
        let mut printed = String::new();
        loop {
            let line = timeout(PATIENCE, self.output.next_line()).await;
            match line.unwrap_or_else(|_| panic!("no end of\n{block}\n{printed}")).unwrap() {
                Some(line) if line == DONE => return printed,
                Some(line) => printed = printed + &line + "\n",
                None => {
                    let log = process::tail(&self.log, 60);
                    panic!("{:?} after\n{block}\n{printed}\n{log}", self.process.wait().await)
                }
            }
        }
    }
}

/// A lab with a git server, and an operator that has nothing to do yet.
struct Site {
    ground: Ground,
    repository: Repository,
    operator: Operator,
    options: OperatorOptions,
    variables: Vec<(&'static str, String)>,
    // Held to the end.
    _server: HttpServer,
    repositories: Repositories,
}

impl Site {
    async fn new() -> Option<Self> {
        let ground = Ground::own("loadtest").await?;
        // What the Prometheus operator brings, as far as `helm` looks.
        let group = "monitoring.coreos.com";
        let monitors = Definition { group, kind: "ServiceMonitor", plural: "servicemonitors", ..Definition::default() };
        ground.api().apply(&monitors.manifest()).unwrap();
        hand_over_to_helm(&ground);
        let repositories = Repositories::new().unwrap();
        let repository = repositories.create("inventory").unwrap();
        let server = HttpServer::start(&repositories, Scheme::Https).unwrap();
        server.require_login("x-access-token", TOKEN).unwrap();
        let options = ground.operator_options().arg("--sink-audit-interval=0");
        let mut options = options.arg("--status-min-interval=1s");
        let mirrors = repositories.dir().join("mirrors").to_string_lossy().into_owned();
        options.env.push(("KOLLECT_GIT_MIRROR_DIR".to_owned(), mirrors));
        let operator = ground.start_operator(&options).await;
        let place = |name: &str| repositories.dir().join(name).to_string_lossy().into_owned();
        fs::write(place("ca.pem"), server.ca_pem()).unwrap();
        let variables = vec![
            ("PATH", programs(&repositories.dir().join("bin"))),
            ("KUBECONFIG", ground.api().admin_kubeconfig().to_string_lossy().into_owned()),
            ("CLUSTER", CLUSTER.to_owned()),
            ("PG_DSN", ground.dsn()),
            ("GIT_URL", server.url(&repository)),
            ("GIT_TOKEN", TOKEN.to_owned()),
            ("GIT_CA", place("ca.pem")),
            ("METRICS", format!("http://{}/metrics", operator.metrics_address())),
            ("NAMESPACES", "5".to_owned()),
            ("PER_NAMESPACE", "100".to_owned()),
            ("MANIFESTS", place("manifests")),
            ("CHURN_PERCENT", "600".to_owned()),
            ("CHURN_FOR", "2s".to_owned()),
            // What a person has in the configuration of git.
            ("GIT_SSL_CAINFO", place("ca.pem")),
            ("GIT_ASKPASS", place("bin/askpass")),
            ("TMPDIR", repositories.dir().to_string_lossy().into_owned()),
        ];
        Some(Self { ground, repository, operator, options, variables, _server: server, repositories })
    }

    fn sources(&self, commits_asked: usize) -> Sources {
        Sources {
            metrics: Some(format!("http://{}/metrics", self.operator.metrics_address())),
            database: Some(self.ground.dsn()),
            table: TABLE.to_owned(),
            git: Some(self.repository.path().to_owned()),
            cluster: CLUSTER.to_owned(),
            commits_asked,
            ..Sources::new(self.ground.client.clone(), "kollect.dev/loadtest=100k")
        }
    }

    /// Waits for a verdict without problems.
    async fn is_right(&self, commits_asked: usize) -> Verdict {
        let verdict = verified_within(&self.sources(commits_asked), PATIENCE).await.unwrap();
        assert!(verdict.is_ok(), "{verdict}\n{}", process::tail(&self.options.log, 20));
        verdict
    }

    /// Returns the problems, of which each must contain one of these texts, and each text be in one.
    async fn is_wrong(&self, commits_asked: usize, says: &[&str]) {
        let verdict = verify(&self.sources(commits_asked)).await.unwrap();
        let expected = |problem: &String| says.iter().any(|text| problem.contains(text));
        let found = says.iter().all(|text| verdict.problems.iter().any(|problem| problem.contains(text)));
        assert!(found && verdict.problems.iter().all(expected), "{says:?}\n{verdict}");
    }
}

/// Lets `helm` take over what the lab made for its operator, which then has the rights that the chart gives.
fn hand_over_to_helm(ground: &Ground) {
    for object in [
        "serviceaccount/kollect-controller-manager",
        "clusterrole/kollect-manager",
        "clusterrolebinding/kollect-manager",
        "role/kollect-leader-election",
        "rolebinding/kollect-leader-election",
    ] {
        let object = ["-n", "kollect-system", "patch", object, "--type=merge", "--patch"];
        let patch = r#"{"metadata": {"labels": {"app.kubernetes.io/managed-by": "Helm"}, "annotations":
            {"meta.helm.sh/release-name": "kollect", "meta.helm.sh/release-namespace": "kollect-system"}}}"#;
        ground.api().kubectl(&[&object[..], &[patch]].concat()).unwrap();
    }
}

/// Makes a directory with the programs that the page calls by name, and returns where programs are looked for.
#[expect(clippy::disallowed_methods, reason = "tests are no part of the operator whose environment config reads")]
fn programs(dir: &Path) -> String {
    fs::create_dir(dir).unwrap();
    let mut programs = vec![
        ("kubectl", Tool::Kubectl.path().unwrap()),
        ("psql", tools::postgres("psql").unwrap()),
        ("kollect-lab", PathBuf::from(env!("CARGO_BIN_EXE_kollect-lab"))),
    ];
    programs.extend(helm().map(|helm| ("helm", helm)));
    for (name, program) in programs {
        symlink(program, dir.join(name)).unwrap();
    }
    let askpass = dir.join("askpass");
    fs::write(&askpass, "#!/bin/sh\ncase $1 in User*) echo x-access-token ;; *) echo \"$GIT_TOKEN\" ;; esac\n")
        .unwrap();
    fs::set_permissions(&askpass, Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", dir.display(), std::env::var("PATH").unwrap())
}

fn helm() -> Option<PathBuf> {
    let tools = fs::read_dir(tools::cache_dir().unwrap().join("tools")).ok()?;
    let built = tools.filter_map(Result::ok).map(|tool| tool.path().join("bin/helm"));
    built.filter(|helm| helm.exists()).max()
}

#[test]
fn blocks_are_found_with_their_headings() {
    let page = "# A\n```sh\none\n```\n## B\ntext\n```console\n$ two\n```\n```sh\nthree\n  four\n```\n";
    let found = blocks(page);
    assert_eq!(found, [(String::new(), "one\n".to_owned()), ("B".to_owned(), "three\n  four\n".to_owned())]);
}

#[tokio::test]
async fn documented_commands_of_the_load_test_hold_and_verify_sees_what_is_wrong() {
    let Some(site) = Site::new().await else { return };
    let page = fs::read_to_string(repository_file(PAGE)).unwrap();
    let blocks = blocks(&page);
    let headings = ["Where", "Install", "Fill", "Verify", "Churn", "Clean up"];
    assert!(headings.iter().all(|heading| blocks.iter().any(|(under, _)| under == heading)), "{blocks:?}");
    let has_chart = repository_file("charts/kollect").exists() && helm().is_some();
    let mut shell = Shell::start(&site.variables, site.options.log.clone());
    let mut ended = "";
    for (heading, block) in &blocks {
        if ended == "Churn" && heading == "Clean up" {
            what_is_wrong_is_found(&site).await;
        }
        ended = heading;
        if block.starts_with("helm ") && !has_chart {
            eprintln!("SKIPPED, because there is no chart or no helm:\n{block}");
            continue;
        }
        let printed = shell.run(block).await;
        if heading == "Install" {
            // The operator of the lab runs beside the cluster: nobody answers where the chart says that it does.
            site.ground.api().kubectl(&["delete", "validatingwebhookconfigurations", "--all"]).unwrap();
        }
        if block.contains("load create") {
            assert!(printed.contains(r#""written":0,"skipped":500"#), "{printed}");
        }
        if block.contains("AS duplicates") {
            assert!(printed.contains(&format!("{CLUSTER}    |   500")), "{printed}");
        }
        if block.contains("load churn") {
            assert!(
                printed.contains(r#"{"created":10,"updated":80,"deleted":10,"objects":500,"accepted":500"#),
                "{printed}"
            );
        }
        if block.contains("kollect-lab verify") {
            assert!(printed.contains("Everything is where it belongs"), "{printed}");
        }
    }
    let database = site.ground.connect().await;
    assert_eq!(site.ground.postgres().count(&database, TABLE).await.unwrap(), 0);
    assert!(site.repository.files("main").unwrap().is_empty());
    drop(site.repositories);
    site.operator.terminate().await.unwrap();
}

/// Breaks one thing after the other by hand, and has the operator mend it.
async fn what_is_wrong_is_found(site: &Site) {
    let verdict = site.is_right(2).await;
    let figures = [
        Some(verdict.objects),
        verdict.store_rows,
        Some(verdict.inventory_rows),
        verdict.table_rows,
        verdict.git_items,
    ];
    assert_eq!(figures, [Some(500); 5]);
    assert_eq!((verdict.inventories, verdict.synced_bindings, verdict.table_digests), (5, 10, Some(5)));
    assert_eq!((verdict.git_files, verdict.git_unowned_files), (Some(5), Some(0)));

    // A row less, a row of nobody, and an edited one: in the table, against its state, and against the files.
    let database = site.ground.connect().await;
    let one = |namespace: &str| {
        format!(
            "inventory_namespace = '{namespace}' AND source_uid = \
             (SELECT min(source_uid) FROM {TABLE} WHERE inventory_namespace = '{namespace}')"
        )
    };
    let broken = format!(
        "DELETE FROM {TABLE} WHERE {};
         INSERT INTO {TABLE} SELECT 'loadtest-009', inventory_name, target_name, source_uid, cluster, resource_namespace,
             payload, exported_at, fingerprint FROM {TABLE} WHERE {};
         UPDATE {TABLE} SET payload = jsonb_set(payload, '{{attributes,team}}', '\"nobody\"') WHERE {};
         UPDATE {TABLE}_state SET heartbeat = now() - interval '1 hour' WHERE inventory_namespace = 'loadtest-004'",
        one("loadtest-001"),
        one("loadtest-002"),
        one("loadtest-003"),
    );
    database.batch_execute(&broken).await.unwrap();
    let says = [
        "loadtest-001/inventory: the table lacks 1 objects",
        "loadtest-001/inventory: the table has ",
        "the table has 1 rows of loadtest-009/inventory, which is no inventory here",
        "loadtest-003/inventory: 1 rows differ between the table and the repository, for example ",
        "loadtest-004/inventory: its last heartbeat is 3",
        "the digest of the rows is",
    ];
    site.is_wrong(2, &says).await;
    let mended = format!(
        "DELETE FROM {TABLE} WHERE inventory_namespace = 'loadtest-009';
         UPDATE {TABLE}_state SET heartbeat = now()"
    );
    database.batch_execute(&mended).await.unwrap();
    audit(site, "1");
    site.is_right(2).await;

    // A file that somebody edits, one that nobody owns, and more commits than were asked for.
    let human = site.repository.human("ann", "main").unwrap();
    let path = format!("clusters/{CLUSTER}/inventory/loadtest-002/inventory.json");
    human.write("README.md", "# ours").unwrap();
    human.edit(&path, r#"{"items": []}"#, "nothing here").unwrap();
    let says = [&format!("{path} on main is not the file that is owned"), "times within 3600s"];
    site.is_wrong(2, &says).await;
    audit(site, "2");
    let verdict = site.is_right(4).await;
    assert_eq!(verdict.git_unowned_files, Some(1));
    human.rebase().unwrap();
    human.remove("README.md").unwrap();
    human.commit("clean").unwrap();
    human.push().unwrap();
}

fn audit(site: &Site, value: &str) {
    let audit = format!("kollect.dev/audit-now={value}");
    let annotate = ["annotate", "kinv", "--all", "--all-namespaces", "--overwrite", &audit];
    site.ground.api().kubectl(&annotate).unwrap();
}
