//! What comes before anything is sold: how a target may be written, what a caller may offer, and when it is told to go on.

use super::payer;
use crate::support::raw::{Raw, closed_port, header_of, status_of};
use crate::support::{Pay, ROUTES, World};

const FREE: &str = "\n[[routes]]\nmethods = [\"GET\", \"POST\"]\npath = \"/free/*\"\nfree = true\n";

/// A request's whole head as it is sent, and what is answered.
async fn asked(url: &str, head: &str) -> Raw {
    let mut raw = Raw::connect(url).await;
    raw.send(format!("{head}\r\n\r\n")).await;
    raw
}

async fn answer(url: &str, head: &str) -> (String, String) {
    let mut raw = asked(url, &format!("{head}\r\nconnection: close")).await;
    let head = raw.head().await;
    (head, raw.rest().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_offered_may_be_ignored_and_web_sockets_get_a_clear_answer() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (client, payment) = payer(&world, &gateway).await;
    let (paying, bearer) = (format!("payment: {payment}"), format!("authorization: Bearer {client}"));
    for (url, line, fields) in [
        (&gateway.url, "GET /api/joke", paying.as_str()),
        (&gateway.url, "GET /api/health", "x: y"),
        (&gateway.url, "GET /billing/balance", &bearer),
        (&gateway.admin_url, "GET /healthz", "x: y"),
    ] {
        for offer in [
            "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__",
            "upgrade: h2c\r\nconnection: upgrade",
            "upgrade: h2c",
            "connection: upgrade\r\nupgrade: TLS/1.2, HTTP/2.0",
            "connection: upgrade\r\nupgrade: ",
            "connection: TE\r\nte: trailers",
        ] {
            let head = format!("{line} HTTP/1.1\r\nhost: a\r\n{fields}\r\n{offer}");
            let mut raw = asked(url, &head).await;
            let head = raw.head().await;
            assert_eq!(status_of(&head), 200, "{line} {offer:?}: {head}");
            assert_ne!(header_of(&head, "connection"), Some("upgrade"), "{line} {offer:?}: {head}");
        }
    }
    for seen in world.upstream.seen() {
        for name in ["upgrade", "http2-settings", "te", "connection"] {
            assert_eq!(seen.headers.get(name), None, "{name}");
        }
    }
    let (hits, left) = (world.upstream.hits(), gateway.balance(&client).await);
    for path in ["/api/joke", "/api/health"] {
        for offer in ["websocket", "WebSocket/13", "h2c , websocket"] {
            let (head, body) = answer(
                &gateway.url,
                &format!("GET {path} HTTP/1.1\r\nhost: a\r\n{paying}\r\nupgrade: {offer}"),
            )
            .await;
            assert_eq!(status_of(&head), 400, "{offer}: {head}");
            assert!(body.contains("\"upgrade_refused\""), "{body}");
        }
    }
    assert_eq!((world.upstream.hits(), gateway.balance(&client).await), (hits, left));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_with_scheme_and_host_is_the_target_without() {
    let mut world = World::new().await;
    world.secrets.insert("PREPAID402_UPSTREAM__PRESERVE_HOST".to_owned(), "true".to_owned());
    let gateway = world.gateway().await;
    let (client, payment) = payer(&world, &gateway).await;
    let paying = format!("payment: {payment}");
    for scheme in ["http", "https", "HTTP"] {
        let line = format!("GET {scheme}://Shop.example:8402/api/joke?x=1 HTTP/1.1");
        let (head, _) = answer(&gateway.url, &format!("{line}\r\nhost: other.example\r\n{paying}")).await;
        assert_eq!(status_of(&head), 200, "{line}: {head}");
        let seen = world.upstream.seen().pop().unwrap();
        assert_eq!(seen.target, "/api/joke?x=1");
        assert_eq!(seen.headers["host"], "Shop.example:8402", "the target's, not the header's");
        assert_eq!(seen.headers["x-forwarded-host"], "Shop.example:8402");
    }
    let bearer = format!("authorization: Bearer {client}");
    for (url, line, fields, status) in [
        (&gateway.url, "GET http://a/api/joke", "x: y", 402),
        (&gateway.url, "GET http://a/nowhere", "x: y", 404),
        (&gateway.url, "GET http://a/billing/balance", bearer.as_str(), 200),
        (&gateway.url, "POST http://a/webhooks/nowhere", "x: y", 404),
        (&gateway.admin_url, "GET http://a/healthz", "x: y", 200),
        (&gateway.url, "OPTIONS *", "x: y", 204),
        (&gateway.url, "GET *", "x: y", 400),
        (&gateway.url, "GET http://user@a/api/joke", &paying, 400),
        (&gateway.url, "GET http://user:word@a/api/joke", &paying, 400),
        (&gateway.url, "GET ftp://a/api/joke", &paying, 400),
        (&gateway.url, "GET a:80", &paying, 400),
        (&gateway.url, "CONNECT a:80", &paying, 400),
        (&gateway.url, "CONNECT /api/joke", &paying, 404),
    ] {
        let (head, body) = answer(url, &format!("{line} HTTP/1.1\r\nhost: b\r\n{fields}")).await;
        assert_eq!(status_of(&head), status, "{line}: {head}{body}");
    }
    assert_eq!((world.upstream.hits(), gateway.balance(&client).await), (3, 50_000 - 300));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_address_without_a_path_is_that_of_the_root() {
    let root = "\n[[routes]]\npath = \"/\"\nprice = \"0.01\"\n";
    let world = World::with("", &format!("{ROUTES}{root}")).await;
    let gateway = world.gateway().await;
    let (client, payment) = payer(&world, &gateway).await;
    let paying = format!("payment: {payment}");
    for (target, seen) in [
        ("/?x=1", "/?x=1"),
        ("http://a", "/"),
        ("http://a/", "/"),
        ("http://a:8402", "/"),
        ("http://a?x=1", "/?x=1"),
        ("HTTPS://a?/api/joke", "/?/api/joke"),
    ] {
        for method in ["GET", "HEAD"] {
            let (head, _) =
                answer(&gateway.url, &format!("{method} {target} HTTP/1.1\r\nhost: a\r\n{paying}")).await;
            assert_eq!(status_of(&head), 200, "{method} {target}: {head}");
            assert_eq!(world.upstream.seen().pop().unwrap().target, seen, "{method} {target}");
        }
    }
    let hits = world.upstream.hits();
    for (url, target, status) in [
        (&gateway.url, "http://a", 402),
        (&gateway.url, "http://a?x", 402),
        (&gateway.url, "ftp://a", 400),
        (&gateway.url, "http://user@a", 400),
        (&gateway.admin_url, "http://localhost", 303),
        (&gateway.admin_url, "http://localhost?x", 303),
        (&gateway.admin_url, "/", 303),
    ] {
        let (head, body) = answer(url, &format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nx: y")).await;
        assert_eq!(status_of(&head), status, "{target}: {head}{body}");
    }
    let (head, _) = answer(&gateway.url, "OPTIONS http://a HTTP/1.1\r\nhost: a").await;
    assert_eq!(status_of(&head), 204, "{head}");
    assert_eq!((world.upstream.hits(), gateway.balance(&client).await), (hits, 50_000 - 1_200));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_too_long_is_414_at_every_door_and_costs_nothing() {
    let world = World::with("", &format!("{ROUTES}{FREE}")).await;
    let gateway = world.gateway().await;
    let (client, payment) = payer(&world, &gateway).await;
    let paying = format!("payment: {payment}");
    let long = "x".repeat(65_000);
    let path = "x".repeat(4_096);
    for (url, target) in [
        (&gateway.url, format!("/api/joke?{long}")),
        (&gateway.url, format!("/free/x?{long}")),
        (&gateway.url, format!("/nowhere?{long}")),
        (&gateway.url, format!("/up/{path}")),
        (&gateway.url, format!("/free/{path}")),
        (&gateway.url, format!("/billing/balance?{long}")),
        (&gateway.url, format!("/webhooks/stripe?{long}")),
        (&gateway.admin_url, format!("/healthz?{long}")),
        (&gateway.admin_url, format!("/admin/login?{long}")),
    ] {
        let (head, body) =
            answer(url, &format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n{paying}")).await;
        let shown = target.get(..30).unwrap();
        assert_eq!(status_of(&head), 414, "{shown}: {head}");
        assert!(body.contains("\"target_too_long\""), "{shown}: {body}");
    }
    assert_eq!((world.upstream.hits(), gateway.balance(&client).await), (0, 50_000));
    let (head, _) =
        answer(&gateway.url, &format!("GET /api/joke?{} HTTP/1.1\r\nhost: a\r\n{paying}", &long[..60_000]))
            .await;
    assert_eq!(status_of(&head), 200, "{head}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_is_not_told_to_go_on() {
    let world = World::with("", &format!("{ROUTES}{FREE}")).await;
    let gateway = world.gateway().await;
    let unknown = format!("payment: {}", Pay::client("pck_nobody").header());
    for (url, line, fields, status) in [
        (&gateway.url, "POST /up/x", "x: y", 402),
        (&gateway.url, "POST /up/x", unknown.as_str(), 402),
        (&gateway.url, "POST /up/x", "payment: !!!", 402),
        (&gateway.url, "POST /nowhere", "x: y", 404),
        (&gateway.url, "POST /billing/top-ups", "x: y", 400),
        (&gateway.url, "POST /billing/balance", "x: y", 404),
        (&gateway.url, "POST /webhooks/nowhere", "x: y", 404),
        (&gateway.admin_url, "POST /admin/api/refunds", "x: y", 401),
        (&gateway.admin_url, "POST /nowhere", "x: y", 404),
    ] {
        for framing in ["content-length: 10", "transfer-encoding: chunked"] {
            let head = format!(
                "{line} HTTP/1.1\r\nhost: localhost\r\n{fields}\r\nexpect: 100-continue\r\n{framing}"
            );
            let mut raw = asked(url, &head).await;
            let head = raw.head().await;
            assert_eq!(status_of(&head), status, "{line}, {framing}: {head}");
            // A body may come or not, so nothing else can be asked here.
            assert_eq!(header_of(&head, "connection"), Some("close"), "{line}, {framing}: {head}");
        }
    }
    assert_eq!(world.upstream.hits(), 0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_admitted_is_told_to_go_on_once() {
    let world = World::with("", &format!("{ROUTES}{FREE}")).await;
    let gateway = world.gateway().await;
    let (client, payment) = payer(&world, &gateway).await;
    let paying = format!("payment: {payment}");
    let keyed = format!("{paying}\r\nidempotency-key: k");
    let mut charged = 0;
    for (path, fields, price) in
        [("/up/x", paying.as_str(), 500), ("/up/x", &keyed, 500), ("/free/x", "x: y", 0)]
    {
        for (framing, body) in [
            ("content-length: 10", "0123456789"),
            ("transfer-encoding: chunked", "a\r\n0123456789\r\n0\r\n\r\n"),
        ] {
            let fields = fields.replace(": k", if body.len() == 10 { ": k" } else { ": l" });
            let head =
                format!("POST {path} HTTP/1.1\r\nhost: a\r\n{fields}\r\nExpect: 100-Continue\r\n{framing}");
            let mut raw = asked(&gateway.url, &head).await;
            assert_eq!(raw.head().await.trim_end(), "http/1.1 100 continue", "{path}, {framing}");
            raw.send(body).await;
            let head = raw.head().await;
            assert_eq!(status_of(&head), 200, "{path}, {framing}: {head}");
            charged += price;
            let seen = world.upstream.seen().pop().unwrap();
            assert_eq!((seen.body.as_slice(), seen.headers.get("expect")), (&b"0123456789"[..], None));
            // The connection goes on with the next request.
            let length: usize = header_of(&head, "content-length").unwrap().parse().unwrap();
            while raw.buffer.len() < length {
                assert!(raw.more().await);
            }
            raw.buffer.clear();
            raw.send("GET /api/health HTTP/1.1\r\nhost: a\r\n\r\n").await;
            assert_eq!(status_of(&raw.head().await), 200, "{path}, {framing}");
        }
    }
    // Who does not wait is served as well.
    let mut raw = Raw::connect(&gateway.url).await;
    raw.send(format!(
        "POST /up/x HTTP/1.1\r\nhost: a\r\n{paying}\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbody"
    ))
    .await;
    let all = raw.rest().await;
    assert!(all.contains("HTTP/1.1 200 OK"), "{all}");
    charged += 500;
    assert_eq!(world.upstream.seen().pop().unwrap().body, b"body");
    assert_eq!(gateway.balance(&client).await, 50_000 - charged);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_admitted_sends_nothing_where_there_is_nobody_to_take_it() {
    let mut world = World::new().await;
    let mut gateway = world.gateway().await;
    let (client, payment) = payer(&world, &gateway).await;
    gateway.stop().await;
    world.upstream.url = closed_port();
    gateway = world.gateway().await;
    let head = format!(
        "POST /up/x HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\nexpect: 100-continue\r\ncontent-length: 10"
    );
    let mut raw = asked(&gateway.url, &head).await;
    let head = raw.head().await;
    assert_eq!((status_of(&head), header_of(&head, "connection")), (502, Some("close")), "{head}");
    assert_eq!(gateway.balance(&client).await, 50_000);
    gateway.stop().await;
}
