//! Compares the books with Stripe while the server runs, so that a difference is noticed by an alert and not by a person who
//! happens to look. It is what `prepaid402 reconcile` does, and changes nothing either.

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::both_sides::{GatherError, gather};
use super::comparison::compare;
use super::difference::Difference;
use super::window::Window;
use crate::config::DatabaseConfig;
use crate::stripe::Stripe;

/// How far back each look goes: far enough for what came late, or while the server was stopped for a day.
const WINDOW_SECONDS: i64 = 48 * 60 * 60;

/// The comparison and what it has found.
#[derive(Debug, Clone)]
pub struct Watch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: DatabaseConfig,
    stripe: Stripe,
    /// What the last look saw, if there was one.
    seen: Mutex<Option<HashSet<String>>>,
    /// Differences that two looks in a row have seen; -1 before there were two.
    lasting: AtomicI64,
}

impl Watch {
    /// Of this database and this Stripe account.
    #[must_use]
    pub fn new(database: DatabaseConfig, stripe: Stripe) -> Self {
        Self(Arc::new(Inner { database, stripe, seen: Mutex::default(), lasting: AtomicI64::new(-1) }))
    }

    /// How many differences there are, as far as is known; -1: it is not known yet.
    #[must_use]
    pub fn differences(&self) -> i64 {
        self.0.lasting.load(Ordering::Relaxed)
    }

    /// Looks once at the last two days before `now` (Unix seconds). What is on its way at this moment differs for that moment,
    /// so a difference counts when it is there at two looks in a row. It is logged at each look that finds it.
    ///
    /// # Errors
    /// When one side cannot be read; what was known stays.
    pub async fn look(&self, now: i64) -> Result<(), GatherError> {
        let Some(window) = Window::new(now.saturating_sub(WINDOW_SECONDS), now) else { return Ok(()) };
        let gathered = match gather(&self.0.database, &self.0.stripe, window, &|_| {}).await {
            // It was accepted in this second: there is nothing to compare yet.
            Err(GatherError::FormerAccount { .. }) => return Ok(()),
            gathered => gathered?,
        };
        let found = compare(&gathered.facts).differences;
        self.note(&found);
        Ok(())
    }

    fn note(&self, found: &[Difference]) {
        let names = found.iter().map(name).collect();
        let before = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner).replace(names);
        let Some(before) = before else { return };
        let lasting: Vec<_> = found.iter().filter(|difference| before.contains(&name(difference))).collect();
        for difference in &lasting {
            tracing::error!(code = difference.kind.code(), "the books and Stripe differ: {difference}");
        }
        let count = i64::try_from(lasting.len()).unwrap_or(i64::MAX);
        if self.0.lasting.swap(count, Ordering::Relaxed) > 0 && count == 0 {
            tracing::info!("the books and Stripe agree again");
        }
    }
}

/// What makes two findings the same one.
fn name(difference: &Difference) -> String {
    format!("{} {}", difference.kind.code(), difference.ids.join(" "))
}
