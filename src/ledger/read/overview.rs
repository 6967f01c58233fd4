//! Sums for the first page that a seller looks at.

use crate::db::{Readers, Row, query, query_scalar};
use crate::ledger::account::Account;

/// Revenue is summed over no more than this many of the newest entries.
pub const REVENUE_ENTRIES: i64 = 100_000;

const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 24 * HOUR;

/// How the business stands. Every list has one row a currency, in alphabetical order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    /// Clients and what they hold.
    pub balances: Vec<Balances>,
    /// Top-ups whose outcome is not known yet.
    pub unfinished: UnfinishedTopUps,
    /// Charged by top-ups begun since midnight UTC.
    pub charged_today: Vec<Sum>,
    /// Charged by top-ups begun in the last seven days.
    pub charged_7_days: Vec<Sum>,
    /// Earned since [`Overview::revenue_since`].
    pub revenue: Vec<Sum>,
    /// Unix microseconds: 24 hours ago, or later when more than [`REVENUE_ENTRIES`] entries were made since.
    pub revenue_since: i64,
    /// Whether the sum covers less than 24 hours.
    pub revenue_is_partial: bool,
}

/// The balances of all clients with one currency, in micros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balances {
    /// Lower-case ISO 4217 code.
    pub currency: String,
    /// Number of clients.
    pub clients: i64,
    /// Paid credit.
    pub paid: i64,
    /// Bonus credit.
    pub bonus: i64,
    /// Debt.
    pub debt: i64,
}

/// Top-ups whose outcome is not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedTopUps {
    /// One row a currency.
    pub sums: Vec<Sum>,
    /// When the oldest was begun, in Unix microseconds.
    pub oldest: Option<i64>,
}

/// A number of things and their sum in one currency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    /// Lower-case ISO 4217 code.
    pub currency: String,
    /// How many.
    pub count: i64,
    /// In micros. Revenue is below zero when more was taken back than earned.
    pub amount: i64,
}

const BALANCES: &str = "SELECT currency, COUNT(*) AS clients, CAST(SUM(paid) AS BIGINT) AS paid, CAST(SUM(bonus) AS BIGINT) AS bonus, CAST(SUM(debt) AS BIGINT) AS debt \
                        FROM clients GROUP BY currency ORDER BY currency";
pub(super) const UNFINISHED: &str = "SELECT currency, COUNT(*) AS count, CAST(SUM(amount) AS BIGINT) AS amount, MIN(created_at) AS oldest FROM top_ups \
                          WHERE state IN ('created', 'confirming', 'pending') GROUP BY currency ORDER BY currency";
pub(super) const CHARGED: &str = "SELECT currency, COUNT(*) AS count, CAST(SUM(amount) AS BIGINT) AS amount FROM top_ups \
                       WHERE id >= $1 AND state = 'succeeded' AND created_at >= $2 GROUP BY currency ORDER BY currency";
pub(super) const REVENUE: &str = "SELECT currency, COUNT(*) AS count, CAST(SUM(CASE WHEN credit = $3 THEN amount ELSE -amount END) AS BIGINT) AS amount \
                       FROM entries WHERE id > $1 AND at >= $2 AND (credit = $3 OR debit = $3) \
                       GROUP BY currency ORDER BY currency";
/// Ids have gaps, so the entries are counted.
const LAST_BEHIND: &str = "SELECT id FROM entries ORDER BY id DESC LIMIT 1 OFFSET $1";
const FIRST_ENTRY_BEHIND: &str = "SELECT at FROM entries WHERE id > $1 ORDER BY id LIMIT 1";

/// How the business stands at `now` (Unix microseconds).
///
/// Bounded: entries to the newest [`REVENUE_ENTRIES`], top-ups to those of seven days (by their time-ordered ids).
/// Balances are one pass over the clients, who are far fewer than entries.
///
/// # Errors
/// What the database said; also when a sum passes 9.2 million million of the major unit.
pub async fn overview(pool: &Readers, now: i64) -> Result<Overview, sqlx::Error> {
    let today = now.saturating_sub(now.rem_euclid(DAY));
    let (revenue, revenue_since, revenue_is_partial) = revenue(pool, now.saturating_sub(DAY)).await?;
    Ok(Overview {
        balances: balances(pool).await?,
        unfinished: unfinished(pool).await?,
        charged_today: charged(pool, today).await?,
        charged_7_days: charged(pool, now.saturating_sub(7 * DAY)).await?,
        revenue,
        revenue_since,
        revenue_is_partial,
    })
}

async fn balances(pool: &Readers) -> Result<Vec<Balances>, sqlx::Error> {
    let rows = query(BALANCES).fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            Ok(Balances {
                currency: row.try_get("currency")?,
                clients: row.try_get("clients")?,
                paid: row.try_get("paid")?,
                bonus: row.try_get("bonus")?,
                debt: row.try_get("debt")?,
            })
        })
        .collect()
}

fn sum(row: &Row) -> Result<Sum, sqlx::Error> {
    Ok(Sum {
        currency: row.try_get("currency")?,
        count: row.try_get("count")?,
        amount: row.try_get("amount")?,
    })
}

async fn unfinished(pool: &Readers) -> Result<UnfinishedTopUps, sqlx::Error> {
    let rows = query(UNFINISHED).fetch_all(pool).await?;
    let mut oldest: Option<i64> = None;
    for row in &rows {
        let at: i64 = row.try_get("oldest")?;
        oldest = Some(oldest.map_or(at, |known| known.min(at)));
    }
    Ok(UnfinishedTopUps { sums: rows.iter().map(sum).collect::<Result<_, _>>()?, oldest })
}

async fn charged(pool: &Readers, since: i64) -> Result<Vec<Sum>, sqlx::Error> {
    // The id is made a moment before the row; an hour allows for a clock that was set back in between.
    let query = query(CHARGED).bind(first_uuid_at(since.saturating_sub(HOUR))).bind(since);
    query.fetch_all(pool).await?.iter().map(sum).collect()
}

/// The smallest UUIDv7 of a moment: 48 bits of Unix milliseconds come first (RFC 9562, section 5.7).
fn first_uuid_at(micros: i64) -> String {
    let millis = micros.max(0).div_euclid(1_000);
    format!("{:08x}-{:04x}", millis >> 16, millis & 0xffff)
}

async fn revenue(pool: &Readers, since: i64) -> Result<(Vec<Sum>, i64, bool), sqlx::Error> {
    let behind: Option<i64> = query_scalar(LAST_BEHIND).bind(REVENUE_ENTRIES).fetch_optional(pool).await?;
    let behind = behind.unwrap_or(0);
    let first: Option<i64> = if behind > 0 {
        query_scalar(FIRST_ENTRY_BEHIND).bind(behind).fetch_optional(pool).await?
    } else {
        None
    };
    // Entries ascend in time, but for a few seconds where several nodes write: when even the first one looked at is newer, the range was too short.
    let partial = first.filter(|at| *at > since);
    let query = query(REVENUE).bind(behind).bind(since).bind(Account::Revenue.number());
    let sums = query.fetch_all(pool).await?.iter().map(sum).collect::<Result<_, _>>()?;
    Ok((sums, partial.unwrap_or(since), partial.is_some()))
}
