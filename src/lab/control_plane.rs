//! etcd, API server and controllers: a real control plane without nodes.
//!
//! RBAC decides on every request, priority and fairness is on, nobody is anonymous but for the probes. The operator is
//! the `ServiceAccount` of `config/rbac` with exactly these rules, by a token that the API server issued. Everything that
//! it asks for is in an audit log, so a test can say "no API writes" and mean it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;

use super::process::{self, Guard, Process, Signal};
use super::tools::Tool;
use super::wait::wait_for;

/// Namespace and name of the operator's `ServiceAccount`, as the manifests have them.
const OPERATOR_NAMESPACE: &str = "kollect-system";
const OPERATOR_NAME: &str = "kollect-controller-manager";

/// The manifests of the operator's identity and rights; the chart grants the same.
const RBAC: [&str; 7] = [
    include_str!("../../config/rbac/service_account.yaml"),
    include_str!("../../config/rbac/role.yaml"),
    include_str!("../../config/rbac/role_binding.yaml"),
    include_str!("../../config/rbac/leader_election_role.yaml"),
    include_str!("../../config/rbac/leader_election_role_binding.yaml"),
    include_str!("../../config/rbac/metrics_reader_role.yaml"),
    include_str!("../../config/rbac/metrics_reader_role_binding.yaml"),
];

/// Long enough for a loaded machine; a healthy start takes three seconds, an etcd with 100,000 objects some more.
const START_LIMIT: Duration = Duration::from_mins(2);

/// A request of the operator that changed, or tried to change, something in the API.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiWrite {
    /// `create`, `update`, `patch`, `delete` or `deletecollection`; of a request that is no write, `get`, `list` or `watch`.
    pub verb: String,
    /// Plural resource, with `/status` and the like appended.
    pub resource: String,
    /// Namespace, empty for cluster-scoped resources.
    pub namespace: String,
    /// Name, empty where the server chooses it.
    pub name: String,
    /// HTTP status of the answer.
    pub code: u16,
}

/// Verbs that change something.
const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];

/// The running control plane. All methods take `&self`, so that one lab can serve many tests.
#[derive(Debug)]
pub struct ControlPlane {
    etcd: Mutex<Option<Process>>,
    api_server: Mutex<Option<Process>>,
    controllers: Mutex<Option<Process>>,
    settings: Settings,
    guard: Arc<Guard>,
}

/// What a restart needs to find the same place again.
#[derive(Debug)]
struct Settings {
    dir: PathBuf,
    etcd_dir: PathBuf,
    etcd_port: u16,
    peer_port: u16,
    port: u16,
    garbage_collector: bool,
}

impl ControlPlane {
    /// Starts all parts below `dir` and creates the operator's identity.
    pub(super) async fn start(
        lab: &Path,
        etcd_dir: &Path,
        garbage_collector: bool,
        guard: &Arc<Guard>,
    ) -> Result<Self> {
        let dir = lab.join("control-plane");
        std::fs::create_dir_all(&dir)?;
        let settings = Settings {
            dir,
            etcd_dir: etcd_dir.to_owned(),
            etcd_port: process::free_port()?,
            peer_port: process::free_port()?,
            port: process::free_port()?,
            garbage_collector,
        };
        settings.write_files()?;
        let this = Self {
            etcd: Mutex::default(),
            api_server: Mutex::default(),
            controllers: Mutex::default(),
            settings,
            guard: guard.clone(),
        };
        this.start_etcd().await?;
        this.start_api_server().await?;
        this.start_controllers()?;
        this.create_operator().await?;
        Ok(this)
    }

    /// Returns the kubeconfig of an administrator.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.settings.dir.join("admin.kubeconfig")
    }

    /// Returns the kubeconfig of the operator's `ServiceAccount`.
    pub fn operator_kubeconfig(&self) -> PathBuf {
        self.settings.dir.join("operator.kubeconfig")
    }

    /// Returns an administrator's client. It belongs to the runtime that asks for it, so ask once per test.
    pub async fn client(&self) -> Result<Client> {
        client(&self.admin_kubeconfig()).await
    }

    /// Returns a client with the operator's rights.
    pub async fn operator_client(&self) -> Result<Client> {
        client(&self.operator_kubeconfig()).await
    }

    /// Runs kubectl as administrator and returns what it printed.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        process::run(&mut self.kubectl_command(args)?)
    }

    /// Applies manifests (YAML or JSON, any number of documents) as administrator.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        self.apply_with(&["--server-side", "--force-conflicts"], manifests)
    }

    /// Asks the API server whether it would take these manifests, field by field, and keeps none of them.
    pub fn dry_run(&self, manifests: &str) -> Result<String> {
        self.apply_with(&["--dry-run=server"], manifests)
    }

    fn apply_with(&self, options: &[&str], manifests: &str) -> Result<String> {
        use std::io::Write as _;

        let mut child = self
            .kubectl_command(&["apply", "--validate=strict", "-f", "-"])?
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // Kubectl reads all of its input before it prints, so the pipes cannot fill up against each other.
        child.stdin.take().context("kubectl has no input")?.write_all(manifests.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("kubectl apply: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Applies the custom resource definitions of a directory and waits until they are served.
    pub fn apply_crds(&self, dir: &Path) -> Result<()> {
        let mut files = Vec::new();
        let entries = std::fs::read_dir(dir).with_context(|| format!("failed to read {}", dir.display()))?;
        for entry in entries {
            let path = entry?.path();
            // A kustomization may lie beside them.
            if std::fs::read_to_string(&path).is_ok_and(|text| text.contains("\nkind: CustomResourceDefinition")) {
                files.push(format!("--filename={}", path.display()));
            }
        }
        ensure!(!files.is_empty(), "{} holds no custom resource definition", dir.display());
        let with_files = |args: &[&'static str]| -> Result<String> {
            let mut all = args.to_vec();
            all.extend(files.iter().map(String::as_str));
            self.kubectl(&all)
        };
        with_files(&["apply", "--server-side", "--force-conflicts"])?;
        with_files(&["wait", "--for=condition=Established", "--timeout=60s"])?;
        Ok(())
    }

    /// Returns every write of the operator so far, in order.
    pub fn operator_writes(&self) -> Result<Vec<ApiWrite>> {
        let mut requests = self.operator_requests()?;
        requests.retain(|request| WRITES.contains(&request.verb.as_str()));
        Ok(requests)
    }

    /// Returns every request of the operator that was answered so far, in order; a watch stands where it ended.
    pub fn operator_requests(&self) -> Result<Vec<ApiWrite>> {
        let path = self.settings.dir.join("audit.log");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("failed to read {}", path.display())),
        };
        // The last line may be half written.
        text.lines().filter(|line| line.ends_with('}')).map(parse_audit).collect()
    }

    /// Ends the API server at once, as an outage does. Its port stays reserved for [`Self::start_api_server`].
    pub async fn stop_api_server(&self) -> Result<()> {
        stop(&self.api_server, Signal::Kill).await
    }

    /// Starts the API server on its port and waits until it is ready.
    pub async fn start_api_server(&self) -> Result<()> {
        let mut server = self.spawn_api_server()?;
        let admin = self.admin_kubeconfig();
        server.ready(START_LIMIT, || readyz(admin.clone())).await?;
        *self.api_server.lock() = Some(server);
        Ok(())
    }

    /// Writes a kubeconfig of the operator's `ServiceAccount` that leads through another port of 127.0.0.1, say that of a
    /// proxy in front of the API server.
    pub fn operator_kubeconfig_through(&self, port: u16) -> Result<PathBuf> {
        let direct = std::fs::read_to_string(self.operator_kubeconfig())?;
        let (ours, theirs) = (format!("127.0.0.1:{}", self.settings.port), format!("127.0.0.1:{port}"));
        let name = format!("operator-{port}.kubeconfig");
        self.settings.write(&name, &direct.replace(&ours, &theirs))?;
        Ok(self.settings.dir.join(name))
    }

    /// Returns the port of the API server on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.settings.port
    }

    /// Takes from etcd every version but the newest one, and returns which that is.
    pub async fn compact_etcd(&self) -> Result<i64> {
        let address = format!("127.0.0.1:{}", self.settings.etcd_port);
        // The gateway writes 64-bit numbers as text. A key that nobody has is enough to ask for the revision.
        let range = super::operator::http_post(&address, "/v3/kv/range", r#"{"key":"AA=="}"#).await?;
        let range: serde_json::Value = serde_json::from_str(&range)?;
        let revision = range["header"]["revision"].as_str().context("etcd names no revision")?.parse()?;
        let request = json!({"revision": revision, "physical": true}).to_string();
        super::operator::http_post(&address, "/v3/kv/compaction", &request).await?;
        Ok(revision)
    }

    /// Ends etcd at once.
    pub async fn stop_etcd(&self) -> Result<()> {
        stop(&self.etcd, Signal::Kill).await
    }

    /// Starts etcd on its port with the data that it had.
    pub async fn start_etcd(&self) -> Result<()> {
        let mut etcd = self.spawn_etcd()?;
        let url = format!("127.0.0.1:{}", self.settings.etcd_port);
        etcd.ready(START_LIMIT, || {
            let url = url.clone();
            async move { super::operator::http_get(&url, "/health").await.map(drop) }
        })
        .await?;
        *self.etcd.lock() = Some(etcd);
        Ok(())
    }

    /// Returns the process ids of those parts that run, by name.
    pub fn pids(&self) -> Vec<(&'static str, u32)> {
        [("etcd", &self.etcd), ("kube-apiserver", &self.api_server), ("kube-controller-manager", &self.controllers)]
            .into_iter()
            .filter_map(|(name, part)| part.lock().as_ref().map(|process| (name, process.pid())))
            .collect()
    }

    /// Ends all parts, etcd last and in order, so that its directory is complete.
    pub async fn stop(&self) -> Result<()> {
        stop(&self.controllers, Signal::Kill).await?;
        stop(&self.api_server, Signal::Kill).await?;
        stop(&self.etcd, Signal::Term).await
    }

    fn spawn_etcd(&self) -> Result<Process> {
        let s = &self.settings;
        let client = format!("http://127.0.0.1:{}", s.etcd_port);
        let peer = format!("http://127.0.0.1:{}", s.peer_port);
        let mut command = Command::new(Tool::Etcd.path()?);
        command
            .arg("--name=lab")
            .arg(format!("--data-dir={}", s.etcd_dir.display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=lab={peer}"))
            // Nothing here has to survive a power cut, and the lab measures the operator, not the disk.
            .arg("--unsafe-no-fsync=true")
            .arg("--quota-backend-bytes=8589934592")
            .arg("--log-level=warn");
        Process::spawn("etcd", &mut command, &s.dir.join("etcd.log"), Signal::Term, &self.guard)
    }

    fn spawn_api_server(&self) -> Result<Process> {
        let s = &self.settings;
        let file = |name: &str| s.dir.join(name).display().to_string();
        let mut command = Command::new(Tool::KubeApiserver.path()?);
        command
            .arg(format!("--etcd-servers=http://127.0.0.1:{}", s.etcd_port))
            .arg("--bind-address=127.0.0.1")
            .arg("--advertise-address=127.0.0.1")
            // A loopback address is not allowed in the endpoints of the service `kubernetes`, and nobody uses it.
            .arg("--endpoint-reconciler-type=none")
            .arg(format!("--secure-port={}", s.port))
            .arg(format!("--cert-dir={}", s.dir.display()))
            .arg("--service-cluster-ip-range=10.96.0.0/16")
            .arg("--authorization-mode=RBAC")
            .arg(format!("--authentication-config={}", file("authentication.json")))
            .arg(format!("--token-auth-file={}", file("tokens.csv")))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!("--service-account-key-file={}", file("sa.key")))
            .arg(format!("--service-account-signing-key-file={}", file("sa.key")))
            .arg(format!("--audit-policy-file={}", file("audit-policy.json")))
            .arg(format!("--audit-log-path={}", file("audit.log")))
            .arg("--profiling=false");
        Process::spawn("kube-apiserver", &mut command, &s.dir.join("kube-apiserver.log"), Signal::Kill, &self.guard)
    }

    fn start_controllers(&self) -> Result<()> {
        let s = &self.settings;
        let collector = if s.garbage_collector { ",garbage-collector-controller" } else { "" };
        let mut command = Command::new(Tool::KubeControllerManager.path()?);
        command
            .arg(format!("--kubeconfig={}", self.admin_kubeconfig().display()))
            .arg(format!("--controllers=namespace-controller,serviceaccount-controller{collector}"))
            .arg("--leader-elect=false")
            .arg("--secure-port=0")
            // The defaults make a namespace of a few hundred objects take a minute to go away.
            .arg("--kube-api-qps=500")
            .arg("--kube-api-burst=1000");
        let log = s.dir.join("kube-controller-manager.log");
        let process = Process::spawn("kube-controller-manager", &mut command, &log, Signal::Kill, &self.guard)?;
        *self.controllers.lock() = Some(process);
        Ok(())
    }

    async fn create_operator(&self) -> Result<()> {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR_NAMESPACE}});
        let mut manifests = namespace.to_string();
        for manifest in RBAC {
            manifests.push_str("\n---\n");
            manifests.push_str(manifest);
        }
        self.apply(&manifests)?;
        let token = self.token(OPERATOR_NAMESPACE, OPERATOR_NAME).await?;
        self.settings.write_kubeconfig("operator", None, &token)
    }

    /// Writes a kubeconfig of a `ServiceAccount`, at home in its namespace as a pod of it would be.
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let token = self.token(namespace, name).await?;
        let user = format!("{namespace}-{name}");
        self.settings.write_kubeconfig(&user, Some(namespace), &token)?;
        Ok(self.settings.dir.join(format!("{user}.kubeconfig")))
    }

    async fn token(&self, namespace: &str, name: &str) -> Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(7 * 24 * 3600), ..TokenRequestSpec::default() },
            ..TokenRequest::default()
        };
        let answer = wait_for("the token of a ServiceAccount", START_LIMIT, || {
            let (accounts, request) = (accounts.clone(), request.clone());
            async move { Ok(accounts.create_token_request(name, &PostParams::default(), &request).await?) }
        });
        Ok(answer.await?.status.context("the API server issued no token")?.token)
    }

    fn kubectl_command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(Tool::Kubectl.path()?);
        command
            .arg("--kubeconfig")
            .arg(self.admin_kubeconfig())
            .args(args)
            // Its discovery cache must not outlive this control plane, whose port may come back with other kinds.
            .env("KUBECACHEDIR", self.settings.dir.join("kubectl-cache"));
        Ok(command)
    }
}

impl Settings {
    fn write_files(&self) -> Result<()> {
        let token = random_text()?;
        self.write("tokens.csv", &format!("{token},admin,admin,\"system:masters\"\n"))?;
        self.write_kubeconfig("admin", None, &token)?;
        let authentication = json!({
            "apiVersion": "apiserver.config.k8s.io/v1beta1",
            "kind": "AuthenticationConfiguration",
            "anonymous": {
                "enabled": true,
                "conditions": [{"path": "/livez"}, {"path": "/readyz"}, {"path": "/healthz"}],
            },
        });
        self.write("authentication.json", &authentication.to_string())?;
        let audit = json!({
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived", "ResponseStarted"],
            "rules": [
                {
                    "level": "Metadata",
                    "users": [format!("system:serviceaccount:{OPERATOR_NAMESPACE}:{OPERATOR_NAME}")],
                },
                {"level": "None"},
            ],
        });
        self.write("audit-policy.json", &audit.to_string())?;
        process::run(
            Command::new("openssl")
                // The API server reads the public half from the traditional form alone, which `genpkey` does not write.
                .args(["ecparam", "-genkey", "-noout", "-name", "prime256v1", "-out"])
                .arg(self.dir.join("sa.key")),
        )
        .context("failed to make the key for ServiceAccount tokens")?;
        Ok(())
    }

    fn write_kubeconfig(&self, user: &str, namespace: Option<&str>, token: &str) -> Result<()> {
        // The API server signs its certificate with an authority of its own and keeps both in one file.
        let authority = self.dir.join("apiserver.crt");
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port),
                "certificate-authority": authority,
            }}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user, "namespace": namespace}}],
        });
        self.write(&format!("{user}.kubeconfig"), &format!("{config:#}\n"))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;

        let path = self.dir.join(name);
        std::fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(())
    }
}

/// Returns a client for a kubeconfig file.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // A list of 100,000 objects takes longer than the default to the first byte when the machine is busy.
    config.read_timeout = Some(Duration::from_secs(290));
    Ok(Client::try_from(config)?)
}

/// Returns unguessable text of 32 characters, fit for a password or a token.
pub(super) fn random_text() -> Result<String> {
    use std::fmt::Write as _;
    use std::io::Read as _;

    let mut bytes = [0_u8; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let mut text = String::with_capacity(32);
    for byte in bytes {
        write!(text, "{byte:02x}")?;
    }
    Ok(text)
}

async fn readyz(kubeconfig: PathBuf) -> Result<()> {
    let client = client(&kubeconfig).await?;
    client.request_text(http::Request::get("/readyz").body(Vec::new())?).await?;
    Ok(())
}

async fn stop(part: &Mutex<Option<Process>>, signal: Signal) -> Result<()> {
    let process = part.lock().take();
    match process {
        Some(process) => process.stop(signal).await.map(drop),
        None => Ok(()),
    }
}

fn parse_audit(line: &str) -> Result<ApiWrite> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Event {
        verb: String,
        #[serde(default)]
        object_ref: ObjectRef,
        response_status: Option<Status>,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct ObjectRef {
        resource: String,
        subresource: String,
        namespace: String,
        name: String,
    }
    #[derive(Deserialize)]
    struct Status {
        code: u16,
    }

    let event: Event = serde_json::from_str(line).context("failed to read the audit log")?;
    let ObjectRef { mut resource, subresource, namespace, name } = event.object_ref;
    if !subresource.is_empty() {
        resource.push('/');
        resource.push_str(&subresource);
    }
    let code = event.response_status.map_or(0, |status| status.code);
    Ok(ApiWrite { verb: event.verb, resource, namespace, name, code })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audit_line_names_the_written_thing() {
        let line = r#"{"verb":"patch","objectRef":{"resource":"kollecttargets","subresource":"status","namespace":"a","name":"t"},"responseStatus":{"code":200}}"#;
        let write = parse_audit(line).unwrap();
        assert_eq!(write.resource, "kollecttargets/status");
        assert_eq!((write.verb.as_str(), write.namespace.as_str(), write.name.as_str()), ("patch", "a", "t"));
        assert_eq!(write.code, 200);
    }
}
