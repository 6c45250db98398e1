//! Logging in: what a Secret holds, as the answer to the nonce of the server.

use async_nats::Auth;
use nkeys::{KeyPair, KeyPairType};

use super::config::NatsCredentials;
use crate::secret::Secret;

/// What is wrong with a seed or a file of credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NkeyError {
    #[error("nkeySeed is not the seed of a user; it starts with SU and has 58 characters")]
    Seed,
    #[error("creds has no user JWT and seed between its lines; give the whole file that nsc wrote")]
    Creds,
}

/// Answers a nonce.
pub(super) fn login(credentials: &NatsCredentials, nonce: &[u8]) -> Result<Auth, NkeyError> {
    let mut auth = Auth::new();
    match credentials {
        NatsCredentials::None => {}
        NatsCredentials::Token(token) => auth.token = Some(token.expose().to_owned()),
        NatsCredentials::User(user, password) => {
            auth.username = Some(user.clone());
            auth.password = Some(password.expose().to_owned());
        }
        NatsCredentials::Seed(seed) => {
            let pair = key_pair(seed)?;
            auth.nkey = Some(pair.public_key());
            auth.signature = Some(pair.sign(nonce).map_err(|_| NkeyError::Seed)?);
        }
        NatsCredentials::Creds(file) => {
            let (jwt, seed) = creds(file)?;
            auth.jwt = Some(jwt.expose().to_owned());
            auth.signature = Some(key_pair(&seed)?.sign(nonce).map_err(|_| NkeyError::Seed)?);
        }
    }
    Ok(auth)
}

fn key_pair(seed: &Secret) -> Result<KeyPair, NkeyError> {
    let pair = KeyPair::from_seed(seed.expose().trim()).map_err(|_| NkeyError::Seed)?;
    if pair.key_pair_type() == KeyPairType::User { Ok(pair) } else { Err(NkeyError::Seed) }
}

/// Takes JWT and seed out of a file of credentials.
fn creds(file: &Secret) -> Result<(Secret, Secret), NkeyError> {
    let block = |what: &str| {
        let mut lines = file.expose().lines().map(str::trim);
        lines.find(|line| line.starts_with("-----BEGIN") && line.contains(what))?;
        lines.find(|line| !line.is_empty()).filter(|line| !line.starts_with('-')).map(Secret::new)
    };
    match (block("USER JWT"), block("USER NKEY SEED")) {
        (Some(jwt), Some(seed)) => Ok((jwt, seed)),
        _ => Err(NkeyError::Creds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pair in the manual of NATS.
    const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    const PUBLIC: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

    #[test]
    fn a_seed_gives_its_public_key_and_a_signature() {
        let auth = login(&NatsCredentials::Seed(Secret::new(format!("{SEED}\n"))), b"nonce").unwrap();
        assert_eq!(auth.nkey.as_deref(), Some(PUBLIC));
        assert_eq!(auth.signature.map(|signature| signature.len()), Some(64));
        for wrong in ["", "SU", PUBLIC, "SUACSSL3UAHUDXKFSNVUZRF5", &SEED.to_lowercase()] {
            let error = login(&NatsCredentials::Seed(Secret::new(wrong)), b"").err();
            assert_eq!(error, Some(NkeyError::Seed), "{wrong}");
        }
    }

    #[test]
    fn a_file_of_credentials_has_two_blocks() {
        let file = "-----BEGIN NATS USER JWT-----\neyJ0\n------END NATS USER JWT------\n\n*** note ***\n\n\
                    -----BEGIN USER NKEY SEED-----\nSUAX\n------END USER NKEY SEED------\n";
        assert_eq!(creds(&Secret::new(file)), Ok((Secret::new("eyJ0"), Secret::new("SUAX"))));
        assert_eq!(creds(&Secret::new("eyJ0")), Err(NkeyError::Creds));
    }
}
