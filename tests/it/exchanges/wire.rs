//! A caller that reads what is on the wire: how an answer is framed, and what becomes of the connection.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Nothing here takes so long; but a hang is a difference like any other, and must end.
const PATIENCE: Duration = Duration::from_secs(40);

/// Asked when a connection should be open: nobody sells it, and its answer says that somebody listens.
const PROBE: &[u8] = b"GET /is-anybody-there HTTP/1.1\r\nhost: probe\r\n\r\n";

/// One answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status_line: String,
    /// As they came: name, value.
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    pub framing: Framing,
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// An answer without a body: to HEAD, or with a status that has none.
    Bodiless,
    Length(usize),
    Chunked,
    UntilClose,
    /// The connection ended before the body did, of which so much was announced.
    Cut(Option<usize>),
    /// Chunks that cannot be read.
    Unreadable,
}

/// What becomes of a connection after an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Then {
    /// It answers the next request.
    StaysOpen,
    /// It was closed, as the answer has said or as HTTP/1.0 has it.
    Closes,
    /// It was closed although the answer did not say so.
    ClosesUnannounced,
    /// Bytes that belong to no answer.
    Leftover(Vec<u8>),
    /// The caller has closed its side, and then the server its own.
    HalfClosed,
    /// Neither an answer nor an end.
    Hangs,
}

/// One connection.
#[derive(Debug)]
pub struct Caller {
    socket: TcpStream,
    buffer: Vec<u8>,
    is_ended: bool,
}

/// No answer: the connection ended, or nothing came.
#[derive(Debug, PartialEq, Eq)]
pub enum Silence {
    Closed(Vec<u8>),
    Hangs(Vec<u8>),
}

impl Caller {
    pub async fn connect(url: &str) -> Self {
        let socket = TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self { socket, buffer: Vec::new(), is_ended: false }
    }

    /// What the other side does not read any more is lost, and that is fine.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes).await;
    }

    pub async fn close_own_side(&mut self) {
        let _ = self.socket.shutdown().await;
    }

    /// `Ok(false)`: no more will come. `Err`: nothing comes.
    async fn more(&mut self) -> Result<bool, ()> {
        if self.is_ended {
            return Ok(false);
        }
        let mut piece = vec![0; 64 * 1024];
        match tokio::time::timeout(PATIENCE, self.socket.read(&mut piece)).await {
            Err(_) => Err(()),
            Ok(Ok(0) | Err(_)) => {
                self.is_ended = true;
                Ok(false)
            }
            Ok(Ok(n)) => {
                self.buffer.extend_from_slice(&piece[..n]);
                Ok(true)
            }
        }
    }

    async fn up_to(&mut self, end: &[u8]) -> Result<Vec<u8>, Silence> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                let found = self.buffer.drain(..at + end.len()).collect::<Vec<_>>();
                return Ok(found[..at].to_vec());
            }
            match self.more().await {
                Ok(true) => {}
                Ok(false) => return Err(Silence::Closed(std::mem::take(&mut self.buffer))),
                Err(()) => return Err(Silence::Hangs(std::mem::take(&mut self.buffer))),
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> Result<Vec<u8>, Silence> {
        while self.buffer.len() < length {
            match self.more().await {
                Ok(true) => {}
                Ok(false) => return Err(Silence::Closed(std::mem::take(&mut self.buffer))),
                Err(()) => return Err(Silence::Hangs(std::mem::take(&mut self.buffer))),
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// The next answer, `is_to_head` when HEAD was asked.
    pub async fn answer(&mut self, is_to_head: bool) -> Result<Answer, Silence> {
        let head = self.up_to(b"\r\n\r\n").await?;
        let mut lines =
            head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let status_line = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
        let headers: Vec<(String, Vec<u8>)> = lines
            .map(|line| {
                let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
                let name = String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase();
                let value = line.get(colon + 1..).unwrap_or_default().trim_ascii().to_vec();
                (name, value)
            })
            .collect();
        let mut answer = Answer { status_line, headers, body: Vec::new(), framing: Framing::Bodiless };
        let status = answer.status();
        if is_to_head || status < 200 || status == 204 || status == 304 {
            return Ok(answer);
        }
        if answer.header("transfer-encoding").is_some() {
            self.chunks(&mut answer).await?;
        } else if let Some(length) = answer.header("content-length") {
            let length: usize = length.parse().unwrap_or(usize::MAX);
            match self.exactly(length).await {
                Ok(body) => (answer.body, answer.framing) = (body, Framing::Length(length)),
                Err(Silence::Closed(part)) => {
                    (answer.body, answer.framing) = (part, Framing::Cut(Some(length)));
                }
                Err(hangs) => return Err(hangs),
            }
        } else {
            while self.more().await.map_err(|()| Silence::Hangs(self.buffer.clone()))? {}
            (answer.body, answer.framing) = (std::mem::take(&mut self.buffer), Framing::UntilClose);
        }
        Ok(answer)
    }

    async fn chunks(&mut self, answer: &mut Answer) -> Result<(), Silence> {
        answer.framing = Framing::Chunked;
        let cut = |silence| match silence {
            Silence::Closed(part) => Ok(part),
            hangs @ Silence::Hangs(_) => Err(hangs),
        };
        loop {
            let size = match self.up_to(b"\r\n").await {
                Ok(line) => String::from_utf8_lossy(&line).into_owned(),
                Err(silence) => {
                    cut(silence)?;
                    answer.framing = Framing::Cut(None);
                    return Ok(());
                }
            };
            let Ok(size) = usize::from_str_radix(&size, 16) else {
                answer.framing = Framing::Unreadable;
                return Ok(());
            };
            match self.exactly(size + 2).await {
                Ok(chunk) => answer.body.extend_from_slice(&chunk[..size]),
                Err(silence) => {
                    answer.body.extend(cut(silence)?);
                    answer.framing = Framing::Cut(None);
                    return Ok(());
                }
            }
            if size == 0 {
                return Ok(());
            }
        }
    }

    /// What became of the connection. Nothing is assumed: an open one answers, and a closed one ends.
    pub async fn then(&mut self, last: &Answer, is_http10: bool) -> Then {
        let connection = last.header("connection").unwrap_or_default().to_ascii_lowercase();
        let is_last = connection.contains("close")
            || (is_http10 && !connection.contains("keep-alive"))
            || matches!(last.framing, Framing::UntilClose | Framing::Cut(_) | Framing::Unreadable);
        if !is_last {
            if !self.buffer.is_empty() {
                return Then::Leftover(std::mem::take(&mut self.buffer));
            }
            self.send(PROBE).await;
            return match self.up_to(b"\r\n\r\n").await {
                Ok(head) if head.starts_with(b"HTTP/1.1 404 ") => Then::StaysOpen,
                Ok(other) => Then::Leftover(other),
                Err(Silence::Closed(rest)) if rest.is_empty() => Then::ClosesUnannounced,
                Err(Silence::Closed(rest)) => Then::Leftover(rest),
                Err(Silence::Hangs(_)) => Then::Hangs,
            };
        }
        self.end(Then::Closes).await
    }

    /// Everything up to the end of the connection; `then` when nothing came.
    pub async fn end(&mut self, then: Then) -> Then {
        loop {
            match self.more().await {
                Ok(true) => {}
                Ok(false) if self.buffer.is_empty() => return then,
                Ok(false) => return Then::Leftover(std::mem::take(&mut self.buffer)),
                Err(()) => return Then::Hangs,
            }
        }
    }
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.status_line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.and_then(|(_, value)| std::str::from_utf8(value).ok())
    }
}
