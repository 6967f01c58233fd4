//! `prepaid402 reconcile`: differences between our books and Stripe's, planted on either side, are all named, and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use prepaid402::config;
use prepaid402::domain::{InstallationId, TopUpId};
use prepaid402::key_secret::KeySecret;
use prepaid402::ledger::Ledger;
use prepaid402::ledger::keys::Keys;
use prepaid402::money_work::MoneyWork;
use prepaid402::payments::PaymentParts;
use prepaid402::payments::charges::{Aligned, Charges};
use prepaid402::stripe::Stripe;
use prepaid402::top_up::{Account, TopUpParts, TopUps};
use serde_json::{Value, json};

use crate::support::program::{Ran, finish, program, until};
use crate::support::{
    DECLINED, GOOD, Gateway, Pay, ROUTES, SECRET_KEY, World, change, column, number, rows, verify,
};
use crate::webhooks::metric;

async fn sim(world: &World, path: &str, body: Value) -> Value {
    let answer = world.client.post_json(&format!("{}/_sim/{path}", world.sim.base_url), &body).await;
    assert!(answer.status < 300, "{path}: {}", answer.text());
    answer.json()
}

async fn stripe(world: &World, path: &str, form: &str) -> Value {
    let authorization = format!("Bearer {SECRET_KEY}");
    let url = format!("{}/v1/{path}", world.sim.base_url);
    let body = Some(("application/x-www-form-urlencoded", form.as_bytes()));
    let answer = world.client.send("POST", &url, &[("authorization", &authorization)], body).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

/// A charge that no gateway has made.
async fn charge(world: &World, metadata: &str) -> String {
    let card = world.tokenise(GOOD).await;
    let form = format!(
        "amount=500&currency=usd&confirm=true&payment_method={card}&automatic_payment_methods[enabled]=true\
         &automatic_payment_methods[allow_redirects]=never{metadata}"
    );
    let intent = stripe(world, "payment_intents", &form).await;
    assert_eq!(intent["status"], "succeeded");
    intent["id"].as_str().unwrap().to_owned()
}

fn toml(world: &World) -> String {
    world.toml("127.0.0.1:7402".parse().unwrap(), "127.0.0.1:7403".parse().unwrap())
}

/// Books what has become of charges, as the server does when it hears of it.
async fn align(world: &World, intents: &[&String]) {
    let loaded =
        config::load_from(Some(&toml(world)), world.folder.path(), &world.environment()).unwrap().config;
    let stripe = Stripe::new(&loaded.stripe).unwrap();
    let (ledger, db, writer) = Ledger::open(&loaded.database, "aligner", 8).await.unwrap();
    let tasks = MoneyWork::on_this_runtime();
    let installation = prepaid402::top_up::installation::id(&db).await.unwrap();
    let account = Account::open(db.clone(), stripe.clone(), loaded.stripe.mode(), "aligner").await.unwrap();
    let parts = TopUpParts {
        db: db.clone(),
        ledger: ledger.clone(),
        keys: Arc::new(Keys::new(db.reader().clone())),
        key_secret: KeySecret::find(None, &loaded.data_dir).unwrap().unwrap(),
        stripe: stripe.clone(),
        installation,
        account: account.clone(),
        tasks: tasks.clone(),
    };
    let top_ups = TopUps::new(parts, &loaded);
    let parts = PaymentParts {
        db,
        ledger: ledger.clone(),
        stripe,
        account,
        top_ups,
        tasks,
        refund_on_fraud_warning: false,
    };
    let charges = Charges::new(Arc::new(parts));
    for intent in intents {
        assert_eq!(charges.align(intent).await, Aligned::Done, "{intent}");
    }
    ledger.close();
    writer.await.unwrap();
}

async fn reconcile(world: &World, more: &[&str]) -> Ran {
    reconcile_since(world, "2h", more).await
}

async fn reconcile_since(world: &World, since: &str, more: &[&str]) -> Ran {
    std::fs::write(world.folder.path().join("prepaid402.toml"), toml(world)).unwrap();
    let args: Vec<&str> =
        ["reconcile", "--since", since, "--until", "now"].into_iter().chain(more.iter().copied()).collect();
    let mut command = program(world.folder.path(), &args);
    command.envs(world.environment());
    finish(command, None).await
}

/// What is named: codes with Stripe's ids.
async fn named_since(world: &World, since: &str) -> Vec<(String, String)> {
    let ran = reconcile_since(world, since, &["--json"]).await;
    let report: Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{ran:?}"));
    let differences = report["differences"].as_array().unwrap();
    assert_eq!(ran.code, i32::from(!differences.is_empty()), "{ran:?}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut named: Vec<_> = differences.iter().map(|it| (text(&it["code"]), text(&it["ids"][0]))).collect();
    named.sort();
    named
}

/// A moment after everything that has happened.
async fn next_second() -> String {
    let now = chrono::Utc::now().timestamp();
    until("the next second begins", async || chrono::Utc::now().timestamp() > now).await;
    chrono::DateTime::from_timestamp(now + 1, 0).unwrap().to_rfc3339()
}

/// Takes away what guards the entries, as somebody with the file, or a superuser, could.
async fn unguard(world: &World) {
    let statements: &[&'static str] = match world.database.is_shared() {
        false => &["DROP TRIGGER entries_are_never_updated", "DROP TRIGGER entries_are_never_deleted"],
        true => &["ALTER TABLE entries DISABLE TRIGGER ALL"],
    };
    for statement in statements {
        change(&world.database, statement, &[]).await;
    }
}

async fn refund(world: &World, intent: &str) -> String {
    let made = sim(world, "refunds", json!({ "payment_intent": intent, "amount": 100 })).await;
    made["id"].as_str().unwrap().to_owned()
}

async fn dispute(world: &World, intent: &str) -> String {
    let made = sim(world, &format!("payment_intents/{intent}/dispute"), json!({})).await;
    made["id"].as_str().unwrap().to_owned()
}

const COPY: &str = "\
INSERT INTO top_ups (id, client, key, key_hash, key_secret, currency, amount, bonus, state, payment_intent, created_at, updated_at)
SELECT $2, client, key, key_hash, key_secret, currency, amount, bonus, state, $2, created_at, updated_at
FROM top_ups WHERE payment_intent = $1";

/// Statements that make a difference of the charge whose PaymentIntent is `$1`.
const BY_SQL: [(&str, &str); 9] = [
    ("charge_of_failed", "UPDATE top_ups SET state = 'failed' WHERE payment_intent = $1"),
    ("charge_of_open", "UPDATE top_ups SET state = 'confirming' WHERE payment_intent = $1"),
    ("intent_differs", "UPDATE top_ups SET payment_intent = 'pi_other' WHERE payment_intent = $1"),
    ("topup_amount_differs", "UPDATE top_ups SET amount = amount + 10000 WHERE payment_intent = $1"),
    ("topup_currency_differs", "UPDATE top_ups SET currency = 'eur' WHERE payment_intent = $1"),
    (
        "topup_without_entries",
        "DELETE FROM entries WHERE source = (SELECT 'topup:' || id FROM top_ups WHERE payment_intent = $1)",
    ),
    (
        "topup_entries_differ",
        "UPDATE entries SET amount = amount + 1 \
         WHERE source = (SELECT 'topup:' || id FROM top_ups WHERE payment_intent = $1)",
    ),
    (
        "fee_differs",
        "UPDATE entries SET amount = amount + 10000 WHERE source LIKE 'fee:%' \
         AND client = (SELECT client FROM top_ups WHERE payment_intent = $1)",
    ),
    (
        "refund_unknown_at_stripe",
        "INSERT INTO refunds (id, top_up, client, amount, bonus, origin, state, stripe_refund, created_at, updated_at) \
         SELECT 'none', id, client, 10000, 0, 'stripe', 'succeeded', 're_none', created_at, updated_at \
         FROM top_ups WHERE payment_intent = $1",
    ),
];

/// Entries about nothing.
const ENTRIES: [(&str, &str); 4] = [
    (
        "entry_without_topup",
        "INSERT INTO entries (id, at, source, debit, credit, amount, currency) \
         SELECT MAX(id) + 1, MAX(at), 'topup:none', 5, 1, 1000000, 'usd' FROM entries",
    ),
    (
        "fee_unknown_at_stripe",
        "INSERT INTO entries (id, at, source, debit, credit, amount, currency) \
         SELECT MAX(id) + 1, MAX(at), 'fee:txn_none', 6, 5, 1000000, 'usd' FROM entries",
    ),
    (
        "dispute_unknown_at_stripe",
        "INSERT INTO entries (id, at, source, debit, credit, amount, currency) \
         SELECT MAX(id) + 1, MAX(at), 'dispute:txn_none', 1, 5, 1000000, 'usd' FROM entries",
    ),
    (
        "clearing_differs",
        "INSERT INTO entries (id, at, source, debit, credit, amount, currency) \
         SELECT MAX(id) + 1, MAX(at), 'adjustment:1', 5, 10, 1000000, 'usd' FROM entries",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn planted_differences_are_all_named_and_nothing_else_is() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    for _ in 0..22 {
        gateway.new_client("/api/weather").await;
    }
    gateway.stop().await;
    let charged = rows(&world.database, "SELECT payment_intent FROM top_ups ORDER BY id").await;
    let charged: Vec<String> = charged.iter().map(|row| column(row, 0)).collect();
    let all: Vec<&String> = charged.iter().collect();

    // What happens to honest books.
    refund(&world, &charged[1]).await;
    dispute(&world, &charged[2]).await;
    let won = dispute(&world, &charged[3]).await;
    let failing = refund(&world, &charged[4]).await;
    let failing_later = refund(&world, &charged[5]).await;
    refund(&world, &charged[6]).await;
    refund(&world, &charged[7]).await;
    let won_later = dispute(&world, &charged[8]).await;
    charge(&world, "").await;
    align(&world, &all).await;
    sim(&world, &format!("disputes/{won}/close"), json!({ "status": "won" })).await;
    sim(&world, &format!("refunds/{failing}/finish"), json!({ "outcome": "failed" })).await;
    align(&world, &all).await;
    let ran = reconcile(&world, &[]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.out.contains("1 of other products") && ran.out.ends_with("the books and Stripe agree\n"),
        "{ran:?}"
    );

    // And to others: one charge for each difference, so that each is one line.
    unguard(&world).await;
    let mut planted: BTreeMap<&str, &str> = BTreeMap::new();
    sim(&world, &format!("refunds/{failing_later}/finish"), json!({ "outcome": "failed" })).await;
    planted.insert("refund_failed_at_stripe", &failing_later);
    let sql = "UPDATE refunds SET amount = amount + 10000 WHERE top_up = (SELECT id FROM top_ups WHERE payment_intent = $1)";
    change(&world.database, sql, &[&charged[6]]).await;
    planted.insert("refund_amount_differs", "");
    let sql = "UPDATE refunds SET state = 'pending' WHERE top_up = (SELECT id FROM top_ups WHERE payment_intent = $1)";
    change(&world.database, sql, &[&charged[7]]).await;
    planted.insert("refund_open_here", "");
    sim(&world, &format!("disputes/{won_later}/close"), json!({ "status": "won" })).await;
    planted.insert("reinstatement_not_booked", &won_later);
    let unknown = refund(&world, &charged[9]).await;
    planted.insert("refund_unknown_here", &unknown);
    let disputed = dispute(&world, &charged[10]).await;
    planted.insert("dispute_not_booked", &disputed);
    for ((code, sql), intent) in BY_SQL.into_iter().zip(&charged[11..20]) {
        assert_eq!(change(&world.database, sql, &[intent]).await, 1, "{code}");
        planted.insert(code, if code.starts_with("fee") || code.starts_with("refund") { "" } else { intent });
    }
    for (code, sql) in ENTRIES {
        assert_eq!(change(&world.database, sql, &[]).await, 1, "{code}");
        planted.insert(code, "none");
    }
    planted.insert("clearing_differs", "adjustment:1");
    change(&world.database, COPY, &[&charged[0], "pi_none"]).await;
    planted.insert("topup_unknown_at_stripe", "pi_none");
    let unpaid = stripe(&world, "payment_intents", "amount=500&currency=usd").await;
    let unpaid = unpaid["id"].as_str().unwrap();
    change(&world.database, COPY, &[&charged[0], unpaid]).await;
    planted.insert("topup_not_charged", unpaid);
    let missing = charge(&world, &format!("&metadata[prepaid402_top_up]={}", TopUpId::new())).await;
    planted.insert("charge_missing", &missing);
    let first = rows(&world.database, "SELECT id FROM top_ups ORDER BY id LIMIT 1").await;
    let first: String = column(&first[0], 0);
    let twice = charge(&world, &format!("&metadata[prepaid402_top_up]={first}")).await;
    planted.insert("charged_twice", &twice);
    assert!(planted.len() >= 20, "{}", planted.len());

    let ran = reconcile(&world, &["--json"]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    let mut found: Vec<&str> = Vec::new();
    for difference in report["differences"].as_array().unwrap() {
        let code = difference["code"].as_str().unwrap();
        let expected = planted.get(code).unwrap_or_else(|| panic!("not planted: {difference}"));
        assert!(difference["ids"].to_string().contains(expected), "{expected}: {difference}");
        found.push(code);
    }
    found.sort_unstable();
    assert_eq!(found, planted.keys().copied().collect::<Vec<_>>());
    let lines = reconcile(&world, &[]).await.out;
    assert_eq!(
        lines.lines().filter(|line| line.starts_with("DIFFERENT: ")).count(),
        planted.len(),
        "{lines}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_or_is_not_meant_is_exit_code_2() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    gateway.stop().await;
    let later = match world.database.is_shared() {
        false => "UPDATE _sqlx_migrations SET version = version + 1000",
        true => "UPDATE prepaid402_migrations SET version = version + 1000",
    };
    change(&world.database, later, &[]).await;
    let ran = reconcile(&world, &[]).await;
    assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
    assert!(ran.err.contains("a newer prepaid402 has migrated it"), "{}", ran.err);
    for args in [&["--since", "yesterday"][..], &["--since", "now", "--until", "1h"], &[]] {
        let args: Vec<&str> = ["reconcile"].into_iter().chain(args.iter().copied()).collect();
        let mut command = program(world.folder.path(), &args);
        command.envs(world.environment());
        let ran = finish(command, None).await;
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
    }
}

/// The PaymentIntents of new clients of another gateway, with books of its own, that charges through the same Stripe account.
async fn charges_of_a_neighbour(world: &mut World, clients: usize) -> Vec<String> {
    let mut neighbour = World::new().await;
    std::mem::swap(&mut neighbour.sim, &mut world.sim);
    let gateway = neighbour.gateway().await;
    for _ in 0..clients {
        gateway.new_client("/api/weather").await;
    }
    gateway.stop().await;
    std::mem::swap(&mut neighbour.sim, &mut world.sim);
    let charged = rows(&neighbour.database, "SELECT payment_intent FROM top_ups ORDER BY id").await;
    charged.iter().map(|row| column(row, 0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_money_of_another_gateway_on_the_same_account_is_not_lost() {
    let mut world = World::new().await;
    let gateway = world.gateway().await;
    gateway.new_client("/api/weather").await;
    gateway.stop().await;
    let theirs = charges_of_a_neighbour(&mut world, 2).await;
    let ran = reconcile(&world, &[]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("compared 1 charges"), "{ran:?}");
    assert!(ran.out.contains("2 of other products and gateways"), "{ran:?}");

    // What becomes of them when they lie before the window.
    let since = next_second().await;
    refund(&world, &theirs[0]).await;
    dispute(&world, &theirs[1]).await;
    let ran = reconcile_since(&world, &since, &[]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("compared 0 charges, 0 refunds and 0 movements"), "{ran:?}");
    assert!(ran.out.contains("2 of other products and gateways"), "{ran:?}");
    assert_eq!(reconcile(&world, &[]).await.code, 0);

    // What is ours, or of one of our top-ups, or does not say whose it is, is not theirs.
    let first: String = column(&rows(&world.database, "SELECT id FROM top_ups").await[0], 0);
    let ours: String = column(&rows(&world.database, "SELECT id FROM installation").await[0], 0);
    let (new, other) = (TopUpId::new(), InstallationId::new());
    let lost = format!("&metadata[prepaid402_top_up]={new}&metadata[prepaid402_installation]={ours}");
    let twice = format!("&metadata[prepaid402_top_up]={first}&metadata[prepaid402_installation]={other}");
    let silent = format!("&metadata[prepaid402_top_up]={}", TopUpId::new());
    let mut expected = Vec::new();
    for (code, metadata) in [("charge_missing", lost), ("charge_missing", silent), ("charged_twice", twice)] {
        expected.push((code.to_owned(), charge(&world, &metadata).await));
    }
    expected.sort();
    assert_eq!(named_since(&world, "2h").await, expected);
    // The top-up's own charge lies before this window.
    assert_eq!(named_since(&world, &since).await, expected);
}

/// Stripe has delivered all it has to, and each event was looked at.
async fn heard(world: &World) {
    until("every event is looked at", async || {
        let url = format!("{}/_sim/webhooks", world.sim.base_url);
        let overview = world.client.get(&url).await.json();
        let endpoints = overview["webhook_endpoints"].as_array().unwrap();
        let is_pending = endpoints.iter().any(|row| !row["pending"].as_array().unwrap().is_empty());
        let received = "SELECT COUNT(*) FROM stripe_events WHERE state = 'received'";
        !is_pending && overview["running"] == 0 && number(&world.database, received).await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_charged_astray_shows_until_it_is_given_back_and_again_when_that_fails() {
    const PARKED: &str = "SELECT why FROM stripe_events WHERE state = 'parked'";
    let world = World::with_webhooks("").await;
    let gateway = world.gateway().await;
    world.deliver_to(&gateway).await;
    gateway.new_client("/api/weather").await;
    let declined = world.tokenise(DECLINED).await;
    assert_eq!(gateway.pay("/api/weather", &Pay::card(&declined)).await.status, 402);
    world.applied().await;
    // It gets another PaymentIntent, which is charged.
    let forget = "UPDATE top_ups SET payment_intent = NULL WHERE state = 'failed'";
    assert_eq!(change(&world.database, forget, &[]).await, 1);
    let top_ups = rows(&world.database, "SELECT id FROM top_ups ORDER BY state").await;
    let [failed, succeeded] = [0, 1].map(|row| column::<String>(&top_ups[row], 0));
    let mut astray = Vec::new();
    let new = TopUpId::new().to_string();
    for (code, top_up) in
        [("charge_missing", new), ("charge_of_failed", failed), ("charged_twice", succeeded)]
    {
        let intent = charge(&world, &format!("&metadata[prepaid402_top_up]={top_up}")).await;
        astray.push((code.to_owned(), intent));
    }
    let of_failed = "UPDATE top_ups SET payment_intent = $1 WHERE state = 'failed'";
    assert_eq!(change(&world.database, of_failed, &[&astray[1].1]).await, 1);
    heard(&world).await;
    assert_eq!(named_since(&world, "2h").await, astray);
    // Events of top-ups that are not in the books say nothing.
    let all_parked = async || {
        let parked = rows(&world.database, PARKED).await;
        let why: Vec<String> = parked.iter().map(|row| column(row, 0)).collect();
        astray[1..].iter().all(|(_, intent)| why.iter().any(|why| why.contains(intent.as_str())))
    };
    assert!(all_parked().await);

    // A part of it is not enough. The charges lie before this window.
    let since = next_second().await;
    for (_, intent) in &astray {
        refund(&world, intent).await;
    }
    heard(&world).await;
    assert!(all_parked().await);
    for since in ["2h", &since] {
        assert_eq!(named_since(&world, since).await, astray);
    }

    // As the remedy says.
    let mut refunds = Vec::new();
    for (_, intent) in &astray {
        let made = sim(&world, "refunds", json!({ "payment_intent": intent })).await;
        refunds.push(made["id"].as_str().unwrap().to_owned());
    }
    heard(&world).await;
    // As if the time until the next try were over.
    change(&world.database, "UPDATE stripe_events SET next_try_at = 1 WHERE state = 'parked'", &[]).await;
    world.applied().await;
    assert_eq!(metric(&gateway, "prepaid402_parked_events").await, 0);
    for since in ["2h", &since] {
        assert_eq!(named_since(&world, since).await, []);
    }

    // The payers' banks send it back.
    for refund in &refunds {
        sim(&world, &format!("refunds/{refund}/finish"), json!({ "outcome": "failed" })).await;
    }
    heard(&world).await;
    assert!(all_parked().await);
    assert_ne!(metric(&gateway, "prepaid402_parked_events").await, 0);
    for since in ["2h", &since] {
        assert_eq!(named_since(&world, since).await, astray);
    }
    assert!(verify(&world.database).await.is_clean());
    gateway.stop().await;
}

/// The number of differences that the server itself has found.
async fn book_differences(gateway: &Gateway<'_>) -> i64 {
    let text = gateway.world.client.get(&format!("{}/metrics", gateway.admin_url)).await.text();
    let value = text.lines().find_map(|line| line.strip_prefix("prepaid402_book_differences "));
    value.unwrap().parse().unwrap()
}

/// Nobody has to run `reconcile` to hear of a difference that stays.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_notices_a_difference_by_itself() {
    let mut world = World::with("[webhooks]\npoll_every = \"1h\"\n", ROUTES).await;
    world.packs = "[top_up]\ncompare_every = \"10s\"\nminimum = \"5.00\"\n".to_owned();
    let gateway = world.gateway().await;
    assert_eq!(book_differences(&gateway).await, -1, "nothing is known yet");
    let client = gateway.new_client("/api/weather").await;
    let (intent, number) = world.intent_of(&client).await;
    until("the books agree", async || book_differences(&gateway).await == 0).await;
    world.sim("/refunds", json!({ "payment_intent": intent, "amount": 100 })).await;
    until("a refund that nobody has told of", async || book_differences(&gateway).await == 1).await;
    gateway.stop().await;
    world.extra = "[webhooks]\npoll_every = \"5s\"\n".to_owned();
    let gateway = world.gateway().await;
    until("it is booked", async || world.wallet(number).await.0 == 3_950_000).await;
    until("the books agree again", async || book_differences(&gateway).await == 0).await;
    gateway.stop().await;
    world.assert_clearing_is_stripes().await;
}

/// What is compared, and how far it is, stands beside the result: the result alone is on standard output.
#[tokio::test(flavor = "multi_thread")]
async fn the_window_and_the_progress_are_told_beside_the_result() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    gateway.new_client("/api/weather").await;
    gateway.stop().await;
    let ran = reconcile_since(&world, "2020-01-01T00:00:00Z", &["--json"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["from"], "2020-01-01T00:00:00Z", "{report}");
    assert!(report["until"].as_str().unwrap() > "2026", "{report}");
    let lines: Vec<&str> = ran.err.lines().collect();
    assert!(lines[0].starts_with("comparing from 2020-01-01T00:00:00Z to 2"), "{ran:?}");
    assert!(lines.iter().any(|line| line.contains("1 balance transactions")), "{ran:?}");
    assert!(lines.iter().any(|line| line.contains("1 PaymentIntents")), "{ran:?}");
}

/// It does not become readable by being asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_stripe_that_cannot_be_read_is_given_up_soon() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    gateway.new_client("/api/weather").await;
    gateway.stop().await;
    world
        .faults(json!([{ "on": "balance_transactions.list", "action": "unparsable", "times": 1_000 }]))
        .await;
    let before = world.client.get(&format!("{}/_sim/requests", world.sim.base_url)).await.json();
    let ran = reconcile(&world, &[]).await;
    assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
    assert!(ran.err.contains("comparing from") && ran.err.contains("unreadable answer"), "{ran:?}");
    let after = world.client.get(&format!("{}/_sim/requests", world.sim.base_url)).await.json();
    let count = |requests: &Value| requests["counts"]["balance_transactions.list"].as_i64().unwrap_or(0);
    assert_eq!(count(&after) - count(&before), 2);
}
