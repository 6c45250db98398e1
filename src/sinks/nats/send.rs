//! From a plan to acknowledged messages: in order, many at once, and nothing left half known.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::Clock;
use super::client::Client;
use super::error::NatsError;
use super::flight::Flight;
use super::home::Home;
use super::jetstream;
use super::subject::subject_of;
use crate::export::event::{Life, Message, Plan, Rendered, Stream, render};
use crate::export::{Delta, Document, Scope, Standing};
use crate::sinks::mandate::Mandate;
use crate::sinks::{Leave, Receipt, Refused};

/// So many messages go out before the mandate is asked again.
const BURST: usize = 256;
/// A message that finds no room for so long is not sent.
const ROOM: Duration = Duration::from_secs(30);

/// Sends for one sink.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) home: Arc<Home>,
    pub(super) life: Life,
    pub(super) mandate: Mandate,
    pub(super) clock: Clock,
}

/// What was acknowledged.
#[derive(Debug, Default)]
struct Sent {
    /// Where in the stream.
    sequences: Vec<u64>,
    bytes: u64,
}

impl Desk {
    /// Brings the stream to a delta.
    pub(super) async fn deliver(&self, delta: Delta) -> Result<Receipt, NatsError> {
        let stream = Stream::of(&delta.scope);
        let client = self.ready().await?;
        let _turn = self.home.turn(&stream).await;
        self.home.claim(&self.life, &stream, (self.clock)()).await?;
        let (owner, limit) = (self.life.owner(&delta.scope), self.home.limit(&client));
        let plan = self.home.with_rows(stream.clone(), move |held| Plan::deliver(&delta, held, owner, limit)).await;
        self.run(&client, &stream, plan).await
    }

    /// Says that an inventory is watched.
    pub(super) async fn alive(&self, scope: &Scope) -> Result<(), NatsError> {
        let stream = Stream::of(scope);
        let client = self.ready().await?;
        let _turn = self.home.turn(&stream).await;
        self.home.claim(&self.life, &stream, (self.clock)()).await?;
        let plan = self.home.with(&stream, |held| Plan::alive(scope, held, self.life.owner(scope)));
        self.run(&client, &stream, plan).await.map(drop)
    }

    /// Ends an inventory that is ours.
    pub(super) async fn leave(&self, scope: Arc<Scope>, leave: Leave) -> Result<Receipt, NatsError> {
        let stream = Stream::of(&scope);
        let client = self.home.link.client().await?;
        match self.home.catch_up(&client, super::Creation::Existing).await {
            Err(error) if error.is_no_stream() => return Ok(Receipt::default()),
            other => other?,
        }
        let _turn = self.home.turn(&stream).await;
        let owner = self.life.owner(&scope);
        let (ours, parts) =
            self.home.with(&stream, |held| (*held.owner() == owner, held.snapshot().map(|set| set.rows)));
        if !ours {
            return Ok(Receipt::default());
        }
        self.home.claim(&self.life, &stream, (self.clock)()).await?;
        let (asked, mine) = (Arc::clone(&scope), owner.clone());
        let plan = self.home.with_rows(stream.clone(), move |held| match leave {
            Leave::Delete => Plan::delete_all(&asked, held, mine),
            Leave::Orphan => Plan::release(&asked, held),
        });
        let plan = plan.await;
        if leave == Leave::Orphan {
            return self.run(&client, &stream, plan).await.map(|_| Receipt::default());
        }
        let Some(rows) = parts.filter(|_| plan.deleted == 0) else {
            return self.run(&client, &stream, plan).await;
        };
        let exported_at = (self.clock)();
        let max_part_bytes = u64::MAX;
        let empty =
            Document { scope, rows: Arc::default(), standing: Standing::default(), max_part_bytes, exported_at };
        let farewell = Rendered::farewell(&empty, owner, self.home.limit(&client));
        let sent = self.parts(&client, &stream, farewell).await?;
        Ok(Receipt { deleted: rows, bytes: sent.bytes, ..Receipt::default() })
    }

    /// Tells whether a document is there as it would be sent.
    pub(super) async fn has(&self, document: &Document) -> Result<bool, NatsError> {
        let client = self.home.link.client().await?;
        self.home.catch_up(&client, self.home.creation).await?;
        let rendered = self.render(document.clone(), &client).await;
        Ok(self.is_there(document, &rendered))
    }

    /// Brings the stream to a document.
    pub(super) async fn publish(&self, document: Document) -> Result<Receipt, NatsError> {
        let stream = Stream::of(&document.scope);
        let client = self.home.link.client().await?;
        self.home.catch_up(&client, self.home.creation).await?;
        let _turn = self.home.turn(&stream).await;
        self.home.claim(&self.life, &stream, (self.clock)()).await?;
        let rendered = self.render(document.clone(), &client).await;
        let refused: Vec<Refused> = rendered.refused.iter().cloned().map(Refused::from).collect();
        let checksum = Some(rendered.checksum.to_string());
        if self.is_there(&document, &rendered) {
            self.home.settle(&stream);
            return Ok(Receipt { refused, checksum, ..Receipt::default() });
        }
        let (rows, before) = (rendered.rows(), self.home.with(&stream, |held| held.snapshot().map(|set| set.rows)));
        self.end_changes(&client, &document.scope, &stream).await?;
        let sent = self.parts(&client, &stream, rendered).await?;
        let deleted = before.filter(|_| rows == 0).unwrap_or_default();
        Ok(Receipt { written: rows, deleted, bytes: sent.bytes, refused, checksum })
    }

    /// Takes back the rows that an earlier mode has sent one by one.
    async fn end_changes(&self, client: &Arc<Client>, scope: &Scope, stream: &Stream) -> Result<(), NatsError> {
        let owner = self.life.owner(scope);
        let plan =
            self.home.with(stream, |held| (!held.rows().is_empty()).then(|| Plan::delete_all(scope, held, owner)));
        match plan {
            Some(plan) => self.run(client, stream, plan).await.map(drop),
            None => Ok(()),
        }
    }

    async fn render(&self, document: Document, client: &Client) -> Rendered {
        let (owner, limit) = (self.life.owner(&document.scope), self.home.limit(client));
        let rendered = tokio::task::spawn_blocking(move || render(&document, owner, limit)).await;
        rendered.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// An inventory that never had a row is there without a message.
    fn is_there(&self, document: &Document, rendered: &Rendered) -> bool {
        let owner = self.life.owner(&document.scope);
        self.home.with(&Stream::of(&document.scope), |held| match held.snapshot() {
            None => rendered.rows() == 0 && held.is_empty(),
            Some(set) => {
                let same = set.checksum == rendered.checksum.to_string() && set.rows == rendered.rows();
                same && *held.owner() == owner && held.is_closed() && held.rows().is_empty()
            }
        })
    }

    /// Returns a connection, and knows what the stream holds.
    async fn ready(&self) -> Result<Arc<Client>, NatsError> {
        let client = self.home.link.client().await?;
        self.home.refresh(&client).await?;
        Ok(client)
    }

    /// Sends a plan and notes it.
    async fn run(&self, client: &Arc<Client>, stream: &Stream, mut plan: Plan) -> Result<Receipt, NatsError> {
        let refused = std::mem::take(&mut plan.refused).into_iter().map(Refused::from).collect();
        let (written, deleted, count) = (plan.written, plan.deleted, plan.len());
        if plan.is_empty() {
            self.home.settle(stream);
            return Ok(Receipt { refused, ..Receipt::default() });
        }
        let epoch = self.home.epoch(&self.life).await;
        let first = self.home.reserve(stream, epoch, count);
        let plan = Arc::new(plan);
        let sent = self.send(client, plan.messages(first)).await?;
        let now = (self.clock)();
        self.home.commit(stream, &sent.sequences, |fold| plan.commit(fold.entry(stream), first, now));
        Ok(Receipt { written, deleted, bytes: sent.bytes, refused, checksum: None })
    }

    /// Sends a snapshot and notes it.
    async fn parts(&self, client: &Arc<Client>, stream: &Stream, rendered: Rendered) -> Result<Sent, NatsError> {
        let epoch = self.home.epoch(&self.life).await;
        let first = self.home.reserve(stream, epoch, rendered.len());
        let (now, rendered) = ((self.clock)(), Arc::new(rendered));
        let mut headers = Vec::with_capacity(rendered.len());
        let messages = (0..rendered.len()).map_while(|index| rendered.message(index, first, now));
        let noted = messages.inspect(|message| headers.push(message.header.clone()));
        let sent = self.send(client, noted).await?;
        self.home.commit(stream, &sent.sequences, |fold| {
            for header in headers {
                fold.take(0, header, now, ());
            }
        });
        Ok(sent)
    }

    /// Sends messages in order and awaits that all of them are stored. After a failure nobody knows which are, and what is
    /// known of the stream is read anew before the next one.
    async fn send(
        &self,
        client: &Arc<Client>,
        messages: impl Iterator<Item = Message> + Send,
    ) -> Result<Sent, NatsError> {
        let outcome = match self.try_send(client, messages).await {
            Ok(sent) if !self.home.continues(&sent.sequences) => {
                Err(NatsError::BeganAnew { stream: self.home.place.stream.clone() })
            }
            other => other,
        };
        if let Err(error) = &outcome {
            self.home.doubt();
            // The stream has answered each message, and nothing is on its way any more.
            if !matches!(error, NatsError::Api { .. } | NatsError::BeganAnew { .. }) {
                self.home.link.give_up(client).await;
            }
        }
        outcome
    }

    async fn try_send(
        &self,
        client: &Arc<Client>,
        messages: impl Iterator<Item = Message> + Send,
    ) -> Result<Sent, NatsError> {
        let name = &self.home.place.stream;
        let (mut bytes, flight) = (0, Arc::new(Flight::new(name, messages.size_hint().0)));
        for (index, message) in messages.enumerate() {
            if index % BURST == 0 {
                let deposed = |source| NatsError::Deposed { stream: name.clone(), source };
                self.mandate.check().map_err(deposed)?;
            }
            let subject = subject_of(&self.home.subject, &message.header);
            let doing = || format!("send to stream \"{name}\", which acknowledges nothing");
            bytes += message.value().len() as u64;
            let sent = timeout(ROOM, jetstream::publish(client, &flight, subject, message)).await;
            sent.map_err(|_| NatsError::Timeout { doing: doing(), after: ROOM })??;
        }
        let sequences = flight.end(|| client.closed()).await?;
        Ok(Sent { sequences, bytes })
    }
}
