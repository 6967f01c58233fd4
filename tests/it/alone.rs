//! Stripe's webhooks, and what the gateway asks by itself, each without the other: either brings every payment to its end.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::operator::Office;
use crate::support::callers::{DEAR, OPEN};
use crate::support::program::until;
use crate::support::{GOOD, Gateway, Pay, ROUTES, World, number};
use crate::unknown_outcomes::{PROCESSING, finish};

const PENDING_REFUND: &str = "4000000000007726";
const ENDED: &str = "SELECT COUNT(*) FROM top_ups WHERE state IN ('succeeded', 'failed')";
const CREDITED: &str = "SELECT COUNT(*) FROM top_ups WHERE state = 'succeeded'";
const OPEN_REFUNDS: &str =
    "SELECT COUNT(*) FROM refunds WHERE state NOT IN ('succeeded', 'failed', 'canceled')";

/// A card is presented once, by somebody who does not come back; its outcome stays open.
async fn left_open(gateway: &Gateway<'_>, card: &str) -> String {
    let answer = gateway.pay("/api/weather", &Pay::card(card)).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "topup_pending"), "{}", answer.text());
    answer.receipt().client_id
}

async fn nothing_is_open(world: &World, what: &str) -> Duration {
    let begun = Instant::now();
    until(what, async || number(&world.database, OPEN).await == 0).await;
    println!("{what}: ended after {} ms", begun.elapsed().as_millis());
    begun.elapsed()
}

impl World {
    /// The gateway asks nothing by itself: neither the reconciler nor the poller comes round in an hour.
    async fn with_webhooks_alone() -> Self {
        let mut world = Self::with_webhooks("[webhooks]\npoll_every = \"1h\"\n").await;
        world.packs = "[top_up]\nreconcile_every = \"1h\"\nminimum = \"5.00\"\n".to_owned();
        world
    }

    /// Stripe does what it is asked to about charges, and nobody hears of it.
    async fn losing_answers(&self) {
        let lost = |on: &str| json!({ "on": on, "action": "drop", "execute": true, "times": 1_000_000 });
        self.faults(json!([lost("payment_intents.confirm"), lost("payment_intents.retrieve")])).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_alone_bring_every_payment_to_its_end() {
    let world = World::with_webhooks_alone().await;
    let office = Office::new(&world).await;
    let gateway = &office.gateway;
    world.deliver_to(gateway).await;

    // Charged, and every answer about it lost.
    world.sim("/webhooks/hold", json!({})).await;
    world.losing_answers().await;
    let lost = left_open(gateway, &world.tokenise(GOOD).await).await;
    world.clear_faults().await;
    assert_eq!(world.succeeded_charges().await.len(), 1);
    assert_eq!(number(&world.database, OPEN).await, 1, "nobody but a webhook tells");
    world.sim("/webhooks/release", json!({})).await;
    nothing_is_open(&world, "a charge whose answer was lost").await;
    assert_eq!(number(&world.database, CREDITED).await, 1);
    assert_eq!(gateway.balance(&lost).await, 50_000);

    // Lost again, and what the webhook asks is lost too: it is parked, and asks again.
    world.losing_answers().await;
    let parked = left_open(gateway, &world.tokenise(GOOD).await).await;
    let waits = "SELECT COUNT(*) FROM stripe_events WHERE state = 'parked'";
    until("its event is parked", async || number(&world.database, waits).await > 0).await;
    world.clear_faults().await;
    nothing_is_open(&world, "a charge whose event was parked").await;
    assert_eq!(gateway.balance(&parked).await, 50_000);

    // Stripe takes its time, both ways.
    let late = left_open(gateway, &world.tokenise(PROCESSING).await).await;
    finish(&world, "succeeded").await;
    nothing_is_open(&world, "a charge that succeeds late").await;
    assert_eq!(gateway.balance(&late).await, 50_000);
    let before = number(&world.database, CREDITED).await;
    left_open(gateway, &world.tokenise(PROCESSING).await).await;
    finish(&world, "failed").await;
    nothing_is_open(&world, "a charge that fails late").await;
    assert_eq!(number(&world.database, CREDITED).await, before, "a failed charge credits nothing");

    // An operator's refund whose end is not known at once, and one whose end is bad.
    for outcome in ["succeeded", "failed"] {
        let wallet = office.wallet_of(PENDING_REFUND).await;
        let body = json!({ "topUp": wallet.top_up, "amount": "5.00", "reason": "asked by mail" });
        let asked = office.refund(&format!("refund-that-{outcome}"), &body).await;
        assert!(asked.status < 300, "{}", asked.text());
        assert_eq!(number(&world.database, OPEN_REFUNDS).await, 1, "{}", asked.text());
        let at_stripe = world.books().await["refunds"].as_array().unwrap().clone();
        let id = at_stripe.last().unwrap()["id"].as_str().unwrap().to_owned();
        world.sim(&format!("/refunds/{id}/finish"), json!({ "outcome": outcome })).await;
        until("the refund has ended", async || number(&world.database, OPEN_REFUNDS).await == 0).await;
        assert_eq!(office.refunds(&wallet).await[0]["state"], outcome);
    }

    // What banks and the dashboard do.
    let client = gateway.new_client("/api/weather").await;
    let (intent, id) = world.intent_of(&client).await;
    world.sim("/refunds", json!({ "payment_intent": intent, "amount": 100 })).await;
    let opened = world.sim(&format!("/payment_intents/{intent}/dispute"), json!({ "amount": 300 })).await;
    world.applied().await;
    assert_eq!(world.wallet(id).await, (950_000, 0, 0, "frozen".to_owned()));
    let dispute = opened["id"].as_str().unwrap();
    world.sim(&format!("/disputes/{dispute}/reinstate"), json!({})).await;
    world.sim(&format!("/disputes/{dispute}/close"), json!({ "status": "won" })).await;
    world.applied().await;
    assert_eq!(world.wallet(id).await, (3_950_000, 0, 0, "active".to_owned()));
    world.assert_clearing_is_stripes().await;
}

/// No webhook comes, nobody asks again: the reconciler ends every attempt within a minute of Stripe's being able to say how.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_webhooks_every_top_up_ends_within_a_minute() {
    let world = World::with("", &format!("{ROUTES}{DEAR}")).await;
    let gateway = world.gateway().await;
    // Lost before the intent is made, after it, before it is confirmed, after it; each for good until Stripe is well again.
    let broken = [
        ("payment_intents.create", json!({ "action": "drop", "execute": false })),
        ("payment_intents.create", json!({ "action": "drop", "execute": true })),
        ("payment_intents.confirm", json!({ "action": "drop", "execute": false })),
        ("payment_intents.confirm", json!({ "action": "drop", "execute": true })),
        ("payment_intents.confirm", json!({ "action": "fail_after", "saved": true })),
        ("payment_intents.confirm", json!({ "action": "unparsable", "execute": true })),
    ];
    let mut attempts = 0;
    for (on, fault) in broken {
        let away = ["payment_intents.retrieve", "payment_intents.cancel", "payment_intents.list"]
            .map(|on| json!({ "on": on, "action": "drop", "execute": false, "times": 1_000_000 }));
        let mut fault = fault;
        fault["on"] = json!(on);
        fault["times"] = json!(1_000_000);
        world.faults(away.into_iter().chain([fault]).collect()).await;
        left_open(&gateway, &world.tokenise(crate::support::GOOD_CARDS[attempts]).await).await;
        world.clear_faults().await;
        attempts += 1;
    }
    left_open(&gateway, &world.tokenise(PROCESSING).await).await;
    finish(&world, "succeeded").await;
    let took = nothing_is_open(&world, "all attempts").await;
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert_eq!(number(&world.database, ENDED).await, i64::try_from(attempts + 1).unwrap());
    let credited = usize::try_from(number(&world.database, CREDITED).await).unwrap();
    assert_eq!(credited, world.succeeded_charges().await.len());
    assert!(credited >= 4, "three whose confirmation was carried out, and the late one: {credited}");
    world.assert_books_agree().await;
}
