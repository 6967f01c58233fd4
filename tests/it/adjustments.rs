//! What operators give: credit that is never refunded, debt that is written off; once a key, and so much a day at most.

use serde_json::{Value, json};

use crate::operator::{NAME, Office, Wallet};
use crate::support::http::Answer;
use crate::support::program::until;
use crate::support::{GOOD, GOOD_CARDS, Pay, World, number, rows};

async fn adjust(office: &Office<'_>, id: &str, key: Option<&str>, body: &Value) -> Answer {
    let headers: Vec<(&str, &str)> = key.map(|key| ("idempotency-key", key)).into_iter().collect();
    office.ask("POST", &format!("/clients/{id}/adjustments"), &headers, Some(body)).await
}

async fn entries(office: &Office<'_>, wallet: &Wallet) -> Vec<Value> {
    let url = format!("{}/billing/entries", office.gateway.url);
    let authorization = format!("Bearer {}", wallet.key);
    let answer = office.world.client.send("GET", &url, &[("authorization", &authorization)], None).await;
    answer.json()["entries"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn credit_is_given_once_a_key_and_can_be_spent_but_not_refunded() {
    let world = World::new().await;
    let office = Office::new(&world).await;
    let wallet = office.wallet().await;
    let body = json!({ "credit": "5.00", "reason": "for the outage" });
    let made = adjust(&office, &wallet.public_id, Some("a"), &body).await;
    assert_eq!(made.status, 200, "{}", made.text());
    let told = made.json();
    assert_eq!(
        (&told["kind"], &told["amount"], &told["currency"]),
        (&json!("credit"), &json!("5.00"), &json!("usd"))
    );
    assert_eq!((&told["operator"], &told["reason"]), (&json!(NAME), &json!("for the outage")));
    assert_eq!((&told["balance"], &told["debt"]), (&json!("26.00"), &json!("0.00")));
    let again = adjust(&office, &wallet.public_id, Some("a"), &body).await;
    assert_eq!((again.status, &again.json()["id"]), (200, &told["id"]), "the same key adjusts once");
    assert_eq!(office.gateway.balance(&wallet.key).await, 260_000);
    let other = office.wallet_of("5555555555554444").await;
    for (id, changed) in [
        (&wallet.public_id, json!({ "credit": "5.01", "reason": "for the outage" })),
        (&wallet.public_id, json!({ "credit": "5.00", "reason": "for nothing" })),
        (&wallet.public_id, json!({ "writeOffDebt": "5.00", "reason": "for the outage" })),
        (&other.public_id, body.clone()),
    ] {
        let refused = adjust(&office, id, Some("a"), &changed).await;
        assert_eq!((refused.status, refused.code().as_str()), (422, "idempotency_mismatch"), "{changed}");
    }
    // Paid credit alone goes back to the card.
    let too_much = office.refund("r", &json!({ "topUp": wallet.top_up, "amount": "20.01" })).await;
    assert_eq!(too_much.status, 409, "{}", too_much.text());
    assert_eq!(office.refund("s", &json!({ "topUp": wallet.top_up })).await.status, 200);
    assert_eq!(office.gateway.balance(&wallet.key).await, 50_000, "what was given is left");
    assert_eq!(office.gateway.pay("/api/weather", &Pay::client(&wallet.key)).await.status, 200);
    let given: Vec<_> =
        entries(&office, &wallet).await.into_iter().filter(|entry| entry["kind"] == "adjustment").collect();
    assert_eq!(given.len(), 1);
    assert_eq!((&given[0]["part"], &given[0]["changeExact"]), (&json!("bonus"), &json!("5.00")));
    let listed =
        office.ask("GET", &format!("/clients/{}/adjustments", wallet.public_id), &[], None).await.json();
    assert_eq!(listed["adjustments"].as_array().unwrap().len(), 1, "{listed}");
    office.done().await;
}

/// Prices may be finer than the smallest coin, and so may be what is given for one.
#[tokio::test(flavor = "multi_thread")]
async fn a_fraction_of_the_smallest_coin_is_given_and_shown_exactly() {
    let world = World::new().await;
    let office = Office::new(&world).await;
    let wallet = office.wallet().await;
    let id = wallet.public_id.as_str();
    let ran = office.run(&["adjust", id, "--credit", "0.000001", "--reason", "one call"]).await;
    assert!(ran.code == 0 && ran.out.contains("\n0.000001 USD given to client"), "{ran:?}");
    assert!(ran.out.contains("it holds 21.000001 USD"), "{ran:?}");
    let given = entries(&office, &wallet).await.remove(0);
    assert_eq!(
        (&given["changeExact"], &given["balanceAfterExact"]),
        (&json!("0.000001"), &json!("21.000001"))
    );
    let listed = office.ask("GET", &format!("/clients/{id}/adjustments"), &[], None).await.json();
    assert_eq!(listed["adjustments"][0]["amount"], "0.000001");
    let url = format!("{}/billing/balance", office.gateway.url);
    let bearer = format!("Bearer {}", wallet.key);
    let told = world.client.send("GET", &url, &[("authorization", &bearer)], None).await.json();
    assert_eq!((&told["balance"], &told["balanceExact"]), (&json!(210_000), &json!("21.000001")));
    office.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_adjustment_is_refused() {
    let world = World::new().await;
    let office = Office::new(&world).await;
    let wallet = office.wallet().await;
    let id = wallet.public_id.as_str();
    let good = json!({ "credit": "1.00", "reason": "x" });
    for (id, key, body, status, code) in [
        (id, None, good.clone(), 400, "invalid_request"),
        (id, Some("k"), json!({ "credit": "1.00" }), 400, "invalid_request"),
        (id, Some("k"), json!({ "credit": "1.00", "reason": " " }), 400, "invalid_request"),
        (id, Some("k"), json!({ "credit": "0", "reason": "x" }), 400, "invalid_request"),
        (id, Some("k"), json!({ "credit": "-1", "reason": "x" }), 400, "invalid_request"),
        (id, Some("k"), json!({ "credit": "all", "reason": "x" }), 400, "invalid_request"),
        (id, Some("k"), json!({ "credit": null, "reason": "x" }), 400, "invalid_request"),
        (id, Some("k"), json!({ "credit": 1, "reason": "x" }), 400, "invalid_request"),
        (id, Some("k"), json!({ "reason": "x" }), 400, "invalid_request"),
        (id, Some("k"), json!({ "credit": "1", "writeOffDebt": "1", "reason": "x" }), 400, "invalid_request"),
        (
            id,
            Some("k"),
            json!({ "credit": "1", "reason": "4242 4242 4242 4242" }),
            400,
            "raw_card_data_rejected",
        ),
        (id, Some("k"), json!({ "writeOffDebt": "all", "reason": "x" }), 409, "exceeds_debt"),
        (id, Some("k"), json!({ "writeOffDebt": "0.01", "reason": "x" }), 409, "exceeds_debt"),
        (id, Some("k"), json!({ "credit": "100.01", "reason": "x" }), 409, "daily_limit"),
        ("0190a000-0000-7000-8000-000000000000", Some("k"), good.clone(), 404, "not_found"),
    ] {
        let refused = adjust(&office, id, key, &body).await;
        assert_eq!((refused.status, refused.code().as_str()), (status, code), "{body}: {}", refused.text());
    }
    let url = format!("{}/admin/api/clients/{id}/adjustments", office.gateway.admin_url);
    let body = good.to_string();
    let nobody = [("idempotency-key", "k"), ("authorization", "Basic ZnJpZGE6d3Jvbmc=")];
    let refused = world.client.send("POST", &url, &nobody, Some(("application/json", body.as_bytes()))).await;
    assert_eq!(refused.status, 401);
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM adjustments").await, 0);
    assert_eq!(office.gateway.balance(&wallet.key).await, 210_000);
    office.done().await;
}

/// What the seller has let a payer off was never the payer's money, whatever comes back later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_off_never_comes_back_as_credit_that_can_be_refunded() {
    const ADJUSTMENT: &str = "SELECT CAST(COALESCE(SUM(CASE WHEN debit = 10 THEN amount ELSE -amount END), 0) AS BIGINT) FROM entries \
                              WHERE debit = 10 OR credit = 10";
    for (nth, comes_back) in ["dispute", "refund that fails late"].into_iter().enumerate() {
        let world = World::with_webhooks("").await;
        let office = Office::new(&world).await;
        world.deliver_to(&office.gateway).await;
        let wallet = office.wallet_of(GOOD_CARDS[nth]).await;
        let id = wallet.public_id.as_str();
        for _ in 0..3 {
            assert_eq!(office.gateway.pay("/api/report", &Pay::client(&wallet.key)).await.status, 200);
        }
        let debt = async || number(&world.database, "SELECT debt FROM clients").await;
        let taken = match comes_back {
            "dispute" => world.sim(&format!("/payment_intents/{}/dispute", wallet.intent), json!({})).await,
            _ => world.sim("/refunds", json!({ "payment_intent": wallet.intent })).await,
        };
        let taken = taken["id"].as_str().unwrap();
        until("what is spent is owed", async || debt().await >= 2_000_000).await;
        let owed = debt().await;
        let body = json!({ "writeOffDebt": "all", "reason": "a gesture" });
        assert_eq!(adjust(&office, id, Some("w"), &body).await.status, 200);
        match comes_back {
            "dispute" => {
                world.sim(&format!("/disputes/{taken}/reinstate"), json!({})).await;
                world.sim(&format!("/disputes/{taken}/close"), json!({ "status": "won" })).await;
            }
            _ => {
                world.sim(&format!("/refunds/{taken}/finish"), json!({ "outcome": "failed" })).await;
            }
        }
        until("it is back", async || {
            let all = "SELECT COUNT(*) FROM entries WHERE source LIKE 'reinstatement:%' OR source LIKE 'refund-return:%'";
            number(&world.database, all).await > 0
        })
        .await;
        world.applied().await;
        let paid = number(&world.database, "SELECT paid FROM clients").await;
        assert_eq!(paid, 20_000_000 - owed, "{comes_back}: only what had not been spent is back");
        assert_eq!(
            number(&world.database, ADJUSTMENT).await,
            0,
            "{comes_back}: what was given is not needed any more"
        );
        // The payer sees both: what came back, and what was not the payer's.
        let newest = entries(&office, &wallet).await.remove(0);
        assert_eq!(
            (&newest["kind"], &newest["part"], &newest["changeExact"]),
            (&json!("adjustment"), &json!("paid"), &json!("-3.00"))
        );
        let too_much = office.refund("more", &json!({ "topUp": wallet.top_up, "amount": "19.99" })).await;
        assert_eq!(too_much.status, 409, "{comes_back}: {}", too_much.text());
        world.assert_clearing_is_stripes().await;
        office.gateway.stop().await;
    }
}

/// A debt that was let off for good stays let off: what another dispute gives back is the payer's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_off_for_a_lost_dispute_is_not_taken_from_a_later_one_that_is_won() {
    let world = World::with_webhooks("").await;
    let office = Office::new(&world).await;
    world.deliver_to(&office.gateway).await;
    let wallet = office.wallet_of(GOOD).await;
    assert_eq!(office.gateway.pay("/api/report", &Pay::client(&wallet.key)).await.status, 200);
    let dispute = async |intent: &str| {
        let opened = world.sim(&format!("/payment_intents/{intent}/dispute"), json!({})).await;
        opened["id"].as_str().unwrap().to_owned()
    };
    let wallet_is = async |paid: i64, debt: i64| {
        until(&format!("{paid} paid, {debt} owed"), async || {
            let rows = rows(&world.database, "SELECT paid, debt FROM clients").await;
            rows[0].try_get::<i64, _>(0).unwrap() == paid && rows[0].try_get::<i64, _>(1).unwrap() == debt
        })
        .await;
    };
    let lost = dispute(&wallet.intent).await;
    until("it is owed", async || number(&world.database, "SELECT debt FROM clients").await > 0).await;
    let owed = number(&world.database, "SELECT debt FROM clients").await;
    world.sim(&format!("/disputes/{lost}/close"), json!({ "status": "lost" })).await;
    world.applied().await;
    let body = json!({ "writeOffDebt": "all", "reason": "let off" });
    assert_eq!(adjust(&office, &wallet.public_id, Some("w"), &body).await.status, 200);
    assert_eq!(office.run(&["unfreeze", &wallet.public_id]).await.code, 0);
    assert!(owed > 0);
    // A second charge, of which as much is spent, is disputed, and that is won.
    let (url, authorization) =
        (format!("{}/billing/top-ups", office.gateway.url), format!("Bearer {}", wallet.key));
    let body =
        json!({ "paymentMethodId": world.tokenise(GOOD_CARDS[1]).await, "topUpAmount": 50_000 }).to_string();
    let headers = [("idempotency-key", "second"), ("authorization", authorization.as_str())];
    let topped_up =
        world.client.send("POST", &url, &headers, Some(("application/json", body.as_bytes()))).await;
    assert_eq!(topped_up.status, 201, "{}", topped_up.text());
    assert_eq!(office.gateway.pay("/api/report", &Pay::client(&wallet.key)).await.status, 200);
    let paid = number(&world.database, "SELECT paid FROM clients").await;
    let newest =
        rows(&world.database, "SELECT payment_intent, amount FROM top_ups ORDER BY id DESC LIMIT 1").await;
    let (intent, amount): (String, i64) = (newest[0].try_get(0).unwrap(), newest[0].try_get(1).unwrap());
    let second = dispute(&intent).await;
    wallet_is(0, amount - paid).await;
    world.sim(&format!("/disputes/{second}/reinstate"), json!({})).await;
    world.sim(&format!("/disputes/{second}/close"), json!({ "status": "won" })).await;
    wallet_is(paid, 0).await;
    world.applied().await;
    let given = "SELECT CAST(SUM(amount) AS BIGINT) FROM entries WHERE debit = 10";
    assert_eq!(number(&world.database, given).await, owed);
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM entries WHERE credit = 10").await, 0);
    world.assert_clearing_is_stripes().await;
    office.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_daily_limit_holds_for_all_operators_and_nodes_at_once() {
    let world = World::with("adjustments.max_a_day = \"10.00\"\n", crate::support::ROUTES).await;
    let office = Office::new(&world).await;
    let (one, other) = (office.wallet().await, office.wallet_of("5555555555554444").await);
    let second = if world.database.is_shared() { Some(Office::again(&world).await) } else { None };
    let body = json!({ "credit": "3.00", "reason": "many at once" });
    let asked = (0..12).map(|n: usize| {
        let desk = if n.is_multiple_of(2) { &office } else { second.as_ref().unwrap_or(&office) };
        let wallet = if n.is_multiple_of(3) { &one } else { &other };
        let (key, body) = (format!("k{n}"), body.clone());
        async move { adjust(desk, &wallet.public_id, Some(&key), &body).await }
    });
    let answers = futures_util::future::join_all(asked).await;
    let given = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(given, 3, "9.00 of 10.00");
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!((answer.status, answer.code().as_str()), (409, "daily_limit"), "{}", answer.text());
    }
    let all =
        number(&world.database, "SELECT CAST(SUM(amount) AS BIGINT) FROM entries WHERE debit = 10").await;
    assert_eq!(all, 9_000_000);
    // What fits is still given, and a day later all of it.
    let rest =
        adjust(&office, &one.public_id, Some("rest"), &json!({ "credit": "1.00", "reason": "x" })).await;
    assert_eq!(rest.status, 200, "{}", rest.text());
    crate::support::change(
        &world.database,
        "UPDATE adjustments SET created_at = created_at - 86400000001",
        &[],
    )
    .await;
    let later =
        adjust(&office, &one.public_id, Some("later"), &json!({ "credit": "10.00", "reason": "x" })).await;
    assert_eq!(later.status, 200, "{}", later.text());
    if let Some(second) = second {
        second.gateway.stop().await;
    }
    office.done().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debt_is_written_off_in_part_or_whole_from_the_command_line() {
    let world = World::with_webhooks("").await;
    let office = Office::new(&world).await;
    world.deliver_to(&office.gateway).await;
    let wallet = office.wallet_of(GOOD).await;
    for _ in 0..3 {
        assert_eq!(office.gateway.pay("/api/report", &Pay::client(&wallet.key)).await.status, 200);
    }
    world.sim("/refunds", json!({ "payment_intent": wallet.intent })).await;
    until("3.00 are owed", async || number(&world.database, "SELECT debt FROM clients").await == 3_000_000)
        .await;
    let id = wallet.public_id.as_str();
    let part =
        office.run(&["adjust", id, "--write-off-debt", "1.25", "--reason", "half of it", "--key", "p"]).await;
    assert_eq!(part.code, 0, "{part:?}");
    assert!(
        part.out.contains("1.25 USD of the debt of client") && part.out.contains("owes 1.75 USD"),
        "{part:?}"
    );
    assert!(part.out.contains("frozen"), "{part:?}");
    let too_much = office.run(&["adjust", id, "--write-off-debt", "1.76", "--reason", "x"]).await;
    assert_eq!(too_much.code, 1);
    assert!(too_much.err.contains("exceeds_debt"), "{too_much:?}");
    let whole = office.run(&["adjust", id, "--write-off-debt", "--reason", "the rest", "--key", "w"]).await;
    assert_eq!(whole.code, 0, "{whole:?}");
    assert!(
        whole.out.contains("1.75 USD of the debt of client") && whole.out.contains("owes 0.00 USD"),
        "{whole:?}"
    );
    let again = office.run(&["adjust", id, "--write-off-debt", "--reason", "the rest", "--key", "w"]).await;
    assert_eq!((again.code, &again.out), (0, &whole.out), "the same key adjusts once");
    let gift = office.run(&["adjust", id, "--credit", "2.00", "--reason", "sorry"]).await;
    assert_eq!(gift.code, 0, "{gift:?}");
    assert!(gift.out.starts_with("key: ") && gift.out.contains("2.00 USD given to client"), "{gift:?}");
    for wrong in [
        &["adjust", id, "--reason", "x"][..],
        &["adjust", id, "--credit", "1.00"],
        &["adjust", id, "--credit", "1.00", "--write-off-debt", "--reason", "x"],
        &["adjust", id, "--credit", "0", "--reason", "x"],
    ] {
        assert_eq!(office.run(wrong).await.code, 2, "{wrong:?}");
    }
    assert_eq!(
        office.gateway.pay("/api/report", &Pay::client(&wallet.key)).await.status,
        200,
        "it spends again"
    );
    let stored =
        rows(&world.database, "SELECT kind, amount, reason, operator FROM adjustments ORDER BY id").await;
    let stored: Vec<(String, i64, String, String)> = stored
        .iter()
        .map(|row| {
            (
                row.try_get(0).unwrap(),
                row.try_get(1).unwrap(),
                row.try_get(2).unwrap(),
                row.try_get(3).unwrap(),
            )
        })
        .collect();
    let row =
        |kind: &str, amount, reason: &str| (kind.to_owned(), amount, reason.to_owned(), NAME.to_owned());
    assert_eq!(
        stored,
        [
            row("write_off_debt", 1_250_000, "half of it"),
            row("write_off_debt", 1_750_000, "the rest"),
            row("credit", 2_000_000, "sorry"),
        ]
    );
    let parts: Vec<String> = entries(&office, &wallet)
        .await
        .iter()
        .filter(|entry| entry["kind"] == "adjustment")
        .map(|entry| {
            format!("{} {}", entry["part"].as_str().unwrap(), entry["changeExact"].as_str().unwrap())
        })
        .collect();
    assert_eq!(parts, ["bonus 2.00", "debt -1.75", "debt -1.25"]);
    world.applied().await;
    world.assert_clearing_is_stripes().await;
    // `verify` knows the rows and the entries of each other.
    for (sql, found) in [
        ("UPDATE adjustments SET amount = amount + 1 WHERE kind = 'credit'", "its entry is not its client"),
        ("DELETE FROM adjustments WHERE kind = 'credit'", "there is no such adjustment"),
    ] {
        crate::support::change(&world.database, sql, &[]).await;
        let report = crate::support::verify(&world.database).await;
        assert!(
            report.findings.iter().any(|finding| finding.contains(found)),
            "{sql}: {:?}",
            report.findings
        );
    }
    office.gateway.stop().await;
}
