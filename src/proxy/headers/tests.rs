use hyper::header::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;

fn trusted() -> TrustedRequestHeaders {
    TrustedRequestHeaders {
        client: Some("0190".into()),
        price: Some("0.05".into()),
        currency: Some("usd".into()),
        request_id: "req-1".into(),
        forwarded_for: "203.0.113.9".into(),
        forwarded_proto: "https".into(),
        forwarded_host: "api.example.com".into(),
    }
}

fn upstream_sees(incoming: &[(&str, &str)], injected: &[(&str, &str)]) -> Vec<(String, String)> {
    let injected: Vec<(String, Secret)> =
        injected.iter().map(|(name, value)| ((*name).to_owned(), Secret::new((*value).to_owned()))).collect();
    let incoming = incoming.iter().map(|(name, value)| (*name, value.as_bytes()));
    pairs(request_headers_for_upstream(incoming, &trusted(), &injected).iter())
}

fn pairs<'a>(headers: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>) -> Vec<(String, String)> {
    headers
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect()
}

fn ours() -> Vec<(String, String)> {
    [
        ("x-prepaid402-client", "0190"),
        ("x-prepaid402-price", "0.05"),
        ("x-prepaid402-currency", "usd"),
        ("x-request-id", "req-1"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "api.example.com"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

fn sorted(mut pairs: Vec<(String, String)>) -> Vec<(String, String)> {
    pairs.sort();
    pairs
}

#[test]
fn what_the_caller_may_not_say_does_not_pass_in_any_spelling() {
    let names = "connection keep-alive proxy-connection te trailer transfer-encoding upgrade proxy-authorization \
        proxy-authenticate content-length host expect payment authorization cookie x-forwarded-for x-forwarded-host \
        x-forwarded-anything forwarded x-real-ip x-client-id client-ip true-client-ip x-client-ip cf-connecting-ip \
        x-cluster-client-ip x-request-id x-prepaid402-client x-prepaid402-anything x-stripe402-client \
        x-http-method-override x-http-method x-method-override x-original-url x-rewrite-url x-original-uri \
        proxy remote-user x-remote-user x-host x-http-host-override x-scheme front-end-https x-envoy-original-path \
        x-envoy-anything sec-websocket-key via cookie2 x-real-host";
    for name in names.split_whitespace() {
        for spelling in [
            name.to_owned(),
            name.to_uppercase(),
            name.replace('-', "_"),
            name.replacen('-', "_", 1),
            name.replace('-', "."),
        ] {
            let seen = upstream_sees(&[(&spelling, "evil"), (&spelling, "evil")], &[]);
            assert_eq!(sorted(seen), sorted(ours()), "{spelling}");
        }
    }
}

#[test]
fn nominated_headers_are_dropped_wherever_connection_stands() {
    let incoming = [
        ("x-secret", "1"),
        ("X_Secret", "2"),
        ("accept", "a"),
        ("Connection", "close, X-Secret ,, x-request-id"),
        ("connection", "x-later"),
        ("x-later", "3"),
        ("Proxy-Connection", "x-old"),
        ("x-old", "4"),
    ];
    let mut expected = ours();
    expected.push(("accept".into(), "a".into()));
    assert_eq!(sorted(upstream_sees(&incoming, &[])), sorted(expected));
}

#[test]
fn the_rest_passes_and_the_sellers_credential_wins() {
    let incoming = [
        ("accept", "a"),
        ("Accept", "b"),
        ("content-type", "text/plain"),
        ("idempotency-key", "k"),
        ("X_API_Key", "evil"),
        ("x-api-key", "evil"),
        ("bad name", "x"),
        ("x-newline", "a\r\nb: c"),
    ];
    let seen = upstream_sees(&incoming, &[("X-Api-Key", "s3cret"), ("Authorization", "Bearer up")]);
    let mut expected = ours();
    for (name, value) in [
        ("accept", "a"),
        ("accept", "b"),
        ("content-type", "text/plain"),
        ("idempotency-key", "k"),
        ("x-api-key", "s3cret"),
        ("authorization", "Bearer up"),
    ] {
        expected.push((name.into(), value.into()));
    }
    assert_eq!(sorted(seen), sorted(expected));
}

#[test]
fn what_we_do_not_know_is_not_sent() {
    let unknown = TrustedRequestHeaders {
        client: None,
        price: None,
        currency: None,
        request_id: "r".into(),
        forwarded_for: String::new(),
        forwarded_proto: String::new(),
        forwarded_host: String::new(),
    };
    let headers = request_headers_for_upstream(std::iter::empty(), &unknown, &[]);
    assert_eq!(pairs(headers.iter()), [("x-request-id".to_owned(), "r".to_owned())]);
}

#[test]
fn the_injected_credential_is_marked_sensitive() {
    let injected = [("x-key".to_owned(), Secret::new("s3cret".to_owned()))];
    let headers = request_headers_for_upstream(std::iter::empty(), &trusted(), &injected);
    assert!(!format!("{headers:?}").contains("s3cret"));
}

fn caller_sees(upstream: &[(&'static str, &str)], paid: bool) -> Vec<(String, String)> {
    let mut headers = HeaderMap::new();
    for (name, value) in upstream {
        headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).expect("value"));
    }
    let context = ResponseContext {
        paid,
        upstream_base: "http://10.0.0.5:8080/base",
        public_url: "https://api.example.com",
    };
    let answer = response_headers_for_caller(&headers, &context);
    pairs(answer.iter().map(|(name, value)| (name, value)))
}

#[test]
fn the_upstream_does_not_speak_for_our_origin() {
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "proxy-authenticate",
        "content-length",
        "payment-response",
        "payment-required",
        "payment_response",
        "set-cookie",
        "strict-transport-security",
        "content-security-policy",
        "content-security-policy-report-only",
        "access-control-allow-origin",
        "access-control-expose-headers",
        "x-prepaid402-client",
        "x-request-id",
        "server",
        "alt-svc",
        "clear-site-data",
        "set-cookie2",
        "service-worker-allowed",
        "report-to",
        "reporting-endpoints",
        "nel",
        "public-key-pins",
        "x-stripe402-client",
    ] {
        assert_eq!(caller_sees(&[(name, "evil"), (name, "evil")], false), [], "{name}");
    }
    let nominating = [("x-hop", "1"), ("connection", "X-Hop"), ("x-end", "2")];
    assert_eq!(caller_sees(&nominating, false), [("x-end".to_owned(), "2".to_owned())]);
}

#[test]
fn a_paid_answer_is_for_no_cache() {
    let upstream = [
        ("cache-control", "public, max-age=3600"),
        ("cdn-cache-control", "max-age=60"),
        ("cloudflare-cdn-cache-control", "max-age=60"),
        ("surrogate-control", "max-age=60"),
        ("expires", "Thu, 01 Jan 2099 00:00:00 GMT"),
        ("pragma", "cache"),
        ("age", "1"),
        ("etag", "\"1\""),
        ("vary", "Accept, Payment"),
        ("vary", "origin"),
    ];
    let paid = [
        ("cache-control", "private, no-store"),
        ("etag", "\"1\""),
        ("vary", "Accept, Payment, origin, authorization"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(sorted(caller_sees(&upstream, true)), paid);
    assert_eq!(caller_sees(&upstream, false).len(), upstream.len());
    let any = caller_sees(&[("vary", "*")], true);
    assert!(any.contains(&("vary".to_owned(), "*".to_owned())));
    let none = caller_sees(&[], true);
    assert!(none.contains(&("vary".to_owned(), "payment, authorization".to_owned())));
}

#[test]
fn locations_of_the_upstream_become_ours() {
    for (location, expected) in [
        ("http://10.0.0.5:8080/base", "https://api.example.com"),
        ("http://10.0.0.5:8080/base/x?y#z", "https://api.example.com/x?y#z"),
        ("HTTP://10.0.0.5:8080/base?x", "https://api.example.com?x"),
        ("http://10.0.0.5:8080/base#x", "https://api.example.com#x"),
        ("http://10.0.0.5:8080/basement", "http://10.0.0.5:8080/basement"),
        ("http://10.0.0.5:80801/base", "http://10.0.0.5:80801/base"),
        ("/relative", "/relative"),
        ("/base/x?y", "/x?y"),
        ("/base", "/"),
        ("/base?x", "/?x"),
        ("/basement", "/basement"),
        ("//base/x", "//base/x"),
        ("/base//evil.example/x", "/base//evil.example/x"),
        ("http://10.0.0.5:8080.evil.example/base", "http://10.0.0.5:8080.evil.example/base"),
        ("http://10.0.0.5:8080@evil.example/base", "http://10.0.0.5:8080@evil.example/base"),
        ("", ""),
        ("é", "é"),
        ("https://elsewhere.example/", "https://elsewhere.example/"),
    ] {
        for name in ["location", "content-location"] {
            assert_eq!(caller_sees(&[(name, location)], false), [(name.to_owned(), expected.to_owned())]);
        }
    }
}

#[test]
fn a_default_port_is_the_same_origin() {
    for (upstream_base, location, expected) in [
        ("http://up.internal", "http://up.internal:80/a", Some("https://api.example.com/a")),
        ("https://up.internal:443/v1", "https://UP.internal/v1/a", Some("https://api.example.com/a")),
        ("https://up.internal", "https://up.internal:80/a", None),
        ("https://up.internal", "http://up.internal/a", None),
        ("https://up.internal", "/a", None),
        ("https://up.internal/", "https://up.internal/a", Some("https://api.example.com/a")),
    ] {
        let context = ResponseContext { paid: false, upstream_base, public_url: "https://api.example.com" };
        let value = HeaderValue::from_static(location);
        let seen = location::for_caller(&value, &context);
        assert_eq!(seen, expected.map(HeaderValue::from_static), "{upstream_base} {location}");
    }
}

proptest! {
    #[test]
    fn the_upstream_sees_each_trusted_header_once_and_ours(
        names in prop::collection::vec("[xX][-_]([pP]repaid402|[sS]tripe402|[fF]orwarded|request)[-_](client|price|for|host|id|[a-z]{1,5})", 0..8),
        value in "[ -~]{0,12}",
    ) {
        let incoming: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), value.as_str())).collect();
        let seen = upstream_sees(&incoming, &[]);
        for (name, value) in ours() {
            let values: Vec<&str> =
                seen.iter().filter(|(n, _)| normalised(n) == name).map(|(_, value)| value.as_str()).collect();
            prop_assert_eq!(values, [value.as_str()]);
        }
        prop_assert!(seen.iter().all(|(name, _)| !name.starts_with("x-stripe402")));
    }

    #[test]
    fn any_header_is_answered(headers in prop::collection::vec((any::<String>(), prop::collection::vec(any::<u8>(), 0..20)), 0..10)) {
        let incoming = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        let seen = request_headers_for_upstream(incoming, &trusted(), &[]);
        prop_assert!(seen.contains_key("x-request-id") && !seen.contains_key("cookie"));
    }
}
