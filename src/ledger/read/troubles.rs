//! What became of payments after they succeeded.

use super::bounded;
use crate::db::{Readers, query};

/// A refund or a dispute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentTrouble {
    /// Ours for refunds, Stripe's for disputes.
    pub id: String,
    /// Otherwise a refund.
    pub is_dispute: bool,
    /// The refund's state, or Stripe's word.
    pub state: String,
    /// In micros.
    pub amount: i64,
    /// Lower-case ISO 4217 code.
    pub currency: String,
    /// Why, for people.
    pub detail: Option<String>,
    /// Unix microseconds.
    pub created_at: i64,
}

const OF_CLIENT: &str = "\
SELECT r.id, 0, r.state, r.amount, t.currency, COALESCE(r.failure, r.reason), r.created_at
FROM top_ups AS t JOIN refunds AS r ON r.top_up = t.id WHERE t.client = $1
UNION ALL SELECT d.id, 1, d.status, d.amount, t.currency, d.reason, d.created_at
FROM top_ups AS t JOIN disputes AS d ON d.top_up = t.id WHERE t.client = $1
ORDER BY 7 DESC, 1 LIMIT $2";

/// The refunds and disputes of a client, newest first. Bounded by `limit`.
///
/// # Errors
/// What the database said.
pub async fn client_troubles(
    pool: &Readers,
    client: i64,
    limit: u32,
) -> Result<Vec<PaymentTrouble>, sqlx::Error> {
    let rows = query(OF_CLIENT).bind(client).bind(bounded(limit)).fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            Ok(PaymentTrouble {
                id: row.try_get(0)?,
                is_dispute: row.try_get::<i32, _>(1)? == 1,
                state: row.try_get(2)?,
                amount: row.try_get(3)?,
                currency: row.try_get(4)?,
                detail: row.try_get(5)?,
                created_at: row.try_get(6)?,
            })
        })
        .collect()
}
