//! Charges, what became of them, and what operators gave.

use std::collections::HashMap;

use super::findings::Verification;
use super::gathered::{Gathered, taken};
use crate::db::{Connection, query};
use crate::ledger::account::Account;

pub(super) async fn check_top_ups(
    connection: &mut Connection,
    gathered: &mut Gathered,
    report: &mut Verification,
) -> Result<(), sqlx::Error> {
    let rows =
        query("SELECT id, client, amount, bonus, state, currency FROM top_ups").fetch_all(connection).await?;
    for row in rows {
        report.top_ups = report.top_ups.saturating_add(1);
        let id: &str = row.try_get(0)?;
        let state: &str = row.try_get(4)?;
        let booked = taken(&mut gathered.top_ups, id);
        match (state, booked) {
            ("succeeded", Some(sums)) => {
                let client: Option<i64> = row.try_get(1)?;
                let (amount, bonus): (i64, i64) = (row.try_get(2)?, row.try_get(3)?);
                let currency: String = row.try_get(5)?;
                let same = (sums.clearing, sums.promotion, Some(sums.client)) == (amount, bonus, client)
                    && gathered.currencies.get(&sums.client) == Some(&currency);
                if !same {
                    report.find(format!("top-up {id}: its entries are not its amount, bonus and client"));
                }
            }
            ("succeeded", None) => report.find(format!("top-up {id}: it succeeded, but is not in the books")),
            ("failed", None) => {}
            (_, None) => report.open_top_ups = report.open_top_ups.saturating_add(1),
            (_, Some(_)) => report.find(format!("top-up {id}: it is in the books, but did not succeed")),
        }
    }
    for id in gathered.top_ups.keys() {
        report.find(format!("top-up {id}: it is in the books, but there is no such top-up"));
    }
    Ok(())
}

/// Each refund's entries are what its state says, and what is on its way to cards is the refunds that are on their way.
pub(super) async fn check_refunds(
    connection: &mut Connection,
    gathered: &mut Gathered,
    report: &mut Verification,
) -> Result<(), sqlx::Error> {
    const REFUNDS: &str = "\
SELECT r.id, r.state, r.client, r.amount, r.bonus, t.client, c.currency FROM refunds AS r
LEFT JOIN top_ups AS t ON t.id = r.top_up LEFT JOIN clients AS c ON c.id = r.client";
    const ABOVE: &str = "\
SELECT t.id FROM top_ups AS t JOIN refunds AS r ON r.top_up = t.id WHERE r.state <> 'failed'
GROUP BY t.id, t.amount HAVING SUM(r.amount) > t.amount";
    let mut pending: HashMap<String, i128> = gathered
        .trial
        .iter()
        .filter(|((_, account), _)| *account == Account::RefundPending.number())
        .map(|((currency, _), sum)| (currency.clone(), *sum))
        .collect();
    for row in query(REFUNDS).fetch_all(&mut *connection).await? {
        let (id, state): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let (client, amount, bonus): (i64, i64, i64) = (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
        let told = taken(&mut gathered.refunds, &id).unwrap_or_default();
        // One that failed at Stripe before it was known here has taken nothing.
        let nothing = state == "failed" && told.taken == 0;
        let taken = told.taken == amount && told.client == client && (0..=bonus).contains(&told.forfeited);
        let paid_out = told.paid_out == amount;
        let is_back = told.returned == amount && told.given_back == told.forfeited;
        let none = told.paid_out == 0 && told.returned == 0 && told.given_back == 0;
        let fits = match state.as_str() {
            "succeeded" => taken && paid_out && told.returned == 0 && told.given_back == 0,
            "failed" if nothing => none && told.forfeited == 0,
            "failed" => taken && is_back && (paid_out || told.paid_out == 0),
            _ => taken && none,
        };
        if !fits {
            report.find(format!("refund {id}: it is {state}, which its entries do not tell"));
        }
        if row.try_get::<Option<i64>, _>(5)? != Some(client) {
            report.find(format!("refund {id}: its client is not its top-up's"));
        }
        if let (Some(currency), "requested" | "pending") =
            (row.try_get::<Option<String>, _>(6)?, state.as_str())
        {
            let open = pending.entry(currency).or_default();
            *open = open.saturating_add(i128::from(amount));
        }
    }
    for id in gathered.refunds.keys() {
        report.find(format!("refund {id}: it is in the books, but there is no such refund"));
    }
    for (currency, left) in pending {
        if left != 0 {
            report
                .find(format!("the refunds on their way in {currency} are not what the books have for them"));
        }
    }
    for row in query(ABOVE).fetch_all(connection).await? {
        let id: String = row.try_get(0)?;
        report.find(format!("top-up {id}: more was refunded than charged"));
    }
    Ok(())
}

/// The rows of adjustments are exactly the entries of adjustments.
pub(super) async fn check_adjustments(
    connection: &mut Connection,
    gathered: &mut Gathered,
    report: &mut Verification,
) -> Result<(), sqlx::Error> {
    for row in query("SELECT id, client, amount, kind FROM adjustments").fetch_all(connection).await? {
        let (id, kind): (&str, &str) = (row.try_get(0)?, row.try_get(3)?);
        let became = if kind == "credit" { Account::ClientBonus } else { Account::ClientDebt };
        match taken(&mut gathered.adjustments, id) {
            Some(booked) if booked == (row.try_get(1)?, row.try_get(2)?, became) => {}
            Some(_) => report.find(format!("adjustment {id}: its entry is not its client, amount and kind")),
            None => report.find(format!("adjustment {id}: it is not in the books")),
        }
        match taken(&mut gathered.taken_back, id) {
            Some(taken_back) if kind == "credit" || taken_back > row.try_get(2)? => {
                report.find(format!("adjustment {id}: more of it was taken back than was written off"));
            }
            _ => {}
        }
    }
    for id in gathered.taken_back.keys() {
        report.find(format!("adjustment {id}: it was taken back, but there is no such adjustment"));
    }
    for id in gathered.adjustments.keys() {
        report.find(format!("adjustment {id}: it is in the books, but there is no such adjustment"));
    }
    Ok(())
}
