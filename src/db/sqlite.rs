//! Opening the SQLite file: the settings that durability depends on, set and read back.

use std::path::Path;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};

use super::DbError;

/// SQLite below this can corrupt a WAL database with two connections: <https://sqlite.org/wal.html#walresetbug>.
const MIN_SQLITE: (u32, u32, u32) = (3, 51, 3);

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5))
        .pragma("trusted_schema", "OFF")
        .pragma("cell_size_check", "ON")
        // Otherwise REPLACE deletes entries without asking the trigger that forbids it.
        .pragma("recursive_triggers", "ON")
        .disable_statement_logging()
}

pub(super) async fn connect(path: &Path) -> Result<SqliteConnection, DbError> {
    // Only who writes may set the mode: a reader of a copy that was made otherwise could not.
    let options = options(path).create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
    let mut connection = options.connect().await?;
    check_settings(&mut connection).await?;
    Ok(connection)
}

/// Whatever journal the file has: a backup copy is made without WAL, and a reader cannot change that.
pub(super) async fn connect_read_only(path: &Path) -> Result<SqliteConnection, DbError> {
    Ok(options(path).read_only(true).connect().await?)
}

pub(super) async fn readers(path: &Path) -> Result<SqlitePool, DbError> {
    Ok(SqlitePoolOptions::new()
        .max_connections(4)
        .acquire_timeout(Duration::from_secs(3))
        .connect_with(options(path).read_only(true))
        .await?)
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
