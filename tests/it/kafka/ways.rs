//! The ways in: TLS, certificates of the client, logins, and what is said where one is barred.

use kollect::export::Base;
use kollect::lab::kafka::{USER, Way};
use kollect::secret::Secret;
use kollect::sinks::TlsConfig;
use kollect::sinks::contract::{rows as some, scope};
use kollect::sinks::kafka::{Compression, KafkaConfig, KafkaTopics, Login, Mechanism, Mode};
use kollect::sinks::netguard::Guard;
use tokio_util::sync::CancellationToken;

use super::{Ground, bring, life, rows};

#[tokio::test(flavor = "multi_thread")]
async fn every_way_in_works_and_every_bar_is_named() {
    let Some(ground) = Ground::new("ways", 1).await else { return };
    let (kafka, certificates) = (ground.kafka, ground.kafka.certificates());
    let trusting = TlsConfig { ca_pem: Some(certificates.ca.clone().into_bytes()), ..TlsConfig::default() };
    let blind = TlsConfig { insecure_skip_verify: true, ..TlsConfig::default() };
    let known = TlsConfig {
        client_cert_pem: Some(certificates.client.clone().into_bytes()),
        client_key_pem: Some(Secret::new(certificates.client_key.clone())),
        ..trusting.clone()
    };
    let login =
        |mechanism, password: &str| Some(Login { mechanism, user: USER.to_owned(), password: Secret::new(password) });
    let config = |way, tls: Option<&TlsConfig>, login: Option<Login>| KafkaConfig {
        brokers: vec![kafka.broker(way)],
        tls: tls.cloned(),
        login,
        ..ground.config(Mode::Changes)
    };
    let password = kafka.password();
    for (index, (good, compression)) in [
        (config(Way::Tls, Some(&trusting), None), Compression::Gzip),
        (config(Way::Tls, Some(&blind), None), Compression::Snappy),
        (config(Way::MutualTls, Some(&known), None), Compression::Zstd),
        (config(Way::Sasl, Some(&trusting), login(Mechanism::Plain, password)), Compression::None),
        (config(Way::Sasl, Some(&trusting), login(Mechanism::ScramSha256, password)), Compression::None),
        (config(Way::Sasl, Some(&trusting), login(Mechanism::ScramSha512, password)), Compression::None),
    ]
    .into_iter()
    .enumerate()
    {
        let sink = rows(&life("us"), &KafkaConfig { compression, ..good });
        let rows = some(10, |n| format!("{{\"n\":{n}}}")).unwrap();
        let receipt = bring(&sink, &scope("west", "ways", &index.to_string()), Base::Filled, &rows).await.unwrap();
        assert_eq!(receipt.written, 10);
        assert_eq!(sink.probe().await.unwrap(), "Kafka broker metadata request succeeded");
    }

    let said = |sink: std::sync::Arc<dyn kollect::sinks::RowSink>| async move {
        let failure = sink.probe().await.unwrap_err();
        format!(
            "{:?} {}: {}",
            kollect::error::Classify::class(&failure),
            failure.reason(),
            kollect::error::chain(&failure)
        )
    };
    for (bad, words) in [
        (config(Way::Tls, Some(&TlsConfig::default()), None), ["Terminal ConnectionTestFailed", "check spec.tls"]),
        (config(Way::MutualTls, Some(&trusting), None), ["ConnectionTestFailed", "spec.tls"]),
        (
            config(Way::Sasl, Some(&trusting), login(Mechanism::ScramSha256, "wrong")),
            ["Terminal ConnectionTestFailed", "check username and password"],
        ),
        (
            config(Way::Sasl, Some(&trusting), login(Mechanism::Plain, "wrong")),
            ["Terminal ConnectionTestFailed", "check username and password"],
        ),
        (
            KafkaConfig { topic: "nowhere".to_owned(), ..config(Way::Plain, None, None) },
            ["Terminal ConnectionTestFailed", "spec.kafka.topic does not exist"],
        ),
        (
            KafkaConfig { brokers: vec!["kafka.invalid:9092".to_owned()], ..config(Way::Plain, None, None) },
            ["Transient ConnectionTestFailed", "spec.kafka.brokers"],
        ),
    ] {
        let said = said(rows(&life("us"), &bad)).await;
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
    let refused = life("us").sink(&config(Way::Sasl, None, login(Mechanism::Plain, password))).unwrap_err();
    assert!(refused.to_string().starts_with("spec.kafka.saslMechanism: PLAIN shows the password"), "{refused}");

    // What the guard refuses is not dialled, whoever told the address: a name that leads to this host passes the check of
    // the settings, and is stopped when it is dialled.
    let closed = Guard { allow_private: false, allow_loopback: false };
    let us = kollect::export::event::Life { process: "us".to_owned(), lease_transitions: 0 };
    let guarded = KafkaTopics::new(closed, us, jiff::Timestamp::now, CancellationToken::new());
    let port = kafka.broker(Way::Plain).rsplit_once(':').unwrap().1.to_owned();
    let literal = guarded.sink(&config(Way::Plain, None, None)).unwrap_err();
    assert!(literal.to_string().contains("host \"127.0.0.1\" is a loopback address"), "{literal}");
    if let Some(name) = name_of_this_host() {
        let sink =
            rows(&guarded, &KafkaConfig { brokers: vec![format!("{name}:{port}")], ..config(Way::Plain, None, None) });
        let said = said(sink).await;
        assert!(said.contains("Terminal") && said.contains("which sinks may not reach"), "{said}");
    }
}

/// Returns a name from the table of hosts that leads to an address which the guard refuses, and is not one that it knows.
fn name_of_this_host() -> Option<String> {
    let hosts = std::fs::read_to_string("/etc/hosts").ok()?;
    let refused =
        |address: &str| address.starts_with("127.") || address.starts_with("10.") || address.starts_with("172.");
    hosts.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|address| refused(address));
        address.and_then(|_| {
            words.find(|name| !name.contains("localhost") && !name.starts_with("ip6-")).map(str::to_owned)
        })
    })
}
