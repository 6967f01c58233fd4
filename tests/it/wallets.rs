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
    // A whole word: the hexadecimal digits of an id spell it now and then.
    let mut words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
    assert!(!words.any(|word| word == "fee" || word == "fees"), "{text}");
    for word in
        ["stripe", "txn_", "client_paid", "promotion", "revenue", "clearing", "debit", "credit\"", "source"]
    {
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
    let pending = buy(&gateway, "p", None, &order).await;
    assert_eq!((pending.status, pending.code().as_str()), (503, "topup_pending"), "{}", pending.text());
    let named = pending.json()["clientId"].as_str().unwrap_or_default().to_owned();
    assert!(named.starts_with("pck_") && named == pending.receipt().client_id, "{}", pending.text());
    assert_eq!(pending.header("cache-control"), Some("no-store"));
    world.clear_faults().await;
    gateway.stop().await;
}

/// With top-ups of 5.00 to 10.00.
async fn small_top_ups() -> World {
    let mut world = World::with_webhooks("").await;
    world.packs = "[top_up]\nminimum = \"5.00\"\nmaximum = \"10.00\"\nmax_balance = \"100.00\"\n".to_owned();
    world.routes = "[[routes]]\npath = \"/api/weather\"\nprice = \"9.00\"\n".to_owned();
    world
}

/// A wallet that owes 27.00: three top-ups of 10.00 were taken back after 27.00 of them had been spent. Its key, and its card.
async fn debtor(world: &World, gateway: &Gateway<'_>) -> (String, String) {
    let card = world.tokenise(GOOD).await;
    let order = json!({ "paymentMethodId": card, "topUpAmount": 100_000 });
    let client = buy(gateway, "first", None, &order).await.receipt().client_id;
    for key in ["second", "third"] {
        assert_eq!(buy(gateway, key, Some(&client), &order).await.status, 201);
    }
    for _ in 0..3 {
        assert_eq!(gateway.pay("/api/weather", &Pay::client(&client)).await.status, 200);
    }
    world.applied().await;
    for row in rows(&world.database, "SELECT payment_intent FROM top_ups ORDER BY id").await {
        world.sim("/refunds", json!({ "payment_intent": row.try_get::<String, _>(0).unwrap() })).await;
    }
    until("it is taken back", async || {
        number(&world.database, "SELECT debt FROM clients").await == 27_000_000
    })
    .await;
    world.applied().await;
    (client, card)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_debt_above_the_largest_top_up_is_worked_off_in_parts() {
    let world = small_top_ups().await;
    let gateway = world.gateway().await;
    world.deliver_to(&gateway).await;
    let (client, card) = debtor(&world, &gateway).await;
    let before = world.succeeded_charges().await.len();
    let pays = [
        Pay::client(&client),
        Pay::client(&client).with_card(&card),
        Pay::client(&client).with_card(&card).top_up(100_000),
        Pay::card(&card),
    ];
    for pay in &pays {
        let refused = gateway.pay("/api/weather", pay).await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (403, "debt_above_maximum"),
            "{}",
            refused.text()
        );
        let told = refused.json()["message"].as_str().unwrap().to_owned();
        assert!(told.contains("POST /billing/top-ups") && told.contains("27.00 USD"), "{told}");
        assert_eq!(refused.json()["debt"], 270_000);
        assert!(refused.header("payment-required").is_none(), "nothing is offered that cannot succeed");
    }
    assert_eq!(world.succeeded_charges().await.len(), before, "no card was charged");

    // In parts of any size that can be charged: what is left is told, and it stays frozen.
    for (key, amount, charged, left) in [
        ("a", Some(100_000), 100_000, "17.00"),
        ("b", None, 50_000, "12.00"),
        ("c", Some(100_000), 100_000, "2.00"),
    ] {
        let mut order = json!({ "paymentMethodId": card });
        if let Some(amount) = amount {
            order["topUpAmount"] = json!(amount);
        }
        let paid = buy(&gateway, key, Some(&client), &order).await;
        let body = paid.json();
        assert_eq!((paid.status, &body["amount"]), (201, &json!(charged)), "{body}");
        assert_eq!((&body["frozen"], &body["spendable"]), (&json!(true), &json!(0)), "{body}");
        assert!(body["message"].as_str().unwrap().contains(&format!("debt of {left} USD")), "{body}");
        // The debt and the price together are still more than one top-up may be.
        let refused = gateway.pay("/api/weather", &Pay::client(&client)).await;
        assert_eq!(refused.code(), "debt_above_maximum", "{left}");
    }
    let last = buy(&gateway, "d", Some(&client), &json!({ "paymentMethodId": card })).await.json();
    assert_eq!((&last["balance"], &last["frozen"]), (&json!(30_000), &Value::Null), "{last}");
    // From here on one top-up does it, and the offer says which.
    let short = gateway.pay("/api/weather", &Pay::client(&client)).await;
    let offer = decoded(&short, "payment-required");
    assert_eq!(
        (&offer["accepts"][0]["minTopUp"], &offer["accepts"][0]["maxTopUp"]),
        (&json!(60_000), &json!(100_000))
    );
    let served = gateway.pay("/api/weather", &Pay::client(&client).with_card(&card).top_up(60_000)).await;
    assert_eq!(served.status, 200, "{}", served.text());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_wallet_is_offered_is_accepted_as_it_is() {
    let world = small_top_ups().await;
    let gateway = world.gateway().await;
    world.deliver_to(&gateway).await;
    let (client, card) = debtor(&world, &gateway).await;
    // Too dear for the caller: the offer is for this wallet, which could not pay it at once.
    let dear = gateway.pay("/api/weather", &Pay::client(&client).max(1)).await;
    assert_eq!((dear.status, dear.code().as_str()), (402, "price_above_max"));
    assert_eq!(decoded(&dear, "payment-required")["accepts"], json!([]));
    for (key, amount) in [("a", 100_000), ("b", 100_000), ("c", 60_000)] {
        let order = json!({ "paymentMethodId": card, "topUpAmount": amount });
        assert_eq!(buy(&gateway, key, Some(&client), &order).await.status, 201);
    }
    // 1.00 of debt and 9.00 of price are one top-up of 10.00.
    for pay in [Pay::client(&client), Pay::client(&client).max(1)] {
        let offer = decoded(&gateway.pay("/api/weather", &pay).await, "payment-required");
        assert_eq!(
            (&offer["accepts"][0]["minTopUp"], &offer["accepts"][0]["maxTopUp"]),
            (&json!(100_000), &json!(100_000))
        );
        let options = offer["topUpOptions"].as_array().unwrap();
        assert_eq!(options.len(), 1, "{offer}");
        assert_eq!((&options[0]["amount"], &options[0]["credits"]), (&json!(100_000), &json!(90_000)));
    }
    let short = gateway.pay("/api/weather", &Pay::client(&client).with_card(&card).top_up(50_000)).await;
    assert_eq!((short.status, short.code().as_str()), (402, "top_up_below_minimum"));
    let served = gateway.pay("/api/weather", &Pay::client(&client).with_card(&card).top_up(100_000)).await;
    assert_eq!((served.status, served.receipt().credits_remaining.unwrap()), (200, 0), "{}", served.text());

    // A wallet that holds nearly all it may is offered no more than fits, and what does not fit is refused.
    for key in 0..9 {
        let order = json!({ "paymentMethodId": card, "topUpAmount": 100_000 });
        assert_eq!(buy(&gateway, &key.to_string(), Some(&client), &order).await.status, 201);
    }
    let order = |amount: i64| json!({ "paymentMethodId": card, "topUpAmount": amount });
    assert_eq!(buy(&gateway, "x", Some(&client), &order(50_000)).await.status, 201);
    let over = buy(&gateway, "y", Some(&client), &order(60_000)).await;
    assert_eq!((over.status, over.code().as_str()), (402, "invalid_payment"), "{}", over.text());
    let offer = decoded(&over, "payment-required");
    assert_eq!(
        (&offer["accepts"][0]["minTopUp"], &offer["accepts"][0]["maxTopUp"]),
        (&json!(50_000), &json!(50_000))
    );
    assert_eq!(buy(&gateway, "z", Some(&client), &order(50_000)).await.status, 201);
    let full = buy(&gateway, "w", Some(&client), &order(50_000)).await;
    assert_eq!((full.status, full.code().as_str()), (409, "wallet_full"), "{}", full.text());
    gateway.stop().await;
}
