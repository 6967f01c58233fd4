//! Which request headers are the caller's to send.
//!
//! Only names of letters, digits and `-`: CGI, WSGI, FastCGI, Rack and PHP make one variable of `Script-Name`, `SCRIPT_NAME` and
//! `Script.Name`, and gunicorn takes exactly `SCRIPT_NAME` for the mount point. nginx drops such names, too. And no name that a
//! server, a framework or a proxy behind us takes for the path, the query, the method, the scheme, the host, the mount point, who
//! asks from where, or a file to send: it would serve something else than what was priced.
//!
//! `x-` and `http-` in front change nothing: `X-Script-Name` and `HTTP-Script-Name` are somebody's `SCRIPT_NAME`. Lists are in
//! ascending order, because they are searched by halves; no prefix begins another.

use crate::protocol::SPOKEN;

/// Ours to write or ours to know, by the whole name; payments are besides ([`SPOKEN`]). `Proxy` becomes the variable `HTTP_PROXY` of CGI programs.
const OURS: [&str; 9] = [
    "authorization",
    "content-length",
    "cookie",
    "cookie2",
    "expect",
    "proxy",
    "via",
    "x-client-id",
    "x-request-id",
];

const OUR_PREFIXES: [&str; 3] = ["sec-websocket-", "x-prepaid402-", "x-stripe402-"];

/// Names of one kind, without `x-` and `http-` in front.
struct Kind {
    names: &'static [&'static str],
    prefixes: &'static [&'static str],
}

/// What somebody behind us takes for more than the caller's word.
const TAKEN_FOR_MORE: [Kind; 7] = [
    // Variables of a request, as CGI (RFC 3875, section 4.1), Apache, IIS, PHP, Rack, WSGI and uwsgi name them; a client's
    // certificate.
    Kind {
        names: &[
            "appl-md-path",
            "appl-physical-path",
            "auth-password",
            "auth-type",
            "context-document-root",
            "context-prefix",
            "document-name",
            "document-path-info",
            "document-root",
            "document-uri",
            "gateway-interface",
            "https",
            "iis-wasurlrewritten",
            "logon-user",
            "path-info",
            "path-translated",
            "query-string",
            "request-filename",
            "request-method",
            "request-path",
            "request-scheme",
            "request-uri",
            "request-url",
            "ssl",
            "tls",
            "unencoded-url",
            "unmapped-remote-user",
        ],
        prefixes: &[
            "ajp-",
            "client-cert",
            "fcgi-",
            "php-",
            "rack-",
            "redirect-",
            "remote-",
            "scgi-",
            "script-",
            "server-",
            "ssl-",
            "tls-",
            "uwsgi-",
            "wsgi-",
        ],
    },
    // What a proxy says of the request it got: `Forwarded`, `X-Forwarded-*`, `X-Original-URL`, `X-Replaced-Path`, `X-Real-
    // IP`, `X-ProxyHost`.
    Kind {
        names: &[],
        prefixes: &[
            "forward",
            "orig-",
            "original-",
            "originating-",
            "proxied",
            "proxy",
            "real-",
            "replaced-",
            "rewritten-",
        ],
    },
    // The path or the mount point: Akka, ASP.NET, Home Assistant, NiFi, WSGI middleware.
    Kind {
        names: &[
            "base-path",
            "base-uri",
            "base-url",
            "basepath",
            "baseurl",
            "context-path",
            "destination-url",
            "destinationurl",
            "full-path",
            "full-uri",
            "full-url",
            "ingress-path",
            "matched-path",
            "mount",
            "mount-path",
            "mount-point",
            "ms-original-url",
            "ms-path-query",
            "now-route-matches",
            "path",
            "path-base",
            "path-prefix",
            "pathbase",
            "pathinfo",
            "pathname",
            "prefix",
            "raw-path",
            "raw-request-uri",
            "raw-uri",
            "raw-url",
            "request-base",
            "requested-path",
            "requested-uri",
            "requested-url",
            "root",
            "root-path",
            "root-url",
            "sub-path",
            "subpath",
            "target-path",
            "target-uri",
            "traversal-path",
            "uri",
            "uri-path",
            "url",
            "url-path",
            "url-prefix",
            "vault-namespace",
        ],
        prefixes: &[],
    },
    // The method, the scheme or the host: Azure, Jetty, NiFi, OData, rest.li, Tornado.
    Kind {
        names: &[
            "appservice-proto",
            "backend-host",
            "cf-visitor",
            "client-host",
            "client-port",
            "client-proto",
            "client-scheme",
            "client-ssl",
            "disguised-host",
            "edge-scheme",
            "front-end-https",
            "host",
            "host-name",
            "hostname",
            "method",
            "origin-host",
            "port",
            "proto",
            "protocol",
            "requested-host",
            "requested-method",
            "restli-method",
            "scheme",
            "server",
            "tunneled-method",
            "url-scheme",
            "verb",
            "vhost",
            "virtual-host",
        ],
        prefixes: &[],
    },
    // Who asks: Azure, Cloudflare, Google, Kong, Kubernetes, OpenID and SAML modules, SiteMinder, Tailscale, WebSEAL and
    // other log-in services.
    Kind {
        names: &[
            "anonymous-consumer",
            "auth-couchdb-roles",
            "auth-couchdb-username",
            "auth-email",
            "auth-groups",
            "auth-roles",
            "cas-user",
            "client-address",
            "consumer-custom-id",
            "consumer-groups",
            "consumer-id",
            "consumer-username",
            "credential-identifier",
            "credential-username",
            "custom-ip-authorization",
            "endpoint-api-userinfo",
            "es-security-runas-user",
            "ip",
            "ip-address",
            "ipaddress",
            "iv-creds",
            "iv-groups",
            "iv-user",
            "login-user",
            "peer-address",
            "remote",
            "sm-user",
            "source-address",
            "userinfo",
        ],
        prefixes: &[
            "amzn-mtls-",
            "amzn-oidc-",
            "auth-request-",
            "auth-user",
            "authenticated-",
            "authentik-",
            "cf-access-",
            "cf-connecting-",
            "cf-pseudo-",
            "goog-authenticated-user-",
            "goog-iap-",
            "impersonate-",
            "mellon-",
            "ms-aspnetcore-",
            "ms-client-principal",
            "ms-token-",
            "oidc-",
            "pomerium-",
            "shib-",
            "tailscale-",
            "vouch-",
            "webauth-",
        ],
    },
    // A file to send. `Rack::Sendfile` reads `X-Sendfile-Type` and `X-Accel-Mapping` of requests.
    Kind {
        names: &["translate"],
        prefixes: &["accel-", "lighttpd-", "litespeed-", "reproxy-", "send-file", "sendfile"],
    },
    // What frameworks, meshes and clouds tell themselves: Astro, AWS Lambda, Envoy, Fastly, Fly, Linkerd, Next.js, Netlify,
    // React Router, Vercel, WebLogic.
    Kind {
        names: &[],
        prefixes: &[
            "amzn-lambda-",
            "amzn-request-context",
            "apigateway-",
            "appengine-",
            "arr-",
            "astro-",
            "azure-",
            "cloudfront-",
            "dtab-",
            "envoy-",
            "fastly-",
            "fly-force-",
            "grpc-metadata-",
            "invoke-",
            "istio-",
            "knative-",
            "kong-",
            "l5d-",
            "middleware-",
            "next-action",
            "next-url",
            "nf-",
            "react-router-",
            "vercel-",
            "waws-",
            "wl-",
        ],
    },
];

/// What such names have in them, wherever: `X-HTTP-Method-Override`, `X-Override-URL`, `Z-Forwarded-For`, `X-Rewrite-URL`.
const INFIXES: [&str; 5] = ["forwarded", "original-host", "original-ur", "override", "rewrite"];

/// How the names of an address end: `X-Client-IP`, `CF-Connecting-IPv6`, `X-Sucuri-ClientIP`, `X-Client-Addr`; and of a user.
const ENDS: [&str; 10] = [
    "-addr",
    "-ip",
    "-ip-address",
    "-ipaddress",
    "-ipv4",
    "-ipv6",
    "-remote-user",
    "clientip",
    "realip",
    "remoteip",
];

/// What nearly every request has, looked at first because it costs least.
const COMMON: [&str; 18] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "cache-control",
    "content-encoding",
    "content-type",
    "dnt",
    "idempotency-key",
    "if-modified-since",
    "if-none-match",
    "origin",
    "pragma",
    "priority",
    "range",
    "referer",
    "traceparent",
    "upgrade-insecure-requests",
    "user-agent",
];

/// Whether the upstream may see a header of the caller by this name, which is in lower case.
pub(super) fn is_the_callers(name: &str) -> bool {
    // Refused below as well; but these come with nearly every request, and the lists are long.
    if matches!(name, "host" | "content-length" | "authorization") {
        return false;
    }
    COMMON.binary_search(&name).is_ok()
        || (is_plain(name) && !is_ours(name) && !is_taken_for_more(stem(name)))
}

fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn is_ours(name: &str) -> bool {
    OURS.binary_search(&name).is_ok() || begins_with_one(name, &OUR_PREFIXES) || SPOKEN.owns(name)
}
fn is_taken_for_more(stem: &str) -> bool {
    TAKEN_FOR_MORE
        .iter()
        .any(|kind| kind.names.binary_search(&stem).is_ok() || begins_with_one(stem, kind.prefixes))
        || ENDS.iter().any(|end| stem.ends_with(end))
        || INFIXES.iter().any(|infix| stem.contains(infix))
}

/// The name without every `x-` and `http-` in front.
fn stem(name: &str) -> &str {
    let mut rest = name;
    while let Some(shorter) = rest.strip_prefix("x-").or_else(|| rest.strip_prefix("http-")) {
        rest = shorter;
    }
    rest
}

/// Of ascending prefixes, none of which begins another, only the last that is not above the text can begin it.
fn begins_with_one(text: &str, prefixes: &[&str]) -> bool {
    let above = prefixes.partition_point(|prefix| *prefix <= text);
    above.checked_sub(1).and_then(|last| prefixes.get(last)).is_some_and(|prefix| text.starts_with(prefix))
}

#[cfg(test)]
mod tests;
