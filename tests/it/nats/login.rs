//! Every way to log in, at servers that ask for it, and every wrong one: its class, and what a user is told to mend.

use std::path::PathBuf;
use std::sync::Arc;

use kollect::api::v1alpha1::sink::StreamMode;
use kollect::error::{Class, Classify as _};
use kollect::lab::nats::{Accounts, NatsOptions, NatsServer};
use kollect::lab::{Lab, LabOptions};
use kollect::secret::Secret;
use kollect::sinks::nats::{NatsConfig, NatsCredentials};
use kollect::sinks::{Fault, TlsConfig};
use nkeys::KeyPair;

use super::{config, life, row_sink};

/// What a server says to somebody whom it does not know.
const UNKNOWN: &str = "says: Authorization Violation; check the Secret of spec.nats.secretRef";

/// An authority and what it signed, as PEM.
struct Certificates {
    ca: String,
    server: (String, String),
    client: (String, String),
}

impl Certificates {
    fn new() -> Self {
        use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let sign = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            (params.signed_by(&key, &ca).unwrap().pem(), key.serialize_pem())
        };
        let (server, client) = (sign("localhost"), sign("kollect"));
        Self { ca: ca.pem(), server, client }
    }

    /// What a sink is given: the authority, and a certificate with its key.
    fn tls(&self, client: Option<&Self>) -> TlsConfig {
        TlsConfig {
            ca_pem: Some(self.ca.clone().into_bytes()),
            client_cert_pem: client.map(|signed| signed.client.0.clone().into_bytes()),
            client_key_pem: client.map(|signed| Secret::new(signed.client.1.clone())),
            ..TlsConfig::default()
        }
    }
}

/// Starts a server that asks for certificates of this authority.
async fn with_tls(lab: &Lab, certificates: &Certificates) -> NatsServer {
    let (server, key) = &certificates.server;
    let [server, key, ca] =
        [("server.crt", server), ("server.key", key), ("ca.crt", &certificates.ca)].map(|(name, text)| -> PathBuf {
            let file = lab.dir().join(name);
            std::fs::write(&file, text).unwrap();
            file
        });
    let options = NatsOptions { tls: Some((server, key, Some(ca))), ..NatsOptions::default() };
    NatsServer::start(lab.dir(), options, lab.guard()).await.unwrap()
}

/// An attempt, and what becomes of it: it gets in, or an error says so.
struct Attempt {
    config: NatsConfig,
    says: Result<(), &'static str>,
}

fn attempt(server: &NatsServer, credentials: NatsCredentials, says: Result<(), &'static str>) -> Attempt {
    Attempt { config: NatsConfig { credentials, ..config(&server.url(), StreamMode::Changes) }, says }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_login_gets_in_and_a_wrong_one_says_what_to_mend() {
    let parts = LabOptions { control_plane: false, postgres: false, ..LabOptions::default() };
    let Some(lab) = crate::support::lab_or_skip(parts).await else { return };
    let start = |options| NatsServer::start(lab.dir(), options, lab.guard());
    let (pair, foreign) = (KeyPair::new_user(), KeyPair::new_user());
    let login = Some(("kollect".to_owned(), "pass word".to_owned()));
    let users = vec![format!("nkey: {}", pair.public_key())];
    let users = start(NatsOptions { login, users, ..NatsOptions::default() }).await;
    let Some(users) = crate::support::part_or_skip(users) else { return };
    let more = "authorization { token: \"s3cr3t\" }\n".to_owned();
    let tokens = start(NatsOptions { more, ..NatsOptions::default() }).await.unwrap();
    let (accounts, others) = (Accounts::default(), Accounts::default());
    let more = accounts.configuration().unwrap();
    let jwts = start(NatsOptions { more, ..NatsOptions::default() }).await.unwrap();
    let open = start(NatsOptions::default()).await.unwrap();

    let user = |name: &str, password| NatsCredentials::User(name.to_owned(), Secret::new(password));
    let token = |token| NatsCredentials::Token(Secret::new(token));
    let nkey = |pair: &KeyPair| NatsCredentials::Seed(Secret::new(pair.seed().unwrap()));
    let creds = |accounts: &Accounts| NatsCredentials::Creds(Secret::new(accounts.credentials().unwrap()));
    let mut attempts = vec![
        attempt(&users, user("kollect", "pass word"), Ok(())),
        attempt(&users, user("kollect", "password"), Err(UNKNOWN)),
        attempt(&users, user("someone", "pass word"), Err(UNKNOWN)),
        attempt(&users, NatsCredentials::None, Err(UNKNOWN)),
        attempt(&users, token("s3cr3t"), Err(UNKNOWN)),
        attempt(&users, nkey(&pair), Ok(())),
        attempt(&users, nkey(&foreign), Err(UNKNOWN)),
        attempt(&tokens, token("s3cr3t"), Ok(())),
        attempt(&tokens, token("secret"), Err(UNKNOWN)),
        attempt(&tokens, NatsCredentials::None, Err(UNKNOWN)),
        attempt(&jwts, creds(&accounts), Ok(())),
        attempt(&jwts, creds(&others), Err(UNKNOWN)),
        attempt(&jwts, user("kollect", "pass word"), Err(UNKNOWN)),
        // A server that asks for nothing takes whatever it is given.
        attempt(&open, token("s3cr3t"), Ok(())),
    ];

    let (ours, theirs) = (Certificates::new(), Certificates::new());
    let secure = with_tls(&lab, &ours).await;
    let url = format!("tls://localhost:{}", secure.port());
    let with = |tls: TlsConfig, says: Result<(), &'static str>| Attempt {
        config: NatsConfig { tls, credentials: NatsCredentials::None, ..config(&url, StreamMode::Changes) },
        says,
    };
    attempts.extend([
        with(ours.tls(Some(&ours)), Ok(())),
        with(ours.tls(None), Err("name one that it trusts in spec.tls.clientSecretRef")),
        with(ours.tls(Some(&theirs)), Err("name one that it trusts in spec.tls.clientSecretRef")),
        with(theirs.tls(Some(&ours)), Err("name its authority in spec.tls.caBundle or spec.tls.caSecretRef")),
        with(TlsConfig::default(), Err("name its authority in spec.tls.caBundle or spec.tls.caSecretRef")),
        with(TlsConfig { insecure_skip_verify: true, ca_pem: None, ..ours.tls(Some(&ours)) }, Ok(())),
    ]);
    // The certificate is of another name than the address.
    let mut elsewhere = with(ours.tls(Some(&ours)), Err("name the server in spec.nats.url as its certificate does"));
    elsewhere.config.url = format!("tls://127.0.0.1:{}", secure.port());
    // TLS is asked for where there is none, and not asked for where there is.
    let mut plain =
        attempt(&open, NatsCredentials::None, Err("offers no TLS, and spec.tls or the address asks for it"));
    plain.config.tls = ours.tls(None);
    let mut unasked = with(TlsConfig::default(), Err("name its authority in spec.tls.caBundle"));
    unasked.config.url = format!("nats://localhost:{}", secure.port());
    attempts.extend([elsewhere, plain, unasked]);

    let process = Arc::new(life("us"));
    for (number, Attempt { config, says }) in attempts.into_iter().enumerate() {
        let probed = row_sink(&process, &config).probe().await;
        match (probed, says) {
            (Ok(text), Ok(())) => assert!(text.starts_with("NATS JetStream account info request succeeded"), "{text}"),
            (Err(error), Err(part)) => {
                let text = kollect::error::chain(&error);
                assert!(text.contains(part), "{number}: {text}");
                let seen = (error.class(), error.fault(), error.reason());
                assert_eq!(seen, (Class::Terminal, Fault::Destination, "ConnectionTestFailed"), "{number}: {text}");
                for secret in ["s3cr3t", "pass word", "SU"] {
                    assert!(!text.contains(secret), "{number}: {text}");
                }
            }
            (probed, says) => panic!("{number}: {probed:?}, not {says:?}"),
        }
    }
}
