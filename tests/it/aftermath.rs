//! What becomes of a charge afterwards — refunds, disputes, fraud warnings — comes into our books, by webhooks in whatever order
//! or, without them, because the gateway asks. Afterwards the books are Stripe's.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::callers::{Crowd, DEAR, Notes, check_books, settled};
use crate::support::dice::Dice;
use crate::support::effort::{many, rounds};
use crate::support::process::Seat;
use crate::support::program::until;
use crate::support::{Gateway, Pay, ROUTES, World, column, number, rows, verify};

pub const SECRET: &str = "whsec_0123456789abcdefghijklmnopqrstuv";
const OPEN_EVENTS: &str = "SELECT COUNT(*) FROM stripe_events WHERE state IN ('received', 'parked')";

impl World {
    /// Tells the simulated Stripe something that it must understand.
    pub async fn sim(&self, path: &str, body: Value) -> Value {
        let answer = self.client.post_json(&format!("{}/_sim{path}", self.sim.base_url), &body).await;
        assert!(answer.status < 300, "{path}: {}", answer.text());
        answer.json()
    }

    pub async fn with_webhooks(extra: &str) -> Self {
        let mut world = Self::with(extra, &format!("{ROUTES}{DEAR}")).await;
        world.secrets.insert("STRIPE_WEBHOOK_SECRETS".to_owned(), SECRET.to_owned());
        world
    }

    pub async fn deliver_to(&self, gateway: &Gateway<'_>) {
        let url = format!("{}/webhooks/stripe", gateway.url);
        self.sim("/webhook_endpoints", json!({ "url": url, "secrets": [SECRET] })).await;
    }

    /// The PaymentIntent of a client's only top-up, and the client's number.
    pub async fn intent_of(&self, client: &str) -> (String, i64) {
        let hash = prepaid402::domain::ClientKey::parse(client).unwrap().hash();
        let keys = rows(&self.database, "SELECT hash, client FROM client_keys").await;
        let found = keys.iter().find(|row| column::<Vec<u8>>(row, 0) == hash.as_bytes()).unwrap();
        let number: i64 = column(found, 1);
        let charges = rows(
            &self.database,
            "SELECT client, payment_intent FROM top_ups WHERE client IS NOT NULL ORDER BY id",
        )
        .await;
        let charge = charges.iter().find(|row| column::<i64>(row, 0) == number).unwrap();
        (column(charge, 1), number)
    }

    pub async fn wallet(&self, client: i64) -> (i64, i64, i64, String) {
        let clients = rows(&self.database, "SELECT id, paid, bonus, debt, status FROM clients").await;
        let row = clients.iter().find(|row| column::<i64>(row, 0) == client).unwrap();
        (column(row, 1), column(row, 2), column(row, 3), column(row, 4))
    }

    /// Everything that Stripe has to deliver has come, and has been applied.
    pub async fn applied(&self) {
        until("nothing is on its way", async || {
            let url = format!("{}/_sim/webhooks", self.sim.base_url);
            let overview = self.client.get(&url).await.json();
            let endpoints = overview["webhook_endpoints"].as_array().unwrap();
            let is_pending = endpoints.iter().any(|row| !row["pending"].as_array().unwrap().is_empty());
            !is_pending && overview["running"] == 0
        })
        .await;
        until("all events are applied", async || number(&self.database, OPEN_EVENTS).await == 0).await;
    }

    /// Stripe's cents less its refunds and what disputes hold are what our clearing account has, fees aside.
    pub async fn assert_clearing_is_stripes(&self) {
        let report = verify(&self.database).await;
        assert!(report.is_clean(), "{:#?}", report.findings);
        let net = self.books().await["totals"]["usd"]["net"].as_i64().unwrap();
        let clearing = report
            .trial_balance
            .iter()
            .find(|(_, account, _)| account.name() == "stripe_clearing")
            .map_or(0, |line| line.2);
        assert_eq!(clearing, i128::from(net) * 10_000, "our clearing account is Stripe's balance");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_at_the_dashboard_takes_its_credit_back_and_what_is_spent_is_owed() {
    let world = World::with_webhooks("").await;
    let gateway = world.gateway().await;
    world.deliver_to(&gateway).await;
    let client = gateway.new_client("/api/weather").await;
    let (intent, number) = world.intent_of(&client).await;
    world.applied().await;

    world.sim("/refunds", json!({ "payment_intent": intent, "amount": 200 })).await;
    until("the refund is booked", async || world.wallet(number).await.0 == 2_950_000).await;
    assert_eq!(gateway.balance(&client).await, 29_500);
    assert_eq!(gateway.pay("/api/weather", &Pay::client(&client)).await.status, 200);

    // The rest, of which ten cents are spent.
    world.sim("/refunds", json!({ "payment_intent": intent })).await;
    until("the rest is booked", async || world.wallet(number).await.0 == 0).await;
    assert_eq!(world.wallet(number).await, (0, 0, 100_000, "active".to_owned()));
    let refused = gateway.pay("/api/weather", &Pay::client(&client)).await;
    assert_ne!(refused.status, 200, "what is owed comes first");
    world.applied().await;
    world.assert_clearing_is_stripes().await;

    // The next top-up repays it.
    let card = world.tokenise("5555555555554444").await;
    let paid = gateway.pay("/api/weather", &Pay::client(&client).with_card(&card)).await;
    assert_eq!((paid.status, paid.receipt().credits_remaining.unwrap()), (200, 50_000 - 1_000 - 500));
    world.applied().await;
    world.assert_clearing_is_stripes().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_that_fails_after_all_gives_the_credit_back() {
    let world = World::with_webhooks("").await;
    let gateway = world.gateway().await;
    world.deliver_to(&gateway).await;
    let client = gateway.new_client("/api/weather").await;
    let (intent, number) = world.intent_of(&client).await;
    let refund = world.sim("/refunds", json!({ "payment_intent": intent, "amount": 495 })).await;
    until("the refund is booked", async || world.wallet(number).await.0 == 0).await;
    let id = refund["id"].as_str().unwrap();
    world.sim(&format!("/refunds/{id}/finish"), json!({ "outcome": "failed" })).await;
    until("it is back", async || world.wallet(number).await.0 == 4_950_000).await;
    assert_eq!(gateway.pay("/api/weather", &Pay::client(&client)).await.status, 200);
    world.applied().await;
    world.assert_clearing_is_stripes().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dispute_freezes_and_takes_and_gives_everything_back_when_it_is_won() {
    let world = World::with_webhooks("").await;
    let gateway = world.gateway().await;
    world.deliver_to(&gateway).await;
    for is_won in [true, false] {
        let client = gateway.new_client("/api/weather").await;
        let (intent, number) = world.intent_of(&client).await;
        let opened =
            world.sim(&format!("/payment_intents/{intent}/dispute"), json!({ "withdraw": false })).await;
        let id = opened["id"].as_str().unwrap().to_owned();
        until("the client is frozen", async || world.wallet(number).await.3 == "frozen").await;
        assert_eq!(world.wallet(number).await.0, 4_950_000, "nothing is taken before Stripe takes it");
        let refused = gateway.pay("/api/weather", &Pay::client(&client)).await;
        assert_eq!((refused.status, refused.code().as_str()), (403, "client_frozen"));

        world.sim(&format!("/disputes/{id}/withdraw"), json!({})).await;
        until("it is taken", async || world.wallet(number).await.0 == 0).await;
        assert_eq!(world.wallet(number).await, (0, 0, 50_000, "frozen".to_owned()));
        if is_won {
            world.sim(&format!("/disputes/{id}/reinstate"), json!({})).await;
            world.sim(&format!("/disputes/{id}/close"), json!({ "status": "won" })).await;
            until("it is back", async || world.wallet(number).await.3 == "active").await;
            until("it is back", async || world.wallet(number).await.0 == 4_950_000).await;
            assert_eq!(gateway.pay("/api/weather", &Pay::client(&client)).await.status, 200);
        } else {
            world.sim(&format!("/disputes/{id}/close"), json!({ "status": "lost" })).await;
            world.applied().await;
            let lost = rows(&world.database, "SELECT 1 FROM disputes WHERE status = 'lost'").await;
            assert_eq!(lost.len(), 1);
            assert_eq!(world.wallet(number).await, (0, 0, 50_000, "frozen".to_owned()));
        }
        world.applied().await;
        world.assert_clearing_is_stripes().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fraud_warning_freezes_and_refunds_once_if_that_is_wanted() {
    for wanted in [false, true] {
        let mut world = World::with_webhooks("").await;
        world.packs = format!("[top_up]\nrefund_on_fraud_warning = {wanted}\nminimum = \"5.00\"\n");
        let gateway = world.gateway().await;
        world.deliver_to(&gateway).await;
        let client = gateway.new_client("/api/weather").await;
        let (intent, number) = world.intent_of(&client).await;
        world.sim(&format!("/payment_intents/{intent}/fraud_warning"), json!({})).await;
        until("the client is frozen", async || world.wallet(number).await.3 == "frozen").await;
        if wanted {
            until("it is refunded", async || {
                rows(&world.database, "SELECT 1 FROM refunds WHERE state = 'succeeded'").await.len() == 1
            })
            .await;
        }
        world.applied().await;
        let books = world.books().await;
        assert_eq!(books["refunds"].as_array().unwrap().len(), usize::from(wanted));
        assert_eq!(world.wallet(number).await.2, if wanted { 50_000 } else { 0 });
        world.assert_clearing_is_stripes().await;
    }
}

/// Everything that happens to charges comes in without a single webhook.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_webhooks_the_gateway_asks() {
    let world = World::with("[webhooks]\npoll_every = \"5s\"\n", &format!("{ROUTES}{DEAR}")).await;
    let gateway = world.gateway().await;
    let client = gateway.new_client("/api/weather").await;
    let (intent, number) = world.intent_of(&client).await;
    world.sim("/refunds", json!({ "payment_intent": intent, "amount": 100 })).await;
    let opened = world.sim(&format!("/payment_intents/{intent}/dispute"), json!({ "amount": 300 })).await;
    until("it is asked for", async || {
        let (paid, _, _, status) = world.wallet(number).await;
        (paid, status.as_str()) == (950_000, "frozen")
    })
    .await;
    let id = opened["id"].as_str().unwrap();
    world.sim(&format!("/disputes/{id}/reinstate"), json!({})).await;
    world.sim(&format!("/disputes/{id}/close"), json!({ "status": "won" })).await;
    until("it is asked for again", async || {
        let (paid, _, _, status) = world.wallet(number).await;
        (paid, status.as_str()) == (3_950_000, "active")
    })
    .await;
    world.applied().await;
    world.assert_clearing_is_stripes().await;
    assert_eq!(gateway.pay("/api/weather", &Pay::client(&client)).await.status, 200);
}

/// Every event of one charge in random orders, some twice: one final state. (All orders are tried on the ledger itself.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_in_any_order_and_twice_end_in_one_state() {
    let mut dice = Dice::printed("events in any order");
    let world = World::with_webhooks("").await;
    let gateway = world.gateway().await;
    world.deliver_to(&gateway).await;
    world.sim("/webhooks/hold", json!({})).await;
    let mut seen: Vec<String> = Vec::new();
    for round in rounds(8) {
        let client = gateway.new_client("/api/weather").await;
        let (intent, number) = world.intent_of(&client).await;
        world.sim("/refunds", json!({ "payment_intent": intent, "amount": 100 })).await;
        let opened = world.sim(&format!("/payment_intents/{intent}/dispute"), json!({ "amount": 200 })).await;
        let id = opened["id"].as_str().unwrap();
        world.sim(&format!("/disputes/{id}/reinstate"), json!({})).await;
        world.sim(&format!("/disputes/{id}/close"), json!({ "status": "won" })).await;
        world.sim("/refunds", json!({ "payment_intent": intent })).await;
        let events = world.events().await;
        let mut fresh: Vec<String> = events.into_iter().filter(|id| !seen.contains(id)).collect();
        seen.extend(fresh.iter().cloned());
        for index in (1..fresh.len()).rev() {
            fresh.swap(index, usize::try_from(dice.below(index as u64 + 1)).unwrap());
        }
        let again = dice.pick(fresh.as_slice()).clone();
        fresh.insert(0, again);
        let delivered = world.sim("/webhooks/deliver", json!({ "events": fresh })).await;
        assert!(delivered["statuses"].as_array().unwrap().iter().all(|status| *status == 200), "{delivered}");
        world.applied().await;
        assert_eq!(
            world.wallet(number).await,
            (0, 0, 50_000, "active".to_owned()),
            "round {round}: {fresh:?}"
        );
    }
    world.assert_clearing_is_stripes().await;
}

impl World {
    /// The ids of all events, newest first.
    async fn events(&self) -> Vec<String> {
        let mut found = Vec::new();
        loop {
            let after =
                found.last().map_or_else(String::new, |last: &String| format!("&starting_after={last}"));
            let url = format!("{}/v1/events?limit=100{after}", self.sim.base_url);
            let authorization = format!("Bearer {}", crate::support::SECRET_KEY);
            let page = self.client.send("GET", &url, &[("authorization", &authorization)], None).await.json();
            let data = page["data"].as_array().unwrap();
            found.extend(data.iter().map(|event| event["id"].as_str().unwrap().to_owned()));
            if page["has_more"] != true {
                return found;
            }
        }
    }
}

/// 30 % of all calls to Stripe go wrong in every way there is, under load: nobody is told "failed" about a charge that was
/// made, and afterwards the books agree.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stripe_fails_a_third_of_the_time_and_no_charge_is_called_failed() {
    let mut dice = Dice::printed("a third of Stripe's answers fail");
    let world = Arc::new(World::with_webhooks("[webhooks]\npoll_every = \"5s\"\n").await);
    let seat = Seat::new(&world, &mut dice);
    let process = seat.start().await;
    let url = format!("{}/webhooks/stripe", process.url);
    world.sim("/webhook_endpoints", json!({ "url": url, "secrets": [SECRET] })).await;
    let actions = [
        json!({ "action": "drop", "execute": true }),
        json!({ "action": "drop", "execute": false }),
        json!({ "action": "fail_before" }),
        json!({ "action": "fail_after" }),
        json!({ "action": "fail_after", "saved": true }),
        json!({ "action": "rate_limit" }),
        json!({ "action": "unparsable", "execute": true }),
        json!({ "action": "html_502", "execute": true }),
    ];
    // All calls of the gateway; those of the callers, with the publishable key, are none of its business.
    let calls = [
        "payment_methods.retrieve",
        "customers.create",
        "payment_intents.create",
        "payment_intents.confirm",
        "payment_intents.cancel",
        "payment_intents.retrieve",
        "payment_intents.list",
    ];
    let mut faults = Vec::new();
    for (call, action) in calls.iter().flat_map(|call| actions.iter().map(move |action| (call, action))) {
        // Eight of four in a hundred each: about three in ten.
        let mut fault = action.clone();
        fault["on"] = json!(call);
        fault["times"] = json!(1_000_000);
        fault["probability_percent"] = json!(4);
        fault["seed"] = json!(dice.below(1_000_000));
        faults.push(fault);
    }
    world.faults(json!(faults)).await;
    let notes = Arc::new(Mutex::new(Notes::default()));
    let crowd = Crowd::gather(&world, &notes, &process.url, 0, &mut dice);
    // Not a wait for anything: how long it goes wrong.
    tokio::time::sleep(Duration::from_secs(many(10, 120) as u64)).await;
    crowd.leave().await;
    world.clear_faults().await;
    settled(&world, 1, || process.log()).await;
    world.applied().await;
    let notes = Arc::into_inner(notes).unwrap().into_inner().unwrap();
    println!("answers: {:?}; broken: {}", notes.statuses, notes.broken);
    assert!(!notes.served.is_empty());
    check_books(&world, &notes, 0).await;
    world.assert_clearing_is_stripes().await;
}
