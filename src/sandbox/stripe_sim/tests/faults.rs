//! Idempotency keys and faults, as a caller sees them.

use std::sync::Arc;

use super::*;

const INTENTS: &str = "/v1/payment_intents";

async fn held(stripe: &Stripe, expected: u64) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let held = stripe.get("/_sim/requests").await.json()["held"].as_u64().unwrap();
        if held == expected {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{held} held, not {expected}");
    }
}

#[tokio::test]
async fn a_key_repeats_its_answer() {
    let stripe = Stripe::new().await;
    let body = confirm("pm_card_visa");
    let first = stripe.keyed("k", INTENTS, &body).await;
    assert_eq!(first.header("idempotent-replayed"), None);
    let again = stripe.keyed("k", INTENTS, &body).await;
    assert_eq!((again.status, &again.body), (200, &first.body));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.header("original-request"), first.header("request-id"));
    assert_ne!(again.header("request-id"), first.header("request-id"));
    let other = stripe.keyed("k", INTENTS, &body.replace("500", "600")).await;
    assert_eq!((other.status, other.error().1.as_str()), (400, "idempotency_error"));
    let elsewhere = stripe.keyed("k", "/v1/customers", "").await;
    assert_eq!(elsewhere.error().1, "idempotency_error");
    assert_eq!(stripe.totals().await.0, 500);
    stripe.control("/_sim/clock", &json!({ "advance_seconds": 86_400 })).await;
    let next_day = stripe.keyed("k", INTENTS, &body).await;
    assert_eq!(next_day.header("idempotent-replayed"), None);
    assert_eq!(stripe.totals().await.0, 1_000);
    let log = stripe.get("/_sim/requests").await.json();
    assert_eq!(log["counts"]["payment_intents.create"], 4);
    assert_eq!(log["requests"][0]["idempotency_key"], "k");
    assert_eq!(stripe.keyed(&"k".repeat(256), INTENTS, &body).await.status, 400);
}

#[tokio::test]
async fn a_key_is_in_use_while_its_request_hangs() {
    let stripe = Arc::new(Stripe::new().await);
    for execute in [true, false] {
        let before = stripe.totals().await.0;
        let key = format!("k-{execute}");
        stripe.fault(json!({ "on": "payment_intents.create", "action": "hang", "execute": execute })).await;
        let (caller, caller_key) = (Arc::clone(&stripe), key.clone());
        let hanging =
            tokio::spawn(async move { caller.keyed(&caller_key, INTENTS, &confirm("pm_card_visa")).await });
        held(&stripe, 1).await;
        let charged = before + if execute { 500 } else { 0 };
        assert_eq!(stripe.totals().await.0, charged, "{execute}");
        let meanwhile = stripe.keyed(&key, INTENTS, &confirm("pm_card_visa")).await;
        assert_eq!((meanwhile.status, meanwhile.error().2.as_str()), (409, "idempotency_key_in_use"));
        assert_eq!(meanwhile.header("stripe-should-retry"), Some("true"));
        assert_eq!(stripe.control("/_sim/release", &json!({})).await["released"], 1);
        assert_eq!(hanging.await.unwrap().status, 200);
        assert_eq!(stripe.totals().await.0, before + 500, "{execute}");
        let replay = stripe.keyed(&key, INTENTS, &confirm("pm_card_visa")).await;
        assert_eq!(replay.header("idempotent-replayed"), Some("true"));
    }
}

#[tokio::test]
async fn a_caller_who_hangs_up_ends_a_held_request() {
    let stripe = Arc::new(Stripe::new().await);
    for (execute, charged) in [(false, 0), (true, 500)] {
        stripe.fault(json!({ "on": "payment_intents.create", "action": "hang", "execute": execute })).await;
        let caller = Arc::clone(&stripe);
        let hanging =
            tokio::spawn(async move { caller.keyed("k", INTENTS, &confirm("pm_card_visa")).await.status });
        held(&stripe, 1).await;
        hanging.abort();
        held(&stripe, 0).await;
        assert_eq!(stripe.totals().await.0, charged, "{execute}");
    }
    let replay = stripe.keyed("k", INTENTS, &confirm("pm_card_visa")).await;
    assert_eq!((replay.status, replay.header("idempotent-replayed")), (200, Some("true")));
}

#[tokio::test]
async fn a_dropped_answer_is_no_answer() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let stripe = Stripe::new().await;
    stripe.fault(json!({ "on": "payment_intents.create", "action": "drop", "times": 2 })).await;
    let headers = [("authorization", &*bearer(SANDBOX_SECRET_KEY)), ("idempotency-key", "k")];
    let lost = stripe.send("POST", INTENTS, &confirm("pm_card_visa"), &headers).await;
    assert!(lost.is_err(), "an answer came through");
    assert_eq!(stripe.totals().await.0, 500);

    let mut socket =
        tokio::net::TcpStream::connect(stripe.sim.base_url.trim_start_matches("http://")).await.unwrap();
    let body = confirm("pm_card_visa");
    let head = format!(
        "POST {INTENTS} HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\ncontent-length: {}\r\n\r\n{body}",
        bearer(SANDBOX_SECRET_KEY),
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The end of the connection, or its reset: both are no answer.
    let _ = socket.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(stripe.totals().await.0, 1_000);

    let retry = stripe.keyed("k", INTENTS, &confirm("pm_card_visa")).await;
    assert_eq!((retry.status, retry.header("idempotent-replayed")), (200, Some("true")));
    assert_eq!(stripe.totals().await.0, 1_000);
}

#[tokio::test]
async fn faults_damage_the_answer_or_the_deed() {
    let stripe = Stripe::new().await;
    let body = confirm("pm_card_visa");
    for (number, (fault, status, charged, retry_status, retry_replayed)) in [
        (json!({ "action": "fail_before" }), 500, false, 200, false),
        (json!({ "action": "fail_before", "saved": true }), 500, false, 500, true),
        (json!({ "action": "fail_after" }), 500, true, 200, true),
        (json!({ "action": "fail_after", "saved": true }), 500, true, 500, true),
        (json!({ "action": "rate_limit", "retry_after_seconds": 7 }), 429, false, 200, false),
        (json!({ "action": "unparsable" }), 200, true, 200, true),
        (json!({ "action": "html_502" }), 502, true, 200, true),
        (json!({ "action": "html_502", "execute": false }), 502, false, 200, false),
    ]
    .into_iter()
    .enumerate()
    {
        let mut instruction = fault.clone();
        instruction["on"] = json!("payment_intents.create");
        stripe.fault(json!([instruction])).await;
        let key = format!("k-{number}");
        let before = stripe.totals().await.0;
        let reply = stripe.keyed(&key, INTENTS, &body).await;
        assert_eq!(reply.status, status, "{fault}");
        assert_eq!(stripe.totals().await.0 - before, if charged { 500 } else { 0 }, "{fault}");
        match status {
            429 => {
                assert_eq!(reply.header("retry-after"), Some("7"));
                assert_eq!(reply.error().2, "rate_limit");
            }
            200 | 502 => assert!(serde_json::from_str::<Value>(&reply.body).is_err(), "{fault}"),
            _ => assert_eq!(reply.error().1, "api_error", "{fault}"),
        }
        let retry = stripe.keyed(&key, INTENTS, &body).await;
        assert_eq!(retry.status, retry_status, "{fault}");
        assert_eq!(retry.header("idempotent-replayed").is_some(), retry_replayed, "{fault}");
        let moved = charged || retry_status == 200;
        assert_eq!(stripe.totals().await.0 - before, if moved { 500 } else { 0 }, "{fault}");
    }
    stripe.fault(json!({ "on": "any", "action": "drop", "times": 9 })).await;
    let cleared = stripe.send("DELETE", "/_sim/faults", "", &[]).await.unwrap();
    assert_eq!(cleared.status, 200);
    assert_eq!(stripe.get("/v1/customers").await.status, 200);
}

#[tokio::test]
async fn many_requests_with_one_key_charge_once() {
    let stripe = Arc::new(Stripe::with(options(None)).await);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let stripe = Arc::clone(&stripe);
        calls.spawn(async move { stripe.keyed("k", INTENTS, &confirm("pm_card_visa")).await.status });
    }
    let statuses = calls.join_all().await;
    assert!(statuses.iter().all(|status| [200, 409].contains(status)), "{statuses:?}");
    assert!(statuses.contains(&200));
    assert_eq!(stripe.totals().await.0, 500);
}
