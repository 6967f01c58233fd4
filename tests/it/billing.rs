//! Self-service of clients: the balance, every entry once, credit in advance that is never charged twice, and nobody else's.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::http::Answer;
use crate::support::{DECLINED, GOOD, Gateway, Pay, ROUTES, World, change, column, number, rows};

async fn get(gateway: &Gateway<'_>, path: &str, headers: &[(&str, &str)]) -> Answer {
    gateway.world.client.send("GET", &format!("{}{path}", gateway.url), headers, None).await
}

async fn get_as(gateway: &Gateway<'_>, path: &str, client: &str) -> Answer {
    get(gateway, path, &[("authorization", &format!("Bearer {client}"))]).await
}

async fn top_up(gateway: &Gateway<'_>, key: Option<&str>, client: Option<&str>, body: &Value) -> Answer {
    let authorization = client.map(|client| format!("Bearer {client}"));
    let mut headers: Vec<(&str, &str)> =
        authorization.iter().map(|value| ("authorization", value.as_str())).collect();
    headers.extend(key.map(|key| ("idempotency-key", key)));
    let body = body.to_string();
    let url = format!("{}/billing/top-ups", gateway.url);
    gateway.world.client.send("POST", &url, &headers, Some(("application/json", body.as_bytes()))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_balance_is_told_to_who_holds_the_key_in_either_header() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = gateway.new_client("/api/weather").await;
    let payment = Pay::client(&client).header();
    let mut bodies = BTreeSet::new();
    for headers in [
        ("authorization", format!("Bearer {client}")),
        ("authorization", format!("bearer {client}")),
        ("authorization", format!("BEARER  {client}")),
        ("payment", payment.clone()),
    ] {
        let answer = get(&gateway, "/billing/balance", &[(headers.0, &headers.1)]).await;
        assert_eq!(answer.status, 200, "{headers:?}: {}", answer.text());
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let body = answer.json();
        assert_eq!((&body["balance"], &body["balanceExact"]), (&json!(49_500), &json!("4.95")));
        assert_eq!((&body["currency"], &body["frozen"]), (&json!("usd"), &json!(false)));
        assert!(!answer.text().contains(&client), "the public id is not the key");
        bodies.insert(answer.text());
    }
    assert_eq!(bodies.len(), 1);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_gets_in() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = gateway.new_client("/api/weather").await;
    let card = world.tokenise(GOOD).await;
    let cut = &client[..client.len() - 1];
    let id: String = column(&rows(&world.database, "SELECT public_id FROM clients").await[0], 0);
    for path in
        ["/billing/balance", "/billing/entries", "/billing/top-ups/0190a000-0000-7000-8000-000000000000"]
    {
        for (headers, code) in [
            (vec![], "unauthorized"),
            (vec![("authorization", String::new())], "unauthorized"),
            (vec![("authorization", "Bearer ".into())], "unauthorized"),
            (vec![("authorization", client.clone())], "unauthorized"),
            (vec![("authorization", format!("Basic {client}"))], "unauthorized"),
            (vec![("payment", "!!!".into())], "unauthorized"),
            (vec![("payment", Pay::card(&card).header())], "unauthorized"),
            (vec![("authorization", "Bearer pck_nobody".into())], "unknown_client"),
            (vec![("authorization", format!("Bearer {cut}"))], "unknown_client"),
            (vec![("authorization", format!("Bearer {id}"))], "unknown_client"),
            (vec![("payment", Pay::client(cut).header())], "unknown_client"),
            // A wrong Authorization is not rescued by a right payment header: one of them was meant.
        ] {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let answer = get(&gateway, path, &headers).await;
            assert_eq!((answer.status, answer.code().as_str()), (401, code), "{path} {headers:?}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
    }
    // Two answers to "whose wallet?" are none.
    let both = [("authorization", "Bearer pck_x"), ("payment", &*Pay::client(&client).header())];
    let twice = [("authorization", &*format!("Bearer {client}")), ("authorization", "Bearer pck_x")];
    for headers in [both, twice] {
        let answer = get(&gateway, "/billing/balance", &headers).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "ambiguous_credentials"));
    }
    // The key in the URL authenticates nobody.
    for path in [format!("/billing/balance?clientId={client}"), format!("/billing/entries?clientId={client}")]
    {
        let answer = get(&gateway, &path, &[]).await;
        assert!([400, 401].contains(&answer.status), "{}", answer.status);
    }
    assert_eq!(world.upstream.hits(), 1);
    gateway.stop().await;
}

async fn all_entries(gateway: &Gateway<'_>, client: &str, limit: usize) -> Vec<Value> {
    let (mut entries, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = get_as(gateway, &format!("/billing/entries?limit={limit}{cursor}"), client).await;
        assert_eq!(page.status, 200, "{}", page.text());
        let body = page.json();
        let rows = body["entries"].as_array().unwrap();
        assert!(rows.len() <= limit);
        entries.extend(rows.iter().cloned());
        if body["nextCursor"].is_null() {
            return entries;
        }
        assert_eq!(rows.len(), limit, "only the last page is short");
        cursor = format!("&cursor={}", body["nextCursor"]);
        assert!(entries.len() < 1_000, "the cursor does not end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_entry_is_on_exactly_one_page_newest_first() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (mine, other) = (gateway.new_client("/api/joke").await, gateway.new_client("/api/joke").await);
    for _ in 0..129 {
        // Interleaved, so that pages by position in the table would mix the two.
        for client in [&mine, &other] {
            assert_eq!(gateway.pay("/api/joke", &Pay::client(client)).await.status, 200);
        }
    }
    let mut first = None;
    for limit in [1, 7, 50, 130, 131, 200] {
        let entries = all_entries(&gateway, &mine, limit).await;
        assert_eq!(entries.len(), 131, "one top-up and 130 requests, by pages of {limit}");
        let ids: Vec<i64> =
            entries.iter().map(|entry| entry["id"].as_str().unwrap().parse().unwrap()).collect();
        assert!(ids.is_sorted_by(|newer, older| newer > older), "newest first, none twice");
        assert_eq!(entries.last().unwrap()["kind"], "topup");
        assert_eq!(entries[0]["balanceAfterExact"], "3.70");
        assert!(
            entries[..130].iter().all(|entry| entry["kind"] == "usage" && entry["amountExact"] == "0.01")
        );
        assert_eq!(*first.get_or_insert(ids.clone()), ids);
    }
    let others: BTreeSet<_> =
        all_entries(&gateway, &other, 50).await.iter().map(|e| e["id"].to_string()).collect();
    assert_eq!(others.len(), 131);
    let mine_ids: BTreeSet<_> =
        all_entries(&gateway, &mine, 50).await.iter().map(|e| e["id"].to_string()).collect();
    assert!(mine_ids.is_disjoint(&others));
    // Somebody else's entry as a cursor opens nothing of theirs.
    for stolen in others.iter().take(3) {
        let path = format!("/billing/entries?cursor={}", stolen.trim_matches('"'));
        let answer = get_as(&gateway, &path, &mine).await;
        for entry in answer.json()["entries"].as_array().into_iter().flatten() {
            assert!(mine_ids.contains(&entry["id"].to_string()), "{entry}");
        }
    }
    for query in [
        "limit=0",
        "limit=201",
        "limit=-1",
        "limit=x",
        "cursor=x",
        "cursor=1.5",
        "limit=99999999999",
        "offset=1",
        "client=1",
    ] {
        assert_eq!(
            get_as(&gateway, &format!("/billing/entries?{query}"), &mine).await.status,
            400,
            "{query}"
        );
    }
    for cursor in ["-1", "0", "1", "9223372036854775807"] {
        let answer = get_as(&gateway, &format!("/billing/entries?cursor={cursor}"), &mine).await;
        assert!([200, 400].contains(&answer.status), "{cursor}: {}", answer.status);
    }
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credit_in_advance_for_a_new_payer_and_for_a_client() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let card = world.tokenise(GOOD).await;
    let made = top_up(&gateway, Some("k1"), None, &json!({ "paymentMethodId": card })).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let (body, receipt) = (made.json(), made.receipt());
    assert_eq!(
        (&body["state"], &body["amount"], &body["balance"]),
        (&json!("succeeded"), &json!(50_000), &json!(50_000))
    );
    assert_eq!(body["idempotentReplay"], false);
    assert_eq!((receipt.success, receipt.credits_remaining.unwrap()), (true, 50_000));
    let client = receipt.client_id;
    // Again for the same client: the larger pack, with its bonus.
    let order = json!({ "paymentMethodId": card, "topUpAmount": 200_000 });
    let more = top_up(&gateway, Some("k2"), Some(&client), &order).await;
    assert_eq!(more.status, 201, "{}", more.text());
    assert_eq!(
        (more.json()["credits"].clone(), more.json()["balance"].clone()),
        (json!(210_000), json!(260_000))
    );
    assert_eq!(more.receipt().client_id, client);
    assert_eq!(gateway.balance(&client).await, 260_000);
    // It can be looked up by its owner, and by nobody else.
    let path = format!("/billing/top-ups/{}", more.json()["id"].as_str().unwrap());
    let shown = get_as(&gateway, &path, &client).await;
    assert_eq!((shown.status, shown.json()["state"].clone()), (200, json!("succeeded")));
    let stranger = gateway.new_client("/api/joke").await;
    let hidden = get_as(&gateway, &path, &stranger).await;
    assert_eq!((hidden.status, hidden.code().as_str()), (404, "not_found"));
    let mut absent =
        get_as(&gateway, "/billing/top-ups/0190a000-0000-7000-8000-000000000000", &stranger).await.json();
    let mut theirs = hidden.json();
    for body in [&mut absent, &mut theirs] {
        body.as_object_mut().unwrap().remove("requestId");
    }
    assert_eq!(absent, theirs, "somebody else's looks like nobody's");
    for id in ["x", "1", "..", "%2e%2e", "' OR 1=1 --", &"9".repeat(3_000)] {
        let path = format!("/billing/top-ups/{}", id.replace(' ', "%20"));
        assert_eq!(get_as(&gateway, &path, &stranger).await.status, 404, "{id}");
    }
    for (method, path) in [
        ("GET", "/billing/top-ups"),
        ("PUT", "/billing/balance"),
        ("DELETE", "/billing/entries"),
        ("GET", "/billing"),
        ("GET", "/billing/"),
    ] {
        let authorization = format!("Bearer {client}");
        let url = format!("{}{path}", gateway.url);
        let answer = world.client.send(method, &url, &[("authorization", &authorization)], None).await;
        assert_eq!(answer.status, 404, "{method} {path}");
    }
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_idempotency_key_is_one_charge() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = gateway.new_client("/api/weather").await;
    let card = world.tokenise(GOOD).await;
    for (payer, expected) in [(None, 2), (Some(client.as_str()), 3)] {
        let order = json!({ "paymentMethodId": card, "topUpAmount": 60_000 });
        // Somebody else's card token for a client that it is bound to would be refused: the client gets its own.
        let order = if payer.is_some() {
            json!({ "paymentMethodId": world.tokenise(GOOD).await, "topUpAmount": 60_000 })
        } else {
            order
        };
        let answers =
            futures_util::future::join_all((0..10).map(|_| top_up(&gateway, Some("same"), payer, &order)))
                .await;
        let mut ids = BTreeSet::new();
        for answer in &answers {
            assert!([200, 201].contains(&answer.status), "{}", answer.text());
            ids.insert((answer.json()["id"].to_string(), answer.receipt().client_id));
        }
        assert_eq!(ids.len(), 1, "{ids:?}");
        assert_eq!(
            answers.iter().filter(|answer| answer.status == 201).count(),
            1,
            "made once, then repeated"
        );
        let late = top_up(&gateway, Some("same"), payer, &order).await;
        assert_eq!((late.status, late.json()["idempotentReplay"].clone()), (200, json!(true)));
        assert_eq!(world.succeeded_charges().await.len(), expected);

        // The same key for something else.
        let amount = json!({ "paymentMethodId": order["paymentMethodId"], "topUpAmount": 70_000 });
        let changed = top_up(&gateway, Some("same"), payer, &amount).await;
        assert_eq!((changed.status, changed.code().as_str()), (422, "idempotency_mismatch"));
        if payer.is_some() {
            let card = json!({ "paymentMethodId": world.tokenise(GOOD).await, "topUpAmount": 60_000 });
            let changed = top_up(&gateway, Some("same"), payer, &card).await;
            assert_eq!((changed.status, changed.code().as_str()), (422, "idempotency_mismatch"));
        }
        assert_eq!(world.succeeded_charges().await.len(), expected);
    }
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_attempt_stays_failed_under_its_key() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = gateway.new_client("/api/weather").await;
    for payer in [None, Some(client.as_str())] {
        let declined = json!({ "paymentMethodId": world.tokenise(DECLINED).await });
        for _ in 0..3 {
            let answer = top_up(&gateway, Some("bad"), payer, &declined).await;
            assert_eq!((answer.status, answer.code().as_str()), (402, "card_declined"), "{}", answer.text());
        }
        let good = json!({ "paymentMethodId": world.tokenise(GOOD).await });
        assert_eq!(
            top_up(&gateway, Some("good"), payer, &good).await.status,
            201,
            "another key, another card"
        );
    }
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM top_ups WHERE state = 'failed'").await, 2);
    assert_eq!(world.succeeded_charges().await.len(), 3);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_an_order_is_refused_before_stripe() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let card = world.tokenise(GOOD).await;
    let good = json!({ "paymentMethodId": card });
    let long = "k".repeat(256);
    for key in [None, Some(""), Some(long.as_str())] {
        let answer = top_up(&gateway, key, None, &good).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_request"), "{key:?}");
    }
    for body in [
        json!(null),
        json!([]),
        json!({}),
        json!({ "paymentMethodId": 1 }),
        json!({ "paymentMethodId": "cus_1" }),
        json!({ "paymentMethodId": card, "topUpAmount": 0 }),
        json!({ "paymentMethodId": card, "topUpAmount": -50_000 }),
        json!({ "paymentMethodId": card, "topUpAmount": 50_000.5 }),
        json!({ "paymentMethodId": card, "topUpAmount": "60000" }),
        json!({ "paymentMethodId": card, "topUpAmount": 1e300 }),
        json!({ "paymentMethodId": card, "amount": 60_000 }),
        json!({ "paymentMethodId": card, "clientId": "pck_x" }),
    ] {
        let answer = top_up(&gateway, Some("k"), None, &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_request"), "{body}");
    }
    for (body, code) in [
        (json!({ "paymentMethodId": card, "topUpAmount": 49_900 }), "top_up_below_minimum"),
        (json!({ "paymentMethodId": card, "topUpAmount": 50_050 }), "invalid_payment"),
        (json!({ "paymentMethodId": card, "topUpAmount": 90_000_000 }), "invalid_payment"),
    ] {
        let answer = top_up(&gateway, Some("k"), None, &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (402, code), "{body}");
    }
    // A card number, wherever it stands.
    for body in [
        json!({ "paymentMethodId": GOOD }),
        json!({ "paymentMethodId": card, "number": "4242 4242 4242 4242" }),
        json!({ "card": { "number": "4242-4242-4242-4242" } }),
    ] {
        let answer = top_up(&gateway, Some("k"), None, &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "raw_card_data_rejected"), "{body}");
        assert!(!answer.text().contains("4242"));
    }
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM top_ups").await, 0);
    assert!(world.succeeded_charges().await.is_empty());
    // None of the refusals used the key up.
    assert_eq!(top_up(&gateway, Some("k"), None, &good).await.status, 201);
    gateway.stop().await;
    for (place, bytes) in world.stored().await {
        assert!(
            !bytes.windows(16).any(|window| window == GOOD.as_bytes()),
            "a card number is stored in {place}"
        );
    }
}

/// Dearer than what is left after a first payment.
const DEAR: &str = "\n[[routes]]\nmethods = [\"GET\", \"POST\"]\npath = \"/api/report\"\nprice = \"5.00\"\n";

/// A wallet whose only key is of this scope: its card and the key. The gateway that knew it otherwise is gone.
async fn wallet_of_scope(world: &World, scope: &'static str) -> (String, String) {
    let gateway = world.gateway().await;
    let card = world.tokenise(GOOD).await;
    let first = gateway.pay("/api/weather", &Pay::card(&card)).await;
    assert_eq!(first.status, 200, "{}", first.text());
    gateway.stop().await;
    assert_eq!(change(&world.database, "UPDATE client_keys SET scope = $1", &[scope]).await, 1);
    (card, first.receipt().client_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_only_read_neither_spends_nor_tops_up_at_any_door() {
    let world = World::with("", &format!("{ROUTES}{DEAR}")).await;
    let (card, client) = wallet_of_scope(&world, "read").await;
    let gateway = world.gateway().await;
    let other = world.tokenise("5555555555554444").await;
    // The second time, the gateway knows the key.
    for look in ["first", "second"] {
        // The credit would pay the first path; the second needs a top-up.
        for path in ["/api/weather", "/api/report"] {
            for pay in [
                Pay::client(&client),
                Pay::client(&client).with_card(&card),
                Pay::client(&client).with_card(&other),
                Pay::client(&client).with_card(&other).new_wallet(),
                // A card token opens no more than the key that it leads to.
                Pay::card(&card),
            ] {
                let header = pay.header();
                let plain = gateway.pay(path, &pay).await;
                let headers = [("payment", header.as_str()), ("idempotency-key", "k")];
                let url = format!("{}{path}", gateway.url);
                let keyed = world.client.send("GET", &url, &headers, None).await;
                for answer in [plain, keyed] {
                    let told = (answer.status, answer.code());
                    assert_eq!(told, (403, "scope".to_owned()), "{look} {path} {pay:?}: {}", answer.text());
                }
            }
        }
        for (nth, client, card) in [(1, Some(&client), &card), (2, Some(&client), &other), (3, None, &card)] {
            for new_wallet in [false, true] {
                let body = json!({ "paymentMethodId": card, "newWallet": new_wallet });
                let key = format!("{look}-{nth}-{new_wallet}");
                let answer = top_up(&gateway, Some(&key), client.map(String::as_str), &body).await;
                let told = (answer.status, answer.code());
                assert_eq!(told, (403, "scope".to_owned()), "{key}: {}", answer.text());
            }
        }
    }
    // It reads.
    assert_eq!(gateway.balance(&client).await, 49_500);
    let entries = get_as(&gateway, "/billing/entries", &client).await;
    assert_eq!((entries.status, entries.json()["entries"].as_array().unwrap().len()), (200, 2));
    let id: String = column(&rows(&world.database, "SELECT id FROM top_ups").await[0], 0);
    assert_eq!(get_as(&gateway, &format!("/billing/top-ups/{id}"), &client).await.status, 200);
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM top_ups").await, 1, "no attempt was made");
    assert_eq!((world.succeeded_charges().await.len(), world.upstream.hits()), (1, 1));
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_spend_tops_up_as_well() {
    let world = World::with("", &format!("{ROUTES}{DEAR}")).await;
    let (card, client) = wallet_of_scope(&world, "spend").await;
    let gateway = world.gateway().await;
    assert_eq!(gateway.pay("/api/weather", &Pay::client(&client)).await.status, 200);
    let bought = top_up(&gateway, Some("k"), Some(&client), &json!({ "paymentMethodId": card })).await;
    assert_eq!((bought.status, &bought.json()["balance"]), (201, &json!(99_000)), "{}", bought.text());
    assert_eq!(gateway.pay("/api/report", &Pay::client(&client)).await.status, 200);
    // And with a request, when the credit does not pay it.
    let dear = gateway.pay("/api/report", &Pay::client(&client).with_card(&card)).await;
    assert_eq!((dear.status, dear.receipt().credits_remaining), (200, Some(49_000)), "{}", dear.text());
    assert_eq!(world.succeeded_charges().await.len(), 3);
    gateway.stop().await;
    world.assert_books_agree().await;
}
