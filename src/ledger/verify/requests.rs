//! Requests: what was given back, and what is held for them.

use super::findings::Verification;
use super::gathered::{Gathered, taken};
use crate::db::{Connection, query, query_scalar};
use crate::ledger::account::Account;
use crate::ledger::source::{Source, SourceKind};

pub(super) async fn check_reversals(
    connection: &mut Connection,
    gathered: &Gathered,
    report: &mut Verification,
) -> Result<(), sqlx::Error> {
    for reversal in &gathered.reversals {
        let (given, leg) = (reversal.source.command(), reversal.source.leg());
        let usage = given.sibling(SourceKind::Usage);
        let capture = usage.entry(leg);
        let found = query("SELECT client, amount, debit, credit FROM entries WHERE source = $1")
            .bind(capture.to_string())
            .fetch_optional(&mut *connection)
            .await?;
        let mirrored = match found {
            Some(row) => {
                let taken: (i64, i64, i64, i64) =
                    (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
                // What was taken from a hold goes back to where the hold had taken it from.
                let (client, amount, mut from, to) = taken;
                if from == Account::Holds.number() {
                    from = query_scalar("SELECT debit FROM entries WHERE source = $1")
                        .bind(given.sibling(SourceKind::Hold).entry(leg).to_string())
                        .fetch_optional(&mut *connection)
                        .await?
                        .unwrap_or(0);
                }
                (client, amount, from, to)
                    == (reversal.client, reversal.amount, reversal.credit.number(), reversal.debit.number())
            }
            None => false,
        };
        if !mirrored || legs(connection, &usage).await? != legs(connection, given).await? {
            report.find(format!("{capture}: its reversal gives back something else than was taken"));
        }
    }
    Ok(())
}

/// How many entries a command made.
async fn legs(connection: &mut Connection, source: &Source) -> Result<i64, sqlx::Error> {
    let mut legs = 0i64;
    for source in source.entries() {
        let found: i64 = query_scalar("SELECT COUNT(*) FROM entries WHERE source = $1")
            .bind(source.to_string())
            .fetch_one(&mut *connection)
            .await?;
        legs = legs.saturating_add(found);
    }
    Ok(legs)
}

/// The rows of holds are exactly the requests for which the books hold something.
pub(super) async fn check_holds(
    connection: &mut Connection,
    gathered: &mut Gathered,
    report: &mut Verification,
) -> Result<(), sqlx::Error> {
    for row in query("SELECT request, client, amount FROM holds").fetch_all(connection).await? {
        report.open_holds = report.open_holds.saturating_add(1);
        let request: String = row.try_get(0)?;
        let stored: (i64, i64) = (row.try_get(1)?, row.try_get(2)?);
        let told = taken(&mut gathered.holds, &request).map(|sums| (sums.client, sums.held));
        if told != Some(stored) {
            report.find(format!("hold {request}: its row is not what the books hold for it"));
        }
    }
    for request in &gathered.foreign_holds {
        report.find(format!("hold {request}: it was taken from one client and ended with another"));
    }
    for request in &gathered.misplaced_holds {
        report.find(format!("hold {request}: it was not given back to the credit it was taken from"));
    }
    for request in gathered.holds.keys() {
        report.find(format!("hold {request}: the books hold something for it, but it has no row"));
    }
    Ok(())
}
