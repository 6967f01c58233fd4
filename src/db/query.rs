//! One way to ask either database: the same call, the same text, the same values. `$1` means the same to both.
//!
//! Two pools with shared texts, rather than `sqlx::Any`: the ledger's bulk statements need each database's own types, and a
//! connection must serve both kinds of statement.

use std::future::Future;
use std::marker::PhantomData;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnection, PgPool, PgRow, Postgres};
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{Arguments as _, ColumnIndex, Decode, Encode, Row as _, Type};

/// A statement's text: one for both databases, or one for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sql {
    sqlite: &'static str,
    postgres: &'static str,
}

impl Sql {
    /// Two texts that mean the same.
    #[must_use]
    pub const fn each(sqlite: &'static str, postgres: &'static str) -> Self {
        Self { sqlite, postgres }
    }
}

/// Unix microseconds as SQLite's clock tells them, in a statement's text.
macro_rules! sqlite_now {
    () => {
        "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"
    };
}
/// The same on PostgreSQL: the server's clock, since what several nodes compare must not depend on theirs.
macro_rules! postgres_now {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    };
}
/// A statement that asks for the moment: `now` stands for Unix microseconds as the database's own clock tells them.
macro_rules! sql_with_now {
    ($first:literal $(, now, $rest:literal)+ $(,)?) => {
        $crate::db::Sql::each(
            concat!($first, $($crate::db::sqlite_now!(), $rest),+),
            concat!($first, $($crate::db::postgres_now!(), $rest),+),
        )
    };
}
pub(crate) use {postgres_now, sql_with_now, sqlite_now};

impl From<&'static str> for Sql {
    fn from(text: &'static str) -> Self {
        Self { sqlite: text, postgres: text }
    }
}

/// A connection to either database. It belongs to one task: no transaction lives in a future that a caller can drop.
#[derive(Debug)]
pub enum Connection {
    /// The file.
    Sqlite(SqliteConnection),
    /// The server.
    Postgres(PgConnection),
    /// Given up, and not opened anew yet: every statement fails. What the old one was in the middle of must not be continued
    /// by accident.
    Lost,
}

/// Connections that only read, one statement at a time. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Readers {
    /// Of the file; they cannot write.
    Sqlite(SqlitePool),
    /// Of the server.
    Postgres(PgPool),
}

/// Where a statement runs.
#[derive(Debug)]
pub enum On<'c> {
    /// On this connection, inside whatever transaction it is in.
    Connection(&'c mut Connection),
    /// On any reading connection.
    Readers(&'c Readers),
}

impl On<'_> {
    /// The same place, for one more statement.
    pub fn again(&mut self) -> On<'_> {
        match self {
            Self::Connection(connection) => On::Connection(connection),
            Self::Readers(readers) => On::Readers(readers),
        }
    }
}

impl<'c> From<&'c mut Connection> for On<'c> {
    fn from(connection: &'c mut Connection) -> Self {
        Self::Connection(connection)
    }
}

impl<'c> From<&'c Readers> for On<'c> {
    fn from(readers: &'c Readers) -> Self {
        Self::Readers(readers)
    }
}

/// A value that both databases take as an argument.
pub trait Bind<'q>: Encode<'q, Sqlite> + Type<Sqlite> + Encode<'q, Postgres> + Type<Postgres> {}
impl<'q, T> Bind<'q> for T where T: Encode<'q, Sqlite> + Type<Sqlite> + Encode<'q, Postgres> + Type<Postgres> {}

/// A value that both databases give.
pub trait Read<'r>: Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres> {}
impl<'r, T> Read<'r> for T where T: Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres> {}

/// A row of either database.
#[derive(Debug)]
pub enum Row {
    /// Of the file.
    Sqlite(SqliteRow),
    /// Of the server.
    Postgres(PgRow),
}

impl Row {
    /// A column's value, by position or name.
    ///
    /// # Errors
    /// When there is no such column or its value is of another type.
    pub fn try_get<'r, T, I>(&'r self, column: I) -> Result<T, sqlx::Error>
    where
        T: Read<'r>,
        I: ColumnIndex<SqliteRow> + ColumnIndex<PgRow>,
    {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
    }
}

/// A statement with its arguments.
#[must_use = "a statement does nothing until it is run"]
pub struct Query {
    sql: Sql,
    arguments: Result<(SqliteArguments, PgArguments), sqlx::error::BoxDynError>,
}

impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Arguments may be secrets.
        f.debug_struct("Query").field("sql", &self.sql.sqlite).finish_non_exhaustive()
    }
}

/// A statement.
pub fn query(sql: impl Into<Sql>) -> Query {
    Query { sql: sql.into(), arguments: Ok(Default::default()) }
}

/// A statement of which the first column is wanted.
pub fn query_scalar<T>(sql: impl Into<Sql>) -> QueryScalar<T> {
    QueryScalar { query: query(sql), value: PhantomData }
}

/// Runs one of sqlx's fetching functions on whichever database it is.
macro_rules! run {
    ($query:expr, $on:expr, $method:ident, $found:ident => $collect:expr, $found_pg:ident => $collect_pg:expr) => {{
        let (sqlite, postgres) = $query.arguments.map_err(sqlx::Error::Encode)?;
        match $on.into() {
            On::Connection(Connection::Sqlite(connection)) => {
                let $found = sqlx::query_with($query.sql.sqlite, sqlite).$method(&mut *connection).await?;
                Ok($collect)
            }
            On::Readers(Readers::Sqlite(pool)) => {
                let $found = sqlx::query_with($query.sql.sqlite, sqlite).$method(pool).await?;
                Ok($collect)
            }
            On::Connection(Connection::Postgres(connection)) => {
                let $found_pg =
                    sqlx::query_with($query.sql.postgres, postgres).$method(&mut *connection).await?;
                Ok($collect_pg)
            }
            On::Readers(Readers::Postgres(pool)) => {
                let reading = sqlx::query_with($query.sql.postgres, postgres).$method(pool);
                let $found_pg = in_time(reading).await?;
                Ok($collect_pg)
            }
            On::Connection(Connection::Lost) => Err(lost()),
        }
    }};
}

/// The server ends statements that hang; this is for a network that says nothing. A single statement leaves nothing behind.
const READ_TIMEOUT: Duration = Duration::from_secs(8);

async fn in_time<T>(reading: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let silent = || std::io::Error::new(std::io::ErrorKind::TimedOut, "the database server does not answer");
    tokio::time::timeout(READ_TIMEOUT, reading).await.unwrap_or_else(|_| Err(sqlx::Error::Io(silent())))
}

/// What every statement on a lost connection answers.
pub(crate) fn lost() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::NotConnected, "the database connection was lost"))
}

impl Query {
    /// The next argument.
    pub fn bind<'q, T: Bind<'q>>(mut self, value: T) -> Self {
        if let Ok((sqlite, postgres)) = &mut self.arguments {
            let added = sqlite.add(&value).and_then(|()| postgres.add(&value));
            if let Err(error) = added {
                self.arguments = Err(error);
            }
        }
        self
    }

    /// Runs it, and answers how many rows it changed.
    ///
    /// # Errors
    /// What the database said.
    pub async fn execute(self, on: impl Into<On<'_>>) -> Result<u64, sqlx::Error> {
        run!(self, on, execute, done => done.rows_affected(), done => done.rows_affected())
    }

    /// Every row.
    ///
    /// # Errors
    /// What the database said.
    pub async fn fetch_all(self, on: impl Into<On<'_>>) -> Result<Vec<Row>, sqlx::Error> {
        run!(self, on, fetch_all,
            rows => rows.into_iter().map(Row::Sqlite).collect(),
            rows => rows.into_iter().map(Row::Postgres).collect())
    }

    /// The first row, if there is one.
    ///
    /// # Errors
    /// What the database said.
    pub async fn fetch_optional(self, on: impl Into<On<'_>>) -> Result<Option<Row>, sqlx::Error> {
        run!(self, on, fetch_optional, row => row.map(Row::Sqlite), row => row.map(Row::Postgres))
    }

    /// The first row.
    ///
    /// # Errors
    /// What the database said; also when there is no row.
    pub async fn fetch_one(self, on: impl Into<On<'_>>) -> Result<Row, sqlx::Error> {
        self.fetch_optional(on).await?.ok_or(sqlx::Error::RowNotFound)
    }
}

/// A statement of which the first column is wanted.
#[must_use = "a statement does nothing until it is run"]
#[derive(Debug)]
pub struct QueryScalar<T> {
    query: Query,
    value: PhantomData<fn() -> T>,
}

impl<T> QueryScalar<T>
where
    T: for<'r> Read<'r>,
{
    /// The next argument.
    pub fn bind<'q, V: Bind<'q>>(mut self, value: V) -> Self {
        self.query = self.query.bind(value);
        self
    }

    /// The value of the first row.
    ///
    /// # Errors
    /// What the database said; also when there is no row.
    pub async fn fetch_one(self, on: impl Into<On<'_>>) -> Result<T, sqlx::Error> {
        self.query.fetch_one(on).await?.try_get(0)
    }

    /// The value of the first row, if there is one.
    ///
    /// # Errors
    /// What the database said.
    pub async fn fetch_optional(self, on: impl Into<On<'_>>) -> Result<Option<T>, sqlx::Error> {
        self.query.fetch_optional(on).await?.map(|row| row.try_get(0)).transpose()
    }

    /// The value of every row.
    ///
    /// # Errors
    /// What the database said.
    pub async fn fetch_all(self, on: impl Into<On<'_>>) -> Result<Vec<T>, sqlx::Error> {
        self.query.fetch_all(on).await?.iter().map(|row| row.try_get(0)).collect()
    }
}
