//! Requests with an `Idempotency-Key`: who runs one, and the answer of one that was charged.
//!
//! ```text
//! claim ─► running ─► charged (status, headers and body stored in the transaction of the capture)
//!             ├► let go: nothing was done, so the key is free again
//!             └► interrupted: not charged, but something may have been done that must not be done twice
//! ```
//! The row is found by hashes that only the payer can present, so nobody is told what somebody else was answered. It expires,
//! but not while its request runs on a node that lives.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::source::SourceKind;
use crate::db::{Connection, Db, DbError, Row, Sql, postgres_now, query, sql_with_now, sqlite_now};
use crate::domain::{RequestId, SecretHash};

/// A header of an answer: its name and its value, which may have any bytes.
pub type KeptHeader = (String, Vec<u8>);

/// An answer that was charged, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAnswer {
    /// The key's row: client, method, path and key.
    pub scope: SecretHash,
    /// The request that was charged.
    pub request: RequestId,
    /// The status.
    pub status: u16,
    /// End-to-end headers.
    pub headers: Vec<KeptHeader>,
    /// `None`: too large to be kept.
    pub body: Option<Bytes>,
    /// A digest of the headers that the request was sent with. Kept in place of the answer's headers when the answer itself is
    /// too large: whoever fetches it again must send the same.
    pub request_headers: Option<SecretHash>,
}

/// What is in the column `headers` of an answer that is too large to be kept. The version before wrote the answer's headers there,
/// and reads none of it.
#[derive(Debug, Serialize, Deserialize)]
struct NotKept {
    /// Hexadecimal.
    #[serde(rename = "requestHeaders")]
    request_headers: String,
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// The row's own scope.
    pub scope: SecretHash,
    /// SHA-256 of query and body.
    pub fingerprint: SecretHash,
    /// The request that has it.
    pub request: RequestId,
    /// Where that request stands.
    pub state: KeyState,
}

/// Where the request of a key stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyState {
    /// On a node that lives.
    Running,
    /// On a node that does not live any more: somebody else may take the key over.
    Orphaned,
    /// Not charged, but the upstream may have worked.
    Interrupted,
    /// Charged, and not known yet whether the answer was delivered: the charge may still be given back.
    Delivering,
    /// Charged; the answer is here.
    Kept {
        /// The status.
        status: u16,
        /// End-to-end headers.
        headers: Vec<KeptHeader>,
        /// All of it.
        body: Bytes,
    },
    /// Charged; the answer was too large to be kept.
    TooLarge {
        /// How often it was fetched again.
        repeats: i64,
        /// See [`StoredAnswer::request_headers`].
        request_headers: Option<SecretHash>,
    },
    /// It was charged, and the charge was given back, because the answer was cut or may not have been delivered.
    GivenBack,
}

/// A key that is to be claimed.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// See [`StoredAnswer::scope`].
    pub scope: SecretHash,
    /// SHA-256 of query and body.
    pub fingerprint: SecretHash,
    /// The request that claims it.
    pub request: RequestId,
    /// How long it is kept, in microseconds.
    pub keep: i64,
}

const STORE: &str = "\
UPDATE idempotency_keys SET state = 'charged', status = $3, headers = $4, body = $5
WHERE scope = $1 AND request = $2 AND state = 'running'";

/// A key's row, and what else decides. A capture is noted as long as its answer may not have been delivered. `$2` and `$3` are what
/// the sources of reversals and of captures begin with.
macro_rules! find {
    ($now:expr, $noted:literal) => {
        concat!(
            "SELECT k.scope, k.fingerprint, k.request, k.state, k.status, k.headers, k.body, k.repeats, \
             EXISTS (SELECT 1 FROM nodes AS n WHERE n.id = k.node AND n.lease_until > ",
            $now,
            ") AS lives, \
             EXISTS (SELECT 1 FROM entries AS e WHERE e.source = $2 || k.request) AS is_reversed, ",
            $noted,
            " AS is_noted FROM idempotency_keys AS k WHERE k.scope = $1 AND NOT (k.expires_at <= ",
            $now,
            " AND NOT (k.state = 'running' AND EXISTS \
             (SELECT 1 FROM nodes AS n WHERE n.id = k.node AND n.lease_until > ",
            $now,
            ")))"
        )
    };
}
const FIND: Sql = Sql::each(
    find!(
        sqlite_now!(),
        "EXISTS (SELECT 1 FROM undelivered AS u JOIN entries AS e ON e.source = $3 || k.request, \
         json_each(u.entries) AS noted WHERE u.node = k.node AND e.id BETWEEN \
         COALESCE(noted.value->>0, noted.value) AND COALESCE(noted.value->>1, noted.value))"
    ),
    find!(
        postgres_now!(),
        "EXISTS (SELECT 1 FROM undelivered AS u JOIN entries AS e ON e.source = $3 || k.request, \
         jsonb_array_elements(u.entries::jsonb) AS noted WHERE u.node = k.node AND e.id BETWEEN \
         COALESCE(noted->>0, noted#>>'{}')::bigint AND COALESCE(noted->>1, noted#>>'{}')::bigint)"
    ),
);

const CLAIM: Sql = sql_with_now!(
    "INSERT INTO idempotency_keys (scope, fingerprint, request, node, state, created_at, expires_at) \
     SELECT $1, $2, $3, $4, 'running', ",
    now,
    ", $5 + ",
    now,
    ""
);

const FREE_EXPIRED: Sql = sql_with_now!(
    "DELETE FROM idempotency_keys WHERE scope = $1 AND expires_at <= ",
    now,
    " AND NOT (state = 'running' AND EXISTS (SELECT 1 FROM nodes AS n WHERE n.id = idempotency_keys.node AND n.lease_until > ",
    now,
    "))"
);
const LET_GO: &str = "DELETE FROM idempotency_keys WHERE scope = $1 AND request = $2 AND state = 'running'";
const INTERRUPT: &str = "UPDATE idempotency_keys SET state = 'interrupted' WHERE scope = $1 AND request = $2 AND state = 'running'";
/// Only while the node that has it is dead: if it comes back, its answer can then not be stored, and so not be charged.
const TAKE_OVER: Sql = sql_with_now!(
    "DELETE FROM idempotency_keys WHERE scope = $1 AND request = $2 AND state = 'running' \
     AND NOT EXISTS (SELECT 1 FROM nodes AS n WHERE n.id = idempotency_keys.node AND n.lease_until > ",
    now,
    ")"
);
const INTERRUPT_ORPHAN: Sql = sql_with_now!(
    "UPDATE idempotency_keys SET state = 'interrupted' WHERE scope = $1 AND request = $2 AND state = 'running' \
     AND NOT EXISTS (SELECT 1 FROM nodes AS n WHERE n.id = idempotency_keys.node AND n.lease_until > ",
    now,
    ")"
);
const FREE_GIVEN_BACK: &str = "\
DELETE FROM idempotency_keys WHERE scope = $1 AND request = $2 AND state = 'charged' \
AND EXISTS (SELECT 1 FROM entries AS e WHERE e.source = $3 || idempotency_keys.request)";
const REPEAT: &str = "\
UPDATE idempotency_keys SET repeats = repeats + 1 WHERE scope = $1 AND request = $2 AND state = 'charged' AND repeats < $3";
const DELETE_EXPIRED: Sql = sql_with_now!(
    "DELETE FROM idempotency_keys WHERE scope IN (SELECT k.scope FROM idempotency_keys AS k WHERE k.expires_at <= ",
    now,
    " AND NOT (k.state = 'running' AND EXISTS (SELECT 1 FROM nodes AS n WHERE n.id = k.node AND n.lease_until > ",
    now,
    ")) ORDER BY k.expires_at LIMIT 1000)"
);

/// Stores an answer, in the transaction of its capture. `false`: the key belongs to another request by now.
pub(super) async fn store(connection: &mut Connection, answer: &StoredAnswer) -> Result<bool, sqlx::Error> {
    let headers = match (&answer.body, answer.request_headers) {
        (None, Some(digest)) => serde_json::to_string(&NotKept { request_headers: digest.hex() }),
        _ => serde_json::to_string(&as_text(&answer.headers)),
    };
    let headers = headers.map_err(|error| sqlx::Error::Encode(error.into()))?;
    let changed = query(STORE)
        .bind(answer.scope.as_bytes().to_vec())
        .bind(answer.request.to_string())
        .bind(i64::from(answer.status))
        .bind(headers)
        .bind(answer.body.as_ref().map(|body| body.to_vec()))
        .execute(connection)
        .await?;
    Ok(changed == 1)
}

/// Each byte is the character of its number, so that none is lost. ASCII is as the versions before have written it.
fn as_text(headers: &[KeptHeader]) -> Vec<(&str, String)> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.iter().copied().map(char::from).collect()))
        .collect()
}

fn from_text(text: &str) -> Option<Vec<KeptHeader>> {
    let headers: Vec<(String, String)> = serde_json::from_str(text).ok()?;
    let bytes = |value: &str| value.chars().map(|c| u8::try_from(c).ok()).collect::<Option<Vec<u8>>>();
    headers.into_iter().map(|(name, value)| Some((name, bytes(&value)?))).collect()
}

fn key_row(row: &Row) -> Result<KeyRow, sqlx::Error> {
    let malformed = || sqlx::Error::Decode("an idempotency key's row is malformed".into());
    let hash = |column: usize| -> Result<SecretHash, sqlx::Error> {
        SecretHash::from_slice(row.try_get(column)?).ok_or_else(malformed)
    };
    let lives: bool = row.try_get("lives")?;
    let (is_reversed, is_noted): (bool, bool) = (row.try_get("is_reversed")?, row.try_get("is_noted")?);
    let body = row.try_get::<Option<Vec<u8>>, _>(6)?;
    let state = match (row.try_get::<&str, _>(3)?, body) {
        ("running", _) if lives => KeyState::Running,
        ("running", _) => KeyState::Orphaned,
        ("interrupted", _) => KeyState::Interrupted,
        (_, _) if is_reversed => KeyState::GivenBack,
        (_, None) if is_noted => KeyState::Delivering,
        (_, Some(body)) => KeyState::Kept {
            status: u16::try_from(row.try_get::<i64, _>(4)?).map_err(|_| malformed())?,
            headers: from_text(row.try_get(5)?).ok_or_else(malformed)?,
            body: body.into(),
        },
        (_, None) => KeyState::TooLarge {
            repeats: row.try_get(7)?,
            request_headers: row
                .try_get::<Option<&str>, _>(5)?
                .and_then(|text| serde_json::from_str::<NotKept>(text).ok())
                .map(|kept| SecretHash::from_hex(&kept.request_headers).ok_or_else(malformed))
                .transpose()?,
        },
    };
    Ok(KeyRow {
        scope: hash(0)?,
        fingerprint: hash(1)?,
        request: RequestId::parse(row.try_get(2)?).ok_or_else(malformed)?,
        state,
    })
}

/// What is known of a key.
///
/// # Errors
/// When the database cannot be read.
pub async fn find(db: &Db, scope: SecretHash) -> Result<Option<KeyRow>, DbError> {
    let found = query(FIND).bind(scope.as_bytes().to_vec());
    let found = found.bind(SourceKind::Reversal.prefix()).bind(SourceKind::Usage.prefix());
    let row = found.fetch_optional(db.reader()).await?;
    Ok(row.as_ref().map(key_row).transpose()?)
}

/// Claims a key for a request. `false`: somebody else has it.
///
/// # Errors
/// When the database cannot be written to.
pub async fn claim(db: &Db, node: String, new: NewKey) -> Result<bool, DbError> {
    let claimed = db
        .write(move |connection| {
            Box::pin(async move {
                query(FREE_EXPIRED).bind(new.scope.as_bytes().to_vec()).execute(&mut *connection).await?;
                query(CLAIM)
                    .bind(new.scope.as_bytes().to_vec())
                    .bind(new.fingerprint.as_bytes().to_vec())
                    .bind(new.request.to_string())
                    .bind(node)
                    .bind(new.keep)
                    .execute(connection)
                    .await
            })
        })
        .await;
    match claimed {
        Ok(_) => Ok(true),
        Err(DbError::Sql(sqlx::Error::Database(error))) if error.is_unique_violation() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Frees a key whose request was not charged.
///
/// # Errors
/// When the database cannot be written to; the key then stays taken until its node has ended or it expires.
pub async fn let_go(db: &Db, scope: SecretHash, request: RequestId) -> Result<(), DbError> {
    change(db, LET_GO, scope, request).await.map(drop)
}

/// Notes that a request was not charged although the upstream may have worked: it must not be done again under its key.
///
/// # Errors
/// When the database cannot be written to; the key then stays taken until its node has ended or it expires.
pub async fn interrupt(db: &Db, scope: SecretHash, request: RequestId) -> Result<(), DbError> {
    change(db, INTERRUPT, scope, request).await.map(drop)
}

/// Frees the key of a request that a dead node ran. `false`: the node lives, or somebody else was faster.
///
/// # Errors
/// When the database cannot be written to.
pub async fn take_over(db: &Db, scope: SecretHash, request: RequestId) -> Result<bool, DbError> {
    change(db, TAKE_OVER, scope, request).await.map(|changed| changed == 1)
}

/// Notes for good that a request that a dead node ran may have been done. `false`: the node lives, or somebody else was
/// faster.
///
/// # Errors
/// When the database cannot be written to.
pub async fn interrupt_orphan(db: &Db, scope: SecretHash, request: RequestId) -> Result<bool, DbError> {
    change(db, INTERRUPT_ORPHAN, scope, request).await.map(|changed| changed == 1)
}

/// Frees the key of a request whose charge was given back. `false`: somebody else was faster.
///
/// # Errors
/// When the database cannot be written to.
pub async fn free_given_back(db: &Db, scope: SecretHash, request: RequestId) -> Result<bool, DbError> {
    db.write(move |connection| {
        Box::pin(async move {
            query(FREE_GIVEN_BACK)
                .bind(scope.as_bytes().to_vec())
                .bind(request.to_string())
                .bind(SourceKind::Reversal.prefix())
                .execute(connection)
                .await
                .map(|changed| changed == 1)
        })
    })
    .await
}

async fn change(db: &Db, sql: impl Into<Sql>, scope: SecretHash, request: RequestId) -> Result<u64, DbError> {
    let sql = sql.into();
    db.write(move |connection| {
        Box::pin(async move {
            query(sql).bind(scope.as_bytes().to_vec()).bind(request.to_string()).execute(connection).await
        })
    })
    .await
}

/// Counts one more fetching of an answer that was not kept. `false`: it was fetched `most` times already.
///
/// # Errors
/// When the database cannot be written to.
pub async fn count_repeat(
    db: &Db,
    scope: SecretHash,
    request: RequestId,
    most: i64,
) -> Result<bool, DbError> {
    db.write(move |connection| {
        Box::pin(async move {
            query(REPEAT)
                .bind(scope.as_bytes().to_vec())
                .bind(request.to_string())
                .bind(most)
                .execute(connection)
                .await
                .map(|changed| changed == 1)
        })
    })
    .await
}

/// Removes up to a thousand expired keys, which is one step, and answers how many.
///
/// # Errors
/// When the database cannot be written to.
pub async fn delete_expired(db: &Db) -> Result<u64, DbError> {
    db.write(|connection| Box::pin(async move { query(DELETE_EXPIRED).execute(connection).await })).await
}

#[cfg(test)]
mod tests;
