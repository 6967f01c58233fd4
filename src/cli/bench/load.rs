//! The load engine: connections that ask again as soon as they are answered, over a closed loop, for one slice of a phase after
//! the other.
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
/// How long answers may be late at the end of a slice.
const PATIENCE: Duration = Duration::from_secs(10);
/// How soon a connection without credit looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// A connection that was idle for this long may have been closed by the server, and is opened anew.
const IDLE: Duration = Duration::from_secs(1);

/// How long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slice {
    /// Not measured.
    pub(super) settle: Duration,
    /// Measured, after that.
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

/// What came of a slice, or of several.
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

    /// Counts everything that the other one has counted.
    pub(super) fn add(&mut self, other: Self) {
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

    /// What went wrong, without the rest.
    pub(super) fn only_failures(self) -> Self {
        Self { unexpected: self.unexpected, broken: self.broken, ..Self::default() }
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

/// The connections to a server, each with one request at a time. They are kept from slice to slice, whatever is asked for:
/// none is idle while another phase has its turn, and all phases have the same.
pub(super) struct Connections {
    address: SocketAddr,
    count: usize,
    kept: Vec<Connection>,
}

impl Connections {
    /// So many; they are opened with the first slice.
    pub(super) fn to(address: SocketAddr, count: usize) -> Self {
        Self { address, count, kept: Vec::new() }
    }

    /// Drives the server for one slice.
    pub(super) async fn drive(&mut self, slice: Slice, requests: &Requests, expected: u16) -> Measured {
        let mut measured = Measured::default();
        self.complete(&mut measured).await;
        let begin = Instant::now() + slice.settle;
        let window = Window { begin, end: begin + slice.window };
        let mut driving = JoinSet::new();
        for (number, connection) in self.kept.drain(..).enumerate() {
            let driver = Driver {
                connection,
                requests: requests.clone(),
                number,
                expected,
                measured: Measured::default(),
            };
            driving.spawn(driver.run(window));
        }
        for (more, kept) in driving.join_all().await {
            measured.add(more);
            self.kept.extend(kept);
        }
        measured
    }

    /// Opens those that are missing, before the clock starts.
    async fn complete(&mut self, measured: &mut Measured) {
        self.kept.retain(|connection| connection.used.elapsed() < IDLE);
        let mut opening = JoinSet::new();
        for _ in self.kept.len()..self.count {
            opening.spawn(Connection::open(self.address));
        }
        for opened in opening.join_all().await {
            match opened {
                Ok(connection) => self.kept.push(connection),
                Err(reason) => measured.broke(&reason),
            }
        }
    }
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
    /// What came, and the connection, if it can be used again.
    async fn run(mut self, window: Window) -> (Measured, Option<Connection>) {
        let ended = timeout_at(window.end + PATIENCE, self.ask_until_the_end(window)).await;
        match ended.unwrap_or(Err(Broken::Late)) {
            Ok(()) => (self.measured, Some(self.connection)),
            Err(reason) => {
                self.measured.broke(&reason);
                (self.measured, None)
            }
        }
    }

    async fn ask_until_the_end(&mut self, window: Window) -> Result<(), Broken> {
        while Instant::now() < window.end {
            let Some(request) = self.next_request(window).await? else { break };
            let sent = Instant::now();
            let answer = self.connection.ask(&request).await?;
            let received = Instant::now();
            self.connection.used = received;
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
    /// When it was opened, or its last answer came.
    used: Instant,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self, Broken> {
        let opened = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
        let stream = opened.map_err(|_| Broken::NotOpened)?.map_err(|_| Broken::NotOpened)?;
        stream.set_nodelay(true).map_err(|_| Broken::NotOpened)?;
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Ok(Self { address, stream, reader: Reader::new(), buffer, used: Instant::now() })
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
    use std::sync::atomic::{AtomicUsize, Ordering};

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

    /// One short slice.
    async fn drive(connections: &mut Connections) -> Measured {
        let slice = Slice { settle: Duration::ZERO, window: Duration::from_millis(50) };
        let request = Bytes::from_static(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n");
        connections.drive(slice, &Requests::Same(request), 200).await
    }

    async fn measure(address: SocketAddr, connections: usize) -> Measured {
        drive(&mut Connections::to(address, connections)).await
    }

    /// A server that counts connections and always answers.
    async fn counting_server() -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&accepted);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let mut buffer = [0; 1024];
                    while stream.read(&mut buffer).await.unwrap_or(0) > 0 {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                    }
                });
            }
        });
        (address, accepted)
    }

    #[tokio::test]
    async fn connections_are_kept_from_slice_to_slice_unless_they_were_idle() {
        let (address, accepted) = counting_server().await;
        let mut connections = Connections::to(address, 3);
        for _ in 0..2 {
            let measured = drive(&mut connections).await;
            assert!(measured.answers > 3 && measured.failures() == 0, "{measured:?}");
        }
        assert_eq!(accepted.load(Ordering::Relaxed), 3, "the same ones in both slices");
        connections.kept[1].used -= IDLE;
        let measured = drive(&mut connections).await;
        assert_eq!((measured.failures(), measured.reopened), (0, 0), "{measured:?}");
        assert_eq!((accepted.load(Ordering::Relaxed), connections.kept.len()), (4, 3));
    }

    #[tokio::test]
    async fn what_comes_before_the_window_is_not_measured() {
        let (address, _) = counting_server().await;
        let slice = Slice { settle: Duration::from_millis(50), window: Duration::ZERO };
        let request = Requests::Same(Bytes::from_static(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"));
        let measured = Connections::to(address, 2).drive(slice, &request, 200).await;
        assert_eq!((measured.answers, measured.latencies.max()), (0, 0), "{measured:?}");
        // But what goes wrong then is.
        let measured = Connections::to(address, 2).drive(slice, &request, 402).await;
        assert!(measured.failures() > 0, "{measured:?}");
    }

    #[test]
    fn slices_add_up_and_failures_stay_apart() {
        let slice = |answers| {
            let mut measured = Measured { answers, reopened: 1, ..Measured::default() };
            measured.latencies.record(answers);
            measured.unexpected.insert(429, 2);
            measured.broken.insert("late".to_owned(), 3);
            measured.waited = Duration::from_millis(4);
            measured
        };
        let mut sum = slice(10);
        sum.add(slice(20));
        assert_eq!((sum.answers, sum.reopened, sum.failures()), (30, 2, 10));
        assert_eq!((sum.latencies.percentile(5_000), sum.latencies.max()), (10, 20));
        assert_eq!((sum.unexpected[&429], sum.broken["late"], sum.waited.as_millis()), (4, 6, 8));
        let failures = sum.only_failures();
        assert_eq!((failures.answers, failures.latencies.max(), failures.failures()), (0, 0, 10));
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
