//! What keeps a client from spending.

use super::Prepared;
use crate::db::{Connection, Sql, query};
use crate::ledger::core::{ClientId, Refusal};

const FREEZE: &str = "\
INSERT INTO freezes (client, cause, created_at) VALUES ($1, $2, $3) ON CONFLICT (client, cause) DO NOTHING";
pub(super) const FREEZE_AGAIN: &str = "\
INSERT INTO freezes (client, cause, created_at) VALUES ($1, $2, $3)
ON CONFLICT (client, cause) DO UPDATE SET created_at = excluded.created_at, lifted_at = NULL, lifted_by = NULL
WHERE freezes.lifted_at IS NOT NULL";
pub(super) const LIFT: &str = "\
UPDATE freezes SET lifted_at = $3, lifted_by = $4 WHERE client = $1 AND cause = $2 AND lifted_at IS NULL";
pub(super) const LIFT_ALL: &str =
    "UPDATE freezes SET lifted_at = $2, lifted_by = $3 WHERE client = $1 AND lifted_at IS NULL";
/// In a statement of its own, before `freezes` is touched: a statement that waits for a row goes on with what it has read of other
/// tables before the wait, so a status from freezes that another node is changing could be wrong for good.
const LOCK_CLIENT: Sql = Sql::each(
    "SELECT id FROM clients WHERE id = $1",
    "SELECT id FROM clients WHERE id = $1 FOR NO KEY UPDATE",
);
const SET_STATUS: &str = "\
UPDATE clients SET status = CASE WHEN EXISTS
    (SELECT 1 FROM freezes WHERE client = $1 AND lifted_at IS NULL) THEN 'frozen' ELSE 'active' END WHERE id = $1";

/// After the top-up's row, if that is locked too.
pub(in crate::ledger) async fn lock_client(
    connection: &mut Connection,
    client: ClientId,
) -> Result<(), sqlx::Error> {
    query(LOCK_CLIENT).bind(client).fetch_optional(connection).await.map(drop)
}

pub(super) async fn set_status(
    connection: &mut Connection,
    client: ClientId,
) -> Result<Prepared, sqlx::Error> {
    match query(SET_STATUS).bind(client).execute(connection).await? {
        1 => Ok(Prepared::Commands(client, Vec::new())),
        _ => Ok(Prepared::Refused(Refusal::UnknownClient)),
    }
}

pub(super) async fn freeze(
    connection: &mut Connection,
    client: ClientId,
    cause: &str,
    at: i64,
) -> Result<(), sqlx::Error> {
    query(FREEZE).bind(client).bind(cause).bind(at).execute(connection).await.map(drop)
}
