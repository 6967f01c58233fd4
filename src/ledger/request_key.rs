//! What operators ask for is done once a key. Its row holds the key, so the row is there exactly when it is done.

use super::aftermath::Prepared;
use super::core::{ClientId, Refusal};
use crate::db::{Connection, On, Row, query};
use crate::domain::SecretHash;

/// The key of a request as a row holds it, and Stripe's metadata: its hash, because a key may say anything.
#[must_use]
pub fn stored_key(key: &str) -> String {
    SecretHash::of(key).hex()
}

/// What was made under a stored key: `find` has it as `$1`.
///
/// # Errors
/// What the database said, and what `read` says.
pub async fn made_under<T>(
    on: impl Into<On<'_>>,
    find: &'static str,
    stored_key: &str,
    read: impl FnOnce(&Row) -> Result<T, sqlx::Error>,
) -> Result<Option<T>, sqlx::Error> {
    query(find).bind(stored_key).fetch_optional(on).await?.as_ref().map(read).transpose()
}

/// What to do with a request whose key (`$1` in `find`) or id (`$2`) is there already: nothing if it `is_same`, and nothing at all
/// if it is another one. `None`: it is new.
pub(super) async fn asked_before(
    connection: &mut Connection,
    find: &'static str,
    (key, id): (Option<&str>, &str),
    client: ClientId,
    is_same: impl FnOnce(&Row) -> Result<bool, sqlx::Error>,
) -> Result<Option<Prepared>, sqlx::Error> {
    let Some(row) = query(find).bind(key).bind(id).fetch_optional(connection).await? else {
        return Ok(None);
    };
    Ok(Some(match is_same(&row)? {
        true => Prepared::Commands(client, Vec::new()),
        false => Prepared::Refused(Refusal::SourceConflict),
    }))
}
