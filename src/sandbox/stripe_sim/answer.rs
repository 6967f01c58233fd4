//! Answers on their way out: Stripe's headers, and the damage that faults do.

use std::io;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::Value;

use super::error::{ApiError, Refusal};
use super::faults::Action;
use super::objects::SavedAnswer;

/// The version of Stripe's API whose objects these are.
pub(super) const API_VERSION: &str = "2026-09-30.endive";

/// An answer.
pub(super) struct Answer {
    /// The HTTP status.
    pub(super) status: u16,
    /// The JSON.
    pub(super) body: String,
    /// The request whose answer this repeats.
    pub(super) original: Option<String>,
    /// Seconds.
    pub(super) retry_after: Option<u32>,
    /// `Stripe-Should-Retry: true`.
    pub(super) should_retry: bool,
}

impl Answer {
    /// The answer to an executed or refused request.
    pub(super) fn of(result: &Result<Value, Refusal>) -> Self {
        let (status, body) = match result {
            Ok(value) => (200, value.to_string()),
            Err(error) => (error.status, error.body().to_string()),
        };
        Self { status, body, original: None, retry_after: None, should_retry: false }
    }

    /// The answer that refuses.
    pub(super) fn refusal(error: Refusal) -> Self {
        Self::of(&Err(error))
    }
}

/// The remembered answer of a key.
pub(super) fn replay(saved: SavedAnswer) -> Answer {
    Answer {
        status: saved.status,
        body: saved.body,
        original: Some(saved.request_id),
        retry_after: None,
        should_retry: false,
    }
}

/// The key's first request is still being executed.
pub(super) fn key_in_use() -> Answer {
    let message =
        "There is currently another in-progress request using this Idempotency-Key. Please try again later.";
    let mut answer = Answer::refusal(ApiError::request(409, message).coded("idempotency_key_in_use"));
    answer.should_retry = true;
    answer
}

/// A request header, when it is text.
pub(super) fn header(request: &HttpRequest, name: &str) -> Option<String> {
    request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// Turns an answer into bytes, or into the damage that a fault does to it.
pub(super) fn respond(
    request: &HttpRequest,
    request_id: &str,
    answer: Answer,
    fault: Option<Action>,
) -> HttpResponse {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(match fault {
        Some(Action::Html502) => StatusCode::BAD_GATEWAY,
        Some(Action::Unparsable) => StatusCode::OK,
        _ => status,
    });
    response.insert_header(("Request-Id", request_id));
    response.insert_header(("Cache-Control", "no-store"));
    response.insert_header(("X-Prepaid402-Sandbox", "simulated Stripe"));
    let version = header(request, "stripe-version").unwrap_or_else(|| API_VERSION.to_owned());
    response.insert_header(("Stripe-Version", version));
    if let Some(key) = header(request, "idempotency-key") {
        response.insert_header(("Idempotency-Key", key));
    }
    if let Some(original) = &answer.original {
        response.insert_header(("Idempotent-Replayed", "true"));
        response.insert_header(("Original-Request", original.as_str()));
    }
    if let Some(seconds) = answer.retry_after {
        response.insert_header(("Retry-After", seconds.to_string()));
    }
    if answer.should_retry {
        response.insert_header(("Stripe-Should-Retry", "true"));
    }
    match fault {
        Some(Action::Drop) => {
            // A body that fails before its first byte: the server closes the connection without a whole answer.
            let body =
                futures_util::stream::once(async { Err::<web::Bytes, _>(io::Error::other("dropped")) });
            response.no_chunking(1).streaming(body)
        }
        Some(Action::Html502) => {
            response.content_type("text/html").body("<html><h1>502 Bad Gateway</h1></html>")
        }
        Some(Action::Unparsable) => {
            let half = answer.body.len() / 2;
            let cut = (0..=half).rev().find(|at| answer.body.is_char_boundary(*at)).unwrap_or(0);
            let mut body = answer.body;
            body.truncate(cut);
            response.content_type("application/json").body(body)
        }
        _ => response.content_type("application/json").body(answer.body),
    }
}
