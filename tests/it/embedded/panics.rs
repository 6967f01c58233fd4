//! Handlers, bodies and middleware that panic, and a server that ends in the middle: what was not delivered is not paid for.

use super::faulty::PAYLOAD;
use super::*;
use crate::support::raw::{Raw, header_of, status_of};
use crate::support::{hold_writes, is_on_sqlite, let_write, log};

const REVERSALS: &str = "SELECT COUNT(*) FROM entries WHERE source LIKE 'reversal:%'";

async fn ask(shop: &Shop<'_>, method: &str, path: &str, client: &str, fields: &str) -> Raw {
    let mut caller = Raw::connect(&shop.url).await;
    let payment = Pay::client(client).header();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\n");
    caller.send(format!("{head}{fields}content-length: 0\r\n\r\n")).await;
    caller
}

async fn reversals_become(shop: &Shop<'_>, count: i64) {
    eventually(&format!("{count} given back"), async || {
        number(&shop.world.database, REVERSALS).await == count
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_panics_is_given_back_also_before_its_first_byte() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    let mut given_back = 0;
    for path in ["/body/panics/0", "/body/panics/5000", "/body/panics-sized/0", "/body/panics-sized/5000"] {
        for method in ["GET", "POST"] {
            let mut caller = ask(&shop, method, path, &client, "").await;
            let head = caller.head().await;
            assert_eq!(status_of(&head), 200, "{method} {path}: the head went out before: {head}");
            assert!(header_of(&head, "payment-response").is_some());
            let rest = caller.rest().await;
            assert!(!rest.ends_with("0\r\n\r\n"), "{path}: nobody takes a part for the whole");
            given_back += 1;
            reversals_become(&shop, given_back).await;
            assert_eq!(shop.balance(&client).await, PACK, "{method} {path}");
        }
    }
    // Read before it is charged, because it is to be kept: not charged at all, and not run again where it may have done something.
    let pay = Pay::client(&client);
    for path in ["/body/panics/0", "/body/panics/500", "/body/panics-sized/500", "/body/panics-in-size/500"] {
        let calls = shop.handlers.calls();
        let answer = shop.send("POST", path, &pay, Some("k")).await;
        assert!([500, 502].contains(&answer.status), "{path}: {}", answer.status);
        assert_eq!(answer.receipt().client_id, client, "{path}");
        let again = shop.send("POST", path, &pay, Some("k")).await;
        assert_eq!((again.status, again.code().as_str()), (409, "idempotency_outcome_unknown"), "{path}");
        assert_eq!(shop.handlers.calls(), calls + 1, "{path}");
    }
    let answer = shop.get("/body/panics-in-size/5", &pay).await;
    assert_eq!((answer.status, answer.receipt().success), (500, false));
    assert_eq!(number(&world.database, REVERSALS).await, given_back);
    assert_eq!(shop.balance(&client).await, PACK);
    shop.all_is_free(&client).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_panics_when_it_is_dropped_is_delivered_before() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    let mut left = PACK;
    for (path, size) in [
        ("/body/panics-when-dropped/5000", 5000),
        ("/body/panics-when-dropped/100000", 100_000),
        ("/body/panics-when-dropped-in-pieces/5000", 5000),
    ] {
        for method in ["GET", "HEAD", "POST"] {
            for key in [None, Some("k")] {
                let answer = shop.send(method, path, &Pay::client(&client), key).await;
                let size = if method == "HEAD" { 0 } else { size };
                assert_eq!((answer.status, answer.body.len()), (200, size), "{method} {path}");
                left -= PRICE;
                assert_eq!(answer.receipt().credits_remaining.unwrap(), left, "{method} {path}");
            }
        }
    }
    shop.balance_becomes(&client, left).await;
    shop.close().await;
    assert_eq!(number(&world.database, REVERSALS).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_says_what_became_of_the_payment_and_is_not_run_again() {
    log::listen();
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let card = world.tokenise(GOOD).await;
    // The card was charged by this very request.
    let first = shop.send("POST", "/fails/panic", &Pay::card(&card), Some("first")).await;
    assert_eq!((first.status, first.code().as_str()), (500, "handler_failed"), "{}", first.text());
    assert_eq!(first.header("content-type"), Some("application/problem+json"));
    assert_eq!(first.header("cache-control"), Some("no-store"));
    assert!(first.header("access-control-expose-headers").unwrap().contains("payment-response"));
    let note = first.receipt();
    assert!(!note.success && note.charge_id.is_some());
    assert_eq!((note.error_code.as_deref(), note.credits_charged), (Some("handler_failed"), Some(0)));
    assert_eq!((note.credits_remaining.unwrap(), note.top_up_amount), (PACK, Some(PACK)));
    let body = first.json();
    assert_eq!(body["clientId"].as_str(), Some(note.client_id.as_str()));
    assert_eq!((body["requestCharged"].as_bool(), body["whoActs"].as_str()), (Some(false), Some("seller")));
    let id = first.header("x-request-id").unwrap();
    assert_eq!(body["requestId"].as_str(), Some(id));
    let told = log::lines_with(id);
    let [line] = told.as_slice() else { panic!("once: {told:?}") };
    assert!(line.contains("ERROR") && line.contains("panicked"), "{line}");
    assert_eq!(log::lines_with(PAYLOAD), [""; 0]);
    let client = note.client_id;
    let pay = Pay::client(&client);
    for pay in [&pay, &Pay::card(&card)] {
        let again = shop.send("POST", "/fails/panic", pay, Some("first")).await;
        assert_eq!((again.status, again.code().as_str()), (409, "idempotency_outcome_unknown"));
    }
    assert_eq!(shop.handlers.calls(), 1, "it was not run again");
    for (path, mischief, runs) in [
        ("/fails/panic", "", 1),
        ("/extracts", "", 1),
        ("/inside", "panics", 1),
        ("/inside", "panics-before", 0),
    ] {
        let payment = pay.header();
        // Of this case alone.
        let own = format!("k{mischief}");
        for (method, key) in [("GET", ""), ("POST", ""), ("GET", own.as_str()), ("POST", own.as_str())] {
            let mut headers = vec![("payment", payment.as_str()), ("x-mischief", mischief)];
            headers.extend((!key.is_empty()).then_some(("idempotency-key", key)));
            let calls = shop.handlers.calls();
            let send =
                async || world.client.send(method, &format!("{}{path}", shop.url), &headers, None).await;
            let answer = send().await;
            assert_eq!((answer.status, answer.code().as_str()), (500, "handler_failed"), "{method} {path}");
            assert_eq!(answer.receipt().client_id, client);
            assert_eq!(shop.handlers.calls(), calls + runs);
            if !key.is_empty() {
                let again = send().await;
                let (status, code, more) = match method {
                    "GET" => (500, "handler_failed", runs),
                    _ => (409, "idempotency_outcome_unknown", 0),
                };
                assert_eq!((again.status, again.code().as_str()), (status, code), "{method} {path}");
                assert_eq!(shop.handlers.calls(), calls + runs + more, "{method} {path}");
            }
        }
    }
    assert_eq!(captures(&world).await, 0);
    shop.all_is_free(&client).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_middleware_inside_the_price_is_an_answer_like_any_other() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    let payment = Pay::client(&client).header();
    for mischief in ["errs", "errs-before"] {
        for method in ["GET", "POST"] {
            let headers = [("payment", payment.as_str()), ("x-mischief", mischief)];
            let answer = world.client.send(method, &format!("{}/inside", shop.url), &headers, None).await;
            assert_eq!((answer.status, answer.text().as_str()), (502, "an error of middleware"));
            says_not_charged(&answer, &client, PACK);
            assert!(answer.header("x-request-id").is_some());
            assert!(answer.header("access-control-expose-headers").is_some(), "browsers may read the note");
        }
    }
    let metrics = world.client.get(&format!("{}/metrics", shop.admin_url)).await.text();
    let counted = metrics.lines().find(|line| line.contains("\"NotCharged\"") && line.contains("requests"));
    assert!(counted.is_some_and(|line| line.ends_with(" 4")), "{counted:?}");
    shop.all_is_free(&client).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_middleware_outside_the_price_throws_away_is_given_back() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    let payment = Pay::client(&client).header();
    let mut given_back = 0;
    for mischief in ["panics", "errs", "replaces"] {
        for method in ["GET", "HEAD", "POST"] {
            let headers = [("payment", payment.as_str()), ("x-mischief", mischief)];
            let answer =
                world.client.try_send(method, &format!("{}/outside", shop.url), &headers, None).await;
            assert!(answer.is_err() || answer.unwrap().status >= 500, "{mischief}");
            given_back += 1;
            reversals_become(&shop, given_back).await;
            assert_eq!(shop.balance(&client).await, PACK, "{mischief}");
        }
    }
    let headers = [("payment", payment.as_str())];
    let answer = world.client.send("GET", &format!("{}/outside", shop.url), &headers, None).await;
    assert_eq!((answer.status, shop.balance(&client).await), (200, PACK - PRICE));
    // What is kept for its key can be fetched, and stays charged.
    let headers = [("payment", payment.as_str()), ("idempotency-key", "k"), ("x-mischief", "errs")];
    let url = format!("{}/outside", shop.url);
    assert_eq!(world.client.send("POST", &url, &headers, None).await.status, 502);
    let again = world.client.send("POST", &url, &headers[..2], None).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")), "{}", again.text());
    assert_eq!(again.receipt().credits_remaining.unwrap(), PACK - 2 * PRICE);
    shop.close().await;
    assert_eq!(number(&world.database, REVERSALS).await, given_back);
}

/// Answers that run when the server is told to end: one with events, and one whose caller does not read.
async fn running(shop: &Shop<'_>, client: &str) -> (Raw, Raw) {
    let mut listener = ask(shop, "GET", "/events", client, "").await;
    shop.handlers.waiting.add_permits(1);
    listener.until("data: 0").await;
    let mut reader = ask(shop, "GET", "/body/whole/64000000", client, "").await;
    reader.head().await;
    (listener, reader)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_cuts_when_it_ends_is_given_back() {
    let world = World::new().await;
    for is_graceful in [false, true] {
        let shop = Shop::open(&world).await;
        let client = shop.wallet().await;
        let before = number(&world.database, REVERSALS).await;
        let callers = running(&shop, &client).await;
        assert_eq!(shop.balance(&client).await, PACK - 2 * PRICE);
        shop.server.stop(is_graceful).await;
        // The paywall of an application may live longer than its server.
        reversals_become(&shop, before + 2).await;
        drop(callers);
        shop.close().await;
        let shop = Shop::open(&world).await;
        assert_eq!(shop.balance(&client).await, PACK, "graceful: {is_graceful}");
        shop.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_cuts_right_before_the_books_are_closed_is_given_back_at_the_next_start() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    let callers = running(&shop, &client).await;
    shop.server.stop(false).await;
    shop.paywall.stop().await;
    drop(callers);
    let shop = Shop::open(&world).await;
    shop.balance_becomes(&client, PACK).await;
    shop.close().await;
    assert_eq!(number(&world.database, REVERSALS).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_charged_when_its_worker_has_ended_is_given_back_unless_it_can_be_fetched() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    let mut callers = Vec::new();
    for key in ["", "idempotency-key: k\r\n"] {
        callers.push(ask(&shop, "GET", "/waits", &client, key).await);
    }
    eventually("the handlers run", async || shop.handlers.calls() == 2).await;
    let held = hold_writes(&world.database).await;
    shop.handlers.waiting.add_permits(2);
    eventually("they have answered", async || shop.handlers.answered.load(Ordering::SeqCst) == 2).await;
    shop.server.stop(false).await;
    for caller in &mut callers {
        assert_eq!(caller.rest().await, "", "nothing went out before the charge");
    }
    let_write(held).await;
    eventually("both are charged", async || captures(&world).await == 2).await;
    reversals_become(&shop, 1).await;
    shop.close().await;
    let shop = Shop::open(&world).await;
    assert_eq!(shop.balance(&client).await, PACK - PRICE);
    let mut caller = ask(&shop, "GET", "/waits", &client, "idempotency-key: k\r\n").await;
    caller.until("waited").await;
    assert_eq!((shop.handlers.calls(), shop.balance(&client).await), (0, PACK - PRICE));
    shop.close().await;
    assert_eq!(number(&world.database, REVERSALS).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_only_a_person_brings_back_is_not_waited_for() {
    if !is_on_sqlite("a file") {
        return;
    }
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    let away = world.folder.path().join("away.db");
    std::fs::rename(world.file(), &away).unwrap();
    let pay = Pay::client(&client);
    eventually("nothing is sold", async || shop.get("/five", &pay).await.status == 503).await;
    let refused = shop.get("/five", &pay).await;
    assert_eq!((refused.code().as_str(), refused.header("x-should-retry")), ("busy", Some("false")));
    assert_eq!(refused.receipt().credits_remaining, None);
    let body = Some(("application/json", &b"{\"paymentMethodId\":\"pm_1\"}"[..]));
    let url = format!("{}/billing/top-ups", shop.url);
    let bought = world.client.send("POST", &url, &[("idempotency-key", "k")], body).await;
    assert_eq!((bought.status, bought.header("x-should-retry")), (503, Some("false")), "{}", bought.text());
    std::fs::rename(&away, world.file()).unwrap();
    eventually("it is sold again", async || shop.get("/five", &pay).await.status == 200).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_the_ending_server_drops_is_not_paid_and_not_run_again() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    let mut callers = Vec::new();
    for method in ["GET", "POST"] {
        for key in ["", "idempotency-key: k\r\n"] {
            callers.push(ask(&shop, method, "/waits", &client, key).await);
        }
    }
    eventually("the handlers run", async || shop.handlers.calls() == 4).await;
    shop.server.stop(false).await;
    eventually("they are dropped", async || shop.handlers.dropped.load(Ordering::SeqCst) == 4).await;
    drop(callers);
    shop.close().await;
    let shop = Shop::open(&world).await;
    assert_eq!(shop.balance(&client).await, PACK);
    let mut caller = ask(&shop, "POST", "/waits", &client, "idempotency-key: k\r\n").await;
    let head = caller.head().await;
    assert_eq!(status_of(&head), 409, "{head}");
    caller.until("idempotency_outcome_unknown").await;
    assert_eq!(shop.handlers.calls(), 0);
    shop.handlers.waiting.add_permits(1);
    let mut caller = ask(&shop, "GET", "/waits", &client, "idempotency-key: k\r\n").await;
    caller.until("waited").await;
    assert_eq!((shop.balance(&client).await, captures(&world).await), (PACK - PRICE, 1));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_outside_the_price_lets_the_handler_go_on_and_is_charged_and_inside_nothing_is() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    let payment = Pay::client(&client).header();
    let headers = [("payment", payment.as_str()), ("x-mischief", "gives-up")];
    for method in ["GET", "POST"] {
        let inside = world.client.send(method, &format!("{}/slow/inside", shop.url), &headers, None).await;
        assert_eq!((inside.status, inside.text().as_str()), (504, "too late"));
        says_not_charged(&inside, &client, PACK);
    }
    assert_eq!(shop.handlers.dropped.load(Ordering::SeqCst), 2);
    for (n, method) in ["GET", "POST"].into_iter().enumerate() {
        let outside = world.client.send(method, &format!("{}/slow/outside", shop.url), &headers, None).await;
        assert_eq!((outside.status, outside.header("payment-response")), (504, None));
        shop.handlers.waiting.add_permits(1);
        shop.balance_becomes(&client, PACK - PRICE * (i64::try_from(n).unwrap() + 1)).await;
    }
    assert_eq!(shop.handlers.dropped.load(Ordering::SeqCst), 2);
    // A batch after the charge says that nobody waits for it.
    let undelivered = "SELECT COUNT(*) FROM undelivered WHERE entries <> '[]'";
    eventually("it is noted as delivered", async || number(&world.database, undelivered).await == 0).await;
    shop.close().await;
    assert_eq!(number(&world.database, REVERSALS).await, 0);
}
