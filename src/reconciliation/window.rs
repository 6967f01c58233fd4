//! Which time is compared, and who hears how far that is.

use std::fmt;

use chrono::{DateTime, SecondsFormat};

/// Unix seconds, both included; the first is not after the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    from: i64,
    until: i64,
}

impl Window {
    /// From one second to another. `None`: it would end before it begins.
    #[must_use]
    pub fn new(from: i64, until: i64) -> Option<Self> {
        (from <= until).then_some(Self { from, until })
    }

    /// The first second.
    #[must_use]
    pub fn from(self) -> i64 {
        self.from
    }

    /// The last second.
    #[must_use]
    pub fn until(self) -> i64 {
        self.until
    }

    /// The part of it that begins with a second. `None`: it has ended before.
    pub(super) fn since(self, first: i64) -> Option<Self> {
        Self::new(first.max(self.from), self.until)
    }
}

/// `2026-11-01T12:00:00Z to 2026-11-02T12:00:00Z`.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", second(self.from), second(self.until))
    }
}

/// A second as people and programs write it.
#[must_use]
pub fn second(unix: i64) -> String {
    DateTime::from_timestamp(unix, 0)
        .map_or_else(|| format!("second {unix}"), |at| at.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// How far the reading is: for people who wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// What was charged before this second was charged in a former account, and is left out.
    LeftOut(i64),
    /// So many of Stripe's balance transactions are read.
    Movements(usize),
    /// All of Stripe's PaymentIntents are read, so many. What only one side has in the window is looked up at the other now.
    Intents(usize),
}

/// Who is told of it.
pub type Listener<'a> = &'a (dyn Fn(Progress) + Send + Sync);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn no_window_is_turned_round() {
        assert_eq!(Window::new(8, 7), None);
        let window = Window::new(7, 9).unwrap();
        assert_eq!(window.since(3), Some(window));
        assert_eq!(window.since(9), Window::new(9, 9));
        assert_eq!(window.since(10), None);
        assert_eq!(window.to_string(), "1970-01-01T00:00:07Z to 1970-01-01T00:00:09Z");
    }
}
