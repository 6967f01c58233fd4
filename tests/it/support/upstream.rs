//! An API that does what its path says, and remembers what it saw.
//!
//! `/up/status/N` answers N; `/up/refuse` closes before it has answered; `/up/hang` never answers; `/up/cut/N` promises 1,000
//! bytes and closes after N; `/up/cut-chunked/N` the same without a length; `/up/stall` sends a part and stops;
//! `/up/bytes/N` sends N bytes;
//! `/up/stream/N` sends N pieces, each when `release` is called; `/up/wait` waits for one `release` and then answers like
//! anything else: its request as JSON; `/up/scripted` answers with the bytes that `script` was given.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub target: String,
    /// Lower-case names; several values are joined by ` | `.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

#[derive(Debug, Clone)]
pub struct TestUpstream {
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    pieces: Arc<Semaphore>,
    scripts: Arc<Mutex<VecDeque<Script>>>,
}

/// Any bytes for an answer, and what becomes of the connection then.
#[derive(Debug, Clone)]
pub struct Script {
    pub bytes: Vec<u8>,
    pub then: ThenUpstream,
}

/// What the upstream does after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThenUpstream {
    Closes,
    /// It listens for the next request.
    GoesOn,
    /// It neither says anything more nor closes.
    Hangs,
}

impl TestUpstream {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let pieces = Arc::new(Semaphore::new(0));
        let upstream = Self { url, seen: Arc::default(), pieces, scripts: Arc::default() };
        let serving = upstream.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move { serving.converse(socket).await });
            }
        });
        upstream
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn hits(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// Lets `/up/stream` send this many pieces more, or as many `/up/wait` answer.
    pub fn release(&self, pieces: usize) {
        self.pieces.add_permits(pieces);
    }

    /// What `/up/scripted` answers: one after the other, and the last to whoever else asks.
    pub fn script(&self, scripts: impl IntoIterator<Item = Script>) {
        *self.scripts.lock().unwrap() = scripts.into_iter().collect();
    }

    fn next_script(&self) -> Option<Script> {
        let mut scripts = self.scripts.lock().unwrap();
        if scripts.len() > 1 { scripts.pop_front() } else { scripts.front().cloned() }
    }

    async fn converse(&self, mut socket: TcpStream) {
        let mut buffer = Vec::new();
        while let Some(seen) = read_request(&mut socket, &mut buffer).await {
            let target = seen.target.clone();
            self.seen.lock().unwrap().push(seen.clone());
            if !self.answer(&mut socket, &seen, &target).await {
                return;
            }
        }
    }

    /// `false`: close the connection.
    async fn answer(&self, socket: &mut TcpStream, seen: &Seen, target: &str) -> bool {
        let path = target.split('?').next().unwrap();
        let mut parts = path.strip_prefix("/up/").or(path.strip_prefix("/free/")).unwrap_or("").split('/');
        let (verb, argument) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let n: usize = argument.parse().unwrap_or(0);
        if verb == "wait" {
            self.pieces.acquire().await.unwrap().forget();
        }
        match verb {
            // With the beginning of an answer: a connection that ends without any may be asked anew.
            "refuse" => {
                let _ = socket.write_all(b"HTTP/1.1 ").await;
                false
            }
            "scripted" => {
                let Some(script) = self.next_script() else { return false };
                let is_sent = socket.write_all(&script.bytes).await.is_ok();
                if script.then == ThenUpstream::Hangs {
                    std::future::pending::<()>().await;
                }
                is_sent && script.then == ThenUpstream::GoesOn
            }
            "bytes" => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {n}\r\n\r\n");
                socket.write_all(head.as_bytes()).await.is_ok()
                    && socket.write_all(&vec![b'x'; n]).await.is_ok()
            }
            "hang" => {
                std::future::pending::<()>().await;
                false
            }
            "status" => {
                let body = format!("{{\"status\":{n}}}");
                let head = format!(
                    "HTTP/1.1 {n} Whatever\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                    if n == 204 || n == 304 { 0 } else { body.len() }
                );
                let body = if n == 204 || n == 304 || seen.method == "HEAD" { "" } else { &body };
                socket.write_all(format!("{head}{body}").as_bytes()).await.is_ok()
            }
            "cut" => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 1000\r\n\r\n";
                let _ = socket.write_all(head.as_bytes()).await;
                let _ = socket.write_all(&vec![b'x'; n.min(999)]).await;
                false
            }
            "cut-chunked" => {
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
                let _ = socket.write_all(format!("{n:x}\r\n{}\r\n", "x".repeat(n)).as_bytes()).await;
                false
            }
            "stall" => {
                let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\npart";
                let _ = socket.write_all(head.as_bytes()).await;
                std::future::pending::<()>().await;
                false
            }
            "stream" => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
                if socket.write_all(head.as_bytes()).await.is_err() {
                    return false;
                }
                for piece in 0..n {
                    self.pieces.acquire().await.unwrap().forget();
                    let event = format!("data: {piece}\n\n");
                    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
                    if socket.write_all(chunk.as_bytes()).await.is_err() {
                        return false;
                    }
                }
                socket.write_all(b"0\r\n\r\n").await.is_ok()
            }
            "headers" => {
                let head = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nset-cookie: a=b\r\npayment-response: Zm9yZ2Vk\r\n\
                            payment-required: Zm9yZ2Vk\r\nstrict-transport-security: max-age=1\r\ncache-control: public, max-age=60\r\n\
                            connection: x-secret\r\nx-secret: hop\r\nx-kept: yes\r\nx-accel-buffering: no\r\n\
                            x-accel-redirect: /other\r\nx-sendfile: /other\r\nx-lighttpd-send-file: /other\r\nx-reproxy-url: /other\r\naccess-control-allow-origin: https://evil.example\r\n\
                            location: ";
                let text = format!("{head}{}/there\r\n\r\nok", self.url);
                socket.write_all(text.as_bytes()).await.is_ok()
            }
            _ => {
                let body = serde_json::json!({
                    "method": seen.method,
                    "target": seen.target,
                    "headers": seen.headers,
                    "bodyLength": seen.body.len(),
                })
                .to_string();
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                let body = if seen.method == "HEAD" { "" } else { &body };
                socket.write_all(format!("{head}{body}").as_bytes()).await.is_ok()
            }
        }
    }
}

async fn more(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    let mut piece = [0; 16 * 1024];
    match socket.read(&mut piece).await {
        Ok(0) | Err(_) => false,
        Ok(n) => {
            buffer.extend_from_slice(&piece[..n]);
            true
        }
    }
}

async fn read_request(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Seen> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if !more(socket, buffer).await {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + 4);
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let mut headers = BTreeMap::<String, String>::new();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        let slot = headers.entry(name.to_ascii_lowercase()).or_default();
        if !slot.is_empty() {
            slot.push_str(" | ");
        }
        slot.push_str(value.trim());
    }
    let mut body = Vec::new();
    if let Some(length) = headers.get("content-length") {
        let length: usize = length.parse().ok()?;
        while buffer.len() < length {
            if !more(socket, buffer).await {
                return None;
            }
        }
        body = buffer.drain(..length).collect();
    } else if headers.contains_key("transfer-encoding") {
        loop {
            let line_end = loop {
                if let Some(end) = buffer.windows(2).position(|w| w == b"\r\n") {
                    break end;
                }
                if !more(socket, buffer).await {
                    return None;
                }
            };
            let size = usize::from_str_radix(std::str::from_utf8(&buffer[..line_end]).ok()?, 16).ok()?;
            buffer.drain(..line_end + 2);
            while buffer.len() < size + 2 {
                if !more(socket, buffer).await {
                    return None;
                }
            }
            body.extend(buffer.drain(..size));
            buffer.drain(..2);
            if size == 0 {
                break;
            }
        }
    }
    Some(Seen { method, target, headers, body })
}
