//! The caller's body on its way to a handler: watched, because an answer that breaks off while the caller does not send what was
//! announced is not the handler's doing.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::HttpMessage as _;
use actix_web::dev::{Payload, ServiceRequest};
use actix_web::error::PayloadError;

use bytes::Bytes;
use futures_util::Stream;

use crate::http::delivery::Upload;
use crate::proxy::upload::{UploadFault, UploadProgress};

struct WatchedUpload {
    inner: Payload,
    progress: Arc<UploadProgress>,
    is_waiting: bool,
}

/// From now on it is known how the caller's body is getting on.
pub(super) fn watch(request: &mut ServiceRequest) -> Upload {
    match request.take_payload() {
        Payload::None => Upload::Nothing,
        inner => {
            let progress = Arc::<UploadProgress>::default();
            let watched = WatchedUpload { inner, progress: Arc::clone(&progress), is_waiting: false };
            let watched: Pin<Box<dyn Stream<Item = Result<Bytes, PayloadError>>>> = Box::pin(watched);
            request.set_payload(Payload::from(watched));
            Upload::Handed(progress)
        }
    }
}

impl Drop for WatchedUpload {
    fn drop(&mut self) {
        if self.is_waiting {
            self.progress.not_wanted();
        }
    }
}

impl Stream for WatchedUpload {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = Pin::new(&mut self.inner).poll_next(context);
        match &polled {
            Poll::Pending if self.is_waiting => {}
            Poll::Pending => self.progress.waiting(),
            Poll::Ready(Some(Ok(piece))) => self.progress.received(piece.len()),
            Poll::Ready(Some(Err(_))) => self.progress.failed(UploadFault::Broken),
            Poll::Ready(None) => self.progress.arrived(),
        }
        self.is_waiting = polled.is_pending();
        polled
    }
}
