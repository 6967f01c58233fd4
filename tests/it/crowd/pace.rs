//! How fast a body must come: steadily is enough, however long it takes; a trickle is not.

use std::time::Duration;

use super::*;
use crate::webhooks::{SECRET, now, signature, strange, world as world_with_webhooks};

/// What a caller may be behind.
const SLACK: &str = "body_timeout = \"300ms\"";

/// Sends `pieces` of `size` bytes, 50 ms apart: the pace is the subject here, not a wait for something. The answer's head.
async fn upload(mut raw: Raw, pieces: usize, size: usize) -> String {
    for _ in 0..pieces {
        tokio::time::sleep(Duration::from_millis(50)).await;
        raw.send("x".repeat(size)).await;
    }
    raw.head().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_steady_upload_takes_as_long_as_it_takes_and_a_trickle_ends() {
    let world = world(SLACK).await;
    let gateway = world.gateway().await;
    let payment = format!("payment: {}\r\n", payer(&gateway, "one").await);
    let keyed = |key: &str| format!("{payment}idempotency-key: {key}\r\n");
    // 50 kB/s for more than three times as long as a caller may be silent, and twenty bytes a second.
    for (size, expected) in [(2_500, 200), (1, 408)] {
        let uploads =
            [("/up/x", payment.clone()), ("/up/x", keyed(&size.to_string())), ("/free/x", String::new())];
        let uploads = uploads.map(|(path, lines)| {
            let url = gateway.url.clone();
            tokio::spawn(async move {
                let lines = format!("{lines}content-length: {}\r\n", 20 * size);
                let raw = begin(&url, &format!("POST {path}"), HERE, &lines, "").await;
                upload(raw, 20, size).await
            })
        });
        for (n, upload) in uploads.into_iter().enumerate() {
            let head = upload.await.unwrap();
            assert_eq!(status_of(&head), expected, "{n}, {size}: {head}");
        }
    }
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_steady_upload_lasts_although_its_upstream_takes_it_with_pauses() {
    // Longer than systems take to go on after a pause.
    let mut world = world("body_timeout = \"3s\"").await;
    let upstream = crate::support::raw::ByHand::start().await;
    world.upstream.url.clone_from(&upstream.url);
    let gateway = world.gateway().await;
    let payment = payer(&gateway, "one").await;
    let lines = format!("payment: {payment}\r\ncontent-length: 8000000\r\n");
    let mut raw = begin(&gateway.url, "POST /up/x", HERE, &lines, "").await;
    let mut serving = upstream.accept().await;
    serving.head().await;
    let sender = tokio::spawn(async move {
        for _ in 0..80 {
            raw.send("x".repeat(100_000)).await;
        }
        raw
    });
    // A pause longer than the caller could afford; what follows comes after the whole time has passed.
    let mut pause = Duration::from_millis(400);
    while serving.buffer.len() < 8_000_000 {
        if serving.buffer.len() > 4_000_000 {
            tokio::time::sleep(std::mem::take(&mut pause)).await;
        } else {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(serving.more().await, "cut after {} bytes", serving.buffer.len());
    }
    serving.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await;
    assert_eq!(status_of(&sender.await.unwrap().head().await), 200);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_trickles_into_billing_ends() {
    let world = world(SLACK).await;
    let gateway = world.gateway().await;
    let lines = "idempotency-key: k\r\ncontent-length: 1000\r\n";
    let raw = begin(&gateway.url, "POST /billing/top-ups", HERE, lines, "").await;
    let head = crate::support::raw::patiently("an answer", upload(raw, 20, 1)).await;
    assert_eq!(status_of(&head), 408, "{head}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_may_come_in_pieces() {
    let world = world_with_webhooks(&[SECRET], "").await;
    let gateway = world.gateway().await;
    let body = strange("evt_pieces").to_string();
    let lines = format!(
        "stripe-signature: {}\r\ncontent-length: {}\r\n",
        signature(SECRET, now(), body.as_bytes()),
        body.len()
    );
    let mut raw = begin(&gateway.url, "POST /webhooks/stripe", HERE, &lines, "").await;
    for piece in body.as_bytes().chunks(40) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        raw.send(piece).await;
    }
    assert_eq!(status_of(&raw.head().await), 200);
    gateway.stop().await;
}
