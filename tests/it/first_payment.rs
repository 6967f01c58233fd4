//! A first payment and an API that does not work: no card is charged for an API that cannot be reached, and whoever was charged and
//! not served is told what is in the wallet and how to use it.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::dice::Dice;
use crate::support::http::Answer;
use crate::support::process::{Process, Seat};
use crate::support::raw::{ByHand, closed_port, eventually};
use crate::support::{GOOD, GOOD_CARDS, Gateway, PACKS, Pay, ROUTES, World, number};
use crate::unknown_outcomes::{PROCESSING, finish};

const PACK: i64 = 50_000;

/// An upstream that answers as well as it can with a status, on a port that a test can close and open.
struct Switched {
    address: std::net::SocketAddr,
    running: Option<tokio::task::JoinHandle<()>>,
}

impl Switched {
    async fn on() -> Self {
        let address = crate::support::process::lasting_port(&mut Dice::random());
        let mut switched = Self { address, running: None };
        switched.turn_on().await;
        switched
    }

    async fn turn_on(&mut self) {
        let listener = tokio::net::TcpListener::bind(self.address).await.unwrap();
        self.running = Some(tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut raw = crate::support::raw::Raw { socket, buffer: Vec::new() };
                    if !raw.head().await.is_empty() {
                        raw.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
                    }
                });
            }
        }));
    }

    /// The port is closed when this has answered.
    async fn turn_off(&mut self) {
        let running = self.running.take().unwrap();
        running.abort();
        let _ = running.await;
    }
}

async fn buy(gateway: &Gateway<'_>, card: &str, key: &str, client: Option<&str>) -> Answer {
    let url = format!("{}/billing/top-ups", gateway.url);
    let body = json!({ "paymentMethodId": card }).to_string();
    let bearer = client.map(|client| format!("Bearer {client}"));
    let mut headers = vec![("idempotency-key", key)];
    headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
    gateway.world.client.send("POST", &url, &headers, Some(("application/json", body.as_bytes()))).await
}

fn unreachable(answer: &Answer) {
    assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_unreachable"), "{}", answer.text());
    let body = answer.json();
    assert_eq!((&body["retryable"], &body["whoActs"]), (&json!(true), &json!("seller")), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_card_is_charged_while_the_api_cannot_be_reached() {
    let mut world = World::new().await;
    let mut upstream = Switched::on().await;
    world.upstream.url = format!("http://{}", upstream.address);
    let gateway = world.gateway().await;
    // A paying client, who has seen the API work.
    let client = gateway.new_client("/api/weather").await;
    let calls = world.stripe_calls().await;
    upstream.turn_off().await;
    let cards = [world.tokenise(GOOD_CARDS[1]).await, world.tokenise(GOOD_CARDS[2]).await];
    // What was met within a second is believed; nobody has tried since the port was closed.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for round in 0..2 {
        for card in &cards {
            let answer = gateway.pay("/api/weather", &Pay::card(card)).await;
            unreachable(&answer);
            assert_eq!(answer.header("payment-response"), None, "there is no wallet: {answer:?}");
            assert!(answer.text().contains("card was not charged"), "{}", answer.text());
        }
        unreachable(&buy(&gateway, &cards[0], &format!("new {round}").replace(' ', "-"), None).await);
        // A wallet that is short: its card is not charged for nothing either.
        let short = Pay::client(&client).with_card(&cards[1]);
        let dear = gateway.pay("/api/weather", &short.top_up(100_000)).await;
        unreachable(&dear);
    }
    let after = world.stripe_calls().await;
    let charging = |calls: &std::collections::BTreeMap<String, i64>| {
        calls.iter().filter(|(name, _)| name.starts_with("payment_intents")).map(|(_, n)| n).sum::<i64>()
    };
    assert_eq!(charging(&after), charging(&calls), "{after:?}");
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM top_ups").await, 1, "and nothing was written");
    // Who has a wallet may buy in advance: it is theirs whenever the API is back.
    let bought = buy(&gateway, &cards[1], "in-advance", Some(&client)).await;
    assert_eq!(bought.status, 201, "{}", bought.text());
    upstream.turn_on().await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let served = gateway.pay("/api/weather", &Pay::card(&cards[0])).await;
    assert_eq!(served.status, 200, "{}", served.text());
    assert_eq!(served.receipt().credits_remaining.unwrap(), PACK - 500);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_that_fails_or_never_answers_is_no_connection_and_many_payers_cost_one_attempt() {
    // A server that speaks plain HTTP where TLS is expected, and one that takes connections and says nothing.
    for speaks in [true, false] {
        let mut world = World::new().await;
        world.packs = format!("connect_timeout = \"300ms\"\n{PACKS}");
        let plain = ByHand::start().await;
        let url = if speaks { &world.upstream.url } else { &plain.url };
        world.upstream.url = url.replace("http://", "https://");
        let gateway = world.gateway().await;
        let mut cards = Vec::new();
        for _ in 0..12 {
            cards.push(world.tokenise(GOOD).await);
        }
        let begun = Instant::now();
        let asking = cards.iter().map(|card| async {
            unreachable(&gateway.pay("/api/weather", &Pay::card(card)).await);
        });
        futures_util::future::join_all(asking).await;
        assert!(begun.elapsed() < Duration::from_secs(10), "they share one attempt: {:?}", begun.elapsed());
        if !speaks {
            let mut connections = 0;
            while tokio::time::timeout(Duration::from_millis(50), plain.accept_any()).await.is_ok() {
                connections += 1;
            }
            assert!((1..=3).contains(&connections), "{connections} connections for twelve payers");
        }
        gateway.stop().await;
        world.assert_books_agree().await;
        assert_eq!(number(&world.database, "SELECT COUNT(*) FROM top_ups").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_that_is_open_is_settled_although_the_api_is_down_by_then() {
    let mut world = World::new().await;
    let mut upstream = Switched::on().await;
    world.upstream.url = format!("http://{}", upstream.address);
    let gateway = world.gateway().await;
    let card = world.tokenise(PROCESSING).await;
    let first = gateway.pay("/api/weather", &Pay::card(&card)).await;
    assert_eq!((first.status, first.code().as_str()), (503, "topup_pending"), "{}", first.text());
    let promised = first.receipt().client_id;
    finish(&world, "succeeded").await;
    upstream.turn_off().await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let again = gateway.pay("/api/weather", &Pay::card(&card)).await;
    unreachable(&again);
    let note = again.receipt();
    assert_eq!((note.client_id, note.credits_remaining.unwrap()), (promised, PACK), "never 'not charged'");
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_answers_never_keeps_a_payer_from_paying_and_who_is_not_served_is_told_what_is_left() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    for (path, status, code) in [
        ("/up/status/500", 500, "not_charged"),
        ("/up/status/404", 404, "not_charged"),
        ("/up/status/401", 401, "not_charged"),
        ("/up/status/302", 302, "not_charged"),
        ("/up/refuse", 502, "upstream_failed"),
        ("/up/hang", 504, "upstream_timeout"),
    ] {
        for key in [None, Some("k")] {
            if status == 302 && key.is_some() {
                continue;
            }
            let card = world.tokenise(GOOD).await;
            let payment = Pay::card(&card).header();
            let mut headers = vec![("payment", payment.as_str())];
            headers.extend(key.map(|key| ("idempotency-key", key)));
            let answer = world.client.send("GET", &format!("{}{path}", gateway.url), &headers, None).await;
            let note = answer.receipt();
            assert_eq!((answer.status, note.error_code.as_deref()), (status, Some(code)), "{path}");
            let told = note.error.clone().unwrap();
            for part in ["The card was charged 5.00", "The wallet holds 5.00", "clientId"] {
                assert!(told.contains(part), "{path}: {part} in {told}");
            }
            // Ours to write: the body says it as well.
            if status > 500 {
                let body = answer.json();
                assert_eq!(body["clientId"], note.client_id.as_str(), "{path}: {body}");
                assert_eq!((&body["topUpAmount"], &body["creditsRemaining"]), (&json!(PACK), &json!(PACK)));
                assert_eq!((&body["requestCharged"], &body["detail"]), (&json!(false), &json!(told)));
            }
            let used = gateway.pay("/api/weather", &Pay::client(&note.client_id)).await;
            assert_eq!(used.receipt().credits_remaining.unwrap(), PACK - 500, "{path}: as it says");
            // Nothing of this is said to whoever has charged no card.
            let unpaid = gateway.pay(path, &Pay::client(&note.client_id)).await;
            assert!(!unpaid.receipt().error.unwrap().contains("The card was charged"), "{path}");
        }
    }
    gateway.stop().await;
    world.assert_books_agree().await;
}

async fn ready(world: &World, gateway: &Process) -> String {
    let answer = world.client.get(&format!("{}/readyz", gateway.admin_url)).await;
    assert_eq!(answer.status, 200, "an API that is down is no reason to take the gateway away");
    answer.text()
}

#[tokio::test(flavor = "multi_thread")]
async fn readyz_tells_whether_the_api_can_be_reached() {
    let mut world = World::new().await;
    world.upstream.url = closed_port();
    let gateway = Seat::new(&world, &mut Dice::random()).start().await;
    eventually("it is known", async || {
        ready(&world, &gateway).await.starts_with("ready\nupstream: cannot be reached since ")
    })
    .await;
    let metrics = world.client.get(&format!("{}/metrics", gateway.admin_url)).await.text();
    assert!(metrics.contains("prepaid402_upstream_reachable 0\n"), "{metrics}");
    assert_eq!(gateway.log().matches("the upstream cannot be reached").count(), 1, "{}", gateway.log());
    gateway.kill().await;
    let world = World::new().await;
    let gateway = Seat::new(&world, &mut Dice::random()).start().await;
    eventually("it is known", async || ready(&world, &gateway).await == "ready\nupstream: reachable\n").await;
    assert_eq!(world.upstream.hits(), 0, "it is connected to, and asked for nothing");
    gateway.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_refuses_the_gateway_itself_is_told_to_the_operator_once() {
    for (token, probably) in [("", "set [[upstream.headers]]"), ("x-gateway-token", "is probably wrong")] {
        let mut world = World::new().await;
        if !token.is_empty() {
            world.secrets.insert("UPSTREAM_TOKEN".into(), "a-secret-token".into());
            let headers =
                format!("[[upstream.headers]]\nname = \"{token}\"\nvalue_env = \"UPSTREAM_TOKEN\"\n");
            world.routes = format!("{headers}{ROUTES}");
        }
        let gateway = Seat::new(&world, &mut Dice::random()).start().await;
        let card = world.tokenise(GOOD).await;
        let pay = async |path: &str, pay: &Pay| {
            let url = format!("{}{path}", gateway.url);
            world.client.send("GET", &url, &[("payment", &pay.header())], None).await
        };
        let client = pay("/api/weather", &Pay::card(&card)).await.receipt().client_id;
        for status in [401, 403].into_iter().cycle().take(25) {
            let answer = pay(&format!("/up/status/{status}"), &Pay::client(&client)).await;
            assert_eq!(answer.status, status);
        }
        let log = gateway.log();
        let told: Vec<_> = log.lines().filter(|line| line.contains("10 paid requests in a row")).collect();
        assert_eq!(told.len(), 1, "{log}");
        assert!(told[0].contains(probably) && !log.contains("a-secret-token"), "{log}");
        gateway.kill().await;
    }
}
