//! Paying handlers: the offer, the first payment, spending, many at once, and what a handler learns.

use super::*;
use crate::support::{DECLINED, THREE_D_SECURE, change};

#[tokio::test(flavor = "multi_thread")]
async fn an_unpaid_request_gets_an_offer_and_reaches_no_handler() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    for method in ["GET", "POST", "HEAD", "DELETE"] {
        let answer = world.client.send(method, &format!("{}/five", shop.url), &[], None).await;
        assert_eq!((answer.status, answer.header("cache-control")), (402, Some("no-store")));
        let offer = answer.offer();
        let requirement = &offer.accepts[0];
        assert_eq!((requirement.amount, requirement.price.as_deref()), (PRICE, Some("0.05")));
        assert_eq!(requirement.publishable_key, PUBLISHABLE_KEY);
        assert_eq!(offer.resource.url, format!("{}/five", shop.url));
        assert_eq!(offer.resource.description.as_deref(), Some("Five cents"));
        assert_eq!(offer.resource.mime_type.as_deref(), Some("application/json"));
        assert!(answer.header("x-request-id").is_some());
        assert!(answer.header("access-control-expose-headers").unwrap().contains("payment-required"));
    }
    let answer = world.client.get(&format!("{}/free", shop.url)).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "free"), "what is not wrapped is not sold");
    assert_eq!(shop.handlers.calls(), 0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_pays_on_the_first_request_and_the_handler_learns_who_paid_what() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let card = world.tokenise(GOOD).await;
    let first = shop.send("POST", "/five", &Pay::card(&card), None).await;
    assert_eq!(first.status, 200, "{}", first.text());
    let receipt = first.receipt();
    assert!(receipt.success && receipt.charge_id.as_deref().unwrap().starts_with("pi_"));
    assert_eq!((receipt.credits_charged, receipt.credits_remaining.unwrap()), (Some(PRICE), PACK - PRICE));
    assert_eq!(first.header("cache-control"), Some("private, no-store"), "what is sold is in no cache");
    let told = first.json();
    assert_eq!((told["price"].as_str(), told["currency"].as_str()), (Some("0.05"), Some("usd")));
    assert_eq!((told["body"].as_str(), told["isRepeat"].as_bool()), (Some("hello"), Some(false)));
    assert_eq!(told["receipt"].as_str(), first.header("x-request-id"));
    let client = receipt.client_id;
    let named = told["client"].as_str().unwrap().to_owned();
    assert!(!named.is_empty() && !named.contains(&client) && !client.contains(&named), "no secret");
    // The receipt names the entry.
    let source = format!("usage:{}", told["receipt"].as_str().unwrap());
    let entries = crate::support::rows(
        &world.database,
        "SELECT source, amount FROM entries WHERE source LIKE 'usage:%'",
    )
    .await;
    assert_eq!(entries.len(), 1);
    assert_eq!(crate::support::column::<String>(&entries[0], 0), source);
    assert_eq!(crate::support::column::<i64>(&entries[0], 1), PRICE * 100);
    let with_key = "SELECT COUNT(*) FROM entries AS e JOIN client_keys AS k ON k.number = e.key AND k.client = e.client \
                 WHERE e.source LIKE 'usage:%'";
    assert_eq!(crate::support::number(&world.database, with_key).await, 1);

    for n in 1..=5 {
        let spent = shop.get("/one/thing", &Pay::client(&client)).await;
        assert_eq!(spent.status, 200, "{}", spent.text());
        assert_eq!(spent.receipt().credits_remaining.unwrap(), PACK - PRICE - 100 * n);
        let told = spent.json();
        assert_eq!((told["client"].as_str(), told["price"].as_str()), (Some(named.as_str()), Some("0.01")));
    }
    // The card leads to the same wallet.
    assert_eq!(shop.get("/five", &Pay::card(&card)).await.receipt().client_id, client);
    // A wallet and a price that were here before take a shorter way, with the same rules.
    let dear = shop.get("/five", &Pay::client(&client).max(PRICE - 1)).await;
    assert_eq!((dear.status, dear.code().as_str()), (402, "price_above_max"));
    assert_eq!(shop.balance(&client).await, PACK - 2 * PRICE - 500);
    assert_eq!(world.succeeded_charges().await.len(), 1);
    // Entries name the resource by its pattern, whatever was asked.
    let routes = crate::support::rows(&world.database, "SELECT name FROM routes").await;
    let names: Vec<String> = routes.iter().map(|row| crate::support::column(row, 0)).collect();
    assert!(names.contains(&"GET /one/{thing}".to_owned()), "{names:?}");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_pay_reaches_no_handler() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let good = world.tokenise(GOOD).await;
    for (pay, status, code) in [
        (Pay::card(&world.tokenise(DECLINED).await), 402, "card_declined"),
        (Pay::card(&world.tokenise(THREE_D_SECURE).await), 402, "authentication_required"),
        (Pay::card(&good).max(PRICE - 1), 402, "price_above_max"),
        (Pay::card(&good).top_up(100), 402, "top_up_below_minimum"),
        (Pay::client("pck_nobody"), 402, "unknown_client"),
    ] {
        let answer = shop.get("/five", &pay).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{}", answer.text());
        answer.offer();
    }
    let client = shop.wallet().await;
    shop.handlers.waiting.add_permits(1);
    assert_eq!(shop.get("/dear", &Pay::client(&client)).await.status, 200);
    let short = shop.get("/five", &Pay::client(&client)).await;
    assert_eq!((short.status, short.code().as_str()), (402, "insufficient_credits"));
    assert_eq!((shop.handlers.calls(), captures(&world).await), (1, 1));
    shop.close().await;
}

/// One and a quarter of a unit: whoever agrees to one does not pay it.
#[tokio::test(flavor = "multi_thread")]
async fn a_price_between_two_units_is_agreed_to_rounded_up() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let offer = world.client.get(&format!("{}/fine", shop.url)).await.offer();
    assert_eq!(offer.accepts[0].amount, 2);
    let card = Pay::card(&world.tokenise(GOOD).await);
    let refused = shop.get("/fine", &card.clone().max(1)).await;
    assert_eq!((refused.status, refused.code().as_str()), (402, "price_above_max"), "{}", refused.text());
    assert_eq!(world.succeeded_charges().await.len(), 0);
    let first = shop.get("/fine", &card.max(2)).await;
    assert_eq!(first.status, 200, "{}", first.text());
    let client = Pay::client(&first.receipt().client_id);
    // A wallet that was here lately, and a request that has to be remembered.
    for (method, key) in [("GET", None), ("POST", Some("k"))] {
        let refused = shop.send(method, "/fine", &client.clone().max(1), key).await;
        assert_eq!((refused.status, refused.code().as_str()), (402, "price_above_max"), "{method}");
        let served = shop.send(method, "/fine", &client.clone().max(2), key).await;
        assert_eq!(served.status, 200, "{method}: {}", served.text());
    }
    let sold = "SELECT CAST(SUM(amount) AS BIGINT) FROM entries WHERE source LIKE 'usage:%'";
    assert_eq!((number(&world.database, sold).await, shop.handlers.calls()), (3 * 125, 3));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_only_read_pays_no_handler() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let card = world.tokenise(GOOD).await;
    let client = shop.get("/five", &Pay::card(&card)).await.receipt().client_id;
    shop.close().await;
    assert_eq!(change(&world.database, "UPDATE client_keys SET scope = 'read'", &[]).await, 1);
    let shop = Shop::open(&world).await;
    let other = world.tokenise("5555555555554444").await;
    // What is left does not pay the second path.
    for look in ["first", "second"] {
        for path in ["/five", "/dear"] {
            for pay in [Pay::client(&client), Pay::client(&client).with_card(&other), Pay::card(&card)] {
                for (method, key) in [("GET", None), ("POST", None), ("POST", Some("k"))] {
                    let answer = shop.send(method, path, &pay, key).await;
                    let told = (answer.status, answer.code());
                    assert_eq!(told, (403, "scope".to_owned()), "{look} {method} {path} {pay:?}");
                }
            }
        }
        // From now on, the shop knows the key and the wallet.
        assert_eq!(shop.balance(&client).await, PACK - PRICE, "it reads");
    }
    assert_eq!((shop.handlers.calls(), world.succeeded_charges().await.len()), (0, 1));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_five_hundred_at_once_exactly_those_are_served_that_the_credit_pays() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    let header = Pay::client(&client).header();
    let asked: Vec<_> = (0..500)
        .map(|n| {
            let (caller, header) = (world.client.clone(), header.clone());
            let (method, url) = (if n % 2 == 0 { "GET" } else { "POST" }, format!("{}/five", shop.url));
            tokio::spawn(async move { caller.send(method, &url, &[("payment", &header)], None).await })
        })
        .collect();
    let mut served = 0;
    for answer in asked {
        let answer = answer.await.unwrap();
        match answer.status {
            200 => served += 1,
            // Credit that is set aside for others may come back.
            402 | 429 => {
                assert!(["insufficient_credits", "reservations_in_flight"].contains(&answer.code().as_str()))
            }
            other => panic!("{other} {}", answer.text()),
        }
    }
    while shop.balance(&client).await > 0 {
        assert_eq!(shop.get("/five", &Pay::client(&client)).await.status, 200);
        served += 1;
    }
    assert_eq!(served, PACK / PRICE);
    assert_eq!(shop.handlers.calls(), usize::try_from(served).unwrap(), "no handler worked for nothing");
    assert_eq!(captures(&world).await, served);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_first_requests_with_one_card_are_one_charge() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let header = Pay::card(&world.tokenise(GOOD).await).header();
    let asked: Vec<_> = (0..50)
        .map(|_| {
            let (caller, header, url) = (world.client.clone(), header.clone(), format!("{}/five", shop.url));
            tokio::spawn(async move { caller.send("GET", &url, &[("payment", &header)], None).await })
        })
        .collect();
    let mut clients = std::collections::BTreeSet::new();
    for answer in asked {
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        clients.insert(answer.receipt().client_id);
    }
    assert_eq!((clients.len(), world.succeeded_charges().await.len()), (1, 1));
    assert_eq!(shop.balance(clients.first().unwrap()).await, PACK - 50 * PRICE);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn head_costs_what_get_costs_and_options_is_answered_for_nothing() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    let get = shop.get("/body/whole/1234", &Pay::client(&client)).await;
    let head = shop.send("HEAD", "/body/whole/1234", &Pay::client(&client), None).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), get.header("content-length"));
    assert_eq!(head.receipt().credits_charged, Some(PRICE));
    // A longer and a shorter body than announced are the same to HEAD: none.
    for kind in ["short", "breaks-sized", "pieces"] {
        let head = shop.send("HEAD", &format!("/body/{kind}/10"), &Pay::client(&client), None).await;
        assert_eq!((head.status, head.receipt().success), (200, true), "{kind}");
    }
    let calls = shop.handlers.calls();
    let preflight = [("origin", "https://a.example"), ("access-control-request-method", "POST")];
    let answer = world.client.send("OPTIONS", &format!("{}/five", shop.url), &preflight, None).await;
    assert!(answer.status < 300);
    let allowed = answer.header("access-control-allow-headers").unwrap().to_ascii_lowercase();
    assert!(allowed.contains("payment"), "{allowed}");
    assert_eq!(shop.handlers.calls(), calls);
    assert_eq!(shop.balance(&client).await, PACK - 5 * PRICE);
    shop.close().await;
    let reversals = "SELECT COUNT(*) FROM entries WHERE source LIKE 'reversal:%'";
    assert_eq!(number(&world.database, reversals).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_charged_is_still_charged_after_a_restart() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let card = world.tokenise(GOOD).await;
    let client = shop.get("/five", &Pay::card(&card)).await.receipt().client_id;
    let kept = shop.send("POST", "/five", &Pay::client(&client), Some("k")).await;
    shop.close().await;
    let shop = Shop::open(&world).await;
    assert_eq!(shop.balance(&client).await, PACK - 2 * PRICE);
    let again = shop.send("POST", "/five", &Pay::client(&client), Some("k")).await;
    assert_eq!((again.status, &again.body), (200, &kept.body));
    assert_eq!(shop.get("/five", &Pay::card(&card)).await.receipt().client_id, client);
    shop.close().await;
}
