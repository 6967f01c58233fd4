//! Whether a caller keeps up: with sending what it has announced, or with reading what it is sent.
//!
//! An upstream gives up on a peer that does not go on. When the caller is what everybody waits for, that is the caller's doing,
//! and the caller pays (`http/delivery.rs`).

use std::time::{Duration, Instant};

/// A caller that does not go on for this long is slow. Upstreams wait several seconds before they give up; a network that
/// works moves something within one.
pub(crate) const SLOW: Duration = Duration::from_secs(1);

/// The pauses of one caller in one direction.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace {
    since: Option<Instant>,
    was_slow: bool,
}

impl Pace {
    /// From now on it is the caller's turn.
    pub(crate) fn waiting(&mut self) {
        self.since = Some(Instant::now());
    }

    /// The caller has gone on.
    pub(crate) fn went_on(&mut self) {
        self.was_slow = self.is_slow();
        self.since = None;
    }

    /// Whether the caller has paused for too long, now or before.
    pub(crate) fn is_slow(&self) -> bool {
        self.was_slow || self.since.is_some_and(|since| since.elapsed() >= SLOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting_for(time: Duration) -> Pace {
        Pace { since: Instant::now().checked_sub(time), was_slow: false }
    }

    #[test]
    fn one_long_pause_is_enough_and_short_ones_do_not_add_up() {
        assert!(!Pace::default().is_slow());
        assert!(waiting_for(SLOW).is_slow());
        assert!(!waiting_for(SLOW / 2).is_slow());
        let mut pace = Pace::default();
        for _ in 0..5 {
            pace.since = waiting_for(SLOW / 2).since;
            pace.went_on();
        }
        assert!(!pace.is_slow(), "it went on each time");
        pace.since = waiting_for(SLOW * 2).since;
        pace.went_on();
        pace.waiting();
        assert!(pace.is_slow(), "remembered");
    }
}
