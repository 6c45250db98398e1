//! The same over SSH: keys, and whether the host is the right one.

use kollect::api::v1alpha1::sink::LayoutMode;
use kollect::error::{Class, Classify as _, chain};
use kollect::lab::git::SshServer;
use kollect::secret::Secret;
use kollect::sinks::TlsConfig;
use kollect::sinks::git::{Credentials, GitConfig};

use super::{Remote, document, documents, examples};
use crate::support::part_or_skip;

#[tokio::test]
async fn a_key_pushes_over_ssh_where_host_and_key_are_the_right_ones() {
    let remote = Remote::new("over-ssh");
    let Some(server) = part_or_skip(SshServer::start(&remote.repositories).await) else { return };
    let config = |key: String, known_hosts: Option<String>| {
        let credentials = Credentials::Ssh { user: server.user().to_owned(), key: Secret::new(key), known_hosts };
        GitConfig {
            endpoint: server.url(&remote.repository),
            credentials,
            tls: TlsConfig::default(),
            ..remote.config(LayoutMode::Document)
        }
    };
    let publish = async |key: String, known_hosts: String| {
        let config = config(key, Some(known_hosts));
        let sink = documents(&remote.life("us"), &config);
        sink.publish(&document(examples())).await.map_err(|error| (error.class(), chain(&error)))
    };
    let (key, hosts) = (server.private_key().unwrap(), server.known_hosts().unwrap());
    for (key, hosts, words) in [
        (key.clone(), server.other_known_hosts().unwrap(), "known_hosts of the Secret"),
        (key.clone(), "other.example.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ\n".to_owned(), "known_hosts"),
        (server.strange_private_key().unwrap(), hosts.clone(), "refused the credentials"),
        (server.locked_private_key("secret").unwrap(), hosts.clone(), "passphrase"),
        ("no key".to_owned(), hosts.clone(), "private key"),
    ] {
        let (class, text) = publish(key, hosts).await.unwrap_err();
        assert_eq!(class, Class::Terminal, "{text}");
        assert!(text.contains(words) && !text.contains("PRIVATE KEY"), "{words}: {text}");
    }
    let error = remote.life("us").sink(&config(key.clone(), None)).unwrap_err();
    assert!(error.to_string().contains("ssh-keyscan"), "{error}");
    assert_eq!(publish(key, hosts.clone()).await.unwrap().written, 1);
    assert_eq!(publish(server.rsa_private_key().unwrap(), hosts).await.unwrap().written, 0);
    assert_eq!(remote.commits(), 1);
    remote.check();
}
