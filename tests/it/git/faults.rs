//! What servers, disks and networks do: each failure has its class, and ends with its cause.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use kollect::api::v1alpha1::sink::LayoutMode;
use kollect::error::{Class, Classify as _};
use kollect::lab::git::{Certificates, Fault, HttpServer, Refusal, Scheme, Service, Times};
use kollect::model::Row;
use kollect::secret::Secret;
use kollect::sinks::git::{Credentials, GitConfig};
use kollect::sinks::{DocumentSink, Receipt, SinkError, TlsConfig};

use super::{Remote, TOKEN, USER, apps, bring, change, document, documents, life, row, rows};
use crate::support::part_or_skip;

const PATH: &str = "inventory/team-a/apps.yaml";

/// A document of a repository, published again and again with another number in it.
struct Paper {
    remote: Remote,
    sink: Arc<dyn DocumentSink>,
}

impl Paper {
    fn new(name: &str) -> Self {
        let remote = Remote::new(name);
        let sink = documents(&remote.life("us"), &remote.config(LayoutMode::Document));
        Self { remote, sink }
    }

    async fn publish(&self, number: u32) -> Result<Receipt, SinkError> {
        publish(&self.sink, number).await
    }

    /// Publishes what does not get through, and returns what is said of it.
    async fn fails(&self, number: u32, class: Class) -> String {
        fails(&self.sink, number, class).await
    }

    /// Publishes a number and checks that it is there, after so many commits.
    async fn reads(&self, number: u32, commits: usize) {
        self.publish(number).await.unwrap();
        assert!(self.remote.content(PATH).contains(&format!("replicas: {number}\n")));
        assert_eq!(self.remote.commits(), commits);
        self.remote.check();
    }
}

async fn publish(sink: &Arc<dyn DocumentSink>, number: u32) -> Result<Receipt, SinkError> {
    sink.publish(&document(vec![row("app", number)])).await
}

async fn fails(sink: &Arc<dyn DocumentSink>, number: u32, class: Class) -> String {
    let error = publish(sink, number).await.unwrap_err();
    let text = kollect::error::chain(&error);
    assert_eq!(error.class(), class, "{text}");
    assert!(!text.contains(TOKEN), "{text}");
    text
}

#[tokio::test]
async fn a_server_in_trouble_is_tried_again_and_gets_each_state_once() {
    let paper = Paper::new("trouble");
    paper.reads(0, 1).await;
    let mut number = 0;
    for (service, fault, words) in [
        (Service::FetchRefs, Fault::status(500), "HTTP 500"),
        (Service::FetchRefs, Fault::too_many_requests(30), "429"),
        (Service::PushRefs, Fault::status(503), "HTTP 503"),
        (Service::ReceivePack, Fault::status(502), "HTTP 502"),
    ] {
        number += 1;
        paper.remote.server.fail(Some(service), Times::Next(1), fault);
        let text = paper.fails(number, Class::Transient).await;
        assert!(text.contains(words), "{text}");
        paper.reads(number, 1 + number as usize).await;
    }
}

#[tokio::test]
async fn a_push_whose_answer_was_lost_is_not_repeated() {
    let paper = Paper::new("lost-answer");
    paper.reads(0, 1).await;
    paper.remote.server.fail(Some(Service::ReceivePack), Times::Next(1), Fault::CutReply);
    paper.fails(1, Class::Transient).await;
    assert_eq!(paper.remote.commits(), 2);
    assert_eq!(paper.publish(1).await.unwrap().written, 0);
    paper.reads(1, 2).await;

    // The same of a tree, whose sink does not compare again.
    let (sink, scope) = (
        rows(&paper.remote.life("us"), &paper.remote.config(LayoutMode::PerResource)),
        super::scope("west", "team-a", "tree"),
    );
    bring(&sink, &scope, &[row("a", 1)]).await.unwrap();
    paper.remote.server.fail(Some(Service::ReceivePack), Times::Next(1), Fault::CutReply);
    change(&sink, &scope, vec![row("b", 1)], Vec::new(), 2).await.unwrap_err();
    assert_eq!(sink.audit(&scope).await.unwrap(), kollect::sinks::Audit::Intact);
    // What was added by it and has gone since goes from the branch as well.
    change(&sink, &scope, vec![row("c", 1)], vec![row("b", 1).key()], 2).await.unwrap();
    let paths = paper.remote.paths("refs/kollect/west/team-a/tree");
    assert_eq!(paths, ["west/team-a/deployment/a.yaml", "west/team-a/deployment/c.yaml"]);
    paper.remote.check();
}

#[tokio::test]
async fn a_remote_that_was_away_gets_what_happened_meanwhile() {
    let paper = Paper::new("away");
    paper.reads(0, 1).await;
    let (sink, scope) = (
        rows(&paper.remote.life("us"), &paper.remote.config(LayoutMode::PerResource)),
        super::scope("west", "team-a", "tree"),
    );
    bring(&sink, &scope, &[row("a", 1)]).await.unwrap();
    paper.remote.server.stop().await;
    paper.fails(1, Class::Transient).await;
    let error = change(&sink, &scope, vec![row("b", 1)], Vec::new(), 2).await.unwrap_err();
    assert_eq!(error.class(), Class::Transient);
    paper.remote.server.restart().unwrap();
    paper.reads(1, 3).await;
    // The scheduler sends again what was not acknowledged, and what came since.
    change(&sink, &scope, vec![row("b", 2)], vec![row("a", 1).key()], 1).await.unwrap();
    assert_eq!(paper.remote.paths("refs/kollect/west/team-a/tree"), ["west/team-a/deployment/b.yaml"]);
    paper.remote.check();
}

#[tokio::test]
async fn a_slow_server_is_waited_for() {
    let paper = Paper::new("slow");
    paper.remote.server.fail(None, Times::Always, Fault::Delay(Duration::from_millis(300)));
    paper.reads(1, 1).await;
}

#[tokio::test]
async fn an_expired_token_says_so_and_its_successor_goes_on() {
    let paper = Paper::new("token");
    paper.reads(0, 1).await;
    paper.remote.server.require_login(USER, "rotated").unwrap();
    let text = paper.fails(1, Class::Terminal).await;
    assert!(text.contains("refused the credentials"), "{text}");
    let password = Secret::new("rotated");
    let credentials = Credentials::Basic { user: USER.to_owned(), password };
    let config = GitConfig { credentials, ..paper.remote.config(LayoutMode::Document) };
    let rotated = Paper { sink: documents(&paper.remote.life("us"), &config), remote: paper.remote };
    rotated.reads(1, 2).await;
    let config = GitConfig { credentials: Credentials::Anonymous, ..config };
    let text = fails(&documents(&rotated.remote.life("us"), &config), 2, Class::Terminal).await;
    assert!(text.contains("spec.secretRef"), "{text}");
}

#[tokio::test]
async fn what_the_server_forbids_is_terminal_with_its_words() {
    for refusal in [Refusal::Branch("main".to_owned()), Refusal::Everything] {
        let paper = Paper::new("protected");
        paper.reads(0, 1).await;
        paper.remote.repository.refuse(&refusal, "GL-HOOK-ERR: main is protected").unwrap();
        let text = paper.fails(1, Class::Terminal).await;
        assert!(text.contains("main is protected"), "{refusal:?}: {text}");
        assert_eq!(paper.remote.commits(), 1);
        paper.remote.repository.accept().unwrap();
        paper.reads(1, 2).await;
    }
}

#[tokio::test]
async fn a_server_without_our_refs_gets_a_file_instead() {
    for atomic in ["true", "false"] {
        let paper = Paper::new("no-refs");
        paper.remote.repository.configure("receive.advertiseAtomic", atomic).unwrap();
        paper.remote.repository.refuse(&Refusal::OwnershipRefs, "no such refs here").unwrap();
        paper.publish(1).await.unwrap();
        assert_eq!(paper.remote.content(".kollect/west/team-a/apps"), format!("{PATH}\n"));
        assert_eq!(paper.remote.repository.refs().unwrap().len(), 1);
        let commits = paper.remote.commits();
        paper.reads(1, commits).await;
        paper.reads(2, commits + 1).await;
        // The next life finds it.
        let next = documents(&paper.remote.life("us"), &paper.remote.config(LayoutMode::Document));
        assert_eq!(
            publish(&next, 2).await.unwrap(),
            Receipt { checksum: publish(&next, 2).await.unwrap().checksum, ..Receipt::default() }
        );
        next.publish(&document(Vec::<Row>::new())).await.unwrap();
        next.leave(&apps(), kollect::sinks::Leave::Delete).await.unwrap();
        assert!(!paper.remote.paths("main").iter().any(|path| path == PATH || path.ends_with("/apps")));
    }
}

#[tokio::test]
async fn a_server_that_is_not_atomic_is_written_to_as_well() {
    let paper = Paper::new("not-atomic");
    paper.remote.repository.without_atomic().unwrap();
    for number in 1..4 {
        paper.reads(number, number as usize).await;
    }
    assert_eq!(paper.remote.repository.refs().unwrap().len(), 2);
}

#[tokio::test]
async fn a_renamed_repository_is_followed_on_its_host() {
    let paper = Paper::new("renamed");
    let other = paper.remote.repositories.create("successor").unwrap();
    let config = GitConfig { endpoint: paper.remote.server.url(&other), ..paper.remote.config(LayoutMode::Document) };
    drop(config);
    for (service, name) in [(Service::FetchRefs, "git-upload-pack"), (Service::PushRefs, "git-receive-pack")] {
        let url = format!("{}/info/refs?service={name}", paper.remote.server.url(&other));
        // The first request goes to the old name, the second one to the new.
        paper.remote.server.fail(Some(service), Times::Next(1), Fault::redirect(301, &url));
    }
    paper.publish(1).await.unwrap();
    assert_eq!((paper.remote.commits(), other.log("main").unwrap().len()), (0, 1));
}

#[tokio::test]
async fn another_host_is_shown_no_credential() {
    let (paper, stranger) = (Paper::new("here"), Remote::new("there"));
    let mut config = paper.remote.config(LayoutMode::Document);
    let authorities = paper.remote.server.ca_pem() + &stranger.server.ca_pem();
    config.tls.ca_pem = Some(authorities.into_bytes());
    let sink = documents(&paper.remote.life("us"), &config);
    let url = format!("{}/info/refs?service=git-upload-pack", stranger.server.url(&stranger.repository));
    paper.remote.server.fail(None, Times::Always, Fault::redirect(302, &url));
    let text = fails(&sink, 1, Class::Terminal).await;
    assert!(text.contains("credentials") && text.contains("spec.endpoint"), "{text}");
    // It would have let them in.
    let asked = stranger.server.counts();
    assert!(asked.total() == asked.unauthorized && asked.total() > 0, "{asked:?}");
    assert_eq!(stranger.commits(), 0);
}

#[tokio::test]
async fn a_login_page_is_no_repository() {
    let paper = Paper::new("login-page");
    paper.remote.server.fail(None, Times::Always, Fault::login_page());
    let text = paper.fails(1, Class::Terminal).await;
    assert!(text.contains("text/html") && text.contains("spec.endpoint"), "{text}");
    paper.remote.server.heal();
    paper.reads(1, 1).await;
    let missing = GitConfig {
        endpoint: paper.remote.server.url(&paper.remote.repository).replace("login-page", "missing"),
        ..paper.remote.config(LayoutMode::Document)
    };
    let text = fails(&documents(&paper.remote.life("us"), &missing), 1, Class::Terminal).await;
    assert!(text.contains("not found"), "{text}");
}

#[tokio::test]
async fn a_certificate_that_is_not_believed_says_which_field_to_set() {
    let paper = Paper::new("tls");
    let config = GitConfig { tls: TlsConfig::default(), ..paper.remote.config(LayoutMode::Document) };
    let text = fails(&documents(&paper.remote.life("us"), &config), 1, Class::Terminal).await;
    assert!(text.contains("spec.tls"), "{text}");
    let certificates = Certificates::new(paper.remote.repositories.dir(), &["DNS:git.example.com"]).unwrap();
    paper.remote.server.use_certificates(&certificates).unwrap();
    let config = paper.remote.config(LayoutMode::Document);
    let text = fails(&documents(&paper.remote.life("us"), &config), 1, Class::Terminal).await;
    assert!(text.contains("git.example.com") || text.contains("name"), "{text}");
}

/// Returns rows of about 2 MiB that cannot be packed.
fn noise() -> Vec<Row> {
    let mut state = 1_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        format!("{state:016x}")
    };
    let mut text = || (0..16_384).map(|_| random()).collect::<String>();
    (0..16)
        .map(|n| {
            super::row_of(
                "deploys",
                &format!("{n:08x}-0000-4000-8000-000000000000"),
                "team-a",
                "noise",
                &format!("{{\"text\":\"{}\"}}", text()),
            )
            .unwrap()
        })
        .collect()
}

#[tokio::test]
async fn a_full_disk_of_the_server_is_tried_again() {
    let mut remote = Remote::new("full");
    let Some(small) = part_or_skip(remote.repositories.create_on_small_disk("small", 1 << 20)) else { return };
    remote.repository = small;
    let paper = Paper { sink: documents(&remote.life("us"), &remote.config(LayoutMode::Document)), remote };
    paper.reads(0, 1).await;
    let error = paper.sink.publish(&document(noise())).await.unwrap_err();
    let text = kollect::error::chain(&error);
    assert_eq!(error.class(), Class::Transient, "{text}");
    assert!(text.contains("unpacker error") && text.contains("No space left on device"), "{text}");
    // The server tidies up.
    let objects = paper.remote.repository.path().join("objects");
    for entry in std::fs::read_dir(objects).unwrap().map(Result::unwrap) {
        if entry.file_name().to_string_lossy().starts_with("tmp_objdir") {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
    paper.reads(1, 2).await;
}

fn remount(path: &Path, options: &str) {
    assert!(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(path).status().unwrap().success());
}

#[tokio::test]
async fn a_mirror_without_room_is_tried_again() {
    let remote = Remote::new("no-room");
    let Some(disk) = part_or_skip(remote.repositories.create_on_small_disk("disk", 1 << 20)) else { return };
    let sink = documents(&life("us", &disk.path().join("mirrors")), &remote.config(LayoutMode::Document));
    let paper = Paper { remote, sink };
    paper.reads(0, 1).await;
    let error = paper.sink.publish(&document(noise())).await.unwrap_err();
    let text = kollect::error::chain(&error);
    assert_eq!(error.class(), Class::Transient, "{text}");
    assert!(text.contains("No space left on device"), "{text}");
    remount(disk.path(), "size=64m");
    paper.sink.publish(&document(noise())).await.unwrap();
    remount(disk.path(), "ro");
    let text = paper.fails(1, Class::Transient).await;
    assert!(text.contains("KOLLECT_GIT_MIRROR_DIR"), "{text}");
    remount(disk.path(), "rw");
    paper.reads(1, 3).await;
}

#[tokio::test]
async fn plain_http_is_spoken_where_the_endpoint_says_so() {
    let remote = Remote::new("plain");
    let server = HttpServer::start(&remote.repositories, Scheme::Http).unwrap();
    let config = GitConfig { endpoint: server.url(&remote.repository), ..remote.config(LayoutMode::Document) };
    let sink = documents(&remote.life("us"), &config);
    Paper { remote, sink }.reads(1, 1).await;
}
