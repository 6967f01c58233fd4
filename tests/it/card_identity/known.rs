//! Who knows the card is led to its wallet.

use futures_util::future::join_all;
use prepaid402::domain::SecretHash;

use super::*;
use crate::support::{SECRET_KEY, column, rows};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_of_the_founding_card_spends_from_its_wallet_with_a_key_of_its_own() {
    let world = world().await;
    let gateway = world.gateway().await;
    let owner = found(&gateway, GOOD).await;
    assert_eq!(setup_intents(&world).await, 0, "nobody's card is looked at without a wallet");
    let token = world.tokenise_with(GOOD, Some("123")).await;
    let (mut keys, mut left) = (BTreeSet::from([owner.clone()]), 49_500);
    for _ in 0..3 {
        let answer = pay(&gateway, &token).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let receipt = answer.receipt();
        left -= 500;
        assert_eq!(
            (receipt.credits_remaining.unwrap(), receipt.charge_id, receipt.notice),
            (left, None, None)
        );
        keys.insert(receipt.client_id);
    }
    assert_eq!(keys.len(), 2, "one key for one token");
    for _ in 0..2 {
        let answer = pay_anew(&gateway, GOOD).await;
        left -= 500;
        assert_eq!(answer.receipt().credits_remaining.unwrap(), left);
        keys.insert(answer.receipt().client_id);
    }
    assert_eq!((keys.len(), charges(&world).await, number(&world.database, WALLETS).await), (4, 1, 1));
    assert_eq!(setup_intents(&world).await, 3, "one for each token");
    assert_eq!(number(&world.database, OPEN_CHECKS).await, 0);
    let attempts = "SELECT (SELECT COUNT(*) FROM top_ups) + (SELECT COUNT(*) FROM charge_attempts)";
    assert_eq!(number(&world.database, attempts).await, 2, "what charged nothing is no top-up");

    // The keys are of the narrower kind, spend, and can be revoked one by one.
    let scopes = rows(&world.database, "SELECT hash, scope FROM client_keys").await;
    for row in &scopes {
        let (hash, scope): (Vec<u8>, String) = (column(row, 0), column(row, 1));
        let is_owner = hash == SecretHash::of(&owner).as_bytes();
        assert_eq!(scope == "owner", is_owner, "{scope}");
    }
    let spend = keys.iter().find(|key| **key != owner).unwrap();
    assert_eq!(key_of(&gateway, spend).await["balance"], left);
    assert_eq!(gateway.pay("/api/weather", &Pay::client(spend)).await.status, 200);
    gateway.stop().await;

    // A wallet's tokens and keys are there after a restart.
    let gateway = world.gateway().await;
    assert_eq!(pay(&gateway, &token).await.receipt().credits_remaining.unwrap(), left - 1_000);
    assert_eq!(setup_intents(&world).await, 3);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_attached_to_nobody_and_tops_its_wallet_up_later() {
    let world = world().await;
    let gateway = world.gateway().await;
    let owner = found(&gateway, GOOD).await;
    let token = world.tokenise_with(GOOD, Some("123")).await;
    assert_eq!(pay(&gateway, &token).await.status, 200);
    let (url, secret) =
        (format!("{}/v1/payment_methods/{token}", world.sim.base_url), format!("Bearer {SECRET_KEY}"));
    let method = world.client.send("GET", &url, &[("authorization", &secret)], None).await.json();
    assert_eq!((&method["id"], &method["customer"]), (&json!(token), &Value::Null), "{method}");
    while gateway.pay("/api/weather", &Pay::client(&owner)).await.status == 200 {}
    let answer = pay(&gateway, &token).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!((charges(&world).await, number(&world.database, WALLETS).await), (2, 1));
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_requests_with_one_new_token_are_one_check_and_so_are_many_tokens_one_after_the_other() {
    let world = world().await;
    let gateway = world.gateway().await;
    found(&gateway, GOOD).await;
    let token = world.tokenise_with(GOOD, Some("123")).await;
    let answers = join_all((0..50).map(|_| pay(&gateway, &token))).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{}", answers[0].text());
    assert_eq!((setup_intents(&world).await, charges(&world).await), (1, 1));
    // Different tokens at the same moment wait for each other.
    let tokens = join_all((0..5).map(|_| world.tokenise_with(GOOD, Some("123")))).await;
    let answers = join_all(tokens.iter().map(|token| pay_in_the_end(&gateway, token))).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{}", answers[0].text());
    assert_eq!((setup_intents(&world).await, charges(&world).await), (6, 1));
    gateway.stop().await;
    world.assert_books_agree().await;
}

/// What a job does that starts several programs at once; with the limits as they come, none of them shuts the others out.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_card_that_nobody_knows_yet_pay_once_when_they_come_at_once() {
    let mut world = world().await;
    world.shield = String::new();
    let gateway = world.gateway().await;
    let tokens = join_all((0..7).map(|_| world.tokenise_with(GOOD, Some("123")))).await;
    // Of one network, a few new payers are looked at at a time; the others come again.
    let served = async |token: &String| pay_in_the_end(&gateway, token).await;
    for answer in join_all(tokens.iter().map(served)).await {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!((charges(&world).await, number(&world.database, WALLETS).await), (1, 1));
    assert_eq!(pay_anew(&gateway, OTHER).await.status, 200, "nobody else is shut out");
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_repeats_the_request_that_an_idempotency_key_has_made() {
    let world = world().await;
    let gateway = world.gateway().await;
    let ask = async |token: String, key: &str| pay_under(&gateway, Pay::card(&token), key).await;
    let first = ask(world.tokenise_with(GOOD, Some("123")).await, "one").await;
    assert_eq!(first.status, 200, "{}", first.text());
    for _ in 0..2 {
        let again = ask(world.tokenise_with(GOOD, Some("123")).await, "one").await;
        assert_eq!((again.status, again.text()), (200, first.text()));
        let receipt = again.receipt();
        assert_eq!((receipt.idempotent_replay, receipt.credits_remaining.unwrap()), (Some(true), 49_500));
        assert_ne!(receipt.client_id, first.receipt().client_id);
    }
    let other = ask(world.tokenise_with(GOOD, Some("123")).await, "two").await;
    assert_eq!(other.receipt().credits_remaining.unwrap(), 49_000);
    assert_eq!(charges(&world).await, 1);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_used_in_an_older_wallet_of_the_card_leads_to_that_one() {
    let world = world().await;
    let gateway = world.gateway().await;
    let ask = async |token: String, key: &str, new_wallet: bool| {
        let pay = Pay::card(&token);
        pay_under(&gateway, if new_wallet { pay.new_wallet() } else { pay }, key).await
    };
    let token = async || world.tokenise_with(GOOD, Some("123")).await;
    let first = ask(token().await, "one", false).await;
    let second = ask(token().await, "two", true).await;
    assert_eq!((first.status, second.status, charges(&world).await), (200, 200, 2));
    let again = ask(token().await, "one", false).await;
    assert_eq!((again.status, again.text()), (200, first.text()));
    assert_eq!(again.receipt().idempotent_replay, Some(true));
    // However little is left in it.
    let owner = Pay::client(&first.receipt().client_id);
    while gateway.pay("/api/weather", &owner).await.status == 200 {}
    let again = ask(token().await, "one", false).await;
    assert_eq!((again.status, again.receipt().idempotent_replay), (200, Some(true)), "{}", again.text());
    let other = ask(token().await, "three", false).await.receipt();
    assert_eq!(other.credits_remaining, Some(49_000), "the newer one");
    assert_eq!(charges(&world).await, 2);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_wallets_the_newest_with_enough_credit_is_led_to() {
    let world = world().await;
    let gateway = world.gateway().await;
    let first = found(&gateway, GOOD).await;
    let token = world.tokenise_with(GOOD, Some("123")).await;
    let second = gateway.pay("/api/weather", &Pay::card(&token).new_wallet()).await;
    assert_eq!(second.status, 200, "{}", second.text());
    let second = second.receipt().client_id;
    assert_eq!((charges(&world).await, setup_intents(&world).await), (2, 0), "a new wallet was asked for");
    let empty = async |key: &str| {
        let bearer = Pay::client(key);
        while gateway.pay("/api/weather", &bearer).await.status == 200 {}
    };
    assert_eq!(pay_anew(&gateway, GOOD).await.receipt().credits_remaining.unwrap(), 49_000);
    assert_eq!(key_of(&gateway, &first).await["balance"], 49_500, "the older one is left");
    empty(&second).await;
    assert_eq!(
        pay_anew(&gateway, GOOD).await.receipt().credits_remaining.unwrap(),
        49_000,
        "now it is the older one"
    );
    assert_eq!(key_of(&gateway, &first).await["balance"], 49_000);
    empty(&first).await;
    // There is none: as if the card had none.
    let asked = setup_intents(&world).await;
    pass(&world, ELEVEN_MINUTES).await;
    assert_eq!(pay_anew(&gateway, GOOD).await.status, 200);
    assert_eq!((charges(&world).await, setup_intents(&world).await), (3, asked));
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_can_be_switched_at_any_start() {
    let mut world = world().await;
    let gateway = world.gateway().await;
    let owner = found(&gateway, GOOD).await;
    let token = world.tokenise_with(GOOD, Some("123")).await;
    let led = pay(&gateway, &token).await.receipt();
    gateway.stop().await;
    world.identity = "key";
    let gateway = world.gateway().await;
    // What leads there already goes on to.
    assert_eq!(pay(&gateway, &token).await.receipt().client_id, led.client_id);
    assert_eq!(pay_anew(&gateway, GOOD).await.status, 200);
    assert_eq!((number(&world.database, WALLETS).await, setup_intents(&world).await), (2, 1));
    gateway.stop().await;
    world.identity = "card";
    let gateway = world.gateway().await;
    assert_eq!(pay_anew(&gateway, GOOD).await.receipt().credits_remaining.unwrap(), 49_000, "the newest");
    assert_eq!(key_of(&gateway, &owner).await["balance"], 48_500);
    assert_eq!(charges(&world).await, 2);
    gateway.stop().await;
    world.assert_books_agree().await;
}
