//! Wallets: their balances, what disputes have taken of them, and what freezes them.

use super::findings::Verification;
use super::gathered::{Gathered, Recomputed};
use crate::db::{Connection, query};

pub(super) async fn check_clients(
    connection: &mut Connection,
    gathered: &Gathered,
    report: &mut Verification,
) -> Result<(), sqlx::Error> {
    let rows = query("SELECT id, paid, bonus, debt, sequence, last_entry FROM clients")
        .fetch_all(connection)
        .await?;
    for row in rows {
        let id: i64 = row.try_get(0)?;
        let stored = Recomputed {
            paid: row.try_get(1)?,
            bonus: row.try_get(2)?,
            debt: row.try_get(3)?,
            sequence: row.try_get(4)?,
            last_entry: row.try_get(5)?,
        };
        if stored != gathered.clients.get(&id).copied().unwrap_or_default() {
            report.find(format!("client {id}: its balances are not the sum of its entries"));
        }
    }
    Ok(())
}

/// Disputes give back at most what they have taken.
pub(super) fn check_disputes(gathered: &Gathered, report: &mut Verification) {
    for (client, left) in &gathered.disputed {
        if *left < 0 {
            report.find(format!("client {client}: disputes have given back more than they had taken"));
        }
    }
}

/// A client is frozen exactly as long as something freezes it.
pub(super) async fn check_freezes(
    connection: &mut Connection,
    report: &mut Verification,
) -> Result<(), sqlx::Error> {
    const WRONG: &str = "\
SELECT c.id FROM clients AS c WHERE (c.status = 'frozen') <>
    EXISTS (SELECT 1 FROM freezes AS f WHERE f.client = c.id AND f.lifted_at IS NULL)";
    for row in query(WRONG).fetch_all(connection).await? {
        let id: i64 = row.try_get(0)?;
        report.find(format!("client {id}: whether it is frozen is not what its freezes tell"));
    }
    Ok(())
}
