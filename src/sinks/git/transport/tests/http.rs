use std::io::{Read as _, Write as _};

use super::*;
use crate::error::Class;
use crate::lab::git::{Certificates, Fault, HttpServer, Refusal, Scheme, Service, Times};

const TOKEN: &str = "hunter2-token";

fn basic(token: &str) -> Credentials {
    Credentials::Basic { user: "kollect".to_owned(), password: Secret::new(token) }
}

/// A server, and a repository in it with one commit.
struct Ground {
    repositories: Repositories,
    server: HttpServer,
    repository: Repository,
    first: Oid,
}

impl Ground {
    fn new(scheme: Scheme) -> Self {
        let repositories = Repositories::new().unwrap();
        let server = HttpServer::start(&repositories, scheme).unwrap();
        let repository = repositories.create("team/inventory").unwrap();
        let first = fill(&repositories, &repository);
        Self { repositories, server, repository, first }
    }

    fn config(&self) -> GitConfig {
        let tls = TlsConfig { ca_pem: Some(self.server.ca_pem().into_bytes()), ..TlsConfig::default() };
        GitConfig { tls, ..config(self.server.url(&self.repository)) }
    }

    /// Without the authority that a server without TLS does not have.
    fn config_plain(&self) -> GitConfig {
        GitConfig { tls: TlsConfig::default(), ..self.config() }
    }

    async fn list(&self, config: &GitConfig) -> Result<Vec<String>, GitError> {
        during(&self.repositories, config, Terms::default(), list).await
    }

    async fn push(&self, config: &GitConfig, bytes: usize, to: &'static [&'static str]) -> Result<Oid, GitError> {
        during(&self.repositories, config, Terms::default(), move |session, mirror| push(session, mirror, bytes, to))
            .await
    }

    fn tip(&self, reference: &str) -> Option<Oid> {
        Mirror::open_bare(self.repository.path()).unwrap().refname_to_id(reference).ok()
    }
}

const NEW: &[&str] = &["refs/heads/new"];
const SMALL: usize = 1000;
const LARGE: usize = 5 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn references_and_commits_go_both_ways() {
    for scheme in [Scheme::Http, Scheme::Https] {
        let ground = Ground::new(scheme);
        let config = GitConfig { tls: TlsConfig::default(), ..ground.config() };
        let config = if scheme == Scheme::Https { ground.config() } else { config };
        assert_eq!(ground.list(&config).await.unwrap(), ["HEAD", "refs/heads/main"]);
        assert_eq!(during(&ground.repositories, &config, Terms::default(), fetch).await.unwrap(), ground.first);
        for (bytes, to) in [(SMALL, &["refs/heads/small"]), (LARGE, &["refs/heads/large"])] {
            let pushed = ground.push(&config, bytes, to).await.unwrap();
            assert_eq!(ground.tip(to[0]), Some(pushed));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_session_may_list_fetch_and_push() {
    let ground = Ground::new(Scheme::Http);
    let config = ground.config_plain();
    let pushed = during(&ground.repositories, &config, Terms::default(), |session, mirror| {
        list(session, mirror)?;
        fetch(session, mirror)?;
        push(session, mirror, SMALL, NEW)
    });
    let pushed = pushed.await.unwrap();
    assert_eq!(ground.tip(NEW[0]), Some(pushed));
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_wait_for_the_challenge() {
    let ground = Ground::new(Scheme::Http);
    ground.server.require_login("kollect", TOKEN).unwrap();
    let config = GitConfig { credentials: basic(TOKEN), ..ground.config_plain() };
    ground.list(&config).await.unwrap();
    assert_eq!(ground.server.counts().unauthorized, 1);
    for (bytes, to) in [(SMALL, &["refs/heads/small"]), (LARGE, &["refs/heads/large"])] {
        let before = ground.server.counts();
        ground.push(&config, bytes, to).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(ground.server.counts().since(before).unauthorized, 1, "the first request alone is challenged");
    }
    let eager = GitConfig { challenge: Challenge::Skipped, ..config };
    let before = ground.server.counts();
    ground.list(&eager).await.unwrap();
    ground.push(&eager, LARGE, &["refs/heads/eager"]).await.unwrap();
    assert_eq!(ground.server.counts().since(before).unauthorized, 0);
}

/// Some servers let everybody read, and ask only when something is pushed.
#[tokio::test(flavor = "multi_thread")]
async fn challenge_may_come_with_the_push() {
    let ground = Ground::new(Scheme::Http);
    let config = GitConfig { credentials: basic(TOKEN), ..ground.config_plain() };
    for (bytes, to) in [(SMALL, &["refs/heads/small"]), (LARGE, &["refs/heads/large"])] {
        let challenge = Fault::Answer {
            status: 401,
            headers: vec![("www-authenticate", "Basic realm=\"x\"".to_owned())],
            body: String::new(),
        };
        ground.server.fail(Some(Service::ReceivePack), Times::Next(1), challenge);
        let pushed = ground.push(&config, bytes, to).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(ground.tip(to[0]), Some(pushed));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_and_missing_credentials_are_terminal() {
    let ground = Ground::new(Scheme::Http);
    ground.server.require_login("kollect", TOKEN).unwrap();
    for challenge in [Challenge::Awaited, Challenge::Skipped] {
        let wrong = GitConfig { credentials: basic("hunter2-wrong"), challenge, ..ground.config_plain() };
        let error = ground.list(&wrong).await.unwrap_err();
        assert_failure(&error, Class::Terminal, "refused the credentials");
        assert!(!format!("{} {error:?}", chain(&error)).contains("hunter2"), "{error:?}");
    }
    let error = ground.list(&ground.config_plain()).await.unwrap_err();
    assert_failure(&error, Class::Terminal, "asks for credentials; name a Secret in spec.secretRef");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_decides_the_class() {
    let ground = Ground::new(Scheme::Http);
    for (fault, class, words) in [
        (Fault::status(403), Class::Terminal, "access denied (HTTP 403)"),
        (
            Fault::Answer { status: 403, headers: vec![("retry-after", "60".to_owned())], body: String::new() },
            Class::Transient,
            "HTTP 403",
        ),
        (Fault::status(404), Class::Terminal, "repository not found, or no access to it (HTTP 404)"),
        (Fault::status(408), Class::Transient, "HTTP 408"),
        (Fault::status(410), Class::Terminal, "HTTP 410"),
        (Fault::too_many_requests(1), Class::Transient, "too many requests (HTTP 429)"),
        (Fault::status(500), Class::Transient, "HTTP 500"),
        (Fault::status(503), Class::Transient, "HTTP 503"),
        (Fault::login_page(), Class::Terminal, "answered with text/html, not with git; is spec.endpoint a repository?"),
        (
            Fault::Answer {
                status: 403,
                headers: vec![("content-type", "text/plain; charset=utf-8".to_owned())],
                body: "You may not,\n hunter2-token.\n".to_owned(),
            },
            Class::Terminal,
            "it says: You may not, ***.",
        ),
    ] {
        for (service, bytes) in [(Service::FetchRefs, 0), (Service::ReceivePack, SMALL), (Service::ReceivePack, LARGE)]
        {
            let config = GitConfig { credentials: basic(TOKEN), ..ground.config_plain() };
            ground.server.fail(Some(service), Times::Always, fault.clone());
            let error = if bytes == 0 {
                ground.list(&config).await.unwrap_err()
            } else {
                ground.push(&config, bytes, NEW).await.unwrap_err()
            };
            assert_failure(&error, class, words);
            ground.server.heal();
        }
    }
    let missing = config(ground.server.url(&ground.repository).replace("inventory", "missing"));
    let error = ground.list(&missing).await.unwrap_err();
    assert_failure(&error, Class::Terminal, "repository not found, or no access to it (HTTP 404)");
    assert!(!ground.push(&missing, SMALL, NEW).await.unwrap_err().to_string().contains("credentials"));
}

#[tokio::test(flavor = "multi_thread")]
async fn redirection_is_followed_to_the_repository() {
    let ground = Ground::new(Scheme::Http);
    let other = ground.repositories.create("moved").unwrap();
    let commit = fill(&ground.repositories, &other);
    let to = ground.server.url_at("localhost", ground.server.port(), &other);
    for (service, name) in [(Service::FetchRefs, "git-upload-pack"), (Service::PushRefs, "git-receive-pack")] {
        let location = format!("{to}/info/refs?service={name}");
        ground.server.fail(Some(service), Times::Next(1), Fault::redirect(301, &location));
    }
    let config = ground.config_plain();
    assert_eq!(during(&ground.repositories, &config, Terms::default(), fetch).await.unwrap(), commit);
    let pushed = ground.push(&config, LARGE, NEW).await.unwrap();
    let other = Mirror::open_bare(other.path()).unwrap();
    assert_eq!(other.refname_to_id(NEW[0]).unwrap(), pushed);
    assert_eq!(ground.tip(NEW[0]), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_not_carried_to_another_host() {
    let ground = Ground::new(Scheme::Http);
    let location = format!(
        "{}/info/refs?service=git-upload-pack",
        ground.server.url_at("localhost", ground.server.port(), &ground.repository)
    );
    ground.server.fail(Some(Service::FetchRefs), Times::Next(1), Fault::redirect(302, &location));
    ground.server.require_login("kollect", TOKEN).unwrap();
    let config = GitConfig { credentials: basic(TOKEN), challenge: Challenge::Skipped, ..ground.config_plain() };
    let error = ground.list(&config).await.unwrap_err();
    assert_failure(&error, Class::Terminal, "which asks for credentials");
    assert!(error.to_string().contains("localhost"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_redirections_are_terminal() {
    let ground = Ground::new(Scheme::Http);
    for (location, words) in [
        ("/login?next=inventory", "/login, which is no address of a repository"),
        ("/team/inventory.git/info/refs?service=git-upload-pack", "redirects more than 5 times"),
        ("gopher://127.0.0.1/info/refs?service=git-upload-pack", "an address that cannot be read"),
        ("http://169.254.169.254/info/refs?service=git-upload-pack", "is a link-local address"),
    ] {
        ground.server.fail(Some(Service::FetchRefs), Times::Always, Fault::redirect(302, location));
        let error = ground.list(&ground.config_plain()).await.unwrap_err();
        assert_failure(&error, Class::Terminal, words);
        ground.server.heal();
    }
    ground.server.fail(Some(Service::ReceivePack), Times::Always, Fault::redirect(307, "/elsewhere"));
    let error = ground.push(&ground.config_plain(), SMALL, NEW).await.unwrap_err();
    assert_failure(&error, Class::Terminal, "redirects in the middle of the conversation");
}

#[tokio::test(flavor = "multi_thread")]
async fn guard_is_asked_for_numbers_and_for_names() {
    let ground = Ground::new(Scheme::Http);
    for host in ["127.0.0.1", "localhost", "[::1]"] {
        let config = config(ground.server.url_at(host, ground.server.port(), &ground.repository));
        let terms = Terms { guard: Guard::default(), ..Terms::default() };
        let error = during(&ground.repositories, &config, terms, list).await.unwrap_err();
        assert_failure(&error, Class::Terminal, "which sinks may not reach");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn untrusted_certificate_is_terminal_and_names_the_setting() {
    let ground = Ground::new(Scheme::Https);
    let strange = Certificates::new(ground.repositories.dir(), &["DNS:other.example.com"]).unwrap();
    let stranger = TlsConfig { ca_pem: Some(strange.ca.clone().into_bytes()), ..TlsConfig::default() };
    let error = ground.list(&GitConfig { tls: stranger, ..ground.config() }).await.unwrap_err();
    assert_failure(&error, Class::Terminal, "spec.tls.caBundle");
    let insecure = TlsConfig { insecure_skip_verify: true, ..TlsConfig::default() };
    ground.list(&GitConfig { tls: insecure, ..ground.config() }).await.unwrap();
    ground.server.use_certificates(&strange).unwrap();
    let error = ground.list(&ground.config()).await.unwrap_err();
    assert_failure(&error, Class::Terminal, "failed to list the references of https://127.0.0.1");
    let broken = TlsConfig { ca_pem: Some(b"nonsense".to_vec()), ..TlsConfig::default() };
    let error = ground.list(&GitConfig { tls: broken, ..ground.config() }).await.unwrap_err();
    assert_failure(&error, Class::Terminal, "the CA of spec.tls holds no certificate");
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_are_transient_and_of_the_destination() {
    let ground = Ground::new(Scheme::Http);
    let config = ground.config_plain();
    for (fault, bytes, to) in [
        // Not with a small body: git http-backend waits for ever for the rest of one whose length it knows.
        (Fault::CutRequest(100), LARGE, &["refs/heads/cut"]),
        (Fault::CutRequest(2 << 20), LARGE, &["refs/heads/cut"]),
        (Fault::CutReply, SMALL, &["refs/heads/small"]),
        (Fault::CutReply, LARGE, &["refs/heads/large"]),
    ] {
        ground.server.fail(Some(Service::ReceivePack), Times::Always, fault.clone());
        let error = ground.push(&config, bytes, to).await.unwrap_err();
        assert_failure(&error, Class::Transient, "failed to push to http://127.0.0.1");
        let error = crate::sinks::SinkError::from(error);
        assert_eq!(error.fault(), crate::sinks::Fault::Destination, "{fault:?} {bytes}");
        ground.server.heal();
    }
    ground.server.stop().await;
    let error = ground.list(&config).await.unwrap_err();
    assert_failure(&error, Class::Transient, "failed to list the references of http://127.0.0.1");
    ground.server.restart().unwrap();
    ground.list(&config).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn deadline_and_cancellation_end_what_waits() {
    let ground = Ground::new(Scheme::Http);
    let config = ground.config_plain();
    ground.server.fail(None, Times::Always, Fault::Delay(Duration::from_mins(10)));
    let begin = Instant::now();
    let terms = Terms { time: Duration::from_millis(300), ..Terms::default() };
    let error = during(&ground.repositories, &config, terms, list).await.unwrap_err();
    assert_failure(&error, Class::Transient, "it did not end in time");
    let terms = Terms::default();
    let cancel = terms.cancel.clone();
    let asked = ground.server.counts().total();
    let (ended, ()) = tokio::join!(during(&ground.repositories, &config, terms, list), async {
        while ground.server.counts().total() == asked {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    });
    assert_failure(&ended.unwrap_err(), Class::Transient, "it was cancelled");
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn push_is_atomic_where_the_server_offers_it() {
    let both = &["refs/heads/new", "refs/kollect/default/team/apps"];
    for (offered, taken) in [(true, false), (false, true)] {
        for bytes in [SMALL, LARGE] {
            let ground = Ground::new(Scheme::Http);
            ground.repository.refuse(&Refusal::OwnershipRefs, "no such refs here").unwrap();
            if !offered {
                ground.repository.without_atomic().unwrap();
            }
            ground.push(&ground.config_plain(), bytes, both).await.unwrap_err();
            assert_eq!(ground.tip(both[0]).is_some(), taken, "{offered} {bytes}");
            assert_eq!(ground.tip(both[1]), None);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_reference_is_terminal_with_the_words_of_the_server() {
    let ground = Ground::new(Scheme::Http);
    ground.repository.refuse(&Refusal::Everything, "GitLab: you are not hunter2-token").unwrap();
    let config = GitConfig { credentials: basic(TOKEN), ..ground.config_plain() };
    for bytes in [SMALL, LARGE] {
        let error = ground.push(&config, bytes, NEW).await.unwrap_err();
        assert_failure(&error, Class::Terminal, "the server refused refs/heads/new: pre-receive hook declined");
        assert!(error.to_string().contains("GitLab: you are not ***"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn branch_that_moved_is_no_failure_of_the_destination() {
    let ground = Ground::new(Scheme::Http);
    let error = ground.push(&ground.config_plain(), SMALL, &["refs/heads/main"]).await.unwrap_err();
    assert!(matches!(error, GitError::NonFastForward { .. }), "{error:?}");
    assert_eq!(ground.tip("refs/heads/main"), Some(ground.first));
}

/// Takes connections, announces an empty repository, and answers each push with a report of a full disk, of which it
/// hears nothing but the head.
fn full_disk(listener: &std::net::TcpListener) {
    let packet = |payload: &str| format!("{:04x}{payload}", payload.len() + 4);
    let refs = [
        packet("# service=git-receive-pack\n"),
        "0000".to_owned(),
        packet(&format!("{} capabilities^{{}}\0report-status side-band-64k\n", "0".repeat(40))),
        "0000".to_owned(),
    ];
    let report = [packet("unpack index-pack abnormal exit\n"), packet("ng refs/heads/new unpacker error\n")].concat();
    let said = packet("\x02fatal: write error: No space left on device\n");
    let said = [said, packet(&format!("\x01{report}0000")), "0000".to_owned()];
    let mut open = Vec::new();
    while let Ok((mut connection, _)) = listener.accept() {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            connection.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        let (kind, body) =
            if head.starts_with(b"GET") { ("advertisement", refs.concat()) } else { ("result", said.concat()) };
        let length = body.len();
        let headers = format!("HTTP/1.1 200 OK\r\ncontent-type: application/x-git-receive-pack-{kind}\r\n");
        let close = if kind == "advertisement" { "connection: close\r\n" } else { "" };
        write!(connection, "{headers}{close}content-length: {length}\r\n\r\n{body}").unwrap();
        if kind == "result" {
            open.push(connection);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_gives_up_in_the_middle_of_a_push_is_heard() {
    let repositories = Repositories::new().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = config(format!("http://{}/inventory", listener.local_addr().unwrap()));
    std::thread::spawn(move || full_disk(&listener));
    // More than fits between the two of them.
    let work = |session: &Session, mirror: &Mirror| push(session, mirror, 16 << 20, NEW);
    let error = during(&repositories, &config, Terms::default(), work).await.unwrap_err();
    assert_failure(&error, Class::Transient, "it says: fatal: write error: No space left on device");
}
