//! What payers are told of their wallets: every movement of their own, in words of theirs; what is frozen, and why; amounts as
//! their currency writes them; and offers, which are accepted as they are.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::operator::Office;
use crate::support::http::Answer;
use crate::support::program::until;
use crate::support::{GOOD, Gateway, Pay, World, number, rows};

/// A header's JSON, with what the library's own types do not know.
fn decoded(answer: &Answer, header: &str) -> Value {
    let value = answer.header(header).unwrap_or_else(|| panic!("no {header} in {answer:?}"));
    serde_json::from_slice(&STANDARD.decode(value).unwrap()).unwrap()
}

async fn billing(gateway: &Gateway<'_>, path: &str, client: &str) -> Value {
    let authorization = format!("Bearer {client}");
    let url = format!("{}/billing{path}", gateway.url);
    let answer = gateway.world.client.send("GET", &url, &[("authorization", &authorization)], None).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

async fn buy(gateway: &Gateway<'_>, key: &str, client: Option<&str>, body: &Value) -> Answer {
    let authorization = client.map(|client| format!("Bearer {client}"));
    let mut headers = vec![("idempotency-key", key)];
    headers.extend(authorization.iter().map(|value| ("authorization", value.as_str())));
    let body = body.to_string();
    let url = format!("{}/billing/top-ups", gateway.url);
    gateway.world.client.send("POST", &url, &headers, Some(("application/json", body.as_bytes()))).await
}

/// `-1.50` in micros.
fn micros(text: &str) -> i64 {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    sign * prepaid402::domain::Micros::parse_major(digits).unwrap().get()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payer_sees_every_movement_of_its_own_and_nothing_of_the_sellers() {
    let world = World::with_webhooks("").await;
    let gateway = world.gateway().await;
    world.deliver_to(&gateway).await;
    let card = world.tokenise(GOOD).await;
    let bought = buy(&gateway, "k", None, &json!({ "paymentMethodId": card, "topUpAmount": 200_000 })).await;
    let client = bought.receipt().client_id;
    assert_eq!(gateway.pay("/api/weather", &Pay::client(&client)).await.status, 200);
    let (intent, wallet) = world.intent_of(&client).await;
    let refund = world.sim("/refunds", json!({ "payment_intent": intent, "amount": 495 })).await;
    until("the refund is booked", async || world.wallet(wallet).await.0 == 15_000_000).await;
    let id = refund["id"].as_str().unwrap();
    world.sim(&format!("/refunds/{id}/finish"), json!({ "outcome": "failed" })).await;
    until("it is back", async || world.wallet(wallet).await.0 == 19_950_000).await;
    world.sim(&format!("/payment_intents/{intent}/dispute"), json!({})).await;
    until("it is taken", async || world.wallet(wallet).await.2 == 50_000).await;
    world.applied().await;
    let hidden = "SELECT COUNT(*) FROM entries WHERE source LIKE 'fee:%' OR source LIKE 'dispute-fee:%'";
    assert!(number(&world.database, hidden).await >= 2, "the seller's fees are in the books");

    let statement = billing(&gateway, "/entries", &client).await;
    let entries = statement["entries"].as_array().unwrap();
    let mut kinds: Vec<&str> = entries.iter().map(|entry| entry["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, ["bonus", "dispute", "refund", "refund_returned", "topup", "usage"]);
    let text = statement.to_string();
    for word in [
        "fee",
        "stripe",
        "txn_",
        "client_paid",
        "promotion",
        "revenue",
        "clearing",
        "debit",
        "credit\"",
        "source",
    ] {
        assert!(!text.contains(word), "{word} in {text}");
    }
    // The lines make the balance.
    let balance = billing(&gateway, "/balance", &client).await;
    for (part, held) in [("paid", "paid"), ("bonus", "bonus"), ("debt", "debt")] {
        let lines = entries.iter().filter(|entry| entry["part"] == part);
        let sum: i64 = lines.map(|entry| micros(entry["changeExact"].as_str().unwrap())).sum();
        assert_eq!(sum, balance[held].as_i64().unwrap() * 100, "{part}: {balance}");
    }
    let usage = entries.iter().find(|entry| entry["kind"] == "usage").unwrap();
    assert_eq!((&usage["amountExact"], &usage["upstreamStatus"]), (&json!("0.05"), &json!(200)));
    assert!(usage["requestId"].is_string() && usage["route"] == "GET /api/weather", "{usage}");
    let topup = entries.iter().find(|entry| entry["kind"] == "topup").unwrap();
    assert_eq!(topup["topUpId"], bought.json()["id"]);

    // Pages skip what is hidden, and end.
    let (mut paged, mut path) = (Vec::new(), "/entries?limit=1".to_owned());
    loop {
        let page = billing(&gateway, &path, &client).await;
        let lines = page["entries"].as_array().unwrap();
        assert_eq!(lines.len(), 1, "no page is empty");
        paged.extend(lines.iter().cloned());
        if page["nextCursor"].is_null() {
            break;
        }
        path = format!("/entries?limit=1&cursor={}", page["nextCursor"]);
    }
    assert_eq!(&paged, entries);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_wallet_is_told_so_wherever_its_balance_is_told() {
    let world = World::with_webhooks("").await;
    let office = Office::new(&world).await;
    let gateway = &office.gateway;
    world.deliver_to(gateway).await;
    let wallet = office.wallet().await;
    let frozen = office.ask("POST", &format!("/clients/{}/freeze", wallet.public_id), &[], None).await;
    assert_eq!(frozen.status, 200, "{}", frozen.text());
    let balance = billing(gateway, "/balance", &wallet.key).await;
    assert_eq!(
        (&balance["balance"], &balance["balanceExact"]),
        (&json!(210_000), &json!("21.00")),
        "as it is"
    );
    assert_eq!((&balance["spendable"], &balance["spendableExact"]), (&json!(0), &json!("0.00")));
    assert_eq!(balance["frozen"], true);
    assert!(balance["message"].as_str().unwrap().contains("frozen"), "{balance}");

    let refused = gateway.pay("/api/weather", &Pay::client(&wallet.key)).await;
    assert_eq!((refused.status, refused.code().as_str()), (403, "client_frozen"));
    let (body, note) = (refused.json(), decoded(&refused, "payment-response"));
    for told in [&body["message"], &body["detail"], &note["error"]] {
        let told = told.as_str().unwrap();
        assert!(told.contains("frozen") && told.contains("21.00 USD") && !told.contains("0.00"), "{told}");
    }
    assert_eq!(
        (&body["balance"], &body["spendable"], &body["frozen"]),
        (&json!(210_000), &json!(0), &json!(true))
    );
    assert_eq!(
        (&note["creditsRemaining"], &note["spendable"], &note["frozen"]),
        (&json!(210_000), &json!(0), &json!(true))
    );

    // By a debt: half of it is spent, and everything is taken back.
    let client = gateway.new_client("/api/weather").await;
    let (intent, number) = world.intent_of(&client).await;
    world.sim("/refunds", json!({ "payment_intent": intent })).await;
    until("it is taken back", async || world.wallet(number).await.2 == 50_000).await;
    let balance = billing(gateway, "/balance", &client).await;
    assert_eq!(
        (&balance["frozen"], &balance["debt"], &balance["debtExact"]),
        (&json!(true), &json!(500), &json!("0.05"))
    );
    assert!(balance["message"].as_str().unwrap().contains("debt of 0.05 USD"), "{balance}");
    let refused = gateway.pay("/api/weather", &Pay::client(&client)).await;
    assert_eq!((refused.status, refused.code().as_str()), (402, "insufficient_credits"));
    let (offer, note) = (decoded(&refused, "payment-required"), decoded(&refused, "payment-response"));
    for told in [&refused.json()["message"], &offer["message"], &note["error"]] {
        let told = told.as_str().unwrap();
        assert!(told.contains("frozen by a debt of 0.05 USD"), "{told}");
    }
    for told in [&offer, &note] {
        assert_eq!(
            (&told["frozen"], &told["spendable"], &told["debt"]),
            (&json!(true), &json!(0), &json!(500)),
            "{told}"
        );
    }
    office.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_read_amounts_as_their_currency_writes_them() {
    for (currency, prices, [minimum, pack, bonus, maximum], labels, charged) in [
        (
            "jpy",
            "5",
            ["500", "2000", "100", "50000"],
            ["500 JPY", "2000 JPY + 100 bonus"],
            "charged 500 JPY for",
        ),
        (
            "kwd",
            "0.05",
            ["1.5", "6", "0.25", "500"],
            ["1.500 KWD", "6.000 KWD + 0.250 bonus"],
            "charged 1.500 KWD for",
        ),
    ] {
        let routes = format!("[[routes]]\npath = \"/up/*\"\nprice = \"{prices}\"\n");
        let mut world = World::with(&format!("currency = \"{currency}\"\n"), &routes).await;
        world.packs = format!(
            "[top_up]\nmaximum = \"{maximum}\"\nmax_balance = \"500000\"\n[[top_up.options]]\namount = \"{minimum}\"\n\
             [[top_up.options]]\namount = \"{pack}\"\nbonus = \"{bonus}\"\n"
        );
        let office = Office::new(&world).await;
        let gateway = &office.gateway;
        let offered: Vec<String> = gateway
            .pay("/up/status/200", &Pay::card("pm_card_chargeDeclined"))
            .await
            .offer()
            .top_up_options
            .into_iter()
            .map(|option| option.label)
            .collect();
        assert_eq!(offered, labels);
        // Charged, and not sold: the note says what.
        let card = world.tokenise(GOOD).await;
        let unsold = gateway.pay("/up/status/404", &Pay::card(&card)).await;
        let told = unsold.receipt().error.unwrap();
        assert!(told.contains(charged) && told.contains(&format!("holds {}.", labels[0])), "{told}");
        let client = unsold.receipt().client_id;
        let checked = office
            .run(&[
                "freeze",
                &rows(&world.database, "SELECT public_id FROM clients").await[0]
                    .try_get::<String, _>(0)
                    .unwrap(),
            ])
            .await;
        assert!(checked.code == 0, "{checked:?}");
        let refused = gateway.pay("/up/status/200", &Pay::client(&client)).await;
        assert!(
            refused.json()["message"].as_str().unwrap().contains(&format!("holds {},", labels[0])),
            "{}",
            refused.text()
        );
        office.gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_id_of_a_top_up_stands_in_the_body_as_in_the_header() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let order = json!({ "paymentMethodId": world.tokenise(GOOD).await });
    for (status, replayed) in [(201, false), (200, true)] {
        let answer = buy(&gateway, "k", None, &order).await;
        assert_eq!((answer.status, &answer.json()["idempotentReplay"]), (status, &json!(replayed)));
        let named = answer.json()["clientId"].as_str().unwrap().to_owned();
        assert!(named.starts_with("pck_") && named == answer.receipt().client_id, "{}", answer.text());
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(gateway.balance(&named).await, 50_000);
    }
    // Not known yet whether it was charged.
    for on in ["payment_intents.confirm", "payment_intents.retrieve", "payment_intents.cancel"] {
        let action = if on == "payment_intents.confirm" { "drop" } else { "fail_before" };
        world.faults(json!({ "on": on, "action": action, "times": 1000 })).await;
    }
    let order = json!({ "paymentMethodId": world.tokenise("5555555555554444").await });
    for path in ["/billing/top-ups", "/api/weather"] {
        let pending = match path {
            "/api/weather" => gateway.pay(path, &Pay::card(order["paymentMethodId"].as_str().unwrap())).await,
            _ => buy(&gateway, "p", None, &order).await,
        };
        assert_eq!((pending.status, pending.code().as_str()), (503, "topup_pending"), "{}", pending.text());
        let named = pending.json()["clientId"].as_str().unwrap_or_default().to_owned();
        assert!(
            named.starts_with("pck_") && named == pending.receipt().client_id,
            "{path}: {}",
            pending.text()
        );
        assert_eq!(pending.header("cache-control"), Some("no-store"));
    }
    world.clear_faults().await;
    gateway.stop().await;
}
