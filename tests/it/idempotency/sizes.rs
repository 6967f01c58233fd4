//! Answers that are too large to be kept.

use super::*;
use crate::support::ROUTES;
use crate::support::raw::{Raw, status_of};

/// 64 KiB, the limit unless it is set.
const LIMIT: usize = 65_536;

/// A repeated answer that was fetched once more.
fn fetched_again(answer: &Answer, client: &str, left: i64) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let receipt = answer.receipt();
    assert!(receipt.success);
    assert_eq!((receipt.client_id.as_str(), receipt.credits_remaining.unwrap()), (client, left));
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

/// What the first request of a large answer was sent with.
const FIRST: [(&str, &str); 7] = [
    ("accept", "text/html"),
    ("accept-language", "en"),
    ("x-part", "1"),
    ("user-agent", "first/1.0"),
    ("x-part", "2"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("x-stainless-retry-count", "0"),
];

/// The same request, but for headers that the API was paid to answer by.
fn others(first: &Ask) -> Vec<Ask> {
    let other = |name: &str, header| first.clone().without(name).with(&[header]);
    vec![
        other("accept", ("accept", "application/json")),
        other("accept", ("accept", "TEXT/html")),
        other("accept", ("accept", "text/html;q=1")),
        other("accept-language", ("accept-language", "de")),
        other("accept-language", ("x-accept-language", "en")),
        other("x-part", ("x-part", "1, 2")),
        other("x-part", ("x-part", "2")),
        other("x-part", ("x-part", "2")).with(&[("x-part", "1")]),
        first.clone().without("accept"),
        first.clone().with(&[("x-part", "3")]),
        first.clone().with(&[("accept-encoding", "gzip")]),
        first.clone().with(&[("x-page", "2")]),
        first.clone().with(&[("x-api-key", "mine")]),
        first.clone().with(&[("content-type", "application/json")]),
        first.clone().with(&[("x-trace", "everything")]),
        first.clone().with(&[("prefer", "return=minimal")]),
        first.clone().with(&[("range", "bytes=0-9")]),
    ]
}

/// The same request once more: what a second try, another program or another way through the network changes.
fn tries(first: &Ask) -> [Ask; 3] {
    let mut turned = first.clone();
    turned.headers.sort_by_key(|(name, _)| std::cmp::Reverse(*name));
    [
        first.clone().without("traceparent").without("user-agent").without("x-stainless-retry-count").with(
            &[
                ("user-agent", "second/2.0"),
                ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
                ("tracestate", "a=b"),
                ("baggage", "a=b"),
                ("b3", "0"),
                ("x-b3-traceid", "1"),
                ("x-amzn-trace-id", "Root=1"),
                ("x-cloud-trace-context", "1"),
                ("sentry-trace", "1"),
                ("x-datadog-trace-id", "1"),
                ("x-datadog-sampling-priority", "1"),
                ("x-request-id", "1"),
                ("x-correlation-id", "1"),
                ("x-stainless-retry-count", "1"),
                ("x-stainless-timeout", "600"),
                ("x-stainless-read-timeout", "600"),
                ("amz-sdk-request", "attempt=2; max=3"),
            ],
        ),
        turned.with(&[
            ("x-forwarded-for", "203.0.113.7"),
            ("forwarded", "for=203.0.113.7"),
            ("x-real-ip", "203.0.113.7"),
            ("via", "1.1 a"),
            ("authorization", "Bearer mine"),
            ("cookie", "a=b"),
            ("x_custom", "1"),
            ("x-original-url", "/other"),
        ]),
        first.clone().without("user-agent").without("traceparent").without("x-stainless-retry-count"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_is_fetched_again_with_the_headers_that_were_paid_for_and_no_others() {
    let world = World::new().await;
    let mut gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    for (n, (path, key)) in
        [("/up/bytes/70000", "large"), ("/up/bytes/70001", "restart"), ("/up/stream/0", "events")]
            .into_iter()
            .enumerate()
    {
        let left = PACK - PRICE * (i64::try_from(n).unwrap() + 1);
        let ask = Ask::get(path, &Pay::client(&client), key).with(&FIRST);
        served(&ask.decided_at(&gateway).await);
        if key == "restart" {
            closed(gateway).await;
            gateway = world.gateway().await;
        }
        for other in others(&ask) {
            let answer = other.decided_at(&gateway).await;
            refused(&answer, 422, "idempotency_mismatch");
            assert_eq!(answer.receipt().credits_remaining.unwrap(), left, "{:?}", other.headers);
            assert!(answer.text().contains("header"), "it says why: {}", answer.text());
        }
        assert_eq!(hits(&world, key), 1, "{key}: the API was not asked");
        for again in tries(&ask) {
            fetched_again(&again.decided_at(&gateway).await, &client, left);
        }
        for other in others(&ask) {
            refused(&other.decided_at(&gateway).await, 422, "idempotency_mismatch");
        }
        refused(&ask.decided_at(&gateway).await, 409, "idempotency_answer_lost");
        assert_eq!(hits(&world, key), 4);
    }
    assert_eq!(captures(&world).await, 3);
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_answer_is_repeated_whatever_the_headers() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    for method in ["GET", "POST"] {
        let ask = Ask::new(method, "/up/x", &Pay::client(&client), "kept").with(&FIRST);
        let first = ask.at(&gateway).await;
        served(&first);
        for other in
            others(&ask).into_iter().filter(|other| other.headers.iter().all(|(name, _)| *name != "range"))
        {
            replayed(&other.at(&gateway).await, &first);
        }
    }
    // What changes something is never asked for again, so its headers decide nothing.
    let ask = Ask::post("/up/bytes/70000", &Pay::client(&client), "done").with(&FIRST);
    served(&ask.decided_at(&gateway).await);
    for ask in [ask.clone(), ask.without("accept")] {
        refused(&ask.decided_at(&gateway).await, 409, "idempotency_answer_lost");
    }
    assert_eq!((hits(&world, "kept"), hits(&world, "done"), captures(&world).await), (2, 1, 3));
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_version_before_know_no_headers_and_work_as_they_did() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    let large = Ask::get("/up/bytes/70000", &Pay::client(&client), "large").with(&FIRST);
    let kept = Ask::get("/up/x", &Pay::client(&client), "kept").with(&FIRST);
    served(&large.decided_at(&gateway).await);
    let first = kept.at(&gateway).await;
    closed(gateway).await;
    // As it wrote them: the answer's headers, of an answer that is not kept, too.
    let old = "UPDATE idempotency_keys SET headers = $1 WHERE body IS NULL";
    let headers = r#"[["cache-control","private, no-store"],["vary","payment, authorization"]]"#;
    assert_eq!(crate::support::change(&world.database, old, &[headers]).await, 1);
    let gateway = world.gateway().await;
    let left = PACK - 2 * PRICE;
    fetched_again(&large.decided_at(&gateway).await, &client, left);
    fetched_again(&large.clone().without("accept").decided_at(&gateway).await, &client, left);
    fetched_again(&large.decided_at(&gateway).await, &client, left);
    refused(&large.decided_at(&gateway).await, 409, "idempotency_answer_lost");
    replayed(&kept.without("accept").at(&gateway).await, &first);
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_is_told_the_callers_host_is_asked_again_for_the_same_host() {
    let mut world = World::new().await;
    for (preserved, key) in [("true", "preserved"), ("false", "own")] {
        world.secrets.insert("PREPAID402_UPSTREAM__PRESERVE_HOST".to_owned(), preserved.to_owned());
        let gateway = world.gateway().await;
        let client = wallet(&gateway).await;
        let asked = async |host: &str| {
            let payment = Pay::client(&client).header();
            loop {
                let mut raw = Raw::connect(&gateway.url).await;
                raw.send(format!(
                    "GET /up/bytes/70000 HTTP/1.1\r\nhost: {host}\r\npayment: {payment}\r\nidempotency-key: {key}\r\n\
                     connection: close\r\n\r\n"
                ))
                .await;
                let head = raw.head().await;
                if !raw.rest().await.contains("idempotency_in_flight") {
                    return status_of(&head);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert_eq!(asked("one.example").await, 200);
        assert_eq!(asked("two.example").await, if preserved == "true" { 422 } else { 200 });
        assert_eq!(asked("ONE.example:8080").await, 200, "another port is another node of the same");
        closed(gateway).await;
    }
}
