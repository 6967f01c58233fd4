//! The hop to the upstream: connections that ended meanwhile, bodies of no length, heads that are large or old-fashioned.

use super::payer;
use crate::support::raw::{ByHand, Raw, header_of, status_of};
use crate::support::upstream::{Script, ThenUpstream};
use crate::support::{Gateway, Pay, ROUTES, World};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 0\r\n\r\n";

/// A request that is answered by the upstream's connection, which stays open, and the caller's own.
async fn answered(gateway: &Gateway<'_>, upstream: &ByHand, payment: &str) -> (Raw, Raw) {
    let mut caller = Raw::connect(&gateway.url).await;
    caller.send(format!("GET /up/first HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\n\r\n")).await;
    let mut serving = upstream.accept().await;
    serving.head().await;
    serving.send(OK).await;
    assert_eq!(status_of(&caller.head().await), 200);
    (caller, serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_nothing_is_asked_again_where_a_connection_had_ended() {
    let mut world = World::new().await;
    let upstream = ByHand::start().await;
    world.upstream.url.clone_from(&upstream.url);
    let gateway = world.gateway().await;
    let (client, payment) = payer(&world, &gateway).await;
    let (mut left, paying) = (50_000, format!("payment: {payment}\r\n"));
    for (line, fields, price) in [
        ("GET /up/x?a=b", paying.as_str(), 500),
        ("HEAD /up/x?a=b", &paying, 500),
        ("GET /api/health", "", 0),
    ] {
        let (mut caller, mut serving) = answered(&gateway, &upstream, &payment).await;
        caller.send(format!("{line} HTTP/1.1\r\nhost: a\r\n{fields}x-mine: 1\r\n\r\n")).await;
        let first = serving.head().await;
        assert!(first.starts_with(&line.to_ascii_lowercase()), "the same connection: {first}");
        drop(serving);
        let mut serving = upstream.accept().await;
        assert_eq!(serving.head().await, first, "{line}: as it was");
        serving.send(OK).await;
        let head = caller.head().await;
        assert_eq!(status_of(&head), 200, "{line}: {head}");
        left -= 500 + price;
        assert_eq!(gateway.balance(&client).await, left, "{line}: charged once");
    }
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_done_is_not_asked_again() {
    let patient = "path = \"/up/*\"\nresponse_timeout = \"10s\"";
    let mut world = World::with("", &ROUTES.replace("path = \"/up/*\"", patient)).await;
    let upstream = ByHand::start().await;
    world.upstream.url.clone_from(&upstream.url);
    let gateway = world.gateway().await;
    let (client, payment) = payer(&world, &gateway).await;
    let mut left = 50_000;
    for (line, fields, beginning, works_for) in [
        ("POST /up/x", "", "", 0),
        ("DELETE /up/x", "", "", 0),
        ("POST /up/x", "idempotency-key: k\r\n", "", 0),
        // The answer has begun.
        ("GET /up/x", "", "HTTP/1.1 200 OK\r\ncont", 0),
        // It has worked for longer than a connection takes that was closed before.
        ("GET /up/x", "", "", 2_100),
    ] {
        let (mut caller, mut serving) = answered(&gateway, &upstream, &payment).await;
        left -= 500;
        caller
            .send(format!(
                "{line} HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\n{fields}content-length: 0\r\n\r\n"
            ))
            .await;
        serving.head().await;
        serving.send(beginning).await;
        tokio::time::sleep(std::time::Duration::from_millis(works_for)).await;
        drop(serving);
        let head = caller.head().await;
        assert_eq!(status_of(&head), 502, "{line}: {head}");
        assert_eq!(gateway.balance(&client).await, left, "{line}");
    }
    let asked = tokio::time::timeout(std::time::Duration::from_millis(50), upstream.accept_any()).await;
    assert!(asked.is_err(), "nobody asked again");
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_no_bytes_is_announced_as_that() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (_, payment) = payer(&world, &gateway).await;
    for (method, fields, expected) in [
        ("POST", "content-length: 0\r\n", Some("0")),
        ("POST", "", Some("0")),
        ("POST", "content-length: 0\r\nidempotency-key: a\r\n", Some("0")),
        ("POST", "transfer-encoding: chunked\r\nidempotency-key: b\r\n", Some("0")),
        ("PUT", "content-length: 0\r\n", Some("0")),
        ("DELETE", "content-length: 0\r\n", Some("0")),
        ("GET", "content-length: 0\r\n", Some("0")),
        ("HEAD", "content-length: 0\r\n", Some("0")),
        ("DELETE", "", None),
        ("GET", "", None),
        ("HEAD", "", None),
    ] {
        let body = if fields.contains("chunked") { "0\r\n\r\n" } else { "" };
        let mut raw = Raw::connect(&gateway.url).await;
        raw.send(format!("{method} /up/x HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\n{fields}\r\n{body}"))
            .await;
        let head = raw.head().await;
        assert_eq!(status_of(&head), 200, "{method} {fields:?}: {head}");
        let seen = world.upstream.seen().pop().unwrap().headers;
        assert_eq!(seen.get("content-length").map(String::as_str), expected, "{method} {fields:?}");
        assert_eq!(seen.get("transfer-encoding"), None, "{method} {fields:?}");
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_heads_are_read_up_to_a_limit_and_folded_lines_are_unfolded() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (client, payment) = payer(&world, &gateway).await;
    let many = |headers: usize| {
        let lines: String = (0..headers).map(|at| format!("x-header-{at}: {at}\r\n")).collect();
        format!("HTTP/1.1 200 OK\r\n{lines}content-length: 2\r\n\r\nok")
    };
    let mut left = 50_000;
    for (what, bytes, status, code) in [
        ("98", many(98), 200, ""),
        ("250", many(250), 200, ""),
        ("300", many(300), 502, "upstream_unreadable"),
        ("no HTTP", "garbage\r\n\r\n".to_owned(), 502, "upstream_unreadable"),
        (
            "a huge head",
            format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(600_000)),
            502,
            "upstream_unreadable",
        ),
        (
            "a fold",
            "HTTP/1.1 200 OK\r\nx-note: one\r\n two\r\n\tthree\r\ncontent-length: 2\r\n\r\nok".to_owned(),
            200,
            "",
        ),
        ("a folded length", "HTTP/1.1 200 OK\r\ncontent-length:\r\n 2\r\n\r\nok".to_owned(), 200, ""),
    ] {
        world.upstream.script([Script { bytes: bytes.into_bytes(), then: ThenUpstream::Closes }]);
        let mut raw = Raw::connect(&gateway.url).await;
        raw.send(format!(
            "GET /up/scripted HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\nconnection: close\r\n\r\n"
        ))
        .await;
        let head = raw.head().await;
        let body = raw.rest().await;
        assert_eq!(status_of(&head), status, "{what}: {head}{body}");
        if status == 200 {
            assert_eq!(body, "ok", "{what}");
            left -= 500;
        } else {
            assert!(body.contains(&format!("\"{code}\"")), "{what}: {body}");
        }
        if what == "250" {
            assert_eq!(header_of(&head, "x-header-249"), Some("249"));
        }
        if what == "a fold" {
            let note = header_of(&head, "x-note").unwrap();
            assert_eq!(note.split_whitespace().collect::<Vec<_>>(), ["one", "two", "three"], "{note:?}");
        }
        assert_eq!(gateway.balance(&client).await, left, "{what}");
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_repeated_with_every_byte_of_its_headers() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (client, _) = payer(&world, &gateway).await;
    let payment = Pay::client(&client).header();
    let line = b"x-name: caf\xe9 \xc3\xbc\xff\x80 \xe2\x82\xac";
    let bytes = [b"HTTP/1.1 200 OK\r\n", &line[..], b"\r\ncontent-length: 2\r\n\r\nok"].concat();
    world.upstream.script([Script { bytes, then: ThenUpstream::Closes }]);
    for round in ["first", "again"] {
        loop {
            let mut raw = Raw::connect(&gateway.url).await;
            raw.send(format!(
                "POST /up/scripted HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\nidempotency-key: k\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            ))
            .await;
            let all = raw.rest().await;
            if all.contains("idempotency_in_flight") {
                continue;
            }
            assert_eq!(status_of(&all), 200, "{round}: {all}");
            assert_eq!(all.contains("idempotent-replayed: true"), round == "again", "{all}");
            assert!(raw.buffer.windows(line.len()).any(|window| window == line), "{round}: {all}");
            break;
        }
    }
    assert_eq!(world.upstream.hits(), 1);
    gateway.stop().await;
}
