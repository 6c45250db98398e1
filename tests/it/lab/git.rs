//! The git servers: git's own client finds them as it finds others, and each fault is the one that was asked for.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use k8s_openapi::ByteString;
use kollect::lab::git::{
    Certificates, Counts, Fault, HttpServer, Refusal, Repositories, Repository, Scheme, Service, SshServer, Times,
};
use kollect::lab::proxy::{Cuts, Proxy};

use crate::support::part_or_skip;

/// git's own client, with what it needs to reach a server.
struct Client {
    dir: PathBuf,
    settings: Vec<String>,
    env: Vec<(&'static str, String)>,
}

impl Client {
    fn new(repositories: &Repositories, name: &str) -> Self {
        let dir = repositories.dir().join(name);
        fs::create_dir(&dir).unwrap();
        let client = Self { dir, settings: Vec::new(), env: Vec::new() };
        client.git(&["init", "-q", "-b", "main", "."]).unwrap();
        client
    }

    fn trusting(repositories: &Repositories, name: &str, ca: &str) -> Self {
        let mut client = Self::new(repositories, name);
        let path = client.dir.join(".git/ca.pem");
        fs::write(&path, ca).unwrap();
        // Not as a setting: this machine may name an authority by the same variable, which outranks settings.
        client.env.push(("GIT_SSL_CAINFO", path.display().to_string()));
        client
    }

    fn with_key(repositories: &Repositories, name: &str, key: &str, known_hosts: &str) -> Self {
        let mut client = Self::new(repositories, name);
        let write = |file: &str, text: &str| {
            let path = client.dir.join(".git").join(file);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            path.display().to_string()
        };
        let ssh = format!(
            "ssh -F /dev/null -o BatchMode=yes -o IdentitiesOnly=yes -o IdentityAgent=none -i {} -o UserKnownHostsFile={} \
             -o GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking=yes",
            write("key", key),
            write("hosts", known_hosts),
        );
        client.env.push(("GIT_SSH_COMMAND", ssh));
        client
    }

    fn git(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("git");
        command.arg("-C").arg(&self.dir).args(["-c", "user.name=c", "-c", "user.email=c@example.com"]);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        command.envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_TERMINAL_PROMPT", "0")]);
        let output = command.envs(self.env.iter().map(|(name, value)| (name, value))).args(args).output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Commits a file and pushes the branch.
    fn push(&self, url: &str, path: &str, content: &[u8]) -> Result<()> {
        fs::write(self.dir.join(path), content)?;
        self.git(&["add", "--all"])?;
        self.git(&["commit", "-q", "--allow-empty", "-m", path])?;
        self.push_again(url)
    }

    fn push_again(&self, url: &str) -> Result<()> {
        self.git(&["push", url, "HEAD:refs/heads/main"]).map(drop)
    }
}

/// One repository behind one HTTP server.
struct Bench {
    repositories: Repositories,
    repository: Repository,
    server: HttpServer,
    client: Client,
}

fn bench(scheme: Scheme) -> Option<Bench> {
    let repositories = Repositories::new().unwrap();
    let repository = repositories.create("team/inventory").unwrap();
    let server = part_or_skip(HttpServer::start(&repositories, scheme))?;
    let client = Client::trusting(&repositories, "client", &server.ca_pem());
    Some(Bench { repositories, repository, server, client })
}

impl Bench {
    fn url(&self) -> String {
        self.server.url(&self.repository)
    }

    fn push(&self, path: &str) -> Result<()> {
        self.client.push(&self.url(), path, b"x\n")
    }

    /// Pushes in vain and returns what git says to that.
    fn refused(&self, path: &str) -> String {
        self.push(path).unwrap_err().to_string()
    }

    fn paths(&self) -> Vec<String> {
        self.repository.files("main").unwrap().into_keys().collect()
    }
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[test]
fn git_clones_and_pushes_over_https_with_the_authority_and_the_token() {
    let Some(bench) = bench(Scheme::Https) else { return };
    bench.server.require_login("git", "first").unwrap();
    let url = |token: &str| bench.url().replace("https://", &format!("https://git:{token}@"));
    bench.client.push(&url("first"), "a", b"one\n").unwrap();
    bench.client.git(&["clone", "-q", &url("first"), "copy"]).unwrap();
    assert_eq!(fs::read(bench.client.dir.join("copy/a")).unwrap(), b"one\n");
    let files = bench.repository.files("main").unwrap();
    assert_eq!(files, BTreeMap::from([("a".to_owned(), b"one\n".to_vec())]));

    bench.server.require_login("git", "second").unwrap();
    let before = bench.server.counts();
    let error = bench.client.push(&url("first"), "b", b"").unwrap_err().to_string();
    assert!(error.contains("Authentication failed"), "{error}");
    assert!(bench.server.counts().since(before).unauthorized > 0);
    bench.client.push(&url("second"), "b", b"").unwrap();

    let stranger = Client::new(&bench.repositories, "stranger");
    let error = stranger.push(&url("second"), "c", b"").unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    let wrong_name = Certificates::new(bench.repositories.dir(), &["DNS:elsewhere"]).unwrap();
    bench.server.use_certificates(&wrong_name).unwrap();
    let deceived = Client::trusting(&bench.repositories, "deceived", &bench.server.ca_pem());
    let error = deceived.push(&url("second"), "c", b"").unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
}

#[test]
fn large_push_in_chunks_arrives_whole() {
    let Some(mut bench) = bench(Scheme::Http) else { return };
    bench.client.settings.push("http.postBuffer=65536".to_owned());
    let content = noise(3 << 20);
    bench.client.push(&bench.url(), "noise", &content).unwrap();
    assert!(bench.repository.files("main").unwrap()["noise"] == content);
    bench.repository.fsck().unwrap();
    bench.client.git(&["clone", "-q", &bench.url(), "copy"]).unwrap();
    assert!(fs::read(bench.client.dir.join("copy/noise")).unwrap() == content);
}

#[test]
fn question_that_git_compresses_is_understood() {
    let Some(bench) = bench(Scheme::Http) else { return };
    for _ in 0..40 {
        bench.client.git(&["commit", "-q", "--allow-empty", "-m", "one of many"]).unwrap();
    }
    let specs: Vec<_> = (0..40).map(|back| format!("HEAD~{back}:refs/heads/back-{back}")).collect();
    let url = bench.url();
    let args: Vec<&str> = ["push", &url].into_iter().chain(specs.iter().map(String::as_str)).collect();
    bench.client.git(&args).unwrap();
    // More than 1,024 bytes of names, which is where git begins to compress.
    bench.client.git(&["clone", "-q", &url, "copy"]).unwrap();
    assert_eq!(bench.server.counts().upload_pack, 2);
}

#[test]
fn requests_are_counted_by_service() {
    let Some(bench) = bench(Scheme::Http) else { return };
    bench.push("a").unwrap();
    let pushed = bench.server.counts();
    assert_eq!(pushed, Counts { push_refs: 1, receive_pack: 1, ..Counts::default() });
    bench.push("b").unwrap();
    bench.client.git(&["-c", "protocol.version=0", "clone", "-q", &bench.url(), "copy"]).unwrap();
    let since = bench.server.counts().since(pushed);
    let want = Counts { push_refs: 1, receive_pack: 1, fetch_refs: 1, upload_pack: 1, ..Counts::default() };
    assert_eq!((since, since.total()), (want, 4));
}

#[test]
fn answers_come_as_often_as_asked_and_git_hears_nothing_of_these_requests() {
    let Some(bench) = bench(Scheme::Http) else { return };
    let elsewhere = "http://127.0.0.1:1/elsewhere";
    for (service, fault, words) in [
        (Service::ReceivePack, Fault::status(500), "HTTP 500"),
        (Service::ReceivePack, Fault::status(503), "HTTP 503"),
        (Service::ReceivePack, Fault::too_many_requests(7), "HTTP 429"),
        (Service::PushRefs, Fault::status(502), "error: 502"),
        (Service::PushRefs, Fault::status(403), "error: 403"),
        (Service::PushRefs, Fault::status(404), "not found"),
        (Service::PushRefs, Fault::redirect(302, elsewhere), "127.0.0.1 port 1"),
        (Service::PushRefs, Fault::login_page(), "not valid: is this a git repository?"),
    ] {
        bench.server.fail(Some(service), Times::Next(1), fault.clone());
        let error = bench.refused("a");
        assert!(error.contains(words), "{fault:?}: {error}");
        assert_eq!(bench.repository.refs().unwrap(), BTreeMap::new());
    }
    bench.push("a").unwrap();

    bench.server.fail(None, Times::Always, Fault::status(503));
    bench.refused("b");
    bench.refused("b");
    bench.server.heal();
    bench.push("b").unwrap();
    assert_eq!(bench.paths(), ["a", "b"]);
}

#[test]
fn delay_holds_an_answer_back() {
    let Some(bench) = bench(Scheme::Http) else { return };
    bench.server.fail(Some(Service::ReceivePack), Times::Next(1), Fault::Delay(Duration::from_millis(700)));
    let started = Instant::now();
    bench.push("a").unwrap();
    assert!(started.elapsed() >= Duration::from_millis(700));
}

#[test]
fn push_whose_request_is_cut_is_not_taken() {
    let Some(mut bench) = bench(Scheme::Http) else { return };
    bench.client.settings.push("http.postBuffer=65536".to_owned());
    bench.server.fail(Some(Service::ReceivePack), Times::Always, Fault::CutRequest(200_000));
    let error = bench.client.push(&bench.url(), "noise", &noise(1 << 20)).unwrap_err().to_string();
    assert!(error.contains("disconnect") || error.contains("hung up") || error.contains("RPC failed"), "{error}");
    assert_eq!(bench.repository.refs().unwrap(), BTreeMap::new());
    bench.server.heal();
    bench.client.push_again(&bench.url()).unwrap();
    bench.repository.fsck().unwrap();
}

#[test]
fn push_whose_reply_is_cut_is_taken() {
    for scheme in [Scheme::Http, Scheme::Https] {
        let Some(bench) = bench(scheme) else { return };
        bench.push("a").unwrap();
        // git's client sends a request again when the connection was not new; git then takes it for a race that was lost.
        bench.server.fail(Some(Service::ReceivePack), Times::Always, Fault::CutReply);
        let error = bench.refused("b");
        assert!(error.contains("RPC failed"), "{error}");
        assert_eq!(bench.paths(), ["a", "b"]);
        bench.server.heal();
        bench.client.push_again(&bench.url()).unwrap();
        assert_eq!(bench.repository.log("main").unwrap().len(), 2);
    }
}

#[tokio::test]
async fn stopped_server_refuses_until_it_is_back_on_its_port() {
    let Some(bench) = bench(Scheme::Https) else { return };
    bench.push("a").unwrap();
    let counts = bench.server.counts();
    bench.server.stop().await;
    let error = bench.refused("b");
    assert!(error.contains("onnect"), "{error}");
    assert_eq!(bench.server.counts(), counts);
    bench.server.restart().unwrap();
    bench.client.push_again(&bench.url()).unwrap();
    assert_eq!(bench.paths(), ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_may_stand_before_the_server() {
    let Some(bench) = bench(Scheme::Https) else { return };
    let proxy = Proxy::start(bench.server.port()).await.unwrap();
    let url = bench.server.url_at("localhost", proxy.port(), &bench.repository);
    bench.client.push(&url, "a", b"").unwrap();
    proxy.cut_each(Some(Cuts { seed: 1, up: 100, down: 100 }));
    bench.client.push(&url, "b", b"").unwrap_err();
    assert!(proxy.traffic().cut > 0);
    assert_eq!(bench.paths(), ["a"]);
}

#[test]
fn hooks_refuse_what_they_are_told_and_say_why() {
    let Some(bench) = bench(Scheme::Http) else { return };
    let both = ["push", &bench.url(), "HEAD:refs/heads/main", "HEAD:refs/kollect/default/a/b"];
    let refs = || bench.repository.refs().unwrap().into_keys().collect::<Vec<_>>();
    bench.repository.refuse(&Refusal::Everything, "it's closed").unwrap();
    let error = bench.refused("a");
    assert!(error.contains("it's closed") && error.contains("pre-receive hook declined"), "{error}");
    assert_eq!(refs(), [""; 0]);

    bench.repository.refuse(&Refusal::Branch("main".to_owned()), "protected").unwrap();
    let error = bench.client.git(&both).unwrap_err().to_string();
    assert!(error.contains("remote: protected") && error.contains("main (hook declined)"), "{error}");
    assert_eq!(refs(), ["refs/kollect/default/a/b"]);

    bench.repository.refuse(&Refusal::OwnershipRefs, "no such refs").unwrap();
    bench.client.git(&["commit", "-q", "--allow-empty", "-m", "next"]).unwrap();
    let atomic = [&["push", "--atomic"], &both[1..]].concat();
    bench.client.git(&atomic).unwrap_err();
    assert_eq!(refs(), ["refs/kollect/default/a/b"]);
    bench.client.git(&both).unwrap_err();
    assert_eq!(refs(), ["refs/heads/main", "refs/kollect/default/a/b"]);

    bench.repository.accept().unwrap();
    bench.client.git(&atomic).unwrap();
    bench.repository.without_atomic().unwrap();
    bench.client.git(&["commit", "-q", "--allow-empty", "-m", "one more"]).unwrap();
    let error = bench.client.git(&atomic).unwrap_err().to_string();
    assert!(error.contains("does not support --atomic"), "{error}");
    bench.repository.configure("http.receivepack", "false").unwrap();
    let error = bench.refused("b");
    assert!(error.contains("403"), "{error}");
}

#[test]
fn people_work_beside_each_other() {
    let repositories = Repositories::new().unwrap();
    let repository = repositories.create("people").unwrap();
    assert_eq!((repository.tip("main").unwrap(), repository.log("main").unwrap()), (None, Vec::new()));
    let ann = repository.human("ann", "main").unwrap();
    ann.edit("docs/a ü", "1\n", "begin").unwrap();
    let bob = repository.human("bob", "main").unwrap();
    ann.edit("b", b"\0\xff".as_slice(), "say\n\nmore\n").unwrap();
    bob.write("c", "").unwrap();
    bob.remove("docs/a ü").unwrap();
    bob.commit("by bob").unwrap();
    assert_eq!(bob.push().unwrap(), 2);

    let log = repository.log("main").unwrap();
    let said: Vec<_> = log.iter().map(|commit| (commit.author.as_str(), commit.message.as_str())).collect();
    let (ann_name, bob_name) = ("ann <ann@example.com>", "bob <bob@example.com>");
    assert_eq!(said, [(bob_name, "by bob"), (ann_name, "say\n\nmore"), (ann_name, "begin")]);
    assert_eq!(log[0].parents, [log[1].id.clone()]);
    assert_eq!(log[2].parents, [""; 0]);
    let files = BTreeMap::from([("b".to_owned(), b"\0\xff".to_vec()), ("c".to_owned(), Vec::new())]);
    assert_eq!(repository.files("main").unwrap(), files);
    assert_eq!(repository.tip("main").unwrap(), Some(log[0].id.clone()));
    assert!(repository.is_linear("main").unwrap());

    ann.git(&["reset", "-q", "--hard", "HEAD~1"]).unwrap();
    ann.force_push().unwrap();
    assert_eq!(repository.log("main").unwrap().len(), 1);
    ann.git(&["merge", "-q", "--no-ff", "-m", "merge", &log[1].id]).unwrap();
    ann.push().unwrap();
    assert!(!repository.is_linear("main").unwrap());
    ann.delete_branch().unwrap();
    assert_eq!(repository.refs().unwrap(), BTreeMap::new());
    repository.fsck().unwrap();
}

#[test]
fn full_disk_refuses_a_push_and_keeps_what_it_has() {
    let repositories = Repositories::new().unwrap();
    let Some(repository) = part_or_skip(repositories.create_on_small_disk("small", 1 << 20)) else { return };
    let Some(server) = part_or_skip(HttpServer::start(&repositories, Scheme::Http)) else { return };
    let client = Client::new(&repositories, "client");
    client.push(&server.url(&repository), "a", b"").unwrap();
    let error = client.push(&server.url(&repository), "noise", &noise(2 << 20)).unwrap_err().to_string();
    assert!(error.contains("No space left on device"), "{error}");
    assert_eq!(repository.log("main").unwrap().len(), 1);
}

#[test]
fn damage_is_found() {
    let repositories = Repositories::new().unwrap();
    let repository = repositories.create("damaged").unwrap();
    repository.human("ann", "main").unwrap().edit("a", "1\n", "begin").unwrap();
    repository.fsck().unwrap();
    let tip = repository.tip("main").unwrap().unwrap();
    let (folder, file) = tip.split_at(2);
    fs::remove_file(repository.path().join("objects").join(folder).join(file)).unwrap();
    repository.fsck().unwrap_err();
}

#[test]
fn repositories_go_with_their_owner() {
    let repositories = Repositories::new().unwrap();
    let dir = PathBuf::from(repositories.dir());
    repositories.create("a").unwrap();
    assert!(dir.exists());
    drop(repositories);
    assert!(!dir.exists());
}

#[tokio::test]
async fn libgit2_logs_in_with_each_kind_of_key() {
    let repositories = Repositories::new().unwrap();
    let repository = repositories.create("keys").unwrap();
    repository.human("ann", "main").unwrap().edit("a", "1\n", "begin").unwrap();
    let Some(server) = part_or_skip(SshServer::start(&repositories).await) else { return };
    let (url, hosts) = (server.url(&repository), server.known_hosts().unwrap());
    let (ed25519, rsa) = (server.private_key().unwrap(), server.rsa_private_key().unwrap());
    let (locked, strange) = (server.locked_private_key("open").unwrap(), server.strange_private_key().unwrap());
    for (key, passphrase, good) in [
        (&ed25519, None, true),
        (&rsa, None, true),
        (&locked, Some("open"), true),
        (&locked, Some("shut"), false),
        (&strange, None, false),
    ] {
        let mut asked = 0;
        let mut callbacks = git2::RemoteCallbacks::new();
        callbacks.credentials(|_, user, _| {
            asked += 1;
            if asked > 1 {
                return Err(git2::Error::from_str("refused"));
            }
            git2::Cred::ssh_key_from_memory(user.unwrap(), None, key, passphrase)
        });
        callbacks.certificate_check(|certificate, host| {
            let shown = ByteString(certificate.as_hostkey().unwrap().hostkey().unwrap().to_vec());
            let shown = serde_json::to_value(shown).unwrap();
            assert!(host == "127.0.0.1" && hosts.contains(shown.as_str().unwrap()), "{host} {shown}\n{hosts}");
            Ok(git2::CertificateCheckStatus::CertificateOk)
        });
        let mut remote = git2::Remote::create_detached(url.as_str()).unwrap();
        let connection = remote.connect_auth(git2::Direction::Push, Some(callbacks), None);
        assert_eq!(connection.is_ok(), good, "{:?}", connection.err());
    }
}

#[tokio::test]
async fn git_clones_and_pushes_over_ssh_with_keys_that_are_let_in() {
    let repositories = Repositories::new().unwrap();
    let repository = repositories.create("team/inventory").unwrap();
    let Some(server) = part_or_skip(SshServer::start(&repositories).await) else { return };
    let (url, hosts) = (server.url(&repository), server.known_hosts().unwrap());
    let client = Client::with_key(&repositories, "client", &server.private_key().unwrap(), &hosts);
    client.push(&url, "a", &noise(1 << 20)).unwrap();
    client.git(&["clone", "-q", &url, "copy"]).unwrap();
    assert_eq!(server.logins().unwrap(), 2);
    let rsa = Client::with_key(&repositories, "rsa", &server.rsa_private_key().unwrap(), &hosts);
    rsa.git(&["ls-remote", &url]).unwrap();
    let locked = Client::with_key(&repositories, "locked", &server.locked_private_key("open").unwrap(), &hosts);
    locked.git(&["ls-remote", &url]).unwrap_err();

    let stranger = Client::with_key(&repositories, "stranger", &server.strange_private_key().unwrap(), &hosts);
    let deceived = server.other_known_hosts().unwrap();
    let deceived = Client::with_key(&repositories, "deceived", &server.private_key().unwrap(), &deceived);
    for (client, words) in [(&stranger, "Permission denied"), (&deceived, "Host key verification failed")] {
        let error = client.push(&url, "b", b"").unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    server.admit_nobody().unwrap();
    client.git(&["ls-remote", &url]).unwrap_err();
    server.admit_all().unwrap();

    server.stop().await.unwrap();
    let error = client.push(&url, "b", b"").unwrap_err().to_string();
    assert!(error.contains("Connection refused"), "{error}");
    server.restart().await.unwrap();
    client.push_again(&url).unwrap();
    assert_eq!(repository.log("main").unwrap().len(), 2);
    repository.fsck().unwrap();
}
