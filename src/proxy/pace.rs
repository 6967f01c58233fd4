//! Whether a caller keeps up: with reading what it is sent, or with sending what it has announced.
//!
//! An upstream gives up on a peer that does not go on, or that takes too long in all. When the caller is what everybody waits for,
//! that is the caller's doing, and the caller pays (`http/delivery.rs`).

use std::time::{Duration, Instant};

/// A caller that does not go on for this long has paused. Upstreams wait longer before they give up; a network that works
/// moves something within it.
pub(crate) const PAUSE: Duration = Duration::from_secs(2);
/// Whoever is waited for as long as this in all, and for nine tenths of the time, is slow without a pause.
const LONG: Duration = Duration::from_secs(30);
/// What can still be on its way, in buffers of both systems, when an upstream has given up: what comes after it was sent later.
const IN_FLIGHT: u64 = 16 * 1024 * 1024;
/// An upload of which less than this many bytes a second come, over a while, is slow.
const TRICKLE: u64 = 256;
const A_WHILE: Duration = Duration::from_secs(5);

/// A body of which so many bytes a second come is in time, however long it takes.
const STEADY: u64 = 1024;

/// How far behind a caller may be with a body that somebody waits for: so long without a byte, and every byte that comes buys time
/// again. Only the time counts in which the caller is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    most: Duration,
    left: Duration,
    /// What a byte buys; nothing where the whole time is given.
    a_byte: Duration,
}

impl Patience {
    /// For a body of any length.
    pub(crate) fn steady(most: Duration) -> Self {
        let a_byte = Duration::from_nanos(1_000_000_000_u64.div_euclid(STEADY));
        Self { most, left: most, a_byte }
    }

    /// For a body that is all here within this time.
    pub(crate) fn within(most: Duration) -> Self {
        Self { most, left: most, a_byte: Duration::ZERO }
    }

    /// How long the next byte may take.
    pub(crate) fn left(&self) -> Duration {
        self.left
    }

    /// The caller was waited for.
    pub(crate) fn waited(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }

    /// Something came.
    pub(crate) fn received(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(self.a_byte.saturating_mul(bytes)).min(self.most);
    }
}

/// How a caller reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    begun: Instant,
    /// Something was handed over, and the connection takes no more yet.
    since: Option<Instant>,
    waited: Duration,
    /// Bytes handed over since the last pause.
    since_pause: Option<u64>,
}

impl Reading {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), since: None, waited: Duration::ZERO, since_pause: None }
    }

    /// A piece goes to the caller.
    pub(crate) fn handed_over(&mut self, bytes: usize) {
        self.since = Some(Instant::now());
        if let Some(since_pause) = &mut self.since_pause {
            *since_pause = since_pause.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
            if *since_pause > IN_FLIGHT {
                self.since_pause = None;
            }
        }
    }

    /// The connection takes more.
    pub(crate) fn asked(&mut self) {
        let Some(since) = self.since.take() else { return };
        let time = since.elapsed();
        self.waited = self.waited.saturating_add(time);
        if time >= PAUSE {
            self.since_pause = Some(0);
        }
    }

    /// The upstream has gone on after everybody had waited for it: it has not given up in the last pause.
    pub(crate) fn upstream_lives(&mut self) {
        self.since_pause = None;
    }

    /// Whether the caller has kept an upstream waiting that gives up now.
    pub(crate) fn is_slow(&self) -> bool {
        let waiting = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        let waited = self.waited.saturating_add(waiting);
        let most_of_it = || waited.saturating_mul(10) >= self.begun.elapsed().saturating_mul(9);
        self.since_pause.is_some() || waiting >= PAUSE || (waited >= LONG && most_of_it())
    }
}

/// How a caller sends.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sending {
    /// Nothing is here of the caller's, and somebody wants it.
    since: Option<Instant>,
    waited: Duration,
    bytes: u64,
    /// Whoever wanted it has waited for too long, and wants it no more since then.
    given_up: Option<Instant>,
}

impl Sending {
    /// From now on it is the caller's turn.
    pub(crate) fn waiting(&mut self) {
        self.since = Some(Instant::now());
    }

    /// Something came.
    pub(crate) fn received(&mut self, bytes: usize) {
        self.stop_waiting();
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Nobody wants it any more.
    pub(crate) fn not_wanted(&mut self) {
        if self.is_slow() {
            self.given_up = Some(Instant::now());
        }
        self.stop_waiting();
    }

    fn stop_waiting(&mut self) {
        if let Some(since) = self.since.take() {
            self.waited = self.waited.saturating_add(since.elapsed());
        }
    }

    /// Whether the caller keeps somebody waiting who gives up now.
    pub(crate) fn is_slow(&self) -> bool {
        let waiting = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        let waited = self.waited.saturating_add(waiting);
        let is_trickle = waited >= A_WHILE && self.bytes < TRICKLE.saturating_mul(waited.as_secs());
        waiting >= PAUSE
            || (self.since.is_some() && is_trickle)
            || self.given_up.is_some_and(|at| at.elapsed() < PAUSE)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn ago(time: Duration) -> Instant {
        Instant::now().checked_sub(time).unwrap()
    }

    fn reading(paused: Duration) -> Reading {
        let mut reading = Reading { begun: ago(paused * 2), ..Reading::new() };
        reading.since = Some(ago(paused));
        reading
    }

    #[test]
    fn a_pause_counts_until_the_upstream_has_shown_that_it_has_not_given_up() {
        assert!(!Reading::new().is_slow());
        assert!(reading(PAUSE).is_slow(), "it still pauses");
        let mut short = reading(PAUSE / 2);
        for _ in 0..5 {
            short.asked();
            short.since = Some(ago(PAUSE / 2));
        }
        assert!(!short.is_slow(), "it went on each time");
        let mut paused = reading(PAUSE * 2);
        paused.asked();
        paused.handed_over(1000);
        assert!(paused.is_slow(), "what comes now may have been on its way before the upstream gave up");
        paused.upstream_lives();
        assert!(!paused.is_slow());
        let mut paused = reading(PAUSE * 2);
        paused.asked();
        for _ in 0..17 {
            paused.handed_over(1024 * 1024);
        }
        assert!(!paused.is_slow(), "no buffer holds so much");
    }

    #[test]
    fn who_is_waited_for_nearly_all_of_a_long_time_is_slow_without_a_pause() {
        let slow = |begun: u64, waited: u64| Reading {
            begun: ago(Duration::from_secs(begun)),
            waited: Duration::from_secs(waited),
            ..Reading::new()
        };
        assert!(slow(31, 30).is_slow());
        assert!(!slow(40, 30).is_slow(), "the upstream was waited for, too");
        assert!(!slow(20, 19).is_slow(), "not for long");
    }

    /// How long a caller of so many bytes, each so much time after the one before, is waited for. `None`: for ever.
    fn lasts(mut patience: Patience, bytes: usize, every: Duration) -> Option<Duration> {
        let mut time = Duration::ZERO;
        while time < Duration::from_secs(3_600) {
            if every > patience.left() {
                return Some(time + patience.left());
            }
            time += every;
            patience.waited(every);
            patience.received(bytes);
        }
        None
    }

    #[test]
    fn a_steady_body_is_waited_for_and_a_trickle_is_not() {
        let (minute, second) = (Duration::from_secs(60), Duration::from_secs(1));
        let steady = || Patience::steady(minute);
        assert_eq!(lasts(steady(), 0, second * 61), Some(minute), "nothing at all");
        assert_eq!(lasts(steady(), 50_000, second), None, "50 kB/s");
        assert_eq!(lasts(steady(), 1_025, second), None);
        assert_eq!(lasts(steady(), 61_500, second * 60), None, "with pauses");
        assert_eq!(
            lasts(steady(), 1_000_000, second * 61),
            Some(minute),
            "what came before buys no longer pause"
        );
        assert!(lasts(steady(), 1, second) < Some(second * 61), "a trickle");
        assert!(lasts(steady(), 512, second) < Some(second * 121), "half of it: twice as long");
        assert_eq!(lasts(Patience::within(minute), 50_000, second), Some(minute));
    }

    #[test]
    fn a_caller_who_owes_a_body_is_slow_when_nothing_or_next_to_nothing_comes() {
        let sending = |waiting: Duration, waited: u64, bytes: u64| Sending {
            since: Some(ago(waiting)),
            waited: Duration::from_secs(waited),
            bytes,
            given_up: None,
        };
        assert!(!Sending::default().is_slow());
        assert!(sending(PAUSE, 0, 1_000_000).is_slow());
        assert!(
            !sending(PAUSE / 2, 60, 1_000_000).is_slow(),
            "as with speech that is sent while it is spoken"
        );
        assert!(sending(PAUSE / 2, 6, 20).is_slow(), "a trickle");
        assert!(!sending(PAUSE / 2, 3, 20).is_slow(), "too early to say");
        let mut went_on = sending(PAUSE, 0, 0);
        went_on.received(10);
        assert!(!went_on.is_slow(), "it came");
        let mut given_up = sending(PAUSE, 0, 0);
        given_up.not_wanted();
        assert!(given_up.is_slow(), "somebody has just given up on it");
        given_up.given_up = Some(ago(PAUSE));
        assert!(!given_up.is_slow(), "what breaks later breaks for another reason");
        let mut early = sending(Duration::ZERO, 0, 0);
        early.not_wanted();
        assert!(!early.is_slow() && early.since.is_none());
    }
}
