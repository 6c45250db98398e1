//! What can go wrong with a bucket, and what that means for the scheduler.
//!
//! The class comes from the status of the answer and the code in it, which both protocols define (`AccessDenied`,
//! `NoSuchBucket`, `SlowDown` …), from the kind of TLS failure, or from the variant; never from a message. No error holds
//! a credential: addresses are left out, and of an answer only code and message are kept.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::error::{Class, Classify};
use crate::export::layout::LayoutError;
use crate::sinks::mandate::Deposed;
use crate::sinks::netguard::DialError;
use crate::sinks::tls::{TlsError, handshake_class};
use crate::sinks::{Fault, SinkError};

/// The longest text of a server that is passed on.
const MAX_WORDS: usize = 300;

/// A failure of a bucket.
#[derive(Debug, thiserror::Error)]
pub(super) enum ObjectError {
    #[error("failed to set up TLS")]
    Tls(#[source] TlsError),
    /// The HTTP client cannot be built.
    #[error("failed to set up the HTTP client")]
    Client(#[source] reqwest::Error),
    /// The credentials cannot be used as they are.
    #[error("the credentials in the Secret of spec.secretRef cannot be used; check its keys")]
    Credentials(#[source] object_store::Error),
    #[error("failed to {doing}")]
    Dial {
        doing: String,
        #[source]
        source: Arc<DialError>,
    },
    #[error("failed to {doing}{}", advice(.source))]
    Handshake {
        doing: String,
        #[source]
        source: rustls::Error,
    },
    #[error("failed to {doing}")]
    Http {
        doing: String,
        #[source]
        source: Arc<reqwest::Error>,
    },
    #[error("failed to {doing}: no answer within {} s", .after.as_secs())]
    Late { doing: String, after: Duration },
    #[error("failed to {doing}: {answer}")]
    Answer { doing: String, answer: Answer },
    /// The client of the store failed by itself.
    #[error("failed to {doing}")]
    Store {
        doing: String,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    #[error("{key:?} is not a key that can be written")]
    Key { key: String },
    /// The rows cannot become a file.
    #[error("failed to encode the rows")]
    Encode(#[source] Box<dyn Error + Send + Sync>),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(
        "{key} belongs to inventory {other}; put {{cluster}}, {{namespace}} and {{name}} into spec.pathTemplate, or \
             choose another prefix in spec.endpoint"
    )]
    PathConflict { key: String, other: String },
    #[error(
        "inventory {inventory} is written by another operator (UID of its kube-system: {writer}); give each cluster a \
             spec.cluster of its own"
    )]
    ClusterConflict { inventory: String, writer: String },
    /// Two sinks would write the same inventory to the same place in different ways.
    #[error("sink {first} writes inventory {inventory} to this bucket already, with other settings")]
    Occupied { first: String, inventory: String },
    /// Somebody else wrote between our look and our write.
    #[error("{key} changed while it was written")]
    Superseded { key: String },
    #[error("{key} is no record of ours; move it away")]
    ForeignRecord { key: String },
    #[error("failed to write {key}")]
    Deposed {
        key: String,
        #[source]
        source: Deposed,
    },
    /// The process stops.
    #[error("the work on the bucket was given up")]
    GivenUp,
}

/// A refusal in the words of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Code of the protocol; may be empty.
    pub(super) code: String,
    words: String,
    /// Region that the bucket is in, where the server says it.
    pub(super) region: Option<String>,
}

/// What a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Matter {
    Keys,
    Expired,
    Clock,
    Rights,
    NoBucket,
    Region,
    Busy,
    TooLarge,
    NotServed,
    Request,
}

impl Answer {
    /// Reads what a server says with a refusal: XML of S3, or JSON of Google.
    pub(super) fn read(status: StatusCode, region: Option<String>, body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let (mut code, mut words) = (element(&text, "Code"), element(&text, "Message"));
        if let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) {
            let error = &json["error"];
            let said = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            code = if error.is_string() { said(error) } else { said(&error["status"]) };
            words = if error.is_string() { said(&json["error_description"]) } else { said(&error["message"]) };
        }
        let region = region.or_else(|| Some(element(&text, "Region")).filter(|region| !region.is_empty()));
        Self { status, code, words: plain(&words), region }
    }

    fn matter(&self) -> Matter {
        match self.code.as_str() {
            // The last three are Google's tokens and versitygw.
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "InvalidSecurity"
            | "invalid_grant"
            | "invalid_client"
            | "XAdminUserNotFound" => Matter::Keys,
            "ExpiredToken" | "ExpiredTokenException" | "InvalidToken" | "TokenRefreshRequired" => Matter::Expired,
            "RequestTimeTooSkewed" | "RequestExpired" => Matter::Clock,
            "NoSuchBucket" => Matter::NoBucket,
            "AuthorizationHeaderMalformed" if self.region.is_some() => Matter::Region,
            "PermanentRedirect" | "TemporaryRedirect" | "IllegalLocationConstraintException" => Matter::Region,
            "SlowDown" | "Throttling" | "RequestTimeout" | "TooManyRequests" | "OperationAborted" => Matter::Busy,
            "EntityTooLarge" => Matter::TooLarge,
            "NotImplemented" => Matter::NotServed,
            _ => match self.status {
                StatusCode::UNAUTHORIZED => Matter::Keys,
                StatusCode::FORBIDDEN => Matter::Rights,
                StatusCode::NOT_IMPLEMENTED => Matter::NotServed,
                StatusCode::PAYLOAD_TOO_LARGE => Matter::TooLarge,
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::CONFLICT => Matter::Busy,
                status if status.is_server_error() => Matter::Busy,
                status if status.is_redirection() => Matter::Region,
                _ => Matter::Request,
            },
        }
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.matter() {
            Matter::Keys => f.write_str(
                "the store refused the credentials; check accessKeyID and secretAccessKey, or credentials.json, in the \
                 Secret of spec.secretRef",
            )?,
            Matter::Expired => f.write_str(
                "the credentials have expired; renew accessKeyID, secretAccessKey and sessionToken in the Secret of \
                 spec.secretRef",
            )?,
            Matter::Clock => {
                f.write_str("the clock of this machine differs too much from that of the store; set it right")?;
            }
            Matter::Rights => f.write_str(
                "the store does not allow it; check the credentials in the Secret of spec.secretRef, and let them read, \
                 write, list and delete below the prefix of spec.endpoint",
            )?,
            Matter::NoBucket => f.write_str("there is no such bucket; create it, or correct spec.endpoint")?,
            Matter::Region => {
                f.write_str("the bucket is served elsewhere; correct spec.endpoint or spec.objectStore.region")?;
                if let Some(region) = &self.region {
                    write!(f, ", its region is {region}")?;
                }
            }
            Matter::Busy => f.write_str("the store is busy or in trouble")?,
            Matter::TooLarge => f.write_str("the store takes no object of this size")?,
            Matter::NotServed => f.write_str("the store does not serve this request")?,
            Matter::Request => f.write_str("the store refused the request")?,
        }
        write!(f, " (status {}", self.status.as_u16())?;
        if !self.code.is_empty() {
            write!(f, ", {}", self.code)?;
        }
        if !self.words.is_empty() {
            write!(f, ": {}", self.words)?;
        }
        f.write_str(")")
    }
}

/// Returns the text of the first XML element of a name.
fn element(text: &str, name: &str) -> String {
    let inner = text.split_once(&format!("<{name}>")).and_then(|(_, rest)| rest.split_once(&format!("</{name}>")));
    inner.map(|(inner, _)| inner.trim().to_owned()).unwrap_or_default()
}

fn plain(words: &str) -> String {
    words.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect()
}

impl ObjectError {
    /// Tells whether a store does not know the conditions that a request was sent with.
    pub(super) fn is_not_served(&self) -> bool {
        matches!(self, Self::Answer { answer, .. } if answer.matter() == Matter::NotServed)
    }

    /// Returns what the failure means.
    fn verdict(&self) -> (Class, &'static str, Fault) {
        use Fault::{Delivery, Destination};
        const PROBE: &str = "ConnectionTestFailed";
        const FAILED: &str = "ExportFailed";
        const REFUSED: &str = "ExportTerminal";
        match self {
            Self::Tls(_) | Self::Client(_) | Self::Credentials(_) => (Class::Terminal, PROBE, Destination),
            Self::Dial { source, .. } => (source.class(), PROBE, Destination),
            Self::Handshake { source, .. } => (handshake_class(source), PROBE, Destination),
            Self::Http { .. } | Self::Late { .. } => (Class::Transient, FAILED, Destination),
            Self::Answer { answer, .. } => match answer.matter() {
                Matter::Keys | Matter::Expired | Matter::Rights | Matter::NoBucket | Matter::Region => {
                    (Class::Terminal, PROBE, Destination)
                }
                Matter::Clock | Matter::Busy => (Class::Transient, FAILED, Destination),
                Matter::TooLarge | Matter::NotServed | Matter::Request => (Class::Terminal, REFUSED, Delivery),
            },
            Self::Store { .. } | Self::Superseded { .. } | Self::Deposed { .. } | Self::GivenUp => {
                (Class::Transient, FAILED, Delivery)
            }
            Self::Key { .. } | Self::Encode(_) | Self::Occupied { .. } | Self::ForeignRecord { .. } => {
                (Class::Terminal, REFUSED, Delivery)
            }
            Self::Layout(error) => (error.class(), REFUSED, Delivery),
            Self::PathConflict { .. } => (Class::Terminal, "PathConflict", Delivery),
            Self::ClusterConflict { .. } => (Class::Terminal, "ClusterConflict", Delivery),
        }
    }
}

impl From<ObjectError> for SinkError {
    fn from(error: ObjectError) -> Self {
        let (class, reason, fault) = error.verdict();
        let failure = Self::new(class, reason, error);
        match fault {
            Fault::Destination => failure.of_destination(),
            Fault::Delivery => failure,
        }
    }
}

impl Classify for ObjectError {
    fn class(&self) -> Class {
        self.verdict().0
    }
}

/// Returns what a person can do about a failed handshake.
fn advice(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(_) => {
            "; if the certificate is the right one, name its authority in spec.tls.caBundle or spec.tls.caSecretRef"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xml(code: &str) -> String {
        format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no\nway</Message><Resource>/b</Resource></Error>"
        )
    }

    #[test]
    fn each_answer_has_its_class_and_says_what_to_do() {
        use Class::{Terminal, Transient};
        for (status, body, class, fault, words) in [
            (403, xml("InvalidAccessKeyId"), Terminal, Fault::Destination, "check accessKeyID"),
            (403, xml("SignatureDoesNotMatch"), Terminal, Fault::Destination, "check accessKeyID"),
            (
                400,
                "{\"error\":\"invalid_grant\",\"error_description\":\"x\"}".into(),
                Terminal,
                Fault::Destination,
                "credentials.json",
            ),
            (401, String::new(), Terminal, Fault::Destination, "refused the credentials"),
            (400, xml("ExpiredToken"), Terminal, Fault::Destination, "sessionToken"),
            (403, xml("RequestTimeTooSkewed"), Transient, Fault::Destination, "the clock of this machine"),
            (403, xml("AccessDenied"), Terminal, Fault::Destination, "does not allow it"),
            (403, String::new(), Terminal, Fault::Destination, "does not allow it"),
            (404, xml("NoSuchBucket"), Terminal, Fault::Destination, "create it, or correct spec.endpoint"),
            (301, xml("PermanentRedirect"), Terminal, Fault::Destination, "spec.objectStore.region"),
            (307, String::new(), Terminal, Fault::Destination, "spec.objectStore.region"),
            (429, String::new(), Transient, Fault::Destination, "busy"),
            (503, xml("SlowDown"), Transient, Fault::Destination, "busy"),
            (500, String::new(), Transient, Fault::Destination, "busy"),
            (408, String::new(), Transient, Fault::Destination, "busy"),
            (413, String::new(), Terminal, Fault::Delivery, "this size"),
            (501, xml("NotImplemented"), Terminal, Fault::Delivery, "does not serve"),
            (400, xml("InvalidArgument"), Terminal, Fault::Delivery, "refused the request"),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let answer = Answer::read(status, None, body.as_bytes());
            let error = ObjectError::Answer { doing: "write a".to_owned(), answer };
            let text = error.to_string();
            assert!(text.starts_with("failed to write a: ") && text.contains(words), "{status} {body}: {text}");
            let (found, _, at) = error.verdict();
            assert_eq!((found, at), (class, fault), "{status} {body}");
        }
    }

    #[test]
    fn an_answer_names_the_region_and_has_no_line_breaks() {
        let body =
            "<Error><Code>AuthorizationHeaderMalformed</Code><Message>a\nb</Message><Region>eu-west-1</Region></Error>";
        let text = Answer::read(StatusCode::BAD_REQUEST, None, body.as_bytes()).to_string();
        assert!(text.contains("its region is eu-west-1") && text.ends_with(": ab)"), "{text}");
        let json = br#"{"error":{"code":403,"status":"PERMISSION_DENIED","message":"denied"}}"#;
        let answer = Answer::read(StatusCode::FORBIDDEN, None, json);
        assert_eq!((answer.code.as_str(), answer.words.as_str()), ("PERMISSION_DENIED", "denied"));
    }
}
