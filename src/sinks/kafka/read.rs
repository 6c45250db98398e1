//! Reading a topic back to its present end, and what it adds up to.
//!
//! Transactions that were not committed are not read. A value is hashed again instead of believing its header, so that
//! what somebody wrote by hand shows.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError as Cause, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use super::client::Reader;
use super::error::KafkaError;
use super::topic::REACH;
use crate::canonical;
use crate::export::event::{Fold, Header, Sequence, Taken};
use crate::model::Cluster;

/// The longest that the end of a topic is read towards.
const READ: Duration = Duration::from_mins(10);

/// The longest that a commit takes to show.
const MARKED: Duration = Duration::from_secs(10);

/// The longest that the end of a topic is waited for that nobody may see yet, to know the topic by it.
const SHOWN: Duration = Duration::from_millis(50);

/// The longest silence on the way.
const SILENCE: Duration = Duration::from_secs(20);

/// What has been read.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) fold: Fold<()>,
    /// What to read next of each partition.
    next: BTreeMap<i32, i64>,
    /// The first message that each partition had when it was read from its beginning.
    first: BTreeMap<i32, i64>,
    /// The partition that was the longest one when all were looked at, and its end at the last look.
    mark: Option<(i32, i64)>,
    /// Messages that somebody wrote by hand.
    strangers: u64,
    /// Numbers of what this process sent in this life and noted at once. They are not taken a second time: the broker may show
    /// some partitions of a transaction before others, and an older state of a row must not come back.
    noted: Vec<RangeInclusive<u64>>,
    /// The highest number of this life that was sent, and that was seen.
    sent: u64,
    seen: u64,
}

/// What has become of a topic since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    GoesOn,
    /// Messages are gone that were there when it was read.
    LostItsBeginning,
    /// It is shorter than it was: another one, or one that lost its end.
    BeganAnew,
}

/// What is read, and when to stop.
pub(super) struct Pass<'a> {
    pub(super) reader: &'a Reader,
    pub(super) topic: &'a str,
    pub(super) partitions: &'a [i32],
    /// Other clusters' messages are passed over, unless they come from this process.
    pub(super) cluster: &'a Cluster,
    pub(super) process: &'a str,
    /// The life of this process.
    pub(super) epoch: Option<u64>,
    pub(super) stop: &'a CancellationToken,
}

impl Ledger {
    /// Forgets everything, so that the topic is read from its beginning.
    pub(super) fn forget(&mut self) {
        *self = Self { sent: self.sent, ..Self::default() };
    }

    /// Notes that so many messages were committed, and are in the fold already.
    pub(super) fn note(&mut self, first: u64, messages: usize) {
        let last = (first + messages as u64).saturating_sub(1);
        self.sent = self.sent.max(last);
        match self.noted.last_mut() {
            Some(range) if range.end() + 1 == first => *range = *range.start()..=last,
            _ => self.noted.push(first..=last),
        }
    }

    /// Reads what has come since the last time; from the beginning where messages are gone that were there.
    pub(super) fn catch_up(&mut self, pass: &Pass<'_>) -> Result<(), KafkaError> {
        self.advance(pass)?;
        // What was committed shows when the coordinator has told all partitions, which it does afterwards. Who has it noted
        // need not wait; nobody waits for ever, for compaction may have taken the last message.
        let until = Instant::now() + MARKED;
        while self.noted.is_empty() && self.seen < self.sent && Instant::now() < until && !pass.stop.is_cancelled() {
            std::thread::sleep(Duration::from_millis(20));
            self.advance(pass)?;
        }
        Ok(())
    }

    /// Tells whether the topic goes on where it was at the last look: one that was made anew begins again.
    pub(super) fn continues(&mut self, reader: &Reader, topic: &str, partitions: &[i32]) -> Result<bool, KafkaError> {
        if let Some((partition, before @ 1..)) = self.mark {
            let (_, high) = ends_of(reader, topic, partition)?;
            self.mark = Some((partition, high));
            return Ok(high >= before);
        }
        // Nothing was there, and it takes a moment until a commit shows.
        let until = Instant::now() + SHOWN;
        while Instant::now() < until {
            for &partition in partitions {
                let (_, high) = ends_of(reader, topic, partition)?;
                if high > 0 {
                    self.mark = Some((partition, high));
                    return Ok(true);
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(true)
    }

    fn course(&self, ends: &BTreeMap<i32, (i64, i64)>) -> Course {
        // What was sent from here counts at the mark alone, for nobody has read it.
        let mut reached = self.next.iter().map(|(&partition, &next)| (partition, next)).chain(self.mark);
        let shrank = |(partition, before)| ends.get(&partition).is_none_or(|(_, high)| *high < before);
        if reached.any(shrank) {
            return Course::BeganAnew;
        }
        let lost = |(partition, first): (&i32, &i64)| ends.get(partition).is_some_and(|(low, _)| low > first);
        if self.first.iter().any(lost) { Course::LostItsBeginning } else { Course::GoesOn }
    }

    fn advance(&mut self, pass: &Pass<'_>) -> Result<(), KafkaError> {
        let mut ends = BTreeMap::new();
        for &partition in pass.partitions {
            ends.insert(partition, ends_of(pass.reader, pass.topic, partition)?);
        }
        match self.course(&ends) {
            Course::GoesOn => {}
            Course::LostItsBeginning => self.forget(),
            // Nor is there anything to come of what was sent.
            Course::BeganAnew => *self = Self::default(),
        }
        self.mark = ends.iter().map(|(&partition, &(_, high))| (partition, high)).max_by_key(|(_, high)| *high);
        let mut list = TopicPartitionList::new();
        let mut wanted = BTreeSet::new();
        for (partition, (low, high)) in ends {
            self.first.entry(partition).or_insert(low);
            let next = *self.next.entry(partition).or_insert(low);
            if next < high {
                let added = list.add_partition_offset(pass.topic, partition, Offset::Offset(next));
                added.map_err(|cause| KafkaError::cause(looking(pass.topic), cause))?;
                wanted.insert(partition);
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        pass.reader.assign(&list).map_err(|cause| KafkaError::cause(looking(pass.topic), cause))?;
        let outcome = self.read(pass, wanted);
        let _ = pass.reader.unassign(); // it fails with the client, whose next use says why
        outcome
    }

    fn read(&mut self, pass: &Pass<'_>, mut wanted: BTreeSet<i32>) -> Result<(), KafkaError> {
        let doing = || format!("read topic \"{}\" back", pass.topic);
        let (until, mut heard) = (Instant::now() + READ, Instant::now());
        while !wanted.is_empty() {
            if pass.stop.is_cancelled() {
                return Err(KafkaError::Stopping);
            }
            if heard.elapsed() > SILENCE || Instant::now() > until {
                let hint = "check that the brokers run";
                return Err(KafkaError::Timeout { doing: doing(), after: SILENCE, hint });
            }
            match pass.reader.poll(Duration::from_millis(200)) {
                None => continue,
                Some(Ok(message)) => self.take(pass, &message),
                Some(Err(Cause::PartitionEOF(partition))) => {
                    wanted.remove(&partition);
                    self.note_end(pass, partition);
                }
                Some(Err(cause)) => match cause.rdkafka_error_code() {
                    Some(
                        code @ (Code::TopicAuthorizationFailed | Code::UnknownTopicOrPartition | Code::AutoOffsetReset),
                    ) => {
                        return Err(KafkaError::Broker { doing: doing(), code, detail: String::new() });
                    }
                    // Brokers that are lost are looked for again; the group is of no use here.
                    _ => continue,
                },
            }
            heard = Instant::now();
        }
        Ok(())
    }

    /// Notes how far a partition is read: behind its last message there may be marks of transactions.
    fn note_end(&mut self, pass: &Pass<'_>, partition: i32) {
        let place =
            pass.reader.position().ok().and_then(|list| match list.find_partition(pass.topic, partition)?.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            });
        if let (Some(place), Some(next)) = (place, self.next.get_mut(&partition)) {
            *next = place.max(*next);
        }
    }

    /// Returns a place for a message that has none of its own.
    fn strange(&mut self) -> Sequence {
        self.strangers += 1;
        Sequence { epoch: 0, n: self.strangers }
    }

    fn take(&mut self, pass: &Pass<'_>, message: &BorrowedMessage<'_>) {
        self.next.insert(message.partition(), message.offset() + 1);
        let Some(header) = header(message) else { return };
        if header.stream.cluster != *pass.cluster && header.owner.process != pass.process {
            return;
        }
        if pass.epoch == Some(header.sequence.epoch) && header.owner.process == pass.process {
            self.seen = self.seen.max(header.sequence.n);
            if self.noted.iter().any(|range| range.contains(&header.sequence.n)) {
                return;
            }
        }
        let millis = message.timestamp().to_millis().unwrap_or_default();
        let at = Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH);
        let again = header.clone();
        if self.fold.take(message.partition(), header, at, ()) == Taken::Late {
            // A topic has no late messages, so somebody wrote this one by hand. Whoever looks at keys alone takes it for the
            // row, so it counts here as well, under a partition that does not exist; the digest then tells that it is wrong.
            let sequence = self.strange();
            self.fold.take(-2 - message.partition(), Header { sequence, ..again }, at, ());
        }
    }
}

fn looking(topic: &str) -> String {
    format!("look at the ends of topic \"{topic}\"")
}

/// Returns where a partition begins and ends.
fn ends_of(reader: &Reader, topic: &str, partition: i32) -> Result<(i64, i64), KafkaError> {
    reader.fetch_watermarks(topic, partition, REACH).map_err(|cause| KafkaError::cause(looking(topic), cause))
}

/// Reads the headers of a message, with the hash of its real value.
fn header(message: &BorrowedMessage<'_>) -> Option<Header> {
    let headers = message.headers()?;
    let texts: Vec<(&str, &str)> =
        headers.iter().filter_map(|header| Some((header.key, std::str::from_utf8(header.value?).ok()?))).collect();
    let mut header = Header::read(|name| texts.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)).ok()?;
    if let Some(there) = header.item.as_mut().and_then(|item| item.there.as_mut()) {
        there.hash = canonical::text_hash(message.payload().unwrap_or_default());
    }
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_is_shorter_than_it_was_is_another_one() {
        let ledger = Ledger {
            next: [(0, 3), (1, 0)].into(),
            first: [(0, 1), (1, 0)].into(),
            mark: Some((1, 7)),
            ..Ledger::default()
        };
        for (ends, course) in [
            ([(0, (1, 3)), (1, (0, 7))].into(), Course::GoesOn),
            ([(0, (1, 9)), (1, (0, 9)), (2, (0, 9))].into(), Course::GoesOn),
            ([(0, (2, 9)), (1, (0, 9))].into(), Course::LostItsBeginning),
            ([(0, (0, 2)), (1, (0, 7))].into(), Course::BeganAnew),
            ([(0, (0, 9)), (1, (0, 6))].into(), Course::BeganAnew),
            ([(0, (1, 9))].into(), Course::BeganAnew),
        ] {
            assert_eq!(ledger.course(&ends), course, "{ends:?}");
        }
        assert_eq!(Ledger::default().course(&[(0, (5, 9))].into()), Course::GoesOn);
    }
}
