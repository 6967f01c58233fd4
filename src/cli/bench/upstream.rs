//! The API behind the gateway in a bench: one fixed answer, as fast as possible, so that the gateway is what is measured.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 32 * 1024;

/// What every server of a bench answers.
pub(super) const BODY: &str = r#"{"city":"Berlin","sky":"partly cloudy","celsius":17,"wind":{"from":"west","kmh":12},"hours":[17,18,18,17,16,15,14,14,13,12,12,11],"note":"a fixed answer of about two hundred bytes for the bench"}"#;

/// An upstream that runs until this value goes.
#[derive(Debug)]
pub(super) struct Upstream {
    /// Where it listens, on loopback.
    pub(super) address: SocketAddr,
    accepting: AbortHandle,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Listens on a free port of this machine.
pub(super) async fn start() -> io::Result<Upstream> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let accepting = tokio::spawn(async move {
        // Ends with the listener; connections end when the gateway does.
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = answer(stream).await;
            });
        }
    });
    Ok(Upstream { address, accepting: accepting.abort_handle() })
}

/// Answers every head with the same, whatever it asks for. Requests have no bodies here.
async fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    let mut head = Vec::with_capacity(4096);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
        // The gateway waits for the answer before it asks again, so a head is always the end of what has come.
        if head.ends_with(b"\r\n\r\n") {
            stream.write_all(answer.as_bytes()).await?;
            head.clear();
        } else if head.len() >= MAX_HEAD {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_answers_on_a_connection_that_is_kept() {
        let upstream = start().await.expect("started");
        let mut stream = TcpStream::connect(upstream.address).await.expect("connected");
        assert!((150..250).contains(&BODY.len()) && serde_json::from_str::<serde_json::Value>(BODY).is_ok());
        for _ in 0..2 {
            // In two pieces, as it may come.
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r").await.expect("sent");
            tokio::task::yield_now().await;
            stream.write_all(b"\n\r\n").await.expect("sent");
            let mut got = Vec::new();
            while !got.ends_with(BODY.as_bytes()) {
                assert_ne!(stream.read_buf(&mut got).await.expect("answered"), 0);
            }
            assert!(got.starts_with(b"HTTP/1.1 200 OK\r\n"));
        }
    }
}
