//! A card with an early fraud warning, or a dispute that is not won, founds no new wallet until an operator has cleared it. It
//! looks like any decline.

use serde_json::{Value, json};

use super::{BEHIND_A_PROXY, GOOD_CARDS, STOLEN, Thief, address, calls, without_request_id, world};
use crate::operator::{Office, Wallet};
use crate::support::http::Answer;
use crate::support::program::until;
use crate::support::{Gateway, Pay, World, change, number};

/// What is tried with a card.
const CARD: &str = GOOD_CARDS[2];

async fn told(world: &World, intent: &str, what: &str, body: Value) -> String {
    let made = world.sim(&format!("/payment_intents/{intent}/{what}"), body).await;
    made["id"].as_str().unwrap().to_owned()
}

async fn is_frozen(world: &World, frozen: bool) {
    until("the freeze is what it should be", async || {
        let sql = "SELECT COUNT(*) FROM freezes WHERE lifted_at IS NULL AND cause <> 'operator'";
        (number(&world.database, sql).await > 0) == frozen
    })
    .await;
}

async fn pay_anew(gateway: &Gateway<'_>, number: &str) -> Answer {
    let card = gateway.world.tokenise(number).await;
    gateway.pay("/api/weather", &Pay::card(&card)).await
}

/// Twice with the same key: the second answer is the first.
async fn buy_anew(gateway: &Gateway<'_>, number: &str) -> Answer {
    let card = gateway.world.tokenise(number).await;
    let body = json!({ "paymentMethodId": card }).to_string();
    let url = format!("{}/billing/top-ups", gateway.url);
    let headers = [("idempotency-key", card.as_str())];
    let buy =
        || gateway.world.client.send("POST", &url, &headers, Some(("application/json", body.as_bytes())));
    let (first, again) = (buy().await, buy().await);
    assert_eq!(first.code(), again.code(), "{}", again.text());
    first
}

/// What Stripe must not be asked for.
async fn asked(world: &World) -> (u64, u64, u64) {
    let made = calls(world, "customers.create").await;
    (made, calls(world, "payment_intents.create").await, calls(world, "payment_intents.confirm").await)
}

async fn wallets(world: &World) -> i64 {
    number(&world.database, "SELECT COUNT(*) FROM clients").await
}

/// At both doors, and looks like a decline.
async fn founds_no_wallet(office: &Office<'_>) {
    let (world, gateway) = (office.world, &office.gateway);
    let declined = [pay_anew(gateway, STOLEN[0]).await, buy_anew(gateway, STOLEN[0]).await];
    let before = (asked(world).await, wallets(world).await);
    let refused = [pay_anew(gateway, CARD).await, buy_anew(gateway, CARD).await];
    assert_eq!((asked(world).await, wallets(world).await), before, "nothing is made at Stripe, nor here");
    for (refused, declined) in refused.iter().zip(&declined) {
        assert_eq!((refused.status, refused.code().as_str()), (402, "card_declined"), "{}", refused.text());
        assert_eq!(without_request_id(refused), without_request_id(declined));
    }
}

async fn founds_a_wallet(office: &Office<'_>) {
    let before = wallets(office.world).await;
    assert_eq!(pay_anew(&office.gateway, CARD).await.status, 200);
    assert_eq!(buy_anew(&office.gateway, CARD).await.status, 201);
    assert_eq!(wallets(office.world).await, before + 2);
}

async fn unfreeze(office: &Office<'_>, wallet: &Wallet) {
    let path = format!("/clients/{}/unfreeze", wallet.public_id);
    assert_eq!(office.ask("POST", &path, &[], None).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_with_a_fraud_warning_founds_no_wallet_until_an_operator_has_cleared_it() {
    let world = World::with_webhooks("").await;
    let office = Office::new(&world).await;
    world.deliver_to(&office.gateway).await;
    let wallet = office.wallet_of(CARD).await;
    founds_a_wallet(&office).await;
    told(&world, &wallet.intent, "fraud_warning", json!({})).await;
    is_frozen(&world, true).await;
    founds_no_wallet(&office).await;
    // Its own wallet says what is the matter; another card is welcome.
    let card = world.tokenise(CARD).await;
    let own = office.gateway.pay("/api/weather", &Pay::client(&wallet.key).with_card(&card)).await;
    assert_eq!((own.status, own.code().as_str()), (403, "client_frozen"), "{}", own.text());
    assert_eq!(pay_anew(&office.gateway, GOOD_CARDS[3]).await.status, 200);
    // The very token that was refused pays once an operator has cleared the card.
    let token = world.tokenise(CARD).await;
    assert_eq!(office.gateway.pay("/api/weather", &Pay::card(&token)).await.code(), "card_declined");
    unfreeze(&office, &wallet).await;
    assert_eq!(office.gateway.pay("/api/weather", &Pay::card(&token)).await.status, 200);
    founds_a_wallet(&office).await;
    world.applied().await;
    office.gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_with_a_dispute_founds_no_wallet_unless_it_was_won_or_cleared() {
    let world = World::with_webhooks("").await;
    let office = Office::new(&world).await;
    world.deliver_to(&office.gateway).await;
    for ends in ["won", "lost", "warning_closed"] {
        let wallet = office.wallet_of(CARD).await;
        let is_inquiry = ends == "warning_closed";
        let dispute = told(&world, &wallet.intent, "dispute", json!({ "inquiry": is_inquiry })).await;
        is_frozen(&world, true).await;
        founds_no_wallet(&office).await;
        if ends == "won" {
            world.sim(&format!("/disputes/{dispute}/reinstate"), json!({})).await;
        }
        world.sim(&format!("/disputes/{dispute}/close"), json!({ "status": ends })).await;
        if ends == "lost" {
            until("it is lost", async || {
                number(&world.database, "SELECT COUNT(*) FROM disputes WHERE status = 'lost'").await == 1
            })
            .await;
            founds_no_wallet(&office).await;
            unfreeze(&office, &wallet).await;
        }
        is_frozen(&world, false).await;
        founds_a_wallet(&office).await;
    }
    world.applied().await;
    office.gateway.stop().await;
}

/// An operator's own freeze says nothing about a card; and a wallet that is there already goes on as it did.
#[tokio::test(flavor = "multi_thread")]
async fn other_freezes_and_other_wallets_are_as_they_were() {
    let world = World::with_webhooks("").await;
    let office = Office::new(&world).await;
    world.deliver_to(&office.gateway).await;
    let (wallet, other) = (office.wallet_of(CARD).await, office.wallet_of(GOOD_CARDS[3]).await);
    let freeze = format!("/clients/{}/freeze", wallet.public_id);
    assert_eq!(office.ask("POST", &freeze, &[], None).await.status, 200);
    founds_a_wallet(&office).await;
    told(&world, &wallet.intent, "fraud_warning", json!({})).await;
    is_frozen(&world, true).await;
    founds_no_wallet(&office).await;
    let card = world.tokenise(CARD).await;
    let url = format!("{}/billing/top-ups", office.gateway.url);
    let body = json!({ "paymentMethodId": card }).to_string();
    let headers = [("idempotency-key", "k"), ("authorization", &*format!("Bearer {}", other.key))];
    let answer = world.client.send("POST", &url, &headers, Some(("application/json", body.as_bytes()))).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    world.applied().await;
    office.gateway.stop().await;
    world.assert_books_agree().await;
}

/// A row that was made again after a backup was put back does not know its card; what Stripe tells of the charge does.
#[tokio::test(flavor = "multi_thread")]
async fn the_card_of_a_charge_whose_row_was_made_again_is_known_from_stripe() {
    let world = World::with_webhooks("").await;
    let office = Office::new(&world).await;
    world.deliver_to(&office.gateway).await;
    let wallet = office.wallet_of(CARD).await;
    world.applied().await;
    change(&world.database, "UPDATE top_ups SET fingerprint = NULL", &[]).await;
    told(&world, &wallet.intent, "fraud_warning", json!({})).await;
    is_frozen(&world, true).await;
    founds_no_wallet(&office).await;
    world.applied().await;
    office.gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_with_a_warning_counts_like_one_that_is_declined_and_not_once_it_is_cleared() {
    let mut world = world(BEHIND_A_PROXY).await;
    world.secrets.insert("STRIPE_WEBHOOK_SECRETS".to_owned(), crate::aftermath::SECRET.to_owned());
    let office = Office::new(&world).await;
    world.deliver_to(&office.gateway).await;
    let wallet = office.wallet_of(CARD).await;
    told(&world, &wallet.intent, "fraud_warning", json!({})).await;
    is_frozen(&world, true).await;
    let thief = Thief::at(&office.gateway);
    let tries = async |number: &str| {
        let mut answers = Vec::new();
        for from in 1..=6 {
            let token = thief.tokenise(number).await;
            let answer = thief.try_token(&token, Some(&address(from)), None).await;
            answers.push((answer.status, without_when(&answer)));
        }
        answers
    };
    assert_eq!(tries(CARD).await, tries(STOLEN[0]).await);
    // Whoever is cleared need not wait.
    unfreeze(&office, &wallet).await;
    let token = thief.tokenise(CARD).await;
    let answer = thief.try_token(&token, Some(&address(9)), None).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    office.gateway.stop().await;
}

/// Neither ids nor seconds.
fn without_when(answer: &Answer) -> String {
    answer.text().replace(answer.header("x-request-id").unwrap(), "ID")
}
