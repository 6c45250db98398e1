//! The settings of a repository, and how the operator logs in there.

use super::{Obstacle, SecretReader};
use crate::api::v1alpha1::SinkCommon;
use crate::api::v1alpha1::snapshot_sink::PushPolicy as Push;
use crate::config::Permission;
use crate::control::secrets::Content;
use crate::export::layout::LayoutSpec;
use crate::secret::Secret;
use crate::sinks::git::{Author, Challenge, Credentials, GitConfig, MessageTemplate, PushPolicy};
use crate::validate::{Transport, ValidatedGit};

/// Keys of a Secret that may hold a private key, the first one winning.
const KEYS: [&str; 3] = ["ssh-privatekey", "identity", "id_rsa"];
/// User beside a token: what GitHub asks for, and others do not look at.
const TOKEN_USER: &str = "x-access-token";
/// User where neither Secret nor token say.
const USER: &str = "git";

impl SecretReader<'_> {
    /// Resolves a sink of type `git` or `gitlab`.
    pub(super) fn git(&mut self, git: &ValidatedGit, common: &SinkCommon) -> Result<GitConfig, Obstacle> {
        let credentials = self.credentials(git)?;
        let early = self.control.parts.config.delivery.git.early_credentials == Permission::Allowed;
        let author = Author::default();
        let message = MessageTemplate::default();
        Ok(GitConfig {
            sink: self.sink.clone(),
            kind: git.kind,
            cluster: git.cluster.clone(),
            endpoint: git.endpoint.clone(),
            branch: Some(git.branch.clone()),
            push: match git.push {
                Push::Commit => PushPolicy::Commit,
                Push::ForcePush => PushPolicy::Force,
            },
            credentials,
            challenge: if git.force_basic_auth.unwrap_or(early) { Challenge::Skipped } else { Challenge::Awaited },
            tls: self.tls(&git.tls)?,
            depth: git.depth,
            author: Author {
                name: git.author_name.clone().unwrap_or(author.name),
                email: git.author_email.clone().unwrap_or(author.email),
            },
            message: MessageTemplate {
                subject: git.subject.clone().unwrap_or(message.subject),
                body: git.body.clone(),
                trailers: git.trailers.clone(),
            },
            layout: LayoutSpec::of(common),
            prune: git.prune,
        })
    }

    /// Reads the Secret that counts; the other one has to be there all the same.
    fn credentials(&mut self, git: &ValidatedGit) -> Result<Credentials, Obstacle> {
        let mut found = None;
        for (field, secret) in [("spec.secretRef", &git.secret_ref), ("spec.git.auth.secretRef", &git.auth_secret_ref)]
        {
            if let Some(secret) = secret {
                found = Some((field, secret, self.read(field, secret)?));
            }
        }
        let Some((field, secret, content)) = found else { return Ok(Credentials::Anonymous) };
        let checks = if git.tls.insecure_skip_verify { HostKeys::Any } else { HostKeys::Known };
        log_in(git.transport, checks, &content)
            .map_err(|lack| self.failed(field, &format!("Secret {:?} has {lack}", secret.name)))
    }
}

/// Which host keys are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HostKeys {
    /// Those of `known_hosts`.
    Known,
    /// All of them.
    Any,
}

/// Makes credentials of a Secret, or says what it has instead.
fn log_in(transport: Transport, host_keys: HostKeys, content: &Content) -> Result<Credentials, &'static str> {
    let user = content.first(&["username"]).map(|user| user.expose().to_owned());
    match transport {
        Transport::Http => match (content.first(&["token"]), content.first(&["password"])) {
            (Some(token), _) => {
                Ok(Credentials::Basic { user: user.unwrap_or_else(|| TOKEN_USER.to_owned()), password: token })
            }
            (None, Some(password)) => {
                Ok(Credentials::Basic { user: user.unwrap_or_else(|| USER.to_owned()), password })
            }
            (None, None) => Err("none of the keys token, password"),
        },
        Transport::Ssh => {
            let key = content.first(&KEYS).ok_or("none of the keys ssh-privatekey, identity, id_rsa")?;
            let known_hosts = match (host_keys, content.first(&["known_hosts"])) {
                (HostKeys::Any, _) => None,
                (HostKeys::Known, Some(known)) => Some(known.expose().to_owned()),
                (HostKeys::Known, None) => {
                    return Err("no known_hosts; put the output of `ssh-keyscan <host>` there after checking it");
                }
            };
            // Values are read without blanks around them, and parsers of keys want the last line to end.
            let key = Secret::new(format!("{}\n", key.expose()));
            Ok(Credentials::Ssh { user: user.unwrap_or_else(|| USER.to_owned()), key, known_hosts })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says how a Secret logs in, or what it lacks.
    fn said(transport: Transport, host_keys: HostKeys, data: &[(&str, &str)]) -> String {
        match log_in(transport, host_keys, &Content::of(data)) {
            Ok(Credentials::Basic { user, password }) => format!("{user}:{}", password.expose()),
            Ok(Credentials::Ssh { user, key, known_hosts }) => {
                format!("{user} {:?} {}", key.expose(), known_hosts.unwrap_or_else(|| "any".to_owned()))
            }
            Ok(Credentials::Anonymous) => "nobody".to_owned(),
            Err(lack) => lack.to_owned(),
        }
    }

    #[test]
    fn a_token_wins_over_a_password_and_has_a_user_of_its_own() {
        for (data, want) in [
            (&[("token", "t")][..], "x-access-token:t"),
            (&[("token", "t"), ("password", "p"), ("username", "u")], "u:t"),
            (&[("password", "p")], "git:p"),
            (&[("password", "p"), ("username", "u"), ("token", " \n")], "u:p"),
            (&[("username", "u")], "none of the keys token, password"),
            (&[("ssh-privatekey", "k"), ("known_hosts", "h")], "none of the keys token, password"),
        ] {
            assert_eq!(said(Transport::Http, HostKeys::Known, data), want, "{data:?}");
        }
    }

    #[test]
    fn a_key_needs_known_hosts_unless_nothing_is_checked() {
        for (data, host_keys, want) in [
            (&[("ssh-privatekey", "a\n"), ("known_hosts", "h k\n")][..], HostKeys::Known, "git \"a\\n\" h k"),
            (&[("id_rsa", "c"), ("identity", "b"), ("known_hosts", "h")], HostKeys::Known, "git \"b\\n\" h"),
            (&[("id_rsa", "c"), ("username", "u"), ("known_hosts", "h")], HostKeys::Known, "u \"c\\n\" h"),
            (
                &[("identity", "b")],
                HostKeys::Known,
                "no known_hosts; put the output of `ssh-keyscan <host>` there after checking it",
            ),
            (&[("identity", "b")], HostKeys::Any, "git \"b\\n\" any"),
            (&[("identity", "b"), ("known_hosts", "h")], HostKeys::Any, "git \"b\\n\" any"),
            (&[("token", "t")], HostKeys::Any, "none of the keys ssh-privatekey, identity, id_rsa"),
        ] {
            assert_eq!(said(Transport::Ssh, host_keys, data), want, "{data:?}");
        }
    }
}
