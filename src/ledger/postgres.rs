//! The ledger's bulk statements on PostgreSQL: rows travel as arrays, and one statement appends entries and updates clients.

use sqlx::Row as _;
use sqlx::postgres::{PgArguments, PgConnection, Postgres};
use sqlx::query::QueryScalar;

use super::core::{ClientId, ClientState, Entry, EntryId};
use super::storage::{HoldRow, Writing, entry_columns, state_columns};
use crate::db::Row;

/// Locked in the order of their ids, so that the batches of two nodes do not wait for each other crosswise. `NO KEY`: rows
/// that only refer to a client may be made meanwhile. A block of ids for entries comes with the first row, and is taken once
/// it is known how many were locked, so while all are: one client's ids ascend in the order of commits, whichever nodes they
/// come from.
const LOCK_CLIENTS: &str = concat!(
    "WITH c AS MATERIALIZED (SELECT ",
    state_columns!(),
    " FROM clients AS c WHERE c.id = ANY($1) ORDER BY c.id FOR NO KEY UPDATE), l AS (SELECT COUNT(*) AS locked, MIN(id) AS first FROM c)
SELECT ",
    state_columns!(),
    ", CASE WHEN c.id = l.first AND l.locked > 0 THEN nextval('entry_ids') END FROM c, l"
);

const LOAD_RECORDED: &str =
    concat!("SELECT ", entry_columns!(), " FROM entries AS e WHERE e.source = ANY($1)");

const CAPTURES: &str = "SELECT source, client FROM entries WHERE id = ANY($1) ORDER BY id";

/// A column that is the same in all rows comes as one value beside an empty array: arrays are what the statement costs.
macro_rules! append {
    ($given:literal, $when:literal, $fits:literal, $answer:literal) => {
        concat!(
            "WITH ",
            $given,
            "added AS (
    INSERT INTO entries (id, at, source, debit, credit, amount, currency, client, sequence, previous,
                         paid_after, bonus_after, debt_after, route, price_list, upstream_status, key)
    SELECT e.id, $1, e.source, COALESCE(e.debit, $17), COALESCE(e.credit, $18), COALESCE(e.amount, $19),
           COALESCE(e.currency, $20), e.client, e.sequence, e.previous, e.paid_after, COALESCE(e.bonus_after, $21),
           COALESCE(e.debt_after, $22), COALESCE(e.route, $23), COALESCE(e.price_list, $24),
           COALESCE(e.upstream_status, $25), COALESCE(e.key, $38)
    FROM unnest($2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
                $9::bigint[], $10::bigint[], $11::text[], $12::bigint[], $13::bigint[], $14::bigint[],
                $15::bigint[], $16::bigint[], $37::bigint[])
         AS e (id, source, client, sequence, previous, paid_after, debit,
               credit, amount, currency, bonus_after, debt_after, route,
               price_list, upstream_status, key)",
            $when,
            "
    RETURNING 1
), changed AS (
    UPDATE clients SET paid = v.paid, bonus = COALESCE(v.bonus, $32), debt = COALESCE(v.debt, $33),
                       sequence = v.sequence, last_entry = v.last_entry
    FROM unnest($26::bigint[], $27::bigint[], $28::bigint[], $29::bigint[], $30::bigint[], $31::bigint[])
         AS v (id, paid, sequence, last_entry, bonus, debt)
    WHERE clients.id = v.id",
            $fits,
            "
    RETURNING 1
), noted AS (
    INSERT INTO undelivered (node, entries, fence) SELECT $34, $35, $36 WHERE $35::text IS NOT NULL",
            $fits,
            "
    ON CONFLICT (node) DO UPDATE SET entries = excluded.entries, fence = excluded.fence
    RETURNING 1
), written AS (
    SELECT (SELECT COUNT(*) FROM added) + (SELECT COUNT(*) FROM changed) + (SELECT COUNT(*) FROM noted) AS rows
)
SELECT ",
            $answer,
            " FROM written"
        )
    };
}
const APPEND: &str = append!("", "", "", "rows");
/// Everything or nothing: nothing unless each client is as the node remembers it, and the node's fencing token is its newest.
/// The clients are locked first, in the order of their ids like everywhere. Nobody could roll back what is only found
/// afterwards, so the statement counts its rows itself: another number than `$40` is divided by zero.
const APPEND_AT_ONCE: &str = append!(
    "fenced AS MATERIALIZED (
    SELECT 1 FROM undelivered WHERE node = $34 AND fence = $36 FOR NO KEY UPDATE
), known AS MATERIALIZED (
    SELECT c.id FROM clients AS c JOIN unnest($26::bigint[], $39::bigint[]) AS v (id, sequence) ON c.id = v.id
    WHERE c.sequence = v.sequence AND c.status = 'active' ORDER BY c.id FOR NO KEY UPDATE OF c
), whole AS MATERIALIZED (
    SELECT EXISTS (SELECT 1 FROM fenced) AND (SELECT COUNT(*) FROM known) = cardinality($26::bigint[]) AS fits
), ",
    " WHERE (SELECT fits FROM whole)",
    " AND (SELECT fits FROM whole)",
    "CASE WHEN (SELECT fits FROM whole) THEN rows / (CASE WHEN rows = $40 THEN 1 ELSE 0 END) ELSE 0 END"
);

/// Waits for a statement of this node's that is being carried out. One that is late itself does not lower the token.
const FENCE: &str = "\
INSERT INTO undelivered (node, entries, fence) VALUES ($1, '[]', $2)
ON CONFLICT (node) DO UPDATE SET fence = excluded.fence WHERE undelivered.fence < excluded.fence";

const WRITE_UNDELIVERED: &str = "\
INSERT INTO undelivered (node, entries, fence) VALUES ($1, $2, $3)
ON CONFLICT (node) DO UPDATE SET entries = excluded.entries, fence = excluded.fence
WHERE undelivered.fence <= excluded.fence";

const INSERT_HOLDS: &str = "\
INSERT INTO holds (request, client, amount, node, created_at)
SELECT h.request, h.client, h.amount, $4, $5
FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS h (request, client, amount)";

const DELETE_HOLDS: &str = "DELETE FROM holds WHERE request = ANY($1)";

fn wrapped(rows: Vec<sqlx::postgres::PgRow>) -> Vec<Row> {
    rows.into_iter().map(Row::Postgres).collect()
}

/// The clients' rows, and the first id of the block for their entries if there are any.
pub(super) async fn lock_clients(
    connection: &mut PgConnection,
    ids: &[ClientId],
) -> Result<(Vec<Row>, Option<EntryId>), sqlx::Error> {
    let rows = sqlx::query(LOCK_CLIENTS).bind(ids).fetch_all(connection).await?;
    let mut block = None;
    for row in &rows {
        block = block.or(row.try_get::<Option<EntryId>, _>(8)?);
    }
    Ok((wrapped(rows), block))
}

pub(super) async fn load_recorded(
    connection: &mut PgConnection,
    sources: &[String],
) -> Result<Vec<Row>, sqlx::Error> {
    sqlx::query(LOAD_RECORDED).bind(sources).fetch_all(connection).await.map(wrapped)
}

pub(super) async fn captures(
    connection: &mut PgConnection,
    ids: &[EntryId],
) -> Result<Vec<Row>, sqlx::Error> {
    sqlx::query(CAPTURES).bind(ids).fetch_all(connection).await.map(wrapped)
}

/// Writes one batch within a transaction.
pub(super) async fn append(
    connection: &mut PgConnection,
    writing: Writing<'_>,
    undelivered: Option<(&str, String)>,
) -> Result<u64, sqlx::Error> {
    let written = with_rows(APPEND, writing, undelivered).fetch_one(connection).await?;
    Ok(u64::try_from(written).unwrap_or(0))
}

/// Writes one batch in a transaction of its own, if the clients still have these sequences (in the order of `clients`).
pub(super) async fn append_at_once(
    connection: &mut PgConnection,
    writing: Writing<'_>,
    undelivered: Option<(&str, String)>,
    sequences: Vec<i64>,
) -> Result<u64, sqlx::Error> {
    let rows = i64::try_from(writing.rows()).unwrap_or(i64::MAX);
    let query = with_rows(APPEND_AT_ONCE, writing, undelivered).bind(sequences).bind(rows);
    Ok(u64::try_from(query.fetch_one(connection).await?).unwrap_or(0))
}

/// Raises a node's fencing token: a statement with an older one that the server carries out from now on does nothing.
pub(super) async fn fence(connection: &mut PgConnection, node: &str, fence: i64) -> Result<(), sqlx::Error> {
    sqlx::query(FENCE).bind(node).bind(fence).execute(connection).await?;
    Ok(())
}

/// Rewrites a node's row of undelivered captures, unless the token is an old one. Answers how many rows that was.
pub(super) async fn write_undelivered(
    connection: &mut PgConnection,
    node: &str,
    row: String,
    fence: i64,
) -> Result<u64, sqlx::Error> {
    let written = sqlx::query(WRITE_UNDELIVERED).bind(node).bind(row).bind(fence);
    Ok(written.execute(connection).await?.rows_affected())
}

/// A column that may be the same in all rows: then the array is empty. Rows that an array is too short for get NULL.
fn column<T, V: PartialEq>(rows: &[T], of: impl Fn(&T) -> Option<V>) -> (Vec<Option<V>>, Option<V>) {
    let first = rows.first().and_then(&of);
    if rows.iter().all(|row| of(row) == first) {
        return (Vec::new(), first);
    }
    (rows.iter().map(of).collect(), None)
}

fn with_rows<'q>(
    statement: &'static str,
    writing: Writing<'q>,
    undelivered: Option<(&'q str, String)>,
) -> QueryScalar<'q, Postgres, i64, PgArguments> {
    let Writing { at, entries, clients, fence, .. } = writing;
    let (node, row) = undelivered.unzip();
    let numbers = |of: fn(&Entry) -> i64| entries.iter().map(of).collect::<Vec<i64>>();
    let states =
        |of: fn(&ClientState) -> i64| clients.iter().map(|(_, state)| of(state)).collect::<Vec<i64>>();
    let (debits, debit) = column(entries, |e| Some(e.debit.number()));
    let (credits, credit) = column(entries, |e| Some(e.credit.number()));
    let (amounts, amount) = column(entries, |e| Some(e.amount.get()));
    let (currencies, currency) = column(entries, |e| Some(e.currency.code()));
    let (bonuses_after, bonus_after) = column(entries, |e| Some(e.bonus_after.get()));
    let (debts_after, debt_after) = column(entries, |e| Some(e.debt_after.get()));
    let (routes, route) = column(entries, |e| e.route);
    let (price_lists, price_list) = column(entries, |e| e.price_list);
    let (statuses, status) = column(entries, |e| e.upstream_status.map(i64::from));
    let (keys, key) = column(entries, |e| e.key);
    let (bonuses, bonus) = column(clients, |(_, state)| Some(state.bonus.get()));
    let (debts, debt) = column(clients, |(_, state)| Some(state.debt.get()));
    sqlx::query_scalar(statement)
        .bind(at)
        .bind(numbers(|e| e.id))
        .bind(entries.iter().map(|e| e.source.to_string()).collect::<Vec<_>>())
        .bind(numbers(|e| e.client))
        .bind(numbers(|e| e.sequence))
        .bind(entries.iter().map(|e| e.previous).collect::<Vec<_>>())
        .bind(numbers(|e| e.paid_after.get()))
        .bind(debits)
        .bind(credits)
        .bind(amounts)
        .bind(currencies)
        .bind(bonuses_after)
        .bind(debts_after)
        .bind(routes)
        .bind(price_lists)
        .bind(statuses)
        .bind(debit)
        .bind(credit)
        .bind(amount)
        .bind(currency)
        .bind(bonus_after)
        .bind(debt_after)
        .bind(route)
        .bind(price_list)
        .bind(status)
        .bind(clients.iter().map(|(id, _)| *id).collect::<Vec<i64>>())
        .bind(states(|state| state.paid.get()))
        .bind(states(|state| state.sequence))
        .bind(clients.iter().map(|(_, state)| state.last_entry).collect::<Vec<Option<i64>>>())
        .bind(bonuses)
        .bind(debts)
        .bind(bonus)
        .bind(debt)
        .bind(node)
        .bind(row)
        .bind(fence)
        .bind(keys)
        .bind(key)
}

pub(super) async fn insert_holds(
    connection: &mut PgConnection,
    node: &str,
    at: i64,
    holds: &[HoldRow],
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(INSERT_HOLDS)
        .bind(holds.iter().map(|hold| hold.request.to_string()).collect::<Vec<_>>())
        .bind(holds.iter().map(|hold| hold.client).collect::<Vec<_>>())
        .bind(holds.iter().map(|hold| hold.amount.get()).collect::<Vec<_>>())
        .bind(node)
        .bind(at)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

pub(super) async fn delete_holds(
    connection: &mut PgConnection,
    requests: &[String],
) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query(DELETE_HOLDS).bind(requests).execute(connection).await?.rows_affected())
}
