//! Framing of answers: what the upstream's bytes were decoded to is what the caller gets, whatever stands in headers beside it.

use super::payer;
use crate::support::raw::{Raw, header_of, scripted, status_of};
use crate::support::{ROUTES, World, number};

const PRICE: i64 = 500;

/// What the upstream sends for `/up/NAME`.
fn script(target: &str) -> Vec<u8> {
    let text = match target.trim_start_matches("/up/").trim_start_matches("/free/") {
        "304" => "HTTP/1.1 304 Not Modified\r\ncontent-length: 1234\r\netag: \"a\"\r\n\r\n",
        "204" => "HTTP/1.1 204 No Content\r\ncontent-length: 7\r\n\r\n",
        "both" => {
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
        }
        "chunked" => {
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
        }
        "close" => "HTTP/1.0 200 OK\r\n\r\nhello world",
        "length" => "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello world",
        "two" => "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 11\r\n\r\nhello world",
        "odd" => "HTTP/1.1 200 OK\r\ncontent-length: +11\r\n\r\nhello world",
        "gzip" => "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "empty" => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "cut" => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        other => panic!("{other}"),
    };
    text.as_bytes().to_vec()
}

async fn world() -> World {
    let routes = format!(
        "{ROUTES}charged_statuses = [\"2xx\", \"304\"]\n[[routes]]\npath = \"/free/*\"\nfree = true\n"
    );
    let mut world = World::with("", &routes).await;
    world.upstream.url = scripted(script).await;
    world
}

/// One request, and everything up to the close: head, and body as it came.
async fn ask(url: &str, first: &str, payment: Option<&str>, fields: &str) -> (String, String) {
    let mut raw = Raw::connect(url).await;
    let payment = payment.map_or_else(String::new, |payment| format!("payment: {payment}\r\n"));
    raw.send(format!("{first}\r\nhost: a\r\n{payment}{fields}connection: close\r\n\r\n")).await;
    let head = raw.head().await;
    (head, raw.rest().await)
}

const CHUNKS: &str = "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decoded_frames_the_answer_and_no_header_beside_it() {
    let world = world().await;
    let gateway = world.gateway().await;
    let (client, payment) = payer(&world, &gateway).await;
    let mut left = 50_000;
    // Method, path, status, content-length, whether chunked, body, whether it is sold.
    for (method, name, status, length, chunked, body, sold) in [
        ("GET", "304", 304, None, false, "", true),
        ("GET", "204", 204, None, false, "", true),
        ("GET", "both", 200, None, true, CHUNKS, true),
        ("GET", "chunked", 200, None, true, CHUNKS, true),
        ("GET", "close", 200, None, true, "B\r\nhello world\r\n0\r\n\r\n", true),
        ("GET", "length", 200, Some("11"), false, "hello world", true),
        ("GET", "empty", 200, Some("0"), false, "", true),
        ("HEAD", "length", 200, Some("11"), false, "", true),
        ("HEAD", "both", 200, None, false, "", true),
        ("HEAD", "304", 304, None, false, "", true),
        ("GET", "two", 502, None, false, "", false),
        ("GET", "odd", 502, None, false, "", false),
        ("GET", "gzip", 502, None, false, "", false),
    ] {
        for (paid, key) in [(false, ""), (true, ""), (true, "idempotency-key: k\r\n")] {
            let path = if paid { format!("/up/{name}") } else { format!("/free/{name}") };
            let what = format!("{method} {path} {key:?}");
            let payment = paid.then_some(payment.as_str());
            let (head, got) = ask(&gateway.url, &format!("{method} {path} HTTP/1.1"), payment, key).await;
            assert_eq!(status_of(&head), status, "{what}: {head}");
            if sold && paid {
                left -= PRICE;
                assert!(head.contains("payment-response: "), "{what}: {head}");
            }
            assert_eq!(gateway.balance(&client).await, left, "{what}");
            if !sold {
                continue;
            }
            // What is kept for a key is here already, and has a length.
            let is_whole = !key.is_empty() && method == "GET" && status == 200;
            let (length, chunked, body) = if is_whole && chunked {
                (Some("11"), false, "hello world")
            } else {
                (length, chunked, body)
            };
            assert_eq!(header_of(&head, "content-length"), length, "{what}: {head}");
            assert_eq!(header_of(&head, "transfer-encoding"), chunked.then_some("chunked"), "{what}: {head}");
            assert_eq!(got, body, "{what}");
        }
    }
    gateway.stop().await;
    world.assert_books_agree().await;
    let reversals = "SELECT COUNT(*) FROM entries WHERE source LIKE 'reversal:%'";
    assert_eq!(number(&world.database, reversals).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_learns_what_is_sold_by_asking_for_anything_but_that() {
    let world = World::with("", &format!("{ROUTES}[[routes]]\npath = \"/free/*\"\nfree = true\n")).await;
    let gateway = world.gateway().await;
    let (client, payment) = payer(&world, &gateway).await;
    for (path, tags, seen) in [
        ("/up/x", "*", None),
        ("/up/x", "\"a\", *", None),
        ("/up/x", "\"a\", W/\"b\"", Some("\"a\", W/\"b\"")),
        ("/free/x", "*", Some("*")),
    ] {
        let fields = format!("if-none-match: {tags}\r\n");
        let payment = path.starts_with("/up").then_some(payment.as_str());
        let (head, _) = ask(&gateway.url, &format!("GET {path} HTTP/1.1"), payment, &fields).await;
        assert_eq!(status_of(&head), 200, "{head}");
        let upstream = world.upstream.seen().pop().unwrap();
        assert_eq!(upstream.headers.get("if-none-match").map(String::as_str), seen, "{path} {tags}");
    }
    assert_eq!(gateway.balance(&client).await, 50_000 - 3 * PRICE);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_cannot_be_passed_on_charges_no_card() {
    // With the base path it is longer than a target may be, and the caller's own is not.
    let mut world = World::new().await;
    world.upstream.url.push_str(&format!("/{}", "b".repeat(1_700)));
    let gateway = world.gateway().await;
    let card = world.tokenise(crate::support::GOOD).await;
    let payment = crate::support::Pay::card(&card).header();
    let path = format!("/up/x?q={}", "x".repeat(63_900));
    let (head, body) = ask(&gateway.url, &format!("GET {path} HTTP/1.1"), Some(&payment), "").await;
    assert_eq!(status_of(&head), 414, "{head}{body}");
    assert!(body.contains("target_too_long"), "{body}");
    assert_eq!(world.succeeded_charges().await.len(), 0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_speaks_http_1_0_gets_no_chunks() {
    let world = world().await;
    let gateway = world.gateway().await;
    let (client, payment) = payer(&world, &gateway).await;
    let mut left = 50_000;
    for (name, length) in [("both", None), ("chunked", None), ("close", None), ("length", Some("11"))] {
        for (path, paid) in [(format!("/free/{name}"), false), (format!("/up/{name}"), true)] {
            for keep in ["", "connection: keep-alive\r\n"] {
                let mut raw = Raw::connect(&gateway.url).await;
                let credential = if paid { format!("payment: {payment}\r\n") } else { String::new() };
                raw.send(format!("GET {path} HTTP/1.0\r\nhost: a\r\n{credential}{keep}\r\n")).await;
                let head = raw.head().await;
                assert!(head.starts_with("http/1.0 200"), "{path}: {head}");
                assert_eq!(header_of(&head, "transfer-encoding"), None, "{path}: {head}");
                assert_eq!(header_of(&head, "content-length"), length, "{path}: {head}");
                // With an unknown length the end of the connection is the end of the answer, whatever the caller asked for.
                let is_kept = length.is_some() && !keep.is_empty();
                let expected = is_kept.then_some("keep-alive");
                assert_eq!(header_of(&head, "connection"), expected, "{path}: {head}");
                let body = if is_kept {
                    raw.until("hello world").await;
                    raw.text()
                } else {
                    raw.rest().await
                };
                assert_eq!(body, "hello world", "{path}");
                left -= if paid { PRICE } else { 0 };
            }
        }
    }
    assert_eq!(gateway.balance(&client).await, left);
    // What the upstream cuts is given back, although such a caller cannot see that it is not the whole.
    let (head, body) = ask(&gateway.url, "GET /up/cut HTTP/1.0", Some(&payment), "").await;
    assert_eq!((status_of(&head), body.as_str()), (200, "hello"));
    crate::support::raw::eventually("the cut answer is given back", async || {
        gateway.balance(&client).await == left
    })
    .await;
    gateway.stop().await;
    world.assert_books_agree().await;
}
