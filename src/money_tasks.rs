//! Where money work and connections to others live: on the runtime of the process, not on that of an HTTP worker.
//!
//! Each worker of the HTTP server has a runtime of its own, which ends as soon as the worker has nothing left to do at
//! shutdown. What was spawned there dies with it: a charge in the air, or a pooled connection whose answer another worker
//! is still passing on.

use std::future::Future;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// Spawns work that no caller and no HTTP worker can cancel, and lets shutdown wait for it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MoneyTasks {
    tracker: TaskTracker,
    runtime: Handle,
}

impl MoneyTasks {
    /// Work will run on the runtime that this is called on.
    ///
    /// # Panics
    /// Outside of a runtime.
    #[must_use]
    pub fn on_this_runtime() -> Self {
        Self { tracker: TaskTracker::new(), runtime: Handle::current() }
    }

    /// Starts work.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn_on(work, &self.runtime)
    }

    /// No more is expected; [`MoneyTasks::wait`] can end.
    pub fn close(&self) {
        self.tracker.close();
    }

    /// Until all work has ended.
    pub async fn wait(&self) {
        self.tracker.wait().await;
    }
}
