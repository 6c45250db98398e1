//! Addresses of repositories, as far as their form says something.
//!
//! What may be dialled is decided where it is dialled, by the guard. A message never repeats a part of an address, which
//! may hold a password.

/// How a repository is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// `https://` and `http://`.
    Http,
    /// `ssh://` and `user@host:path`.
    Ssh,
}

/// An address whose form is understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Repository<'a> {
    pub(super) transport: Transport,
    /// Whether what is sent can be read on the way.
    pub(super) plain: bool,
    /// The branch in the address.
    pub(super) branch: Option<&'a str>,
    /// Whether the address has a user or a password, which are ignored.
    pub(super) user_info: bool,
}

/// Reads an address; what is wrong is said together with what to write.
pub(super) fn repository(endpoint: &str) -> Result<Repository<'_>, String> {
    let (address, fragment) = match endpoint.split_once('#') {
        Some((address, fragment)) => (address, Some(fragment)),
        None => (endpoint, None),
    };
    let branch = match fragment.map(|fragment| fragment.strip_prefix("branch=")) {
        None => None,
        Some(Some(branch)) => Some(branch),
        Some(None) => return Err("has a fragment other than #branch=<name>; write that or remove it".to_owned()),
    };
    if address.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("has a blank; write the address alone".to_owned());
    }
    let lower = address.to_ascii_lowercase();
    if lower.starts_with("file:") {
        return Err("must not be a file: URL; write https://, http:// or ssh://".to_owned());
    }
    let (transport, plain, authority, path) = match lower.split_once("://") {
        Some((scheme, _)) => {
            let (transport, plain) = match scheme {
                "https" => (Transport::Http, false),
                "http" => (Transport::Http, true),
                "ssh" => (Transport::Ssh, false),
                _ => return Err("has an unknown scheme; write https://, http:// or ssh://".to_owned()),
            };
            let rest = address.split_once("://").map_or("", |(_, rest)| rest);
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            (transport, plain, authority, path)
        }
        None => match address.split_once(':').filter(|(host, _)| host.contains('@') && !host.contains('/')) {
            Some((host, path)) => (Transport::Ssh, false, host, path),
            None => {
                return Err("has no scheme; write https://host/path, ssh://host/path or user@host:path".to_owned());
            }
        },
    };
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    if host.is_empty() || host.starts_with(':') {
        return Err("names no host; write https://host/path".to_owned());
    }
    if path.trim_matches('/').is_empty() {
        return Err("names no repository; write its path behind the host".to_owned());
    }
    // `git@` in front of an address for SSH is habit, and says nothing that would be lost.
    let user_info = user.is_some_and(|user| !(transport == Transport::Ssh && user == "git"));
    Ok(Repository { transport, plain, branch, user_info })
}

/// Returns the host of an address of any kind, without port and brackets; nothing where the text names none. Made to be
/// compared with what is forbidden, so it is generous about the form.
pub(super) fn host(address: &str) -> Option<&str> {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let host = match place.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => place.split(':').next().unwrap_or_default(),
    };
    Some(host).filter(|host| !host.is_empty())
}

/// Says what is wrong with the name of a branch; nothing when it is a short name that git takes.
pub(super) fn wrong_branch(name: &str) -> Option<&'static str> {
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if !first || !name.chars().all(|c| c.is_ascii_alphanumeric() || "._/-".contains(c)) {
        return Some("must start with a letter or digit and have only letters, digits, '.', '_', '/' and '-'");
    }
    if name.starts_with("refs/") {
        return Some("must be a short name; remove refs/heads/ in front");
    }
    let segment =
        |segment: &str| segment.is_empty() || segment.starts_with('.') || segment.strip_suffix(".lock").is_some();
    if name.contains("..") || name.ends_with('.') || name.split('/').any(segment) {
        return Some("must not have '..', '//', '/.', nor '/', '.' or '.lock' at an end; choose another name");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_an_address_tells_how_it_is_spoken_to() {
        let http = |plain, branch, user_info| Repository { transport: Transport::Http, plain, branch, user_info };
        let ssh = |branch, user_info| Repository { transport: Transport::Ssh, plain: false, branch, user_info };
        for (endpoint, want) in [
            ("https://git.example.com/team/inventory.git", http(false, None, false)),
            ("HTTPS://git.example.com:8443/x#branch=main", http(false, Some("main"), false)),
            ("http://bot:secret@git.example.com/x", http(true, None, true)),
            ("ssh://git@git.example.com:2222/x.git", ssh(None, false)),
            ("ssh://bot@git.example.com/x.git", ssh(None, true)),
            ("git@git.example.com:team/x.git#branch=a/b", ssh(Some("a/b"), false)),
            ("https://[2001:db8::1]:443/x", http(false, None, false)),
        ] {
            assert_eq!(repository(endpoint), Ok(want), "{endpoint}");
        }
    }

    #[test]
    fn what_is_no_repository_says_what_to_write() {
        for (endpoint, want) in [
            ("file:///srv/x.git", "must not be a file: URL"),
            ("FILE:/srv/x.git", "must not be a file: URL"),
            ("git://git.example.com/x", "has an unknown scheme; write https://"),
            ("s3://bucket/x", "has an unknown scheme; write https://"),
            ("git.example.com/x", "has no scheme; write https://"),
            ("git.example.com:x", "has no scheme; write https://"),
            ("/srv/x.git", "has no scheme; write https://"),
            ("https:///x", "names no host"),
            ("https://:443/x", "names no host"),
            ("https://git.example.com", "names no repository"),
            ("https://git.example.com//", "names no repository"),
            ("git@git.example.com:", "names no repository"),
            ("https://git.example.com/a b", "has a blank"),
            ("https://git.example.com/x#main", "has a fragment other than #branch=<name>"),
        ] {
            let message = repository(endpoint).unwrap_err();
            assert!(message.starts_with(want), "{endpoint}: {message}");
        }
    }

    #[test]
    fn a_host_is_found_in_every_form_of_an_address() {
        for (address, want) in [
            ("https://git.example.com/x", Some("git.example.com")),
            ("ssh://bot:word@[2001:db8::1]:2222/x", Some("2001:db8::1")),
            ("git@git.example.com:team/x.git", Some("git.example.com")),
            ("nats://10.0.0.1:4222?tls=1", Some("10.0.0.1")),
            ("kafka-0.example.com:9092", Some("kafka-0.example.com")),
            ("localhost", Some("localhost")),
            ("https:///x", None),
            ("", None),
        ] {
            assert_eq!(host(address), want, "{address}");
        }
    }

    #[test]
    fn a_branch_has_a_short_name() {
        for good in ["main", "team/inventory", "v1.2_x-y", "0"] {
            assert_eq!(wrong_branch(good), None, "{good}");
        }
        for wrong in [
            "",
            "-main",
            "refs/heads/main",
            "a..b",
            "a.",
            "a.lock",
            "a.lock/b",
            "a//b",
            "a/",
            "a/.b",
            "a b",
            "ä",
            "a@{b",
        ] {
            assert!(wrong_branch(wrong).is_some(), "{wrong}");
        }
    }
}
