//! What becomes of a charge afterwards: refunds that pend or fail, disputes, fraud warnings, late balance transactions.

use super::*;

/// Signed amount, fee, `type` and `reporting_category` of the balance transactions, oldest first.
async fn moved(stripe: &Stripe) -> Vec<(i64, i64, String, String)> {
    let mut rows = stripe.list("/v1/balance_transactions?limit=100").await;
    rows.reverse();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let number = |row: &Value, name: &str| row[name].as_i64().unwrap();
    rows.iter()
        .map(|row| {
            assert_eq!(number(row, "net"), number(row, "amount") - number(row, "fee"), "{row}");
            (number(row, "amount"), number(row, "fee"), text(row, "type"), text(row, "reporting_category"))
        })
        .collect()
}

fn row(amount: i64, fee: i64, kind: &str, category: &str) -> (i64, i64, String, String) {
    (amount, fee, kind.into(), category.into())
}

async fn charge_of(stripe: &Stripe, intent: &str) -> Value {
    stripe.list(&format!("/v1/charges?payment_intent={intent}")).await[0].clone()
}

#[tokio::test]
async fn refunds_pend_fail_and_come_back() {
    // Card, what the bank says, who says it, and the states before and after.
    for (method, outcome, by_clock, before, after) in [
        ("pm_card_pendingRefund", "succeeded", true, "pending", "succeeded"),
        ("pm_card_pendingRefund", "succeeded", false, "pending", "succeeded"),
        ("pm_card_pendingRefund", "failed", false, "pending", "failed"),
        ("pm_card_refundFail", "failed", true, "succeeded", "failed"),
        ("pm_card_visa", "failed", false, "succeeded", "failed"),
    ] {
        let stripe = Stripe::new().await;
        let intent = stripe.paid(method).await;
        let body = format!("payment_intent={intent}&amount=200&reason=requested_by_customer&metadata[a]=b");
        let refund = stripe.keyed("k", "/v1/refunds", &body).await.json();
        assert_eq!(stripe.keyed("k", "/v1/refunds", &body).await.json()["id"], refund["id"]);
        let id = refund["id"].as_str().unwrap();
        assert_eq!((refund["status"].as_str(), &refund["metadata"]["a"]), (Some(before), &json!("b")));
        assert_eq!(charge_of(&stripe, &intent).await["amount_refunded"], 200);
        assert_eq!(stripe.totals().await.1, 200);
        if by_clock {
            stripe.control("/_sim/clock", &json!({ "advance_seconds": 60 })).await;
        } else {
            stripe.control(&format!("/_sim/refunds/{id}/finish"), &json!({ "outcome": outcome })).await;
        }
        let refund = stripe.get(&format!("/v1/refunds/{id}")).await.json();
        assert_eq!(refund["status"], after, "{method}");
        assert_eq!(
            stripe.list(&format!("/v1/refunds?payment_intent={intent}")).await,
            std::slice::from_ref(&refund)
        );
        let failed = after == "failed";
        assert_eq!(refund["failure_balance_transaction"].is_string(), failed, "{method}");
        let left = if failed { 0 } else { 200 };
        assert_eq!(charge_of(&stripe, &intent).await["amount_refunded"], left, "{method} {outcome}");
        assert_eq!(stripe.totals().await.1, left);
        let mut expected = vec![row(500, 45, "charge", "charge"), row(-200, 0, "refund", "refund")];
        if failed {
            expected.push(row(200, 0, "refund_failure", "refund_failure"));
        }
        assert_eq!(moved(&stripe).await, expected, "{method} {outcome}");
        let mut told = vec![
            "charge.succeeded",
            "payment_intent.succeeded",
            "refund.created",
            "charge.refunded",
            "refund.updated",
        ];
        if failed {
            told.push("refund.failed");
        }
        assert_eq!(stripe.told().await, told, "{method} {outcome}");
        // The last word is the last.
        stripe.refused(&format!("/_sim/refunds/{id}/finish"), &json!({ "outcome": "succeeded" })).await;
        stripe.control("/_sim/clock", &json!({ "advance_seconds": 600 })).await;
        assert_eq!(stripe.told().await, told, "{method} {outcome}");
    }
}

#[tokio::test]
async fn the_dashboard_refunds_without_metadata() {
    let stripe = Stripe::new().await;
    let intent = stripe.paid("pm_card_visa").await;
    let part = stripe.control("/_sim/refunds", &json!({ "payment_intent": intent, "amount": 100 })).await;
    assert_eq!(
        (&part["amount"], &part["metadata"], &part["reason"]),
        (&json!(100), &json!({}), &Value::Null)
    );
    let event = stripe.list("/v1/events?type=refund.created").await[0].clone();
    assert_eq!(event["request"], json!({ "id": null, "idempotency_key": null }));
    let rest = stripe.control("/_sim/refunds", &json!({ "payment_intent": intent })).await;
    assert_eq!(rest["amount"], 400);
    stripe.refused("/_sim/refunds", &json!({ "payment_intent": intent })).await;
    stripe.refused("/_sim/refunds", &json!({ "payment_intent": "pi_none" })).await;
    let cumulative: Vec<Value> = stripe
        .list("/v1/events?type=charge.refunded")
        .await
        .iter()
        .map(|event| event["data"]["object"]["amount_refunded"].clone())
        .collect();
    assert_eq!(cumulative, [500, 100]);
    assert_eq!(charge_of(&stripe, &intent).await["refunded"], true);
}

#[tokio::test]
async fn a_dispute_goes_its_way() {
    const OPENED: [&str; 4] = [
        "charge.succeeded",
        "payment_intent.succeeded",
        "charge.dispute.created",
        "charge.dispute.funds_withdrawn",
    ];
    let taken = row(-500, 1_500, "adjustment", "dispute");
    let back = row(500, 0, "adjustment", "dispute_reversal");
    for (steps, status, told, returned) in [
        (&[][..], "needs_response", &[][..], false),
        (
            &[("close", json!({ "status": "won" }))][..],
            "won",
            &["charge.dispute.closed", "charge.dispute.funds_reinstated"][..],
            true,
        ),
        (&[("close", json!({ "status": "lost" }))], "lost", &["charge.dispute.closed"], false),
        (
            &[("reinstate", json!({})), ("close", json!({ "status": "won" }))],
            "won",
            &["charge.dispute.funds_reinstated", "charge.dispute.closed"],
            true,
        ),
        (
            &[("close", json!({ "status": "won", "reinstate": false })), ("reinstate", json!({}))],
            "won",
            &["charge.dispute.closed", "charge.dispute.funds_reinstated"],
            true,
        ),
    ] {
        let stripe = Stripe::new().await;
        let intent = stripe.paid("pm_card_visa").await;
        let path = format!("/_sim/payment_intents/{intent}/dispute");
        let dispute = stripe.control(&path, &json!({ "reason": "product_not_received" })).await;
        let id = dispute["id"].as_str().unwrap();
        for (step, body) in steps {
            stripe.control(&format!("/_sim/disputes/{id}/{step}"), body).await;
        }
        let dispute = stripe.get(&format!("/v1/disputes/{id}")).await.json();
        assert_eq!((dispute["status"].as_str(), &dispute["amount"]), (Some(status), &json!(500)));
        assert_eq!(dispute["reason"], "product_not_received");
        let listed = stripe.list(&format!("/v1/disputes?payment_intent={intent}")).await;
        assert_eq!(listed, std::slice::from_ref(&dispute));
        let mut expected = vec![row(500, 45, "charge", "charge"), taken.clone()];
        expected.extend(returned.then(|| back.clone()));
        assert_eq!(moved(&stripe).await, expected, "{status} {told:?}");
        assert_eq!(dispute["balance_transactions"].as_array().unwrap().len(), expected.len() - 1);
        assert_eq!(dispute["balance_transactions"][0]["source"], json!(id));
        assert_eq!(dispute["balance_transactions"][0]["fee_details"][0]["description"], "Dispute fee");
        let all: Vec<&str> = OPENED.iter().chain(told).copied().collect();
        assert_eq!(stripe.told().await, all);
        assert_eq!(charge_of(&stripe, &intent).await["disputed"], true);
        // What a dispute has taken cannot be refunded as well.
        let refund = stripe.post("/v1/refunds", &format!("payment_intent={intent}")).await;
        if returned {
            assert_eq!(refund.status, 200);
        } else {
            assert_eq!((refund.status, refund.error().2.as_str()), (400, "charge_disputed"));
        }
    }
}

#[tokio::test]
async fn a_dispute_takes_a_part_and_a_refund_the_rest() {
    let stripe = Stripe::new().await;
    let intent = stripe.paid("pm_card_visa").await;
    let refund = async |amount: i64| {
        stripe.post("/v1/refunds", &format!("payment_intent={intent}&amount={amount}")).await.status
    };
    let path = format!("/_sim/payment_intents/{intent}/dispute");
    let dispute = stripe.control(&path, &json!({ "amount": 300, "withdraw": false })).await;
    assert_eq!(
        (&dispute["status"], &dispute["balance_transactions"]),
        (&json!("needs_response"), &json!([]))
    );
    assert_eq!(stripe.totals().await.3, 455, "no funds have moved yet");
    let id = dispute["id"].as_str().unwrap();
    stripe.control(&format!("/_sim/disputes/{id}/withdraw"), &json!({})).await;
    stripe.refused(&format!("/_sim/disputes/{id}/withdraw"), &json!({})).await;
    assert_eq!(stripe.totals().await.3, 455 - 300 - 1_500);
    assert_eq!(refund(201).await, 400);
    assert_eq!(refund(200).await, 200);
    assert_eq!(refund(1).await, 400);
    let books = stripe.get("/_sim/books").await.json();
    assert_eq!(books["totals"]["usd"]["disputed"], 300);
    assert_eq!(books["disputes"][0]["funds"], "withdrawn");
    stripe.control(&format!("/_sim/disputes/{id}/close"), &json!({ "status": "won" })).await;
    assert_eq!(refund(301).await, 400);
    assert_eq!(refund(300).await, 200);
    assert_eq!(stripe.totals().await, (500, 500, 1_545, -1_545));
    for body in
        [json!({ "amount": 501 }), json!({ "amount": 0 }), json!({ "reason": "envy" }), json!({ "x": 1 })]
    {
        stripe.refused(&path, &body).await;
    }
}

#[tokio::test]
async fn an_inquiry_moves_no_funds_until_it_is_a_dispute() {
    let stripe = Stripe::new().await;
    let intent = stripe.paid("pm_card_createDisputeInquiry").await;
    let find =
        async |intent: &str| stripe.list(&format!("/v1/disputes?payment_intent={intent}")).await[0].clone();
    let dispute = find(&intent).await;
    assert_eq!(dispute["status"], "warning_needs_response");
    assert_eq!(dispute["is_charge_refundable"], true);
    assert_eq!(dispute["payment_method_details"]["card"]["case_type"], "inquiry");
    assert_eq!(moved(&stripe).await.len(), 1);
    let id = dispute["id"].as_str().unwrap();
    let close = format!("/_sim/disputes/{id}/close");
    stripe.refused(&close, &json!({ "status": "won" })).await;
    stripe.control(&close, &json!({ "status": "warning_closed" })).await;
    assert_eq!(find(&intent).await["status"], "warning_closed");
    stripe.refused(&format!("/_sim/disputes/{id}/withdraw"), &json!({})).await;
    stripe.refused(&close, &json!({ "status": "warning_closed" })).await;
    assert_eq!(moved(&stripe).await.len(), 1);

    let intent = stripe.paid("pm_card_visa").await;
    let path = format!("/_sim/payment_intents/{intent}/dispute");
    stripe.refused(&path, &json!({ "inquiry": true, "withdraw": true })).await;
    let id = stripe.control(&path, &json!({ "inquiry": true })).await["id"].as_str().unwrap().to_owned();
    stripe.control(&format!("/_sim/disputes/{id}/withdraw"), &json!({})).await;
    let dispute = find(&intent).await;
    assert_eq!(dispute["status"], "needs_response");
    assert_eq!(dispute["payment_method_details"]["card"]["case_type"], "chargeback");
    stripe.refused(&format!("/_sim/disputes/{id}/close"), &json!({ "status": "warning_closed" })).await;
    let told = stripe.told().await;
    assert_eq!(
        told[told.len() - 3..],
        ["charge.dispute.created", "charge.dispute.updated", "charge.dispute.funds_withdrawn"]
    );
}

#[tokio::test]
async fn test_cards_bring_disputes_and_warnings() {
    for (method, number, amounts, reason, warned) in [
        ("pm_card_createDispute", "4000000000000259", &[500][..], "fraudulent", false),
        (
            "pm_card_createDisputeProductNotReceived",
            "4000000000002685",
            &[500],
            "product_not_received",
            false,
        ),
        ("pm_card_createMultipleDisputes", "4000000404000079", &[250, 250], "fraudulent", false),
        ("pm_card_createIssuerFraudRecord", "4000000000005423", &[], "", true),
    ] {
        let stripe = Stripe::new().await;
        for method in [method.to_owned(), stripe.card(number).await] {
            let intent = stripe.paid(&method).await;
            let charge = charge_of(&stripe, &intent).await["id"].as_str().unwrap().to_owned();
            let disputes = stripe.list(&format!("/v1/disputes?charge={charge}")).await;
            let found: Vec<i64> = disputes.iter().map(|row| row["amount"].as_i64().unwrap()).collect();
            assert_eq!(found, amounts, "{method}");
            assert!(disputes.iter().all(|row| row["reason"] == reason), "{method}");
            let path = format!("/v1/radar/early_fraud_warnings?payment_intent={intent}");
            let warnings = stripe.list(&path).await;
            assert_eq!(warnings.len(), usize::from(warned), "{method}");
            assert!(warnings.iter().all(|row| row["charge"] == json!(charge)), "{method}");
        }
    }
}

#[tokio::test]
async fn a_fraud_warning_can_be_acted_on_until_it_is_refunded() {
    let stripe = Stripe::new().await;
    let intent = stripe.paid("pm_card_visa").await;
    let path = format!("/_sim/payment_intents/{intent}/fraud_warning");
    let warning = stripe.control(&path, &json!({ "fraud_type": "made_with_stolen_card" })).await;
    assert_eq!((&warning["actionable"], &warning["payment_intent"]), (&json!(true), &json!(intent)));
    assert_eq!(warning["fraud_type"], "made_with_stolen_card");
    let event = stripe.list("/v1/events?types[]=radar.early_fraud_warning.created").await[0].clone();
    assert_eq!(event["data"]["object"], warning);
    stripe.control("/_sim/refunds", &json!({ "payment_intent": intent })).await;
    let read = stripe
        .get(&format!("/v1/radar/early_fraud_warnings/{}", warning["id"].as_str().unwrap()))
        .await
        .json();
    assert_eq!(read["actionable"], false);
    stripe.refused(&path, &json!({ "fraud_type": "bad_weather" })).await;
    let unpaid = stripe.post("/v1/payment_intents", "amount=500&currency=usd").await.json();
    let unpaid = unpaid["id"].as_str().unwrap();
    for what in ["fraud_warning", "dispute", "settle"] {
        stripe.refused(&format!("/_sim/payment_intents/{unpaid}/{what}"), &json!({})).await;
        stripe.refused(&format!("/_sim/payment_intents/pi_none/{what}"), &json!({})).await;
    }
}

#[tokio::test]
async fn a_balance_transaction_can_come_late() {
    // By the clock, on demand, and because something else happens to the charge.
    for how in ["clock", "settle", "refund", "dispute"] {
        let stripe = Stripe::new().await;
        let settings = stripe.control("/_sim/settings", &json!({ "late_balance_transactions": true })).await;
        assert_eq!(settings["publishable_key_tokenisation"], true, "what is not named stays");
        let paid = stripe.post("/v1/payment_intents", &confirm("pm_card_visa")).await.json();
        assert_eq!(paid["latest_charge"]["balance_transaction"], Value::Null);
        assert!(moved(&stripe).await.is_empty());
        let intent = paid["id"].as_str().unwrap();
        match how {
            "clock" => {
                stripe.control("/_sim/clock", &json!({ "advance_seconds": 30 })).await;
                assert!(moved(&stripe).await.is_empty());
                stripe.control("/_sim/clock", &json!({ "advance_seconds": 30 })).await;
            }
            "refund" => {
                stripe.control("/_sim/refunds", &json!({ "payment_intent": intent })).await;
            }
            what => {
                stripe.control(&format!("/_sim/payment_intents/{intent}/{what}"), &json!({})).await;
            }
        }
        let path = format!("/v1/payment_intents/{intent}?expand[]=latest_charge.balance_transaction");
        let charge = stripe.get(&path).await.json()["latest_charge"].clone();
        assert_eq!(charge["balance_transaction"]["fee"], 45, "{how}");
        assert_eq!(moved(&stripe).await[0], row(500, 45, "charge", "charge"), "{how}");
        assert_eq!(
            stripe.told().await[..3],
            ["charge.succeeded", "payment_intent.succeeded", "charge.updated"],
            "{how}"
        );
        let event = stripe.list("/v1/events?type=charge.updated").await[0].clone();
        assert_eq!(event["data"]["previous_attributes"], json!({ "balance_transaction": null }));
        assert_eq!(event["data"]["object"]["balance_transaction"], charge["balance_transaction"]["id"]);
    }
}

#[tokio::test]
async fn lists_of_money_are_filtered_and_expanded() {
    let stripe = Stripe::new().await;
    let first = stripe.paid("pm_card_visa").await;
    stripe.control("/_sim/refunds", &json!({ "payment_intent": first, "amount": 100 })).await;
    let now = stripe.get("/_sim/books").await.json()["now"].as_i64().unwrap();
    stripe.control("/_sim/clock", &json!({ "advance_seconds": 1_000 })).await;
    let second = stripe.paid("pm_card_createDispute").await;
    for (path, expected) in [
        ("/v1/balance_transactions?type=charge".to_owned(), 2),
        ("/v1/balance_transactions?type=refund".to_owned(), 1),
        ("/v1/balance_transactions?type=adjustment".to_owned(), 1),
        ("/v1/balance_transactions?type=payout".to_owned(), 0),
        (format!("/v1/balance_transactions?created[gte]={}", now + 500), 2),
        (format!("/v1/balance_transactions?created[lte]={}", now + 500), 2),
        (format!("/v1/disputes?created[gte]={}", now + 500), 1),
        (format!("/v1/disputes?created[lt]={}", now + 500), 0),
        (format!("/v1/disputes?payment_intent={first}"), 0),
        (format!("/v1/refunds?payment_intent={second}"), 0),
        (format!("/v1/refunds?payment_intent={first}"), 1),
    ] {
        assert_eq!(stripe.list(&path).await.len(), expected, "{path}");
    }
    let sources: Vec<Value> = stripe
        .list("/v1/balance_transactions?expand[]=data.source")
        .await
        .iter()
        .map(|row| row["source"]["object"].clone())
        .collect();
    assert_eq!(sources, ["dispute", "charge", "refund", "charge"]);
    let refunds = stripe.list("/v1/refunds?expand[]=data.balance_transaction").await;
    assert_eq!(refunds[0]["balance_transaction"]["type"], "refund");
    let charges = stripe.list("/v1/charges?expand[]=data.balance_transaction").await;
    assert_eq!(charges[0]["balance_transaction"]["type"], "charge");
    let pages = stripe.get("/v1/balance_transactions?limit=3").await.json();
    assert_eq!(pages["has_more"], true);
    let cursor = pages["data"][2]["id"].as_str().unwrap();
    let last = stripe.get(&format!("/v1/balance_transactions?starting_after={cursor}")).await.json();
    assert_eq!((last["data"].as_array().unwrap().len(), &last["has_more"]), (1, &json!(false)));
    let headers = [("authorization", &*bearer(SANDBOX_PUBLISHABLE_KEY))];
    for path in
        ["disputes", "refunds", "charges", "balance_transactions", "events", "radar/early_fraud_warnings"]
    {
        for id in ["", "/x_1"] {
            let reply = stripe.send("GET", &format!("/v1/{path}{id}"), "", &headers).await.unwrap();
            assert_eq!(reply.status, 403, "{path}{id}");
        }
        assert_eq!(stripe.get(&format!("/v1/{path}/x_1")).await.status, 404, "{path}");
    }
}
