//! A server that reads HTTP/1.1 requests and answers each with the next reply of a list.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What to do with one request.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// Status, extra header lines (each ended by CRLF), body.
    Answer(u16, String, String),
    /// Like `Answer`, but the connection ends after half of the body.
    HalfAnswer(u16, String),
    /// Close the connection without an answer.
    Drop,
    /// Never answer.
    Silence,
    /// Send the head of an answer and never its body.
    HeadOnly,
}

impl Reply {
    pub(super) fn ok(body: impl Into<String>) -> Self {
        Self::Answer(200, String::new(), body.into())
    }

    pub(super) fn status(status: u16, body: impl Into<String>) -> Self {
        Self::Answer(status, String::new(), body.into())
    }

    pub(super) fn with(self, name: &str, value: &str) -> Self {
        match self {
            Self::Answer(status, headers, body) => {
                Self::Answer(status, format!("{headers}{name}: {value}\r\n"), body)
            }
            other => other,
        }
    }
}

/// A request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// Method, path and query.
    pub(super) line: String,
    /// Lower-case names.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Debug, Default)]
struct State {
    replies: VecDeque<Reply>,
    /// Used when the list is empty.
    always: Option<Reply>,
    seen: Vec<Seen>,
    connections: usize,
}

/// The server; it ends with the runtime of its test.
#[derive(Debug, Clone)]
pub(super) struct Double {
    pub(super) base: String,
    state: Arc<Mutex<State>>,
}

impl Double {
    pub(super) async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self::serve(State { replies: replies.into_iter().collect(), ..State::default() }).await
    }

    pub(super) async fn always(reply: Reply) -> Self {
        Self::serve(State { always: Some(reply), ..State::default() }).await
    }

    async fn serve(state: State) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base = format!("http://{}", listener.local_addr().expect("bound"));
        let double = Self { base, state: Arc::new(Mutex::new(state)) };
        let server = double.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                server.with(|state| state.connections += 1);
                tokio::spawn(server.clone().connection(stream));
            }
        });
        double
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.with(|state| state.seen.clone())
    }

    pub(super) fn connections(&self) -> usize {
        self.with(|state| state.connections)
    }

    async fn connection(self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        while let Some(seen) = read_request(&mut stream).await {
            let reply = self.with(|state| {
                state.seen.push(seen);
                state.replies.pop_front().or_else(|| state.always.clone())
            });
            match reply {
                Some(Reply::Answer(status, headers, body)) => {
                    let head =
                        format!("HTTP/1.1 {status} -\r\n{headers}content-length: {}\r\n\r\n", body.len());
                    if stream.write_all(format!("{head}{body}").as_bytes()).await.is_err() {
                        return;
                    }
                }
                Some(Reply::HalfAnswer(status, body)) => {
                    let half = body.get(..body.len() / 2).unwrap_or("");
                    let head = format!("HTTP/1.1 {status} -\r\ncontent-length: {}\r\n\r\n", body.len());
                    let _ = stream.write_all(format!("{head}{half}").as_bytes()).await;
                    return;
                }
                Some(Reply::HeadOnly) => {
                    let head =
                        b"HTTP/1.1 200 -\r\nrequest-id: req_head\r\ncontent-length: 10\r\n\r\n".as_slice();
                    let _ = stream.write_all(head).await;
                    return std::future::pending().await;
                }
                Some(Reply::Silence) => return std::future::pending().await,
                Some(Reply::Drop) | None => return,
            }
        }
    }
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let line = lines.first()?.trim_end_matches(" HTTP/1.1").to_owned();
    let headers: Vec<(String, String)> = lines
        .iter()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    Some(Seen { line, headers, body: String::from_utf8(body).ok()? })
}
