//! Signed events about objects that Stripe does not have: tried for 72 hours, then ended, unless the books know the object.

use super::*;
use crate::support::program::until;
use crate::support::{Pay, change, log};

const MINUTE: i64 = 60 * 1_000_000;
const DAYS: i64 = 72 * 60 * MINUTE;
const NO_SUCH: &str = "Stripe has no such object";
const NOT_PROVEN: &str =
    "Stripe has no such object, to a key that is not proven to be of this database's account";
const OF_OURS: &str = "Stripe does not know this object, which the books know; a person must look";

fn refunded(id: &str, intent: &str) -> Value {
    event(id, "charge.refunded", &json!({ "id": "ch_gone", "object": "charge", "payment_intent": intent }))
}

/// Waits until an event has been tried, and answers how that was. It may have been stored before.
async fn tried(gateway: &Gateway<'_>, id: &str) -> (String, String) {
    until("it is tried", async || {
        state(gateway.world, id).await.is_some_and(|(state, _)| state != "received")
    })
    .await;
    state(gateway.world, id).await.unwrap()
}

/// As if it had been missing for so much longer, and were due. Answers how the next try ended.
async fn later(gateway: &Gateway<'_>, id: &str, intent: &str, micros: i64) -> (String, String) {
    let database = &gateway.world.database;
    let sql = "UPDATE stripe_events SET missing_since = missing_since - CAST($1 AS BIGINT), next_try_at = 1 WHERE id = $2";
    assert_eq!(change(database, sql, &[&micros.to_string(), id]).await, 1);
    // Events about one charge are tried one after the other, those that are due for longest first.
    deliver(gateway, &refunded("evt_after", intent)).await;
    tried(gateway, "evt_after").await;
    change(database, "DELETE FROM stripe_events WHERE id = 'evt_after'", &[]).await;
    state(gateway.world, id).await.unwrap()
}

fn parked(why: &str) -> (String, String) {
    ("parked".to_owned(), why.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stripe_has_not_had_for_three_days_ends() {
    let world = world(&[SECRET], "").await;
    let gateway = world.gateway().await;
    gateway.new_client("/api/weather").await;
    for object in ["ch_gone", "re_gone", "dp_gone", "issfr_gone"] {
        let id = format!("evt_{object}").replace("_gone", "");
        let kind =
            if object == "issfr_gone" { "radar.early_fraud_warning.created" } else { "charge.updated" };
        deliver(&gateway, &event(&id, kind, &json!({ "id": object }))).await;
        assert_eq!(tried(&gateway, &id).await, parked(NO_SUCH));
    }
    deliver(&gateway, &refunded("evt_gone", "pi_gone")).await;
    assert_eq!(tried(&gateway, "evt_gone").await, parked(NO_SUCH));
    // How long it has been here says nothing: Stripe may have been away.
    change(&world.database, "UPDATE stripe_events SET received_at = 1", &[]).await;
    assert_eq!(later(&gateway, "evt_gone", "pi_gone", 0).await, parked(NO_SUCH));
    assert_eq!(later(&gateway, "evt_gone", "pi_gone", DAYS - 2 * MINUTE).await, parked(NO_SUCH));
    let ended = ("ignored".to_owned(), "Stripe has had no such object for 72 hours".to_owned());
    assert_eq!(later(&gateway, "evt_gone", "pi_gone", 2 * MINUTE).await, ended);
    gateway.stop().await;
}

/// Before the first charge nothing proves that the key is of the right account.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_ends_before_the_account_is_proven() {
    let world = world(&[SECRET], "").await;
    let gateway = world.gateway().await;
    deliver(&gateway, &refunded("evt_gone", "pi_gone")).await;
    assert_eq!(tried(&gateway, "evt_gone").await, parked(NOT_PROVEN));
    assert_eq!(later(&gateway, "evt_gone", "pi_gone", 2 * DAYS).await, parked(NOT_PROVEN));
    gateway.new_client("/api/weather").await;
    // The three days begin with the first answer that means something.
    assert_eq!(later(&gateway, "evt_gone", "pi_gone", 2 * DAYS).await, parked(NO_SUCH));
    assert_eq!(later(&gateway, "evt_gone", "pi_gone", DAYS).await.0, "ignored");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_books_know_never_ends_and_is_an_alarm() {
    log::listen();
    let world = world(&[SECRET], "").await;
    let gateway = world.gateway().await;
    let client = gateway.new_client("/api/weather").await;
    // The first charge is lost at Stripe; the newest one proves the account.
    change(&world.database, "UPDATE top_ups SET payment_intent = 'pi_lostofours'", &[]).await;
    let card = world.tokenise(crate::support::GOOD_CARDS[1]).await;
    assert_eq!(gateway.pay("/api/weather", &Pay::card(&card)).await.status, 200);
    let unknown = "prepaid402_unknown_objects";
    assert_eq!(metric(&gateway, unknown).await, 0);
    deliver(&gateway, &refunded("evt_ours", "pi_lostofours")).await;
    assert_eq!(tried(&gateway, "evt_ours").await, parked(OF_OURS));
    assert_eq!(metric(&gateway, unknown).await, 1);
    // One that only its metadata tell: the row has never known its PaymentIntent.
    let first = rows(&world.database, "SELECT id FROM top_ups ORDER BY id LIMIT 1").await;
    let metadata = json!({ "prepaid402_top_up": column::<String>(&first[0], 0) });
    let object = json!({ "id": "pi_neverstored", "object": "payment_intent", "metadata": metadata });
    deliver(&gateway, &event("evt_by_name", "payment_intent.succeeded", &object)).await;
    assert_eq!(tried(&gateway, "evt_by_name").await, parked(OF_OURS));
    assert_eq!(metric(&gateway, unknown).await, 2);
    change(&world.database, "DELETE FROM stripe_events WHERE id = 'evt_by_name'", &[]).await;
    for _ in 0..3 {
        assert_eq!(later(&gateway, "evt_ours", "pi_lostofours", 2 * DAYS).await, parked(OF_OURS));
    }
    let said = log::lines_with("Stripe does not know an object that the books know");
    let about_it: Vec<_> = said.iter().filter(|line| line.contains("evt_ours")).collect();
    assert_eq!(about_it.len(), 1, "{about_it:#?}");
    assert!(about_it[0].contains("ERROR"), "{about_it:?}");
    assert!(gateway.balance(&client).await > 0);
    gateway.stop().await;
}
