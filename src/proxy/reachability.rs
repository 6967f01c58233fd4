//! Whether the upstream can be reached: what the last calls met, and one bounded attempt to connect where that is too old.
//!
//! Only connections count (TCP, TLS), never what the upstream answers: callers choose paths, and could make it answer anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::Uri;
use tokio::sync::Mutex;
use tower_service::Service as _;

use super::connection::Connector;

/// What was met within this time is believed without another attempt.
const FRESH: Duration = Duration::from_secs(1);

/// What is known of the upstream's connection. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reachability(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connector: Connector,
    uri: Uri,
    /// For TCP and TLS together.
    timeout: Duration,
    /// Times below are milliseconds since then, plus one; zero: never.
    begun: Instant,
    reached: AtomicU64,
    failed: AtomicU64,
    /// The first failure since it was reached last.
    failing_since: AtomicU64,
    /// One attempt at a time: whoever waits for it learns what it met.
    attempt: Mutex<()>,
}

/// What the last connections to the upstream met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReachState {
    /// Nobody has asked it yet.
    Unknown,
    /// The last connection worked.
    Reachable,
    /// The last connection failed, as all have for so long.
    Unreachable(Duration),
}

impl Reachability {
    pub(super) fn new(connector: Connector, uri: Uri, timeout: Duration) -> Self {
        Self(Arc::new(Inner {
            connector,
            uri,
            timeout,
            begun: Instant::now(),
            reached: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            failing_since: AtomicU64::new(0),
            attempt: Mutex::new(()),
        }))
    }

    fn now(&self) -> u64 {
        let millis = u64::try_from(self.0.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        millis.saturating_add(1)
    }

    /// A connection to the upstream works.
    pub(super) fn reached(&self) {
        let inner = &self.0;
        inner.reached.store(self.now(), Ordering::Relaxed);
        // Hardly ever: a load alone costs nothing that other cores notice.
        if inner.failing_since.load(Ordering::Relaxed) != 0
            && inner.failing_since.swap(0, Ordering::Relaxed) != 0
        {
            tracing::info!("the upstream can be reached again");
        }
    }

    /// When an attempt begins, for [`Self::failed`].
    pub(super) fn begin(&self) -> u64 {
        self.now()
    }

    /// No connection to the upstream could be made, in an attempt that began then. `why` is for the log, once until it is
    /// reached again.
    pub(super) fn failed(&self, begun: u64, why: &dyn std::fmt::Display) {
        let (inner, now) = (&self.0, self.now());
        // Another one has reached it since.
        if inner.reached.load(Ordering::Relaxed) > begun {
            return;
        }
        inner.failed.store(now, Ordering::Relaxed);
        let first =
            inner.failing_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if first {
            tracing::error!(error = %why, "the upstream cannot be reached; no card is charged for it meanwhile");
        } else {
            tracing::debug!(error = %why, "the upstream cannot be reached");
        }
    }

    /// What is known, without asking.
    #[must_use]
    pub fn state(&self) -> ReachState {
        let inner = &self.0;
        match (inner.failing_since.load(Ordering::Relaxed), inner.reached.load(Ordering::Relaxed)) {
            (0, 0) => ReachState::Unknown,
            (0, _) => ReachState::Reachable,
            (since, _) => ReachState::Unreachable(Duration::from_millis(self.now().saturating_sub(since))),
        }
    }

    /// What was met within `age`; `None`: nothing.
    fn recent(&self, age: Duration) -> Option<bool> {
        let inner = &self.0;
        let is_recent = |at: u64| at != 0 && Duration::from_millis(self.now().saturating_sub(at)) < age;
        match inner.failing_since.load(Ordering::Relaxed) {
            0 => is_recent(inner.reached.load(Ordering::Relaxed)).then_some(true),
            _ => is_recent(inner.failed.load(Ordering::Relaxed)).then_some(false),
        }
    }

    /// Whether the upstream can be reached now: what was met within the last second, or one attempt to connect, within
    /// `upstream.connect_timeout`. However many ask at once, there is one attempt, and while it could not be reached before, nobody
    /// waits for what it meets.
    pub async fn can_be_reached(&self) -> bool {
        if let Some(met) = self.recent(FRESH) {
            return met;
        }
        let _attempt = match self.0.attempt.try_lock() {
            Ok(attempt) => attempt,
            Err(_) if matches!(self.state(), ReachState::Unreachable(_)) => return false,
            Err(_) => self.0.attempt.lock().await,
        };
        match self.recent(FRESH) {
            Some(met) => met,
            None => self.connect().await,
        }
    }

    /// Asks once more in the background when what is known is older than `age` and nobody asks already.
    pub fn refresh(&self, age: Duration) {
        if self.recent(age).is_some() {
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            if let Ok(_attempt) = this.0.attempt.try_lock() {
                this.connect().await;
            }
        });
    }

    async fn connect(&self) -> bool {
        let (inner, begun) = (&self.0, self.begin());
        let mut connector = inner.connector.clone();
        let connecting = connector.call(inner.uri.clone());
        match tokio::time::timeout(inner.timeout, connecting).await {
            // Closed at once: it was asked for nothing.
            Ok(Ok(_connection)) => {
                self.reached();
                true
            }
            Ok(Err(error)) => {
                self.failed(begun, &super::upstream::Chain(error.as_ref()));
                false
            }
            Err(_) => {
                self.failed(begun, &"no connection in time");
                false
            }
        }
    }
}
