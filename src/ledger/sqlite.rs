//! The ledger's bulk statements on SQLite: rows travel as one JSON text each way, because a statement costs far more than a
//! row.

use std::collections::HashMap;
use std::fmt::Write as _;

use sqlx::sqlite::SqliteConnection;

use super::account::Account;
use super::core::{ClientId, ClientState, Entry, EntryId};
use super::storage::{HoldRow, Writing, entry_columns, state_columns};
use crate::db::Row;
use crate::domain::Micros;

const NEXT_ENTRY: &str = "SELECT COALESCE(MAX(id), 0) + 1 FROM entries";

const LOAD_CLIENTS: &str = concat!(
    "SELECT ",
    state_columns!(),
    " FROM json_each($1) AS wanted JOIN clients AS c ON c.id = wanted.value"
);

const LOAD_RECORDED: &str = concat!(
    "SELECT ",
    entry_columns!(),
    " FROM json_each($1) AS wanted JOIN entries AS e ON e.source = wanted.value"
);

const CAPTURES: &str = "\
SELECT e.source, e.client FROM json_each($1) AS wanted JOIN entries AS e ON e.id = wanted.value ORDER BY e.id";

/// `jsonb_each` hands out parsed rows: taking several values from each costs no second parse, but what it costs to find one
/// grows with its place. What many entries share (price, route, accounts) comes once, as a kind; `CROSS JOIN` keeps the entries
/// in their order, by which their ids are counted.
macro_rules! append {
    () => {
        "\
WITH kinds AS MATERIALIZED (
    SELECT key, value->>0 AS debit, value->>1 AS credit, value->>2 AS amount, value->>3 AS currency, value->>4 AS route,
           value->>5 AS price_list, value->>6 AS upstream_status
    FROM jsonb_each($5))
INSERT INTO entries (id, at, source, debit, credit, amount, currency, client, sequence, previous,
                     paid_after, bonus_after, debt_after, route, price_list, upstream_status, key)
SELECT $1 + e.key, $2, e.value->>1, k.debit, k.credit, k.amount, k.currency, e.value->>2, e.value->>3, e.value->>4,
       e.value->>5, e.value->>6, e.value->>7, k.route, k.price_list, k.upstream_status, e.value->>8
FROM jsonb_each($3) AS e CROSS JOIN kinds AS k ON k.key = e.value->>0;
UPDATE clients SET paid = v.value->>1, bonus = v.value->>2, debt = v.value->>3, sequence = v.value->>4,
                   last_entry = v.value->>5
FROM jsonb_each($4) AS v WHERE clients.id = v.value->>0"
    };
}
/// Several statements at once: each trip to the thread that has the connection costs two changes of threads. Parameters
/// are counted through.
const APPEND: &str = append!();
const APPEND_AND_NOTE: &str = concat!(
    append!(),
    ";
INSERT INTO undelivered (node, entries) VALUES ($6, $7)
ON CONFLICT (node) DO UPDATE SET entries = excluded.entries"
);

const WRITE_UNDELIVERED: &str = "\
INSERT INTO undelivered (node, entries) VALUES ($1, $2)
ON CONFLICT (node) DO UPDATE SET entries = excluded.entries";

const INSERT_HOLDS: &str = "\
INSERT INTO holds (request, client, amount, node, created_at)
SELECT value->>0, value->>1, value->>2, $2, $3 FROM jsonb_each($1)";

const DELETE_HOLDS: &str = "DELETE FROM holds WHERE request IN (SELECT value FROM json_each($1))";

/// A JSON array of texts or numbers.
fn json_array<T: serde::Serialize>(values: &[T]) -> Result<String, sqlx::Error> {
    serde_json::to_string(values).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// The id that the next entry gets.
pub(super) async fn next_entry(connection: &mut SqliteConnection) -> Result<EntryId, sqlx::Error> {
    sqlx::query_scalar(NEXT_ENTRY).fetch_one(connection).await
}

pub(super) async fn load_clients(
    connection: &mut SqliteConnection,
    ids: &[ClientId],
) -> Result<Vec<Row>, sqlx::Error> {
    let rows = sqlx::query(LOAD_CLIENTS).bind(json_array(ids)?).fetch_all(connection).await?;
    Ok(rows.into_iter().map(Row::Sqlite).collect())
}

pub(super) async fn load_recorded(
    connection: &mut SqliteConnection,
    sources: &[String],
) -> Result<Vec<Row>, sqlx::Error> {
    let rows = sqlx::query(LOAD_RECORDED).bind(json_array(sources)?).fetch_all(connection).await?;
    Ok(rows.into_iter().map(Row::Sqlite).collect())
}

pub(super) async fn captures(
    connection: &mut SqliteConnection,
    ids: &[EntryId],
) -> Result<Vec<Row>, sqlx::Error> {
    let rows = sqlx::query(CAPTURES).bind(json_array(ids)?).fetch_all(connection).await?;
    Ok(rows.into_iter().map(Row::Sqlite).collect())
}

/// An optional number as JSON.
struct Nullable(Option<i64>);

impl std::fmt::Display for Nullable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(number) => number.fmt(f),
            None => f.write_str("null"),
        }
    }
}

/// Writes one batch, whose entries' ids ascend one by one.
pub(super) async fn append(
    connection: &mut SqliteConnection,
    writing: Writing<'_>,
    undelivered: Option<(&str, String)>,
) -> Result<u64, sqlx::Error> {
    let first = writing.entries.first().map_or(0, |entry| entry.id);
    let (kinds, entries) = entry_rows(writing.entries);
    let statements = if undelivered.is_some() { APPEND_AND_NOTE } else { APPEND };
    let query = sqlx::query(statements).bind(first).bind(writing.at).bind(entries);
    let mut query = query.bind(client_rows(writing.clients)).bind(kinds);
    if let Some((node, row)) = undelivered {
        query = query.bind(node.to_owned()).bind(row);
    }
    Ok(query.execute(connection).await?.rows_affected())
}

pub(super) async fn write_undelivered(
    connection: &mut SqliteConnection,
    node: &str,
    row: String,
) -> Result<u64, sqlx::Error> {
    let written = sqlx::query(WRITE_UNDELIVERED).bind(node).bind(row);
    Ok(written.execute(connection).await?.rows_affected())
}

/// What many entries have in common.
#[derive(PartialEq, Eq, Hash)]
struct Kind {
    debit: Account,
    credit: Account,
    amount: Micros,
    currency: &'static str,
    route: Option<i64>,
    price_list: Option<i64>,
    upstream_status: Option<u16>,
}

impl Kind {
    fn of(entry: &Entry) -> Self {
        Self {
            debit: entry.debit,
            credit: entry.credit,
            amount: entry.amount,
            currency: entry.currency.code(),
            route: entry.route,
            price_list: entry.price_list,
            upstream_status: entry.upstream_status,
        }
    }
}

/// The kinds of entries that there are, and the entries, each of which begins with the number of its kind.
fn entry_rows(entries: &[Entry]) -> (String, String) {
    let mut numbers: HashMap<Kind, usize> = HashMap::new();
    let mut kinds = String::from("[");
    let mut rows = String::with_capacity(entries.len().saturating_mul(112).saturating_add(2));
    rows.push('[');
    for (index, e) in entries.iter().enumerate() {
        debug_assert_eq!(
            Some(e.id),
            entries[0].id.checked_add(i64::try_from(index).unwrap_or(0)),
            "the statement counts ids up from the first"
        );
        if index > 0 {
            rows.push(',');
        }
        let next = numbers.len();
        let number = *numbers.entry(Kind::of(e)).or_insert(next);
        if number == next {
            if number > 0 {
                kinds.push(',');
            }
            let _ = write!(
                kinds,
                r#"[{},{},{},"{}",{},{},{}]"#,
                e.debit.number(),
                e.credit.number(),
                e.amount.get(),
                e.currency,
                Nullable(e.route),
                Nullable(e.price_list),
                Nullable(e.upstream_status.map(i64::from)),
            );
        }
        // A source has letters, digits and `:_-./`, and nothing that needs escaping: it could not be made otherwise.
        let _ = write!(
            rows,
            r#"[{number},"{}",{},{},{},{},{},{},{}]"#,
            e.source,
            e.client,
            e.sequence,
            Nullable(e.previous),
            e.paid_after.get(),
            e.bonus_after.get(),
            e.debt_after.get(),
            Nullable(e.key),
        );
    }
    kinds.push(']');
    rows.push(']');
    (kinds, rows)
}

fn client_rows(clients: &[(ClientId, ClientState)]) -> String {
    let mut rows = String::from("[");
    for (id, state) in clients {
        if rows.len() > 1 {
            rows.push(',');
        }
        let _ = write!(
            rows,
            "[{id},{},{},{},{},{}]",
            state.paid.get(),
            state.bonus.get(),
            state.debt.get(),
            state.sequence,
            Nullable(state.last_entry)
        );
    }
    rows.push(']');
    rows
}

pub(super) async fn insert_holds(
    connection: &mut SqliteConnection,
    node: &str,
    at: i64,
    holds: &[HoldRow],
) -> Result<u64, sqlx::Error> {
    let rows: Vec<_> =
        holds.iter().map(|hold| (hold.request.to_string(), hold.client, hold.amount.get())).collect();
    let query = sqlx::query(INSERT_HOLDS).bind(json_array(&rows)?).bind(node).bind(at);
    Ok(query.execute(connection).await?.rows_affected())
}

pub(super) async fn delete_holds(
    connection: &mut SqliteConnection,
    requests: &[String],
) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query(DELETE_HOLDS).bind(json_array(requests)?).execute(connection).await?.rows_affected())
}
