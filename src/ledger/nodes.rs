//! Who runs. Each process has a row with a lease that it renews; a process whose lease has run out is dead, and another one
//! finishes what it left: captures without an answer are given back, holds are released.
//!
//! All times are the database's. A node that was only asleep finds its holds released and its captures given back, which
//! errs for the client; it can then deliver nothing that is not paid, because the ledger decides. After an outage of the
//! database every lease has run out, so nobody calls another dead before all had time to come back.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Ledger;
use super::core::{Release, Reverse};
use super::storage;
use crate::db::{Db, DbError, Sql, query, query_scalar, sql_with_now};

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
const FORGET_ROW: &str = "DELETE FROM undelivered WHERE node = $1 AND EXISTS \
     (SELECT 1 FROM nodes WHERE id = $1 AND lease_until = $2)";
const FORGET_NODE: &str = "DELETE FROM nodes WHERE id = $1 AND lease_until = $2";

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(FOREVER)
}

impl Node {
    pub(super) fn new(id: String) -> Self {
        Self { id, since: Mutex::new(None) }
    }

    /// Renews the lease. Where there is one node at a time, once is enough.
    pub(super) async fn renew(&self, db: &Db) -> Result<(), DbError> {
        if !db.is_shared() && self.since.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        let lease = if db.is_shared() { micros(LEASE) } else { FOREVER };
        let id = self.id.clone();
        let held = db
            .write(move |connection| {
                Box::pin(async move {
                    let held =
                        query_scalar::<bool>(LEASE_HOLDS).bind(&id).fetch_one(&mut *connection).await?;
                    query(RENEW)
                        .bind(&id)
                        .bind(crate::db::now_micros())
                        .bind(lease)
                        .execute(connection)
                        .await?;
                    Ok(held)
                })
            })
            .await?;
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if !held || since.is_none() {
            *since = Some(Instant::now());
        }
        Ok(())
    }

    /// Whether every node that lives has had the time to renew its lease since this one came, or came back.
    fn may_call_others_dead(&self) -> bool {
        let since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() >= LEASE)
    }
}

impl Ledger {
    /// Renews this node's lease, and finishes what dead nodes left. Answers how many it has finished.
    ///
    /// # Errors
    /// When the database cannot be used; the next step tries again.
    pub async fn keep_alive(&self) -> Result<usize, DbError> {
        self.node.renew(&self.db).await?;
        if self.db.is_shared() { self.sweep().await } else { Ok(0) }
    }

    async fn sweep(&self) -> Result<usize, DbError> {
        let lapsed = self.node.may_call_others_dead();
        let dead: Vec<String> = query_scalar(DEAD).bind(lapsed).fetch_all(self.db.reader()).await?;
        let mut swept = 0usize;
        for node in dead {
            if node != self.node.id && self.sweep_node(&node).await? {
                swept = swept.saturating_add(1);
            }
        }
        Ok(swept)
    }

    /// Idempotent, so that a sweeper who dies in the middle is followed by another.
    async fn sweep_node(&self, node: &str) -> Result<bool, DbError> {
        let id = node.to_owned();
        let lease: Option<i64> = self
            .db
            .write(move |connection| {
                Box::pin(async move {
                    query(NOTE_DEAD).bind(&id).execute(&mut *connection).await?;
                    let claimed =
                        query(CLAIM).bind(&id).bind(micros(LEASE)).execute(&mut *connection).await?;
                    if claimed == 0 {
                        return Ok(None);
                    }
                    query_scalar("SELECT lease_until FROM nodes WHERE id = $1")
                        .bind(&id)
                        .fetch_optional(connection)
                        .await
                })
            })
            .await?;
        let Some(lease) = lease else {
            return Ok(false);
        };
        let id = node.to_owned();
        let (captures, holds) = self
            .db
            .write(move |connection| {
                Box::pin(async move {
                    let captures = storage::undelivered(connection, Some(&id)).await?;
                    let holds = storage::open_holds(connection, Some(&id)).await?;
                    Ok((captures, holds))
                })
            })
            .await?;
        let (mut given_back, mut released) = (0u64, 0u64);
        for (capture, client) in captures {
            match self.reverse_captured(Reverse { capture, client }).await {
                Ok(posted) => given_back = given_back.saturating_add(u64::from(!posted.repeated)),
                Err(super::LedgerError::Refused(_)) => {}
                Err(_) => return Ok(false),
            }
        }
        for (request, client) in holds {
            match self.release_held(Release { client, hold: super::hold_source_of(&request) }).await {
                Ok(posted) => released = released.saturating_add(u64::from(!posted.repeated)),
                Err(super::LedgerError::Refused(_)) => {}
                Err(_) => return Ok(false),
            }
        }
        let id = node.to_owned();
        // Only while it has not come back: its lease is still the one that had run out.
        self.db
            .write(move |connection| {
                Box::pin(async move {
                    query(FORGET_ROW).bind(&id).bind(lease).execute(&mut *connection).await?;
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
