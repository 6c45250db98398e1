//! A TCP proxy on loopback: a network that is as bad as a test asks for.
//!
//! It stands between the operator and one server, passes bytes on, and does on command what networks do by themselves: it
//! cuts connections, at once or after so many bytes; refuses new ones; delays; or goes silent while every connection
//! stays open. What it does is repeatable: where a connection is cut follows from a seed and the connection's number.
//!
//! Its tasks live on the runtime that starts it and end when it is dropped. A test that runs programs and waits for them
//! gives it a runtime of several threads, else the network stands still meanwhile.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::load::mix;
use super::process::free_port;

/// Bytes that one direction of a connection holds at the most.
const CHUNK: usize = 16 * 1024;

/// Connections at the same time; one more is closed at once.
const MAX_CONNECTIONS: usize = 512;

/// Where new connections are cut: each after a number of bytes, drawn for it up to one of these limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cuts {
    /// Chooses the numbers and, by halves, the direction.
    pub seed: u64,
    /// Limit of the bytes to the server.
    pub up: u64,
    /// Limit of the bytes from the server.
    pub down: u64,
}

/// What passed so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Connections that were accepted.
    pub connections: u64,
    /// Connections that the proxy ended.
    pub cut: u64,
    /// Bytes to the server.
    pub up_bytes: u64,
    /// Bytes from the server.
    pub down_bytes: u64,
    /// How often a client spoke again after it had got an answer: the round trips that it waited for.
    pub round_trips: u64,
}

/// A running proxy. Dropping it cuts every connection.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    weather: watch::Sender<Weather>,
    counters: Arc<Counters>,
    // Owns the task that accepts, and that one those that carry.
    _tasks: JoinSet<()>,
}

/// How the network is at the moment.
#[derive(Debug, Clone, Copy, Default)]
struct Weather {
    shut: bool,
    frozen: bool,
    delay: Duration,
    cuts: Option<Cuts>,
    /// Connections of an earlier epoch are cut.
    epoch: u64,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    cut: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    round_trips: AtomicU64,
}

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// One side closed it.
    Closed,
    /// The proxy did.
    Cut,
}

impl Proxy {
    /// Starts to pass connections on to a port of this machine.
    pub async fn start(to: u16) -> Result<Self> {
        let port = free_port()?;
        let listener = listen(port).await.context("failed to start the proxy")?;
        let (weather, seen) = watch::channel(Weather::default());
        let counters = Arc::new(Counters::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, port, to, seen, Arc::clone(&counters)));
        Ok(Self { port, weather, counters, _tasks: tasks })
    }

    /// Returns the port on 127.0.0.1 that stands for the server's.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns what passed so far.
    pub fn traffic(&self) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            connections: read(&self.counters.connections),
            cut: read(&self.counters.cut),
            up_bytes: read(&self.counters.up),
            down_bytes: read(&self.counters.down),
            round_trips: read(&self.counters.round_trips),
        }
    }

    /// Cuts all connections now; new ones are welcome.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.epoch += 1);
    }

    /// Cuts each new connection as the limits say, or none any more.
    pub fn cut_each(&self, cuts: Option<Cuts>) {
        self.weather.send_modify(|weather| weather.cuts = cuts);
    }

    /// Cuts all connections and refuses new ones.
    pub fn shut(&self) {
        self.weather.send_modify(|weather| {
            weather.shut = true;
            weather.epoch += 1;
        });
    }

    /// Accepts connections again.
    pub fn open(&self) {
        self.weather.send_modify(|weather| weather.shut = false);
    }

    /// Keeps and accepts connections, and delivers nothing.
    pub fn freeze(&self) {
        self.weather.send_modify(|weather| weather.frozen = true);
    }

    /// Delivers again, what was held back first.
    pub fn thaw(&self) {
        self.weather.send_modify(|weather| weather.frozen = false);
    }

    /// Holds each chunk of each direction back for so long: half of what a round trip then takes longer.
    pub fn delay(&self, each: Duration) {
        self.weather.send_modify(|weather| weather.delay = each);
    }
}

async fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await
}

/// Accepts until the proxy is dropped.
async fn accept(
    listener: TcpListener,
    port: u16,
    to: u16,
    mut weather: watch::Receiver<Weather>,
    counters: Arc<Counters>,
) {
    let mut listener = Some(listener);
    let mut carried = JoinSet::new();
    loop {
        let shut = weather.borrow_and_update().shut;
        match (&listener, shut) {
            // Only a port that nobody listens on refuses.
            (Some(_), true) => listener = None,
            // A port that does not come back at once is tried again with the next change of the weather.
            (None, false) => listener = listen(port).await.ok(),
            _ => {}
        }
        let next = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        // All branches are cancel-safe.
        tokio::select! {
            changed = weather.changed() => if changed.is_err() { return },
            Some(_) = carried.join_next(), if !carried.is_empty() => {}
            Ok((client, _)) = next => {
                let now = *weather.borrow();
                if now.shut || carried.len() >= MAX_CONNECTIONS {
                    continue;
                }
                let number = counters.connections.fetch_add(1, Ordering::Relaxed);
                carried.spawn(carry(client, to, number, now, weather.clone(), Arc::clone(&counters)));
            }
        }
    }
}

/// Carries one connection to its end.
async fn carry(
    mut client: TcpStream,
    to: u16,
    number: u64,
    born: Weather,
    mut weather: watch::Receiver<Weather>,
    counters: Arc<Counters>,
) {
    // A client whose server is not there sees its connection closed.
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await else { return };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true); // without it everything arrives, only later
    }
    let (up_limit, down_limit) = limits(born.cuts, number);
    let answered = AtomicBool::new(false);
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = Pump { way: Way::Up, limit: up_limit, counters: &counters, answered: &answered };
        let down = Pump { way: Way::Down, limit: down_limit, counters: &counters, answered: &answered };
        // The first that ends takes the other with it: nobody would answer what the other side still has to say.
        tokio::select! {
            end = up.run(from_client, to_server, weather.clone()) => end.unwrap_or(End::Closed),
            end = down.run(from_server, to_client, weather.clone()) => end.unwrap_or(End::Closed),
            _ = weather.wait_for(|weather| weather.epoch != born.epoch) => End::Cut,
        }
    };
    if end == End::Cut {
        counters.cut.fetch_add(1, Ordering::Relaxed);
        // As a router does that lost its tables: a reset, and nothing that was still under way.
        for stream in [&client, &server] {
            let _ = stream.set_zero_linger(); // a socket that is gone has nothing to lose
        }
    }
}

/// Draws where a connection is cut: how many bytes may pass up and down.
fn limits(cuts: Option<Cuts>, number: u64) -> (Option<u64>, Option<u64>) {
    let Some(Cuts { seed, up, down }) = cuts else { return (None, None) };
    let chance = mix(seed ^ mix(number));
    let draw = |limit: u64| Some(mix(chance) % limit.max(1));
    if chance.is_multiple_of(2) { (draw(up), None) } else { (None, draw(down)) }
}

/// Carries one direction.
struct Pump<'a> {
    way: Way,
    /// Cut after so many bytes.
    limit: Option<u64>,
    counters: &'a Counters,
    /// The server spoke last.
    answered: &'a AtomicBool,
}

impl Pump<'_> {
    async fn run(
        &self,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
        mut weather: watch::Receiver<Weather>,
    ) -> io::Result<End> {
        let mut chunk = vec![0; CHUNK];
        let mut left = self.limit;
        loop {
            let read = from.read(&mut chunk).await?;
            if read == 0 {
                return Ok(End::Closed);
            }
            let delay = weather.borrow().delay;
            if !delay.is_zero() {
                sleep(delay).await;
            }
            // The sender lives in the proxy, which owns this task.
            let _ = weather.wait_for(|weather| !weather.frozen).await;
            let allowed = left.and_then(|left| usize::try_from(left).ok()).map_or(read, |left| left.min(read));
            to.write_all(chunk.get(..allowed).unwrap_or_default()).await?;
            self.count(allowed as u64);
            left = left.map(|left| left.saturating_sub(allowed as u64));
            if left == Some(0) {
                return Ok(End::Cut);
            }
        }
    }

    fn count(&self, bytes: u64) {
        match self.way {
            Way::Up => {
                self.counters.up.fetch_add(bytes, Ordering::Relaxed);
                if self.answered.swap(false, Ordering::Relaxed) {
                    self.counters.round_trips.fetch_add(1, Ordering::Relaxed);
                }
            }
            Way::Down => {
                self.counters.down.fetch_add(bytes, Ordering::Relaxed);
                self.answered.store(true, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;
    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::lab::wait::wait_for;

    const SOON: Duration = Duration::from_secs(5);

    /// A server that says again what it hears, and what it heard.
    struct Echo {
        port: u16,
        heard: watch::Receiver<u64>,
        _tasks: JoinSet<()>,
    }

    async fn echo() -> Echo {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (told, heard) = watch::channel(0);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let told = told.clone();
                connections.spawn(async move {
                    let mut chunk = [0; 1024];
                    while let Ok(read @ 1..) = stream.read(&mut chunk).await {
                        told.send_modify(|heard| *heard += read as u64);
                        if stream.write_all(&chunk[..read]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Echo { port, heard, _tasks: tasks }
    }

    async fn connect(proxy: &Proxy) -> io::Result<TcpStream> {
        TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await
    }

    /// Says something and returns what comes back.
    async fn say(stream: &mut TcpStream, words: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(words).await?;
        let mut answer = vec![0; words.len()];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_are_counted() {
        let (echo, mut far) = (echo().await, Vec::new());
        let proxy = Proxy::start(echo.port).await.unwrap();
        let mut stream = connect(&proxy).await.unwrap();
        for words in [&b"one"[..], b"two", b"three"] {
            far.extend(say(&mut stream, words).await.unwrap());
        }
        assert_eq!(far, b"onetwothree");
        let want = Traffic { connections: 1, cut: 0, up_bytes: 11, down_bytes: 11, round_trips: 2 };
        assert_eq!(proxy.traffic(), want);
    }

    #[tokio::test]
    async fn a_cut_ends_what_is_there_and_not_what_comes() {
        let echo = echo().await;
        let proxy = Proxy::start(echo.port).await.unwrap();
        let mut before = connect(&proxy).await.unwrap();
        say(&mut before, b"a").await.unwrap();
        proxy.cut();
        assert!(say(&mut before, b"b").await.is_err());
        let mut after = connect(&proxy).await.unwrap();
        assert_eq!(say(&mut after, b"c").await.unwrap(), b"c");
        assert_eq!(proxy.traffic().cut, 1);
    }

    #[tokio::test]
    async fn connections_are_cut_at_the_byte_that_the_seed_draws() {
        let echo = echo().await;
        let proxy = Proxy::start(echo.port).await.unwrap();
        let cuts = Cuts { seed: 7, up: 2_000, down: 2_000 };
        proxy.cut_each(Some(cuts));
        for number in 0..8 {
            let before = (*echo.heard.borrow(), proxy.traffic());
            let mut stream = connect(&proxy).await.unwrap();
            while say(&mut stream, &[1; 100]).await.is_ok() {}
            wait_for("the cut to be counted", SOON, || async {
                ensure!(proxy.traffic().cut == number + 1, "{:?}", proxy.traffic());
                Ok(())
            })
            .await
            .unwrap();
            let traffic = proxy.traffic();
            match limits(Some(cuts), number) {
                (Some(up), _) => assert_eq!(traffic.up_bytes - before.1.up_bytes, up),
                (_, down) => assert_eq!(Some(traffic.down_bytes - before.1.down_bytes), down),
            }
        }
        proxy.cut_each(None);
        let mut stream = connect(&proxy).await.unwrap();
        for _ in 0..50 {
            say(&mut stream, &[1; 100]).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_shut_proxy_refuses_until_it_is_opened() {
        let echo = echo().await;
        let proxy = Proxy::start(echo.port).await.unwrap();
        let mut stream = connect(&proxy).await.unwrap();
        say(&mut stream, b"a").await.unwrap();
        proxy.shut();
        assert!(say(&mut stream, b"b").await.is_err());
        wait_for("the refusal", SOON, || async {
            ensure!(connect(&proxy).await.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused));
            Ok(())
        })
        .await
        .unwrap();
        proxy.open();
        let answer = wait_for("an answer", SOON, || async { Ok(say(&mut connect(&proxy).await?, b"c").await?) });
        assert_eq!(answer.await.unwrap(), b"c");
    }

    #[tokio::test]
    async fn a_frozen_proxy_delivers_nothing_and_loses_nothing() {
        let echo = echo().await;
        let proxy = Proxy::start(echo.port).await.unwrap();
        let mut stream = connect(&proxy).await.unwrap();
        say(&mut stream, b"a").await.unwrap();
        proxy.freeze();
        let mut answer = [0];
        stream.write_all(b"b").await.unwrap();
        assert!(timeout(Duration::from_millis(100), stream.read_exact(&mut answer)).await.is_err());
        connect(&proxy).await.unwrap();
        assert_eq!(*echo.heard.borrow(), 1);
        proxy.thaw();
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, *b"b");
    }

    #[tokio::test]
    async fn a_delay_holds_back_each_direction() {
        let echo = echo().await;
        let proxy = Proxy::start(echo.port).await.unwrap();
        proxy.delay(Duration::from_millis(30));
        let mut stream = connect(&proxy).await.unwrap();
        let started = Instant::now();
        say(&mut stream, b"a").await.unwrap();
        assert!(started.elapsed() >= Duration::from_millis(60));
    }
}
