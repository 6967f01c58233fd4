//! Opening PostgreSQL: timeouts that end what hangs, and a look at the settings that durability depends on.

use std::future::Future;
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _};

use super::DbError;
use crate::config::Secret;

/// To establish a connection. The driver itself has no limit.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request waits for a reading connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// Reading connections of one node.
const READERS: u32 = 8;
/// The oldest server that this program is meant for.
const MIN_SERVER: i64 = 130_000;

/// The options that a URL gives, with our limits. A statement, a lock or a transaction that hangs is ended by the server, so
/// that a node that froze in the middle of one does not stop the others.
fn options(url: &Secret) -> Result<PgConnectOptions, sqlx::Error> {
    let options = PgConnectOptions::from_str(url.expose())?
        .application_name("prepaid402")
        .options([
            ("statement_timeout", "5s"),
            ("lock_timeout", "3s"),
            ("idle_in_transaction_session_timeout", "10s"),
            // Also of a statement that is a transaction of its own, whatever the role's default is.
            ("default_transaction_isolation", "read committed"),
        ])
        .disable_statement_logging();
    Ok(options)
}

/// A connection that only reads, without the server's limits: an audit takes its time, and may look at a standby.
pub(super) async fn connect_read_only(url: &Secret) -> Result<PgConnection, DbError> {
    let options = PgConnectOptions::from_str(url.expose())?
        .application_name("prepaid402 (reading)")
        .options([("default_transaction_read_only", "on")])
        .disable_statement_logging();
    in_time(async move { PgConnection::connect_with(&options).await }).await
}

/// A connection for migrations, which may take longer than anything that a node waits for.
pub(super) async fn connect_for_migration(url: &Secret) -> Result<PgConnection, DbError> {
    let options = PgConnectOptions::from_str(url.expose())?
        .application_name("prepaid402 (migration)")
        .options([("lock_timeout", "30s")])
        .disable_statement_logging();
    in_time(async move {
        let mut connection = PgConnection::connect_with(&options).await?;
        check_settings(&mut connection).await?;
        Ok::<_, DbError>(connection)
    })
    .await
}

async fn in_time<T, E: Into<DbError>>(work: impl Future<Output = Result<T, E>>) -> Result<T, DbError> {
    match tokio::time::timeout(CONNECT_TIMEOUT, work).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(DbError::Unreachable(CONNECT_TIMEOUT.as_secs())),
    }
}

pub(super) async fn connect(url: &Secret) -> Result<PgConnection, DbError> {
    let options = options(url)?;
    // Nothing is begun on a connection that is not there yet, so giving up in the middle loses nothing.
    in_time(async move {
        let mut connection = PgConnection::connect_with(&options).await?;
        check_settings(&mut connection).await?;
        Ok::<_, DbError>(connection)
    })
    .await
}

pub(super) async fn readers(url: &Secret) -> Result<PgPool, DbError> {
    let pool = PgPoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(options(url)?);
    Ok(pool)
}

async fn setting(connection: &mut PgConnection, name: &'static str) -> Result<String, sqlx::Error> {
    sqlx::query_scalar("SELECT current_setting($1)").bind(name).fetch_one(connection).await
}

/// Refuses servers on which a committed entry could be lost, or that cannot be written to.
async fn check_settings(connection: &mut PgConnection) -> Result<(), DbError> {
    let version = setting(connection, "server_version_num").await?;
    if version.parse::<i64>().unwrap_or(0) < MIN_SERVER {
        let version = setting(connection, "server_version").await?;
        return Err(DbError::Setting(format!("PostgreSQL {version} is older than 13")));
    }
    if setting(connection, "synchronous_commit").await? == "off" {
        return Err(DbError::Setting(
            "synchronous_commit is off, so a crash of the server would lose payments that were answered: set it to on \
             (ALTER SYSTEM SET synchronous_commit = on; or for this role or database, wherever it was switched off)"
                .to_owned(),
        ));
    }
    for name in ["fsync", "full_page_writes"] {
        if setting(connection, name).await? != "on" {
            return Err(DbError::Setting(format!(
                "{name} is off, so a crash of the machine would destroy the books: set {name} = on in postgresql.conf"
            )));
        }
    }
    if setting(connection, "transaction_read_only").await? != "off" {
        return Err(DbError::Setting(
            "the server takes no writes (a standby, or default_transaction_read_only): name the primary"
                .to_owned(),
        ));
    }
    if setting(connection, "server_encoding").await? != "UTF8" {
        return Err(DbError::Setting(
            "the database's encoding is not UTF8: make it with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
                .to_owned(),
        ));
    }
    Ok(())
}
