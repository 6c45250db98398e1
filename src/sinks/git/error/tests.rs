use std::io;

use rustls::CertificateError;

use super::*;
use crate::error::chain;
use crate::sinks::netguard::Guard;

const TERMINAL: (Class, &str) = (Class::Terminal, "ConnectionTestFailed");
const TRANSIENT: (Class, &str) = (Class::Transient, "ExportFailed");
const REFUSED: (Class, &str) = (Class::Terminal, "ExportTerminal");
const CONFLICT: (Class, &str) = (Class::Terminal, "PathConflict");

fn doing() -> String {
    "push to https://git.example.com/inv".to_owned()
}

fn status(status: u16) -> GitError {
    let answer = Answer { status: StatusCode::from_u16(status).unwrap(), retry_after: false, words: String::new() };
    GitError::Status { doing: doing(), answer }
}

fn refused(status: &str) -> GitError {
    GitError::refused("refs/heads/main", status, "")
}

/// An error of each variant, with what it means.
fn all() -> Vec<(GitError, (Class, &'static str), Fault)> {
    use Fault::{Delivery, Destination};
    let (host, path) = (|| "git.example.com".to_owned(), || PathBuf::from("/mirrors"));
    let dial = Guard::default().check_literal("127.0.0.1").unwrap_err();
    let away = DialError::Connect { host: host(), port: 22, source: io::ErrorKind::ConnectionRefused.into() };
    let certificate = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
    let client = || reqwest::Request::try_from(http::Request::builder().uri("/").body("").unwrap()).unwrap_err();
    vec![
        (GitError::Endpoint(EndpointError::Form), TERMINAL, Delivery),
        (GitError::Login(Mismatch::NoKey), TERMINAL, Delivery),
        (GitError::Tls(TlsError::HalfClient), TERMINAL, Destination),
        (GitError::Client(client()), TERMINAL, Destination),
        (GitError::Dial(dial.into()), TERMINAL, Destination),
        (GitError::Dial(away), (Class::Transient, "ConnectionTestFailed"), Destination),
        (GitError::Handshake { doing: doing(), source: certificate }, TERMINAL, Destination),
        (
            GitError::Handshake { doing: doing(), source: rustls::Error::HandshakeNotComplete },
            (Class::Transient, "ConnectionTestFailed"),
            Destination,
        ),
        (GitError::Http { doing: doing(), source: client() }, TRANSIENT, Destination),
        (GitError::Door { doing: doing(), source: io::ErrorKind::AddrInUse.into() }, TRANSIENT, Delivery),
        (GitError::Cut { doing: doing() }, TRANSIENT, Destination),
        (GitError::Silent { doing: doing(), after: Duration::from_mins(1) }, TRANSIENT, Destination),
        (GitError::Late { doing: doing() }, TRANSIENT, Delivery),
        (GitError::Cancelled { doing: doing() }, TRANSIENT, Delivery),
        (status(404), TERMINAL, Destination),
        (status(503), TRANSIENT, Destination),
        (status(413), (Class::Terminal, "ExportTerminal"), Delivery),
        (GitError::LoginNeeded { doing: doing() }, TERMINAL, Destination),
        (GitError::LoginRefused { doing: doing(), words: String::new() }, TERMINAL, Destination),
        (GitError::Redirect { doing: doing(), reason: RedirectError::Weaker }, TERMINAL, Destination),
        (GitError::NotGit { doing: doing(), kind: "text/html".to_owned() }, TERMINAL, Destination),
        (GitError::HostKey { doing: doing(), source: HostKeyError::Unknown(host()) }, TERMINAL, Destination),
        (GitError::UnusableKey { doing: doing() }, TERMINAL, Destination),
        (GitError::Said { doing: doing(), words: "not found".to_owned() }, TERMINAL, Delivery),
        (refused("non-fast-forward"), TRANSIENT, Delivery),
        (refused("pre-receive hook declined"), REFUSED, Delivery),
        (refused("unpacker error"), TRANSIENT, Delivery),
        (refused("atomic push failure"), TRANSIENT, Delivery),
        (
            GitError::Git { doing: doing(), words: String::new(), source: git2::Error::from_str("odd") },
            TRANSIENT,
            Delivery,
        ),
        (GitError::Mirror(git2::Error::from_str("odd")), TRANSIENT, Delivery),
        (GitError::Root { path: path(), problem: "is not a directory" }, REFUSED, Delivery),
        (GitError::Disk { path: path(), source: io::ErrorKind::StorageFull.into() }, TRANSIENT, Delivery),
        (GitError::Locked { path: path() }, TRANSIENT, Delivery),
        (GitError::Obstructed { path: "a/b".to_owned(), there: "a file" }, CONFLICT, Delivery),
        (GitError::Unfit { path: "a//b".to_owned() }, REFUSED, Delivery),
        (GitError::Superseded { branch: "main".to_owned(), tries: 5 }, TRANSIENT, Delivery),
        (GitError::Deposed { branch: "main".to_owned(), source: Deposed }, TRANSIENT, Delivery),
        (GitError::Occupied { first: host(), inventory: "a/b".to_owned() }, REFUSED, Delivery),
        (GitError::Layout(LayoutError::Format("csv")), REFUSED, Delivery),
        (GitError::PathConflict { path: FilePath::new("a/b").unwrap(), other: host() }, CONFLICT, Delivery),
        (
            GitError::ClusterConflict { inventory: "a/b".to_owned(), writer: host() },
            (Class::Terminal, "ClusterConflict"),
            Delivery,
        ),
        (GitError::NotCompared, TRANSIENT, Delivery),
        (GitError::Shared(Arc::new(status(404))), TERMINAL, Destination),
        (GitError::GivenUp, TRANSIENT, Delivery),
    ]
}

#[test]
fn every_error_has_class_reason_and_fault() {
    for (error, (class, reason), fault) in all() {
        let text = format!("{error:?}");
        let error = SinkError::from(error);
        assert_eq!((error.class(), error.reason(), error.fault()), (class, reason, fault), "{text}");
    }
}

#[test]
fn status_decides_the_class() {
    for (code, class) in [
        (400, Class::Terminal),
        (403, Class::Terminal),
        (404, Class::Terminal),
        (408, Class::Transient),
        (410, Class::Terminal),
        (413, Class::Terminal),
        (425, Class::Transient),
        (429, Class::Transient),
        (500, Class::Transient),
        (502, Class::Transient),
        (503, Class::Transient),
        (504, Class::Transient),
        (304, Class::Terminal),
    ] {
        assert_eq!(status(code).class(), class, "{code}");
    }
    let answer = Answer { status: StatusCode::FORBIDDEN, retry_after: true, words: String::new() };
    assert_eq!(GitError::Status { doing: doing(), answer }.class(), Class::Transient);
}

#[test]
fn words_of_a_server_are_understood() {
    for (words, refusal) in [
        ("non-fast-forward", Refusal::Moved),
        ("fetch first", Refusal::Moved),
        ("stale info", Refusal::Moved),
        ("cannot lock ref 'refs/heads/main': is at 1111 but expected 2222", Refusal::Moved),
        ("cannot lock ref 'refs/heads/main': Unable to create 'main.lock': File exists.", Refusal::Trouble),
        ("failed to update ref", Refusal::Trouble),
        ("unpacker error", Refusal::Trouble),
        ("Internal Server Error", Refusal::Trouble),
        ("atomic push failure", Refusal::Companion),
        ("atomic transaction failed", Refusal::Trouble),
        ("protected branch hook declined", Refusal::Rule),
        ("pre-receive hook declined", Refusal::Rule),
        ("hook declined", Refusal::Rule),
        ("deny updating a hidden ref", Refusal::Rule),
        ("push declined due to repository rule violations", Refusal::Rule),
        ("prohibited by Gerrit: not permitted: update", Refusal::Rule),
        ("branch is currently checked out", Refusal::Rule),
        ("permission denied", Refusal::Rule),
        ("", Refusal::Rule),
    ] {
        assert_eq!(Refusal::of(words), refusal, "{words}");
    }
}

#[test]
fn message_says_what_was_done_and_what_to_do() {
    let declined = GitError::refused("refs/heads/main", "hook declined", "GitLab: You are not allowed to push.");
    assert_eq!(
        chain(&declined),
        "the server refused refs/heads/main: hook declined (GitLab: You are not allowed to push.)"
    );
    let refused = GitError::LoginRefused { doing: doing(), words: "token expired".to_owned() };
    assert_eq!(
        chain(&refused),
        "failed to push to https://git.example.com/inv: the server refused the credentials; check user and token or key \
         in the Secret; it says: token expired"
    );
    let source = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
    assert_eq!(
        chain(&GitError::Handshake { doing: doing(), source }),
        "failed to push to https://git.example.com/inv; if the certificate is the right one, name its authority in \
         spec.tls.caBundle or spec.tls.caSecretRef: invalid peer certificate: UnknownIssuer"
    );
}

/// No variant has a place for a credential but the words of a server, and those are scrubbed where they come in.
#[test]
fn no_error_holds_a_credential() {
    let secret = crate::secret::Secret::new("hunter2");
    let words = || super::super::transport::scrubbed(b"no hunter2 here", &secret);
    let endpoint = super::super::endpoint::Endpoint::parse("https://u:hunter2@git.example.com/inv").unwrap();
    let place = || format!("push to {endpoint}");
    let answer = Answer { status: StatusCode::FORBIDDEN, retry_after: false, words: words() };
    let mut errors: Vec<GitError> = all().into_iter().map(|(error, ..)| error).collect();
    errors.extend([
        GitError::Status { doing: place(), answer },
        GitError::LoginRefused { doing: place(), words: words() },
        GitError::Said { doing: place(), words: words() },
        GitError::NotGit { doing: place(), kind: words() },
        GitError::Git { doing: place(), words: words(), source: git2::Error::from_str("odd") },
        GitError::refused("refs/heads/main", &words(), &words()),
        GitError::refused("refs/heads/main", "unpacker error", &words()),
    ]);
    for error in errors {
        let shown = format!("{error:?} {}", chain(&error));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
