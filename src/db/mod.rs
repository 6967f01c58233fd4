//! The database: SQLite (a file, one process) or PostgreSQL (a server, several nodes).
//!
//! `query.rs` asks either in the same words; `sqlite.rs` and `postgres.rs` open them with the settings that durability
//! depends on, and read those back; `schema.rs` brings the tables up to date. `condition.rs` knows whether writes work,
//! `watch.rs` finds out when they do again and whether it is still the same database, `file.rs` whose the SQLite file is.
//!
//! Reading connections run single statements. Everything that writes belongs to a task that nobody can cancel, so no
//! transaction lives in a future that a caller can drop. On SQLite that task is the ledger's writer, between its batches,
//! because a file has one writing connection; on PostgreSQL other writes have a connection of their own.

mod condition;
mod file;
mod postgres;
mod query;
mod schema;
mod sqlite;
#[cfg(test)]
pub(crate) mod testing;
mod watch;

use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::Connection as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

pub use self::condition::Condition;
pub(crate) use self::condition::{Trouble, is_in_vain};
pub use self::file::{FileError, OwnFile, own, refuse_lost};
pub use self::query::{
    Bind, Connection, On, Query, QueryScalar, Read, Readers, Row, Sql, query, query_scalar,
};
pub(crate) use self::query::{lost, postgres_now, sql_with_now, sqlite_now};
pub use self::schema::{Migrated, SCHEMA_VERSION, copy_into, migrate, require_current, version};
pub(crate) use self::watch::DatabaseWatch;
use crate::config::DatabaseConfig;
use crate::sparing_log::sparingly;

/// Writes waiting for their connection; more make their callers wait.
const QUEUE: usize = 256;
/// A write on a server that does not answer in this time is given up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(8);

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The database said so.
    #[error("the database did not answer as expected: {0}")]
    Sql(#[from] sqlx::Error),
    /// A migration failed.
    #[error("the database schema could not be brought up to date: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A newer program has been here.
    #[error(
        "the database has schema {found}, and this program knows {SCHEMA_VERSION}: a newer prepaid402 has migrated it; run that version"
    )]
    SchemaTooNew {
        /// What the database has.
        found: i64,
    },
    /// `prepaid402 migrate` is due.
    #[error(
        "{}: run `prepaid402 migrate` with the same configuration", too_old(*.found)
    )]
    SchemaTooOld {
        /// What the database has; 0 is none.
        found: i64,
    },
    /// The copy that precedes a migration could not be made.
    #[error("no copy of the database could be made, so nothing was done to it: {0}")]
    Backup(String),
    /// The file is not what it was.
    #[error(transparent)]
    File(#[from] FileError),
    /// Durability would not be what we promise.
    #[error("the database refuses a setting that durability depends on: {0}")]
    Setting(String),
    /// The server does not answer in time.
    #[error("the database server did not answer within {0} seconds")]
    Unreachable(u64),
    /// A write was given up because the server said nothing.
    #[error("the database server did not answer; whether the change was made is not known")]
    Lost,
    /// What one read was told, for all who had asked for it.
    #[error("{0}")]
    Shared(std::sync::Arc<dyn std::error::Error + Send + Sync>),
    /// The writing task has ended because the process is shutting down, or the database is not the one that was opened.
    #[error("the database is closed")]
    Closed,
}

impl From<std::sync::Arc<sqlx::Error>> for DbError {
    fn from(error: std::sync::Arc<sqlx::Error>) -> Self {
        Self::Shared(error)
    }
}

fn too_old(found: i64) -> String {
    match found {
        0 => "the database has no tables of prepaid402 yet".to_owned(),
        found => format!("the database has schema {found}, and this program needs {SCHEMA_VERSION}"),
    }
}

/// The reading connections and the queue of the writing one. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Db {
    readers: Readers,
    writes: mpsc::Sender<WriteJob>,
    condition: Condition,
}

/// A write that is not the ledger's: run in a transaction of its own on a writing connection.
pub(crate) type WriteJob = Box<dyn for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, WriteEnd> + Send>;

/// What is to be done about the connection after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteEnd {
    /// Nothing.
    Fine,
    /// Not even the rollback worked: the connection has to be looked after.
    Failed,
}

/// What the ledger's writer is given.
#[derive(Debug)]
pub(crate) struct WriterSide {
    pub(crate) connection: Connection,
    /// Other writes, where they share the writer's connection.
    pub(crate) writes: Option<mpsc::Receiver<WriteJob>>,
    /// Otherwise the task that runs them; it ends with the last sender, or by a fault.
    pub(crate) other_writes: Option<JoinHandle<()>>,
}

/// Opens a single connection with the settings of the server, for commands that run beside it.
///
/// # Errors
/// [`DbError`] when the database cannot be opened or refuses a setting.
pub async fn connect(database: &DatabaseConfig) -> Result<Connection, DbError> {
    match database {
        DatabaseConfig::Sqlite(path) => Ok(Connection::Sqlite(sqlite::connect(path).await?)),
        DatabaseConfig::Postgres(url) => Ok(Connection::Postgres(postgres::connect(url).await?)),
    }
}

/// Opens a single connection for [`migrate`].
///
/// # Errors
/// [`DbError`] when the database cannot be opened or refuses a setting.
pub async fn connect_for_migration(database: &DatabaseConfig) -> Result<Connection, DbError> {
    match database {
        DatabaseConfig::Sqlite(_) => connect(database).await,
        DatabaseConfig::Postgres(url) => {
            Ok(Connection::Postgres(postgres::connect_for_migration(url).await?))
        }
    }
}

/// Opens a single connection that cannot write, to an existing database.
///
/// # Errors
/// [`DbError`] when the database is not there or cannot be read.
pub async fn connect_read_only(database: &DatabaseConfig) -> Result<Connection, DbError> {
    match database {
        DatabaseConfig::Sqlite(path) => Ok(Connection::Sqlite(sqlite::connect_read_only(path).await?)),
        DatabaseConfig::Postgres(url) => Ok(Connection::Postgres(postgres::connect_read_only(url).await?)),
    }
}

/// Opens the database of the server: its schema checked, or brought up to date where only this process uses it, with a pool
/// of readers.
///
/// # Errors
/// [`DbError`].
pub(crate) async fn open(database: &DatabaseConfig) -> Result<(Db, WriterSide), DbError> {
    let mut connection = connect(database).await?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let condition = Condition::default();
    match database {
        DatabaseConfig::Sqlite(path) => {
            migrate(&mut connection, database).await?;
            let readers = Readers::Sqlite(sqlite::readers(path).await?);
            let side = WriterSide { connection, writes: Some(receiver), other_writes: None };
            Ok((Db { readers, writes: sender, condition }, side))
        }
        DatabaseConfig::Postgres(url) => {
            schema::require_current(&mut connection).await?;
            let readers = Readers::Postgres(postgres::readers(url).await?);
            let writing = connect(database).await?;
            let serving = serve_writes(writing, database.clone(), receiver, condition.clone());
            let side = WriterSide { connection, writes: None, other_writes: Some(tokio::spawn(serving)) };
            Ok((Db { readers, writes: sender, condition }, side))
        }
    }
}

/// Runs writes one after the other until every sender is gone.
async fn serve_writes(
    mut connection: Connection,
    database: DatabaseConfig,
    mut writes: mpsc::Receiver<WriteJob>,
    condition: Condition,
) {
    while let Some(write) = writes.recv().await {
        // The server ends what hangs; this is for a network that says nothing. The connection is thrown away then.
        match tokio::time::timeout(WRITE_TIMEOUT, write(&mut connection)).await {
            Ok(WriteEnd::Fine) => {}
            Ok(WriteEnd::Failed) => connection.mend(&database, false).await,
            Err(_) => {
                condition.refuses(&DbError::Lost);
                connection.mend(&database, true).await;
            }
        }
    }
    let _ = connection.close().await;
}

impl Db {
    /// Connections that can only read.
    #[must_use]
    pub fn reader(&self) -> &Readers {
        &self.readers
    }

    /// Whether other processes may change the same database while this one runs.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self.readers, Readers::Postgres(_))
    }

    /// Whether it takes writes.
    #[must_use]
    pub fn condition(&self) -> &Condition {
        &self.condition
    }

    /// Runs one write in a transaction of its own on a writing connection. The work goes on when the caller is gone.
    ///
    /// Inside, every failed statement must end the work: PostgreSQL answers a COMMIT after a failure without an error.
    ///
    /// # Errors
    /// [`DbError::Closed`] at shutdown, and when it is not the database that was opened; otherwise what the statement said, after a rollback.
    pub async fn write<T, F>(&self, work: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + 'static,
    {
        if self.condition.is_another() {
            return Err(DbError::Closed);
        }
        let (answer, result) = oneshot::channel();
        let condition = self.condition.clone();
        let job: WriteJob = Box::new(move |connection| {
            Box::pin(async move {
                let (outcome, end) = connection.transaction(work).await;
                if let Err(error) = &outcome {
                    condition.note(error);
                }
                // The caller may have gone; the write stands either way.
                let _ = answer.send(outcome);
                end
            })
        });
        self.writes.send(job).await.map_err(|_| DbError::Closed)?;
        Ok(result.await.map_err(|_| DbError::Lost)??)
    }
}

impl Connection {
    /// Begins a transaction that will write.
    ///
    /// Plain statements rather than sqlx's guard, which goes on counting a transaction that SQLite has rolled back by
    /// itself (a full disk), and then refuses every later one.
    pub(crate) async fn begin(&mut self) -> Result<(), sqlx::Error> {
        query(Sql::each("BEGIN IMMEDIATE", "BEGIN ISOLATION LEVEL READ COMMITTED")).execute(self).await?;
        Ok(())
    }

    /// Begins a transaction that sees one state of the database and changes nothing.
    pub(crate) async fn begin_snapshot(&mut self) -> Result<(), sqlx::Error> {
        query(Sql::each("BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")).execute(self).await?;
        Ok(())
    }

    pub(crate) async fn commit(&mut self) -> Result<(), sqlx::Error> {
        query("COMMIT").execute(self).await?;
        Ok(())
    }

    /// Ends the transaction, if there is one. That there is none is no error: SQLite may have rolled back by itself.
    pub(crate) async fn rollback(&mut self) -> Result<(), sqlx::Error> {
        match query("ROLLBACK").execute(&mut *self).await {
            Err(error @ sqlx::Error::Database(_)) if matches!(self, Self::Sqlite(_)) => {
                if error.to_string().contains("no transaction is active") { Ok(()) } else { Err(error) }
            }
            other => other.map(drop),
        }
    }

    /// Runs work in a transaction: committed when it succeeds, rolled back when it fails.
    pub(crate) async fn in_transaction<T, F>(&mut self, work: F) -> Result<T, sqlx::Error>
    where
        F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, sqlx::Error>>,
    {
        self.transaction(work).await.0
    }

    /// The same, and tells whether the connection has ended its transaction.
    async fn transaction<T, F>(&mut self, work: F) -> (Result<T, sqlx::Error>, WriteEnd)
    where
        F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, sqlx::Error>>,
    {
        if let Err(error) = self.begin().await {
            return (Err(error), WriteEnd::Failed);
        }
        let outcome = match work(self).await {
            Ok(value) => self.commit().await.map(|()| value),
            Err(error) => Err(error),
        };
        if outcome.is_ok() {
            return (outcome, WriteEnd::Fine);
        }
        let end = if self.rollback().await.is_ok() { WriteEnd::Fine } else { WriteEnd::Failed };
        (outcome, end)
    }

    /// After a failure: a connection that does not end its transaction, or of which nobody knows what it is doing
    /// (`is_lost`), is given up and opened anew. Until that works, every statement on it fails.
    pub(crate) async fn mend(&mut self, database: &DatabaseConfig, is_lost: bool) {
        if !is_lost && !matches!(self, Self::Lost) {
            let ended = tokio::time::timeout(postgres::CONNECT_TIMEOUT, self.rollback()).await;
            if matches!(ended, Ok(Ok(()))) {
                return;
            }
        }
        // Given up first: half a transaction on it must never be continued.
        *self = Self::Lost;
        match connect(database).await {
            Ok(connection) => {
                sparingly!(warn, "a writing connection is opened anew after a failure");
                *self = connection;
            }
            Err(error) => sparingly!(error, %error, "a writing connection cannot be opened anew yet"),
        }
    }

    /// Says goodbye.
    ///
    /// # Errors
    /// What the database said.
    pub async fn close(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(connection) => connection.close().await,
            Self::Postgres(connection) => connection.close().await,
            Self::Lost => Ok(()),
        }
    }
}

impl Readers {
    /// Waits for what is being read, and closes. On SQLite this comes before the writer's end: the last connection puts
    /// everything into the one file, and one that only reads cannot.
    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

/// Runs writes until every sender is gone; for programs without a ledger writer, and tests.
#[doc(hidden)]
pub async fn run_writes_only(database: &DatabaseConfig) -> Result<Db, DbError> {
    let (db, side) = open(database).await?;
    if let Some(writes) = side.writes {
        tokio::spawn(serve_writes(side.connection, database.clone(), writes, db.condition.clone()));
    }
    Ok(db)
}

/// Unix microseconds now: the one clock of what is stored.
#[must_use]
pub fn now_micros() -> i64 {
    chrono::Utc::now().timestamp_micros()
}
