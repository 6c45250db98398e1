//! Messages on their way together: each is acknowledged or refused, and nothing is kept of it but where it stands.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::client::{Crowd, Incoming};
use super::error::NatsError;
use super::jetstream::acknowledged;

/// While so long no message is acknowledged, the stream is taken for silent.
const ACK: Duration = Duration::from_secs(30);

/// Messages to one stream.
#[derive(Debug)]
pub(super) struct Flight {
    stream: String,
    state: Mutex<State>,
    /// All that were begun are answered, or the connection ended.
    over: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// On their way.
    open: usize,
    /// Where the others stand.
    sequences: Vec<u64>,
    /// The first that was not stored.
    failure: Option<NatsError>,
    /// The connection ended.
    bereft: bool,
}

impl Flight {
    pub(super) fn new(stream: &str, messages: usize) -> Self {
        let state = State { sequences: Vec::with_capacity(messages), ..State::default() };
        Self { stream: stream.to_owned(), state: Mutex::new(state), over: Notify::new() }
    }

    /// Counts a message that is about to be sent.
    pub(super) fn begin(&self) {
        self.state.lock().open += 1;
    }

    /// Waits for the answers to all messages and returns where they stand. A message that is not stored is a failure, once
    /// the others are answered as well; `closed` says why the connection ended.
    pub(super) async fn end(&self, closed: impl Fn() -> NatsError) -> Result<Vec<u64>, NatsError> {
        loop {
            let open = {
                let mut state = self.state.lock();
                if state.open == 0 || state.bereft {
                    return match state.failure.take() {
                        Some(failure) => Err(failure),
                        None if state.bereft => Err(closed()),
                        None => Ok(std::mem::take(&mut state.sequences)),
                    };
                }
                state.open
            };
            if timeout(ACK, self.over.notified()).await.is_err() && self.state.lock().open == open {
                return Err(NatsError::Timeout { doing: self.doing(), after: ACK });
            }
        }
    }

    fn doing(&self) -> String {
        format!("send to stream \"{}\"", self.stream)
    }
}

impl Crowd for Flight {
    fn answered(&self, answer: &Incoming) {
        let stored = acknowledged(answer, || self.doing());
        let mut state = self.state.lock();
        state.open = state.open.saturating_sub(1);
        match stored {
            Ok(sequence) => state.sequences.push(sequence),
            Err(error) if state.failure.is_none() => state.failure = Some(error),
            Err(_) => {}
        }
        if state.open == 0 {
            self.over.notify_one();
        }
    }

    fn bereft(&self) {
        self.state.lock().bereft = true;
        self.over.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(payload: &'static str) -> Incoming {
        let (subject, payload) = ("inbox".into(), payload.as_bytes().into());
        Incoming { subject, payload, reply: None, headers: None, status: None, description: None, length: 0 }
    }

    fn flight(messages: usize) -> Flight {
        let flight = Flight::new("s", messages);
        (0..messages).for_each(|_| flight.begin());
        flight
    }

    fn closed() -> NatsError {
        NatsError::Closed { server: "n:4222".to_owned() }
    }

    #[tokio::test]
    async fn it_ends_when_all_are_answered_with_where_they_stand() {
        let flight = flight(2);
        flight.answered(&answer(r#"{"stream":"s","seq":7}"#));
        let (ended, ()) = tokio::join!(flight.end(closed), async {
            flight.answered(&answer(r#"{"stream":"s","seq":8}"#));
        });
        assert_eq!(ended.unwrap(), [7, 8]);
    }

    #[tokio::test]
    async fn what_is_not_stored_is_a_failure() {
        let full =
            r#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"s","seq":0}"#;
        for (refused, part) in [
            (full, "the stream is full"),
            (r#"{"stream":"s","seq":7,"duplicate":true}"#, "cannot be understood"),
            ("?", "cannot be understood"),
        ] {
            let flight = flight(2);
            flight.answered(&answer(refused));
            flight.answered(&answer(r#"{"stream":"s","seq":8}"#));
            let error = flight.end(closed).await.unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_ends_or_a_silent_stream_is_a_failure() {
        let lost = flight(2);
        lost.answered(&answer(r#"{"stream":"s","seq":7}"#));
        lost.bereft();
        assert!(matches!(lost.end(closed).await, Err(NatsError::Closed { .. })));
        let silent = flight(1);
        assert!(matches!(silent.end(closed).await, Err(NatsError::Timeout { after: ACK, .. })));
    }
}
