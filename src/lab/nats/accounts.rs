//! An operator of NATS with one account, and users of it: what `nsc` would make.

use anyhow::Result;
use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};

/// Digits of base64 as tokens have it (RFC 4648, section 5).
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Keys of an operator and of what it signs for.
#[derive(Debug)]
pub struct Accounts {
    operator: KeyPair,
    system: KeyPair,
    account: KeyPair,
}

impl Default for Accounts {
    fn default() -> Self {
        let [operator, system, account] =
            [KeyPairType::Operator, KeyPairType::Account, KeyPairType::Account].map(KeyPair::new);
        Self { operator, system, account }
    }
}

impl Accounts {
    /// Returns the lines of the server's configuration: it trusts the operator and knows its accounts.
    pub fn configuration(&self) -> Result<String> {
        let operator = token(&self.operator, &self.operator, "lab", &json!({"type": "operator", "version": 2}))?;
        let all = |storage: i64| {
            json!({
                "type": "account", "version": 2,
                "limits": {
                    "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
                    "conn": -1, "leaf": -1, "mem_storage": storage, "disk_storage": storage, "streams": storage,
                    "consumer": storage,
                },
            })
        };
        // The account of the server itself has no streams.
        let system = token(&self.operator, &self.system, "system", &all(0))?;
        let account = token(&self.operator, &self.account, "team", &all(-1))?;
        let (system_key, account_key) = (self.system.public_key(), self.account.public_key());
        Ok(format!(
            "operator: {operator}\nsystem_account: {system_key}\nresolver: MEMORY\n\
             resolver_preload: {{ {system_key}: {system}, {account_key}: {account} }}\n"
        ))
    }

    /// Returns the file of credentials of a new user of the account.
    pub fn credentials(&self) -> Result<String> {
        let user = KeyPair::new(KeyPairType::User);
        let claims = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}});
        let (token, seed) = (token(&self.account, &user, "kollect", &claims)?, user.seed()?);
        Ok(format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        ))
    }
}

/// Returns what one key says of another, signed.
fn token(issuer: &KeyPair, subject: &KeyPair, name: &str, claims: &Value) -> Result<String> {
    let now = jiff::Timestamp::now().as_second();
    let (issuer_key, subject_key) = (issuer.public_key(), subject.public_key());
    let body = json!({
        "jti": subject_key, "iat": now, "iss": issuer_key, "name": name, "sub": subject_key, "nats": claims,
    });
    let head = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let text = format!("{}.{}", base64(head.to_string().as_bytes()), base64(body.to_string().as_bytes()));
    let signature = issuer.sign(text.as_bytes())?;
    Ok(format!("{text}.{}", base64(&signature)))
}

/// Encodes without padding.
fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in (0..=chunk.len()).map(|place| 18 - 6 * place) {
            text.push(char::from(DIGITS[(bits >> place) as usize & 63]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_has_no_padding_and_no_slash() {
        for (bytes, text) in [(&b""[..], ""), (b"f", "Zg"), (b"fo", "Zm8"), (b"foo", "Zm9v"), (&[251, 255], "-_8")] {
            assert_eq!(base64(bytes), text);
        }
    }
}
