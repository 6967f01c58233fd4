//! Answers that go on for long, and bodies that take long: what a route says about times, what proxies in front are told, and how
//! a peer that is gone without a word is found.

use std::time::{Duration, Instant};

use crate::embedded::Shop;
use crate::support::http::Answer;
use crate::support::raw::{ByHand, Raw, eventually, header_of, status_of};
use crate::support::{GOOD, Gateway, Pay, World, is_on_sqlite};

const UNBUFFERED: &str = "x-accel-buffering";

/// A gateway in front of an upstream that the test holds by the hand. The last route of `support::ROUTES` is `/up/*`, so `more` are
/// settings of that route.
async fn by_hand(more: &str) -> (World, ByHand) {
    let mut world = World::new().await;
    let upstream = ByHand::start().await;
    world.upstream.url.clone_from(&upstream.url);
    world.routes.push_str(more);
    (world, upstream)
}

async fn bought(answer: Answer) -> String {
    assert_eq!(answer.status, 201, "{}", answer.text());
    Pay::client(&answer.receipt().client_id).header()
}

/// A payment header of a new wallet.
async fn wallet(world: &World, url: &str) -> String {
    let body = format!("{{\"paymentMethodId\":\"{}\"}}", world.tokenise(GOOD).await);
    let body = Some(("application/json", body.as_bytes()));
    let url = format!("{url}/billing/top-ups");
    bought(world.client.send("POST", &url, &[("idempotency-key", "first")], body).await).await
}

async fn ask(gateway: &Gateway<'_>, payment: &str, method: &str, rest: &str) -> Raw {
    let mut caller = Raw::connect(&gateway.url).await;
    caller.send(format!("{method} /up/x HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\n{rest}")).await;
    caller
}

/// A head without an end of its body.
fn head(headers: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n{headers}\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_in_front_are_told_not_to_keep_a_stream_back() {
    let (world, upstream) = by_hand("[[routes]]\npath = \"/free\"\nfree = true\n").await;
    let gateway = world.gateway().await;
    let payment = wallet(&world, &gateway.url).await;
    for (path, headers, expected) in [
        ("/up/x", "content-type: text/event-stream\r\n", Some("no")),
        ("/up/x", "content-type: Text/Event-Stream; charset=utf-8\r\n", Some("no")),
        ("/up/x", "content-type: application/x-ndjson\r\n", Some("no")),
        ("/up/x", "content-type: multipart/x-mixed-replace; boundary=b\r\n", Some("no")),
        ("/free", "content-type: text/event-stream\r\n", Some("no")),
        // What the API says itself is not changed.
        ("/up/x", "content-type: text/event-stream\r\nx-accel-buffering: yes\r\n", Some("yes")),
        ("/up/x", "content-type: application/json\r\nx-accel-buffering: no\r\n", Some("no")),
        ("/up/x", "content-type: application/json\r\n", None),
        ("/up/x", "", None),
    ] {
        let mut caller = Raw::connect(&gateway.url).await;
        caller.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\n\r\n")).await;
        let mut serving = upstream.accept().await;
        serving.head().await;
        serving.send(format!("{}0\r\n\r\n", head(headers))).await;
        let answered = caller.head().await;
        assert_eq!(status_of(&answered), 200, "{answered}");
        assert_eq!(header_of(&answered, UNBUFFERED), expected, "{path} {headers}");
    }
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_in_front_of_an_application_are_told_the_same() {
    let world = World::new().await;
    let shop = Shop::with(&world, "").await;
    let payment = wallet(&world, &shop.url).await;
    shop.handlers.waiting.add_permits(2);
    for (path, expected) in [("/events", Some("no")), ("/five", None)] {
        let url = format!("{}{path}", shop.url);
        let answer = world.client.send("GET", &url, &[("payment", &payment)], None).await;
        assert_eq!((answer.status, answer.header(UNBUFFERED)), (200, expected), "{path}");
    }
    shop.close().await;
}

/// The gateway's own idle time-out is two seconds in these tests.
#[tokio::test(flavor = "multi_thread")]
async fn a_route_says_for_how_long_an_answer_may_be_silent() {
    let events = head("content-type: text/event-stream\r\n");
    for none in ["\"0\"", "0", "\"0s\""] {
        let (world, upstream) = by_hand(&format!("idle_timeout = {none}\n")).await;
        let gateway = world.gateway().await;
        let payment = wallet(&world, &gateway.url).await;
        let mut caller = ask(&gateway, &payment, "GET", "\r\n").await;
        let mut serving = upstream.accept().await;
        serving.head().await;
        serving.send(format!("{events}9\r\ndata: 1\n\n\r\n")).await;
        caller.until("data: 1").await;
        // The silence is the subject, not a wait for something.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        serving.send("9\r\ndata: 2\n\n\r\n0\r\n\r\n").await;
        caller.until("\r\n0\r\n\r\n").await;
        assert!(caller.text().contains("data: 2"));
        drop(caller);
        gateway.stop().await;
        world.assert_books_agree().await;
        if none == "\"0\"" {
            continue;
        }
        break;
    }
    let (world, upstream) = by_hand("idle_timeout = \"200ms\"\n").await;
    let gateway = world.gateway().await;
    let payment = wallet(&world, &gateway.url).await;
    for method in ["GET", "POST"] {
        let mut caller = ask(&gateway, &payment, method, "content-length: 0\r\n\r\n").await;
        let mut serving = upstream.accept().await;
        serving.head().await;
        serving.send(format!("{events}9\r\ndata: 1\n\n\r\n")).await;
        let begun = Instant::now();
        assert!(!caller.rest().await.contains("\r\n0\r\n\r\n"), "no clean end");
        assert!(begun.elapsed() < Duration::from_millis(1_900), "{method}: {:?}", begun.elapsed());
    }
    gateway.stop().await;
    world.assert_books_agree().await;
}

/// An answer that is read before it is charged, because it is to be kept, may be silent for as long.
#[tokio::test(flavor = "multi_thread")]
async fn a_route_says_for_how_long_an_answer_may_be_silent_that_is_kept() {
    let (world, upstream) = by_hand("idle_timeout = \"0\"\n").await;
    let gateway = world.gateway().await;
    let payment = wallet(&world, &gateway.url).await;
    let mut caller = ask(&gateway, &payment, "GET", "idempotency-key: k\r\n\r\n").await;
    let mut serving = upstream.accept().await;
    serving.head().await;
    serving.send(format!("{}4\r\nhalf\r\n", head("content-type: text/plain\r\n"))).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    serving.send("4\r\nrest\r\n0\r\n\r\n").await;
    caller.until("halfrest").await;
    assert_eq!(status_of(&caller.head().await), 200);
    gateway.stop().await;
    world.assert_books_agree().await;
}

/// The gateway's own time for a body is a minute.
#[tokio::test(flavor = "multi_thread")]
async fn a_route_says_how_long_a_body_may_take() {
    let (world, _upstream) = by_hand("body_timeout = \"200ms\"\n").await;
    let gateway = world.gateway().await;
    let payment = wallet(&world, &gateway.url).await;
    for key in ["", "idempotency-key: k\r\n"] {
        let begun = Instant::now();
        let mut caller =
            ask(&gateway, &payment, "POST", &format!("{key}content-length: 10\r\n\r\nhalf")).await;
        let answered = caller.head().await;
        assert_eq!(status_of(&answered), 408, "{answered}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{key} {:?}", begun.elapsed());
    }
    gateway.stop().await;
    world.assert_books_agree().await;
}

/// The timer of a connection that this machine's system keeps between two ports of 127.0.0.1, the first of them its own:
/// `02` is keep-alive.
#[cfg(target_os = "linux")]
fn timer(own: Option<u16>, other: Option<u16>) -> Option<String> {
    let fits = |field: &str, port: Option<u16>| {
        port.is_none_or(|port| field.ends_with(&format!("0100007F:{port:04X}")))
    };
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // Established.
        let is_it = fields[3] == "01" && fits(fields[1], own) && fits(fields[2], other);
        is_it.then(|| fields[5][..2].to_owned())
    })
}

/// A peer whose machine is gone says nothing, and a stream without a time-out would wait for it for ever.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_gone_without_a_word_is_found() {
    if !is_on_sqlite("the database has nothing to do with it") {
        return;
    }
    let (world, upstream) = by_hand("idle_timeout = \"0\"\n").await;
    let gateway = world.gateway().await;
    let payment = wallet(&world, &gateway.url).await;
    let mut caller = ask(&gateway, &payment, "GET", "\r\n").await;
    let mut serving = upstream.accept().await;
    serving.head().await;
    serving.send(format!("{}9\r\ndata: 1\n\n\r\n", head("content-type: text/event-stream\r\n"))).await;
    caller.until("data: 1").await;
    let port = |url: &str| url.rsplit(':').next().unwrap().parse::<u16>().unwrap();
    let here = caller.socket.local_addr().unwrap().port();
    let there = serving.socket.peer_addr().unwrap().port();
    for (what, own, other) in
        [("the upstream", there, port(&upstream.url)), ("the caller", port(&gateway.url), here)]
    {
        eventually(&format!("the system asks whether {what} lives"), async || {
            timer(Some(own), Some(other)).as_deref() == Some("02")
        })
        .await;
    }
    drop((caller, serving));
    gateway.stop().await;
}
