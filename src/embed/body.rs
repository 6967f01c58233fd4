//! A charged answer of a handler on its way to the caller: watched, because one that breaks off is given back.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::http::header::{CONTENT_TYPE, HeaderMap};
use bytes::{Bytes, BytesMut};

use crate::http::gateway_body::Delivery;

/// The body, after what was read of it already.
pub(super) struct WatchedBody {
    beginning: Option<Bytes>,
    inner: BoxBody,
    size: BodySize,
    delivery: Option<Delivery>,
    /// The handler's body has broken off; said on the next poll.
    broken: Option<Box<dyn std::error::Error>>,
}

impl WatchedBody {
    pub(super) fn new(read: ReadBody, delivery: Delivery) -> Self {
        let ReadBody { beginning, rest, size, .. } = read;
        let beginning = Some(beginning).filter(|bytes| !bytes.is_empty());
        let mut body = Self { beginning, inner: rest, size, delivery: Some(delivery), broken: None };
        if matches!(size, BodySize::None | BodySize::Sized(0)) {
            body.finished();
        }
        body
    }

    fn finished(&mut self) {
        if let Some(delivery) = self.delivery.take() {
            delivery.finish();
        }
    }
}

impl MessageBody for WatchedBody {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        if let Some(beginning) = self.beginning.take() {
            return Poll::Ready(Some(Ok(beginning)));
        }
        match Pin::new(&mut self.inner).poll_next(context) {
            Poll::Ready(Some(Err(error))) => {
                if let Some(delivery) = self.delivery.take() {
                    delivery.cut();
                }
                // The server throws away what it has not flushed when a body fails; the head, with the caller's clientId in
                // it, goes out first.
                self.broken = Some(error);
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(None) => {
                self.finished();
                Poll::Ready(None)
            }
            other => other,
        }
    }
}

impl Drop for WatchedBody {
    fn drop(&mut self) {
        // The server does not ask for the end of a body of a known length. Whoever has hung up before stays charged, so both
        // are the same here; only a broken body is given back.
        self.finished();
    }
}

/// A body, as far as it was read.
pub(super) struct ReadBody {
    pub(super) beginning: Bytes,
    rest: BoxBody,
    size: BodySize,
    /// `beginning` is all.
    pub(super) is_whole: bool,
}

impl ReadBody {
    pub(super) fn unread(body: BoxBody) -> Self {
        let size = body.size();
        Self { beginning: Bytes::new(), rest: body, size, is_whole: false }
    }

    /// Reads up to `max_bytes` and a piece more, so that it can be stored. A stream of events is not waited for.
    ///
    /// # Errors
    /// What the body said.
    pub(super) async fn read(
        body: BoxBody,
        headers: &HeaderMap,
        max_bytes: usize,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let mut read = Self::unread(body);
        let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_large = matches!(read.size, BodySize::Sized(size) if usize::try_from(size).unwrap_or(usize::MAX) > max_bytes);
        if is_large || media_type.to_ascii_lowercase().starts_with("text/event-stream") {
            return Ok(read);
        }
        let mut bytes = BytesMut::new();
        loop {
            let next = std::future::poll_fn(|context| Pin::new(&mut read.rest).poll_next(context)).await;
            match next {
                None => {
                    read.is_whole = true;
                    break;
                }
                Some(piece) => bytes.extend_from_slice(&piece?),
            }
            if bytes.len() > max_bytes {
                break;
            }
        }
        read.beginning = bytes.freeze();
        Ok(read)
    }
}
