//! The same inside an application.

use std::time::Duration;

use super::*;
use crate::embedded::Shop;

const SLACK: &str = "[limits]\nbody_timeout = \"300ms\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_known_is_answered_before_a_body_has_come() {
    let world = World::new().await;
    let shop = Shop::with(&world, SLACK).await;
    for more in ["content-length: 10\r\n", "idempotency-key: k\r\ncontent-length: 10\r\n"] {
        let lines = format!("payment: {}\r\n{more}", made_up());
        let mut raw = begin(&shop.url, "POST /five", HERE, &lines, "").await;
        assert_eq!(status_of(&raw.head().await), 402, "{more}");
        raw.until("unknown_client").await;
    }
    assert_eq!(shop.handlers.calls.load(std::sync::atomic::Ordering::SeqCst), 0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_comes_steadily_or_is_not_waited_for() {
    let world = World::new().await;
    let shop = Shop::with(&world, SLACK).await;
    let client = shop.wallet().await;
    for key in ["", "idempotency-key: k1\r\n"] {
        // 50 kB/s, 20 B/s.
        for (size, expected) in [(2_500, 200), (1, 408)] {
            let key = key.replace('1', &size.to_string());
            let payment = Pay::client(&client).header();
            let lines = format!("payment: {payment}\r\n{key}content-length: {}\r\n", 20 * size);
            let mut raw = begin(&shop.url, "POST /five", HERE, &lines, "").await;
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                raw.send("x".repeat(size)).await;
            }
            let head = crate::support::raw::patiently("an answer", raw.head()).await;
            assert_eq!(status_of(&head), expected, "{key} {size}: {head}");
        }
    }
    shop.close().await;
}
