//! At every door: the gateway, `/billing`, the middleware, `get`, programs in other languages, several nodes, and after a crash.

use std::path::Path;
use std::process::Stdio;

use futures_util::future::join_all;
use tokio::process::Command;

use super::*;
use crate::embedded::Shop;
use crate::support::dice::Dice;
use crate::support::postgres::Cluster;
use crate::support::process::Seat;
use crate::support::program::{finish, is_installed, program, run, until};

async fn order(gateway: &Gateway<'_>, token: &str, key: &str, more: Value) -> Answer {
    let mut body = json!({ "paymentMethodId": token });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let body = body.to_string();
    let url = format!("{}/billing/top-ups", gateway.url);
    let sent = Some(("application/json", body.as_bytes()));
    gateway.world.client.send("POST", &url, &[("idempotency-key", key)], sent).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_with_a_new_token_goes_to_the_cards_wallet_and_is_carried_out_once() {
    let world = world().await;
    let gateway = world.gateway().await;
    let token = async |cvc| world.tokenise_with(GOOD, cvc).await;
    let first = order(&gateway, &token(Some("123")).await, "one", json!({})).await;
    assert_eq!(first.status, 201, "{}", first.text());
    let owner = first.json()["clientId"].clone();
    // The same order, with new tokens: whoever knows the CVC gets the answer, and nobody is charged.
    for _ in 0..2 {
        let again = order(&gateway, &token(Some("123")).await, "one", json!({})).await;
        assert_eq!((again.status, &again.json()["id"]), (200, &first.json()["id"]), "{}", again.text());
        assert_eq!(again.json()["idempotentReplay"], true);
        assert_ne!(again.json()["clientId"], owner, "never the owner key");
        let without = order(&gateway, &token(None).await, "one", json!({})).await;
        assert_refused(&without, 409, "card_has_wallet");
    }
    assert_eq!(charges(&world).await, 1);
    // However late, the same key charges the card once.
    pass(&world, ELEVEN_MINUTES).await;
    assert_refused(&order(&gateway, &token(None).await, "one", json!({})).await, 409, "card_has_wallet");
    // Another amount under the key is another order.
    let other = order(&gateway, &token(Some("123")).await, "one", json!({ "topUpAmount": 200_000 })).await;
    assert_refused(&other, 422, "idempotency_mismatch");
    // Another order, into the same wallet.
    let second = order(&gateway, &token(Some("123")).await, "two", json!({})).await;
    assert_eq!((second.status, &second.json()["balance"]), (201, &json!(100_000)), "{}", second.text());
    assert_eq!((charges(&world).await, number(&world.database, WALLETS).await), (2, 1));
    let third = order(&gateway, &token(Some("123")).await, "three", json!({ "newWallet": true })).await;
    assert_eq!((third.status, &third.json()["balance"]), (201, &json!(50_000)));
    // In the older wallet, although the card leads to the newer one now.
    let again = order(&gateway, &token(Some("123")).await, "two", json!({})).await;
    assert_eq!((again.status, &again.json()["id"]), (200, &second.json()["id"]), "{}", again.text());
    assert_eq!((charges(&world).await, number(&world.database, WALLETS).await), (3, 2));
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_open_tells_no_other_token_the_owners_key() {
    let world = world().await;
    let gateway = world.gateway().await;
    let owner = found(&gateway, GOOD).await;
    let other = world.tokenise_with(GOOD, Some("123")).await;
    let spend = pay(&gateway, &other).await.receipt().client_id;
    world.faults(json!([{ "on": "payment_intents.confirm", "action": "drop", "times": 1000 }])).await;
    world.faults(json!([{ "on": "payment_intents.retrieve", "action": "drop", "times": 1000 }])).await;
    let bearer = format!("Bearer {owner}");
    let card = world.tokenise_with(OTHER, Some("123")).await;
    let body = json!({ "paymentMethodId": card }).to_string();
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "k")];
    let url = format!("{}/billing/top-ups", gateway.url);
    let first = world.client.send("POST", &url, &headers, Some(("application/json", body.as_bytes()))).await;
    assert_refused(&first, 503, "topup_pending");
    let second = order(&gateway, &other, "k", json!({})).await;
    assert_refused(&second, 503, "topup_pending");
    assert!(!second.text().contains(&owner) && second.receipt().client_id == spend, "{}", second.text());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_clients_id_came_later_is_the_same_order() {
    let world = world().await;
    let gateway = world.gateway().await;
    let card = world.tokenise_with(GOOD, Some("123")).await;
    let first = order(&gateway, &card, "k", json!({})).await;
    let bearer = format!("Bearer {}", first.json()["clientId"].as_str().unwrap());
    let body = json!({ "paymentMethodId": card }).to_string();
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "k")];
    let url = format!("{}/billing/top-ups", gateway.url);
    let again = world.client.send("POST", &url, &headers, Some(("application/json", body.as_bytes()))).await;
    assert_eq!((again.status, &again.json()["id"]), (200, &first.json()["id"]), "{}", again.text());
    assert_eq!(charges(&world).await, 1);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_with_an_unknown_client_id_is_that_of_the_card() {
    let world = world().await;
    let gateway = world.gateway().await;
    let made_up = format!("Bearer pck_{}", "A".repeat(43));
    let ask = async |token: String, key: &str| {
        let body = json!({ "paymentMethodId": token }).to_string();
        let headers = [("authorization", made_up.as_str()), ("idempotency-key", key)];
        let url = format!("{}/billing/top-ups", gateway.url);
        world.client.send("POST", &url, &headers, Some(("application/json", body.as_bytes()))).await
    };
    let first = ask(world.tokenise_with(GOOD, Some("123")).await, "one").await;
    assert_eq!(first.status, 201, "{}", first.text());
    assert!(first.receipt().notice.is_some_and(|notice| notice.contains("unknown")));
    let again = ask(world.tokenise_with(GOOD, Some("123")).await, "one").await;
    assert_eq!((again.status, &again.json()["id"]), (200, &first.json()["id"]), "{}", again.text());
    assert_eq!(charges(&world).await, 1);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_middleware_leads_to_the_same_wallets() {
    let world = world().await;
    let shop = Shop::with(&world, "").await;
    let pay = async |cvc| {
        let token = world.tokenise_with(GOOD, cvc).await;
        shop.send("GET", "/five", &Pay::card(&token), None).await
    };
    let first = pay(Some("123")).await;
    assert_eq!(first.status, 200, "{}", first.text());
    let second = pay(Some("123")).await;
    assert_eq!(
        (second.status, second.receipt().credits_remaining.unwrap()),
        (200, 49_000),
        "{}",
        second.text()
    );
    assert_ne!(first.receipt().client_id, second.receipt().client_id);
    assert_refused(&pay(None).await, 409, "card_has_wallet");
    assert_eq!((charges(&world).await, setup_intents(&world).await), (1, 2));
    shop.close().await;
    world.assert_books_agree().await;
}

/// A program that keeps nothing, once.
async fn one_run(world: &World, gateway: &Gateway<'_>, number: &str, cvc: &str) -> Value {
    let mut command = Command::new("node");
    command.args(["three-runs.mjs", &gateway.url, &world.sim.base_url, number, cvc]);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).kill_on_drop(true);
    let ran = finish(command, None).await;
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    serde_json::from_str(&ran.out).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_processes_with_one_card_pay_once() {
    if !is_installed("node").await {
        return;
    }
    let world = world().await;
    let gateway = world.gateway().await;
    let mut left = 50_000;
    for _ in 0..3 {
        let report = one_run(&world, &gateway, GOOD, "123").await;
        left -= 3 * 500;
        assert_eq!((&report["paid"], &report["creditsRemaining"]), (&json!([200, 200, 200]), &json!(left)));
    }
    assert_eq!((charges(&world).await, number(&world.database, WALLETS).await), (1, 1));
    // At once, too.
    let reports = join_all((0..3).map(|_| one_run(&world, &gateway, GOOD, "123"))).await;
    assert!(reports.iter().all(|report| report["paid"] == json!([200, 200, 200])), "{reports:?}");
    assert_eq!((charges(&world).await, setup_intents(&world).await), (1, 5));
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn get_is_led_to_its_cards_wallet_and_counts_no_charge() {
    let world = world().await;
    let gateway = world.gateway().await;
    let owner = found(&gateway, GOOD).await;
    let url = format!("{}/api/weather", gateway.url);
    let buy = async |cvc: &str, more: &[&str]| {
        let mut args = vec!["get", &url, "--stripe-base", &world.sim.base_url];
        args.extend(["--card-number", GOOD, "--card-exp", "12/34", "--card-cvc", cvc]);
        args.extend(more);
        run(world.folder.path(), &args).await
    };
    let first = buy("123", &[]).await;
    assert_eq!(first.code, 0, "{first:?}");
    assert!(
        first.err.contains("the card was not charged") && !first.err.contains("charged 5.00"),
        "{first:?}"
    );
    assert_eq!(key_of(&gateway, &owner).await["balance"], 49_000);
    assert_eq!(charges(&world).await, 1);
    let file = std::fs::read_to_string(world.folder.path().join(".config/prepaid402/wallet.json")).unwrap();
    assert!(!file.contains(&owner) && !file.contains("\"pending\":{"), "{file}");
    // The next run has a key.
    let second = run(world.folder.path(), &["get", &url]).await;
    assert_eq!((second.code, charges(&world).await), (0, 1), "{second:?}");

    // Whoever is not led there is told how to go on.
    set_cvc(&world, OTHER, "737").await;
    assert_eq!(pay(&gateway, &world.tokenise_with(OTHER, Some("737")).await).await.status, 200);
    std::fs::remove_dir_all(world.folder.path().join(".config")).unwrap();
    let card = ["--payment-method".to_owned(), world.tokenise_with(OTHER, None).await];
    let mut args = vec!["get", url.as_str(), "--stripe-base", &world.sim.base_url];
    args.extend(card.iter().map(String::as_str));
    let refused = run(world.folder.path(), &args).await;
    assert!(refused.code != 0 && refused.err.contains("card_has_wallet"), "{refused:?}");
    assert!(refused.err.contains("--new-wallet"), "{refused:?}");
    args.push("--new-wallet");
    let paid = run(world.folder.path(), &args).await;
    assert_eq!((paid.code, charges(&world).await), (0, 3), "{paid:?}");
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_killed_after_the_setup_intent_asks_for_no_second_one() {
    let mut dice = Dice::printed("killed after the setup intent");
    let world = world().await;
    let seat = Seat::new(&world, &mut dice);
    let process = seat.start().await;
    let ask = async |url: &str, token: &str| {
        let headers = [("payment", Pay::card(token).header())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        world.client.try_send("GET", &format!("{url}/api/weather"), &headers, None).await
    };
    let first = world.tokenise_with(GOOD, Some("123")).await;
    assert_eq!(ask(&process.url, &first).await.ok().unwrap().status, 200);
    world.faults(json!([{ "on": "setup_intents.create", "action": "hang", "times": 1 }])).await;
    let token = world.tokenise_with(GOOD, Some("123")).await;
    let url = process.url.clone();
    let (_, ()) = tokio::join!(ask(&url, &token), async {
        until("Stripe has made it", async || {
            !world.books().await["setup_intents"].as_array().unwrap().is_empty()
        })
        .await;
        process.kill().await;
    });
    assert_eq!(number(&world.database, OPEN_CHECKS).await, 1);
    world.clear_faults().await;
    let process = seat.start().await;
    // The attempt that was killed is ended first.
    let mut answer = ask(&process.url, &token).await.ok().unwrap();
    while answer.status == 503 {
        answer = ask(&process.url, &token).await.ok().unwrap();
    }
    // What the first process had captured and may not have delivered is given back.
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(number(&world.database, WALLETS).await, 1);
    let books = world.books().await;
    assert_eq!(books["setup_intents"].as_array().unwrap().len(), 1, "{}", books["setup_intents"]);
    assert_eq!((charges(&world).await, number(&world.database, OPEN_CHECKS).await), (1, 0));
    process.kill().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_check_a_card_once_and_hold_its_limits_together() {
    let Some(server) = Cluster::start() else { return };
    let mut dice = Dice::printed("cards over two nodes");
    let mut world = World::on_postgres(&server.url(), "", crate::support::ROUTES).await;
    world.identity = "card";
    let mut seat = |name: &str| {
        let mut seat = Seat::new(&world, &mut dice);
        let data = world.folder.path().join(name).display().to_string();
        seat.environment.insert("PREPAID402_DATA_DIR".into(), data);
        let secret = "1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        seat.environment.insert("PREPAID402_KEY_SECRET".into(), secret.into());
        seat
    };
    let seats = [seat("a"), seat("b")];
    let nodes = [seats[0].start().await, seats[1].start().await];
    let ask = async |node: usize, token: &str| {
        let header = Pay::card(token).header();
        let url = format!("{}/api/weather", nodes[node].url);
        loop {
            let answer = world.client.send("GET", &url, &[("payment", &header)], None).await;
            // On a busy machine, the other checks are waited for in vain now and then.
            if answer.code() != "card_check_pending" {
                return answer;
            }
        }
    };
    set_cvc(&world, GOOD, "737").await;
    let first = world.tokenise_with(GOOD, Some("737")).await;
    assert_eq!(ask(0, &first).await.status, 200);
    let token = world.tokenise_with(GOOD, Some("737")).await;
    let answers = join_all((0..20).map(|n| ask(n % 2, &token))).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{}", answers[0].text());
    let keys: BTreeSet<String> = answers.iter().map(|answer| answer.receipt().client_id).collect();
    assert_eq!((keys.len(), setup_intents(&world).await, charges(&world).await), (1, 1, 1));
    // Of twenty guesses at once, three are looked at.
    let guesses = join_all((0..20).map(|_| world.tokenise_with(GOOD, Some("123")))).await;
    let answers = join_all(guesses.iter().enumerate().map(|(n, token)| ask(n % 2, token))).await;
    let declined = answers.iter().filter(|answer| answer.code() == "card_declined").count();
    let others = answers.iter().filter(|answer| answer.code() == "card_has_wallet").count();
    let codes: Vec<String> = answers.iter().map(Answer::code).collect();
    assert_eq!((declined, others), (3, 17), "{codes:?}");
    assert_eq!((setup_intents(&world).await, charges(&world).await), (4, 1));
    for node in nodes {
        node.kill().await;
    }
    world.assert_books_agree().await;
}

/// From now on, the gateway's key lacks these permissions.
async fn withhold(world: &World, permissions: Value) {
    let url = format!("{}/_sim/permissions", world.sim.base_url);
    let answer = world.client.post_json(&url, &json!({ "withheld": permissions })).await;
    assert!(answer.status < 300, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_not_write_setup_intents_works_as_under_key_and_says_so() {
    let world = world().await;
    let gateway = world.gateway().await;
    found(&gateway, GOOD).await;
    gateway.stop().await;
    withhold(&world, json!(["rak_setup_intent_write"])).await;
    let mut dice = Dice::printed("no permission");
    let seat = Seat::new(&world, &mut dice);
    let process = seat.start().await;
    until("it is said", async || process.log().contains("may not write SetupIntents")).await;
    let token = world.tokenise_with(GOOD, Some("123")).await;
    let ask = async |token: &str| {
        let header = Pay::card(token).header();
        let url = format!("{}/api/weather", process.url);
        world.client.send("GET", &url, &[("payment", &header)], None).await
    };
    assert_eq!(ask(&token).await.status, 200);
    assert_eq!((charges(&world).await, number(&world.database, WALLETS).await), (2, 2));
    process.kill().await;

    // Before it is used, `check-config` says the same.
    let check = async || {
        let mut command = program(world.folder.path(), &["check-config", "--config"]);
        command.arg(&seat.config).envs(&seat.environment);
        finish(command, None).await
    };
    let ran = check().await;
    assert!(ran.code == 0 && ran.out.contains("may not write SetupIntents"), "{ran:?}");
    withhold(&world, json!([])).await;
    let ran = check().await;
    assert!(ran.code == 0 && !ran.out.contains("may not write"), "{ran:?}");
    assert!(ran.out.contains("identity"), "{ran:?}");
    world.assert_books_agree().await;
}
