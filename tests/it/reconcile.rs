//! `prepaid402 reconcile`: differences between our books and Stripe's, planted on either side, are all named, and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use prepaid402::config;
use prepaid402::domain::TopUpId;
use prepaid402::key_secret::KeySecret;
use prepaid402::ledger::Ledger;
use prepaid402::ledger::keys::Keys;
use prepaid402::money_work::MoneyWork;
use prepaid402::payments::charges::{Aligned, Charges};
use prepaid402::payments::refunds::Refunds;
use prepaid402::stripe::Stripe;
use prepaid402::top_up::{TopUpParts, TopUps};
use serde_json::{Value, json};

use crate::support::program::{Ran, finish, program};
use crate::support::{GOOD, SECRET_KEY, World, change, column, rows};

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
    let parts = TopUpParts {
        db: db.clone(),
        ledger: ledger.clone(),
        keys: Arc::new(Keys::new(db.reader().clone())),
        key_secret: KeySecret::load(None, &loaded.data_dir).unwrap(),
        stripe: stripe.clone(),
        installation: prepaid402::top_up::installation::id(&db).await.unwrap(),
        tasks: tasks.clone(),
    };
    let top_ups = TopUps::new(parts, &loaded);
    let refunds = Refunds::new(db, ledger.clone(), stripe.clone(), tasks.clone());
    let charges = Charges::new(ledger.clone(), stripe, top_ups, refunds, tasks, false);
    for intent in intents {
        assert_eq!(charges.align(intent).await, Aligned::Done, "{intent}");
    }
    ledger.close();
    writer.await.unwrap();
}

async fn reconcile(world: &World, more: &[&str]) -> Ran {
    std::fs::write(world.folder.path().join("prepaid402.toml"), toml(world)).unwrap();
    let args: Vec<&str> =
        ["reconcile", "--since", "2h", "--until", "now"].into_iter().chain(more.iter().copied()).collect();
    let mut command = program(world.folder.path(), &args);
    command.envs(world.environment());
    finish(command, None).await
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
    for args in [&["--since", "yesterday"][..], &["--since", "now", "--until", "1h"], &[]] {
        let args: Vec<&str> = ["reconcile"].into_iter().chain(args.iter().copied()).collect();
        let mut command = program(world.folder.path(), &args);
        command.envs(world.environment());
        let ran = finish(command, None).await;
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
    }
}
