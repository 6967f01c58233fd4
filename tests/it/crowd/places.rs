//! What is scarce is shared: by wallet among those who pay, by network among everybody else.

use super::*;
use crate::support::raw::patiently;
use crate::webhooks::{SECRET, now, signature, strange, world as world_with_webhooks};

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_known_is_answered_before_a_body_has_come() {
    // What is waited for ends after a second, with another answer.
    let world = world("body_timeout = \"1s\"").await;
    let gateway = world.gateway().await;
    let unknown = format!("payment: {}\r\n", made_up());
    for more in [
        "content-length: 10\r\n",
        "idempotency-key: k\r\ncontent-length: 10\r\n",
        "transfer-encoding: chunked\r\n",
    ] {
        let mut raw = begin(&gateway.url, "POST /up/x", HERE, &format!("{unknown}{more}"), "").await;
        assert_eq!(status_of(&raw.head().await), 402, "{more}");
        raw.until("unknown_client").await;
    }
    assert_eq!(world.upstream.hits(), 0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_do_not_come_keep_no_other_keyed_request_out() {
    let world = world("").await;
    let gateway = world.gateway().await;
    let payment = payer(&gateway, "one").await;
    let (other, third) = (payer(&gateway, "two").await, payer(&gateway, "three").await);
    let mut crowd = Vec::new();
    for n in 0..300 {
        let card = Pay::card(&format!("pm_nobody{n}")).header();
        for who in [&made_up(), &card, if n % 2 == 0 { &other } else { &third }] {
            let lines = format!("payment: {who}\r\nidempotency-key: k{n}\r\ncontent-length: 1000\r\n");
            crowd.push(begin(&gateway.url, "POST /up/x", HERE, &lines, "abc").await);
        }
    }
    // Answered meanwhile, or never: those whose wallet does not exist were told so.
    eventually("the crowd is in", async || ask(&gateway, "GET /api/health", HERE, "", "").await == 200).await;
    let lines =
        |payment: &str, n| format!("payment: {payment}\r\nidempotency-key: {n}\r\ncontent-length: 3\r\n");
    for from in [HERE, ELSEWHERE] {
        assert_eq!(ask(&gateway, "POST /up/x", from, &lines(&payment, from), "abc").await, 200, "{from}");
        // One who pays for the first time.
        let card = Pay::card(&world.tokenise(GOOD).await).header();
        assert_eq!(ask(&gateway, "POST /up/x", from, &lines(&card, from), "abc").await, 200, "{from}");
    }
    drop(crowd);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_uploads_to_free_routes_keep_nobody_out_but_their_own_network() {
    let world = world("max_concurrent_requests = 8\nmax_concurrent_per_client = 8").await;
    let gateway = world.gateway().await;
    let payment = format!("payment: {}\r\n", payer(&gateway, "one").await);
    let mut crowd = Vec::new();
    for _ in 0..40 {
        crowd.push(begin(&gateway.url, "POST /free/x", HERE, "content-length: 1000\r\n", "abc").await);
    }
    eventually("the crowd fills its share", async || busy(&gateway).await >= 32).await;
    for from in [HERE, ELSEWHERE] {
        assert_eq!(ask(&gateway, "GET /up/x", from, &payment, "").await, 200, "{from}");
        let post = format!("{payment}content-length: 3\r\n");
        assert_eq!(ask(&gateway, "POST /up/x", from, &post, "abc").await, 200, "{from}");
        assert_eq!(ask(&gateway, "GET /free/x", from, "", "").await, 200, "{from}");
    }
    assert_eq!(ask(&gateway, "POST /free/x", ELSEWHERE, "content-length: 3\r\n", "abc").await, 200);
    assert_eq!(
        ask(&gateway, "POST /free/x", HERE, "content-length: 3\r\n", "abc").await,
        503,
        "its share is used up"
    );
    drop(crowd);
    let back = async || ask(&gateway, "POST /free/x", HERE, "content-length: 3\r\n", "abc").await == 200;
    eventually("places come back", back).await;
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wallets_with_three_bytes_each_keep_no_other_wallet_out() {
    let world = world("max_concurrent_requests = 40\nmax_concurrent_per_client = 10").await;
    let gateway = world.gateway().await;
    let mut crowd = Vec::new();
    for name in ["one", "two", "three", "four"] {
        let payment = payer(&gateway, name).await;
        for _ in 0..15 {
            let lines = format!("payment: {payment}\r\ncontent-length: 1000\r\n");
            crowd.push(begin(&gateway.url, "POST /up/x", HERE, &lines, "abc").await);
        }
    }
    let payment = format!("payment: {}\r\n", payer(&gateway, "five").await);
    // What is refused shows that the crowd is in: each of the four asks for more than a client may.
    eventually("the crowd fills its share", || std::future::ready(refused(&mut crowd) >= 20)).await;
    for from in [HERE, ELSEWHERE] {
        assert_eq!(ask(&gateway, "GET /up/x", from, &payment, "").await, 200, "{from}");
        let post = format!("{payment}content-length: 3\r\n");
        assert_eq!(ask(&gateway, "POST /up/x", from, &post, "abc").await, 200, "{from}");
    }
    drop(crowd);
    gateway.stop().await;
    world.assert_books_agree().await;
}

/// How many of these were answered.
fn refused(crowd: &mut [Raw]) -> usize {
    let mut answered = 0;
    for raw in crowd {
        let mut piece = [0; 4096];
        if let Ok(n) = raw.socket.try_read(&mut piece) {
            raw.buffer.extend_from_slice(&piece[..n]);
        }
        answered += usize::from(!raw.buffer.is_empty());
    }
    answered
}

#[tokio::test(flavor = "multi_thread")]
async fn free_answers_that_nobody_ends_keep_nobody_out_but_their_own_network() {
    let world = world("max_concurrent_requests = 2\nmax_concurrent_per_client = 2").await;
    let gateway = world.gateway().await;
    let payment = format!("payment: {}\r\n", payer(&gateway, "one").await);
    let mut crowd = Vec::new();
    let mut served = 0;
    for _ in 0..20 {
        let mut raw = begin(&gateway.url, "GET /free/stream/9", HERE, "", "").await;
        served += usize::from(status_of(&raw.head().await) == 200);
        crowd.push(raw);
    }
    assert_eq!(served, 4, "half of what there is");
    assert_eq!(ask(&gateway, "GET /free/x", HERE, "", "").await, 503);
    assert_eq!(ask(&gateway, "GET /free/x", ELSEWHERE, "", "").await, 200);
    assert_eq!(ask(&gateway, "GET /up/x", HERE, &payment, "").await, 200);
    drop(crowd);
    eventually("places come back", async || ask(&gateway, "GET /free/x", HERE, "", "").await == 200).await;
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_webhooks_that_do_not_come_keep_no_genuine_one_out() {
    let world = world_with_webhooks(&[SECRET], "").await;
    let gateway = world.gateway().await;
    let mut crowd = Vec::new();
    for _ in 0..300 {
        let lines =
            format!("stripe-signature: t={},v1={}\r\ncontent-length: 2000\r\n", now(), "0".repeat(64));
        crowd.push(begin(&gateway.url, "POST /webhooks/stripe", HERE, &lines, "{\"i").await);
    }
    eventually("the crowd is in", async || ask(&gateway, "GET /api/health", HERE, "", "").await == 200).await;
    let body = strange("evt_genuine").to_string();
    let lines = format!(
        "stripe-signature: {}\r\ncontent-length: {}\r\n",
        signature(SECRET, now(), body.as_bytes()),
        body.len()
    );
    assert_eq!(ask(&gateway, "POST /webhooks/stripe", HERE, &lines, &body).await, 200);
    drop(crowd);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_network_leave_room_for_others() {
    let mut world = world("max_connections = 20").await;
    world.extra = world.extra.replace(NAMED_PROXY, "");
    let gateway = world.gateway().await;
    let mut crowd = Vec::new();
    for _ in 0..60 {
        crowd.push(connect_from("127.0.1.1", &gateway.url).await.unwrap());
    }
    // What is too many is closed; the others may still ask.
    let mut left = 0;
    for raw in &mut crowd {
        raw.send("GET /api/health HTTP/1.1\r\nhost: a\r\n\r\n").await;
        left += usize::from(status_of(&raw.head().await) == 200);
    }
    assert_eq!(left, 16, "four fifths");
    let mut other = connect_from("127.0.0.1", &gateway.url).await.unwrap();
    other.send("GET /api/health HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(status_of(&patiently("an answer", other.head()).await), 200);
    drop(crowd);
    eventually("room comes back", async || {
        let Some(mut raw) = connect_from("127.0.1.1", &gateway.url).await else { return false };
        raw.send("GET /api/health HTTP/1.1\r\nhost: a\r\n\r\n").await;
        status_of(&raw.head().await) == 200
    })
    .await;
    gateway.stop().await;
}
