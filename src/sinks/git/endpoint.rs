//! Reads `spec.endpoint`: the address of a repository, without what is nobody's business.
//!
//! A user name or a password in an address is dropped while it is read: credentials come from the Secret alone. What is
//! shown and what is hashed is the normal form, which has none; an error never repeats a part of the text.

use std::fmt;

use reqwest::Url;

/// The branch that is written when nobody names one.
const DEFAULT_BRANCH: &str = "main";

/// The port of SSH.
const SSH_PORT: u16 = 22;

/// The address of a repository, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    address: Address,
    branch: Option<String>,
}

/// Where the repository is. Displays as the normal form of the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// Behind a web server; without user-info, query and fragment.
    Web(Url),
    /// Behind an SSH server.
    Ssh {
        /// Name or numeric address, without brackets, in lower case.
        host: String,
        /// Port.
        port: u16,
        /// Path; without a slash in front it begins at the home of the user.
        path: String,
    },
}

/// What is wrong with `spec.endpoint`. Never holds a part of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum EndpointError {
    #[error(
        "spec.endpoint is no address of a repository: it must begin with https://, http:// or ssh://, or have the \
             form user@host:path"
    )]
    Form,
    #[error("spec.endpoint has a {0} that cannot be read")]
    Part(&'static str),
    #[error("spec.endpoint names no repository: add its path, as in https://git.example.com/team/inventory.git")]
    NoPath,
    #[error("spec.endpoint has a query: remove everything from the \"?\" on")]
    Query,
    #[error(
        "spec.endpoint has an \"@\" in its path: remove user name and password, which belong into the Secret of \
             spec.secretRef, or write %40 where the path really has one"
    )]
    At,
    #[error("spec.endpoint has a fragment other than #branch=<name>")]
    Fragment,
    #[error("spec.endpoint names a branch that is no short branch name such as main or team/inventory")]
    Branch,
}

impl Endpoint {
    /// Reads an address as it is written in a sink.
    pub(super) fn parse(text: &str) -> Result<Self, EndpointError> {
        let text = text.trim();
        let (address, fragment) = match text.split_once('#') {
            Some((address, fragment)) => (address, Some(fragment)),
            None => (text, None),
        };
        let branch = fragment.map(branch_of).transpose()?;
        let address = match scheme_of(address).as_deref() {
            Some("https" | "http") => web(address)?,
            Some("ssh") => ssh(address)?,
            Some(_) => return Err(EndpointError::Form),
            None => scp(address)?,
        };
        Ok(Self { address, branch })
    }

    /// Returns where the repository is.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Returns the branch that is written: the one of `spec.git.branch` before the one in the address.
    pub(super) fn branch<'a>(&'a self, configured: Option<&'a str>) -> &'a str {
        configured.or(self.branch.as_deref()).unwrap_or(DEFAULT_BRANCH)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Web(url) => f.write_str(url.as_str()),
            Self::Ssh { host, port, path } => {
                let absolute = path.starts_with('/');
                f.write_str(if absolute { "ssh://" } else { "" })?;
                if host.contains(':') {
                    write!(f, "[{host}]")?;
                } else {
                    f.write_str(host)?;
                }
                // Only an absolute path can come with a port.
                if *port != SSH_PORT {
                    write!(f, ":{port}")?;
                }
                write!(f, "{}{path}", if absolute { "" } else { ":" })
            }
        }
    }
}

/// Returns the scheme in lower case, if the text has one.
fn scheme_of(address: &str) -> Option<String> {
    address.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase())
}

fn web(address: &str) -> Result<Address, EndpointError> {
    let mut url = Url::parse(address).map_err(|_| EndpointError::Part("host or port"))?;
    // INVARIANT: an address with a host can have its user-info taken away.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    if url.query().is_some() {
        return Err(EndpointError::Query);
    }
    if url.port() == Some(0) {
        return Err(EndpointError::Part("port"));
    }
    let path = repository_path(url.path())?.to_owned();
    url.set_path(&path);
    Ok(Address::Web(url))
}

fn ssh(address: &str) -> Result<Address, EndpointError> {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let (authority, path) = rest.find('/').and_then(|at| rest.split_at_checked(at)).ok_or(EndpointError::NoPath)?;
    // As in every URL, the last @ ends the user-info.
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let (host, port) = match place.strip_prefix('[') {
        Some(bracketed) => {
            let (host, port) = bracketed.split_once(']').ok_or(EndpointError::Part("host"))?;
            (host, port.strip_prefix(':'))
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    let port = match port {
        None | Some("") => SSH_PORT,
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(EndpointError::Part("port"))?,
    };
    // `/~/` is the home of the user, which is where a path without a slash begins.
    let path = repository_path(path)?;
    Ok(Address::Ssh { host: host_of(host)?, port, path: path.strip_prefix("/~/").unwrap_or(path).to_owned() })
}

/// Reads `user@host:path`.
fn scp(address: &str) -> Result<Address, EndpointError> {
    let (front, path) = match address.find("]:").and_then(|at| address.split_at_checked(at)) {
        Some((front, rest)) => (front, rest.get(2..).unwrap_or_default()),
        None => address.split_once(':').ok_or(EndpointError::Form)?,
    };
    if front.contains('/') {
        return Err(EndpointError::Form);
    }
    let host = front.rsplit_once('@').map_or(front, |(_, host)| host);
    let path = repository_path(path)?;
    let path = path.strip_prefix("~/").unwrap_or(path).to_owned();
    Ok(Address::Ssh { host: host_of(host.trim_start_matches('['))?, port: SSH_PORT, path })
}

/// Checks the path of a repository, and takes slashes off its end.
fn repository_path(path: &str) -> Result<&str, EndpointError> {
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        return Err(EndpointError::NoPath);
    }
    if path.contains('?') {
        return Err(EndpointError::Query);
    }
    // What a parser takes for a path may be the end of a password with a slash in it.
    if path.contains('@') {
        return Err(EndpointError::At);
    }
    // A server reads a path with a dash in front as an option of its command.
    if path.starts_with('-') || path.contains(char::is_control) {
        return Err(EndpointError::Part("path"));
    }
    Ok(path)
}

fn host_of(host: &str) -> Result<String, EndpointError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    if host.is_empty() || host.starts_with('-') || !host.chars().all(plain) {
        return Err(EndpointError::Part("host"));
    }
    Ok(host.to_ascii_lowercase())
}

fn branch_of(fragment: &str) -> Result<String, EndpointError> {
    let branch = fragment.strip_prefix("branch=").ok_or(EndpointError::Fragment)?;
    if is_branch(branch) { Ok(branch.to_owned()) } else { Err(EndpointError::Branch) }
}

/// Tells whether a text is a short branch name; the rule of `spec.git.branch`.
fn is_branch(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'/' | b'-');
    name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.bytes().all(plain)
        && !name.contains("..")
        && !name.ends_with('.')
        && name.strip_suffix(".lock").is_none()
        && !name.starts_with("refs/")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Endpoint {
        Endpoint::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn addresses_have_one_normal_form() {
        for (text, normal) in [
            ("https://git.example.com/platform/inv.git", "https://git.example.com/platform/inv.git"),
            (" HTTPS://Git.Example.com:443/platform/inv.git/ ", "https://git.example.com/platform/inv.git"),
            ("https://user:secret@git.example.com/inv", "https://git.example.com/inv"),
            ("http://git.example.com:8080/inv#branch=dev", "http://git.example.com:8080/inv"),
            ("https://[2606:4700::1]:8443/inv", "https://[2606:4700::1]:8443/inv"),
            ("ssh://git@git.example.com/srv/inv.git", "ssh://git.example.com/srv/inv.git"),
            ("ssh://git@Git.example.com:22/srv/inv.git", "ssh://git.example.com/srv/inv.git"),
            ("ssh://git.example.com:2222/inv.git", "ssh://git.example.com:2222/inv.git"),
            ("ssh://git@[2606:4700::1]:2222/inv", "ssh://[2606:4700::1]:2222/inv"),
            ("ssh://git.example.com/~/inv.git", "git.example.com:inv.git"),
            ("git@git.example.com:platform/inv.git", "git.example.com:platform/inv.git"),
            ("git.example.com:inv", "git.example.com:inv"),
            ("git@[2606:4700::1]:inv", "[2606:4700::1]:inv"),
            ("git@git.example.com:/srv/inv.git", "ssh://git.example.com/srv/inv.git"),
            ("git@git.example.com:~/inv.git#branch=dev", "git.example.com:inv.git"),
        ] {
            assert_eq!(parsed(text).to_string(), normal, "{text}");
        }
    }

    #[test]
    fn normal_form_is_read_as_itself() {
        for text in ["https://h/a", "http://h:81/a", "ssh://h/a", "ssh://h:23/a", "h:a", "[::1]:a", "ssh://[::1]:23/a"]
        {
            assert_eq!(parsed(text).to_string(), text);
            assert_eq!(parsed(&parsed(text).to_string()), parsed(text));
        }
    }

    #[test]
    fn unusable_addresses_say_what_to_change() {
        for (text, error) in [
            ("", EndpointError::Form),
            ("git.example.com/inv", EndpointError::Form),
            ("file:///srv/inv.git", EndpointError::Form),
            ("/srv/git:inv", EndpointError::Form),
            ("git://git.example.com/inv", EndpointError::Form),
            ("ext://sh", EndpointError::Form),
            ("https://", EndpointError::Part("host or port")),
            ("https://git.example.com:banana/inv", EndpointError::Part("host or port")),
            ("https://git.example.com:0/inv", EndpointError::Part("port")),
            ("ssh://git.example.com:0/inv", EndpointError::Part("port")),
            ("ssh://git@/inv", EndpointError::Part("host")),
            ("ssh://-oProxyCommand=x/inv", EndpointError::Part("host")),
            ("git@host:-inv", EndpointError::Part("path")),
            ("https://git.example.com", EndpointError::NoPath),
            ("https://git.example.com/", EndpointError::NoPath),
            ("ssh://git.example.com", EndpointError::NoPath),
            ("git@git.example.com:", EndpointError::NoPath),
            ("https://git.example.com/inv?token=x", EndpointError::Query),
            ("ssh://git.example.com/inv?x", EndpointError::Query),
            ("https://user:8080/pass@git.example.com/inv", EndpointError::At),
            ("user:pass@git.example.com:inv", EndpointError::At),
            ("https://git.example.com/inv#main", EndpointError::Fragment),
            ("https://git.example.com/inv#branch=", EndpointError::Branch),
            ("https://git.example.com/inv#branch=refs/heads/main", EndpointError::Branch),
            ("https://git.example.com/inv#branch=a..b", EndpointError::Branch),
            ("https://git.example.com/inv#branch=main.lock", EndpointError::Branch),
        ] {
            assert_eq!(Endpoint::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn branch_of_the_spec_wins_over_the_one_in_the_address() {
        let endpoint = parsed("https://git.example.com/inv#branch=team/dev");
        assert_eq!(endpoint.branch(None), "team/dev");
        assert_eq!(endpoint.branch(Some("release")), "release");
        assert_eq!(parsed("https://git.example.com/inv").branch(None), "main");
    }

    proptest! {
        #[test]
        fn user_info_is_never_shown(
            user in "zq[a-z0-9!$%&'()*+,;=._~/?#@:-]{0,12}",
            password in "qz[a-zA-Z0-9!$%&'()*+,;=._~/?#@:-]{0,12}",
            form in 0..3_u8,
        ) {
            let text = match form {
                0 => format!("https://{user}:{password}@git.example.com/inv.git"),
                1 => format!("ssh://{user}:{password}@git.example.com/inv.git"),
                _ => format!("{user}:{password}@git.example.com:inv.git"),
            };
            let shown = match Endpoint::parse(&text) {
                Ok(endpoint) => format!("{endpoint} {endpoint:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            // The user may be taken for the host where a slash or a ? ends it early; a password is never shown.
            prop_assert!(!shown.contains("qz"), "{shown}");
        }

        #[test]
        fn well_formed_user_info_is_dropped(user in "zq[a-z0-9._~-]{0,12}", password in "qz[a-zA-Z0-9%._~-]{0,12}") {
            for text in [
                format!("https://{user}:{password}@git.example.com/inv.git"),
                format!("https://{user}@git.example.com/inv.git"),
                format!("ssh://{user}@git.example.com/inv.git"),
                format!("{user}@git.example.com:inv.git"),
            ] {
                let shown = Endpoint::parse(&text).map(|endpoint| format!("{endpoint} {endpoint:?}")).unwrap();
                prop_assert!(!shown.contains("zq") && !shown.contains("qz"), "{shown}");
            }
        }
    }
}
