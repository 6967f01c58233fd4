//! What answers say of their payment, whatever makes them: a handler, an error of middleware, or this door in a handler's place.

use actix_web::body::BoxBody;
use actix_web::dev::ServiceResponse;
use actix_web::http::header::{CACHE_CONTROL, HeaderMap, HeaderValue, VARY};
use actix_web::http::{StatusCode, Version};
use actix_web::{Error, HttpResponse, ResponseError};

use crate::domain::RequestId;
use crate::http::payment_answer::{Note, not_charged_problem};
use crate::http::problem::{self, Problem};
use crate::http::{finish, framing, spoken};
use crate::ledger::KeptHeader;
use crate::proxy::headers::CACHING;

/// Headers of an answer that belong to one connection or one caller, and are not stored with it.
const NOT_STORED: [&str; 8] = [
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "set-cookie",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
];

pub(super) fn stored_headers(headers: &HeaderMap) -> impl Iterator<Item = KeptHeader> {
    headers
        .iter()
        .filter(|(name, _)| !NOT_STORED.contains(&name.as_str()) && !CACHING.contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .chain([
            ("cache-control".to_owned(), b"private, no-store".to_vec()),
            ("vary".to_owned(), spoken::vary().as_bytes().to_vec()),
        ])
}

/// Adds what became of the payment. It names the caller's wallet, so the answer belongs to one caller and to no cache.
fn note_in(headers: &mut HeaderMap, note: &Note) {
    let caching: Vec<_> = headers.keys().filter(|name| CACHING.contains(&name.as_str())).cloned().collect();
    for name in caching {
        headers.remove(name);
    }
    note.write(headers);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    headers.append(VARY, spoken::vary());
}

pub(super) fn with_note(mut answered: ServiceResponse<BoxBody>, note: &Note) -> ServiceResponse<BoxBody> {
    note_in(answered.headers_mut(), note);
    answered
}

/// An error of middleware inside the price, with what became of the payment. It has no request any more, so it writes the
/// headers of every answer itself.
#[derive(Debug)]
pub(super) struct WithNote {
    pub(super) error: Error,
    pub(super) note: Note,
    pub(super) request: RequestId,
    pub(super) version: Version,
}

impl std::fmt::Display for WithNote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl ResponseError for WithNote {
    fn status_code(&self) -> StatusCode {
        self.error.as_response_error().status_code()
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = self.error.error_response();
        note_in(response.headers_mut(), &self.note);
        framing::fit_version(&mut response, self.version);
        finish(&mut response, self.request);
        response
    }
}

/// A problem in the place of an answer, for a request that has gone with its handler.
#[derive(Debug, thiserror::Error)]
#[error("{}", .problem.answer().message)]
pub(super) struct Failed {
    pub(super) problem: Problem,
    /// `None`: it is not known any more whose request it was.
    pub(super) note: Option<Note>,
    pub(super) request: RequestId,
}

impl ResponseError for Failed {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.problem.answer().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = match &self.note {
            Some(note) => not_charged_problem(self.problem, note, self.request),
            None => problem::plain(self.problem, self.request),
        };
        finish(&mut response, self.request);
        response
    }
}
