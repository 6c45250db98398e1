use super::*;
use crate::error::Class;
use crate::lab::git::SshServer;

/// A server, and a repository in it with one commit.
struct Ground {
    repositories: Repositories,
    server: SshServer,
    repository: Repository,
    first: Oid,
}

impl Ground {
    async fn new() -> Self {
        let repositories = Repositories::new().unwrap();
        let server = SshServer::start(&repositories).await.unwrap();
        let repository = repositories.create("inventory").unwrap();
        let first = fill(&repositories, &repository);
        Self { repositories, server, repository, first }
    }

    fn config(&self) -> GitConfig {
        self.login(self.server.private_key().unwrap(), Some(self.server.known_hosts().unwrap()))
    }

    fn login(&self, key: String, known_hosts: Option<String>) -> GitConfig {
        let credentials = Credentials::Ssh { user: self.server.user().to_owned(), key: Secret::new(key), known_hosts };
        GitConfig { credentials, ..config(self.server.url(&self.repository)) }
    }

    async fn list(&self, config: &GitConfig) -> Result<Vec<String>, GitError> {
        during(&self.repositories, config, Terms::default(), list).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn references_and_commits_go_both_ways() {
    let ground = Ground::new().await;
    let config = ground.config();
    let (first, pushed) = during(&ground.repositories, &config, Terms::default(), |session, mirror| {
        assert_eq!(list(session, mirror)?, ["HEAD", "refs/heads/main"]);
        Ok((fetch(session, mirror)?, push(session, mirror, 5 << 20, &["refs/heads/new"])?))
    })
    .await
    .unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(first, ground.first);
    assert_eq!(ground.repository.tip("new").unwrap(), Some(pushed.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_several_kinds_log_in() {
    let ground = Ground::new().await;
    let known = || Some(ground.server.known_hosts().unwrap());
    let rsa = ground.login(ground.server.rsa_private_key().unwrap(), known());
    assert_eq!(ground.list(&rsa).await.unwrap().len(), 2);
    for key in [ground.server.locked_private_key("passphrase").unwrap(), "no key".to_owned(), String::new()] {
        let error = ground.list(&ground.login(key, known())).await.unwrap_err();
        assert_failure(&error, Class::Terminal, "the private key of the Secret cannot be used");
    }
    let error = ground.list(&ground.login(ground.server.strange_private_key().unwrap(), known())).await.unwrap_err();
    assert_failure(&error, Class::Terminal, "the server refused the credentials");
    assert!(!format!("{} {error:?}", chain(&error)).contains("PRIVATE KEY"));
}

#[tokio::test(flavor = "multi_thread")]
async fn host_key_must_be_a_known_one() {
    let ground = Ground::new().await;
    let key = || ground.server.private_key().unwrap();
    let error = ground.list(&ground.login(key(), Some(ground.server.other_known_hosts().unwrap()))).await.unwrap_err();
    assert_failure(&error, Class::Terminal, "is not the one in known_hosts of the Secret");
    let error = ground.list(&ground.login(key(), Some(String::new()))).await.unwrap_err();
    assert_failure(&error, Class::Terminal, &format!("has no key of [127.0.0.1]:{}", ground.server.port()));
    let error = ground.list(&ground.login(key(), None)).await.unwrap_err();
    assert_failure(&error, Class::Terminal, "the Secret has no known_hosts");
    let tls = TlsConfig { insecure_skip_verify: true, ..TlsConfig::default() };
    ground.list(&GitConfig { tls, ..ground.login(key(), None) }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn host_names_may_be_hashed() {
    let ground = Ground::new().await;
    let file = ground.repositories.dir().join("hashed");
    std::fs::write(&file, ground.server.known_hosts().unwrap()).unwrap();
    let hashed = std::process::Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(&file).output().unwrap();
    assert!(hashed.status.success(), "{hashed:?}");
    let known = std::fs::read_to_string(&file).unwrap();
    assert!(known.starts_with("|1|") && !known.contains("127.0.0.1"), "{known}");
    ground.list(&ground.login(ground.server.private_key().unwrap(), Some(known))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_repository_is_terminal_with_the_words_of_the_server() {
    let ground = Ground::new().await;
    let config = GitConfig { endpoint: ground.config().endpoint.replace("inventory", "missing"), ..ground.config() };
    let error = ground.list(&config).await.unwrap_err();
    assert_failure(&error, Class::Terminal, "does not appear to be a git repository");
}

#[tokio::test(flavor = "multi_thread")]
async fn guard_is_asked() {
    let ground = Ground::new().await;
    let terms = Terms { guard: Guard::default(), ..Terms::default() };
    let error = during(&ground.repositories, &ground.config(), terms, list).await.unwrap_err();
    assert_failure(&error, Class::Terminal, "is a loopback address, which sinks may not reach");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_is_away_is_transient() {
    let ground = Ground::new().await;
    ground.server.stop().await.unwrap();
    let error = ground.list(&ground.config()).await.unwrap_err();
    assert_failure(&error, Class::Transient, "failed to connect to 127.0.0.1");
    ground.server.restart().await.unwrap();
    ground.list(&ground.config()).await.unwrap();
}

/// A server that takes connections and never says anything.
async fn silent() -> (tokio::net::TcpListener, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("ssh://127.0.0.1:{}/inventory.git", listener.local_addr().unwrap().port());
    (listener, endpoint)
}

fn somebody(endpoint: String) -> GitConfig {
    let known_hosts = Some(String::new());
    let credentials = Credentials::Ssh { user: "git".to_owned(), key: Secret::new("key"), known_hosts };
    GitConfig { credentials, ..config(endpoint) }
}

#[tokio::test(flavor = "multi_thread")]
async fn deadline_and_cancellation_end_what_waits() {
    let repositories = Repositories::new().unwrap();
    let (listener, endpoint) = silent().await;
    let begin = Instant::now();
    let terms = Terms { time: Duration::from_millis(300), ..Terms::default() };
    let error = during(&repositories, &somebody(endpoint.clone()), terms, list).await.unwrap_err();
    assert_failure(&error, Class::Transient, "it did not end in time");
    let _ = listener.accept().await.unwrap();
    let terms = Terms::default();
    let cancel = terms.cancel.clone();
    let config = somebody(endpoint);
    let (ended, _held) = tokio::join!(during(&repositories, &config, terms, list), async {
        let held = listener.accept().await.unwrap();
        cancel.cancel();
        held
    });
    assert_failure(&ended.unwrap_err(), Class::Transient, "it was cancelled");
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_hangs_up_is_transient() {
    let repositories = Repositories::new().unwrap();
    let (listener, endpoint) = silent().await;
    let config = somebody(endpoint);
    let (ended, ()) = tokio::join!(during(&repositories, &config, Terms::default(), list), async {
        drop(listener.accept().await.unwrap());
    });
    assert_failure(&ended.unwrap_err(), Class::Transient, "the connection was cut");
}

#[tokio::test]
async fn secret_must_fit_the_address() {
    let wire = |config: &GitConfig| Wire::new(config, LOOPBACK, Handle::current()).map(drop);
    let key = somebody("https://git.example.com/inv.git".to_owned());
    assert_failure(&wire(&key).unwrap_err(), Class::Terminal, "the Secret has a private key");
    let none = config("git@git.example.com:inv.git".to_owned());
    assert_failure(&wire(&none).unwrap_err(), Class::Terminal, "put it under ssh-privatekey into the Secret");
    let local = config("file:///srv/inv.git".to_owned());
    assert_failure(&wire(&local).unwrap_err(), Class::Terminal, "spec.endpoint is no address of a repository");
}
