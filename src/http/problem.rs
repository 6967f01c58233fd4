//! Refusals for machines: RFC 9457 problems, with the fields that every refusal has.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use serde_json::{Map, Value, json};

use crate::domain::RequestId;
use crate::paywall::{Answer, WhoActs};
use crate::pricing::Unpriced;

/// What SDKs obey before their own rules.
pub(crate) const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// A refusal that is not about payment. The payment ones are in `paywall::refusal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// The path can be read in more than one way, or not at all.
    InvalidPath,
    /// The request target is longer than is read.
    TargetTooLong,
    /// A request target or a header that a gateway must not pass on.
    InvalidRequest,
    /// WebSocket is not sold.
    UpgradeRefused,
    /// No route names this path and method.
    RouteNotConfigured,
    /// Larger than the route allows.
    BodyTooLarge,
    /// Slower than allowed.
    BodyTooSlow,
    /// Cut off.
    BodyBroken,
    /// As many requests are running as may.
    Busy,
    /// No connection to the API.
    UpstreamUnreachable,
    /// No answer from the API in time.
    UpstreamTimeout,
    /// The API broke off.
    UpstreamFailed,
    /// What the API answered cannot be read.
    UpstreamUnreadable,
    /// A handler that is sold inside an application has panicked.
    HandlerFailed,
    /// A handler that is sold inside an application has two prices.
    NestedPrices,
    /// More than one credential.
    AmbiguousCredentials,
    /// A credential of a payment protocol that is not spoken.
    PaymentProtocolOff,
    /// Credentials of two payment protocols.
    SeveralPayments,
    /// No clientId where one is needed.
    Unauthorized,
    /// The presented clientId was never issued.
    UnknownClient,
    /// No such thing, or not yours.
    NotFound,
    /// Parameters or body of a billing call.
    InvalidBillingRequest,
    /// A repeated `Idempotency-Key` with other content.
    IdempotencyMismatch,
    /// A card number was sent to us.
    RawCardData,
    /// Our database is away.
    Unavailable,
    /// A webhook that Stripe has not signed, as far as our secrets tell.
    WebhookSignature,
    /// A webhook that was signed too long ago, or in the future.
    WebhookTimestamp,
    /// A webhook that Stripe has signed, and that is no event.
    WebhookMalformed,
}

impl Problem {
    /// The table of answers.
    #[must_use]
    pub fn answer(self) -> Answer {
        use WhoActs::{Agent, Seller};
        let row = |status, code, retryable, who_acts, retry_after, message| Answer {
            status,
            code,
            retryable,
            who_acts,
            message,
            retry_after,
        };
        match self {
            Self::InvalidPath => row(
                400,
                "invalid_path",
                false,
                Agent,
                None,
                "The path can be read in more than one way. Send it without empty or dot segments, encoded slashes, backslashes, semicolons or control characters.",
            ),
            Self::TargetTooLong => row(
                414,
                "target_too_long",
                false,
                Agent,
                None,
                "The request target is too long: a path may have 4096 bytes, path and query together 64000. Nothing was charged.",
            ),
            Self::InvalidRequest => {
                row(400, "invalid_request", false, Agent, None, "The request cannot be passed on.")
            }
            Self::UpgradeRefused => row(
                400,
                "upgrade_refused",
                false,
                Agent,
                None,
                "WebSocket is not sold here. Ask with plain HTTP.",
            ),
            Self::RouteNotConfigured => row(
                404,
                "route_not_configured",
                false,
                Seller,
                None,
                "Nothing is sold under this path and method. If it should be, the seller adds a route.",
            ),
            Self::BodyTooLarge => row(
                413,
                "body_too_large",
                false,
                Agent,
                None,
                "The body is larger than is allowed here. Nothing was charged.",
            ),
            Self::BodyTooSlow => row(
                408,
                "body_too_slow",
                true,
                Agent,
                None,
                "The body did not arrive in time. Nothing was charged.",
            ),
            Self::BodyBroken => {
                row(400, "body_broken", true, Agent, None, "The body was cut off. Nothing was charged.")
            }
            Self::Busy => row(
                503,
                "busy",
                true,
                Agent,
                Some(2),
                "As many requests are running as may. Repeat this one shortly.",
            ),
            Self::UpstreamUnreachable => row(
                502,
                "upstream_unreachable",
                true,
                Seller,
                None,
                "The API behind the gateway cannot be reached. Nothing was charged for this request.",
            ),
            Self::UpstreamTimeout => row(
                504,
                "upstream_timeout",
                true,
                Seller,
                None,
                "The API behind the gateway did not answer in time. It may have done its work. Nothing was charged for this request.",
            ),
            Self::UpstreamFailed => row(
                502,
                "upstream_failed",
                true,
                Seller,
                None,
                "The API behind the gateway broke off before it answered. Nothing was charged for this request.",
            ),
            Self::UpstreamUnreadable => row(
                502,
                "upstream_unreadable",
                false,
                Seller,
                None,
                "What the API behind the gateway answered is not HTTP, or its head is too large. It may have done its work. Nothing was charged for this request.",
            ),
            Self::HandlerFailed => row(
                500,
                "handler_failed",
                true,
                Seller,
                None,
                "The API ended unexpectedly before it answered. It may have done its work. Nothing was charged for this request.",
            ),
            Self::NestedPrices => row(
                500,
                "nested_prices",
                false,
                Seller,
                None,
                "The API is set up wrongly: this has two prices, one inside the other. Nothing was charged for this request.",
            ),
            Self::AmbiguousCredentials => row(
                400,
                "ambiguous_credentials",
                false,
                Agent,
                None,
                "Send your clientId once: as Authorization: Bearer, or in a payment header.",
            ),
            Self::PaymentProtocolOff => row(
                400,
                "payment_protocol_off",
                false,
                Agent,
                None,
                "The request carries a credential of a payment protocol that is not taken here. Nothing was charged, and the API has not seen it. Ask without it: the 402 says how to pay.",
            ),
            Self::SeveralPayments => row(
                400,
                "several_payments",
                false,
                Agent,
                None,
                "The request carries credentials of more than one payment protocol. Nothing was charged, and the API has not seen them. Send one.",
            ),
            Self::Unauthorized => row(
                401,
                "unauthorized",
                false,
                Agent,
                None,
                "Send your clientId as Authorization: Bearer, or in a payment header.",
            ),
            Self::UnknownClient => {
                row(401, "unknown_client", false, Agent, None, "This clientId was never issued here.")
            }
            Self::NotFound => {
                row(404, "not_found", false, Agent, None, "There is no such thing, or it is not yours.")
            }
            Self::InvalidBillingRequest => row(
                400,
                "invalid_request",
                false,
                Agent,
                None,
                "The request cannot be used. Nothing was charged.",
            ),
            Self::IdempotencyMismatch => row(
                422,
                "idempotency_mismatch",
                false,
                Agent,
                None,
                "This Idempotency-Key was used for a top-up with other content. Nothing was charged now.",
            ),
            Self::RawCardData => row(
                400,
                "raw_card_data_rejected",
                false,
                Agent,
                None,
                "A card number must never be sent here. Tokenise the card directly with Stripe. Nothing was charged or stored.",
            ),
            Self::Unavailable => row(
                503,
                "busy",
                true,
                Seller,
                Some(2),
                "The gateway's database is away. Nothing was charged. Repeat this shortly.",
            ),
            Self::WebhookSignature => row(
                400,
                "webhook_signature_invalid",
                false,
                Seller,
                None,
                "No signature fits this request. Check that STRIPE_WEBHOOK_SECRETS holds this endpoint's secret.",
            ),
            Self::WebhookTimestamp => row(
                400,
                "webhook_timestamp_invalid",
                true,
                Seller,
                None,
                "The signature's time is too far from the gateway's clock.",
            ),
            Self::WebhookMalformed => row(
                400,
                "webhook_malformed",
                false,
                Seller,
                None,
                "The body is no event with an id and a type.",
            ),
        }
    }
}

/// The answer with a problem body. `extra` members are added to it, `detail` replaces the table's sentence.
#[must_use]
pub fn response(
    answer: Answer,
    detail: Option<&str>,
    request: RequestId,
    extra: Map<String, Value>,
) -> HttpResponse {
    let mut body = Map::new();
    body.insert("type".into(), json!(format!("urn:prepaid402:problem:{}", answer.code)));
    body.insert("title".into(), json!(answer.code.replace('_', " ")));
    body.insert("status".into(), json!(answer.status));
    let sentence = detail.unwrap_or(answer.message);
    body.insert("detail".into(), json!(sentence));
    body.insert("code".into(), json!(answer.code));
    body.insert("message".into(), json!(sentence));
    body.insert("retryable".into(), json!(answer.retryable));
    body.insert("whoActs".into(), json!(answer.who_acts.word()));
    body.insert("requestId".into(), json!(request.to_string()));
    body.extend(extra);
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut builder = HttpResponse::build(status);
    builder.insert_header((CONTENT_TYPE, "application/problem+json"));
    builder.insert_header((CACHE_CONTROL, "no-store"));
    let mut response = builder.body(Value::Object(body).to_string());
    tell_of_repeating(response.headers_mut(), answer);
    super::set_request_id(response.headers_mut(), request);
    response
}

/// Tells programs that repeat requests by themselves whether, and when, to repeat this one.
pub(crate) fn tell_of_repeating(headers: &mut HeaderMap, answer: Answer) {
    let repeating = answer.repeating();
    headers.insert(SHOULD_RETRY, HeaderValue::from_static(if repeating.helps { "true" } else { "false" }));
    if let Some(seconds) = repeating.after {
        headers.insert(RETRY_AFTER, seconds.into());
    }
}

/// A request that has no price, so that nothing may be done for it.
pub(crate) fn unpriced(why: Unpriced, request: RequestId) -> HttpResponse {
    let detail = format!("The request cannot be priced: {why}. Nothing was charged.");
    response(Problem::InvalidRequest.answer(), Some(&detail), request, Map::new())
}

/// A problem without additions.
#[must_use]
pub fn plain(problem: Problem, request: RequestId) -> HttpResponse {
    response(problem.answer(), None, request, Map::new())
}
