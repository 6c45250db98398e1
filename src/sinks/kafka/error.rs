//! What a broker, or the way to it, says about a failure, and what to do about it.

use std::time::Duration;

use rdkafka::error::{KafkaError as Cause, RDKafkaErrorCode as Code};

use crate::error::{Class, Classify};
use crate::sinks::mandate::Deposed;
use crate::sinks::netguard::Refusal;
use crate::sinks::{Fault, SinkError};

/// A failure of a Kafka sink.
#[derive(Debug, thiserror::Error)]
pub(super) enum KafkaError {
    #[error("{field}: {what}")]
    Setting { field: String, what: &'static str },
    #[error("spec.kafka.brokers: {0}")]
    Refused(#[from] Refusal),
    #[error("the settings cannot be used")]
    Client(#[source] Cause),
    #[error("failed to {doing}: {said}{advice}", said = said(*code, detail), advice = advice(*code))]
    Broker { doing: String, code: Code, detail: String },
    #[error(
        "topic \"{topic}\" of spec.kafka.topic does not exist; create it, or let the operator do it with \
         spec.provisioning.mode: ensure"
    )]
    NoTopic { topic: String },
    #[error("failed to {doing} within {} s; {hint}", after.as_secs())]
    Timeout { doing: String, after: Duration, hint: &'static str },
    #[error(
        "operator {writer} writes inventory {inventory} to topic \"{topic}\", last {seen_seconds} s ago; set another spec.cluster here or there"
    )]
    ClusterConflict { inventory: String, topic: String, writer: String, seen_seconds: u64 },
    #[error(
        "a newer instance of this operator (epoch {theirs}, ours is {ours}) writes inventory {inventory} to topic \"{topic}\""
    )]
    Fenced { inventory: String, topic: String, theirs: u64, ours: u64 },
    #[error("topic \"{topic}\" was made anew, or has lost its last messages; what is missing is sent again")]
    BeganAnew { topic: String },
    #[error("failed to {doing}")]
    Deposed {
        doing: String,
        #[source]
        source: Deposed,
    },
    #[error("the operator is shutting down")]
    Stopping,
}

fn said(code: Code, detail: &str) -> String {
    if detail.is_empty() { code.to_string() } else { format!("{detail} ({code:?})") }
}

/// Returns what a person can do about it.
fn advice(code: Code) -> &'static str {
    match code {
        Code::Authentication | Code::SaslAuthenticationFailed => {
            "; check username and password in the Secret of spec.kafka.secretRef, and spec.kafka.saslMechanism"
        }
        Code::UnsupportedSASLMechanism => "; the broker does not offer spec.kafka.saslMechanism",
        Code::SSL => {
            "; check spec.tls: the authority that signed for the broker in caSecretRef, and the client's certificate in \
             clientSecretRef where the broker asks for one"
        }
        Code::TopicAuthorizationFailed => "; grant Describe, Read and Write on the topic of spec.kafka.topic",
        Code::TransactionalIdAuthorizationFailed => {
            "; grant Describe and Write on transactional ids with the prefix kollect."
        }
        Code::ClusterAuthorizationFailed => {
            "; grant IdempotentWrite on the cluster, and Create where topics are made here"
        }
        Code::GroupAuthorizationFailed => "; grant Describe and Read on groups with the prefix kollect.",
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => {
            "; raise max.message.bytes of the topic, or let the profile name fewer attributes"
        }
        Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend => {
            "; bring brokers back, or lower min.insync.replicas of the topic"
        }
        Code::Resolve => "; correct the host names in spec.kafka.brokers",
        Code::AllBrokersDown | Code::BrokerTransportFailure => {
            "; check spec.kafka.brokers, that the brokers run, and whether they want spec.tls"
        }
        Code::PolicyViolation => "; the broker's policy forbids it",
        Code::UnsupportedCompressionType => "; choose another spec.serialization.compression",
        Code::InvalidRecord => "; a compacted topic takes messages with keys alone",
        _ => "",
    }
}

impl KafkaError {
    /// Sorts what the library says.
    pub(super) fn cause(doing: impl Into<String>, cause: Cause) -> Self {
        let detail = match &cause {
            Cause::Transaction(error) => error.string(),
            _ => String::new(),
        };
        match cause.rdkafka_error_code() {
            Some(code) => Self::Broker { doing: doing.into(), code, detail },
            None => Self::Client(cause),
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Refused(_) | Self::Timeout { .. } | Self::NoTopic { .. } => Fault::Destination,
            Self::Broker { code, .. } => code_fault(*code),
            Self::Setting { .. }
            | Self::Client(_)
            | Self::ClusterConflict { .. }
            | Self::Fenced { .. }
            | Self::BeganAnew { .. }
            | Self::Deposed { .. }
            | Self::Stopping => Fault::Delivery,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::ClusterConflict { .. } => "ClusterConflict",
            Self::Fenced { .. } => "Fenced",
            Self::Setting { .. } | Self::Refused(_) | Self::Client(_) | Self::NoTopic { .. } => "ConnectionTestFailed",
            Self::Broker { code, .. } if is_fenced(*code) => "Fenced",
            Self::Broker { code, .. } => match (code_fault(*code), code_class(*code)) {
                (Fault::Destination, _) => "ConnectionTestFailed",
                (Fault::Delivery, Class::Terminal) => "ExportTerminal",
                (Fault::Delivery, _) => "ExportFailed",
            },
            Self::Timeout { .. } | Self::BeganAnew { .. } | Self::Deposed { .. } | Self::Stopping => "ExportFailed",
        }
    }
}

impl From<KafkaError> for SinkError {
    fn from(error: KafkaError) -> Self {
        let (fault, failure) = (error.fault(), Self::new(error.class(), error.reason(), error));
        match fault {
            Fault::Destination => failure.of_destination(),
            Fault::Delivery => failure,
        }
    }
}

impl Classify for KafkaError {
    fn class(&self) -> Class {
        match self {
            Self::Setting { .. }
            | Self::Client(_)
            | Self::Refused(_)
            | Self::NoTopic { .. }
            | Self::ClusterConflict { .. }
            | Self::Fenced { .. } => Class::Terminal,
            Self::Broker { code, .. } => code_class(*code),
            // The next try compares.
            Self::BeganAnew { .. }
            | Self::Timeout { .. }
            // The process is about to end; its successor delivers.
            | Self::Deposed { .. }
            | Self::Stopping => Class::Transient,
        }
    }
}

/// Tells whether another producer took over the transactional id.
pub(super) fn is_fenced(code: Code) -> bool {
    matches!(
        code,
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch | Code::TransactionCoordinatorFenced
    )
}

/// Tells a broker that serves nobody from one that refuses this delivery.
fn code_fault(code: Code) -> Fault {
    match code {
        Code::AllBrokersDown
        | Code::Authentication
        | Code::BrokerNotAvailable
        | Code::BrokerTransportFailure
        | Code::ClusterAuthorizationFailed
        | Code::CoordinatorNotAvailable
        | Code::LeaderNotAvailable
        | Code::MessageTimedOut
        | Code::NetworkException
        | Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::OperationTimedOut
        | Code::RequestTimedOut
        | Code::Resolve
        | Code::SSL
        | Code::SaslAuthenticationFailed
        | Code::TopicAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::UnknownTopic
        | Code::UnknownTopicOrPartition
        | Code::UnsupportedSASLMechanism => Fault::Destination,
        _ => Fault::Delivery,
    }
}

/// Terminal is what a person must mend; everything else, and what is not known, may pass by itself.
fn code_class(code: Code) -> Class {
    match code {
        Code::Authentication
        | Code::ClusterAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::InvalidConfig
        | Code::InvalidRecord
        | Code::InvalidReplicationFactor
        | Code::InvalidRequiredAcks
        | Code::InvalidTopic
        | Code::InvalidTransactionTimeout
        | Code::MessageBatchTooLarge
        | Code::MessageSizeTooLarge
        | Code::PolicyViolation
        | Code::SSL
        | Code::SaslAuthenticationFailed
        | Code::SecurityDisabled
        | Code::TopicAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::UnsupportedCompressionType
        | Code::UnsupportedFeature
        | Code::UnsupportedForMessageFormat
        | Code::UnsupportedSASLMechanism
        | Code::UnsupportedVersion => Class::Terminal,
        code if is_fenced(code) => Class::Terminal,
        _ => Class::Transient,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::chain;

    fn broker(code: Code) -> KafkaError {
        KafkaError::Broker { doing: "send to topic \"t\"".to_owned(), code, detail: String::new() }
    }

    #[test]
    fn class_and_fault_follow_the_code() {
        for (code, class, fault) in [
            (Code::Authentication, Class::Terminal, Fault::Destination),
            (Code::SaslAuthenticationFailed, Class::Terminal, Fault::Destination),
            (Code::SSL, Class::Terminal, Fault::Destination),
            (Code::TopicAuthorizationFailed, Class::Terminal, Fault::Destination),
            (Code::TransactionalIdAuthorizationFailed, Class::Terminal, Fault::Destination),
            (Code::MessageSizeTooLarge, Class::Terminal, Fault::Delivery),
            (Code::ProducerFenced, Class::Terminal, Fault::Delivery),
            (Code::UnknownTopicOrPartition, Class::Transient, Fault::Destination),
            (Code::NotEnoughReplicas, Class::Transient, Fault::Destination),
            (Code::AllBrokersDown, Class::Transient, Fault::Destination),
            (Code::BrokerTransportFailure, Class::Transient, Fault::Destination),
            (Code::Resolve, Class::Transient, Fault::Destination),
            (Code::ConcurrentTransactions, Class::Transient, Fault::Delivery),
        ] {
            let failure = SinkError::from(broker(code));
            assert_eq!((failure.class(), failure.fault()), (class, fault), "{code:?}");
        }
        assert_eq!(SinkError::from(broker(Code::ProducerFenced)).reason(), "Fenced");
    }

    #[test]
    fn message_says_what_was_done_and_what_to_do() {
        assert_eq!(
            chain(&SinkError::from(broker(Code::TopicAuthorizationFailed))),
            "failed to send to topic \"t\": TopicAuthorizationFailed (Broker: Topic authorization failed); grant Describe, \
             Read and Write on the topic of spec.kafka.topic"
        );
    }
}
