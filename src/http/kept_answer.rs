//! The upstream's answer to a request with an `Idempotency-Key`, read before it is charged, so that it can be stored with the
//! charge. One that is larger than what is kept, or a stream of events, is passed on as it comes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::Instant;

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

/// Whether an answer of this media type may be a stream without an end.
pub(crate) fn is_event_stream(media_type: Option<&str>) -> bool {
    media_type.is_some_and(|text| text.trim_start().to_ascii_lowercase().starts_with("text/event-stream"))
}

/// Reads up to `max_bytes`, and a piece more.
pub(crate) async fn read(
    head: &hyper::HeaderMap,
    body: &mut Incoming,
    max_bytes: usize,
    idle_timeout: Duration,
) -> Read {
    let length = head
        .get(hyper::header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse::<usize>().ok());
    let media_type = head.get(hyper::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if is_event_stream(media_type) || length.is_some_and(|length| length > max_bytes) {
        return Read::Beginning(Bytes::new());
    }
    let mut bytes = BytesMut::with_capacity(length.unwrap_or(0));
    let deadline = Instant::now() + MAX_TIME;
    loop {
        // What takes longer is passed on as it comes.
        if Instant::now() >= deadline {
            return Read::Beginning(bytes.freeze());
        }
        match tokio::time::timeout(idle_timeout, body.frame()).await {
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
            Err(_) => {
                tracing::warn!("the upstream stalled in the middle of its answer before it was charged");
                return Read::Cut;
            }
        }
    }
}
