//! A customer that Stripe has no more, and a business that moves to another account: wallets go on, nothing is charged twice.

use serde_json::Value;

use super::*;
use crate::operator::Office;
use crate::support::{GOOD_CARDS, column, verify};
use crate::webhooks;

async fn customer_of_first(world: &World) -> Option<String> {
    column(&rows(&world.database, "SELECT stripe_customer FROM clients ORDER BY id LIMIT 1").await[0], 0)
}

async fn delete_customer(world: &World, customer: &str) {
    let authorization = format!("Bearer {SECRET_KEY}");
    let url = format!("{}/v1/customers/{customer}", world.sim.base_url);
    let answer = world.client.send("DELETE", &url, &[("authorization", &authorization)], None).await;
    assert_eq!((answer.status, &answer.json()["deleted"]), (200, &json!(true)), "{}", answer.text());
}

async fn accept(world: &World, more: &[&str]) -> crate::support::program::Ran {
    std::fs::write(world.folder.path().join("prepaid402.toml"), toml(world, &simulated(world))).unwrap();
    let args: Vec<&str> = ["accept-account"].into_iter().chain(more.iter().copied()).collect();
    let mut command = program(world.folder.path(), &args);
    command.envs(world.environment());
    finish(command, None).await
}

async fn assert_clean(world: &World) {
    let report = verify(&world.database).await;
    assert!(report.is_clean(), "{:#?}", report.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_that_was_deleted_at_stripe_is_made_anew() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let first = world.tokenise(GOOD).await;
    let client = gateway.pay("/api/weather", &Pay::card(&first)).await.receipt().client_id;
    let gone = customer_of_first(&world).await.unwrap();
    delete_customer(&world, &gone).await;

    // Its card went with it, and nothing is charged by it.
    let refused = top_up(&gateway, &client, &first).await;
    assert_eq!((refused.status, refused.code().as_str()), (402, "invalid_payment"), "{}", refused.text());
    assert!(refused.text().contains("Tokenise the card again"), "{}", refused.text());
    assert_eq!(world.succeeded_charges().await.len(), 1);

    let card = world.tokenise(GOOD).await;
    for charges in 2..=3 {
        let topped_up = top_up(&gateway, &client, &card).await;
        assert_eq!(topped_up.status, 201, "{}", topped_up.text());
        assert_eq!(world.succeeded_charges().await.len(), charges);
    }
    let customer = customer_of_first(&world).await.unwrap();
    assert_ne!(customer, gone);
    // One new customer, whatever was tried.
    assert_eq!(world.books().await["customers"], 1);
    assert_eq!(gateway.balance(&client).await, 3 * 50_000 - 500);
    gateway.stop().await;
    world.assert_books_agree().await;
}

/// Nobody knows what became of it: Stripe did not say that the customer is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_customer_is_not_given_up_for_an_answer_that_does_not_come() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = gateway.new_client("/api/weather").await;
    let customer = customer_of_first(&world).await;
    let card = world.tokenise(GOOD).await;
    world
        .faults(
            json!([{ "on": "payment_intents.create", "action": "html_502", "execute": false, "times": 2 }]),
        )
        .await;
    assert_eq!(top_up(&gateway, &client, &card).await.status, 201);
    assert_eq!(customer_of_first(&world).await, customer);
    assert_eq!(world.books().await["customers"], 1);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_account_is_accepted_by_one_command_and_wallets_go_on() {
    let mut world = webhooks::world(&[webhooks::SECRET], "").await;
    let office = Office::new(&world).await;
    let wallet = office.wallet_of(GOOD).await;
    let before = office.gateway.balance(&wallet.key).await;
    let dispute = webhooks::event(
        "evt_former",
        "charge.dispute.created",
        &json!({ "id": "dp_former", "object": "dispute", "payment_intent": wallet.intent }),
    );
    let early = accept(&world, &["--confirm"]).await;
    assert_eq!(early.code, 1, "{early:?}");
    let words = if world.database.is_shared() { "there is nothing to accept" } else { "stop it" };
    assert!(early.err.contains(words), "{early:?}");
    let Office { gateway, .. } = office;
    gateway.stop().await;

    let same = accept(&world, &["--confirm"]).await;
    assert_eq!(same.code, 1, "{same:?}");
    assert!(same.err.contains("there is nothing to accept"), "{same:?}");
    other_account(&mut world).await;
    let unconfirmed = accept(&world, &[]).await;
    assert_eq!(unconfirmed.code, 1, "{unconfirmed:?}");
    assert!(unconfirmed.err.contains("nothing was changed. With --confirm, 1 charges"), "{unconfirmed:?}");
    refused(&world, &simulated(&world), "accept-account").await;
    let accepted = accept(&world, &["--confirm"]).await;
    assert_eq!(accepted.code, 0, "{accepted:?}");
    assert!(accepted.out.contains("Every wallet keeps its credit"), "{accepted:?}");

    let office = Office::again(&world).await;
    assert_eq!(office.gateway.balance(&wallet.key).await, before);
    assert_eq!(office.gateway.pay("/api/weather", &Pay::client(&wallet.key)).await.status, 200);
    // What was charged there cannot be refunded from here, and its events say nothing any more.
    let refund = office.refund("one", &json!({ "topUp": wallet.top_up, "amount": "1.00" })).await;
    assert_eq!((refund.status, refund.code().as_str()), (409, "former_stripe_account"), "{}", refund.text());
    assert!(refund.text().contains("dashboard"), "{}", refund.text());
    webhooks::deliver(&office.gateway, &dispute).await;
    let ended = webhooks::ended(&world, "evt_former").await;
    assert_eq!(ended, ("ignored".to_owned(), "charged in a former Stripe account".to_owned()));
    assert_eq!(office.gateway.balance(&wallet.key).await, before - 500);
    // The next charge is the first one of the new account, with a customer of its own.
    let card = world.tokenise(GOOD_CARDS[1]).await;
    let topped_up = top_up(&office.gateway, &wallet.key, &card).await;
    assert_eq!(topped_up.status, 201, "{}", topped_up.text());
    let topped_up: Value = topped_up.json();
    let again = office.refund("two", &json!({ "topUp": topped_up["id"], "amount": "1.00" })).await;
    assert!(again.status < 300, "{} {topped_up}", again.text());
    let Office { gateway, .. } = office;
    gateway.stop().await;
    world.gateway().await.stop().await;
    assert_clean(&world).await;

    // Neither side has what the other one lacks, because the former account is left out.
    let compared = loop {
        let mut command = program(world.folder.path(), &["reconcile", "--since", "2h", "--until", "now"]);
        command.envs(world.environment());
        let ran = finish(command, None).await;
        // The new account counts from the first whole second, which may not have come yet.
        if !ran.err.contains("the window ends before") {
            break ran;
        }
    };
    assert_eq!(compared.code, 0, "{compared:?}");
    assert!(!compared.out.contains(&wallet.top_up), "{compared:?}");
}

/// Play money stays play money, and what nobody has proven is not accepted.
#[tokio::test(flavor = "multi_thread")]
async fn accepting_an_account_never_changes_the_mode() {
    let mut world = World::new().await;
    charged_database(&world).await;
    other_account(&mut world).await;
    for (mode, words) in [(Some("live"), "nobody may spend the one as the other"), (None, "does not say yet")]
    {
        match mode {
            Some(mode) => set_mode(&world, mode).await,
            None => forget_mode(&world).await,
        }
        let ran = accept(&world, &["--confirm", "--give-up-open"]).await;
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains(words), "{ran:?}");
    }
    let former = "SELECT COUNT(*) FROM top_ups WHERE former_account = 1";
    assert_eq!(number(&world.database, former).await, 0);
    // After it was accepted, the mode is that of the wallets still.
    set_mode(&world, "simulated").await;
    assert_eq!(accept(&world, &["--confirm"]).await.code, 0);
    refused(&world, &live(), "nobody may spend the one as the other").await;
    refused(&world, &test(), "nobody may spend the one as the other").await;
    world.gateway().await.stop().await;
}

/// The account was left, and closed, before a version that knows of modes came: nothing proves the mode any more, so a person says it.
#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_proves_the_mode_a_person_names_it_and_play_money_stays_play_money() {
    let mut world = World::new().await;
    let client = charged_database(&world).await;
    forget_mode(&world).await;
    other_account(&mut world).await;
    // What is met on the way says how to go on.
    refused(&world, &simulated(&world), "accept-account --wallets-are").await;
    let nobody = Keys { api_base: "http://127.0.0.1:9".into(), ..simulated(&world) };
    refused(&world, &nobody, "accept-account --wallets-are").await;
    let unnamed = accept(&world, &["--confirm"]).await;
    assert_eq!(unnamed.code, 1, "{unnamed:?}");
    assert!(unnamed.err.contains("--wallets-are live, test or simulated"), "{unnamed:?}");
    for (named, code, words) in [
        ("live", 1, "nobody may spend the one as the other"),
        ("test", 1, "nobody may spend the one as the other"),
        ("gold", 2, "live, test, simulated"),
    ] {
        let ran = accept(&world, &["--confirm", "--wallets-are", named]).await;
        assert_eq!(ran.code, code, "{named}: {ran:?}");
        assert!(ran.err.contains(words), "{named}: {ran:?}");
    }
    const UNKNOWN: &str = "SELECT COUNT(*) FROM installation WHERE stripe_mode IS NULL";
    let looked = accept(&world, &["--wallets-are", "simulated"]).await;
    assert_eq!(looked.code, 1, "{looked:?}");
    assert_eq!(number(&world.database, UNKNOWN).await, 1, "without --confirm nothing is changed");
    let accepted = accept(&world, &["--confirm", "--wallets-are", "simulated"]).await;
    assert_eq!(accepted.code, 0, "{accepted:?}");
    refused(&world, &live(), "nobody may spend the one as the other").await;
    let gateway = world.gateway().await;
    assert_eq!(gateway.pay("/api/weather", &Pay::client(&client)).await.status, 200);
    gateway.stop().await;
    assert_clean(&world).await;
}

/// Whoever says what is not so is not believed where anything here says otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn a_mode_is_not_named_against_what_is_known() {
    let mut world = World::new().await;
    charged_database(&world).await;
    other_account(&mut world).await;
    // It is stored.
    let stored = accept(&world, &["--confirm", "--wallets-are", "simulated"]).await;
    assert_eq!(stored.code, 1, "{stored:?}");
    assert!(
        stored.err.contains("--wallets-are is only for a database that does not say its mode"),
        "{stored:?}"
    );
    // The former account's events have told.
    forget_mode(&world).await;
    let live_event = json!({ "id": "evt_1", "livemode": true }).to_string();
    change(
        &world.database,
        "INSERT INTO stripe_events (id, type, object, created, body, state, tries, received_at, next_try_at, ended_at) \
         VALUES ('evt_1', 'charge.succeeded', 'ch_1', 1, $1, 'applied', 1, 1, 1, 1)",
        &[&live_event],
    )
    .await;
    let told = accept(&world, &["--confirm", "--wallets-are", "simulated"]).await;
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.err.contains("evt_1") && told.err.contains("other mode"), "{told:?}");
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM top_ups WHERE former_account = 1").await, 0);
    let play_event = live_event.replace("true", "false");
    change(&world.database, "UPDATE stripe_events SET body = $1", &[&play_event]).await;
    assert_eq!(accept(&world, &["--confirm", "--wallets-are", "simulated"]).await.code, 0);
}

/// What is given up is counted, and it is said what happens to it; then a comparison says from when on it compares.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepting_says_what_becomes_of_disputes_and_when_the_account_is_bound() {
    let mut world = webhooks::world(&[webhooks::SECRET], "").await;
    let office = Office::new(&world).await;
    world.deliver_to(&office.gateway).await;
    for (card, end) in [(GOOD_CARDS[0], None), (GOOD_CARDS[1], Some("lost"))] {
        let wallet = office.wallet_of(card).await;
        let opened = world.sim(&format!("/payment_intents/{}/dispute", wallet.intent), json!({})).await;
        if let Some(end) = end {
            let id = opened["id"].as_str().unwrap();
            world.sim(&format!("/disputes/{id}/close"), json!({ "status": end })).await;
        }
    }
    world.applied().await;
    let Office { gateway, .. } = office;
    gateway.stop().await;
    other_account(&mut world).await;
    let looked = accept(&world, &[]).await;
    assert!(looked.err.contains("1 disputes have no end yet"), "{looked:?}");
    let accepted = accept(&world, &["--confirm"]).await;
    assert_eq!(accepted.code, 0, "{accepted:?}");
    for words in ["1 disputes have no end yet", "stays taken", "first charge"] {
        assert!(accepted.out.contains(words), "{words}: {accepted:?}");
    }
    let compare = async |until: &str| {
        let mut command = program(world.folder.path(), &["reconcile", "--since", "3h", "--until", until]);
        command.envs(world.environment());
        finish(command, None).await
    };
    // Before the account was accepted there is nothing that could be compared.
    let turned = compare("2h").await;
    assert_eq!((turned.code, turned.out.as_str()), (2, ""), "{turned:?}");
    assert!(turned.err.contains("was accepted"), "{turned:?}");
    until("a second has passed", async || compare("now").await.code == 0).await;
    let cut = compare("now").await;
    assert_eq!(cut.code, 0, "{cut:?}");
    assert!(cut.err.contains("in a former Stripe account is left out"), "{cut:?}");
}

/// A charge whose outcome only the former account knows is neither forgotten by accident nor called uncharged.
#[tokio::test(flavor = "multi_thread")]
async fn open_charges_of_the_former_account_are_given_up_only_when_told_to() {
    let (mut world, _) = world_with_account().await;
    let gateway = world.gateway().await;
    let client = gateway.new_client("/api/weather").await;
    let card = world.tokenise(GOOD_CARDS[1]).await;
    world
        .faults(
            json!([{ "on": "payment_intents.confirm", "action": "drop", "execute": true, "times": 1_000 },
                        { "on": "payment_intents.retrieve", "action": "drop", "times": 1_000 }]),
        )
        .await;
    let authorization = format!("Bearer {client}");
    let headers = [("idempotency-key", "open"), ("authorization", authorization.as_str())];
    let body = json!({ "paymentMethodId": card, "topUpAmount": 50_000 }).to_string();
    let ask = async |gateway: &Gateway<'_>| {
        let url = format!("{}/billing/top-ups", gateway.url);
        gateway.world.client.send("POST", &url, &headers, Some(("application/json", body.as_bytes()))).await
    };
    let pending = ask(&gateway).await;
    assert_eq!((pending.status, pending.code().as_str()), (503, "topup_pending"), "{}", pending.text());
    gateway.stop().await;
    other_account(&mut world).await;
    let refused = accept(&world, &["--confirm"]).await;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("1 top-ups and 0 refunds have no end yet"), "{refused:?}");
    let accepted = accept(&world, &["--confirm", "--give-up-open"]).await;
    assert_eq!(accepted.code, 0, "{accepted:?}");

    let gateway = world.gateway().await;
    let said = ask(&gateway).await;
    assert_eq!((said.status, said.code().as_str()), (409, "former_stripe_account"), "{}", said.text());
    assert!(intents(&world.books().await).is_empty());
    let topped_up = top_up(&gateway, &client, &world.tokenise(GOOD_CARDS[1]).await).await;
    assert_eq!(topped_up.status, 201, "{}", topped_up.text());
    gateway.stop().await;
    assert_clean(&world).await;
}

/// The wrong key was put in, and accepted: with the right one back, the charges are this database's as before.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_by_mistake_is_taken_back_when_stripe_knows_it() {
    let world = webhooks::world(&[webhooks::SECRET], "").await;
    let office = Office::new(&world).await;
    let wallet = office.wallet_of(GOOD).await;
    let Office { gateway, .. } = office;
    gateway.stop().await;
    assert_eq!(change(&world.database, "UPDATE top_ups SET former_account = 1", &[]).await, 1);
    let office = Office::again(&world).await;
    let refund = office.refund("one", &json!({ "topUp": wallet.top_up, "amount": "1.00" })).await;
    assert!(refund.status < 300, "{}", refund.text());
    let again = office.refund("one", &json!({ "topUp": wallet.top_up, "amount": "2.00" })).await;
    assert_eq!((again.status, again.code().as_str()), (422, "idempotency_mismatch"), "{}", again.text());
    let former = "SELECT COUNT(*) FROM top_ups WHERE former_account = 1";
    assert_eq!(number(&world.database, former).await, 0);
    let Office { gateway, .. } = office;
    gateway.stop().await;
    world.assert_books_agree().await;
}
