use hyper::header::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;

fn trusted() -> TrustedRequestHeaders<'static> {
    TrustedRequestHeaders {
        client: Some("0190".into()),
        price: Some("0.05".into()),
        currency: Some("usd"),
        request_id: "req-1".into(),
        caller_request_id: Some("mine".into()),
        forwarded_for: "203.0.113.9".into(),
        forwarded_proto: "https",
        forwarded_host: "api.example.com",
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
        ("x-prepaid402-caller-request-id", "mine"),
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

/// What servers, frameworks and proxies take for the path, the query, the method, the scheme, the host, the mount point, who asks
/// from where, or a file to send. Written down without a look at the rules.
const TAKEN_FOR_MORE: &str = "
    script-name path-info path-translated query-string request-method request-uri request-url document-root document-uri
    script-filename script-uri script-url gateway-interface auth-type auth-user remote-addr remote-host remote-port remote-user
    remote-ident remote-groups remote-email remote-name server-name server-port server-protocol server-software server-addr https
    redirect-url redirect-status redirect-query-string redirect-remote-user php-self php-auth-user php-value orig-path-info
    orig-script-name raw-uri unencoded-url iis-wasurlrewritten uwsgi-scheme uwsgi-file wsgi-url-scheme ssl-client-verify
    ssl-client-s-dn ssl-client-cert logon-user context-prefix
    x-script-name x-path-info x-request-uri x-query-string http-script-name http-x-script-name x-http-path-info
    forwarded x-forwarded x-forwarded-for x-forwarded-host x-forwarded-proto x-forwarded-protocol x-forwarded-port
    x-forwarded-prefix x-forwarded-path x-forwarded-pathbase x-forwarded-uri x-forwarded-url x-forwarded-method
    x-forwarded-server x-forwarded-scheme x-forwarded-ssl x-forwarded-by x-forwarded-user x-forwarded-groups x-forwarded-email
    x-forwarded-access-token x-forwarded-client-cert x-forwarded-context x-forwarded-query-string x-forwarder-for x-forward-for
    forwarded-for forwarded-proto x-original-url x-original-uri x-original-path x-original-method x-original-host
    x-original-prefix x-original-forwarded-for x-originating-ip x-originating-url x-rewrite-url x-rewrite-uri x-rewrite-path
    x-rewritten-url x-replaced-path x-real-ip x-real-host x-real-url x-real-script-name x-proxied-https
    base-url x-base-url x-base-path base-uri proxy-url x-proxy-url x-proxy-uri x-http-destinationurl uri url http-url http-uri
    x-path-base x-path-prefix x-context-path x-root-path x-ingress-path x-matched-path x-now-route-matches x-pathname
    x-url-prefix raw-request-uri x-proxycontextpath x-ms-original-url x-waws-unencoded-url x-envoy-original-path
    x-envoy-original-dst-host x-envoy-decorator-operation x-envoy-external-address x-envoy-upstream-rq-timeout-ms
    x-http-method-override x-http-method x-method-override x-method http-method-override x-override-url x-override-method
    x-http-host-override x-host-override x-artifactory-override-base-url x-restli-method x-tunneled-method x-http-verb
    x-request-method http-method x-action-override
    host x-host x-http-host proxy-host x-vhost x-virtual-host x-backend-host disguised-host x-scheme x-url-scheme front-end-https
    x-appservice-proto x-arr-ssl x-arr-clientcert cf-visitor cloudfront-forwarded-proto fastly-ssl wl-proxy-ssl proxy-ssl
    x-proxyscheme x-proxyhost x-proxyport x-protocol x-proto x-port
    client-ip x-client-ip true-client-ip x-true-client-ip x-true-ip cf-connecting-ip cf-connecting-ipv6 cf-pseudo-ipv4
    x-cluster-client-ip fastly-client-ip fly-client-ip x-remote-ip x-remote-addr x-proxyuser-ip ali-cdn-real-ip cdn-src-ip
    x-azure-clientip x-azure-socketip eo-client-ip incap-client-ip x-sucuri-clientip do-connecting-ip x-appengine-user-ip
    x-appengine-remote-addr x-vercel-forwarded-for x-nf-client-connection-ip cloudfront-viewer-address wl-proxy-client-ip
    x-client-addr x-custom-ip-authorization x-user-ip remote-address
    x-remote-user x-remote-group x-remote-extra-scopes x-webauth-user x-auth-request-user x-auth-request-email x-authentik-username
    x-goog-authenticated-user-email x-goog-iap-jwt-assertion x-ms-client-principal x-ms-client-principal-name
    x-ms-token-aad-access-token ms-aspnetcore-clientcert x-amzn-oidc-identity x-amzn-oidc-data x-amzn-mtls-clientcert
    cf-access-jwt-assertion cf-access-authenticated-user-email impersonate-user impersonate-group x-consumer-id
    x-consumer-username x-consumer-custom-id x-credential-identifier x-anonymous-consumer x-authenticated-userid
    x-authenticated-user x-userinfo client-cert client-cert-chain x-client-cert tailscale-user-login x-pomerium-jwt-assertion
    x-vouch-user oidc-claim-sub shib-session-id iv-user sm-user
    x-accel-redirect x-accel-mapping x-accel-internal x-sendfile x-sendfile-type x-send-file x-lighttpd-send-file
    x-litespeed-location x-reproxy-url
    z-forwarded-for x-traversal-path x-request-base x-ms-path-query x-requested-uri x-full-url x-webauth-email x-proxy-remote-user
    x-endpoint-api-userinfo oam-remote-user x-auth-username x-client-ip-address proxy-issuer-dn x-iis-url-rewrite x-client-scheme
    x-middleware-subrequest x-middleware-rewrite x-middleware-override-headers x-invoke-path x-invoke-query x-astro-path
    x-astro-locals x-react-router-spa-mode x-apigateway-event x-apigateway-context x-amzn-request-context
    x-amzn-lambda-context x-appengine-inbound-appid x-vercel-id l5d-dst-override l5d-dtab dtab-local x-istio-attributes";

/// What an API needs of its callers, or what does no harm.
const ORDINARY: &str = "
    accept accept-charset accept-encoding accept-language accept-version cache-control content-type content-encoding
    content-language content-md5 content-disposition content-digest date dnt digest depth destination from idempotency-key if-match
    if-none-match if-modified-since if-unmodified-since if-range last-event-id link max-forwards origin pragma prefer
    priority range referer user-agent upgrade-insecure-requests sec-fetch-mode sec-ch-ua save-data soapaction want-digest
    x-api-key api-key apikey x-auth-token x-csrf-token x-requested-with x-correlation-id x-trace-id x-session-id x-user-id
    x-tenant-id x-wallet-address x-target-url x-timezone x-locale x-http2-stream traceparent tracestate baggage b3
    x-b3-traceid x-amzn-trace-id x-cloud-trace-context sentry-trace x-datadog-trace-id x-stainless-retry-count x-stainless-os
    openai-organization anthropic-version anthropic-beta x-goog-api-key x-goog-api-client x-ms-version x-ms-client-request-id
    mcp-session-id mcp-protocol-version x-hub-signature-256 x-github-event stripe-version x-zip x-tip x-relationship-id
    x-region x-request-timeout request-id cf-ray cf-ipcountry x x-";

#[test]
fn what_anybody_takes_for_more_than_the_callers_word_does_not_pass() {
    for name in TAKEN_FOR_MORE.split_whitespace() {
        for spelling in [
            name.to_owned(),
            name.to_uppercase(),
            name.replace('-', "_").to_uppercase(),
            name.replacen('-', "_", 1),
            name.replace('-', "."),
            format!("X-{name}"),
            format!("HTTP-{name}"),
            format!("HTTP_{name}"),
        ] {
            let seen = upstream_sees(&[(&spelling, "/v1/secret"), ("x-harmless", "yes")], &[]);
            let mut expected = ours();
            expected.push(("x-harmless".into(), "yes".into()));
            assert_eq!(sorted(seen), sorted(expected), "{spelling}");
        }
    }
}

#[test]
fn only_letters_digits_and_hyphens_make_a_name_that_passes() {
    for name in [
        "x_custom",
        "api_key",
        "x.custom",
        "x~custom",
        "!~passenger-app-root",
        "$wsra",
        "a_b-c",
        "_",
        "content_type",
    ] {
        assert_eq!(sorted(upstream_sees(&[(name, "1")], &[])), sorted(ours()), "{name}");
    }
    // The seller may: it is no caller's.
    let seen = upstream_sees(&[("x_token", "evil"), ("x-token", "evil")], &[("X_Token", "s3cret")]);
    assert!(seen.contains(&("x_token".into(), "s3cret".into())), "{seen:?}");
    assert!(seen.iter().all(|(_, value)| value != "evil"), "{seen:?}");
}

#[test]
fn what_an_api_needs_of_its_callers_passes() {
    for name in ORDINARY.split_whitespace() {
        for spelling in [name.to_owned(), name.to_uppercase()] {
            let seen = upstream_sees(&[(&spelling, "a"), (&spelling, "b")], &[]);
            let values: Vec<&str> =
                seen.iter().filter(|(seen, _)| seen == name).map(|(_, value)| value.as_str()).collect();
            assert_eq!(values, ["a", "b"], "{spelling}");
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
        caller_request_id: None,
        forwarded_for: String::new(),
        forwarded_proto: "",
        forwarded_host: "",
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
        // A proxy in front would send another answer than the one that was charged.
        "x-accel-redirect",
        "x-sendfile",
        "x-sendfile2",
        "x-sendfile-temporary",
        "x-send-file",
        "x-lighttpd-send-file",
        "x-lighttpd-send-tempfile",
        "x-litespeed-location",
        "x-reproxy-url",
        "x-reproxy-file",
        "x-appengine-blobkey",
        "fly-replay",
        "x-envoy-immediate-health-check-fail",
    ] {
        assert_eq!(caller_sees(&[(name, "evil"), (name, "evil")], false), [], "{name}");
    }
    // How it is passed on, not what.
    for name in ["x-accel-buffering", "x-accel-expires", "x-accel-limit-rate", "x-accel-charset"] {
        assert_eq!(caller_sees(&[(name, "no")], false), [(name.to_owned(), "no".to_owned())]);
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
        ("http://10.0.0.5:8080/basement", "https://api.example.com/basement"),
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

    /// Any spelling: `x-` or `http-` in front or not, any case, any mark for each `-`.
    #[test]
    fn no_spelling_of_a_name_that_is_taken_for_more_reaches_the_upstream(
        which in any::<prop::sample::Index>(),
        fronts in prop::collection::vec(prop::sample::select(vec!["x-", "http-", "X_", "HTTP_", "x.", "X-"]), 0..3),
        upper in prop::collection::vec(any::<bool>(), 60),
        marks in prop::collection::vec(prop::sample::select(b"---__.!#$%&'*+^`|~".to_vec()), 60),
    ) {
        let names: Vec<&str> = TAKEN_FOR_MORE.split_whitespace().collect();
        let name = format!("{}{}", fronts.concat(), which.get(&names));
        let spelled: String = name
            .bytes()
            .zip(upper.iter().zip(&marks))
            .map(|(byte, (upper, mark))| match byte {
                b'-' => char::from(*mark),
                _ if *upper => char::from(byte.to_ascii_uppercase()),
                _ => char::from(byte),
            })
            .collect();
        let seen = upstream_sees(&[(&spelled, "evil"), ("accept", "a"), (&spelled, "evil")], &[]);
        prop_assert_eq!(seen.len(), ours().len() + 1, "{}: {:?}", spelled, seen);
        prop_assert!(seen.iter().all(|(_, value)| value != "evil"), "{}", spelled);
    }

    #[test]
    fn any_header_is_answered(headers in prop::collection::vec((any::<String>(), prop::collection::vec(any::<u8>(), 0..20)), 0..10)) {
        let incoming = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        let seen = request_headers_for_upstream(incoming, &trusted(), &[]);
        prop_assert!(seen.contains_key("x-request-id") && !seen.contains_key("cookie"));
    }
}
