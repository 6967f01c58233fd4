//! Who runs. Each process has a row with a lease that it renews; a process whose lease has run out is dead, and another one
//! finishes what it left: captures without an answer are given back, holds are released.
//!
//! All times are the database's. A node that was only asleep finds its holds released and its captures given back, which
//! errs for the client; it can then deliver nothing that is not paid, because the ledger decides. After an outage of the
//! database every lease has run out, so nobody calls another dead before all had time to come back.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::core::{ClientId, Release, Reverse};
use super::source::Source;
use super::{Ledger, LedgerError, Posted, storage};
use crate::db::{Db, DbError, Sql, now_micros, query, query_scalar, sql_with_now};

/// A node that has not been heard of for this long is dead.
pub const LEASE: Duration = Duration::from_secs(15);
/// Time between two renewals.
pub const RENEW_EVERY: Duration = Duration::from_secs(3);
/// Where there is one node at a time, its lease never runs out.
const FOREVER: i64 = i64::MAX / 4;

/// This process among the others.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: String,
    /// Since when the lease has been held without a gap.
    since: Mutex<Option<Instant>>,
    /// When it was renewed last, in Unix microseconds.
    renewed: AtomicI64,
}

const RENEW: Sql = sql_with_now!(
    "INSERT INTO nodes (id, started_at, lease_until, sweep_until) VALUES ($1, $2, $3 + ",
    now,
    ", 0) ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until"
);
const LEASE_HOLDS: Sql =
    sql_with_now!("SELECT EXISTS (SELECT 1 FROM nodes WHERE id = $1 AND lease_until > ", now, ")");
/// Those that said goodbye (0), those whose lease has run out, and those of which nothing but their rows is left.
const DEAD: Sql = sql_with_now!(
    "SELECT id FROM nodes WHERE lease_until = 0 OR ($1 AND lease_until <= ",
    now,
    ") UNION SELECT h.node FROM holds AS h WHERE $1 AND NOT EXISTS (SELECT 1 FROM nodes AS n WHERE n.id = h.node) \
     UNION SELECT u.node FROM undelivered AS u WHERE $1 AND NOT EXISTS (SELECT 1 FROM nodes AS n WHERE n.id = u.node)",
);
const NOTE_DEAD: &str = "INSERT INTO nodes (id, started_at, lease_until, sweep_until) VALUES ($1, 0, 0, 0) ON CONFLICT (id) DO NOTHING";
const CLAIM: Sql = sql_with_now!(
    "UPDATE nodes SET sweep_until = $2 + ",
    now,
    " WHERE id = $1 AND lease_until <= ",
    now,
    " AND sweep_until <= ",
    now,
    ""
);
/// The version that was read, and no later one: that would note captures that nobody has given back.
const FORGET_ROW: &str = "DELETE FROM undelivered WHERE node = $1 AND entries = $3 AND EXISTS \
     (SELECT 1 FROM nodes WHERE id = $1 AND lease_until = $2)";
const FORGET_NODE: &str = "DELETE FROM nodes WHERE id = $1 AND lease_until = $2";

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(FOREVER)
}

impl Node {
    pub(super) fn new(id: String) -> Self {
        Self { id, since: Mutex::new(None), renewed: AtomicI64::new(0) }
    }

    /// Renews the lease. Where there is one node at a time, once is enough.
    ///
    /// Not through the queue of the other writes, which one slow statement can hold up: a lease that is lost for that would
    /// cost clients and seller. It is one statement of its own, which cancelling leaves whole or undone.
    pub(super) async fn renew(&self, db: &Db) -> Result<(), DbError> {
        if !db.is_shared() {
            if self.since.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                return Ok(());
            }
            let id = self.id.clone();
            db.write(move |connection| {
                Box::pin(async move {
                    query(RENEW).bind(id).bind(now_micros()).bind(FOREVER).execute(connection).await
                })
            })
            .await?;
            self.has_renewed(false);
            return Ok(());
        }
        let held = query_scalar::<bool>(LEASE_HOLDS).bind(&self.id).fetch_one(db.reader()).await?;
        let renewing = query(RENEW).bind(&self.id).bind(now_micros()).bind(micros(LEASE));
        renewing.execute(db.reader()).await?;
        self.has_renewed(held);
        Ok(())
    }

    fn has_renewed(&self, held: bool) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if !held || since.is_none() {
            *since = Some(Instant::now());
        }
        self.renewed.store(now_micros(), Ordering::Relaxed);
    }

    /// Whether this process has renewed its lease lately, by the wall clock, which goes on while a machine sleeps. Otherwise
    /// others may be finishing what it runs.
    pub(super) fn is_fresh(&self) -> bool {
        now_micros().saturating_sub(self.renewed.load(Ordering::Relaxed)) < micros(LEASE)
    }

    /// Whether every node that lives has had the time to renew its lease since this one came, or came back.
    fn may_call_others_dead(&self) -> bool {
        let since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() >= LEASE)
    }
}

/// What a dead node left.
struct Left {
    /// Its lease, which has run out.
    lease: i64,
    /// Its row of captures without an answer, as it was read.
    entries: Option<String>,
    captures: Vec<(Source, Option<ClientId>)>,
    holds: Vec<(Source, ClientId)>,
}

/// How many were not done before. `None`: one could not be done.
fn fresh(done: &[Result<Posted, LedgerError>]) -> Option<u64> {
    let counted = done.iter().map(|done| match done {
        Ok(posted) => Some(u64::from(!posted.repeated)),
        // It was done already, or there is nothing to do.
        Err(LedgerError::Refused(_)) => Some(0),
        Err(_) => None,
    });
    counted.sum()
}

impl Ledger {
    /// Renews this node's lease, and finishes what dead nodes left. Answers how many it has finished.
    ///
    /// # Errors
    /// When the database cannot be used; the next step tries again.
    pub async fn keep_alive(&self) -> Result<usize, DbError> {
        self.renew_lease().await?;
        self.sweep().await
    }

    /// Renews this node's lease.
    ///
    /// # Errors
    /// When the database cannot be used; the next step tries again.
    pub async fn renew_lease(&self) -> Result<(), DbError> {
        let renewed = self.node.renew(&self.db).await;
        if let Err(DbError::Sql(error)) = &renewed {
            self.db.condition().note(error);
        }
        renewed
    }

    /// Finishes what dead nodes left, and answers how many. It may take longer than a lease.
    ///
    /// # Errors
    /// When the database cannot be used; the next step tries again.
    pub async fn sweep(&self) -> Result<usize, DbError> {
        if !self.db.is_shared() {
            return Ok(0);
        }
        let lapsed = self.node.may_call_others_dead();
        let dead: Vec<String> = query_scalar(DEAD).bind(lapsed).fetch_all(self.db.reader()).await?;
        let (mut swept, mut failed) = (0usize, None);
        for node in dead.into_iter().filter(|node| *node != self.node.id) {
            // What one of them has left may be beyond us: the others are finished all the same.
            match self.sweep_node(&node).await {
                Ok(done) => swept = swept.saturating_add(usize::from(done)),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(swept), Err)
    }

    /// Takes a dead node's affairs for a while, and reads what it left: one transaction, so that a node that comes back at this
    /// moment does so before or after.
    async fn claim(&self, node: String) -> Result<Option<Left>, DbError> {
        self.db
            .write(move |connection| {
                Box::pin(async move {
                    query(NOTE_DEAD).bind(&node).execute(&mut *connection).await?;
                    let claim = query(CLAIM).bind(&node).bind(micros(LEASE));
                    if claim.execute(&mut *connection).await? == 0 {
                        return Ok(None);
                    }
                    let lease = query_scalar("SELECT lease_until FROM nodes WHERE id = $1");
                    let entries = query_scalar("SELECT entries FROM undelivered WHERE node = $1");
                    Ok(Some(Left {
                        lease: lease.bind(&node).fetch_one(&mut *connection).await?,
                        entries: entries.bind(&node).fetch_optional(&mut *connection).await?,
                        captures: storage::undelivered(&mut *connection, Some(&node)).await?,
                        holds: storage::open_holds(connection, Some(&node)).await?,
                    }))
                })
            })
            .await
    }

    /// Idempotent, so that a sweeper who dies in the middle is followed by another.
    async fn sweep_node(&self, node: &str) -> Result<bool, DbError> {
        let Some(left) = self.claim(node.to_owned()).await? else {
            return Ok(false);
        };
        // All at once: the writer takes them in batches.
        let given_back = left.captures.into_iter().map(|(capture, client)| {
            let reverse = Reverse { capture, client };
            self.reverse_captured(reverse)
        });
        let released =
            left.holds.into_iter().map(|(hold, client)| self.release_held(Release { client, hold }));
        let (given_back, released) = tokio::join!(join_all(given_back), join_all(released));
        let (Some(given_back), Some(released)) = (fresh(&given_back), fresh(&released)) else {
            return Ok(false);
        };
        let (lease, entries) = (left.lease, left.entries);
        let id = node.to_owned();
        // Only while it has not come back: its lease is still the one that had run out.
        self.db
            .write(move |connection| {
                Box::pin(async move {
                    query(FORGET_ROW).bind(&id).bind(lease).bind(entries).execute(&mut *connection).await?;
                    query(FORGET_NODE).bind(&id).bind(lease).execute(connection).await
                })
            })
            .await?;
        self.counts.reversed_for_others.fetch_add(given_back, std::sync::atomic::Ordering::Relaxed);
        tracing::warn!(
            node,
            captures.reversed = given_back,
            holds.released = released,
            "a node ended before its answers were delivered for certain; what it left is finished"
        );
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
