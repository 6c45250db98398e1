//! Who an object is, read from the front of its text before it is queued.
//!
//! This runs on the watch task for every item, so it is a scanner over bytes rather than a decoder: it looks at keys of
//! two levels, jumps over everything else by counting brackets outside of strings, and stops at the last field it needs.

use std::borrow::Cow;

use super::decode::DecodeError;

/// The identity of an object and of this version of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity<'a> {
    /// Namespace; empty for a cluster-scoped object.
    pub namespace: Cow<'a, str>,
    /// Name.
    pub name: Cow<'a, str>,
    /// UID.
    pub uid: Cow<'a, str>,
    /// Resource version; empty when the text has none.
    pub resource_version: Cow<'a, str>,
}

/// Reads the identity and stops as soon as it is complete; what follows is not even checked for being JSON.
///
/// Built-in kinds have it in their first hundreds of bytes, custom resources behind their `managedFields`. An object
/// without a namespace costs the rest of its metadata, for a namespace might still come.
///
/// # Errors
/// A [`DecodeError`] when the text ends or breaks before the identity is complete, or when name or uid are missing.
pub fn peek(text: &[u8]) -> Result<Identity<'_>, DecodeError> {
    let mut scan = Scan { text, at: 0 };
    let mut identity = Identity::default();
    if scan.token() != Some(b'{') {
        return Err(DecodeError::NotAnObject);
    }
    while let Some(key) = scan.key()? {
        if key == b"metadata" {
            scan.metadata(&mut identity)?;
            break;
        }
        scan.skip_value()?;
    }
    if identity.name.is_empty() {
        return Err(DecodeError::NoIdentity("name"));
    }
    if identity.uid.is_empty() {
        return Err(DecodeError::NoIdentity("uid"));
    }
    Ok(identity)
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn broken<T>(&self) -> Result<T, DecodeError> {
        Err(DecodeError::Syntax { position: self.at })
    }

    /// Returns the next byte that is not white space, and steps over it.
    fn token(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.get(self.at)?;
            self.at += 1;
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
        }
    }

    /// Returns the raw text of the next key and steps over its colon; `None` at the end of the map.
    fn key(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        let mut byte = self.token();
        if byte == Some(b',') {
            byte = self.token();
        }
        match byte {
            Some(b'}') => Ok(None),
            Some(b'"') => {
                let key = self.string()?;
                if self.token() == Some(b':') { Ok(Some(key)) } else { self.broken() }
            }
            _ => self.broken(),
        }
    }

    /// Returns the raw text up to the closing quote and steps over it; the opening one is behind.
    fn string(&mut self) -> Result<&'a [u8], DecodeError> {
        let start = self.at;
        loop {
            let rest = self.text.get(self.at..).unwrap_or_default();
            let Some(offset) = memchr::memchr2(b'"', b'\\', rest) else { return self.broken() };
            self.at += offset;
            if rest[offset] == b'"' {
                let raw = &self.text[start..self.at];
                self.at += 1;
                return Ok(raw);
            }
            self.at += 2;
        }
    }

    fn skip_value(&mut self) -> Result<(), DecodeError> {
        match self.token() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'{' | b'[') => self.skip_container(),
            Some(_) => {
                while self.text.get(self.at).is_some_and(|byte| !matches!(byte, b',' | b'}' | b']')) {
                    self.at += 1;
                }
                Ok(())
            }
            None => self.broken(),
        }
    }

    /// Steps over a list or a map whose opening bracket is behind.
    fn skip_container(&mut self) -> Result<(), DecodeError> {
        let mut depth = 1_usize;
        while depth > 0 {
            let Some(byte) = self.text.get(self.at) else { return self.broken() };
            self.at += 1;
            match byte {
                b'"' => {
                    self.string()?;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    fn metadata(&mut self, identity: &mut Identity<'a>) -> Result<(), DecodeError> {
        if self.token() != Some(b'{') {
            return self.broken();
        }
        let mut missing = 4;
        while missing > 0 {
            let Some(key) = self.key()? else { break };
            let field = match key {
                b"name" => &mut identity.name,
                b"namespace" => &mut identity.namespace,
                b"uid" => &mut identity.uid,
                b"resourceVersion" => &mut identity.resource_version,
                _ => {
                    self.skip_value()?;
                    continue;
                }
            };
            if self.token() != Some(b'"') {
                return self.broken();
            }
            let raw = self.string()?;
            *field = unescaped(raw).ok_or(DecodeError::Syntax { position: self.at })?;
            missing -= 1;
        }
        Ok(())
    }
}

/// Kubernetes allows no character in these fields that JSON would escape; a text with one is read the slow way.
fn unescaped(raw: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(raw).ok()?;
    if text.contains('\\') {
        return serde_json::from_str(&format!("\"{text}\"")).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity<'a>(namespace: &'a str, name: &'a str, uid: &'a str, version: &'a str) -> Identity<'a> {
        Identity { namespace: namespace.into(), name: name.into(), uid: uid.into(), resource_version: version.into() }
    }

    #[test]
    fn a_built_in_object_is_read_from_its_front() {
        let text = br#"{"metadata":{"name":"web","generateName":"x}\"{","namespace":"team-a","uid":"u-1","resourceVersion":"7","managed"#;
        assert_eq!(peek(text).unwrap(), identity("team-a", "web", "u-1", "7"));
    }

    #[test]
    fn a_custom_resource_is_read_past_its_managed_fields() {
        let text = br#" { "apiVersion" : "x/v1" , "kind":"Y","metadata" : {"generation": 1, "managedFields":[{"f:a":{".":{}},"s":"]}\\\""}],
            "name":"web","namespace":"team-a","ownerReferences":[],"resourceVersion":"7","uid":"u-1"},"spec":{}}"#;
        assert_eq!(peek(text).unwrap(), identity("team-a", "web", "u-1", "7"));
    }

    #[test]
    fn a_cluster_scoped_object_has_no_namespace() {
        let text =
            br#"{"metadata":{"name":"node-1","uid":"u-1","resourceVersion":"7","labels":{"namespace":"x"}},"spec":{}}"#;
        assert_eq!(peek(text).unwrap(), identity("", "node-1", "u-1", "7"));
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        assert!(matches!(peek(b"[]"), Err(DecodeError::NotAnObject)));
        assert!(matches!(peek(b""), Err(DecodeError::NotAnObject)));
        assert!(matches!(peek(br#"{"metadata":{"name":"web"#), Err(DecodeError::Syntax { .. })));
        assert!(matches!(peek(br#"{"metadata":{"name":7}}"#), Err(DecodeError::Syntax { .. })));
        assert!(matches!(peek(br#"{"metadata":{"uid":"u"}}"#), Err(DecodeError::NoIdentity("name"))));
        assert!(matches!(peek(br#"{"metadata":{"name":"u"}}"#), Err(DecodeError::NoIdentity("uid"))));
        assert!(matches!(peek(br#"{"a":"\"#), Err(DecodeError::Syntax { .. })));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = peek(&text); // any outcome but a panic is right
        }

        #[test]
        fn no_text_like_json_panics(text in r#"(\{|\}|\[|\]|"|\\|,|:|metadata|name|"metadata":\{| |1)*"#) {
            let _ = peek(text.as_bytes()); // any outcome but a panic is right
        }
    }
}
