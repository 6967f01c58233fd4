//! The charge that a change is about.

use crate::db::{Connection, Sql, query, query_scalar};
use crate::domain::{Micros, TopUpId};
use crate::ledger::core::ClientId;

/// The top-up's row is locked until the transaction ends: changes about one charge come one after the other.
const TOP_UP: Sql = Sql::each(
    "SELECT client, amount, bonus FROM top_ups WHERE id = $1 AND state = 'succeeded'",
    "SELECT client, amount, bonus FROM top_ups WHERE id = $1 AND state = 'succeeded' FOR UPDATE",
);

/// Of what has not failed.
const REFUNDED: &str =
    "SELECT CAST(COALESCE(SUM(amount), 0) AS BIGINT) FROM refunds WHERE top_up = $1 AND state <> 'failed'";

/// The charge of a change.
pub(super) struct Charge {
    pub(super) id: TopUpId,
    pub(super) client: ClientId,
    pub(super) amount: Micros,
    bonus: Micros,
}

impl Charge {
    pub(super) async fn lock(connection: &mut Connection, id: TopUpId) -> Result<Option<Self>, sqlx::Error> {
        let Some(row) = query(TOP_UP).bind(id.to_string()).fetch_optional(connection).await? else {
            return Ok(None);
        };
        let malformed = || sqlx::Error::Decode("a top-up row is malformed".into());
        Ok(Some(Self {
            id,
            client: row.try_get::<Option<ClientId>, _>(0)?.ok_or_else(malformed)?,
            amount: Micros::new(row.try_get(1)?).ok_or_else(malformed)?,
            bonus: Micros::new(row.try_get(2)?).ok_or_else(malformed)?,
        }))
    }

    pub(super) async fn refunded(&self, connection: &mut Connection) -> Result<Micros, sqlx::Error> {
        sum(query_scalar(REFUNDED).bind(self.id.to_string()).fetch_one(connection).await?)
    }

    /// The bonus that is forfeited when another amount of the charge is refunded: what brings the forfeited whole to the share
    /// of what is refunded by then, rounded down, so that the parts of a full refund are exactly the bonus.
    pub(super) fn forfeits(&self, refunded: Micros, amount: Micros) -> Micros {
        let share = |of: Micros| {
            let product = i128::from(self.bonus.get()).saturating_mul(i128::from(of.min(self.amount).get()));
            let share = product.checked_div(i128::from(self.amount.get())).unwrap_or(0);
            i64::try_from(share).ok().and_then(Micros::new).unwrap_or(Micros::ZERO)
        };
        let after = refunded.checked_add(amount).unwrap_or(Micros::MAX);
        share(after).saturating_sub(share(refunded))
    }
}

pub(super) fn sum(value: i64) -> Result<Micros, sqlx::Error> {
    Micros::new(value).ok_or_else(|| sqlx::Error::Decode("a sum is out of range".into()))
}
