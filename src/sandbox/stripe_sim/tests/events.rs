//! Events, as a caller reads them.

use super::*;

#[tokio::test]
async fn every_change_of_an_intent_is_an_event() {
    const INTENTS: &str = "/v1/payment_intents";
    let two_steps = "amount=500&currency=usd&payment_method_types[0]=card&confirm=true&payment_method";
    for (method, finish, expected) in [
        ("pm_card_visa", None, &["charge.succeeded", "payment_intent.succeeded"][..]),
        ("pm_card_visa_chargeDeclined", None, &["charge.failed", "payment_intent.payment_failed"]),
        (
            "pm_card_processing",
            Some("succeeded"),
            &["payment_intent.processing", "charge.succeeded", "payment_intent.succeeded"],
        ),
        (
            "pm_card_processing",
            Some("failed"),
            &["payment_intent.processing", "charge.failed", "payment_intent.payment_failed"],
        ),
        ("pm_card_threeDSecureRequired", None, &["payment_intent.requires_action"]),
    ] {
        let stripe = Stripe::new().await;
        let key = "k";
        let reply = stripe.keyed(key, INTENTS, &format!("{two_steps}={method}")).await;
        // A repeated request is no second fact.
        stripe.keyed(key, INTENTS, &format!("{two_steps}={method}")).await;
        if let Some(outcome) = finish {
            let id = reply.json()["id"].as_str().unwrap().to_owned();
            stripe
                .control(&format!("/_sim/payment_intents/{id}/finish"), &json!({ "outcome": outcome }))
                .await;
        }
        assert_eq!(stripe.told().await, expected, "{method}");
        let first = stripe.list("/v1/events").await.last().unwrap().clone();
        assert_eq!(first["request"]["id"].as_str(), reply.header("request-id"), "{method}");
        assert_eq!(first["request"]["idempotency_key"], key, "{method}");
        assert_eq!(first["api_version"], "2026-09-30.endive");
    }
    let stripe = Stripe::new().await;
    let intent =
        stripe.post(INTENTS, "amount=500&currency=usd").await.json()["id"].as_str().unwrap().to_owned();
    assert!(stripe.told().await.is_empty());
    stripe.post(&format!("{INTENTS}/{intent}/cancel"), "").await;
    assert_eq!(stripe.told().await, ["payment_intent.canceled"]);
    let event = stripe.list("/v1/events").await[0].clone();
    assert_eq!(event["data"]["object"], stripe.get(&format!("{INTENTS}/{intent}")).await.json());
}

#[tokio::test]
async fn an_event_shows_the_object_as_it_was() {
    let stripe = Stripe::new().await;
    let intent = stripe.paid("pm_card_visa").await;
    stripe.control("/_sim/refunds", &json!({ "payment_intent": intent, "amount": 100 })).await;
    stripe.control("/_sim/refunds", &json!({ "payment_intent": intent, "amount": 200 })).await;
    let refunded = stripe.list("/v1/events?type=charge.refunded").await;
    let amounts: Vec<&Value> =
        refunded.iter().map(|event| &event["data"]["object"]["amount_refunded"]).collect();
    assert_eq!(amounts, [300, 100]);
    let id = refunded[1]["id"].as_str().unwrap();
    assert_eq!(stripe.get(&format!("/v1/events/{id}")).await.json(), refunded[1]);
}

#[tokio::test]
async fn events_are_listed_by_page_type_and_time() {
    let stripe = Stripe::new().await;
    let start = stripe.get("/_sim/books").await.json()["now"].as_i64().unwrap();
    for _ in 0..3 {
        stripe.paid("pm_card_visa").await;
    }
    let all = stripe.list("/v1/events?limit=100").await;
    assert_eq!(all.len(), 6);
    let mut walked = Vec::new();
    let mut path = "/v1/events?limit=4".to_owned();
    loop {
        let page = stripe.get(&path).await.json();
        walked.extend(page["data"].as_array().unwrap().clone());
        if page["has_more"] == false {
            break;
        }
        path =
            format!("/v1/events?limit=4&starting_after={}", walked.last().unwrap()["id"].as_str().unwrap());
    }
    assert_eq!(walked, all);
    for (query, count) in [
        ("type=payment_intent.succeeded", 3),
        ("type=payment_intent.*", 3),
        ("types[]=payment_intent.succeeded&types[]=charge.succeeded", 6),
        ("types[]=refund.created", 0),
    ] {
        assert_eq!(stripe.list(&format!("/v1/events?{query}&limit=100")).await.len(), count, "{query}");
    }
    assert_eq!(stripe.get("/v1/events?type=a&types[]=b").await.status, 400);
    stripe.control("/_sim/clock", &json!({ "advance_seconds": 1_000 })).await;
    let late = stripe.paid("pm_card_visa").await;
    let found = stripe
        .list(&format!("/v1/events?created[gte]={}&types[]=payment_intent.succeeded", start + 500))
        .await;
    assert_eq!((found.len(), &found[0]["data"]["object"]["id"]), (1, &json!(late)));
    // After thirty days nobody is shown them.
    let month = 30 * 86_400;
    stripe.control("/_sim/clock", &json!({ "advance_seconds": month - 500 })).await;
    assert_eq!(stripe.list("/v1/events?limit=100").await.len(), 2);
    let old = all[0]["id"].as_str().unwrap();
    assert_eq!(stripe.get(&format!("/v1/events/{old}")).await.status, 404);
}

#[tokio::test]
async fn what_followed_a_charge_survives() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("books");
    let first = Stripe::with(options(Some(file.clone()))).await;
    first.control("/_sim/settings", &json!({ "late_balance_transactions": true })).await;
    let late = first.paid("pm_card_visa").await;
    let disputed = first.paid("pm_card_createDispute").await;
    let refunded = first.paid("pm_card_pendingRefund").await;
    first.control("/_sim/refunds", &json!({ "payment_intent": refunded })).await;
    first.paid("pm_card_createIssuerFraudRecord").await;
    let paths = [
        "/v1/events?limit=100",
        "/v1/disputes",
        "/v1/radar/early_fraud_warnings",
        "/v1/refunds",
        "/v1/balance_transactions?limit=100",
    ];
    let mut before = Vec::new();
    for path in paths {
        before.push(first.get(path).await.json());
    }
    first.sim.stop().await;
    let again = Stripe::with(options(Some(file))).await;
    for (path, before) in paths.iter().zip(before) {
        assert_eq!(again.get(path).await.json(), before, "{path}");
    }
    // What is outstanding still comes, once, and new events have ids of their own.
    again.control("/_sim/clock", &json!({ "advance_seconds": 60 })).await;
    let told = again.told().await;
    for (kind, count) in [("charge.updated", 4), ("refund.updated", 1), ("charge.dispute.created", 1)] {
        assert_eq!(told.iter().filter(|told| *told == kind).count(), count, "{kind} in {told:?}");
    }
    let path = format!("/v1/payment_intents/{late}?expand[]=latest_charge");
    assert!(again.get(&path).await.json()["latest_charge"]["balance_transaction"].is_string());
    let dispute = again.list(&format!("/v1/disputes?payment_intent={disputed}")).await[0]["id"].clone();
    let close = format!("/_sim/disputes/{}/close", dispute.as_str().unwrap());
    assert_eq!(again.control(&close, &json!({ "status": "lost" })).await["status"], "lost");
    let ids: std::collections::BTreeSet<String> = again
        .list("/v1/events?limit=100")
        .await
        .iter()
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), again.told().await.len());
}
