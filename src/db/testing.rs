//! Databases for the library's own tests: SQLite, or PostgreSQL when the tests run on it.

#[path = "../../tests/it/support/postgres.rs"]
#[allow(unreachable_pub, dead_code, reason = "shared with the integration tests")]
pub(crate) mod postgres;

use std::fmt::Write as _;

use sqlx::AssertSqlSafe;
use tempfile::TempDir;

use super::{Connection, Readers, Sql, migrate};
use crate::config::{DatabaseConfig, Secret};

/// A database that goes with its folder.
pub(crate) struct TestDatabase {
    _folder: TempDir,
    pub(crate) config: DatabaseConfig,
}

impl TestDatabase {
    /// A new one, with its tables.
    pub(crate) async fn new() -> Self {
        let migrate = async |config: &DatabaseConfig| {
            let mut connection = super::connect(config).await.unwrap();
            migrate(&mut connection, config).await.unwrap();
            connection.close().await.unwrap();
        };
        match postgres::server() {
            None => {
                let database = Self::empty().await;
                migrate(&database.config).await;
                database
            }
            Some(server) => {
                let on_postgres = |url| DatabaseConfig::Postgres(Secret::new(url));
                let url =
                    postgres::new_migrated_database(&server, async |url| migrate(&on_postgres(url)).await)
                        .await;
                Self { _folder: tempfile::tempdir().unwrap(), config: on_postgres(url) }
            }
        }
    }

    /// A new one, without any table.
    pub(crate) async fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = match postgres::server() {
            None => DatabaseConfig::Sqlite(folder.path().join("test.db")),
            Some(server) => DatabaseConfig::Postgres(Secret::new(postgres::new_database(&server).await)),
        };
        Self { _folder: folder, config }
    }

    /// The same database once more, for another node.
    pub(crate) fn share(&self) -> Self {
        assert!(self.is_postgres(), "a file has one node at a time");
        Self { _folder: tempfile::tempdir().unwrap(), config: self.config.clone() }
    }

    /// A copy of it as it is now. Nobody may be connected to it.
    pub(crate) async fn copy(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = match &self.config {
            DatabaseConfig::Sqlite(from) => {
                let to = folder.path().join("test.db");
                std::fs::copy(from, &to).unwrap();
                DatabaseConfig::Sqlite(to)
            }
            DatabaseConfig::Postgres(_) => {
                let url = postgres::copy_of(&postgres::server().unwrap(), &self.name()).await;
                DatabaseConfig::Postgres(Secret::new(url))
            }
        };
        Self { _folder: folder, config }
    }

    pub(crate) async fn connect(&self) -> Connection {
        super::connect(&self.config).await.unwrap()
    }

    pub(crate) fn is_postgres(&self) -> bool {
        self.config.is_shared()
    }

    /// The text that this database understands.
    pub(crate) fn each<'a>(&self, sqlite: &'a str, postgres: &'a str) -> &'a str {
        if self.is_postgres() { postgres } else { sqlite }
    }

    /// Bytes as this database's SQL writes them.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> String {
        let mut text = self.each("x'", "'\\x").to_owned();
        for byte in bytes {
            write!(text, "{byte:02x}").unwrap();
        }
        text + self.each("'", "'::bytea")
    }

    /// The database's name on the PostgreSQL server.
    pub(crate) fn name(&self) -> String {
        let DatabaseConfig::Postgres(url) = &self.config else { panic!("it is a file") };
        url.expose().rsplit('/').next().unwrap().to_owned()
    }

    /// Takes the PostgreSQL database away from everybody: every connection is cut, and no new one is let in.
    pub(crate) async fn take_away(&self) {
        let name = self.name();
        on_server(format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
        on_server(format!(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{name}'"
        ))
        .await;
    }

    /// Waits until so many connections wait for a lock that another one has.
    pub(crate) async fn until_waiting(&self, connections: i64) {
        let mut connection = self.connect().await;
        let waiting = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        until(async || {
            super::query_scalar::<i64>(waiting).fetch_one(&mut connection).await.unwrap() >= connections
        })
        .await;
        connection.close().await.unwrap();
    }

    /// Ends [`Self::take_away`].
    pub(crate) async fn give_back(&self) {
        on_server(format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", self.name())).await;
    }
}

/// Waits until something is so, which must be within a minute.
pub(crate) async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "it never came to that");
        tokio::task::yield_now().await;
    }
}

/// Runs a statement on the PostgreSQL server, outside the databases of tests.
pub(crate) async fn on_server(sql: String) {
    postgres::on(&postgres::server().unwrap(), sql).await;
}

/// Whether a test that is about SQLite itself has nothing to do, because this run is on PostgreSQL. The reason is for people
/// who read the test.
pub(crate) fn is_about_sqlite(_reason: &str) -> bool {
    postgres::server().is_some()
}

/// Whether a test that is about PostgreSQL itself, or about several nodes, has nothing to do, because this run is on SQLite:
/// `everything_about_money_holds_on_postgresql_too` runs it again.
pub(crate) fn is_about_postgres() -> bool {
    postgres::server().is_none()
}

/// A statement of a test for both databases: the few words that only SQLite knows are said in PostgreSQL's, too.
pub(crate) fn both(sql: &'static str) -> Sql {
    let postgres = sql
        .replace("zeroblob(32)", "decode(repeat('00', 32), 'hex')")
        .replace("randomblob(32)", "sha256(random()::text::bytea)");
    // A test's texts are few, and the process ends with the tests.
    Sql::each(sql, Box::leak(postgres.into_boxed_str()))
}

impl Connection {
    /// Runs statements of a test.
    pub(crate) async fn run(&mut self, sql: String) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(connection) => sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop),
            Self::Postgres(connection) => {
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop)
            }
            Self::Lost => Err(super::lost()),
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
}

/// Everything that the tests say about money and its database on SQLite holds on PostgreSQL, too, and the tests about several
/// nodes are not run without it.
#[test]
fn everything_about_money_holds_on_postgresql_too() {
    postgres::run_again_on_postgres(
        &["ledger::", "http::admin::", "key_secret::", "db::", "payments::", "reconciliation::", "top_up::"],
        // The core and the reservations know no database.
        &["ledger::core::", "ledger::reservations::", "http::admin::password::", "http::admin::throttle::"],
    );
}
