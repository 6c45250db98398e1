//! Rows as messages of a stream: what is sent, in which order, and what somebody has who read it all.
//!
//! In flow a [`Delta`](super::Delta) or a [`Document`](super::Document) and the [`Holdings`] of its scope, which is what all
//! messages so far add up to; out flow [`Message`]s. Each carries in its headers where it stands ([`Sequence`]), what it does
//! ([`Operation`]) and the digest of the rows that a reader has after it, so that a reader knows whether anything is missing,
//! and so that the next life of this operator reads headers alone to know what it need not send again. Brokers are left to
//! the sinks: everything here is pure. The pages `docs/adr/0003` and `docs/adr/0011` say why.

mod delivery;
mod fold;
mod header;
mod snapshot;

use std::fmt::{self, Write as _};

pub use delivery::{Limit, Messages, Plan};
pub use fold::{Fold, HeldRow, Holdings, PartSet, Taken, Verdict, fingerprint};
pub use header::{Fields, Header, HeaderError, ItemHeader, SetHeader, There, names};
pub use snapshot::{Rendered, render};

use super::Scope;
use crate::model::{Cluster, InventoryKey, RowKey, Uid};

/// Limit of a message where the broker does not say its own.
pub const DEFAULT_MESSAGE_BYTES: u64 = 1_000_000;

/// A scope of `Changes` that has nothing to send says this often that it is alive.
pub const SIGN_OF_LIFE: std::time::Duration = std::time::Duration::from_hours(1);

/// Another operator counts as gone when its last message of a scope is older than this.
pub const ABANDONED: std::time::Duration = std::time::Duration::from_hours(3);

/// Who sends: this operator among those that share a stream, and which life of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// UID of the namespace `kube-system`: the same for every life of this operator, and no other cluster's.
    pub process: String,
    /// How often the lease changed hands; 0 without election.
    pub lease_transitions: u64,
}

impl Life {
    /// Returns the epoch of this life at a stream in which an earlier one got as far as `highest`.
    pub fn epoch(&self, highest: Option<u64>) -> u64 {
        self.lease_transitions.max(highest.map_or(1, |epoch| epoch.saturating_add(1))).max(1)
    }

    /// Returns the owner of a scope that this operator writes.
    pub fn owner(&self, scope: &Scope) -> Owner {
        Owner { process: self.process.clone(), inventory: Some(scope.inventory_uid.clone()) }
    }
}

/// Whose a scope is: `<process>/<inventory UID>`, or empty for nobody.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owner {
    /// The operator.
    pub process: String,
    /// The inventory object.
    pub inventory: Option<Uid>,
}

impl Owner {
    /// Reads what [`fmt::Display`] prints.
    pub fn parse(text: &str) -> Self {
        match text.split_once('/') {
            Some((process, uid)) => Self { process: process.to_owned(), inventory: Some(Uid::new(uid)) },
            None => Self { process: text.to_owned(), inventory: None },
        }
    }

    /// Tells whether the rows were left to whoever wants them.
    pub fn is_nobody(&self) -> bool {
        self.process.is_empty()
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.process)?;
        self.inventory.as_ref().map_or(Ok(()), |uid| write!(f, "/{uid}"))
    }
}

/// Where a message of a scope stands: the life of the writer, and its number in that life, from 1. Numbers grow; one that
/// was tried and failed is not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence {
    /// Grows whenever another life takes over.
    pub epoch: u64,
    /// Grows with each message.
    pub n: u64,
}

/// What a message does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A row is there, like this.
    Upsert,
    /// A row is gone; without a row, the inventory is.
    Delete,
    /// All rows follow: what is not repeated up to the next [`Operation::End`] is gone.
    Begin,
    /// The delivery is complete.
    End,
    /// One part of the whole inventory.
    Snapshot,
    /// The rows stay, and are nobody's any more.
    Release,
}

impl Operation {
    /// Returns the word in the header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Upsert => "upsert",
            Self::Delete => "delete",
            Self::Begin => "begin",
            Self::End => "end",
            Self::Snapshot => "snapshot",
            Self::Release => "release",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        let all = [Self::Upsert, Self::Delete, Self::Begin, Self::End, Self::Snapshot, Self::Release];
        all.into_iter().find(|operation| operation.as_str() == word)
    }
}

/// Cluster and inventory: whose messages these are, whichever inventory object that name has at the time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    /// `spec.cluster` of the sink.
    pub cluster: Cluster,
    /// The inventory.
    pub inventory: InventoryKey,
}

impl Stream {
    /// Returns that of a scope.
    pub fn of(scope: &Scope) -> Self {
        Self { cluster: scope.cluster.clone(), inventory: scope.inventory.clone() }
    }

    /// Returns the key of what is said of the inventory as a whole: `cluster/namespace/name`.
    pub fn key(&self) -> String {
        let InventoryKey { namespace, name } = &self.inventory;
        path(&[&self.cluster, namespace, name])
    }

    /// Returns the key of one row: `cluster/namespace/name/target/uid`.
    pub fn row_key(&self, row: &RowKey) -> String {
        let InventoryKey { namespace, name } = &self.inventory;
        path(&[&self.cluster, namespace, name, &row.target, &row.uid])
    }

    /// Returns the key of a snapshot, as earlier releases have it: `cluster/namespace`.
    pub fn snapshot_key(&self) -> String {
        format!("{}/{}", self.cluster, self.inventory.namespace)
    }
}

/// One message, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Key of the broker: messages of one key stay in order, and a compacted topic keeps the last of each.
    pub key: String,
    /// What is read of it later.
    pub header: Header,
    /// The value; none is a tombstone.
    pub value: Option<Vec<u8>>,
}

impl Message {
    /// Returns what tells this sending from every other: a hash over inventory, key, epoch and number, for snapshots of two
    /// inventories may have one key. A value that comes back is another sending; the same sending twice is one.
    pub fn id(&self) -> String {
        let Sequence { epoch, n } = self.header.sequence;
        let inventory = self.header.stream.key();
        let parts = [inventory.as_bytes(), self.key.as_bytes(), &epoch.to_be_bytes(), &n.to_be_bytes()];
        format!("{:032x}", u128::from_be_bytes(crate::canonical::fingerprint(&parts).0))
    }

    /// Returns the bytes of the value.
    pub fn value(&self) -> &[u8] {
        self.value.as_deref().unwrap_or_default()
    }

    /// Returns the bytes of key, headers and value, without what a protocol puts around them.
    pub fn size(&self) -> u64 {
        let headers: usize = self.header.fields().iter().map(|(name, value)| name.len() + value.len()).sum();
        (self.key.len() + headers + self.value().len()) as u64
    }
}

/// Makes a key of its segments, in which `/`, `%` and what is no printable ASCII is percent-encoded.
fn path(segments: &[&dyn fmt::Display]) -> String {
    let mut out = String::with_capacity(128);
    for (index, segment) in segments.iter().enumerate() {
        if index > 0 {
            out.push('/');
        }
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b'%';
        let _ = write!(Encoder { out: &mut out, plain }, "{segment}"); // a String takes everything
    }
    out
}

/// Percent-encodes what is written through it, but for the bytes that are plain.
struct Encoder<'a, F> {
    out: &'a mut String,
    plain: F,
}

impl<F: Fn(u8) -> bool> fmt::Write for Encoder<'_, F> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Nearly always there is nothing to do, and there are many for each message.
        if text.bytes().all(&self.plain) {
            self.out.push_str(text);
            return Ok(());
        }
        text.bytes().try_for_each(|byte| {
            if (self.plain)(byte) {
                self.out.push(char::from(byte));
                Ok(())
            } else {
                write!(self.out, "%{byte:02X}")
            }
        })
    }
}

/// Reads what an [`Encoder`] wrote; nothing where that is no text.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        out.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests;
