//! Early fraud warnings. They take no money; what they do is to freeze.

use super::charge::Charge;
use super::facts::WarningFacts;
use super::freezes::freeze;
use crate::db::{Connection, query, query_scalar};

const KNOWS_WARNING: &str = "SELECT EXISTS (SELECT 1 FROM fraud_warnings WHERE id = $1)";
const NEW_WARNING: &str = "INSERT INTO fraud_warnings (id, top_up, client, charge, type, created_at) VALUES ($1, $2, $3, $4, $5, $6)";

pub(super) async fn align_warning(
    connection: &mut Connection,
    charge: &Charge,
    stripe_charge: &str,
    warning: &WarningFacts,
    at: i64,
) -> Result<(), sqlx::Error> {
    let known: bool = query_scalar(KNOWS_WARNING).bind(&warning.id).fetch_one(&mut *connection).await?;
    if !known {
        query(NEW_WARNING)
            .bind(&warning.id)
            .bind(charge.id.to_string())
            .bind(charge.client)
            .bind(stripe_charge)
            .bind(&warning.kind)
            .bind(warning.created.saturating_mul(1_000_000))
            .execute(&mut *connection)
            .await?;
        freeze(connection, charge.client, &format!("fraud_warning:{}", warning.id), at).await?;
    }
    Ok(())
}
