//! What a handler learns of whoever pays for it.

use std::future::{Ready, ready};
use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::{FromRequest, HttpMessage as _, HttpRequest, ResponseError, dev};

use crate::domain::{Currency, Micros, RequestId};

/// A request whose price is set aside: it is charged when the handler has answered. For handlers under
/// [`Embedded::price`](super::Embedded::price).
#[derive(Debug, Clone)]
pub struct Paid {
    pub(super) client: Arc<str>,
    pub(super) price: Micros,
    pub(super) currency: Currency,
    pub(super) request: RequestId,
    pub(super) is_repeat: bool,
}

impl Paid {
    /// Who pays: the client's public id. It is no secret and stays the same; the key that the caller presents is neither.
    #[must_use]
    pub fn client(&self) -> &str {
        &self.client
    }

    /// What the request costs.
    #[must_use]
    pub fn price(&self) -> Micros {
        self.price
    }

    /// The price's currency, as a lower-case ISO 4217 code.
    #[must_use]
    pub fn currency(&self) -> &'static str {
        self.currency.code()
    }

    /// The price as people write it, with its currency: `0.05 USD`, `5 JPY`.
    #[must_use]
    pub fn price_text(&self) -> String {
        self.currency.text(self.price)
    }

    /// Names the charge: the ledger entry's source is `usage:` and this. It is the answer's `x-request-id`, too.
    #[must_use]
    pub fn receipt(&self) -> String {
        self.request.to_string()
    }

    /// Whether the request was charged before, under the same `Idempotency-Key`, and is answered once more for nothing.
    #[must_use]
    pub fn is_repeat(&self) -> bool {
        self.is_repeat
    }
}

/// A handler takes [`Paid`] where nothing is sold.
#[derive(Debug, thiserror::Error)]
#[error("this handler takes Paid, but its resource is not wrapped with a price")]
pub struct NotPaid;

impl ResponseError for NotPaid {
    fn status_code(&self) -> StatusCode {
        StatusCode::INTERNAL_SERVER_ERROR
    }
}

impl FromRequest for Paid {
    type Error = NotPaid;
    type Future = Ready<Result<Self, NotPaid>>;

    fn from_request(request: &HttpRequest, _: &mut dev::Payload) -> Self::Future {
        let paid = request.extensions().get::<Self>().cloned();
        if paid.is_none() {
            tracing::error!("a handler takes Paid, but its resource is not wrapped with Embedded::price");
        }
        ready(paid.ok_or(NotPaid))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_price_is_written_with_the_decimals_of_its_currency() {
        for (currency, price, text) in
            [("usd", "0.05", "0.05 USD"), ("jpy", "5", "5 JPY"), ("kwd", "1.5", "1.500 KWD")]
        {
            let paid = Paid {
                client: "somebody".into(),
                price: Micros::parse_major(price).unwrap(),
                currency: currency.parse().unwrap(),
                request: RequestId::new(),
                is_repeat: false,
            };
            assert_eq!(paid.price_text(), text);
        }
    }
}
