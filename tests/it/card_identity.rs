//! `identity = "card"`: a new token of the card that has founded a wallet leads there, once the bank has confirmed the card; and
//! nothing else does.

mod attacks;
mod doors;
mod known;
mod refused;
mod unknown_ids;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::http::Answer;
use crate::support::{DECLINED, GOOD, Gateway, Pay, World, change, number};

/// Its SetupIntents succeed with a failed CVC check.
const WRONG_CVC: &str = "4000000000000101";
/// Their banks do not look at the CVC.
const UNAVAILABLE: &str = "4000000000004038";
const UNCHECKED: &str = "4000000000004046";
/// Asks its cardholder, at a SetupIntent as well as at a charge.
const ASKS: &str = "4000002760003184";
/// Its bank takes its time.
const PROCESSING: &str = "4000000000004020";
/// Another card that pays.
const OTHER: &str = "5555555555554444";

const WALLETS: &str = "SELECT COUNT(*) FROM clients";
const CHECKS: &str = "SELECT COUNT(*) FROM card_checks";
const OPEN_CHECKS: &str = "SELECT COUNT(*) FROM card_checks WHERE state = 'asked'";

async fn world() -> World {
    let mut world = World::new().await;
    world.identity = "card";
    world
}

/// From now on a number's CVC is this one, and the bank says so of any other.
async fn set_cvc(world: &World, number: &str, cvc: &str) {
    let body = json!({ "number": number, "cvc": cvc });
    let answer = world.client.post_json(&format!("{}/_sim/cvc", world.sim.base_url), &body).await;
    assert!(answer.status < 300, "{}", answer.text());
}

/// As if so many seconds had passed for what has been charged and checked.
async fn pass(world: &World, seconds: i64) {
    let micros = (seconds * 1_000_000).to_string();
    for sql in [
        "UPDATE top_ups SET created_at = created_at - CAST($1 AS BIGINT), updated_at = updated_at - CAST($1 AS BIGINT)",
        "UPDATE card_checks SET asked_at = asked_at - CAST($1 AS BIGINT)",
    ] {
        change(&world.database, sql, &[&micros]).await;
    }
}

const ELEVEN_MINUTES: i64 = 660;
const DAY: i64 = 24 * 3_600;

async fn pay(gateway: &Gateway<'_>, token: &str) -> Answer {
    gateway.pay("/api/weather", &Pay::card(token)).await
}

/// With an `Idempotency-Key`.
async fn pay_under(gateway: &Gateway<'_>, pay: Pay, key: &str) -> Answer {
    let header = pay.header();
    let url = format!("{}/api/weather", gateway.url);
    gateway.world.client.send("GET", &url, &[("payment", &header), ("idempotency-key", key)], None).await
}

/// The same without, again and again while it is told to come again: on a busy machine, others are waited for in vain now and then.
async fn pay_in_the_end(gateway: &Gateway<'_>, token: &str) -> Answer {
    loop {
        let answer = pay(gateway, token).await;
        if answer.status != 503 {
            return answer;
        }
        let code = answer.code();
        assert!(["busy", "card_check_pending"].contains(&code.as_str()), "{}", answer.text());
        assert_eq!(answer.header("x-should-retry"), Some("true"));
    }
}

/// A wallet, founded by a card: the owner key.
async fn found(gateway: &Gateway<'_>, number: &str) -> String {
    let answer = pay(gateway, &gateway.world.tokenise_with(number, Some("123")).await).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.receipt().client_id
}

/// Pays with a new token of a card, with its CVC.
async fn pay_anew(gateway: &Gateway<'_>, number: &str) -> Answer {
    pay(gateway, &gateway.world.tokenise_with(number, Some("123")).await).await
}

fn assert_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{}", answer.text());
}

/// Everything of a refusal but for the request's own id.
fn shape(answer: &Answer) -> (u16, Value, BTreeSet<(String, String)>) {
    let mut body = answer.json();
    for own in ["requestId", "instance"] {
        body.as_object_mut().unwrap().remove(own);
    }
    let headers = answer
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    let headers = headers.filter(|(name, _)| !["date", "x-request-id"].contains(&name.as_str())).collect();
    (answer.status, body, headers)
}

async fn charges(world: &World) -> usize {
    world.succeeded_charges().await.len()
}

async fn setup_intents(world: &World) -> i64 {
    world.stripe_calls().await.get("setup_intents.create").copied().unwrap_or(0)
}

async fn key_of(gateway: &Gateway<'_>, key: &str) -> Value {
    let bearer = format!("Bearer {key}");
    let url = format!("{}/billing/balance", gateway.url);
    let answer = gateway.world.client.send("GET", &url, &[("authorization", &bearer)], None).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}
