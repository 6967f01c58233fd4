//! A charged answer of a handler on its way to the caller: watched, because one that breaks off is given back.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::http::header::{CONTENT_TYPE, HeaderMap};
use bytes::{Bytes, BytesMut};

use crate::http::delivery::{Delivery, first_of};
use crate::http::kept_answer::MAX_TIME;
use crate::http::record_stream::is_event_stream;

/// The body, after what was read of it already.
pub(super) struct WatchedBody {
    beginning: Option<Bytes>,
    inner: BoxBody,
    size: BodySize,
    is_head: bool,
    /// Handed over so far.
    sent: u64,
    delivery: Option<Delivery>,
    /// The handler's body has broken off; said on the next poll.
    broken: Option<Box<dyn std::error::Error>>,
}

impl WatchedBody {
    pub(super) fn new(read: ReadBody, is_head: bool, delivery: Delivery) -> Self {
        let ReadBody { beginning, rest, size, .. } = read;
        let beginning = Some(beginning).filter(|bytes| !bytes.is_empty());
        let mut body =
            Self { beginning, inner: rest, size, is_head, sent: 0, delivery: Some(delivery), broken: None };
        if is_head || matches!(size, BodySize::None | BodySize::Sized(0)) {
            body.finished();
        }
        body
    }

    /// The server throws away what it has not flushed when a body fails; the head, with the caller's clientId in it, goes out
    /// first.
    fn cut(
        &mut self,
        error: Box<dyn std::error::Error>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Box<dyn std::error::Error>>>> {
        if let Some(delivery) = self.delivery.take() {
            delivery.broke_off();
        }
        self.broken = Some(error);
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// What is longer than announced is no whole answer either: the server would send its beginning as if it were all.
    fn hand_over(
        &mut self,
        piece: Bytes,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Box<dyn std::error::Error>>>> {
        let sent = self.sent.saturating_add(piece.len() as u64);
        if matches!(self.size, BodySize::Sized(size) if sent > size) {
            return self.cut(OtherLength.into(), context);
        }
        let (piece, rest) = first_of(piece);
        self.beginning = rest;
        self.sent = self.sent.saturating_add(piece.len() as u64);
        if let Some(delivery) = &mut self.delivery {
            delivery.handed_over(piece.len());
        }
        Poll::Ready(Some(Ok(piece)))
    }

    /// Delivered, or not to be delivered: an answer to HEAD goes out without its body, whatever becomes of that.
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
        if self.is_head {
            return Poll::Ready(None);
        }
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        if let Some(delivery) = &mut self.delivery {
            delivery.asked();
        }
        if let Some(beginning) = self.beginning.take() {
            return self.hand_over(beginning, context);
        }
        loop {
            match Pin::new(&mut self.inner).poll_next(context) {
                Poll::Ready(Some(Err(error))) => return self.cut(error, context),
                Poll::Ready(None) if is_short(self.size, self.sent) => {
                    return self.cut(OtherLength.into(), context);
                }
                Poll::Ready(None) => {
                    self.finished();
                    return Poll::Ready(None);
                }
                // The server would take an empty piece for the end, and what follows would be lost.
                Poll::Ready(Some(Ok(piece))) if piece.is_empty() => {}
                Poll::Ready(Some(Ok(piece))) => return self.hand_over(piece, context),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// The handler's body is shorter or longer than it said.
#[derive(Debug, thiserror::Error)]
#[error("the body has another length than it had announced")]
struct OtherLength;

fn is_short(size: BodySize, bytes: u64) -> bool {
    matches!(size, BodySize::Sized(size) if bytes < size)
}

impl Drop for WatchedBody {
    fn drop(&mut self) {
        // The server does not ask for the end of a body of a known length. One that was not handed over whole ends here too:
        // a caller who has hung up stays charged; what the process itself cuts stays noted.
        if matches!(self.size, BodySize::Sized(size) if self.sent >= size) {
            self.finished();
        }
    }
}

/// A body, as far as it was read.
pub(super) struct ReadBody {
    pub(super) beginning: Bytes,
    rest: BoxBody,
    pub(super) size: BodySize,
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
        is_head: bool,
        max_bytes: usize,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let mut read = Self::unread(body);
        let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_large = matches!(read.size, BodySize::Sized(size) if usize::try_from(size).unwrap_or(usize::MAX) > max_bytes);
        if is_large || is_event_stream(media_type) {
            return Ok(read);
        }
        let mut bytes = BytesMut::new();
        let deadline = tokio::time::Instant::now() + MAX_TIME;
        loop {
            let next = std::future::poll_fn(|context| Pin::new(&mut read.rest).poll_next(context));
            // What takes longer is passed on as it comes.
            let Ok(next) = tokio::time::timeout_at(deadline, next).await else { break };
            match next {
                // HEAD may announce a length that does not come.
                None if is_short(read.size, bytes.len() as u64) && !is_head => return Err(OtherLength.into()),
                None => {
                    read.is_whole = true;
                    // Not asked again: some bodies panic when they are polled after their end.
                    read.rest = BoxBody::new(());
                    if !is_head {
                        read.size = BodySize::Sized(bytes.len() as u64);
                    }
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
