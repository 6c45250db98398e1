//! What can go wrong with NATS, and what that means for the scheduler.
//!
//! The class comes from the error code of JetStream or from the variant. The protocol itself has no codes: what the server
//! says in `-ERR` is one of a few fixed phrases, told apart in [`Complaint::of`] and nowhere else.

use std::sync::Arc;
use std::time::Duration;

use rustls::CertificateError;

use super::nkey::NkeyError;
use crate::error::{Class, Classify};
use crate::sinks::mandate::Deposed;
use crate::sinks::netguard::DialError;
use crate::sinks::tls::{TlsError, handshake_class};
use crate::sinks::{Fault, SinkError};

/// A failure of the NATS sink. It can be cloned: all that wait on a connection are told of its end.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum NatsError {
    #[error("{field}: {what}")]
    Setting { field: &'static str, what: String },
    #[error("the Secret of spec.nats.secretRef cannot be used")]
    Credentials(#[source] NkeyError),
    #[error("failed to set up TLS")]
    Tls(#[source] Arc<TlsError>),
    #[error(transparent)]
    Dial(Arc<DialError>),
    #[error("{server} offers no TLS, and spec.tls or the address asks for it; turn it on there, or write nats://")]
    NoTls { server: String },
    #[error("failed to open TLS with {server}{}", tls_advice(.source))]
    Handshake {
        server: String,
        #[source]
        source: rustls::Error,
    },
    #[error("failed to log in to {server}")]
    Connect {
        server: String,
        #[source]
        source: Arc<async_nats::ConnectError>,
    },
    #[error("{server} says: {text}{}", .complaint.advice())]
    Server { server: String, text: String, complaint: Complaint },
    #[error("the connection to {server} was closed")]
    Closed { server: String },
    #[error("failed to {doing}: no answer within {} s", .after.as_secs())]
    Timeout { doing: String, after: Duration },
    #[error("failed to {doing}: nobody answers there; JetStream may be off, or without a leader")]
    NoResponders { doing: String },
    #[error("failed to {doing}: {description} (JetStream error {code}){}", advice(*.code))]
    Api { doing: String, code: u64, status: u64, description: String },
    #[error("failed to {doing}: the answer cannot be understood")]
    Answer { doing: String },
    #[error(
        "there is no stream \"{stream}\"; create it with the subject \"{subject}\", or leave provisioning.mode at ensure"
    )]
    NoStream { stream: String, subject: String },
    #[error(
        "stream \"{stream}\" does not take the subject \"{subject}\" (it has {there}); add it to the stream, or name another \
         one in spec.nats.stream"
    )]
    Uncovered { stream: String, subject: String, there: String },
    #[error(
        "messages of cluster \"{cluster}\" for inventory {inventory} in stream \"{stream}\" come from another operator (writer \
         {writer}, last seen {seen_seconds} s ago); set spec.cluster of the sink to a name that no other operator uses"
    )]
    ClusterConflict { cluster: String, inventory: String, stream: String, writer: String, seen_seconds: u64 },
    #[error(
        "a newer instance of this operator (epoch {theirs}, ours is {ours}) writes inventory {inventory} to stream \"{stream}\""
    )]
    Fenced { inventory: String, stream: String, theirs: u64, ours: u64 },
    #[error("failed to send to stream \"{stream}\"")]
    Deposed {
        stream: String,
        #[source]
        source: Deposed,
    },
}

/// What a server complains about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Complaint {
    /// Who we are.
    Login,
    /// What we may do.
    Permission,
    /// How large a message is.
    Size,
    /// Anything else; the connection ends.
    Other,
}

impl Complaint {
    /// Reads the phrase behind `-ERR` (nats-server, `errors.go`).
    pub(super) fn of(text: &str) -> Self {
        let lower = text.to_ascii_lowercase();
        let starts = |phrase: &str| lower.starts_with(phrase);
        let login = [
            "authorization violation",
            "authentication",
            "user authentication",
            "account authentication",
            "secure connection",
        ];
        if login.into_iter().any(starts) {
            Self::Login
        } else if starts("permissions violation") {
            Self::Permission
        } else if starts("maximum payload violation") {
            Self::Size
        } else {
            Self::Other
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Self::Login => "; check the Secret of spec.nats.secretRef",
            Self::Permission => "; allow that to the user, docs/sinks/nats.md has the list",
            Self::Size => "; raise max_payload, or let the profile name fewer attributes",
            Self::Other => "",
        }
    }
}

/// Says what to do about an error of JetStream (nats-server, `errors.json`).
fn advice(code: u64) -> &'static str {
    match code {
        // JSStreamStoreFailed, JSStreamMessageExceedsMaximum, and limits of the account.
        10077 => "; the stream is full: raise max_bytes or max_msgs of it, or let it discard old messages",
        10054 => "; raise max_msg_size of the stream",
        10002 | 10023 | 10028 | 10047 => "; the account or the server has no room: raise its limits for JetStream",
        10039 | 10076 => "; turn JetStream on for the account of the user",
        10065 => "; another stream has the subject: name that one in spec.nats.stream",
        10110 => "; the stream is sealed: name another one in spec.nats.stream",
        _ => "",
    }
}

/// Says what to do about a failed handshake.
fn tls_advice(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "; name the server in spec.nats.url as its certificate does, or give it one of this name",
        rustls::Error::InvalidCertificate(_) => {
            "; if the certificate is the right one, name its authority in spec.tls.caBundle or spec.tls.caSecretRef"
        }
        rustls::Error::AlertReceived(_) => {
            "; if it asks for a certificate of the client, name one that it trusts in spec.tls.clientSecretRef"
        }
        _ => "",
    }
}

impl NatsError {
    /// Tells whether the stream does not exist.
    pub(super) fn is_no_stream(&self) -> bool {
        matches!(self, Self::NoStream { .. } | Self::Api { code: 10059, .. })
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Credentials(_)
            | Self::Tls(_)
            | Self::Dial(_)
            | Self::NoTls { .. }
            | Self::Handshake { .. }
            | Self::Connect { .. }
            | Self::Closed { .. }
            | Self::NoResponders { .. }
            | Self::NoStream { .. }
            | Self::Uncovered { .. } => Fault::Destination,
            Self::Server { complaint, .. } => match complaint {
                Complaint::Size => Fault::Delivery,
                Complaint::Login | Complaint::Permission | Complaint::Other => Fault::Destination,
            },
            Self::Setting { .. }
            | Self::Timeout { .. }
            | Self::Api { .. }
            | Self::Answer { .. }
            | Self::ClusterConflict { .. }
            | Self::Fenced { .. }
            | Self::Deposed { .. } => Fault::Delivery,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::ClusterConflict { .. } => "ClusterConflict",
            Self::Fenced { .. } => "Fenced",
            Self::Setting { .. }
            | Self::Credentials(_)
            | Self::Tls(_)
            | Self::Dial(_)
            | Self::NoTls { .. }
            | Self::Handshake { .. }
            | Self::Server { complaint: Complaint::Login | Complaint::Permission, .. }
            | Self::NoStream { .. }
            | Self::Uncovered { .. } => "ConnectionTestFailed",
            Self::Api { .. } if self.class() == Class::Terminal => "ExportTerminal",
            Self::Server { .. }
            | Self::Connect { .. }
            | Self::Closed { .. }
            | Self::Timeout { .. }
            | Self::NoResponders { .. }
            | Self::Api { .. }
            | Self::Answer { .. }
            | Self::Deposed { .. } => "ExportFailed",
        }
    }
}

impl Classify for NatsError {
    fn class(&self) -> Class {
        match self {
            Self::Setting { .. }
            | Self::Credentials(_)
            | Self::Tls(_)
            | Self::NoTls { .. }
            | Self::NoStream { .. }
            | Self::Uncovered { .. }
            | Self::ClusterConflict { .. }
            | Self::Fenced { .. } => Class::Terminal,
            Self::Dial(error) => error.class(),
            Self::Handshake { source, .. } => handshake_class(source),
            Self::Server { complaint, .. } => match complaint {
                Complaint::Login | Complaint::Permission | Complaint::Size => Class::Terminal,
                Complaint::Other => Class::Transient,
            },
            // What an administrator has to change, but for room: that comes and goes by itself.
            Self::Api { code, status, .. } => match code {
                10039 | 10076 | 10065 | 10054 | 10110 => Class::Terminal,
                10077 => Class::Transient,
                _ if *status == 400 || *status == 403 => Class::Terminal,
                _ => Class::Transient,
            },
            Self::Connect { .. }
            | Self::Closed { .. }
            | Self::Timeout { .. }
            | Self::NoResponders { .. }
            | Self::Answer { .. }
            // The process is about to end; its successor delivers.
            | Self::Deposed { .. } => Class::Transient,
        }
    }
}

impl From<NatsError> for SinkError {
    fn from(error: NatsError) -> Self {
        let (fault, failure) = (error.fault(), Self::new(error.class(), error.reason(), error));
        match fault {
            Fault::Destination => failure.of_destination(),
            Fault::Delivery => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_class_and_says_what_to_do() {
        let says = |text: &str| NatsError::Server {
            server: "nats.example.com:4222".to_owned(),
            text: text.to_owned(),
            complaint: Complaint::of(text),
        };
        let api = |code, status, description: &str| NatsError::Api {
            doing: "send to stream \"s\"".to_owned(),
            code,
            status,
            description: description.to_owned(),
        };
        for (error, class, fault, part) in [
            (says("Authorization Violation"), Class::Terminal, Fault::Destination, "check the Secret"),
            (says("User Authentication Expired"), Class::Terminal, Fault::Destination, "check the Secret"),
            (says("Permissions Violation for Publish to \"x\""), Class::Terminal, Fault::Destination, "allow that"),
            (says("Maximum Payload Violation"), Class::Terminal, Fault::Delivery, "raise max_payload"),
            (says("Slow Consumer"), Class::Transient, Fault::Destination, "says: Slow Consumer"),
            (api(10077, 503, "maximum bytes exceeded"), Class::Transient, Fault::Delivery, "raise max_bytes"),
            (
                api(10039, 503, "jetstream not enabled for account"),
                Class::Terminal,
                Fault::Delivery,
                "turn JetStream on",
            ),
            (api(10065, 400, "subjects overlap"), Class::Terminal, Fault::Delivery, "another stream has the subject"),
            (api(10008, 503, "no leader"), Class::Transient, Fault::Delivery, "(JetStream error 10008)"),
        ] {
            let text = error.to_string();
            assert_eq!((error.class(), error.fault()), (class, fault), "{text}");
            assert!(text.contains(part), "{text}");
        }
    }
}
