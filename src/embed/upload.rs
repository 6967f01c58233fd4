//! The caller's body on its way to a handler: watched, because an answer that breaks off while the caller does not send what was
//! announced is not the handler's doing. One that trickles ends with an error, so that a handler does not wait for ever.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::HttpMessage as _;
use actix_web::dev::{Payload, ServiceRequest};
use actix_web::error::PayloadError;

use bytes::Bytes;
use futures_util::Stream;
use tokio::time::{Instant, Sleep};

use crate::http::delivery::Upload;
use crate::proxy::pace::Patience;
use crate::proxy::upload::{UploadFault, UploadProgress};

struct WatchedUpload {
    inner: Payload,
    progress: Arc<UploadProgress>,
    patience: Patience,
    /// The handler waits since then, and up to the end of the timer.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

/// From now on it is known how the caller's body is getting on. `patience`: how far behind it may be.
pub(super) fn watch(request: &mut ServiceRequest, patience: Duration) -> Upload {
    match request.take_payload() {
        Payload::None => Upload::Nothing,
        inner => {
            let progress = Arc::<UploadProgress>::default();
            let patience = Patience::steady(patience);
            let watched = WatchedUpload { inner, progress: Arc::clone(&progress), patience, waiting: None };
            let watched: Pin<Box<dyn Stream<Item = Result<Bytes, PayloadError>>>> = Box::pin(watched);
            request.set_payload(Payload::from(watched));
            Upload::Handed(progress)
        }
    }
}

impl Drop for WatchedUpload {
    fn drop(&mut self) {
        if self.waiting.is_some() {
            self.progress.not_wanted();
        }
    }
}

impl Stream for WatchedUpload {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.inner).poll_next(context);
        if polled.is_ready()
            && let Some((since, _)) = this.waiting.take()
        {
            this.patience.waited(since.elapsed());
        }
        match &polled {
            Poll::Pending => {
                let (progress, left) = (&this.progress, this.patience.left());
                let (_, timer) = this.waiting.get_or_insert_with(|| {
                    progress.waiting();
                    (Instant::now(), Box::pin(tokio::time::sleep(left)))
                });
                if timer.as_mut().poll(context).is_ready() {
                    this.progress.failed(UploadFault::TooSlow);
                    return Poll::Ready(Some(Err(PayloadError::Io(std::io::ErrorKind::TimedOut.into()))));
                }
            }
            Poll::Ready(Some(Ok(piece))) => {
                this.patience.received(piece.len());
                this.progress.received(piece.len());
            }
            Poll::Ready(Some(Err(_))) => this.progress.failed(UploadFault::Broken),
            Poll::Ready(None) => this.progress.arrived(),
        }
        polled
    }
}
