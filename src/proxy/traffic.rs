//! What has passed on one connection to the upstream, and when: whether a request that failed was sent at all, and whether it may
//! be sent once more. RFC 9110, section 9.2.2; RFC 9112, section 9.3.1.
//!
//! A connection serves one request at a time, and nothing of a request passes before it begins. So times are enough to tell what
//! belongs to it, without a look at any byte.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use hyper_util::client::legacy::Error;
use hyper_util::client::legacy::connect::Connected;

/// A connection that had been closed before a request shows it within a round trip. What ends later may have worked until then, and
/// a request on which the upstream has worked, or broken down, is not given to it twice.
const AT_ONCE: Duration = Duration::from_secs(2);

static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A moment of this process, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u64);

impl Moment {
    pub(super) fn now() -> Self {
        // A little more than nothing, because zero is never.
        Self(u64::try_from(BEGINNING.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1))
    }

    fn is_recent(self) -> bool {
        Self::now().0.saturating_sub(self.0) < u64::try_from(AT_ONCE.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Of one connection. Shared by the connection and by what the HTTP client tells of a failure.
#[derive(Debug, Clone)]
pub(super) struct Traffic(Arc<Times>);

#[derive(Debug)]
struct Times {
    connected: Moment,
    /// The system took bytes of a request; zero: never.
    taken: AtomicU64,
    /// Bytes of an answer came; zero: never.
    came: AtomicU64,
}

impl Traffic {
    pub(super) fn new() -> Self {
        Self(Arc::new(Times { connected: Moment::now(), taken: AtomicU64::new(0), came: AtomicU64::new(0) }))
    }

    pub(super) fn taken(&self) {
        self.0.taken.store(Moment::now().0, Ordering::Release);
    }

    pub(super) fn came(&self) {
        self.0.came.store(Moment::now().0, Ordering::Release);
    }

    fn of(connected: &Connected) -> Option<Self> {
        let mut extras = hyper::http::Extensions::new();
        connected.get_extras(&mut extras);
        extras.remove()
    }
}

/// How far a request came that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// No byte of it left this machine.
    NotSent,
    /// A connection that was there before ended, at once and before a byte of the answer: it was probably closed meanwhile.
    EndedUnanswered,
    /// Anything else, or not known.
    Sent,
}

/// How far a request came that had begun then.
pub(super) fn progress(error: &Error, begun: Moment) -> Progress {
    let Some(Traffic(times)) = error.connect_info().and_then(Traffic::of) else {
        return if error.is_connect() { Progress::NotSent } else { Progress::Sent };
    };
    if times.taken.load(Ordering::Acquire) < begun.0 {
        Progress::NotSent
    } else if times.connected < begun && times.came.load(Ordering::Acquire) < begun.0 && begun.is_recent() {
        Progress::EndedUnanswered
    } else {
        Progress::Sent
    }
}
