//! Credentials of object stores that the platform gives the process, for sinks that name no Secret. Addresses of metadata
//! services are no part of it: the dial guard refuses them.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::secret::Secret;

/// Credentials from the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ambient {
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`.
    pub keys: Option<AmbientKeys>,
    /// `AWS_ROLE_ARN` and `AWS_WEB_IDENTITY_TOKEN_FILE`, which Amazon's Kubernetes service sets.
    pub role: Option<(String, PathBuf)>,
    /// `GOOGLE_APPLICATION_CREDENTIALS`.
    pub google: Option<PathBuf>,
}

/// Keys from the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmbientKeys {
    /// Names the key.
    pub id: String,
    /// The key.
    pub secret: Secret,
    /// Goes with keys that were issued for a while.
    pub session: Option<Secret>,
}

impl Ambient {
    /// Reads the variables that are set and not empty.
    pub(super) fn read(set: impl Fn(&'static str) -> Option<OsString>) -> Self {
        let text = |name| set(name).and_then(|value| value.into_string().ok());
        let keys = match (text("AWS_ACCESS_KEY_ID"), text("AWS_SECRET_ACCESS_KEY")) {
            (Some(id), Some(secret)) => {
                let session = text("AWS_SESSION_TOKEN").map(Secret::new);
                Some(AmbientKeys { id, secret: Secret::new(secret), session })
            }
            _ => None,
        };
        let role = text("AWS_ROLE_ARN").zip(set("AWS_WEB_IDENTITY_TOKEN_FILE").map(PathBuf::from));
        Self { keys, role, google: set("GOOGLE_APPLICATION_CREDENTIALS").map(PathBuf::from) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_pair_is_nothing() {
        let read = |set: &[(&str, &str)]| {
            let set: Vec<(String, String)> = set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            Ambient::read(|name| set.iter().find(|(key, _)| key == name).map(|(_, value)| value.into()))
        };
        assert_eq!(read(&[("AWS_ACCESS_KEY_ID", "a"), ("AWS_ROLE_ARN", "r")]), Ambient::default());
        let all = read(&[
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "s"),
            ("AWS_ROLE_ARN", "r"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"),
            ("GOOGLE_APPLICATION_CREDENTIALS", "/g"),
        ]);
        let keys = AmbientKeys { id: "a".to_owned(), secret: Secret::new("s"), session: None };
        assert_eq!(all.keys, Some(keys));
        assert_eq!(all.role, Some(("r".to_owned(), "/t".into())));
        assert_eq!(all.google, Some("/g".into()));
    }
}
