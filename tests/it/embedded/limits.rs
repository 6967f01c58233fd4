//! Bodies of callers: `limits.max_body_bytes` and `limits.body_timeout` hold with a key and without.

use super::*;
use crate::support::raw::{Raw, status_of};

const SETTINGS: &str =
    "[limits]\nmax_body_bytes = 1000\nbody_timeout = \"400ms\"\n[idempotency]\nmax_body_bytes = 1000";

async fn post(shop: &Shop<'_>, path: &str, client: &str, rest: &str) -> Raw {
    let mut caller = Raw::connect(&shop.url).await;
    let payment = Pay::client(client).header();
    caller.send(format!("POST {path} HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\n{rest}")).await;
    caller
}

/// The answer, as a problem with a note that nothing was charged.
async fn refused(caller: &mut Raw, status: u16, code: &str) {
    let head = caller.head().await;
    assert_eq!(status_of(&head), status, "{head}");
    assert!(head.contains("application/problem+json"), "{head}");
    caller.until(&format!("\"code\":\"{code}\"")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_refused_and_not_charged() {
    let world = World::new().await;
    let shop = Shop::with(&world, SETTINGS).await;
    let client = shop.wallet().await;
    let unpaid = world
        .client
        .send("POST", &format!("{}/five", shop.url), &[], Some(("text/plain", &[b'x'; 1001])))
        .await;
    assert_eq!(unpaid.status, 402, "the price is told first");
    for key in ["", "idempotency-key: k\r\n"] {
        // Announced: the handler is not even called.
        let mut caller = post(&shop, "/five", &client, &format!("{key}content-length: 1001\r\n\r\n")).await;
        if !key.is_empty() {
            caller.send("x".repeat(1001)).await;
        }
        refused(&mut caller, 413, "body_too_large").await;
        // Not announced: nothing of what is too much gets to the handler.
        let rest = format!("{key}transfer-encoding: chunked\r\n\r\n3e8\r\n{}\r\n", "x".repeat(1000));
        let mut caller = post(&shop, "/five", &client, &rest).await;
        caller.send("1\r\nx\r\n0\r\n\r\n").await;
        refused(&mut caller, 413, "body_too_large").await;
    }
    assert_eq!((shop.handlers.calls(), captures(&world).await), (0, 0));
    assert_eq!(shop.balance(&client).await, PACK);
    // What just fits is sold.
    for key in ["", "idempotency-key: fits\r\n"] {
        let rest = format!("{key}content-length: 1000\r\n\r\n{}", "x".repeat(1000));
        let mut caller = post(&shop, "/five", &client, &rest).await;
        assert_eq!(status_of(&caller.head().await), 200);
    }
    shop.balance_becomes(&client, PACK - 2 * PRICE).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_in_time_is_refused_and_not_charged() {
    let world = World::new().await;
    let shop = Shop::with(&world, SETTINGS).await;
    let client = shop.wallet().await;
    for rest in [
        "content-length: 10\r\n\r\n",
        "content-length: 10\r\n\r\nhalf",
        "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "idempotency-key: k\r\ncontent-length: 10\r\n\r\nhalf",
    ] {
        let mut caller = post(&shop, "/five", &client, rest).await;
        refused(&mut caller, 408, "body_too_slow").await;
    }
    assert_eq!((shop.handlers.calls(), captures(&world).await), (0, 0));
    shop.all_is_free(&client).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_because_its_caller_sends_too_much_or_too_slowly_stays_charged() {
    let world = World::new().await;
    let shop = Shop::with(&world, SETTINGS).await;
    let client = shop.wallet().await;
    let mut left = PACK;
    for (more, is_slow) in [(format!("3e9\r\n{}\r\n", "x".repeat(1001)), false), (String::new(), true)] {
        let mut caller = post(&shop, "/echoes", &client, "transfer-encoding: chunked\r\n\r\n").await;
        caller.until("nearly all;").await;
        caller.send("3\r\none\r\n").await;
        caller.until("one").await;
        caller.send(more).await;
        assert!(!caller.rest().await.ends_with("0\r\n\r\n"), "slow: {is_slow}");
        left -= PRICE;
        shop.balance_becomes(&client, left).await;
    }
    shop.close().await;
    let reversals = "SELECT COUNT(*) FROM entries WHERE source LIKE 'reversal:%'";
    assert_eq!(number(&world.database, reversals).await, 0);
}
