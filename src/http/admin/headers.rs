//! The headers of every answer.

use actix_web::Error;
use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web;

use super::AdminState;

/// `Referrer-Policy: no-referrer` makes browsers send `Origin: null` with our own forms; the pages' `meta` element says
/// `same-origin` instead, which is as silent towards everybody else.
const ALWAYS: [(&str, &str); 10] = [
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; \
         base-uri 'none'; object-src 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-embedder-policy", "require-corp"),
    ("permissions-policy", "geolocation=(), camera=(), microphone=(), payment=()"),
    ("cache-control", "no-store"),
    ("x-robots-tag", "noindex, nofollow"),
];

/// Two years. Only where HTTPS carries the answer (RFC 6797, section 7.2).
const HSTS: (&str, &str) = ("strict-transport-security", "max-age=63072000; includeSubDomains");

/// Sets them, replacing what is there.
pub(super) fn set(headers: &mut HeaderMap, state: Option<&AdminState>) {
    let https = state.is_some_and(|state| state.secure_cookies && state.public_url.starts_with("https://"));
    for (name, value) in ALWAYS.into_iter().chain(https.then_some(HSTS)) {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
}

/// Middleware around all admin routes.
pub(super) async fn add(
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let state = request.app_data::<web::Data<AdminState>>().cloned();
    let mut response = next.call(request).await?;
    set(response.headers_mut(), state.as_ref().map(|data| data.get_ref()));
    Ok(response)
}
