//! How the server is reached: hosts, passwords, certificates.

use std::time::Duration;

use kollect::error::{Class, Classify, chain};
use kollect::export::Selection;
use kollect::secret::Secret;
use kollect::sinks::TlsConfig;
use kollect::sinks::netguard::Guard;
use kollect::sinks::postgres::{PostgresConfig, PostgresPools, Writer};
use kollect::sinks::{Fault, Sink};
use tokio_util::sync::CancellationToken;

use super::{Bench, config, life, only_postgres, refused, scope, sink};
use crate::support::lab_or_skip;

#[tokio::test]
async fn errors_show_no_password() {
    let Some(bench) = Bench::new("secrets").await else { return };
    let wrong = bench.server.dsn(&bench.database).replace("kollect:", "kollect:hunter2");
    let config = config(&wrong);
    let sink = sink(&life("us", 0), &config);
    let error = refused(&sink).await;
    let shown = format!("{error:?} {} {sink:?} {config:?}", chain(&error));
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(chain(&error).contains("SQLSTATE 28P01"), "{shown}");
}

#[tokio::test]
async fn loopback_is_refused_without_the_flag() {
    let writer = Writer { process: "us".to_owned(), lease_transitions: 0 };
    let pools = PostgresPools::new(Guard::default(), writer, jiff::Timestamp::now, CancellationToken::new());
    let sink = pools.sink(&config("postgres://u:p@127.0.0.1:1/d")).unwrap();
    let error = sink.probe().await.unwrap_err();
    assert_eq!(error.class(), Class::Terminal);
    assert_eq!(error.to_string(), "host \"127.0.0.1\" is a loopback address, which sinks may not reach");
    pools.close().await;
}

#[tokio::test]
async fn sinks_of_one_destination_share_two_connections() {
    let Some(bench) = Bench::new("pool").await else { return };
    let pools = life("us", 0);
    let sinks: Vec<_> = (0..6).map(|_| sink(&pools, &bench.config())).collect();
    let scopes: Vec<_> = (0..6).map(|n| scope("west", "team-a", &format!("inv-{n}"))).collect();
    let all = Selection::All;
    let work = sinks.iter().zip(&scopes).map(|(sink, scope)| sink.recover(scope, &all, &[]));
    for outcome in futures::future::join_all(work).await {
        outcome.unwrap();
    }
    let database = bench.connect().await;
    let sql =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'kollect'";
    assert_eq!(database.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 2);
    pools.close().await;
    kollect::lab::wait::wait_for("the connections to close", Duration::from_secs(10), || async {
        let open: i64 = database.query_one(sql, &[]).await?.get(0);
        anyhow::ensure!(open == 0, "{open} are open");
        Ok(())
    })
    .await
    .unwrap();
}

/// A certificate authority and what it signed, as PEM.
struct Certificates {
    ca: String,
    server: String,
    server_key: String,
    client: String,
    client_key: String,
}

fn certificates(names: &[&str]) -> Certificates {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    let mut params = CertificateParams::default();
    // OpenSSL takes a certificate with the name of its issuer for self-signed.
    params.distinguished_name.push(DnType::CommonName, "authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let sign = |names: &[&str]| {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        (CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap().pem(), key.serialize_pem())
    };
    let ((server, server_key), (client, client_key)) = (sign(names), sign(&["kollect"]));
    Certificates { ca: ca.pem(), server, server_key, client, client_key }
}

#[tokio::test]
async fn client_certificate_is_shown_to_a_server_that_asks_for_it() {
    let Some(lab) = lab_or_skip(only_postgres()).await else { return };
    let server = lab.postgres();
    server.create_database("client").await.unwrap();
    let (ours, foreign) = (certificates(&["localhost"]), certificates(&["localhost"]));
    server.enable_tls(&ours.server, &ours.server_key).await.unwrap();
    let admin = server.connect_admin("postgres").await.unwrap();
    let rules = "hostssl client kollect all scram-sha-256 clientcert=verify-ca\nhost all postgres all scram-sha-256\n";
    for (file, text) in [("clients.crt", ours.ca.as_str()), ("pg_hba.conf", rules)] {
        let object = admin.query_one("SELECT lo_from_bytea(0, convert_to($1, 'UTF8'))", &[&text]).await.unwrap();
        let write = "SELECT lo_export($1, current_setting('data_directory') || '/' || $2)";
        admin.query_one(write, &[&object.get::<_, u32>(0), &file]).await.unwrap();
    }
    admin.batch_execute("ALTER SYSTEM SET ssl_ca_file = 'clients.crt'").await.unwrap();
    server.stop().await.unwrap();
    server.restart().await.unwrap();

    let dsn = server.dsn("client").replace("sslmode=disable", "sslmode=verify-full").replace("127.0.0.1", "localhost");
    let with = |mode: &str, client: Option<&Certificates>| {
        let tls = TlsConfig {
            ca_pem: Some(ours.ca.clone().into_bytes()),
            client_cert_pem: client.map(|signed| signed.client.clone().into_bytes()),
            client_key_pem: client.map(|signed| Secret::new(signed.client_key.clone())),
            ..TlsConfig::default()
        };
        let dsn = dsn.replace("sslmode=verify-full", &format!("sslmode={mode}"));
        sink(&life("us", 0), &PostgresConfig { tls, ..config(&dsn) })
    };
    // `allow` begins in plain text, which this server refuses.
    for mode in ["allow", "prefer", "require", "verify-ca", "verify-full"] {
        with(mode, Some(&ours)).probe().await.unwrap_or_else(|error| panic!("{mode}: {}", chain(&error)));
    }
    let full = "verify-full";
    for refused in [with(full, None), with(full, Some(&foreign)), with("disable", Some(&ours))] {
        let error = refused.probe().await.unwrap_err();
        assert_eq!((error.class(), error.fault()), (Class::Terminal, Fault::Destination), "{}", chain(&error));
    }
}

#[tokio::test]
async fn tls_is_checked_as_sslmode_says() {
    let Some(lab) = lab_or_skip(only_postgres()).await else { return };
    let server = lab.postgres();
    server.create_database("tls").await.unwrap();
    let plain = server.dsn("tls");
    let with = |mode: &str, host: &str, ca: Option<&str>, skip: bool| {
        let dsn = plain.replace("sslmode=disable", &format!("sslmode={mode}")).replace("127.0.0.1", host);
        let ca_pem = ca.map(|ca| ca.as_bytes().to_vec());
        let tls = TlsConfig { insecure_skip_verify: skip, ca_pem, ..TlsConfig::default() };
        sink(&life("us", 0), &PostgresConfig { tls, ..config(&dsn) })
    };
    // Before the server speaks TLS.
    let error = with("require", "127.0.0.1", None, false).probe().await.unwrap_err();
    assert_eq!(error.class(), Class::Terminal);
    assert!(chain(&error).ends_with("server does not support TLS"), "{}", chain(&error));
    with("prefer", "127.0.0.1", None, false).probe().await.unwrap();

    let (ours, foreign) = (certificates(&["localhost"]), certificates(&["localhost"]));
    server.enable_tls(&ours.server, &ours.server_key).await.unwrap();
    let (good, bad) = (Some(ours.ca.as_str()), Some(foreign.ca.as_str()));
    for (mode, host, ca, skip, encrypted) in [
        ("disable", "localhost", None, false, Some(false)),
        ("allow", "localhost", None, false, Some(false)),
        ("prefer", "localhost", None, false, Some(true)),
        ("prefer", "localhost", bad, false, Some(false)),
        ("require", "127.0.0.1", None, false, Some(true)),
        ("require", "127.0.0.1", good, false, Some(true)),
        ("require", "127.0.0.1", bad, false, None),
        ("verify-ca", "127.0.0.1", good, false, Some(true)),
        ("verify-ca", "localhost", bad, false, None),
        ("verify-full", "localhost", good, false, Some(true)),
        ("verify-full", "127.0.0.1", good, false, None),
        ("verify-full", "localhost", bad, false, None),
        ("verify-full", "127.0.0.1", bad, true, Some(true)),
    ] {
        let case = format!("{mode} to {host}, ca {:?}, skip {skip}", ca.map(|ca| ca == ours.ca));
        let sink = with(mode, host, ca, skip);
        match (sink.probe().await, encrypted) {
            (Ok(_), Some(expected)) => {
                let admin = server.connect_admin("tls").await.unwrap();
                let sql = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                           WHERE application_name = 'kollect' AND datname = 'tls' ORDER BY backend_start DESC LIMIT 1";
                assert_eq!(admin.query_one(sql, &[]).await.unwrap().get::<_, bool>(0), expected, "{case}");
            }
            (Err(error), None) => {
                let verdict = (error.class(), error.fault());
                assert_eq!(verdict, (Class::Terminal, Fault::Destination), "{case}: {}", chain(&error));
                assert!(chain(&error).contains("invalid peer certificate"), "{case}: {}", chain(&error));
            }
            (outcome, _) => panic!("{case}: {outcome:?}"),
        }
    }
}
