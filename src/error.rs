//! What every failure has to say for itself.
//!
//! An error that can reach the scheduler answers one question, [`Classify::class`]; the scheduler decides by the class
//! alone. The class is set where the cause is known, by an exhaustive `match`, never by reading a message.

use std::error::Error;
use std::fmt;

/// What the scheduler does after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Tried again with backoff.
    Transient,
    /// Waits for a change of spec, secret or sink; re-probed every five minutes.
    Terminal,
    /// That part is skipped, the rest goes on.
    Forbidden,
}

impl Class {
    /// Returns the word used in the `error_class` label and log field.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Terminal => "terminal",
            Self::Forbidden => "forbidden",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Implemented by each error that can reach the scheduler.
pub trait Classify {
    /// Returns what to do after this failure.
    fn class(&self) -> Class;
}

/// Returns the error with all its causes on one line, joined by `: `, each text once.
///
/// Many libraries repeat the text of the cause in their own message; a cause that the line already ends with is left out.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !text.is_empty() && !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        next = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("failed to push")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("connection refused")]
    struct Inner;

    #[derive(Debug, thiserror::Error)]
    #[error("failed to push: connection refused")]
    struct Repeats(#[source] Inner);

    #[test]
    fn chain_names_each_cause_once() {
        assert_eq!(chain(&Outer(Inner)), "failed to push: connection refused");
        assert_eq!(chain(&Repeats(Inner)), "failed to push: connection refused");
    }
}
