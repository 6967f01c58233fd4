//! Stripe's events on their way into the books: stored once, applied at least once, never given up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::sync::Notify;

use super::applier::{Applied, Applier, Named};
use super::event::Event;
use crate::db::{Db, DbError, Readers, Row, Sql, now_micros, query, query_scalar, sql_with_now};
use crate::money_work::MoneyWork;

/// Events taken in one step, and how many of them at once.
const MAX_A_STEP: i64 = 50;
const AT_ONCE: usize = 8;
/// An event that was taken is left to whoever took it for so long. Longer than the longest way to apply one.
const CLAIM_MICROS: i64 = 120 * SECOND;
/// The wait after the first failure; doubled with each until the longest.
const FIRST_WAIT_MICROS: i64 = 10 * SECOND;
const LONGEST_WAIT_MICROS: i64 = 3_600 * SECOND;
/// Parked for longer than this is an error.
const TOO_LONG_MICROS: i64 = 3_600 * SECOND;
/// Ended events are kept so long. Stripe sends an event again for 3 days and lists it for 30: whatever was removed here never
/// comes again.
const KEEP_MICROS: i64 = 40 * 24 * 3_600 * SECOND;
/// Removed in one step.
const MAX_REMOVED: i64 = 500;
/// So long Stripe must have said that there is no such object, before an event about it ends: it lists and delivers events for 3 days.
const MISSING_MICROS: i64 = 72 * 3_600 * SECOND;
/// Longest reason that is stored, in characters.
const MAX_WHY: usize = 300;
const SECOND: i64 = 1_000_000;

/// A repeated event is the same fact again, so there is nothing to compare.
const INSERT: Sql = sql_with_now!(
    "INSERT INTO stripe_events (id, type, object, created, body, state, why, tries, received_at, next_try_at, ended_at) \
     SELECT $1, $2, $3, $4, $5, $6, $7, 0, t.at, t.at, CASE WHEN $6 = 'ignored' THEN t.at END FROM (SELECT ",
    now,
    " AS at) AS t WHERE TRUE ON CONFLICT (id) DO NOTHING"
);
const DUE: Sql = sql_with_now!(
    "SELECT id, type, object, body, tries, received_at, next_try_at, why FROM stripe_events \
     WHERE state IN ('received', 'parked') AND next_try_at <= ",
    now,
    " ORDER BY next_try_at, id LIMIT $1"
);
/// Whoever moves the time of the next try has the event.
const CLAIM: Sql = sql_with_now!(
    "UPDATE stripe_events SET tries = tries + 1, next_try_at = $3 + ",
    now,
    " WHERE id = $1 AND next_try_at = $2 AND state IN ('received', 'parked')"
);
const END: Sql = sql_with_now!(
    "UPDATE stripe_events SET state = $2, why = $3, ended_at = ",
    now,
    " WHERE id = $1 AND state IN ('received', 'parked')"
);
const PARK: Sql = sql_with_now!(
    "UPDATE stripe_events SET state = 'parked', why = $2, missing_since = NULL, next_try_at = $3 + ",
    now,
    " WHERE id = $1 AND state IN ('received', 'parked')"
);
const PARK_MISSING: Sql = sql_with_now!(
    "UPDATE stripe_events SET state = 'parked', why = $2, missing_since = COALESCE(missing_since, ",
    now,
    "), next_try_at = $3 + ",
    now,
    " WHERE id = $1 AND state IN ('received', 'parked')"
);
const END_MISSING: Sql = sql_with_now!(
    "UPDATE stripe_events SET state = 'ignored', why = 'Stripe has had no such object for 72 hours', ended_at = ",
    now,
    " WHERE id = $1 AND state IN ('received', 'parked') AND missing_since <= ",
    now,
    " - $2"
);
/// Whether the books know what an event names: its object, PaymentIntent or charge, and the top-up or refund of ours that Stripe's
/// objects name in their metadata, since a row may have been lost track of before it knew the PaymentIntent. Nothing that was charged
/// in a former account.
const IS_OURS: &str = "\
SELECT EXISTS (SELECT 1 FROM top_ups WHERE payment_intent IN ($1, $2) AND former_account = 0)
    OR EXISTS (SELECT 1 FROM top_ups WHERE id = $4 AND former_account = 0)
    OR EXISTS (SELECT 1 FROM refunds AS r JOIN top_ups AS t ON t.id = r.top_up
               WHERE (r.stripe_refund = $1 OR r.id = $5) AND t.former_account = 0)
    OR EXISTS (SELECT 1 FROM disputes AS d JOIN top_ups AS t ON t.id = d.top_up WHERE d.id = $1 AND t.former_account = 0)
    OR EXISTS (SELECT 1 FROM fraud_warnings AS w JOIN top_ups AS t ON t.id = w.top_up WHERE w.id = $1 AND t.former_account = 0)
    OR EXISTS (SELECT 1 FROM top_ups WHERE charge IN ($1, $3) AND former_account = 0)";
const PARKED: &str = "\
SELECT COUNT(*), MIN(received_at), COUNT(CASE WHEN why = $1 THEN 1 END) FROM stripe_events WHERE state = 'parked'";
/// Why events wait whose objects Stripe does not know.
const MISSING: &str = "Stripe has no such object";
const NOT_PROVEN: &str =
    "Stripe has no such object, to a key that is not proven to be of this database's account";
const UNKNOWN_OBJECT: &str = "Stripe does not know this object, which the books know; a person must look";
const IS_KNOWN: &str = "SELECT EXISTS (SELECT 1 FROM stripe_events WHERE id = $1)";
const TIDY: Sql = sql_with_now!(
    "DELETE FROM stripe_events WHERE id IN (SELECT id FROM stripe_events WHERE ended_at IS NOT NULL AND ended_at < ",
    now,
    " - $1 LIMIT $2)"
);

/// Stores events and sees to it that they are applied. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Inbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    db: Db,
    /// Applying is money work: nobody who waits can cancel it.
    tasks: MoneyWork,
    /// There may be something to do.
    arrived: Notify,
    /// Fetched from Stripe's list and not known before.
    fetched: AtomicU64,
    /// Looks at Stripe's list that failed.
    failed_polls: AtomicU64,
}

/// An event that was taken to be applied.
#[derive(Debug, Clone)]
pub struct Taken {
    /// Such as `charge.refunded`.
    pub kind: String,
    /// The id of what it is about; empty when it names none.
    pub object: String,
    /// The event, less secrets.
    pub body: Value,
    id: String,
    /// This try included.
    tries: i64,
    received_at: i64,
    next_try_at: i64,
    /// Why it waited until now.
    why: Option<String>,
}

/// Events that could not be applied yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ParkedEvents {
    /// How many.
    pub count: i64,
    /// Unix microseconds: when the oldest came.
    pub oldest: Option<i64>,
    /// Of them, those about objects of the books that Stripe does not know.
    pub unknown_objects: i64,
}

impl ParkedEvents {
    /// Reads them.
    ///
    /// # Errors
    /// What the database said.
    pub async fn read(readers: &Readers) -> Result<Self, sqlx::Error> {
        let row = query(PARKED).bind(UNKNOWN_OBJECT).fetch_one(readers).await?;
        Ok(Self { count: row.try_get(0)?, oldest: row.try_get(1)?, unknown_objects: row.try_get(2)? })
    }
}

impl Taken {
    /// What several events may have in common.
    fn subject(&self) -> &str {
        Named::by(&self.body).intent.unwrap_or(&self.object)
    }
}

fn taken(row: &Row) -> Result<Taken, sqlx::Error> {
    let body: &str = row.try_get(3)?;
    Ok(Taken {
        id: row.try_get(0)?,
        kind: row.try_get(1)?,
        object: row.try_get(2)?,
        // It was written by us; should it be damaged, the applier finds nothing in it, and the object may be enough.
        body: serde_json::from_str(body).unwrap_or_default(),
        tries: row.try_get::<i64, _>(4)?.saturating_add(1),
        received_at: row.try_get(5)?,
        next_try_at: row.try_get(6)?,
        why: row.try_get(7)?,
    })
}

/// How long to wait after so many tries, in microseconds.
fn wait_after(tries: i64) -> i64 {
    let doublings = u32::try_from(tries.saturating_sub(1).clamp(0, 20)).unwrap_or(20);
    FIRST_WAIT_MICROS
        .saturating_mul(1_i64.checked_shl(doublings).unwrap_or(i64::MAX))
        .min(LONGEST_WAIT_MICROS)
}

impl Inbox {
    /// Puts the parts together.
    #[must_use]
    pub fn new(db: Db, tasks: MoneyWork) -> Self {
        let (fetched, failed_polls) = (AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(Inner { db, tasks, arrived: Notify::new(), fetched, failed_polls }))
    }

    /// Stores events in one transaction, and wakes who applies them. Answers which of them were new. Goes on when the caller
    /// has gone.
    ///
    /// # Errors
    /// When they are not stored, or nobody knows.
    pub async fn store(&self, events: Vec<Event>) -> Result<Vec<bool>, DbError> {
        let stored = self.0.db.write(move |connection| {
            Box::pin(async move {
                let mut stored = Vec::with_capacity(events.len());
                for event in events {
                    let (state, why) = match event.is_handled() {
                        true => ("received", None),
                        false => ("ignored", Some("a type that is not handled")),
                    };
                    let inserted = query(INSERT)
                        .bind(event.id)
                        .bind(event.kind)
                        .bind(event.object)
                        .bind(event.created)
                        .bind(event.body.to_string())
                        .bind(state)
                        .bind(why)
                        .execute(&mut *connection)
                        .await?;
                    stored.push(inserted == 1);
                }
                Ok(stored)
            })
        });
        let stored = stored.await?;
        self.0.arrived.notify_one();
        Ok(stored)
    }

    /// Whether an event is stored already.
    pub(super) async fn knows(&self, id: &str) -> Result<bool, DbError> {
        Ok(query_scalar(IS_KNOWN).bind(id.to_owned()).fetch_one(self.0.db.reader()).await?)
    }

    /// Waits until an event was stored since the last wait.
    pub async fn arrived(&self) {
        self.0.arrived.notified().await;
    }

    /// Takes events that are due and applies them, each at least once. Several nodes share the work. Answers how many this
    /// one took; as many as it may means that there may be more.
    ///
    /// # Errors
    /// When the database cannot be used. What was taken is due again later.
    pub async fn step(&self, applier: &Applier) -> Result<usize, DbError> {
        self.step_with(move |event: Taken| {
            let applier = applier.clone();
            async move { applier.apply(&event.kind, &event.object, &event.body).await }
        })
        .await
    }

    /// The same with another way to apply.
    async fn step_with<F, A>(&self, apply: F) -> Result<usize, DbError>
    where
        F: Fn(Taken) -> A,
        A: Future<Output = Applied> + Send + 'static,
    {
        let due = query(DUE).bind(MAX_A_STEP).fetch_all(self.0.db.reader()).await?;
        let due: Vec<Taken> = due.iter().map(taken).collect::<Result<_, _>>()?;
        let mut subjects: BTreeMap<String, Vec<Taken>> = BTreeMap::new();
        for event in due {
            subjects.entry(event.subject().to_owned()).or_default().push(event);
        }
        let work = subjects.into_values().map(|events| self.take_and_apply(events, &apply));
        let ends: Vec<Result<usize, DbError>> =
            futures_util::stream::iter(work).buffer_unordered(AT_ONCE).collect().await;
        let mut count = 0_usize;
        for end in ends {
            count = count.saturating_add(end?);
        }
        Ok(count)
    }

    /// Events about the same charge, one after the other: what they would read at Stripe is the same.
    async fn take_and_apply<F, A>(&self, events: Vec<Taken>, apply: &F) -> Result<usize, DbError>
    where
        F: Fn(Taken) -> A,
        A: Future<Output = Applied> + Send + 'static,
    {
        let mut count = 0_usize;
        for event in events {
            count = count.saturating_add(usize::from(self.take_and_apply_one(event, apply).await?));
        }
        Ok(count)
    }

    /// `false`: another node has it.
    async fn take_and_apply_one<F, A>(&self, event: Taken, apply: &F) -> Result<bool, DbError>
    where
        F: Fn(Taken) -> A,
        A: Future<Output = Applied> + Send + 'static,
    {
        let (id, due) = (event.id.clone(), event.next_try_at);
        let claimed = self.0.db.write(move |connection| {
            Box::pin(
                async move { query(CLAIM).bind(id).bind(due).bind(CLAIM_MICROS).execute(connection).await },
            )
        });
        if claimed.await? != 1 {
            return Ok(false);
        }
        let applied = self.0.tasks.spawn(apply(event.clone())).await;
        let applied = applied.unwrap_or_else(|_| Applied::Park("applying it ended unexpectedly".to_owned()));
        self.end(event, applied).await?;
        Ok(true)
    }

    async fn end(&self, event: Taken, applied: Applied) -> Result<(), DbError> {
        let id = event.id.clone();
        let (state, why) = match applied {
            Applied::Done => ("applied", None),
            Applied::Ignored(why) => ("ignored", Some(why)),
            Applied::Park(why) => return self.park(event, why).await,
            Applied::Missing { is_proven: true } => return self.miss(event).await,
            // Another account would say the same, so nothing follows from it: not even how long it has been so.
            Applied::Missing { is_proven: false } => return self.park(event, NOT_PROVEN.to_owned()).await,
        };
        tracing::debug!(event.id = id, event.type = event.kind, state, why, "an event has ended");
        let ended = self.0.db.write(move |connection| {
            Box::pin(
                async move { query(END).bind(id).bind(state).bind(why).execute(connection).await.map(drop) },
            )
        });
        ended.await
    }

    async fn park(&self, event: Taken, why: String) -> Result<(), DbError> {
        let why: String = why.chars().filter(|c| !c.is_control()).take(MAX_WHY).collect();
        let wait = wait_after(event.tries);
        let age = now_micros().saturating_sub(event.received_at);
        let (id, kind, tries) = (event.id.as_str(), event.kind.as_str(), event.tries);
        if age > TOO_LONG_MICROS {
            let hours = age.div_euclid(3_600 * SECOND);
            tracing::error!(
                event.id = id, event.type = kind, tries, hours, why,
                "an event of Stripe's has not been applied for hours; a person should look"
            );
        } else {
            tracing::warn!(event.id = id, event.type = kind, tries, why, "an event is parked and tried again");
        }
        let parked = self.0.db.write(move |connection| {
            Box::pin(async move {
                query(PARK).bind(event.id).bind(why).bind(wait).execute(connection).await.map(drop)
            })
        });
        parked.await
    }

    /// Parks an event about an object that Stripe does not have, or ends it when it has not had it for days. What the books know
    /// never ends: somebody must find out where it is. Only where it is proven that the right account was asked.
    async fn miss(&self, event: Taken) -> Result<(), DbError> {
        let (id, kind, object) = (event.id.as_str(), event.kind.as_str(), event.object.as_str());
        let named = Named::by(&event.body);
        let ours = query_scalar(IS_OURS).bind(object.to_owned()).bind(named.intent).bind(named.charge);
        let ours = ours.bind(named.top_up).bind(named.refund);
        let is_ours: bool = ours.fetch_one(self.0.db.reader()).await?;
        let why = if is_ours { UNKNOWN_OBJECT } else { MISSING };
        match event.why.as_deref() == Some(why) {
            // It has been told, and the metrics go on telling it.
            true => {
                tracing::debug!(event.id = id, event.type = kind, object, tries = event.tries, why, "an event waits")
            }
            false if is_ours => tracing::error!(
                event.id = id, event.type = kind, object,
                "Stripe does not know an object that the books know, although the key is of their account; a person must look. The \
                 event stays parked"
            ),
            false => {
                tracing::warn!(event.id = id, event.type = kind, object, "an event is about an object that Stripe does not have")
            }
        }
        let may_end = !is_ours;
        let wait = wait_after(event.tries);
        let missed = self.0.db.write(move |connection| {
            Box::pin(async move {
                let parked = query(PARK_MISSING).bind(event.id.clone()).bind(why).bind(wait);
                parked.execute(&mut *connection).await?;
                if may_end {
                    let ended = query(END_MISSING).bind(event.id).bind(MISSING_MICROS);
                    ended.execute(connection).await?;
                }
                Ok(())
            })
        });
        missed.await
    }

    /// Removes events that have ended so long ago that they cannot come again. Answers how many; a bounded number at once.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn tidy(&self) -> Result<u64, DbError> {
        let removed = self.0.db.write(|connection| {
            Box::pin(async move { query(TIDY).bind(KEEP_MICROS).bind(MAX_REMOVED).execute(connection).await })
        });
        removed.await
    }

    /// Events that could not be applied yet.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn parked(&self) -> Result<ParkedEvents, DbError> {
        Ok(ParkedEvents::read(self.0.db.reader()).await?)
    }

    /// How many events this process has fetched that no webhook had brought, and how many of its looks failed.
    #[must_use]
    pub fn poll_counts(&self) -> (u64, u64) {
        (self.0.fetched.load(Ordering::Relaxed), self.0.failed_polls.load(Ordering::Relaxed))
    }

    pub(super) fn count_fetched(&self, events: u64) {
        self.0.fetched.fetch_add(events, Ordering::Relaxed);
    }

    pub(super) fn count_failed_poll(&self) {
        self.0.failed_polls.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
