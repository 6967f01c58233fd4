//! How an answer's body is framed towards the caller. It follows from what was decoded, never from a header beside it: where the
//! two differ, somebody would take a part for the whole, or wait for what does not come. RFC 9112, section 6.

use actix_web::HttpResponse;
use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::ServiceResponse;
use actix_web::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use actix_web::http::{ConnectionType, StatusCode, Version};

/// Statuses whose answers have no body, whatever their headers say.
pub(crate) fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// The size of an answer of the upstream. `decoded`: what its decoded body is long, if that is known before its end. `head`: its
/// headers; a HEAD tells with them how long the answer to GET would be.
pub(crate) fn size_of(
    is_head: bool,
    status: StatusCode,
    decoded: Option<u64>,
    head: &hyper::HeaderMap,
) -> BodySize {
    if is_bodiless(status) {
        return BodySize::None;
    }
    match is_head {
        true => size_of_head(head),
        false => decoded.map_or(BodySize::Stream, BodySize::Sized),
    }
}

/// The size that an answer to HEAD names. It has no body.
pub(crate) fn size_of_head(head: &hyper::HeaderMap) -> BodySize {
    announced(head).map_or(BodySize::None, BodySize::Sized)
}

/// The one length that a head names. A chunked answer has none.
fn announced(head: &hyper::HeaderMap) -> Option<u64> {
    let mut lengths = head.get_all(hyper::header::CONTENT_LENGTH).iter();
    let length = lengths.next().filter(|_| !head.contains_key(hyper::header::TRANSFER_ENCODING))?;
    if lengths.next().is_some() || !length.as_bytes().iter().all(u8::is_ascii_digit) {
        return None;
    }
    length.to_str().ok()?.parse().ok()
}

/// HTTP/1.0 knows no chunks (RFC 9112, section 6.1): a body of unknown length ends with the connection.
pub(crate) fn fit_version<B: MessageBody>(response: &mut HttpResponse<B>, version: Version) {
    if response.body().size() != BodySize::Stream {
        return;
    }
    let head = response.head_mut();
    head.no_chunking(version < Version::HTTP_11);
    if version < Version::HTTP_11 {
        head.set_connection_type(ConnectionType::Close);
    }
    // Without chunks, the server would write them as a handler has set them, whatever comes.
    head.headers_mut().remove(CONTENT_LENGTH);
    head.headers_mut().remove(TRANSFER_ENCODING);
}

/// To a caller who has offered another protocol that nobody took: the server would announce an upgrade, and close all the same.
pub(crate) fn without_upgrade<B>(answered: &mut ServiceResponse<B>) {
    if answered.request().head().upgrade() && answered.status() != StatusCode::SWITCHING_PROTOCOLS {
        answered.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};

    use super::*;

    #[test]
    fn what_was_decoded_decides_and_only_head_believes_a_header() {
        let head = |lengths: &[&'static str], chunked: bool| {
            let mut head = hyper::HeaderMap::new();
            for length in lengths {
                head.append(CONTENT_LENGTH, HeaderValue::from_static(length));
            }
            if chunked {
                head.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            head
        };
        for (is_head, status, decoded, lengths, chunked, size) in [
            (false, 200, Some(5), &["5"] as &[_], false, BodySize::Sized(5)),
            (false, 200, None, &["5"], true, BodySize::Stream),
            (false, 200, None, &[], false, BodySize::Stream),
            (false, 200, Some(0), &[], false, BodySize::Sized(0)),
            (false, 304, Some(0), &["1234"], false, BodySize::None),
            (false, 204, Some(0), &["7"], false, BodySize::None),
            (true, 200, Some(0), &["1234"], false, BodySize::Sized(1234)),
            (true, 200, Some(0), &["0"], false, BodySize::Sized(0)),
            (true, 200, Some(0), &["1234"], true, BodySize::None),
            (true, 200, Some(0), &[], false, BodySize::None),
            (true, 200, Some(0), &["1", "2"], false, BodySize::None),
            (true, 200, Some(0), &["+1"], false, BodySize::None),
            (true, 200, Some(0), &["99999999999999999999999"], false, BodySize::None),
            (true, 304, Some(0), &["1234"], false, BodySize::None),
        ] {
            let status = StatusCode::from_u16(status).unwrap_or_default();
            let found = size_of(is_head, status, decoded, &head(lengths, chunked));
            assert_eq!(found, size, "HEAD {is_head}, {status}, {decoded:?}, {lengths:?}, chunked {chunked}");
        }
    }
}
