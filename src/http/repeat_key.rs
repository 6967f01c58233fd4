//! The `Idempotency-Key` of a paid request, read in the same way at every door that sells.

use actix_web::http::header::{HeaderMap, HeaderValue};
use actix_web::{HttpRequest, web};
use bytes::Bytes;

use super::problem::Problem;
use crate::crowd::Place;
use crate::paywall::{Refusal, RepeatKey, is_key};
use crate::proxy::pace::Patience;
use crate::proxy::upload::{self, UploadFault};

/// <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Why a request with an `Idempotency-Key` is not even opened.
pub(crate) enum Unfit {
    Refusal(Refusal),
    Problem(Problem),
}

/// The header, if there is one. Two of them are no key.
pub(crate) fn presented(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Unfit> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY);
    match (keys.next(), keys.next()) {
        (_, Some(_)) => Err(Unfit::Refusal(Refusal::InvalidIdempotencyKey("Send it once."))),
        (key, None) => Ok(key),
    }
}

/// The header of a request that is not served without one. `None`: there is not exactly one, or it cannot be a key.
pub(crate) fn required(headers: &HeaderMap) -> Option<&str> {
    let key = presented(headers).ok().flatten()?;
    key.to_str().ok().filter(|key| is_key(key))
}

/// The key with what it stands for, for which the body is read whole. `path` is the one that is priced; `room` is where the bytes
/// that are in memory are counted.
pub(crate) async fn read(
    key: &HeaderValue,
    request: &HttpRequest,
    path: &str,
    payload: web::Payload,
    max_bytes: u64,
    patience: Patience,
    room: &mut Place,
) -> Result<(Bytes, RepeatKey), Unfit> {
    let body = upload::read_whole(payload, max_bytes, patience, room).await;
    let body = body.map_err(|fault| match fault {
        UploadFault::NoRoom => Unfit::Refusal(Refusal::Busy),
        fault => Unfit::Problem(fault.into()),
    })?;
    let key = RepeatKey::new(
        key.to_str().unwrap_or_default(),
        request.method().as_str(),
        path,
        request.uri().query(),
        &variants(request.headers()),
        &body,
    );
    let key = key.map_err(|why| Unfit::Refusal(Refusal::InvalidIdempotencyKey(why)))?;
    Ok((body, key))
}

/// Headers that choose what is answered, so that a part of an answer, or "not modified", is not repeated to whoever asks for
/// the whole.
fn variants(headers: &HeaderMap) -> Vec<u8> {
    const NAMES: [&str; 6] =
        ["range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range"];
    let values = NAMES.iter().flat_map(|name| headers.get_all(*name).map(move |value| (name, value)));
    values.flat_map(|(name, value)| [name.as_bytes(), b":", value.as_bytes(), b"\n"].concat()).collect()
}
