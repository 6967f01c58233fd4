//! What the ledger reads and writes, whichever database it is. One batch costs the same handful of statements however many
//! commands it carries; `sqlite.rs` and `postgres.rs` have the bulk statements of each.

use std::collections::HashMap;

use super::account::Account;
use super::core::{ClientId, ClientState, Entry, EntryId, MAX_LEGS, leg_source};
use super::{postgres, sqlite};
use crate::db::{Connection, Readers, Row, lost, query, query_scalar};
use crate::domain::{Currency, Micros};

/// The columns of a client's state, in the order that [`client_state`] reads them.
macro_rules! state_columns {
    () => {
        "c.id, c.currency, c.paid, c.bonus, c.debt, c.sequence, c.last_entry, c.status"
    };
}
/// The columns of an entry, in the order that [`entry`] reads them.
macro_rules! entry_columns {
    () => {
        "e.id, e.source, e.debit, e.credit, e.amount, e.currency, e.client, e.sequence, e.previous, \
         e.paid_after, e.bonus_after, e.debt_after, e.route, e.price_list, e.upstream_status"
    };
}
pub(super) use {entry_columns, state_columns};

const LOAD_CLIENT: &str = concat!("SELECT ", state_columns!(), " FROM clients AS c WHERE c.id = $1");

const WRITE_UNDELIVERED: &str = "\
INSERT INTO undelivered (node, entries) VALUES ($1, $2)
ON CONFLICT (node) DO UPDATE SET entries = excluded.entries";

/// A row of `holds`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HoldRow {
    pub(super) request: String,
    pub(super) client: ClientId,
    pub(super) amount: Micros,
}

/// What one batch writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writing<'a> {
    /// Microseconds since 1970.
    pub(super) at: i64,
    pub(super) entries: &'a [Entry],
    /// The balances of the clients that changed.
    pub(super) clients: &'a [(ClientId, ClientState)],
    /// A node and its captures whose answer has not been delivered, when that row is to be rewritten.
    pub(super) undelivered: Option<(&'a str, &'a [EntryId])>,
}

impl Writing<'_> {
    /// How many rows that is. No statement can write more than its own, so an equal sum means that each wrote all.
    pub(super) fn rows(&self) -> usize {
        let row = usize::from(self.undelivered.is_some());
        self.entries.len().saturating_add(self.clients.len()).saturating_add(row)
    }
}

/// A stored value that no version of this program writes.
fn corrupt(what: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("the database holds a {what} that this program never writes").into())
}

fn micros(row: &Row, column: usize) -> Result<Micros, sqlx::Error> {
    Micros::new(row.try_get(column)?).ok_or_else(|| corrupt("balance out of range"))
}

fn currency(row: &Row, column: usize) -> Result<Currency, sqlx::Error> {
    row.try_get::<&str, _>(column)?.parse().map_err(|_| corrupt("currency"))
}

fn client_state(row: &Row) -> Result<(ClientId, ClientState), sqlx::Error> {
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

fn entry(row: &Row) -> Result<Entry, sqlx::Error> {
    let account = |column: usize| -> Result<Account, sqlx::Error> {
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

/// The state of one client, through a reading connection.
pub(super) async fn load_client(readers: &Readers, id: ClientId) -> Result<Option<ClientState>, sqlx::Error> {
    let row = query(LOAD_CLIENT).bind(id).fetch_optional(readers).await?;
    row.as_ref().map(|row| client_state(row).map(|(_, state)| state)).transpose()
}

/// Clients that nobody else changes until the transaction ends.
#[derive(Debug, Default)]
pub(super) struct Locked {
    /// Those that do not exist are missing.
    pub(super) clients: Vec<(ClientId, ClientState)>,
    /// Ids for entries, from the sequence that the nodes share; `None` where there is one writer, who counts.
    pub(super) entry_ids: Option<Vec<EntryId>>,
}

/// Locks clients, and takes ids for so many entries of theirs.
pub(super) async fn lock_clients(
    connection: &mut Connection,
    ids: &[ClientId],
    entries: usize,
) -> Result<Locked, sqlx::Error> {
    match connection {
        // The whole file is locked already.
        Connection::Sqlite(_) if ids.is_empty() => Ok(Locked::default()),
        Connection::Sqlite(connection) => {
            let rows = sqlite::load_clients(connection, ids).await?;
            let clients = rows.iter().map(client_state).collect::<Result<_, _>>()?;
            Ok(Locked { clients, entry_ids: None })
        }
        // Nobody whose entries these could be.
        Connection::Postgres(_) if ids.is_empty() => {
            Ok(Locked { clients: Vec::new(), entry_ids: Some(Vec::new()) })
        }
        Connection::Postgres(connection) => {
            let entries = i64::try_from(entries).unwrap_or(i64::MAX);
            let (rows, entry_ids) = postgres::lock_clients(connection, ids, entries).await?;
            let clients = rows.iter().map(client_state).collect::<Result<_, _>>()?;
            Ok(Locked { clients, entry_ids: Some(entry_ids) })
        }
        Connection::Lost => Err(lost()),
    }
}

/// Everything in the books under these sources, all legs.
pub(super) async fn load_recorded(
    connection: &mut Connection,
    sources: &[String],
) -> Result<HashMap<String, Entry>, sqlx::Error> {
    if sources.is_empty() {
        return Ok(HashMap::new());
    }
    let legs: Vec<String> =
        sources.iter().flat_map(|source| (0..MAX_LEGS).map(move |leg| leg_source(source, leg))).collect();
    let rows = match connection {
        Connection::Sqlite(connection) => sqlite::load_recorded(connection, &legs).await?,
        Connection::Postgres(connection) => postgres::load_recorded(connection, &legs).await?,
        Connection::Lost => return Err(lost()),
    };
    rows.iter().map(|row| entry(row).map(|entry| (entry.source.clone(), entry))).collect()
}

/// Appends entries, writes the balances of the clients that changed and the row of undelivered captures, in one go. Answers
/// how many rows the database took: [`Writing::rows`] when all is well.
pub(super) async fn append(connection: &mut Connection, writing: Writing<'_>) -> Result<u64, sqlx::Error> {
    if writing.rows() == 0 {
        return Ok(0);
    }
    let undelivered = match writing.undelivered {
        Some((node, entries)) => Some((node, undelivered_text(entries)?)),
        None => None,
    };
    match connection {
        Connection::Sqlite(connection) => sqlite::append(connection, writing, undelivered).await,
        Connection::Postgres(connection) => postgres::append(connection, writing, undelivered).await,
        Connection::Lost => Err(lost()),
    }
}

fn undelivered_text(entries: &[EntryId]) -> Result<String, sqlx::Error> {
    serde_json::to_string(entries).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// Adds the rows of holds that were taken, and answers how many there are.
pub(super) async fn insert_holds(
    connection: &mut Connection,
    node: &str,
    at: i64,
    holds: &[HoldRow],
) -> Result<u64, sqlx::Error> {
    if holds.is_empty() {
        return Ok(0);
    }
    match connection {
        Connection::Sqlite(connection) => sqlite::insert_holds(connection, node, at, holds).await,
        Connection::Postgres(connection) => postgres::insert_holds(connection, node, at, holds).await,
        Connection::Lost => Err(lost()),
    }
}

/// Removes the rows of holds that have ended, and answers how many there were.
pub(super) async fn delete_holds(
    connection: &mut Connection,
    requests: &[String],
) -> Result<u64, sqlx::Error> {
    if requests.is_empty() {
        return Ok(0);
    }
    match connection {
        Connection::Sqlite(connection) => sqlite::delete_holds(connection, requests).await,
        Connection::Postgres(connection) => postgres::delete_holds(connection, requests).await,
        Connection::Lost => Err(lost()),
    }
}

/// Rewrites a node's row of captures whose answer has not been delivered.
pub(super) async fn write_undelivered(
    connection: &mut Connection,
    node: &str,
    entries: &[EntryId],
) -> Result<(), sqlx::Error> {
    query(WRITE_UNDELIVERED).bind(node).bind(undelivered_text(entries)?).execute(connection).await?;
    Ok(())
}

/// The captures that a node, or any node, did not finish delivering: their sources and clients.
pub(super) async fn undelivered(
    connection: &mut Connection,
    node: Option<&str>,
) -> Result<Vec<(String, Option<ClientId>)>, sqlx::Error> {
    let rows = match node {
        Some(node) => query_scalar("SELECT entries FROM undelivered WHERE node = $1").bind(node),
        None => query_scalar("SELECT entries FROM undelivered"),
    };
    let rows: Vec<String> = rows.fetch_all(&mut *connection).await?;
    let mut captures = Vec::new();
    for entries in rows {
        let ids: Vec<EntryId> = serde_json::from_str(&entries).map_err(|_| corrupt("list of entries"))?;
        let found = match &mut *connection {
            Connection::Sqlite(connection) => sqlite::captures(connection, &ids).await?,
            Connection::Postgres(connection) => postgres::captures(connection, &ids).await?,
            Connection::Lost => return Err(lost()),
        };
        for row in &found {
            captures.push((row.try_get(0)?, row.try_get(1)?));
        }
    }
    Ok(captures)
}

/// Holds that a node, or any node, has not ended: their requests and clients.
pub(super) async fn open_holds(
    connection: &mut Connection,
    node: Option<&str>,
) -> Result<Vec<(String, ClientId)>, sqlx::Error> {
    let rows = match node {
        Some(node) => query("SELECT request, client FROM holds WHERE node = $1").bind(node),
        None => query("SELECT request, client FROM holds"),
    };
    let rows = rows.fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Where there is one node at a time: the rows of those before it go.
pub(super) async fn forget_other_nodes(connection: &mut Connection, node: &str) -> Result<(), sqlx::Error> {
    query("DELETE FROM undelivered WHERE node <> $1").bind(node).execute(&mut *connection).await?;
    query("DELETE FROM nodes WHERE id <> $1").bind(node).execute(connection).await?;
    Ok(())
}

/// Tells the others that a node has ended: what it left may be finished at once.
pub(super) async fn end_lease(connection: &mut Connection, node: &str) -> Result<(), sqlx::Error> {
    query("UPDATE nodes SET lease_until = 0 WHERE id = $1").bind(node).execute(connection).await?;
    Ok(())
}
