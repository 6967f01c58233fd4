//! Where money work runs: on the process's own runtime, never on a server worker's, which ends with its connections.
//!
//! What is spawned or run here cannot be cancelled by a caller who hangs up, and shutdown waits for it.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Spawns and counts money work. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MoneyWork {
    tracker: TaskTracker,
    runtime: Handle,
}

impl MoneyWork {
    /// Work for the runtime that this is called on.
    ///
    /// # Panics
    /// Outside of a runtime.
    #[must_use]
    pub fn on_this_runtime() -> Self {
        Self { tracker: TaskTracker::new(), runtime: Handle::current() }
    }

    /// Starts work that goes on whoever waits for it.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn_on(work, &self.runtime)
    }

    /// The same without a task, as long as somebody waits: the work is done where it is waited for, which saves two changes of
    /// threads. Whoever stops waiting leaves it to a task. Its timers and connections belong to the process's runtime from
    /// the beginning.
    pub fn run<F>(&self, work: F) -> Running<F>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        Running { work: Some(Box::pin(work)), _counted: self.tracker.token(), place: self.clone() }
    }

    /// Waits for all work to end. `false`: some was still running when the time was over.
    pub async fn finish(&self, within: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(within, self.tracker.wait()).await.is_ok()
    }
}

/// Work that [`MoneyWork::run`] has begun.
#[derive(Debug)]
#[must_use = "it runs while it is waited for, or after it was dropped"]
pub struct Running<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    /// `None`: it has ended.
    work: Option<Pin<Box<F>>>,
    /// Counts by being there, until after the task that goes on has been counted.
    _counted: TaskTrackerToken,
    place: MoneyWork,
}

/// The work ended by a panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the work has panicked")]
pub struct Panicked;

impl<F> Future for Running<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    type Output = Result<F::Output, Panicked>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(work) = this.work.as_mut() else {
            return Poll::Ready(Err(Panicked));
        };
        let _inside = this.place.runtime.enter();
        let polled = match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(done)) => Ok(done),
            Err(_) => Err(Panicked),
        };
        this.work = None;
        Poll::Ready(polled)
    }
}

impl<F> Drop for Running<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            drop(self.place.spawn(work));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// A runtime like those of the server's workers.
    fn worker() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[tokio::test]
    async fn what_is_waited_for_gives_its_result() {
        assert_eq!(MoneyWork::on_this_runtime().run(async { 7 }).await, Ok(7));
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let tasks = MoneyWork::on_this_runtime();
        let work = tasks.run(async { panic!("on purpose") });
        assert_eq!(work.await, Err::<(), _>(Panicked));
        assert!(tasks.finish(Duration::from_secs(60)).await);
    }

    #[tokio::test]
    async fn what_is_not_waited_for_any_more_goes_on_and_is_counted() {
        let tasks = MoneyWork::on_this_runtime();
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let (done, mut told) = tokio::sync::oneshot::channel();
        let mut work = Box::pin(tasks.run(async move {
            wait.await.unwrap();
            done.send(()).unwrap();
        }));
        assert!(futures_util::poll!(work.as_mut()).is_pending());
        drop(work);
        assert!(!tasks.finish(Duration::ZERO).await, "it still runs");
        assert!(told.try_recv().is_err());
        go.send(()).unwrap();
        assert!(tasks.finish(Duration::from_secs(60)).await);
        told.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_it_opens_outlives_the_worker_that_waited_for_it() {
        let tasks = MoneyWork::on_this_runtime();
        let (done, told) = tokio::sync::oneshot::channel();
        let work = tasks.run(async move {
            // Made before the worker ends, waited for afterwards. On its runtime this would panic then.
            tokio::time::sleep(Duration::from_millis(50)).await;
            done.send(()).unwrap();
        });
        std::thread::spawn(move || {
            let worker = worker();
            worker.block_on(async {
                let mut work = Box::pin(work);
                assert!(futures_util::poll!(work.as_mut()).is_pending());
            });
        })
        .join()
        .unwrap();
        told.await.unwrap();
    }
}
