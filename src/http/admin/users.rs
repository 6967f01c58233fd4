//! The people who may look at the admin pages, in the database. There is no default user and no default password.

use super::password::{self, PasswordError};
use crate::db::{Connection, query};

/// Longer names are refused.
pub const MAX_NAME: usize = 64;

/// Why a user was not created, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum AdminUserError {
    /// The name has other characters than it may have.
    #[error("a user name has 1 to 64 letters, digits or . _ @ + -")]
    Name,
    /// The password is not accepted.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// There is one already.
    #[error("there is a user of this name already; set-password changes the password")]
    Exists,
    /// There is none.
    #[error("there is no user of this name")]
    Unknown,
    /// The password could not be hashed.
    #[error("the password could not be hashed")]
    Hash,
    /// The database said so.
    #[error("the database did not answer as expected: {0}")]
    Sql(#[from] sqlx::Error),
}

/// A user as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminUser {
    /// Unique.
    pub name: String,
    /// Unix microseconds.
    pub created_at: i64,
    /// Sessions stored, ended or not.
    pub sessions: i64,
}

fn check_name(name: &str) -> Result<(), AdminUserError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._@+-".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(plain) {
        return Err(AdminUserError::Name);
    }
    Ok(())
}

async fn hash(password: &str) -> Result<String, AdminUserError> {
    let password = password.to_owned();
    let hashed = tokio::task::spawn_blocking(move || password::hash(&password)).await;
    hashed.ok().and_then(Result::ok).ok_or(AdminUserError::Hash)
}

/// Adds a user.
///
/// # Errors
/// [`AdminUserError`]; the name and the password are checked before anything is written.
pub async fn create_user(
    connection: &mut Connection,
    name: &str,
    password: &str,
) -> Result<(), AdminUserError> {
    check_name(name)?;
    password::check_strength(name, password)?;
    let phc = hash(password).await?;
    insert(connection, name, phc).await
}

/// Adds a user with a password that nobody can guess, for programs, and answers the password: nobody can ask for it later.
///
/// # Errors
/// [`AdminUserError`].
pub async fn create_program(connection: &mut Connection, name: &str) -> Result<String, AdminUserError> {
    check_name(name)?;
    let (password, phc) = password::generate().map_err(|_| AdminUserError::Hash)?;
    insert(connection, name, phc).await?;
    Ok(password)
}

async fn insert(connection: &mut Connection, name: &str, phc: String) -> Result<(), AdminUserError> {
    query("INSERT INTO admin_users (name, password_hash, created_at) VALUES ($1, $2, $3)")
        .bind(name)
        .bind(phc)
        .bind(crate::db::now_micros())
        .execute(connection)
        .await
        .map_err(|error| match error.as_database_error() {
            Some(known) if known.is_unique_violation() => AdminUserError::Exists,
            _ => AdminUserError::Sql(error),
        })?;
    Ok(())
}

/// Changes a password and ends the user's sessions.
///
/// # Errors
/// [`AdminUserError`].
pub async fn set_password(
    connection: &mut Connection,
    name: &str,
    password: &str,
) -> Result<(), AdminUserError> {
    password::check_strength(name, password)?;
    let phc = hash(password).await?;
    replace(connection, name, phc).await
}

/// Changes a password to one that nobody can guess, which is answered, and ends the user's sessions.
///
/// # Errors
/// [`AdminUserError`].
pub async fn generate_password(connection: &mut Connection, name: &str) -> Result<String, AdminUserError> {
    let (password, phc) = password::generate().map_err(|_| AdminUserError::Hash)?;
    replace(connection, name, phc).await?;
    Ok(password)
}

async fn replace(connection: &mut Connection, name: &str, phc: String) -> Result<(), AdminUserError> {
    let name = name.to_owned();
    let changed = connection
        .in_transaction(move |connection| {
            Box::pin(async move {
                let changed = query("UPDATE admin_users SET password_hash = $2 WHERE name = $1")
                    .bind(&name)
                    .bind(phc)
                    .execute(&mut *connection)
                    .await?;
                end_sessions(connection, &name).await?;
                Ok(changed)
            })
        })
        .await?;
    if changed == 0 { Err(AdminUserError::Unknown) } else { Ok(()) }
}

/// Removes a user and ends the user's sessions.
///
/// # Errors
/// [`AdminUserError`].
pub async fn remove_user(connection: &mut Connection, name: &str) -> Result<(), AdminUserError> {
    let name = name.to_owned();
    let removed = connection
        .in_transaction(move |connection| {
            Box::pin(async move {
                end_sessions(connection, &name).await?;
                query("DELETE FROM admin_users WHERE name = $1").bind(&name).execute(connection).await
            })
        })
        .await?;
    if removed == 0 { Err(AdminUserError::Unknown) } else { Ok(()) }
}

async fn end_sessions(connection: &mut Connection, name: &str) -> Result<(), sqlx::Error> {
    query("DELETE FROM admin_sessions WHERE admin_user IN (SELECT id FROM admin_users WHERE name = $1)")
        .bind(name)
        .execute(connection)
        .await?;
    Ok(())
}

/// Everybody, in the order of names.
///
/// # Errors
/// What the database said.
pub async fn list_users(connection: &mut Connection) -> Result<Vec<AdminUser>, sqlx::Error> {
    let rows = query(
        "SELECT u.name, u.created_at, COUNT(s.hash) AS sessions FROM admin_users u \
         LEFT JOIN admin_sessions s ON s.admin_user = u.id GROUP BY u.id, u.name, u.created_at ORDER BY u.name",
    )
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(AdminUser {
                name: row.try_get("name")?,
                created_at: row.try_get("created_at")?,
                sessions: row.try_get("sessions")?,
            })
        })
        .collect()
}
