//! Reads a PostgreSQL connection string, in URL and in key-value form, with the meaning that libpq gives it.
//!
//! It is read here and not by the driver, because the driver knows half of the `sslmode`s, opens sockets by itself, and
//! quotes the text in its errors. Nothing of the text is ever repeated in a message but names of parameters that are
//! known here: what looks like an unknown parameter may be a piece of a password.

use std::time::Duration;

use tokio_postgres::config::{ChannelBinding, LoadBalanceHosts, SslNegotiation};

use crate::secret::Secret;

/// A connection string, understood.
#[derive(Debug, Clone)]
pub(super) struct Dsn {
    pub(super) hosts: Vec<Host>,
    pub(super) database: String,
    pub(super) user: String,
    pub(super) password: Option<Secret>,
    pub(super) ssl_mode: Option<SslMode>,
    pub(super) system_roots: bool,
    pub(super) ssl_negotiation: SslNegotiation,
    pub(super) channel_binding: ChannelBinding,
    pub(super) load_balance: LoadBalanceHosts,
    pub(super) session: Session,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) application_name: Option<String>,
    pub(super) options: Option<String>,
}

/// One host to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// The name that certificates are checked against.
    pub(super) name: String,
    /// The numeric address to dial instead of resolving the name (`hostaddr`).
    pub(super) address: Option<String>,
    pub(super) port: u16,
}

/// `sslmode`, as libpq defines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// `target_session_attrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Session {
    Any,
    ReadWrite,
}

/// What is wrong with a connection string. Never holds a part of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum DsnError {
    #[error("the connection string is empty")]
    Empty,
    #[error("the connection string does not start with postgres:// or postgresql:// and is not a list of key=value")]
    Form,
    #[error("the connection string has a {0} that cannot be read; percent-encode special characters in a URL")]
    Part(&'static str),
    #[error("the connection string has no {0}")]
    Missing(&'static str),
    #[error("the connection string has an unknown parameter, number {0}; remove it")]
    Unknown(usize),
    #[error("the connection string sets \"{name}\" to a value that is not understood; allowed: {allowed}")]
    Value { name: &'static str, allowed: &'static str },
    #[error("the connection string sets \"{name}\", which is not supported: {instead}")]
    Unsupported { name: &'static str, instead: &'static str },
    #[error("the connection string names {0} hosts and {1} {2}")]
    Count(usize, usize, &'static str),
}

/// Values as written, before they are understood.
#[derive(Default)]
struct Raw {
    host: Vec<String>,
    hostaddr: Vec<String>,
    port: Vec<String>,
    fallback_application_name: Option<String>,
    root_cert: Option<String>,
}

/// What pools of other clients are told; this operator keeps a pool of its own.
const POOL: [&str; 12] = [
    "pool_max_conns",
    "pool_min_conns",
    "pool_min_idle_conns",
    "pool_max_conn_lifetime",
    "pool_max_conn_lifetime_jitter",
    "pool_max_conn_idle_time",
    "pool_health_check_period",
    "default_query_exec_mode",
    "statement_cache_capacity",
    "statement_cache_mode",
    "description_cache_capacity",
    "min_read_buffer_size",
];

/// Accepted for the sake of strings made for libpq, and without effect here.
const WITHOUT_EFFECT: [&str; 9] = [
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "keepalives_retries",
    "tcp_user_timeout",
    "sslcompression",
    "sslsni",
    "gssdelegation",
];

impl Dsn {
    pub(super) fn parse(text: &str) -> Result<Self, DsnError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(DsnError::Empty);
        }
        let mut dsn = Self::empty();
        let mut raw = Raw::default();
        let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
        let pairs = match rest {
            Some(rest) => dsn.read_url(rest, &mut raw)?,
            None if text.contains("://") => return Err(DsnError::Form),
            None => split_pairs(text)?,
        };
        for (index, (key, value)) in pairs.into_iter().enumerate() {
            dsn.set(index + 1, &key, value, &mut raw)?;
        }
        dsn.finish(raw)
    }

    fn empty() -> Self {
        Self {
            hosts: Vec::new(),
            database: String::new(),
            user: String::new(),
            password: None,
            ssl_mode: None,
            system_roots: false,
            ssl_negotiation: SslNegotiation::Postgres,
            channel_binding: ChannelBinding::Prefer,
            load_balance: LoadBalanceHosts::Disable,
            session: Session::Any,
            connect_timeout: None,
            application_name: None,
            options: None,
        }
    }

    /// Reads `user:password@host:port,…/database?key=value&…` and returns the parameters.
    fn read_url(&mut self, rest: &str, raw: &mut Raw) -> Result<Vec<(String, String)>, DsnError> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        // An `@` further on means that a special character of the password ended the authority too early.
        if database.contains('@') || query.contains('@') && !authority.contains('@') {
            return Err(DsnError::Part("password"));
        }
        let hosts = match authority.rsplit_once('@') {
            None => authority,
            Some((login, hosts)) => {
                let (user, password) = login.split_once(':').map_or((login, None), |(u, p)| (u, Some(p)));
                self.user = decode(user).ok_or(DsnError::Part("user"))?;
                let password = password.map(decode).map(|text| text.ok_or(DsnError::Part("password")));
                self.password = password.transpose()?.map(Secret::new);
                hosts
            }
        };
        for host in hosts.split(',').filter(|_| !hosts.is_empty()) {
            let (name, port) = match host.strip_prefix('[') {
                Some(bracketed) => {
                    let (name, after) = bracketed.split_once(']').ok_or(DsnError::Part("host"))?;
                    let port =
                        if after.is_empty() { "" } else { after.strip_prefix(':').ok_or(DsnError::Part("port"))? };
                    (name, port)
                }
                None => host.split_once(':').unwrap_or((host, "")),
            };
            raw.host.push(decode(name).ok_or(DsnError::Part("host"))?);
            raw.port.push(port.to_owned());
        }
        self.database = decode(database).ok_or(DsnError::Part("database"))?;
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').ok_or(DsnError::Part("parameter"))?;
            Ok((key.to_owned(), decode(value).ok_or(DsnError::Part("parameter"))?))
        });
        pairs.collect()
    }

    /// Takes one parameter, the `position`-th of the string.
    fn set(&mut self, position: usize, key: &str, value: String, raw: &mut Raw) -> Result<(), DsnError> {
        let list = |value: &str| value.split(',').map(|item| item.trim().to_owned()).collect::<Vec<_>>();
        match key {
            "host" => raw.host = list(&value),
            "hostaddr" => raw.hostaddr = list(&value),
            "port" => raw.port = list(&value),
            "user" => self.user = value,
            "password" => self.password = Some(Secret::new(value)),
            "dbname" | "database" => self.database = value,
            "application_name" => self.application_name = Some(value),
            "fallback_application_name" => raw.fallback_application_name = Some(value),
            "options" => self.options = Some(value).filter(|options| !options.is_empty()),
            "connect_timeout" => {
                let wrong = DsnError::Value { name: "connect_timeout", allowed: "a number of seconds" };
                let seconds: i64 = value.trim().parse().map_err(|_| wrong)?;
                self.connect_timeout = u64::try_from(seconds).ok().filter(|s| *s > 0).map(Duration::from_secs);
            }
            "sslmode" => self.ssl_mode = Some(ssl_mode(&value)?),
            "sslrootcert" => raw.root_cert = Some(value).filter(|path| !path.is_empty()),
            "sslnegotiation" => {
                self.ssl_negotiation = match value.as_str() {
                    "postgres" => SslNegotiation::Postgres,
                    "direct" => SslNegotiation::Direct,
                    _ => return Err(DsnError::Value { name: "sslnegotiation", allowed: "postgres, direct" }),
                }
            }
            "channel_binding" => {
                self.channel_binding = match value.as_str() {
                    "disable" => ChannelBinding::Disable,
                    "prefer" => ChannelBinding::Prefer,
                    "require" => ChannelBinding::Require,
                    _ => return Err(DsnError::Value { name: "channel_binding", allowed: "disable, prefer, require" }),
                }
            }
            "load_balance_hosts" => {
                self.load_balance = match value.as_str() {
                    "disable" => LoadBalanceHosts::Disable,
                    "random" => LoadBalanceHosts::Random,
                    _ => return Err(DsnError::Value { name: "load_balance_hosts", allowed: "disable, random" }),
                }
            }
            "target_session_attrs" => {
                self.session = match value.as_str() {
                    "any" => Session::Any,
                    "read-write" | "primary" => Session::ReadWrite,
                    _ => {
                        let allowed = "any, read-write, primary (rows are written)";
                        return Err(DsnError::Value { name: "target_session_attrs", allowed });
                    }
                }
            }
            other => return without_field(position, other, &value),
        }
        Ok(())
    }

    fn finish(mut self, raw: Raw) -> Result<Self, DsnError> {
        self.hosts = hosts(&raw)?;
        if self.user.is_empty() {
            return Err(DsnError::Missing("user"));
        }
        if self.database.is_empty() {
            self.database.clone_from(&self.user);
        }
        self.application_name = self.application_name.or(raw.fallback_application_name);
        match raw.root_cert.as_deref() {
            None => {}
            Some("system") => {
                self.system_roots = true;
                match self.ssl_mode {
                    None => self.ssl_mode = Some(SslMode::VerifyFull),
                    Some(SslMode::VerifyFull) => {}
                    Some(_) => {
                        return Err(DsnError::Value {
                            name: "sslmode",
                            allowed: "verify-full, with sslrootcert=system",
                        });
                    }
                }
            }
            Some(_) => {
                let instead = "give the certificate in spec.tls.caBundle or spec.tls.caSecretRef, or set it to system";
                return Err(DsnError::Unsupported { name: "sslrootcert", instead });
            }
        }
        Ok(self)
    }
}

fn ssl_mode(value: &str) -> Result<SslMode, DsnError> {
    Ok(match value {
        "disable" => SslMode::Disable,
        "allow" => SslMode::Allow,
        "prefer" => SslMode::Prefer,
        "require" => SslMode::Require,
        "verify-ca" => SslMode::VerifyCa,
        "verify-full" => SslMode::VerifyFull,
        _ => {
            let allowed = "disable, allow, prefer, require, verify-ca, verify-full";
            return Err(DsnError::Value { name: "sslmode", allowed });
        }
    })
}

/// Parameters that are accepted without effect, or refused by name.
fn without_field(position: usize, key: &str, value: &str) -> Result<(), DsnError> {
    if POOL.contains(&key) || WITHOUT_EFFECT.contains(&key) {
        return Ok(());
    }
    let refused = [
        ("sslcert", "give the certificate in spec.tls.clientSecretRef"),
        ("sslkey", "give the key in spec.tls.clientSecretRef"),
        ("sslpassword", "give an unencrypted key in spec.tls.clientSecretRef"),
        ("sslcrl", "revocation lists are not checked"),
        ("sslcrldir", "revocation lists are not checked"),
        ("passfile", "put the password into the connection string"),
        ("service", "write out what the service stands for"),
        ("servicefile", "write out what the service stands for"),
        ("requirepeer", "it concerns Unix sockets"),
        ("require_auth", "remove it"),
        ("krbsrvname", "GSSAPI is not built in"),
        ("gsslib", "GSSAPI is not built in"),
        ("ssl", "use sslmode"),
        ("replication", "rows are written with SQL"),
        ("search_path", "set spec.postgres.schema"),
        ("statement_timeout", "set it in spec.options"),
        ("lock_timeout", "set it in spec.options"),
    ];
    if let Some((name, instead)) = refused.into_iter().find(|(name, _)| *name == key) {
        return Err(DsnError::Unsupported { name, instead });
    }
    match (key, value) {
        ("client_encoding", "auto" | "UTF8" | "UTF-8" | "utf8" | "utf-8") | ("gssencmode", "disable" | "prefer") => {
            Ok(())
        }
        ("client_encoding", _) => Err(DsnError::Value { name: "client_encoding", allowed: "UTF8" }),
        ("gssencmode", _) => Err(DsnError::Value { name: "gssencmode", allowed: "disable, prefer" }),
        // rustls speaks nothing older than TLS 1.2.
        ("ssl_min_protocol_version", "TLSv1" | "TLSv1.1" | "TLSv1.2")
        | ("ssl_max_protocol_version", "" | "TLSv1.3") => Ok(()),
        ("ssl_min_protocol_version", _) => {
            Err(DsnError::Value { name: "ssl_min_protocol_version", allowed: "TLSv1.2 and older" })
        }
        ("ssl_max_protocol_version", _) => {
            Err(DsnError::Value { name: "ssl_max_protocol_version", allowed: "TLSv1.3" })
        }
        _ => Err(DsnError::Unknown(position)),
    }
}

/// Joins hosts, addresses and ports, which libpq gives as three lists.
fn hosts(raw: &Raw) -> Result<Vec<Host>, DsnError> {
    let count = raw.host.len().max(raw.hostaddr.len());
    if count == 0 {
        return Err(DsnError::Missing("host"));
    }
    if !raw.host.is_empty() && !raw.hostaddr.is_empty() && raw.host.len() != raw.hostaddr.len() {
        return Err(DsnError::Count(raw.host.len(), raw.hostaddr.len(), "values of hostaddr"));
    }
    if raw.port.len() > 1 && raw.port.len() != count {
        return Err(DsnError::Count(count, raw.port.len(), "ports"));
    }
    let host = |index: usize| {
        let address = raw.hostaddr.get(index).filter(|address| !address.is_empty()).cloned();
        let name = raw.host.get(index).filter(|name| !name.is_empty()).cloned();
        let name = name.or_else(|| address.clone()).ok_or(DsnError::Missing("host"))?;
        if name.starts_with('/') || name.starts_with('@') {
            return Err(DsnError::Unsupported { name: "host", instead: "a Unix socket is not reachable from a pod" });
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:%".contains(&b)) {
            return Err(DsnError::Part("host"));
        }
        if address.as_deref().is_some_and(|address| address.parse::<std::net::IpAddr>().is_err()) {
            return Err(DsnError::Value { name: "hostaddr", allowed: "a numeric address" });
        }
        let port = raw.port.get(index).or_else(|| raw.port.first()).map_or("", String::as_str);
        let port = if port.is_empty() { 5432 } else { port.parse().map_err(|_| DsnError::Part("port"))? };
        Ok(Host { name, address, port })
    };
    (0..count).map(host).collect()
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high << 4 | low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

/// Splits `key=value key = 'quoted \' value'`.
fn split_pairs(text: &str) -> Result<Vec<(String, String)>, DsnError> {
    let mut pairs = Vec::new();
    let mut rest = text.chars().peekable();
    loop {
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        if rest.peek().is_none() {
            return Ok(pairs);
        }
        let mut key = String::new();
        while let Some(c) = rest.next_if(|c| !c.is_whitespace() && *c != '=') {
            key.push(c);
        }
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        if rest.next() != Some('=') {
            return Err(DsnError::Form);
        }
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = rest.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match rest.next() {
                Some('\\') => value.extend(rest.next()),
                Some('\'') if quoted => break,
                Some(c) if !quoted && c.is_whitespace() => break,
                None if quoted => return Err(DsnError::Part("quoted value")),
                None => break,
                Some(c) => value.push(c),
            }
        }
        pairs.push((key, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Dsn {
        Dsn::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn host(name: &str, port: u16) -> Host {
        Host { name: name.to_owned(), address: None, port }
    }

    #[test]
    fn both_forms_say_the_same() {
        for text in [
            "postgres://kollect:p%40ss%2Fw%20rd@db.example:6543/inventory?sslmode=require&connect_timeout=7",
            "postgresql://db.example:6543/inventory?user=kollect&password=p%40ss%2Fw%20rd&sslmode=require&connect_timeout=7",
            r"host=db.example port=6543 dbname=inventory user=kollect password='p@ss/w rd' sslmode=require connect_timeout=7",
            r"  host = db.example port=6543 dbname=inventory user=kollect password=p@ss/w\ rd sslmode=require connect_timeout = 7 ",
        ] {
            let dsn = parse(text);
            assert_eq!(dsn.hosts, [host("db.example", 6543)], "{text}");
            assert_eq!((dsn.user.as_str(), dsn.database.as_str()), ("kollect", "inventory"), "{text}");
            assert_eq!(dsn.password.as_ref().map(Secret::expose), Some("p@ss/w rd"), "{text}");
            assert_eq!(dsn.ssl_mode, Some(SslMode::Require), "{text}");
            assert_eq!(dsn.connect_timeout, Some(Duration::from_secs(7)), "{text}");
        }
    }

    #[test]
    fn defaults_are_those_of_libpq() {
        let dsn = parse("postgres://kollect@db");
        assert_eq!(dsn.hosts, [host("db", 5432)]);
        assert_eq!(dsn.database, "kollect");
        assert_eq!((dsn.ssl_mode, dsn.session), (None, Session::Any));
    }

    #[test]
    fn password_may_hold_an_at_sign() {
        let dsn = parse("postgres://kollect:a@b:c@db/inventory");
        assert_eq!(dsn.password.as_ref().map(Secret::expose), Some("a@b:c"));
        assert_eq!(dsn.hosts, [host("db", 5432)]);
    }

    #[test]
    fn several_hosts_have_their_ports() {
        assert_eq!(
            parse("postgres://u@a:1,b,[2001:db8::1]:3/d").hosts,
            [host("a", 1), host("b", 5432), host("2001:db8::1", 3)]
        );
        assert_eq!(parse("host=a,b port=7 user=u").hosts, [host("a", 7), host("b", 7)]);
        let dsn = parse("host=db.example hostaddr=192.0.2.7 user=u");
        assert_eq!(dsn.hosts[0].address.as_deref(), Some("192.0.2.7"));
        assert_eq!(Dsn::parse("host=a,b port=1,2,3 user=u").unwrap_err(), DsnError::Count(2, 3, "ports"));
    }

    #[test]
    fn each_sslmode_is_known() {
        for (word, mode) in [
            ("disable", SslMode::Disable),
            ("allow", SslMode::Allow),
            ("prefer", SslMode::Prefer),
            ("require", SslMode::Require),
            ("verify-ca", SslMode::VerifyCa),
            ("verify-full", SslMode::VerifyFull),
        ] {
            assert_eq!(parse(&format!("postgres://u@h?sslmode={word}")).ssl_mode, Some(mode));
        }
    }

    #[test]
    fn system_roots_ask_for_full_verification() {
        let dsn = parse("postgres://u@h?sslrootcert=system");
        assert_eq!((dsn.ssl_mode, dsn.system_roots), (Some(SslMode::VerifyFull), true));
        assert!(Dsn::parse("postgres://u@h?sslrootcert=system&sslmode=require").is_err());
    }

    #[test]
    fn pool_and_keepalive_parameters_are_accepted() {
        parse(
            "postgres://u@h?pool_max_conns=10&pool_max_conn_lifetime=1h&keepalives_idle=30&gssencmode=disable&client_encoding=UTF8",
        );
    }

    #[test]
    fn wrong_strings_say_what_is_wrong() {
        for (text, message) in [
            ("", "the connection string is empty"),
            (
                "mysql://u@h/d",
                "the connection string does not start with postgres:// or postgresql:// and is not a list of key=value",
            ),
            (
                "postgres://u:p/w@h/d",
                "the connection string has a password that cannot be read; percent-encode special characters in a URL",
            ),
            (
                "postgres://u:p?w@h/d",
                "the connection string has a password that cannot be read; percent-encode special characters in a URL",
            ),
            (
                "postgres://u@h:port/d",
                "the connection string has a port that cannot be read; percent-encode special characters in a URL",
            ),
            ("postgres:///d?user=u", "the connection string has no host"),
            ("postgres://h/d", "the connection string has no user"),
            (
                "postgres://u@h/d?sslmode=on",
                "the connection string sets \"sslmode\" to a value that is not understood; allowed: disable, allow, \
                 prefer, require, verify-ca, verify-full",
            ),
            (
                "postgres://u@h/d?sslrootcert=/etc/ca.pem",
                "the connection string sets \"sslrootcert\", which is not supported: give the certificate in \
                 spec.tls.caBundle or spec.tls.caSecretRef, or set it to system",
            ),
            (
                "host=/var/run/postgresql user=u",
                "the connection string sets \"host\", which is not supported: a Unix socket is not reachable from a pod",
            ),
            (
                "postgres://u@h/d?sslmode=require&hunter2=x",
                "the connection string has an unknown parameter, number 2; remove it",
            ),
        ] {
            assert_eq!(Dsn::parse(text).unwrap_err().to_string(), message, "{text}");
        }
    }

    #[test]
    fn debug_shows_no_password() {
        let shown = format!("{:?}", parse("postgres://kollect:hunter2@db/inventory"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
