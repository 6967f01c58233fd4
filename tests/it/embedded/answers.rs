//! What handlers answer: charged, not charged, given back; and requests with an `Idempotency-Key`.

use super::*;
use crate::support::dice::Dice;
use crate::support::log;
use crate::support::raw::{Raw, header_of, status_of};

/// `fields`: more header lines, each with its end.
fn request(method: &str, path: &str, client: &str, fields: &str) -> String {
    let payment = Pay::client(client).header();
    format!("{method} {path} HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\n{fields}content-length: 0\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_success_is_not_charged_and_says_so() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    for (path, status) in [
        ("/status/301", 301),
        ("/status/304", 304),
        ("/status/308", 308),
        ("/status/400", 400),
        ("/status/404", 404),
        ("/status/500", 500),
        ("/status/503", 503),
        ("/fails/moved", 307),
        ("/fails/bad-request", 400),
        ("/fails/internal", 500),
        ("/fails/otherwise", 418),
    ] {
        for method in ["GET", "POST"] {
            for key in [None, Some("k")] {
                let answer = shop.send(method, path, &Pay::client(&client), key).await;
                assert_eq!(answer.status, status, "{path}");
                says_not_charged(&answer, &client, PACK);
                assert!(answer.header("x-request-id").is_some(), "{path}");
                assert!(
                    answer.header("access-control-expose-headers").is_some(),
                    "{path}: browsers may read the note"
                );
            }
        }
    }
    assert_eq!(shop.handlers.calls(), 11 * 4, "a key whose request was not charged is free");
    assert_eq!(shop.send("DELETE", "/get-only", &Pay::client(&client), None).await.status, 405);
    for status in [201, 204, 206] {
        let answer = shop.get(&format!("/status/{status}"), &Pay::client(&client)).await;
        assert_eq!((answer.status, answer.receipt().success), (status, true));
    }
    assert_eq!(shop.balance(&client).await, PACK - 3 * PRICE);
    // The card that this request charged is named, too.
    let card = world.tokenise(GOOD).await;
    let answer = shop.get("/fails/internal", &Pay::card(&card)).await;
    let note = answer.receipt();
    assert!(note.charge_id.is_some() && !note.success);
    assert_eq!((note.credits_remaining.unwrap(), note.top_up_amount), (PACK, Some(PACK)));
    shop.all_is_free(&note.client_id).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_charged_where_their_price_says_so_and_otherwise_told_of_once() {
    log::listen();
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    for status in [301, 304, 308] {
        let path = format!("/charges-redirects/{status}");
        for key in [None, Some("k"), Some("k")] {
            let answer = shop.send("GET", &path, &Pay::client(&client), key).await;
            assert_eq!((answer.status, answer.receipt().success), (status, true));
        }
    }
    let left = PACK - 6 * PRICE;
    assert_eq!((shop.balance(&client).await, shop.handlers.calls()), (left, 6));
    assert_eq!(log::lines_with("/charges-redirects/"), [""; 0]);
    for path in ["/moves/302", "/moves/304", "/moves-by-error/moved", "/moves-by-error/moved", "/moves/301"] {
        for key in [None, Some("m")] {
            let answer = shop.send("PUT", path, &Pay::client(&client), key).await;
            assert!((300..400).contains(&answer.status), "{path}: {}", answer.status);
            says_not_charged(&answer, &client, left);
        }
    }
    for (route, status) in [("PUT /moves/{status}", "302"), ("PUT /moves-by-error/{how}", "307")] {
        let told = log::lines_with(route);
        let [line] = told.as_slice() else { panic!("once: {told:?}") };
        for part in ["WARN", status, "charge_redirects()"] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_is_not_paid() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    for key in [None, Some("k")] {
        let client = shop.wallet().await;
        for method in ["GET", "POST"] {
            let answer = shop.try_send(method, "/fails/panic", &Pay::client(&client), key).await;
            assert!(answer.is_err() || answer.unwrap().status >= 500);
        }
        shop.balance_becomes(&client, PACK).await;
        let served = shop.send("POST", "/five", &Pay::client(&client), key).await;
        assert_eq!(served.status, 200, "the server goes on: {}", served.text());
        assert_eq!(shop.balance(&client).await, PACK - PRICE);
    }
    let client = shop.wallet().await;
    let _ = shop.try_send("POST", "/fails/panic", &Pay::client(&client), None).await;
    shop.all_is_free(&client).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_goes_while_the_handler_runs_is_charged_when_it_answers() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    let mut left = PACK;
    for method in ["GET", "POST"] {
        for (key, is_reset) in [("", false), ("", true), ("idempotency-key: gone\r\n", true)] {
            let mut caller = Raw::connect(&shop.url).await;
            let calls = shop.handlers.calls();
            caller.send(request(method, "/waits", &client, key)).await;
            eventually("the handler runs", async || shop.handlers.calls() == calls + 1).await;
            if is_reset {
                caller.socket.set_zero_linger().unwrap();
            }
            drop(caller);
            shop.handlers.waiting.add_permits(1);
            left -= PRICE;
            shop.balance_becomes(&client, left).await;
        }
    }
    assert_eq!(shop.handlers.dropped.load(Ordering::SeqCst), 0, "what runs is never broken off");
    // What was paid for can be had. (The first request had no body.)
    for method in ["GET", "POST"] {
        let mut caller = Raw::connect(&shop.url).await;
        caller.send(request(method, "/waits", &client, "idempotency-key: gone\r\n")).await;
        caller.until("waited").await;
        assert!(caller.text().contains("idempotent-replayed: true"), "{}", caller.text());
    }
    assert_eq!((shop.handlers.calls(), shop.balance(&client).await), (6, left));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_hang_up_at_random_moments_leave_exact_books() {
    let mut dice = Dice::printed("hang up on handlers");
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    for _ in 0..60 {
        let path = *dice.pick(&["/five", "/body/pieces/100000", "/status/500", "/body/breaks/5000"]);
        let method = *dice.pick(&["GET", "POST"]);
        let mut caller = Raw::connect(&shop.url).await;
        caller.send(request(method, path, &client, "")).await;
        tokio::time::sleep(dice.micros(9_000)).await; // the random moment
        if dice.one_in(2) {
            caller.socket.set_zero_linger().unwrap();
        }
        drop(caller);
    }
    let balance = "SELECT CAST(SUM(paid) AS BIGINT) FROM clients";
    let standing =
        "SELECT CAST(COUNT(*) AS BIGINT) FROM entries AS u WHERE u.source LIKE 'usage:%' AND NOT EXISTS
                    (SELECT 1 FROM entries AS r WHERE r.source = 'reversal:' || substr(u.source, 7))";
    let told = async || {
        eventually("everything is told", async || {
            let left = PACK - PRICE * number(&world.database, standing).await;
            shop.balance(&client).await == left && number(&world.database, balance).await == left * 100
        })
        .await;
        shop.balance(&client).await
    };
    // And all that is left can be spent. What was asked last may be read, charged or given back meanwhile.
    let mut served = 0;
    while told().await >= PRICE {
        loop {
            let answer = shop.send("POST", "/five", &Pay::client(&client), None).await;
            match answer.status {
                200 => served += 1,
                402 => break,
                status => assert_eq!(status, 429, "{}", answer.text()),
            }
        }
    }
    assert!(served >= 40, "sixty of a hundred were asked for before: {served}");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_given_back_and_its_connection_closed() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    for path in [
        "/body/breaks/5000",
        "/body/breaks/0",
        "/body/breaks-sized/5000",
        "/body/short/5000",
        "/body/short/0",
    ] {
        for method in ["GET", "POST"] {
            let mut caller = Raw::connect(&shop.url).await;
            caller.send(request(method, path, &client, "")).await;
            let head = caller.head().await;
            assert_eq!(status_of(&head), 200, "{path}: the head went out before: {head}");
            assert!(header_of(&head, "payment-response").is_some());
            let rest = caller.rest().await;
            assert!(!rest.ends_with("0\r\n\r\n"), "{path}: nobody takes a part for the whole");
            shop.balance_becomes(&client, PACK).await;
        }
    }
    assert_eq!(captures(&world).await, 10);
    let reversals = "SELECT COUNT(*) FROM entries WHERE source LIKE 'reversal:%'";
    assert_eq!(number(&world.database, reversals).await, 10);
    shop.all_is_free(&client).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_charged_before_their_first_byte_and_streamed() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    for (n, key) in ["", "idempotency-key: stream\r\n"].into_iter().enumerate() {
        let mut caller = Raw::connect(&shop.url).await;
        caller.send(request("GET", "/events", &client, key)).await;
        shop.handlers.waiting.add_permits(1);
        caller.until("data: 0").await;
        assert!(!caller.text().contains("data: 1"));
        assert_eq!(shop.balance(&client).await, PACK - PRICE * (i64::try_from(n).unwrap() + 1));
        shop.handlers.waiting.add_permits(1);
        caller.until("0\r\n\r\n").await;
    }
    let mut caller = Raw::connect(&shop.url).await;
    for size in [0, 1, 100_000, 3_000_000] {
        let answer = shop.get(&format!("/body/whole/{size}"), &Pay::client(&client)).await;
        assert_eq!((answer.status, answer.body.len()), (200, size));
        let answer = shop.get(&format!("/body/pieces/{size}"), &Pay::client(&client)).await;
        assert_eq!((answer.status, answer.body.len()), (200, size));
    }
    // One connection serves many.
    for path in ["/status/204", "/body/whole/0", "/charges-redirects/304"] {
        caller.send(request("GET", path, &client, "")).await;
        assert!(status_of(&caller.head().await) < 400);
    }
    assert_eq!(shop.balance(&client).await, PACK - 13 * PRICE);
    drop(caller);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_key_is_charged_once_and_its_handler_runs_once() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let card = world.tokenise(GOOD).await;
    let first = shop.send("POST", "/five", &Pay::card(&card), Some("k")).await;
    assert_eq!((first.status, first.header("idempotent-replayed")), (200, None), "{}", first.text());
    let client = first.receipt().client_id;
    for pay in [Pay::card(&card), Pay::client(&client), Pay::client(&client).with_card(&card)] {
        let again = shop.send("POST", "/five", &pay, Some("k")).await;
        assert_eq!((again.status, &again.body), (200, &first.body));
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
        assert_eq!(again.receipt().idempotent_replay, Some(true));
        for name in ["content-type", "content-length", "x-kept", "cache-control"] {
            assert_eq!(again.header(name), first.header(name), "{name}");
        }
    }
    let changed = shop.send("POST", "/five?changed", &Pay::client(&client), Some("k")).await;
    assert_eq!((changed.status, changed.code().as_str()), (422, "idempotency_mismatch"));
    let header = Pay::client(&client).header();
    let headers = [("payment", header.as_str()), ("idempotency-key", "k")];
    let url = format!("{}/five", shop.url);
    let changed = world.client.send("POST", &url, &headers, Some(("text/plain", b"other"))).await;
    assert_eq!((changed.status, changed.code().as_str()), (422, "idempotency_mismatch"));
    assert_eq!((shop.handlers.calls(), captures(&world).await), (1, 1));
    // In flight.
    let (caller, url, header) = (world.client.clone(), format!("{}/waits", shop.url), header.clone());
    let asked = tokio::spawn(async move {
        let headers = [("payment", header.as_str()), ("idempotency-key", "slow")];
        caller.send("POST", &url, &headers, Some(("text/plain", b"hello"))).await
    });
    eventually("the handler runs", async || shop.handlers.calls() == 2).await;
    let meanwhile = shop.send("POST", "/waits", &Pay::client(&client), Some("slow")).await;
    assert_eq!((meanwhile.status, meanwhile.code().as_str()), (409, "idempotency_in_flight"));
    shop.handlers.waiting.add_permits(1);
    assert_eq!(asked.await.unwrap().status, 200);
    let again = shop.send("POST", "/waits", &Pay::client(&client), Some("slow")).await;
    assert_eq!((again.text().as_str(), again.header("idempotent-replayed")), ("waited", Some("true")));
    assert_eq!(shop.balance(&client).await, PACK - 2 * PRICE);
    for key in ["a b", &"k".repeat(256)] {
        let answer = shop.send("POST", "/five", &Pay::client(&client), Some(key)).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_idempotency_key"));
    }
    let shared = shop.send("POST", "/five", &Pay::card("pm_card_visa"), Some("k")).await;
    assert_eq!((shared.status, shared.code().as_str()), (402, "invalid_payment"));
    assert_eq!((shop.handlers.calls(), captures(&world).await), (2, 2));
    shop.close().await;
}

/// Sends it until it is known whether the first answer was delivered.
async fn decided(shop: &Shop<'_>, method: &str, path: &str, pay: &Pay, key: &str) -> Answer {
    loop {
        let answer = shop.send(method, path, pay, Some(key)).await;
        if answer.code() != "idempotency_in_flight" {
            return answer;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_and_broken_answers_with_a_key_are_as_with_the_gateway() {
    let world = World::new().await;
    let shop = Shop::with(&world, "[idempotency]\nmax_answer_bytes = 1000").await;
    let client = shop.wallet().await;
    let pay = Pay::client(&client);
    let mut left = PACK;
    for path in ["/body/whole/1001", "/body/pieces/5000"] {
        for method in ["GET", "POST"] {
            assert_eq!(shop.send(method, path, &pay, Some("large")).await.status, 200);
            left -= PRICE;
            if method == "GET" {
                for _ in 0..3 {
                    let again = decided(&shop, method, path, &pay, "large").await;
                    assert_eq!((again.status, again.receipt().credits_remaining.unwrap()), (200, left));
                    assert_eq!(again.receipt().idempotent_replay, Some(true));
                }
            }
            let lost = decided(&shop, method, path, &pay, "large").await;
            assert_eq!(
                (lost.status, lost.code().as_str()),
                (409, "idempotency_answer_lost"),
                "{method} {path}"
            );
            assert_eq!(shop.balance(&client).await, left);
        }
    }
    // Kept: up to the limit, in pieces too.
    for path in ["/body/whole/1000", "/body/pieces/1000"] {
        assert_eq!(shop.send("POST", path, &pay, Some("fits")).await.status, 200);
        left -= PRICE;
        let again = shop.send("POST", path, &pay, Some("fits")).await;
        assert_eq!((again.body.len(), again.header("idempotent-replayed")), (1000, Some("true")));
    }
    // Broken before it is charged.
    for path in ["/body/breaks/500", "/body/breaks-sized/500", "/body/short/500"] {
        let calls = shop.handlers.calls();
        let answer = shop.send("POST", path, &pay, Some("broken")).await;
        assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_failed"), "{path}");
        says_not_charged(&answer, &client, left);
        // The handler has worked: it is not called again.
        let again = shop.send("POST", path, &pay, Some("broken")).await;
        assert_eq!((again.status, again.code().as_str()), (409, "idempotency_outcome_unknown"), "{path}");
        assert_eq!(shop.handlers.calls(), calls + 1);
        for _ in 0..2 {
            let answer = shop.send("GET", path, &pay, Some("broken")).await;
            assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_failed"), "{path}");
        }
        assert_eq!(shop.handlers.calls(), calls + 3);
    }
    // Broken after it was charged.
    for method in ["GET", "POST"] {
        for _ in 0..2 {
            let calls = shop.handlers.calls();
            let broken = shop.try_send(method, "/body/breaks/5000", &pay, Some("cut")).await;
            match broken {
                Err(_) => assert_eq!(shop.handlers.calls(), calls + 1),
                Ok(answer) => {
                    assert_eq!((method, answer.code().as_str()), ("POST", "idempotency_outcome_unknown"));
                    assert_eq!(shop.handlers.calls(), calls);
                }
            }
            shop.balance_becomes(&client, left).await;
        }
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_is_asked_again_with_the_headers_that_were_paid_for_and_no_others() {
    let world = World::new().await;
    let shop = Shop::with(&world, "[idempotency]\nmax_answer_bytes = 10").await;
    let card = world.tokenise(GOOD).await;
    let asked = async |pay: &Pay, more: &[(&str, &str)]| {
        let payment = pay.header();
        let mut headers = vec![("payment", payment.as_str()), ("idempotency-key", "k")];
        headers.extend(more);
        loop {
            let answer = world.client.send("GET", &format!("{}/five", shop.url), &headers, None).await;
            if answer.code() != "idempotency_in_flight" {
                return answer;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let first =
        [("accept", "text/html"), ("cookie", "user=1"), ("authorization", "Bearer one"), ("x_custom", "1")];
    let client = asked(&Pay::card(&card), &first).await.receipt().client_id;
    let pay = Pay::client(&client);
    for n in 0..first.len() {
        let mut other = first;
        other[n].1 = "other";
        for headers in [&other[..], &[&first[..n], &first[n + 1..]].concat()] {
            let answer = asked(&pay, headers).await;
            assert_eq!((answer.status, answer.code().as_str()), (422, "idempotency_mismatch"), "{headers:?}");
        }
    }
    for more in [("accept-language", "en"), ("x-original-url", "/other"), ("x-http-method-override", "PUT")] {
        let answer = asked(&pay, &[&first[..], &[more]].concat()).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, "idempotency_mismatch"), "{more:?}");
    }
    assert_eq!((shop.handlers.calls(), shop.balance(&client).await), (1, PACK - PRICE));
    let more = [
        ("user-agent", "second"),
        ("traceparent", "1"),
        ("x-request-id", "1"),
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-proto", "https"),
        ("x-real-ip", "203.0.113.7"),
        ("via", "1.1 a"),
    ];
    for (pay, headers) in [
        (&pay, first.to_vec()),
        (&Pay::card(&card), first.iter().rev().copied().collect()),
        (&pay, [&more[..], &first[..]].concat()),
    ] {
        let again = asked(pay, &headers).await;
        assert_eq!((again.status, again.receipt().idempotent_replay), (200, Some(true)), "{headers:?}");
    }
    assert_eq!(asked(&pay, &first).await.code(), "idempotency_answer_lost");
    assert_eq!((shop.handlers.calls(), shop.balance(&client).await), (4, PACK - PRICE));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_learns_that_it_is_asked_again_for_nothing() {
    let world = World::new().await;
    let shop = Shop::with(&world, "[idempotency]\nmax_answer_bytes = 10").await;
    let client = shop.wallet().await;
    let first = shop.send("GET", "/five", &Pay::client(&client), Some("k")).await;
    assert_eq!(first.json()["isRepeat"], false);
    let again = decided(&shop, "GET", "/five", &Pay::client(&client), "k").await;
    assert_eq!(
        (again.json()["isRepeat"].as_bool(), again.json()["client"].as_str()),
        (Some(true), first.json()["client"].as_str())
    );
    assert_eq!(shop.balance(&client).await, PACK - PRICE);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_repeated_with_every_byte_of_its_headers() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    let first = shop.send("POST", "/named", &Pay::client(&client), Some("k")).await;
    let again = decided(&shop, "POST", "/named", &Pay::client(&client), "k").await;
    assert_eq!(again.header("idempotent-replayed"), Some("true"), "{}", again.text());
    for answer in [first, again] {
        assert_eq!(answer.headers["x-name"].as_bytes(), b"caf\xe9 \xff");
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_too_long_and_an_upgrade_that_is_offered() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    let long = "x".repeat(65_000);
    for path in ["/five", "/billing/balance"] {
        let mut raw = Raw::connect(&shop.url).await;
        raw.send(request("GET", &format!("{path}?{long}"), &client, "")).await;
        assert_eq!(status_of(&raw.head().await), 414, "{path}");
    }
    assert_eq!((shop.handlers.calls(), shop.balance(&client).await), (0, PACK));
    let mut raw = Raw::connect(&shop.url).await;
    raw.send(request("GET", "/five", &client, "connection: upgrade\r\nupgrade: h2c\r\n")).await;
    let head = raw.head().await;
    assert_eq!((status_of(&head), header_of(&head, "connection")), (200, Some("close")), "{head}");
    shop.close().await;
}
