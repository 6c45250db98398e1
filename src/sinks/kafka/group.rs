//! Deliveries that wait for the topic at the same time go in one transaction: to end one takes the coordinator tens of
//! milliseconds, and the inventories of a topic wait for each other.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::error::KafkaError;
use super::home::{Desk, Home};
use crate::export::event::{Message, Plan, Sequence, Stream};
use crate::export::{Delta, Scope};
use crate::sinks::Receipt;

/// With so many messages nobody joins any more.
const ENOUGH: usize = 1_000;

/// Deliveries that wait, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    next: AtomicU64,
    queue: Mutex<Vec<Entry>>,
}

/// Tells a delivery from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// What comes of a delivery.
pub(super) type Answer = Result<Receipt, KafkaError>;

#[derive(Debug)]
struct Entry {
    ticket: Ticket,
    delta: Delta,
    answer: oneshot::Sender<Answer>,
}

impl Waiting {
    /// Has a delivery wait. It goes with another one, or when its own turn is [carried out](carry_out).
    pub(super) fn join(&self, delta: Delta) -> (Ticket, oneshot::Receiver<Answer>) {
        let (answer, answered) = oneshot::channel();
        let ticket = Ticket(self.next.fetch_add(1, Ordering::Relaxed));
        self.queue.lock().push(Entry { ticket, delta, answer });
        (ticket, answered)
    }

    /// Takes out a delivery, and those that wait beside it; nothing when it has gone with another one. What nobody waits for
    /// any more is forgotten: whoever gave it up decides anew.
    fn take(&self, ticket: Ticket) -> Option<(Entry, Vec<Entry>)> {
        let mut queue = self.queue.lock();
        queue.retain(|entry| !entry.answer.is_closed());
        let at = queue.iter().position(|entry| entry.ticket == ticket)?;
        let own = queue.remove(at);
        Some((own, std::mem::take(&mut *queue)))
    }

    /// Has deliveries wait on for their own turns.
    fn put_back(&self, entries: Vec<Entry>) {
        let mut queue = self.queue.lock();
        queue.extend(entries);
        queue.sort_by_key(|entry| entry.ticket);
    }
}

/// A delivery of a transaction.
struct Part {
    entry: Entry,
    plan: Arc<Plan>,
    first: Sequence,
    bytes: Cell<u64>,
}

/// Carries out the turn of a delivery: sends it, and with it what waits beside it.
pub(super) fn carry_out(home: &Home, desk: &mut Desk, ticket: Ticket) -> Result<(), KafkaError> {
    let Some((own, others)) = home.waiting.take(ticket) else { return Ok(()) };
    let own = match prepare(home, desk, &own.delta) {
        Ok(plan) => Part::new(home, own, plan),
        Err(error) => {
            home.waiting.put_back(others);
            return Err(error);
        }
    };
    let (mut messages, mut parts, mut rest) = (own.plan.len(), vec![own], Vec::new());
    for entry in others {
        let (stream, rows) = (Stream::of(&entry.delta.scope), entry.delta.upserts.len() + entry.delta.deletes.len());
        let joins = messages + rows < ENOUGH && parts.iter().all(|part| Stream::of(&part.entry.delta.scope) != stream);
        // What may not be written hears so in its own turn.
        match joins.then(|| prepare(home, desk, &entry.delta)) {
            Some(Ok(plan)) => {
                messages += plan.len();
                parts.push(Part::new(home, entry, plan));
            }
            _ => rest.push(entry),
        }
    }
    let sent = send(home, desk, &parts);
    if sent.is_err() {
        // Each of the others tries again in its own turn.
        rest.extend(parts.drain(..).skip(1).map(|part| part.entry));
    }
    home.waiting.put_back(rest);
    for Part { entry, plan, first, bytes } in parts {
        let answer = settle(home, desk, &entry.delta.scope, (&plan, first, bytes.get()));
        let _ = entry.answer.send(answer); // whoever gave up meanwhile looks anew
    }
    sent
}

impl Part {
    fn new(home: &Home, entry: Entry, plan: Arc<Plan>) -> Self {
        Self { entry, first: home.advance(plan.len()), plan, bytes: Cell::new(0) }
    }

    fn messages(&self) -> impl Iterator<Item = Message> {
        let count = |message: &Message| self.bytes.set(self.bytes.get() + message.value().len() as u64);
        self.plan.messages(self.first).inspect(count)
    }
}

fn prepare(home: &Home, desk: &mut Desk, delta: &Delta) -> Result<Arc<Plan>, KafkaError> {
    let limit = desk.limit();
    let held = home.claim(desk, &delta.scope)?;
    Ok(Arc::new(Plan::deliver(delta, held, home.owner(&delta.scope), limit)))
}

fn send(home: &Home, desk: &mut Desk, parts: &[Part]) -> Result<(), KafkaError> {
    if parts.iter().all(|part| part.plan.is_empty()) {
        return Ok(());
    }
    home.send(desk, parts.iter().flat_map(Part::messages)).map(drop)
}

/// Notes a plan of which all messages were sent, the first one at its place, with so many bytes.
pub(super) fn settle(
    home: &Home,
    desk: &mut Desk,
    scope: &Scope,
    (plan, first, bytes): (&Plan, Sequence, u64),
) -> Answer {
    if !plan.is_empty() {
        plan.commit(home.claim(desk, scope)?, first, (home.clock)());
        desk.ledger.note(first.n, plan.len());
    }
    let refused = plan.refused.iter().cloned().map(Into::into).collect();
    Ok(Receipt { written: plan.written, deleted: plan.deleted, bytes, refused, ..Receipt::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::Base;
    use crate::sinks::contract::{delta, scope};

    fn empty(name: &str) -> Delta {
        delta(&scope("west", "team-a", name), Base::Filled, Vec::new(), Vec::new(), 0, 1)
    }

    #[test]
    fn a_turn_takes_all_that_wait_and_leaves_nothing_for_theirs() {
        let waiting = Waiting::default();
        let [first, second, third] = ["a", "b", "c"].map(|name| waiting.join(empty(name)));
        drop(third);
        let (own, others) = waiting.take(second.0).unwrap();
        assert_eq!(own.ticket, second.0);
        assert_eq!(others.iter().map(|entry| entry.ticket).collect::<Vec<_>>(), [first.0], "and none given up");
        assert!(waiting.take(first.0).is_none());
        waiting.put_back(others);
        assert!(waiting.take(first.0).is_some_and(|(own, others)| own.ticket == first.0 && others.is_empty()));
    }
}
