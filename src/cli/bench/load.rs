//! The load engine: connections that ask again as soon as they are answered, over a closed loop.
//!
//! Requests are rendered before the clock starts, and bodies of answers are skipped: the client shares its cores with the
//! server, so that what it does costs the server time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::histogram::Histogram;
use super::purse::Purse;
use super::response::{Answer, Garbage, Reader};

/// How much is read at once, in bytes.
const BUFFER: usize = 16 * 1024;
/// Establishing one connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long answers may be late at the end of a phase.
const PATIENCE: Duration = Duration::from_secs(10);
/// How soon a connection without credit looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// A connection that was idle for this long may have been closed by the server, and is opened anew.
const IDLE: Duration = Duration::from_secs(1);

/// How long, and how hard.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Where the server is.
    pub(super) address: SocketAddr,
    /// Connections, each with one request at a time.
    pub(super) connections: usize,
    /// Not measured.
    pub(super) warm_up: Duration,
    /// Measured.
    pub(super) window: Duration,
}

/// What is sent.
#[derive(Clone)]
pub(super) enum Requests {
    /// Always the same.
    Same(Bytes),
    /// Paid from wallets.
    Paid(Arc<Purse>),
}

/// What came of a phase.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Expected answers that came in the measured time.
    pub(super) answers: u64,
    /// From the first byte sent to the last byte received, of every expected answer to a request of the measured time.
    pub(super) latencies: Histogram,
    /// Answers with another status than the expected one, at any time.
    pub(super) unexpected: BTreeMap<u16, u64>,
    /// Connections that could not be used, or not to the end, by reason.
    pub(super) broken: BTreeMap<String, u64>,
    /// Connections that were closed in order and opened again.
    pub(super) reopened: u64,
    /// How long connections waited for a wallet with credit, all together.
    pub(super) waited: Duration,
}

impl Measured {
    /// Answers that were not the expected ones, and connections that broke.
    pub(super) fn failures(&self) -> u64 {
        self.unexpected.values().chain(self.broken.values()).sum()
    }

    fn add(&mut self, other: Self) {
        self.answers += other.answers;
        self.latencies.add(&other.latencies);
        for (status, count) in other.unexpected {
            *self.unexpected.entry(status).or_default() += count;
        }
        for (reason, count) in other.broken {
            *self.broken.entry(reason).or_default() += count;
        }
        self.reopened += other.reopened;
        self.waited += other.waited;
    }

    fn broke(&mut self, reason: &Broken) {
        *self.broken.entry(reason.to_string()).or_default() += 1;
    }
}

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("a connection could not be opened")]
    NotOpened,
    #[error("a connection was closed before an answer")]
    Closed,
    #[error("a connection was closed in the middle of an answer")]
    CutOff,
    #[error("an answer did not come in time")]
    Late,
    #[error("more came than was asked for")]
    TooMuch,
    #[error(transparent)]
    Garbage(#[from] Garbage),
}

/// The measured time.
#[derive(Debug, Clone, Copy)]
struct Window {
    begin: Instant,
    end: Instant,
}

/// Drives the server for one phase.
pub(super) async fn run(plan: &Plan, requests: &Requests, expected: u16) -> Measured {
    let mut measured = Measured::default();
    let mut opening = JoinSet::new();
    for _ in 0..plan.connections {
        opening.spawn(Connection::open(plan.address));
    }
    let mut connections = Vec::new();
    for opened in opening.join_all().await {
        match opened {
            Ok(connection) => connections.push(connection),
            Err(reason) => measured.broke(&reason),
        }
    }
    let begin = Instant::now() + plan.warm_up;
    let window = Window { begin, end: begin + plan.window };
    let mut driving = JoinSet::new();
    for (number, connection) in connections.into_iter().enumerate() {
        let driver = Driver {
            connection,
            requests: requests.clone(),
            number,
            expected,
            measured: Measured::default(),
        };
        driving.spawn(driver.run(window));
    }
    for more in driving.join_all().await {
        measured.add(more);
    }
    measured
}

/// One connection and what came of it.
struct Driver {
    connection: Connection,
    requests: Requests,
    number: usize,
    expected: u16,
    measured: Measured,
}

impl Driver {
    async fn run(mut self, window: Window) -> Measured {
        let ended = timeout_at(window.end + PATIENCE, self.ask_until_the_end(window)).await;
        if let Err(reason) = ended.unwrap_or(Err(Broken::Late)) {
            self.measured.broke(&reason);
        }
        self.measured
    }

    async fn ask_until_the_end(&mut self, window: Window) -> Result<(), Broken> {
        while Instant::now() < window.end {
            let Some(request) = self.next_request(window).await? else { break };
            let sent = Instant::now();
            let answer = self.connection.ask(&request).await?;
            let received = Instant::now();
            if answer.status != self.expected {
                *self.measured.unexpected.entry(answer.status).or_default() += 1;
            } else {
                self.measured.answers += u64::from((window.begin..window.end).contains(&received));
                // Also of an answer that comes after the end: leaving out the slowest ones would flatter.
                if sent >= window.begin {
                    let micros = u64::try_from((received - sent).as_micros());
                    self.measured.latencies.record(micros.unwrap_or(u64::MAX));
                }
            }
            if answer.closes {
                self.reopen().await?;
            }
        }
        Ok(())
    }

    /// `None` when the time ends before there is credit.
    async fn next_request(&mut self, window: Window) -> Result<Option<Bytes>, Broken> {
        let purse = match &self.requests {
            Requests::Same(request) => return Ok(Some(request.clone())),
            Requests::Paid(purse) => Arc::clone(purse),
        };
        // From wallet to wallet, so that all of them are used however many connections there are.
        self.number = self.number.wrapping_add(1);
        if let Some(request) = purse.take(self.number) {
            return Ok(Some(request));
        }
        let dry_since = Instant::now();
        let mut request = None;
        while request.is_none() && Instant::now() < window.end {
            sleep(LOOK_AGAIN).await;
            request = purse.take(self.number);
        }
        let waited = dry_since.elapsed();
        self.measured.waited += waited;
        if waited > IDLE {
            self.reopen().await?;
        }
        Ok(request)
    }

    async fn reopen(&mut self) -> Result<(), Broken> {
        self.connection = Connection::open(self.connection.address).await?;
        self.measured.reopened += 1;
        Ok(())
    }
}

/// A connection that is kept.
struct Connection {
    address: SocketAddr,
    stream: TcpStream,
    reader: Reader,
    buffer: Box<[u8]>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self, Broken> {
        let opened = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
        let stream = opened.map_err(|_| Broken::NotOpened)?.map_err(|_| Broken::NotOpened)?;
        stream.set_nodelay(true).map_err(|_| Broken::NotOpened)?;
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Ok(Self { address, stream, reader: Reader::new(), buffer })
    }

    /// Sends a request and reads its answer to the end.
    async fn ask(&mut self, request: &[u8]) -> Result<Answer, Broken> {
        self.stream.write_all(request).await.map_err(|_| Broken::Closed)?;
        loop {
            let read = self.stream.read(&mut self.buffer).await;
            let length = match read {
                Ok(0) | Err(_) if self.reader.is_untouched() => return Err(Broken::Closed),
                Ok(0) => return self.reader.ends_with_connection().ok_or(Broken::CutOff),
                Err(_) => return Err(Broken::CutOff),
                Ok(length) => length,
            };
            let (taken, answer) = self.reader.push(&self.buffer[..length])?;
            match answer {
                Some(_) if taken < length => return Err(Broken::TooMuch),
                Some(answer) => return Ok(answer),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers each request of a connection with the next of these texts, and then hangs up.
    async fn server(answers: &'static [&'static str]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut buffer = [0; 1024];
                    for answer in answers {
                        if stream.read(&mut buffer).await.unwrap_or(0) == 0 {
                            return;
                        }
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                });
            }
        });
        address
    }

    async fn measure(address: SocketAddr, connections: usize) -> Measured {
        let window = Duration::from_millis(50);
        let plan = Plan { address, connections, warm_up: Duration::ZERO, window };
        let request = Bytes::from_static(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n");
        run(&plan, &Requests::Same(request), 200).await
    }

    #[tokio::test]
    async fn connections_that_close_in_order_are_opened_again() {
        let address = server(&["HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"]).await;
        let measured = measure(address, 2).await;
        assert_eq!(measured.failures(), 0, "{measured:?}");
        assert!(measured.answers > 2 && measured.reopened >= measured.answers, "{measured:?}");
    }

    #[tokio::test]
    async fn other_statuses_are_counted() {
        let address = server(&[
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 429 Slow\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        ])
        .await;
        let measured = measure(address, 1).await;
        assert_eq!(measured.unexpected.keys().collect::<Vec<_>>(), [&429], "{measured:?}");
        assert!(measured.broken.is_empty() && measured.failures() > 0, "{measured:?}");
    }

    #[tokio::test]
    async fn broken_connections_are_counted_each_once() {
        for (answers, reason) in [
            (&[][..], "a connection was closed before an answer"),
            (
                &["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"],
                "a connection was closed in the middle of an answer",
            ),
            (&["HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nand more"], "more came than was asked for"),
            (&["good morning\r\n\r\n"], "an answer that is not HTTP/1.1"),
        ] {
            let measured = measure(server(answers).await, 3).await;
            assert_eq!(measured.broken.get(reason), Some(&3), "{measured:?}");
            assert_eq!((measured.answers, measured.failures()), (0, 3), "{measured:?}");
        }
        let nobody =
            TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
        let measured = measure(nobody, 3).await;
        assert_eq!(measured.broken.get("a connection could not be opened"), Some(&3), "{measured:?}");
    }
}
