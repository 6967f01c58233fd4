//! Whose doing it is that a handler's answer breaks off, and what is no whole answer.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::support::raw::{Raw, header_of, status_of};

/// Longer than a caller may pause (`proxy/pace.rs`).
const PAUSE: Duration = Duration::from_millis(2_500);
const REVERSALS: &str = "SELECT COUNT(*) FROM entries WHERE source LIKE 'reversal:%'";

async fn ask(shop: &Shop<'_>, first: &str, client: &str, rest: &str) -> Raw {
    let mut caller = Raw::connect(&shop.url).await;
    let payment = Pay::client(client).header();
    caller.send(format!("{first}\r\nhost: a\r\npayment: {payment}\r\n{rest}")).await;
    caller
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_does_not_send_what_was_announced_pays_for_what_came() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    let mut left = PACK;
    for (rest, more) in [
        ("content-length: 10\r\n\r\n", ""),
        ("transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "this is no chunk\r\n"),
    ] {
        let mut caller = ask(&shop, "POST /echoes HTTP/1.1", &client, rest).await;
        caller.until("nearly all;").await;
        caller.send(more).await;
        caller.socket.shutdown().await.unwrap();
        caller.rest().await;
        left -= PRICE;
    }
    // A handler that gives up because nothing comes.
    let mut caller = ask(&shop, "POST /echoes HTTP/1.1", &client, "content-length: 10\r\n\r\n").await;
    caller.until("nearly all;").await;
    tokio::time::sleep(PAUSE).await;
    shop.handlers.waiting.add_permits(1);
    caller.rest().await;
    left -= PRICE;
    shop.balance_becomes(&client, left).await;
    shop.close().await;
    assert_eq!(number(&world.database, REVERSALS).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_gives_up_on_a_slow_reader_has_not_broken_its_answer() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    let mut caller = ask(&shop, "GET /impatient/3000 HTTP/1.1", &client, "\r\n").await;
    while caller.buffer.len() < 1024 * 1024 {
        assert!(caller.more().await);
    }
    eventually("the handler gives up", async || shop.handlers.dropped.load(Ordering::SeqCst) == 1).await;
    assert!(!caller.rest().await.ends_with("0\r\n\r\n"), "no part is taken for the whole");
    assert_eq!(shop.balance(&client).await, PACK - PRICE);
    // One who reads all the time gets back what the handler broke at its end.
    let mut caller = ask(&shop, "GET /impatient/60000 HTTP/1.1", &client, "\r\n").await;
    assert!(!caller.rest().await.ends_with("0\r\n\r\n"));
    eventually("given back", async || number(&world.database, REVERSALS).await == 1).await;
    shop.balance_becomes(&client, PACK - PRICE).await;
    shop.close().await;
    assert_eq!(number(&world.database, REVERSALS).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_learns_what_a_handler_would_answer_by_asking_for_anything_but_that() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    let mut left = PACK;
    for (tags, seen) in [("*", ""), ("\"a\", *", ""), ("\"a\"", "\"a\"")] {
        let mut caller = ask(
            &shop,
            "GET /tags HTTP/1.1",
            &client,
            &format!("if-none-match: {tags}\r\nconnection: close\r\n\r\n"),
        )
        .await;
        assert_eq!(status_of(&caller.head().await), 200);
        assert_eq!(caller.rest().await, seen, "{tags}");
        left -= PRICE;
    }
    assert_eq!(shop.balance(&client).await, left);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_handler_breaks_while_its_caller_sends_is_given_back() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    let mut caller = ask(&shop, "POST /echoes HTTP/1.1", &client, "transfer-encoding: chunked\r\n\r\n").await;
    caller.until("nearly all;").await;
    for word in ["one", "two"] {
        caller.send(format!("3\r\n{word}\r\n")).await;
        caller.until(word).await;
    }
    shop.handlers.waiting.add_permits(1);
    caller.rest().await;
    shop.balance_becomes(&client, PACK).await;
    shop.close().await;
    assert_eq!(number(&world.database, REVERSALS).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_another_length_than_announced_is_given_back_and_an_empty_piece_is_no_end() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    for path in ["/body/long/5", "/body/short/5"] {
        let mut caller = ask(&shop, &format!("GET {path} HTTP/1.1"), &client, "\r\n").await;
        let head = caller.head().await;
        assert_eq!(status_of(&head), 200, "{path}");
        let length: usize = header_of(&head, "content-length").unwrap().parse().unwrap();
        assert!(caller.rest().await.len() < length, "{path}: it is not taken for the whole");
        shop.balance_becomes(&client, PACK).await;
    }
    let mut left = PACK;
    for path in ["/body/empty-between/4", "/body/empty-between-sized/4"] {
        let answer = shop.get(path, &Pay::client(&client)).await;
        assert_eq!(answer.text(), "xxxxxxxx", "{path}");
        left -= PRICE;
        assert_eq!(shop.balance(&client).await, left, "{path}");
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_without_a_body_has_none_and_http_1_0_gets_no_chunks() {
    let world = World::new().await;
    let shop = Shop::open(&world).await;
    let client = shop.wallet().await;
    let mut caller = Raw::connect(&shop.url).await;
    let payment = Pay::client(&client).header();
    for (path, status) in
        [("/body/not-modified/5", 304), ("/body/no-content/5", 204), ("/body/not-modified/5", 304)]
    {
        for key in ["", "idempotency-key: k\r\n"] {
            caller.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\n{key}\r\n")).await;
            let head = caller.head().await;
            assert_eq!(status_of(&head), status, "{path}: {head}");
            assert_eq!(caller.text(), "", "{path}: no bytes after the head");
        }
    }
    drop(caller);
    for keep in ["", "connection: keep-alive\r\n"] {
        let mut caller = ask(&shop, "GET /body/pieces/10 HTTP/1.0", &client, &format!("{keep}\r\n")).await;
        let head = caller.head().await;
        assert_eq!((status_of(&head), header_of(&head, "transfer-encoding")), (200, None), "{head}");
        assert_eq!(caller.rest().await, "xxxxxxxxxx");
    }
    shop.close().await;
}
