//! Sessions of the admin pages: a random token in the browser's cookie, its SHA-256 in the database.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::db::{Connection, Db, DbError, Readers, query};
use crate::domain::SecretHash;
use crate::domain::ids::random_bytes;

const SECOND: i64 = 1_000_000;
/// A session nobody uses ends after this time.
const IDLE: i64 = 15 * 60 * SECOND;
/// Every session ends after this time.
const ABSOLUTE: i64 = 8 * 3_600 * SECOND;
/// Use is written down this often at most, so that looking at pages does not write each time.
const TOUCH: i64 = 60 * SECOND;
/// A login beyond it ends the user's oldest session.
const MAX_PER_USER: i64 = 5;
/// 32 bytes in base64url.
const TOKEN_LEN: usize = 43;

/// What the browser's cookie holds. Deliberately without `Debug`.
pub(super) struct SessionToken(String);

impl SessionToken {
    fn new() -> Self {
        Self(URL_SAFE_NO_PAD.encode(random_bytes::<32>()))
    }

    /// `None` unless the text has the form of a token.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (text.len() == TOKEN_LEN && text.bytes().all(plain)).then(|| Self(text.to_owned()))
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    pub(super) fn hash(&self) -> SecretHash {
        SecretHash::of(&self.0)
    }
}

/// Somebody who is logged in. Deliberately without `Debug`.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) hash: SecretHash,
    pub(super) user: i64,
    pub(super) name: String,
    pub(super) csrf_token: String,
    last_seen_at: i64,
}

/// What became of a token.
pub(super) enum Found {
    Live(Session),
    /// It was a session; it is to be removed.
    Expired,
    Nothing,
}

/// Looks a token up.
pub(super) async fn find(pool: &Readers, hash: SecretHash, now: i64) -> Result<Found, sqlx::Error> {
    let row = query(
        "SELECT s.admin_user, s.csrf_token, s.created_at, s.last_seen_at, u.name FROM admin_sessions s \
         JOIN admin_users u ON u.id = s.admin_user WHERE s.hash = $1",
    )
    .bind(hash.as_bytes().to_vec())
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(Found::Nothing) };
    let (created_at, last_seen_at): (i64, i64) = (row.try_get("created_at")?, row.try_get("last_seen_at")?);
    if now.saturating_sub(created_at) >= ABSOLUTE || now.saturating_sub(last_seen_at) >= IDLE {
        return Ok(Found::Expired);
    }
    Ok(Found::Live(Session {
        hash,
        user: row.try_get("admin_user")?,
        name: row.try_get("name")?,
        csrf_token: row.try_get("csrf_token")?,
        last_seen_at,
    }))
}

/// Writes down that the session is in use.
pub(super) async fn touch(db: &Db, session: &Session, now: i64) -> Result<(), DbError> {
    if now.saturating_sub(session.last_seen_at) < TOUCH {
        return Ok(());
    }
    let hash = session.hash;
    db.write(move |connection| {
        Box::pin(async move {
            query("UPDATE admin_sessions SET last_seen_at = $2 WHERE hash = $1 AND last_seen_at < $2")
                .bind(hash.as_bytes().to_vec())
                .bind(now)
                .execute(connection)
                .await?;
            Ok(())
        })
    })
    .await
}

/// Begins a session with a new token, and ends the one that the browser had, those that expired, and the user's oldest
/// beyond five. `None` when the password was changed, or the user removed, while it was being checked.
pub(super) async fn begin(
    db: &Db,
    user: i64,
    password_hash: String,
    replaced: Option<SecretHash>,
    now: i64,
) -> Result<Option<SessionToken>, DbError> {
    let token = SessionToken::new();
    let hash = token.hash();
    let csrf_token = URL_SAFE_NO_PAD.encode(random_bytes::<32>());
    let begun = db
        .write(move |connection| {
            Box::pin(async move {
                query("DELETE FROM admin_sessions WHERE created_at <= $1 OR last_seen_at <= $2")
                    .bind(now.saturating_sub(ABSOLUTE))
                    .bind(now.saturating_sub(IDLE))
                    .execute(&mut *connection)
                    .await?;
                if let Some(old) = replaced {
                    delete(&mut *connection, old).await?;
                }
                let inserted = query(
                    "INSERT INTO admin_sessions (hash, admin_user, csrf_token, created_at, last_seen_at) \
                     SELECT $1, id, $3, $4, $4 FROM admin_users WHERE id = $2 AND password_hash = $5",
                )
                .bind(hash.as_bytes().to_vec())
                .bind(user)
                .bind(csrf_token)
                .bind(now)
                .bind(password_hash)
                .execute(&mut *connection)
                .await?;
                query(
                    "DELETE FROM admin_sessions WHERE admin_user = $1 AND hash <> $2 AND hash NOT IN ( \
                       SELECT hash FROM admin_sessions WHERE admin_user = $1 AND hash <> $2 \
                       ORDER BY created_at DESC, hash LIMIT $3)",
                )
                .bind(user)
                .bind(hash.as_bytes().to_vec())
                .bind(MAX_PER_USER - 1)
                .execute(&mut *connection)
                .await?;
                Ok(inserted == 1)
            })
        })
        .await?;
    Ok(begun.then_some(token))
}

async fn delete(connection: &mut Connection, hash: SecretHash) -> Result<(), sqlx::Error> {
    query("DELETE FROM admin_sessions WHERE hash = $1")
        .bind(hash.as_bytes().to_vec())
        .execute(connection)
        .await?;
    Ok(())
}

/// Ends one session.
pub(super) async fn end(db: &Db, hash: SecretHash) -> Result<(), DbError> {
    db.write(move |connection| Box::pin(delete(connection, hash))).await
}

/// Ends all sessions of a user.
pub(super) async fn end_all(db: &Db, user: i64) -> Result<(), DbError> {
    db.write(move |connection| {
        Box::pin(async move {
            query("DELETE FROM admin_sessions WHERE admin_user = $1").bind(user).execute(connection).await?;
            Ok(())
        })
    })
    .await
}
