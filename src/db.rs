//! The SQLite database: opening, settings that durability depends on, migrations, the one writing connection.
//!
//! One task owns the only writing connection. The ledger's batches and every other write go through it, so nothing waits
//! for SQLite's lock inside the process, and no transaction lives in a future that a caller can drop.

use std::path::Path;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, SqlSafeStr as _};
use tokio::sync::{mpsc, oneshot};

/// Writes waiting for the connection; more make their callers wait.
const QUEUE: usize = 256;
/// SQLite below this can corrupt a WAL database with two connections: <https://sqlite.org/wal.html#walresetbug>.
const MIN_SQLITE: (u32, u32, u32) = (3, 51, 3);

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// SQLite said so.
    #[error("the database did not answer as expected: {0}")]
    Sql(#[from] sqlx::Error),
    /// A migration failed, or the schema is newer than this program.
    #[error("the database schema could not be brought up to date: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// Durability would not be what we promise.
    #[error("the database refuses a setting that durability depends on: {0}")]
    Setting(String),
    /// The writing task has ended; the process is shutting down.
    #[error("the database is closed")]
    Closed,
}

/// The pool of reading connections and the queue of the writing one. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Db {
    reader: SqlitePool,
    writes: mpsc::Sender<WriteJob>,
}

/// A write that is not the ledger's: run in a transaction of its own on the writing connection.
pub(crate) type WriteJob = Box<dyn for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, ()> + Send>;

/// What the task that owns the writing connection is given.
#[derive(Debug)]
pub(crate) struct WriterSide {
    pub(crate) connection: SqliteConnection,
    pub(crate) writes: mpsc::Receiver<WriteJob>,
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5))
        .pragma("trusted_schema", "OFF")
        .pragma("cell_size_check", "ON")
        // Otherwise REPLACE deletes entries without asking the trigger that forbids it.
        .pragma("recursive_triggers", "ON")
        .disable_statement_logging()
}

/// Opens a single connection with the settings of the server, for commands that run beside it.
///
/// # Errors
/// [`DbError`] when the file cannot be opened or refuses a setting.
pub async fn connect(path: &Path) -> Result<SqliteConnection, DbError> {
    let mut connection = options(path).connect().await?;
    check_settings(&mut connection).await?;
    Ok(connection)
}

/// Opens a single connection that cannot write, to an existing database.
///
/// # Errors
/// [`DbError`] when the file is not there or cannot be read.
pub async fn connect_read_only(path: &Path) -> Result<SqliteConnection, DbError> {
    Ok(options(path).create_if_missing(false).read_only(true).connect().await?)
}

/// Reads back what durability depends on, since SQLite ignores what it cannot do.
async fn check_settings(connection: &mut SqliteConnection) -> Result<(), DbError> {
    let version: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut *connection).await?;
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    if (next(), next(), next()) < MIN_SQLITE {
        return Err(DbError::Setting(format!("SQLite {version} is older than 3.51.3")));
    }
    let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *connection).await?;
    if journal != "wal" {
        return Err(DbError::Setting(format!(
            "journal_mode is {journal}, not wal: is the data directory on a network file system?"
        )));
    }
    let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *connection).await?;
    if synchronous != 2 {
        return Err(DbError::Setting(format!("synchronous is {synchronous}, not 2 (FULL)")));
    }
    Ok(())
}

fn migrator() -> Migrator {
    let sources = [
        (1, "ledger", include_str!("../migrations/sqlite/0001_ledger.sql")),
        (2, "admin", include_str!("../migrations/sqlite/0002_admin.sql")),
    ];
    Migrator::with_migrations(
        sources
            .into_iter()
            .map(|(version, name, sql)| {
                Migration::new(
                    version,
                    name.into(),
                    MigrationType::Simple,
                    AssertSqlSafe(sql).into_sql_str(),
                    false,
                )
            })
            .collect(),
    )
}

/// Brings the schema up to date. Refuses a schema newer than this program.
///
/// # Errors
/// [`DbError::Migrate`].
pub async fn migrate(connection: &mut SqliteConnection) -> Result<(), DbError> {
    migrator().run(connection).await?;
    Ok(())
}

/// Opens the database of the server: migrated, checked, with a pool of readers.
///
/// # Errors
/// [`DbError`].
pub(crate) async fn open(path: &Path) -> Result<(Db, WriterSide), DbError> {
    let mut connection = connect(path).await?;
    migrate(&mut connection).await?;
    let reader = SqlitePoolOptions::new()
        .max_connections(4)
        .acquire_timeout(Duration::from_secs(3))
        .connect_with(options(path).read_only(true))
        .await?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    Ok((Db { reader, writes: sender }, WriterSide { connection, writes: receiver }))
}

impl Db {
    /// Connections that can only read.
    #[must_use]
    pub fn reader(&self) -> &SqlitePool {
        &self.reader
    }

    /// Runs one write in a transaction of its own (BEGIN IMMEDIATE … COMMIT) on the writing connection. The work goes on
    /// when the caller is gone.
    ///
    /// # Errors
    /// [`DbError::Closed`] at shutdown; otherwise what the statement said, after a rollback.
    pub async fn write<T, F>(&self, work: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let job: WriteJob = Box::new(move |connection| {
            Box::pin(async move {
                let outcome = in_transaction(connection, work).await;
                // The caller may have gone; the write stands either way.
                let _ = answer.send(outcome);
            })
        });
        self.writes.send(job).await.map_err(|_| DbError::Closed)?;
        Ok(result.await.map_err(|_| DbError::Closed)??)
    }
}

async fn in_transaction<T, F>(connection: &mut SqliteConnection, work: F) -> Result<T, sqlx::Error>
where
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, sqlx::Error>>,
{
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let value = work(&mut transaction).await?;
    transaction.commit().await?;
    Ok(value)
}

/// Runs writes until every sender is gone; for programs without a ledger writer, and tests.
#[doc(hidden)]
pub async fn run_writes_only(path: &Path) -> Result<Db, DbError> {
    let (db, mut side) = open(path).await?;
    tokio::spawn(async move {
        while let Some(job) = side.writes.recv().await {
            job(&mut side.connection).await;
        }
    });
    Ok(db)
}

/// Unix microseconds now: the one clock of what is stored.
#[must_use]
pub fn now_micros() -> i64 {
    chrono::Utc::now().timestamp_micros()
}
