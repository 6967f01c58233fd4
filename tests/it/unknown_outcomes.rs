//! Stripe, or the network before it, fails at every step of a charge; the gateway dies between any two of them. Whatever
//! happens, nobody is told "failed" about a charge that was made, and asking again never charges twice.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::dice::Dice;
use crate::support::http::Answer;
use crate::support::process::{Process, Seat};
use crate::support::{
    DECLINED, GOOD, Gateway, PACKS, Pay, ROUTES, World, change, column, intents, number, rows,
};

pub const PROCESSING: &str = "4000000000004020";
const OPEN: &str = "SELECT COUNT(*) FROM top_ups WHERE state IN ('created', 'confirming', 'pending')";
const DEAR: &str = "\n[[routes]]\npath = \"/api/report\"\nprice = \"1.00\"\n";

/// Everything that can happen to one call, as often as it happens.
fn faults(on: &str) -> Vec<Value> {
    let fault = |action: &str, times: u32, more: Value| {
        let mut fault = json!({ "on": on, "action": action, "times": times });
        fault.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fault
    };
    let executed = |yes: bool| json!({ "execute": yes });
    vec![
        fault("drop", 1, executed(true)),
        fault("drop", 2, executed(false)),
        fault("fail_before", 2, json!({})),
        fault("fail_before", 1, json!({ "saved": true })),
        fault("fail_after", 2, json!({})),
        fault("fail_after", 1, json!({ "saved": true })),
        fault("hang", 1, executed(true)),
        fault("hang", 1, executed(false)),
        fault("rate_limit", 1, json!({})),
        fault("unparsable", 1, executed(true)),
        fault("html_502", 2, executed(true)),
        fault("html_502", 1, executed(false)),
    ]
}

async fn release(world: &World) {
    world.client.post_json(&format!("{}/_sim/release", world.sim.base_url), &json!({})).await;
}

async fn requests(world: &World) -> Value {
    world.client.get(&format!("{}/_sim/requests", world.sim.base_url)).await.json()
}

/// 200, or 503 "ask again": everything else would be a guess.
fn assert_honest(answer: &Answer, fault: &Value) {
    let code = answer.code();
    let honest = match answer.status {
        200 => true,
        503 => ["topup_pending", "busy"].contains(&code.as_str()) && answer.header("retry-after").is_some(),
        _ => false,
    };
    assert!(honest, "{fault}: {} {}", answer.status, answer.text());
}

/// One payer per fault; the same card token again afterwards.
async fn every_fault_at(on: &str) {
    let world = World::new().await;
    let gateway = world.gateway().await;
    for fault in faults(on) {
        let card = world.tokenise(GOOD).await;
        let before = world.succeeded_charges().await.len();
        world.faults(fault.clone()).await;
        let first = gateway.pay("/api/weather", &Pay::card(&card)).await;
        world.clear_faults().await;
        release(&world).await;
        assert_honest(&first, &fault);
        let charged = world.succeeded_charges().await.len() - before;
        println!("{fault}: {} {}, {charged} charged", first.status, first.code());
        assert!(charged <= 1, "{fault}");
        assert!(first.status == 503 || charged == 1, "{fault}: served for nothing");

        let again = gateway.pay("/api/weather", &Pay::card(&card)).await;
        assert_eq!(again.status, 200, "{fault}: {}", again.text());
        assert_eq!(world.succeeded_charges().await.len() - before, 1, "{fault}: one charge");
        let (receipt, told) = (again.receipt(), first.try_receipt());
        let served = if first.status == 200 { 2 } else { 1 };
        assert_eq!(receipt.credits_remaining.unwrap(), 50_000 - 500 * served, "{fault}");
        if charged == 1 {
            let told = told.unwrap_or_else(|| panic!("{fault}: money moved, so the answer names the wallet"));
            assert_eq!(told.client_id, receipt.client_id, "{fault}: the promised clientId");
            let by_key = gateway.pay("/api/weather", &Pay::client(&told.client_id)).await;
            assert_eq!(by_key.status, 200, "{fault}: the promised clientId spends");
        }
        assert_eq!(number(&world.database, OPEN).await, 0, "{fault}: nothing stays open");
    }
    gateway.stop().await;
    world.assert_books_agree().await;
    let loose = unconfirmed(&world).await;
    assert!(loose.is_empty(), "intents that could still be charged: {loose:?}");
}

/// Intents that a confirmation could still charge.
async fn unconfirmed(world: &World) -> Vec<String> {
    intents(&world.books().await)
        .iter()
        .filter(|intent| !["succeeded", "canceled"].contains(&intent["status"].as_str().unwrap()))
        .map(|intent| format!("{} {}", intent["id"], intent["status"]))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_at_reading_the_card() {
    every_fault_at("payment_methods.retrieve").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_at_making_the_customer() {
    every_fault_at("customers.create").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_at_making_the_intent() {
    every_fault_at("payment_intents.create").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_at_the_confirmation() {
    every_fault_at("payment_intents.confirm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decline_whose_cancellation_fails_is_still_a_decline_and_is_cancelled_later() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let faults = faults("payment_intents.cancel");
    for fault in &faults {
        let card = world.tokenise(DECLINED).await;
        world.faults(fault.clone()).await;
        let answer = gateway.pay("/api/weather", &Pay::card(&card)).await;
        world.clear_faults().await;
        release(&world).await;
        assert_eq!((answer.status, answer.code().as_str()), (402, "card_declined"), "{fault}");
        // The same card again finds what the first left, and ends it; its own answer is about itself.
        let answer = gateway.pay("/api/weather", &Pay::card(&card)).await;
        assert_eq!((answer.status, answer.code().as_str()), (402, "card_declined"), "{fault}");
        assert_eq!(number(&world.database, OPEN).await, 0, "{fault}");
    }
    assert!(unconfirmed(&world).await.is_empty());
    assert!(world.succeeded_charges().await.is_empty());
    gateway.stop().await;
    world.assert_books_agree().await;
}

/// The first confirmation is so late that the attempt is being given up when it comes. Stripe decides which of the two was first.
#[tokio::test(flavor = "multi_thread")]
async fn a_charge_that_has_succeeded_before_it_could_be_cancelled_is_credited() {
    let mut world = World::new().await;
    // Nobody but the payer looks at the attempt.
    world.packs = format!("[top_up]\nreconcile_every = \"1h\"\n{PACKS}");
    let gateway = world.gateway().await;
    let card = world.tokenise(GOOD).await;
    let lost = json!({ "on": "payment_intents.confirm", "action": "drop", "execute": false, "times": 1000 });
    world.faults(lost).await;
    let promised = assert_pending(&gateway, &card).await.receipt().client_id;
    world.clear_faults().await;
    let unpaid = intents(&world.books().await);
    assert_eq!((unpaid.len(), &unpaid[0]["status"]), (1, &json!("requires_payment_method")));

    world.faults(json!({ "on": "payment_intents.cancel", "action": "hang", "execute": false })).await;
    let pay = Pay::card(&card);
    let late = async {
        let begun = Instant::now();
        while requests(&world).await["held"] != 1 {
            assert!(begun.elapsed() < Duration::from_secs(30), "nothing is cancelled");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        confirm(&world, unpaid[0]["id"].as_str().unwrap(), &card).await;
        release(&world).await;
    };
    let (answer, ()) = tokio::join!(gateway.pay("/api/weather", &pay), late);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let receipt = answer.receipt();
    assert_eq!((receipt.client_id, receipt.credits_remaining), (promised, Some(49_500)));
    assert_eq!(world.succeeded_charges().await.len(), 1, "nobody pays a second time");
    assert_eq!(newest(&world).await.1, "succeeded");
    gateway.stop().await;
    world.assert_books_agree().await;
}

/// The gateway's confirmation, as Stripe gets it in the end.
async fn confirm(world: &World, intent: &str, card: &str) {
    let form = format!("payment_method={card}&error_on_requires_action=true&setup_future_usage=off_session");
    let bearer = format!("Bearer {}", crate::support::SECRET_KEY);
    let url = format!("{}/v1/payment_intents/{intent}/confirm", world.sim.base_url);
    let body = Some(("application/x-www-form-urlencoded", form.as_bytes()));
    let confirmed = world.client.send("POST", &url, &[("authorization", &bearer)], body).await.json();
    assert_eq!(confirmed["status"], "succeeded", "{confirmed}");
}

// --- The gateway dies between two steps ---------------------------------------------------------------------------

/// Pays with a fresh card while Stripe holds the given call, and kills the gateway there.
async fn die_at(world: &World, seat: &Seat, on: &str, execute: bool) -> String {
    let process = seat.start().await;
    let card = world.tokenise(GOOD).await;
    world.faults(json!({ "on": on, "action": "hang", "execute": execute })).await;
    let (client, url, header) =
        (world.client.clone(), format!("{}/api/weather", process.url), Pay::card(&card).header());
    let caller =
        tokio::spawn(async move { client.try_send("GET", &url, &[("payment", &header)], None).await });
    let begun = Instant::now();
    while requests(world).await["held"] != 1 {
        assert!(begun.elapsed() < Duration::from_secs(30), "Stripe was never asked");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    process.kill().await;
    world.lapse_leases().await;
    assert!(caller.await.unwrap().is_err(), "the caller has no answer");
    // Whoever was held is gone now; what was not to be executed never is.
    let begun = Instant::now();
    while requests(world).await["held"] != 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "the dead gateway's request is still held");
        release(world).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    world.clear_faults().await;
    card
}

/// Starts the gateway and waits until the reconciler has ended every attempt.
async fn recover(world: &World, seat: &Seat) -> Process {
    let process = seat.start().await;
    let begun = Instant::now();
    while number(&world.database, OPEN).await > 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "a top-up stays open:\n{}", process.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    process
}

/// The state of the newest attempt.
async fn newest(world: &World) -> (String, String, Option<String>) {
    let sql = "SELECT id, state, payment_intent FROM top_ups ORDER BY id DESC LIMIT 1";
    let found = &rows(&world.database, sql).await[0];
    (column(found, 0), column(found, 1), column(found, 2))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_any_two_steps_ends_in_credit_or_in_a_cancelled_intent() {
    let mut dice = Dice::printed("crash points");
    let world = World::new().await;
    let seat = Seat::new(&world, &mut dice);
    for (on, execute, before, after) in [
        ("payment_methods.retrieve", false, "created", "failed"),
        ("customers.create", true, "created", "failed"),
        ("payment_intents.create", false, "created", "failed"),
        ("payment_intents.create", true, "created", "failed"),
        ("payment_intents.confirm", false, "confirming", "failed"),
        ("payment_intents.confirm", true, "confirming", "succeeded"),
    ] {
        let at = format!("{on}, executed: {execute}");
        let charges = world.succeeded_charges().await.len();
        let card = die_at(&world, &seat, on, execute).await;
        let (id, state, _) = newest(&world).await;
        assert_eq!(state, before, "{at}");
        let process = recover(&world, &seat).await;
        let (same, state, intent) = newest(&world).await;
        assert_eq!((same.as_str(), state.as_str()), (id.as_str(), after), "{at}");
        assert!(unconfirmed(&world).await.is_empty(), "{at}: {:?}", unconfirmed(&world).await);
        let charged = world.succeeded_charges().await.len() - charges;
        assert_eq!(charged, usize::from(after == "succeeded"), "{at}");
        assert!(after == "failed" || intent.is_some(), "{at}");
        world.assert_books_agree().await;

        // The payer comes again: served from the one charge, made then or now.
        let (url, header) = (format!("{}/api/weather", process.url), Pay::card(&card).header());
        let again = world.client.send("GET", &url, &[("payment", &header)], None).await;
        assert_eq!(again.status, 200, "{at}: {}", again.text());
        assert_eq!(again.receipt().credits_remaining.unwrap(), 49_500, "{at}");
        assert_eq!(world.succeeded_charges().await.len() - charges, 1, "{at}");
        process.kill().await;
    }
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_older_than_stripes_keys_is_never_sent_again() {
    let mut dice = Dice::printed("old attempt");
    let world = World::new().await;
    let seat = Seat::new(&world, &mut dice);
    die_at(&world, &seat, "payment_methods.retrieve", false).await;
    let (id, ..) = newest(&world).await;
    assert_eq!(
        change(
            &world.database,
            "UPDATE top_ups SET created_at = created_at - 86400000000 WHERE id = $1",
            &[&id]
        )
        .await,
        1
    );
    let creations = |requests: &Value| requests["counts"]["payment_intents.create"].as_u64().unwrap_or(0);
    let before = creations(&requests(&world).await);
    let process = recover(&world, &seat).await;
    assert_eq!(newest(&world).await.1, "failed");
    let after = requests(&world).await;
    assert_eq!(creations(&after), before, "its key may have been forgotten, so it would make a new intent");
    assert!(after["counts"]["payment_intents.list"].as_u64().unwrap() > 0, "it is looked for in the list");
    process.kill().await;
    world.assert_books_agree().await;
}

/// A paid PaymentIntent that this gateway did not make.
async fn foreign_intent(world: &World, amount: i64, top_up: &str) -> String {
    let card = world.tokenise(GOOD).await;
    let form = format!(
        "amount={amount}&currency=usd&confirm=true&payment_method={card}&metadata[prepaid402_top_up]={top_up}\
         &automatic_payment_methods[enabled]=true&automatic_payment_methods[allow_redirects]=never"
    );
    let bearer = format!("Bearer {}", crate::support::SECRET_KEY);
    let url = format!("{}/v1/payment_intents", world.sim.base_url);
    let body = Some(("application/x-www-form-urlencoded", form.as_bytes()));
    let made = world.client.send("POST", &url, &[("authorization", &bearer)], body).await.json();
    assert_eq!(made["status"], "succeeded", "{made}");
    made["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_that_is_not_what_the_row_asked_for_credits_nothing() {
    let mut dice = Dice::printed("tampered");
    for (amount, right_row) in [(500, false), (499, true), (5_000, true)] {
        let world = World::new().await;
        let seat = Seat::new(&world, &mut dice);
        die_at(&world, &seat, "payment_intents.confirm", false).await;
        let (id, ..) = newest(&world).await;
        let named = if right_row { id.as_str() } else { "01900000-0000-7000-8000-000000000000" };
        let intent = foreign_intent(&world, amount, named).await;
        assert_eq!(
            change(&world.database, "UPDATE top_ups SET payment_intent = $2 WHERE id = $1", &[&id, &intent])
                .await,
            1
        );
        let process = seat.start().await;
        let begun = Instant::now();
        while !process.log().contains("is not what this top-up asked for") {
            assert!(begun.elapsed() < Duration::from_secs(30), "nobody is told:\n{}", process.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        process.kill().await;
        let state = newest(&world).await.1;
        assert!(["confirming", "pending"].contains(&state.as_str()), "{state}: a person must look");
        assert_eq!(number(&world.database, "SELECT COUNT(*) FROM entries").await, 0);
        assert_eq!(number(&world.database, "SELECT COUNT(*) FROM clients").await, 0);
    }
}

// --- Outcomes that come later -------------------------------------------------------------------------------------

pub async fn finish(world: &World, outcome: &str) {
    let books = world.books().await;
    let waiting: Vec<_> =
        intents(&books).into_iter().filter(|intent| intent["status"] == "processing").collect();
    assert_eq!(waiting.len(), 1, "{books}");
    let id = waiting[0]["id"].as_str().unwrap();
    let url = format!("{}/_sim/payment_intents/{id}/finish", world.sim.base_url);
    let answer = world.client.post_json(&url, &json!({ "outcome": outcome })).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

async fn assert_pending(gateway: &Gateway<'_>, card: &str) -> Answer {
    let answer = gateway.pay("/api/weather", &Pay::card(card)).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "topup_pending"), "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_that_stripe_is_still_working_on_is_pending_until_it_is_known() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let card = world.tokenise(PROCESSING).await;
    let promised = assert_pending(&gateway, &card).await.receipt().client_id;
    // However often the payer asks: the same attempt, the same promise, no second intent.
    for _ in 0..3 {
        assert_eq!(assert_pending(&gateway, &card).await.receipt().client_id, promised);
    }
    let by_key = gateway.pay("/api/weather", &Pay::client(&promised)).await;
    assert_eq!((by_key.status, by_key.code().as_str()), (503, "topup_pending"));
    assert_eq!(intents(&world.books().await).len(), 1);
    finish(&world, "succeeded").await;
    let paid = gateway.pay("/api/weather", &Pay::card(&card)).await;
    assert_eq!(paid.status, 200, "{}", paid.text());
    assert_eq!(paid.receipt().client_id, promised);
    assert_eq!(paid.receipt().credits_remaining.unwrap(), 49_500);
    assert_eq!(
        gateway.pay("/api/weather", &Pay::client(&promised)).await.receipt().credits_remaining.unwrap(),
        49_000
    );
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promised_key_is_never_unknown_while_its_charge_becomes_credit() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    for _ in 0..20 {
        let card = world.tokenise(PROCESSING).await;
        let promised = assert_pending(&gateway, &card).await.receipt().client_id;
        let pay = Pay::client(&promised);
        let asking = futures_util::future::join_all((0..8).map(async |_| {
            loop {
                let answer = gateway.pay("/api/joke", &pay).await;
                match (answer.status, answer.code().as_str()) {
                    (200, _) => return,
                    (503, "topup_pending") => {}
                    _ => panic!("told to pay again: {}", answer.text()),
                }
            }
        }));
        let crediting = async {
            finish(&world, "succeeded").await;
            gateway.pay("/api/joke", &Pay::card(&card)).await
        };
        let ((), credited) = tokio::join!(async { drop(asking.await) }, crediting);
        assert_eq!(credited.status, 200, "{}", credited.text());
    }
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_that_fails_later_credits_nothing_and_the_same_token_can_pay_again() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let card = world.tokenise(PROCESSING).await;
    assert_pending(&gateway, &card).await;
    finish(&world, "failed").await;
    // Stripe keeps the token with the failed attempt's customer; the next attempt of the same token uses that customer.
    assert_pending(&gateway, &card).await;
    assert!(world.succeeded_charges().await.is_empty());
    let failed = "SELECT COUNT(*) FROM top_ups WHERE state = 'failed'";
    assert_eq!(number(&world.database, failed).await, 1);
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM entries").await, 0);
    finish(&world, "succeeded").await;
    assert_eq!(gateway.pay("/api/weather", &Pay::card(&card)).await.status, 200);
    assert_eq!(world.succeeded_charges().await.len(), 1);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_client_id_a_card_token_is_charged_three_times_a_day_at_most() {
    let world = World::with("", &format!("{ROUTES}{DEAR}")).await;
    let gateway = world.gateway().await;
    let card = world.tokenise(GOOD).await;
    let mut client = String::new();
    for charge in 1..=3 {
        for _ in 0..5 {
            let answer = gateway.pay("/api/report", &Pay::card(&card)).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            client = answer.receipt().client_id;
        }
        assert_eq!(world.succeeded_charges().await.len(), charge);
    }
    let fourth = gateway.pay("/api/report", &Pay::card(&card)).await;
    assert_eq!((fourth.status, fourth.code().as_str()), (429, "too_many_attempts"), "{}", fourth.text());
    assert!(fourth.header("retry-after").is_some());
    assert_eq!(world.succeeded_charges().await.len(), 3);
    // Whoever holds the clientId is not limited by this.
    let answer = gateway.pay("/api/report", &Pay::client(&client).with_card(&card)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(world.succeeded_charges().await.len(), 4);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_whose_attempt_was_given_up_can_still_buy_once() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let card = world.tokenise(GOOD).await;
    let body = json!({ "paymentMethodId": card }).to_string();
    let order = || async {
        let url = format!("{}/billing/top-ups", gateway.url);
        let body = Some(("application/json", body.as_bytes()));
        world.client.send("POST", &url, &[("idempotency-key", "one-order")], body).await
    };
    for on in ["customers.create", "payment_intents.create"] {
        world.faults(json!({ "on": on, "action": "fail_before", "saved": true })).await;
        let refused = order().await;
        assert_eq!(refused.status, 503, "{}", refused.text());
    }
    let bought = order().await;
    assert_eq!(bought.status, 201, "asked to ask again, so asking again must help: {}", bought.text());
    for _ in 0..3 {
        let again = order().await;
        assert_eq!(again.status, 200, "{}", again.text());
        assert_eq!(again.json()["idempotentReplay"], true);
        assert_eq!(again.receipt().client_id, bought.receipt().client_id);
    }
    assert_eq!(world.succeeded_charges().await.len(), 1);
    gateway.stop().await;
    world.assert_books_agree().await;
}
