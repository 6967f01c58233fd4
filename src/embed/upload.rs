//! The caller's body on its way to a handler: bounded in size and time as at the gateway, and watched, because an answer that
//! breaks off while the caller does not send what was announced is not the handler's doing.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::HttpMessage as _;
use actix_web::dev::{Payload, ServiceRequest};
use actix_web::error::PayloadError;
use actix_web::http::header::CONTENT_LENGTH;

use bytes::Bytes;
use futures_util::Stream;
use tokio::time::{Instant, Sleep};

use crate::config::LimitsConfig;
use crate::http::delivery::Upload;
use crate::proxy::upload::{Allowance, UploadFault, UploadProgress};

struct WatchedUpload {
    inner: Payload,
    progress: Arc<UploadProgress>,
    allowance: Allowance,
    /// Since when the caller is waited for, and until when that goes on.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
    has_failed: bool,
}

/// Whether the caller announces more than it may send.
pub(super) fn is_too_large(request: &ServiceRequest, limits: &LimitsConfig) -> bool {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    length.is_some_and(|length: u64| length > limits.max_body_bytes)
}

/// From now on it is known how the caller's body is getting on, and what is too much of it, or too slow, is an error to whoever
/// reads it.
pub(super) fn watch(request: &mut ServiceRequest, limits: &LimitsConfig) -> Upload {
    match request.take_payload() {
        Payload::None => Upload::Nothing,
        inner => {
            let progress = Arc::<UploadProgress>::default();
            let allowance = Allowance::new(limits.max_body_bytes, limits.body_timeout);
            let watched = WatchedUpload {
                inner,
                progress: Arc::clone(&progress),
                allowance,
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
            let until = tokio::time::sleep_until(begun + self.allowance.patience());
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
            self.allowance.waited(begun.elapsed());
        }
        match &polled {
            Poll::Ready(Some(Ok(piece))) => {
                self.progress.received(piece.len());
                if let Err(fault) = self.allowance.came(piece.len()) {
                    self.failed(fault);
                    return Poll::Ready(Some(Err(PayloadError::Overflow)));
                }
            }
            Poll::Ready(Some(Err(_))) => self.failed(UploadFault::Broken),
            Poll::Ready(None) => self.progress.arrived(),
            Poll::Pending => {}
        }
        polled
    }
}
