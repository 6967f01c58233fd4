//! The ledger's bulk statements on PostgreSQL: rows travel as arrays, and one statement appends entries and updates clients.

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use super::core::{ClientId, ClientState, Entry, EntryId};
use super::storage::{HoldRow, Writing, entry_columns, state_columns};
use crate::db::Row;

/// Locked in the order of their ids, so that the batches of two nodes do not wait for each other crosswise. `NO KEY`: rows
/// that only refer to a client may be made meanwhile. The ids for entries come with the first row, and are taken once it is
/// known how many were locked, so while all are: one client's ids ascend in the order of commits, whichever nodes they come
/// from.
const LOCK_CLIENTS: &str = concat!(
    "WITH c AS MATERIALIZED (SELECT ",
    state_columns!(),
    " FROM clients AS c WHERE c.id = ANY($1) ORDER BY c.id FOR NO KEY UPDATE), l AS (SELECT COUNT(*) AS locked, MIN(id) AS first FROM c)
SELECT ",
    state_columns!(),
    ", CASE WHEN c.id = l.first THEN (SELECT array_agg(nextval('entry_ids')) \
     FROM generate_series(1, CASE WHEN l.locked > 0 THEN $2 END)) END FROM c, l"
);

const LOAD_RECORDED: &str =
    concat!("SELECT ", entry_columns!(), " FROM entries AS e WHERE e.source = ANY($1)");

const CAPTURES: &str = "SELECT source, client FROM entries WHERE id = ANY($1) ORDER BY id";

const APPEND: &str = "\
WITH added AS (
    INSERT INTO entries (id, at, source, debit, credit, amount, currency, client, sequence, previous,
                         paid_after, bonus_after, debt_after, route, price_list, upstream_status)
    SELECT e.id, $1, e.source, e.debit, e.credit, e.amount, e.currency, e.client, e.sequence, e.previous,
           e.paid_after, e.bonus_after, e.debt_after, e.route, e.price_list, e.upstream_status
    FROM unnest($2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[], $8::bigint[],
                $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[],
                $15::bigint[], $16::bigint[])
         AS e (id, source, debit, credit, amount, currency, client, sequence, previous,
               paid_after, bonus_after, debt_after, route, price_list, upstream_status)
    RETURNING 1
), changed AS (
    UPDATE clients SET paid = v.paid, bonus = v.bonus, debt = v.debt, sequence = v.sequence, last_entry = v.last_entry
    FROM unnest($17::bigint[], $18::bigint[], $19::bigint[], $20::bigint[], $21::bigint[], $22::bigint[])
         AS v (id, paid, bonus, debt, sequence, last_entry)
    WHERE clients.id = v.id
    RETURNING 1
), noted AS (
    INSERT INTO undelivered (node, entries) SELECT $23, $24 WHERE $23 IS NOT NULL
    ON CONFLICT (node) DO UPDATE SET entries = excluded.entries
    RETURNING 1
)
SELECT (SELECT COUNT(*) FROM added) + (SELECT COUNT(*) FROM changed) + (SELECT COUNT(*) FROM noted)";

const INSERT_HOLDS: &str = "\
INSERT INTO holds (request, client, amount, node, created_at)
SELECT h.request, h.client, h.amount, $4, $5
FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS h (request, client, amount)";

const DELETE_HOLDS: &str = "DELETE FROM holds WHERE request = ANY($1)";

fn wrapped(rows: Vec<sqlx::postgres::PgRow>) -> Vec<Row> {
    rows.into_iter().map(Row::Postgres).collect()
}

pub(super) async fn lock_clients(
    connection: &mut PgConnection,
    ids: &[ClientId],
    entries: i64,
) -> Result<(Vec<Row>, Vec<EntryId>), sqlx::Error> {
    let rows = sqlx::query(LOCK_CLIENTS).bind(ids).bind(entries).fetch_all(connection).await?;
    let mut entry_ids = Vec::new();
    for row in &rows {
        entry_ids.extend(row.try_get::<Option<Vec<EntryId>>, _>(8)?.unwrap_or_default());
    }
    entry_ids.sort_unstable();
    Ok((wrapped(rows), entry_ids))
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

/// Writes one batch.
pub(super) async fn append(
    connection: &mut PgConnection,
    writing: Writing<'_>,
    undelivered: Option<(&str, String)>,
) -> Result<u64, sqlx::Error> {
    let Writing { at, entries, clients, .. } = writing;
    let (node, row) = undelivered.unzip();
    let numbers = |of: fn(&Entry) -> i64| entries.iter().map(of).collect::<Vec<i64>>();
    let optional = |of: fn(&Entry) -> Option<i64>| entries.iter().map(of).collect::<Vec<Option<i64>>>();
    let states =
        |of: fn(&ClientState) -> i64| clients.iter().map(|(_, state)| of(state)).collect::<Vec<i64>>();
    let sources: Vec<&str> = entries.iter().map(|e| e.source.as_str()).collect();
    let currencies: Vec<&str> = entries.iter().map(|e| e.currency.code()).collect();
    let written: i64 = sqlx::query_scalar(APPEND)
        .bind(at)
        .bind(numbers(|e| e.id))
        .bind(sources)
        .bind(numbers(|e| e.debit.number()))
        .bind(numbers(|e| e.credit.number()))
        .bind(numbers(|e| e.amount.get()))
        .bind(currencies)
        .bind(numbers(|e| e.client))
        .bind(numbers(|e| e.sequence))
        .bind(optional(|e| e.previous))
        .bind(numbers(|e| e.paid_after.get()))
        .bind(numbers(|e| e.bonus_after.get()))
        .bind(numbers(|e| e.debt_after.get()))
        .bind(optional(|e| e.route))
        .bind(optional(|e| e.price_list))
        .bind(optional(|e| e.upstream_status.map(i64::from)))
        .bind(clients.iter().map(|(id, _)| *id).collect::<Vec<i64>>())
        .bind(states(|state| state.paid.get()))
        .bind(states(|state| state.bonus.get()))
        .bind(states(|state| state.debt.get()))
        .bind(states(|state| state.sequence))
        .bind(clients.iter().map(|(_, state)| state.last_entry).collect::<Vec<Option<i64>>>())
        .bind(node)
        .bind(row)
        .fetch_one(connection)
        .await?;
    Ok(u64::try_from(written).unwrap_or(0))
}

pub(super) async fn insert_holds(
    connection: &mut PgConnection,
    node: &str,
    at: i64,
    holds: &[HoldRow],
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(INSERT_HOLDS)
        .bind(holds.iter().map(|hold| hold.request.as_str()).collect::<Vec<_>>())
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
