//! One line for every request, at debug level, so that the id in an answer leads to what became of it.

use std::fmt::Display;
use std::time::Instant;

use actix_web::Error;
use actix_web::dev::ServiceResponse;
use actix_web::http::Method;
use tracing::Level;

use super::X_REQUEST_ID;
use crate::domain::RequestId;
use crate::protocol::card_number::hides_card_number;

/// Where the lines come from; `log.filter` can name it.
const TARGET: &str = "prepaid402::requests";

/// The longest path that is shown, in characters.
const MAX_SHOWN: usize = 200;

/// Waits for the answer of a door and tells it.
pub(crate) async fn told<B>(
    answering: impl Future<Output = Result<ServiceResponse<B>, Error>>,
) -> Result<ServiceResponse<B>, Error> {
    let begun = is_on().then(Instant::now);
    let answered = answering.await?;
    if let Some(begun) = begun {
        let (response, request) = (answered.response(), answered.request());
        let id = response.headers().get(X_REQUEST_ID).and_then(|id| id.to_str().ok());
        let status = response.status().as_u16();
        tell((request.method(), request.uri().path()), status, id.unwrap_or_default(), begun);
    }
    Ok(answered)
}

/// The same for a door of which only refusals have an id.
pub(crate) async fn told_with_id<B>(
    answering: impl Future<Output = Result<ServiceResponse<B>, Error>>,
) -> Result<ServiceResponse<B>, Error> {
    told(async {
        let mut answered = answering.await?;
        if !answered.headers().contains_key(X_REQUEST_ID) {
            super::set_request_id(answered.headers_mut(), RequestId::new());
        }
        Ok(answered)
    })
    .await
}

/// Tells of a request that is answered.
pub(crate) fn tell((method, path): (&Method, &str), status: u16, id: impl Display, begun: Instant) {
    let milliseconds = begun.elapsed().as_millis();
    tracing::debug!(
        target: TARGET, { request.id = %id, status, milliseconds },
        "{method} {:?}", shown_path(path)
    );
}

/// Whether anybody reads them; a request is not even timed otherwise.
pub(crate) fn is_on() -> bool {
    tracing::enabled!(target: TARGET, Level::DEBUG)
}

/// The path as a route pattern: what may be an id, a key or a card number is left open, because logs are read by many.
pub(crate) fn shown_path(path: &str) -> String {
    let hides_card = hides_card_number(path);
    let is_plain = |segment: &str| {
        segment.len() <= 24
            && !segment.contains(['_', '%'])
            && segment.bytes().filter(u8::is_ascii_digit).count() < 6
            && !(hides_card && segment.contains(|c: char| c.is_ascii_digit()))
            && !hides_card_number(segment)
    };
    let shown = path.split('/').map(|segment| if is_plain(segment) { segment } else { "{id}" });
    let mut shown = shown.collect::<Vec<_>>().join("/");
    if let Some((end, _)) = shown.char_indices().nth(MAX_SHOWN) {
        shown.truncate(end);
        shown.push('…');
    }
    shown
}
