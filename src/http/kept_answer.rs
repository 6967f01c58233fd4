//! The upstream's answer to a request with an `Idempotency-Key`, read before it is charged, so that it can be stored with the
//! charge. One that is larger than what is kept, or a stream of records, is passed on as it comes.

use std::time::Duration;

use actix_web::body::BodySize;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::CONTENT_LENGTH;
use tokio::time::Instant;

use super::record_stream::is_event_stream;
use crate::config::IdleLimit;
use crate::ledger::KeptHeader;

/// Longest reading of an answer that is to be stored, apart from the last piece.
pub(crate) const MAX_TIME: Duration = Duration::from_secs(10);

/// What was read.
#[derive(Debug)]
pub(crate) enum Read {
    /// All of it.
    Whole(Bytes),
    /// The beginning; the rest is still to come.
    Beginning(Bytes),
    /// The upstream cut it, or stalled.
    Cut,
}

/// What is kept of an answer to HEAD besides its headers: the length that it names.
pub(crate) fn length_of_head(is_head: bool, size: BodySize) -> Option<KeptHeader> {
    match size {
        BodySize::Sized(length) if is_head => {
            Some((CONTENT_LENGTH.to_string(), length.to_string().into_bytes()))
        }
        _ => None,
    }
}

/// The media type that a head names.
pub(crate) fn media_type_of(head: &hyper::HeaderMap) -> Option<&str> {
    head.get(hyper::header::CONTENT_TYPE)?.to_str().ok()
}

/// Reads up to `max_bytes`, and a piece more.
pub(crate) async fn read(
    head: &hyper::HeaderMap,
    body: &mut Incoming,
    max_bytes: usize,
    idle: IdleLimit,
) -> Read {
    // What was decoded, not what a header says: an answer to HEAD has no body.
    let length = body.size_hint().exact().map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    if is_event_stream(media_type_of(head)) || length.is_some_and(|length| length > max_bytes) {
        return Read::Beginning(Bytes::new());
    }
    let mut bytes = BytesMut::with_capacity(length.unwrap_or(0));
    let deadline = Instant::now() + MAX_TIME;
    loop {
        let until = match idle {
            IdleLimit::UpTo(limit) => deadline.min(Instant::now() + limit),
            IdleLimit::Endless => deadline,
        };
        match tokio::time::timeout_at(until, body.frame()).await {
            Ok(None) => return Read::Whole(bytes.freeze()),
            Ok(Some(Ok(frame))) => {
                // Trailers are not passed on.
                if let Ok(data) = frame.into_data() {
                    bytes.extend_from_slice(&data);
                    if bytes.len() > max_bytes {
                        return Read::Beginning(bytes.freeze());
                    }
                }
            }
            Ok(Some(Err(error))) => {
                tracing::warn!(%error, "the upstream cut its answer before it was charged");
                return Read::Cut;
            }
            // What takes longer is passed on as it comes.
            Err(_) if until == deadline => return Read::Beginning(bytes.freeze()),
            Err(_) => {
                tracing::warn!("the upstream stalled in the middle of its answer before it was charged");
                return Read::Cut;
            }
        }
    }
}
