//! A crowd at the door: who has not paid, or is slow, holds nothing that payers need, and who has gone is noticed.

mod embedded;
mod liveness;
mod pace;
mod places;

use std::net::SocketAddr;

use tokio::net::TcpSocket;

use crate::support::raw::{Raw, eventually, status_of};
use crate::support::{GOOD, Gateway, Pay, ROUTES, World};

/// Whoever connects to a test is a proxy, so `x-forwarded-for` says which network a caller is of.
const NAMED_PROXY: &str = "trusted_proxies = [\"127.0.0.1\"]\n";
const FREE: &str = "\n[[routes]]\nmethods = [\"GET\", \"POST\"]\npath = \"/free/*\"\nfree = true\n";
/// Two callers of networks of their own.
const HERE: &str = "203.0.113.7";
const ELSEWHERE: &str = "198.51.100.7";

/// `limits` are lines below `[limits]`.
async fn world(limits: &str) -> World {
    World::with(&format!("{NAMED_PROXY}[limits]\n{limits}\n"), &format!("{ROUTES}{FREE}")).await
}

/// A wallet of its own, and its `payment` header.
async fn payer(gateway: &Gateway<'_>, name: &str) -> String {
    let card = gateway.world.tokenise(GOOD).await;
    let body = format!("{{\"paymentMethodId\":\"{card}\"}}");
    let url = format!("{}/billing/top-ups", gateway.url);
    let body = Some(("application/json", body.as_bytes()));
    let answer = gateway.world.client.send("POST", &url, &[("idempotency-key", name)], body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    Pay::client(&answer.receipt().client_id).header()
}

/// A clientId that looks like one, and was never issued.
fn made_up() -> String {
    Pay::client(&format!("pck_{}", "A".repeat(43))).header()
}

/// A connection that has sent this much. `lines` are header lines, each with its end.
async fn begin(url: &str, first: &str, from: &str, lines: &str, body: &str) -> Raw {
    let mut raw = Raw::connect(url).await;
    raw.send(format!("{first} HTTP/1.1\r\nhost: a\r\nx-forwarded-for: {from}\r\n{lines}\r\n{body}")).await;
    raw
}

/// The status of a whole request.
async fn ask(gateway: &Gateway<'_>, first: &str, from: &str, lines: &str, body: &str) -> u16 {
    let lines = format!("{lines}connection: close\r\n");
    status_of(&begin(&gateway.url, first, from, &lines, body).await.rest().await)
}

/// Requests that were told to come again: `prepaid402_requests_total`, outcome `Busy`.
async fn busy(gateway: &Gateway<'_>) -> u64 {
    let text = gateway.world.client.get(&format!("{}/metrics", gateway.admin_url)).await.text();
    let lines = text.lines().filter(|line| line.contains("_requests_total{") && line.contains("\"Busy\""));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

/// A connection from another address of this machine.
async fn connect_from(address: &str, url: &str) -> Option<Raw> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
    let to: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
    let socket = socket.connect(to).await.ok()?;
    Some(Raw { socket, buffer: Vec::new() })
}
