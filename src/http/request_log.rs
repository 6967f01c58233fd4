//! One line for every request, at debug level, so that the id in an answer leads to what became of it.

use std::time::Instant;

use actix_web::dev::ServiceResponse;
use actix_web::http::header::HeaderValue;
use actix_web::{Error, HttpRequest};
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
        tell(request, response.status().as_u16(), response.headers().get(X_REQUEST_ID), begun);
    }
    Ok(answered)
}

/// The same for a door whose answers have no id yet.
pub(crate) async fn told_with_id<B>(
    answering: impl Future<Output = Result<ServiceResponse<B>, Error>>,
) -> Result<ServiceResponse<B>, Error> {
    told(async {
        let mut answered = answering.await?;
        super::set_request_id(answered.headers_mut(), RequestId::new());
        Ok(answered)
    })
    .await
}

/// Tells of a request that is answered.
pub(crate) fn tell(request: &HttpRequest, status: u16, id: Option<&HeaderValue>, begun: Instant) {
    let id = id.and_then(|id| id.to_str().ok()).unwrap_or_default();
    let milliseconds = begun.elapsed().as_millis();
    tracing::debug!(
        target: TARGET, { request.id = %id, status, milliseconds },
        "{} {:?}", request.method(), shown_path(request.uri().path())
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
