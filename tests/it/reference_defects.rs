//! What the public reference implementation gets wrong and ours must not: one test for each defect that shows from outside.
//!
//! Elsewhere: parallel first requests and somebody else's card in `paid_request`, upstream failures in `upstream_faults`,
//! free spellings and methods in `pricing::paths`.

use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
use serde_json::json;

use crate::support::http::Answer;
use crate::support::raw::{Raw, status_of};
use crate::support::{DECLINED, GOOD, Gateway, Pay, ROUTES, World, change, number};

/// A `payment` header of exactly this JSON.
fn header(json: &str) -> String {
    STANDARD.encode(json)
}

async fn pay_with(gateway: &Gateway<'_>, header: &str) -> Answer {
    let url = format!("{}/api/weather", gateway.url);
    gateway.world.client.send("GET", &url, &[("payment", header)], None).await
}

/// Requests that reached Stripe, tokenising aside (that is the caller's own).
async fn stripe_calls(world: &World) -> i64 {
    let mut calls = world.stripe_calls().await;
    calls.remove("payment_methods.create");
    calls.values().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_a_card_number_is_no_password() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (victims, thiefs) = (world.tokenise(GOOD).await, world.tokenise(GOOD).await);
    let victim = gateway.pay("/api/weather", &Pay::card(&victims).top_up(200_000)).await.receipt();
    // The same card number, tokenised by anybody: another wallet, paid by a charge of its own.
    let thief = gateway.pay("/api/weather", &Pay::card(&thiefs)).await;
    assert_eq!(thief.status, 200, "{}", thief.text());
    let receipt = thief.receipt();
    assert!(receipt.charge_id.is_some(), "it paid for itself");
    assert_ne!(receipt.client_id, victim.client_id);
    assert_eq!(receipt.credits_remaining.unwrap(), 50_000 - 500);
    assert_eq!(gateway.balance(&victim.client_id).await, 210_000 - 500);
    assert!(!format!("{:?}{}", thief.headers, thief.text()).contains(&victim.client_id));
    // A declined attempt with that number shows nothing either.
    let refused = gateway.pay("/api/weather", &Pay::card(&world.tokenise(DECLINED).await)).await;
    assert_eq!((refused.status, refused.offer().balance), (402, None));
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r2_r3_an_unknown_outcome_is_never_called_failed_and_never_charged_twice() {
    // Side by side: each is retried for as long as a caller may wait.
    tokio::join!(unsure("drop"), unsure("unparsable"), unsure("html_502"), unsure("fail_after"));
}

async fn unsure(action: &str) {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let card = world.tokenise(GOOD).await;
    world.faults(json!([{ "on": "payment_intents.confirm", "action": action, "times": 50 }])).await;
    let unsure = gateway.pay("/api/weather", &Pay::card(&card)).await;
    assert_ne!(unsure.code(), "payment_failed", "{action}: {}", unsure.text());
    assert_ne!(unsure.code(), "card_declined", "{action}");
    if unsure.status != 200 {
        assert_eq!((unsure.status, unsure.code().as_str()), (503, "topup_pending"), "{action}");
        assert!(unsure.header("retry-after").is_some());
        assert!(!unsure.receipt().client_id.is_empty(), "{action}: the key that the credit will be under");
    }
    world.clear_faults().await;
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(gateway.pay("/api/weather", &Pay::card(&card)).await);
    }
    let last = answers.pop().unwrap();
    assert_eq!(last.status, 200, "{action}: {}", last.text());
    assert_eq!(last.receipt().client_id, unsure.receipt().client_id, "{action}");
    assert_eq!(world.succeeded_charges().await.len(), 1, "{action}: one charge");
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_an_amount_that_is_not_a_whole_number_in_range_never_reaches_stripe() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let card = world.tokenise(GOOD).await;
    let before = stripe_calls(&world).await;
    for amount in [
        "50000.5",
        "50000.0",
        "5e4",
        "1e308",
        "1e999",
        "-50000",
        "-0",
        "0",
        "1",
        "49999",
        "3000000000",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775809",
        "99999999999999999999999999",
        "NaN",
        "Infinity",
        "\"abc\"",
        "\"60000\"",
        "[60000]",
        "{}",
        "{\"amount\":60000}",
        "null",
        "true",
        "060000",
        "+60000",
        "6_0000",
        "0x60000",
        "",
    ] {
        let json =
            format!("{{\"stripe402Version\":1,\"paymentMethodId\":\"{card}\",\"topUpAmount\":{amount}}}");
        let answer = pay_with(&gateway, &header(&json)).await;
        assert_eq!(answer.status, 402, "{amount}: {}", answer.text());
        let code = answer.code();
        assert!(["invalid_payment", "top_up_below_minimum"].contains(&code.as_str()), "{amount}: {code}");
        assert!(answer.header("payment-required").is_some(), "{amount}");
    }
    assert_eq!(stripe_calls(&world).await, before);
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM top_ups").await, 0);
    assert_eq!(world.upstream.hits(), 0);
    // The control: the same header with a good amount works.
    let json = format!("{{\"stripe402Version\":1,\"paymentMethodId\":\"{card}\",\"topUpAmount\":60000}}");
    assert_eq!(pay_with(&gateway, &header(&json)).await.status, 200);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_what_is_charged_is_what_is_credited_to_the_cent() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    for amount in [50_001, 50_050, 50_099, 123_456] {
        let card = world.tokenise(GOOD).await;
        let answer = gateway.pay("/api/weather", &Pay::card(&card).top_up(amount)).await;
        assert_eq!((answer.status, answer.code().as_str()), (402, "invalid_payment"), "{amount}");
    }
    assert!(world.succeeded_charges().await.is_empty());
    for (amount, cents) in [(50_000, 500), (50_100, 501), (123_400, 1_234), (199_900, 1_999)] {
        let card = world.tokenise(GOOD).await;
        let receipt = gateway.pay("/api/weather", &Pay::card(&card).top_up(amount)).await.receipt();
        assert_eq!((receipt.top_up_amount, receipt.credits_remaining.unwrap()), (Some(amount), amount - 500));
        let charges = world.succeeded_charges().await;
        assert!(charges.iter().any(|(id, paid)| Some(id) == receipt.payment_id.as_ref() && *paid == cents));
    }
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r6_a_currency_without_cents_is_charged_in_its_own_coin() {
    let routes = "[[routes]]\npath = \"/api/weather\"\nprice = \"5\"\n";
    let mut world = World::with("currency = \"jpy\"\n", routes).await;
    world.packs = "[top_up]\nminimum = \"500\"\nmaximum = \"50000\"\nmax_balance = \"500000\"\n".into();
    let gateway = world.gateway().await;
    let card = world.tokenise(GOOD).await;
    let offer = gateway.get("/api/weather").await.offer();
    let requirement = &offer.accepts[0];
    assert_eq!(requirement.currency, "jpy");
    assert_eq!((requirement.amount, requirement.min_top_up), (50_000, 5_000_000));
    let half = gateway.pay("/api/weather", &Pay::card(&card).top_up(5_005_000)).await;
    assert_eq!(half.code(), "invalid_payment", "half a yen");
    let receipt = gateway.pay("/api/weather", &Pay::card(&card)).await.receipt();
    assert_eq!(receipt.credits_remaining.unwrap(), 5_000_000 - 50_000);
    let charges: Vec<i64> = world.succeeded_charges().await.into_iter().map(|(_, yen)| yen).collect();
    assert_eq!(charges, [500], "500 yen, not 50,000");
    gateway.stop().await;
    let report = crate::support::verify(&world.database).await;
    assert!(report.is_clean(), "{:#?}", report.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_first_top_ups_at_the_same_moment_all_keep_their_credit() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let mut headers = Vec::new();
    for _ in 0..8 {
        headers.push(Pay::card(&world.tokenise("5555555555554444").await).header());
        headers.push(Pay::card(&world.tokenise(GOOD).await).header());
    }
    let url = format!("{}/api/weather", gateway.url);
    let tasks: Vec<_> = headers
        .into_iter()
        .map(|header| {
            let (client, url) = (world.client.clone(), url.clone());
            tokio::spawn(async move {
                loop {
                    let answer = client.send("GET", &url, &[("payment", &header)], None).await;
                    // The same card number at the same moment may be told to come again, and nothing else.
                    if answer.status != 409 {
                        return answer;
                    }
                    assert_eq!(answer.code(), "topup_in_progress");
                }
            })
        })
        .collect();
    let mut clients = std::collections::BTreeSet::new();
    for task in tasks {
        let receipt = task.await.unwrap().receipt();
        assert_eq!(receipt.credits_remaining.unwrap(), 49_500);
        clients.insert(receipt.client_id);
    }
    assert_eq!(clients.len(), 16);
    for client in &clients {
        assert_eq!(gateway.balance(client).await, 49_500);
    }
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_nothing_is_served_without_its_deduction() {
    let routes = format!("{ROUTES}\n[[routes]]\npath = \"/dear\"\nprice = \"7.003\"\n");
    let world = World::with("", &routes).await;
    let gateway = world.gateway().await;
    let card = world.tokenise(GOOD).await;
    // A top-up that would not cover the price is not made.
    assert_eq!(gateway.get("/dear").await.offer().accepts[0].min_top_up, 70_100, "whole cents, and enough");
    let small = gateway.pay("/dear", &Pay::card(&card).top_up(70_000)).await;
    assert_eq!((small.status, small.code().as_str()), (402, "top_up_below_minimum"));
    assert!(world.succeeded_charges().await.is_empty());
    let enough = gateway.pay("/dear", &Pay::card(&card)).await.receipt();
    assert_eq!(enough.credits_remaining.unwrap(), 70);

    // Parallel spending of the last credit: exactly as many answers as it covers.
    let client = gateway.new_client("/api/weather").await;
    let header = Pay::client(&client).header();
    let url = format!("{}/api/weather", gateway.url);
    let hits = world.upstream.hits();
    let mut served = 0;
    for _ in 0..4 {
        let tasks: Vec<_> = (0..40)
            .map(|_| {
                let (client, url, header) = (world.client.clone(), url.clone(), header.clone());
                tokio::spawn(async move { client.send("GET", &url, &[("payment", &header)], None).await })
            })
            .collect();
        for task in tasks {
            let answer = task.await.unwrap();
            match answer.status {
                200 => served += 1,
                402 => assert_eq!(answer.code(), "insufficient_credits"),
                status => assert_eq!((status, answer.code().as_str()), (429, "reservations_in_flight")),
            }
        }
    }
    assert_eq!(served, 99, "49,500 units at 500");
    assert_eq!(world.upstream.hits(), hits + served);
    assert_eq!(gateway.balance(&client).await, 0);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_a_payload_of_any_shape_is_an_answer_and_the_process_lives() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let before = stripe_calls(&world).await;
    let deep = format!("{}{}", "[".repeat(3_000), "]".repeat(3_000));
    for json in [
        "null",
        "true",
        "1",
        "\"\"",
        "[]",
        "{}",
        "[null]",
        "",
        " ",
        "{",
        "nul",
        "\u{feff}{}",
        "{\"a\":1}x",
        &deep,
        "{\"stripe402Version\":1}",
        "{\"stripe402Version\":1,\"clientId\":null,\"paymentMethodId\":null}",
        "{\"stripe402Version\":1,\"clientId\":{}}",
        "{\"stripe402Version\":1,\"clientId\":[\"a\"]}",
        "{\"stripe402Version\":1,\"clientId\":7}",
        "{\"stripe402Version\":1,\"clientId\":\"\"}",
        "{\"stripe402Version\":1,\"paymentMethodId\":{\"toString\":1}}",
        "{\"stripe402Version\":1,\"paymentMethodId\":\"../customers\"}",
        "{\"stripe402Version\":1,\"paymentMethodId\":\"pm_1?expand[]=x\"}",
        "{\"stripe402Version\":1,\"paymentMethodId\":\"cus_123\"}",
        "{\"stripe402Version\":2,\"clientId\":\"pck_x\"}",
        "{\"stripe402Version\":\"1\",\"clientId\":\"pck_x\"}",
        "{\"stripe402Version\":1.0,\"clientId\":\"pck_x\"}",
        "{\"clientId\":\"pck_x\"}",
        "{\"stripe402Version\":1,\"clientId\":\"pck_x\",\"clientId\":\"pck_y\"}",
        "{\"stripe402Version\":1,\"clientId\":\"pck_x\",\"client\\u0049d\":\"pck_y\"}",
        "{\"stripe402Version\":1,\"clientId\":\"\\u0000\"}",
        "{\"stripe402Version\":1,\"clientId\":\"\\ud800\"}",
        "{\"__proto__\":{\"clientId\":\"pck_x\"},\"stripe402Version\":1}",
    ] {
        let answer = pay_with(&gateway, &header(json)).await;
        assert_eq!((answer.status, answer.code().as_str()), (402, "invalid_payment"), "{json}");
        assert!(answer.header("payment-required").is_some(), "{json}: every 402 carries the offer");
    }
    assert_eq!(stripe_calls(&world).await, before);
    assert_eq!(world.upstream.hits(), 0);
    gateway.new_client("/api/weather").await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_readers_cannot_decode_the_payment_header_differently() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = gateway.new_client("/api/weather").await;
    let other = gateway.new_client("/api/weather").await;
    let (hits, good) = (world.upstream.hits(), Pay::client(&client).header());
    // `>?` in the text makes standard and URL-safe base64 differ.
    let json = format!("{{\"stripe402Version\":1,\"clientId\":\"{client}\",\"note\":\">>>???~~~\"}}");
    let unpadded = STANDARD_NO_PAD.encode(format!("{json} "));
    assert_ne!(URL_SAFE.encode(&json), STANDARD.encode(&json));
    let long = json.replace("note\":\"", &format!("note\":\"{}", "n".repeat(8 * 1024)));
    let variants = [
        URL_SAFE.encode(&json),
        if unpadded.len() % 4 == 0 { STANDARD_NO_PAD.encode(format!("{json}  ")) } else { unpadded },
        format!("{good}="),
        format!("{good}===="),
        format!("{good}{good}"),
        format!("{} {}", &good[..8], &good[8..]),
        format!("{}\t{}", &good[..8], &good[8..]),
        format!("{good}, {good}"),
        format!("{good},"),
        format!(",{good}"),
        format!("\"{good}\""),
        format!("Bearer {good}"),
        json.clone(),
        STANDARD.encode(&long),
        "A".repeat(8 * 1024 + 4),
        format!("{}B==", &good[..good.len() - 4]),
    ];
    for variant in variants {
        let answer = pay_with(&gateway, &variant).await;
        let shown = &variant[..variant.len().min(60)];
        assert_eq!((answer.status, answer.code().as_str()), (402, "invalid_payment"), "{shown}");
    }
    // Two headers, in either order, equal or not, also when the names differ in case.
    for (first, second) in [(&client, &other), (&other, &client), (&client, &client)] {
        let mut raw = Raw::connect(&gateway.url).await;
        let (first, second) = (Pay::client(first).header(), Pay::client(second).header());
        raw.send(format!(
            "GET /api/weather HTTP/1.1\r\nhost: a\r\npayment: {first}\r\nPayment: {second}\r\n\r\n"
        ))
        .await;
        assert_eq!(status_of(&raw.head().await), 402);
    }
    assert_eq!(world.upstream.hits(), hits);
    assert_eq!((gateway.balance(&client).await, gateway.balance(&other).await), (49_500, 49_500));
    // The controls: the same JSON in the one right encoding, with unknown members.
    assert_eq!(pay_with(&gateway, &STANDARD.encode(&json)).await.status, 200);
    assert_eq!(pay_with(&gateway, &good).await.status, 200);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r12_no_internal_text_reaches_a_caller() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = gateway.new_client("/api/weather").await;
    let mut texts = Vec::new();
    let unknown = Pay::card("pm_1TestNobodyKnowsThisOne");
    texts.push(gateway.pay("/api/weather", &unknown).await);
    // One of them only: each is retried for as long as a caller may wait.
    world.faults(json!([{ "on": "payment_intents.create", "action": "html_502", "times": 50 }])).await;
    texts.push(gateway.pay("/api/weather", &Pay::card(&world.tokenise(GOOD).await)).await);
    world.clear_faults().await;
    for card in [DECLINED, "4000000000009995", "4000000000000069", "4000000000000119"] {
        let card = world.tokenise(card).await;
        texts.push(gateway.pay("/api/weather", &Pay::card(&card)).await);
    }
    // The database is broken under the running gateway.
    change(&world.database, "ALTER TABLE top_ups RENAME TO gone", &[]).await;
    change(&world.database, "ALTER TABLE client_keys RENAME TO gone_too", &[]).await;
    let hits = world.upstream.hits();
    for pay in [
        Pay::client("pck_unseen"),
        Pay::card(&world.tokenise(GOOD).await),
        Pay::client(&client).with_card("pm_1x"),
    ] {
        texts.push(gateway.pay("/api/weather", &pay).await);
    }
    assert_eq!(texts.last().map(|answer| answer.status == 200), Some(world.upstream.hits() > hits));
    let url = format!("{}/billing/entries", gateway.url);
    texts.push(world.client.send("GET", &url, &[("authorization", "Bearer pck_unseen")], None).await);
    for answer in texts {
        if answer.status == 200 {
            continue;
        }
        let mut all = answer.text();
        for name in ["payment-required", "payment-response"] {
            if let Some(value) = answer.header(name) {
                all.push_str(&String::from_utf8_lossy(&STANDARD.decode(value).unwrap()));
            }
        }
        for internal in [
            "No such",
            "stripe.com",
            "SELECT",
            "no such table",
            "sqlite",
            "SQL",
            "<html",
            "req_",
            "panicked",
            "sk_",
            "hyper",
            "127.0.0.1",
            ".rs",
            "doc_url",
            "log_url",
            "insufficient_funds",
            "expired_card",
            "processing_error",
        ] {
            assert!(!all.contains(internal), "{internal}: {all}");
        }
        assert!(!answer.code().is_empty(), "{all}");
    }
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_one_payer_is_one_customer() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let card = world.tokenise(GOOD).await;
    let client = gateway.pay("/api/weather", &Pay::card(&card)).await.receipt().client_id;
    for n in 0..3 {
        // Spent down, then topped up in the same request.
        for _ in 0..if n == 0 { 99 } else { 100 } {
            assert_eq!(gateway.pay("/api/weather", &Pay::client(&client).with_card(&card)).await.status, 200);
        }
    }
    assert!(world.succeeded_charges().await.len() >= 3);
    let books = world.books().await;
    assert_eq!(books["customers"].as_u64(), Some(1), "{}", books["customers"]);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r15_there_is_no_default_secret() {
    let mut secrets = std::collections::BTreeSet::new();
    for _ in 0..2 {
        let world = World::new().await;
        let gateway = world.gateway().await;
        let file = world.folder.path().join("data/key-secret");
        secrets.insert(std::fs::read_to_string(&file).unwrap());
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        // A lost secret breaks no balance: keys are known by their hash.
        let client = gateway.new_client("/api/weather").await;
        gateway.stop().await;
        std::fs::remove_file(&file).unwrap();
        if world.database.is_shared() {
            // Another node may have the old one still, so a new one must not pass for it.
            let refusal = world.try_gateway().await.err().expect("refused").to_string();
            assert!(refusal.contains("a higher version"), "{refusal}");
            let made = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&file, made.replace("1:", "2:")).unwrap();
        }
        let gateway = world.gateway().await;
        assert_eq!(
            gateway.pay("/api/weather", &Pay::client(&client)).await.receipt().credits_remaining.unwrap(),
            49_000
        );
        secrets.insert(std::fs::read_to_string(&file).unwrap());
        gateway.stop().await;
    }
    assert_eq!(secrets.len(), 4, "each made anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn r16_a_unit_is_a_ten_thousandth() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let offer = gateway.get("/api/weather").await.offer();
    assert_eq!(
        (offer.accepts[0].price.as_deref(), offer.accepts[0].amount),
        (Some("0.05"), 500),
        "not $0.50"
    );
    let card = world.tokenise(GOOD).await;
    gateway.pay("/api/weather", &Pay::card(&card).top_up(50_000)).await.receipt();
    assert_eq!(world.succeeded_charges().await[0].1, 500, "50,000 units are 500 cents");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r18_an_agent_can_tell_an_unknown_key_from_an_empty_wallet() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = gateway.new_client("/api/weather").await;
    for _ in 0..99 {
        assert_eq!(gateway.pay("/api/weather", &Pay::client(&client)).await.status, 200);
    }
    let empty = gateway.pay("/api/weather", &Pay::client(&client)).await;
    let error = empty.offer().error;
    assert_eq!(
        (empty.code().as_str(), error.as_deref()),
        ("insufficient_credits", Some("insufficient_credits"))
    );
    assert_eq!(empty.offer().balance, Some(0));
    let mut wrong = client.clone();
    let last = wrong.pop().unwrap();
    wrong.push(if last == 'A' { 'B' } else { 'A' });
    let card = world.tokenise(GOOD).await;
    let before = stripe_calls(&world).await;
    let unknown = gateway.pay("/api/weather", &Pay::client(&wrong)).await;
    assert_eq!((unknown.status, unknown.code().as_str()), (402, "unknown_client"));
    assert_eq!(unknown.offer().balance, None);
    assert!(unknown.try_receipt().is_none(), "there is no wallet to tell about");
    assert_eq!(stripe_calls(&world).await, before, "nothing is charged for an unknown key");
    // Beside a card it is left out, since agents keep such ids for ever, and that is said.
    let card = gateway.pay("/api/weather", &Pay::client(&wrong).with_card(&card)).await.receipt();
    assert!(card.notice.is_some_and(|notice| notice.contains("unknown")));
    assert!(![&wrong, &client].contains(&&card.client_id), "a wallet of its own");
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d8_a_card_number_in_any_field_is_refused_and_not_stored() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let before = stripe_calls(&world).await;
    for number in ["4242424242424242", "4242 4242 4242 4242", "4242-4242-4242-4242"] {
        for field in ["paymentMethodId", "clientId", "note"] {
            let json = format!("{{\"stripe402Version\":1,\"{field}\":\"{number}\"}}");
            let answer = pay_with(&gateway, &header(&json)).await;
            assert_eq!((answer.status, answer.code().as_str()), (400, "raw_card_data_rejected"), "{json}");
            assert!(!answer.text().contains(number));
        }
        let answer = pay_with(&gateway, number).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "raw_card_data_rejected"));
    }
    assert_eq!(stripe_calls(&world).await, before);
    assert_eq!(world.upstream.hits(), 0);
    gateway.stop().await;
}
