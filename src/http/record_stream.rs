//! Answers that are streams of events or records: each piece is whole by itself, and there may be no end.

use actix_web::http::header::{HeaderName, HeaderValue};

/// Media types of streams that may have no end: each piece is whole by itself.
const STREAMS: [&str; 7] = [
    "text/event-stream",
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/json-seq",
    "application/stream+json",
    "multipart/x-mixed-replace",
];

/// nginx, and what has learnt it from nginx, collects an answer before it passes it on, unless the answer says `no` here.
pub(crate) const X_ACCEL_BUFFERING: &str = "x-accel-buffering";

/// Whether an answer of this media type is passed on as it comes and never kept: whoever reads it waits for each event.
pub(crate) fn is_event_stream(media_type: Option<&str>) -> bool {
    essence(media_type).eq_ignore_ascii_case("text/event-stream")
}

fn essence(media_type: Option<&str>) -> &str {
    media_type.unwrap_or_default().split(';').next().unwrap_or_default().trim()
}

/// Whether an answer of this media type may be a stream without an end.
pub(crate) fn is_stream_of_records(media_type: Option<&str>) -> bool {
    let essence = essence(media_type);
    STREAMS.iter().any(|known| known.eq_ignore_ascii_case(essence))
}

/// What has proxies in front pass a stream on as it comes. What an answer says about it itself is not changed.
pub(crate) fn unbuffered() -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(X_ACCEL_BUFFERING), HeaderValue::from_static("no"))
}
