//! The paid request, end to end: the 402, the first payment, spending, and what is refused.

use std::sync::Arc;

use prepaid402::app::StartError;

use crate::support::http::Answer;
use crate::support::{
    DECLINED, GOOD, Gateway, PUBLISHABLE_KEY, Pay, ROUTES, THREE_D_SECURE, World, change, number,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_unpaid_request_gets_an_offer_and_costs_nobody_anything() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let answer = gateway.get("/api/weather").await;
    assert_eq!(answer.status, 402);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(answer.header("access-control-expose-headers").unwrap().contains("payment-required"));
    let offer = answer.offer();
    assert_eq!(serde_json::to_value(&offer).unwrap(), answer.json(), "header and body are the same offer");
    assert_eq!((offer.stripe402_version, offer.error.as_deref()), (1, None));
    assert_eq!(offer.resource.url, "https://api.example.com/api/weather");
    assert_eq!(offer.resource.description.as_deref(), Some("Weather"));
    let requirement = &offer.accepts[0];
    assert_eq!((requirement.amount, requirement.min_top_up), (500, 50_000));
    assert_eq!((requirement.scheme.as_str(), requirement.currency.as_str()), ("stripe", "usd"));
    assert_eq!(requirement.publishable_key, PUBLISHABLE_KEY);
    assert_eq!(requirement.price.as_deref(), Some("0.05"));
    let packs: Vec<_> = offer.top_up_options.iter().map(|pack| (pack.amount, pack.credits)).collect();
    assert_eq!(packs, [(50_000, 50_000), (200_000, 210_000)]);
    assert_eq!(offer.balance, None);
    assert_eq!(world.upstream.hits(), 0);
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM top_ups").await, 0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_pays_on_the_first_request_and_the_balance_is_spent_to_the_unit() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let card = world.tokenise(GOOD).await;
    let first = gateway.pay("/api/weather", &Pay::card(&card).top_up(300_000)).await;
    assert_eq!(first.status, 200, "{}", first.text());
    let receipt = first.receipt();
    assert!(receipt.success);
    assert!(receipt.charge_id.as_deref().unwrap().starts_with("pi_"));
    // 30 dollars reach the pack of 20, whose bonus is one dollar.
    assert_eq!(receipt.credits_remaining.unwrap(), 310_000 - 500);
    assert_eq!(receipt.top_up_amount, Some(300_000));
    assert_eq!(receipt.credits_charged, Some(500));
    for n in 1..=500 {
        let spent = gateway.pay("/api/weather", &Pay::client(&receipt.client_id)).await;
        assert_eq!(spent.status, 200);
        let now = spent.receipt();
        assert_eq!(now.credits_remaining.unwrap(), 310_000 - 500 - 500 * n);
        assert_eq!(now.charge_id, None);
        assert_eq!(now.client_id, receipt.client_id);
    }
    assert_eq!(gateway.balance(&receipt.client_id).await, 310_000 - 500 * 501);
    assert_eq!(world.upstream.hits(), 501);
    // Each names the key that paid, the first request as well, which had none yet.
    let named = "SELECT COUNT(*) FROM entries AS e JOIN client_keys AS k ON k.number = e.key AND k.client = e.client \
                 WHERE e.source LIKE 'usage:%'";
    assert!(number(&world.database, named).await >= 501);
    assert_eq!(
        number(&world.database, "SELECT COUNT(*) FROM entries WHERE key IS NULL AND source LIKE 'usage:%'")
            .await,
        0
    );
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_card_token_on_every_request_is_charged_only_when_the_balance_is_short() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let card = world.tokenise(GOOD).await;
    let first = gateway.pay("/api/weather", &Pay::card(&card)).await.receipt();
    for n in 1..100 {
        let again = gateway.pay("/api/weather", &Pay::card(&card)).await.receipt();
        assert_eq!(again.client_id, first.client_id, "the same token reaches the same client");
        assert_eq!(again.credits_remaining.unwrap(), 50_000 - 500 * (n + 1));
    }
    assert_eq!(world.succeeded_charges().await.len(), 1);
    let refilled = gateway.pay("/api/weather", &Pay::card(&card)).await.receipt();
    assert_eq!(refilled.credits_remaining.unwrap(), 49_500);
    assert_eq!(world.succeeded_charges().await.len(), 2);
    gateway.stop().await;
    world.assert_books_agree().await;
}

async fn nothing_moved(world: &World, gateway: &Gateway<'_>, answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{}", answer.text());
    assert_eq!(world.succeeded_charges().await.len(), 0, "{code}: nothing is charged");
    assert_eq!(world.upstream.hits(), 0, "{code}: nothing is served");
    if status == 402 {
        assert!(answer.header("payment-required").is_some(), "{code}: every 402 carries the offer");
    }
    let _ = gateway;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_pay_is_refused_with_its_code_and_nothing_moves() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let good = world.tokenise(GOOD).await;
    for (card, code) in [(DECLINED, "card_declined"), (THREE_D_SECURE, "authentication_required")] {
        let card = world.tokenise(card).await;
        let answer = gateway.pay("/api/weather", &Pay::card(&card)).await;
        nothing_moved(&world, &gateway, &answer, 402, code).await;
    }
    for (pay, code) in [
        (Pay::card(&good).top_up(49_999), "top_up_below_minimum"),
        (Pay::card(&good).top_up(50_050), "invalid_payment"),
        (Pay::card(&good).top_up(900_000_000), "invalid_payment"),
        (Pay::card(&good).max(499), "price_above_max"),
        (Pay::client("pck_nobody"), "unknown_client"),
        (Pay::card("pm_1NobodyKnowsThis"), "invalid_payment"),
    ] {
        let answer = gateway.pay("/api/weather", &pay).await;
        nothing_moved(&world, &gateway, &answer, 402, code).await;
    }
    for header in ["", "!!!", "bnVsbA==", "W10=", "e30=", "eyJzdHJpcGU0MDJWZXJzaW9uIjoxfQ=="] {
        let url = format!("{}/api/weather", gateway.url);
        let answer = world.client.send("GET", &url, &[("payment", header)], None).await;
        nothing_moved(&world, &gateway, &answer, 402, "invalid_payment").await;
    }
    gateway.stop().await;
    world.assert_books_agree().await;
}

/// A wallet that was here lately takes a shorter way; it meets the same rules there.
#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_was_here_lately_is_refused_like_any_other() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = gateway.new_client("/api/weather").await;
    let dear = gateway.pay("/api/weather", &Pay::client(&client).max(499)).await;
    assert_eq!((dear.status, dear.code().as_str()), (402, "price_above_max"));
    assert_eq!(gateway.pay("/api/weather", &Pay::client(&client).max(500)).await.status, 200);
    assert_eq!(gateway.balance(&client).await, 50_000 - 2 * 500);
    gateway.stop().await;

    change(&world.database, "UPDATE client_keys SET scope = 'read'", &[]).await;
    let gateway = world.gateway().await;
    // Now the gateway knows the balance and the key.
    assert_eq!(gateway.balance(&client).await, 50_000 - 2 * 500);
    for look in 1..=3 {
        let refused = gateway.pay("/api/weather", &Pay::client(&client)).await;
        assert_eq!((refused.status, refused.code().as_str()), (403, "scope"), "look {look}");
    }
    assert_eq!(gateway.balance(&client).await, 50_000 - 2 * 500);
    assert_eq!(world.upstream.hits(), 2);
    gateway.stop().await;
    world.assert_books_agree().await;
}

/// As the price is told, so it is agreed to: a caller who agrees to one unit does not pay one and a quarter.
#[tokio::test(flavor = "multi_thread")]
async fn a_price_between_two_units_is_agreed_to_rounded_up() {
    let fine = "\n[[routes]]\nmethods = [\"GET\", \"POST\"]\npath = \"/api/fine\"\nprice = \"0.000125\"\n";
    let world = World::with("", &format!("{ROUTES}{fine}")).await;
    let gateway = world.gateway().await;
    assert_eq!(gateway.get("/api/fine").await.offer().accepts[0].amount, 2);
    let card = world.tokenise(GOOD).await;
    let refused = gateway.pay("/api/fine", &Pay::card(&card).max(1)).await;
    nothing_moved(&world, &gateway, &refused, 402, "price_above_max").await;
    let first = gateway.pay("/api/fine", &Pay::card(&card).max(2)).await;
    assert_eq!(first.status, 200, "{}", first.text());
    let client = first.receipt().client_id;
    // A wallet that was here lately, and a request that has to be remembered.
    let url = format!("{}/api/fine", gateway.url);
    for (method, more) in [("GET", None), ("POST", Some(("idempotency-key", "k")))] {
        for (most, status, code) in [(1, 402, "price_above_max"), (2, 200, "")] {
            let header = Pay::client(&client).max(most).header();
            let headers: Vec<_> = std::iter::once(("payment", header.as_str())).chain(more).collect();
            let answer = world.client.send(method, &url, &headers, None).await;
            assert_eq!((answer.status, answer.code().as_str()), (status, code), "{method} {most}");
        }
    }
    // Charged exactly, whatever was agreed to.
    let sold = "SELECT CAST(SUM(amount) AS BIGINT) FROM entries WHERE source LIKE 'usage:%'";
    assert_eq!((number(&world.database, sold).await, world.upstream.hits()), (3 * 125, 3));
    gateway.stop().await;
    world.assert_books_agree().await;
}

/// By itself, or with the key that it leads to. Stripe keeps the token for the wallet that it has paid for, so it founds no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_card_token_that_was_revoked_leads_nowhere_and_is_not_charged() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    for (nth, card_number, revoke) in [
        (1, GOOD, "UPDATE payment_method_bindings SET revoked_at = created_at"),
        (2, "5555555555554444", "UPDATE client_keys SET revoked_at = created_at"),
    ] {
        let card = world.tokenise(card_number).await;
        let first = gateway.pay("/api/weather", &Pay::card(&card)).await;
        assert_eq!(first.status, 200, "{}", first.text());
        assert!(change(&world.database, revoke, &[]).await > 0);
        let body = format!("{{\"paymentMethodId\":\"{card}\"}}");
        for again in 1..=2 {
            let spent = gateway.pay("/api/weather", &Pay::card(&card)).await;
            let key = format!("{card_number} {again}").replace(' ', "-");
            let url = format!("{}/billing/top-ups", gateway.url);
            let sent = Some(("application/json", body.as_bytes()));
            let bought = world.client.send("POST", &url, &[("idempotency-key", &key)], sent).await;
            for answer in [spent, bought] {
                let told = (answer.status, answer.code());
                assert_eq!(told, (409, "payment_method_of_other_client".to_owned()), "{revoke}");
                assert!(answer.try_receipt().is_none(), "nobody's wallet is told");
            }
        }
        // The wallet is there, for whoever holds its key.
        let left = "SELECT MIN(paid) FROM clients";
        assert_eq!(number(&world.database, left).await, 4_950_000, "{revoke}");
        assert_eq!(world.succeeded_charges().await.len(), nth, "{revoke}");
        assert_eq!(world.upstream.hits(), nth, "{revoke}");
    }
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_card_token_is_refused_before_stripe() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (one, other) = (world.tokenise(GOOD).await, world.tokenise("5555555555554444").await);
    let first = gateway.pay("/api/weather", &Pay::card(&one)).await.receipt();
    gateway.pay("/api/weather", &Pay::card(&other)).await.receipt();
    // Spend the first wallet, so that it would need the other's card.
    for _ in 0..99 {
        assert_eq!(gateway.pay("/api/weather", &Pay::client(&first.client_id)).await.status, 200);
    }
    let answer = gateway.pay("/api/weather", &Pay::client(&first.client_id).with_card(&other)).await;
    assert_eq!((answer.status, answer.code().as_str()), (409, "payment_method_of_other_client"));
    let short = gateway.pay("/api/weather", &Pay::client(&first.client_id)).await;
    assert_eq!((short.status, short.code().as_str()), (402, "insufficient_credits"));
    assert_eq!(short.offer().error.as_deref(), Some("insufficient_credits"));
    assert_eq!(short.offer().balance, Some(0));
    assert_eq!(world.succeeded_charges().await.len(), 2);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_parallel_requests_with_one_fresh_card_are_one_charge_and_one_client() {
    let world = Arc::new(World::new().await);
    let gateway = world.gateway().await;
    let card = world.tokenise(GOOD).await;
    let header = Pay::card(&card).header();
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let (client, url, header) =
                (world.client.clone(), format!("{}/api/weather", gateway.url), header.clone());
            tokio::spawn(async move { client.send("GET", &url, &[("payment", &header)], None).await })
        })
        .collect();
    let mut clients = std::collections::BTreeSet::new();
    for task in tasks {
        let answer = task.await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        clients.insert(answer.receipt().client_id);
    }
    assert_eq!(clients.len(), 1);
    assert_eq!(world.succeeded_charges().await.len(), 1);
    assert_eq!(gateway.balance(clients.first().unwrap()).await, 50_000 - 50 * 500);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_topped_up_a_wallet_later_does_not_lead_to_it() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let wallet = gateway.new_client("/api/weather").await;
    let later = world.tokenise("5555555555554444").await;
    let url = format!("{}/billing/top-ups", gateway.url);
    let bearer = format!("Bearer {wallet}");
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "later")];
    let body = format!("{{\"paymentMethodId\":\"{later}\"}}");
    let paid = world.client.send("POST", &url, &headers, Some(("application/json", body.as_bytes()))).await;
    assert_eq!(paid.status, 201, "{}", paid.text());
    let alone = gateway.pay("/api/weather", &Pay::card(&later)).await;
    assert_eq!((alone.status, alone.code().as_str()), (409, "payment_method_of_other_client"));
    assert!(alone.try_receipt().is_none(), "nobody's key is told");
    assert_eq!(world.succeeded_charges().await.len(), 2);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_another_currency_is_refused_at_start() {
    let mut world = World::new().await;
    let gateway = world.gateway().await;
    gateway.new_client("/api/weather").await;
    gateway.stop().await;
    world.extra = "currency = \"eur\"".into();
    let refusal = world.try_gateway().await.err().expect("refused");
    assert!(matches!(&refusal, StartError::Currency(held, "eur") if held == "usd"), "{refusal}");
}
