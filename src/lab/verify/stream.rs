//! What a stream or a topic says: the rows that its messages add up to.
//!
//! Folded by the rules that `docs/adr/0011-event-streams.md` gives to consumers, with none of the code by which the operator
//! folds. Writers of one inventory follow each other here: one that comes back after another one is not understood.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::Held;
use super::item::{self, Item, Said};
use crate::model::{Digest, Name, Namespace, ObjectKey, RowKey, Uid};

/// What every message of ours has in `kollect-schema-version`.
const SCHEMA: &str = "kollect.dev/v1alpha1";

/// A message as it is kept.
#[derive(Debug, Clone, Default)]
pub(super) struct Message {
    pub(super) partition: i32,
    pub(super) headers: BTreeMap<String, String>,
    /// Empty for a tombstone.
    pub(super) value: Vec<u8>,
}

/// What the messages of a cluster add up to.
#[derive(Debug, Default)]
pub(super) struct Flow {
    pub(super) messages: usize,
    pub(super) held: Held,
    /// The digest that the last message of each inventory tells.
    pub(super) told: BTreeMap<ObjectKey, String>,
    /// What is wrong, each in a sentence.
    pub(super) problems: Vec<String>,
}

/// Where a message stands: its writer by age, epoch and number.
type Place = (usize, u64, u64);

impl Flow {
    /// Folds messages that are in order within each partition.
    pub(super) fn of(messages: Vec<Message>, cluster: &str) -> Self {
        let mut flow = Self::default();
        let mut inventories: BTreeMap<ObjectKey, Vec<Message>> = BTreeMap::new();
        for message in messages.into_iter().filter(|message| message.header("kollect-schema-version") == SCHEMA) {
            if message.text("kollect-cluster") == cluster {
                flow.messages += 1;
                inventories.entry(message.inventory()).or_default().push(message);
            }
        }
        for (key, messages) in inventories {
            match Fold::of(messages) {
                Ok(fold) => {
                    let digest = fold.digest();
                    if digest != fold.told {
                        let told = &fold.told;
                        flow.problems
                            .push(format!("{key}: its messages add up to {digest}, the last one tells {told}"));
                    }
                    flow.told.insert(key.clone(), fold.told);
                    flow.held.insert(key, fold.rows);
                }
                Err(error) => flow.problems.push(format!("{key}: {error:#}")),
            }
        }
        flow
    }

    /// Returns the number of rows of all inventories.
    pub(super) fn rows(&self) -> usize {
        self.held.values().map(HashMap::len).sum()
    }
}

impl Message {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(String::as_str).unwrap_or_default()
    }

    /// Returns a header that may be percent-encoded.
    fn text(&self, name: &str) -> String {
        let mut bytes = Vec::new();
        let mut parts = self.header(name).split('%');
        bytes.extend(parts.next().unwrap_or_default().bytes());
        for part in parts {
            let (digits, rest) = part.split_at_checked(2).unwrap_or((part, ""));
            bytes.extend(u8::from_str_radix(digits, 16).ok());
            bytes.extend(rest.bytes());
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn number(&self, name: &str) -> Result<u64> {
        self.header(name).parse().with_context(|| format!("a message has no number in {name}"))
    }

    fn inventory(&self) -> ObjectKey {
        let (namespace, name) = (self.text("kollect-inventory-namespace"), self.text("kollect-inventory-name"));
        ObjectKey::new(Namespace::new(namespace), Name::new(name))
    }
}

/// The rows of one inventory so far.
#[derive(Debug, Default)]
struct Fold {
    rows: HashMap<RowKey, Said>,
    /// What is repeated since `begin`.
    repeated: Option<HashMap<RowKey, Said>>,
    /// Parts of a snapshot that is not whole yet, by the checksum of all of them.
    parts: BTreeMap<u64, Vec<Item>>,
    set: String,
    told: String,
}

impl Fold {
    fn of(messages: Vec<Message>) -> Result<Self> {
        let mut fold = Self::default();
        for message in in_order(messages)? {
            fold.take(&message)?;
        }
        ensure!(fold.repeated.is_none(), "its messages begin a round without an end");
        ensure!(fold.parts.is_empty(), "its last snapshot is not whole");
        Ok(fold)
    }

    fn take(&mut self, message: &Message) -> Result<()> {
        let row = message.headers.contains_key("kollect-uid");
        match message.header("kollect-operation") {
            "upsert" => self.insert(message)?,
            "delete" if row => {
                let (target, uid) = (message.text("kollect-target"), message.text("kollect-uid"));
                let key = RowKey { target: Name::new(target), uid: Uid::new(&uid) };
                self.rows.remove(&key);
                self.repeated.iter_mut().for_each(|repeated| drop(repeated.remove(&key)));
            }
            "delete" => *self = Self::default(),
            "begin" => self.repeated = Some(HashMap::new()),
            "end" => {
                if let Some(repeated) = self.repeated.take() {
                    self.rows = repeated;
                }
            }
            "snapshot" => self.add_part(message)?,
            "release" => {}
            other => bail!("a message has the operation {other:?}"),
        }
        message.header("kollect-digest").clone_into(&mut self.told);
        Ok(())
    }

    fn insert(&mut self, message: &Message) -> Result<()> {
        let json = serde_json::from_slice(&message.value).context("the value of a row is no JSON")?;
        let item = Item::read(json)?;
        let said = (item.key.target.to_string(), item.key.uid.to_string(), Digest(item.said.hash).to_string());
        let headers = (message.text("kollect-target"), message.text("kollect-uid"), message.text("kollect-hash"));
        ensure!(said == headers, "the value of a row is {said:?}, its headers say {headers:?}");
        if let Some(repeated) = &mut self.repeated {
            repeated.insert(item.key.clone(), item.said.clone());
        }
        self.rows.insert(item.key, item.said);
        Ok(())
    }

    /// Adds a part; when all are there, they are what there is.
    fn add_part(&mut self, message: &Message) -> Result<()> {
        let (part, parts) = (message.number("kollect-part")?, message.number("kollect-parts")?);
        let first = message.number("kollect-n")?.saturating_sub(part);
        let set = format!("{first} {parts} {}", message.header("kollect-checksum"));
        if self.set != set {
            (self.set, self.parts) = (set, BTreeMap::new());
        }
        let json: Value = serde_json::from_slice(&message.value).context("a snapshot is no JSON")?;
        let envelope = serde_json::to_vec(&json["payload"])?;
        let items = item::items(&envelope)?.context("a snapshot has no items")?;
        self.parts.insert(part, items.into_iter().map(Item::read).collect::<Result<_>>()?);
        if self.parts.len() as u64 == parts {
            let parts = std::mem::take(&mut self.parts);
            self.rows = parts.into_values().flatten().map(|item| (item.key, item.said)).collect();
        }
        Ok(())
    }

    fn digest(&self) -> String {
        let mut digest = Digest::default();
        self.rows.values().for_each(|said| digest.add(said.hash));
        digest.to_string()
    }
}

/// Leaves out what came too late in its partition, and puts the rest in the order in which it was sent.
fn in_order(messages: Vec<Message>) -> Result<Vec<Message>> {
    let mut writers: Vec<String> = Vec::new();
    let mut newest: HashMap<i32, Place> = HashMap::new();
    let mut placed: Vec<(Place, Message)> = Vec::new();
    for message in messages {
        let process = message.text("kollect-writer").split('/').next().unwrap_or_default().to_owned();
        let known = match writers.iter().position(|writer| *writer == process) {
            // Who leaves an inventory to nobody is the one who had it.
            None if process.is_empty() => writers.len().checked_sub(1),
            known => known,
        };
        let rank = known.unwrap_or(writers.len());
        if known.is_none() {
            writers.push(process);
        }
        let place = (rank, message.number("kollect-epoch")?, message.number("kollect-n")?);
        let late = newest.get(&message.partition).is_some_and(|newest| place.0 == newest.0 && place <= *newest);
        if !late {
            newest.insert(message.partition, place);
            placed.push((place, message));
        }
    }
    placed.sort_by_key(|(place, _)| *place);
    Ok(placed.into_iter().map(|(_, message)| message).collect())
}

#[cfg(test)]
mod tests;
