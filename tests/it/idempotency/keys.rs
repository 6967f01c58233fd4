//! What counts as a key, whose it is, and what is kept of it.

use super::*;
use crate::support::raw::{Raw, status_of};
use crate::support::{GOOD, ROUTES};

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_key_is_refused_before_anything_is_charged() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    let payment = Pay::client(&client).header();
    let fresh = Pay::card(&world.tokenise(GOOD).await).header();
    let too_long = "k".repeat(256);
    for (what, fields) in [
        ("empty", "idempotency-key:\r\n".to_owned()),
        ("blank", "idempotency-key:   \r\n".to_owned()),
        ("256 characters", format!("idempotency-key: {too_long}\r\n")),
        ("a space inside", "idempotency-key: a b\r\n".to_owned()),
        ("a tab inside", "idempotency-key: a\tb\r\n".to_owned()),
        ("not ASCII", "idempotency-key: schl\u{fc}ssel\r\n".to_owned()),
        ("two", "idempotency-key: a\r\nidempotency-key: b\r\n".to_owned()),
        ("twice the same", "idempotency-key: a\r\nIdempotency-Key: a\r\n".to_owned()),
    ] {
        for payment in [&payment, &fresh] {
            for method in ["GET", "POST"] {
                let mut raw = Raw::connect(&gateway.url).await;
                let head = format!("{method} /up/x HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\n{fields}");
                raw.send(format!("{head}connection: close\r\ncontent-length: 0\r\n\r\n")).await;
                let head = raw.head().await;
                assert_eq!(status_of(&head), 400, "{what}: {head}");
                let body = raw.rest().await;
                assert!(body.contains("\"invalid_idempotency_key\""), "{what}: {body}");
            }
        }
    }
    assert_eq!((world.upstream.hits(), remembered(&world).await), (0, 0));
    assert_eq!(world.succeeded_charges().await.len(), 1, "the wallet's own");
    assert_eq!(gateway.balance(&client).await, PACK);
    // The longest and the shortest there is, and every visible character.
    let visible: String = ('!'..='~').collect();
    for key in ["k".repeat(255), "k".to_owned(), visible] {
        let ask = Ask::post("/up/x", &Pay::client(&client), &key);
        let first = ask.at(&gateway).await;
        served(&first);
        replayed(&ask.at(&gateway).await, &first);
        assert_eq!(hits(&world, &key), 1, "passed on as it is");
    }
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stripes_shared_test_names_identify_nobody_and_have_no_keys() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    for method in ["POST", "GET"] {
        let ask = Ask::new(method, "/up/x", &Pay::card("pm_card_visa"), "shared");
        let answer = ask.at(&gateway).await;
        assert_eq!((answer.status, answer.code().as_str()), (402, "invalid_payment"), "{}", answer.text());
        answer.offer();
    }
    assert_eq!((world.upstream.hits(), world.succeeded_charges().await.len()), (0, 0));
    assert_eq!(number(&world.database, "SELECT COUNT(*) FROM top_ups").await, 0);
    // Beside a clientId it is the wallet's key.
    let client = wallet(&gateway).await;
    let ask = Ask::post("/up/x", &Pay::client(&client).with_card("pm_card_visa"), "shared");
    let first = ask.at(&gateway).await;
    served(&first);
    replayed(&ask.at(&gateway).await, &first);
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_with_a_key_has_a_limit_of_its_own() {
    let world = World::with("[idempotency]\nmax_body_bytes = 100", ROUTES).await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    let ask = Ask::post("/up/x", &Pay::client(&client), "large").body(vec![b'b'; 101]);
    let answer = ask.at(&gateway).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"), "{}", answer.text());
    // Nor in pieces, whose length nobody says before.
    let mut raw = Raw::connect(&gateway.url).await;
    let payment = Pay::client(&client).header();
    raw.send(format!(
        "POST /up/x HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\nidempotency-key: pieces\r\ntransfer-encoding: chunked\r\n\r\n\
         32\r\n{half}\r\n33\r\n{half}b\r\n0\r\n\r\n",
        half = "b".repeat(50)
    ))
    .await;
    assert_eq!(status_of(&raw.head().await), 413);
    assert_eq!((world.upstream.hits(), gateway.balance(&client).await), (0, PACK));
    served(&ask.clone().without_key().at(&gateway).await);
    // What was too large has left nothing behind.
    let fits = ask.body(vec![b'b'; 100]);
    let first = fits.at(&gateway).await;
    served(&first);
    assert_eq!(first.json()["bodyLength"], 100);
    replayed(&fits.at(&gateway).await, &first);
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_never_arrives_leaves_the_key_free() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    let ask = Ask::post("/up/x", &Pay::client(&client), "broken").body(vec![b'b'; 1000]);
    let mut raw = Raw::connect(&gateway.url).await;
    let bytes = ask.bytes();
    raw.send(&bytes[..bytes.len() - 500]).await;
    drop(raw);
    let first = ask.at(&gateway).await;
    served(&first);
    replayed(&ask.at(&gateway).await, &first);
    assert_eq!((hits(&world, "broken"), gateway.balance(&client).await), (1, PACK - PRICE));
    closed(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_means_nothing_where_nothing_is_paid() {
    let routes =
        format!("{ROUTES}\n[[routes]]\nmethods = [\"GET\", \"POST\"]\npath = \"/free/*\"\nfree = true\n");
    let world = World::with("", &routes).await;
    let gateway = world.gateway().await;
    let client = wallet(&gateway).await;
    let url = |path: &str| format!("{}{path}", gateway.url);
    let long = "k".repeat(300);
    let key = [("idempotency-key", "k")];
    for n in 1..=3 {
        let answer = world.client.send("POST", &url("/free/x"), &key, None).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("idempotent-replayed"), None);
        served_free(&Ask::post("/free/y", &Pay::client(&client), "k").at(&gateway).await);
        assert_eq!(world.upstream.hits(), 2 * n, "each goes to the API");
    }
    // A route that is free has no rules about keys, and neither has an unpaid request.
    let odd = [("idempotency-key", long.as_str())];
    assert_eq!(world.client.send("POST", &url("/free/x"), &odd, None).await.status, 200);
    for method in ["GET", "POST"] {
        for key in [&key, &odd] {
            let answer = world.client.send(method, &url("/up/x"), key, None).await;
            assert_eq!((answer.status, answer.code().as_str()), (402, "payment_required"));
            answer.offer();
        }
    }
    assert_eq!((remembered(&world).await, gateway.balance(&client).await), (0, PACK));
    let preflight = [
        ("idempotency-key", "k"),
        ("access-control-request-method", "POST"),
        ("origin", "https://a.example"),
    ];
    let answer = world.client.send("OPTIONS", &url("/up/x"), &preflight, None).await;
    assert!(answer.status < 300);
    let allowed = answer.header("access-control-allow-headers").unwrap_or_default().to_ascii_lowercase();
    assert!(allowed.contains("idempotency-key") || allowed == "*", "browsers may send one: {allowed}");
    let refusal = world.client.get(&url("/up/x")).await;
    let exposed = refusal.header("access-control-expose-headers").unwrap_or_default().to_ascii_lowercase();
    assert!(exposed.contains("idempotent-replayed"), "browsers may read it: {exposed}");
    closed(gateway).await;
}

fn served_free(answer: &Answer) {
    assert_eq!((answer.status, answer.header("idempotent-replayed")), (200, None), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_a_request_holds_no_secret() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let card = world.tokenise(GOOD).await;
    let key = "key-that-nobody-may-read";
    let ask = Ask::post("/up/status/200", &Pay::card(&card), key).body("request-that-nobody-may-read");
    let first = ask.at(&gateway).await;
    served(&first);
    let client = first.receipt().client_id;
    served(&Ask::post("/up/status/201", &Pay::client(&client), key).at(&gateway).await);
    // One that is still running, and one that is too large.
    let running = Ask::post("/up/wait", &Pay::client(&client), key);
    let answer = running.sent(&gateway);
    seen_by_the_api(&world, key, 3).await;
    served(&Ask::get("/up/bytes/70000", &Pay::client(&client), key).at(&gateway).await);
    assert_eq!(remembered(&world).await, 4);
    // Base64 hides nothing: the receipt in an answer's head holds the clientId.
    let receipts = [first.header("payment-response").unwrap().to_owned(), ask.payment.clone()];
    let secrets =
        [card.as_str(), client.as_str(), key, "request-that-nobody-may-read", &receipts[0], &receipts[1]];
    for (place, bytes) in world.stored().await {
        for secret in secrets {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{place} holds {secret}");
        }
    }
    world.upstream.release(1);
    served(&answer.await.unwrap().unwrap());
    closed(gateway).await;
}
