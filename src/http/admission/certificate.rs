//! The certificate of the webhooks where nobody else brings one: made by the operator, shared by its replicas, and known
//! to the API server (`docs/adr/0009-webhook-certificates.md`).
//!
//! The pair lies in a Secret of the operator's namespace. Whoever finds none there, or one that ends soon, makes another
//! and writes it over exactly what was read, so that of several replicas one succeeds and the others read what it wrote.
//! The certificate is signed by itself; its text goes into the `caBundle` of every webhook, together with the one before
//! it, and only then the pair is used. A replica that still shows the former certificate is believed as well.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{ValidatingWebhookConfiguration, WebhookClientConfig};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::SharedPair;
use crate::error::chain;
use crate::http::health::Readiness;
use crate::http::tls::{Exchange, TlsError};
use crate::metrics::{Metrics, Verb};

/// How long a certificate is good for.
const VALID_DAYS: i64 = 365;
/// So long before its end another is made.
const RENEW_DAYS: i64 = 90;
/// Time between two looks once all is well.
const LOOK: Duration = Duration::from_mins(1);
/// The same while something is wrong or missing.
const RETRY: Duration = Duration::from_secs(3);
/// One question to the API server.
const DEADLINE: Duration = Duration::from_secs(5);

/// Plurals of what is asked for, for metrics and messages.
const SECRETS: &str = "secrets";
const CONFIGURATIONS: &str = "validatingwebhookconfigurations";
/// Who writes them.
const FIELD_MANAGER: &str = "kollect";

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// The certificate in use and the one before it: what the API server is to believe.
const AUTHORITY: &str = "ca.crt";
/// Annotation: the day on which the certificate ends.
const ENDS: &str = "kollect.dev/not-after";
/// Annotation: the names in the certificate.
const NAMES: &str = "kollect.dev/dns-names";

/// Why the webhooks have no certificate, or the API server does not know it.
#[derive(Debug, thiserror::Error)]
enum CertificateError {
    #[error("failed to {doing} {what}")]
    Api {
        doing: &'static str,
        what: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("failed to {doing} {what}: no answer within {} s", DEADLINE.as_secs())]
    Silent { doing: &'static str, what: String },
    #[error(
        "there is no ValidatingWebhookConfiguration {0:?}, so nobody calls the webhooks; create it, name another in \
         --webhook-configuration, or set --validating-webhooks-enabled=false"
    )]
    NoConfiguration(String),
    #[error("failed to make a certificate")]
    Make(#[source] rcgen::Error),
    #[error("the pair of Secret {secret:?} cannot be used; remove what is in it, and another is made")]
    Pair {
        secret: String,
        #[source]
        source: TlsError,
    },
}

/// Keeps the pair of the webhooks fresh and the API server informed.
pub struct Keeper {
    secrets: Api<Secret>,
    configurations: Api<ValidatingWebhookConfiguration>,
    shared: SharedPair,
    exchange: Exchange,
    readiness: Readiness,
    metrics: Arc<Metrics>,
}

/// When to look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Later,
    /// Another replica was faster, and what it wrote is not read yet.
    Soon,
}

impl Keeper {
    /// Makes the keeper of a server whose Secret is in `namespace`.
    pub fn new(
        client: kube::Client,
        namespace: &str,
        shared: SharedPair,
        exchange: Exchange,
        readiness: Readiness,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            configurations: Api::all(client),
            shared,
            exchange,
            readiness,
            metrics,
        }
    }

    /// Looks after the pair until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let mut complaint = None;
        loop {
            let Some(looked) = stop.run_until_cancelled(self.look(today())).await else { return };
            let wait = match looked {
                Ok(next) => {
                    complaint = None;
                    if next == Next::Later { LOOK } else { RETRY }
                }
                Err(error) => {
                    let text = chain(&error);
                    if complaint.as_ref() != Some(&text) {
                        warn!(error = text, "webhook certificate not settled, trying again");
                        complaint = Some(text);
                    }
                    RETRY
                }
            };
            if stop.run_until_cancelled(sleep(wait)).await.is_none() {
                return;
            }
        }
    }

    /// Reads the pair, makes one where it has to, tells the API server, then uses it.
    async fn look(&self, today: Date) -> Result<Next, CertificateError> {
        let Some(configuration) = self.configuration().await? else {
            // Nobody calls, so nobody is kept waiting.
            self.readiness.certificate_loaded();
            return Err(CertificateError::NoConfiguration(self.shared.configuration.clone()));
        };
        let names = names(&configuration);
        let secret = match self.secret().await? {
            Some(secret) if is_good(&secret, today, &names) => secret,
            found => {
                let Some(made) = self.renew(found, today, &names).await? else { return Ok(Next::Soon) };
                info!(secret = self.shared.secret, "webhook certificate made");
                made
            }
        };
        self.announce(&configuration, entry(&secret, AUTHORITY)).await?;
        let put = self.exchange.put(entry(&secret, CERTIFICATE), entry(&secret, KEY));
        if put.map_err(|source| CertificateError::Pair { secret: self.shared.secret.clone(), source })? {
            info!(secret = self.shared.secret, "webhook certificate in use");
        }
        self.readiness.certificate_loaded();
        Ok(Next::Later)
    }

    async fn configuration(&self) -> Result<Option<ValidatingWebhookConfiguration>, CertificateError> {
        let name = &self.shared.configuration;
        self.call((Verb::Get, "read", CONFIGURATIONS), name, self.configurations.get_opt(name)).await
    }

    async fn secret(&self) -> Result<Option<Secret>, CertificateError> {
        let name = &self.shared.secret;
        self.call((Verb::Get, "read", SECRETS), name, self.secrets.get_opt(name)).await
    }

    /// Writes a new pair in the place of what was found; nothing when that has changed meanwhile.
    async fn renew(
        &self,
        found: Option<Secret>,
        today: Date,
        names: &BTreeSet<String>,
    ) -> Result<Option<Secret>, CertificateError> {
        let name = &self.shared.secret;
        let by_us = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let there = found.is_some();
        let made = make(found.unwrap_or_default(), name, today, names).map_err(CertificateError::Make)?;
        let written = if there {
            self.call((Verb::Update, "replace", SECRETS), name, self.secrets.replace(name, &by_us, &made)).await
        } else {
            self.call((Verb::Create, "create", SECRETS), name, self.secrets.create(&by_us, &made)).await
        };
        match written {
            Err(CertificateError::Api { source, .. }) if matches!(&*source, kube::Error::Api(status) if status.code == 409) => {
                Ok(None)
            }
            written => written.map(Some),
        }
    }

    /// Puts the authority into every webhook that does not have it.
    async fn announce(
        &self,
        configuration: &ValidatingWebhookConfiguration,
        authority: &[u8],
    ) -> Result<(), CertificateError> {
        let Some(patch) = announcement(configuration, authority) else { return Ok(()) };
        let name = &self.shared.configuration;
        let by_us = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Strategic(patch);
        let patched = self.configurations.patch(name, &by_us, &patch);
        self.call((Verb::Patch, "patch", CONFIGURATIONS), name, patched).await?;
        info!(configuration = name, "webhook authority announced");
        Ok(())
    }

    /// Awaits one answer and counts it.
    async fn call<T>(
        &self,
        (verb, doing, resource): (Verb, &'static str, &'static str),
        name: &str,
        answer: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, CertificateError> {
        let answer = timeout(DEADLINE, answer).await;
        let code = match &answer {
            Ok(Ok(_)) => Some(200),
            Ok(Err(kube::Error::Api(status))) => Some(status.code),
            Ok(Err(_)) | Err(_) => None,
        };
        self.metrics.api_request(verb, resource, code);
        let what = format!("{resource}/{name}");
        match answer {
            Ok(answer) => answer.map_err(|source| CertificateError::Api { doing, what, source: Box::new(source) }),
            Err(_) => Err(CertificateError::Silent { doing, what }),
        }
    }
}

fn today() -> Date {
    Timestamp::now().to_zoned(TimeZone::UTC).date()
}

fn entry<'a>(secret: &'a Secret, key: &str) -> &'a [u8] {
    secret.data.as_ref().and_then(|data| data.get(key)).map_or(&[], |bytes| &bytes.0)
}

/// Returns the names by which the API server calls, from what it was told.
fn names(configuration: &ValidatingWebhookConfiguration) -> BTreeSet<String> {
    let webhooks = configuration.webhooks.iter().flatten();
    webhooks.flat_map(|webhook| called(&webhook.client_config)).collect()
}

fn called(config: &WebhookClientConfig) -> Vec<String> {
    if let Some(service) = &config.service {
        let (name, namespace) = (&service.name, &service.namespace);
        return vec![format!("{name}.{namespace}.svc"), format!("{name}.{namespace}.svc.cluster.local")];
    }
    let url = config.url.as_deref().and_then(|url| url.parse::<http::Uri>().ok());
    let host = url.and_then(|url| url.host().map(|host| host.trim_matches(['[', ']']).to_owned()));
    host.into_iter().collect()
}

/// Tells whether a pair is there, lasts for some time, and is for these names.
fn is_good(secret: &Secret, today: Date, names: &BTreeSet<String>) -> bool {
    let annotation = |key: &str| secret.metadata.annotations.as_ref().and_then(|all| all.get(key)).map(String::as_str);
    let end = annotation(ENDS).and_then(|end| end.parse::<Date>().ok());
    let lasts = end.is_some_and(|end| after(today, RENEW_DAYS) < end);
    let listed: BTreeSet<String> =
        annotation(NAMES).into_iter().flat_map(|list| list.split(',')).map(str::to_owned).collect();
    lasts && listed == *names && [CERTIFICATE, KEY, AUTHORITY].iter().all(|key| !entry(secret, key).is_empty())
}

fn after(day: Date, days: i64) -> Date {
    day.saturating_add(Span::new().days(days))
}

/// Makes a pair and puts it into a Secret; the certificate before it stays among those that are believed.
fn make(mut secret: Secret, name: &str, today: Date, names: &BTreeSet<String>) -> Result<Secret, rcgen::Error> {
    let instant =
        |day: Date| rcgen::date_time_ymd(day.year().into(), day.month().unsigned_abs(), day.day().unsigned_abs());
    let end = after(today, VALID_DAYS);
    let mut parameters = rcgen::CertificateParams::new(names.iter().cloned().collect::<Vec<_>>())?;
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "kollect webhook");
    // From the day before, for clocks that are behind.
    parameters.not_before = instant(after(today, -1));
    parameters.not_after = instant(end);
    let key = rcgen::KeyPair::generate()?;
    let certificate = parameters.self_signed(&key)?.pem();
    let authority = [certificate.as_bytes(), entry(&secret, CERTIFICATE)].concat();
    let data = secret.data.get_or_insert_default();
    for (entry, bytes) in
        [(AUTHORITY, authority), (CERTIFICATE, certificate.into_bytes()), (KEY, key.serialize_pem().into_bytes())]
    {
        data.insert(entry.to_owned(), ByteString(bytes));
    }
    secret.metadata.name = Some(name.to_owned());
    let annotations = secret.metadata.annotations.get_or_insert_default();
    annotations.insert(ENDS.to_owned(), end.to_string());
    annotations.insert(NAMES.to_owned(), names.iter().cloned().collect::<Vec<_>>().join(","));
    Ok(secret)
}

/// Returns the patch that tells the API server whom to believe; nothing when it knows. The list is merged by name, so that
/// nothing else of a webhook is touched.
fn announcement(configuration: &ValidatingWebhookConfiguration, authority: &[u8]) -> Option<Value> {
    let bundle = ByteString(authority.to_vec());
    let webhooks = configuration.webhooks.iter().flatten();
    let stale: Vec<Value> = webhooks
        .filter(|webhook| webhook.client_config.ca_bundle.as_ref() != Some(&bundle))
        .map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}}))
        .collect();
    (!stale.is_empty()).then(|| json!({ "webhooks": stale }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY: &str = "2026-11-22";

    fn day(text: &str) -> Date {
        text.parse().unwrap()
    }

    fn of(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn fresh(secret: Secret) -> Secret {
        make(secret, "pair", day(TODAY), &of(&["w.n.svc", "127.0.0.1"])).unwrap()
    }

    #[test]
    fn a_pair_is_good_until_ninety_days_before_its_end_and_for_its_names() {
        let names = of(&["127.0.0.1", "w.n.svc"]);
        assert!(!is_good(&Secret::default(), day(TODAY), &names));
        let secret = fresh(Secret::default());
        for (date, good) in [(TODAY, true), ("2027-08-23", true), ("2027-08-24", false), ("2028-01-01", false)] {
            assert_eq!(is_good(&secret, day(date), &names), good, "{date}");
        }
        assert!(!is_good(&secret, day(TODAY), &of(&["other.n.svc"])));
        let emptied = Secret { data: None, ..secret };
        assert!(!is_good(&emptied, day(TODAY), &names));
    }

    #[test]
    fn the_certificate_before_stays_believed_and_the_one_before_that_does_not() {
        let first = fresh(Secret::default());
        assert_eq!(entry(&first, AUTHORITY), entry(&first, CERTIFICATE));
        let second = fresh(first.clone());
        assert_eq!(entry(&second, AUTHORITY), [entry(&second, CERTIFICATE), entry(&first, CERTIFICATE)].concat());
        let third = fresh(second.clone());
        assert_eq!(entry(&third, AUTHORITY), [entry(&third, CERTIFICATE), entry(&second, CERTIFICATE)].concat());
    }

    fn configuration(configs: &[Value]) -> ValidatingWebhookConfiguration {
        let webhook = |(index, config)| {
            let name = format!("v{index}.kb.io");
            json!({"name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None", "clientConfig": config})
        };
        let webhooks: Vec<Value> = configs.iter().enumerate().map(webhook).collect();
        serde_json::from_value(json!({ "webhooks": webhooks })).unwrap()
    }

    #[test]
    fn names_are_those_by_which_the_api_server_calls() {
        let of = |config: Value| names(&configuration(&[config])).into_iter().collect::<Vec<_>>();
        let service = json!({"service": {"name": "w", "namespace": "n", "path": "/p"}});
        assert_eq!(of(service), ["w.n.svc", "w.n.svc.cluster.local"]);
        assert_eq!(of(json!({"url": "https://127.0.0.1:9443/p"})), ["127.0.0.1"]);
        assert_eq!(of(json!({"url": "https://[::1]:9443/p"})), ["::1"]);
    }

    #[test]
    fn only_webhooks_that_do_not_know_the_authority_are_told() {
        let told = json!({"url": "https://h/p", "caBundle": "YQ=="});
        let configuration = configuration(&[told, json!({"url": "https://h/q"})]);
        let patch = announcement(&configuration, b"a").unwrap();
        assert_eq!(patch, json!({"webhooks": [{"name": "v1.kb.io", "clientConfig": {"caBundle": "YQ=="}}]}));
        let other = announcement(&configuration, b"b").unwrap();
        assert_eq!(other["webhooks"].as_array().unwrap().len(), 2);
    }
}
