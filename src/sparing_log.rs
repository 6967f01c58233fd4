//! Lines that would come by the thousand: while a disk is full, every request has the same to say. One line a second of each
//! kind is written, and it tells how many were left out since the last one.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Between two lines of one kind, in milliseconds.
const PAUSE: u64 = 1_000;

/// One place that writes lines.
#[derive(Debug)]
pub(crate) struct Kind {
    /// When the next line may be written, in milliseconds of this process.
    next: AtomicU64,
    left_out: AtomicU64,
}

impl Kind {
    pub(crate) const fn new() -> Self {
        Self { next: AtomicU64::new(0), left_out: AtomicU64::new(0) }
    }

    /// `Some`: write it, and say how many were left out, if any were.
    pub(crate) fn turn(&self) -> Option<Option<u64>> {
        static BEGUN: OnceLock<Instant> = OnceLock::new();
        let elapsed = BEGUN.get_or_init(Instant::now).elapsed();
        self.turn_at(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }

    fn turn_at(&self, now: u64) -> Option<Option<u64>> {
        let next = self.next.load(Ordering::Relaxed);
        let after = now.saturating_add(PAUSE);
        let ours = now >= next
            && self.next.compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if !ours {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        Some((left_out > 0).then_some(left_out))
    }
}

/// Writes a line as `tracing::$level!` does, one a second at most from this place.
macro_rules! sparingly {
    ($level:ident, $($line:tt)+) => {{
        static KIND: $crate::sparing_log::Kind = $crate::sparing_log::Kind::new();
        if let Some(lines_left_out) = KIND.turn() {
            tracing::$level!(lines_left_out, $($line)+);
        }
    }};
}
pub(crate) use sparingly;

#[cfg(test)]
mod tests {
    use super::Kind;

    #[test]
    fn one_line_a_second_tells_how_many_were_left_out() {
        let kind = Kind::new();
        assert_eq!(kind.turn_at(5), Some(None));
        assert_eq!((6..1_005).filter_map(|now| kind.turn_at(now)).count(), 0);
        assert_eq!(kind.turn_at(1_005), Some(Some(999)));
        assert_eq!(kind.turn_at(9_000), Some(None));
    }
}
