//! A charged answer of a handler on its way to the caller: watched, because one that breaks off is given back.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::http::header::{CONTENT_TYPE, HeaderMap};
use bytes::{Bytes, BytesMut};

use super::caught::{HandlersBody, Panicked};
use super::departures;
use crate::http::delivery::{Delivery, first_of};
use crate::http::kept_answer::MAX_TIME;
use crate::http::record_stream::is_event_stream;

/// Whether an answer has been given to what is outside of its price: the server, or middleware of the application.
pub(super) type HandedOut = Rc<Cell<bool>>;

/// The body, after what was read of it already.
pub(super) struct WatchedBody {
    beginning: Option<Bytes>,
    inner: HandlersBody,
    size: BodySize,
    is_head: bool,
    /// It is stored, and can be fetched with its key whatever becomes of it here.
    is_kept: bool,
    /// Handed over so far.
    sent: u64,
    delivery: Option<Delivery>,
    /// The handler's body has broken off; said on the next poll.
    broken: Option<Box<dyn std::error::Error>>,
    handed_out: HandedOut,
    /// The server has begun to send it.
    is_taken: Cell<bool>,
}

impl WatchedBody {
    pub(super) fn new(
        read: ReadBody,
        is_head: bool,
        delivery: Option<Delivery>,
        handed_out: HandedOut,
    ) -> Self {
        let ReadBody { beginning, rest, size, is_whole } = read;
        let beginning = Some(beginning).filter(|bytes| !bytes.is_empty());
        Self {
            beginning,
            inner: rest,
            size,
            is_head,
            is_kept: is_whole,
            sent: 0,
            delivery,
            broken: None,
            handed_out,
            is_taken: Cell::new(false),
        }
    }

    /// The server throws away what it has not flushed when a body fails; the head, with the caller's clientId in it, goes out
    /// first.
    fn cut(
        &mut self,
        error: Box<dyn std::error::Error>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Box<dyn std::error::Error>>>> {
        if let Some(delivery) = self.delivery.take() {
            if error.is::<Panicked>() {
                tracing::error!(request.id = %delivery.request(), "the body of a handler's answer has panicked");
            }
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

    fn finished(&mut self) {
        if let Some(delivery) = self.delivery.take() {
            delivery.finish();
        }
    }

    /// Whether nothing more is to be sent. An answer to HEAD goes out without its body, whatever becomes of that, and the server
    /// does not ask for the end of a body of a known length.
    fn is_over(&self) -> bool {
        self.is_head
            || match self.size {
                BodySize::None => true,
                BodySize::Sized(size) => self.sent >= size,
                BodySize::Stream => false,
            }
    }

    fn note_that_it_is_taken(&self) {
        if self.handed_out.get() {
            self.is_taken.set(true);
        }
    }

    /// Middleware outside of the price has thrown the answer away, with an error, a panic or an answer of its own.
    fn is_thrown_away(&self) -> bool {
        std::thread::panicking() || (self.handed_out.get() && !self.is_taken.get())
    }
}

impl MessageBody for WatchedBody {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        // The first thing that the server asks.
        self.note_that_it_is_taken();
        self.size
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.note_that_it_is_taken();
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
            match self.inner.poll_next(context) {
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
        let Some(delivery) = self.delivery.take() else { return };
        if self.is_kept {
            delivery.finish();
        } else if self.is_thrown_away() {
            delivery.broke_off();
        } else if self.is_over() {
            delivery.finish();
        } else {
            departures::leave(delivery);
        }
    }
}

/// A body, as far as it was read.
pub(super) struct ReadBody {
    pub(super) beginning: Bytes,
    rest: HandlersBody,
    pub(super) size: BodySize,
    /// `beginning` is all, and is stored.
    pub(super) is_whole: bool,
}

impl ReadBody {
    /// Nothing of it.
    ///
    /// # Errors
    /// It panicked.
    pub(super) fn unread(body: BoxBody) -> Result<Self, Box<dyn std::error::Error>> {
        let rest = HandlersBody::new(body);
        let size = rest.size()?;
        Ok(Self { beginning: Bytes::new(), rest, size, is_whole: false })
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
        let mut read = Self::unread(body)?;
        let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_large = matches!(read.size, BodySize::Sized(size) if usize::try_from(size).unwrap_or(usize::MAX) > max_bytes);
        if is_large || is_event_stream(media_type) {
            return Ok(read);
        }
        let mut bytes = BytesMut::new();
        let deadline = tokio::time::Instant::now() + MAX_TIME;
        loop {
            let next = std::future::poll_fn(|context| read.rest.poll_next(context));
            // What takes longer is passed on as it comes.
            let Ok(next) = tokio::time::timeout_at(deadline, next).await else { break };
            match next {
                // HEAD may announce a length that does not come.
                None if is_short(read.size, bytes.len() as u64) && !is_head => return Err(OtherLength.into()),
                None => {
                    read.is_whole = true;
                    // Not asked again: some bodies panic when they are polled after their end.
                    read.rest = HandlersBody::ended();
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
