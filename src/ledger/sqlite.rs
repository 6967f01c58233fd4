//! The ledger's statements on SQLite. One batch costs the same handful of statements however many commands it carries:
//! rows travel as one JSON text each way, because a statement costs far more than a row.

use std::collections::HashMap;
use std::fmt::Write as _;

use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::account::Account;
use super::core::{ClientId, ClientState, Entry, EntryId, MAX_LEGS, leg_source};
use crate::domain::{Currency, Micros};

const NEXT_ENTRY: &str = "SELECT COALESCE(MAX(id), 0) + 1 FROM entries";

const LOAD_CLIENTS: &str = "\
SELECT c.id, c.currency, c.paid, c.bonus, c.debt, c.sequence, c.last_entry, c.status
FROM json_each($1) AS wanted JOIN clients AS c ON c.id = wanted.value";

const LOAD_CLIENT: &str = "\
SELECT id, currency, paid, bonus, debt, sequence, last_entry, status FROM clients WHERE id = $1";

const LOAD_RECORDED: &str = "\
SELECT e.id, e.source, e.debit, e.credit, e.amount, e.currency, e.client, e.sequence, e.previous,
       e.paid_after, e.bonus_after, e.debt_after, e.route, e.price_list, e.upstream_status
FROM json_each($1) AS wanted JOIN entries AS e ON e.source = wanted.value";

const SOURCES_OF_ENTRIES: &str = "\
SELECT e.source FROM json_each($1) AS wanted JOIN entries AS e ON e.id = wanted.value ORDER BY e.id";

/// `jsonb_each` hands out parsed rows: taking thirteen values from each costs no second parse.
const INSERT_ENTRIES: &str = "\
INSERT INTO entries (id, at, source, debit, credit, amount, currency, client, sequence, previous,
                     paid_after, bonus_after, debt_after, route, price_list, upstream_status)
SELECT $1 + key, $2, value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7,
       value->>8, value->>9, value->>10, value->>11, value->>12, value->>13
FROM jsonb_each($3)";

const UPDATE_CLIENTS: &str = "\
UPDATE clients SET paid = v.value->>1, bonus = v.value->>2, debt = v.value->>3, sequence = v.value->>4,
                   last_entry = v.value->>5
FROM jsonb_each($1) AS v WHERE clients.id = v.value->>0";

const WRITE_UNDELIVERED: &str = "\
INSERT INTO undelivered (node, entries) VALUES ($1, $2)
ON CONFLICT (node) DO UPDATE SET entries = excluded.entries";

const READ_UNDELIVERED: &str = "SELECT entries FROM undelivered";

/// A stored value that no version of this program writes.
fn corrupt(what: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("the database holds a {what} that this program never writes").into())
}

fn micros(row: &SqliteRow, column: usize) -> Result<Micros, sqlx::Error> {
    Micros::new(row.try_get(column)?).ok_or_else(|| corrupt("balance out of range"))
}

fn currency(row: &SqliteRow, column: usize) -> Result<Currency, sqlx::Error> {
    row.try_get::<&str, _>(column)?.parse().map_err(|_| corrupt("currency"))
}

/// A JSON array of texts or numbers.
fn json_array<T: serde::Serialize>(values: &[T]) -> Result<String, sqlx::Error> {
    serde_json::to_string(values).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// The id that the next entry gets.
pub(super) async fn next_entry(connection: &mut SqliteConnection) -> Result<EntryId, sqlx::Error> {
    sqlx::query_scalar(NEXT_ENTRY).fetch_one(connection).await
}

fn client_state(row: &SqliteRow) -> Result<(ClientId, ClientState), sqlx::Error> {
    let state = ClientState {
        currency: currency(row, 1)?,
        paid: micros(row, 2)?,
        bonus: micros(row, 3)?,
        debt: micros(row, 4)?,
        sequence: row.try_get(5)?,
        last_entry: row.try_get(6)?,
        frozen: row.try_get::<&str, _>(7)? != "active",
    };
    Ok((row.try_get(0)?, state))
}

/// The states of these clients; those that do not exist are missing from the answer.
pub(super) async fn load_clients(
    connection: &mut SqliteConnection,
    ids: &[ClientId],
) -> Result<Vec<(ClientId, ClientState)>, sqlx::Error> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(LOAD_CLIENTS).bind(json_array(ids)?).fetch_all(connection).await?;
    rows.iter().map(client_state).collect()
}

/// The state of one client, through a reading connection.
pub(super) async fn load_client(
    pool: &sqlx::SqlitePool,
    id: ClientId,
) -> Result<Option<ClientState>, sqlx::Error> {
    let row = sqlx::query(LOAD_CLIENT).bind(id).fetch_optional(pool).await?;
    row.as_ref().map(|row| client_state(row).map(|(_, state)| state)).transpose()
}

/// Everything in the books under these sources, all legs.
pub(super) async fn load_recorded(
    connection: &mut SqliteConnection,
    sources: &[String],
) -> Result<HashMap<String, Entry>, sqlx::Error> {
    if sources.is_empty() {
        return Ok(HashMap::new());
    }
    let legs: Vec<String> =
        sources.iter().flat_map(|source| (0..MAX_LEGS).map(move |leg| leg_source(source, leg))).collect();
    let rows = sqlx::query(LOAD_RECORDED).bind(json_array(&legs)?).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            let entry = entry(row)?;
            Ok((entry.source.clone(), entry))
        })
        .collect()
}

fn entry(row: &SqliteRow) -> Result<Entry, sqlx::Error> {
    let account = |column| -> Result<Account, sqlx::Error> {
        Account::from_number(row.try_get(column)?).ok_or_else(|| corrupt("account"))
    };
    let status: Option<i64> = row.try_get(14)?;
    Ok(Entry {
        id: row.try_get(0)?,
        source: row.try_get(1)?,
        debit: account(2)?,
        credit: account(3)?,
        amount: micros(row, 4)?,
        currency: currency(row, 5)?,
        client: row.try_get(6)?,
        sequence: row.try_get(7)?,
        previous: row.try_get(8)?,
        paid_after: micros(row, 9)?,
        bonus_after: micros(row, 10)?,
        debt_after: micros(row, 11)?,
        route: row.try_get(12)?,
        price_list: row.try_get(13)?,
        upstream_status: status.map(u16::try_from).transpose().map_err(|_| corrupt("status"))?,
    })
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

/// Appends entries whose ids ascend one by one, and answers how many rows the database took.
pub(super) async fn insert_entries(
    connection: &mut SqliteConnection,
    at: i64,
    entries: &[Entry],
) -> Result<u64, sqlx::Error> {
    let Some(first) = entries.first() else {
        return Ok(0);
    };
    let mut rows = String::with_capacity(entries.len().saturating_mul(160));
    rows.push('[');
    for (index, e) in entries.iter().enumerate() {
        debug_assert_eq!(Some(e.id), first.id.checked_add(i64::try_from(index).unwrap_or(0)));
        if index > 0 {
            rows.push(',');
        }
        // Sources are made by us of letters, digits and `:-/`: nothing in them needs escaping. The check keeps it so.
        if e.source.bytes().any(|b| b == b'"' || b == b'\\' || b < b' ') {
            return Err(sqlx::Error::Encode("a source needs escaping".into()));
        }
        let _ = write!(
            rows,
            r#"["{}",{},{},{},"{}",{},{},{},{},{},{},{},{},{}]"#,
            e.source,
            e.debit.number(),
            e.credit.number(),
            e.amount.get(),
            e.currency,
            e.client,
            e.sequence,
            Nullable(e.previous),
            e.paid_after.get(),
            e.bonus_after.get(),
            e.debt_after.get(),
            Nullable(e.route),
            Nullable(e.price_list),
            Nullable(e.upstream_status.map(i64::from)),
        );
    }
    rows.push(']');
    let done = sqlx::query(INSERT_ENTRIES).bind(first.id).bind(at).bind(rows).execute(connection).await?;
    Ok(done.rows_affected())
}

/// Writes the balances of the clients that changed, and answers how many rows there were.
pub(super) async fn update_clients(
    connection: &mut SqliteConnection,
    clients: impl Iterator<Item = (ClientId, ClientState)>,
) -> Result<u64, sqlx::Error> {
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
    let done = sqlx::query(UPDATE_CLIENTS).bind(rows).execute(connection).await?;
    Ok(done.rows_affected())
}

/// Rewrites this node's row of captures whose answer has not been delivered.
pub(super) async fn write_undelivered(
    connection: &mut SqliteConnection,
    node: &str,
    entries: &[EntryId],
) -> Result<(), sqlx::Error> {
    sqlx::query(WRITE_UNDELIVERED).bind(node).bind(json_array(entries)?).execute(connection).await?;
    Ok(())
}

/// The sources of the captures that the last run did not finish delivering.
pub(super) async fn undelivered_sources(
    connection: &mut SqliteConnection,
) -> Result<Vec<String>, sqlx::Error> {
    let rows: Vec<String> = sqlx::query_scalar(READ_UNDELIVERED).fetch_all(&mut *connection).await?;
    let mut sources = Vec::new();
    for entries in rows {
        sources.extend(
            sqlx::query_scalar::<_, String>(SOURCES_OF_ENTRIES)
                .bind(entries)
                .fetch_all(&mut *connection)
                .await?,
        );
    }
    Ok(sources)
}
