//! Ledger entries.

use super::{MAX_ROWS, account, bounded};
use crate::db::{Query, Readers, Row, query};
use crate::ledger::account::Account;
use crate::ledger::source::{EntrySource, SourceKind};

/// A ledger entry. Amounts and balances are micros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRow {
    /// Ids ascend with time, but for a few seconds where several nodes write; those of one client always do.
    pub id: i64,
    /// Unix microseconds.
    pub at: i64,
    /// What caused the entry, as stored: a newer program may know more kinds. Unique. [`EntryRow::of`] reads it.
    pub source: String,
    /// The account debited.
    pub debit: Account,
    /// The account credited.
    pub credit: Account,
    /// Always above zero.
    pub amount: i64,
    /// Lower-case ISO 4217 code.
    pub currency: String,
    /// Internal number of the client.
    pub client: Option<i64>,
    /// Public id of that client.
    pub client_public_id: Option<String>,
    /// The client's counter after this entry.
    pub sequence: Option<i64>,
    /// The client's entry before this one.
    pub previous: Option<i64>,
    /// The client's paid credit after this entry.
    pub paid_after: Option<i64>,
    /// The client's bonus credit after this entry.
    pub bonus_after: Option<i64>,
    /// The client's debt after this entry.
    pub debt_after: Option<i64>,
    /// The name of the route that was paid for, `GET /api/weather`.
    pub route: Option<String>,
    /// The price list that was in force.
    pub price_list: Option<i64>,
    /// The status that the upstream answered with.
    pub upstream_status: Option<i64>,
    /// The first characters of the client key that spent.
    pub key: Option<String>,
}

impl EntryRow {
    /// What caused the entry. `None`: this program does not know its kind.
    #[must_use]
    pub fn of(&self) -> Option<EntrySource> {
        self.source.parse().ok()
    }

    /// Whether it moved the client's credit or debt, and not only what lies between the seller and Stripe.
    fn moves_the_clients_own(&self) -> bool {
        self.debit.is_the_clients() || self.credit.is_the_clients()
    }

    fn read(row: &Row) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            at: row.try_get("at")?,
            source: row.try_get("source")?,
            debit: account(row, "debit")?,
            credit: account(row, "credit")?,
            amount: row.try_get("amount")?,
            currency: row.try_get("currency")?,
            client: row.try_get("client")?,
            client_public_id: row.try_get("client_public_id")?,
            sequence: row.try_get("sequence")?,
            previous: row.try_get("previous")?,
            paid_after: row.try_get("paid_after")?,
            bonus_after: row.try_get("bonus_after")?,
            debt_after: row.try_get("debt_after")?,
            route: row.try_get("route_name")?,
            price_list: row.try_get("price_list")?,
            upstream_status: row.try_get("upstream_status")?,
            key: row.try_get("key_shown")?,
        })
    }
}

macro_rules! columns {
    () => {
        columns!("e.upstream_status")
    };
    ($status:literal) => {
        concat!(
            "SELECT e.id, e.at, e.source, e.debit, e.credit, e.amount, e.currency, e.client, c.public_id AS client_public_id, e.sequence, \
             e.previous, e.paid_after, e.bonus_after, e.debt_after, r.name AS route_name, e.price_list, ",
            $status,
            " AS upstream_status, \
             (SELECT k.shown_prefix FROM client_keys k WHERE k.number = e.key) AS key_shown "
        )
    };
}

// There is no index by client; `previous` leads from the newest entry back, one lookup by primary key a step.
macro_rules! walk {
    ($start:literal) => {
        walk!($start, "e.upstream_status", "", "e.route")
    };
    ($start:literal, $status:literal, $join:literal, $route:literal) => {
        concat!(
            "WITH RECURSIVE chain (id, step) AS ( ",
            $start,
            " UNION ALL SELECT e.previous, chain.step + 1 FROM chain JOIN entries e ON e.id = chain.id \
              WHERE e.previous IS NOT NULL AND chain.step < $2) ",
            columns!($status),
            "FROM chain JOIN entries e ON e.id = chain.id ",
            $join,
            " LEFT JOIN routes r ON r.id = ",
            $route,
            " LEFT JOIN clients c ON c.id = e.client WHERE e.client = $1 ORDER BY chain.step"
        )
    };
}

const FROM_NEWEST: &str = walk!("SELECT last_entry, 1 FROM clients WHERE id = $1 AND last_entry IS NOT NULL");
pub(super) const FROM_CURSOR: &str =
    walk!("SELECT previous, 1 FROM entries WHERE id = $3 AND client = $1 AND previous IS NOT NULL");
/// What was set aside for a request, beside what became of the request: its capture moves nothing of the client's. `$3` and `$4` are
/// what the sources of holds and of captures begin with.
macro_rules! walk_of_payer {
    ($start:literal) => {
        walk!(
            $start,
            "COALESCE(e.upstream_status, u.upstream_status)",
            "LEFT JOIN entries u ON u.source = CASE WHEN substr(e.source, 1, length(CAST($3 AS TEXT))) = $3 \
             THEN $4 || substr(e.source, length(CAST($3 AS TEXT)) + 1) END",
            "COALESCE(e.route, u.route)"
        )
    };
}
const PAYERS_FROM_NEWEST: &str =
    walk_of_payer!("SELECT last_entry, 1 FROM clients WHERE id = $1 AND last_entry IS NOT NULL");
pub(super) const PAYERS_FROM_CURSOR: &str =
    walk_of_payer!("SELECT previous, 1 FROM entries WHERE id = $5 AND client = $1 AND previous IS NOT NULL");
const RECENT: &str = concat!(
    columns!(),
    "FROM (SELECT * FROM entries ORDER BY id DESC LIMIT $1) AS e LEFT JOIN routes r ON r.id = e.route \
     LEFT JOIN clients c ON c.id = e.client ORDER BY e.at DESC, e.id DESC"
);

/// A client's entries, newest first. `before` is the id of the last entry already seen; one that is not this client's
/// gives nothing. Bounded: `limit` lookups by primary key, however many entries there are.
///
/// # Errors
/// What the database said.
pub async fn client_entries(
    pool: &Readers,
    client: i64,
    before: Option<i64>,
    limit: u32,
) -> Result<Vec<EntryRow>, sqlx::Error> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let query = query(if before.is_some() { FROM_CURSOR } else { FROM_NEWEST });
    rows(pool, query.bind(client).bind(bounded(limit)), before).await
}

/// Those of a client's entries that moved its own balance, newest first, and where the next page begins, if there is one. The
/// seller's fees and what the client has no part in are left out. `before` as in [`client_entries`]. A hold has the route and the
/// status of the request that it was captured for.
///
/// # Errors
/// What the database said.
pub async fn payer_entries(
    pool: &Readers,
    client: i64,
    before: Option<i64>,
    limit: u32,
) -> Result<(Vec<EntryRow>, Option<i64>), sqlx::Error> {
    let wanted = usize::try_from(limit.min(MAX_ROWS)).unwrap_or(usize::MAX);
    let (mut found, mut cursor) = (Vec::new(), before);
    let step = limit.saturating_add(1);
    // One more than is wanted tells whether there is a next page.
    while found.len() <= wanted {
        let query = query(if cursor.is_some() { PAYERS_FROM_CURSOR } else { PAYERS_FROM_NEWEST });
        let query = query.bind(client).bind(bounded(step));
        let query = query.bind(SourceKind::Hold.prefix()).bind(SourceKind::Usage.prefix());
        let rows = rows(pool, query, cursor).await?;
        let Some(last) = rows.last() else { break };
        let is_end = last.previous.is_none();
        cursor = Some(last.id);
        found.extend(rows.into_iter().filter(EntryRow::moves_the_clients_own));
        if is_end {
            break;
        }
    }
    let has_more = found.len() > wanted;
    found.truncate(wanted);
    let next = found.last().filter(|_| has_more).map(|row| row.id);
    Ok((found, next))
}

async fn rows(pool: &Readers, query: Query, before: Option<i64>) -> Result<Vec<EntryRow>, sqlx::Error> {
    let query = match before {
        None => query,
        Some(entry) => query.bind(entry),
    };
    query.fetch_all(pool).await?.iter().map(EntryRow::read).collect()
}

/// The newest entries of everybody. Bounded by `limit`.
///
/// # Errors
/// What the database said.
pub async fn recent_entries(pool: &Readers, limit: u32) -> Result<Vec<EntryRow>, sqlx::Error> {
    let rows = query(RECENT).bind(bounded(limit)).fetch_all(pool).await?;
    rows.iter().map(EntryRow::read).collect()
}
