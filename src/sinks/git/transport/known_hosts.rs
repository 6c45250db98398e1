//! Host keys that are believed: the format of OpenSSH's `known_hosts` (sshd(8)), from the Secret of a sink.
//!
//! Plain and hashed names, `[host]:port`, `*`, `?` and `!` are understood, and `@revoked`. A line with
//! `@cert-authority` would need host certificates, which libssh2 does not check; where nothing else names the host, the
//! error says so. Lines that cannot be read name nobody.

use super::sha1;

/// The port that a name without one stands for.
const SSH_PORT: u16 = 22;

/// Why a host key is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::sinks::git) enum HostKeyError {
    #[error("known_hosts of the Secret has no key of {0}: add the output of `ssh-keyscan` for it after checking it")]
    Unknown(String),
    #[error(
        "the {kind} key of {host} is not the one in known_hosts of the Secret: it was changed, or somebody is in \
             between"
    )]
    Changed { host: String, kind: String },
    #[error(
        "{host} shows a key of type {kind}, and known_hosts of the Secret has {known} for it: add the line of type \
             {kind} too, from the output of `ssh-keyscan`"
    )]
    OtherKind { host: String, kind: String, known: String },
    #[error("the key of {0} is marked @revoked in known_hosts of the Secret")]
    Revoked(String),
    #[error(
        "known_hosts of the Secret has only a @cert-authority for {0}, and host certificates are not supported: add \
             the key of the host itself"
    )]
    Authority(String),
    #[error("{0} shows no key")]
    NoKey(String),
}

/// What is in front of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marker {
    None,
    Revoked,
    Authority,
}

/// Looks a host key up; `key` is the public key as it comes over the wire.
pub(super) fn check(known_hosts: &str, host: &str, port: u16, key: &[u8]) -> Result<(), HostKeyError> {
    let host = host.to_ascii_lowercase();
    let with_port = format!("[{host}]:{port}");
    // As OpenSSH: a key under the name alone is good for every port.
    let names = if port == SSH_PORT { vec![host] } else { vec![with_port, host] };
    let shown = names.first().cloned().unwrap_or_default();
    let kind = kind_of(key).ok_or_else(|| HostKeyError::NoKey(shown.clone()))?;
    let (mut known, mut believed, mut authority) = (Vec::new(), false, false);
    for line in known_hosts.lines().filter_map(Line::read) {
        if !names.iter().any(|name| line.names(name)) {
            continue;
        }
        let same = decode(line.key).is_some_and(|believed| believed == key);
        match line.marker {
            Marker::Revoked if same => return Err(HostKeyError::Revoked(shown)),
            Marker::Revoked => {}
            Marker::Authority => authority = true,
            Marker::None if same => believed = true,
            Marker::None => known.push(line.kind),
        }
    }
    if believed {
        return Ok(());
    }
    Err(match known.as_slice() {
        [] if authority => HostKeyError::Authority(shown),
        [] => HostKeyError::Unknown(shown),
        known if known.contains(&kind.as_str()) => HostKeyError::Changed { host: shown, kind },
        known => HostKeyError::OtherKind { host: shown, kind, known: known.join(", ") },
    })
}

/// One line that names hosts.
struct Line<'a> {
    marker: Marker,
    hosts: &'a str,
    kind: &'a str,
    key: &'a str,
}

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace().peekable();
        let marker = match *fields.peek()? {
            comment if comment.starts_with('#') => return None,
            "@revoked" => Marker::Revoked,
            "@cert-authority" => Marker::Authority,
            other if other.starts_with('@') => return None,
            _ => Marker::None,
        };
        if marker != Marker::None {
            let _ = fields.next(); // the marker itself
        }
        Some(Self { marker, hosts: fields.next()?, kind: fields.next()?, key: fields.next()? })
    }

    /// Tells whether the line is about a host, in lower case, with its port where that is not 22.
    fn names(&self, host: &str) -> bool {
        if let Some(hashed) = self.hosts.strip_prefix("|1|") {
            let (salt, code) = hashed.split_once('|').unwrap_or_default();
            let code = decode(code).unwrap_or_default();
            return decode(salt).is_some_and(|salt| code == sha1::hmac(&salt, host.as_bytes()));
        }
        let mut named = false;
        for pattern in self.hosts.split(',') {
            match pattern.strip_prefix('!') {
                Some(pattern) if matches(pattern, host) => return false,
                None if matches(pattern, host) => named = true,
                _ => {}
            }
        }
        named
    }
}

/// Tells whether a pattern with `*` and `?` fits a name in lower case.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.to_ascii_lowercase(), name.as_bytes());
    let pattern = pattern.as_bytes();
    let (mut at, mut next) = (0, 0);
    // Where to go on when a `*` has to take one more.
    let mut again: Option<(usize, usize)> = None;
    while let Some(byte) = name.get(next) {
        match pattern.get(at) {
            Some(b'*') => {
                again = Some((at + 1, next));
                at += 1;
            }
            Some(wanted) if *wanted == b'?' || wanted == byte => (at, next) = (at + 1, next + 1),
            _ => {
                let Some((star, taken)) = again else { return false };
                again = Some((star, taken + 1));
                (at, next) = (star, taken + 1);
            }
        }
    }
    pattern.iter().skip(at).all(|byte| *byte == b'*')
}

/// Returns the type of a public key, which is the first string in it (RFC 4253, section 6.6).
fn kind_of(key: &[u8]) -> Option<String> {
    let (length, rest) = key.split_first_chunk::<4>()?;
    let kind = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let plain = !kind.is_empty() && kind.len() < 64 && kind.iter().all(u8::is_ascii_graphic);
    plain.then(|| String::from_utf8_lossy(kind).into_owned())
}

/// Decodes base64 with or without padding; nothing where it is something else.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut group, mut bits) = (0_u32, 0);
    for digit in text.trim_end_matches('=').bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        group = group << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.extend(u8::try_from(group >> bits & 0xff));
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
    const OTHER: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIJDSsBmBp2Qk8i/tQ+v5qYB8kJcQv7YyPkT5V2sU5WgX";

    fn check_line(line: &str, host: &str, port: u16) -> Result<(), HostKeyError> {
        check(line, host, port, &decode(ED25519).unwrap())
    }

    #[test]
    fn host_is_known_by_each_form_of_its_name() {
        for (names, host, port) in [
            ("git.example.com", "git.example.com", 22),
            ("git.example.com", "Git.Example.com", 22),
            ("GIT.example.com,10.0.0.1", "git.example.com", 22),
            ("10.0.0.9,git.example.com", "git.example.com", 22),
            ("[git.example.com]:2222", "git.example.com", 2222),
            ("git.example.com", "git.example.com", 2222),
            ("*.example.com", "git.example.com", 22),
            ("git?.example.com", "git1.example.com", 22),
            ("[*.example.com]:2222", "git.example.com", 2222),
            ("*", "git.example.com", 22),
            ("*.com,!bad.example.com", "git.example.com", 22),
            ("2606:4700::1", "2606:4700::1", 22),
        ] {
            let text = format!("# comment\n\nbroken line\n{names} ssh-ed25519 {ED25519} admin@laptop\n");
            assert_eq!(check_line(&text, host, port), Ok(()), "{names} {host}:{port}");
        }
    }

    #[test]
    fn other_hosts_are_unknown() {
        for (names, host, port) in [
            ("git.example.com", "example.com", 22),
            ("[git.example.com]:2222", "git.example.com", 22),
            ("[git.example.com]:2222", "git.example.com", 2223),
            ("*.example.com", "example.com", 22),
            ("*.com,!git.example.com", "git.example.com", 22),
            ("git?.example.com", "git.example.com", 22),
            ("", "git.example.com", 22),
        ] {
            let text = format!("{names} ssh-ed25519 {ED25519}");
            let result = check_line(&text, host, port);
            assert!(matches!(result, Err(HostKeyError::Unknown(_))), "{names} {host}:{port}: {result:?}");
        }
    }

    #[test]
    fn hashed_names_are_understood() {
        let salt: Vec<u8> = (0..20).collect();
        let line = |name: &str| {
            let code = sha1::hmac(&salt, name.as_bytes());
            format!("|1|{}|{} ssh-ed25519 {ED25519}", encode(&salt), encode(&code))
        };
        assert_eq!(check_line(&line("git.example.com"), "git.example.com", 22), Ok(()));
        assert_eq!(check_line(&line("[git.example.com]:2222"), "GIT.example.com", 2222), Ok(()));
        assert!(check_line(&line("git.example.com"), "git.example.org", 22).is_err());
        assert!(check_line("|1|broken ssh-ed25519 x", "git.example.com", 22).is_err());
    }

    #[test]
    fn key_that_is_not_the_known_one_is_refused() {
        let changed = check_line(&format!("git ssh-ed25519 {OTHER}"), "git", 22);
        assert!(matches!(changed, Err(HostKeyError::Changed { .. })), "{changed:?}");
        let kind = check_line("git ssh-rsa AAAAB3NzaC1yc2E=", "git", 22).unwrap_err();
        assert_eq!(
            kind.to_string(),
            "git shows a key of type ssh-ed25519, and known_hosts of the Secret has ssh-rsa for it: add the line of type \
             ssh-ed25519 too, from the output of `ssh-keyscan`"
        );
        let both = format!("git ssh-ed25519 {OTHER}\ngit ssh-ed25519 {ED25519}");
        assert_eq!(check_line(&both, "git", 22), Ok(()), "a key may be in rotation");
    }

    #[test]
    fn revoked_key_is_refused_although_it_is_known() {
        let text = format!("git ssh-ed25519 {ED25519}\n@revoked * ssh-ed25519 {ED25519}");
        assert_eq!(check_line(&text, "git", 22), Err(HostKeyError::Revoked("git".to_owned())));
        let other = format!("git ssh-ed25519 {ED25519}\n@revoked * ssh-ed25519 {OTHER}");
        assert_eq!(check_line(&other, "git", 22), Ok(()));
    }

    #[test]
    fn authority_alone_is_not_enough_and_says_so() {
        let text = format!("@cert-authority *.example.com ssh-ed25519 {ED25519}");
        let result = check_line(&text, "git.example.com", 22);
        assert_eq!(result, Err(HostKeyError::Authority("git.example.com".to_owned())));
    }

    #[test]
    fn key_without_a_type_is_no_key() {
        for key in [&b""[..], b"\0\0\0", b"\0\0\0\x09ssh", b"\0\0\0\0"] {
            assert_eq!(check("git ssh-rsa AAAA", "git", 22, key), Err(HostKeyError::NoKey("git".to_owned())));
        }
    }

    fn encode(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
            let group = byte(0) << 16 | byte(1) << 8 | byte(2);
            for digit in 0..4 {
                let index = (group >> (18 - 6 * digit) & 63) as usize;
                text.push(if digit <= chunk.len() { char::from(DIGITS[index]) } else { '=' });
            }
        }
        text
    }

    #[test]
    fn base64_is_decoded() {
        for bytes in [&b""[..], b"a", b"ab", b"abc", b"\xff\xfe\0", ED25519.as_bytes()] {
            assert_eq!(decode(&encode(bytes)).unwrap(), bytes);
        }
        assert_eq!(decode("a b"), None);
    }
}
