//! No spelling of a priced path, and no method, is served without being paid.

use super::payer;
use crate::support::raw::{Raw, status_of};
use crate::support::{ROUTES, World};

/// A free pattern around the priced routes: the worst that a seller can configure.
const FREE_AROUND: &str =
    "\n[[routes]]\nmethods = [\"GET\", \"POST\", \"DELETE\"]\npath = \"/api/*\"\nfree = true\n";

/// Raw request targets that some upstream would take for `/api/joke`.
const TARGETS: &[&[u8]] = &[
    b"/api/joke",
    b"/API/JOKE",
    b"/Api/Joke",
    b"/api/joke/",
    b"/API/joke/",
    b"/api/joke//",
    b"//api/joke",
    b"/api//joke",
    b"/./api/joke",
    b"/api/./joke",
    b"/api/joke/.",
    b"/api/x/../joke",
    b"/api/x/%2e%2e/joke",
    b"/api/x/%2E./joke",
    b"/api/%2e/joke",
    b"/../api/joke",
    b"/api/%6aoke",
    b"/api/%6Aoke",
    b"/%61pi/joke",
    b"/api/%4aOKE",
    b"/api/%256aoke",
    b"/api%2fjoke",
    b"/api%2Fjoke",
    b"/api/joke%2f",
    b"/api/joke%3fx=1",
    b"/api/joke%23",
    b"/api/joke;x=1",
    b"/api;x=1/joke",
    b"/api/joke%3bx=1",
    b"/api\\joke",
    b"\\api\\joke",
    b"/api/x\\..\\joke",
    b"/api%5cjoke",
    b"/api/joke%00",
    b"/api/joke\x00",
    b"/api/joke%0a",
    b"/api/joke%0d%0ax:1",
    b"/api/joke%20",
    b"/api/joke%09",
    b"/api/joke.",
    b"/api/joke#x",
    b"/api/joke?x#y",
    b"/api/joke?",
    b"/api/jok%c1%a5",
    b"/api/jo%e2%84%aae",
    b"/api/jo%E2%84%AAe",
    b"/api/jo\xe2\x84\xaae",
    b"/api/jo%ff",
    b"/api/joke%",
    b"/api/joke%6",
    b"/api/%u006aoke",
    b"http://127.0.0.1/api/joke",
    b"http://evil.example/api/joke",
    b"HTTP://evil.example/api/joke",
    b"http:///api/joke",
    b"//evil.example/api/joke",
    b"*",
    b"api/joke",
    b"?/api/joke",
    b"",
];

async fn one(url: &str, message: &[u8]) -> u16 {
    let mut raw = Raw::connect(url).await;
    raw.send(message).await;
    let head = raw.head().await;
    status_of(&head)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_path_is_free() {
    for routes in [ROUTES.to_owned(), format!("{ROUTES}{FREE_AROUND}")] {
        let world = World::with("", &routes).await;
        let gateway = world.gateway().await;
        for target in TARGETS {
            for method in ["GET", "HEAD"] {
                let before = world.upstream.hits();
                let head = [method.as_bytes(), b" ", target, b" HTTP/1.1\r\nhost: a\r\n\r\n"].concat();
                let status = one(&gateway.url, &head).await;
                let shown = String::from_utf8_lossy(target);
                // 0: the connection was closed without an answer.
                assert!([0, 400, 402, 404].contains(&status), "{method} {shown}: {status}");
                assert_eq!(world.upstream.hits(), before, "{method} {shown} reached the upstream unpaid");
            }
        }
        if routes.contains("/api/*") {
            assert_eq!(gateway.get("/api/anything/else").await.status, 200, "the free pattern works");
        }
        assert_eq!(gateway.get("/api/health").await.status, 200);
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paid_request_reaches_the_upstream_under_the_path_that_was_priced() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (client, payment) = payer(&world, &gateway).await;
    let mut charged = 0;
    for target in TARGETS {
        let before = world.upstream.hits();
        let fields = format!(" HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\n\r\n");
        let status = one(&gateway.url, &[b"GET ", *target, fields.as_bytes()].concat()).await;
        let shown = String::from_utf8_lossy(target);
        if status == 200 {
            charged += 1;
            let seen = world.upstream.seen().pop().unwrap().target;
            assert_eq!(seen.split('?').next(), Some("/api/joke"), "{shown}");
        } else {
            assert!([0, 400, 404].contains(&status), "{shown}: {status}");
            assert_eq!(world.upstream.hits(), before, "{shown} reached the upstream");
        }
    }
    assert!(charged >= 4, "the plain spellings are sold");
    assert_eq!(gateway.balance(&client).await, 50_000 - 100 * charged);
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_method_is_a_way_around_the_price() {
    for routes in [ROUTES.to_owned(), format!("{ROUTES}{FREE_AROUND}")] {
        let world = World::with("", &routes).await;
        let gateway = world.gateway().await;
        let (client, payment) = payer(&world, &gateway).await;
        for method in [
            "TRACE", "CONNECT", "PROPFIND", "get", "Get", "POST", "PATCH", "FOO", "M-SEARCH", "PRI",
            "GET\x0b",
        ] {
            for payment in ["", &format!("payment: {payment}\r\n")] {
                let head = format!("{method} /api/joke HTTP/1.1\r\nhost: a\r\n{payment}\r\n");
                let status = one(&gateway.url, head.as_bytes()).await;
                assert!([0, 400, 404, 405].contains(&status), "{method:?}: {status}");
            }
        }
        let status =
            one(&gateway.url, b"CONNECT evil.example:443 HTTP/1.1\r\nhost: evil.example:443\r\n\r\n").await;
        assert!([0, 400, 404].contains(&status), "{status}");
        assert_eq!(world.upstream.hits(), 0);
        assert_eq!(gateway.balance(&client).await, 50_000);
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn override_headers_are_not_passed_on() {
    let world = World::with("", &format!("{ROUTES}{FREE_AROUND}")).await;
    let gateway = world.gateway().await;
    let names = [
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
        "x_http_method_override",
        "x-original-url",
        "x-original-uri",
        "x-rewrite-url",
        "x_rewrite_url",
        "x-forwarded-prefix",
        "x-forwarded-path",
        "x-forwarded-uri",
    ];
    let fields: Vec<_> = names.iter().map(|name| (*name, "/api/joke")).collect();
    let url = format!("{}/api/other", gateway.url);
    let answer = world.client.send("GET", &url, &fields, None).await;
    assert_eq!(answer.status, 200);
    let seen = world.upstream.seen().pop().unwrap();
    for name in names {
        assert_eq!(seen.headers.get(name), None, "{name}");
    }
    assert_eq!(seen.method, "GET");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_some_server_makes_of_a_priced_path_does_not_pass_a_free_one() {
    let open = "\n[[routes]]\npath = \"/open/{name}\"\nfree = true\n[[routes]]\npath = \"/open/secret\"\nprice = \"1.00\"\n\
         [[routes]]\npath = \"/open/x/secret\"\nprice = \"1.00\"\n";
    let world = World::with("", &format!("{ROUTES}{open}")).await;
    let gateway = world.gateway().await;
    for name in [
        "%20secret",
        "+secret",
        "%C2%A0secret",
        "s%C2%ADecret",
        "%EF%BB%BFsecret",
        "secret%E2%80%8B",
        "secret%EF%B8%8F",
        "%EF%BD%93ecret",
        "s%C3%A9cret",
        "secret%EF%BC%8E",
        "secret::$DATA",
        "secret%26x=1",
        "%E2%A0%80secret",
        "secret%E2%A0%80",
        "s%EF%BF%B9ecret%EF%BF%BB",
        "s%E2%83%9Decret",
        "s%E0%A5%81ecret",
        "secret%E3%80%82",
        "%E2%80%A4secret",
        ".secret",
        "x%E2%81%84secret",
        "x%E2%88%95secret",
        "x%C2%A5secret",
        "s%CE%B5cret",
    ] {
        let head = format!("GET /open/{name} HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(one(&gateway.url, head.as_bytes()).await, 404, "{name}");
    }
    let invisible = "GET /open/.%C2%AD. HTTP/1.1\r\nhost: a\r\n\r\n";
    assert_eq!(one(&gateway.url, invisible.as_bytes()).await, 400);
    assert_eq!(world.upstream.hits(), 0);
    for (name, status) in [
        ("secret", 402),
        ("secrets", 200),
        ("the%20secret", 200),
        ("%E5%92%8C", 200),
        ("%C2%BD", 200),
        ("100%C2%A5", 200),
        ("%E0%A4%95%E0%A5%87", 200),
    ] {
        let head = format!("GET /open/{name} HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(one(&gateway.url, head.as_bytes()).await, status, "{name}");
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sellers_own_pages_are_not_on_the_public_listener() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    for path in ["/metrics", "/healthz", "/readyz", "/admin", "/admin/login", "/_sim/books"] {
        let answer = gateway.get(path).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "route_not_configured"), "{path}");
    }
    let metrics = world.client.get(&format!("{}/metrics", gateway.admin_url)).await;
    assert_eq!(metrics.status, 200);
    assert_eq!(world.upstream.hits(), 0);
    gateway.stop().await;
}
