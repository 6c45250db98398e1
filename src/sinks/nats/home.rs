//! One stream and the subjects of ours in it, as all sinks see them that have one login: what it holds, by its headers.
//!
//! [`Home::catch_up`] reads what has come since the last look; everything, when messages were taken out of the stream.
//! Deliveries go side by side and none while that is read, so that what is known is never older than what was sent.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, RwLock};

use super::client::Client;
use super::config::Creation;
use super::error::NatsError;
use super::jetstream::{self, Place, Stored, StreamInfo};
use super::link::Link;
use crate::export::Scope;
use crate::export::event::{Fold, Holdings, Life, Limit, Sequence, Stream, Verdict};
use crate::model::Digest;
use crate::validate::Subject;

/// What a message needs beside what [`Message::size`](crate::export::event::Message::size) counts: the id, and what the
/// protocol puts around headers.
const FRAME_BYTES: u64 = 160;
/// Acknowledged messages behind a gap that are remembered.
const MAX_AHEAD: usize = 65_536;

/// A stream of one login.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) link: Arc<Link>,
    pub(super) place: Place,
    pub(super) subject: Subject,
    pub(super) creation: Creation,
    counters: Arc<Counters>,
    known: Arc<Mutex<Known>>,
    /// Held for reading by deliveries, for writing by those who look what is there.
    gate: RwLock<()>,
    turns: Mutex<HashMap<Stream, Weak<tokio::sync::Mutex<()>>>>,
}

/// What this process has used up at one destination, whatever login it has there.
#[derive(Debug, Default)]
pub(super) struct Counters {
    epoch: OnceCell<u64>,
    next: Mutex<HashMap<Stream, u64>>,
}

/// What is known of a stream.
#[derive(Debug, Default)]
struct Known {
    fold: Fold<()>,
    /// Everything up to here is in the fold.
    position: u64,
    /// Acknowledged, and in the fold, behind a gap.
    ahead: BTreeSet<u64>,
    shape: Option<Shape>,
    limit: Option<u64>,
    /// Nothing failed since the last look.
    fresh: bool,
    /// What each inventory was left with.
    settled: HashMap<Stream, (Digest, Sequence)>,
}

/// Which stream it is, and what was taken out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shape {
    created: String,
    first_seq: u64,
    num_deleted: u64,
}

/// The right to send for one inventory.
pub(super) struct Turn<'a> {
    _gate: tokio::sync::RwLockReadGuard<'a, ()>,
    _turn: tokio::sync::OwnedMutexGuard<()>,
}

impl Home {
    pub(super) fn new(
        link: Arc<Link>,
        place: Place,
        subject: Subject,
        creation: Creation,
        counters: Arc<Counters>,
    ) -> Self {
        let (known, gate, turns) = (Arc::default(), RwLock::new(()), Mutex::default());
        Self { link, place, subject, creation, counters, known, gate, turns }
    }

    /// Brings what is known up to what the stream has. A stream that is missing is made where that is allowed.
    pub(super) async fn catch_up(&self, client: &Client, creation: Creation) -> Result<(), NatsError> {
        let _gate = self.gate.write().await;
        let info = jetstream::ensure(client, &self.place, creation).await?;
        let (shape, last_seq) = (Shape::of(&info), info.state.last_seq);
        let from = {
            let mut known = self.known.lock();
            known.limit = info.max_message_bytes();
            let same = known.shape.as_ref() == Some(&shape) && known.position <= last_seq;
            if same && known.position == last_seq {
                known.fresh = true;
                return Ok(());
            }
            same.then_some(known.position + 1)
        };
        if let Some(from) = from {
            let known = Arc::clone(&self.known);
            jetstream::headers(client, &self.place, from, |stored| {
                let seq = stored.seq;
                let mut known = known.lock();
                take(&mut known.fold, stored);
                known.position = seq;
            })
            .await?;
        } else {
            // What was settled stays: a stream that lost something is to be seen.
            let mut fold = Fold::default();
            jetstream::headers(client, &self.place, 1, |stored| take(&mut fold, stored)).await?;
            self.known.lock().fold = fold;
        }
        let mut known = self.known.lock();
        known.position = last_seq.max(if from.is_some() { known.position } else { 0 });
        known.ahead.clear();
        (known.shape, known.fresh) = (Some(shape), true);
        Ok(())
    }

    /// Catches up unless nothing failed since the last look.
    pub(super) async fn refresh(&self, client: &Client) -> Result<(), NatsError> {
        if self.known.lock().fresh { Ok(()) } else { self.catch_up(client, self.creation).await }
    }

    /// Says that what was sent may be there or not.
    pub(super) fn doubt(&self) {
        self.known.lock().fresh = false;
    }

    /// Waits for the right to send for an inventory.
    pub(super) async fn turn(&self, stream: &Stream) -> Turn<'_> {
        let turn = {
            let mut turns = self.turns.lock();
            let there = turns.get(stream).and_then(Weak::upgrade);
            there.unwrap_or_else(|| {
                turns.retain(|_, turn| turn.strong_count() > 0);
                let first = Arc::new(tokio::sync::Mutex::new(()));
                turns.insert(stream.clone(), Arc::downgrade(&first));
                first
            })
        };
        let turn = turn.lock_owned().await;
        Turn { _gate: self.gate.read().await, _turn: turn }
    }

    /// Returns the epoch of this process here.
    pub(super) async fn epoch(&self, life: &Life) -> u64 {
        let highest = || self.known.lock().fold.highest_epoch(&life.process);
        *self.counters.epoch.get_or_init(|| async { life.epoch(highest()) }).await
    }

    /// Reserves so many numbers for an inventory.
    pub(super) fn reserve(&self, stream: &Stream, epoch: u64, count: usize) -> Sequence {
        let seen = self.with(stream, Holdings::sequence);
        let seen = if seen.epoch == epoch { seen.n } else { 0 };
        let mut counters = self.counters.next.lock();
        let next = counters.entry(stream.clone()).or_insert(1);
        let n = (*next).max(seen + 1);
        *next = n + count as u64;
        Sequence { epoch, n }
    }

    /// Asks what an inventory holds; one that is not there holds nothing.
    pub(super) fn with<T>(&self, stream: &Stream, ask: impl FnOnce(&Holdings<()>) -> T) -> T {
        let known = self.known.lock();
        match known.fold.get(stream) {
            Some(held) => ask(held),
            None => ask(&Holdings::default()),
        }
    }

    /// Asks off the async threads, for what goes over all rows.
    pub(super) async fn with_rows<T: Send + 'static>(
        &self,
        stream: Stream,
        ask: impl FnOnce(&Holdings<()>) -> T + Send + 'static,
    ) -> T {
        let known = Arc::clone(&self.known);
        let asked = tokio::task::spawn_blocking(move || {
            let known = known.lock();
            match known.fold.get(&stream) {
                Some(held) => ask(held),
                None => ask(&Holdings::default()),
            }
        });
        asked.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// Notes messages that the stream has acknowledged.
    pub(super) fn commit(&self, stream: &Stream, sequences: &[u64], note: impl FnOnce(&mut Fold<()>)) {
        let mut known = self.known.lock();
        note(&mut known.fold);
        known.settle(stream);
        for &sequence in sequences {
            // As it is when nobody else writes.
            if sequence == known.position + 1 {
                known.position = sequence;
            } else {
                known.ahead.insert(sequence);
            }
        }
        while known.ahead.first() == Some(&(known.position + 1)) {
            known.ahead.pop_first();
            known.position += 1;
        }
        if known.ahead.len() > MAX_AHEAD {
            known.ahead.clear();
        }
    }

    /// Notes that an inventory is as it ought to be.
    pub(super) fn settle(&self, stream: &Stream) {
        self.known.lock().settle(stream);
    }

    /// Tells whether an inventory is as it was left.
    pub(super) fn is_settled(&self, stream: &Stream) -> bool {
        let known = self.known.lock();
        let now = known.fold.get(stream).map(|held| (held.digest(), held.sequence()));
        known.settled.get(stream).copied() == now
    }

    /// Returns the inventories that this operator has on record.
    pub(super) fn scopes(&self, life: &Life) -> Vec<Scope> {
        let known = self.known.lock();
        let ours = known.fold.iter().filter(|(_, held)| held.owner().process == life.process);
        ours.filter_map(|(Stream { cluster, inventory }, held)| {
            let inventory_uid = held.owner().inventory.clone()?;
            Some(Scope { cluster: cluster.clone(), inventory: inventory.clone(), inventory_uid })
        })
        .collect()
    }

    /// Makes sure that this life may write an inventory.
    pub(super) async fn claim(&self, life: &Life, stream: &Stream, now: Timestamp) -> Result<u64, NatsError> {
        let epoch = self.epoch(life).await;
        let (inventory, name) = (stream.inventory.to_string(), self.place.stream.clone());
        match self.with(stream, |held| held.judge(life, epoch, now)) {
            Verdict::Free => Ok(epoch),
            Verdict::Fenced(theirs) => Err(NatsError::Fenced { inventory, stream: name, theirs, ours: epoch }),
            Verdict::Theirs(owner, seen_seconds) => Err(NatsError::ClusterConflict {
                cluster: stream.cluster.to_string(),
                inventory,
                stream: name,
                writer: owner.to_string(),
                seen_seconds,
            }),
        }
    }

    /// Returns how large a message may be.
    pub(super) fn limit(&self, client: &Client) -> Limit {
        let server = match client.info.max_payload {
            0 => crate::export::event::DEFAULT_MESSAGE_BYTES,
            bytes => bytes as u64,
        };
        let (bytes, setting) = match self.known.lock().limit {
            Some(stream) if stream < server => (stream, "max_msg_size of the stream"),
            _ => (server, "max_payload of the server"),
        };
        Limit { bytes: bytes.saturating_sub(FRAME_BYTES), setting }
    }
}

impl Known {
    fn settle(&mut self, stream: &Stream) {
        match self.fold.get(stream).map(|held| (held.digest(), held.sequence())) {
            Some(now) => self.settled.insert(stream.clone(), now),
            None => self.settled.remove(stream),
        };
    }
}

impl Shape {
    fn of(info: &StreamInfo) -> Self {
        let state = info.state;
        Self { created: info.created.clone(), first_seq: state.first_seq.max(1), num_deleted: state.num_deleted }
    }
}

fn take(fold: &mut Fold<()>, stored: Stored) {
    if let Some(header) = stored.header {
        fold.take(0, header, stored.at, ());
    }
}
