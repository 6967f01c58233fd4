//! The upstream's answer on its way to the caller: streamed piece by piece, and watched, because a charged answer that the
//! upstream cuts off is given back.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, Sleep};

use super::reversals::Reversals;
use crate::domain::RequestId;
use crate::ledger::{ClientId, EntryId, Posted};

/// The part of a capture that ends with the delivery of its answer. Dropped without a word: the caller has gone, and stays
/// charged.
#[derive(Debug)]
pub(crate) struct Delivery {
    reversals: Reversals,
    request: RequestId,
    client: ClientId,
    entry: EntryId,
    /// The gateway itself is cutting connections: what is not delivered then stays noted, and is given back at restart.
    closing: Arc<AtomicBool>,
    done: bool,
}

impl Delivery {
    pub(crate) fn new(
        reversals: &Reversals,
        closing: &Arc<AtomicBool>,
        request: RequestId,
        captured: &Posted,
    ) -> Self {
        Self {
            reversals: reversals.clone(),
            request,
            client: captured.client,
            entry: captured.entry,
            closing: Arc::clone(closing),
            done: false,
        }
    }

    pub(crate) fn finish(mut self) {
        self.done = true;
        self.reversals.ledger().delivered(self.entry);
    }

    pub(crate) fn cut(mut self) {
        self.done = true;
        self.reversals.give_back(self.request, self.client, self.entry);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.done && !self.closing.load(Ordering::Relaxed) {
            self.reversals.ledger().delivered(self.entry);
        }
    }
}

/// The body. Errors close the connection uncleanly, so that no caller takes a part for the whole.
#[derive(Debug)]
pub(crate) struct GatewayBody {
    /// Read already; goes out first.
    beginning: Option<Bytes>,
    /// `None`: what was read is all.
    inner: Option<Incoming>,
    size: BodySize,
    idle_timeout: Duration,
    idle: Option<Pin<Box<Sleep>>>,
    delivery: Option<Delivery>,
    /// The upstream has cut the answer; said on the next poll.
    is_cut: bool,
}

/// The upstream cut its answer.
#[derive(Debug, thiserror::Error)]
#[error("the API behind the gateway cut its answer")]
pub(crate) struct UpstreamCut;

impl GatewayBody {
    /// The upstream's body, after what was read of it already.
    pub(crate) fn new(
        beginning: Bytes,
        inner: Incoming,
        length: Option<u64>,
        idle_timeout: Duration,
        delivery: Option<Delivery>,
    ) -> Self {
        let size = length.map_or(BodySize::Stream, BodySize::Sized);
        let beginning = Some(beginning).filter(|bytes| !bytes.is_empty());
        Self { beginning, inner: Some(inner), size, idle_timeout, idle: None, delivery, is_cut: false }
    }

    /// A body that is here already. `is_head`: the answer to HEAD, which has none.
    pub(crate) fn whole(bytes: Bytes, is_head: bool, delivery: Option<Delivery>) -> Self {
        let size = if is_head { BodySize::None } else { BodySize::Sized(bytes.len() as u64) };
        let beginning = Some(bytes).filter(|bytes| !bytes.is_empty());
        let idle_timeout = Duration::ZERO;
        Self { beginning, inner: None, size, idle_timeout, idle: None, delivery, is_cut: false }
    }

    fn finished(&mut self) {
        if let Some(delivery) = self.delivery.take() {
            delivery.finish();
        }
    }

    /// Gives the capture back at once. The error itself waits for one more poll, because the server throws away what it has
    /// not flushed yet: the head, with the caller's clientId in it, goes out first.
    fn cut(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamCut>>> {
        if let Some(delivery) = self.delivery.take() {
            delivery.cut();
        }
        self.is_cut = true;
        context.waker().wake_by_ref();
        Poll::Pending
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
        if let Some(beginning) = self.beginning.take() {
            return Poll::Ready(Some(Ok(beginning)));
        }
        loop {
            let Some(inner) = &mut self.inner else {
                self.finished();
                return Poll::Ready(None);
            };
            match Pin::new(inner).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.idle = None;
                    // Trailers are not passed on.
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    tracing::warn!(%error, "the upstream cut its answer");
                    return self.cut(context);
                }
                Poll::Ready(None) => {
                    self.finished();
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    // Counted only while we wait for the upstream: a caller who reads slowly does not get here.
                    let limit = self.idle_timeout;
                    let idle = self
                        .idle
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + limit)));
                    if std::future::Future::poll(idle.as_mut(), context).is_ready() {
                        tracing::warn!("the upstream stalled in the middle of its answer");
                        return self.cut(context);
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
    }
}
