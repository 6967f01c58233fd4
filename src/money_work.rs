//! Where money work runs: on the process's own runtime, never on a server worker's, which ends with its connections.
//!
//! A task that is spawned here cannot be cancelled by a caller who hangs up, and shutdown waits for it.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

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

    /// Waits for all work to end. `false`: some was still running when the time was over.
    pub async fn finish(&self, within: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(within, self.tracker.wait()).await.is_ok()
    }
}
