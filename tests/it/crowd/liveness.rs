//! A caller who closes is gone: what is free ends at once, what is paid for goes on.

use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::support::raw::{ByHand, patiently};

async fn by_hand() -> (World, ByHand) {
    let mut world = world("").await;
    let upstream = ByHand::start().await;
    world.upstream.url.clone_from(&upstream.url);
    (world, upstream)
}

/// The upstream is told that nobody wants any more.
async fn closes(what: &str, mut serving: Raw) {
    let begun = std::time::Instant::now();
    patiently("the upstream's connection closes", async { while serving.more().await {} }).await;
    // By itself it would end after `response_timeout` or `idle_timeout`, two seconds.
    assert!(begun.elapsed().as_millis() < 1_500, "{what}: ended by a time");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_free_ends_with_its_caller() {
    let (world, upstream) = by_hand().await;
    let gateway = world.gateway().await;
    let asked = [
        ("GET /free/x", "", ""),
        ("POST /free/x", "content-length: 4\r\n", "body"),
        ("POST /free/x", "content-length: 1000\r\n", "half"),
        ("POST /free/x", "transfer-encoding: chunked\r\n", "4\r\nhalf\r\n"),
    ];
    let answers = [
        "",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsome\r\n",
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsome\r\n",
    ];
    for (first, lines, body) in asked {
        for answer in answers {
            for is_reset in [false, true] {
                let mut caller = begin(&gateway.url, first, HERE, lines, body).await;
                let mut serving = upstream.accept().await;
                serving.head().await;
                serving.send(answer).await;
                if !answer.is_empty() {
                    caller.head().await;
                }
                if answer.ends_with("some\r\n") {
                    caller.until("some").await;
                }
                if is_reset {
                    caller.socket.set_zero_linger().unwrap();
                    drop(caller);
                } else {
                    // One half, and nothing more: the other stays open.
                    caller.socket.shutdown().await.unwrap();
                    closes(&format!("{first} {lines} {answer:?}"), serving).await;
                    continue;
                }
                closes(&format!("reset: {first} {lines} {answer:?}"), serving).await;
            }
        }
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_paid_for_goes_on_without_its_caller() {
    let (world, upstream) = by_hand().await;
    let gateway = world.gateway().await;
    let payment = format!("payment: {}\r\n", payer(&gateway, "one").await);
    for lines in ["", "content-length: 4\r\n", "idempotency-key: k\r\ncontent-length: 4\r\n"] {
        let body = if lines.is_empty() { "" } else { "body" };
        let mut caller = begin(&gateway.url, "POST /up/x", HERE, &format!("{payment}{lines}"), body).await;
        let mut serving = upstream.accept().await;
        serving.head().await;
        caller.socket.shutdown().await.unwrap();
        // The caller's connection is closed, and the upstream's is not: its answer is charged.
        assert_eq!(patiently("the end", caller.rest()).await, "");
        serving.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await;
        drop(serving);
    }
    let client = crate::support::number(&world.database, "SELECT COUNT(*) FROM clients").await;
    assert_eq!(client, 1);
    eventually("all three are charged", async || {
        let sql = "SELECT COUNT(*) FROM entries WHERE source LIKE 'usage:%' AND source NOT LIKE '%/%'";
        crate::support::number(&world.database, sql).await == 3
    })
    .await;
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_place_of_a_keyed_body_is_free_when_its_caller_has_gone() {
    let world = world("max_concurrent_requests = 4\nmax_concurrent_per_client = 4").await;
    let gateway = world.gateway().await;
    let payment = format!("payment: {}\r\n", payer(&gateway, "one").await);
    for n in 0..20 {
        let lines = format!("{payment}idempotency-key: k{n}\r\ncontent-length: 500000\r\n");
        let mut caller = begin(&gateway.url, "POST /up/x", HERE, &lines, &"x".repeat(200_000)).await;
        caller.socket.shutdown().await.unwrap();
        patiently("the end", caller.rest()).await;
    }
    let lines = format!("{payment}idempotency-key: last\r\ncontent-length: 4\r\n");
    assert_eq!(ask(&gateway, "POST /up/x", HERE, &lines, "body").await, 200);
    gateway.stop().await;
    world.assert_books_agree().await;
}
