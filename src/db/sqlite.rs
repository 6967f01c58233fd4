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
    let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *connection).await?;
    let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *connection).await?;
    match unsafe_setting(&version, &journal, synchronous) {
        None => Ok(()),
        Some(what) => Err(DbError::Setting(what)),
    }
}

/// Why money is not safe with these settings.
fn unsafe_setting(version: &str, journal: &str, synchronous: i64) -> Option<String> {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    if (next(), next(), next()) < MIN_SQLITE {
        return Some(format!(
            "SQLite {version} is older than 3.51.3 and can destroy a database that two connections use: build this program with \
             the SQLite that comes with it"
        ));
    }
    if journal != "wal" {
        return Some(format!(
            "journal_mode is {journal}, not wal: put data_dir on a local disk, not on a network file system"
        ));
    }
    // 3 is EXTRA, which is stricter; nothing here sets it.
    if synchronous != 2 {
        return Some(format!(
            "synchronous is {synchronous}, not 2 (FULL), so a power failure would lose payments that were answered"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::unsafe_setting;

    #[test]
    fn what_could_lose_money_is_refused() {
        for (version, journal, synchronous, words) in [
            ("3.51.2", "wal", 2, "older than 3.51.3"),
            ("3.46.0", "wal", 2, "older than 3.51.3"),
            ("3.9.99", "wal", 2, "older than 3.51.3"),
            ("2.99.99", "wal", 2, "older than 3.51.3"),
            ("", "wal", 2, "older than 3.51.3"),
            ("3.51.3", "delete", 2, "journal_mode is delete"),
            ("3.51.3", "memory", 2, "journal_mode is memory"),
            ("3.51.3", "wal", 0, "synchronous is 0"),
            ("3.51.3", "wal", 1, "synchronous is 1"),
        ] {
            let said = unsafe_setting(version, journal, synchronous).unwrap_or_default();
            assert!(said.contains(words), "{version} {journal} {synchronous}: {said}");
        }
        for version in ["3.51.3", "3.51.10", "3.53.0", "4.0.0"] {
            assert_eq!(unsafe_setting(version, "wal", 2), None, "{version}");
        }
    }
}
