//! Paid requests with an `Idempotency-Key`: however often one is repeated, and whatever happened to its answer, it is charged
//! once, and what changes something at the API is done once.

mod crashes;
mod failures;
mod holds;
mod keys;
mod model;
mod nodes;
mod repeats;
mod sizes;

use std::time::Duration;

use crate::support::http::{Answer, Broken, Client};
use crate::support::raw::eventually;
use crate::support::{Gateway, Pay, World, number, rows};

/// Price of `/up/*`, in units.
const PRICE: i64 = 500;
/// What one pack buys, in units.
const PACK: i64 = 50_000;

/// One request, which can be sent again as it was.
#[derive(Debug, Clone)]
struct Ask {
    method: &'static str,
    path: String,
    payment: String,
    key: Option<String>,
    body: Vec<u8>,
    /// More headers.
    headers: Vec<(&'static str, &'static str)>,
}

impl Ask {
    fn new(method: &'static str, path: &str, pay: &Pay, key: &str) -> Self {
        let body = if method == "POST" { b"{\"n\":1}".to_vec() } else { Vec::new() };
        let (payment, key) = (pay.header(), Some(key.to_owned()));
        Self { method, path: path.to_owned(), payment, key, body, headers: Vec::new() }
    }

    fn post(path: &str, pay: &Pay, key: &str) -> Self {
        Self::new("POST", path, pay, key)
    }

    fn get(path: &str, pay: &Pay, key: &str) -> Self {
        Self::new("GET", path, pay, key)
    }

    fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    fn to(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    fn by(mut self, pay: &Pay) -> Self {
        self.payment = pay.header();
        self
    }

    fn key(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    fn with(mut self, headers: &[(&'static str, &'static str)]) -> Self {
        self.headers.extend(headers);
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(held, _)| *held != name);
        self
    }

    fn without_key(mut self) -> Self {
        self.key = None;
        self
    }

    async fn try_at(&self, client: &Client, url: &str) -> Result<Answer, Broken> {
        let mut headers = vec![("payment", self.payment.as_str())];
        headers.extend(self.key.as_deref().map(|key| ("idempotency-key", key)));
        headers.extend(&self.headers);
        let body = (!self.body.is_empty()).then_some(("application/json", self.body.as_slice()));
        client.try_send(self.method, &format!("{url}{}", self.path), &headers, body).await
    }

    /// Sends it until it is known whether the first answer was delivered: until then, a charge may still be given back.
    async fn decided_at(&self, gateway: &Gateway<'_>) -> Answer {
        loop {
            let answer = self.at(gateway).await;
            if answer.code() != "idempotency_in_flight" {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn at(&self, gateway: &Gateway<'_>) -> Answer {
        let sent = self.try_at(&gateway.world.client, &gateway.url).await;
        sent.unwrap_or_else(|Broken| panic!("{} {} broke", self.method, self.path))
    }

    /// Sends it in the background.
    fn sent(&self, gateway: &Gateway<'_>) -> tokio::task::JoinHandle<Result<Answer, Broken>> {
        let (ask, client, url) = (self.clone(), gateway.world.client.clone(), gateway.url.clone());
        tokio::spawn(async move { ask.try_at(&client, &url).await })
    }

    /// The bytes of it, for a connection that the test holds by the hand.
    fn bytes(&self) -> Vec<u8> {
        let key = self.key.as_deref().map_or_else(String::new, |key| format!("idempotency-key: {key}\r\n"));
        let media_type = if self.body.is_empty() { "" } else { "content-type: application/json\r\n" };
        let head = format!(
            "{} {} HTTP/1.1\r\nhost: a\r\npayment: {}\r\n{key}{media_type}content-length: {}\r\n\r\n",
            self.method,
            self.path,
            self.payment,
            self.body.len()
        );
        [head.as_bytes(), &self.body].concat()
    }
}

/// A wallet with so many units, unspent.
async fn wallet_of(world: &World, url: &str, units: i64) -> String {
    let card = world.tokenise(crate::support::GOOD).await;
    let body = format!("{{\"paymentMethodId\":\"{card}\",\"topUpAmount\":{units}}}");
    let headers = [("idempotency-key", card.as_str())];
    let body = Some(("application/json", body.as_bytes()));
    let answer = world.client.send("POST", &format!("{url}/billing/top-ups"), &headers, body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.receipt().client_id
}

async fn wallet(gateway: &Gateway<'_>) -> String {
    wallet_of(gateway.world, &gateway.url, PACK).await
}

async fn balance_at(world: &World, url: &str, client: &str) -> i64 {
    let bearer = format!("Bearer {client}");
    let url = format!("{url}/billing/balance");
    let answer = world.client.send("GET", &url, &[("authorization", &bearer)], None).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["balance"].as_i64().unwrap()
}

async fn balance_becomes(gateway: &Gateway<'_>, client: &str, units: i64) {
    eventually(&format!("a balance of {units}"), async || gateway.balance(client).await == units).await;
}

/// Usage entries, whether or not they were given back.
async fn captures(world: &World) -> i64 {
    let sql = "SELECT COUNT(*) FROM entries WHERE source LIKE 'usage:%' AND source NOT LIKE '%/%'";
    number(&world.database, sql).await
}

/// Usage entries that were not given back.
async fn standing(world: &World) -> i64 {
    let sql = "SELECT COUNT(*) FROM entries AS u WHERE u.source LIKE 'usage:%' AND u.source NOT LIKE '%/%' AND NOT EXISTS
               (SELECT 1 FROM entries AS r WHERE r.source = 'reversal:' || substr(u.source, 7))";
    number(&world.database, sql).await
}

/// Keys that the database remembers.
async fn remembered(world: &World) -> i64 {
    number(&world.database, "SELECT COUNT(*) FROM idempotency_keys").await
}

/// As if a day had passed for every key.
async fn expire(world: &World) {
    crate::support::change(&world.database, "UPDATE idempotency_keys SET expires_at = 1", &[]).await;
}

/// How often the API saw this key.
fn hits(world: &World, key: &str) -> usize {
    let has = |seen: &&crate::support::upstream::Seen| {
        seen.headers.get("idempotency-key").is_some_and(|held| held == key)
    };
    world.upstream.seen().iter().filter(has).count()
}

async fn seen_by_the_api(world: &World, key: &str, times: usize) {
    eventually(&format!("the API sees {key} {times} times"), async || hits(world, key) >= times).await;
    assert_eq!(hits(world, key), times);
}

fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{}", answer.text());
    let json = answer.json();
    for field in ["message", "whoActs", "requestId"] {
        assert!(json[field].as_str().is_some_and(|text| !text.is_empty()), "{field} in {json}");
    }
    assert!(json["retryable"].is_boolean(), "{json}");
    assert_eq!(answer.header("idempotent-replayed"), None, "nothing is replayed");
}

fn served(answer: &Answer) {
    assert!((200..300).contains(&answer.status), "{} {}", answer.status, answer.text());
    assert_eq!(answer.header("idempotent-replayed"), None);
    let receipt = answer.receipt();
    assert!(receipt.success);
    assert_eq!((receipt.credits_charged, receipt.idempotent_replay), (Some(PRICE), None));
}

/// The same answer once more, and it says that it is.
fn replayed(again: &Answer, first: &Answer) {
    assert_eq!((again.status, &again.body), (first.status, &first.body), "{}", again.text());
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    let (receipt, original) = (again.receipt(), first.receipt());
    assert!(receipt.success);
    assert_eq!(receipt.idempotent_replay, Some(true));
    assert_eq!(receipt.client_id, original.client_id);
    assert_eq!(receipt.charge_id, None, "this request charged no card");
    let of = |answer: &Answer| {
        // `connection` is about the connection: it closes when the gateway stops.
        let but = ["connection", "date", "payment-response", "idempotent-replayed", "x-request-id"];
        let mut headers: Vec<(String, String)> = answer
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .filter(|(name, _)| !but.contains(&name.as_str()))
            .collect();
        headers.sort();
        headers
    };
    assert_eq!(of(again), of(first), "the same headers");
}

/// Everything is closed and right.
async fn closed(gateway: Gateway<'_>) {
    let world = gateway.world;
    gateway.stop().await;
    world.assert_books_agree().await;
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM holds").await, 0, "no hold is left");
    let running = "SELECT COUNT(*) FROM idempotency_keys WHERE state = 'running'";
    assert_eq!(number(&world.database, running).await, 0, "no request is left running");
    let undelivered = "SELECT COUNT(*) FROM undelivered WHERE entries <> '[]'";
    assert_eq!(rows(&world.database, undelivered).await.len(), 1);
    assert_eq!(number(&world.database, undelivered).await, 0, "nothing is left undelivered");
}
