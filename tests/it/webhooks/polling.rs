//! Without a single webhook: the list of events is enough.

use serde_json::json;

use super::*;
use crate::support::{change, number};

const EVENTS: &str = "SELECT COUNT(*) FROM stripe_events";
const FAST: &str = "[webhooks]\npoll_every = \"5s\"\n";

async fn until(what: &str, world: &World, sql: &'static str, wanted: i64) {
    let begun = Instant::now();
    loop {
        let have = number(&world.database, sql).await;
        if have == wanted {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {have} of {wanted}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_while_nobody_listened_is_fetched_once_and_applied() {
    let world = World::with(FAST, ROUTES).await;
    let gateway = world.gateway().await;
    for _ in 0..3 {
        gateway.new_client("/api/weather").await;
    }
    gateway.stop().await;
    // The first call fails, and is repeated.
    world.faults(json!({ "on": "events.list", "action": "fail_before", "times": 1 })).await;
    let gateway = world.gateway().await;
    // For each charge: created charge and succeeded intent at least.
    let succeeded =
        "SELECT COUNT(*) FROM stripe_events WHERE type = 'payment_intent.succeeded' AND state = 'applied'";
    until("succeeded intents", &world, succeeded, 3).await;
    until("open events", &world, "SELECT COUNT(*) FROM stripe_events WHERE ended_at IS NULL", 0).await;
    until("the place", &world, "SELECT COUNT(*) FROM stripe_cursor", 1).await;
    let (events, cursor) = (
        number(&world.database, EVENTS).await,
        number(&world.database, "SELECT created FROM stripe_cursor").await,
    );
    assert!((now() - 3_600..=now() + 5).contains(&cursor), "{cursor}");
    assert!(metric(&gateway, "prepaid402_events_fetched_total").await >= 3);
    gateway.stop().await;

    // The same stretch once more: nothing is new. Even when the place is lost.
    change(&world.database, "DELETE FROM stripe_cursor", &[]).await;
    let gateway = world.gateway().await;
    until("the place", &world, "SELECT COUNT(*) FROM stripe_cursor", 1).await;
    assert_eq!(metric(&gateway, "prepaid402_events_fetched_total").await, 0);
    assert_eq!(number(&world.database, EVENTS).await, events);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_fails_skips_nothing() {
    let world = World::with(FAST, ROUTES).await;
    world.faults(json!({ "on": "events.list", "action": "html_502", "execute": false, "times": 1000 })).await;
    let gateway = world.gateway().await;
    gateway.new_client("/api/weather").await;
    let begun = Instant::now();
    while metric(&gateway, "prepaid402_event_polls_failed_total").await == 0 {
        assert!(begun.elapsed() < Duration::from_secs(80));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM stripe_cursor").await, 0, "no place is noted");
    world.clear_faults().await;
    let succeeded =
        "SELECT COUNT(*) FROM stripe_events WHERE type = 'payment_intent.succeeded' AND state = 'applied'";
    until("succeeded intents", &world, succeeded, 1).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_and_looks_together_store_each_event_once() {
    let world = world(&[SECRET], "poll_every = \"5s\"").await;
    let gateway = world.gateway().await;
    let endpoint =
        json!({ "url": format!("{}/webhooks/stripe", gateway.url), "secrets": [SECRET, NEXT_SECRET] });
    let registered =
        world.client.post_json(&format!("{}/_sim/webhook_endpoints", world.sim.base_url), &endpoint).await;
    assert!(registered.status < 300, "{}", registered.text());
    gateway.new_client("/api/weather").await;
    let by_webhook =
        "SELECT COUNT(*) FROM stripe_events WHERE type = 'payment_intent.succeeded' AND state = 'applied'";
    until("a webhook of the simulated Stripe", &world, by_webhook, 1).await;
    assert!(metric(&gateway, "prepaid402_webhooks_total{outcome=\"Received\"}").await >= 1);
    let looked =
        "SELECT COUNT(*) FROM stripe_cursor WHERE created >= (SELECT MIN(created) FROM stripe_events)";
    until("the place", &world, looked, 1).await;
    assert_eq!(
        number(&world.database, "SELECT COUNT(*) FROM stripe_events WHERE type = 'payment_intent.succeeded'")
            .await,
        1
    );
    gateway.stop().await;
    world.assert_books_agree().await;
}
