//! Clients and their keys.

use super::{bounded, prefix_end};
use crate::db::{Readers, Row, query};

/// A search looks at no more clients than this by public id, and at no more by key prefix: the newest, or those that
/// come last in the alphabet. Whoever has a longer piece of the id finds the rest.
pub const SEARCH_CANDIDATES: u32 = 200;

/// Search texts are cut to this many bytes; every id we show is shorter.
const SEARCH_LEN: usize = 64;

/// A client and its balances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRow {
    /// Internal number.
    pub id: i64,
    /// What people see: a UUID.
    pub public_id: String,
    /// Lower-case ISO 4217 code.
    pub currency: String,
    /// Paid credit, in micros.
    pub paid: i64,
    /// Bonus credit, in micros.
    pub bonus: i64,
    /// What the client owes, in micros.
    pub debt: i64,
    /// Number of ledger entries so far.
    pub sequence: i64,
    /// Newest ledger entry.
    pub last_entry: Option<i64>,
    /// `active` or `frozen`.
    pub status: String,
    /// `cus_…`.
    pub stripe_customer: Option<String>,
    /// Unix microseconds.
    pub created_at: i64,
}

impl ClientRow {
    /// What can be spent, in micros: paid and bonus credit, and nothing while there is debt.
    #[must_use]
    pub fn spendable(&self) -> i64 {
        if self.debt > 0 { 0 } else { self.paid.saturating_add(self.bonus) }
    }

    fn read(row: &Row) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            public_id: row.try_get("public_id")?,
            currency: row.try_get("currency")?,
            paid: row.try_get("paid")?,
            bonus: row.try_get("bonus")?,
            debt: row.try_get("debt")?,
            sequence: row.try_get("sequence")?,
            last_entry: row.try_get("last_entry")?,
            status: row.try_get("status")?,
            stripe_customer: row.try_get("stripe_customer")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

/// A key of a client. The key itself is stored nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// The public id that the key is derived from.
    pub id: String,
    /// The first characters of the key.
    pub shown_prefix: String,
    /// `owner`, `spend` or `read`.
    pub scope: String,
    /// Unix microseconds.
    pub created_at: i64,
    /// Unix microseconds; `None` while the key works.
    pub revoked_at: Option<i64>,
}

macro_rules! select_clients {
    ($rest:literal) => {
        concat!(
            "SELECT id, public_id, currency, paid, bonus, debt, sequence, last_entry, status, stripe_customer, \
             created_at FROM clients ",
            $rest
        )
    };
}

const BY_ID: &str = select_clients!("WHERE id = $1");
const BY_PUBLIC_ID: &str = select_clients!("WHERE public_id = $1");
const NEWEST: &str = select_clients!("WHERE id < $1 ORDER BY id DESC LIMIT $2");
// Each arm uses an index and ends after its own limit, so a search for "0" costs no more than one for a whole id.
pub(super) const SEARCH: &str = select_clients!(
    "WHERE id < $1 AND id IN ( \
       SELECT id FROM (SELECT id FROM clients WHERE public_id >= $3 AND public_id < $4 ORDER BY public_id DESC LIMIT $7) AS a \
       UNION \
       SELECT client FROM (SELECT client FROM client_keys WHERE shown_prefix >= $5 AND shown_prefix < $6 \
                           ORDER BY shown_prefix DESC LIMIT $7) AS b \
       UNION SELECT id FROM (SELECT id FROM clients WHERE stripe_customer = $5 LIMIT $7) AS c \
       UNION SELECT client FROM top_ups WHERE payment_intent = $5 AND client IS NOT NULL \
     ) ORDER BY id DESC LIMIT $2"
);
const KEYS: &str = "SELECT id, shown_prefix, scope, created_at, revoked_at FROM client_keys \
                    WHERE client = $1 ORDER BY created_at, id LIMIT $2";

/// The client with this internal number.
///
/// # Errors
/// What the database said.
pub async fn client_by_id(pool: &Readers, id: i64) -> Result<Option<ClientRow>, sqlx::Error> {
    let row = query(BY_ID).bind(id).fetch_optional(pool).await?;
    row.as_ref().map(ClientRow::read).transpose()
}

/// The client with this public id.
///
/// # Errors
/// What the database said.
pub async fn client_by_public_id(pool: &Readers, public_id: &str) -> Result<Option<ClientRow>, sqlx::Error> {
    let row = query(BY_PUBLIC_ID).bind(public_id).fetch_optional(pool).await?;
    row.as_ref().map(ClientRow::read).transpose()
}

/// Clients, newest first, before the client with the internal number `before`.
///
/// `search` is the beginning of a public id or of a key's shown prefix, or a whole Stripe customer or PaymentIntent id.
/// Bounded by indexes, `limit` and [`SEARCH_CANDIDATES`]. `%` and `_` mean themselves.
///
/// # Errors
/// What the database said.
pub async fn list_clients(
    pool: &Readers,
    search: Option<&str>,
    before: Option<i64>,
    limit: u32,
) -> Result<Vec<ClientRow>, sqlx::Error> {
    let before = before.unwrap_or(i64::MAX);
    let search = search.map(str::trim).filter(|text| !text.is_empty());
    let rows = match search {
        None => query(NEWEST).bind(before).bind(bounded(limit)).fetch_all(pool).await?,
        Some(text) => {
            let text = text.get(..text.floor_char_boundary(SEARCH_LEN)).unwrap_or(text);
            let public_id = text.to_ascii_lowercase();
            query(SEARCH)
                .bind(before)
                .bind(bounded(limit))
                .bind(public_id.as_str())
                .bind(prefix_end(&public_id))
                .bind(text)
                .bind(prefix_end(text))
                .bind(i64::from(SEARCH_CANDIDATES))
                .fetch_all(pool)
                .await?
        }
    };
    rows.iter().map(ClientRow::read).collect()
}

/// The keys of a client, oldest first, at most [`super::MAX_ROWS`].
///
/// # Errors
/// What the database said.
pub async fn client_keys(pool: &Readers, client: i64) -> Result<Vec<KeyRow>, sqlx::Error> {
    let rows = query(KEYS).bind(client).bind(i64::from(super::MAX_ROWS)).fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            Ok(KeyRow {
                id: row.try_get("id")?,
                shown_prefix: row.try_get("shown_prefix")?,
                scope: row.try_get("scope")?,
                created_at: row.try_get("created_at")?,
                revoked_at: row.try_get("revoked_at")?,
            })
        })
        .collect()
}
