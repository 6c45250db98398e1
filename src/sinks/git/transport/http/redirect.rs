//! Redirections: which are followed, and what they mean for credentials.

use reqwest::Url;

use super::super::super::error::RedirectError;

/// So many redirections are followed.
pub(super) const MAX_REDIRECTS: usize = 5;

/// What follows the address of a repository where its references are read.
const REFS: &str = "/info/refs";

/// Returns where the references of a repository are.
pub(super) fn refs_of(base: &Url, service: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{REFS}", base.path().trim_end_matches('/')));
    url.set_query(Some(&format!("service={service}")));
    url
}

/// Returns where a service of a repository is.
pub(super) fn service_of(base: &Url, service: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{service}", base.path().trim_end_matches('/')));
    url
}

/// Returns the repository whose references an address names: the opposite of [`refs_of`].
pub(super) fn base_of(refs: &Url) -> Option<Url> {
    let path = refs.path().strip_suffix(REFS)?.to_owned();
    let mut url = refs.clone();
    url.set_path(&path);
    url.set_query(None);
    Some(url)
}

/// Returns where a redirection leads, without user-info and fragment.
///
/// Only to the references of another repository, and never to a weaker scheme.
pub(super) fn follow(from: &Url, location: &str) -> Result<Url, RedirectError> {
    let mut to = from.join(location).map_err(|_| RedirectError::Unreadable)?;
    // A scheme without a host cannot have its user-info taken away; it is refused below.
    let (Ok(()), Ok(())) = (to.set_username(""), to.set_password(None)) else { return Err(RedirectError::Unreadable) };
    to.set_fragment(None);
    match (from.scheme(), to.scheme()) {
        ("https", "http") => return Err(RedirectError::Weaker),
        ("http" | "https", "http" | "https") => {}
        _ => return Err(RedirectError::Unreadable),
    }
    if base_of(&to).is_none() || to.query() != from.query() {
        return Err(RedirectError::Elsewhere(shown(&to)));
    }
    Ok(to)
}

/// Tells whether credentials for one address may go to another: the same host and port, or the same host over TLS where
/// both have the port of their scheme.
pub(super) fn same_place(ours: &Url, other: &Url) -> bool {
    let usual = |url: &Url| url.port().is_none();
    let same_port = ours.scheme() == other.scheme() && ours.port() == other.port();
    let upgraded = ours.scheme() == "http" && other.scheme() == "https" && usual(ours) && usual(other);
    ours.host_str() == other.host_str() && (same_port || upgraded)
}

/// Returns an address for people: a query may hold what is nobody's business.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn redirections_lead_to_repositories_alone() {
        let from = refs_of(&url("https://git.example.com/a/inv.git"), "git-upload-pack");
        assert_eq!(from.as_str(), "https://git.example.com/a/inv.git/info/refs?service=git-upload-pack");
        let refs = "info/refs?service=git-upload-pack";
        for (location, base) in [
            (format!("/b/inv.git/{refs}"), "https://git.example.com/b/inv.git"),
            (format!("https://other.example.com/inv/{refs}"), "https://other.example.com/inv"),
            (format!("https://user:pass@other.example.com:8443/inv/{refs}#x"), "https://other.example.com:8443/inv"),
        ] {
            let to = follow(&from, &location).unwrap();
            assert_eq!(base_of(&to).unwrap().as_str(), base, "{location}");
        }
        for (location, error) in [
            (format!("http://git.example.com/a/inv.git/{refs}"), RedirectError::Weaker),
            (format!("ftp://git.example.com/a/inv.git/{refs}"), RedirectError::Unreadable),
            ("https://[broken/".to_owned(), RedirectError::Unreadable),
            ("data:text/plain,x".to_owned(), RedirectError::Unreadable),
            ("/login?token=x".to_owned(), RedirectError::Elsewhere("https://git.example.com/login".to_owned())),
            (
                "/a/inv.git/info/refs".to_owned(),
                RedirectError::Elsewhere("https://git.example.com/a/inv.git/info/refs".to_owned()),
            ),
        ] {
            assert_eq!(follow(&from, &location), Err(error), "{location}");
        }
    }

    #[test]
    fn credentials_stay_with_their_host() {
        for (ours, other, same) in [
            ("https://git.example.com/a", "https://git.example.com/b", true),
            ("http://git.example.com/a", "https://git.example.com/a", true),
            ("http://git.example.com:8080/a", "https://git.example.com/a", false),
            ("https://git.example.com/a", "https://git.example.com:8443/a", false),
            ("https://git.example.com/a", "https://www.git.example.com/a", false),
            ("https://git.example.com/a", "http://git.example.com/a", false),
        ] {
            assert_eq!(same_place(&url(ours), &url(other)), same, "{ours} {other}");
        }
    }

    #[test]
    fn services_are_beside_the_references() {
        let base = url("http://127.0.0.1:8080/inv");
        assert_eq!(service_of(&base, "git-receive-pack").as_str(), "http://127.0.0.1:8080/inv/git-receive-pack");
        assert_eq!(base_of(&refs_of(&base, "git-receive-pack")), Some(base));
    }
}
