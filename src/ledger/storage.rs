//! What the ledger reads and writes, whichever database it is. One batch costs the same handful of statements however many
//! commands it carries; `sqlite.rs` and `postgres.rs` have the bulk statements of each.

use std::collections::HashMap;
use std::ops::Range;

use super::account::Account;
use super::core::{ClientId, ClientState, Entry, EntryId};
use super::source::{EntrySource, Source, SourceId, SourceKind};
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
         e.paid_after, e.bonus_after, e.debt_after, e.route, e.price_list, e.upstream_status, e.key"
    };
}
pub(super) use {entry_columns, state_columns};

const LOAD_CLIENT: &str = concat!("SELECT ", state_columns!(), " FROM clients AS c WHERE c.id = $1");

/// How many ids a node takes at once from the sequence that the nodes share: `INCREMENT BY` in `migrations/postgres`. More
/// than one batch can use up.
pub(super) const ID_BLOCK: i64 = 4096;

/// A row of `holds`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HoldRow {
    pub(super) request: SourceId,
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
    /// That node's fencing token, where several write ([`fence`]).
    pub(super) fence: i64,
}

impl Writing<'_> {
    /// How many rows that is. No statement can write more than its own, so an equal sum means that each wrote all.
    pub(super) fn rows(&self) -> usize {
        let row = usize::from(self.undelivered.is_some());
        self.entries.len().saturating_add(self.clients.len()).saturating_add(row)
    }

    fn undelivered_row(&self) -> Result<Option<(&str, String)>, sqlx::Error> {
        self.undelivered.map(|(node, entries)| Ok((node, undelivered_text(entries)?))).transpose()
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
        source: row.try_get::<&str, _>(1)?.parse()?,
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
        key: row.try_get(15)?,
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
    /// A block of ids for entries, from the sequence that the nodes share; `None` where there is one writer, who counts.
    pub(super) entry_ids: Option<Range<EntryId>>,
}

/// Locks clients, and takes [`ID_BLOCK`] ids for entries of theirs.
pub(super) async fn lock_clients(
    connection: &mut Connection,
    ids: &[ClientId],
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
            Ok(Locked { clients: Vec::new(), entry_ids: Some(0..0) })
        }
        Connection::Postgres(connection) => {
            let (rows, block) = postgres::lock_clients(connection, ids).await?;
            let clients = rows.iter().map(client_state).collect::<Result<_, _>>()?;
            let entry_ids = block.map_or(0..0, |first| first..first.saturating_add(ID_BLOCK));
            Ok(Locked { clients, entry_ids: Some(entry_ids) })
        }
        Connection::Lost => Err(lost()),
    }
}

/// Everything in the books under these sources, all legs.
pub(super) async fn load_recorded(
    connection: &mut Connection,
    sources: &[Source],
) -> Result<HashMap<EntrySource, Entry>, sqlx::Error> {
    if sources.is_empty() {
        return Ok(HashMap::new());
    }
    let legs: Vec<String> =
        sources.iter().flat_map(Source::entries).map(|source| source.to_string()).collect();
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
    let undelivered = writing.undelivered_row()?;
    match connection {
        Connection::Sqlite(connection) => sqlite::append(connection, writing, undelivered).await,
        Connection::Postgres(connection) => postgres::append(connection, writing, undelivered).await,
        Connection::Lost => Err(lost()),
    }
}

/// The same in a transaction of its own, where several nodes write: all of it if the clients still have these sequences, in
/// the order of [`Writing::clients`], and are active, and if the node's fencing token is still this one; otherwise nothing, which
/// is answered by 0. An error if it cannot be all.
pub(super) async fn append_at_once(
    connection: &mut Connection,
    writing: Writing<'_>,
    sequences: Vec<i64>,
) -> Result<u64, sqlx::Error> {
    let undelivered = writing.undelivered_row()?;
    match connection {
        Connection::Postgres(connection) => {
            postgres::append_at_once(connection, writing, undelivered, sequences).await
        }
        // Here nobody else writes, and a transaction costs no trips through a network.
        Connection::Sqlite(_) => Ok(0),
        Connection::Lost => Err(lost()),
    }
}

/// Raises a node's fencing token. What [`append_at_once`] has sent with an older one has happened by then, or never will.
pub(super) async fn fence(connection: &mut Connection, node: &str, fence: i64) -> Result<(), sqlx::Error> {
    match connection {
        Connection::Postgres(connection) => postgres::fence(connection, node, fence).await,
        Connection::Sqlite(_) => Ok(()),
        Connection::Lost => Err(lost()),
    }
}

/// Captures as the row of a node names them: the first and the last of each run of ids that follow each other, because a long
/// row costs much and is rewritten with every batch.
fn undelivered_text(entries: &[EntryId]) -> Result<String, sqlx::Error> {
    let mut sorted = entries.to_vec();
    sorted.sort_unstable();
    let mut runs: Vec<(EntryId, EntryId)> = Vec::new();
    for id in sorted {
        match runs.last_mut() {
            Some((_, last)) if id.checked_sub(*last).is_some_and(|step| step <= 1) => *last = id,
            _ => runs.push((id, id)),
        }
    }
    serde_json::to_string(&runs).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// The captures that a node's row names.
pub(crate) fn undelivered_entries(row: &str) -> Result<Vec<EntryId>, sqlx::Error> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Named {
        Run(EntryId, EntryId),
        /// As the first versions wrote them.
        One(EntryId),
    }
    let named: Vec<Named> = serde_json::from_str(row).map_err(|_| corrupt("list of entries"))?;
    let each = named.into_iter().flat_map(|named| match named {
        Named::Run(first, last) => first..=last,
        Named::One(entry) => entry..=entry,
    });
    Ok(each.collect())
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
    requests: &[SourceId],
) -> Result<u64, sqlx::Error> {
    if requests.is_empty() {
        return Ok(0);
    }
    let requests: Vec<String> = requests.iter().map(SourceId::to_string).collect();
    match connection {
        Connection::Sqlite(connection) => sqlite::delete_holds(connection, &requests).await,
        Connection::Postgres(connection) => postgres::delete_holds(connection, &requests).await,
        Connection::Lost => Err(lost()),
    }
}

/// Rewrites a node's row of captures whose answer has not been delivered. False: it was sent with an old fencing token.
pub(super) async fn write_undelivered(
    connection: &mut Connection,
    node: &str,
    entries: &[EntryId],
    fence: i64,
) -> Result<bool, sqlx::Error> {
    let row = undelivered_text(entries)?;
    let written = match connection {
        Connection::Sqlite(connection) => sqlite::write_undelivered(connection, node, row).await?,
        Connection::Postgres(connection) => postgres::write_undelivered(connection, node, row, fence).await?,
        Connection::Lost => return Err(lost()),
    };
    Ok(written == 1)
}

/// The captures that a node, or any node, did not finish delivering: their sources and clients.
pub(super) async fn undelivered(
    connection: &mut Connection,
    node: Option<&str>,
) -> Result<Vec<(Source, Option<ClientId>)>, sqlx::Error> {
    let rows = match node {
        Some(node) => query_scalar("SELECT entries FROM undelivered WHERE node = $1").bind(node),
        None => query_scalar("SELECT entries FROM undelivered"),
    };
    let rows: Vec<String> = rows.fetch_all(&mut *connection).await?;
    let mut captures = Vec::new();
    for entries in rows {
        let ids = undelivered_entries(&entries)?;
        let found = match &mut *connection {
            Connection::Sqlite(connection) => sqlite::captures(connection, &ids).await?,
            Connection::Postgres(connection) => postgres::captures(connection, &ids).await?,
            Connection::Lost => return Err(lost()),
        };
        for row in &found {
            let text: &str = row.try_get(0)?;
            match text.parse::<EntrySource>() {
                Ok(source) => captures.push((source.command().clone(), row.try_get(1)?)),
                // No capture of ours. The others are to be finished all the same.
                Err(_) => tracing::error!("an undelivered entry has a source that cannot be read: {text:?}"),
            }
        }
    }
    Ok(captures)
}

/// Holds that a node, or any node, has not ended: their sources and clients.
pub(super) async fn open_holds(
    connection: &mut Connection,
    node: Option<&str>,
) -> Result<Vec<(Source, ClientId)>, sqlx::Error> {
    let rows = match node {
        Some(node) => query("SELECT request, client FROM holds WHERE node = $1").bind(node),
        None => query("SELECT request, client FROM holds"),
    };
    let rows = rows.fetch_all(connection).await?;
    let mut holds = Vec::new();
    for row in &rows {
        let request: &str = row.try_get(0)?;
        match Source::named(SourceKind::Hold, request) {
            Ok(source) => holds.push((source, row.try_get(1)?)),
            // The others are to be ended all the same; `verify` finds this one.
            Err(_) => tracing::error!("a hold is of a request that cannot be read: {request:?}"),
        }
    }
    Ok(holds)
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
