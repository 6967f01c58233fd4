//! What was accepted is applied, once, whatever happens in between.

use serde_json::json;

use super::*;
use crate::support::dice::Dice;
use crate::support::process::Seat;
use crate::support::{GOOD, Pay, change, intents, number};

const PROCESSING: &str = "4000000000004020";

/// A payment that the bank has not decided on. Answers the intent's id.
async fn undecided(gateway: &Gateway<'_>) -> String {
    let card = gateway.world.tokenise(PROCESSING).await;
    let answer = gateway.pay("/api/weather", &Pay::card(&card)).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "topup_pending"));
    let intents = intents(&gateway.world.books().await);
    let open = intents.iter().find(|intent| intent["status"] == "processing").unwrap();
    open["id"].as_str().unwrap().to_owned()
}

/// The bank decides.
async fn decide(world: &World, intent: &str, outcome: &str) {
    let url = format!("{}/_sim/payment_intents/{intent}/finish", world.sim.base_url);
    let answer = world.client.post_json(&url, &json!({ "outcome": outcome })).await;
    assert!(answer.status < 300, "{}", answer.text());
}

fn about(id: &str, kind: &str, intent: &str) -> Value {
    event(id, kind, &json!({ "id": intent, "object": "payment_intent", "metadata": {} }))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_comes_ten_times_at_once_is_stored_and_applied_once() {
    let world = world(&[SECRET], "").await;
    let gateway = world.gateway().await;
    let intent = undecided(&gateway).await;
    decide(&world, &intent, "succeeded").await;
    let event = about("evt_ours", "payment_intent.succeeded", &intent);
    // A twin: another event about the same fact.
    let twin = about("evt_twin", "payment_intent.succeeded", &intent);
    let deliveries = (0..20).map(|n| deliver(&gateway, if n % 2 == 0 { &event } else { &twin }));
    for answer in futures_util::future::join_all(deliveries).await {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(ended(&world, "evt_ours").await, applied());
    assert_eq!(ended(&world, "evt_twin").await, applied());
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM entries WHERE source LIKE 'topup:%'").await, 1);
    let counted = |outcome: &'static str| {
        let gateway = &gateway;
        async move { metric(gateway, &format!("prepaid402_webhooks_total{{outcome=\"{outcome}\"}}")).await }
    };
    assert_eq!((counted("Received").await, counted("Duplicate").await), (2, 18));
    // And after the end.
    assert_eq!(deliver(&gateway, &event).await.status, 200);
    assert_eq!(state(&world, "evt_ours").await, Some(applied()));
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_before_a_crash_is_applied_after_it() {
    let mut dice = Dice::printed("ports");
    let world = world(&[SECRET], "").await;
    let seat = Seat::new(&world, &mut dice);
    let process = seat.start().await;
    let card = world.tokenise(GOOD).await;
    let url = format!("{}/api/weather", process.url);
    let paid = world.client.send("GET", &url, &[("payment", &Pay::card(&card).header())], None).await;
    assert_eq!(paid.status, 200, "{}", paid.text());
    let intent = intents(&world.books().await)[0]["id"].as_str().unwrap().to_owned();

    // Stripe does not answer, so it cannot be applied: stored and acknowledged it is.
    world.faults(json!({ "on": "refunds.list", "action": "hang", "execute": false, "times": 100 })).await;
    let body =
        event("evt_1", "charge.updated", &json!({ "id": "ch_x", "payment_intent": intent })).to_string();
    let header = signature(SECRET, now(), body.as_bytes());
    let url = format!("{}/webhooks/stripe", process.url);
    let headers = [("stripe-signature", header.as_str())];
    let answer = world.client.send("POST", &url, &headers, Some(("application/json", body.as_bytes()))).await;
    assert_eq!(answer.status, 200);
    process.kill().await;
    world.lapse_leases().await;
    let (before, _) = state(&world, "evt_1").await.unwrap();
    assert!(["received", "parked"].contains(&before.as_str()), "{before}");
    world.clear_faults().await;
    // As if the time of whoever had taken it were over.
    change(&world.database, "UPDATE stripe_events SET next_try_at = 1 WHERE id = $1", &["evt_1"]).await;

    let process = seat.start().await;
    assert_eq!(ended(&world, "evt_1").await, applied());
    process.terminate().await;
    assert!(process.wait().await.success());
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_our_own_intents_are_settled_and_only_as_stripe_says() {
    let world = world(&[SECRET], "").await;
    let gateway = world.gateway().await;
    let intent = undecided(&gateway).await;
    // Signed, and untrue: the bank has not decided.
    assert_eq!(
        deliver(&gateway, &about("evt_untrue", "payment_intent.succeeded", &intent)).await.status,
        200
    );
    let begun = Instant::now();
    while state(&world, "evt_untrue").await.is_none_or(|(state, _)| state != "parked") {
        assert!(begun.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM entries").await, 0, "nothing is credited");
    assert_eq!(metric(&gateway, "prepaid402_parked_events").await, 1);

    // An intent of somebody else's that carries the id of our top-up in an event's metadata, and not at Stripe.
    let top_up: String = column(&rows(&world.database, "SELECT id FROM top_ups").await[0], 0);
    let object = json!({ "id": "pi_strange", "metadata": { "prepaid402_top_up": top_up } });
    deliver(&gateway, &event("evt_stolen", "payment_intent.succeeded", &object)).await;
    for (id, object) in [
        ("evt_strange", json!({ "id": "pi_strange", "metadata": {} })),
        (
            "evt_no_top_up",
            json!({ "id": "pi_strange", "metadata": { "prepaid402_top_up": "0198c0de-0000-7000-8000-000000000000" } }),
        ),
        ("evt_no_intent", json!({ "id": "seti_1" })),
    ] {
        deliver(&gateway, &event(id, "payment_intent.succeeded", &object)).await;
        assert_eq!(ended(&world, id).await.0, "ignored", "{id}");
    }
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM entries").await, 0, "nothing is credited");

    // Now it is true, and the event that came too early is due again.
    decide(&world, &intent, "succeeded").await;
    change(&world.database, "UPDATE stripe_events SET next_try_at = 1 WHERE id = $1", &["evt_untrue"]).await;
    assert_eq!(ended(&world, "evt_untrue").await, applied());
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_another_mode_account_type_or_version() {
    let world = world(&[SECRET], "").await;
    let gateway = world.gateway().await;
    let with = |id: &str, name: &str, value: Value| {
        let mut event = strange(id);
        event[name] = value;
        event
    };
    for (id, name, value, outcome) in [
        ("evt_live", "livemode", json!(true), "OtherMode"),
        ("evt_connected", "account", json!("acct_1"), "OtherAccount"),
    ] {
        assert_eq!(deliver(&gateway, &with(id, name, value)).await.status, 200, "{id}");
        assert_eq!(state(&world, id).await, None, "{id} is not kept");
        assert_eq!(metric(&gateway, &format!("prepaid402_webhooks_total{{outcome=\"{outcome}\"}}")).await, 1);
    }
    for kind in ["invoice.paid", "payment_method.attached", "v2.core.account.created", "a"] {
        let id = format!("evt_{}", kind.replace('.', "_"));
        assert_eq!(deliver(&gateway, &event(&id, kind, &json!({ "id": "pm_1AbC" }))).await.status, 200);
        assert_eq!(state(&world, &id).await.unwrap().0, "ignored", "{kind}");
    }
    // From a version that is not there yet: other shapes everywhere but in the names.
    let intent = undecided(&gateway).await;
    decide(&world, &intent, "succeeded").await;
    let future = json!({
        "id": "evt_future", "object": "event", "api_version": "2031-09-30.zzz", "created": "2031-09-30T00:00:00Z",
        "type": "payment_intent.succeeded", "livemode": false, "pending_webhooks": null, "context": { "a": [1, 2.5] },
        "data": { "object": { "id": intent, "amount": { "value": "5.00" }, "status": 7 }, "changes": [] },
    });
    assert_eq!(deliver(&gateway, &future).await.status, 200);
    assert_eq!(ended(&world, "evt_future").await, applied());
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_could_be_used_to_pay_is_kept() {
    let world = world(&[SECRET], "").await;
    let gateway = world.gateway().await;
    gateway.new_client("/api/weather").await;
    let object = json!({
        "id": "pi_strange", "client_secret": "pi_strange_secret_canary1", "payment_method": "pm_canary2",
        "metadata": { "note": "5555555555554444 tok_canary3" },
        "last_payment_error": { "payment_method": { "id": "pm_canary4" }, "message": "No such pm_canary5" },
    });
    deliver(&gateway, &event("evt_1", "payment_intent.payment_failed", &object)).await;
    ended(&world, "evt_1").await;
    gateway.stop().await;
    for (place, bytes) in world.stored().await {
        for canary in ["canary", "5555555555554444"] {
            let found = bytes.windows(canary.len()).any(|window| window == canary.as_bytes());
            assert!(!found, "{canary} is in {place}");
        }
    }
    let bodies = rows(&world.database, "SELECT body FROM stripe_events WHERE id = 'evt_1'").await;
    assert!(column::<String>(&bodies[0], 0).contains("[redacted]"));
}
