//! The upstream's answer on its way to the caller: streamed piece by piece, and watched, because a charged answer that the
//! upstream cuts off is given back.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, Sleep};

use super::delivery::{Delivery, first_of};
use crate::config::IdleLimit;
use crate::crowd::Standing;
use crate::proxy::pace::PAUSE;

/// The body. Errors close the connection uncleanly, so that no caller takes a part for the whole.
#[derive(Debug)]
pub(crate) struct GatewayBody {
    /// Here already; goes out first.
    beginning: Option<Bytes>,
    /// `None`: what was read is all.
    inner: Option<Incoming>,
    size: BodySize,
    idle: Idle,
    delivery: Option<Delivery>,
    /// The place of its request, which it gives back at its end.
    standing: Option<Standing>,
    /// The upstream has cut the answer; said on the next poll.
    is_cut: bool,
}

/// How long the upstream may be silent in the middle of its answer.
#[derive(Debug)]
struct Idle {
    limit: IdleLimit,
    timer: Option<Pin<Box<Sleep>>>,
    /// The upstream is waited for.
    since: Option<Instant>,
    /// Its pieces are whole by themselves, and it may pause for as long as it likes.
    is_stream: bool,
    has_delivered: bool,
}

/// The upstream cut its answer.
#[derive(Debug, thiserror::Error)]
#[error("the API behind the gateway cut its answer")]
pub(crate) struct UpstreamCut;

impl GatewayBody {
    /// The upstream's body, after what was read of it already. `is_stream`: see [`is_stream_of_records`](super::record_stream::is_stream_of_records).
    pub(crate) fn new(
        beginning: Bytes,
        inner: Incoming,
        size: BodySize,
        limit: IdleLimit,
        is_stream: bool,
        delivery: Option<Delivery>,
    ) -> Self {
        let beginning = Some(beginning).filter(|bytes| !bytes.is_empty());
        let idle = Idle { limit, timer: None, since: None, is_stream, has_delivered: beginning.is_some() };
        Self { beginning, inner: Some(inner), size, idle, delivery, standing: None, is_cut: false }
    }

    /// Keeps the request's place until the end.
    pub(crate) fn standing(mut self, standing: Standing) -> Self {
        self.standing = Some(standing);
        self
    }

    /// A body that is here already.
    pub(crate) fn whole(bytes: Bytes, size: BodySize, delivery: Option<Delivery>) -> Self {
        let beginning = Some(bytes).filter(|bytes| !bytes.is_empty());
        let idle = Idle {
            limit: IdleLimit::Endless,
            timer: None,
            since: None,
            is_stream: false,
            has_delivered: false,
        };
        Self { beginning, inner: None, size, idle, delivery, standing: None, is_cut: false }
    }

    fn finished(&mut self) {
        if let Some(delivery) = self.delivery.take() {
            delivery.finish();
        }
    }

    /// Settles the capture at once. The error itself waits for one more poll, because the server throws away what it has
    /// not flushed yet: the head, with the caller's clientId in it, goes out first.
    fn cut(
        &mut self,
        context: &mut Context<'_>,
        settle: impl FnOnce(Delivery),
    ) -> Poll<Option<Result<Bytes, UpstreamCut>>> {
        self.delivery.take().map(settle);
        self.is_cut = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn hand_over(&mut self, piece: Bytes) -> Poll<Option<Result<Bytes, UpstreamCut>>> {
        let (piece, rest) = first_of(piece);
        self.beginning = rest;
        if let Some(delivery) = &mut self.delivery {
            delivery.handed_over(piece.len());
        }
        Poll::Ready(Some(Ok(piece)))
    }
}

impl MessageBody for GatewayBody {
    type Error = UpstreamCut;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, UpstreamCut>>> {
        if self.is_cut {
            return Poll::Ready(Some(Err(UpstreamCut)));
        }
        if let Some(delivery) = &mut self.delivery {
            delivery.asked();
        }
        if let Some(beginning) = self.beginning.take() {
            return self.hand_over(beginning);
        }
        loop {
            let Some(inner) = &mut self.inner else {
                self.finished();
                return Poll::Ready(None);
            };
            match Pin::new(inner).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.idle.timer = None;
                    let waited = self.idle.since.take().is_some_and(|since| since.elapsed() >= PAUSE);
                    if let Some(delivery) = self.delivery.as_mut().filter(|_| waited) {
                        delivery.api_lives();
                    }
                    // Trailers are not passed on, nor are empty pieces: the server would take one for the end.
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        self.idle.has_delivered = true;
                        return self.hand_over(data);
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    tracing::warn!(%error, "the upstream cut its answer");
                    return self.cut(context, Delivery::broke_off);
                }
                Poll::Ready(None) => {
                    self.finished();
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    // Counted only while we wait for the upstream: a caller who reads slowly does not get here.
                    let idle = &mut self.idle;
                    idle.since.get_or_insert_with(Instant::now);
                    let IdleLimit::UpTo(limit) = idle.limit else { return Poll::Pending };
                    let until = || Box::pin(tokio::time::sleep_until(Instant::now() + limit));
                    if std::future::Future::poll(idle.timer.get_or_insert_with(until).as_mut(), context)
                        .is_ready()
                    {
                        tracing::warn!("the upstream stalled in the middle of its answer");
                        let has_served = idle.is_stream && idle.has_delivered;
                        let settle = if has_served { Delivery::fell_silent } else { Delivery::broke_off };
                        return self.cut(context, settle);
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

impl Drop for GatewayBody {
    fn drop(&mut self) {
        // An answer without a body, or whose last piece has been handed over, is delivered although nobody asked for the
        // end: HEAD, 204, 304, and bodies of a known length.
        if self.beginning.is_none() && self.inner.as_ref().is_none_or(hyper::body::Body::is_end_stream) {
            self.finished();
        }
        // Before the upstream's connection ends with `inner`, so that whoever sees it end finds this settled.
        drop(self.delivery.take());
    }
}
