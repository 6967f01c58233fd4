//! Values and a scripted server for the tests of this folder.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::domain::{ClientKey, Currency, PaymentMethodId, Units};

use super::http::{Origin, Target};
use super::wallet::Pending;

pub(super) fn key(text: &str) -> ClientKey {
    ClientKey::parse(text).expect("key")
}

pub(super) fn origin(url: &str) -> Origin {
    Target::parse(url, false).expect("url").origin().clone()
}

pub(super) fn pending(top_up: i64, maybe_spent: i64) -> Pending {
    Pending {
        payment_method: PaymentMethodId::parse("pm_waiting").expect("id"),
        top_up: Units::new(top_up).expect("units"),
        currency: Currency::USD,
        maybe_spent: Units::new(maybe_spent).expect("units"),
    }
}

/// An offer of ours: 0.05 usd from packs of 5.00 usd.
pub(super) fn offer_json() -> Value {
    json!({
        "stripe402Version": 1,
        "resource": {"url": "/api/weather"},
        "accepts": [{"scheme": "stripe", "currency": "usd", "amount": 500, "minTopUp": 50_000, "publishableKey": "pk_test_1"}],
        "topUpOptions": [{"amount": 50_000, "credits": 50_000, "label": "5.00 USD"}],
        "code": "payment_required", "message": "Payment required.", "requestId": "r1"
    })
}

pub(super) fn header_of(json: &Value) -> Vec<u8> {
    STANDARD.encode(json.to_string()).into_bytes()
}

/// A request as the server saw it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) head: String,
    pub(super) body: String,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The decoded `payment` header; null without one.
    pub(super) fn payment(&self) -> Value {
        let Some(value) = self.header("payment") else { return Value::Null };
        serde_json::from_slice(&STANDARD.decode(value).expect("base64")).expect("json")
    }
}

/// What the server does.
pub(super) enum Reply {
    /// Status, extra header lines, body.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// The request arrives, the answer does not.
    Drop,
}

pub(super) fn offer_reply(json: &Value) -> Reply {
    let value = String::from_utf8(header_of(json)).expect("ascii");
    Reply::Answer(402, vec![("payment-required", value)], json.to_string())
}

pub(super) fn paid_reply(receipt: Value) -> Reply {
    let value = String::from_utf8(header_of(&receipt)).expect("ascii");
    Reply::Answer(200, vec![("payment-response", value)], "sunny".to_owned())
}

/// A server on a free port of this machine that answers by `script`.
pub(super) struct Server {
    pub(super) base: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub(super) async fn start(mut script: impl FnMut(&Seen) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let base = format!("http://{}", listener.local_addr().expect("address"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let Some(request) = read(&mut stream).await else { continue };
                log.lock().expect("lock").push(request.clone());
                if let Reply::Answer(status, headers, body) = script(&request) {
                    let mut text = format!("HTTP/1.1 {status} X\r\nconnection: close\r\n");
                    for (name, value) in headers {
                        text.push_str(&format!("{name}: {value}\r\n"));
                    }
                    text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
                    // The client may have gone; the test then sees that.
                    let _ = stream.write_all(text.as_bytes()).await;
                }
            }
        });
        Self { base, seen }
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("lock").clone()
    }
}

async fn read(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8(bytes.clone()).ok()?;
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let seen = Seen { head: head.to_owned(), body: body.to_owned() };
        let length: usize = seen.header("content-length").map_or(0, |value| value.parse().expect("number"));
        if body.len() >= length {
            return Some(seen);
        }
    }
}
