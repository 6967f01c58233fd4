//! Top-ups: what was charged, or tried.

use super::bounded;
use crate::db::{Readers, Row, query, query_scalar};

/// A filtered page of top-ups looks at no more rows than this; the next page goes on where it stopped.
const EXAMINED: i64 = 10_000;

/// A top-up. Amounts are micros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopUpRow {
    /// A UUIDv7: later top-ups have larger ids.
    pub id: String,
    /// Internal number of the client; `None` until a new payer's first top-up is recorded.
    pub client: Option<i64>,
    /// Public id of that client.
    pub client_public_id: Option<String>,
    /// Lower-case ISO 4217 code.
    pub currency: String,
    /// Charged to the card.
    pub amount: i64,
    /// Credited on top.
    pub bonus: i64,
    /// `created`, `confirming`, `pending`, `succeeded` or `failed`.
    pub state: String,
    /// Stable code, when failed.
    pub failure: Option<String>,
    /// Stripe's `pi_…`.
    pub payment_intent: Option<String>,
    /// Of the amount: refunded, or on its way back.
    pub refunded: i64,
    /// Unix microseconds.
    pub created_at: i64,
    /// Unix microseconds.
    pub updated_at: i64,
}

impl TopUpRow {
    fn read(row: &Row) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            client: row.try_get("client")?,
            client_public_id: row.try_get("client_public_id")?,
            currency: row.try_get("currency")?,
            amount: row.try_get("amount")?,
            bonus: row.try_get("bonus")?,
            state: row.try_get("state")?,
            failure: row.try_get("failure")?,
            payment_intent: row.try_get("payment_intent")?,
            refunded: row.try_get("refunded")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        })
    }
}

/// Which top-ups are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopUpFilter {
    /// All.
    All,
    /// Those whose outcome is not known yet.
    Unfinished,
    /// Those that were charged and credited.
    Succeeded,
    /// Those that were not charged.
    Failed,
}

/// A page of top-ups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopUpPage {
    /// Newest first. May be empty although there is a next page: see [`list_top_ups`].
    pub rows: Vec<TopUpRow>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<String>,
}

macro_rules! select {
    ($from:literal, $rest:literal) => {
        concat!(
            "SELECT t.id, t.client, c.public_id AS client_public_id, t.currency, t.amount, t.bonus, t.state, t.failure, \
             t.payment_intent, t.created_at, t.updated_at, \
             (SELECT CAST(COALESCE(SUM(f.amount), 0) AS BIGINT) FROM refunds f \
              WHERE f.top_up = t.id AND f.state <> 'failed') AS refunded FROM ",
            $from,
            " LEFT JOIN clients c ON c.id = t.client ",
            $rest
        )
    };
}

const BY_ID: &str = select!("top_ups t", "WHERE t.id = $1");
pub(super) const OF_CLIENT: &str =
    select!("top_ups t", "WHERE t.client = $1 AND t.id < $2 ORDER BY t.id DESC LIMIT $3");
const NEWEST: &str = select!("top_ups t", "WHERE t.id < $1 ORDER BY t.id DESC LIMIT $2");
// The concatenation keeps the planner off the primary key, so that it takes the small partial index of unfinished ones.
pub(super) const UNFINISHED: &str = select!(
    "top_ups t",
    "WHERE t.state IN ('created', 'confirming', 'pending') AND t.id || '' < $1 ORDER BY t.id || '' DESC LIMIT $2"
);
const IN_STATE: &str = select!(
    "(SELECT * FROM top_ups WHERE id < $1 ORDER BY id DESC LIMIT $4) t",
    "WHERE t.state = $3 ORDER BY t.id DESC LIMIT $2"
);
const LAST_EXAMINED: &str = "SELECT id FROM top_ups WHERE id < $1 ORDER BY id DESC LIMIT 1 OFFSET $2";

/// Behind every id: ids are hexadecimal.
const END: &str = "~";

/// The top-up with this id.
///
/// # Errors
/// What the database said.
pub async fn top_up_by_id(pool: &Readers, id: &str) -> Result<Option<TopUpRow>, sqlx::Error> {
    let row = query(BY_ID).bind(id).fetch_optional(pool).await?;
    row.as_ref().map(TopUpRow::read).transpose()
}

/// A client's top-ups, newest first, before the top-up `before`. Bounded by an index and `limit`.
///
/// # Errors
/// What the database said.
pub async fn client_top_ups(
    pool: &Readers,
    client: i64,
    limit: u32,
    before: Option<&str>,
) -> Result<Vec<TopUpRow>, sqlx::Error> {
    let query = query(OF_CLIENT).bind(client).bind(before.unwrap_or(END)).bind(bounded(limit));
    query.fetch_all(pool).await?.iter().map(TopUpRow::read).collect()
}

/// The newest top-ups of everybody. Bounded by `limit`.
///
/// # Errors
/// What the database said.
pub async fn recent_top_ups(pool: &Readers, limit: u32) -> Result<Vec<TopUpRow>, sqlx::Error> {
    let query = query(NEWEST).bind(END).bind(bounded(limit));
    query.fetch_all(pool).await?.iter().map(TopUpRow::read).collect()
}

/// A page of everybody's top-ups, newest first, before the top-up `before`.
///
/// Bounded: a page of succeeded or failed ones looks at 10,000 top-ups at most and then says where to go on. Unfinished
/// ones have an index of their own.
///
/// # Errors
/// What the database said.
pub async fn list_top_ups(
    pool: &Readers,
    filter: TopUpFilter,
    before: Option<&str>,
    limit: u32,
) -> Result<TopUpPage, sqlx::Error> {
    let before = before.unwrap_or(END);
    let wanted = bounded(limit.max(1));
    // One row more than wanted tells whether there is a next page.
    let fetched = wanted.saturating_add(1);
    let state = match filter {
        TopUpFilter::All | TopUpFilter::Unfinished => None,
        TopUpFilter::Succeeded => Some("succeeded"),
        TopUpFilter::Failed => Some("failed"),
    };
    let query = match (state, filter) {
        (Some(state), _) => query(IN_STATE).bind(before).bind(fetched).bind(state).bind(EXAMINED),
        (None, TopUpFilter::Unfinished) => query(UNFINISHED).bind(before).bind(fetched),
        (None, _) => query(NEWEST).bind(before).bind(fetched),
    };
    let mut rows = query.fetch_all(pool).await?.iter().map(TopUpRow::read).collect::<Result<Vec<_>, _>>()?;
    let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
    let next = if rows.len() > wanted {
        rows.truncate(wanted);
        rows.last().map(|row| row.id.clone())
    } else if state.is_some() {
        let query = query_scalar(LAST_EXAMINED).bind(before).bind(EXAMINED.saturating_sub(1));
        query.fetch_optional(pool).await?
    } else {
        None
    };
    Ok(TopUpPage { rows, next })
}
