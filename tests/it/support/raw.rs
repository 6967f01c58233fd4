//! Bytes on sockets: a caller that says exactly what a test wrote, and upstreams that a test holds by the hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::dice::Dice;

/// A test never depends on it, but a hang must end. Longer than the half minute that passes between two rounds of the worker.
const PATIENCE: Duration = Duration::from_secs(90);

/// Looks until it holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn patiently<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("never happened: {what}"))
}

/// One connection.
#[derive(Debug)]
pub struct Raw {
    pub socket: TcpStream,
    pub buffer: Vec<u8>,
}

impl Raw {
    pub async fn connect(url: &str) -> Self {
        let address = url.strip_prefix("http://").unwrap();
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self { socket, buffer: Vec::new() }
    }

    /// What the other side does not read any more is lost, and that is fine.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.socket.write_all(bytes.as_ref()).await;
    }

    /// `false`: no more will come.
    pub async fn more(&mut self) -> bool {
        let mut piece = vec![0; 64 * 1024];
        match patiently("the next bytes", self.socket.read(&mut piece)).await {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.buffer.extend_from_slice(&piece[..n]);
                true
            }
        }
    }

    /// The head of the next message, lower-cased; its bytes leave the buffer. Empty: the connection closed before.
    pub async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = self.buffer.drain(..end + 4).collect::<Vec<_>>();
                return String::from_utf8_lossy(&head).to_ascii_lowercase();
            }
            if !self.more().await {
                return String::new();
            }
        }
    }

    pub async fn until(&mut self, text: &str) {
        while !self.text().contains(text) {
            assert!(self.more().await, "closed before {text:?}: {:.2000}", self.text());
        }
    }

    /// Everything up to the close.
    pub async fn rest(&mut self) -> String {
        while self.more().await {}
        self.text()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }
}

/// The status of a head.
pub fn status_of(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// A header's value in a lower-cased head.
pub fn header_of<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// An address that refuses connections.
pub fn closed_port() -> String {
    format!("http://{}", super::free_listener().local_addr().unwrap())
}

/// Answers each request with the bytes that `script` gives for its target, then closes.
pub async fn scripted(script: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let script = Arc::new(script);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let script = Arc::clone(&script);
            tokio::spawn(async move {
                let mut raw = Raw { socket, buffer: Vec::new() };
                let head = raw.head().await;
                // Before a first payment, the gateway connects and asks for nothing.
                if head.is_empty() {
                    return;
                }
                raw.send(script(head.split(' ').nth(1).unwrap_or_default())).await;
                let _ = raw.socket.shutdown().await;
            });
        }
    });
    url
}

/// An upstream whose connections the test takes one by one.
#[derive(Debug)]
pub struct ByHand {
    pub url: String,
    listener: TcpListener,
}

impl ByHand {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { url: format!("http://{}", listener.local_addr().unwrap()), listener }
    }

    /// The next connection that asks for something: before a first payment, the gateway connects and closes.
    pub async fn accept(&self) -> Raw {
        loop {
            let socket = self.accept_any().await;
            if !matches!(patiently("its first byte", socket.peek(&mut [0])).await, Ok(0)) {
                return Raw { socket, buffer: Vec::new() };
            }
        }
    }

    pub async fn accept_any(&self) -> TcpStream {
        patiently("a connection", self.listener.accept()).await.unwrap().0
    }
}

/// Asks, and hangs up at a random moment in one of the ways there are.
pub async fn hang_up(address: String, request: String, mut dice: Dice) {
    let Ok(mut socket) = TcpStream::connect(&address).await else { return };
    if dice.one_in(10) {
        let part = usize::try_from(dice.below(request.len() as u64)).unwrap();
        let _ = socket.write_all(&request.as_bytes()[..part]).await;
        return;
    }
    let _ = socket.write_all(request.as_bytes()).await;
    // Not a wait for anything: the random moment.
    tokio::time::sleep(dice.micros(15_000)).await;
    match dice.below(3) {
        0 => socket.set_zero_linger().unwrap(),
        1 => drop(socket.shutdown().await),
        _ => {
            let mut some = vec![0; usize::try_from(1 + dice.below(400)).unwrap()];
            let _ = tokio::time::timeout(dice.micros(15_000), socket.read(&mut some)).await;
        }
    }
}
