//! Every door that speaks HTTP, on one screen.
//!
//! Public listener: `/billing/…` and `/webhooks/…` are ours, everything else is the gateway's.
//! Admin listener (loopback): `/admin/…`, `/healthz`, `/readyz`, `/metrics`.

pub mod admin;
pub mod billing;
pub(crate) mod callers;
pub(crate) mod delivery;
pub(crate) mod framing;
pub mod gateway;
pub(crate) mod gateway_body;
pub(crate) mod gateway_route;
pub mod health;
pub(crate) mod in_vain;
pub(crate) mod kept_answer;
pub mod metrics;
pub(crate) mod origin;
pub(crate) mod payment_answer;
pub mod problem;
pub(crate) mod record_stream;
pub(crate) mod redirect_told;
pub(crate) mod repeat_headers;
pub(crate) mod repeat_key;
pub(crate) mod request_log;
mod reversals;
pub(crate) mod server;
pub(crate) mod spoken;
mod statement;
pub(crate) mod target;
pub mod webhooks;
pub(crate) mod who_asks;

use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, CONTENT_LENGTH, HeaderMap, HeaderName,
    HeaderValue, TRANSFER_ENCODING,
};
use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;

use self::problem::Problem;
pub(crate) use self::reversals::Reversals;
use crate::db::Condition;
use crate::domain::RequestId;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const ALLOW_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// The public listener's paths.
pub(crate) fn public(condition: Condition) -> impl FnOnce(&mut web::ServiceConfig) {
    move |config| {
        let billing = web::scope("/billing").wrap(from_fn(in_vain::told(condition)));
        config
            .service(billing.wrap(from_fn(target::guard)).configure(billing::configure))
            .service(web::scope("/webhooks").wrap(from_fn(target::guard)).configure(webhooks::configure))
            .default_service(web::to(gateway::serve));
    }
}

/// The admin listener's paths besides the pages.
pub fn operations(config: &mut web::ServiceConfig) {
    config
        .route("/healthz", web::get().to(health::healthz))
        .route("/readyz", web::get().to(health::readyz))
        .route("/metrics", web::get().to(health::metrics));
}

/// The length that a request announces for its body.
///
/// # Errors
/// One that is no number.
pub(crate) fn announced(request: &HttpRequest) -> Result<Option<u64>, Problem> {
    let Some(length) = request.headers().get(CONTENT_LENGTH) else { return Ok(None) };
    let text = length.to_str().map_err(|_| Problem::InvalidRequest)?;
    text.parse().map(Some).map_err(|_| Problem::InvalidRequest)
}

/// Whether a body follows a request's head.
pub(crate) fn has_body(request: &HttpRequest) -> bool {
    request.headers().contains_key(TRANSFER_ENCODING) || !matches!(announced(request), Ok(None | Some(0)))
}

/// Headers of every public answer: the request id, and what lets a browser's script read the answer.
pub(crate) fn finish(response: &mut HttpResponse, id: RequestId) {
    let headers = response.headers_mut();
    set_request_id(headers, id);
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, spoken::expose_headers());
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
        .unwrap_or_else(spoken::allow_headers);
    HttpResponse::NoContent()
        .insert_header(("access-control-allow-methods", ALLOW_METHODS))
        .insert_header((HeaderName::from_static("access-control-allow-headers"), asked))
        .insert_header(("access-control-max-age", "86400"))
        .insert_header(("vary", "origin, access-control-request-method, access-control-request-headers"))
        .insert_header(("cache-control", "no-store"))
        .finish()
}
