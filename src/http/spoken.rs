//! The payment protocols that are spoken, at this carrier: HTTP headers.

use std::sync::LazyLock;

use actix_web::HttpRequest;
use actix_web::http::header::{HeaderMap, HeaderValue};

use super::problem::Problem;
use crate::paywall::Refusal;
use crate::protocol::{Credential, Dialect, Dialects, NotRead, SPOKEN};

/// Why a request's credential is not taken.
pub(crate) enum NotTaken {
    /// It cannot be used; in the protocol that it is of.
    Refused(&'static Dialect, Refusal),
    /// It is not looked at.
    Problem(Problem),
}

/// What a request presents. `Ok(None)`: nothing.
pub(crate) fn read_credential(
    dialects: &Dialects,
    headers: &HeaderMap,
) -> Result<Option<Credential>, NotTaken> {
    let get_all = |name| headers.get_all(name).map(HeaderValue::as_bytes);
    dialects.read(get_all, None).map_err(|why| match why {
        NotRead::Unreadable(dialect, why) => NotTaken::Refused(dialect, Refusal::from(why)),
        NotRead::Unspoken(_) => NotTaken::Problem(Problem::PaymentProtocolOff),
        NotRead::Several => NotTaken::Problem(Problem::SeveralPayments),
    })
}

/// Whether a request presents anything in a header that is a protocol's own alone.
pub(crate) fn presents_any(request: &HttpRequest) -> bool {
    request.headers().keys().any(|name| SPOKEN.owns(name.as_str()))
}

/// Whether a request carries a credential of a protocol that is not spoken.
pub(crate) fn presents_unspoken(dialects: &Dialects, headers: &HeaderMap) -> bool {
    dialects.unspoken(|name| headers.get_all(name).map(HeaderValue::as_bytes)).is_some()
}

/// What answers with an offer or a receipt vary by.
pub(crate) fn vary() -> HeaderValue {
    static VARY: LazyLock<HeaderValue> = LazyLock::new(|| joined(SPOKEN.request_headers(), &[]));
    VARY.clone()
}

/// What browsers may send us, besides what is asked for by name.
pub(super) fn allow_headers() -> HeaderValue {
    static ALLOW: LazyLock<HeaderValue> = LazyLock::new(|| {
        let others = ["authorization", "content-type", "accept", "idempotency-key", "x-requested-with"];
        joined(SPOKEN.request_headers(), &others)
    });
    ALLOW.clone()
}

/// What scripts may read from us.
pub(super) fn expose_headers() -> HeaderValue {
    static EXPOSE: LazyLock<HeaderValue> = LazyLock::new(|| {
        let others = ["x-request-id", "retry-after", "x-should-retry", "location", "idempotent-replayed"];
        joined(SPOKEN.answer_headers(), &others)
    });
    EXPOSE.clone()
}

/// Each name once. For ever, so that what every answer has is copied without a count.
fn joined(own: impl Iterator<Item = &'static str>, others: &[&'static str]) -> HeaderValue {
    let mut names: Vec<&str> = Vec::new();
    for name in own.chain(others.iter().copied()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    HeaderValue::from_static(Box::leak(names.join(", ").into_boxed_str()))
}
