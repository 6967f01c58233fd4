//! The tables, and how they are brought up to date.
//!
//! SQLite belongs to one process, which migrates it at start, after a backup copy. PostgreSQL is shared: `prepaid402
//! migrate` does it, once, and `serve` only looks. Every migration leaves tables that the version before can work with, so
//! that nodes are restarted one after the other.

use std::path::{Path, PathBuf};

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, SqlSafeStr as _};

use super::{Connection, DbError, Sql, file, query, query_scalar};
use crate::config::DatabaseConfig;

/// The version of the tables that this program works with.
pub const SCHEMA_VERSION: i64 = 8;

const SQLITE: [(i64, &str, &str); 8] = [
    (1, "ledger", include_str!("../../migrations/sqlite/0001_ledger.sql")),
    (2, "admin", include_str!("../../migrations/sqlite/0002_admin.sql")),
    (3, "nodes", include_str!("../../migrations/sqlite/0003_nodes.sql")),
    (4, "money truth", include_str!("../../migrations/sqlite/0004_money_truth.sql")),
    (5, "at once", include_str!("../../migrations/sqlite/0005_at_once.sql")),
    (6, "mended money", include_str!("../../migrations/sqlite/0006_mended_money.sql")),
    (7, "card identity", include_str!("../../migrations/sqlite/0007_card_identity.sql")),
    (8, "typed ledger", include_str!("../../migrations/sqlite/0008_typed_ledger.sql")),
];
/// The first version that PostgreSQL had is 3: its first file is everything up to then.
const POSTGRES: [(i64, &str, &str); 6] = [
    (3, "everything", include_str!("../../migrations/postgres/0003_everything.sql")),
    (4, "money truth", include_str!("../../migrations/postgres/0004_money_truth.sql")),
    (5, "at once", include_str!("../../migrations/postgres/0005_at_once.sql")),
    (6, "mended money", include_str!("../../migrations/postgres/0006_mended_money.sql")),
    (7, "card identity", include_str!("../../migrations/postgres/0007_card_identity.sql")),
    (8, "typed ledger", include_str!("../../migrations/postgres/0008_typed_ledger.sql")),
];

/// What a migration did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// The version before; 0 is an empty database.
    pub from: i64,
    /// The copy of a SQLite file that held something.
    pub backup: Option<PathBuf>,
}

/// Where PostgreSQL's versions are noted: an application that has the paywall inside may have migrations of its own.
const POSTGRES_VERSIONS: &str = "prepaid402_migrations";

fn migrator(sources: &[(i64, &'static str, &'static str)]) -> Migrator {
    let migration = |&(version, name, sql): &(i64, &'static str, &'static str)| {
        let sql = AssertSqlSafe(sql).into_sql_str();
        Migration::new(version, name.into(), MigrationType::Simple, sql, false)
    };
    Migrator::with_migrations(sources.iter().map(migration).collect())
}

/// The version of the tables that the database has; 0 is none.
///
/// # Errors
/// What the database said.
pub async fn version(connection: &mut Connection) -> Result<i64, sqlx::Error> {
    let exists = query_scalar::<bool>(Sql::each(
        "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = '_sqlx_migrations')",
        "SELECT to_regclass('prepaid402_migrations') IS NOT NULL",
    ));
    if !exists.fetch_one(&mut *connection).await? {
        return Ok(0);
    }
    query_scalar(Sql::each(
        "SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations WHERE success",
        "SELECT COALESCE(MAX(version), 0) FROM prepaid402_migrations WHERE success",
    ))
    .fetch_one(connection)
    .await
}

/// Refuses a schema that is not this program's.
///
/// # Errors
/// [`DbError::SchemaTooOld`] and [`DbError::SchemaTooNew`].
pub async fn require_current(connection: &mut Connection) -> Result<(), DbError> {
    match version(connection).await? {
        SCHEMA_VERSION => Ok(()),
        found if found > SCHEMA_VERSION => Err(DbError::SchemaTooNew { found }),
        found => Err(DbError::SchemaTooOld { found }),
    }
}

const MIGRATION_TRIES: u32 = 5;
const MIGRATION_PAUSE: std::time::Duration = std::time::Duration::from_millis(300);

/// Brings the schema up to date; a SQLite file that holds something is copied first. Refuses a schema newer than this
/// program.
///
/// # Errors
/// [`DbError`]; nothing was changed then, except by migrations that came before the one that failed.
pub async fn migrate(connection: &mut Connection, database: &DatabaseConfig) -> Result<Migrated, DbError> {
    let from = version(connection).await?;
    if from > SCHEMA_VERSION {
        return Err(DbError::SchemaTooNew { found: from });
    }
    if let (0, DatabaseConfig::Sqlite(path)) = (from, database) {
        file::refuse_without_tables(path)?;
    }
    let mut backup = None;
    if let (1..SCHEMA_VERSION, DatabaseConfig::Sqlite(path)) = (from, database) {
        backup = Some(back_up(connection, path, from).await?);
    }
    match connection {
        Connection::Sqlite(connection) => migrator(&SQLITE).run(connection).await?,
        Connection::Postgres(connection) => {
            let mut migrator = migrator(&POSTGRES);
            migrator.dangerous_set_table_name(POSTGRES_VERSIONS);
            // Not every engine that speaks PostgreSQL has advisory locks. Of two at once, one collides with the other in the
            // catalogue or in the table of versions, and finds the work done when it looks again.
            migrator.set_locking(false);
            let mut tries = 0u32;
            while let Err(error) = migrator.run(&mut *connection).await {
                tries = tries.saturating_add(1);
                if tries == MIGRATION_TRIES {
                    return Err(error.into());
                }
                tokio::time::sleep(MIGRATION_PAUSE).await;
            }
        }
        Connection::Lost => return Err(DbError::Closed),
    }
    Ok(Migrated { from, backup })
}

/// A consistent copy of the file, beside it, readable by its owner alone.
async fn back_up(connection: &mut Connection, path: &Path, from: i64) -> Result<PathBuf, DbError> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".before-schema-{SCHEMA_VERSION}-of-{from}"));
    let copy = PathBuf::from(name);
    // A copy that an attempt before this one left behind is of the same state or of one half-way: made anew.
    match std::fs::remove_file(&copy) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(DbError::Backup(format!("{}: {error}", copy.display())));
        }
        _ => {}
    }
    copy_into(connection, &copy).await?;
    tracing::info!(copy = %copy.display(), "the database was copied before its schema is changed");
    Ok(copy)
}

/// Copies a SQLite database into a new file that only its owner can read, as it is at one moment, while others write; the file
/// is on the disk afterwards. The connection may be one that only reads.
///
/// # Errors
/// [`DbError::Backup`], also when there is such a file. What was begun of it is removed.
pub async fn copy_into(connection: &mut Connection, copy: &Path) -> Result<(), DbError> {
    let failed = |error: &dyn std::fmt::Display| DbError::Backup(format!("{}: {error}", copy.display()));
    let text = copy.to_str().ok_or_else(|| failed(&"the path is not readable as text"))?;
    // Made empty first, so that nobody else can read it at any moment.
    let mut options = std::fs::File::options();
    options.create_new(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(copy).map_err(|error| failed(&error))?;
    let copied = match query("VACUUM INTO $1").bind(text).execute(connection).await {
        Ok(_) => std::fs::File::open(copy).and_then(|file| file.sync_all()).map_err(|error| failed(&error)),
        Err(error) => Err(failed(&error)),
    };
    if copied.is_err() {
        let _ = std::fs::remove_file(copy);
    }
    copied
}

#[cfg(test)]
mod tests;
