//! Connections of the pool that had ended before a request was sent on them. Everything runs on one thread, and servers are other
//! threads that are waited for without giving way: so the client cannot notice the end before it sends.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

use bytes::Bytes;

use super::*;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// How the first connection ends after its first answer.
#[derive(Debug, Clone, Copy)]
enum End {
    /// The peer is told that nobody is there any more.
    Reset,
    /// The peer can only find out by sending.
    Closed,
}

/// Answers one request, ends that connection when it is told to, and then answers one more on a new connection, if it serves on.
struct Server {
    url: String,
    end: mpsc::Sender<()>,
    ended: mpsc::Receiver<()>,
    asked: mpsc::Receiver<String>,
}

impl Server {
    fn start(end: End, serves_on: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let ((tell, told), (tell_ended, ended), (ask, asked)) =
            (mpsc::channel(), mpsc::channel(), mpsc::channel());
        thread::spawn(move || {
            let (mut first, _) = listener.accept().unwrap();
            ask.send(head_of(&mut first)).unwrap();
            first.write_all(OK).unwrap();
            told.recv().unwrap();
            if matches!(end, End::Reset) {
                socket2::SockRef::from(&first).set_linger(Some(Duration::ZERO)).unwrap();
            }
            drop(first);
            let listener = serves_on.then_some(listener);
            tell_ended.send(()).unwrap();
            if let Some(listener) = listener
                && let Ok((mut next, _)) = listener.accept()
            {
                let _ = ask.send(head_of(&mut next));
                let _ = next.write_all(OK);
            }
        });
        Self { url, end: tell, ended, asked }
    }

    fn upstream(&self) -> Upstream {
        Upstream::new(&UpstreamConfig {
            url: self.url.clone(),
            trust: crate::trust::Trust::default(),
            headers: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(5),
            preserve_host: false,
        })
        .unwrap()
    }

    fn end(&self) {
        self.end.send(()).unwrap();
        self.ended.recv().unwrap();
    }
}

fn head_of(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        match socket.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(read) => head.extend_from_slice(&piece[..read]),
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

fn call(upstream: &Upstream, method: Method, body: &'static str) -> UpstreamCall {
    UpstreamCall {
        method,
        target: upstream.target("/x", None).unwrap(),
        headers: HeaderMap::new(),
        host: None,
        body: UploadBody::whole(Bytes::from_static(body.as_bytes())),
        upload: UploadReport::default(),
        timeout: None,
    }
}

async fn outcome(
    end: End,
    serves_on: bool,
    method: Method,
    body: &'static str,
) -> (Option<UpstreamError>, usize) {
    let server = Server::start(end, serves_on);
    let upstream = server.upstream();
    let first = upstream.send(call(&upstream, Method::GET, "")).await.unwrap();
    let bytes = http_body_util::BodyExt::collect(first.into_body()).await.unwrap().to_bytes();
    assert_eq!(bytes, "ok");
    // The connection goes back to the pool when its own task has seen the end of the answer.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    server.end();
    let answered = upstream.send(call(&upstream, method, body)).await;
    (answered.err(), server.asked.try_iter().count())
}

#[tokio::test]
async fn what_was_not_sent_is_sent_on_a_new_connection() {
    for (method, body) in
        [(Method::POST, "body"), (Method::POST, ""), (Method::DELETE, ""), (Method::GET, "")]
    {
        assert_eq!(outcome(End::Reset, true, method.clone(), body).await, (None, 2), "{method} {body:?}");
    }
}

#[tokio::test]
async fn what_was_not_sent_was_not_done() {
    let done = outcome(End::Reset, false, Method::POST, "body").await;
    assert_eq!(done, (Some(UpstreamError::Unreachable), 1));
}

#[tokio::test]
async fn what_was_sent_to_nobody_is_sent_again_if_it_changes_nothing() {
    for (method, expected) in [
        (Method::GET, (None, 2)),
        (Method::HEAD, (None, 2)),
        (Method::POST, (Some(UpstreamError::Broken), 1)),
        (Method::DELETE, (Some(UpstreamError::Broken), 1)),
    ] {
        assert_eq!(outcome(End::Closed, true, method.clone(), "").await, expected, "{method}");
    }
}
