//! Which headers pass, and who may have written them.

use std::os::unix::fs::PermissionsExt as _;

use super::payer;
use crate::support::raw::{Raw, header_of, status_of};
use crate::support::upstream::{Script, ThenUpstream};
use crate::support::{Pay, ROUTES, World};

#[tokio::test(flavor = "multi_thread")]
async fn what_the_upstream_trusts_is_written_by_us_alone_and_once() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (client, payment) = payer(&world, &gateway).await;
    let forged = [
        "x-prepaid402-client",
        "X-Prepaid402-Client",
        "x_prepaid402_client",
        "X-PREPAID402_CLIENT",
        "x-prepaid402-price",
        "x-prepaid402-currency",
        "x-prepaid402-anything",
        "x-stripe402-client",
        "x_stripe402_client",
        "x-client-id",
        "x_client_id",
        "x-request-id",
        "x_request_id",
        "x-forwarded-for",
        "X_Forwarded_For",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-port",
        "forwarded",
        "x-real-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "authorization",
        "cookie",
        "proxy-authorization",
    ];
    let fields: String = forged.iter().map(|name| format!("{name}: evil\r\n")).collect();
    let mut raw = Raw::connect(&gateway.url).await;
    raw.send(format!(
        "GET /api/joke HTTP/1.1\r\nHost: shop.example\r\n{fields}{fields}payment: {payment}\r\nx-harmless: 1\r\n\r\n"
    ))
    .await;
    let head = raw.head().await;
    assert_eq!(status_of(&head), 200, "{head}");
    let seen = world.upstream.seen().pop().unwrap().headers;
    for (name, value) in &seen {
        assert!(!value.contains("evil"), "{name}: {value}");
        assert!(!value.contains(&client) && !value.contains(&payment), "{name} carries the credential");
        assert!(!name.contains('_'), "{name}");
    }
    for name in ["payment", "authorization", "cookie", "proxy-authorization", "forwarded", "x-client-id"] {
        assert_eq!(seen.get(name), None, "{name}");
    }
    let public_id = crate::support::number(&world.database, "SELECT COUNT(*) FROM clients").await;
    assert_eq!(public_id, 1);
    let ours = &seen["x-prepaid402-client"];
    assert!(!ours.is_empty() && !ours.contains('|') && *ours != client, "{ours}");
    assert_eq!(seen["x-prepaid402-price"], "0.01");
    assert_eq!(seen["x-prepaid402-currency"], "usd");
    assert_eq!(seen["x-forwarded-for"], "127.0.0.1");
    assert_eq!(seen["x-forwarded-proto"], "https");
    assert_eq!(seen["x-forwarded-host"], "api.example.com", "what callers see, not what one says");
    assert_eq!(seen["x-harmless"], "1");
    assert_eq!(Some(seen["x-request-id"].as_str()), header_of(&head, "x-request-id"));
    assert_eq!(seen["host"], world.upstream.url.strip_prefix("http://").unwrap());

    // A free route has no payer, whatever the caller says.
    let url = format!("{}/api/health", gateway.url);
    let fields = [("x-prepaid402-client", "evil"), ("payment", &payment), ("authorization", "Bearer evil")];
    assert_eq!(world.client.send("GET", &url, &fields, None).await.status, 200);
    let seen = world.upstream.seen().pop().unwrap().headers;
    for name in ["x-prepaid402-client", "x-prepaid402-price", "payment", "authorization"] {
        assert_eq!(seen.get(name), None, "{name}");
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_behind_is_told_path_method_host_and_file_by_nobody_but_the_request() {
    let routes = "\n[[routes]]\nmethods = [\"GET\", \"POST\"]\npath = \"/docs/*\"\nfree = true\n";
    let world = World::with("", &format!("{ROUTES}{routes}")).await;
    let gateway = world.gateway().await;
    let (_, payment) = payer(&world, &gateway).await;
    let names = [
        "SCRIPT_NAME",
        "Script-Name",
        "SCRIPT.NAME",
        "script~name",
        "HTTP_SCRIPT_NAME",
        "X-Script-Name",
        "PATH_INFO",
        "Path-Info",
        "REQUEST_URI",
        "QUERY_STRING",
        "REQUEST_METHOD",
        "SCRIPT_FILENAME",
        "DOCUMENT_ROOT",
        "REMOTE_USER",
        "SERVER_NAME",
        "HTTPS",
        "X_Original_URL",
        "X-Original-Url",
        "X-Rewrite-Url",
        "X-Forwarded-Prefix",
        "X-Forwarded-Uri",
        "X-Http-Method",
        "X-Method-Override",
        "X-HTTP-Method-Override",
        "X-Override-Url",
        "Base-Url",
        "Request-Uri",
        "Raw-Request-URI",
        "X-Waws-Unencoded-Url",
        "X-Envoy-Original-Path",
        "X-Proxyuser-Ip",
        "X-Sendfile-Type",
        "X-Accel-Mapping",
        "X-Middleware-Subrequest",
        "X_Custom",
        "X.Custom",
    ];
    let fields: String = names.iter().map(|name| format!("{name}: /docs\r\n")).collect();
    for (line, payment) in [
        ("GET /docs/v1/secret", ""),
        ("POST /docs/v1/secret", ""),
        ("GET /api/joke", payment.as_str()),
        ("POST /up/x", payment.as_str()),
    ] {
        let mut raw = Raw::connect(&gateway.url).await;
        raw.send(format!(
            "{line} HTTP/1.1\r\nHost: shop.example\r\n{fields}payment: {payment}\r\nx-harmless: 1\r\ncontent-length: 0\r\n\r\n"
        ))
        .await;
        let head = raw.head().await;
        assert_eq!(status_of(&head), 200, "{line}: {head}");
        let seen = world.upstream.seen().pop().unwrap();
        assert_eq!(format!("{} {}", seen.method, seen.target), line);
        for (name, value) in &seen.headers {
            assert!(!value.contains("/docs"), "{line}: {name}: {value}");
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{line}: {name}");
        }
        assert_eq!(seen.headers["x-harmless"], "1", "{line}");
    }
    gateway.stop().await;
}

/// A proxy in front is believed as to who asks, and as to nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_says_who_asks_and_no_more() {
    let world = World::with("trusted_proxies = [\"127.0.0.1\"]", ROUTES).await;
    let gateway = world.gateway().await;
    let url = format!("{}/api/health", gateway.url);
    let fields = [
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-prefix", "/evil"),
        ("x-forwarded-uri", "/evil"),
        ("x-forwarded-method", "EVIL"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "evil"),
    ];
    assert_eq!(world.client.send("GET", &url, &fields, None).await.status, 200);
    let seen = world.upstream.seen().pop().unwrap().headers;
    assert_eq!(seen["x-forwarded-for"], "203.0.113.7");
    assert_eq!(seen["x-forwarded-proto"], "https");
    assert!(seen.values().all(|value| !value.to_lowercase().contains("evil")), "{seen:?}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sellers_credential_arrives_and_cannot_be_overridden() {
    let injected = "\n[[upstream.headers]]\nname = \"x-gateway-token\"\nvalue_file = \"token.txt\"\n[[upstream.headers]]\nname = \"authorization\"\nvalue_file = \"token.txt\"\n";
    let world = World::with("", &format!("{ROUTES}{injected}")).await;
    let file = world.folder.path().join("token.txt");
    std::fs::write(&file, "sellers-secret").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let gateway = world.gateway().await;
    let (_, payment) = payer(&world, &gateway).await;
    for path in ["/api/joke", "/api/health"] {
        let mut raw = Raw::connect(&gateway.url).await;
        raw.send(format!(
            "GET {path} HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\nconnection: x-gateway-token, authorization\r\n\
             x-gateway-token: evil\r\nX-Gateway-Token: evil\r\nx_gateway_token: evil\r\nauthorization: evil\r\n\r\n"
        ))
        .await;
        let head = raw.head().await;
        assert_eq!(status_of(&head), 200, "{head}");
        assert!(!head.contains("sellers-secret"), "{head}");
        let seen = world.upstream.seen().pop().unwrap().headers;
        assert_eq!(seen["x-gateway-token"], "sellers-secret");
        assert_eq!(seen["authorization"], "sellers-secret");
        assert_eq!(seen.get("x_gateway_token"), None);
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hop_by_hop_headers_and_nominated_ones_stay_on_their_hop() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (_, payment) = payer(&world, &gateway).await;
    let mut raw = Raw::connect(&gateway.url).await;
    raw.send(format!(
        "GET /api/joke HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\nx-nominated: 1\r\nconnection: X-Nominated, keep-alive\r\n\
         connection: x_second, x-prepaid402-client, x-request-id\r\nx-second: 1\r\nkeep-alive: timeout=5\r\nte: trailers\r\n\
         trailer: x\r\nproxy-connection: keep-alive\r\nproxy-authenticate: x\r\nx-kept: yes\r\n\r\n"
    ))
    .await;
    assert_eq!(status_of(&raw.head().await), 200);
    let seen = world.upstream.seen().pop().unwrap().headers;
    for name in [
        "x-nominated",
        "x-second",
        "keep-alive",
        "te",
        "trailer",
        "proxy-connection",
        "proxy-authenticate",
        "transfer-encoding",
        "content-length",
    ] {
        assert_eq!(seen.get(name), None, "{name}");
    }
    assert_eq!(seen["x-kept"], "yes");
    assert!(seen.contains_key("x-prepaid402-client"), "ours cannot be nominated away");
    assert!(seen.contains_key("x-request-id"), "ours cannot be nominated away");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_does_not_speak_for_the_gateway() {
    let free = "\n[[routes]]\npath = \"/free/headers\"\nfree = true\n";
    let world = World::with("", &format!("{ROUTES}{free}")).await;
    let gateway = world.gateway().await;
    let (client, payment) = payer(&world, &gateway).await;
    let url = format!("{}/up/headers", gateway.url);
    let answer = world.client.send("GET", &url, &[("payment", &payment)], None).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    for name in
        ["set-cookie", "payment-required", "strict-transport-security", "x-secret", "connection", "server"]
    {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!(answer.headers.get_all("payment-response").iter().count(), 1);
    assert_eq!(answer.receipt().client_id, client, "ours, not the upstream's");
    assert_eq!(answer.headers.get_all("access-control-allow-origin").iter().count(), 1);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("location"), Some("https://api.example.com/there"));
    assert_eq!(answer.headers.get_all("cache-control").iter().count(), 1);
    assert_eq!(answer.header("cache-control"), Some("private, no-store"));
    assert!(answer.header("vary").unwrap().contains("payment"));
    assert_eq!(answer.header("x-kept"), Some("yes"));
    // Whatever stands in front sends the body that was charged, not a file of its own; how it buffers is the API's to say.
    for free in ["/up/headers", "/free/headers"] {
        let answer =
            world.client.send("GET", &format!("{}{free}", gateway.url), &[("payment", &payment)], None).await;
        for name in ["x-accel-redirect", "x-sendfile", "x-lighttpd-send-file", "x-reproxy-url"] {
            assert_eq!(answer.header(name), None, "{free}: {name}");
        }
        assert_eq!(answer.header("x-accel-buffering"), Some("no"), "{free}");
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callers_trace_passes_and_its_own_id_is_kept_beside_ours() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (_, payment) = payer(&world, &gateway).await;
    let long = "x".repeat(129);
    for (path, id, kept) in [
        ("/api/joke", "order-7/3", Some("order-7/3")),
        ("/api/health", "order-7/3", Some("order-7/3")),
        ("/api/joke", "two words", None),
        ("/api/joke", "\"quoted\"", None),
        ("/api/joke", long.as_str(), None),
        ("/api/joke", "one\r\nx-request-id: two", None),
    ] {
        let mut raw = Raw::connect(&gateway.url).await;
        raw.send(format!(
            "GET {path} HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\ntraceparent: 00-1-2-01\r\ntracestate: a=b\r\nbaggage: c=d\r\n\
             x-prepaid402-caller-request-id: evil\r\nx-request-id: {id}\r\n\r\n"
        ))
        .await;
        let head = raw.head().await;
        assert_eq!(status_of(&head), 200, "{head}");
        let seen = world.upstream.seen().pop().unwrap().headers;
        assert_eq!(
            (seen["traceparent"].as_str(), seen["tracestate"].as_str(), seen["baggage"].as_str()),
            ("00-1-2-01", "a=b", "c=d")
        );
        assert_eq!(seen.get("x-prepaid402-caller-request-id").map(String::as_str), kept, "{id}");
        assert_eq!(Some(seen["x-request-id"].as_str()), header_of(&head, "x-request-id"), "ours");
        assert!(!head.contains("order-7"), "{head}");
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_upstream_is_stands_in_no_header() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (_, payment) = payer(&world, &gateway).await;
    let inner = world.upstream.url.strip_prefix("http://").unwrap();
    let lines = [
        format!("location: //{inner}/a"),
        format!("content-location: HTTP://user@{inner}/a"),
        format!(
            "link: <http://{inner}/a?p=2>; rel=\"next\", <//{inner}/b>; rel=prev, <https://cdn.example/c>; rel=preload"
        ),
        format!("refresh: 5; url=https://{inner}/a"),
        format!("operation-location: http://{inner}/jobs/1"),
        format!("azure-asyncoperation: http://{inner}/jobs/1"),
        format!("www-authenticate: Bearer realm=\"http://{inner}/token\""),
    ];
    let bytes = format!("HTTP/1.1 200 OK\r\n{}\r\ncontent-length: 2\r\n\r\nok", lines.join("\r\n"));
    world.upstream.script([Script { bytes: bytes.into_bytes(), then: ThenUpstream::Closes }]);
    let mut raw = Raw::connect(&gateway.url).await;
    raw.send(format!("GET /up/scripted HTTP/1.1\r\nhost: a\r\npayment: {payment}\r\n\r\n")).await;
    let head = raw.head().await;
    assert!(!head.contains(inner), "{head}");
    for (name, value) in [
        ("location", "https://api.example.com/a"),
        ("content-location", "https://api.example.com/a"),
        (
            "link",
            "<https://api.example.com/a?p=2>; rel=\"next\", <https://api.example.com/b>; rel=prev, <https://cdn.example/c>; rel=preload",
        ),
        ("refresh", "5; url=https://api.example.com/a"),
        ("operation-location", "https://api.example.com/jobs/1"),
        ("azure-asyncoperation", "https://api.example.com/jobs/1"),
        ("www-authenticate", "bearer realm=\"https://api.example.com/token\""),
    ] {
        assert_eq!(header_of(&head, name), Some(value), "{name}");
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_not_charged_is_no_caches_either() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let (_, payment) = payer(&world, &gateway).await;
    let url = format!("{}/up/status/404", gateway.url);
    let answer = world.client.send("GET", &url, &[("payment", &payment)], None).await;
    assert_eq!(answer.header("cache-control"), Some("private, no-store"), "it carries a clientId");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_may_ask_and_read_and_every_answer_has_a_request_id() {
    let mut world = World::new().await;
    world.routes.push_str(
        "\n[[routes]]\nmethods = [\"POST\"]\npath = \"/small\"\nprice = \"0.01\"\nmax_body_bytes = 1\n",
    );
    let gateway = world.gateway().await;
    let (_, payment) = payer(&world, &gateway).await;
    for path in ["/api/joke", "/nowhere", "/billing/balance", "/billing/top-ups", "/billing/nowhere"] {
        let url = format!("{}{path}", gateway.url);
        let fields = [
            ("origin", "https://shop.example"),
            ("access-control-request-method", "GET"),
            ("access-control-request-headers", "payment, authorization, idempotency-key"),
        ];
        let answer = world.client.send("OPTIONS", &url, &fields, None).await;
        assert_eq!(answer.status, 204, "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{path}");
        let allowed = answer.header("access-control-allow-headers").unwrap();
        for name in ["payment", "authorization", "idempotency-key"] {
            assert!(allowed.contains(name), "{path}: {allowed}");
        }
        assert!(answer.header("access-control-allow-methods").unwrap().contains("POST"), "{path}");
        assert_eq!(answer.header("access-control-allow-credentials"), None, "{path}");
    }
    assert_eq!(world.upstream.hits(), 0, "preflights are ours to answer");

    let broken = Pay::client("pck_nobody").header();
    let mut ids = std::collections::BTreeSet::new();
    for (method, path, payment, status) in [
        ("GET", "/api/joke", None, 402),
        ("GET", "/api/joke", Some("!!!"), 402),
        ("GET", "/api/joke", Some(broken.as_str()), 402),
        ("GET", "/api/joke", Some(payment.as_str()), 200),
        ("GET", "/api/health", None, 200),
        ("GET", "/nowhere", None, 404),
        ("GET", "/api//joke", None, 400),
        ("GET", "/up/status/500", Some(payment.as_str()), 500),
        ("GET", "/up/refuse", Some(payment.as_str()), 502),
        ("GET", "/up/hang", Some(payment.as_str()), 504),
        ("POST", "/small", Some(payment.as_str()), 413),
        ("OPTIONS", "/api/joke", None, 204),
        ("GET", "/billing/balance", None, 401),
        ("GET", "/billing/balance", Some(payment.as_str()), 200),
        ("GET", "/billing/entries", Some(payment.as_str()), 200),
        ("GET", "/billing/nowhere", None, 404),
        ("POST", "/billing/top-ups", None, 400),
    ] {
        let mut fields = vec![("x-request-id", "mine")];
        fields.extend(payment.map(|payment| ("payment", payment)));
        let body = (method == "POST").then_some(("text/plain", b"12345".as_slice()));
        let answer = world.client.send(method, &format!("{}{path}", gateway.url), &fields, body).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        assert_eq!(answer.headers.get_all("x-request-id").iter().count(), 1, "{method} {path}");
        let id = answer.header("x-request-id").unwrap().to_owned();
        assert!(id.len() > 10 && id != "mine", "{id}");
        assert!(ids.insert(id), "{method} {path}: an id of its own");
        let exposed = answer.header("access-control-expose-headers").unwrap();
        for name in ["payment-required", "payment-response", "x-request-id", "retry-after"] {
            assert!(exposed.contains(name), "{method} {path}: {exposed}");
        }
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{method} {path}");
    }
    gateway.stop().await;
}
