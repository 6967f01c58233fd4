//! Looks every second whether the database is still the one that this process opened, and, after writes have failed, whether
//! they work again.
//!
//! A process serves from memory what it once read. When somebody puts an older copy under it, that memory is of wallets that
//! are not there any more. Entries are never removed, so one that was committed and is not there tells: so do tables that were
//! made anew, and a file that is another one. Then nothing is sold until the process is started again.

use std::sync::Arc;
use std::time::Duration;

use super::condition::{Condition, Trouble};
use super::file::{FileWatch, OwnFile};
use super::{Connection, Db, DbError, Sql, now_micros, query, query_scalar, sql_with_now};
use crate::domain::ids::random_bytes;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest pause between two tries to write, when tries work and what comes after them does not.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Writes that fail so soon after a try that worked make the next pause longer.
const SOON: Duration = Duration::from_secs(10);
/// More than a batch of captures needs, so that what is tried is not the last bit of room.
const ROOM: usize = 64 * 1024;

const PLACE: Sql = sql_with_now!(
    "INSERT INTO idempotency_keys (scope, fingerprint, request, node, state, body, created_at, expires_at) \
     VALUES ($1, $1, $2, 'write-test', 'interrupted', $3, ",
    now,
    ", 0)"
);
const REMOVE: &str = "DELETE FROM idempotency_keys WHERE scope = $1";
/// Rolled back. The number is no account.
const ENTRY: &str = "INSERT INTO entries (id, at, source, debit, credit, amount, currency) VALUES ($1, 0, $2, 0, 0, 1, 'xxx')";
const SOURCE_OF: &str = "SELECT source FROM entries WHERE id = $1";
/// What is made anew when a copy is put back.
const TABLES: &str = "\
SELECT string_agg(t.what || ' ' || t.oid, ', ' ORDER BY t.what) FROM (\
SELECT datname::text AS what, oid::bigint FROM pg_database WHERE datname = current_database() UNION ALL \
SELECT c.relname::text, c.oid::bigint FROM pg_class AS c \
WHERE c.oid IN (to_regclass('entries'), to_regclass('clients'), to_regclass('client_keys'), to_regclass('nodes'))) AS t";

/// The look, and what it remembers.
#[derive(Debug)]
pub(crate) struct DatabaseWatch {
    db: Db,
    file: Option<FileWatch>,
    /// Where it is shared: which tables those are.
    tables: Option<String>,
    /// An entry that is committed.
    entry: Option<(i64, String)>,
    /// The file is not there, or is another one: it may come back.
    is_taken_away: bool,
}

impl DatabaseWatch {
    /// `own`: where one process owns a file.
    pub(crate) async fn new(db: Db, own: Option<&OwnFile>) -> Self {
        let mut file = own.map(FileWatch::new);
        if let Some(file) = &mut file {
            // It is what it is compared with.
            let _ = file.look(false);
        }
        let mut watch = Self { db, file, tables: None, entry: None, is_taken_away: false };
        watch.tables = watch.tables().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "whether tables are made anew under this node will not be noticed");
            None
        });
        watch
    }

    /// Until it is aborted.
    pub(crate) async fn run(mut self) {
        let condition = self.db.condition().clone();
        let mut pause = LOOK_EVERY;
        let mut worked: Option<tokio::time::Instant> = None;
        loop {
            let worsened = tokio::time::timeout(LOOK_EVERY, condition.worsened()).await.is_ok();
            if worsened {
                let is_soon = worked.is_some_and(|worked| worked.elapsed() < SOON);
                pause = if is_soon { pause.saturating_mul(2).min(LONGEST_PAUSE) } else { LOOK_EVERY };
                if is_soon {
                    tokio::time::sleep(pause).await;
                }
            }
            self.look(&condition).await;
            while matches!(condition.trouble(), Some(Trouble::Refuses(_))) {
                let room = self.db.has_room().await;
                // Whatever was put back meanwhile is found before anything is sold again.
                self.look(&condition).await;
                match room {
                    Ok(()) if condition.takes_writes() => worked = Some(tokio::time::Instant::now()),
                    _ => tokio::time::sleep(LOOK_EVERY).await,
                }
            }
        }
    }

    async fn look(&mut self, condition: &Condition) {
        if let Some(file) = &mut self.file {
            // Where nothing can be written, the log may not be there for that reason.
            let counts_log = !matches!(condition.trouble(), Some(Trouble::Refuses(_)));
            match file.look(counts_log) {
                Some(why) => {
                    self.is_taken_away |= !condition.is_another();
                    condition.became_another(&why);
                }
                None if std::mem::take(&mut self.is_taken_away) => condition.is_back(),
                None => {}
            }
        }
        if condition.is_another() {
            return;
        }
        match self.has_another_past().await {
            Ok(Some(what)) => condition.became_another(&format!(
                "the database is not the one that this process opened: {what}. If a copy was put back, stop every node, and start them again"
            )),
            Ok(None) => {}
            // It is away, or takes no writes: that is found out otherwise.
            Err(error) => tracing::debug!(%error, "it could not be looked whether the database is the same"),
        }
    }

    async fn tables(&self) -> Result<Option<String>, DbError> {
        if !self.db.is_shared() {
            return Ok(None);
        }
        self.db.write(|connection| Box::pin(query_scalar(TABLES).fetch_optional(connection))).await
    }

    /// What tells that this is another database, or the same one as it was earlier.
    async fn has_another_past(&mut self) -> Result<Option<String>, DbError> {
        if self.tables.is_some() && self.tables().await? != self.tables {
            return Ok(Some("its tables were made anew".to_owned()));
        }
        if let Some((id, source)) = self.entry.clone()
            && self.source_of(id).await? != Some(source)
        {
            return Ok(Some(format!("entry {id}, which was committed, is not in it")));
        }
        let newest = self.db.condition().newest_entry();
        if newest > 0 && self.entry.as_ref().is_none_or(|(id, _)| *id != newest) {
            match self.source_of(newest).await? {
                Some(source) => self.entry = Some((newest, source)),
                None => return Ok(Some(format!("entry {newest}, which was committed, is not in it"))),
            }
        }
        Ok(None)
    }

    /// By the writing connection where there are several: whoever reads may be sent to a copy that lags behind.
    async fn source_of(&self, entry: i64) -> Result<Option<String>, DbError> {
        let asked = query_scalar::<String>(SOURCE_OF).bind(entry);
        match self.db.is_shared() {
            true => self.db.write(move |connection| Box::pin(asked.fetch_optional(connection))).await,
            false => Ok(asked.fetch_optional(self.db.reader()).await?),
        }
    }
}

impl Db {
    /// Writes a little, durably, and removes it in the same step.
    ///
    /// # Errors
    /// Why the database takes no writes.
    pub(crate) async fn takes_a_write(&self) -> Result<(), DbError> {
        let (scope, request) = test_row();
        self.write(move |connection| {
            Box::pin(async move {
                place(connection, &scope, request, None).await?;
                query(REMOVE).bind(scope).execute(connection).await.map(drop)
            })
        })
        .await
    }

    /// The same with as much as many captures need, also where they go.
    async fn has_room(&self) -> Result<(), DbError> {
        let (scope, request) = test_row();
        let placed = Arc::new(scope.clone());
        let is_shared = self.is_shared();
        self.write(move |connection| {
            Box::pin(async move {
                if is_shared {
                    query("SAVEPOINT write_test").execute(&mut *connection).await?;
                    let entry = query(ENTRY).bind(now_micros().saturating_neg()).bind(request.clone());
                    entry.execute(&mut *connection).await?;
                    query("ROLLBACK TO SAVEPOINT write_test").execute(&mut *connection).await?;
                }
                // Nothing that could be made smaller on its way to the disk.
                let body: Vec<u8> = (0..ROOM / 32).flat_map(|_| random_bytes::<32>()).collect();
                place(connection, &scope, request, Some(body)).await
            })
        })
        .await?;
        self.write(move |connection| {
            Box::pin(async move { query(REMOVE).bind(placed.to_vec()).execute(connection).await.map(drop) })
        })
        .await
    }
}

/// It has expired already: should it be left, it is removed like every key that has.
fn test_row() -> (Vec<u8>, String) {
    let scope = random_bytes::<32>().to_vec();
    let request = format!("write-test:{}", crate::domain::RequestId::new());
    (scope, request)
}

async fn place(
    connection: &mut Connection,
    scope: &[u8],
    request: String,
    body: Option<Vec<u8>>,
) -> Result<(), sqlx::Error> {
    query(PLACE).bind(scope.to_vec()).bind(request).bind(body).execute(connection).await.map(drop)
}
