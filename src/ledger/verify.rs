//! Recomputes everything from the entries and compares it with what is stored. Reads only.
//!
//! In the order in which things happen: `database.rs` (the file, its references, and what guards the entries), `entries.rs` (each
//! entry by itself and after the one before), `gathered.rs` (what they say together), then what the rows say of the same:
//! `wallets.rs`, `charges.rs`, `requests.rs`; and `findings.rs`.

mod charges;
mod database;
mod entries;
mod findings;
mod gathered;
mod requests;
mod wallets;

use self::charges::{check_adjustments, check_refunds, check_top_ups};
use self::database::{check_accounts, check_database};
use self::entries::check_entry;
pub use self::findings::Verification;
use self::gathered::Gathered;
use self::requests::{check_holds, check_reversals};
use self::wallets::{check_clients, check_disputes, check_freezes};
use super::account::Account;
use crate::db::{Connection, query, query_scalar};

/// Entries read at once.
const CHUNK: i64 = 20_000;

const ENTRIES: &str = "\
SELECT id, source, debit, credit, amount, currency, client, sequence, previous, paid_after, bonus_after, debt_after,
       route, price_list, key
FROM entries WHERE id > $1 ORDER BY id LIMIT $2";

/// Verifies the whole database. `progress` is told the number of entries read now and then.
///
/// # Errors
/// When the database cannot be read at all.
pub async fn verify(
    connection: &mut Connection,
    mut progress: impl FnMut(u64),
) -> Result<Verification, sqlx::Error> {
    let mut report = Verification::default();
    // One snapshot, so that a server that goes on writing does not disturb the comparison.
    connection.begin_snapshot().await?;
    check_database(connection, &mut report).await?;
    // Several nodes take ids from a sequence, which leaves gaps where a transaction was rolled back.
    let next_id = match connection {
        Connection::Sqlite(_) => Some(1),
        Connection::Postgres(_) | Connection::Lost => None,
    };
    let mut gathered = Gathered {
        next_id,
        routes: query_scalar("SELECT id FROM routes")
            .fetch_all(&mut *connection)
            .await?
            .into_iter()
            .collect(),
        price_lists: query_scalar("SELECT id FROM price_lists")
            .fetch_all(&mut *connection)
            .await?
            .into_iter()
            .collect(),
        ..Gathered::default()
    };
    check_accounts(connection, &mut gathered, &mut report).await?;
    for row in query("SELECT number, client FROM client_keys").fetch_all(&mut *connection).await? {
        match row.try_get::<Option<i64>, _>(0)? {
            Some(number) => {
                gathered.keys.insert(number, row.try_get(1)?);
            }
            None => {
                let client: i64 = row.try_get(1)?;
                report.find(format!(
                    "client {client}: one of its keys has no number, so entries cannot name it"
                ));
            }
        }
    }
    for row in query("SELECT id, currency FROM clients").fetch_all(&mut *connection).await? {
        report.clients = report.clients.saturating_add(1);
        gathered.currencies.insert(row.try_get(0)?, row.try_get(1)?);
    }
    let mut last = i64::MIN;
    loop {
        let rows = query(ENTRIES).bind(last).bind(CHUNK).fetch_all(&mut *connection).await?;
        let Some(newest) = rows.last() else { break };
        last = newest.try_get(0)?;
        for row in &rows {
            report.entries = report.entries.saturating_add(1);
            check_entry(row, &mut gathered, &mut report)?;
        }
        progress(report.entries);
    }
    check_clients(connection, &gathered, &mut report).await?;
    check_top_ups(connection, &mut gathered, &mut report).await?;
    check_reversals(connection, &gathered, &mut report).await?;
    check_holds(connection, &mut gathered, &mut report).await?;
    check_refunds(connection, &mut gathered, &mut report).await?;
    check_adjustments(connection, &mut gathered, &mut report).await?;
    check_disputes(&gathered, &mut report);
    check_freezes(connection, &mut report).await?;
    report.trial_balance = trial_balance(&gathered);
    connection.rollback().await?;
    Ok(report)
}

/// There is nothing to check about its sum: each entry adds the same to both of its sides, so that it is nothing whatever was done to
/// the books. What the accounts should hold is checked by wallet, hold and refund.
fn trial_balance(gathered: &Gathered) -> Vec<(String, Account, i128)> {
    let mut lines: Vec<(String, Account, i128)> = gathered
        .trial
        .iter()
        .filter_map(|((currency, number), sum)| {
            Some((currency.clone(), Account::from_number(*number)?, *sum))
        })
        .collect();
    lines.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    lines
}

#[cfg(test)]
mod tests;
