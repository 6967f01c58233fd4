//! Asks Stripe for its events, because its webhooks may not come: no endpoint, a wrong secret, days of outage.

use std::time::Duration;

use super::event::{Event, HANDLED_TYPES};
use super::inbox::Inbox;
use crate::db::{Db, DbError, now_micros, query, query_scalar};
use crate::stripe::{Stripe, StripeFailure};
use crate::top_up::TopUps;

/// What one page may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// Stripe may list an event a little later than it is dated: this much is looked at again each time, in seconds.
const OVERLAP: i64 = 300;
/// Stripe keeps events for 30 days, in seconds, and a day for clocks.
const LONGEST: i64 = 31 * 24 * 3_600;
/// How far the first look goes back in a database without charges, in seconds.
const FIRST_LOOK: i64 = 3_600;

const CURSOR: &str = "SELECT created FROM stripe_cursor WHERE id = 1";
const ADVANCE: &str = "\
INSERT INTO stripe_cursor (id, created) VALUES (1, $1)
ON CONFLICT (id) DO UPDATE SET created = excluded.created WHERE stripe_cursor.created < excluded.created";

/// Fetches events into the inbox. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Poller {
    db: Db,
    stripe: Stripe,
    top_ups: TopUps,
    inbox: Inbox,
}

/// Why Stripe's list could not be read to its end. The next look begins where this one did.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// Stripe.
    #[error("Stripe's events could not be listed ({})", .0.class())]
    Stripe(StripeFailure),
    /// One of them has no usable name, or the list goes in circles. What could be read is stored.
    #[error("Stripe's list of events cannot be read to its end")]
    Unreadable,
}

impl Poller {
    /// Puts the parts together.
    #[must_use]
    pub fn new(db: Db, stripe: Stripe, top_ups: TopUps, inbox: Inbox) -> Self {
        Self { db, stripe, top_ups, inbox }
    }

    /// Reads the list from where the last look ended, and stores what is new. Answers how much that was.
    ///
    /// The place is noted only when all of the list is stored, by the dates of Stripe's clock: a look that fails skips
    /// nothing.
    ///
    /// # Errors
    /// [`PollError`].
    pub async fn step(&self) -> Result<usize, PollError> {
        let result = self.look().await;
        if result.is_err() {
            self.inbox.count_failed_poll();
        }
        result
    }

    async fn look(&self) -> Result<usize, PollError> {
        let known: Option<i64> =
            query_scalar(CURSOR).fetch_optional(self.db.reader()).await.map_err(DbError::from)?;
        let from = match known {
            Some(cursor) => cursor,
            None => self.first_look().await?,
        };
        let earliest = seconds_now().saturating_sub(LONGEST);
        let since = from.saturating_sub(OVERLAP).max(earliest).max(0);
        let (mut newest, mut new, mut after, mut unreadable) = (from, 0_usize, None::<String>, false);
        loop {
            let deadline = crate::top_up::after(DEADLINE);
            let page = self.stripe.list_events_since(since, &HANDLED_TYPES, after.as_deref(), deadline).await;
            let page = page.map_err(PollError::Stripe)?;
            let mut unseen = Vec::new();
            for json in page.events {
                // Not the others' fault.
                let Some(event) = Event::read(json, since) else {
                    unreadable = true;
                    continue;
                };
                newest = newest.max(event.created);
                if !self.inbox.knows(&event.id).await? {
                    unseen.push(event);
                }
            }
            if !unseen.is_empty() {
                let stored = self.inbox.store(unseen).await?;
                new = new.saturating_add(stored.iter().filter(|is_new| **is_new).count());
            }
            match page.next {
                // A list that goes in circles must end.
                Some(next) if after.as_ref() != Some(&next) => after = Some(next),
                Some(_) => return Err(PollError::Unreadable),
                None => break,
            }
        }
        self.inbox.count_fetched(u64::try_from(new).unwrap_or(u64::MAX));
        if unreadable {
            return Err(PollError::Unreadable);
        }
        if known.is_none_or(|known| known < newest) {
            self.advance(newest).await?;
        }
        Ok(new)
    }

    /// Where the very first look begins, in Unix seconds: at the oldest charge.
    async fn first_look(&self) -> Result<i64, DbError> {
        let hour = seconds_now().saturating_sub(FIRST_LOOK);
        let oldest = self.top_ups.oldest_attempt().await?;
        Ok(oldest.map_or(hour, |at| at.div_euclid(1_000_000).min(hour)))
    }

    async fn advance(&self, created: i64) -> Result<(), DbError> {
        let advanced = self.db.write(move |connection| {
            Box::pin(async move { query(ADVANCE).bind(created).execute(connection).await.map(drop) })
        });
        advanced.await
    }
}

fn seconds_now() -> i64 {
    now_micros().div_euclid(1_000_000)
}
