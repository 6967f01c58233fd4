//! What a failed call means: *unknown* (money may have moved), *declined* (by the card's bank), *refused* (by Stripe).
//!
//! The rule: a timeout, a broken connection, an answer that cannot be read, 409, 424, 429 and 5xx are unknown; 402 with
//! a `card_error` is a decline; any other readable 4xx is a refusal.

use std::fmt;

use bytes::Bytes;

use super::calls::Endpoint;
use super::client::ResponseMeta;
use super::facts::{PaymentIntentFacts, payment_intent_facts};
use super::redact::{redact, short_ascii};

/// Why a call to Stripe gave no result. Holds no secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StripeFailure {
    /// Whether Stripe acted is not known. Ask again under the **same** key, or look it up; never call it failed.
    #[error("the outcome at Stripe is unknown: {reason}")]
    Unknown {
        /// What went wrong in the last attempt.
        reason: UnknownReason,
        /// Stripe's name of that attempt, if it answered.
        request_id: Option<String>,
    },
    /// The card was declined. Definitive for this key; another attempt needs another key.
    #[error("the card was declined ({})", .0.kind)]
    Declined(Box<Decline>),
    /// Stripe refused the request. Definitive, except as [`RefusalKind`] says.
    #[error("Stripe refused the request: {0}")]
    Refused(Box<Refusal>),
}

/// What went wrong when the outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnknownReason {
    /// No complete answer in time.
    #[error("no complete answer in time")]
    Timeout,
    /// No connection: this attempt did not reach Stripe, an earlier one may have.
    #[error("no connection")]
    NoConnection,
    /// The connection broke during the request or the answer.
    #[error("the connection broke")]
    ConnectionLost,
    /// Stripe's answer, with this status, is not what our types expect, or is too large.
    #[error("unreadable answer with status {0}")]
    Unreadable(u16),
    /// An object other than the one asked for came back.
    #[error("an answer about another object")]
    OtherObject,
    /// A status that tells nothing about the outcome: 409, 424, 429, 5xx, or none that Stripe documents.
    #[error("status {0}")]
    Status(u16),
    /// A request under the same idempotency key is running at Stripe.
    #[error("a request under the same idempotency key is running")]
    KeyInUse,
    /// A list is longer than what is read at most.
    #[error("the list is too long")]
    TooMany,
}

/// A decline by the bank of the card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decline {
    /// What the payer may be told.
    pub kind: DeclineKind,
    /// Stripe's error code, such as `card_declined`. For logs: distinct answers make a card-testing oracle.
    pub stripe_code: Option<String>,
    /// The bank's reason, such as `insufficient_funds`. For logs only.
    pub decline_code: Option<String>,
    /// The PaymentIntent as the decline left it, if Stripe sent it.
    pub payment_intent: Option<PaymentIntentFacts>,
    /// Stripe's name of the request.
    pub request_id: Option<String>,
}

/// What the payer may be told about a decline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeclineKind {
    /// Declined.
    Generic,
    /// The bank wants 3-D Secure, which needs a person.
    AuthenticationRequired,
}

impl fmt::Display for DeclineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Generic => "declined",
            Self::AuthenticationRequired => "authentication required",
        })
    }
}

/// A refusal by Stripe, or by ourselves before anything was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status; `None` when the request was malformed and nothing was sent.
    pub status: Option<u16>,
    /// Stripe's error code.
    pub code: Option<String>,
    /// The parameter it is about.
    pub param: Option<String>,
    /// For the operator's log; secrets and card numbers are removed.
    pub message: String,
    /// What it is about.
    pub kind: RefusalKind,
    /// Stripe's name of the request.
    pub request_id: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "{} (status {status})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// What a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The PaymentMethod does not exist, belongs to another customer, was used up, or is not usable here.
    InvalidPaymentMethod,
    /// The key was used before with other parameters. Says **nothing** about what that earlier request did.
    IdempotencyMismatch,
    /// Our secret key is wrong or lacks a right. Says **nothing** about an earlier request under the same key.
    Authentication,
    /// Anything else: a bug or a setting of ours.
    Other,
}

impl StripeFailure {
    /// A request that was malformed and therefore not sent.
    pub(super) fn not_sent(why: &'static str) -> Self {
        Self::Refused(Box::new(Refusal {
            status: None,
            code: None,
            param: None,
            message: why.to_owned(),
            kind: RefusalKind::Other,
            request_id: None,
        }))
    }

    /// Whether Stripe says for certain that the customer that was named does not exist: in this account, or not any more.
    #[must_use]
    pub fn lacks_customer(&self) -> bool {
        matches!(self, Self::Refused(refusal) if matches!(refusal.status, Some(400 | 404))
            && refusal.code.as_deref() == Some("resource_missing") && refusal.param.as_deref() == Some("customer"))
    }

    /// One word for logs.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "unknown",
            Self::Declined(_) => "declined",
            Self::Refused(_) => "refused",
        }
    }

    /// Stripe's name of the request that failed, for its support.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        match self {
            Self::Unknown { request_id, .. } => request_id.as_deref(),
            Self::Declined(decline) => decline.request_id.as_deref(),
            Self::Refused(refusal) => refusal.request_id.as_deref(),
        }
    }
}

/// The `error` object of <https://docs.stripe.com/api/errors>. Not async-stripe's `ApiErrors`: that one does not parse
/// when any object nested in it has an unexpected shape, which would turn a plain decline into an unknown outcome.
#[derive(serde::Deserialize)]
struct ErrorBody {
    #[serde(rename = "type")]
    kind: String,
    code: Option<String>,
    decline_code: Option<String>,
    param: Option<String>,
    message: Option<String>,
    payment_intent: Option<serde_json::Value>,
}

#[derive(serde::Deserialize)]
struct ErrorEnvelope {
    error: ErrorBody,
}

/// Sorts an answer whose status is not 2xx.
pub(super) fn classify(endpoint: Endpoint, meta: &ResponseMeta, body: &Bytes) -> StripeFailure {
    let unknown = |reason| StripeFailure::Unknown { reason, request_id: meta.request_id.clone() };
    let status = meta.status;
    let error = serde_json::from_slice::<ErrorEnvelope>(body).map(|envelope| envelope.error);
    // By its code, whatever the type and status: Stripe has sent it with more than one of each.
    if error.as_ref().is_ok_and(|error| error.code.as_deref() == Some("idempotency_key_in_use")) {
        return unknown(UnknownReason::KeyInUse);
    }
    if !(400..500).contains(&status) || matches!(status, 409 | 424 | 429) {
        return unknown(UnknownReason::Status(status));
    }
    match error {
        Err(_) => unknown(UnknownReason::Unreadable(status)),
        Ok(error) if status == 402 && error.kind == "card_error" => {
            StripeFailure::Declined(Box::new(decline(error, meta)))
        }
        Ok(error) => StripeFailure::Refused(Box::new(refusal(endpoint, error, meta))),
    }
}

fn decline(error: ErrorBody, meta: &ResponseMeta) -> Decline {
    let wants_authentication = [&error.code, &error.decline_code].into_iter().flatten().any(|code| {
        matches!(
            code.as_str(),
            "authentication_required"
                | "authentication_not_handled"
                | "payment_intent_action_required"
                | "payment_intent_authentication_failure"
        )
    });
    Decline {
        kind: if wants_authentication { DeclineKind::AuthenticationRequired } else { DeclineKind::Generic },
        stripe_code: error.code.as_deref().and_then(short_ascii),
        decline_code: error.decline_code.as_deref().and_then(short_ascii),
        payment_intent: error
            .payment_intent
            .and_then(|intent| miniserde::json::from_str(&intent.to_string()).ok())
            .and_then(|intent| payment_intent_facts(intent, meta)),
        request_id: meta.request_id.clone(),
    }
}

fn refusal(endpoint: Endpoint, error: ErrorBody, meta: &ResponseMeta) -> Refusal {
    Refusal {
        status: Some(meta.status),
        kind: refusal_kind(endpoint, &error, meta.status),
        code: error.code.as_deref().and_then(short_ascii),
        param: error.param.as_deref().map(redact),
        message: redact(error.message.as_deref().unwrap_or("no message")),
        request_id: meta.request_id.clone(),
    }
}

fn refusal_kind(endpoint: Endpoint, error: &ErrorBody, status: u16) -> RefusalKind {
    if error.kind == "idempotency_error" {
        return RefusalKind::IdempotencyMismatch;
    }
    if matches!(status, 401 | 403) {
        return RefusalKind::Authentication;
    }
    let about_the_method = error.param.as_deref() == Some("payment_method")
        || (endpoint == Endpoint::RetrievePaymentMethod && status == 404)
        || error.code.as_deref().is_some_and(is_payment_method_code)
        || error.message.as_deref().is_some_and(is_payment_method_message);
    if about_the_method { RefusalKind::InvalidPaymentMethod } else { RefusalKind::Other }
}

/// Codes of <https://docs.stripe.com/error-codes> that another PaymentMethod would not get.
fn is_payment_method_code(code: &str) -> bool {
    matches!(
        code,
        "payment_intent_incompatible_payment_method"
            | "payment_method_invalid_parameter"
            | "payment_method_not_available"
            | "payment_method_restricted"
            | "payment_method_unactivated"
            | "payment_method_unexpected_state"
            | "payment_method_unsupported_type"
            | "token_already_used"
    )
}

/// Stripe refuses a used-up or foreign PaymentMethod with neither code nor parameter, only with a sentence: "The provided
/// PaymentMethod was previously used with a PaymentIntent without Customer attachment … It may not be used again." and
/// "The payment method supplied belongs to a different Customer."
fn is_payment_method_message(message: &str) -> bool {
    let lower = message.to_ascii_lowercase();
    (lower.contains("paymentmethod") || lower.contains("payment method"))
        && ["may not be used again", "belongs to", "does not belong", "attached to"]
            .iter()
            .any(|phrase| lower.contains(phrase))
}
