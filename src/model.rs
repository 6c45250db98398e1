//! The nouns of the domain, as types that cannot be mixed up.
//!
//! Names are reference-counted text, so that a hundred thousand rows share one copy of `team-a`. Everything here is
//! plain data: no I/O, no Kubernetes client, no clock.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Declares a newtype over shared text.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps the text.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// Returns the text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Tells whether the text is empty.
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

text! {
    /// A namespace; empty for what lives in none.
    Namespace
}
text! {
    /// The name of an object.
    Name
}
text! {
    /// The `spec.cluster` of a sink: what keeps the operators of a fleet apart. May be empty.
    Cluster
}

/// Group, version and kind of a resource; the group is empty for the core API.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gvk {
    /// API group, `""` for core.
    pub group: Arc<str>,
    /// API version.
    pub version: Arc<str>,
    /// Kind.
    pub kind: Arc<str>,
}

impl fmt::Display for Gvk {
    /// Prints `group/version/Kind`, core as `/v1/ConfigMap`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.group, self.version, self.kind)
    }
}

/// The UID of an object: 16 bytes when it is a canonical lower-case UUID, else its text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Uid {
    /// The usual form.
    Uuid([u8; 16]),
    /// Anything else that an API server hands out.
    Other(Arc<str>),
}

impl Uid {
    /// Reads a UID; the text form that [`Uid`] displays is always the text given here.
    pub fn new(text: &str) -> Self {
        parse_uuid(text.as_bytes()).map_or_else(|| Self::Other(text.into()), Self::Uuid)
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(text) => f.write_str(text),
            Self::Uuid(bytes) => {
                let mut text = [b'-'; 36];
                let mut at = 0;
                for (index, byte) in bytes.iter().enumerate() {
                    if matches!(index, 4 | 6 | 8 | 10) {
                        at += 1;
                    }
                    text[at] = HEX[usize::from(byte >> 4)];
                    text[at + 1] = HEX[usize::from(byte & 15)];
                    at += 2;
                }
                f.write_str(std::str::from_utf8(&text).unwrap_or_default())
            }
        }
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

fn parse_uuid(text: &[u8]) -> Option<[u8; 16]> {
    if text.len() != 36 {
        return None;
    }
    let mut bytes = [0; 16];
    let mut at = 0;
    for (index, byte) in bytes.iter_mut().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            if text[at] != b'-' {
                return None;
            }
            at += 1;
        }
        *byte = nibble(text[at])? << 4 | nibble(text[at + 1])?;
        at += 2;
    }
    Some(bytes)
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Namespace and name of a namespaced object of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Namespace; empty for a cluster-scoped object.
    pub namespace: Namespace,
    /// Name.
    pub name: Name,
}

impl ObjectKey {
    /// Joins the two.
    pub fn new(namespace: Namespace, name: Name) -> Self {
        Self { namespace, name }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A KollectTarget by namespace and name: whose rows these are.
pub type TargetKey = ObjectKey;

/// An inventory. A cluster inventory lives in the namespace `cluster`, as its rows in a sink do.
pub type InventoryKey = ObjectKey;

/// The three lists of sink references.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Git, S3, GCS.
    Snapshot,
    /// Postgres.
    Database,
    /// NATS, Kafka.
    Event,
}

impl Family {
    /// Returns the word used in `status.sinkExports[].name` and in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Database => "database",
            Self::Event => "event",
        }
    }
}

/// A sink object of one of the three families.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SinkKey {
    /// Which of the three kinds.
    pub family: Family,
    /// Namespace and name.
    pub object: ObjectKey,
}

impl fmt::Display for SinkKey {
    /// Prints `database/pg`, the form of `status.sinkExports[].name`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.family.as_str(), self.object.name)
    }
}

/// One reference of an inventory to a sink: the unit of delivery.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BindingKey {
    /// The inventory.
    pub inventory: InventoryKey,
    /// The sink.
    pub sink: SinkKey,
}

impl fmt::Display for BindingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.inventory, self.sink)
    }
}

/// How deliveries to one destination run beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Each is work of its own: few of them are let in at once.
    Own,
    /// The sink joins them (git: many edits, one push), so that all may wait in it at once.
    Joined,
}

/// The position of a change in the journal of one namespace; grows with each change, never repeats in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

/// What all rows of one target have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The target that collected the row.
    pub target: TargetKey,
    /// The kind that its profile names.
    pub gvk: Gvk,
}

/// Name and encoded attributes of one row in a single shared allocation.
///
/// The attributes are canonical JSON (sorted keys, exact integers), an object.
#[derive(Clone, PartialEq, Eq)]
pub struct Body(Arc<[u8]>);

impl Body {
    /// Packs the two. A Kubernetes name has at most 253 bytes; a longer one is refused by returning `None`.
    pub fn new(name: &str, attributes: &[u8]) -> Option<Self> {
        let length = u16::try_from(name.len()).ok()?;
        let mut packed = Vec::with_capacity(2 + name.len() + attributes.len());
        packed.extend_from_slice(&length.to_le_bytes());
        packed.extend_from_slice(name.as_bytes());
        packed.extend_from_slice(attributes);
        Some(Self(packed.into()))
    }

    /// Returns the name of the collected object.
    pub fn name(&self) -> &str {
        std::str::from_utf8(&self.0[2..self.split()]).unwrap_or_default()
    }

    /// Returns the attributes as canonical JSON text.
    pub fn attributes(&self) -> &[u8] {
        &self.0[self.split()..]
    }

    /// Returns the bytes held, without the allocator's own.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    // INVARIANT: `new` wrote at least two bytes, and the length in them is within the slice.
    fn split(&self) -> usize {
        2 + usize::from(u16::from_le_bytes([self.0[0], self.0[1]]))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name(), String::from_utf8_lossy(self.attributes()))
    }
}

/// One collected object of one target. Cloning copies four pointers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Target and kind.
    pub origin: Arc<Origin>,
    /// UID of the collected object.
    pub uid: Uid,
    /// Namespace of the collected object, empty for a cluster-scoped one.
    pub namespace: Namespace,
    /// Name and attributes.
    pub body: Body,
}

impl Row {
    /// Returns the identity of the row inside its inventory.
    pub fn key(&self) -> RowKey {
        RowKey { target: self.origin.target.name.clone(), uid: self.uid.clone() }
    }

    /// Names the collected object as people do: `apps/v1 Deployment team-a/web`.
    pub fn object(&self) -> String {
        let gvk = &self.origin.gvk;
        let slash = |text: &str| if text.is_empty() { String::new() } else { format!("{text}/") };
        let (group, namespace) = (slash(&gvk.group), slash(self.namespace.as_str()));
        format!("{group}{} {} {namespace}{}", gvk.version, gvk.kind, self.body.name())
    }
}

/// Identity of a row inside one inventory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    /// Name of the target; its namespace is the inventory's.
    pub target: Name,
    /// UID of the collected object.
    pub uid: Uid,
}

/// The unit of knowledge (D4): what one target collects in one namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Part {
    /// Name of the target; its namespace is the inventory's.
    pub target: Name,
    /// Namespace of the collected objects, empty for a cluster-scoped kind.
    pub namespace: Namespace,
}

/// BLAKE3-128 of everything that a sink stores of a row, but for the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 16]);

/// An order-free digest of a set of rows: the lane-wise sum of the BLAKE3-256 of each row, so that a row can be added
/// and taken away in constant time.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest(pub [u64; 4]);

impl fmt::Display for Digest {
    /// Prints 64 lower-case hex digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 64];
        for (digits, byte) in text.as_chunks_mut().0.iter_mut().zip(self.0.iter().flat_map(|lane| lane.to_be_bytes())) {
            *digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uid_keeps_its_text() {
        for text in [
            "11111111-2222-4333-8444-5555555555ff",
            "11111111-2222-4333-8444-5555555555FF",
            "11111111x2222-4333-8444-5555555555ff",
            "mirror-pod-17",
            "",
        ] {
            assert_eq!(Uid::new(text).to_string(), text);
        }
        assert!(matches!(Uid::new("11111111-2222-4333-8444-5555555555ff"), Uid::Uuid(_)));
        assert!(matches!(Uid::new("11111111-2222-4333-8444-5555555555FF"), Uid::Other(_)));
    }

    #[test]
    fn body_gives_back_name_and_attributes() {
        let body = Body::new("web", br#"{"image":"a"}"#).unwrap();
        assert_eq!(body.name(), "web");
        assert_eq!(body.attributes(), br#"{"image":"a"}"#);
        assert!(Body::new(&"x".repeat(70_000), b"{}").is_none());
    }
}
