//! Databases for the library's own tests: SQLite, or PostgreSQL when the tests run on it.

#[path = "../../tests/it/support/postgres.rs"]
pub(crate) mod postgres;

use sqlx::AssertSqlSafe;
use tempfile::TempDir;

use super::{Connection, Readers, migrate};
use crate::config::{DatabaseConfig, Secret};

/// A database that goes with its folder.
pub(crate) struct TestDatabase {
    pub(crate) folder: TempDir,
    pub(crate) config: DatabaseConfig,
}

impl TestDatabase {
    /// A new one, with its tables.
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = match postgres::server() {
            None => DatabaseConfig::Sqlite(folder.path().join("test.db")),
            Some(server) => DatabaseConfig::Postgres(Secret::new(postgres::new_database(&server).await)),
        };
        let mut connection = super::connect(&config).await.unwrap();
        migrate(&mut connection, &config).await.unwrap();
        connection.close().await.unwrap();
        Self { folder, config }
    }

    pub(crate) fn is_postgres(&self) -> bool {
        self.config.is_shared()
    }
}

impl Connection {
    /// Runs statements of a test.
    pub(crate) async fn run(&mut self, sql: String) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(connection) => sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop),
            Self::Postgres(connection) => {
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop)
            }
        }
    }
}

impl Readers {
    /// The single value that a test's question has for an answer.
    pub(crate) async fn ask<T>(&self, sql: String) -> T
    where
        T: for<'r> super::Read<'r>,
    {
        let row = match self {
            Self::Sqlite(pool) => {
                super::Row::Sqlite(sqlx::query(AssertSqlSafe(sql)).fetch_one(pool).await.unwrap())
            }
            Self::Postgres(pool) => {
                super::Row::Postgres(sqlx::query(AssertSqlSafe(sql)).fetch_one(pool).await.unwrap())
            }
        };
        row.try_get(0).unwrap()
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }
}
