//! The caller's body on its way to a handler: bounded in size and time as at the gateway, and watched, because an answer that
//! breaks off while the caller does not send what was announced is not the handler's doing.

use std::io;
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

use crate::config::LimitsConfig;
use crate::http::announced;
use crate::http::delivery::Upload;
use crate::proxy::pace::Patience;
use crate::proxy::upload::{UploadFault, UploadProgress};

struct WatchedUpload {
    inner: Payload,
    progress: Arc<UploadProgress>,
    /// How far behind the caller may be.
    patience: Patience,
    /// Bytes that may still come.
    left: u64,
    /// Since when the caller is waited for, and until when that goes on.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
    has_failed: bool,
}

/// Whether the caller announces more than it may send.
pub(super) fn is_too_large(request: &ServiceRequest, limits: &LimitsConfig) -> bool {
    matches!(announced(request.request()), Ok(Some(length)) if length > limits.max_body_bytes)
}

/// From now on it is known how the caller's body is getting on, and what is too much of it, or too slow, is an error to whoever
/// reads it. `patience`: how far behind it may be.
pub(super) fn watch(request: &mut ServiceRequest, max_bytes: u64, patience: Duration) -> Upload {
    match request.take_payload() {
        Payload::None => Upload::Nothing,
        inner => {
            let progress = Arc::<UploadProgress>::default();
            let watched = WatchedUpload {
                inner,
                progress: Arc::clone(&progress),
                patience: Patience::steady(patience),
                left: max_bytes,
                waiting: None,
                has_failed: false,
            };
            let watched: Pin<Box<dyn Stream<Item = Result<Bytes, PayloadError>>>> = Box::pin(watched);
            request.set_payload(Payload::from(watched));
            Upload::Handed(progress)
        }
    }
}

impl WatchedUpload {
    /// The caller may not be waited for any longer.
    fn is_late(&mut self, context: &mut Context<'_>) -> bool {
        if self.waiting.is_none() {
            self.progress.waiting();
            let begun = Instant::now();
            let until = tokio::time::sleep_until(begun + self.patience.left());
            self.waiting = Some((begun, Box::pin(until)));
        }
        self.waiting.as_mut().is_some_and(|(_, until)| until.as_mut().poll(context).is_ready())
    }

    fn failed(&mut self, fault: UploadFault) {
        self.progress.failed(fault);
        self.has_failed = true;
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
        if self.has_failed {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut self.inner).poll_next(context);
        if polled.is_pending() {
            if !self.is_late(context) {
                return Poll::Pending;
            }
            self.failed(UploadFault::TooSlow);
            return Poll::Ready(Some(Err(PayloadError::Io(io::ErrorKind::TimedOut.into()))));
        }
        if let Some((begun, _)) = self.waiting.take() {
            self.patience.waited(begun.elapsed());
        }
        match &polled {
            Poll::Ready(Some(Ok(piece))) => {
                self.patience.received(piece.len());
                self.progress.received(piece.len());
                let left = u64::try_from(piece.len()).ok().and_then(|bytes| self.left.checked_sub(bytes));
                let Some(left) = left else {
                    self.failed(UploadFault::TooLarge);
                    return Poll::Ready(Some(Err(PayloadError::Overflow)));
                };
                self.left = left;
            }
            Poll::Ready(Some(Err(_))) => self.failed(UploadFault::Broken),
            Poll::Ready(None) => self.progress.arrived(),
            Poll::Pending => {}
        }
        polled
    }
}
