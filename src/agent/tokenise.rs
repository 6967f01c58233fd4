//! Turning a card into a PaymentMethod, directly at Stripe, so that the seller never sees the card.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request};
use serde::Deserialize;

use crate::domain::PaymentMethodId;
use crate::trust::Trust;

use super::card::Card;
use super::http::{Http, SendError, Target};
use super::offer::{PublishableKey, shown};

/// The most that is read of Stripe's answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// How Stripe words its refusal of cards that do not come from its own forms.
const UNSUPPORTED_SURFACE: &str = "unsupported for publishable key tokenization";

/// Where Stripe's API is. Decided by the holder alone, never by a server's answer.
#[derive(Debug, Clone)]
pub struct StripeBase {
    /// Believes the public authorities alone: a private one, which may vouch for a seller, never sees a card.
    http: Http,
    target: Target,
    simulated: bool,
}

/// Why no PaymentMethod was made. Nothing was charged in any case.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokeniseError {
    /// `--stripe-base` is not on this machine.
    #[error(
        "--stripe-base accepts only an address of this machine, such as http://127.0.0.1:12111: card data goes nowhere else but to Stripe"
    )]
    NotLoopback,
    /// A live key at a simulator.
    #[error(
        "--stripe-base accepts only test keys (pk_test_…), and this server's key is a live one; nothing was sent"
    )]
    LiveKey,
    /// No answer.
    #[error("Stripe could not be asked to tokenise the card: {0}; nothing was charged")]
    Unreachable(SendError),
    /// Raw cards are switched off in the seller's account.
    #[error(
        "this seller's Stripe account does not let programs send cards. Tell the seller to switch on \"Enable card data collection with a publishable key without using Stripe's pre-built UI elements\" in the Stripe dashboard under Settings, Integration; or make a PaymentMethod with Stripe Elements and pass it with --payment-method. Nothing was charged"
    )]
    NotEnabled,
    /// Stripe has trouble of its own, or is asked too often.
    #[error(
        "Stripe did not tokenise the card (status {0}), which says nothing about the card; nothing was charged"
    )]
    Unavailable(u16),
    /// Stripe says no.
    #[error("Stripe refuses the card: {message} ({code}); nothing was charged")]
    Refused {
        /// Stripe's code.
        code: String,
        /// Stripe's sentence.
        message: String,
    },
    /// Not Stripe's form.
    #[error("Stripe's answer (status {0}) cannot be read; nothing was charged")]
    Unreadable(u16),
}

impl StripeBase {
    /// `https://api.stripe.com`, or a simulator on this machine. `patience` as for [`Http::new`].
    ///
    /// # Errors
    /// [`TokeniseError::NotLoopback`] for any other address.
    pub fn new(simulator: Option<&str>, patience: Duration) -> Result<Self, TokeniseError> {
        let base = simulator.unwrap_or("https://api.stripe.com").trim_end_matches('/');
        let url = format!("{base}/v1/payment_methods");
        let target = Target::parse(&url, false).map_err(|_| TokeniseError::NotLoopback)?;
        if simulator.is_some() && !target.is_loopback() {
            return Err(TokeniseError::NotLoopback);
        }
        let http = Http::new(patience, &Trust::default());
        Ok(Self { http, target, simulated: simulator.is_some() })
    }

    /// Makes a PaymentMethod from a card.
    ///
    /// # Errors
    /// [`TokeniseError`]; nothing was charged.
    pub async fn tokenise(&self, key: &PublishableKey, card: Card) -> Result<PaymentMethodId, TokeniseError> {
        if self.simulated && !key.is_test() {
            return Err(TokeniseError::LiveKey);
        }
        let mut request = Request::new(Full::new(Bytes::from(card.form())));
        drop(card);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.uri().clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let bearer = HeaderValue::from_str(&format!("Bearer {}", key.as_str()));
        headers.insert(AUTHORIZATION, bearer.map_err(|_| TokeniseError::Unreadable(0))?);
        let mut answer = self.http.exchange(request).await.map_err(TokeniseError::Unreachable)?;
        let status = answer.status.as_u16();
        read_answer(status, &answer.peek(MAX_ANSWER).await)
    }
}

#[derive(Deserialize)]
struct Made {
    id: String,
}

#[derive(Deserialize)]
struct Failed {
    error: Failure,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    message: String,
    code: Option<String>,
    r#type: Option<String>,
}

fn read_answer(status: u16, body: &[u8]) -> Result<PaymentMethodId, TokeniseError> {
    if (200..300).contains(&status) {
        let made: Made = serde_json::from_slice(body).map_err(|_| TokeniseError::Unreadable(status))?;
        return PaymentMethodId::parse(&made.id).ok_or(TokeniseError::Unreadable(status));
    }
    if status >= 500 || status == 429 {
        return Err(TokeniseError::Unavailable(status));
    }
    let Failed { error } = serde_json::from_slice(body).map_err(|_| TokeniseError::Unreadable(status))?;
    if error.message.contains(UNSUPPORTED_SURFACE) {
        return Err(TokeniseError::NotEnabled);
    }
    let code = error.code.or(error.r#type).unwrap_or_default();
    Err(TokeniseError::Refused { code: shown(&code), message: shown(&error.message) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(simulator: Option<&str>) -> Result<StripeBase, TokeniseError> {
        StripeBase::new(simulator, Duration::from_secs(1))
    }

    #[test]
    fn card_data_goes_to_stripe_or_stays_here() {
        assert!(base(None).is_ok());
        for base in ["http://127.0.0.1:12111", "http://localhost:1/", "https://[::1]:1"] {
            assert!(self::base(Some(base)).is_ok(), "{base}");
        }
        for base in
            ["https://api.stripe.com", "https://stripe.example", "http://127.0.0.1@evil.example", "", "//x"]
        {
            assert_eq!(self::base(Some(base)).err(), Some(TokeniseError::NotLoopback), "{base}");
        }
    }

    #[test]
    fn stripes_answers_are_understood() {
        assert!(read_answer(200, br#"{"id":"pm_1","object":"payment_method"}"#).is_ok());
        assert_eq!(read_answer(200, br#"{"id":"tok_1"}"#), Err(TokeniseError::Unreadable(200)));
        assert_eq!(read_answer(404, b"<html>"), Err(TokeniseError::Unreadable(404)));
        let slow = br#"{"error":{"message":"Too many requests","code":"rate_limit","type":"invalid_request_error"}}"#;
        assert_eq!(read_answer(429, slow), Err(TokeniseError::Unavailable(429)));
        let down = br#"{"error":{"message":"An error occurred","type":"api_error"}}"#;
        assert_eq!(read_answer(500, down), Err(TokeniseError::Unavailable(500)));
        assert_eq!(read_answer(502, b"<html>"), Err(TokeniseError::Unavailable(502)));
        let off = br#"{"error":{"message":"This integration surface is unsupported for publishable key tokenization. ..."}}"#;
        assert_eq!(read_answer(400, off), Err(TokeniseError::NotEnabled));
        let wrong = br#"{"error":{"message":"Your card number is incorrect.","code":"incorrect_number","type":"card_error"}}"#;
        let refused = TokeniseError::Refused {
            code: "incorrect_number".to_owned(),
            message: "Your card number is incorrect.".to_owned(),
        };
        assert_eq!(read_answer(402, wrong), Err(refused));
    }
}
