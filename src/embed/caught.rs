//! Panics of what is sold, caught where they happen: the request then ends as one that its handler has broken, and its payer is
//! told so. A program that is built with `panic = "abort"` ends instead, and the next start gives back what was not delivered.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::Bytes;

/// A handler, its body, or what is around it inside its price has panicked. What it said is not kept: it may be anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it panicked")]
pub(super) struct Panicked;

impl From<Box<dyn Any + Send>> for Panicked {
    fn from(_: Box<dyn Any + Send>) -> Self {
        Self
    }
}

fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    // Whatever is half done afterwards is dropped, or belongs to the handler, which knows that it may panic.
    catch_unwind(AssertUnwindSafe(work)).map_err(Panicked::from)
}

/// Drops it, whatever that does.
fn dropped<T>(value: T) {
    if caught(|| drop(value)).is_err() {
        tracing::error!("something of a handler panicked when it was dropped");
    }
}

/// Runs it to its end, or to its panic.
pub(super) async fn until_panic<F: Future>(work: F) -> Result<F::Output, Panicked> {
    let mut work = pin!(Some(work));
    let ended = poll_fn(|context| match work.as_mut().as_pin_mut() {
        None => Poll::Ready(Err(Panicked)),
        Some(work) => match caught(|| work.poll(context)) {
            Ok(polled) => polled.map(Ok),
            Err(panicked) => Poll::Ready(Err(panicked)),
        },
    });
    let ended = ended.await;
    if caught(|| work.set(None)).is_err() {
        tracing::error!("a handler panicked when it was dropped");
    }
    ended
}

/// A handler's body. After a panic nothing is asked of it.
pub(super) struct HandlersBody(Option<BoxBody>);

impl HandlersBody {
    pub(super) fn new(body: BoxBody) -> Self {
        Self(Some(body))
    }

    /// All of it is here already.
    pub(super) fn ended() -> Self {
        Self(None)
    }

    /// How long it says that it is.
    ///
    /// # Errors
    /// [`Panicked`].
    pub(super) fn size(&self) -> Result<BodySize, Panicked> {
        self.0.as_ref().map_or(Ok(BodySize::None), |body| caught(|| body.size()))
    }

    pub(super) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Box<dyn std::error::Error>>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        caught(|| Pin::new(body).poll_next(context)).unwrap_or_else(|panicked| {
            self.end();
            Poll::Ready(Some(Err(panicked.into())))
        })
    }

    fn end(&mut self) {
        if let Some(body) = self.0.take() {
            dropped(body);
        }
    }
}

impl Drop for HandlersBody {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// Panics when it is polled, when it is dropped, or both.
    struct Bad {
        polled: bool,
        dropped: bool,
    }

    impl Future for Bad {
        type Output = u8;

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<u8> {
            assert!(!self.polled, "on purpose");
            Poll::Ready(7)
        }
    }

    impl Drop for Bad {
        fn drop(&mut self) {
            assert!(!self.dropped, "on purpose");
        }
    }

    #[tokio::test]
    async fn a_panic_ends_the_work_and_nothing_else() {
        assert_eq!(until_panic(async { 7 }).await, Ok(7));
        assert_eq!(until_panic(Bad { polled: false, dropped: true }).await, Ok(7), "it had ended");
        assert_eq!(until_panic(Bad { polled: true, dropped: false }).await, Err(Panicked));
        assert_eq!(until_panic(Bad { polled: true, dropped: true }).await, Err(Panicked));
        let late = async {
            tokio::task::yield_now().await;
            panic!("on purpose")
        };
        assert_eq!(until_panic(late).await, Err::<(), _>(Panicked));
    }
}
