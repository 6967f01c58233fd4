//! How often loops go round: as often as reaches every case that they are about. A SOAK run ([`SOAK`] in the environment, see
//! `tests/soak`) goes on for as many seconds with each loop.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Seconds for each loop.
pub const SOAK: &str = "SOAK";

/// How long each loop of a SOAK run goes on.
fn soak() -> Option<Duration> {
    let seconds = std::env::var(SOAK).ok()?;
    Some(Duration::from_secs(seconds.parse().unwrap_or_else(|_| panic!("{SOAK} is a number of seconds"))))
}

/// A number of what is done at once, or in one go: `soak` in a SOAK run.
pub fn many(usually: usize, soak_run: usize) -> usize {
    if soak().is_some() { soak_run } else { usually }
}

/// The rounds of a loop, from 0: `usually` of them; in a SOAK run as many as its time allows, and never fewer.
pub fn rounds(usually: usize) -> Rounds {
    Rounds { usually, next: 0, until: soak().map(|long| Instant::now() + long) }
}

/// See [`rounds`].
#[derive(Debug)]
pub struct Rounds {
    usually: usize,
    next: usize,
    until: Option<Instant>,
}

impl Rounds {
    /// How many were begun.
    pub fn begun(&self) -> usize {
        self.next
    }

    /// The next one, also when there were enough but something that the loop is about has not happened yet. It must within four
    /// times as many.
    pub fn next_until_all(&mut self, cases: &Cases) -> Option<usize> {
        if let Some(round) = self.next() {
            return Some(round);
        }
        let missing = cases.missing();
        if missing.is_empty() {
            return None;
        }
        assert!(self.next < 4 * self.usually.max(5), "never in {} rounds: {missing:?}", self.next);
        self.next += 1;
        Some(self.next - 1)
    }
}

impl Iterator for Rounds {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let goes_on = self.next < self.usually || self.until.is_some_and(|until| Instant::now() < until);
        goes_on.then(|| {
            self.next += 1;
            self.next - 1
        })
    }
}

/// What must happen sometimes, for a loop of random rounds to prove anything.
#[derive(Debug)]
pub struct Cases(BTreeMap<&'static str, usize>);

impl Cases {
    pub fn new(names: &[&'static str]) -> Self {
        Self(names.iter().map(|name| (*name, 0)).collect())
    }

    /// Notes whether it happened.
    pub fn sometimes(&mut self, name: &'static str, happened: bool) {
        *self.0.get_mut(name).unwrap_or_else(|| panic!("{name} is no case of this loop")) +=
            usize::from(happened);
    }

    fn missing(&self) -> Vec<&'static str> {
        self.0.iter().filter(|(_, times)| **times == 0).map(|(name, _)| *name).collect()
    }
}
