//! Answers that are too large to be kept.

use super::*;
use crate::support::ROUTES;
use crate::support::raw::Raw;

/// 64 KiB, the limit unless it is set.
const LIMIT: usize = 65_536;

/// A repeated answer that was fetched once more.
fn fetched_again(answer: &Answer, client: &str, left: i64) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let receipt = answer.receipt();
    assert!(receipt.success);
    assert_eq!((receipt.client_id.as_str(), receipt.credits_remaining), (client, left));
    assert_ne!(receipt.credits_charged, Some(PRICE), "this one costs nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_up_to_the_limit_is_kept_and_one_beyond_it_is_not() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    let ask = Ask::post(&format!("/up/bytes/{LIMIT}"), &Pay::client(&client), "fits");
    let first = ask.decided_at(&gateway).await;
    served(&first);
    assert_eq!(first.body.len(), LIMIT);
    replayed(&ask.decided_at(&gateway).await, &first);
    assert_eq!(hits(&world, "fits"), 1);

    let ask = Ask::post(&format!("/up/bytes/{}", LIMIT + 1), &Pay::client(&client), "larger");
    let first = ask.decided_at(&gateway).await;
    served(&first);
    assert_eq!(first.body.len(), LIMIT + 1);
    for _ in 0..3 {
        let again = ask.decided_at(&gateway).await;
        refused(&again, 409, "idempotency_answer_lost");
        assert!(!again.json()["retryable"].as_bool().unwrap());
    }
    refused(&ask.clone().body("other").decided_at(&gateway).await, 422, "idempotency_mismatch");
    assert_eq!(hits(&world, "larger"), 1, "what changes something is done once");
    assert_eq!(gateway.balance(&client).await, PACK - 2 * PRICE);
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_that_only_reads_is_fetched_again_three_times() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    let left = PACK - PRICE;
    let ask = Ask::get("/up/bytes/200000", &Pay::client(&client), "large");
    let first = ask.decided_at(&gateway).await;
    served(&first);
    assert_eq!(first.body.len(), 200_000);
    for n in 1..=3 {
        let again = ask.decided_at(&gateway).await;
        fetched_again(&again, &client, left);
        assert_eq!(again.body, first.body);
        assert_eq!(hits(&world, "large"), 1 + n);
        assert_eq!(gateway.balance(&client).await, left);
    }
    for _ in 0..2 {
        refused(&ask.decided_at(&gateway).await, 409, "idempotency_answer_lost");
    }
    refused(&ask.clone().to("/up/bytes/200000?x").decided_at(&gateway).await, 422, "idempotency_mismatch");
    assert_eq!((hits(&world, "large"), captures(&world).await), (4, 1));
    // Without the key, or with another one, it is a new request.
    served(&ask.clone().without_key().decided_at(&gateway).await);
    served(&ask.key("another").decided_at(&gateway).await);
    assert_eq!(gateway.balance(&client).await, left - 2 * PRICE);
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_repeats_at_once_of_a_large_answer_are_three_at_the_api() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    let ask = Ask::get("/up/bytes/70000", &Pay::client(&client), "rush");
    served(&ask.at(&gateway).await);
    let noted = "SELECT COUNT(*) FROM undelivered WHERE entries <> '[]'";
    eventually("it is delivered", async || number(&world.database, noted).await == 0).await;
    let mut counts = (0, 0);
    for again in (0..12).map(|_| ask.sent(&gateway)).collect::<Vec<_>>() {
        let again = again.await.unwrap().unwrap();
        match again.status {
            200 => counts.0 += 1,
            _ => {
                assert_eq!(again.status, 409, "{}", again.text());
                counts.1 += 1;
            }
        }
    }
    assert!(counts.0 == 3 && hits(&world, "rush") == 4, "{counts:?}");
    assert_eq!(gateway.balance(&client).await, PACK - PRICE);
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_of_a_first_payment_is_fetched_again_by_card_and_by_client() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let card = world.tokenise(crate::support::GOOD).await;
    let ask = Ask::get("/up/bytes/70000", &Pay::card(&card), "first");
    let first = ask.decided_at(&gateway).await;
    served(&first);
    let client = first.receipt().client_id;
    fetched_again(&ask.decided_at(&gateway).await, &client, PACK - PRICE);
    let by_client = ask.clone().by(&Pay::client(&client));
    fetched_again(&by_client.decided_at(&gateway).await, &client, PACK - PRICE);
    fetched_again(&by_client.decided_at(&gateway).await, &client, PACK - PRICE);
    refused(&ask.decided_at(&gateway).await, 409, "idempotency_answer_lost");
    refused(&by_client.decided_at(&gateway).await, 409, "idempotency_answer_lost");
    assert_eq!((hits(&world, "first"), captures(&world).await), (4, 1));
    assert_eq!(world.succeeded_charges().await.len(), 1);
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn event_streams_are_passed_on_at_once_and_not_kept() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    for (n, method) in ["GET", "POST"].into_iter().enumerate() {
        let key = format!("stream-{method}");
        let ask = Ask::new(method, "/up/stream/2", &Pay::client(&client), &key);
        let mut raw = Raw::connect(&gateway.url).await;
        raw.send(ask.bytes()).await;
        world.upstream.release(1);
        // The second event is not released before the first has arrived.
        raw.until("data: 0").await;
        assert!(!raw.text().contains("data: 1"));
        let n = i64::try_from(n).unwrap();
        assert_eq!(gateway.balance(&client).await, PACK - (n + 1) * PRICE, "charged before the first byte");
        refused(&ask.clone().body("other").decided_at(&gateway).await, 422, "idempotency_mismatch");
        world.upstream.release(1);
        raw.until("data: 1").await;
        raw.until("0\r\n\r\n").await;
        if method == "GET" {
            world.upstream.release(6);
            for _ in 0..3 {
                let again = ask.decided_at(&gateway).await;
                fetched_again(&again, &client, PACK - PRICE);
                assert_eq!(again.text(), "data: 0\n\ndata: 1\n\n");
            }
        }
        refused(&ask.decided_at(&gateway).await, 409, "idempotency_answer_lost");
        assert_eq!(hits(&world, &key), if method == "GET" { 4 } else { 1 });
    }
    assert_eq!(captures(&world).await, 2);
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_limit_of_nothing_only_empty_answers_are_kept() {
    let world = World::with("[idempotency]\nmax_answer_bytes = 0", ROUTES).await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    let empty = Ask::post("/up/status/204", &Pay::client(&client), "empty");
    let first = empty.decided_at(&gateway).await;
    served(&first);
    replayed(&empty.decided_at(&gateway).await, &first);
    let other = Ask::post("/up/bytes/1", &Pay::client(&client), "one");
    served(&other.decided_at(&gateway).await);
    refused(&other.decided_at(&gateway).await, 409, "idempotency_answer_lost");
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_is_still_fetched_again_after_a_restart_and_at_most_three_times_in_all() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    let ask = Ask::get("/up/bytes/70000", &Pay::client(&client), "restart");
    served(&ask.decided_at(&gateway).await);
    fetched_again(&ask.decided_at(&gateway).await, &client, PACK - PRICE);
    closed(gateway).await;
    let gateway = world.gateway().await;
    fetched_again(&ask.decided_at(&gateway).await, &client, PACK - PRICE);
    fetched_again(&ask.decided_at(&gateway).await, &client, PACK - PRICE);
    refused(&ask.decided_at(&gateway).await, 409, "idempotency_answer_lost");
    assert_eq!((hits(&world, "restart"), captures(&world).await), (4, 1));
    closed(gateway).await;
}
