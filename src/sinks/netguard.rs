//! The dial guard: which addresses a sink may be sent to.
//!
//! Whoever may write a sink object chooses where this process connects to. The guard keeps that choice away from the
//! node, the cluster's own network and the metadata services of clouds. Every outbound connection of a sink is made by
//! [`Guard::connect`]: the name is resolved once, every answer is checked, and the socket goes to a checked numeric
//! address, so that a second look-up cannot swap it. [`Guard::check_literal`] gives the same verdict at admission, for
//! what can be said without a look-up. The rules are compiled in; only two flags of the process open a part of them.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};

use crate::config::{Network, Permission};
use crate::error::{Class, Classify};

/// The longest that a look-up and all connection attempts of one dial take together.
pub const DIAL_BUDGET: Duration = Duration::from_secs(30);

/// The flag that opens private addresses.
pub const PRIVATE_FLAG: &str = "--allow-private-sinks";

/// The flag that opens loopback addresses; for tests and the lab.
pub const LOOPBACK_FLAG: &str = "--allow-loopback-sinks";

/// Decides which addresses may be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Guard {
    /// Opens RFC 1918 and IPv6 unique local addresses (`--allow-private-sinks`).
    pub allow_private: bool,
    /// Opens loopback addresses and names (`--allow-loopback-sinks`).
    pub allow_loopback: bool,
}

impl From<&Network> for Guard {
    fn from(network: &Network) -> Self {
        Self {
            allow_private: network.private_sinks == Permission::Allowed,
            allow_loopback: network.loopback_sinks == Permission::Allowed,
        }
    }
}

/// Why an address or a name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// `localhost` and what ends with it.
    LoopbackName,
    /// The names under which clouds serve instance metadata.
    MetadataName,
    /// Digits and dots (or hexadecimal) that are no address: resolvers read such text in several ways.
    AmbiguousNumber,
    /// 127.0.0.0/8, `::1`.
    Loopback,
    /// 169.254.0.0/16, `fe80::/10`; holds the metadata address 169.254.169.254.
    LinkLocal,
    /// 0.0.0.0/8, `::`.
    Unspecified,
    /// 224.0.0.0/4, `ff00::/8`, and the broadcast address.
    Multicast,
    /// 100.64.0.0/10.
    Shared,
    /// 198.18.0.0/15.
    Benchmarking,
    /// `fd00:ec2::254`.
    Metadata,
    /// 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16.
    Private,
    /// `fc00::/7`.
    UniqueLocal,
}

impl Rule {
    /// Returns what the address is, as the end of a sentence.
    const fn what(self) -> &'static str {
        match self {
            Self::LoopbackName => "a name of the local host",
            Self::MetadataName => "a name of a cloud metadata service",
            Self::AmbiguousNumber => "a number that is not written as an IP address",
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Unspecified => "an unspecified address",
            Self::Multicast => "a multicast address",
            Self::Shared => "an address of the shared range 100.64.0.0/10",
            Self::Benchmarking => "an address of the benchmarking range 198.18.0.0/15",
            Self::Metadata => "the address of a cloud metadata service",
            Self::Private => "a private address (RFC 1918)",
            Self::UniqueLocal => "a private address (IPv6 unique local)",
        }
    }

    /// Returns the flag that opens the rule, if one does.
    pub const fn flag(self) -> Option<&'static str> {
        match self {
            Self::Private | Self::UniqueLocal => Some(PRIVATE_FLAG),
            Self::LoopbackName
            | Self::MetadataName
            | Self::AmbiguousNumber
            | Self::Loopback
            | Self::LinkLocal
            | Self::Unspecified
            | Self::Multicast
            | Self::Shared
            | Self::Benchmarking
            | Self::Metadata => None,
        }
    }
}

/// A refused host: the name as given, the address that broke a rule, and the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The host as given.
    pub host: String,
    /// The address it stands for, when it is not the host itself.
    pub address: Option<IpAddr>,
    /// The rule.
    pub rule: Rule,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host \"{}\" ", self.host)?;
        if let Some(address) = self.address {
            write!(f, "resolves to {address}, ")?;
        } else {
            f.write_str("is ")?;
        }
        f.write_str(self.rule.what())?;
        f.write_str(", which sinks may not reach")?;
        match self.rule.flag() {
            Some(flag) => write!(f, " unless the operator runs with {flag}"),
            None => Ok(()),
        }
    }
}

impl Error for Refusal {}

/// A dial that failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// A rule forbids the host.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The name did not resolve.
    #[error("failed to resolve host \"{host}\"")]
    Resolve {
        /// The host.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No address took the connection.
    #[error("failed to connect to {host}:{port}")]
    Connect {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// Why the last address failed.
        source: io::Error,
    },
}

impl Classify for DialError {
    fn class(&self) -> Class {
        match self {
            Self::Refused(_) => Class::Terminal,
            Self::Resolve { .. } | Self::Connect { .. } => Class::Transient,
        }
    }
}

impl Guard {
    /// Checks what can be said of a host without resolving it: names that are always refused, and numeric addresses.
    ///
    /// # Errors
    /// The rule that the host breaks.
    pub fn check_literal(&self, host: &str) -> Result<(), Refusal> {
        let refuse = |rule| Err(Refusal { host: host.to_owned(), address: None, rule });
        if let Some(address) = parse_ip(host) {
            return self.verdict(address).map_or(Ok(()), refuse);
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        match name.as_str() {
            "metadata" | "metadata.google.internal" | "instance-data" | "instance-data.ec2.internal" => {
                refuse(Rule::MetadataName)
            }
            "localhost" | "localhost.localdomain" if !self.allow_loopback => refuse(Rule::LoopbackName),
            other if other.ends_with(".localhost") && !self.allow_loopback => refuse(Rule::LoopbackName),
            other if is_number(other) => refuse(Rule::AmbiguousNumber),
            _ => Ok(()),
        }
    }

    /// Resolves a host and returns its addresses, all of them checked: one bad answer refuses the host.
    ///
    /// # Errors
    /// Terminal when a rule forbids the host, transient when it does not resolve.
    pub async fn resolve(&self, host: &str, port: u16, deadline: Instant) -> Result<Vec<SocketAddr>, DialError> {
        self.check_literal(host)?;
        if let Some(address) = parse_ip(host) {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let failed = |source| DialError::Resolve { host: host.to_owned(), source };
        let deadline = deadline.min(Instant::now() + DIAL_BUDGET);
        let addresses: Vec<SocketAddr> = timeout_at(deadline, tokio::net::lookup_host((host, port)))
            .await
            .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
            .map_err(failed)?
            .collect();
        self.check_answers(host, &addresses)?;
        if addresses.is_empty() {
            return Err(failed(io::Error::new(io::ErrorKind::NotFound, "the answer holds no address")));
        }
        Ok(addresses)
    }

    /// Checks an address that a library resolved a host to by itself, right before it dials it.
    ///
    /// # Errors
    /// The rule that the host or the address breaks.
    pub fn check_answer(&self, host: &str, address: IpAddr) -> Result<(), Refusal> {
        self.check_literal(host)?;
        self.check_answers(host, &[SocketAddr::new(address, 0)])
    }

    /// Connects to a checked address of the host, trying them in the order of the answer. `TCP_NODELAY` and keepalive
    /// are on.
    ///
    /// # Errors
    /// Terminal when a rule forbids the host, transient when it cannot be resolved or reached in time.
    pub async fn connect(&self, host: &str, port: u16, deadline: Instant) -> Result<TcpStream, DialError> {
        let deadline = deadline.min(Instant::now() + DIAL_BUDGET);
        let addresses = self.resolve(host, port, deadline).await?;
        let mut failure = io::Error::from(io::ErrorKind::NotFound);
        for (index, address) in addresses.iter().enumerate() {
            // A silent address must not eat the time of those after it.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - index).unwrap_or(1).max(1);
            match timeout_at(Instant::now() + share, dial(*address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failure = error,
                Err(_) => failure = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(DialError::Connect { host: host.to_owned(), port, source: failure })
    }

    fn check_answers(self, host: &str, answers: &[SocketAddr]) -> Result<(), Refusal> {
        for answer in answers {
            let address = answer.ip();
            if let Some(rule) = self.verdict(address) {
                return Err(Refusal { host: host.to_owned(), address: Some(address), rule });
            }
        }
        Ok(())
    }

    /// Returns the rule that an address breaks.
    fn verdict(self, address: IpAddr) -> Option<Rule> {
        let rule = match unmap(address) {
            IpAddr::V4(address) => rule_v4(address),
            IpAddr::V6(address) => rule_v6(address),
        }?;
        let open = match rule {
            Rule::Private | Rule::UniqueLocal => self.allow_private,
            Rule::Loopback => self.allow_loopback,
            _ => false,
        };
        (!open).then_some(rule)
    }
}

async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.connect(address).await
}

/// Reads a numeric address, with brackets and with a zone (`fe80::1%eth0`) or without.
fn parse_ip(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let bare = bare.split_once('%').map_or(bare, |(address, _zone)| address);
    bare.parse().ok()
}

/// Tells whether a name would be read as a number by `inet_aton`: its last label is all digits or hexadecimal.
fn is_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let hexadecimal = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    hexadecimal || (!last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()))
}

/// Takes the IPv4 address out of the IPv6 forms that lead to it: mapped, compatible, and NAT64 (RFC 6052).
fn unmap(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        _ => address,
    }
}

const fn rule_v4(address: Ipv4Addr) -> Option<Rule> {
    match address.octets() {
        [127, ..] => Some(Rule::Loopback),
        [169, 254, ..] => Some(Rule::LinkLocal),
        [0, ..] => Some(Rule::Unspecified),
        [224..=239, ..] | [255, 255, 255, 255] => Some(Rule::Multicast),
        [100, 64..=127, ..] => Some(Rule::Shared),
        [198, 18..=19, ..] => Some(Rule::Benchmarking),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some(Rule::Private),
        _ => None,
    }
}

const fn rule_v6(address: Ipv6Addr) -> Option<Rule> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(Rule::Loopback),
        [0xfe80..=0xfebf, ..] => Some(Rule::LinkLocal),
        // `::` and the deprecated IPv4-compatible form, which no host has.
        [0, 0, 0, 0, 0, 0, ..] => Some(Rule::Unspecified),
        [0xff00..=0xffff, ..] => Some(Rule::Multicast),
        [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254] => Some(Rule::Metadata),
        [0xfc00..=0xfdff, ..] => Some(Rule::UniqueLocal),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::chain;

    const CLOSED: Guard = Guard { allow_private: false, allow_loopback: false };
    const PRIVATE: Guard = Guard { allow_private: true, allow_loopback: false };
    const LOOPBACK: Guard = Guard { allow_private: false, allow_loopback: true };

    fn rule(guard: Guard, host: &str) -> Option<Rule> {
        guard.check_literal(host).err().map(|refusal| refusal.rule)
    }

    #[test]
    fn each_rule_refuses_what_it_names() {
        for (host, expected) in [
            ("localhost", Rule::LoopbackName),
            ("LOCALHOST.", Rule::LoopbackName),
            ("localhost.localdomain", Rule::LoopbackName),
            ("db.localhost", Rule::LoopbackName),
            ("metadata", Rule::MetadataName),
            ("Metadata.Google.Internal.", Rule::MetadataName),
            ("instance-data", Rule::MetadataName),
            ("instance-data.ec2.internal", Rule::MetadataName),
            ("127.1", Rule::AmbiguousNumber),
            ("2130706433", Rule::AmbiguousNumber),
            ("0x7f000001", Rule::AmbiguousNumber),
            ("0177.0.0.1", Rule::AmbiguousNumber),
            ("127.0.0.1", Rule::Loopback),
            ("127.255.0.9", Rule::Loopback),
            ("::1", Rule::Loopback),
            ("[::1]", Rule::Loopback),
            ("::ffff:127.0.0.1", Rule::Loopback),
            ("169.254.169.254", Rule::LinkLocal),
            ("::ffff:169.254.169.254", Rule::LinkLocal),
            ("64:ff9b::a9fe:a9fe", Rule::LinkLocal),
            ("fe80::1", Rule::LinkLocal),
            ("fe80::1%eth0", Rule::LinkLocal),
            ("0.0.0.0", Rule::Unspecified),
            ("0.1.2.3", Rule::Unspecified),
            ("::", Rule::Unspecified),
            ("::7f00:1", Rule::Unspecified),
            ("224.0.0.1", Rule::Multicast),
            ("239.255.255.255", Rule::Multicast),
            ("255.255.255.255", Rule::Multicast),
            ("ff02::1", Rule::Multicast),
            ("100.64.0.1", Rule::Shared),
            ("100.127.255.255", Rule::Shared),
            ("198.18.0.1", Rule::Benchmarking),
            ("198.19.255.255", Rule::Benchmarking),
            ("fd00:ec2::254", Rule::Metadata),
            ("fd00:ec2::254%1", Rule::Metadata),
            ("10.0.0.1", Rule::Private),
            ("172.16.0.1", Rule::Private),
            ("172.31.255.255", Rule::Private),
            ("192.168.1.1", Rule::Private),
            ("::ffff:10.0.0.1", Rule::Private),
            ("fc00::1", Rule::UniqueLocal),
            ("fdff::1", Rule::UniqueLocal),
        ] {
            assert_eq!(rule(CLOSED, host), Some(expected), "{host}");
        }
    }

    #[test]
    fn public_addresses_and_names_pass() {
        for host in [
            "db.example.com",
            "metadata.example.com",
            "localhost.example.com",
            "notlocalhost",
            "1.1.1.1",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "2001:db8::1",
            "64:ff9b::808:808",
            "db-1.v2x",
        ] {
            assert_eq!(rule(CLOSED, host), None, "{host}");
        }
    }

    #[test]
    fn private_flag_opens_private_addresses_and_nothing_else() {
        for host in ["10.0.0.1", "172.20.0.1", "192.168.1.1", "fc00::1", "::ffff:10.0.0.1"] {
            assert_eq!(rule(PRIVATE, host), None, "{host}");
            assert!(rule(LOOPBACK, host).is_some(), "{host}");
        }
        for host in ["127.0.0.1", "localhost", "169.254.169.254", "fd00:ec2::254", "100.64.0.1", "::", "metadata"] {
            assert!(rule(PRIVATE, host).is_some(), "{host}");
        }
    }

    #[test]
    fn loopback_flag_opens_loopback_and_nothing_else() {
        for host in ["127.0.0.1", "::1", "localhost", "db.localhost"] {
            assert_eq!(rule(LOOPBACK, host), None, "{host}");
        }
        for host in ["169.254.169.254", "0.0.0.0", "metadata", "127.1"] {
            assert!(rule(LOOPBACK, host).is_some(), "{host}");
        }
    }

    #[test]
    fn one_bad_answer_refuses_the_host() {
        let answers: Vec<SocketAddr> = vec!["93.184.216.34:5432".parse().unwrap(), "10.1.2.3:5432".parse().unwrap()];
        let refusal = CLOSED.check_answers("db.example.com", &answers).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "host \"db.example.com\" resolves to 10.1.2.3, a private address (RFC 1918), which sinks may not reach \
             unless the operator runs with --allow-private-sinks"
        );
        assert_eq!(PRIVATE.check_answers("db.example.com", &answers), Ok(()));
    }

    #[tokio::test]
    async fn dial_gives_the_verdict_of_admission() {
        let deadline = Instant::now() + Duration::from_secs(5);
        let error = PRIVATE.connect("127.0.0.1", 1, deadline).await.unwrap_err();
        assert_eq!(error.class(), Class::Terminal);
        assert_eq!(error.to_string(), "host \"127.0.0.1\" is a loopback address, which sinks may not reach");
    }

    #[tokio::test]
    async fn nobody_listening_is_transient_and_names_host_and_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let deadline = Instant::now() + Duration::from_secs(5);
        let error = LOOPBACK.connect("127.0.0.1", port, deadline).await.unwrap_err();
        assert_eq!(error.class(), Class::Transient);
        assert!(chain(&error).starts_with(&format!("failed to connect to 127.0.0.1:{port}: ")), "{}", chain(&error));
    }

    #[tokio::test]
    async fn name_that_does_not_resolve_is_transient() {
        let deadline = Instant::now() + Duration::from_secs(5);
        let error = CLOSED.connect("kollect-test.invalid", 5432, deadline).await.unwrap_err();
        assert_eq!(error.class(), Class::Transient);
        assert_eq!(error.to_string(), "failed to resolve host \"kollect-test.invalid\"");
    }

    #[tokio::test]
    async fn connected_socket_sends_at_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let deadline = Instant::now() + Duration::from_secs(5);
        let stream = LOOPBACK.connect("localhost", port, deadline).await.unwrap();
        assert!(stream.nodelay().unwrap());
    }
}
