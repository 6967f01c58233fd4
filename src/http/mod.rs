//! Every door that speaks HTTP, on one screen.
//!
//! Public listener: `/billing/…` and `/webhooks/…` are ours, everything else is the gateway's.
//! Admin listener (loopback): `/admin/…`, `/healthz`, `/readyz`, `/metrics`.

pub mod admin;
pub mod billing;
pub(crate) mod delivery;
pub(crate) mod framing;
pub mod gateway;
pub(crate) mod gateway_body;
pub mod health;
pub(crate) mod kept_answer;
pub mod metrics;
pub(crate) mod payment_answer;
pub mod problem;
pub(crate) mod repeat_headers;
pub(crate) mod repeat_key;
pub(crate) mod request_log;
mod reversals;
mod statement;
pub mod webhooks;

use std::net::IpAddr;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;

pub(crate) use self::reversals::Reversals;
use crate::config::IpNetwork;
use crate::domain::RequestId;
use crate::proxy::client_address::client_address;

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What browsers may send us and read from us.
const ALLOW_HEADERS: &str = "payment, authorization, content-type, accept, idempotency-key, x-requested-with";
const ALLOW_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
const EXPOSE_HEADERS: &str =
    "payment-required, payment-response, x-request-id, retry-after, location, idempotent-replayed";

/// The public listener's paths.
pub fn public(config: &mut web::ServiceConfig) {
    config
        .service(web::scope("/billing").configure(billing::configure))
        .service(web::scope("/webhooks").configure(webhooks::configure))
        .default_service(web::to(gateway::serve));
}

/// The admin listener's paths besides the pages.
pub fn operations(config: &mut web::ServiceConfig) {
    config
        .route("/healthz", web::get().to(health::healthz))
        .route("/readyz", web::get().to(health::readyz))
        .route("/metrics", web::get().to(health::metrics));
}

/// Where a request comes from, as far as it can be believed. `None` where there is no connection, as in tests of an
/// application's own.
pub(crate) fn caller_address(request: &HttpRequest, trusted_proxies: &[IpNetwork]) -> Option<IpAddr> {
    let forwarded = request.headers().get_all("x-forwarded-for");
    let forwarded = forwarded.filter_map(|value| value.to_str().ok());
    Some(client_address(request.peer_addr()?.ip(), forwarded, trusted_proxies))
}

/// Headers of every public answer: the request id, and what lets a browser's script read the answer.
pub(crate) fn finish(response: &mut HttpResponse, id: RequestId) {
    let headers = response.headers_mut();
    set_request_id(headers, id);
    let name = HeaderName::from_static;
    headers.insert(name("access-control-allow-origin"), HeaderValue::from_static("*"));
    headers.insert(name("access-control-expose-headers"), HeaderValue::from_static(EXPOSE_HEADERS));
}

fn set_request_id(headers: &mut HeaderMap, id: RequestId) {
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(id.to_string())) {
        headers.insert(X_REQUEST_ID, value);
    }
}

/// Answers a browser's question whether it may ask; never priced, never passed on.
pub(crate) fn preflight(request: &HttpRequest) -> HttpResponse {
    let asked = request
        .headers()
        .get("access-control-request-headers")
        .filter(|asked| asked.len() <= 1024)
        .cloned()
        .unwrap_or_else(|| HeaderValue::from_static(ALLOW_HEADERS));
    HttpResponse::NoContent()
        .insert_header(("access-control-allow-methods", ALLOW_METHODS))
        .insert_header((HeaderName::from_static("access-control-allow-headers"), asked))
        .insert_header(("access-control-max-age", "86400"))
        .insert_header(("vary", "origin, access-control-request-method, access-control-request-headers"))
        .insert_header(("cache-control", "no-store"))
        .finish()
}
