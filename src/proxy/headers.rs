//! Which headers pass between caller and upstream.
//!
//! What a caller sends passes when its name is one that `names.rs` lets through. In answers, names are compared in lower case and with
//! every mark as `-`, because many servers cannot tell `X_Client_Id` or `X.Client.Id` from `X-Client-Id`.
//! Hop-by-hop headers: RFC 9110, section 7.6.1.

use std::borrow::Cow;

use hyper::HeaderMap;
use hyper::header::{CACHE_CONTROL, CONNECTION, HeaderName, HeaderValue, VARY};

use crate::config::Secret;
use crate::protocol::SPOKEN;

mod addresses;
mod names;

/// What the upstream may believe, because we say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedRequestHeaders<'a> {
    /// `X-Prepaid402-Client`: the public id of the paying client; none on free routes.
    pub client: Option<String>,
    /// `X-Prepaid402-Price`: what is held for this request, as a decimal of major units.
    pub price: Option<String>,
    /// `X-Prepaid402-Currency`: lower-case ISO 4217 code.
    pub currency: Option<&'a str>,
    /// `X-Request-Id`.
    pub request_id: String,
    /// `X-Prepaid402-Caller-Request-Id`: the caller's own `X-Request-Id`.
    pub caller_request_id: Option<String>,
    /// `X-Forwarded-For`: the caller's address. Not sent when empty.
    pub forwarded_for: String,
    /// `X-Forwarded-Proto`. Not sent when empty.
    pub forwarded_proto: &'a str,
    /// `X-Forwarded-Host`. Not sent when empty.
    pub forwarded_host: &'a str,
}

/// What decides about the headers of an answer.
#[derive(Debug, Clone, Copy)]
pub struct ResponseContext<'a> {
    /// Whether the answer belongs to the caller who pays for it, and to no cache.
    pub paid: bool,
    /// Where the upstream is; occurs in answers, and is nobody's business.
    pub upstream_base: &'a str,
    /// The origin callers see.
    pub public_url: &'a str,
}

/// RFC 9110, section 7.6.1, with what HTTP/1.1 and its predecessors added.
const HOP_BY_HOP: [&str; 12] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
];

/// Whether a header, by its name in lower case, is about one connection and no further one.
pub(crate) fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.binary_search(&name).is_ok()
}

/// The upstream does not speak for our origin, nor to the proxy in front of us: nginx (`X-Accel-Redirect`), Apache and Lighttpd
/// (`X-Sendfile`), LiteSpeed, H2O, App Engine, Fly and Envoy would send another body than the one that was charged, or ask somebody else.
const NOT_FOR_CALLER: [&str; 20] = [
    "alt-svc",
    "clear-site-data",
    "content-length",
    "content-security-policy",
    "content-security-policy-report-only",
    "fly-replay",
    "idempotent-replayed",
    "nel",
    "public-key-pins",
    "report-to",
    "reporting-endpoints",
    "server",
    "service-worker-allowed",
    "set-cookie",
    "set-cookie2",
    "strict-transport-security",
    "x-accel-redirect",
    "x-appengine-blobkey",
    "x-litespeed-location",
    "x-request-id",
];

const NOT_FOR_CALLER_PREFIXES: [&str; 8] = [
    "access-control-",
    "x-envoy-",
    "x-lighttpd-send-",
    "x-prepaid402-",
    "x-reproxy-",
    "x-send-file",
    "x-sendfile",
    "x-stripe402-",
];

/// Would let a cache keep a paid answer, or contradict `no-store`.
pub(crate) const CACHING: [&str; 6] =
    ["age", "cache-control", "expires", "pragma", "surrogate-control", "x-accel-expires"];

/// The headers of the request to the upstream: the caller's, without those that are not the caller's to send, then ours, then
/// the seller's own credential (`injected`), which wins and may have any name. Names and values that HTTP does not allow are left
/// out.
pub fn request_headers_for_upstream<'a>(
    incoming: impl Iterator<Item = (&'a str, &'a [u8])>,
    trusted: &TrustedRequestHeaders<'_>,
    injected: &[(String, Secret)],
) -> HeaderMap {
    // In lower case from here on. `Connection` may come after the header that it nominates.
    let incoming: Vec<(HeaderName, &[u8])> = incoming
        .filter_map(|(name, value)| Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value)))
        .collect();
    let nominating = ["connection", "proxy-connection"];
    let connection =
        incoming.iter().filter(|(name, _)| nominating.contains(&name.as_str())).map(|(_, value)| *value);
    let mut withheld = nominated(connection);
    withheld.extend(injected.iter().map(|(name, _)| normalised(name).into_owned()));
    let mut headers = HeaderMap::with_capacity(incoming.len() + injected.len() + 8);
    for (name, value) in incoming {
        let passes = !is_hop_by_hop(name.as_str())
            && names::is_the_callers(name.as_str())
            && !SPOKEN.claims(name.as_str(), value)
            && !withheld.iter().any(|withheld| withheld == name.as_str());
        if let (true, Ok(value)) = (passes, HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    set_trusted(&mut headers, trusted);
    for (name, secret) in injected {
        if let (Ok(name), Ok(mut value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(secret.expose()))
        {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
    headers
}

fn set_trusted(headers: &mut HeaderMap, trusted: &TrustedRequestHeaders<'_>) {
    // Names that are made once: each request would look at every byte of them.
    static NAMES: [HeaderName; 8] = [
        HeaderName::from_static("x-prepaid402-client"),
        HeaderName::from_static("x-prepaid402-price"),
        HeaderName::from_static("x-prepaid402-currency"),
        HeaderName::from_static("x-request-id"),
        HeaderName::from_static("x-prepaid402-caller-request-id"),
        HeaderName::from_static("x-forwarded-for"),
        HeaderName::from_static("x-forwarded-proto"),
        HeaderName::from_static("x-forwarded-host"),
    ];
    let values = [
        trusted.client.as_deref(),
        trusted.price.as_deref(),
        trusted.currency,
        Some(trusted.request_id.as_str()),
        trusted.caller_request_id.as_deref(),
        Some(trusted.forwarded_for.as_str()),
        Some(trusted.forwarded_proto),
        Some(trusted.forwarded_host),
    ];
    for (name, value) in NAMES.iter().zip(values) {
        if let Some(value) = value.filter(|value| !value.is_empty())
            && let Ok(value) = HeaderValue::from_str(value)
        {
            headers.insert(name, value);
        }
    }
}

/// The headers of the answer to the caller: the upstream's, without those that are not the upstream's to send. Body framing
/// (`content-length`) is left out and the server's to set. A paid answer is `private, no-store`: it is sold to one caller.
#[must_use]
pub fn response_headers_for_caller(
    upstream: &HeaderMap,
    context: &ResponseContext<'_>,
) -> Vec<(HeaderName, HeaderValue)> {
    let connection = upstream.get_all(CONNECTION).iter().chain(upstream.get_all("proxy-connection"));
    let withheld = nominated(connection.map(HeaderValue::as_bytes));
    let mut headers = Vec::with_capacity(upstream.len() + 2);
    for (name, value) in upstream {
        let normal = normalised(name.as_str());
        let is_stripped = is_listed(&normal, &HOP_BY_HOP, &[])
            || is_listed(&normal, &NOT_FOR_CALLER, &NOT_FOR_CALLER_PREFIXES)
            || SPOKEN.owns(&normal)
            || SPOKEN.answers(&normal, value.as_bytes())
            || withheld.iter().any(|withheld| *withheld == normal)
            || (context.paid && is_about_caching(&normal));
        if is_stripped {
            continue;
        }
        let rewritten = addresses::for_caller(name, value, context);
        headers.push((name.clone(), rewritten.unwrap_or_else(|| value.clone())));
    }
    if context.paid {
        headers.push((CACHE_CONTROL, HeaderValue::from_static("private, no-store")));
        headers.push((VARY, paid_vary(upstream)));
    }
    headers
}

/// `Vary` is written again, extended; also `CDN-Cache-Control` and its vendors' forms (RFC 9213).
fn is_about_caching(normal: &str) -> bool {
    is_listed(normal, &CACHING, &[]) || normal == "vary" || normal.ends_with("-cache-control")
}

/// What the upstream's answer varies by, and the credentials.
fn paid_vary(upstream: &HeaderMap) -> HeaderValue {
    let mut names: Vec<&str> = Vec::new();
    let theirs = upstream.get_all(VARY).iter().filter_map(|value| value.to_str().ok());
    let own: Vec<&str> = SPOKEN.request_headers().chain(["authorization"]).collect();
    for name in theirs.flat_map(|value| value.split(',')).chain(own) {
        let name = name.trim();
        if !name.is_empty() && !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            names.push(name);
        }
    }
    let joined = if names.contains(&"*") { "*".to_owned() } else { names.join(", ") };
    HeaderValue::from_str(&joined).unwrap_or_else(|_| HeaderValue::from_static("*"))
}

/// Whether `If-None-Match` says `*`, which any answer matches (RFC 9110, section 13.1.2). On a GET whose 304 costs nothing, it would
/// have the API do its work, and tell by the 304's `ETag` what came out, for nothing.
pub(crate) fn matches_anything<'a>(mut if_none_match: impl Iterator<Item = &'a [u8]>) -> bool {
    if_none_match.any(|value| value.split(|byte| *byte == b',').any(|tag| tag.trim_ascii() == b"*"))
}

/// In lower case and with every mark as `-`; nearly all names are so already.
fn normalised(name: &str) -> Cow<'_, str> {
    if name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return Cow::Borrowed(name);
    }
    let one = |b: u8| if b.is_ascii_alphanumeric() { char::from(b.to_ascii_lowercase()) } else { '-' };
    Cow::Owned(name.bytes().map(one).collect())
}

fn is_listed(normal: &str, names: &[&str], prefixes: &[&str]) -> bool {
    names.contains(&normal) || prefixes.iter().any(|prefix| normal.starts_with(prefix))
}

/// The names that `Connection` and `Proxy-Connection` headers declare to be hop-by-hop.
fn nominated<'a>(connection: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    connection
        .flat_map(|value| value.split(|b| *b == b','))
        .map(|name| normalised(String::from_utf8_lossy(name).trim()).into_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

#[cfg(test)]
mod tests;
