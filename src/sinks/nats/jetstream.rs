//! What is asked of JetStream: the account, the stream, the headers of what it holds, and a place for a message.

use std::sync::Arc;

use async_nats::{HeaderMap, HeaderName};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::client::{Client, Crowd, Incoming, status, value};
use super::config::Creation;
use super::error::NatsError;
use super::flight::Flight;
use super::subject::covers;
use crate::export::event::{Header, HeaderError, Message};

/// Messages of one pull.
const BATCH: usize = 1000;

/// What an answer may be instead.
#[derive(Debug, Deserialize)]
struct Answer {
    error: Option<ApiError>,
}

#[derive(Debug, Deserialize)]
struct ApiError {
    #[serde(default)]
    code: u64,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl ApiError {
    fn of(self, doing: String) -> NatsError {
        let Self { code, err_code, description } = self;
        NatsError::Api { doing, code: err_code, status: code, description }
    }
}

/// A stream.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct StreamInfo {
    /// When it was made: a stream that was deleted and made again is another one.
    pub(super) created: String,
    config: StreamConfig,
    pub(super) state: StreamState,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct StreamConfig {
    #[serde(default)]
    subjects: Vec<String>,
    #[serde(default)]
    max_msg_size: i64,
}

/// How much a stream holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct StreamState {
    pub(super) messages: u64,
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
    /// Gaps between the two.
    #[serde(default)]
    pub(super) num_deleted: u64,
}

impl StreamInfo {
    /// Returns the largest message that it takes, where it says one.
    pub(super) fn max_message_bytes(&self) -> Option<u64> {
        u64::try_from(self.config.max_msg_size).ok().filter(|bytes| *bytes > 0)
    }
}

/// A stream by name, and the subjects of ours in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) stream: String,
    pub(super) filter: String,
}

/// What the stream says of a message: where it stands, or why it does not.
#[derive(Debug, Deserialize)]
struct Acknowledged {
    error: Option<ApiError>,
    #[serde(default)]
    seq: u64,
    /// The stream has taken it for one that it had. No number is used twice, so this is never so.
    #[serde(default)]
    duplicate: bool,
}

/// A consumer that was made.
#[derive(Debug, Deserialize)]
struct Consumer {
    name: String,
}

/// The headers of a stored message.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) seq: u64,
    pub(super) at: Timestamp,
    /// Nothing for a message that is not ours.
    pub(super) header: Option<Header>,
}

async fn call<T: DeserializeOwned>(
    client: &Client,
    api: &str,
    body: &Value,
    doing: impl Fn() -> String,
) -> Result<T, NatsError> {
    let payload = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let answer = client.request(&format!("$JS.API.{api}"), payload, &doing).await?;
    read(&answer, doing)
}

fn read<T: DeserializeOwned>(answer: &Incoming, doing: impl Fn() -> String) -> Result<T, NatsError> {
    if let Ok(Answer { error: Some(error) }) = serde_json::from_slice(&answer.payload) {
        return Err(error.of(doing()));
    }
    serde_json::from_slice(&answer.payload).map_err(|_| NatsError::Answer { doing: doing() })
}

/// Asks whether JetStream serves the account.
pub(super) async fn account(client: &Client) -> Result<(), NatsError> {
    let doing = || format!("ask {} about JetStream", client.server());
    call::<Value>(client, "INFO", &Value::Null, doing).await.map(drop)
}

/// Returns a stream that takes our subjects.
pub(super) async fn look(client: &Client, place: &Place) -> Result<StreamInfo, NatsError> {
    let Place { stream, filter } = place;
    let doing = || format!("look at stream \"{stream}\"");
    let info: StreamInfo =
        call(client, &format!("STREAM.INFO.{stream}"), &Value::Null, doing).await.map_err(|error| match error {
            NatsError::Api { code: 10059, .. } => {
                NatsError::NoStream { stream: stream.clone(), subject: filter.clone() }
            }
            other => other,
        })?;
    if info.config.subjects.iter().any(|pattern| covers(pattern, filter)) {
        return Ok(info);
    }
    let there: Vec<String> = info.config.subjects.iter().map(|subject| format!("\"{subject}\"")).collect();
    let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
    Err(NatsError::Uncovered { stream: stream.clone(), subject: filter.clone(), there })
}

/// Returns the stream, and makes one that is missing if that is allowed. One that is there is never changed.
pub(super) async fn ensure(client: &Client, place: &Place, creation: Creation) -> Result<StreamInfo, NatsError> {
    match look(client, place).await {
        Err(error) if error.is_no_stream() && creation == Creation::Ensure => {}
        other => return other,
    }
    let Place { stream, filter } = place;
    let doing = || format!("create stream \"{stream}\"");
    let config = json!({"name": stream, "subjects": [filter]});
    match call::<Value>(client, &format!("STREAM.CREATE.{stream}"), &config, doing).await {
        // Somebody else was faster.
        Ok(_) | Err(NatsError::Api { code: 10058, .. }) => look(client, place).await,
        Err(error) => Err(error),
    }
}

/// Reads the headers of all messages of ours from a sequence on, in order, and gives each to `take`.
pub(super) async fn headers(
    client: &Client,
    place: &Place,
    from: u64,
    mut take: impl FnMut(Stored),
) -> Result<(), NatsError> {
    let Place { stream, filter } = place;
    let doing = || format!("read the headers of stream \"{stream}\"");
    let consumer = json!({
        "stream_name": stream,
        "config": {
            "deliver_policy": "by_start_sequence", "opt_start_seq": from.max(1), "ack_policy": "none",
            "filter_subject": filter, "headers_only": true, "mem_storage": true, "num_replicas": 1,
            "inactive_threshold": 30_000_000_000_u64, "replay_policy": "instant",
        },
    });
    let Consumer { name } = call(client, &format!("CONSUMER.CREATE.{stream}"), &consumer, doing).await?;
    let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}");
    let pull = json!({"batch": BATCH, "no_wait": true}).to_string();
    let mut outcome = Ok(());
    'pulls: loop {
        let mut batch = client.ask_many(&next, pull.clone().into_bytes()).await?;
        for _ in 0..BATCH {
            let message = match client.next(&mut batch, doing).await {
                Ok(message) => message,
                Err(error) => {
                    outcome = Err(error);
                    break 'pulls;
                }
            };
            match status(&message) {
                None => {}
                Some(503) => {
                    outcome = Err(NatsError::NoResponders { doing: doing() });
                    break 'pulls;
                }
                // Nothing more is there, or what was there has been sent.
                Some(_) => break 'pulls,
            }
            let Some((seq, at, left)) = message.reply.as_deref().and_then(position) else {
                outcome = Err(NatsError::Answer { doing: doing() });
                break 'pulls;
            };
            take(Stored { seq, at, header: header(&message, seq) });
            if left == 0 {
                break 'pulls;
            }
        }
    }
    // One that is forgotten goes by itself after half a minute.
    let _ = client.ask(&format!("$JS.API.CONSUMER.DELETE.{stream}.{name}"), HeaderMap::new(), Vec::new()).await;
    outcome
}

/// Reads the headers of a message; one of somebody else is passed over.
fn header(message: &Incoming, seq: u64) -> Option<Header> {
    match Header::read(|name| value(message, name)) {
        Ok(header) => Some(header),
        Err(HeaderError::Foreign) => None,
        Err(error @ HeaderError::Broken(_)) => {
            tracing::debug!(seq, error = &error as &dyn std::error::Error, "message passed over");
            None
        }
    }
}

/// Reads sequence, time and number of messages behind it from the subject that would acknowledge a message:
/// `$JS.ACK.<stream>.<consumer>.<count>.<seq>.<consumer seq>.<time>.<pending>`, with domain and account in front of the
/// stream where there are more words.
fn position(reply: &str) -> Option<(u64, Timestamp, u64)> {
    let words: Vec<&str> = reply.split('.').collect();
    let at = if words.len() >= 11 { 7 } else { 5 };
    let number = |index: usize| words.get(index)?.parse::<u64>().ok();
    let time = Timestamp::from_nanosecond(i128::from(number(at + 2)?)).ok()?;
    Some((number(at)?, time, number(at + 3)?))
}

/// Sends a message of a flight; waits while too much is on its way.
pub(super) async fn publish(
    client: &Client,
    flight: &Arc<Flight>,
    subject: String,
    message: Message,
) -> Result<(), NatsError> {
    let mut headers = HeaderMap::new();
    headers.insert(async_nats::header::NATS_MESSAGE_ID, message.id());
    for (name, value) in message.header.fields().iter() {
        headers.insert(HeaderName::from_static(name), value);
    }
    flight.begin();
    client.send(Arc::clone(flight) as Arc<dyn Crowd>, subject, headers, message.value.unwrap_or_default()).await
}

/// Reads at which sequence a message was stored.
pub(super) fn acknowledged(answer: &Incoming, doing: impl Fn() -> String) -> Result<u64, NatsError> {
    if status(answer) == Some(503) {
        return Err(NatsError::NoResponders { doing: doing() });
    }
    match serde_json::from_slice(&answer.payload) {
        Ok(Acknowledged { error: Some(error), .. }) => Err(error.of(doing())),
        Ok(Acknowledged { error: None, seq: seq @ 1.., duplicate: false }) => Ok(seq),
        Ok(_) | Err(_) => Err(NatsError::Answer { doing: doing() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_from_either_form() {
        let at = Timestamp::from_nanosecond(1_700_000_000_000_000_000).unwrap();
        for reply in [
            "$JS.ACK.events.c1.1.42.7.1700000000000000000.3",
            "$JS.ACK._.ACC.events.c1.1.42.7.1700000000000000000.3.token",
        ] {
            assert_eq!(position(reply), Some((42, at, 3)), "{reply}");
        }
        assert_eq!(position("$JS.ACK.events"), None);
    }
}
